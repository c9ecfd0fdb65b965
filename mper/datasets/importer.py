"""Import of a source (`mper.datasets.layouts`) into a dataset.

An import can be repeated at any time: cases that exist and are the same stay, so that an interrupted import continues
and new cases are added. Another scan under an existing id is refused; a label that differs becomes a new revision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset, folders_of_work
from mper.datasets.index import DATASET
from mper.datasets.layouts import find_source
from mper.datasets.maintenance import check_region, hold_out_more, set_region
from mper.datasets.masks import check_mask, check_not_a_mask, label_for_scan
from mper.datasets.revisions import Revision
from mper.datasets.source import Source, SourceCase
from mper.datasets.splits import splits_of, without_holdout, without_left_out
from mper.datasets.time_series import with_phases
from mper.labels import BACKGROUND, UNLABELLED, Label, check_labels, make_label, matching_labels, value_table
from mper.progress import Notify, Progress, Report, ignore_notice, ignore_progress
from mper.utils.cleanup import remove_unfinished
from mper.utils.errors import is_disk_full
from mper.utils.files import check_name
from mper.utils.text import shorten
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.io import SpacingChoice


@dataclass(frozen=True)
class ImportSummary:
    """The result of an import.

    Parameters
    ----------
    layout : str
        The layout of the source.
    added, kept, labels_added : int
        New cases, cases that existed and are the same, and new label revisions.
    splits : mapping of str to int
        How many cases of this source each split has.
    failed : mapping of str to str
        The cases that could not be imported, with the reason in one line.
    drafts_added : int
        Masks of models that became drafts.
    """

    layout: str
    added: int
    kept: int
    labels_added: int
    splits: Mapping[str, int]
    failed: Mapping[str, str]
    drafts_added: int = 0

    def describe(self) -> str:
        """One line for people."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        failed = f", {len(self.failed)} not imported" if self.failed else ""
        cases = f"{self.added} cases added, {self.kept} already there{failed}, {self.labels_added} labels added"
        drafts = f", {self.drafts_added} drafts of a model added" if self.drafts_added else ""
        return f"{self.layout}: {cases}{drafts}; splits: {splits}"


