"""Errors for people: one line for the user, the traceback in a log file.

The messages of our own errors are written for people and shown as they are. Any other error is a fault of the program:
the line then names the log. The log holds types and code positions, but no messages, arguments or paths of data, so
that it can be sent to support: it holds no patient data.
"""

from __future__ import annotations

import contextlib
import errno
import platform
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from mper import __version__
from mper.progress import Cancelled
from mper.utils.coded import Coded, changed, line_of

OK, FAILED, USAGE, CANCELLED = 0, 1, 2, 3

_PACKAGE = Path(__file__).resolve().parents[1]
_LOG_LIMIT = 1_000_000  # bytes; the log before it is kept as mper.log.1
_DISK = {
    errno.ENOSPC: Coded("the disk is full", "disk-is-full"),
    getattr(errno, "EDQUOT", -1): Coded("the disk quota is used up", "disk-quota"),  # Windows has none
    errno.EROFS: Coded("the disk is read-only", "disk-read-only"),
}
_FULL_DISK_TEXTS = ("No space left on device", "errno = 28", "(os error 28)", "(os error 112)")  # 112 on Windows


class UsageError(Exception):
    """A request that cannot be carried out as it is; the message says what to change."""


class ReportedError(Exception):
    """An error that is one line already, with its exit code."""

    def __init__(self, line: str, code: int):
        super().__init__(line)
        self.code = code


def explain(error: BaseException) -> str:
    """Any error in one line for the user; a fault of the program is logged, and the line names the log."""
    if isinstance(error, (UsageError, ReportedError)):
        return changed(line_of(error), one_line)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        line = "not enough memory; close other programs, or segment a smaller region (--roi)"
        return Coded(line, "out-of-memory")
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, ImportError) and error.name and not error.name.startswith("mper"):
        reason = one_line(str(error))
        line = f"the package {error.name} is missing or damaged ({reason}); install it: pip install {error.name}"
        return Coded(line, "package-missing", package=error.name, reason=reason)
    if str(error) and raised_by_us(error):
        return changed(line_of(error), one_line)
    if is_disk_full(error):
        return _disk_failed(_DISK[errno.ENOSPC])
    log = write_log(error)
    where = f"please send us {log}, which holds the details and no patient data" if log else "it could not be logged"
    what = one_line(f"{type(error).__name__}: {error}")
    return Coded(f"an internal error ({what}); {where}", "internal-error", what=what, log=str(log or "mper.log"))


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full; h5py and safetensors say so in errors of their own types, as text."""
    text = str(error)
    return getattr(error, "errno", None) == errno.ENOSPC or any(words in text for words in _FULL_DISK_TEXTS)


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return CANCELLED
    if isinstance(error, ReportedError):
        return error.code
    return USAGE if isinstance(error, UsageError) else FAILED


def _explain_os_error(error: OSError) -> str:
    """An error of the operating system: the file and the reason; our own messages hold both already."""
    reason = _DISK.get(error.errno or 0) or (error.strerror or "").lower()
    if error.filename is None:
        text = line_of(error)
        known = _DISK.get(error.errno or 0)
        if known and text.startswith("[Errno"):  # the system's own words
            return _disk_failed(known)
        return changed(f"{text} ({known})" if known and known not in text else text or type(error).__name__, one_line)
    line = f"{error.filename}: {reason}"
    return changed(Coded(line, "file-failed", file=str(error.filename), reason=reason), one_line)


def _disk_failed(reason: str) -> str:
    return Coded(f"{reason}; make room, or choose another disk, and try again", "disk-failed", reason=reason)


def raised_by_us(error: BaseException) -> bool:
    """Whether our own code raised the error, with a message for people, rather than a library or Python itself."""
    if not isinstance(error, (ValueError, RuntimeError)):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return not frames or _PACKAGE in Path(frames[-1][0].f_code.co_filename).resolve().parents


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())


def log_folder() -> Path:
    """The folder of the user's logs: ``~/.local/state/mper``, ``~/Library/Logs/mper``, ``%LOCALAPPDATA%/mper/Logs``."""
    import platformdirs

    if sys.platform in ("win32", "darwin"):
        return platformdirs.user_log_path("mper", appauthor=False)
    return platformdirs.user_state_path("mper")  # its path for logs would be a folder deeper


def write_log(error: BaseException) -> Path | None:
    """Add an error to the log; None where that is impossible, which must not hide the error itself."""
    with contextlib.suppress(ImportError, OSError, RuntimeError):  # RuntimeError: no home folder
        folder = log_folder()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "mper.log"
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(folder / "mper.log.1")
        with log.open("a", encoding="utf-8") as stream:
            stream.write(_entry(error))
        return log
    return None


def _entry(error: BaseException) -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    lines = [f"{now} mper {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    chain: BaseException | None = error
    while chain is not None:
        lines.append(f"  {type(chain).__module__}.{type(chain).__qualname__}")
        lines += _positions(chain.__traceback__)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return "\n".join(lines) + "\n"


def _positions(tb: TracebackType | None) -> list[str]:
    """File, line and function of each frame; files from their package on, which leaves out user names."""
    lines = []
    for frame, number in traceback.walk_tb(tb):
        parts = Path(frame.f_code.co_filename).parts
        start = max((n for n, part in enumerate(parts) if part in ("mper", "site-packages")), default=len(parts) - 1)
        lines.append(f"    {'/'.join(parts[start:])}:{number} {frame.f_code.co_name}")
    return lines
