"""Runs of two stages: labelled scans alone first, then also those without labels."""

from __future__ import annotations

import numpy as np

from mper.dataloading.patch_sampler import PatchSampler
from mper.methods.base import Method

_PRETRAIN_SHARE = 0.3  # of a `plus` run


class TwoStages(Method):
    """A method that pre-trains on labelled patches and then trains itself; see `mper.methods.base`."""

    two_stages = True

    @property
    def pretrain_share(self) -> float:
        """Share of the run that is pre-training."""
        p = self.published
        return _PRETRAIN_SHARE if self.recipe.poly_rate else p.pretrain / (p.pretrain + p.selftrain)

    def progress(self, t: float) -> float:
        """Share of self-training that is done."""
        return max(0.0, (t - self.pretrain_share) / (1 - self.pretrain_share))

    def iteration(self, t: float) -> float:
        """The published self-training iteration that `t` stands for (rounded: 2500 must not be 2499.999)."""
        return round(self.progress(t) * self.published.selftrain, 6)

    def rate_factor(self, t: float) -> float:
        if self.recipe.poly_rate or t < self.pretrain_share:
            return super().rate_factor(t)
        return 0.1 ** sum(self.iteration(t) >= drop for drop in self.published.drops)

    def prepare(self, t: float, sampler: PatchSampler, rng: np.random.Generator) -> None:
        if self.stage == 0 and t >= self.pretrain_share:
            self.start_selftraining(sampler, rng)
            self.stage = 1

    def start_selftraining(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """As published the teacher starts from the pre-trained student; an averaged one goes on as it is."""
        if not self.recipe.ema_result:
            self.teacher.load_state_dict(self.student.state_dict())
