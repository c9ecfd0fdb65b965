"""The surface of a mask as triangles in LPS mm, and values sampled along its normals.

Marching cubes on the smoothed mask; its level is chosen such that the surface encloses the volume of the mask, so
that smoothing does not shrink it. Source: Lorensen and Cline, SIGGRAPH 1987, in the version of Lewiner et al., Journal
of Graphics Tools 2003 (scikit-image).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.roi import bounding_box
from mper.utils.coded import Coded
from mper.volume import Geometry, Volume

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
SMOOTHING_VOXELS = 1.0
METHOD = Coded(
    f"marching cubes on the mask smoothed by a Gaussian of {SMOOTHING_VOXELS:g} voxel, at constant volume",
    "method-surface",
    n=f"{SMOOTHING_VOXELS:g}",
)
_MARGIN = 5  # voxels around the mask: the Gaussian ends within
_LEVELS = 0.25, 0.75  # a level beyond is that of a structure as thin as the smoothing
STACK_RATIO, STACK_MM = 2.5, 4.0


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed surface of triangles.

    Parameters
    ----------
    points_mm : (n, 3) float64 array
        LPS.
    triangles : (m, 3) int array
        Indices of points, counter-clockwise from outside.
    normals : (n, 3) float64 array
        Unit vectors that point outward.
    scalars : dict of str to (n,) float array
        Values at the points; NaN where there is none.
    """

    points_mm: Floats
    triangles: npt.NDArray[np.int64]
    normals: Floats
    scalars: dict[str, Floats] = field(default_factory=dict)

    def with_scalars(self, **scalars: Floats) -> Surface:
        """The surface with more values at its points."""
        return replace(self, scalars={**self.scalars, **scalars})

    def kept(self, points: npt.NDArray[np.bool_]) -> Surface:
        """The part whose triangles have all three points among `points`."""
        triangles = self.triangles[points[self.triangles].all(axis=1)]
        used = np.unique(triangles)
        number = np.zeros(len(self.points_mm), np.int64)
        number[used] = np.arange(len(used))
        scalars = {name: values[used] for name, values in self.scalars.items()}
        return Surface(self.points_mm[used], number[triangles], self.normals[used], scalars)

    def point_areas_mm2(self) -> Floats:
        """The area that each point stands for: a third of every triangle that it is part of."""
        thirds = np.repeat(np.linalg.norm(self._crosses(), axis=1) / 6, 3)
        return np.asarray(np.bincount(self.triangles.reshape(-1), thirds, len(self.points_mm)), np.float64)

    def area_mm2(self) -> float:
        """Area of all triangles."""
        return float(np.linalg.norm(self._crosses(), axis=1).sum() / 2)

    def volume_mm3(self) -> float:
        """The volume that the surface encloses, by the divergence theorem; it has to be closed."""
        corners = self.points_mm[self.triangles] - self.points_mm.mean(axis=0)
        return float(np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)

    def _crosses(self) -> Floats:
        a, b, c = (self.points_mm[self.triangles[:, n]] for n in range(3))
        return np.asarray(np.cross(b - a, c - a))


def is_stack(geometry: Geometry) -> bool:
    """Whether slices are too far apart for a surface between them.

    True where the largest spacing is at least 4 mm and at least 2.5 times the smallest. Volumes of such a stack are
    sums over its slices; a surface that interpolates between slices would be invented.
    """
    steps = geometry.step_lengths
    return max(steps) >= STACK_MM and max(steps) >= STACK_RATIO * min(steps)


def extract_surface(mask: Mask, geometry: Geometry) -> Surface:
    """The surface of a mask.

    Parameters
    ----------
    mask : (k, j, i) bool array
    geometry : Geometry

    Raises
    ------
    ValueError
        If the mask is empty or the spacing unknown.
    """
    from skimage.measure import marching_cubes

    if not geometry.spacing_known:
        raise ValueError(
            Coded(
                "the spacing of the mask is unknown, so its surface has no size in mm; give the spacing",
                "mask-without-spacing",
            )
        )
    window = bounding_box(mask)
    if window is None:
        raise ValueError(Coded("the mask is empty, so it has no surface", "empty-mask-measured"))
    field_ = np.pad(mask[window], _MARGIN).astype(np.float32)
    smooth = ndimage.gaussian_filter(field_, SMOOTHING_VOXELS, truncate=3)
    voxels = int(np.count_nonzero(field_))
    level = float(np.partition(smooth.reshape(-1), -voxels)[-voxels])
    if not _LEVELS[0] <= level <= _LEVELS[1]:
        smooth, level = field_, 0.5
    vertices, triangles, _, _ = marching_cubes(smooth, level, allow_degenerate=False)
    start = np.array([part.start for part in window]) - _MARGIN
    points = geometry.to_world(vertices.astype(np.float64) + start)
    surface = Surface(points, triangles.astype(np.int64), np.zeros_like(points))
    if surface.volume_mm3() < 0:
        surface = replace(surface, triangles=np.ascontiguousarray(surface.triangles[:, ::-1]))
    return replace(surface, normals=_normals(surface))


def _normals(surface: Surface) -> Floats:
    """Of each point the mean of its triangles' normals, weighted by their areas."""
    crosses = surface._crosses()
    sums = np.stack(
        [
            np.bincount(surface.triangles.reshape(-1), np.repeat(crosses[:, axis], 3), len(surface.points_mm))
            for axis in range(3)
        ],
        axis=1,
    )
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.maximum(lengths, 1e-12))


def sample_along_normals(surface: Surface, scan: Volume, depths_mm: Floats) -> Floats:
    """Intensities at distances along the normals.

    Parameters
    ----------
    surface : Surface
    scan : Volume
        Of known spacing.
    depths_mm : (d,) float array
        Positive outward.

    Returns
    -------
    (n, d) float array
        Trilinear interpolation; NaN outside the scan.
    """
    places = surface.points_mm[:, None] + surface.normals[:, None] * depths_mm[:, None]  # (n, d, 3)
    indices = scan.geometry.to_index(places.reshape(-1, 3)).T
    shape = np.array(scan.array.shape)[:, None]
    inside = ((indices >= -0.5) & (indices <= shape - 0.5)).all(axis=0)  # a voxel reaches half a step from its centre
    values = np.full(indices.shape[1], np.nan)
    array = scan.array if scan.array.dtype.kind == "f" else scan.array.astype(np.float32)
    values[inside] = ndimage.map_coordinates(array, indices[:, inside], order=1, mode="nearest", output=np.float64)
    return values.reshape(len(surface.points_mm), len(depths_mm))
