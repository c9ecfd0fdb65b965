"""Copy-paste, CutMix and the largest component, all on the device and without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


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
    voxel carries a number, the largest number of each component is found (`component_numbers`), and
    the component with most voxels is kept. Parts that are at most two voxels apart may count as
    connected; the published code uses skimage on the CPU at full resolution.
    """
    dimensions = labels.dim() - 1
    values = torch.arange(1, classes, device=labels.device).reshape(-1, *[1] * dimensions)
    mine = labels[:, None] == values  # (B, foreground classes, *S)
    # Sizes in voxels of the coarse voxels; beyond an odd border there is nothing.
    padded = F.pad(mine.float(), [n % 2 * end for n in reversed(labels.shape[1:]) for end in (0, 1)])
    pool = F.avg_pool3d if dimensions == 3 else F.avg_pool2d
    size = pool(padded, 2) * 2**dimensions
    occupied = (size > 0).float()
    count = size[0, 0].numel()
    flat = component_numbers(occupied).flatten(2).long()
    votes = size.new_zeros(*size.shape[:2], count + 1)
    votes.scatter_add_(2, flat, size.flatten(2))  # whole numbers: exact in any order
    kept = (flat == votes[..., 1:].argmax(2, keepdim=True) + 1).reshape(size.shape)
    fine = F.interpolate(kept.float(), scale_factor=2, mode="nearest")
    for axis, n in enumerate(labels.shape[1:], start=2):
        fine = fine.narrow(axis, 0, n)
    return (values * (mine & (fine > 0))).sum(1)


def component_numbers(occupied: torch.Tensor) -> torch.Tensor:
    """A number for each voxel that is 1, the same throughout a component and 0 elsewhere: (B, C, *S) -> the same.

    Each voxel points to one of its component with a larger number. In every round the voxel pointed to learns the
    largest number that its followers see next to them, and pointers are shortened (Zhang, Azad and Hu, "FastSV",
    SIAM PP 2020), so that the rounds grow with the logarithm of the voxels: at most 8 were needed for snakes, spirals
    and noise of 40,000 voxels, for which more than 30 are done.
    """
    count = occupied[0, 0].numel()
    number = torch.arange(1, count + 1, device=occupied.device, dtype=torch.float32)
    pointer = F.pad(occupied.flatten(2) * number, (1, 0))  # [voxel number] -> voxel number; 0 is nowhere
    for _ in range(2 * count.bit_length()):
        seen = F.pad((spread(pointer[..., 1:].reshape(occupied.shape)) * occupied).flatten(2), (1, 0))
        shortened = seen.scatter_reduce(2, pointer.long(), seen, "amax")
        for _ in range(2):
            shortened = shortened.gather(2, shortened.long())
        if occupied.device.type == "cpu" and np.array_equal(shortened.numpy(), pointer.numpy()):
            break  # the host may look at its own memory; on a device it would have to wait for the answer
        pointer = shortened
    return pointer[..., 1:].reshape(occupied.shape)


def spread(number: torch.Tensor) -> torch.Tensor:
    """The largest of each voxel and all its neighbours, diagonal ones included: (B, C, *S) -> the same."""
    dimensions = number.dim() - 2
    if number.device.type != "cpu":  # one launch
        return F.max_pool3d(number, 3, 1, 1) if dimensions == 3 else F.max_pool2d(number, 3, 1, 1)
    for axis in range(2, number.dim()):  # the same, 15 times faster
        pairs = torch.maximum(
            number.narrow(axis, 1, -1 + number.shape[axis]), number.narrow(axis, 0, -1 + number.shape[axis])
        )
        number = number.clone()
        number.narrow(axis, 0, pairs.shape[axis]).copy_(pairs)
        tail = number.narrow(axis, 1, pairs.shape[axis])
        torch.maximum(tail, pairs, out=tail)
    return number
