"""The results of a benchmark as Markdown and CSV: mean and spread over seeds, of all structures and of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mper.benchmark.plan import TASKS, Benchmark, Cohort, Run
from mper.utils.files import write_atomically

ALL = "mean"  # of all structures
_COLUMNS = {  # heads, and how many of the stored unit one of the head's is
    "dice": ("Dice %", 100),
    "jaccard": ("IoU %", 100),
    "hd95_voxel": ("95HD voxel", 1),
    "asd_voxel": ("ASD voxel", 1),
    "hd95_mm": ("95HD mm", 1),
    "asd_mm": ("ASD mm", 1),
}
_NOTE = """\
Mean over cases, then mean ± standard deviation over seeds (none from one seed alone). The state at the end of the run \
counts, and nothing was chosen on these cases. Distances leave out masks without a surface; their number stands under \
"no surface"."""


class Row(NamedTuple):
    """The seeds of one variant with one number of labels: figures of one structure, or of all (`ALL`)."""

    labeled: int
    variant: str
    structure: str
    figures: tuple[Mapping[str, Any], ...]

    def spread(self, name: str) -> tuple[float, float] | None:
        """Mean and standard deviation over seeds of a figure; None where none has it; nan for the spread of one."""
        values = [f[name] for f in self.figures if f[name] is not None]
        if not values:
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def rows(results: Mapping[Run, Mapping[str, Any]]) -> list[Row]:
    """Group the runs that differ only in their seed."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for run, found in results.items():
        groups.setdefault((run.labeled, run.variant.word), []).append(found)
    made = []
    for (labeled, word), several in groups.items():
        made.append(Row(labeled, word, ALL, tuple(_with_worst(found, None) for found in several)))
        names = list(several[0]["labels"])
        for name in names if len(names) > 1 else []:
            made.append(Row(labeled, word, name, tuple(_with_worst(found, name) for found in several)))
    return made


def _with_worst(found: Mapping[str, Any], structure: str | None) -> dict[str, Any]:
    figures = found["mean"] if structure is None else found["labels"][structure]
    cases = [case if structure is None else case["labels"][structure] for case in found["cases"]]
    return {**figures, "worst": min(case["dice"] for case in cases)}


def write_tables(benchmark: Benchmark, cohort: Cohort, results: Mapping[Run, Mapping[str, Any]], home: Path) -> str:
    """Write results.md, results.csv (a line for each run and structure) and cases.csv; returns the Markdown."""
    text = markdown(benchmark, cohort, results)
    write_atomically(home / "results.md", [text.encode("utf-8")])
    write_atomically(home / "results.csv", [_csv(_by_run(results))])
    write_atomically(home / "cases.csv", [_csv(_by_case(results))])
    return text


def markdown(benchmark: Benchmark, cohort: Cohort, results: Mapping[Run, Mapping[str, Any]]) -> str:
    """The table, with everything that is needed to reproduce it."""
    task = TASKS[benchmark.task]
    made = rows(results)
    whole = [row for row in made if row.structure == ALL]
    parts = [row for row in made if row.structure != ALL]
    lines = [f"# {task.title}: {len(results)} of {len(benchmark.runs())} runs", ""]
    lines += [f"- {name}: {words}" for name, words in _facts(benchmark, cohort, results)]
    lines += ["", *_table(whole, task.unit, "worst case Dice %"), ""]
    if parts:
        lines += ["## Structure by structure", "", *_table(parts, task.unit, "worst case Dice %", structures=True), ""]
    return "\n".join([*lines, _NOTE, ""])


def _facts(benchmark: Benchmark, cohort: Cohort, results: Mapping[Run, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    found = list(results.values())
    yield "evaluated on", cohort.description + (", synthetic: the values mean nothing" if benchmark.made_up else "")
    yield "data", cohort.key
    yield "recipe", benchmark.recipe + (", two networks that teach each other" if benchmark.co_train else "")
    if benchmark.start is not None:
        yield "fine-tuned from", benchmark.start
    networks = sorted({f["trained"]["network"] for f in found})
    yield "backbone", ", ".join(networks) or benchmark.backbone or "by slice thickness"
    if benchmark.budget_s is not None:
        steps = [f["trained"]["steps"] for f in found] or [0]
        of = "processor time" if benchmark.processor_time else "training"
        yield "length", f"{benchmark.budget_s:g} s of {of} a run ({min(steps)} to {max(steps)} steps)"
    else:
        yield "length", f"{benchmark.steps} steps a run" if benchmark.steps else "the published number of steps"
    for name, value in (("labelled patches a step", benchmark.batch), ("patch (k, j, i)", benchmark.patch)):
        if value is not None:
            yield name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if found:
        seconds = [f["trained"]["seconds"] for f in found]
        yield "training a run", f"{min(seconds):.0f} to {max(seconds):.0f} s"
    for name in ("hardware", "code"):
        yield name, "; ".join(sorted({f[name] for f in found})) or "-"


def _table(made: Sequence[Row], unit: str, worst: str, structures: bool = False) -> list[str]:
    known = [name for name in _COLUMNS if any(row.spread(name) for row in made)]
    head = [f"labelled {unit}", "method", *(["structure"] if structures else []), "seeds"]
    head += [
        *(_COLUMNS[name][0] for name in known),
        worst,
        f"Dice % against {made[0].variant}" if made else "",
        "no surface",
    ]
    first = {(row.labeled, row.structure): row.spread("dice") for row in made if row.variant == made[0].variant}
    lines = [head, ["---"] * len(head)]
    for row in made:
        cells = [str(row.labeled), row.variant, *([row.structure] if structures else []), str(len(row.figures))]
        cells += [format_spread(row.spread(name), _COLUMNS[name][1]) for name in known]
        cells += [f"{100 * min(f['worst'] for f in row.figures):.2f}"]
        mean, base = row.spread("dice"), first.get((row.labeled, row.structure))
        cells += [f"{100 * (mean[0] - base[0]):+.2f}" if mean and base and row.variant != made[0].variant else ""]
        lines.append([*cells, str(sum(f["without_distance"] for f in row.figures))])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def format_spread(spread: tuple[float, float] | None, scale: float = 1) -> str:
    """``90.12 ± 0.31``, ``90.12`` or ``-``."""
    if spread is None:
        return "-"
    mean, deviation = (scale * value for value in spread)
    return f"{mean:.2f}" if np.isnan(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def _by_run(results: Mapping[Run, Mapping[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for found in results.values():
        about = {
            **found["run"],
            **found["trained"],
            "seconds_per_case": found["seconds_per_case"],
            **{name: found[name] for name in ("hardware", "code", "date")},
        }
        for structure, figures in {ALL: found["mean"], **found["labels"]}.items():
            lines.append({**found["run"], "structure": structure, **figures, **about})
    return lines


def _by_case(results: Mapping[Run, Mapping[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for found in results.values():
        for case in found["cases"]:
            for structure, figures in {ALL: case, **case["labels"]}.items():
                told = {name: figures[name] for name in _COLUMNS}
                lines.append({**found["run"], "case": case["id"], "structure": structure, **told})
    return lines


def _csv(lines: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO(newline="")
    if lines:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)
    return stream.getvalue().encode("utf-8")
