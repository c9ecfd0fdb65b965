"""The voxels of DICOM images, with the values that GDCM (ITK, 3D Slicer) gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mper.dicom.frames import Frame
from mper.dicom.headers import Header
from mper.progress import Notify
from mper.utils.text import first_line

_SYNTAXES = {"implicit little": ImplicitVRLittleEndian, "explicit little": ExplicitVRLittleEndian}
_SYNTAXES["explicit big"] = ExplicitVRBigEndian
_PADDING_GAP = 0.1  # of the range of the signal: MR pads with 0, the darkest signal, which does no harm


def decode(frames: Sequence[Frame]) -> list[npt.NDArray[np.generic]]:
    """The stored pixels of each frame, (rows, columns); each file is decoded once."""
    pixels: dict[Header, npt.NDArray[np.generic]] = {}
    for header in dict.fromkeys(frame.header for frame in frames):
        try:
            dataset = pydicom.dcmread(header.path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble; pydicom saw how it is written
                implicit, little = dataset.original_encoding
                dataset.file_meta.TransferSyntaxUID = _SYNTAXES[
                    f"{'implicit' if implicit else 'explicit'} {'little' if little else 'big'}"
                ]
            array = np.asarray(dataset.pixel_array)
        except Exception as error:  # damaged pixel data can fail anywhere in a decoder
            if "missing dependencies" in str(error) or isinstance(error, NotImplementedError):
                syntax = header.dataset.file_meta.TransferSyntaxUID.name
                raise ValueError(
                    f"{header.path.name} is compressed ({syntax!r}) and no decoder for it is installed; "
                    "pip install python-gdcm adds one"
                ) from error
            raise ValueError(
                f"{header.path.name} is truncated or damaged: its pixels cannot be read ({first_line(error)})"
            ) from error
        pixels[header] = array.reshape(-1, int(header.dataset.Rows), int(header.dataset.Columns))
    return [pixels[frame.header][frame.number] for frame in frames]


def real_values(frames: Sequence[Frame], notify: Notify) -> npt.NDArray[np.generic]:
    """The voxels of a stack of frames, (k, rows, columns): stored values after inversion and rescaling.

    Parameters
    ----------
    frames : sequence of Frame
        Of one size.
    notify : callable
        Called where the images are MONOCHROME1, or voxels hold a padding value.
    """
    slices = decode(frames)
    _tell_padding(slices, frames, notify)
    inverted = [_is_inverted(frame) for frame in frames]
    if any(inverted):
        notify("the images are MONOCHROME1 (low is bright): values were inverted, as 3D Slicer shows them")
        slices = [
            _invert(stored, frame) if low_is_bright else stored
            for stored, frame, low_is_bright in zip(slices, frames, inverted, strict=True)
        ]
    return rescale(slices, frames)


def rescale(slices: Sequence[npt.NDArray[np.generic]], frames: Sequence[Frame]) -> npt.NDArray[np.generic]:
    """Stored values to real ones, (k, rows, columns); whole numbers stay whole, in a type that holds them."""
    scales = [(frame.slope, frame.intercept) for frame in frames]
    if all(scale == (1, 0) for scale in scales):
        return np.stack(slices)
    if slices[0].dtype.kind == "f" or any(number != round(number) for scale in scales for number in scale):
        scaled = (np.multiply(stored, a, dtype=np.float64) + b for stored, (a, b) in zip(slices, scales, strict=True))
        return np.stack([values.astype(np.float32) for values in scaled])
    whole = [(int(a), int(b)) for a, b in scales]
    ends = [
        int(end) * a + b for stored, (a, b) in zip(slices, whole, strict=True) for end in (stored.min(), stored.max())
    ]
    # Also a and b must fit. A product may wrap around in between: the sum is right again, as it fits.
    low, high = min(*ends, *map(min, whole)), max(*ends, *map(max, whole))
    dtype = np.result_type(np.int16, np.min_scalar_type(min(low, -high - 1)))  # signed: -high - 1 needs as many bits
    scaled_array = np.empty((len(slices), *slices[0].shape), dtype)
    for result, stored, (a, b) in zip(scaled_array, slices, whole, strict=True):
        np.multiply(stored.astype(dtype), dtype.type(a), out=result)
        result += dtype.type(b)
    return scaled_array


def _is_inverted(frame: Frame) -> bool:
    return str(frame.header.dataset.get("PhotometricInterpretation")).strip() == "MONOCHROME1"


def _invert(stored: npt.NDArray[np.generic], frame: Frame) -> npt.NDArray[np.generic]:
    """As GDCM does: the highest stored value minus each; for signed numbers -1 minus each."""
    if stored.dtype.kind == "f":
        return stored
    if stored.dtype.kind == "i":
        return np.invert(stored.astype(stored.dtype))
    highest = (1 << int(str(frame.header.dataset.get("BitsStored") or 8 * stored.itemsize))) - 1
    return np.subtract(np.array(highest, stored.dtype), stored)


def _tell_padding(slices: Sequence[npt.NDArray[Any]], frames: Sequence[Frame], notify: Notify) -> None:
    """Report voxels of a padding value that lies far from all signal and so would shift a normalisation."""
    value, limit = frames[0].get("PixelPaddingValue"), frames[0].get("PixelPaddingRangeLimit")
    if not isinstance(value, int) or slices[0].dtype.kind == "f":
        return
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    padded = [(stored >= low) & (stored <= high) for stored in slices]
    count = sum(int(np.count_nonzero(mask)) for mask in padded)
    if not count or all(mask.all() for mask in padded):
        return
    kind = np.iinfo(slices[0].dtype)
    pairs = list(zip(slices, padded, strict=True))
    darkest = min(int(np.min(stored, where=~mask, initial=kind.max)) for stored, mask in pairs)
    brightest = max(int(np.max(stored, where=~mask, initial=kind.min)) for stored, mask in pairs)
    gap = max(darkest - high, low - brightest)
    if gap > _PADDING_GAP * (brightest - darkest):
        share = 100 * count / sum(stored.size for stored in slices)
        notify(
            f"{share:.1f} % of the voxels hold the padding value {value}, which is no signal; "
            "check the mask near the border of the image"
        )
