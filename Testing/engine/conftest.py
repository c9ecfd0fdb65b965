"""What the tests of the engine share: a small model in a dataset, a small scan, an engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from engines import Served, served, small_root
from scipy.spatial.transform import Rotation

from mper.volume import Geometry, Volume

# A background job of a shell ignores SIGINT, and so would the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root ``Data`` with a dataset ``mine``, which has a model ``small`` and one for slices, ``flat``."""
    return small_root(tmp_path_factory.mktemp("roots") / "Data")


@pytest.fixture(scope="session")
def scan() -> Volume:
    """Noise with a bright ellipsoid, on an oblique grid."""
    directions = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    geometry = Geometry.from_axes((-12.5, 40.25, 7.0), (2.5, 0.7, 0.9), directions, (14, 40, 36))
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)
    inside = (((index - np.array(geometry.shape) / 2) / (np.array(geometry.shape) * 0.3)) ** 2).sum(-1) < 1
    noise = np.random.default_rng(0).normal(100, 10, geometry.shape)
    return Volume((noise + 150 * inside).astype(np.int16), geometry)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Served]:
    """An engine with two clients, the caller and ``other``."""
    with served(tmp_path_factory.mktemp("spool"), [root], names=("local", "other")) as found:
        yield found
