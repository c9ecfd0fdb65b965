"""The runs of a benchmark, and when two benchmarks are the same.

A run trains one `Variant` with a number of labelled scans (or patients) and one seed. On the command line a variant is
a method, and after a colon what is different about it: ``mper:no-cutmix``, ``mper:k=5``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.datasets.packed import PackedCase, PackedDataset, open_dataset
from mper.methods.recipe import Recipe
from mper.methods.registry import METHODS, find_method
from mper.models.card import Card, read_bundle
from mper.training.config import TrainConfig
from mper.training.start_model import check_start
from mper.training.trained_scans import known_cases, scan_checksum
from mper.utils.files import read_json, write_json
from mper.utils.text import duration_option, shorten

CONFIG = "benchmark.json"
_GROWING = ("labeled", "variants", "seeds")  # of which a benchmark may get more
_OPTIONS = {
    "task": "the task",
    "variants": "--methods",
    "budget_s": "--budget",
    "made_up": "--smoke",
    "start_from": "--from",
}
_DIGITS = 8  # of a checksum


@dataclass(frozen=True)
class Task:
    """The segmentation task of a benchmark.

    Parameters
    ----------
    title : str
    structures : int
        How many structures the dataset has.
    labeled : tuple of int
        Default numbers of labelled units.
    unit : str
        What is counted: scans or patients.
    split : str
        The cases to evaluate on.
    held_back : int or None
        Where the dataset lacks that split: so many cases from the end of split `train`, which are not trained on.
    slices : bool
        Whether slices are segmented one by one.
    """

    title: str
    structures: int
    labeled: tuple[int, ...]
    unit: str
    split: str
    held_back: int | None
    slices: bool = False


TASKS = {
    "la": Task("left atrium in LGE-MRI", 1, (4, 8, 16), "scans", "dev", 8),  # cases 73 to 80 of train.list
    "acdc": Task("heart in cine MRI (ACDC)", 3, (3, 7), "patients", "val", None, slices=True),
}
TRAIN = "train"


def suits(method: str, task: str) -> bool:
    """Whether a method can be compared on a task: not all of them segment slices."""
    return (2 if TASKS[task].slices else 3) in find_method(method).dimensions


@dataclass(frozen=True)
class Variant:
    """A method with its options.

    Parameters
    ----------
    word : str
        As on the command line.
    method, without, prototypes :
        As in `mper.training.config.TrainConfig`.
    """

    word: str
    method: str
    without: tuple[str, ...] = ()
    prototypes: int | None = None

    @classmethod
    def parse(cls, word: str) -> Variant:
        """``mper``, ``mper:no-cutmix``, ``mper:k=5``, ``mper:no-contrast:k=1``; the order of options does not matter.

        Raises
        ------
        ValueError
            If the method or an option is unknown.
        """
        method, *changes = word.split(":")
        info = find_method(method)
        without: set[str] = set()
        prototypes = None
        for change in changes:
            number = re.fullmatch(r"k=([1-9][0-9]*)", change)
            if number and prototypes is None and info.learns_prototypes:
                prototypes = int(number[1])
            elif change.startswith("no-"):
                without.add(change[3:].replace("-", "_"))
            else:
                learning = " and ".join(entry.name for entry in METHODS.values() if entry.learns_prototypes)
                raise ValueError(
                    f"unknown variant {word!r}: after the method write no-CHANGE (as in `mper train --without`), or, "
                    f"once, for {learning}, k=NUMBER of prototypes"
                )
        words = [method, *(f"no-{change.replace('_', '-')}" for change in sorted(without))]
        words += [f"k={prototypes}"] if prototypes else []
        return cls(":".join(words), method, tuple(sorted(without)), prototypes)

    @property
    def folder(self) -> str:
        """A folder name that every system allows."""
        return self.word.replace(":", "-").replace("=", "")


def ablation(recipe: str, slices: bool = False) -> tuple[str, ...]:
    """All variants of `mper`: its classifiers, numbers of prototypes, and the changes of recipe plus.

    ``bcp`` has the linear classifier only; among the changes are corrected bugs of the published code
    (`mper.methods.mper` lists them). Volumes are mixed by CutMix only without `anchored`, which slices do not have.
    """
    words = ["mper", "bcp", *(f"mper:no-{term}" for term in find_method("mper").loss_terms)]
    words += [f"mper:k={k}" for k in (1, 5, 10)]
    if recipe == "plus":
        changes = [change for change in Recipe.changes("mper") if not (slices and change == "anchored")]
        words += [f"mper:no-{change}" for change in changes]
        if not slices:
            words[words.index("mper:no-cutmix")] = "mper:no-anchored:no-cutmix"
    return tuple(word.replace("_", "-") for word in words)


def that_fine_tune(words: Sequence[str], start: Card) -> tuple[str, ...]:
    """Of some variants those that can start from a model: that train its network, with its number of prototypes."""
    return tuple(word for word in words if _can_start(Variant.parse(word), start))


def _can_start(variant: Variant, start: Card) -> bool:
    try:
        check_start(TrainConfig("", variant.method, prototypes=variant.prototypes), start)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Run:
    """One run; `labeled` is in the task's unit."""

    labeled: int
    variant: Variant
    seed: int

    def folder(self, home: Path) -> Path:
        """Its folder in that of the benchmark."""
        return home / "runs" / f"{self.labeled}-{self.variant.folder}-seed{self.seed}"

    @property
    def title(self) -> str:
        """A few words for messages."""
        return f"{self.variant.word}, {self.labeled} labelled, seed {self.seed}"


