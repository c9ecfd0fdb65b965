"""A region of interest (ROI) in the patient, and the part of a scan inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mper.utils.coded import Coded
from mper.volume import Geometry, Index3, as_index

_TOLERANCE_MM = 1e-4  # a voxel centre this near to a face of the box is inside: boxes are written with few digits

Box = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, eq=False)
class Region:
    """The part of a scan that is segmented.

    Parameters
    ----------
    start, stop : (int, int, int)
        The crop ``array[start:stop]``.
    inside : bool array or None
        Which voxels of the crop belong to it; None means all (the scan's axes run along the box's).
    notes : tuple of str
        Notes for the user.
    """

    start: Index3
    stop: Index3
    inside: npt.NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def whole(cls, geometry: Geometry) -> Region:
        """The whole scan."""
        return cls((0, 0, 0), geometry.shape)

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """The crop as an index."""
        k, j, i = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return k, j, i

    def spread(self, crop: npt.NDArray[np.generic], geometry: Geometry) -> npt.NDArray[Any]:
        """Values of the crop (with leading axes) on the grid of the whole scan, 0 outside the crop."""
        array = np.zeros((*crop.shape[:-3], *geometry.shape), dtype=crop.dtype)
        array[(..., *self.window)] = crop
        return array

    def cut(self, mask: npt.NDArray[np.bool_], axis: int) -> tuple[int, int, int]:
        """How many voxels of a mask of the crop lie where the region ends along an axis.

        Returns
        -------
        first, last, between : int
            In the first and in the last plane of the crop; and in front of voxels of the crop that are not in the
            region, as its axes run obliquely to the box's.
        """
        first, last = (int(np.count_nonzero(mask.take(end, axis))) for end in (0, -1))
        if self.inside is None:
            return first, last, 0
        of_mask, of_region = np.moveaxis(mask, axis, 0), np.moveaxis(self.inside, axis, 0)
        between = (of_mask[1:] & ~of_region[:-1]).sum() + (of_mask[:-1] & ~of_region[1:]).sum()
        return first, last, int(between)

    def box_mm(self, geometry: Geometry) -> Box:
        """Extent of the crop in LPS mm, voxel edges included."""
        low, high = (end.tolist() for end in extent_of(geometry.crop(self.start, self.stop)))
        return low[0], high[0], low[1], high[1], low[2], high[2]

    def covers(self, geometry: Geometry) -> bool:
        """Whether it is the whole scan."""
        return self.start == (0, 0, 0) and self.stop == geometry.shape and self.inside is None


def region_of_box(geometry: Geometry, box_mm: Sequence[float]) -> Region:
    """The voxels whose centres lie in a box, and their bounding box in the array.

    Parameters
    ----------
    geometry : Geometry
    box_mm : six numbers
        x0, x1, y0, y1, z0, z1 in LPS mm.

    Raises
    ------
    ValueError
        If the box is malformed or holds no voxel of the scan, or the scan does not say where it lies.
    """
    low, high = check_box(box_mm)
    if not geometry.spacing_known:
        line = "an ROI in mm needs a scan of known spacing; the spacing of this one is unknown, leave the ROI out"
        raise ValueError(Coded(line, "roi-without-spacing"))
    corners = np.array([(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    index = geometry.to_index(corners)
    reach = _TOLERANCE_MM / np.asarray(geometry.step_lengths)
    first = np.clip(np.ceil(index.min(axis=0) - reach), 0, geometry.shape).astype(int)
    last = np.clip(np.floor(index.max(axis=0) + reach) + 1, 0, geometry.shape).astype(int)
    scan_low, scan_high = extent_of(geometry)
    box, extent = _words(low, high), _words(scan_low, scan_high)
    line = (
        f"the ROI {box} contains no voxel of the scan, whose extent is {extent} (LPS mm); choose an ROI inside the scan"
    )
    outside = ValueError(Coded(line, "roi-outside", box=box, extent=extent))
    if (first >= last).any():
        raise outside
    inside = _voxels_inside(geometry.crop(first, last), low, high)
    window = bounding_box(inside)
    if window is None:
        raise outside
    inside = inside[window]
    start = first + [s.start for s in window]
    stop = start + inside.shape
    notes = []
    if (low < scan_low - _TOLERANCE_MM).any() or (high > scan_high + _TOLERANCE_MM).any():
        line = f"the ROI extends beyond the scan, whose extent is {extent} (LPS mm); it is cut there"
        notes.append(Coded(line, "roi-cut", extent=extent))
    return Region(as_index(start), as_index(stop), None if inside.all() else inside, tuple(notes))


def bounding_box(mask: npt.NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...] | None:
    """The smallest window that holds all of a mask and `margin` voxels around it; None if it is empty.

    Parameters
    ----------
    mask : bool array of any number of axes
    margin : int
    """
    window = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not len(occupied):
            return None
        window.append(slice(max(0, int(occupied[0]) - margin), int(occupied[-1]) + 1 + margin))
    return tuple(window)


def check_box(box_mm: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The lower and the upper corner of x0, x1, y0, y1, z0, z1.

    Raises
    ------
    ValueError
        If these are not six finite numbers, each lower bound below its upper one.
    """
    box = np.asarray(box_mm, dtype=np.float64)
    if box.shape != (6,) or not np.isfinite(box).all() or (box[::2] >= box[1::2]).any():
        came = ",".join(f"{v:g}" for v in box.flat)
        raise ValueError(f"an ROI is x0,x1,y0,y1,z0,z1 in LPS mm, each first number below its second, got {came}")
    return box[::2], box[1::2]


def extent_of(geometry: Geometry) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest LPS mm of a scan, voxel edges included."""
    ends = [(-0.5, n - 0.5) for n in geometry.shape]
    corners = geometry.to_world([(k, j, i) for k in ends[0] for j in ends[1] for i in ends[2]])
    return corners.min(axis=0), corners.max(axis=0)


def _voxels_inside(
    geometry: Geometry, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    inside = np.ones(geometry.shape, dtype=bool)
    if np.count_nonzero(np.abs(geometry.directions) > 1e-9) == 3:
        return inside  # the array's axes run along the box's: the caller's bounding box is exact
    j, i = np.ogrid[: geometry.shape[1], : geometry.shape[2]]
    for k, plane in enumerate(inside):  # a slice at a time: large scans have many voxels
        for axis in range(3):
            a, b, c, offset = geometry.affine[axis]
            world = b * j + c * i + (a * k + offset)
            plane &= (world >= low[axis] - _TOLERANCE_MM) & (world <= high[axis] + _TOLERANCE_MM)
    return inside


def _words(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{name} {a:.1f} to {b:.1f}" for name, a, b in zip("xyz", low, high, strict=True))
