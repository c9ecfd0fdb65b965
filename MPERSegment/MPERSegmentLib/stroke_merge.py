"""How the mask in the scene follows the engine's mask, without losing manual edits.

All arrays are boxes (k, j, i) of the scan's grid with label values. Only the difference between two masks of the engine
goes into the scene, and of that only voxels in which the scene agreed with the engine before: what a user drew by hand
is never undone by a stroke elsewhere. Voxels that a stroke itself covers get its value, whatever was there, also
outside the region that the engine knows; if the stroke is removed, what was there is restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Box = tuple[np.ndarray, np.ndarray]  # first voxel (k, j, i), and the one after the last


@dataclass
class Overwritten:
    """What a stroke of `value` has painted over by itself: flat voxel indices in the scan, and their values before."""

    value: int = 0
    index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))

    def voxels(self, shape: Sequence[int]) -> np.ndarray:
        """(n, 3) indices (k, j, i) in a scan of `shape`."""
        return np.stack(np.unravel_index(self.index, tuple(shape)), axis=1)


def box_of(voxels: np.ndarray) -> list[Box]:
    """The bounding box of (n, 3) voxels, none where there are none."""
    return [(voxels.min(axis=0), voxels.max(axis=0) + 1)] if len(voxels) else []


def union_of(boxes: Sequence[Box]) -> Box | None:
    """The bounding box of boxes, None where there are none."""
    if not boxes:
        return None
    return np.min([low for low, _high in boxes], axis=0), np.max([high for _low, high in boxes], axis=0)


def followed(scene: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The scene's mask after that of the engine has changed; only where both agreed before."""
    return np.where((after != before) & (scene == before), after, scene)


def restore(mask: np.ndarray, low: np.ndarray, overwritten: Overwritten, shape: Sequence[int]) -> None:
    """Restore what a stroke, now removed, had painted over; `mask` begins at voxel `low` of the scan."""
    mask[tuple((overwritten.voxels(shape) - low).T)] = overwritten.values


def paint(
    mask: np.ndarray,
    low: np.ndarray,
    voxels: np.ndarray,
    value: int,
    shape: Sequence[int],
    taken: np.ndarray,
) -> Overwritten:
    """Set the voxels of a stroke to its value; returns what was painted over. Where strokes overlap the later counts.

    Voxels that are `taken` (bool, as `mask`) by segments that no model made are left alone.
    """
    at = tuple((voxels - low).T)
    over = (mask[at] != value) & ~taken[at]
    there = tuple(axis[over] for axis in at)
    overwritten = Overwritten(value, np.ravel_multi_index(tuple(voxels[over].T), tuple(shape)), mask[there])
    mask[there] = value
    return overwritten
