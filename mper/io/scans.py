"""Which inputs are scans, and whether a scan can be segmented."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from mper.progress import Notify, ignore_notice
from mper.utils.coded import Coded
from mper.utils.errors import explain
from mper.utils.files import is_dicom_file
from mper.volume import Geometry, Spacing, Volume

SCAN_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr", ".img", ".h5")
SpacingChoice: TypeAlias = Spacing | Literal["keep"] | None
_LARGEST = np.finfo(np.float32).max  # beyond it 64 bits hold what 32 bits, in which models compute, take for infinite
_MAX_VOXELS = 2048  # along one axis; larger stacks are several series or a time series
# No scanner is as wide; along the patient a scan may be longer than along the other two axes.
_MAX_WIDTH_MM, _MAX_LENGTH_MM, _MAX_SPACING_MM = 1000, 2500, 50


def check_scan(volume: Volume) -> None:
    """Refuse what cannot be segmented.

    Raises
    ------
    ValueError
        If the volume has one slice, more than 2048 voxels along an axis, values that are not finite in 32 bits, or one
        value.
    """
    shape = volume.array.shape
    if min(shape) < 2:
        line = f"the scan is a single slice ({volume.geometry.describe()}); at least two are needed: "
        raise ValueError(Coded(f"{line}give the folder of the series, or a file of the whole volume", "single-slice"))
    if max(shape) > _MAX_VOXELS:
        axis = int(np.argmax(shape))
        line = f"the scan has {shape[axis]} voxels along axis {'kji'[axis]}, more than {_MAX_VOXELS}; "
        line += "it is probably several series or a time series: give one volume"
        raise ValueError(Coded(line, "too-long-axis", n=shape[axis], axis="kji"[axis], most=_MAX_VOXELS))
    low, high = volume.array.min(), volume.array.max()
    if volume.array.dtype.kind == "f" and not (low >= -_LARGEST and high <= _LARGEST):  # of NaN: not
        with np.errstate(over="ignore"):
            bad = int(volume.array.size - np.count_nonzero(np.isfinite(volume.array.astype(np.float32))))
        line = f"the scan holds {bad} of {volume.array.size} voxels that are NaN or infinite; replace them first"
        raise ValueError(Coded(line, "not-finite", n=bad, total=volume.array.size))
    if low == high:
        raise ValueError(Coded(f"the scan is empty: every voxel is {low}", "empty-scan", value=f"{low}"))


def check_extent(geometry: Geometry) -> None:
    """Refuse a field of view that no patient and no scanner has: spacing in another unit, most of the time.

    Raises
    ------
    ValueError
        If the second longest side is above 1 m, the longest above 2.5 m, or voxels are more than 50 mm apart.
    """
    if geometry.extent_mm is None or geometry.spacing_mm is None:
        return
    _, width, length = sorted(geometry.extent_mm)
    if width > _MAX_WIDTH_MM or length > _MAX_LENGTH_MM or max(geometry.spacing_mm) > _MAX_SPACING_MM:
        extent, voxel = (
            "x".join(f"{mm:.4g}" if mm < 1000 else f"{mm:.0f}" for mm in sizes)
            for sizes in (geometry.extent_mm, geometry.spacing_mm)
        )
        line = (
            f"the scan would be {extent} mm large, with voxels of {voxel} mm (k, j, i), and no patient is: its header "
            "states a wrong spacing, in another unit perhaps. Correct the file, or give the spacing in mm on the "
            "command line, with --spacing K,J,I (--spacing keep takes it as it is)"
        )
        raise ValueError(Coded(line, "impossible-size", extent=extent, voxel=voxel))


def with_spacing(volume: Volume, spacing_mm: SpacingChoice, notify: Notify = ignore_notice) -> Volume:
    """The scan with the given spacing, or with that of its file if a patient can be as large.

    Parameters
    ----------
    spacing_mm : (float, float, float), "keep" or None
        Along (k, j, i), in place of the file's; "keep": the file's, however large the scan is; None: the file's, if
        `check_extent` accepts it.
    notify : callable
        Receives what a spacing other than the file's means for the mask.

    Raises
    ------
    ValueError
        If no patient is as large.
    """
    if spacing_mm == "keep":
        return volume
    if spacing_mm is None:
        check_extent(volume.geometry)
        return volume
    before = volume.geometry
    geometry = Geometry.from_axes(before.origin_mm, spacing_mm, before.directions, before.shape)
    check_extent(geometry)
    if before.spacing_known and not np.allclose(before.step_lengths, spacing_mm, rtol=1e-3):
        given, stated = ("x".join(f"{step:.4g}" for step in steps) for steps in (spacing_mm, before.step_lengths))
        notify(
            f"the spacing is {given} mm (k, j, i) as given, and not {stated} mm as the file states; the mask overlays "
            "the scan once the scan's file is corrected in the same way"
        )
    return replace(volume, geometry=geometry)


def holds_dicom(folder: Path) -> bool:
    """Whether a file right in `folder` is DICOM, other than the index of a CD; one that cannot be read is not.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return any(_is_readable_dicom(path) for path in files if not path.name.upper().startswith("DICOMDIR"))


