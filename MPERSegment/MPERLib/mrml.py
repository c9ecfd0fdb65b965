"""Between Slicer's scene and the library: scans, regions and masks, exact to the voxel.

This is the one place that knows RAS. MRML has a matrix from voxel (i, j, k) to RAS mm in the node's own frame, and
maybe a parent transform from there to the world; the library has arrays (k, j, i) and LPS mm. All that goes to the
engine is in the scan's own frame; what comes back gets the scan's parent transform, so that it lies on the scan
wherever that is moved to. A warping transform has no such frame and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from mper.labels import UNLABELLED, Code, Label, check_labels, label_from_dict
from mper.provenance import AUTOMATIC, MANUAL, NAME_TAG, SEMIAUTOMATIC, TYPE_TAG, Provenance
from mper.volume import Geometry

_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_KJI_IJK = np.eye(4)[[2, 1, 0, 3]]  # reverses the order of indices, of columns and of rows
_BINARY = "Binary labelmap"
_GRID_TOLERANCE = 1e-3  # of a voxel
_UNLABELLED_NAME = "unlabelled"
_VALUE_TAG = "MPER.Value"
_EDITED = "MPER.Edited"
_MODEL_KEYS = ("model", "model_version", "model_sha256")
_MASTER_LIST = "Segmentation category and type - DICOM master list"
_REGION_LIST = "Anatomic codes - DICOM master list"
_OWN_LIST = "MPER"  # Resources/Terminology/MPER.term.json
_ONLY_IN_OWN_LIST = {"74281007"}  # myocardium is in no list of Slicer's

Node = Any  # a vtkMRMLNode; slicer's classes are made at run time


# ---- geometry


def geometry_of(volumeNode: Node) -> Geometry:
    """The grid of a scan in its own frame.

    Raises
    ------
    ValueError
        If the node is no scan that can be segmented (no voxels, several components, a label map), its axes are not at
        right angles, or it is under a warping transform.
    """
    name = volumeNode.GetName()
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode") or volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ValueError(_("{name} is not a scan of one grey value a voxel; choose one").format(name=name))
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise ValueError(_("{name} holds no voxels; load it again").format(name=name))
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise ValueError(
            _(
                "{name} has {n} values a voxel, a scan has one; convert it with the module Vector to Scalar Volume"
            ).format(name=name, n=components)
        )
    refuse_warp(volumeNode)
    return Geometry(_affine(ijk_to_ras(volumeNode)), image.GetDimensions()[::-1])


def refuse_warp(node: Node) -> None:
    """Raise ValueError if the node is under a transform that is not linear."""
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise ValueError(
            _("{name} is under the warping transform {transform}; harden it (module Data) or remove it first").format(
                name=node.GetName(), transform=parent.GetName()
            )
        )


def array_of(volumeNode: Node) -> np.ndarray:
    """The voxels of a scan as (k, j, i), not copied."""
    return slicer.util.arrayFromVolume(volumeNode)


def between(source: Node | None, target: Node | None) -> np.ndarray:
    """(4, 4): from the frame of one node to that of another in RAS; None is the world.

    Raises
    ------
    ValueError
        If a warping transform lies between.
    """
    parents = [node.GetParentTransformNode() if node is not None else None for node in (source, target)]
    matrix = vtk.vtkMatrix4x4()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*parents, matrix):
        for node in (source, target):
            if node is not None:
                refuse_warp(node)
    return slicer.util.arrayFromVTKMatrix(matrix)


def roi_mm(roiNode: Node, volumeNode: Node | None = None) -> list[float]:
    """The box along the axes of LPS, in the scan's own frame, that holds a region drawn in the scene.

    Parameters
    ----------
    roiNode : vtkMRMLMarkupsROINode
        May be turned, and under a transform of its own.
    volumeNode : vtkMRMLScalarVolumeNode or None
        The scan; None for a box in the world.

    Returns
    -------
    list of float
        x0, x1, y0, y1, z0, z1.

    Raises
    ------
    ValueError
        If the region is not placed, has no size, lies off the scan, or is under a warping transform.
    """
    refuse_warp(roiNode)
    size = np.array(roiNode.GetSize())
    if roiNode.GetNumberOfControlPoints() == 0 or not (size > 0).all():
        raise ValueError(
            _("the region {name} is not drawn yet; place it, or choose none").format(name=roiNode.GetName())
        )
    signs = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    to_world = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())
    corners = np.c_[signs * size, np.ones(8)] @ (_RAS_LPS @ between(None, volumeNode) @ to_world).T
    low, high = corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)
    if volumeNode is not None:
        geometry = geometry_of(volumeNode)
        ends = np.array([(k, j, i) for k in (0, 1) for j in (0, 1) for i in (0, 1)]) * (np.array(geometry.shape) - 1)
        scan = geometry.to_world(ends)
        if (low > scan.max(axis=0)).any() or (high < scan.min(axis=0)).any():
            raise ValueError(_("the region {name} lies off the scan; move it").format(name=roiNode.GetName()))
    return [float(value) for pair in zip(low, high, strict=True) for value in pair]


def world_of(index: Sequence[float], volumeNode: Node) -> tuple[float, float, float]:
    """World RAS of a voxel (k, j, i) of the scan."""
    point = between(volumeNode, None) @ ijk_to_ras(volumeNode) @ np.array([*reversed(list(index)), 1.0])
    return float(point[0]), float(point[1]), float(point[2])


def index_at(ras: Sequence[float], volumeNode: Node) -> tuple[int, int, int] | None:
    """The voxel (k, j, i) of the scan at a place of the world, None where that is off the scan."""
    inverse = np.linalg.inv(between(volumeNode, None) @ ijk_to_ras(volumeNode))
    i, j, k = np.rint((inverse @ np.array([*ras, 1.0]))[:3]).astype(int).tolist()
    shape = volumeNode.GetImageData().GetDimensions()[::-1]
    return (k, j, i) if all(0 <= n < end for n, end in zip((k, j, i), shape, strict=True)) else None


def lps_of(ras: Sequence[Sequence[float]], volumeNode: Node) -> np.ndarray:
    """(n, 3) LPS mm in the scan's own frame of places in the world."""
    points = np.c_[np.asarray(ras, dtype=float).reshape(-1, 3), np.ones(len(ras))]
    return (points @ (_RAS_LPS @ between(None, volumeNode)).T)[:, :3]


