"""Images: voxels, and their grid in the patient.

Conventions of the whole project:

- Arrays are indexed (k, j, i): slice, row, column.
- World coordinates are LPS in mm: x to the patient's Left, y to Posterior, z to Superior.
- An affine maps a homogeneous array index ``(k, j, i, 1)`` to ``(x, y, z, 1)``, so its columns
  are in the order of the array's axes. What uses another order (ITK, NIfTI, Slicer) is converted
  where it enters.
- Spacing that a file does not give stays unknown: ``spacing_mm`` is then None.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import SupportsInt

import numpy as np
import numpy.typing as npt

Index3 = tuple[int, int, int]
Spacing = tuple[float, float, float]


def as_index(values: Iterable[SupportsInt]) -> Index3:
    """Three whole numbers of any type as (k, j, i)."""
    k, j, i = (int(value) for value in values)
    return k, j, i


def checksum_steps(array: np.ndarray) -> Generator[None, None, str]:
    """The checksum of a scan's voxels (k, j, i), a plane a step: shape and values, whatever type they are stored in."""
    digest = hashlib.sha256(repr(array.shape).encode())
    for plane in array:  # one at a time: a large scan is mapped, not held
        digest.update(np.ascontiguousarray(plane, dtype="<f8").tobytes())
        yield
    return digest.hexdigest()


