"""What runs in a job: one command of `mper` as a process of its own, which saves when the job has to end.

SLURM sends SIGUSR2 before a time limit, and SIGTERM then or when the job is preempted or cancelled. Both reach every
process of the job. The command ignores the first; it ends orderly on SIGINT and SIGTERM, as on Ctrl-C.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mper.utils.files import write_json

_CANCELLED = 3  # exit code of a command that was told to end, `mper.utils.errors.CANCELLED`
_GOOD = (0, 1)  # 1: it has done what it could, and some scans failed; they are in its own records
_WAIT_S = 60.0
_POLL_S = 0.2


class CommandJob:
    """A command of `mper`, which submitit runs, and runs again after a time limit or a preemption.

    Parameters
    ----------
    words : sequence of str
        After ``python``.
    record : Path
        Is written when the command has ended: code, host, time.
    grace_s : float
        How long the command may take to save.
    """

    def __init__(self, words: Sequence[str], record: Path, grace_s: float) -> None:
        self.words, self.record, self.grace_s = [*words], record, grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the command; returns its exit code.

        Raises
        ------
        RuntimeError
            If it was killed, or has done nothing.
        """
        begin = datetime.now(timezone.utc)
        # Lightning takes a job of SLURM for one that srun has to start on every GPU, unless it is interactive.
        environment = {**os.environ, "SLURM_JOB_NAME": "interactive", "PYTHONUNBUFFERED": "1"}
        with _ignored("SIGUSR2"):
            self._process = subprocess.Popen([sys.executable, *self.words], stdin=subprocess.DEVNULL, env=environment)
        while (code := self._process.poll()) is None:  # a wait would hold a lock that `checkpoint` cannot have
            time.sleep(_POLL_S)
        if code == _CANCELLED:  # by SIGTERM: the job is about to end, or to be queued again
            time.sleep(min(_WAIT_S, self.grace_s))
        entry = {
            "code": code,
            "host": platform.node(),
            "started": begin.isoformat(timespec="seconds"),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_json(self.record, entry)
        if code not in _GOOD:
            raise RuntimeError(f"the command ended with code {code}")
        return code

    def checkpoint(self) -> Any:
        """Let the command save; gives submitit the job to queue again."""
        from submitit.helpers import DelayedSubmission

        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            end = time.monotonic() + self.grace_s
            while _lives(process.pid) and time.monotonic() < end:
                time.sleep(_POLL_S)
            process.kill()
        return DelayedSubmission(CommandJob(self.words, self.record, self.grace_s))


def _lives(pid: int) -> bool:
    """Whether a process has not ended; without touching the state of its Popen, which a signal may have interrupted."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _ignored(name: str) -> Iterator[None]:
    """Within this context a signal is ignored, as by the processes that are started in it."""
    number = getattr(signal, name, None)  # Windows has none
    if number is None:
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
