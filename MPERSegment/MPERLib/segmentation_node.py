"""Masks into segmentation nodes and out of them, exact to the voxel, with labels, codes and provenance.

A mask is a (k, j, i) uint8 array on the scan's grid, or a part of it that begins at a voxel `start`. Each label is a
segment; tags of the segments hold the label value and how the segment was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from mper.labels import (
    MASTER_TERMINOLOGY,
    UNLABELLED,
    Label,
    check_labels,
    label_from_dict,
    terminology_codes,
    terminology_entry,
)
from mper.provenance import (
    AUTOMATIC,
    MANUAL,
    NAME_TAG,
    QUALITY_TAG,
    SEMIAUTOMATIC,
    TYPE_TAG,
    Provenance,
    quality_text,
)
from MPERLib import mrml
from MPERLib.mrml import Node

BINARY_LABELMAP = "Binary labelmap"  # vtkSegmentationConverter's name of the representation
CLOSED_SURFACE = "Closed surface"
_UNLABELLED_NAME = "unlabelled"
_VALUE_TAG = "MPER.Value"
_EDITED = "MPER.Edited"
_PROVENANCE_TAGS = (TYPE_TAG, NAME_TAG, QUALITY_TAG)
_MODEL_KEYS = ("model", "model_version", "model_sha256")
_OWN_TERMINOLOGY = "MPER"  # Resources/Terminology/MPER.term.json
_ONLY_IN_OWN_TERMINOLOGY = {"74281007"}  # myocardium is in no list of Slicer's


# ---- masks into the scene


def show_mask(
    array: np.ndarray,
    start: Sequence[int],
    labels: Sequence[Label | Mapping[str, Any]],
    volumeNode: Node,
    name: str,
    model: Mapping[str, Any] | None = None,
) -> Node:
    """Add a mask to the scene as a segmentation node on its scan: named, coded, coloured, under the same study.

    Parameters
    ----------
    array : (k, j, i) uint8 array
        Part of a mask on the scan's grid; may be empty.
    start : (int, int, int)
        The voxel (k, j, i) of the scan at which the part begins.
    labels : sequence of Label or of the engine's dictionaries
        Each becomes a segment, also one that the mask does not hold.
    volumeNode : vtkMRMLScalarVolumeNode
    name : str
        Made unique: nothing is overwritten.
    model : mapping or None
        The engine's result, for its ``model``, ``model_version``, ``model_sha256`` and ``quality``; None for a mask
        drawn manually.

    Raises
    ------
    ValueError
        If the part lies outside the scan or has a value without a label.
    """
    labels = _labels(labels)
    image = _labelmap(array, start, labels, volumeNode)
    scene = volumeNode.GetScene()
    node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
    node.UnRegister(None)
    node.SetName(scene.GetUniqueNameByString(name))
    scene.AddNode(node)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)  # in the frame that the line above has set
    with mrml.modifying(node):
        for label in labels:
            _add_segment(node, label, image, model)
    _add_unlabelled(node, array, image)
    node.CreateDefaultDisplayNodes()
    mrml.place(node, volumeNode)
    return node


def replace_mask(
    segmentationNode: Node,
    array: np.ndarray,
    start: Sequence[int],
    labels: Sequence[Label | Mapping[str, Any]],
    volumeNode: Node,
    model: Mapping[str, Any] | None = None,
) -> None:
    """Replace the segments with the same names, and "unlabelled", by a mask; other segments stay.

    To let the user undo it, save the Segment Editor's state (``saveStateForUndo``) first.
    """
    labels = _labels(labels)
    image = _labelmap(array, start, labels, volumeNode)
    move = mrml.between(volumeNode, segmentationNode)
    if not np.allclose(move, np.eye(4), atol=1e-6):
        raise ValueError(
            _("{name} and {scan} are under different transforms; put both under the same one").format(
                name=segmentationNode.GetName(), scan=volumeNode.GetName()
            )
        )
    segmentation = segmentationNode.GetSegmentation()
    present = {
        segmentation.GetNthSegment(n).GetName().casefold(): segmentation.GetNthSegmentID(n)
        for n in _count(segmentation)
    }
    with mrml.modifying(segmentationNode):
        for label in labels:
            segment_id = present.get(label.name.casefold())
            if segment_id is None:
                _add_segment(segmentationNode, label, image, model)
                continue
            segmentation.ClearSegment(segment_id)
            segment = segmentation.GetSegment(segment_id)
            segment.SetLabelValue(label.value)
            segment.AddRepresentation(BINARY_LABELMAP, image)
            _tag(segment, label, model)
        if (before := present.get(_UNLABELLED_NAME)) is not None:
            segmentation.RemoveSegment(before)
        _add_unlabelled(segmentationNode, array, image)
    segmentationNode.SetAttribute(_EDITED, None)


def mark_edited(segmentationNode: Node) -> None:
    """Mark a mask as edited manually: its segments become SEMIAUTOMATIC."""
    segmentation = segmentationNode.GetSegmentation()
    for n in _count(segmentation):
        segment = segmentation.GetNthSegment(n)
        if tag_of(segment, TYPE_TAG) == AUTOMATIC:
            segment.SetTag(TYPE_TAG, SEMIAUTOMATIC)
    if segmentationNode.GetAttribute(_EDITED) != "yes":
        segmentationNode.SetAttribute(_EDITED, "yes")


def unmark_edited(segmentationNode: Node) -> None:
    """Mark a mask as unedited again, after all changes were undone: its segments become AUTOMATIC."""
    segmentation = segmentationNode.GetSegmentation()
    for n in _count(segmentation):
        segment = segmentation.GetNthSegment(n)
        if tag_of(segment, TYPE_TAG) == SEMIAUTOMATIC:
            segment.SetTag(TYPE_TAG, AUTOMATIC)
    segmentationNode.SetAttribute(_EDITED, None)


def is_edited(segmentationNode: Node) -> bool:
    """Whether the mask was edited manually; see `mark_edited`."""
    return segmentationNode.GetAttribute(_EDITED) == "yes"


def provenances_of(segmentationNode: Node) -> list[tuple[str, Provenance | None]]:
    """Name and provenance of each segment; None where the provenance is unknown."""
    segmentation = segmentationNode.GetSegmentation()
    segments = [segmentation.GetNthSegment(n) for n in _count(segmentation)]
    return [(s.GetName(), Provenance.from_tags({tag: tag_of(s, tag) for tag in _PROVENANCE_TAGS})) for s in segments]


# ---- masks out of the scene


def labels_of(segmentationNode: Node) -> tuple[Label, ...]:
    """The label of each segment; values are those of the model that made them, else counted from 1."""
    segmentation = segmentationNode.GetSegmentation()
    segments = [segmentation.GetNthSegment(n) for n in _count(segmentation)]
    segments = [segment for segment in segments if segment.GetName().casefold() != _UNLABELLED_NAME]
    tags = [tag_of(segment, _VALUE_TAG) for segment in segments]
    known = all(tag.isdigit() for tag in tags) and len(set(tags)) == len(tags)
    values = [int(tag) for tag in tags] if known else list(range(1, len(tags) + 1))
    found = []
    for value, segment in zip(values, segments, strict=True):
        category, type_, *narrower = terminology_codes(segment.GetTerminology() or "")
        red, green, blue = (round(255 * part) for part in segment.GetColor())
        found.append(Label(value, segment.GetName().strip(), category, type_, (red, green, blue), *narrower))
    return tuple(found)


def mask_of(
    segmentationNode: Node, volumeNode: Node, labels: Sequence[Label | Mapping[str, Any]] | None = None
) -> np.ndarray:
    """The segmentation as a uint8 label array on the scan's grid; see `mask_part`."""
    part, start = mask_part(segmentationNode, volumeNode, labels)
    return mrml.on_whole_grid(part, start, mrml.geometry_of(volumeNode).shape)


