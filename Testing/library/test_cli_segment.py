"""``mper segment``: scans in, masks out, and nothing half-written whatever comes in."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from small_models import random_bundle, threshold_bundle
from small_series import stack, write_classic

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.inference.predictor import Predictor
from mper.io import read_labelmap, read_segmentation, read_volume, write_volume
from mper.labels import Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.utils.errors import CANCELLED, FAILED, OK, USAGE
from mper.volume import Geometry, Volume

Blob = tuple[Volume, Segmentation]
Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one structure with random weights."""
    return random_bundle().save(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def scan(tmp_path: Path, blob_volume: Blob) -> Path:
    path = tmp_path / "Köln Herz" / "scan 1.nrrd"
    path.parent.mkdir()
    write_volume(path, blob_volume[0])
    return path


@pytest.fixture
def segment(model: Path) -> Run:
    def run(*words: str | Path) -> int:
        return main(["segment", *map(str, words), "--model", str(model), "--device", "cpu"])

    return run


def scans_below(folder: Path) -> set[str]:
    """Scans and masks, without the tables of a cohort."""
    return {name for name in files_below(folder) if name.endswith(".nrrd")}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".mha"])
def test_the_mask_is_what_the_predictor_says_on_the_scans_own_grid(
    ending: str, scan: Path, segment: Run, model: Path, tmp_path: Path, blob_volume: Blob
) -> None:
    assert segment(scan, tmp_path / f"mask{ending}") == OK
    expected = Predictor(ModelBundle.load(model), "cpu").predict(blob_volume[0]).segmentation.labelmap
    written = read_labelmap(tmp_path / f"mask{ending}")
    assert np.array_equal(written.array, expected.array) and expected.array.any()
    assert written.geometry.is_close(blob_volume[0].geometry)


