"""``mper exclude``: cases of a dataset that nothing is trained on or measured on."""

from __future__ import annotations

import argparse
from pathlib import Path

from mper.cli.console import print_json, print_note, print_result
from mper.cli.options import Commands, add_command, add_json
from mper.utils.errors import OK, UsageError

_TEXT = """\
Exclude cases from training: each is taken out of its splits, so that nothing is trained on it or measured on it. Its
scan and its labels stay in the dataset, and --undo puts it back, as the last case of its splits. A case of the locked
hold-out cannot be excluded. Without CASE the excluded cases are shown. MPER Trainer shows and changes the same.
"""
_EXAMPLES = """\
  mper exclude dataset case-007 case-011 --author "A. Reader"
  mper exclude dataset case-007 --undo --author "A. Reader"
  mper exclude dataset
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "exclude", "exclude cases from training", _TEXT, _EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("cases", nargs="*", metavar="CASE", help="the id of a case")
    command.add_argument("--undo", action="store_true", help="put the cases back into their splits")
    command.add_argument("--author", metavar="NAME", default="unknown", help="who excludes them, for the dataset's log")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.datasets.dataset import Dataset
    from mper.datasets.maintenance import exclude_case, include_case

    dataset = Dataset.open(arguments.dataset)
    if arguments.undo and not arguments.cases:
        raise UsageError("--undo needs a CASE; name the cases to put back (without CASE the excluded ones are shown)")
    if not arguments.author.strip():
        raise UsageError("--author is empty; name who excludes the cases, or leave it out")
    if unknown := [case for case in arguments.cases if case not in dataset]:
        raise ValueError(
            f"dataset {dataset.name!r} has no case {', '.join(map(repr, unknown))}; nothing was changed: correct the id"
        )
    cases = list(dict.fromkeys(dataset.case(case).id for case in arguments.cases))
    before = dataset.history.excluded_from if arguments.undo else {}  # the splits that the cases go back to
    locked = set(dataset.locked_splits)
    if held := [case for case in cases if case in dataset.held_out or locked & set(before.get(case, ()))]:
        raise ValueError(
            f"{', '.join(held)}: of the locked hold-out, which never changes; nothing was changed: leave them out"
        )
    for case in cases:
        (include_case if arguments.undo else exclude_case)(dataset, case, arguments.author)
    if arguments.undo and (copies := [case for case in dataset.held_out_copies() if case in cases]):
        print_note(f"{len(copies)} cases show the scan of a held-out one, and are not trained on: {', '.join(copies)}")
    excluded = dataset.history.excluded_from
    if arguments.json:
        print_json({"excluded": dict(dataset.history.excluded)})
        return OK
    if not excluded:
        print_result(f"{arguments.dataset}: no case is excluded")
    for case, splits in excluded.items():
        words = f", was in split{'' if len(splits) == 1 else 's'} {', '.join(map(repr, splits))}" if splits else ""
        print_result(f"{case}: excluded{words}")
    return OK
