"""How the run of a cohort stands, for other programs, and their request to pause it.

::

    .mper.lock             held by the process that works on the cohort; the system releases it when that ends
    .mper/status.json      state, process, times and progress, written at most once a second
    .mper/control.json     {"pause": TIME}: the run that started at that time is to pause
    .mper/scans.json       the scans in their order
    .mper/command.json     inputs and options of the command that goes on with the run
    .mper/log.txt          the output of a run in the background

A run that pauses ends its process: a resumed one is the same command again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mper.cohort.manifest import MANIFEST, WORK, CohortScan, now
from mper.progress import Cancelled, Progress
from mper.utils.coded import decoded, with_codes
from mper.utils.files import read_json, write_json
from mper.utils.locking import is_locked

LOCK, LOG = ".mper.lock", "log.txt"
STATUS, CONTROL, SCANS, COMMAND = "status.json", "control.json", "scans.json", "command.json"
NEW, RUNNING, PAUSED, FINISHED = "new", "running", "paused", "finished"
FAILED, INTERRUPTED, SUBMITTED = "failed", "interrupted", "submitted"
_WRITE_EVERY_S, _LOOK_EVERY_S = 1.0, 0.3
_ETA_AFTER_S = 2.0

Clock = Callable[[], float]


class CohortStatus:
    """The status in the process that works on the cohort: the `Report` of its work.

    Parameters
    ----------
    folder : Path
        Of the results; its ``.mper`` exists.
    scans : sequence of CohortScan
        All scans, in their order.
    inputs : sequence of Path
    options : sequence of str
        Of the command that goes on with the run: ``mper segment INPUTS FOLDER OPTIONS``.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        folder: Path,
        scans: Sequence[CohortScan],
        inputs: Sequence[Path],
        options: Sequence[str],
        clock: Clock = time.monotonic,
    ) -> None:
        self._folder, self._clock, self._begin = folder / WORK, clock, clock()
        self._written = self._looked = float("-inf")
        self._entry: dict[str, Any] = {"state": RUNNING, "started": now(), "pid": os.getpid(), "message": "starting"}
        write_json(self._folder / SCANS, {"scans": [{"key": scan.key, "input": str(scan.scan)} for scan in scans]})
        write_json(self._folder / COMMAND, {"inputs": [str(path) for path in inputs], "options": list(options)})
        self._write()

    def __call__(self, progress: Progress) -> None:
        """Take the progress of all that is left.

        Raises
        ------
        Cancelled
            If another program asks the run to pause.
        """
        time_s = self._clock()
        if time_s - self._looked >= _LOOK_EVERY_S:
            self._looked = time_s
            if _pause_request(self._folder) == self._entry["started"]:
                raise Cancelled("the run was paused")
        if time_s - self._written >= _WRITE_EVERY_S:
            self._written = time_s
            fraction, gone = progress.fraction, time_s - self._begin
            known = fraction is not None and fraction > 0 and gone > _ETA_AFTER_S
            eta_s = gone * (1 - fraction) / fraction if known and fraction is not None else None
            self._entry |= {"message": progress.message, "fraction": fraction, "eta_s": eta_s}
            self._write()

    def end(self, state: str, message: str = "") -> None:
        """The run ends in a state; nothing is written where its folder is gone, as all is segmented."""
        self._entry |= {"state": state, "message": message, "eta_s": None}
        self._write()

    def _write(self) -> None:
        if self._folder.is_dir():
            with contextlib.suppress(OSError):  # a full disk is reported where a result is written
                write_json(self._folder / STATUS, with_codes(self._entry))


def end_submitted(folder: Path, all_ended: bool) -> None:
    """The jobs that a run was submitted to have ended, before they came to all scans unless `all_ended`."""
    path = folder / WORK / STATUS
    entry = _read(path)
    if entry.get("state") == SUBMITTED:
        write_json(path, {**entry, "state": FINISHED if all_ended else INTERRUPTED})


@dataclass(frozen=True)
class RunState:
    """How a run stands.

    Parameters
    ----------
    state : str
        new, running, paused, finished, failed, interrupted (its process was killed), or submitted (to a cluster).
    message : str
    fraction : float or None
        Of what this run had left when it began.
    eta_s : float or None
    started : str or None
    pausing : bool
        Whether it is asked to pause.
    """

    state: str
    message: str = ""
    fraction: float | None = None
    eta_s: float | None = None
    started: str | None = None
    pausing: bool = False


def read_state(folder: Path) -> RunState:
    """How the run of a folder of results stands; a damaged status counts as none."""
    for _ in range(2):  # it may end between two reads
        alive = is_locked(folder / LOCK)
        entry = _read(folder / WORK / STATUS)
        if alive or entry.get("state") != RUNNING:
            break
    started = entry.get("started")
    if alive:
        pausing = started is not None and _pause_request(folder / WORK) == started
        figures = (_number(entry.get("fraction")), _number(entry.get("eta_s")))
        return RunState(RUNNING, _message(entry), *figures, started, pausing)
    state = str(entry.get("state") or (FINISHED if (folder / MANIFEST).is_file() else NEW))
    return RunState(INTERRUPTED if state == RUNNING else state, _message(entry), started=started)


def _message(entry: Mapping[str, Any]) -> str:
    codes = entry.get("line_codes")
    return decoded(str(entry.get("message", "")), codes if isinstance(codes, dict) else {})


def request_pause(folder: Path) -> bool:
    """Ask the run of a folder of results to pause; False if none is under way."""
    state = read_state(folder)
    if state.state != RUNNING or state.started is None:
        return False
    write_json(folder / WORK / CONTROL, {"pause": state.started})
    return True


def planned_scans(folder: Path) -> list[tuple[str, str]]:
    """Key and input of each scan of the last run, in order; empty where it is not recorded, or all are segmented."""
    entries = _read(folder / WORK / SCANS).get("scans")
    known = entries if isinstance(entries, list) else []
    return [(str(e["key"]), str(e["input"])) for e in known if isinstance(e, dict) and {"key", "input"} <= e.keys()]


def command_of(folder: Path) -> list[str] | None:
    """The command that goes on with the last run, after ``mper``; None where it is not recorded, or damaged."""
    entry = _read(folder / WORK / COMMAND)
    inputs, options = entry.get("inputs"), entry.get("options")
    if not isinstance(inputs, list) or not isinstance(options, list) or not inputs:
        return None
    known = all(isinstance(word, str) and word.startswith("--") for word in options)
    known = known and all(isinstance(word, str) and not word.startswith("-") for word in inputs)
    return ["segment", *inputs, str(folder), *options] if known else None


def _pause_request(work: Path) -> object:
    return _read(work / CONTROL).get("pause")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
