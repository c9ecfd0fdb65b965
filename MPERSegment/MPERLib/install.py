"""The engine's packages: which are missing, and their installation into a folder of their own.

Slicer's Python and its other extensions are left alone: `pip` writes into the engine's folder only, which then replaces
the old one. PyTorch is installed by Slicer's PyTorch extension where that is present, which chooses the build that fits
the graphics card; else `torch_build` chooses it.
Offline, everything is installed from a folder of wheels. Nothing here imports what it installs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from MPERLib import settings
from MPERLib.callbacks import after, later
from MPERLib.formatting import duration
from MPERLib.install_progress import DownloadProgress, isOffline
from MPERLib.python_process import PythonProcess, module
from MPERLib.torch_build import GraphicsCard, TorchBuild

TORCH_NEEDED = "torch>=2.6,<2.14"
TORCH_INSTALLED = ">=2.8,<2.13"  # 2.13 has files whose paths are too long for Windows
_WITHOUT_DEPENDENCIES = "lightning-fabric>=2.4,<3"
_SLICERS = "SimpleITK"  # large, and Slicer's Python brings its own
_REQUIREMENTS = "engine-requirements.txt"
_PACKAGES_MB, _PACKAGES_DISK_MB = 150, 500  # all but PyTorch
_MBIT_PER_S, _UNPACK_S = 50, 60
_BESIDE = (".part", ".download", ".old")  # endings of an installation's folders, which are beside that of the packages
_RETRIES = "2"
_SWAP_TRIES, _SWAP_AGAIN_MS = 40, 250  # Windows renames no folder while a virus scanner reads the new files in it
_PIP_INSTALL = (
    *("--no-input", "--disable-pip-version-check", "--timeout", "20", "install", "--progress-bar", "off"),
    *("--no-warn-script-location", "--no-warn-conflicts", "--upgrade"),
)

# Runs in the engine's Python: prints the requirements that it does not meet, without importing any package, the NVIDIA
# card of this computer, and whether it is a Python for Intel processors on macOS (on Apple's, Rosetta runs it).
_CHECK = """
import importlib.metadata, json, os, platform, subprocess, sys
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
card = ""
if missing:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.partition("\\n")[0]
    except (OSError, subprocess.SubprocessError):
        pass
