"""NRRD files (.nrrd, and .nhdr with its data file), see https://teem.sourceforge.net/nrrd/format.html .

Where the volume lies is asked of ITK (`mper.io.itk`), which takes a spacing that is not stated for 1. A grid of
unknown spacing is written without `space` and `space directions`, and a file that has neither these nor `spacings`
is read as of unknown spacing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mper.io import itk
from mper.io.voxels import (
    BZIP2,
    GZIP,
    RAW,
    UnpackedStream,
    byte_chunks,
    check_size,
    data_file,
    gzip_chunks,
    read_voxels,
    storable,
)
from mper.phases import Phases
from mper.progress import Notify, ignore_notice
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
_ENCODINGS = {"raw": RAW, "gzip": GZIP, "gz": GZIP, "bzip2": BZIP2, "bz2": BZIP2}
_TEXT = ("ascii", "text", "txt")
_ALIASES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_VOXEL_FIELDS = {"data file", "line skip", "byte skip", "encoding", "endian", "content", "sample units"}
_SPATIAL_KINDS = {"domain", "space", "???", "none"}
_MAX_HEADER = 1 << 22  # bytes


@dataclass(frozen=True, eq=False)
class NrrdHeader:
    """The header of a file; its voxels are read with `read_layers`.

    Parameters
    ----------
    path : Path
    fields : mapping of str to str
        By name in lower case.
    metadata : mapping of str to str
        The key/value pairs, such as Slicer's of a segmentation.
    sizes : tuple of int
        From the fastest axis to the slowest.
    dtype : dtype
        Of the voxels in the file.
    component_axis : int or None
        The axis, as in `sizes`, that is not spatial: its entries are the layers.
    geometry : Geometry
        Of the three others.
    start : int
        Where the header ends in the file.
    """

    path: Path
    fields: Mapping[str, str]
    metadata: Mapping[str, str]
    sizes: tuple[int, ...]
    dtype: np.dtype
    component_axis: int | None
    geometry: Geometry
    start: int

    @classmethod
    def read(cls, path: Path) -> NrrdHeader:
        """Read the header of `path`.

        Raises
        ------
        ValueError
            If it is none of a volume, or of several in layers.
        FileNotFoundError
            If the file does not exist.
        """
        check_file(path)
        with path.open("rb") as stream:
            fields, metadata = _parse(stream, path)
            start = stream.tell()
        try:
            sizes = tuple(int(n) for n in fields["sizes"].split())
            code = _TYPES.get(" ".join(fields["type"].lower().split()))
            if code is None:
                raise ValueError(f"voxels of type {fields['type']!r} are not supported")
            if len(sizes) != int(fields["dimension"]) or min(sizes) < 1:
                raise ValueError(f"sizes {fields['sizes']!r} do not fit dimension {fields['dimension']!r}")
            dtype = np.dtype(code).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
            check_size(sizes, dtype)
            if "endian" not in fields and dtype.itemsize > 1 and fields.get("encoding", "").lower() not in _TEXT:
                raise ValueError(
                    f"its header does not state the byte order of voxels of {dtype.itemsize} bytes; add the line "
                    "'endian: little' or 'endian: big' to it"
                )
            component_axis = _component_axis(fields, sizes)
            geometry = _geometry(fields, sizes, component_axis)
        except KeyError as error:
            raise ValueError(f"{path} is not a whole NRRD file: its header lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        return cls(path, fields, metadata, sizes, dtype, component_axis, geometry, start)

    @property
    def component_kind(self) -> str:
        """What the entries of the component axis are ("list", "RGB-color", "time", ...)."""
        if self.component_axis is None:
            return ""
        return _per_axis(self.fields, "kinds", len(self.sizes))[self.component_axis].lower()

    @property
    def is_time_series(self) -> bool:
        """Whether the layers are volumes that follow each other, and no values of one voxel.

        3D Slicer keeps sequences as lists (of which other programs make colours and vectors) and names their items in
        ``axis 0 index values``; elsewhere volumes follow each other in the file.
        """
        if self.component_axis is None:
            return False
        if self.component_kind in ("time", *_SPATIAL_KINDS):
            return True
        named = any(f"axis {self.component_axis} index {what}" in self.metadata for what in ("type", "values"))
        last = self.component_axis == len(self.sizes) - 1
        return self.component_kind == "list" and (named or last or "DataNodeClassName" in self.metadata)

    @property
    def phases(self) -> Phases:
        """The phases of a time series, with their times where the file states them in ms or s."""
        if self.component_axis is None or not self.is_time_series:
            return Phases()
        count = self.sizes[self.component_axis]
        units = re.findall(r'"([^"]*)"', self.fields.get("units", ""))
        unit = units[self.component_axis] if len(units) == len(self.sizes) else ""
        unit = self.metadata.get(f"axis {self.component_axis} index unit", unit)
        ms = {"ms": 1.0, "s": 1000.0}.get(unit.strip().lower())
        try:
            values = [float(word) for word in self.metadata[f"axis {self.component_axis} index values"].split()]
        except (KeyError, ValueError):
            return Phases(count)
        if ms is None or len(values) != count or not np.isfinite(values).all():
            return Phases(count)
        return Phases(count, tuple(round(value * ms, 3) for value in values))

    def read_volume(self, notify: Notify = ignore_notice) -> Volume:
        """The voxels of a file of one layer.

        Raises
        ------
        ValueError
            If a voxel holds several values, the file is damaged, or it is not clear which of its bytes are voxels.
        FileNotFoundError
            If the data file does not exist.
        """
        layers = 1 if self.component_axis is None else self.sizes[self.component_axis]
        if layers > 1:
            kind = self.component_kind
            size = "x".join(str(n) for n in self.geometry.shape[::-1])
            what = f"cannot read {self.path}: it holds {layers}"
            if self.is_time_series:
                raise ValueError(
                    f"{what} volumes of {size} voxels, a 4-D image; write the one that is wanted to a file of its own"
                )
            raise ValueError(f"{what} values ({kind}) in each of {size} voxels; one real number a voxel is needed")
        self._check_units(notify)
        return Volume(self.read_layers(notify)[0], self.geometry)

    def _check_units(self, notify: Notify) -> None:
        """Note units that are not mm, which ITK does not look at."""
        units = re.findall(r'"([^"]*)"', self.fields.get("space units", self.fields.get("units", "")))
        other = sorted({unit for unit in units if unit.strip().lower() not in ("", "mm", "???", "ms", "s")})
        if other:
            notify(f"the header gives lengths in {', '.join(other)}; they are taken for mm, as ITK and 3D Slicer do")

    def read_layers(self, notify: Notify = ignore_notice) -> npt.NDArray[np.generic]:
        """The voxels, (n, k, j, i); n is 1 for an image, a segmentation with overlapping segments has several.

        Raises
        ------
        ValueError, FileNotFoundError
            As `read_volume`.
        """
        name = self.fields.get("data file")
        if name is not None and (name.split()[:1] == ["LIST"] or "%" in name):
            raise ValueError(
                f"cannot read {self.path}: its voxels are in several files ({name}); convert it to one file"
            )
        path = self.path if name is None else data_file(self.path, name)
        with path.open("rb") as file:
            file.seek(self.start if name is None else 0)
            flat = self._read_voxels(file, path, name is None, notify)
        voxels = flat.reshape(self.sizes[::-1])
        if self.component_axis is not None:
            voxels = np.moveaxis(voxels, len(self.sizes) - 1 - self.component_axis, 0)
        return np.ascontiguousarray(voxels.reshape((-1, *self.geometry.shape)))

    def _read_voxels(self, file: BinaryIO, path: Path, attached: bool, notify: Notify) -> npt.NDArray[np.generic]:
        encoding = self.fields.get("encoding", "").lower()
        if encoding not in (*_ENCODINGS, *_TEXT):
            raise ValueError(f"cannot read {self.path}: its encoding {encoding!r} is none of raw, gzip, bzip2, ascii")
        lines, skip = self._skips()
        for _ in range(lines):
            if not file.readline(_MAX_HEADER):
                raise ValueError(f"{path} is truncated: it has fewer than the {lines} lines before its voxels")
        shape = (math.prod(self.sizes),)
        if encoding in _TEXT:
            return _read_text(file, self.dtype, shape, path)
        stream = UnpackedStream(file, path, _ENCODINGS[encoding])
        array, surplus = read_voxels(stream, self.dtype, shape, skip)
        if surplus and (encoding != "raw" or not attached):
            raise ValueError(
                f"cannot read {self.path}: {path.name} holds {surplus} bytes more than its voxels, and the header does "
                "not say where they are; add 'byte skip: -1' to it where the voxels are the last bytes"
            )
        if surplus + stream.trailing:
            notify(f"{surplus + stream.trailing} bytes after the voxels of {path.name} were ignored")
        return array

    def _skips(self) -> tuple[int, int]:
        """Lines of the file, and bytes of what is unpacked, before the voxels; -1: the voxels are the last bytes."""
        try:
            lines, skip = (int(self.fields.get(name, "0")) for name in ("line skip", "byte skip"))
        except ValueError as error:
            raise ValueError(f"cannot read {self.path}: line skip or byte skip is not a whole number") from error
        if lines < 0 or skip < -1:
            raise ValueError(f"cannot read {self.path}: it skips {lines} lines and {skip} bytes")
        return lines, skip


def write(path: Path, volume: Volume, metadata: Mapping[str, str] | None = None) -> None:
    """Write `volume` (gzip) with `metadata` as key/value pairs."""
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
    for key, value in (metadata or {}).items():
        lines.append(f"{key}:=" + value.replace("\\", "\\\\").replace("\n", "\\n"))
    header = ("\n".join(lines) + "\n\n").encode("utf-8")
    write_atomically(path, (piece for part in ([header], gzip_chunks(byte_chunks(array))) for piece in part))


def _vector(values: npt.NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"  # repr: the shortest text that reads back exactly


def _parse(stream: BinaryIO, path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The fields (names in lower case) and the key/value pairs; leaves the stream at the voxels."""
    fields: dict[str, str] = {}
    metadata: dict[str, str] = {}
    if not re.match(rb"NRRD\d{4}\s*$", stream.readline(64)):
        raise ValueError(f"{path} is not an NRRD file: it does not begin with NRRD000n")
    while (raw := stream.readline(_MAX_HEADER)).strip():
        line = raw.decode("utf-8", errors="replace").strip("\r\n")
        if line.startswith("#"):
            continue
        separator = re.search(r":=|: ?", line)
        if separator is None or stream.tell() > _MAX_HEADER:
            raise ValueError(f"{path} is not a whole NRRD file: its header has the line {line[:60]!r}")
        name, value = line[: separator.start()], line[separator.end() :]
        if separator.group() == ":=":
            metadata[name] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)
            continue
        name = " ".join(name.lower().split())
        name = _ALIASES.get(name, name)
        if name in fields:
            raise ValueError(f"cannot read {path}: its header states {name!r} twice")
        fields[name] = value.strip()
        if name == "data file" and value.split()[:1] == ["LIST"]:  # to the end of the header, a file name a line
            break
    return fields, metadata


