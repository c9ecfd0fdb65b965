"""DICOM: series as volumes, masks as DICOM segmentations, and the web services of archives.

`series` reads, `seg_write` writes and checks, `seg_read` reads segmentations back, `dicomweb` speaks with archives.
Imports: the root, `utils`, pydicom, highdicom; never `io`, which calls it for folders of DICOM.
"""
