"""``mper cluster``: the jobs of a folder; and the options by which other commands submit jobs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli.console import print_json, print_note, print_result, print_table
from mper.cli.options import Commands, add_command, count, number
from mper.progress import Cancelled
from mper.utils.errors import FAILED, OK, UsageError

if TYPE_CHECKING:
    from mper.cluster.jobs import JobSet
    from mper.cluster.settings import ClusterSettings

_TEXT = """\
The jobs that `mper segment`, `mper benchmark` or `mper train` has submitted with --cluster for a folder: that of a
cohort, of a benchmark, or of a run.

status shows how each job stands, and gathers the masks of a cohort whose jobs have all ended into its tables. cancel
ends the jobs; each saves first, and the command that submitted them goes on from there.
"""
_EXAMPLES = """\
  mper cluster status results
  mper cluster cancel results
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "cluster", "show or cancel the jobs of a folder", _TEXT, _EXAMPLES)
    command.add_argument("action", choices=("status", "cancel"))
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the folder that the jobs work on")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run)


def add_cluster(command: argparse.ArgumentParser) -> None:
    """The options of a command that can submit jobs."""
    group = command.add_argument_group(
        "cluster", 'jobs that go on from where they were when their time is over (pip install "mper[cluster]")'
    )
    group.add_argument(
        "--cluster", choices=("slurm", "local"), help="submit jobs to SLURM, or start them on this computer"
    )
    group.add_argument(
        "--cluster-config",
        type=Path,
        metavar="FILE",
        help="settings in TOML: those below, and qos, constraint, setup (lines of a shell), sbatch (a table)",
    )
    group.add_argument("--partition", metavar="NAME")
    group.add_argument("--account", metavar="NAME")
    group.add_argument("--time", type=_time, metavar="TIME", help="of a job, such as 4h or 1-12:00:00 (default: 4h)")
    group.add_argument("--gpus", type=number, metavar="N", help="of a job, on one node (default: none)")
    group.add_argument("--memory", type=_memory, metavar="SIZE", help="of a job, such as 16G")
    group.add_argument("--cpus", type=count, metavar="N", help="of a job (default: 4)")
    group.add_argument("--jobs", type=count, metavar="N", help="at a time (default: 8)")
    group.add_argument("--detach", action="store_true", help="return when the jobs are submitted")


def _time(text: str) -> float:
    from mper.cluster.settings import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _memory(text: str) -> float:
    from mper.cluster.settings import gigabytes

    try:
        return gigabytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cluster_settings(arguments: argparse.Namespace) -> ClusterSettings | None:
    """The settings that were asked for; None where no job is to be submitted.

    Raises
    ------
    UsageError
        If options of a cluster are given without one.
    ValueError, FileNotFoundError
        See `mper.cluster.settings.read_settings`.
    """
    options = {name: getattr(arguments, name) for name in ("partition", "account", "gpus", "cpus", "jobs")}
    options |= {"time_s": arguments.time, "memory_gb": arguments.memory}
    given = [
        name for name, value in {**options, "cluster_config": arguments.cluster_config}.items() if value is not None
    ]
    if arguments.cluster is None:
        if given or arguments.detach:
            name = given[0].removesuffix("_s").removesuffix("_gb").replace("_", "-") if given else "detach"
            raise UsageError(f"--{name} is an option of jobs; add --cluster slurm or --cluster local")
        return None
    from mper.cluster.settings import read_settings

    return read_settings(arguments.cluster, arguments.cluster_config, options)


def submit(home: Path, settings: ClusterSettings, jobs: Sequence[tuple[str, Sequence[str]]]) -> JobSet:
    """Submit jobs, each a title and the words after ``python``."""
    from mper.cluster.jobs import JobSet

    submitted = JobSet.submit(home, settings, jobs)
    first = submitted.ids[0]
    what = f"job {first}" if len(jobs) == 1 else f"{len(jobs)} jobs, {first} and so on,"
    print_note(f"submitted {what}; see `mper cluster status`")
    return submitted


def wait_for(jobs: JobSet, update: Callable[[], None]) -> None:
    """Wait until all jobs have ended; `update` is called meanwhile.

    Raises
    ------
    Cancelled
        By Ctrl-C; the jobs go on.
    """
    try:
        while jobs.running():
            update()
            time.sleep(jobs.poll_s)
        update()
    except (Cancelled, KeyboardInterrupt):
        raise Cancelled(still_running(jobs.home)) from None


MPER = ("-m", "mper")


def still_running(home: Path) -> str:
    """What to do about jobs that go on."""
    return f"the jobs go on; see `mper cluster status {home}`, and `mper cluster cancel {home}` ends them"


def run(arguments: argparse.Namespace) -> int:
    from mper.cluster.jobs import JobSet

    jobs = JobSet.read(arguments.folder)
    if jobs is None:
        what = "has no jobs" if arguments.folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"{arguments.folder} {what}; give the folder that jobs were submitted for")
    if arguments.action == "cancel":
        ended = jobs.cancel()
        print_result(f"{ended} jobs are told to end" if ended else "no job is at work")
        return OK
    states = jobs.states()
    alive = sum(state.alive for state in states)
    if arguments.json:
        shown = [
            {name: getattr(state, name) for name in ("id", "title", "state", "node", "detail")} for state in states
        ]
        print_json({"folder": str(arguments.folder), "kind": jobs.kind, "alive": alive, "jobs": shown})
        return OK
    print_table(["job", "work", "state", "node"], [[s.id, s.title, s.state, s.node or "-"] for s in states])
    for state in states:
        if state.detail:
            print_result(f"{state.id}: {state.detail}")
    bad = sum(not state.alive and state.state != "done" for state in states)
    print_result(f"{alive} of {len(states)} jobs at work, {bad} ended early")
    if not alive and not jobs.running():  # which asks again: a job may be about to be queued again
        from mper.cli.cohort import gather

        gather(arguments.folder)
    return FAILED if bad else OK
