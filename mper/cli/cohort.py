"""A cohort of `mper segment`: one scan after the other, or shares of them in several processes.

The folder of the results holds a manifest (`mper.cohort.manifest`), by which the same command goes on where it stopped.
Several processes get a plan, ``.mper/plan.json``, and each a share of its scans: ``mper segment --plan FILE --share
2/8``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mper.cli import outputs
from mper.cli.cluster import MPER, cluster_settings, still_running, submit
from mper.cli.common import load_predictor, volume_texts
from mper.cli.console import Bar, print_error, print_note, print_result
from mper.cli.outputs import SegmentationTask
from mper.models.calibration import GOOD
from mper.progress import Cancelled, Progress, Report, part_of
from mper.utils.errors import OK, UsageError, explain
from mper.utils.files import read_json, write_json
from mper.utils.locking import locked
from mper.utils.processes import available_cores
from mper.utils.text import duration

if TYPE_CHECKING:
    from mper.cluster.settings import ClusterSettings
    from mper.cohort.manifest import CohortFolder, CohortLog, CohortScan, Entry
    from mper.inference.predictor import Predictor
    from mper.labels import Segmentation
    from mper.models.card import StoredBundle
    from mper.volume import Volume

Picture = Callable[[SegmentationTask, "Volume", "Segmentation"], None]
Segment = Callable[..., Iterator[dict[str, Any]]]  # `mper.cli.segment.segment_task`

_NOT_OPTIONS = (  # arguments that change no mask, or are recorded in another place
    *("paths", "run", "json", "device", "model", "overwrite", "workers", "plan", "share"),
    *("cluster", "cluster_config", "partition", "account", "time", "gpus", "memory", "cpus", "jobs", "detach"),
)
_LOCK = ".mper.lock"
_PLAN = "plan.json"


class Shares(Protocol):
    """Processes that work on the shares of a plan; every `poll_s` seconds they are asked how they stand."""

    poll_s: float

    def running(self) -> bool:
        """Whether one of them may still segment a scan."""

    def stop(self) -> None:
        """End them, where that is wanted when the command ends."""

    def reason(self, share: int) -> str:
        """Why a share, counted from 0, has ended with scans left."""


def run_cohort(
    tasks: Sequence[SegmentationTask], stored: StoredBundle, arguments: argparse.Namespace, segment: Segment
) -> dict[str, Any]:
    """Segment those scans of a cohort that are not segmented yet, and write the tables.

    Returns
    -------
    dict
        The answer for JSON.

    Raises
    ------
    UsageError, ValueError
        If the folder holds other results, or another program works on it.
    """
    from mper.cohort.manifest import CohortFolder, CohortLog, CohortRun

    begin = time.perf_counter()
    out = Path(arguments.paths[-1]).expanduser()
    scans = [_cohort_scan(task, out) for task in tasks]
    model = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    settings = cluster_settings(arguments)
    if settings is not None and arguments.workers:
        raise UsageError("--workers and --cluster exclude each other; --jobs says how many jobs there are")
    with _alone(out):
        _check_no_jobs(out)
        folder = CohortFolder.begin(out, CohortRun(model, _options(arguments)), scans, arguments.overwrite)
        left = _left(folder, tasks, scans, stored)
        if len(left) < len(tasks):
            print_note(f"{len(tasks) - len(left)} of {len(tasks)} scans are segmented already; their masks are kept")
        with Bar(shown=not arguments.json) as bar:
            show = _Show(bar, arguments.json)
            try:
                if not left:
                    pass
                elif (shares := _shares(left, stored, arguments, settings, out)) is not None:
                    if arguments.detach:
                        return {"submitted": len(left), "folder": str(out)}
                    _follow(folder, left, shares, show, len(tasks))
                else:
                    log = CohortLog(out)
                    _in_this_process(left, stored, arguments, segment, log, show, len(tasks))
                    folder.update()
            except (Cancelled, KeyboardInterrupt):
                if settings is not None:
                    raise Cancelled(still_running(out)) from None
                folder.update()
                entries = _finished(folder, scans)
                done = sum("error" not in entry for entry in entries[: len(scans)])
                raise Cancelled(f"{done} of {len(tasks)} scans are segmented; the same command goes on") from None
        entries = _finished(folder, scans)
    return _answer(entries, tasks, scans, stored, arguments, time.perf_counter() - begin)


def run_share(arguments: argparse.Namespace, segment: Segment) -> int:
    """Work on one share of a plan; scans that are done are left out, so that a share can be run again.

    Raises
    ------
    ValueError
        If the plan is damaged, or the model is no longer the one of the plan.
    """
    from mper.cohort.manifest import CohortFolder, CohortLog
    from mper.models.card import read_bundle

    plan = read_json(arguments.plan)
    number, count = arguments.share or (1, 1)
    stored = read_bundle(Path(plan["model"]))
    if stored.sha256 != plan["sha256"]:
        raise ValueError(f"the model {plan['model']} was changed while the cohort is segmented; run the command again")
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in plan["options"].items()}
    wanted = argparse.Namespace(**{**vars(arguments), **options})
    out = Path(plan["out"])
    folder = CohortFolder.read(out)
    done = {} if folder is None else {k: e for k, e in folder.entries.items() if e["finished"] > plan["created"]}
    tasks = [_task(entry) for entry in plan["tasks"][number - 1 :: count]]
    left = [(t, s) for t in tasks if "written" not in done.get((s := _cohort_scan(t, out)).key, ())]
    with Bar() as bar:
        _in_this_process(left, stored, wanted, segment, CohortLog(out), _Show(bar, False), len(left))
    return OK


class _Show:
    """What a person reads while a cohort is segmented."""

    def __init__(self, bar: Bar, quiet: bool) -> None:
        self.bar = bar
        self._quiet = quiet

    def entry(self, entry: Entry) -> None:
        if "error" in entry:
            print_error(f"{entry['input']}: {entry['error']}")
            return
        for result in entry["results"]:
            for note in result["notes"]:
                print_note(f"{result['input']}: {note}")
            if not self._quiet:
                self.bar.print_result(f"{result['mask']}: {summary(result)}")


def summary(found: Mapping[str, Any]) -> str:
    """``LA 85.3 mL, expected Dice 0.92 (0.88 to 0.95), 1.2 s``."""
    quality = found["quality"]
    judged = f"confidence {found['confidence']:.2f}"
    if quality is not None:
        warning = "" if quality["level"] == GOOD else f"{quality['level'].upper()}, "
        low, high = quality["range"]
        judged = f"{warning}expected Dice {quality['expected_dice']:.2f} ({low:.2f} to {high:.2f})"
    checked = ["export check passed"] if "check" in found else []  # a file that fails it is not kept
    empty = ["EMPTY MASK"] if found["empty"] else []
    return ", ".join([*empty, *volume_texts(found), judged, *checked, duration(found["seconds"])])


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    try:
        with locked(out / _LOCK, timeout_s=0.5):
            yield
    except TimeoutError:
        raise UsageError(
            f"another mper is segmenting a cohort into {out}; wait for it, or choose another folder"
        ) from None


def _cohort_scan(task: SegmentationTask, out: Path) -> CohortScan:
    from mper.cohort.manifest import CohortScan

    return CohortScan(task.mask.relative_to(out).as_posix(), task.scan.absolute(), task.files)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that change a mask or what is written with it, for JSON."""
    found = {name: value for name, value in vars(arguments).items() if name not in _NOT_OPTIONS}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in found.items()}


