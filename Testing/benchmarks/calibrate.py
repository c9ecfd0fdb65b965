"""Fit the calibration of a model on masks of known Dice, and show how well it tells good masks from bad ones.

    python Testing/benchmarks/calibrate.py MODEL OUT --usual DATASET:SPLIT [--usual ...]
        --fold MODEL=DATASET:SPLIT[:FIRST-LAST] [--fold ...] [--foreign MODEL=PLACE ...]
        --samples FILE

`--fold` names a model and cases that did not train it, `--foreign` a model and scans that do not show its structures,
as a split of a dataset or as a folder of scans.
The samples of each are kept in FILE and not made again. OUT is MODEL with the calibration; OUT.png shows the
reliability diagram and the ROC, of the cross-validated expected Dice.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mper.dataloading.preprocessing import WorkingGrid
from mper.datasets.packed import open_dataset
from mper.io import read_volume
from mper.models.bundle import ModelBundle
from mper.models.calibration import GOOD, WRONG, Quality
from mper.progress import Progress
from mper.training.calibration import Sample, collect, cross_validate, figures, fit, usual_shapes
from mper.volume import Volume


def cases_of(words: str) -> Iterator[tuple[str, Volume, np.ndarray]]:
    """The labelled cases of ``DATASET:SPLIT[:FIRST-LAST]``; the numbers count from 1."""
    folder, split, *numbers = words.split(":")
    dataset = open_dataset(Path(folder))
    cases = dataset.split(split)
    first, last = (int(n) for n in numbers[0].split("-")) if numbers else (1, len(cases))
    for case in cases[first - 1 : last]:
        label = case.label()
        if label is not None:
            classes = np.zeros(label.array.shape, np.uint8)
            for c, structure in enumerate(dataset.labels, 1):
                classes[np.asarray(label.array) == structure.value] = c
            yield f"{Path(folder).name}/{case.id}", case.image(), classes


def foreign_scans(words: str) -> Iterator[tuple[str, Volume, None]]:
    """The scans of a folder, or the labelled ones of ``DATASET:SPLIT[:FIRST-LAST]``."""
    if ":" in words:
        yield from ((name, image, None) for name, image, _ in cases_of(words))
    else:
        yield from ((path.name, read_volume(path), None) for path in sorted(Path(words).iterdir()) if path.is_file())


def report(progress: Progress) -> None:
    """Print what is segmented."""
    print(progress.message, flush=True)


def print_kinds(samples: list[Sample], judged: list[Quality]) -> None:
    """A line for each kind of scan: how many, mean true and expected Dice, and how many are flagged."""
    rows: dict[str, list[tuple[float, Quality]]] = defaultdict(list)
    for sample, quality in zip(samples, judged, strict=True):
        rows[sample.kind].append((sample.dice, quality))
    for kind, each in rows.items():
        true, expected = np.mean([d for d, _ in each]), np.mean([q.expected_dice for _, q in each])
        flagged = sum(q.level != GOOD for _, q in each)
        wrong = sum(q.level == WRONG for _, q in each)
        print(f"| {kind} | {len(each)} | {true:.3f} | {expected:.3f} | {flagged} | {wrong} |")


def draw(path: Path, samples: list[Sample], judged: list[Quality]) -> None:
    """The reliability diagram, and the ROC for Dice below 0.7."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    true = np.array([sample.dice for sample in samples])
    expected = np.array([quality.expected_dice for quality in judged])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    left.plot([0, 1], [0, 1], color="0.7")
    left.scatter(expected, true, s=8, alpha=0.5)
    edges = np.quantile(expected, np.linspace(0, 1, 9))
    bins = np.clip(np.searchsorted(edges, expected, "right") - 1, 0, 7)
    middles = [(expected[bins == n].mean(), true[bins == n].mean()) for n in range(8) if (bins == n).any()]
    left.plot(*zip(*middles, strict=True), color="C3", marker="o", label="mean of an eighth of the masks")
    left.set(xlabel="expected Dice", ylabel="true Dice", xlim=(0, 1), ylim=(0, 1))
    left.legend(frameon=False)
    bad = (true < 0.7)[np.argsort(expected)]
    right.plot(np.append(0, np.cumsum(~bad) / (~bad).sum()), np.append(0, np.cumsum(bad) / bad.sum()))
    right.set(xlabel="share of the others that is flagged", ylabel="share of the masks with Dice < 0.7 that is flagged")
    right.set_title(f"AUROC {figures(true, expected)['auroc_below_0.7']:.3f}, {len(true)} masks")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--usual", action="append", required=True)
    parser.add_argument("--fold", action="append", default=[])
    parser.add_argument("--foreign", action="append", default=[])
    parser.add_argument("--samples", type=Path, required=True)
    options = parser.parse_args()

    bundle = ModelBundle.load(options.model)
    dimensions = bundle.network.dimensions
    labels = (
        (WorkingGrid.plan(image.geometry, bundle.preprocessing, dimensions), truth)
        for words in options.usual
        for _, image, truth in cases_of(words)
    )
    usual = usual_shapes(labels, dimensions, len(bundle.card.labels))
    kept = [json.loads(line) for line in options.samples.read_text().splitlines()] if options.samples.exists() else []
    for words, foreign in [(w, False) for w in options.fold] + [(w, True) for w in options.foreign]:
        if any(entry["source"] == words for entry in kept):
            continue
        model, place = words.split("=")
        fold = ModelBundle.load(Path(model))
        cases = list(foreign_scans(place) if foreign else cases_of(place))
        made = [{"source": words, **asdict(sample)} for sample in collect(fold, usual, cases, report=report)]
        kept += made
        with options.samples.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in made)
    samples = [Sample(**{k: v for k, v in entry.items() if k != "source"}) for entry in kept]
    calibration = fit(samples, usual)
    judged = cross_validate(samples)
    print_kinds(samples, judged)
    print(json.dumps(dict(calibration.about)))
    for name, term in sorted(calibration.terms.items(), key=lambda item: -item[1].weight):
        print(f"{name}: weight {term.weight:.2f}, usual {term.centre:.3f} within {term.scale:.3f}")
    replace(bundle, calibration=calibration).save(options.out, "int8")
    draw(options.out.with_suffix(".png"), samples, judged)


if __name__ == "__main__":
    main()
