"""Supervised training on the labelled scans only: the baseline of the other methods."""

from __future__ import annotations

import torch

from mper.dataloading.patch_sampler import Batch
from mper.methods.base import Losses, Method
from mper.methods.losses import over_resolutions, region_loss


class Supervised(Method):
    """(CE + Dice) / 2 on labelled patches."""

    def forward(self, batch: Batch, t: float) -> Losses:
        output = self.student(self.augment(batch.image, batch.rng))

        def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return region_loss(logits, label, torch.ones_like(label), masked=self.recipe.masked_dice) / 2

        total = over_resolutions(loss, output, batch.label)
        return Losses(total, {"labelled": total.detach()})
