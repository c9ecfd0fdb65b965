"""Accepted masks of a cohort become labels of a dataset: a job."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.cohort.files import file_sha256
from mper.cohort.results import CohortRow
from mper.cohort.review import ACCEPTED, CORRECTED, Kept, file_of
from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.errors import Conflict, RequestError
from mper.engine.schemas.cohorts import KeepRequest, KeepResult, KeptMask, SkippedMask
from mper.engine.schemas.common import Coded as AnswerCode
from mper.engine.schemas.common import codes_for
from mper.engine.services.cases import check_not_held_out
from mper.engine.services.cohort_store import Cohort
from mper.engine.services.cohorts import mask_of, scan_of
from mper.engine.services.engine import Engine
from mper.engine.services.jobs import Job
from mper.engine.settings import Client
from mper.labels import Segmentation, value_table
from mper.progress import Progress
from mper.utils.coded import Coded
from mper.volume import Volume


def accepted_rows(cohort: Cohort) -> list[CohortRow]:
    """The rows whose masks are accepted or corrected.

    Raises
    ------
    Conflict
        If there is none.
    """
    with cohort.lock:
        cohort.results.refresh()
        rows = [row for row in cohort.results.rows() if row.review.decision in (ACCEPTED, CORRECTED)]
    if not rows:
        raise Conflict("no mask of this cohort is accepted; accept or correct some first", "none-accepted")
    return rows


def check_keepable(dataset: Dataset, split: str | None) -> None:
    """Raise `Conflict` if new cases would go into a locked hold-out."""
    if split in dataset.locked_splits:
        line = f"split {split!r} is the locked hold-out of this dataset; choose another"
        raise Conflict(line, "split-locked", split=split)


def keep_masks(
    engine: Engine, client: Client, cohort: Cohort, dataset: Dataset, request: KeepRequest, job: Job
) -> KeepResult:
    """Keep the accepted and corrected masks as labels; one that cannot be kept is left out, with the reason."""
    rows = accepted_rows(cohort)
    kept: list[KeptMask] = []
    skipped: list[SkippedMask] = []
    codes: dict[str, AnswerCode] = {}
    for n, row in enumerate(rows):
        job(Progress(f"mask {n + 1} of {len(rows)}", n / len(rows)))
        try:
            found = _keep(engine, client, cohort, dataset, request, row)
            if found is not None:
                kept.append(KeptMask(mask=row.id, case=found.case, revision=found.revision))
        except (OSError, ValueError, RequestError) as error:
            reason = engine.explain(error)
            skipped.append(SkippedMask(mask=row.id, reason=reason))
            codes |= codes_for(reason)
    before = len(rows) - len(kept) - len(skipped)
    return KeepResult(kept=kept, skipped=skipped, before=before, line_codes=codes)


def _keep(
    engine: Engine, client: Client, cohort: Cohort, dataset: Dataset, request: KeepRequest, row: CohortRow
) -> Kept | None:
    """Keep one mask; None where it was kept before."""
    home = str(dataset.path.resolve())
    sha256 = file_sha256(file_of(cohort.path, row.id, row.review))
    before = cohort.results.reviews.kept(row.id, home)
    if before is not None and before.sha256 == sha256 and before.case in dataset:
        return None
    mask = mask_of(cohort, row)
    label = _label(mask, dataset)
    image = scan_of(engine, client, cohort, row)
    same = dataset.same_scan(image)
    check_not_held_out(dataset, same)
    if same:
        case = dataset.case(_own_case(row.scan, dataset, same))
        parent = _parent(case, before)
    else:
        case, parent = _new_case(dataset, image, row, request.split), None
    model = cohort.results.header["model"]
    revision = case.add_label(
        Volume(label, case.geometry),
        author=request.author,
        how="model",
        edited=row.review.decision == CORRECTED or sha256 != row.sha256,
        model=(str(model["name"]), str(model["version"])),
        seconds=row.review.seconds,
        parent=parent,
    )
    kept = Kept(home, case.id, revision.number, sha256)
    with cohort.lock:
        cohort.results.reviews.keep(row.id, kept, request.author)
    return kept


def _label(mask: Segmentation, dataset: Dataset) -> npt.NDArray[np.uint8]:
    """The voxels of a mask in the label values of a dataset.

    Raises
    ------
    ValueError
        If the structures of the two differ: what a mask does not show would become background, and two that are one
        in the dataset would be merged.
    """
    table, missing = value_table(mask.labels, dataset.labels, mask.labelmap.array)
    names = ", ".join(label.name for label in mask.labels)
    if len(missing) == len(mask.labels):
        line = f"the mask shows {names}, which the dataset does not have"
        raise ValueError(Coded(line, "mask-of-others", structures=names))
    reached = {int(table[label.value]) for label in mask.labels}
    if absent := [label.name for label in dataset.labels if label.value not in reached]:
        others = ", ".join(absent)
        line = f"the dataset also has {others}, which the mask does not show and would call background; "
        line += "keep it in a dataset of its own structures"
        raise ValueError(Coded(line, "mask-without", structures=others))
    return table[mask.labelmap.array]


def _own_case(scan: Path, dataset: Dataset, same: list[str]) -> str:
    """The case of a scan: that whose file it is, else the first with the same voxels."""
    return next(
        (case_id for case_id in same if dataset.case(case_id).path.resolve() in scan.resolve().parents), same[0]
    )


def _parent(case: Case, before: Kept | None) -> int | None:
    """The revision that a new label follows.

    Raises
    ------
    ValueError
        If the case has a label that a person drew or corrected.
    """
    newest = case.revisions()[-1:]
    if not newest:
        return None
    own = before is not None and (before.case, before.revision) == (case.id, newest[0].number)
    if not own and (newest[0].how != "model" or newest[0].edited):
        author = newest[0].author
        line = f"its scan is case {case.id}, which has a label by {author} already; compare the two in MPER Trainer"
        raise ValueError(Coded(line, "labelled-already", case=case.id, author=author))
    return newest[0].number


def _new_case(dataset: Dataset, image: Volume, row: CohortRow, split: str | None) -> Case:
    base = re.sub(r"[^\w.+=-]+", "-", row.name).strip("-.")[:100] or "case"
    number = 1
    while True:
        try:
            case = dataset.add_case(base if number == 1 else f"{base}-{number}", image, {"format": "cohort"})
            break
        except FileExistsError:
            number += 1
    if split is not None:
        dataset.add_to_split(split, [case.id])
    return case
