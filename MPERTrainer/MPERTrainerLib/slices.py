"""Labels that are drawn slice by slice: what counts as labelled in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mper.labels import BACKGROUND, UNLABELLED

Part = tuple[np.ndarray, tuple[int, int, int]]  # an array, and where it begins in the scan


def sliceBySlice(mask: Part, before: Part | None, shape: Sequence[int]) -> Part:
    """The mask of a person who draws some slices (along k) whole and leaves the others for another day.

    Slices in which nothing is drawn are unlabelled, unless `before` said something of them and not of all. In a slice
    of which `before` said nothing, and that is drawn now, the rest is background.
    """
    array, was = spread(mask, shape), spread(before, shape) if before is not None else np.zeros(shape, np.uint8)
    drawn = ((array != BACKGROUND) & (array != UNLABELLED)).any(axis=(1, 2))
    known = (was != UNLABELLED).any(axis=(1, 2))
    partly = bool((was == UNLABELLED).any())
    array[~drawn & ~(known & partly)] = UNLABELLED
    fresh = drawn & ~known
    array[fresh] = np.where(array[fresh] == UNLABELLED, BACKGROUND, array[fresh])
    return array, (0, 0, 0)


def spread(part: Part, shape: Sequence[int]) -> np.ndarray:
    """A part of a mask on the whole grid, background elsewhere."""
    array, start = part
    whole = np.zeros(shape, np.uint8)
    whole[tuple(slice(a, a + n) for a, n in zip(start, array.shape, strict=True))] = array
    return whole
