"""DICOM segmentations: written, judged by a validator, read by other programs, and read from other programs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless, generate_uid
from small_models import threshold_bundle
from small_series import bright_ball, stack, write_cine, write_classic, write_enhanced
from system_tools import tool

from mper.cli import FAILED, OK, USAGE, main
from mper.dicom import seg_write
from mper.dicom.grid_match import onto_grid
from mper.dicom.seg_check import ExportReport
from mper.dicom.seg_read import algorithms, open_seg, read_seg
from mper.dicom.seg_write import SegText, report_paths, write_seg
from mper.dicom.series import DicomSeries, read_series
from mper.io import read_labelmap, read_segmentation, write_segmentation, write_volume
from mper.labels import UNLABELLED, Code, Label, Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.provenance import MANUAL, Provenance
from mper.volume import Geometry, Volume

PUBLIC = Path(pydicom.data.__file__).parent / "test_files"
MODEL = Provenance.of_model("la", "1.0.0", "0123456789abcdef" * 4)
SHAPE = (6, 5, 7)


def patient(k: int, image: Dataset) -> None:
    image.PatientID, image.PatientName, image.PatientSex = "P-4711", "Müller^Änne", "F"
    image.PatientBirthDate, image.StudyDate, image.StudyTime, image.StudyID = "19500102", "20240105", "101500", "7"
    image.AccessionNumber, image.SpecificCharacterSet = "A-815", "ISO_IR 100"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classic, oblique series in random order."""
    write_classic(tmp_path / "Müller, Änne", stack(SHAPE), patient)
    return tmp_path / "Müller, Änne"


@pytest.fixture
def series(folder: Path) -> DicomSeries:
    return read_series(folder)


def mask_of(series: DicomSeries, made: Provenance = MODEL) -> Segmentation:
    """Two structures that touch each other and the border, no slice empty of both but the last."""
    array = np.zeros(series.volume.geometry.shape, np.uint8)
    array[:3, 1:4, 2:] = 1
    array[2:-1, :2, :3] = 3
    array[0, 0, 0] = 3
    labels = (make_label(1, "LA"), make_label(3, "LV"))
    return Segmentation(series.volume.with_array(array), labels, {1: made, 3: made})


def numbered(mask: Segmentation) -> np.ndarray:
    """The mask's array with the values that the segments of the file have: 1, 2, ..."""
    values = np.zeros(256, np.uint8)
    values[[label.value for label in mask.labels]] = np.arange(1, len(mask.labels) + 1)
    return values[mask.labelmap.array]


def refusal(call: Callable[[], object]) -> str:
    """The one line with which it is refused."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def validate(path: Path) -> None:
    """Raise unless the validator finds no error."""
    told = subprocess.run([tool("dciodvfy"), "-new", str(path)], capture_output=True, check=False)
    text = (told.stdout + told.stderr).decode("latin-1")
    assert text.rstrip().endswith("Segmentation"), text  # what it recognised
    assert "Error" not in text, text


def read_by_highdicom(path: Path, series: DicomSeries) -> np.ndarray:
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    affine = np.eye(4)
    affine[:] = volume.affine
    return np.asarray(onto_grid(Volume(volume.array, Geometry(affine, volume.array.shape)), series.volume.geometry))


def read_by_dcmqi(path: Path, series: DicomSeries, folder: Path) -> np.ndarray:
    folder.mkdir()
    command = [tool("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd"]
    done = subprocess.run([*command, "-p", "x"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    array = np.zeros(series.volume.geometry.shape, np.uint8)
    for number, file in enumerate(sorted(folder.glob("x-*.nrrd")), 1):
        inside = onto_grid(read_labelmap(file), series.volume.geometry) != 0
        assert not array[inside].any()
        array[inside] = number
    return array


# What is written


def turned(volume: Volume) -> Volume:
    """The same voxels, numbered from the other end."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_world((volume.array.shape[0] - 1, 0, 0))
    affine[:3, 0] *= -1
    return Volume(volume.array[::-1], Geometry(affine, volume.geometry.shape))


def write_kind(kind: str, folder: Path) -> Path:
    volume = stack(SHAPE, (0, 0, 0)) if kind == "rounded by the scanner" else stack(SHAPE)
    folder.mkdir(exist_ok=True)
    if kind == "enhanced":
        write_enhanced(folder / "one.dcm", volume)
        return folder
    if kind == "enhanced, one file a slice":
        series = generate_uid()
        for k in range(SHAPE[0]):
            write_enhanced(folder / f"{k}.dcm", volume.crop((k, 0, 0), (k + 1, *SHAPE[1:])))
            image = pydicom.dcmread(folder / f"{k}.dcm")
            image.SeriesInstanceUID = series
            image.save_as(folder / f"{k}.dcm")
        return folder

    if "cine" in kind:
        write_cine(folder, [volume.with_array(volume.array + np.int16(100 * n)) for n in range(3)], "enhanced" in kind)
        return folder

    def change(k: int, image: Dataset) -> None:
        patient(k, image)
        if kind == "rounded by the scanner":
            image.ImagePositionPatient = [f"{float(value):.1f}" for value in image.ImagePositionPatient]
            image.ImageOrientationPatient[0] = float(image.ImageOrientationPatient[0]) + 1e-6 * k
        if kind == "with private and without optional attributes":
            image.private_block(0x0051, "VENDOR", create=True).add_new(1, "LO", "secret")
            for keyword in ("PatientID", "PatientName", "PatientSex", "StudyDate", "SliceThickness", "SeriesNumber"):
                delattr(image, keyword)
        if kind == "compressed":
            image.compress(RLELossless)

    series = write_classic(folder, turned(volume) if kind == "reversed" else volume, change)
    if kind == "with a localiser":
        write_classic(
            folder,
            stack((2, *SHAPE[1:]), (90, 0, 0)),
            lambda _, image: setattr(image, "ImageType", ["DERIVED", "PRIMARY", "LOCALIZER"]),
            series,
            "scout",
        )
    return folder


