"""How well a model finds its structure in whole fields of view, and what that costs in Dice.

    python Testing/benchmarks/wide_fields.py DATASET MODEL --split NAME [--json FILE]

For every labelled case: whether the region that is found holds the whole structure, how much room it has around it, how
long the search takes, and Dice within the region that is found and within the true one (the label's box, widened by
25 mm).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from mper.dataloading.wide_field import is_wide, region_around
from mper.datasets.packed import open_dataset
from mper.evaluation.metrics import dice
from mper.inference.localization import Localizer
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.roi import Region
from mper.volume import Volume


def measure(predictor: Predictor, localizer: Localizer | None, image: Volume, truth: np.ndarray) -> dict[str, object]:
    """The figures of one case."""
    row: dict[str, object] = {}
    if localizer is not None and is_wide(image.geometry):
        begin = time.perf_counter()
        regions = localizer.candidates(localizer.search(image))
        row["seconds"] = round(time.perf_counter() - begin, 2)
        row["candidates"] = len(regions)
        row["held"] = [round(float(truth[region.window].sum() / truth.sum()), 4) for region in regions]
        row["room_mm"] = _room(regions[0], image, truth) if regions else None
    found = predictor.predict(image)
    around = region_around(truth, image.geometry, 25.0) if is_wide(image.geometry) else None
    with_region = found
    if around is not None:
        with_region = predictor.predict(image, roi=around.box_mm(image.geometry))
    row["dice"] = round(dice(np.asarray(found.segmentation.labelmap.array) != 0, truth), 4)
    row["dice_with_region"] = round(dice(np.asarray(with_region.segmentation.labelmap.array) != 0, truth), 4)
    row["confidence"] = round(found.confidence, 3)
    row["flags"] = [flag.code for flag in found.flags]
    return row


def _room(region: Region, image: Volume, truth: np.ndarray) -> list[int]:
    """The least room in mm around the structure along each array axis; below 0 where it is cut."""
    occupied, step = np.argwhere(truth), np.asarray(image.geometry.step_lengths)
    before, after = occupied.min(0) - region.start, np.array(region.stop) - 1 - occupied.max(0)
    return [int(n) for n in np.minimum(before, after) * step]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--split", required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = ModelBundle.load(options.model)
    source = bundle.localization
    localizer = None if source is None else Localizer(source, torch.device("cpu"), torch.float32)
    predictor = Predictor(bundle, "cpu")
    rows = {}
    for case in open_dataset(options.dataset).split(options.split):
        label = case.label()
        if label is not None:
            rows[case.id] = measure(predictor, localizer, case.image(), np.asarray(label.array) != 0)
            print(case.id, json.dumps(rows[case.id]), flush=True)
    for name in ("dice", "dice_with_region"):
        values = [float(str(row[name])) for row in rows.values()]
        print(f"{name}: mean {np.mean(values):.4f}, least {min(values):.4f}")
    held = [row["held"] for row in rows.values() if "held" in row]
    print(f"whole structure in the first region: {sum(bool(h) and h[0] == 1 for h in held)} of {len(held)}")  # type: ignore[index]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
