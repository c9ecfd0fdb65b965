"""Running a network on a whole volume: at once, slice by slice, in tiles, on mirrored copies.

Images are normalised (k, j, i) tensors on the working grid; results are `Scores` on the same grid. This module depends
on no scans, files or patient coordinates.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mper.nets.network import Network, Output
from mper.progress import Progress, Report, ignore_progress
from mper.volume import Index3

SLICE_BATCH_VOXELS = 2**20  # of a 2-D network's batch: large enough to fill a GPU, small beside its memory
_OVERLAP = 0.5
_SIGMA = 1 / 8  # of the tile's length, as in nnU-Net


class Scores(NamedTuple):
    """Logits (classes, k, j, i) and, where wanted, the embedding (filters, k, j, i) on the working grid."""

    logits: torch.Tensor
    embedding: torch.Tensor | None


Run = Callable[[torch.Tensor], Scores]


class Runner:
    """A network that is ready for prediction, for images of any size.

    Parameters
    ----------
    network : Network
        Copied; its batch norms are folded into the convolutions before them, which gives the same
        function several times faster on a CPU.
    device : torch.device
    dtype : torch.dtype
        Of autocast; float32 for none.
    """

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype):
        self.config, self.device, self.dtype = network.config, device, dtype
        ready = copy.deepcopy(network).eval()
        fold_batch_norms(ready)
        self.network = ready.to(device).to(memory_format=network.memory_format())  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, embed: Sequence[int] | None = None) -> Scores:
        """The whole image at once by a 3-D network, in batches of slices by a 2-D one; scores lie on the device.

        Parameters
        ----------
        image : (k, j, i) tensor
        embed : (int, int, int) or None
            The embedding is computed for each so many voxels along (k, j, i), beginning with the first, so that
            (1, 1, 1) is all of it.
        """
        volume = self.config.dimensions == 3
        divisor = self.config.divisor
        size: Index3 = tuple(-(-n // divisor) * divisor for n in image.shape)  # type: ignore[assignment]
        if not volume:
            size = (image.shape[0], *size[1:])
        padded, inside = pad_edges(image.to(self.device), size)
        if volume:
            batches = [padded[None, None]]  # one batch (1, 1, k, j, i)
        else:
            batches = list(
                padded[:, None].split(max(1, SLICE_BATCH_VOXELS // (size[1] * size[2])))
            )  # (n, 1, j, i) each
        window = inside[-self.config.dimensions :]
        wanted = None
        if embed is not None:
            steps = embed[-self.config.dimensions :]
            wanted = [slice(part.start, part.stop, step) for part, step in zip(window, steps, strict=True)]
        outputs = [self._forward(batch, window, wanted) for batch in batches]

        def join(parts: list[torch.Tensor]) -> torch.Tensor:
            """Batches -> (channels, k, j, i)."""
            return parts[0][0] if volume else torch.cat(parts).transpose(0, 1)

        logits = join([logits for logits, _ in outputs])
        embeddings = [embedding for _, embedding in outputs if embedding is not None]
        if embed is None:
            return Scores(logits, None)
        return Scores(logits, join(embeddings)[:, :: 1 if volume else embed[0]])

    def _forward(
        self, batch: torch.Tensor, window: Sequence[slice], wanted: Sequence[slice] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits in a window, and the embedding where it is wanted."""
        batch = batch.contiguous(memory_format=self.network.memory_format())
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            output: Output = self.network(batch)
        logits = output.logits[(slice(None), slice(None), *window)].float()
        return logits, None if wanted is None else output.embedding_at(wanted)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm of an eval-mode module into the convolution before it, in place."""
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for n, (layer, norm) in enumerate(itertools.pairwise(list(sequence))):
            if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d) and isinstance(
                norm, nn.BatchNorm2d | nn.BatchNorm3d
            ):
                transpose = isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d)
                sequence[n] = nn.utils.fusion.fuse_conv_bn_eval(layer, norm, transpose=transpose)
                sequence[n + 1] = nn.Identity()


def pad_edges(image: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Repeat the outermost voxels on both sides until `image` has `size`; also where the image then lies.

    Training patches that reach beyond a scan are filled in the same way. Axes that are long enough stay.
    """
    inside = []
    for axis, (n, wanted) in enumerate(zip(image.shape, size, strict=True)):
        before = max(0, wanted - n) // 2
        inside.append(slice(before, before + n))
        if wanted > n:
            index = (torch.arange(wanted, device=image.device) - before).clamp(0, n - 1)
            image = image.index_select(axis, index)
    return image, tuple(inside)


def tiled(run: Run, image: torch.Tensor, tile: Sequence[int], classes: int, report: Report = ignore_progress) -> Scores:
    """`run` on overlapping tiles, blended with Gaussian weights that are divided out exactly.

    Sums are kept on the CPU in float32: tiles serve where the device's memory is short.

    Parameters
    ----------
    run : callable
        From a tile to its `Scores`.
    image : (k, j, i) tensor
    tile : (int, int, int)
        Size of the tiles; axes on which the image is smaller are padded by repeating its edge.
    classes : int
        Number of logits.
    report : Report
        Called before each tile.
    """
    padded, inside = pad_edges(image, [max(n, t) for n, t in zip(image.shape, tile, strict=True)])
    weight = gaussian_weight(tile)
    total = torch.zeros(padded.shape)
    sums: torch.Tensor | None = None
    has_embedding = False
    corners = list(itertools.product(*(tile_starts(n, t) for n, t in zip(padded.shape, tile, strict=True))))
    for done, corner in enumerate(corners):
        report(Progress(f"tile {done + 1} of {len(corners)}", done / len(corners)))
        window = tuple(slice(a, a + t) for a, t in zip(corner, tile, strict=True))
        scores = run(padded[window])
        has_embedding = scores.embedding is not None
        parts = [s.float().cpu() for s in scores if s is not None]
        if sums is None:
            sums = torch.zeros((sum(len(p) for p in parts), *padded.shape))
        start = 0
        for part in parts:
            sums[(slice(start, start + len(part)), *window)] += part * weight
            start += len(part)
        total[window] += weight
    assert sums is not None
    sums /= total
    sums = sums[(slice(None), *inside)]
    return Scores(sums[:classes], sums[classes:] if has_embedding else None)


def tile_starts(length: int, tile: int) -> list[int]:
    """First voxels of the tiles of one axis: evenly spread, overlapping by half or more, covering all."""
    if tile >= length:
        return [0]
    step = max(1.0, tile * (1 - _OVERLAP))
    count = int(np.ceil((length - tile) / step)) + 1
    return [round(n * (length - tile) / (count - 1)) for n in range(count)]


def gaussian_weight(tile: Sequence[int]) -> torch.Tensor:
    """Weights of a tile's voxels, 1 at its centre, nowhere so small that dividing by them loses digits."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n * _SIGMA)) ** 2) for n in tile]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return (weight / weight.max()).clamp(min=1e-4)


def mirrored(run: Run, axes: Sequence[int]) -> Run:
    """`run` averaged over all combinations of mirroring along `axes`; the embedding is that of the image as it is."""
    combinations = [c for n in range(1, len(axes) + 1) for c in itertools.combinations(axes, n)]
    if not combinations:
        return run

    def run_all(image: torch.Tensor) -> Scores:
        scores = run(image)
        logits = scores.logits.clone()
        for flipped in combinations:
            logits += run(image.flip(flipped)).logits.flip([a + 1 for a in flipped])
        return Scores(logits / (len(combinations) + 1), scores.embedding)

    return run_all
