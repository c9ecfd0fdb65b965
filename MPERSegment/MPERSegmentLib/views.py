"""Which scan the views show, and with it which results: never the heart of one scan beside the slices of another."""

from __future__ import annotations

import numpy as np
import slicer

from MPERSegmentLib import result_node
from MPERSegmentLib.turns import later

_HIDDEN = "MPER.Hidden"  # of a result's display: hidden here, not by the user


def bring(scan: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Show a scan in the slices, unless the user shows it in one of them already, and its results with it."""
    if scan.GetID() not in _shown_scans():
        slicer.util.setSliceViewerLayers(background=scan)
        later(lambda: slicer.app.layoutManager().resetSliceViews(), "fit slices")
    later(settle, "results in view")


def settle() -> None:
    """Hide the results of scans that no slice shows; show those again that were hidden here."""
    if slicer.mrmlScene is None:
        return
    shown = _shown_scans()
    for node in result_node.all_of(slicer.mrmlScene):
        scan, display = result_node.scan_of(node), node.GetDisplayNode()
        if scan is None or display is None:
            continue
        if scan.GetID() not in shown:
            if display.GetVisibility():
                display.SetAttribute(_HIDDEN, "yes")
                display.SetVisibility(False)
        elif display.GetAttribute(_HIDDEN):
            display.SetAttribute(_HIDDEN, None)
            display.SetVisibility(True)
            centre(node)


def is_alone(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether no other result of the same scan is seen, so that nothing has drawn the user's eye there yet."""
    for other in result_node.all_of(slicer.mrmlScene):
        display = other.GetDisplayNode()
        same = other is not node and result_node.scan_of(other) is result_node.scan_of(node)
        if same and display is not None and display.GetVisibility():
            return False
    return True


def centre(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Bring a result into the middle of the 3-D views, seen from where they look now."""
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    if (low > high).any():  # empty
        return
    middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    cameras = slicer.util.getNodesByClass("vtkMRMLCameraNode")
    directions = [np.array(cameraNode.GetCamera().GetDirectionOfProjection()) for cameraNode in cameras]
    manager = slicer.app.layoutManager()
    for number in range(manager.threeDViewCount):  # Slicer's box and letters follow, but so does what is hidden
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
