"""The engine's packages: what is missing, and how it comes, on the user's click, into a folder of their own.

Slicer's Python and its other extensions keep what they have: `pip` writes into the engine's folder alone, which is then
put in place of the old one. PyTorch comes through Slicer's PyTorch extension where that is installed, as it knows the
graphics card. Offline, all comes from a folder of wheels. Nothing here imports what it installs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from MPERLib import callbacks, libraryHome, settings
from MPERLib.engine_process import environment

TORCH_NEEDED = "torch>=2.6,<2.14"
TORCH_INSTALLED = ">=2.8,<2.13"  # 2.13 has files whose paths are too long for Windows
_WITHOUT_DEPENDENCIES = "lightning-fabric>=2.4,<3"
_SLICERS = "SimpleITK"  # large, and Slicer's Python brings its own
_REQUIREMENTS = "engine-requirements.txt"
_PIP_INSTALL = (
    *("--no-input", "--disable-pip-version-check", "install", "--progress-bar", "off"),
    *("--no-warn-script-location", "--no-warn-conflicts", "--upgrade"),
)

# Runs a module that ends with its standard input: PythonSlicer is a launcher, and to kill that would leave it alive.
_MODULE = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

# Runs in the engine's Python: names of the requirements that it does not meet. Finds packages without importing them.
_CHECK = """
import importlib.metadata, json, os, sys
if os.environ.get("MPER_PACKAGES"):
    sys.path.insert(0, os.environ["MPER_PACKAGES"])
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
missing = []
for line in json.loads(sys.argv[1]):
    wanted = Requirement(line)
    try:
        found = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None or not wanted.specifier.contains(found, prereleases=True):
        missing.append(line)
print(json.dumps(missing))
"""
_REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"


@dataclass(frozen=True)
class MissingPackages:
    """What the engine's Python lacks.

    Parameters
    ----------
    packages : tuple of str
        Requirements other than PyTorch.
    torch : bool
        Whether PyTorch is missing.
    """

    packages: tuple[str, ...]
    torch: bool

    def __bool__(self) -> bool:
        return bool(self.packages) or self.torch

    def words(self) -> str:
        """What an installation would do, for the user to agree to."""
        if not self:
            return _("All packages of the engine are installed.")
        lines = []
        if self.packages:
            names = ", ".join(_name(line) for line in self.packages)
            lines.append(
                _("The engine needs {names}: up to 400 MB, into the folder {folder}.").format(
                    names=names, folder=settings.packagesFolder()
                )
            )
        if self.torch and hasExtension():
            lines.append(_("PyTorch (up to 3 GB) is installed by the extension PyTorch, which asks before it begins."))
        elif self.torch:
            lines.append(
                _(
                    "PyTorch (up to 3 GB) is installed into the same folder; with the extension PyTorch, it would be "
                    "the one that fits your graphics card."
                )
            )
        lines.append(_("Slicer itself and other extensions are left as they are."))
        return " ".join(lines)


def requirements() -> list[str]:
    """The engine's requirements other than PyTorch, as ``name>=a,<b``."""
    file = Path(__file__).resolve().parents[1] / "Resources" / _REQUIREMENTS
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [*filter(None, lines), _WITHOUT_DEPENDENCIES]


def hasExtension() -> bool:
    """Whether Slicer's PyTorch extension is there."""
    return importlib.util.find_spec("PyTorchUtils") is not None


def module(name: str, *arguments: str) -> list[str]:
    """What `Run` takes to run a module that ends when it is aborted, also behind a launcher."""
    return ["-c", _MODULE, name, *arguments]