def _left(
    folder: CohortFolder, tasks: Sequence[SegmentationTask], scans: Sequence[CohortScan], stored: StoredBundle
) -> list[tuple[SegmentationTask, CohortScan]]:
    """The scans that are not segmented yet. A mask that was edited since is kept, with a note."""
    left = []
    for task, scan in zip(tasks, scans, strict=True):
        try:
            state = folder.state(scan)
            if state == "edited":
                outputs.check_results(task, [label.name for label in stored.card.labels])
                folder.entries[scan.key]["edited"] = True
                print_note(f"{task.mask} was edited since and is kept; delete it to segment the scan again")
        except (OSError, UsageError):  # what it is is found, and shown, when the scan is segmented
            state = "new"
        if state == "new":
            left.append((task, scan))
    return left


def _in_this_process(
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    segment: Segment,
    log: CohortLog,
    show: _Show,
    total: int,
) -> None:
    predictor = load_predictor(stored, arguments.device)
    before = total - len(left)
    for position, (task, scan) in enumerate(left):
        number = before + position + 1
        report = part_of(show.bar, position / len(left), 1 / len(left), f"scan {number} of {total}")
        report(Progress("reading", 0.0))
        try:
            entry = _segmented(task, scan, stored, arguments, segment, predictor, report, log)
        except Cancelled:
            raise
        except Exception as error:  # one bad scan must not stop a night's work; what it was is in the list
            entry = log.failed(scan, explain(error))
        show.entry(entry)


