"""Voxel values of a mask: whole numbers, whatever type a program stores them in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.progress import Notify, ignore_notice
from mper.volume import Volume

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


def binary_as_label(mask: Volume, labels: Sequence[Label], where: str, notify: Notify = ignore_notice) -> Volume:
    """A mask of 0 and 255 alone, which many programs write for 0 and 1, in the value of the only label.

    Parameters
    ----------
    mask : Volume of uint8
        Any other mask is returned as it is.
    labels : sequence of Label
    where : str
        The file, for messages.
    notify : callable
        Receives a note when 255 was taken for the label.

    Raises
    ------
    ValueError
        If there are several labels that 255 could mean.
    """
    if set(np.unique(mask.array).tolist()) != {BACKGROUND, UNLABELLED}:
        return mask
    if len(labels) != 1:
        named = ", ".join(f"{label.value} {label.name}" for label in labels)
        raise ValueError(
            f"{where} holds only 0 and 255, and 255 means unlabelled here; write the values of the labels ({named})"
        )
    notify(f"the mask holds 0 and 255: 255 is taken as {labels[0].name}, not as unlabelled")
    return mask.with_array(np.where(mask.array == UNLABELLED, labels[0].value, BACKGROUND).astype(np.uint8))
