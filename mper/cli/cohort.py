"""A cohort of `mper segment`: one scan after the other, or shares of them in several processes.

The folder of the results holds a manifest (`mper.cohort.manifest`), by which the same command goes on where it stopped,
and says how the run stands (`mper.cohort.status`).
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.cluster import cluster_settings, still_running
from mper.cli.cohort_options import command_options, recorded_options
from mper.cli.cohort_output import CohortOutput, cohort_answer
from mper.cli.cohort_processes import PLAN, check_no_jobs, follow, planned_task, start_shares
from mper.cli.common import load_predictor
from mper.cli.console import Bar, print_note, print_result
from mper.cli.outputs import SegmentationTask
from mper.progress import Cancelled, Progress, Report, part_of
from mper.utils.errors import OK, UsageError, explain, is_disk_full
from mper.utils.files import read_json
from mper.utils.locking import locked
from mper.utils.text import shorten

if TYPE_CHECKING:
    from mper.cohort.manifest import CohortFolder, CohortLog, CohortScan, Entry
    from mper.cohort.status import CohortStatus
    from mper.inference.predictor import Predictor
    from mper.labels import Segmentation
    from mper.models.card import StoredBundle
    from mper.volume import Volume

Picture = Callable[[SegmentationTask, "Volume", "Segmentation"], None]
Segment = Callable[..., Iterator[dict[str, Any]]]  # `mper.cli.segment.segment_task`


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
    from mper.cohort.status import FINISHED, PAUSED, SUBMITTED, CohortStatus

    begin = time.perf_counter()
    out = Path(arguments.paths[-1]).expanduser()
    scans = [_cohort_scan(task, out) for task in tasks]
    model = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    settings = cluster_settings(arguments)
    if settings is not None and arguments.workers:
        raise UsageError("--workers and --cluster exclude each other; --jobs says how many jobs there are")
    with _alone(out):
        check_no_jobs(out)
        folder = CohortFolder.begin(out, CohortRun(model, recorded_options(arguments)), scans, arguments.overwrite)
        left = _left(folder, tasks, scans, stored)
        if len(left) < len(tasks):
            print_note(f"{len(tasks) - len(left)} of {len(tasks)} scans are segmented already; their masks are kept")
        inputs = [Path(path).expanduser().absolute() for path in arguments.paths[:-1]]
        status = CohortStatus(out, scans, inputs, command_options(arguments, stored.path))
        with Bar(shown=not arguments.json) as bar, _recorded(status):
            show = CohortOutput(bar, arguments.json, status)
            try:
                if not left:
                    pass
                elif (shares := start_shares(left, stored, arguments, settings, out)) is not None:
                    if arguments.detach:
                        status.end(SUBMITTED)
                        return {"submitted": len(left), "folder": str(out)}
                    follow(folder, left, shares, show, len(tasks))
                else:
                    log = CohortLog(out, stored.sha256)
                    _in_this_process(left, stored, arguments, segment, log, show, len(tasks))
                    folder.update()
            except (Cancelled, KeyboardInterrupt):
                if settings is not None:
                    status.end(SUBMITTED)
                    raise Cancelled(still_running(out)) from None
                folder.update()
                entries = _finished(folder, scans)
                done = sum("error" not in entry for entry in entries[: len(scans)])
                status.end(PAUSED)
                raise Cancelled(f"{done} of {len(tasks)} scans are segmented; the same command goes on") from None
            entries = _finished(folder, scans)
            status.end(FINISHED)
    return cohort_answer(entries, tasks, scans, stored, arguments, time.perf_counter() - begin)


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
    tasks = [planned_task(entry) for entry in plan["tasks"][number - 1 :: count]]
    left = [(t, s) for t in tasks if "error" in done.get((s := _cohort_scan(t, out)).key, {"error": ""})]
    with Bar() as bar:
        log = CohortLog(out, stored.sha256)
        _in_this_process(left, stored, wanted, segment, log, CohortOutput(bar, False), len(left))
    return OK


@contextlib.contextmanager
def _recorded(status: CohortStatus) -> Iterator[None]:
    """Record an error that ends the run."""
    from mper.cohort.status import FAILED

    try:
        yield
    except Exception as error:
        if not isinstance(error, Cancelled):
            status.end(FAILED, explain(error))
        raise


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    from mper.cohort.status import LOCK

    try:
        with locked(out / LOCK, timeout_s=0.5):
            yield
    except TimeoutError:
        raise UsageError(
            f"another mper is segmenting a cohort into {out}; wait for it, or choose another folder"
        ) from None


def _cohort_scan(task: SegmentationTask, out: Path) -> CohortScan:
    from mper.cohort.manifest import CohortScan

    return CohortScan(task.mask.relative_to(out).as_posix(), task.scan.absolute(), task.files, task.region_mm)


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
                print_note(_kept_note(folder, scan))
                folder.keep_edited(scan)
        except (OSError, UsageError):  # what it is is found, and shown, when the scan is segmented
            state = "new"
        if state == "new":
            left.append((task, scan))
    return left


def _kept_note(folder: CohortFolder, scan: CohortScan) -> str:
    """Which results of a scan are kept, which are not made again for that reason, and what to do."""
    edited = [folder.path / name for name in folder.edited(scan)]
    kept = "was edited since and is kept" if len(edited) == 1 else "were edited since and are kept"
    missing = folder.missing(scan)
    instead = f", so that {shorten(missing)} is not written again" if missing else ""
    them = "it" if len(edited) == 1 else "them"
    return f"{shorten(edited)} {kept}{instead}; delete or move {them} to segment the scan again"


def _in_this_process(
    left: Sequence[tuple[SegmentationTask, CohortScan]],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    segment: Segment,
    log: CohortLog,
    show: CohortOutput,
    total: int,
) -> None:
    predictor = load_predictor(stored, arguments.device)
    before = total - len(left)
    for position, (task, scan) in enumerate(left):
        number = before + position + 1
        report = part_of(show.report, position / len(left), 1 / len(left), f"scan {number} of {total}")
        report(Progress("reading", 0.0))
        written: list[Path] = []
        try:
            entry = _segmented(task, scan, stored, arguments, segment, predictor, report, log, written)
        except (Cancelled, KeyboardInterrupt):
            if written:  # of some phases: recorded, so that the next run does not take them for edited
                log.failed(scan, "stopped before all of its phases were segmented; run the same command again", written)
            raise
        except Exception as error:  # one bad scan must not stop a night's work; what it was is in the list
            if is_disk_full(error):  # nor must each of the others be segmented for nothing
                raise
            entry = log.failed(scan, explain(error), written)
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
    written: list[Path],
) -> Entry:
    """Segment a scan; `written` gets the files as they are written."""

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


def gather(out: Path) -> None:
    """Gather what jobs have segmented, which have all ended, into the manifest and the tables of a cohort."""
    from mper.cohort.manifest import WORK, CohortFolder, CohortScan
    from mper.cohort.status import end_submitted

    plan_file = out / WORK / PLAN
    if not plan_file.is_file():
        return
    with _alone(out):
        folder = CohortFolder.read(out) if plan_file.is_file() else None  # another command may have ended it meanwhile
        if folder is None:
            return
        plan = read_json(plan_file)
        submitted = Path(plan["out"])  # the folder may be given in another spelling, or have moved since
        tasks = [planned_task(entry) for entry in plan["tasks"]]
        asked = {scan.key: scan for task in tasks if (scan := _cohort_scan(task, submitted))}
        before = [CohortScan(key, Path(entry["input"])) for key, entry in folder.entries.items() if key not in asked]
        scans = [*before, *asked.values()]
        entries = _finished(folder, scans)
        end_submitted(out, all_ended=len(entries) == len(scans))
    done = sum("error" not in entry for entry in entries)
    print_result(f"{done} of {len(scans)} scans segmented; tables: {out / 'cohort.csv'}, summary.html, manifest.json")
    if done < len(scans):
        print_result("the same `mper segment` goes on with the rest")
