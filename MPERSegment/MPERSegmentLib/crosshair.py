"""The cross that marks the voxel after a jump: Slicer's own crosshair, lent."""

from __future__ import annotations

from collections.abc import Sequence

import slicer


class Crosshair:
    """Shows the crosshair where the user has none, and takes it away again; a crosshair of his own is only moved."""

    def __init__(self) -> None:
        self._lent = False

    def show(self, ras: Sequence[float]) -> None:
        """Mark a place of the world."""
        node = _crosshair()
        if node is None:
            return
        node.SetCrosshairRAS(*ras)
        if node.GetCrosshairMode() == node.NoCrosshair:
            node.SetCrosshairMode(node.ShowSmallBasic)
            self._lent = True

    def hide(self) -> None:
        """Take the cross away, unless the user has chosen another one meanwhile."""
        node = _crosshair()
        if self._lent and node is not None and node.GetCrosshairMode() == node.ShowSmallBasic:
            node.SetCrosshairMode(node.NoCrosshair)
        self._lent = False


def _crosshair() -> slicer.vtkMRMLCrosshairNode | None:
    scene = slicer.mrmlScene
    return scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") if scene is not None else None
