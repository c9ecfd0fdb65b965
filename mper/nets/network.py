"""Networks: a backbone that gives logits and a voxel embedding, with its prototypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from mper.nets.dk_ux_net import DKUXNet, SmallDKUXNet
from mper.nets.prototypes import Prototypes
from mper.nets.resenc import ResEnc
from mper.nets.unet import UNet
from mper.nets.vnet import VNet


class Kind(NamedTuple):
    """A kind of backbone.

    dimensions : 3 for volumes, 2 for slices; divisor : every spatial size must be a multiple of it; build : from
    channels in, classes, filters and dropout; smooth : whether its embedding wants `NetConfig.smooth`; filters :
    as it is trained; queries : for each class, as it is trained, of networks that are built with their prototypes as
    queries and tell of them in `Output.clusters`; 0 of others.
    """

    dimensions: int
    divisor: int
    build: Callable[..., nn.Module]
    smooth: bool = False
    filters: int = 16
    queries: int = 0


KINDS = {
    "vnet": Kind(3, VNet.divisor, VNet, smooth=True),
    "unet": Kind(2, UNet.divisor, UNet),
    "unet3d": Kind(3, UNet.divisor, partial(UNet, dimensions=3)),
    "resenc": Kind(3, ResEnc.divisor, partial(ResEnc, dimensions=3), smooth=True),
    "resenc2d": Kind(2, ResEnc.divisor, partial(ResEnc, dimensions=2)),
    "ux-net-small": Kind(3, DKUXNet.divisor, SmallDKUXNet, queries=8),
    "ux-net": Kind(3, DKUXNet.divisor, DKUXNet, filters=128, queries=64),
}


@dataclass(frozen=True)
class NetConfig:
    """All that is needed to build a network.

    Parameters
    ----------
    kind : {"vnet", "unet", "unet3d", "resenc", "resenc2d", "ux-net-small", "ux-net"}
        3-D V-Net or 2-D U-Net, exactly those of the paper with 16 filters; a 3-D U-Net; a U-Net with a residual
        encoder and deep supervision for volumes or for slices; DK-UXNet's network with queries (published with 128
        filters and 64 prototypes a class).
    classes : int
        Background included.
    prototypes : int
        Prototypes a class (K).
    filters : int
        Channels at full resolution, which is also the size of the embedding.
    dropout : (float, float)
        At the bottom and before the classifier; the paper has 0.5 at both in the V-Net.
    smooth : bool
        Whether the embedding is averaged with its neighbours, (1, 2, 1) / 4 along each axis. The V-Net's last
        transposed convolution writes a pattern of period two into it, which classifiers do not see but which
        decides between prototypes of one class; this average removes exactly that.
    """

    kind: str
    classes: int
    prototypes: int = 3
    filters: int = 16
    dropout: tuple[float, float] = (0.5, 0.5)
    smooth: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown network {self.kind!r}; known are {', '.join(KINDS)}")
        if self.classes < 2 or self.prototypes < 1 or self.filters < 1:
            raise ValueError(
                "a network needs at least 2 classes, 1 prototype and 1 filter, "
                f"got {self.classes}, {self.prototypes}, {self.filters}"
            )
        object.__setattr__(self, "dropout", (float(self.dropout[0]), float(self.dropout[1])))

    @property
    def dimensions(self) -> int:
        """3 for networks of volumes, 2 for networks of slices."""
        return KINDS[self.kind].dimensions

    @property
    def divisor(self) -> int:
        """Every spatial size must be a multiple of this."""
        return KINDS[self.kind].divisor


class Output(NamedTuple):
    """What a network says of a batch.

    logits : (B, classes, *S); features : (B, filters, *S) before the last dropout; dropped : the same as the
    classifier sees them, after that dropout; smooth : `NetConfig.smooth`; deep : logits of 1/2, 1/4, ... of the size,
    of networks with deep supervision while they train; clusters : (B, classes, *S), of networks with queries, how
    much of each voxel the queries of each class took, which adds up to 1.
    """

    logits: torch.Tensor
    features: torch.Tensor
    dropped: torch.Tensor
    smooth: bool
    deep: tuple[torch.Tensor, ...] = ()
    clusters: torch.Tensor | None = None

    @property
    def embedding(self) -> torch.Tensor:
        """(B, filters, *S): the features, smoothed where the network is so configured; computed when asked for."""
        return _Smooth.apply(self.features.float()) if self.smooth else self.features


class Network(nn.Module):
    """A backbone with its prototypes."""

    def __init__(self, config: NetConfig):
        super().__init__()
        self.config = config
        kind = KINDS[config.kind]
        queries = {"per_class": config.prototypes} if kind.queries else {}
        self.backbone: Any = kind.build(1, config.classes, config.filters, config.dropout, **queries)
        self.prototypes = Prototypes(config.classes, config.prototypes, config.filters)

    def forward(self, image: torch.Tensor) -> Output:
        """Image (B, 1, *S), every size a multiple of the divisor -> `Output`."""
        return self._output(*self.backbone(image))

    def passes(self, image: torch.Tensor, count: int) -> Iterator[Output]:
        """`count` outputs of one image; what lies before the first dropout is computed once.

        They differ where dropout is on; the first equals `forward` under the same draw.
        """
        shared = self.backbone.before_dropout(image)
        for _ in range(count):
            yield self._output(*self.backbone.after_dropout(list(shared)))

    def _output(
        self, logits: torch.Tensor, features: torch.Tensor, dropped: torch.Tensor, *deep: torch.Tensor
    ) -> Output:
        if KINDS[self.config.kind].queries:
            return Output(logits, features, dropped, self.config.smooth, clusters=deep[0])
        return Output(logits, features, dropped, self.config.smooth, deep)

    def memory_format(self) -> torch.memory_format:
        """The layout in which this network's convolutions are fastest."""
        return torch.channels_last_3d if self.config.dimensions == 3 else torch.channels_last


class _Smooth(torch.autograd.Function):
    """`_smoothed`, whose matrix is symmetric: the gradient is smoothed as the values are. Half the time of pooling."""

    @staticmethod
    def forward(_: object, values: torch.Tensor) -> torch.Tensor:
        return _smoothed(values)

    @staticmethod
    def backward(_: object, gradient: torch.Tensor) -> torch.Tensor:
        return _smoothed(gradient)


def _smoothed(values: torch.Tensor) -> torch.Tensor:
    """(1, 2, 1) / 4 along each spatial axis of (B, filters, *S); at the borders the outermost values are repeated."""
    for axis in range(2, values.dim()):
        end = values.shape[axis] - 1
        mean = 0.5 * values
        for to, source, length in ((1, 0, end), (0, 1, end), (0, 0, 1), (end, end, 1)):
            mean.narrow(axis, to, length).add_(values.narrow(axis, source, length), alpha=0.25)
        values = mean
    return values
