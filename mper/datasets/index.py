"""dataset.json: the name of a dataset, its labels, its splits, and the locked hold-out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mper.datasets.events import read_history
from mper.labels import Label, check_labels, label_from_dict
from mper.utils.coded import Coded
from mper.utils.files import nfc, read_json
from mper.utils.text import reason_of

DATASET = "dataset.json"
_FORMAT = "mper-dataset"
_VERSION = 1
_HOLDOUT = "holdout"
SECOND_HOLDOUT = "holdout-2"


@dataclass(frozen=True)
class Index:
    """The content of dataset.json.

    Parameters
    ----------
    name : str
    labels : tuple of Label
    splits : mapping of str to tuple of str
        Case ids by split, in order: the first N are the labelled ones of ``--labeled N``.
    holdout : str or None
        The split that is locked: never changed, never trained on.
    second : tuple of str
        The cases of the second hold-out, by `mper.datasets.events`: cases are added to it, and none leaves it.
    """

    name: str
    labels: tuple[Label, ...]
    splits: Mapping[str, tuple[str, ...]]
    holdout: str | None = None
    second: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """A case of the second hold-out is in no other split, whatever an older program has done."""
        if self.second and self.splits.get(SECOND_HOLDOUT) != self.second:
            held = set(self.second)
            others = {name: tuple(i for i in ids if i not in held) for name, ids in self.splits.items()}
            object.__setattr__(self, "splits", {**others, SECOND_HOLDOUT: self.second})

    @property
    def locked_splits(self) -> tuple[str, ...]:
        """The splits that are never trained on."""
        return (*([self.holdout] if self.holdout else []), *([SECOND_HOLDOUT] if self.second else []))

    @property
    def held_out(self) -> tuple[str, ...]:
        """The cases that are never trained on."""
        return tuple(case_id for name in self.locked_splits for case_id in self.splits.get(name, ()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "name": self.name,
            "labels": [asdict(label) for label in self.labels],
            "splits": {name: list(ids) for name, ids in self.splits.items()},
            "holdout": self.holdout,
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: Path, second: Sequence[str] = ()) -> Index:
        if entry.get("format") != _FORMAT:
            raise ValueError(f"{where} does not describe an MPER dataset; `mper import` makes one from other layouts")
        if entry.get("version") != _VERSION:
            raise ValueError(
                f"{where} is of version {entry.get('version')!r}, this mper reads version {_VERSION}; update mper"
            )
        try:
            labels = check_labels([label_from_dict(label) for label in entry["labels"]])
            splits = {name: tuple(ids) for name, ids in entry["splits"].items()}
            return cls(entry["name"], labels, splits, entry["holdout"], tuple(second))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{where} is damaged ({reason_of(error)}); restore it from a backup") from error

    def extended(self, name: str, ids: Sequence[str]) -> Index:
        """With `ids` in a split, in their order, after its other cases."""
        name = self._called(name)
        before = self.splits.get(name, ())
        twice = sorted(case_id for case_id, count in Counter(ids).items() if count > 1)
        if twice:
            raise ValueError(f"{', '.join(twice)} would be in split {name!r} twice; name each case once")
        moving = set(ids)
        after = (*(i for i in before if i not in moving), *ids)
        if self.holdout is not None and after != before:
            if name in self.locked_splits:
                raise ValueError(
                    Coded(
                        f"split {name!r} is the locked hold-out of this dataset and cannot be changed",
                        "split-locked",
                        split=name,
                    )
                )
            for locked in self.locked_splits:
                there = set(self.splits[locked])
                held = [i for i in ids if i in there]
                if held:
                    raise ValueError(
                        Coded(
                            f"{', '.join(held)} cannot go into split {name!r}: "
                            f"they belong to the locked hold-out {locked!r}",
                            "cases-held-out",
                            cases=", ".join(held),
                        )
                    )
        return replace(self, splits={**self.splits, name: after})

    def without(self, ids: Sequence[str]) -> Index:
        """With `ids` in no split; who calls it has made sure that none of them is held out."""
        gone = set(ids)
        return replace(
            self, splits={name: tuple(i for i in held if i not in gone) for name, held in self.splits.items()}
        )

    def with_label(self, label: Label) -> Index:
        """With one more structure."""
        return replace(self, labels=check_label_names(check_labels([*self.labels, label])))

    def with_second_holdout(self, ids: Sequence[str]) -> Index:
        """With cases moved to the second hold-out."""
        if self.holdout is None:
            raise ValueError(Coded("no hold-out is locked yet; lock the first one before a second", "no-first-holdout"))
        if not self.second and self.splits.get(SECOND_HOLDOUT):
            raise ValueError(f"there is a split {SECOND_HOLDOUT!r} already; the second hold-out needs that name")
        first = set(self.splits[self.holdout])
        if held := [case_id for case_id in ids if case_id in first]:
            raise ValueError(
                Coded(
                    f"{', '.join(held)} belongs to the locked hold-out {self.holdout!r} already",
                    "cases-held-out",
                    cases=", ".join(held),
                )
            )
        return replace(self, second=tuple(dict.fromkeys([*self.second, *ids])))

    def with_holdout(self, cases: str | Sequence[str]) -> Index:
        """With a split locked (a name), or with cases moved to a new split `holdout` that is locked."""
        name = self._called(cases) if isinstance(cases, str) else _HOLDOUT
        if isinstance(cases, str):
            ids = self.ids(cases)
        elif self.holdout is None and name in self.splits:
            raise ValueError(f"there is a split {name!r} already; lock it by its name")
        else:
            ids = tuple(cases)
        if self.holdout is not None:
            if (name, ids) == (self.holdout, self.splits[self.holdout]):
                return self
            raise ValueError(
                Coded(
                    f"the hold-out {self.holdout!r} of this dataset is locked and cannot be changed", "holdout-locked"
                )
            )
        if not ids:
            raise ValueError(Coded("a hold-out needs at least one case", "nothing-to-hold-out"))
        moving = set(ids)
        splits = {other: tuple(i for i in held if i not in moving) for other, held in self.splits.items()}
        return replace(replace(self, splits=splits).extended(name, ids), holdout=name)

    def _called(self, split: str) -> str:
        """The name of a split that is there, however its accents are composed; else the name as given."""
        return next((name for name in self.splits if nfc(name) == nfc(split)), nfc(split))

    def ids(self, split: str) -> tuple[str, ...]:
        """The case ids of a split.

        Raises
        ------
        ValueError
            If there is no such split.
        """
        split = self._called(split)
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise ValueError(f"dataset {self.name!r} has no split {split!r}; its splits: {known}")
        return self.splits[split]


def read_index(path: Path) -> Index:
    """What dataset.json in a folder says.

    Raises
    ------
    FileNotFoundError
        If the folder is missing or no dataset.
    ValueError
        If dataset.json is damaged or of another version.
    """
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file; give the folder of a dataset")
    if not (path / DATASET).is_file():
        what = "is not a dataset (it holds no dataset.json)" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; `mper import SOURCE {path}` makes one")
    return Index.from_dict(read_json(path / DATASET), path / DATASET, read_history(path).second_holdout)


def is_dataset(path: Path) -> bool:
    """Whether a folder's dataset.json is one of ours; nnU-Net and others have files of that name too."""
    try:
        return read_json(path / DATASET).get("format") == _FORMAT
    except (OSError, ValueError):
        return False


def check_label_names(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """Labels of a new dataset, whose names must differ in more than case, as for segments in Slicer."""
    names = [nfc(label.name).casefold() for label in labels]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            Coded(
                f"two structures have the name {twice[0]!r}, except for case; give each a name of its own",
                "structure-twice",
                name=twice[0],
            )
        )
    if taken := sorted({"background", "unlabelled"} & set(names)):
        raise ValueError(
            Coded(
                f"{taken[0]!r} is no structure and part of every dataset; leave it out", "no-structure", name=taken[0]
            )
        )
    return labels
