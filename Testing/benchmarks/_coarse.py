"""Experiments on learning, at a spacing so coarse that a training takes a minute: data, models, trainings, figures.

What is compared here are ways to spend a person's time, on the same small network, the same scans and the same number
of steps; the Dice themselves are those of a coarse grid and say nothing of the bundled models.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _data import la_cases, la_scan
from _timing import add_options

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.datasets.dataset import Dataset
from mper.evaluation.evaluate import evaluate
from mper.inference.predictor import Predictor
from mper.labels import make_label
from mper.models.bundle import ModelBundle
from mper.models.card import Card
from mper.nets.network import NetConfig, Network
from mper.training.config import TrainConfig
from mper.training.trainer import start_run, train
from mper.volume import Volume

SPACING_MM, PATCH = 2.0, (32, 48, 48)
FIRST_LABELS = 4  # cases 1 to 4 of train.list are labelled from the start
DEV = (73, 80)
UNSEEN = (41, 80)  # cases that no training of these experiments sees
_LA = make_label(1, "LA")


@dataclass(frozen=True)
class Sizes:
    """base_steps, tuning_steps : of the first model, and of what is made of it; last : case of train.list up to which
    scans are seen without labels.
    """

    base_steps: int = 500
    tuning_steps: int = 250
    last: int = 24


QUICK = Sizes(4, 3, 9)


class Bench:
    """A folder that keeps what was made: data sets and models are made once, figures are appended to a file."""

    def __init__(self, folder: Path, sizes: Sizes):
        self.folder, self.sizes = folder, sizes
        folder.mkdir(parents=True, exist_ok=True)
        self.results = folder / "results.jsonl"

    def dataset(self) -> Dataset:
        """All cases with image; those of DEV and the first ones with their labels."""
        path = self.folder / "data"
        if not (path / "complete").exists():
            shutil.rmtree(path, ignore_errors=True)
            dataset = Dataset.create(path, "la", [_LA])
            train_ids, dev_ids = la_cases(1, self.sizes.last), la_cases(*DEV)
            for case_id in (*train_ids, *dev_ids):
                scan = la_scan(case_id)
                case = dataset.add_case(case_id, scan.image, {"format": "LA challenge"})
                if case_id in dev_ids or case_id in train_ids[:FIRST_LABELS]:
                    mask = scan.image.with_array(scan.atrium.astype(np.uint8))
                    case.add_label(mask, author="LA challenge", how="imported")
            dataset.add_to_split("train", train_ids)
            dataset.add_to_split("dev", dev_ids)
            (path / "complete").touch()
        return Dataset.open(path)

    def base(self, seed: int) -> ModelBundle:
        """The model of the first labels, with the other scans as unlabelled ones: method mper."""
        start = self._blank(seed)
        return self._trained(f"base-{seed}", seed, "mper", self.sizes.base_steps, self.dataset().path, start)

    def tuned(self, name: str, seed: int, labels: Mapping[str, Volume], method: str = "supervised") -> ModelBundle:
        """The model of a seed, trained on with more cases labelled."""
        made = self.folder / "models" / name
        if made.exists():
            return ModelBundle.load(made)
        self.base(seed)
        path = self.folder / "with" / name
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "data", path, copy_function=os.link)
        dataset = Dataset.open(path)
        for case_id, mask in labels.items():
            dataset.case(case_id).add_label(mask, author="simulated", how="hand")
        start = self.folder / "models" / f"base-{seed}"
        model = self._trained(name, seed, method, self.sizes.tuning_steps, path, start)
        shutil.rmtree(path)
        return model

    def dice(self, model: ModelBundle) -> list[float]:
        """Of each case of DEV, on the scans' own grid."""
        dataset = self.dataset()
        found = evaluate(Predictor(model, "cpu"), dataset.split("dev"), dataset.labels)
        return [round(case["dice"], 4) for case in found["cases"]]

    def unseen_dice(self, model: ModelBundle) -> list[float]:
        """Of each case of UNSEEN, on the coarse grid."""
        path = self.folder / "unseen"
        if not (path / "complete").exists():
            shutil.rmtree(path, ignore_errors=True)
            made = Dataset.create(path, "la", [_LA])
            for case_id in la_cases(*(DEV if self.sizes is QUICK else UNSEEN)):
                scan = la_scan(case_id)
                add_case(made, case_id, scan.image, scan.atrium)
            (path / "complete").touch()
        dataset = Dataset.open(path)
        found = evaluate(Predictor(model, "cpu"), [dataset.case(case) for case in dataset.cases], dataset.labels)
        return [round(case["dice"], 4) for case in found["cases"]]

    def once(self, experiment: str, seed: int, way: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures of one way and seed: those on file, or new ones that are put there."""
        for row in self.rows():
            if (row["experiment"], row["seed"], row["way"]) == (experiment, seed, way):
                return row
        row = {"experiment": experiment, "seed": seed, "way": way, **work()}
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row

    def has(self, experiment: str, seed: int, way: str) -> bool:
        """Whether figures are on file."""
        return any((row["experiment"], row["seed"], row["way"]) == (experiment, seed, way) for row in self.rows())

    def rows(self) -> list[dict[str, Any]]:
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_text(encoding="utf-8").splitlines()]

    def _blank(self, seed: int) -> Path:
        """A network that knows nothing; it brings the coarse grid. Its structure is called otherwise: begin anew."""
        path = self.folder / "models" / f"blank-{seed}"
        if not path.exists():
            torch.manual_seed(seed)
            config = NetConfig("vnet", 2, smooth=True)
            grid = asdict(Preprocessing((SPACING_MM,) * 3))
            card = Card("blank", "1", "untrained", (make_label(1, "nothing yet"),), asdict(config), grid, PATCH)
            ModelBundle(card, Network(config).state_dict()).save(path)
        return path

    def _trained(self, name: str, seed: int, method: str, steps: int, dataset: Path, start: Path) -> ModelBundle:
        made = self.folder / "models" / name
        if not made.exists():
            config = TrainConfig(str(dataset), method, start_from=str(start), steps=steps, device="cpu", seed=seed)
            run = self.folder / "runs" / name
            if not (run / "config.json").exists():
                start_run(config, run)
            else:
                start_run_again(run, config)
            made.parent.mkdir(exist_ok=True)
            shutil.copytree(train(run), made)
            shutil.rmtree(run)
        return ModelBundle.load(made)


def add_case(dataset: Dataset, name: str, image: Volume, atrium: np.ndarray) -> None:
    """Add a scan with its label, on the coarse grid."""
    grid = WorkingGrid.plan(image.geometry, Preprocessing((SPACING_MM,) * 3), 3)
    small = Volume(grid.forward(image.array).numpy(), grid.geometry(image.geometry))
    case = dataset.add_case(name, small, {"format": "coarser grid"})
    mask = grid.forward_labels(atrium.astype(np.uint8), 2).numpy()
    case.add_label(small.with_array(mask), author="coarser grid", how="imported")


def begin(
    text: str | None, seeds: Sequence[int], switches: Mapping[str, str] | None = None
) -> tuple[argparse.Namespace, Bench]:
    """The command line of an experiment, whose module says `text`, and the folder that it works in."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets, models and results.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--quick", action="store_true", help="a few steps: shows that it runs, and measures nothing")
    for name, words in (switches or {}).items():
        parser.add_argument(name, action="store_true", help=words)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments, Bench(arguments.out, QUICK if arguments.quick else Sizes())


def start_run_again(run: Path, config: TrainConfig) -> None:
    """Go on with a run that was stopped, if it is the same one."""
    from mper.training.runs import RunFolder

    if TrainConfig.read(run) != config:
        raise ValueError(f"{run} was begun with other choices; delete it, or take another --out")
    RunFolder(run).steer("run")


def truth(case_id: str) -> Volume:
    """What people drew of a case."""
    scan = la_scan(case_id)
    return scan.image.with_array(scan.atrium.astype(np.uint8))


def mean(rows: Sequence[Mapping[str, Any]]) -> float:
    """Of the Dice of all cases of all rows."""
    return float(np.mean([np.mean(row["dice"]) for row in rows]))


def spread(rows: Sequence[Mapping[str, Any]]) -> float:
    """Standard deviation of the seeds' mean Dice."""
    return float(np.std([np.mean(row["dice"]) for row in rows], ddof=1)) if len(rows) > 1 else 0.0
