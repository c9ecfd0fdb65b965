"""DICOM series as volumes: classic (one image a file) and multi-frame (enhanced MR and CT), in one way.

Each image is a frame with a position, an orientation and a spacing, wherever the file keeps them. Frames are sorted by
position along the normal of their plane (never by file name or InstanceNumber), checked to form one regular stack,
and only then decoded: what is not one orthogonal, evenly spaced volume is refused with the reason, never repaired.

Masks become DICOM segmentations of their series in `mper.dicom.seg_write`, which reads them back and compares
(`mper.dicom.seg_check`), and are read in `mper.dicom.seg_read`; `mper.dicom.dicomweb` speaks with archives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from mper.dicom.discovery import SeriesInfo, discover, select_series
from mper.dicom.frames import Frame, frames_of
from mper.dicom.headers import Header, no_warnings, read_header
from mper.dicom.phases import select_type, split_phases, types_of
from mper.dicom.pixels import real_values
from mper.dicom.stack import check_alike, stack_geometry, without_localisers
from mper.phases import Phases
from mper.progress import Notify, ignore_notice
from mper.utils.coded import Coded, changed, line_of
from mper.utils.text import first_line
from mper.volume import Geometry, Volume

__all__ = [
    "DicomSeries",
    "OpenSeries",
    "SeriesInfo",
    "image_types",
    "list_series",
    "open_files",
    "open_series",
    "read_series",
]


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A series as a volume, with what is needed to refer to its images.

    Parameters
    ----------
    volume : Volume
        Values after rescaling (RescaleSlope, RescaleIntercept); slices in ascending order along the planes' normal.
    instances : tuple of pydicom datasets
        Without pixel data, in the order of their first slice; each instance once.
    paths : tuple of Path
        Where each instance was read.
    frames : tuple of (int, int)
        For each slice k the index of its instance and its frame in there, both from 0.
    positions_mm : (k, 3) float array
        For each slice the LPS position of its first voxel as its file states it; scanners round it, so that it may be
        off the even steps of the volume's geometry.
    """

    volume: Volume
    instances: tuple[Dataset, ...]
    paths: tuple[Path, ...]
    frames: tuple[tuple[int, int], ...]
    positions_mm: npt.NDArray[np.float64]


def list_series(folder: Path, notify: Notify = ignore_notice) -> list[SeriesInfo]:
    """The series of images in `folder`, in the order of their numbers.

    Where the folder itself holds no scan, or a DICOMDIR, the folders below are searched too.
    Files that are not DICOM images are passed over.

    Parameters
    ----------
    folder : Path
    notify : callable
        Called for damaged files that are of no scan in the list.

    Raises
    ------
    ValueError
        If there is none.
    """
    with no_warnings():
        found = discover(Path(folder))
    no_scans = [header for one in found.series if one.info.no_scan for header in one.headers if header.damage]
    for header in (*found.damaged, *no_scans):
        notify(f"left out a damaged file: {header.damage}")
    return [one.info for one in found.series]


@dataclass(frozen=True, eq=False)
class OpenSeries:
    """A series whose headers are read and checked, and whose voxels are not read yet.

    Parameters
    ----------
    path : Path
        For messages.
    phases : Phases
    frames : tuple of tuples of Frame
        The images of each phase, in the order of its slices.
    geometries : tuple of Geometry
        The grid of each phase.
    notify : callable
        Called with what is noticed while voxels are read.
    """

    path: Path
    phases: Phases
    frames: tuple[tuple[Frame, ...], ...]
    geometries: tuple[Geometry, ...]
    notify: Notify

    def read(self, phase: int = 1) -> DicomSeries:
        """One phase, counted from 1.

        Raises
        ------
        ValueError
            If pixels are damaged or cannot be decoded.
        """
        frames = self.frames[phase - 1]
        with no_warnings(), _named(self.path):
            volume = Volume(real_values(frames, self.notify), self.geometries[phase - 1])
        used = list(dict.fromkeys(frame.header for frame in frames))
        return DicomSeries(
            volume=volume,
            instances=tuple(header.dataset for header in used),
            paths=tuple(header.path for header in used),
            frames=tuple((used.index(frame.header), frame.number) for frame in frames),
            positions_mm=np.array([frame.position for frame in frames]),
        )


