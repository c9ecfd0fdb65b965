"""How fast strokes are answered, and what is kept in memory for it.

A first answer (`Refiner.add`), its clean-up at image edges (`settle`), and `undo`, with balls and lines at the border
of the mask, for the sample scan and a made-up scan of 640 x 640 x 88: in the region that is found automatically, and
with the whole field as region. Beside them, in turn with ours, the geodesic method of `_stroke_methods.py`.
Segmenting the scan again is what they are compared with.

    python Testing/benchmarks/strokes_speed.py
    python Testing/benchmarks/strokes_speed.py --threads 1     beside other work

With one thread the seconds are the processor's, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _stroke_methods import METHODS
from _timing import add_options, add_repeats, duration, keep, show
from commands import BIG_SHAPE, write_big_scan
from scipy import ndimage

from mper.inference.prediction import Prediction
from mper.inference.predictor import Predictor
from mper.io import read_volume
from mper.models.bundle import ModelBundle
from mper.refinement.refiner import Refiner
from mper.resources import find_model, sample_scan
from mper.strokes import Point, Stroke
from mper.volume import Volume

LIMIT_BYTES = 300e6
_KINDS = {"ball of 2 mm": (0.0, 2.0), "line of 20 mm": (20.0, 2.0), "line of 150 mm": (150.0, 2.0)}


@dataclass(frozen=True)
class Speed:
    """Seconds of one kind of stroke on one scan; each a list over strokes."""

    scan: str
    kind: str
    segmenting_s: float
    add_s: list[float]
    settle_s: list[float]
    undo_s: list[float]
    geodesic_s: list[float]
    kept_bytes: int

    def row(self) -> list[str]:
        again = self.segmenting_s / float(np.median(self.add_s))
        times = [_told(each) for each in (self.add_s, self.settle_s, self.undo_s, self.geodesic_s)]
        return [
            self.scan,
            self.kind,
            duration(self.segmenting_s),
            *times,
            f"{again:.0f}",
            f"{self.kept_bytes / 1e6:.0f}",
        ]


def _told(seconds: Sequence[float]) -> str:
    return f"{np.median(seconds):.3f} ({max(seconds):.3f})"


def seconds_of(work: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    work()
    return clock() - started


def strokes_at_border(prediction: Prediction, count: int, length_mm: float, radius_mm: float) -> list[Stroke]:
    """Strokes that begin at random places of the mask's border and go along i; every other one adds.

    Where a made-up scan has no mask, they begin anywhere in the region.
    """
    volume = prediction.segmentation.labelmap
    mask = np.asarray(volume.array) > 0
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    random = np.random.default_rng(0)
    if len(border) < count:
        assert prediction.embeddings is not None
        border = random.integers(prediction.embeddings.start, prediction.embeddings.stop, (count, 3))
    along = volume.geometry.directions[:, 2]
    offsets = np.arange(0, length_mm + 1e-9, max(radius_mm, 0.5))
    strokes = []
    for number, place in enumerate(random.choice(border, count, replace=False)):
        points = volume.geometry.to_world(place) + offsets[:, None] * along
        rows: list[Point] = [(x, y, z) for x, y, z in points.tolist()]
        strokes.append(Stroke(number % 2, tuple(rows), radius_mm))
    return strokes


def measure(name: str, predictor: Predictor, scan: Volume, roi: Sequence[float] | None, repeats: int) -> list[Speed]:
    predictions: list[Prediction] = []
    segmenting = seconds_of(lambda: predictions.append(predictor.predict(scan, roi=roi, want=("embeddings",))))
    prediction = predictions[0]
    kept = prediction.embeddings
    assert kept is not None and kept.image is not None and kept.logits is not None
    tensors = sum(each.nbytes for each in (kept.values, kept.image, kept.logits))
    found = []
    for kind, (length, radius) in _KINDS.items():
        refiner, simple = Refiner(prediction), METHODS["geodesic"](prediction)
        add, settle, undo, geodesic = [], [], [], []
        for number, stroke in enumerate(strokes_at_border(prediction, repeats + 1, length, radius)):
            times = [seconds_of(partial(refiner.add, stroke)), seconds_of(refiner.settle)]
            times += [seconds_of(refiner.undo), seconds_of(partial(simple.add, stroke))]
            refiner.redo()
            if number:  # the first warms up
                for each, value in zip((add, settle, undo, geodesic), times, strict=True):
                    each.append(value)
        found.append(Speed(name, kind, segmenting, add, settle, undo, geodesic, tensors + refiner.nbytes))
        print(", ".join(found[-1].row()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="la", metavar="NAME|PATH", help="with which model (default: la)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"), help="where scans are segmented")
    add_repeats(parser)
    add_options(parser)
    parser.set_defaults(repeats=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = Predictor(ModelBundle.load(find_model(arguments.model)), arguments.device)
    sample = read_volume(sample_scan())
    predictor.predict(sample, want=("embeddings",))  # warms up
    found = measure("sample", predictor, sample, None, arguments.repeats)
    shape = (16, 64, 64) if arguments.quick else BIG_SHAPE
    with tempfile.TemporaryDirectory() as folder:
        write_big_scan(Path(folder) / "big.nrrd", shape)
        big = read_volume(Path(folder) / "big.nrrd")
    k, j, i = shape
    extent = big.geometry.extent_mm
    assert extent is not None
    whole = [edge for length in extent[::-1] for edge in (-1.0, length)]
    found += measure(f"{i}x{j}x{k}", predictor, big, None, arguments.repeats)
    found += measure("its whole field", predictor, big, whole, arguments.repeats)
    print("\nseconds: median (largest); x: times faster than segmenting again; kept: what stays in memory for a scan\n")
    head = ("scan", "stroke", "segmenting", "first answer", "settled", "undo", "geodesic way", "x", "kept, MB")
    show(head, [speed.row() for speed in found])
    over = [speed.scan for speed in found if speed.kept_bytes > LIMIT_BYTES]
    print(f"\nover {LIMIT_BYTES / 1e6:.0f} MB: {', '.join(dict.fromkeys(over)) or 'none'}")
    if torch.cuda.is_available():
        print("strokes are answered on the CPU; the GPU here only segments" * (arguments.device == "cuda"))
    keep(arguments.json, {"speed": [asdict(speed) for speed in found]})


if __name__ == "__main__":
    main()
