"""The files that come with the program: models, a sample scan, terminology.

In an installed wheel they lie inside the package (``mper/_resources``); in a clone, and in a built Slicer extension,
in the folder ``Resources`` next to the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_HOMES = (_PACKAGE / "_resources", _PACKAGE.parent / "Resources")


def _find(name: str) -> Path:
    for home in _HOMES:
        if (home / name).exists():
            return home / name
    searched = " or ".join(str(home) for home in _HOMES)
    raise FileNotFoundError(f"{name} is part of mper but is not in {searched}; install mper again")


def models_dir() -> Path:
    """The folder of bundled models, one sub-folder each.

    Raises
    ------
    FileNotFoundError
        If the installation is incomplete; so do the others here.
    """
    return _find("Models")


def sample_scan() -> Path:
    """An LGE-MRI of the left atrium to try the program with; its source is in DATA_LICENSES.md."""
    return _find("SampleData/la.nrrd")


def terminology_dir() -> Path:
    """The folder of Slicer terminologies (``*.term.json``)."""
    return _find("Terminology")


def bundled_models() -> list[Path]:
    """The model folders that come with the program, by name."""
    return sorted(card.parent for card in models_dir().glob("*/card.json"))


def find_model(name: str) -> Path:
    """The model that a name or a path stands for.

    Parameters
    ----------
    name : str
        Name of a bundled model; else the path of a model folder, of a zip, or of a folder of versions
        (``models/<name>`` of a dataset), of which its ``current`` is taken.

    Returns
    -------
    Path
        Folder or zip; whether it is a valid model shows when it is read.

    Raises
    ------
    FileNotFoundError
        If there is no such model; the message lists those that there are.
    """
    known = {path.name: path for path in bundled_models()}
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    current = path / "current"
    if current.is_file():
        path = path / current.read_text(encoding="utf-8").strip()
    if not path.exists():
        raise FileNotFoundError(
            f"no model {name!r}; known are {', '.join(known) or 'none'}, or give the path of a model folder or zip"
        )
    return path
