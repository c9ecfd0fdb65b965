"""Where the files that come with the program lie: models, a sample scan, terminology.

Three homes: in an installed wheel they are inside the package (``mper/_resources``); in a clone,
and in a built Slicer extension, the folder ``Resources`` stands beside the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_HOMES = (_PACKAGE / "_resources", _PACKAGE.parent / "Resources")


def _find(name: str) -> Path:
    for home in _HOMES:
        if (home / name).exists():
            return home / name
    looked = " or ".join(str(home) for home in _HOMES)
    raise FileNotFoundError(f"{name} should have come with the program but is not in {looked}; install mper again")


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
        Folder or zip; that it is a sound model is seen when it is read.

    Raises
    ------
    FileNotFoundError
        If there is no such model; tells which there are.
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