def _segmented(
    task: SegmentationTask,
    scan: CohortScan,
    stored: StoredBundle,
    arguments: argparse.Namespace,
    segment: Segment,
    predictor: Predictor,
    report: Report,
    log: CohortLog,
) -> Entry:
    written: list[Path] = []

    def keep(target: SegmentationTask, volume: Volume, mask: Segmentation) -> None:
        _draw(log.folder, target.mask.relative_to(log.folder).as_posix(), volume, mask)

    results = []
    for result in segment(task, stored, arguments, lambda: predictor, report, keep):
        names = [result["mask"], result["prototypes"], *(result["probabilities"] or ())]
        written += [Path(name) for name in names if name]
        results.append({**result, "device": str(predictor.device)})
    return log.segmented(scan, results, written)


def _draw(out: Path, key: str, volume: Volume, mask: Segmentation) -> None:
    """Draw the picture of a mask for the page; a mask is worth more than its picture."""
    from mper.cohort.tables import PICTURES, picture_name
    from mper.visualization.thumbnail import draw_thumbnail

    path = out / PICTURES / picture_name(key)
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_thumbnail(volume, mask.labelmap, mask.labels))


def _finished(folder: CohortFolder, scans: Sequence[CohortScan]) -> list[Entry]:
    from mper.cohort.tables import write_tables

    entries = folder.finish(scans)
    write_tables(folder.path, folder.header, entries)
    return entries


def _answer(
    entries: Sequence[Entry],
    tasks: Sequence[SegmentationTask],
    scans: Sequence[CohortScan],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    seconds: float,
) -> dict[str, Any]:
    asked = {scan.key: task for task, scan in zip(tasks, scans, strict=True)}
    cases: list[dict[str, Any]] = []
    for entry in entries:
        if (task := asked.get(entry["key"])) is not None:  # with the paths as they were typed now
            place = {"input": str(task.scan)}
            if "error" in entry:
                cases.append({**place, "error": entry["error"]})
            else:
                masks = [str(task.mask.with_name(Path(result["mask"]).name)) for result in entry["results"]]
                cases += [{**result, **place, "mask": m} for result, m in zip(entry["results"], masks, strict=True)]
    failed = [case["input"] for case in cases if "error" in case]
    if not arguments.json:
        print_result(f"{len(scans) - len(failed)} of {len(scans)} scans segmented in {duration(seconds)}")
        _print_flagged(cases)
        print_result(f"tables: {Path(arguments.paths[-1]) / 'cohort.csv'}, summary.html, manifest.json")
    if failed:
        print_error(f"{len(failed)} of {len(scans)} scans failed: {', '.join(failed)}")
    devices = [case["device"] for case in cases if "device" in case]
    device = devices[-1] if devices else arguments.device
    model = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    return {
        "model": model,
        "device": device,
        "cases": [{name: value for name, value in case.items() if name != "device"} for case in cases],
        "failed": len(failed),
        "seconds": round(seconds, 3),
    }


