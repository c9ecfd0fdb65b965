"""Routes for jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from mper.engine.arrays import ARRAY_ANSWER, ArrayResponse, array_response
from mper.engine.routes.dependencies import ClientDep, EngineDep, EventResponse, event_response, events_of
from mper.engine.schemas.jobs import JobStatus
from mper.engine.services import comparison

router = APIRouter(tags=["Jobs"])


@router.get("/jobs")
def jobs(engine: EngineDep, client: ClientDep) -> list[JobStatus]:
    """The client's jobs, oldest first."""
    return [job.status() for job in engine.jobs.of(client)]


@router.get("/jobs/{job}")
def job_status(engine: EngineDep, client: ClientDep, job: str) -> JobStatus:
    """How a job stands."""
    return engine.jobs.get(client, job).status()


@router.get("/jobs/{job}/events", response_class=EventResponse, responses=events_of(JobStatus))
async def job_events(
    engine: EngineDep, client: ClientDep, job: str, first: Annotated[int, Query(alias="from")] = 0
) -> EventResponse:
    """The job, a line at every change from number `from` on, until it ends."""
    return event_response(engine.jobs.get(client, job).follow(first, engine.settings.limits.alive_s, engine.closing))


@router.delete("/jobs/{job}")
def cancel_job(engine: EngineDep, client: ClientDep, job: str) -> JobStatus:
    """Cancel a job: it ends at its next step and leaves nothing; one that has ended stays as it is."""
    found = engine.jobs.get(client, job)
    found.cancel()
    return found.status()


@router.get("/jobs/{job}/masks/{case}/{when}", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def compared_mask(
    engine: EngineDep, client: ClientDep, job: str, case: str, when: Literal["before", "after"]
) -> ArrayResponse:
    """The non-zero part of a mask of a comparison (uint8, the dataset's label values)."""
    part, start, geometry = comparison.kept_mask(engine.jobs.get(client, job), case, when)
    return array_response(part, start=start, geometry=geometry)
