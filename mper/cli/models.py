"""``mper models``: which models came with the program."""

from __future__ import annotations

import argparse

from mper.cli.console import say, say_json, say_table
from mper.cli.edge import OK
from mper.cli.options import Commands, add_command


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "models",
        "list the models that come with mper",
        "List the models that come with mper: what each is for, what it segments, how well it did on cases that it\n"
        "was not trained on, and its licence. Use a name with `mper segment --model NAME`.",
        "  mper models\n  mper models --json\n",
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object, with everything that each model's card says"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.card import read_bundle
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
        say_json({"models": entries})
        return OK
    if not bundles:
        say("No models came with this copy of mper.")
        return OK
    rows = [
        (
            bundle.card.name,
            bundle.card.version,
            ", ".join(label.name for label in bundle.card.labels),
            _quality(bundle.card.about.get("quality")),
            str(bundle.card.about.get("licence", "")),
            bundle.card.title,
        )
        for bundle in bundles
    ]
    say_table(("name", "version", "labels", "Dice", "licence", "what it is for"), rows)
    say()
    say("Dice: mean and worst case of held-back scans, 1 is perfect. Not a medical device: check every result.")
    return OK


def _quality(quality: object) -> str:
    """Mean and worst Dice of a card, as far as it tells them."""
    if not isinstance(quality, dict):
        return "not measured"
    mean, cases = quality.get("mean"), quality.get("cases")
    dice = mean.get("dice") if isinstance(mean, dict) else mean
    if not isinstance(dice, (int, float)):
        return "not measured"
    words = f"{dice:.3f}"
    if isinstance(cases, list):
        each = [case["dice"] for case in cases if isinstance(case, dict) and isinstance(case.get("dice"), (int, float))]
        words += f", worst {min(each):.3f} of {len(each)}" if each else ""
    return words
