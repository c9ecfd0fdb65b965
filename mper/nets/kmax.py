"""Queries that segment: each asks for some of the voxels, and classes are read from who got them.

Source: the kMaX decoder (Yu et al., ECCV 2022) as DK-UXNet (ISBI 2024) uses it. With f_i the pixel embedding of
voxel i and q_n the kernel of query n, of N = classes * per_class queries,

    R_in = softmax_n (cos(f_i, q_n) * scale),    logits_ic = sum_n R_in W_nc,    clusters_ic = sum of R_in over n of c,

so that the clusters of a voxel sum to 1. Query n belongs to class n // per_class. Queries are updated by k-means on
coarse features, a layer at a time: every voxel goes to the query nearest to it, the mean of the values of a query's
voxels is added to the query; self-attention and a feed-forward network follow. W comes from all queries together.

Where we differ from the published code, and why
- The means are those of all patches of a batch, and outside training their running averages, as with batch norm
  (published: sums over each image by itself, also for prediction). So the queries of a trained network are constants:
  a tile is answered as the whole volume is, and the kernels are prototypes in the embedding space
  (`QueryDecoder.kernels`). Sums would grow with the size of what is shown.
- The gradient of a voxel's assignment is that of a softmax: as published the features that decide on the assignments
  would never learn (they have no gradient and no loss of their own).
- Kernels are of unit length and one learnt scale takes the place of a batch norm over all similarities; layer norms
  take the place of the batch norms over queries.
- W begins at the identity between groups of queries and classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from mper.nets.prototypes import TEMPERATURE, channels_last, lengths
from mper.utils.devices import full_precision

_LAYERS = 2  # on each of the coarse features
_HEADS = 8
_FEED_FORWARD = 8  # hidden channels for each of a query's
_READ = 64  # hidden channels between the queries and W
_MOMENTUM = 0.1  # of the running means, as batch norm's
_FIRST_WEIGHT = 4.0  # of a query for its own class
_SMALLEST_NORM = 1e-6
_SLAB = 2**13  # voxels


class QueryDecoder(nn.Module):
    """Segmentation and clusters from features.

    Parameters
    ----------
    coarse : sequence of int
        Channels of the features on which queries are updated, coarsest first.
    classes, per_class : int
        Background included, and queries for each.
    dim : int
        Size of the pixel embedding; a query has twice as many channels.
    """

    def __init__(self, coarse: Sequence[int], classes: int, per_class: int, dim: int):
        super().__init__()
        count, width = classes * per_class, 2 * dim
        self.classes, self.per_class = classes, per_class
        self.queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, width)))
        self.layers = nn.ModuleList(_Layer(n, count, width, dim) for n in coarse for _ in range(_LAYERS))
        self.to_kernel = _kernel_of(width, dim)
        weigh = nn.Linear(_READ, count * classes)
        with torch.no_grad():
            weigh.bias.copy_(_FIRST_WEIGHT * self.groups().T.flatten())
        self.read = nn.Sequential(nn.Linear(count * width, _READ), nn.ReLU(), weigh)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))

    def forward(self, coarse: Sequence[torch.Tensor], embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coarse features and pixel embedding (B, dim, *S) -> logits and clusters, both (B, classes, *S) float32."""
        kernels, weights = self._kernels_and_weights(coarse)
        with full_precision(embedding.device):
            found: tuple[torch.Tensor, torch.Tensor] = _Shares.apply(
                embedding, kernels * self.scale.exp(), weights, self.groups().T
            )
        return found

    def groups(self) -> torch.Tensor:
        """(classes, N): 1 where a query is of a class."""
        return torch.eye(self.classes, device=self.queries.device).repeat_interleave(self.per_class, dim=1)

    @torch.no_grad()
    def kernels(self) -> torch.Tensor:
        """The kernels that a prediction uses: (classes, per_class, dim), unit vectors."""
        assert not self.training, "in training kernels follow the batch"
        kernels, _ = self._kernels_and_weights([])
        return kernels.reshape(self.classes, self.per_class, -1)

    def _kernels_and_weights(self, coarse: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Kernels (N, dim) and W (N, classes) of the updated queries."""
        queries = self.queries
        for n, layer in enumerate(self.layers):
            queries = layer(queries, coarse[n // _LAYERS] if self.training else None)
        with full_precision(queries.device):
            kernels = F.normalize(self.to_kernel(queries), dim=1)
            return kernels, self.read(queries.flatten()).reshape(len(queries), self.classes)


class _Layer(nn.Module):
    """One update of the queries (N, width) by k-means on features, attention and a feed-forward network."""

    centres: torch.Tensor  # (N, width), running means

    def __init__(self, inputs: int, count: int, width: int, dim: int):
        super().__init__()
        self.pixel = nn.Sequential(nn.Conv3d(inputs, width, 1), nn.BatchNorm3d(width), nn.GELU())
        self.embed = nn.Conv3d(width, dim, 1)
        self.value = nn.Conv3d(width, width, 1)
        self.to_kernel = _kernel_of(width, dim)
        follow = nn.Linear(width, width)
        nn.init.zeros_(follow.weight)  # as published a query begins without its voxels
        self.update = nn.Sequential(nn.LayerNorm(width), follow)
        self.attend = _Attention(width)
        hidden = _FEED_FORWARD * width
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.register_buffer("centres", torch.zeros(count, width))

    def forward(self, queries: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Without features the running means serve."""
        centres = self.centres if features is None else self._cluster(queries, features)
        with full_precision(queries.device):
            queries = queries + self.update(centres)
            queries = queries + self.attend(queries)
            return queries + self.feed(queries)

    def _cluster(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """One step of k-means; the running means follow it."""
        pixel = self.pixel(features)
        with full_precision(queries.device):
            kernels = F.normalize(self.to_kernel(queries), dim=1)
        similarity, values = (_rows(x).float() for x in (cosines(self.embed(pixel), kernels), self.value(pixel)))
        with full_precision(queries.device):
            centres = means(values, assignment(similarity), self.centres)
        with torch.no_grad():
            self.centres.lerp_(centres, _MOMENTUM)
        return centres


def assignment(similarity: torch.Tensor) -> torch.Tensor:
    """1 for the nearest query of each voxel and 0 for the others, with the gradient of a softmax: (M, N) -> (M, N)."""
    soft = (similarity / TEMPERATURE).softmax(1)
    number = torch.arange(similarity.shape[1], device=similarity.device)
    hard = (similarity.max(1, keepdim=True).indices == number).to(soft)
    return hard + soft - soft.detach()


def means(values: torch.Tensor, members: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Mean of the values (M, width) of each query's voxels (M, N); `otherwise` (N, width) for those without any."""
    counts = members.detach().sum(0)[:, None]
    return torch.where(counts > 0.5, members.T @ values / counts.clamp(min=1), otherwise)


def cosines(embedding: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Cosine of every voxel (B, dim, *S) to unit vectors (N, dim): (B, N, *S)."""
    norm = torch.linalg.vector_norm(embedding, dim=1, keepdim=True, dtype=torch.float32).clamp(min=_SMALLEST_NORM)
    return F.conv3d(embedding, kernels[:, :, None, None, None]) / norm


class _Shares(torch.autograd.Function):
    """What the queries' shares R of voxels v (B, dim, *S) add up to: R @ W and R @ G, both (B, classes, *S) float32.

    R = softmax over n of v.k_n / |v| with kernels k (N, dim); W and G are (N, classes), G a constant. It goes by slabs
    of voxels that fit into a CPU's cache, and shares are computed again for the gradient: left to autograd, N maps of
    full resolution in float32 would be kept four times over, and on a CPU a quarter of a step would go into moving
    them.
    """

    @staticmethod
    def forward(
        ctx: Any, embedding: torch.Tensor, kernels: torch.Tensor, weights: torch.Tensor, groups: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(embedding, kernels, weights, groups)
        voxels = channels_last(embedding)
        both = torch.cat([weights, groups], dim=1)
        out = torch.empty(both.shape[1], *voxels.shape[:2], device=voxels.device)
        for part in _slabs(voxels):
            some = voxels[:, part].float()
            scores = (some @ kernels.T).div_(lengths(some))
            out[:, :, part] = (scores.softmax(2) @ both).movedim(2, 0)
        one, two = out.unflatten(2, embedding.shape[2:]).transpose(0, 1).split(weights.shape[1], dim=1)
        return one, two

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        embedding, kernels, weights, groups = ctx.saved_tensors
        voxels = channels_last(embedding)
        given = torch.cat([channels_last(gradient) for gradient in gradients], dim=2)
        both = torch.cat([weights, groups], dim=1)
        to_voxels = torch.empty_like(voxels)
        to_kernels, to_weights = torch.zeros_like(kernels), torch.zeros_like(weights)
        for part in _slabs(voxels):
            some, gradient = voxels[:, part].float(), given[:, part]
            length = lengths(some)
            unit = some.div_(length) if some.dtype != voxels.dtype else some / length
            shares = (unit @ kernels.T).softmax(2)
            to_weights += (shares.transpose(1, 2) @ gradient[..., : weights.shape[1]]).sum(0)
            to_scores = gradient @ both.T
            to_scores.sub_((shares * to_scores).sum(2, keepdim=True)).mul_(shares)
            to_kernels += (to_scores.transpose(1, 2) @ unit).sum(0)
            to_unit = to_scores @ kernels
            to_voxels[:, part] = to_unit.addcmul_(unit, (unit * to_unit).sum(2, keepdim=True), value=-1).div_(length)
        return to_voxels.unflatten(1, embedding.shape[2:]).movedim(-1, 1), to_kernels, to_weights, None


def _slabs(voxels: torch.Tensor) -> list[slice]:
    """Ranges of voxels (B, M, dim) whose similarities to all queries fit into a CPU's cache, or a GPU's memory."""
    step = max(1, (_SLAB if voxels.device.type == "cpu" else 64 * _SLAB) // len(voxels))
    return [slice(a, a + step) for a in range(0, voxels.shape[1], step)]


class _Attention(nn.Module):
    """Self-attention among the queries (N, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        q, k, v = self.ask(self.norm(queries)).reshape(1, len(queries), 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v)  # (1, heads, N, width / heads)
        mixed: torch.Tensor = self.answer(found[0].transpose(0, 1).flatten(1))
        return mixed


def _kernel_of(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))


def _rows(features: torch.Tensor) -> torch.Tensor:
    """(B, C, *S) -> (B * voxels, C)."""
    return features.movedim(1, -1).flatten(0, -2)
