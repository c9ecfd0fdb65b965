"""The processes that work on a cohort: workers on this computer, or the jobs of a cluster.

They get a plan, ``.mper/plan.json``, and each a share of its scans: ``mper segment --plan FILE --share 2/8``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mper.cli.cluster import MPER, still_running, submit
from mper.cli.cohort_options import recorded_options
from mper.cli.cohort_output import CohortOutput
from mper.cli.console import print_note
from mper.cli.outputs import SegmentationTask
from mper.progress import Progress
from mper.utils.errors import UsageError
from mper.utils.files import write_json
from mper.utils.processes import available_cores

if TYPE_CHECKING:
    from mper.cluster.settings import ClusterSettings
    from mper.cohort.manifest import CohortFolder, CohortScan
    from mper.models.card import StoredBundle

PLAN = "plan.json"


class Shares(Protocol):
    """Processes that work on the shares of a plan; every `poll_s` seconds they are asked how they stand."""

    poll_s: float

    def running(self) -> bool:
        """Whether one of them may still segment a scan."""

    def stop(self) -> None:
        """End them, where that is wanted when the command ends."""

    def reason(self, share: int) -> str:
        """Why a share, counted from 0, has ended with scans left."""


def start_shares(
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    settings: ClusterSettings | None,
    out: Path,
) -> Shares | None:
    """The processes that work on the scans that are left; None where it is this one."""
    if settings is not None:
        plan = write_plan(left, stored, arguments, out)
        number = min(settings.jobs, len(left))
        shares = [f"{n + 1}/{number}" for n in range(number)]
        words = [*MPER, "segment", "--plan", str(plan), "--share"]
        return submit(out, settings, [(f"share {share}", [*words, share]) for share in shares])
    wanted = min(arguments.workers or 1, len(left))
    if wanted < 2:
        return None
    plan = write_plan(left, stored, arguments, out)
    return LocalShares(plan, wanted, out)


def write_plan(
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    out: Path,
) -> Path:
    """Write the plan of the scans that are left."""
    from mper.cohort.manifest import WORK, now

    plan = out.absolute() / WORK / PLAN
    options = {**recorded_options(arguments), "device": arguments.device}
    tasks = [
        {
            "scan": str(task.scan.absolute()),
            "mask": str(task.mask.absolute()),
            "prototypes": str(task.prototypes.absolute()) if task.prototypes else None,
            "probabilities": str(task.probabilities.absolute()) if task.probabilities else None,
            "files": [str(path.absolute()) for path in task.files],
            "region_mm": task.region_mm,
        }
        for task, _ in left
    ]
    where = {"out": str(out.absolute()), "model": str(stored.path.resolve()), "sha256": stored.sha256}
    write_json(plan, {**where, "created": now(), "options": options, "tasks": tasks})
    return plan


def planned_task(entry: Mapping[str, Any]) -> SegmentationTask:
    """A task of a plan."""
    from mper.datasets.events import box_of

    def path(name: str) -> Path | None:
        return Path(entry[name]) if entry[name] else None

    files = tuple(Path(file) for file in entry["files"])
    extras = path("prototypes"), path("probabilities")
    return SegmentationTask(Path(entry["scan"]), Path(entry["mask"]), *extras, files, box_of(entry.get("region_mm")))


def follow(
    folder: CohortFolder,
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    shares: Shares,
    show: CohortOutput,
    total: int,
) -> None:
    """Show what the shares do until all have ended, and record the scans that none of them came to."""
    from mper.cohort.manifest import CohortLog

    waiting = {scan.key: number for number, (_, scan) in enumerate(left)}
    before = total - len(waiting)
    try:
        running = True
        while running:
            running = shares.running()  # asked first: what an ended share has written is read below
            for entry in folder.update():
                if waiting.pop(entry["key"], None) is not None:
                    show.entry(entry)
            done = total - before - len(waiting)
            show.report(Progress(f"{before + done} of {total} scans", done / len(left)))
            if running:
                time.sleep(shares.poll_s)
    finally:
        shares.stop()
    log = CohortLog(folder.path, folder.model_sha256)
    for _, scan in left:
        if scan.key in waiting:
            show.entry(log.failed(scan, shares.reason(waiting[scan.key])))
    folder.update()


def check_no_jobs(out: Path) -> None:
    """Refuse a folder on which jobs are still at work."""
    from mper.cluster.jobs import JobSet

    jobs = JobSet.read(out)
    if jobs is None:
        return
    try:
        running = jobs.running()
    except ValueError as error:  # the folder was copied from a cluster, perhaps
        print_note(f"jobs were submitted for {out}, and whether they are at work cannot be asked here: {error}")
        return
    if running:
        raise UsageError(f"jobs are still at work on {out}: {still_running(out)}")


class LocalShares:
    """Processes on this computer, which end with this one: at the latest when the pipes close that it holds open.

    Parameters
    ----------
    plan : Path
    count : int
        How many.
    out : Path
        Of the results; each process has a log there.
    """

    def __init__(self, plan: Path, count: int, out: Path) -> None:
        self.poll_s = 0.3
        self._logs = [plan.with_name(f"worker-{number + 1}.txt") for number in range(count)]
        threads = str(max(1, available_cores() // count))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUTF8": "1"}
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW
        self._processes = []
        for number, log in enumerate(self._logs):
            words = ["segment", "--plan", str(plan), "--share", f"{number + 1}/{count}", "--with-parent"]
            with log.open("wb") as stream:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "mper", *words],
                        stdin=subprocess.PIPE,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        creationflags=flags,
                    )
                )

    def running(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def reason(self, share: int) -> str:
        number = share % len(self._processes)
        return ended_early(self._logs[number], f"worker {number + 1}", self._processes[number].returncode)


def ended_early(log: Path, who: str, code: int | None) -> str:
    """Why a process has ended with work left, from its log."""
    said = ""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line.removeprefix("mper: error: ") for line in reversed(lines) if "mper: error: " in line), "")
    how = f": {said}" if said else f" with code {code}" if code is not None else ""
    return f"{who} ended before it came to this scan{how}; run the same command again"