def _per_axis(fields: Mapping[str, str], name: str, dimension: int) -> list[str]:
    """The words of a per-axis field, "none" for each axis where the field is absent."""
    if name not in fields:
        return ["none"] * dimension
    words = re.findall(r"\([^)]*\)|[^\s()]+", fields[name])
    if len(words) != dimension:
        raise ValueError(f"{name!r} has {len(words)} entries for {dimension} axes")
    return words


def _component_axis(fields: Mapping[str, str], sizes: tuple[int, ...]) -> int | None:
    """The one axis that is not spatial, None where all three are."""
    dimension = len(sizes)
    if dimension < 3:
        raise ValueError(f"it holds a {dimension}-D image; a volume of several slices is needed")
    kinds = [kind.lower() for kind in _per_axis(fields, "kinds", dimension)]
    if dimension == 3:
        for count, kind in zip(sizes, kinds, strict=True):
            if kind not in _SPATIAL_KINDS:
                raise ValueError(f"it holds a 2-D image of {count} values a pixel ({kind}); a volume is needed")
        return None
    directions = _per_axis(fields, "space directions", dimension)
    if "space directions" in fields:
        extra = [axis for axis, direction in enumerate(directions) if direction.lower() == "none"]
    else:
        extra = [axis for axis, kind in enumerate(kinds) if kind not in _SPATIAL_KINDS]
        extra = extra or [axis for axis, size in enumerate(sizes) if size == 1 and axis >= 3]
    if dimension == 4 and len(extra) == 1:
        return extra[0]
    size = "x".join(map(str, sizes))
    if dimension == 4 and not extra:
        return 3  # as ITK writes 4-D images: time is the slowest of four axes in space
    raise ValueError(f"it holds a {dimension}-D image ({size}); one volume of three axes is needed")


