"""Few labels of another sequence: a model of LGE scans is adapted to bSSFP scans, with and without unlabelled ones.

The start model learns the 80 labelled LGE scans of the public left atria; it is adapted to the bSSFP scans of
MSD-Heart: in each of five draws two scans are held out, the next N are labelled, and the others are there without their
labels. All of them are crops around the atrium (10 mm), on a 2 mm grid, so that a training takes a minute of one core.
Dice is measured on the scans that are held out and, apart, on those that were there without labels. Every way has the
same steps, the last state counts, nothing is chosen on these scans by a run itself.

    python Testing/benchmarks/adaptation.py --out FOLDER                     what is in FOLDER already is not made again
    python Testing/benchmarks/adaptation.py --out FOLDER --ways supervised bcp --labels 1 2 4 --draws 0 1 2 3 4
    python Testing/benchmarks/adaptation.py --out FOLDER --table             the tables of what is there
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from _adaptation import WAYS, Way
from _coarse import PATCH, add_case
from _data import data_home, la_cases, la_scan
from _timing import add_options, keep, show

from mper.dataloading.wide_field import region_around
from mper.datasets.dataset import Dataset
from mper.evaluation.evaluate import evaluate
from mper.inference.predictor import Predictor
from mper.io import read_volume
from mper.labels import make_label
from mper.models.bundle import ModelBundle
from mper.training.config import TrainConfig
from mper.training.trainer import start_run, train

MARGIN_MM, BATCH = 10.0, 2
START_STEPS, STEPS = 2000, 300
HELD_OUT = 2
_LA = make_label(1, "LA")
Row = Mapping[str, Any]


def make_lge(path: Path, last: int) -> None:
    dataset = Dataset.create(path, "LGE", [_LA])
    for name in la_cases(1, last):
        scan = la_scan(name)
        add_case(dataset, name, scan.image, scan.atrium)
    dataset.add_to_split("train", dataset.cases)


def make_bssfp(path: Path) -> None:
    """Ten scans; the split draw-D has all that are not held out in draw D, the labelled ones first."""
    home = data_home("MSD-Heart")
    if home is None:
        raise FileNotFoundError("the ten scans of MSD-Heart are not there; set MPER_TEST_DATA to the folder above it")
    dataset = Dataset.create(path, "bSSFP", [_LA])
    for file in sorted((home / "imagesTr").glob("la_*.nii*")):
        image = read_volume(file)
        atrium = np.asarray(read_volume(home / "labelsTr" / file.name).array) > 0
        region = region_around(atrium, image.geometry, MARGIN_MM)
        assert region is not None
        add_case(dataset, file.name.split(".")[0], image.crop(region.start, region.stop), atrium[region.window])
    names = dataset.cases
    for draw in range(len(names) // HELD_OUT):
        order = [names[(HELD_OUT * (draw + 1) + n) % len(names)] for n in range(len(names) - HELD_OUT)]
        dataset.add_to_split(f"draw-{draw}", order)


class Bench:
    """A folder of data sets, the start model, and results.jsonl with a line for each run."""

    def __init__(self, folder: Path, quick: bool):
        self.folder, self.quick = folder, quick
        folder.mkdir(parents=True, exist_ok=True)
        self.results = folder / "results.jsonl"
        self._made("lge", lambda path: make_lge(path, 4 if quick else 80))
        self._made("bssfp", make_bssfp)
        self.dataset = Dataset.open(folder / "bssfp")
        self._made("start", self._learn_start)

    def _made(self, name: str, make: Any) -> None:
        """Make a folder once; one that was left half-made is made again."""
        path = self.folder / name
        if not path.exists():
            half = self.folder / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            make(half)
            half.rename(path)

    def _learn_start(self, path: Path) -> None:
        config = TrainConfig(
            str(self.folder / "lge"),
            "supervised",
            steps=2 if self.quick else START_STEPS,
            batch=BATCH,
            patch=PATCH,
            device="cpu",
        )
        self._train(config, path)

    def _train(self, config: TrainConfig, path: Path) -> None:
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        start_run(config, run)
        shutil.copytree(train(run), path)

    def rows(self) -> list[Row]:
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_text(encoding="utf-8").splitlines()]

    def run(self, way: Way, draw: int, labels: int, steps: int, seed: int) -> None:
        """One training and its figures, unless they are on file."""
        key = {"way": way.name, "draw": draw, "labels": labels, "steps": steps, "seed": seed}
        if any(key.items() <= row.items() for row in self.rows()):
            return
        order = list(self.dataset.splits[f"draw-{draw}"])
        held = [case for case in self.dataset.cases if case not in order]
        path = self.folder / "model"
        shutil.rmtree(path, ignore_errors=True)
        begin = time.process_time()
        if way.method is None:
            shutil.copytree(self.folder / "start", path)
        else:
            config = TrainConfig(
                str(self.dataset.path),
                way.method,
                split=f"draw-{draw}",
                labeled=labels,
                start_from=str(self.folder / "start"),
                steps=steps,
                batch=BATCH,
                patch=PATCH,
                device="cpu",
                seed=seed,
                cross_scanner=way.cross_scanner,
            )
            with contextlib.ExitStack() as stack:
                for name, value in way.constants.items():
                    stack.enter_context(mock.patch(name, value))
                self._train(config, path)
        seconds = time.process_time() - begin
        measured = [self.dataset.case(case) for case in (*held, *order[labels:])]
        found = evaluate(Predictor(ModelBundle.load(path), "cpu"), measured, self.dataset.labels)
        dice = {case["id"]: round(case["dice"], 4) for case in found["cases"]}
        row = {
            **key,
            "cpu_s": round(seconds, 1),
            "held_out": {case: dice[case] for case in held},
            "unlabelled": {case: dice[case] for case in order[labels:]},
        }
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def table(rows: Sequence[Row], labels: int, steps: int) -> tuple[list[str], list[list[str]]]:
    """A line for each way: Dice, its standard deviation over draws, and the difference to `plain`.

    The difference is taken over draws that both have, case by case; its p is that of a paired t-test over cases.
    """
    from scipy import stats

    mine = [row for row in rows if row["labels"] == labels and row["steps"] == steps]
    usual = {(row["draw"], row["seed"]): _dice(row) for row in mine if row["way"] == "plain"}
    lines = []
    for name in WAYS:
        those = [row for row in mine if row["way"] == name]
        if not those:
            continue
        means = [np.mean(list(_dice(row).values())) for row in those]
        gains: dict[str, list[float]] = {}
        for row in those:
            for case, value in _dice(row).items():
                before = usual.get((row["draw"], row["seed"]), {}).get(case)
                if before is not None:
                    gains.setdefault(case, []).append(value - before)
        per_case = [float(np.mean(each)) for each in gains.values()]
        difference, p = "", ""
        if name != "plain" and len(per_case) > 2:
            difference, p = f"{100 * np.mean(per_case):+.1f}", f"{stats.ttest_1samp(per_case, 0).pvalue:.2f}"
        part = {what: [value for row in those for value in row[what].values()] for what in ("held_out", "unlabelled")}
        lines.append(
            [
                WAYS[name].title,
                str(len(those)),
                f"{100 * np.mean(part['held_out']):.1f}",
                f"{100 * np.mean(part['unlabelled']):.1f}" if part["unlabelled"] else "",
                f"{100 * np.mean(means):.1f}",
                f"{100 * np.std(means, ddof=1):.1f}" if len(means) > 1 else "",
                difference,
                p,
                f"{100 * min(min(_dice(row).values()) for row in those):.1f}",
                f"{np.mean([row['cpu_s'] for row in those]):.0f}",
            ]
        )
    head = ["way", "draws", "held-out", "unlabelled", "both", "sd over draws", "points over not averaged", "p", "worst"]
    return [*head, "CPU s"], lines


def _dice(row: Row) -> dict[str, float]:
    return {**row["held_out"], **row["unlabelled"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets, models and results.jsonl")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["none", "low-rate", "plain", "supervised", "bcp"])
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--labels", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--table", action="store_true", help="only show what is there")
    parser.add_argument("--quick", action="store_true", help="a few steps: shows that it runs, and measures nothing")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.out, arguments.quick)
    steps = 2 if arguments.quick else arguments.steps
    if not arguments.table:
        for labels in arguments.labels:
            for draw in arguments.draws:
                for seed in arguments.seeds:
                    for name in arguments.ways:
                        bench.run(WAYS[name], draw, labels, steps, seed)
    rows = bench.rows()
    for labels, steps in sorted({(row["labels"], row["steps"]) for row in rows}):
        print(f"\n{labels} labelled, {steps} steps\n")
        show(*table(rows, labels, steps))
    keep(arguments.json, {"adaptation": rows})


if __name__ == "__main__":
    main()
