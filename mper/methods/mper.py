"""MPER: multi-prototype embedding refinement (ICASSP 2025), on top of bidirectional copy-paste.

A second classifier, K prototypes a class in the embedding space (`mper.nets.prototypes`), learns the
same mixed targets through the embedding, and a contrast pulls each voxel to one prototype:

    L = L_mix(linear) + w(t) { L_mix(prototype) + lambda L_contrast },    for each of the two mixtures,

prototypes start at the k-means centres of the pre-trained network's embeddings of labelled voxels
and follow confident, correctly assigned voxels. Prediction uses the linear classifier; the
prototypes explain it (prototype maps) and regularise the embedding.

Bugs and quirks of the published code, and what the `paper` recipe does about them
- kept: background prototypes are never updated; the contrast's target is the voxel's own nearest
  prototype, and its `ignore_index=0` drops voxels nearest to background prototype 0; the Dice of 3-D
  and 2-D differ, the 2-D one leaves the background unmasked and squares its denominators; dropout on
  the embedding that prototypes see; the teacher predicts with dropout and batch statistics;
  prototype terms are almost off while the learning rate is high; momentum 0.99 whatever the option.
- half mended: the unmasked background of the 2-D Dice is compared with the mixed label everywhere
  (published: with the label of one of the two mixed slices), and not where nothing is labelled.
- mended: code that could not run (three-key outputs unpacked as two, a teacher with one parameter
  more than its student, pre-training without prototypes); prototypes kept outside the state and
  saved by hand; reseeding of all generators by the constructor; the checkpoint chosen on the test
  list (we report the last); voxels through a Python loop, components on the CPU.
- dropped, because they change nothing: the identity representation head, unused heads, figures
  computed at each step for a plot alone, the second loading of weights that matched no name.
- different: k-means sees up to 20,000 voxels of each class from some 24 patches (96 slices) that are
  not turned, and is not the mini-batch variant; both mixtures are compared with the prototypes as
  they were before the step (published: the second with those that the first has moved).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from mper.dataloading.patch_sampler import PatchSampler
from mper.labels import UNLABELLED
from mper.methods.base import Losses
from mper.methods.bcp import BCP
from mper.methods.losses import prototype_contrast
from mper.methods.recipe import CONFIDENT, PROTOTYPE_MOMENTUM
from mper.nets.network import Output
from mper.nets.prototypes import TEMPERATURE
from mper.utils.devices import full_precision

_EARLY = 0.15  # share of self-training after which `early_prototypes` has full weight


class MPER(BCP):
    """Bidirectional copy-paste with a prototype classifier."""

    def start_selftraining(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        super().start_selftraining(sampler, rng)
        self.fit_prototypes(self.result, sampler, rng)

    def finish(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """The learned prototypes stay; a run that ended before self-training gets k-means ones."""
        if self.stage == 0:
            super().finish(sampler, rng)

    def prototype_weight(self, t: float) -> float:
        """w(t)."""
        p = self.published
        if self.recipe.early_prototypes:
            ramp = min(1.0, self.progress(t) / _EARLY)
        else:
            ramp = min(1.0, math.floor(self.iteration(t) / p.ramp_unit) / p.ramp_units)
        return p.prototype_weight * math.exp(-5 * (1 - ramp) ** 2)

    def _losses(
        self, output: Output, target: torch.Tensor, annotated: torch.Tensor, certain: torch.Tensor, t: float
    ) -> Losses:
        linear = super()._losses(output, target, annotated, certain, t)
        prototypes = self.student.prototypes
        embedding = output.embedding if self.recipe.clean_embedding else output.dropped
        similarity = prototypes.similarity(embedding)
        scores = prototypes.logits(similarity)
        labelled, pseudo = self.mixed(scores, target, annotated, certain, t)
        classify = labelled + pseudo
        contrast = torch.stack(
            [
                prototype_contrast(similarity[part], target[part], TEMPERATURE, by_label=self.recipe.label_prototypes)
                for part in self.halves(len(target))
            ]
        ).sum()
        weight = self.prototype_weight(t)
        total = linear.total
        if "prototype_classifier" not in self.recipe.omitted_terms:
            total = total + weight * classify
        if "contrast" not in self.recipe.omitted_terms:
            total = total + weight * self.published.contrast_weight * contrast
        self._update_prototypes(embedding, similarity, target, annotated, certain)
        with torch.no_grad():
            agree = (scores.max(1).indices == output.logits.max(1).indices).float().mean()
            figures = {"prototype": classify, "contrast": contrast, "agreement": agree, "spread": self._spread()}
        return Losses(total, {**linear.parts, **{name: value.detach() for name, value in figures.items()}})

    @torch.no_grad()
    def _update_prototypes(
        self,
        embedding: torch.Tensor,
        similarity: torch.Tensor,
        target: torch.Tensor,
        annotated: torch.Tensor,
        certain: torch.Tensor,
    ) -> None:
        """Update the prototypes: of each mixed half its pseudo-labelled, then its labelled region, as published."""
        allowed = target != UNLABELLED
        if not self.recipe.all_prototypes:
            allowed = allowed & (target > 0)
        if self.recipe.clean_embedding:
            embedding = F.normalize(embedding.float(), dim=1)
        trusted = (annotated < 0.5) & (certain > CONFIDENT)
        half = target.shape[0] // 2
        for part in (slice(0, half), slice(half, None)):
            for region in (trusted, annotated > 0.5):
                self.student.prototypes.update(
                    embedding[part], similarity[part], target[part], (region & allowed)[part], PROTOTYPE_MOMENTUM
                )

    def _spread(self) -> torch.Tensor:
        """Mean of 1 - cosine between two different prototypes of one class: 0 when they have collapsed."""
        unit = F.normalize(self.student.prototypes.vectors, dim=-1)
        with full_precision(unit.device):
            cosine = unit @ unit.transpose(1, 2)
        k = cosine.shape[-1]
        return (1 - cosine).sum() / max(1, unit.shape[0] * k * (k - 1))
