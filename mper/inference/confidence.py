"""Confidence: how far a model's mask and its probabilities agree.

The confidence of a structure is the soft Dice between its probability p and its mask m in the segmented region,

    2 sum(p m) / (sum(p) + sum(m)),

which is the Dice to expect if the probabilities were true. The confidence of a case is the mean over the structures
that were found, 0 if none was. It is not calibrated: it ranks cases, and is no percentage of correct voxels. The word
means this quantity everywhere; of a voxel there is only the probability of its label.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mper.labels import Segmentation


def soft_dice(inside: float, total: float, voxels: int) -> float:
    """Confidence of a structure: `inside` is its probability summed over its mask, `total` over the whole region."""
    return min(1.0, 2 * inside / (total + voxels))


def case_confidence(structures: Mapping[int, float]) -> float:
    """Confidence of a case from that of its structures."""
    return float(np.mean(list(structures.values()))) if structures else 0.0


def structure_confidence(
    mask: Segmentation, probability: npt.NDArray[np.floating], expected: Mapping[int, float]
) -> dict[int, float]:
    """Confidence of each structure of a mask that has voxels, by label value.

    Parameters
    ----------
    mask : Segmentation
    probability : (k, j, i) float array
        Of each voxel's own label.
    expected : mapping of int to float
        The sum of each label's probability over the region, see `Prediction.expected_voxels`.
    """
    found = {}
    for label in mask.labels:
        own = mask.labelmap.array == label.value
        if voxels := int(np.count_nonzero(own)):
            inside = float(probability[own].sum(dtype=np.float64))
            found[label.value] = soft_dice(inside, expected.get(label.value, 0.0), voxels)
    return found


def corrected_expectation(
    expected: Mapping[int, float],
    before: npt.NDArray[np.uint8],
    after: npt.NDArray[np.uint8],
    probability: npt.NDArray[np.floating],
    corrected: npt.NDArray[np.bool_],
) -> dict[int, float]:
    """`expected` once a person has set the voxels in `corrected`, whose labels are certain from then on.

    Parameters
    ----------
    expected : mapping of int to float
        The sum of each label's probability over the region.
    before, after : (k, j, i) uint8 arrays
        The model's mask, and the corrected one.
    probability : (k, j, i) float array
        Of the voxel's label in `before`. What was left of it is taken to have been of the voxel's new label, or shared
        evenly among the other labels where it keeps the old one: exact where there is one label.
    corrected : (k, j, i) bool array
    """
    was, now, p = before[corrected], after[corrected], probability[corrected].astype(np.float64)
    sums = {}
    for value, total in expected.items():
        left = np.where(now == value, 1 - p, np.where(now == was, (1 - p) / len(expected), 0))
        lost = np.where(was == value, p, left).sum()
        sums[value] = max(0.0, total - float(lost)) + int(np.count_nonzero(now == value))
    return sums
