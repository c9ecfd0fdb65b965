"""How far pip has come: by the size of what it has downloaded so far, and by what it prints."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

from MPERLib.callbacks import slot
from MPERLib.formatting import progress as withTime

_LOOK_MS = 500
_MEASURED_AFTER_S = 5.0  # before, the rate says nothing yet
_OFFLINE = re.compile(
    "NewConnectionError|NameResolutionError|ConnectTimeoutError|ConnectionResetError|ProxyError|Read timed out"
    "|Failed to establish a new connection|name resolution|getaddrinfo failed|Network is unreachable"
)


def isOffline(line: str) -> bool:
    """Whether a line of pip's output says that it reaches no server."""
    return bool(_OFFLINE.search(line))


class DownloadProgress:
    """The progress of pip, looked up again and again while it runs.

    Parameters
    ----------
    folder : Path
        The folder for temporary files of pip, in which it keeps each download until it has unpacked it.
    total_mb : int
        About how much it downloads in all; 0 if it installs from a folder.
    report : callable
        Takes the share that is done, None where that is not known, and a line for the user.
    """

    def __init__(self, folder: Path, total_mb: int, report: Callable[[float | None, str], None]):
        self._folder, self._total_mb, self._report = folder, total_mb, report
        self._seen: dict[Path, int] = {}  # bytes by file, also of the files that pip has deleted since
        self._unpacking = False
        self._looked = time.monotonic()
        self._downloading_s = 0.0
        self._timer = qt.QTimer()
        self._timer.interval = _LOOK_MS
        self._timer.connect("timeout()", slot(self.show, "progress of an installation"))

    def start(self) -> None:
        self._looked = time.monotonic()
        self._timer.start()
        self.show()

    def stop(self) -> None:
        self._timer.stop()

    def note(self, line: str) -> None:
        """Take a line of pip's output."""
        self._unpacking = line.startswith("Installing collected packages")

    def show(self) -> None:
        """Report how far it is."""
        for file in [] if self._unpacking else self._folder.glob("pip-unpack-*/*.whl"):
            try:
                self._seen[file] = file.stat().st_size
            except OSError:  # deleted meanwhile
                continue
        now = time.monotonic()
        self._downloading_s += 0.0 if self._unpacking else now - self._looked
        self._looked = now
        done_mb = sum(self._seen.values()) / 1e6
        if self._unpacking:
            self._report(None, _("Unpacking"))
        elif not self._total_mb:
            self._report(None, _("Reading the folder"))
        elif done_mb < 1:
            self._report(None, _("Looking up what is needed"))
        else:
            share = min(done_mb / self._total_mb, 0.99)
            seconds = self._downloading_s
            left_s = seconds * (1 / share - 1) if seconds > _MEASURED_AFTER_S else None
            text = _("Downloading: {done} of about {total} MB").format(done=round(done_mb), total=self._total_mb)
            self._report(share, withTime(text, left_s))
