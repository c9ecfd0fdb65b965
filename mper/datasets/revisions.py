"""The revisions of a case's label: a folder of <n>.nrrd with <n>.json, to which files are only added."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mper.utils.coded import Coded
from mper.utils.files import read_json, write_json
from mper.utils.text import shorten

_REVISION = re.compile(r"(\d+)\.json")
DRAFTS = "labelled by a model alone; figures there flatter that model, so look at these labels and correct them first"


@dataclass(frozen=True)
class Revision:
    """The record of a label: who made it, when, and how.

    Parameters
    ----------
    number : int
        1 for a case's first label; a number may be missing (a program that was killed).
    author : str
        Who made or accepted the label.
    when : str
        UTC, ISO 8601.
    how : str
        'imported', 'hand', 'strokes', 'model'.
    edited : bool
        Whether the label of a model or an import was edited manually.
    model : (str, str) or None
        Name and version of the model it came from.
    seconds : float or None
        Time spent on it.
    parent : int or None
        Number of the revision it was made from.
    partial : bool
        Whether it has unlabelled voxels (255).
    strokes : bool
        Whether the strokes that it was made with are saved with it.
    """

    number: int
    author: str
    when: str
    how: str
    edited: bool = False
    model: tuple[str, str] | None = None
    seconds: float | None = None
    parent: int | None = None
    partial: bool = False
    strokes: bool = False

    @property
    def is_draft(self) -> bool:
        """Whether it is an unedited prediction."""
        return self.how == "model" and not self.edited


def about_drafts(case_ids: Sequence[str]) -> str:
    """That the labels of cases to measure on are a model's own."""
    names = ", ".join(case_ids)
    return Coded(f"{names}: {DRAFTS}", "held-out-drafts", cases=names)


def about_learned_drafts(case_ids: Sequence[str]) -> str:
    """That the labels of cases to train on are a model's own."""
    names = shorten(case_ids)
    line = f"{names}: labelled by a model alone, and learned from as if a person had drawn it; "
    return Coded(f"{line}look at these labels and correct them first", "drafts-learned", cases=names)


class RevisionFolder:
    """The folder ``labels`` of a case.

    Parameters
    ----------
    path : Path
        It may be missing: there is no revision then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def numbers(self) -> list[int]:
        """The revisions that are whole, oldest first."""
        return sorted(number for number, path in self._records() if path.stat().st_size > 0)

    def any(self) -> bool:
        """Whether there is a revision that is whole."""
        try:
            with os.scandir(self.path) as entries:
                return any(_REVISION.fullmatch(each.name) and each.stat().st_size > 0 for each in entries)
        except FileNotFoundError:
            return False

    def read(self, number: int) -> Revision:
        """The record of a revision.

        Raises
        ------
        ValueError
            If its record is damaged.
        """
        record = read_json(self.path / f"{number}.json")
        model = record["model"]
        record["model"] = (model["name"], model["version"]) if model else None
        return Revision(number, **record, strokes=self.strokes_file(number).exists())

    def newest(self) -> Revision | None:
        """The newest revision; None where there is none."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def voxels_file(self, number: int) -> Path:
        """The mask of a revision."""
        return self.path / f"{number}.nrrd"

    def strokes_file(self, number: int) -> Path:
        """The strokes that a revision was made with, where there are any."""
        return self.path / f"{number}.strokes.json"

    @contextlib.contextmanager
    def new(self) -> Iterator[int]:
        """Claim the next number for a with block that writes the revision's files; if it fails, nothing stays.

        The number is claimed by creating <n>.json empty: who finds it there takes the next one. A program that is
        killed after this leaves a gap in the numbers and disturbs nobody.
        """
        self.path.mkdir(exist_ok=True)
        number = max((number for number, _ in self._records()), default=0) + 1
        while True:
            claim = self.path / f"{number}.json"
            try:
                claim.open("x").close()
                break
            except FileExistsError:
                number += 1
        try:
            yield number
        except BaseException:
            for path in (self.voxels_file(number), self.strokes_file(number), claim):
                path.unlink(missing_ok=True)
            raise

    def publish(self, revision: Revision) -> None:
        """Write the record of a claimed number, after its files: from here on the revision is seen."""
        record = {key: value for key, value in asdict(revision).items() if key not in ("number", "strokes")}
        if revision.model is not None:
            record["model"] = {"name": revision.model[0], "version": revision.model[1]}
        write_json(self.path / f"{revision.number}.json", record)

    def _records(self) -> list[tuple[int, Path]]:
        """Number and path of the files <n>.json; of no other, such as <n>.strokes.json."""
        files = self.path.glob("[0-9]*.json")
        return [(int(match[1]), path) for path in files if (match := _REVISION.fullmatch(path.name))]
