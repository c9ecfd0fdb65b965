"""From a scan to the grid that a network works on, and back.

The working grid lies along the patient's axes (k to Superior, j to Posterior, i to Left) where the
scan says how it lies; a scan that does not is taken as it is. Sizes are changed by linear
interpolation over the same field of view, so that the way back lands exactly on the source grid.
Intensities are normalised over the region that the network sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mper.labels import UNLABELLED
from mper.utils.coded import Coded
from mper.volume import Geometry, Index3, Spacing

NORMALISATIONS = ("zscore", "percentile", "window")
_CLIP_PERCENT = (0.5, 99.5)
_LARGEST_SPACING_MM = 1000.0
_MAX_VOXELS = 1 << 31  # of the working grid


@dataclass(frozen=True)
class Preprocessing:
    """How a bundle wants its scans; stored in its card.

    Parameters
    ----------
    spacing_mm : (float, float, float) or None
        Spacing of the working grid along its axes (k, j, i). The first is ignored by 2-D networks, which keep the
        slices.
    in_plane_pixels : int or None
        Instead of a spacing: the longest in-plane side becomes so many pixels. With neither, voxels are
        taken as they come (models trained on scans of unknown spacing).
    assumed_spacing_mm : (float, float, float) or None
        What a scan of unknown spacing is taken to have: that of the training scans.
    normalisation : {"zscore", "percentile", "window"}
        Clip to the 0.5th and 99.5th percentile, then subtract the mean and divide by the standard
        deviation, or map the two percentiles to -1 and 1 (MR); clip to `window` and map it to -1..1 (CT, in HU).
    window : (float, float) or None
        Lowest and highest intensity, for "window".
    """

    spacing_mm: Spacing | None = None
    in_plane_pixels: int | None = None
    assumed_spacing_mm: Spacing | None = None
    normalisation: str = "zscore"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("spacing_mm", "assumed_spacing_mm", "window"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(float(v) for v in value))
        if self.spacing_mm is not None and self.in_plane_pixels is not None:
            raise ValueError("preprocessing takes spacing_mm or in_plane_pixels, not both")
        for spacing in (self.spacing_mm, self.assumed_spacing_mm):
            if spacing is not None and not (len(spacing) == 3 and all(0 < s < _LARGEST_SPACING_MM for s in spacing)):
                raise ValueError(
                    f"a spacing in mm must be three numbers above zero and below {_LARGEST_SPACING_MM:g} (k, j, i), "
                    f"got {spacing}"
                )
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"unknown normalisation {self.normalisation!r}; known are {', '.join(NORMALISATIONS)}")
        if (self.normalisation == "window") != (self.window is not None):
            raise ValueError("an intensity window goes with normalisation 'window', and with no other")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"the intensity window must rise, got {self.window}")


@dataclass(frozen=True)
class WorkingGrid:
    """How one scan's voxels map to the working grid.

    axes : order in which the source's axes are taken; flips : working axes that run against the
    source; size : of the working grid; step_lengths : of its voxels, in mm if `in_mm`, else in voxels of the source.
    """

    source_shape: Index3
    axes: Index3
    flips: tuple[int, ...]
    size: Index3
    step_lengths: Spacing
    in_mm: bool = True

    @classmethod
    def plan(cls, geometry: Geometry, preprocessing: Preprocessing, dimensions: int) -> WorkingGrid:
        """The working grid of a scan for a network of 2 or 3 dimensions.

        Raises
        ------
        ValueError
            If the scan's spacing is unknown and the preprocessing neither assumes one nor does without, or the grid
            would be too large for any memory.
        """
        axes, flips = working_axes(geometry, dimensions)
        source_steps = geometry.spacing_mm or preprocessing.assumed_spacing_mm
        shape = [geometry.shape[a] for a in axes]
        steps = np.asarray(source_steps or (1.0, 1.0, 1.0))[list(axes)]
        if preprocessing.spacing_mm is None and preprocessing.in_plane_pixels is None:
            wanted = [float(n) for n in shape]
        elif preprocessing.in_plane_pixels is not None:
            lengths = np.asarray(shape) * steps
            scale = preprocessing.in_plane_pixels / lengths[1:].max()
            wanted = [shape[0], *(lengths[1:] * scale)]
        else:
            if source_steps is None:
                line = "the scan's voxel spacing is unknown and the model needs it; "
                raise ValueError(
                    Coded(f"{line}use a format that stores spacing (NRRD, NIfTI, DICOM)", "spacing-needed")
                )
            wanted = list(np.asarray(shape) * steps / np.asarray(preprocessing.spacing_mm))
            if dimensions == 2:
                wanted[0] = shape[0]
        k, j, i = (max(1, round(float(n))) for n in wanted)
        if k * j * i > _MAX_VOXELS:
            line = f"at the voxel size of the model the scan has {k}x{j}x{i} voxels, more than any memory holds; "
            raise ValueError(
                Coded(f"{line}correct its spacing, or give an ROI", "too-many-voxels", size=f"{k}x{j}x{i}")
            )
        sk, sj, si = (float(n * s / m) for n, s, m in zip(shape, steps, (k, j, i), strict=True))
        return cls(geometry.shape, axes, flips, (k, j, i), (sk, sj, si), source_steps is not None)

    def forward(self, array: npt.NDArray[np.generic], device: torch.device | str = "cpu") -> torch.Tensor:
        """Source voxels (k, j, i) -> float32 tensor of the working size, by linear interpolation.

        Where the grid gets coarser by more than half, voxels are averaged first.
        """
        oriented = np.ascontiguousarray(array.transpose(self.axes))
        if oriented.dtype not in (np.uint8, np.float32):  # not every device has or takes the others
            oriented = oriented.astype(np.float32)
        tensor = torch.from_numpy(oriented).to(device).float()
        if self.flips:
            tensor = tensor.flip(self.flips)
        return _resize(tensor[None], self.size)[0]

    def forward_labels(self, labels: npt.NDArray[np.uint8], classes: int) -> torch.Tensor:
        """Source labels 0..classes-1 and 255 -> uint8 tensor: the class with most of each working voxel.

        Unlabelled voxels have no say in it: a working voxel is 255 where less than half a source voxel of it is
        labelled, so that a thin stroke, or one slice of many, is there on a coarser grid too.
        """
        oriented = torch.from_numpy(np.ascontiguousarray(labels.transpose(self.axes)))
        if self.flips:
            oriented = oriented.flip(self.flips)
        if self.size == oriented.shape:
            return oriented.contiguous()
        best = torch.full(self.size, -1.0)
        out = torch.zeros(self.size, dtype=torch.uint8)
        for value in range(classes):
            share = _resize((oriented == value).float()[None], self.size)[0]
            out = torch.where(share > best, torch.tensor(value, dtype=torch.uint8), out)
            best = torch.maximum(best, share)
        labelled = oriented != UNLABELLED
        if not labelled.all():
            coarser = [max(1.0, n / m) for n, m in zip(oriented.shape, self.size, strict=True)]
            known = _resize(labelled.float()[None], self.size)[0]
            out[known < 0.5 / float(np.prod(coarser))] = UNLABELLED
        return out

    def back(self, channels: torch.Tensor) -> torch.Tensor:
        """Working channels (C, *size) -> the source grid (C, k, j, i), by linear interpolation."""
        return self._unorient(_resize(channels, self._oriented_shape))

    def back_part(
        self, channels: npt.NDArray[np.float32], window: tuple[slice, slice, slice]
    ) -> tuple[tuple[slice, slice, slice], npt.NDArray[np.float32]]:
        """What lies in a window of the working grid -> the source voxels there, as a window, and their values.

        `channels` is (C, *window); interpolation is linear, and no coarser voxels are averaged.
        """
        windows = [slice(0)] * 3
        for axis, source_axis in enumerate(self.axes):
            part, n, m = window[axis], self.source_shape[source_axis], self.size[axis]
            position = (np.arange(n) + 0.5) * (m / n) - 0.5
            if axis in self.flips:
                position = position[::-1]
            inside = np.flatnonzero((position >= part.start - 0.5) & (position <= part.stop - 0.5))
            if not len(inside):  # the source is coarser than the window
                inside = np.array([np.abs(position - (part.start + part.stop - 1) / 2).argmin()])
            windows[source_axis] = slice(int(inside[0]), int(inside[-1]) + 1)
            channels = interpolate(channels, axis + 1, position[inside] - part.start)
        k, j, i = windows
        return (k, j, i), channels.transpose(0, *(1 + a for a in np.argsort(self.axes).tolist()))

    def to_source(self, positions: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Positions (n, 3) on the working grid, in its voxels -> the source voxels (n, 3) that they lie in."""
        found = np.zeros(positions.shape, dtype=np.int64)
        for working, (axis, size) in enumerate(zip(self.axes, self.size, strict=True)):
            length = self.source_shape[axis]
            at = (positions[:, working] + 0.5) * (length / size) - 0.5
            if working in self.flips:
                at = length - 1 - at
            found[:, axis] = np.clip(np.round(at), 0, length - 1)
        return found

    def geometry(self, source: Geometry) -> Geometry:
        """Where the working voxels lie in the patient, given the source's grid."""
        affine = np.eye(4)
        first = np.zeros(3)
        for working, axis in enumerate(self.axes):
            ratio = self.source_shape[axis] / self.size[working]
            column = source.affine[:3, axis] * ratio
            first[axis] = ratio / 2 - 0.5
            if working in self.flips:
                first[axis] = self.source_shape[axis] - 1 - first[axis]
                column = -column
            affine[:3, working] = column
        affine[:3, 3] = source.to_world(first)
        return Geometry(affine, self.size, source.spacing_known)

    @property
    def _oriented_shape(self) -> Index3:
        """Of the source, its axes in working order."""
        k, j, i = (self.source_shape[a] for a in self.axes)
        return k, j, i

    def _unorient(self, channels: torch.Tensor) -> torch.Tensor:
        if self.flips:
            channels = channels.flip([a + 1 for a in self.flips])
        return channels.permute(0, *(1 + a for a in np.argsort(self.axes).tolist()))


