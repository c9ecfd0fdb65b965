"""The engine's packages: which are missing, and their installation into a folder of their own.

Slicer's Python and its other extensions are left alone: `pip` writes into the engine's folder only, which then replaces
the old one. PyTorch is installed by Slicer's PyTorch extension where that is present, as it knows the graphics card.
Offline, everything is installed from a folder of wheels. Nothing here imports what it installs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from MPERLib import settings
from MPERLib.callbacks import later
from MPERLib.python_process import PythonProcess, module

TORCH_NEEDED = "torch>=2.6,<2.14"
TORCH_INSTALLED = ">=2.8,<2.13"  # 2.13 has files whose paths are too long for Windows
_WITHOUT_DEPENDENCIES = "lightning-fabric>=2.4,<3"
_SLICERS = "SimpleITK"  # large, and Slicer's Python brings its own
_REQUIREMENTS = "engine-requirements.txt"
_PIP_INSTALL = (
    *("--no-input", "--disable-pip-version-check", "install", "--progress-bar", "off"),
    *("--no-warn-script-location", "--no-warn-conflicts", "--upgrade"),
)

# Runs in the engine's Python: prints the requirements that it does not meet, without importing any package.
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
    """Packages that the engine's Python lacks.

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

    @property
    def names(self) -> str:
        """The packages in one line."""
        return ", ".join([*map(_name, self.packages), *(["torch"] if self.torch else [])])

    def text(self) -> str:
        """What an installation would download, and where to, for the user to agree to."""
        if not self:
            return _("All packages of the engine are installed.")
        lines = []
        if self.packages:
            line = _("The engine needs {names}: up to 400 MB, installed into the folder {folder}.")
            lines.append(line.format(names=", ".join(map(_name, self.packages)), folder=settings.packagesFolder()))
        if self.torch and hasExtension():
            lines.append(_("PyTorch (up to 3 GB) is installed by the PyTorch extension, which asks you first."))
        elif self.torch:
            lines.append(
                _(
                    "PyTorch (up to 3 GB) is installed into the same folder. To get the version for your graphics "
                    "card, install the PyTorch extension first."
                )
            )
        lines.append(_("Slicer and other extensions are not changed."))
        return " ".join(lines)


def requirements() -> list[str]:
    """The engine's requirements other than PyTorch, as ``name>=a,<b``."""
    file = Path(__file__).resolve().parents[1] / "Resources" / _REQUIREMENTS
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [*filter(None, lines), _WITHOUT_DEPENDENCIES]


def hasExtension() -> bool:
    """Whether Slicer's PyTorch extension is installed."""
    return importlib.util.find_spec("PyTorchUtils") is not None


def check(done: Callable[[MissingPackages], None], failed: Callable[[str], None]) -> PythonProcess | None:
    """Ask the engine's Python which packages it lacks; None after `failed` if it could not be started."""
    lines: list[str] = []

    def ended(reason: str | None) -> None:
        try:
            missing = json.loads(lines[-1])
        except (IndexError, ValueError):
            failed(_("Python did not list its packages: {reason}").format(reason=reason or " ".join(lines)[-200:]))
            return
        done(MissingPackages(tuple(line for line in missing if line != TORCH_NEEDED), TORCH_NEEDED in missing))

    try:
        return PythonProcess(["-c", _CHECK, json.dumps([*requirements(), TORCH_NEEDED])], lines.append, ended)
    except OSError as error:
        failed(str(error))
        return None


class Installation:
    """An installation of the missing packages; begin it when the user has agreed, with the engine stopped.

    The folder is built anew and replaces the old one when it is complete; after a failure the old one is not changed.

    Parameters
    ----------
    missing : MissingPackages
    wheels : Path or None
        A folder of wheels to install from, without the internet.
    log, done, failed : callable
        Take each line of pip's output; nothing; one line that says why it failed and what to do.
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
        self._process: PythonProcess | None = None
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
            if torch_by_pip or (self._folder / "torch").is_dir():  # the new folder needs torch, too
                self._steps.append([f"torch{TORCH_INSTALLED}"])
        self._torch_by_extension = missing.torch and not torch_by_pip
        later(self._begin, "installation begins", self._failed)

    def stop(self) -> None:
        """Cancel it; what was installed before stays."""
        self._over = True
        if self._process is not None:
            self._process.stop(lambda: removeFolder(self._part))
        else:
            removeFolder(self._part)

    def _begin(self) -> None:
        if self._over:
            return
        try:
            python = settings.enginePython()
            if not settings.isSlicers(python) and settings.chosenPackages() is None:
                self._failed(_("the engine uses {python}, which you chose; install mper there").format(python=python))
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
                self._process = PythonProcess(arguments, self._log, self._onEnded)
            except OSError as error:
                self._failed(str(error))
            return
        if self._part.is_dir() and not self._swap():
            return
        if self._torch_by_extension and not self._torch():
            return
        self._process = check(self._onChecked, self._failed)

    def _onEnded(self, reason: str | None) -> None:
        if reason is None:
            self._next()
        else:
            self._failed(reason)

    def _swap(self) -> bool:
        """Replace the old folder by the new one."""
        old = self._folder.with_name(self._folder.name + ".old")
        try:
            removeFolder(old)
            if self._folder.exists():
                self._folder.rename(old)
            self._part.rename(self._folder)
        except OSError as error:
            self._failed(
                _("the folder {folder} is in use ({error}); stop the engine and close other Slicer windows").format(
                    folder=self._folder, error=error
                )
            )
            return False
        removeFolder(old)
        return True

    def _torch(self) -> bool:
        """Run the extension's own installer, which shows its progress itself."""
        self._log(_("Installing PyTorch with the PyTorch extension"))
        try:
            import PyTorchUtils  # of an extension that may be missing

            # Not through pip: the extension takes the build that fits the graphics card.
            PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, forceComputationBackend=None, torchVersionRequirement=TORCH_INSTALLED
            )
        except Exception as error:  # an extension of others may raise anything
            self._failed(_("the PyTorch extension failed: {error}").format(error=error))
            return False
        return True

    def _onChecked(self, missing: MissingPackages) -> None:
        if self._over:
            return
        if missing:
            self._failed(_("{names} still missing").format(names=missing.names))
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
            else _("Check the internet connection and the proxy, or install from a folder of wheels.")
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
    """Rename a folder at once, and delete its thousands of files in a detached process."""
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
