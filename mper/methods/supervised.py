"""Plain supervised training on the labelled scans: the yardstick for the others."""

from __future__ import annotations

import torch

from mper.methods.base import Losses, Method
from mper.methods.losses import region_loss
from mper.sampling import Batch


class Supervised(Method):
    """(CE + Dice) / 2 on labelled patches."""

    def forward(self, batch: Batch, t: float) -> Losses:
        output = self.student(self.see(batch.image, batch.rng))
        everywhere = torch.ones_like(batch.label)
        loss = region_loss(output.logits, batch.label, everywhere, masked=self.recipe.masked_dice) / 2
        return Losses(loss, {"labelled": loss.detach()})