@dataclass(frozen=True)
class Benchmark:
    """The configuration of a benchmark; stored as benchmark.json.

    Parameters
    ----------
    task : str
        Of `TASKS`.
    labeled, variants, seeds :
        Which runs there are; variants as on the command line.
    recipe, backbone, co_train, start_from, steps, budget_s, processor_time, batch, patch :
        Of every run, as in `TrainConfig`.
    split : str or None
        Cases to evaluate on; None: those of the task.
    made_up : bool
        Whether the data are synthetic (``--smoke``).
    """

    task: str
    labeled: tuple[int, ...]
    variants: tuple[str, ...]
    seeds: int
    recipe: str = "plus"
    backbone: str | None = None
    co_train: bool = False
    start_from: str | None = None
    steps: int | None = None
    budget_s: float | None = None
    processor_time: bool = False
    batch: int | None = None
    patch: tuple[int, int, int] | None = None
    split: str | None = None
    made_up: bool = False

    def runs(self) -> list[Run]:
        """All runs; those of the first seed come first, so that there is a table early."""
        return [
            Run(labeled, Variant.parse(word), seed)
            for seed in range(self.seeds)
            for labeled in self.labeled
            for word in self.variants
        ]

    @property
    def start(self) -> str | None:
        """The start model's name, version and checksum, the same wherever it is stored; None for from scratch."""
        if self.start_from is None:
            return None
        stored = read_bundle(Path(self.start_from))
        return f"{stored.card.name} {stored.card.version} (sha256:{stored.sha256[:_DIGITS]})"

    def prepare_folder(self, home: Path, cohort: Cohort) -> None:
        """Store it in the folder, or check that the folder holds the beginning of the same benchmark.

        Raises
        ------
        ValueError
            If the folder holds another one, or a run is not possible.
        """
        for run in self.runs():
            config = train_config(self, cohort, run, "auto")
            if self.start_from is None:
                continue
            try:
                check_start(config, read_bundle(Path(self.start_from)).card)
            except ValueError as error:
                raise ValueError(f"{run.variant.word}: {error}") from error
        path = home / CONFIG
        mine = json.loads(json.dumps({**asdict(self), "start_from": self.start, "data": cohort.key}))
        if path.exists():
            there = read_json(path)
            for name, value in mine.items():
                _compare(home, name, there.get(name, getattr(Benchmark, name, None)), value)
        home.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)


