"""``mper doctor``: a check of the installation and this machine."""

from __future__ import annotations

import argparse

from mper.cli.console import Bar, print_result
from mper.cli.options import Commands, add_command
from mper.utils.errors import FAILED, OK, explain

_TEXT = """\
Check everything that mper needs: the installation, processor, graphics card, memory and disk of this machine, the
bundled models, and a segmentation of the sample scan. The report holds no patient data and no names: include it when
you ask for help.
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "doctor", "check the installation and this machine", _TEXT, "  mper doctor\n")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.engine.services.diagnostics import as_text, examine

    with Bar() as bar:
        findings = examine(explain, bar)
    print_result(as_text(findings))
    bad = [finding for finding in findings if not finding.good]
    print_result()
    print_result("Everything works." if not bad else f"{len(bad)} of {len(findings)} checks fail.")
    return FAILED if bad else OK
