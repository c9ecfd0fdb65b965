"""Training patches: scans that live on the device, cut and turned by one interpolation each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from mper.augment import quarter_turn_and_flip, random_affine, random_flip
from mper.labels import UNLABELLED


@dataclass(frozen=True)
class TrainingCase:
    """One scan on the working grid, normalised.

    image : (k, j, i) float tensor; label : (k, j, i) uint8 tensor, None for an unlabelled scan.
    """

    id: str
    image: torch.Tensor
    label: torch.Tensor | None


class Batch(NamedTuple):
    """Patches for one step, the labelled ones first.

    image : (B, 1, *S) float32, geometry augmented, intensities clean; label : (B, *S) int64 with 255
    where nothing is known; labelled : how many of the B carry labels; rng : the step's own generator.
    """

    image: torch.Tensor
    label: torch.Tensor
    labelled: int
    rng: np.random.Generator


class PatchSampler:
    """Draws batches.

    Parameters
    ----------
    labelled, unlabelled : sequences of TrainingCase
        Tensors already on the device.
    patch : (int, int, int)
        Patch size along (k, j, i) in working voxels; k is 1 for 2-D networks.
    affine : bool
        Rotation and scale (the default of the `plus` recipe), else the published quarter turns and flips.
    flip_axes : sequence of int
        Array axes that are flipped at random with `affine`.
    """

    def __init__(
        self,
        labelled: Sequence[TrainingCase],
        unlabelled: Sequence[TrainingCase],
        patch: Sequence[int],
        *,
        affine: bool = True,
        flip_axes: Sequence[int] = (),
    ):
        if not labelled:
            raise ValueError("training needs at least one labelled case; label a scan first, or check the split")
        self.labelled, self.unlabelled = tuple(labelled), tuple(unlabelled)
        self.patch = tuple(int(n) for n in patch)
        self.affine, self.flip_axes = affine, tuple(flip_axes)
        self.dimensions = 2 if self.patch[0] == 1 else 3

    def batch(self, labelled: int, unlabelled: int, rng: np.random.Generator) -> Batch:
        """A batch of so many labelled and unlabelled patches; without unlabelled scans, labelled ones stand in."""
        pool = self.unlabelled or self.labelled
        chosen = [*_choose(self.labelled, labelled, rng), *_choose(pool, unlabelled, rng)]
        patches = [self._cut(case, rng, n < labelled) for n, case in enumerate(chosen)]
        image = torch.stack([p[0] for p in patches])
        label = torch.stack([p[1] for p in patches])
        return Batch(image, label, labelled, rng)

    def plain(self, case: TrainingCase, rng: np.random.Generator) -> Batch:
        """One labelled patch of `case`, not turned."""
        image, label = self._cut(case, rng, True, turn=False)
        return Batch(image[None], label[None], 1, rng)

    def _cut(
        self, case: TrainingCase, rng: np.random.Generator, with_label: bool, turn: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = np.array(case.image.shape)
        patch = np.array(self.patch)
        slack = np.maximum(shape - patch, 0) / 2
        centre = (shape - 1) / 2 + rng.uniform(-1, 1, 3) * slack
        if self.dimensions == 2:
            centre[0] = self._choose_slice(case, rng, with_label)
        matrix = np.eye(3)
        if turn:
            matrix = random_affine(rng, self.dimensions) @ random_flip(rng, self.flip_axes) if self.affine else quarter_turn_and_flip(rng)
        # Normalised coordinates of grid_sample (x last axis first, -1..1 over voxel centres).
        steps = [torch.arange(n, device=case.image.device, dtype=torch.float32) - (n - 1) / 2 for n in self.patch]
        half = np.maximum((shape - 1) / 2, 0.5)
        transform = torch.as_tensor(matrix / half[:, None], dtype=torch.float32).to(case.image.device, non_blocking=True)
        offset = torch.as_tensor(centre / half - (shape - 1) / 2 / half, dtype=torch.float32).to(case.image.device, non_blocking=True)
        grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1) @ transform.T + offset
        grid = grid.flip(-1)[None]
        image = F.grid_sample(case.image[None, None].float(), grid, align_corners=True, padding_mode="border")[0]
        if with_label and case.label is not None:
            # 255 outside the scan: a shift by one makes grid_sample's zero padding mean unlabelled.
            shifted = (case.label.float() - UNLABELLED)[None, None]
            label = F.grid_sample(shifted, grid, mode="nearest", align_corners=True, padding_mode="zeros")[0, 0]
            label = (label + UNLABELLED).round().long()
        else:
            label = torch.full(self.patch, UNLABELLED, device=image.device, dtype=torch.long)
        if self.dimensions == 2:
            return image[:, 0], label[0]
        return image, label

    @staticmethod
    def _choose_slice(case: TrainingCase, rng: np.random.Generator, with_label: bool) -> int:
        """A slice at random; of a scan labelled in some slices only, one of those."""
        if with_label and case.label is not None:
            known = (case.label != UNLABELLED).flatten(1).any(1).nonzero()[:, 0]  # host data of the case, no device work
            if len(known):
                return int(known[int(rng.integers(len(known)))])
        return int(rng.integers(case.image.shape[0]))


def _choose(cases: Sequence[TrainingCase], count: int, rng: np.random.Generator) -> list[TrainingCase]:
    """`count` cases, all different while there are enough."""
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(cases)).tolist()
    return [cases[n] for n in order[:count]]
