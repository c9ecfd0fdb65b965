"""The cohorts that an engine knows: their ids, the processes that it started for them, and how each stands.

The id of a cohort below a root is ``ROOT/relative/path``, that of another folder ``@NAME``; in routes each ``/`` is
written as ``~``.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from mper.cohort.manifest import WORK, now
from mper.cohort.results import CohortResults
from mper.cohort.status import FAILED, FINISHED, INTERRUPTED, LOG, RUNNING, RunState, command_of, read_state
from mper.engine.errors import Conflict, Forbidden, NotFound
from mper.engine.services.roots import Roots
from mper.engine.settings import Client
from mper.utils.coded import Coded
from mper.utils.processes import start_detached

STARTING = "starting"
_OUTSIDE = "@"
_ERROR = "mper: error: "
_NOT_STARTED = Coded("its process could not be started", "cohort-not-started")


@dataclass
class Cohort:
    """A folder of results that the engine knows.

    Parameters
    ----------
    id : str
    results : CohortResults
    lock : Lock
        Held while `results` is used.
    """

    id: str
    results: CohortResults
    lock: threading.RLock = field(default_factory=threading.RLock)
    words: list[str] | None = None  # of the process that this engine started last
    _child: subprocess.Popen[bytes] | None = None
    _launched: str = ""
    _log_start: int = 0  # bytes of the log that are of earlier runs

    @property
    def path(self) -> Path:
        return self.results.path

    @property
    def outside(self) -> bool:
        """Whether it lies outside of the roots; it then belongs to the client that started the engine."""
        return self.id.startswith(_OUTSIDE)

    def state(self) -> RunState:
        """How the run stands; of a process that we started we know if it never came to its work."""
        child, alive = self._child, self._child is not None and self._child.poll() is None
        state = read_state(self.path)  # after: the last words of a process that has ended are then on the disk
        if child is None or state.state == RUNNING:
            return state
        if self._came_to_work(state):
            if state.state == INTERRUPTED and not alive and (reason := self._reason()):
                return replace(state, state=FAILED, message=reason)  # of a disk so full that it could not be noted
            return state
        if alive:
            return RunState(STARTING, "starting")
        if child.returncode == 0:
            return replace(state, state=FINISHED, message="")
        return replace(state, state=FAILED, message=self._reason() or _NOT_STARTED)

    def _came_to_work(self, state: RunState) -> bool:
        return max(state.started or "", str(self.results.header.get("finished", ""))) >= self._launched

    def _reason(self) -> str:
        """The last error that the process wrote to its log; empty where there is none."""
        with contextlib.suppress(OSError), (self.path / WORK / LOG).open("rb") as stream:
            stream.seek(self._log_start)
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
            errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
            return errors[-1] if errors else ""
        return ""

    def start(self, words: list[str]) -> None:
        """Start ``mper WORDS``.

        Raises
        ------
        Conflict
            If a process works on it.
        """
        if self.state().state in (STARTING, RUNNING):
            line = f"{self.path.name} is being segmented already; pause it first, or choose another folder"
            raise Conflict(line, "cohort-works", folder=self.path.name)
        (self.path / WORK).mkdir(parents=True, exist_ok=True)
        log = self.path / WORK / LOG
        self._log_start = log.stat().st_size if log.exists() else 0
        self.words, self._launched = words, now()
        self._child = start_detached([*words, "--background"], log)

    def command(self) -> list[str] | None:
        """The command that goes on with it."""
        return command_of(self.path) or self.words


class CohortStore:
    """Cohorts by their ids.

    Parameters
    ----------
    roots : Roots
    """

    def __init__(self, roots: Roots) -> None:
        self._roots, self._outside = roots, Roots()
        self._cohorts: dict[Path, Cohort] = {}

    def open(self, path: Path, outside: bool) -> Cohort:
        """The cohort of a folder, which exists; `outside`: whether it may lie outside of the roots.

        Raises
        ------
        Forbidden
            If it may not.
        OSError, ValueError
            If it cannot be read; it is then not known afterwards either.
        """
        whole = path.resolve()
        found = self._cohorts.get(whole)
        if found is not None:
            return found
        opened = Cohort(self._id(whole, outside), CohortResults(whole))
        opened.results.refresh()
        opened.state()
        return self._cohorts.setdefault(whole, opened)

    def get(self, cohort_id: str, client: Client) -> Cohort:
        """A cohort by its id.

        Raises
        ------
        NotFound
            If there is none for this client.
        """
        wanted = cohort_id.replace("~", "/")
        for cohort in self.all(client):
            if cohort.id == wanted:
                return cohort
        root, _, relative = wanted.partition("/")
        with contextlib.suppress(Forbidden, NotFound):
            path = self._roots.inside(root, relative)
            if relative and path.is_dir():
                return self.open(path, outside=False)
        raise NotFound(f"there is no cohort {wanted!r} here; open its folder first", "no-cohort", cohort=wanted)

    def all(self, client: Client) -> list[Cohort]:
        """Those that were opened or started and that a client may see, by id."""
        known = [cohort for cohort in list(self._cohorts.values()) if client.local or not cohort.outside]
        return sorted(known, key=lambda cohort: cohort.id)

    def _id(self, path: Path, outside: bool) -> str:
        for name, home in self._roots.folders.items():
            relative = path.relative_to(home).as_posix() if path.is_relative_to(home) else ""
            if relative not in ("", ".") and "~" not in relative:
                return f"{name}/{relative}"
        if not outside:
            line = "only who started this engine may work on folders outside of its roots"
            raise Forbidden(line, "outside-roots")
        return _OUTSIDE + self._outside.add(path)
