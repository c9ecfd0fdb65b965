"""A result: a segmentation node that knows from which scan it was made, by which model, and what was measured.

What the engine told is kept in an attribute of the node, so that a saved scene still shows it. Which of its tellings
holds stands in a tag of the segments: when an update is undone, Slicer brings the old segments back, tags included.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml

from mper.provenance import SEMIAUTOMATIC, TYPE_TAG

_ATTRIBUTE = "MPER.Result"
_SECONDS = "MPER.EditedSeconds"
_PREDICTION = "MPER.Prediction"
_BY_HAND = "MPER.ByHand"


def record(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any]) -> None:
    """Make a segmentation node a result, untouched by anybody."""
    node.SetAttribute(_SECONDS, None)
    node.SetAttribute(_ATTRIBUTE, json.dumps({**_told(node), result["prediction"]: result}))
    for segment in _segments(node):
        segment.SetTag(_PREDICTION, result["prediction"])
        segment.RemoveTag(_BY_HAND)


def renew(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any]) -> None:
    """The engine has made the same result anew, as another prediction; what a person did since then stays."""
    known = _told(node)
    known[_current(node, known)] = result  # under its old name, which the Segment Editor's undo may bring back
    node.SetAttribute(_ATTRIBUTE, json.dumps(known))


def is_result(node: slicer.vtkMRMLNode | None) -> bool:
    return bool(node and node.IsA("vtkMRMLSegmentationNode") and node.GetAttribute(_ATTRIBUTE))


def of(node: slicer.vtkMRMLNode | None) -> dict[str, Any] | None:
    """What the engine told of a result; None for any other node."""
    if not is_result(node):
        return None
    known = _told(node)
    return known[_current(node, known)] if known else None


def is_edited(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether a person has changed it, and has not undone that."""
    return any(mrml.tag_of(segment, TYPE_TAG) == SEMIAUTOMATIC for segment in _segments(node))


def is_by_hand(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether a person has changed it with anything but strokes, and has not undone that."""
    return any(mrml.tag_of(segment, _BY_HAND) for segment in _segments(node))


def note_by_hand(node: slicer.vtkMRMLSegmentationNode) -> None:
    """A person has changed it with anything but strokes."""
    for segment in _segments(node):
        segment.SetTag(_BY_HAND, "yes")


def scan_of(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The scan a segmentation was made from, while it is in the scene."""
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def all_of(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLSegmentationNode]:
    """The results in a scene, oldest first."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene) if is_result(node)]


def edited_seconds(node: slicer.vtkMRMLSegmentationNode) -> float:
    """Time a person spent on changing a result; 0 for an untouched one."""
    return float(node.GetAttribute(_SECONDS) or 0)


def note_editing(node: slicer.vtkMRMLSegmentationNode, seconds: float) -> None:
    """Add to the time a person spent on it."""
    node.SetAttribute(_SECONDS, f"{edited_seconds(node) + seconds:.1f}")


def volumes_ml(node: slicer.vtkMRMLSegmentationNode) -> dict[str, float]:
    """Volume of each segment as it is now, by name: counted again once a person has changed it."""
    scan = scan_of(node)
    if scan is None:
        return {}
    part, _start = mrml.mask_part(node, scan)
    counts = np.bincount(part.reshape(-1), minlength=256)
    voxel_ml = float(np.prod(scan.GetSpacing())) / 1000
    return {label.name: float(counts[label.value]) * voxel_ml for label in mrml.labels_of(node)}


def _current(node: slicer.vtkMRMLSegmentationNode, known: dict[str, Any]) -> str:
    tags = [mrml.tag_of(segment, _PREDICTION) for segment in _segments(node)]
    return next((tag for tag in tags if tag in known), list(known)[-1])


def _told(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """All that the engine ever told of a node, by prediction."""
    try:
        found = json.loads(node.GetAttribute(_ATTRIBUTE) or "{}")
    except ValueError:  # a scene that somebody changed by hand
        return {}
    return found if isinstance(found, dict) else {}


def _segments(node: slicer.vtkMRMLSegmentationNode) -> list[slicer.vtkSegment]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
