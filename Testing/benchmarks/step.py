"""One self-training step of ``mper --recipe paper`` against the same step as published, and whole published runs.

The real V-Net, 2 + 2 + 2 + 2 patches of 112 x 112 x 80, the same weights and the same batches for both. Our step is all
that the training loop does, cutting and turning the patches included; the published step (`_published.py`) is given
its patches ready. Weights: those of a bundle, so that pseudo-labels look like atria; without one, random.

    python Testing/benchmarks/step.py                              on the CPU
    python Testing/benchmarks/step.py --device cuda --repeats 20
    python Testing/benchmarks/step.py --compile --threads 1        a step of recipe plus with torch.compile
    python Testing/benchmarks/step.py --device cuda --full-run DATASET            1300 + 8000 steps, really
    python Testing/benchmarks/step.py --device cuda --full-run DATASET --steps 93   extrapolated from 13 + 80

DATASET holds the left atria in a split `train` (`mper import`, or packed by `mper pack`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _data import made_scan, scans
from _published import PublishedStep
from _timing import (
    Finished,
    Times,
    add_options,
    add_repeats,
    duration,
    gigabytes,
    keep,
    run_command,
    show,
    take_turns,
)

from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import Preprocessing, WorkingGrid, normalise
from mper.methods.base import Method
from mper.methods.mper import MPER
from mper.methods.recipe import PUBLISHED, Recipe
from mper.methods.registry import make_method
from mper.models.bundle import ModelBundle
from mper.nets.network import NetConfig, Network
from mper.resources import find_model
from mper.training.runs import read_events
from mper.training.setup import make_optimiser
from mper.utils.devices import autocast_dtype, keep_freed_memory

_T = 0.6  # share of the run at which the step is measured: nothing but weights depends on it
_QUICK_PATCH = (48, 48, 48)
PLUS_PATCH = (64, 96, 128)  # of an atrium at 1 mm
_NAMES = ("published", "mper")


def training_step(
    network: Network, sampler: PatchSampler, device: torch.device, name: str, recipe: Recipe, batch: int
) -> tuple[Callable[[], None], Method]:
    """A step as `mper.training.trainer` takes it, in self-training with its prototypes in place."""
    torch.manual_seed(0)
    method = make_method(name, network, recipe, batch)
    method.to(device=device, memory_format=network.memory_format())  # type: ignore[call-overload]
    method.train()
    optimiser = make_optimiser(method, recipe, device)
    rng = np.random.default_rng(0)
    method.prepare(_T, sampler, rng)
    dtype = autocast_dtype(device)

    def step() -> None:
        batch = sampler.batch(*method.patch_counts(_T), rng)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = method(batch, _T)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        method.after_step()

    return step, method


def steps(model: str, device: torch.device, patch: tuple[int, int, int]) -> dict[str, Callable[[], object]]:
    """Both steps, ready to be taken; ours cuts and turns its patches itself."""
    network = Network(NetConfig("vnet", 2))
    try:
        network.load_state_dict(dict(ModelBundle.load(find_model(model)).state))
    except FileNotFoundError:
        print("no such model: random weights, whose pseudo-labels are noise")
    preprocessing = Preprocessing((0.625,) * 3)
    cases = []
    for scan in scans(8) if patch != _QUICK_PATCH else [made_scan(n) for n in range(4)]:
        grid = WorkingGrid.plan(scan.image.geometry, preprocessing, 3)
        label = grid.forward_labels(scan.atrium.astype(np.uint8), 2).to(device)
        cases.append(TrainingCase(scan.id, normalise(grid.forward(scan.image.array), preprocessing).to(device), label))
    sampler = PatchSampler(cases[: len(cases) // 2], cases[len(cases) // 2 :], patch, affine=False)
    ours, method = training_step(network, sampler, device, "mper", Recipe.named("paper"), PUBLISHED[3].batch)
    assert isinstance(method, MPER)
    theirs = PublishedStep(method.student, device)
    batch = sampler.batch(*method.patch_counts(_T), np.random.default_rng(1))
    weight = method.prototype_weight(_T)
    return {
        "published": lambda: theirs(batch, weight),
        "mper": ours,
    }


def compiled_steps(arguments: argparse.Namespace) -> None:
    """A supervised step of recipe plus with and without `torch.compile`, in processor time, and what that costs."""
    device = torch.device(arguments.device)
    patch = _QUICK_PATCH if arguments.quick else PLUS_PATCH
    cases = []
    for scan in [made_scan(n, patch) for n in range(2)]:
        image = torch.from_numpy(np.asarray(scan.image.array, np.float32))
        label = torch.from_numpy(scan.atrium.astype(np.uint8))
        cases.append(TrainingCase(scan.id, (image - image.mean()) / image.std(), label))
    ways, costs = {}, {}
    for way in ("as it is", "compiled"):
        torch.manual_seed(0)
        network = Network(NetConfig("vnet", 2, smooth=True, dropout=(0.5, 0.0)))
        sampler = PatchSampler(cases, [], patch)
        recipe = Recipe.named("plus", (), "supervised")
        step, method = training_step(network, sampler, device, "supervised", recipe, 2)
        begin = sum(os.times()[:4])  # with the compiler's processes
        if way == "compiled":
            method.student.compile()
        step()
        ways[way], costs[way] = step, sum(os.times()[:4]) - begin
    times = take_turns(ways, arguments.repeats, clock=time.process_time)
    rows = [[way, duration(times[way].median), duration(times[way].best), duration(costs[way])] for way in ways]
    show(("step", "median", "best", "the first, with compiling"), rows)
    print(f"\n{times['as it is'].median / times['compiled'].median:.2f} times faster when compiled")


def alone(name: str, arguments: argparse.Namespace) -> Finished:
    """One step, after two that do not count, in a process that does nothing else and has memory as `mper train`."""
    command = [sys.executable, __file__, "--only", name, "--model", arguments.model]
    command += ["--threads", str(arguments.threads), *(["--quick"] if arguments.quick else [])]
    return run_command(command)


def _take_alone(name: str, arguments: argparse.Namespace) -> None:
    if name == "mper":
        keep_freed_memory()
    way = steps(arguments.model, torch.device("cpu"), _patch(arguments))[name]
    print(take_turns({name: way}, 1, warm_up=2)[name].median)


@dataclass(frozen=True)
class FullRun:
    """A run of `steps`, and the seconds that one of the published length takes, measured or extrapolated."""

    steps: int
    per_step_s: float
    around_s: float
    command_s: float
    published_length_s: float
    peak_bytes: int | None
    run_folder_bytes: int


def full_run(dataset: Path, count: int | None, device: str, threads: int) -> FullRun:
    """`mper train --recipe paper` in a process of its own: its time, its memory and its run folder.

    With `count` steps the time of training is extrapolated to the published number; pre-training has the same share
    of both.
    """
    published = PUBLISHED[3].pretrain + PUBLISHED[3].selftrain
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "mper", "train", str(dataset), "--method", "mper", "--recipe", "paper"]
        command += ["--labeled", "8", "--device", device, "--out", str(run), "--steps", str(count or published)]
        done = run_command(command, threads)
        last = [event for event in read_events(run) if event["event"] == "step"][-1]
        size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    per_step = float(last["elapsed_s"]) / max(1, int(last["step"]) - 1)  # told before the step it tells of is counted
    return FullRun(
        steps=count or published,
        per_step_s=per_step,
        around_s=done.seconds - per_step * (count or published),
        command_s=done.seconds,
        published_length_s=done.seconds + per_step * (published - (count or published)),
        peak_bytes=done.peak_bytes,
        run_folder_bytes=size,
    )


def _patch(arguments: argparse.Namespace) -> tuple[int, int, int]:
    return _QUICK_PATCH if arguments.quick else PUBLISHED[3].patch


def _measure_run(arguments: argparse.Namespace) -> None:
    figures = full_run(arguments.full_run, arguments.steps, arguments.device, arguments.threads)
    seconds = (figures.per_step_s, figures.around_s, figures.command_s, figures.published_length_s)
    sizes = (figures.peak_bytes, figures.run_folder_bytes)
    row = [str(figures.steps), *(duration(value) for value in seconds), *(gigabytes(value) for value in sizes)]
    show(("steps", "a step", "around them", "command", "1300 + 8000 steps", "peak memory (host)", "run folder"), [row])
    keep(arguments.json, {"full_run": asdict(figures)})


def _measure_step(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    peaks: dict[str, int | None] = {}
    if device.type == "cuda":
        ways = steps(arguments.model, device, _patch(arguments))
        times = take_turns(ways, arguments.repeats, wait=torch.cuda.synchronize)
        for name in _NAMES:
            torch.cuda.reset_peak_memory_stats()
            ways[name]()
            peaks[name] = torch.cuda.max_memory_allocated()
    else:
        turns = [{name: alone(name, arguments) for name in _NAMES} for _ in range(arguments.repeats)]
        times = {name: Times(tuple(float(turn[name].output) for turn in turns)) for name in _NAMES}
        peaks = {name: turns[0][name].peak_bytes for name in _NAMES}
    ratio = times["published"].median / times["mper"].median
    rows = [[name, duration(times[name].median), duration(times[name].best), gigabytes(peaks[name])] for name in _NAMES]
    show(("step", "median", "best", "peak memory"), rows)
    print(f"\nmper is {ratio:.1f} times faster ({device.type})")
    told = {name: each.to_json() for name, each in times.items()}
    keep(arguments.json, {"device": device.type, "ratio": ratio, **told, "peak": peaks})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="la", metavar="NAME|PATH", help="whose weights (default: la)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--full-run", type=Path, metavar="DATASET", help="measure a whole published run instead")
    parser.add_argument("--steps", type=int, metavar="N", help="of --full-run: so many, and extrapolate")
    parser.add_argument("--only", choices=_NAMES, help=argparse.SUPPRESS)  # for `alone`
    parser.add_argument("--compile", action="store_true", help="measure torch.compile instead")
    add_repeats(parser)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        _take_alone(arguments.only, arguments)
    elif arguments.compile:
        compiled_steps(arguments)
    elif arguments.full_run:
        _measure_run(arguments)
    else:
        _measure_step(arguments)


if __name__ == "__main__":
    main()
