"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5: what they announce, where ITK puts the volume, what they contradict.

See https://nifti.nimh.nih.gov/nifti-1 and https://nifti.nimh.nih.gov/nifti-2 . A header may state the place of the
volume twice (qform and sform) and the voxel size three times (pixdim too). ITK decides which of them counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.io import itk
from mper.io.voxels import GZIP_MAGIC, MAX_SURPLUS, UnpackedStream, check_size
from mper.phases import Phases
from mper.volume import Geometry, Index3

_FIELDS = {  # name: (format, place in NIfTI-1), (format, place in NIfTI-2)
    "sizeof_hdr": (("i4", 0), ("i4", 0)),
    "magic": (("S4", 344), ("S4", 4)),
    "dim": (("8i2", 40), ("8i8", 16)),
    "intent_code": (("i2", 68), ("i4", 504)),
    "datatype": (("i2", 70), ("i2", 12)),
    "bitpix": (("i2", 72), ("i2", 14)),
    "pixdim": (("8f4", 76), ("8f8", 104)),
    "vox_offset": (("f4", 108), ("i8", 168)),
    "scl_slope": (("f4", 112), ("f8", 176)),
    "scl_inter": (("f4", 116), ("f8", 184)),
    "toffset": (("f4", 136), ("f8", 216)),
    "xyzt_units": (("u1", 123), ("i4", 500)),
    "qform_code": (("i2", 252), ("i4", 344)),
    "sform_code": (("i2", 254), ("i4", 348)),
    "quatern": (("3f4", 256), ("3f8", 352)),
    "qoffset": (("3f4", 268), ("3f8", 376)),
    "srow": (("(3,4)f4", 280), ("(3,4)f8", 400)),
}
_GRID_FIELDS = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern", "qoffset", "srow")


def _layout(version: int, size: int) -> np.dtype:
    formats, offsets = zip(*(places[version] for places in _FIELDS.values()), strict=True)
    return np.dtype({"names": list(_FIELDS), "formats": formats, "offsets": offsets, "itemsize": size})


