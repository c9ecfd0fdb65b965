"""``mper evaluate``: the accuracy of a model on labelled cases."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli.console import Bar, print_json, print_note, print_result, print_table
from mper.cli.options import Commands, add_command, add_device, add_model, add_tta
from mper.utils.errors import OK
from mper.utils.text import shorten

if TYPE_CHECKING:
    from mper.datasets.dataset import Dataset
    from mper.datasets.packed import PackedDataset

_TEXT = """\
Segment the labelled cases of a dataset and compare the masks with the labels.

Dice and Jaccard (IoU) are 1 where mask and label agree completely. HD95 and ASD are distances between their surfaces,
in voxels (as in the papers) and in mm (where the spacing is known). Each case counts once: the mean over cases of the
mean over labels. Unlabelled voxels (255) are ignored. The default split is the locked hold-out, else test, else val,
else the only one. With several splits each has its mean, and all cases together one.
"""
_EXAMPLES = """\
  mper import atrial-challenge dataset --split test
  mper evaluate dataset --model la
  mper evaluate dataset --model dataset/models/mine --split val --json
  mper evaluate dataset --model dataset/models/mine --split dev --split msd
"""
_COLUMNS = ("dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm")
_HEADS = ("Dice", "Jaccard", "HD95 voxel", "ASD voxel", "HD95 mm", "ASD mm")


def add(commands: Commands) -> None:
    command = add_command(commands, "evaluate", "evaluate a model on labelled cases", _TEXT, _EXAMPLES)
    command.add_argument(
        "dataset", type=Path, metavar="DATASET", help="a dataset folder (see `mper import`), or a packed one"
    )
    add_model(command, default=None)
    command.add_argument("--split", action="append", metavar="NAME", help="the split to evaluate on (repeatable)")
    add_device(command)
    add_tta(command)
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        answer = _evaluate(arguments)
    if arguments.json:
        print_json(answer)
    else:
        _show(answer)
    return OK


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from mper.datasets.packed import open_dataset
    from mper.datasets.revisions import about_drafts
    from mper.evaluation.evaluate import choose_split, evaluate
    from mper.models.card import read_bundle
    from mper.training.trained_scans import known_cases

    dataset = open_dataset(arguments.dataset)
    stored = read_bundle(_model(arguments.model, dataset))
    splits = list(dict.fromkeys(arguments.split or [choose_split(dataset.splits, dataset.holdout)]))
    members = {name: dataset.split(name) for name in splits}
    cases = list({case.id: case for group in members.values() for case in group}.values())
    if not arguments.split:
        print_note(f"the split {splits[0]!r} is evaluated ({len(cases)} cases)")
    if known := known_cases(stored.path, cases):
        print_note(f"{stored.card.name} was trained on {shorten(known)} of these cases: its figures are too good there")
    if drafts := [case.id for case in cases if case.is_draft]:
        print_note(about_drafts(drafts))
    from mper.inference.predictor import Predictor
    from mper.models.bundle import ModelBundle

    predictor = Predictor(ModelBundle.load(stored.path), arguments.device)
    with Bar(shown=not arguments.json) as bar:
        found = evaluate(predictor, cases, dataset.labels, arguments.tta, bar, print_note)
    model = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    answer = {"model": model, "split": ", ".join(splits), "device": str(predictor.device), **found}
    if len(splits) > 1:
        answer["splits"] = {name: _mean_of([case.id for case in group], found) for name, group in members.items()}
    return answer


def _mean_of(ids: Sequence[str], found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The number of evaluated cases among `ids`, and their means; None where there is none."""
    from mper.evaluation.metrics import mean_figures

    wanted = set(ids)
    cases = [case for case in found["cases"] if case["id"] in wanted]
    return {"cases": len(cases), "mean": dict(mean_figures(cases))} if cases else None


def _model(name: str, dataset: Dataset | PackedDataset) -> Path:
    """A bundled model or a path, or a model of the dataset."""
    from mper.datasets.dataset import Dataset
    from mper.resources import find_model

    try:
        return find_model(name)
    except FileNotFoundError:
        if isinstance(dataset, Dataset) and name in dataset.models:
            return dataset.model(name)
        raise


def _show(answer: Mapping[str, Any]) -> None:
    """Print a table: every case, the worst one marked, and the means."""
    cases = answer["cases"]
    worst = min(range(len(cases)), key=lambda n: cases[n]["dice"])
    labels = answer["labels"]
    several = len(labels) > 1
    rows = [
        [case["id"], *_figures(case), *(f"{case['labels'][name]['dice']:.3f}" for name in labels if several)]
        for case in cases
    ]
    if len(cases) > 1:
        rows[worst][0] += "  <- worst"
    rows.append(["mean", *_figures(answer["mean"]), *(f"{labels[name]['dice']:.3f}" for name in labels if several)])
    head = ["case", *_HEADS, *(f"Dice {name}" for name in labels if several)]
    known = [
        c for c in range(len(head)) if any(row[c] != "-" for row in rows)
    ]  # no columns in mm where spacing is unknown
    print_table([head[c] for c in known], [[row[c] for c in known] for row in rows])
    print_result()
    model, mean = answer["model"], answer["mean"]
    where = f"the splits {answer['split']}" if "splits" in answer else f"split {answer['split']!r}"
    print_result(
        f"{model['name']} {model['version']} on {len(cases)} cases of {where}: "
        f"Dice {mean['dice']:.4f}, worst {cases[worst]['dice']:.4f}, "
        f"{answer['seconds_per_case']:.2f} s a case ({answer['device']})"
    )
    for name, entry in answer.get("splits", {}).items():
        words = "no case with a label"
        if entry is not None:
            words = f"Dice {entry['mean']['dice']:.4f} on {entry['cases']} cases"
        print_result(f"split {name!r}: {words}")
    if mean["without_distance"]:
        print_result(f"{mean['without_distance']} masks have no distances, because they or their labels are empty")


def _figures(figures: Mapping[str, Any]) -> list[str]:
    digits = (3, 3, 2, 2, 2, 2)
    return ["-" if figures[c] is None else f"{figures[c]:.{d}f}" for c, d in zip(_COLUMNS, digits, strict=True)]
