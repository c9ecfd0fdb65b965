"""Which split each case of an import source goes into.

Lists (``NAME.list``, one case a line) make splits, and so do layouts that define some: with a split named, all cases go
there, or those of its list in its order; without, each list becomes a split, and a source without any is one split
`train`. What a list names and the source lacks is left out with a note, and a list that names no case at all (of
slices, of patients) makes no split.
"""

from __future__ import annotations

from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.datasets.source import Source
from mper.progress import Notify
from mper.utils.text import shorten

Splits = dict[str, list[str]]


def splits_of(source: Source, path: Path, split: str | None, notify: Notify) -> Splits:
    """The case ids of each split, in order.

    Parameters
    ----------
    source : Source
    path : Path
        Where it lies, with the lists in it.
    split : str or None
        The one that was asked for.
    notify : callable
        Receives what is left out.

    Raises
    ------
    ValueError
        If the lists name none of the cases.
    """
    files = sorted(path.glob("*.list")) if path.is_dir() else []
    lists = {**source.splits, **{file.stem: _read_list(file) for file in files}}
    if split is not None:
        if not split.strip():
            raise ValueError("a split needs a name")
        if split not in lists:
            return {split: list(source.cases)}
        lists = {split: lists[split]}
    elif not lists and source.whole:
        return {}
    elif not lists:
        return {"train": list(source.cases)}
    splits = {}
    for name, listed in lists.items():
        if there := _present(name, listed, source, path, split is None, notify):
            splits[name] = there
    if not splits:
        names = ", ".join(f"{name}.list" for name in lists)
        raise ValueError(f"{names} in {path} name none of its {len(source.cases)} cases ({shorten(source.cases)})")
    unlisted = source.cases.keys() - {case_id for ids in splits.values() for case_id in ids}
    if unlisted and split is None and not source.whole:
        notify(f"{len(unlisted)} cases of {path} are in no list and are left out: {shorten(sorted(unlisted))}")
    return splits


def _present(
    name: str, listed: tuple[str, ...], source: Source, path: Path, every_list: bool, notify: Notify
) -> list[str]:
    """The cases of one list that the source has."""
    there = [case_id for case_id in listed if case_id in source.cases]
    missing = [case_id for case_id in listed if case_id not in source.cases]
    if there and missing:
        notify(f"{len(missing)} of the {len(listed)} cases in {name}.list are not in {path}: {shorten(missing)}")
    if not there and every_list:
        notify(f"{name}.list names no case of {path} ({shorten(listed) or 'it is empty'}) and makes no split")
    return there


def _read_list(path: Path) -> tuple[str, ...]:
    """The names in a list, once each; what follows a comma, and a file's ending, are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of cases: it is not text ({error.reason})") from error
    names = (line.split(",")[0].strip().removesuffix(".h5").removesuffix("/mri_norm2") for line in lines)
    return tuple(dict.fromkeys(name for name in names if name))


def without_left_out(target: Dataset, splits: Splits, notify: Notify) -> Splits:
    """`splits` without the cases that were excluded or removed in the dataset."""
    history = target.history
    left_out = {*history.excluded, *history.removed}
    if named := sorted({case_id for ids in splits.values() for case_id in ids if case_id in left_out}):
        notify(f"{shorten(named)} were excluded or removed in the dataset and are not imported again")
    return {name: [case_id for case_id in ids if case_id not in left_out] for name, ids in splits.items()}


def without_holdout(target: Dataset, splits: Splits, notify: Notify) -> Splits:
    """`splits` without the cases of the locked hold-out, but in a split that is locked itself, which stays as it is.

    Raises
    ------
    ValueError
        If the hold-out would get another case.
    """
    if target.holdout is None:
        return splits
    held = set(target.held_out)
    free = {name: [i for i in ids if i not in held or name in target.locked_splits] for name, ids in splits.items()}
    for name, ids in free.items():
        if not set(ids) <= held:
            target.index.extended(name, ids)
        kept = [case_id for case_id in splits[name] if case_id not in ids]
        if kept:
            notify(f"{shorten(kept)} stay in the locked hold-out {target.holdout!r} and do not go into split {name!r}")
    return free
