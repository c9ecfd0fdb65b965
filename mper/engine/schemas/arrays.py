"""The header `MPER-Array`, which describes the raw bytes of an array."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mper.engine.errors import InvalidRequest
from mper.volume import Geometry, Index3

HEADER = "MPER-Array"
HEADER_SCHEMA = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {"$ref": "#/components/schemas/ArrayHeader"},
}
DTYPES = (
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)
_LONGEST = 2048  # voxels along an axis, as `mper.io.scans.check_scan` has it
_LONGEST_HEADER = 4096  # characters


def _index(value: Any, lowest: int) -> Index3:
    fits = isinstance(value, (list, tuple)) and len(value) == 3 and all(type(n) is int for n in value)
    if not fits or not all(lowest <= n <= _LONGEST for n in value):
        raise ValueError(f"{value!r:.80} given, three whole numbers of {lowest} to {_LONGEST} (k, j, i) expected")
    k, j, i = value
    return k, j, i


def _known_dtype(value: Any) -> str:
    if value not in DTYPES:
        raise ValueError(f"dtype {value!r:.80}; known are {', '.join(DTYPES)}")
    return str(value)


def _true_or_false(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"spacing_known {value!r:.80}; it is true or false")
    return value


class ArrayHeader(BaseModel):
    """JSON in the header `MPER-Array`; the body is the array: little-endian, C order, index (k, j, i)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    shape: Annotated[Index3, BeforeValidator(lambda value: _index(value, 1))]
    dtype: Annotated[str, BeforeValidator(_known_dtype), Field(json_schema_extra={"enum": list(DTYPES)})]
    start: Annotated[
        Annotated[Index3, BeforeValidator(lambda value: _index(value, 0))] | None,
        Field(description="Of a part of a scan: index of its first voxel there."),
    ] = None
    affine: Annotated[
        list[list[float]] | None, Field(description="4x4, rows: from array index (k, j, i, 1) to LPS mm.")
    ] = None
    spacing_known: Annotated[bool, BeforeValidator(_true_or_false)] = True

    @cached_property
    def geometry(self) -> Geometry | None:
        """Where the array lies; None where the header has no affine."""
        if self.affine is not None:
            return Geometry(np.array(self.affine, dtype=np.float64), self.shape, self.spacing_known)
        return None if self.spacing_known else Geometry.unknown(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of the array's elements, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    def open(self, path: Path) -> npt.NDArray[Any]:
        """The array in a file, mapped; what is written to it stays in memory and never reaches the file."""
        return np.memmap(path, dtype=self.numpy_dtype, mode="c", shape=self.shape)


def parse_header(text: str | None) -> ArrayHeader:
    """Read the header of an upload.

    Raises
    ------
    InvalidRequest
        If it is missing or malformed.
    """
    if text is None:
        raise InvalidRequest(f"the header {HEADER} is missing; send the array's shape and dtype in it, as JSON")
    if len(text) > _LONGEST_HEADER:
        raise InvalidRequest(f"the header {HEADER} has {len(text)} characters, more than {_LONGEST_HEADER}")
    try:
        header = ArrayHeader.model_validate_json(text)
        header.geometry  # noqa: B018  an affine that is none is refused here
    except ValidationError as error:
        raise _malformed(_first_error(error)) from None
    except (ValueError, TypeError) as error:
        raise _malformed(str(error)) from None
    return header


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "missing":
        return f"{first['loc'][-1]!r} is missing"
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the header {HEADER} is malformed: {' '.join(reason.split())}")
