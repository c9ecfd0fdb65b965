"""Turn a finished run into a bundled model: int8 weights, the card's words, and the quality measured as shipped.

    python Testing/benchmarks/ship_model.py RUN NAME DATASET --split dev [--version 1.0.0]

Writes Resources/Models/NAME, which must not be there yet. The quality in the card is that of the
stored, quantised weights on the cases of the split, one figure a case.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mper.datasets.packed import open_dataset
from mper.evaluation.evaluate import evaluate
from mper.inference.predictor import Predictor
from mper.methods.recipe import Recipe
from mper.methods.registry import make_method
from mper.models.bundle import ModelBundle
from mper.training.config import TrainConfig
from mper.training.data import load_training_data

MODELS = Path(__file__).resolve().parents[2] / "Resources" / "Models"

WORDS = Path(__file__).with_name("model_words.json")


def with_new_prototypes(trained: ModelBundle, run: Path) -> ModelBundle:
    """The same network with smoothed embeddings and k-means prototypes of them, from the run's own labelled cases.

    For runs that were trained before `mper.nets.network.NetConfig.smooth`.
    """
    config = TrainConfig.read(run)
    sampler = load_training_data(config, torch.device("cpu")).sampler
    card = replace(trained.card, network={**trained.card.network, "smooth": True})
    network = replace(trained, card=card).build()
    method = make_method("supervised", network, Recipe(), 2)
    method.fit_prototypes(network, sampler, np.random.default_rng(config.seed))
    about = {**card.about, "prototypes": "k-means of the trained network's smoothed embeddings of its labelled cases"}
    return ModelBundle(replace(card, about=about), network.state_dict())


def main() -> None:
    every: dict[str, dict[str, Any]] = json.loads(WORDS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=sorted(every))
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", required=True)
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--storage", default="int8")
    parser.add_argument(
        "--always-mirrored", action="store_true", help="average over mirrored copies at every prediction"
    )
    parser.add_argument("--new-prototypes", action="store_true", help="fit them anew, on smoothed embeddings")
    options = parser.parse_args()

    trained = ModelBundle.load(options.run / "model")
    trained = replace(trained, card=replace(trained.card, always_mirrored=options.always_mirrored))
    if options.new_prototypes:
        trained = with_new_prototypes(trained, options.run)
    words = every[options.name]
    card = replace(trained.card, name=options.name, version=options.version, title=words.pop("title"))
    card = replace(card, about={**words, **{k: v for k, v in trained.card.about.items() if k != "quality"}})
    with tempfile.TemporaryDirectory() as scratch:
        stored = replace(trained, card=card).save(Path(scratch) / options.name, options.storage)
        dataset = open_dataset(options.dataset)
        cases = dataset.split(options.split)
        measured = evaluate(Predictor(ModelBundle.load(stored)), cases, dataset.labels)
        before = evaluate(Predictor(trained), cases, dataset.labels)
        quality = {
            "cases": f"{len(cases)} cases of split {options.split!r}: not trained on, used for choices",
            "mean": measured["mean"],
            "labels": measured["labels"],
            "per_case": {case["id"]: round(case["dice"], 4) for case in measured["cases"]},
        }
        shutil.rmtree(stored)
        ModelBundle(replace(card, about={**card.about, "quality": quality}), trained.state).save(
            MODELS / options.name, options.storage
        )
    for name, dice in quality["per_case"].items():
        print(f"{name}  {dice:.4f}")
    shipped, trained_as = measured["mean"]["dice"], before["mean"]["dice"]
    print(f"mean Dice {shipped:.4f} as shipped ({options.storage}), {trained_as:.4f} as trained")


if __name__ == "__main__":
    main()
