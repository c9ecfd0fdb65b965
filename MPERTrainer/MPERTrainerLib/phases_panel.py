"""The choice of phases of a time series that is being added: each chosen phase becomes a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from MPERLib.callbacks import slot
from slicer.i18n import tr as _


class PhasesPanel:
    """A list of phases in the panel.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    """

    def __init__(self, ui: Any):
        self.ui = ui
        self._chosen: Callable[[list[int]], None] = lambda _phases: None
        ui.phasesTree.connect("itemSelectionChanged()", slot(self._selected))
        ui.addPhasesButton.connect("clicked()", slot(self._add))
        ui.skipPhasesButton.connect("clicked()", slot(self._skip))
        self.hide()

    def show(self, name: str, phases: Sequence[str], chosen: Callable[[list[int]], None]) -> None:
        """Ask which phases of a scan are added; `chosen` takes their numbers from 1, none to leave the scan out."""
        self._chosen = chosen
        text = _("{name} is a time series of {n} phases. Choose the phases to add; each becomes a case.")
        self.ui.phasesLabel.text = text.format(name=name, n=len(phases))
        self.ui.phasesTree.clear()
        for phase in phases:
            self.ui.phasesTree.addTopLevelItem(qt.QTreeWidgetItem([phase]))
        self.ui.phasesBox.visible = True
        self._selected()

    def hide(self) -> None:
        self.ui.phasesBox.visible = False
        self._chosen = lambda _phases: None

    def _numbers(self) -> list[int]:
        tree = self.ui.phasesTree
        return [n + 1 for n in range(tree.topLevelItemCount) if tree.topLevelItem(n).isSelected()]

    def _selected(self) -> None:
        self.ui.addPhasesButton.enabled = bool(self._numbers())

    def _add(self) -> None:
        self._end(self._numbers())

    def _skip(self) -> None:
        self._end([])

    def _end(self, numbers: list[int]) -> None:
        chosen = self._chosen
        self.hide()
        chosen(numbers)
