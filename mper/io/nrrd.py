"""NRRD files (.nrrd, and .nhdr with its data file), see https://teem.sourceforge.net/nrrd/format.html .

Read here rather than by ITK, which takes a spacing of NaN for 1 and cannot say that a file tells none. A grid of
unknown spacing is written without `space` and `space directions`, and a file that has neither these nor `spacings`
is read as of unknown spacing.
"""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.io.files import byte_chunks, data_file, gzip_chunks, read_array, storable
from mper.utils.files import check_file, write_atomically
from mper.volume import Geometry, Volume

_NAMES = {  # the first is the one that we write
    "i1": ("signed char", "int8", "int8_t", "char"),
    "u1": ("unsigned char", "uchar", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("unsigned short", "ushort", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("unsigned int", "uint", "uint32", "uint32_t"),
    "i8": ("long long int", "longlong", "long long", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("unsigned long long int", "ulonglong", "unsigned long long", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPES = {name: code for code, names in _NAMES.items() for name in names}
_TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
}
_TO_LPS |= {"left-anterior-superior": (1, -1, 1), "las": (1, -1, 1)}
_SPATIAL_KINDS = {"domain", "space", "???", "none"}
_MAX_HEADER = 1 << 22


@dataclass(frozen=True, eq=False)
class Nrrd:
    """What an NRRD file holds.

    Parameters
    ----------
    layers : (n, k, j, i) array
        n is 1 for an image; a segmentation with overlapping segments has several layers.
    geometry : Geometry
    keys : mapping of str to str
        The file's key/value pairs.
    kind : str
        What the first axis counts ("list", "rgb-color", ...), "" where n is 1.
    """

    layers: npt.NDArray[np.generic]
    geometry: Geometry
    keys: Mapping[str, str]
    kind: str


def read(path: Path) -> Nrrd:
    """Read `path` with all its layers and keys.

    Raises
    ------
    ValueError
        If the file is not a whole NRRD of three spatial axes.
    FileNotFoundError
        If it or its data file does not exist.
    """
    check_file(path)
    with path.open("rb") as stream:
        fields, keys = _read_header(stream, path)
        try:
            sizes = [int(n) for n in fields["sizes"].split()]
            code = _TYPES.get(" ".join(fields["type"].lower().split()))
            if code is None:
                raise ValueError(f"voxels of type {fields['type']!r} are not supported")
            if len(sizes) != int(fields["dimension"]) or min(sizes) < 1:
                raise ValueError(f"sizes {fields['sizes']!r} do not fit dimension {fields['dimension']!r}")
            dtype = np.dtype(code).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
            extra = _extra_axis(fields, sizes)
            geometry = _geometry(fields, sizes, extra)
        except KeyError as error:
            raise ValueError(f"{path} is not a whole NRRD file: its header lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        name = fields.get("data file", fields.get("datafile"))
        if name is None:
            flat = _read_voxels(stream, fields, dtype, sizes, path)
        else:
            data_path = data_file(path, name)
            with data_path.open("rb") as data:
                flat = _read_voxels(data, fields, dtype, sizes, data_path)
    voxels = flat.reshape(sizes[::-1])
    kind = ""
    if extra is not None:
        voxels = np.moveaxis(voxels, len(sizes) - 1 - extra, 0)
        kind = _per_axis(fields, "kinds", len(sizes))[extra].lower()
    layers = np.ascontiguousarray(voxels.reshape((-1, *geometry.shape)))
    return Nrrd(layers, geometry, keys, kind if len(layers) > 1 else "")


def write(path: Path, volume: Volume, keys: Mapping[str, str] | None = None) -> None:
    """Write `volume` (gzip) with `keys` as key/value pairs."""
    array = storable(volume.array)
    geometry = volume.geometry
    lines = ["NRRD0004", f"type: {_NAMES[array.dtype.str[1:]][0]}", "dimension: 3"]
    if geometry.spacing_known:
        lines.append("space: left-posterior-superior")
    lines.append("sizes: " + " ".join(str(n) for n in geometry.shape[::-1]))
    if geometry.spacing_known:
        columns = [geometry.affine[:3, axis] for axis in (2, 1, 0)]
        lines.append("space directions: " + " ".join(_vector(column) for column in columns))
    lines += ["kinds: domain domain domain", "endian: little", "encoding: gzip"]
    if geometry.spacing_known:
        lines.append("space origin: " + _vector(geometry.affine[:3, 3]))
    for key, value in (keys or {}).items():
        lines.append(f"{key}:=" + value.replace("\\", "\\\\").replace("\n", "\\n"))
    header = ("\n".join(lines) + "\n\n").encode("utf-8")
    write_atomically(path, (piece for part in ([header], gzip_chunks(byte_chunks(array))) for piece in part))


def _vector(values: npt.NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"  # repr: the shortest text that reads back exactly


def _read_header(stream: BufferedIOBase, path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The fields (names in lower case) and the key/value pairs; leaves the stream at the voxels."""
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    if not re.match(rb"NRRD\d{4}\s*$", stream.readline(64)):
        raise ValueError(f"{path} is not an NRRD file: it does not begin with NRRD000n")
    while (raw := stream.readline(_MAX_HEADER)).strip():
        line = raw.decode("utf-8", errors="replace").strip("\r\n")
        if line.startswith("#"):
            continue
        separator = re.search(r":=|: ?", line)
        if separator is None:
            raise ValueError(f"{path} is not a whole NRRD file: its header has the line {line[:60]!r}")
        name, value = line[: separator.start()], line[separator.end() :]
        if separator.group() == ":=":
            keys[name] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)
        else:
            fields[name.strip().lower()] = value.strip()
    return fields, keys


def _per_axis(fields: Mapping[str, str], name: str, dimension: int) -> list[str]:
    """The words of a per-axis field, "none" for each axis where the field is absent."""
    if name not in fields:
        return ["none"] * dimension
    words = re.findall(r"\([^)]*\)|[^\s()]+", fields[name])
    if len(words) != dimension:
        raise ValueError(f"{name!r} has {len(words)} entries for {dimension} axes")
    return words


def _extra_axis(fields: Mapping[str, str], sizes: list[int]) -> int | None:
    """The one axis that is not spatial, None where all three are."""
    dimension = len(sizes)
    if dimension < 3:
        raise ValueError(f"it holds a {dimension}-D image; a volume of several slices is needed")
    if dimension == 3:
        return None
    directions = _per_axis(fields, "space directions", dimension)
    kinds = [kind.lower() for kind in _per_axis(fields, "kinds", dimension)]
    if "space directions" in fields:
        extra = [axis for axis, direction in enumerate(directions) if direction.lower() == "none"]
    else:
        extra = [axis for axis, kind in enumerate(kinds) if kind not in _SPATIAL_KINDS]
        extra = extra or [axis for axis, size in enumerate(sizes) if size == 1 and axis >= 3]
    if dimension == 4 and len(extra) == 1:
        return extra[0]
    raise ValueError(
        f"it holds a {dimension}-D image ({'x'.join(map(str, sizes))}); one volume of three axes is needed"
    )


def _geometry(fields: Mapping[str, str], sizes: list[int], extra: int | None) -> Geometry:
    axes = [axis for axis in range(len(sizes)) if axis != extra][::-1]  # in the order k, j, i
    shape = [sizes[axis] for axis in axes]
    directions = _per_axis(fields, "space directions", len(sizes))
    spacings = _per_axis(fields, "spacings", len(sizes))
    affine = np.eye(4)
    if "space directions" in fields:
        sign = np.array(_TO_LPS.get(fields.get("space", "").lower(), (1, 1, 1)), dtype=np.float64)
        for column, axis in enumerate(axes):
            affine[:3, column] = sign * _numbers(directions[axis])
        if "space origin" in fields:
            affine[:3, 3] = sign * _numbers(fields["space origin"])
    elif "spacings" in fields and all(spacings[axis].lower() != "nan" for axis in axes):
        lengths = [abs(float(spacings[axis])) for axis in axes]
        affine[:3, :3] = np.eye(3)[:, ::-1] * lengths
    else:
        return Geometry.unknown(shape)
    k, j, i = shape
    return Geometry(affine, (k, j, i))


def _numbers(vector: str) -> npt.NDArray[np.float64]:
    values = np.array([float(word) for word in vector.strip("() ").split(",")])
    if values.shape != (3,):
        raise ValueError(f"a direction or origin has {len(values)} components, three were expected")
    return values


def _read_voxels(
    stream: BufferedIOBase, fields: Mapping[str, str], dtype: np.dtype, sizes: list[int], path: Path
) -> npt.NDArray[np.generic]:
    encoding = fields.get("encoding", "").lower()
    try:
        lines, skip = int(fields.get("line skip", "0")), int(fields.get("byte skip", "0"))
    except ValueError as error:
        raise ValueError(f"cannot read {path}: line skip or byte skip is not a whole number") from error
    for _ in range(lines):
        stream.readline()
    shape = (int(np.prod(sizes, dtype=np.int64)),)
    if skip < 0 and encoding == "raw":
        stream.seek(-min(shape[0] * dtype.itemsize, path.stat().st_size), 2)  # the voxels are the file's end
    if encoding == "raw":
        stream.seek(max(skip, 0), 1)
        return read_array(stream, dtype, shape, path)
    if encoding in ("gzip", "gz"):
        unpacked: gzip.GzipFile | bz2.BZ2File = gzip.GzipFile(fileobj=stream)
    elif encoding in ("bzip2", "bz2"):
        unpacked = bz2.BZ2File(stream)
    elif encoding in ("ascii", "text", "txt"):
        return _read_text(stream, dtype, shape, path)
    else:
        raise ValueError(f"cannot read {path}: its encoding {encoding!r} is not one of raw, gzip, bzip2, ascii")
    with unpacked:
        if skip > 0:
            unpacked.read(skip)
        return read_array(unpacked, dtype, shape, path)


def _read_text(stream: BufferedIOBase, dtype: np.dtype, shape: tuple[int], path: Path) -> npt.NDArray[np.generic]:
    try:
        values = np.array(stream.read().split(), dtype=np.float64 if dtype.kind == "f" else np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: a voxel is not a number") from error
    if values.shape != shape:
        raise ValueError(f"{path} is truncated: its header announces {shape[0]} voxels, it holds {len(values)}")
    return values.astype(dtype.newbyteorder("="))
