"""Unlabelled scans that show something else than the labelled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_data import LPS
from small_models import random_bundle

from mper.dataloading.patch_sampler import TrainingCase
from mper.datasets.dataset import Dataset
from mper.labels import Segmentation, make_label
from mper.progress import ignore_progress
from mper.training import unlike_scans as module
from mper.training.calibration import usual_shapes
from mper.training.run_evaluation import RunEvaluation
from mper.training.unlike_scans import unlike_scans
from mper.volume import Geometry, Volume

BUNDLE = random_bundle("vnet", 2)
SHAPE = (24, 24, 24)


def scan(radii: tuple[float, float, float]) -> Volume:
    """A bright ellipsoid."""
    index = np.moveaxis(np.indices(SHAPE), 0, -1) - 11.5
    inside = ((index / radii) ** 2).sum(-1) < 1
    return Volume(inside.astype(np.float32), Geometry.from_axes((0, 0, 0), (2.0, 2.0, 2.0), LPS, SHAPE))


BALLS = [scan((r, r + 1, r - 1)) for r in (6, 7, 8)]
NOTHING = scan((0.1, 0.1, 0.1))
ROD = NOTHING.with_array(np.zeros(SHAPE, np.float32))
for n in range(2, 22):
    ROD.array[n, n : n + 2, n - 1 : n + 1] = 1  # from corner to corner


class Threshold:
    """A predictor that takes what is bright for the structure."""

    def __init__(self, *_: object):
        pass

    def predict(self, image: Volume) -> SimpleNamespace:
        mask = np.where(image.array > 0.5, BUNDLE.card.labels[0].value, 0).astype(np.uint8)
        return SimpleNamespace(segmentation=Segmentation(image.with_array(mask), BUNDLE.card.labels))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.setattr(module, "Predictor", Threshold)
    grids = [module.WorkingGrid.plan(ball.geometry, BUNDLE.preprocessing, 3) for ball in BALLS]
    usual = usual_shapes(((g, ball.array.astype(np.uint8)) for g, ball in zip(grids, BALLS, strict=True)), 3, 1)

    def look(labelled: list[Volume], seconds: float = 60.0) -> list[str]:
        scans = [("ball", scan((7, 7, 7))), ("rod", ROD), ("nothing", NOTHING), ("another ball", BALLS[0])]
        looked_at = list(unlike_scans(BUNDLE, usual, labelled, scans, seconds=seconds, report=ignore_progress))
        assert [name for name, _ in looked_at] == [name for name, _ in scans][: len(looked_at)]
        return [name for name, is_unlike in looked_at if is_unlike]

    return look


def test_scans_with_a_mask_of_another_shape_or_none_are_told(found: Callable[..., list[str]]) -> None:
    assert found(BALLS[:2]) == ["rod", "nothing"]


def test_a_model_that_fails_on_labelled_scans_tells_nothing(found: Callable[..., list[str]]) -> None:
    assert found([BALLS[0], ROD]) == []


def test_a_run_counts_the_scans_that_it_had_time_for_also_those_that_have_left_their_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Predictor", Threshold)
    dataset = Dataset.create(tmp_path / "data", "shapes", [make_label(1, "LA")])
    scans = {"a": BALLS[0], "b": BALLS[1], "c": ROD, "d": BALLS[2], "e": ROD}
    cases = [dataset.add_case(name, image, {}) and _training_case(name, image) for name, image in scans.items()]
    sampler = SimpleNamespace(labelled=cases[:2], unlabelled=[replace(case, label=None) for case in cases[2:]])
    data = SimpleNamespace(sampler=sampler, labels=dataset.labels, plan=SimpleNamespace(dimensions=3))
    config = SimpleNamespace(dataset=str(dataset.path), splits=("train",))
    told: list[str] = []
    for seconds in (9.0, 2.0):
        reporter = SimpleNamespace(notify=told.append, measuring=ignore_progress)
        run: Any = (config, data, None, reporter, lambda: BUNDLE, torch.device("cpu"))
        RunEvaluation(*run, clock=iter(range(99)).__next__).look_at_unlabelled(seconds)
    rest = "got a mask of another shape than the labels have; look at them, and exclude those"
    assert told[0].startswith(f"of 3 scans without labels 2 (c, e) {rest}")
    assert told[1].startswith(f"of the first 2 scans without labels 1 (c) {rest}")


def _training_case(name: str, image: Volume) -> TrainingCase:
    grid = module.WorkingGrid.plan(image.geometry, BUNDLE.preprocessing, 3)
    label = grid.forward_labels(image.array.astype(np.uint8), 2)
    return TrainingCase(name, grid.forward(image.array), label, None, grid)


def test_looking_ends_with_its_time(found: Callable[..., list[str]]) -> None:
    assert found(BALLS[:1], seconds=-1.0) == []
