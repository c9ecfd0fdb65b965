"""Where a prediction is uncertain: the regions in which a look, or a stroke, is worth most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.inference.prediction import Prediction
from mper.roi import bounding_box
from mper.utils.coded import Coded
from mper.volume import Index3

_BLUR_MM, _APART_MM, _AROUND_MM = 6.0, 15.0, 6.0
_UNSURE = 0.25  # of the uncertainty, from which on a voxel counts


@dataclass(frozen=True)
class UncertainRegion:
    """A region that a person should check.

    Parameters
    ----------
    index, mm : (k, j, i) and LPS mm, or None
        Its centre.
    uncertainty : float
        1 - label probability, averaged under a Gaussian of 6 mm.
    volume_ml : float or None
        Of the uncertain voxels within 6 mm; None where the spacing is unknown.
    words : str
        For people.
    """

    index: Index3
    mm: tuple[float, float, float] | None
    uncertainty: float
    volume_ml: float | None
    words: str


def uncertain_regions(prediction: Prediction, count: int = 10) -> tuple[UncertainRegion, ...]:
    """The regions in which a stroke is expected to correct most, best first, at least 15 mm apart.

    If the probabilities were true, the sum of 1 - p around a voxel would be the volume that is wrong there. It is
    summed under a Gaussian of 6 mm, about the reach of a stroke. (3 mm gives small regions of high uncertainty; on
    held-back atria less was wrong around those than around a random uncertain voxel.)

    Raises
    ------
    ValueError
        If the prediction holds no label probabilities.
    """
    if prediction.label_probability is None:
        raise ValueError("the prediction holds no label probabilities; predict with want=('label_probability',)")
    geometry = prediction.label_probability.geometry
    certain = np.asarray(prediction.label_probability.array, dtype=np.float16)
    unsure = (certain > 0) & (certain < 1 - _UNSURE)
    window = bounding_box(unsure)
    if window is None:
        return ()
    spacing = np.array(geometry.spacing_mm or (1.0, 1.0, 1.0))
    doubt = np.where(certain[window] > 0, 1 - certain[window].astype(np.float32), 0)
    level = ndimage.gaussian_filter(doubt, _BLUR_MM / spacing, mode="constant")
    unsure = unsure[window]
    start = np.array([s.start for s in window])
    labels = {label.value: label.name for label in prediction.segmentation.labels}
    regions: list[UncertainRegion] = []
    free = level * unsure
    while len(regions) < count:
        middle = np.array(np.unravel_index(int(free.argmax()), free.shape))
        if free[tuple(middle)] <= 0:
            break
        near = _ball(middle, _AROUND_MM / spacing, free.shape)
        ball = near[1] & unsure[near[0]]
        ml = None if geometry.voxel_ml is None else int(np.count_nonzero(ball)) * geometry.voxel_ml
        k, j, i = (int(v) for v in middle + start)
        around = prediction.segmentation.labelmap.array[window][near[0]][near[1]]
        name = next((labels[v] for v in np.unique(around).tolist() if v in labels), "")
        size = "" if ml is None else f"{ml:.1f} mL "
        where = f"at the border of {name}" if name else "outside all structures"
        percent = f"{certain[k, j, i]:.0%}"
        words = Coded(
            f"{size}uncertain {where} (probability {percent} here)",
            f"uncertain-{'border' if name else 'outside'}" + ("" if size else "-size-unknown"),
            structure=name,
            ml="" if ml is None else f"{ml:.1f}",
            percent=percent,
        )
        regions.append(
            UncertainRegion((k, j, i), geometry.position_mm((k, j, i)), float(level[tuple(middle)]), ml, words)
        )
        far = _ball(middle, _APART_MM / spacing, free.shape)
        free[far[0]] *= ~far[1]
    return tuple(regions)


def _ball(
    middle: npt.NDArray[np.int64], radius: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], npt.NDArray[np.bool_]]:
    """A window around a voxel, and which of its voxels lie in the ball."""
    low = np.maximum(np.ceil(middle - radius), 0).astype(int)
    high = np.minimum(np.floor(middle + radius) + 1, shape).astype(int)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    inside = sum(((axis - m) / max(r, 1e-6)) ** 2 for axis, m, r in zip(axes, middle, radius, strict=True)) <= 1
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), np.asarray(inside)
