"""Routes for scans and predictions."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from mper.engine.arrays import ARRAY_ANSWER, ARRAY_BODY, ArrayResponse, array_response, receive_array
from mper.engine.errors import InvalidRequest
from mper.engine.routes.dependencies import ArrayHeaderText, ClientDep, EngineDep
from mper.engine.schemas.common import Empty
from mper.engine.schemas.jobs import JobStatus
from mper.engine.schemas.segmentation import (
    OutsideRegion,
    ProbedVoxel,
    ScanId,
    Scatter,
    SegmentRequest,
    Structure,
    UncertainRegionModel,
)
from mper.engine.schemas.strokes import RefineAnswer, RefineRequest
from mper.engine.services import refinement, segmentation
from mper.volume import Index3

router = APIRouter(tags=["Scans and predictions"])


@router.post("/scans", openapi_extra=ARRAY_BODY)
async def add_scan(engine: EngineDep, client: ClientDep, request: Request, header: ArrayHeaderText = None) -> ScanId:
    """Send a scan; of a client's scans the least recently used make room, and are then unknown: send them again."""
    upload = await receive_array(request, header, engine.scans.folder, engine.settings.limits)
    scan = await run_in_threadpool(engine.scans.add, client, upload)
    return ScanId(scan=scan.id)


@router.delete("/scans/{scan}")
def forget_scan(engine: EngineDep, client: ClientDep, scan: str) -> Empty:
    """Remove a scan."""
    engine.scans.remove(client, scan)
    return Empty()


@router.post("/jobs/segment")
def start_segmenting(engine: EngineDep, client: ClientDep, body: SegmentRequest) -> JobStatus:
    """Segment a scan: a job."""
    return segmentation.start(engine, client, body).status()


@router.get("/predictions/{prediction}/mask", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def mask(
    engine: EngineDep,
    client: ClientDep,
    prediction: str,
    start: Annotated[str | None, Query(alias="from", description="k,j,i")] = None,
    stop: Annotated[str | None, Query(alias="to", description="k,j,i; not included")] = None,
) -> ArrayResponse:
    """The mask as strokes have left it: its non-zero part (one voxel of 0 where it is empty), or the part asked for."""
    stored = engine.predictions.get(client, prediction)
    if start is None and stop is None:
        part, first = stored.mask()
        return array_response(part, start=first)
    first = _index("from", start)
    return array_response(stored.part(first, _index("to", stop)), start=first)


@router.get("/predictions/{prediction}/prototypes", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def prototypes(engine: EngineDep, client: ClientDep, prediction: str) -> ArrayResponse:
    """The nearest prototype of each voxel (uint8), as the model made it, cropped to the computed region."""
    stored = engine.predictions.get(client, prediction)
    return array_response(segmentation.prototype_map(stored), start=stored.start)


@router.get("/predictions/{prediction}/similarity", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def similarity(engine: EngineDep, client: ClientDep, prediction: str) -> ArrayResponse:
    """The cosine to the nearest prototype (float16), as the model made it, cropped to the computed region."""
    stored = engine.predictions.get(client, prediction)
    return array_response(segmentation.similarity_map(stored), start=stored.start)


@router.get("/predictions/{prediction}/uncertainty", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def uncertainty(engine: EngineDep, client: ClientDep, prediction: str) -> ArrayResponse:
    """Percent (uint8): 100 x (1 - probability of the voxel's class), 0 where a stroke has set it."""
    stored = engine.predictions.get(client, prediction)
    return array_response(segmentation.uncertainty_map(stored), start=stored.start)


@router.get("/predictions/{prediction}/uncertain_places")
def uncertain_regions(engine: EngineDep, client: ClientDep, prediction: str) -> list[UncertainRegionModel]:
    """Where a stroke is worth most: what strokes have set is certain, and no place is within 10 mm of a stroke."""
    return segmentation.uncertain_regions(engine.predictions.get(client, prediction))


@router.get("/predictions/{prediction}/structures")
def structures(engine: EngineDep, client: ClientDep, prediction: str) -> list[Structure]:
    """Figures of the mask as strokes have left it."""
    return segmentation.structures(engine.predictions.get(client, prediction))


@router.get("/predictions/{prediction}/probe")
def probe(engine: EngineDep, client: ClientDep, prediction: str, k: int, j: int, i: int) -> ProbedVoxel | OutsideRegion:
    """Why a voxel has its label."""
    return segmentation.probe(engine.predictions.get(client, prediction), (k, j, i))


@router.get("/predictions/{prediction}/scatter")
def scatter(
    engine: EngineDep, client: ClientDep, prediction: str, points: Annotated[int, Query(ge=10, le=20000)] = 2000
) -> Scatter:
    """Embeddings of some voxels on two axes; of a model without prototypes 409."""
    return segmentation.scatter(engine.predictions.get(client, prediction), points)


@router.put("/predictions/{prediction}/strokes")
def set_strokes(engine: EngineDep, client: ClientDep, prediction: str, body: RefineRequest) -> RefineAnswer:
    """Make a list of strokes that of a prediction."""
    return refinement.refine(engine.predictions, engine.predictions.get(client, prediction), body)


@router.delete("/predictions/{prediction}")
def forget_prediction(engine: EngineDep, client: ClientDep, prediction: str) -> Empty:
    """Remove a prediction, and return its memory to the system."""
    from mper.utils.devices import return_freed_memory  # which loads torch

    engine.predictions.discard(engine.predictions.get(client, prediction).id)
    return_freed_memory()
    return Empty()


def _index(name: str, text: str | None) -> Index3:
    match = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9})", text or "")
    if match is None:
        raise InvalidRequest(
            f"query {name}: {text!r} given, three whole numbers k,j,i expected, as in from=0,0,0&to=9,9,9"
        )
    k, j, i = (int(n) for n in match.groups())
    return k, j, i
