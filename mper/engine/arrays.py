"""Arrays over HTTP: raw little-endian bytes in C order, index (k, j, i), with the header ``MPER-Array``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from mper.engine.errors import InvalidRequest, TooLarge, UploadStalled
from mper.engine.schemas.arrays import HEADER, HEADER_SCHEMA, ArrayHeader, parse_header
from mper.engine.services.uploads import Upload, check_space, new_path, remove_file
from mper.engine.settings import Limits
from mper.volume import Geometry, Index3

_CHUNK = 2**20  # bytes that are sent, or gathered before they are written
BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
ARRAY_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": BINARY}}
ARRAY_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes of the array.",
        "content": BINARY,
        "headers": {HEADER: {"schema": HEADER_SCHEMA}},
    }
}


class ArrayResponse(StreamingResponse):
    """An array as an answer, sent in pieces; `array_response` makes one."""

    media_type = "application/octet-stream"


def array_response(
    array: npt.NDArray[Any], *, start: Index3 | None = None, geometry: Geometry | None = None
) -> ArrayResponse:
    """An array as an answer.

    Parameters
    ----------
    array : (k, j, i) array
    start : (int, int, int) or None
        Index of its first voxel in the scan, where it is a part of one.
    geometry : Geometry or None
        Where it lies; None leaves that out.
    """
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    fields: dict[str, Any] = {"shape": plain.shape, "dtype": plain.dtype.name}
    if start is not None:
        fields["start"] = tuple(int(n) for n in start)
    if geometry is not None:
        fields |= {"affine": geometry.affine.tolist(), "spacing_known": geometry.spacing_known}
    header = ArrayHeader(**fields).model_dump(exclude_unset=True)
    headers = {HEADER: json.dumps(header), "Content-Length": str(plain.nbytes), "Cache-Control": "no-store"}
    return ArrayResponse(_pieces(plain), headers=headers)


def _pieces(array: npt.NDArray[Any]) -> Iterator[memoryview]:
    flat = array.data.cast("B")
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]


async def receive_array(request: Request, header_text: str | None, folder: Path, limits: Limits) -> Upload:
    """Write an array to a new file while it arrives.

    Raises
    ------
    InvalidRequest, TooLarge, UploadStalled, Conflict, OSError
        If header or length are wrong, it is too large, the client stalls, or the disk is full; nothing is left behind.
    """
    header = parse_header(header_text)
    if header.nbytes > limits.upload_bytes:
        raise TooLarge(header.nbytes, limits.upload_bytes)
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) != header.nbytes:
        raise _wrong_length(int(declared), header)
    check_space(folder, header.nbytes)
    path = new_path(folder)
    try:
        await _write(request, path, header, limits.stall_s)
    except BaseException as error:
        remove_file(path)
        if isinstance(error, ClientDisconnect):
            raise UploadStalled("the connection ended in the middle of the array; send it again") from error
        raise
    return Upload(header, path)


async def _write(request: Request, path: Path, header: ArrayHeader, stall_s: float) -> None:
    taken = 0
    gathered = bytearray()
    pieces = request.stream().__aiter__()
    with path.open("xb") as file:
        while True:
            try:
                piece = await asyncio.wait_for(anext(pieces, None), stall_s)
            except asyncio.TimeoutError:
                raise UploadStalled(f"nothing came for {stall_s:.0f} s; send the array again") from None
            if piece is not None:
                taken += len(piece)
                if taken > header.nbytes:
                    raise _wrong_length(taken, header)
                gathered += piece
            if gathered and (piece is None or len(gathered) >= _CHUNK):
                await run_in_threadpool(file.write, gathered)
                gathered = bytearray()
            if piece is None:
                break
    if taken != header.nbytes:
        raise _wrong_length(taken, header)


def _wrong_length(found: int, header: ArrayHeader) -> InvalidRequest:
    shape = "x".join(str(n) for n in header.shape)
    return InvalidRequest(
        f"the body has {found} bytes, {shape} voxels of {header.dtype} have {header.nbytes}; send all of it"
    )
