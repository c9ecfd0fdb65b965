"""Writes the engine's changes of a mask, and strokes that were added or removed, into the mask of the scene.

What a user drew by hand, segments that no model made, and the limits of strokes are respected; `stroke_merge` has the
arithmetic of one box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from MPERLib import labelmap_box, mrml
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, stroke_merge, stroke_node
from MPERSegmentLib.stroke_merge import Overwritten


class StrokeWriter:
    """The mask of one result in the scene, and what strokes have done to it.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
        A result.
    editable : callable
        See `MPERSegmentLib.stroke_sync.StrokeSyncCallbacks`.
    message : callable
        Takes a line for the user.
    """

    def __init__(
        self,
        node: Any,
        editable: Callable[[Any, Any, np.ndarray, int], np.ndarray | None],
        message: Callable[[str], None],
    ):
        self._node, self._editable, self._message = node, editable, message
        self._overwritten: dict[int, Overwritten] = {}  # by stroke
        self._overlap = stroke_node.overlap(node)  # voxels that strokes have removed below the user's own segments
        self._byHand = np.zeros(0, np.int64)  # voxels (flat) of manual edits, from a stroke until it is fitted

    def settled(self) -> None:
        """The last stroke was fitted to image edges."""
        self._byHand = np.zeros(0, np.int64)

    def write(
        self,
        mask: np.ndarray,
        part: np.ndarray | None,
        changed: mrml.Window | None,
        shown: Sequence[int],
        numbers: Sequence[int],
    ) -> bool:
        """Update the scene's mask from the strokes `shown` to `numbers`; returns whether any voxel changed.

        Where strokes are added, their limits hold; what is removed goes back wherever it was.

        Parameters
        ----------
        mask : (k, j, i) uint8
            The engine's mask with the strokes `shown`, on the scan's grid.
        part, changed : (k, j, i) uint8 and window, or None
            The engine's mask with `numbers` where it differs; None where it does not.

        Raises
        ------
        ValueError
            If the scene's mask cannot be written as it is.
        """
        node = self._node
        common = _common(shown, numbers)
        removed = [self._overwritten.pop(number) for number in shown[common:] if number in self._overwritten]
        scan = result_node.scan_of(node)
        geometry = mrml.geometry_of(scan)
        strokes = [(one, one.stroke.voxels(geometry)) for one in stroke_node.of(node, numbers[common:])]
        boxes = [box for _one, voxels in strokes for box in stroke_merge.box_of(voxels)]
        boxes += [box for one in removed for box in stroke_merge.box_of(one.voxels(geometry.shape))]
        if changed is not None:
            boxes.append((np.array([s.start for s in changed]), np.array([s.stop for s in changed])))
        union = stroke_merge.union_of(boxes)
        if union is None:
            return False
        low, high = union
        before = mask[mrml.window(low, high - low)]
        after = before.copy()
        if part is not None and changed is not None:
            after[mrml.window([s.start for s in changed] - low, part.shape)] = part
        scene, foreign = labelmap_box.read_box(node, scan, (tuple(low.tolist()), tuple(high.tolist())))
        taken = foreign & (scene == 0)  # the mask does not grow into the user's own segments ...
        # ... but comes back where it overlapped them before
        taken[tuple(_in_box(self._overlap, low, high, geometry.shape).T)] = False
        new = np.where(taken, scene, stroke_merge.followed(scene, before, after))
        for one in reversed(removed):
            stroke_merge.restore(new, low, one, geometry.shape)
        fresh = np.zeros(scene.shape, bool)
        for one, voxels in strokes:
            if one.number not in shown:
                fresh[tuple((voxels - low).T)] = True
            over = stroke_merge.paint(new, low, voxels, one.stroke.value, geometry.shape, taken)
            if len(over.index):
                self._overwritten[one.number] = over
        hand = scene != before  # what was edited by hand since the strokes stays
        hand[tuple(_in_box(self._byHand, low, high, geometry.shape).T)] = True
        hand &= ~fresh
        # what a stroke painted outside the engine's region is no edit by hand, unless it was edited since
        for one in removed:
            at = tuple((one.voxels(geometry.shape) - low).T)
            hand[at] &= scene[at] != one.value
        new = np.where(hand, scene, new)
        self._byHand = np.union1d(
            self._byHand, np.ravel_multi_index(tuple((np.argwhere(hand) + low).T), geometry.shape)
        )
        if common == len(shown) and self._limit(low, scene, new)[fresh].any():
            self._message(_("The limits of strokes kept a part of what you painted as it was."))
        if (new == scene).all():
            return False
        gone = np.argwhere(foreign & (scene != 0) & (new == 0)) + low
        if len(gone):
            self._overlap = np.union1d(self._overlap, np.ravel_multi_index(tuple(gone.T), geometry.shape))
            stroke_node.set_overlap(node, self._overlap)
        labelmap_box.write_box(node, scan, low.tolist(), new)
        return True

    def _limit(self, low: np.ndarray, scene: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Put voxels of `new` back that strokes must not change; returns which (bool)."""
        kept = np.zeros(scene.shape, bool)
        for value in np.unique(new[new != scene]).tolist():
            open_ = self._editable(self._node, low, scene, value)
            if open_ is not None:
                kept |= (new == value) & (new != scene) & ~open_
        new[kept] = scene[kept]
        return kept


def _in_box(flat: np.ndarray, low: np.ndarray, high: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Those of flat indices in a scan of `shape` that lie in a box, (n, 3) from its first voxel."""
    index = np.stack(np.unravel_index(flat, tuple(shape)), axis=1) - low
    return index[((index >= 0) & (index < high - low)).all(axis=1)]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of strokes with which both lists begin."""
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n
