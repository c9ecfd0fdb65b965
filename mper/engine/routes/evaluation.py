"""Routes that judge models and cases: which case to label next, the new version beside the old, and which is in use."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from mper.datasets.case import Case, geometry_from_dict, geometry_to_dict
from mper.datasets.dataset import Dataset
from mper.engine.arrays import array_answer
from mper.engine.errors import Refused
from mper.engine.schemas import Body, Device
from mper.engine.services.engine import ClientDep, Engine, EngineDep
from mper.engine.services.jobs import Job
from mper.engine.services.lookup import open_dataset
from mper.engine.services.model_registry import DRAFTS, trained_on
from mper.labels import BACKGROUND, structure_of
from mper.models.card import read_bundle
from mper.progress import part_of
from mper.roi import bounding_box
from mper.utils.files import read_json, write_json
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.evaluation.active_learning import CaseSummary

router = APIRouter()

_REFERENCES = 8  # labelled cases that tell what is usual


class RankBody(Body):
    model: str
    device: Device = "auto"


class CompareBody(Body):
    new: str
    old: str
    device: Device = "auto"


class UseBody(Body):
    version: int


# ---------------------------------------------------------------------- the next case


@router.post("/datasets/{d}/rank")
def start_ranking(engine: EngineDep, client: ClientDep, d: str, body: RankBody) -> dict[str, Any]:
    dataset = open_dataset(engine, d)
    drawn = read_bundle(engine.models.path(body.model)).card.labels
    if not {structure_of(label) for label in drawn} & {structure_of(label) for label in dataset.labels}:
        raise Refused(
            409,
            f"{body.model} draws {', '.join(label.name for label in drawn)}, none of which this dataset has, so it "
            "cannot tell which case to label; train a version first",
        )

    def work(job: Job, device: str) -> dict[str, Any]:
        return rank_cases(engine, dataset, body.model, device, job)

    return engine.jobs.submit_on(client, "rank", body.device, work).status()


def rank_cases(engine: Engine, dataset: Dataset, model_id: str, device: str, job: Job) -> dict[str, Any]:
    """Order the cases that have no label and are not held out, the most instructive first."""
    from mper.evaluation.active_learning import rank

    held = set(dataset.splits[dataset.holdout]) if dataset.holdout else set()
    cases = [dataset.case(case_id) for case_id in dataset.cases if case_id not in held]
    drawn = {case.id for case in cases if case.is_drawn}
    candidates = [case for case in cases if case.id not in drawn]
    references = [case for case in cases if case.id in drawn][:_REFERENCES]
    looks: dict[str, CaseSummary] = {}
    everyone = [*candidates, *references]
    predictor = engine.models.predictor(model_id, device)
    for n, case in enumerate(everyone):
        beat = part_of(job, n / len(everyone), 1 / len(everyone), f"case {n + 1} of {len(everyone)}")
        try:
            looks[case.id] = _look(case, predictor, beat)
        except ValueError as error:
            job.notice(f"case {case.id} was left out: {error}")
    ranked = rank(
        {case.id: looks[case.id] for case in candidates if case.id in looks},
        [looks[case.id] for case in references if case.id in looks],
    )
    return {"cases": [asdict(each) for each in ranked], "model": model_id, "labelled": len(references)}


def _look(case: Case, predictor: Any, report: Any) -> CaseSummary:
    """What the model says of a case; it is asked once, and its answer kept beside the case."""
    from mper.evaluation.active_learning import CaseSummary, summarise_case

    bundle = predictor.bundle
    who = {"name": bundle.card.name, "version": bundle.card.version, "sha256": bundle.sha256}
    known = case.last_prediction()
    with contextlib.suppress(KeyError, TypeError, ValueError):  # of an older version, or damaged: it is asked again
        if known is not None and known["model"] == who:
            return CaseSummary.from_dict(known)
    found = summarise_case(predictor, case.image(), report)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # a folder that cannot be written to costs only the time
        case.keep_prediction({"model": who, "when": when, **found.to_dict()})
    return found


# ---------------------------------------------------------------------- before and after


@router.post("/datasets/{d}/compare")
def start_comparing(engine: EngineDep, client: ClientDep, d: str, body: CompareBody) -> dict[str, Any]:
    dataset = open_dataset(engine, d)
    if dataset.holdout is None:
        raise Refused(409, "this dataset has no locked hold-out to compare models on; lock a few labelled cases first")
    for model in (body.new, body.old):
        engine.models.path(model)

    def work(job: Job, device: str) -> dict[str, Any]:
        return compare_models(engine, dataset, body, device, job)

    return engine.jobs.submit_on(client, "compare", body.device, work).status()


def compare_models(engine: Engine, dataset: Dataset, body: CompareBody, device: str, job: Job) -> dict[str, Any]:
    """Evaluate both versions on the hold-out; the masks stay with the job."""
    from mper.evaluation.comparison import compare

    assert dataset.holdout is not None
    cases = dataset.split(dataset.holdout)
    places: dict[str, int] = {case.id: n for n, case in enumerate(cases)}

    def keep(case_id: str, when: str, mask: Volume) -> None:
        _keep_mask(job.folder, places[case_id], when, mask)

    found = compare(
        lambda: engine.models.predictor(body.old, device),
        lambda: engine.models.predictor(body.new, device),
        cases,
        dataset.labels,
        report=job,
        notify=job.notice,
        keep=keep,
    )
    write_json(job.folder / "cases.json", places)
    if drafts := [case.id for case in cases if case.is_draft]:
        job.notice(f"{', '.join(drafts)}: {DRAFTS}")
    seen = {
        model: trained_on(dataset, [case.id for case in cases], engine.models.path(model))
        for model in (body.old, body.new)
    }
    for model, ids in seen.items():
        if ids:
            job.notice(
                f"{model} was trained on {', '.join(ids)} before they were held out: its figures are too good there"
            )
    return {**found, "new": body.new, "old": body.old, "split": dataset.holdout}


def _keep_mask(folder: Path, number: int, when: str, mask: Volume) -> None:
    window = bounding_box(mask.array != BACKGROUND) or (slice(0, 1),) * 3
    start = [axis.start for axis in window]
    part = mask.crop(start, [axis.stop for axis in window])
    np.save(folder / f"{number}-{when}.npy", part.array, allow_pickle=False)
    write_json(folder / f"{number}-{when}.json", {"start": start, **geometry_to_dict(part.geometry)})


@router.get("/jobs/{job}/masks/{case}/{when}")
def compared_mask(
    engine: EngineDep, client: ClientDep, job: str, case: str, when: Literal["before", "after"]
) -> StreamingResponse:
    found = engine.jobs.get(client, job)
    if found.kind != "compare" or found.result is None:
        raise Refused(404, f"job {job!r} has no masks: it compares nothing, or is not finished")
    number = read_json(found.folder / "cases.json").get(case)
    path = found.folder / f"{number}-{when}.npy"
    if number is None or not path.exists():
        raise Refused(404, f"job {job!r} has no mask of a case {case!r}")
    told = read_json(path.with_suffix(".json"))
    k, j, i = told["start"]
    return array_answer(np.load(path, allow_pickle=False), start=(k, j, i), geometry=geometry_from_dict(told))


# ---------------------------------------------------------------------- which version is in use


@router.post("/datasets/{d}/models/{name}/use")
def use_model(engine: EngineDep, d: str, name: str, body: UseBody) -> dict[str, Any]:
    dataset = open_dataset(engine, d)
    if name not in dataset.models:
        raise Refused(404, f"this dataset has no model {name!r}")
    dataset.use_model(name, body.version)
    return {"name": name, "current": body.version, "previous": dataset.previous_version(name)}
