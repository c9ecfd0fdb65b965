"""Training runs: starting and steering one, how it stands, its events and its log."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.engine.errors import Conflict, InvalidRequest
from mper.engine.schemas.common import JsonObject, codes_for
from mper.engine.schemas.runs import CommandRequest, Run, RunRequest
from mper.engine.services.engine import Engine
from mper.engine.services.lookup import open_dataset
from mper.engine.services.training_plan import plan_run
from mper.resources import models_dir
from mper.training.publish import published_version
from mper.training.runs import ENDED, LAUNCHING, NEW, RunFolder
from mper.utils.coded import Coded, decoded, without_folders
from mper.utils.files import write_json

IDLE = (NEW, *ENDED)
_LOG_TAIL = 200_000  # bytes


def start_training(engine: Engine, dataset_id: str, request: RunRequest) -> Run:
    """Start a run as a process of its own.

    Raises
    ------
    Conflict, InvalidRequest, NotFound, ValueError
        If it is not ready, or a part of the request does not fit.
    """
    from mper.training.trainer import start_run
    from mper.utils.devices import pick_device

    dataset = open_dataset(engine, dataset_id)
    chosen = plan_run(engine, dataset, dataset_id, request)
    if chosen.config is None:
        raise InvalidRequest(chosen.warnings[0])
    if not chosen.ready:
        raise Conflict(chosen.warnings[0])
    pick_device(request.device)
    folder = dataset.new_run()
    try:
        run = start_run(chosen.config, folder)
        engine.launcher.start(run)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return run_answer(engine, dataset_id, run)


def runs_of(engine: Engine, dataset: Dataset, dataset_id: str) -> list[Run]:
    """The runs of a dataset, newest first."""
    folders = sorted((config.parent for config in (dataset.path / "runs").glob("*/config.json")), reverse=True)
    return [run_answer(engine, dataset_id, RunFolder(path)) for path in folders if not path.name.startswith(".")]


def run_answer(engine: Engine, dataset_id: str, run: RunFolder) -> Run:
    """How a run stands; one with a damaged file has failed, and its message says so."""
    dataset_id = dataset_id.replace("~", "/")
    try:
        damage = run.damage()
        return _run_answer(engine, dataset_id, run) if damage is None else _damaged(run, damage)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = engine.explain(error)
        line = f"a file of this run is damaged ({reason}); restore it from a backup"
        return _damaged(run, Coded(line, "run-damaged", reason=reason))


def _damaged(run: RunFolder, message: str) -> Run:
    return Run(
        line_codes=codes_for(message),
        run=run.path.name,
        state="failed",
        alive=False,
        message=message,
        fraction=None,
        eta_s=None,
        step=None,
        elapsed_s=None,
        device=None,
        started=None,
        config={},
        name=None,
        version=None,
        model=None,
    )


def _run_answer(engine: Engine, dataset_id: str, run: RunFolder) -> Run:
    state = engine.launcher.state(run)
    status, config = run.status(), run.config()
    version = published_version(run.path)
    name = config.get("name")
    message = decoded(status.get("message", ""), status.get("line_codes", {}))
    if state == "interrupted":
        line = "the training stopped unexpectedly; Resume continues from the last saved state"
        message = Coded(line, "run-stopped")
    elif state == "failed" and status.get("state") == LAUNCHING:
        message = _last_line(run) or Coded("its process could not be started", "run-not-started")
    message = without_folders(message, engine.folders())
    return Run.model_validate(
        {
            "run": run.path.name,
            "state": "starting" if state == LAUNCHING else state,
            "alive": state not in IDLE,
            "message": message,
            "line_codes": codes_for(message),
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
    )


def _model_id(dataset_id: str, config: JsonObject) -> str | None:
    """The id of the model that a run starts from; paths of this machine are not sent."""
    if config.get("start_from") is None:
        return None
    path, home = Path(str(config["start_from"])), Path(str(config["dataset"])) / "models"
    if path.is_relative_to(home):
        return "/".join((dataset_id, *path.relative_to(home).parts))
    return path.name if path.parent == models_dir().resolve() else f".../{path.name}"


def _last_line(run: RunFolder) -> str:
    with contextlib.suppress(OSError, IndexError):
        lines = (run.path / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return [line for line in lines if line.strip()][-1].removeprefix("mper: error: ")
    return ""


def log_tail(engine: Engine, run: RunFolder) -> str:
    """The end of what a run printed."""
    path = run.path / "log.txt"
    data = path.read_bytes()[-_LOG_TAIL:] if path.exists() else b""
    return without_folders(data.decode("utf-8", errors="replace"), engine.folders())


def steer(engine: Engine, dataset: Dataset, run: RunFolder, request: CommandRequest) -> None:
    """Pause, cancel, resume a run, or end its pause.

    Raises
    ------
    Conflict
        If its state does not allow that.
    """
    state = engine.launcher.state(run)
    name = run.title()
    if request.command == "resume" and state in IDLE:
        if state == "finished":
            raise Conflict(f"the training {name} is finished; start a new one from its model", "run-finished", run=name)
        _follow_dataset(run, dataset)
        engine.launcher.start(run)
    elif state in IDLE:
        line = f"the training {name} is {state}; only one at work can {request.command}"
        raise Conflict(line, "run-over", run=name)
    else:
        run.steer("run" if request.command == "resume" else request.command)


def _follow_dataset(run: RunFolder, dataset: Dataset) -> None:
    """Write the present place of a dataset that was moved into the config of its run."""
    config = run.config()
    here, before = str(dataset.path.resolve()), config["dataset"]
    if before == here:
        return
    if config.get("start_from") and Path(config["start_from"]).is_relative_to(before):
        config["start_from"] = str(Path(here) / Path(config["start_from"]).relative_to(before))
    write_json(run.path / "config.json", {**config, "dataset": here})


class EventLines:
    """Reads the lines of a run's events.jsonl while it grows.

    Parameters
    ----------
    path : Path
    first : int
        Number of the first line to return.

    Attributes
    ----------
    number : int
        How many lines there are.
    """

    def __init__(self, path: Path, first: int):
        self._path, self._first = path, first
        self.number = 0
        self._offset = 0

    def new(self) -> list[bytes]:
        """The lines that were added, each with its number; torn ones and those before `first` are left out."""
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
