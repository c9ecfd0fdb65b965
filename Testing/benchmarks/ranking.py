"""Does the ranking of unlabelled cases pick better ones than chance? Four more labels, chosen in several ways.

From a model of 4 labels (cases 1 to 4 of train.list), four more of the cases 5 to 24 are labelled, and training goes
on for a fixed number of steps. Ways to choose: the first four of the ranking, its last four, the four of which the
model is least sure, and four at random, several times. Everything else is the same. Dice is measured on cases 73 to 80,
which take part in nothing.

    python Testing/benchmarks/ranking.py --out FOLDER                what is in FOLDER already is not made again
    python Testing/benchmarks/ranking.py --out FOLDER --seeds 0 1    a table of two seeds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from _coarse import FIRST_LABELS, Bench, begin, mean, spread, truth
from _timing import keep, show

from mper.evaluation.active_learning import CaseSummary, rank, summarise_case
from mper.inference.predictor import Predictor

MORE = 4
RANDOM_DRAWS = 3
_WAYS = ("no more labels", "ranking: first four", "ranking: last four", "least confident four", "random four")


def choices(bench: Bench, seed: int) -> dict[str, list[str]]:
    """The four cases of each way."""
    dataset = bench.dataset()
    predictor = Predictor(bench.base(seed), "cpu")
    looks: dict[str, CaseSummary] = {
        case.id: summarise_case(predictor, case.image()) for case in dataset.split("train")
    }
    ids = list(looks)
    pool = {case_id: looks[case_id] for case_id in ids[FIRST_LABELS:]}
    ranked = [each.id for each in rank(pool, [looks[case_id] for case_id in ids[:FIRST_LABELS]])]
    unsure = sorted(pool, key=lambda case_id: pool[case_id].confidence)
    chosen = {_WAYS[1]: ranked[:MORE], _WAYS[2]: ranked[-MORE:], _WAYS[3]: unsure[:MORE]}
    for draw in range(RANDOM_DRAWS):
        rng = np.random.default_rng([seed, draw])
        chosen[f"{_WAYS[4]}, {draw + 1}"] = rng.choice(list(pool), MORE, replace=False).tolist()
    return chosen


def run_seed(bench: Bench, seed: int) -> None:
    """All ways of one seed; what is on file is not made again."""

    def figures(way: str, cases: Sequence[str]) -> dict[str, Any]:
        words = way.replace(":", "").replace(",", "").replace(" ", "-")
        model = bench.tuned(f"{words}-{seed}", seed, {case_id: truth(case_id) for case_id in cases})
        return {"cases": list(cases), "dice": bench.dice(model)}

    bench.once("ranking", seed, _WAYS[0], lambda: figures(_WAYS[0], []))
    for way, cases in choices(bench, seed).items():
        bench.once("ranking", seed, way, partial(figures, way, cases))


def table(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Mean Dice of each way, and how often it beat random choice of the same seed."""
    mine = [row for row in rows if row["experiment"] == "ranking" and row["seed"] in seeds]
    random = {seed: mean([r for r in mine if r["seed"] == seed and r["way"].startswith(_WAYS[4])]) for seed in seeds}
    lines = []
    for way in _WAYS:
        those = [row for row in mine if row["way"].startswith(way)]
        better = sum(float(np.mean(row["dice"])) > random[row["seed"]] for row in those)
        told = "" if way == _WAYS[4] else f"{better} of {len(those)}"
        lines.append([way, f"{mean(those):.4f}", f"{spread(those):.4f}", told])
    return ["four more labels", "mean Dice", "sd over trainings", "better than the seed's random choices"], lines


def main() -> None:
    arguments, bench = begin(__doc__, range(5))
    for seed in arguments.seeds:
        run_seed(bench, seed)
    rows = bench.rows()
    show(*table(rows, arguments.seeds))
    keep(arguments.json, {"ranking": [row for row in rows if row["experiment"] == "ranking"]})


if __name__ == "__main__":
    main()
