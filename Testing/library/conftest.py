"""What the tests of the library share: real data where it is there, and small synthetic volumes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Before numpy or torch is imported: tiny tensors gain nothing from many threads, and lose when tests share a machine.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))

import hypothesis
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mper.labels import Segmentation, make_label
from mper.utils import errors
from mper.volume import Geometry, Volume

# A background job of a shell ignores SIGINT, and so would the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("mper", deadline=None)
hypothesis.settings.load_profile("mper")

REPOSITORY = Path(__file__).resolve().parents[2]


def _data(name: str) -> Path:
    home = Path(os.environ.get("MPER_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (home / name).is_dir():
        pytest.skip(
            f"needs the public {name} files in {home / name}; set MPER_TEST_DATA to the folder that holds {name}/"
        )
    return home / name


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks of a few channels are twice as fast in one thread as in two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def real_log_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """No test writes into the log of whoever runs it; gives the function that says where that lies."""
    folder, real = tmp_path_factory.mktemp("logs"), errors.log_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "log_folder", lambda: folder)
        yield real


@pytest.fixture(scope="session")
def la_data() -> Path:
    """LA challenge files: train.list, <case>/lgemri.nrrd and laendo.nrrd, h5/<case>/mri_norm2.h5."""
    return _data("LA")


@pytest.fixture(scope="session")
def acdc_data() -> Path:
    """ACDC as SSL4MIS preprocessed it: *.list and volumes/<patient>_<frame>.h5."""
    return _data("ACDC")


@pytest.fixture
def oblique_geometry() -> Geometry:
    """A small grid with three different spacings, turned about all three axes."""
    directions = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    return Geometry.from_axes((-12.5, 40.25, 7.0), (2.5, 0.7, 0.9), directions, (12, 30, 26))


@pytest.fixture
def blob_volume(oblique_geometry: Geometry) -> tuple[Volume, Segmentation]:
    """A bright ellipsoid in noise on an oblique grid, and its mask (label 1, LA)."""
    shape = np.array(oblique_geometry.shape)
    index = np.moveaxis(np.indices(oblique_geometry.shape), 0, -1)
    centre, radii = shape * (0.45, 0.55, 0.5), shape * (0.3, 0.25, 0.3)
    mask = (((index - centre) / radii) ** 2).sum(axis=-1) < 1
    noise = np.random.default_rng(0).normal(100, 10, size=oblique_geometry.shape)
    image = Volume((noise + 150 * mask).astype(np.float32), oblique_geometry)
    return image, Segmentation(image.with_array(mask.astype(np.uint8)), (make_label(1, "LA"),))
