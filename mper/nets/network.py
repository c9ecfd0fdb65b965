"""Networks: a backbone that gives logits and a voxel embedding, with its prototypes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from mper.nets.prototypes import Prototypes
from mper.nets.registry import find_backbone


@dataclass(frozen=True)
class NetConfig:
    """All that is needed to build a network.

    Parameters
    ----------
    kind : str
        Of `mper.nets.registry.BACKBONES`. ``vnet`` and ``unet`` with 16 filters are exactly those of the paper.
    classes : int
        Background included.
    prototypes : int
        Prototypes per class (K).
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
        find_backbone(self.kind)
        if self.classes < 2 or self.prototypes < 1 or self.filters < 1:
            raise ValueError(
                "a network needs at least 2 classes, 1 prototype and 1 filter, "
                f"got {self.classes}, {self.prototypes}, {self.filters}"
            )
        object.__setattr__(self, "dropout", (float(self.dropout[0]), float(self.dropout[1])))

    @property
    def dimensions(self) -> int:
        """3 for networks of volumes, 2 for networks of slices."""
        return find_backbone(self.kind).dimensions

    @property
    def divisor(self) -> int:
        """Every spatial size must be a multiple of this."""
        return find_backbone(self.kind).divisor


class Output(NamedTuple):
    """What a network returns for a batch.

    Attributes
    ----------
    logits : (B, classes, *S) tensor
    features : (B, filters, *S) tensor
        Before the last dropout.
    dropped : (B, filters, *S) tensor
        The same after that dropout, the input of the classifier.
    smooth : bool
        `NetConfig.smooth`.
    deep : tuple of tensors
        Logits of 1/2, 1/4, ... of the size, of networks with deep supervision in training.
    clusters : (B, classes, *S) tensor or None
        Of networks with class queries, the share of each voxel that the queries of each class took; shares sum to 1.
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

    def embedding_at(self, window: Sequence[slice]) -> torch.Tensor:
        """``embedding[..., *window]``, computed there alone.

        Parameters
        ----------
        window : sequence of slices
            One for each spatial axis, with or without steps.
        """
        if self.smooth and any((part.step or 1) > 1 for part in window):
            return _smoothed_at(self.features, window)
        return self.embedding[(slice(None), slice(None), *window)]


class Network(nn.Module):
    """A backbone with its prototypes.

    Attributes
    ----------
    taken_over : frozenset of str
        Names of its state that come from a trained model; the rest is random.
    """

    taken_over: frozenset[str] = frozenset()

    def __init__(self, config: NetConfig):
        super().__init__()
        self.config = config
        entry = find_backbone(config.kind)
        self.has_queries = entry.queries > 0
        self.backbone: Any = entry.build(config.classes, config.filters, config.dropout, config.prototypes)
        self.prototypes = Prototypes(config.classes, config.prototypes, config.filters)

    def forward(self, image: torch.Tensor) -> Output:
        """Image (B, 1, *S), every size a multiple of the divisor -> `Output`."""
        return self._output(*self.backbone(image))

    def passes(self, image: torch.Tensor, count: int) -> Iterator[Output]:
        """`count` outputs of one image under dropout; what lies before the first dropout is computed once.

        The first equals `forward` with the same random numbers.
        """
        shared = self.backbone.before_dropout(image)
        for _ in range(count):
            yield self._output(*self.backbone.after_dropout(list(shared)))

    def _output(
        self, logits: torch.Tensor, features: torch.Tensor, dropped: torch.Tensor, *deep: torch.Tensor
    ) -> Output:
        if self.has_queries:
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


def _smoothed_at(values: torch.Tensor, window: Sequence[slice]) -> torch.Tensor:
    """``_smoothed(values.float())[..., *window]``, computed there alone."""
    for axis, part in enumerate(window, 2):
        end = values.shape[axis] - 1
        at = torch.arange(*part.indices(end + 1), device=values.device)
        middle, before, after = (values.index_select(axis, n.clamp(0, end)).float() for n in (at, at - 1, at + 1))
        values = (0.5 * middle).add_(before, alpha=0.25).add_(after, alpha=0.25)
    return values