def test_a_bright_structure_is_found_from_file_to_file(
    scan: Path, tmp_path: Path, blob_volume: Blob, monkeypatch: pytest.MonkeyPatch, segment: Run
) -> None:
    monkeypatch.setattr(ModelBundle, "load", lambda _: threshold_bundle())
    assert segment(scan, tmp_path / "mask.nrrd") == OK
    mask, truth = read_labelmap(tmp_path / "mask.nrrd").array == 1, blob_volume[1].labelmap.array == 1
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_json_is_one_object_with_what_was_done(
    scan: Path, tmp_path: Path, segment: Run, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(scan, tmp_path / "mask.seg.nrrd", "--json", "--workers", "2") == OK
    said = capsys.readouterr()
    assert "--workers is for several scans, and this is one" in said.err
    told = json.loads(said.out)
    mask = read_segmentation(tmp_path / "mask.seg.nrrd")
    assert told["input"] == str(scan) and told["mask"] == str(tmp_path / "mask.seg.nrrd")
    voxel_mm3 = np.prod(sitk.ReadImage(str(scan)).GetSpacing())
    ml = np.count_nonzero(mask.labelmap.array) * voxel_mm3 / 1000
    assert told["volumes_ml"] == {"structure 1": pytest.approx(ml, abs=5e-4)}
    assert told["volumes_ml"]["structure 1"] > 0
    assert told["model"] == {"name": "small", "version": "1.0.0", "sha256": ModelBundle.load(model).sha256}
    assert told["device"] == "cpu" and 0 <= told["confidence"] <= 1 and told["seconds"] > 0
    assert isinstance(told["notes"], list) and told["prototypes"] is None and told["probabilities"] is None


def test_an_empty_mask_is_written_and_flagged(
    scan: Path,
    tmp_path: Path,
    segment: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ModelBundle, "load", lambda _: threshold_bundle(level=1e6))
    reason = "the mask is empty: structure 1 was not found; check the scan and the model"
    assert segment(scan, tmp_path / "mask.seg.nrrd") == OK
    shown = capsys.readouterr()
    assert "EMPTY MASK, structure 1 0.0 mL, confidence 0.00" in shown.out and f"mper: note: {reason}" in shown.err
    assert not read_labelmap(tmp_path / "mask.seg.nrrd").array.any()
    assert segment(scan, tmp_path / "mask.seg.nrrd", "--json") == OK
    told = json.loads(capsys.readouterr().out)
    assert told["empty"] is True and told["flags"][-1] == {"code": "empty", "words": reason}
    write_volume(tmp_path / "other.nrrd", read_volume(scan))
    assert segment(scan, tmp_path / "other.nrrd", tmp_path / "masks") == OK
    lines = capsys.readouterr().out.splitlines()
    assert "2 of 2 masks to check:" in lines and sum(line.endswith(reason) for line in lines) == 2


def test_json_has_stdout_to_itself_in_a_process_of_its_own(scan: Path, tmp_path: Path, model: Path) -> None:
    words = ["segment", str(scan), str(tmp_path / "mask.nrrd"), "--model", str(model), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "mper", *words], capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == OK, done.stderr
    assert json.loads(done.stdout)["mask"] == str(tmp_path / "mask.nrrd")


def test_volumes_are_null_where_the_spacing_is_unknown(
    tmp_path: Path, blob_volume: Blob, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"spacing_mm": (1.5, 1.0, 1.0), "assumed_spacing_mm": (2.5, 0.7, 0.9)}
    model = random_bundle(preprocessing=steps).save(tmp_path / "model")
    write_volume(tmp_path / "scan.nrrd", Volume(blob_volume[0].array, Geometry.unknown(blob_volume[0].array.shape)))
    words = [str(tmp_path / "scan.nrrd"), str(tmp_path / "mask.nrrd"), "--model", str(model), "--json"]
    assert main(["segment", *words]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["volumes_ml"] == {"structure 1": None} and told["roi_mm"] is None
    assert any("spacing" in note for note in told["notes"])


def test_prototypes_and_probabilities_are_written_beside(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], blob_volume: Blob
) -> None:
    model = random_bundle(classes=3).save(tmp_path / "model")
    names = {"--prototypes": tmp_path / "why.nii.gz", "--probabilities": tmp_path / "p.nrrd"}
    words = [word for pair in names.items() for word in map(str, pair)]
    assert main(["segment", str(scan), str(tmp_path / "m.nrrd"), *words, "--model", str(model), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    expected = Predictor(ModelBundle.load(model), "cpu").predict(blob_volume[0], want={"prototypes", "probabilities"})
    assert expected.prototype_map is not None and expected.probabilities is not None
    assert np.array_equal(read_labelmap(tmp_path / "why.nii.gz").array, expected.prototype_map.array)
    files = [tmp_path / "p-structure_1.nrrd", tmp_path / "p-structure_2.nrrd"]
    assert told["probabilities"] == [str(path) for path in files] and told["prototypes"] == str(tmp_path / "why.nii.gz")
    for path, probability in zip(files, expected.probabilities[1:], strict=True):
        assert np.array_equal(read_volume(path).array, probability.astype(np.float32))


def test_a_prototype_map_for_slicer_names_its_prototypes(scan: Path, tmp_path: Path, segment: Run) -> None:
    assert segment(scan, tmp_path / "mask.nrrd", "--prototypes", tmp_path / "why.seg.nrrd") == OK
    labels = read_segmentation(tmp_path / "why.seg.nrrd").labels
    assert [(label.value, label.name) for label in labels] == [
        *((n, f"background {n}") for n in (1, 2, 3)),
        *((3 + n, f"structure 1 {n}") for n in (1, 2, 3)),
    ]
    assert len({label.colour for label in labels}) == 6


def test_a_model_without_prototypes_says_that_no_map_was_written(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = random_bundle()
    state = {name: tensor * 0 if "prototypes" in name else tensor for name, tensor in bundle.state.items()}
    model = ModelBundle(bundle.card, state).save(tmp_path / "model")
    words = ["segment", str(scan), str(tmp_path / "m.nrrd"), "--prototypes", str(tmp_path / "why.nrrd")]
    assert main([*words, "--model", str(model), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["prototypes"] is None and any("no prototypes" in note for note in told["notes"])
    assert not (tmp_path / "why.nrrd").exists()


def test_only_the_roi_is_segmented(scan: Path, tmp_path: Path, segment: Run, blob_volume: Blob) -> None:
    geometry = blob_volume[0].geometry
    x, y, z = geometry.to_world(np.array(geometry.shape) / 2)
    low, high = np.array([x, y, z]) - 6, np.array([x, y, z]) + 6
    box = ",".join(f"{v:.2f}" for pair in zip(low, high, strict=True) for v in pair)
    assert segment(scan, tmp_path / "mask.nrrd", f"--roi={box}") == OK
    inside = np.argwhere(read_labelmap(tmp_path / "mask.nrrd").array > 0)
    world = geometry.to_world(inside)
    assert len(inside) and (world >= low - 0.01).all() and (world <= high + 0.01).all()


def test_a_dicom_folder_is_one_scan_and_series_says_which(
    tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = stack((8, 20, 18))
    uid = write_classic(tmp_path / "dicom", volume)
    assert segment(tmp_path / "dicom", tmp_path / "one.seg.nrrd") == OK
    assert read_labelmap(tmp_path / "one.seg.nrrd").geometry.is_close(volume.geometry)

    write_classic(tmp_path / "dicom", stack((6, 20, 18)), prefix="other")
    capsys.readouterr()
    assert segment(tmp_path / "dicom", tmp_path / "two.seg.nrrd") == FAILED
    assert uid in capsys.readouterr().err and not (tmp_path / "two.seg.nrrd").exists()
    assert segment(tmp_path / "dicom", tmp_path / "two.seg.nrrd", "--series", uid) == OK
    assert read_labelmap(tmp_path / "two.seg.nrrd").array.shape == (8, 20, 18)


# ---- cohorts


@pytest.fixture
def cohort(tmp_path: Path, blob_volume: Blob) -> Path:
    """Two good scans of one name in two folders, and between them a truncated one."""
    folder = tmp_path / "cohort"
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        write_volume(folder / name / "lge.nrrd", blob_volume[0])
    bad = folder / "b" / "lge.nrrd"
    bad.write_bytes(bad.read_bytes()[:-500])
    return folder


def test_a_bad_scan_is_reported_and_the_rest_goes_on(
    cohort: Path, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(cohort / "*" / "lge.nrrd", tmp_path / "new" / "masks", "--json") == FAILED
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert scans_below(tmp_path / "new" / "masks") == {"a/lge.seg.nrrd", "c/lge.seg.nrrd"}
    assert told["failed"] == 1 and [("error" in case) for case in told["cases"]] == [False, True, False]
    assert told["cases"][1]["input"] == str(cohort / "b" / "lge.nrrd") and "truncated" in told["cases"][1]["error"]
    assert said.err.splitlines()[-1].startswith("mper: error: 1 of 3 scans failed: ")
    assert "Traceback" not in said.err


def test_several_inputs_and_a_folder_are_cohorts_too(
    cohort: Path, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(cohort / "a" / "lge.nrrd", cohort / "c" / "lge.nrrd", tmp_path / "two") == OK
    assert scans_below(tmp_path / "two") == {"a/lge.seg.nrrd", "c/lge.seg.nrrd"}
    assert segment(cohort / "a", tmp_path / "folder", "--prototypes", tmp_path / "why") == OK
    assert scans_below(tmp_path / "folder") == {"lge.seg.nrrd"} and scans_below(tmp_path / "why") == {"lge.nrrd"}
    assert "1 of 1 scans segmented" in capsys.readouterr().out


def test_masks_of_scans_in_a_folder_are_left_out_and_named(
    cohort: Path, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = (cohort / "a" / "lge.nrrd").read_bytes()
    for name in ("p1.nrrd", "p1_seg.nrrd", "p1_LA.nrrd", "p2.nrrd", "mask 7.nrrd"):
        (cohort / name).write_bytes(scan)
    assert segment(cohort, tmp_path / "masks") == OK
    assert scans_below(tmp_path / "masks") == {"p1.seg.nrrd", "p2.seg.nrrd", "mask 7.seg.nrrd"}
    assert "left out the masks of other scans: p1_LA.nrrd, p1_seg.nrrd" in capsys.readouterr().err
    assert segment(cohort / "p1_LA.nrrd", cohort / "p2.nrrd", tmp_path / "named") == OK  # who names it means it
    assert scans_below(tmp_path / "named") == {"p1_LA.seg.nrrd", "p2.seg.nrrd"}


def test_a_cohort_can_be_run_again_into_a_folder_below_itself(cohort: Path, segment: Run) -> None:
    folder = cohort / "a"
    for _ in range(2):
        assert segment(folder, folder / "masks") == OK
        assert scans_below(folder) == {"lge.nrrd", "masks/lge.seg.nrrd"}


def test_ctrl_c_in_a_cohort_keeps_what_is_done(
    cohort: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, calls = Predictor.predict, []

    def predict(self: Predictor, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, *arguments, **named)

    monkeypatch.setattr(Predictor, "predict", predict)
    assert segment(cohort / "[ac]" / "lge.nrrd", tmp_path / "masks") == CANCELLED
    assert scans_below(tmp_path / "masks") == {"a/lge.seg.nrrd"}
    assert "cancelled" in capsys.readouterr().err


def test_series_and_a_cohort_exclude_each_other(cohort: Path, tmp_path: Path, segment: Run) -> None:
    assert segment(cohort / "*" / "lge.nrrd", tmp_path / "masks", "--series", "1.2.3") == USAGE
    assert segment(cohort / "a" / "lge.nrrd", tmp_path / "mask.nrrd", "--series", "1.2.3") == USAGE
    assert not (tmp_path / "masks").exists()


# ---- what must not be lost


def test_an_older_mask_is_replaced_and_a_scan_is_not(
    scan: Path, tmp_path: Path, segment: Run, blob_volume: Blob, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(tmp_path / "mask.nrrd", blob_volume[1].labelmap)
    assert segment(scan, tmp_path / "mask.nrrd") == OK
    assert not np.array_equal(read_labelmap(tmp_path / "mask.nrrd").array, blob_volume[1].labelmap.array)

    other = tmp_path / "scan 2.nrrd"  # `mper segment *.nrrd` where two scans lie: the second would be the output
    write_volume(other, blob_volume[0])
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (scan, other)]
    capsys.readouterr()
    assert segment(scan, other) == USAGE
    assert "does not look like a mask" in capsys.readouterr().err
    assert segment(scan, scan) == USAGE
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in (scan, other)] == before


@pytest.mark.parametrize("option", ["--prototypes", "--probabilities"])
@pytest.mark.parametrize("several", [False, True])
def test_no_result_replaces_a_scan(
    scan: Path,
    tmp_path: Path,
    segment: Run,
    blob_volume: Blob,
    capsys: pytest.CaptureFixture[str],
    option: str,
    several: bool,
) -> None:
    """Results of an earlier run are replaced, somebody's scan of that name is not."""
    out = tmp_path / "results"
    out.mkdir()
    inputs = [scan, scan.with_name("b.nrrd")] if several else [scan]
    for path in inputs[1:]:
        write_volume(path, blob_volume[0])
    mask, extra = (tmp_path / "masks", out) if several else (tmp_path / "m.nrrd", out / "scan 1.nrrd")
    for _ in range(2):
        assert segment(*inputs, mask, option, extra) == OK
    theirs = out / "scan 1.nrrd"
    write_volume(theirs, blob_volume[0])
    before = theirs.read_bytes()
    capsys.readouterr()
    assert segment(*inputs, mask, option, extra) == (FAILED if several else USAGE)
    assert f"{theirs} exists and does not look like a" in capsys.readouterr().err
    assert theirs.read_bytes() == before


# ---- bad input: one line, an exit code, no file


def _nrrd(path: Path, array: np.ndarray, **geometry: Any) -> None:
    axes = {"spacing_mm": (2, 1, 1), "directions": np.eye(3)[:, ::-1], **geometry}
    write_volume(
        path, Volume(array, Geometry.from_axes((0, 0, 0), axes["spacing_mm"], axes["directions"], array.shape))
    )


def _itk(path: Path, image: sitk.Image) -> None:
    sitk.WriteImage(image, str(path))


def _edited(path: Path, old: bytes, new: bytes) -> None:
    _nrrd(path, np.arange(4096, dtype=np.float32).reshape(16, 16, 16))
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def _with(value: float) -> np.ndarray:
    array = np.arange(4096, dtype=np.float32).reshape(16, 16, 16)
    array[3, 4, 5] = value
    return array


BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a text": ("scan.nrrd", lambda p: p.write_text("no volume at all", encoding="utf-8") and None, "scan.nrrd"),
    "an empty file": ("scan.nii.gz", lambda p: p.write_bytes(b"") and None, "scan.nii.gz"),
    "an unknown ending": ("scan.jpg", lambda p: p.write_bytes(b"JFIF" * 99) and None, "neither DICOM"),
    "an empty folder": ("scan", lambda p: p.mkdir(), "holds no scan"),
    "2-D": ("scan.nrrd", lambda p: _itk(p, sitk.Image([16, 16], sitk.sitkInt16)), "2-D"),
    "4-D": ("scan.nii.gz", lambda p: _itk(p, sitk.Image([8, 8, 8, 3], sitk.sitkInt16)), "time series of 3 phases"),
    "RGB": ("scan.nrrd", lambda p: _itk(p, sitk.Image([16, 16, 16], sitk.sitkVectorUInt8, 3)), "3 values"),
    "NaN": ("scan.nrrd", lambda p: _nrrd(p, _with(np.nan)), "NaN"),
    "infinity": ("scan.nrrd", lambda p: _nrrd(p, _with(np.inf)), "infinite"),
    "a constant": ("scan.nrrd", lambda p: _nrrd(p, np.full((16, 16, 16), 7, np.int16)), "every voxel is 7"),
    "one slice": ("scan.nrrd", lambda p: _nrrd(p, _with(1)[:1]), "single slice"),
    "3000 slices": (
        "scan.nrrd",
        lambda p: _nrrd(p, np.arange(3000, dtype=np.int16)[:, None, None].repeat(2, 1).repeat(2, 2)),
        "3000",
    ),
    "spacing zero": ("scan.nrrd", lambda p: _edited(p, b"(1.0,0.0,0.0)", b"(0.0,0.0,0.0)"), "spacing"),
    "skewed axes": ("scan.nrrd", lambda p: _edited(p, b"(1.0,0.0,0.0)", b"(1.0,1.0,0.0)"), "right angles"),
    "missing slices": (
        "dicom",
        lambda p: write_classic(p, stack((8, 6, 6)), lambda k, _: "leave out" if k == 3 else None) and None,
        "slices are missing",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_line_and_no_file(
    kind: str, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, told = BAD[kind]
    make(tmp_path / name)
    (tmp_path / "out").mkdir()
    assert segment(tmp_path / name, tmp_path / "out" / "mask.nrrd", "--json") == FAILED
    assert_one_line(capsys, told)
    assert files_below(tmp_path / "out") == set()


def assert_one_line(capsys: pytest.CaptureFixture[str], told: str) -> None:
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mper: error: ") and said.err.count("\n") == 1, said.err
    assert told in said.err and "Traceback" not in said.err and "an internal error" not in said.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["gone.nrrd", "out/mask.nrrd"], FAILED, "gone.nrrd does not exist"),
        (["gone/*.nrrd", "out"], FAILED, "nothing matches"),
        (["scan.nrrd"], USAGE, "there is no output; give the scan"),
        (["scan.nrrd", "out/mask.dcm"], USAGE, ".seg.nrrd"),
        (["scan.nrrd", "nowhere/mask.nrrd"], FAILED, "nowhere"),
        (["scan.nrrd", "scan.nrrd/mask.nrrd"], FAILED, "scan.nrrd"),
        (["scan.nrrd", "scan.nrrd"], USAGE, "would replace a scan"),
        (["scan.nrrd", "other.nrrd", "scan.nrrd"], USAGE, "folder"),
        (["scan.nrrd", "out/mask.nrrd", "--roi=900,910,900,910,900,910"], FAILED, "ROI"),
        (
            ["scan.nrrd", "out/mask.nrrd", "--roi=0,9,0,9,0,9", "--at=1,2,3"],
            USAGE,
            "--at: not allowed with argument --roi",
        ),
        (["scan.nrrd", "out/mask.nrrd", "--prototypes", "out/why.png"], USAGE, "why.png"),
        (["scan.nrrd", "out/mask.nrrd", "--probabilities", "out/p.seg.nrrd"], USAGE, "p.seg.nrrd"),
        ([".", "."], USAGE, ". is the folder of the scans"),
        (["scan.nrrd", "other.nrrd", "."], USAGE, ". is the folder of the scans"),
        (["scan.nrrd", "other.nrrd", "data"], USAGE, "data is a dataset"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_is_one_clear_line_and_no_file(
    words: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    segment: Run,
    blob_volume: Blob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scan.nrrd", "other.nrrd"):
        write_volume(Path(name), blob_volume[0])
    Path("out").mkdir()
    Dataset.create(Path("data"), "data", [make_label(1, "LA")])
    before = files_below(tmp_path)
    assert segment(*words) == code
    assert_one_line(capsys, told)
    assert files_below(tmp_path) == before


def _tampered(model: Path) -> None:
    weights = model / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))


def _of_format_99(model: Path) -> None:
    card = model / "card.json"
    card.write_text(card.read_text(encoding="utf-8").replace('"format": 1', '"format": 99'), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_tampered, "not the file that the model's card describes"),
        (_of_format_99, "format 99"),
        (lambda model: (model / "weights.safetensors").unlink(), "weights.safetensors"),
        (lambda model: (model / "card.json").write_text("{}", encoding="utf-8"), "format None"),
    ],
    ids=["tampered with", "another version", "no weights", "no card"],
)
def test_a_spoilt_model_is_refused(
    spoil: Callable[[Path], object], told: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_bundle().save(tmp_path / "model")
    spoil(model)
    assert main(["segment", str(scan), str(tmp_path / "mask.nrrd"), "--model", str(model)]) == FAILED
    assert_one_line(capsys, told)
    assert not (tmp_path / "mask.nrrd").exists()


def test_an_unknown_model_lists_the_known_ones(
    scan: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mper.resources.models_dir", lambda: model.parent)
    assert main(["segment", str(scan), str(tmp_path / "mask.nrrd"), "--model", "smal"]) == FAILED
    assert_one_line(capsys, "no model 'smal'; known are small")
    assert main(["segment", str(scan), str(tmp_path / "mask.nrrd"), "--model", "small"]) == OK


def test_a_device_that_is_not_there_is_refused(
    scan: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    words = ["segment", str(scan), str(tmp_path / "mask.nrrd"), "--model", str(model), "--device", "cuda"]
    assert main(words) == FAILED
    assert_one_line(capsys, "'cuda'")
    assert not (tmp_path / "mask.nrrd").exists()


def test_a_full_disk_leaves_no_partial_file(
    scan: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "out").mkdir()
    assert segment(scan, tmp_path / "out" / "mask.nrrd", "--json") == FAILED
    assert_one_line(capsys, "the disk is full")
    assert files_below(tmp_path / "out") == set()


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    scan: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:  # as root and on Windows, no mode of a folder would
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(Predictor, "predict", None)
    (tmp_path / "locked").mkdir()
    for output in ("locked/mask.nrrd", "locked"):
        assert segment(scan, tmp_path / output) == FAILED
        assert_one_line(capsys, f"cannot write into the output folder {tmp_path / 'locked'}")


def test_too_little_memory_is_one_clear_line(
    scan: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Predictor, "predict", short)
    assert segment(scan, tmp_path / "mask.nrrd") == FAILED
    assert_one_line(capsys, "not enough memory")
