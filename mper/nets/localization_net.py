"""The network behind `mper.inference.localization`: where in a wide field of view a structure lies."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

DIVISOR = 8  # every spatial size must be a multiple of it
_SLOPE = 0.01


class LocalizationNet(nn.Module):
    """A small 3-D U-Net of four resolutions with instance norm.

    Instance norm, because a step of training sees few fields, and each field is another one: with batch norm the
    running statistics fit none of them.

    Parameters
    ----------
    filters : int
        Channels at full resolution; doubled at each of the three halvings.
    """

    def __init__(self, filters: int = 12):
        super().__init__()
        widths = [filters * 2**n for n in range(4)]
        self.encoder = nn.ModuleList(_Block(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True))
        pairs = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, width, 2, 2) for width, deep in pairs)
        self.decoder = nn.ModuleList(_Block(2 * width, width) for width, _ in pairs)
        self.classifier = nn.Conv3d(filters, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 1, k, j, i) -> logits (B, 2, k, j, i) of background and structure."""
        skips: list[torch.Tensor] = []
        x = image
        for n, block in enumerate(self.encoder):
            x = block(F.max_pool3d(x, 2) if n else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        logits: torch.Tensor = self.classifier(x)
        return logits


class _Block(nn.Module):
    """Two convolutions, each with instance norm and a leaky ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential()
        for channels in (inputs, outputs):
            self.layers.append(nn.Conv3d(channels, outputs, 3, padding=1, bias=False))
            self.layers.append(nn.InstanceNorm3d(outputs, affine=True))
            self.layers.append(nn.LeakyReLU(_SLOPE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out
