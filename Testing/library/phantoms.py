"""Shapes whose size is known by a formula, as masks and scans on any grid."""

from __future__ import annotations

import math

import numpy as np

from mper.volume import Geometry, Volume

SPACINGS = ((1.0, 1.0, 1.0), (1.25, 0.625, 0.625))
TURN = (20.0, -35.0, 50.0)
BLOOD, DARK, BRIGHT = 100.0, 60.0, 150.0
RADIUS, THICKNESS = 20.0, 3.0


def turned(angles: tuple[float, float, float]) -> np.ndarray:
    """A rotation about three axes in turn, in degrees."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        one = np.eye(3)
        a, b = (n for n in range(3) if n != axis)
        one[a, a], one[a, b], one[b, a], one[b, b] = c, -s, s, c
        matrix = one @ matrix
    return matrix


def grid(
    half_mm: float,
    spacing: tuple[float, float, float] = SPACINGS[0],
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:
    """A grid around `centre` that reaches at least `half_mm` to each side along its own axes."""
    shape = [2 * math.ceil(half_mm / step) + 1 for step in spacing]
    axes = turned(angles) @ np.eye(3)[:, ::-1]
    first = np.array(centre) - axes @ (np.array(spacing) * (np.array(shape) - 1) / 2)
    return Geometry.from_axes(first.tolist(), spacing, axes, shape)


def positions(geometry: Geometry) -> np.ndarray:
    """(k, j, i, 3) LPS positions of the voxels."""
    return geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))


def ball(
    geometry: Geometry, radius: float = RADIUS, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    return np.asarray(np.linalg.norm(positions(geometry) - np.array(centre), axis=-1) <= radius)


def atrium(
    geometry: Geometry,
    bright_share: float = 0.2,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    bright: float = BRIGHT,
) -> tuple[np.ndarray, Volume]:
    """A ball of blood in a wall that is bright in a cap of a share of its area; the mask and the scan.

    The intensities in the middle of the wall are not touched by the blending at its borders.
    """
    offset = positions(geometry) - np.array(centre)
    radius = np.linalg.norm(offset, axis=-1)
    height = np.divide(offset[..., 2], radius, out=np.zeros_like(radius), where=radius > 0)
    cap = height > 1 - 2 * bright_share  # the area of a cap is 2 pi R h
    scan = np.where(radius <= RADIUS, BLOOD, np.where(cap, bright, DARK))
    return radius <= RADIUS, Volume(scan, geometry)