def interpolate(
    array: npt.NDArray[np.float32], axis: int, positions: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Values at fractional positions along one axis, linear; beyond the ends the outermost ones."""
    last = array.shape[axis] - 1
    at = np.clip(positions, 0, last)
    low = np.floor(at).astype(int)
    share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    below = np.take(array, low, axis=axis)
    return np.asarray(below + (np.take(array, np.minimum(low + 1, last), axis=axis) - below) * share)


def normalise(image: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Intensities as the network wants them, over the whole of `image`.

    Raises
    ------
    ValueError
        If the region is constant (nothing to see).
    """
    if preprocessing.window is not None:
        low, high = preprocessing.window
        return (image.clamp(low, high) - low) * (2 / (high - low)) - 1
    low, high = np.percentile(image.cpu().numpy(), _CLIP_PERCENT).tolist()
    if not high > low:
        low, high = float(image.min()), float(image.max())
    if not high > low:
        line = "the region to segment is constant: it holds no image; check the scan or the ROI"
        raise ValueError(Coded(line, "constant-region"))
    clipped = image.clamp(low, high)
    if preprocessing.normalisation == "percentile":
        return (clipped - low) * (2 / (high - low)) - 1
    return (clipped - clipped.mean()) / clipped.std()


def working_axes(geometry: Geometry, dimensions: int) -> tuple[Index3, tuple[int, ...]]:
    """The source axis that becomes each working axis, and the working axes that run against their source axis.

    A network of volumes takes the axes along the patient's (k to Superior, j to Posterior, i to Left), one of slices
    takes the axis across the slices first. A scan of unknown spacing is taken as it is stored.
    """
    if not geometry.spacing_known:
        return (0, 1, 2), ()
    return geometry.patient_axes if dimensions == 3 else (_slices_first(geometry), ())


def working_steps(geometry: Geometry, dimensions: int) -> Spacing | None:
    """The scan's spacing in mm in the order of the working axes; None where it is unknown."""
    if geometry.spacing_mm is None:
        return None
    k, j, i = (geometry.spacing_mm[axis] for axis in working_axes(geometry, dimensions)[0])
    return k, j, i


def _slices_first(geometry: Geometry) -> Index3:
    """The axis across the slices, then the others in the stored order."""
    across = geometry.slice_axis
    row, column = (axis for axis in range(3) if axis != across)
    return across, row, column


def _resize(channels: torch.Tensor, size: Index3) -> torch.Tensor:
    """(C, *S) -> (C, *size) over the same field of view."""
    if tuple(channels.shape[1:]) == tuple(size):
        return channels
    k, j, i = (
        max(m, n // int(n / m + 0.5)) if n > 1.5 * m else n for n, m in zip(channels.shape[1:], size, strict=True)
    )
    batch = channels[None]
    if (k, j, i) != tuple(channels.shape[1:]):
        batch = F.adaptive_avg_pool3d(batch, (k, j, i))
    return F.interpolate(batch, size=tuple(size), mode="trilinear", align_corners=False)[0]
