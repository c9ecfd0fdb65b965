"""Settings of the user on this computer: folders of the engine and of datasets, the Python that runs the engine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import qt
from slicer.i18n import tr as _

PYTHON_KEY = "MPER/EnginePython"
FOLDER_KEY = "MPER/EngineFolder"
ROOTS_KEY = "MPER/Roots"
CURRENT_MODEL_KEY = "MPER/CurrentModel"  # the model in use: "la", or DATASET/NAME for its current version
PREVIOUS_MODEL_KEY = "MPER/PreviousModel"  # the id, with its version, of the model that was in use before
_MODEL_OF, _PREVIOUS_OF = "MPER/ModelOf/", "MPER/PreviousModelOf/"  # and the code of a structure
MODEL_KEYS = (CURRENT_MODEL_KEY, PREVIOUS_MODEL_KEY, _MODEL_OF, _PREVIOUS_OF)
AUTHOR_KEY = "MPER/Author"
FIRST_MODEL = "la"  # in use until the trainer puts another one in use


def userFolder() -> Path:
    """A short folder of the user's own, for what is large and can be fetched again; paths on Windows are limited."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "MPER"


def packagesFolder() -> Path:
    """The folder of the engine's packages; packages of one Python serve no other."""
    return chosenPackages() or userFolder() / f"py{sys.version_info.major}{sys.version_info.minor}"


def chosenPackages() -> Path | None:
    """The folder of packages that the user chose: the variable MPER_PACKAGES, else the setting."""
    chosen = os.environ.get("MPER_PACKAGES") or setting(FOLDER_KEY)
    return Path(chosen) if chosen else None


def isSlicers(python: Path) -> bool:
    """Whether this is Slicer's own Python, not one that the user chose."""
    return "slicer" in python.name.lower()


def engineLog() -> Path:
    """The file that the engine's messages go to."""
    return userFolder() / "engine.log"


def enginePython() -> Path:
    """The Python that runs the engine: the user's choice, else Slicer's.

    Raises
    ------
    FileNotFoundError
        If there is none; says where to choose one.
    """
    chosen = setting(PYTHON_KEY) or os.environ.get("MPER_PYTHON") or shutil.which("PythonSlicer")
    if chosen and Path(chosen).is_file():
        return Path(chosen)
    raise FileNotFoundError(
        _(
            "Python was not found ({tried}); set the environment variable MPER_PYTHON to a Python and start again"
        ).format(tried=chosen or "PythonSlicer")
    )


def datasetFolder() -> Path:
    """Where this user's datasets are kept unless another folder is chosen."""
    documents = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
    return Path(str(documents) or Path.home()) / "MPER"


def roots() -> list[str]:
    """The folders of this computer whose datasets the engine may open, as far as they exist."""
    return [str(folder) for folder in (datasetFolder(), *_addedRoots()) if Path(folder).is_dir()]


def addRoot(folder: str | Path) -> None:
    """Let the engine open the datasets in `folder` from its next start on."""
    known = _addedRoots()
    if str(folder) not in (*known, str(datasetFolder())):
        setSetting(ROOTS_KEY, json.dumps([*known, str(folder)]))


def _addedRoots() -> list[str]:
    try:
        return [str(folder) for folder in json.loads(setting(ROOTS_KEY) or "[]")]
    except (TypeError, ValueError):  # somebody wrote into the settings by hand
        return []


def lastFolder(key: str, otherwise: Path) -> Path:
    """The folder that the user chose last in a dialog; the first of `otherwise` and its parents that there is, else."""
    known = (Path(setting(key)),) if setting(key) else ()
    return next((folder for folder in (*known, otherwise, *otherwise.parents) if folder.is_dir()), Path.home())


def modelInUse(structures: Iterable[str] = ()) -> str:
    """The id of the model that is in use: for the first of these structures that has one of its own, else the last."""
    own = (setting(_MODEL_OF + structure) for structure in structures)
    return next(filter(None, own), "") or setting(CURRENT_MODEL_KEY) or FIRST_MODEL


def previousModel(structures: Iterable[str] = ()) -> str:
    """The id of the model that was in use before, "" if none was."""
    own = [setting(_PREVIOUS_OF + structure) for structure in structures]
    return next(filter(None, own), "") or setting(PREVIOUS_MODEL_KEY)


def useModel(model: str, before: str, structures: Iterable[str]) -> None:
    """Put a model in use for its structures; `before` was in use until now."""
    for structure in structures:
        setSetting(_MODEL_OF + structure, model)
        setSetting(_PREVIOUS_OF + structure, before)
    setSetting(CURRENT_MODEL_KEY, model)
    setSetting(PREVIOUS_MODEL_KEY, before)


def setting(key: str) -> str:
    """The value of a setting, "" where there is none."""
    value = qt.QSettings().value(key, "")
    return "" if value is None else str(value)


def setSetting(key: str, value: str) -> None:
    """Store a value in the user's settings."""
    qt.QSettings().setValue(key, value)
