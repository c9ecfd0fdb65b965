"""A job of the engine, with its button and its progress bar."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from MPERTrainerLib.engine_session import Session
from MPERTrainerLib.formatting import duration


class JobButton:
    """At most one job at a time, started by a button that becomes Cancel meanwhile.

    Parameters
    ----------
    session : Session
    button : QPushButton
    bar : QProgressBar
        Shown while the job runs.
    """

    def __init__(self, session: Session, button, bar):
        self.session, self.button, self.bar = session, button, bar
        self._text = button.text
        self._job = None
        bar.visible = False
        session.onLost(self._reset)

    @property
    def running(self) -> bool:
        return self._job is not None

    def start(self, path: str, body: dict, done: Callable[[dict, str, list[str]], None]) -> None:
        """Post `body`; ``done(result, job id, notices)`` is called if the job finishes."""
        self.session.tell("")
        self.button.text = _("Cancel")
        self.bar.maximum, self.bar.value, self.bar.textVisible, self.bar.visible = 0, 0, False, True

        def finished(result: dict) -> None:
            self._reset()
            done(result, job.id, job.notices)

        def failed(message: str) -> None:
            self._reset()
            self.session.fail(message)

        job = self._job = self.session.job(path, body, finished, failed, self._show, self._reset)

    def cancel(self) -> None:
        """Ask the engine to stop; the button comes back when it has."""
        if self._job is not None:
            self.button.enabled = False
            self._job.cancel()

    def _show(self, state: dict) -> None:
        fraction, left, text = state.get("fraction"), state.get("eta_s"), state.get("message") or ""
        self.bar.maximum = 0 if fraction is None else 1000
        if fraction is not None:
            self.bar.value = round(1000 * fraction)
        self.bar.format = (_("{work}, {time} left").format(work=text, time=duration(left)) if left else text) or "%p%"
        self.bar.textVisible = True

    def _reset(self) -> None:
        self._job = None
        self.bar.visible = False
        self.button.text = self._text
        self.button.enabled = True