class Run:
    """A Python program in a process of its own, its output line by line; it starts at once.

    Raises
    ------
    FileNotFoundError
        If there is no Python to run it with.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        line: Callable[[str], None],
        done: Callable[[], None],
        failed: Callable[[str], None],
    ):
        self._line, self._done, self._failed = line, done, failed
        self._rest = b""
        self._last = ""
        self.over = False
        python = settings.enginePython()
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment(python, libraryHome(), settings.packagesFolder(), {}))
        self._process.setWorkingDirectory(str(libraryHome()))  # Python looks there first for what it imports
        self._process.setProcessChannelMode(qt.QProcess.MergedChannels)
        self._process.connect("readyReadStandardOutput()", callbacks.slot(self._onOutput, "install output"))
        self._process.connect(
            "finished(int,QProcess::ExitStatus)", callbacks.slot(self._onFinished, "install finished")
        )
        self._process.connect("errorOccurred(QProcess::ProcessError)", callbacks.slot(self._onError, "install error"))
        self._process.start(str(python), list(arguments))

    def abort(self) -> None:
        """End it; nothing is called any more."""
        if not self.over:
            self.over = True
            self._process.closeWriteChannel()
            self._process.kill()

    def _onOutput(self) -> None:
        *lines, self._rest = (self._rest + self._process.readAllStandardOutput().data()).split(b"\n")
        for line in lines:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip()
        if text and not self.over:
            if not text.startswith(("WARNING", "[notice]")):
                self._last = text
            self._line(text)

    def _onError(self) -> None:
        if not self.over and self._process.state() == qt.QProcess.NotRunning:
            self.over = True
            self._process.deleteLater()
            self._failed(_("Python could not be started: {error}").format(error=self._process.errorString()))

    def _onFinished(self) -> None:
        self._process.deleteLater()  # with it go the connections, which Python's own collector does not see
        if self.over:
            return
        self._onOutput()
        self._tell(self._rest)
        self.over = True
        if self._process.exitCode() == 0 and self._process.exitStatus() == qt.QProcess.NormalExit:
            self._done()
        else:
            self._failed(self._last or _("it ended with code {n}").format(n=self._process.exitCode()))


def check(done: Callable[[MissingPackages], None], failed: Callable[[str], None]) -> Run | None:
    """Ask the engine's Python what it lacks; None where that could not begin, and `failed` was told why."""
    said: list[str] = []

    def told() -> None:
        try:
            lines = json.loads(said[-1])
        except (IndexError, ValueError):
            failed(_("Python did not say which packages it has: {words}").format(words=" ".join(said)[-200:]))
            return
        done(MissingPackages(tuple(line for line in lines if line != TORCH_NEEDED), TORCH_NEEDED in lines))

    try:
        return Run(["-c", _CHECK, json.dumps([*requirements(), TORCH_NEEDED])], said.append, told, failed)
    except OSError as error:
        failed(str(error))
        return None


