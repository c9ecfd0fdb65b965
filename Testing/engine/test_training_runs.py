"""Training runs: processes of their own, which outlive the engine, are found again, steered, killed and resumed."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from engines import Caller, Served, engine_process, served, until
from small_data import blob_dataset

from mper.datasets.dataset import Dataset
from mper.engine.services.launcher import Launcher
from mper.engine.services.runs import EventLines
from mper.training.runs import RunFolder, RunLog
from mper.utils.locking import locked

TINY: dict[str, Any] = {"patch": [16, 32, 32], "batch": 2, "device": "cpu", "method": "supervised"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A root with a dataset of two labelled cases, and one held out."""
    dataset = blob_dataset(tmp_path_factory.mktemp("roots") / "Daten ü" / "set", 3, (16, 32, 32))
    dataset.lock_holdout(["case2"])
    return dataset


@pytest.fixture(scope="module")
def engine(home: Dataset) -> Iterator[Served]:
    with served(home.path.parents[1] / "spool", [home.path.parent]) as found:
        yield found


@pytest.fixture(scope="module")
def failing(home: Dataset, engine: Served) -> dict[str, RunFolder]:
    """Runs whose processes fail: ``unfit``, as only the scans tell, and ``strange``, which never begins.

    They are started at once, in a dataset of their own, and end while the first test works.
    """
    other = blob_dataset(home.path.parent / "other", 2, (16, 32, 32))
    body = {**TINY, "steps": 3, "patch": [1, 16, 16], "start_from": None}  # a patch for slices
    unfit = engine.post(f"{route(other)}/runs", body).json()["run"]
    strange = RunFolder(other.new_run("strange"))
    (strange.path / "config.json").write_text('{"optimizer": "magic", "dataset": "x", "name": null}')
    engine.engine.launcher.start(strange)
    return {"unfit": RunFolder(other.path / "runs" / unfit), "strange": strange}


def route(home: Dataset, run: str = "") -> str:
    return "/datasets/" + quote(f"{home.path.parent.name}~{home.path.name}") + (f"/runs/{run}" if run else "")


def state(caller: Caller, at: str) -> str:
    return str(caller.get(at).json()["state"])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL; its processes end otherwise")
