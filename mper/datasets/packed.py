"""Packed datasets: a few h5 files, for training on a machine that has little more than torch, numpy and h5py.

A packed dataset is a folder of ``shard-001-of-003.h5``, ...; each is lossless, and in each::

    index                 JSON: name, labels, splits, hold-out, regions, and `pack`, the same in all shards
    cases/<id>/image      (k, j, i), as it was
    cases/<id>/label      the newest revision (uint8, 255 unlabelled); absent where there is none
    cases/<id>            attributes: geometry (JSON), voxels_sha256, revision (number of the label)

It is read-only and offers what reading a `Dataset` offers: `labels`, `splits`, `split`, `case`, and of a case `image`
and `label`.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.datasets.events import box_of
from mper.datasets.index import DATASET, SECOND_HOLDOUT, Index
from mper.datasets.scan_record import geometry_from_dict, geometry_to_dict, voxels_sha256
from mper.labels import UNLABELLED, Label
from mper.progress import Progress, Report, ignore_progress
from mper.roi import Box
from mper.utils.cleanup import remove_unfinished
from mper.utils.files import rename_folder, replace_file, temporary_sibling
from mper.utils.text import first_line
from mper.volume import Geometry, Volume

if TYPE_CHECKING:
    import h5py

_NAME = re.compile(r"shard-(\d+)-of-(\d+)\.h5")
_MB = 1_000_000
_OVERHEAD = 16_384  # bytes that a case, or a file, needs besides its voxels; measured: about 6000


def pack(
    dataset: Dataset, out: Path, max_mb: int, splits: Sequence[str] | None = None, report: Report = ignore_progress
) -> list[Path]:
    """Write a dataset as shards.

    Parameters
    ----------
    dataset : Dataset
    out : Path
        A folder that is missing or empty.
    max_mb : int
        No shard is larger, in MB (10^6 bytes).
    splits : sequence of str or None
        Which to pack; None: every case, in a split or not.

    Returns
    -------
    list of Path
        The shards.

    Raises
    ------
    FileExistsError
        If `out` holds something.
    ValueError
        If there is no case, no such split, or one case alone is larger than `max_mb`.
    OSError
        If a shard cannot be written; nothing is left behind.
    """
    ids = dataset.cases
    index, copies = dataset.index, set(dataset.held_out_copies())
    if copies:
        kept = {name: tuple(i for i in each if i not in copies) for name, each in index.splits.items()}
        index = replace(index, splits=kept)
    if splits is not None:
        ids = tuple(dict.fromkeys(case_id for name in splits for case_id in index.ids(name)))
        kept = {name: index.ids(name) for name in splits}
        second = index.second if SECOND_HOLDOUT in kept else ()
        index = replace(index, splits=kept, holdout=index.holdout if index.holdout in kept else None, second=second)
    if not ids:
        raise ValueError(f"dataset {dataset.name!r} has no case to pack; `mper import` brings some in")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty; choose a new folder for the shards")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished([out.parent])
    unfinished = temporary_sibling(out)
    unfinished.mkdir()
    try:
        about = {**index.to_dict(), "second_holdout": list(index.second), "pack": uuid.uuid4().hex}
        about["regions"] = {case_id: box for case_id, box in dataset.regions.items() if case_id in ids}
        count = _write_shards([dataset.case(i) for i in ids], about, unfinished, max_mb * _MB, report)
        if out.exists():
            out.rmdir()
        if not rename_folder(unfinished, out):
            raise FileExistsError(f"{out} was made by another program meanwhile; choose another folder")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [out / _shard_name(n, count) for n in range(1, count + 1)]


def _write_shards(cases: Sequence[Case], about: Mapping[str, object], folder: Path, limit: int, report: Report) -> int:
    """Fill one shard after the other in the order of `cases`, each with `about`; returns how many there are."""
    import h5py

    entry = json.dumps(about, ensure_ascii=False).encode("utf-8")
    empty = len(entry) + _OVERHEAD
    parts: list[Path] = []
    used = limit  # no shard is open yet
    for n, case in enumerate(cases):
        report(Progress(f"packing {case.id} ({n + 1} of {len(cases)})", n / len(cases)))
        # Packed in memory first: its size is known only then. HDF5 copies the packed bytes as they are.
        with h5py.File("case", "w", driver="core", backing_store=False, libver="v110") as memory:
            size = _write_case(memory.create_group("case"), case) + _OVERHEAD
            if empty + size > limit:
                raise ValueError(
                    f"case {case.id} alone takes {(empty + size) / _MB:.1f} MB packed, more than a shard may have "
                    f"({limit / _MB:g} MB); allow larger ones with --max-mb"
                )
            if used + size > limit:
                parts.append(folder / f"{len(parts)}.part")
                used = empty
                with h5py.File(parts[-1], "w", libver="v110") as file:
                    file["index"] = np.frombuffer(entry, np.uint8)
                    file.create_group("cases")
            with h5py.File(parts[-1], "r+", libver="v110") as file:
                memory.copy("case", file["cases"], name=case.id)
            used += size
    for n, part in enumerate(parts, start=1):
        replace_file(part, folder / _shard_name(n, len(parts)))
    report(Progress(f"packed {len(cases)} cases", 1.0, 0.0))
    return len(parts)


def _write_case(group: h5py.Group, case: Case) -> int:
    """Write image, newest label and grid; returns the packed size of the voxels in bytes."""
    image = case.image()
    revisions = case.revisions()
    arrays: dict[str, npt.NDArray[np.generic]] = {"image": image.array}
    if revisions:
        label = case.label(revisions[-1].number)
        assert label is not None
        arrays["label"] = label.array
        group.attrs["revision"] = revisions[-1].number
        group.attrs["draft"] = revisions[-1].is_draft
    group.attrs["geometry"] = json.dumps(geometry_to_dict(image.geometry))
    group.attrs["voxels_sha256"] = case.voxels_sha256 or voxels_sha256(image)
    for name, array in arrays.items():
        # Whole volumes are read, so one chunk. No byte shuffle: it nearly doubles floats that were rescaled from
        # integers, as the public sets are. The checksum finds damage.
        group.create_dataset(
            name, data=array, chunks=array.shape, compression="gzip", compression_opts=4, fletcher32=True
        )
    return sum(int(group[name].id.get_storage_size()) for name in arrays)


def _shard_name(n: int, count: int) -> str:
    return f"shard-{n:03d}-of-{count:03d}.h5"


@dataclass(frozen=True, eq=False)
class PackedCase:
    """One scan of a packed dataset; reads like a `Case`."""

    id: str
    shard: Path

    @property
    def geometry(self) -> Geometry:
        """The image's grid, without reading its voxels."""
        with self._group() as group:
            return geometry_from_dict(json.loads(group.attrs["geometry"]))

    @property
    def voxels_sha256(self) -> str | None:
        """Checksum of the voxels (`mper.datasets.scan_record.voxels_sha256`); None for what old versions packed."""
        with self._group() as group:
            stored = group.attrs.get("voxels_sha256")
            return None if stored is None else str(stored)

    @property
    def is_labelled(self) -> bool:
        with self._group() as group:
            return "label" in group

    @property
    def is_drawn(self) -> bool:
        """Whether the label has a labelled voxel."""
        label = self.label()
        return label is not None and bool((label.array != UNLABELLED).any())

    @property
    def is_draft(self) -> bool:
        """Whether the label is an unedited prediction; False for what old versions packed, which do not tell."""
        with self._group() as group:
            return bool(group.attrs.get("draft", False))

    @property
    def is_painted(self) -> bool:
        """Whether the label holds the voxels of strokes alone; a packed case does not tell."""
        return False

    def image(self) -> Volume:
        with self._group() as group:
            return self._volume(group, "image")

    def label(self, revision: int | None = None) -> Volume | None:
        """The label (uint8, 255 unlabelled); None where there is none.

        Raises
        ------
        ValueError
            If another revision than the one that was packed is asked for.
        """
        with self._group() as group:
            packed = int(group.attrs["revision"]) if "label" in group else None
            if revision not in (None, packed):
                there = "no label" if packed is None else f"label revision {packed} only"
                raise ValueError(
                    f"case {self.id} was packed with {there}; revision {revision} is in the dataset it came from"
                )
            return None if packed is None else self._volume(group, "label")

    def _volume(self, group: h5py.Group, name: str) -> Volume:
        return Volume(group[name][()], geometry_from_dict(json.loads(group.attrs["geometry"])))

    @contextmanager
    def _group(self) -> Iterator[h5py.Group]:
        """The case's group, the file open no longer than it is needed: loaders in other processes read at once."""
        with _opened(self.shard) as file:
            yield file["cases"][self.id]


