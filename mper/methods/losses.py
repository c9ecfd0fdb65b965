"""Losses over a region of each patch.

`weight` is (B, *S), 1 where a voxel counts and 0 where not; a voxel labelled 255 never counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mper.labels import UNLABELLED


def region_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, *, masked: bool = True
) -> torch.Tensor:
    """Dice + cross entropy over a region: the bracket [Dice + CE] of BCP's and MPER's mixed loss.

    Parameters
    ----------
    logits : (B, C, *S) tensor
    target : (B, *S) int64 tensor
        255 is ignored.
    weight : (B, *S) float tensor
        Region mask.
    masked : bool
        Dice as in `Recipe.masked_dice`; False gives the published Dice of each dimension (3-D per
        sample; 2-D over the batch, squared denominators, background not masked).
    """
    logits = logits.float()
    counts = weight * (target != UNLABELLED)
    inside = torch.where(target == UNLABELLED, 0, target)
    entropy = F.cross_entropy(logits, inside, reduction="none")
    cross = (entropy * counts).sum() / counts.sum().clamp(min=1)
    probabilities = logits.softmax(1)
    truth = F.one_hot(inside, logits.shape[1]).movedim(-1, 1).float()
    if masked:
        dice = _dice(probabilities, truth, counts[:, None], per_sample=False)
    elif logits.dim() == 5:
        dice = _dice(probabilities, truth, counts[:, None], per_sample=True)
    else:
        dice = _published_dice_2d(probabilities, truth, counts[:, None])
    return dice + cross


def _dice(probabilities: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, *, per_sample: bool) -> torch.Tensor:
    """1 - mean Dice over classes (and samples), background included."""
    axes = tuple(range(2, probabilities.dim())) if per_sample else (0, *range(2, probabilities.dim()))
    overlap = (probabilities * truth * weight).sum(axes)
    total = ((probabilities + truth) * weight).sum(axes)
    return 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean()


def _published_dice_2d(probabilities: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.expand_as(probabilities).clone()
    weight[:, 0] = 1  # the published code's mask encoder leaves the background unmasked
    axes = (0, *range(2, probabilities.dim()))
    overlap = (probabilities * truth * weight).sum(axes)
    total = ((probabilities**2 + truth**2) * weight).sum(axes)
    return 1 - ((2 * overlap + 1e-10) / (total + 1e-10)).mean()


def prototype_contrast(similarity: torch.Tensor, target: torch.Tensor, temperature: float, *, by_label: bool) -> torch.Tensor:
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
    _, classes, per_class = similarity.shape[:3]
    scores = similarity.flatten(1, 2) / temperature  # (B, classes * K, *S)
    with torch.no_grad():
        if by_label:
            inside = torch.where(target == UNLABELLED, 0, target)
            index = inside[:, None, None].expand(-1, 1, per_class, *target.shape[1:])
            wanted = inside * per_class + similarity.gather(1, index)[:, 0].argmax(1)
            wanted = torch.where(target == UNLABELLED, -1, wanted)
        else:
            wanted = scores.argmax(1)
            wanted = torch.where(wanted == 0, -1, wanted)
        count = (wanted >= 0).sum().clamp(min=1)
    return F.cross_entropy(scores, wanted, ignore_index=-1, reduction="sum") / count
