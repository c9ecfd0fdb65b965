"""Masks and maps on the source grid, from what the network said on the working grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.inference.postprocessing import check_room, decide, drop_small_parts, nearest_prototypes, prototype_cosines
from mper.nets.prototypes import Prototypes
from mper.volume import Geometry


@pytest.fixture
def grid(oblique_geometry: Geometry) -> WorkingGrid:
    return WorkingGrid.plan(oblique_geometry, Preprocessing((2.0, 1.2, 1.1)), 3)


def _probabilities(grid: WorkingGrid, classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(classes, *grid.size, generator=generator)).softmax(0)


def test_the_mask_is_the_most_probable_class(grid: WorkingGrid) -> None:
    probabilities = _probabilities(grid, 4)
    there = grid.back(probabilities).numpy()
    decision = decide(probabilities, grid)
    np.testing.assert_array_equal(decision.classes, there.argmax(0))
    np.testing.assert_array_equal(decision.probability, there.max(0))


def test_confidence_of_a_class_is_its_soft_dice(grid: WorkingGrid) -> None:
    probabilities = _probabilities(grid, 3)
    there = grid.back(probabilities).numpy().astype(np.float64)
    mask = there.argmax(0)
    decision = decide(probabilities, grid)
    for c in (1, 2):
        expected = 2 * there[c][mask == c].sum() / (there[c].sum() + (mask == c).sum())
        assert decision.confidence[c] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(decision.expected, there.sum((1, 2, 3)), rtol=1e-6)


def test_confidence_is_one_for_a_certain_mask_and_missing_without_one(grid: WorkingGrid) -> None:
    certain = torch.zeros(2, *grid.size)
    certain[1, 1:4] = 1
    certain[0] = 1 - certain[1]
    same = WorkingGrid(grid.size, (0, 1, 2), (), grid.size, (1.0, 1.0, 1.0))
    assert decide(certain, same).confidence == {1: 1}
    nothing = torch.stack([torch.ones(grid.size), torch.zeros(grid.size)])
    assert decide(nothing, same).confidence == {}


def test_voxels_outside_the_region_are_background_of_no_confidence(grid: WorkingGrid) -> None:
    inside = np.random.default_rng(0).random(grid.source_shape) < 0.5
    free, bound = decide(_probabilities(grid, 3), grid), decide(_probabilities(grid, 3), grid, inside)
    np.testing.assert_array_equal(bound.classes[inside], free.classes[inside])
    assert not bound.classes[~inside].any() and not bound.probability[~inside].any()


def test_the_largest_part_of_each_class_stays_and_the_rest_gets_the_probability_of_background(
    grid: WorkingGrid,
) -> None:
    probabilities = _probabilities(grid, 3)
    there = grid.back(probabilities).numpy()
    free, kept = decide(probabilities, grid), decide(probabilities, grid, keep_largest=True)
    for c in (1, 2):
        parts, count = ndimage.label(free.classes == c, structure=np.ones((3, 3, 3)))
        assert count > 1
        largest = parts == np.bincount(parts[parts > 0]).argmax()
        np.testing.assert_array_equal(kept.classes == c, largest)
    dropped = kept.classes != free.classes
    assert dropped.any() and not kept.classes[dropped].any()
    np.testing.assert_array_equal(kept.probability[dropped], there[0][dropped])
    np.testing.assert_array_equal(kept.probability[~dropped], free.probability[~dropped])


def test_of_equal_parts_the_same_one_of_the_patient_stays_however_the_array_is_stored() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (6, 5, 9))
    mask = np.zeros(geometry.shape, dtype=np.uint8)
    mask[1, 2, 1:3] = mask[4, 1, 6:8] = 1
    plan = WorkingGrid.plan(geometry, Preprocessing((1, 1, 1)), 3)
    kept = mask.copy()
    drop_small_parts(kept, plan, 2)
    flipped_geometry = Geometry(geometry.affine @ np.diag([-1.0, 1, -1, 1]), geometry.shape)
    flipped = mask[::-1, :, ::-1].copy()
    drop_small_parts(flipped, WorkingGrid.plan(flipped_geometry, Preprocessing((1, 1, 1)), 3), 2)
    assert kept.sum() == 2
    np.testing.assert_array_equal(flipped[::-1, :, ::-1], kept)


def test_the_prototype_map_equals_the_plain_slow_loop(grid: WorkingGrid) -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(2, 3, 5)
    prototypes.vectors.normal_()
    embedding = torch.randn(5, *grid.size)
    classes = np.random.default_rng(1).integers(0, 2, grid.source_shape).astype(np.uint8)
    nearest, similarity = nearest_prototypes(prototype_cosines(prototypes.vectors, embedding), grid, classes)

    cosines = torch.zeros(2, 3, *grid.size)
    for c in range(2):
        for k in range(3):
            for index in np.ndindex(*grid.size):
                a, b = embedding[(slice(None), *index)], prototypes.vectors[c, k]
                cosines[(c, k, *index)] = a @ b / (a.norm() * b.norm())
    there = grid.back(cosines.half().float().flatten(0, 1)).reshape(2, 3, *grid.source_shape).numpy()
    for index in np.ndindex(*grid.source_shape):
        c = classes[index]
        own = there[(c, slice(None), *index)]
        best = np.sort(own)
        if best[-1] - best[-2] > 1e-3:  # half precision cannot tell closer ones apart
            assert nearest[index] == 1 + c * 3 + own.argmax()
        assert similarity[index] == pytest.approx(own.max(), abs=2e-3)


def test_cosines_in_slabs_equal_cosines_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prototypes = Prototypes(2, 2, 4)
    prototypes.vectors.normal_()
    embedding = torch.randn(4, 7, 6, 5)
    whole = prototype_cosines(prototypes.vectors, embedding)
    monkeypatch.setattr("mper.inference.postprocessing._SLAB_VOXELS", 2 * 6 * 5)
    torch.testing.assert_close(prototype_cosines(prototypes.vectors, embedding), whole)


def test_nothing_is_computed_outside_the_region(grid: WorkingGrid) -> None:
    inside = np.zeros(grid.source_shape, dtype=bool)
    inside[2:5, 3:20, 4:10] = True
    classes = np.zeros(grid.source_shape, dtype=np.uint8)
    nearest, similarity = nearest_prototypes(torch.rand(2, 3, *grid.size), grid, classes, inside)
    assert not nearest[~inside].any() and not similarity[~inside].any()
    assert nearest[inside].all()


def test_a_map_of_too_many_prototypes_is_refused() -> None:
    check_room(127, 2)
    with pytest.raises(ValueError, match="room for 254 prototypes, this model has 128 classes of 2"):
        check_room(128, 2)
