"""MetaImage files (.mha, and .mhd with its data file), see https://itk.org/Wiki/ITK/MetaIO/Documentation .

Where the volume lies is asked of ITK (`mper.io.itk`), which takes a spacing that is not stated for 1. A grid of
unknown spacing is written without ElementSpacing, and a file without it (and without ElementSize) is read as of
unknown spacing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mper.io import itk
from mper.io.voxels import (
    COMPRESSION,
    RAW,
    ZLIB,
    UnpackedStream,
    byte_chunks,
    check_size,
    data_file,
    read_voxels,
    storable,
)
from mper.phases import Phases
from mper.progress import Notify, ignore_notice
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
_SPACING = ("ElementSpacing", "ElementSize")
_GRID = {name: 1 for name in (*_SPACING, "Offset", "Position", "Origin")}  # name: numbers are dimension ** this
_GRID |= {name: 2 for name in ("TransformMatrix", "Orientation", "Rotation")}
_MAX_LINES = 1000


def read(path: Path, notify: Notify = ignore_notice) -> Volume:
    """Read a MetaImage of one volume.

    Raises
    ------
    ValueError
        If it is no whole MetaImage of one volume of real numbers on an orthogonal grid.
    FileNotFoundError
        If it or its data file does not exist.
    """
    array, geometry = read_phases(path, notify)
    if len(array) > 1:
        size = "x".join(map(str, geometry.shape[::-1]))
        raise ValueError(
            f"cannot read {path}: it holds a 4-D image, {len(array)} volumes of {size} voxels; "
            "write the one that is wanted to a file of its own"
        )
    return Volume(array[0], geometry)


def phases_of(path: Path) -> Phases:
    """How many volumes a file holds.

    Raises
    ------
    ValueError, FileNotFoundError
        As `read`.
    """
    check_file(path)
    with path.open("rb") as stream:
        fields = _read_header(stream, path)
    try:
        return Phases(math.prod(max(int(n), 1) for n in fields["DimSize"].split()[3:]))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a whole MetaImage file: its DimSize is damaged ({error})") from error


def read_phases(path: Path, notify: Notify = ignore_notice) -> tuple[npt.NDArray[np.generic], Geometry]:
    """As `read`, of a file of any number of volumes: the voxels (t, k, j, i), and the grid of each volume."""
    check_file(path)
    with path.open("rb") as stream:
        fields = _read_header(stream, path)
        try:
            sizes = [int(n) for n in fields["DimSize"].split()]
            if len(sizes) != int(fields["NDims"]) or min(sizes) < 1:
                raise ValueError(f"DimSize {fields['DimSize']!r} does not fit NDims {fields['NDims']!r}")
            code = _TYPES.get(fields["ElementType"])
            if code is None or int(fields.get("ElementNumberOfChannels", "1")) != 1:
                raise ValueError("its voxels are colours, vectors or of an unknown type; real numbers are needed")
            check_size(sizes, np.dtype(code))
            geometry = _geometry(fields, sizes)
            shape = (math.prod(sizes[3:]), *geometry.shape)
            if not _is(fields, "BinaryData", True):
                raise ValueError("its voxels are text; convert it to a binary MetaImage")
            skip = int(fields.get("HeaderSize", "0"))
            packing = ZLIB if _is(fields, "CompressedData", False) else RAW
            if skip < (-1 if packing == RAW else 0):
                raise ValueError(f"its HeaderSize is {skip}, which {packing} voxels cannot have")
        except KeyError as error:
            raise ValueError(f"{path} is not a whole MetaImage file: its header lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        big = _is(fields, "BinaryDataByteOrderMSB", False) or _is(fields, "ElementByteOrderMSB", False)
        dtype = np.dtype(code).newbyteorder(">" if big else "<")
        name = fields["ElementDataFile"]
        if name.upper() == "LOCAL":
            if skip > 0:  # counted from the beginning of the file
                skip = _after_header(path, skip, stream.tell())
            array, surplus, data = *_read_voxels(stream, path, packing, dtype, shape, skip), path
    if name.upper() != "LOCAL":
        if name.split()[0].upper() == "LIST" or "%" in name:
            raise ValueError(
                f"cannot read {path}: its voxels are in several files ({name}); convert it to one .mha file"
            )
        data = data_file(path, name)
        with data.open("rb") as stream:
            array, surplus = _read_voxels(stream, data, packing, dtype, shape, skip)
        if surplus:
            raise ValueError(
                f"cannot read {path}: {data.name} holds {surplus} bytes more than its voxels, and the header does not "
                "say where they are; set HeaderSize = -1 where the voxels are the last bytes"
            )
    if surplus:
        notify(f"{surplus} bytes after the voxels of {data.name} were ignored")
    return array, geometry


def write(path: Path, volume: Volume) -> None:
    """Write `volume` compressed, with its voxels in the same file."""
    array = storable(volume.array)
    # MetaImage states the compressed size in its header, so the compressed voxels are held in memory.
    compress = zlib.compressobj(COMPRESSION)
    packed = [compress.compress(chunk) for chunk in byte_chunks(array)] + [compress.flush()]
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


def _read_header(stream: BinaryIO, path: Path) -> dict[str, str]:
    """The header's fields; leaves the stream at the voxels."""
    fields: dict[str, str] = {}
    for _ in range(_MAX_LINES):
        line = stream.readline(1 << 16).decode("utf-8", errors="replace")
        name, separator, value = line.partition("=")
        if not separator:
            break
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile" and value.strip():
            return fields
    raise ValueError(f"{path} is not a whole MetaImage file: its header does not end with ElementDataFile")


