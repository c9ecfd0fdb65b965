"""Which scan and which results the views show: only results of the scans in the slices are visible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
from MPERLib import mrml, phases
from MPERLib.callbacks import later

from MPERSegmentLib import found_region, result_node

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
    found_region.show_those_of(shown)
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
            mrml.jump_to((first + last) / 2, scan)
            return


def _shown_scans() -> set[str]:
    return {
        composite.GetBackgroundVolumeID()
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if composite.GetBackgroundVolumeID()
    }
