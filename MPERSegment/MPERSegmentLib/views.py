"""Which scan and which results the views show: only results of the scans in the slices are visible."""

from __future__ import annotations

import numpy as np
import slicer
from MPERLib import phases
from MPERLib.callbacks import later

from MPERSegmentLib import result_node

_HIDDEN = "MPER.Hidden"  # of a result's display: hidden here, not by the user


def show_scan(scan: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Show a scan and its results in the slices, unless one of the slices shows it already."""
    if scan.GetID() not in _shown_scans():
        slicer.util.setSliceViewerLayers(background=scan)
        later(lambda: slicer.app.layoutManager().resetSliceViews(), "fit slices")
    later(show_results, "results in view")


def show_results() -> None:
    """Hide the results of scans, and of phases, that no slice shows; show again those that were hidden here."""
    if slicer.mrmlScene is None:
        return
    shown = _shown_scans()
    for node in result_node.all_of(slicer.mrmlScene):
        scan, display = result_node.scan_of(node), node.GetDisplayNode()
        if scan is None or display is None:
            continue
        other_scan = scan.GetID() not in shown
        if other_scan or phases.mismatch(node, scan):
            if display.GetVisibility():
                display.SetAttribute(_HIDDEN, "yes" if other_scan else "phase")
                display.SetVisibility(False)
        elif hidden := display.GetAttribute(_HIDDEN):
            display.SetAttribute(_HIDDEN, None)
            display.SetVisibility(True)
            if hidden == "yes":  # while phases are played the camera stays
                centre(node)


def is_alone(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether no other result of the same scan is visible."""
    for other in result_node.all_of(slicer.mrmlScene):
        display = other.GetDisplayNode()
        same = other is not node and result_node.scan_of(other) is result_node.scan_of(node)
        if same and display is not None and display.GetVisibility():
            return False
    return True


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


def _shown_scans() -> set[str]:
    return {
        composite.GetBackgroundVolumeID()
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if composite.GetBackgroundVolumeID()
    }
