"""What ITK makes of a header: the grid on which 3D Slicer and ITK-SNAP show the file.

SimpleITK reads a copy of the header without voxels, made of checked fields alone: MetaIO crashes on some damaged
headers, SimpleITK cannot open paths beyond ASCII on Windows, and it does not read NIfTI-2.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mper.volume import Geometry, Index3

NIFTI, NRRD, METAIMAGE = (".nii", "NiftiImageIO"), (".nrrd", "NrrdImageIO"), (".mha", "MetaImageIO")
ANALYZE = (".hdr", "NiftiImageIO")


def itk_geometry(header: bytes, file_format: tuple[str, str], shape: Index3) -> Geometry:
    """The grid of a header.

    Parameters
    ----------
    header : bytes
        Of a file of that format, without voxels.
    file_format : (str, str)
        NIFTI, ANALYZE, NRRD or METAIMAGE.
    shape : (int, int, int)
        Voxels along k, j, i; what the header says too.

    Raises
    ------
    ValueError
        If ITK refuses the header, or its grid is not orthogonal.
    ModuleNotFoundError
        If SimpleITK is not installed.
    """
    ending, reader_name = file_format
    try:
        import SimpleITK
    except ImportError as error:
        raise ModuleNotFoundError(
            "SimpleITK is needed to read .nrrd, .nii and .mha files; a machine without it trains from packed shards, "
            "see `mper pack`",
            name="SimpleITK",
        ) from error
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(reader_name)
    handle, name = tempfile.mkstemp(prefix="mper-", suffix=ending, dir=_folder())
    try:
        with os.fdopen(handle, "wb") as copy:
            copy.write(header)
        reader.SetFileName(name)
        with _silent(SimpleITK):
            reader.ReadImageInformation()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if "orthonormal" in str(error):
            raise ValueError("its axes are not at right angles; resample it to an orthogonal grid first") from error
        raise ValueError(f"ITK does not accept its header ({lines[-1].replace(name, 'header')})") from error
    finally:
        Path(name).unlink()
    spacing = np.array(reader.GetSpacing()[:3])
    dimension = reader.GetDimension()
    if dimension < 3:
        raise ValueError(f"ITK takes it for a {dimension}-D image; a volume of several slices is needed")
    directions = np.array(reader.GetDirection()).reshape(dimension, dimension)[:3, :3]
    directions[:, spacing == 0] = 0  # NaN otherwise, which would hide what is wrong
    size = tuple(int(n) for n in reader.GetSize()[2::-1])
    if size != tuple(shape):
        raise ValueError(f"ITK takes its size for {size}, its header announces {tuple(shape)} (k, j, i)")
    return Geometry.from_itk(reader.GetOrigin()[:3], spacing.tolist(), directions.reshape(-1).tolist(), size[::-1])


def _folder() -> str | None:
    """Where temporary files have a path that SimpleITK can open; None: the usual place."""
    if os.name == "nt" and not tempfile.gettempdir().isascii():
        return os.environ.get("PROGRAMDATA", r"C:\ProgramData")  # the one folder with an ASCII name for every user
    return None


@contextmanager
def _silent(simpleitk: Any) -> Iterator[None]:
    """Without ITK's warnings on standard error; what they are about is said in notes."""
    shown = simpleitk.ProcessObject.GetGlobalWarningDisplay()
    simpleitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        simpleitk.ProcessObject.SetGlobalWarningDisplay(shown)
