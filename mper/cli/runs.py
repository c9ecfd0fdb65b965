"""``mper runs``: training runs side by side, and their curves for TensorBoard."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli.console import print_error, print_json, print_result, print_table
from mper.cli.options import Commands, add_command, out_folder
from mper.utils.errors import FAILED, OK, UsageError, explain
from mper.utils.text import duration

if TYPE_CHECKING:
    from mper.training.run_table import RunSummary

_TEXT = """\
List the training runs of datasets, benchmarks (their --out) or single run folders in one table: data, method, result
and the model that each became, of runs on the same data the best first. Dice is that of the last point on the locked
hold-out, or on the evaluated cases of a benchmark; figures of different data cannot be compared.

`mper runs export` writes the curves of runs for TensorBoard, of old runs too, into RUN/tensorboard, or for several runs
into one folder with --out; then: tensorboard --logdir FOLDER. It needs pip install "mper[tensorboard]".
"""
_EXAMPLES = """\
  mper runs dataset
  mper runs dataset results --json
  mper runs export dataset --out curves
"""
_EXPORT = "export"


def add(commands: Commands) -> None:
    command = add_command(commands, "runs", "list training runs, and export their curves", _TEXT, _EXAMPLES)
    command.usage = "mper runs FOLDER... [--json]\n       mper runs export FOLDER... [--out DIR]"
    command.add_argument("paths", nargs="+", metavar="FOLDER", help="datasets, benchmarks or runs")
    command.add_argument("--out", type=out_folder, metavar="DIR", help="export: a sub-folder a run goes here")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.paths[0] == _EXPORT:
        return _export([Path(path) for path in arguments.paths[1:]], arguments.out)
    if arguments.out is not None:
        raise UsageError("--out goes with the export of curves: mper runs export FOLDER --out DIR")
    from mper.training.run_table import find_runs, summarise

    found = [summarise(path) for folder in arguments.paths for path in find_runs(Path(folder))]
    if arguments.json:
        print_json({"runs": [asdict(each) for each in found]})
        return OK
    head = ["run", "state", "data", "labelled", "method", "seed", "steps", "time", "Dice", "on", "model"]
    ordered = sorted(found, key=lambda each: (each.dataset, each.split, -(each.dice or 0.0), each.run))
    print_table(head, [_row(each) for each in ordered])
    return OK


def _row(run: RunSummary) -> list[str]:
    return [
        run.run,
        run.state,
        f"{run.dataset} {run.split}".strip(),
        "-" if run.state == "damaged" else "all" if run.labelled is None else str(run.labelled),
        run.method or "-",
        str(run.seed),
        "-" if run.steps is None else str(run.steps),
        "-" if run.seconds is None else duration(run.seconds),
        "-" if run.dice is None else f"{run.dice:.4f}",
        run.measured_on or "-",
        run.model or "-",
    ]


def _export(paths: Sequence[Path], out: Path | None) -> int:
    if not paths:
        raise UsageError("there is no run to export; write: mper runs export DATASET")
    from mper.training.run_table import find_runs
    from mper.training.tensorboard import MissingTensorBoard, export_run

    runs = [run for path in paths for run in find_runs(path)]
    names = [run.resolve().name for run in runs]
    if out is not None and (twice := sorted({name for name in names if names.count(name) > 1})):
        raise UsageError(f"two runs are called {twice[0]}; export them into two folders")
    written, failed = [], 0
    for run, name in zip(runs, names, strict=True):
        try:
            written.append(export_run(run, None if out is None else out / name))
        except MissingTensorBoard:
            raise
        except (OSError, ValueError) as error:
            failed += 1
            print_error(f"{run}: {explain(error)}")
    if written:
        shown = out if out is not None else written[0] if len(written) == 1 else paths[0]
        print_result(f"{len(written)} runs exported; look at them: tensorboard --logdir {shown}")
    return FAILED if failed else OK
