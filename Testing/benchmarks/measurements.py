"""Figures of `mper measure` on phantoms, and of the shipped models' masks against labels; markdown tables.

Phantoms: values by formula on three grids. `la`: volume, area, sphericity and extents of masks against those of the
labels, cases 73 to 80 of train.list. `acdc`: EDV, ESV and EF of masks against labels, val.list, with the true spacing
of `spacing.json`, and a Bland-Altman picture. Speed: all figures of the sample scan. Run it again with a new model.

    python Testing/benchmarks/measurements.py
    python Testing/benchmarks/measurements.py --la runs/la/model --acdc runs/acdc/model --picture ef.png
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _data import acdc_cases, acdc_volumes, data_home, la_cases, la_scan
from _timing import REPOSITORY, add_options, keep, show

from mper.inference.predictor import Predictor
from mper.io import read_labelmap, read_volume
from mper.labels import Segmentation, make_label
from mper.measurement.atrium import measure_atrium
from mper.measurement.ventricles import measure_cycle
from mper.models.bundle import ModelBundle
from mper.resources import find_model, sample_scan
from mper.volume import Geometry, Volume

_ATRIUM = ("la_volume", "la_wall_area", "la_sphericity", "la_iir_1_20_extent", "la_iir_1_32_extent", "la_sd_3_3_extent")
_VENTRICLES = ("lv_edv", "lv_esv", "lv_ef", "lv_mass", "rv_edv", "rv_esv", "rv_ef")
_GRIDS = ((0.625, 0.625, 0.625), (1.0, 1.0, 1.0), (2.5, 1.25, 1.25))
Pairs = Mapping[str, Sequence[tuple[float, float]]]  # figure -> (of the mask, of the label), a pair a case


def phantoms() -> list[dict[str, Any]]:
    """A ball of blood in a wall that is bright in a fifth of its area: measured against the formula."""
    sys.path.insert(0, str(REPOSITORY / "Testing" / "library"))
    from phantoms import RADIUS, THICKNESS, TURN, atrium, grid

    exact = {
        "la_volume": 4 / 3 * math.pi * RADIUS**3 / 1000,
        "la_wall_area": 4 * math.pi * RADIUS**2,
        "la_shell_volume": 4 / 3 * math.pi * ((RADIUS + THICKNESS) ** 3 - RADIUS**3) / 1000,
        "la_sphericity": 100.0,
        "la_iir_1_20_extent": 20.0,
        "la_iir_1_32_extent": 20.0,
        "la_otsu_extent": 20.0,
    }
    rows = []
    for spacing in _GRIDS:
        mask, scan = atrium(grid(RADIUS + 6, spacing, TURN))
        found = {figure.key: figure.value for figure in measure_atrium(mask, scan.geometry, scan).figures}
        for key, value in exact.items():
            rows.append({"spacing": spacing, "figure": key, "exact": value, "measured": found[key]})
    return rows


def atria(model: Path, device: str) -> dict[str, list[tuple[float, float]]]:
    """Figures of masks and labels of the held-back atria."""
    predictor = Predictor(ModelBundle.load(model), device)
    pairs: dict[str, list[tuple[float, float]]] = {key: [] for key in _ATRIUM}
    for case in la_cases(73, 80):
        scan = la_scan(case)
        mask = predictor.predict(scan.image).segmentation.labelmap.array == 1
        _add(pairs, *(_values(measure_atrium(m, scan.image.geometry, scan.image).figures) for m in (mask, scan.atrium)))
    return pairs


def ventricles(model: Path, device: str) -> dict[str, list[tuple[float, float]]]:
    """Figures of masks and labels of the patients of val.list."""
    home = data_home("ACDC")
    assert home is not None
    facts = json.loads((home / "spacing.json").read_text(encoding="utf-8"))
    predictor = Predictor(ModelBundle.load(model), device)
    pairs: dict[str, list[tuple[float, float]]] = {key: [] for key in _VENTRICLES}
    labels = tuple(make_label(value, name) for value, name in enumerate(("RV", "MYO", "LV"), 1))
    for patient in sorted({case.split("_")[0] for case in acdc_cases("val")}):
        spacing = facts[patient]["spacing_kji_mm"]
        masks, references = [], []
        for frame in ("frame01", "frame02"):  # end diastole and end systole
            volumes = acdc_volumes(f"{patient}_{frame}")
            shape = volumes["image"].array.shape
            geometry = Geometry.from_axes((0, 0, 0), spacing, np.eye(3)[::-1], shape)
            masks.append(predictor.predict(Volume(volumes["image"].array, geometry)).segmentation)
            references.append(Segmentation(Volume(volumes["label"].array.astype(np.uint8), geometry), labels))
        _add(pairs, *(_values(measure_cycle(phases, 1, 2).figures) for phases in (masks, references)))
    return pairs


def _values(figures: Sequence[Any]) -> dict[str, float | None]:
    return {figure.key: figure.value for figure in figures}


def _add(
    pairs: dict[str, list[tuple[float, float]]], mask: Mapping[str, float | None], label: Mapping[str, float | None]
) -> None:
    for key, each in pairs.items():
        one, other = mask.get(key), label.get(key)
        if one is not None and other is not None:
            each.append((one, other))


def agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Bias, limits of agreement (1.96 SD of the differences) and mean absolute difference: mask minus label."""
    differences = [mask - label for mask, label in pairs]
    bias, sd = statistics.mean(differences), statistics.stdev(differences)
    return {
        "n": len(pairs),
        "label_mean": statistics.mean(label for _, label in pairs),
        "bias": bias,
        "low": bias - 1.96 * sd,
        "high": bias + 1.96 * sd,
        "absolute": statistics.mean(map(abs, differences)),
    }


