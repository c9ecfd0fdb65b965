"""The response to a stroke in a box of any size: a large box is answered on a coarser grid, as fast as a small one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mper.dataloading.preprocessing import interpolate
from mper.refinement.stroke_response import Mask, Scores, Sides, blending, fading, respond, settle
from mper.volume import Index3, Spacing

_PAINTED = 5.0  # log-odds at least in painted voxels
_LARGEST, _LARGEST_WIDE = 48**3, 60**3  # voxels of a box that is left as it is


def respond_in_box(
    before: Scores,
    image: Scores,
    painted: Mask,
    hard: npt.NDArray[np.int8],
    steps_mm: Spacing,
    quick: Scores | None = None,
    wide: bool = False,
    ends: Sides = (),
) -> Scores:
    """The log-odds of the stroke's class after it, as `mper.refinement.stroke_response.respond`.

    Parameters
    ----------
    before, image, painted, hard, steps_mm
        As for `respond`; voxels of the stroke itself may be marked in `hard`, and count as of the stroke.
    quick : (k, j, i) float32 or None
        The answer of a call without it: then its clean-up at image edges is given instead.
    wide : bool
        Whether the box is that of a wide reach (`mper.refinement.stroke_response.reach`): then the stroke fades.
    ends : sequence of (bool, bool)
        Sides at which the stroke is blended to the border of the segmented region
        (`mper.refinement.stroke_response.blending`); empty for none.

    Returns
    -------
    (k, j, i) float32
        Unchanged where earlier strokes painted another class.
    """
    hard = np.where(painted, 0, hard).astype(np.int8)
    factors = coarsening_factors(before.shape, steps_mm, _LARGEST_WIDE if wide else _LARGEST)
    middle_mm = sorted(steps_mm)[1]
    if max(factors) > 1:
        coarse = CoarseGrid(before.shape, factors)
        low = coarse.mean(before)
        k, j, i = (step * factor for step, factor in zip(steps_mm, factors, strict=True))
        answer = _answer(
            low,
            None if quick is None else coarse.mean(quick),
            coarse.mean(image),
            coarse.any(painted),
            coarse.strongest(hard),
            (k, j, i),
        )
        gain = np.maximum(answer - low, 0)
        final = before + coarse.back(_weakened(gain, coarse.any(painted), (k, j, i), middle_mm, wide, ends))
    else:
        final = _answer(before, quick, image, painted, hard, steps_mm)
        if wide or ends:
            final = before + _weakened(final - before, painted, steps_mm, middle_mm, wide, ends)
    final[hard < 0] = before[hard < 0]
    final[painted] = np.maximum(final[painted], _PAINTED)
    return final


def _weakened(gain: Scores, painted: Mask, steps_mm: Spacing, middle_mm: float, wide: bool, ends: Sides) -> Scores:
    """What a stroke adds to the log-odds, less of it where it fades and at the border of the region."""
    if wide:
        gain = gain * fading(painted, steps_mm, middle_mm)
    return gain * blending(painted, steps_mm, middle_mm, ends) if ends else gain


def _answer(
    before: Scores, quick: Scores | None, image: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps_mm: Spacing
) -> Scores:
    if quick is None:
        return respond(before, image, painted, hard, steps_mm)
    return settle(before, quick, image, painted, hard, steps_mm)


class CoarseGrid:
    """A box on a grid coarser by whole factors."""

    def __init__(self, shape: tuple[int, ...], factors: Index3):
        self._shape, self._factors = shape, factors
        self._pad = [(0, -n % f) for n, f in zip(shape, factors, strict=True)]

    def mean(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self._blocks(array).mean(axis=(1, 3, 5), dtype=np.float32)

    def any(self, array: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.asarray(self._blocks(array).any(axis=(1, 3, 5)))

    def strongest(self, array: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        blocks = self._blocks(array)
        low = blocks.min(axis=(1, 3, 5))
        return np.where(low < 0, low, blocks.max(axis=(1, 3, 5))).astype(np.int8)

    def back(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        for axis, (n, f) in enumerate(zip(self._shape, self._factors, strict=True)):
            array = interpolate(array, axis, (np.arange(n) + 0.5) / f - 0.5)
        return array

    def _blocks(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        padded = np.pad(array, self._pad, mode="edge")
        k, j, i = self._factors
        return padded.reshape(padded.shape[0] // k, k, padded.shape[1] // j, j, padded.shape[2] // i, i)


def coarsening_factors(shape: tuple[int, ...], steps: Spacing, largest: int = _LARGEST) -> Index3:
    """Whole factors that bring a box down to `largest` voxels; the finest axes are made coarser first."""
    factors = [1, 1, 1]
    size = list(shape)
    while np.prod(size) > largest:
        axis = min(range(3), key=lambda a: (steps[a] * factors[a], -size[a]))
        if size[axis] == 1:
            axis = int(np.argmax(size))
        factors[axis] += 1
        size[axis] = -(-shape[axis] // factors[axis])
    return factors[0], factors[1], factors[2]
