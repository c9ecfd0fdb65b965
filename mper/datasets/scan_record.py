"""What case.json keeps of a scan: its grid, exactly, and a checksum of its voxels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mper.volume import Geometry, Volume, checksum_steps


def voxels_sha256(image: Volume) -> str:
    """A checksum of a scan's shape and values, whatever type they are stored in and wherever the scan lies."""
    steps = checksum_steps(image.array)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return str(end.value)


def geometry_to_dict(geometry: Geometry) -> dict[str, Any]:
    """A grid as JSON can hold it, exactly."""
    return {
        "shape": list(geometry.shape),
        "affine": geometry.affine.tolist(),
        "spacing_known": geometry.spacing_known,
    }


def geometry_from_dict(entry: Mapping[str, Any]) -> Geometry:
    """The grid that `geometry_to_dict` wrote."""
    return Geometry(np.array(entry["affine"]), tuple(entry["shape"]), entry["spacing_known"])
