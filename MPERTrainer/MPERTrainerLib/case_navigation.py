"""From case to case without the table: previous and next by button and key, and saving on the way."""

from __future__ import annotations

from MPERLib.callbacks import slot
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Shortcut

from MPERTrainerLib.label_panel import LabelPanel
from MPERTrainerLib.open_dataset import OpenDataset


class CaseNavigation:
    """The buttons *Previous*, *Next* and *Save and next*; their keys act while the module is open.

    Parameters
    ----------
    context : PanelContext
    labelPanel : LabelPanel
    dataset : OpenDataset
        Whose cases are gone through as the table lists them; further pages are read on the way.
    """

    def __init__(self, context: PanelContext, labelPanel: LabelPanel, dataset: OpenDataset):
        self._context, self._labelPanel, self._dataset = context, labelPanel, dataset
        self._shortcuts: list[Shortcut] = []
        ui = context.ui
        ui.previousCaseButton.connect("clicked()", slot(self.previous))
        ui.nextCaseButton.connect("clicked()", slot(self.next))
        ui.saveNextButton.connect("clicked()", slot(self.saveAndNext))

    def enter(self) -> None:
        """The user opens the module: take the keys."""
        if not self._shortcuts:
            keys = (("Shift+P", self.previous), ("Shift+N", self.next), ("Shift+S", self.saveAndNext))
            self._shortcuts = [Shortcut(key, react) for key, react in keys]

    def leave(self) -> None:
        """The user goes to another module: leave the keys to others."""
        for shortcut in self._shortcuts:
            shortcut.close()
        self._shortcuts = []

    def previous(self) -> None:
        """Open the case before the open one; unsaved changes of that stay."""
        self._open(-1)

    def next(self) -> None:
        """Open the case after the open one, the first if none is open; unsaved changes of that stay."""
        self._open(1)

    def saveAndNext(self) -> None:
        """Save the label if it was changed, then open the next case."""
        if self._labelPanel.segmentation is not None:
            self._labelPanel.save(then=self.next)

    def show(self) -> None:
        """Enable the buttons that lead to a case."""
        cases, ui, case = self._order(), self._context.ui, self._labelPanel.case
        at = cases.index(case) if case in cases else None
        ui.previousCaseButton.enabled = at is not None and at > 0
        ui.nextCaseButton.enabled = bool(cases) and (at != len(cases) - 1 or not self._dataset.complete)
        ui.saveNextButton.enabled = ui.saveLabelButton.enabled

    def _open(self, step: int) -> None:
        cases, case = self._order(), self._labelPanel.case
        at = cases.index(case) + step if case in cases else 0
        elsewhere = case is not None and case not in cases and not self._dataset.filter
        if not self._dataset.complete and (at >= len(cases) or elsewhere):  # on a page that was not read yet
            self._dataset.more(lambda: self._open(step) if self._labelPanel.case == case else None)
        elif 0 <= at < len(cases):
            self._labelPanel.open(cases[at])

    def _order(self) -> list[str]:
        return [case["id"] for case in self._dataset.cases]
