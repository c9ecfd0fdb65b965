"""Section Cohort of both modules: a model is run over many scans in the background, and the masks are reviewed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MPERLib import callbacks, formatting, licences, settings
from MPERLib.callbacks import slot
from MPERLib.cohort_review import CohortReview
from MPERLib.cohort_tracker import CohortTracker, recent
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import chosen, fill_box, show_notes

_NEW, _FOLDER, _DATASET = "", "folder", "dataset"
_BY_ID, _BY_FOLDER = "id:", "folder:"
_FAILED_SHOWN = 2
_UI = Path(__file__).resolve().parents[1] / "Resources" / "UI" / "MPERCohort.ui"


def add_section(uiWidget: Any, before: Any) -> None:
    """Add the section to a module's panel, before one of its widgets, or its last spacer (None)."""
    section = slicer.util.loadUI(str(_UI))
    layout = uiWidget.layout()
    layout.insertWidget(layout.indexOf(before) if before is not None else layout.count() - 1, section)
    at = layout.indexOf(section)
    if at > 0 and layout.itemAt(at - 1).widget() is not None:
        _tab_after(layout.itemAt(at - 1).widget(), section)
    # CTK's own policy widens the whole panel to the preferred width of what a section shows
    section.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Preferred)


def _tab_after(before: Any, section: Any) -> None:
    """Let the key Tab go from a section to the one below: Qt goes by the order in which they were made."""

    def taking(widget: Any) -> list[Any]:
        """A section and what it holds that takes keys; lists that pop up are windows of their own."""
        every = [widget, *widget.findChildren(qt.QWidget)]
        return [each for each in every if each.focusPolicy != qt.Qt.NoFocus and each.window() == section.window()]

    for one, other in pairwise([taking(before)[-1], *taking(section)]):
        qt.QWidget.setTabOrder(one, other)


