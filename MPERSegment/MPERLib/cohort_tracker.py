"""A cohort of the engine, followed while it is segmented and reviewed.

The run is a process of its own, which continues without Slicer; the folder of its results is that of `mper segment`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import qt

from MPERLib import settings
from MPERLib.callbacks import slot
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession

ACTIVE = ("starting", "running")
_COHORTS_KEY = "MPER/Cohorts"  # folders of results, the latest first: a list in JSON
_MOST = 12
_POLL_MS, _IDLE_MS = 1000, 5000
_ROWS_EVERY_S, _ROW_S = 2.0, 0.01  # how often rows are read while they change; the more rows, the rarer


class CohortTracker:
    """The cohort that a panel shows.

    Parameters
    ----------
    session : EngineSession
    changed : callable
        Called when status or rows have changed.
    failed : callable
        Takes one line for the user.

    Attributes
    ----------
    status : dict
        The answer to ``GET /cohorts/ID``; empty while none is open.
    rows : list of dict
    """

    def __init__(self, session: EngineSession, changed: Callable[[], None], failed: Callable[[str], None]):
        self._session, self._changed, self._failed = session, changed, failed
        self.status: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self._folder = ""  # to open the cohort again when the engine has started again
        self._rowsVersion: int | None = None
        self._rowsAt = 0.0
        self._wanted = 0  # counts the requests to show a cohort: only the last one is shown
        self._waiting = False
        self._watched = False
        self._timer: Any = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", slot(self._poll, "cohort polled"))

    @property
    def id(self) -> str:
        return str(self.status.get("id", ""))

    @property
    def key(self) -> str:
        """Which cohort it is, also for an engine that was started again and knows its folder by another id."""
        return self._folder or self.id

    @property
    def active(self) -> bool:
        """Whether scans are being segmented."""
        return self.status.get("state") in ACTIVE

    def route(self, *parts: object, **query: object) -> str:
        """``/cohorts/ID/part?name=value``."""
        return route("cohorts", self.id, *parts, **query)

    # ---- which cohort

    def start(self, body: dict[str, Any], done: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Segment scans, or go on with what the folder of results holds."""

        def take(status: dict[str, Any]) -> None:
            self._follow(status)
            done()

        self._session.post("/cohorts", body, self._ifWanted(take), failed)

    def open(self, folder: str, failed: Callable[[str], None] | None = None) -> None:
        """Open the cohort in a folder of results."""
        self._session.post("/cohorts/open", {"path": folder}, self._ifWanted(self._follow), failed or self._failed)

    def openId(self, cohort: str) -> None:
        """Open a cohort that the engine knows."""
        self._session.get(route("cohorts", cohort), self._ifWanted(self._follow), self._failed)

    def _ifWanted(self, callback: Callable[..., None]) -> Callable[..., None]:
        """`callback` for the answer about a cohort to show, silent when another one is asked for meanwhile."""
        self._wanted += 1
        wanted = self._wanted
        return lambda *answer: callback(*answer) if wanted == self._wanted else None

    def close(self) -> None:
        """Show none; a run continues."""
        self._wanted += 1
        self._waiting = False
        self.status, self.rows, self._rowsVersion, self._folder = {}, [], None, ""
        self._timer.stop()
        self._changed()

    def watch(self, watched: bool) -> None:
        """Follow the cohort while the user looks at it."""
        self._watched = watched
        if watched and self.status:
            self._poll()

    def engineChanged(self) -> None:
        """The engine has stopped or started: an engine that starts knows the cohort by its folder alone."""
        self._waiting = False
        self._rowsVersion = None  # which each engine counts by itself
        if not self._session.running:
            self._timer.stop()
        elif self._folder:
            self.open(self._folder, lambda _message: self.close())
        else:
            self._poll()

    def _follow(self, status: dict[str, Any]) -> None:
        before = self.key
        self._folder = status["folder"] if not self._session.engine.isRemote else ""
        if (self._folder or status["id"]) != before:
            self.rows, self._rowsVersion = [], None
        if self._folder and status["model"]:
            remember(self._folder)
        self._show(status)

    # ---- how it stands

    def command(self, command: str, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Pause or resume the run."""

        def take(status: dict[str, Any]) -> None:
            self._take(status)
            done()

        self._session.post(self.route("command"), {"command": command}, take, failed)

    def takeRow(self, row: dict[str, Any]) -> None:
        """A row has changed."""
        self.rows = [row if each["id"] == row["id"] else each for each in self.rows]
        self._changed()

    def refresh(self) -> None:
        """Read status and rows now."""
        self._rowsAt = 0.0
        self._poll()

    def _poll(self) -> None:
        if not self.status or self._waiting or not self._session.running:
            return
        self._waiting = True
        self._session.get(self.route(), self._take, self._lost)

    def _take(self, status: dict[str, Any]) -> None:
        """How the cohort stands, unless it is no longer shown."""
        if status["id"] == self.id:
            if self._folder and status["model"] and not self.status["model"]:
                remember(self._folder)  # only now: a run may end before it has begun
            self._show(status)

    def _show(self, status: dict[str, Any]) -> None:
        self._waiting = False
        self.status = status
        rest_s = max(_ROWS_EVERY_S, len(self.rows) * _ROW_S)
        due = not self.active or time.monotonic() - self._rowsAt >= rest_s
        if status["version"] != self._rowsVersion and due:
            self._waiting = True
            of = status["id"]
            self._session.get(self.route("rows"), lambda rows: self._takeRows(of, rows), self._lost)
        else:
            self._again()
        self._changed()

    def _takeRows(self, of: str, answer: dict[str, Any]) -> None:
        if of != self.id:
            return
        self._waiting = False
        self.rows, self._rowsVersion, self._rowsAt = answer["rows"], answer["version"], time.monotonic()
        self._changed()
        self._again()

    def _again(self) -> None:
        if self._watched:
            self._timer.start(_POLL_MS if self.active else _IDLE_MS)

    def _lost(self, message: str) -> None:
        self._waiting = False
        if self._session.running:
            self._failed(message)
            self._again()

    def stop(self) -> None:
        """The panel is closed."""
        self._timer.stop()
        self._timer = None  # its connection would keep this object alive
        self._watched = False
        self._changed = self._failed = lambda *_: None


def recent() -> list[str]:
    """The folders of results that were opened last, the latest first."""
    try:
        return [str(folder) for folder in json.loads(settings.setting(_COHORTS_KEY) or "[]")]
    except (TypeError, ValueError):  # somebody wrote into the settings by hand
        return []


def remember(folder: str) -> None:
    """Put a folder of results first in the list of those that were opened."""
    folders = [folder, *(other for other in recent() if other != folder)]
    settings.setSetting(_COHORTS_KEY, json.dumps(folders[:_MOST]))
