"""Removing the temporary files and folders (of `mper.utils.files`) that killed programs left."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from mper.utils.files import this_host

_OWNED = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{12}\.part")
_QUIET_S = 60.0
_QUIET_ELSEWHERE_S = 7 * 86400.0  # of another computer that shares the folder: its processes cannot be seen from here
_QUIET_UNOWNED_S = 3600.0  # as version 0.1 named them, without their process


def remove_unfinished(folders: Iterable[Path], unowned: bool = False) -> None:
    """Remove what ended programs left in `folders`; what a running one may still be writing stays.

    Parameters
    ----------
    folders : iterable of Path
    unowned : bool
        Also folders that do not name their process, as version 0.1 made them. For the folders of a dataset alone, where
        nobody else makes any of such a name.
    """
    for folder in folders:
        with contextlib.suppress(OSError):  # it is missing, or may not be read
            for path in folder.glob(".*.part"):
                with contextlib.suppress(OSError):  # somebody else was faster
                    if _is_dead(path, unowned):
                        _remove(path)


def _is_dead(path: Path, unowned: bool) -> bool:
    changed = path.lstat().st_mtime
    quiet_s = time.time() - changed
    owner = _OWNED.fullmatch(path.name)
    if owner is None:
        return unowned and path.is_dir() and quiet_s > _QUIET_UNOWNED_S
    if owner[1] != this_host():
        return quiet_s > _QUIET_ELSEWHERE_S
    return quiet_s > _QUIET_S and not _made_by(int(owner[2]), changed)


def _made_by(pid: int, changed: float) -> bool:
    """Whether the process of that number lives and is no newer one than what was changed then."""
    import psutil

    try:
        return psutil.Process(pid).create_time() <= changed
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # another user's
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
