"""Which DICOM series lie in a folder, and which of them is the scan.

A study from an archive or a CD holds localisers, reports, screen shots and sometimes a broken file next to the scan.
They do not prevent reading it: what is left out is reported in a note, and only where several scans remain has a person
to choose one by its SeriesInstanceUID. A damaged file that may be a slice of the chosen series is never left out
silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.multival import MultiValue

from mper.dicom.headers import Header, frame_count, is_colour, is_localiser, read_header
from mper.dicom.slice_series import slice_stacks
from mper.progress import Notify
from mper.utils.coded import Coded
from mper.utils.text import shorten

_LOCALISERS = re.compile(r"locali[sz]er|scout|survey|3[ _-]?plane", re.IGNORECASE)  # of descriptions
_SHOWN = 8  # series in one message
_ORIENTATION_TOLERANCE = 0.1  # difference of direction cosines: other planes, not rounding
# Attributes that stand before SeriesInstanceUID, in a header that was cut off.
_EARLY = ("SOPClassUID", "Modality", "ImageType", "SeriesDescription", "SeriesTime", "StudyInstanceUID")


@dataclass(frozen=True)
class SeriesInfo:
    """One series of images in a folder.

    Parameters
    ----------
    uid : str
        SeriesInstanceUID, empty where the files do not tell it.
    description, modality : str
        As the files tell, else empty.
    images : int
        Number of images; each frame of a multi-frame file counts.
    localiser : bool
        Whether all its images are localisers (scouts).
    paths : tuple of Path
    no_scan : str
        Why the series is no scan that could be segmented, in words; empty for a scan.
    slices : tuple of str
        The UIDs of series of one slice each that make up the scan (see `mper.dicom.slice_series`); else empty.
    """

    uid: str
    description: str
    modality: str
    images: int
    localiser: bool
    paths: tuple[Path, ...]
    no_scan: str = ""
    slices: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for lists and messages."""
        kind = f" ({self.no_scan})" if self.no_scan else ""
        kind = f" ({len(self.slices)} series of one slice each)" if self.slices else kind
        return f"{self.uid or '(no UID)'} {self.modality} {self.description!r} {self.images} images{kind}"


@dataclass(frozen=True, eq=False)
class Series:
    """The headers of one series, and what to say of it."""

    info: SeriesInfo
    headers: tuple[Header, ...]


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a folder holds.

    Parameters
    ----------
    path : Path
        The folder or file that was searched.
    series : tuple of Series
        In the order of their numbers.
    damaged : tuple of Header
        Damaged files that are of no series in `series`.
    """

    path: Path
    series: tuple[Series, ...]
    damaged: tuple[Header, ...]

    @property
    def scans(self) -> tuple[Series, ...]:
        """The series that could be segmented."""
        return tuple(one for one in self.series if not one.info.no_scan)


def discover(path: Path) -> Discovery:
    """The DICOM series at `path`: a file, or a folder.

    Where a folder itself holds no scan, or a DICOMDIR, the folders below it are searched too.
    Files that are not DICOM images are passed over.

    Raises
    ------
    ValueError
        If there is no DICOM image.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    headers = _headers(files)
    found = _grouped(path, headers)
    if path.is_dir() and (not found.scans or any(file.name.upper().startswith("DICOMDIR") for file in files)):
        below = sorted(file for file in path.rglob("*") if file.is_file() and file.parent != path)
        found = _grouped(path, headers + _headers(below))
    if not found.series:
        none = Coded(f"{path} holds no DICOM image", "no-dicom", path=str(path))
        raise ValueError(found.damaged[0].damage if found.damaged else none)
    return found


def select_series(found: Discovery, series_uid: str | None, notify: Notify) -> Series:
    """The series that is asked for, or the only scan.

    Parameters
    ----------
    found : Discovery
    series_uid : str or None
    notify : callable
        Called with what is left out: series that are no scans, damaged files.

    Raises
    ------
    ValueError
        If there is no such series, if there are several scans and none is named, or a damaged file may belong to the
        series.
    """
    chosen = _named(found, series_uid) if series_uid is not None else _only_scan(found)
    if chosen.info.slices:
        notify(
            Coded(
                f"took {len(chosen.info.slices)} series of one slice each as one stack",
                "one-stack",
                n=len(chosen.info.slices),
            )
        )
    for header in chosen.headers:
        if header.damage:
            raise ValueError(header.damage)
    if series_uid is None:
        for header in found.damaged:
            if _may_belong(header, chosen):
                raise ValueError(
                    f"{header.damage}; it may be a slice of the scan: get the file again, or take the rest as it is "
                    f"with --series {chosen.info.uid}"
                )
        left_out = [one.info.describe() for one in found.series if one is not chosen]
        if left_out:
            names = shorten(left_out, _SHOWN, "; ")
            notify(Coded(f"left out what is no scan: {names}", "no-scans-left-out", names=names))
    others = [header for one in found.series if one is not chosen and series_uid is None for header in one.headers]
    for header in (*found.damaged, *(header for header in others if header.damage)):
        notify(Coded(f"left out a damaged file: {header.damage}", "damaged-left-out", reason=header.damage))
    return chosen


