"""Slicer's crosshair marks the voxel after a jump."""

from __future__ import annotations

from collections.abc import Sequence

import slicer


class Crosshair:
    """Shows the crosshair where the user has none, and hides it again; one that the user has chosen is only moved."""

    def __init__(self) -> None:
        self._switchedOn = False

    def show(self, ras: Sequence[float]) -> None:
        """Mark a position in the world."""
        node = _crosshair()
        if node is None:
            return
        node.SetCrosshairRAS(*ras)
        if node.GetCrosshairMode() == node.NoCrosshair:
            node.SetCrosshairMode(node.ShowSmallBasic)
            self._switchedOn = True

    def hide(self) -> None:
        """Hide the crosshair, unless the user has chosen another one meanwhile."""
        node = _crosshair()
        if self._switchedOn and node is not None and node.GetCrosshairMode() == node.ShowSmallBasic:
            node.SetCrosshairMode(node.NoCrosshair)
        self._switchedOn = False


def _crosshair() -> slicer.vtkMRMLCrosshairNode | None:
    scene = slicer.mrmlScene
    return scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") if scene is not None else None
