"""Starts training runs as processes of their own, which outlive the engine."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from mper.engine.errors import Conflict
from mper.training.runs import ENDED, LAUNCHING, NEW, RunFolder
from mper.utils.files import write_json
from mper.utils.processes import start_detached


class Launcher:
    """Starts the processes of runs, and notices when one that it started has ended without a word."""

    def __init__(self) -> None:
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, run: RunFolder) -> None:
        """Start, or go on with, a run.

        Raises
        ------
        Conflict
            If a process works on it.
        OSError
            If no process can be started; the run stands as before.
        """
        with self._lock:
            if self.state(run) not in (NEW, *ENDED):
                name = run.title()
                raise Conflict(f"the training {name} is at work; pause or cancel it instead", "run-works", run=name)
            before = run.status()
            run.launch()
            words = ("train", "--resume", str(run.path.resolve()), "--background")
            try:
                self._children[run.path.resolve()] = start_detached(words, run.path / "log.txt")
            except OSError:
                write_json(run.path / "status.json", {**before, "state": before.get("state", NEW), "heartbeat": 0.0})
                raise

    def state(self, run: RunFolder) -> str:
        """As `RunFolder.state`; of a process that we started we know at once if it never got to its work."""
        child = self._children.get(run.path.resolve())
        ended = child is not None and child.poll() is not None  # asked first: its last words are then on the disk
        state = run.state()
        return "failed" if state == LAUNCHING and ended else state
