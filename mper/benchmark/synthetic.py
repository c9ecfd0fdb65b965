"""Data of a smoke run: bright ellipsoids in noise, with the names, splits and shapes of the two tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mper.benchmark.plan import TASKS, TRAIN
from mper.labels import make_label
from mper.volume import Geometry, Volume

_ALONG_PATIENT = np.eye(3)[:, ::-1]  # columns: k to the head, j to the back, i to the left


def make_data(task: str, home: Path) -> Path:
    """Write the dataset, once.

    `la`: six scans to train on and two to evaluate on; `acdc`: three patients with two stacks each, and one.
    """
    from mper.datasets.dataset import Dataset

    if (home / "dataset.json").exists():
        return home
    volumes = task == "la"
    shape, spacing = ((16, 32, 32), (2.0, 2.0, 2.0)) if volumes else ((3, 32, 32), (8.0, 1.5, 1.5))
    names = ("LA",) if volumes else ("RV", "MYO", "LV")
    ids = [f"scan{n}" for n in range(8)] if volumes else [f"patient{n // 2:03d}_frame{n % 2 + 1:02d}" for n in range(8)]
    geometry = Geometry.from_axes((0, 0, 0), spacing, _ALONG_PATIENT, shape)
    dataset = Dataset.create(home, f"made-up {task}", [make_label(n, name) for n, name in enumerate(names, start=1)])
    for n, case_id in enumerate(ids):
        image, mask = _scan(shape, len(names), np.random.default_rng(n))
        case = dataset.add_case(case_id, Volume(image, geometry), {"format": "synthetic"})
        case.add_label(Volume(mask, geometry), author="mper", how="imported")
    dataset.add_to_split(TRAIN, ids[:6])
    dataset.add_to_split(TASKS[task].split, ids[6:])
    return home


def _scan(shape: tuple[int, int, int], structures: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nested ellipsoids, the innermost one last."""
    index = np.moveaxis(np.indices(shape, dtype=np.float32), 0, -1)
    centre = np.array(shape) * rng.uniform(0.45, 0.55, 3)
    distance = np.sqrt((((index + 0.5 - centre) / (np.array(shape) * rng.uniform(0.3, 0.4, 3))) ** 2).sum(-1))
    mask = np.zeros(shape, np.uint8)
    for c in range(structures):
        mask[distance < 1 - c / structures] = c + 1
    image = rng.normal(100, 15, shape) + 40 * mask
    return image.astype(np.float32), mask
