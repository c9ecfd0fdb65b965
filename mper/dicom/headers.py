"""Which DICOM images are in a folder, and which series they form."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mper.utils.files import is_dicom_file

_USED = (
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "ImageType"),
    *("NumberOfFrames", "Rows", "Columns", "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation"),
)
_NOT_SCANS = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "SR", "KO", "REG"}


@dataclass(frozen=True, eq=False)
class Header:
    """A file of images without its pixels."""

    path: Path
    dataset: Dataset


@dataclass(frozen=True)
class SeriesInfo:
    """One series of images found in a folder.

    Parameters
    ----------
    uid : str
        SeriesInstanceUID.
    description, modality : str
        As the files tell, else empty.
    images : int
        Number of images; each frame of a multi-frame file counts.
    localiser : bool
        Whether all its images are localisers (scouts).
    paths : tuple of Path
    """

    uid: str
    description: str
    modality: str
    images: int
    localiser: bool
    paths: tuple[Path, ...]

    def describe(self) -> str:
        """One line for lists and messages."""
        kind = " (localiser)" if self.localiser else ""
        return f"{self.uid or '(no UID)'} {self.modality} {self.description!r} {self.images} images{kind}"


@contextmanager
def no_warnings() -> Iterator[None]:
    """Without the libraries' warnings of values that break the standard in ways which do not matter here.

    Their loggers are silent too: they would tell names of patients.
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


def find_headers(folder: Path) -> list[Header]:
    """The DICOM images in `folder`, and below it where none is right in it or a DICOMDIR is."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    headers = [header for path in files if (header := read_header(path)) is not None]
    if not headers or any(path.name.upper().startswith("DICOMDIR") for path in files):
        below = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
        headers += [header for path in below if (header := read_header(path)) is not None]
    return headers


def read_header(path: Path) -> Header | None:
    """All but the pixels of a DICOM image; None where the file is something else."""
    if not is_dicom_file(path):
        return None
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        meta = getattr(dataset, "file_meta", {})
        sop_class = UID(str(meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or ""))
        for keyword in _USED:
            dataset.get(keyword)  # pydicom decodes a value when it is first asked for, and fails then if it is damaged
        is_scan = dataset.get("Modality") not in _NOT_SCANS
        ends_in_meta = (
            dataset.preamble is not None and "TransferSyntaxUID" not in meta
        )  # the last of its mandatory attributes
        is_image = is_complete(dataset) or ends_in_meta or sop_class.name.endswith("Image Storage")
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise ValueError(
            f"{path} is truncated or damaged: its DICOM header cannot be read ({first_line(error)})"
        ) from error
    return Header(path, dataset) if is_scan and is_image else None


def is_complete(dataset: Dataset) -> bool:
    """Whether a header goes on to where the pixels are described; a truncated file's may not."""
    return all(isinstance(dataset.get(keyword), int) and dataset[keyword].value > 0 for keyword in ("Rows", "Columns"))


def first_line(error: Exception) -> str:
    """What to say of another library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def by_series(headers: Sequence[Header], path: Path) -> list[list[Header]]:
    """`headers` by series, in the order of the series' numbers.

    Raises
    ------
    ValueError
        If there is none, or a truncated file does not tell its series.
    """
    if not headers:
        raise ValueError(f"{path} holds no DICOM image")
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(_uid(header), []).append(header)
    for group in groups.values():
        if not any(is_complete(header.dataset) for header in group):
            raise ValueError(f"{group[0].path} is truncated: a DICOM image whose header ends early")
    return sorted(groups.values(), key=lambda group: _number(group[0].dataset.get("SeriesNumber")))


def _uid(header: Header) -> str:
    return " ".join(str(header.dataset.get("SeriesInstanceUID") or "").split())


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("inf")


def series_info(headers: Sequence[Header]) -> SeriesInfo:
    """What to tell a person of a series."""
    first = headers[0].dataset
    return SeriesInfo(
        uid=_uid(headers[0]),
        description=str(first.get("SeriesDescription") or ""),
        modality=" ".join(str(first.get("Modality") or "").split()),
        images=sum(frame_count(header) for header in headers),
        localiser=all(is_localiser(header.dataset.get("ImageType")) for header in headers),
        paths=tuple(header.path for header in headers),
    )


def frame_count(header: Header) -> int:
    """Number of images in the file."""
    try:
        return int(header.dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{header.path} is damaged: its NumberOfFrames is not a whole number") from error


def is_localiser(image_type: object) -> bool:
    """Whether an ImageType or FrameType says so."""
    return "LOCALIZER" in str(image_type).upper()


def choose(groups: list[list[Header]], series_uid: str | None, path: Path) -> list[Header]:
    """The series that is asked for, or the only one; raises ValueError with a list of all where that is not clear."""
    told = "; ".join(series_info(group).describe() for group in groups)
    if series_uid is None:
        if len(groups) > 1:
            raise ValueError(f"{path} holds {len(groups)} series, take one of them with --series UID: {told}")
        return groups[0]
    for group in groups:
        if _uid(group[0]) == series_uid:
            return group
    raise ValueError(f"{path} holds no series {series_uid}; it holds {told}")
