"""From the layouts that datasets come in (`mper.datasets.layouts`) to a dataset.

Lists (``NAME.list``, one case a line) make the splits: with a split named, all cases go there, or those of its list in
its order; without, each list becomes a split, and a source without lists is one split `train`. Lists are read
tolerantly: what they name and is not there is told and passed over, and a list that names no case at all (of slices,
of patients) makes no split.

An import can be repeated at any time: what is there and the same stays, so that an interrupted import goes on, and
cases that arrive later find their place. What is there and differs is refused; a label that differs is a new revision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mper.datasets.case import Case, check_mask
from mper.datasets.dataset import DATASET, Dataset
from mper.datasets.layouts import Layout, SourceCase, find_layout, some
from mper.labels import Label, check_labels, make_label
from mper.progress import Notify, Progress, Report, ignore_notice, ignore_progress
from mper.utils.files import remove_unfinished
from mper.volume import Volume


@dataclass(frozen=True)
class ImportSummary:
    """What an import did.

    Parameters
    ----------
    layout : str
        What the source was recognised as.
    added, kept, labels_added : int
        Cases that are new, cases that were there and are the same, label revisions that are new.
    splits : mapping of str to int
        How many cases of this source each split has.
    failed : mapping of str to str
        The cases that could not be imported, with the reason in one line.
    """

    layout: str
    added: int
    kept: int
    labels_added: int
    splits: Mapping[str, int]
    failed: Mapping[str, str]

    def describe(self) -> str:
        """One line for people."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        failed = f", {len(self.failed)} not imported" if self.failed else ""
        cases = f"{self.added} cases added, {self.kept} were there{failed}, {self.labels_added} labels added"
        return f"{self.layout}: {cases}; splits: {splits}"


def import_source(
    source: Path,
    dataset: Path,
    split: str | None = None,
    labels: Sequence[str] | None = None,
    report: Report = ignore_progress,
    notify: Notify = ignore_notice,
    scribbles: bool = False,
) -> ImportSummary:
    """Import a folder (or one scan) into a dataset, which is made where it is missing.

    Parameters
    ----------
    source : Path
        LA challenge folders, UA-MT h5, ACDC h5, nnU-Net raw, or scans without masks.
    dataset : Path
        The dataset's folder.
    split : str or None
        Where the cases go; None: as the source's lists say.
    labels : sequence of str or None
        What the values 1, 2, ... of the masks are called; None: as the layout says.
    report, notify : callable
        `notify` hears, a line each, what was left out and which case failed and why.
    scribbles : bool
        Take the scribbles of ACDC h5 as labels of a part, in place of its masks.

    Raises
    ------
    FileNotFoundError, ValueError
        If the source is none of these, lists and labels do not fit, or no case at all could be imported.
    OSError
        If the dataset cannot be written. What was imported until then is whole, and a second import goes on.
    """
    layout = find_layout(source, scribbles)
    for notice in layout.notices:
        notify(notice)
    splits = _splits(layout, source, split, notify)
    target = Dataset.open(dataset) if (dataset / DATASET).exists() else None
    meaning = _meaning(layout, labels, target)
    if target is not None:
        splits = _without_holdout(target, splits, notify)
        remove_unfinished(dataset / "cases")
    added, labels_added = 0, 0
    failed: dict[str, str] = {}
    wanted = list(dict.fromkeys(case_id for ids in splits.values() for case_id in ids))
    start = time.monotonic()
    for n, case_id in enumerate(wanted):
        eta_s = (time.monotonic() - start) / n * (len(wanted) - n) if n else None
        report(Progress(f"importing {case_id} ({n + 1} of {len(wanted)})", n / len(wanted), eta_s))
        found = layout.cases[case_id]
        try:
            image, mask = _read(found, meaning)
            case = target.case(case_id) if target is not None and case_id in target else None
            if case is not None:
                _check_same(case, image)
        except (OSError, ValueError) as error:
            failed[case_id] = str(error)
            notify(f"{case_id} was not imported: {error}")
            continue
        # From here on it is the dataset that fails (disk full, not writable): no reason to try the next case.
        if target is None:
            target = Dataset.create(dataset, dataset.resolve().name, meaning)
        if case is None:
            told = {"format": layout.name, "sha256": found.sha256()} | ({"file": found.named} if found.named else {})
            case = target.add_case(case_id, image, told)
            added += 1
        if mask is not None and _is_new(case, mask):
            case.add_label(mask, author=layout.name, how="imported")
            labels_added += 1
    if target is None or (failed and len(failed) == len(wanted)):
        first, reason = next(iter(failed.items()))
        raise ValueError(f"none of the {len(wanted)} cases in {source} could be imported; {first}: {reason}")
    good = {name: [case_id for case_id in ids if case_id not in failed] for name, ids in splits.items()}
    for name, ids in good.items():
        if ids:
            target.add_to_split(name, ids)
    kept = len(wanted) - added - len(failed)
    counts = {name: len(ids) for name, ids in good.items()}
    summary = ImportSummary(layout.name, added, kept, labels_added, counts, failed)
    report(Progress(summary.describe(), 1.0, 0.0))
    return summary


