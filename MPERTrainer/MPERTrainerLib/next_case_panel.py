"""Next case: which unlabelled case would teach most, and why."""

from __future__ import annotations

import json

from MPERLib import callbacks
from slicer.i18n import tr as _

from MPERTrainerLib.engine_session import Session
from MPERTrainerLib.job_button import JobButton
from MPERTrainerLib.tables import Table


class NextCasePanel:
    """The unlabelled cases in the order in which they are worth labelling.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    openCase : callable
        Opens a case by its id.
    """

    def __init__(self, ui, session: Session, openCase):
        self.ui, self.session, self._open = ui, session, openCase
        self._ranked: list[dict] = []
        self._dataset: str | None = None
        self.job = JobButton(session, ui.rankButton, ui.rankProgress)
        self.table = Table(ui.nextTable, stretched=1)
        ui.rankButton.connect("clicked()", callbacks.slot(self.rank))
        ui.labelNextButton.connect("clicked()", callbacks.slot(self.label))
        ui.skipButton.connect("clicked()", callbacks.slot(self.skip))
        ui.unskipButton.connect("clicked()", callbacks.slot(self.bringBack))
        ui.nextTable.connect("itemSelectionChanged()", callbacks.slot(self._enable))
        ui.nextTable.connect("cellDoubleClicked(int,int)", callbacks.slot(lambda _row, _column: self.label()))
        session.onChange(self.update)

    def update(self) -> None:
        """Take over what the session knows: what has been labelled meanwhile leaves the list."""
        dataset = self.session.dataset["id"] if self.session.dataset else None
        if dataset != self._dataset:
            self._dataset, self._ranked = dataset, []
        self.ui.nextSection.enabled = dataset is not None
        self._show()

    def rank(self) -> None:
        """Start ranking, or cancel it."""
        if self.job.running:
            self.job.cancel()
            return

        def done(result: dict, _job: str, notices: list[str]) -> None:
            self._ranked = result["cases"]
            self.session.tell("\n".join(notices))
            self._show()
            if self.table.keys:
                self.table.select(self.table.keys[0])
            self.session.refresh()  # the predictions' confidence is known now

        body = {"model": self.session.modelInUse(), "device": "auto"}
        self.job.start(self.session.path("rank"), body, done)

    def label(self) -> None:
        """Open the selected case, the first one where none is selected."""
        case = self.table.selected() or (self.table.keys[0] if self.table.keys else None)
        if case:
            self._open(case)

    def skip(self) -> None:
        """Put the selected case at the end."""
        case = self.table.selected()
        if case:
            row = self.table.keys.index(case)
            self._keep([*(c for c in self.skipped() if c != case), case])
            self._show()
            if row < len(self.table.keys):
                self.table.select(self.table.keys[row])

    def bringBack(self) -> None:
        """Put what was skipped back in its place."""
        self._keep([])
        self._show()

    def skipped(self) -> list[str]:
        """The skipped cases of this dataset, in the order of skipping; kept with the scene."""
        try:
            kept = json.loads(self.session.recall("Skipped") or "{}")
        except ValueError:  # a scene that somebody changed by hand
            kept = {}
        return [str(case) for case in kept.get(self._dataset, [])] if isinstance(kept, dict) else []

    def _keep(self, cases: list[str]) -> None:
        self.session.remember("Skipped", json.dumps({self._dataset: cases}))

    def _show(self) -> None:
        unlabelled = {case["id"] for case in self.session.cases if not case["labelled"]}
        waiting = [case for case in self._ranked if case["id"] in unlabelled]
        skipped = self.skipped()
        first = [case for case in waiting if case["id"] not in skipped]
        later = [case for name in skipped for case in waiting if case["id"] == name]
        rows = [(case["id"], [case["id"], case["words"]], {}, case["words"]) for case in first]
        for case in later:
            words = _("skipped; {words}").format(words=case["words"])
            rows.append((case["id"], [case["id"], words], {0: "#808080", 1: "#808080"}, words))
        self.table.fill(rows)
        self.ui.nextTable.resizeRowsToContents()
        ui = self.ui
        if not unlabelled:
            text = _("Every case of this dataset has a label.")
        elif rows:
            text = _("Cases without a label: {n}, the most instructive first.").format(n=len(rows))
        else:
            text = _("Cases without a label: {n}.").format(n=len(unlabelled))
        ui.nextLabel.text = text
        ui.rankButton.enabled = self.job.running or bool(unlabelled)
        ui.nextTable.visible = bool(rows)
        ui.unskipButton.visible = bool(later)
        self._enable()

    def _enable(self) -> None:
        self.ui.labelNextButton.visible = self.ui.skipButton.visible = bool(self.table.keys)
        self.ui.skipButton.enabled = self.table.selected() is not None
