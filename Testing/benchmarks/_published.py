"""One self-training step of MPER on the left atrium as it was published: the baseline of `step.py`.

Written from the description of the method, in the plain form in which it was published: float32, default memory
layout, teacher in training mode and two forward passes of it, largest components by skimage on the CPU, a one-hot
encoder that checks its input, one student pass for each mixed half, and prototypes updated in a Python loop over
classes and prototypes that asks the device at every turn. Left out, to the baseline's favour: heads whose output nobody
uses, reading and augmenting of patches (worker processes), logging.

Arrays are (k, j, i) instead of (x, y, z).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import label as connected_parts

from mper.dataloading.patch_sampler import Batch
from mper.methods.mixing import box_mask
from mper.methods.recipe import BOX_FRACTION, CONFIDENT, EMA, PROTOTYPE_MOMENTUM, PSEUDO_WEIGHT, PUBLISHED
from mper.nets.network import Network
from mper.nets.prototypes import TEMPERATURE


class Region(NamedTuple):
    """Labels (B, *S) that count where mask (*S) is 1, with their weight in the loss."""

    labels: torch.Tensor
    mask: torch.Tensor
    weight: float


class PublishedStep:
    """The published step; it keeps its own copies of student and teacher.

    Parameters
    ----------
    network : Network
        Both start from it, prototypes included.
    device : torch.device
    """

    def __init__(self, network: Network, device: torch.device):
        self.student = copy.deepcopy(network).to(device).train()
        self.teacher = copy.deepcopy(network).to(device).train().requires_grad_(False)
        self.prototypes = self.student.prototypes.vectors.clone()  # (classes, K, filters)
        self.optimiser = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def __call__(self, batch: Batch, prototype_weight: float) -> float:
        """One step on 4 labelled and 4 unlabelled patches; gives the loss."""
        half = batch.labelled // 2
        labelled_a, labelled_b = batch.image[:half], batch.image[half : 2 * half]
        unlabelled_a, unlabelled_b = batch.image[2 * half : 3 * half], batch.image[3 * half :]
        label_a, label_b = batch.label[:half], batch.label[half : 2 * half]
        with torch.no_grad():
            logits_a, logits_b = self.teacher(unlabelled_a).logits, self.teacher(unlabelled_b).logits
            pseudo_a, pseudo_b = largest_parts(logits_a), largest_parts(logits_b)
            mask = box_mask(unlabelled_a.shape[2:], BOX_FRACTION, batch.rng, unlabelled_a.device)
        mixed_l = labelled_a * mask + unlabelled_a * (1 - mask)
        mixed_u = unlabelled_b * mask + labelled_b * (1 - mask)
        loss_l = self._half(
            mixed_l, Region(label_a, mask, 1.0), Region(pseudo_a, 1 - mask, PSEUDO_WEIGHT), logits_a, prototype_weight
        )
        loss_u = self._half(
            mixed_u, Region(label_b, 1 - mask, 1.0), Region(pseudo_b, mask, PSEUDO_WEIGHT), logits_b, prototype_weight
        )
        loss = loss_l + loss_u
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for mean, now in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mean.mul_(EMA).add_((1 - EMA) * now)
        return loss.item()

    def _half(
        self, image: torch.Tensor, people: Region, pseudo: Region, teacher_logits: torch.Tensor, prototype_weight: float
    ) -> torch.Tensor:
        """Losses of one mixed half of the batch, and the prototype updates from it."""
        output = self.student(image)
        embedding = output.dropped
        similarity = self._similarity(embedding)  # (B, *S, classes, K)
        scores = (similarity.amax(-1) / TEMPERATURE).movedim(-1, 1)
        every = similarity.flatten(-2).movedim(-1, 1) / TEMPERATURE  # (B, classes * K, *S)
        with torch.no_grad():
            certain = teacher_logits.softmax(1).max(1)[0] > CONFIDENT
            self._update(embedding, similarity, scores, pseudo, certain)
            self._update(embedding, similarity, scores, people, torch.ones_like(certain))
        contrast = F.cross_entropy(every, every.argmax(1).detach(), ignore_index=0)
        prototype = mixed_loss(scores, people, pseudo) + PUBLISHED[3].contrast_weight * contrast
        return mixed_loss(output.logits, people, pseudo) + prototype_weight * prototype

    def _similarity(self, embedding: torch.Tensor) -> torch.Tensor:
        rows = F.normalize(embedding.movedim(1, -1).flatten(0, -2), dim=1)  # (B N, filters)
        cosines = rows @ F.normalize(self.prototypes.flatten(0, 1), dim=1).T
        return cosines.reshape(embedding.shape[0], *embedding.shape[2:], *self.prototypes.shape[:2])

    def _update(
        self,
        embedding: torch.Tensor,
        similarity: torch.Tensor,
        scores: torch.Tensor,
        region: Region,
        allowed: torch.Tensor,
    ) -> None:
        """Foreground prototypes follow the correctly assigned voxels of a region, one after the other."""
        chosen = region.mask == 1
        labels = region.labels[:, chosen].flatten()
        rows = embedding.movedim(1, -1)[:, chosen].flatten(0, 1)
        nearest = similarity[:, chosen].argmax(-1).flatten(0, 1)  # (N, classes)
        counts = ((scores.argmax(1) == region.labels) & allowed)[:, chosen].flatten() & (labels != 0)
        labels, rows, nearest = labels[counts], rows[counts], nearest[counts]
        own = nearest[torch.arange(len(labels), device=labels.device), labels]
        for c in labels.unique().tolist():
            for k in range(self.prototypes.shape[1]):
                member = (labels == c) & (own == k)
                if member.sum().item() > 0:
                    moved = PROTOTYPE_MOMENTUM * self.prototypes[c, k] + (1 - PROTOTYPE_MOMENTUM) * rows[member].mean(0)
                    self.prototypes[c, k] = moved


def largest_parts(logits: torch.Tensor) -> torch.Tensor:
    """Pseudo-labels (B, *S): softmax of class 1 at 0.5 or more, of each patch the largest component, on the CPU."""
    masks = (logits.softmax(1)[:, 1] >= 0.5).cpu().numpy()
    kept = []
    for mask in masks:
        parts = connected_parts(mask)
        found = parts.max() > 0
        kept.append(parts == np.bincount(parts.flat)[1:].argmax() + 1 if found else mask)
    return torch.from_numpy(np.stack(kept)).long().to(logits.device)


def mixed_loss(logits: torch.Tensor, people: Region, pseudo: Region) -> torch.Tensor:
    """Half of the weighted Dice and cross entropy of both regions."""
    loss = torch.zeros((), device=logits.device)
    for region in (people, pseudo):
        cross = (F.cross_entropy(logits, region.labels, reduction="none") * region.mask).sum() / region.mask.sum()
        loss = loss + region.weight * (dice_loss(logits, region) + cross)
    return loss / 2


def dice_loss(logits: torch.Tensor, region: Region) -> torch.Tensor:
    """1 - Dice inside the region, for each sample and class."""
    probabilities = logits.softmax(1)
    truth = one_hot(region.labels, logits.shape[1])
    overlap = (probabilities * truth * region.mask).flatten(2).sum(2)
    total = ((probabilities + truth) * region.mask).flatten(2).sum(2)
    return 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean()


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(B, *S) -> (B, classes, *S), after asking the device twice whether the labels are in range."""
    if labels.max().item() >= classes or labels.min().item() < 0:
        raise ValueError(f"labels must lie in 0..{classes - 1}")
    out = torch.zeros((labels.shape[0], classes, *labels.shape[1:]), device=labels.device)
    return out.scatter_(1, labels[:, None], 1.0)