def import_source(
    source: Path,
    dataset: Path,
    split: str | None = None,
    labels: Sequence[str] | None = None,
    report: Report = ignore_progress,
    notify: Notify = ignore_notice,
    scribbles: bool = False,
    spacing_mm: SpacingChoice = None,
    phase: str | None = None,
    image_type: str | None = None,
    region_mm: Sequence[float] | None = None,
    model_masks: bool = False,
) -> ImportSummary:
    """Import a folder (or one scan) into a dataset, which is created where it is missing.

    Parameters
    ----------
    source : Path
        In a layout of `mper.datasets.layouts`.
    dataset : Path
        The dataset's folder.
    split : str or None
        Where the cases go; None: as the source's lists say (`mper.datasets.splits`).
    labels : sequence of str or None
        The names of the mask values 1, 2, ...; or of those structures to keep, where the layout names more. None: as
        the layout says.
    report : callable
        Receives progress.
    notify : callable
        Receives a line for everything that was left out, and for each case that failed and why.
    scribbles : bool
        Take the scribbles of ACDC h5 as labels of a part, in place of its masks.
    spacing_mm : (float, float, float), "keep" or None
        Along (k, j, i), in place of what the files state; see `mper.io.with_spacing`.
    phase, image_type : str or None
        Of scans without masks, which phases of a time series (a number from 1, "ED", "ES" or "all") become cases, and
        which images of a DICOM series of several types; None: both are refused, with what there is.
    region_mm : six numbers or None
        The region of each case that has none yet (`mper.datasets.maintenance.set_region`).
    model_masks : bool
        Take masks that are unedited output of a program as drafts, of cases without a person's label; else they are
        left out.

    Raises
    ------
    FileNotFoundError, ValueError
        If the source has no known layout, lists and labels do not fit, or no case at all could be imported.
    OSError
        If the dataset cannot be written. What was imported until then is whole, and a second import goes on.
    """
    found = with_phases(find_source(source, scribbles), phase, image_type, notify)
    for notice in found.notices:
        notify(notice)
    splits = splits_of(found, source, split, notify)
    target = Dataset.open(dataset) if (dataset / DATASET).exists() else None
    if target is not None:
        splits = without_holdout(target, without_left_out(target, splits, notify), notify)
    remove_unfinished(folders_of_work(dataset), unowned=target is not None)
    plan = _label_plan(found, labels, target, notify)
    work = _Import(found, dataset, target, plan, spacing_mm, region_mm, notify, model_masks)
    listed = [*splits.values(), *([list(found.cases)] if found.whole and split is None else [])]
    left_out = {*target.history.excluded, *target.history.removed} if target is not None else set()
    wanted = list(dict.fromkeys(case_id for ids in listed for case_id in ids if case_id not in left_out))
    start = time.monotonic()
    for n, case_id in enumerate(wanted):
        eta_s = (time.monotonic() - start) / n * (len(wanted) - n) if n else None
        report(Progress(f"importing {case_id} ({n + 1} of {len(wanted)})", n / len(wanted), eta_s))
        work.add(found.cases[case_id])
    if work.target is None or (work.failed and len(work.failed) == len(wanted)):
        first, reason = next(iter(work.failed.items()))
        raise ValueError(f"none of the {len(wanted)} cases in {source} could be imported; {first}: {reason}")
    good = {name: [case_id for case_id in ids if case_id not in work.failed] for name, ids in splits.items()}
    for name, ids in good.items():
        if ids and name not in work.target.locked_splits:
            work.target.add_to_split(name, ids)
    if found.holdout is not None:
        _lock(work.target, found, found.holdout, split, notify)
    if copies := [case_id for case_id in work.target.held_out_copies() if case_id in wanted]:
        notify(f"{len(copies)} cases show the scan of a held-out one, and are not trained on: {shorten(copies)}")
    if again := [group for group in work.target.same_scans() if not set(group).isdisjoint(wanted)]:
        names = shorten([" = ".join(group) for group in again])
        notify(f"{len(again)} scans are in the dataset as several cases; keep those of one scan in one split: {names}")
    kept = len(wanted) - work.added - len(work.failed)
    counts = {name: len(ids) for name, ids in good.items()}
    summary = ImportSummary(found.layout, work.added, kept, work.labels_added, counts, work.failed, work.drafts_added)
    report(Progress(summary.describe(), 1.0, 0.0))
    return summary


def _lock(dataset: Dataset, source: Source, holdout: str, split: str | None, notify: Notify) -> None:
    """Lock the hold-outs of an exported dataset in one that was made of it alone, be it by an interrupted import.

    Where a split was asked for, only say which cases belong to them.
    """
    alone = split is None and set(dataset.cases) <= source.cases.keys()
    if alone and dataset.holdout is None and dataset.splits.get(holdout):
        dataset.lock_holdout(holdout)
        notify(f"the hold-out of the source, split {holdout!r}, is locked here too: nothing is trained on it")
    left_out = {*dataset.held_out, *dataset.history.excluded}
    second = [case_id for case_id in source.second_holdout if case_id in dataset and case_id not in left_out]
    if alone and dataset.holdout == holdout and second:
        left_out.update(hold_out_more(dataset, second, source.layout))
    named = (*source.splits[holdout], *source.second_holdout)
    if free := [case_id for case_id in named if case_id in dataset and case_id not in left_out]:
        notify(f"{shorten(free)} belong to the hold-out of the source, and are not locked here; see `mper holdout`")


@dataclass(frozen=True)
class _LabelPlan:
    """The dataset's labels, and the values of the source's masks that are not theirs and become background."""

    labels: tuple[Label, ...]
    dropped: tuple[int, ...] = ()
    own: tuple[Label, ...] = ()  # the source's, where they have other values than the dataset's


