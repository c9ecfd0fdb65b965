"""The curves of a training run, from its events, and those of a second run that are laid over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.widgets import chosen, fill_box
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset

_LOSSES = {
    "loss": _("total"),
    "labelled": _("labels"),
    "pseudo": _("pseudo-labels"),
    "prototype": _("prototypes"),
    "contrast": _("contrast"),
}


class RunCurves:
    """Losses and Dice on the hold-out set by step, as lines by name; and what the run has noticed, a line each."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.losses: dict[str, list] = {}
        self.dice: dict[str, list] = {}

    def note(self, event: dict) -> None:
        """Add what an event tells."""
        kind, step = event.get("event"), event.get("step")
        if kind == "step":
            for name in _LOSSES:
                if name in event:
                    _append(self.losses.setdefault(_LOSSES[name], []), step, event[name])
        elif kind == "holdout":
            for name, value in event["dice"].items():
                if value is not None:
                    _append(self.dice.setdefault(name, []), step, value)
        elif kind == "notice" and event["message"] not in self.notices:  # a resumed run repeats some
            self.notices.append(event["message"])


class RunOverlay:
    """A box that chooses a second run of the dataset, and the curves of that run.

    Parameters
    ----------
    session : EngineSession
    dataset : OpenDataset
    place : QWidget
        The box becomes its first row.
    changed : callable
        Called when the curves have changed.
    """

    def __init__(self, session: EngineSession, dataset: OpenDataset, place: Any, changed: Callable[[], None]):
        self._session, self._dataset, self._changed = session, dataset, changed
        self._curves = RunCurves()
        self._stream: Any = None
        self._run = self._title = ""
        self._titles: dict[str, str] = {}
        self.row = qt.QWidget()
        layout = qt.QHBoxLayout(self.row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(qt.QLabel(_("Compare with:")))
        self.selector = qt.QComboBox()
        self.selector.toolTip = _("Shows the total loss and the Dice of a second training run in the same charts.")
        layout.addWidget(self.selector, 1)
        place.layout().insertWidget(0, self.row)
        self.selector.connect("currentIndexChanged(int)", slot(lambda _index: self._choose(chosen(self.selector))))

    def offer(self, runs: Sequence[tuple[str, str]], shown: str | None) -> None:
        """Offer the runs (id, title) but the one that is shown."""
        others = [(run, title) for run, title in runs if run != shown]
        self._titles = dict(others)
        self.row.visible = bool(others)
        fill_box(self.selector, [("", _("no other run")), *others], self._run)
        if self._run not in self._titles:
            self._choose("")

    def losses(self) -> dict[str, list]:
        """The total loss of the second run."""
        return self._named({name: line for name, line in self._curves.losses.items() if name == _LOSSES["loss"]})

    def dice(self) -> dict[str, list]:
        """The Dice of the second run."""
        return self._named(self._curves.dice)

    def close(self) -> None:
        """Stop reading."""
        if self._stream is not None:
            self._stream.abort()
            self._stream = None

    def _named(self, lines: dict[str, list]) -> dict[str, list]:
        return {_("{line} of {run}").format(line=name, run=self._title): line for name, line in lines.items()}

    def _choose(self, run: str) -> None:
        """Read the events of a run from the first on; while it is trained, they go on coming."""
        if run == self._run:
            return
        self.close()
        self._run, self._title = run, self._titles.get(run, "").rpartition(": ")[0]  # without its state
        self._curves = curves = RunCurves()
        self._changed()
        if not run:
            return

        def event(entry: dict) -> None:
            if curves is self._curves:
                curves.note(entry)

        def ended(_answer: object) -> None:
            if curves is self._curves:
                self._stream = None
                self._changed()

        self._stream = self._session.follow(self._dataset.route("runs", run, "events"), event, ended, ended)


def _append(line: list, step: float, value: float) -> None:
    """Add a point; a resumed run repeats some steps, which replace the old ones."""
    while line and line[-1][0] >= step:
        line.pop()
    line.append((step, value))
