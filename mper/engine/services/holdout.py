"""The locked hold-out of a dataset, and what must be known of its labels."""

from __future__ import annotations

from collections.abc import Sequence

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.schemas.datasets import HoldoutAnswer
from mper.engine.services.dataset_models import trained_on
from mper.engine.services.notes import Notes

DRAFTS = "labelled by a model alone; figures there flatter that model, so look at these labels and correct them first"
PARTS = "labelled only in part; figures there count the labelled voxels alone, so label the rest first"


def lock(dataset: Dataset, case_ids: Sequence[str], notes: Notes) -> HoldoutAnswer:
    """Lock cases for good, with a notice on each kind of label that makes figures on them doubtful.

    Other cases with the voxels of one of them are locked too: trained on, they would make it no test.
    """
    cases = [dataset.case(case_id) for case_id in case_ids]
    copies = [] if dataset.holdout else _copies(dataset, cases)
    cases += copies
    ids = [case.id for case in cases]
    drawn = [case for case in cases if case.is_drawn]
    notices = []
    if copies:
        names = ", ".join(case.id for case in copies)
        notices.append(f"{names}: the same scan as a case of the hold-out, so locked too")
    if unlabelled := [case.id for case in cases if case not in drawn]:
        notices.append(f"{', '.join(unlabelled)}: no label yet, and nothing is measured on it before")
    if drafts := [case.id for case in cases if case.is_draft]:
        notices.append(f"{', '.join(drafts)}: {DRAFTS}")
    if parts := [case.id for case in drawn if case.is_partial]:
        notices.append(f"{', '.join(parts)}: {PARTS}")
    if seen := trained_on(dataset, ids, notes):
        notices.append(f"{', '.join(seen)} was trained on before: figures of those models are too good there")
    return HoldoutAnswer(holdout=dataset.lock_holdout(ids), cases=ids, notices=[*notices, *notes.lines])


def _copies(dataset: Dataset, cases: Sequence[Case]) -> list[Case]:
    """The other cases of the dataset with the same voxels as one of `cases`."""
    ids = {case.id for case in cases}
    voxels = {case.voxels_sha256 for case in cases} - {None}
    others = [dataset.case(case_id) for case_id in dataset.cases if case_id not in ids]
    return [case for case in others if _voxels(case) in voxels]


def _voxels(case: Case) -> str | None:
    """The checksum of a scan; None where the case is damaged, and cannot be trained on."""
    try:
        return case.voxels_sha256
    except (OSError, ValueError, AttributeError):
        return None
