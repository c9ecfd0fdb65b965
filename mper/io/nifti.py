"""NIfTI files: NIfTI-1 and NIfTI-2 (.nii, .nii.gz), pairs of .hdr and .img, Analyze 7.5; written as NIfTI-1.

Where a volume lies is asked of ITK; where header fields contradict each other, a note says so
(`mper.io.nifti_header`). A grid of unknown spacing is written as the format's own defaults (no form, no unit, voxel
sizes of 1), and a file that says no more than that is read as of unknown spacing. The header holds 32-bit floats:
positions keep to about 1e-5 mm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.io.nifti_header import OFFSET, TYPES, NiftiHeader, hdr_and_img, new_header
from mper.io.voxels import UnpackedStream, byte_chunks, gzip_chunks, read_voxels, storable
from mper.phases import Phases
from mper.progress import Notify, ignore_notice
from mper.utils.files import check_file, write_atomically
from mper.volume import Geometry, Volume

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def read(path: Path, notify: Notify = ignore_notice) -> Volume:
    """Read one volume, rescaled as its header says; of a pair either name will do.

    Raises
    ------
    ValueError
        If it is no whole file of one volume of real numbers on an orthogonal grid.
    FileNotFoundError
        If it or the other file of a pair does not exist.
    """
    array, geometry = read_phases(path, notify)
    if len(array) > 1:
        size = "x".join(map(str, geometry.shape[::-1]))
        raise ValueError(
            f"cannot read {path}: it holds a 4-D image, {len(array)} volumes of {size} voxels; "
            "write the one that is wanted to a file of its own"
        )
    return Volume(array[0], geometry)


def read_phases(path: Path, notify: Notify = ignore_notice) -> tuple[npt.NDArray[np.generic], Geometry]:
    """As `read`, of a file of any number of volumes: the voxels (t, k, j, i), and the grid of each volume."""
    header, voxel_path = _read_header(path)
    try:
        geometry = header.geometry()
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    with voxel_path.open("rb") as raw:
        stream = UnpackedStream(raw, voxel_path)
        if not header.pair:
            NiftiHeader.read(stream)  # the voxels follow it
        array, surplus = read_voxels(stream, header.dtype, (header.volumes, *header.shape), header.skip)
    if note := header.contradictions(geometry):
        notify(note)
    if surplus + stream.trailing:
        notify(f"{surplus + stream.trailing} bytes after the voxels of {stream.path.name} were ignored")
    return _rescale(_finite(array, notify), header, notify), geometry


def phases_of(path: Path) -> Phases:
    """How many volumes a file holds, and when they were taken.

    Raises
    ------
    ValueError, FileNotFoundError
        As `read`.
    """
    return _read_header(path)[0].phases


def _read_header(path: Path) -> tuple[NiftiHeader, Path]:
    """The header, and the file of the voxels."""
    header_path, voxel_path = hdr_and_img(path)
    check_file(header_path)
    with header_path.open("rb") as raw:
        header = NiftiHeader.read(UnpackedStream(raw, header_path))
    if not header.pair:
        return header, header_path
    if voxel_path is None:
        raise ValueError(f"{path} is a NIfTI header without voxels; give the .hdr file next to its .img file")
    check_file(voxel_path)
    return header, voxel_path


def write(path: Path, volume: Volume) -> None:
    """Write `volume` as NIfTI-1 with qform and sform, compressed where the name ends in .gz."""
    array = storable(volume.array)
    try:
        header = new_header(volume.geometry.shape)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    header["datatype"] = {code: number for number, code in TYPES.items()}[array.dtype.str[1:]]
    header["bitpix"] = 8 * array.dtype.itemsize
    if volume.geometry.spacing_known:
        _set_geometry(header, volume.geometry)
    start = header.tobytes() + bytes(OFFSET - header.itemsize)
    chunks = (piece for part in ([start], byte_chunks(array)) for piece in part)
    write_atomically(path, gzip_chunks(chunks) if path.name.lower().endswith(".gz") else chunks)


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


def _finite(array: npt.NDArray[np.generic], notify: Notify) -> npt.NDArray[np.generic]:
    """Stored numbers that are NaN or infinite as 0, which ITK makes of them in NIfTI files alone."""
    if array.dtype.kind != "f":
        return array
    finite = np.isfinite(array)
    count = array.size - int(np.count_nonzero(finite))
    if not count:
        return array
    notify(f"{count} of {array.size} voxels are NaN or infinite; they are taken as 0, as ITK and 3D Slicer do")
    return np.where(finite, array, array.dtype.type(0))


def _rescale(array: npt.NDArray[np.generic], header: NiftiHeader, notify: Notify) -> npt.NDArray[np.generic]:
    """Stored numbers to real ones, as ITK does; untouched, in their own type, where the header says no scale."""
    slope, inter = float(header.fields["scl_slope"]), float(header.fields["scl_inter"])
    if not np.isfinite([slope, inter]).all() or header.analyze_orientation is not None:
        return array
    if slope == 0 and inter != 0:
        notify(f"the header has the scale 0 and the offset {inter:g}: ITK adds the offset, which is done here")
    slope = slope or 1.0
    if (slope, inter) == (1, 0):
        return array
    precise = np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64
    return np.asarray(np.multiply(array, slope, dtype=np.float64) + inter, dtype=precise)
