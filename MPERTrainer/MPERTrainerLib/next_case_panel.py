"""Panel Next case: the unlabelled cases, ranked by how unsure the model is and how unusual they are."""

from __future__ import annotations

from collections.abc import Callable

from MPERLib.callbacks import slot
from MPERLib.engine_session import AUTO, EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Cell, Table
from slicer.i18n import tr as _

from MPERTrainerLib.job_button import JobButton
from MPERTrainerLib.open_dataset import OpenDataset

_SKIPPED = "#808080"


class NextCasePanel:
    """The ranked list of unlabelled cases.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    openCase : callable
        Opens a case by its id.
    """

    def __init__(
        self, context: PanelContext, session: EngineSession, dataset: OpenDataset, openCase: Callable[[str], None]
    ):
        self._context, self._dataset, self._open = context, dataset, openCase
        self._ranked: list[dict] = []
        self._rankedOf: str | None = None
        ui = context.ui
        self._job = JobButton(context, session, dataset, ui.rankButton, ui.rankProgress)
        self.table = Table(ui.nextTable, stretched=1, shortest=0)
        ui.rankButton.connect("clicked()", slot(self.rank))
        ui.labelNextButton.connect("clicked()", slot(self.label))
        ui.skipButton.connect("clicked()", slot(self.skip))
        ui.unskipButton.connect("clicked()", slot(self.restoreSkipped))
        ui.nextTable.connect("itemSelectionChanged()", slot(self._enable))
        ui.nextTable.connect("cellDoubleClicked(int,int)", slot(lambda _row, _column: self.label()))
        dataset.onChange(self.update)

    def update(self) -> None:
        """The dataset has changed: cases that were labelled meanwhile leave the list."""
        if self._dataset.id != self._rankedOf:
            self._rankedOf, self._ranked = self._dataset.id, []
        self._context.ui.nextSection.enabled = self._dataset.id is not None
        self._show()

    def rank(self) -> None:
        """Start the ranking, or cancel it."""
        if self._job.running:
            self._job.cancel()
            return
        of = self._dataset.id

        def done(result: dict, _job: str, notices: list[str]) -> None:
            if self._dataset.id != of:  # another one was opened meanwhile
                return
            self._ranked = [{**case, "words": sentence(case["words"])} for case in result["cases"]]
            self._context.showMessage("\n".join(notices))
            self._show()
            if self.table.keys:
                self.table.select(self.table.keys[0])
            self._dataset.refresh()  # the confidence of the cases is known now

        self._job.start(self._dataset.route("rank"), {"model": self._dataset.modelInUse(), "device": AUTO}, done)

    def label(self) -> None:
        """Open the selected case, the first one if none is selected."""
        case = self.table.selected() or (self.table.keys[0] if self.table.keys else None)
        if case:
            self._open(case)

    def skip(self) -> None:
        """Move the selected case to the end."""
        case = self.table.selected()
        if case:
            row = self.table.keys.index(case)
            self._store([*(c for c in self._skipped() if c != case), case])
            self._show()
            if row < len(self.table.keys):
                self.table.select(self.table.keys[row])

    def restoreSkipped(self) -> None:
        """Move skipped cases back to their ranks."""
        self._store([])
        self._show()

    def _skipped(self) -> list[str]:
        parameters = self._context.parameters
        return parameters.skippedCases(self._dataset.id) if parameters is not None else []

    def _store(self, cases: list[str]) -> None:
        if self._context.parameters is not None:
            self._context.parameters.setSkippedCases(self._dataset.id, cases)

    def _show(self) -> None:
        unlabelled = self._dataset.count - self._dataset.labelled
        waiting = [each for each in self._ranked if self._waits(each["id"])]
        skipped = self._skipped()
        first = [case for case in waiting if case["id"] not in skipped]
        last = [case for name in skipped for case in waiting if case["id"] == name]
        rows: list[list] = [[case["id"], case["words"]] for case in first]
        for case in last:
            reason = _("skipped; {reason}").format(reason=case["words"])
            rows.append([Cell(case["id"], colour=_SKIPPED), Cell(reason, colour=_SKIPPED)])
        self.table.fill(rows, [case["id"] for case in (*first, *last)], [case["words"] for case in (*first, *last)])
        ui = self._context.ui
        if not unlabelled:
            text = _("All cases of this dataset are labelled.")
        elif rows:
            text = _("Unlabelled cases: {n}, ranked.").format(n=len(rows))
        else:
            text = _("Unlabelled cases: {n}.").format(n=unlabelled)
        ui.nextLabel.text = text
        ui.rankButton.enabled = self._job.running or bool(unlabelled)
        ui.nextTable.visible = bool(rows)
        ui.unskipButton.visible = bool(last)
        self._enable()

    def _waits(self, case: str) -> bool:
        """Whether a case is there and has no label, as far as the list of cases was read."""
        entry = self._dataset.case(case)
        if entry is None:
            return bool(self._dataset.filter) or not self._dataset.complete
        return not entry["labelled"]

    def _enable(self) -> None:
        ui = self._context.ui
        ui.labelNextButton.visible = ui.skipButton.visible = bool(self.table.keys)
        ui.skipButton.enabled = self.table.selected() is not None
