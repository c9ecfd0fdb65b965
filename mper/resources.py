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
