"""Network, working grid, normalisation and patch size, chosen from the training scans.

`paper` differs from the published preparation in this: 2-D slices are scaled so that their longer
side has 256 pixels and not stretched to a square, with linear instead of nearest interpolation, and
intensities are normalised after clipping to percentiles (published: z-score of the whole scan before
cropping in 3-D, minimum and maximum of the scan in 2-D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid, working_steps
from mper.labels import BACKGROUND, UNLABELLED
from mper.methods.recipe import PUBLISHED
from mper.nets.registry import DEFAULT_BACKBONES, find_backbone
from mper.utils.coded import Coded
from mper.volume import Geometry, Index3, Spacing, Volume

_FINEST_MM = 1.0  # `plus` works no finer: four times cheaper than 0.625 mm
_PATCH_VOXELS = {3: 600_000, 2: 224 * 224}
_SMALLEST = (16, 32, 32)  # patch: batch norm needs more than one voxel at the bottom of the network
_IN_PLANE_PIXELS = 224
_THICK = 3.0  # slices this many times thicker than the pixels are wide are segmented one by one
_FEW_SLICES = 24  # below which a scan of unknown spacing is taken for a stack of thick slices
_AIR_HU = -500.0  # a median minimum below this means CT


class OnGrid(Protocol):
    """A volume, or a case of a dataset."""

    @property
    def geometry(self) -> Geometry: ...


@dataclass(frozen=True)
class Plan:
    """Network, preprocessing and patch of a run.

    Parameters
    ----------
    network : str
        The kind of backbone, of `mper.nets.registry.BACKBONES`.
    preprocessing : Preprocessing
    patch : (int, int, int)
        Along (k, j, i) in working voxels.
    """

    network: str
    preprocessing: Preprocessing
    patch: Index3

    @property
    def dimensions(self) -> int:
        """3 for volumes, 2 for slices."""
        return find_backbone(self.network).dimensions

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Plan:
        """From what `dataclasses.asdict` made of it."""
        k, j, i = map(int, stored["patch"])
        return cls(str(stored["network"]), Preprocessing(**stored["preprocessing"]), (k, j, i))


def plan(
    images: Sequence[Volume],
    masks: Sequence[np.ndarray | None],
    recipe: str,
    window: tuple[float, float] | None = None,
    kinds: Mapping[int, str] = DEFAULT_BACKBONES,
) -> Plan:
    """Choose from the training scans alone, the same way every time.

    Parameters
    ----------
    images : sequence of Volume
    masks : sequence of (k, j, i) uint8 array or None
        Their labels, for the intensity window of CT: that of the labelled structures, and half of its
        width more on both sides.
    recipe : {"plus", "paper"}
        `paper` takes the published patch and the scans' own resolution.
    window : (float, float) or None
        A window in HU that the user knows better.
    kinds : mapping of int to str
        Backbones to choose from, by dimensions; if there are two, those of the scans decide (`scan_dimensions`).
    """
    dimensions = scan_dimensions(images) if len(kinds) > 1 else next(iter(kinds))
    normalisation = _normalisation(images, masks, window)
    preprocessing = Preprocessing(*_resolution(images, recipe, dimensions), *normalisation)
    if recipe == "paper":
        return Plan(kinds[dimensions], preprocessing, PUBLISHED[dimensions].patch)
    return Plan(kinds[dimensions], preprocessing, _patch(images, preprocessing, dimensions))


def patch_ratio(scans: Sequence[OnGrid], patch: Index3 | None = None) -> float:
    """Voxels of a patch relative to those of the largest of recipe `plus`; the time of a step grows with them.

    Parameters
    ----------
    scans : sequence of Volume or of cases
        Some of those to train on.
    patch : (int, int, int) or None
        None: that which recipe `plus` takes for the scans.
    """
    if patch is None:
        dimensions = scan_dimensions(scans)
        patch = _patch(scans, Preprocessing(*_resolution(scans, "plus", dimensions)), dimensions)
    return float(np.prod(patch)) / _PATCH_VOXELS[2 if patch[0] == 1 else 3]


def _resolution(
    scans: Sequence[OnGrid], recipe: str, dimensions: int
) -> tuple[Spacing | None, int | None, Spacing | None]:
    """Of the working grid: spacing, pixels along the longer side of a slice, and a spacing where it is unknown."""
    spacing = _median_spacing(scans, dimensions)
    if recipe == "paper":
        return (None, PUBLISHED[2].patch[-1], spacing) if dimensions == 2 else (spacing, None, spacing)
    if spacing is None:
        return None, _IN_PLANE_PIXELS if dimensions == 2 else None, None
    k, j, i = (max(s, _FINEST_MM) for s in spacing)
    return (spacing[0] if dimensions == 2 else k, j, i), None, spacing


def check_patch(patch: Index3, dimensions: int | None = None) -> None:
    """Raise a ValueError for a patch (k, j, i) that no network of so many dimensions (None: 2 or 3) can see."""
    flat = patch[0] == 1
    if dimensions not in (None, 2 if flat else 3) or any(n < 16 or n % 16 for n in patch[flat:]):
        whose = "" if dimensions is None else f" for a network of {'slices' if dimensions == 2 else 'volumes'}"
        size = ",".join(map(str, patch))
        line = (
            "a patch (k, j, i) has multiples of 16, with k = 1 for a network of slices and never for one of volumes, "
            f"got {size}{whose}"
        )
        raise ValueError(Coded(line, "patch-unfit", patch=size))


def _median_spacing(images: Sequence[OnGrid], dimensions: int) -> Spacing | None:
    """Along the working axes, however the scans are stored; None if the spacing of one of them is unknown."""
    known = [steps for v in images if (steps := working_steps(v.geometry, dimensions)) is not None]
    if len(known) < len(images):
        return None
    k, j, i = (round(float(v), 4) for v in np.median(np.asarray(known), axis=0))
    return k, j, i


def scan_dimensions(images: Sequence[OnGrid]) -> int:
    """3 if scans are best segmented as volumes, 2 if slice by slice.

    The latter if slices are more than three times as thick as the pixels are wide, or if there are few of them and
    the spacing is unknown.
    """
    spacing = _median_spacing(images, 2)
    if spacing is not None:
        return 2 if spacing[0] > _THICK * max(spacing[1:]) else 3
    return 2 if np.median([v.geometry.shape[0] for v in images]) < _FEW_SLICES else 3


def _normalisation(
    images: Sequence[Volume], masks: Sequence[np.ndarray | None], window: tuple[float, float] | None
) -> tuple[str, tuple[float, float] | None]:
    """z-score for MR; for CT the HU range of the labelled structures, widened by half on both sides."""
    if window is not None:
        return "window", window
    if np.median([float(v.array.min()) for v in images]) > _AIR_HU:
        return "zscore", None
    inside = [
        v.array[(m != BACKGROUND) & (m != UNLABELLED)].astype(np.float64)
        for v, m in zip(images, masks, strict=True)
        if m is not None
    ]
    values = np.concatenate(inside) if inside else np.empty(0)
    if values.size == 0:
        return "zscore", None
    low, high = np.percentile(values, [0.5, 99.5])
    margin = max(0.5 * (high - low), 100.0)
    return "window", (float(round(low - margin)), float(round(high + margin)))


def _patch(scans: Sequence[OnGrid], preprocessing: Preprocessing, dimensions: int) -> Index3:
    """The median scan, rounded up to the network's divisor, cut at its longest sides until it fits."""
    sizes = [WorkingGrid.plan(scan.geometry, preprocessing, dimensions).size for scan in scans]
    median = np.median(np.asarray(sizes), axis=0)
    axes = [0, 1, 2] if dimensions == 3 else [1, 2]
    patch = [1, 1, 1]
    for axis in axes:
        patch[axis] = max(_SMALLEST[axis], int(np.ceil(median[axis] / 16)) * 16)
    while np.prod(patch) > _PATCH_VOXELS[dimensions]:
        shorter = [axis for axis in axes if patch[axis] > _SMALLEST[axis]]
        longest = max(shorter, key=lambda axis: (patch[axis] / max(median[axis], 1), patch[axis]))
        patch[longest] -= 16
    k, j, i = patch
    return k, j, i
