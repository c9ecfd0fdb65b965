"""Evaluation: the figures of the library, case by case, through the function and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import random_bundle, threshold_bundle

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.evaluation.evaluate import choose_split, evaluate, match_labels
from mper.evaluation.metrics import case_metrics
from mper.inference.predictor import Predictor
from mper.labels import Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.training.trained_scans import scan_checksum
from mper.utils.errors import FAILED, OK
from mper.utils.files import read_json, write_json
from mper.volume import Geometry, Volume

Blob = tuple[Volume, Segmentation]
STRUCTURE = make_label(1, "structure 1")


@dataclass(frozen=True)
class Scan:
    """A case in memory."""

    id: str
    scan: Volume
    mask: Volume | None

    def image(self) -> Volume:
        return self.scan

    def label(self) -> Volume | None:
        return self.mask


@pytest.fixture
def scans(blob_volume: Blob) -> list[Scan]:
    """Three cases: the structure, the structure and its mask moved by a few voxels, and one without label."""
    scan, mask = blob_volume
    moved = mask.labelmap.with_array(np.roll(mask.labelmap.array, 3, axis=1))
    return [Scan("one", scan, mask.labelmap), Scan("moved", scan, moved), Scan("unlabelled", scan, None)]


@pytest.fixture
def dataset(tmp_path: Path, scans: Sequence[Scan]) -> Path:
    made = Dataset.create(tmp_path / "data set", "synthetic", [STRUCTURE])
    for scan in scans:
        case = made.add_case(scan.id, scan.scan, {"format": "test"})
        if scan.mask is not None:
            case.add_label(scan.mask, author="test", how="imported")
    made.add_to_split("train", ["moved"])
    made.add_to_split("val", [scan.id for scan in scans])
    return made.path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return random_bundle().save(tmp_path / "model")


def test_figures_are_those_of_each_prediction(scans: Sequence[Scan]) -> None:
    predictor = Predictor(random_bundle(), "cpu")
    heard: list[str] = []
    found = evaluate(predictor, scans, [STRUCTURE], notify=heard.append)
    assert [case["id"] for case in found["cases"]] == ["one", "moved"]
    for case, scan in zip(found["cases"], scans, strict=False):
        mask = predictor.predict(scan.scan).segmentation.labelmap.array
        assert scan.mask is not None
        expected = case_metrics(mask, scan.mask.array.astype(np.uint8), [STRUCTURE], scan.scan.geometry.spacing_mm)
        assert {name: case[name] for name in expected["mean"]} == expected["mean"]
        assert case["labels"] == expected["labels"]
    for name in ("dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm"):
        assert found["mean"][name] == pytest.approx(np.mean([case[name] for case in found["cases"]]))
        assert found["labels"]["structure 1"][name] == pytest.approx(found["mean"][name])
    assert found["seconds_per_case"] > 0
    assert any("1 of 3 cases have no label" in line for line in heard)


def test_a_model_that_finds_the_structure_scores_high_and_the_worst_case_low(scans: Sequence[Scan]) -> None:
    one, moved = evaluate(Predictor(threshold_bundle(), "cpu"), scans, [STRUCTURE])["cases"]
    assert one["dice"] > 0.85 > moved["dice"]


def test_labels_are_matched_by_name_whatever_their_values(scans: Sequence[Scan]) -> None:
    seven = make_label(7, "Structure 1")
    predictor = Predictor(threshold_bundle(), "cpu")
    renumbered = []
    for scan in scans[:2]:
        assert scan.mask is not None
        renumbered.append(Scan(scan.id, scan.scan, scan.mask.with_array(scan.mask.array * np.uint8(7))))
    plain, other = evaluate(predictor, scans[:2], [STRUCTURE]), evaluate(predictor, renumbered, [seven])
    assert plain["mean"] == other["mean"] and list(other["labels"]) == ["Structure 1"]


def test_unlabelled_voxels_count_in_nothing(scans: Sequence[Scan]) -> None:
    predictor = Predictor(threshold_bundle(), "cpu")
    truth = predictor.predict(scans[0].scan).segmentation.labelmap
    half = truth.array.copy()
    half[: len(half) // 2] = 255
    heard: list[str] = []
    partly = [Scan("half", scans[0].scan, truth.with_array(half)), Scan("whole", scans[0].scan, truth)]
    found = evaluate(predictor, partly, [STRUCTURE], notify=heard.append)
    assert found["mean"]["dice"] == 1 and found["mean"]["hd95_mm"] == 0
    assert len(heard) == 1 and heard[0].startswith("half: partly labelled")


def test_figures_in_mm_are_none_where_the_spacing_is_unknown(scans: Sequence[Scan]) -> None:
    steps = {"spacing_mm": (1.5, 1.0, 1.0), "assumed_spacing_mm": (2.5, 0.7, 0.9)}
    grid = Geometry.unknown(scans[0].scan.array.shape)
    assert scans[0].mask is not None
    scan = Scan("one", Volume(scans[0].scan.array, grid), Volume(scans[0].mask.array, grid))
    mean = evaluate(Predictor(threshold_bundle(preprocessing=steps), "cpu"), [scan], [STRUCTURE])["mean"]
    assert mean["hd95_mm"] is None and mean["asd_mm"] is None and mean["hd95_voxel"] is not None


def test_labels_of_one_side_only_are_told_and_none_in_common_is_refused() -> None:
    la, lv, scar = make_label(1, "LA"), make_label(2, "LV"), make_label(3, "Scar")
    heard: list[str] = []
    assert match_labels([la, lv], [make_label(5, "la"), scar], heard.append) == [(la, make_label(5, "la"))]
    assert "Scar" in heard[0] and "LA, LV" in heard[1]
    with pytest.raises(ValueError, match=r"segments LA, LV.*labels of Scar"):
        match_labels([la, lv], [scar])


def test_the_split_is_the_holdout_else_test_else_val_else_the_only_one() -> None:
    assert choose_split({"train": "a", "test": "b", "final": "c"}, "final") == "final"
    assert choose_split({"train": "a", "test": "b", "val": "c"}) == "test"
    assert choose_split({"train": "a", "val": "c"}) == "val"
    assert choose_split({"mine": "a"}) == "mine"
    with pytest.raises(ValueError, match="a, b; choose one with --split"):
        choose_split({"a": "", "b": ""})
    with pytest.raises(ValueError, match="no split; make one"):
        choose_split({})


def test_cases_without_any_label_are_refused(scans: Sequence[Scan]) -> None:
    with pytest.raises(ValueError, match="none of the 1 cases has a label"):
        evaluate(Predictor(random_bundle(), "cpu"), scans[2:], [STRUCTURE])


# ---- the command line


def test_json_is_the_object_that_scripts_rely_on(
    dataset: Path, model: Path, scans: Sequence[Scan], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(dataset), "--model", str(model), "--device", "cpu", "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    expected = evaluate(Predictor(ModelBundle.load(model), "cpu"), scans, [STRUCTURE])
    assert told["split"] == "val" and told["model"]["name"] == "small"
    assert {"dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm"} <= set(told["mean"])
    assert told["mean"] == pytest.approx(expected["mean"])  # spacing is rounded in the file
    assert told["labels"] == {name: pytest.approx(figures) for name, figures in expected["labels"].items()}
    assert [case["id"] for case in told["cases"]] == ["one", "moved"] and told["seconds_per_case"] > 0


def test_several_splits_are_evaluated_as_one_set_and_each_by_itself(
    dataset: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*splits: str) -> dict[str, Any]:
        words = [word for name in splits for word in ("--split", name)]
        assert main(["evaluate", str(dataset), "--model", str(model), "--device", "cpu", "--json", *words]) == OK
        return json.loads(capsys.readouterr().out)

    both, train, val = told("train", "val", "train"), told("train"), told("val")
    assert both["split"] == "train, val" and "splits" not in train
    assert [case["id"] for case in both["cases"]] == ["moved", "one"]  # once, though it is in both
    for name, alone in (("train", train), ("val", val)):
        assert both["splits"][name]["cases"] == len(alone["cases"])
        assert both["splits"][name]["mean"]["dice"] == pytest.approx(alone["mean"]["dice"])
    assert both["mean"]["dice"] == pytest.approx(val["mean"]["dice"])  # the same cases


def test_people_see_every_case_and_which_is_worst(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelBundle, "load", lambda _: threshold_bundle())
    assert main(["evaluate", str(dataset), "--model", str(model), "--device", "cpu"]) == OK
    said = capsys.readouterr()
    lines = {line.split()[0]: line for line in said.out.splitlines() if line}
    assert "worst" in lines["moved"] and "worst" not in lines["one"] and "mean" in lines
    assert "split 'val'" in said.err


def test_a_published_model_of_the_dataset_goes_by_its_name(
    dataset: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Dataset.open(dataset).publish_model("mine", model)
    for name in ("mine", str(dataset / "models" / "mine"), str(dataset / "models" / "mine" / "1")):
        assert main(["evaluate", str(dataset), "--model", name, "--device", "cpu", "--split", "train", "--json"]) == OK
        said = capsys.readouterr()
        assert [case["id"] for case in json.loads(said.out)["cases"]] == ["moved"] and "was trained on" not in said.err


def test_a_model_that_was_trained_on_what_it_is_evaluated_on_is_told(
    dataset: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = read_json(model / "card.json")
    card["about"]["training"] = {"trained_on": [scan_checksum(Dataset.open(dataset).case("moved"))]}
    write_json(model / "card.json", card)
    words = ["evaluate", str(dataset), "--model", str(model), "--device", "cpu", "--split", "train"]
    assert main(words) == OK
    assert "was trained on moved of these cases: its figures are too good there" in capsys.readouterr().err


def test_a_label_that_is_the_unedited_mask_of_a_model_is_told(
    dataset: Path, model: Path, scans: Sequence[Scan], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = scans[0].label()
    assert mask is not None
    words = ["evaluate", str(dataset), "--model", str(model), "--device", "cpu"]
    for edited, told in ((False, True), (True, False)):
        Dataset.open(dataset).case("one").add_label(mask, author="me", how="model", model=("la", "1"), edited=edited)
        assert main(words) == OK
        assert ("one: labelled by a model alone; figures there flatter" in capsys.readouterr().err) is told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["DATA", "--model", "MODEL", "--split", "tests"], "no split 'tests'; its splits: train, val"),
        (["DATA", "--model", "nothing"], "no model 'nothing'"),
        (["DATA/cases", "--model", "MODEL"], "not a dataset"),
        (["nowhere", "--model", "MODEL"], "nowhere does not exist"),
        (["DATA", "--model", "OTHER"], "no structure can be compared"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_evaluated_is_one_clear_line(
    words: list[str], told: str, dataset: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = random_bundle()
    other = ModelBundle(type(bundle.card)(**{**vars(bundle.card), "labels": (make_label(1, "RV"),)}), bundle.state)
    other.save(tmp_path / "other")
    places = {"DATA": str(dataset), "MODEL": str(model), "OTHER": str(tmp_path / "other")}
    filled = [places.get(word, word.replace("DATA", str(dataset))) for word in words]
    assert main(["evaluate", *filled, "--device", "cpu", "--json"]) == FAILED
    said = capsys.readouterr()
    assert said.out == "" and told in said.err and "Traceback" not in said.err
    assert said.err.splitlines()[-1].startswith("mper: error: ")
