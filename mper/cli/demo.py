"""``mper demo``: the program shown on its sample scan."""

from __future__ import annotations

import argparse
from pathlib import Path

from mper.cli.console import Bar, duration, say, tell
from mper.cli.edge import OK
from mper.cli.options import Commands, add_command, add_device

_TEXT = """\
Segment the sample scan that comes with mper: a late gadolinium enhanced MRI of a left atrium. Writes the mask, the
prototype map (why the program drew what it drew) and a picture of both. Nothing leaves this machine.
"""


def add(commands: Commands) -> None:
    command = add_command(
        commands, "demo", "try mper on its sample scan", _TEXT, "  mper demo\n  mper demo --out my-folder\n"
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("mper-demo"), help="where the results go (default: mper-demo)"
    )
    add_device(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.demo import demo
    from mper.resources import sample_scan

    with Bar() as bar:
        made = demo(arguments.out, device=arguments.device, report=bar)
    for note in made.notes:
        tell(f"mper: note: {note}")
    sizes = ", ".join(f"{name} {ml:.1f} mL" for name, ml in made.volumes_ml.items() if ml is not None)
    say(f"segmented the sample scan with {made.model} in {duration(made.seconds)} on {made.device}: {sizes}")
    if made.dice is not None:
        say(f"Dice with the expert's mask: {made.dice:.3f} (one case; `mper models` tells how good the model is)")
    for path, what in made.files:
        say(f"  {path}  {what}")
    say(f"all in all {duration(made.seconds_in_all)}. Look at it in 3D Slicer: open {sample_scan()} and the mask.")
    return OK