def _is(fields: Mapping[str, str], name: str, default: bool) -> bool:
    return fields.get(name, str(default)).lower() in ("true", "1")


def _geometry(fields: Mapping[str, str], sizes: list[int]) -> Geometry:
    dimension = len(sizes)
    if dimension < 3:
        raise ValueError(f"it holds a {dimension}-D image; a volume of several slices is needed")
    if dimension > 10:
        raise ValueError(f"its header announces {dimension} dimensions")
    if any(n > 1 for n in sizes[4:]):
        raise ValueError(f"it holds a {dimension}-D image ({'x'.join(map(str, sizes))}); one volume is needed")
    k, j, i = sizes[2::-1]
    if not any(name in fields for name in _SPACING):
        return Geometry.unknown((k, j, i))
    lines = ["ObjectType = Image", f"NDims = {dimension}", "DimSize = " + " ".join(map(str, sizes))]
    for name, power in _GRID.items():
        if name in fields:
            numbers = [float(word) for word in fields[name].split()]
            if len(numbers) != dimension**power:
                raise ValueError(f"{name} has {len(numbers)} numbers, {dimension**power} were expected")
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} must be finite, it is {fields[name]}")
            lines.append(f"{name} = {_numbers_text(numbers)}")
    lines += ["ElementType = MET_UCHAR", "ElementDataFile = LOCAL"]
    return itk.itk_geometry(("\n".join(lines) + "\n").encode("ascii"), itk.METAIMAGE, (k, j, i))


def _after_header(path: Path, size: int, header: int) -> int:
    """How many bytes lie between the header and the voxels of the same file, which begin at byte `size`."""
    if size < header:
        raise ValueError(
            f"cannot read {path}: its HeaderSize is {size}, but its header has {header} bytes; remove the line "
            "HeaderSize where the voxels follow the header"
        )
    return size - header


def _read_voxels(
    file: BinaryIO, path: Path, packing: str, dtype: np.dtype, shape: Sequence[int], skip: int
) -> tuple[npt.NDArray[np.generic], int]:
    """The voxels and how many bytes the file holds beyond them; `skip` counts bytes of the file, packed or not."""
    if packing == ZLIB:
        file.seek(skip, 1)
    stream = UnpackedStream(file, path, packing)
    array, surplus = read_voxels(stream, dtype, shape, 0 if packing == ZLIB else skip)
    return array, surplus + stream.trailing
