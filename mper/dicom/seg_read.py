"""DICOM segmentations as masks on the grid of the series that they belong to.

Takes what other programs write too: frames in any order, empty ones left out, grids cropped or flipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from mper.dicom.frames import Frame, frames_of
from mper.dicom.grid_match import GridMatch, match_grid
from mper.dicom.headers import Header, no_warnings
from mper.dicom.pixels import decode
from mper.labels import Code, Label, Segmentation
from mper.progress import Notify, ignore_notice
from mper.provenance import NAME_TAG, QUALITY_TAG, TYPE_TAG, Provenance, is_quality
from mper.utils.files import check_file, is_dicom_file
from mper.utils.text import first_line

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries

_LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
_SAME_POSITION_MM = 1e-2
_LAST = 254  # of the values of a label array


@dataclass(frozen=True)
class Algorithm:
    """What a segment says of its algorithm beyond a `Provenance`: the texts as they are in the file."""

    type: str
    name: str
    version: str
    parameters: str
    description: str = ""


def open_seg(path: Path) -> Dataset:
    """The header of a DICOM segmentation.

    Raises
    ------
    ValueError
        If the file is something else, or damaged.
    FileNotFoundError
        If it does not exist.
    """
    check_file(path)
    if not is_dicom_file(path):
        raise ValueError(f"{path} is not a DICOM file; a DICOM segmentation (SEG) was expected")
    try:
        with no_warnings():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            sop_class, kind = str(dataset.get("SOPClassUID") or ""), dataset.get("Modality")
            whole = bool(dataset.get("SegmentSequence")) and "Rows" in dataset and "Columns" in dataset
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise ValueError(
            f"{path} is truncated or damaged: its DICOM header cannot be read ({first_line(error)})"
        ) from error
    if sop_class not in (SegmentationStorage, _LABELMAP):
        modality = f" (modality {kind!r})" if kind else ""
        raise ValueError(f"{path} is a DICOM file{modality} but no segmentation; a SEG was expected")
    if not whole:
        raise ValueError(f"{path} is truncated: its header ends early")
    return dataset


def read_seg(path: Path, series: DicomSeries, notify: Notify = ignore_notice) -> Segmentation:
    """Read a DICOM-SEG onto the grid of its source series.

    Parameters
    ----------
    path : Path
    series : DicomSeries
        The segmentation must be of its study and frame of reference, and on its grid (it may be cropped or flipped).
    notify : callable
        Called where it names another series as its source, and where two segments share a name.

    Returns
    -------
    Segmentation
        Values are the segments' numbers (numbered anew where those exceed 254).

    Raises
    ------
    ValueError
        If the file is no segmentation, damaged, of fractions, of another study, frame of reference or grid, or its
        segments overlap.
    FileNotFoundError
        If it does not exist.
    """
    path = Path(path)
    dataset = open_seg(path)
    try:
        with no_warnings():
            _check_source(dataset, series, path, notify)
            return _read(Header(path, dataset), series, notify)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is truncated or damaged: it cannot be read ({first_line(error)})") from error


def algorithms(dataset: Dataset) -> dict[int, Algorithm]:
    """What the segments of an open file say of their algorithms, by segment number."""
    found = {}
    for segment in dataset.SegmentSequence:
        identification = (segment.get("SegmentationAlgorithmIdentificationSequence") or [Dataset()])[0]
        found[int(segment.SegmentNumber)] = Algorithm(
            type=str(segment.get("SegmentAlgorithmType") or ""),
            name=str(segment.get("SegmentAlgorithmName") or ""),
            version=str(identification.get("AlgorithmVersion") or ""),
            parameters=str(identification.get("AlgorithmParameters") or ""),
            description=str(segment.get("SegmentDescription") or ""),
        )
    return found


def _check_source(dataset: Dataset, series: DicomSeries, path: Path, notify: Notify) -> None:
    source = series.instances[0]
    for keyword, what in (("StudyInstanceUID", "study"), ("FrameOfReferenceUID", "frame of reference")):
        if str(dataset.get(keyword) or "") != str(source.get(keyword) or ""):
            raise ValueError(f"{path} belongs to another {what} than the source series; give the series it was made on")
    named = {str(item.get("SeriesInstanceUID")) for item in dataset.get("ReferencedSeriesSequence") or []}
    if named and str(source.SeriesInstanceUID) not in named:
        notify("the segmentation names another series of the study as its source; the grids agree")


def _read(header: Header, series: DicomSeries, notify: Notify) -> Segmentation:
    dataset = header.dataset
    # Label maps describe their background too, as segment 0.
    segments = {int(segment.SegmentNumber): segment for segment in dataset.SegmentSequence if segment.SegmentNumber}
    values = _values(sorted(segments))
    names = _names(segments, notify)
    array = _voxels(header, series, values, names)
    labels = tuple(_label(values[number], names[number], segment) for number, segment in segments.items())
    made = {number: _provenance(algorithm) for number, algorithm in algorithms(dataset).items()}
    provenance = {values[number]: one for number, one in made.items() if one is not None and number in values}
    return Segmentation(series.volume.with_array(array), labels, provenance)


def _voxels(
    header: Header, series: DicomSeries, values: Mapping[int, int], names: Mapping[int, str]
) -> npt.NDArray[np.uint8]:
    """The label array of all frames, on the grid of the series."""
    geometry = series.volume.geometry
    array = np.zeros(geometry.shape, np.uint8)
    frames = frames_of(header)
    for frame, stored in zip(frames, decode(frames), strict=True):
        match: GridMatch | None = None
        for number, inside in _segments_of(frame, stored, header):
            if number not in values:
                raise ValueError(
                    f"{header.path} is damaged: a frame is of segment {number}, which it does not describe"
                )
            if not inside.any():
                continue
            match = match or _match(frame, series)
            if match is None:
                raise ValueError(
                    f"{header.path} lies on another grid than the source series ({geometry.describe()}); "
                    "give the series it was made on"
                )
            try:
                where = match.indices(inside, geometry.shape)
            except ValueError as error:
                raise ValueError(f"{header.path}: {error}") from error
            taken = array[where]
            if (other := taken[taken > 0]).size:
                owner = next(n for n, value in values.items() if value == other[0])
                raise ValueError(
                    f"{header.path}: the segments {names[owner]!r} and {names[number]!r} overlap, which one mask "
                    "cannot hold; remove the overlap in a program that shows segments"
                )
            array[where] = values[number]
    return array


def _values(numbers: Sequence[int]) -> dict[int, int]:
    """The value of each segment in the label array."""
    if len(numbers) > _LAST:
        raise ValueError(f"it holds {len(numbers)} segments, a mask holds at most {_LAST}")
    if all(0 < number <= _LAST for number in numbers):
        return {number: number for number in numbers}
    return {number: value for value, number in enumerate(numbers, 1)}


def _names(segments: Mapping[int, Dataset], notify: Notify) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, segment in segments.items():
        label = str(segment.get("SegmentLabel") or "").strip() or f"Segment {number}"
        name = label if label not in names.values() else f"{label} ({number})"
        if name != label:
            notify(f"two segments are named {label!r}; one is named {name!r} here")
        names[number] = name
    return names


def _segments_of(
    frame: Frame, stored: npt.NDArray[np.generic], header: Header
) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """Which segments a frame holds, and where in it they are."""
    dataset, path = header.dataset, header.path
    if str(dataset.SOPClassUID) == _LABELMAP:
        return [(int(number), stored == number) for number in np.unique(stored) if number]
    groups = [
        *dataset.PerFrameFunctionalGroupsSequence[frame.number : frame.number + 1],
        *(dataset.get("SharedFunctionalGroupsSequence") or []),
    ]
    segments = [
        group.SegmentIdentificationSequence[0] for group in groups if group.get("SegmentIdentificationSequence")
    ]
    if not segments:
        raise ValueError(f"{path} is damaged: frame {frame.number + 1} does not tell its segment")
    if dataset.get("SegmentationType") == "FRACTIONAL":
        whole = int(dataset.get("MaximumFractionalValue") or 0)
        if not np.isin(stored, (0, whole)).all():
            raise ValueError(f"{path} holds fractions (probabilities), no mask; a BINARY segmentation was expected")
    return [(int(segments[0].ReferencedSegmentNumber), stored != 0)]


def _match(frame: Frame, series: DicomSeries) -> GridMatch | None:
    """Where a frame's pixels lie in the series: in the slice of exactly its position, else by the regular grid."""
    geometry = series.volume.geometry
    steps = np.stack([frame.orientation[1] * frame.spacing[0], frame.orientation[0] * frame.spacing[1]], axis=1)
    shape = (int(frame.header.dataset.Rows), int(frame.header.dataset.Columns))
    distances = np.linalg.norm(series.positions_mm - frame.position, axis=1)
    k = int(distances.argmin())
    if distances[k] > _SAME_POSITION_MM:
        return match_grid(frame.position, steps, shape, geometry)
    return match_grid(geometry.to_world((k, 0, 0)), steps, shape, geometry)


