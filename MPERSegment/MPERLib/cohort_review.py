"""The review of a cohort's masks: one after the other into the views, accepted, corrected or rejected."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MPERLib import formatting, settings
from MPERLib.callbacks import slot
from MPERLib.cohort_table import CohortTable
from MPERLib.cohort_tracker import CohortTracker
from MPERLib.cohort_views import CohortViews
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.questions import agreed
from MPERLib.segment_editor import SegmentEditor
from MPERLib.widgets import reveal

_EDITOR_TAG = "MPERCohortEditor"
_SHOW_AFTER_MS = 150  # while an arrow key is held down
_SKIPPED_SHOWN = 3


class CohortReview:
    """Table, views and decisions.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    tracker : CohortTracker
    dataset : OpenDataset or None
        Accepted masks are kept as its labels.
    """

    def __init__(self, context: PanelContext, session: EngineSession, tracker: CohortTracker, dataset: Any):
        self._context, self._session, self._tracker, self._dataset = context, session, tracker, dataset
        self._shownRows: list[dict[str, Any]] | None = None
        self._cohort = ""
        self._busy = False
        self._job: Any = None
        self._active = False
        ui = context.ui
        self.table = CohortTable(ui, session, self._onSelected)
        self.views = CohortViews(session, tracker, self.show, context.showMessage)
        self.editor = SegmentEditor(ui.cohortEditorPlace, _EDITOR_TAG, segmentsFixed=True)
        self._rest: Any = qt.QTimer()
        self._rest.setSingleShot(True)
        self._rest.interval = _SHOW_AFTER_MS
        self._rest.connect("timeout()", slot(self._showSelected, "mask of a cohort"))
        ui.cohortAcceptButton.connect("clicked()", slot(lambda: self.decide("accepted")))
        ui.cohortRejectButton.connect("clicked()", slot(lambda: self.decide("rejected")))
        ui.cohortUndecideButton.connect("clicked()", slot(lambda: self.decide("open")))
        ui.cohortCorrectButton.connect("toggled(bool)", slot(self._onCorrect))
        ui.cohortPreviousButton.connect("clicked()", slot(lambda: self.table.step(-1)))
        ui.cohortNextButton.connect("clicked()", slot(lambda: self.table.step(1)))
        ui.cohortSaveButton.connect("clicked()", slot(self.save))
        ui.cohortDiscardButton.connect("clicked()", slot(self.discard))
        ui.cohortKeepButton.connect("clicked()", slot(self.keep))
        self._keys: list[tuple[Any, Any]] = []
        self.show()

    # ---- when the panel is looked at

    def activate(self, active: bool) -> None:
        """Take the keys, and give the editor the views, while the user looks at the section."""
        self._active = active
        if active and not self._keys:
            for keys, react in (
                ("Ctrl+Down", lambda: self.table.step(1)),
                ("Ctrl+Up", lambda: self.table.step(-1)),
                ("Ctrl+Return", lambda: self._key("cohortAcceptButton")),
                ("Ctrl+Backspace", lambda: self._key("cohortRejectButton")),
            ):
                self._keys.append(_shortcut(keys, react))
        elif not active:
            self._releaseKeys()
        if self._context.ui.cohortCorrectButton.checked and self.views.shown:
            self.editor.activate() if active else self.editor.deactivate()

    def _releaseKeys(self) -> None:
        for shortcut, called in self._keys:
            shortcut.disconnect("activated()", called)
            shortcut.deleteLater()
        self._keys = []

    def _key(self, button: str) -> None:
        widget = getattr(self._context.ui, button)
        if widget.enabled:
            widget.click()

    def leaveScene(self) -> None:
        """The scene is being closed."""
        self.editor.leaveScene()
        self.views.leaveScene()
        self.show()

    def close(self) -> None:
        """The module is being closed."""
        self._releaseKeys()
        self._rest.stop()
        self._rest = None  # its connection would keep this object alive
        self.editor.destroy()
        self.views.leaveScene()

    def engineLost(self) -> None:
        """The engine has stopped: its answers do not come, and what was not saved can be saved later."""
        self._busy, self._job = False, None
        self.table.engineLost()
        self.views.engineLost()
        self.show()

    def leaveAgreed(self) -> bool:
        """Whether the mask that is shown may go: it has no unsaved changes, or the user discards them."""
        if not self.views.edited:
            return True
        question = _("The correction of {name} is not saved. Discard it?").format(name=self._nameOf(self.views.row))
        return agreed(question, _("Discard changes"))

    # ---- what is shown

    def show(self) -> None:
        """Show table and buttons as cohort and views are now."""
        tracker, ui = self._tracker, self._context.ui
        if tracker.key != self._cohort:
            self._cohort = tracker.key
            self._endCorrection()
            self.views.forget()
        if tracker.rows is not self._shownRows:
            self._shownRows = tracker.rows
            self.table.take(tracker.key, tracker.rows, tracker.route)
        row = self._row()
        done = row is not None and row["state"] == "done"
        shown = done and self.views.shown and self.views.row == row["id"]
        for button in (ui.cohortAcceptButton, ui.cohortRejectButton):
            button.enabled = done and not self._busy and not (shown and self.views.edited)
        ui.cohortUndecideButton.enabled = done and not self._busy and row["decision"] != "open"
        ui.cohortCorrectButton.enabled = shown
        for button in (ui.cohortPreviousButton, ui.cohortNextButton):
            button.enabled = bool(self.table.keys)
        ui.cohortCorrectFrame.visible = shown and ui.cohortCorrectButton.checked
        ui.cohortSaveButton.enabled = ui.cohortDiscardButton.enabled = shown and self.views.edited and not self._busy
        ui.cohortDetailLabel.text = self._detail(row)
        self._showKeep()

    def _showKeep(self) -> None:
        ui, running = self._context.ui, self._job is not None
        ui.cohortKeepButton.visible = self._dataset is not None
        ui.cohortKeepProgress.visible = running
        if self._dataset is None:
            return
        accepted = sum(row["decision"] in ("accepted", "corrected") for row in self._tracker.rows)
        ui.cohortKeepButton.text = _("Cancel") if running else _("Keep accepted as labels")
        ui.cohortKeepButton.enabled = running or (bool(accepted) and self._dataset.id is not None)
        if not accepted:
            tip = _("Accept or correct some masks first.")
        elif self._dataset.id is None:
            tip = _("Open a dataset under Cases; the masks become its labels.")
        else:
            text = _("{n} accepted masks become labels of {name}. Scans of its hold-out set are left out.")
            tip = text.format(n=accepted, name=self._dataset.about["name"])
        ui.cohortKeepButton.toolTip = tip

    def _detail(self, row: dict[str, Any] | None) -> str:
        left_out = self.table.left_out
        if row is None:
            text = _("Click a row to see its mask.") if self.table.keys else ""
            if left_out:
                more = _("{n} more rows are not shown; choose a filter, or type a name.")
                text = f"{more.format(n=formatting.count(left_out))} {text}"
            return text
        if row["state"] == "failed":
            return _("{name} failed: {reason}").format(name=row["name"], reason=sentence(row["error"] or ""))
        if row["state"] == "waiting":
            return _("{name} is not segmented yet.").format(name=row["name"])
        volumes = ", ".join(f"{name} {formatting.millilitres(ml)}" for name, ml in row["volumes_ml"].items())
        parts = [volumes] if volumes else []
        if row["expected_dice"] is not None:
            parts.append(_("expected Dice {dice}").format(dice=formatting.number(row["expected_dice"])))
        lines = [f"{row['name']}: {', '.join(parts)}."]
        if row["flags"]:
            lines.append(sentence("; ".join(row["flags"])))
        if row["decision"] != "open":
            words = {"accepted": _("Accepted"), "corrected": _("Corrected"), "rejected": _("Rejected")}
            lines.append(_("{decision} by {author}.").format(decision=words[row["decision"]], author=row["author"]))
        if row["kept"]:
            lines.append(_("Label {revision} of {case} in {dataset}.").format(**row["kept"]))
        return "\n".join(lines)

    # ---- into the views

    def _row(self) -> dict[str, Any] | None:
        """The selected row."""
        selected = self.table.selected()
        return next((row for row in self._tracker.rows if row["id"] == selected), None)

    def _nameOf(self, row_id: str | None) -> str:
        return next((row["name"] for row in self._tracker.rows if row["id"] == row_id), "")

    def _onSelected(self, _key: str) -> None:
        self._context.clearMessage()
        self._rest.start()
        self.show()

    def _showSelected(self) -> None:
        row = self._row()
        if row is None or row["state"] != "done" or row["id"] == self.views.row:
            return
        if not self.leaveAgreed():
            self.table.select(self.views.row or "", quietly=True)
            self.show()
            return
        self._load(row)

    def _load(self, row: dict[str, Any]) -> None:
        self._endCorrection()
        self.views.show(row)
        self.show()

    # ---- decisions

    def decide(self, decision: str) -> None:
        """Accept or reject the selected mask, and show the next one; or take the decision back."""
        row = self._row()
        if row is None:
            return
        body = {"mask": row["id"], "decision": decision, "author": _author()}
        if self.views.shown and self.views.row == row["id"]:
            body["seconds"] = self.views.seconds
        self._send(
            lambda done, failed: self._session.post(self._tracker.route("reviews"), body, done, failed), decision
        )

    def _send(self, send: Callable[..., Any], decision: str) -> None:
        self._busy = True
        self._context.clearMessage()
        cohort = self._tracker.key

        def done(row: dict[str, Any]) -> None:
            self._busy = False
            if cohort == self._tracker.key:
                # the next one is chosen first: with a filter, the decided row may leave the table
                stays = decision not in ("accepted", "rejected") or self.table.selected() != row["id"]
                moved = not stays and self._selectNext()
                self._tracker.takeRow(row)
                if not moved:
                    self.show()

        def failed(message: str) -> None:
            if self._busy:  # else the engine was lost, which is said already
                self._busy = False
                self._context.showMessage(message)
                self.show()

        self.show()
        send(done, failed)

    def _selectNext(self) -> bool:
        return self.table.step(1, lambda row: row["state"] == "done" and row["decision"] == "open")

    # ---- a correction

    def _onCorrect(self, checked: bool) -> None:
        if checked and self.views.shown:
            self.editor.edit(self.views.segmentation, self.views.volume)
            self._session.later(self._showEditor, "mask of a cohort in the editor")
        else:
            self.editor.deactivate()
        self.show()

    def _showEditor(self) -> None:
        if self._context.ui.cohortCorrectButton.checked:
            self.editor.activate()
            reveal(self._context.ui.cohortCorrectFrame)

    def _endCorrection(self) -> None:
        ui = self._context.ui
        self.editor.deactivate()
        self.editor.release()
        ui.cohortCorrectButton.checked = False

    def save(self) -> None:
        """Save the edited mask."""
        if self.views.shown:
            self._send(lambda done, failed: self.views.save(_author(), done, failed), "corrected")

    def discard(self) -> None:
        """Show the mask as it was saved last."""
        row = self._row()
        if row is not None and self.leaveAgreed():
            self._load(row)

    # ---- labels

    def keep(self) -> None:
        """Keep the accepted masks as labels of the dataset; cancel that while it is under way."""
        if self._job is not None:
            self._job.cancel()
            return
        self._context.clearMessage()
        ui = self._context.ui
        ui.cohortKeepProgress.maximum, ui.cohortKeepProgress.value = 0, 0
        body = {"dataset": self._dataset.id, "author": _author()}

        def ended() -> None:
            self._job = None
            self._tracker.refresh()
            self._dataset.refresh()
            self.show()

        def done(result: dict[str, Any]) -> None:
            ended()
            self._context.showMessage(_keptText(result, self._nameOf))
            self._session.later(lambda: reveal(ui.messageFrame), "message shown")

        def failed(message: str) -> None:
            ended()
            self._context.showMessage(message)

        def progress(event: dict[str, Any]) -> None:
            if event.get("fraction") is not None:
                ui.cohortKeepProgress.maximum = 1000
                ui.cohortKeepProgress.value = round(1000 * event["fraction"])

        self._job = self._session.job(self._tracker.route("keep"), body, done, failed, progress, ended)
        self.show()


def _keptText(result: dict[str, Any], nameOf: Callable[[str], str]) -> str:
    text = _("{n} masks are labels now.").format(n=len(result["kept"]))
    if result["before"]:
        text += " " + _("{n} were labels before.").format(n=result["before"])
    skipped = result["skipped"]
    for one in skipped[:_SKIPPED_SHOWN]:
        left_out = _("{name} is left out: {reason}").format(name=nameOf(one["mask"]), reason=one["reason"])
        text += " " + sentence(left_out)
    if len(skipped) > _SKIPPED_SHOWN:
        text += " " + _("{n} more are left out.").format(n=len(skipped) - _SKIPPED_SHOWN)
    return text


def _author() -> str:
    """Who decides: the author of labels, else the name of the user's account."""
    try:
        return settings.setting(settings.AUTHOR_KEY) or getpass.getuser() or "unknown"
    except (OSError, KeyError):  # no name in the environment, as in some kiosks
        return "unknown"


def _shortcut(keys: str, react: Callable[[], object]) -> tuple[Any, Any]:
    shortcut = qt.QShortcut(qt.QKeySequence(keys), slicer.util.mainWindow())
    called = slot(react, f"key {keys}")
    shortcut.connect("activated()", called)
    return shortcut, called
