"""A step of ``dk-uxnet`` in its small size against a step of ``mper`` with the V-Net.

Both take as many labelled and unlabelled patches of the same size (`matching.step`), in turn in one process. dk-uxnet
runs two networks forward and back over all of them; mper one, over half of them (the mixed ones), and its teacher
forward over the other half.

    python Testing/benchmarks/dk_uxnet.py                               on the CPU
    python Testing/benchmarks/dk_uxnet.py --device cuda --repeats 20
"""

from __future__ import annotations

import argparse

import torch
from _timing import add_options, add_repeats, duration, keep, nothing, show, take_turns
from matching import step

from mper.utils.devices import keep_freed_memory

_PATCH, _QUICK_PATCH = (64, 96, 96), (32, 48, 48)
_TARGET = 3.0
_NAMES = {"mper": "vnet", "dk-uxnet": "ux-net-small"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    add_repeats(parser)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()
    patch = _QUICK_PATCH if arguments.quick else _PATCH
    ways = {name: step(name, kind, patch, device) for name, kind in _NAMES.items()}
    wait = torch.cuda.synchronize if device.type == "cuda" else nothing
    times = take_turns(ways, arguments.repeats, warm_up=2, wait=wait)
    show(
        ("step", "median", "best"),
        [[f"{name}, {_NAMES[name]}", duration(each.median), duration(each.best)] for name, each in times.items()],
    )
    # Noise of a shared machine only ever adds: the ratio of the best is told beside that of the medians.
    ratio, best = (times["dk-uxnet"].median / times["mper"].median, times["dk-uxnet"].best / times["mper"].best)
    print(f"\na step takes {ratio:.2f} times one of mper (best: {best:.2f}; target: {_TARGET:g})")
    told = {name: each.to_json() for name, each in times.items()}
    keep(arguments.json, {"device": device.type, "ratio": ratio, "patch": patch, **told})


if __name__ == "__main__":
    main()
