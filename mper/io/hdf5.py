"""The h5 files that the semi-supervised literature passes around.

Two layouts, neither with a voxel spacing:

- UA-MT, BCP, MPER (left atrium): datasets ``image`` and ``label``, axes x, y, z; read as (z, y, x).
- SSL4MIS, WSL4MIS (ACDC): ``image``, ``label``, often ``scribble``, axes slice, row, column.

A file with ``scribble`` is of the second kind; so is one whose first axis is shorter than its last, since in both
layouts the slices are fewer than the rows and columns.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mper.io.voxels import check_size
from mper.utils.files import check_file
from mper.utils.text import first_line
from mper.volume import Geometry, Volume

_MAX_RATIO = 1100  # of deflate, the usual filter
_SMALL = 1 << 28  # bytes that may be announced whatever is stored: a mask that was never written takes no room


def read_h5(path: Path) -> dict[str, Volume]:
    """Every 3-D dataset of numbers of an h5 file by name, (k, j, i), of unknown spacing.

    Links to other files are not followed.

    Raises
    ------
    ValueError
        If the file is damaged or has no 3-D ``image`` or ``label``, or its datasets differ in shape or are too large.
    """
    import h5py

    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            found = {name: item for name in file if (item := _dataset(file, name)) is not None}
            shown = ", ".join(f"{name} {item.shape}" for name, item in found.items()) or "no dataset of numbers"
            solid = {name: item for name, item in found.items() if item.ndim == 3 and item.size}
            if not {"image", "label"} & set(solid):
                raise ValueError(f"{path} holds {shown}; a 3-D dataset 'image' or 'label' is needed")
            if len({item.shape for item in solid.values()}) > 1:
                raise ValueError(f"{path} holds datasets of different shapes: {shown}")
            arrays = {name: _read(item, path) for name, item in solid.items()}
    except (OSError, RuntimeError, KeyError, MemoryError) as error:
        reason = first_line(error)
        raise ValueError(f"{path} is not a whole h5 file ({reason})") from error
    shape = next(iter(arrays.values())).shape
    slices_first = "scribble" in arrays or shape[0] < shape[2]
    geometry = Geometry.unknown(shape if slices_first else shape[::-1])
    return {
        name: Volume(array if slices_first else np.ascontiguousarray(array.transpose(2, 1, 0)), geometry)
        for name, array in arrays.items()
    }


def _dataset(file: Any, name: str) -> Any:
    """A dataset of real numbers that lies in the file itself, else None."""
    import h5py

    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        return None
    item = file.get(name)  # None: a link to nothing
    real = isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and item.dtype.itemsize <= 8
    return item if real and item.shape is not None and not item.external and not item.is_virtual else None


def _read(item: Any, path: Path) -> npt.NDArray[np.generic]:
    """Its voxels, in the byte order of the machine and a type that every volume format has."""
    dtype = {"b": np.dtype("u1")}.get(item.dtype.kind, item.dtype.newbyteorder("="))
    if dtype == np.float16:
        dtype = np.dtype("f4")
    try:
        check_size(item.shape, dtype)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    stored = item.id.get_storage_size()
    if math.prod(item.shape) * item.dtype.itemsize > max(_SMALL, stored * _MAX_RATIO):
        raise ValueError(
            f"{path} announces {item.shape} voxels of {item.dtype.name} in {stored} bytes; it is truncated or damaged"
        )
    return np.asarray(item[()], dtype)
