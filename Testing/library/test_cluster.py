"""Jobs: what is asked of a cluster, how jobs stand, and a cohort in jobs on this computer."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_data import blob_dataset
from small_models import random_bundle

from mper.cli import main
from mper.cluster import jobs
from mper.cluster.job import CommandJob
from mper.cluster.jobs import JobSet
from mper.cluster.settings import ClusterSettings, gigabytes, read_settings, seconds
from mper.cohort.status import command_of, read_state
from mper.io import read_labelmap, write_volume
from mper.utils.errors import FAILED, OK, USAGE
from mper.utils.files import write_json
from mper.volume import Geometry, Volume


def scans(folder: Path, count: int) -> Path:
    folder.mkdir()
    grid = Geometry.from_axes((0, 0, 0), (2, 1, 1), np.eye(3)[:, ::-1], (16, 32, 32))
    for n in range(count):
        noise = np.random.default_rng(n).normal(100, 10, grid.shape)
        write_volume(folder / f"scan {n}.nrrd", Volume(noise.astype(np.float32), grid))
    return folder


# ---- settings


def test_options_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    text = 'partition = "gpu"\ntime = "1-02:00:00"\nmemory = "500M"\ngpus = 2\nsetup = ["module load cuda"]\n'
    file.write_text(text + '[sbatch]\nmail-type = "END"\n', encoding="utf-8")
    found = read_settings("slurm", file, {"partition": "long", "gpus": None, "time_s": None})
    assert (found.partition, found.gpus, found.time_s) == ("long", 2, 26 * 3600.0)
    asked = found.parameters("mper")
    assert asked["slurm_partition"] == "long" and asked["timeout_min"] == 26 * 60
    assert asked["mem_gb"] == pytest.approx(500 / 1024) and asked["gpus_per_node"] == 2
    assert asked["slurm_setup"] == ["module load cuda"]
    assert asked["slurm_additional_parameters"] == {"mail-type": "END"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("partition = ", "is no TOML"),
        ('partitoin = "gpu"', "'partitoin', which is unknown; known are account"),
        ('gpus = "two"', "gpus = 'two' is of a wrong type"),
        ('time = "soon"', "'soon' is no time"),
        ('memory = "much"', "'much' is no amount of memory"),
        ("jobs = 0", "jobs of a job must be at least 1"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_settings("slurm", tmp_path / "cluster.toml", {})


def test_times_and_sizes_are_read_as_slurm_and_people_write_them() -> None:
    assert [seconds(text) for text in ("90s", "1h30m", "2d", "04:00:30")] == [90, 5400, 172_800, 14_430]
    assert [gigabytes(text) for text in ("16", "16G", "512 mb", "1t")] == [16, 16, 0.5, 1024]


# ---- requests that cannot be carried out


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--partition", "gpu"], USAGE, "--partition is an option of jobs; add --cluster"),
        (["--detach"], USAGE, "--detach is an option of jobs"),
        (["--cluster", "slurm", "--workers", "2"], USAGE, "exclude each other"),
        (["--cluster", "slurm"], FAILED, "there is no SLURM on this computer"),
        (["--cluster", "slurm", "--cluster-config", "none.toml"], FAILED, "none.toml does not exist"),
    ],
)
def test_a_wrong_request_is_one_line(
    words: list[str], code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    model = random_bundle().save(tmp_path / "model")
    folder = scans(tmp_path / "scans", 2)
    assert main(["segment", str(folder), str(tmp_path / "out"), "--model", str(model), *words]) == code
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1


def test_without_submitit_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r'pip install "mper\[cluster\]"'):
        JobSet.submit(tmp_path, ClusterSettings("local"), [("work", ["-c", "pass"])])


# ---- how jobs stand


def job_set(home: Path, monkeypatch: pytest.MonkeyPatch, squeue: str) -> JobSet:
    """Two jobs, of which SLURM says so."""
    (home / ".cluster").mkdir(exist_ok=True)
    entry = {"kind": "slurm", "jobs": [{"id": "7_0", "title": "share 1/2"}, {"id": "7_1", "title": "share 2/2"}]}
    write_json(home / ".cluster" / "jobs.json", entry)

    def call(words: list[str]) -> str:
        if squeue == "forgotten":
            raise ValueError("SLURM: slurm_load_jobs error: Invalid job id specified")
        return squeue

    monkeypatch.setattr(jobs, "_call", call)
    found = JobSet.read(home)
    assert found is not None
    return found


def test_the_scheduler_says_what_is_at_work_and_a_record_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = job_set(tmp_path, monkeypatch, "7_0|PENDING||Priority\n7_1|RUNNING|node3|None\n")
    assert [(s.state, s.alive, s.node, s.detail) for s in found.states()] == [
        ("pending", True, "", "Priority"),
        ("running", True, "node3", ""),
    ]
    found = job_set(tmp_path, monkeypatch, "7_0|SIGNALING|node1|None\n7_1|REQUEUED||BeginTime\n")
    assert found.running() and all(state.alive for state in found.states()), "of a job whose time is over"
    write_json(tmp_path / ".cluster" / "job-0.json", {"code": 1, "host": "node2"})
    (tmp_path / ".cluster" / "7_1_0_log.err").write_text("mper: error: the disk is full\n", encoding="utf-8")
    found = job_set(tmp_path, monkeypatch, "forgotten")
    done, bad = found.states()
    assert (done.state, done.node, done.detail) == ("done", "node2", "")
    assert (bad.state, bad.detail) == ("ended", "job 7_1: the disk is full") and not found.running()


@pytest.mark.parametrize(
    ("state", "log", "expected"),
    [
        ("FAILED", None, "on a disk that all nodes share?"),
        ("TIMEOUT", "loading", "its time is over"),
        ("OUT_OF_MEMORY", "loading", "it needs more memory (--memory)"),
        ("NODE_FAIL", "loading", "node_fail"),
        ("COMPLETED", "loading", "its command was killed"),
    ],
)
def test_an_early_end_has_a_reason(
    state: str, log: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = job_set(tmp_path, monkeypatch, f"7_0|{state}|node1|None\n7_1|COMPLETED|node1|None\n")
    if log:
        (tmp_path / ".cluster" / "7_0_0_log.out").write_text(log, encoding="utf-8")
    assert expected in found.states()[0].detail
    assert expected in found.reason(0)


def test_a_cohort_goes_on_where_its_cluster_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder was copied to a computer without SLURM."""
    model = random_bundle().save(tmp_path / "model")
    (tmp_path / "out").mkdir()
    job_set(tmp_path / "out", monkeypatch, "")

    def missing(words: list[str]) -> str:
        raise ValueError("there is no SLURM on this computer (no squeue on the PATH)")

    monkeypatch.setattr(jobs, "_call", missing)
    folder = scans(tmp_path / "scans", 2)
    assert main(["segment", str(folder), str(tmp_path / "out"), "--model", str(model), "--device", "cpu"]) == OK
    assert "whether they are at work cannot be asked here: there is no SLURM" in capsys.readouterr().err


