"""Routes for cohorts: a model is run over many scans in the background, and a person reviews the masks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from mper.engine.arrays import ARRAY_ANSWER, ARRAY_BODY, ArrayResponse, array_response, receive_array
from mper.engine.routes.dependencies import ArrayHeaderText, EngineDep, WhoDep, add_notes
from mper.engine.schemas.cohorts import (
    CohortAnswer,
    CohortCommand,
    CohortRequest,
    CohortRowAnswer,
    CohortRows,
    KeepRequest,
    OpenCohortRequest,
    ReviewRequest,
)
from mper.engine.schemas.common import LabelModel
from mper.engine.schemas.jobs import JobStatus
from mper.engine.services import cohort_labels, cohorts
from mper.engine.services.cropping import cropped_to_mask
from mper.engine.services.lookup import open_dataset
from mper.engine.services.notes import Notes

router = APIRouter(tags=["Cohorts"])

_Mask = Annotated[str, Query(max_length=4000, description="The id of its row.")]
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "PNG.", "content": {"image/png": {"schema": {"type": "string"}}}}
}


@router.post("/cohorts")
def start_cohort(engine: EngineDep, client: WhoDep, body: CohortRequest) -> CohortAnswer:
    """Segment many scans in a process of its own, or go on with what the folder holds; 409 if it is in use."""
    cohort = cohorts.start_cohort(engine, client, body)
    with cohort.lock:
        return cohorts.describe(engine, client, cohort)


@router.post("/cohorts/open")
def open_cohort(engine: EngineDep, client: WhoDep, body: OpenCohortRequest) -> CohortAnswer:
    """The cohort in a folder; only for the client that started the engine."""
    cohort = cohorts.open_cohort(engine, client, body.path)
    with cohort.lock:
        return cohorts.describe(engine, client, cohort)


@router.get("/cohorts")
def list_cohorts(
    engine: EngineDep, client: WhoDep, response: Response, dataset: str | None = None
) -> list[CohortAnswer]:
    """The cohorts of a dataset; without one those that were opened or started."""
    notes = Notes(engine.explain)
    answer = cohorts.list_cohorts(engine, client, dataset, notes)
    add_notes(response, notes)
    return answer


@router.get("/cohorts/{c}")
def cohort_status(engine: EngineDep, client: WhoDep, c: str) -> CohortAnswer:
    """How a cohort stands."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        return cohorts.describe(engine, client, cohort)


@router.post("/cohorts/{c}/command")
def command(engine: EngineDep, client: WhoDep, c: str, body: CohortCommand) -> CohortAnswer:
    """Pause or resume a cohort; 409 if its state does not allow that."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        cohorts.steer(cohort, body.command)
        return cohorts.describe(engine, client, cohort)


@router.get("/cohorts/{c}/rows")
def rows(engine: EngineDep, client: WhoDep, c: str) -> CohortRows:
    """The masks of a cohort, and the scans that have none yet, or failed."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        return cohorts.rows_answer(engine, client, cohort)


@router.get("/cohorts/{c}/log", response_class=PlainTextResponse)
def log(engine: EngineDep, client: WhoDep, c: str) -> PlainTextResponse:
    """The end of what the run printed."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        return PlainTextResponse(cohorts.log_tail(engine, client, cohort))


@router.get("/cohorts/{c}/labels")
def labels(engine: EngineDep, client: WhoDep, c: str, mask: _Mask) -> list[LabelModel]:
    """The structures of a mask."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        found = cohorts.mask_of(cohort, cohorts.mask_row(cohort, mask))
    return [LabelModel.model_validate(label) for label in found.labels]


@router.get("/cohorts/{c}/thumbnail", responses=_PICTURE, response_class=Response)
def thumbnail(engine: EngineDep, client: WhoDep, c: str, mask: _Mask) -> Response:
    """The picture of a mask on its scan."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        return Response(cohorts.picture(cohort, mask), media_type="image/png")


@router.get("/cohorts/{c}/image", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def image(engine: EngineDep, client: WhoDep, c: str, mask: _Mask) -> ArrayResponse:
    """The scan of a mask, with its affine."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        row = cohorts.mask_row(cohort, mask)
    volume = cohorts.scan_of(engine, client, cohort, row)
    return array_response(volume.array, geometry=volume.geometry)


@router.get("/cohorts/{c}/mask", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def mask(engine: EngineDep, client: WhoDep, c: str, mask: _Mask) -> ArrayResponse:
    """The non-zero part of a mask (uint8), corrected where a person did that."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        row = cohorts.mask_row(cohort, mask)
    part, start = cropped_to_mask(cohorts.mask_of(cohort, row).labelmap)
    return array_response(part.array, start=start, geometry=part.geometry)


@router.post("/cohorts/{c}/reviews")
def decide(engine: EngineDep, client: WhoDep, c: str, body: ReviewRequest) -> CohortRowAnswer:
    """Accept or reject a mask, or take that back; decisions are only added."""
    cohort = engine.cohorts.get(c, client)
    with cohort.lock:
        return cohorts.row_answer(engine, client, cohorts.decide(cohort, body))


@router.post("/cohorts/{c}/corrections", openapi_extra=ARRAY_BODY)
async def correct(
    engine: EngineDep,
    client: WhoDep,
    request: Request,
    c: str,
    mask: _Mask,
    author: Annotated[str, Query(min_length=1, max_length=200)],
    seconds: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    header: ArrayHeaderText = None,
) -> CohortRowAnswer:
    """Add a corrected mask, with the label values and on the grid of the mask; that of the model stays."""
    cohort = await run_in_threadpool(engine.cohorts.get, c, client)
    upload = await receive_array(request, header, engine.scans.folder, engine.settings.limits)

    def add() -> CohortRowAnswer:
        with cohort.lock:
            return cohorts.row_answer(engine, client, cohorts.correct(cohort, mask, upload, author, seconds))

    try:
        return await run_in_threadpool(add)
    finally:
        upload.remove()


@router.post("/cohorts/{c}/keep")
def keep(engine: EngineDep, client: WhoDep, c: str, body: KeepRequest) -> JobStatus:
    """Keep the accepted and corrected masks as labels of a dataset: a job."""
    cohort, dataset = engine.cohorts.get(c, client), open_dataset(engine, body.dataset)
    cohort_labels.accepted_rows(cohort)
    cohort_labels.check_keepable(dataset, body.split)
    return engine.jobs.submit(
        client.name,
        "keep",
        None,
        lambda job, _device: cohort_labels.keep_masks(engine, client, cohort, dataset, body, job),
    ).status()