class Installation:
    """Brings what is missing; call it when the user has agreed, with the engine stopped.

    The folder is made anew beside the old one and takes its place when it is complete; a failure leaves what was.

    Parameters
    ----------
    missing : MissingPackages
    wheels : Path or None
        A folder of wheels to take everything from, without the internet.
    log, done, failed : callable
        Every line of progress; the end; one line that says why it failed and what to do.
    """

    def __init__(
        self,
        missing: MissingPackages,
        wheels: Path | None,
        log: Callable[[str], None],
        done: Callable[[], None],
        failed: Callable[[str], None],
    ):
        self._log, self._done, self._fail = log, done, failed
        self._wheels = wheels
        self._folder = settings.packagesFolder()
        self._part = self._folder.with_name(self._folder.name + ".part")
        self._run: Run | None = None
        self._over = False
        self._steps: list[list[str]] = []
        torch_by_pip = missing.torch and (wheels is not None or not hasExtension())
        if missing.packages or torch_by_pip:
            with_dependencies = [line for line in requirements() if line != _WITHOUT_DEPENDENCIES]
            if (
                not any(line.startswith(_SLICERS) for line in missing.packages)
                and not (self._folder / _SLICERS).is_dir()
            ):
                with_dependencies = [line for line in with_dependencies if not line.startswith(_SLICERS)]
            self._steps = [with_dependencies, ["--no-deps", _WITHOUT_DEPENDENCIES]]
            if torch_by_pip or (self._folder / "torch").is_dir():  # a torch of the folder's own goes on being there
                self._steps.append([f"torch{TORCH_INSTALLED}"])
        self._torch_by_extension = missing.torch and not torch_by_pip
        self._later(self._begin)

    def abort(self) -> None:
        """Give it up; what was installed before stays."""
        self._over = True
        if self._run is not None:
            self._run.abort()
        removeFolder(self._part)

    def _later(self, step: Callable[[], None]) -> None:
        qt.QTimer.singleShot(0, callbacks.slot(step, "install step"))

    def _begin(self) -> None:
        if self._over:
            return
        try:
            python = settings.enginePython()
            if not settings.isSlicers(python) and settings.chosenPackages() is None:
                self._failed(
                    _("the engine runs with {python}, which you chose; install mper there").format(python=python)
                )
                return
            removeFolder(self._part)
            self._part.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._failed(str(error))
            return
        self._next()

    def _next(self) -> None:
        if self._over:
            return
        if self._steps:
            source = ["--no-index", "--find-links", str(self._wheels)] if self._wheels else []
            arguments = module("pip", *_PIP_INSTALL, *source, "--target", str(self._part), *self._steps.pop(0))
            try:
                self._run = Run(arguments, self._log, self._next, self._failed)
            except OSError as error:
                self._failed(str(error))
            return
        if self._part.is_dir() and not self._swap():
            return
        if self._torch_by_extension and not self._torch():
            return
        check(self._ended, self._failed)

    def _swap(self) -> bool:
        """Put the new folder in the place of the old one."""
        old = self._folder.with_name(self._folder.name + ".old")
        try:
            removeFolder(old)
            if self._folder.exists():
                self._folder.rename(old)
            self._part.rename(self._folder)
        except OSError as error:
            self._failed(
                _("the folder {folder} is in use ({error}); stop the engine, close other Slicers").format(
                    folder=self._folder, error=error
                )
            )
            return False
        removeFolder(old)
        return True

    def _torch(self) -> bool:
        """The extension's own installer, which shows its progress itself."""
        self._log(_("Installing PyTorch through its extension"))
        try:
            import PyTorchUtils

            # Not through pip: the extension takes the build that fits the graphics card.
            PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, forceComputationBackend=None, torchVersionRequirement=TORCH_INSTALLED
            )
        except Exception as error:  # whatever an extension of others raises, the user is told
            self._failed(_("the extension PyTorch reports: {error}").format(error=error))
            return False
        return True

    def _ended(self, missing: MissingPackages) -> None:
        if self._over:
            return
        if missing:
            names = ", ".join([*map(_name, missing.packages), *(["torch"] if missing.torch else [])])
            self._failed(_("{names} still missing").format(names=names))
            return
        self._over = True
        self._done()

    def _failed(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        removeFolder(self._part)
        advice = (
            _("Check that the folder {folder} holds wheels for this system and Python.").format(folder=self._wheels)
            if self._wheels
            else _("Check the connection to the internet and the proxy, or install from a folder of wheels.")
        )
        self._fail(_("The installation failed: {reason}. {advice}").format(reason=reason.rstrip("."), advice=advice))


def uninstall() -> None:
    """Delete the engine's packages; the engine must be stopped.

    Raises
    ------
    OSError
        If the folder is in use.
    """
    removeFolder(settings.packagesFolder())


def removeFolder(folder: Path) -> None:
    """Take a folder away at once, and delete its thousands of files in a process that nobody waits for."""
    if not folder.exists():
        return
    gone = folder.with_name(f"{folder.name}.gone")
    number = 0
    while gone.exists():
        number += 1
        gone = folder.with_name(f"{folder.name}.gone{number}")
    folder.rename(gone)
    try:
        started = qt.QProcess.startDetached(str(settings.enginePython()), ["-c", _REMOVE, str(gone)])
    except OSError:
        started = False
    if not started:
        with contextlib.suppress(OSError):
            shutil.rmtree(gone)


def _name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("<")[0]