KINDS = ("classic", "reversed", "enhanced", "enhanced, one file a slice", "rounded by the scanner", "compressed")
KINDS += ("with private and without optional attributes", "with a localiser")
KINDS += ("a phase of a cine", "a phase of an enhanced cine")


@pytest.mark.parametrize("kind", KINDS)
def test_any_series_gets_a_segmentation_that_validator_and_other_programs_read(tmp_path: Path, kind: str) -> None:
    series = read_series(write_kind(kind, tmp_path / "series"), phase=2 if "cine" in kind else None)
    mask = mask_of(series)
    path = tmp_path / "Größe seg.dcm"
    assert write_seg(path, mask, series).passed
    np.testing.assert_array_equal(read_seg(path, series).labelmap.array, numbered(mask))
    if kind != "rounded by the scanner":  # both want even steps; ours knows each slice's own position
        np.testing.assert_array_equal(read_by_highdicom(path, series), numbered(mask))
        np.testing.assert_array_equal(read_by_dcmqi(path, series, tmp_path / "dcmqi"), numbered(mask))
    validate(path)


def test_a_public_ct_series_gets_a_segmentation(tmp_path: Path) -> None:
    series = read_series(PUBLIC / "dicomdirtests" / "98892001" / "CT5N")
    mask = mask_of(series)
    assert write_seg(tmp_path / "seg.dcm", mask, series).passed
    np.testing.assert_array_equal(read_by_highdicom(tmp_path / "seg.dcm", series), numbered(mask))
    validate(tmp_path / "seg.dcm")


