"""What embedding matching costs: looking labels up in the bank, and a step against one of ``mper``.

The match: 1.2 million voxels of 16 channels against a bank of 4096, by pieces (`mper.methods.matching`), and all at
once as far as memory goes. The step: both methods in self-training on the same network, patches and recipe, in turn in
one process; the voxels are noise, and nothing but the time depends on them.

    python Testing/benchmarks/matching.py                               on the CPU
    python Testing/benchmarks/matching.py --device cuda --repeats 20
    python Testing/benchmarks/matching.py --network unet
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from _timing import Times, add_options, add_repeats, duration, keep, nothing, show, take_turns

from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.methods.embedding_matching import BANK_VOXELS
from mper.methods.matching import best_cosines
from mper.methods.recipe import Recipe
from mper.methods.registry import make_method
from mper.methods.stages import TwoStages
from mper.nets.network import NetConfig, Network
from mper.nets.registry import BACKBONES
from mper.training.setup import make_optimiser
from mper.utils.devices import autocast_dtype, keep_freed_memory

_VOXELS, _QUICK_VOXELS = 1_200_000, 20_000
_PATCHES = {"vnet": (64, 96, 96), "unet": (1, 224, 224)}  # about as many voxels as a `plus` run takes
_QUICK_PATCHES = {"vnet": (16, 32, 32), "unet": (1, 64, 64)}
_BEGUN = 0.01  # share of the run since self-training began: most voxels are looked up then
_METHODS = ("mper", "embedding-matching")


def match(voxels: int, device: torch.device) -> Callable[[], object]:
    """Look up so many voxels; embeddings have no negative entry, as after the network's last ReLU."""
    torch.manual_seed(0)
    rows = torch.randn(voxels, 16, device=device).relu()
    bank = F.normalize(torch.randn(2, BANK_VOXELS // 2, 16, device=device).relu(), dim=2)
    return lambda: best_cosines(rows, bank)


def step(name: str, kind: str, patch: tuple[int, int, int], device: torch.device) -> Callable[[], object]:
    """A self-training step as `mper.training.trainer` takes it, patches included."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shape = tuple(max(n, 4) + 8 for n in patch)
    cases = []
    for n in range(4):
        label = torch.zeros(shape, dtype=torch.uint8)
        label[tuple(slice(size // 3, size // 2 + 1) for size in shape)] = 1
        image = torch.from_numpy(rng.normal(size=shape).astype(np.float32)) + label
        cases.append(TrainingCase(str(n), image.to(device), label.to(device) if n < 2 else None))
    sampler = PatchSampler(cases[:2], cases[2:], patch)
    recipe = Recipe.named("plus", method=name)
    config = NetConfig(kind, 2, BACKBONES[kind].queries or 3, dropout=(0.5, 0.0), smooth=kind == "vnet")
    network = Network(config)
    method = make_method(name, network, recipe, 12 if kind == "unet" else 2)
    method.to(device=device, memory_format=network.memory_format())  # type: ignore[call-overload]
    method.train()
    optimiser = make_optimiser(method, recipe, device)
    dtype = autocast_dtype(device)
    t = _BEGUN + (method.pretrain_share if isinstance(method, TwoStages) else 0.0)

    def once() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            method.prepare(t, sampler, rng)
            losses = method(sampler.batch(*method.patch_counts(t), rng), t)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        method.after_step()

    return once


def _row(name: str, times: Times, target: str) -> list[str]:
    return [name, duration(times.median), duration(times.best), target]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--network", default="vnet", choices=tuple(_PATCHES), help="of the steps (default: vnet)")
    add_repeats(parser)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else nothing
    if not on_gpu:
        keep_freed_memory()
    voxels = _QUICK_VOXELS if arguments.quick else _VOXELS
    patch = (_QUICK_PATCHES if arguments.quick else _PATCHES)[arguments.network]
    search = match(voxels, device)
    matched = take_turns({"match": search}, arguments.repeats, wait=wait)["match"]
    began = time.process_time()
    search()
    processor = time.process_time() - began  # what a machine that others use too cannot spoil
    ways = {name: step(name, arguments.network, patch, device) for name in _METHODS}
    steps = take_turns(ways, arguments.repeats, warm_up=2, wait=wait)
    # Noise of a shared machine only ever adds: ratios of the best are told beside those of the medians.
    ratio, best = (
        steps[_METHODS[1]].median / steps[_METHODS[0]].median,
        steps[_METHODS[1]].best / steps[_METHODS[0]].best,
    )
    rows = [_row(f"match of {voxels:,} voxels", matched, "50 ms" if on_gpu else "6 s")]
    rows += [_row(f"step of {name}, {arguments.network}", times, "") for name, times in steps.items()]
    show(("", "median", "best", "target"), rows)
    print(f"\na step takes {ratio:.2f} times one of mper (best: {best:.2f}; target: {1.6 if on_gpu else 2})")
    if not on_gpu:
        print(f"the match took {processor:.1f} s of processor time, of all threads together")
    told = {"match": matched.to_json(), **{name: times.to_json() for name, times in steps.items()}}
    keep(
        arguments.json,
        {
            "device": device.type,
            "ratio": ratio,
            "voxels": voxels,
            "patch": patch,
            "match_processor_s": processor,
            **told,
        },
    )


if __name__ == "__main__":
    main()
