"""Scans and masks, from files and to files; the ending of the name decides the format.

====================  =====  ======  ===========================================================================
ending                reads  writes  unknown spacing
====================  =====  ======  ===========================================================================
.nrrd                 yes    yes     kept
.seg.nrrd             yes    yes     kept (Slicer's segmentation: names, colours, codes)
.nii, .nii.gz         yes    yes     kept (other programs take it for 1 mm)
.mha                  yes    yes     kept (other programs take it for 1 mm)
.nhdr, .mhd           yes    no
.hdr with .img        yes    no      (NIfTI pairs and Analyze 7.5)
.h5                   yes    no      always unknown
DICOM file or folder  yes    no
====================  =====  ======  ===========================================================================

Everything is converted on entry to arrays (k, j, i) and LPS mm; a grid lies where ITK, and so 3D Slicer, puts it.
Errors are one line: what came, what was expected, what to do.
Imports: the root, `utils`, `dicom` for folders of DICOM, h5py, SimpleITK for grids.
"""

from __future__ import annotations

from mper.io.hdf5 import read_h5
from mper.io.scans import SCAN_SUFFIXES, SpacingChoice, check_extent, check_scan, find_scans, is_scan_file, with_spacing
from mper.io.volumes import read_labelmap, read_segmentation, read_volume, write_segmentation, write_volume

__all__ = [
    "SCAN_SUFFIXES",
    "SpacingChoice",
    "check_extent",
    "check_scan",
    "find_scans",
    "is_scan_file",
    "read_h5",
    "read_labelmap",
    "read_segmentation",
    "read_volume",
    "with_spacing",
    "write_segmentation",
    "write_volume",
]
