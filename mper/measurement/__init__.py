"""Measurements of a mask: volume, surface and parts of any structure; figures of the left atrium and the ventricles.

Numpy arrays and segmentations in, plain values out, each with its unit, its method and the parameters of that.
Imports: the root, `utils` to write files, numpy, scipy, scikit-image; no torch.
"""
