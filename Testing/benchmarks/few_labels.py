"""Methods with few labels: one table and one picture of benchmarks that differ in the length of their runs.

Each folder is one of `mper benchmark`, finished or not. Dice of a case is the mean over its seeds. Methods are compared
with `supervised` on the same cases and the same seeds: the mean difference, its 95 % interval over cases, and the p of
a paired t-test. Seeds stand apart, since cases alone do not say how much a training differs from the next.

    python Testing/benchmarks/few_labels.py "1 minute=FOLDER" "5 minutes=FOLDER" --picture few-labels.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _timing import show
from scipy import stats

from mper.utils.files import read_json
from mper.utils.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASE = "supervised"
_SURE = 0.95
_COLUMN, _HEIGHT = 520, 640  # pixels
_OFFSET = 0.07  # between methods, of the distance of two numbers of labels


@dataclass(frozen=True)
class Cell:
    """The runs of a method with a number of labels: Dice by seed and case, and what they cost."""

    labeled: int
    method: str
    dice: Mapping[int, Mapping[str, float]]
    hd95_mm: float | None
    steps: tuple[int, ...]

    @property
    def seeds(self) -> dict[int, float]:
        """Mean Dice of each seed in percent."""
        return {seed: 100 * float(np.mean(list(cases.values()))) for seed, cases in sorted(self.dice.items())}

    def by_case(self, seeds: Sequence[int]) -> dict[str, float]:
        """Mean over seeds in percent."""
        cases = list(self.dice[seeds[0]])
        return {case: 100 * float(np.mean([self.dice[seed][case] for seed in seeds])) for case in cases}


@dataclass(frozen=True)
class Gain:
    """Points of Dice over `supervised`: mean over cases, half of its 95 % interval, p; and by seed."""

    mean: float
    half: float
    p: float
    seeds: tuple[float, ...]


def read_cells(folder: Path) -> list[Cell]:
    """What is done of a benchmark."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for path in sorted((folder / "runs").glob("*/result.json")):
        result = read_json(path)
        found.setdefault((result["run"]["labeled"], result["run"]["variant"]), []).append(result)
    order = {word: number for number, word in enumerate(read_json(folder / "benchmark.json")["variants"])}
    cells = []
    for (labeled, word), results in sorted(found.items(), key=lambda each: (each[0][0], order[each[0][1]])):
        dice = {each["run"]["seed"]: {case["id"]: case["dice"] for case in each["cases"]} for each in results}
        distances = [each["mean"]["hd95_mm"] for each in results if each["mean"]["hd95_mm"] is not None]
        steps = tuple(each["trained"]["steps"] for each in results)
        cells.append(Cell(labeled, word, dice, float(np.mean(distances)) if distances else None, steps))
    return cells


def gain(cell: Cell, cells: Sequence[Cell]) -> Gain | None:
    """The difference to `supervised` with as many labels, over seeds that both have."""
    base = next((each for each in cells if each.method == BASE and each.labeled == cell.labeled), None)
    seeds = sorted(set(cell.dice) & set(base.dice)) if base is not None and cell is not base else []
    if base is None or not seeds:
        return None
    mine, theirs = cell.by_case(seeds), base.by_case(seeds)
    difference = np.array([mine[case] - theirs[case] for case in mine])
    half = stats.t.ppf((1 + _SURE) / 2, difference.size - 1) * stats.sem(difference)
    p = stats.ttest_1samp(difference, 0).pvalue
    by_seed = tuple(cell.seeds[seed] - base.seeds[seed] for seed in seeds)
    return Gain(float(difference.mean()), float(half), float(p), by_seed)


def lines(cells: Sequence[Cell]) -> list[list[str]]:
    """A line of the table for each cell."""
    made = []
    for cell in cells:
        found = gain(cell, cells)
        values = list(cell.seeds.values())
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        seeds = found is not None and len(found.seeds) > 1
        told = "" if found is None else f"{found.mean:+.1f} ± {found.half:.1f}"
        if found is not None and seeds:
            told += f" ({', '.join(f'{value:+.1f}' for value in found.seeds)})"
        made.append(
            [
                str(cell.labeled),
                cell.method,
                str(len(values)),
                f"{np.mean(values):.1f}{spread}",
                told,
                "" if found is None else f"{found.p:.2f}",
                "" if cell.hd95_mm is None else f"{cell.hd95_mm:.1f}",
                f"{100 * min(min(cases.values()) for cases in cell.dice.values()):.1f}",
                f"{np.mean(cell.steps):.0f}",
            ]
        )
    return made


def draw(tables: Mapping[str, Sequence[Cell]], path: Path) -> None:
    """A column for each length: Dice against labels, and the points over `supervised` with their intervals."""
    figure = new_figure(_COLUMN * len(tables), _HEIGHT)
    axes = figure.subplots(2, len(tables), squeeze=False, sharex=True, sharey="row")
    methods = list(dict.fromkeys(cell.method for cells in tables.values() for cell in cells))
    counts = sorted({cell.labeled for cells in tables.values() for cell in cells})
    for column, (title, cells) in enumerate(tables.items()):
        for number, method in enumerate(methods):
            shift = _OFFSET * (number - (len(methods) - 1) / 2)
            mine = [cell for cell in cells if cell.method == method]
            at = [counts.index(cell.labeled) + shift for cell in mine]
            _draw_method(axes[0, column], axes[1, column], f"C{number}", method, at, mine, cells)
        axes[0, column].set_title(title)
        axes[1, column].axhline(0, color="C0", linewidth=1)
        axes[1, column].set_xticks(range(len(counts)), [str(count) for count in counts])
        axes[1, column].set_xlabel("labelled scans")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("Dice %, a dot for each seed")
    axes[1, 0].set_ylabel(f"points over {BASE}, 95 % interval")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(methods))
    save_figure(path, figure)


def _draw_method(
    upper: Axes,
    lower: Axes,
    colour: str,
    method: str,
    at: Sequence[float],
    mine: Sequence[Cell],
    cells: Sequence[Cell],
) -> None:
    means = [float(np.mean(list(cell.seeds.values()))) for cell in mine]
    upper.plot(at, means, color=colour, linewidth=1.5, label=method)
    dots = [(x, value) for x, cell in zip(at, mine, strict=True) for value in cell.seeds.values()]
    upper.plot(*zip(*dots, strict=True), "o", color=colour, markersize=5, alpha=0.8) if dots else None
    gains = [(x, found) for x, cell in zip(at, mine, strict=True) if (found := gain(cell, cells)) is not None]
    if gains:
        x, values = [each for each, _ in gains], [found.mean for _, found in gains]
        lower.errorbar(x, values, [found.half for _, found in gains], fmt="o-", color=colour, capsize=3, linewidth=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="+", metavar="TITLE=FOLDER", help="folders of `mper benchmark`")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    arguments = parser.parse_args()
    tables = {}
    for word in arguments.benchmarks:
        title, _, folder = word.rpartition("=")
        cells = read_cells(Path(folder))
        tables[title or Path(folder).name] = [
            cell for cell in cells if not arguments.methods or cell.method in arguments.methods
        ]
    head = ["labelled scans", "method", "seeds", "Dice %", f"points over {BASE} (by seed)", "p", "95HD mm"]
    for title, cells in tables.items():
        print(f"\n{title}\n")
        show([*head, "worst case, Dice %", "steps"], lines(cells))
    if arguments.picture:
        draw(tables, arguments.picture)


if __name__ == "__main__":
    main()
