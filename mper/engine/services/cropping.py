"""Parts of masks."""

from __future__ import annotations

from mper.labels import BACKGROUND
from mper.roi import bounding_box
from mper.volume import Index3, Volume


def cropped_to_mask(mask: Volume) -> tuple[Volume, Index3]:
    """The non-zero part of a mask, one voxel where it is empty, and the index of its first voxel."""
    window = bounding_box(mask.array != BACKGROUND) or (slice(0, 1),) * 3
    k, j, i = (axis.start for axis in window)
    return mask.crop((k, j, i), [axis.stop for axis in window]), (k, j, i)
