"""Bidirectional copy-paste with a mean teacher (BCP; Bai et al., CVPR 2023).

Stage 1 trains on labelled patches pasted into each other. Stage 2 pastes labelled into unlabelled
patches and unlabelled into labelled ones; the teacher labels the unlabelled voxels (equations 2 to 7):

    x_in  = l_a M + u_a (1 - M),   x_out = u_b M + l_b (1 - M),
    L = 1/2 sum over both of { w_M [Dice + CE]_M + w_(1-M) [Dice + CE]_(1-M) },

with w = 1 for labels of the dataset and 0.5 for pseudo-labels of the teacher. M is 0 in a box of 2/3 of each side. In a
patch of a partly labelled scan the teacher labels the rest; pre-training ignores it.

With `Recipe.anchored` (`plus`, volumes) stage 1 trains on whole labelled patches, and a step of stage 2 shows the
student whole labelled patches l and as many mixtures x of them with unlabelled ones, by chance with M or 1 - M:

    L = [Dice + CE]_l / 2 + r(t) [Dice + CE]_x / 2,    over what is labelled or the teacher is sure of,

with r(t) = exp(-5 (1 - t')^2), t' rising to 1 over the first fifth of the stage. Pseudo-labels beyond the scan, where a
patch repeats its border, and of parts that the largest component leaves out count nowhere.

Where we differ from the published code, in both recipes: both mixed halves pass through the
student as one batch (its batch norm sees both); the largest component of the pseudo-labels is found
on the device at half resolution; the schedule is a share of the run, with the published numbers of
iterations as default length; the last state counts, of the pre-training as of the whole, never the
best one on a test set; in 3-D the teacher's batch-norm statistics are averaged as well (the
published ones are not, and not used); patches are cut by one linear interpolation (in 2-D the
published ones by nearest neighbour, after stretching each slice to a square). Network and optimiser
start stage 2 as stage 1 left them, as published. The `plus` recipe differs by the fields of
`Recipe`, has 30% of the run for stage 1 (70% if `anchored`, none in fine-tuning), and takes as many patches a step as
`TrainConfig` says.
"""

from __future__ import annotations

import math

import torch

from mper.dataloading.patch_sampler import Batch
from mper.labels import UNLABELLED
from mper.methods.base import Losses
from mper.methods.losses import over_resolutions, region_loss, region_losses
from mper.methods.mixing import box_mask, cutmix_mask, largest_component, paste
from mper.methods.recipe import BOX_FRACTION, PSEUDO_WEIGHT, Recipe
from mper.methods.stages import TwoStages
from mper.nets.network import Network, Output

_USABLE = 0.8  # teacher's softmax below which `confident_only` leaves a voxel out
_SUPERVISED_SHARE = 0.7  # of an `anchored` run
_RAMP = 0.2  # share of self-training over which the mixtures of an `anchored` run come in