def test_a_run_outlives_its_engine_a_pause_and_its_own_death(
    home: Dataset, engine: Served, failing: dict[str, RunFolder]
) -> None:
    with engine_process(home.path.parents[1] / "engine", ["--root", str(home.path.parent)]) as first:
        body = {**TINY, "steps": 24, "start_from": None, "name": "mine"}
        run = first.post(f"{route(home)}/runs", body).json()
        at = route(home, run["run"])
        assert (run["state"], run["alive"], run["version"]) == ("starting", True, None)
        told = (event for event in first.events(f"{at}/events") if event)
        next(event for event in told if event["event"] == "step")
        first.post(f"{at}/command", {"command": "pause"})
        until(lambda: state(first, at) == "paused", 60)
        pid = RunFolder(home.path / "runs" / run["run"]).status()["pid"]
        assert os.getsid(pid) == pid and os.getpriority(os.PRIO_PROCESS, pid) >= 10
        first.process.kill()
        first.process.wait()

    assert "MPER_TOKEN" not in Path(f"/proc/{pid}/environ").read_text() if sys.platform == "linux" else True
    found = engine.get(at).json()  # another engine, which never heard of the run
    assert (found["state"], found["alive"]) == ("paused", True) and found["step"] >= 1
    assert engine.post(f"{at}/command", {"command": "resume"}).json()["alive"]
    until(lambda: state(engine, at) == "running", 60)
    engine.post(f"{at}/command", {"command": "pause"})
    until(lambda: state(engine, at) == "paused", 60)
    checkpointed = engine.get(at).json()["step"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(engine, at) == "interrupted", 10)
    dead = engine.get(at).json()
    assert not dead["alive"] and "Resume continues" in dead["message"] and dead["eta_s"] is None
    events = [event for event in engine.events(f"{at}/events") if event]
    assert [event["n"] for event in events[:-1]] == list(range(len(events) - 1))
    assert events[-1] == {"event": "end", "state": "interrupted", "message": dead["message"], "n": len(events) - 2}
    refused = engine.post(f"{at}/command", {"command": "pause"})
    assert refused.status == 409 and "the training mine is interrupted" in refused.error()

    assert engine.post(f"{at}/command", {"command": "resume"}).json()["state"] == "starting"
    assert engine.post(f"{at}/command", {"command": "resume"}).status in (200, 409)
    later = [event for event in engine.events(f"{at}/events?from={len(events) - 1}") if event]
    steps = [event["step"] for event in later if event["event"] == "step"]
    assert min(steps) > checkpointed and max(steps) == 24
    assert [event["dice"].keys() for event in later if event["event"] == "holdout"][-1] == {"LA"}
    assert (later[-1]["event"], later[-1]["state"]) == ("end", "finished")
    done = engine.get(at).json()
    assert (done["state"], done["version"], done["fraction"]) == ("finished", 1, 1.0)
    assert done["model"] == f"{home.path.parent.name}/set/mine/1"
    assert done["config"]["dataset"] == f"{home.path.parent.name}/set" and done["config"]["start_from"] is None
    assert str(home.path) not in json.dumps(done)
    until(lambda: b"trained in" in engine.get(f"{at}/log").body)  # printed after the state was written
    assert str(home.path.parent) not in engine.get(f"{at}/log").body.decode()
    refused = engine.post(f"{at}/command", {"command": "resume"})
    assert refused.status == 409 and "the training mine is finished" in refused.error()
    assert home.model_versions("mine") == [1]
    listed = engine.get(f"{route(home)}/runs").json()
    assert [each["run"] for each in listed] == [run["run"]] and engine.get(route(home)).json()["runs"] == listed
    plan = engine.post(f"{route(home)}/plan", {"method": "supervised", "steps": 100}).json()
    assert "measured on the last run" in plan["words"] and plan["start_from"] == done["model"]


def test_a_run_that_cannot_work_says_why(home: Dataset, engine: Served, failing: dict[str, RunFolder]) -> None:
    refused = engine.post(f"{route(home)}/runs", {**TINY, "steps": 3, "patch": [16, 16, 20]})
    assert refused.status == 422 and "multiples of 16" in refused.error()
    at = route(Dataset.open(home.path.parent / "other"), failing["unfit"].path.name)
    last = [event for event in engine.events(f"{at}/events") if event][-1]
    assert last["state"] == "failed" and "multiples of 16" in last["message"]


def test_a_process_that_never_began_is_seen_at_once(
    home: Dataset, engine: Served, failing: dict[str, RunFolder]
) -> None:
    at = route(Dataset.open(home.path.parent / "other"), "strange")
    until(lambda: state(engine, at) == "failed", 60)
    found = engine.get(at).json()
    assert "holds 'optimizer', which this version of mper does not know" in found["message"]
    assert found["config"]["dataset"] == f"{home.path.parent.name}/other"


def test_two_processes_never_work_on_one_run(home: Dataset, engine: Served) -> None:
    folder = home.new_run()
    (folder / "config.json").write_text('{"dataset": "x", "name": null}')
    run = RunFolder(folder)
    with RunLog(run) as log:
        log.set(state="running")
        answer = engine.post(f"{route(home, folder.name)}/command", {"command": "resume"})
        assert answer.json()["alive"] and run.command() == "run"  # what ends a pause
        with pytest.raises(Exception, match="is at work; pause or cancel it"):
            Launcher().start(run)
        for word in ("pause", "run", "cancel"):
            assert engine.post(f"{route(home, folder.name)}/command", {"command": word}).status == 200
            assert run.command() == word
        assert engine.post(f"{route(home, folder.name)}/command", {"command": "explode"}).status == 422
    assert state(engine, route(home, folder.name)) == "interrupted"


