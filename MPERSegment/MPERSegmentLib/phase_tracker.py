"""Tells when a sequence browser shows another phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from MPERLib.callbacks import slot


class PhaseTracker:
    """Observes all sequence browsers of the scene.

    Parameters
    ----------
    changed : callable
        Called after any of them has changed.
    """

    def __init__(self, changed: Callable[[], None]):
        self._changed = slot(changed, "phase changed")
        self._observed: dict[str, tuple[Any, int]] = {}

    def observe(self) -> None:
        """Observe the browsers of the scene that are not observed yet."""
        for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
            if browser.GetID() not in self._observed:
                tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, self._changed)
                self._observed[browser.GetID()] = (browser, tag)

    def forget(self, nodeId: str) -> None:
        """A node is being removed from the scene."""
        browser, tag = self._observed.pop(nodeId, (None, 0))
        if browser is not None:
            browser.RemoveObserver(tag)

    def forgetAll(self) -> None:
        for nodeId in list(self._observed):
            self.forget(nodeId)
