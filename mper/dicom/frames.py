"""The images of a DICOM file: where each lies, and its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mper.dicom.headers import Header, first_line, frame_count, is_complete, is_localiser

_SYNTAXES = {"implicit little": ImplicitVRLittleEndian, "explicit little": ExplicitVRLittleEndian}
_SYNTAXES["explicit big"] = ExplicitVRBigEndian


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a file, with its place."""

    header: Header
    number: int
    position: npt.NDArray[np.float64]  # LPS mm of the first pixel's centre
    orientation: npt.NDArray[np.float64]  # (2, 3): directions of growing column and of growing row index
    spacing: npt.NDArray[np.float64]  # mm between rows, between columns
    slope: float
    intercept: float
    localiser: bool


def frames_of(header: Header) -> list[Frame]:
    """The images of a file, each with its own place.

    Raises
    ------
    ValueError
        If the file holds colours, does not tell a place for each image, or is damaged.
    """
    try:
        return list(_frames(header))
    except ValueError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise ValueError(f"{header.path.name} is damaged: its header cannot be read ({first_line(error)})") from error


def _frames(header: Header) -> Iterator[Frame]:
    dataset = header.dataset
    if not is_complete(dataset):
        raise ValueError(f"{header.path.name} is truncated: its header ends early")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or "MONOCHROME" not in str(
        dataset.get("PhotometricInterpretation", "")
    ):
        kind = dataset.get("PhotometricInterpretation", "of unknown kind")
        raise ValueError(f"{header.path.name} holds colours ({kind!r}); images of one grey value a pixel are needed")
    count = frame_count(header)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        if count > 1:
            raise ValueError(f"{header.path.name} holds {count} frames without positions; it is no volume")
        yield _frame(header, 0, [dataset])
        return
    if len(per_frame) != count:
        raise ValueError(f"{header.path.name} is damaged: it announces {count} frames and describes {len(per_frame)}")
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    for number, own in enumerate(per_frame):
        # The functional groups hold sequences of one item each; an attribute is looked for in all of them.
        items = [
            element.value[0] for group in (own, *shared) for element in group if element.VR == "SQ" and element.value
        ]
        yield _frame(header, number, items)


def _frame(header: Header, number: int, items: Sequence[Dataset]) -> Frame:
    position = _numbers(header, items, "ImagePositionPatient", 3)
    orientation = _numbers(header, items, "ImageOrientationPatient", 6)
    spacing = _numbers(header, items, "PixelSpacing", 2)
    for value, name in ((position, "position"), (orientation, "orientation"), (spacing, "pixel spacing")):
        if value is None:
            raise ValueError(f"{header.path.name} tells no {name}; without it the images are no volume in the patient")
    assert position is not None and orientation is not None and spacing is not None
    slope, intercept = (_numbers(header, items, f"Rescale{name}", 1) for name in ("Slope", "Intercept"))
    return Frame(
        header,
        number,
        position,
        orientation.reshape(2, 3),
        spacing,
        slope=1.0 if slope is None else float(slope[0]),
        intercept=0.0 if intercept is None else float(intercept[0]),
        localiser=any(is_localiser(item.get(name)) for item in items for name in ("ImageType", "FrameType")),
    )


def _numbers(header: Header, items: Sequence[Dataset], keyword: str, count: int) -> npt.NDArray[np.float64] | None:
    """The finite numbers of the first of `items` that has `keyword`, None where none has."""
    for item in items:
        try:
            value = item.get(keyword)
            if value is None or value == "":
                continue
            numbers = np.atleast_1d(np.array(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{header.path.name} is damaged: its {keyword} is not a number") from error
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise ValueError(f"{header.path.name} is damaged: its {keyword} is {value}, {count} numbers were expected")
        return numbers
    return None


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


def rescale(slices: Sequence[npt.NDArray[np.generic]], frames: Sequence[Frame]) -> npt.NDArray[np.generic]:
    """Stored values to real ones, (k, rows, columns); whole numbers stay whole, in a type that holds them."""
    scales = [(frame.slope, frame.intercept) for frame in frames]
    if all(scale == (1, 0) for scale in scales):
        return np.stack(slices)
    if slices[0].dtype.kind == "f" or any(number != round(number) for scale in scales for number in scale):
        scaled = (np.multiply(stored, a, dtype=np.float64) + b for stored, (a, b) in zip(slices, scales, strict=True))
        return np.stack([values.astype(np.float32) for values in scaled])
    whole = [(stored.astype(np.int64) * int(a) + int(b)) for stored, (a, b) in zip(slices, scales, strict=True)]
    low, high = min(int(values.min()) for values in whole), max(int(values.max()) for values in whole)
    dtype = np.result_type(np.int16, np.min_scalar_type(min(low, -high - 1)))  # signed: -high - 1 needs as many bits
    return np.stack([values.astype(dtype) for values in whole])
