"""A simulated annotator corrects masks: how much better they get with each stroke, ours against simpler methods.

`_annotator.py` says where it paints, `_stroke_methods.py` what the methods are. Left atria: cases 73 to 80 of
train.list with `la-8` and `la`; hearts: ACDC's val.list with `acdc`, whose files tell no spacing: for the annotator's
hand alone 10 x 1.5 x 1.5 mm are assumed, and 95HD is given in voxels, as the papers do. None of these served for
training.

    python Testing/benchmarks/strokes.py --out strokes.jsonl
    python Testing/benchmarks/strokes.py --out strokes.jsonl --models la-8 --cases 2 --methods ours brush
    python Testing/benchmarks/strokes.py --out strokes.jsonl --table                                    tables only

Every sequence is a line of the file when it is finished, and is not done again, so a run that was stopped goes on.
Lines of ours belong to a state of the code that answers strokes; those of another state are left alone and not shown.
Seconds are of one processor, without what the annotator and the figures take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _annotator import KINDS, next_stroke
from _data import acdc_cases, acdc_volumes, la_cases, la_scan
from _stroke_methods import METHODS, StrokeMethod
from _timing import REPOSITORY, show

from mper.evaluation.metrics import case_metrics, dice
from mper.inference.predictor import Predictor
from mper.labels import Label
from mper.models.bundle import ModelBundle
from mper.resources import find_model
from mper.volume import Spacing, Volume

MODELS = ("la-8", "la", "acdc")
SHOWN = (0, 1, 2, 3, 5, 10)  # strokes
WITH_DISTANCES = (3, 10)  # and 0
MOST = 20  # until the aim is reached, if it is by then
AIM = 0.93  # Dice of the left atrium
NOTICED = 0.001  # of Dice
ACDC_STEPS_MM: Spacing = (10.0, 1.5, 1.5)


@dataclass(frozen=True, eq=False)
class Case:
    """A scan, its truth, and the steps by which the annotator measures where the scan tells none."""

    id: str
    image: Volume
    truth: npt.NDArray[np.uint8]
    steps_mm: Spacing | None = None


def case_ids(model: str) -> list[str]:
    return acdc_cases("val") if model == "acdc" else la_cases(73, 80)


def load(model: str, case: str) -> Case:
    if model == "acdc":
        volumes = acdc_volumes(case)
        return Case(case, volumes["image"], np.asarray(volumes["label"].array, np.uint8), ACDC_STEPS_MM)
    scan = la_scan(case)
    return Case(case, scan.image, scan.atrium.astype(np.uint8))


def state_of_the_code() -> str:
    """Changes with what answers strokes: code and weights."""
    files = [
        REPOSITORY / "mper" / name
        for name in ("refine.py", "response.py", "edges.py", "coarse.py", "nets/stroke_net.py")
    ]
    files.append(REPOSITORY / "Resources/Models/stroke-response/weights.safetensors")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()[:8]


def mean_dice(mask: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], labels: Sequence[Label]) -> float:
    return float(np.mean([dice(mask == label.value, truth == label.value) for label in labels]))


def hd95(mask: npt.NDArray[np.uint8], case: Case, labels: Sequence[Label]) -> list[float | None]:
    """Mean over the labels, in mm and in voxels."""
    figures = case_metrics(mask, case.truth, labels, case.image.geometry.spacing_mm)["mean"]
    return [figures["hd95_mm"], figures["hd95_voxel"]]


def sequence(method: StrokeMethod, case: Case, labels: Sequence[Label], kind: str, aim: float | None) -> dict[str, Any]:
    """Strokes one after the other: figures before the first (but for 95HD) and after each."""
    mask = method.mask
    found: dict[str, Any] = {"dice": [mean_dice(mask, case.truth, labels)], "quick": [], "voxels": [], "seconds": []}
    found |= {"quick_seconds": [], "hd95": {}}
    found["quick"].append(found["dice"][0])
    for number in range(MOST + 1):
        if number in WITH_DISTANCES:
            found["hd95"][str(number)] = hd95(mask, case, labels)
        if number == MOST or (number >= SHOWN[-1] and (aim is None or found["dice"][-1] >= aim)):
            break
        stroke = next_stroke(mask, case.truth, case.image.geometry, kind, case.steps_mm)
        if stroke is None:
            break
        started = time.process_time()
        method.add(stroke)
        answered = time.process_time()
        found["quick"].append(mean_dice(method.mask, case.truth, labels))
        again = time.process_time()
        method.settle()
        found["seconds"].append(round(time.process_time() - again + answered - started, 4))
        found["quick_seconds"].append(round(answered - started, 4))
        mask = method.mask
        found["dice"].append(mean_dice(mask, case.truth, labels))
        found["voxels"].append(len(stroke.points_mm))
    return found | {name: [round(value, 5) for value in found[name]] for name in ("dice", "quick")}


class Results:
    """The finished sequences of a file."""

    def __init__(self, path: Path):
        self._path, self.lines = path, []
        self._state = state_of_the_code()
        if path.exists():
            self.lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def key(self, model: str, case: str, method: str, kind: str) -> dict[str, str]:
        return {
            "model": model,
            "case": case,
            "way": method,
            "kind": kind,
            "state": self._state if method == "ours" else "",
        }

    def find(self, key: Mapping[str, str]) -> dict[str, Any] | None:
        return next((line for line in self.lines if all(line[name] == value for name, value in key.items())), None)

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, model: str, method: str, kind: str) -> list[dict[str, Any]]:
        found = (self.find(self.key(model, case, method, kind)) for case in case_ids(model))
        return [line for line in found if line is not None]


def measure(results: Results, models: Sequence[str], methods: Sequence[str], kinds: Sequence[str], count: int) -> None:
    """What is missing in the results."""
    for kind in kinds:
        for model in models:
            bundle = ModelBundle.load(find_model(model))
            labels, predictor = bundle.card.labels, Predictor(bundle, "cpu")
            for case_id in case_ids(model)[:count]:
                keys = {method: results.key(model, case_id, method, kind) for method in methods}
                missing = [method for method in methods if results.find(keys[method]) is None]
                if not missing:
                    continue
                case = load(model, case_id)
                prediction = predictor.predict(case.image, want=("embeddings",))
                first = hd95(np.asarray(prediction.segmentation.labelmap.array, np.uint8), case, labels)
                for method in missing:
                    line = sequence(METHODS[method](prediction), case, labels, kind, None if model == "acdc" else AIM)
                    line["hd95"]["0"] = first
                    results.add(keys[method] | line)
                    dices = line["dice"]
                    print(f"{model} {case_id} {method} {kind}: {dices[0]:.4f} -> {after(dices, 3):.4f}", flush=True)


def after(values: Sequence[float], strokes: int) -> float:
    """The value after so many strokes; a mask that is right needs no more."""
    return values[min(strokes, len(values) - 1)]


def harm(lines: Sequence[Mapping[str, Any]], quick: bool = False) -> str:
    """Of the first ten strokes of each case: the share after which Dice was lower, and lower by over 0.1 points."""
    losses = []
    for line in lines:
        answers = line["quick" if quick else "dice"]
        losses += [was - now for was, now in zip(line["dice"][: SHOWN[-1]], answers[1:], strict=False)]
    shares = [float(np.mean([loss > limit for loss in losses])) if losses else 0.0 for limit in (0.0, NOTICED)]
    return ", ".join(f"{share:.0%}" for share in shares)


def dice_rows(results: Results, model: str, kind: str, methods: Sequence[str]) -> Iterator[list[str]]:
    """Dice by number of strokes, 95HD, and the share of strokes that did harm."""
    for method in methods:
        lines = results.of(model, method, kind)
        for quick in (False, True) if method == "ours" else (False,):
            if not lines:
                continue
            by_strokes = [
                float(np.mean([after(line["quick" if quick else "dice"], n) for line in lines])) for n in SHOWN
            ]
            unit = 1 if model == "acdc" else 0
            distances = [_mean_hd95(lines, n, unit) for n in (0, 3, 10)]
            name = f"{method}, quick" if quick else f"{method}, settled" if method == "ours" else method
            hd95 = "" if quick else ", ".join(distances)
            yield [name, *(f"{value:.4f}" for value in by_strokes), hd95, harm(lines, quick)]


def _mean_hd95(lines: Sequence[Mapping[str, Any]], strokes: int, unit: int) -> str:
    found = []
    for line in lines:
        there = [int(n) for n in line["hd95"] if int(n) <= strokes]
        found.append(line["hd95"][str(max(there))][unit])
    known = [value for value in found if value is not None]
    return f"{np.mean(known):.2f}" if known else "-"


def aim_rows(results: Results, model: str, kind: str, methods: Sequence[str]) -> Iterator[list[str]]:
    """What it takes to reach the aim; a case that never does counts with all its strokes."""
    for method in methods:
        lines = results.of(model, method, kind)
        if not lines:
            continue
        needed = [next((n for n, value in enumerate(line["dice"]) if value >= AIM), None) for line in lines]
        spent = [len(line["voxels"]) if n is None else n for n, line in zip(needed, lines, strict=True)]
        totals = [
            float(np.mean([sum(line[name][:n]) for n, line in zip(spent, lines, strict=True)]))
            for name in ("voxels", "seconds")
        ]
        each = [np.mean([second for line in lines for second in line[name]]) for name in ("quick_seconds", "seconds")]
        yield [
            method,
            f"{len(lines) - needed.count(None)} of {len(lines)}",
            f"{np.mean(spent):.1f}",
            f"{totals[0]:.0f}",
            f"{totals[1]:.2f}",
            *(f"{value:.3f}" for value in each),
        ]


def tables(results: Results, models: Sequence[str], methods: Sequence[str], kinds: Sequence[str]) -> None:
    for model in models:
        for kind in kinds:
            cases = max((len(results.of(model, method, kind)) for method in methods), default=0)
            if not cases:
                continue
            unit = "voxels" if model == "acdc" else "mm"
            print(f"\n`{model}`, {kind}, {cases} cases: mean Dice after so many strokes\n")
            head = ("way", *(str(n) for n in SHOWN), f"95HD after 0, 3, 10 ({unit})", "did harm, by > 0.1 points")
            show(head, list(dice_rows(results, model, kind, methods)))
            if model != "acdc":
                print(f"\n`{model}`, {kind}: to reach Dice {AIM} (cases that never do count as {MOST} strokes)\n")
                head = ("way", "reach it", "strokes", "voxels painted", "s", "s a stroke, at once", "and settled")
                show(head, list(aim_rows(results, model, kind, methods)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines; what is there stays")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="only the first N of each model's cases")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    parser.add_argument("--table", action="store_true", help="measure nothing; show what the file holds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.out)
    if not arguments.table:
        measure(results, arguments.models, arguments.methods, arguments.kinds, arguments.cases)
    tables(results, arguments.models, arguments.methods, arguments.kinds)


if __name__ == "__main__":
    main()
