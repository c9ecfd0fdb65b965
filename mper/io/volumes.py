"""Reading and writing volumes and masks; the ending of the name decides the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mper.io import metaimage, nifti, nrrd, segmentation
from mper.io.hdf5 import read_h5
from mper.io.labelmap import whole_numbers
from mper.io.scans import SCAN_SUFFIXES
from mper.labels import Segmentation
from mper.progress import Notify, ignore_notice
from mper.utils.coded import Coded
from mper.utils.files import is_dicom_file
from mper.volume import Volume

_WRITTEN = ".nrrd, .nii, .nii.gz or .mha"
NIFTI = (".nii", ".nii.gz", ".hdr", ".img")


def check_kind(path: Path) -> None:
    """Refuse, with ValueError, a file that is of no kind which mper reads."""
    if path.is_file() and not path.name.lower().endswith(SCAN_SUFFIXES) and not is_dicom_file(path):
        raise ValueError(
            Coded(
                f"{path} is neither DICOM nor one of {', '.join(SCAN_SUFFIXES)}",
                "no-scan-file",
                path=str(path),
                kinds=", ".join(SCAN_SUFFIXES),
            )
        )


def read_volume(path: Path, series_uid: str | None = None, notify: Notify = ignore_notice) -> Volume:
    """Read an image in its own real type.

    Parameters
    ----------
    path : Path
        A file, or the folder of a DICOM series.
    series_uid : str or None
        Which DICOM series, where there are several.
    notify : callable
        Receives what was noticed, a line each: header fields that contradict each other, bytes that were ignored,
        DICOM duplicates that were dropped.

    Raises
    ------
    ValueError
        If it is not one whole volume of real numbers on an orthogonal grid.
    FileNotFoundError
        If it does not exist.
    ModuleNotFoundError
        If the format needs a package that is not installed.
    """
    path = Path(path)
    name = path.name.lower()
    check_kind(path)
    if path.is_dir() or (path.is_file() and not name.endswith(SCAN_SUFFIXES)):
        from mper.dicom.series import read_series

        return read_series(path, series_uid, notify).volume
    if name.endswith(NIFTI):
        return nifti.read(path, notify)
    if name.endswith((".mha", ".mhd")):
        return metaimage.read(path, notify)
    if name.endswith(".h5"):
        volumes = read_h5(path)
        if "image" not in volumes:
            raise ValueError(f"{path} holds {', '.join(volumes)} and no dataset 'image'")
        return volumes["image"]
    return nrrd.NrrdHeader.read(path).read_volume(notify)


def read_labelmap(path: Path, notify: Notify = ignore_notice) -> Volume:
    """Read a mask as uint8: 0 background, 255 unlabelled.

    Any file of whole numbers in 0..255 is a mask; values that are almost whole are rounded. Of an h5 file it
    is the dataset ``label``, of a ``.seg.nrrd`` its segments, with the values that `read_segmentation` gives them.

    Parameters
    ----------
    notify : callable
        As in `read_volume`; also of rounded values, and of voxels that no segment names.

    Raises
    ------
    ValueError
        If a value is not a whole number in 0..255, or segments overlap.
    FileNotFoundError
        If it does not exist.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".h5"):
        volumes = read_h5(path)
        if "label" not in volumes:
            raise ValueError(f"{path} holds {', '.join(volumes)} and no dataset 'label'")
        volume = volumes["label"]
    elif name.endswith((".nrrd", ".nhdr")):
        header = nrrd.NrrdHeader.read(path)
        if segmentation.holds_segments(header.metadata):
            return segmentation.read_segments(header, notify).labelmap
        volume = header.read_volume(notify)
    else:
        volume = read_volume(path, notify=notify)
    array = whole_numbers(volume.array, str(path), notify)
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise ValueError(
            Coded(
                f"{path} is not a mask: it holds values from {low:g} to {high:g}, "
                "a mask has 0 to 254 and 255 for unlabelled",
                "not-a-mask",
                path=str(path),
                low=f"{low:g}",
                high=f"{high:g}",
            )
        )
    return volume.with_array(array.astype(np.uint8, copy=False))


def read_segmentation(path: Path, notify: Notify = ignore_notice) -> Segmentation:
    """Read a ``.seg.nrrd`` file: mask, names, colours and codes.

    Parameters
    ----------
    notify : callable
        As in `read_labelmap`.

    Raises
    ------
    ValueError
        If it has no segments, or they overlap in voxels.
    FileNotFoundError
        If it does not exist.
    """
    path = Path(path)
    header = nrrd.NrrdHeader.read(path)
    if not segmentation.holds_segments(header.metadata):
        raise ValueError(
            f"{path} is a plain mask without names; a segmentation as Slicer writes it (.seg.nrrd) was expected"
        )
    return segmentation.read_segments(header, notify)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as NRRD, NIfTI or MetaImage, by the ending of `path`: whole, or not at all.

    Raises
    ------
    ValueError
        If the ending or the voxels' type cannot be written.
    OSError
        If the folder is missing, not writable, or the disk full.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".seg.nrrd"):
        raise ValueError(
            f"{path} would be a segmentation, which has names; write it as a segmentation, or as {_WRITTEN}"
        )
    if name.endswith(".nrrd"):
        nrrd.write(path, volume)
    elif name.endswith((".nii", ".nii.gz")):
        nifti.write(path, volume)
    elif name.endswith(".mha"):
        metaimage.write(path, volume)
    else:
        raise ValueError(f"cannot write {path}: its name must end in {_WRITTEN}")


def write_segmentation(path: Path, mask: Segmentation) -> None:
    """Write a mask: ``.seg.nrrd`` with its names, colours and codes, any other format as plain numbers.

    Raises
    ------
    ValueError
        If the ending cannot be written.
    OSError
        If the folder is missing, not writable, or the disk full.
    """
    path = Path(path)
    if path.name.lower().endswith(".seg.nrrd"):
        segmentation.write(path, mask)
    else:
        write_volume(path, mask.labelmap)