def _compare(home: Path, name: str, there: Any, wanted: Any) -> None:
    if name == "seeds" and isinstance(there, int):
        same = wanted >= there
    elif name in _GROWING:
        same = set(wanted) >= set(there or ())
    else:
        same = wanted == there
    if not same:
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        raise ValueError(
            f"{home} holds a benchmark {_as_typed(option, there)}, and one {_as_typed(option, wanted)} was asked for; "
            "go on with the same (only more --labeled, --methods and --seeds may be asked for), or choose another --out"
        )


def _as_typed(option: str, value: Any) -> str:
    """``with --steps 3``, ``without --steps``: an option as a person writes it."""
    if value is None or value is False:
        return f"without {option}"
    if value is True:
        return f"with {option}"
    if option == "--budget":
        value = duration_option(value)
    return f"with {option} {','.join(map(str, value)) if isinstance(value, list) else value}"


@dataclass(frozen=True)
class Cohort:
    """Which cases of a dataset are trained on and evaluated on.

    Parameters
    ----------
    data : Path
        The dataset.
    cases : int or None
        Only the first so many cases of split `train` are trained on; None for all.
    evaluated : tuple of str
        Ids of the cases to evaluate on.
    labeled : dict of int to int
        Number of labelled cases for each number of labelled units.
    description : str
        For the table.
    key : str
        The same for the same cases, wherever they are stored.
    """

    data: Path
    cases: int | None
    evaluated: tuple[str, ...]
    labeled: dict[int, int]
    description: str
    key: str


def select_cases(benchmark: Benchmark, data: Path) -> Cohort:
    """Choose the cases.

    Raises
    ------
    ValueError
        If the dataset lacks a split, or labels, or would be evaluated on scans that it was trained on, also the model
        to start from.
    """
    task = TASKS[benchmark.task]
    dataset = open_dataset(data)
    if len(dataset.labels) != task.structures:
        raise ValueError(
            f"{benchmark.task} is about the {task.title}, {task.structures} structure{'s' * (task.structures > 1)}; "
            f"{data} has {', '.join(label.name for label in dataset.labels)}: choose another task, or other data"
        )
    if TRAIN not in dataset.splits:
        raise ValueError(f"{data} has no split {TRAIN!r} to train on; it has {', '.join(dataset.splits) or 'none'}")
    train = dataset.splits[TRAIN]
    cases = None
    split = benchmark.split or task.split
    if split in dataset.splits:
        evaluated = dataset.splits[split]
        description = f"split {split!r}"
    elif benchmark.split is None and task.held_back is not None and len(train) > task.held_back:
        cases = len(train) - task.held_back
        evaluated = train[cases:]
        description = f"cases {cases + 1} to {len(train)} of split {TRAIN!r}"
    elif benchmark.split is None and task.held_back is not None:
        raise ValueError(
            f"{data} has no split {split!r}, and {len(train)} cases in split {TRAIN!r}, of which the last "
            f"{task.held_back} are evaluated on then: import more, or name a split with --split"
        )
    else:
        raise ValueError(
            f"{data} has no split {split!r} to evaluate on; it has {', '.join(dataset.splits)}: choose with --split"
        )
    train = train[:cases]
    if both := sorted(set(train) & set(evaluated)):
        raise ValueError(f"{both[0]} would be trained on and evaluated on: split {split!r} overlaps with {TRAIN!r}")
    if copies := _copies(dataset, train, evaluated):
        raise ValueError(
            f"{shorten(copies)} of split {TRAIN!r} would be trained on, and shows the scan of a case to evaluate on: "
            "exclude it first (`mper exclude`)"
        )
    counts = {n: _labelled_cases(train, n, task.unit) for n in benchmark.labeled}
    with_label = [case_id for case_id in train[: max(counts.values())] if dataset.case(case_id).is_drawn]
    if len(with_label) < max(counts.values()):
        raise ValueError(
            f"{max(counts)} labelled {task.unit} were asked for, and {data} has {len(with_label)} labels among the "
            f"first {max(counts.values())} cases of split {TRAIN!r}; ask for fewer with --labeled"
        )
    if unlabelled := [case_id for case_id in evaluated if not dataset.case(case_id).is_drawn]:
        raise ValueError(
            f"{len(unlabelled)} of the {len(evaluated)} cases to evaluate on have no label ({unlabelled[0]} is the "
            "first); label them, or choose another split with --split"
        )
    if benchmark.start_from is not None:
        _check_unknown(Path(benchmark.start_from), [dataset.case(case_id) for case_id in evaluated])
    description = f"{len(evaluated)} cases ({description}); {len(train)} cases to train on"
    digest = hashlib.sha256(json.dumps([train, evaluated]).encode("utf-8")).hexdigest()[:8]
    key = f"{dataset.name} ({len(train)} and {len(evaluated)} cases, {digest})"
    return Cohort(data, cases, tuple(evaluated), counts, description, key)