def open_series(
    folder_or_file: Path,
    series_uid: str | None = None,
    notify: Notify = ignore_notice,
    image_type: str | None = None,
) -> OpenSeries:
    """Read the headers of one series, and check that its images are one volume or phases of one.

    Parameters
    ----------
    folder_or_file : Path
        A folder (files in any order, of any name) or one file: that file's images alone.
    series_uid : str or None
        Which series, where the folder holds several scans.
    notify : callable
        Called with what is left out: other series that are no scans (localisers, screen shots), damaged files of
        other series, identical duplicates, localisers within the series.
    image_type : str or None
        Which images, where the series holds several types: words of their ImageType, as in ``M`` or ``WATER``.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If there is no DICOM image, there are several scans or image types, or the images do not form regular stacks:
        missing or unevenly spaced slices, several images at one position that are no phases, several orientations or
        frames of reference, a tilted gantry, colours, no position, no spacing, damaged headers.
    """
    path = Path(folder_or_file)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with no_warnings():
        found = discover(path)
        chosen = select_series(found, series_uid, notify)
        with _named(path, "".join(f"; {header.damage}" for header in found.damaged[:1])):
            return _opened(path, chosen.headers, notify, image_type)


def open_files(files: Sequence[Path], notify: Notify = ignore_notice, image_type: str | None = None) -> OpenSeries:
    """As `open_series`, of files that are known to be one series (`SeriesInfo.paths`)."""
    path = files[0].parent
    with no_warnings(), _named(path):
        headers = [header for file in files if (header := read_header(file)) is not None]
        for header in headers:
            if header.damage:
                raise ValueError(header.damage)
        return _opened(path, headers, notify, image_type)


def image_types(files: Sequence[Path]) -> dict[str, int]:
    """The image types of one series, as `open_files` takes them, and how many images each has; empty where it has one.

    Raises
    ------
    ValueError
        As `open_files`.
    """
    with no_warnings(), _named(files[0].parent):
        frames, normal = _sorted_frames([header for file in files if (header := read_header(file))], ignore_notice)
        types = types_of(frames, normal)
    return {one.name: len(one.frames) for one in types} if len(types) > 1 else {}


def read_series(
    folder_or_file: Path, series_uid: str | None = None, notify: Notify = ignore_notice, phase: int | None = None
) -> DicomSeries:
    """Read one series as a volume; of a time series the phase with that number, from 1.

    The arguments are those of `open_series`, which also says what is refused; of a time series a phase has to be named.
    """
    opened = open_series(folder_or_file, series_uid, notify)
    (number,) = opened.phases.chosen(None if phase is None else str(phase))
    return opened.read(number)


def _opened(path: Path, headers: Sequence[Header], notify: Notify, image_type: str | None) -> OpenSeries:
    frames, normal = _sorted_frames(headers, notify)
    phases, stacks = split_phases(select_type(frames, normal, image_type), normal, notify)
    geometries = tuple(stack_geometry(stack, normal) for stack in stacks)
    return OpenSeries(path, phases, tuple(tuple(stack) for stack in stacks), geometries, notify)


def _sorted_frames(headers: Sequence[Header], notify: Notify) -> tuple[list[Frame], npt.NDArray[np.float64]]:
    """The images of a series along the normal of their plane, and the normal."""
    frames = without_localisers([frame for header in headers for frame in frames_of(header)], notify)
    check_alike(frames)
    normal = np.cross(*frames[0].orientation)
    return sorted(frames, key=lambda frame: float(frame.position @ normal)), normal


@contextmanager
def _named(path: Path, addition: str = "") -> Iterator[None]:
    """Say in errors which series could not be read."""
    try:
        yield
    except ValueError as error:
        reason = changed(line_of(error) or first_line(error), lambda text: (text.splitlines() or [""])[0])
        line = f"cannot read the series in {path}: {reason}{addition}"
        raise ValueError(Coded(line, "series-unreadable", path=str(path), reason=reason)) from error
