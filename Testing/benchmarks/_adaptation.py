"""Ways to adapt a model to another sequence that the library does not have: methods for the benchmark alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from mper.dataloading.patch_sampler import Batch, PatchSampler
from mper.methods.base import Losses
from mper.methods.bcp import BCP
from mper.methods.losses import region_loss
from mper.methods.mixing import box_mask, paste
from mper.methods.recipe import BOX_FRACTION, Recipe
from mper.methods.registry import METHODS
from mper.methods.supervised import Supervised
from mper.nets.network import Network

_ENTROPY_WEIGHT = 0.1
_STATISTICS_PATCHES = 48


class EntropyMinimisation(Supervised):
    """Supervised, and low entropy on unlabelled patches (TENT's objective next to labels; Wang et al., ICLR 2021)."""

    def patch_counts(self, t: float) -> tuple[int, int]:
        return self.batch // 2, self.batch // 2

    def forward(self, batch: Batch, t: float) -> Losses:
        labelled = batch.labelled
        whole = self.supervised_losses(batch)  # unlabelled patches are 255 and count nowhere, but in the batch norm
        output = self.student(self.augment(batch.image[labelled:], batch.rng))
        log_p = output.logits.float().log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        return Losses(whole.total + _ENTROPY_WEIGHT * entropy, {**whole.parts, "entropy": entropy.detach()})


class NormsOfAllScans(Supervised):
    """Supervised; batch norm sees an unlabelled patch for each labelled one."""

    def patch_counts(self, t: float) -> tuple[int, int]:
        return self.batch, self.batch // 2


class FinalStatistics(Supervised):
    """Supervised; in the end the statistics of batch norm are those of all scans, labelled or not."""

    def finish(self, sampler: PatchSampler, rng: np.random.Generator) -> None:
        renew_statistics(self.result, sampler, rng)
        super().finish(sampler, rng)


class StatisticsAlone(FinalStatistics):
    """Nothing is learned: only the statistics of batch norm are renewed."""

    def forward(self, batch: Batch, t: float) -> Losses:
        return Losses(0.0 * sum(p.sum() for p in self.student.parameters()), {})

    def after_step(self) -> None:
        return


@torch.no_grad()
def renew_statistics(network: Network, sampler: PatchSampler, rng: np.random.Generator) -> None:
    """The means and variances of batch norm, averaged over patches of the training scans (Li et al., AdaBN, 2016)."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all
    training = network.training
    network.eval()
    for norm in norms:
        norm.train()
    for _ in range(_STATISTICS_PATCHES // 4):
        image = sampler.batch(1, 3, rng).image
        network(image.contiguous(memory_format=network.memory_format()))
    network.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class TaughtLate(BCP):
    """Anchored copy-paste that begins after half of the run also where a model is fine-tuned."""

    @property
    def pretrain_share(self) -> float:
        return 0.4


class Consistency(Supervised):
    """Supervised, and whole unlabelled patches with the teacher's labels where it is sure (mean teacher, FixMatch)."""

    def patch_counts(self, t: float) -> tuple[int, int]:
        return (self.batch, 0) if t < 0.4 else (self.batch // 2, self.batch // 2)

    def forward(self, batch: Batch, t: float) -> Losses:
        if len(batch.image) > batch.labelled:
            with torch.no_grad():
                image = batch.image[batch.labelled :]
                logits = self.teacher(image.contiguous(memory_format=self.teacher.memory_format())).logits.float()
                sure, label = F.softmax(logits, 1).max(1)
                assert batch.inside is not None
                known = (sure > 0.8) & batch.inside[batch.labelled :]
                label = torch.where(known, label, 255)
            batch = batch._replace(label=torch.cat([batch.label[: batch.labelled], label]))
        return self.supervised_losses(batch)


class LateMixing(Supervised):
    """Supervised; in the last 30 % every second patch is a mixture of two labelled ones."""

    def forward(self, batch: Batch, t: float) -> Losses:
        if t < 0.7 or self.batch < 2:
            return super().forward(batch, t)
        half = self.batch // 2
        mask = box_mask(batch.image.shape[2:], BOX_FRACTION, batch.rng, batch.image.device)
        if batch.rng.random() < 0.5:
            mask = 1 - mask
        image = torch.cat([batch.image[:half], paste(batch.image[half:], batch.image[:half], mask)])
        label = torch.cat([batch.label[:half], paste(batch.label[half:], batch.label[:half], mask)])
        output = self.student(self.augment(image, batch.rng))
        whole, mixtures = (
            region_loss(output.logits[part], label[part], torch.ones_like(label[part])) / 2
            for part in (slice(None, half), slice(half, None))
        )
        return Losses(whole + mixtures, {"labelled": whole.detach()})


class Prototypical(BCP):
    """Anchored copy-paste whose pseudo-labels count where prototypes of the new sequence say the same.

    Prototypes are the k-means centres of labelled voxels of the new sequence, fitted anew now and then; what is far
    from all of them is left out.
    """

    _NEAR = 0.6

    @property
    def pretrain_share(self) -> float:
        return 0.4

    def prepare(self, t: float, sampler: PatchSampler, rng: np.random.Generator) -> None:
        super().prepare(t, sampler, rng)
        if self.stage == 1 and t >= getattr(self, "next_fit", 0.0):
            self.next_fit = t + 0.15
            self.fit_prototypes(self.teacher, sampler, rng)

    @torch.no_grad()
    def pseudo_labels(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels, confidence = super().pseudo_labels(image)
        output = self.teacher(image.contiguous(memory_format=self.teacher.memory_format()))
        best = self.student.prototypes.similarity(output.embedding).amax(2)
        near, said = best.max(1)
        agree = (said == labels) & (near > self._NEAR)
        return labels, torch.where(agree, confidence, torch.zeros_like(confidence))


class ByPrototypes(Prototypical):
    """The same, but the label is that of the nearest prototype, where the margin to the other class is clear."""

    @torch.no_grad()
    def pseudo_labels(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels, _ = BCP.pseudo_labels(self, image)
        output = self.teacher(image.contiguous(memory_format=self.teacher.memory_format()))
        best = self.student.prototypes.similarity(output.embedding).amax(2)
        scores = (best / 0.1).softmax(1)
        sure, said = scores.max(1)
        near = best.amax(1)
        said = torch.where(labels == 255, labels, said)
        return said, torch.where(near > self._NEAR, sure, torch.zeros_like(sure))


class EncoderAlone(Supervised):
    """Supervised; the decoder, which knows the shape, stays as it was."""

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        super().__init__(network, recipe, batch, keep_largest)
        for part in (network.backbone.up, network.backbone.decoder, network.backbone.classifier):
            part.requires_grad_(False)


class NormsAlone(Supervised):
    """Supervised; only scale and shift of batch norm, and the classifier, are learned."""

    def __init__(self, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True):
        super().__init__(network, recipe, batch, keep_largest)
        network.requires_grad_(False)
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(True)
        network.backbone.classifier.requires_grad_(True)


@dataclass(frozen=True)
class Way:
    """How a model is adapted.

    Parameters
    ----------
    name, title : str
    method : str or None
        Of the library, or of this file; None: the model stays as it is.
    cross_scanner : bool
        Augmentation of contrasts and resolutions.
    constants : mapping of str to float
        Constants of the library, by their full names, that it is measured with.
    """

    name: str
    title: str
    method: str | None
    cross_scanner: bool = False
    constants: Mapping[str, float] = field(default_factory=dict)


_OWN = {
    "statistics": StatisticsAlone,
    "final-statistics": FinalStatistics,
    "norms-of-all": NormsOfAllScans,
    "norms-alone": NormsAlone,
    "encoder-alone": EncoderAlone,
    "late-mixing": LateMixing,
    "entropy": EntropyMinimisation,
    "consistency": Consistency,
    "late-bcp": TaughtLate,
    "prototypes-agree": Prototypical,
    "prototypes-label": ByPrototypes,
}
for _name, _class in _OWN.items():
    _like = METHODS["bcp" if issubclass(_class, BCP) else "supervised"]
    METHODS[_name] = replace(
        _like, name=_name, implementation=f"{__name__}:{_class.__name__}", uses_unlabelled=True, default_for=()
    )

_NOT_AVERAGED = {"mper.training.learner.START_SHARE": 0.0}
_LOW_RATE = {**_NOT_AVERAGED, "mper.training.setup._FULL_RATE": 2e-4}


def _screened(name: str, title: str, method: str, cross_scanner: bool = False) -> Way:
    """A way whose result is not averaged with the start model, to compare with `plain`."""
    return Way(name, title, method, cross_scanner, _NOT_AVERAGED)


WAYS = {
    way.name: way
    for way in (
        Way("none", "no adaptation", None),
        _screened("statistics", "batch norm statistics of the new scans, no label", "statistics"),
        Way("low-rate", "supervised, rate 2e-4, not averaged (before)", "supervised", constants=_LOW_RATE),
        _screened("plain", "supervised, not averaged", "supervised"),
        Way("supervised", "supervised (default)", "supervised"),
        Way("bcp", "bcp (default)", "bcp"),
        Way("mper", "mper (default)", "mper"),
        _screened("plain-bcp", "bcp, not averaged", "bcp"),
        _screened("late-bcp", "bcp, supervised for 40 %, not averaged", "late-bcp"),
        _screened("prototypes-agree", "the same, labels that prototypes agree with", "prototypes-agree"),
        _screened("prototypes-label", "the same, labels of prototypes", "prototypes-label"),
        _screened("plain-mper", "mper, not averaged", "mper"),
        _screened("embedding-matching", "embedding-matching, not averaged", "embedding-matching"),
        _screened("consistency", "mean teacher on whole patches, from 40 %", "consistency"),
        _screened("entropy", "entropy minimisation", "entropy"),
        _screened("cross-scanner", "contrasts and resolutions randomised", "supervised", True),
        _screened("late-mixing", "labelled patches mixed late", "late-mixing"),
        _screened("norms-of-all", "batch norm sees unlabelled patches", "norms-of-all"),
        _screened("final-statistics", "batch norm statistics of all scans", "final-statistics"),
        _screened("norms-alone", "batch norm and classifier learn alone", "norms-alone"),
        _screened("encoder-alone", "the encoder learns alone", "encoder-alone"),
    )
}
"""By name, in the order of the tables."""
