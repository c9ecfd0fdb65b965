"""Jobs: progress, cancel, results, turns on a device, and whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import until

from mper.engine.errors import RequestError
from mper.engine.schemas.info import LoadResult
from mper.engine.schemas.jobs import JobStatus
from mper.engine.services.devices import Devices
from mper.engine.services.jobs import Job, JobStore, Turn
from mper.engine.settings import Limits
from mper.progress import Progress
from mper.utils.coded import line_of


@pytest.fixture
def devices() -> Devices:
    found = Devices(lambda: [])
    found.start()
    return found


@contextlib.contextmanager
def no_turn(device: str, job: Job) -> Iterator[str]:
    """Every job has a device of its own."""
    yield device


@contextlib.contextmanager
def a_store(folder: Path, turn: Turn, limits: Limits) -> Iterator[JobStore]:
    store = JobStore(folder, turn, line_of, limits)
    yield store
    store.cancel_all()
    store.wait(10)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    """Jobs that wait for nobody."""
    with a_store(tmp_path, no_turn, Limits(waiting_jobs=3, ended_jobs=2)) as store:
        yield store


@pytest.fixture
def queue(tmp_path: Path, devices: Devices) -> Iterator[JobStore]:
    """Jobs that take turns on a device."""
    with a_store(tmp_path, devices.turn, Limits()) as store:
        yield store


def result(device: str = "cpu") -> LoadResult:
    return LoadResult(model="la", device=device, seconds=0.5)


def followed(job: Job, first: int = 0, alive_s: float = 5.0) -> list[dict | None]:
    """All that a follower is told."""

    async def gather() -> list[dict | None]:
        closing = asyncio.Event()
        return [json.loads(line) if line.strip() else None async for line in job.follow(first, alive_s, closing)]

    return asyncio.run(gather())


def ended(job: Job) -> dict:
    until(lambda: job.ended)
    return job.status().model_dump()


def waits(go_on: threading.Event):
    """Work that beats until it is told to go on."""

    def work(job: Job, device: str) -> LoadResult:
        while not go_on.wait(0.01):
            job(Progress("working", 0.5, 3.0))
        return result(device)

    return work


def test_a_job_tells_of_its_beats_and_gives_its_result(jobs: JobStore) -> None:
    go_on = threading.Event()
    job = jobs.submit("a", "load", "cpu", waits(go_on))
    until(lambda: job.status().fraction == 0.5)
    status = job.status()
    assert (status.state, status.message, status.eta_s) == ("running", "working", 3.0)
    assert status.result is None and status.error is None
    go_on.set()
    status = ended(job)
    assert (status["state"], status["fraction"], status["result"]) == ("finished", 1.0, result().model_dump())


def test_a_beat_without_a_fraction_keeps_the_last_one(jobs: JobStore) -> None:
    def work(job: Job, device: str) -> LoadResult:
        job(Progress("half", 0.5))
        job(Progress("by the way"))
        seen.append(job.status())
        return result()

    seen: list[JobStatus] = []
    ended(jobs.submit("a", "load", "cpu", work))
    assert [(status.message, status.fraction) for status in seen] == [("by the way", 0.5)]


def test_a_cancelled_job_leaves_nothing(jobs: JobStore, tmp_path: Path) -> None:
    undone, released = [], []

    def work(job: Job, device: str) -> LoadResult:
        (job.folder / "half").write_text("x", encoding="utf-8")
        job.on_undo(lambda: undone.append(1))
        while True:
            job(Progress("working"))

    job = jobs.submit("a", "load", "cpu", work, lambda: released.append(1))
    until(lambda: list(tmp_path.glob("job-*/half")))
    job.cancel()
    assert ended(job)["state"] == "cancelled"
    assert undone == [1]
    assert list(tmp_path.iterdir()) == []
    until(lambda: released == [1])


def test_a_cancel_in_the_last_moment_still_takes_the_result_back(jobs: JobStore) -> None:
    undone = []

    def work(job: Job, device: str) -> LoadResult:
        job.on_undo(lambda: undone.append(1))
        job.cancel()
        return result()

    status = ended(jobs.submit("a", "load", "cpu", work))
    assert (status["state"], status["result"], undone) == ("cancelled", None, [1])


def test_a_cancel_after_the_end_changes_nothing(jobs: JobStore) -> None:
    job = jobs.submit("a", "load", "cpu", lambda job, device: result())
    before = ended(job)
    job.cancel()
    assert job.status().model_dump() == before


def test_an_error_ends_a_job_with_one_line_and_takes_back_what_it_made(jobs: JobStore) -> None:
    undone = []

    def work(job: Job, device: str) -> LoadResult:
        job.on_undo(lambda: undone.append(1))
        raise ValueError("the scan is upside down")

    status = ended(jobs.submit("a", "load", "cpu", work))
    assert (status["state"], status["error"]) == ("failed", "the scan is upside down")
    assert undone == [1]


def test_a_result_that_json_cannot_hold_fails_the_job_and_not_its_followers(jobs: JobStore) -> None:
    for bad in (float("nan"), object()):
        job = jobs.submit(
            "a", "load", "cpu", lambda job, device, bad=bad: LoadResult(model="la", device=device, seconds=bad)
        )
        assert ended(job)["state"] == "failed"
        assert followed(job)[-1]["state"] == "failed"


def test_a_notice_is_told_once(jobs: JobStore) -> None:
    def work(job: Job, device: str) -> LoadResult:
        for _ in range(3):
            job.notice("mind the gap")
        return result()

    assert ended(jobs.submit("a", "load", "cpu", work))["notices"] == ["mind the gap"]


def test_a_follower_is_told_every_slow_change_in_order_and_the_end(jobs: JobStore) -> None:
    steps = [threading.Event() for _ in range(4)]

    def work(job: Job, device: str) -> LoadResult:
        for n, step in enumerate(steps):
            job(Progress(f"step {n}", n / 4))
            step.wait(10)
        return result()

    job = jobs.submit("a", "load", "cpu", work)
    seen: list[dict] = []

    async def follow() -> None:
        async for line in job.follow(0, 5.0, asyncio.Event()):
            seen.append(json.loads(line))
            for n, step in enumerate(steps):
                if seen[-1]["message"] == f"step {n}":
                    step.set()

    asyncio.run(follow())
    numbers = [event["n"] for event in seen]
    assert numbers == sorted(set(numbers))
    assert [event["message"] for event in seen][-5:] == ["step 0", "step 1", "step 2", "step 3", "done"]


def test_following_from_a_number_leaves_out_what_was_seen(jobs: JobStore) -> None:
    go_on = threading.Event()
    job = jobs.submit("a", "load", "cpu", lambda job, device: go_on.wait(10) and result())
    until(lambda: job.status().state == "running")
    n = job.status().n
    threading.Timer(0.1, go_on.set).start()
    assert [event["state"] for event in followed(job, n + 1)] == ["finished"]


def test_an_ended_job_is_told_of_whatever_number_is_asked_for(jobs: JobStore) -> None:
    job = jobs.submit("a", "load", "cpu", lambda job, device: result())
    ended(job)
    assert [event["state"] for event in followed(job, 10**6)] == ["finished"]


def test_a_silent_job_gives_signs_of_life(jobs: JobStore) -> None:
    go_on = threading.Event()
    job = jobs.submit("a", "load", "cpu", lambda job, device: go_on.wait(10) and result())
    threading.Timer(0.5, go_on.set).start()
    told = followed(job, alive_s=0.1)
    assert told.count(None) >= 2
    assert told[-1]["state"] == "finished"


def test_fast_beats_do_not_pile_up_for_a_follower(jobs: JobStore) -> None:
    def work(job: Job, device: str) -> LoadResult:
        for n in range(20_000):
            job(Progress(f"step {n}", n / 20_000))
        return result()

    told = followed(jobs.submit("a", "load", "cpu", work))
    assert told[-1]["state"] == "finished"
    assert len(told) < 1000


def test_jobs_take_turns_on_a_device_in_the_order_they_came(queue: JobStore) -> None:
    running, order, lock = [], [], threading.Lock()

    def work(job: Job, device: str) -> LoadResult:
        with lock:
            running.append(job.id)
            order.append(job.id)
            assert len(running) == 1
        job.wait(0.05)
        with lock:
            running.remove(job.id)
        return result(device)

    first = queue.submit("a", "load", "cpu", work)
    until(lambda: first.status().state == "running" or first.ended)
    others = [queue.submit(client, "load", "cpu", work) for client in ("a", "b")]
    for job in [first, *others]:
        assert ended(job)["result"] == result().model_dump()
    assert order[0] == first.id and sorted(order) == sorted(job.id for job in [first, *others])


def test_a_job_that_waits_for_its_turn_is_queued_and_cancelled_at_once(queue: JobStore) -> None:
    go_on = threading.Event()
    first = queue.submit("a", "load", "cpu", waits(go_on))
    until(lambda: first.status().state == "running")
    second = queue.submit("a", "load", "cpu", waits(go_on))
    until(lambda: second.status().message == "loading the model")  # which the first one does
    assert second.status().state == "queued"
    second.cancel()
    assert ended(second)["state"] == "cancelled"
    assert first.status().state == "running"
    go_on.set()
    assert ended(first)["state"] == "finished"


def test_a_job_that_has_finished_holds_nothing_of_what_it_made(jobs: JobStore) -> None:
    class Made:
        pass

    def work(job: Job, _device: str) -> Any:
        made = Made()
        held.append(weakref.ref(made))
        job.on_undo(lambda made=made: None)  # as the store of predictions does
        return result()

    held: list[weakref.ref[Made]] = []
    assert ended(jobs.submit("a", "load", "cpu", work))["state"] == "finished"
    gc.collect()
    assert held[0]() is None


def test_a_device_that_is_not_here_fails_the_job_with_its_reason(queue: JobStore) -> None:
    status = ended(queue.submit("a", "load", "cuda:7", waits(threading.Event())))
    assert status["state"] == "failed"
    assert "no device 'cuda:7'" in status["error"]
    assert status["line_codes"][status["error"]] == {"code": "no-device", "values": {"device": "cuda:7"}}


def test_work_on_files_alone_waits_for_no_device_and_no_torch_but_for_other_such_work(tmp_path: Path) -> None:
    devices = Devices(lambda: [])  # which never start to import torch
    with a_store(tmp_path, devices.turn, Limits()) as store:
        go_on = threading.Event()
        waiting = store.submit("a", "load", "cpu", waits(go_on))
        first, second = (store.submit("a", "keep", None, waits(go_on)) for _ in range(2))
        until(lambda: first.status().state == "running")
        assert (waiting.status().state, second.status().state) == ("queued", "queued")
        go_on.set()
        assert [ended(job)["state"] for job in (first, second)] == ["finished"] * 2


def test_a_client_cannot_queue_without_end(jobs: JobStore) -> None:
    go_on, released = threading.Event(), []
    own = [jobs.submit("a", "load", "cpu", waits(go_on)) for _ in range(3)]
    with pytest.raises(RequestError, match="3 jobs wait or run already") as refused:
        jobs.submit("a", "load", "cpu", waits(go_on), lambda: released.append(1))
    assert refused.value.status == 409
    assert released == [1]
    jobs.submit("b", "load", "cpu", lambda job, device: result())  # another client's queue is its own
    go_on.set()
    for job in own:
        ended(job)


def test_old_jobs_are_forgotten_with_their_files(jobs: JobStore, tmp_path: Path) -> None:
    def work(job: Job, device: str) -> LoadResult:
        (job.folder / "mask").write_text("x", encoding="utf-8")
        return result()

    done = []
    for _ in range(4):
        done.append(jobs.submit("a", "load", "cpu", work))
        ended(done[-1])
    assert jobs.of("a") == done[1:]
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(RequestError, match="no job"):
        jobs.get("a", done[0].id)


def test_another_clients_job_is_unknown(jobs: JobStore) -> None:
    job = jobs.submit("a", "load", "cpu", lambda job, device: result())
    with pytest.raises(RequestError) as refused:
        jobs.get("b", job.id)
    assert refused.value.status == 404
    assert jobs.of("b") == []


def test_an_engine_that_ends_cancels_its_jobs_and_takes_no_more(jobs: JobStore) -> None:
    job = jobs.submit("a", "load", "cpu", waits(threading.Event()))
    jobs.cancel_all()
    jobs.wait(10)
    assert job.status().state == "cancelled"
    with pytest.raises(RequestError, match="ending"):
        jobs.submit("a", "load", "cpu", lambda job, device: result())


@contextlib.contextmanager
def gpu(monkeypatch: pytest.MonkeyPatch, trainings: list[str], tmp_path: Path) -> Iterator[JobStore]:
    """A machine with a GPU, and what is trained on it."""
    names = {"auto": "cuda:0", "cuda": "cuda:0", "cpu": "cpu"}
    monkeypatch.setattr("mper.utils.devices.pick_device", lambda name: names[name])
    monkeypatch.setattr("mper.engine.services.devices._TRAINING_EVERY_S", 0.02)
    devices = Devices(lambda: list(trainings))
    monkeypatch.setattr("mper.engine.services.devices._list_devices", lambda: ([], "cuda:0"))
    devices.start()
    with a_store(tmp_path, devices.turn, Limits()) as store:
        yield store


def test_prediction_takes_the_processor_while_a_training_has_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with gpu(monkeypatch, ["Data/mine/run-1"], tmp_path) as queue:
        status = ended(queue.submit("a", "load", "auto", lambda job, device: result(device)))
    assert status["result"]["device"] == "cpu"
    assert status["notices"] == ["the training Data/mine/run-1 uses the GPU, so this job ran on the CPU"]


def test_prediction_that_insists_on_the_gpu_waits_for_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainings = ["Data/mine/run-1"]
    with gpu(monkeypatch, trainings, tmp_path) as queue:
        job = queue.submit("a", "load", "cuda", lambda job, device: result(device))
        until(lambda: "waiting for the training Data/mine/run-1" in job.status().message)
        assert job.status().state == "queued"
        trainings.clear()
        status = ended(job)
    assert status["result"]["device"] == "cuda:0"
    assert "waited for the training" in status["notices"][0]


def test_a_wait_for_a_training_can_be_cancelled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with gpu(monkeypatch, ["run"], tmp_path) as queue:
        job = queue.submit("a", "load", "cuda", lambda job, device: result())
        until(lambda: "waiting" in job.status().message)
        job.cancel()
        assert ended(job)["state"] == "cancelled"


def test_without_a_training_prediction_takes_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with gpu(monkeypatch, [], tmp_path) as queue:
        status = ended(queue.submit("a", "load", "auto", lambda job, device: result(device)))
    assert (status["result"]["device"], status["notices"]) == ("cuda:0", [])
