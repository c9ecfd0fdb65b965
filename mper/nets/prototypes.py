"""The prototype classifier: a class is what is near one of its K prototypes in embedding space.

Source: MPER (ICASSP 2025). With f_i the embedding of voxel i and p_ck prototype k of class c,

    s_ick = cos(f_i, p_ck),    z_ic = max_k s_ick / temperature,    temperature = 0.1,

and prototypes follow the embeddings of confident, correctly assigned voxels:

    p_ck <- m p_ck + (1 - m) mean{ f_i : y_i = c, argmax_c z_i = c, argmax_k s_ick = k, confident }.

One class serves 2-D and 3-D; nothing here loops over voxels, classes or prototypes. Across
processes the sums behind the mean are all-reduced, so every rank holds the same prototypes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from mper.utils.devices import full_precision

TEMPERATURE = 0.1
_SMALLEST_NORM = 1e-6  # of an embedding; what is smaller is as good as zero, and near to no prototype
_SLAB_VOXELS = 2**14
_KMEANS_VOXELS = 20_000  # per class; k-means on more changes the centres by less than one EMA update


class Prototypes(nn.Module):
    """K prototypes for each of the classes, as one buffer.

    Parameters
    ----------
    classes, per_class, dim : int
        Number of classes (background included), prototypes a class, and channels.
    """

    vectors: torch.Tensor  # (classes, per_class, dim)

    def __init__(self, classes: int, per_class: int = 3, dim: int = 16):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, per_class, dim))

    @property
    def classes(self) -> int:
        return self.vectors.shape[0]

    @property
    def per_class(self) -> int:
        return self.vectors.shape[1]

    def similarity(self, embedding: torch.Tensor) -> torch.Tensor:
        """Cosine of every voxel to every prototype: (B, dim, *S) -> (B, classes, per_class, *S), float32.

        Prototypes are constants here: the gradient goes through the embedding alone.
        """
        with full_precision(embedding.device):
            flat = F.normalize(self.vectors.float().flatten(0, 1), dim=1)  # (classes * K, dim)
            cosine: torch.Tensor = _Cosine.apply(embedding, flat)
        return cosine.reshape(embedding.shape[0], *self.vectors.shape[:2], *embedding.shape[2:])

    def logits(self, similarity: torch.Tensor) -> torch.Tensor:
        """Similarities (B, classes, per_class, *S) -> class scores (B, classes, *S)."""
        return similarity.amax(dim=2) / TEMPERATURE

    @torch.no_grad()
    def update(
        self,
        embedding: torch.Tensor,
        similarity: torch.Tensor,
        target: torch.Tensor,
        mask: torch.Tensor,
        momentum: float,
    ) -> None:
        """Move each prototype towards the mean embedding of the voxels that are its own.

        Parameters
        ----------
        embedding : (B, dim, *S) tensor
        similarity : (B, classes, per_class, *S) tensor
            Of that embedding.
        target : (B, *S) integer tensor
            Class of each voxel; one of no class, such as 255, moves nothing.
        mask : (B, *S) bool tensor
            Voxels that may count (confident, labelled, of a class that is to be updated).
        momentum : float
            m above. A prototype that no voxel chose stays as it is.
        """
        classes, per_class = self.vectors.shape[:2]
        # The nearest of all prototypes belongs to the class that wins, so one search tells both. `max` rather
        # than `argmax`: on a CPU it is six times faster.
        nearest = similarity.flatten(1, 2).max(dim=1).indices  # (B, *S)
        counts_for = mask & (nearest // per_class == target)
        own = torch.where(counts_for, nearest, -1).flatten(1)  # (B, N)
        # Products with 0 and 1 rather than scattered additions: the same sum every time, also on a GPU.
        number = torch.arange(classes * per_class, device=own.device)[:, None]
        voxels = channels_last(embedding)
        sums = torch.zeros(classes * per_class, voxels.shape[2] + 1, device=own.device)
        with full_precision(embedding.device):
            for part in _slabs(voxels):
                member = (own[:, None, part] == number).float()
                found = torch.cat([member @ voxels[:, part].float(), member.sum(2, keepdim=True)], dim=2)
                sums += found.sum(0)
        if _many_processes():
            torch.distributed.all_reduce(sums)
        counts = sums[:, -1:]
        mean = sums[:, :-1] / counts.clamp(min=1)
        flat = self.vectors.flatten(0, 1)
        moved = momentum * flat + (1 - momentum) * mean
        self.vectors.copy_(torch.where(counts > 0, moved, flat).reshape_as(self.vectors))

    @torch.no_grad()
    def fit(self, embedding: torch.Tensor, target: torch.Tensor, seed: int) -> None:
        """Start prototypes at the k-means centres of each class.

        Parameters
        ----------
        embedding : (N, dim) tensor
        target : (N,) integer tensor
            Class of each row; values outside 0..classes-1 are ignored.
        seed : int
            Of the choice of voxels and of k-means++.

        A class with fewer different voxels than prototypes repeats its mean; one with none keeps what it
        had. Across processes all take those of the first one.
        """
        from scipy.cluster.vq import kmeans2

        rng = np.random.default_rng(seed)
        values, classes = embedding.float().cpu().numpy(), target.cpu().numpy()
        for c in range(self.classes):
            rows = np.flatnonzero(classes == c)
            if rows.size == 0:
                continue
            rows = rng.permutation(rows)[:_KMEANS_VOXELS]
            points = values[rows].astype(np.float64)
            distinct = np.unique(points, axis=0)
            if len(distinct) < self.per_class:
                centres = np.repeat(points.mean(0, keepdims=True), self.per_class, axis=0)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # a cluster that lost its voxels keeps its centre
                    centres, _ = kmeans2(points, _spread_start(points, self.per_class, rng), iter=50, minit="matrix")
            self.vectors[c] = torch.from_numpy(centres).to(self.vectors)
        if _many_processes():
            torch.distributed.broadcast(self.vectors, src=0)


class _Cosine(torch.autograd.Function):
    """Cosines of voxels v (B, dim, *S) to unit vectors p (P, dim): (B, P, N) float32, by slabs of voxels.

    With c = p.v / |v| the gradient is (p - c v / |v|) / |v|. Left to autograd the same takes five more copies of
    the embedding in float32, which on a CPU is a seventh of a training step.
    """

    @staticmethod
    def forward(ctx: Any, embedding: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        voxels = channels_last(embedding)
        batch, count, _ = voxels.shape
        cosine = torch.empty(batch, len(unit), count, device=unit.device)
        for part in _slabs(voxels):
            some = voxels[:, part].float()
            torch.div(unit @ some.transpose(1, 2), lengths(some).transpose(1, 2), out=cosine[:, :, part])
        ctx.save_for_backward(embedding, unit, cosine)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        embedding, unit, cosine = ctx.saved_tensors
        voxels = channels_last(embedding)
        out = torch.empty_like(voxels)
        for part in _slabs(voxels):
            some, given = voxels[:, part].float(), gradient[:, :, part]
            length = lengths(some)
            along = (given * cosine[:, :, part]).sum(1)[..., None] / length
            out[:, part] = (given.transpose(1, 2) @ unit - some * along) / length
        return out.reshape(len(out), *embedding.shape[2:], -1).movedim(-1, 1), None


def channels_last(embedding: torch.Tensor) -> torch.Tensor:
    """(B, dim, *S) -> (B, N, dim), without a copy where memory is in channels-last order."""
    return embedding.movedim(1, -1).flatten(1, -2)


def lengths(voxels: torch.Tensor) -> torch.Tensor:
    return voxels.norm(dim=-1, keepdim=True).clamp(min=_SMALLEST_NORM)


def _slabs(voxels: torch.Tensor) -> list[slice]:
    """Ranges of voxels that fit into a CPU's cache; elsewhere all at once."""
    count = voxels.shape[1]
    step = _SLAB_VOXELS if voxels.device.type == "cpu" else max(1, count)
    return [slice(a, a + step) for a in range(0, count, step)]


def _spread_start(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """First centres of k-means: points far from each other (k-means++; Arthur and Vassilvitskii, 2007)."""
    chosen = [points[int(rng.integers(len(points)))]]
    while len(chosen) < count:
        squares = np.min([((points - centre) ** 2).sum(1) for centre in chosen], axis=0)
        chosen.append(points[int(rng.choice(len(points), p=squares / squares.sum()))])
    return np.stack(chosen)


def _many_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
