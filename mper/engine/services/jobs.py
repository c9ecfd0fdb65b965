"""Jobs: long work of a client, with progress, cancel and a result.

Each job has a thread of its own, which for most of its time waits: for its turn on a device, or for torch, which
computes without holding Python up. A job keeps its present state alone; a follower gets that state at every change, or,
where changes come faster than they can be sent, the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from mper.engine.errors import Conflict, NotFound
from mper.engine.schemas.common import codes_for
from mper.engine.schemas.jobs import JobKind, JobResult, JobState, JobStatus
from mper.engine.settings import Limits
from mper.progress import Cancelled, Progress

_ENDED: tuple[JobState, ...] = ("finished", "failed", "cancelled")
_SEND_EVERY_S = 0.04  # faster than a person can read


class Job:
    """One job. It is the `Report` of its own work: call it with a `Progress`, and it raises `Cancelled` if it was.

    Parameters
    ----------
    client, kind : str
        Who asked for it, and what it does.
    folder : Path
        For files that go with its result; removed with the job, and made at the first use.
    """

    def __init__(self, client: str, kind: JobKind, folder: Path):
        self.id = secrets.token_hex(8)
        self.client, self.kind = client, kind
        self._folder = folder / f"job-{self.id}"
        self._lock = threading.Lock()
        self._state: JobState = "queued"
        self._message = "waiting"
        self._fraction: float | None = None
        self._eta_s: float | None = None
        self._error: str | None = None
        self._notices: list[str] = []
        self._result: JobResult | None = None
        self._n = 0
        self._cancelled = threading.Event()
        self._listeners: list[Callable[[], object]] = []
        self._undo: list[Callable[[], object]] = []

    def __call__(self, progress: Progress) -> None:
        """Take the progress of the work.

        Raises
        ------
        Cancelled
            If the client no longer wants it.
        """
        self.check()
        with self._lock:
            self._message = progress.message
            if progress.fraction is not None:
                self._fraction = min(1.0, max(0.0, float(progress.fraction)))
                self._eta_s = progress.eta_s
        self._changed()

    def check(self) -> None:
        """Raise `Cancelled` if the client no longer wants the job."""
        if self._cancelled.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up for being cancelled."""
        self._cancelled.wait(seconds)
        self.check()

    def notice(self, line: str) -> None:
        """Add a line for the client on something that was decided on the way, once."""
        with self._lock:
            if line in self._notices:
                return
            self._notices.append(line)
        self._changed()

    def on_undo(self, call: Callable[[], object]) -> None:
        """Register how to remove what the work has made, should the job be cancelled after all, or fail."""
        self._undo.append(call)

    @property
    def folder(self) -> Path:
        """For files that go with the result; removed when the job is forgotten."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    @property
    def ended(self) -> bool:
        return self._state in _ENDED

    @property
    def result(self) -> JobResult | None:
        """What the work returned, once it is finished."""
        return self._result

    def status(self) -> JobStatus:
        """How it stands; ``n`` rises with every change."""
        with self._lock:
            return JobStatus(
                line_codes=codes_for(self._message, self._error, self._notices),
                n=self._n,
                job=self.id,
                kind=self.kind,
                state=self._state,
                message=self._message,
                fraction=self._fraction,
                eta_s=self._eta_s,
                error=self._error,
                notices=list(self._notices),
                result=self._result,
            )

    def cancel(self) -> None:
        """Ask the work to stop at its next report; a job that waits for its turn stops at once."""
        with self._lock:
            if self.ended:
                return
            self._cancelled.set()
        self._changed()

    async def follow(self, first: int, alive_s: float, closing: asyncio.Event) -> AsyncIterator[bytes]:
        """Lines of JSON from change number `first` on, until the job ends; empty lines are signs of life."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the engine ends
                loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._listeners.append(wake)
        try:
            while not closing.is_set():
                changed.clear()
                ended, status = self.ended, self.status()
                if status.n >= first or ended:
                    yield status.model_dump_json(by_alias=True).encode() + b"\n"
                    first = status.n + 1
                if ended:
                    return
                try:
                    await asyncio.wait_for(changed.wait(), alive_s)
                except asyncio.TimeoutError:
                    yield b"\n"
                await asyncio.sleep(_SEND_EVERY_S)
        finally:
            with self._lock:
                self._listeners.remove(wake)

    def _start(self) -> None:
        self.check()
        with self._lock:
            self._state, self._message = "running", "starting"
        self._changed()

    def _finish(self, result: JobResult) -> None:
        with self._lock:
            self.check()  # under the lock: from here on it is too late to cancel
            self._state, self._message, self._result = "finished", "done", result
            self._fraction, self._eta_s = 1.0, None
            self._undo = []  # which hold what the work has made, long after that was removed
        self._changed()

    def _stop(self, state: JobState, message: str, error: str | None = None) -> None:
        undo, self._undo = self._undo, []
        for call in reversed(undo):
            call()
        self._forget()
        with self._lock:
            self._state, self._message, self._error, self._eta_s = state, message, error, None
        self._changed()

    def _changed(self) -> None:
        with self._lock:
            self._n += 1
            listeners = list(self._listeners)
        for wake in listeners:
            wake()

    def _forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


