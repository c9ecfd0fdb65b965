"""Public sets with one structure of folders: what cases a folder holds, and how each is read.

==============  =========================================  =====================================================
set             files                                      masks
==============  =========================================  =====================================================
LA challenge    <case>/lgemri.nrrd, laendo.nrrd            0 and 255; the atrium becomes label 1
UA-MT h5        <case>/mri_norm2.h5                        0 and 1
ACDC h5         volumes/*.h5, or *.h5 (SSL4MIS)            1 RV, 2 MYO, 3 LV; or its scribbles; with a
                spacing.json beside them, in mm
ACDC            patient<n>_frame<n>.nii.gz, .._gt.nii.gz   1 RV, 2 MYO, 3 LV
MM-WHS          <case>_image.nii.gz, <case>_label.nii.gz   205 MYO, 420 LA, 500 LV, 550 RA, 600 RV, 820 AO, 850 PA
LAScarQS        <case>/enhanced.nii.gz, atriumSegImgMO..   the atrium; the scars, which overlap it, are left out
==============  =========================================  =====================================================

The first three are also found one folder deeper (``2018LA_Seg_Training Set/<case>/...``), the others at any depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mper.datasets.source import (
    Pair,
    Source,
    SourceCase,
    by_id,
    file_case,
    read_mask_values,
    stem,
    sub_folders,
)
from mper.labels import UNLABELLED, Label, make_label
from mper.progress import Notify
from mper.utils.text import reason_of, shorten
from mper.volume import Geometry, Spacing, Volume

LA = (make_label(1, "LA"),)
ACDC = tuple(make_label(value, name) for value, name in enumerate(("RV", "MYO", "LV"), start=1))
# The values of Zhuang and Shen, Medical Image Analysis 2016; 421 stands in one published mask in place of 420.
_MMWHS_VALUES = {500: "LV", 600: "RV", 420: "LA", 550: "RA", 205: "MYO", 820: "AO", 850: "PA", 421: "LA"}
_SLICES = "slices"  # a folder of ACDC h5, with the slices of its volumes
MMWHS = tuple(make_label(value, name) for value, name in enumerate(dict.fromkeys(_MMWHS_VALUES.values()), start=1))


def public_source(source: Path, files: Sequence[Path]) -> Source | None:
    """The cases of a public set; None where `source` is none of them. `files` are all volume files below it."""
    for layout in (_la_challenge, _uamt, _acdc_h5):
        # The first place that holds the set counts: the public LA folder has its first case twice, as h5 below.
        below = [source / "volumes"] if (source / "volumes").is_dir() else sub_folders(source)
        for places in ([source], [folder for folder in below if folder.name != _SLICES]):
            if found := [case for place in places for case in layout(place, source)]:
                known = Source(_NAMES[layout], by_id(found), _LABELS[layout])
                ours = {case.files[0].parent for case in found}
                copies = {*known.cases, _SLICES}  # of what is there already
                others = [path for path in files if path.parent not in ours and path.parent.name not in copies]
                return _with_others(known, others)
    for by_name, is_ours in ((_acdc, _is_acdc), (_mmwhs, _is_mmwhs), (_lascarqs, _is_lascarqs)):
        if by_its_names := by_name(source, files):
            return _with_others(by_its_names, [path for path in files if not is_ours(path)])
    return None


def _with_others(known: Source, others: Sequence[Path]) -> Source:
    """The set with a notice of the other scans that lie with it, which are not imported."""
    if not others:
        return known
    names = shorten(path.name for path in others)
    line = f"{names} left out: not named as the files of {known.layout}; import them from a folder of their own"
    return replace(known, notices=(*known.notices, line))


def with_scribbles(source: Source, where: Path) -> Source:
    """ACDC h5 with the lines that people drew as labels of a part, in place of its masks.

    Raises
    ------
    ValueError
        If the source is another set.
    """
    if source.layout != _NAMES[_acdc_h5]:
        raise ValueError(f"{where} is {source.layout}, which has no scribbles; only ACDC h5 has them")
    cases = {name: replace(case, read=partial(_read_scribbles, case.files[0])) for name, case in source.cases.items()}
    return replace(source, cases=cases, partial=True)


# ---- sets of which a folder is a case


def _la_challenge(folder: Path, source: Path) -> Iterable[SourceCase]:
    for case in sub_folders(folder):
        image, mask = case / "lgemri.nrrd", case / "laendo.nrrd"
        if image.is_file():
            yield file_case(case.name, image, source, partial(_read_la, image, mask))


def _uamt(folder: Path, source: Path) -> Iterable[SourceCase]:
    for case in sub_folders(folder):
        image = case / "mri_norm2.h5"
        if image.is_file():
            yield file_case(case.name, image, source, partial(_read_h5, image))


def _acdc_h5(folder: Path, source: Path) -> Iterable[SourceCase]:
    for image in sorted(folder.glob("*.h5")):
        yield file_case(image.stem, image, source, partial(_read_acdc_h5, image))


_NAMES: dict[Callable[[Path, Path], Iterable[SourceCase]], str] = {
    _la_challenge: "LA challenge",
    _uamt: "UA-MT h5",
    _acdc_h5: "ACDC h5",
}
_LABELS: dict[Callable[[Path, Path], Iterable[SourceCase]], tuple[Label, ...]] = {
    _la_challenge: LA,
    _uamt: LA,
    _acdc_h5: ACDC,
}


def _read_la(image: Path, mask: Path, notify: Notify) -> Pair:
    from mper.io import read_labelmap, read_volume

    volume = read_volume(image, notify=notify)
    if not mask.is_file():
        return volume, None
    label = read_labelmap(mask, notify)
    values = set(np.unique(label.array).tolist())
    if not (values <= {0, 255} or values <= {0, 1}):
        raise ValueError(f"{mask} holds the values {sorted(values)}; masks of the LA challenge hold 0 and 255")
    return volume, label.with_array((label.array != 0).astype(np.uint8))


def _read_h5(path: Path, notify: Notify) -> Pair:
    from mper.io import read_h5

    volumes = read_h5(path)
    if "image" not in volumes:
        raise ValueError(f"{path} holds {', '.join(volumes)} and no dataset 'image'")
    return volumes["image"], volumes.get("label")


def _read_acdc_h5(path: Path, notify: Notify) -> Pair:
    """The files tell no spacing; a ``spacing.json`` in their folder or the one above may, see `_known_spacing`."""
    volume, mask = _read_h5(path, notify)
    spacing = _known_spacing(path)
    if spacing is None:
        return volume, mask
    known = Volume(volume.array, Geometry.from_axes((0, 0, 0), spacing, np.eye(3)[:, ::-1], volume.geometry.shape))
    return known, None if mask is None else known.with_array(mask.array)


def _known_spacing(path: Path) -> Spacing | None:
    """The voxel size of an ACDC h5 file.

    From ``spacing.json``: ``{"patient001": {"spacing_kji_mm": [10.0, 1.37, 1.37], ...}, ...}``. How the stack lies in
    the patient stays unknown: slices are taken to go upwards.
    """
    file = next((place / "spacing.json" for place in path.parents[:2] if (place / "spacing.json").is_file()), None)
    if file is None:
        return None
    try:
        every = json.loads(file.read_text(encoding="utf-8-sig"))
        entry = every.get(path.stem.split("_")[0])
        if entry is None:
            return None
        k, j, i = (float(step) for step in entry["spacing_kji_mm"])
        if not (min(k, j, i) > 0 and max(k, j, i) < float("inf")):
            raise ValueError(f"a voxel of {k:g} x {j:g} x {i:g} mm")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{file} does not tell voxel sizes as {{"patient001": {{"spacing_kji_mm": [10.0, 1.37, 1.37]}}}} '
            f"({reason_of(error)}); mend it, or move it away to import the files without a spacing"
        ) from error
    return k, j, i


def _read_scribbles(path: Path, notify: Notify) -> Pair:
    """The lines that people drew, background among them; everywhere else (the value 4) is unlabelled."""
    from mper.io import read_h5

    volumes = read_h5(path)
    missing = [name for name in ("image", "scribble") if name not in volumes]
    if missing:
        raise ValueError(f"{path} holds {', '.join(volumes)} and no dataset {missing[0]!r}")
    drawn = volumes["scribble"].array
    undrawn = 1 + max(label.value for label in ACDC)
    return volumes["image"], volumes["image"].with_array(np.where(drawn == undrawn, UNLABELLED, drawn))


# ---- sets that are known by the names of their files, at any depth

_ACDC_NAME = re.compile(r"patient\d{3}_frame\d{2}(_gt)?")
_ACDC_SERIES = re.compile(r"patient\d{3}_4d")
_MMWHS_NAME = re.compile(r"(?P<case>(?:ct|mr)_(?:train|test)_\d+)_(?P<kind>image|label)", re.IGNORECASE)
_LASCARQS_IMAGE, _LASCARQS_ATRIUM, _LASCARQS_SCARS = "enhanced", "atriumSegImgMO", "scarSeg"


def _is_acdc(path: Path) -> bool:
    return bool(_ACDC_NAME.fullmatch(stem(path)) or _ACDC_SERIES.fullmatch(stem(path)))


def _is_mmwhs(path: Path) -> bool:
    return bool(_MMWHS_NAME.fullmatch(stem(path)))


def _is_lascarqs(path: Path) -> bool:
    return stem(path) in (_LASCARQS_IMAGE, _LASCARQS_ATRIUM) or stem(path).startswith(_LASCARQS_SCARS)


def _acdc(source: Path, files: Sequence[Path]) -> Source | None:
    named = {stem(path): path for path in files if _ACDC_NAME.fullmatch(stem(path))}
    cases = [
        file_case(name, path, source, partial(_read_values, path, named.get(f"{name}_gt"), {1: 1, 2: 2, 3: 3}))
        for name, path in named.items()
        if not name.endswith("_gt")
    ]
    if not any(f"{case.id}_gt" in named for case in cases):
        return None
    series = [path.name for path in files if _ACDC_SERIES.fullmatch(stem(path))]
    notices = [f"{shorten(series)} left out: the whole cycle, of which the frames are a part"] if series else []
    return Source("ACDC", by_id(cases), ACDC, splits=_splits(cases, source), notices=tuple(notices))


def _mmwhs(source: Path, files: Sequence[Path]) -> Source | None:
    matches = [(path, match) for path in files if (match := _MMWHS_NAME.fullmatch(stem(path)))]
    masks = {match["case"]: path for path, match in matches if match["kind"].lower() == "label"}
    images = {match["case"]: path for path, match in matches if match["kind"].lower() == "image"}
    if not masks or not images:
        return None
    number = {label.name: label.value for label in MMWHS}
    values = {value: number[name] for value, name in _MMWHS_VALUES.items()}
    cases = [
        file_case(name, path, source, partial(_read_values, path, masks.get(name), values))
        for name, path in images.items()
    ]
    return Source("MM-WHS", by_id(cases), MMWHS, splits=_splits(cases, source))


def _lascarqs(source: Path, files: Sequence[Path]) -> Source | None:
    images = [path for path in files if stem(path) == _LASCARQS_IMAGE]
    masks = {path.parent: path for path in files if stem(path) == _LASCARQS_ATRIUM}
    if not masks or not images:
        return None
    cases = [
        file_case(path.parent.name, path, source, partial(_read_values, path, masks.get(path.parent), {1: 1, 255: 1}))
        for path in images
    ]
    other = sorted({path.name for path in files if stem(path).startswith(_LASCARQS_SCARS)})
    notices = [f"{shorten(other)} left out: scars overlap the atrium, and a voxel has one label"] if other else []
    return Source("LAScarQS", by_id(cases), LA, splits=_splits(cases, source), notices=tuple(notices))


def _splits(cases: list[SourceCase], source: Path) -> dict[str, tuple[str, ...]]:
    """Splits by the folders ``training`` and ``testing`` that the sets are published in; none in other folders."""
    splits: dict[str, list[str]] = {}
    for case in cases:
        folders = {part.casefold() for part in case.files[0].relative_to(source.parent).parts[:-1]}
        split = next((name for name, words in _PUBLISHED_AS.items() if folders & words), None)
        if split is None:
            return {}
        splits.setdefault(split, []).append(case.id)
    return {name: tuple(ids) for name, ids in splits.items()} if len(splits) > 1 else {}


_PUBLISHED_AS = {
    "train": {"train", "training", "mr_train", "ct_train"},
    "test": {"test", "testing", "mr_test", "ct_test"},
    "val": {"val", "validation"},
}


def _read_values(image: Path, mask: Path | None, values: dict[int, int], notify: Notify) -> Pair:
    """Image and mask; `values` maps the numbers of the file to those of the labels, any other number is refused."""
    from mper.io import read_volume

    volume = read_volume(image, notify=notify)
    if mask is None:
        return volume, None
    label = read_mask_values(mask, notify)
    array = np.zeros(label.array.shape, np.uint8)
    for value in np.unique(label.array).tolist():
        if value in values:
            array[label.array == value] = values[value]
        elif value != 0:
            raise ValueError(f"{mask} holds the value {value}; known are 0 and {', '.join(map(str, sorted(values)))}")
    return volume, label.with_array(array)
