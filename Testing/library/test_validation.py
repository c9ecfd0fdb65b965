"""The curve on the hold-out: what it says, what it may cost, and that it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import blob_dataset
from small_models import random_bundle, threshold_bundle, train_with_filters

from mper.datasets.dataset import Dataset
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.labels import make_label
from mper.methods import base
from mper.models.bundle import ModelBundle
from mper.progress import Cancelled, Progress, ignore_progress
from mper.training import curves, validation
from mper.training.runs import RunFolder, read_events
from mper.training.trainer import TrainConfig, start_run, train
from mper.training.validation import HoldoutCurve

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four labelled cases, two of them held out."""
    dataset = blob_dataset(tmp_path_factory.mktemp("held") / "data", 4)
    dataset.lock_holdout(["case2", "case3"])
    return dataset


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    train_with_filters(monkeypatch, 4)
    monkeypatch.setattr(base, "_PATCHES", {2: 6, 3: 4})
    monkeypatch.setattr(validation, "_SHARE", 1e9)
    monkeypatch.setattr(curves, "_draw", lambda rows, path: None)


def curve(dataset: Dataset, **more: Any) -> HoldoutCurve:
    return HoldoutCurve(dataset.split("holdout"), dataset.labels, "cpu", **more)


def test_point_is_the_mean_dice_over_the_cases(held: Dataset) -> None:
    bundle = threshold_bundle(1.0, preprocessing={"spacing_mm": (2.0, 2.0, 2.0)})
    predictor = Predictor(bundle, "cpu")
    wanted = []
    for case in held.split("holdout"):
        mask = predictor.predict(case.image()).segmentation.labelmap.array
        wanted.append(dice(mask == 1, case.label().array == 1))  # type: ignore[union-attr]
    found = curve(held).measure(bundle, ignore_progress)
    assert found == {"LA": pytest.approx(np.mean(wanted), abs=1e-4)} and 0.1 < found["LA"] < 1


def test_cases_without_a_label_count_in_nothing(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 3, labelled=2)
    dataset.lock_holdout(["case1", "case2"])
    bundle = threshold_bundle(1.0)
    alone = HoldoutCurve([dataset.case("case1")], dataset.labels, "cpu").measure(bundle, ignore_progress)
    both = curve(dataset)
    assert both.measure(bundle, ignore_progress) == alone and (both.measured, len(both.cases)) == (1, 2)
    assert HoldoutCurve([dataset.case("case2")], dataset.labels, "cpu").measure(bundle, ignore_progress) is None


def test_points_come_ten_times_a_run_and_never_twice() -> None:
    one = HoldoutCurve([], [make_label(1, "LA")], "cpu")
    ts = np.linspace(0, 1, 1001)
    due = [t for t in ts if one.due(float(t), 100.0)]
    assert due == pytest.approx(np.linspace(0.1, 0.9, 9))  # the tenth is the finished model's
    again = HoldoutCurve([], [make_label(1, "LA")], "cpu")
    assert [again.due(t, 100.0) for t in (0.42, 0.48, 0.5, 0.55)] == [False, False, True, False]


def test_measuring_keeps_within_a_tenth_of_the_time(held: Dataset) -> None:
    dear = curve(held, spent_s=8.0)
    assert dear.due(0.05, 50.0) is False and dear.due(0.1, 79.0) is False and dear.due(0.2, 81.0) is True
    given_up = curve(held)
    assert given_up.measure(threshold_bundle(1.0), ignore_progress, whole_s=1e-6) is None
    ticks = curve(held, clock=iter(range(99)).__next__)
    ticks.measure(threshold_bundle(1.0), ignore_progress)
    assert ticks.spent_s == 3, "one tick a case, and one at the end"
    assert given_up._cost_s > 0 and not given_up.due(0.0, 0.0) and not given_up.due(0.1, given_up._cost_s)
    assert given_up.due(0.2, 1e6)


def test_run_measures_the_hold_out_and_ends_with_the_same_weights(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    for hold in (False, True):
        dataset = blob_dataset(tmp_path / f"data {hold}", 4, labelled=3)
        dataset.add_to_split("train", ["case0", "case1"])
        dataset.add_to_split("other", ["case2", "case3"])
        if hold:
            dataset.lock_holdout(["case2", "case3"])
        config = {"dataset": str(dataset.path), "steps": 10, "patch": (16, 16, 16), "batch": 4, "device": "cpu"}
        if not hold:
            index = dataset.index.splits["train"]
            assert index[-2:] == ("case0", "case1")
            dataset._change(lambda index: type(index)(index.name, index.labels, {"train": ("case0", "case1")}))
        run = tmp_path / f"run {hold}"
        start_run(TrainConfig(**config, method="supervised"), run)
        models.append((run, ModelBundle.load(train(run))))
    (_, plain), (run, measured) = models
    for name, value in plain.state.items():
        assert torch.equal(value, measured.state[name]), name
    points = [event for event in read_events(run) if event["event"] == "holdout"]
    assert [event["step"] for event in points] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert all(0 <= event["dice"]["LA"] <= 1 and event["seconds"] >= 0 for event in points)
    quality = measured.card.about["quality"]
    assert quality["mean"]["dice"] == points[-1]["dice"]["LA"] and quality["cases"].startswith("1 case of the locked")
    assert plain.card.about["quality"] == "not measured"


def test_fine_tuning_begins_with_what_its_model_reaches(held: Dataset, tmp_path: Path, tiny: None) -> None:
    points = {}
    for name in ("LA", "RA"):
        bundle = random_bundle("vnet", preprocessing={"spacing_mm": (2.0, 2.0, 2.0)}, window=(16, 16, 16))
        bundle = replace(bundle, card=replace(bundle.card, labels=(make_label(1, name),)))
        model = bundle.save(tmp_path / f"model {name}", "float32")
        run = tmp_path / name
        config = TrainConfig(str(held.path), "supervised", start_from=str(model), steps=2, batch=4, device="cpu")
        start_run(config, run)
        train(run)
        points[name] = {e["step"]: e["dice"] for e in read_events(run) if e["event"] == "holdout"}
    assert list(points["RA"]) == [1, 2] and list(points["LA"]) == [0, 1, 2]
    assert points["LA"][0] == curve(held).measure(bundle, ignore_progress)


def test_command_ends_the_measuring_and_is_obeyed(held: Dataset, tmp_path: Path, tiny: None) -> None:
    run = tmp_path / "run"
    config = TrainConfig(str(held.path), "supervised", steps=20, patch=(16, 16, 16), batch=4, device="cpu")
    start_run(config, run)

    def report(progress: Progress) -> None:
        if progress.message.startswith("measuring"):
            RunFolder(run).steer("cancel")

    with pytest.raises(Cancelled):
        train(run, report)
    assert RunFolder(run).status()["state"] == "cancelled"
    assert not [event for event in read_events(run) if event["event"] == "holdout"]


def test_hold_out_that_cannot_be_read_is_told_and_stops_no_run(tmp_path: Path, tiny: None) -> None:
    dataset = blob_dataset(tmp_path / "data", 2)
    dataset.lock_holdout(["case1"])
    (dataset.path / "cases" / "case1" / "image.nrrd").write_bytes(b"NRRD0004\n")
    run = tmp_path / "run"
    start_run(TrainConfig(str(dataset.path), "supervised", steps=4, patch=(16, 16, 16), batch=4, device="cpu"), run)
    assert train(run) == run / "model"
    notices = [event["message"] for event in read_events(run) if event["event"] == "notice"]
    assert [notice.startswith("the hold-out could not be measured: ") for notice in notices].count(True) == 1
