"""Embedding matching with a mean teacher (Xie et al., MIDL 2024, PMLR 250:1741-1753).

The teacher labels unlabelled patches; where several of its predictions under dropout disagree, a voxel gets the label
of the nearest labelled voxel in the embedding; entropy is minimised:

    p_i  = 1/T sum_t softmax(teacher(x; dropout_t))_i,          u_i = - sum_c p_ic log p_ic,
    y_i  = argmax_c p_ic where u_i is low,  else the label of argmax_{j in bank} cos(e_i, e_j),
    L    = L_sup + w(t) { L(student(x_u), y) + beta H(student(x_u)) },     L = (Dice + CE) / 2.

The paper was written for the hip bone in CT; its code is not public, and what we know of it is its abstract and its
figure: a teacher and a student, uncertainty from Monte Carlo dropout, the nearest voxel of labelled images for
uncertain voxels, entropy minimisation, mean IoU and the 95 % Hausdorff distance in mm. All that follows is assumed.

- T = 4 passes. What lies before the first dropout (in the V-Net the whole encoder) is computed once for all of them.
- Uncertain are the 20 % of voxels with the highest entropy at first, fewer and fewer, 5 % at the end; never those
  below a tenth of the highest possible entropy.
- The embedding is what the classifier sees, before dropout, averaged over the passes. Smoothed or not as elsewhere.
- The bank holds 4096 voxels, equally many of each class, half of them within 3 voxels of another class. It is filled
  when self-training starts; from then on, in one step of four on average, 64 voxels of each class of one labelled
  patch replace the oldest. All of them come from the teacher without dropout, augmentation and turning.
- One nearest voxel decides. Where its cosine is below 0.5 the voxel stays unlabelled (255) and counts in no loss.
- Labels of reliable voxels are used however sure the teacher is; the recipe's `confident_only` does not exist here.
- Where structures come in one piece, only the largest one of the finished labels is kept, as in the other methods.
- Pseudo-labels are learned with Dice and cross entropy, as labels are; beta = 0.1; w(t) = exp(-5 (1 - r)^2) with r
  rising from 0 to 1 over the first quarter of self-training.
- Stages, lengths, optimiser and patches are those of BCP and MPER, to compare methods with the same means: first the
  labelled patches alone, then half as many unlabelled patches in addition, all in one batch of the student.
- In the `paper` recipe the teacher's batch norms use each batch's own statistics while it labels, as BCP's do; in
  `plus` the averaged ones. Dropout is on in both.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mper.dataloading.patch_sampler import Batch, PatchSampler, TrainingCase
from mper.labels import UNLABELLED
from mper.methods.base import Losses
from mper.methods.losses import over_resolutions, region_loss
from mper.methods.matching import Bank, nearest_labels
from mper.methods.mixing import largest_component
from mper.methods.recipe import Recipe
from mper.methods.stages import TwoStages
from mper.models.references import References
from mper.nets.network import Network, Output

PASSES = 4  # T
BANK_VOXELS = 4096
NEAR = 0.5  # cosine below which nothing is near
_UNCERTAIN = (0.2, 0.05)  # share of the voxels, at the start and at the end of self-training
_CERTAIN_ENTROPY = 0.1  # of the highest possible one, below which the teacher is believed
_ENTROPY_WEIGHT = 0.1  # beta
_RAMP = 0.25  # of self-training
_RENEWED, _RENEWAL = 64, 0.25  # voxels of each class, and in which share of the steps
_FILLED_FROM = {3: 16, 2: 64}  # patches, by dimensions
_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)


class EmbeddingMatching(TwoStages):
    """A mean teacher whose uncertain labels are taken from the nearest labelled voxels."""

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        if not hasattr(network.backbone, "before_dropout"):
            raise ValueError(
                f"embedding-matching predicts several times under dropout, which backbone {network.config.kind} "
                "does not support; choose another one, such as --backbone vnet or unet"
            )
        super().__init__(network, recipe, batch, keep_largest)
        self.bank = Bank(self.config.classes, max(1, BANK_VOXELS // self.config.classes), self.config.filters)

    def patch_counts(self, t: float) -> tuple[int, int]:
        return (self.batch, 0) if t < self.pretrain_share else (self.batch, max(1, self.batch // 2))

    def weight(self, t: float) -> float:
        """w(t)."""
        return math.exp(-5 * (1 - min(1.0, self.progress(t) / _RAMP)) ** 2)

    def uncertain_share(self, t: float) -> float:
        """Share of the voxels whose labels are matched with labelled voxels."""
        first, last = _UNCERTAIN
        return first + (last - first) * self.progress(t)

    def prepare(self, t: float, sampler: PatchSampler, rng: np.random.Generator) -> None:
        super().prepare(t, sampler, rng)
        if self.stage == 1 and rng.random() < _RENEWAL:
            number = int(rng.integers(len(sampler.labelled)))
            self._add_to_bank(self.teacher, sampler, number, _RENEWED, rng)

    def start_selftraining(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        super().start_selftraining(sampler, rng)
        self.fill_bank(self.teacher, sampler, rng)

    def finish(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """Fill the bank from the result, whose predictions it explains; prototypes are made as by the other methods."""
        super().finish(sampler, rng)
        self.fill_bank(self.result, sampler, rng)
        self.references = _references(self.bank, sampler.labelled)

    def fill_bank(self, network: Network, sampler: PatchSampler, rng: np.random.Generator) -> None:
        """Fill the bank anew from labelled patches of as many scans as there are, each placed on a class in turn.

        Raises
        ------
        ValueError
            If no labelled scan shows one of the classes: nothing could ever be matched with it.
        """
        self.bank.clear()
        patches = _FILLED_FROM[sampler.dimensions]
        each = math.ceil(self.bank.size / max(1, patches // self.config.classes))
        cases = rng.permutation(len(sampler.labelled))
        for n in range(patches):
            number = int(cases[n // self.config.classes % len(cases)])
            wanted = n % self.config.classes
            voxel = _voxel_of(sampler.labelled[number], wanted, rng)
            self._add_to_bank(network, sampler, number, min(each, self.bank.size), rng, voxel)
        for c in torch.nonzero(self.bank.written == 0)[:, 0].tolist():  # shown by a scan that had no turn
            showing = [n for n, case in enumerate(sampler.labelled) if _shows(case, c)]
            if not showing:
                raise ValueError(
                    f"embedding-matching needs labelled voxels of each class, and none of the "
                    f"{len(sampler.labelled)} labelled scans has one of class {c}; label some, or choose another method"
                )
            number = showing[int(rng.integers(len(showing)))]
            voxel = _voxel_of(sampler.labelled[number], c, rng)
            self._add_to_bank(network, sampler, number, min(each, self.bank.size), rng, voxel)

    @torch.no_grad()
    def _add_to_bank(
        self,
        network: Network,
        sampler: PatchSampler,
        number: int,
        count: int,
        rng: np.random.Generator,
        voxel: tuple[int, int, int] | None = None,
    ) -> None:
        """Put voxels of one labelled patch into the bank."""
        training = network.training
        network.eval()
        patch, corner = sampler.labelled_patch_at(sampler.labelled[number], rng, voxel)
        output = network(patch.image.contiguous(memory_format=network.memory_format()))
        self.bank.add(output.embedding[0], patch.label[0], number, corner, count, rng)
        network.train(training)

    def forward(self, batch: Batch, t: float) -> Losses:
        output = self.student(self.augment(batch.image, batch.rng))
        labelled = self._loss(_part(output, slice(0, batch.labelled)), batch.label[: batch.labelled])
        if len(batch.image) == batch.labelled:
            return Losses(labelled, {"labelled": labelled.detach()})
        source = self.label_source
        assert isinstance(source, EmbeddingMatching)  # both of a co-training are of one method
        pseudo, shares = source.match_labels(batch.image[batch.labelled :], t)
        rest = _part(output, slice(batch.labelled, None))
        unlabelled = self._loss(rest, pseudo)
        log_p = rest.logits.float().log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        total = labelled + self.weight(t) * (unlabelled + _ENTROPY_WEIGHT * entropy)
        parts = {"labelled": labelled, "pseudo": unlabelled, "entropy": entropy, **shares}
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def _loss(self, output: Output, target: torch.Tensor) -> torch.Tensor:
        """(Dice + CE) / 2 where something is known."""

        def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return region_loss(logits, target, torch.ones_like(target), masked=self.recipe.masked_dice) / 2

        return over_resolutions(loss, output, target)

    @torch.no_grad()
    def match_labels(self, image: torch.Tensor, t: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pseudo-labels of clean unlabelled patches.

        Parameters
        ----------
        image : (B, 1, *S) tensor
        t : float

        Returns
        -------
        labels : (B, *S) int64 tensor
            255 where the teacher is uncertain and no labelled voxel is near.
        shares : dict of str to tensor
            Of all voxels: `uncertain` ones, `abstained` ones (255), and those whose label was `changed`.
        """
        probability, embedding = self._predict_with_dropout(image)
        entropy = -(probability * probability.clamp(min=1e-8).log()).sum(1).flatten()  # (B * N,)
        labels = probability.max(1).indices  # on a CPU six times faster than argmax
        count = max(1, round(self.uncertain_share(t) * len(entropy)))
        level, worst = entropy.topk(count, sorted=False)
        rows = embedding.movedim(1, -1).flatten(0, -2)[worst]  # (count, filters)
        matched = nearest_labels(rows, self.bank.vectors, NEAR)
        by_teacher = labels.flatten()[worst]
        uncertain = level > _CERTAIN_ENTROPY * math.log(self.config.classes)
        nothing_near = uncertain & (matched == UNLABELLED)
        changed = uncertain & ~nothing_near & (matched != by_teacher)
        labels = labels.flatten().index_copy(0, worst, torch.where(changed, matched, by_teacher)).view_as(labels)
        if self.keep_largest:
            labels = largest_component(labels, self.config.classes)
        abstained = torch.zeros_like(entropy, dtype=torch.bool).index_copy(0, worst, nothing_near)
        labels = torch.where(abstained.view_as(labels), UNLABELLED, labels)
        shares = {"uncertain": uncertain, "abstained": nothing_near, "changed": changed}
        return labels, {name: which.sum() / len(entropy) for name, which in shares.items()}

    def _predict_with_dropout(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean probability (B, classes, *S) and mean embedding (B, filters, *S) of the teacher under dropout."""
        self.teacher.train(not self.recipe.clean_teacher)
        for module in self.teacher.modules():
            if isinstance(module, _DROPOUTS):
                module.train()
        image = image.contiguous(memory_format=self.teacher.memory_format())
        probability, features = torch.zeros(()), torch.zeros(())
        for n, output in enumerate(self.teacher.passes(image, PASSES)):
            p = output.logits.float().softmax(1)
            probability = p if n == 0 else probability + p
            features = output.features.float() if n == 0 else features + output.features
            last = output
        return probability / PASSES, last._replace(features=features / PASSES).embedding


def _part(output: Output, which: slice) -> Output:
    """Some patches of a batch's output."""
    return output._replace(logits=output.logits[which], deep=tuple(logits[which] for logits in output.deep))


def _voxel_of(case: TrainingCase, c: int, rng: np.random.Generator) -> tuple[int, int, int] | None:
    """A voxel of class `c`, None where the case shows none."""
    assert case.label is not None
    voxels = torch.nonzero(case.label.flatten() == c)[:, 0]
    if len(voxels) == 0:
        return None
    k, j, i = torch.unravel_index(voxels[int(rng.integers(len(voxels)))], case.label.shape)
    return int(k), int(j), int(i)


def _shows(case: TrainingCase, c: int) -> bool:
    return case.label is not None and bool((case.label == c).any())


def _references(bank: Bank, cases: tuple[TrainingCase, ...]) -> References:
    """The bank's voxels, with the scans that they are from."""
    classes, places = torch.nonzero(bank.case >= 0, as_tuple=True)
    number, position = bank.case[classes, places].cpu(), bank.position[classes, places].cpu()
    index = torch.zeros(len(classes), 3, dtype=torch.int64)
    for n, case in enumerate(cases):
        own = number == n
        grid = case.grid
        place = position[own]
        inside = place.round().long() if grid is None else torch.from_numpy(grid.to_source(place.numpy()))
        index[own] = inside + torch.tensor(case.start)
    vectors = F.normalize(bank.vectors[classes, places].float(), dim=1).cpu()
    return References(vectors, classes.cpu(), number.long(), index, tuple(case.id for case in cases))
