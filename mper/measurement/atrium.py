"""The left atrium: volume, wall area, sphericity, and with an LGE scan the enhancement of its wall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from mper.measurement.clipping import Clip, clip_mask, largest_component
from mper.measurement.figures import Figure, indexed
from mper.measurement.surface import METHOD, Surface, extract_surface, is_stack
from mper.measurement.wall import Extent, Wall, WallSettings, measure_wall, shell, weighted_median
from mper.roi import bounding_box
from mper.utils.coded import Coded, joined, line_of
from mper.volume import Geometry, Volume

Mask = npt.NDArray[np.bool_]
GROUP, WALL_GROUP = Coded("Left atrium", "left-atrium"), Coded("Wall (LGE)", "wall")
_WALL_AREA, _SPHERICITY = Coded("LA wall area", "la-wall-area"), Coded("LA sphericity", "la-sphericity")
_WITHOUT = Coded("openings of the clips left out", "openings-left-out")
_CUT = Coded(
    "the mask ends at the border of the scan: the volume is a lower bound, and the cut face is no wall; where it is a "
    "vein, clip it",
    "cut",
)
_WITHOUT_CUT = Coded("cut face at the border of the scan left out", "cut-left-out")
_BEYOND = 5  # voxels by which a cut mask goes on beyond the scan, so that its surface does not bend to the cut face
_ROOM_MM = 12.0  # around the mask: the thickest wall, and two millimetres

# Upper limits in % of the wall, and whether a limit itself belongs to the lower stage.
_SCHEMES = {
    "DECAAF 2014": ((10.0, 20.0, 30.0), False),  # < 10, 10 to < 20, 20 to < 30, >= 30
    "Utah 2010": ((5.0, 20.0, 35.0), True),  # <= 5, <= 20, <= 35, > 35
}


@dataclass(frozen=True, eq=False)
class Atrium:
    """A measured left atrium.

    Parameters
    ----------
    figures : tuple of Figure
    surface : Surface or None
        Of the whole mask, with the scalars ``wall`` (1 where a point belongs to the wall, 0 where it was clipped, or
        lies beyond the border of the scan that cuts the mask) and
        ``distance`` (mm from the centroid of the kept part) and, with a scan, ``intensity`` and ``iir``; None for a
        stack of thick slices.
    wall : Wall or None
    kept : (k, j, i) bool array
        The mask that was measured: its largest component, clipped.
    notes : tuple of str
    """

    figures: tuple[Figure, ...]
    surface: Surface | None
    wall: Wall | None
    kept: Mask
    notes: tuple[str, ...] = field(default=())


def measure_atrium(
    mask: Mask,
    geometry: Geometry,
    scan: Volume | None = None,
    clips: Sequence[Clip] = (),
    body_m2: float | None = None,
    settings: WallSettings | None = None,
    whole_scan: bool = True,
) -> Atrium:
    """Measure a left atrium.

    Parameters
    ----------
    mask : (k, j, i) bool array
        The cavity.
    geometry : Geometry
        Of known spacing.
    scan : Volume or None
        The LGE-MRI, on the grid of the mask.
    clips : sequence of Clip
        Mitral valve, veins, appendage.
    body_m2 : float or None
        Body surface area.
    settings : WallSettings or None
    whole_scan : bool
        Whether the grid ends where the scan does: a mask that reaches its border is then cut there. False for the grid
        of a file that is cropped to its mask.

    Raises
    ------
    ValueError
        If the mask is empty, its spacing unknown, the scan lies on another grid, or a clip removes nothing or
        everything. A wall that cannot be measured is a note, and its figures are left out.
    """
    settings = settings or WallSettings()
    if not geometry.spacing_known:
        raise ValueError(
            Coded(
                "the spacing of the mask is unknown, so no figure in mL or mm can be given; give the spacing",
                "mask-without-spacing",
            )
        )
    if scan is not None and not scan.geometry.is_close(geometry, 0.01):
        raise ValueError(
            Coded(
                f"scan and mask lie on different grids: {scan.geometry.describe()} and {geometry.describe()}; "
                "give the scan that the mask was made on",
                "scan-of-another-grid",
            )
        )
    notes: list[str] = []
    margin = [int(np.ceil(_ROOM_MM / step)) for step in geometry.step_lengths]
    window = bounding_box(mask)
    if window is None:
        raise ValueError(Coded("the mask is empty: there is nothing to measure", "empty-mask-measured"))
    start = [max(0, part.start - m) for part, m in zip(window, margin, strict=True)]
    stop = [min(n, part.stop + m) for part, m, n in zip(window, margin, mask.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    small, grid = mask[box], geometry.crop(start, stop)
    image = None if scan is None else Volume(scan.array[box], grid)

    whole, count = largest_component(small)
    voxel_ml = float(np.prod(grid.step_lengths)) / 1000
    if count > 1:
        lost = (np.count_nonzero(small) - np.count_nonzero(whole)) * voxel_ml
        notes.append(
            Coded(
                f"the mask has {count} components; the largest is measured, the others ({lost:.2f} mL) are left out",
                "largest-measured",
                n=count,
                ml=f"{lost:.2f}",
            )
        )
    clipped = clip_mask(whole, grid, clips)
    volume = _volume(clipped.kept, voxel_ml, [clip.name for clip in clips])
    index = indexed(volume, body_m2)
    figures = [volume] if index is None else [volume, index]
    kept = np.zeros_like(mask)
    kept[box] = clipped.kept
    ends = touched_ends(kept) & whole_scan
    if ends.any():
        notes.append(_CUT)
    if is_stack(grid):
        mm = f"{max(grid.step_lengths):.3g}"
        why = Coded(f"slices are {mm} mm apart: a surface between them would be invented", "method-no-surface", mm=mm)
        notes.append(Coded(f"{why}; wall area, sphericity and wall enhancement are not given", "no-surface", mm=mm))
        figures += [Figure("la_wall_area", _WALL_AREA, None, "mm2", why, GROUP)]
        figures += [Figure("la_sphericity", _SPHERICITY, None, "%", why, GROUP)]
        return Atrium(tuple(figures), None, None, kept, tuple(notes))
    more = [(_BEYOND * low, _BEYOND * high) for low, high in ends.tolist()]
    start, stop = [-low for low, _ in more], [n + high for n, (_, high) in zip(grid.shape, more, strict=True)]
    surface = extract_surface(np.pad(whole, more, mode="edge"), grid.crop(start, stop))
    on_wall = wall_points(surface, whole, clipped.kept, grid)
    if ends.any():
        on_wall &= _inside(surface, grid)
    centre = grid.to_world(np.argwhere(clipped.kept).mean(axis=0))
    distance = np.linalg.norm(surface.points_mm - centre, axis=1)
    surface = surface.with_scalars(wall=on_wall.astype(np.float64), distance=distance)
    figures += _shape(
        surface, on_wall, centre, [*([_WITHOUT] if clips else []), *([_WITHOUT_CUT] if ends.any() else [])]
    )
    wall = None
    if image is not None:
        try:
            wall = measure_wall(surface, on_wall, clipped.kept, image, settings)
        except ValueError as error:
            reason = line_of(error)
            notes.append(Coded(f"wall enhancement is not given: {reason}", "no-enhancement", reason=reason))
    if image is not None and wall is not None:
        around = shell(surface, on_wall, clipped.kept, grid, settings.thickness_mm) & ~small
        figures += _wall_figures(wall, surface.point_areas_mm2(), settings, np.count_nonzero(around) * voxel_ml)
        if wall.outside_percent > 0.05:
            notes.append(
                Coded(
                    f"{wall.outside_percent:.1f} % of the wall lies outside the scan and is left out",
                    "wall-outside",
                    percent=f"{wall.outside_percent:.1f}",
                )
            )
        surface = surface.with_scalars(intensity=wall.intensities, iir=wall.intensities / wall.pool_mean)
    return Atrium(tuple(figures), surface, wall, kept, tuple(notes))


def touched_ends(mask: Mask) -> npt.NDArray[np.bool_]:
    """(axis, end): where a mask reaches the first or the last slice of its grid."""
    return np.array([[mask.take(end, axis).any() for end in (0, -1)] for axis in range(3)])


def _inside(surface: Surface, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Which points lie in a grid, whose voxels reach half a step from their centres."""
    indices = geometry.to_index(surface.points_mm)
    return np.asarray(((indices >= -0.5) & (indices <= np.array(geometry.shape) - 0.5)).all(axis=1))


