"""The choice of phases of a time series, or of image types of a series, that is being added; each becomes a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from MPERLib.callbacks import slot
from slicer.i18n import tr as _

Chosen = Callable[[list[int]], None]


class PhasesPanel:
    """A list of phases or image types in the panel.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    """

    def __init__(self, ui: Any):
        self.ui = ui
        self._chosen: Chosen = lambda _numbers: None
        self._find: Callable[[], None] | None = None
        self._searching = False
        ui.phasesTree.connect("itemSelectionChanged()", slot(self._selected))
        ui.addPhasesButton.connect("clicked()", slot(self._add))
        ui.skipPhasesButton.connect("clicked()", slot(self._skip))
        ui.findPhasesButton.connect("clicked()", slot(self._onFind))
        self.hide()

    def show(
        self,
        name: str,
        phases: Sequence[str],
        chosen: Chosen,
        marked: Sequence[int] = (),
        find: Callable[[], None] | None = None,
    ) -> None:
        """Ask which phases of a scan are added.

        Parameters
        ----------
        name : str
            Of the scan.
        phases : sequence of str
            A text for each.
        chosen : callable
            Takes their numbers from 1, none to leave the scan out.
        marked : sequence of int
            The numbers of ED and ES, where the scan says them; they are selected.
        find : callable or None
            Starts the search for ED and ES, which ends in `select` or `fail`; None where no model can find them.
        """
        text = _("{name} is a time series of {n} phases. Choose the phases to add; each becomes a case.")
        self._ask(text.format(name=name, n=len(phases)), _("Phase"), phases, chosen)
        self._find = find
        ui = self.ui
        ui.findPhasesButton.visible = True
        ui.findPhasesButton.toolTip = (
            _("Segment the left ventricle in each phase, and select those in which it is largest and smallest")
            if find is not None
            else _("No model segments the left ventricle, by which ED and ES are found")
        )
        ui.addPhasesButton.toolTip = _("Add the selected phases")
        ui.skipPhasesButton.toolTip = _("Add no phase of this scan")
        if marked:
            self._select(marked)
        self._selected()

    def showTypes(self, name: str, types: Sequence[str], chosen: Chosen) -> None:
        """Ask which image types of a series are added; `chosen` takes their numbers from 1, none to leave it out."""
        text = _("{name} holds images of {n} types at the same places. Choose the types to add; each becomes a case.")
        self._ask(text.format(name=name, n=len(types)), _("Image type"), types, chosen)
        self.ui.addPhasesButton.toolTip = _("Add the selected image types")
        self.ui.skipPhasesButton.toolTip = _("Add no image type of this series")

    def hide(self) -> None:
        self.ui.phasesBox.visible = False
        self._chosen, self._find, self._searching = lambda _numbers: None, None, False

    # ---- the search for ED and ES

    def searching(self, text: str) -> None:
        """Show how far the search is."""
        self._searching = True
        self.ui.phasesLabel.text = text
        self._selected()

    def select(self, numbers: Sequence[int], text: str) -> None:
        """The search has ended: select the phases that it found."""
        self._searching = False
        self.ui.phasesLabel.text = text
        self._select(numbers)
        self._selected()

    def fail(self, text: str) -> None:
        """The search has failed: the user chooses."""
        self._searching = False
        self.ui.phasesLabel.text = text
        self._selected()

    # ---- the list

    def _ask(self, text: str, title: str, items: Sequence[str], chosen: Chosen) -> None:
        self._chosen, self._find, self._searching = chosen, None, False
        ui = self.ui
        ui.phasesLabel.text = text
        ui.phasesTree.clear()
        ui.phasesTree.headerItem().setText(0, title)
        for item in items:
            ui.phasesTree.addTopLevelItem(qt.QTreeWidgetItem([item]))
        ui.findPhasesButton.visible = False
        ui.phasesBox.visible = True
        self._selected()

    def _numbers(self) -> list[int]:
        tree = self.ui.phasesTree
        return [n + 1 for n in range(tree.topLevelItemCount) if tree.topLevelItem(n).isSelected()]

    def _select(self, numbers: Sequence[int]) -> None:
        tree = self.ui.phasesTree
        for n in range(tree.topLevelItemCount):
            tree.topLevelItem(n).setSelected(n + 1 in numbers)

    def _selected(self) -> None:
        self.ui.addPhasesButton.enabled = bool(self._numbers()) and not self._searching
        self.ui.findPhasesButton.enabled = self._find is not None and not self._searching

    def _onFind(self) -> None:
        if self._find is not None:
            self._find()

    def _add(self) -> None:
        self._end(self._numbers())

    def _skip(self) -> None:
        self._end([])

    def _end(self, numbers: list[int]) -> None:
        chosen = self._chosen
        self.hide()
        chosen(numbers)
