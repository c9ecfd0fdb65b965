"""Scans that are made worse on purpose, with labels that stay true: what a model's calibration learns failure from.

Each kind is something that happens: noise, another contrast, thick slices, a header that is wrong, a field of view that
cuts the structure or misses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.dataloading.composed_field import Crop, place_in_field
from mper.dataloading.wide_field import is_wide
from mper.roi import bounding_box
from mper.volume import Geometry, Volume, as_index

Classes = npt.NDArray[np.uint8]

_THICK_MM = 10.0
_COMPOSED_MM = 1.25
_LEAST_VOXELS = 24  # of a side of a part that is cut out
_MARGIN = 2  # voxels between a structure and a part that misses it


def degraded(
    image: Volume, truth: Classes, rng: np.random.Generator, directions: bool = True
) -> Iterator[tuple[str, Volume, Classes]]:
    """Versions of a scan, each with its kind and its labels; the first is the scan as it is.

    Parameters
    ----------
    image : Volume
    truth : (k, j, i) uint8 array
        Class numbers.
    rng : numpy Generator
    directions : bool
        Whether the axes in the header matter to the model, which they do not to one of slices.
    """
    array = np.asarray(image.array, dtype=np.float32)
    low, high = np.percentile(array, (1, 99)).tolist()
    span = max(high - low, 1e-6)
    unit = np.clip((array - low) / span, 0, 1)

    def changed(shares: npt.NDArray[np.float32]) -> Volume:
        """The scan with other intensities, 0 to 1, in its own range: those of CT mean something."""
        return image.with_array(low + span * shares)

    yield "as it is", image, truth
    for name, share in (("some noise", 0.12), ("strong noise", 0.5)):
        yield name, image.with_array(array + rng.normal(0, share * span, array.shape).astype(np.float32)), truth
    yield "inverted contrast", changed(1 - unit), truth
    yield "darker", changed(unit ** float(rng.uniform(1.8, 3.0))), truth
    yield (
        "blurred",
        changed(ndimage.gaussian_filter(unit, 3.0 / np.asarray(image.geometry.step_lengths))),
        truth,
    )
    yield "shuffled voxels", image.with_array(rng.permutation(array.reshape(-1)).reshape(array.shape)), truth
    smooth = ndimage.gaussian_filter(rng.normal(size=array.shape).astype(np.float32), 4.0)
    yield "random clouds", image.with_array(smooth), np.zeros_like(truth)
    if image.geometry.spacing_known:
        if directions:
            yield from _wrong_headers(image, truth)
        yield from _thick_slices(image, truth)
        if not is_wide(image.geometry) and truth.any() and image.geometry.step_lengths[0] < _THICK_MM / 2:
            yield "in a wide field", *_in_wide_field(image, truth, rng)
    yield from _parts(image, truth, rng)


def _wrong_headers(image: Volume, truth: Classes) -> Iterator[tuple[str, Volume, Classes]]:
    """Mirrored and exchanged axes; a wrong voxel size would change no Dice, and the volume tells it."""
    affine = image.geometry.affine
    for name, axes in (("exchanged axes", (1, 2, 0)), ("exchanged axes the other way", (2, 0, 1))):
        turned = affine.copy()
        steps = np.asarray(image.geometry.step_lengths)
        turned[:3, :3] = image.geometry.directions[:, list(axes)] * steps
        yield name, _with_affine(image, turned), truth
    for axis, name in enumerate(("mirrored along k", "mirrored along j", "mirrored along i")):
        turned = affine.copy()
        turned[:3, axis] *= -1
        yield name, _with_affine(image, turned), truth


def _with_affine(image: Volume, affine: npt.NDArray[np.float64]) -> Volume:
    return Volume(image.array, Geometry(affine, image.geometry.shape))


def _thick_slices(image: Volume, truth: Classes) -> Iterator[tuple[str, Volume, Classes]]:
    """Slices of about 10 mm across the axis that runs most along the patient's length."""
    axis = image.geometry.patient_axes[0][0]
    every = round(_THICK_MM / image.geometry.step_lengths[axis])
    if every < 2 or image.geometry.shape[axis] // every < 4:
        return
    yield "thick slices", *_every(image, truth, [every if a == axis else 1 for a in range(3)])


def _every(image: Volume, truth: Classes, steps: Sequence[int]) -> tuple[Volume, Classes]:
    """Every n-th voxel along each axis."""
    window = tuple(slice(n // 2, None, n) for n in steps)
    affine = image.geometry.affine.copy()
    affine[:3, 3] = image.geometry.to_world([n // 2 for n in steps])
    affine[:3, :3] *= steps
    array = np.ascontiguousarray(image.array[window])
    return Volume(array, Geometry(affine, as_index(array.shape))), np.ascontiguousarray(truth[window])


def _in_wide_field(image: Volume, truth: Classes, rng: np.random.Generator) -> tuple[Volume, Classes]:
    """The scan, at about 1.25 mm, in a composed field of view."""
    image, truth = _every(image, truth, [max(1, round(_COMPOSED_MM / step)) for step in image.geometry.step_lengths])
    axes, flips = image.geometry.patient_axes
    geometry = image.geometry.reordered(axes, flips)
    scan, labels = (np.flip(array.transpose(axes), flips) for array in (image.array, truth))
    crop = Crop(np.asarray(scan, dtype=np.float32), labels > 0)
    field = place_in_field(crop, [crop], geometry.step_lengths, rng)
    classes = np.zeros(field.image.shape, np.uint8)
    window = tuple(slice(a, a + n) for a, n in zip(field.start, labels.shape, strict=True))
    classes[window] = labels
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world(-np.asarray(field.start, dtype=float))
    return Volume(field.image, Geometry(affine, as_index(field.image.shape))), classes


def _parts(image: Volume, truth: Classes, rng: np.random.Generator) -> Iterator[tuple[str, Volume, Classes]]:
    """Fields of view that end within the structure, and one that misses it."""
    window = bounding_box(truth > 0)
    if window is None:
        return
    for name in ("half of the structure", "most of the structure"):
        axis = int(rng.integers(0, 3))
        middle = window[axis].start + int((window[axis].stop - window[axis].start) * (0.5 if name[0] == "h" else 0.75))
        yield from _cut(name, image, truth, axis, 0, middle)
    beside = []
    for axis in range(3):
        beside.append((window[axis].start - _MARGIN, axis, 0, window[axis].start - _MARGIN))
        last = truth.shape[axis]
        beside.append((last - window[axis].stop - _MARGIN, axis, window[axis].stop + _MARGIN, last))
    _, axis, first, stop = max(beside)
    yield from _cut("beside the structure", image, truth, axis, first, stop)


def _cut(
    name: str, image: Volume, truth: Classes, axis: int, first: int, stop: int
) -> Iterator[tuple[str, Volume, Classes]]:
    if stop - first < min(_LEAST_VOXELS, image.geometry.shape[axis] // 3):
        return
    start, end = [0, 0, 0], list(image.geometry.shape)
    start[axis], end[axis] = first, stop
    window = tuple(slice(a, b) for a, b in zip(start, end, strict=True))
    yield name, image.crop(start, end), np.ascontiguousarray(truth[window])