def _splits(layout: Layout, source: Path, split: str | None, notify: Notify) -> dict[str, list[str]]:
    """The case ids of each split, in order: those that are there."""
    files = sorted(source.glob("*.list")) if source.is_dir() else []
    lists = {**layout.lists, **{path.stem: _read_list(path) for path in files}}
    if split is not None:
        if not split.strip():
            raise ValueError("a split needs a name")
        if split not in lists:
            return {split: list(layout.cases)}
        lists = {split: lists[split]}
    elif not lists:
        return {"train": list(layout.cases)}
    splits = {}
    for name, listed in lists.items():
        there = [case_id for case_id in listed if case_id in layout.cases]
        missing = [case_id for case_id in listed if case_id not in layout.cases]
        if there and missing:
            notify(f"{len(missing)} of the {len(listed)} cases in {name}.list are not in {source}: {some(missing)}")
        if there:
            splits[name] = there
        elif split is None:
            notify(f"{name}.list names no case of {source} ({some(listed) or 'it is empty'}) and makes no split")
    if not splits:
        names = ", ".join(f"{name}.list" for name in lists)
        raise ValueError(f"{names} in {source} name none of its {len(layout.cases)} cases ({some(layout.cases)})")
    unlisted = layout.cases.keys() - {case_id for ids in splits.values() for case_id in ids}
    if unlisted and split is None:
        notify(f"{len(unlisted)} cases of {source} are in no list and are left out: {some(sorted(unlisted))}")
    return splits


def _read_list(path: Path) -> tuple[str, ...]:
    """The names in a list, once each; what follows a comma, and a file's ending, are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of cases: it is not text ({error.reason})") from error
    names = (line.split(",")[0].strip().removesuffix(".h5").removesuffix("/mri_norm2") for line in lines)
    return tuple(dict.fromkeys(name for name in names if name))


def _meaning(layout: Layout, names: Sequence[str] | None, target: Dataset | None) -> tuple[Label, ...]:
    """What the values of the source's masks mean; fits the dataset where there is one."""
    labels = layout.labels
    if names:
        values = [label.value for label in labels] if len(labels) == len(names) else range(1, len(names) + 1)
        labels = tuple(make_label(value, name) for value, name in zip(values, names, strict=True))
    if target is not None:
        known = {(label.value, label.name.casefold()) for label in target.labels}
        if not {(label.value, label.name.casefold()) for label in labels} <= known:
            raise ValueError(
                f"the source's labels ({_list(labels)}) are not those of the dataset ({_list(target.labels)}); "
                "import into another dataset, or say with --labels what the values mean"
            )
        return target.labels
    if not labels:
        raise ValueError("these scans have no masks that tell; name the structures to segment, for example --labels LA")
    return check_labels(labels)


def _list(labels: Sequence[Label]) -> str:
    return ", ".join(f"{label.value} {label.name}" for label in labels)


def _read(found: SourceCase, labels: Sequence[Label]) -> tuple[Volume, Volume | None]:
    """Image and mask of a case, checked."""
    from mper.io import check_scan

    image, mask = found.read()
    check_scan(image)
    return image, None if mask is None else check_mask(mask, image.geometry, labels, found.place)


def _check_same(case: Case, image: Volume) -> None:
    """Refuse another scan under the id of a case that is there."""
    kept = case.image()
    if not kept.geometry.is_close(image.geometry) or not np.array_equal(kept.array, image.array):
        raise ValueError(
            f"the dataset has another scan as case {case.id!r} ({kept.geometry.describe()}; this one "
            f"{image.geometry.describe()}); rename one, or import into another dataset"
        )


def _is_new(case: Case, mask: Volume) -> bool:
    """Whether `mask` differs from the newest label and from the last one that was imported (and edited since)."""
    revisions = case.revisions()
    imported = [revision.number for revision in revisions if revision.how == "imported"]
    for number in {*imported[-1:], *[revision.number for revision in revisions][-1:]}:
        label = case.label(number)
        if label is not None and np.array_equal(label.array, mask.array):
            return False
    return True


def _without_holdout(target: Dataset, splits: dict[str, list[str]], notify: Notify) -> dict[str, list[str]]:
    """`splits` without the cases that the locked hold-out keeps; refused where they would change the hold-out."""
    if target.holdout is None:
        return splits
    held = set(target.splits[target.holdout])
    free = {name: [i for i in ids if i not in held or name == target.holdout] for name, ids in splits.items()}
    for name, ids in free.items():
        target.index.extended(name, ids)
        kept = [case_id for case_id in splits[name] if case_id not in ids]
        if kept:
            notify(f"{some(kept)} stay in the locked hold-out {target.holdout!r} and do not go into split {name!r}")
    return free
