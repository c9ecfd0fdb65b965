"""Datasets on disk: one folder for the command line, the engine and the trainer.

::

    dataset.json                 name, labels with codes, ordered splits, the locked hold-out
    events.jsonl                 cases that were removed, excluded, renamed, held out later or given a region; lines are
                                 only added
    cases/<id>/image.nrrd        with case.json: where it came from (no patient data) and its grid
    cases/<id>/prediction.json   the last prediction: its confidence, and figures to rank cases by
    cases/<id>/labels/<n>.nrrd   append-only revisions (uint8, 255 unlabelled) with <n>.json: who, when, how; and
                                 <n>.strokes.json, the strokes that it was made with, where there are any
    models/<name>/<version>/     bundles; a version never changes; current and previous name two
    runs/<id>/                   one folder a training run
    recycled/<id>-<time>/        cases that were removed

Several programs may write at the same time. Everything with a name of its own (case, revision, version, run) is
created exclusively, whole or not at all; only dataset.json changes, under a lock and by renaming. Names that begin with
a dot are unfinished work, also of killed programs, and are ignored.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mper.datasets.case import Case
from mper.datasets.events import CaseHistory, append_event, read_history
from mper.datasets.index import DATASET, Index, check_label_names, read_index
from mper.datasets.model_store import ModelStore
from mper.datasets.revisions import Revision, RevisionFolder
from mper.datasets.scan_record import geometry_to_dict, voxels_sha256
from mper.labels import Label, check_labels
from mper.roi import Box
from mper.utils.coded import Coded
from mper.utils.files import (
    check_name,
    existing_name,
    rename_folder,
    temporary_sibling,
    write_json,
)
from mper.utils.locking import locked
from mper.volume import Geometry, Volume

__all__ = ["Case", "Dataset", "Revision", "new_run_folder"]

_LOCK = ".dataset.lock"
_CHECKSUMS: dict[tuple[str, int, int, int], str | None] = {}  # of case.json, which never changes, as of its file


class Dataset(ModelStore):
    """A dataset folder, opened. Splits and labels are those at the time of opening, with the changes made here."""

    def __init__(self, path: Path, index: Index) -> None:
        super().__init__(path)
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
        index = Index(name, check_label_names(check_labels(labels)), {})
        if path.exists() and not path.is_dir():
            raise FileExistsError(
                Coded(
                    f"{path} is a file; choose a new or empty folder for the dataset", "folder-is-file", file=path.name
                )
            )
        path.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(".") and entry.name != DATASET for entry in path.iterdir()):
            raise FileExistsError(
                Coded(
                    f"{path} holds other files; choose a new or empty folder for the dataset",
                    "folder-not-empty",
                    folder=path.name,
                )
            )
        with locked(path / _LOCK):
            if (path / DATASET).exists():
                raise FileExistsError(
                    Coded(
                        f"{path} already is a dataset; open it, or choose another folder",
                        "is-a-dataset-already",
                        folder=path.name,
                    )
                )
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
        return cls(path, read_index(path))

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
    def locked_splits(self) -> tuple[str, ...]:
        """The splits that are never trained on: the hold-out, and the second one."""
        return self._index.locked_splits

    @property
    def held_out(self) -> tuple[str, ...]:
        """The cases that are never trained on, of both hold-outs."""
        return self._index.held_out

    @property
    def history(self) -> CaseHistory:
        """Display names, excluded and removed cases."""
        return read_history(self.path)

    @property
    def regions(self) -> Mapping[str, Box]:
        """The boxes (LPS mm) that drafts and trainings keep to, by case id; other cases are used whole."""
        return self.history.regions

    @property
    def index(self) -> Index:
        return self._index

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of all cases, in a split or not, sorted."""
        folder = self.path / "cases"
        if not folder.is_dir():
            return ()
        with os.scandir(folder) as entries:
            return tuple(sorted(each.name for each in entries if not each.name.startswith(".") and each.is_dir()))

    @property
    def labelled(self) -> tuple[str, ...]:
        """The ids of the cases with a label, sorted; fast, for datasets of thousands."""
        folder = self.path / "cases"
        return tuple(case_id for case_id in self.cases if RevisionFolder(folder / case_id / "labels").any())

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
            raise ValueError(
                Coded(
                    f"dataset {self.name!r} has no case {case_id!r}; it has {len(self.cases)} others",
                    "no-case",
                    case=case_id,
                )
            )
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
        """Add a scan, with all its files or not at all.

        Parameters
        ----------
        case_id : str
            Becomes a folder's name; unique in the dataset.
        image : Volume
            Stored unchanged: type, values, grid.
        source : mapping of str to str
            Where it came from (format, file, sha256). Never patient data.

        Raises
        ------
        FileExistsError
            If there is a case of that id, or was one that was removed.
        ValueError
            If the id cannot be a folder's name.
        """
        from mper.io import write_volume

        target = self._case_folder(case_id)
        if target.name in self.history.removed:  # models that were trained on it name it
            raise FileExistsError(
                Coded(
                    f"a case {case_id!r} was removed from dataset {self.name!r}; choose another id",
                    "case-was-removed",
                    case=case_id,
                )
            )
        target.parent.mkdir(exist_ok=True)
        unfinished = temporary_sibling(target)
        unfinished.mkdir()
        # Where the spacing is unknown the rest of the affine is unknown, too, and NRRD stores none of it.
        grid = image.geometry if image.geometry.spacing_known else Geometry.unknown(image.geometry.shape)
        try:
            write_volume(unfinished / "image.nrrd", image)
            record = {"source": dict(source), "geometry": geometry_to_dict(grid), "voxels_sha256": voxels_sha256(image)}
            write_json(unfinished / "case.json", record)
            if not rename_folder(unfinished, target):
                raise FileExistsError(
                    Coded(
                        f"dataset {self.name!r} has a case {case_id!r} already; choose another id",
                        "case-taken",
                        case=case_id,
                    )
                )
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return Case(target, self.labels)

    def same_scan(self, image: Volume) -> list[str]:
        """The cases whose scan has the same voxels as `image`."""
        wanted = voxels_sha256(image)
        return [case_id for case_id in self.cases if self._checksum(case_id) == wanted]

    def copies_of(self, ids: Sequence[str]) -> list[str]:
        """The other cases whose scans have the same voxels as one of `ids`; a damaged case is none."""
        checksums = {case_id: self._checksum(case_id) for case_id in self.cases}
        wanted = {checksums.get(case_id) for case_id in ids} - {None}
        asked = set(ids)
        return [case_id for case_id, checksum in checksums.items() if checksum in wanted and case_id not in asked]

    def same_scans(self) -> list[list[str]]:
        """Groups of two and more cases whose scans have the same voxels."""
        groups: dict[str, list[str]] = {}
        for case_id in self.cases:
            if checksum := self._checksum(case_id):
                groups.setdefault(checksum, []).append(case_id)
        return [group for group in groups.values() if len(group) > 1]

    def held_out_copies(self) -> list[str]:
        """The cases that show the scan of a held-out one and are not held out: older versions did not lock them."""
        return self.copies_of(self._index.held_out) if self.locked_splits else []

    def copies_to_lock(self, ids: Sequence[str]) -> list[str]:
        """The other cases of the same scans, which are held out with `ids`; excluded ones stay excluded.

        Raises
        ------
        ValueError
            If one of `ids` is excluded.
        """
        left_out = self.history.excluded
        if excluded := [case_id for case_id in ids if case_id in left_out]:
            names = ", ".join(excluded)
            raise ValueError(Coded(f"{names} is excluded; include it first", "is-excluded", cases=names))
        return [case_id for case_id in self.copies_of(ids) if case_id not in left_out]

    def _checksum(self, case_id: str) -> str | None:
        """The checksum of a case's voxels, of which every new case is compared with all: read once a process."""
        folder = self._case_folder(case_id)
        try:
            found = (folder / "case.json").stat()
            key = (str(folder), found.st_ino, found.st_mtime_ns, found.st_size)
            if key not in _CHECKSUMS:
                _CHECKSUMS[key] = Case(folder, self.labels).voxels_sha256
            return _CHECKSUMS[key]
        except (OSError, ValueError, AttributeError):
            return None

    def add_to_split(self, name: str, ids: Sequence[str]) -> None:
        """Put cases into a split, in their order, after its other cases (those already in it move).

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

        The cases leave every other split; from now on they are never trained on. Other cases of the same scans are
        locked with them: trained on, they would make them no test. Returns the split's name.

        Raises
        ------
        ValueError
            If another hold-out is locked already, split or case do not exist, or one is excluded.
        """
        if isinstance(cases, str):
            asked: str | list[str] = cases
            ids = list(self._index.splits.get(cases, ()))
        else:
            asked = ids = [self.case(case_id).id for case_id in cases]
        copies = self.copies_to_lock(ids)

        def lock(index: Index) -> Index:
            if index.holdout is not None:
                held = set(index.splits[index.holdout])
                return index if ids and set(ids) <= held <= {*ids, *copies} else index.with_holdout(asked)
            if isinstance(asked, str):
                return (index.extended(asked, copies) if copies else index).with_holdout(asked)
            return index.with_holdout([*asked, *copies])

        self._change(lock)
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

    def change(
        self,
        change: Callable[[Index], Index],
        event: str,
        by: str,
        move: Callable[[], None] = lambda: None,
        **values: object,
    ) -> None:
        """Change dataset.json as it is now, and add an event; for `mper.datasets.maintenance`.

        `move` is called between; if it raises, nothing has changed.
        """
        with locked(self.path / _LOCK):
            before = read_index(self.path)
            index = change(before)
            write_json(self.path / DATASET, index.to_dict())  # first: no split names a case that has been moved
            try:
                move()
            except OSError:
                write_json(self.path / DATASET, before.to_dict())
                raise
            append_event(self.path, event, by, **values)
        self._index = index

    def _change(self, change: Callable[[Index], Index]) -> None:
        """Change dataset.json as it is now, with the changes of other programs since it was opened."""
        with locked(self.path / _LOCK):
            index = change(read_index(self.path))
            write_json(self.path / DATASET, index.to_dict())
        self._index = index


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


def folders_of_work(path: Path) -> Iterator[Path]:
    """The folders of a dataset in which something may lie half-made, see `mper.utils.cleanup`."""
    yield path
    for inside in ("cases", "cases/*", "cases/*/labels", "models/*", "runs", "runs/*"):
        yield from path.glob(inside)
