"""The engine as a process of Slicer's: how it is started, how it is ended, and what it said when it died.

Its lifeline is its standard input: `PythonSlicer` is a launcher, and killing that leaves its child alive, but the end
of standard input reaches the child on every system, also when Slicer dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MPERLib import callbacks, settings

_LOG_LIMIT_BYTES = 1 << 20
_KILL_AFTER_MS = 5000
_SLICERS_OWN = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONNOUSERSITE", "SSL_CERT_FILE")


def environment(python: Path, home: Path, packages: Path, added: Mapping[str, str]) -> Any:
    """The QProcessEnvironment in which `python` finds the library in `home`, and `packages` before all others.

    PythonSlicer puts Slicer's own folders before PYTHONPATH; so the library itself moves MPER_PACKAGES to the front.
    Another Python, which the user brought with packages of its own, must not see Slicer's libraries at all.
    """
    made = qt.QProcessEnvironment.systemEnvironment()
    slicers = settings.isSlicers(python)
    if not slicers:
        for name in _SLICERS_OWN:
            made.remove(name)
    paths = [str(home), *filter(None, [made.value("PYTHONPATH", "")])]
    variables = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        **added,
    }
    if slicers or settings.chosenPackages() is not None:
        variables["MPER_PACKAGES"] = str(packages)
    for name, value in variables.items():
        made.insert(name, value)
    return made


class EngineProcess:
    """``mper serve`` until `stop`, its death, or Slicer's.

    Parameters
    ----------
    python, arguments, environment
        What is run; see `environment`.
    home : str
        The folder that it stands in: the library's own, so that nothing else is imported by accident.
    log : Path
        The process's messages are appended to it.
    ready : callable
        Takes the first line of its output, JSON, as a dictionary.
    died : callable
        Takes one line that says why it ended, unless it was stopped.
    """

    def __init__(
        self,
        python: Path,
        arguments: Sequence[str],
        environment: Any,
        home: str,
        log: Path,
        ready: Callable[[dict], None],
        died: Callable[[str], None],
    ):
        self._ready, self._died = ready, died
        self._output = b""
        self._told = False
        self._stopping = False
        self._gone = False
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        _rotate(log)
        self._log_start = log.stat().st_size if log.exists() else 0
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment)
        self._process.setWorkingDirectory(home)  # Python looks there first for what it imports
        self._process.setStandardErrorFile(str(log), qt.QIODevice.Append)
        self._process.connect("readyReadStandardOutput()", callbacks.slot(self._onOutput, "engine output"))
        self._process.connect("finished(int,QProcess::ExitStatus)", callbacks.slot(self._onFinished, "engine finished"))
        self._process.connect("errorOccurred(QProcess::ProcessError)", callbacks.slot(self._onError, "engine error"))
        self._process.start(str(python), list(arguments))

    def stop(self) -> None:
        """End it: it is asked to leave, and made to if it does not. Its `died` is not called."""
        if not self._stopping:
            self._stopping = True
            if not self._gone:
                self._process.closeWriteChannel()
                qt.QTimer.singleShot(_KILL_AFTER_MS, callbacks.slot(self._kill, "engine kill"))

    def wait(self, seconds: float) -> None:
        """Hold everything until it has ended."""
        if not self._gone:
            self._process.waitForFinished(int(1000 * seconds))

    def _kill(self) -> None:
        if not self._gone:
            self._process.kill()

    def _onOutput(self) -> None:
        self._output += self._process.readAllStandardOutput().data()
        line, end, _rest = self._output.partition(b"\n")
        if self._told:
            self._output = b""  # nothing more is expected there
        elif end:
            self._told = True
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and "port" in answer:
                    self._ready(answer)
                    return
            self._end(_("the engine's first words were {words}").format(words=repr(line[:80].decode(errors="replace"))))

    def _onError(self) -> None:
        if not self._gone and self._process.state() == qt.QProcess.NotRunning and not self._told:
            self._forget()
            self._end(_("the engine could not be started: {error}").format(error=self._process.errorString()))

    def _onFinished(self) -> None:
        if not self._gone:
            self._forget()
            self._end(self._lastWords())

    def _forget(self) -> None:
        self._gone = True
        self._process.deleteLater()  # and with it the connections, which Python's collector does not see

    def _end(self, reason: str) -> None:
        if not self._stopping:
            self.stop()
            self._died(reason)

    def _lastWords(self) -> str:
        """The last line of what it wrote since it began."""
        text = ""
        with contextlib.suppress(OSError), self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 8192))
            text = file.read().decode("utf-8", errors="replace")
        missing = re.findall(r"No module named '([\w.]+)'", text)
        if missing:
            words = _("the engine's packages are incomplete ({name} is missing); MPER Segment offers to install them")
            return words.format(name=missing[-1])
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return _("the engine stopped: {line}").format(line=lines[-1][:300])
        return _("the engine stopped unexpectedly (exit code {code})").format(code=self._process.exitCode())


def _rotate(log: Path) -> None:
    """Keep one log of the past, so that neither grows without end."""
    with contextlib.suppress(OSError):  # another Slicer on this computer may hold it; it then grows until next time
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".1.log"))
