"""Made-up wide fields around real crops."""

from __future__ import annotations

import numpy as np
import pytest

from mper.dataloading.composed_field import Crop, Field, place_in_field, place_in_scan

SPACING = (5.0, 4.0, 4.0)


def _crop(seed: int) -> Crop:
    """A bright ball in tissue of two kinds."""
    rng = np.random.default_rng(seed)
    k, j, i = np.ogrid[-7:7, -15:15, -20:20]
    mask = (k / 5) ** 2 + (j / 8) ** 2 + (i / 9) ** 2 < 1
    tissue = np.where((j + i * 0.3) > 2, 80, 40) + rng.normal(0, 6, mask.shape)
    return Crop((tissue + 70 * mask).astype(np.float32), mask)


def test_the_crop_is_there_with_its_mask() -> None:
    crop = _crop(0)
    for seed in range(2):
        field = place_in_field(crop, [_crop(1)], SPACING, np.random.default_rng(seed))
        window = tuple(slice(a, a + n) for a, n in zip(field.start, crop.image.shape, strict=True))
        np.testing.assert_array_equal(field.mask[window], crop.mask)
        assert field.mask.sum() == crop.mask.sum()
        core = tuple(slice(n // 4, -(n // 4)) for n in crop.image.shape)
        assert np.corrcoef(field.image[window][core].ravel(), crop.image[core].ravel())[0, 1] > 0.9


def test_the_field_is_wide_and_no_smaller_than_the_crop() -> None:
    shapes = [place_in_field(_crop(0), [], SPACING, np.random.default_rng(s)).image.shape for s in range(5)]
    assert all(k >= 14 and 300 - 4 <= 4 * j <= 375 + 4 and i == 94 for k, j, i in shapes)
    assert len({k for k, _, _ in shapes}) > 2  # also in slices
    narrow = place_in_field(_crop(0), [], SPACING, np.random.default_rng(0), width_mm=50)
    assert narrow.image.shape[1:] == (30, 40)


def test_the_crop_lies_anywhere() -> None:
    starts = np.array([place_in_field(_crop(0), [], SPACING, np.random.default_rng(s)).start for s in range(8)])
    assert (np.ptp(starts[:, 1:], axis=0) * 4 > 60).all()


def test_the_same_seed_gives_the_same_field() -> None:
    a, b = (place_in_field(_crop(0), [_crop(1)], SPACING, np.random.default_rng(7)) for _ in range(2))
    c = place_in_field(_crop(0), [_crop(1)], SPACING, np.random.default_rng(8))
    np.testing.assert_array_equal(a.image, b.image)
    assert a.image.shape != c.image.shape or (a.image != c.image).any()


def test_pieces_of_other_crops_come_without_their_structure() -> None:
    """Where the pasted structures were as bright as nothing else, nothing of that brightness may be strewn about."""
    crop = _crop(0)
    other = Crop(np.where(crop.mask, 1e4, crop.image).astype(np.float32), crop.mask)
    for seed in range(3):
        field = place_in_field(crop, [other], SPACING, np.random.default_rng(seed))
        assert field.image.max() < 1000


@pytest.mark.parametrize("axis", [1, 2])
def test_the_border_of_the_crop_shows_no_step(axis: int) -> None:
    """Steps across the rectangle's faces are no larger than those inside the crop."""
    across, within = [], []
    for seed in range(5):
        crop = _crop(seed)
        field = place_in_field(crop, [_crop(50)], SPACING, np.random.default_rng(seed))
        steps = np.abs(np.diff(field.image, axis=axis))
        window = [slice(a, a + n) for a, n in zip(field.start, crop.image.shape, strict=True)]
        inner = steps[tuple(window)]
        within.append(inner.mean())
        for face in (field.start[axis] - 1, field.start[axis] + crop.image.shape[axis] - 1):
            window[axis] = slice(face, face + 1)
            across.append(steps[tuple(window)].mean())
    assert np.mean(across) < 1.5 * np.mean(within)


def test_there_is_air_around_the_body() -> None:
    for seed in range(4):
        image = place_in_field(_crop(0), [], SPACING, np.random.default_rng(seed)).image
        corners = [image[:, j, i].mean() for j in (0, -1) for i in (0, -1)]
        assert np.median(corners) < np.percentile(image, 40)


def test_a_crop_is_put_where_the_structure_of_the_scan_lies() -> None:
    rng = np.random.default_rng(0)
    own = np.zeros((20, 60, 70), dtype=bool)
    own[8:12, 20:28, 40:50] = True
    scan = Field(rng.normal(50, 5, own.shape).astype(np.float32), own, (0, 0, 0))
    crop = _crop(0)
    for seed in range(4):
        field = place_in_scan(crop, scan, SPACING, np.random.default_rng(seed))
        assert field.mask.sum() == crop.mask.sum()
        moved = np.array(field.image.shape) - own.shape  # it is extended where the crop reaches beyond it
        middle = np.argwhere(field.mask).mean(0) - np.argwhere(own).mean(0)
        assert (np.abs(middle * SPACING) <= 30 + moved * SPACING).all()
        inside, around = field.image[field.mask], crop.image[crop.mask]
        np.testing.assert_allclose(inside, around, rtol=1e-5)