def _is_readable_dicom(path: Path) -> bool:
    try:
        return is_dicom_file(path)
    except OSError:
        return False


def find_scans(paths: Sequence[Path], notify: Notify = ignore_notice) -> list[Path]:
    """The scans that inputs stand for, each a file or a folder of one DICOM series.

    A glob is expanded (Windows shells do not). A folder that holds DICOM is one scan; any other folder stands for
    the scan files in it (masks as ``.seg.nrrd`` are left out) and the folders of DICOM below it, but for hidden ones.
    What is named twice is returned once, in the order of its first mention.

    Parameters
    ----------
    paths : sequence of Path
    notify : callable
        Receives a line for each folder below an input that cannot be read, and is left out.

    Raises
    ------
    FileNotFoundError
        If an input does not exist, a glob matches nothing or a folder holds no scan.
    OSError
        If an input cannot be read.
    """
    found: dict[Path, None] = {}
    for match in expand_inputs(paths):
        scans = [match] if match.is_file() or holds_dicom(match) else _cohort(match, notify)
        found |= dict.fromkeys(_header_of(scan) for scan in scans)
    return list(found)


def expand_inputs(paths: Sequence[Path]) -> list[Path]:
    """Files and folders as they are named, and what patterns stand for.

    Raises
    ------
    FileNotFoundError
        If one does not exist, or nothing matches a pattern.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.exists():
            found[path] = None
        elif glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (takes absolute ones)
            if not matches:
                raise FileNotFoundError(f"nothing matches {path}")
            found |= dict.fromkeys(map(Path, matches))
        else:
            raise FileNotFoundError(Coded(f"{path} does not exist", "file-missing", path=str(path)))
    return list(found)


def _cohort(folder: Path, notify: Notify) -> list[Path]:
    scans = [path for path in folder.iterdir() if is_scan_file(path)]
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            scans += [path] if holds_dicom(path) else []
        except OSError as error:  # of the system's own, such as lost+found, or of another person
            notify(f"left out {explain(error)}")
    if not scans:
        raise FileNotFoundError(
            Coded(
                f"{folder} holds no scan; expected DICOM or files ending in {', '.join(SCAN_SUFFIXES)}",
                "no-scan-in-folder",
                path=str(folder),
            )
        )
    return sorted(scans)


def is_scan_file(path: Path) -> bool:
    """Whether a file among others is a scan by its name: no mask of Slicer, and of a pair the .hdr next to an .img."""
    name = path.name.lower()
    if name.endswith(".img") or not name.endswith(SCAN_SUFFIXES) or name.endswith(".seg.nrrd") or name.startswith("."):
        return False
    return path.is_file() and (not name.endswith(".hdr") or any(voxels.is_file() for voxels in _partners(path)))


def _header_of(scan: Path) -> Path:
    """The .hdr file of a pair of which the .img file is named; else the scan."""
    if scan.suffix.lower() != ".img":
        return scan
    return next((header for header in _partners(scan) if header.is_file()), scan)


def _partners(path: Path) -> list[Path]:
    ending = ".img" if path.suffix.lower() == ".hdr" else ".hdr"
    return [path.with_suffix(ending), path.with_suffix(ending.upper())]
