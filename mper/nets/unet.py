"""The 2-D U-Net of the semi-supervised ACDC literature, as MPER uses it, and the same in 3-D.

Source: Ronneberger et al., MICCAI 2015, in the form published with SSL4MIS and used by BCP and
MPER: five resolutions, 16 to 256 channels, leaky ReLU, dropout inside the encoder's blocks,
1x1 convolution before bilinear upsampling, skips by concatenation, a 3x3 classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mper.nets.vnet import Convolution

_DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)  # per resolution, encoder only
_FIRST_DROPOUT = 3  # its place in a block


def _convolution(inputs: int, outputs: int, dimensions: int) -> nn.Module:
    """3x3 or 3x3x3, same size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1) if dimensions == 2 else Convolution(inputs, outputs)


def _block(inputs: int, outputs: int, dropout: float, dimensions: int) -> nn.Sequential:
    norm: Any = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
    return nn.Sequential(
        _convolution(inputs, outputs, dimensions),
        norm(outputs),
        nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout),
        _convolution(outputs, outputs, dimensions),
        norm(outputs),
        nn.LeakyReLU(inplace=True),
    )


class UNet(nn.Module):
    """1,813,764 parameters for one input channel, four classes and 16 filters.

    Parameters
    ----------
    inputs, classes : int
        Channels in and out.
    filters : int
        Channels at full resolution; doubled at each of the four halvings.
    dropout : (float, float)
        The first scales the paper's encoder rates (0.5 at the bottom gives exactly them); the
        second is unused, the paper's U-Net has no dropout before its classifier.
    dimensions : int
        2, or 3 for volumes, which no paper has.
    """

    def __init__(
        self,
        inputs: int = 1,
        classes: int = 4,
        filters: int = 16,
        dropout: tuple[float, float] = (0.5, 0.0),
        dimensions: int = 2,
    ):
        super().__init__()
        widths = [filters * 2**n for n in range(5)]
        rates = [rate * dropout[0] / _DROPOUT[-1] for rate in _DROPOUT]
        pointwise: Any = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.encoder = nn.ModuleList(
            _block(a, b, rate, dimensions) for a, b, rate in zip([inputs, *widths[:-1]], widths, rates, strict=True)
        )
        self.squeeze = nn.ModuleList(pointwise(2 * width, width, 1) for width in widths[-2::-1])
        self.decoder = nn.ModuleList(_block(2 * width, width, 0.0, dimensions) for width in widths[-2::-1])
        self.pool = nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool3d(2)
        mode = "bilinear" if dimensions == 2 else "trilinear"
        self.upsample = nn.Upsample(scale_factor=2, mode=mode, align_corners=True)
        self.classifier = _convolution(filters, classes, dimensions)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (B, classes, *S) and twice the embedding (B, filters, *S), there being no last dropout."""
        return self.after_dropout(self.before_dropout(image))

    @property
    def _first(self) -> nn.Sequential:
        block = self.encoder[0]
        assert isinstance(block, nn.Sequential)
        return block

    def before_dropout(self, image: torch.Tensor) -> list[torch.Tensor]:
        """All that does not change from one draw of dropout to the next: the first of all convolutions."""
        return [self._first[:_FIRST_DROPOUT](image)]

    def after_dropout(self, stages: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `forward` gives, from the list that `before_dropout` gave; takes it apart, so that memory is freed."""
        x = self._first[_FIRST_DROPOUT:](stages.pop())
        skips = [x]
        for block in list(self.encoder)[1:]:
            x = block(self.pool(x))
            skips.append(x)
        skips.pop()
        for squeeze, block in zip(self.squeeze, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), self.upsample(squeeze(x))], dim=1))
        return self.classifier(x), x, x
