"""How close a mask is to the reference: overlap and surface distances, as the papers compute them.

The four figures are those of ``medpy.metric.binary`` (dc, jc, hd95, asd), which the papers on LA
and ACDC report; a test compares them. As there,

- a surface voxel is a voxel of the mask with a face neighbour outside it (outside the image counts
  as outside the mask),
- HD95 is the 95th percentile of the distances of both surfaces to the other, taken together,
- ASD goes one way: the mean distance of the prediction's surface voxels to the reference's.

Distances are given in voxels, as the papers do, and in mm where the spacing is known (else None).

We differ from the papers' code in one point. Where the prediction or the reference is empty no
distance exists, and it is None here; the papers' code counts an empty prediction as Dice 0, Jaccard
0, HD95 0 and ASD 0, which *lowers* the mean distances and so flatters a failure. Means leave None
out and tell in ``without_distance`` how often that happened. Dice and Jaccard are 1 where both masks
are empty and 0 where one is.

Voxels that the reference leaves unlabelled (255) are ignored: they count in no overlap, and the cut
along them is nobody's surface.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.labels import UNLABELLED, Label
from mper.roi import bounding_box

Mask = npt.NDArray[np.bool_]


class Figures(TypedDict):
    """The figures of one mask; a distance is None where it does not exist or the spacing is unknown."""

    dice: float
    jaccard: float
    hd95_voxel: float | None
    asd_voxel: float | None
    hd95_mm: float | None
    asd_mm: float | None


class MeanFigures(Figures):
    """Means over several masks; `without_distance` of them had an empty mask or reference."""

    without_distance: int


class CaseMetrics(TypedDict):
    """The figures of a case: each label's by its name, and their mean."""

    mean: MeanFigures
    labels: dict[str, Figures]


class CohortMetrics(TypedDict):
    """Means over cases: of the cases' means, and label by label."""

    mean: MeanFigures
    labels: dict[str, MeanFigures]


