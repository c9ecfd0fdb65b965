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
from mper.cohort.status import FAILED, FINISHED, LOG, RUNNING, RunState, command_of, read_state
from mper.engine.errors import Conflict, Forbidden, NotFound
from mper.engine.services.roots import Roots
from mper.utils.processes import start_detached

STARTING = "starting"
_OUTSIDE = "@"


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

    @property
    def path(self) -> Path:
        return self.results.path

    def state(self) -> RunState:
        """How the run stands; of a process that we started we know if it never came to its work."""
        child, alive = self._child, self._child is not None and self._child.poll() is None
        state = read_state(self.path)  # after: the last words of a process that has ended are then on the disk
        if child is None or state.state == RUNNING or self._came_to_work(state):
            return self._with_reason(state)
        if alive:
            return RunState(STARTING, "starting")
        return self._with_reason(replace(state, state=FINISHED if child.returncode == 0 else FAILED, message=""))

    def _came_to_work(self, state: RunState) -> bool:
        return max(state.started or "", str(self.results.header.get("finished", ""))) >= self._launched

    def _with_reason(self, state: RunState) -> RunState:
        if state.state != FAILED or state.message:
            return state
        return replace(state, message=last_line(self.path / WORK / LOG) or "its process could not be started")

    def start(self, words: list[str]) -> None:
        """Start ``mper WORDS``.

        Raises
        ------
        Conflict
            If a process works on it.
        """
        if self.state().state in (STARTING, RUNNING):
            raise Conflict(f"{self.path.name} is being segmented already; pause it first, or choose another folder")
        (self.path / WORK).mkdir(parents=True, exist_ok=True)
        self.words, self._launched = words, now()
        self._child = start_detached([*words, "--background"], self.path / WORK / LOG)

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
        self._lock = threading.Lock()

    def open(self, path: Path, outside: bool) -> Cohort:
        """The cohort of a folder, which exists; `outside`: whether it may lie outside of the roots.

        Raises
        ------
        Forbidden
            If it may not.
        """
        whole = path.resolve()
        with self._lock:
            found = self._cohorts.get(whole)
            if found is None:
                found = self._cohorts[whole] = Cohort(self._id(whole, outside), CohortResults(whole))
            return found

    def get(self, cohort_id: str) -> Cohort:
        """A cohort by its id.

        Raises
        ------
        NotFound
            If there is none.
        """
        wanted = cohort_id.replace("~", "/")
        for cohort in list(self._cohorts.values()):
            if cohort.id == wanted:
                return cohort
        root, _, relative = wanted.partition("/")
        with contextlib.suppress(Forbidden, NotFound):
            path = self._roots.inside(root, relative)
            if relative and path.is_dir():
                return self.open(path, outside=False)
        raise NotFound(f"there is no cohort {wanted!r} here; open its folder first")

    def all(self) -> list[Cohort]:
        """Those that were opened or started, by id."""
        return sorted(self._cohorts.values(), key=lambda cohort: cohort.id)

    def _id(self, path: Path, outside: bool) -> str:
        for name, home in self._roots.folders.items():
            relative = path.relative_to(home).as_posix() if path.is_relative_to(home) else ""
            if relative not in ("", ".") and "~" not in relative:
                return f"{name}/{relative}"
        if not outside:
            raise Forbidden("only who started this engine may work on folders outside of its roots")
        return _OUTSIDE + self._outside.add(path)


def last_line(log: Path) -> str:
    """The last error that a program wrote to its log, else its last line; empty where there is none."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        errors = [line.removeprefix("mper: error: ") for line in lines if line.startswith("mper: error: ")]
        return errors[-1] if errors else next((line for line in reversed(lines) if line), "")
    return ""
