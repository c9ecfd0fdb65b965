"""Scribbles that people drew, as strokes: ACDC's val.list, the prediction of `acdc`, before and after.

The scribbles (Valvano et al.) were drawn to train with, slice by slice and in every class, without a look at any
prediction: most say what the mask says already. Two annotators are made of them:

all        every scribble, one class in one slice a stroke, in the order of the slices
corrects   the same, but a stroke is given only where it meets voxels that the mask, as it then is, calls another class

    python Testing/benchmarks/scribbles.py --out scribbles.jsonl

Finished cases are kept in the file, as in `strokes.py`. The scans served neither for training nor for these choices.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _data import acdc_cases, acdc_volumes
from _stroke_methods import METHODS, StrokeMethod
from _timing import show
from strokes import Case, Results, load, mean_dice

from mper.inference.predictor import Predictor
from mper.labels import Label
from mper.models.bundle import ModelBundle
from mper.resources import find_model
from mper.strokes import Stroke
from mper.volume import Volume

KINDS = ("corrects", "all")
_MODEL = "acdc"
_NOT_DRAWN = 4


def strokes_of(scribble: Volume) -> Iterator[Stroke]:
    """One for each class in each slice."""
    for k, drawn in enumerate(np.asarray(scribble.array)):
        for value in np.unique(drawn[drawn != _NOT_DRAWN]).tolist():
            rows, columns = np.nonzero(drawn == value)
            points = scribble.geometry.to_world(np.column_stack([np.full(len(rows), k), rows, columns]))
            yield Stroke(value, tuple(map(tuple, points.tolist())), 0.0)


def sequence(
    method: StrokeMethod, case: Case, scribble: Volume, labels: tuple[Label, ...], kind: str
) -> dict[str, Any]:
    """Dice before and after each stroke that was given, and how many were not."""
    dices, passed = [mean_dice(method.mask, case.truth, labels)], 0
    for stroke in strokes_of(scribble):
        mask = method.mask
        if kind == "corrects" and (mask[tuple(stroke.voxels(case.image.geometry).T)] == stroke.value).all():
            passed += 1
            continue
        method.add(stroke)
        method.settle()
        dices.append(mean_dice(method.mask, case.truth, labels))
    return {"dice": [round(value, 5) for value in dices], "passed": passed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines; what is there stays")
    parser.add_argument("--methods", nargs="+", default=["ours", "geodesic", "cut", "brush"], choices=list(METHODS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="only the first N cases")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results, bundle = Results(arguments.out), ModelBundle.load(find_model(_MODEL))
    predictor = Predictor(bundle, "cpu")
    for case_id in acdc_cases("val")[: arguments.cases]:
        keys = [results.key(_MODEL, case_id, method, kind) for kind in arguments.kinds for method in arguments.methods]
        missing = [key for key in keys if results.find(key) is None]
        if not missing:
            continue
        case, scribble = load(_MODEL, case_id), acdc_volumes(case_id)["scribble"]
        prediction = predictor.predict(case.image, want=("embeddings",))
        for key in missing:
            line = sequence(METHODS[key["way"]](prediction), case, scribble, bundle.card.labels, key["kind"])
            results.add(key | line)
            dices = line["dice"]
            print(f"{case_id} {key['method']} {key['kind']}: {dices[0]:.4f} -> {dices[-1]:.4f}", flush=True)
    rows = []
    for kind in arguments.kinds:
        for method in arguments.methods:
            if lines := results.of(_MODEL, method, kind):
                rows.append(_row(kind, method, lines))
    head = ("strokes", "way", "cases", "a case", "Dice before", "after", "did harm", "mean loss, points", "cases worse")
    show(head, rows)


def _row(kind: str, method: str, lines: list[dict[str, Any]]) -> list[str]:
    changes = np.concatenate([np.diff(line["dice"]) for line in lines])
    harm = changes < 0
    first, last = (float(np.mean([line["dice"][n] for line in lines])) for n in (0, -1))
    return [
        kind,
        method,
        str(len(lines)),
        f"{len(changes) / len(lines):.1f}",
        f"{first:.4f}",
        f"{last:.4f}",
        f"{harm.mean():.0%}" if len(changes) else "-",
        f"{-100 * changes[harm].mean():.2f}" if harm.any() else "-",
        str(sum(line["dice"][-1] < line["dice"][0] for line in lines)),
    ]


if __name__ == "__main__":
    main()
