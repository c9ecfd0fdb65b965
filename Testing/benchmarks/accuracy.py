"""The shipped models on the cases that were kept back for choices: what `mper evaluate` says, as markdown tables.

`la` and `la-8`: cases 73 to 80 of train.list; `acdc`: val.list. Needs the public data (see Testing/README.md); they are
brought into temporary datasets by the same commands that a user has. The papers' test cases are in none of them.

    python Testing/benchmarks/accuracy.py
    python Testing/benchmarks/accuracy.py --models la=runs/la/model la-8     another model on the cases of `la`
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _data import data_home, la_cases
from _timing import add_options, keep, run_command, show

KINDS = {"la": "LA", "la-8": "LA", "acdc": "ACDC"}  # bundled model -> public data
SPLIT = "val"


def la_dataset(folder: Path) -> Path:
    """A dataset of the held-back left atria."""
    home, source = data_home("LA"), folder / "la-source"
    cases = la_cases(73, 80)
    assert home is not None
    for case in cases:
        shutil.copytree(home / case, source / case)
    (source / f"{SPLIT}.list").write_text("\n".join(cases) + "\n", encoding="utf-8")
    return imported(source, folder / "la")


def acdc_dataset(folder: Path) -> Path:
    """A dataset of ACDC's val.list."""
    home = data_home("ACDC")
    if home is None:
        raise FileNotFoundError(
            "the public ACDC files are not there; set MPER_TEST_DATA to the folder that holds ACDC/"
        )
    return imported(home, folder / "acdc")


def imported(source: Path, dataset: Path) -> Path:
    run_command([sys.executable, "-m", "mper", "import", str(source), str(dataset), "--split", SPLIT])
    return dataset


def evaluated(dataset: Path, model: str, device: str, threads: int) -> dict[str, Any]:
    """The object that `mper evaluate --json` prints."""
    command = [sys.executable, "-m", "mper", "evaluate", str(dataset), "--model", model, "--split", SPLIT, "--json"]
    return dict(json.loads(run_command([*command, "--device", device], threads).output))


def summary_row(name: str, found: Mapping[str, Any]) -> list[str]:
    mean, cases = found["mean"], found["cases"]
    distances = [mean[key] for key in ("hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm")]
    return [
        name,
        str(len(cases)),
        f"{mean['dice']:.4f}",
        f"{min(case['dice'] for case in cases):.4f}",
        f"{mean['jaccard']:.4f}",
        *("-" if value is None else f"{value:.2f}" for value in distances),
        f"{found['seconds_per_case']:.2f}",
    ]


def case_table(models: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: of every case the Dice and HD95 (voxels) of every model, with the labels' Dice where several."""
    head = ["case"]
    for name, found in models.items():
        labels = list(found["labels"]) if len(found["labels"]) > 1 else []
        head += [f"{name} Dice", *labels, "HD95"]
    rows = []
    for cases in zip(*(found["cases"] for found in models.values()), strict=True):
        row = [cases[0]["id"]]
        for case in cases:
            labels = case["labels"].values() if len(case["labels"]) > 1 else []
            row += [f"{case['dice']:.4f}", *(f"{label['dice']:.3f}" for label in labels)]
            row.append("-" if case["hd95_voxel"] is None else f"{case['hd95_voxel']:.1f}")
        rows.append(row)
    return head, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(KINDS),
        metavar="NAME[=PATH]",
        help="which (default: the three shipped ones)",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    add_options(parser)
    arguments = parser.parse_args()
    wanted: dict[str, str] = {}
    for entry in arguments.models:
        name, _, path = entry.partition("=")
        if name not in KINDS:
            parser.error(f"unknown model {name!r}; known are {', '.join(KINDS)}")
        wanted[name] = path or name
    found: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS.values()}
    with tempfile.TemporaryDirectory() as folder:
        datasets: dict[str, Path] = {}
        for name, model in wanted.items():
            kind = KINDS[name]
            if kind not in datasets:
                make = {"LA": la_dataset, "ACDC": acdc_dataset}[kind]
                datasets[kind] = make(Path(folder))
            found[kind][name] = evaluated(datasets[kind], model, arguments.device, arguments.threads)
    heads = ("model", "cases", "Dice", "worst", "Jaccard", "HD95 voxel", "ASD voxel", "HD95 mm", "ASD mm", "s a case")
    show(heads, [summary_row(name, each) for models in found.values() for name, each in models.items()])
    for kind, models in found.items():
        if models:
            print(f"\n{kind}, case by case\n")
            show(*case_table(models))
    keep(arguments.json, {name: each for models in found.values() for name, each in models.items()})


if __name__ == "__main__":
    main()
