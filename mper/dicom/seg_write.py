"""Masks as DICOM segmentations (BINARY, uncompressed, every frame of every segment), referring to their source series.

Written under a temporary name and read back; only a file that passes the comparison (`mper.dicom.seg_check`) is kept.
Empty frames are kept: readers that rebuild the grid from the frames then find the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mper
from mper.dicom.grid_match import onto_grid
from mper.dicom.headers import no_warnings
from mper.dicom.seg_check import ExportReport, check_export
from mper.dicom.sources import Sources, correct_references, describe_sources, text_encoding
from mper.labels import UNLABELLED, Code, Label, Segmentation
from mper.progress import Notify, ignore_notice
from mper.provenance import MANUAL, Provenance, is_quality
from mper.utils.coded import Coded, changed, line_of
from mper.utils.files import replace_file, temporary_sibling, write_atomically
from mper.utils.text import first_line

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries

MANUFACTURER, MODEL_NAME = "MPER for 3D Slicer", "MPER"
_LONGEST = 64  # characters of DICOM's "long string"


@dataclass(frozen=True)
class SegText:
    """What a person may add to a segmentation.

    Parameters
    ----------
    description : str
        SeriesDescription; empty: made of the structures and the algorithm.
    creator : str
        ContentCreatorName: who answers for the mask, as DICOM writes names (``Family^Given``); may be empty.
    """

    description: str = ""
    creator: str = ""


def write_seg(
    path: Path, mask: Segmentation, series: DicomSeries, text: SegText | None = None, notify: Notify = ignore_notice
) -> ExportReport:
    """Write `mask` as DICOM-SEG of `series`, read it back, and keep a report of the comparison next to it.

    Parameters
    ----------
    path : Path
        Ends in ``.dcm``; the report goes to the same name with ``.check.txt`` and ``.check.json``.
    mask : Segmentation
        On the grid of the series, or on a part of it (cropped, flipped). Every label that has voxels
        needs a code and a provenance; labels without voxels are left out with a note.
    series : DicomSeries
    text : SegText or None
    notify : callable
        Called for empty segments and for what is wrong in the source's header.

    Raises
    ------
    ValueError
        If the mask is empty, partly unlabelled, lies on another grid, has a segment without code or provenance, if the
        series cannot be referred to, or the file read back differs.
    OSError
        If it cannot be written; nothing is left behind.
    """
    path = Path(path)
    if not path.name.lower().endswith(".dcm"):
        raise ValueError(f"cannot write {path}: the name of a DICOM-SEG must end in .dcm")
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        notify(line)

    def named(text: str) -> str:
        for file, whole_file in zip(unfinished, files, strict=True):
            text = text.replace(str(file), str(whole_file))
        return text

    with no_warnings():
        sources = describe_sources(series, note)
    whole = _on_source(mask, series, note)
    content = _encode(_dataset(whole, series, sources, text or SegText()))
    files = (path, *report_paths(path))
    unfinished = [temporary_sibling(file) for file in files]
    temporary = unfinished[0]
    try:
        write_atomically(temporary, [content])
        report = replace(check_export(temporary, whole, series, notes), file=path.name)
        if not report.passed:
            raise ValueError(
                Coded(
                    f"{path.name} was not kept: read back, it differs from what was to be written "
                    f"({report.failures()})",
                    "export-differs",
                    file=path.name,
                )
            )
        for file, words in zip(unfinished[1:], (report.to_text(), report.to_json()), strict=True):
            write_atomically(file, [words.encode("utf-8")])
        for file, whole_file in zip(unfinished, files, strict=True):  # the report never before what it vouches for
            replace_file(file, whole_file)
    except OSError as error:
        renamed = type(error)(changed(line_of(error), named))
        renamed.errno = error.errno
        raise renamed from error
    finally:
        for file in unfinished:
            file.unlink(missing_ok=True)
    return report


def report_paths(path: Path) -> tuple[Path, Path]:
    """Where the export check of a segmentation lies: as text, and as JSON."""
    stem = path.name[: -len(".dcm")]
    return path.with_name(f"{stem}.check.txt"), path.with_name(f"{stem}.check.json")


def _on_source(mask: Segmentation, series: DicomSeries, note: Notify) -> Segmentation:
    """The mask on the series' grid, its segments numbered from 1, those without voxels left out."""
    array = np.asarray(onto_grid(mask.labelmap, series.volume.geometry))
    counts = np.bincount(array.reshape(-1), minlength=256)
    if counts[UNLABELLED]:
        raise ValueError(
            Coded(
                f"the mask holds {counts[UNLABELLED]} unlabelled voxels (255), which DICOM-SEG cannot say; "
                "finish drawing, or set them to background",
                "export-unlabelled",
                n=int(counts[UNLABELLED]),
            )
        )
    there = [label for label in mask.labels if counts[label.value]]
    if not there:
        raise ValueError(
            Coded("the mask is empty: no voxel belongs to a structure, so there is nothing to write", "export-empty")
        )
    if len(there) < len(mask.labels):
        empty = [label.name for label in mask.labels if not counts[label.value]]
        names = ", ".join(empty)
        note(Coded(f"left out {names}: no voxels", "no-voxels", structures=names))
    for label in there:
        _check_label(label, mask.provenance.get(label.value))
    numbers = np.zeros(256, np.uint8)
    for number, label in enumerate(there, 1):
        numbers[label.value] = number
    return Segmentation(
        series.volume.with_array(numbers[array]),
        tuple(replace(label, value=number) for number, label in enumerate(there, 1)),
        {number: mask.provenance[label.value] for number, label in enumerate(there, 1)},
    )


