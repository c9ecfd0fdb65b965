"""Co-training: two networks, each of which learns from the other one's mean teacher.

A mean teacher repeats the errors of its student; another network, with other initial weights and other augmentations of
the same patches, does so less often (mutual teaching; MEDL, DualFete and others lead the left atrium's tables with two
networks). Where a model is fine-tuned both start from its weights (of other structures their classifiers differ), and
have other augmentations and dropout. A step costs twice as much.

The result is the first network: a bundle holds one network, and a prediction takes no longer. The second one is used in
training only and stays in the checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch

from mper.dataloading.patch_sampler import Batch, PatchSampler
from mper.methods.base import Losses, Method
from mper.nets.network import Network


class CoTraining(Method):
    """Two instances of a method that take their pseudo-labels from each other.

    Parameters
    ----------
    first, second : Method
        Of the same method, recipe, batch and kind of network, with weights of their own.
    """

    def __init__(self, first: Method, second: Method):
        torch.nn.Module.__init__(self)
        self.recipe, self.batch = first.recipe, first.batch
        self.first, self.second = first, second
        self.two_stages = first.two_stages
        first.learn_from(second)
        second.learn_from(first)

    @property
    def student(self) -> Network:  # type: ignore[override]
        return self.first.student

    @property
    def teacher(self) -> Network:  # type: ignore[override]
        return self.first.teacher

    @property
    def stage(self) -> int:
        return self.first.stage

    @stage.setter
    def stage(self, stage: int) -> None:
        self.first.stage = self.second.stage = stage

    @property
    def steps_averaged(self) -> int:
        return self.first.steps_averaged

    @steps_averaged.setter
    def steps_averaged(self, steps: int) -> None:
        self.first.steps_averaged = self.second.steps_averaged = steps

    def patch_counts(self, t: float) -> tuple[int, int]:
        return self.first.patch_counts(t)

    def rate_factor(self, t: float) -> float:
        return self.first.rate_factor(t)

    def prepare(self, t: float, sampler: PatchSampler, rng: np.random.Generator) -> None:
        self.first.prepare(t, sampler, rng)
        self.second.prepare(t, sampler, rng)

    def forward(self, batch: Batch, t: float) -> Losses:
        """Both networks' losses on the same patches; the step's generator gives each its own augmentation."""
        one, other = self.first(batch, t), self.second(batch, t)
        return Losses(one.total + other.total, {**one.parts, "other": other.total.detach()})

    def after_step(self) -> None:
        self.first.after_step()
        self.second.after_step()

    def finish(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        self.first.finish(sampler, rng)
        self.references = self.first.references
