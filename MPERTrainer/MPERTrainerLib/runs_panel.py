"""The trainings of a dataset: found again, followed, steered."""

from __future__ import annotations

import qt
from MPERLib import callbacks
from slicer.i18n import tr as _

from MPERTrainerLib.chart import Chart
from MPERTrainerLib.engine_session import Session
from MPERTrainerLib.formatting import duration, moment, stateWords

_POLL_MS = 1000
_ACTIVE = ("starting", "running", "paused")
_LOSSES = {
    "loss": _("loss"),
    "labelled": _("labels"),
    "pseudo": _("pseudo-labels"),
    "prototype": _("prototypes"),
    "contrast": _("contrast"),
}


class RunsPanel:
    """Shows one run: its state, its curves, and the buttons that steer it.

    The run is a process of its own that Slicer only watches.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    finished : callable
        Called with the status of a run that has just published a version.
    """

    def __init__(self, ui, session: Session, finished):
        self.ui, self.session, self._finished = ui, session, finished
        self.status: dict = {}
        self._run: str | None = None
        self._seen = 0  # events taken over, to go on from there
        self._losses: dict[str, list] = {}
        self._dice: dict[str, list] = {}
        self._stream = None
        self._filling = False
        self._waiting = False
        self._polling = False
        self.lossChart = Chart(_("Loss, by training step"))
        self.diceChart = Chart(_("Dice on the hold-out, by training step"), top=1.0)
        place = ui.chartPlace.layout()
        place.addWidget(self.lossChart.widget)
        place.addWidget(self.diceChart.widget)
        self._timer = qt.QTimer()
        self._timer.interval = _POLL_MS
        self._timer.connect("timeout()", callbacks.slot(self._beat))
        ui.runSelector.connect("currentIndexChanged(int)", callbacks.slot(self._chosen))
        for button, command in (
            (ui.pauseButton, "pause"),
            (ui.resumeButton, "resume"),
            (ui.cancelButton, "cancel"),
        ):
            button.connect("clicked()", callbacks.slot(lambda command=command: self.steer(command), f"run {command}"))
        ui.logButton.connect("clicked()", callbacks.slot(self.showLog))
        session.onChange(self.update)
        session.onLost(self._lost)

    # ---- which run

    def update(self) -> None:
        """Find the dataset's runs again; the newest is shown, or the one chosen before."""
        runs = sorted(
            (self.session.dataset or {}).get("runs", []), key=lambda run: run.get("started") or "", reverse=True
        )
        self.ui.runBox.visible = bool(runs)
        if not runs:
            self.watch(None)
            return
        known = [run["run"] for run in runs]
        wanted = self._run or self.session.recall("Run")
        wanted = wanted if wanted in known else known[0]
        self._filling = True
        try:
            selector = self.ui.runSelector
            selector.clear()
            for run in runs:
                name = run.get("name") or _("unnamed")
                words = _("{name}, {when}: {state}")
                when = moment(run.get("started")) or run["run"]
                selector.addItem(words.format(name=name, when=when, state=stateWords(run)), run["run"])
            selector.currentIndex = known.index(wanted)
        finally:
            self._filling = False
        if wanted != self._run:
            self.watch(wanted)
            self._take(runs[known.index(wanted)])

    def _chosen(self, index: int) -> None:
        if not self._filling and index >= 0:
            self.watch(str(self.ui.runSelector.itemData(index)))

    def watch(self, run: str | None) -> None:
        """Follow a run by its id, or none."""
        if self._stream is not None:
            self._stream.abort()
            self._stream = None
        self._run, self._seen, self.status = run, 0, {}
        self._losses, self._dice = {}, {}
        self._waiting = False
        self.ui.logText.visible = self.ui.logButton.checked = False
        if run is None:
            self._timer.stop()
            return
        self.session.remember("Run", run)
        self._polling = True
        self._follow()
        self._poll()
        self._timer.start()

    def _lost(self) -> None:
        self._stream, self._waiting = None, False  # followed again as soon as there is an engine

    # ---- what it tells

    def _follow(self) -> None:
        run = self._run
        route = self.session.path("runs", run, "events") + f"?from={self._seen}"

        def event(entry: dict) -> None:
            if run != self._run:
                return
            self._seen = entry.get("n", self._seen) + 1
            self._note(entry)

        def gone(_answer: object) -> None:
            if run == self._run:
                self._stream = None  # the next poll follows again if the run still lives

        self._stream = self.session.follow(route, event, gone, gone)

    def _note(self, event: dict) -> None:
        kind, step = event.get("event"), event.get("step")
        if kind == "step":
            for name in _LOSSES:
                if name in event:
                    _append(self._losses.setdefault(_LOSSES[name], []), step, event[name])
        elif kind == "holdout":
            for name, value in event["dice"].items():
                if value is not None:
                    _append(self._dice.setdefault(name, []), step, value)

    def _beat(self) -> None:
        self._draw()  # the panel may have become wider
        if self._polling:
            self._poll()

    def _poll(self) -> None:
        if not self._run or not self.session.ready or self._waiting:
            return
        run, self._waiting = self._run, True

        def take(status: dict) -> None:
            self._waiting = False
            if run == self._run:
                self._take(status)

        def failed(_message: str) -> None:
            self._waiting = False

        self.session.get(self.session.path("runs", run), take, failed)

    def _take(self, status: dict) -> None:
        before, self.status = self.status, status
        self._show()
        active = self.active
        if active and self._stream is None:
            self._follow()
        self._polling = active or self._stream is not None
        if before and before.get("state") != status.get("state"):
            if status.get("state") == "finished":
                self._finished(status)
            self.session.refresh()

    @property
    def active(self) -> bool:
        """Whether a process works on the run, or waits in a pause."""
        return self.status.get("state") in _ACTIVE and self.status.get("alive") is not False

    def _show(self) -> None:
        ui, status, active = self.ui, self.status, self.active
        parts = [stateWords(status)]
        if status.get("state") == "running" and status.get("message"):
            parts.append(status["message"])
        if status.get("step"):
            parts.append(_("step {step}").format(step=status["step"]))
        if active and status.get("state") != "paused" and status.get("eta_s"):
            parts.append(_("{time} left").format(time=duration(status["eta_s"])))
        if status.get("state") in ("failed", "interrupted") and status.get("message"):
            parts.append(status["message"])
        if status.get("version"):
            parts.append(_("saved as {name}, version {version}").format(**status))
        text = ", ".join(parts)
        ui.runLabel.text = text[:1].upper() + text[1:]
        fraction = status.get("fraction")
        busy = active and fraction is None
        ui.runProgress.maximum = 0 if busy else 1000
        if not busy:
            ui.runProgress.value = round(1000 * (fraction or 0))
        paused = status.get("state") == "paused"
        ui.pauseButton.visible = active and not paused
        ui.resumeButton.visible = paused or (not active and status.get("state") not in ("finished", None))
        ui.cancelButton.enabled = active
        self._draw()

    def _draw(self) -> None:
        self.lossChart.widget.visible = bool(self._losses)
        self.diceChart.widget.visible = bool(self._dice)
        self.lossChart.show(self._losses)
        self.diceChart.show(self._dice)

    # ---- steering

    def steer(self, command: str) -> None:
        """Pause, resume or cancel the run."""
        if not self._run:
            return
        if command == "resume" and self.status.get("state") == "paused" and self.active:
            command = "run"

        def done(_answer: object) -> None:
            self._polling = True
            self._poll()

        self.session.tell("")
        self.session.post(self.session.path("runs", self._run, "command"), {"command": command}, done)

    def showLog(self) -> None:
        """Unfold the run's log, or fold it away."""
        ui = self.ui
        ui.logText.visible = ui.logButton.checked
        if not ui.logButton.checked or not self._run:
            return

        def show(text: str) -> None:
            ui.logText.plainText = text or _("Nothing was told yet.")
            bar = ui.logText.verticalScrollBar()
            bar.value = bar.maximum

        self.session.getText(self.session.path("runs", self._run, "log"), show)

    def close(self) -> None:
        self._timer = None  # its connection would keep this object alive
        if self._stream is not None:
            self._stream.abort()


def _append(line: list, step: float, value: float) -> None:
    """Add a point; a resumed run tells some steps again, which then replace the old ones."""
    while line and line[-1][0] >= step:
        line.pop()
    line.append((step, value))
