"""A slice view with an active brush: it takes the left mouse button, and shows the brush and the drawn strokes.

Its observers of the view's interactor come before Slicer's own and the Segment Editor's (priority 1); an event that is
part of a stroke is not passed on. All other buttons, and the wheel, work as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from MPERLib.callbacks import slot

from MPERSegmentLib.stroke_drawing import StrokeDrawing

_PRIORITY = 2.0
_PRESS, _MOVE, _RELEASE = "press", "move", "release"
_EVENTS = {
    "LeftButtonPressEvent": _PRESS,
    "LeftButtonDoubleClickEvent": _PRESS,  # Qt's word for a press that follows soon after another one
    "MouseMoveEvent": _MOVE,
    "LeftButtonReleaseEvent": _RELEASE,
    "EnterEvent": "enter",
    "LeaveEvent": "leave",
    "MouseWheelForwardEvent": "larger",
    "MouseWheelLeftEvent": "larger",  # what Shift makes of the wheel on macOS
    "MouseWheelBackwardEvent": "smaller",
    "MouseWheelRightEvent": "smaller",
}


class BrushView(StrokeDrawing):
    """Observes one slice view, and draws into it.

    Parameters
    ----------
    widget : qMRMLSliceWidget
    happens : callable
        Takes this view, what happened (press, move, release, enter, leave, larger, smaller) and where, RAS in the
        world; returns whether the event is the brush's, so that it is not passed on.
    """

    def __init__(self, widget: Any, happens: Callable[[BrushView, str, np.ndarray], bool]):
        super().__init__(widget)
        self._layers = widget.mrmlSliceCompositeNode()
        self._happens = happens
        self._interactor = self._view.interactor()
        self._circle = vtk.vtkRegularPolygonSource()
        self._circle.SetNumberOfSides(48)
        self._circle.GeneratePolygonOff()
        self._brush = self._actor(self._circle.GetOutputPort(), None)  # above what it paints
        self._tags += [(self._interactor, self._observe(name, what)) for name, what in _EVENTS.items()]

    # ---- what is shown

    def colour(self, brush: Sequence[float], paint: Sequence[float]) -> None:
        """Set the colours (red, green, blue, 0 to 1) of the brush's circle and of drawn strokes."""
        self._brush.GetProperty().SetColor(*brush)
        self.colourStrokes(paint)

    def point(self, ras: np.ndarray | None, radius_mm: float) -> None:
        """Show the section of the brush's ball at a position in the world with this slice; None hides it."""
        discs = self._discs(ras[None], radius_mm) if ras is not None else np.zeros((1, 3))
        x, y, radius = discs[0]
        if radius > 0:
            self._circle.SetCenter(x, y, 0)
            self._circle.SetRadius(radius)
        self._brush.SetVisibility(bool(radius > 0))
        self._view.scheduleRender()

    def shows(self, scan: slicer.vtkMRMLScalarVolumeNode) -> bool:
        """Whether the scan is the background or the foreground here."""
        return scan.GetID() in (self._layers.GetBackgroundVolumeID(), self._layers.GetForegroundVolumeID())

    # ---- events

    def _observe(self, name: str, what: str) -> int:
        tag = 0

        def happened() -> None:
            if what == _PRESS or what in ("larger", "smaller"):
                shift = bool(self._interactor.GetShiftKey())
                if shift != (what != _PRESS) or self._interactor.GetControlKey() or self._interactor.GetAltKey():
                    return
            if self._happens(self, what, self._place()):
                self._interactor.GetCommand(tag).SetAbortFlag(1)

        tag = self._interactor.AddObserver(name, slot(happened, f"brush {what}"), _PRIORITY)
        return tag

    def _place(self) -> np.ndarray:
        x, y = self._interactor.GetEventPosition()
        return (slicer.util.arrayFromVTKMatrix(self.node.GetXYToRAS()) @ (x, y, 0, 1))[:3]
