"""``mper region``: the region of a case, which drafts and trainings keep to."""

from __future__ import annotations

import argparse
from pathlib import Path

from mper.cli.console import print_json, print_result
from mper.cli.options import Commands, add_command, roi
from mper.utils.errors import OK, UsageError

_TEXT = """\
Show, set or clear the region of a case: a box in mm (LPS: x to the patient's left, y to the back, z to the head).
Drafts and trainings use such a case inside its region alone, whether it has a label or not; nothing of the scan is
removed, and evaluation uses the whole scan. It is the region that MPER Trainer shows and draws. Without CASE the
regions of all cases are shown.
"""
_EXAMPLES = """\
  mper region dataset
  mper region dataset case-007 --set=-40,60,-30,70,-20,50 --author "A. Reader"
  mper region dataset case-007 --clear --author "A. Reader"
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "region", "show, set or clear the region of a case", _TEXT, _EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("case", nargs="?", metavar="CASE", help="the case's id")
    change = command.add_mutually_exclusive_group()
    change.add_argument(
        "--set",
        type=roi,
        metavar="x0,x1,y0,y1,z0,z1",
        help="the box in mm; write it with an equals sign: --set=-40,60,-30,70,-20,50",
    )
    change.add_argument("--clear", action="store_true", help="use the whole scan again")
    command.add_argument("--author", metavar="NAME", help="who sets or clears it")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.datasets.dataset import Dataset
    from mper.datasets.maintenance import set_region

    dataset = Dataset.open(arguments.dataset)
    changes = arguments.set is not None or arguments.clear
    if changes and arguments.case is None:
        raise UsageError("--set and --clear need a CASE; name the one whose region it is")
    if changes and not (arguments.author or "").strip():
        raise UsageError("--author is missing; name who sets or clears the region")
    case = None if arguments.case is None else dataset.case(arguments.case).id
    if changes:
        assert case is not None
        set_region(dataset, case, arguments.set, arguments.author)
    regions = dict(dataset.regions) if case is None else {case: dataset.regions.get(case)}
    if arguments.json:
        print_json({"regions": {name: None if box is None else list(box) for name, box in regions.items()}})
        return OK
    for name, box in regions.items():
        words = "the whole scan" if box is None else ",".join(f"{value:g}" for value in box)
        print_result(f"{name}: {words}")
    if not regions:
        print_result(f"{arguments.dataset}: no case has a region; all scans are used whole")
    return OK
