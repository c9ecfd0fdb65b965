"""The base class of all training methods: a module with a student and a mean teacher.

The trainer calls, in this order: `patch_counts(t)`, `prepare(t, sampler, rng)`, the method itself
(``method(batch, t)``, through whatever wrapper spreads it over processes), `after_step()`, and at the
end `finish(sampler, rng)` and `result`. `t` in [0, 1) is the share of the run that is done. Schedules
depend on nothing else, so they are the same for a budget in seconds and for a number of steps.

Student, teacher and prototypes are sub-modules and buffers: devices, saving and resuming come free.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mper.dataloading.augmentation import intensities
from mper.dataloading.patch_sampler import Batch, PatchSampler
from mper.methods.losses import over_resolutions, region_loss
from mper.methods.recipe import EMA, PUBLISHED, Published, Recipe
from mper.models.references import References
from mper.nets.network import NetConfig, Network
from mper.utils.coded import Coded
from mper.utils.devices import full_precision

_PATCHES = {3: 24, 2: 96}  # for k-means, by dimensions
_VOXELS_A_PATCH = 4000  # of each class


class Losses(NamedTuple):
    """`total` is minimised; `parts` are detached figures for the curves."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class Method(nn.Module):
    """Base of the methods.

    Parameters
    ----------
    network : Network
        The student to train; the teacher starts as its copy.
    recipe : Recipe
    batch : int
        Labelled patches per step.
    keep_largest : bool
        Whether pseudo-labels keep only the largest component of each class (structures that come in one piece).

    Raises
    ------
    ValueError
        If the method cannot train that network, or not with that batch.
    """

    fine_tunes: bool = False  # whether the network it started from segments the same structures already
    two_stages: bool = False
    stage: int = 0  # 0 pre-training, 1 self-training; the trainer saves and restores it
    references: References | None = None  # labelled voxels that explain the result, once it is finished

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        super().__init__()
        self.recipe, self.batch, self.keep_largest = recipe, batch, keep_largest
        self.student = network
        self.teacher = copy.deepcopy(network).requires_grad_(False).eval()
        self.steps_averaged = 0
        self._label_sources: tuple[Method, ...] = ()  # in a tuple, or it would become a part of this module

    @property
    def label_source(self) -> Method:
        """The method whose teacher makes the pseudo-labels: this one, or the one given to `learn_from`.

        Two that learn from each other are `mper.methods.co_training.CoTraining`.
        """
        return self._label_sources[0] if self._label_sources else self

    def learn_from(self, other: Method) -> None:
        """Take pseudo-labels from `other` from now on."""
        self._label_sources = (other,)

    def pseudo_labels(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's labels (B, *S) int64 of clean images, and its confidence in each (B, *S), 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} makes no pseudo-labels")

    @property
    def config(self) -> NetConfig:
        return self.student.config

    @property
    def published(self) -> Published:
        return PUBLISHED[self.config.dimensions]

    @property
    def result(self) -> Network:
        """The network that the run ends with."""
        return self.teacher if self.recipe.ema_result else self.student

    def patch_counts(self, t: float) -> tuple[int, int]:
        """Numbers of labelled and unlabelled patches in the step at `t`."""
        return self.batch, 0

    def rate_factor(self, t: float) -> float:
        """Learning rate at `t`, relative to the initial one."""
        return (1 - t) ** 0.9 if self.recipe.poly_rate else 1.0

    def prepare(self, t: float, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """Called before the step at `t`, for example to go from one stage to the next."""

    def forward(self, batch: Batch, t: float) -> Losses:
        """The losses of one step."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def supervised_losses(self, batch: Batch) -> Losses:
        """(CE + Dice) / 2 of the student on whole labelled patches."""
        output = self.student(self.augment(batch.image, batch.rng))

        def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return region_loss(logits, label, torch.ones_like(label), masked=self.recipe.masked_dice) / 2

        total = over_resolutions(loss, output, batch.label)
        return Losses(total, {"labelled": total.detach()})

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the teacher: exponential moving average of parameters and batch-norm statistics."""
        self.steps_averaged += 1
        decay = min(EMA, 1 - 1 / (1 + self.steps_averaged / 5)) if self.recipe.ema_result else EMA
        for mean, now in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for average, statistic in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
            if average.is_floating_point():
                average.lerp_(statistic, 1 - decay)
        self.teacher.prototypes.vectors.copy_(self.student.prototypes.vectors)

    def finish(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """Prototypes that explain the result: k-means of its embeddings of labelled voxels.

        Methods that learn their prototypes keep those.
        """
        self.fit_prototypes(self.result, sampler, rng)

    def augment(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Clean images (B, 1, *S) with the intensity augmentation that the student sees."""
        with full_precision(image.device):
            augmented = (
                intensities(image.float(), rng, self.recipe.cross_scanner) if self.recipe.strong_augmentation else image
            )
        return augmented.contiguous(memory_format=self.student.memory_format())

    @torch.no_grad()
    def fit_prototypes(self, network: Network, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """Initialise the student's and the teacher's prototypes by k-means of embeddings of `network` in eval mode.

        Voxels come from patches of as many different labelled scans as there are. With `Recipe.clean_embedding` only
        correctly classified ones count, as in the updates: misclassified voxels would get prototypes of their own.
        """
        training = network.training
        network.eval()
        embeddings, targets = [], []
        cases = rng.permutation(len(sampler.labelled))
        for n in range(_PATCHES[sampler.dimensions]):
            patch = sampler.labelled_patch(sampler.labelled[int(cases[n % len(cases)])], rng)
            image = patch.image.contiguous(memory_format=network.memory_format())
            output = network(image)
            embedding = output.embedding.float()
            right = torch.ones_like(patch.label, dtype=torch.bool)
            if self.recipe.clean_embedding:
                embedding = F.normalize(embedding, dim=1)
                right = output.logits.argmax(1) == patch.label
            rows = embedding.flatten(2)[0].T
            labels, right = patch.label.flatten(), right.flatten()
            for c in range(self.config.classes):
                members = labels == c
                voxels = ((members & right) if (members & right).any() else members).nonzero()[:, 0]
                if len(voxels) == 0:
                    continue
                chosen = voxels[torch.from_numpy(rng.integers(0, len(voxels), _VOXELS_A_PATCH)).to(voxels.device)]
                embeddings.append(rows[chosen])
                targets.append(labels[chosen])
        if not targets:
            line = "the patches of the labelled scans contain no labelled voxel; label more voxels"
            raise ValueError(Coded(line, "no-labelled-voxel"))
        self.student.prototypes.fit(torch.cat(embeddings), torch.cat(targets), int(rng.integers(2**31)))
        self.teacher.prototypes.vectors.copy_(self.student.prototypes.vectors)
        network.train(training)