def show_agreement(pairs: Pairs) -> dict[str, dict[str, float]]:
    found = {key: agreement(each) for key, each in pairs.items() if len(each) > 1}
    show(
        ["figure", "n", "mean of labels", "bias", "limits of agreement", "mean absolute difference"],
        [
            [
                key,
                f"{each['n']}",
                f"{each['label_mean']:.1f}",
                f"{each['bias']:+.2f}",
                f"{each['low']:+.2f} to {each['high']:+.2f}",
                f"{each['absolute']:.2f}",
            ]
            for key, each in found.items()
        ],
    )
    return found


def draw(path: Path, pairs: Pairs) -> None:
    """Bland-Altman pictures of both ejection fractions."""
    from mper.utils.plots import new_figure, save_figure

    figure = new_figure(1000, 420)
    for axes, key in zip(figure.subplots(1, 2), ("lv_ef", "rv_ef"), strict=True):
        found = agreement(pairs[key])
        axes.scatter([(m + r) / 2 for m, r in pairs[key]], [m - r for m, r in pairs[key]], s=26)
        axes.axhline(found["bias"], color="black", lw=1, label=f"bias {found['bias']:+.1f} points")
        for name in ("low", "high"):
            axes.axhline(found[name], color="black", lw=1, ls="--")
        axes.set_title(f"{key[:2].upper()} EF: limits {found['low']:+.1f} to {found['high']:+.1f} points")
        axes.set_xlabel("mean of mask and label [%]")
        axes.set_ylabel("mask minus label [points]")
        axes.legend(loc="lower left")
    save_figure(path, figure)


def speed(repeats: int = 5) -> list[float]:
    """Seconds of all figures of the sample scan, reading not counted."""
    scan = read_volume(sample_scan())
    mask = read_labelmap(sample_scan().with_name("la-reference.nrrd")).array == 1
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        measure_atrium(mask, scan.geometry, scan, body_m2=1.9)
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--la", default="la", metavar="NAME|PATH", help="model of the atrium (default: la)")
    parser.add_argument("--acdc", default="acdc", metavar="NAME|PATH", help="model of the ventricles (default: acdc)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the Bland-Altman picture (PNG)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    add_options(parser)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"phantoms": phantoms()}
    print("\nPhantoms\n")
    show(
        ["spacing (k, j, i) mm", "figure", "formula", "measured", "difference"],
        [
            [
                "x".join(f"{step:g}" for step in row["spacing"]),
                row["figure"],
                f"{row['exact']:.2f}",
                f"{row['measured']:.2f}",
                f"{row['measured'] - row['exact']:+.2f} points"
                if row["exact"] in (20.0, 100.0)
                else f"{100 * (row['measured'] / row['exact'] - 1):+.2f} %",
            ]
            for row in found["phantoms"]
        ],
    )
    seconds = found["seconds"] = speed()
    print(f"\nAll figures of the sample scan: {statistics.median(seconds):.2f} s (median of {len(seconds)})")
    if data_home("LA") is not None:
        print(f"\nLeft atrium, model {arguments.la}: masks against labels, cases 73 to 80\n")
        found["la"] = show_agreement(atria(find_model(arguments.la), arguments.device))
    if data_home("ACDC") is not None:
        print(f"\nVentricles, model {arguments.acdc}: masks against labels, val.list\n")
        pairs = ventricles(find_model(arguments.acdc), arguments.device)
        found["acdc"] = show_agreement(pairs)
        if arguments.picture is not None:
            draw(arguments.picture, pairs)
    keep(arguments.json, found)


if __name__ == "__main__":
    main()
