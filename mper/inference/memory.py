"""What a prediction will cost, and the ways to afford it.

Memory is counted from the sizes of what is alive at the peak; the constants were measured. Time is
the network's own speed, measured on a small block, times the voxels it will see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mper.inference.sliding_window import SLICE_BATCH_VOXELS, tile_starts
from mper.nets.network import NetConfig
from mper.volume import Index3

WHOLE, TILES = "whole", "tiles"
_LIVE_MAPS = 4  # feature maps of full resolution that a network holds at its peak
_SOURCE_BYTES = 28  # per voxel of the region while the mask is drawn: copies of probabilities in float32, and masks
_SHARE = 0.8  # of the free memory that may be planned with
# A CPU's memory is shared with all else that runs there (Slicer, say): a whole volume that needs more goes in tiles.
CPU_LIMIT = 2_200_000_000

FreeBytes = Callable[[torch.device], int | None]


@dataclass(frozen=True)
class Job:
    """The sizes that decide the cost.

    config : of the network; working : size of the working grid; tile : of the sliding window; source_voxels :
    of the region on the source grid; mirrored : axes along which it is mirrored too; embed : whether embeddings
    are kept; maps : source-sized arrays of 2 bytes that were asked for.
    """

    config: NetConfig
    working: Index3
    tile: Index3
    source_voxels: int
    mirrored: tuple[int, ...] = ()
    embed: bool = False
    maps: int = 0

    @property
    def passes(self) -> int:
        """How often the network sees every voxel."""
        return int(2 ** len(self.mirrored))


@dataclass(frozen=True)
class Way:
    """One way to do it: on which device, the whole volume at once or in tiles."""

    device: torch.device
    method: str


@dataclass(frozen=True)
class Estimate:
    """What a prediction is expected to cost: seconds, bytes of memory on the device, and the way chosen."""

    seconds: float
    bytes: int
    method: str
    device: str
    notes: tuple[str, ...] = ()


def ways(device: torch.device) -> list[Way]:
    """From the fastest to the one that needs least of the device's memory."""
    found = [Way(device, WHOLE), Way(device, TILES)]
    if device.type != "cpu":
        found += [Way(torch.device("cpu"), WHOLE), Way(torch.device("cpu"), TILES)]
    return found


def bytes_needed(job: Job, way: Way, dtype: torch.dtype) -> int:
    """Memory at the peak on the way's device, beside what is taken already."""
    config, size = job.config, 4 if dtype == torch.float32 else 2
    voxels = math.prod(job.working)
    if way.method == TILES:
        seen, embedding = math.prod(job.tile), 4 * config.filters
    elif config.dimensions == 2:
        seen, embedding = min(voxels, max(SLICE_BATCH_VOXELS, math.prod(job.working[1:]))), size * config.filters
    else:
        seen, embedding = math.prod(round_up(n, config.divisor) for n in job.working), size * config.filters
    scores = voxels * (8 * config.classes + job.embed * (embedding + 2 * config.classes * config.prototypes))
    forward = seen * config.filters * size * _LIVE_MAPS + 4 * voxels
    drawing = job.source_voxels * (_SOURCE_BYTES + 2 * job.maps)
    # In tiles the scores of all tiles stay while the network runs; at once they are what it ends with.
    return max(forward + (scores if way.method == TILES else 0), scores + drawing)


def voxels_seen(job: Job, method: str) -> int:
    """Voxels that go through the network, overlaps and mirrored passes included."""
    if method == TILES:
        count = math.prod(len(tile_starts(max(n, t), t)) for n, t in zip(job.working, job.tile, strict=True))
        return count * math.prod(job.tile) * job.passes
    return math.prod(round_up(n, job.config.divisor) for n in job.working) * job.passes


def affordable(
    job: Job, candidates: Sequence[Way], free: FreeBytes, dtype: Callable[[torch.device], torch.dtype]
) -> tuple[list[Way], list[str]]:
    """The ways that fit the memory, best first, and why others were left out.

    The last is kept whatever it needs: an estimate is no reason to refuse.
    """
    fitting, notes = [], []
    for n, way in enumerate(candidates):
        needed, available = bytes_needed(job, way, dtype(way.device)), free(way.device)
        limit = math.inf if available is None else available * _SHARE
        if way.device.type == "cpu" and way.method == WHOLE:
            limit = min(limit, CPU_LIMIT)
        if needed <= limit:
            fitting.append(way)
            continue
        words = f"{describe_way(way)} needs about {needed / 1e9:.1f} GB of memory, {limit / 1e9:.1f} GB may be taken"
        if n == len(candidates) - 1 and not fitting:
            fitting.append(way)
            notes.append(f"memory is short: {words}; it was tried all the same")
        elif not fitting:
            notes.append(f"memory is short: {words}")
    return fitting, notes


def describe_way(way: Way) -> str:
    """In words: ``the whole volume on cuda``."""
    return f"{'the whole volume at once' if way.method == WHOLE else 'the volume in tiles'} on {way.device.type}"


def round_up(n: int, divisor: int) -> int:
    """The next multiple of `divisor`."""
    return -(-n // divisor) * divisor