def test_study_and_place_are_the_sources_and_every_image_is_referenced(tmp_path: Path, series: DicomSeries) -> None:
    write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), series.instances[0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate", "StudyID"):
        assert seg[keyword].value == source[keyword].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    assert (seg.SegmentationType, seg.SegmentsOverlap, seg.file_meta.TransferSyntaxUID.is_compressed) == (
        "BINARY",
        "NO",
        False,
    )
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    uids = [image.SOPInstanceUID for image in series.instances]
    assert [entry.ReferencedSOPInstanceUID for entry in referenced.ReferencedInstanceSequence] == uids
    assert seg.NumberOfFrames == 2 * SHAPE[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (derived,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = series.instances[uids.index(derived.ReferencedSOPInstanceUID)]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
    assert seg.Manufacturer == "MPER for 3D Slicer"
    assert seg.SeriesDescription == "LA, LV: MPER la 1.0.0"


def test_frames_of_an_enhanced_source_are_referenced_by_number(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "one.dcm", stack(SHAPE))
    series = read_series(tmp_path / "one.dcm")
    write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    wanted = {tuple(series.positions_mm[k].round(6)): frame + 1 for k, (_, frame) in enumerate(series.frames)}
    for frame in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        (derived,) = frame.DerivationImageSequence[0].SourceImageSequence
        position = tuple(np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float).round(6))
        assert derived.ReferencedFrameNumber == wanted[position]


def test_each_segment_tells_code_colour_tracking_id_and_who_drew_it(tmp_path: Path, series: DicomSeries) -> None:
    mask = mask_of(series)
    mask = replace(mask, provenance={1: MODEL.edited(), 3: Provenance(MANUAL)})
    write_seg(tmp_path / "seg.dcm", mask, series, SegText("Checked by hand", "Doe^Jane"))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    atrium, ventricle = seg.SegmentSequence
    assert (atrium.SegmentLabel, ventricle.SegmentLabel) == ("LA", "LV")
    code = atrium.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodingSchemeDesignator, code.CodeValue, code.CodeMeaning) == ("SCT", "82471001", "Left atrium")
    assert atrium.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert (atrium.SegmentAlgorithmType, ventricle.SegmentAlgorithmType) == ("SEMIAUTOMATIC", "MANUAL")
    assert atrium.SegmentAlgorithmName == "MPER la 1.0.0 (sha256:01234567)"
    identification = atrium.SegmentationAlgorithmIdentificationSequence[0]
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("MPER la", "1.0.0")
    assert identification.AlgorithmParameters == f"sha256={MODEL.sha256}"
    assert identification.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert "SegmentAlgorithmName" not in ventricle
    assert atrium.TrackingUID != ventricle.TrackingUID
    assert atrium.TrackingID.startswith("LA ")
    assert len(atrium.RecommendedDisplayCIELabValue) == 3
    assert (seg.SeriesDescription, seg.ContentCreatorName) == ("Checked by hand", "Doe^Jane")
    validate(tmp_path / "seg.dcm")


def test_structures_have_the_codes_that_dicom_lists() -> None:
    names = {"LA": "LeftAtrium", "RA": "RightAtrium", "LV": "LeftVentricle", "RV": "RightVentricle"}
    for name, keyword in {**names, "PV": "PulmonaryVein", "Heart": "Heart", "Scar": "Scar"}.items():
        code = make_label(1, name).type
        assert code is not None
        listed = getattr(codes.SCT, keyword)
        assert (code.value, code.scheme) == (listed.value, listed.scheme_designator)
    others = {name: make_label(1, name).type for name in ("MYO", "LAA")}  # of SNOMED CT, not listed in pydicom
    assert {name: code and code.value for name, code in others.items()} == {"MYO": "74281007", "LAA": "33626005"}


def test_the_description_of_a_segment_is_the_quality_to_expect(tmp_path: Path, series: DicomSeries) -> None:
    words = "likely wrong (expected Dice 0.23, 0.05 to 0.45)"
    wrong, good = replace(MODEL, quality=words), replace(MODEL, quality="good (expected Dice 0.91, 0.85 to 1.00)")
    mask = replace(mask_of(series), provenance={1: wrong, 3: good})
    write_seg(tmp_path / "seg.dcm", mask, series)
    atrium, ventricle = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert atrium.SegmentDescription == words
    assert ventricle.SegmentDescription == good.quality
    assert dict(read_seg(tmp_path / "seg.dcm", series).provenance) == {1: wrong, 2: good}
    validate(tmp_path / "seg.dcm")


def test_what_is_written_is_read_back_whole(tmp_path: Path, series: DicomSeries) -> None:
    side, liver = Code("SCT", "24028007", "Right"), Code("SCT", "10200004", "Liver")
    abnormal, mass_code = Code("SCT", "49755003", "Morphologically Abnormal Structure"), Code("SCT", "4147007", "Mass")
    mass = Label(2, "Mass, right", abnormal, mass_code, (10, 200, 30), side, liver, side)
    mask = mask_of(series)
    mask = Segmentation(
        mask.labelmap.with_array(np.where(mask.labelmap.array == 3, np.uint8(2), mask.labelmap.array)),
        (make_label(1, "LA"), mass),
        {1: MODEL, 2: Provenance("SEMIAUTOMATIC", "Threshold")},
    )
    write_seg(tmp_path / "seg.dcm", mask, series)
    found = read_seg(tmp_path / "seg.dcm", series)
    np.testing.assert_array_equal(found.labelmap.array, mask.labelmap.array)
    assert dict(found.provenance) == dict(mask.provenance)
    for label, other in zip(mask.labels, found.labels, strict=True):
        assert replace(other, colour=label.colour) == label
        assert np.abs(np.subtract(other.colour, label.colour)).max() <= 1
    write_segmentation(tmp_path / "mask.seg.nrrd", found)
    again = read_segmentation(tmp_path / "mask.seg.nrrd")
    assert again.labels == found.labels
    # A checksum travels in Slicer's tags with its first digits.
    assert {p.name for p in again.provenance.values()} == {p.name for p in mask.provenance.values()}
    validate(tmp_path / "seg.dcm")


def test_nobody_is_told_the_name_of_a_patient(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def change(_: int, image: Dataset) -> None:
        # None is as the standard wants it, and pydicom's log would say so, in places with the value.
        image.PatientName, image.PatientID, image.PatientSex = "Jane Q. Doe", "Doe" * 30, "Doe, a lady"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_classic(tmp_path / "series", stack(SHAPE), change)
    capfd.readouterr()
    caplog.clear()
    series = read_series(tmp_path / "series")
    report = write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    told = capfd.readouterr()
    assert caplog.records == []
    assert "Doe" not in told.out + told.err + report.to_text()


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87"])
def test_names_in_any_script_survive(tmp_path: Path, charset: str | None) -> None:
    name = {None: "Doe^John", "ISO_IR 100": "Müller^Änne"}.get(charset, "山田^太郎")

    def change(_: int, image: Dataset) -> None:
        if charset:
            image.SpecificCharacterSet = ["", charset] if charset.startswith("ISO 2022") else charset
        image.PatientName = name

    write_classic(tmp_path / "series", stack(SHAPE), change)
    series = read_series(tmp_path / "series")
    mask = mask_of(series)
    for label in ("LA", "Vorhof groß"):
        named = replace(mask, labels=(replace(mask.labels[0], name=label), mask.labels[1]))
        write_seg(tmp_path / "seg.dcm", named, series)
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        assert str(seg.PatientName) == name
        assert seg.SegmentSequence[0].SegmentLabel == label
        validate(tmp_path / "seg.dcm")


def test_values_that_break_the_standard_are_left_out_and_told(tmp_path: Path) -> None:
    def change(_: int, image: Dataset) -> None:
        image.add_new("PatientSex", "CS", "W")
        image.add_new("StudyDate", "LO", "5 January 2024")

    write_classic(tmp_path / "series", stack(SHAPE), change)
    series = read_series(tmp_path / "series")
    report = write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    assert [note.split()[2] for note in report.notes] == ["StudyDate", "PatientSex"]
    validate(tmp_path / "seg.dcm")


def test_a_cropped_or_turned_mask_lands_where_it_belongs(tmp_path: Path, series: DicomSeries) -> None:
    mask = mask_of(series)
    small = mask.labelmap.crop((0, 0, 0), (5, 5, 7))
    assert not mask.labelmap.array[5:].any()
    back = turned(small)
    affine = back.geometry.affine[:, [2, 0, 1, 3]]  # and with other axes first
    back = Volume(back.array.transpose(2, 0, 1), Geometry(affine, (7, 5, 5)))
    for moved in (small, back):
        write_seg(tmp_path / "seg.dcm", replace(mask, labelmap=moved), series)
        np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", series).labelmap.array, numbered(mask))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), seed=st.integers(0, 99), enhanced=st.booleans())
def test_any_mask_of_any_orientation_comes_back(
    tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, float, float], seed: int, enhanced: bool
) -> None:
    folder = tmp_path_factory.mktemp("series")
    (write_enhanced if enhanced else write_classic)(folder / "a", stack((3, 4, 3), angles))
    series = read_series(folder / "a")
    array = np.random.default_rng(seed).integers(0, 3, (3, 4, 3), np.uint8)
    array[0, 0, :2] = 1, 2
    labels = (make_label(1, "LA"), make_label(2, "LV"))
    mask = Segmentation(series.volume.with_array(array), labels, {1: MODEL, 2: MODEL})
    write_seg(folder / "seg.dcm", mask, series)
    np.testing.assert_array_equal(read_seg(folder / "seg.dcm", series).labelmap.array, array)
    np.testing.assert_array_equal(read_by_highdicom(folder / "seg.dcm", series), array)


# The export check


def test_the_export_check_is_kept_beside_the_file_and_tells_nothing_of_the_patient(
    tmp_path: Path, series: DicomSeries
) -> None:
    report = write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    text, data = report_paths(tmp_path / "seg.dcm")
    assert text.read_text(encoding="utf-8") == report.to_text()
    assert "Export check of seg.dcm: passed" in report.to_text()
    stored = json.loads(data.read_text(encoding="utf-8"))
    assert stored["passed"] is True
    assert stored == json.loads(json.dumps(report.to_dict()))
    checks = {check["what"]: check for check in stored["checks"]}
    assert checks["voxels"]["found"] == "6x5x7, 0 differ"
    assert checks["source images referenced"]["found"] == "6 of 6"
    assert checks["segment 2 (LV): type"]["found"] == "Left ventricle (SCT 87878005)"
    for secret in ("Müller", "P-4711", "19500102", str(tmp_path), str(series.instances[0].StudyInstanceUID)):
        assert secret not in text.read_text(encoding="utf-8") + data.read_text(encoding="utf-8")


def test_a_file_that_cannot_be_replaced_keeps_its_own_export_check(
    tmp_path: Path, series: DicomSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def refuse(_source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))

    monkeypatch.setattr(seg_write, "replace_file", refuse)
    with pytest.raises(PermissionError):
        write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda seg: setattr(seg, "PixelData", bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]), "1 differ"),
        (lambda seg: setattr(seg.SegmentSequence[0], "SegmentLabel", "RA"), "label: RA instead of LA"),
        (
            lambda seg: setattr(seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0], "CodeValue", "1"),
            "type: Left ventricle (SCT 1) instead of Left ventricle (SCT 87878005)",
        ),
        (lambda seg: setattr(seg.SegmentSequence[0], "SegmentAlgorithmType", "MANUAL"), "MANUAL instead of AUTOMATIC"),
        (
            lambda seg: setattr(seg.SegmentSequence[0], "RecommendedDisplayCIELabValue", [0, 32896, 32896]),
            "colour: (0, 0, 0) instead of (203, 108, 81)",
        ),
        (lambda seg: seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence.pop(), "5 of 6 instead of 6 of 6"),
        (lambda seg: setattr(seg, "PatientID", "somebody else"), "patient: differs from the source"),
        (lambda seg: setattr(seg, "Manufacturer", "QIICR"), "made by: QIICR"),
    ],
)
def test_a_file_that_says_something_else_is_not_kept(
    tmp_path: Path,
    series: DicomSeries,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Dataset], object],
    told: str,
) -> None:
    encode = seg_write._encode

    def damaged(dataset: Dataset) -> bytes:
        damage(dataset)
        return encode(dataset)

    monkeypatch.setattr(seg_write, "_encode", damaged)
    before = sorted(tmp_path.iterdir())
    message = refusal(lambda: write_seg(tmp_path / "seg.dcm", mask_of(series), series))
    assert "was not kept: read back, it differs" in message
    assert told in message
    assert sorted(tmp_path.iterdir()) == before


