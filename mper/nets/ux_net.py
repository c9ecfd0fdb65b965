"""The 3-D UX-Net: an encoder of large depthwise kernels with a UNETR decoder, as DK-UXNet uses it.

Source: Lee et al., *3D UX-Net*, ICLR 2023, in the form published with DK-UXNet (ISBI 2024). The encoder works at
strides 2, 4, 8 and 16: a 7x7x7 stem, then stages of blocks

    x + scale * depthwise 1x1x1 (GELU (depthwise 1x1x1 (LN (depthwise 7x7x7 (x))))),

joined by a norm and a 2x2x2 convolution. The decoder is that of UNETR: residual blocks of two 3x3x3 convolutions on
the image and on each of the encoder's outputs, transposed convolutions up, skips by concatenation. Channels double
with every halving: 48 at full resolution as published.

Where we differ: batch norm instead of instance norm in the residual blocks. An instance norm's statistics are those
of what the network is shown, so that a tile and the whole volume would be normalised differently.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from mper.nets.vnet import Convolution

_BLOCKS = 2  # of each stage
_EXPANSION = 4  # hidden channels of a block for each of its own
_FIRST_SCALE = 1e-6  # of a block's contribution


class UXNet(nn.Module):
    """Encoder and decoder.

    Parameters
    ----------
    inputs, width : int
        Channels in, and at full resolution.
    dropout : float
        Rate of the channel dropout at the lowest resolution; the paper has none.
    light : bool
        At full and half resolution, where most of the time goes, one convolution instead of each residual block, and
        skips by addition.
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.0, *, light: bool = False):
        super().__init__()
        widths = [width * 2**n for n in range(5)]  # of the residual blocks, at strides 1, 2, 4, 8, 16
        self.stem = nn.Conv3d(inputs, width, 7, stride=2, padding=3)
        self.stem_norm = ChannelNorm(width)
        self.stages = nn.ModuleList(nn.Sequential(*(_Block(n) for _ in range(_BLOCKS))) for n in widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(ChannelNorm(a), nn.Conv3d(a, b, 2, stride=2)) for a, b in pairwise(widths[:-1])
        )
        self.stage_norms = nn.ModuleList(ChannelNorm(n) for n in widths[:-1])
        self.light = light
        self.sides = nn.ModuleList(
            _plain(a, b) if light and b <= 2 * width else _Residual(a, b) for a, b in pairwise([inputs, *widths])
        )
        self.bottom_dropout = nn.Dropout3d(dropout)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(b, a, 2, stride=2, bias=False) for a, b in list(pairwise(widths))[::-1]
        )
        self.decoder = nn.ModuleList(
            _plain(n, n) if light and n <= 2 * width else _Residual(2 * n, n) for n in widths[-2::-1]
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Features (B, width * stride, *S / stride) at the strides 8, 4, 2 and 1."""
        skips = [self.sides[0](image)]
        x = self.stem_norm(self.stem(image))
        for n, (stage, norm, side) in enumerate(zip(self.stages, self.stage_norms, self.sides[1:], strict=True)):
            x = stage(x if n == 0 else self.down[n - 1](x))
            skips.append(side(norm(x)))
        x = self.bottom_dropout(skips.pop())
        features = []
        for up, block in zip(self.up, self.decoder, strict=True):
            x, skip = up(x), skips.pop()
            x = block(x + skip if self.light and len(skips) < 2 else torch.cat([x, skip], dim=1))
            features.append(x)
        return features


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, *S), each voxel by itself."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    """A residual block of the encoder."""

    def __init__(self, width: int):
        super().__init__()
        hidden = _EXPANSION * width
        self.spatial = Depthwise(width, 7)
        self.norm = ChannelNorm(width)
        self.widen = nn.Conv3d(width, hidden, 1, groups=width)
        self.narrow = nn.Conv3d(hidden, width, 1, groups=width)
        self.scale = nn.Parameter(torch.full((width,), _FIRST_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.narrow(F.gelu(self.widen(self.norm(self.spatial(x)))))
        return x + self.scale[:, None, None, None] * y


class _Residual(nn.Module):
    """Two 3x3x3 convolutions beside the identity, or beside a 1x1x1 convolution where channels change."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            Convolution(inputs, outputs),
            nn.BatchNorm3d(outputs),
            nn.LeakyReLU(inplace=True),
            Convolution(outputs, outputs),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), nn.BatchNorm3d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.convolutions(x) + self.shortcut(x), inplace=True)


def _plain(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Convolution(inputs, outputs), nn.BatchNorm3d(outputs), nn.LeakyReLU(inplace=True))


class Depthwise(nn.Conv3d):
    """A convolution of each channel with a cubic kernel of its own, same size.

    On CPUs oneDNN has no fast gradients of such convolutions in 3-D: `_OnCPU` has the same, ten times faster.
    """

    def __init__(self, width: int, kernel: int):
        super().__init__(width, width, kernel, padding=kernel // 2, groups=width)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        assert self.bias is not None
        y: torch.Tensor = _OnCPU.apply(input.to(dtype), self.weight.to(dtype))
        return y + self.bias.to(dtype)[:, None, None, None]


class _OnCPU(torch.autograd.Function):
    """Depthwise convolution whose gradients are made of what CPUs are fast at.

    That of the input is the convolution with the mirrored kernel; that of the kernel, the correlation of input and
    gradient at the kernel's few shifts, goes through Fourier transforms.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        to_x = _convolve(gradient, weight.flip(2, 3, 4)) if ctx.needs_input_grad[0] else None
        reach = weight.shape[-1] // 2
        # No wrap-around: as long as the padded input; a multiple of 8 is fast.
        size = [-(-(n + 2 * reach) // 8) * 8 for n in x.shape[2:]]
        spectrum = torch.zeros((), dtype=torch.complex64)
        for sample, given in zip(x, gradient, strict=True):  # one at a time: spectra are large
            padded = F.pad(sample.float(), [reach] * 6)
            spectrum = spectrum + (
                torch.fft.rfftn(padded, s=size, dim=(1, 2, 3))
                * torch.fft.rfftn(given.float(), s=size, dim=(1, 2, 3)).conj()
            )
        k, j, i = (slice(n) for n in weight.shape[2:])
        to_weight = torch.fft.irfftn(spectrum, s=size, dim=(1, 2, 3))[:, None, k, j, i]
        return to_x, to_weight.to(weight.dtype)


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Fast where both lie channels last."""
    x, weight = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, weight))
    return F.conv3d(x, weight, padding=weight.shape[-1] // 2, groups=len(weight))
