"""Training patches: cut from scans on the device, with geometric augmentation, by one interpolation each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from mper.dataloading.augmentation import published_turn, random_affine, random_flip
from mper.dataloading.preprocessing import WorkingGrid
from mper.labels import BACKGROUND, UNLABELLED
from mper.volume import Index3

_ON_A_STRUCTURE = 1 / 3  # of the labelled patches of `plus` contain a voxel of a structure, however small it is
_FIELD_SAMPLES = 32  # along an axis, for the mean of a field of view
_ANCHORS = 5000  # voxels per scan that patches can be placed at


@dataclass(frozen=True)
class TrainingCase:
    """One scan on the working grid, normalised.

    Parameters
    ----------
    id : str
    image : (k, j, i) float tensor
    label : (k, j, i) uint8 tensor or None
        None for an unlabelled scan.
    voxel_ml : float or None
        Volume of a voxel; None where the scan's spacing is unknown.
    grid : WorkingGrid or None
        How the working grid lies in the scan, or the part of it; None where the two are the same.
    start : (int, int, int)
        The first voxel of the part of the scan that is trained on.
    group : int
        Cases of one scanner or sequence; a group is drawn from in proportion to the square root of its number of cases.
    cut : bool
        Whether structures reach out of the part of the scan that is trained on: their size and shape are not known.
    """

    id: str
    image: torch.Tensor
    label: torch.Tensor | None
    voxel_ml: float | None = None
    grid: WorkingGrid | None = None
    start: Index3 = (0, 0, 0)
    group: int = 0
    cut: bool = False

    @property
    def shows_whole_structures(self) -> bool:
        """Whether it is labelled throughout, and its structures are not cut."""
        return self.label is not None and not self.cut and not bool((self.label == UNLABELLED).any())


class Batch(NamedTuple):
    """Patches for one step, the labelled ones first.

    Attributes
    ----------
    image : (B, 1, *S) float32 tensor
        Augmented in geometry, not in intensity.
    label : (B, *S) int64 tensor
        255 where unlabelled.
    labelled : int
        How many of the B have labels.
    rng : numpy Generator
        Of this step.
    partial : tuple of int
        Which of the labelled patches are from scans that are labelled only in part.
    inside : (B, *S) bool tensor or None
        Which voxels lie in their scan; beyond it a patch repeats the scan's border. None: all.
    """

    image: torch.Tensor
    label: torch.Tensor
    labelled: int
    rng: np.random.Generator
    partial: tuple[int, ...] = ()
    inside: torch.Tensor | None = None


class PatchSampler:
    """Draws batches of patches from the training cases.

    Parameters
    ----------
    labelled, unlabelled : sequences of TrainingCase
        Tensors already on the device.
    patch : (int, int, int)
        Patch size along (k, j, i) in working voxels; k is 1 for 2-D networks.
    affine : bool
        Rotation (in mm, where voxels are no cubes) and scale, and every third labelled patch at a labelled structure
        (the `plus` recipe); else the published quarter turns and flips, anywhere.
    flip_axes : sequence of int
        Array axes that are flipped at random with `affine`.
    other_fields : bool
        Patches are normalised as if their scan had another field of view, and may end in air where the scan ends.
    zscored : bool
        Whether intensities are z-scores, which change with the field of view; those in a window of CT do not.
    """

    def __init__(
        self,
        labelled: Sequence[TrainingCase],
        unlabelled: Sequence[TrainingCase],
        patch: Sequence[int],
        *,
        affine: bool = True,
        flip_axes: Sequence[int] = (),
        other_fields: bool = False,
        zscored: bool = True,
    ):
        if not labelled:
            raise ValueError("training needs at least one labelled case; label a scan first, or check the split")
        self.labelled, self.unlabelled = tuple(labelled), tuple(unlabelled)
        self.patch = tuple(int(n) for n in patch)
        self.affine, self.flip_axes = affine, tuple(flip_axes)
        self.other_fields, self.zscored = other_fields, zscored
        self.dimensions = 2 if self.patch[0] == 1 else 3
        self._anchors = {case.id: _Anchors.of(case.label) for case in self.labelled if case.label is not None}
        device = self.labelled[0].image.device
        steps = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in self.patch]
        self._steps = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)  # (*patch, 3) from the patch's centre

    def without(self, cases: Collection[str]) -> PatchSampler:
        """A sampler like this one that draws from the other cases, of which one or more must be labelled."""
        labelled, unlabelled = (
            [case for case in group if case.id not in cases] for group in (self.labelled, self.unlabelled)
        )
        return self._like(labelled, unlabelled, self.patch)

    def with_patch(self, patch: Sequence[int]) -> PatchSampler:
        """A sampler like this one of patches of another size (k, j, i)."""
        return self._like(self.labelled, self.unlabelled, patch)

    def _like(
        self, labelled: Sequence[TrainingCase], unlabelled: Sequence[TrainingCase], patch: Sequence[int]
    ) -> PatchSampler:
        return PatchSampler(
            labelled,
            unlabelled,
            patch,
            affine=self.affine,
            flip_axes=self.flip_axes,
            other_fields=self.other_fields,
            zscored=self.zscored,
        )

    @property
    def partly_labelled(self) -> int:
        """How many of the labelled scans have unlabelled voxels."""
        return sum(anchors.known is not None for anchors in self._anchors.values())

    def batch(self, labelled: int, unlabelled: int, rng: np.random.Generator) -> Batch:
        """A batch of so many labelled and unlabelled patches; the latter from labelled scans if there are no others."""
        pool = self.unlabelled or self.labelled
        chosen = [*_choose(self.labelled, labelled, rng), *_choose(pool, unlabelled, rng)]
        patches = [self._augmented(case, rng, n < labelled) for n, case in enumerate(chosen)]
        image = torch.stack([p[0] for p in patches])
        label = torch.stack([p[1] for p in patches])
        partial = tuple(n for n, case in enumerate(chosen[:labelled]) if self._anchors[case.id].known is not None)
        return Batch(image, label, labelled, rng, partial, torch.stack([p[2] for p in patches]))

    def labelled_patch(self, case: TrainingCase, rng: np.random.Generator) -> Batch:
        """One labelled patch of `case`, not augmented."""
        return self.labelled_patch_at(case, rng)[0]

    def labelled_patch_at(
        self, case: TrainingCase, rng: np.random.Generator, voxel: Sequence[int] | None = None
    ) -> tuple[Batch, np.ndarray]:
        """One labelled patch of `case`, not augmented, and the position of its first voxel on the case's grid.

        Parameters
        ----------
        voxel : (int, int, int) or None
            A voxel that the patch must contain; None for a random place.
        """
        centre = self._centre(case, rng, True, voxel)
        image, label, _ = self._sample(case, centre, True, np.eye(3))
        return Batch(image[None], label[None], 1, rng), centre - (np.array(self.patch) - 1) / 2

    def _augmented(
        self, case: TrainingCase, rng: np.random.Generator, with_label: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Image, label, and which voxels lie in the scan."""
        centre = self._centre(case, rng, with_label)
        if self.affine:
            matrix = random_affine(rng, self.dimensions) @ random_flip(rng, self.flip_axes)
            if case.grid is not None:  # turned in voxels that are no cubes, anatomy would be sheared
                steps = np.asarray(case.grid.step_lengths)
                matrix = matrix * steps / steps[:, None]
        else:
            matrix = published_turn(rng, self.dimensions)
        image, label, inside = self._sample(case, centre, with_label, matrix)
        return (self._in_another_field(case, image, inside, rng) if self.other_fields else image), label, inside

    def _in_another_field(
        self, case: TrainingCase, image: torch.Tensor, inside: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """A patch, normalised over a smaller field of the scan, or a larger one that is filled with air."""
        air = case.image.amin()
        if rng.random() < 0.5:
            image = torch.where(inside.reshape(image.shape), image, air)
        if not self.zscored:
            return image
        window = []
        for axis, n in enumerate(case.image.shape):
            size = n if axis == 0 and self.dimensions == 2 else max(1, round(n * rng.uniform(0.6, 1)))
            first = int(rng.integers(n - size + 1))
            window.append(slice(first, first + size, max(1, size // _FIELD_SAMPLES)))
        part = case.image[tuple(window)]
        mean, variance = part.mean(), part.var(correction=0)
        share = max(0.0, rng.uniform(-0.5, 0.6))  # of air in the larger field
        all_mean = (1 - share) * mean + share * air
        all_variance = (1 - share) * (variance + mean**2) + share * air**2 - all_mean**2
        return (image - all_mean) / all_variance.clamp(min=1e-6).sqrt()

    def _sample(
        self, case: TrainingCase, centre: np.ndarray, with_label: bool, matrix: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = np.array(case.image.shape)
        # Normalised coordinates of grid_sample (x last axis first, -1..1 over voxel centres).
        half = np.maximum((shape - 1) / 2, 0.5)
        transform = np.vstack([(matrix / half[:, None]).T, centre / half - (shape - 1) / 2 / half])[:, ::-1].copy()
        matrix_and_shift = torch.as_tensor(transform, dtype=torch.float32).to(case.image.device, non_blocking=True)
        grid = (self._steps @ matrix_and_shift[:3] + matrix_and_shift[3])[None]
        limit = torch.as_tensor(1 + 0.5 / half[::-1].copy(), dtype=torch.float32).to(
            case.image.device, non_blocking=True
        )
        inside = (grid[0].abs() <= limit).all(-1)
        image = F.grid_sample(case.image[None, None].float(), grid, align_corners=True, padding_mode="border")[0]
        if with_label and case.label is not None:
            # 255 outside the scan: after subtraction of 255, grid_sample's zero padding means unlabelled.
            shifted = (case.label.float() - UNLABELLED)[None, None]
            label = F.grid_sample(shifted, grid, mode="nearest", align_corners=True, padding_mode="zeros")[0, 0]
            label = (label + UNLABELLED).round().long()
        else:
            label = torch.full(self.patch, UNLABELLED, device=image.device, dtype=torch.long)
        if self.dimensions == 2:
            return image[:, 0], label[0], inside[0]
        return image, label, inside

    def _centre(
        self, case: TrainingCase, rng: np.random.Generator, with_label: bool, voxel: Sequence[int] | None = None
    ) -> np.ndarray:
        """Middle of a patch, in voxels: anywhere in the scan, or such that the patch holds a voxel that matters."""
        shape, patch = np.array(case.image.shape), np.array(self.patch)
        slack = np.maximum(shape - patch, 0) / 2
        low, high = (shape - 1) / 2 - slack, (shape - 1) / 2 + slack
        share = rng.random(3)
        anchor = None if voxel is None else np.asarray(voxel)
        if with_label and anchor is None:
            anchor = self._anchors[case.id].choose(rng, self.affine)
        if anchor is not None:
            low, high = np.maximum(low, anchor - (patch - 1) / 2), np.minimum(high, anchor + (patch - 1) / 2)
        centre = np.asarray(low + share * (high - low))
        if self.dimensions == 2:  # the middle of one slice
            centre[0] = np.floor(share[0] * shape[0]) if anchor is None else anchor[0]
        return centre


@dataclass(frozen=True)
class _Anchors:
    """Voxels of one label, kept on the host, that patches are placed by.

    known : (n, 3) labelled ones, None where the whole scan is labelled; structures : (n, 3) those of structures.
    """

    known: np.ndarray | None
    structures: np.ndarray

    @classmethod
    def of(cls, label: torch.Tensor) -> _Anchors:
        array = label.cpu().numpy()
        labelled = array != UNLABELLED
        return cls(None if labelled.all() else _some_of(labelled), _some_of(labelled & (array != BACKGROUND)))

    def choose(self, rng: np.random.Generator, prefer_structures: bool) -> np.ndarray | None:
        voxels = self.known
        if prefer_structures and rng.random() < _ON_A_STRUCTURE and len(self.structures):
            voxels = self.structures
        return voxels[int(rng.integers(len(voxels)))] if voxels is not None and len(voxels) else None


def _some_of(mask: np.ndarray) -> np.ndarray:
    """Indices (n, 3) of voxels where the mask is true, evenly strewn over all of them."""
    where = np.flatnonzero(mask)
    where = np.random.default_rng(0).permutation(where)[:_ANCHORS]
    return np.stack(np.unravel_index(where, mask.shape), axis=1)


def _choose(cases: Sequence[TrainingCase], count: int, rng: np.random.Generator) -> list[TrainingCase]:
    """`count` cases, all different while there are enough.

    A group is drawn with a probability that grows with the square root of its number of cases: a small one is seen more
    often than its share, and does not weigh as much as a large one.
    """
    groups = sorted({case.group for case in cases})
    if len(groups) > 1:
        members = {g: [case for case in cases if case.group == g] for g in groups}
        weights = np.sqrt([len(members[g]) for g in groups])
        drawn = rng.choice(groups, count, p=weights / weights.sum()).tolist()
        chosen = {g: iter(_choose_evenly(members[g], drawn.count(g), rng)) for g in groups}
        return [next(chosen[g]) for g in drawn]
    return _choose_evenly(cases, count, rng)


def _choose_evenly(cases: Sequence[TrainingCase], count: int, rng: np.random.Generator) -> list[TrainingCase]:
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(cases)).tolist()
    return [cases[n] for n in order[:count]]
