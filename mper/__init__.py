"""Annotation-efficient segmentation with multi-prototype embedding refinement (MPER)."""

__version__ = "0.1.0"
