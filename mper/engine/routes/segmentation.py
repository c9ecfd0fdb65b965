"""Routes for scans, jobs and predictions."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from mper.engine.arrays import array_answer
from mper.engine.errors import Refused
from mper.engine.schemas import NDJSON, Body, Device
from mper.engine.services import segmentation
from mper.engine.services.engine import ClientDep, EngineDep
from mper.engine.services.jobs import Job
from mper.engine.services.predictions import uncertainty
from mper.engine.services.scans import receive
from mper.volume import Index3

router = APIRouter()


class LoadBody(Body):
    model: str
    device: Device = "auto"


class SegmentBody(Body):
    scan: str
    model: str
    device: Device = "auto"
    roi_mm: Annotated[list[float], Field(min_length=6, max_length=6)] | None = None
    tta: bool = False


@router.post("/models/load")
def load_model(engine: EngineDep, client: ClientDep, body: LoadBody) -> dict[str, Any]:
    engine.models.path(body.model)
    job = engine.jobs.submit_on(
        client, "load", body.device, lambda job, device: segmentation.load(engine.models, body.model, device, job)
    )
    return job.status()


@router.post("/scans")
async def add_scan(engine: EngineDep, client: ClientDep, request: Request) -> dict[str, str]:
    upload = await receive(request, engine.scans.folder, engine.settings.limits)
    scan = await run_in_threadpool(engine.scans.add, client, upload)
    return {"scan": scan.id}


@router.delete("/scans/{scan}")
def forget_scan(engine: EngineDep, client: ClientDep, scan: str) -> dict[str, Any]:
    engine.scans.remove(client, scan)
    return {}


@router.post("/jobs/segment")
def start_segmenting(engine: EngineDep, client: ClientDep, body: SegmentBody) -> dict[str, Any]:
    engine.models.path(body.model)
    held = contextlib.ExitStack()
    scan = held.enter_context(engine.scans.using(client, body.scan))

    def work(job: Job, device: str) -> dict[str, Any]:
        predictor = engine.models.predictor(body.model, device)
        return segmentation.segment(predictor, scan, body.roi_mm, body.tta, engine.predictions, job)

    return engine.jobs.submit_on(client, "segment", body.device, work, held.close).status()


@router.get("/jobs")
def jobs(engine: EngineDep, client: ClientDep) -> list[dict[str, Any]]:
    return [job.status() for job in engine.jobs.of(client)]


@router.get("/jobs/{job}")
def job_status(engine: EngineDep, client: ClientDep, job: str) -> dict[str, Any]:
    return engine.jobs.get(client, job).status()


@router.get("/jobs/{job}/events")
async def job_events(
    engine: EngineDep, client: ClientDep, job: str, first: Annotated[int, Query(alias="from")] = 0
) -> StreamingResponse:
    lines = engine.jobs.get(client, job).follow(first, engine.settings.limits.alive_s, engine.closing)
    return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-store"})


@router.delete("/jobs/{job}")
def cancel_job(engine: EngineDep, client: ClientDep, job: str) -> dict[str, Any]:
    found = engine.jobs.get(client, job)
    found.cancel()
    return found.status()


@router.get("/predictions/{prediction}/mask")
def mask(
    engine: EngineDep,
    client: ClientDep,
    prediction: str,
    start: Annotated[str | None, Query(alias="from")] = None,
    stop: Annotated[str | None, Query(alias="to")] = None,
) -> StreamingResponse:
    stored = engine.predictions.get(client, prediction)
    if start is None and stop is None:
        part, first = stored.mask()
        return array_answer(part, start=first)
    first = _index("from", start)
    return array_answer(stored.part(first, _index("to", stop)), start=first)


@router.get("/predictions/{prediction}/prototypes")
def prototypes(engine: EngineDep, client: ClientDep, prediction: str) -> StreamingResponse:
    stored = engine.predictions.get(client, prediction)
    if stored.prediction.prototype_map is None:
        raise _no_prototypes()
    return array_answer(stored.prediction.prototype_map.array, start=stored.start)


@router.get("/predictions/{prediction}/similarity")
def similarity(engine: EngineDep, client: ClientDep, prediction: str) -> StreamingResponse:
    stored = engine.predictions.get(client, prediction)
    if stored.prediction.similarity_map is None:
        raise _no_prototypes()
    return array_answer(stored.prediction.similarity_map.array, start=stored.start)


@router.get("/predictions/{prediction}/uncertainty")
def uncertainty_map(engine: EngineDep, client: ClientDep, prediction: str) -> StreamingResponse:
    stored = engine.predictions.get(client, prediction)
    confidence = stored.corrections.current().confidence_map
    assert confidence is not None
    return array_answer(uncertainty(confidence.array), start=stored.start)


@router.get("/predictions/{prediction}/uncertain_places")
def uncertain_regions(engine: EngineDep, client: ClientDep, prediction: str) -> list[dict[str, Any]]:
    return segmentation.uncertain_regions(engine.predictions.get(client, prediction))


@router.get("/predictions/{prediction}/structures")
def structures(engine: EngineDep, client: ClientDep, prediction: str) -> list[dict[str, Any]]:
    return [asdict(found) for found in engine.predictions.get(client, prediction).corrections.measures()]


@router.get("/predictions/{prediction}/probe")
def probe(engine: EngineDep, client: ClientDep, prediction: str, k: int, j: int, i: int) -> dict[str, Any]:
    return segmentation.probe(engine.predictions.get(client, prediction), (k, j, i))


@router.get("/predictions/{prediction}/scatter")
def scatter(
    engine: EngineDep, client: ClientDep, prediction: str, points: Annotated[int, Query(ge=10, le=20000)] = 2000
) -> dict[str, Any]:
    stored = engine.predictions.get(client, prediction)
    if stored.prediction.prototype_map is None:
        raise _no_prototypes()
    return segmentation.scatter(stored, points)


@router.delete("/predictions/{prediction}")
def forget_prediction(engine: EngineDep, client: ClientDep, prediction: str) -> dict[str, Any]:
    engine.predictions.discard(engine.predictions.get(client, prediction).id)
    return {}


def _index(name: str, text: str | None) -> Index3:
    match = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9})", text or "")
    if match is None:
        raise Refused(
            422, f"query {name}: {text!r} given, three whole numbers k,j,i expected, as in from=0,0,0&to=9,9,9"
        )
    k, j, i = (int(n) for n in match.groups())
    return k, j, i


def _no_prototypes() -> Refused:
    return Refused(409, "the model has no prototypes, so there is no prototype map; take another model")