class CohortPanel:
    """Starts and follows a cohort; `CohortReview` shows its masks.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset or None
        The dataset whose unlabelled cases can be segmented, and that accepted masks are kept in.
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: Any = None):
        self._context, self._session, self._dataset = context, session, dataset
        self._of: list[dict[str, Any]] = []  # cohorts of the dataset
        self._ofDataset: str | None = None
        self._entered = False
        self._reopened = False
        self._engineState = ""
        self.tracker = CohortTracker(session, self.show, context.showMessage)
        self.review = CohortReview(context, session, self.tracker, dataset)
        ui = context.ui
        sources = [(_FOLDER, _("A folder of scans"))]
        if dataset is not None:
            sources.append((_DATASET, _("The unlabelled cases of the dataset")))
            dataset.onChange(self._onDataset)
        fill_box(ui.cohortSourceBox, sources, _FOLDER)
        for widget in (ui.cohortSourceBox, ui.cohortSourceTitle):
            widget.visible = dataset is not None
        ui.cohortSourceBox.connect("currentIndexChanged(int)", slot(self.show))
        ui.cohortSelector.connect("currentIndexChanged(int)", slot(self._onChosen))
        ui.cohortFolderEdit.connect("textChanged(QString)", slot(self.show))
        ui.cohortOutEdit.connect("textChanged(QString)", slot(self.show))
        ui.cohortFolderButton.connect("clicked()", slot(self._askScans))
        ui.cohortOutButton.connect("clicked()", slot(self._askOut))
        ui.cohortOpenButton.connect("clicked()", slot(self._askCohort))
        ui.cohortStartButton.connect("clicked()", slot(self.start))
        ui.cohortPauseButton.connect("clicked()", slot(self.pauseOrResume))
        ui.cohortSection.connect("contentsCollapsed(bool)", slot(self._onCollapsed))
        session.onChange(self._onEngine)
        show_notes(ui.cohortNotes, ())
        self._fillSelector()
        self.show()

    # ---- when the panel is looked at

    @property
    def _open(self) -> bool:
        return self._entered and not self._context.ui.cohortSection.collapsed

    def enter(self) -> None:
        """The user opens the module."""
        self._entered = True
        self._onCollapsed()

    def leave(self) -> None:
        """The user goes to another module; a run continues."""
        self._entered = False
        self._onCollapsed()

    def _onCollapsed(self, *_collapsed: object) -> None:
        self.tracker.watch(self._open)
        self.review.activate(self._open)
        if self._open:
            self._readDataset()
            self._reopen()
            self.show()

    def _reopen(self) -> None:
        """Show the last cohort, once after Slicer has started: its run continued meanwhile, or can be resumed."""
        last = recent()[:1]
        if self._reopened or not self._session.running:
            return
        self._reopened = True
        if last and not self.tracker.status and not self._session.engine.isRemote:
            self.tracker.open(last[0], lambda _message: None)

    def reset(self) -> None:
        """The scene was closed."""
        self.review.leaveScene()

    def close(self) -> None:
        """The module is being closed; a run continues."""
        self.tracker.stop()
        self.review.close()

    # ---- engine and dataset

    def _onEngine(self) -> None:
        state = self._session.engine.state
        if state != self._engineState:
            self._engineState = state
            self.tracker.engineChanged()
            if not self._session.running:
                self.review.engineLost()
        if self._open:
            self._reopen()
        self.show()

    def _onDataset(self) -> None:
        if self._open:
            self._readDataset()
        self.show()

    def _readDataset(self) -> None:
        """Read which cohorts the dataset has."""
        of = self._dataset.id if self._dataset is not None else None
        if of == self._ofDataset or not self._session.running:
            return
        self._ofDataset, self._of = of, []
        show_notes(self._context.ui.cohortNotes, ())
        if of is None:
            self._fillSelector()
            return

        def take(cohorts: list[dict[str, Any]], notes: list[str]) -> None:
            if of == self._ofDataset:  # else another dataset was opened meanwhile
                self._of = cohorts
                show_notes(self._context.ui.cohortNotes, notes)
                self._fillSelector()

        self._session.getList(f"/cohorts?dataset={of.replace('/', '~')}", take, self._context.showMessage)

    # ---- which cohort

    def _fillSelector(self) -> None:
        inside = [(_BY_ID + each["id"], _title(each["folder"])) for each in self._of]
        known = {each["folder"] for each in self._of}
        others = [(_BY_FOLDER + folder, _title(folder)) for folder in recent() if folder not in known]
        entries = [(_NEW, _("New cohort\N{HORIZONTAL ELLIPSIS}")), *inside, *others]
        fill_box(self._context.ui.cohortSelector, entries, self._keyOf(self.tracker.status))

    def _keyOf(self, status: dict[str, Any]) -> str:
        if not status:
            return _NEW
        inside = any(each["id"] == status["id"] for each in self._of)
        return _BY_ID + status["id"] if inside else _BY_FOLDER + status["folder"]

    def _onChosen(self, *_index: object) -> None:
        self._context.clearMessage()
        key = chosen(self._context.ui.cohortSelector)
        if key == self._keyOf(self.tracker.status):
            return
        if not self.review.leaveAgreed():
            self._fillSelector()
        elif key.startswith(_BY_ID):
            self.tracker.openId(key.removeprefix(_BY_ID))
        elif key.startswith(_BY_FOLDER):
            self.open(key.removeprefix(_BY_FOLDER))
        else:
            self.tracker.close()

    def open(self, folder: str) -> None:
        """Show the cohort in a folder of results."""

        def failed(message: str) -> None:
            self._context.showMessage(message)
            self._fillSelector()

        self.tracker.open(folder, failed)

    def _askCohort(self) -> None:
        folder = _askFolder(_("Open the results of a cohort"), self._context.ui.cohortOutEdit.text)
        if folder and self.review.leaveAgreed():
            self.open(folder)

    # ---- a new one

    def _askScans(self) -> None:
        folder = _askFolder(_("Folder of scans"), self._context.ui.cohortFolderEdit.text)
        if folder:
            self._context.ui.cohortFolderEdit.text = folder
            if not str(self._context.ui.cohortOutEdit.text).strip():
                self._context.ui.cohortOutEdit.text = str(_proposed(Path(folder)))

    def _askOut(self) -> None:
        folder = _askFolder(_("Folder for the results"), self._context.ui.cohortOutEdit.text)
        if folder:
            self._context.ui.cohortOutEdit.text = folder

    def start(self) -> None:
        """Segment all scans in the background."""
        ui = self._context.ui
        self._context.clearMessage()
        model = self._session.model(chosen(ui.cohortModelBox))
        if model is None:
            return
        if not licences.acknowledged(model):
            self._context.showMessage(_("Nothing was segmented: the terms of use of the model are not acknowledged."))
            return
        body: dict[str, Any] = {"model": model["id"]}
        if chosen(ui.cohortSourceBox) == _DATASET:
            body["dataset"] = self._dataset.id
        else:
            body |= {"folder": str(ui.cohortFolderEdit.text).strip(), "out": str(ui.cohortOutEdit.text).strip()}
        ui.cohortStartButton.enabled = False

        def started() -> None:
            self._ofDataset = None
            self._readDataset()
            self._fillSelector()

        def failed(message: str) -> None:
            self._context.showMessage(message)
            self.show()

        self._reopened = True
        self.tracker.start(body, started, failed)

    def _whyNot(self) -> str:
        """Why nothing can be started; empty where it can."""
        ui = self._context.ui
        if not self._session.ready:
            return _("The engine is not ready yet.")
        if chosen(ui.cohortSourceBox) == _DATASET:
            return "" if self._dataset.id else _("Open a dataset under Cases.")
        if self._session.engine.isRemote:
            return _("A remote engine cannot read folders of this computer. Segment the cases of a dataset.")
        scans, out = str(ui.cohortFolderEdit.text).strip(), str(ui.cohortOutEdit.text).strip()
        if not scans:
            return _("Choose the folder of scans.")
        if not Path(scans).is_absolute() or not Path(scans).is_dir():
            return _("The folder of scans does not exist. Choose another.")
        if not out:
            return _("Choose a folder for the results.")
        return "" if Path(out).is_absolute() else _("The folder for the results must be a whole path.")

    # ---- the run

    def pauseOrResume(self) -> None:
        """Pause the run at its next step, or go on with it."""
        self._context.clearMessage()
        ui = self._context.ui
        ui.cohortPauseButton.enabled = False

        def failed(message: str) -> None:
            self._context.showMessage(message)
            self.show()

        self.tracker.command("pause" if self.tracker.active else "resume", self.show, failed)

    # ---- what is shown

    def show(self, *_changed: object) -> None:
        """Show the state of the cohort."""
        ui, status = self._context.ui, self.tracker.status
        if status and status["state"] == "failed" and not status["scans"]:
            self.tracker.close()  # and with it the form is shown again, to be corrected
            self._context.showMessage(status["message"])
            return
        if self._keyOf(status) != chosen(ui.cohortSelector):
            self._fillSelector()
        ui.cohortNewFrame.visible = not status
        ui.cohortRunFrame.visible = ui.cohortReviewFrame.visible = bool(status)
        if status:
            self._showRun(status)
        else:
            self._showForm()
        self.review.show()

    def _showForm(self) -> None:
        ui = self._context.ui
        folder = chosen(ui.cohortSourceBox) != _DATASET
        for widget in (ui.cohortFolderTitle, ui.cohortFolderEdit, ui.cohortFolderButton):
            widget.visible = folder
        for widget in (ui.cohortOutTitle, ui.cohortOutEdit, ui.cohortOutButton):
            widget.visible = folder
        models = [(model["id"], self._session.modelTitle(model)) for model in self._session.models]
        used = self._session.model(settings.modelInUse())
        if [key for key, _text in models] != [ui.cohortModelBox.itemData(n) for n in range(ui.cohortModelBox.count)]:
            fill_box(ui.cohortModelBox, models, chosen(ui.cohortModelBox) or (used or {}).get("id"))
        why = self._whyNot()
        ui.cohortStartButton.enabled = not why
        ui.cohortStartButton.toolTip = why or _("Segment all scans in the background; Slicer can be closed meanwhile")

    def _showRun(self, status: dict[str, Any]) -> None:
        ui = self._context.ui
        fraction = status["fraction"]
        ui.cohortProgress.maximum = 0 if status["state"] == "starting" else 1000
        ui.cohortProgress.value = round(1000 * (fraction or 0))
        unfinished = status["state"] != "finished"
        ui.cohortProgress.visible = unfinished
        ui.cohortPauseButton.visible = self.tracker.active or status["resumable"]
        ui.cohortPauseButton.enabled = status["state"] != "starting" and not status["pausing"]
        if self.tracker.active:
            ui.cohortPauseButton.text = _("Pause")
            ui.cohortPauseButton.toolTip = _("Stop after this step; what is segmented stays")
        else:
            ui.cohortPauseButton.text = _("Resume") if unfinished else _("Try again")
            tip = _("Go on where it stopped") if unfinished else _("Segment the scans that failed again")
            ui.cohortPauseButton.toolTip = tip
        ui.cohortStateLabel.text = "\n".join([_stateText(status), *self._failedTexts(status)])
        ui.cohortStateLabel.toolTip = "\n".join(self._failedTexts(status, most=None))

    def _failedTexts(self, status: dict[str, Any], most: int | None = _FAILED_SHOWN) -> list[str]:
        if not status["failed"]:
            return []
        failed = [row for row in self.tracker.rows if row["state"] == "failed"]
        lines = [_("{name} failed: {reason}").format(name=r["name"], reason=_reason(r)) for r in failed[:most]]
        if most is not None and len(failed) > most:
            lines.append(_("{n} more failed; choose the filter Failed.").format(n=len(failed) - most))
        return lines


def _stateText(status: dict[str, Any]) -> str:
    counts = _("{done} of {scans} scans segmented").format(done=status["segmented"], scans=status["scans"])
    if status["failed"]:
        counts = _("{counts}, {n} failed").format(counts=counts, n=status["failed"])
    model = status["model"] or {}
    by = _("Model: {name} {version}.").format(**model) if model else ""
    if status["state"] == "starting":
        return _("Starting; the model is loaded.")
    if status["state"] == "running":
        if status["pausing"]:
            return _("{counts}. Pausing.").format(counts=counts)
        rest = formatting.remaining(status["eta_s"])
        return sentence(f"{counts}, {rest}" if rest else counts) if status["scans"] else _("The scans are being read.")
    texts = {
        "finished": _("{counts}. {by}"),
        "paused": _("Paused: {counts}."),
        "interrupted": _("The run has stopped unexpectedly: {counts}. Resume it."),
        "failed": _("The run has stopped: {message} {counts}."),
        "submitted": _("{counts}. Jobs are at work on a cluster; see mper cluster status."),
        "new": _("{counts}."),
    }
    text = texts[status["state"]].format(counts=counts, by=by, message=sentence(status["message"]))
    return " ".join(text.split())


def _reason(row: dict[str, Any]) -> str:
    """The reason of a failure, with the name of the scan in place of its path."""
    return sentence(str(row["error"] or "").replace(row["scan"], re.split(r"[/\\]", row["scan"])[-1]))


def _title(folder: str) -> str:
    """``results (study)``: a folder with the one that it lies in, or with its dataset."""
    parts = [part for part in re.split(r"[/\\]", folder) if part]
    if parts[-2:-1] == ["cohorts"] and len(parts) > 2:
        del parts[-2]
    return f"{parts[-1]} ({parts[-2]})" if len(parts) > 1 else folder


def _proposed(scans: Path) -> Path:
    """A folder for the results next to the scans."""
    return scans.with_name(f"{scans.name} masks")


def _askFolder(title: str, start: str) -> str:
    with callbacks.dialog():
        return str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, str(start)) or "")
