"""Which masks can be labels of a case: whole numbers of known labels, on the grid of its scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mper.labels import Label, Segmentation
from mper.progress import Notify, ignore_notice
from mper.volume import Geometry, Volume

_GRID_TOLERANCE = 0.02  # of the smallest voxel spacing


def check_mask(
    mask: Volume, grid: Geometry, labels: Sequence[Label], where: str, notify: Notify = ignore_notice
) -> Volume:
    """`mask` as uint8 on `grid`.

    Grids that lie less than 2 % of a voxel apart are the same: other programs round positions to float32. `notify`
    receives the distance.

    Raises
    ------
    ValueError
        If it is not of whole numbers, lies on another grid, or holds a value that no label names.
    """
    if not mask.geometry.is_close(grid):
        apart = mask.geometry.distance_mm(grid) if mask.geometry.shape == grid.shape else None
        known = mask.geometry.spacing_known and grid.spacing_known
        if not known or apart is None or apart > _GRID_TOLERANCE * min(grid.step_lengths):
            distance = f", up to {apart:.3g} mm apart" if known and apart is not None else ""
            raise ValueError(
                f"{where}: the label's grid differs from the image's: {mask.geometry.describe()}, image "
                f"{grid.describe()}{distance}; a label must lie on its image's grid"
            )
        notify(f"the mask's grid lies {apart:.2g} mm from the image's, less than {_GRID_TOLERANCE:.0%} of a voxel")
    if mask.array.dtype.kind not in "biu":
        raise ValueError(f"{where}: a label holds whole numbers, this one is {mask.array.dtype}; round it first")
    if mask.array.dtype.kind != "b" and (mask.array.min() < 0 or mask.array.max() > 255):
        raise ValueError(f"{where}: label values are 0 to 255, this one has {mask.array.min()} to {mask.array.max()}")
    whole = Volume(mask.array.astype(np.uint8), grid)
    try:
        Segmentation(whole, tuple(labels))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return whole
