"""How much memory and time a prediction takes, and the strategies that fit a device's free memory.

Memory is estimated from the sizes of the tensors that exist at the peak; the constants were measured. Time is the
speed of the network, measured on a small block, times the number of voxels that it processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mper.inference.sliding_window import SLICE_BATCH_VOXELS, tile_starts
from mper.nets.network import NetConfig
from mper.utils.coded import Coded
from mper.utils.devices import is_out_of_memory
from mper.volume import Index3

WHOLE, TILES = "whole", "tiles"
_LIVE_MAPS = 4  # feature maps of full resolution that a network holds at its peak
_SOURCE_BYTES = 28  # per voxel of the region while the mask is drawn: copies of probabilities in float32, and masks
_SHARE = 0.8  # of the free memory that may be planned with
# A CPU's memory is shared with all else that runs there (Slicer, say): a whole volume that needs more goes in tiles.
CPU_LIMIT = 2_200_000_000

FreeBytes = Callable[[torch.device], int | None]


@dataclass(frozen=True)
class Workload:
    """The sizes that decide what a prediction costs.

    Parameters
    ----------
    config : NetConfig
        Of the network.
    working : (int, int, int)
        Size of the working grid (k, j, i).
    tile : (int, int, int)
        Size of the tiles of the sliding window.
    source_voxels : int
        Voxels of the segmented region on the scan's grid.
    mirrored : tuple of int
        Axes along which mirrored copies are averaged (test-time augmentation).
    embed : bool
        Whether embeddings are computed.
    maps : int
        How many arrays of 2 bytes a source voxel are requested beside the mask.
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
        """How often the network processes every voxel."""
        return int(2 ** len(self.mirrored))


@dataclass(frozen=True)
class Strategy:
    """One way to compute a prediction: the device, and the method, `WHOLE` (the volume at once) or `TILES`."""

    device: torch.device
    method: str


def strategies(device: torch.device) -> list[Strategy]:
    """All strategies for a device, from the fastest to the one that needs least of the device's memory."""
    found = [Strategy(device, WHOLE), Strategy(device, TILES)]
    if device.type != "cpu":
        found += [Strategy(torch.device("cpu"), WHOLE), Strategy(torch.device("cpu"), TILES)]
    return found


def bytes_needed(workload: Workload, strategy: Strategy, dtype: torch.dtype) -> int:
    """Peak memory in bytes on the strategy's device, in addition to what is in use already."""
    config, size = workload.config, 4 if dtype == torch.float32 else 2
    voxels = math.prod(workload.working)
    if strategy.method == TILES:
        seen, embedding = math.prod(workload.tile), 4 * config.filters
    elif config.dimensions == 2:
        seen, embedding = min(voxels, max(SLICE_BATCH_VOXELS, math.prod(workload.working[1:]))), size * config.filters
    else:
        seen, embedding = math.prod(round_up(n, config.divisor) for n in workload.working), size * config.filters
    scores = voxels * (8 * config.classes + workload.embed * (embedding + 2 * config.classes * config.prototypes))
    forward = seen * config.filters * size * _LIVE_MAPS + 4 * voxels
    drawing = workload.source_voxels * (_SOURCE_BYTES + 2 * workload.maps)
    # In tiles the scores of all tiles stay while the network runs; at once they are what it ends with.
    return max(forward + (scores if strategy.method == TILES else 0), scores + drawing)


def voxels_seen(workload: Workload, method: str) -> int:
    """Voxels that the network processes, overlaps and mirrored copies included."""
    if method == TILES:
        count = math.prod(len(tile_starts(max(n, t), t)) for n, t in zip(workload.working, workload.tile, strict=True))
        return count * math.prod(workload.tile) * workload.passes
    return math.prod(round_up(n, workload.config.divisor) for n in workload.working) * workload.passes


def affordable_strategies(
    workload: Workload, candidates: Sequence[Strategy], free: FreeBytes, dtype: Callable[[torch.device], torch.dtype]
) -> tuple[list[Strategy], list[str]]:
    """The strategies that fit the free memory, best first, and a note for each better one that does not.

    The last candidate is kept even if its estimate does not fit: an estimate is no reason to refuse.
    """
    fitting: list[Strategy] = []
    notes: list[str] = []
    for n, strategy in enumerate(candidates):
        needed, available = bytes_needed(workload, strategy, dtype(strategy.device)), free(strategy.device)
        limit = math.inf if available is None else available * _SHARE
        if strategy.device.type == "cpu" and strategy.method == WHOLE:
            limit = min(limit, CPU_LIMIT)
        if needed <= limit:
            fitting.append(strategy)
            continue
        what, gigabytes, usable = describe_strategy(strategy), f"{needed / 1e9:.1f}", f"{limit / 1e9:.1f}"
        line, values = (
            f"memory is short: {what} needs about {gigabytes} GB, {usable} GB can be used",
            {
                "what": what,
                "needed": gigabytes,
                "usable": usable,
            },
        )
        if n == len(candidates) - 1 and not fitting:
            fitting.append(strategy)
            notes.append(Coded(f"{line}; trying it anyway", "memory-short-tried", **values))
        elif not fitting:
            notes.append(Coded(line, "memory-short", **values))
    return fitting, notes


def describe_strategy(strategy: Strategy) -> str:
    """The strategy in words: ``the whole volume at once on cuda``."""
    device = strategy.device.type
    if strategy.method == WHOLE:
        return Coded(f"the whole volume at once on {device}", "whole-volume", device=device)
    return Coded(f"the volume in tiles on {device}", "in-tiles", device=device)


def is_worth_another(error: BaseException) -> bool:
    """Whether another device or tiles may do what failed: memory ran out, or MPS, which knows fewer operations."""
    return isinstance(error, NotImplementedError) or is_out_of_memory(error)


def note_another(device: torch.device, error: type[BaseException], failed: str, instead: str) -> Coded:
    """The note on what failed on a device with such an error, and what was done instead."""
    lacking = issubclass(error, NotImplementedError)
    why = f"{device.type} lacks an operation of this network" if lacking else "memory ran out"
    code = "operation-missing" if lacking else "memory-ran-out"
    return Coded(f"{why} with {failed}; went on with {instead}", code, failed=failed, instead=instead)


def round_up(n: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is not below `n`."""
    return -(-n // divisor) * divisor
