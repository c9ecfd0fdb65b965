"""Local ``python -m mper`` processes: what touches files runs on this computer, also when the engine is a remote one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from MPERLib import libraryHome, places
from MPERLib.process import environment
from MPERLib.trace import slot
from slicer.i18n import tr as _


class Command:
    """One ``mper`` command in a process of its own; it starts at once.

    Parameters
    ----------
    arguments : sequence of str
        As after ``mper``.
    done : callable
        Takes what it wrote to its standard output.
    failed : callable
        Takes one line for a person.

    Raises
    ------
    FileNotFoundError
        If there is no Python to run it with.
    """

    def __init__(self, arguments: Sequence[str], done: Callable[[str], None], failed: Callable[[str], None]):
        self._done, self._failed = done, failed
        self.over = False
        python = places.enginePython()
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment(python, libraryHome(), places.packagesFolder(), {}))
        name = f"mper {arguments[0]}"
        self._process.connect("finished(int,QProcess::ExitStatus)", slot(self._onFinished, name))
        self._process.connect("errorOccurred(QProcess::ProcessError)", slot(self._onError, name))
        self._process.start(str(python), ["-m", "mper", *arguments])

    def abort(self) -> None:
        """End it; neither callback comes."""
        self.over = True
        self._process.kill()

    def _onError(self, *_arguments: Any) -> None:
        if not self.over and self._process.state() == qt.QProcess.NotRunning:
            self.over = True
            self._failed(_("the program could not be started: {error}").format(error=self._process.errorString()))

    def _onFinished(self, *_arguments: Any) -> None:
        if self.over:
            return
        self.over = True
        output = self._process.readAllStandardOutput().data().decode("utf-8", errors="replace")
        if self._process.exitCode() == 0:
            self._done(output)
            return
        errors = self._process.readAllStandardError().data().decode("utf-8", errors="replace")
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        self._failed(lines[-1] if lines else _("the program ended with code {n}").format(n=self._process.exitCode()))
