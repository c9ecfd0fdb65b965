"""What a stroke does to scores: what must hold whatever was learnt, and what was learnt in a plain case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mper.refinement import stroke_response
from mper.refinement.graph_cut import inside_at_edges
from mper.volume import Spacing

STEPS = [(1.0, 1.0, 1.0), (6.0, 1.2, 1.2), (0.6, 0.6, 1.1)]


class Box:
    """A ball in the class, and beside it a bump of the same intensity that the scores leave out."""

    def __init__(self, steps: Spacing = (1.0, 1.0, 1.0), seed: int = 0):
        rng = np.random.default_rng(seed)
        middle = sorted(steps)[1]
        shape = tuple(max(5, int(30 * middle / step)) for step in steps)
        apart = [(np.arange(n) - n / 2) * step / middle for n, step in zip(shape, steps, strict=True)]
        k, j, i = np.meshgrid(*apart, indexing="ij")
        within = 8 - np.sqrt(k**2 + (j + 4) ** 2 + i**2)
        bump = 5.5 - np.sqrt(k**2 + (j - 5.5) ** 2 + i**2)
        self.steps = steps
        self.truth = np.maximum(within, bump) > 0
        self.odds = (within / 2).astype(np.float32)
        self.image = (np.where(self.truth, 1.0, -1.0) + rng.normal(0, 0.2, shape)).astype(np.float32)
        self.painted = (np.abs(k) <= 0.75) & (np.abs(j - 7) <= 1.5) & (np.abs(i) <= 1.5)
        self.painted[np.unravel_index(bump.argmax(), bump.shape)] = True
        self.hard = np.zeros(shape, dtype=np.int8)

    def answer(self) -> np.ndarray:
        return stroke_response.respond(self.odds, self.image, self.painted, self.hard, self.steps)

    def settled(self, quick: np.ndarray) -> np.ndarray:
        return stroke_response.settle(self.odds, quick, self.image, self.painted, self.hard, self.steps)


def random_box(seed: int) -> Box:
    rng = np.random.default_rng(seed)
    box = Box(STEPS[seed % 3], seed)
    shape = box.odds.shape
    box.odds = (ndimage.gaussian_filter(rng.normal(size=shape), 2) * rng.uniform(1, 60)).astype(np.float32)
    box.image = (box.image * rng.uniform(-5, 5) + rng.uniform(-100, 100)).astype(np.float32)
    centre = rng.integers(0, shape)
    apart = np.ones(shape, dtype=bool)
    apart[tuple(centre)] = False
    box.painted = ndimage.distance_transform_edt(apart) <= rng.uniform(0, 4)
    box.hard = rng.choice(np.array([-1, 0, 1], np.int8), size=shape, p=[0.01, 0.98, 0.01])
    box.hard[box.painted] = 0
    return box


def assert_holds(box: Box, after: np.ndarray) -> None:
    """The promises of `respond` and `settle`."""
    assert after.dtype == np.float32
    assert np.isfinite(after).all()
    assert (after >= box.odds).all()
    assert (after[box.painted] > 0).all()
    assert np.array_equal(after[box.hard < 0], box.odds[box.hard < 0])
    turned = (after > 0) & (box.odds <= 0)
    parts, _ = ndimage.label(turned | box.painted, structure=np.ones((3, 3, 3)))
    assert np.isin(parts[turned], np.unique(parts[box.painted])).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_the_scores_the_promises_hold(seed: int) -> None:
    box = random_box(seed)
    quick = box.answer()
    assert_holds(box, quick)
    assert_holds(box, box.settled(quick))


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_a_stroke_finds_more_of_what_was_missed_than_it_painted_and_little_else(steps: Spacing) -> None:
    box = Box(steps)
    for after in (box.answer(), box.settled(box.answer())):
        turned = (after > 0) & (box.odds <= 0)
        missed = box.truth & (box.odds <= 0)
        assert (turned & missed).sum() > 1.5 * (box.painted & missed).sum()
        assert (turned & ~missed).sum() < 0.5 * (turned & missed).sum()


def test_the_same_question_has_the_same_answer() -> None:
    box = Box()
    first, second = box.answer(), box.answer()
    assert np.array_equal(first, second)
    assert np.array_equal(box.settled(first), box.settled(second))


def test_brightness_contrast_and_units_of_length_do_not_matter() -> None:
    plain, other = Box(), Box()
    other.image = other.image * 64 + 1024
    other.steps = (2.5, 2.5, 2.5)
    seen, same = (stroke_response.features(b.odds, b.image, b.painted, b.hard, b.steps) for b in (plain, other))
    assert np.allclose(seen, same, atol=0.01)
    assert stroke_response.reach(plain.steps) == stroke_response.reach(other.steps) == (16, 16, 16)


def test_it_reaches_as_far_across_slices_as_along_them() -> None:
    assert stroke_response.reach((8.0, 1.0, 1.0)) == (2, 16, 16)
    assert stroke_response.reach((0.5, 1.0, 1.0)) == (32, 16, 16)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (2, 3, 40), (5, 5, 5)], ids=str)
def test_the_smallest_boxes_are_answered(shape: tuple[int, int, int]) -> None:
    box = Box()
    box.odds, box.image = np.full(shape, -2, np.float32), np.zeros(shape, np.float32)
    box.hard, box.painted = np.zeros(shape, np.int8), np.zeros(shape, bool)
    box.painted[shape[0] // 2, shape[1] // 2, shape[2] // 2] = True
    quick = box.answer()
    assert_holds(box, quick)
    assert_holds(box, box.settled(quick))


def test_a_box_that_is_all_painted_or_all_of_the_class_is_answered() -> None:
    box = Box()
    box.painted[:] = True
    assert_holds(box, box.answer())
    box = Box()
    box.odds[:] = 3
    assert np.array_equal(box.answer() > 0, box.odds > 0)


def test_the_surface_settles_at_an_edge_of_the_image_nearby() -> None:
    steps = (1.0, 1.0, 1.0)
    place = np.broadcast_to(np.arange(20), (9, 9, 20))
    image = np.where(place < 10, 1.0, -1.0).astype(np.float32)
    odds = ((8.4 - place) * 0.05).astype(np.float32)  # says 9, not sure of it
    band = np.abs(place - 9) < 4
    band[:, :, :6] = False
    inside = inside_at_edges(odds, band, image, steps)
    assert np.array_equal(inside, place < 10)
    sure = inside_at_edges(odds * 200, band, image, steps)
    assert np.array_equal(sure, place < 9)


def test_without_a_band_the_surface_stays() -> None:
    odds = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    nothing = np.zeros(odds.shape, bool)
    assert np.array_equal(inside_at_edges(odds, nothing, odds, (1.0, 1.0, 1.0)), odds > 0)


def test_the_cut_is_the_cheapest_of_all() -> None:
    rng = np.random.default_rng(1)
    odds, image = (rng.normal(size=(1, 3, 4)).astype(np.float32) for _ in range(2))
    band = np.ones(odds.shape, bool)
    band[0, 0, 0] = band[0, 2, 3] = False
    odds[0, 0, 0], odds[0, 2, 3] = 3, -3
    found = inside_at_edges(odds, band, image, (1.0, 1.0, 1.0))
    differences = [
        np.diff(image, axis=a)[band[tuple(slice(1, None) if b == a else slice(None) for b in range(3))]] for a in (1, 2)
    ]
    unlike = np.concatenate(differences).std() + 1e-3

    def cost(inside: np.ndarray) -> float:
        total = float((np.clip(odds, -4, 4) * np.where(inside, -1, 1))[band & (inside != (odds > 0))].sum())
        for axis in (1, 2):
            like = 0.15 * np.exp(-0.5 * (np.diff(image, axis=axis) / unlike) ** 2)
            total += float(like[np.diff(inside.astype(int), axis=axis) != 0].sum())
        return total

    free = np.argwhere(band)
    least = np.inf
    for code in range(2 ** len(free)):
        inside = odds > 0
        inside[tuple(free.T)] = [(code >> n) & 1 for n in range(len(free))]
        least = min(least, cost(inside))
    assert cost(found) == pytest.approx(least, abs=0.1)
