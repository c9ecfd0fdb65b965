"""What both modules share: the engine and its session, MRML nodes, installation, widgets and callbacks.

Nothing here imports torch or blocks. Of the library only level 0 is used (volumes, labels, strokes, resources), for
which `mper` is made importable: in a clone it lies two folders up, in the installed extension next to this package.
"""

from __future__ import annotations

import sys
from pathlib import Path

from slicer.i18n import tr as _


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
    text = _("the package mper was not found next to {folder}; install the extension MPER again")
    raise FileNotFoundError(text.format(folder=here.parent))


if str(libraryHome()) not in sys.path:
    sys.path.append(str(libraryHome()))