@pytest.mark.parametrize("before", ["new", "cancelled"])
def test_a_run_whose_process_cannot_be_started_stands_as_before(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(words: object, log: Path) -> None:
        assert run.state() == "launching"
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunFolder(tmp_path)
    if before != "new":
        with RunLog(run) as log:
            log.set(state=before, step=3)
    step = run.status().get("step")
    monkeypatch.setattr("mper.engine.services.launcher.start_detached", full)
    launcher = Launcher()
    with pytest.raises(OSError, match="No space left"):
        launcher.start(run)
    assert (launcher.state(run), run.status().get("step")) == (before, step)


def test_a_moved_dataset_goes_on_where_it_is_now(
    home: Dataset, engine: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home.new_run()
    start = Path("/before/set/models/mine/1")
    config = {"dataset": "/before/set", "start_from": str(start), "name": None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "status.json").write_text(json.dumps({"state": "interrupted", "heartbeat": 0}))
    found = engine.get(route(home, folder.name)).json()["config"]
    assert found["start_from"] == f"{home.path.parent.name}/set/mine/1"
    started = []
    monkeypatch.setattr(engine.engine.launcher, "start", started.append)
    engine.post(f"{route(home, folder.name)}/command", {"command": "resume"}).json()
    now = RunFolder(folder).config()
    assert (now["dataset"], now["start_from"]) == (str(home.path), str(home.path / "models" / "mine" / "1"))
    assert len(started) == 1


def test_events_are_followed_as_they_come_and_from_any_line_on(home: Dataset, engine: Served) -> None:
    folder = home.new_run()
    (folder / "config.json").write_text('{"dataset": "x", "name": null}')
    with RunLog(RunFolder(folder)) as log:
        log.set(state="running")
        stream = (event for event in engine.events(f"{route(home, folder.name)}/events?from=2") if event)
        for n in range(1, 6):
            log.event("step", step=n)
        assert [next(stream)["step"] for _ in range(4)] == [2, 3, 4, 5]
        log.event("holdout", dice={"LA": 0.5})
        assert next(stream) | {"time": 0} == {"n": 6, "time": 0, "event": "holdout", "dice": {"LA": 0.5}}
        log.set(state="finished")
    assert [event["event"] for event in stream] == ["state", "end"]


def test_torn_and_strange_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = EventLines(path, 0)
    assert lines.new() == []
    path.write_bytes(b'{"a": 1}\nnonsense\n[2]\n{"b": ')
    assert [json.loads(line) for line in lines.new()] == [{"n": 0, "a": 1}] and lines.number == 3
    with path.open("ab") as stream:
        stream.write(b"2}\n")
    assert [json.loads(line) for line in lines.new()] == [{"n": 3, "b": 2}]
    assert lines.new() == []


def test_prediction_knows_of_a_training(home: Dataset, engine: Served) -> None:
    folder = home.new_run()
    (folder / "config.json").write_text('{"dataset": "x", "name": "mine", "device": "auto"}')
    name = f"mine of dataset {home.path.parent.name}/set"
    with RunLog(RunFolder(folder)) as log:
        log.set(state="running")
        assert name in engine.engine.trainings()
        log.set(device="CPU (8 threads, float32)")  # all that "auto" found
        assert name not in engine.engine.trainings()
    assert name not in engine.engine.trainings()


def test_a_run_that_only_waits_for_its_process_counts_as_alive_for_a_while(home: Dataset) -> None:
    run = RunFolder(home.new_run())
    run.launch()
    assert run.is_alive() and run.state() == "launching"
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps({**status, "heartbeat": time.time() - 1000}))
    assert not run.is_alive() and run.state() == "interrupted"
    with locked(run.path / ".lock"):
        assert run.is_alive()