class _Import:
    """The import of one case after the other, and what came of it."""

    def __init__(
        self,
        source: Source,
        path: Path,
        target: Dataset | None,
        plan: _LabelPlan,
        spacing_mm: SpacingChoice,
        region_mm: Sequence[float] | None,
        notify: Notify,
        model_masks: bool,
    ) -> None:
        self.target = target
        self.added = self.labels_added = self.drafts_added = 0
        self.failed: dict[str, str] = {}
        self._source, self._path, self._plan, self._notify = source, path, plan, notify
        self._spacing_mm, self._region_mm, self._model_masks = spacing_mm, region_mm, model_masks

    def add(self, found: SourceCase) -> None:
        """Import a case; one that cannot be read, or differs from the existing one, fails."""
        notes: list[str] = []
        try:
            check_name(found.id, "case")
            image, mask, kept = self._read(found, notes.append)
            case = self.target.case(found.id) if self.target is not None and found.id in self.target else None
            if case is not None:
                _check_same(case, image)
            region = self._region(found, case)
            if region is not None:
                check_region(image.geometry, region)
            if mask is not None and (found.unedited or (kept is not None and kept.is_draft)):
                mask = self._draft(found, case, mask, notes.append)
        except (OSError, ValueError) as error:
            if is_disk_full(error):
                raise
            self.failed[found.id] = str(error)
            self._notify(f"{found.id} was not imported: {error}")
            return
        for note in dict.fromkeys(notes):
            self._notify(f"{found.id}: {note}")
        # From here on it is the dataset that fails (disk full, not writable): no reason to try the next case.
        if self.target is None:
            self.target = Dataset.create(self._path, self._path.resolve().name, self._plan.labels)
        if case is None:
            origin = {"format": self._source.layout, "sha256": found.sha256(), **found.origin}
            case = self.target.add_case(found.id, image, origin | ({"file": found.named} if found.named else {}))
            self.added += 1
        if region is not None:
            set_region(self.target, case.id, region, self._source.layout)
        if mask is None:
            return
        model, author = found.made.model if found.made else None, self._source.layout
        if kept is not None:
            self._add_exported(case, mask, kept)
        elif found.unedited and _is_new(case, mask, "model"):
            case.add_label(mask, author=author, how="model", model=model)
            self.drafts_added += 1
        elif not found.unedited and _is_new(case, mask, "imported"):
            case.add_label(mask, author=author, how="imported", edited=model is not None, model=model)
            self.labels_added += 1

    def _add_exported(self, case: Case, mask: Volume, made: Revision) -> None:
        """Add a label as the dataset had it that was exported, unless it is a revision here: a newer one is better."""
        if _holds(case, mask):
            return
        case.add_label(
            mask, author=made.author, how=made.how, edited=made.edited, model=made.model, seconds=made.seconds
        )
        self.drafts_added += made.is_draft
        self.labels_added += not made.is_draft

    def _draft(self, found: SourceCase, case: Case | None, mask: Volume, notify: Notify) -> Volume | None:
        """The mask of a program as a draft; None, with a note, where none is wanted or a person has labelled."""
        what = found.unedited or "the mask is a draft of a model"
        if found.unedited and not self._model_masks:
            notify(f"{what}, and is not imported; correct it, or take it with --model-masks")
            return None
        if case is not None and case.is_labelled and not case.is_draft:
            notify(f"{what}, and is not imported: the case has a label")
            return None
        return mask

    def _region(self, found: SourceCase, case: Case | None) -> Sequence[float] | None:
        """The region that a case gets: the one asked for if it has none, and of a new case else that of the source."""
        if self._region_mm is None:
            return found.region_mm if case is None else None
        has_one = case is not None and self.target is not None and case.id in self.target.regions
        return None if has_one else self._region_mm

    def _read(self, found: SourceCase, notify: Notify) -> tuple[Volume, Volume | None, Revision | None]:
        """Image and mask of a case, checked, and how the mask of an exported dataset was made."""
        from mper.io import check_scan, with_spacing
        from mper.io.labelmap import binary_as_label

        image, mask = found.read(notify)
        kept = None if mask is None else found.record_of(image, mask)  # before its values become the dataset's
        check_scan(image)
        image = with_spacing(image, self._spacing_mm)
        mask = None if mask is None else with_spacing(mask, self._spacing_mm)
        if mask is None:
            check_not_a_mask(image, found.place)
            return image, None, None
        plan, where = self._plan, f"the mask of {found.place}"
        if plan.dropped:
            mask = mask.with_array(np.where(np.isin(mask.array, plan.dropped), BACKGROUND, mask.array))
        if not self._source.partial:
            mask = binary_as_label(mask, plan.own or plan.labels, where, notify)
        if plan.own:
            own = check_mask(mask, mask.geometry, plan.own, where).array
            table, _missing = value_table(plan.own, plan.labels, own)
            mask = mask.with_array(table[own])
        outside = UNLABELLED if self._source.partial else BACKGROUND
        return image, label_for_scan(mask, image.geometry, plan.labels, where, notify, outside), kept


