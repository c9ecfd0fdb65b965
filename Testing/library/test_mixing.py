"""Copy-paste boxes, CutMix, and the largest component against skimage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.measure import label as skimage_label

from mper.methods.mixing import box_mask, component_numbers, cutmix_mask, largest_component, paste, spread

CPU = torch.device("cpu")


def test_box_is_that_of_the_papers() -> None:
    rng = np.random.default_rng(0)
    volume = box_mask((80, 112, 112), 2 / 3, rng, CPU)
    assert (volume == 0).sum() == 53 * 74 * 74
    inside = (volume == 0).nonzero()
    assert (inside.max(0).values - inside.min(0).values + 1).tolist() == [53, 74, 74]
    assert (box_mask((256, 256), 2 / 3, rng, CPU) == 0).sum() == 170 * 170


def test_box_moves_and_reaches_every_border() -> None:
    rng = np.random.default_rng(0)
    masks = torch.stack([box_mask((9, 9), 2 / 3, rng, CPU) for _ in range(200)])
    for edge in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]):
        assert (edge == 0).any()
    assert torch.equal(
        box_mask((9, 9), 0.5, np.random.default_rng(3), CPU), box_mask((9, 9), 0.5, np.random.default_rng(3), CPU)
    )


@pytest.mark.parametrize("spatial", [(100, 100), (40, 40, 40)])
def test_cutmix_replaces_two_to_forty_percent(spatial: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    shares = [1 - cutmix_mask(spatial, rng, CPU).mean().item() for _ in range(100)]
    assert 0.01 < min(shares) < 0.08 and 0.3 < max(shares) <= 0.4


def test_pasting_with_a_mask_of_ones_is_the_identity() -> None:
    image, other = torch.randn(2, 1, 4, 5, 6), torch.randn(2, 1, 4, 5, 6)
    ones = torch.ones(4, 5, 6)
    assert torch.equal(paste(image, other, ones), image)
    assert torch.equal(paste(image, other, 0 * ones), other)


def test_pasting_takes_the_inside_from_the_second() -> None:
    mask = box_mask((6, 6), 0.5, np.random.default_rng(0), CPU)
    mixed = paste(torch.zeros(2, 6, 6, dtype=torch.long), torch.ones(2, 6, 6, dtype=torch.long), mask)
    assert torch.equal(mixed, (1 - mask).long().expand(2, 6, 6))


def apart(shape: tuple[int, ...], classes: int, rng: np.random.Generator) -> np.ndarray:
    """Irregular blobs, those of one class more than two voxels apart in every direction."""
    out = np.zeros(shape, dtype=np.int64)
    for value in range(1, classes):
        noise = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
        mask = (noise > np.quantile(noise, 0.9)) & (out == 0)
        parts, count = ndimage.label(mask, np.ones([3] * len(shape)))
        kept = np.zeros(shape, dtype=bool)
        for n in range(1, count + 1):
            part = parts == n
            if not (ndimage.binary_dilation(part, np.ones([3] * len(shape)), iterations=3) & kept).any():
                kept |= part
        out[kept] = value
    return out


def by_skimage(labels: np.ndarray, classes: int) -> np.ndarray:
    out = np.zeros_like(labels)
    for value in range(1, classes):
        parts = skimage_label(labels == value, connectivity=labels.ndim)
        sizes = np.bincount(parts.ravel())
        if len(sizes) > 1:
            out[parts == 1 + sizes[1:].argmax()] = value
    return out


def _largest_is_unique(labels: np.ndarray, classes: int) -> bool:
    for value in range(1, classes):
        sizes = np.sort(np.bincount(skimage_label(labels == value, connectivity=labels.ndim).ravel())[1:])
        if len(sizes) > 1 and sizes[-1] == sizes[-2]:
            return False
    return True


@pytest.mark.parametrize("shape", [(33, 40), (48, 31), (17, 24, 22), (16, 21, 32)])
@pytest.mark.parametrize("classes", [2, 4])
def test_largest_component_is_that_of_skimage(shape: tuple[int, ...], classes: int) -> None:
    rng = np.random.default_rng(0)
    patches = [p for p in (apart(shape, classes, rng) for _ in range(6)) if _largest_is_unique(p, classes)]
    assert (
        len(patches) >= 3
        and max(len(np.unique(skimage_label(p, connectivity=p.ndim))) for p in patches) > 2 * classes - 1
    )
    found = largest_component(
        torch.from_numpy(np.stack(patches)), classes
    )  # in one batch: nothing leaks between patches
    for one, patch in zip(found.numpy(), patches, strict=True):
        np.testing.assert_array_equal(one, by_skimage(patch, classes))


def test_each_patch_of_a_batch_has_its_own_largest_component() -> None:
    labels = torch.zeros(2, 24, 24, dtype=torch.long)
    labels[0, 2:10, 2:10] = 1
    labels[1, 14:18, 14:18] = 1  # smaller than what the first patch has, and elsewhere
    labels[1, 2:4, 2:4] = 1
    found = largest_component(labels, 2)
    assert torch.equal(found[0], labels[0])
    assert found[1, 14:18, 14:18].all() and found[1, :10, :10].sum() == 0


def test_component_counts_voxels_not_coarse_ones() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, 0:4, 0:4] = 1  # 16 voxels in 4 coarse ones
    labels[0, 9:12, 9:12] = 1  # 9 voxels in 4 coarse ones
    labels[0, 20, 1:14] = 1  # 13 voxels in 7 coarse ones
    found = largest_component(labels, 2)
    assert found.sum() == 16 and found[0, :4, :4].all()


def snake(size: int) -> np.ndarray:
    """One path through a square, back and forth: as long as a component can be."""
    path = np.zeros((size, size), dtype=bool)
    path[::4] = True
    for n, row in enumerate(range(0, size - 4, 4)):
        path[row : row + 4, -1 if n % 2 == 0 else 0] = True
    return path


@pytest.mark.parametrize("turn", [lambda a: a, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.T])
def test_a_long_component_is_kept_whole(turn: Callable[[np.ndarray], np.ndarray]) -> None:
    """4,000 coarse voxels from end to end, in 2-D and through the slices of a volume."""
    labels = torch.from_numpy(np.repeat(np.repeat(turn(snake(125)).copy(), 2, 0), 2, 1).astype(np.int64))
    assert torch.equal(largest_component(labels[None], 2)[0], labels)
    volume = torch.zeros(4, *labels.shape, dtype=torch.long)
    volume[:2] = labels
    assert torch.equal(largest_component(volume[None], 2)[0], volume)


@pytest.mark.parametrize("shape", [(64, 64), (16, 24, 24)])
@pytest.mark.parametrize("density", [0.05, 0.1, 0.2, 0.35])
def test_numbers_of_components_are_those_of_scipy(shape: tuple[int, ...], density: float) -> None:
    occupied = np.random.default_rng(0).random((2, 3, *shape)) < density
    found = component_numbers(torch.from_numpy(occupied).float()).long().numpy()
    for one, number in zip(occupied.reshape(-1, *shape), found.reshape(-1, *shape), strict=True):
        parts, count = ndimage.label(one, np.ones([3] * len(shape)))
        pairs = np.unique(np.stack([parts.ravel(), number.ravel()]), axis=1)
        assert pairs.shape[1] == count + 1 == len(np.unique(pairs[1])) and pairs[1, 0] == 0


def test_patch_without_structure_stays_empty_and_an_unbroken_one_stays_whole() -> None:
    labels = torch.zeros(2, 16, 16, 16, dtype=torch.long)
    labels[1] = 2
    assert torch.equal(largest_component(labels, 3), labels)


@pytest.mark.parametrize("spatial", [(7, 8), (5, 1, 8)])
def test_spreading_on_a_cpu_equals_max_pooling(spatial: tuple[int, ...]) -> None:
    number = torch.randperm(2 * 3 * int(np.prod(spatial))).float().reshape(2, 3, *spatial)
    pool = F.max_pool3d if len(spatial) == 3 else F.max_pool2d
    assert torch.equal(spread(number), pool(number, 3, 1, 1))
