"""The strokes that a person drew on a result, kept with it in the scene.

All strokes ever drawn are in an attribute of the segmentation node, by number. Which of them made the mask as it is, in
their order, stands in a tag of its segments: where the Segment Editor undoes a stroke, Slicer brings the old tags back
with the old voxels, and so the list is always that of the mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import slicer
from MPERLib import mrml

from mper.strokes import Stroke

_ATTRIBUTE = "MPER.Strokes"
_TAG = "MPER.Strokes"


@dataclass(frozen=True)
class StoredStroke:
    """A stroke of a result. `told` is what the engine said of it: name, added_ml, removed_ml, voxels, notes."""

    number: int
    stroke: Stroke
    told: dict[str, Any]


def keep(node: slicer.vtkMRMLSegmentationNode, stroke: Stroke) -> int:
    """Keep a new stroke with a result, and give it a number; it counts once it is among `applied`."""
    kept = _kept(node)
    number = max(map(int, kept), default=0) + 1
    _put(node, {**kept, str(number): to_json(stroke)})
    return number


def to_json(stroke: Stroke) -> dict[str, Any]:
    """A stroke as the engine takes it."""
    points = [list(point) for point in stroke.points_mm]
    return {"value": stroke.value, "points_mm": points, "radius_mm": stroke.radius_mm}


def tell(node: slicer.vtkMRMLSegmentationNode, numbers: Sequence[int], told: Sequence[dict[str, Any]]) -> None:
    """Keep what the engine said of strokes."""
    kept = _kept(node)
    for number, words in zip(numbers, told, strict=True):
        kept[str(number)] = {**kept[str(number)], "told": words}
    _put(node, kept)


def of(node: slicer.vtkMRMLSegmentationNode, numbers: Sequence[int]) -> list[StoredStroke]:
    """Strokes of a result by their numbers."""
    kept = _kept(node)
    return [StoredStroke(number, _stroke(kept[str(number)]), kept[str(number)].get("told") or {}) for number in numbers]


def applied(node: slicer.vtkMRMLSegmentationNode) -> tuple[int, ...]:
    """Numbers of the strokes that made the mask as it is, in their order."""
    segmentation = node.GetSegmentation()
    kept = _kept(node)
    for n in range(segmentation.GetNumberOfSegments()):
        tag = mrml.tag_of(segmentation.GetNthSegment(n), _TAG)
        if tag:
            return tuple(int(word) for word in tag.split(",") if word in kept)
    return ()


def set_applied(node: slicer.vtkMRMLSegmentationNode, numbers: Sequence[int]) -> None:
    """The mask is now what these strokes made it."""
    segmentation = node.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments()):
        segmentation.GetNthSegment(n).SetTag(_TAG, ",".join(map(str, numbers)))


def listed(node: slicer.vtkMRMLSegmentationNode) -> list[StoredStroke]:
    """The strokes that made the mask as it is."""
    return of(node, applied(node))


def forget(node: slicer.vtkMRMLSegmentationNode) -> None:
    """The mask is another model's, or another run's: strokes on the old one say nothing of it."""
    set_applied(node, ())


def _kept(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """What the attribute holds, by number; without what somebody made unreadable by hand."""
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
