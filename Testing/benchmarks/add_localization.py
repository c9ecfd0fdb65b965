"""Give a model a localisation of its own, learned from the labels of a dataset; its weights stay.

    python Testing/benchmarks/add_localization.py DATASET MODEL OUT [--split train] [--also NAME] [--labeled N]

What a training run with wide fields of view does by itself (`mper train`), for a model that was trained without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mper.models.bundle import ModelBundle
from mper.models.localization import Localization
from mper.progress import Progress
from mper.training.config import TrainConfig
from mper.training.data import load_training_data
from mper.training.localization import STEPS, CoarseScan, train_localization


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--labeled", type=int)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def report(progress: Progress) -> None:
        if progress.fraction is not None and "loss" in progress.values:
            print(f"{progress.fraction:.1%} loss {progress.values['loss']:.3f}", flush=True)

    def localize(scans: Sequence[CoarseScan], start: Localization | None) -> Localization:
        begin = time.process_time()
        found = train_localization(scans, options.seed, report, steps=options.steps)
        print(f"{len(scans)} scans, {options.steps} steps, {time.process_time() - begin:.0f} CPU seconds", flush=True)
        return found

    config = TrainConfig(
        str(options.dataset),
        "supervised",
        split=options.split,
        also=tuple(options.also),
        labeled=options.labeled,
        start_from=str(options.model),
        localization="always",
    )
    data = load_training_data(config, torch.device("cpu"), localize=localize)
    bundle = ModelBundle.load(options.model)
    about = {name: value for name, value in bundle.card.about.items() if name != "locator"}
    replace(bundle, card=replace(bundle.card, about=about), localization=data.localization).save(options.out, "int8")


if __name__ == "__main__":
    main()