def test_a_submitted_cohort_ends_with_its_jobs_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_AGAIN_S", 0.0)
    monkeypatch.setattr(JobSet, "submit", lambda home, *_: job_set(home, monkeypatch, ""))
    model = random_bundle().save(tmp_path / "model")
    folder, out = scans(tmp_path / "scans", 2), tmp_path / "out"
    (folder / "bad.nrrd").write_bytes(b"no scan")
    words = ["segment", str(folder), str(out), "--model", str(model), "--device", "cpu"]
    assert main([*words, "--cluster", "slurm", "--detach"]) == OK
    share = ["segment", "--plan", str(out / ".mper" / "plan.json"), "--share"]
    write_json(out / ".cluster" / "job-0.json", {"code": 0})
    assert main([*share, "1/2"]) == OK

    answers = iter(["", "7_1|RUNNING|node1|None\n"])  # the second job is about to be queued again
    monkeypatch.setattr(jobs, "_call", lambda words: next(answers))
    assert main(["cluster", "status", str(out)]) == FAILED
    assert read_state(out).state == "submitted" and not (out / "manifest.json").exists()
    monkeypatch.setattr(jobs, "_call", lambda words: "")
    assert main(["cluster", "status", str(out)]) == FAILED
    assert read_state(out).state == "interrupted", "the second job ended before its scan"
    assert command_of(out) == ["segment", str(folder), str(out), f"--model={model}", "--device=cpu"]
    assert main([*share, "2/2"]) == OK
    (out / ".mper" / "status.json").write_text('{"state": "submitted"}', encoding="utf-8")
    monkeypatch.chdir(folder)
    assert main(["cluster", "status", str(Path("..", out.name))]) == FAILED
    assert read_state(out).state == "finished", "with a scan that failed"
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["failed"] == 1


def test_a_folder_without_jobs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "status", str(tmp_path)]) == FAILED
    assert "has no jobs; give the folder that jobs were submitted for" in capsys.readouterr().err


# ---- jobs


