"""The raw layout of nnU-Net, versions 1 and 2, which the Medical Segmentation Decathlon shares.

``imagesTr``, ``labelsTr`` and optionally ``imagesTs`` (``labelsTs``) beside ``dataset.json``, which names the labels.
One channel: ``<case>_0000.*``, or ``<case>.*`` where no file has a channel (the Decathlon). Version 2 may list the
files instead, in any folder: ``"dataset": {<case>: {"images": [...], "label": ...}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mper.datasets.source import (
    Pair,
    Source,
    SourceCase,
    by_id,
    file_case,
    read_mask_values,
    stem,
    volume_files,
)
from mper.labels import BACKGROUND, UNLABELLED, Label, make_label
from mper.progress import Notify
from mper.utils.text import shorten

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def is_nnunet(folder: Path) -> bool:
    """Whether `folder` has nnU-Net's raw layout."""
    if (folder / "imagesTr").is_dir():
        return True
    try:
        return bool(_listed(_read_json(folder / "dataset.json")))
    except (OSError, ValueError):
        return False


def nnunet_source(folder: Path) -> Source:
    """The cases of a raw folder; imagesTr is split `train`, imagesTs split `test`.

    Raises
    ------
    ValueError
        If dataset.json is damaged, or there are several channels or regions of several labels.
    FileNotFoundError
        If there is no scan.
    """
    entry = _read_json(folder / "dataset.json")
    channels = entry.get("channel_names", entry.get("modality", {}))
    if len(channels) > 1:
        names = ", ".join(str(name) for name in (channels.values() if isinstance(channels, dict) else channels))
        raise ValueError(f"{folder} has {len(channels)} channels ({names}), mper takes one; keep one of them")
    labels, ignored = _labels(entry.get("labels", {}), folder / "dataset.json")
    notices: list[str] = []
    cases: list[SourceCase] = []
    splits: dict[str, tuple[str, ...]] = {}
    masks_found = False
    if listed := _listed(entry):
        for case_id, (image, mask) in _listed_files(listed, folder).items():
            masks_found |= mask is not None
            cases.append(_case_of(case_id, image, mask, ignored))
        splits["train"] = tuple(case.id for case in cases)
        return Source("nnU-Net raw", by_id(cases), labels, masks_found, ignored is not None, splits)
    for split, part in (("train", "Tr"), ("test", "Ts")):
        images = _images(folder / f"images{part}", entry.get("file_ending"))
        masks = {stem(path): path for path in _files(folder / f"labels{part}", entry.get("file_ending"))}
        masks_found |= bool(masks)
        without = []
        for case_id, image in images.items():
            mask = masks.pop(case_id, None)
            if mask is None and split == "train":
                without.append(case_id)
            cases.append(file_case(case_id, image, folder, partial(_read, image, mask, ignored)))
        if masks:
            notices.append(f"labels{part} holds {shorten(masks)}, for which images{part} has no image; left out")
            if all((match := _CHANNEL.fullmatch(name)) and match[1] in images for name in masks):
                notices[-1] += ". Labels are named <case>, without the channel _0000: rename them and import again"
        if without:
            notices.append(f"{len(without)} of {len(images)} cases have no label in labels{part}: {shorten(without)}")
        if images:
            splits[split] = tuple(images)
    if not cases:
        raise FileNotFoundError(f"{folder / 'imagesTr'} holds no scans that mper reads")
    return Source("nnU-Net raw", by_id(cases), labels, masks_found, ignored is not None, splits, tuple(notices))