def _headers(files: Iterable[Path]) -> list[Header]:
    return [header for file in files if (header := read_header(file)) is not None]


def _grouped(path: Path, headers: Sequence[Header]) -> Discovery:
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.series_uid, []).append(header)
    series, damaged = [], []
    for uid, group in groups.items():
        whole = [header for header in group if not header.damage]
        # A damaged file without a UID may be of any series; only files that can be read make up one without UID.
        lost = group if not whole else [header for header in group if header.damage and not uid]
        damaged += lost
        if whole:
            kept = [header for header in group if header not in lost]
            series.append(Series(_info(uid, whole, kept), tuple(kept)))
    series = _stacked(series)
    series.sort(key=lambda one: _number(next(header for header in one.headers if not header.damage)))
    return Discovery(path, tuple(series), tuple(damaged))


def _stacked(series: Sequence[Series]) -> list[Series]:
    """`series`, in which those that are the slices of one stack are one."""
    kept = dict(enumerate(series))
    for order in slice_stacks([one.headers for one in series]):
        members = [kept.pop(index) for index in order]
        infos = [one.info for one in members]
        info = replace(
            infos[0],
            images=sum(one.images for one in infos),
            paths=tuple(path for one in infos for path in one.paths),
            no_scan="",
            slices=tuple(one.uid for one in infos),
        )
        kept[order[0]] = Series(info, tuple(header for one in members for header in one.headers))
    return list(kept.values())


def _number(header: Header) -> float:
    try:
        return float(str(header.dataset.get("SeriesNumber")))
    except ValueError:
        return float("inf")


def _info(uid: str, whole: Sequence[Header], kept: Sequence[Header]) -> SeriesInfo:
    first = whole[0].dataset
    images = sum(frame_count(header) for header in whole)
    localiser = all(is_localiser(header.dataset.get("ImageType")) for header in whole)
    planes, description = _orientations(whole), str(first.get("SeriesDescription") or "")
    reasons = (
        (localiser, "localiser"),
        (bool(_LOCALISERS.search(description)), "localiser by its description"),
        (all(is_colour(header.dataset) for header in whole), "colour images"),
        (images == 1, "a single image"),
        (planes > 1, f"images of {planes} orientations"),
    )
    return SeriesInfo(
        uid=uid,
        description=description,
        modality=" ".join(str(first.get("Modality") or "").split()),
        images=images,
        localiser=localiser,
        paths=tuple(header.path for header in kept),
        no_scan=next((reason for holds, reason in reasons if holds), ""),
    )


def _orientations(headers: Sequence[Header]) -> int:
    """Number of planes in which the single-frame images lie that are not localisers; 0 where none tells its plane."""
    known: list[np.ndarray] = []
    for header in headers:
        try:
            orientation = np.array(header.dataset.get("ImageOrientationPatient"), dtype=np.float64)
        except Exception:  # a damaged value is reported when the images are read
            continue
        if orientation.shape != (6,) or is_localiser(header.dataset.get("ImageType")):
            continue
        if not any(np.abs(orientation - other).max() < _ORIENTATION_TOLERANCE for other in known):
            known.append(orientation)
    return len(known)


def _named(found: Discovery, uid: str) -> Series:
    for one in found.series:
        if uid in (one.info.uid, *one.info.slices):
            return one
    for header in found.damaged:
        if header.series_uid == uid:
            raise ValueError(header.damage)
    raise ValueError(
        Coded(
            f"{found.path} holds no series {uid}; it holds {_listed(found.series)}", "no-series", path=str(found.path)
        )
    )


def _only_scan(found: Discovery) -> Series:
    candidates = found.scans or found.series
    if len(candidates) == 1:
        return candidates[0]
    if not found.scans:
        raise ValueError(
            Coded(
                f"{found.path} holds no scan; it holds {_listed(found.series)}",
                "no-scan-in-folder",
                path=str(found.path),
            )
        )
    raise ValueError(
        Coded(
            f"{found.path} holds {len(candidates)} series, take one of them with --series UID: {_listed(candidates)}",
            "several-series",
            path=str(found.path),
            n=len(candidates),
        )
    )


def _may_belong(header: Header, series: Series) -> bool:
    """Whether a damaged file may be an image of `series`, by what it tells before it breaks off, and where it lies."""
    first = next(other for other in series.headers if not other.damage).dataset
    if not series.info.uid.startswith(header.series_uid):  # of a file that breaks off the last value may be cut
        return False
    agreeing = 0
    for keyword in _EARLY:
        try:
            value = header.dataset.get(keyword)
        except Exception:  # a damaged value can fail anywhere in the parser
            continue
        if value is None:
            continue
        if not _text(first.get(keyword)).startswith(_text(value)):
            return False
        agreeing += 1
    return agreeing > 1 or any(header.path.parent == path.parent for path in series.info.paths)


def _text(value: object) -> str:
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def _listed(series: Sequence[Series]) -> str:
    return shorten((one.info.describe() for one in series), _SHOWN, "; ")
