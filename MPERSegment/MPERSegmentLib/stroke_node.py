"""The strokes that a user drew on a result, stored with it in the scene.

All strokes ever drawn are in an attribute of the segmentation node, by number. Those that the current mask includes, in
their order, are in a tag of its segments: when the Segment Editor undoes a stroke, Slicer restores the old tags with
the old voxels, so the list always belongs to the mask.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from MPERLib import segmentation_node

from mper.strokes import Stroke

_ATTRIBUTE = "MPER.Strokes"
_TAG = "MPER.Strokes"
_OVERLAP = "MPER.StrokesOverlap"
_FITTED = "MPER.StrokesFitted"


@dataclass(frozen=True)
class StoredStroke:
    """A stroke of a result, and the engine's answer to it: name, added_ml, removed_ml, voxels, notes."""

    number: int
    stroke: Stroke
    answer: dict[str, Any]


def add(node: slicer.vtkMRMLSegmentationNode, stroke: Stroke) -> int:
    """Store a new stroke with a result; returns its number. It counts once it is among `applied`."""
    kept = _kept(node)
    number = max(map(int, kept), default=0) + 1
    _put(node, {**kept, str(number): to_json(stroke)})
    return number


def to_json(stroke: Stroke) -> dict[str, Any]:
    """A stroke as the engine takes it."""
    points = [list(point) for point in stroke.points_mm]
    return {"value": stroke.value, "points_mm": points, "radius_mm": stroke.radius_mm}


def set_answers(
    node: slicer.vtkMRMLSegmentationNode, numbers: Sequence[int], answers: Sequence[dict[str, Any]]
) -> None:
    """Store the engine's answers to strokes."""
    kept = _kept(node)
    for number, answer in zip(numbers, answers, strict=True):
        kept[str(number)] = {**kept[str(number)], "told": answer}
    _put(node, kept)


def of(node: slicer.vtkMRMLSegmentationNode, numbers: Sequence[int]) -> list[StoredStroke]:
    """Strokes of a result by their numbers."""
    kept = _kept(node)
    return [StoredStroke(number, _stroke(kept[str(number)]), kept[str(number)].get("told") or {}) for number in numbers]


def applied(node: slicer.vtkMRMLSegmentationNode) -> tuple[int, ...]:
    """Numbers of the strokes that the current mask includes, in their order."""
    segmentation = node.GetSegmentation()
    kept = _kept(node)
    for n in range(segmentation.GetNumberOfSegments()):
        tag = segmentation_node.tag_of(segmentation.GetNthSegment(n), _TAG)
        if tag:
            return tuple(int(word) for word in tag.split(",") if word in kept)
    return ()


def set_applied(node: slicer.vtkMRMLSegmentationNode, numbers: Sequence[int]) -> None:
    """Store that the current mask includes these strokes."""
    segmentation = node.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments()):
        segmentation.GetNthSegment(n).SetTag(_TAG, ",".join(map(str, numbers)))


def is_fitted(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the last stroke was fitted to image edges when this mask was made."""
    segmentation = node.GetSegmentation()
    tags = [segmentation_node.tag_of(segmentation.GetNthSegment(n), _FITTED) for n in _numbers(segmentation)]
    return "no" not in tags


def set_fitted(node: slicer.vtkMRMLSegmentationNode, fitted: bool) -> None:
    """Store whether the last stroke was fitted to image edges."""
    segmentation = node.GetSegmentation()
    for n in _numbers(segmentation):
        segmentation.GetNthSegment(n).SetTag(_FITTED, "yes" if fitted else "no")


def _numbers(segmentation: slicer.vtkSegmentation) -> range:
    return range(segmentation.GetNumberOfSegments())


def overlap(node: slicer.vtkMRMLSegmentationNode) -> np.ndarray:
    """Voxels (flat indices in the scan) that strokes have removed below segments of the user's own."""
    try:
        packed = zlib.decompress(base64.b64decode(node.GetAttribute(_OVERLAP) or ""))
        return np.cumsum(np.frombuffer(packed, np.int64))
    except (ValueError, zlib.error):  # none, or changed by hand
        return np.zeros(0, np.int64)


def set_overlap(node: slicer.vtkMRMLSegmentationNode, flat: np.ndarray) -> None:
    """Store these voxels, sorted, so that undo brings them back in a loaded scene, too."""
    packed = zlib.compress(np.diff(flat, prepend=0).astype(np.int64).tobytes())
    node.SetAttribute(_OVERLAP, base64.b64encode(packed).decode() if len(flat) else None)


def listed(node: slicer.vtkMRMLSegmentationNode) -> list[StoredStroke]:
    """The strokes that the current mask includes."""
    return of(node, applied(node))


def forget(node: slicer.vtkMRMLSegmentationNode) -> None:
    """The mask was replaced by another prediction: strokes on the old one do not apply to it."""
    set_applied(node, ())


def _kept(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """The stored strokes, by number; without those that cannot be read."""
    kept = {}
    try:
        for number, entry in json.loads(node.GetAttribute(_ATTRIBUTE) or "{}").items():
            _stroke(entry)
            kept[str(int(number))] = entry
    except (AttributeError, KeyError, TypeError, ValueError):
        return kept
    return kept


def _stroke(entry: dict[str, Any]) -> Stroke:
    return Stroke(int(entry["value"]), tuple(entry["points_mm"]), float(entry["radius_mm"]))


def _put(node: slicer.vtkMRMLSegmentationNode, kept: dict[str, Any]) -> None:
    node.SetAttribute(_ATTRIBUTE, json.dumps(kept, separators=(",", ":")))
