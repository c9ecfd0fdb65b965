"""The h5 files that the semi-supervised literature passes around.

Two layouts, neither with a voxel spacing:

- UA-MT, BCP, MPER (left atrium): datasets ``image`` and ``label``, axes x, y, z; read as (z, y, x).
- SSL4MIS, WSL4MIS (ACDC): ``image``, ``label``, often ``scribble``, axes slice, row, column.

A file with ``scribble`` is of the second kind; so is one whose first axis is shorter than its last, since in both
layouts the slices are fewer than the rows and columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mper.utils.files import check_file
from mper.volume import Geometry, Volume


def read_h5(path: Path) -> dict[str, Volume]:
    """Every 3-D dataset of an h5 file by name, (k, j, i), of unknown spacing.

    Raises
    ------
    ValueError
        If the file is damaged or has no 3-D ``image`` or ``label``, or its datasets differ in shape.
    """
    import h5py

    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            arrays = {
                name: item[()]
                for name, item in file.items()
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf"
            }
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is not a whole h5 file ({str(error).splitlines()[0]})") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no dataset of numbers"
    volumes = {name: array for name, array in arrays.items() if array.ndim == 3 and array.size}
    if not {"image", "label"} & set(volumes):
        raise ValueError(f"{path} holds {told}; a 3-D dataset 'image' or 'label' is needed")
    if len({array.shape for array in volumes.values()}) > 1:
        raise ValueError(f"{path} holds datasets of different shapes: {told}")
    shape = next(iter(volumes.values())).shape
    slices_first = "scribble" in volumes or shape[0] < shape[2]
    geometry = Geometry.unknown(shape if slices_first else shape[::-1])
    return {
        name: Volume(array if slices_first else np.ascontiguousarray(array.transpose(2, 1, 0)), geometry)
        for name, array in volumes.items()
    }
