"""Routes for training runs: detached processes, found again by their folders alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from mper.datasets.dataset import Dataset
from mper.engine.errors import Refused
from mper.engine.schemas import NDJSON, Body
from mper.engine.services.engine import Engine, EngineDep
from mper.engine.services.lookup import open_dataset, open_run
from mper.engine.services.training_plan import RunBody, plan_run, start_config
from mper.resources import models_dir
from mper.training.publish import published_version
from mper.training.runs import ENDED, LAUNCHING, NEW, RunFolder
from mper.utils.files import check_name, write_json

router = APIRouter()

_LOG_TAIL = 200_000  # bytes
_LOOK_EVERY_S = 0.2
_IDLE = (NEW, *ENDED)


class CommandBody(Body):
    command: Literal["pause", "run", "cancel", "resume"]


def runs_of(engine: Engine, dataset: Dataset, dataset_id: str) -> list[dict[str, Any]]:
    """Where the runs of a dataset stand, newest first."""
    found = []
    for config in sorted((dataset.path / "runs").glob("*/config.json"), reverse=True):
        if not config.parent.name.startswith("."):
            with contextlib.suppress(ValueError):  # a damaged one is left out
                found.append(run_entry(engine, dataset_id, RunFolder(config.parent)))
    return found


def run_entry(engine: Engine, dataset_id: str, run: RunFolder) -> dict[str, Any]:
    """A run as the protocol has it."""
    dataset_id = dataset_id.replace("~", "/")
    state = engine.launcher.state(run)
    status, config = run.status(), run.config()
    version = published_version(run.path)
    name = config.get("name")
    message = status.get("message", "")
    if state == "interrupted":
        message = "its process ended without a word; resume it"
    elif state == "failed" and status.get("state") == LAUNCHING:
        message = _last_line(run) or "its process could not be started"
    return {
        "run": run.path.name,
        "state": "starting" if state == LAUNCHING else state,
        "alive": state not in _IDLE,
        "message": _without_folders(engine, message),
        "fraction": status.get("fraction"),
        "eta_s": status.get("eta_s") if state == "running" else None,
        "step": status.get("step"),
        "elapsed_s": status.get("elapsed_s"),
        "device": status.get("device"),
        "started": status.get("started"),
        "config": {**config, "dataset": dataset_id, "start_from": _model_id(dataset_id, config)},
        "name": name,
        "version": version,
        "model": None if version is None else f"{dataset_id}/{name}/{version}",
    }


def _model_id(dataset_id: str, config: dict[str, Any]) -> str | None:
    """The id of the model that a run starts from: a path of this machine is nobody's business."""
    if config.get("start_from") is None:
        return None
    path, home = Path(config["start_from"]), Path(config["dataset"]) / "models"
    if path.is_relative_to(home):
        return "/".join((dataset_id, *path.relative_to(home).parts))
    return path.name if path.parent == models_dir().resolve() else f".../{path.name}"


