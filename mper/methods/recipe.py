"""What the `plus` recipe does differently from the published one, change by change.

The published constants are in `PUBLISHED`; where the two papers' data sets differ, they differ by
the number of dimensions (left atrium: 3-D V-Net; ACDC: 2-D U-Net).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mper.methods.registry import find_method


@dataclass(frozen=True)
class Recipe:
    """Each field is one change to the published recipe; False is as published.

    Parameters
    ----------
    poly_rate : bool
        Learning rate falls as (1 - t)^0.9 over the whole run, after a short warm-up.
    adamw : bool
        AdamW (1e-3, weight decay 1e-2) with gradients clipped at norm 12, instead of SGD (0.01, momentum
        0.9, weight decay 1e-4): in 400 steps on 72 left atria a held-back Dice of 0.873 against 0.773 of
        SGD with Nesterov momentum 0.99.
    affine : bool
        Rotation and scaling of patches instead of quarter turns and flips.
    strong_augmentation : bool
        Intensity augmentation of what the student sees; the teacher sees clean images.
    anchored : bool
        Of volumes: stage 1 is supervised training on whole labelled patches, for 70 % of the run (none where a trained
        model is fine-tuned); in stage 2 whole labelled patches stay in every batch, with as many mixtures of labelled
        and unlabelled ones. Pseudo-labels count neither beyond the scan nor where small parts were dropped. Scans
        that are labelled by strokes alone are trained on without it.
        What that gains over supervised training is in Testing/benchmarks/README.md.
    cutmix : bool
        Unlabelled patches are mixed among each other, with their pseudo-labels, before the copy-paste; not where
        `anchored` applies.
    ema_result : bool
        The result is the mean teacher, averaged from the first step, batch-norm buffers included.
    clean_teacher : bool
        The teacher predicts in eval mode: no dropout, running statistics.
    confident_only : bool
        Pseudo-labels below 0.8 of the teacher's softmax are left out of the loss.
    masked_dice : bool
        Dice over the voxels of its region only, plain denominators, and losses taken over the whole mixed
        batch at once. As published the losses of its two mixtures are added up, the 3-D Dice is per sample,
        and the 2-D Dice has squared denominators and an unmasked background.
    clean_embedding : bool
        Prototypes see embeddings of unit length, smoothed in 3-D (`mper.nets.network.NetConfig.smooth`), start from
        voxels that the network gets right, and there is no dropout between embedding and classifiers.
    all_prototypes : bool
        Background prototypes are updated too; as published they stay where k-means put them.
    early_prototypes : bool
        The prototype terms have full weight from 15% of self-training instead of 75% (3-D) or 100% (2-D); of
        dk-uxnet the terms of consistency, from 40% of the run instead of 65%.
    label_prototypes : bool
        The prototype contrast pulls a voxel to the nearest prototype of its label and ignores what is
        unlabelled; as published its target is the voxel's own nearest prototype, and voxels nearest to
        background prototype 0 are dropped.
    cross_scanner : bool
        Augmentation for scans of other scanners and sequences than the labelled ones (`mper.dataloading`): other
        contrasts, thick slices, other fields of view. No part of either recipe unless it is asked for.
    omitted_terms : tuple of str
        Terms of the method's loss that are left out for an ablation, of `mper.methods.registry.MethodInfo.loss_terms`.
    """

    poly_rate: bool = True
    adamw: bool = True
    affine: bool = True
    strong_augmentation: bool = True
    anchored: bool = True
    cutmix: bool = True
    ema_result: bool = True
    clean_teacher: bool = True
    confident_only: bool = True
    masked_dice: bool = True
    clean_embedding: bool = True
    all_prototypes: bool = True
    early_prototypes: bool = True
    label_prototypes: bool = True
    cross_scanner: bool = False
    omitted_terms: tuple[str, ...] = ()

    @classmethod
    def changes(cls, method: str) -> tuple[str, ...]:
        """The changes that make a difference to a method."""
        return tuple(name for name in _CHANGES if name not in find_method(method).unused_changes)

    @classmethod
    def named(cls, name: str, without: Sequence[str] = (), method: str = "mper") -> Recipe:
        """The recipe `paper` or `plus`.

        Parameters
        ----------
        name : {"plus", "paper"}
        without : sequence of str
            Changes that `plus` leaves out, and terms of the method's loss that either leaves out.
        method : str

        Raises
        ------
        ValueError
            If the recipe is unknown, or the recipe or the method does not have what is to be left out.
        """
        names, terms = cls.changes(method), find_method(method).loss_terms
        unknown = sorted(set(without) - {*names, *terms})
        if unknown:
            raise ValueError(
                f"method {method} has no change {unknown[0]!r} to leave out of recipe plus; "
                f"it has {', '.join((*names, *terms))}"
            )
        omitted = tuple(name for name in terms if name in without)
        if name == "plus":
            left_out: dict[str, Any] = {change: False for change in set(without) - set(omitted)}
            return cls(omitted_terms=omitted, **left_out)
        if name == "paper":
            if len(omitted) < len(set(without)):
                raise ValueError("recipe paper has no changes to leave out; use --recipe plus with --without")
            return cls(**dict.fromkeys(_CHANGES, False), omitted_terms=omitted)
        raise ValueError(f"unknown recipe {name!r}; known are {' and '.join(RECIPES)}")


_CHANGES = tuple(f.name for f in fields(Recipe) if f.default is True)
RECIPES = {"plus": "Improved (default)", "paper": "As published"}
"""Titles of the recipes, the default first."""


@dataclass(frozen=True)
class Published:
    """Constants of the published runs, for one number of dimensions.

    pretrain, selftrain : iterations; batch : labelled patches a step (self-training adds as many
    unlabelled); patch : (k, j, i); drops : self-training iterations at which the rate falls tenfold;
    ramp_unit, ramp_units : prototype weight = weight * exp(-5 (1 - floor(it / unit) / units)^2);
    prototype_weight, contrast_weight : of the prototype terms and of the contrast among them.
    """

    pretrain: int
    selftrain: int
    batch: int
    patch: tuple[int, int, int]
    drops: tuple[int, ...]
    ramp_unit: int
    ramp_units: int
    prototype_weight: float
    contrast_weight: float


PUBLISHED = {
    3: Published(1300, 8000, 4, (80, 112, 112), (2500, 5000, 7500), 150, 40, 1.0, 0.02),
    2: Published(10_000, 30_000, 12, (1, 256, 256), (), 150, 200, 0.5, 0.001),
}
PSEUDO_WEIGHT = 0.5  # of a region whose labels the teacher made
BOX_FRACTION = 2 / 3  # side of the copy-paste box against the patch
EMA = 0.99
PROTOTYPE_MOMENTUM = 0.99
CONFIDENT = 0.9  # teacher's softmax above which an unlabelled voxel may move a prototype
