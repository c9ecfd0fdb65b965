"""Routes for training runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from mper.engine.routes.dependencies import EngineDep, EventResponse, event_response, events_of
from mper.engine.schemas.runs import CommandRequest, PlanAnswer, Run, RunEvent, RunRequest
from mper.engine.services import runs, training_plan
from mper.engine.services.engine import Engine
from mper.engine.services.lookup import open_dataset, open_run
from mper.training.runs import RunFolder

router = APIRouter(tags=["Training runs"])

_LOOK_EVERY_S = 0.2


@router.post("/datasets/{d}/plan")
def plan(engine: EngineDep, d: str, body: RunRequest) -> PlanAnswer:
    """What such a run would be."""
    return training_plan.plan_run(engine, open_dataset(engine, d), d, body).answer()


@router.post("/datasets/{d}/runs")
def start(engine: EngineDep, d: str, body: RunRequest) -> Run:
    """Start a run as a process of its own; 409 with the reason if it is not `ready`."""
    return runs.start_training(engine, d, body)


@router.get("/datasets/{d}/runs")
def list_runs(engine: EngineDep, d: str) -> list[Run]:
    """The runs of a dataset, newest first."""
    return runs.runs_of(engine, open_dataset(engine, d), d)


@router.get("/datasets/{d}/runs/{r}")
def run_status(engine: EngineDep, d: str, r: str) -> Run:
    """How a run stands."""
    return runs.run_answer(engine, d, open_run(engine, d, r))


@router.get("/datasets/{d}/runs/{r}/log", response_class=PlainTextResponse)
def log(engine: EngineDep, d: str, r: str) -> PlainTextResponse:
    """The end of what a run printed."""
    return PlainTextResponse(runs.log_tail(engine, open_run(engine, d, r)))


@router.post("/datasets/{d}/runs/{r}/command")
def command(engine: EngineDep, d: str, r: str, body: CommandRequest) -> Run:
    """Pause, continue, cancel or resume a run, within a step; 409 if its state does not allow that."""
    run = open_run(engine, d, r)
    runs.steer(engine, open_dataset(engine, d), run, body)
    return runs.run_answer(engine, d, run)


@router.get("/datasets/{d}/runs/{r}/events", response_class=EventResponse, responses=events_of(RunEvent))
async def events(
    engine: EngineDep, d: str, r: str, first: Annotated[int, Query(alias="from", ge=0)] = 0
) -> EventResponse:
    """The run's events from line `from` on, until no process works on it; at last `end`.

    A resumed run may repeat steps that a killed one had reached after its checkpoint: the later ones count.
    """
    run = await run_in_threadpool(open_run, engine, d, r)
    return event_response(_follow(engine, run, first))


async def _follow(engine: Engine, run: RunFolder, first: int) -> AsyncIterator[bytes]:
    """Lines of JSON; empty lines are signs of life."""
    alive_s = engine.settings.limits.alive_s
    lines = runs.EventLines(run.path / "events.jsonl", first)
    silent_s = 0.0
    while not engine.closing.is_set():
        state = await run_in_threadpool(engine.launcher.state, run)  # before its events: the last ones must not be lost
        new = await run_in_threadpool(lines.new)
        if new:
            yield b"".join(new)
            silent_s = 0.0
        if state in runs.IDLE:
            status = await run_in_threadpool(runs.run_answer, engine, "", run)
            end = RunEvent(event="end", state=status.state, message=status.message, n=lines.number - 1)
            yield end.model_dump_json(exclude_unset=True).encode() + b"\n"
            return
        if silent_s >= alive_s:
            yield b"\n"
            silent_s = 0.0
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(engine.closing.wait(), _LOOK_EVERY_S)
        silent_s += _LOOK_EVERY_S
