"""Measurements as DICOM structured reports (Comprehensive 3D SR, TID 1500), each bound to its segment of a DICOM-SEG.

Quantities that DICOM or LOINC have a code for are coded with it; the others have codes of the private scheme 99MPER,
whose meaning is written out. Method and parameters of each figure stand in its algorithm identification, stages in
qualitative evaluations named after their scheme. The quality to expect of a mask stands with its structure, notes below
all measurements. The source images are those that the segmentation refers to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom

import mper
from mper.dicom.headers import no_warnings
from mper.dicom.seg_read import open_seg
from mper.dicom.seg_write import MANUFACTURER, MODEL_NAME
from mper.dicom.sources import describe_sources, text_encoding
from mper.labels import Label, Segmentation, make_label, structure_of
from mper.measurement.figures import Figure
from mper.progress import Notify, ignore_notice
from mper.provenance import Provenance
from mper.utils.coded import Coded, without_folders
from mper.utils.files import write_atomically
from mper.utils.text import first_line

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries

SCHEME, SCHEME_NAME = "99MPER", "MPER for 3D Slicer, measurements"
_CODES = {
    "la_volume": ("118565006", "SCT", "Volume"),
    "lv_volume": ("118565006", "SCT", "Volume"),
    "rv_volume": ("118565006", "SCT", "Volume"),
    "myo_volume": ("118565006", "SCT", "Volume"),
    "lv_edv": ("8821-1", "LN", "Left Ventricular End Diastolic Volume"),
    "lv_esv": ("8823-7", "LN", "Left Ventricular End Systolic Volume"),
    "lv_ef": ("8811-2", "LN", "Left Ventricular EF by MR"),
    "lv_mass": ("18087-7", "LN", "Left Ventricle Mass"),
}
_PROCEDURES = {"MR": ("241620005", "SCT", "MRI of heart"), "": ("363679005", "SCT", "Imaging procedure")}
_UNITS = {"1": "no units", "mL": "milliliter", "mm2": "square millimeter", "%": "percent", "g": "gram"}
_SHORT, _LONG = 16, 64  # characters of a code value, and of its meaning


def write_sr(
    path: Path,
    figures: Sequence[Figure],
    seg: Path,
    mask: Segmentation,
    series: DicomSeries,
    notify: Notify = ignore_notice,
    observer: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Write figures as a structured report that refers to the segments of a DICOM-SEG.

    Parameters
    ----------
    path : Path
        Ends in ``.dcm``.
    figures : sequence of Figure
        Those without a value are left out; why should stand in `notes`.
    seg : Path
        The DICOM-SEG of the mask that was measured.
    mask : Segmentation
        That mask; the segments of the SEG are matched by code and name. What its provenance says of the quality to
        expect is in the report.
    series : DicomSeries
        Its source.
    notify : callable
        Called for figures that have no segment.
    observer : str
        Who answers for the report, as ``Family^Given``; may be empty.
    notes : sequence of str
        What was noticed while segmenting and measuring; files are named without the folders of this computer.

    Raises
    ------
    ValueError
        If the SEG is of another study, no figure belongs to one of its segments, or the report cannot be written.
    OSError
        If it cannot be written; nothing is left behind.
    """
    if not path.name.lower().endswith(".dcm"):
        raise ValueError(f"cannot write {path}: the name of a DICOM report must end in .dcm")
    places = {file.parent for file in (seg, *series.paths)}
    folders = {form: form.name for place in places for form in (place, place.resolve()) if form.name}
    notes = [without_folders(note, folders) for note in notes]
    segmentation = open_seg(seg)
    study = str(segmentation.get("StudyInstanceUID"))
    if study != str(series.instances[0].get("StudyInstanceUID")):
        raise ValueError(
            Coded(f"{seg} is of another study than the scan; give the segmentation of this scan", "export-other-study")
        )
    with no_warnings():
        sources = describe_sources(series, notify)
        groups = _groups(figures, segmentation, mask, series, notify)
        if not groups:
            raise ValueError(
                Coded(f"no figure belongs to a segment of {seg}; there is nothing to report", "nothing-to-report")
            )
        try:
            evidence = [_evidence(segmentation, sources.main[0]), *sources.main, *sources.further]
            dataset = _report(groups, evidence, observer, notes, str(sources.main[0].get("Modality")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                Coded(
                    f"the series cannot be referred to by a DICOM report: {first_line(error)}",
                    "export-series",
                    reason=first_line(error),
                )
            ) from error
        texts = [observer, *notes, *(figure.method for figure in figures)]
        texts += [made.quality for made in mask.provenance.values()]
        encoding = text_encoding(series.instances[0], texts)
        if encoding:
            dataset.SpecificCharacterSet = encoding
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    write_atomically(path, [stream.getvalue()])


def read_sr(path: Path) -> dict[str, dict[str, tuple[float, str]]]:
    """The measurements of a report, by structure: value and unit by the meaning of each name.

    Raises
    ------
    ValueError
        If it is no structured report.
    """
    from highdicom.sr import srread

    with no_warnings():
        try:
            report = srread(path)
        except Exception as error:  # a damaged file can fail anywhere in the parser
            raise ValueError(f"{path} is no structured report ({first_line(error)})") from error
        groups = report.content.get_volumetric_roi_measurement_groups()  # type: ignore[attr-defined]
        return {
            group.finding_type.meaning: {
                measurement.name.meaning: (float(measurement.value), measurement.unit.value)
                for measurement in group.get_measurements()
            }
            for group in groups
        }


def _groups(
    figures: Sequence[Figure], segmentation: pydicom.Dataset, mask: Segmentation, series: DicomSeries, notify: Notify
) -> list[Any]:
    by_label: dict[int, list[Figure]] = {}
    orphans = []
    for figure in figures:
        label = _label_of(figure, mask.labels)
        if label is None:
            orphans.append(figure.name)
        elif figure.value is not None:
            by_label.setdefault(label.value, []).append(figure)
    if orphans:
        notify(
            Coded(
                f"not in the report, for they belong to no segment: {', '.join(orphans)}",
                "not-in-report",
                names=", ".join(orphans),
            )
        )
    labels = {label.value: label for label in mask.labels}
    made = []
    for value, own in by_label.items():
        segment = _segment(segmentation, labels[value])
        if segment is None:
            notify(
                Coded(
                    f"not in the report: the segmentation has no segment {labels[value].name}",
                    "not-in-report",
                    names=labels[value].name,
                )
            )
        else:
            made.append(_group(segment, segmentation, own, series, mask.provenance.get(value)))
    return made


def _label_of(figure: Figure, labels: Sequence[Label]) -> Label | None:
    """The structure of a figure: that of its group, else, of figures with fixed keys, that of the key."""
    own = next((each for each in labels if each.name == figure.group), None)
    if own is not None:
        return own
    prefix = figure.key.partition("_")[0].upper()
    if prefix in ("LA", "LV", "RV", "MYO"):
        wanted = structure_of(make_label(1, prefix))
        return next((each for each in labels if structure_of(each) == wanted or each.name.upper() == prefix), None)
    return None


def _segment(segmentation: pydicom.Dataset, label: Label) -> pydicom.Dataset | None:
    """The segment of a structure: that of its name, else the only one of its type."""
    segments = list(segmentation.SegmentSequence)
    found = [segment for segment in segments if str(segment.SegmentLabel) == label.name]
    if not found and label.type is not None:
        code = label.type.scheme, label.type.value
        types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
        found = [
            segment
            for segment, own in zip(segments, types, strict=True)
            if (str(own.CodingSchemeDesignator), str(own.CodeValue)) == code
        ]
    return found[0] if len(found) == 1 else None


def _group(
    segment: pydicom.Dataset,
    segmentation: pydicom.Dataset,
    figures: Sequence[Figure],
    series: DicomSeries,
    made: Provenance | None,
) -> Any:
    from highdicom.sr import (
        CodedConcept,
        ReferencedSegment,
        SourceSeriesForSegmentation,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    uid = str(segment.get("TrackingUID") or pydicom.uid.generate_uid(prefix=None))
    group = VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid, str(segment.get("TrackingID") or segment.SegmentLabel)),
        # Not `from_segmentation`: it fails for a SEG of one segment, whose number stands in the shared groups.
        referenced_segment=ReferencedSegment(
            str(segmentation.SOPClassUID),
            str(segmentation.SOPInstanceUID),
            int(segment.SegmentNumber),
            source_series=SourceSeriesForSegmentation(str(series.instances[0].SeriesInstanceUID)),
        ),
        finding_type=CodedConcept(str(kind.CodeValue), str(kind.CodingSchemeDesignator), str(kind.CodeMeaning)),
        measurements=[_measurement(figure) for figure in figures],
        qualitative_evaluations=[each for figure in figures for each in _stages(figure)],
    )
    if made is not None and made.quality:
        group[0].ContentSequence.append(_text(("quality", SCHEME, "Expected quality"), made.quality))
    return group


