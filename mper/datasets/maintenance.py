"""Changes of a dataset beside its labels: cases are removed, excluded, renamed or held out, get a region of interest;
structures are added.

Each is an event of `mper.datasets.events`. No file of a case is deleted: a removed case lies in the folder
``recycled``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.datasets.events import EXCLUDED, HELD_OUT, INCLUDED, REGION_SET, REMOVED, RENAMED, STRUCTURE_ADDED
from mper.datasets.index import Index
from mper.labels import Label
from mper.roi import Box, region_of_box
from mper.utils.coded import Coded, line_of
from mper.utils.files import rename_folder
from mper.volume import Geometry

RECYCLED = "recycled"
_NAME_LENGTH = 128
_LEAST_VOXELS = 8  # of a region, along an axis: less is a slip of the mouse
_THICK = 2.0  # steps that are so many times longer than the shortest lie across slices, of which one is enough


def remove_case(dataset: Dataset, case_id: str, by: str) -> Path:
    """Move a case to the recycle folder of its dataset, and take it out of its split; returns where it lies now.

    Raises
    ------
    ValueError
        If there is no such case, or it belongs to the hold-out.
    OSError
        If its folder cannot be moved, as another program has a file of it open; nothing has changed then.
    """
    case = dataset.case(case_id)
    _refuse_held_out(dataset, case.id, "removed")
    folder = dataset.path / RECYCLED
    folder.mkdir(exist_ok=True)
    target = folder / f"{case.id}-{datetime.now():%Y%m%d-%H%M%S}"

    def move() -> None:
        if not rename_folder(case.path, target):
            raise FileExistsError(f"{target} is there already; try again")

    dataset.change(lambda index: index.without([case.id]), REMOVED, by, move=move, case=case.id)
    return target


def exclude_case(dataset: Dataset, case_id: str, by: str) -> None:
    """Take a case out of its splits, so that nothing is trained on it or measured on it; its files stay.

    Raises
    ------
    ValueError
        If there is no such case, or it belongs to the hold-out.
    """
    case = dataset.case(case_id)
    if case.id in dataset.history.excluded:
        return
    _refuse_held_out(dataset, case.id, "excluded")
    splits = [name for name, ids in dataset.splits.items() if case.id in ids]
    first = splits[0] if splits else None  # all that older programs know
    dataset.change(lambda index: index.without([case.id]), EXCLUDED, by, case=case.id, split=first, splits=splits)


def include_case(dataset: Dataset, case_id: str, by: str) -> None:
    """Put an excluded case back into the splits that it was in, as their last case.

    Raises
    ------
    ValueError
        If there is no such case, or it or one of those splits has been held out since.
    """
    case = dataset.case(case_id)
    if case.id not in dataset.history.excluded:
        return

    def put_back(index: Index) -> Index:
        for split in dataset.history.excluded_from[case.id]:
            index = index.extended(split, [case.id])
        return index

    dataset.change(put_back, INCLUDED, by, case=case.id)


def rename_case(dataset: Dataset, case_id: str, name: str, by: str) -> None:
    """Give a case a display name; an empty one takes it away. Its id, with which its files are named, never changes.

    Raises
    ------
    ValueError
        If there is no such case, the name is too long, or another case has it.
    """
    case, name = dataset.case(case_id), " ".join(name.split())
    if len(name) > _NAME_LENGTH:
        raise ValueError(
            Coded(
                f"the name is too long ({len(name)} characters); use {_NAME_LENGTH} at most",
                "name-too-long",
                most=_NAME_LENGTH,
            )
        )
    shown = {other: dataset.history.names.get(other, other).casefold() for other in dataset.cases if other != case.id}
    if taken := [other for other, its in shown.items() if name and its == name.casefold()]:
        raise ValueError(
            Coded(f"case {taken[0]} has the name {name!r}; choose another", "name-taken", case=taken[0], name=name)
        )
    dataset.change(lambda index: index, RENAMED, by, case=case.id, name=name)


def hold_out_more(dataset: Dataset, case_ids: Sequence[str], by: str) -> list[str]:
    """Add cases, and the other cases of the same scans, to the second hold-out; none ever leaves it.

    Returns
    -------
    list of str
        The cases that were added.

    Raises
    ------
    ValueError
        If no first hold-out is locked, there is no such case, or it is excluded.
    """
    asked = [dataset.case(case_id).id for case_id in case_ids]
    held = set(dataset.held_out)
    added = [case_id for case_id in [*dict.fromkeys(asked), *dataset.copies_to_lock(asked)] if case_id not in held]
    if not added:
        raise ValueError(Coded("a hold-out needs at least one case that is not held out yet", "nothing-to-hold-out"))
    dataset.change(lambda index: index.with_second_holdout(added), HELD_OUT, by, cases=added)
    return added


def add_structure(dataset: Dataset, label: Label, by: str) -> None:
    """Add a structure to a dataset; labels that were made before show none of it.

    Raises
    ------
    ValueError
        If its value or its name is taken.
    """
    dataset.change(lambda index: index.with_label(label), STRUCTURE_ADDED, by, value=label.value, name=label.name)


def set_region(dataset: Dataset, case_id: str, region_mm: Sequence[float] | None, by: str) -> Box | None:
    """Let drafts and trainings use a case inside a box alone, or, with None, the whole scan again.

    Parameters
    ----------
    dataset : Dataset
    case_id : str
    region_mm : six numbers or None
        x0, x1, y0, y1, z0, z1 in LPS mm.
    by : str

    Returns
    -------
    six numbers or None
        As they are stored.

    Raises
    ------
    ValueError
        If there is no such case, the box is malformed, lies outside the scan or is too small to train on, or the
        spacing of the scan is unknown.
    """
    case = dataset.case(case_id)
    before = dataset.history.regions.get(case.id)
    box = None
    if region_mm is not None:
        try:
            check_region(case.geometry, region_mm)
        except ValueError as error:
            reason = line_of(error)
            raise ValueError(Coded(f"case {case.id}: {reason}", "case-note", case=case.id, note=reason)) from error
        x0, x1, y0, y1, z0, z1 = (round(float(value), 4) for value in region_mm)
        box = (x0, x1, y0, y1, z0, z1)
    if box != before:
        dataset.change(lambda index: index, REGION_SET, by, case=case.id, region_mm=box)
    return box


def check_region(geometry: Geometry, region_mm: Sequence[float]) -> None:
    """Raise ValueError, as `set_region`, for a box that cannot be the region of a scan."""
    region = region_of_box(geometry, region_mm)
    size = [b - a for a, b in zip(region.start, region.stop, strict=True)]
    steps = geometry.step_lengths
    across = [step > _THICK * min(steps) for step in steps]
    if any(
        n < min(_LEAST_VOXELS, whole) and not slices
        for n, whole, slices in zip(size, geometry.shape, across, strict=True)
    ):
        held = "x".join(map(str, size))
        line = f"the region holds only {held} voxels of the scan; draw one of at least {_LEAST_VOXELS} voxels along "
        raise ValueError(Coded(f"{line}each axis", "region-too-small", size=held, least=_LEAST_VOXELS))


def _refuse_held_out(dataset: Dataset, case_id: str, done: str) -> None:
    if case_id in dataset.held_out:
        raise ValueError(
            Coded(
                f"{case_id} belongs to the locked hold-out, which never changes; it cannot be {done}",
                "is-held-out",
                case=case_id,
            )
        )
