"""Wide fields of view that are composed around tightly cropped scans.

The public left-atrium files are cut out around the atrium, a clinical scan is not. Here such a crop is put into a real
wide field, where its structure lies there (`place_in_scan`), or at a random place of a field made of air, a body
outline, smooth tissue, organ-like ellipsoids and pieces of other crops whose structure was painted over
(`place_in_field`). All pieces, the crop included, fade into their surroundings along irregular borders, so that a seam
tells nothing.

The localisation of a model learns from them (`mper.training.localization`). Everything is in mm, so the same recipe
serves a coarse grid and a scan's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage, special

from mper.volume import Spacing

Array = npt.NDArray[np.float32]
_LEVELS = np.linspace(0, 100, 33)  # percentiles by which a crop's grey levels are known


@dataclass(frozen=True, eq=False)
class Crop:
    """A real scan, cropped around its structure, along the patient's axes (k up, j back, i left).

    image : (k, j, i) float32; mask : bool, the structure.
    """

    image: Array
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Field:
    """A crop in a wide field.

    image : (k, j, i) float32; mask : bool; start : where the crop's first voxel lies.
    """

    image: Array
    mask: npt.NDArray[np.bool_]
    start: tuple[int, int, int]


def place_in_field(
    crop: Crop, others: Sequence[Crop], spacing_mm: Spacing, rng: np.random.Generator, width_mm: float = 375.0
) -> Field:
    """Put a crop at a random place of a wider field.

    Parameters
    ----------
    crop : Crop
    others : sequence of Crop
        Same spacing; pieces of them, without their structure, are strewn about.
    spacing_mm : (float, float, float)
        Along (k, j, i).
    rng : numpy Generator
    width_mm : float
        In-plane size of the field; the number of slices grows by up to 60 mm.
    """
    step = np.asarray(spacing_mm)
    size = np.array(crop.image.shape)
    shape = np.maximum(size, np.round(np.array([0, width_mm * rng.uniform(0.8, 1), width_mm]) / step).astype(int))
    shape[0] = size[0] + int(rng.integers(0, int(60 / step[0]) + 1)) * int(rng.random() < 0.7)
    # The heart lies within the middle of the chest, and may be off the middle of the field.
    slack = shape - size
    share = np.array([rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)])
    start = np.round(slack * share).astype(int)
    levels = np.percentile(crop.image.astype(np.float64), _LEVELS)
    grain = (crop.image - ndimage.gaussian_filter(crop.image, 1.0))[~crop.mask].std()
    image = _tissue(shape, step, levels, rng)
    image += rng.normal(0, grain * rng.uniform(0.5, 1.3), shape).astype(np.float32)
    for _ in range(int(rng.integers(2, 7)) if others else 0):
        piece = _without_structure(others[int(rng.integers(len(others)))], step, rng)
        scaled = np.interp(piece, np.percentile(piece, _LEVELS), levels).astype(np.float32)
        corner = [int(rng.integers(-n // 2, m - n // 2)) for n, m in zip(piece.shape, shape, strict=True)]
        _paste(image, scaled, corner, _fade(piece.shape, step, rng))
    alpha = np.maximum(_fade(size, step, rng), _soft(crop.mask, 6 / step, 4 / step))
    _paste(image, crop.image, start, alpha)
    image = _in_air(image, start, alpha, step, levels, rng)
    image *= np.exp(rng.uniform(0, 0.3) * _smooth(shape, step, 150, rng))
    image += rng.normal(0, rng.uniform(0.01, 0.05) * (levels[-2] - levels[1]), shape)
    mask = np.zeros(shape, dtype=bool)
    mask[_window(start, size)] = crop.mask
    k, j, i = start.tolist()
    return Field(image.astype(np.float32), mask, (k, j, i))


def place_in_scan(crop: Crop, field: Field, spacing_mm: Spacing, rng: np.random.Generator) -> Field:
    """Put a crop into a real wide field, its structure about where the field's own lies.

    Parameters
    ----------
    crop : Crop
    field : Field
        Of the same spacing; it is extended where the crop reaches beyond it.
    spacing_mm : (float, float, float)
        Along (k, j, i).
    rng : numpy Generator
    """
    step = np.asarray(spacing_mm)
    size, shape = np.array(crop.image.shape), np.array(field.image.shape)
    offset = np.argwhere(field.mask).mean(axis=0) - np.argwhere(crop.mask).mean(axis=0)
    start = np.round(offset + rng.normal(0, 6, 3) / step).astype(int)
    before, after = np.maximum(-start, 0), np.maximum(start + size - shape, 0)
    low, high = np.percentile(field.image, (1, 99)).tolist()
    grey = np.percentile(crop.image, (1, 99))
    scale = (grey[1] - grey[0]) / max(high - low, 1e-6) * rng.uniform(0.7, 1.3)
    around = ((field.image - low) * scale + grey[0]).astype(np.float32)
    image = np.pad(around, np.stack([before, after], axis=1), mode="edge")
    start = start + before
    _paste(image, crop.image, start, np.maximum(_fade(size, step, rng), _soft(crop.mask, 6 / step, 4 / step)))
    mask = np.zeros(image.shape, dtype=bool)
    mask[_window(start, size)] = crop.mask
    k, j, i = start.tolist()
    return Field(image, mask, (k, j, i))


def _tissue(
    shape: npt.NDArray[np.int_],
    step: npt.NDArray[np.float64],
    levels: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Array:
    """Smooth tissue with ellipsoids in it, of the crop's own grey levels."""
    coarse = _smooth(shape, step, rng.uniform(15, 60), rng) + 0.4 * _smooth(shape, step, rng.uniform(5, 12), rng)
    image = np.interp(special.ndtr(coarse / coarse.std()) * 100, _LEVELS, levels).astype(np.float32)
    ragged = _smooth(shape, step, 20, rng)
    for n in range(int(rng.integers(8, 24))):
        radii = rng.uniform(8, 45, 3) if n > 1 else rng.uniform(40, 80, 3)  # two large ones: lungs, liver
        level = rng.choice(levels[2:]) if n > 1 else levels[int(rng.integers(0, 12))]
        inside = 1.15 - _ellipsoid(shape, rng.uniform(0, 1, 3) * shape, radii / step) + 0.15 * ragged
        share = np.clip(inside * rng.uniform(4, 12), 0, 1) * rng.uniform(0.5, 1)
        image += share * (level - image)
    return image


