"""Masks in the scene of a loaded volume: segmentations and label maps that may become the label of its case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, segmentation_node
from slicer.i18n import tr as _

from mper.labels import BACKGROUND, UNLABELLED, label_from_dict, matching_labels, sharing
from mper.provenance import AUTOMATIC

_NOT_LOADED = ("MPER.Result", "MPER.Unsaved", "MPER.Trainer")  # attributes of segmentations that MPER itself has made
_LABELMAP = "vtkMRMLLabelMapVolumeNode"
_SAME_MM = 2.0  # boxes of grids of different resolution differ by a voxel

Node = Any


def masks_of(volumeNode: Node) -> tuple[list[Node], list[Node]]:
    """The masks of a volume, the newest first, and those that may be.

    Its masks are segmentations that refer to it and were not made by MPER, and label maps that fill the same box: those
    with its name where other volumes fill that box, too. Other label maps that overlap it may be its masks, or those of
    another patient.
    """
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    segmentations = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if node.GetNodeReference(role) is volumeNode
        and not any(map(node.GetAttribute, _NOT_LOADED))
        and not mrml.case_of(node)[1]
        and node.GetSegmentation().GetNumberOfSegments()
    ]
    box = _box(volumeNode)
    scans = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if not node.IsA(_LABELMAP)]
    others = [_box(node) for node in scans if node is not volumeNode]
    alone = not any(_same(other, box) for other in others)
    same, near = [], []
    for node in reversed(slicer.util.getNodesByClass(_LABELMAP)):
        its = _box(node)
        if _same(its, box):
            (same if alone or _named_after(node, volumeNode) else near).append(node)
        elif _overlap(its, box) and not any(_same(its, other) for other in others):
            near.append(node)
    return [*reversed(segmentations), *same], near


def described(maskNode: Node, volumeNode: Node, labels: Sequence[Mapping[str, Any]]) -> tuple[dict, list[str]]:
    """A mask on the grid of its volume as `ImportPreview` shows it, and lines for the user.

    Segments are matched with the structures of the dataset, `labels`, by code and by name; the values of a label map
    are taken as they are if all of them are values of the structures.
    """
    kind = _("label map {name}") if maskNode.IsA(_LABELMAP) else _("segmentation {name}")
    lines = [kind.format(name=maskNode.GetName())]
    try:
        part, _start = _part(maskNode, volumeNode)
    except ValueError as error:
        lines.append(_("{reason}; it would be added without a label").format(reason=error))
        return {"values": [], "empty": False, "usable": False}, lines
    made = [] if maskNode.IsA(_LABELMAP) else [its for _name, its in segmentation_node.provenances_of(maskNode)]
    if made and all(its is not None and its.type == AUTOMATIC for its in made):
        lines.append(_("segments of {model}, marked as unedited: no person's label").format(model=made[0].name))
    counts = np.bincount(part.ravel(), minlength=UNLABELLED + 1)
    held = [value for value in np.flatnonzero(counts).tolist() if value not in (BACKGROUND, UNLABELLED)]
    wanted = [label_from_dict(dict(label)) for label in labels]
    own = () if maskNode.IsA(_LABELMAP) else segmentation_node.labels_of(maskNode)
    named, match = {label.value: label for label in own}, matching_labels(own, wanted)
    known, one = {label.value for label in wanted}, sharing(match, held)
    values = []
    for value in held:
        label = named.get(value)
        if own:
            structure = None if value in one else match.get(value, BACKGROUND)  # None: the user says which one it is
        else:
            structure = value if set(held) <= known else None
        values.append(
            {
                "value": value,
                "voxels": int(counts[value]),
                "name": label.name if label is not None else "",
                "meaning": label.type.meaning if label is not None and label.type is not None else "",
                "structure": structure,
            }
        )
    return {"values": values, "empty": not held, "usable": True}, lines


def label_array(maskNode: Node, volumeNode: Node, structures: Mapping[int, int]) -> np.ndarray:
    """A mask (k, j, i) on the grid of its volume, with the values of structures; what has none becomes background.

    Raises
    ------
    ValueError
        If segments overlap, or a value is no label.
    """
    table = np.zeros(256, np.uint8)
    table[UNLABELLED] = UNLABELLED
    for value, structure in structures.items():
        table[value] = structure
    part, start = _part(maskNode, volumeNode)
    return mrml.on_whole_grid(table[part], start, mrml.geometry_of(volumeNode).shape)


def _part(maskNode: Node, volumeNode: Node) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The drawn part (k, j, i) of a mask on the grid of its volume, uint8, and where it begins."""
    if not maskNode.IsA(_LABELMAP):
        return segmentation_node.mask_part(maskNode, volumeNode)
    array, start = segmentation_node.labelmap_part(maskNode, volumeNode)
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise ValueError(_("{name} holds values that are not whole numbers").format(name=maskNode.GetName()))
    if array.size and (array.min() < 0 or array.max() > UNLABELLED):
        raise ValueError(_("{name} holds values beyond 0 to 255").format(name=maskNode.GetName()))
    return array.astype(np.uint8), start


def _named_after(maskNode: Node, volumeNode: Node) -> bool:
    """Whether a mask has the name of a volume, maybe with more after it, such as "_seg"."""
    rest = maskNode.GetName().removeprefix(volumeNode.GetName())
    return rest != maskNode.GetName() and not rest[:1].isalnum()


def _box(node: Node) -> np.ndarray | None:
    """Lowest and highest RAS of a volume in the world, (2, 3); None without voxels."""
    if node.GetImageData() is None or node.GetImageData().GetNumberOfPoints() == 0:
        return None
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return np.array([bounds[::2], bounds[1::2]])


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and bool(np.abs(one - other).max() < _SAME_MM)


def _overlap(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and bool((one[0] < other[1]).all() and (other[0] < one[1]).all())
