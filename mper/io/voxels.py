"""The bytes of voxels: unpacked, counted and checked on the way in; packed on the way out.

ITK is not asked for them. It fills a truncated NIfTI file with zeros, does not compare the checksums of compressed
NRRD and MetaImage files, and says nothing of bytes that are left over (docs/decisions/001-io-simpleitk.md).
"""

from __future__ import annotations

import bz2
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mper.utils.text import first_line

COMPRESSION = 2  # of zlib: two to four times faster than its usual 6, for a few percent of size on scans
MAX_BYTES = 1 << 32  # of voxels in one file: 1024 x 1024 x 1024 of 32 bits
GZIP_MAGIC = b"\x1f\x8b"
RAW, GZIP, ZLIB, BZIP2 = "raw", "gzip", "zlib", "bzip2"
_WINDOW_BITS = {GZIP: 31, ZLIB: 47}  # of zlib: the gzip format; zlib or gzip, whichever it is
_MAX_RATIO = 1032  # a byte of deflate unpacks to no more
MAX_SURPLUS = 1 << 24  # bytes around the voxels, headers of other formats for example
_CHUNK = 1 << 20


class UnpackedStream:
    """The bytes of an open file from where it stands, unpacked piece by piece.

    Parameters
    ----------
    file : BinaryIO
    path : Path
        For messages.
    packing : str or None
        RAW, GZIP (any number of members), ZLIB or BZIP2; None: GZIP where the file begins so, else RAW.
    """

    def __init__(self, file: BinaryIO, path: Path, packing: str | None = None) -> None:
        self.path = path
        self.trailing = 0  # bytes after the end of the packed data, other than zeros; known after `skip_rest`
        start = file.tell()
        if packing is None:
            packing = GZIP if file.read(2) == GZIP_MAGIC else RAW
            file.seek(start)
        ratio = {RAW: 1, BZIP2: math.inf}.get(packing, _MAX_RATIO)
        self._most = (os.fstat(file.fileno()).st_size - start) * ratio
        self._pieces = self._inflated(file, packing) if packing in _WINDOW_BITS else _plain(file, packing)
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer where the stream ends.

        Raises
        ------
        ValueError
            If the compression is damaged or ends early.
        """
        content = bytearray()
        while len(content) < count and self._next():
            content += self._take(count - len(content))
        return bytes(content)

    def fill(self, target: memoryview) -> int:
        """Fill `target` with the next bytes; gives how many there were."""
        filled = 0
        while filled < len(target) and self._next():
            piece = self._take(len(target) - filled)
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def skip_rest(self) -> int:
        """Read to the end, where the checksums stand; gives how many bytes were left.

        Raises
        ------
        ValueError
            If they are wrong, or more is left than headers and padding are long.
        """
        left = 0
        while self._next():
            left += len(self._take(_CHUNK))
            if left > MAX_SURPLUS:
                raise ValueError(
                    f"{self.path} holds more than {MAX_SURPLUS >> 20} MB beyond the voxels that its header announces; "
                    "is it the right file, and is its size in the header right?"
                )
        return left

    def check_room(self, size: int) -> None:
        """Refuse a stream that cannot hold `size` bytes however well they are packed, before any is unpacked.

        Raises
        ------
        ValueError
            If the file is too short for them.
        """
        if size > self._most:
            raise ValueError(
                f"{self.path} is truncated: its header announces {size} bytes of voxels, the file is too short for them"
            )

    def _next(self) -> bool:
        while not self._rest:
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                return False
            except (EOFError, OSError, zlib.error) as error:
                reason = first_line(error)
                raise ValueError(
                    f"{self.path} is truncated or damaged: its compression cannot be undone ({reason})"
                ) from error
        return True

    def _take(self, count: int) -> memoryview:
        piece, self._rest = self._rest[:count], self._rest[count:]
        return piece

    def _inflated(self, file: BinaryIO, packing: str) -> Iterator[bytes]:
        packed = file.read(_CHUNK)
        while True:
            inflate = zlib.decompressobj(_WINDOW_BITS[packing])
            while not inflate.eof:
                if not packed:
                    raise EOFError("it ends early")
                yield inflate.decompress(packed, _CHUNK)
                packed = inflate.unconsumed_tail or (b"" if inflate.eof else file.read(_CHUNK))
            packed = inflate.unused_data or file.read(_CHUNK)
            packed += file.read(1) if len(packed) == 1 else b""
            if packing != GZIP or packed[:2] != GZIP_MAGIC:
                break
        while packed:
            self.trailing += len(packed) if packed.strip(b"\0") else 0
            packed = file.read(_CHUNK)


def _plain(file: BinaryIO, packing: str) -> Iterator[bytes]:
    stream = bz2.BZ2File(file) if packing == BZIP2 else file
    while piece := stream.read(_CHUNK):
        yield piece


def read_voxels(
    stream: UnpackedStream, dtype: np.dtype, shape: Sequence[int], skip: int = 0
) -> tuple[npt.NDArray[np.generic], int]:
    """The stream's next bytes as an array in the machine's byte order, and how many bytes the stream holds beyond it.

    Parameters
    ----------
    skip : int
        Unpacked bytes before the voxels; -1: the voxels are the stream's last bytes.

    Raises
    ------
    ValueError
        If the stream ends early, its compression is damaged, or the array would not fit in memory.
    """
    size = math.prod(shape) * dtype.itemsize
    stream.check_room(size)
    if skip > MAX_SURPLUS:
        raise ValueError(f"{stream.path} skips {skip} bytes before its voxels, more than a header is long")
    try:
        array = np.empty(tuple(shape), dtype)
    except MemoryError as error:
        raise ValueError(f"{stream.path} needs {size} bytes for its voxels, more than there is memory") from error
    view = array.reshape(-1).view(np.uint8).data
    if skip < 0:
        last = stream.read(size + MAX_SURPLUS)[-size:]
        filled = len(last)
        view[:filled] = last
        if stream.skip_rest():
            raise ValueError(f"{stream.path} holds more than {MAX_SURPLUS >> 20} MB before its voxels")
        surplus = 0
    else:
        stream.read(skip)
        filled = stream.fill(view)
        surplus = stream.skip_rest()
    if filled < size:
        raise ValueError(f"{stream.path} is truncated: its header announces {size} bytes of voxels, it holds {filled}")
    return array.astype(dtype.newbyteorder("="), copy=False), surplus


def check_size(shape: Sequence[int], dtype: np.dtype) -> None:
    """Refuse voxels that no memory holds, before anything is made of them.

    Raises
    ------
    ValueError
        If they are more than `MAX_BYTES`.
    """
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        size = "x".join(str(n) for n in shape)
        raise ValueError(
            f"it announces {size} voxels of {dtype.name}, more than fits in memory (at most {MAX_BYTES >> 30} GiB are "
            "read); is it damaged?"
        )


def data_file(header: Path, name: str) -> Path:
    """The file of voxels that `header` names; it must stand in the header's folder or below.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    own = Path(name).parent == header.absolute().parent  # written with the whole path, and not moved since
    name = Path(name).name if own else name
    relative = own or not (windows.anchor or posix.is_absolute())
    inside = relative and ".." not in (*windows.parts, *posix.parts)
    path = header.parent / name
    if not name or not inside or not path.is_file():
        raise FileNotFoundError(
            f"cannot read {header}: its data file {name!r} is not one file in the header's folder; "
            "put it there, or convert the image to one file"
        )
    return path


def storable(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """`array` contiguous, little-endian and of a type that every volume format has (bool and float16 are widened).

    Raises
    ------
    ValueError
        If its values are not real numbers of at most 64 bits.
    """
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(
            f"voxels of type {array.dtype} cannot be written; convert them to a real type of at most 64 bits"
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def byte_chunks(array: npt.NDArray[np.generic]) -> Iterable[memoryview]:
    """The bytes of a contiguous array, piece by piece."""
    view = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(view), 16 * _CHUNK):
        yield view[start : start + 16 * _CHUNK]


def gzip_chunks(chunks: Iterable[bytes | memoryview]) -> Iterable[bytes]:
    """`chunks` as one gzip stream; the same bytes for the same input (no time stamp)."""
    compress = zlib.compressobj(COMPRESSION, wbits=31)
    for chunk in chunks:
        yield compress.compress(chunk)
    yield compress.flush()
