"""The locked hold-out of a dataset, and what must be known of its labels."""

from __future__ import annotations

from collections.abc import Sequence

from mper.datasets.dataset import Dataset
from mper.datasets.index import SECOND_HOLDOUT
from mper.datasets.maintenance import hold_out_more
from mper.datasets.revisions import about_drafts
from mper.engine.schemas.common import codes_for
from mper.engine.schemas.datasets import HoldoutAnswer
from mper.engine.services.dataset_models import trained_on
from mper.engine.services.notes import Notes
from mper.utils.coded import Coded

PARTS = "labelled only in part; figures there count the labelled voxels alone, so label the rest first"


def lock(dataset: Dataset, case_ids: Sequence[str], notes: Notes, _author: str = "") -> HoldoutAnswer:
    """Lock cases for good, with a notice on each kind of label that makes figures on them doubtful.

    Other cases with the voxels of one of them are locked too.
    """
    asked = [dataset.case(case_id).id for case_id in case_ids]
    name = dataset.lock_holdout(asked)
    return _answer(dataset, name, dataset.splits[name], asked, notes)


def lock_more(dataset: Dataset, case_ids: Sequence[str], notes: Notes, author: str) -> HoldoutAnswer:
    """Add cases to the second hold-out; as `lock`."""
    asked = [dataset.case(case_id).id for case_id in case_ids]
    added = hold_out_more(dataset, asked, author)
    return _answer(dataset, SECOND_HOLDOUT, added, asked, notes)


def _answer(dataset: Dataset, name: str, ids: Sequence[str], asked: Sequence[str], notes: Notes) -> HoldoutAnswer:
    cases = [dataset.case(case_id) for case_id in ids]
    drawn = [case for case in cases if case.is_drawn]
    notices: list[str] = []
    if copies := [case_id for case_id in ids if case_id not in asked]:
        names = ", ".join(copies)
        notices.append(
            Coded(f"{names}: the same scan as a case of the hold-out, so locked too", "copies-locked", cases=names)
        )
    if unlabelled := [case.id for case in cases if case not in drawn]:
        names = ", ".join(unlabelled)
        line = f"{names}: no label yet, and nothing is measured on it before"
        notices.append(Coded(line, "held-out-unlabelled", cases=names))
    if drafts := [case.id for case in cases if case.is_draft]:
        notices.append(about_drafts(drafts))
    if parts := [case.id for case in drawn if case.is_partial]:
        names = ", ".join(parts)
        notices.append(Coded(f"{names}: {PARTS}", "held-out-parts", cases=names))
    if seen := trained_on(dataset, ids, notes):
        names = ", ".join(seen)
        line = f"{names} was trained on before: figures of those models are too good there"
        notices.append(Coded(line, "held-out-trained-on", cases=names))
    notices += notes.lines
    return HoldoutAnswer(holdout=name, cases=list(ids), notices=notices, line_codes=codes_for(notices))
