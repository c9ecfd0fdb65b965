"""A training run's folder: its state, and the only way to control it.

config.json     the configuration (`mper.training.config.TrainConfig`)
status.json     state, process, start time, progress; written every 5 s while the run's process lives
events.jsonl    one JSON object a line: changes of state, losses, Dice on the hold-out, notices
control.json    {"command": "run" | "pause" | "cancel"}, read at every step
checkpoint/     the newest state, to resume from
model/          the finished bundle
cases.json      the ids of the cases that it is trained on, and the scans that its model knows (`trained_scans`)
curves.csv, curves.png (with matplotlib)
.lock           held by the process that works on the run; the system releases it when that process ends
log.txt         the output of a run in the background
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mper.utils.coded import changed, line_of, with_codes
from mper.utils.files import read_json, write_json
from mper.utils.locking import is_locked, locked

HEARTBEAT_S = 5.0
CASES = "cases.json"
COMMANDS = ("run", "pause", "cancel")
NEW, LAUNCHING = "new", "launching"
ENDED = ("finished", "cancelled", "failed", "interrupted")
_LOCK = ".lock"
_LAUNCH_S = 180.0  # the first import of torch under a virus scanner takes its time
_LOCK_WAIT_S = 0.5  # a process that only tests the lock holds it for less


class RunFolder:
    """Reads and controls one run.

    Parameters
    ----------
    path : Path
        The run folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def config(self) -> dict[str, Any]:
        """The configuration.

        Raises
        ------
        ValueError
            If the folder is no run.
        """
        try:
            return read_json(self.path / "config.json")
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} is not a training run: its config.json is missing or damaged") from error

    def title(self) -> str:
        """What to call it: the name of its model, and where it has none that of its folder."""
        try:
            return str(self.config().get("name") or self.path.name)
        except ValueError:
            return self.path.name

    def status(self) -> dict[str, Any]:
        """The last heartbeat; empty before the first, and where its file is damaged."""
        try:
            status = read_json(self.path / "status.json")
            known = isinstance(status["state"], str) and isinstance(status["heartbeat"], (int, float))
        except (OSError, ValueError, KeyError):
            return {}
        return status if known else {}

    def damage(self) -> str | None:
        """Which of its files is damaged, in a line; None where they are as they should be."""
        try:
            self.config()
        except ValueError:
            return "config.json is damaged; restore it from a backup, or delete the folder of the run"
        if not self.status() and (self.path / "status.json").exists() and not is_locked(self.path / _LOCK):
            return "status.json is damaged; resume the run"
        return None

    def is_alive(self) -> bool:
        """Whether a process works on this run, or is about to start.

        On this machine the lock shows it at once; for a run on another one that shares the folder, a fresh heartbeat.
        """
        status = self.status()
        if not status or status["state"] in ENDED:
            return False
        if is_locked(self.path / _LOCK):
            return True
        silent_s = time.time() - float(status["heartbeat"])
        if status["state"] == LAUNCHING:
            return silent_s < _LAUNCH_S
        return status.get("host") != platform.node() and silent_s < 4 * HEARTBEAT_S

    def state(self) -> str:
        """Where the run stands: new, launching, starting, running, paused, finished, cancelled, failed or interrupted.

        ``interrupted`` is also a run whose process ended without writing its state: killed, or the machine was
        switched off.
        """
        for _ in range(2):  # it may finish between two reads
            state = str(self.status().get("state", NEW))
            if state == NEW or state in ENDED or self.is_alive():
                return state
        return "interrupted"

    def command(self) -> str:
        """The last command to the run; a missing or half-written control file means run."""
        try:
            command = json.loads((self.path / "control.json").read_text(encoding="utf-8"))["command"]
        except (OSError, ValueError, KeyError, TypeError):
            return "run"
        return command if command in COMMANDS else "run"

    def launch(self) -> None:
        """Set the state to launching, and the command to run, before a process is started."""
        self.steer("run")
        launching = {"state": LAUNCHING, "message": "starting", "heartbeat": time.time()}
        write_json(self.path / "status.json", {**self.status(), **launching})

    def steer(self, command: str) -> None:
        """Command the run to run, pause or cancel, which it does within a step."""
        if command not in COMMANDS:
            raise ValueError(f"unknown command {command!r}; a run takes {', '.join(COMMANDS)}")
        write_json(self.path / "control.json", {"command": command})


class RunLog:
    """The run folder in the process that works on it: lock, heartbeat, events. A context manager.

    Leaving it by an exception marks the run as failed, unless a final state was set before.

    Raises
    ------
    ValueError
        On entering, if another process works on the run.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self._status: dict[str, Any] = {
            "state": "starting",
            "message": "starting",
            "pid": os.getpid(),
            "host": platform.node(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self._alone = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunLog:
        try:
            self._alone.enter_context(locked(self.folder.path / _LOCK, timeout_s=_LOCK_WAIT_S))
        except TimeoutError as error:
            raise ValueError(
                f"{self.folder.path} is being worked on by process {self.folder.status().get('pid', 'unknown')}; "
                "cancel it first, or wait for it"
            ) from error
        if self.folder.status().get("state", LAUNCHING) != LAUNCHING:
            self.folder.steer("run")  # the last command stopped the run; a command to a new one stays
        self._write()
        self._mend_events()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        with self._alone:
            if kind is not None and self._status["state"] not in ENDED:
                state = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
                line = changed(line_of(error or kind()), lambda text: (text.splitlines() or [kind.__name__])[0])
                self.set(state=state, message=line)
            else:
                self._write()

    def set(self, **values: Any) -> None:
        """Change the status; a change of state is also an event."""
        with self._lock:
            changed = "state" in values and values["state"] != self._status["state"]
            if changed:
                values.setdefault("message", values["state"])
            self._status.update(values)
        self._write()
        if changed:
            self.event("state", **values)

    def note(self, **values: Any) -> None:
        """Change the status, to be read with the next heartbeat."""
        with self._lock:
            self._status.update(values)

    def event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        line = json.dumps(with_codes({"time": time.time(), "event": kind, **values}), ensure_ascii=False)
        with (self.folder.path / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def _mend_events(self) -> None:
        """Terminate the line that a killed process left unfinished."""
        path = self.folder.path / "events.jsonl"
        if path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n"):
            with path.open("ab") as stream:
                stream.write(b"\n")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a full disk is reported where an event is written
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._status["heartbeat"] = time.time()
            write_json(self.folder.path / "status.json", with_codes(self._status))


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run folder, oldest first; a torn last line is left out."""
    file = path / "events.jsonl"
    if not file.exists():
        return []
    events = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events
