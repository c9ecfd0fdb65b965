"""Datasets on disk: cases with append-only label revisions, splits, import from other layouts, packed shards.

A dataset is a folder that a person can read; nothing in it is ever overwritten.
Imports: the root, `utils`, `io`, `dicom`, the cards of `models`, h5py; no torch.
"""