def mask_part(
    segmentationNode: Node, volumeNode: Node, labels: Sequence[Label | Mapping[str, Any]] | None = None
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The part of the scan's grid that holds all segments, and where it begins.

    Parameters
    ----------
    labels : sequence or None
        Gives each segment its value by its name; None takes `labels_of`. A segment named "unlabelled" becomes 255.

    Returns
    -------
    (k, j, i) uint8 array, (int, int, int)
        Of one voxel where nothing is drawn. Exact where the segments lie on the scan's grid, else nearest neighbour.

    Raises
    ------
    ValueError
        If a drawn segment has no label, two overlap, or the segmentation is not made of voxels.
    """
    labels = labels_of(segmentationNode) if labels is None else _labels(labels)
    values = {label.name.casefold(): label.value for label in labels} | {_UNLABELLED_NAME: UNLABELLED}
    names = {label.value: label.name for label in labels} | {UNLABELLED: _UNLABELLED_NAME}
    geometry = mrml.geometry_of(volumeNode)
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        raise ValueError(
            _("{name} is not a binary labelmap; convert it in the module Segmentations").format(
                name=segmentationNode.GetName()
            )
        )
    move = np.linalg.inv(mrml.ijk_to_ras(volumeNode)) @ mrml.between(segmentationNode, volumeNode)
    pieces = []
    for image, segments in layers_of(segmentationNode):
        piece, start = _on_grid(image, move, geometry.shape, volumeNode)
        if piece.size == 0:
            continue
        table = np.zeros(int(piece.max()) + 1, np.uint8)
        for segment in segments:
            value = segment.GetLabelValue()
            if value >= table.size or not (piece == value).any():
                continue  # empty segments need no label
            if segment.GetName().casefold() not in values:
                raise ValueError(
                    _("the segment {name} is none of the structures {known}; rename or remove it").format(
                        name=segment.GetName(), known=", ".join(label.name for label in labels)
                    )
                )
            table[value] = values[segment.GetName().casefold()]
        if table.any():
            pieces.append((table[piece], start))
    return _union(pieces, names)


def labelmap_part(labelmapNode: Node, volumeNode: Node) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The part of a scan's grid that a label map volume fills, and where it begins; of no voxel where there is none."""
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(labelmapNode.GetImageData())
    matrix = vtk.vtkMatrix4x4()
    labelmapNode.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    shape = mrml.geometry_of(volumeNode).shape
    move = np.linalg.inv(mrml.ijk_to_ras(volumeNode)) @ mrml.between(labelmapNode, volumeNode)
    return _on_grid(image, move, shape, volumeNode)


def voxel_counts(segmentationNode: Node, volumeNode: Node) -> dict[str, int]:
    """Voxels of the scan's grid in each segment, by name; segments may overlap."""
    shape = mrml.geometry_of(volumeNode).shape
    move = np.linalg.inv(mrml.ijk_to_ras(volumeNode)) @ mrml.between(segmentationNode, volumeNode)
    counts = {label.name: 0 for label in labels_of(segmentationNode)}
    for image, segments in layers_of(segmentationNode):
        piece, _start = _on_grid(image, move, shape, volumeNode)
        for segment in segments:
            name = segment.GetName().strip()
            if name in counts:
                counts[name] += int(np.count_nonzero(piece == segment.GetLabelValue()))
    return counts


def layers_of(segmentationNode: Node, empty: bool = False) -> list[tuple[Node, list[Node]]]:
    """Label images with the segments that share each; those without voxels only where `empty`."""
    segmentation = segmentationNode.GetSegmentation()
    found: dict[str, tuple[Node, list[Node]]] = {}
    for n in _count(segmentation):
        segment = segmentation.GetNthSegment(n)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        drawn = image is not None and image.GetNumberOfPoints() and image.GetPointData().GetScalars() is not None
        if drawn or (empty and image is not None):
            found.setdefault(image.GetAddressAsString(""), (image, []))[1].append(segment)
    return list(found.values())


def label_value_of(segment: Node) -> int | None:
    """The label value of a segment that a model made; None for one drawn manually."""
    tag = tag_of(segment, _VALUE_TAG)
    return int(tag) if tag.isdigit() else None


def _on_grid(
    image: Node, move: np.ndarray, shape: tuple[int, int, int], volumeNode: Node
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The drawn part of a label image on the scan's grid, cropped to the scan; nothing where it is empty.

    `move` leads from the segmentation's RAS to the scan's (i, j, k).
    """
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    to_scan = move @ slicer.util.arrayFromVTKMatrix(matrix)
    extent = np.array(image.GetExtent()).reshape(3, 2)
    offset = np.rint(to_scan[:3, 3])
    corners = np.array([(i, j, k, 1) for i in extent[0] for j in extent[1] for k in extent[2]])
    at = (corners @ to_scan.T)[:, :3]
    if np.abs(at - (corners[:, :3] + offset)).max() <= mrml.GRID_TOLERANCE:
        low = extent[:, 0] + offset.astype(int)
        array = mrml.image_array(image)
    else:
        low, high = np.floor(at.min(axis=0)).astype(int), np.ceil(at.max(axis=0)).astype(int)
        low, high = np.maximum(low, 0), np.minimum(high, np.array(shape[::-1]) - 1)
        if (high < low).any():
            return np.zeros((0, 0, 0), np.uint8), (0, 0, 0)
        array = _resample(image, low, high, move, volumeNode)
    start = low[::-1]
    cut_low = np.maximum(start, 0)
    cut_high = np.minimum(start + array.shape, shape)
    array = array[tuple(slice(a, max(a, b)) for a, b in zip(cut_low - start, cut_high - start, strict=True))]
    window = _drawn(array)
    k, j, i = (int(a) + end.start for a, end in zip(cut_low, window, strict=True))
    return array[window], (k, j, i)


def _drawn(array: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest window of a label image (k, j, i) that holds all that is drawn; of no voxel where nothing is.

    A segment that somebody has edited lies on the whole scan: only two passes over it, both without a copy.
    """
    if array.size == 0:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    slices = np.flatnonzero(array.max(axis=(1, 2)) > 0)
    if not slices.size:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    first, end = int(slices[0]), int(slices[-1]) + 1
    seen = array[first:end].max(axis=0) > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return slice(first, end), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _resample(image: Node, low: np.ndarray, high: np.ndarray, move: np.ndarray, volumeNode: Node) -> np.ndarray:
    """A label image at the voxels `low` to `high` (i, j, k) of the scan, by nearest neighbour."""
    reference = slicer.vtkOrientedImageData()
    reference.SetExtent(*(int(n) for pair in zip(low, high, strict=True) for n in pair))
    reference.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    reference.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(np.linalg.inv(move)))
    result = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, reference, result, False)
    return mrml.image_array(result)


