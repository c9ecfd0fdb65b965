"""What the user of a command line waits for, and how much memory it takes.

Every command is a process of its own, from its start to its exit: loading Python and torch counts. "Cold" means a
fresh process, not a fresh machine: the first round, which reads the files from disk, does not count.

    python Testing/benchmarks/commands.py
    python Testing/benchmarks/commands.py --dataset DATASET    also the start of a training on that dataset
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from _timing import add_options, add_repeats, duration, gigabytes, keep, run_command, show, take_turns

from mper.resources import sample_scan
from mper.volume import Geometry, Volume

BIG_SHAPE = (88, 640, 640)  # (k, j, i): a whole atrial LGE-MRI, 400 mm wide
_SPACING_MM = (0.625, 0.625, 0.625)
_ALONG_PATIENT = np.eye(3)[::-1]  # columns: k to the head, j to the back, i to the left


@dataclass(frozen=True)
class Result:
    """Median seconds and largest peak memory of a command, beside what they should stay under."""

    what: str
    seconds: float
    peak_bytes: int | None = None
    limit_s: float | None = None
    limit_bytes: int | None = None

    def row(self) -> list[str]:
        limits = [
            f"{self.limit_s:g} s" if self.limit_s else "",
            f"{self.limit_bytes / 1e9:g} GB" if self.limit_bytes else "",
        ]
        peak = gigabytes(self.peak_bytes) if self.peak_bytes is not None or self.limit_bytes else "-"
        return [self.what, duration(self.seconds), peak, ", ".join(limit for limit in limits if limit)]


def measure(
    what: str,
    arguments: Sequence[str],
    repeats: int,
    threads: int,
    limit_s: float | None = None,
    limit_bytes: int | None = None,
) -> Result:
    """Run ``mper arguments...`` so many times, after once that does not count."""
    peaks: list[int | None] = []

    def command() -> None:
        peaks.append(run_command([sys.executable, "-m", "mper", *arguments], threads).peak_bytes)

    seconds = take_turns({what: command}, repeats)[what].median
    known = [peak for peak in peaks if peak is not None]
    result = Result(what, seconds, max(known) if known else None, limit_s, limit_bytes)
    print(" ".join(result.row()), flush=True)
    return result


def write_big_scan(path: Path, shape: tuple[int, int, int]) -> None:
    """A chest of the right size: air, tissue with noise, and a bright blob; slice by slice, to stay small."""
    from mper.io import write_volume

    rng = np.random.default_rng(0)
    array = np.zeros(shape, dtype=np.uint8)
    j, i = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape[1:]), indexing="ij")
    tissue = (j / 0.6) ** 2 + (i / 0.85) ** 2 < 1
    blob = ((j - 0.05) / 0.13) ** 2 + (i / 0.16) ** 2
    for k, height in enumerate(np.linspace(-1, 1, shape[0])):
        level = 5 + 55 * tissue + 70 * (blob + (height / 0.6) ** 2 < 1)
        array[k] = np.clip(level + rng.normal(0, 12, shape[1:]), 0, 255)
    write_volume(path, Volume(array, Geometry.from_axes((0, 0, 0), _SPACING_MM, _ALONG_PATIENT, shape)))


def loaded(model: str, repeats: int, threads: int) -> Result:
    """Seconds of the next scan once the model is loaded; loads torch into this process, so it comes last."""
    import torch

    from mper.inference.predictor import Predictor
    from mper.io import read_volume
    from mper.models.bundle import ModelBundle
    from mper.resources import find_model

    torch.set_num_threads(threads)
    predictor, scan = Predictor(ModelBundle.load(find_model(model)), "cpu"), read_volume(sample_scan())
    seconds = take_turns({"next": lambda: predictor.predict(scan)}, max(repeats, 5))["next"].median
    return Result("the next scan, model loaded", seconds, limit_s=0.5)


def training_start(dataset: Path, folder: Path, threads: int) -> Result:
    """`mper train` for one step: reading and preparing the dataset, that step, and writing the model."""
    run = folder / "run"
    done = run_command(
        [sys.executable, "-m", "mper", "train", str(dataset), "--steps", "1", "--out", str(run)], threads
    )
    sizes = [sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) for place in (dataset, run)]
    return Result(
        f"mper train, one step: dataset {gigabytes(sizes[0])}, run folder {gigabytes(sizes[1])}",
        done.seconds,
        done.peak_bytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="la", metavar="NAME|PATH", help="with which model (default: la)")
    parser.add_argument("--dataset", type=Path, metavar="DATASET", help="measure the start of a training on it too")
    add_repeats(parser)
    add_options(parser)
    arguments = parser.parse_args()
    repeats, threads = arguments.repeats, arguments.threads
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        segment = ["--model", arguments.model, "--device", "cpu"]
        big, mask = folder / "big.nrrd", str(folder / "mask.seg.nrrd")
        shape = (16, 64, 64) if arguments.quick else BIG_SHAPE
        write_big_scan(big, shape)
        half = max(shape) * _SPACING_MM[0]
        whole = "--roi=" + ",".join(f"{v:g}" for v in (-1, half, -1, half, -1, half))
        k, j, i = shape
        results = [
            measure("mper --help", ["--help"], repeats, threads, limit_s=0.5),
            measure("mper models", ["models"], repeats, threads, limit_s=0.5),
            measure("mper segment, sample scan", ["segment", str(sample_scan()), mask, *segment], repeats, threads, 8),
            measure(f"mper segment, {i}x{j}x{k}", ["segment", str(big), mask, *segment], 1, threads, None, 3 * 10**9),
            measure(
                "the same, whole field as ROI",
                ["segment", str(big), mask, *segment, whole],
                1,
                threads,
                None,
                3 * 10**9,
            ),
        ]
        if arguments.dataset:
            results.append(training_start(arguments.dataset, folder, threads))
    results.append(loaded(arguments.model, repeats, threads))
    print()
    show(("what", "time", "peak memory", "should be under"), [result.row() for result in results])
    keep(arguments.json, {"results": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
