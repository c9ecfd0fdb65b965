"""Measurements of a mask: volume, surface, parts.

Numpy arrays and segmentations in, plain values out, each with its unit.
Imports: the root, numpy, scipy, scikit-image; no torch.
"""