def _union(
    pieces: list[tuple[np.ndarray, tuple[int, int, int]]], names: Mapping[int, str]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    pieces = [(piece, start) for piece, start in pieces if piece.size]  # nothing is drawn in the others
    if not pieces:
        return np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    low = np.min([start for _piece, start in pieces], axis=0)
    high = np.max([np.add(start, piece.shape) for piece, start in pieces], axis=0)
    whole = np.zeros(tuple(high - low), np.uint8)
    for piece, start in pieces:
        place = whole[mrml.window(start - low, piece.shape)]
        twice = (place > 0) & (piece > 0)
        if twice.any():
            one, other = names[int(place[twice][0])], names[int(piece[twice][0])]
            raise ValueError(
                _(
                    "the segments {one} and {other} overlap in {n} voxels; remove the overlap in the Segment Editor"
                ).format(one=one, other=other, n=int(twice.sum()))
            )
        np.maximum(place, piece, out=place)
    ends = [np.flatnonzero(whole.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not ends[0].size:
        return np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    window = tuple(slice(int(end[0]), int(end[-1]) + 1) for end in ends)
    k, j, i = (int(a) + end.start for a, end in zip(low, window, strict=True))
    return whole[window], (k, j, i)


# ---- parts


def _labels(labels: Sequence[Label | Mapping[str, Any]]) -> tuple[Label, ...]:
    return check_labels([label if isinstance(label, Label) else label_from_dict(label) for label in labels])


def _labelmap(array: np.ndarray, start: Sequence[int], labels: tuple[Label, ...], volumeNode: Node) -> Node:
    """A part of a mask as an image that lies on the scan's grid."""
    shape = mrml.geometry_of(volumeNode).shape
    if array.dtype != np.uint8:
        raise ValueError(_("a mask is uint8, this one is {type}").format(type=array.dtype))
    if any(a < 0 or a + n > end for a, n, end in zip(start, array.shape, shape, strict=True)):
        raise ValueError(
            _(
                "the mask ({part} from {start}) does not fit {name} ({shape}); the scan was changed, segment it again"
            ).format(part=array.shape, start=tuple(start), name=volumeNode.GetName(), shape=shape)
        )
    if array.size:
        present = np.flatnonzero(np.bincount(array.reshape(-1), minlength=256)).tolist()
        unknown = set(present) - {0, UNLABELLED} - {label.value for label in labels}
        if unknown:
            raise ValueError(_("the mask has values without a label: {values}").format(values=sorted(unknown)))
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(int(n) for a, m in zip(start[::-1], array.shape[::-1], strict=True) for n in (a, a + m - 1)))
    image.GetPointData().SetScalars(mrml.scalars(array))
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(mrml.ijk_to_ras(volumeNode)))
    return image


def _add_segment(
    node: Node, label: Label, image: Node, model: Mapping[str, Any] | None, value: int | None = None
) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(label.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(part / 255 for part in label.colour))
    segment.SetColorAutoGenerated(False)
    segment.SetLabelValue(label.value if value is None else value)
    segment.AddRepresentation(BINARY_LABELMAP, image)
    _tag(segment, label, model)
    node.GetSegmentation().AddSegment(segment)


def _add_unlabelled(node: Node, array: np.ndarray, image: Node) -> None:
    """Add the unlabelled part of a mask, if there is one, as a segment."""
    if array.size and (array == UNLABELLED).any():
        _add_segment(node, Label(UNLABELLED - 1, _UNLABELLED_NAME, colour=(144, 144, 144)), image, None, UNLABELLED)


def _terminology(label: Label) -> str:
    """The entry that Slicer keeps with a segment; empty where the label has no code."""
    if label.category is None or label.type is None:
        return ""
    own = label.type.value in _ONLY_IN_OWN_TERMINOLOGY
    return terminology_entry(label, _OWN_TERMINOLOGY if own else MASTER_TERMINOLOGY)


def _tag(segment: Node, label: Label, model: Mapping[str, Any] | None) -> None:
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), _terminology(label))
    segment.SetTag(_VALUE_TAG, str(label.value))
    segment.RemoveTag(QUALITY_TAG)  # of a mask before
    for name, text in _provenance(model).tags().items():
        segment.SetTag(name, text)


def _provenance(model: Mapping[str, Any] | None) -> Provenance:
    if not model:
        return Provenance(MANUAL)
    quality = model.get("quality") or {}  # None where it is unknown, missing in results of older engines
    text = quality_text(*(quality[key] for key in ("level", "expected_dice", "low", "high"))) if quality else ""
    return Provenance.of_model(*(str(model.get(key) or "") for key in _MODEL_KEYS), text)


def tag_of(segment: Node, name: str) -> str:
    """A tag of a segment, empty where it has none of that name."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _count(segmentation: Node) -> range:
    return range(segmentation.GetNumberOfSegments())
