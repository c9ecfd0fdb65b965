"""Confidence is one quantity: the soft Dice of a structure, and its mean over the structures of a case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import random_bundle

from mper.inference.confidence import case_confidence, corrected_expectation, soft_dice, structure_confidence
from mper.inference.predictor import Predictor
from mper.labels import Segmentation, make_label
from mper.measurement.measures import measure
from mper.volume import Geometry, Volume

LABELS = (make_label(1, "LA"), make_label(2, "LV"))


def test_case_and_structures_of_a_prediction_agree(blob_volume: tuple[Volume, Segmentation]) -> None:
    predictor = Predictor(random_bundle(classes=3), "cpu", dtype=torch.float32)
    found = predictor.predict(blob_volume[0], want=("label_probability", "probabilities"))
    assert found.label_probability is not None and found.probabilities is not None
    assert found.confidence == pytest.approx(np.mean(list(found.structure_confidence.values())))
    for n, label in enumerate(found.segmentation.labels, start=1):
        assert found.expected_voxels[label.value] == pytest.approx(found.probabilities[n].sum(dtype=float), rel=1e-3)
    again = structure_confidence(found.segmentation, found.label_probability.array, found.expected_voxels)
    assert again == pytest.approx(dict(found.structure_confidence), abs=1e-3)  # half precision
    measured = measure(found.segmentation, found.structure_confidence)
    assert {each.value: each.confidence for each in measured if each.voxels} == found.structure_confidence


def test_confidence_of_nothing_is_zero_and_of_certainty_one() -> None:
    assert case_confidence({}) == 0
    assert soft_dice(10.0, 10.0, 10) == 1
    assert soft_dice(5.0, 10.0, 5) == pytest.approx(2 / 3)
    assert case_confidence({1: 0.5, 2: 1.0}) == 0.75


def test_corrections_count_as_certain() -> None:
    """Of two classes nothing is guessed: the same as probabilities of 0 and 1 where strokes were."""
    rng = np.random.default_rng(0)
    probability = rng.random((6, 7, 8))
    before = (probability > 0.5).astype(np.uint8)
    corrected = rng.random(probability.shape) < 0.2
    after = np.where(corrected & (rng.random(probability.shape) < 0.5), 1 - before, before).astype(np.uint8)
    own = np.maximum(probability, 1 - probability)
    sums = corrected_expectation({1: float(probability.sum())}, before, after, own, corrected)
    certain = np.where(corrected, after, probability)
    assert sums[1] == pytest.approx(certain.sum())
    mask = Segmentation(Volume(after, Geometry.unknown(after.shape)), LABELS)
    found = structure_confidence(mask, np.where(corrected, 1, own), sums)
    expected = 2 * certain[after == 1].sum() / (certain.sum() + after.sum())
    assert found == {1: pytest.approx(expected)}