def _without_structure(crop: Crop, step: npt.NDArray[np.float64], rng: np.random.Generator) -> Array:
    """A turned or flipped part of a crop, its structure filled from around it."""
    hole = _soft(crop.mask, 4 / step, 2 / step)
    weight = 1 - hole
    around = [ndimage.gaussian_filter(a, 12 / step, mode="nearest") for a in (crop.image * weight, weight)]
    filled = around[0] / np.maximum(around[1], 1e-3)
    image = crop.image * weight + filled * hole
    flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
    image = np.flip(image, flips)
    size = [int(n * rng.uniform(0.5, 1)) for n in image.shape]
    first = [int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape, size, strict=True)]
    return np.ascontiguousarray(image[_window(first, size)])


def _fade(size: Sequence[int] | npt.NDArray[np.int_], step: npt.NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Weights of a piece: 1 within, falling to 0 at its faces along a wavy border."""
    distance = np.full(tuple(size), np.inf)
    for axis, n in enumerate(size):
        to_face = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) * step[axis]
        distance = np.minimum(distance, to_face.reshape([-1 if a == axis else 1 for a in range(3)]))
    wavy = distance - rng.uniform(0, 5) * np.abs(_smooth(np.asarray(size), step, 15, rng))
    x = np.clip(wavy / rng.uniform(3, 12), 0, 1)
    return (x * x * (3 - 2 * x)).astype(np.float32)


def _paste(image: Array, piece: Array, corner: Sequence[int] | npt.NDArray[np.int_], alpha: Array) -> None:
    """Blend a piece in, in place; what reaches beyond the image is cut."""
    start = np.maximum(corner, 0)
    stop = np.minimum(np.asarray(corner) + piece.shape, image.shape)
    there = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    here = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, corner, strict=True))
    image[there] += alpha[here] * (piece[here] - image[there])


def _in_air(
    image: Array,
    start: npt.NDArray[np.int_],
    alpha: Array,
    step: npt.NDArray[np.float64],
    levels: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Array:
    """Cut a body outline, with a rim of fat, and noisy air around it; the crop itself is always body."""
    shape = np.array(image.shape)
    radii = np.array([1e6, rng.uniform(0.28, 0.45), rng.uniform(0.4, 0.52)]) * shape
    middle = start[1:] + np.array(alpha.shape[1:]) / 2
    centre = np.array([0, *(0.5 * middle + 0.5 * shape[1:] / 2)])
    inside = (1 - _ellipsoid(shape, centre, radii)) * radii[1] * step[1] + 6 * _smooth(shape, step, 40, rng)  # about mm
    body = np.clip(inside / 4, 0, 1)
    fat = np.clip(1 - np.abs(inside - 8) / rng.uniform(4, 12), 0, 1) * rng.uniform(0, 1)
    keep = np.zeros(shape.tolist(), dtype=np.float32)
    keep[_window(start, np.array(alpha.shape))] = alpha
    fat *= 1 - keep
    body = np.maximum(body, keep)
    image = image + fat * (levels[-3] - image)
    air = levels[0] + np.abs(rng.normal(0, 0.02 * (levels[-2] - levels[1]), image.shape))
    return (air + body * (image - air)).astype(np.float32)


def _ellipsoid(shape: npt.NDArray[np.int_], centre: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> Array:
    """Distance from the centre in radii: 1 on the surface."""
    k, j, i = (((np.arange(n) - c) / r) ** 2 for n, c, r in zip(shape, centre, radii, strict=True))
    return np.sqrt(k[:, None, None] + j[:, None] + i).astype(np.float32)


def _smooth(
    shape: npt.NDArray[np.int_], step: npt.NDArray[np.float64], length_mm: float, rng: np.random.Generator
) -> Array:
    """A random field of mean 0 and deviation about 1 that varies over `length_mm`."""
    knots = [max(2, int(np.ceil(n * s / length_mm)) + 1) for n, s in zip(shape, step, strict=True)]
    noise = torch.from_numpy(rng.normal(0, 1.5, knots).astype(np.float32))  # interpolation takes a third off
    return F.interpolate(noise[None, None], size=shape.tolist(), mode="trilinear", align_corners=True)[0, 0].numpy()


def _soft(mask: npt.NDArray[np.bool_], grow: npt.NDArray[np.float64], blur: npt.NDArray[np.float64]) -> Array:
    """A mask grown by so many voxels along each axis, its border blurred outwards."""
    near = ndimage.distance_transform_edt(~mask, sampling=1 / grow)  # 1 on the grown surface
    return np.clip((1 - near) * (grow / blur).mean() + 1, 0, 1).astype(np.float32)


def _window(
    start: Sequence[int] | npt.NDArray[np.int_], size: Sequence[int] | npt.NDArray[np.int_]
) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
