"""The wall of a left atrium in LGE-MRI: its shell, the blood pool, and how much of it is enhanced.

Two quantities of the wall are distinguished. The *shell* is the voxels within `thickness_mm` outside of the cavity.
The *wall's intensity* at a point of the surface is the maximum (or mean) along the outward normal through the same
thickness; extents are areas of the surface, never counts of points or voxels, so that they do not depend on the grid.

Thresholds differ so much between methods that no single one is given: every method is listed with its parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from mper.measurement.surface import Surface, sample_along_normals
from mper.roi import bounding_box
from mper.utils.coded import Coded
from mper.volume import Geometry, Volume

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_STEP_MM = 0.25  # along the normals
_LEAST_POOL = 50  # voxels
_LEAST_IN_SCAN = 0.5  # of the samples at a point, below which the wall there has left the scan

IIR_THRESHOLDS = {
    0.97: "Khurram et al., Heart Rhythm 2014: bipolar voltage below 0.5 mV",
    1.20: "mean + 2 SD of healthy volunteers; reproduced in doi 10.1007/s10554-019-01728-0",
    1.32: "in use for dense scar; no primary source was checked",
    1.61: "Khurram et al., Heart Rhythm 2014: bipolar voltage below 0.1 mV",
}
SD_THRESHOLDS = {
    2.0: "in use; no primary source was checked",
    3.0: "as in PMID 35947873",
    3.3: "as in PMC7771635",
    4.0: "in use; no primary source was checked",
}


@dataclass(frozen=True)
class WallSettings:
    """Parameters of the wall.

    Parameters
    ----------
    thickness_mm : float
        Of the shell, outward from the surface of the cavity.
    pool_margin_mm : float
        How far the blood pool stays away from the surface.
    sampling : {"mean", "max"}
        Of the intensities along the normal at a point; the maximum is what public code for these thresholds takes
        (CEMRG), and gives the extents that the literature reports.
    """

    thickness_mm: float = 3.0
    pool_margin_mm: float = 2.0
    sampling: Literal["mean", "max"] = "max"

    def __post_init__(self) -> None:
        for name, low, high in (("thickness_mm", 0.5, 10.0), ("pool_margin_mm", 0.0, 20.0)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    Coded(
                        f"{name} must be from {low:g} to {high:g} mm, got {getattr(self, name):g}",
                        "wall-setting-range",
                        name=name,
                        low=f"{low:g}",
                        high=f"{high:g}",
                    )
                )
        if self.sampling not in ("mean", "max"):
            raise ValueError(f"the sampling is 'mean' or 'max', got {self.sampling!r}")


@dataclass(frozen=True)
class Extent:
    """How much of the wall lies above a threshold.

    Parameters
    ----------
    method : str
        ``IIR``, ``SD`` or ``Otsu``.
    parameter : float or None
        The ratio, or the number of SD.
    threshold : float
        The intensity.
    area_mm2, percent : float
        Above the threshold, and its share of the wall's area.
    source : str
    """

    method: str
    parameter: float | None
    threshold: float
    area_mm2: float
    percent: float
    source: str


@dataclass(frozen=True, eq=False)
class Wall:
    """The enhancement of a wall.

    Parameters
    ----------
    pool_mean, pool_sd, pool_voxels : float, float, int
        Intensities of the blood pool.
    intensities : (n,) float array
        At the points of the surface; NaN where the wall has left the scan or was clipped.
    area_mm2 : float
        Of the surface that has an intensity.
    outside_percent : float
        Share of the wall's area that lies outside the scan.
    extents : tuple of Extent
    """

    pool_mean: float
    pool_sd: float
    pool_voxels: int
    intensities: Floats
    area_mm2: float
    outside_percent: float
    extents: tuple[Extent, ...]


def measure_wall(
    surface: Surface,
    wall: npt.NDArray[np.bool_],
    cavity: Mask,
    scan: Volume,
    settings: WallSettings | None = None,
) -> Wall:
    """Measure the enhancement of a wall.

    Parameters
    ----------
    surface : Surface
        Of the whole cavity, before clipping.
    wall : (n,) bool array
        Which points belong to the wall: not to clipped veins and openings.
    cavity : (k, j, i) bool array
        On the scan's grid, after clipping.
    scan : Volume
    settings : WallSettings or None

    Raises
    ------
    ValueError
        If no blood pool is left, its mean is not above zero, or most of the wall lies outside the scan.
    """
    settings = settings or WallSettings()
    pool = blood_pool(cavity, scan.geometry, settings.pool_margin_mm)
    if np.count_nonzero(pool) < _LEAST_POOL:
        raise ValueError(
            Coded(
                f"the mask has no cavity: {np.count_nonzero(pool)} voxels lie {settings.pool_margin_mm:g} mm inside of "
                f"it, at least {_LEAST_POOL} are needed for the blood pool; give the mask of the cavity (no wall, no "
                "shell)",
                "no-cavity",
            )
        )
    blood = scan.array[pool].astype(np.float64)
    mean, sd = float(blood.mean()), float(blood.std())
    if not mean > 0:
        raise ValueError(
            Coded(
                f"the blood pool has a mean intensity of {mean:g}; ratios need intensities above zero: "
                "give the scan as the scanner wrote it, not normalised",
                "no-positive-blood",
                mean=f"{mean:g}",
            )
        )
    depths = np.arange(_STEP_MM / 2, settings.thickness_mm, _STEP_MM)
    samples = sample_along_normals(surface, scan, depths)
    seen = np.isfinite(samples).mean(axis=1) >= _LEAST_IN_SCAN
    values = np.full(len(samples), np.nan)
    used = seen & wall
    pick = np.nanmean if settings.sampling == "mean" else np.nanmax
    if used.any():
        values[used] = pick(samples[used], axis=1)
    areas = surface.point_areas_mm2()
    whole, area = float(areas[wall].sum()), float(areas[used].sum())
    if area < _LEAST_IN_SCAN * whole:
        raise ValueError(
            Coded(
                f"{100 * (1 - area / whole) if whole else 100:.0f} % of the wall lies outside the scan; "
                "give a scan that shows the whole atrium",
                "wall-mostly-outside",
            )
        )
    return Wall(
        mean,
        sd,
        len(blood),
        values,
        area,
        100 * (1 - area / whole),
        tuple(_extents(values[used], areas[used], mean, sd)),
    )


def _extents(values: Floats, areas: Floats, mean: float, sd: float) -> list[Extent]:
    thresholds: list[tuple[str, float | None, float, str]] = [
        ("IIR", ratio, ratio * mean, source) for ratio, source in IIR_THRESHOLDS.items()
    ]
    thresholds += [("SD", number, mean + number * sd, source) for number, source in SD_THRESHOLDS.items()]
    thresholds.append(("Otsu", None, otsu(values, areas), "Otsu, IEEE Transactions on SMC 1979"))
    total = float(areas.sum())
    return [
        Extent(method, parameter, level, above := float(areas[values > level].sum()), 100 * above / total, source)
        for method, parameter, level, source in thresholds
    ]


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value below which half of the weight lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])


def otsu(values: Floats, weights: Floats, bins: int = 256) -> float:
    """The threshold that maximises the variance between two classes: ``w0 w1 (m0 - m1)^2``.

    Source: Otsu, IEEE Transactions on Systems, Man, and Cybernetics 1979; 9: 62. Values are weighted by area.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return high
    counts, edges = np.histogram(values, bins, (low, high), weights=weights)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    between = np.nan_to_num(below * above * gap**2)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))  # a plateau where no value lies between the classes
    return float(edges[1 + best].mean())


