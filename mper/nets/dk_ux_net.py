"""DK-UXNet's network: a 3-D UX-Net whose classes are read from queries (`mper.nets.ux_net`, `mper.nets.kmax`)."""

from __future__ import annotations

import torch
from torch import nn

from mper.nets.kmax import QueryDecoder
from mper.nets.ux_net import Depthwise, UXNet


class DKUXNet(nn.Module):
    """The published size: 48 channels at full resolution, a pixel embedding of 128.

    Parameters
    ----------
    inputs, classes : int
        Channels in, and classes.
    filters : int
        Size of the pixel embedding, a multiple of 8; there are 3/8 as many channels at full resolution.
    dropout : (float, float)
        The first is the rate of the channel dropout at the lowest resolution (the paper has none); the second is
        unused.
    per_class : int
        Queries for each class.
    """

    light = False

    def __init__(
        self, inputs: int, classes: int, filters: int, dropout: tuple[float, float] = (0.0, 0.0), per_class: int = 64
    ):
        super().__init__()
        if filters % 8:
            raise ValueError(f"the pixel embedding of a UX-Net has a multiple of 8 channels, got {filters}")
        width = self.width(filters)
        self.backbone = UXNet(inputs, width, dropout[0], light=self.light)
        self.pixel = self.pixel_head(width, filters)
        # As the classifiers of other networks it is what begins anew for other structures.
        self.classifier = QueryDecoder((8 * width, 4 * width), classes, per_class, filters)

    @staticmethod
    def width(filters: int) -> int:
        """Channels at full resolution."""
        return 3 * filters // 8

    @staticmethod
    def pixel_head(width: int, filters: int) -> nn.Module:
        """What makes pixel embeddings of features of full resolution."""
        return nn.Sequential(
            Depthwise(width, 5),
            nn.BatchNorm3d(width),
            nn.GELU(),
            nn.Conv3d(width, 2 * filters, 1),
            nn.BatchNorm3d(2 * filters),
            nn.GELU(),
            nn.Conv3d(2 * filters, filters, 1),
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (B, classes, *S), twice the embedding (B, filters, *S), and clusters (B, classes, *S)."""
        eighth, quarter, _, whole = self.backbone(image)
        embedding = self.pixel(whole)
        logits, clusters = self.classifier([eighth, quarter], embedding)
        return logits, embedding, embedding, clusters


class SmallDKUXNet(DKUXNet):
    """A size that trains on a workstation: little work at fine resolution, whose features are the embedding itself."""

    light = True

    @staticmethod
    def width(filters: int) -> int:
        return filters

    @staticmethod
    def pixel_head(width: int, filters: int) -> nn.Module:
        return nn.Identity()
