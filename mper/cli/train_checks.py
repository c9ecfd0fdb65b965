"""What `mper train` checks before it makes a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from mper.models.card import CARD
from mper.utils.errors import UsageError
from mper.utils.files import check_name


def check_places(arguments: argparse.Namespace) -> None:
    """Check --name and --out.

    Raises
    ------
    UsageError
        If a model cannot have that name, or that folder cannot be the one of a run.
    """
    if arguments.name is not None:
        try:
            check_name(arguments.name, "model")
        except ValueError as error:
            raise UsageError(f"--name {error}") from None
    out: Path | None = arguments.out
    if out is None:
        return
    for file, what in (("dataset.json", "a dataset"), (CARD, "a model")):
        if (out / file).exists():
            raise UsageError(f"--out {out} is {what}; give a folder for the run, new or empty")


def of_auto(method: str, line: str) -> str:
    """What is wrong with the options, where --method auto chose the method that does not take them."""
    about = f"method {method} "
    if not line.startswith(about):
        return line
    return (
        f"--method auto chose {method}, which {line.removeprefix(about)} (or name a method in place of auto, or leave "
        "that option out)"
    )
