"""What people decided on the masks of a cohort: ``review.jsonl``, a line a decision; lines are only added.

::

    review.jsonl                       {"mask", "decision", "author", "when", ...} a line; the newest of a mask counts
    corrections/<mask>-<n>.seg.nrrd    masks that a person corrected; the mask of the model stays

A decision holds for the mask that it was made on: where a scan is segmented again, with another result, it is open.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from mper.cohort.manifest import now
from mper.labels import Segmentation

REVIEW, CORRECTIONS = "review.jsonl", "corrections"
ACCEPTED, CORRECTED, REJECTED, OPEN = "accepted", "corrected", "rejected", "open"
DECISIONS = (ACCEPTED, CORRECTED, REJECTED, OPEN)
_KEPT = "kept"
_ENDING = ".seg.nrrd"


@dataclass(frozen=True)
class Kept:
    """Where a mask was kept as a label.

    Parameters
    ----------
    dataset : str
        The folder of the dataset.
    case : str
    revision : int
    sha256 : str
        Of the file that was kept.
    """

    dataset: str
    case: str
    revision: int
    sha256: str


@dataclass(frozen=True)
class MaskReview:
    """What is decided on a mask.

    Parameters
    ----------
    decision : str
        accepted, corrected, rejected or open.
    author, when : str
    sha256 : str
        Of the mask of the model that it was made on.
    file : str or None
        The corrected mask, relative to the folder of the results.
    volumes_ml : mapping or None
        Of the corrected mask, by structure.
    seconds : float or None
        Time that a person spent.
    """

    decision: str = OPEN
    author: str = ""
    when: str = ""
    sha256: str = ""
    file: str | None = None
    volumes_ml: Mapping[str, float | None] | None = None
    seconds: float | None = None


@dataclass
class ReviewLog:
    """The decisions in a folder of results.

    Parameters
    ----------
    folder : Path
    """

    folder: Path
    _newest: dict[str, MaskReview] = field(default_factory=dict)
    _kept: dict[str, list[Kept]] = field(default_factory=dict)
    _position: int = 0

    def refresh(self) -> bool:
        """Read what was added; whether there was something."""
        try:
            with (self.folder / REVIEW).open("rb") as stream:
                stream.seek(self._position)
                text = stream.read()
        except FileNotFoundError:
            return False
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # a line that was torn
                self._take(json.loads(line))
        return bool(whole)

    def of(self, mask: str, sha256: str) -> MaskReview:
        """The decision on a mask of that checksum."""
        found = self._newest.get(mask)
        return found if found is not None and found.sha256 == sha256 else MaskReview()

    def kept(self, mask: str, dataset: str | None = None) -> Kept | None:
        """Where a mask was kept as a label last, in any dataset or in that one."""
        found = [kept for kept in self._kept.get(mask, ()) if dataset in (None, kept.dataset)]
        return found[-1] if found else None

    def decide(self, mask: str, sha256: str, decision: str, author: str, seconds: float | None = None) -> None:
        """Add a decision; it is on the disk when this returns.

        Raises
        ------
        ValueError
            If there is no such decision.
        OSError
            If it cannot be written.
        """
        if decision not in DECISIONS or decision == CORRECTED:
            raise ValueError(f"unknown decision {decision!r}; a mask is {ACCEPTED}, {REJECTED} or {OPEN}")
        self._add({"mask": mask, "decision": decision, "author": author, "sha256": sha256, "seconds": seconds})

    def correct(
        self, mask: str, sha256: str, corrected: Segmentation, author: str, seconds: float | None = None
    ) -> Path:
        """Write a corrected mask next to the others, and add the decision.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        path = self._write(mask, corrected)
        entry = {"mask": mask, "decision": CORRECTED, "author": author, "sha256": sha256, "seconds": seconds}
        self._add({**entry, "file": path.relative_to(self.folder).as_posix(), "volumes_ml": corrected.volumes_ml()})
        return path

    def keep(self, mask: str, kept: Kept, author: str) -> None:
        """Note that a mask was kept as a label."""
        self._add({"mask": mask, "decision": _KEPT, "author": author, **vars(kept)})

    def _write(self, mask: str, corrected: Segmentation) -> Path:
        from mper.io import write_segmentation

        stem = mask.removesuffix(_ENDING)
        first = self.folder / CORRECTIONS / f"{stem}-1{_ENDING}"
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = first.with_name(first.name.removesuffix(f"1{_ENDING}") + f"{number}{_ENDING}")
            with contextlib.suppress(FileExistsError):
                path.open("xb").close()  # no other program takes this number
                break
        try:
            write_segmentation(path, corrected)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _add(self, entry: dict[str, Any]) -> None:
        line = json.dumps({**entry, "when": now()}, ensure_ascii=False, allow_nan=False) + "\n"
        path = self.folder / REVIEW
        torn = False
        with contextlib.suppress(OSError), path.open("rb") as stream:  # by a program that was killed
            torn = stream.seek(0, os.SEEK_END) > 0 and stream.seek(-1, os.SEEK_END) >= 0 and stream.read(1) != b"\n"
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(f"\n{line}" if torn else line)
            stream.flush()
            os.fsync(stream.fileno())

    def _take(self, entry: Mapping[str, Any]) -> None:
        mask, decision = str(entry["mask"]), entry["decision"]
        if decision == _KEPT:
            kept = Kept(str(entry["dataset"]), str(entry["case"]), int(entry["revision"]), str(entry["sha256"]))
            self._kept.setdefault(mask, []).append(kept)
        elif decision in DECISIONS:
            self._newest[mask] = MaskReview(
                decision,
                str(entry["author"]),
                str(entry["when"]),
                str(entry["sha256"]),
                None if entry.get("file") is None else str(entry["file"]),
                entry.get("volumes_ml"),
                entry.get("seconds"),
            )


def file_of(folder: Path, mask: str, review: MaskReview) -> Path:
    """The file of a mask: the corrected one where there is one.

    Raises
    ------
    ValueError
        If it would lie outside of the folder of the results.
    """
    path = folder / (review.file if review.decision == CORRECTED and review.file else mask)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{mask} lies outside of {folder}; the manifest was changed by hand")
    return path
