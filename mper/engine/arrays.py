"""Arrays over HTTP: raw little-endian bytes in C order, index (k, j, i), with the header ``MPER-Array``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.responses import StreamingResponse

from mper.engine.errors import Refused
from mper.volume import Geometry, Index3

HEADER = "MPER-Array"
DTYPES = (
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)
_LONGEST = 2048  # voxels along an axis, as `mper.io.scans.check_scan` has it
_LONGEST_HEADER = 4096  # characters
_CHUNK = 2**20  # bytes


@dataclass(frozen=True, eq=False)
class ArrayHeader:
    """What the header of an uploaded array says.

    shape, dtype : of the array; geometry : where it lies, None where the header tells no affine; start : index of its
    first voxel in the scan that it is a part of, None where it is no part.
    """

    shape: Index3
    dtype: np.dtype[Any]
    geometry: Geometry | None = None
    start: Index3 | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def open(self, path: Path) -> npt.NDArray[Any]:
        """The array in a file, mapped; what is written to it stays in memory and never reaches the file."""
        return np.memmap(path, dtype=self.dtype, mode="c", shape=self.shape)


def parse_header(text: str | None) -> ArrayHeader:
    """Read the header of an upload.

    Raises
    ------
    Refused
        422 if it is missing or malformed.
    """
    if text is None:
        raise Refused(422, f"the header {HEADER} is missing; send the array's shape and dtype in it, as JSON")
    if len(text) > _LONGEST_HEADER:
        raise Refused(422, f"the header {HEADER} has {len(text)} characters, more than {_LONGEST_HEADER}")
    try:
        entry = json.loads(text)
        shape = _index(entry["shape"], lowest=1)
        dtype = entry["dtype"]
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}; known are {', '.join(DTYPES)}")
        affine, known = entry.get("affine"), entry.get("spacing_known", True)
        if not isinstance(known, bool):
            raise ValueError(f"spacing_known {known!r}; it is true or false")
        geometry = None
        if affine is not None:
            geometry = Geometry(np.array(affine, dtype=np.float64), shape, known)
        elif not known:
            geometry = Geometry.unknown(shape)
        start = None if entry.get("start") is None else _index(entry["start"], lowest=0)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Refused(422, f"the header {HEADER} is malformed: {' '.join(words.split())}") from error
    return ArrayHeader(shape, np.dtype(dtype).newbyteorder("<"), geometry, start)


def _index(value: Any, lowest: int) -> Index3:
    fits = isinstance(value, list) and len(value) == 3 and all(type(n) is int for n in value)
    if not fits or not all(lowest <= n <= _LONGEST for n in value):
        raise ValueError(f"{value!r} given, three whole numbers of {lowest} to {_LONGEST} (k, j, i) expected")
    k, j, i = value
    return k, j, i


def array_answer(
    array: npt.NDArray[Any], *, start: Index3 | None = None, geometry: Geometry | None = None
) -> StreamingResponse:
    """An array as an answer, sent in pieces.

    Parameters
    ----------
    array : (k, j, i) array
    start : (int, int, int) or None
        Index of its first voxel in the scan, where it is a part of one.
    geometry : Geometry or None
        Where it lies, if the client is to be told.
    """
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    entry: dict[str, Any] = {"shape": list(plain.shape), "dtype": plain.dtype.name}
    if start is not None:
        entry["start"] = [int(n) for n in start]
    if geometry is not None:
        entry |= {"affine": geometry.affine.tolist(), "spacing_known": geometry.spacing_known}
    headers = {HEADER: json.dumps(entry), "Content-Length": str(plain.nbytes), "Cache-Control": "no-store"}
    return StreamingResponse(_pieces(plain), media_type="application/octet-stream", headers=headers)


def _pieces(array: npt.NDArray[Any]) -> Iterator[memoryview]:
    flat = array.data.cast("B")
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]
