"""The export check: a written DICOM-SEG, read back and compared voxel by voxel and code by code.

Its report stands next to the file, for people (``.check.txt``) and for programs (``.check.json``). It names structures,
codes and figures, and nothing of the patient: that study, patient and frame of reference agree is said without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset

import mper
from mper.dicom.frames import frames_of
from mper.dicom.headers import Header, no_warnings
from mper.dicom.seg_read import Algorithm, algorithms, open_seg, read_seg
from mper.labels import Code, Label, Segmentation
from mper.provenance import MANUAL, Provenance

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries

_COLOUR_TOLERANCE = 1  # of 255, lost in CIELab
_OF_THE_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    what: str
    expected: str
    found: str
    passed: bool


@dataclass(frozen=True)
class ExportReport:
    """What the comparison of a written file with its mask and its source found.

    Parameters
    ----------
    file : str
        Its name, without folder.
    checks : tuple of Check
    notes : tuple of str
        What was noticed while it was written (empty segments that were left out).
    sop_instance_uid, series_instance_uid : str
        Of the new object.
    """

    file: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    when: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def passed(self) -> bool:
        """Whether everything is as it should be."""
        return all(check.passed for check in self.checks)

    def failures(self) -> str:
        """What is not, in one line."""
        return "; ".join(
            f"{check.what}: {check.found} instead of {check.expected}" for check in self.checks if not check.passed
        )

    def to_text(self) -> str:
        """For people."""
        width = max(len(check.what) for check in self.checks)
        lines = [
            f"Export check of {self.file}: {'passed' if self.passed else 'FAILED'}",
            f"{self.when}, MPER {mper.__version__}",
            "",
        ]
        for check in self.checks:
            value = check.found if check.passed else f"{check.found}, EXPECTED {check.expected}"
            lines.append(f"  {'ok  ' if check.passed else 'FAIL'}  {check.what.ljust(width)}  {value}")
        lines += ["", *(f"Note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {"passed": self.passed, **asdict(self), "mper": mper.__version__}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def check_export(path: Path, mask: Segmentation, series: DicomSeries, notes: Sequence[str] = ()) -> ExportReport:
    """Read a written segmentation back and compare it with what it was made of.

    Parameters
    ----------
    path : Path
    mask : Segmentation
        What was to be written: on the series' grid, values 1 to n, each with code and provenance.
    series : DicomSeries
    notes : sequence of str
        What else the report should say.

    Raises
    ------
    ValueError
        If the file cannot be read at all.
    """
    dataset = open_seg(path)
    found = read_seg(path, series)
    with no_warnings():
        checks = [
            *_file_checks(dataset, mask, series),
            *_reference_checks(dataset, series),
            _place_check(Header(path, dataset), series, len(mask.labels)),
            *_voxel_checks(found, mask),
            *_segment_checks(dataset, found, mask),
        ]
    return ExportReport(
        path.name, tuple(checks), tuple(notes), str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
    )


def _equal(what: str, expected: object, found: object) -> Check:
    return Check(what, str(expected), str(found), expected == found)


def _same(what: str, pairs: Iterable[tuple[object, object]]) -> Check:
    """Whether values agree that a report must not show."""
    agrees = all(str(a or "") == str(b or "") for a, b in pairs)
    return Check(what, "as in the source", "as in the source" if agrees else "differs from the source", agrees)


def _file_checks(dataset: Dataset, mask: Segmentation, series: DicomSeries) -> list[Check]:
    frames = len(mask.labels) * mask.labelmap.array.shape[0]
    syntax = dataset.file_meta.TransferSyntaxUID.name
    return [
        _equal("kind", "Segmentation Storage, BINARY", f"{dataset.SOPClassUID.name}, {dataset.SegmentationType}"),
        _equal("transfer syntax", "Explicit VR Little Endian", syntax),
        _equal("frames (all slices of all segments)", frames, int(dataset.NumberOfFrames)),
        _equal(
            "made by", f"MPER for 3D Slicer {mper.__version__}", f"{dataset.Manufacturer} {dataset.SoftwareVersions}"
        ),
    ]


def _reference_checks(dataset: Dataset, series: DicomSeries) -> list[Check]:
    source = series.instances[0]
    wanted = {(str(image.SeriesInstanceUID), str(image.SOPInstanceUID)) for image in series.instances}
    named = {
        (str(item.SeriesInstanceUID), str(reference.ReferencedSOPInstanceUID))
        for item in dataset.get("ReferencedSeriesSequence") or []
        for reference in item.ReferencedInstanceSequence
    }
    fresh = str(dataset.SOPInstanceUID) not in {uid for _, uid in wanted} and str(dataset.SeriesInstanceUID) not in {
        uid for uid, _ in wanted
    }
    kept = (keyword for keyword in _OF_THE_PATIENT if keyword in ("PatientID", "PatientName") or dataset.get(keyword))
    return [
        _same("patient", [(dataset.get(keyword), source.get(keyword)) for keyword in kept]),
        _same("study", [(dataset.StudyInstanceUID, source.StudyInstanceUID)]),
        _same("frame of reference", [(dataset.FrameOfReferenceUID, source.FrameOfReferenceUID)]),
        _equal("series and instance of its own", "yes", "yes" if fresh else "no"),
        _equal(
            "source images referenced", f"{len(wanted)} of {len(wanted)}", f"{len(wanted & named)} of {len(wanted)}"
        ),
    ]


def _place_check(header: Header, series: DicomSeries, segments: int) -> Check:
    """Whether each slice of the source, at the position that its own header tells, has a frame of each segment."""
    found = np.array([frame.position for frame in frames_of(header)])
    distances = np.linalg.norm(found[:, None] - series.positions_mm, axis=2)  # (frame, slice)
    off = float(distances.min(axis=1).max())
    even = bool((np.bincount(distances.argmin(axis=1), minlength=len(series.positions_mm)) == segments).all())
    result = f"each within {off:.3f} mm of its source" if even else "not one of each slice"
    return Check("positions of the frames", "each within 0.001 mm of its source", result, even and off <= 1e-3)


def _voxel_checks(found: Segmentation, mask: Segmentation) -> list[Check]:
    wanted, read = mask.labelmap.array, found.labelmap.array
    size = "x".join(str(n) for n in wanted.shape)
    differing = int(np.count_nonzero(wanted != read)) if wanted.shape == read.shape else wanted.size
    return [_equal("voxels", f"{size}, 0 differ", f"{'x'.join(str(n) for n in read.shape)}, {differing} differ")]


def _segment_checks(dataset: Dataset, found: Segmentation, mask: Segmentation) -> list[Check]:
    read = {label.value: label for label in found.labels}
    stored = algorithms(dataset)
    tracked = {int(segment.SegmentNumber): bool(segment.get("TrackingUID")) for segment in dataset.SegmentSequence}
    counts, expected_counts = (np.bincount(m.labelmap.array.reshape(-1), minlength=256) for m in (found, mask))
    checks = [_equal("segments", len(mask.labels), len(found.labels))]
    for label in mask.labels:
        other = read.get(label.value, Label(label.value, "(missing)"))
        made, name = mask.provenance[label.value], f"segment {label.value} ({label.name})"
        algorithm = stored.get(label.value, Algorithm("", "", "", ""))
        checks += [
            _equal(f"{name}: label", label.name, other.name),
            _equal(f"{name}: voxels", int(expected_counts[label.value]), int(counts[label.value])),
            _equal(f"{name}: category", _words(label.category), _words(other.category)),
            _equal(f"{name}: type", _type_words(label), _type_words(other)),
            _colour_check(f"{name}: colour", label, other),
            _equal(f"{name}: algorithm", _algorithm_words(made), _found_words(algorithm, made)),
            _equal(f"{name}: tracking id", "yes", "yes" if tracked.get(label.value) else "no"),
        ]
    return checks


def _words(code: Code | None) -> str:
    return "none" if code is None else f"{code.meaning} ({code.scheme} {code.value})"


def _type_words(label: Label) -> str:
    codes = (label.type, label.modifier, label.region, label.region_modifier)
    return ", ".join(_words(code) for code in codes if code) or "none"


def _colour_check(what: str, label: Label, other: Label) -> Check:
    off = max(abs(a - b) for a, b in zip(label.colour, other.colour, strict=True))
    return Check(what, str(label.colour), str(other.colour), off <= _COLOUR_TOLERANCE)


def _algorithm_words(made: Provenance) -> str:
    if made.type == MANUAL:
        return MANUAL
    return ", ".join(
        [f"{made.type}, {made.name}"]
        + ([f"version {made.version}"] if made.version else [])
        + ([f"sha256={made.sha256}"] if made.sha256 else [])
    )


def _found_words(found: Algorithm, made: Provenance) -> str:
    if found.type == MANUAL:
        return MANUAL
    return ", ".join(
        [f"{found.type}, {found.name}"]
        + ([f"version {found.version}"] if found.version else [])
        + ([found.parameters] if found.parameters else [])
    )
