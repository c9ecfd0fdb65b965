"""What `mper train` checks before it makes a run folder, and the run folder of a training that bad input ended."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mper.models.card import CARD
from mper.utils.errors import UsageError, raised_by_us
from mper.utils.files import check_name

if TYPE_CHECKING:
    from mper.datasets.dataset import Dataset
    from mper.datasets.packed import PackedDataset
    from mper.training.runs import RunFolder


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


def check_label_count(dataset: Dataset | PackedDataset, splits: Sequence[str], labeled: int | None) -> None:
    """Check --labeled: each split must have so many labels."""
    if labeled is None:
        return
    left_out = set(dataset.held_out_copies())
    for name in splits:
        count = sum(case.is_drawn for case in dataset.split(name) if case.id not in left_out)
        if count < labeled:
            raise UsageError(
                f"--labeled {labeled} asks for more labels than split {name!r} has ({count}); ask for fewer, or label "
                "more"
            )


def of_auto(method: str, line: str) -> str:
    """What is wrong with the options, where --method auto chose the method that does not take them."""
    about = f"method {method} "
    if not line.startswith(about):
        return line
    return (
        f"--method auto chose {method}, which {line.removeprefix(about)} (or name a method in place of auto, or leave "
        "that option out)"
    )


def remove_failed(folder: RunFolder, error: ValueError) -> None:
    """Remove the folder of a new run that bad input ended before it had made anything: it cannot be continued."""
    from mper.training.localization import LOCALIZATION_RECORD

    made = (folder.checkpoint, folder.model, folder.path / LOCALIZATION_RECORD)
    begun = any(path.exists() for path in made) or "step" in folder.status()
    if raised_by_us(error) and not begun:
        shutil.rmtree(folder.path, ignore_errors=True)
