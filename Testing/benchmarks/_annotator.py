"""A person with a brush, simulated: where the mask is most wrong, a stroke of the right class.

The stroke is begun at the place that lies deepest inside an error: the maximum, in mm, of the distance transform of the
voxels that are of a class and were given another, over all classes. What is painted stays inside that error, as a
person's stroke would; it is handed over voxel by voxel, so that no brush is wider than the error is. Nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.labels import UNLABELLED
from mper.strokes import Stroke
from mper.volume import Geometry, Index3, Spacing

KINDS = ("ball", "scribble", "region")
BALL_MM = 2.0
LINE_MM = 20.0  # the longest line, and the widest region
_DIRECTIONS = 24  # over half a turn

Mask = npt.NDArray[np.bool_]


def next_stroke(
    mask: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    geometry: Geometry,
    kind: str = "ball",
    steps_mm: Spacing | None = None,
) -> Stroke | None:
    """The stroke that a person would paint next; None where the mask is right.

    Parameters
    ----------
    mask, truth : (k, j, i) integers
        Label values; 255 in the truth is no error.
    geometry : Geometry
        Of both.
    kind : {"ball", "scribble", "region"}
        All voxels within 2 mm of the deepest place; or the longest straight line through it inside its slice (the
        first axis), one voxel thin, at most 20 mm long; or all that a brush can cover in that slice, within 10 mm of
        it. All only as far as they hang together inside the error.
    steps_mm : (float, float, float) or None
        Step along each axis, where the scan does not tell it.
    """
    steps = steps_mm or geometry.step_lengths
    best: tuple[float, int, Index3, Mask] | None = None
    wrong = (mask != truth) & (truth != UNLABELLED)
    for value in np.unique(truth[wrong]).tolist():
        error = wrong & (truth == value)
        depth, place = deepest(error, steps)
        if best is None or depth > best[0]:
            best = depth, value, place, error
    if best is None:
        return None
    _, value, place, error = best
    voxels = {"ball": _ball, "scribble": _line, "region": _region}[kind](error, place, steps)
    return Stroke(value, tuple(map(tuple, geometry.to_world(voxels).tolist())), 0.0)


def deepest(region: Mask, steps: Spacing) -> tuple[float, Index3]:
    """The voxel of a region, which is not empty, that lies farthest from all outside it, and how far; the first one."""
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    origin = [side.start - 1 for side in box]
    part = np.pad(region[box], 1)  # outside the scan is outside
    best: tuple[float, Index3] | None = None
    for window, own, bound in _thick_parts(part, steps):
        if best is not None and bound < best[0]:
            break
        depth = np.where(own, ndimage.distance_transform_edt(part[window], sampling=steps), 0)
        at = np.unravel_index(int(depth.argmax()), depth.shape)
        k, j, i = (int(n) + w.start + o for n, w, o in zip(at, window, origin, strict=True))
        found = float(depth[at]), (k, j, i)
        if best is None or (-found[0], found[1]) < (-best[0], best[1]):
            best = found
    assert best is not None
    return best


def _thick_parts(part: Mask, steps: Spacing) -> Iterator[tuple[tuple[slice, ...], Mask, float]]:
    """Windows with the voxels in them whose nearest outside they hold, and how deep these can lie at most, falling.

    One of these voxels is the deepest. Most errors are thin shells, and their distance transform takes most of the
    time. On cubic voxels: what a first erosion by n steps removes lies at most n deep, and where a voxel outlives m
    erosions, the deepest one lies at least (m + 1) / sqrt(3) deep; the ball around that one, less n, hangs together in
    what is left.
    """
    cores = [part]
    if max(steps) < 1.01 * min(steps):
        while (core := ndimage.binary_erosion(cores[-1])).any():
            cores.append(core)
    erosions = math.ceil(len(cores) / math.sqrt(3)) - 1
    parts, _ = ndimage.label(cores[erosions])
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        sides = [erosions + (side.stop - side.start + 1) / 2 for side in box]
        found.append((1.001 * min(side * step for side, step in zip(sides, steps, strict=True)), number, box))
    for bound, number, box in sorted(found, key=lambda each: -each[0]):
        window = tuple(slice(max(0, side.start - erosions - 2), side.stop + erosions + 2) for side in box)
        yield window, parts[window] == number, bound


def _ball(error: Mask, place: Index3, steps: Spacing) -> npt.NDArray[np.int64]:
    return _within(BALL_MM, error, place, steps)


def _region(error: Mask, place: Index3, steps: Spacing) -> npt.NDArray[np.int64]:
    k = place[0]
    return np.add(_within(LINE_MM / 2, error[k : k + 1], (0, *place[1:]), steps), (k, 0, 0))


def _within(radius: float, error: Mask, place: Index3, steps: Spacing) -> npt.NDArray[np.int64]:
    """What hangs together with a place, as far as the radius in mm."""
    reach = [math.floor(radius / step) for step in steps]
    window = tuple(slice(max(0, p - r), p + r + 1) for p, r in zip(place, reach, strict=True))
    low = np.array([w.start for w in window])
    index = np.moveaxis(np.indices(error[window].shape), 0, -1) + low
    near = (((index - place) * steps) ** 2).sum(axis=-1) <= radius**2
    parts, _ = ndimage.label(error[window] & near)
    return np.argwhere(parts == parts[tuple(np.array(place) - low)]) + low


def _line(error: Mask, place: Index3, steps: Spacing) -> npt.NDArray[np.int64]:
    """The longest of some directions; equal lengths: the first."""
    slice_ = error[place[0]]
    centre, step = np.array(place[1:]), np.array(steps[1:])
    lines = []
    for turn in np.arange(_DIRECTIONS) * (np.pi / _DIRECTIONS):
        direction = np.array([np.sin(turn), np.cos(turn)]) / step  # voxels a mm
        ahead, back = (_run(slice_, centre, way * direction, step.min() / 2) for way in (1, -1))
        half = LINE_MM / 2
        ahead, back = min(ahead, max(half, LINE_MM - back)), min(back, max(half, LINE_MM - ahead))
        along = np.arange(-back, ahead + 1e-9, step.min() / 2)
        lines.append((ahead + back, np.rint(centre + along[:, None] * direction).astype(np.int64)))
    _, line = max(lines, key=lambda each: each[0])
    line = np.unique(np.concatenate([line, centre[None]]), axis=0)
    line = line[slice_[tuple(line.T)]]
    return np.column_stack([np.full(len(line), place[0]), line])


def _run(slice_: Mask, centre: npt.NDArray[np.int64], direction: npt.NDArray[np.float64], step: float) -> float:
    """How many mm one can go from the centre and stay inside."""
    along = np.arange(0, LINE_MM + 1e-9, step)
    voxels = np.rint(centre + along[:, None] * direction).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < slice_.shape)).all(axis=1)
    inside[inside] = slice_[tuple(voxels[inside].T)]
    left = np.flatnonzero(~inside)
    return float(along[left[0] - 1] if len(left) else along[-1])
