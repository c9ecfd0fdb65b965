"""DK-UXNet: two networks with queries teach each other (*Query Distribution Consistency*, ISBI 2024, arXiv 2311.12364).

One network sees a weak, the other a strong augmentation of the same patches, labelled (x, y) and unlabelled. Both
give class scores S and clusters C, the shares of a voxel that the queries of each class took (`mper.nets.kmax`):

    L = sum over both { Dice + CE (S, y) + NLL (log C, y) } + w(t) (L_segmentation + L_query)      [per voxel means]
    L_segmentation = Dice + CE of each network's S against the classes that the other sees, on unlabelled patches
    L_query = KL (C_1 || C_2) + KL (C_2 || C_1), on unlabelled patches
    w(t) = exp(-5 (1 - floor(it / 150) / 40)^2), of 9300 iterations

The published repository holds a supervised script with one network on another data set. What is drawn in the paper's
figure 2 and defined there: two networks, strong and weak views, a segmentation and a query loss on labelled patches,
a consistency of segmentations and one of clusters. Everything else is our assumption:

- The networks are two (no shared weights) and start from different random numbers, or both from the model that is
  fine-tuned (their classifiers from different numbers where it segments other structures).
- The weak view is the geometry of the patches alone, the strong one adds intensity augmentation to it.
- The result is the network of the weak view; with `Recipe.ema_result` its mean, averaged from the first step. It is
  the last one: nothing is chosen.
- The forms of L_segmentation (cross pseudo supervision; the scores that make pseudo-labels get no gradient) and of
  L_query, with gradients to both networks; the weight and ramp of both, those of the left-atrium literature.
- The query loss on labelled patches counts as much as CE. The published script has 0.1 times a sum over all voxels,
  which outweighs everything; 0.1 times a mean is too little: S may be made of any class's queries (W is free), and
  then a small structure is often segmented by those of the structure around it while its own get no voxel.
- Groups of queries follow the classes, as many for each; published are 16, 4 and the rest for background, organ and
  tumour.
- Optimiser, rate, patches and batch are those of the other methods (the published script: AdamW at 1e-4, crops of 96
  voxels of CT).
- There is no pre-training; both streams are there from the first step on.

Of the `plus` recipe: `early_prototypes` brings w to 1 within 40% of the run; `confident_only` leaves voxels out of
L_segmentation whose pseudo-label has less than 0.8 of its network's softmax; `cutmix` mixes the unlabelled patches of
the strong view among each other, and the weak view's predictions in the same way.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from mper.dataloading.augmentation import intensities
from mper.dataloading.patch_sampler import Batch, PatchSampler
from mper.labels import UNLABELLED
from mper.methods.base import Losses, Method
from mper.methods.losses import region_loss
from mper.methods.mixing import cutmix_mask, paste
from mper.methods.recipe import Recipe
from mper.nets.network import Network
from mper.utils.devices import full_precision

_EARLY = 0.4  # share of the run after which `early_prototypes` has full weight
_USABLE = 0.8  # softmax below which `confident_only` leaves a pseudo-label out
_SMALLEST = 1e-12  # share, in logarithms; below that of the farthest query (exp -20), which must still learn


class DKUXNet(Method):
    """Segmentation and query distribution of two networks, made consistent.

    `student` sees the weak views, `partner` the strong ones.
    """

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        if not network.has_queries:
            raise ValueError(f"method dk-uxnet needs a network with class queries, got a {network.config.kind}")
        super().__init__(network, recipe, batch, keep_largest)
        self.partner = Network(network.config)
        learned = {name: value for name, value in network.state_dict().items() if name in network.taken_over}
        self.partner.load_state_dict({**self.partner.state_dict(), **learned})

    def patch_counts(self, t: float) -> tuple[int, int]:
        return self.batch, self.batch

    def weight(self, t: float) -> float:
        """w(t)."""
        p = self.published
        if self.recipe.early_prototypes:
            ramp = min(1.0, t / _EARLY)
        else:
            iteration = round(t * (p.pretrain + p.selftrain), 6)  # rounded: 150 must not be 149.999
            ramp = min(1.0, math.floor(iteration / p.ramp_unit) / p.ramp_units)
        return math.exp(-5 * (1 - ramp) ** 2)

    def forward(self, batch: Batch, t: float) -> Losses:
        n = batch.labelled
        label, unlabelled = batch.label[:n], batch.image[n:]
        cut = torch.ones(unlabelled.shape[2:], device=unlabelled.device)
        if self.recipe.cutmix:
            cut = cutmix_mask(unlabelled.shape[2:], batch.rng, unlabelled.device)
        with full_precision(batch.image.device):
            shown = torch.cat([batch.image[:n], paste(unlabelled, unlabelled.flip(0), cut)])
            strong_view = intensities(shown.float(), batch.rng, self.recipe.cross_scanner)
        weak, strong = (
            network(view.contiguous(memory_format=network.memory_format()))
            for network, view in ((self.student, batch.image), (self.partner, strong_view))
        )
        assert weak.clusters is not None and strong.clusters is not None
        labelled = self._segmentation(weak.logits[:n], label) + self._segmentation(strong.logits[:n], label)
        queries = query_loss(weak.clusters[:n], label) + query_loss(strong.clusters[:n], label)

        scores, clusters = (paste(x[n:], x[n:].flip(0), cut) for x in (weak.logits, weak.clusters))
        pseudo = self._pseudo_label_loss(scores, strong.logits[n:]) + self._pseudo_label_loss(strong.logits[n:], scores)
        distance = symmetric_divergence(clusters, strong.clusters[n:])
        total = labelled + queries + self.weight(t) * (pseudo + distance)
        with torch.no_grad():
            agree = (scores.max(1).indices == strong.logits[n:].max(1).indices).float().mean()
        figures = {"labelled": labelled, "pseudo": pseudo, "queries": queries, "distance": distance, "agreement": agree}
        return Losses(total, {name: value.detach() for name, value in figures.items()})

    def _segmentation(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return region_loss(logits, label, torch.ones_like(label), masked=self.recipe.masked_dice)

    def _pseudo_label_loss(self, scores: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """Dice + CE of `scores` against the classes that `by` predicts."""
        certain, classes = by.detach().float().softmax(1).max(1)
        counts = (certain >= _USABLE).float() if self.recipe.confident_only else torch.ones_like(certain)
        return region_loss(scores, classes, counts, masked=self.recipe.masked_dice)

    @torch.no_grad()
    def finish(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """The queries of the result are its prototypes."""
        result = self.result
        training = result.training
        result.eval()
        result.prototypes.vectors.copy_(result.backbone.classifier.kernels())
        result.train(training)


def query_loss(clusters: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """- log of the share (B, C, *S) that the queries of a voxel's class (B, *S) took, mean over what is labelled."""
    with full_precision(clusters.device):
        known = label != UNLABELLED
        own = clusters.float().gather(1, torch.where(known, label, 0)[:, None])[:, 0]
        return -(own.clamp(min=_SMALLEST).log() * known).sum() / known.sum().clamp(min=1)


def symmetric_divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL (one || other) + KL (other || one) of shares (B, C, *S), mean over voxels."""
    with full_precision(one.device):
        p, q = one.float().clamp(min=_SMALLEST), other.float().clamp(min=_SMALLEST)
        return ((p - q) * (p.log() - q.log())).sum(1).mean()
