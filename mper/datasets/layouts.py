"""The folder layouts that datasets come in: what cases a folder holds, and how each is read.

==============  =====================================================  =====================================
layout          files                                                  masks
==============  =====================================================  =====================================
LA challenge    <case>/lgemri.nrrd, laendo.nrrd                        0 and 255; the atrium becomes label 1
UA-MT h5        <case>/mri_norm2.h5                                    0 and 1
ACDC h5         volumes/*.h5, or *.h5 (SSL4MIS)                        1 RV, 2 MYO, 3 LV; or its scribbles
nnU-Net raw     dataset.json, imagesTr, labelsTr, imagesTs (labelsTs)  as dataset.json says; `ignore` is 255
scans           files or DICOM series                                  none
==============  =====================================================  =====================================

The first three are also found one folder deeper (``2018LA_Seg_Training Set/<case>/...``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mper.labels import BACKGROUND, UNLABELLED, Label, make_label
from mper.volume import Volume

Pair = tuple[Volume, Volume | None]


@dataclass(frozen=True, eq=False)
class SourceCase:
    """A case that was found, and not yet read.

    Parameters
    ----------
    id : str
        Its future id.
    place : str
        For people: where it lies. Not stored.
    files : tuple of Path
        The image's files.
    named : str or None
        What is stored about where it came from: a path within the source; None where even names may tell who the
        patient is (DICOM exports).
    read : callable
        Gives image and mask (None where there is none); the mask's values are those of the layout's labels.
    """

    id: str
    place: str
    files: tuple[Path, ...]
    named: str | None
    read: Callable[[], Pair]

    def sha256(self) -> str:
        """Of the image's file; of the digests of its files, sorted, where they are several."""
        digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files)
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


@dataclass(frozen=True, eq=False)
class Layout:
    """What a source holds.

    Parameters
    ----------
    name : str
        Of the layout.
    cases : mapping of str to SourceCase
        By id, in their natural order.
    labels : tuple of Label
        What the masks' values mean, empty where the layout has no masks.
    lists : mapping of str to tuple of str
        Splits that the layout itself tells.
    notices : tuple of str
    """

    name: str
    cases: Mapping[str, SourceCase]
    labels: tuple[Label, ...] = ()
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def find_layout(source: Path, scribbles: bool = False) -> Layout:
    """Recognise the layout of `source`; with `scribbles` its masks are those that ACDC h5 has beside the whole ones.

    Raises
    ------
    FileNotFoundError
        If it does not exist or holds nothing that is known.
    ValueError
        If it is a dataset already, its layout is known and cannot be imported, or it has no scribbles.
    """
    layout = _find(source)
    if not scribbles:
        return layout
    if layout.name != _TITLES[_acdc]:
        raise ValueError(f"{source} is {layout.name}, which has no scribbles; only ACDC h5 has them")
    cases = {
        case_id: replace(case, read=partial(_read_scribbles, case.files[0])) for case_id, case in layout.cases.items()
    }
    return replace(layout, cases=cases)


def _find(source: Path) -> Layout:
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_dir():
        if (source / "imagesTr").is_dir():
            return _nnunet(source)
        if (source / "dataset.json").is_file():
            raise ValueError(
                f"{source} is a dataset or part of one already; import the folder that its scans came from"
            )
        # The first place that holds a layout counts: the public LA folder has its first case twice, as h5 below.
        below = [source / "volumes"] if (source / "volumes").is_dir() else _folders(source)
        for places in ([source], [folder for folder in below if folder.name != "slices"]):
            for layout in (_la_challenge, _uamt, _acdc):
                found = [case for place in places for case in layout(place, source)]
                if found:
                    return Layout(_TITLES[layout], _by_id(found), _LABELS[layout])
    return _scans(source)


# ---- one folder, one layout: each lists the cases in `folder`


def _la_challenge(folder: Path, source: Path) -> Iterable[SourceCase]:
    for case in _folders(folder):
        image, mask = case / "lgemri.nrrd", case / "laendo.nrrd"
        if image.is_file():
            yield _file_case(case.name, image, source, partial(_read_la, image, mask))


def _uamt(folder: Path, source: Path) -> Iterable[SourceCase]:
    for case in _folders(folder):
        image = case / "mri_norm2.h5"
        if image.is_file():
            yield _file_case(case.name, image, source, partial(_read_h5, image))


