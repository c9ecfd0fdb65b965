"""Small volume files of every format, written byte by byte, so that any header field can be set to anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

_NIFTI_TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
_NIFTI_FIELDS = {  # name: (format, place)
    "sizeof_hdr": ("i4", 0),
    "dim": ("8i2", 40),
    "intent_code": ("i2", 68),
    "datatype": ("i2", 70),
    "bitpix": ("i2", 72),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "scl_slope": ("f4", 112),
    "scl_inter": ("f4", 116),
    "xyzt_units": ("u1", 123),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
    "magic": ("S4", 344),
}
_FORMATS, _OFFSETS = zip(*_NIFTI_FIELDS.values(), strict=True)
_NIFTI = np.dtype({"names": list(_NIFTI_FIELDS), "formats": _FORMATS, "offsets": _OFFSETS, "itemsize": 352})


def nrrd_text(*lines: str, data: bytes = bytes(24)) -> bytes:
    """An NRRD file of 2x3x4 zero bytes unless `lines` say otherwise."""
    fields = {"type": "uchar", "dimension": "3", "sizes": "4 3 2", "encoding": "raw"}
    keys = []
    for line in lines:
        name, separator, value = line.partition(": ")
        if ":=" in line or not separator:
            keys.append(line)
        else:
            fields[name] = value
    header = ["NRRD0004", *(f"{name}: {value}" for name, value in fields.items()), *keys]
    return ("\n".join(header) + "\n\n").encode() + data


def metaimage_text(*lines: str, data: bytes = bytes(24)) -> bytes:
    """A MetaImage of 2x3x4 zero bytes unless `lines` say otherwise."""
    fields = {"ObjectType": "Image", "NDims": "3", "DimSize": "4 3 2", "ElementSpacing": "1 1 1"}
    fields["ElementType"] = "MET_UCHAR"
    for line in lines:
        name, _, value = line.partition(" = ")
        fields[name] = value
    data_file = fields.pop("ElementDataFile", "LOCAL")
    header = [f"{name} = {value}" for name, value in fields.items()] + [f"ElementDataFile = {data_file}"]
    return ("\n".join(header) + "\n").encode() + data


def nifti_header(
    array: npt.NDArray[Any], affine: npt.ArrayLike, order: str = "<", **fields: Any
) -> npt.NDArray[np.void]:
    """A NIfTI-1 header whose qform and sform both are `affine`, unless `fields` say otherwise.

    Parameters
    ----------
    array : (k, j, i) array
    affine : (4, 4)
        (i, j, k, 1) to RAS.
    order : str
        Of the bytes.
    """
    affine = np.asarray(affine, np.float64)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    rotation = affine[:3, :3] / sizes
    handedness = 1 if np.linalg.det(rotation) > 0 else -1
    rotation[:, 2] *= handedness
    header = np.zeros((), _NIFTI.newbyteorder(order))
    header["sizeof_hdr"], header["magic"], header["vox_offset"], header["xyzt_units"] = 348, b"n+1", 352, 2
    header["dim"] = [array.ndim, *array.shape[::-1], *[1] * (7 - array.ndim)]
    header["datatype"] = _NIFTI_TYPES[array.dtype.str[1:]]
    header["bitpix"] = 8 * array.dtype.itemsize
    header["pixdim"][:4] = [handedness, *sizes]
    header["qform_code"] = header["sform_code"] = header["scl_slope"] = 1
    header["quatern"] = Rotation.from_matrix(rotation).as_quat(canonical=True)[:3]
    header["qoffset"] = affine[:3, 3]
    header["srow"] = affine[:3]
    for name, value in fields.items():
        header[name] = value
    return header


def nifti_bytes(array: npt.NDArray[Any], affine: npt.ArrayLike, order: str = "<", **fields: Any) -> bytes:
    """A NIfTI-1 file, see `nifti_header`."""
    header = nifti_header(array, affine, order, **fields)
    return header.tobytes() + array.astype(array.dtype.newbyteorder(order)).tobytes()


def segments(*names: str, values: Sequence[int], layers: Sequence[int]) -> list[str]:
    """Key/value pairs of a .seg.nrrd."""
    lines = ["Segmentation_MasterRepresentation:=Binary labelmap"]
    for n, (name, value, layer) in enumerate(zip(names, values, layers, strict=True)):
        lines += [f"Segment{n}_ID:=Segment_{n}", f"Segment{n}_Name:={name}"]
        lines += [f"Segment{n}_LabelValue:={value}", f"Segment{n}_Layer:={layer}"]
    return lines