# What is refused


def test_an_empty_segment_is_left_out_and_told_and_an_empty_mask_is_refused(
    tmp_path: Path, series: DicomSeries
) -> None:
    heard: list[str] = []
    mask = mask_of(series)
    only = replace(mask, labelmap=mask.labelmap.with_array(np.where(mask.labelmap.array == 3, 3, 0).astype(np.uint8)))
    report = write_seg(tmp_path / "seg.dcm", only, series, notify=heard.append)
    assert heard == ["left out LA: no voxels"]
    assert "Note: left out LA: no voxels" in report.to_text()
    assert [label.name for label in read_seg(tmp_path / "seg.dcm", series).labels] == ["LV"]
    nothing = replace(mask, labelmap=mask.labelmap.with_array(np.zeros(SHAPE, np.uint8)))
    assert "the mask is empty" in refusal(lambda: write_seg(tmp_path / "none.dcm", nothing, series))
    assert not (tmp_path / "none.dcm").exists()


def test_what_a_segmentation_cannot_say_is_refused(tmp_path: Path, series: DicomSeries) -> None:
    mask, path = mask_of(series), tmp_path / "seg.dcm"
    array = mask.labelmap.array.copy()
    array[5] = UNLABELLED
    partly = replace(mask, labelmap=mask.labelmap.with_array(array))
    assert "35 unlabelled voxels (255)" in refusal(lambda: write_seg(path, partly, series))
    uncoded = replace(mask, labels=(make_label(1, "tumour"), mask.labels[1]))
    assert "'tumour' has no code" in refusal(lambda: write_seg(path, uncoded, series))
    unsaid = replace(mask, provenance={1: MODEL})
    assert "it is not known how 'LV' was made" in refusal(lambda: write_seg(path, unsaid, series))
    long = replace(mask, labels=(replace(mask.labels[0], name="x" * 65), mask.labels[1]))
    assert "at most 64 printable characters" in refusal(lambda: write_seg(path, long, series))
    assert "must end in .dcm" in refusal(lambda: write_seg(tmp_path / "seg.nrrd", mask, series))
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        write_seg(tmp_path / "missing" / "seg.dcm", mask, series)
    assert list(tmp_path.glob("*seg*")) == []


