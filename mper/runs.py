"""A training run's folder: how a run tells where it stands, and the only way to steer it.

config.json     what was asked for (`mper.trainer.TrainConfig`)
status.json     state, process, start time, progress; renewed every 5 s while the run lives
events.jsonl    one JSON object a line: state changes and figures
control.json    {"command": "run" | "pause" | "cancel"}, read at every step
checkpoint/     the newest state, to resume from
model/          the finished bundle
curves.csv, curves.png
.lock           held by the process that works on the run; the system lets it go when that process ends
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mper.records import write_json

HEARTBEAT_S = 5.0
COMMANDS = ("run", "pause", "cancel")
_FINISHED = ("finished", "cancelled", "failed", "interrupted")


class RunFolder:
    """Reading and steering one run.

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
        """What was asked for.

        Raises
        ------
        ValueError
            If the folder is no run.
        """
        try:
            return dict(json.loads((self.path / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} is not a training run: its config.json is missing or damaged") from error

    def status(self) -> dict[str, Any]:
        """The last heartbeat; empty before the first."""
        try:
            return dict(json.loads((self.path / "status.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def is_alive(self) -> bool:
        """Whether a process works on this run: its state is not final and its heartbeat is fresh."""
        status = self.status()
        if not status or status["state"] in _FINISHED:
            return False
        return time.time() - float(status["heartbeat"]) < 4 * HEARTBEAT_S

    def command(self) -> str:
        """What the run should do now; a missing or half-written control file means run."""
        try:
            command = json.loads((self.path / "control.json").read_text(encoding="utf-8"))["command"]
        except (OSError, ValueError, KeyError, TypeError):
            return "run"
        return command if command in COMMANDS else "run"

    def steer(self, command: str) -> None:
        """Tell the run to run, pause or cancel; it obeys within a step."""
        if command not in COMMANDS:
            raise ValueError(f"unknown command {command!r}; a run takes {', '.join(COMMANDS)}")
        write_json(self.path / "control.json", {"command": command})


class RunLog:
    """The running process's own side of a run folder: heartbeat, events, curves. A context manager.

    Leaving it by an exception marks the run as failed, unless a final state was set before.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self._status: dict[str, Any] = {
            "state": "starting",
            "pid": os.getpid(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunLog:
        self._write()
        self._mend_events()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is not None and self._status["state"] not in _FINISHED:
            state = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
            self.set(state=state, message=f"{kind.__name__}: {error}".splitlines()[0])
        else:
            self._write()

    def set(self, **values: Any) -> None:
        """Change the status; a change of state is also an event."""
        with self._lock:
            changed = "state" in values and values["state"] != self._status["state"]
            self._status.update(values)
        self._write()
        if changed:
            self.event("state", **values)

    def event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        line = json.dumps({"time": time.time(), "event": kind, **values}, ensure_ascii=False)
        with (self.folder.path / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def _mend_events(self) -> None:
        """End the line in whose middle an earlier process was killed."""
        path = self.folder.path / "events.jsonl"
        if path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n"):
            with path.open("ab") as stream:
                stream.write(b"\n")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a full disk is told by whoever has something to say
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._status["heartbeat"] = time.time()
            write_json(self.folder.path / "status.json", self._status)


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
