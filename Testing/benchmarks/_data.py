"""Scans for the benchmarks: the public left atria where they are there, else made ones of the same size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _timing import REPOSITORY

from mper.volume import Geometry, Volume

LA_SHAPE = (88, 142, 195)  # (k, j, i) of a usual case
LA_SPACING = (0.625, 0.625, 0.625)
_ALONG_PATIENT = np.eye(3)[::-1]  # columns: k to the head, j to the back, i to the left


@dataclass(frozen=True, eq=False)
class Scan:
    """A left atrium: its scan and its label (bool, same grid)."""

    id: str
    image: Volume
    atrium: npt.NDArray[np.bool_]


def data_home(name: str) -> Path | None:
    """The folder of the public data of that name (LA, ACDC), where it is there: as for the tests."""
    home = Path(os.environ.get("MPER_TEST_DATA") or REPOSITORY.parent / "shared" / "data") / name
    return home if home.is_dir() else None


def la_cases(first: int, last: int) -> list[str]:
    """The cases `first` to `last` of train.list, counted from 1 as the papers do."""
    home = data_home("LA")
    if home is None:
        raise FileNotFoundError("the public LA files are not there; set MPER_TEST_DATA to the folder that holds LA/")
    return (home / "train.list").read_text(encoding="utf-8").split()[first - 1 : last]


def la_scan(case: str) -> Scan:
    """A public case."""
    from mper.io import read_volume

    home = data_home("LA")
    assert home is not None
    image = read_volume(home / case / "lgemri.nrrd")
    label = read_volume(home / case / "laendo.nrrd")
    return Scan(case, image, np.asarray(label.array, np.uint8) > 0)


def acdc_cases(name: str) -> list[str]:
    """The volumes of a list of ACDC (train, val)."""
    home = data_home("ACDC")
    if home is None:
        raise FileNotFoundError(
            "the public ACDC files are not there; set MPER_TEST_DATA to the folder that holds ACDC/"
        )
    return (home / f"{name}.list").read_text(encoding="utf-8").split()


def acdc_volumes(case: str) -> dict[str, Volume]:
    """Image, label and scribble (4 is not drawn) of a volume; of unknown spacing."""
    from mper.io import read_h5

    home = data_home("ACDC")
    assert home is not None
    return read_h5(home / "volumes" / f"{case}.h5")


def made_scan(seed: int = 0, shape: tuple[int, int, int] = LA_SHAPE) -> Scan:
    """A bright ellipsoid in noise: of the right size and kind, no anatomy."""
    rng = np.random.default_rng(seed)
    index = np.moveaxis(np.indices(shape, dtype=np.float32), 0, -1)
    centre, radii = np.array(shape) * rng.uniform(0.45, 0.55, 3), np.array(shape) * (0.25, 0.25, 0.2)
    atrium = (((index - centre) / radii) ** 2).sum(-1) < 1
    voxels = np.clip(rng.normal(60, 15, shape) + 60 * atrium, 0, 255).astype(np.uint8)
    return Scan(
        f"made {seed}", Volume(voxels, Geometry.from_axes((0, 0, 0), LA_SPACING, _ALONG_PATIENT, shape)), atrium
    )


def scans(count: int, first: int = 73) -> list[Scan]:
    """So many left atria, from the held-back cases 73 to 80 where the public data are there."""
    if data_home("LA") is None:
        return [made_scan(seed) for seed in range(count)]
    return [la_scan(case) for case in la_cases(first, 80)[:count]]
