"""How well a model finds its structure in whole fields of view, and what that costs in Dice.

    python Testing/benchmarks/wide_fields.py DATASET MODEL --split NAME [--json FILE] [--sheet FILE]

For every labelled case: whether the region that is found holds the whole structure, how much room it has around it, how
long the search takes, Dice within the region that is found and within the true one (the label's box, widened by 25 mm),
and the Dice to expect by the model's calibration. The sheet shows three slices of each case through the middle of the
label: the label (green), the mask (red) and the region (yellow).
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
from mper.inference.prediction import Prediction
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.roi import Region, region_of_box
from mper.volume import Volume


def measure(
    predictor: Predictor, localizer: Localizer | None, image: Volume, truth: np.ndarray
) -> tuple[dict[str, object], Prediction]:
    """The figures of one case, and the mask without a given region."""
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
    row["expected_dice"] = None if found.quality is None else round(found.quality.expected_dice, 3)
    row["flags"] = [flag.code for flag in found.flags]
    return row, found


def draw(path: Path, drawn: list[tuple[str, Volume, np.ndarray, Prediction]]) -> None:
    """The sheet: a row of axial, coronal and sagittal slices for two cases each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        -(-len(drawn) // 2), 6, figsize=(12, 2.1 * -(-len(drawn) // 2)), layout="constrained"
    )
    for panel in panels.flat:
        panel.axis("off")
    for n, (title, image, truth, found) in enumerate(drawn):
        region = Volume(np.zeros(image.array.shape, np.uint8), image.geometry)
        if found.roi_mm is not None:
            region.array[region_of_box(image.geometry, found.roi_mm).window] = 1
        mask = np.asarray(found.segmentation.labelmap.array) != 0
        layers = [image.with_array(a).along_patient_axes().array for a in (image.array, truth, mask, region.array)]
        middle = np.argwhere(layers[1]).mean(0).round().astype(int)
        steps = image.along_patient_axes().geometry.step_lengths
        low, high = np.percentile(layers[0], (1, 99.5))
        for axis in range(3):
            panel = panels.reshape(-1, 6)[n // 2, 3 * (n % 2) + axis]
            slices = [np.asarray(layer.take(middle[axis], axis), dtype=float) for layer in layers]
            down, across = (step for a, step in enumerate(steps) if a != axis)
            panel.imshow(
                slices[0], cmap="gray", vmin=low, vmax=high, aspect=down / across, origin="lower" if axis else "upper"
            )
            for layer, colour in zip(slices[1:], ("lime", "red", "yellow"), strict=True):
                if layer.any():
                    panel.contour(layer, [0.5], colors=colour, linewidths=0.7)
            if axis == 0:
                panel.set_title(title, fontsize=7, loc="left")
    figure.savefig(path, dpi=95, pil_kwargs={"optimize": True})


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
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    bundle = ModelBundle.load(options.model)
    source = bundle.localization
    localizer = None if source is None else Localizer(source, torch.device("cpu"), torch.float32)
    predictor = Predictor(bundle, "cpu")
    rows: dict[str, dict[str, object]] = {}
    drawn = []
    for case in open_dataset(options.dataset).split(options.split):
        label = case.label()
        if label is not None:
            image, truth = case.image(), np.asarray(label.array) != 0
            rows[case.id], found = measure(predictor, localizer, image, truth)
            drawn.append((f"{case.id}: Dice {rows[case.id]['dice']}", image, truth, found))
            print(case.id, json.dumps(rows[case.id]), flush=True)
    for name in ("dice", "dice_with_region"):
        values = [float(str(row[name])) for row in rows.values()]
        print(f"{name}: mean {np.mean(values):.4f}, least {min(values):.4f}")
    held = [row["held"] for row in rows.values() if "held" in row]
    print(f"whole structure in the first region: {sum(bool(h) and h[0] == 1 for h in held)} of {len(held)}")  # type: ignore[index]
    if options.sheet:
        draw(options.sheet, drawn)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
