"""The dataset on disk: one folder for the command line, the engine and the trainer.

::

    dataset.json                 name, labels with codes, ordered splits, the locked hold-out
    cases/<id>/image.nrrd        with case.json: where it came from (no patient data) and its grid
    cases/<id>/prediction.json   what a model last said of it: its confidence, and figures to rank cases by
    cases/<id>/labels/<n>.nrrd   append-only revisions (uint8, 255 unlabelled) with <n>.json: who, when, how; and
                                 <n>.strokes.json, the strokes that it was made with, where there are any
    models/<name>/<version>/     bundles; a version never changes; current and previous name two
    runs/<id>/                   one folder a training run

Several programs may write at once. What carries a name of its own (case, revision, version, run) is created
exclusively and appears whole or not at all; only dataset.json changes, under a lock and by renaming. Names that begin
with a dot are work in progress, or what a killed program left of it, and never looked at.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mper.datasets.case import Case, Revision, geometry_to_dict, voxels_sha256
from mper.labels import Label, check_labels, label_from_dict
from mper.models.card import CARD
from mper.utils.files import (
    check_name,
    existing_name,
    nfc,
    read_json,
    rename_folder,
    temporary_sibling,
    write_json,
    write_text,
)
from mper.utils.locking import locked
from mper.volume import Geometry, Volume

__all__ = ["Case", "Dataset", "Index", "Revision", "new_run_folder"]

DATASET = "dataset.json"
_FORMAT = "mper-dataset"
_VERSION = 1
_LOCK = ".dataset.lock"
_HOLDOUT = "holdout"


@dataclass(frozen=True)
class Index:
    """What dataset.json says.

    Parameters
    ----------
    name : str
    labels : tuple of Label
    splits : mapping of str to tuple of str
        Case ids by split, in order: the first N are the labelled ones of ``--labeled N``.
    holdout : str or None
        The split that is locked: never changed, never trained on.
    """

    name: str
    labels: tuple[Label, ...]
    splits: Mapping[str, tuple[str, ...]]
    holdout: str | None = None

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
    def from_dict(cls, entry: Mapping[str, Any], where: Path) -> Index:
        if entry.get("format") != _FORMAT:
            raise ValueError(f"{where} does not describe an MPER dataset; `mper import` makes one from other layouts")
        if entry.get("version") != _VERSION:
            raise ValueError(
                f"{where} is of version {entry.get('version')!r}, this mper reads version {_VERSION}; update mper"
            )
        try:
            labels = check_labels([label_from_dict(label) for label in entry["labels"]])
            splits = {name: tuple(ids) for name, ids in entry["splits"].items()}
            return cls(entry["name"], labels, splits, entry["holdout"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{where} is damaged ({type(error).__name__}: {error}); restore it from a backup"
            ) from error

    def extended(self, name: str, ids: Sequence[str]) -> Index:
        """With `ids` in a split, in their order, after what else it holds."""
        name = self._called(name)
        before = self.splits.get(name, ())
        twice = sorted(case_id for case_id, count in Counter(ids).items() if count > 1)
        if twice:
            raise ValueError(f"{', '.join(twice)} would be in split {name!r} twice; name each case once")
        moving = set(ids)
        after = (*(i for i in before if i not in moving), *ids)
        if self.holdout is not None and after != before:
            if name == self.holdout:
                raise ValueError(f"split {name!r} is the locked hold-out of this dataset and cannot be changed")
            locked = set(self.splits[self.holdout])
            held = [i for i in ids if i in locked]
            if held:
                raise ValueError(
                    f"{', '.join(held)} cannot go into split {name!r}: "
                    f"they belong to the locked hold-out {self.holdout!r}"
                )
        return replace(self, splits={**self.splits, name: after})

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
            raise ValueError(f"the hold-out {self.holdout!r} of this dataset is locked and cannot be changed")
        if not ids:
            raise ValueError("a hold-out needs at least one case")
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


class Dataset:
    """A dataset folder, opened. Splits and labels are those of the moment of opening, and of one's own changes."""

    def __init__(self, path: Path, index: Index) -> None:
        self.path = path
        self._index = index

    @classmethod
    def create(cls, path: Path, name: str, labels: Sequence[Label]) -> Dataset:
        """Make an empty dataset in a folder that is missing or empty.

        Raises
        ------
        FileExistsError
            If the folder holds a dataset or anything else.
        ValueError
            If there is no label, two share a value or a name (in any case), or one is called as what is no structure.
        """
        index = Index(name, _check_names(check_labels(labels)), {})
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file; choose a new or empty folder for the dataset")
        path.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(".") and entry.name != DATASET for entry in path.iterdir()):
            raise FileExistsError(f"{path} holds other files; choose a new or empty folder for the dataset")
        with locked(path / _LOCK):
            if (path / DATASET).exists():
                raise FileExistsError(f"{path} already is a dataset; open it, or choose another folder")
            write_json(path / DATASET, index.to_dict())
        return cls(path, index)

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a dataset.

        Raises
        ------
        FileNotFoundError
            If the folder is missing or no dataset.
        ValueError
            If dataset.json is damaged or of another version.
        """
        return cls(path, _read_index(path))

    @property
    def name(self) -> str:
        return self._index.name

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._index.labels

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Case ids by split, in order."""
        return dict(self._index.splits)

    @property
    def holdout(self) -> str | None:
        """Name of the locked split, None where nothing is locked."""
        return self._index.holdout

    @property
    def index(self) -> Index:
        return self._index

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of all cases, in a split or not, sorted."""
        folder = self.path / "cases"
        if not folder.is_dir():
            return ()
        return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))

    def __contains__(self, case_id: str) -> bool:
        return self._case_folder(case_id).is_dir()

    def _case_folder(self, case_id: str) -> Path:
        folder = self.path / "cases"
        return folder / existing_name(folder, check_name(case_id, "case"))

    def case(self, case_id: str) -> Case:
        """A case by its id.

        Raises
        ------
        ValueError
            If there is none.
        """
        if case_id not in self:
            raise ValueError(f"dataset {self.name!r} has no case {case_id!r}; it has {len(self.cases)} others")
        return Case(self._case_folder(case_id), self.labels)

    def split(self, name: str) -> tuple[Case, ...]:
        """The cases of a split, in its order.

        Raises
        ------
        ValueError
            If there is no such split.
        """
        return tuple(self.case(i) for i in self._index.ids(name))

    def add_case(self, case_id: str, image: Volume, source: Mapping[str, str]) -> Case:
        """Add a scan; it appears with all its files or not at all.

        Parameters
        ----------
        case_id : str
            Becomes a folder's name; unique in the dataset.
        image : Volume
            Kept as it is: type, values, grid.
        source : mapping of str to str
            Where it came from (format, file, sha256). Never patient data.

        Raises
        ------
        FileExistsError
            If there is a case of that id.
        ValueError
            If the id cannot be a folder's name.
        """
        from mper.io import write_volume

        target = self._case_folder(case_id)
        target.parent.mkdir(exist_ok=True)
        unfinished = temporary_sibling(target)
        unfinished.mkdir()
        # Where the spacing is unknown nothing else of the affine is known, and NRRD tells none of it.
        grid = image.geometry if image.geometry.spacing_known else Geometry.unknown(image.geometry.shape)
        try:
            write_volume(unfinished / "image.nrrd", image)
            record = {"source": dict(source), "geometry": geometry_to_dict(grid), "voxels_sha256": voxels_sha256(image)}
            write_json(unfinished / "case.json", record)
            if not rename_folder(unfinished, target):
                raise FileExistsError(f"dataset {self.name!r} has a case {case_id!r} already; choose another id")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return Case(target, self.labels)

    def same_scan(self, image: Volume) -> list[str]:
        """The cases whose scan has the very voxels of `image`."""
        wanted = voxels_sha256(image)
        return [case_id for case_id in self.cases if self.case(case_id).voxels_sha256 == wanted]

    def add_to_split(self, name: str, ids: Sequence[str]) -> None:
        """Put cases into a split, in their order, after what else it holds (those already there move).

        Raises
        ------
        ValueError
            If a case does not exist, the split is the locked hold-out, or a case belongs to it.
        """
        if not name.strip():
            raise ValueError("a split needs a name")
        cases = [self.case(case_id).id for case_id in ids]
        self._change(lambda index: index.extended(name, cases))

    def lock_holdout(self, cases: str | Sequence[str]) -> str:
        """Lock a split (its name), or cases (their ids: they become the split `holdout`), for good.

        The cases leave every other split; from now on they are never trained on. Returns the split's name.

        Raises
        ------
        ValueError
            If another hold-out is locked already, or split or case do not exist.
        """
        if not isinstance(cases, str):
            cases = [self.case(case_id).id for case_id in cases]
        self._change(lambda index: index.with_holdout(cases))
        assert self.holdout is not None
        return self.holdout

    def new_run(self, run_id: str | None = None) -> Path:
        """Make the folder of a new training run, runs/<id>; the default id is the time.

        Raises
        ------
        FileExistsError
            If there is a run of that id.
        """
        return new_run_folder(self.path, run_id)

    def publish_model(self, name: str, bundle: Path, *, make_current: bool = False) -> Path:
        """Copy a bundle's folder to the next version of a model, and write name and version into the copy's card.

        The first version becomes the current one.

        Raises
        ------
        FileNotFoundError
            If the bundle is not a folder.
        """
        if not bundle.is_dir():
            raise FileNotFoundError(f"no model folder at {bundle}")
        folder = self._model_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = temporary_sibling(folder / "version")
        try:
            shutil.copytree(bundle, unfinished)
            version = max(_versions(folder), default=0) + 1
            _name_card(unfinished, name, version)
            while not rename_folder(unfinished, folder / str(version)):
                version += 1
                _name_card(unfinished, name, version)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if make_current or version == 1:
            self.use_model(name, version)
        return folder / str(version)

    def use_model(self, name: str, version: int) -> None:
        """Make a version the current one of its model; the one before is remembered."""
        folder = self.model(name, version).parent
        with contextlib.suppress(ValueError):  # a damaged one is replaced
            if (folder / "current").exists() and (before := self.current_version(name)) != version:
                write_text(folder / "previous", f"{before}\n")
        write_text(folder / "current", f"{version}\n")

    def model(self, name: str, version: int | None = None) -> Path:
        """The folder of a version of a model, the current one by default.

        Raises
        ------
        ValueError
            If there is no such model or version.
        """
        versions = self.model_versions(name)
        if version is None:
            version = self.current_version(name)
        if version not in versions:
            known = ", ".join(str(v) for v in versions)
            raise ValueError(f"model {name!r} of dataset {self.name!r} has no version {version}; it has {known}")
        return self._model_folder(name) / str(version)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models, sorted."""
        folder = self.path / "models"
        if not folder.is_dir():
            return ()
        return tuple(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and _versions(p)))

    def _model_folder(self, name: str) -> Path:
        folder = self.path / "models"
        return folder / existing_name(folder, check_name(name, "model"))

    def model_versions(self, name: str) -> list[int]:
        """The versions of a model, oldest first.

        Raises
        ------
        ValueError
            If there is no such model.
        """
        versions = _versions(self._model_folder(name))
        if not versions:
            known = ", ".join(self.models) or "none"
            raise ValueError(f"dataset {self.name!r} has no model {name!r}; its models: {known}")
        return versions

    def current_version(self, name: str) -> int:
        """The version of a model that is in use."""
        path = self._model_folder(name) / "current"
        try:
            return int(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # killed between the first version and this file
            return self.model_versions(name)[0]
        except ValueError as error:
            raise ValueError(f"{path} does not hold the number of a version; write one into it") from error

    def previous_version(self, name: str) -> int | None:
        """The version that was in use before the current one; None where there was none."""
        try:
            version = int((self._model_folder(name) / "previous").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return version if version in self.model_versions(name) else None

    def _change(self, change: Callable[[Index], Index]) -> None:
        """Change dataset.json as it is now, whoever changed it since it was opened."""
        with locked(self.path / _LOCK):
            index = change(_read_index(self.path))
            write_json(self.path / DATASET, index.to_dict())
        self._index = index


def _check_names(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """Labels of a new dataset: people, and Slicer's segments, tell them apart by name alone."""
    names = [nfc(label.name).casefold() for label in labels]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two structures are called {twice[0]!r}, but for capitals; give each a name of its own")
    if taken := sorted({"background", "unlabelled"} & set(names)):
        raise ValueError(f"{taken[0]!r} is no structure: every dataset has it already; leave it out")
    return labels


def new_run_folder(root: Path, run_id: str | None = None) -> Path:
    """Make root/runs/<id> exclusively; the default id is the time, to the second."""
    runs = root / "runs"
    runs.mkdir(exist_ok=True)
    if run_id is not None:
        try:
            (runs / check_name(run_id, "run")).mkdir()
        except FileExistsError as error:
            raise FileExistsError(f"there is a run {run_id!r} in {runs} already; choose another name") from error
        return runs / run_id
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    for n in range(1, 1000):
        path = runs / (now if n == 1 else f"{now}-{n}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise FileExistsError(f"a thousand runs began in this second in {runs}")


def is_dataset(path: Path) -> bool:
    """Whether a folder's dataset.json is one of ours; nnU-Net and others have files of that name too."""
    try:
        return read_json(path / DATASET).get("format") == _FORMAT
    except (OSError, ValueError):
        return False


def folders_of_work(path: Path) -> Iterator[Path]:
    """The folders of a dataset in which something may lie half-made, see `mper.utils.cleanup`."""
    yield path
    for inside in ("cases", "cases/*", "cases/*/labels", "models/*", "runs", "runs/*"):
        yield from path.glob(inside)


def _read_index(path: Path) -> Index:
    if not (path / DATASET).is_file():
        what = "is not a dataset (it holds no dataset.json)" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; `mper import SOURCE {path}` makes one")
    return Index.from_dict(read_json(path / DATASET), path / DATASET)


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal())


def _name_card(bundle: Path, name: str, version: int) -> None:
    if (bundle / CARD).is_file():
        write_json(bundle / CARD, {**read_json(bundle / CARD), "name": name, "version": str(version)})