@pytest.mark.parametrize(
    ("shift", "scale", "told"),
    [
        ((0.0, 0.5, 0.0), 1.0, "on another grid"),
        ((0.0, 0.0, 0.0), 1.02, "on another grid"),
        ((-9.0, 0.0, 0.0), 1.0, "voxels of the mask lie outside the scan"),
    ],
)
def test_a_mask_of_another_grid_is_refused(
    tmp_path: Path, series: DicomSeries, shift: tuple[float, float, float], scale: float, told: str
) -> None:
    mask = mask_of(series)
    affine = mask.labelmap.geometry.affine.copy()
    affine[:3, 3] = mask.labelmap.geometry.to_world(shift)
    affine[:3, :3] *= scale
    moved = replace(mask, labelmap=Volume(mask.labelmap.array, Geometry(affine, SHAPE)))
    assert told in refusal(lambda: write_seg(tmp_path / "seg.dcm", moved, series))
    unknown = replace(mask, labelmap=Volume(mask.labelmap.array, Geometry.unknown(SHAPE)))
    assert "tells no position" in refusal(lambda: write_seg(tmp_path / "seg.dcm", unknown, series))


@pytest.mark.parametrize(
    ("keyword", "told"),
    [
        ("FrameOfReferenceUID", "has no FrameOfReferenceUID"),
        ("StudyInstanceUID", "has no StudyInstanceUID"),
        ("SOPInstanceUID", "has no SOPInstanceUID"),
    ],
)
def test_a_series_that_cannot_be_referred_to_is_refused(tmp_path: Path, keyword: str, told: str) -> None:
    write_classic(tmp_path / "series", stack(SHAPE), lambda _, image: delattr(image, keyword))
    series = read_series(tmp_path / "series")
    assert told in refusal(lambda: write_seg(tmp_path / "seg.dcm", mask_of(series), series))


def test_images_that_share_their_identity_get_no_segmentation(tmp_path: Path) -> None:
    def anonymised(_: int, image: pydicom.Dataset) -> None:
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

    write_classic(tmp_path / "series", stack(SHAPE), anonymised)
    series = read_series(tmp_path / "series")
    told = refusal(lambda: write_seg(tmp_path / "seg.dcm", mask_of(series), series))
    assert "several images of the series have one SOPInstanceUID" in told and ".seg.nrrd" in told


def test_a_single_image_gets_no_segmentation(folder: Path, tmp_path: Path) -> None:
    series = read_series(next(folder.iterdir()))
    mask = Segmentation(series.volume.with_array(np.ones((1, 5, 7), np.uint8)), (make_label(1, "LA"),), {1: MODEL})
    assert "is a single image" in refusal(lambda: write_seg(tmp_path / "seg.dcm", mask, series))


# What others write


def write_by_dcmqi(folder: Path, mask: Segmentation, path: Path) -> None:
    place = path.parent
    files = []
    for label in mask.labels:
        files.append(place / f"{label.name}.nrrd")
        write_volume(files[-1], mask.labelmap.with_array((mask.labelmap.array == label.value).astype(np.uint8)))
    segments = [
        [
            {
                "labelID": 1,
                "SegmentLabel": label.name,
                "SegmentDescription": label.name,
                "SegmentAlgorithmType": "SEMIAUTOMATIC",
                "SegmentAlgorithmName": "Somebody's",
                "SegmentedPropertyCategoryCodeSequence": _json(label.category),
                "SegmentedPropertyTypeCodeSequence": _json(label.type),
                "recommendedDisplayRGBValue": list(label.colour),
            }
        ]
        for label in mask.labels
    ]
    about = {
        "ContentCreatorName": "Doe",
        "ClinicalTrialSeriesID": "1",
        "ClinicalTrialTimePointID": "1",
        "SeriesDescription": "x",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "BodyPartExamined": "HEART",
        "segmentAttributes": segments,
    }
    (place / "about.json").write_text(json.dumps(about), encoding="utf-8")
    command = [tool("itkimage2segimage"), "--inputImageList", ",".join(map(str, files)), "--outputDICOM", str(path)]
    command += ["--inputDICOMDirectory", str(folder), "--inputMetadata", str(place / "about.json"), "--skip"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert path.exists(), done.stderr + done.stdout


def _json(code: Code | None) -> dict[str, str]:
    assert code is not None
    return {"CodeValue": code.value, "CodingSchemeDesignator": code.scheme, "CodeMeaning": code.meaning}


def test_segmentations_of_dcmqi_are_read(tmp_path: Path) -> None:
    write_classic(tmp_path / "series", stack(SHAPE), patient)
    series = read_series(tmp_path / "series")
    mask = mask_of(series)
    write_by_dcmqi(tmp_path / "series", mask, tmp_path / "seg.dcm")
    assert open_seg(tmp_path / "seg.dcm").NumberOfFrames < 2 * SHAPE[0]  # empty frames are left out
    found = read_seg(tmp_path / "seg.dcm", series)
    np.testing.assert_array_equal(found.labelmap.array, numbered(mask))
    assert [(label.name, label.type) for label in found.labels] == [(x.name, x.type) for x in mask.labels]
    assert found.labels[0].colour == pytest.approx(mask.labels[0].colour, abs=2)
    assert {p.type for p in found.provenance.values()} == {"SEMIAUTOMATIC"}
    assert found.provenance[1].algorithm == "Somebody's"


def foreign(series: DicomSeries, path: Path, **options: object) -> None:
    """A segmentation by highdicom of segments that may overlap, of other types, or with frames left out."""
    written = mask_of(series)
    array = np.stack([written.labelmap.array == 1, written.labelmap.array == 3], axis=-1).astype(np.uint8)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label="LA",
            segmented_property_category=pydicom.sr.coding.Code("123037004", "SCT", "Anatomical Structure"),
            segmented_property_type=pydicom.sr.coding.Code("82471001", "SCT", "Left atrium"),
            algorithm_type="MANUAL",
        )
        for n in (1, 2)
    ]
    images = [pydicom.dcmread(file) for file in series.paths]
    settings: dict[str, object] = {"pixel_array": array, "segmentation_type": "BINARY", **options}
    seg = highdicom.seg.Segmentation(
        source_images=images,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        **settings,
    )
    seg.save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_other_types_of_segmentation_are_read_where_they_are_masks(
    tmp_path: Path, series: DicomSeries, kind: str
) -> None:
    foreign(series, tmp_path / "seg.dcm", segmentation_type=kind)
    heard: list[str] = []
    found = read_seg(tmp_path / "seg.dcm", series, heard.append)
    np.testing.assert_array_equal(found.labelmap.array, numbered(mask_of(series)))
    assert [label.name for label in found.labels][-2:] == ["LA", "LA (2)"]
    assert any("two segments are named 'LA'" in line for line in heard)


