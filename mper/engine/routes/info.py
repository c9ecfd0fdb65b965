"""Routes on the engine itself and its models."""

from __future__ import annotations

from fastapi import APIRouter, Response

from mper import __version__
from mper.engine.routes.dependencies import ClientDep, EngineDep, add_notes
from mper.engine.schemas.info import Health, Info, LoadRequest, ModelAnswer
from mper.engine.schemas.jobs import JobStatus
from mper.engine.services import segmentation
from mper.engine.services.notes import Notes

PROTOCOL = 1

router = APIRouter(tags=["Engine and models"])


@router.get("/health")
async def health() -> Health:
    """Whether the engine is there; the only route without a token."""
    return Health()


@router.get("/info")
def info(engine: EngineDep) -> Info:
    """Version, devices, roots and diagnostics."""
    return Info(
        protocol=PROTOCOL,
        version=__version__,
        ready=engine.devices.ready,
        devices=engine.devices.describe(),
        default_device=engine.devices.default,
        roots=list(engine.roots.folders),
        upload_limit_bytes=engine.settings.limits.upload_bytes,
        diagnostics=engine.diagnostics(),
    )


@router.get("/models")
def models(engine: EngineDep, response: Response) -> list[ModelAnswer]:
    """All models, bundled ones first."""
    notes = Notes(engine.explain)
    answer = engine.models.list(notes)
    add_notes(response, notes)
    return answer


@router.post("/models/load")
def load_model(engine: EngineDep, client: ClientDep, body: LoadRequest) -> JobStatus:
    """Load a model ahead of its first use: a job."""
    engine.models.path(body.model)
    return engine.jobs.submit(
        client, "load", body.device, lambda job, device: segmentation.load(engine.models, body.model, device, job)
    ).status()
