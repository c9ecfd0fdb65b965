"""An array on its way to the engine: written to a temporary file in slabs, which Qt sends by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import qt
from slicer.i18n import tr as _

from MPERLib import callbacks
from MPERLib.http_client import SLAB_BYTES, VOXEL_TYPES, Client, ErrorCallback, JsonCall

_PREFIX = "mper-upload-"
_FOLDERS = ("mper-stage-", "mper-dicom-")  # of scans that are being added, and of masks that are being exported
_HOUR_S = 3600.0


class UploadCall(JsonCall):
    """An array on its way to the engine; the answer is JSON.

    It is first written to a temporary file, a slab at each turn of the event loop, which then is sent by Qt.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        array: np.ndarray,
        header: Mapping[str, Any],
        done: Callable[[Any], None],
        failed: ErrorCallback | None,
        progress: Callable[[float], None] | None,
        name: str,
    ):
        super().__init__(done, failed, name)
        self._client = client
        self._path = path
        self._array = array
        self._header = dict(header)
        self._progress = progress or (lambda fraction: None)
        self._written = 0
        self._qfile: Any = None
        self._file: Any = None
        self._temporary: Path | None = None

    def start(self) -> None:
        """Begin; raises nothing."""
        array = self._array
        if array.dtype.name not in VOXEL_TYPES or array.ndim != 3:
            words = _("voxels of type {type} cannot be sent; convert the volume with the module Cast Scalar Volume")
            self.fail(words.format(type=array.dtype.name))
            return
        self._dtype = np.dtype(VOXEL_TYPES[array.dtype.name]).newbyteorder("<")
        self._header |= {"shape": list(array.shape), "dtype": self._dtype.name}
        try:
            handle, name = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-", suffix=".raw")
            self._temporary = Path(name)
            self._file = os.fdopen(handle, "wb")
        except OSError as error:
            self.fail(_("no temporary file can be written ({error}); free some disk space").format(error=error))
            return
        self._slab = max(1, SLAB_BYTES // max(1, array[:1].size * self._dtype.itemsize))
        self._next(self._writeSlab)

    def _next(self, step: Callable[[], None]) -> None:
        callbacks.later(step, f"{self._name} {step.__name__.lstrip('_')}", self._raised)

    def _writeSlab(self) -> None:
        if self.over:
            return
        stop = min(self._written + self._slab, self._array.shape[0])
        try:
            self._file.write(np.ascontiguousarray(self._array[self._written : stop], dtype=self._dtype).data)
        except OSError as error:
            self.fail(_("no temporary file can be written ({error}); free some disk space").format(error=error))
            return
        self._written = stop
        self._progress(0.5 * stop / max(1, self._array.shape[0]))
        self._next(self._writeSlab if stop < self._array.shape[0] else self._send)

    def _send(self) -> None:
        if self.over:
            return
        self._file.close()
        del self._array
        self._qfile = qt.QFile(str(self._temporary))
        if not self._qfile.open(qt.QIODevice.ReadOnly):
            self.fail(_("the temporary file {file} cannot be read; try again").format(file=self._temporary))
            return
        request = self._client.request(self._path, "application/octet-stream")
        request.setRawHeader(b"MPER-Array", json.dumps(self._header).encode())
        self.follow(self._client.send("POST", request, self._qfile))
        self._connect("uploadProgress(qint64,qint64)", self._onSent)

    def _onSent(self, sent: int, total: int) -> None:
        if not self.over and total > 0:
            self._progress(0.5 + 0.5 * sent / total)

    def _cleanUp(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._qfile is not None and self._reply is not None and self._reply.isRunning():
            return  # Qt still reads it; _onFinished comes
        self._removeFile()

    def _onFinished(self) -> None:
        super()._onFinished()
        self._removeFile()

    def _removeFile(self) -> None:
        if self._qfile is not None:
            self._qfile.close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()


def removeLeftovers() -> None:
    """Delete temporary files of Slicers that died: no upload takes an hour, no scan a day to be read or exported."""
    home, now = Path(tempfile.gettempdir()), time.time()
    for path in home.glob(f"{_PREFIX}*.raw"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _HOUR_S:
                path.unlink()
    for path in (path for prefix in _FOLDERS for path in home.glob(f"{prefix}*")):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink() and now - path.stat().st_mtime > 24 * _HOUR_S:
                shutil.rmtree(path, ignore_errors=True)
