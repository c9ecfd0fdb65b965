"""Which masks can be labels of a case: whole numbers of known labels, on the grid of its scan, or brought there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mper.labels import BACKGROUND, UNLABELLED, Label, Segmentation
from mper.progress import Notify, ignore_notice
from mper.utils.coded import Coded
from mper.volume import Geometry, Volume

_GRID_TOLERANCE = 0.02  # of the smallest voxel spacing
_FEW_VALUES = 8  # of a scan, at or below which it is taken for a mask


def on_grid(mask: Volume, grid: Geometry, where: str, notify: Notify = ignore_notice, outside: int = 0) -> Volume:
    """A mask on the grid of its scan, by nearest neighbour where it lies on another grid.

    Parameters
    ----------
    mask : Volume of uint8
    grid : Geometry
        Of the scan.
    where : str
        The mask, for messages.
    notify : callable
        Receives a line when the mask was resampled, with the share of its volume that the scan shows.
    outside : int
        The value of voxels of the scan that the mask's grid does not reach.

    Raises
    ------
    ValueError
        If nothing of what is drawn lies in the scan, or one of the two has no known spacing.
    """
    own = mask.geometry
    if _is_same(own, grid):
        return Volume(mask.array, grid)
    if not (own.spacing_known and grid.spacing_known):
        raise ValueError(
            Coded(
                f"{where} is on another grid ({own.describe()}) than the scan ({grid.describe()})",
                "mask-of-another-grid",
                mask=where,
            )
        )
    values = np.full(grid.shape, outside, np.uint8)
    plane = np.moveaxis(np.indices((1, *grid.shape[1:])), 0, -1)
    for k in range(grid.shape[0]):
        index = np.rint(own.to_index(grid.to_world(plane + np.array((k, 0, 0)))))[0].astype(np.int64)
        inside = ((index >= 0) & (index < own.shape)).all(axis=-1)
        values[k][inside] = mask.array[tuple(index[inside].T)]
    drawn = (values != BACKGROUND) & (values != UNLABELLED)
    whole = (mask.array != BACKGROUND) & (mask.array != UNLABELLED)
    if whole.any() and not drawn.any():
        apart = f"; the grids lie up to {own.distance_mm(grid):.3g} mm apart" if own.shape == grid.shape else ""
        raise ValueError(
            Coded(
                f"{where} lies outside of the scan: nothing of what it shows is in the scan's field of view{apart}",
                "mask-outside",
                mask=where,
            )
        )
    volume, scale = np.count_nonzero(whole) * np.prod(own.step_lengths), np.prod(grid.step_lengths)
    share = min(1.0, np.count_nonzero(drawn) * scale / volume) if volume else 1.0
    notify(
        Coded(
            f"{where} was resampled from {own.describe()} to the scan's grid; {share:.0%} of its volume is in the scan",
            "mask-resampled",
            mask=where,
            percent=f"{share:.0%}",
        )
    )
    return Volume(values, grid)


def _is_same(own: Geometry, grid: Geometry) -> bool:
    """Whether two grids are the same; other programs round positions."""
    return own.shape == grid.shape and own.distance_mm(grid) <= _GRID_TOLERANCE * min(grid.step_lengths)


def _shares_voxels(own: Geometry, grid: Geometry) -> bool:
    """Whether the voxels of two grids of known spacing are the same places, in another order or farther on."""
    ends = np.array([(0, 0, 0), *np.eye(3, dtype=int)]) * (np.array(grid.shape) - 1)
    index = own.to_index(grid.to_world(ends))
    steps = (index[1:] - index[0]) / np.maximum(np.array(grid.shape) - 1, 1)[:, None]
    return bool(np.abs(index - np.rint(index)).max() <= _GRID_TOLERANCE and np.allclose(np.abs(steps).sum(axis=1), 1))


def label_for_scan(
    mask: Volume, grid: Geometry, labels: Sequence[Label], where: str, notify: Notify = ignore_notice, outside: int = 0
) -> Volume:
    """A mask as label of the scan with `grid`, by the one rule for all imports.

    A mask of another grid is resampled where it overlaps the scan (`on_grid`), and refused where it does not. It is
    refused, too, if it has as many voxels as the scan along each axis: it was drawn on the scan then, and one of the
    two headers is wrong, which nobody can tell. An empty mask is noted. Parameters and errors as in `on_grid` and
    `check_mask`.
    """
    known = mask.geometry.spacing_known and grid.spacing_known
    if not known or _is_same(mask.geometry, grid):
        label = check_mask(mask, grid, labels, where, notify)
    else:
        checked = check_mask(mask, mask.geometry, labels, where)
        label = on_grid(checked, grid, where, notify, outside)
        if mask.geometry.shape == grid.shape and not _shares_voxels(mask.geometry, grid):
            check_mask(checked, grid, labels, where)  # raises, with the distance
    if is_empty(label):
        notify(
            Coded(
                f"{where} is empty: the label says that the scan shows none of the structures", "mask-empty", mask=where
            )
        )
    return label


def is_empty(mask: Volume) -> bool:
    """Whether a mask shows no structure."""
    return not np.isin(mask.array, (BACKGROUND, UNLABELLED), invert=True).any()


def check_not_a_mask(image: Volume, where: str) -> None:
    """Refuse a scan of a few whole numbers: a mask whose name does not say so.

    Raises
    ------
    ValueError
        If it is one.
    """
    array = image.array.reshape(-1)
    sample = np.unique(array[:: max(1, array.size // 100_000)])
    if len(sample) > _FEW_VALUES:
        return
    values = np.unique(array)
    if len(values) <= _FEW_VALUES and values[0] == 0 and (values == np.rint(values)).all():
        held = ", ".join(f"{value:g}" for value in values)
        raise ValueError(
            Coded(
                f"{where} holds only the values {held} and looks like a mask, not a scan; name masks <scan>_seg, "
                "or put them into a folder labels next to the folder images of the scans",
                "looks-like-a-mask",
                scan=where,
                values=held,
            )
        )


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
                Coded(
                    f"{where}: the label's grid differs from the image's: {mask.geometry.describe()}, image "
                    f"{grid.describe()}{distance}; a label must lie on its image's grid",
                    "label-of-another-grid",
                    mask=where,
                )
            )
        notify(f"the mask's grid lies {apart:.2g} mm from the image's, less than {_GRID_TOLERANCE:.0%} of a voxel")
    if mask.array.dtype.kind not in "biu":
        raise ValueError(
            Coded(
                f"{where}: a label holds whole numbers, this one is {mask.array.dtype}; round it first",
                "mask-not-whole",
                mask=where,
            )
        )
    if mask.array.dtype.kind != "b" and (mask.array.min() < 0 or mask.array.max() > 255):
        raise ValueError(
            Coded(
                f"{where}: label values are 0 to 255, this one has {mask.array.min()} to {mask.array.max()}",
                "mask-values",
                mask=where,
                low=f"{mask.array.min()}",
                high=f"{mask.array.max()}",
            )
        )
    whole = Volume(mask.array.astype(np.uint8), grid)
    try:
        Segmentation(whole, tuple(labels))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return whole
