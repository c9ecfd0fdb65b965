"""``mper holdout``: cases of a dataset that nothing is ever trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli.console import print_json, print_note, print_result
from mper.cli.options import Commands, add_command, add_json
from mper.utils.errors import OK, UsageError, explain

if TYPE_CHECKING:
    from mper.datasets.dataset import Dataset

_TEXT = """\
Lock cases as the hold-out of a dataset: they leave every other split, nothing is ever trained on them, and models are
measured and compared on them. Other cases of the same scans are locked too. Once locked, a case is never unlocked;
cases that are named later are added as a second hold-out. Without CASE the locked cases are shown. MPER Trainer shows
and locks the same.
"""
_EXAMPLES = """\
  mper holdout dataset case-003 case-008 case-012 --author "A. Reader"
  mper holdout dataset
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "holdout", "lock cases that are never trained on", _TEXT, _EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("cases", nargs="*", metavar="CASE", help="the id of a case, locked for good")
    command.add_argument("--author", metavar="NAME", default="unknown", help="who locks them, for the dataset's log")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.datasets.dataset import Dataset

    dataset = Dataset.open(arguments.dataset)
    if not arguments.author.strip():
        raise UsageError("--author is empty; name who locks the cases, or leave it out")
    if unknown := [case for case in arguments.cases if case not in dataset]:
        raise ValueError(
            f"dataset {dataset.name!r} has no case {', '.join(map(repr, unknown))}; nothing was changed: correct the id"
        )
    notices = _lock(dataset, arguments.cases, arguments.author) if arguments.cases else []
    for notice in notices:
        print_note(notice)
    if arguments.json:
        print_json({"holdout": {name: list(dataset.splits[name]) for name in dataset.locked_splits}, "notes": notices})
        return OK
    if not dataset.held_out:
        print_result(f"{arguments.dataset}: no case is held out")
    for name in dataset.locked_splits:
        for case in dataset.splits[name]:
            print_result(f"{case}: locked, in split {name!r}")
    return OK


def _lock(dataset: Dataset, cases: list[str], author: str) -> list[str]:
    """Lock cases, as MPER Trainer does; the notes on labels that make figures on them doubtful."""
    from mper.engine.services.holdout import lock, lock_more
    from mper.engine.services.notes import Notes

    asked = list(dict.fromkeys(dataset.case(case).id for case in cases))
    if excluded := [case for case in asked if case in dataset.history.excluded]:
        raise ValueError(
            f"{', '.join(excluded)} is excluded; put it back first, with `mper exclude DATASET CASE --undo`"
        )
    answer = (lock if dataset.holdout is None else lock_more)(dataset, asked, Notes(explain), author)
    return list(answer.notices)
