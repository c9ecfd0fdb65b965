"""The region that a model has found in a scan, as a box in the views that can be dragged; one for each scan.

It is a markups ROI that refers to its scan and to the result that was segmented in it, so that a saved scene has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
import slicer.util
from MPERLib import mrml, roi_box
from slicer.i18n import tr as _

_SCAN, _RESULT = "MPER.RegionOf", "MPER.RegionOfResult"  # references of a box
_FOUND = "MPER.RegionFound"  # attribute of a result: it was segmented in a region that was found, or in its box
_HIDDEN = "MPER.Hidden"  # of a box's display: hidden here, not by the user
_ASIDE = "drawn"  # hidden as long as the user has chosen a box of their own

Node = Any


def all_of(scene: Node) -> list[Node]:
    """The boxes of all scans."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode", scene)
        if node.GetNodeReferenceID(_SCAN) is not None
    ]


def of(scan: Node | None) -> Node | None:
    """The box of a scan, None where no region was found."""
    if not mrml.alive(scan):
        return None
    return next((node for node in all_of(scan.GetScene()) if node.GetNodeReference(_SCAN) is scan), None)


def is_found(roi: Node | None) -> bool:
    """Whether a box was found by a model, rather than drawn."""
    return roi is not None and roi.GetNodeReferenceID(_SCAN) is not None


def show(scan: Node, result: Node, box_mm: Sequence[float]) -> Node:
    """Show the region of a result; the box of the scan's result before is moved there.

    Parameters
    ----------
    scan : vtkMRMLScalarVolumeNode
    result : vtkMRMLSegmentationNode
    box_mm : six numbers
        x0, x1, y0, y1, z0, z1 in LPS mm, in the scan's own frame.
    """
    node = of(scan)
    scene = scan.GetScene()
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLMarkupsROINode")
        node.UnRegister(None)
        node.SetName(scene.GetUniqueNameByString(_("Region of {scan}").format(scan=scan.GetName())))
        scene.AddNode(node)
        node.SetNodeReferenceID(_SCAN, scan.GetID())
        roi_box.style(node)
        mrml.place(node, scan)
    with mrml.modifying(node):
        belongs_to(node, result)
        roi_box.move(node, box_mm, scan)
    display = node.GetDisplayNode()
    display.SetAttribute(_HIDDEN, None)
    display.SetVisibility(True)
    return node


def belongs_to(roi: Node, result: Node) -> None:
    """Note that a box is now that of another result of the same scan."""
    roi.SetNodeReferenceID(_RESULT, result.GetID())
    result.SetAttribute(_FOUND, "yes")


def follow(scan: Node | None, result: Node, box_mm: Sequence[float] | None) -> None:
    """Move the box of a scan to the region of the result that is shown now, unless a person gave that region."""
    roi = of(scan)
    if roi is None or box_mm is None or not result.GetAttribute(_FOUND):
        return
    if roi.GetNodeReferenceID(_RESULT) != result.GetID():
        with mrml.modifying(roi):
            belongs_to(roi, result)
            roi_box.move(roi, box_mm, scan)


def without(node: Node) -> list[Node]:
    """The boxes that go when a scan or a result is removed from the scene."""
    return [
        roi
        for roi in all_of(node.GetScene() or slicer.mrmlScene)
        if node.GetID() in (roi.GetNodeReferenceID(_SCAN), roi.GetNodeReferenceID(_RESULT))
    ]


def remove(roi: Node | None) -> None:
    """Remove a box from the scene."""
    if mrml.alive(roi):
        roi.GetScene().RemoveNode(roi)


def show_those_of(scans: set[str]) -> None:
    """Show the boxes of these scans (ids), and hide all others. What the user has hidden stays hidden."""
    for roi in all_of(slicer.mrmlScene):
        hidden = roi.GetDisplayNode().GetAttribute(_HIDDEN) if roi.GetDisplayNode() else None
        if hidden != _ASIDE:
            _hide(roi, roi.GetNodeReferenceID(_SCAN) not in scans, "yes")


def set_aside(roi: Node, aside: bool) -> None:
    """Hide a box while the user has chosen another one, or show it again."""
    if aside or (roi.GetDisplayNode() and roi.GetDisplayNode().GetAttribute(_HIDDEN) == _ASIDE):
        _hide(roi, aside, _ASIDE)


def _hide(roi: Node, hide: bool, why: str) -> None:
    display = roi.GetDisplayNode()
    if display is None:
        return
    if hide and display.GetVisibility():
        display.SetAttribute(_HIDDEN, why)
        display.SetVisibility(False)
    elif not hide and display.GetAttribute(_HIDDEN):
        display.SetAttribute(_HIDDEN, None)
        display.SetVisibility(True)
