"""The headers of DICOM images, read one file at a time; a damaged header is kept with what is wrong with it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage

from mper.utils.errors import explain
from mper.utils.files import is_dicom_file
from mper.utils.text import first_line

_USED = (
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "ImageType"),
    *("NumberOfFrames", "Rows", "Columns", "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation"),
)
_NOT_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "SR", "KO", "REG"}


@dataclass(frozen=True, eq=False)
class Header:
    """A DICOM image without its pixels.

    Parameters
    ----------
    path : Path
    dataset : pydicom dataset
        Of a damaged file as much as could be read.
    damage : str
        What is wrong with the file, in one line that names it; empty for a header that can be read.
    """

    path: Path
    dataset: Dataset
    damage: str = ""

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID; empty where the file does not tell it."""
        try:
            return " ".join(str(self.dataset.get("SeriesInstanceUID") or "").split())
        except Exception:  # a damaged value can fail anywhere in the parser
            return ""


@contextmanager
def no_warnings() -> Iterator[None]:
    """Without the libraries' warnings of values that break the standard in ways which do not matter here.

    Their loggers are silent too: they would write names of patients.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom", "dicomweb_client")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_header(path: Path) -> Header | None:
    """All but the pixels of a DICOM image; None where the file is something else (a report, a DICOMDIR, a mask)."""
    if path.name.upper().startswith("DICOMDIR"):
        return None
    dataset = Dataset()
    try:
        if not is_dicom_file(path):
            return None
    except OSError as error:
        return Header(path, dataset, explain(error))
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        meta = getattr(dataset, "file_meta", {})
        sop_class = UID(str(meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or ""))
        for keyword in _USED:
            dataset.get(keyword)  # pydicom decodes a value when it is first asked for, and fails then if it is damaged
        if dataset.get("Modality") in _NOT_IMAGES or sop_class == MediaStorageDirectoryStorage:
            return None
        # TransferSyntaxUID is the last of the mandatory attributes of the file meta information.
        ends_in_meta = dataset.preamble is not None and "TransferSyntaxUID" not in meta
    except Exception as error:  # a damaged file can fail anywhere in the parser
        return Header(
            path, dataset, f"{path} is truncated or damaged: its DICOM header cannot be read ({first_line(error)})"
        )
    if is_complete(dataset):
        return Header(path, dataset)
    if ends_in_meta or sop_class.name.endswith("Image Storage"):
        return Header(path, dataset, f"{path} is truncated: a DICOM image whose header ends early")
    return None


def is_complete(dataset: Dataset) -> bool:
    """Whether a header goes on to where the pixels are described; that of a truncated file may not."""
    return all(isinstance(dataset.get(keyword), int) and dataset[keyword].value > 0 for keyword in ("Rows", "Columns"))


def frame_count(header: Header) -> int:
    """Number of images in the file."""
    try:
        return int(header.dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{header.path} is damaged: its NumberOfFrames is not a whole number") from error


def is_colour(dataset: Dataset) -> bool:
    """Whether the images hold colours instead of one grey value a pixel."""
    return int(dataset.get("SamplesPerPixel") or 1) != 1 or "MONOCHROME" not in str(
        dataset.get("PhotometricInterpretation", "")
    )


def is_localiser(image_type: object) -> bool:
    """Whether an ImageType or FrameType names a localiser (scout)."""
    return "LOCALIZER" in str(image_type).upper()
