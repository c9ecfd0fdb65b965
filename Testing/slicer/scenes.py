"""What the tests of the scene share."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def grid(mirrored: bool = False) -> np.ndarray:
    """An oblique affine (k, j, i) -> LPS with voxels of 1.25 x 0.7 x 0.9 mm; `mirrored` is left-handed."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, 35, 10], degrees=True).as_matrix() @ np.diag([1.25, 0.7, 0.9])
    affine[:3, 3] = [10, -20, 30]
    if mirrored:
        affine[:3, 0] *= -1
    return affine