def ras_of(lps: Sequence[Sequence[float]], volumeNode: Node) -> np.ndarray:
    """(n, 3) places in the world of LPS mm in the scan's own frame."""
    points = np.c_[np.asarray(lps, dtype=float).reshape(-1, 3), np.ones(len(lps))]
    return (points @ (between(volumeNode, None) @ _RAS_LPS).T)[:, :3]


def jump_to(index: Sequence[float], volumeNode: Node) -> tuple[float, float, float]:
    """Show a voxel of the scan in the middle of all slice views; its world RAS."""
    ras = world_of(index, volumeNode)
    look_at(ras, volumeNode.GetScene())
    return ras


def look_at(ras: Sequence[float], scene: Node) -> None:
    """Show a place of the world in the middle of all slice views."""
    centred = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *ras, centred)


def alive(node: Node | None) -> bool:
    """Whether the node is still in a scene: people delete nodes, and close scenes, while we work."""
    return node is not None and node.GetScene() is not None


def editor_settings(tag: str) -> slicer.vtkMRMLSegmentEditorNode:
    """A Segment Editor parameter set of a panel's own, found again by its tag; the module keeps the user's apart."""
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(tag)
        node = slicer.mrmlScene.AddNode(node)
    return node


# ---- scans


def show_scan(array: np.ndarray, affine: Any, name: str, scene: Node) -> Node:
    """A scan of the library as a new scalar volume node.

    Parameters
    ----------
    array : (k, j, i) array
    affine : (4, 4)
        From (k, j, i, 1) to LPS mm.
    """
    node = scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    node.UnRegister(None)
    node.SetName(scene.GetUniqueNameByString(name))
    scene.AddNode(node)
    # The window is set before the voxels come: Slicer's own look at all of a large scan takes longer than we may.
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    low, high = (float(value) for value in np.percentile(array[::4, ::4, ::4], (0.5, 99.5)))
    display.SetWindowLevelMinMax(low, max(high, low + 1e-6))
    fill_volume(node, array, np.asarray(affine, dtype=float))
    return node


def fill_volume(node: Node, array: np.ndarray, affine: np.ndarray) -> None:
    """Give a volume node its voxels (k, j, i) and its place (LPS)."""
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(_RAS_LPS @ affine @ _KJI_IJK))
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(_scalars(array))
    node.SetAndObserveImageData(image)


# ---- masks into the scene