def _geometry(fields: Mapping[str, str], sizes: tuple[int, ...], component_axis: int | None) -> Geometry:
    axes = [axis for axis in range(len(sizes)) if axis != component_axis][::-1]  # in the order k, j, i
    k, j, i = (sizes[axis] for axis in axes)
    directions = _per_axis(fields, "space directions", len(sizes))
    spacings = _per_axis(fields, "spacings", len(sizes))
    if "space directions" in fields:
        if any(re.search("none|nan", directions[axis].lower()) for axis in axes):
            raise ValueError("its space directions leave out an axis; each of the three needs a vector")
        if re.search(r"e\+?\d{2,}", fields["space directions"].lower()):  # teem takes an overflow for "not stated"
            raise ValueError(f"its space directions cannot be in mm: {fields['space directions']}")
    elif "spacings" not in fields or any(spacings[axis].lower() == "nan" for axis in axes):
        return Geometry.unknown((k, j, i))
    lines = [f"{name}: {value}" for name, value in fields.items() if name not in _VOXEL_FIELDS | {"type"}]
    header = "\n".join(["NRRD0005", "type: uchar", *lines, "encoding: raw"]) + "\n\n"
    return itk.itk_geometry(header.encode("utf-8", errors="replace"), itk.NRRD, (k, j, i))


def _read_text(stream: BinaryIO, dtype: np.dtype, shape: tuple[int], path: Path) -> npt.NDArray[np.generic]:
    try:
        values = np.array(stream.read().split(), dtype=np.float64 if dtype.kind == "f" else np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: a voxel is not a number") from error
    if values.shape != shape:
        raise ValueError(f"{path} is truncated: its header announces {shape[0]} voxels, it holds {len(values)}")
    return values.astype(dtype.newbyteorder("="))
