"""The files of a scan, and their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DETACHED = (".mhd", ".nhdr", ".hdr")  # headers whose voxels are in other files of the same name
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan.

    Parameters
    ----------
    paths : tuple of Path
    bytes : int
        Of all together.
    modified_ns : int
        When the newest was changed.
    """

    paths: tuple[Path, ...]
    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, scan: Path, files: Sequence[Path] = ()) -> ScanFiles:
        """The files of a scan: `files` where they are known, else those at `scan`, a file or a folder.

        Raises
        ------
        OSError
            If one cannot be looked up.
        """
        paths = tuple(sorted(files or _files_at(scan)))
        stats = [path.stat() for path in paths]
        return cls(paths, sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0))

    def sha256(self) -> str:
        """Of the file; of the sorted checksums of its files where there are several."""
        digests = sorted(file_sha256(path) for path in self.paths)
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()

    def entry(self) -> dict[str, Any]:
        """The entry of a manifest; reads every file."""
        return {
            "files": len(self.paths),
            "bytes": self.bytes,
            "modified_ns": self.modified_ns,
            "sha256": self.sha256(),
        }

    def are(self, entry: dict[str, Any]) -> bool:
        """Whether these are the files of an entry; they are read only where size or time of change differ."""
        if len(self.paths) != entry.get("files") or self.bytes != entry.get("bytes"):
            return False
        return self.modified_ns == entry.get("modified_ns") or self.sha256() == entry.get("sha256")


def file_sha256(path: Path) -> str:
    """Checksum of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files_at(scan: Path) -> list[Path]:
    if scan.is_dir():
        return [path for path in scan.iterdir() if path.is_file() and not path.name.startswith(".")]  # DICOM
    if scan.suffix.lower() in _DETACHED:
        return [path for path in scan.parent.iterdir() if path.is_file() and path.stem == scan.stem]
    return [scan]
