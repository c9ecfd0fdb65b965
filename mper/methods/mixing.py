"""Copy-paste, CutMix and the largest component, all on the device and without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

_SWEEPS = 64  # longest path, in coarse voxels, along which two parts count as connected


def box_mask(spatial: Sequence[int], fraction: float, rng: np.random.Generator, device: torch.device) -> torch.Tensor:
    """M of BCP (Bai et al., CVPR 2023): 0 inside one box of int(fraction * size) at a random place, 1 outside; (*S)."""
    mask = torch.ones(tuple(spatial), device=device)
    window = []
    for n in spatial:
        side = int(n * fraction)
        start = int(rng.integers(0, n - side + 1))
        window.append(slice(start, start + side))
    mask[tuple(window)] = 0
    return mask


def cutmix_mask(spatial: Sequence[int], rng: np.random.Generator, device: torch.device) -> torch.Tensor:
    """0 inside a box of 2% to 40% of the patch, 1 outside (UniMatch's range); (*S)."""
    return box_mask(spatial, float(rng.uniform(0.02, 0.4)) ** (1 / len(spatial)), rng, device)


def paste(outside: torch.Tensor, inside: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`outside` where the mask is 1, `inside` where it is 0; the mask's shape is the trailing one."""
    return torch.where(mask > 0.5, outside, inside)


def largest_component(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Keep the largest component of each foreground class of each patch: (B, *S) int64 -> the same.

    Runs on the device without a host synchronisation, at half resolution: every occupied coarse
    voxel carries a number, the largest number spreads through its component, and the component
    whose number is carried most often is kept. Parts closer than two voxels count as connected, and
    so do only those within 64 coarse voxels of each other along the component; the published code
    uses skimage on the CPU at full resolution.
    """
    dimensions = labels.dim() - 1
    pool = F.max_pool3d if dimensions == 3 else F.max_pool2d
    out = torch.zeros_like(labels)
    for value in range(1, classes):
        mine = (labels == value)[:, None].float()
        coarse = pool(mine, 2, ceil_mode=True)
        count = coarse[0].numel()
        number = torch.arange(1, count + 1, device=labels.device, dtype=torch.float32).reshape(coarse.shape[1:]) * coarse
        for _ in range(_SWEEPS):
            number = pool(number, 3, stride=1, padding=1) * coarse
        flat = number.flatten(1).long()
        votes = torch.zeros(labels.shape[0], count + 1, device=labels.device)
        votes.scatter_add_(1, flat, (flat > 0).float())
        winner = votes.argmax(1)
        kept = (flat == winner[:, None]) & (flat > 0)
        fine = F.interpolate(kept.reshape(coarse.shape).float(), scale_factor=2, mode="nearest")
        window = tuple(slice(0, n) for n in labels.shape[1:])
        out = torch.where((mine[:, 0] > 0) & (fine[:, 0][(slice(None), *window)] > 0), value, out)
    return out
