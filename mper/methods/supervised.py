"""Supervised training on the labelled scans only: the baseline of the other methods."""

from __future__ import annotations

from mper.dataloading.patch_sampler import Batch
from mper.methods.base import Losses, Method


class Supervised(Method):
    """(CE + Dice) / 2 on labelled patches."""

    def forward(self, batch: Batch, t: float) -> Losses:
        return self.supervised_losses(batch)
