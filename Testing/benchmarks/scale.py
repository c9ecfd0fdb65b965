"""What a dataset and a cohort of many scans cost: time, opened files and memory of each step, for 100 to 10,000 scans.

The scans are synthetic and tiny, so that what is measured is the bookkeeping: opening, listing, planning, ranking,
the engine's pages, finding copies, splits, a cohort's plan, its resumption and its tables. The last column is the
exponent by which the time of a step grows from the second largest to the largest number of scans: 1 is linear.

    python Testing/benchmarks/scale.py --most 10000
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("library", "engine")]

from engines import Served, served
from small_models import random_bundle

from mper.cli.outputs import cohort_tasks
from mper.cohort.manifest import CohortFolder, CohortLog, CohortRun, CohortScan
from mper.cohort.tables import write_tables
from mper.datasets.dataset import Dataset
from mper.evaluation.active_learning import LEVELS, CaseSummary, rank
from mper.labels import make_label
from mper.volume import Geometry, Volume

_SHAPE = (4, 6, 8)
_MODEL = {"name": "small", "version": "1.0.0", "sha256": "0" * 64}
_opened = [0]


def _count(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        _opened[0] += 1


@dataclass
class Table:
    """Seconds and opened files of each step, by number of scans."""

    rows: dict[str, dict[int, tuple[float, int]]] = field(default_factory=dict)
    memory_mb: dict[int, float] = field(default_factory=dict)

    def measure(self, step: str, scans: int, work: Callable[[], Any]) -> Any:
        opened, begin = _opened[0], time.perf_counter()
        answer = work()
        self.rows.setdefault(step, {})[scans] = (time.perf_counter() - begin, _opened[0] - opened)
        return answer

    def show(self) -> str:
        sizes = sorted({scans for row in self.rows.values() for scans in row})
        head = " | ".join(f"{scans} scans | files" for scans in sizes)
        lines = [f"| step | {head} | exponent |", f"|---|{'---:|' * (2 * len(sizes) + 1)}"]
        for step, row in self.rows.items():
            cells = [f"{row[n][0]:.3f} s | {row[n][1]}" if n in row else " | " for n in sizes]
            power = ""
            if len(sizes) > 1 and all(n in row for n in sizes[-2:]):
                few, many = sizes[-2:]
                power = f"{math.log(max(row[many][0], 1e-6) / max(row[few][0], 1e-6)) / math.log(many / few):.2f}"
            lines.append(f"| {step} | {' | '.join(cells)} | {power} |")
        memory = ", ".join(f"{scans}: {mb:.0f} MB" for scans, mb in self.memory_mb.items())
        return "\n".join([*lines, "", f"memory of the process after the steps: {memory}"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--most", type=int, default=10_000, help="the largest number of scans (default: 10000)")
    options.add_argument("--folder", type=Path, help="where the data go (default: a temporary folder)")
    arguments = options.parse_args()
    sys.addaudithook(_count)
    sizes = [n for n in (100, 1000, 10_000, 100_000) if n < arguments.most] + [arguments.most]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        home = Path(name)
        table = Table()
        (home / "root").mkdir()
        dataset = Dataset.create(home / "root" / "data", "many", [make_label(1, "LA")])
        dataset.publish_model("small", random_bundle().save(home / "model"))
        with served(home / "spool", [home / "root"]) as engine:
            for scans in sizes:
                _grow(dataset, scans, table)
                _dataset_steps(dataset.path, scans, table)
                _engine_steps(engine, scans, table)
                _cohort_steps(home, scans, table)
                table.memory_mb[scans] = psutil.Process().memory_info().rss / 1e6
                print(table.show(), flush=True)
                size = sum(path.stat().st_size for path in dataset.path.rglob("*") if path.is_file())
                files = sum(path.is_file() for path in dataset.path.rglob("*"))
                print(f"\n{files} files, {size / 1e6:.1f} MB\n", flush=True)


def _case(n: int) -> Volume:
    grid = Geometry.from_axes((0, 0, n), (2, 1, 1), np.eye(3)[:, ::-1], _SHAPE)
    return Volume(np.random.default_rng(n).integers(0, 500, _SHAPE, dtype=np.int16), grid)


def _grow(dataset: Dataset, scans: int, table: Table) -> None:
    """Add cases: two of three with a label, the others with the figures of a prediction."""
    there = len(dataset.cases)

    def add() -> None:
        for n in range(there, scans):
            image = _case(n)
            case = dataset.add_case(f"case-{n:06d}", image, {"format": "synthetic"})
            if n % 3:
                mask = image.with_array((image.array > 250).astype(np.uint8))
                case.add_label(mask, author="A", how="hand")
            else:
                case.keep_prediction({"model": _MODEL, **_summary(n).to_dict()})

    table.measure("add the cases to it, each with a label", scans, add)
    table.measure("put them into a split", scans, lambda: dataset.add_to_split("train", dataset.cases))


def _summary(n: int) -> CaseSummary:
    rng = np.random.default_rng(n)
    shares = rng.dirichlet([1.0, 1.0, 1.0])
    similarity = np.sort(rng.uniform(0.5, 1, len(LEVELS)))
    return CaseSummary(float(rng.uniform()), 500, tuple(similarity.tolist()), tuple(shares.tolist()))


def _dataset_steps(path: Path, scans: int, table: Table) -> None:
    dataset = table.measure("open the dataset", scans, lambda: Dataset.open(path))
    table.measure("list the ids", scans, lambda: dataset.cases)
    table.measure("which cases have a label", scans, lambda: sum(case.is_labelled for case in dataset.split("train")))
    new = _case(10**7)
    dataset.same_scan(new)
    table.measure("is a scan there already (after the first time)", scans, lambda: dataset.same_scan(new))
    candidates = {f"case-{n:06d}": _summary(n) for n in range(0, scans, 3)}
    table.measure("rank those without a label", scans, lambda: rank(candidates, [_summary(n) for n in range(8)]))


def _engine_steps(engine: Served, scans: int, table: Table) -> None:
    data = "/datasets/root~data"
    engine.post(f"{data}/plan", {"steps": 100}).json()  # the engine now knows its devices
    table.measure("engine: list the datasets", scans, lambda: engine.get("/datasets").json())
    table.measure("engine: the dataset", scans, lambda: engine.get(data).json())
    page = table.measure(
        "engine: first page of 100 cases", scans, lambda: engine.get(f"{data}/cases?first=0&count=100").json()
    )
    whole = table.measure("engine: all cases", scans, lambda: engine.get(f"{data}/cases").json())
    assert len(page) == 100 and len(whole) == scans
    table.measure("engine: plan a training", scans, lambda: engine.post(f"{data}/plan", {"steps": 100}).json())


def _cohort_steps(home: Path, scans: int, table: Table) -> None:
    source, out = home / "scans", home / f"masks-{scans}"
    source.mkdir(exist_ok=True)
    out.mkdir()
    paths = [source / f"scan-{n:06d}.nrrd" for n in range(scans)]
    for n, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(str(n).encode())
    tasks = table.measure("cohort: plan", scans, lambda: cohort_tasks(paths, out, None, None))
    wanted = [CohortScan(task.mask.relative_to(out).as_posix(), task.scan) for task in tasks]
    run = CohortRun(_MODEL, {})
    folder = CohortFolder.begin(out, run, wanted)
    log = CohortLog(out, _MODEL["sha256"])

    def record() -> None:
        for task, scan in zip(tasks, wanted, strict=True):
            task.mask.write_bytes(b"mask")
            result = {
                "mask": str(task.mask),
                "volumes_ml": {"LA": 50.0},
                "confidence": 0.9,
                "flags": [],
                "seconds": 1.0,
            }
            log.segmented(scan, [result], [task.mask])

    table.measure("cohort: record each mask", scans, record)
    table.measure("cohort: manifest", scans, lambda: (folder.update(), folder.finish(wanted)))
    table.measure(
        "cohort: table and page", scans, lambda: write_tables(out, folder.header, list(folder.entries.values()))
    )
    again = table.measure("cohort: read the manifest", scans, lambda: CohortFolder.begin(out, run, wanted))
    done = table.measure("cohort: what is done", scans, lambda: [again.state(scan) for scan in wanted])
    assert done == ["done"] * scans
    tasks = table.measure("cohort: plan again", scans, lambda: cohort_tasks(paths, out, None, None))
    print(f"manifest of {scans} scans: {(out / 'manifest.json').stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