def dice(prediction: Mask, reference: Mask) -> float:
    """2 |P and R| / (|P| + |R|); 1 where both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else 1.0


def jaccard(prediction: Mask, reference: Mask) -> float:
    """|P and R| / |P or R|; 1 where both are empty."""
    union = np.count_nonzero(prediction | reference)
    return np.count_nonzero(prediction & reference) / union if union else 1.0


def surface(mask: Mask, ignored: Mask | None = None) -> Mask:
    """The voxels of `mask` that have a face neighbour outside both masks."""
    inside = mask if ignored is None else mask | ignored
    return mask & ~ndimage.binary_erosion(inside)


def hd95_and_asd(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> tuple[float, float]:
    """95 % Hausdorff distance and average surface distance of two surfaces, in the unit of `spacing`.

    Parameters
    ----------
    prediction, reference : boolean arrays of one shape
        The surface voxels of each, at least one.
    spacing : numbers
        Step along each axis; all ones for distances in voxels.
    """
    # Distance transforms, not a tree of points: a little slower on good masks, but never slow on bad ones.
    there = ndimage.distance_transform_edt(~reference, sampling=spacing)[prediction]
    back = ndimage.distance_transform_edt(~prediction, sampling=spacing)[reference]
    return float(np.percentile(np.concatenate([there, back]), 95)), float(there.mean())


def figures(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, ignored: Mask | None = None
) -> Figures:
    """All figures of one binary mask.

    Parameters
    ----------
    prediction, reference : boolean arrays of one shape
    spacing_mm : ndim numbers or None
        Step along each axis of the arrays; None where unknown, and so are the distances in mm.
    ignored : boolean array or None
        Voxels that count in nothing.

    Returns
    -------
    Figures
    """
    # One voxel to spare tells cut surfaces from real ones; two empty masks stay empty.
    window = bounding_box(prediction | reference, margin=1) or (slice(0, 0),) * prediction.ndim
    prediction, reference = prediction[window], reference[window]
    if ignored is not None:
        ignored = ignored[window]
        prediction, reference = prediction & ~ignored, reference & ~ignored
    result = Figures(
        dice=dice(prediction, reference),
        jaccard=jaccard(prediction, reference),
        hd95_voxel=None,
        asd_voxel=None,
        hd95_mm=None,
        asd_mm=None,
    )
    ours, theirs = surface(prediction, ignored), surface(reference, ignored)
    if not (ours.any() and theirs.any()):
        return result
    result["hd95_voxel"], result["asd_voxel"] = hd95, asd = hd95_and_asd(ours, theirs, [1] * prediction.ndim)
    if spacing_mm is not None and np.allclose(
        spacing_mm, spacing_mm[0], rtol=1e-6, atol=0
    ):  # cubes: only the unit differs
        result["hd95_mm"], result["asd_mm"] = hd95 * spacing_mm[0], asd * spacing_mm[0]
    elif spacing_mm is not None:
        result["hd95_mm"], result["asd_mm"] = hd95_and_asd(ours, theirs, spacing_mm)
    return result


def case_metrics(
    prediction: npt.NDArray[np.integer],
    reference: npt.NDArray[np.integer],
    labels: Sequence[Label],
    spacing_mm: Sequence[float] | None,
) -> CaseMetrics:
    """Figures of each label of one case, and their mean.

    Parameters
    ----------
    prediction, reference : integer arrays of one shape, 3-D (k, j, i) or 2-D (j, i)
        Label arrays; 255 in the reference is ignored.
    labels : sequence of Label
        What to compare, at least one.
    spacing_mm : numbers or None
        Step along each axis, None where unknown.

    Returns
    -------
    CaseMetrics

    Raises
    ------
    ValueError
        If the shapes differ, the spacing has another number of axes, or there is no label.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction of shape {prediction.shape} and reference of shape {reference.shape} cannot be compared; "
            "both must lie on the same grid"
        )
    if spacing_mm is not None and len(spacing_mm) != reference.ndim:
        raise ValueError(f"spacing {tuple(spacing_mm)} has {len(spacing_mm)} axes, the arrays have {reference.ndim}")
    ignored = reference == UNLABELLED
    anything_ignored = ignored if ignored.any() else None
    by_label = {
        label.name: figures(prediction == label.value, reference == label.value, spacing_mm, anything_ignored)
        for label in labels
    }
    return CaseMetrics(mean=mean_figures(by_label.values()), labels=by_label)


def cohort_metrics(cases: Sequence[CaseMetrics]) -> CohortMetrics:
    """Means over cases: of each case's mean over labels, and of each label.

    Raises
    ------
    ValueError
        If there is no case.
    """
    names = dict.fromkeys(name for case in cases for name in case["labels"])
    mean = mean_figures(case["mean"] for case in cases)
    mean["without_distance"] = sum(case["mean"]["without_distance"] for case in cases)
    return CohortMetrics(
        mean=mean,
        labels={name: mean_figures(c["labels"][name] for c in cases if name in c["labels"]) for name in names},
    )


def mean_figures(masks: Iterable[Figures]) -> MeanFigures:
    """The mean of each figure over those masks that have it.

    Raises
    ------
    ValueError
        If there is no mask.
    """
    masks = list(masks)
    if not masks:
        raise ValueError("there is nothing to take the mean of; give at least one label and one case")
    return MeanFigures(
        dice=float(np.mean([mask["dice"] for mask in masks])),
        jaccard=float(np.mean([mask["jaccard"] for mask in masks])),
        hd95_voxel=_mean([mask["hd95_voxel"] for mask in masks]),
        asd_voxel=_mean([mask["asd_voxel"] for mask in masks]),
        hd95_mm=_mean([mask["hd95_mm"] for mask in masks]),
        asd_mm=_mean([mask["asd_mm"] for mask in masks]),
        without_distance=sum(mask["hd95_voxel"] is None for mask in masks),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
