"""DICOM series as volumes: classic (one image a file) and multi-frame (enhanced MR and CT), in one way.

Each image is a frame with a position, an orientation and a spacing, wherever the file keeps them. Frames are sorted by
position along the normal of their plane (never by file name or InstanceNumber), checked to form one regular stack,
and only then decoded: what is not one orthogonal, evenly spaced volume is refused with the reason, never repaired.

Masks become DICOM segmentations of their series in `mper.dicom.seg_write`, which reads them back and compares
(`mper.dicom.seg_check`), and are read in `mper.dicom.seg_read`; `mper.dicom.dicomweb` speaks with archives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from mper.dicom.discovery import SeriesInfo, discover, select_series
from mper.dicom.frames import frames_of
from mper.dicom.headers import Header, first_line, no_warnings
from mper.dicom.pixels import real_values
from mper.dicom.stack import check_alike, stack_geometry, without_duplicates, without_localisers
from mper.progress import Notify, ignore_notice
from mper.volume import Volume

__all__ = ["DicomSeries", "SeriesInfo", "list_series", "read_series"]


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
        For each slice the LPS position of its first voxel as its file tells it; scanners round it, so that it may lie
        beside the even steps of the volume's geometry.
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
        Called for damaged files that are of no series in the list.

    Raises
    ------
    ValueError
        If there is none.
    """
    with no_warnings():
        found = discover(Path(folder))
    for header in found.damaged:
        notify(f"left out a damaged file: {header.damage}")
    return [one.info for one in found.series]


def read_series(folder_or_file: Path, series_uid: str | None = None, notify: Notify = ignore_notice) -> DicomSeries:
    """Read one series as a volume.

    Parameters
    ----------
    folder_or_file : Path
        A folder (files in any order, of any name) or one file: that file's images alone.
    series_uid : str or None
        Which series, where the folder holds several scans.
    notify : callable
        Called with what was left out: other series that are no scans (localisers, screen shots), damaged files of
        other series, identical duplicates, localisers within the series.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If there is no DICOM image, there are several scans, or the images do not form one regular stack: missing or
        unevenly spaced slices, several images at one position, several orientations or frames of reference, a tilted
        gantry, colours, no position, no spacing, damaged or not decodable pixels.
    """
    path = Path(folder_or_file)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with no_warnings():
        found = discover(path)
        chosen = select_series(found, series_uid, notify)
        try:
            return _assemble(chosen.headers, notify)
        except ValueError as error:
            left_out = "".join(f"; {header.damage}" for header in found.damaged[:1])
            raise ValueError(f"cannot read the series in {path}: {first_line(error)}{left_out}") from error


def _assemble(headers: Sequence[Header], notify: Notify) -> DicomSeries:
    frames = without_localisers([frame for header in headers for frame in frames_of(header)], notify)
    check_alike(frames)
    normal = np.cross(*frames[0].orientation)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    frames = without_duplicates(frames, normal, notify)
    geometry = stack_geometry(frames, normal)
    volume = Volume(real_values(frames, notify), geometry)
    used = list(dict.fromkeys(frame.header for frame in frames))
    return DicomSeries(
        volume=volume,
        instances=tuple(header.dataset for header in used),
        paths=tuple(header.path for header in used),
        frames=tuple((used.index(frame.header), frame.number) for frame in frames),
        positions_mm=np.array([frame.position for frame in frames]),
    )
