"""The engine as a process on this computer: its first line of output, its log, and why it ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from MPERLib.python_process import PythonProcess

_LOG_LIMIT_BYTES = 1 << 20


class EngineProcess:
    """``mper serve`` until `stop`, its own end, or Slicer's.

    Parameters
    ----------
    python, arguments, added
        The program, and environment variables besides the usual ones; see `PythonProcess`.
    log : Path
        The engine's messages are appended to it.
    ready : callable
        Takes the first line of its output, JSON, as a dictionary.
    ended : callable
        Takes one line that says why it ended, unless it was stopped.
    """

    def __init__(
        self,
        python: Path,
        arguments: Sequence[str],
        added: Mapping[str, str],
        log: Path,
        ready: Callable[[dict], None],
        ended: Callable[[str], None],
    ):
        self._ready, self._ended = ready, ended
        self._greeted = False
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        _rotate(log)
        self._log_start = log.stat().st_size if log.exists() else 0
        self._process = PythonProcess(arguments, self._onLine, self._onEnded, log, python, added)

    @property
    def pid(self) -> int:
        """The process id, of a launcher where there is one."""
        return self._process.pid

    def stop(self) -> None:
        """End it; `ended` is not called."""
        self._process.stop()

    def wait(self, seconds: float) -> None:
        """Block until it has ended."""
        self._process.wait(seconds)

    def _onLine(self, line: str) -> None:
        if self._greeted:  # nothing more is expected there
            return
        self._greeted = True
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "port" in answer:
                self._ready(answer)
                return
        self._process.stop()
        self._ended(_("The engine did not start as expected: {line}. Start it again").format(line=repr(line[:80])))

    def _onEnded(self, reason: str | None) -> None:
        """Say why: the last line of what it wrote to its log since it began."""
        text = ""
        with contextlib.suppress(OSError), self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 8192))
            text = file.read().decode("utf-8", errors="replace")
        missing = re.findall(r"No module named '([\w.]+)'", text)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if self._process.failedToStart:
            self._ended(_("The engine could not be started. {reason}").format(reason=reason))
        elif missing:
            words = _("The engine needs more software ({name} is missing). Install it in MPER Segment")
            self._ended(words.format(name=missing[-1]))
        elif lines:
            self._ended(_("The engine stopped. Your masks are safe. Details: {line}").format(line=lines[-1][:300]))
        else:
            self._ended(_("The engine stopped. Your masks are safe."))


def _rotate(log: Path) -> None:
    """Keep one older log, so that neither grows without end."""
    with contextlib.suppress(OSError):  # another Slicer on this computer may hold it; it then grows until next time
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".1.log"))
