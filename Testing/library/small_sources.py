"""Small import sources: scans and masks of a few voxels, written in the layouts that datasets come in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from mper.datasets.dataset import Dataset
from mper.datasets.importer import import_source
from mper.io import write_volume
from mper.volume import Geometry, Volume

GRID = Geometry.from_axes((5, -3, 8), (2, 0.7, 0.9), np.eye(3)[:, ::-1], (4, 6, 5))


def scan(seed: int, dtype: npt.DTypeLike = np.uint8, grid: Geometry = GRID) -> Volume:
    return Volume(np.random.default_rng(seed).integers(0, 200, grid.shape).astype(dtype), grid)


def mask(value: int = 1, *, grid: Geometry = GRID) -> Volume:
    array = np.zeros(grid.shape, np.uint8)
    array[1:3, 2:4, 1:4] = value
    return Volume(array, grid)


def write(path: Path, volume: Volume) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, volume)


def la_source(folder: Path, ids: str) -> Path:
    """A challenge folder; each case's image is seeded by its id."""
    for case_id in ids:
        write(folder / case_id / "lgemri.nrrd", scan(ord(case_id)))
        write(folder / case_id / "laendo.nrrd", mask(255))
    return folder


def write_h5(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def lists(folder: Path, **names: str) -> None:
    for name, ids in names.items():
        (folder / f"{name}.list").write_text("\n".join(ids) + "\n", encoding="utf-8")


class Notices(list[str]):
    """Collects notices."""

    def __call__(self, notice: str) -> None:
        assert "\n" not in notice
        self.append(notice)


def load(source: Path, target: Path, split: str | None = None, labels: list[str] | None = None) -> Dataset:
    import_source(source, target, split, labels)
    return Dataset.open(target)


def equal(one: Volume | None, other: Volume) -> None:
    assert one is not None
    assert one.array.dtype == other.array.dtype
    np.testing.assert_array_equal(one.array, other.array)
    assert one.geometry.is_close(other.geometry)


def nnunet_source(folder: Path, **told: object) -> Path:
    for n, case_id in enumerate(("x_1", "x_2"), start=1):
        write(folder / "imagesTr" / f"{case_id}_0000.nii.gz", scan(n, np.int16))
        write(folder / "labelsTr" / f"{case_id}.nii.gz", mask(n + 1))
    write(folder / "imagesTs" / "x_9_0000.nii.gz", scan(9, np.int16))
    labels = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    about = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", **told}
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