def test_segments_that_overlap_and_fractions_are_refused(tmp_path: Path, series: DicomSeries) -> None:
    array = np.zeros((*SHAPE, 2), np.uint8)
    array[2] = 1
    foreign(series, tmp_path / "seg.dcm", pixel_array=array)
    assert "'LA' and 'LA (2)' overlap" in refusal(lambda: read_seg(tmp_path / "seg.dcm", series))
    foreign(series, tmp_path / "seg.dcm", pixel_array=array * np.float32(0.5), segmentation_type="FRACTIONAL")
    assert "holds fractions" in refusal(lambda: read_seg(tmp_path / "seg.dcm", series))


def test_a_segmentation_of_another_study_frame_or_grid_is_refused(tmp_path: Path, series: DicomSeries) -> None:
    write_seg(tmp_path / "seg.dcm", mask_of(series), series)
    for keyword, what in (("StudyInstanceUID", "study"), ("FrameOfReferenceUID", "frame of reference")):
        write_classic(tmp_path / what, stack(SHAPE), lambda _, image, key=keyword: setattr(image, key, "1.2.3"))
        other = read_series(tmp_path / what)
        assert f"belongs to another {what}" in refusal(lambda other=other: read_seg(tmp_path / "seg.dcm", other))
    write_classic(tmp_path / "turned", stack(SHAPE, (0, 0, 0)))
    other = read_series(tmp_path / "turned")
    assert "lies on another grid" in refusal(lambda: read_seg(tmp_path / "seg.dcm", other))
    assert "another study" in refusal(lambda: read_seg(PUBLIC / "liver_1frame.dcm", series))


def test_what_is_no_whole_segmentation_is_refused(tmp_path: Path, series: DicomSeries) -> None:
    path = tmp_path / "seg.dcm"
    write_seg(path, mask_of(series), series)
    whole = path.read_bytes()
    for keep in [*range(0, len(whole) - 3, 397), len(whole) - 3]:
        path.write_bytes(whole[:keep])
        assert "seg.dcm" in refusal(lambda: read_seg(path, series))
    assert "but no segmentation" in refusal(lambda: read_seg(PUBLIC / "MR_small.dcm", series))
    path.write_text("hello", encoding="utf-8")
    assert "is not a DICOM file" in refusal(lambda: read_seg(path, series))
    with pytest.raises(FileNotFoundError):
        read_seg(tmp_path / "missing.dcm", series)


def test_a_series_with_gaps_gets_no_segmentation(tmp_path: Path) -> None:
    write_classic(tmp_path / "s", stack((8, 5, 4), (0, 0, 0)), lambda k, _: "leave out" if k in (2, 5) else None)
    assert "from 9.50 to 14.50 mm (5.00 mm), from 17.00 to 22.00 mm" in refusal(lambda: read_series(tmp_path / "s"))


# The command line


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What is told, and that it is one line without a traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("mper: note:")]
    assert len(lines) == 1
    assert lines[0].startswith("mper: error: ")
    return lines[0]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A series with a bright ball, large enough for a model."""
    volume = stack((12, 30, 26))
    index = np.moveaxis(np.indices(volume.array.shape), 0, -1)
    ball = (((index - (6, 15, 13)) / (4, 9, 8)) ** 2).sum(axis=-1) < 1
    noise = np.random.default_rng(0).normal(100, 10, volume.array.shape)
    write_classic(tmp_path / "scan", volume.with_array((noise + 200 * ball).astype(np.int16)), patient)
    return tmp_path / "scan"


def model_of(label: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that takes what is bright for that structure."""
    bundle = threshold_bundle()
    bundle = replace(bundle, card=replace(bundle.card, labels=(make_label(1, label),)))
    saved = bundle.save(folder / "model")
    bundle = replace(bundle, sha256=ModelBundle.load(saved).sha256)
    monkeypatch.setattr(ModelBundle, "load", staticmethod(lambda _: bundle))
    return saved


