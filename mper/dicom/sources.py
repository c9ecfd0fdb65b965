"""The images of a series as source images for highdicom, whatever their scanner left out or spelt its own way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, DSfloat

from mper.dicom.frames import Frame, frames_of
from mper.dicom.headers import Header
from mper.progress import Notify
from mper.utils.coded import Coded

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries

# Groups of patient, study, equipment and image, and of functional groups; not of overlays or pixels, none private.
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0032, 0x0038, 0x0040, 0x5200)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
_CHARACTER_SET = 0x00080005
_FORMATS: dict[str, Any] = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}


@dataclass(frozen=True, eq=False)
class Sources:
    """`main` defines study, patient and grid; `further` are referenced as well."""

    main: list[Dataset]
    further: list[Dataset]


def describe_sources(series: DicomSeries, notify: Notify) -> Sources:
    """The images of `series` in the order of its slices, without pixels, with one spelling of what they share.

    highdicom takes classic images, or one multi-frame file; of several multi-frame files the others are `further`.

    Raises
    ------
    ValueError
        If an image tells no UID of its own, or the series no frame of reference.
    """
    _check(series)
    first = series.instances[0]
    frames = frames_of(Header(series.paths[0], first))
    shared = frames[series.frames[0][1]]
    described = _described(first, notify)
    if first.get("PerFrameFunctionalGroupsSequence"):
        _add_frames(described, _used(frames, 0, series), shared, series)
        further = []
        for number, (image, path) in enumerate(zip(series.instances, series.paths, strict=True)):
            if number:
                further.append(_identity(image))
                _add_frames(further[-1], _used(frames_of(Header(path, image)), number, series), shared, series)
        return Sources([described], further)
    images = [described, *(_identity(image) for image in series.instances[1:])]
    for image in images:
        image.SeriesInstanceUID = first.SeriesInstanceUID  # see `correct_references`
    for image, position in zip(images, series.positions_mm, strict=True):
        image.ImagePositionPatient = _decimals(position)
        image.ImageOrientationPatient = _decimals(shared.orientation.reshape(-1))
        _measure(image, shared, first.get("SliceThickness"), series)
    return Sources(images, [])


def correct_references(dataset: Dataset, series: DicomSeries) -> None:
    """Let a segmentation refer to its sources by their own series and frame numbers.

    highdicom takes images of one series alone, and numbers the frames that are handed to it: those of one phase, of a
    file that may hold more.
    """
    series_uids = {str(image.SOPInstanceUID): str(image.SeriesInstanceUID) for image in series.instances}
    if len(set(series_uids.values())) > 1:
        _refer_to_series(dataset, series_uids)
    if not series.instances[0].get("PerFrameFunctionalGroupsSequence"):
        return
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        number, frame = series.frames[int(np.linalg.norm(series.positions_mm - position, axis=1).argmin())]
        for derivation in group.DerivationImageSequence:
            for source in derivation.SourceImageSequence:
                source.ReferencedSOPClassUID = series.instances[number].SOPClassUID
                source.ReferencedSOPInstanceUID = series.instances[number].SOPInstanceUID
                source.ReferencedFrameNumber = frame + 1


def _refer_to_series(dataset: Dataset, series_uids: Mapping[str, str]) -> None:
    """List the referenced instances under the series that each is of."""
    by_series: dict[str, list[Dataset]] = {}
    for listed in dataset.ReferencedSeriesSequence:
        for reference in listed.ReferencedInstanceSequence:
            uid = series_uids[str(reference.ReferencedSOPInstanceUID)]
            by_series.setdefault(uid, []).append(reference)
    items = []
    for uid, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedInstanceSequence = uid, references
        items.append(item)
    dataset.ReferencedSeriesSequence = items


def text_encoding(image: Dataset, texts: Sequence[str]) -> str | None:
    """The character set for a file that joins `texts` to what `image` says of the patient: its own, else UTF-8."""
    own = image.get("SpecificCharacterSet")
    plain = all(text.isascii() for text in texts)
    if not own:
        return None if plain and str(image.get("PatientName") or "").isascii() else "ISO_IR 192"
    simple = isinstance(own, str) and re.fullmatch(r"ISO_IR (6|100|101|109|110|144|127|126|138|148|13|166)", own)
    return own if simple and plain else "ISO_IR 192"


def _check(series: DicomSeries) -> None:
    for image, path in zip(series.instances, series.paths, strict=True):
        for keyword in _NEEDED:
            if not str(image.get(keyword) or "").strip():
                raise ValueError(
                    Coded(
                        f"{path.name} has no {keyword}, so a DICOM-SEG cannot refer to it",
                        "export-series",
                        reason=f"{path.name}: {keyword}",
                    )
                )
    if len({str(image.SOPInstanceUID) for image in series.instances}) < len(series.instances):
        raise ValueError(
            Coded(
                "several images of the series have one SOPInstanceUID, so a DICOM-SEG cannot refer to each; "
                "write the mask as .seg.nrrd or .nii.gz",
                "export-series",
                reason="SOPInstanceUID",
            )
        )
    if not str(series.instances[0].get("FrameOfReferenceUID") or "").strip():
        raise ValueError(
            Coded(
                "the series has no FrameOfReferenceUID, without which a DICOM-SEG has no place in the patient; "
                "write the mask as .seg.nrrd or .nii.gz",
                "export-series",
                reason="FrameOfReferenceUID",
            )
        )
    if len({str(image.get("StudyInstanceUID")) for image in series.instances}) > 1:
        raise ValueError(
            Coded(
                "the images of the series name several studies; give one series of one study", "export-several-studies"
            )
        )
    if not series.volume.geometry.spacing_known:
        raise ValueError(
            Coded(
                "the series is a single image of unknown thickness; give the folder of the whole series", "single-slice"
            )
        )


def _identity(image: Dataset) -> Dataset:
    """What a reference to an image needs, and what images of one series share."""
    made = Dataset()
    for keyword in (*_NEEDED, "FrameOfReferenceUID", "Rows", "Columns"):
        setattr(made, keyword, image.get(keyword))
    return made


def _described(image: Dataset, notify: Notify) -> Dataset:
    """The attributes of patient, study, equipment and image; those that the standard requires are there, if empty."""
    made = Dataset()
    for tag in image.keys():  # noqa: SIM118 (iterating decodes, which may fail)
        if tag.group not in _GROUPS or tag.element == 0 or tag == _CHARACTER_SET:  # the writer chooses its own
            continue
        try:
            made.add(deepcopy(image[tag]))
        except Exception:  # a damaged value can fail anywhere in the parser
            notify(f"the source's attribute {tag} is damaged and was left out")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in made:
            setattr(made, keyword, "")
    for keyword, kind in _FORMATS.items():
        try:
            kind(made.get(keyword))
        except (TypeError, ValueError):
            notify(f"the source's {keyword} is not as DICOM wants it and was left empty")
            setattr(made, keyword, "")
    if made.PatientSex not in ("M", "F", "O", "", None):
        notify("the source's PatientSex is not as DICOM wants it and was left empty")
        made.PatientSex = ""
    return made


def _used(frames: Sequence[Frame], number: int, series: DicomSeries) -> list[Frame]:
    """The frames of a file that are slices of the volume; a file may hold other phases too."""
    return [frames[frame] for instance, frame in series.frames if instance == number]


def _add_frames(made: Dataset, frames: Sequence[Frame], shared: Frame, series: DicomSeries) -> None:
    """Places of all frames of a multi-frame file, with what they share where the standard shares it."""
    thicknesses = [
        item.get("SliceThickness")
        for group in made.get("SharedFunctionalGroupsSequence") or []
        for item in group.get("PixelMeasuresSequence") or []
    ]
    orientation, measures, groups = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _decimals(shared.orientation.reshape(-1))
    _measure(measures, shared, thicknesses[0] if thicknesses else None, series)
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    own = []
    for frame in frames:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = _decimals(frame.position)
        group.PlanePositionSequence = [position]
        own.append(group)
    made.NumberOfFrames = len(frames)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [groups], own


def _measure(item: Dataset, frame: Frame, thickness: object, series: DicomSeries) -> None:
    """Pixel spacing, thickness (the step between slices where the scanner tells none) and step."""
    (step,) = _decimals(series.volume.geometry.step_lengths[:1])
    try:
        (own,) = _decimals([float(str(thickness))])
    except (ValueError, OverflowError):
        own = step
    item.PixelSpacing = _decimals(frame.spacing)
    item.SliceThickness = own if 0 < own < np.inf else step
    item.SpacingBetweenSlices = step


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]