NIFTI_1 = _layout(0, 348).newbyteorder("<")
NIFTI_2 = _layout(1, 540).newbyteorder("<")
OFFSET = 352  # of the voxels, in files without extensions
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MAX_DIM = 32767
_REFUSED = {32: "complex numbers", 1792: "complex numbers", 2048: "complex numbers", 128: "colours", 2304: "colours"}
_REFUSED |= {1: "single bits", 1536: "floats of 128 bits"}
_VECTORS = (1005, 1006, 1007)  # intents of which each voxel holds several values
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # by unit of time
_ORIENTATION = 252  # place of the byte for the orientation in Analyze
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # unknown: mm, as everybody takes it
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_VISIBLE = 0.1  # voxels: what is less apart looks the same in a viewer


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says of the voxels; its grid is asked for with `geometry`.

    Parameters
    ----------
    fields : record
        Of `NIFTI_1` or `NIFTI_2`, in the machine's byte order.
    dtype : dtype
        Of the voxels in the file.
    shape : (int, int, int)
        (k, j, i).
    skip : int
        Bytes between the header and the voxels, in a pair: before the voxels in the .img file.
    pair : bool
        Whether the voxels are in another file.
    analyze_orientation : int or None
        Of Analyze 7.5, None of NIfTI.
    volumes : int
        How many of that shape follow each other: phases of a time series.
    """

    fields: np.void
    dtype: np.dtype
    shape: Index3
    skip: int
    pair: bool
    analyze_orientation: int | None
    volumes: int

    @classmethod
    def read(cls, stream: UnpackedStream) -> NiftiHeader:
        """Read the header at the beginning of a stream.

        Raises
        ------
        ValueError
            If it is none, or not one of one volume of real numbers.
        """
        path = stream.path
        head = stream.read(NIFTI_1.itemsize)
        if head[:2] == GZIP_MAGIC:
            raise ValueError(f"{path} is compressed twice; decompress it once")
        if len(head) < NIFTI_1.itemsize:
            raise ValueError(
                f"{path} is not a NIfTI file: it holds {len(head)} bytes, a header alone has {NIFTI_1.itemsize}"
            )
        if head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):  # 540
            head += stream.read(NIFTI_2.itemsize - len(head))
        layout = NIFTI_1 if len(head) == NIFTI_1.itemsize else NIFTI_2
        fields = _record(head, layout)
        little = int(fields["sizeof_hdr"]) == layout.itemsize
        if not little:
            fields = _record(head, layout.newbyteorder(">"))
        magic = bytes(fields["magic"])[:3]
        analyze = magic not in (b"n+1", b"ni1", b"n+2", b"ni2")
        if int(fields["sizeof_hdr"]) != layout.itemsize or (analyze and not path.name.lower().endswith(".hdr")):
            raise ValueError(f"{path} is not a NIfTI file: it does not begin with a NIfTI header")
        pair = magic[:2] != b"n+"
        try:
            dtype = _dtype(int(fields["datatype"])).newbyteorder("<" if little else ">")
            (volumes, *sizes), offset = _shape(fields), _offset(fields, pair)
            k, j, i = sizes
            check_size((volumes, k, j, i), dtype)
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        skip = offset if pair else offset - layout.itemsize
        return cls(fields, dtype, (k, j, i), skip, pair, head[_ORIENTATION] if analyze else None, volumes)

    @property
    def phases(self) -> Phases:
        """The phases, with their times where the header states a unit of time and a step that is not its default."""
        size, unit = float(self.fields["pixdim"][4]), _SECONDS.get(int(self.fields["xyzt_units"]) & 0x38, 0.0)
        step, start = size * unit * 1000, float(self.fields["toffset"]) * unit * 1000
        if self.volumes == 1 or size == 1 or not (0 < step < math.inf) or not math.isfinite(start):
            return Phases(self.volumes)
        return Phases(self.volumes, tuple(round(start + n * step, 3) for n in range(self.volumes)))

    @property
    def spacing_known(self) -> bool:
        """False where no form is set, and voxel sizes are missing or, without a unit, the format's default of 1."""
        unit = 0 if self.analyze_orientation is not None else int(self.fields["xyzt_units"]) & 7
        size = self.fields["pixdim"][1:4]
        stated = unit > 0 or not (size == 1).all()
        return self._has("qform") or self._has("sform") or bool(stated and np.isfinite(size).all() and size.all())

    def geometry(self) -> Geometry:
        """The grid, as ITK takes it.

        Raises
        ------
        ValueError
            If no form that the header states is an orthogonal grid.
        """
        if not self.spacing_known:
            return Geometry.unknown(self.shape)
        return self._ask()

    def contradictions(self, geometry: Geometry) -> str:
        """In one line: what the header says of the grid that is not `geometry`, and what that means; "" if nothing."""
        if not self.spacing_known:
            return ""
        if not self._has("qform") and self._sform() is None:
            return (
                "the header states voxel sizes but no position and no orientation. ITK (3D Slicer, ITK-SNAP) puts the "
                "first voxel at 0, 0, 0 and the axes along L, P and S, and so does the mask; other programs may centre "
                "or mirror the scan: check left and right"
            )
        faults: list[str] = []
        visible = _VISIBLE * min(geometry.step_lengths)
        sform, qform = self._sform(), self._qform()
        qform_taken = qform is not None and _distance(qform, geometry.affine, self.shape) <= visible
        if self._has("sform") and (sform is None or not _orthogonal(sform)):
            if sform is None or _distance(sform, geometry.affine, self.shape) > visible:
                faults.append("its sform is empty or not orthogonal")
        elif sform is not None:
            steps, sizes = (np.linalg.norm(affine[:3, 2::-1], axis=0) for affine in (sform, geometry.affine))
            if not np.allclose(steps, sizes, rtol=0.01):
                faults.append(f"its sform has steps of {_mm(steps)} mm, its pixdim says {_mm(sizes)} mm")
            sform = _with_steps(sform, geometry)
            apart = max(_distance(form, geometry.affine, self.shape) for form in (sform, qform) if form is not None)
            if apart > visible:
                faults.append(f"its qform and sform put the scan up to {apart:.3g} mm apart")
        if not faults:
            return ""
        taken = "the qform" if qform_taken else "the sform"
        others = "the sform as it stands (nibabel, FSLeyes)" if qform_taken or "pixdim" in faults[0] else "the qform"
        return (
            f"the header contradicts itself: {'; '.join(faults)}. The mask lies where ITK puts the scan (by {taken} "
            "and pixdim), so that they overlay in 3D Slicer and ITK-SNAP; programs that take "
            f"{others} show them apart"
        )

    def _has(self, form: str) -> bool:
        return self.analyze_orientation is None and int(self.fields[f"{form}_code"]) > 0

    def _sform(self) -> npt.NDArray[np.float64] | None:
        """Its affine, (k, j, i, 1) to LPS mm; None where it is not set."""
        affine = np.eye(4)
        affine[:3] = self.fields["srow"]
        if not self._has("sform") or not np.isfinite(affine).all():
            return None
        affine[:3] *= _RAS_TO_LPS[:, None] * _MM_PER_UNIT.get(int(self.fields["xyzt_units"]) & 7, 1.0)
        return affine[:, [2, 1, 0, 3]]

    def _qform(self) -> npt.NDArray[np.float64] | None:
        """Its affine, as ITK computes it from the quaternion; None where it is not set."""
        return self._ask(sform_code=0).affine if self._has("qform") else None

    def _ask(self, **changed: int) -> Geometry:
        header = new_header(self.shape)
        if self.analyze_orientation is None:
            for name in _GRID_FIELDS:
                header[name] = changed.get(name, self.fields[name])
            if not np.isfinite(header["srow"]).all():
                header["sform_code"], header["srow"] = 0, 0
            return itk.itk_geometry(header.tobytes(), itk.NIFTI, self.shape)
        header["pixdim"], header["magic"] = self.fields["pixdim"], b""
        content = bytearray(header.tobytes())
        content[_ORIENTATION : _ORIENTATION + 1] = bytes([self.analyze_orientation])
        return itk.itk_geometry(bytes(content), itk.ANALYZE, self.shape)