def show_mask(
    array: np.ndarray,
    start: Sequence[int],
    labels: Sequence[Label | Mapping[str, Any]],
    volumeNode: Node,
    name: str,
    model: Mapping[str, Any] | None = None,
) -> Node:
    """A mask as a new segmentation node on its scan: named, coded, coloured, under the same patient and study.

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
        The engine's result, for its ``model``, ``model_version``, ``model_sha256``; None for a mask that a person made.

    Raises
    ------
    ValueError
        If the part lies off the scan or holds a value without a label.
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
    with modifying(node):
        for label in labels:
            _add_segment(node, label, image, model)
    _add_unlabelled(node, array, image)
    node.CreateDefaultDisplayNodes()
    place(node, volumeNode)
    return node


def replace_mask(
    segmentationNode: Node,
    array: np.ndarray,
    start: Sequence[int],
    labels: Sequence[Label | Mapping[str, Any]],
    volumeNode: Node,
    model: Mapping[str, Any] | None = None,
) -> None:
    """Put a mask in the place of the segments with the same names, and of "unlabelled"; other segments stay.

    To let the user undo it, save the Segment Editor's state (``saveStateForUndo``) first.
    """
    labels = _labels(labels)
    image = _labelmap(array, start, labels, volumeNode)
    move = between(volumeNode, segmentationNode)
    if not np.allclose(move, np.eye(4), atol=1e-6):
        raise ValueError(
            _("{name} does not lie in the frame of {scan}; put both under the same transform").format(
                name=segmentationNode.GetName(), scan=volumeNode.GetName()
            )
        )
    segmentation = segmentationNode.GetSegmentation()
    present = {
        segmentation.GetNthSegment(n).GetName().casefold(): segmentation.GetNthSegmentID(n)
        for n in _count(segmentation)
    }
    with modifying(segmentationNode):
        for label in labels:
            segment_id = present.get(label.name.casefold())
            if segment_id is None:
                _add_segment(segmentationNode, label, image, model)
                continue
            segmentation.ClearSegment(segment_id)
            segment = segmentation.GetSegment(segment_id)
            segment.SetLabelValue(label.value)
            segment.AddRepresentation(_BINARY, image)
            _tag(segment, label, model)
        if (before := present.get(_UNLABELLED_NAME)) is not None:
            segmentation.RemoveSegment(before)
        _add_unlabelled(segmentationNode, array, image)
    segmentationNode.SetAttribute(_EDITED, None)


@contextmanager
def modifying(node: Node) -> Iterator[None]:
    """One modified event of the node for all that is done inside."""
    was = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was)


def mark_edited(segmentationNode: Node) -> None:
    """A person has changed the mask: its segments are no longer the work of the model alone."""
    segmentation = segmentationNode.GetSegmentation()
    for n in _count(segmentation):
        segment = segmentation.GetNthSegment(n)
        if tag_of(segment, TYPE_TAG) == AUTOMATIC:
            segment.SetTag(TYPE_TAG, SEMIAUTOMATIC)
    if segmentationNode.GetAttribute(_EDITED) != "yes":
        segmentationNode.SetAttribute(_EDITED, "yes")


def unmark_edited(segmentationNode: Node) -> None:
    """All that a person changed has been taken back: the mask is the model's own work again."""
    segmentation = segmentationNode.GetSegmentation()
    for n in _count(segmentation):
        segment = segmentation.GetNthSegment(n)
        if tag_of(segment, TYPE_TAG) == SEMIAUTOMATIC:
            segment.SetTag(TYPE_TAG, AUTOMATIC)
    segmentationNode.SetAttribute(_EDITED, None)


def is_edited(segmentationNode: Node) -> bool:
    """Whether a person has changed the mask; see `mark_edited`."""
    return segmentationNode.GetAttribute(_EDITED) == "yes"


def provenances_of(segmentationNode: Node) -> list[tuple[str, Provenance | None]]:
    """Name of each segment, and how it came about; None where nobody has said."""
    segmentation = segmentationNode.GetSegmentation()
    segments = [segmentation.GetNthSegment(n) for n in _count(segmentation)]
    return [
        (s.GetName(), Provenance.from_tags({tag: tag_of(s, tag) for tag in (TYPE_TAG, NAME_TAG)})) for s in segments
    ]


# ---- masks out of the scene


def labels_of(segmentationNode: Node) -> tuple[Label, ...]:
    """What the segments stand for; values are those of the model that made them, else counted from 1."""
    segmentation = segmentationNode.GetSegmentation()
    segments = [segmentation.GetNthSegment(n) for n in _count(segmentation)]
    segments = [segment for segment in segments if segment.GetName().casefold() != _UNLABELLED_NAME]
    tags = [tag_of(segment, _VALUE_TAG) for segment in segments]
    known = all(tag.isdigit() for tag in tags) and len(set(tags)) == len(tags)
    values = [int(tag) for tag in tags] if known else list(range(1, len(tags) + 1))
    found = []
    for value, segment in zip(values, segments, strict=True):
        category, type_, *narrower = codes_of(segment.GetTerminology() or "")
        red, green, blue = (round(255 * part) for part in segment.GetColor())
        found.append(Label(value, segment.GetName().strip(), category, type_, (red, green, blue), *narrower))
    return tuple(found)


