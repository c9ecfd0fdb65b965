"""Bytes in and out of files: whole or not at all, and every failure in one line."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

COMPRESSION = 2  # of zlib: two to four times faster than its usual 6, for a few percent of size on scans
_CHUNK = 1 << 24


def data_file(header: Path, name: str) -> Path:
    """The file of voxels that `header` names; it must stand beside it, so that no file leads elsewhere.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    path = header.parent / name
    if not name or not path.is_file() or path.resolve().parent != header.parent.resolve():
        raise FileNotFoundError(f"cannot read {header}: its data file {name!r} is not one file beside it")
    return path


def read_array(stream: BufferedIOBase, dtype: np.dtype, shape: Sequence[int], path: Path) -> npt.NDArray[np.generic]:
    """An array of `dtype` and `shape` from the stream's next bytes, in the machine's byte order.

    Raises
    ------
    ValueError
        If the stream ends early, its compression is damaged, or the array would not fit in memory.
    """
    try:
        array = np.empty(tuple(shape), dtype)
    except (MemoryError, ValueError) as error:
        size = "x".join(str(n) for n in shape)
        raise ValueError(
            f"{path} announces {size} voxels of {dtype}, more than fits in memory; is it damaged?"
        ) from error
    view = array.reshape(-1).view(np.uint8).data
    filled = 0
    try:
        while filled < len(view):
            chunk = stream.read(min(_CHUNK, len(view) - filled))
            if not chunk:
                break
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        while stream.read(_CHUNK):  # to the end, where gzip and bzip2 check their checksums
            pass
    except (EOFError, OSError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is truncated or damaged after {filled} of {len(view)} bytes of voxels ({reason})"
        ) from error
    if filled < len(view):
        raise ValueError(f"{path} is truncated: its header announces {len(view)} bytes of voxels, it holds {filled}")
    return array.astype(dtype.newbyteorder("="), copy=False)


def storable(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """`array` contiguous, little-endian and of a type that every volume format knows (bool and float16 are widened).

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
    for start in range(0, len(view), _CHUNK):
        yield view[start : start + _CHUNK]


def gzip_chunks(chunks: Iterable[bytes | memoryview]) -> Iterable[bytes]:
    """`chunks` as one gzip stream; the same bytes for the same input (no time stamp)."""
    squeeze = zlib.compressobj(COMPRESSION, wbits=31)
    for chunk in chunks:
        yield squeeze.compress(chunk)
    yield squeeze.flush()
