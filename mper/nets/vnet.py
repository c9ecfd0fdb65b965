"""The V-Net of the semi-supervised left-atrium literature, as MPER uses it.

Source: Milletari et al., 3DV 2016, in the form published with UA-MT (Yu et al., MICCAI 2019) and
used by BCP and MPER: five resolutions, 16 to 256 channels, batch norm and ReLU after every
convolution, strided convolutions down and up, skips by addition, no residual connections.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

_CONVOLUTIONS = (1, 2, 3, 3, 3)  # per resolution on the way down
_CONVOLUTIONS_UP = (3, 3, 2, 1)  # and on the way up


class Convolution(nn.Conv3d):
    """3x3x3, same size.

    On CPUs the bfloat16 gradient of such a kernel reads memory that nobody wrote where its input is two
    voxels deep (oneDNN in torch 2.13), as that of a patch 16 or 32 deep is somewhere in the V-Net: NaN, now
    and then. Zeros added by hand, instead of by the convolution, are the same and avoid it.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.shape[2] == 2 and input.device.type == "cpu":
            return F.conv3d(F.pad(input, (0, 0, 0, 0, 1, 1)), self.weight, self.bias, padding=(0, 1, 1))
        return super().forward(input)


def _convolutions(count: int, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in range(count):
        layers += [
            Convolution(inputs if n == 0 else outputs, outputs),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 2, stride=2), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(inputs, outputs, 2, stride=2), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
    )


class VNet(nn.Module):
    """9,448,866 parameters for one input channel, two classes and 16 filters.

    Parameters
    ----------
    inputs, classes : int
        Channels in and out.
    filters : int
        Channels at full resolution; doubled at each of the four halvings.
    dropout : (float, float)
        Rates of the channel dropout at the lowest resolution and before the classifier; the paper
        has 0.5 at both.
    """

    def __init__(self, inputs: int = 1, classes: int = 2, filters: int = 16, dropout: tuple[float, float] = (0.5, 0.5)):
        super().__init__()
        widths = [filters * 2**n for n in range(5)]
        self.encoder = nn.ModuleList(
            _convolutions(count, inputs if n == 0 else width, width)
            for n, (count, width) in enumerate(zip(_CONVOLUTIONS, widths, strict=True))
        )
        self.down = nn.ModuleList(_down(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_up(b, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.decoder = nn.ModuleList(
            _convolutions(count, width, width) for count, width in zip(_CONVOLUTIONS_UP, widths[-2::-1], strict=True)
        )
        self.bottom_dropout = nn.Dropout3d(dropout[0])
        self.top_dropout = nn.Dropout3d(dropout[1])
        self.classifier = nn.Conv3d(filters, classes, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (B, classes, *S), the embedding before and the embedding after the last dropout (B, filters, *S)."""
        return self.after_dropout(self.before_dropout(image))

    def before_dropout(self, image: torch.Tensor) -> list[torch.Tensor]:
        """All that does not change from one draw of dropout to the next: the encoder, finest resolution first."""
        stages = []
        x = image
        for block, down in zip(self.encoder, self.down, strict=False):
            x = block(x)
            stages.append(x)
            x = down(x)
        return [*stages, self.encoder[-1](x)]

    def after_dropout(self, stages: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `forward` gives, from the list that `before_dropout` gave; takes it apart, so that memory is freed."""
        x = self.bottom_dropout(stages.pop())
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(up(x) + stages.pop())
        dropped = self.top_dropout(x)
        return self.classifier(dropped), x, dropped