def _label(value: int, name: str, segment: Dataset) -> Label:
    from highdicom.color import CIELabColor

    colour: tuple[int, int, int] = (128, 174, 128)
    stored = segment.get("RecommendedDisplayCIELabValue")
    if stored is not None and len(stored) == 3:
        red, green, blue = CIELabColor.from_dicom_value([int(c) for c in stored]).to_rgb(clip=True)
        colour = (int(red), int(green), int(blue))
    category, type_ = (segment.get(f"SegmentedProperty{what}CodeSequence") for what in ("Category", "Type"))
    region = segment.get("AnatomicRegionSequence")
    return Label(
        value,
        name,
        _code(category),
        _code(type_),
        colour,
        _code(type_ and type_[0].get("SegmentedPropertyTypeModifierCodeSequence")),
        _code(region),
        _code(region and region[0].get("AnatomicRegionModifierSequence")),
    )


def _code(sequence: Any) -> Code | None:
    if not sequence:
        return None
    item = sequence[0]
    value = next((str(item[key].value) for key in ("CodeValue", "LongCodeValue", "URNCodeValue") if item.get(key)), "")
    scheme, meaning = str(item.get("CodingSchemeDesignator") or ""), str(item.get("CodeMeaning") or "")
    return Code(scheme, value, meaning) if value and scheme else None


def _provenance(algorithm: Algorithm) -> Provenance | None:
    """None where the file does not describe it completely."""
    parameters = dict(part.split("=", 1) for part in algorithm.parameters.split(",") if "=" in part)
    tags = {TYPE_TAG: algorithm.type, NAME_TAG: algorithm.name}
    if is_quality(algorithm.description):
        tags[QUALITY_TAG] = algorithm.description
    made = Provenance.from_tags(tags)
    if made is None or not algorithm.version or made.version not in ("", algorithm.version):
        return made
    checksum = parameters.get("sha256", "")
    sha256 = checksum if checksum.startswith(made.sha256) else made.sha256
    return Provenance(made.type, made.algorithm, algorithm.version, sha256, made.quality)