def test_segment_writes_a_checked_segmentation_of_a_dicom_folder(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = model_of("LA", tmp_path, monkeypatch)
    words = ["segment", str(scan), str(tmp_path / "seg.dcm"), "--model", str(saved), "--device", "cpu", "--json"]
    assert main(words) == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["check"]["passed"]
    assert [Path(file).exists() for file in answer["check_files"]] == [True, True]
    assert main(["segment", str(scan), str(tmp_path / "mask.seg.nrrd"), *words[3:]]) == OK
    drawn = read_segmentation(tmp_path / "mask.seg.nrrd")
    found = read_seg(tmp_path / "seg.dcm", read_series(scan))
    np.testing.assert_array_equal(found.labelmap.array, drawn.labelmap.array)
    made = found.provenance[1]
    assert (made.type, made.sha256) == ("AUTOMATIC", answer["model"]["sha256"])
    assert drawn.provenance[1].name == made.name
    validate(tmp_path / "seg.dcm")


def test_a_scan_without_dicom_origin_gets_no_invented_frame_of_reference(
    tmp_path: Path, series: DicomSeries, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(tmp_path / "scan.nrrd", series.volume)
    write_segmentation(tmp_path / "mask.seg.nrrd", mask_of(series))
    export = ["export-seg", str(tmp_path / "mask.seg.nrrd"), "--source", str(tmp_path / "scan.nrrd")]
    for words in (["segment", str(tmp_path / "scan.nrrd"), str(tmp_path / "x.dcm")], [*export, "--out", "x.dcm"]):
        assert main(words) == USAGE
        line = error_line(capsys)
        assert "is not DICOM" in line
        assert ".seg.nrrd or .nii.gz" in line
    assert not (tmp_path / "x.dcm").exists()


def exported(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["export-seg", *words, "--json"]) == OK
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_export_takes_masks_of_every_format_and_says_who_drew_them(
    tmp_path: Path, folder: Path, series: DicomSeries, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = mask_of(series)
    plain = mask.labelmap.with_array(numbered(mask))
    out = tmp_path / "seg.dcm"
    where = ["--source", str(folder), "--out", str(out)]
    for name in ("mask.nrrd", "mask.nii.gz", "mask.mha"):
        write_volume(tmp_path / name, plain)
        exported([str(tmp_path / name), *where, "--labels", "LA,LV", "--manual", "--creator", "Doe^Jane"], capsys)
        found = read_seg(out, series)
        np.testing.assert_array_equal(found.labelmap.array, numbered(mask))
        assert {p.type for p in found.provenance.values()} == {MANUAL}
        assert [label.type for label in found.labels] == [label.type for label in mask.labels]
    write_segmentation(tmp_path / "mask.seg.nrrd", mask)
    for options, type_ in ([], "AUTOMATIC"), (["--edited"], "SEMIAUTOMATIC"):
        exported([str(tmp_path / "mask.seg.nrrd"), *where, *options], capsys)
        assert {found.type for found in algorithms(open_seg(out)).values()} == {type_}
        assert {found.name for found in algorithms(open_seg(out)).values()} == {MODEL.name}
    write_volume(tmp_path / "la.nrrd", plain.with_array((plain.array == 1).astype(np.uint8)))
    exported([str(tmp_path / "la.nrrd"), *where, "--model", "la", "--edited"], capsys)
    (algorithm,) = algorithms(open_seg(out)).values()
    assert algorithm.name.startswith("MPER la 2.")
    assert len(algorithm.parameters) == len("sha256=") + 64
    write_segmentation(tmp_path / "again.seg.nrrd", read_seg(out, series))
    exported([str(tmp_path / "again.seg.nrrd"), *where], capsys)  # the bundled model's checksum is whole again
    assert list(algorithms(open_seg(out)).values()) == [algorithm]


def test_masks_of_slicer_keep_their_tags_and_terminology(
    tmp_path: Path, folder: Path, series: DicomSeries, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segmentation(tmp_path / "mask.seg.nrrd", mask_of(series))
    content = (tmp_path / "mask.seg.nrrd").read_bytes()
    head, voxels = content.split(b"\n\n", 1)
    lines = [line for line in head.split(b"\n") if not line.startswith(b"Segment1_Tags")]
    tags = "DICOM.SegmentAlgorithmName:TotalSegmentator|DICOM.SegmentAlgorithmType:SEMIAUTOMATIC|Segmentation.Status:"
    entry = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~"
    entry += "SCT^64033007^Kidney~SCT^24028007^Right~Anatomic codes - DICOM master list~^^~^^"
    lines.append(f"Segment1_Tags:={tags}inprogress|TerminologyEntry:{entry}|".encode())
    (tmp_path / "mask.seg.nrrd").write_bytes(b"\n".join(lines) + b"\n\n" + voxels)
    exported([str(tmp_path / "mask.seg.nrrd"), "--source", str(folder), "--out", str(tmp_path / "seg.dcm")], capsys)
    seg = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[1]
    code = seg.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodeMeaning) == ("64033007", "Kidney")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert (seg.SegmentAlgorithmType, seg.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "TotalSegmentator")
    assert "SegmentationAlgorithmIdentificationSequence" not in seg  # it would need a version, which nobody told
    validate(tmp_path / "seg.dcm")


def test_what_cannot_be_exported_is_told_in_one_line(
    tmp_path: Path, folder: Path, series: DicomSeries, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = mask_of(series)
    write_segmentation(tmp_path / "mask.seg.nrrd", mask)
    write_volume(tmp_path / "mask.nrrd", mask.labelmap.with_array(numbered(mask)))
    write_volume(tmp_path / "empty.nrrd", mask.labelmap.with_array(np.zeros(SHAPE, np.uint8)))
    write_classic(tmp_path / "two", stack(SHAPE), prefix="A")
    write_classic(tmp_path / "two", stack(SHAPE), prefix="B")
    where = ["--source", str(folder), "--out", str(tmp_path / "seg.dcm")]
    plain, empty, named = (str(tmp_path / name) for name in ("mask.nrrd", "empty.nrrd", "mask.seg.nrrd"))
    for words, code, told in (
        ([plain, *where], USAGE, "is a plain mask without names"),
        ([plain, *where, "--labels", "LA,LV"], FAILED, "it is not known how 'LA' was made"),
        ([plain, *where, "--labels", "LA,LV", "--edited"], USAGE, "--edited needs the model"),
        ([plain, *where, "--labels", "LA,tumour", "--manual"], FAILED, "'tumour' has no code"),
        ([plain, *where, "--labels", "LA", "--manual"], FAILED, "values [2] that no label names"),
        ([plain, *where, "--model", "nonsense"], FAILED, "no model 'nonsense'"),
        ([empty, *where, "--labels", "LA", "--manual"], FAILED, "the mask is empty"),
        ([named, *where, "--manual"], USAGE, "says that MPER la 1.0.0 (sha256:01234567) drew it"),
        ([named, *where, "--model", "la-8"], USAGE, "drew it, not MPER la-8"),
        ([named, *where, "--labels", "LA"], USAGE, "has names of its own"),
        (
            [named, "--source", str(tmp_path / "two"), "--out", where[3]],
            FAILED,
            "2 series, take one of them with --series",
        ),
        ([named, "--source", str(folder), "--out", str(tmp_path / "seg.nrrd")], USAGE, "must end in .dcm"),
        ([named, "--source", str(tmp_path / "none"), "--out", where[3]], FAILED, "does not exist"),
        ([named, "--source", str(folder), "--out", str(next(folder.iterdir()))], USAGE, "must end in .dcm"),
    ):
        assert main(["export-seg", *words]) == code, words
        assert told in error_line(capsys)
    (tmp_path / "seg.dcm").write_bytes(next(folder.iterdir()).read_bytes())
    assert main(["export-seg", named, *where]) == USAGE
    assert "does not look like a mask, so it is not replaced" in error_line(capsys)


def test_import_writes_the_mask_with_all_it_means(
    tmp_path: Path, folder: Path, series: DicomSeries, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = mask_of(series)
    write_seg(tmp_path / "seg.dcm", mask, series)
    words = ["import-seg", str(tmp_path / "seg.dcm"), "--source", str(folder)]
    for name in ("back.seg.nrrd", "back.nii.gz", "back.nrrd"):
        assert main([*words, str(tmp_path / name), "--json"]) == OK
        answer = json.loads(capsys.readouterr().out)
        assert [segment["name"] for segment in answer["segments"]] == ["LA", "LV"]
        assert answer["segments"][0]["code"] == "SCT 82471001 Left atrium"
        labelmap = read_labelmap(tmp_path / name)
        np.testing.assert_array_equal(labelmap.array, numbered(mask))
        assert labelmap.geometry.is_close(series.volume.geometry)
    assert main([*words, str(tmp_path / "back.dcm")]) == USAGE
    assert "its name must end in" in error_line(capsys)
    assert main(["import-seg", str(PUBLIC / "MR_small.dcm"), *words[2:], str(tmp_path / "x.nrrd")]) == FAILED
    assert "but no segmentation" in error_line(capsys)


@pytest.mark.slow
def test_a_real_mask_of_a_real_scan_goes_out_and_comes_back(tmp_path: Path, la_data: Path) -> None:
    case = (la_data / "train.list").read_text(encoding="utf-8").split()[0]
    mask = read_labelmap(la_data / case / "laendo.nrrd")
    from mper.io import read_volume

    write_classic(tmp_path / "series", read_volume(la_data / case / "lgemri.nrrd"), patient)
    series = read_series(tmp_path / "series")
    array = (np.asarray(onto_grid(mask, series.volume.geometry)) > 0).astype(np.uint8)
    drawn = Segmentation(series.volume.with_array(array), (make_label(1, "LA"),), {1: Provenance(MANUAL)})
    report: ExportReport = write_seg(tmp_path / "seg.dcm", drawn, series)
    assert report.passed
    np.testing.assert_array_equal(read_by_highdicom(tmp_path / "seg.dcm", series), array)
    np.testing.assert_array_equal(read_by_dcmqi(tmp_path / "seg.dcm", series, tmp_path / "dcmqi"), array)
    validate(tmp_path / "seg.dcm")


@pytest.mark.parametrize("enhanced", [False, True])
def test_the_mask_of_end_systole_overlays_the_heart_in_the_images_of_that_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enhanced: bool
) -> None:
    """The ball of each phase lies elsewhere, so that a mask of another phase would not overlay it."""
    phases, centres = [], []
    for n, radius in enumerate((1.0, 0.8, 0.6, 0.7)):
        ball = bright_ball(radius)
        phases.append(ball.with_array(np.roll(ball.array, n, axis=2)))
        bright = np.argwhere(phases[-1].array > 200)
        centres.append(ball.geometry.to_world(bright.mean(axis=0)))
    (tmp_path / "cine").mkdir()
    write_cine(tmp_path / "cine", phases, enhanced)
    path, model = tmp_path / "seg.dcm", model_of("LV", tmp_path, monkeypatch)
    words = ["segment", tmp_path / "cine", path, "--phase", "ES", "--model", model, "--device", "cpu"]
    assert main(list(map(str, words))) == OK
    validate(path)
    seg = highdicom.seg.segread(path).get_volume(combine_segments=True)
    inside = np.argwhere(np.asarray(seg.array) > 0)
    assert len(inside) > 100
    centre = np.asarray(seg.affine) @ [*inside.mean(axis=0), 1]
    distances = [float(np.linalg.norm(centre[:3] - other)) for other in centres]
    assert distances[2] < 0.3 < 0.6 < min(distances[:2] + distances[3:])  # mm
    wanted = read_series(tmp_path / "cine", phase=3)
    (listed,) = pydicom.dcmread(path).ReferencedSeriesSequence
    named = {str(one.ReferencedSOPInstanceUID) for one in listed.ReferencedInstanceSequence}
    assert named == {str(image.SOPInstanceUID) for image in wanted.instances}