def blood_pool(cavity: Mask, geometry: Geometry, margin_mm: float) -> Mask:
    """The voxels of a cavity that lie deeper than `margin_mm` below its surface."""
    window = bounding_box(cavity, margin=1)
    pool = np.zeros_like(cavity)
    if window is None:
        return pool
    part = np.pad(cavity[window], 1)  # a cavity that ends at the border of the scan ends there
    squared = np.where(part, np.float32(np.inf), np.float32(0))  # distance to the nearest voxel outside, mm2
    for axis, step in enumerate(geometry.step_lengths):
        lanes = squared.swapaxes(0, axis)
        nearest = lanes.copy()
        for n in range(1, int(margin_mm / step + 0.5) + 1):
            gap = np.float32(((n - 0.5) * step) ** 2)  # to its surface, half a voxel before its centre
            np.minimum(nearest[n:], lanes[:-n] + gap, out=nearest[n:])
            np.minimum(nearest[:-n], lanes[n:] + gap, out=nearest[:-n])
        squared = nearest.swapaxes(0, axis)
    pool[window] = (squared > margin_mm**2)[1:-1, 1:-1, 1:-1]
    return pool


def shell(surface: Surface, wall: npt.NDArray[np.bool_], cavity: Mask, geometry: Geometry, thickness_mm: float) -> Mask:
    """The voxels within `thickness_mm` outside of a cavity, nearest to points of the wall rather than of openings.

    Parameters
    ----------
    surface : Surface
        Of the cavity before clipping, as `cavity`.
    wall : (n,) bool array
        Which of its points belong to the wall.
    cavity : (k, j, i) bool array
    geometry : Geometry
    thickness_mm : float
    """
    margins = [int(np.ceil(thickness_mm / step)) + 1 for step in geometry.step_lengths]
    window = bounding_box(cavity, margin=max(margins))
    found = np.zeros_like(cavity)
    if window is None:
        return found
    part = cavity[window]
    rough = ndimage.distance_transform_edt(~part, geometry.step_lengths)
    near = np.argwhere((rough > 0) & (rough <= thickness_mm + max(geometry.step_lengths)))
    places = geometry.to_world(near + np.array([each.start for each in window]))
    # The nearest point decides only at the outer border of the shell, and near the openings.
    asked = rough[tuple(near.T)] > thickness_mm - float(np.linalg.norm(geometry.step_lengths))
    if not wall.all():
        low, high = (end(surface.points_mm[~wall], axis=0) for end in (np.min, np.max))
        asked |= ((places >= low - thickness_mm) & (places <= high + thickness_mm)).all(axis=1)
    _, nearest = cKDTree(surface.points_mm).query(places[asked], distance_upper_bound=np.nextafter(thickness_mm, 99))
    kept = np.ones(len(near), bool)
    kept[asked] = np.append(wall, False)[nearest]  # no point is so near: the index after the last
    inside = np.zeros_like(part)
    inside[tuple(near[kept].T)] = True
    found[window] = inside
    return found
