"""What every method does with every backbone that it can have: learn, be saved in the middle, and go on as if not."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import blob_cases
from torch import nn

from mper.dataloading.patch_sampler import PatchSampler
from mper.methods import base, embedding_matching
from mper.methods.base import Losses, Method
from mper.methods.co_training import CoTraining
from mper.methods.losses import over_resolutions, region_loss
from mper.methods.recipe import Recipe
from mper.methods.registry import METHODS, make_method
from mper.nets.network import NetConfig, Network
from mper.nets.registry import BACKBONES
from mper.training.checkpoint import load_checkpoint, save_checkpoint
from mper.training.config import TrainConfig
from mper.training.setup import make_optimiser

pytestmark = pytest.mark.usefixtures("one_thread")

PATCH = {3: (16, 16, 16), 2: (1, 32, 32)}
STEPS = (0.0, 0.2, 0.75, 0.9)  # of both stages


CO_TRAINED = [name for name, method in METHODS.items() if method.co_training]
ALL = [
    pytest.param(name, kind, False, id=f"{name}-{kind}")
    for name, method in METHODS.items()
    for kind, backbone in BACKBONES.items()
    if method.takes(backbone) and kind != "ux-net"  # which is ux-net-small, 30 times as expensive
] + [pytest.param(name, "vnet", True, id=f"{name}-vnet-cotrained") for name in CO_TRAINED]
every = pytest.mark.parametrize("name, kind, two", ALL)


@pytest.fixture(autouse=True)
def few_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-means and banks from a handful of patches."""
    monkeypatch.setattr(base, "_PATCHES", {2: 4, 3: 3})
    monkeypatch.setattr(embedding_matching, "_FILLED_FROM", {2: 4, 3: 3})
    monkeypatch.setattr(embedding_matching, "BANK_VOXELS", 64)
    monkeypatch.setattr(embedding_matching, "_RENEWED", 8)


def made(name: str, kind: str, two: bool, seed: int = 0) -> tuple[Method, torch.optim.Optimizer]:
    """A method with a tiny network, and its optimiser."""
    torch.manual_seed(seed)
    recipe = Recipe.named("plus", method=name)
    filters = 8 if BACKBONES[kind].queries else 4
    config = NetConfig(kind, 2, 2, filters, dropout=(0.5, 0.0), smooth=BACKBONES[kind].smooth)
    method = make_method(name, Network(config), recipe, 4)
    if two:
        method = CoTraining(method, make_method(name, Network(config), recipe, 4))
    return method, make_optimiser(method, recipe, torch.device("cpu"))


@functools.cache
def patches(dimensions: int) -> PatchSampler:
    """One labelled scan and one without label."""
    shape = (16, 16, 16) if dimensions == 3 else (3, 32, 32)
    return PatchSampler(blob_cases(1, shape), blob_cases(1, shape, labelled=False, seed=5), PATCH[dimensions])


def step(method: Method, optimiser: torch.optim.Optimizer, t: float, number: int) -> Losses:
    """One step as the trainer takes it; the same number gives the same random choices."""
    sampler = patches(method.config.dimensions)
    rng = np.random.default_rng(number)
    torch.manual_seed(number)
    method.prepare(t, sampler, rng)
    losses = method(sampler.batch(*method.patch_counts(t), rng), t)
    optimiser.zero_grad()
    losses.total.backward()
    optimiser.step()
    method.after_step()
    return losses