def _check_label(label: Label, provenance: Provenance | None) -> None:
    if label.category is None or label.type is None:
        raise ValueError(
            Coded(
                f"the structure {label.name!r} has no code, which DICOM-SEG needs; choose its terminology in 3D "
                "Slicer, or name it as one of the known structures (LA, RA, LV, RV, MYO, LAA, PV, Heart, Scar)",
                "export-no-code",
                structure=label.name,
            )
        )
    if provenance is None:
        raise ValueError(
            Coded(
                f"it is not known how {label.name!r} was made, which a DICOM-SEG states; name the model that drew it "
                "(--model NAME, with --edited if a person corrected it) or say that a person did (--manual)",
                "export-no-maker",
                structure=label.name,
            )
        )
    for what, text in (("name", label.name), ("algorithm", provenance.algorithm), ("version", provenance.version)):
        if len(text) > _LONGEST or "\\" in text or not text.isprintable():
            raise ValueError(
                Coded(
                    f"the {what} {text[:80]!r} cannot be written to DICOM: "
                    f"at most {_LONGEST} printable characters without backslash are allowed",
                    "export-text",
                    text=text[:80],
                    most=_LONGEST,
                )
            )


def _dataset(mask: Segmentation, series: DicomSeries, sources: Sources, text: SegText) -> Any:
    from highdicom import PlanePositionSequence
    from highdicom.seg import Segmentation as HighdicomSegmentation
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    from pydicom.valuerep import DSfloat

    description = text.description or _description(mask)
    names = [label.name for label in mask.labels]
    try:
        with no_warnings():
            dataset = HighdicomSegmentation(
                source_images=sources.main,
                further_source_images=sources.further or None,
                pixel_array=mask.labelmap.array,
                plane_positions=[
                    PlanePositionSequence("PATIENT", [DSfloat(float(x), auto_format=True) for x in position])
                    for position in series.positions_mm
                ],
                segmentation_type="BINARY",
                segment_descriptions=[_described(label, mask.provenance[label.value]) for label in mask.labels],
                omit_empty_frames=False,
                transfer_syntax_uid=ExplicitVRLittleEndian,
                series_instance_uid=generate_uid(prefix=None),
                sop_instance_uid=generate_uid(prefix=None),
                series_number=_series_number(sources),
                instance_number=1,
                series_description=description[:_LONGEST],
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MODEL_NAME,
                software_versions=mper.__version__,
                device_serial_number=mper.__version__,  # a program has none, and the standard wants one
                content_label="SEGMENTATION",
                content_description=", ".join(names)[:_LONGEST],
                content_creator_name=text.creator or None,
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            Coded(
                f"the series cannot be referred to by a DICOM-SEG: {first_line(error)}",
                "export-series",
                reason=first_line(error),
            )
        ) from error
    correct_references(dataset, series)
    encoding = text_encoding(series.instances[0], [description, text.creator, *names])
    if encoding:
        dataset.SpecificCharacterSet = encoding
    return dataset


def _description(mask: Segmentation) -> str:
    names = ", ".join(label.name for label in mask.labels)
    algorithms = dict.fromkeys(f"{p.algorithm} {p.version}".strip() for p in mask.provenance.values() if p.algorithm)
    return f"{names}: {', '.join(algorithms) or 'drawn by hand'}"


def _series_number(sources: Sources) -> int:
    """Near the source's in a list, and beyond the numbers that scanners give."""
    try:
        return 1000 + max(0, int(str(sources.main[0].get("SeriesNumber"))))
    except ValueError:
        return 1000


def _described(label: Label, provenance: Provenance) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    assert label.category is not None and label.type is not None
    identification = None
    if provenance.type != MANUAL:
        identification = AlgorithmIdentificationSequence(
            name=provenance.algorithm,
            family=codes.cid7162.ArtificialIntelligence,
            version=provenance.version or "unknown",
            source=MANUFACTURER if provenance.algorithm.startswith("MPER ") else None,
            parameters={"sha256": provenance.sha256} if provenance.sha256 else None,
        )
    tracking_uid = generate_uid(prefix=None)
    described = SegmentDescription(
        segment_number=label.value,
        segment_label=label.name,
        segmented_property_category=_concept(label.category),
        segmented_property_type=_concept(label.type),
        algorithm_type=provenance.type,
        algorithm_identification=identification,
        tracking_uid=tracking_uid,
        tracking_id=f"{label.name[:40]} {tracking_uid[-12:]}",
        anatomic_regions=[_concept(label.region)] if label.region else None,
        display_color=CIELabColor.from_rgb(*label.colour),
    )
    if label.modifier:
        property_type = described.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = [_concept(label.modifier)]
    if label.region and label.region_modifier:
        described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_concept(label.region_modifier)]
    if is_quality(provenance.quality):
        described.SegmentDescription = provenance.quality
    if identification is not None:
        described.SegmentAlgorithmName = provenance.name
        if not provenance.version:  # the sequence is optional, and its version is not
            del described.SegmentationAlgorithmIdentificationSequence
    return described


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _encode(dataset: Any) -> bytes:
    stream = BytesIO()
    with no_warnings():
        dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