class PackedDataset:
    """A folder of shards, opened; read-only."""

    def __init__(
        self, path: Path, index: Index, shards: dict[str, Path], regions: Mapping[str, Box] | None = None
    ) -> None:
        self.path = path
        self.index = index
        self.regions: Mapping[str, Box] = dict(regions or {})
        self._shards = shards

    @classmethod
    def open(cls, path: Path) -> PackedDataset:
        """Open a folder that `pack` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no shard in it, or one is missing.
        ValueError
            If a shard is damaged or belongs to another packed dataset.
        """
        found = _shards(path)
        if not found:
            raise FileNotFoundError(f"{path} holds no shards; `mper pack DATASET {path}` writes them")
        count = max(int(match[2]) for match in found)
        names = [_shard_name(n, count) for n in range(1, count + 1)]
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{path} lacks {', '.join(missing)}; copy all {count} shards of the packed dataset")
        entry: dict[str, Any] = {}
        shards: dict[str, Path] = {}
        for name in names:
            with _opened(path / name) as file:
                index = json.loads(file["index"][()].tobytes())
                shards |= dict.fromkeys(file["cases"], path / name)
            if entry and index["pack"] != entry["pack"]:
                raise ValueError(
                    f"{path / name} belongs to another packed dataset than {names[0]}; copy the shards again"
                )
            entry = index
        index = Index.from_dict(entry, path / names[0], entry.get("second_holdout", ()))
        regions = {case_id: box_of(numbers) for case_id, numbers in entry.get("regions", {}).items()}
        return cls(path, index, shards, {case_id: box for case_id, box in regions.items() if box})

    @property
    def name(self) -> str:
        return self.index.name

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.index.labels

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Case ids by split, in order."""
        return dict(self.index.splits)

    @property
    def holdout(self) -> str | None:
        """Name of the locked split, None where nothing is locked."""
        return self.index.holdout

    @property
    def locked_splits(self) -> tuple[str, ...]:
        """The splits that are never trained on."""
        return self.index.locked_splits

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of all cases, sorted."""
        return tuple(sorted(self._shards))

    def held_out_copies(self) -> list[str]:
        """None: `pack` leaves them out of the splits."""
        return []

    def case(self, case_id: str) -> PackedCase:
        """A case by its id.

        Raises
        ------
        ValueError
            If there is none.
        """
        if case_id not in self._shards:
            raise ValueError(f"packed dataset {self.name!r} has no case {case_id!r}; it has {len(self._shards)} others")
        return PackedCase(case_id, self._shards[case_id])

    def split(self, name: str) -> tuple[PackedCase, ...]:
        """The cases of a split, in its order.

        Raises
        ------
        ValueError
            If there is no such split.
        """
        return tuple(self.case(i) for i in self.index.ids(name))


