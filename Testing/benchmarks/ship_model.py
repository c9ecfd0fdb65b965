"""Turn a finished run into a bundled model: int8 weights, the card's words, and the quality measured as shipped.

    python Testing/benchmarks/ship_model.py RUN NAME DATASET --split dev [--version 1.0.0]
        [--localization MODEL] [--calibration MODEL] [--towards MODEL SHARE] [--notes FILE]

RUN is the folder of a run, or a model. Writes Resources/Models/NAME, which must not be there yet. The quality in the
card is that of the stored, quantised weights on the cases of the split, one figure a case.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from mper.datasets.packed import open_dataset
from mper.evaluation.evaluate import evaluate
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle

MODELS = Path(__file__).resolve().parents[2] / "Resources" / "Models"

WORDS = Path(__file__).with_name("model_words.json")


def interpolated(trained: ModelBundle, start: ModelBundle, share: float) -> ModelBundle:
    """The mean of two sets of weights: fine-tuned, and those it started from (Wortsman et al., CVPR 2022, WiSE-FT).

    A model that was fine-tuned for another scanner gets back some of what it knew of the first.
    """
    state = {
        name: value.lerp(start.state[name], share) if value.is_floating_point() else value
        for name, value in trained.state.items()
    }
    return replace(trained, state=state)


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
    parser.add_argument("--localization", type=Path, metavar="MODEL", help="take the localisation of this model")
    parser.add_argument("--calibration", type=Path, metavar="MODEL", help="take the calibration of this model")
    parser.add_argument(
        "--towards",
        nargs=2,
        metavar=("MODEL", "SHARE"),
        help="the mean of the weights with those of the model that the run started from, of which this is the share",
    )
    parser.add_argument("--notes", type=Path, help="JSON: what else to put into the card")
    options = parser.parse_args()

    model = options.run / "model"
    trained = ModelBundle.load(model if model.exists() else options.run)
    trained = replace(trained, card=replace(trained.card, always_mirrored=options.always_mirrored))
    if options.towards is not None:
        trained = interpolated(trained, ModelBundle.load(Path(options.towards[0])), float(options.towards[1]))
    if options.localization is not None:
        trained = replace(trained, localization=ModelBundle.load(options.localization).localization)
    if options.calibration is not None:
        trained = replace(trained, calibration=ModelBundle.load(options.calibration).calibration)
    words = every[options.name]
    card = replace(trained.card, name=options.name, version=options.version, title=words.pop("title"))
    known = {name: value for name, value in trained.card.about.items() if name not in ("quality", "locator", *words)}
    notes = {} if options.notes is None else json.loads(options.notes.read_text(encoding="utf-8"))
    card = replace(card, about={**words, **known, **notes})
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
        final = replace(trained, card=replace(card, about={**card.about, "quality": quality}))
        final.save(MODELS / options.name, options.storage)
    for name, dice in quality["per_case"].items():
        print(f"{name}  {dice:.4f}")
    shipped, trained_as = measured["mean"]["dice"], before["mean"]["dice"]
    print(f"mean Dice {shipped:.4f} as shipped ({options.storage}), {trained_as:.4f} as trained")


if __name__ == "__main__":
    main()
