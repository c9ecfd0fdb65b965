"""Routes that tell of the engine itself and of its models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mper import __version__
from mper.engine.services.diagnostics import as_text, examine
from mper.engine.services.engine import Engine, EngineDep

PROTOCOL = 1

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, bool]:
    return {"alive": True}


@router.get("/info")
def info(engine: EngineDep) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "version": __version__,
        "ready": engine.devices.ready,
        "devices": engine.devices.describe(),
        "default_device": engine.devices.default,
        "roots": list(engine.roots.folders),
        "upload_limit_bytes": engine.settings.limits.upload_bytes,
        "diagnostics": _diagnostics(engine),
    }


@router.get("/models")
def models(engine: EngineDep) -> list[dict[str, Any]]:
    return engine.models.list()


def _diagnostics(engine: Engine) -> str:
    if engine.devices.failure is not None:
        return engine.explain(engine.devices.failure)
    return as_text(examine(engine.explain, self_test=False)) if engine.devices.ready else "getting ready"