def wall_points(surface: Surface, whole: Mask, kept: Mask, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Which points of a surface belong to the kept part of its mask: the nearest voxel of the mask is kept."""
    if np.array_equal(whole, kept):
        return np.ones(len(surface.points_mm), bool)
    rim = np.argwhere(whole & ~ndimage.binary_erosion(whole, np.ones((3, 3, 3), bool)))
    _, nearest = cKDTree(geometry.to_world(rim)).query(surface.points_mm)
    return np.asarray(kept[tuple(rim.T)][nearest])


def sphericity(points_mm: npt.NDArray[np.float64], areas: npt.NDArray[np.float64], centre: npt.ArrayLike) -> float:
    """``100 (1 - SD(r) / mean(r))`` with r the distance of the wall from the centre, weighted by area.

    100 % for a sphere. Source: Bisbal et al., JACC: Cardiovascular Imaging 2013; 6: 917.
    """
    radius = np.linalg.norm(points_mm - np.asarray(centre), axis=1)
    mean = float(np.average(radius, weights=areas))
    return 100 * (1 - float(np.sqrt(np.average((radius - mean) ** 2, weights=areas))) / mean)


def stages(percent: float) -> dict[str, str]:
    """What the schemes call an extent of fibrosis in % of the wall.

    DECAAF: Marrouche et al., JAMA 2014; 311: 498. Utah: Akoum et al., PMID 20601148.
    """
    found = {}
    for scheme, (limits, closed) in _SCHEMES.items():
        number = sum(percent > limit if closed else percent >= limit for limit in limits)
        found[scheme] = f"{number + 1} of 4"
    return found


def _volume(kept: Mask, voxel_ml: float, clips: Sequence[str]) -> Figure:
    names = ", ".join(clips)
    how: str = Coded(
        "voxels x voxel size, largest component; not clipped: veins and appendage as far as the mask has them",
        "method-unclipped",
    )
    if clips:
        line = f"voxels x voxel size, largest component; clipped at {names}"
        how = Coded(line, "method-clipped", clips=names)
    name = Coded("LA volume", "figure-volume", structure="LA")
    return Figure("la_volume", name, np.count_nonzero(kept) * voxel_ml, "mL", how, GROUP)


def _shape(
    surface: Surface, on_wall: npt.NDArray[np.bool_], centre: npt.NDArray[np.float64], without: Sequence[str]
) -> list[Figure]:
    areas = surface.point_areas_mm2()
    how = joined([METHOD, *without], ", ")
    figures = [Figure("la_wall_area", _WALL_AREA, float(areas[on_wall].sum()), "mm2", how, GROUP)]
    if _WITHOUT_CUT in without:
        why = Coded("the mask ends at the border of the scan, so a part of the wall is missing", "method-cut")
        figures.append(Figure("la_sphericity", _SPHERICITY, None, "%", why, GROUP))
    elif on_wall.any():
        found = sphericity(surface.points_mm[on_wall], areas[on_wall], centre)
        line = "100 (1 - SD(r) / mean(r)), r from the centroid to the wall, by area (Bisbal 2013)"
        how = joined([Coded(line, "method-sphericity"), *without], ", ")
        figures.append(Figure("la_sphericity", _SPHERICITY, found, "%", how, GROUP))
    return figures


def _wall_figures(wall: Wall, areas: npt.NDArray[np.float64], settings: WallSettings, shell_ml: float) -> list[Figure]:
    margin, mm = f"{settings.pool_margin_mm:g}", f"{settings.thickness_mm:g}"
    line = f"intensity, cavity eroded by {margin} mm, {wall.pool_voxels} voxels"
    pool = Coded(line, "method-pool", mm=margin, n=wall.pool_voxels)
    line, code = f"{settings.sampling} along the normal, 0 to {mm} mm outward", f"sampled-{settings.sampling}"
    sampled = Coded(line, code, mm=mm)
    shell = f"voxels within {mm} mm outside of the surface, openings left out"
    seen = np.isfinite(wall.intensities)
    figures = [
        Figure(
            "la_shell_volume",
            Coded("Wall shell volume", "shell-volume"),
            shell_ml,
            "mL",
            Coded(shell, "method-shell", mm=mm),
            WALL_GROUP,
        ),
        Figure("la_pool_mean", Coded("Blood pool mean", "pool-mean"), wall.pool_mean, "1", pool, WALL_GROUP),
        Figure("la_pool_sd", Coded("Blood pool SD", "pool-sd"), wall.pool_sd, "1", pool, WALL_GROUP),
        Figure(
            "la_wall_iir_median",
            Coded("Wall IIR, median", "wall-iir-median"),
            weighted_median(wall.intensities[seen], areas[seen]) / wall.pool_mean,
            "1",
            Coded(f"wall intensity / blood pool mean, by area; {sampled}", "method-iir", sampled=sampled),
            WALL_GROUP,
        ),
    ]
    for extent in wall.extents:
        figures += _extent_figures(extent, sampled)
    return figures


def _extent_figures(extent: Extent, sampled: str) -> list[Figure]:
    name, key = extent_name(extent), _extent_key(extent)
    value, source = f"{extent.threshold:.4g}", extent.source
    line = f"threshold {value} ({source}); {sampled}; share of the wall's area"
    how = Coded(line, "method-threshold", value=value, source=source, sampled=sampled)
    area, share = Coded(f"{name}, area", "figure-area", name=name), Coded(f"{name}, extent", "figure-extent", name=name)
    return [
        Figure(f"{key}_area", area, extent.area_mm2, "mm2", how, WALL_GROUP),
        Figure(f"{key}_extent", share, extent.percent, "%", how, WALL_GROUP, stages(extent.percent)),
    ]


def extent_name(extent: Extent) -> str:
    """``IIR > 1.20``, ``> mean + 3.3 SD`` or ``Otsu``."""
    if extent.parameter is None:
        return extent.method
    return f"IIR > {extent.parameter:.2f}" if extent.method == "IIR" else f"> mean + {extent.parameter:g} SD"


def _extent_key(extent: Extent) -> str:
    if extent.parameter is None:
        return "la_otsu"
    number = f"{extent.parameter:.2f}" if extent.method == "IIR" else f"{extent.parameter:g}"
    return f"la_{extent.method.lower()}_{number.replace('.', '_')}"
