"""``mper refine``: a scan and strokes in, a corrected mask out; whatever is wrong with the strokes is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from small_models import random_bundle, threshold_bundle
from small_series import stack, write_classic

from mper.cli import main
from mper.datasets.scan_record import voxels_sha256
from mper.dicom.seg_read import read_seg
from mper.dicom.series import read_series
from mper.inference.predictor import Predictor
from mper.io import read_labelmap, read_segmentation, read_volume, write_volume
from mper.io.strokes import read_strokes, write_strokes
from mper.labels import Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.progress import Cancelled
from mper.provenance import AUTOMATIC, SEMIAUTOMATIC
from mper.refinement.refiner import Refiner
from mper.strokes import Stroke, StrokeList
from mper.utils.errors import CANCELLED, FAILED, OK, USAGE
from mper.volume import Geometry, Volume

Blob = tuple[Volume, Segmentation]
Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two structures with random weights."""
    return random_bundle(classes=3).save(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def scan(tmp_path: Path, blob_volume: Blob) -> Path:
    path = tmp_path / "Köln Herz" / "scan 1.nrrd"
    path.parent.mkdir()
    write_volume(path, blob_volume[0])
    return path


@pytest.fixture
def refiner(model: Path, blob_volume: Blob) -> Refiner:
    """The same, without files."""
    bundle = ModelBundle.load(model)
    return Refiner(Predictor(bundle, "cpu").predict(blob_volume[0], want={"embeddings"}))


@pytest.fixture
def strokes(refiner: Refiner) -> list[Stroke]:
    """Each class where another was found: structure 1, background on it, structure 2."""
    mask = refiner.segmentation.labelmap

    def deepest(value: int) -> tuple[Any, ...]:
        depth = distance_transform_edt(np.pad(mask.array == value, 1))[1:-1, 1:-1, 1:-1]
        return tuple(mask.geometry.to_world(np.unravel_index(depth.argmax(), depth.shape)).tolist())

    return [Stroke(1, (deepest(0),), 2.5), Stroke(0, (deepest(1),), 2.0), Stroke(2, (deepest(0),), 1.0)]


@pytest.fixture
def listed(tmp_path: Path, strokes: list[Stroke], refiner: Refiner) -> Path:
    """The strokes as a file."""
    path = tmp_path / "Köln Herz" / "strokes.json"
    path.parent.mkdir(exist_ok=True)
    write_strokes(path, StrokeList(tuple(strokes)), refiner.segmentation.labels)
    return path


@pytest.fixture
def run(model: Path) -> Run:
    def run(*words: str | Path) -> int:
        return main(["refine", *map(str, words), "--model", str(model), "--device", "cpu"])

    return run


def assert_one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    told = capsys.readouterr()
    lines = told.err.strip().splitlines()
    assert told.out == "" and len(lines) == 1 and lines[0].startswith("mper: error: "), told
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nrrd", ".nii.gz", ".mha"])
def test_the_mask_is_what_the_refiner_says(
    ending: str, scan: Path, listed: Path, run: Run, refiner: Refiner, strokes: list[Stroke], tmp_path: Path
) -> None:
    before = np.array(refiner.segmentation.labelmap.array)
    assert run(scan, listed, tmp_path / f"mask{ending}") == OK
    refiner.set_strokes(strokes)
    written, expected = read_labelmap(tmp_path / f"mask{ending}"), refiner.segmentation.labelmap
    assert np.array_equal(written.array, expected.array) and not np.array_equal(before, expected.array)
    assert written.geometry.is_close(expected.geometry)


def test_no_strokes_give_the_models_own_mask(
    scan: Path, run: Run, refiner: Refiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.json").write_text('{"strokes": []}')
    assert run(scan, tmp_path / "none.json", tmp_path / "mask.nrrd") == OK
    assert np.array_equal(read_labelmap(tmp_path / "mask.nrrd").array, refiner.segmentation.labelmap.array)
    assert "0 strokes" in capsys.readouterr().out


def test_a_list_cut_short_is_undo_and_the_whole_one_again_the_same_mask(
    scan: Path, listed: Path, run: Run, strokes: list[Stroke], refiner: Refiner, tmp_path: Path
) -> None:
    masks = []
    for n in (3, 2, 3):
        labels = refiner.segmentation.labels
        write_strokes(tmp_path / f"{n}.json", StrokeList(tuple(strokes[:n])), labels)
        assert read_strokes(tmp_path / f"{n}.json", labels).strokes == tuple(strokes[:n])
        assert run(scan, tmp_path / f"{n}.json", tmp_path / "mask.nrrd") == OK
        masks.append(read_labelmap(tmp_path / "mask.nrrd").array)
    assert np.array_equal(masks[0], masks[2])
    refiner.set_strokes(strokes)
    refiner.undo()
    assert np.array_equal(masks[1], refiner.segmentation.labelmap.array)


def test_what_each_stroke_changed_is_told(
    scan: Path, listed: Path, run: Run, refiner: Refiner, strokes: list[Stroke], tmp_path: Path, capsys: Any
) -> None:
    assert run(scan, listed, tmp_path / "mask.nrrd") == OK
    told = capsys.readouterr()
    refiner.set_strokes(strokes)
    added = refiner.changes[0].added_ml
    assert added is not None
    assert f"stroke 1 (structure 1): +{round(added[1], 3):.2f} mL structure 1" in told.out
    assert "stroke 2 (background): -" in told.out and "3 strokes" in told.out
    assert "mper: note: stroke 3: it replaces" in told.err


def test_json_is_one_object_with_what_was_done(
    scan: Path,
    listed: Path,
    run: Run,
    refiner: Refiner,
    strokes: list[Stroke],
    model: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    assert run(scan, listed, tmp_path / "mask.seg.nrrd", "--json") == OK
    told = json.loads(capsys.readouterr().out)
    before = refiner.segmentation.volumes_ml()
    refiner.set_strokes(strokes)
    assert (told["input"], told["strokes_file"], told["mask"]) == (
        str(scan),
        str(listed),
        str(tmp_path / "mask.seg.nrrd"),
    )
    assert told["volumes_ml"] == {name: round(ml or 0, 3) for name, ml in refiner.segmentation.volumes_ml().items()}
    assert told["volumes_ml_before"] == {name: round(ml or 0, 3) for name, ml in before.items()}
    assert told["quality_before"] is None, "the model is not calibrated"
    words = [flag["words"] for flag in told["flags_before"]]
    assert words and {f"before the strokes: {each}" for each in words} <= set(told["notes"])
    for row, stroke, change in zip(told["strokes"], strokes, refiner.changes, strict=True):
        assert (row["value"], row["voxels"], row["notes"]) == (stroke.value, change.voxels, list(change.notes))
        assert change.added_ml is not None and sum(row["added_ml"].values()) == pytest.approx(
            sum(change.added_ml.values()), abs=2e-3
        )
    assert told["strokes"][1]["label"] == "background"
    assert told["model"]["sha256"] == ModelBundle.load(model).sha256 and told["device"] == "cpu"


def test_only_structures_that_strokes_changed_are_called_corrected(
    scan: Path, run: Run, refiner: Refiner, strokes: list[Stroke], tmp_path: Path
) -> None:
    agreeing = replace(strokes[1], value=1)
    for stroke in (strokes[0], agreeing):
        refiner.set_strokes([stroke])
        changed = {*refiner.changes[0].gained, *refiner.changes[0].lost} - {0}
        assert changed if stroke is strokes[0] else not changed
        write_strokes(tmp_path / "s.json", StrokeList((stroke,)), refiner.segmentation.labels)
        assert run(scan, tmp_path / "s.json", tmp_path / "mask.seg.nrrd") == OK
        made = read_segmentation(tmp_path / "mask.seg.nrrd").provenance
        expected = {value: SEMIAUTOMATIC if value in changed else AUTOMATIC for value in (1, 2)}
        assert {value: one.type for value, one in made.items()} == expected
        assert made[1].name.startswith("MPER small 1.0.0 (sha256:")


def test_a_dicom_series_becomes_a_dicom_segmentation(tmp_path: Path, blob_volume: Blob, capsys: Any) -> None:
    bundle = threshold_bundle()
    saved = replace(bundle, card=replace(bundle.card, labels=(make_label(1, "LA"),))).save(tmp_path / "model")
    write_classic(tmp_path / "series", stack((12, 30, 26)))
    volume = read_volume(tmp_path / "series")
    point = volume.geometry.to_world((6, 15, 13)).tolist()
    (tmp_path / "s.json").write_text(json.dumps({"strokes": [{"label": "LA", "points_mm": [point], "radius_mm": 3}]}))
    words = ["refine", *(str(tmp_path / name) for name in ("series", "s.json", "seg.dcm"))]
    assert main([*words, "--model", str(saved), "--device", "cpu", "--json"]) == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["check"]["passed"] and answer["seg"] == str(tmp_path / "seg.dcm")
    found = read_seg(tmp_path / "seg.dcm", read_series(tmp_path / "series"))
    assert found.labelmap.array[6, 15, 13] == 1
    assert (found.provenance[1].type == SEMIAUTOMATIC) == bool(answer["strokes"][0]["voxels"])


def test_the_scans_checksum_is_compared(
    scan: Path, run: Run, strokes: list[Stroke], refiner: Refiner, blob_volume: Blob, tmp_path: Path, capsys: Any
) -> None:
    labels = refiner.segmentation.labels
    own = voxels_sha256(blob_volume[0])
    write_strokes(tmp_path / "own.json", StrokeList(tuple(strokes), own, "small/1.0.0"), labels)
    assert run(scan, tmp_path / "own.json", tmp_path / "mask.nrrd") == OK
    assert "were drawn on a mask of" not in capsys.readouterr().err
    write_strokes(tmp_path / "other.json", StrokeList(tuple(strokes), "ab" * 32), labels)
    assert run(scan, tmp_path / "other.json", tmp_path / "other.nrrd") == FAILED
    assert_one_line(capsys, "drawn on another scan (checksum abababababab..., this one has " + own[:12])
    assert not (tmp_path / "other.nrrd").exists()


def test_strokes_of_another_model_are_taken_and_it_is_told(
    scan: Path, run: Run, strokes: list[Stroke], refiner: Refiner, tmp_path: Path, capsys: Any
) -> None:
    write_strokes(tmp_path / "s.json", StrokeList(tuple(strokes), model="la/1.0.0"), refiner.segmentation.labels)
    assert run(scan, tmp_path / "s.json", tmp_path / "mask.nrrd") == OK
    assert "drawn on a mask of the model la/1.0.0; this mask is of small/1.0.0" in capsys.readouterr().err


ONE = {"label": 1, "points_mm": [[0.0, 0.0, 0.0]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "strokes are JSON of the form"),
        ("\x00\xff", "is not"),
        (
            json.dumps({"strokes": [{**ONE, "label": "Aorta"}]}),
            "stroke 1: unknown label 'Aorta'; known are structure 1 (1)",
        ),
        (json.dumps({"strokes": [ONE, {**ONE, "label": 9}]}), "stroke 2: unknown label 9"),
        (json.dumps({"strokes": [{"label": 1}]}), "stroke 1: points_mm is missing"),
        (json.dumps({"strokes": [{**ONE, "points_mm": []}]}), "stroke 1: a stroke needs at least one point"),
        (json.dumps({"strokes": [{**ONE, "points_mm": [[1, 2]]}]}), "stroke 1: the points of a stroke"),
        (json.dumps({"strokes": [{**ONE, "radius_mm": -2}]}), "stroke 1: the radius"),
        ('{"strokes": [{"label": 1, "points_mm": [[NaN, 0, 0]]}]}', "stroke 1: the points of a stroke"),
        (json.dumps({"strokes": [{**ONE, "points_mm": [[900, 0, 0]]}]}), "stroke 1 lies outside the scan"),
        (json.dumps({"strokes": [{**ONE, "points_mm": [[1e300, 0, 0]]}]}), "stroke 1 lies outside the scan"),
    ],
)
def test_strokes_that_cannot_be_are_one_line_before_the_model_is_loaded(
    text: str, words: str, scan: Path, run: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelBundle, "load", None)
    (tmp_path / "s.json").write_text(text, encoding="latin-1")
    assert run(scan, tmp_path / "s.json", tmp_path / "mask.nrrd") == FAILED
    assert_one_line(capsys, str(tmp_path / "s.json"), words)
    assert not (tmp_path / "mask.nrrd").exists()


def test_a_stroke_outside_the_region_of_an_roi_is_told(
    scan: Path, run: Run, blob_volume: Blob, tmp_path: Path, capsys: Any
) -> None:
    geometry = blob_volume[0].geometry
    corners = geometry.to_world([[3, 8, 6], [11, 22, 20]])
    roi = ",".join(f"{v:.2f}" for pair in zip(corners.min(0), corners.max(0), strict=True) for v in pair)
    corner = geometry.to_world((0, 0, 0)).tolist()
    (tmp_path / "s.json").write_text(json.dumps({"strokes": [{**ONE, "points_mm": [corner], "radius_mm": 0.5}]}))
    assert run(scan, tmp_path / "s.json", tmp_path / "mask.nrrd", f"--roi={roi}") == FAILED
    assert_one_line(capsys, "stroke 1 lies outside the segmented region", "another ROI")


def test_missing_files_and_wrong_outputs_are_one_line(
    scan: Path, listed: Path, run: Run, tmp_path: Path, capsys: Any
) -> None:
    for words, code, told in (
        ((scan, tmp_path / "no.json", tmp_path / "mask.nrrd"), FAILED, "no.json"),
        ((tmp_path / "no.nrrd", listed, tmp_path / "mask.nrrd"), FAILED, "no.nrrd does not exist"),
        ((scan, listed, tmp_path / "mask.png"), USAGE, "its name must end in"),
        ((scan, listed, scan), USAGE, "would replace a scan"),
        ((scan, listed, tmp_path / "seg.dcm"), USAGE, "DICOM"),
        ((scan, listed, tmp_path / "nowhere" / "mask.nrrd"), FAILED, "does not exist; create it first"),
        ((scan, listed), USAGE, "OUTPUT"),
    ):
        assert run(*words) == code
        assert_one_line(capsys, told)
    other = tmp_path / "other.nrrd"
    other.write_bytes(scan.read_bytes())
    assert run(scan, listed, other) == USAGE
    assert_one_line(capsys, "does not look like a mask")
    assert other.read_bytes() == scan.read_bytes()


def test_cancelling_leaves_the_older_mask(
    scan: Path, listed: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(scan, listed, tmp_path / "mask.nrrd") == OK
    before = (tmp_path / "mask.nrrd").read_bytes()

    def stop(*_: object) -> None:
        raise Cancelled

    monkeypatch.setattr(Refiner, "add", stop)
    assert run(scan, listed, tmp_path / "mask.nrrd") == CANCELLED
    assert (tmp_path / "mask.nrrd").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"mask.nrrd"}


def test_amounts_are_in_voxels_where_the_spacing_is_unknown(tmp_path: Path, blob_volume: Blob, capsys: Any) -> None:
    steps = {"spacing_mm": (1.5, 1.0, 1.0), "assumed_spacing_mm": (2.5, 0.7, 0.9)}
    model = random_bundle(preprocessing=steps).save(tmp_path / "model")
    array = blob_volume[0].array
    write_volume(tmp_path / "scan.nrrd", Volume(array, Geometry.unknown(array.shape)))
    points = [[float(i), float(j), float(k)] for k in (3, 9) for j in (6, 22) for i in (5, 20)]
    body = {"strokes": [{"label": value, "points_mm": [point]} for point in points for value in (0, 1)]}
    (tmp_path / "s.json").write_text(json.dumps(body))
    words = [str(tmp_path / name) for name in ("scan.nrrd", "s.json", "mask.nrrd")]
    assert main(["refine", *words, "--model", str(model), "--device", "cpu"]) == OK
    assert "voxels changed" in capsys.readouterr().out