def _acdc(folder: Path, source: Path) -> Iterable[SourceCase]:
    for image in sorted(folder.glob("*.h5")):
        yield _file_case(image.stem, image, source, partial(_read_h5, image))


_TITLES = {_la_challenge: "LA challenge", _uamt: "UA-MT h5", _acdc: "ACDC h5"}
_LA = (make_label(1, "LA"),)
_LABELS = {
    _la_challenge: _LA,
    _uamt: _LA,
    _acdc: tuple(make_label(value, name) for value, name in enumerate(("RV", "MYO", "LV"), start=1)),
}


def _read_la(image: Path, mask: Path) -> Pair:
    from mper.io import read_labelmap, read_volume

    if not mask.is_file():
        return read_volume(image), None
    label = read_labelmap(mask)
    values = set(np.unique(label.array).tolist())
    if not (values <= {0, 255} or values <= {0, 1}):
        raise ValueError(f"{mask} holds the values {sorted(values)}; masks of the LA challenge hold 0 and 255")
    return read_volume(image), label.with_array((label.array != 0).astype(np.uint8))


def _read_h5(path: Path) -> Pair:
    from mper.io import read_h5

    volumes = read_h5(path)
    if "image" not in volumes:
        raise ValueError(f"{path} holds {', '.join(volumes)} and no dataset 'image'")
    return volumes["image"], volumes.get("label")


def _read_scribbles(path: Path) -> Pair:
    """The lines that people drew, background among them; everywhere else (the value 4) is unlabelled."""
    from mper.io import read_h5

    volumes = read_h5(path)
    missing = [name for name in ("image", "scribble") if name not in volumes]
    if missing:
        raise ValueError(f"{path} holds {', '.join(volumes)} and no dataset {missing[0]!r}")
    drawn = volumes["scribble"].array
    undrawn = 1 + max(label.value for label in _LABELS[_acdc])
    return volumes["image"], volumes["image"].with_array(np.where(drawn == undrawn, UNLABELLED, drawn))


# ---- nnU-Net


def _nnunet(source: Path) -> Layout:
    """The raw layout of nnU-Net, versions 1 and 2, one channel; imagesTr is split `train`, imagesTs split `test`."""
    told = _nnunet_json(source / "dataset.json")
    channels = told.get("channel_names", told.get("modality", {}))
    if len(channels) > 1:
        names = ", ".join(str(name) for name in dict(channels).values())
        raise ValueError(f"{source} has {len(channels)} channels ({names}), mper takes one; keep one of them")
    labels, ignored = _nnunet_labels(told.get("labels", {}), source / "dataset.json")
    cases: list[SourceCase] = []
    lists: dict[str, tuple[str, ...]] = {}
    notices: list[str] = []
    for split, part in (("train", "Tr"), ("test", "Ts")):
        images = _channel_zero(source / f"images{part}", told.get("file_ending"))
        masks = {_stem(path): path for path in _scan_files(source / f"labels{part}", told.get("file_ending"))}
        for case_id, image in images.items():
            read = partial(_read_nnunet, image, masks.pop(case_id, None), ignored)
            cases.append(_file_case(case_id, image, source, read))
        if masks:
            notices.append(f"labels{part} holds {some(masks)} without an image; left out")
        if images:
            lists[split] = tuple(images)
    if not cases:
        raise FileNotFoundError(f"{source / 'imagesTr'} holds no scans that mper reads")
    return Layout("nnU-Net raw", _by_id(cases), labels, lists, tuple(notices))


def _nnunet_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; nnU-Net's raw layout says there what the labels are") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(told, dict) or not isinstance(told.get("labels"), dict):
        raise ValueError(f'{path} names no labels; nnU-Net\'s has "labels": {{"background": 0, ...}}')
    return told


def _nnunet_labels(told: Mapping[str, Any], where: Path) -> tuple[tuple[Label, ...], int | None]:
    """The labels, and the value that means unlabelled."""
    if all(key.isdecimal() for key in told):  # version 1 writes value: name
        told = {str(name): int(value) for value, name in told.items()}
    regions = [name for name, value in told.items() if not isinstance(value, int)]
    if regions:
        raise ValueError(
            f"{where}: {', '.join(regions)} are regions of several labels; give each voxel one label (name: number)"
        )
    ignored = told.get("ignore")
    named = {name: value for name, value in told.items() if value not in (BACKGROUND, ignored)}
    return tuple(make_label(value, name) for name, value in named.items()), ignored