def _last_line(run: RunFolder) -> str:
    with contextlib.suppress(OSError, IndexError):
        lines = (run.path / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return [line for line in lines if line.strip()][-1].removeprefix("mper: error: ")
    return ""


def _without_folders(engine: Engine, text: str) -> str:
    for folder, name in sorted(engine.folders().items(), key=lambda item: -len(str(item[0]))):
        text = text.replace(str(folder), name)
    return text


# ---------------------------------------------------------------------- routes


@router.post("/datasets/{d}/plan")
def plan(engine: EngineDep, d: str, body: RunBody) -> dict[str, Any]:
    return plan_run(engine, open_dataset(engine, d), d, body).entry()


@router.post("/datasets/{d}/runs")
def start(engine: EngineDep, d: str, body: RunBody) -> dict[str, Any]:
    from mper.training.trainer import start_run
    from mper.utils.devices import pick_device

    dataset = open_dataset(engine, d)
    chosen = plan_run(engine, dataset, d, body)
    if not chosen.ready:
        raise Refused(409, chosen.warnings[0])
    pick_device(body.device)
    check_name(chosen.name, "model")
    config = start_config(dataset, body, chosen)
    run = start_run(config, dataset.new_run())
    engine.launcher.start(run)
    return run_entry(engine, d, run)


@router.get("/datasets/{d}/runs")
def runs(engine: EngineDep, d: str) -> list[dict[str, Any]]:
    return runs_of(engine, open_dataset(engine, d), d)


@router.get("/datasets/{d}/runs/{r}")
def run_status(engine: EngineDep, d: str, r: str) -> dict[str, Any]:
    return run_entry(engine, d, open_run(engine, d, r))


@router.get("/datasets/{d}/runs/{r}/log")
def log(engine: EngineDep, d: str, r: str) -> PlainTextResponse:
    path = open_run(engine, d, r).path / "log.txt"
    data = path.read_bytes()[-_LOG_TAIL:] if path.exists() else b""
    return PlainTextResponse(_without_folders(engine, data.decode("utf-8", errors="replace")))


@router.post("/datasets/{d}/runs/{r}/command")
def command(engine: EngineDep, d: str, r: str, body: CommandBody) -> dict[str, Any]:
    run = open_run(engine, d, r)
    state = engine.launcher.state(run)
    if body.command == "resume" and state in _IDLE:
        if state == "finished":
            raise Refused(409, f"run {r} is finished; start a new one from its model")
        _at_home(run, open_dataset(engine, d))
        engine.launcher.start(run)
    elif state in _IDLE:
        raise Refused(409, f"run {r} is {state}; only a run that is being worked on can be told to {body.command}")
    else:
        run.steer("run" if body.command == "resume" else body.command)
    return run_entry(engine, d, run)


def _at_home(run: RunFolder, dataset: Dataset) -> None:
    """Let a run whose dataset was moved know where that is now."""
    config = run.config()
    here, before = str(dataset.path.resolve()), config["dataset"]
    if before == here:
        return
    if config.get("start_from") and Path(config["start_from"]).is_relative_to(before):
        config["start_from"] = str(Path(here) / Path(config["start_from"]).relative_to(before))
    write_json(run.path / "config.json", {**config, "dataset": here})


@router.get("/datasets/{d}/runs/{r}/events")
async def events(
    engine: EngineDep, d: str, r: str, first: Annotated[int, Query(alias="from", ge=0)] = 0
) -> StreamingResponse:
    run = await run_in_threadpool(open_run, engine, d, r)
    return StreamingResponse(_follow(engine, run, first), media_type=NDJSON, headers={"Cache-Control": "no-store"})


async def _follow(engine: Engine, run: RunFolder, first: int) -> AsyncIterator[bytes]:
    """The lines of events.jsonl from number `first` on, each with its number, until nobody works on the run."""
    alive_s = engine.settings.limits.alive_s
    reader = _Lines(run.path / "events.jsonl", first)
    silent_s = 0.0
    while not engine.closing.is_set():
        state = await run_in_threadpool(engine.launcher.state, run)  # before its events: the last ones must not be lost
        lines = await run_in_threadpool(reader.new)
        if lines:
            yield b"".join(lines)
            silent_s = 0.0
        if state in _IDLE:
            entry = await run_in_threadpool(run_entry, engine, "", run)
            end = {"event": "end", "state": entry["state"], "message": entry["message"], "n": reader.number - 1}
            yield json.dumps(end).encode() + b"\n"
            return
        if silent_s >= alive_s:
            yield b"\n"
            silent_s = 0.0
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(engine.closing.wait(), _LOOK_EVERY_S)
        silent_s += _LOOK_EVERY_S


class _Lines:
    """Reads a file of lines that grows."""

    def __init__(self, path: Path, first: int):
        self._path, self._first = path, first
        self.number = 0
        self._offset = 0

    def new(self) -> list[bytes]:
        """What was added, a line each, with its number; what is torn or was asked not to be told is left out."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            number, self.number = self.number, self.number + 1
            with contextlib.suppress(ValueError, TypeError):
                entry = json.loads(line)
                if number >= self._first:
                    found.append(json.dumps({"n": number, **entry}).encode() + b"\n")
        return found
