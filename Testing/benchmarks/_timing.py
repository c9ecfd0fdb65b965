"""What the benchmarks share: timing of several ways in turn, tables, and a word about the machine.

Absolute seconds are worth little on a machine that others use too. Ways to compare are therefore run in turn in one
process (A B A B ...), so that noise hits all alike; what is reported is the median, and ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Times:
    """Seconds of the repeats of one way."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "best": self.best, "repeats": len(self.seconds)}


def nothing() -> None:
    """What a CPU does to wait for itself."""


def take_turns(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    wait: Callable[[], object] = nothing,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Time several ways in turn.

    Parameters
    ----------
    ways : mapping of str to callable
    repeats, warm_up : int
        Rounds that count, and rounds before that do not.
    wait : callable
        Called before and after each: waits for a device that works on its own (``torch.cuda.synchronize``).
    clock : callable
        ``time.process_time`` where other programs must not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + repeats):
        for name, way in ways.items():
            wait()
            started = clock()
            way()
            wait()
            if turn >= warm_up:
                seconds[name].append(clock() - started)
    return {name: Times(tuple(each)) for name, each in seconds.items()}


@dataclass(frozen=True)
class Finished:
    """A command that was run: its seconds, the peak of its memory in bytes (None where unknown), and its stdout."""

    seconds: float
    peak_bytes: int | None
    output: str


def run_command(command: Sequence[str], threads: int | None = None) -> Finished:
    """Run a command to its end and measure it from outside.

    The peak is the largest resident memory of the process; Windows does not tell it in the standard library. Linux
    counts the parent's memory at the start of the child too, so whoever calls this must itself be small.

    Raises
    ------
    RuntimeError
        If the command fails; with the end of what it said.
    """
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, encoding="utf-8"
        )
        assert process.stdout is not None
        with process.stdout:
            output = process.stdout.read()
        code, peak = _wait(process)
        seconds = time.perf_counter() - started
        if code != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed with exit code {code}: {errors.read().strip()[-500:]}")
    return Finished(seconds, peak, output)


def _wait(process: subprocess.Popen[str]) -> tuple[int, int | None]:
    """Exit code and peak memory of a process."""
    if sys.platform == "win32":
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")


def add_repeats(parser: argparse.ArgumentParser) -> None:
    """The options of the benchmarks that measure time."""
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds that count (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that the benchmark runs, and measures nothing"
    )


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a markdown table."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[c]) for line in lines) for c in range(len(head))]
    for n, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if n == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")


def keep(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures with what the machine is, where `--json` asks for it."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """The machine in general words; torch is asked only where it is loaded already."""
    about: dict[str, Any] = {"system": platform.system(), "python": platform.python_version(), "cores": os.cpu_count()}
    if "torch" in sys.modules:
        import torch

        from mper.utils.devices import describe_device, pick_device

        about |= {"torch": torch.__version__, "device": describe_device(pick_device("auto"))}
    return about


def duration(seconds: float | None) -> str:
    """``0.012 s``, ``1.23 s``, ``123 s``, ``-``."""
    if seconds is None:
        return "-"
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def gigabytes(count: int | None) -> str:
    """``1.23 GB`` (10^9 bytes), or ``not measured``."""
    return "not measured" if count is None else f"{count / 1e9:.2f} GB"