def mask_of(
    segmentationNode: Node, volumeNode: Node, labels: Sequence[Label | Mapping[str, Any]] | None = None
) -> np.ndarray:
    """The segmentation as a uint8 label array on the scan's grid; see `mask_part`."""
    part, start = mask_part(segmentationNode, volumeNode, labels)
    mask = np.zeros(geometry_of(volumeNode).shape, np.uint8)
    mask[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    return mask


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
    geometry = geometry_of(volumeNode)
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != _BINARY:
        raise ValueError(
            _("{name} is not made of voxels; convert it to a binary labelmap in the module Segmentations").format(
                name=segmentationNode.GetName()
            )
        )
    move = np.linalg.inv(ijk_to_ras(volumeNode)) @ between(segmentationNode, volumeNode)
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
                    _("the segment {name} is none of {known}; rename it, or remove it").format(
                        name=segment.GetName(), known=", ".join(label.name for label in labels)
                    )
                )
            table[value] = values[segment.GetName().casefold()]
        if table.any():
            pieces.append((table[piece], start))
    return _union(pieces, names)


def layers_of(segmentationNode: Node, empty: bool = False) -> list[tuple[Node, list[Node]]]:
    """Label images with the segments that share each; those without voxels only where `empty`."""
    segmentation = segmentationNode.GetSegmentation()
    found: dict[str, tuple[Node, list[Node]]] = {}
    for n in _count(segmentation):
        segment = segmentation.GetNthSegment(n)
        image = segment.GetRepresentation(_BINARY)
        drawn = image is not None and image.GetNumberOfPoints() and image.GetPointData().GetScalars() is not None
        if drawn or (empty and image is not None):
            found.setdefault(image.GetAddressAsString(""), (image, []))[1].append(segment)
    return list(found.values())


def label_value_of(segment: Node) -> int | None:
    """The label value that a model gave a segment; None for one that a person made."""
    tag = tag_of(segment, _VALUE_TAG)
    return int(tag) if tag.isdigit() else None


