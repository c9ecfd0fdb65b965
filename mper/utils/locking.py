"""A lock between processes that ends with the process that holds it.

The file locks of the operating system: a killed process leaves the file, never the lock, so that no lock is stale.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mper.utils.coded import Coded

_POLL_S = 0.02
# What a file system without locks answers: Lustre that is mounted without flock, SMB on macOS, NFS without its service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(path: Path, timeout_s: float = 30.0) -> Iterator[None]:
    """Hold the lock on the file `path` (created if missing, and kept) for the length of a with block.

    Raises
    ------
    TimeoutError
        If another process holds it for longer than `timeout_s`.
    OSError
        If the disk has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        end = time.monotonic() + timeout_s
        while not _try_lock_or_tell(descriptor, path.parent):
            if time.monotonic() > end:
                raise TimeoutError(f"another program has held {path} for {timeout_s:.0f} s; end it or try again later")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _try_lock_or_tell(descriptor: int, folder: Path) -> bool:
    try:
        return _try_lock(descriptor)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        line = f"the disk of {folder} has no file locks, which keep two programs from changing it at once; "
        line += "take a folder on a local disk, or ask for it to be mounted with locks (Lustre: with the option flock)"
        raise OSError(Coded(line, "no-file-locks", folder=str(folder))) from error


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock on `path`; several processes may ask at the same time.

    On a disk without locks nobody does.
    """
    try:
        descriptor = os.open(path, _TO_ASK)
    except _NOT_HELD:
        return False
    try:
        return not _try_shared(descriptor)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    _TO_ASK = os.O_RDWR
    _NOT_HELD: tuple[type[OSError], ...] = (
        FileNotFoundError,
        PermissionError,
    )  # nobody can lock a file that is read-only

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _try_shared(descriptor: int) -> bool:
        for _ in range(
            5
        ):  # Windows' C library has no shared locks: another process that asks lets go at once, a holder does not
            if _try_lock(descriptor):
                return True
            time.sleep(_POLL_S)
        return False

else:
    import fcntl

    _TO_ASK = os.O_RDONLY  # enough for a shared lock, also on a read-only disk
    _NOT_HELD: tuple[type[OSError], ...] = (FileNotFoundError,)

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _try_shared(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
