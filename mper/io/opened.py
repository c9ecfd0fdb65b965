"""A scan that is opened before its voxels are read: how many phases it has, and a way to read each.

DICOM tells its phases in its headers. Files of other formats that hold a time series have phases too. Which phase is
end diastole and which end systole may also stand in a small file next to the scan: ``Info.cfg`` of ACDC (lines
``ED: 1`` and ``ES: 12``), where its folder holds no other time series, or JSON of the scan's name (``scan.json``,
``{"ED": 1, "ES": 12}``).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mper.io import metaimage, nifti, nrrd
from mper.io.scans import SCAN_SUFFIXES
from mper.io.volumes import NIFTI, read_volume
from mper.phases import ED, ES, Phases
from mper.progress import Notify, ignore_notice
from mper.utils.coded import Coded
from mper.utils.files import is_dicom_file
from mper.volume import Geometry, Volume

if TYPE_CHECKING:
    from mper.dicom.series import OpenSeries

_INFO = "Info.cfg"
_LARGEST_SIDECAR = 1 << 20  # bytes
_LINE = re.compile(r"^\s*(\w+)\s*[:=]\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class OpenedScan:
    """A scan whose header is read.

    Parameters
    ----------
    phases : Phases
    read : callable
        Gives the volume of a phase, counted from 1; raises ValueError for damaged voxels.
    series : OpenSeries or None
        Of DICOM, with what a DICOM segmentation has to refer to.
    """

    phases: Phases
    read: Callable[[int], Volume]
    series: OpenSeries | None = None


def open_scan(
    path: Path,
    series_uid: str | None = None,
    notify: Notify = ignore_notice,
    image_type: str | None = None,
) -> OpenedScan:
    """Open a scan.

    Parameters
    ----------
    path : Path
        A file, or the folder of a DICOM series.
    series_uid, image_type : str or None
        Which DICOM series, and which type of its images, where there are several.
    notify : callable
        Called with what is noticed, and again while voxels are read.

    Raises
    ------
    ValueError
        If it is no scan, or not clear which one is meant.
    FileNotFoundError
        If it does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(Coded(f"{path} does not exist", "file-missing", path=str(path)))
    if path.is_dir() or (path.is_file() and not is_volume_file(path) and is_dicom_file(path)):
        from mper.dicom.series import open_series

        return of_series(open_series(path, series_uid, notify, image_type), path, notify)
    if image_type is not None:
        raise ValueError(f"image types are those of a DICOM series; {path} is a single file: leave --image-type out")
    phases = _phases_of_file(path)
    if phases.count == 1:
        return OpenedScan(phases, lambda _: read_volume(path, series_uid, notify))

    @cache
    def read_all() -> tuple[npt.NDArray[np.generic], Geometry]:
        return _read_phases(path, notify)

    def read(phase: int) -> Volume:
        array, geometry = read_all()
        return Volume(array[phase - 1], geometry)

    return OpenedScan(with_sidecar(phases, path, notify, partial(_other_file, path)), read)


def _phases_of_file(path: Path) -> Phases:
    name = path.name.lower()
    if name.endswith(NIFTI):
        return nifti.phases_of(path)
    if name.endswith((".mha", ".mhd")):
        return metaimage.phases_of(path)
    if name.endswith((".nrrd", ".nhdr")):
        return nrrd.NrrdHeader.read(path).phases
    return Phases()  # other files hold one volume, or are refused when they are read


def _read_phases(path: Path, notify: Notify) -> tuple[npt.NDArray[np.generic], Geometry]:
    """The voxels (t, k, j, i) of a file of several volumes, and the grid of each."""
    name = path.name.lower()
    if name.endswith(NIFTI):
        return nifti.read_phases(path, notify)
    if name.endswith((".mha", ".mhd")):
        return metaimage.read_phases(path, notify)
    header = nrrd.NrrdHeader.read(path)
    return header.read_layers(notify), header.geometry


def of_series(series: OpenSeries, path: Path, notify: Notify) -> OpenedScan:
    """A DICOM series as a scan; `path` is the folder that it lies in."""
    files = {frame.header.path for frames in series.frames for frame in frames}
    phases = with_sidecar(series.phases, path, notify, partial(_other_dicom, files))
    return OpenedScan(phases, lambda phase: series.read(phase).volume, series)


def is_volume_file(path: Path) -> bool:
    """Whether a name is that of a file in one of the formats that hold a whole scan."""
    return path.name.lower().endswith(SCAN_SUFFIXES)


def with_sidecar(phases: Phases, path: Path, notify: Notify, other: Callable[[Path], str]) -> Phases:
    """`phases` with the ED and ES of a file next to the scan, where the scan itself does not say them.

    `other` gives the name of another time series in a folder, empty where there is none.
    """
    if phases.count == 1:
        return phases
    for file in _sidecars(path):
        said = _said(file)
        ed, es = (number if (number := said.get(name)) and number <= phases.count else None for name in (ED, ES))
        if len(said) > (ed is not None) + (es is not None):
            notify(f"{file.name} says that ED and ES are other phases than the {phases.count} of the scan; not used")
            continue
        found = replace(phases, end_diastole=phases.end_diastole or ed, end_systole=phases.end_systole or es)
        if found == phases:
            return phases
        if file.name == _INFO and (second := other(file.parent)):
            line = (
                f"{file.name} is not used: its folder holds another time series, {second}, and it does not say whose "
            )
            line += f"ED and ES it holds; put each time series into a folder of its own, or write {_stem(path)}.json"
            notify(Coded(line, "phases-of-several", file=file.name, other=second))
            continue
        numbers = ", ".join(f"{name} {number}" for name, number in said.items())
        notify(
            Coded(f"ED and ES are those of {file.name}: {numbers}", "phases-by-file", file=file.name, phases=numbers)
        )
        return found
    return phases


def _sidecars(path: Path) -> list[Path]:
    folder = path if path.is_dir() else path.parent
    stem = _stem(path)
    candidates = (*([path.with_name(f"{stem}.json")] if stem else []), folder / _INFO)  # "." has no name
    return [file for file in candidates if file.is_file() and file.stat().st_size < _LARGEST_SIDECAR and _said(file)]


def _stem(path: Path) -> str:
    ending = next((end for end in sorted(SCAN_SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(end)), "")
    return path.name[: len(path.name) - len(ending)]


def _other_file(scan: Path, folder: Path) -> str:
    """The name of another file of a time series in the folder of a file; the same name with another ending is none."""
    for file in sorted(folder.iterdir()):
        if is_volume_file(file) and _stem(file) != _stem(scan):
            with contextlib.suppress(ValueError, OSError):  # what cannot be read is no other scan
                if _phases_of_file(file).count > 1:
                    return file.name
    return ""


def _other_dicom(scan: Set[Path], folder: Path) -> str:
    """The description of another time series of DICOM in a folder."""
    from mper.dicom.discovery import discover
    from mper.dicom.series import open_files

    for series in discover(folder).scans:
        if scan.isdisjoint(series.info.paths):
            with contextlib.suppress(ValueError, OSError):
                if open_files(series.info.paths).phases.count > 1:
                    return series.info.describe()
    return ""


def _said(file: Path) -> dict[str, int]:
    """The numbers of ED and ES in a file, as far as it has them."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        stored = json.loads(text) if file.suffix == ".json" else dict(_LINE.findall(text))
    except (OSError, ValueError):
        return {}
    return {
        str(name).upper(): int(str(number))
        for name, number in (stored.items() if isinstance(stored, dict) else ())
        if str(name).upper() in (ED, ES) and str(number).isdecimal() and int(str(number)) > 0
    }