def _listed(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The cases that dataset.json lists with their files; empty where it does not."""
    cases = entry.get("dataset")
    known = isinstance(cases, dict) and all(isinstance(case, dict) and "images" in case for case in cases.values())
    return cases if known and cases else {}


def _listed_files(cases: Mapping[str, Any], folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """Image and mask of each case; paths are absolute, or relative to dataset.json."""
    where = folder / "dataset.json"
    found = {}
    for case_id, case in cases.items():
        images, label = case["images"], case.get("label")
        if not isinstance(images, list) or not all(isinstance(name, str) for name in [*images, label or ""]):
            raise ValueError(f'{where}: case {case_id!r} has no list of files named "images"')
        if len(images) != 1:
            raise ValueError(
                f"case {case_id!r} of {folder} has {len(images)} channels, mper takes one; keep one of them"
            )
        image, mask = folder / images[0], folder / label if label else None
        for path in (image, mask):
            if path is not None and not path.is_file():
                raise FileNotFoundError(
                    f"{folder / 'dataset.json'} lists {path}, which does not exist; correct it there"
                )
        found[case_id] = image, mask
    return found


def _case_of(case_id: str, image: Path, mask: Path | None, ignored: int | None) -> SourceCase:
    return SourceCase(case_id, str(image), (image,), image.name, partial(_read, image, mask, ignored))


def _read_json(path: Path) -> dict[str, Any]:
    """dataset.json, or an empty entry where there is none."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); correct it there") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("labels", {}), dict):
        raise ValueError(f'{path} names no labels; nnU-Net\'s has "labels": {{"background": 0, ...}}')
    if not isinstance(entry.get("channel_names", entry.get("modality", {})), dict | list):
        raise ValueError(f'{path} names no channels; nnU-Net\'s has "channel_names": {{"0": "MRI"}}')
    ending = entry.get("file_ending")
    if ending is not None and not isinstance(ending, str):
        raise ValueError(f'{path}: "file_ending" is text such as ".nii.gz", got {ending!r:.40}')
    return entry


def _labels(entry: Mapping[str, Any], where: Path) -> tuple[tuple[Label, ...], int | None]:
    """The labels, and the value that means unlabelled."""
    if entry and all(key.isdecimal() for key in entry):  # version 1 writes value: name
        entry = {str(name): int(value) for value, name in entry.items()}
    values = {name: _value(value) for name, value in entry.items()}
    if regions := [name for name, value in values.items() if value is None]:
        raise ValueError(
            f"{where}: {', '.join(regions)} are regions of several labels; give each voxel one label (name: number)"
        )
    ignored = values.get("ignore")
    named = {name: value for name, value in values.items() if value not in (BACKGROUND, ignored, None)}
    return tuple(make_label(value, name.strip()) for name, value in named.items() if value is not None), ignored


def _value(value: object) -> int | None:
    """A label's number, which programs also write as "1", 1.0 or [1]; None for a region of several."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.strip().removesuffix(".0").isdecimal():
        return int(value.strip().removesuffix(".0"))
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return int(value)
    return None


def _files(folder: Path, ending: str | None) -> list[Path]:
    from mper.io import SCAN_SUFFIXES

    if ending is not None and not ending.lower().endswith(SCAN_SUFFIXES):
        raise ValueError(f"the scans are {ending} files; mper reads {', '.join(SCAN_SUFFIXES)}")
    return volume_files(folder, None if ending is None else [ending])


def _images(folder: Path, ending: str | None) -> dict[str, Path]:
    """The images by case: <case>_0000.*, or <case>.* where no file has a channel."""
    files = _files(folder, ending)
    parts = {path: _CHANNEL.fullmatch(stem(path)) for path in files}
    if not any(parts.values()):
        return {stem(path): path for path in files}
    images: dict[str, Path] = {}
    for path, part in parts.items():
        if part is None or part[2] != "0000":
            raise ValueError(
                f"{path} is not the one channel <case>_0000 of a case; mper takes one channel, keep one of them"
            )
        images[part[1]] = path
    return images


def _read(image: Path, mask: Path | None, ignored: int | None, notify: Notify) -> Pair:
    from mper.io import read_volume

    volume = read_volume(image, notify=notify)
    if mask is None:
        return volume, None
    label = read_mask_values(mask, notify)
    if ignored is None:
        return volume, label
    return volume, label.with_array(np.where(label.array == ignored, UNLABELLED, label.array))
