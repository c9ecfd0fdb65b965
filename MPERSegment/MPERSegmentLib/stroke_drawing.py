"""Strokes drawn into slice views, semi-transparent: while they are painted, and the one that is chosen in the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from MPERLib.callbacks import slot

from MPERSegmentLib.brush_outline import BrushOutline


class StrokeDrawing:
    """Draws strokes into one slice view.

    Parameters
    ----------
    widget : qMRMLSliceWidget
    """

    def __init__(self, widget: Any):
        self._view = widget.sliceView()
        self.node = widget.mrmlSliceNode()
        self._renderer = self._view.renderWindow().GetRenderers().GetFirstRenderer()
        self._outline = BrushOutline()
        self._strokes: list[tuple[np.ndarray, float]] = []
        self._actors: list[vtk.vtkActor2D] = []
        self._paint = self._actor(None, self._outline.mesh)
        self._paint.GetProperty().SetOpacity(0.55)
        self._tags: list[tuple[Any, int]] = []
        self._tags.append((self.node, self.node.AddObserver(vtk.vtkCommand.ModifiedEvent, slot(self.redraw))))

    def close(self) -> None:
        """Remove observers and actors from the view."""
        for target, tag in self._tags:
            target.RemoveObserver(tag)
        self._tags = []
        for actor in self._actors:
            self._renderer.RemoveViewProp(actor)
        self._view.scheduleRender()

    def colourStrokes(self, colour: Sequence[float]) -> None:
        """Set the colour (red, green, blue, 0 to 1) of strokes."""
        self._paint.GetProperty().SetColor(*colour)
        self._view.scheduleRender()

    def paint(self, ras: np.ndarray, radius_mm: float) -> None:
        """Show the section of balls around (n, 3) positions in the world."""
        self._strokes.append((ras, radius_mm))
        if self._paint.GetVisibility():
            self._outline.add(self._discs(ras, radius_mm))
            self._view.scheduleRender()
        else:
            self.redraw()

    def clear(self) -> None:
        """Hide the strokes."""
        self._strokes = []
        self.redraw()

    def redraw(self) -> None:
        """Draw the strokes again: the slice was moved or zoomed."""
        if not self._strokes and not self._paint.GetVisibility():
            return
        width, height = self.node.GetDimensions()[:2]
        self._outline.clear(width, height)
        for ras, radius_mm in self._strokes:
            self._outline.add(self._discs(ras, radius_mm))
        self._paint.SetVisibility(bool(self._strokes))
        self._view.scheduleRender()

    def _discs(self, ras: np.ndarray, radius_mm: float) -> np.ndarray:
        """(n, 3): x, y and radius in pixels of the view."""
        xy_to_ras = slicer.util.arrayFromVTKMatrix(self.node.GetXYToRAS())
        xyz = (np.c_[ras, np.ones(len(ras))] @ np.linalg.inv(xy_to_ras).T)[:, :3]
        normal = slicer.util.arrayFromVTKMatrix(self.node.GetSliceToRAS())[:3, 2]
        away_mm = (ras - xy_to_ras[:3, 3]) @ normal
        cut_mm = np.sqrt(np.maximum(radius_mm**2 - away_mm**2, 0))
        return np.c_[xyz[:, :2], cut_mm / np.linalg.norm(xy_to_ras[:3, 0])]

    def _actor(self, port: Any, mesh: vtk.vtkPolyData | None) -> vtk.vtkActor2D:
        """An invisible actor in the view, above those before."""
        mapper = vtk.vtkPolyDataMapper2D()
        if mesh is None:
            mapper.SetInputConnection(port)
        else:
            mapper.SetInputData(mesh)
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetLineWidth(1.5)
        actor.VisibilityOff()
        self._renderer.AddViewProp(actor)
        self._actors.append(actor)
        return actor


class StrokeHighlight:
    """Marks one stroke in all slice views."""

    def __init__(self) -> None:
        self._drawings: list[StrokeDrawing] = []

    def show(self, ras: np.ndarray, radius_mm: float, colour: Sequence[float]) -> None:
        """Mark balls around (n, 3) positions in the world, instead of what was marked before."""
        self.hide()
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames():
            drawing = StrokeDrawing(manager.sliceWidget(name))
            drawing.colourStrokes(colour)
            drawing.paint(ras, radius_mm)
            self._drawings.append(drawing)

    def hide(self) -> None:
        """Mark nothing."""
        for drawing in self._drawings:
            drawing.close()
        self._drawings = []
