"""``mper measure``: from files to figures, reports and messages."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import RADIUS, atrium, ball, grid
from pydicom.dataset import Dataset
from small_series import write_classic
from system_tools import tool

from mper.cli import main
from mper.cli.measure_report import ReportedMask, _origin
from mper.dicom.grid_match import onto_grid
from mper.dicom.seg_read import read_seg
from mper.dicom.series import read_series
from mper.dicom.sr_write import _label_of, _segment, read_sr
from mper.io import read_segmentation, write_segmentation, write_volume
from mper.labels import Segmentation, make_label
from mper.measurement.case import measure_case
from mper.models.card import read_bundle
from mper.provenance import Provenance
from mper.resources import models_dir
from mper.volume import Geometry, Volume

Run = Callable[..., tuple[int, str, str]]
LA = (make_label(1, "LA"),)
SHIPPED = read_bundle(models_dir() / "la").card
MADE = {1: Provenance.of_model("la", SHIPPED.version, "ab" * 32)}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in ("measure", *words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Größe und mehr")
    mask, scan = atrium(grid(RADIUS + 5, (1.5, 1.5, 1.5)))
    write_volume(folder / "lge.nrrd", Volume(scan.array.astype(np.int16), scan.geometry))
    labelmap = scan.with_array(mask.astype(np.uint8))
    write_segmentation(folder / "mask.seg.nrrd", Segmentation(labelmap, LA, MADE))
    write_volume(folder / "plain.nii.gz", labelmap)
    radius = np.linalg.norm(scan.geometry.to_world(np.moveaxis(np.indices(scan.geometry.shape), 0, -1)), axis=-1)
    write_volume(folder / "p.nii.gz", scan.with_array((1 / (1 + np.exp(radius - RADIUS))).astype(np.float32)))
    valve = {"kind": "plane", "name": "valve", "point_mm": [0, 0, -15], "normal": [0, 0, -1]}
    (folder / "clips.json").write_text(json.dumps({"clips": [valve]}), encoding="utf-8")
    return folder


def grid_of(shape: tuple[int, ...]) -> Geometry:
    return Geometry.from_axes((0, 0, 0), (1.0, 1.0, 1.0), np.eye(3)[:, ::-1], shape)


def figures(out: str) -> dict[str, dict[str, Any]]:
    return {each["key"]: each for each in json.loads(out)["figures"]}


def test_a_mask_with_its_scan_has_figures_with_methods_and_a_report(run: Run, files: Path, tmp_path: Path) -> None:
    words = (files / "mask.seg.nrrd", "--scan", files / "lge.nrrd", "--height-cm", 180, "--weight-kg", 80)
    code, out, _ = run(*words, "--json", "--report", tmp_path / "report")
    assert code == 0
    found = figures(out)
    assert found["la_volume_index"]["value"] == pytest.approx(found["la_volume"]["value"] / 2, abs=1e-3)
    assert found["la_iir_1_20_extent"]["value"] == pytest.approx(20, abs=1.5)
    assert found["la_iir_1_20_extent"]["stages"].keys() == {"DECAAF 2014", "Utah 2010"}
    assert all(each["method"] for each in found.values())
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.html", "figures.csv", "wall.vtp", "wall.ply", "wall.stl"}
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert f"MPER la {SHIPPED.version} (sha256:abababab), unedited" in page and "Model: mean Dice" in page


def test_a_report_says_what_to_expect_of_this_very_mask_where_the_mask_says_it(files: Path) -> None:
    mask = read_segmentation(files / "mask.seg.nrrd")
    words = "likely wrong (expected Dice 0.23, 0.05 to 0.45)"
    told = replace(mask, provenance={value: replace(made, quality=words) for value, made in mask.provenance.items()})
    lines, usual = (_origin(ReportedMask(Path("mask.seg.nrrd"), None, one, None, "", ())) for one in (told, mask))
    assert f"Expected quality: {words}" in lines
    (line,) = [line for line in usual if "Dice" in line]
    assert line.startswith("Model: mean Dice 0.") and line.endswith("what to expect of this mask is not known")


def test_figures_of_a_mask_that_may_be_wrong_say_so(run: Run, files: Path, tmp_path: Path) -> None:
    mask = read_segmentation(files / "mask.seg.nrrd")
    for name, words in (
        ("wrong", "likely wrong (expected Dice 0.23, 0.05 to 0.45)"),
        ("good", "good (expected Dice 0.94, 0.90 to 0.97)"),
    ):
        made = {value: replace(made, quality=words) for value, made in mask.provenance.items()}
        write_segmentation(tmp_path / f"{name}.seg.nrrd", replace(mask, provenance=made))
        code, out, err = run(tmp_path / f"{name}.seg.nrrd", "--json")
        notes = [note for note in json.loads(out)["notes"] if "expected quality" in note]
        told = [f"expected quality of the mask: {words}; look at it before you use its figures"]
        assert code == 0 and notes == (told if name == "wrong" else []) and all(note in err for note in notes)
    made = {value: replace(made, quality=words.replace("good", "check")) for value, made in mask.provenance.items()}
    labels, smaller = (make_label(1, "LV"),), mask.labelmap.with_array(mask.labelmap.array.copy())
    smaller.array[: smaller.array.shape[0] // 2] = 0
    phases = [Segmentation(mask.labelmap, labels, mask.provenance), Segmentation(smaller, labels, made)]
    assert "expected quality of the mask of phase 2: check" in " ".join(measure_case(phases).notes)


def test_the_table_names_values_stages_and_methods(run: Run, files: Path) -> None:
    code, out, err = run(files / "plain.nii.gz", "--labels", "LA", "--scan", files / "lge.nrrd")
    assert code == 0
    assert "DECAAF 2014: stage" in out and "IIR > 1.20, extent" in out and "max along the normal" in out
    assert "no indices by body surface area: give --height-cm and --weight-kg" in err


def test_clips_make_the_atrium_smaller_and_are_named(run: Run, files: Path) -> None:
    whole, part = (
        figures(run(files / "mask.seg.nrrd", "--json", *more)[1])["la_volume"]
        for more in ((), ("--clip", files / "clips.json"))
    )
    assert part["value"] < 0.98 * whole["value"]
    assert "clipped at valve" in part["method"] and "not clipped" in whole["method"]


def test_a_probability_gives_the_range_of_each_figure(run: Run, files: Path) -> None:
    words = (files / "mask.seg.nrrd", "--scan", files / "lge.nrrd", "--probability", files / "p.nii.gz")
    low, high = figures(run(*words, "--json")[1])["la_volume"]["range"]
    shift = np.log(7 / 3)  # where the probability is 0.3 and 0.7
    assert low == pytest.approx(4 / 3 * np.pi * (RADIUS - shift) ** 3 / 1000, rel=0.02)
    assert high == pytest.approx(4 / 3 * np.pi * (RADIUS + shift) ** 3 / 1000, rel=0.02)


def test_phases_have_an_ejection_fraction_and_a_wrong_order_is_one_line(run: Run, tmp_path: Path) -> None:
    geometry = grid(28, (7.0, 1.5, 1.5))
    for name, radius in (("ed", 25), ("es", 20)):
        array = np.where(ball(geometry, radius), 3, 0).astype(np.uint8)
        write_volume(tmp_path / f"{name}.nii.gz", Volume(array, geometry))
    masks = (tmp_path / "ed.nii.gz", tmp_path / "es.nii.gz", "--phases", "--labels", "RV,MYO,LV")
    code, out, err = run(*masks, "--ed", 1, "--es", 2, "--json", "--report", tmp_path / "report")
    answer = json.loads(out)
    assert code == 0 and (answer["ed"], answer["es"]) == (1, 2)
    assert figures(out)["rv_ef"]["value"] is None and "no voxel is RV at ED (phase 1)" in err
    page, table = ((tmp_path / "report" / name).read_text("utf-8") for name in ("report.html", "figures.csv"))
    assert "<td>RV EF<td class=n>not available<td class=m>no voxel is RV at ED, ES" in page
    assert 'rv_ef,RV EF,,%,,,,"no voxel is RV at ED, ES"' in table
    edv, esv = answer["volumes_ml"]["LV"]
    assert figures(out)["lv_ef"]["value"] == pytest.approx(100 * (edv - esv) / edv, abs=0.01)
    code, _, err = run(*masks, "--ed", 2, "--es", 1)
    assert code == 1 and "phase 2, taken as ED, has a smaller LV" in err.splitlines()[-1]


def test_several_masks_are_a_cohort_with_csv_summary_and_failed_cases(run: Run, files: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        (tmp_path / "masks" / f"{name}.seg.nrrd").write_bytes((files / "mask.seg.nrrd").read_bytes())
    (tmp_path / "masks" / "c.seg.nrrd").write_bytes(b"damaged")
    (tmp_path / "scans" / "a.nrrd").write_bytes((files / "lge.nrrd").read_bytes())
    code, out, err = run(tmp_path / "masks" / "*.seg.nrrd", "--scan", tmp_path / "scans", "--report", tmp_path / "r")
    assert code == 1
    assert "2 of 3 cases measured" in out and "2 masks have no scan of the same name" in err
    lines = (tmp_path / "r" / "figures.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["case", "a", "b"]
    assert "la_iir_1_20_extent [%]" in lines[0]
    assert (tmp_path / "r" / "a" / "report.html").is_file()
    assert "1 failed" in (tmp_path / "r" / "summary.html").read_text(encoding="utf-8")
    one = (tmp_path / "masks" / "a.seg.nrrd", "--scan", tmp_path / "scans")
    code, out, err = run(*one, "--report", tmp_path / "one")
    assert code == 0 and "1 of 1 cases measured" in out, "one mask and a folder of scans are a cohort, too"
    assert "la_iir_1_20_extent [%]" in (tmp_path / "one" / "figures.csv").read_text(encoding="utf-8")
    code, _, err = run(*one, "--clip", tmp_path / "clips.json")
    assert code == 2 and "is a folder of scans" in err


def test_masks_of_one_name_in_several_folders_are_cases_of_their_own_with_their_own_scans(
    run: Run, files: Path, tmp_path: Path
) -> None:
    for patient in ("p1", "p2"):
        (tmp_path / "masks" / patient).mkdir(parents=True)
        (tmp_path / "masks" / patient / "lge.seg.nrrd").write_bytes((files / "mask.seg.nrrd").read_bytes())
    for scan in ("p1/lge.nrrd", "p3/lge.nrrd"):
        (tmp_path / "scans" / scan).parent.mkdir(parents=True)
        (tmp_path / "scans" / scan).write_bytes((files / "lge.nrrd").read_bytes())
    masks = tmp_path / "masks" / "*" / "*.seg.nrrd"
    code, out, err = run(masks, "--scan", tmp_path / "scans", "--report", tmp_path / "r")
    assert code == 0 and "2 of 2 cases measured" in out and "1 masks have no scan of the same name" in err
    one, two = (tmp_path / "r" / "figures.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert one.startswith("p1/lge,") and two.startswith("p2/lge,")
    assert one.count(",,") < two.count(",,"), "the second has no wall figures, and not those of another patient"
    assert all((tmp_path / "r" / patient / "lge" / "report.html").is_file() for patient in ("p1", "p2"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{files}/plain.nii.gz",), "is a plain mask without names"),
        (("{files}/mask.seg.nrrd", "--clip", "{files}/none.json"), "none.json does not exist"),
        (("{files}/mask.seg.nrrd", "--clip", "{files}/lge.nrrd"), "is not a JSON file of clips"),
        (
            ("{files}/mask.seg.nrrd", "--height-cm", "1.8", "--weight-kg", "80"),
            "--height-cm: '1.8' is not a number from 30 to 250",
        ),
        (("{files}/mask.seg.nrrd", "--wall-mm", "50"), "--wall-mm: '50' is not a number from 0.5 to 10"),
        (("{files}/mask.seg.nrrd", "--ed", "1"), "--ed and --es go with --phases"),
        (("{files}/mask.seg.nrrd", "--sr", "{files}/r.dcm"), "--sr refers to a DICOM segmentation, and MASK is none"),
        (("{files}/mask.seg.nrrd", "--probability", "{files}/lge.nrrd"), "no map of fractions from 0 to 1"),
        (("{files}/a.dcm",), "does not exist"),
        (("{files}/mask.seg.nrrd", "--report", "{files}/lge.nrrd"), "is a file; name a folder for the report"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_measured_is_one_line(run: Run, files: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*(word.format(files=files) for word in words))
    assert code != 0 and not out
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_unknown_spacing_is_refused_and_can_be_given(run: Run, tmp_path: Path) -> None:
    array = ball(grid(12), 10).astype(np.uint8)
    write_volume(tmp_path / "mask.nrrd", Volume(array, Geometry.unknown(array.shape)))
    code, _, err = run(tmp_path / "mask.nrrd", "--labels", "LA")
    assert code == 1 and "the spacing of the mask is unknown, so no figure in mL or mm can be given" in err
    code, out, _ = run(tmp_path / "mask.nrrd", "--labels", "LA", "--spacing", "1,1,1", "--json")
    assert code == 0
    assert figures(out)["la_volume"]["value"] == pytest.approx(np.count_nonzero(array) / 1000, abs=1e-3)


def test_a_mask_on_another_grid_than_the_scan_is_refused(run: Run, files: Path, tmp_path: Path) -> None:
    other = grid(RADIUS + 5, (2.0, 2.0, 2.0))
    write_volume(
        tmp_path / "scan.nrrd", Volume(np.arange(np.prod(other.shape), dtype=np.int32).reshape(other.shape), other)
    )
    code, _, err = run(files / "mask.seg.nrrd", "--scan", tmp_path / "scan.nrrd")
    assert code == 1 and "the mask lies on another grid than the scan" in err


def tall(_: int, image: Dataset) -> None:
    image.PatientSize, image.PatientWeight, image.PatientName = "1.80", "80", "Muster^Max"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    mask, scan = atrium(grid(RADIUS + 5, (1.5, 1.5, 1.5)))
    write_classic(folder / "series", Volume(scan.array.astype(np.int16), scan.geometry), tall)
    series = read_series(folder / "series")
    array = onto_grid(scan.with_array(mask.astype(np.uint8)), series.volume.geometry)
    whole = Segmentation(series.volume.with_array(np.asarray(array, np.uint8)), LA, MADE)
    from mper.dicom.seg_write import write_seg

    write_seg(folder / "seg.dcm", whole, series)
    return folder


@pytest.fixture(scope="module")
def report(study: Path) -> Path:
    words = ["measure", str(study / "seg.dcm"), "--scan", str(study / "series"), "--sr", str(study / "sr.dcm")]
    assert main([*words, "--creator", "Doe^Jane", "--report", str(study / "page")]) == 0
    return study / "sr.dcm"


def test_a_report_has_the_figures_of_its_segment(report: Path, study: Path) -> None:
    found = read_sr(report)["Left atrium"]
    voxel_ml = 1.5**3 / 1000
    array = read_series(study / "series").volume.array
    assert found["Volume"] == (pytest.approx(np.count_nonzero(array == 100) * voxel_ml), "mL")
    assert found["LA volume index"][0] == pytest.approx(found["Volume"][0] / 2, abs=1e-3)
    assert found["IIR > 1.20, extent"][0] == pytest.approx(20, abs=1.5)


def test_figures_have_codes_of_their_own_and_units(report: Path) -> None:
    import pydicom

    def numbers(item: Dataset) -> list[Dataset]:
        own = [item] if item.get("ValueType") == "NUM" else []
        return own + [found for child in item.get("ContentSequence", []) for found in numbers(child)]

    found = {}
    for item in numbers(pydicom.dcmread(report)):
        (name,), (value,) = item.ConceptNameCodeSequence, item.MeasuredValueSequence
        (unit,) = value.MeasurementUnitsCodeSequence
        assert unit.CodingSchemeDesignator == "UCUM"
        code = str(name.CodingSchemeDesignator), str(name.CodeValue)
        assert code not in found, "two figures have one code"
        found[code] = str(name.CodeMeaning), str(unit.CodeValue)
    assert found["SCT", "118565006"] == ("Volume", "mL")
    assert found["99MPER", "volume_idx"] == ("LA volume index", "mL/m2")
    assert found["99MPER", "iir_1_20_pct"] == ("IIR > 1.20, extent", "%")
    assert found["99MPER", "wall_mm2"] == ("LA wall area", "mm2")
    assert found["99MPER", "wall_iir_median"][1] == "1"
    assert len(found) == len(read_sr(report)["Left atrium"])


def procedure(report: Path) -> str:
    """The procedure that a report is about."""
    import pydicom

    content = pydicom.dcmread(report).ContentSequence
    (item,) = (each for each in content if each.ConceptNameCodeSequence[0].CodeMeaning == "Procedure reported")
    return str(item.ConceptCodeSequence[0].CodeMeaning)


def texts(report: Path, name: str) -> list[str]:
    """The text items of that name, anywhere in a report."""
    import pydicom

    def within(item: Dataset) -> list[str]:
        own = item.get("ValueType") == "TEXT" and item.ConceptNameCodeSequence[0].CodeMeaning == name
        found = [str(item.TextValue)] if own else []
        return found + [text for child in item.get("ContentSequence", []) for text in within(child)]

    return within(pydicom.dcmread(report))


def test_a_report_refers_to_its_segmentation_and_carries_methods_and_stages(report: Path, study: Path) -> None:
    import pydicom

    text = pydicom.dcmread(report).to_json()
    seg = pydicom.dcmread(study / "seg.dcm", stop_before_pixels=True)
    assert seg.SOPInstanceUID in text and "max along the normal" in text
    assert "DECAAF 2014 stage by IIR > 1.20, extent" in text and "Doe^Jane" in text
    assert "MPER for 3D Slicer, measurements" in text  # the private scheme, named
    assert any(line.startswith("height 180 cm and weight 80 kg") for line in texts(report, "Comment"))


def test_a_report_names_no_patient_on_its_page_unless_asked(report: Path, study: Path, tmp_path: Path) -> None:
    import pydicom

    name = str(pydicom.dcmread(report).PatientName)
    assert name and name not in (study / "page" / "report.html").read_text(encoding="utf-8")
    words = ["measure", str(study / "seg.dcm"), "--scan", str(study / "series"), "--report", str(tmp_path), "--patient"]
    assert main(words) == 0
    assert name in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_validator_finds_no_error_in_a_report(report: Path) -> None:
    told = subprocess.run([tool("dciodvfy"), "-new", str(report)], capture_output=True, check=False)
    text = (told.stdout + told.stderr).decode("latin-1")
    assert "Comprehensive3DSR" in text and "Error" not in text, text


def test_dcmqi_reads_the_figures_back(report: Path, tmp_path: Path) -> None:
    pytest.importorskip("dcmqi", reason="reading back needs dcmqi: pip install dcmqi")
    words = [tool("tid1500reader"), "--inputDICOM", str(report), "--outputMetadata", str(tmp_path / "sr.json")]
    subprocess.run(words, check=True, capture_output=True)
    groups = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    items = {item["quantity"]["CodeMeaning"]: float(item["value"]) for item in groups[0]["measurementItems"]}
    assert items == {name: pytest.approx(value) for name, (value, _) in read_sr(report)["Left atrium"].items()}


def test_a_given_spacing_holds_for_a_dicom_scan_and_is_refused_for_a_dicom_mask(
    run: Run, study: Path, tmp_path: Path
) -> None:
    series = read_series(study / "series")
    write_volume(tmp_path / "plain.nrrd", read_seg(study / "seg.dcm", series, print).labelmap)
    words = ("--scan", study / "series", "--no-wall", "--json")
    volumes = []
    for spacing in ([], ["--spacing", "3,3,3"]):
        code, out, err = run(tmp_path / "plain.nrrd", "--labels", "LA", *words, *spacing)
        assert code == 0 and ("as given, and not" in err) == bool(spacing)
        volumes.append(figures(out)["la_volume"]["value"])
    assert volumes[1] == pytest.approx(8 * volumes[0], rel=1e-3)
    code, _, err = run(study / "seg.dcm", *words, "--spacing", "3,3,3")
    assert code == 2 and "a DICOM segmentation has that of its series" in err


def test_figures_belong_to_the_structure_that_they_measure(study: Path) -> None:
    names = ("LA", "LA wall", "Left vein", "Right vein")
    labels = [replace(make_label(value, name), type=LA[0].type) for value, name in enumerate(names, 1)]
    array = np.zeros((20, 40, 40), np.uint8)
    array[2:18, 4:20, 4:20], array[2:18, 20:24, 4:20], array[2:6, 30:34, 4:20], array[2:6, 30:34, 24:38] = 1, 2, 3, 4
    found = measure_case([Segmentation(Volume(array, grid_of(array.shape)), tuple(labels))])
    assert len({each.key for each in found.figures}) == len(found.figures)
    volumes = {each.group: _label_of(each, labels) for each in found.figures if each.key.endswith("_volume")}
    assert [label.name for label in volumes.values() if label] == list(names)
    segments = Dataset()
    segments.SegmentSequence = [Dataset() for _ in names]
    for segment, label in zip(segments.SegmentSequence, labels, strict=True):
        assert label.type is not None
        kind = Dataset()
        kind.CodingSchemeDesignator, kind.CodeValue = label.type.scheme, label.type.value
        segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence = label.name, [kind]
    assert [_segment(segments, label) for label in labels] == list(segments.SegmentSequence)
    assert _segment(segments, replace(labels[0], name="atrium")) is None, "four are of its type"


@pytest.mark.parametrize("names", [("MYO",), ("MYO", "Scar"), ("LA", "MYO")])
def test_a_myocardium_without_ventricles_is_measured(names: tuple[str, ...]) -> None:
    array = np.zeros((20, 40, 40), np.uint8)
    array[2:18, 4:20, 4:20], array[2:18, 24:30, 4:20] = len(names), 1
    labels = tuple(make_label(value, name) for value, name in enumerate(names, 1))
    found = measure_case([Segmentation(Volume(array, grid_of(array.shape)), labels)])
    assert {"myo_volume", f"{names[-1].lower()}_volume"} <= {each.key for each in found.figures}


def test_a_file_that_is_no_report_is_not_replaced(run: Run, study: Path) -> None:
    code, _, err = run(study / "seg.dcm", "--scan", study / "series", "--sr", study / "seg.dcm")
    assert code == 2 and "exists and is no report, so it is not replaced" in err


def test_segmenting_dicom_writes_segmentation_and_report_that_are_sent_together(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pydicom
    from small_models import threshold_bundle

    bundle = threshold_bundle(0.0, about={"modality": "MR, late gadolinium enhancement"})
    bundle = replace(bundle, card=replace(bundle.card, labels=LA))
    bundle.save(tmp_path / "model")
    monkeypatch.setattr("mper.models.bundle.ModelBundle.load", lambda *_: bundle)
    words = [str(study / "series"), str(tmp_path / "seg.dcm"), "--sr", str(tmp_path / "sr.dcm"), "--json"]
    assert main(["segment", *words, "--model", str(tmp_path / "model"), "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sr"] == str(tmp_path / "sr.dcm")
    found = read_sr(tmp_path / "sr.dcm")["Left atrium"]
    assert found["Volume"][0] == pytest.approx(figures(json.dumps(answer))["la_volume"]["value"], abs=1e-3)
    assert "IIR > 1.20, extent" in found
    assert answer["notes"] and set(texts(tmp_path / "sr.dcm", "Comment")) == set(answer["notes"])
    seg, report = (pydicom.dcmread(tmp_path / f"{name}.dcm", stop_before_pixels=True) for name in ("seg", "sr"))
    assert seg.StudyInstanceUID == report.StudyInstanceUID
    assert seg.SOPInstanceUID in report.to_json()

    from mper.dicom.instances import find_instances

    assert {item.uid for item in find_instances([tmp_path], lambda _: None)} == {
        str(seg.SOPInstanceUID),
        str(report.SOPInstanceUID),
    }


def test_a_report_of_what_is_no_dicom_segmentation_is_refused_before_the_work(files: Path, tmp_path: Path) -> None:
    words = [str(files / "lge.nrrd"), str(tmp_path / "mask.seg.nrrd"), "--sr", str(tmp_path / "sr.dcm")]
    assert main(["segment", *words]) == 2
    assert not list(tmp_path.iterdir())


def test_each_structure_of_a_report_has_its_own_figures(study: Path, tmp_path: Path) -> None:
    from mper.dicom.seg_write import write_seg
    from mper.dicom.sr_write import write_sr

    series = read_series(study / "series")
    array = np.zeros(series.volume.array.shape, np.uint8)
    for value, count in ((1, 40), (2, 30), (3, 60)):
        array[value * 5, 5:25].reshape(-1)[:count] = value
    labels = tuple(make_label(value, name) for value, name in enumerate(("RV", "MYO", "LV"), 1))
    quality = "likely wrong (expected Dice 0.23, 0.05 to 0.45)"
    made = {1: MADE[1], 2: MADE[1].edited(), 3: replace(MADE[1], quality=quality)}
    mask = Segmentation(series.volume.with_array(array), labels, made)
    write_seg(tmp_path / "seg.dcm", mask, series)
    begins, file = "one phase is given: EF needs a mask of ED and one of ES", Path("series", "Größe.dcm")
    notes = (begins, f"left out a damaged file: {study / file}")
    figures = measure_case([mask]).figures
    write_sr(tmp_path / "sr.dcm", figures, tmp_path / "seg.dcm", mask, series, print, "Ärztin^Ö", notes)
    assert read_sr(tmp_path / "sr.dcm") == {
        name: {"Volume": (pytest.approx(count * 1.5**3 / 1000), "mL")}
        for name, count in (("Left ventricle", 60), ("Right ventricle", 40), ("Myocardium", 30))
    }
    assert texts(tmp_path / "sr.dcm", "Expected quality") == [quality]
    assert texts(tmp_path / "sr.dcm", "Comment") == [begins, f"left out a damaged file: {file}"]
    told = subprocess.run([tool("dciodvfy"), "-new", str(tmp_path / "sr.dcm")], capture_output=True, check=False)
    assert b"Error" not in told.stdout + told.stderr
    assert procedure(tmp_path / "sr.dcm") == "MRI of heart"
    for slice_ in series.instances:
        slice_.Modality = "CT"
    write_sr(tmp_path / "ct.dcm", figures, tmp_path / "seg.dcm", mask, series, print)
    assert procedure(tmp_path / "ct.dcm") == "Imaging procedure"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--wall-mm", "-1"], "--wall-mm: '-1' is not a number from 0.5 to 10"),
        (["--height-cm", "1.78"], "--height-cm: '1.78' is not a number from 30 to 250"),
        (["--phases"], "--phases needs the masks of at least two phases, got 1"),
        (["--spacing", "-1,1,1"], "write it with an equals sign: --spacing="),
    ],
)
def test_options_out_of_range_are_wrong_usage(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.nrrd").write_bytes(b"NRRD")
    assert main(["measure", str(tmp_path / "m.nrrd"), *words]) == 2
    assert told in capsys.readouterr().err
