"""A real SLURM on this computer: a cohort of which a job is killed, and a run whose time is over, at the same time."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slurm_host import slurm
from small_data import blob_dataset
from small_models import random_bundle
from test_cluster import scans

from mper.cli import main
from mper.cluster.jobs import JobSet
from mper.io import read_labelmap
from mper.training.runs import RunFolder, read_events
from mper.utils.errors import FAILED, OK, USAGE

_WAIT_S = 240


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    pytest.importorskip("submitit")
    with slurm():
        yield


def wait_until(done: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + _WAIT_S
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def jobs_of(home: Path) -> JobSet:
    found = JobSet.read(home)
    assert found is not None
    return found


def test_a_killed_and_a_timed_out_job_go_on_where_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_bundle().save(tmp_path / "model")
    folder, out, run = scans(tmp_path / "scans", 4), tmp_path / "out", tmp_path / "run"
    asked = ["--cluster", "slurm", "--cpus", "1", "--time", "10m", "--detach"]
    data = blob_dataset(tmp_path / "data", 2, (16, 32, 32))
    train = [
        "train",
        str(data.path),
        "--method",
        "supervised",
        "--patch",
        "16,32,32",
        "--steps",
        "20",
        "--device",
        "cpu",
    ]
    assert main([*train, "--out", str(run), *asked]) == OK
    segment = ["segment", str(folder), str(out), "--model", str(model), "--device", "cpu"]
    assert main([*segment, *asked, "--jobs", "2"]) == OK
    cohort, training = jobs_of(out), jobs_of(run)
    assert cohort.ids[0].endswith("_0") and cohort.running()
    capsys.readouterr()
    assert main(segment) == USAGE, "the folder belongs to the jobs"
    assert "jobs are still at work" in capsys.readouterr().err

    wait_until(lambda: cohort.states()[0].state == "running", "a job of the cohort starts")
    subprocess.run(["scancel", "--signal=KILL", cohort.ids[0]], check=True)  # before it has loaded the model

    wait_until(lambda: (RunFolder(run).status().get("step") or 0) >= 1, "the run makes steps")
    subprocess.run(["scancel", "--signal=USR2", training.ids[0]], check=True)  # what SLURM sends before a time limit

    wait_until(lambda: not cohort.running(), "the jobs of the cohort end")
    assert main(["cluster", "status", str(out), "--json"]) == OK
    states = json.loads(capsys.readouterr().out)["jobs"]
    assert [state["state"] == "done" for state in states] == [False, True]
    assert "ended early" in states[0]["detail"]
    assert main(["cluster", "status", str(out)]) == FAILED
    assert "2 of 4 scans segmented" in capsys.readouterr().out, "what the jobs have done is gathered"
    done = {name: (out / f"scan {name}.seg.nrrd").read_bytes() for name in (1, 3)}
    assert main([*segment, "--json"]) == OK, "the same command goes on with the rest"
    assert json.loads(capsys.readouterr().out)["failed"] == 0
    assert main([*segment[:2], str(tmp_path / "whole"), *segment[3:]]) == OK
    for n in range(4):
        found, expected = (read_labelmap(home / f"scan {n}.seg.nrrd").array for home in (out, tmp_path / "whole"))
        np.testing.assert_array_equal(found, expected)
    assert all((out / f"scan {name}.seg.nrrd").read_bytes() == mask for name, mask in done.items())
    with (out / "cohort.csv").open(encoding="utf-8", newline="") as stream:
        assert [Path(row["scan"]).name for row in csv.DictReader(stream)] == [f"scan {n}.nrrd" for n in range(4)]

    wait_until(lambda: not training.running(), "the run goes on and ends")
    assert training.states()[0].state == "done" and RunFolder(run).state() == "finished"
    events = [event for event in read_events(run) if event["event"] == "state"]
    assert [event["state"] for event in events] == ["running", "cancelled", "running", "finished"]
    stopped = RunFolder(run).status()
    assert stopped["step"] == 20 and (run / "model" / "card.json").is_file()
    first_after = next(e["step"] for e in read_events(run) if e["event"] == "step" and e["time"] > events[2]["time"])
    assert first_after > 1, "from its checkpoint, not from the beginning"


def test_a_partition_that_is_not_there_is_one_line_and_leaves_no_job(tmp_path: Path, capsys: Any) -> None:
    model = random_bundle().save(tmp_path / "model")
    words = ["segment", str(scans(tmp_path / "scans", 2)), str(tmp_path / "out"), "--model", str(model)]
    assert main([*words, "--cluster", "slurm", "--partition", "gpus"]) == FAILED
    said = capsys.readouterr().err
    assert said == "mper: error: slurm does not take the jobs: invalid partition specified: gpus\n"
    assert JobSet.read(tmp_path / "out") is None
