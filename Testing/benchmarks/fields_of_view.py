"""Whether a model depends on the field of view: Dice on scans that are cut to, or padded to, other widths.

    python Testing/benchmarks/fields_of_view.py DATASET MODEL --split NAME [--widths 0.7 1.0 1.4 2.0]

The in-plane size is multiplied by each width around the middle: below 1 the scan is cut, above 1 it is padded with 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.datasets.packed import open_dataset
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.volume import Geometry, Volume


def of_width(array: npt.NDArray[np.generic], width: float) -> npt.NDArray[np.generic]:
    """The slices (k, j, i), cut or padded in the plane."""
    for axis in (1, 2):
        n = array.shape[axis]
        wanted = round(n * width)
        before = abs(wanted - n) // 2
        if wanted < n:
            array = array.take(range(before, before + wanted), axis)
        else:
            array = np.pad(array, [(before, wanted - n - before) if a == axis else (0, 0) for a in range(3)])
    return np.ascontiguousarray(array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--split", required=True)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.7, 1.0, 1.4, 2.0])
    options = parser.parse_args()
    bundle = ModelBundle.load(options.model)
    predictor, labels = Predictor(bundle, "cpu"), bundle.card.labels
    print(f"| width | {' | '.join(label.name for label in labels)} | mean |\n|{'---|' * (len(labels) + 2)}")
    for width in options.widths:
        rows = []
        for case in open_dataset(options.dataset).split(options.split):
            label = case.label()
            if label is None:
                continue
            image, truth = case.image(), of_width(np.asarray(label.array), width)
            scan = of_width(np.asarray(image.array), width)
            geometry = Geometry(image.geometry.affine, truth.shape, image.geometry.spacing_known)
            mask = np.asarray(predictor.predict(Volume(scan, geometry)).segmentation.labelmap.array)
            rows.append([dice(mask == each.value, truth == each.value) for each in labels])
        mean = np.mean(rows, axis=0)
        print(f"| {width:g} | {' | '.join(f'{value:.4f}' for value in mean)} | {mean.mean():.4f} |", flush=True)


if __name__ == "__main__":
    main()
