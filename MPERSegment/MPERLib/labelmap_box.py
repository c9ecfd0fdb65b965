"""Reading and writing a box of a segmentation's voxels without touching the rest.

Slicer's own functions that change a segment convert all of its surfaces at once, which blocks the window for a few
hundred milliseconds. Here voxels are set in place; the surface follows by `surface.make_surface`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from MPERLib import mrml, segmentation_node

Node = Any
Box = tuple[tuple[int, int, int], tuple[int, int, int]]

_FOREIGN = 255  # stands for a segment that no model made, which is never overwritten


def read_box(segmentationNode: Node, volumeNode: Node, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """A box of the scan's grid: the label values (k, j, i) uint8, and where segments lie that no model made (bool).

    The two may overlap.

    Raises
    ------
    ValueError
        If the segments do not lie on the scan's grid.
    """
    start, stop = box
    found = np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.uint8)
    foreign = np.zeros(found.shape, bool)
    for image, segments in segmentation_node.layers_of(segmentationNode):
        low = _low(image, segmentationNode, volumeNode)
        voxels = mrml.image_array(image)
        inside, there = _overlap(low, voxels.shape, box)
        part = voxels[there]
        if part.size == 0:
            continue
        table = np.zeros(int(part.max()) + 1, np.uint8)
        for segment in segments:
            if segment.GetLabelValue() < table.size:
                table[segment.GetLabelValue()] = _value(segment)
        values = table[part]
        target = found[inside]
        own = (values > 0) & (values != _FOREIGN)
        target[own] = values[own]
        foreign[inside] |= values == _FOREIGN
    return found, foreign


def write_box(segmentationNode: Node, volumeNode: Node, start: Sequence[int], values: np.ndarray) -> None:
    """Write label values (k, j, i) into a box that begins at `start`; voxels of other segments stay.

    Slicer is notified of the new voxels, but the surfaces are left as they are.

    Raises
    ------
    ValueError
        If the segments do not lie on the scan's grid, or the structure of a value has been removed.
    """
    segmentation = segmentationNode.GetSegmentation()
    k, j, i = (int(n) for n in start)
    box = ((k, j, i), (k + values.shape[0], j + values.shape[1], i + values.shape[2]))
    layers = segmentation_node.layers_of(segmentationNode, empty=True)
    known = {_value(segment) for _image, segments in layers for segment in segments}
    missing = set(np.unique(values).tolist()) - known - {0, _FOREIGN}
    if missing:
        raise ValueError(
            _("the segment with label value {value} was removed; undo that first").format(value=min(missing))
        )
    lows = [_low(image, segmentationNode, volumeNode) for image, _segments in layers]
    with mrml.modifying(segmentationNode):
        for (image, segments), low in zip(layers, lows, strict=True):
            _write_layer(image, segments, low, box, values)
    segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)
    segmentation.InvokeEvent(slicer.vtkSegmentation.RepresentationModified)


def _write_layer(image: Node, segments: Sequence[Node], low: np.ndarray, box: Box, values: np.ndarray) -> None:
    ours = {_value(segment): segment.GetLabelValue() for segment in segments}
    ours.pop(_FOREIGN, None)
    table = np.zeros(256, np.int32)
    for value, label in ours.items():
        table[value] = label
    wanted = table[values]
    needed = np.argwhere(wanted > 0)
    if len(needed):
        corner = np.array(box[0])
        image, low = _grown(image, segments, low, needed.min(axis=0) + corner, needed.max(axis=0) + corner + 1)
    voxels = mrml.image_array(image)
    inside, there = _overlap(low, voxels.shape, box)
    part, new = voxels[there], wanted[inside]
    free = (part == 0) | np.isin(part, list(ours.values()))
    change = free & (part != new)
    if change.any():
        part[change] = new[change]
        image.GetPointData().GetScalars().Modified()  # so the image is newer, but has no event: surfaces would go


def _grown(
    image: Node, segments: Sequence[Node], low: np.ndarray, first: np.ndarray, end: np.ndarray
) -> tuple[Node, np.ndarray]:
    """An image of the segments that holds `first` to `end`, and its first voxel in the scan."""
    empty = image.GetNumberOfPoints() == 0
    old = np.zeros((0, 0, 0), np.uint8) if empty else mrml.image_array(image)
    new_low = first if empty else np.minimum(low, first)
    new_end = end if empty else np.maximum(low + old.shape, end)
    if not empty and (new_low == low).all() and (new_end == low + old.shape).all():
        return image, low
    voxels = np.zeros(tuple(new_end - new_low), old.dtype)
    shift = np.zeros(3, int)
    if not empty:
        voxels[tuple(slice(a, a + n) for a, n in zip(low - new_low, old.shape, strict=True))] = old
        shift = np.array(image.GetExtent())[::2] - low[::-1]  # the image may count its voxels from elsewhere
    grown = slicer.vtkOrientedImageData()
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    grown.SetGeometryFromImageToWorldMatrix(matrix)
    ijk = new_low[::-1] + shift
    grown.SetExtent(*(int(n) for a, m in zip(ijk, voxels.shape[::-1], strict=True) for n in (a, a + m - 1)))
    grown.GetPointData().SetScalars(numpy_support.numpy_to_vtk(voxels.reshape(-1), deep=True))
    for segment in segments:  # they share it; a new image for each notifies Slicer without removing the surfaces
        segment.AddRepresentation(segmentation_node.BINARY_LABELMAP, grown)
    return grown, new_low


def _low(image: Node, segmentationNode: Node, volumeNode: Node) -> np.ndarray:
    """The scan's voxel (k, j, i) at which an image of the segmentation begins.

    An empty image has no grid until the first voxel is drawn; it gets the scan's.
    """
    to_scan = np.linalg.inv(mrml.ijk_to_ras(volumeNode)) @ mrml.between(segmentationNode, volumeNode)
    if image.GetNumberOfPoints() == 0:
        image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(np.linalg.inv(to_scan)))
        return np.zeros(3, int)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    index = to_scan @ slicer.util.arrayFromVTKMatrix(matrix)
    offset = np.rint(index[:3, 3])
    extent = np.array(image.GetExtent()).reshape(3, 2)
    corners = np.array([(i, j, k, 1) for i in extent[0] for j in extent[1] for k in extent[2]])
    if np.abs((corners @ index.T)[:, :3] - (corners[:, :3] + offset)).max() > mrml.GRID_TOLERANCE:
        raise ValueError(
            _(
                "the voxels of {name} are no longer on the grid of {scan}; set its geometry back to that of the scan"
            ).format(name=segmentationNode.GetName(), scan=volumeNode.GetName())
        )
    return (extent[:, 0] + offset.astype(int))[::-1]


def _overlap(low: np.ndarray, shape: Sequence[int], box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a box and an image of `shape` from `low` on overlap: as a window of the box, and of the image."""
    first = np.maximum(low, box[0])
    end = np.maximum(np.minimum(low + shape, box[1]), first)
    return (
        tuple(slice(int(a), int(b)) for a, b in zip(first - box[0], end - box[0], strict=True)),
        tuple(slice(int(a), int(b)) for a, b in zip(first - low, end - low, strict=True)),
    )


def _value(segment: Node) -> int:
    value = segmentation_node.label_value_of(segment)
    return _FOREIGN if value is None else value
