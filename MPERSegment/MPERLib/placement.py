"""Clicks in the slice views that place something, with an instruction in each view; Esc cancels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk

from MPERLib import mrml
from MPERLib.callbacks import slot

_TEXT_PX = 15


class Placement:
    """Waits for clicks in the slice views, until `close`.

    Parameters
    ----------
    instruction : str
        Shown in each slice view.
    cancelled : callable
        Called by Esc, or when another tool takes the mouse.
    mode : callable
        Takes the interaction node, and switches to the mouse mode that the placement needs.
    """

    def __init__(self, instruction: str, cancelled: Callable[[], None], mode: Callable[[Any], None]):
        self._cancelled = cancelled
        self._texts: list[tuple[Any, Any]] = []
        self._interaction = slicer.app.applicationLogic().GetInteractionNode()
        mode(self._interaction)
        self._mode = self._interaction.GetCurrentInteractionMode()
        self._tag = self._interaction.AddObserver(vtk.vtkCommand.ModifiedEvent, slot(self._onMouseMode, "mouse mode"))
        self._shortcut = qt.QShortcut(qt.QKeySequence("Esc"), slicer.util.mainWindow())
        self._onEscape = slot(self._cancelled, "key Esc")
        self._shortcut.connect("activated()", self._onEscape)
        for view in _views():
            self._write(view, instruction)

    def close(self) -> None:
        """Give the mouse back to Slicer."""
        self._interaction.RemoveObserver(self._tag)
        if self._interaction.GetCurrentInteractionMode() == self._interaction.Place:
            self._interaction.SwitchToViewTransformMode()
        self._shortcut.disconnect("activated()", self._onEscape)
        self._shortcut.setEnabled(False)  # at once; it is deleted at the next turn
        self._shortcut.deleteLater()
        for view, actor in self._texts:
            view.renderWindow().GetRenderers().GetFirstRenderer().RemoveViewProp(actor)
            view.scheduleRender()
        self._texts = []

    def _onMouseMode(self) -> None:
        if self._interaction.GetCurrentInteractionMode() != self._mode:
            self._cancelled()

    def _write(self, view: Any, instruction: str) -> None:
        actor = vtk.vtkTextActor()
        actor.SetInput(instruction)
        actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
        actor.SetPosition(0.5, 0.9)
        style = actor.GetTextProperty()
        style.SetFontSize(_TEXT_PX)
        style.SetJustificationToCentered()
        style.SetColor(1.0, 0.9, 0.3)
        style.SetBackgroundColor(0, 0, 0)
        style.SetBackgroundOpacity(0.6)
        view.renderWindow().GetRenderers().GetFirstRenderer().AddViewProp(actor)
        view.scheduleRender()
        self._texts.append((view, actor))


class BoxPlacement(Placement):
    """Two clicks in a slice are opposite corners of a box.

    Parameters
    ----------
    roi : vtkMRMLMarkupsROINode
        The box that is placed.
    instruction, cancelled :
        As of `Placement`; the mouse mode ends with the last click, too.
    """

    def __init__(self, roi: Any, instruction: str, cancelled: Callable[[], None]):
        self.roi = roi
        slicer.modules.markups.logic().SetActiveList(roi)
        # Not the logic's StartPlaceMode: that one begins a point, whatever list is active.
        super().__init__(instruction, cancelled, lambda interaction: interaction.SwitchToSinglePlaceMode())

    @property
    def placed(self) -> bool:
        """Whether both corners were clicked."""
        return mrml.alive(self.roi) and self.roi.GetControlPointPlacementComplete() and min(self.roi.GetSize()) > 0


def _views() -> list[Any]:
    manager = slicer.app.layoutManager()
    return [manager.sliceWidget(name).sliceView() for name in manager.sliceViewNames()]
