"""Masks as smooth lit surfaces, by casting parallel rays through a turned copy of them.

Matplotlib sorts whole triangles by their distance, which shows nested and touching structures wrongly; a ray for each
pixel does not, in fewer lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_TURN = np.deg2rad((25, -35))  # about the axes from left to right and from feet to head
_FINE_MM = 1.25  # voxels of the turned copy
_MOST_VOXELS = 160  # along its sides
_LIGHT = np.array((-0.75, -0.45, -0.5))  # where it comes from, seen from the camera (depth, down, right)
_AMBIENT = 0.3  # share of the light that comes from everywhere
_SMOOTHING = 1.2  # in voxels of the turned copy


def render_surfaces(
    masks: Sequence[npt.NDArray[np.bool_]],
    steps_mm: Sequence[float],
    colours: Sequence[Sequence[int]],
    pixels: int,
    ground: Sequence[int] = (0, 0, 0),
) -> npt.NDArray[np.uint8]:
    """Masks (k, j, i) seen from the front, the left and above.

    Parameters
    ----------
    masks : sequence of bool arrays of one shape
    steps_mm : (float, float, float)
        Along each of their axes.
    colours : sequence of (red, green, blue)
        One for each mask.
    pixels : int
        Sides of the picture.
    ground : (red, green, blue)
        Behind the surfaces.

    Returns
    -------
    (pixels, pixels, 3) uint8 array
    """
    shape, steps = np.array(masks[0].shape), np.array(steps_mm)
    side = 0.85 * float(np.linalg.norm(shape * steps))  # enough space to turn the masks in
    step = max(_FINE_MM, side / _MOST_VOXELS)
    count = int(np.ceil(side / step))
    matrix = _camera() * step / steps[:, None]
    offset = (shape - 1) / 2 - matrix @ np.full(3, (count - 1) / 2)
    picture = np.full((count, count, 3), ground, np.float32)
    nearest = np.full((count, count), np.inf)
    for mask, colour in zip(masks, colours, strict=True):
        solid = ndimage.affine_transform(mask.astype(np.float32), matrix, offset, (count,) * 3, order=1)
        solid = ndimage.gaussian_filter(solid, _SMOOTHING)
        depth = (solid > 0.5).argmax(axis=0)
        rows, columns = np.nonzero((solid > 0.5).any(axis=0) & (depth < nearest))
        if rows.size == 0:
            continue
        at = (depth[rows, columns], rows, columns)
        normal = -np.stack([g[at] for g in np.gradient(solid)], axis=1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
        shade = np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
        picture[rows, columns] = (_AMBIENT + (1 - _AMBIENT) * shade)[:, None] * np.array(colour, np.float32)
        nearest[rows, columns] = depth[rows, columns]
    zoomed = ndimage.zoom(picture, (pixels / count, pixels / count, 1), order=1, grid_mode=True, mode="nearest")
    return np.asarray(zoomed.round(), np.uint8)


def _camera() -> npt.NDArray[np.float64]:
    """Axes of the camera (depth, down, right) in those of the patient (k to the head, j to the back, i to the left).

    Seen from the front, depth goes to the back and down to the feet.
    """
    a, b = _TURN
    tilt = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])  # of (k, j)
    spin = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])  # of (j, i)
    return np.asarray(tilt @ spin @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float))
