"""Training and evaluation of one run after the other; runs that are done are skipped."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mper
from mper.benchmark.plan import Benchmark, Cohort, Run, train_config
from mper.datasets.packed import open_dataset
from mper.evaluation.evaluate import evaluate
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.progress import Cancelled, Notify, Progress, Report, ignore_notice, ignore_progress, part_of
from mper.training.runs import RunFolder
from mper.training.trainer import start_run, train
from mper.utils.devices import describe_device, pick_training_device
from mper.utils.files import read_json, temporary_sibling, write_json
from mper.volume import Volume

_RESULT = "result.json"
_MASKS = "masks.npz"
_TRAINING = 0.95  # share of a run that is its training
_ESTIMABLE = 0.005  # share of the work after which the remaining time can be estimated


class TimeLimitReached(Cancelled):
    """The time limit is reached; finished runs and the checkpoint of the current one are kept."""


def run_benchmark(
    benchmark: Benchmark,
    cohort: Cohort,
    home: Path,
    device: str,
    seconds: float | None = None,
    report: Report = ignore_progress,
    notify: Notify = ignore_notice,
    after_run: Notify = ignore_notice,
    only: Sequence[int] | None = None,
) -> list[str]:
    """Train and evaluate all runs of a benchmark that are not done yet.

    Parameters
    ----------
    benchmark, cohort : Benchmark, Cohort
    home : Path
        The benchmark's folder.
    device : str
    seconds : float or None
        Stop after this time.
    report, notify : Report, Notify
    after_run : Notify
        Called with the title of each finished run.
    only : sequence of int or None
        Only these runs, by their positions among all; None: all.

    Returns
    -------
    list of str
        A line for each run that failed; the others are done nevertheless.

    Raises
    ------
    TimeLimitReached
        After `seconds`; the current run keeps its checkpoint.
    """
    runs = benchmark.runs()
    runs = runs if only is None else [runs[number] for number in only]
    configs = {run: train_config(benchmark, cohort, run, device) for run in runs}
    end = None if seconds is None else time.monotonic() + seconds
    failed = []

    def report_in_time(progress: Progress) -> None:
        if end is not None and time.monotonic() > end:
            raise TimeLimitReached(f"{sum(is_done(run, home) for run in runs)} of {len(runs)} runs are done")
        if (progress.fraction or 0) < _ESTIMABLE:  # the first moments allow no estimate
            progress = replace(progress, fraction=None)
        report(progress)

    left = [run for run in runs if not is_done(run, home)]
    for number, run in enumerate(left):
        words = f"{len(runs) - len(left) + number + 1}/{len(runs)} {run.title}"
        beat = part_of(report_in_time, number / len(left), 1 / len(left), words)
        beat(Progress("starting", 0.0))
        folder = run.folder(home)
        if (folder / "config.json").exists():  # data and device may have changed
            write_json(folder / "config.json", asdict(configs[run]))
        else:
            start_run(configs[run], folder)
        try:
            model = train(folder, part_of(beat, 0, _TRAINING, "training"), _prefixed(notify, run.title))
            found = _evaluate_run(
                model, cohort, run, folder, device, part_of(beat, _TRAINING, 1 - _TRAINING, "evaluating"), notify
            )
        except (ValueError, RuntimeError, MemoryError) as error:  # out of memory, on a graphics card, is a RuntimeError
            first, *_ = str(error).splitlines() or ["there is not enough memory"]
            failed.append(f"{run.title}: {first}")
            notify(failed[-1])
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        write_json(folder / _RESULT, found)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # 150 MB
        after_run(run.title)
    return failed


def _prefixed(notify: Notify, title: str) -> Notify:
    return lambda line: notify(f"{title}: {line}")


def is_done(run: Run, home: Path) -> bool:
    """Whether a run is trained and evaluated."""
    return (run.folder(home) / _RESULT).exists()


def read_results(benchmark: Benchmark, home: Path) -> dict[Run, dict[str, Any]]:
    """The results so far, in the order of the runs."""
    return {run: read_json(run.folder(home) / _RESULT) for run in benchmark.runs() if is_done(run, home)}


def read_masks(run: Run, home: Path) -> dict[str, np.ndarray]:
    """The masks of a run of the first seed by case, on the scans' grids; empty if there are none."""
    path = run.folder(home) / _MASKS
    if not path.exists():
        return {}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _evaluate_run(
    model: Path, cohort: Cohort, run: Run, folder: Path, device: str, report: Report, notify: Notify
) -> dict[str, Any]:
    dataset = open_dataset(cohort.data)
    masks: dict[str, np.ndarray] = {}

    def keep(case_id: str, mask: Volume) -> None:
        masks[case_id] = np.asarray(mask.array, np.uint8)

    bundle = ModelBundle.load(model)
    cases = [dataset.case(case_id) for case_id in cohort.evaluated]
    predictor = Predictor(bundle, device)
    found = evaluate(predictor, cases, dataset.labels, report=report, notify=_prefixed(notify, run.title), keep=keep)
    if run.seed == 0:  # for the pictures
        unfinished = temporary_sibling(folder / _MASKS)
        with unfinished.open("wb") as stream:
            np.savez_compressed(stream, **masks)  # type: ignore[arg-type]
        unfinished.replace(folder / _MASKS)
    status = RunFolder(folder).status()
    training: Mapping[str, Any] = bundle.card.about.get("training", {})
    return {
        **found,
        "run": {"labeled": run.labeled, "variant": run.variant.word, "seed": run.seed},
        "trained": {
            "steps": status.get("step"),
            "seconds": round(float(status.get("elapsed_s", 0.0)), 1),
            "network": bundle.network.kind,
            "labelled_cases": training.get("labelled_cases"),
            "unlabelled_cases": training.get("unlabelled_cases"),
        },
        "hardware": hardware(device),
        "code": code_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def hardware(device: str) -> str:
    """Device of the trainings, cores, system and version of torch."""
    name = describe_device(pick_training_device(device))
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"


def code_version() -> str:
    """Version with the commit of a working copy, or a checksum of the code."""
    home = Path(mper.__file__).resolve().parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != home:
            return _by_checksum()
        changed = " with changes" if git("status", "--porcelain", "--", "mper") else ""
        return f"mper {mper.__version__}, commit {git('rev-parse', '--short=12', 'HEAD')}{changed}"
    except (OSError, subprocess.SubprocessError):
        return _by_checksum()


def _by_checksum() -> str:
    home = Path(mper.__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(home.rglob("*.py"), key=lambda path: path.relative_to(home).as_posix()):
        digest.update(path.relative_to(home).as_posix().encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return f"mper {mper.__version__}, code sha256:{digest.hexdigest()[:12]}"
