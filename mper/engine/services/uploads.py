"""An array that a client has sent: a file in the engine's spool folder, mapped when it is read."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mper.engine.errors import Conflict
from mper.engine.schemas.arrays import ArrayHeader
from mper.volume import Volume

_SPARE = 500 * 2**20  # bytes of the disk that uploads leave free
_left: set[Path] = set()  # of this process, still to be removed: Windows keeps a file that is mapped


@dataclass(frozen=True, eq=False)
class Upload:
    """An array that has come in whole: its header, and the file that holds it."""

    header: ArrayHeader
    path: Path

    @classmethod
    def of(cls, volume: Volume, folder: Path) -> Upload:
        """The upload that sending `volume` would give.

        Raises
        ------
        Conflict, OSError
            If the disk is too full; nothing is left behind.
        """
        plain = np.ascontiguousarray(volume.array, dtype=volume.array.dtype.newbyteorder("<"))
        check_space(folder, plain.nbytes)
        geometry = volume.geometry
        header = ArrayHeader(
            shape=geometry.shape,
            dtype=plain.dtype.name,
            affine=geometry.affine.tolist(),
            spacing_known=geometry.spacing_known,
        )
        path = new_path(folder)
        try:
            with path.open("xb") as file:
                file.write(plain.data)
        except BaseException:
            remove_file(path)
            raise
        return cls(header, path)

    def open(self) -> npt.NDArray[Any]:
        """The array, mapped."""
        return self.header.open(self.path)

    def remove(self) -> None:
        """Remove the file."""
        remove_file(self.path)


def new_path(folder: Path) -> Path:
    """A file for an upload that does not exist yet."""
    return folder / f"upload-{secrets.token_hex(8)}"


def check_space(folder: Path, nbytes: int) -> None:
    """Raise `Conflict` unless so many bytes, and some to spare, are free on the disk of `folder`."""
    remove_left()
    if shutil.disk_usage(folder).free < nbytes + _SPARE:
        line = "the engine's disk is nearly full; make room there, or send less (a smaller region)"
        raise Conflict(line, "disk-full")


def remove_file(path: Path) -> None:
    """Remove a file of the spool, if it is there, or later if that is not possible now; see `remove_left`."""
    try:
        path.unlink(missing_ok=True)
        _left.discard(path)
    except OSError:
        _left.add(path)


def remove_left() -> None:
    """Remove the files that could not be removed before: a patient's voxels stay no longer than needed."""
    for path in list(_left):
        remove_file(path)
