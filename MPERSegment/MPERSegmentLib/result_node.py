"""Results: segmentation nodes with the scan and the model they were made from, and their measurements.

The engine's answers are stored in an attribute of the node, by prediction, so that a saved scene still shows them.
A tag of the segments names the current prediction: when an update is undone, Slicer restores the old segments with
their tags.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, phases, segmentation_node
from MPERLib.scan_checksum import ScanChecksums
from slicer.i18n import tr as _

from mper.provenance import SEMIAUTOMATIC, TYPE_TAG

_ATTRIBUTE = "MPER.Result"
_SECONDS = "MPER.EditedSeconds"
_PREDICTION = "MPER.Prediction"
_BY_HAND = "MPER.ByHand"
_FIGURES = "MPER.Figures"  # of the structures after strokes, and the numbers of these


def record(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any]) -> None:
    """Make a segmentation node an unedited result."""
    node.SetAttribute(_SECONDS, None)
    node.SetAttribute(_ATTRIBUTE, json.dumps({**_answers(node), result["prediction"]: result}))
    for segment in _segments(node):
        segment.SetTag(_PREDICTION, result["prediction"])
        segment.RemoveTag(_BY_HAND)


def renew(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any]) -> None:
    """Store that the engine has made the same result again, as another prediction; edits since then stay."""
    known = _answers(node)
    known[_current(node, known)] = result  # under its old name, which the Segment Editor's undo may bring back
    node.SetAttribute(_ATTRIBUTE, json.dumps(known))


def is_result(node: slicer.vtkMRMLNode | None) -> bool:
    return bool(node and node.IsA("vtkMRMLSegmentationNode") and node.GetAttribute(_ATTRIBUTE))


def of(node: slicer.vtkMRMLNode | None) -> dict[str, Any] | None:
    """The engine's answer for a result; None for any other node."""
    if not is_result(node):
        return None
    known = _answers(node)
    return known[_current(node, known)] if known else None


def predictions_of(node: slicer.vtkMRMLNode | None) -> list[str]:
    """The ids of the predictions in the engine's memory that a result was made from."""
    if not is_result(node):
        return []
    return [str(answer["prediction"]) for answer in _answers(node).values() if answer.get("prediction")]


def is_edited(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether it was edited, with strokes or in the Segment Editor, and that was not undone."""
    return any(segmentation_node.tag_of(segment, TYPE_TAG) == SEMIAUTOMATIC for segment in _segments(node))


def is_by_hand(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether it was edited in the Segment Editor (or by a script), and that was not undone."""
    return any(segmentation_node.tag_of(segment, _BY_HAND) for segment in _segments(node))


def note_by_hand(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Mark it as edited in the Segment Editor (or by a script)."""
    for segment in _segments(node):
        segment.SetTag(_BY_HAND, "yes")


def note_figures(
    node: slicer.vtkMRMLSegmentationNode, strokes: Sequence[int], structures: Sequence[dict[str, Any]]
) -> None:
    """Store what the engine has measured after strokes (by number); as ``structures`` of its result."""
    node.SetAttribute(_FIGURES, json.dumps({"strokes": list(strokes), "structures": list(structures)}))


def figures(node: slicer.vtkMRMLSegmentationNode, strokes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What the engine has measured of the mask with these strokes, by name.

    Empty where it has not, or where the mask in the scene is another: edited by hand, or kept out of a region.
    """
    noted, scan = mrml.json_attribute(node, _FIGURES), scan_of(node)
    if not strokes or noted.get("strokes") != list(strokes) or scan is None or is_by_hand(node):
        return {}
    found = {one["name"]: one for one in noted["structures"]}
    counts = segmentation_node.voxel_counts(node, scan)
    same = all(counts.get(name) == one.get("voxels") and "surface_mm2" in one for name, one in found.items())
    return found if same else {}


def scan_of(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The scan that a segmentation was made from, None if it is not in the scene."""
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def other_image(node: slicer.vtkMRMLSegmentationNode, checksums: ScanChecksums) -> str:
    """A line for the user where the scan (of a time series: its phase) is not the image that a result was made from."""
    made_from, scan = (of(node) or {}).get("scan_sha256"), scan_of(node)
    if made_from is None or scan is None:
        return ""
    try:
        if checksums.of(phases.voxels_of(scan, phases.of(node))) == made_from:
            return ""
    except ValueError as error:
        return str(error)
    text = _("the voxels of {scan} are not those of the image that this mask was made from; segment it again")
    return text.format(scan=scan.GetName())


def all_of(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLSegmentationNode]:
    """The results in a scene, oldest first."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene) if is_result(node)]


def edited_seconds(node: slicer.vtkMRMLSegmentationNode) -> float:
    """Seconds that a user spent on editing it."""
    return float(node.GetAttribute(_SECONDS) or 0)


def note_editing(node: slicer.vtkMRMLSegmentationNode, seconds: float) -> None:
    """Add to the seconds that a user spent on editing it."""
    node.SetAttribute(_SECONDS, f"{edited_seconds(node) + seconds:.1f}")


def volumes_ml(node: slicer.vtkMRMLSegmentationNode) -> dict[str, float]:
    """Current volume of each segment, by name; segments may overlap."""
    scan = scan_of(node)
    if scan is None:
        return {}
    voxel_ml = float(np.prod(scan.GetSpacing())) / 1000
    return {name: count * voxel_ml for name, count in segmentation_node.voxel_counts(node, scan).items()}


def _current(node: slicer.vtkMRMLSegmentationNode, known: dict[str, Any]) -> str:
    tags = [segmentation_node.tag_of(segment, _PREDICTION) for segment in _segments(node)]
    return next((tag for tag in tags if tag in known), list(known)[-1])


def _answers(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """All answers of the engine for a node, by prediction."""
    return mrml.json_attribute(node, _ATTRIBUTE)


def _segments(node: slicer.vtkMRMLSegmentationNode) -> list[slicer.vtkSegment]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
