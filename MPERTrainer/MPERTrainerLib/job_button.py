"""A button that starts a job of the engine and becomes Cancel meanwhile, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MPERLib import engine_words, formatting
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset


class JobButton:
    """At most one job at a time.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    button : QPushButton
    bar : QProgressBar
        Shown while the job runs.
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: OpenDataset, button: Any, bar: Any):
        self._context, self._session, self._button, self._bar = context, session, button, bar
        self._text = button.text
        self._job: Any = None
        self.codes: dict[str, dict] = {}  # of the notices of the last job
        bar.visible = False
        dataset.onLost(self._reset)

    @property
    def running(self) -> bool:
        return self._job is not None

    def start(self, path: str, body: dict, done: Callable[[dict, str, list[str]], None]) -> None:
        """Start a job; ``done(result, job id, notices)`` is called when it has finished."""
        self._context.clearMessage()
        self._button.text = _("Cancel")
        self._bar.maximum, self._bar.value, self._bar.textVisible, self._bar.visible = 0, 0, False, True

        def finished(result: dict) -> None:
            self._reset()
            self.codes = job.codes
            done(result, job.id, job.notices)

        def failed(message: str) -> None:
            self._reset()
            self._context.showMessage(message)

        job = self._job = self._session.job(path, body, finished, failed, self._show, self._reset)

    def cancel(self) -> None:
        """Ask the engine to cancel the job; the button is enabled again when it has."""
        if self._job is not None:
            self._button.enabled = False
            self._job.cancel()

    def _show(self, state: dict) -> None:
        fraction = state.get("fraction")
        self._bar.maximum = 0 if fraction is None else 1000
        if fraction is not None:
            self._bar.value = round(1000 * fraction)
        self._bar.format = (
            formatting.progress(engine_words.progress(state.get("message") or ""), state.get("eta_s")) or "%p%"
        )
        self._bar.textVisible = True

    def _reset(self) -> None:
        self._job = None
        self._bar.visible = False
        self._button.text = self._text
        self._button.enabled = True
