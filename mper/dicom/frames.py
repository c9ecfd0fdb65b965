"""The images of a DICOM file: where each lies, when it was taken and of which type it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from mper.dicom.headers import Header, frame_count, is_colour, is_complete, is_localiser
from mper.utils.coded import Coded
from mper.utils.text import first_line

# What tells images at one position apart as parallel images of one scan, with the sign that the value is shown with.
_TYPES = (
    ("FrameType", ""),
    ("ImageType", ""),
    ("ComplexImageComponent", ""),
    ("EffectiveEchoTime", "TE="),
    ("EchoTime", "TE="),
    ("DiffusionBValue", "b="),
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a file, with its place.

    Parameters
    ----------
    header : Header
    number : int
        In its file, from 0.
    position : (3,) floats
        LPS mm of the first pixel's centre.
    orientation : (2, 3) floats
        Directions of growing column and of growing row index.
    spacing : (2,) floats
        mm between rows, between columns.
    slope, intercept : float
        From stored to real values.
    items : tuple of datasets
        Where the attributes of this image stand, the most specific first.
    """

    header: Header
    number: int
    position: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64]
    spacing: npt.NDArray[np.float64]
    slope: float
    intercept: float
    items: tuple[Dataset, ...]

    def get(self, keyword: str) -> object:
        """An attribute of this image or its file, None where it is missing, empty or damaged."""
        for item in (*self.items, self.header.dataset):
            try:
                value = item.get(keyword)
            except Exception:  # a damaged value can fail anywhere in the parser
                continue
            if value is not None and value != "":
                return tuple(value) if isinstance(value, MultiValue) else value
        return None

    @property
    def localiser(self) -> bool:
        """Whether the image is a localiser (scout)."""
        return any(is_localiser(item.get(name)) for item in self.items for name in ("ImageType", "FrameType"))

    @property
    def image_type(self) -> tuple[str, ...]:
        """The words of its image type: ImageType or FrameType, then echo time and b-value where they are there."""
        words: list[str] = []
        seen = set()
        for keyword, sign in _TYPES:
            value = None if (sign or "FrameType") in seen else self.get(keyword)
            if value is None:
                continue
            if keyword in ("FrameType", "ImageType", "ComplexImageComponent"):
                words += [str(word) for word in (value if isinstance(value, tuple) else (value,))]
            else:
                words.append(f"{sign}{value:g}" if isinstance(value, (int, float)) else f"{sign}{value}")
            if keyword != "ComplexImageComponent":
                seen.add(sign or "FrameType")
        return tuple(words)


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
        raise ValueError(
            Coded(
                f"{header.path.name} is damaged: its header cannot be read ({first_line(error)})",
                "dicom-damaged",
                file=header.path.name,
                reason=first_line(error),
            )
        ) from error


def _frames(header: Header) -> Iterator[Frame]:
    dataset = header.dataset
    if not is_complete(dataset):
        raise ValueError(
            Coded(f"{header.path.name} is truncated: its header ends early", "dicom-truncated", file=header.path.name)
        )
    if is_colour(dataset):
        kind = dataset.get("PhotometricInterpretation", "of unknown kind")
        raise ValueError(
            Coded(
                f"{header.path.name} holds colours ({kind!r}); images of one grey value a pixel are needed",
                "dicom-colours",
                file=header.path.name,
            )
        )
    count = frame_count(header)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        if count > 1:
            raise ValueError(
                Coded(
                    f"{header.path.name} holds {count} frames without positions; it is no volume",
                    "dicom-no-positions",
                    file=header.path.name,
                    n=count,
                )
            )
        yield _frame(header, 0, (dataset,))
        return
    if len(per_frame) != count:
        raise ValueError(
            Coded(
                f"{header.path.name} is damaged: it announces {count} frames and describes {len(per_frame)}",
                "dicom-damaged",
                file=header.path.name,
                reason=f"{count}, {len(per_frame)}",
            )
        )
    shared = _items(dataset.get("SharedFunctionalGroupsSequence") or [])
    for number, own in enumerate(per_frame):
        yield _frame(header, number, (*_items([own]), *shared))


def _items(groups: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """The functional groups: sequences of one item each, in any of which an attribute may stand."""
    return tuple(element.value[0] for group in groups for element in group if element.VR == "SQ" and element.value)


def _frame(header: Header, number: int, items: tuple[Dataset, ...]) -> Frame:
    position = _place(header, items, "ImagePositionPatient", 3)
    orientation = _place(header, items, "ImageOrientationPatient", 6)
    spacing = _place(header, items, "PixelSpacing", 2)
    slope, intercept = (_numbers(header, items, f"Rescale{name}", 1) for name in ("Slope", "Intercept"))
    return Frame(
        header,
        number,
        position,
        orientation.reshape(2, 3),
        spacing,
        slope=1.0 if slope is None else float(slope[0]) or 1.0,  # GDCM takes a slope of 0 for 1
        intercept=0.0 if intercept is None else float(intercept[0]),
        items=items,
    )


def _place(header: Header, items: Sequence[Dataset], keyword: str, count: int) -> npt.NDArray[np.float64]:
    numbers = _numbers(header, items, keyword, count)
    if numbers is None:
        raise ValueError(
            Coded(
                f"{header.path.name} has no {keyword}; without it the images are no volume in the patient: "
                "export the series from the archive again",
                "dicom-attribute-missing",
                file=header.path.name,
                attribute=keyword,
            )
        )
    return numbers


def _numbers(header: Header, items: Sequence[Dataset], keyword: str, count: int) -> npt.NDArray[np.float64] | None:
    """The finite numbers of the first of `items` that has `keyword`, None where none has."""
    for item in items:
        try:
            value = item.get(keyword)
            if value is None or value == "":
                continue
            numbers = np.atleast_1d(np.array(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(
                Coded(
                    f"{header.path.name} is damaged: its {keyword} is not a number",
                    "dicom-damaged",
                    file=header.path.name,
                    reason=keyword,
                )
            ) from error
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise ValueError(
                Coded(
                    f"{header.path.name} is damaged: its {keyword} is {value}, {count} numbers were expected",
                    "dicom-damaged",
                    file=header.path.name,
                    reason=f"{keyword} {value}",
                )
            )
        return numbers
    return None
