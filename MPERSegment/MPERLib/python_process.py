"""Python programs in processes of their own: their environment, their output line by line, their one end.

A program's lifeline is its standard input: `PythonSlicer` is a launcher, and killing that leaves its child alive, but
the end of standard input reaches the child on every system, also when Slicer dies.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MPERLib import libraryHome, settings
from MPERLib.callbacks import after, slot
from MPERLib.engine_words import in_words

_KILL_AFTER_MS = 5000
_FAILED = '{"error": '  # begins the line with which our commands say in codes why they failed
_SLICERS_OWN = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONNOUSERSITE", "SSL_CERT_FILE")

# Runs a module that does not read its standard input, and ends it when that ends.
_MODULE = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def module(name: str, *arguments: str) -> list[str]:
    """The arguments that run a module which ends with its standard input, also behind a launcher."""
    return ["-c", _MODULE, name, *arguments]


def environment(python: Path, added: Mapping[str, str]) -> Any:
    """The QProcessEnvironment in which `python` finds the library, and the engine's packages before all others.

    PythonSlicer puts Slicer's own folders before PYTHONPATH; so the library itself moves MPER_PACKAGES to the front.
    Another Python, which the user brought with packages of its own, must not see Slicer's libraries at all.
    """
    made = qt.QProcessEnvironment.systemEnvironment()
    slicers = settings.isSlicers(python)
    if not slicers:
        for name in _SLICERS_OWN:
            made.remove(name)
    paths = [str(libraryHome()), *filter(None, [made.value("PYTHONPATH", "")])]
    variables = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "MPER_ERROR_CODES": "1",
        **added,
    }
    if slicers or settings.chosenPackages() is not None:
        variables["MPER_PACKAGES"] = str(settings.packagesFolder())
    for name, value in variables.items():
        made.insert(name, value)
    return made


class PythonProcess:
    """A Python program that runs until it ends, or until `stop`. It starts at once.

    Parameters
    ----------
    arguments : sequence of str
    line : callable
        Takes each line of its output.
    ended : callable
        Called once it has ended, or could not start: takes None after success, else one line that says why. Not
        called after `stop`.
    log : Path or None
        Its error messages are appended to this file; without one they are part of its output.
    python : Path or None
        The engine's own Python if None.
    added : mapping or None
        Environment variables besides those of `environment`.

    Raises
    ------
    FileNotFoundError
        If there is no Python to run it with.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        line: Callable[[str], None],
        ended: Callable[[str | None], None],
        log: Path | None = None,
        python: Path | None = None,
        added: Mapping[str, str] | None = None,
    ):
        python = python or settings.enginePython()
        self._line, self._ended, self._log = line, ended, log
        self._rest = b""
        self._last = self._reason = ""
        self.failedToStart = False
        self._stopped = self._over = False
        self._afterwards: Callable[[], None] = lambda: None
        process = self._process = qt.QProcess()
        process.setProcessEnvironment(environment(python, added or {}))
        process.setWorkingDirectory(str(libraryHome()))  # Python looks there first for what it imports
        if log is None:
            process.setProcessChannelMode(qt.QProcess.MergedChannels)
        else:
            process.setStandardErrorFile(str(log), qt.QIODevice.Append)
        process.connect("readyReadStandardOutput()", slot(self._onOutput, "process output"))
        process.connect("finished(int,QProcess::ExitStatus)", slot(self._onFinished, "process finished"))
        process.connect("errorOccurred(QProcess::ProcessError)", slot(self._onError, "process error"))
        _running.add(self)
        process.start(str(python), list(arguments))

    @property
    def pid(self) -> int:
        """The process id, of a launcher where there is one."""
        return int(self._process.processId())

    @property
    def running(self) -> bool:
        """Whether it runs and was not told to stop."""
        return not (self._stopped or self._over)

    def write(self, text: str) -> None:
        """Send text to its standard input."""
        if self.running:
            self._process.write(text.encode())

    def stop(self, afterwards: Callable[[], None] | None = None) -> None:
        """End it, by force if it does not leave by itself; `ended` is not called, `afterwards` is once it has gone."""
        if afterwards is not None:
            self._afterwards = afterwards
        if self._over:
            self._afterwards()
        elif not self._stopped:
            self._stopped = True
            self._line = self._ended = lambda _text: None  # do not keep who waited for them alive
            self._process.closeWriteChannel()
            after(_KILL_AFTER_MS, self._kill, "process kill")

    def wait(self, seconds: float) -> None:
        """Block until it has ended."""
        if not self._over:
            self._process.waitForFinished(int(1000 * seconds))

    def _kill(self) -> None:
        if not self._over:
            self._process.kill()

    def _onOutput(self) -> None:
        *lines, self._rest = (self._rest + self._process.readAllStandardOutput().data()).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip()
        if text.startswith(_FAILED) and not self._stopped:
            with contextlib.suppress(ValueError):
                self._reason = str(json.loads(text, object_hook=in_words)["error"])
        elif text and not self._stopped:
            if self._log is None and not text.startswith(("WARNING", "[notice]")):  # of pip
                self._last = text
            slot(self._line, "line of a process", self._raised)(text)

    def _raised(self, line: str) -> None:
        """Who takes the lines has failed on one: without it the work would never end."""
        ended = self._ended
        self.stop()
        ended(line)

    def _onError(self, error: int) -> None:
        if not self._over and error == qt.QProcess.FailedToStart:  # after all other errors, `finished` comes
            self.failedToStart = True
            self._finish(_("Python could not be started: {error}").format(error=self._process.errorString()))

    def _onFinished(self) -> None:
        if self._over:
            return
        self._onOutput()
        self._take(self._rest)
        good = self._process.exitCode() == 0 and self._process.exitStatus() == qt.QProcess.NormalExit
        code = _("exit code {n}").format(n=self._process.exitCode())
        self._finish(None if good else self._reason or self._last or code)

    def _finish(self, reason: str | None) -> None:
        self._over = True
        self._process.deleteLater()  # and with it the connections, which Python's collector does not see
        _running.discard(self)
        if self._stopped:
            self._afterwards()
        else:
            self._ended(reason)


_running: set[PythonProcess] = set()  # a QProcess that nobody refers to is deleted, and kills its child