def _label_plan(source: Source, names: Sequence[str] | None, target: Dataset | None, notify: Notify) -> _LabelPlan:
    """What the values of the source's masks mean; fits the dataset where there is one."""
    labels = source.labels
    dropped: tuple[int, ...] = ()
    if names and len(names) != len(labels) and (chosen := _chosen(labels, names)):
        dropped = tuple(label.value for label in labels if label not in chosen)
        left_out = ", ".join(label.name for label in labels if label not in chosen)
        notify(f"the masks also hold {left_out}: background in this dataset")
        labels = chosen
    elif names:
        values = [label.value for label in labels] if len(labels) == len(names) else range(1, len(names) + 1)
        labels = tuple(make_label(value, name) for value, name in zip(values, names, strict=True))
    if target is not None:
        known = {(label.value, label.name.casefold()) for label in target.labels}
        if not {(label.value, label.name.casefold()) for label in labels} <= known:
            if labels and len(matching_labels(labels, target.labels)) == len(labels):
                return _LabelPlan(target.labels, dropped, labels)
            raise ValueError(
                f"the source's labels ({_list(labels)}) are not those of the dataset ({_list(target.labels)}); "
                "import into another dataset, or say with --labels what the values mean"
            )
        return _LabelPlan(target.labels, dropped)
    if not labels:
        what = "the masks of this source have no names" if source.masks else "this source has no masks"
        raise ValueError(f"{what}; name the structures with --labels, for example --labels LA")
    return _LabelPlan(check_labels(labels), dropped)


def _chosen(labels: Sequence[Label], names: Sequence[str]) -> tuple[Label, ...]:
    """Those of `labels` that `names` name, by short name or meaning in any case; none if a name is not theirs."""
    wanted = {name.casefold() for name in names}
    called = {
        label: {label.name.casefold(), *([label.type.meaning.casefold()] if label.type else [])} for label in labels
    }
    chosen = tuple(label for label, known in called.items() if known & wanted)
    return chosen if len(chosen) == len(wanted) else ()


def _list(labels: Sequence[Label]) -> str:
    return ", ".join(f"{label.value} {label.name}" for label in labels)


def _check_same(case: Case, image: Volume) -> None:
    """Refuse another scan under the id of an existing case."""
    kept = case.image()
    if not kept.geometry.is_close(image.geometry) or not np.array_equal(kept.array, image.array):
        raise ValueError(
            f"the dataset has another scan as case {case.id!r} ({kept.geometry.describe()}; this one "
            f"{image.geometry.describe()}); rename one, or import into another dataset"
        )


def _holds(case: Case, mask: Volume) -> bool:
    """Whether a revision of the case's label, the newest or an earlier one, is `mask`."""
    labels = (case.label(revision.number) for revision in case.revisions())
    return any(label is not None and np.array_equal(label.array, mask.array) for label in labels)


def _is_new(case: Case, mask: Volume, how: str) -> bool:
    """Whether `mask` differs from the newest label and from the last one that was imported so (and edited since)."""
    revisions = case.revisions()
    imported = [revision.number for revision in revisions if revision.how == how]
    for number in {*imported[-1:], *[revision.number for revision in revisions][-1:]}:
        label = case.label(number)
        if label is not None and np.array_equal(label.array, mask.array):
            return False
    return True
