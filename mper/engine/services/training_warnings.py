"""What stands against a requested training, or makes its result doubtful: one sentence each."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.schemas.runs import RunRequest
from mper.engine.services.holdout import DRAFTS, PARTS
from mper.labels import BACKGROUND, Label, same_structures
from mper.methods.registry import MethodInfo, check_backbone, default_method
from mper.models.card import Card
from mper.training.runs import RunFolder

_FEW_LABELLED = 2  # below which a model overfits to one case
_FEW_HELD_OUT = 3
_MOST_READ = 50  # labels that are read to see whether each structure occurs
_MOST_COMPARED = 12  # labels of several structures that are read to see whether each has all of them
_LEAST_FREE = 10**9  # bytes on the dataset's disk


@dataclass(frozen=True)
class TrainingCases:
    """The cases of the splits as a run would use them.

    split : the name of the first; labelled : the cases whose labels are used; available : labelled cases in the
    splits; unlabelled : number of all others; all : all cases.
    """

    split: str
    labelled: tuple[Case, ...]
    available: int
    unlabelled: int
    all: tuple[Case, ...]


class Obstacle(NamedTuple):
    """Why a training cannot be started: a sentence, and what to do in a few words."""

    sentence: str
    to_do: str


def obstacles(body: RunRequest, cases: TrainingCases, method: MethodInfo, start: Card | None) -> list[Obstacle]:
    """Why a training cannot be started; empty where it can."""
    found = []
    if body.labeled is not None and body.labeled > cases.available:
        sentence = f"{body.labeled} labelled cases were asked for, there are {cases.available}"
        found.append(Obstacle(f"{sentence}: label more, or ask for fewer", "label a case first"))
    elif not cases.labelled:
        found.append(Obstacle("no case has a label: label at least one, better two", "label a case first"))
    if start is not None and (reason := unsuitable(method, start)):
        found.append(Obstacle(f"{start.name} cannot be the start: {reason}", "choose another start"))
    return found


def unsuitable(method: MethodInfo, start: Card) -> str:
    """Why a method cannot train the network of a model; empty where it can."""
    try:
        check_backbone(method.name, str(start.network["kind"]))
    except ValueError as error:
        return str(error)
    return ""


def plan_warnings(
    dataset: Dataset, body: RunRequest, cases: TrainingCases, method: MethodInfo, start: Card | None, gpu: bool
) -> list[str]:
    """What makes the result of a training doubtful, or takes long, in the order of importance."""
    return [
        *_about_labels(dataset, cases),
        *_about_holdout(dataset),
        *_about_method(body, cases, method),
        *_about_start(dataset, cases, start),
        *_about_machine(dataset, gpu),
    ]


def _about_labels(dataset: Dataset, cases: TrainingCases) -> list[str]:
    found = []
    if 0 < len(cases.labelled) < _FEW_LABELLED:
        found.append("only one case is labelled: the model will overfit to it; label another")
    if cases.labelled and (absent := _absent_structures(dataset.labels, cases.labelled)):
        found.append(f"{', '.join(absent)}: drawn in no labelled case, so it cannot be learned; draw it first")
    elif len(dataset.labels) > 1 and len(cases.labelled) <= _MOST_COMPARED:
        found += [
            f"{name} is not drawn in {', '.join(ids)}: the model learns that it is absent there; draw it, too"
            for name, ids in _cases_without(dataset.labels, cases.labelled).items()
        ]
    return found


def _cases_without(labels: Sequence[Label], cases: Sequence[Case]) -> dict[str, list[str]]:
    """The completely labelled cases without a structure, by its name; only of structures that are missing in some."""
    found: dict[str, list[str]] = {}
    for case in cases:
        newest = case.revisions()[-1]
        values = None if newest.partial else _values(case.path, newest.number, newest.when, case.labels)
        for label in labels:
            if values is not None and label.value not in values:
                found.setdefault(label.name, []).append(case.id)
    return found


@lru_cache(maxsize=1000)
def _values(path: Path, revision: int, _when: str, labels: tuple[Label, ...]) -> frozenset[int]:
    """The values that a revision holds; one that was made at a time never changes."""
    mask = Case(path, labels).label(revision)
    return frozenset() if mask is None else frozenset(np.unique(mask.array).tolist())


def _absent_structures(labels: Sequence[Label], cases: Sequence[Case]) -> list[str]:
    """Structures, and background, that none of the labelled cases shows; reading ends as soon as each was seen."""
    missing = {BACKGROUND: "background", **{label.value: label.name for label in labels}}
    for case in cases[:_MOST_READ]:
        mask = case.label()
        for value in [] if mask is None else np.unique(mask.array).tolist():
            missing.pop(value, None)
        if not missing:
            break
    return list(missing.values()) if len(cases) <= _MOST_READ else []


def _about_holdout(dataset: Dataset) -> list[str]:
    if dataset.holdout is None:
        return ["no hold-out is locked, so the quality of the model cannot be measured: lock a few labelled cases"]
    held_out = [dataset.case(case_id) for case_id in dataset.held_out]
    found = []
    if drafts := [case.id for case in held_out if case.is_draft]:
        found.append(f"of the hold-out, {', '.join(drafts)}: {DRAFTS}")
    if parts := [case.id for case in held_out if case.is_drawn and case.is_partial]:
        found.append(f"of the hold-out, {', '.join(parts)}: {PARTS}")
    if (count := sum(case.is_drawn for case in held_out)) < _FEW_HELD_OUT:
        cases = f"{count} labelled case{'' if count == 1 else 's'}"
        found.append(f"the hold-out has {cases}, too few for a reliable measurement: label more of it")
    return found


def _about_method(body: RunRequest, cases: TrainingCases, method: MethodInfo) -> list[str]:
    found = []
    if method.uses_unlabelled and body.method is not None and not cases.unlabelled:
        found.append(
            f"method {method.name} also learns from scans without labels, and there are none: choose "
            f"{default_method(unlabelled=False)}"
        )
    if not method.uses_unlabelled and (painted := sum(case.is_painted for case in cases.labelled)):
        better = default_method(unlabelled=True)
        found.append(
            f"{painted} of the labelled cases {'is' if painted == 1 else 'are'} labelled by strokes alone, of which "
            f"method {method.name} learns only the painted voxels; in our measurements such cases made a model worse: "
            f"correct whole masks with strokes, or add scans without labels and choose {better}"
        )
    return found


def _about_start(dataset: Dataset, cases: TrainingCases, start: Card | None) -> list[str]:
    if start is None:
        return []
    from mper.training.start_model import unlike_start  # which loads torch

    found = []
    if not same_structures(dataset.labels, start.labels):
        ours, theirs = (", ".join(label.name for label in labels) for labels in (dataset.labels, start.labels))
        found.append(
            f"{start.name} segments {theirs}, not {ours}: the network starts from it, the structures from scratch"
        )
    if unlike := unlike_start(cases.labelled, start):
        found.append(unlike)
    return found


def _about_machine(dataset: Dataset, gpu: bool) -> list[str]:
    found = []
    if not gpu:
        found.append("no graphics card is in use: training on the processor is slow")
    running = [path.parent.name for path in (dataset.path / "runs").glob("*/config.json")]
    if running := [name for name in running if RunFolder(dataset.path / "runs" / name).is_alive()]:
        found.append(f"training run {running[0]} is still running: both will be slower")
    if shutil.disk_usage(dataset.path).free < _LEAST_FREE:
        found.append("less than 1 GB is free on the disk of the dataset: make room first")
    return found
