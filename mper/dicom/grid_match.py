"""Voxels of one grid in another grid with the same voxels: shifted by whole voxels, flipped or cropped; not resampled.

Slicer crops a saved segmentation, other programs flip the order of slices: the voxels are the same, with other indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mper.volume import Geometry, Volume

_TOLERANCE = 0.05  # voxels; file formats round positions to 1e-3, a grid that is another one is off by more


@dataclass(frozen=True, eq=False)
class GridMatch:
    """How indices of a sub-grid of n axes become indices (k, j, i) of a volume: ``offset + axes @ index``."""

    offset: npt.NDArray[np.int64]  # (3,)
    axes: npt.NDArray[np.int64]  # (3, n), each column one signed unit axis

    def indices(self, mask: npt.NDArray[np.bool_], shape: Sequence[int]) -> tuple[npt.NDArray[np.int64], ...]:
        """Where the true voxels of `mask` lie in a volume of `shape`, in the order of ``mask.nonzero()``.

        Raises
        ------
        ValueError
            If some lie outside.
        """
        indices = np.argwhere(mask) @ self.axes.T + self.offset
        outside = ((indices < 0) | (indices >= np.array(shape))).any(axis=1)
        if outside.any():
            raise ValueError(f"{np.count_nonzero(outside)} of {len(indices)} voxels of the mask lie outside the scan")
        return tuple(indices.T)


def match_grid(
    origin_mm: npt.ArrayLike, steps_mm: npt.ArrayLike, shape: Sequence[int], geometry: Geometry
) -> GridMatch | None:
    """How a grid of n axes lies in `geometry`; None where its voxels are not voxels of that.

    Parameters
    ----------
    origin_mm : (3,) floats
        LPS position of its first voxel.
    steps_mm : (3, n) floats
        Step along each of its axes.
    shape : n ints
    geometry : Geometry
        Of the volume.
    """
    axes = np.linalg.solve(geometry.affine[:3, :3], np.asarray(steps_mm, dtype=np.float64))
    offset = geometry.to_index(origin_mm)
    whole = GridMatch(np.rint(offset).astype(np.int64), np.rint(axes).astype(np.int64))
    if (np.abs(whole.axes).sum(axis=0) != 1).any() or (np.abs(whole.axes).sum(axis=1) > 1).any():
        return None
    off = np.abs(offset - whole.offset) + np.abs(axes - whole.axes) @ (np.array(shape) - 1)
    return whole if off.max() <= _TOLERANCE else None


def onto_grid(volume: Volume, geometry: Geometry) -> npt.NDArray[np.generic]:
    """The voxels of a mask in the array of another grid with the same voxels; 0 where the mask has none.

    Raises
    ------
    ValueError
        If the voxels are not those of the grid, one other than 0 lies outside, or the mask does not tell where it is.
    """
    own = volume.geometry
    if not (own.spacing_known and geometry.spacing_known):
        raise ValueError(
            "the mask tells no position and spacing, so it cannot be matched with the scan; "
            "use a mask that was saved with its geometry (.seg.nrrd, .nrrd, .nii.gz)"
        )
    if own.is_close(geometry):
        return volume.array
    match = match_grid(own.origin_mm, own.affine[:3, :3], own.shape, geometry)
    if match is None:
        raise ValueError(
            f"the mask lies on another grid than the scan ({own.describe()} at {_place(own)}; "
            f"the scan: {geometry.describe()} at {_place(geometry)}); make it on the scan itself, or resample it there"
        )
    result = np.zeros(geometry.shape, volume.array.dtype)
    inside = volume.array != 0
    result[match.indices(inside, geometry.shape)] = volume.array[inside]
    return result


def _place(geometry: Geometry) -> str:
    return "(" + ", ".join(f"{x:.1f}" for x in geometry.origin_mm) + ")"
