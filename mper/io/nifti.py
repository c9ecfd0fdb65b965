"""NIfTI-1 files (.nii, .nii.gz), see https://nifti.nimh.nih.gov/nifti-1 .

Read here rather than by ITK, which fills a truncated file with zeros and replaces a sheared sform by the qform, both
without a word. World coordinates are RAS in the file; the sform counts where it is set, else the qform, else the
voxel sizes. The header holds them as 32-bit floats: positions keep to about 1e-5 mm.

A grid of unknown spacing is written as the format's own defaults (no form, no unit, voxel sizes of 1) and a file that
says no more than that is read as of unknown spacing.
"""

from __future__ import annotations

import gzip
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.io.files import byte_chunks, gzip_chunks, read_array, storable
from mper.utils.files import check_file, write_atomically
from mper.volume import Geometry, Volume

_HEADER = np.dtype(
    [
        ("sizeof_hdr", "<i4"),
        ("unused_analyze", "S35"),
        ("dim_info", "u1"),
        ("dim", "<i2", 8),
        ("intent_p", "<f4", 3),
        ("intent_code", "<i2"),
        ("datatype", "<i2"),
        ("bitpix", "<i2"),
        ("slice_start", "<i2"),
        ("pixdim", "<f4", 8),
        ("vox_offset", "<f4"),
        ("scl_slope", "<f4"),
        ("scl_inter", "<f4"),
        ("slice_end", "<i2"),
        ("slice_code", "u1"),
        ("xyzt_units", "u1"),
        ("cal_max", "<f4"),
        ("cal_min", "<f4"),
        ("slice_duration", "<f4"),
        ("toffset", "<f4"),
        ("unused_glmax", "<i4", 2),
        ("descrip", "S80"),
        ("aux_file", "S24"),
        ("qform_code", "<i2"),
        ("sform_code", "<i2"),
        ("quatern", "<f4", 3),
        ("qoffset", "<f4", 3),
        ("srow", "<f4", (3, 4)),
        ("intent_name", "S16"),
        ("magic", "S4"),
    ]
)
_SIZE = 348
_OFFSET = 352
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {32: "complex numbers", 1792: "complex numbers", 2048: "complex numbers", 128: "colours", 2304: "colours"}
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unit unknown is taken for mm, as everybody does
_MAX_DIM = 32767
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def read(path: Path) -> Volume:
    """Read a NIfTI-1 file of one volume, rescaled as its header says.

    Raises
    ------
    ValueError
        If it is no whole NIfTI-1 file of one volume of real numbers on an orthogonal grid.
    """
    check_file(path)
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            return _read(raw, path)
        with gzip.GzipFile(fileobj=raw) as stream:
            return _read(stream, path)


def write(path: Path, volume: Volume) -> None:
    """Write `volume`, compressed where the name ends in .gz."""
    array = storable(volume.array)
    if max(array.shape) > _MAX_DIM:
        raise ValueError(f"cannot write {path}: NIfTI holds at most {_MAX_DIM} voxels along an axis, got {array.shape}")
    header = np.zeros((), _HEADER)
    header["sizeof_hdr"] = _SIZE
    header["dim"] = [3, *array.shape[::-1], 1, 1, 1, 1]
    header["datatype"] = {code: number for number, code in _TYPES.items()}[array.dtype.str[1:]]
    header["bitpix"] = 8 * array.dtype.itemsize
    header["vox_offset"] = _OFFSET
    header["scl_slope"] = 1
    header["magic"] = b"n+1"
    header["pixdim"] = 1
    if volume.geometry.spacing_known:
        _set_geometry(header, volume.geometry)
    start = header.tobytes() + bytes(_OFFSET - _SIZE)
    chunks = (piece for part in ([start], byte_chunks(array)) for piece in part)
    write_atomically(path, gzip_chunks(chunks) if path.name.lower().endswith(".gz") else chunks)


