"""The engine's own temporary folder, which goes with it; that of a killed engine is removed by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mper.utils.locking import is_locked, locked

_PREFIX = "mper-engine-"
_LOCK = ".lock"
_YOUNG_S = 60.0  # a spool folder may be without its lock for a moment after it was made


@contextlib.contextmanager
def spool_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for uploads that only this user can read, removed at the end; those of dead engines go first."""
    home = parent or Path(tempfile.gettempdir())
    remove_dead_spools(home)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    try:
        with locked(path / _LOCK):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_dead_spools(home: Path) -> None:
    """Remove what engines left that were killed; another user's are left alone."""
    for path in home.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if hasattr(os, "getuid") and path.lstat().st_uid != os.getuid():
                continue
            young = time.time() - path.lstat().st_mtime < _YOUNG_S
            if not path.is_symlink() and not (young and not (path / _LOCK).exists()) and not is_locked(path / _LOCK):
                shutil.rmtree(path, ignore_errors=True)
