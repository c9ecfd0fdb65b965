"""The brush: strokes drawn with the left mouse button in the slice views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from MPERLib.callbacks import slot
from MPERLib.widgets import Shortcut

from MPERSegmentLib.brush_view import BrushView

_ZOOM = 1.2  # of the radius, by a turn of the wheel
_MIN_STEP_MM = 0.25


@dataclass(frozen=True)
class BrushCallbacks:
    """What the brush calls.

    allowed : takes the slice view; returns whether strokes can be drawn there.
    drawn : takes a finished stroke: (n, 3) RAS in the world, points no further apart than half the radius.
    scaled : takes the factor by which the radius is to change (Shift and wheel).
    ended : called by Esc, or when another tool takes the mouse.
    undo, redo : called by Ctrl+Z and Ctrl+Y.
    """

    allowed: Callable[[BrushView], bool]
    drawn: Callable[[np.ndarray], None]
    scaled: Callable[[float], None]
    ended: Callable[[], None]
    undo: Callable[[], None]
    redo: Callable[[], None]


class Brush:
    """A brush that is active until `close`.

    Parameters
    ----------
    callbacks : BrushCallbacks
    radius_mm : float
    """

    def __init__(self, callbacks: BrushCallbacks, radius_mm: float):
        self._callbacks = callbacks
        self._radius_mm = radius_mm
        self._colours: tuple[Sequence[float], Sequence[float]] = ((1, 1, 1), (1, 1, 1))
        self._points: list[np.ndarray] | None = None  # of the stroke that is being drawn
        self._at: np.ndarray | None = None
        self._waiting: list[tuple[np.ndarray, float]] = []  # strokes that the mask does not include yet
        self._views: list[BrushView] = []
        self._manager = slicer.app.layoutManager()
        self._onLayout = slot(self._observeViews, "brush in another layout")
        self._manager.connect("layoutChanged(int)", self._onLayout)
        self._interaction = slicer.app.applicationLogic().GetInteractionNode()
        self._interaction.SwitchToViewTransformMode()  # as for an effect of the Segment Editor
        self._tag = self._interaction.AddObserver(vtk.vtkCommand.ModifiedEvent, slot(self._onMouseMode))
        self._shortcuts = [
            Shortcut(keys, react)
            for keys, react in (("Esc", callbacks.ended), ("Ctrl+Z", callbacks.undo), ("Ctrl+Y", callbacks.redo))
        ]
        self._observeViews()

    def close(self) -> None:
        """Give the left mouse button back to Slicer."""
        self._manager.disconnect("layoutChanged(int)", self._onLayout)
        self._interaction.RemoveObserver(self._tag)
        for shortcut in self._shortcuts:
            shortcut.close()
        self._shortcuts = []
        for view in self._views:
            view.close()
        self._views = []

    @property
    def painting(self) -> bool:
        return self._points is not None

    def colour(self, brush: Sequence[float], paint: Sequence[float]) -> None:
        """Set the colours (red, green, blue, 0 to 1) of the brush's circle and of drawn strokes."""
        self._colours = (brush, paint)
        for view in self._views:
            view.colour(brush, paint)

    def setRadius(self, radius_mm: float) -> None:
        self._radius_mm = radius_mm
        self._show(self._at)

    def clear(self) -> None:
        """Hide the drawn strokes, as the mask includes them now."""
        self._waiting = []
        for view in self._views:
            view.clear()

    # ---- views

    def _observeViews(self) -> None:
        for view in self._views:
            view.close()
        self._points = None
        names = self._manager.sliceViewNames()
        self._views = [BrushView(self._manager.sliceWidget(name), self._happens) for name in names]
        for view in self._views:
            view.colour(*self._colours)
            for ras, radius_mm in self._waiting:
                view.paint(ras, radius_mm)

    def _onMouseMode(self) -> None:
        if self._interaction.GetCurrentInteractionMode() != self._interaction.ViewTransform:
            self._callbacks.ended()

    # ---- mouse

    def _happens(self, view: BrushView, what: str, ras: np.ndarray) -> bool:
        if what in ("larger", "smaller"):
            self._callbacks.scaled(_ZOOM if what == "larger" else 1 / _ZOOM)
            return True
        if what == "press":
            if not self._callbacks.allowed(view):
                return True
            self._points = []
            self._extend(ras)
            return True
        self._show(None if what == "leave" else ras)
        if self._points is None:
            return False
        if what in ("move", "release"):
            self._extend(ras)
        if what == "release":
            points, self._points = self._points, None
            self._waiting.append((np.array(points), self._radius_mm))
            self._callbacks.drawn(np.array(points))
        return what == "release"

    def _extend(self, ras: np.ndarray) -> None:
        """Extend the stroke to a position."""
        points = self._points
        assert points is not None
        step = max(self._radius_mm / 2, _MIN_STEP_MM)
        last = points[-1] if points else ras
        away = float(np.linalg.norm(ras - last))
        if points and away < step / 2:
            return
        count = max(1, int(np.ceil(away / step)))
        new = [last + (ras - last) * n / count for n in range(1, count + 1)]
        points += new
        for view in self._views:
            view.paint(np.array(new), self._radius_mm)

    def _show(self, ras: np.ndarray | None) -> None:
        self._at = ras
        for view in self._views:
            view.point(ras, self._radius_mm)