def _read(stream: BufferedIOBase, path: Path) -> Volume:
    try:
        head = stream.read(_SIZE)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: its compression cannot be undone") from error
    if len(head) < _SIZE:
        raise ValueError(f"{path} is not a NIfTI file: it holds {len(head)} bytes, a header alone has {_SIZE}")
    header = np.frombuffer(head, _HEADER)[0]
    if header["sizeof_hdr"] != _SIZE:
        header = np.frombuffer(head, _HEADER.newbyteorder(">"))[0]
    if header["sizeof_hdr"] != _SIZE or bytes(header["magic"]) not in (b"n+1", b"ni1"):
        told = ", it is NIfTI-2; convert it to NIfTI-1" if head[4:7] == b"n+2" else ""
        raise ValueError(f"{path} is not a NIfTI-1 file{told}")
    if bytes(header["magic"]) == b"ni1":
        raise ValueError(f"{path} is a NIfTI header without voxels (.hdr/.img pair); convert it to one .nii file")
    try:
        shape = _shape(header)
        number = int(header["datatype"])
        if number not in _TYPES:
            raise ValueError(
                f"its voxels are {_REFUSED.get(number, f'of NIfTI type {number}')}, real numbers are needed"
            )
        geometry = _geometry(header, shape)
        offset = float(header["vox_offset"])
        if not _SIZE <= offset < 2**31:
            raise ValueError(f"its voxels cannot begin at byte {offset}")
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    try:
        stream.read(int(offset) - _SIZE)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: it ends before its voxels") from error
    dtype = np.dtype(_TYPES[number]).newbyteorder(header.dtype["dim"].base.byteorder)
    array = read_array(stream, dtype, geometry.shape, path)
    return Volume(_rescale(array, float(header["scl_slope"]), float(header["scl_inter"])), geometry)


def _shape(header: np.void) -> tuple[int, int, int]:
    dimension = int(header["dim"][0])
    if not 1 <= dimension <= 7:
        raise ValueError(f"its header announces {dimension} dimensions")
    sizes = [int(n) for n in header["dim"][1 : dimension + 1]]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) < 3:
        raise ValueError(f"it holds a {len(sizes)}-D image; a volume of several slices is needed")
    if len(sizes) > 3:
        raise ValueError(
            f"it holds a {len(sizes)}-D image ({'x'.join(map(str, sizes))}); one volume of three axes is needed"
        )
    i, j, k = sizes
    return k, j, i


def _geometry(header: np.void, shape: tuple[int, int, int]) -> Geometry:
    pixdim = np.abs(header["pixdim"][1:4].astype(np.float64))
    unit = int(header["xyzt_units"]) & 7
    ras = np.eye(4)
    if header["sform_code"] > 0:
        ras[:3] = header["srow"]
    elif header["qform_code"] > 0:
        ras[:3, :3] = _rotation(header["quatern"].astype(np.float64)) * pixdim
        ras[:3, 2] *= -1 if header["pixdim"][0] < 0 else 1
        ras[:3, 3] = header["qoffset"]
    elif unit == 0 and (pixdim == 1).all():
        return Geometry.unknown(shape)
    else:
        ras[:3, :3] = np.diag(pixdim * _RAS_TO_LPS)  # no orientation is told: along LPS, as ITK and Slicer take it
    lps = ras
    lps[:3] *= _MM_PER_UNIT.get(unit, 1.0) * _RAS_TO_LPS[:, None]
    return Geometry(lps[:, [2, 1, 0, 3]], shape)


def _rotation(quaternion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation matrix of the unit quaternion whose last three components are given."""
    b, c, d = quaternion
    a = np.sqrt(max(0.0, 1.0 - float(b * b + c * c + d * d)))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _quaternion(rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(a, b, c, d) of a rotation matrix, a >= 0: the leading eigenvector (Bar-Itzhack 2000), free of special cases."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = rotation.reshape(-1)
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    vector = np.linalg.eigh(matrix)[1][:, -1]
    return np.asarray(vector if vector[0] >= 0 else -vector)


def _set_geometry(header: npt.NDArray[np.void], geometry: Geometry) -> None:
    ras = geometry.affine[:, [2, 1, 0, 3]].copy()
    ras[:3] *= _RAS_TO_LPS[:, None]
    rotation = ras[:3, :3] / np.asarray(geometry.step_lengths[::-1])
    handedness = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= handedness  # a quaternion cannot mirror: NIfTI keeps that in pixdim[0]
    header["pixdim"][:4] = [handedness, *geometry.step_lengths[::-1]]
    header["xyzt_units"] = 2  # mm
    header["qform_code"] = header["sform_code"] = 1  # scanner coordinates
    header["quatern"] = _quaternion(rotation)[1:]
    header["qoffset"] = ras[:3, 3]
    header["srow"] = ras[:3]


def _rescale(array: npt.NDArray[np.generic], slope: float, inter: float) -> npt.NDArray[np.generic]:
    """Stored numbers to real ones; untouched, in their own type, where the header says no scale."""
    if not np.isfinite([slope, inter]).all() or slope == 0 or (slope, inter) == (1, 0):
        return array
    precise = np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64
    return np.asarray(np.multiply(array, slope, dtype=np.float64) + inter, dtype=precise)
