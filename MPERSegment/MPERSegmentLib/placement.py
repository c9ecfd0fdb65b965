"""A point placed by a click in the slice views, with an instruction in each view; Esc cancels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml
from MPERLib.callbacks import later
from MPERLib.placement import Placement

from MPERSegmentLib.brush_view import BrushView


class PointPlacement(Placement):
    """A click in a slice that shows the scan is the point.

    Parameters
    ----------
    scan : vtkMRMLScalarVolumeNode
    instruction, cancelled :
        As of `Placement`.
    clicked : callable
        Takes the position, RAS in the world.
    """

    def __init__(
        self, scan: Any, instruction: str, clicked: Callable[[np.ndarray], None], cancelled: Callable[[], None]
    ):
        self._scan, self._clicked = scan, clicked
        self._taken: np.ndarray | None = None
        super().__init__(instruction, cancelled, lambda interaction: interaction.SwitchToViewTransformMode())
        manager = slicer.app.layoutManager()
        self._observed = [BrushView(manager.sliceWidget(name), self._happens) for name in manager.sliceViewNames()]

    def close(self) -> None:
        for view in self._observed:
            view.close()
        self._observed = []
        super().close()

    def _happens(self, view: BrushView, what: str, ras: np.ndarray) -> bool:
        if what == "press":
            if mrml.alive(self._scan) and view.shows(self._scan) and mrml.index_at(ras, self._scan) is not None:
                self._taken = ras
            return True
        if what == "release" and self._taken is not None:
            taken, self._taken = self._taken, None
            later(lambda: self._clicked(taken), "point is clicked")  # not from within the view's own observers
            return True
        return False
