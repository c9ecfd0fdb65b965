"""Two versions on the hold-out: the figures, and a sentence that claims no more than they allow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from small_data import LPS
from small_models import threshold_bundle

from mper.datasets.dataset import Dataset
from mper.evaluation.comparison import compare, summary_text
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.labels import make_label
from mper.volume import Geometry, Volume


def held_out(path: Path, sizes: tuple[float, ...]) -> Dataset:
    """Cases with a step of intensities, of which the label is the part above 1 deviation, cut at a size."""
    dataset = Dataset.create(path, "held", [make_label(3, "structure 1")])
    grid = Geometry.from_axes((0, 0, 0), (1.5, 1, 1), LPS, (16, 32, 32))
    for n, size in enumerate(sizes):
        array = np.random.default_rng(n).normal(size=grid.shape).astype(np.float32)
        array[4:12, 8:24, 8:24] += 6
        mask = np.zeros(grid.shape, np.uint8)
        mask[4:12, 8 : 8 + int(16 * size), 8:24] = 3
        dataset.add_case(f"case{n}", Volume(array, grid), {}).add_label(Volume(mask, grid), author="t", how="hand")
    dataset.lock_holdout([f"case{n}" for n in range(len(sizes))])
    return dataset


def test_both_versions_are_measured_on_every_case_and_the_worst_comes_first(tmp_path: Path) -> None:
    dataset = held_out(tmp_path / "data", (1.0, 0.5, 0.75))
    models = {
        "before": Predictor(threshold_bundle(3.5, largest_component=False), "cpu"),
        "after": Predictor(threshold_bundle(1.0), "cpu"),
    }
    masks: dict[tuple[str, str], Volume] = {}
    notices: list[Any] = []
    found = compare(
        lambda: models["before"],
        lambda: models["after"],
        dataset.split("holdout"),
        dataset.labels,
        notify=notices.append,
        keep=lambda case, when, mask: masks.update({(case, when): mask}),
    )
    assert len(masks) == 6 and {int(v) for mask in masks.values() for v in np.unique(mask.array)} <= {0, 3}
    for entry in found["cases"]:
        truth = dataset.case(entry["id"]).label().array == 3  # type: ignore[union-attr]
        for when in ("before", "after"):
            assert entry[when] == pytest.approx(dice(masks[entry["id"], when].array == 3, truth))
            assert entry["labels"]["structure 1"][when] == entry[when]
    after = [entry["after"] for entry in found["cases"]]
    assert after == sorted(after) and found["cases"][0]["id"] == "case1"
    assert found["mean_after"] == pytest.approx(np.mean(after))
    assert found["mean_before"] == pytest.approx(np.mean([entry["before"] for entry in found["cases"]]))
    assert found["words"].startswith("On 3 held-out cases the mean Dice changes from")
    assert len(notices) == 3 and notices[0].startswith("case0: the mask is empty: structure 1 was not found")
    assert all(line.endswith(" (current version)") and line.code == "case-note-before" for line in notices)


def test_one_case_is_said_to_tell_nothing() -> None:
    words = summary_text([(0.8, 0.85)])
    assert words == (
        "On 1 held-out case the mean Dice changes from 0.800 to 0.850. "
        "One case allows no conclusion; label more cases for the hold-out."
    )


def test_few_cases_tell_what_they_cannot_tell_apart() -> None:
    pairs = [(0.80, 0.84), (0.90, 0.88), (0.85, 0.88)]
    change = [after - before for before, after in pairs]
    width = stats.t.interval(0.95, 2, loc=0, scale=stats.sem(change))[1]
    words = summary_text(pairs)
    assert f"cannot show mean differences below about {width:.3f}: this one may be chance" in words
    assert "(better on 2, worse on 1, as good on 0)" in words
    assert words.endswith("The largest loss is 0.020 (0.900 to 0.880).")


def test_large_difference_on_few_cases_is_larger_yet_rests_on_few() -> None:
    words = summary_text([(0.50, 0.80), (0.52, 0.81), (0.51, 0.82)])
    assert "this one is larger, but based on few cases" in words and "loss" not in words


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ((0.02, 0.03, 0.04, 0.05, 0.06, 0.07), "is unlikely to be chance"),
        ((0.02, -0.03, 0.04, -0.05, 0.06, 0.01), "may be chance"),
    ],
)
def test_from_six_cases_on_a_paired_test_is_told(changes: tuple[float, ...], verdict: str) -> None:
    words = summary_text([(0.8, 0.8 + change) for change in changes])
    p = stats.wilcoxon(changes).pvalue
    assert f"Such a difference {verdict} (Wilcoxon's signed-rank test, p = {p:.2g})." in words


@pytest.mark.parametrize("sign", [1, -1])
def test_a_test_that_says_the_opposite_of_the_mean_is_told_as_that(sign: int) -> None:
    changes = [sign * (0.010 + n / 2000) for n in range(11)] + [-sign * 0.5]
    text = summary_text([(0.5, 0.5 + change) for change in changes])
    assert "Most cases change in the other direction than the mean" in text and "Such a difference" not in text


def test_versions_without_a_structure_in_common_are_refused_before_the_second_is_measured(tmp_path: Path) -> None:
    dataset = held_out(tmp_path / "data", (1.0,))
    labels = [*dataset.labels, make_label(4, "RV")]
    bundle = threshold_bundle(1.0)
    other = replace(bundle, card=replace(bundle.card, labels=(make_label(1, "RV"),)))
    with pytest.raises(ValueError, match="version segments structure 1, the new one RV: no structure can be compared"):
        compare(lambda: Predictor(bundle, "cpu"), lambda: Predictor(other, "cpu"), dataset.split("holdout"), labels)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_equal_versions_are_called_equal(count: int) -> None:
    assert "There is no difference." in summary_text([(0.8, 0.8)] * count)


def test_equal_gains_are_not_taken_for_certain() -> None:
    assert "below about 0.010: this one may be chance" in summary_text([(0.8, 0.805), (0.7, 0.705)])