def _copies(dataset: Dataset | PackedDataset, train: Sequence[str], evaluated: Sequence[str]) -> list[str]:
    """The cases to train on that show the scan of one to evaluate on; a training leaves those of a hold-out out."""
    scans = {scan_checksum(dataset.case(case_id)) for case_id in evaluated}
    left_out = set(dataset.held_out_copies())
    return [case_id for case_id in train if case_id not in left_out and scan_checksum(dataset.case(case_id)) in scans]


def _check_unknown(start: Path, evaluated: Sequence[Case | PackedCase]) -> None:
    """Refuse a model to start from that was trained on scans to evaluate on, as far as that is known."""
    if known := known_cases(start, evaluated):
        raise ValueError(
            f"the model {start} was trained on {shorten(known)}, of the {len(evaluated)} cases to evaluate on: choose "
            "another with --from, or other cases with --split"
        )


def _labelled_cases(train: Sequence[str], wanted: int, unit: str) -> int:
    """How many cases from the beginning of `train` are those of the first `wanted` scans or patients.

    A patient's cases are named ``patient001_frame01`` and stand together.
    """
    if unit == "scans":
        there = len(train)
        if wanted <= there:
            return wanted
    else:
        patients = [case_id.partition("_")[0] for case_id in train]
        first = list(dict.fromkeys(patients))
        there = len(first)
        if wanted <= there:
            count = sum(patient in first[:wanted] for patient in patients)
            if set(patients[:count]) != set(first[:wanted]):
                raise ValueError(f"the cases of one patient do not stand together in split {TRAIN!r}; sort them")
            return count
    raise ValueError(
        f"{wanted} labelled {unit} were asked for, split {TRAIN!r} has {there}; ask for fewer with --labeled"
    )


def train_config(benchmark: Benchmark, cohort: Cohort, run: Run, device: str) -> TrainConfig:
    """The training configuration of a run.

    Raises
    ------
    ValueError
        If its method cannot train on the task, or not with these options.
    """
    if not suits(run.variant.method, benchmark.task):
        raise ValueError(f"method {run.variant.method} does not segment the scans of {benchmark.task}; leave it out")
    return TrainConfig(
        dataset=str(cohort.data.resolve()),
        method=run.variant.method,
        recipe=benchmark.recipe,
        start_from=benchmark.start_from,
        without=run.variant.without,
        split=TRAIN,
        cases=cohort.cases,
        labeled=cohort.labeled[run.labeled],
        steps=benchmark.steps,
        budget_s=benchmark.budget_s,
        processor_time=benchmark.processor_time,
        device=device,
        seed=run.seed,
        batch=benchmark.batch,
        network=benchmark.backbone,
        patch=benchmark.patch,
        prototypes=run.variant.prototypes,
        co_train=benchmark.co_train,
    )
