"""Surfaces as files for other programs: VTP, PLY and STL, in LPS mm, each written by itself in a few lines.

====  =======  ===========================================================
file  scalars  where coordinates and smoothing are stated
====  =======  ===========================================================
.vtp  yes      XML comment, and the field data array ``SPACE`` of 3D Slicer
.ply  yes      comments of the header; binary little-endian
.stl  no       the 80 bytes of the header; binary
====  =======  ===========================================================

A further format is one function more in `_WRITERS`. VTK is no dependency of the library: it is large, Slicer brings
its own, and these three formats are simple; tests read each file back with VTK.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.measurement.surface import METHOD, Surface
from mper.utils.files import write_atomically

_SPACE = "SPACE=LPS"  # as 3D Slicer writes and reads it


def write_surface(path: Path, surface: Surface) -> None:
    """Write a surface; the ending of the name decides the format.

    Parameters
    ----------
    path : Path
        Ends in .vtp, .ply or .stl.
    surface : Surface

    Raises
    ------
    ValueError
        If the ending is another one, or the surface has no triangle.
    OSError
        If it cannot be written; nothing is left behind.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"cannot write {path}: its name must end in {', '.join(_WRITERS)}")
    if not len(surface.triangles):
        raise ValueError(f"cannot write {path}: the surface has no triangle")
    write_atomically(path, _WRITERS[path.suffix.lower()](surface))


def encode_surface(ending: str, surface: Surface) -> bytes:
    """The bytes of a file of that ending (.vtp, .ply, .stl)."""
    return b"".join(_WRITERS[ending](surface))


def _ply(surface: Surface) -> Iterator[bytes]:
    names = list(surface.scalars)
    header = ["ply", "format binary_little_endian 1.0", f"comment {_SPACE}", "comment unit mm", f"comment {METHOD}"]
    header += [f"element vertex {len(surface.points_mm)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz", *names)]
    header += [f"element face {len(surface.triangles)}", "property list uchar int vertex_indices", "end_header"]
    yield ("\n".join(header) + "\n").encode("ascii")
    columns = [surface.points_mm, surface.normals, *(surface.scalars[name][:, None] for name in names)]
    yield np.hstack(columns).astype("<f4").tobytes()
    faces = np.empty(len(surface.triangles), [("count", "u1"), ("points", "<i4", 3)])
    faces["count"], faces["points"] = 3, surface.triangles
    yield faces.tobytes()


def _stl(surface: Surface) -> Iterator[bytes]:
    corners = surface.points_mm[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    yield f"{_SPACE} mm; {METHOD}".encode("ascii")[:80].ljust(80)
    yield struct.pack("<I", len(corners))
    facets = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    facets["normal"], facets["corners"] = normals, corners
    yield facets.tobytes()


def _vtp(surface: Surface) -> Iterator[bytes]:
    count = len(surface.triangles)
    space = np.frombuffer(b"LPS\0", np.uint8)
    text = [
        '<?xml version="1.0"?>',
        f"<!-- {_SPACE} mm; {METHOD} -->",
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">',
        "<PolyData>",
        "<FieldData>",
        f'<Array type="String" Name="SPACE" NumberOfTuples="1" format="binary">{_encoded(space)}</Array>',
        "</FieldData>",
        f'<Piece NumberOfPoints="{len(surface.points_mm)}" NumberOfVerts="0" NumberOfLines="0" NumberOfStrips="0" '
        f'NumberOfPolys="{count}">',
        "<Points>",
        _array("Points", surface.points_mm.astype("<f4"), 3),
        "</Points>",
        "<Polys>",
        _array("connectivity", surface.triangles.astype("<i4")),
        _array("offsets", np.arange(3, 3 * count + 1, 3, dtype="<i4")),
        "</Polys>",
        '<PointData Normals="Normals">',
        _array("Normals", surface.normals.astype("<f4"), 3),
        *(_array(name, values.astype("<f4")) for name, values in surface.scalars.items()),
        "</PointData>",
        "</Piece>",
        "</PolyData>",
        "</VTKFile>",
    ]
    yield ("\n".join(text) + "\n").encode("ascii")


def _array(name: str, values: npt.NDArray[np.generic], components: int = 1) -> str:
    kind = {"f": "Float32", "i": "Int32"}[values.dtype.kind]
    return (
        f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{components}" format="binary">'
        f"{_encoded(values)}</DataArray>"
    )


def _encoded(values: npt.NDArray[np.generic]) -> str:
    data = values.tobytes()
    return base64.b64encode(struct.pack("<Q", len(data)) + data).decode("ascii")


_WRITERS: dict[str, Callable[[Surface], Iterator[bytes]]] = {".vtp": _vtp, ".ply": _ply, ".stl": _stl}
SURFACE_ENDINGS = tuple(_WRITERS)
