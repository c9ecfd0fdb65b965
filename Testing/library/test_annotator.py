"""The simulated annotator of the benchmarks, which has to be right for their tables to mean anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mper.volume import Geometry

_FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "_annotator.py"
_spec = importlib.util.spec_from_file_location("_annotator", _FILE)
assert _spec is not None and _spec.loader is not None
annotator = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(annotator)

SHAPE = (14, 40, 44)


def blobs(seed: int, sigma: float) -> np.ndarray:
    """Labels 0 to 2 in smooth pieces."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), sigma)
    return np.digitize(noise, np.quantile(noise, [0.6, 0.85])).astype(np.uint8)


def oblique(spacing: tuple[float, float, float]) -> Geometry:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    return Geometry.from_axes((10, -20, 30), spacing, turn, SHAPE)


@pytest.mark.parametrize("kind", annotator.KINDS)
@pytest.mark.parametrize("spacing", [(0.6, 0.6, 0.6), (8.0, 1.4, 1.4)])
@pytest.mark.parametrize("seed", range(4))
def test_a_stroke_lies_inside_the_error_is_of_the_right_class_and_in_reach(
    kind: str, spacing: tuple[float, float, float], seed: int
) -> None:
    mask, truth, geometry = blobs(seed, 2.0), blobs(seed + 50, 3.0), oblique(spacing)
    truth[3:5, 5:15] = 255
    stroke = annotator.next_stroke(mask, truth, geometry, kind)
    voxels = stroke.voxels(geometry)
    at = tuple(voxels.T)
    assert (truth[at] == stroke.value).all() and (mask[at] != stroke.value).all()
    extent = np.ptp(geometry.to_index(np.asarray(stroke.points_mm)), axis=0) * spacing
    if kind == "ball":
        assert np.linalg.norm(extent) <= 2 * np.sqrt(3) * annotator.BALL_MM
    else:
        longest = np.linalg.norm(extent) if kind == "scribble" else extent.max()
        assert extent[0] < 1e-6 and longest <= annotator.LINE_MM + max(spacing[1:])
    hanging = np.zeros(SHAPE, bool)
    hanging[at] = True
    assert ndimage.label(hanging, np.ones((3, 3, 3)))[1] == 1


@pytest.mark.parametrize("steps", [(0.6, 0.6, 0.6), (8.0, 1.4, 1.4)])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_deepest_place_is_that_of_a_distance_transform_of_everything(
    seed: int, sigma: float, steps: tuple[float, float, float]
) -> None:
    region = blobs(seed, sigma) != blobs(seed + 9, sigma)
    depth = ndimage.distance_transform_edt(np.pad(region, 1), sampling=steps)[1:-1, 1:-1, 1:-1]
    found, place = annotator.deepest(region, steps)
    assert found == pytest.approx(depth.max())
    assert place == np.unravel_index(int(depth.argmax()), SHAPE)


def test_the_largest_error_of_any_class_comes_first() -> None:
    truth, mask = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    truth[2:10, 4:12, 4:12] = 2
    mask[4:7, 25:28, 25:28] = 1
    stroke = annotator.next_stroke(mask, truth, oblique((1.0, 1.0, 1.0)))
    assert stroke.value == 2
    mask[2:10, 4:12, 4:12] = 2
    stroke = annotator.next_stroke(mask, truth, oblique((1.0, 1.0, 1.0)))
    assert stroke.value == 0


@pytest.mark.parametrize("kind", annotator.KINDS)
def test_a_mask_that_is_right_needs_no_stroke(kind: str) -> None:
    truth = blobs(0, 2.0)
    mask = truth.copy()
    truth[:2] = 255  # what nobody labelled is no error
    assert annotator.next_stroke(mask, truth, oblique((1.0, 1.0, 1.0)), kind) is None


@pytest.mark.parametrize("kind", annotator.KINDS)
def test_painting_what_it_asks_for_comes_to_an_end(kind: str) -> None:
    truth, mask = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    truth[0:4, 0:9, 0:9] = 1  # at the border
    geometry = oblique((1.5, 1.0, 1.0))
    for _ in range(400):
        stroke = annotator.next_stroke(mask, truth, geometry, kind)
        if stroke is None:
            break
        mask[tuple(stroke.voxels(geometry).T)] = stroke.value
    assert (mask == truth).all()
