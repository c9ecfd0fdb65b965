"""Voxel values of a mask: whole numbers, whatever type a program stores them in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mper.progress import Notify, ignore_notice

# NIfTI files with a scale factor give 0.99998 for 1 and 2.00007 for 2; the error grows with the value.
_ABSOLUTE, _RELATIVE = 1e-3, 1e-4


def whole_numbers(
    array: npt.NDArray[np.generic], where: str, notify: Notify = ignore_notice
) -> npt.NDArray[np.integer]:
    """The values of a mask as integers; values within 0.001 (or 0.01 %) of a whole number are rounded, with a note.

    Parameters
    ----------
    array : array of any real type
    where : str
        The file, for messages.
    notify : callable
        Receives a note when values were rounded.

    Raises
    ------
    ValueError
        If a value is not a whole number.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return np.asarray(array)
    values = np.asarray(array, dtype=np.float64)
    rounded = np.rint(values)
    off = np.abs(values - rounded)
    wrong = ~(off <= _ABSOLUTE + _RELATIVE * np.abs(values))  # NaN is wrong, too
    if wrong.any():
        raise ValueError(
            f"{where} is not a mask: it holds values that are not whole numbers, such as {values[wrong][0]:g}"
        )
    if off.any():
        notify(f"{where}: values up to {off.max():.2g} from a whole number were rounded")
    return rounded.astype(np.int64)
