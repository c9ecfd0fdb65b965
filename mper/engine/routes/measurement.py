"""Routes for figures of masks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool

from mper.engine.arrays import BINARY
from mper.engine.routes.dependencies import ClientDep, EngineDep
from mper.engine.schemas.measurement import Measurement, MeasureRequest
from mper.engine.services import measurement

router = APIRouter(tags=["Measurements"])

_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "VTK XML PolyData (.vtp), LPS in mm.", "content": BINARY}
}


@router.post("/measurements")
async def measure(engine: EngineDep, client: ClientDep, body: MeasureRequest) -> Measurement:
    """Figures of a mask as it stands, each with its method; nothing is kept but the surface."""
    async with engine.measuring:  # the others wait here, where they hold no thread that other requests need
        return await run_in_threadpool(measurement.measure, engine, client, body)


@router.get("/surfaces/{surface}", responses=_FILE, response_class=Response)
def surface(engine: EngineDep, client: ClientDep, surface: str) -> Response:
    """The surface of a left atrium as a file; scalars: `wall` (0 where clipped), `distance` from the centroid in mm.

    With a scan also `intensity` and `iir`.
    """
    return Response(engine.surfaces.get(client, surface), media_type="application/octet-stream")
