"""What a stroke changed, and the data to undo it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mper.refinement.stroke_response import Scores, Sides
from mper.strokes import Stroke
from mper.volume import Index3

Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Change:
    """What a stroke, or its undoing, changed.

    Parameters
    ----------
    box : ((k, j, i), (k, j, i)) or None
        Start and stop, in the scan, of what differs; None if nothing does.
    voxels : int
    gained, lost : mapping of label value to voxels
        Background (0) included.
    voxel_ml : float or None
        None where the scan's spacing is unknown.
    notes : tuple of str
        Notes for the user.
    """

    box: tuple[Index3, Index3] | None = None
    voxels: int = 0
    gained: Mapping[int, int] = field(default_factory=dict)
    lost: Mapping[int, int] = field(default_factory=dict)
    voxel_ml: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def added_ml(self) -> dict[int, float] | None:
        """By label value but background's, what it gained."""
        return self._ml(self.gained)

    @property
    def removed_ml(self) -> dict[int, float] | None:
        """By label value but background's, what it lost."""
        return self._ml(self.lost)

    def _ml(self, voxels: Mapping[int, int]) -> dict[int, float] | None:
        if self.voxel_ml is None:
            return None
        return {value: count * self.voxel_ml for value, count in voxels.items() if value}


@dataclass(frozen=True, eq=False)
class StrokeBox:
    """The part of the working grid on which a stroke acts: a box, and in it the (n, 3) painted voxels.

    `wide` is for a stroke that reaches further than usual, and fades; `ends` are the sides of the box, where there are
    any, at which it is blended to the border of the segmented region.
    """

    window: Window
    painted: npt.NDArray[np.int64]
    wide: bool = False
    ends: Sides = ()

    def mask(self, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        out = np.zeros(shape, dtype=bool)
        out[tuple(self.painted.T)] = True
        return out


@dataclass(eq=False)
class AppliedStroke:
    """A stroke with the data to undo it: only what it changed."""

    stroke: Stroke
    change: Change
    voxels: npt.NDArray[np.int64]
    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]
    painted: npt.NDArray[np.int64]
    painted_before: npt.NDArray[np.uint8]
    box: StrokeBox
    raised: npt.NDArray[np.int64]
    scores_before: Scores
    hard_before: npt.NDArray[np.uint8]
    settled: bool = False
    box_before: Scores | None = None
    quick: Scores | None = None

    @property
    def nbytes(self) -> int:
        kept = (self.voxels, self.before, self.after, self.painted, self.painted_before, self.box.painted)
        more = (self.raised, self.scores_before, self.hard_before)
        return sum(a.nbytes for a in kept + more)
