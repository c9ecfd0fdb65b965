"""Panel Training runs: the runs of the dataset, the curves of one, and the buttons that pause, resume and cancel it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from MPERLib import engine_words, formatting
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import chosen, fill_box
from slicer.i18n import tr as _

from MPERTrainerLib.chart import Chart
from MPERTrainerLib.open_dataset import OpenDataset
from MPERTrainerLib.run_curves import RunCurves, RunOverlay

_STATUS_MS = 15000  # how long the status bar shows that a run has ended
_POLL_MS = 1000
_LATE_S = 10.0  # after a command, from which on the panel says what the run waits for
_ACTIVE = ("starting", "running", "paused")


class RunsPanel:
    """Shows one training run. The run is a process of its own, which continues without Slicer.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    finished : callable
        Called with the status of a run that has just published a version.
    """

    def __init__(
        self, context: PanelContext, session: EngineSession, dataset: OpenDataset, finished: Callable[[dict], None]
    ):
        self._context, self._session, self._dataset, self._finished = context, session, dataset, finished
        self.status: dict = {}
        self._run: str | None = None
        self._of: str | None = None  # the dataset of the run; a copy of it has runs of the same ids
        self._seen = 0  # events received, to continue from there
        self._curves = RunCurves()
        self._stream: Any = None
        self._waiting = False
        self._polling = False
        self._asked, self._askedAt = "", 0.0  # the command that the run has not followed yet, and when it was given
        self._titles: list[tuple[str, str]] = []
        self._states: dict[str, str] = {}  # of the other runs of the dataset that were active
        self.lossChart = Chart(_("Training loss by step"), "MPERTrainingLoss")
        self.diceChart = Chart(_("Dice on the hold-out set by step"), "MPERHoldoutDice", limits=(0.0, 1.0))
        ui = context.ui
        for chart in (self.lossChart, self.diceChart):
            ui.chartPlace.layout().addWidget(chart.widget)
        self.overlay = RunOverlay(session, dataset, ui.chartPlace, self._draw)
        self._timer = qt.QTimer()
        self._timer.interval = _POLL_MS
        self._timer.connect("timeout()", slot(self._onTimer))
        ui.runSelector.connect("currentIndexChanged(int)", slot(lambda _index: self.watch(chosen(ui.runSelector))))
        for button, command in (
            (ui.pauseButton, "pause"),
            (ui.resumeButton, "resume"),
            (ui.cancelButton, "cancel"),
        ):
            button.connect("clicked()", slot(lambda command=command: self.send(command), f"run {command}"))
        ui.logButton.connect("clicked()", slot(self.showLog))
        dataset.onChange(self.update)
        dataset.onLost(self._onLost)

    # ---- which run

    def update(self) -> None:
        """The dataset has changed: show its newest run, or the one that was chosen before."""
        runs = sorted(
            (self._dataset.about or {}).get("runs", []), key=lambda run: run.get("started") or "", reverse=True
        )
        if self._dataset.id != self._of:
            self._of, self._run = self._dataset.id, None
            self.overlay.offer([], None)
        self._context.ui.runBox.visible = bool(runs)
        if not runs:
            self.watch(None)
            return
        known = [run["run"] for run in runs]
        active = [run for run in runs if run.get("state") in _ACTIVE and run.get("alive") is not False]
        self._states = {run["run"]: run["state"] for run in active}
        parameters = self._context.parameters
        wanted = self._run or (parameters.Run if parameters is not None else "")
        wanted = wanted if wanted in known else known[0]
        titles = [(run["run"], _runTitle(run)) for run in runs]
        fill_box(self._context.ui.runSelector, titles, wanted)
        self._titles = titles
        self.overlay.offer(titles, wanted)
        if wanted != self._run:
            self.watch(wanted)
            self._take(runs[known.index(wanted)])

    def watch(self, run: str | None) -> None:
        """Show a run by its id, or none."""
        if self._stream is not None:
            self._stream.abort()
            self._stream = None
        self._run, self._seen, self.status = run, 0, {}
        self._curves = RunCurves()
        self._waiting, self._asked = False, ""
        self._context.ui.logText.visible = self._context.ui.logButton.checked = False
        if not run:
            self._timer.stop()
            return
        self.overlay.offer(self._titles, run)
        if self._context.parameters is not None:
            self._context.parameters.Run = run
        self._polling = True
        self._follow()
        self._poll()
        self._timer.start()

    def _onLost(self) -> None:
        self._stream, self._waiting = None, False  # followed again as soon as the engine runs

    # ---- events and status

    def _follow(self) -> None:
        run = self._run
        path = self._dataset.route("runs", run, "events", **{"from": self._seen})

        def event(entry: dict) -> None:
            if run != self._run:
                return
            self._seen = entry.get("n", self._seen) + 1
            self._curves.note(entry)

        def gone(_answer: object) -> None:
            if run == self._run:
                self._stream = None  # the next poll follows again if the run is still active

        self._stream = self._session.follow(path, event, gone, gone)

    def _onTimer(self) -> None:
        self._draw()  # after the scene was closed
        if self._polling:
            self._poll()
        if self._session.running:
            for run in self._states:
                if run != self._run:
                    path = self._dataset.route("runs", run)
                    self._session.get(path, self._takeOther, lambda _message: None)

    def _takeOther(self, status: dict) -> None:
        """The status of a run that is not shown: say when it ends, fails or pauses."""
        before = self._states.get(status["run"])
        if before is not None and before != status.get("state"):
            self._states[status["run"]] = status["state"]
            self._tell(status)
            self._dataset.refresh()

    def _tell(self, status: dict) -> None:
        """Say in the panel and in the status bar, wherever the user is, what became of a run."""
        text = _("The training {run} is now: {state}.").format(
            run=status.get("name") or status.get("run"), state=formatting.run_state(status)
        )
        slicer.util.showStatusMessage(text, _STATUS_MS)
        if not status.get("model"):  # a version is told with what to do about it
            self._context.showMessage(text)

    def _poll(self) -> None:
        if not self._run or not self._session.running or self._waiting:
            return
        run, self._waiting = self._run, True

        def take(status: dict) -> None:
            self._waiting = False
            if run == self._run:
                self._take(status)

        def failed(_message: str) -> None:
            self._waiting = False

        self._session.get(self._dataset.route("runs", run), take, failed)

    def _take(self, status: dict) -> None:
        before, self.status = self.status, status
        if before.get("state") != status.get("state"):
            self._asked = ""
        self._show()
        active = self.active
        if active and self._stream is None:
            self._follow()
        self._polling = active or self._stream is not None
        if before and before.get("state") != status.get("state"):
            if status.get("state") not in ("running", "starting"):
                self._tell(status)
            if status.get("state") == "finished":
                self._finished(status)
            self._dataset.refresh()

    @property
    def active(self) -> bool:
        """Whether the run has a process, working or paused."""
        return self.status.get("state") in _ACTIVE and self.status.get("alive") is not False

    def _show(self) -> None:
        ui, status, active = self._context.ui, self.status, self.active
        ui.runLabel.text = self._text()
        fraction = status.get("fraction")
        busy = active and fraction is None
        ui.runProgress.maximum = 0 if busy else 1000
        if not busy:
            ui.runProgress.value = round(1000 * (fraction or 0))
        paused = status.get("state") == "paused"
        ui.pauseButton.visible = active and not paused
        ui.resumeButton.visible = paused or (not active and status.get("state") not in ("finished", None))
        ui.pauseButton.enabled = not self._asked
        ui.cancelButton.enabled = active and self._asked != "cancel"
        self._draw()

    def _text(self) -> str:
        """What the run does, how far it is, and why it ended."""
        status, active = self.status, self.active
        state, message = status.get("state"), status.get("message")
        tells = state == "starting" or (state == "running" and message not in ("running", "training"))
        parts = [engine_words.progress(message) if message and tells else formatting.run_state(status)]
        if self._asked and active:
            parts = [self._askedText(status)]
        if status.get("step"):
            parts.append(_("step {step}").format(step=status["step"]))
        steps = message in (None, "", "training", "self-training")  # what the time left is known of
        if active and steps and state != "paused" and status.get("eta_s"):
            parts.append(formatting.remaining(status["eta_s"]))
        if status.get("version"):
            parts.append(_("saved as {name}, version {version}").format(**status))
        text = ", ".join(parts)
        text = text[:1].upper() + text[1:]
        if state in ("failed", "interrupted") and message:
            return f"{text}. {formatting.sentence(engine_words.progress(message))}"
        return text

    def _askedText(self, status: dict) -> str:
        """That the run follows a command after its step; what it waits for where that takes longer."""
        if time.monotonic() - self._askedAt < _LATE_S:
            return {"pause": _("pausing after this step"), "cancel": _("cancelling after this step")}[self._asked]
        text = {"pause": _("{what}; pausing once this is done"), "cancel": _("{what}; cancelling once this is done")}
        return text[self._asked].format(what=engine_words.progress(status.get("message") or _("one step")))

    def _draw(self) -> None:
        notices = [f"\N{BULLET} {formatting.sentence(line)}" for line in self._curves.notices]
        label = self._context.ui.runNotices
        label.text, label.toolTip = "\n".join(formatting.first_lines(notices)), "\n".join(notices)
        label.visible = bool(notices)
        self.lossChart.show({**self._curves.losses, **self.overlay.losses()})
        self.diceChart.show({**self._curves.dice, **self.overlay.dice()})

    # ---- commands

    def send(self, command: str) -> None:
        """Pause, resume or cancel the run."""
        run = self._run
        if not run:
            return
        if command == "resume" and self.status.get("state") == "paused" and self.active:
            command = "run"

        def done(_answer: object) -> None:
            self._polling = True
            self._poll()

        def failed(message: str) -> None:
            if run == self._run:
                self._asked = ""
                self._show()
            self._context.showMessage(message)

        self._context.clearMessage()
        self._asked, self._askedAt = (command if command in ("pause", "cancel") else ""), time.monotonic()
        self._show()
        self._session.post(self._dataset.route("runs", run, "command"), {"command": command}, done, failed)

    def showLog(self) -> None:
        """Show or hide the log of the run."""
        ui = self._context.ui
        ui.logText.visible = ui.logButton.checked
        run = self._run
        if not ui.logButton.checked or not run:
            return

        def show(text: str) -> None:
            if run != self._run:
                return
            ui.logText.plainText = text or _("The log is empty.")
            bar = ui.logText.verticalScrollBar()
            bar.value = bar.maximum

        self._session.getText(self._dataset.route("runs", run, "log"), show)

    def close(self) -> None:
        self._timer = None  # its connection would keep this object alive
        if self._stream is not None:
            self._stream.abort()
        self.overlay.close()
        for chart in (self.lossChart, self.diceChart):
            chart.close()


def _runTitle(run: dict) -> str:
    return _("{name}, {when}: {state}").format(
        name=run.get("name") or _("unnamed"),
        when=formatting.date_time(run.get("started")) or run["run"],
        state=formatting.run_state(run),
    )