def new_header(shape: Index3) -> npt.NDArray[np.void]:
    """A NIfTI-1 header of bytes on a grid of which nothing is known.

    Raises
    ------
    ValueError
        If an axis is too long for the format.
    """
    if max(shape) > MAX_DIM:
        raise ValueError(f"NIfTI holds at most {MAX_DIM} voxels along an axis, got {tuple(shape)}")
    header = np.zeros((), NIFTI_1)
    header["sizeof_hdr"] = NIFTI_1.itemsize
    header["dim"] = [3, *shape[::-1], 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = 2, 8
    header["vox_offset"], header["scl_slope"], header["pixdim"] = OFFSET, 1, 1
    header["magic"] = b"n+1"
    return header


def _record(head: bytes, layout: np.dtype) -> np.void:
    record: np.void = np.frombuffer(head, layout).astype(layout.newbyteorder("="))[0]
    return record


def _dtype(number: int) -> np.dtype:
    if number not in TYPES:
        raise ValueError(f"its voxels are {_REFUSED.get(number, f'of NIfTI type {number}')}, real numbers are needed")
    return np.dtype(TYPES[number])


def _shape(fields: np.void) -> tuple[int, int, int, int]:
    """Voxels along t, k, j, i."""
    dimension = int(fields["dim"][0])
    if not 1 <= dimension <= 7:
        raise ValueError(f"its header announces {dimension} dimensions")
    sizes = [int(n) for n in fields["dim"][1 : dimension + 1]]
    while len(sizes) > 3 and sizes[-1] in (0, 1):  # 0 as Analyze programs write it
        sizes.pop()
    if len(sizes) < 3:
        raise ValueError(f"it holds a {len(sizes)}-D image; a volume of several slices is needed")
    if min(sizes) < 1:
        raise ValueError(f"its header announces the size {'x'.join(map(str, sizes))}; every axis needs a voxel")
    i, j, k = sizes[:3]
    count = math.prod(sizes[3:])
    if len(sizes) > 3 and (int(fields["intent_code"]) in _VECTORS or sizes[3] != count):
        raise ValueError(
            f"it holds a {len(sizes)}-D image ({'x'.join(map(str, sizes))}): {count} values in each of {i}x{j}x{k} "
            "voxels; one real number a voxel is needed"
        )
    return count, k, j, i


def _offset(fields: np.void, pair: bool) -> int:
    offset = float(fields["vox_offset"])
    lowest = 0 if pair else fields.dtype.itemsize
    if not lowest <= offset <= lowest + MAX_SURPLUS:
        raise ValueError(f"its voxels cannot begin at byte {offset:g}")
    return int(offset)


def _orthogonal(affine: npt.NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-6:
        return False
    axes = affine[:3, :3] / lengths
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4)  # ITK's tolerance


def _with_steps(affine: npt.NDArray[np.float64], geometry: Geometry) -> npt.NDArray[np.float64]:
    """The same origin and directions with the voxel sizes of `geometry`."""
    resized = affine.copy()
    resized[:3, :3] *= np.asarray(geometry.step_lengths) / np.linalg.norm(affine[:3, :3], axis=0)
    return resized


def _distance(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape: Index3) -> float:
    """The farthest that two affines put a corner of the volume apart, in mm."""
    corners = np.array([(k, j, i, 1) for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    corners[:, :3] *= np.array(shape) - 1
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def _mm(sizes: npt.NDArray[np.float64]) -> str:
    return "x".join(f"{size:.3g}" for size in sizes)


def hdr_and_img(path: Path) -> tuple[Path, Path | None]:
    """Header and voxels of `path`: the two files of a pair, whichever is named; else the file, and None."""
    stem, ending = path.name[: -len(path.suffix)], path.suffix.lower()
    if ending not in (".hdr", ".img"):
        return path, None
    other = ".img" if ending == ".hdr" else ".hdr"
    upper = path.with_name(stem + other.upper())
    partner = upper if upper.is_file() else path.with_name(stem + other)
    return (path, partner) if ending == ".hdr" else (partner, path)