class BCP(TwoStages):
    """Copy-paste pre-training, then self-training."""

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        super().__init__(network, recipe, batch, keep_largest)
        if batch < 2 or batch % 2:
            raise ValueError(f"copy-paste needs an even number of labelled patches a step, got {batch}")

    @property
    def anchored(self) -> bool:
        """Whether the recipe's `anchored` applies: for volumes; with slices the published stages win as they are."""
        return self.recipe.anchored and self.config.dimensions == 3

    @property
    def pretrain_share(self) -> float:
        if not self.anchored:
            return super().pretrain_share
        return 0.0 if self.fine_tunes else _SUPERVISED_SHARE

    def patch_counts(self, t: float) -> tuple[int, int]:
        if t < self.pretrain_share:
            return self.batch, 0
        return (self.batch // 2, self.batch // 2) if self.anchored else (self.batch, self.batch)

    def forward(self, batch: Batch, t: float) -> Losses:
        if batch.image.shape[0] == batch.labelled:
            return self.supervised_losses(batch) if self.anchored else self._pretrain(batch)
        return self._anchored(batch, t) if self.anchored else self._selftrain(batch, t)

    def _anchored(self, batch: Batch, t: float) -> Losses:
        """Whole labelled patches, followed by each of them mixed with an unlabelled one."""
        labelled, unlabelled = batch.image[: batch.labelled], batch.image[batch.labelled :]
        label, known, sure = self._labels(batch)
        pseudo, confidence = self._pseudo_labels(batch, list(range(batch.labelled, len(batch.image))))
        mask = box_mask(unlabelled.shape[2:], BOX_FRACTION, batch.rng, unlabelled.device)
        if batch.rng.random() < 0.5:
            mask = 1 - mask
        image = torch.cat([labelled, paste(unlabelled, labelled, mask)])
        target = torch.cat([label, paste(pseudo, label, mask)])
        certain = torch.cat([sure, paste(confidence, sure, mask)])
        annotated = torch.cat([known, known * (1 - mask)])
        output = self.student(self.augment(image, batch.rng))
        return self._losses(output, target, annotated, certain, t)

    def _pretrain(self, batch: Batch) -> Losses:
        spatial = batch.image.shape[2:]
        mask = box_mask(spatial, BOX_FRACTION, batch.rng, batch.image.device)
        half = self.batch // 2
        image = paste(batch.image[:half], batch.image[half:], mask)
        label = paste(batch.label[:half], batch.label[half:], mask)
        output = self.student(self.augment(image, batch.rng))
        regions = [mask.expand_as(label), (1 - mask).expand_as(label)]
        if self.recipe.masked_dice or len(spatial) == 3:  # one region; the published 2-D code takes both by themselves
            regions = [torch.ones_like(regions[0])]

        def loss(logits: torch.Tensor, label: torch.Tensor, *regions: torch.Tensor) -> torch.Tensor:
            return region_losses(logits, label, regions, masked=self.recipe.masked_dice).sum() / 2

        total = over_resolutions(loss, output, label, *regions)
        return Losses(total, {"labelled": total.detach()})

    def _selftrain(self, batch: Batch, t: float) -> Losses:
        half = self.batch // 2
        labelled, unlabelled = batch.image[: self.batch], batch.image[self.batch :]
        label, known, sure = self._labels(batch)
        pseudo, confidence = self._pseudo_labels(batch, list(range(self.batch, len(batch.image))))
        if self.recipe.cutmix:
            cut = cutmix_mask(unlabelled.shape[2:], batch.rng, unlabelled.device)
            other = torch.arange(self.batch - 1, -1, -1, device=unlabelled.device)
            unlabelled = paste(unlabelled, unlabelled[other], cut)
            pseudo, confidence = paste(pseudo, pseudo[other], cut), paste(confidence, confidence[other], cut)
        mask = box_mask(unlabelled.shape[2:], BOX_FRACTION, batch.rng, unlabelled.device)
        image = torch.cat(
            [paste(labelled[:half], unlabelled[:half], mask), paste(unlabelled[half:], labelled[half:], mask)]
        )
        target = torch.cat([paste(label[:half], pseudo[:half], mask), paste(pseudo[half:], label[half:], mask)])
        certain = torch.cat([paste(sure[:half], confidence[:half], mask), paste(confidence[half:], sure[half:], mask)])
        annotated = torch.cat([known[:half] * mask, known[half:] * (1 - mask)])
        output = self.student(self.augment(image, batch.rng))
        return self._losses(output, target, annotated, certain, t)

    def _labels(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the labelled patches: labels, 1 where they are of the dataset, and their confidence, (B, *S) each.

        Where a scan is labelled only in part, the teacher labels the rest, as in a scan without labels.
        """
        label = batch.label[: batch.labelled]
        annotated, certain = torch.ones(2, *label.shape, device=label.device)
        if batch.partial:
            rows = list(batch.partial)
            pseudo, confidence = self._pseudo_labels(batch, rows)
            unlabelled = label[rows] == UNLABELLED
            label = label.clone()
            label[rows] = torch.where(unlabelled, pseudo, label[rows])
            annotated[rows] = (~unlabelled).float()
            certain[rows] = torch.where(unlabelled, confidence, certain[rows])
        return label, annotated, certain

    def _pseudo_labels(self, batch: Batch, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pseudo-labels of some patches, and their confidence; with `Recipe.anchored` 255 beyond the scan."""
        pseudo, confidence = self.label_source.pseudo_labels(batch.image[rows])
        if self.recipe.anchored and batch.inside is not None:
            pseudo = torch.where(batch.inside[rows], pseudo, UNLABELLED)
        return pseudo, confidence

    def halves(self, count: int) -> list[slice]:
        """The parts of a mixed batch of `count` whose losses are computed separately and added up."""
        if self.recipe.masked_dice:
            return [slice(None)]
        return [slice(None, count // 2), slice(count // 2, None)]

    def _losses(
        self, output: Output, target: torch.Tensor, annotated: torch.Tensor, certain: torch.Tensor, t: float
    ) -> Losses:
        """Losses of the mixed batch; `annotated` is 1 for labels of the dataset, `certain` the teacher's softmax."""

        def loss(
            logits: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor, certain: torch.Tensor
        ) -> torch.Tensor:
            return torch.stack(self.mixed(logits, target, annotated, certain, t))

        labelled, pseudo = over_resolutions(loss, output, target, annotated, certain).unbind()
        counts = (annotated + self._pseudo_region(annotated, certain)) * (target != UNLABELLED)
        figures = {"labelled": labelled.detach(), "pseudo": pseudo.detach(), "known": counts.mean()}
        return Losses(labelled + pseudo, figures)

    def mixed(
        self, logits: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor, certain: torch.Tensor, t: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_mix of class scores, in its two parts: (labelled, pseudo-labelled), or (whole, mixed) patches."""
        if self.anchored:
            counted = annotated + self._pseudo_region(annotated, certain)
            half = len(target) // 2
            whole, mixtures = (
                region_loss(logits[part], target[part], counted[part], masked=self.recipe.masked_dice) / 2
                for part in (slice(None, half), slice(half, None))
            )
            ramp = min(1.0, self.progress(t) / _RAMP)
            return whole, math.exp(-5 * (1 - ramp) ** 2) * mixtures
        regions = [annotated, self._pseudo_region(annotated, certain)]
        losses = sum(
            region_losses(logits[part], target[part], [r[part] for r in regions], masked=self.recipe.masked_dice)
            for part in self.halves(len(target))
        )
        assert isinstance(losses, torch.Tensor)
        return losses[0] / 2, PSEUDO_WEIGHT * losses[1] / 2

    def _pseudo_region(self, annotated: torch.Tensor, certain: torch.Tensor) -> torch.Tensor:
        return (1 - annotated) * (certain >= _USABLE) if self.recipe.confident_only else 1 - annotated

    @torch.no_grad()
    def pseudo_labels(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's labels (B, *S) int64 and its softmax (B, *S).

        With `anchored` the parts that are not the largest component are 255: they may be background, or belong to a
        structure that leaves the patch in between.
        """
        self.teacher.train(not self.recipe.clean_teacher)
        logits = self.teacher(image.contiguous(memory_format=self.teacher.memory_format())).logits.float()
        confidence, labels = logits.softmax(1).max(1)
        if self.keep_largest:
            largest = largest_component(labels, self.config.classes)
            labels = torch.where(largest == labels, labels, UNLABELLED) if self.anchored else largest
        return labels, confidence
