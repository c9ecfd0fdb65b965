"""Bidirectional copy-paste with a mean teacher (BCP; Bai et al., CVPR 2023).

Stage 1 trains on labelled patches pasted into each other. Stage 2 pastes labelled into unlabelled
patches and unlabelled into labelled ones; the teacher labels what people did not (equations 2 to 7):

    x_in  = l_a M + u_a (1 - M),   x_out = u_b M + l_b (1 - M),
    L = 1/2 sum over both of { w_M [Dice + CE]_M + w_(1-M) [Dice + CE]_(1-M) },

with w = 1 where people labelled and 0.5 where the teacher did. M is 0 in a box of 2/3 of each side.

Where we differ from the published code, in both recipes: both mixed halves pass through the
student as one batch; the largest component of the pseudo-labels is found on the device at half
resolution; the schedule is a share of the run, with the published numbers of iterations as default
length; the result is the last checkpoint, never the best one on a test set; at the start of stage
2 the optimiser goes on with the weights it has. The `plus` recipe differs by the fields of `Recipe`.
"""

from __future__ import annotations

import numpy as np
import torch

from mper.labels import UNLABELLED
from mper.methods.base import Losses, Method, known
from mper.methods.losses import region_loss
from mper.methods.mixing import box_mask, cutmix_mask, largest_component, paste
from mper.methods.recipe import BOX_FRACTION, PSEUDO_WEIGHT, Recipe
from mper.nets import Network, Output
from mper.sampling import Batch, PatchSampler

_PRETRAIN_SHARE = 0.3  # of a `plus` run
_USABLE = 0.8  # teacher's softmax below which `confident_only` leaves a voxel out


class BCP(Method):
    """Copy-paste pre-training, then self-training.

    Parameters
    ----------
    keep_largest : bool
        Whether pseudo-labels keep only the largest component of each class (structures that come in one piece).
    """

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        super().__init__(network, recipe, batch)
        if batch < 2 or batch % 2:
            raise ValueError(f"copy-paste needs an even number of labelled patches a step, got {batch}")
        self.keep_largest = keep_largest

    @property
    def pretrain_share(self) -> float:
        """Share of the run that is pre-training."""
        p = self.published
        return _PRETRAIN_SHARE if self.recipe.poly_rate else p.pretrain / (p.pretrain + p.selftrain)

    def progress(self, t: float) -> float:
        """Share of self-training that is done."""
        return max(0.0, (t - self.pretrain_share) / (1 - self.pretrain_share))

    def rate(self, t: float) -> float:
        if self.recipe.poly_rate or t < self.pretrain_share:
            return super().rate(t)
        iteration = self.progress(t) * self.published.selftrain
        return 0.1 ** sum(iteration >= drop for drop in self.published.drops)

    def wants(self, t: float) -> tuple[int, int]:
        return (self.batch, 0) if t < self.pretrain_share else (self.batch, self.batch)

    def prepare(self, t: float, sampler: PatchSampler, rng: np.random.Generator) -> None:
        if self.stage == 0 and t >= self.pretrain_share:
            self.start_selftraining(sampler, rng)
            self.stage = 1

    def start_selftraining(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """As published the teacher starts from the pre-trained student; an averaged one goes on as it is."""
        if not self.recipe.ema_result:
            self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, batch: Batch, t: float) -> Losses:
        if batch.image.shape[0] == batch.labelled:
            return self._pretrain(batch)
        return self._selftrain(batch, t)

    def _pretrain(self, batch: Batch) -> Losses:
        spatial = batch.image.shape[2:]
        mask = box_mask(spatial, BOX_FRACTION, batch.rng, batch.image.device)
        half = self.batch // 2
        image = paste(batch.image[:half], batch.image[half:], mask)
        label = paste(batch.label[:half], batch.label[half:], mask)
        output = self.student(self.see(image, batch.rng))
        loss = region_loss(output.logits, label, known(label), masked=self.recipe.masked_dice) / 2
        return Losses(loss, {"labelled": loss.detach()})

    def _selftrain(self, batch: Batch, t: float) -> Losses:
        half = self.batch // 2
        labelled, unlabelled = batch.image[: self.batch], batch.image[self.batch :]
        label = batch.label[: self.batch]
        pseudo, confidence = self._pseudo_labels(unlabelled)
        if self.recipe.cutmix:
            cut = cutmix_mask(unlabelled.shape[2:], batch.rng, unlabelled.device)
            other = torch.arange(self.batch - 1, -1, -1, device=unlabelled.device)
            unlabelled = paste(unlabelled, unlabelled[other], cut)
            pseudo, confidence = paste(pseudo, pseudo[other], cut), paste(confidence, confidence[other], cut)
        mask = box_mask(unlabelled.shape[2:], BOX_FRACTION, batch.rng, unlabelled.device)
        image = torch.cat([paste(labelled[:half], unlabelled[:half], mask), paste(unlabelled[half:], labelled[half:], mask)])
        target = torch.cat([paste(label[:half], pseudo[:half], mask), paste(pseudo[half:], label[half:], mask)])
        by_people = torch.cat([mask.expand(half, *mask.shape), (1 - mask).expand(half, *mask.shape)])
        output = self.student(self.see(image, batch.rng))
        return self._losses(output, target, by_people, confidence, t)

    def _losses(
        self, output: Output, target: torch.Tensor, by_people: torch.Tensor, certain: torch.Tensor, t: float
    ) -> Losses:
        """Losses of the mixed batch: `by_people` is 1 where the label is a person's, `certain` the teacher's softmax."""
        labelled, pseudo = self.mixed(output.logits, target, by_people, certain)
        share = (target != UNLABELLED).float().mean()
        return Losses(labelled + pseudo, {"labelled": labelled.detach(), "pseudo": pseudo.detach(), "known": share})

    def mixed(
        self, logits: torch.Tensor, target: torch.Tensor, by_people: torch.Tensor, certain: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_mix of class scores, in its two parts: (labelled, pseudo-labelled)."""
        pseudo_region = 1 - by_people
        if self.recipe.confident_only:
            pseudo_region = pseudo_region * (certain >= _USABLE)
        masked = self.recipe.masked_dice
        labelled = region_loss(logits, target, by_people, masked=masked) / 2
        pseudo = PSEUDO_WEIGHT * region_loss(logits, target, pseudo_region, masked=masked) / 2
        return labelled, pseudo

    @torch.no_grad()
    def _pseudo_labels(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's labels (B, *S) int64 and its softmax (B, *S)."""
        self.teacher.train(not self.recipe.clean_teacher)
        logits = self.teacher(image.contiguous(memory_format=self.teacher.memory_format())).logits.float()
        confidence, labels = logits.softmax(1).max(1)
        if self.keep_largest:
            labels = largest_component(labels, self.config.classes)
        return labels, confidence
