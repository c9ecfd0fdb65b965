"""What are strokes worth as labels? Four more cases: corrected by strokes, labelled in full, or not at all.

From a model of 4 labels (cases 1 to 4 of train.list), cases 5 to 8 are added in several ways, and training goes on for
a fixed number of steps: without them; with the masks that the model draws itself; with the voxels of 5 strokes each,
the rest unlabelled; with the model's masks as 5 strokes correct them; with these where the strokes changed them or the
model is sure, the rest unlabelled, or labelled by the mean teacher (method bcp); with these near the strokes alone;
with the labels that people drew. A simulated annotator draws each stroke where the mask is most wrong at that moment.
Everything else is the same. Dice is measured on cases that take part in nothing: 73 to 80 on their own grid, and 41 to
80 on the coarse one, where the new models and their averages with the start are measured in seconds. Eight cases are
too few: one that a training gets or loses moves their mean by a point.

    python Testing/benchmarks/retraining.py --out FOLDER                what is in FOLDER already is not made again
    python Testing/benchmarks/retraining.py --out FOLDER --seeds 0 1    a table of two seeds
    python Testing/benchmarks/retraining.py --out FOLDER --unseen       no training: what is there, on unseen cases
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from _annotator import next_stroke
from _coarse import FIRST_LABELS, Bench, begin, mean, spread, truth
from _data import la_cases
from _timing import keep, show
from scipy import ndimage, stats

from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.labels import UNLABELLED
from mper.models.bundle import ModelBundle
from mper.refinement.refiner import Refiner
from mper.strokes import strokes_to_label
from mper.volume import Volume

MORE, STROKES = 4, 5
NEAR_MM = 16.0  # of a stroke, where a person has looked at the mask
SURE = 0.9  # probability of a label, from which it is trusted though nobody touched it
NOTHING = "nothing more"
SHARES = (0.3, 0.5, 0.7)  # of the start in an average with it
_CORRECTED = f"4 more, corrected by {STROKES} strokes each"
_FILLED = f"{_CORRECTED}, strokes or changed, bcp"
_WAYS = {
    NOTHING: "supervised",
    "4 more, as the model draws them": "supervised",
    f"4 more, the voxels of {STROKES} strokes each": "supervised",
    _CORRECTED: "supervised",
    f"{_CORRECTED}, sure or changed": "supervised",
    f"{_CORRECTED}, sure or changed, bcp": "bcp",
    _FILLED: "bcp",
    f"{_CORRECTED}, near a stroke": "supervised",
    "nothing more, bcp": "bcp",
    "4 more, labelled in full": "supervised",
}


def labels_of(predictor: Predictor, image: Volume, wanted: Volume) -> dict[str, Volume]:
    """The label of a case in each way that adds it."""
    prediction = predictor.predict(image, want=("embeddings", "label_probability"))
    assert prediction.label_probability is not None
    sure = prediction.label_probability.array >= SURE
    refiner = Refiner(prediction)
    drawn = refiner.segmentation.labelmap
    for _ in range(STROKES):
        stroke = next_stroke(refiner.segmentation.labelmap.array, wanted.array, wanted.geometry)
        if stroke is None:
            break
        refiner.add(stroke)
        refiner.settle()
    alone = wanted.with_array(strokes_to_label(refiner.strokes, wanted.geometry))
    corrected = refiner.segmentation.labelmap
    changed = (corrected.array != drawn.array) | (alone.array != UNLABELLED)
    trusted = wanted.with_array(np.where(sure | changed, corrected.array, UNLABELLED).astype(np.uint8))
    touched = wanted.with_array(np.where(changed, corrected.array, UNLABELLED).astype(np.uint8))
    steps = wanted.geometry.step_lengths
    near = ndimage.distance_transform_edt(alone.array == UNLABELLED, steps) <= NEAR_MM
    seen = wanted.with_array(np.where(near, corrected.array, UNLABELLED).astype(np.uint8))
    ways = [way for way in _WAYS if not way.startswith(NOTHING)]
    return dict(zip(ways, (drawn, alone, corrected, trusted, trusted, touched, seen, wanted), strict=True))


def run_seed(bench: Bench, seed: int) -> None:
    """All ways of one seed; what is on file is not made again."""
    bench.once("retraining", seed, NOTHING, lambda: figures(bench, seed, NOTHING, {}))
    if all(bench.has("retraining", seed, way) for way in _WAYS):
        return
    predictor = Predictor(bench.base(seed), "cpu")
    added = la_cases(FIRST_LABELS + 1, FIRST_LABELS + MORE)
    images = {case_id: bench.dataset().case(case_id).image() for case_id in added}
    labels = {case_id: labels_of(predictor, images[case_id], truth(case_id)) for case_id in added}
    for way in _WAYS:
        chosen = {case_id: each[way] for case_id, each in labels.items() if way in each}
        bench.once("retraining", seed, way, partial(figures, bench, seed, way, chosen))


def model_name(way: str, seed: int) -> str:
    """The folder of a model."""
    return f"{way.replace(',', '').replace(' ', '-')}-{seed}"


def figures(bench: Bench, seed: int, way: str, labels: Mapping[str, Volume]) -> dict[str, Any]:
    """Dice of the new model, and of the labels that it was given."""
    model = bench.tuned(model_name(way, seed), seed, labels, _WAYS[way])
    given = {case_id: dice(mask.array == 1, truth(case_id).array == 1) for case_id, mask in labels.items()}
    known = {case_id: int((mask.array != UNLABELLED).sum()) for case_id, mask in labels.items()}
    return {"given": list(given.values()), "known": list(known.values()), "dice": bench.dice(model)}


def measure_unseen(bench: Bench, seed: int) -> None:
    """Dice on the unseen cases: of the start, of each way, and of three of them in averages."""
    start = bench.base(seed)
    bench.once("unseen", seed, "start", lambda: {"dice": bench.unseen_dice(start)})
    for way in _WAYS:
        if not bench.has("retraining", seed, way):
            continue
        for share in (0.0, *(SHARES if way in (NOTHING, _CORRECTED, _FILLED) else ())):
            name = f"{way}, averaged with {100 * share:.0f} % of the start" if share else way
            bench.once("unseen", seed, name, partial(unseen_figures, bench, seed, way, share))


def unseen_figures(bench: Bench, seed: int, way: str, share: float) -> dict[str, Any]:
    """Dice of a model that is made already, averaged with the one that it started from."""
    model = ModelBundle.load(bench.folder / "models" / model_name(way, seed))
    start = bench.base(seed).state
    state = {
        name: torch.lerp(value, start[name], share) if value.is_floating_point() else value
        for name, value in model.state.items()
    }
    return {"dice": bench.unseen_dice(replace(model, state=state))}


def unseen_table(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """As `table`, of the unseen cases; p is that of a paired t-test over cases, each averaged over seeds."""
    mine = {(row["way"], row["seed"]): np.array(row["dice"]) for row in rows if row["experiment"] == "unseen"}
    lines = []
    for way in dict.fromkeys(way for way, _ in mine):
        both = [seed for seed in seeds if (way, seed) in mine and (NOTHING, seed) in mine]
        if not both:
            continue
        gains = np.stack([mine[way, seed] - mine[NOTHING, seed] for seed in both])
        line = [way, ", ".join(f"{100 * mine[way, seed].mean():.1f}" for seed in both)]
        if way == NOTHING:
            line += ["", "", ""]
        else:
            p = stats.ttest_1samp(gains.mean(0), 0).pvalue
            line += [f"{100 * gains.mean():+.2f}", ", ".join(f"{100 * gain.mean():+.1f}" for gain in gains), f"{p:.3f}"]
        lines.append(line)
    return ["labels", "Dice %, by seed", "points over nothing more", "by seed", "p"], lines


def table(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Mean Dice of each way, and the difference to nothing more, seed by seed."""
    mine = {(row["way"], row["seed"]): row for row in rows if row["experiment"] == "retraining"}
    lines = []
    for way in _WAYS:
        those = [mine[way, seed] for seed in seeds if (way, seed) in mine]
        gains = [mean([mine[way, seed]]) - mean([mine[NOTHING, seed]]) for seed in seeds if (way, seed) in mine]
        if not those:
            continue
        given = float(np.mean([d for row in those for d in row["given"]])) if those[0]["given"] else None
        told = "" if given is None or any(word in way for word in ("voxels", "changed", "near")) else f"{given:.3f}"
        difference = "" if way == NOTHING else ", ".join(f"{100 * gain:+.1f}" for gain in gains)
        lines.append([way, told, f"{mean(those):.4f}", f"{spread(those):.4f}", difference])
    head = ["labels", "Dice of the added labels", "mean Dice", "sd over seeds", "points over nothing more, by seed"]
    return head, lines


def main() -> None:
    arguments, bench = begin(__doc__, range(3), {"--unseen": "only measure the models that are there on unseen cases"})
    for seed in arguments.seeds:
        if not arguments.unseen:
            run_seed(bench, seed)
        measure_unseen(bench, seed)
    for made in (table, unseen_table):
        show(*made(bench.rows(), arguments.seeds))
        print()
    keep(arguments.json, {"retraining": [row for row in bench.rows() if row["experiment"] in ("retraining", "unseen")]})


if __name__ == "__main__":
    main()
