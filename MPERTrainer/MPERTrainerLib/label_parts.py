"""Parts of masks on the grid of a scan: whether two are equal, and what of one is labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from MPERLib import mrml

from mper.labels import BACKGROUND, UNLABELLED
from MPERTrainerLib.open_dataset import structureKey

Part = tuple[np.ndarray, tuple[int, int, int]]  # part of a mask (k, j, i), and the voxel of the scan where it begins


def labelledSlices(mask: Part, before: Part | None, shape: Sequence[int], across: int = 0) -> Part:
    """The label of a user who draws some slices (along the axis `across`) completely and leaves the others for later.

    Slices in which nothing is drawn are unlabelled, unless `before` labels them and not all others. In a slice that
    `before` does not label, and that is drawn now, the rest is background.
    """
    whole = mrml.on_whole_grid(*mask, shape)
    was = mrml.on_whole_grid(*before, shape) if before is not None else np.zeros(shape, np.uint8)
    array, was = (each.swapaxes(0, across) for each in (whole, was))  # views
    drawn = ((array != BACKGROUND) & (array != UNLABELLED)).any(axis=(1, 2))
    known = (was != UNLABELLED).any(axis=(1, 2))
    partial = bool((was == UNLABELLED).any())
    array[~drawn & ~(known & partial)] = UNLABELLED
    fresh = drawn & ~known
    array[fresh] = np.where(array[fresh] == UNLABELLED, BACKGROUND, array[fresh])
    return whole, (0, 0, 0)


def equal(one: Part, other: Part | None) -> bool:
    """Whether two parts are the same."""
    return other is not None and tuple(one[1]) == tuple(other[1]) and np.array_equal(one[0], other[0])


def values_of(result: Mapping[str, Any], labels: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """The values of a dataset's structures by those of a model's result; None if they have none in common.

    Returns
    -------
    (256,) uint8 array or None
        What is no structure of the dataset becomes background.
    """
    own = {structureKey(label): label["value"] for label in labels}
    table = np.zeros(256, np.uint8)
    for label in result["labels"]:
        table[label["value"]] = own.get(structureKey(label), 0)
    return table if table.any() else None
