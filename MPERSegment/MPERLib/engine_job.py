"""A job of the engine, followed to its end across broken connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from MPERLib import callbacks
from MPERLib.http_client import ErrorCallback, route

if TYPE_CHECKING:
    from MPERLib.engine import Engine

_TRIES = 5  # to take up a broken connection
_TRY_AGAIN_MS = 1000


class Job:
    """A job of the engine, followed to its end.

    Attributes
    ----------
    id : str or None
        As soon as the engine has accepted it.
    notices : list of str
        Notices of the engine besides the result, so far.
    codes : dict
        Code and values of the notices that have them, by the line.
    """

    def __init__(
        self,
        engine: Engine,
        path: str,
        body: object,
        done: Callable[[dict], None],
        failed: ErrorCallback | None,
        progress: Callable[[dict], None] | None,
        cancelled: Callable[[], None] | None,
    ):
        self.id: str | None = None
        self.notices: list[str] = []
        self.codes: dict[str, dict] = {}
        self._engine = engine
        self._done = done
        self._failed = failed or (lambda message: None)
        self._progress = progress or (lambda event: None)
        self._cancelled = cancelled or (lambda: None)
        self._asked_to_end = False
        self.over = False
        self._seen = 0  # events so far, so that a broken connection continues where it ended
        self._tries = 0
        self._forget = engine.onState(self._onState)
        self._call = engine.post(path, body, self._onAccepted, self._fail)

    def cancel(self) -> None:
        """Ask the engine to end it; `cancelled` is called when it has."""
        self._asked_to_end = True
        if self.id is not None:
            self._engine.delete(route("jobs", self.id))

    def abort(self) -> None:
        """End it; none of its callbacks is called any more."""
        self.over = True
        self._forget()
        if self.id is not None:
            self._call.abort()
        self.cancel()

    def _onAccepted(self, answer: dict) -> None:
        self.id = str(answer["job"])
        if self._asked_to_end:
            self.cancel()
        self._follow()

    def _follow(self) -> None:
        if not self.over:
            path = route("jobs", self.id, "events", **{"from": self._seen})
            self._call = self._engine.follow(path, self._onEvent, self._onEnded, self._onBroken)

    def _onBroken(self, message: str) -> None:
        """The connection may fail for a moment while the job goes on."""
        if self._engine.state == "ready" and self._tries < _TRIES:
            self._tries += 1
            callbacks.after(_TRY_AGAIN_MS, self._follow, "follow again")
        else:
            self._fail(message)

    def _onEvent(self, event: dict) -> None:
        self._seen = int(event.get("n", self._seen)) + 1
        self._tries = 0
        self.notices = event.get("notices") or self.notices
        self.codes = event.get("line_codes") or self.codes
        if event.get("state") in ("queued", "running") and not self.over:
            self._progress(event)

    def _onEnded(self, last: dict | None) -> None:
        state = (last or {}).get("state")
        if state == "finished":
            self._end(self._done, last["result"])
        elif state == "cancelled":
            self._end(self._cancelled)
        else:
            self._fail(str((last or {}).get("error") or _("The engine ended before the work was done. Try again")))

    def _onState(self, engine: Engine) -> None:
        if engine.state == "failed":
            self._fail(engine.reason)
        elif engine.state == "stopped":
            self._end(self._cancelled)

    def _fail(self, message: str) -> None:
        self._end(self._failed, message)

    def _end(self, callback: Callable[..., None], *arguments: Any) -> None:
        if not self.over:
            self.over = True
            self._forget()
            try:
                callback(*arguments)
            except Exception as error:  # who waits for the end of the job must hear of it
                callbacks.report_exception("end of a job", error, self._failed)
