"""Do "next uncertain places" lead to where a mask is wrong? How much is wrong around them, by how far doubt is summed.

For each held-back left atrium the places that `mper.inference.uncertainty.uncertain_regions` names, with several
reaches of its sum of doubt, and uncertain voxels at random. Wrong voxels within 8 mm are counted, and the largest
connected part of those within 10 mm: about what one stroke can put right.

    python Testing/benchmarks/uncertain_regions.py
    python Testing/benchmarks/uncertain_regions.py --models la --reaches 4 6 8
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from _data import Scan, scans
from _timing import add_options, keep, show
from scipy import ndimage

from mper.inference import uncertainty
from mper.inference.prediction import Prediction
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.resources import find_model

PLACES, RANDOM = 3, 10
AROUND_MM, CONNECTED_MM = 8.0, 10.0
CHANCE = "at random"


def named_places(prediction: Prediction, reach_mm: float) -> list[npt.NDArray[np.int64]]:
    """The first places, with doubt summed under a Gaussian of that deviation."""
    usual, uncertainty._BLUR_MM = uncertainty._BLUR_MM, reach_mm
    try:
        return [np.array(place.index) for place in uncertainty.uncertain_regions(prediction, PLACES)]
    finally:
        uncertainty._BLUR_MM = usual


def random_places(prediction: Prediction) -> list[npt.NDArray[np.int64]]:
    """Voxels that are uncertain, anywhere."""
    assert prediction.label_probability is not None
    certain = prediction.label_probability.array
    found = np.argwhere((certain > 0) & (certain < 1 - uncertainty._UNSURE))
    return list(found[np.random.default_rng(0).choice(len(found), RANDOM)])


def wrong_around(
    places: Sequence[npt.NDArray[np.int64]], wrong: npt.NDArray[np.bool_], scan: Scan
) -> list[list[float]]:
    """Of each place, in mL: what is wrong within 8 mm, and the largest connected part within 10 mm."""
    spacing = np.array(scan.image.geometry.spacing_mm)
    ml = float(np.prod(spacing)) / 1000
    rows = []
    for place in places:
        window, inside = uncertainty._ball(place, AROUND_MM / spacing, wrong.shape)
        near = int((wrong[window] & inside).sum())
        window, inside = uncertainty._ball(place, CONNECTED_MM / spacing, wrong.shape)
        parts, _ = ndimage.label(wrong[window] & inside)
        rows.append([near * ml, int(np.bincount(parts.reshape(-1))[1:].max(initial=0)) * ml])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["la-8", "la"], metavar="NAME")
    parser.add_argument("--reaches", nargs="+", type=float, default=[3, 6, 9, 12], metavar="MM")
    parser.add_argument("--cases", type=int, default=8, metavar="N")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, figures = [], {}
    for model in arguments.models:
        predictor = Predictor(ModelBundle.load(find_model(model)), "cpu")
        found: dict[str, list[list[list[float]]]] = {}
        for scan in scans(arguments.cases):
            prediction = predictor.predict(scan.image, want=("label_probability",))
            wrong = (prediction.segmentation.labelmap.array == 1) != scan.atrium
            for reach in arguments.reaches:
                places = named_places(prediction, reach)
                found.setdefault(f"{reach:g} mm", []).append(wrong_around(places, wrong, scan))
            found.setdefault(CHANCE, []).append(wrong_around(random_places(prediction), wrong, scan))
        for way, each in found.items():
            first = np.mean([np.mean(case if way == CHANCE else case[:1], axis=0) for case in each], axis=0)
            mean = np.mean([np.mean(case, axis=0) for case in each], axis=0)
            figures[f"{model}, {way}"] = [*first.tolist(), *mean.tolist()]
            rows.append([model, way, *(f"{value:.3f}" for value in figures[f"{model}, {way}"])])
    head = ("model", "doubt summed over", "first: wrong, mL", "connected", f"mean of {PLACES}: wrong, mL", "connected")
    show(head, rows)
    keep(arguments.json, figures)


if __name__ == "__main__":
    main()
