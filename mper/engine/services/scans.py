"""Scans that clients have sent: files in the engine's spool folder, mapped when they are read.

An upload goes to disk as it comes in. A client's scans are bounded: the least recently used one that no job needs makes
room for a new one. The spool of an engine that was killed is removed when the next one starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from mper.datasets.case import voxels_sha256
from mper.engine.arrays import HEADER, ArrayHeader, parse_header
from mper.engine.auth import too_large
from mper.engine.errors import Refused
from mper.engine.settings import Limits
from mper.utils.locking import is_locked, locked
from mper.volume import Volume

_PREFIX = "mper-engine-"
_LOCK = ".lock"
_AT_ONCE = 2**20  # bytes gathered before they are written
_SPARE = 500 * 2**20  # bytes of the disk that uploads leave free
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


@dataclass(frozen=True, eq=False)
class Upload:
    """An array that has come in whole: its header, and the file that holds it."""

    header: ArrayHeader
    path: Path

    def open(self) -> npt.NDArray[Any]:
        """The array, mapped."""
        return self.header.open(self.path)

    def remove(self) -> None:
        """Remove the file."""
        _remove(self.path)


async def receive(request: Request, folder: Path, limits: Limits) -> Upload:
    """Take in an array as it arrives, in a new file.

    Raises
    ------
    Refused
        422 if header or length are wrong, 413 if it is too large, 408 if the client stalls.
    """
    header = parse_header(request.headers.get(HEADER))
    if header.nbytes > limits.upload_bytes:
        raise too_large(header.nbytes, limits.upload_bytes)
    told = request.headers.get("content-length")
    if told is not None and int(told) != header.nbytes:
        raise _wrong_length(int(told), header)
    if shutil.disk_usage(folder).free < header.nbytes + _SPARE:
        raise Refused(409, "the engine's disk is nearly full; make room there, or send less (a smaller region)")
    path = folder / f"upload-{secrets.token_hex(8)}"
    try:
        with path.open("xb") as file:
            taken = 0
            gathered = bytearray()
            pieces = request.stream().__aiter__()
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces, None), limits.stall_s)
                except asyncio.TimeoutError:
                    raise Refused(408, f"nothing came for {limits.stall_s:.0f} s; send the array again") from None
                if piece is not None:
                    taken += len(piece)
                    if taken > header.nbytes:
                        raise _wrong_length(taken, header)
                    gathered += piece
                if gathered and (piece is None or len(gathered) >= _AT_ONCE):
                    await run_in_threadpool(file.write, gathered)
                    gathered = bytearray()
                if piece is None:
                    break
        if taken != header.nbytes:
            raise _wrong_length(taken, header)
    except BaseException as error:
        _remove(path)
        if isinstance(error, ClientDisconnect):
            raise Refused(408, "the connection ended in the middle of the array; send it again") from error
        raise
    return Upload(header, path)


def _wrong_length(found: int, header: ArrayHeader) -> Refused:
    shape = "x".join(str(n) for n in header.shape)
    return Refused(
        422, f"the body has {found} bytes, {shape} voxels of {header.dtype.name} have {header.nbytes}; send all of it"
    )


class Scan:
    """A client's scan."""

    def __init__(self, client: str, upload: Upload):
        self.id = secrets.token_hex(8)
        self.client = client
        self.bytes = upload.header.nbytes
        self.used = time.monotonic()
        self.users = 0
        self._upload = upload
        self._sha256: str | None = None
        self._hashing = threading.Lock()

    def volume(self) -> Volume:
        """Voxels (mapped) and where they lie.

        Raises
        ------
        Refused
            422 if the upload told no affine.
        """
        geometry = self._upload.header.geometry
        if geometry is None:
            raise Refused(422, f"the header {HEADER} tells no affine; a scan needs one, or spacing_known false")
        return Volume(self._upload.open(), geometry)

    def sha256(self) -> str:
        """Checksum of its voxels, see `mper.datasets.case.voxels_sha256`; computed once."""
        with self._hashing:
            if self._sha256 is None:
                self._sha256 = voxels_sha256(self.volume())
            return self._sha256

    def hash_ahead(self) -> None:
        """Begin to compute the checksum beside other work: a large scan needs half a second."""

        def work() -> None:
            with contextlib.suppress(OSError):  # the scan is gone, and nobody will ask
                self.sha256()

        threading.Thread(target=work, name=f"sha256-{self.id}", daemon=True).start()

    def remove(self) -> None:
        """Remove the file."""
        self._upload.remove()


class ScanStore:
    """All scans of all clients.

    Parameters
    ----------
    folder : Path
        Where uploads lie.
    limits : Limits
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder = folder
        self._limits = limits
        self._scans: dict[str, Scan] = {}
        self._lock = threading.Lock()

    def add(self, client: str, upload: Upload) -> Scan:
        """Keep an upload as a scan; the client's least recently used ones make room.

        Raises
        ------
        Refused
            422 if it is not fit to be a scan, 409 if all room is taken by scans that jobs need.
        """
        scan = Scan(client, upload)
        try:
            scan.volume()
            with self._lock:
                self._make_room(client, scan.bytes)
                self._scans[scan.id] = scan
        except BaseException:
            scan.remove()
            raise
        return scan

    def get(self, client: str, scan_id: str) -> Scan:
        """A client's scan.

        Raises
        ------
        Refused
            404 if it has none of that id.
        """
        scan = self._scans.get(scan_id)
        if scan is None or scan.client != client:
            raise Refused(
                404, f"there is no scan {scan_id!r}; it was never here, or made room for others: send it again"
            )
        scan.used = time.monotonic()
        return scan

    @contextlib.contextmanager
    def using(self, client: str, scan_id: str) -> Iterator[Scan]:
        """A client's scan, which is not removed for the length of a with block."""
        with self._lock:
            scan = self.get(client, scan_id)
            scan.users += 1
        try:
            yield scan
        finally:
            with self._lock:
                scan.users -= 1
                if not scan.users and scan.id not in self._scans:
                    scan.remove()

    def remove(self, client: str, scan_id: str) -> None:
        """Forget a scan; its file stays as long as a job needs it."""
        with self._lock:
            self._forget(self.get(client, scan_id))

    def expire(self) -> None:
        """Forget what nobody has used for long: a patient's voxels do not stay where nobody needs them."""
        with self._lock:
            for scan in list(self._scans.values()):
                if not scan.users and time.monotonic() - scan.used > self._limits.keep_s:
                    self._forget(scan)

    def _forget(self, scan: Scan) -> None:
        del self._scans[scan.id]
        if not scan.users:
            scan.remove()

    def _make_room(self, client: str, wanted: int) -> None:
        own = sorted((s for s in self._scans.values() if s.client == client), key=lambda s: s.used)
        held = sum(scan.bytes for scan in own)
        for scan in own:
            if held + wanted <= self._limits.scans_bytes:
                return
            if not scan.users:
                self._forget(scan)
                held -= scan.bytes
        if held + wanted > self._limits.scans_bytes:
            raise Refused(409, "no room for another scan while jobs need the others; wait for one to end")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows keeps a file that is mapped; it goes with the spool
        path.unlink()