intel_mac = sys.platform == "darwin" and platform.machine() == "x86_64"
print(json.dumps({"missing": missing, "card": card, "intel_mac": intel_mac}))
"""
_REMOVE = "import shutil, sys; [shutil.rmtree(folder, ignore_errors=True) for folder in sys.argv[1:]]"


@dataclass(frozen=True)
class MissingPackages:
    """Packages that the engine's Python lacks.

    Parameters
    ----------
    packages : tuple of str
        Requirements other than PyTorch.
    torch : bool
        Whether PyTorch is missing.
    card : GraphicsCard or None
        The NVIDIA card of this computer.
    intelMac : bool
        Whether the engine's Python is one for Intel processors on macOS.
    """

    packages: tuple[str, ...]
    torch: bool
    card: GraphicsCard | None = None
    intelMac: bool = False

    def __bool__(self) -> bool:
        return bool(self.packages) or self.torch

    @property
    def installable(self) -> bool:
        """Whether there are packages for this Python: the last PyTorch for Intel processors on macOS was 2.2.2."""
        return not (self.torch and self.intelMac)

    @property
    def names(self) -> str:
        """The packages in one line."""
        return ", ".join([*map(_name, self.packages), *(["torch"] if self.torch else [])])

    @property
    def build(self) -> TorchBuild:
        """The build of PyTorch that fits this computer."""
        return TorchBuild.for_computer(self.card)

    @property
    def torchByPip(self) -> bool:
        """Whether PyTorch goes into the new folder: no extension installs it, or the old folder holds it."""
        if not self:
            return False
        return (self.torch and not hasExtension()) or (settings.packagesFolder() / "torch").is_dir()

    @property
    def downloadMB(self) -> int:
        """How much an installation downloads into the engine's folder, which is made anew, in MB, rounded up."""
        anew = bool(self.packages) or self.torchByPip
        return _PACKAGES_MB * anew + self.build.download_mb * self.torchByPip

    @property
    def diskMB(self) -> int:
        """How much space it takes on the disk, in MB, rounded up."""
        anew = bool(self.packages) or self.torchByPip
        return _PACKAGES_DISK_MB * anew + self.build.disk_mb * self.torchByPip

    def text(self) -> str:
        """How much an installation downloads, how long that takes and what it changes, for the user to agree to.

        Where none is possible, what else the user can do.
        """
        if not self:
            return _("All packages of the engine are installed.")
        if not self.installable:
            return _(
                "The engine cannot be installed here: its Python is made for Intel processors, and PyTorch has no "
                "packages for these on macOS any more. On a Mac with an Apple processor, install mper in a Python for "
                "arm64 and set the environment variable MPER_PYTHON to it; the page Installation of the documentation "
                "says how. Or use an engine on another computer (Engine > Remote)."
            )
        lines = []
        if self.downloadMB:
            text = _(
                "Before the first segmentation MPER needs some more software: about {download} of download "
                "(about {time} at 50 Mbit/s), {disk} on the disk."
            )
            seconds = self.downloadMB * 8 / _MBIT_PER_S + _UNPACK_S
            lines.append(text.format(download=_size(self.downloadMB), time=duration(seconds), disk=_size(self.diskMB)))
        byExtension = self.torch and not self.torchByPip
        if byExtension:
            text = _("PyTorch (about {download}) is installed by the PyTorch extension, which asks you first.")
            lines.append(text.format(download=_size(self.build.download_mb)))
        if (self.torch or self.torchByPip) and self.build.card:
            lines.append(_("It uses your graphics card ({card}).").format(card=self.build.card))
        elif (self.torch or self.torchByPip) and sys.platform != "darwin":
            lines.append(_("This computer has no NVIDIA graphics card that it can use; it works without one."))
        lines.append(_("Slicer and other extensions are not changed."))
        return " ".join(lines)

    def details(self) -> str:
        """The names of the packages, and the folder that they are installed into."""
        text = _("Packages: {names}. Folder: {folder}")
        return text.format(names=self.names, folder=settings.packagesFolder())


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
            answer = json.loads(lines[-1])
            missing, card = answer["missing"], GraphicsCard.from_line(answer["card"])
            intel_mac = bool(answer["intel_mac"])
        except (IndexError, KeyError, TypeError, ValueError):
            failed(_("Python did not list its packages: {reason}").format(reason=reason or " ".join(lines)[-200:]))
            return
        packages = tuple(line for line in missing if line != TORCH_NEEDED)
        done(MissingPackages(packages, TORCH_NEEDED in missing, card, intel_mac))

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
    progress : callable
        Takes the share that is done, None where that is not known, and what is being done.
    """

    def __init__(
        self,
        missing: MissingPackages,
        wheels: Path | None,
        log: Callable[[str], None],
        done: Callable[[], None],
        failed: Callable[[str], None],
        progress: Callable[[float | None, str], None],
    ):
        self._log, self._done, self._fail, self._progress = log, done, failed, progress
        self._missing, self._wheels = missing, wheels
        self._folder = settings.packagesFolder()
        self._part, self._downloads, self._old = (
            self._folder.with_name(self._folder.name + ending) for ending in _BESIDE
        )
        self._process: PythonProcess | None = None
        self._over = self._offline = self._changed = False
        self._swap_tries = _SWAP_TRIES
        self._steps: list[list[str]] = []
        torch_by_pip = missing.torchByPip or (missing.torch and wheels is not None)
        if missing.packages or torch_by_pip:
            with_dependencies = [line for line in requirements() if line != _WITHOUT_DEPENDENCIES]
            if (
                not any(line.startswith(_SLICERS) for line in missing.packages)
                and not (self._folder / _SLICERS).is_dir()
            ):
                with_dependencies = [line for line in with_dependencies if not line.startswith(_SLICERS)]
            self._steps = [with_dependencies, ["--no-deps", _WITHOUT_DEPENDENCIES]]
            if torch_by_pip:
                index = ["--index-url", missing.build.index] if missing.build.index and wheels is None else []
                self._steps.append([*index, f"torch{TORCH_INSTALLED}"])
        self._torch_by_extension = missing.torch and not torch_by_pip
        self._watch = DownloadProgress(self._downloads, 0 if wheels else missing.downloadMB, progress)
        later(self._begin, "installation begins", self._failed)

    def stop(self) -> None:
        """Cancel it; what was installed before stays."""
        self._over = True
        self._watch.stop()
        if self._process is not None:
            self._process.stop(self._clear)
        else:
            self._clear()

    def _begin(self) -> None:
        if self._over:
            return
        try:
            python = settings.enginePython()
            if not settings.isSlicers(python) and settings.chosenPackages() is None:
                self._failed(_("the engine uses {python}, which you chose; install mper there").format(python=python))
                return
            _setAside(self._part)
            _setAside(self._downloads)
            _deleteAside(self._folder)
            self._part.parent.mkdir(parents=True, exist_ok=True)
            free_mb = shutil.disk_usage(self._part.parent).free // 1_000_000
            needed_mb = self._missing.diskMB + self._missing.downloadMB
            if free_mb < needed_mb:
                text = _("the disk is full: {needed} are needed in {folder}, {free} are free")
                folder = self._part.parent
                self._failed(text.format(needed=_size(needed_mb), folder=folder, free=_size(free_mb)))
                return
            self._downloads.mkdir()
        except OSError as error:
            self._failed(str(error))
            return
        self._watch.start()
        self._next()

    def _next(self) -> None:
        if self._over:
            return
        if self._steps:
            source = ["--no-index", "--find-links", str(self._wheels)] if self._wheels else []
            arguments = module(
                "pip", *_PIP_INSTALL, "--retries", _RETRIES, *source, "--target", str(self._part), *self._steps.pop(0)
            )
            places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self._downloads))
            try:
                self._process = PythonProcess(arguments, self._onLine, self._onEnded, added=places)
            except OSError as error:
                self._failed(str(error))
            return
        if self._part.is_dir() and not self._swap():
            return
        if self._torch_by_extension and not self._torch():
            return
        self._watch.stop()
        self._progress(None, _("Checking"))
        later(self._check, "installation is checked", self._failed)  # starting a process takes a moment

    def _check(self) -> None:
        if not self._over:
            self._process = check(self._onChecked, self._failed)

    def _onLine(self, line: str) -> None:
        self._offline = self._offline or isOffline(line)
        self._watch.note(line)
        self._log(line)

    def _onEnded(self, reason: str | None) -> None:
        if reason is None:
            self._next()
        else:
            self._failed(reason)

    def _swap(self) -> bool:
        """Replace the old folder by the new one; False if that failed, or `_next` will try it again."""
        try:
            if self._folder.exists():
                _setAside(self._old)
                self._folder.rename(self._old)
            self._part.rename(self._folder)
            self._changed = True
        except OSError as error:
            if self._old.exists() and not self._folder.exists():
                with contextlib.suppress(OSError):
                    self._old.rename(self._folder)  # the packages of before
                self._changed = not self._folder.exists()
            if isinstance(error, PermissionError) and self._swap_tries:
                self._swap_tries -= 1
                after(_SWAP_AGAIN_MS, self._next, "packages take their place", self._failed)
                return False
            self._failed(
                _("the folder {folder} is in use ({error}); stop the engine and close other Slicer windows").format(
                    folder=self._folder, error=error
                )
            )
            return False
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
        later(self._clear, "remains of the installation are removed")
        later(self._done, "installation has ended")

    def _failed(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._watch.stop()
        self._clear()
        if self._offline and self._wheels is None:
            self._fail(
                _(
                    "No connection to the internet; nothing was changed. Connect this computer, or ask your IT "
                    "department for the proxy, and click Install again. On a computer without internet, click Install "
                    "from a folder."
                )
            )
            return
        advice = (
            _("Check that the folder {folder} holds wheels for this system and Python.").format(folder=self._wheels)
            if self._wheels
            else _("See Details, and click Install again.")
        )
        text = (
            _("The installation failed: {reason}. {advice}")
            if self._changed
            else _("The installation failed; nothing was changed: {reason}. {advice}")
        )
        self._fail(text.format(reason=reason.rstrip("."), advice=advice))

    def _clear(self) -> None:
        """Remove what is not complete, and the folder that was replaced; not one that nothing has replaced."""
        for folder in (self._part, self._downloads, *([self._old] if self._folder.exists() else [])):
            with contextlib.suppress(OSError):  # in use for another moment; the next installation removes it
                _setAside(folder)
        _deleteAside(self._folder)


def uninstall() -> None:
    """Delete the engine's packages, and what interrupted installations left; the engine must be stopped.

    Raises
    ------
    OSError
        If the folder is in use.
    """
    folder = settings.packagesFolder()
    _setAside(folder)
    for ending in _BESIDE:
        with contextlib.suppress(OSError):  # in use by an installation that was just cancelled, and ends with it
            _setAside(folder.with_name(folder.name + ending))
    _deleteAside(folder)


def _setAside(folder: Path) -> None:
    """Rename a folder, if it is there, so that its name is free at once; `_deleteAside` deletes it."""
    if not folder.exists():
        return
    gone = folder.with_name(f"{folder.name}.gone")
    number = 0
    while gone.exists():
        number += 1
        gone = folder.with_name(f"{folder.name}.gone{number}")
    folder.rename(gone)


def _deleteAside(folder: Path) -> None:
    """Delete what was set aside beside the packages, also by a Slicer whose deletion was interrupted.

    One detached process deletes the thousands of files: each start of one takes a moment.
    """
    wanted = re.compile(f"{re.escape(folder.name)}({'|'.join(map(re.escape, _BESIDE))})?\\.gone[0-9]*")
    folders = [path for path in folder.parent.glob("*.gone*") if wanted.fullmatch(path.name)]
    if not folders:
        return
    try:
        started = qt.QProcess.startDetached(str(settings.enginePython()), ["-c", _REMOVE, *map(str, folders)])
    except OSError:
        started = False
    if not started:
        for path in folders:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


def _name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("<")[0]


def _size(megabytes: float) -> str:
    """``350 MB``, ``3.1 GB``."""
    if megabytes < 1000:
        return _("{n} MB").format(n=round(megabytes))
    return _("{n} GB").format(n=f"{megabytes / 1000:.1f}")