Work: TypeAlias = Callable[[Job, str], JobResult]
Turn: TypeAlias = Callable[[str | None, Job], AbstractContextManager[str]]
Release: TypeAlias = Callable[[], object]


def _nothing() -> None:
    pass


class JobStore:
    """All jobs of all clients.

    Parameters
    ----------
    folder : Path
        For the files of jobs.
    turn : callable
        ``turn(device, job)`` is a context that holds a device; it gives the name of the one that was granted. The
        device is None for work on files alone.
    explain : callable
        Puts an error into one line.
    limits : Limits
    """

    def __init__(self, folder: Path, turn: Turn, explain: Callable[[BaseException], str], limits: Limits):
        self._folder, self._turn, self._explain, self._limits = folder, turn, explain, limits
        self._jobs: dict[str, Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closing = False

    def submit(self, client: str, kind: JobKind, device: str | None, work: Work, release: Release = _nothing) -> Job:
        """Start work on a device, one job at a time on each, in the order in which they came.

        `work` takes its `Job`, which is a `Report`, and the name of the device that was granted. `release` is called
        when the job has ended, however it did, and also if it is refused.

        Raises
        ------
        Conflict
            If the client has too many jobs already.
        """
        job = Job(client, kind, self._folder)
        run = threading.Thread(target=self._run, args=(job, device, work, release), name=f"job-{job.id}", daemon=True)
        try:
            with self._lock:
                self._admit(job)
                self._threads[job.id] = run
                run.start()
        except BaseException:
            self._jobs.pop(job.id, None)
            release()
            raise
        return job

    def get(self, client: str, job_id: str) -> Job:
        """A client's job.

        Raises
        ------
        NotFound
            If it has none of that id.
        """
        job = self._jobs.get(job_id)
        if job is None or job.client != client:
            raise NotFound(f"there is no job {job_id!r}; it is unknown, or was removed after many others")
        return job

    def of(self, client: str) -> list[Job]:
        """A client's jobs, oldest first."""
        return [job for job in list(self._jobs.values()) if job.client == client]

    def cancel_all(self) -> None:
        """Cancel every job, and take no more."""
        with self._lock:
            self._closing = True
        for job in list(self._jobs.values()):
            job.cancel()

    def wait(self, timeout_s: float) -> None:
        """Wait for jobs that were cancelled to come to their end."""
        end = time.monotonic() + timeout_s
        for thread in list(self._threads.values()):
            thread.join(max(0.0, end - time.monotonic()))

    def _admit(self, job: Job) -> None:
        if self._closing:
            raise Conflict("the engine is ending; start it again", "ending")
        own = self.of(job.client)
        waiting = [other for other in own if not other.ended]
        if len(waiting) >= self._limits.waiting_jobs:
            line = f"{len(waiting)} jobs wait or run already; wait for one to end, or cancel one"
            raise Conflict(line, "busy", n=len(waiting))
        ended = [other for other in own if other.ended]
        for old in ended[: max(0, len(ended) - self._limits.ended_jobs)]:
            del self._jobs[old.id]
            old._forget()
        self._jobs[job.id] = job

    def _run(self, job: Job, device: str | None, work: Work, release: Release) -> None:
        try:
            with self._turn(device, job) as granted:
                job._start()
                result = work(job, granted)
            job._finish(result)
        except Cancelled:
            job._stop("cancelled", "cancelled")
        except BaseException as error:
            line = self._explain(error)
            job._stop("failed", line, line)
        finally:
            release()
            with self._lock:
                self._threads.pop(job.id, None)
