"""Losses over a region of each patch.

A weight is (B, *S), 1 where a voxel counts and 0 where not; a voxel labelled 255 never counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mper.labels import UNLABELLED
from mper.nets.network import Output
from mper.utils.devices import full_precision


def region_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, *, masked: bool = True
) -> torch.Tensor:
    """Dice + cross entropy over one region; see `region_losses`."""
    return region_losses(logits, target, [weight], masked=masked)[0]


def region_losses(
    logits: torch.Tensor, target: torch.Tensor, weights: Sequence[torch.Tensor], *, masked: bool = True
) -> torch.Tensor:
    """Dice + cross entropy over each of several regions: the bracket [Dice + CE] of BCP's and MPER's mixed loss.

    Parameters
    ----------
    logits : (B, C, *S) tensor
    target : (B, *S) int64 tensor
        255 is ignored.
    weights : sequence of (B, *S) float tensors
        One region mask for each loss.
    masked : bool
        Dice as in `Recipe.masked_dice`; False gives the published Dice of each dimension (3-D per
        sample; 2-D over the batch, squared denominators, background not masked).

    Returns
    -------
    (regions,) tensor
    """
    with full_precision(logits.device):
        scores = logits.float().flatten(2)  # (B, C, N)
        wanted = target.flatten(1)
        known = wanted != UNLABELLED
        log_p = scores.log_softmax(1)
        p = log_p.exp()
        classes = torch.arange(scores.shape[1], device=scores.device)[:, None]
        truth = (wanted[:, None] == classes).float()  # (B, C, N), 0 for all classes where unlabelled
        weight = torch.stack([w.flatten(1) * known for w in weights], dim=2).float()  # (B, N, regions)
        entropy = -(log_p * truth).sum(1, keepdim=True)
        cross = (entropy @ weight)[:, 0].sum(0) / weight.sum((0, 1)).clamp(min=1)
        overlap = (p * truth) @ weight  # (B, C, regions)
        if masked or logits.dim() == 5:
            total = (p + truth) @ weight
            smooth = 1e-5
        else:
            total = (p.square() + truth) @ weight
            # The published code's mask encoder leaves the background unmasked.
            everywhere = known[..., None].float()
            background = [x[:, :1] @ everywhere for x in (p * truth, p.square() + truth)]
            overlap, total = (
                torch.cat([first.expand_as(x[:, :1]), x[:, 1:]], dim=1)
                for first, x in zip(background, (overlap, total), strict=True)
            )
            smooth = 1e-10
        if masked or logits.dim() == 4:  # over the batch, else for each sample
            overlap, total = overlap.sum(0, keepdim=True), total.sum(0, keepdim=True)
        dice = ((2 * overlap + smooth) / (total + smooth)).mean((0, 1))
        return 1 - dice + cross


def over_resolutions(loss: Callable[..., torch.Tensor], output: Output, *maps: torch.Tensor) -> torch.Tensor:
    """Deep supervision: `loss(logits, *maps)`, averaged over the resolutions at which a network gives logits.

    Weights are 1, 1/2, 1/4, ... from the finest on, divided by their sum (Isensee et al., nnU-Net).

    Parameters
    ----------
    loss : callable
    output : Output
        Of a network in training; without deep supervision it has one resolution.
    maps : (B, *S) tensors
        Targets and regions at full size; for coarser logits every second, fourth, ... voxel of them.
    """
    every = (output.logits, *output.deep)
    weights = [0.5**n for n in range(len(every))]
    total = torch.zeros((), device=output.logits.device)
    for weight, logits in zip(weights, every, strict=True):
        strides = [whole // part for whole, part in zip(maps[0].shape[1:], logits.shape[2:], strict=True)]
        window = (slice(None), *[slice(stride // 2, None, stride) for stride in strides])
        total = total + weight / sum(weights) * loss(logits, *[values[window] for values in maps])
    return total


def prototype_contrast(
    similarity: torch.Tensor, target: torch.Tensor, temperature: float, *, by_label: bool
) -> torch.Tensor:
    """Cross entropy over all prototypes: a voxel is pulled to one and pushed from the others.

    Parameters
    ----------
    similarity : (B, classes, K, *S) tensor
    target : (B, *S) int64 tensor
        Class of each voxel, 255 ignored.
    by_label : bool
        True: the target is the nearest prototype of the voxel's class (Zhou et al., CVPR 2022, PPC).
        False, as published with MPER: the nearest of all prototypes, and voxels whose nearest is
        background prototype 0 are ignored (its `ignore_index=0` means that prototype).
    """
    scores = similarity.flatten(3) / temperature  # (B, classes, K, N)
    wanted = target.flatten(1)
    every = scores.flatten(1, 2).logsumexp(1)  # (B, N)
    best = scores.amax(2)  # (B, classes, N): the score of the nearest prototype of each class
    counts = wanted != UNLABELLED
    if by_label:
        chosen = best.gather(1, torch.where(counts, wanted, 0)[:, None])[:, 0]
    else:
        chosen = best.amax(1)
        counts = counts & (scores[:, 0, 0] < chosen)
    return ((every - chosen) * counts).sum() / counts.sum().clamp(min=1)