def _print_flagged(cases: Sequence[Mapping[str, Any]]) -> None:
    """The masks of a cohort that a person should check, and why."""
    masks = [case for case in cases if "error" not in case]
    flagged = [case for case in masks if case.get("flags")]
    if not flagged:
        return
    print_result(f"{len(flagged)} of {len(masks)} masks to check:")
    for case in flagged:
        print_result(f"  {case['mask']}: {'; '.join(flag['words'] for flag in case['flags'])}")


# ---- several processes


def _shares(
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    settings: ClusterSettings | None,
    out: Path,
) -> Shares | None:
    """The processes that work on the scans that are left; None where it is this one."""
    if settings is not None:
        plan = _write_plan(left, stored, arguments, out)
        number = min(settings.jobs, len(left))
        shares = [f"{n + 1}/{number}" for n in range(number)]
        words = [*MPER, "segment", "--plan", str(plan), "--share"]
        return submit(out, settings, [(f"share {share}", [*words, share]) for share in shares])
    wanted = min(arguments.workers or 1, len(left))
    if wanted < 2:
        return None
    plan = _write_plan(left, stored, arguments, out)
    return LocalShares(plan, wanted, out)


def _write_plan(
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    out: Path,
) -> Path:
    from mper.cohort.manifest import WORK, now

    plan = out.absolute() / WORK / _PLAN
    options = {**_options(arguments), "device": arguments.device}
    tasks = [
        {
            "scan": str(task.scan.absolute()),
            "mask": str(task.mask.absolute()),
            "prototypes": str(task.prototypes.absolute()) if task.prototypes else None,
            "probabilities": str(task.probabilities.absolute()) if task.probabilities else None,
            "files": [str(path.absolute()) for path in task.files],
        }
        for task, _ in left
    ]
    where = {"out": str(out.absolute()), "model": str(stored.path.resolve()), "sha256": stored.sha256}
    write_json(plan, {**where, "created": now(), "options": options, "tasks": tasks})
    return plan


def _task(entry: Mapping[str, Any]) -> SegmentationTask:
    def path(name: str) -> Path | None:
        return Path(entry[name]) if entry[name] else None

    files = tuple(Path(file) for file in entry["files"])
    return SegmentationTask(Path(entry["scan"]), Path(entry["mask"]), path("prototypes"), path("probabilities"), files)


def _follow(
    folder: CohortFolder,
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    shares: Shares,
    show: _Show,
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
            show.bar(Progress(f"{before + done} of {total} scans", done / len(left)))
            if running:
                time.sleep(shares.poll_s)
    finally:
        shares.stop()
    log = CohortLog(folder.path)
    for _, scan in left:
        if scan.key in waiting:
            show.entry(log.failed(scan, shares.reason(waiting[scan.key])))
    folder.update()


def _check_no_jobs(out: Path) -> None:
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


def gather(out: Path) -> None:
    """Gather what jobs have segmented, which have all ended, into the manifest and the tables of a cohort."""
    from mper.cohort.manifest import WORK, CohortFolder, CohortScan

    plan_file = out / WORK / _PLAN
    folder = CohortFolder.read(out) if plan_file.is_file() else None
    if folder is None:
        return
    with _alone(out):
        tasks = [_task(entry) for entry in read_json(plan_file)["tasks"]]
        asked = {scan.key: scan for task in tasks if (scan := _cohort_scan(task, out.absolute()))}
        before = [CohortScan(key, Path(entry["input"])) for key, entry in folder.entries.items() if key not in asked]
        scans = [*before, *asked.values()]
        entries = _finished(folder, scans)
    done = sum("error" not in entry for entry in entries)
    print_result(f"{done} of {len(scans)} scans segmented; tables: {out / 'cohort.csv'}, summary.html, manifest.json")
    if done < len(scans):
        print_result("the same `mper segment` goes on with the rest")


class LocalShares:
    """Processes on this computer, which end with this one.

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
        self._processes = []
        for number, log in enumerate(self._logs):
            words = ["segment", "--plan", str(plan), "--share", f"{number + 1}/{count}"]
            with log.open("wb") as stream:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "mper", *words],
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        env=environment,
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
