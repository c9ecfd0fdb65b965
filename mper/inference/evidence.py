"""Evidence: what can be measured of a mask without knowing the truth, and says how good it is.

Every piece is a number of which more is better. A model's calibration (`mper.models.calibration`) makes the expected
Dice from them:

- ``confidence``: the soft Dice of mask and probabilities (`mper.inference.confidence`), as its log-odds;
- ``prototype_agreement``: Dice between the classes of the linear classifier and those of the nearest prototype;
- ``similarity``, ``background_similarity``: mean cosine of the voxels of the mask, and of the rest of the region, to
  the nearest prototype of their class: in embedding space, the distance to everything that was seen in training;
- ``localization_agreement``: Dice between the mask and what the localisation sees at low resolution;
- ``size``, ``shape``: how far volume and shape are from those of the training labels, in standard deviations, negative;
- ``slices``, ``slice_overlap``: of 2-D networks, the same of the distance between slices, and the mean Dice of
  neighbouring slices of the mask;
- ``free_border``: minus the share of the mask's extent that ends where its region does;
- ``one_piece``: share of the voxels that were kept when small parts were dropped;
- ``intensities``: minus the distance of the percentiles of the normalised intensities from those of the training scans;
- ``smoothness``: correlation of neighbouring voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from mper.dataloading.preprocessing import WorkingGrid
from mper.inference.postprocessing import prototype_cosines
from mper.models.calibration import Calibration
from mper.models.card import Card
from mper.roi import bounding_box
from mper.volume import Index3

if TYPE_CHECKING:
    from mper.inference.localization import Search
    from mper.roi import Region
    from mper.volume import Volume

Classes = npt.NDArray[np.uint8]

_FEW_SLICES = 32
_POINTS = 40_000  # voxels of a structure that its moments are taken from
_FARTHEST = 6.0  # standard deviations
_COARSE_SHARE = 0.5  # of a coarse voxel that is structure
_SMOOTH_ENOUGH = 0.9  # correlation of neighbours, above which more says nothing


def steps_of(shape: Sequence[int]) -> Index3:
    """The evidence is taken from each so many voxels along (k, j, i) of a working grid of this shape."""
    return 2 if shape[0] > _FEW_SLICES else 1, 2, 2


def of_network(probabilities: torch.Tensor, embedding: torch.Tensor | None, vectors: torch.Tensor) -> dict[str, float]:
    """The evidence in the output of the network.

    Parameters
    ----------
    probabilities : (classes, k, j, i) float tensor
        On the working grid, or each so many voxels of it (`steps_of`).
    embedding : (filters, k, j, i) float tensor or None
        Of the same voxels.
    vectors : (classes, prototypes, filters) float tensor
        The prototypes.
    """
    if embedding is None or not vectors.any():
        return {}
    nearest = prototype_cosines(vectors, embedding).float().amax(1)
    by_prototype, linear = nearest.max(0).indices, probabilities.max(0).indices  # faster on a CPU than argmax
    agreements, similarities = [], []
    for c in range(1, len(probabilities)):
        one, other = linear == c, by_prototype == c
        total = int(one.sum() + other.sum())
        if total:
            agreements.append(2 * int((one & other).sum()) / total)
        if one.any():
            similarities.append(float(nearest[c][one].mean()))
    found = {}
    if similarities:
        found = {"prototype_agreement": float(np.mean(agreements)), "similarity": float(np.mean(similarities))}
    if (linear == 0).any():
        found["background_similarity"] = float(nearest[0][linear == 0].mean())
    return found


def of_confidence(confidence: Mapping[int, float], count: int) -> dict[str, float]:
    """The evidence in the confidence of each structure; a structure of `count` that was not found has none."""
    mean = sum(confidence.values()) / count
    mean = min(0.995, max(0.005, mean))
    return {"confidence": float(np.log(mean / (1 - mean)))}


def of_mask(
    classes: Classes, grid: WorkingGrid, dimensions: int, count: int, calibration: Calibration
) -> dict[str, float]:
    """The evidence in the size and shape of a mask.

    Parameters
    ----------
    classes : (k, j, i) uint8 array
        Class of each voxel of the region.
    grid : WorkingGrid
    dimensions : int
        Of the network.
    count : int
        Number of structures.
    calibration : Calibration
        Knows what is usual.
    """
    measured = shape_of(classes, grid, dimensions, count)
    distances: dict[str, list[float]] = {}
    for name, (mean, deviation) in calibration.usual.items():
        value = measured.get(name, np.inf)
        if not np.isnan(value):
            far = min(_FARTHEST, abs(value - mean) / deviation)
            distances.setdefault(name.split(".")[0], []).append(far)
    found = {name: -float(np.sqrt(np.mean(np.square(each)))) for name, each in distances.items()}
    if dimensions == 2:
        found["slice_overlap"] = _slice_overlap(classes.transpose(grid.axes), count)
    return found


def shape_of(classes: Classes, grid: WorkingGrid, dimensions: int, count: int) -> dict[str, float]:
    """Numbers that describe the size and shape of labels, along the patient's axes for a 3-D network.

    The names start with the evidence that a number belongs to (``size.1``: of class 1). What is NaN cannot be known: a
    length or a volume in mm where the spacing is unknown, and that in voxels (``size.1.voxels``) where it is known. A
    structure that is not there has no entry.
    """
    view = np.flip(classes.transpose(grid.axes), grid.flips)
    shape = [grid.source_shape[axis] for axis in grid.axes]
    steps = np.asarray(grid.step_lengths) * np.asarray(grid.size) / np.asarray(shape)
    found: dict[str, float] = {}

    def measure(name: str, value: float) -> None:
        """Note the logarithm of a length or a volume."""
        found[name], found[f"{name}.voxels"] = (value, np.nan) if grid.in_mm else (np.nan, value)

    if dimensions == 2:
        measure("slices.step", float(np.log(steps[0])))
    for c in range(1, count + 1):
        window = bounding_box(view == c)
        if window is None:
            continue
        points = np.argwhere(view[window] == c)
        measure(f"size.{c}", float(np.log(len(points) * np.prod(steps) / 1000)))
        points = points[:: max(1, len(points) // _POINTS)] * steps
        points = points - points.mean(0)
        deviation = np.sqrt((points**2).mean(0)) + 0.3 * steps  # of a single slice, too
        correlation = (points.T @ points) / len(points) / np.outer(deviation, deviation)
        if dimensions == 3:
            skew = (points**3).mean(0) / deviation**3
            for n, axis in enumerate("kji"):
                measure(f"shape.{c}.deviation_{axis}", float(np.log(deviation[n])))
                found[f"shape.{c}.skew_{axis}"] = float(skew[n])
            for a, b in ((0, 1), (0, 2), (1, 2)):
                found[f"shape.{c}.correlation_{'kji'[a]}{'kji'[b]}"] = float(correlation[a, b])
        else:
            plane = np.linalg.eigvalsh((points.T @ points)[1:, 1:] / len(points))
            measure(f"shape.{c}.deviation_k", float(np.log(deviation[0])))
            for n, name in enumerate(("short", "long")):
                measure(f"shape.{c}.deviation_{name}", float(np.log(np.sqrt(max(plane[n], 0.1)))))
    if count > 1:
        for (a, b), share in _contacts(view, count).items():
            found[f"shape.contact_{a}{b}"] = share
    return found


def of_localization(search: Search, classes: Classes, region: Region, scan: Volume) -> dict[str, float]:
    """Whether the localisation sees the structure where the mask is."""
    whole = region.spread((classes > 0).astype(np.float32), scan.geometry)
    mask = search.grid.forward(whole).numpy() > _COARSE_SHARE
    seen = search.probability > 0.5
    if not region.covers(scan.geometry):
        seen &= search.grid.forward(region.spread(np.ones(classes.shape, np.float32), scan.geometry)).numpy() > 0.5
    total = int(mask.sum() + seen.sum())
    return {"localization_agreement": 2 * int((mask & seen).sum()) / total if total else 0.0}


def of_region(classes: Classes, region: Region, dropped: int, axes: Sequence[int]) -> dict[str, float]:
    """The evidence in where the mask ends, and in how much of it is one piece.

    Parameters
    ----------
    classes : (k, j, i) uint8 array
        The final mask of the region.
    region : Region
    dropped : int
        Voxels of small parts that were dropped from it.
    axes : sequence of int
        Array axes along which a mask should end within its region.
    """
    mask = classes > 0
    voxels = int(np.count_nonzero(mask))
    touched = 0.0
    for axis in axes:
        area = float(mask.any(axis=axis).sum())
        if area:
            touched += sum(region.cut(mask, axis)) / area
    return {"free_border": -touched, "one_piece": voxels / (voxels + dropped) if voxels else 0.0}


def of_image(percentiles: npt.NDArray[np.floating], correlation: float, card: Card) -> dict[str, float]:
    """The evidence in the intensities: percentiles of the normalised image, and the correlation of neighbours."""
    found = {"smoothness": min(_SMOOTH_ENOUGH, correlation)}
    usual = card.about.get("intensity", {})
    if usual:
        outside = [max(low - v, v - high, 0.0) for v, (low, high) in zip(percentiles, usual.values(), strict=True)]
        found["intensities"] = -float(max(outside))
    return found


def _slice_overlap(view: Classes, count: int) -> float:
    """Mean Dice of neighbouring slices that both show a structure."""
    overlaps = []
    for c in range(1, count + 1):
        own = view == c
        sizes = own.sum((1, 2))
        common = (own[1:] & own[:-1]).sum((1, 2))
        both = (sizes[1:] > 0) & (sizes[:-1] > 0)
        overlaps += (2 * common[both] / (sizes[1:] + sizes[:-1])[both]).tolist()
    return float(np.mean(overlaps)) if overlaps else 0.0


def _contacts(view: Classes, count: int) -> dict[tuple[int, int], float]:
    """Share of the in-plane border of each structure that it has in common with each other one."""
    pairs = np.zeros((count + 1, count + 1))
    for axis in (1, 2):
        one, other = view.take(range(1, view.shape[axis]), axis), view.take(range(view.shape[axis] - 1), axis)
        differ = one != other
        np.add.at(pairs, (one[differ], other[differ]), 1)
    pairs += pairs.T
    return {
        (a, b): float(pairs[a, b] / pairs[a].sum())
        for a in range(1, count + 1)
        for b in range(1, count + 1)
        if a != b and pairs[a].sum()
    }
