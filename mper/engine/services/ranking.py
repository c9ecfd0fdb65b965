"""Which case to label next: a job that orders the cases without a label."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from mper.dataloading.case_region import in_region
from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.errors import Conflict
from mper.engine.schemas.common import codes_for
from mper.engine.schemas.evaluation import RankedCase, RankResult
from mper.engine.services.engine import Engine
from mper.engine.services.jobs import Job
from mper.labels import structure_of
from mper.models.card import read_bundle
from mper.progress import Report, part_of
from mper.roi import Box
from mper.utils.coded import Coded, line_of

if TYPE_CHECKING:
    from mper.evaluation.active_learning import CaseSummary
    from mper.inference.predictor import Predictor

_REFERENCES = 8  # labelled cases that show what is usual


def check_rankable(engine: Engine, dataset: Dataset, model_id: str) -> None:
    """Raise `Conflict` if a model segments none of the structures of a dataset."""
    drawn = read_bundle(engine.models.path(model_id)).card.labels
    if not {structure_of(label) for label in drawn} & {structure_of(label) for label in dataset.labels}:
        names = ", ".join(label.name for label in drawn)
        line = f"model {model_id} segments {names}, none of which this dataset has, so it cannot choose the next case; "
        raise Conflict(f"{line}train a version first", "cannot-rank", model=model_id, structures=names)


def rank_cases(engine: Engine, dataset: Dataset, model_id: str, device: str, job: Job) -> RankResult:
    """Order the cases that have no label and are not held out, the most instructive first."""
    from mper.evaluation.active_learning import rank

    held = {*dataset.held_out, *dataset.held_out_copies(), *dataset.history.excluded}
    candidates: list[Case] = []
    references: list[Case] = []
    for case_id in dataset.cases:
        if case_id not in held:
            with _leaving_out(case_id, job):
                case = dataset.case(case_id)
                (references if case.is_drawn else candidates).append(case)
    references = references[:_REFERENCES]
    summaries: dict[str, CaseSummary] = {}
    everyone = [*candidates, *references]
    predictor, regions = engine.models.predictor(model_id, device), dataset.regions
    for n, case in enumerate(everyone):
        report = part_of(job, n / len(everyone), 1 / len(everyone), f"case {n + 1} of {len(everyone)}")
        with _leaving_out(case.id, job):
            summaries[case.id] = _summary(case, regions, predictor, report)
    ranked = rank(
        {case.id: summaries[case.id] for case in candidates if case.id in summaries},
        [summaries[case.id] for case in references if case.id in summaries],
    )
    return RankResult(
        line_codes=codes_for([each.words for each in ranked]),
        cases=[RankedCase.model_validate(each) for each in ranked],
        model=model_id,
        labelled=len(references),
    )


@contextlib.contextmanager
def _leaving_out(case_id: str, job: Job) -> Iterator[None]:
    """A block that reads one case; one that cannot be read is left out, with a notice."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = line_of(error)
        job.notice(Coded(f"case {case_id} is left out: {reason}", "case-left-out", case=case_id, reason=reason))


def _summary(case: Case, regions: Mapping[str, Box], predictor: Predictor, report: Report) -> CaseSummary:
    """What ranking needs of the model's prediction in the region of the case; computed once and kept with the case."""
    from mper.evaluation.active_learning import CaseSummary, summarise_case

    bundle = predictor.bundle
    who = {"name": bundle.card.name, "version": bundle.card.version, "sha256": bundle.sha256}
    box = list(regions[case.id]) if case.id in regions else None
    known = case.last_prediction()
    with contextlib.suppress(KeyError, TypeError, ValueError):  # of an older version, or damaged: computed again
        if known is not None and (known["model"], known.get("region_mm")) == (who, box):
            return CaseSummary.from_dict(known)
    found = summarise_case(predictor, in_region(case, regions).image(), report)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # a folder that cannot be written to costs only the time
        case.keep_prediction({"model": who, "when": when, "region_mm": box, **found.to_dict()})
    return found
