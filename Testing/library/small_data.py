"""Small data for tests of training: bright ellipsoids in noise, as patches' cases and as datasets on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from mper.dataloading.patch_sampler import TrainingCase
from mper.dataloading.preprocessing import WorkingGrid
from mper.datasets.dataset import Dataset
from mper.labels import make_label
from mper.volume import Geometry, Volume

LPS = np.eye(3)[:, ::-1]  # columns: k to Superior, j to Posterior, i to Left


def blobs(shape: Sequence[int], seed: int, structures: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Image (float32, noise of deviation 1, structure c brighter by 4 c) and mask (uint8) of ellipsoids in a row."""
    rng = np.random.default_rng(seed)
    index = np.moveaxis(np.indices(shape), 0, -1)
    mask = np.zeros(shape, dtype=np.uint8)
    for c in range(1, structures + 1):
        share = (c - 0.5) / structures
        centre = np.array(shape) * (rng.uniform(0.4, 0.6, 3) * (1, 1, 0) + (0, 0, share))
        radii = np.array(shape) * rng.uniform(0.25, 0.35, 3) / (1, 1, structures) + 0.5
        mask[(((index - centre) / radii) ** 2).sum(-1) < 1] = c
    image = rng.normal(size=tuple(shape)) + 4.0 * mask
    return image.astype(np.float32), mask


def stored_otherwise(volume: Volume, axes: Sequence[int], flips: Sequence[int]) -> Volume:
    """The same voxels at the same places of the patient, the array's axes permuted and then flipped."""
    array = np.flip(volume.array.transpose(axes), flips)
    affine = volume.geometry.affine[:, [*axes, 3]].copy()
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
        affine[:, axis] *= -1
    k, j, i = array.shape
    return Volume(array, Geometry(affine, (k, j, i), volume.geometry.spacing_known))


def labels_on_source(grid: WorkingGrid, labels: torch.Tensor) -> np.ndarray:
    """Working labels on the grid of the source: the value with the largest interpolated share of each voxel."""
    values = labels.unique()
    shares = torch.stack([grid.back((labels == value).float()[None])[0] for value in values])
    return values[shares.argmax(0)].numpy()


def blob_cases(
    count: int, shape: Sequence[int], labelled: bool = True, structures: int = 1, seed: int = 0
) -> list[TrainingCase]:
    """Cases for a `PatchSampler`."""
    cases = []
    for n in range(count):
        image, mask = blobs(shape, seed + n, structures)
        label = torch.from_numpy(mask) if labelled else None
        cases.append(
            TrainingCase(f"{'labelled' if labelled else 'unlabelled'}{seed + n}", torch.from_numpy(image), label)
        )
    return cases


def blob_dataset(
    path: Path,
    count: int = 3,
    shape: Sequence[int] = (20, 24, 24),
    *,
    labelled: int | None = None,
    structures: int = 1,
    spacing_mm: Sequence[float] | None = (2.0, 2.0, 2.0),
    intensity: Callable[[np.ndarray], np.ndarray] = lambda image: image,
    edit_label: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
    names: Sequence[str] = ("LA", "RA", "Scar"),
) -> Dataset:
    """A dataset whose split `train` has so many cases, the first `labelled` of them (all by default) with a label."""
    dataset = Dataset.create(path, "blobs", [make_label(n, names[n - 1]) for n in range(1, structures + 1)])
    for n in range(count):
        image, mask = blobs(shape, n, structures)
        grid = Geometry.unknown(shape) if spacing_mm is None else Geometry.from_axes((0, 0, 0), spacing_mm, LPS, shape)
        case = dataset.add_case(f"case{n}", Volume(intensity(image), grid), {"format": "synthetic"})
        if labelled is None or n < labelled:
            case.add_label(Volume(edit_label(mask), grid), author="test", how="imported")
    dataset.add_to_split("train", [f"case{n}" for n in range(count)])
    return dataset