def _on_grid(
    image: Node, move: np.ndarray, shape: tuple[int, int, int], volumeNode: Node
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A label image on the scan's grid, cut to the scan.

    `move` leads from the segmentation's RAS to the scan's (i, j, k).
    """
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    to_scan = move @ slicer.util.arrayFromVTKMatrix(matrix)
    extent = np.array(image.GetExtent()).reshape(3, 2)
    offset = np.rint(to_scan[:3, 3])
    corners = np.array([(i, j, k, 1) for i in extent[0] for j in extent[1] for k in extent[2]])
    at = (corners @ to_scan.T)[:, :3]
    if np.abs(at - (corners[:, :3] + offset)).max() <= _GRID_TOLERANCE:
        low = extent[:, 0] + offset.astype(int)
        array = image_array(image)
    else:
        low, high = np.floor(at.min(axis=0)).astype(int), np.ceil(at.max(axis=0)).astype(int)
        low, high = np.maximum(low, 0), np.minimum(high, np.array(shape[::-1]) - 1)
        if (high < low).any():
            return np.zeros((0, 0, 0), np.uint8), (0, 0, 0)
        array = _resample(image, low, high, move, volumeNode)
    start = low[::-1]
    cut_low = np.maximum(start, 0)
    cut_high = np.minimum(start + array.shape, shape)
    window = tuple(slice(a, max(a, b)) for a, b in zip(cut_low - start, cut_high - start, strict=True))
    k, j, i = cut_low.tolist()
    return array[window], (k, j, i)


def _resample(image: Node, low: np.ndarray, high: np.ndarray, move: np.ndarray, volumeNode: Node) -> np.ndarray:
    """A label image at the voxels `low` to `high` (i, j, k) of the scan, by nearest neighbour."""
    reference = slicer.vtkOrientedImageData()
    reference.SetExtent(*(int(n) for pair in zip(low, high, strict=True) for n in pair))
    reference.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    reference.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(np.linalg.inv(move)))
    result = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, reference, result, False)
    return image_array(result)


def _union(
    pieces: list[tuple[np.ndarray, tuple[int, int, int]]], names: Mapping[int, str]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    if not pieces:
        return np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    low = np.min([start for _piece, start in pieces], axis=0)
    high = np.max([np.add(start, piece.shape) for piece, start in pieces], axis=0)
    whole = np.zeros(tuple(high - low), np.uint8)
    for piece, start in pieces:
        place = whole[tuple(slice(a, a + n) for a, n in zip(start - low, piece.shape, strict=True))]
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


# ---- terminology


def terminology_of(label: Label) -> str:
    """The entry that Slicer keeps with a segment; empty where nobody has said what the structure is."""
    if label.category is None or label.type is None:
        return ""
    context = _OWN_LIST if label.type.value in _ONLY_IN_OWN_LIST else _MASTER_LIST
    codes = (label.category, label.type, label.modifier, label.region, label.region_modifier)
    texts = [f"{code.scheme}^{code.value}^{code.meaning}" if code else "^^" for code in codes]
    return "~".join([context, *texts[:3], _REGION_LIST, *texts[3:]])


def codes_of(entry: str) -> list[Code | None]:
    """Category, type, modifier, region and its modifier of a terminology entry, None where it says none."""
    parts = [*entry.split("~"), *[""] * 7]
    triples = [parts[n].split("^") for n in (1, 2, 3, 5, 6)]
    return [Code(*words) if len(words) == 3 and all(words) else None for words in triples]


# ---- parts


def _labels(labels: Sequence[Label | Mapping[str, Any]]) -> tuple[Label, ...]:
    return check_labels([label if isinstance(label, Label) else label_from_dict(label) for label in labels])


def _labelmap(array: np.ndarray, start: Sequence[int], labels: tuple[Label, ...], volumeNode: Node) -> Node:
    """A part of a mask as an image that lies on the scan's grid."""
    shape = geometry_of(volumeNode).shape
    if array.dtype != np.uint8:
        raise ValueError(_("a mask is uint8, this one {type}").format(type=array.dtype))
    if any(a < 0 or a + n > end for a, n, end in zip(start, array.shape, shape, strict=True)):
        raise ValueError(
            _(
                "the mask ({part} from {start}) does not lie on {name} ({shape}); was the scan changed meanwhile?"
            ).format(part=array.shape, start=tuple(start), name=volumeNode.GetName(), shape=shape)
        )
    if array.size:
        present = np.flatnonzero(np.bincount(array.reshape(-1), minlength=256)).tolist()
        unknown = set(present) - {0, UNLABELLED} - {label.value for label in labels}
        if unknown:
            raise ValueError(_("the mask holds values {values} that no label names").format(values=sorted(unknown)))
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(int(n) for a, m in zip(start[::-1], array.shape[::-1], strict=True) for n in (a, a + m - 1)))
    image.GetPointData().SetScalars(_scalars(array))
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras(volumeNode)))
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
    segment.AddRepresentation(_BINARY, image)
    _tag(segment, label, model)
    node.GetSegmentation().AddSegment(segment)


def _add_unlabelled(node: Node, array: np.ndarray, image: Node) -> None:
    """What a mask leaves unlabelled, where it does, as a segment."""
    if array.size and (array == UNLABELLED).any():
        _add_segment(node, Label(UNLABELLED - 1, _UNLABELLED_NAME, colour=(144, 144, 144)), image, None, UNLABELLED)


def _tag(segment: Node, label: Label, model: Mapping[str, Any] | None) -> None:
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology_of(label))
    segment.SetTag(_VALUE_TAG, str(label.value))
    for name, text in _provenance(model).tags().items():
        segment.SetTag(name, text)


def _provenance(model: Mapping[str, Any] | None) -> Provenance:
    if not model:
        return Provenance(MANUAL)
    return Provenance.of_model(*(str(model.get(key) or "") for key in _MODEL_KEYS))


def place(node: Node, volumeNode: Node) -> None:
    """Put a node under the patient and study of its scan."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    scan = hierarchy.GetItemByDataNode(volumeNode)
    parent = hierarchy.GetItemParent(scan) if scan else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def tag_of(segment: Node, name: str) -> str:
    """A tag of a segment, empty where it has none of that name."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _count(segmentation: Node) -> range:
    return range(segmentation.GetNumberOfSegments())


def ijk_to_ras(volumeNode: Node) -> np.ndarray:
    """(4, 4): from voxel (i, j, k, 1) to RAS mm in the node's own frame."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _affine(ijk_to_ras: np.ndarray) -> np.ndarray:
    return _RAS_LPS @ ijk_to_ras @ _KJI_IJK


def _scalars(array: np.ndarray) -> Node:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.float16:
        flat = flat.astype(np.float32)  # VTK has no half
    return numpy_support.numpy_to_vtk(flat, deep=True)


def image_array(image: Node) -> np.ndarray:
    """The voxels of an image as (k, j, i), not copied."""
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
