"""``mper doctor``: what this machine can do."""

from __future__ import annotations

import argparse

from mper.cli.console import Bar, print_result
from mper.cli.options import Commands, add_command
from mper.utils.errors import FAILED, OK, explain

_TEXT = """\
Look at everything that mper needs: the installation, this machine's processor, graphics card, memory and disk, the
models that came with it, and a segmentation of the sample scan. The answer holds no patient data and no names: copy it
into a message when you ask for help.
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "doctor", "see what this machine can do", _TEXT, "  mper doctor\n")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.engine.services.diagnostics import as_text, examine

    with Bar() as bar:
        findings = examine(explain, bar)
    print_result(as_text(findings))
    bad = [finding for finding in findings if not finding.good]
    print_result()
    print_result(
        "Everything is as it should be."
        if not bad
        else f"{len(bad)} of {len(findings)} findings are not as they should be."
    )
    return FAILED if bad else OK
