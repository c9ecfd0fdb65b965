"""What both modules share: the engine and its process, MRML, installation, and the trace of callbacks.

Nothing here imports torch or waits. Of the library only its lowest level is used (volumes, labels, progress,
resources), for which `mper` is made importable: in a clone it lies two folders up, in the installed extension beside
this package.
"""

from __future__ import annotations

import sys
from pathlib import Path


def libraryHome() -> Path:
    """The folder that holds the package `mper`.

    Raises
    ------
    FileNotFoundError
        If the installation is incomplete.
    """
    here = Path(__file__).resolve()
    for home in (here.parents[1], here.parents[2]):
        if (home / "mper" / "__init__.py").is_file():
            return home
    raise FileNotFoundError(f"the package mper should lie beside {here.parent}; install the extension MPER again")


if str(libraryHome()) not in sys.path:
    sys.path.append(str(libraryHome()))