_FARTHEST_MM = 1e12  # a number beyond is damage
_THICK_SLICES = 2.0  # steps that are so many times longer than the others lie across slices
_ORTHOGONAL_TOLERANCE = 1e-3  # cosine between two axes; scanner headers are rounded to about 1e-5


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in the patient, without voxels.

    Parameters
    ----------
    affine : (4, 4) float array
        Maps ``(k, j, i, 1)`` to LPS mm; its three axes are orthogonal, none has length zero.
    shape : (int, int, int)
        Number of voxels along k, j, i, each at least 1.
    spacing_known : bool
        False where the file gives no spacing: the affine is then a placeholder (unit steps),
        fit for relating indices and unfit for any figure in mm.

    Raises
    ------
    ValueError
        If the affine is not finite, has an axis of length zero or axes that are not orthogonal,
        or the shape is not three positive numbers.
    """

    affine: npt.NDArray[np.float64]
    shape: Index3
    spacing_known: bool = True

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if affine.shape != (4, 4) or not (np.abs(affine) < _FARTHEST_MM).all():  # NaN is not either
            raise ValueError("the affine must be 4x4 and finite")
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a volume needs three axes of at least one voxel, this one has shape {shape}")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.min() < 1e-6:
            raise ValueError(
                "voxel spacing must be above zero, this volume has "
                f"{tuple(np.round(lengths, 6).tolist())} mm (k, j, i); correct the file's header"
            )
        axes = affine[:3, :3] / lengths
        skew = np.abs(axes.T @ axes - np.eye(3)).max()
        if skew > _ORTHOGONAL_TOLERANCE:
            raise ValueError(
                f"the volume's axes are not at right angles (largest cosine between two axes {skew:.3f}); "
                "resample it to an orthogonal grid first"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @classmethod
    def from_axes(
        cls, origin_mm: Sequence[float], spacing_mm: Sequence[float], directions: npt.ArrayLike, shape: Sequence[int]
    ) -> Geometry:
        """Build from the first voxel's LPS position, spacing in (k, j, i) order and unit axes.

        `directions` is (3, 3): column n is the LPS direction of array axis n.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(directions, dtype=np.float64) * np.asarray(spacing_mm, dtype=np.float64)
        affine[:3, 3] = origin_mm
        k, j, i = shape
        return cls(affine, (k, j, i))

    @classmethod
    def from_itk(
        cls, origin_mm: Sequence[float], spacing_mm: Sequence[float], direction: Sequence[float], size: Sequence[int]
    ) -> Geometry:
        """Build from ITK's convention: everything in (i, j, k) order, direction row by row."""
        columns = np.asarray(direction, dtype=np.float64).reshape(3, 3)[:, ::-1]
        return cls.from_axes(origin_mm, list(spacing_mm)[::-1], columns, list(size)[::-1])

    @classmethod
    def unknown(cls, shape: Sequence[int]) -> Geometry:
        """A grid of which only the shape is known."""
        k, j, i = shape
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, ::-1]  # array axes k, j, i run along z, y, x
        return cls(affine, (k, j, i), spacing_known=False)

    @property
    def spacing_mm(self) -> Spacing | None:
        """Distance between neighbouring voxels along (k, j, i) in mm, None where unknown."""
        return self.step_lengths if self.spacing_known else None

    @property
    def step_lengths(self) -> Spacing:
        """Lengths of the affine's columns (k, j, i): mm where the spacing is known, else 1."""
        k, j, i = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return k, j, i

    @property
    def slice_axis(self) -> int:
        """The array axis across the slices: the one whose steps are far longer than those of the others, else k."""
        steps = self.step_lengths
        coarsest = max(range(3), key=lambda axis: steps[axis])
        others = max(steps[axis] for axis in range(3) if axis != coarsest)
        return coarsest if steps[coarsest] > _THICK_SLICES * others else 0

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel in mL, None where the spacing is unknown."""
        return float(np.prod(self.step_lengths)) / 1000 if self.spacing_known else None

    @property
    def directions(self) -> npt.NDArray[np.float64]:
        """(3, 3) unit vectors in LPS: column n is the direction of array axis n."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.step_lengths))

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """LPS position of the centre of voxel (0, 0, 0)."""
        x, y, z = self.affine[:3, 3].tolist()
        return x, y, z

    @property
    def extent_mm(self) -> Spacing | None:
        """Length of the field of view along (k, j, i) in mm, None where the spacing is unknown."""
        if not self.spacing_known:
            return None
        k, j, i = (n * s for n, s in zip(self.shape, self.step_lengths, strict=True))
        return k, j, i

    @property
    def itk(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """(origin, spacing, direction) in ITK's (i, j, k) order, direction row by row."""
        direction = self.directions[:, ::-1].reshape(-1)
        return self.origin_mm, self.step_lengths[::-1], tuple(direction.tolist())

    @property
    def patient_axes(self) -> tuple[Index3, tuple[int, ...]]:
        """The array axis that runs most along each patient axis, and which of these run against it.

        Returns
        -------
        axes : (int, int, int)
            Array axes nearest to Superior, Posterior and Left, in this order.
        flips : tuple of int
            Positions in `axes` of those that point to Inferior, Anterior or Right.
        """
        cosines = self.directions[::-1]  # [Superior, Posterior, Left; array axis]
        orders = itertools.permutations(range(3))
        a, b, c = max(orders, key=lambda order: sum(abs(cosines[n, axis]) for n, axis in enumerate(order)))
        return (a, b, c), tuple(n for n, axis in enumerate((a, b, c)) if cosines[n, axis] < 0)

    def reordered(self, axes: Index3, flips: Sequence[int] = ()) -> Geometry:
        """The grid of ``np.flip(array.transpose(axes), flips)``."""
        affine = self.affine[:, [*axes, 3]].copy()
        shape = [self.shape[axis] for axis in axes]
        for axis in flips:
            affine[:, 3] += affine[:, axis] * (shape[axis] - 1)
            affine[:, axis] *= -1
        k, j, i = shape
        return Geometry(affine, (k, j, i), self.spacing_known)

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """LPS mm of indices (..., 3) in (k, j, i) order."""
        return np.asarray(np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def position_mm(self, index: Sequence[int]) -> tuple[float, float, float] | None:
        """LPS mm of one voxel (k, j, i), None where the spacing is unknown."""
        if not self.spacing_known:
            return None
        x, y, z = self.to_world(index).tolist()
        return x, y, z

    def to_index(self, world_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional (k, j, i) indices of LPS positions (..., 3)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return np.asarray((np.asarray(world_mm, dtype=np.float64) - self.affine[:3, 3]) @ inverse.T)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Geometry:
        """The grid of ``array[start:stop]`` along each axis; `start` may be negative (padding)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(start)
        k, j, i = (b - a for a, b in zip(start, stop, strict=True))
        return Geometry(affine, (k, j, i), self.spacing_known)

    def is_close(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids put every voxel at the same place, to `tolerance_mm`.

        Grids of unknown spacing are close when their shapes agree.
        """
        if self.shape != other.shape or self.spacing_known != other.spacing_known:
            return False
        if not self.spacing_known:
            return True
        return self.distance_mm(other) <= tolerance_mm

    def distance_mm(self, other: Geometry) -> float:
        """The largest distance between the two places that this grid and `other` give to one voxel index."""
        corners = np.array([(k, j, i) for k in (0, 1) for j in (0, 1) for i in (0, 1)]) * np.asarray(self.shape)
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())

    def __repr__(self) -> str:
        return f"Geometry({self.describe()})"

    def describe(self) -> str:
        """One line for messages: shape and spacing in (k, j, i) order."""
        shape = "x".join(str(n) for n in self.shape)
        if self.spacing_mm is None:
            return f"{shape} voxels (k, j, i), spacing unknown"
        return f"{shape} voxels (k, j, i) of " + "x".join(f"{s:.3g}" for s in self.spacing_mm) + " mm"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their geometry.

    Parameters
    ----------
    array : (k, j, i) array
        One value a voxel, of any real type.
    geometry : Geometry
        Of the same shape.

    Raises
    ------
    ValueError
        If the shapes differ.
    """

    array: npt.NDArray[np.generic]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(
                f"array of shape {self.array.shape} does not fit a geometry of shape {self.geometry.shape}; "
                "both are (k, j, i)"
            )

    def __repr__(self) -> str:
        return f"Volume({self.array.dtype}, {self.geometry.describe()})"

    def with_array(self, array: npt.NDArray[np.generic]) -> Volume:
        """Other voxels on the same grid, such as a mask of this image."""
        return replace(self, array=array)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """The part ``array[start:stop]`` along each axis, where it lies in the patient."""
        for axis, (a, b, n) in enumerate(zip(start, stop, self.array.shape, strict=True)):
            if not 0 <= a < b <= n:
                raise ValueError(f"cannot crop {a}:{b} from axis {'kji'[axis]}, which has {n} voxels")
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return Volume(self.array[window], self.geometry.crop(start, stop))

    def along_patient_axes(self) -> Volume:
        """The same voxels in the order k to Superior, j to Posterior, i to Left; as stored where that is unknown."""
        if not self.geometry.spacing_known:
            return self
        axes, flips = self.geometry.patient_axes
        return Volume(np.flip(self.array.transpose(axes), flips), self.geometry.reordered(axes, flips))