def test_a_job_lets_its_command_save_before_it_is_queued_again(tmp_path: Path) -> None:
    """What happens in a job when its time is over: SIGUSR2 to every process, and then `checkpoint`."""
    pytest.importorskip("submitit")
    if sys.platform == "win32":
        pytest.skip("clusters run Linux")
    import os
    import signal
    import threading

    code = (
        "import signal, sys, time, pathlib\n"
        "def stop(*_):\n    pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(3)\n"
        "signal.signal(signal.SIGINT, stop)\npathlib.Path(sys.argv[2]).touch()\ntime.sleep(60)\n"
    )
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    job = CommandJob(["-c", code, str(saved), str(ready)], tmp_path / "record.json", grace_s=10)

    class _Requeued(Exception):
        pass

    def time_is_over(*_: object) -> None:
        assert job._process is not None
        os.kill(job._process.pid, signal.SIGUSR2)
        assert job.checkpoint().function.words == job.words
        raise _Requeued

    def send() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, time_is_over)
    try:
        sender = threading.Thread(target=send)
        sender.start()
        with pytest.raises(_Requeued):
            job()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved.read_text(encoding="utf-8") == "saved" and not (tmp_path / "record.json").exists()


def test_a_cohort_in_jobs_on_this_computer_has_the_masks_and_tables_of_one_process(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("submitit")
    if sys.platform == "win32":
        pytest.skip("submitit runs on Linux and macOS")
    model = random_bundle().save(tmp_path / "model")
    folder = scans(tmp_path / "scans", 2)
    (folder / "bad.nrrd").write_bytes(b"no scan")
    words = ["segment", str(folder), "--model", str(model), "--device", "cpu"]
    assert main([*words, str(tmp_path / "one")]) == FAILED
    assert main([*words, str(tmp_path / "jobs"), "--cluster", "local", "--jobs", "1"]) == FAILED
    for name in ("scan 0", "scan 1"):
        one, two = (read_labelmap(tmp_path / out / f"{name}.seg.nrrd").array for out in ("one", "jobs"))
        np.testing.assert_array_equal(one, two)
    first, second = (json.loads((tmp_path / out / "manifest.json").read_text()) for out in ("one", "jobs"))
    assert [entry["key"] for entry in first["cases"]] == [entry["key"] for entry in second["cases"]]
    assert ["error" in entry for entry in second["cases"]] == [True, False, False]
    capsys.readouterr()
    assert main(["cluster", "status", str(tmp_path / "jobs"), "--json"]) == OK
    answer = json.loads(capsys.readouterr().out)
    assert (answer["alive"], answer["jobs"][0]["state"], answer["jobs"][0]["title"]) == (0, "done", "share 1/1")


def test_a_run_on_several_gpus_is_started_by_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def submit(home: Path, settings: ClusterSettings, wanted: Any) -> JobSet:
        asked.append((home, settings.gpus, wanted))
        return JobSet(home, {"kind": "slurm", "jobs": [{"id": "7", "title": "training"}]})

    monkeypatch.setattr(JobSet, "submit", submit)
    data = blob_dataset(tmp_path / "data", 2)
    run = tmp_path / "run"
    words = ["train", str(data.path), "--out", str(run), "--device", "cuda", "--cluster", "slurm", "--gpus", "2"]
    assert main([*words, "--detach"]) == OK
    home, gpus, [(_, started)] = asked[0]
    assert home == run.resolve() and gpus == 2
    assert started[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert started[5:] == ["-m", "mper", "train", "--resume", str(run.resolve())]
    assert json.loads((run / "config.json").read_text())["device"] == "cuda", "that of the job, not of this computer"


def test_a_benchmark_in_jobs_gives_each_its_runs_and_the_same_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def submit(home: Path, settings: ClusterSettings, wanted: Any) -> JobSet:
        asked.extend(wanted)
        return JobSet(home, {"kind": "local", "jobs": [{"id": "7", "title": "t"}]})

    monkeypatch.setattr(JobSet, "submit", submit)
    words = ["benchmark", "la", "--smoke", "--out", str(tmp_path / "b"), "--methods", "supervised,bcp:no-cutmix"]
    words += ["--from", "la-8", "--budget", "90s", "--seeds", "2"]
    assert main([*words, "--cluster", "local", "--jobs", "3", "--detach"]) == OK
    from mper.cli import benchmark, parser

    stored = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    runs = []
    for _, words in asked:
        arguments = parser().parse_args(words[2:])
        runs.append(arguments.only)
        same = benchmark._configured(arguments)
        assert json.loads(json.dumps({**vars(same), "start_from": same.start, "data": stored["data"]})) == stored
    assert runs == [(0, 3), (1,), (2,)]