@every
def test_a_state_that_was_saved_goes_on_as_if_it_had_never_been(
    name: str, kind: str, two: bool, tmp_path: Path
) -> None:
    method, optimiser = made(name, kind, two)
    for n, t in enumerate(STEPS[:3]):
        losses = step(method, optimiser, t, n)
        assert all(math.isfinite(value) for value in (losses.total.item(), *(x.item() for x in losses.parts.values())))
    save_checkpoint(tmp_path, method, optimiser, {"stage": method.stage, "averaged": method.steps_averaged})
    unbroken = step(method, optimiser, STEPS[3], 3)

    other, its_optimiser = made(name, kind, two, seed=1)
    about = load_checkpoint(tmp_path, other, its_optimiser)
    other.stage, other.steps_averaged = about["stage"], about["averaged"]
    resumed = step(other, its_optimiser, STEPS[3], 3)
    assert torch.equal(resumed.total, unbroken.total)
    assert resumed.parts.keys() == unbroken.parts.keys()
    states = method.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    "name, kind",
    [(name, "vnet") for name, method in METHODS.items() if method.takes(BACKBONES["vnet"])]
    + [("dk-uxnet", "ux-net-small")]
    + [("supervised", kind) for kind in ("unet", "unet3d", "resenc", "resenc2d")],
)
def test_one_case_is_learnt_by_heart(name: str, kind: str) -> None:
    method, optimiser = made(name, kind, False)
    for module in method.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
    sampler = patches(method.config.dimensions)
    case = sampler.labelled[0]
    assert case.label is not None
    steps = 12 if kind == "ux-net-small" else 30
    for n in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-2 * method.rate_factor(n / steps)
        step(method, optimiser, n / steps, n)
    method.finish(sampler, np.random.default_rng(0))
    network = method.result.eval()
    image = case.image[None, None] if method.config.dimensions == 3 else case.image[:, None]
    with torch.no_grad():
        mask = network(image).logits.argmax(1).reshape(case.label.shape) == 1
    wanted = case.label == 1
    assert 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()) > 0.65  # a mask of everything has 0.35
    assert (network.prototypes.vectors.norm(dim=-1) > 0).all()


# ---------------------------------------------------------------------- deep supervision


def test_deep_supervision_weighs_resolutions_by_halves_and_takes_every_second_voxel() -> None:
    torch.manual_seed(0)
    network = Network(NetConfig("resenc2d", 2, filters=2)).train()
    output = network(torch.randn(2, 1, 32, 32))
    label = torch.randint(0, 2, (2, 32, 32))

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return region_loss(logits, label, torch.ones_like(label))

    expected = torch.zeros(())
    for level, logits in enumerate((output.logits, *output.deep)):
        stride, first = 2**level, 2**level // 2
        coarse = label[:, first::stride, first::stride]
        expected = expected + loss(logits, coarse) * 0.5**level / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    torch.testing.assert_close(over_resolutions(loss, output, label), expected)
    alone = output._replace(deep=())
    assert torch.equal(over_resolutions(loss, alone, label), loss(output.logits, label))


@pytest.mark.parametrize("name", ["supervised", "bcp", "mper"])
def test_deep_supervision_reaches_every_classifier(name: str) -> None:
    method, optimiser = made(name, "resenc2d", False)
    for n, t in enumerate(STEPS[:3]):
        step(method, optimiser, t, n)
        for classifier in method.student.backbone.deep_classifiers:
            assert classifier.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------- two networks


def test_each_of_two_networks_learns_what_the_other_ones_teacher_says() -> None:
    method, _ = made("bcp", "vnet", True)
    assert isinstance(method, CoTraining)
    asked: list[str] = []
    for name, member in (("first", method.first), ("second", method.second)):
        label = member.pseudo_labels

        def listen(image: torch.Tensor, name: str = name, label: object = label) -> tuple[torch.Tensor, torch.Tensor]:
            asked.append(name)
            return label(image)  # type: ignore[operator,no-any-return]

        member.pseudo_labels = listen  # type: ignore[method-assign]
    sampler = patches(3)
    rng = np.random.default_rng(0)
    method.prepare(0.8, sampler, rng)
    method(sampler.batch(*method.patch_counts(0.8), rng), 0.8)
    assert asked == ["second", "first"]
    assert method.result is method.first.teacher


def test_two_networks_begin_differently_and_are_both_trained() -> None:
    method, optimiser = made("mper", "vnet", True)
    assert isinstance(method, CoTraining)
    before = [member.student.backbone.classifier.weight.clone() for member in (method.first, method.second)]
    assert not torch.equal(*before)
    step(method, optimiser, 0.0, 0)
    for old, member in zip(before, (method.first, method.second), strict=True):
        assert not torch.equal(old, member.student.backbone.classifier.weight)


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(CO_TRAINED)))
def test_methods_that_cannot_be_trained_twice_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"method {name} has no co-training; choose one of mper, bcp, or leave it out$"
    ):
        TrainConfig("data", method=name, co_train=True)


def test_a_backbone_that_cannot_serve_a_method_is_refused_in_one_line() -> None:
    suitable = r"choose, or start from, one of ux-net-small, ux-net$"
    with pytest.raises(ValueError, match=rf"method dk-uxnet cannot train backbone vnet; {suitable}"):
        TrainConfig("data", method="dk-uxnet", network="vnet")
    with pytest.raises(ValueError, match="unknown backbone 'resnet'; known are vnet, "):
        TrainConfig("data", network="resnet")
