"""Files and folders that are written whole or not at all, under names that every system allows."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import json
import os
import platform
import re
import shutil
import time
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mper.utils.coded import Coded

_LONGEST_BYTES = 255  # of a name, on all common file systems
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]')
_ATTEMPTS = 40 if os.name == "nt" else 1  # at a rename onto a file that somebody reads, which Windows refuses
_FOLDER_S = 10.0 if os.name == "nt" else 0.0  # for a virus scanner that reads new files: Windows refuses until it ends
_AGAIN_S = 0.05
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


def check_name(name: str, what: str) -> str:
    """`name` with composed accents (NFC), if every system can use it as the name of one folder.

    Raises
    ------
    ValueError
        If it is empty, too long, hidden, or holds what some system does not allow.
    """
    name = nfc(name)
    fits = 0 < len(name) <= 128 and name == name.strip(" ") and name[:1] != "." and name[-1:] != "."
    fits = fits and len(name.encode("utf-8", errors="replace")) <= _LONGEST_BYTES
    if not fits or re.search(_NOT_IN_NAMES, name) or name.split(".")[0].casefold() in _RESERVED:
        raise ValueError(
            Coded(
                f"{name!r:.150} cannot be the name of a {what}: take up to 128 letters (255 bytes), digits, spaces, "
                "'-', '_' and '.', begin with a letter or a digit, and take none that Windows keeps for devices (CON)",
                "name-unusable",
                name=name[:150],
            )
        )
    return name


def nfc(text: str) -> str:
    """`text` with composed accents: two names that look the same are then the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def existing_name(folder: Path, name: str) -> str:
    """How the entry of `folder` is written that is called `name` but for composed accents; `name` if there is none.

    macOS and some archives decompose accents; a folder that they wrote is found by the name that a person types.
    """
    if not name.isascii() and not (folder / name).exists():
        with contextlib.suppress(OSError):
            return next((entry.name for entry in folder.iterdir() if nfc(entry.name) == nfc(name)), name)
    return name


def temporary_sibling(target: Path) -> Path:
    """A path in the folder of `target` that nobody else uses, and that every listing leaves out.

    It names computer and process, so that `mper.utils.cleanup` recognises what a killed program has left.
    """
    return target.parent / f".{this_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.part"


@functools.cache
def this_host() -> str:
    """Eight digits for the computer, whose name may be that of a person."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def rename_folder(source: Path, target: Path) -> bool:
    """Rename a folder; False if a folder of that name exists. On Windows it tries for ten seconds.

    Raises
    ------
    PermissionError
        If another program still has a file of it open then, or renaming is not allowed.
    """
    end = time.monotonic() + _FOLDER_S
    while True:
        try:
            source.rename(target)  # every system refuses to rename onto a folder that holds something
            return True
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY) or target.exists():
                return False
            if not isinstance(error, PermissionError) or time.monotonic() >= end:
                raise
        time.sleep(_AGAIN_S)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder; unlike with `shutil.copytree` the first error ends it, and is the error that it is."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            copy_folder(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)


def read_json(path: Path) -> dict[str, Any]:
    """Read an object.

    Raises
    ------
    ValueError
        If the file holds none.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            Coded(f"{path} is damaged ({error}); restore it from a backup", "file-damaged", path=str(path))
        ) from error
    if not isinstance(entry, dict):
        raise ValueError(
            Coded(
                f"{path} is damaged (an object was expected); restore it from a backup", "file-damaged", path=str(path)
            )
        )
    return entry


def write_json(path: Path, entry: Mapping[str, Any], *, new: bool = False) -> None:
    """Write an object that a person can read, whole or not at all; a `new` file never replaces another."""
    chunks = [json.dumps(entry, indent=1, ensure_ascii=False).encode("utf-8"), b"\n"]
    if new:
        create_atomically(path, chunks)
    else:
        write_atomically(path, chunks)


def read_written(path: Path) -> str:
    """The text of a file that a person wrote: UTF-8, or UTF-16 with its mark, which Windows' PowerShell writes.

    Raises
    ------
    ValueError
        If it is something else.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 or UTF-16; save it as UTF-8 in a text editor") from error


def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    write_atomically(path, [text.encode("utf-8")])


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to the name of another one, which it replaces; for two seconds, where somebody reads that.

    Raises
    ------
    PermissionError
        If that somebody goes on, or renaming is not allowed.
    """
    for attempt in range(_ATTEMPTS):
        try:
            source.replace(target)
            return
        except PermissionError:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(_AGAIN_S)


def check_file(path: Path) -> None:
    """Raise FileNotFoundError unless `path` is a file."""
    if not path.is_file():
        what = "is a folder, a file was expected" if path.is_dir() else "does not exist"
        raise FileNotFoundError(Coded(f"{path} {what}", "file-missing", path=str(path)))


def is_dicom_file(path: Path) -> bool:
    """Whether `path` starts as DICOM does: a preamble with DICM, or (files without preamble) group 0002 or 0008."""
    with path.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM" or head[:8] == b"\x02\x00\x00\x00UL\x04\x00":
        return True
    return head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and (head[4:6].isalpha() or head[6:8] == b"\x00\x00")


def write_atomically(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file whole or not at all: `path` holds all of `chunks`, or what it held before.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    OSError
        If it cannot be written (no permission, disk full); nothing is left behind.
    """
    _write(path, chunks, lambda temporary: replace_file(temporary, path))


def create_atomically(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that does not exist, whole or not at all; of two programs that try at once one succeeds.

    Raises
    ------
    FileExistsError
        If it exists.
    FileNotFoundError, OSError
        As `write_atomically`.
    """

    def place(temporary: Path) -> None:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            path.open("xb").close()
            replace_file(temporary, path)

    _write(path, chunks, place)


def _write(path: Path, chunks: Iterable[bytes | memoryview], place: Callable[[Path], object]) -> None:
    """Write under a temporary name in the folder of `path`; `place` then gives the file its own name."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: a folder of that name is in the way")
    temporary = temporary_sibling(path)
    try:
        with temporary.open("xb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())  # a full disk may only be reported here
        place(temporary)
    except OSError as error:
        described = type(error)(f"cannot write {path}: {error.strerror or error}")
        described.errno = error.errno
        raise described from error
    finally:
        temporary.unlink(missing_ok=True)
