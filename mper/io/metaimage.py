"""MetaImage files (.mha, and .mhd with its data file), see https://itk.org/Wiki/ITK/MetaIO/Documentation .

Read here rather than by ITK, which prints its troubles on stderr. A grid of unknown spacing is written without
ElementSpacing, and a file without it (and without ElementSize) is read as of unknown spacing; other programs take it
for 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from io import BufferedIOBase, BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.io.files import COMPRESSION, byte_chunks, data_file, read_array, storable
from mper.utils.files import check_file, write_atomically
from mper.volume import Geometry, Volume

_NAMES = {
    "i1": "MET_CHAR",
    "u1": "MET_UCHAR",
    "i2": "MET_SHORT",
    "u2": "MET_USHORT",
    "i4": "MET_INT",
    "u4": "MET_UINT",
    "i8": "MET_LONG_LONG",
    "u8": "MET_ULONG_LONG",
    "f4": "MET_FLOAT",
    "f8": "MET_DOUBLE",
}
_TYPES = {name: code for code, name in _NAMES.items()} | {"MET_LONG": "i4", "MET_ULONG": "u4"}
_MAX_LINES = 1000


def read(path: Path) -> Volume:
    """Read a MetaImage of one volume.

    Raises
    ------
    ValueError
        If it is no whole MetaImage of one volume of real numbers on an orthogonal grid.
    FileNotFoundError
        If it or its data file does not exist.
    """
    check_file(path)
    with path.open("rb") as stream:
        fields = _read_header(stream, path)
        try:
            sizes = [int(n) for n in fields["DimSize"].split()]
            if len(sizes) != int(fields["NDims"]) or min(sizes) < 1:
                raise ValueError(f"DimSize {fields['DimSize']!r} does not fit NDims {fields['NDims']!r}")
            geometry = _geometry(fields, sizes)
            code = _TYPES.get(fields["ElementType"])
            if code is None or int(fields.get("ElementNumberOfChannels", "1")) != 1:
                raise ValueError("its voxels are colours, vectors or of an unknown type; real numbers are needed")
            if not _is(fields, "BinaryData", True):
                raise ValueError("its voxels are text; convert it to a binary MetaImage")
        except KeyError as error:
            raise ValueError(f"{path} is not a whole MetaImage file: its header lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        big = _is(fields, "BinaryDataByteOrderMSB", False) or _is(fields, "ElementByteOrderMSB", False)
        dtype = np.dtype(code).newbyteorder(">" if big else "<")
        name = fields["ElementDataFile"]
        if name.upper() == "LOCAL":
            return Volume(_read_voxels(stream, fields, dtype, geometry, path), geometry)
        data_path = data_file(path, name)
        with data_path.open("rb") as data:
            return Volume(_read_voxels(data, fields, dtype, geometry, data_path), geometry)


def write(path: Path, volume: Volume) -> None:
    """Write `volume` compressed, with its voxels in the same file."""
    array = storable(volume.array)
    # MetaImage tells the compressed size in its header, so the compressed voxels are held in memory.
    squeeze = zlib.compressobj(COMPRESSION)
    packed = [squeeze.compress(chunk) for chunk in byte_chunks(array)] + [squeeze.flush()]
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = True", f"CompressedDataSize = {sum(len(p) for p in packed)}"]
    if volume.geometry.spacing_known:
        origin, spacing, direction = volume.geometry.itk
        axes = np.asarray(direction).reshape(3, 3).T  # the file lists the directions of i, j, k one after the other
        lines.append("TransformMatrix = " + _numbers_text(axes.reshape(-1)))
        lines.append("Offset = " + _numbers_text(origin))
        lines.append("ElementSpacing = " + _numbers_text(spacing))
    lines.append("DimSize = " + " ".join(str(n) for n in array.shape[::-1]))
    lines.append(f"ElementType = {_NAMES[array.dtype.str[1:]]}")
    lines.append("ElementDataFile = LOCAL")
    write_atomically(path, [("\n".join(lines) + "\n").encode("ascii"), *packed])


def _numbers_text(values: npt.ArrayLike) -> str:
    return " ".join(repr(float(v)) for v in np.asarray(values))


def _read_header(stream: BufferedIOBase, path: Path) -> dict[str, str]:
    """The header's fields; leaves the stream at the voxels."""
    fields: dict[str, str] = {}
    for _ in range(_MAX_LINES):
        line = stream.readline(1 << 16).decode("utf-8", errors="replace")
        name, separator, value = line.partition("=")
        if not separator:
            break
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields
    raise ValueError(f"{path} is not a whole MetaImage file: its header does not end with ElementDataFile")


def _is(fields: Mapping[str, str], name: str, default: bool) -> bool:
    return fields.get(name, str(default)).lower() in ("true", "1")


def _geometry(fields: Mapping[str, str], sizes: list[int]) -> Geometry:
    dimension = len(sizes)
    if dimension < 3:
        raise ValueError(f"it holds a {dimension}-D image; a volume of several slices is needed")
    if any(n > 1 for n in sizes[3:]):
        raise ValueError(
            f"it holds a {dimension}-D image ({'x'.join(map(str, sizes))}); one volume of three axes is needed"
        )
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), np.zeros(0), dimension)
    if spacing.size == 0:
        return Geometry.unknown(sizes[2::-1])
    matrix = _numbers(fields, ("TransformMatrix", "Orientation", "Rotation"), np.eye(dimension), dimension**2)
    offset = _numbers(fields, ("Offset", "Position", "Origin"), np.zeros(dimension), dimension)
    columns = matrix.reshape(dimension, dimension)[:3, :3].T
    return Geometry.from_axes(offset[:3].tolist(), spacing[2::-1].tolist(), columns[:, ::-1], sizes[2::-1])


def _numbers(
    fields: Mapping[str, str], names: tuple[str, ...], default: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.float64]:
    for name in names:
        if name in fields:
            values = np.array([float(word) for word in fields[name].split()])
            if len(values) != count:
                raise ValueError(f"{name} has {len(values)} numbers, {count} were expected")
            return values
    return default


def _read_voxels(
    stream: BufferedIOBase, fields: Mapping[str, str], dtype: np.dtype, geometry: Geometry, path: Path
) -> npt.NDArray[np.generic]:
    try:
        skip = int(fields.get("HeaderSize", "0"))
    except ValueError as error:
        raise ValueError(f"cannot read {path}: HeaderSize is not a whole number") from error
    size = int(np.prod(geometry.shape, dtype=np.int64)) * dtype.itemsize
    if skip < 0:
        stream.seek(-min(size, path.stat().st_size), 2)  # the voxels are the file's end
    stream.seek(max(skip, 0), 1)
    if not _is(fields, "CompressedData", False):
        return read_array(stream, dtype, geometry.shape, path)
    inflate = zlib.decompressobj(47)  # zlib or gzip
    try:
        unpacked = inflate.decompress(stream.read(), size)
        while inflate.unconsumed_tail:  # to the end, where zlib checks its checksum
            inflate.decompress(inflate.unconsumed_tail, 1 << 24)
    except zlib.error as error:
        raise ValueError(f"{path} is damaged: its compression cannot be undone ({error})") from error
    if not inflate.eof:
        raise ValueError(f"{path} is truncated: its compressed voxels end early")
    return read_array(BytesIO(unpacked), dtype, geometry.shape, path)
