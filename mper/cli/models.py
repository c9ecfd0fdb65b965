"""``mper models``: the bundled models."""

from __future__ import annotations

import argparse
import shutil
import textwrap

from mper.cli.console import print_json, print_result
from mper.cli.options import Commands, add_command
from mper.utils.errors import OK


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "models",
        "list the models that come with mper",
        "List the models that come with mper: structures, Dice and on which cases, and licence. Use a name with\n"
        "`mper segment --model NAME`.",
        "  mper models\n  mper models --json\n",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object with the whole card of each model")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.models.card import read_bundle
    from mper.resources import bundled_models

    bundles = [read_bundle(path) for path in bundled_models()]
    if arguments.json:
        entries = [
            {
                "name": bundle.card.name,
                "version": bundle.card.version,
                "title": bundle.card.title,
                "labels": [label.name for label in bundle.card.labels],
                "sha256": bundle.sha256,
                "path": str(bundle.path),
                "about": dict(bundle.card.about),
            }
            for bundle in bundles
        ]
        print_json({"models": entries})
        return OK
    if not bundles:
        print_result("This installation of mper has no models.")
        return OK
    for bundle in bundles:
        card = bundle.card
        print_result(f"{card.name} {card.version}: {card.title}")
        _say_line("segments", ", ".join(label.name for label in card.labels))
        _say_line("Dice", _quality(card.about.get("quality")))
        _say_line("licence", str(card.about.get("licence", "unknown")))
    print_result()
    print_result("A Dice of 1 is a perfect mask. These models are no medical devices: a person must check every mask.")
    return OK


def _say_line(what: str, text: str) -> None:
    indent = " " * 14
    width = max(60, shutil.get_terminal_size().columns)
    print_result(textwrap.fill(text, width, initial_indent=f"    {what}".ljust(14), subsequent_indent=indent))


def _quality(quality: object) -> str:
    """Mean and worst Dice of a card, and on which cases; ``mean`` is as `mper.evaluation.evaluate` gives it."""
    if not isinstance(quality, dict) or not isinstance(quality.get("mean"), dict):
        return "not measured"
    words = f"{quality['mean']['dice']:.3f}"
    if each := quality.get("per_case"):
        words += f", worst {min(each.values()):.3f}"
    return f"{words}, on {quality['cases']}" if quality.get("cases") else words