def open_dataset(path: Path) -> Dataset | PackedDataset:
    """Open what lies there: a dataset, or one that was packed.

    Raises
    ------
    FileNotFoundError, ValueError
        As `Dataset.open` and `PackedDataset.open`.
    """
    if not (path / DATASET).exists() and _shards(path):
        return PackedDataset.open(path)
    return Dataset.open(path)


def check_training_split(dataset: Dataset | PackedDataset, split: str) -> None:
    """Refuse a split that nothing can be trained on, before a run is made for it.

    Raises
    ------
    ValueError
        If there is no such split, it is the locked hold-out, it is empty, or no case of it has a label.
    """
    cases = dataset.split(split)
    copies = set(dataset.held_out_copies())
    if split in dataset.locked_splits:
        raise ValueError(
            f"split {split!r} is the locked hold-out of this dataset and never trained on; choose another split"
        )
    if not cases:
        raise ValueError(f"split {split!r} is empty; import cases into it first")
    if not any(case.is_drawn for case in cases if case.id not in copies):
        raise ValueError(f"none of the {len(cases)} cases of split {split!r} has a label; import or draw some first")


def check_label_count(dataset: Dataset | PackedDataset, splits: Sequence[str], labeled: int | None) -> None:
    """Refuse splits of which one has fewer labels than are asked for; None asks for all.

    Raises
    ------
    ValueError
        If there are too few.
    """
    left_out = set(dataset.held_out_copies())
    for name in splits if labeled is not None else ():
        count = sum(case.is_drawn for case in dataset.split(name) if case.id not in left_out)
        if labeled is not None and count < labeled:
            raise ValueError(
                f"{labeled} labelled cases were asked for, and split {name!r} has {count}; ask for fewer, or label more"
            )


def _shards(path: Path) -> list[re.Match[str]]:
    if not path.is_dir():
        return []
    return [match for entry in sorted(path.iterdir()) if (match := _NAME.fullmatch(entry.name))]


@contextmanager
def _opened(shard: Path) -> Iterator[h5py.File]:
    """A shard, opened; damage is reported in one line."""
    import h5py

    try:
        with h5py.File(shard, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        reason = first_line(error)
        raise ValueError(
            f"{shard} is not a whole shard ({reason}); copy it again, or pack the dataset again"
        ) from error