def _text(name: tuple[str, str, str], text: str) -> Any:
    """A qualitative evaluation as text, which the templates allow and highdicom's classes do not offer."""
    from highdicom.sr import CodedConcept, RelationshipTypeValues, TextContentItem

    return TextContentItem(CodedConcept(*name), text, RelationshipTypeValues.CONTAINS)


def _measurement(figure: Figure) -> Any:
    from highdicom.sr import AlgorithmIdentification, CodedConcept, Measurement

    assert figure.value is not None
    meaning = _UNITS.get(figure.unit, figure.unit)
    return Measurement(
        name=_name(figure.key, figure.name),
        value=float(np.format_float_positional(figure.value, 6, fractional=False)),
        unit=CodedConcept(figure.unit, "UCUM", meaning),
        algorithm_id=AlgorithmIdentification(
            name="mper measure", version=mper.__version__, parameters=[figure.method], manufacturer=MANUFACTURER
        ),
    )


def _stages(figure: Figure) -> list[Any]:
    from highdicom.sr import CodedConcept, QualitativeEvaluation

    made = []
    for scheme, stage in (figure.stages or {}).items():
        short = re.sub(r"[^a-z0-9]", "", scheme.lower())[:6]
        key = _private(figure.key)[: _SHORT - len(short) - 1]
        made.append(
            QualitativeEvaluation(
                CodedConcept(f"{short}_{key}", SCHEME, f"{scheme} stage by {figure.name}"[:_LONG]),
                CodedConcept(f"stage{stage[0]}", SCHEME, f"Stage {stage}"),
            )
        )
    return made