def _channel_zero(folder: Path, ending: str | None) -> dict[str, Path]:
    """The images by case: <case>_0000.*, or <case>.* where no file has a channel."""
    files = _scan_files(folder, ending)
    parts = {path: re.fullmatch(r"(.+)_(\d{4})", _stem(path)) for path in files}
    if not any(parts.values()):
        return {_stem(path): path for path in files}
    images: dict[str, Path] = {}
    for path, part in parts.items():
        if part is None or part[2] != "0000":
            raise ValueError(
                f"{path} is not the one channel <case>_0000 of a case; mper takes one channel, keep one of them"
            )
        images[part[1]] = path
    return images


def _read_nnunet(image: Path, mask: Path | None, ignored: int | None) -> Pair:
    from mper.io import read_labelmap, read_volume

    if mask is None:
        return read_volume(image), None
    label = read_labelmap(mask)
    if ignored is None:
        return read_volume(image), label
    return read_volume(image), label.with_array(
        np.where(label.array == ignored, UNLABELLED, label.array).astype(np.uint8)
    )


# ---- plain scans


def _scans(source: Path) -> Layout:
    """Files and DICOM series, each a case without a label."""
    from mper.io import SCAN_SUFFIXES, find_scans, read_volume

    cases: list[SourceCase] = []
    notices: list[str] = []
    for path in find_scans([source]):
        if path.is_file() and path.name.lower().endswith(SCAN_SUFFIXES):
            cases.append(_file_case(_stem(path), path, path.parent, partial(_unlabelled, partial(read_volume, path))))
            continue
        for series in dicom_cases(path):
            cases.append(series)
            notices.append(f"{series.id} is the DICOM series in {series.place}")
    if source.is_dir():
        masks = sorted(path.name for path in source.glob("*.seg.nrrd"))
        if masks:
            notices.append(f"{some(masks)} left out: scans are imported here without masks")
    return Layout("scans", _by_id(cases), notices=tuple(notices))


def dicom_cases(folder: Path, series_uid: str | None = None) -> Iterable[SourceCase]:
    """The series in a folder, without localisers; or the one that is asked for.

    Names of folders and files often tell who the patient is, so that a case is named by a digest of its
    SeriesInstanceUID.
    """
    from mper.dicom.series import list_series
    from mper.io import read_volume

    where = folder if folder.is_dir() else folder.parent
    for series in list_series(where):
        if series.localiser or (folder.is_file() and folder not in series.paths):
            continue
        if series_uid not in (None, series.uid):
            continue
        case_id = f"series-{hashlib.sha256(series.uid.encode('utf-8')).hexdigest()[:10]}"
        read = partial(_unlabelled, partial(read_volume, folder, series.uid))
        yield SourceCase(case_id, str(folder), series.paths, None, read)


def _unlabelled(read: Callable[[], Volume]) -> Pair:
    return read(), None


# ---- small things


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _file_case(case_id: str, image: Path, source: Path, read: Callable[[], Pair]) -> SourceCase:
    return SourceCase(case_id, str(image), (image,), image.relative_to(source).as_posix(), read)


def _by_id(cases: Sequence[SourceCase]) -> dict[str, SourceCase]:
    found: dict[str, SourceCase] = {}
    for case in cases:
        other = found.setdefault(case.id, case)
        if other is not case:
            raise ValueError(f"{other.place} and {case.place} would both be case {case.id!r}; rename one of them")
    return found


def _scan_files(folder: Path, ending: str | None) -> list[Path]:
    from mper.io import SCAN_SUFFIXES

    endings = (ending.lower(),) if ending else SCAN_SUFFIXES
    unread = [e for e in endings if not e.endswith(SCAN_SUFFIXES)]
    if unread:
        raise ValueError(f"the scans are {unread[0]} files; mper reads {', '.join(SCAN_SUFFIXES)}")
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.name.lower().endswith(endings))


def _stem(path: Path) -> str:
    """The name without its ending, .nii.gz being one."""
    from mper.io import SCAN_SUFFIXES

    endings = [e for e in SCAN_SUFFIXES if path.name.lower().endswith(e)]
    return path.name[: -len(max(endings, key=len))] if endings else path.name


def some(names: Iterable[str]) -> str:
    """The first names of many, and how many there are."""
    shown = list(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
