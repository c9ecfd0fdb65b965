"""Losses against plain loops, and label 255, which must never matter."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mper.labels import UNLABELLED
from mper.methods.losses import prototype_contrast, region_loss, region_losses

CLASSES = 3
BOTH = pytest.mark.parametrize("spatial", [(4, 3), (2, 4, 3)], ids=["2-D", "3-D"])
DICE = pytest.mark.parametrize("masked", [True, False], ids=["masked", "published"])


def example(spatial: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels with some 255, and a region."""
    torch.manual_seed(seed)
    logits = torch.randn(2, CLASSES, *spatial)
    target = torch.randint(0, CLASSES, (2, *spatial))
    target[torch.rand(target.shape) < 0.2] = UNLABELLED
    weight = (torch.rand(2, *spatial) < 0.6).float()
    return logits, target, weight


def by_a_loop(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, masked: bool) -> float:
    """Dice + cross entropy, voxel by voxel; the form of the Dice as `region_losses` says."""
    three_d = logits.dim() == 5
    per_sample = three_d and not masked
    squared = not three_d and not masked
    smooth = 1e-10 if squared else 1e-5
    probabilities = logits.softmax(1).movedim(1, -1).flatten(1, -2)  # (B, N, C)
    entropy, counted = 0.0, 0.0
    overlap: dict[tuple[int, int], float] = {}
    total: dict[tuple[int, int], float] = {}
    for b in range(logits.shape[0]):
        for p, y, w in zip(
            probabilities[b].tolist(), target[b].flatten().tolist(), weight[b].flatten().tolist(), strict=True
        ):
            if y == UNLABELLED:
                continue
            entropy -= w * math.log(p[y])
            counted += w
            for c in range(CLASSES):
                inside = 1.0 if squared and c == 0 else w  # the published 2-D Dice does not mask the background
                key = (b if per_sample else 0, c)
                overlap[key] = overlap.get(key, 0) + inside * p[c] * (y == c)
                total[key] = total.get(key, 0) + inside * ((p[c] ** 2 if squared else p[c]) + (y == c))
    dice = [(2 * overlap[key] + smooth) / (total[key] + smooth) for key in overlap]
    return 1 - sum(dice) / len(dice) + entropy / max(counted, 1)


@BOTH
@DICE
def test_region_loss_equals_a_loop_over_voxels(spatial: tuple[int, ...], masked: bool) -> None:
    logits, target, weight = example(spatial)
    loss = region_loss(logits, target, weight, masked=masked)
    assert loss.item() == pytest.approx(by_a_loop(logits, target, weight, masked), abs=1e-5)


@BOTH
@DICE
def test_several_regions_at_once_equal_each_by_itself(spatial: tuple[int, ...], masked: bool) -> None:
    logits, target, weight = example(spatial)
    both = region_losses(logits, target, [weight, 1 - weight], masked=masked)
    alone = [region_loss(logits, target, w, masked=masked) for w in (weight, 1 - weight)]
    torch.testing.assert_close(both, torch.stack(alone))
    assert alone[0] != alone[1]


@BOTH
@DICE
def test_unlabelled_voxels_have_no_gradient_and_no_say(spatial: tuple[int, ...], masked: bool) -> None:
    logits, target, weight = example(spatial)
    logits.requires_grad_()
    loss = region_loss(logits, target, weight, masked=masked)
    loss.backward()
    unlabelled = (target == UNLABELLED)[:, None].expand_as(logits)
    assert logits.grad is not None
    assert (logits.grad[unlabelled] == 0).all() and (logits.grad[~unlabelled] != 0).any()
    with torch.no_grad():
        changed = torch.where(unlabelled, 100 * torch.randn_like(logits), logits)
        torch.testing.assert_close(region_loss(changed, target, weight, masked=masked), loss.detach())


@BOTH
def test_masked_dice_sees_its_region_only(spatial: tuple[int, ...]) -> None:
    logits, target, weight = example(spatial)
    logits.requires_grad_()
    region_loss(logits, target, weight, masked=True).backward()
    outside = (weight == 0)[:, None].expand_as(logits)
    assert logits.grad is not None and (logits.grad[outside] == 0).all()


def test_published_dice_of_slices_sees_the_background_everywhere() -> None:
    logits, target, weight = example((4, 3))
    logits.requires_grad_()
    region_loss(logits, target, weight, masked=False).backward()
    outside = ((weight == 0) & (target != UNLABELLED))[:, None].expand_as(logits)
    assert logits.grad is not None and (logits.grad[outside] != 0).any()


@BOTH
@DICE
def test_nothing_to_learn_is_no_loss(spatial: tuple[int, ...], masked: bool) -> None:
    logits, target, weight = example(spatial)
    nothing = torch.full_like(target, UNLABELLED)
    assert region_loss(logits, nothing, weight, masked=masked).item() == pytest.approx(0, abs=1e-6)


@DICE
def test_perfect_answer_has_no_loss(masked: bool) -> None:
    _, target, weight = example((2, 4, 3))
    perfect = 40.0 * F.one_hot(torch.where(target == UNLABELLED, 0, target), CLASSES).movedim(-1, 1)
    assert region_loss(perfect, target, weight, masked=masked).item() == pytest.approx(0, abs=1e-4)


def test_autocast_does_not_change_the_loss() -> None:
    logits, target, weight = example((2, 4, 3))
    plain = region_loss(logits, target, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(region_loss(logits, target, weight), plain)


def similarities(spatial: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, CLASSES, (2, *spatial))
    target[0, 0] = UNLABELLED
    return torch.rand(2, CLASSES, 2, *spatial) * 2 - 1, target


@BOTH
@pytest.mark.parametrize("by_label", [True, False], ids=["by label", "published"])
def test_contrast_is_a_cross_entropy_over_all_prototypes(spatial: tuple[int, ...], by_label: bool) -> None:
    similarity, target = similarities(spatial)
    scores = similarity.flatten(1, 2) / 0.1
    wanted = torch.empty_like(target)
    for where in torch.cartesian_prod(*[torch.arange(n) for n in target.shape]).tolist():
        b, *voxel = where
        y = int(target[tuple(where)])
        if y == UNLABELLED:
            wanted[tuple(where)] = -1
        elif by_label:
            wanted[tuple(where)] = 2 * y + int(similarity[(b, y, slice(None), *voxel)].argmax())
        else:
            nearest = int(scores[(b, slice(None), *voxel)].argmax())
            wanted[tuple(where)] = nearest if nearest else -1  # the published ignore_index=0
    expected = F.cross_entropy(scores, wanted, ignore_index=-1)
    torch.testing.assert_close(prototype_contrast(similarity, target, 0.1, by_label=by_label), expected)


@pytest.mark.parametrize("by_label", [True, False], ids=["by label", "published"])
def test_unlabelled_voxels_have_no_contrast(by_label: bool) -> None:
    similarity, target = similarities((2, 4, 3))
    similarity.requires_grad_()
    prototype_contrast(similarity, target, 0.1, by_label=by_label).backward()
    unlabelled = (target == UNLABELLED)[:, None, None].expand_as(similarity)
    assert similarity.grad is not None
    assert (similarity.grad[unlabelled] == 0).all() and (similarity.grad[~unlabelled] != 0).any()


def test_contrast_of_nothing_is_zero() -> None:
    similarity, target = similarities((4, 3))
    assert prototype_contrast(similarity, torch.full_like(target, UNLABELLED), 0.1, by_label=True) == 0
