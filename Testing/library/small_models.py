"""Small models for tests: real networks with random weights, and one whose answer is known voxel by voxel."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from mper.labels import make_label
from mper.models.bundle import ModelBundle
from mper.models.card import Card
from mper.models.localization import Localization
from mper.nets.localization_net import LocalizationNet
from mper.nets.network import NetConfig, Network
from mper.nets.registry import BACKBONES


def random_bundle(kind: str = "vnet", classes: int = 2, **card: Any) -> ModelBundle:
    """A network of four filters with random weights, batch statistics and prototypes; every class occurs in noise."""
    network = _random_network(kind, classes)
    return ModelBundle(_card(network.config, **card), network.state_dict())


@functools.cache
def _random_network(kind: str, classes: int) -> Network:
    torch.manual_seed(0)
    network = Network(NetConfig(kind, classes, prototypes=3, filters=4, dropout=(0.0, 0.0)))
    network.prototypes.vectors.normal_()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    _spread_logits(network)
    return network


@torch.no_grad()
def _spread_logits(network: Network) -> None:
    """Give the logits of an image of noise mean 0 and deviation 3: far from undecided, and no class always wins."""
    backbone = network.backbone.eval()
    noise = torch.randn(1, 1, *[48] * network.config.dimensions)
    for _ in range(2):  # the deviation first, then the mean that is left
        logits = backbone(noise)[0].transpose(0, 1).flatten(1)
        scale = 3 / logits.std(1)
        backbone.classifier.weight.mul_(scale.reshape(-1, *[1] * (backbone.classifier.weight.dim() - 1)))
        backbone.classifier.bias.copy_((backbone.classifier.bias - logits.mean(1)) * scale)


@dataclass(frozen=True, eq=False)
class ThresholdBundle(ModelBundle):
    """A 3-D model that calls voxels class 1 whose normalised intensity is above `level`; each is judged alone."""

    level: float = 1.0

    def build(self) -> Network:
        """The network, its backbone replaced by the threshold."""
        network = super().build()
        network.backbone = _Threshold(self.level)  # type: ignore[assignment]
        return network


def threshold_bundle(level: float = 1.0, **card: Any) -> ThresholdBundle:
    """A `ThresholdBundle` with three prototypes a class, evenly spread over a quarter circle."""
    config = NetConfig("vnet", 2, prototypes=3, filters=2, dropout=(0.0, 0.0))
    network = Network(config)
    angle = torch.linspace(0, torch.pi / 2, 6).reshape(2, 3)
    network.prototypes.vectors.copy_(torch.stack([angle.cos(), angle.sin()], dim=-1))
    return ThresholdBundle(_card(config, **card), network.state_dict(), level=level)


class _Threshold(nn.Module):
    """Logits of an intensity above a level, and an embedding that turns with it."""

    def __init__(self, level: float):
        super().__init__()
        self.level = level

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = image.float()
        embedding = torch.cat([torch.cos(x / 2), torch.sin(x / 2)], dim=1)
        return torch.cat([self.level - x, x - self.level], dim=1) * 3, embedding, embedding


def threshold_localization(level: float = 2.0) -> Localization:
    """A localisation that shows what is brighter than `level` standard deviations above the mean of the scan."""
    network = LocalizationNet(1)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for block in ("encoder.0", "decoder.2"):
        for layer in (0, 3):
            kernel = state[f"{block}.layers.{layer}.weight"]
            kernel[0, -1, 1, 1, 1] = 1  # the last input: of the decoder, what skipped the lower resolutions
            state[f"{block}.layers.{layer + 1}.weight"] += 1
    state["classifier.weight"][1] = 20
    state["classifier.bias"][1] = -20 * level
    return Localization(state, filters=1)


def _card(config: NetConfig, **card: Any) -> Card:
    labels = tuple(make_label(n, f"structure {n}") for n in range(1, config.classes))
    defaults: dict[str, Any] = {
        "preprocessing": {"spacing_mm": (1.5, 1.0, 1.0)},
        "window": (16, 32, 32) if config.kind == "vnet" else (1, 32, 32),
    }
    return Card("small", "1.0.0", "A small model", labels, asdict(config), **{**defaults, **card})


def train_with_filters(monkeypatch: pytest.MonkeyPatch, filters: int) -> None:
    """From now on networks are trained with so few channels; those with class queries with a multiple of 8."""
    for kind, entry in list(BACKBONES.items()):
        number = -(-filters // 8) * 8 if entry.queries else filters
        monkeypatch.setitem(BACKBONES, kind, replace(entry, filters=number))
