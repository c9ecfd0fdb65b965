"""The network behind `mper.refinement.stroke_response`: what a stroke means for the voxels around it."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

_SLOPE = 0.1
_relu = partial(F.leaky_relu, negative_slope=_SLOPE)


def _conv(inputs: int, outputs: int, dilation: int = 1, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation)


class StrokeNet(nn.Module):
    """A small residual network that thinks at half and quarter resolution and decides at full.

    Nearly all of its work is done on an eighth of the voxels; the last layers see the inputs again, so that the
    surface keeps its detail. No normalisation: what it says of a voxel does not depend on the size of the box.

    Parameters
    ----------
    inputs : int
        Channels of `mper.refinement.stroke_response.features`.
    width, deep, last : int
        Channels at half, quarter and full resolution.
    """

    def __init__(self, inputs: int, width: int = 24, deep: int = 32, last: int = 8):
        super().__init__()
        self.stem = _conv(inputs, width, stride=2)
        self.coarse = nn.ModuleList([_conv(width, width) for _ in range(3)])
        self.down = _conv(width, deep, stride=2)
        self.coarsest = nn.ModuleList([_conv(deep, deep, dilation) for dilation in (1, 2, 1)])
        self.merge = nn.Conv3d(width + deep, width, 1)
        self.narrow = nn.Conv3d(width, last, 1)
        self.detail = _conv(inputs + last, last)
        self.out = nn.Conv3d(last, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, _SLOPE)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, -2.0)  # type: ignore[arg-type]  # most voxels do not change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, inputs, k, j, i) -> log-odds (B, k, j, i) that a voxel is of the stroke's class."""
        a = _relu(self.stem(x))
        a = a + self.coarse[1](_relu(self.coarse[0](a)))
        b = _relu(self.down(a))
        b = b + self.coarsest[1](_relu(self.coarsest[0](b)))
        b = b + _relu(self.coarsest[2](b))
        a = _relu(self.merge(torch.cat([a, _like(b, a)], dim=1)))
        a = a + _relu(self.coarse[2](a))
        full = torch.cat([x, _like(self.narrow(a), x)], dim=1)
        out: torch.Tensor = self.out(_relu(self.detail(full)))[:, 0]
        return out


def _like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=other.shape[2:], mode="trilinear", align_corners=False)
