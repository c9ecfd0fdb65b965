"""A folder that `mper.datasets.export` wrote, as the source of an import: cases, labels, splits and hold-out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mper.datasets.events import box_of
from mper.datasets.export import FORMAT, LAYOUTS, RECORD, VERSION
from mper.datasets.index import SECOND_HOLDOUT
from mper.datasets.revisions import Revision
from mper.datasets.scan_record import geometry_from_dict
from mper.datasets.source import Pair, Source, SourceCase, by_id, read_mask_values
from mper.labels import BACKGROUND, UNLABELLED, Label, check_labels, label_from_dict
from mper.progress import Notify
from mper.utils.files import read_json
from mper.utils.text import reason_of, shorten
from mper.volume import Geometry, Volume


def is_export(folder: Path) -> bool:
    """Whether `folder` has the record of an export."""
    if not (folder / RECORD).is_file():
        return False
    try:
        return read_json(folder / RECORD).get("format") == FORMAT
    except ValueError:
        return True  # damaged, which `exported_source` says


def exported_source(folder: Path) -> Source:
    """The cases of an export; a label that another program has added or changed is taken as it is now.

    Raises
    ------
    ValueError
        If the record is damaged or of another version.
    FileNotFoundError
        If no scan is left.
    """
    where = folder / RECORD
    entry = read_json(where)
    if entry.get("version") != VERSION:
        raise ValueError(
            f"{where} is of version {entry.get('version')!r}, this mper reads version {VERSION}; update mper, or "
            "delete the file to import the folder by its layout alone"
        )
    try:
        labels = check_labels([label_from_dict(label) for label in entry["labels"]])
        ours = _ours(entry["values"], labels)
        cases = [_case(folder, case, ours) for case in entry["cases"]]
        splits = {str(name): tuple(map(str, ids)) for name, ids in entry["splits"].items() if name != SECOND_HOLDOUT}
        holdout, second = entry["holdout"], tuple(map(str, entry["second_holdout"]))
        layout = LAYOUTS[entry["layout"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where} is damaged ({reason_of(error)}); restore it, or delete it to import the folder by "
            "its layout alone"
        ) from error
    there = [case for case in cases if case.files[0].is_file()]
    if not there:
        raise FileNotFoundError(f"{folder} holds none of the scans that {RECORD} names; was the export moved in parts?")
    notices = []
    if gone := [case.id for case in cases if case not in there]:
        notices.append(f"{len(gone)} of {len(cases)} scans of {RECORD} are gone and left out: {shorten(gone)}")
    known = {case.id for case in there}
    splits = {name: tuple(i for i in ids if i in known) for name, ids in splits.items()}
    return Source(
        layout,
        by_id(there),
        labels,
        partial=True,
        splits={name: ids for name, ids in splits.items() if ids},
        notices=tuple(notices),
        whole=True,
        holdout=holdout if splits.get(holdout or "") else None,
        second_holdout=tuple(i for i in second if i in known),
    )


def _ours(values: Mapping[str, int], labels: tuple[Label, ...]) -> dict[int, int]:
    """Our value of each that was written."""
    named = [BACKGROUND, *(label.value for label in labels), UNLABELLED]
    return {0 if value == BACKGROUND else int(values[str(value)]): value for value in named}


def _case(folder: Path, entry: Mapping[str, Any], ours: Mapping[int, int]) -> SourceCase:
    image, mask = (_inside(folder, str(entry[name])) for name in ("image", "label"))
    read = partial(_read, image, mask, geometry_from_dict(entry["geometry"]), ours)
    revision, sha256 = entry.get("revision"), entry.get("label_sha256")
    return SourceCase(
        str(entry["id"]),
        str(image),
        (image,),
        str(entry["image"]),
        read,
        region_mm=box_of(entry.get("region_mm")),
        mask=mask,
        exported=(str(sha256), _revision(revision)) if revision and sha256 else None,
    )


def _revision(entry: Mapping[str, Any]) -> Revision:
    model = entry["model"]
    return Revision(**{**entry, "model": tuple(map(str, model)) if model else None})


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} lies outside of the folder")
    return path


def _read(image: Path, mask: Path, grid: Geometry, ours: Mapping[int, int], notify: Notify) -> Pair:
    from mper.io import read_volume

    volume = _on(grid, read_volume(image, notify=notify))
    if not mask.is_file():
        return volume, None
    label = _on(grid, read_mask_values(mask, notify))
    if unknown := sorted(set(np.unique(label.array).tolist()) - ours.keys()):
        raise ValueError(f"{mask} holds the values {unknown}, which no label names; correct it there")
    table = np.zeros(256, np.uint8)
    table[list(ours)] = list(ours.values())
    return volume, label.with_array(table[label.array.astype(np.uint8)])


def _on(grid: Geometry, volume: Volume) -> Volume:
    """The volume on the grid that was exported, which a file of 32-bit floats only holds nearly."""
    same = grid.spacing_known == volume.geometry.spacing_known and grid.is_close(volume.geometry)
    return Volume(volume.array, grid) if same else volume
