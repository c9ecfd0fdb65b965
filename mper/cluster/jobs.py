"""The jobs of a folder: submitted, followed and cancelled; recorded in ``.cluster/jobs.json``.

How a job stands is asked of ``squeue``, which every SLURM has (``sacct`` needs a database), and read from what the
job itself has written. Logs lie in ``.cluster``, too.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mper.cluster.job import CommandJob
from mper.cluster.settings import LOCAL, SLURM, ClusterSettings
from mper.utils.files import read_json, write_json

FOLDER = ".cluster"
_JOBS = "jobs.json"
# All others, of which a job has one for moments (SIGNALING, REQUEUED, COMPLETING), are of jobs that are not done.
_ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"),
    *("DEADLINE", "SPECIAL_EXIT", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"),
)
_SQUEUE_S = 60
_AGAIN_S = 1.0
_TIMEOUTS = 1000  # so often a job goes on after its time is over


@dataclass(frozen=True)
class JobState:
    """How a job stands.

    Parameters
    ----------
    id, title : str
    state : str
        In lower case: pending, running, ..., done (its command has done what it could), ended (it has not).
    alive : bool
        Whether it may still work.
    node : str
        Where it runs or ran; empty where that is unknown.
    detail : str
        The scheduler's reason, or what the command said at last.
    """

    id: str
    title: str
    state: str
    alive: bool
    node: str = ""
    detail: str = ""


class JobSet:
    """The jobs of a folder.

    Parameters
    ----------
    home : Path
        The folder that they work on.
    entry : mapping
        Of jobs.json.
    """

    def __init__(self, home: Path, entry: Mapping[str, Any]) -> None:
        self.home = home
        self.poll_s = 2.0  # an answer of the scheduler costs it something
        self.kind = str(entry["kind"])
        self._jobs = [(str(job["id"]), str(job["title"])) for job in entry["jobs"]]

    @classmethod
    def read(cls, home: Path) -> JobSet | None:
        """The jobs that were submitted last for a folder; None where there are none.

        Raises
        ------
        ValueError
            If the record is damaged.
        """
        path = home / FOLDER / _JOBS
        if not path.is_file():
            return None
        try:
            return cls(home, read_json(path))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it if no job is running") from error

    @classmethod
    def submit(cls, home: Path, settings: ClusterSettings, jobs: Sequence[tuple[str, Sequence[str]]]) -> JobSet:
        """Submit jobs, each a title and the words after ``python``.

        Raises
        ------
        ValueError
            If submitit or SLURM is missing, jobs of the folder are still at work, or SLURM refuses them.
        """
        if (before := cls.read(home)) is not None and (alive := before.alive()):
            raise ValueError(
                f"{len(alive)} jobs are still at work on {home} (the first: {alive[0].id}); see `mper cluster status`, "
                "or end them with `mper cluster cancel`"
            )
        executor = _executor(home / FOLDER, settings)
        executor.update_parameters(**settings.parameters("mper"))
        work = []
        for number, (_, words) in enumerate(jobs):
            record = _record(home, number)
            record.unlink(missing_ok=True)
            work.append(CommandJob(words, record.absolute(), max(1.0, settings.notice_s - 5.0)))
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), executor.batch():  # submitit shows all that sbatch says
                submitted = [executor.submit(job) for job in work]
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            reason = _said(said.getvalue()) or _said(str(error)) or " ".join(str(error).split())
            raise ValueError(f"{settings.kind} does not take the jobs: {reason}") from error
        entry = {
            "kind": settings.kind,
            "submitted": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "jobs": [{"id": job.job_id, "title": title} for job, (title, _) in zip(submitted, jobs, strict=True)],
        }
        write_json(home / FOLDER / _JOBS, entry)
        return cls(home, entry)

    @property
    def ids(self) -> list[str]:
        """The ids of the jobs, as the scheduler shows them."""
        return [job_id for job_id, _ in self._jobs]

    def states(self) -> list[JobState]:
        """How each job stands.

        Raises
        ------
        ValueError
            If SLURM does not answer.
        """
        queue = _squeue(self.ids) if self.kind == SLURM else _processes(self.ids)
        return [self._state(n, job_id, title, queue.get(job_id)) for n, (job_id, title) in enumerate(self._jobs)]

    def _state(self, number: int, job_id: str, title: str, found: tuple[str, str, str] | None) -> JobState:
        record: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            record = read_json(_record(self.home, number))
        state, node, reason = found or ("", "", "")
        if state and state not in _ENDED:
            return JobState(job_id, title, state.lower(), True, node, "" if reason == "None" else reason)
        if record.get("code") in (0, 1):
            return JobState(job_id, title, "done", False, str(record.get("host", "")))
        return JobState(job_id, title, state.lower() or "ended", False, node, self.reason(number, state, node, record))

    def running(self) -> bool:
        """Whether a job may still work."""
        return bool(self.alive())

    def alive(self) -> list[JobState]:
        """The jobs that may still work; asked twice, as a job that is queued again may be in between."""
        found = [state for state in self.states() if state.alive]
        if found or self.kind != SLURM:
            return found
        time.sleep(_AGAIN_S)
        return [state for state in self.states() if state.alive]

    def stop(self) -> None:
        """Nothing: jobs go on when the command that has submitted them ends; see `cancel`."""

    def reason(self, number: int, state: str = "", node: str = "", record: Mapping[str, Any] | None = None) -> str:
        """Why a job, counted from 0, has ended before its work was done."""
        number %= len(self._jobs)
        job_id, _ = self._jobs[number]
        if record is None:
            found = (_squeue(self.ids) if self.kind == SLURM else {}).get(job_id, ("", "", ""))
            return self.reason(number, found[0], found[1], {})
        logs = self.logs(number)
        if not logs:
            place = f" on {node}" if node else ""
            return f"job {job_id} ended{place} without a log; is {self.home / FOLDER} on a disk that all nodes share?"
        if said := _last_error(logs):
            return f"job {job_id}: {said}"
        how = {"TIMEOUT": "its time is over", "OUT_OF_MEMORY": "it needs more memory (--memory)"}.get(state)
        how = how or (f"{state.lower()}" if state and state != "COMPLETED" else "its command was killed")
        return f"job {job_id} ended early: {how}; the same command goes on"

    def logs(self, number: int) -> list[Path]:
        """The logs of a job, counted from 0."""
        return sorted((self.home / FOLDER).glob(f"{self._jobs[number][0]}_*_log.*"))

    def cancel(self) -> int:
        """End the jobs that are at work, which save first; returns how many.

        Raises
        ------
        ValueError
            If SLURM refuses.
        """
        alive = [state.id for state in self.alive()]
        if not alive:
            return 0
        if self.kind == SLURM:
            _call(["scancel", *alive])
            return len(alive)
        import psutil

        for job_id in alive:
            with contextlib.suppress(psutil.Error):
                controller = psutil.Process(int(job_id))
                family = [controller, *controller.children(recursive=True)]
                for process in family:
                    process.terminate()
        return len(alive)


def _record(home: Path, number: int) -> Path:
    return home / FOLDER / f"job-{number}.json"


def _executor(folder: Path, settings: ClusterSettings) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ValueError('submitit is not installed: pip install "mper[cluster]"') from error
    folder.mkdir(parents=True, exist_ok=True)
    if settings.kind == LOCAL:
        return submitit.LocalExecutor(folder, max_num_timeout=_TIMEOUTS)
    if not all(map(shutil.which, ("sbatch", "srun", "squeue"))):
        raise ValueError(
            "there is no SLURM on this computer (no sbatch, srun and squeue on the PATH); run the command on a login "
            "node of the cluster, or take --cluster local"
        )
    return submitit.AutoExecutor(folder, cluster=SLURM, slurm_max_num_timeout=_TIMEOUTS)


def _squeue(ids: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """State, node and reason of the jobs that SLURM still knows."""
    bases = sorted({job_id.partition("_")[0] for job_id in ids})
    found: dict[str, tuple[str, str, str]] = {}
    for base in bases:
        try:
            answer = _call(
                ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", f"--jobs={base}"]
            )
        except ValueError as error:
            if "Invalid job id" in str(error):  # SLURM has forgotten it: it ended a while ago
                continue
            raise
        for line in answer.splitlines():
            job_id, _, rest = line.strip().partition("|")
            state, node, reason = [*rest.split("|", 2), "", ""][:3]
            found[job_id] = (state, node, reason)
    return found


def _processes(ids: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """The jobs of this computer that run."""
    import psutil

    found = {}
    for job_id in ids:
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(job_id))
            if process.status() != psutil.STATUS_ZOMBIE and any("submitit" in word for word in process.cmdline()):
                found[job_id] = ("RUNNING", "", "")
    return found


def _call(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", timeout=_SQUEUE_S)
    except FileNotFoundError as error:
        raise ValueError(f"there is no SLURM on this computer (no {words[0]} on the PATH)") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"SLURM does not answer ({words[0]} took over {_SQUEUE_S} s); try again later") from error
    if done.returncode:
        raise ValueError(f"SLURM: {' '.join(done.stderr.split()) or f'{words[0]} failed'}")
    return done.stdout


def _said(text: str) -> str:
    """The first error of sbatch, which says what is wrong; the last says that there was one."""
    return next((line.partition("error: ")[2] for line in text.splitlines() if line.startswith("sbatch: error: ")), "")


def _last_error(logs: Sequence[Path]) -> str:
    for log in logs:
        with contextlib.suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            said = [line.partition("mper: error: ")[2] for line in lines if "mper: error: " in line]
            if said:
                return said[-1]
    return ""