def _name(key: str, name: str) -> Any:
    from highdicom.sr import CodedConcept

    known = _CODES.get(key)
    return CodedConcept(*known) if known else CodedConcept(_private(key), SCHEME, name[:_LONG])


def _private(key: str) -> str:
    """A key as a code value of at most 16 characters: ``la_iir_1_20_extent`` becomes ``iir_1_20_pct``."""
    short = key.removeprefix("la_").replace("_extent", "_pct").replace("_area", "_mm2").replace("_index", "_idx")
    return short[:_SHORT]


def _evidence(segmentation: pydicom.Dataset, image: pydicom.Dataset) -> pydicom.Dataset:
    """What a report needs of a segmentation that it refers to; the patient is that of the images."""
    made = pydicom.Dataset()
    made.update({element.tag: element for element in image if element.tag.group in (0x0010, 0x0012)})
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"):
        setattr(made, keyword, image.get(keyword))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows", "Columns"):
        setattr(made, keyword, segmentation.get(keyword))
    return made


def _report(
    groups: Sequence[Any], evidence: Sequence[pydicom.Dataset], observer: str, notes: Sequence[str], modality: str
) -> pydicom.Dataset:
    from highdicom.sr import (
        CodedConcept,
        Comprehensive3DSR,
        ContainerContentItem,
        ContentSequence,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
        PersonObserverIdentifyingAttributes,
        RelationshipTypeValues,
    )
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    device = ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            uid=generate_uid(prefix=None, entropy_srcs=[MANUFACTURER, mper.__version__]),
            name=MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=mper.__version__,
        ),
    )
    person = None
    if observer:
        person = ObserverContext(codes.DCM.Person, PersonObserverIdentifyingAttributes(name=observer))
    content = MeasurementReport(
        observation_context=ObservationContext(observer_person_context=person, observer_device_context=device),
        procedure_reported=CodedConcept(*_PROCEDURES.get(modality, _PROCEDURES[""])),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    if notes:
        name = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
        container = ContainerContentItem(name, relationship_type=RelationshipTypeValues.CONTAINS)
        comment = ("121106", "DCM", "Comment")
        container.ContentSequence = ContentSequence([_text(comment, note) for note in dict.fromkeys(notes)])
        content[0].ContentSequence.append(container)
    dataset = Comprehensive3DSR(
        evidence=list(evidence),
        content=content[0],
        series_instance_uid=generate_uid(prefix=None),
        series_number=_number(evidence),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="Measurements of MPER",
    )
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.SoftwareVersions = mper.__version__
    dataset.CodingSchemeIdentificationSequence = [
        _scheme({"CodingSchemeDesignator": SCHEME, "CodingSchemeName": SCHEME_NAME})
    ]
    return dataset


def _scheme(entries: Mapping[str, str]) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for keyword, text in entries.items():
        setattr(made, keyword, text)
    return made


def _number(evidence: Sequence[pydicom.Dataset]) -> int:
    """Near the source's in a list, beyond those of scanners and of the segmentation."""
    try:
        return 2000 + max(0, int(str(evidence[1].get("SeriesNumber"))))
    except ValueError:
        return 2000
