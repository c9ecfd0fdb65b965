"""Scans that clients have sent: files in the engine's spool folder, mapped when they are read.

A client's scans are bounded: the least recently used one that no job needs makes room for a new one.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mper.datasets.scan_record import voxels_sha256
from mper.engine.errors import Conflict, InvalidRequest, NotFound
from mper.engine.schemas.arrays import HEADER
from mper.engine.services.uploads import Upload, remove_left
from mper.engine.settings import Limits
from mper.utils.coded import line_of
from mper.volume import Volume


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
        InvalidRequest
            If the upload's header has no affine.
        """
        geometry = self._upload.header.geometry
        if geometry is None:
            raise InvalidRequest(f"the header {HEADER} has no affine; a scan needs one, or spacing_known false")
        return Volume(self._upload.open(), geometry)

    def sha256(self) -> str:
        """Checksum of its voxels, see `mper.datasets.scan_record.voxels_sha256`; computed once."""
        with self._hashing:
            if self._sha256 is None:
                self._sha256 = voxels_sha256(self.volume())
            return self._sha256

    def hash_ahead(self) -> None:
        """Begin to compute the checksum in a thread: a large scan needs half a second."""

        def work() -> None:
            with contextlib.suppress(OSError):  # the scan was removed meanwhile
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
        InvalidRequest, Conflict
            If its header has no affine, its spacing cannot be, or all room is taken by scans that jobs need.
        """
        scan = Scan(client, upload)
        try:
            _check_extent(scan.volume())
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
        NotFound
            If it has none of that id.
        """
        scan = self._scans.get(scan_id)
        if scan is None or scan.client != client:
            line = f"there is no scan {scan_id!r}; it is unknown, or made room for others: send it again"
            raise NotFound(line, "no-scan")
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
        """Remove a scan; its file stays as long as a job needs it."""
        with self._lock:
            self._forget(self.get(client, scan_id))

    def expire(self) -> None:
        """Remove scans that have not been used for long: a patient's voxels stay no longer than needed."""
        with self._lock:
            for scan in list(self._scans.values()):
                if not scan.users and time.monotonic() - scan.used > self._limits.keep_s:
                    self._forget(scan)
        remove_left()

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
            raise Conflict("no room for another scan while jobs need the others; wait for one to end", "no-room")


def _check_extent(scan: Volume) -> None:
    from mper.io import check_extent

    try:
        check_extent(scan.geometry)
    except ValueError as error:
        raise InvalidRequest(line_of(error)) from error
