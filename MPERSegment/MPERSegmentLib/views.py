"""Which scan and which results the views show: of each scan in the slices one result, the one that was chosen last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
from MPERLib import mrml, phases
from MPERLib.callbacks import later
from MPERLib.rendering import rendered_once

from MPERSegmentLib import found_region, result_node

_HIDDEN = "MPER.Hidden"  # of a result's display: hidden here, not by the user
_OTHER_SCAN, _OTHER_RESULT = "yes", "phase"  # its values: no slice shows the scan, or another result is shown
_CHOSEN = "MPER.Chosen"  # of a result: the one of its scan (of a time series: of its phase) that is shown
_NONE = "MPER.NoResult"  # of a result: the user has chosen to see none


def show_scan(scan: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Show a scan and its result in the slices, unless one of the slices shows it already."""
    if scan.GetID() not in _shown_scans():
        with rendered_once():
            slicer.util.setSliceViewerLayers(background=scan)
        later(lambda: slicer.app.layoutManager().resetSliceViews(), "fit slices")
    later(show_results, "results in view")


def choose(node: slicer.vtkMRMLSegmentationNode | None, reveal: bool = True) -> None:
    """Show a result instead of the others of its scan (of a time series: of its phase); None hides all results.

    One that the user has hidden, in Slicer's module Data say, is shown only where `reveal`.
    """
    for other in result_node.all_of(slicer.mrmlScene):
        _mark(other, _NONE, node is None)
        if node is not None and _group(other) == _group(node):
            _mark(other, _CHOSEN, other is node)
    display = node.GetDisplayNode() if reveal and result_node.is_result(node) else None
    if display is not None and not display.GetVisibility() and not display.GetAttribute(_HIDDEN):
        display.SetAttribute(_HIDDEN, _OTHER_RESULT)  # to be shown, unless something else is against it
    show_results()


def show_results() -> None:
    """Hide the results of scans, and of phases, that no slice shows, and those that others stand for.

    Those that were hidden here are shown again.
    """
    if slicer.mrmlScene is None:
        return
    with rendered_once():
        _show_results()


def _show_results() -> None:
    shown = _shown_scans()
    found_region.show_those_of(shown)
    results = result_node.all_of(slicer.mrmlScene)
    first = {_group(node): node for node in results}  # the newest, unless another one was chosen
    first |= {_group(node): node for node in results if node.GetAttribute(_CHOSEN)}
    for node in results:
        scan, display = result_node.scan_of(node), node.GetDisplayNode()
        if scan is None or display is None:
            continue
        other_scan = scan.GetID() not in shown
        other_result = node.GetAttribute(_NONE) or first[_group(node)] is not node
        if other_scan or other_result or phases.mismatch(node, scan):
            if display.GetVisibility():
                display.SetAttribute(_HIDDEN, _OTHER_SCAN if other_scan else _OTHER_RESULT)
                display.SetVisibility(False)
        elif hidden := display.GetAttribute(_HIDDEN):
            display.SetAttribute(_HIDDEN, None)
            display.SetVisibility(True)
            if hidden == _OTHER_SCAN:  # while phases are played, or results compared, the camera stays
                centre(node)


def _mark(node: slicer.vtkMRMLSegmentationNode, name: str, on: bool) -> None:
    """Set or remove an attribute without an event, upon which Slicer would draw the node again."""
    if bool(node.GetAttribute(name)) != on:
        before = node.GetDisableModifiedEvent()
        node.SetDisableModifiedEvent(1)
        node.SetAttribute(name, "yes" if on else None)
        node.SetDisableModifiedEvent(before)


def _group(node: slicer.vtkMRMLSegmentationNode) -> tuple[str, int | None]:
    """Results of the same group lie on each other; one of them is shown."""
    scan = result_node.scan_of(node)
    return (scan.GetID() if scan is not None else node.GetID(), phases.of(node))


def is_alone(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether no other result of the same scan is visible."""
    others = [other for other in result_node.all_of(slicer.mrmlScene) if other is not node]
    return not any(is_visible(other) and result_node.scan_of(other) is result_node.scan_of(node) for other in others)


def is_visible(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the views show a result."""
    return node.GetDisplayNode() is not None and bool(node.GetDisplayNode().GetVisibility())


def centre(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Centre the 3-D views on a result without turning them."""
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    if (low > high).any():  # empty
        return
    middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    cameras = slicer.util.getNodesByClass("vtkMRMLCameraNode")
    directions = [np.array(cameraNode.GetCamera().GetDirectionOfProjection()) for cameraNode in cameras]
    manager = slicer.app.layoutManager()
    for number in range(manager.threeDViewCount):  # for Slicer's box and axis labels; it counts hidden nodes too
        manager.threeDWidget(number).threeDView().resetFocalPoint()
    for cameraNode, direction in zip(cameras, directions, strict=True):
        away = radius / np.sin(np.radians(cameraNode.GetCamera().GetViewAngle()) / 2)
        cameraNode.SetFocalPoint(middle)
        cameraNode.SetPosition(middle - away * direction)
        cameraNode.SetParallelScale(radius)
        cameraNode.ResetClippingRange()


def look_at_mask(extent: Sequence[Sequence[int]] | None, scan: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Centre the slices on a mask, unless each of them cuts it already.

    Parameters
    ----------
    extent : ((int, int, int), (int, int, int)) or None
        First voxel (k, j, i) of the mask's box and the one after its last; None for an empty mask.
    scan : vtkMRMLScalarVolumeNode
    """
    if extent is None:
        return
    first, last = np.array(extent[0]), np.array(extent[1]) - 1
    corners = [np.where(corner, last, first) for corner in np.ndindex(2, 2, 2)]
    points = np.array([mrml.world_of(corner, scan) for corner in corners])
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        plane = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        away = (points - plane[:3, 3]) @ plane[:3, 2]
        if away.min() > 0 or away.max() < 0:
            with rendered_once():
                mrml.jump_to((first + last) / 2, scan)
            return


def _shown_scans() -> set[str]:
    return {
        composite.GetBackgroundVolumeID()
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if composite.GetBackgroundVolumeID()
    }
