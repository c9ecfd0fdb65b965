"""What stands against a requested training, or makes its result doubtful: one sentence each."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mper.dataloading.case_region import in_region, label_outside, share_outside
from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.datasets.revisions import DRAFTS, about_learned_drafts
from mper.engine.schemas.runs import RunRequest
from mper.engine.services.holdout import PARTS
from mper.labels import BACKGROUND, Label, same_structures
from mper.methods.registry import AUTO, MethodInfo, check_backbone, default_method
from mper.models.card import Card
from mper.roi import Box, bounding_box, region_of_box
from mper.training.runs import RunFolder
from mper.training.trained_scans import about_known
from mper.utils.coded import Coded, line_of
from mper.utils.text import shorten

if TYPE_CHECKING:
    from mper.training.config import TrainConfig

_FEW_LABELLED = 2  # below which a model overfits to one case
_FEW_HELD_OUT = 3
_MOST_READ = 50  # labels that are read to see whether each structure occurs
_MOST_COMPARED = 12  # labels of several structures that are read to see whether each has all of them
_MOST_TAKEN_APART = 3  # labels of which the parts of each structure are looked at
_SMALL_PARTS = 0.1  # share of a structure's voxels beyond its largest part
_LABEL_FIRST = Coded("label a case first", "label-first")
_OTHER_OPTIONS = Coded("choose other options", "choose-options")
_LEAST_FREE = 10**9  # bytes on the dataset's disk


@dataclass(frozen=True)
class TrainingCases:
    """The cases of the splits as a run would use them.

    names : of the splits; labelled_of : the cases of each whose labels are used; available : number of labelled cases
    in each; splits : all cases of each.
    """

    names: tuple[str, ...]
    labelled_of: tuple[tuple[Case, ...], ...]
    available: tuple[int, ...]
    splits: tuple[tuple[Case, ...], ...]

    @property
    def split(self) -> str:
        """The name of the first split."""
        return self.names[0]

    @property
    def labelled(self) -> tuple[Case, ...]:
        """The cases whose labels are used."""
        return tuple(case for split in self.labelled_of for case in split)

    @property
    def unlabelled(self) -> int:
        """The number of all others."""
        return len(self.all) - len(self.labelled)

    @property
    def all(self) -> tuple[Case, ...]:
        return tuple(case for split in self.splits for case in split)


class Obstacle(NamedTuple):
    """Why a training cannot be started: a sentence, and what to do in a few words."""

    sentence: str
    to_do: str


def obstacles(
    dataset: Dataset,
    body: RunRequest,
    cases: TrainingCases,
    method: MethodInfo,
    start: Card | None,
    config: TrainConfig | ValueError,
) -> list[Obstacle]:
    """Why a training cannot be started; empty where it can. `config` may be the error of making it."""
    found = [Obstacle(line, _LABEL_FIRST) for line in _missing_labels(body, cases)]
    if isinstance(config, ValueError):
        found.append(Obstacle(line_of(config), _OTHER_OPTIONS))
    elif start is not None and (reason := unsuitable(method, start)):
        sentence = Coded(
            f"model {start.name} cannot be the start: {reason}", "unfit-start", model=start.name, reason=reason
        )
        found.append(Obstacle(sentence, Coded("choose another start", "choose-start")))
    else:
        from mper.training.data import check_dimensions  # which load torch
        from mper.training.start_model import check_start

        try:
            if start is not None:
                check_start(config, start)
            elif config.network is None and cases.all:
                check_dimensions(method, [in_region(case, dataset.regions) for case in cases.all])
        except ValueError as error:
            found.append(Obstacle(line_of(error), _OTHER_OPTIONS))
    return found


def _missing_labels(body: RunRequest, cases: TrainingCases) -> list[str]:
    """Which labels are missing, if any: in one line, of the first split that lacks them."""
    asked, several = body.labeled, len(cases.names) > 1
    for name, there in zip(cases.names, cases.available, strict=True):
        if asked is not None and asked > there and several:
            line = f"{asked} labelled cases of each split were asked for, and {name!r} has {there}: label more, or ask "
            return [Coded(f"{line}for fewer", "too-few-labels-of", split=name, asked=asked, there=there)]
        if asked is not None and asked > there:
            line = f"{asked} labelled cases were asked for, there are {there}: label more, or ask for fewer"
            return [Coded(line, "too-few-labels", asked=asked, there=there)]
    if not cases.labelled:
        return [Coded("no case has a label: label at least one, better two", "no-label")]
    for name, labelled in zip(cases.names, cases.labelled_of, strict=True):
        if not labelled:
            line = f"no case of split {name!r} has a label: label one, or learn from the other splits alone"
            return [Coded(line, "split-unlabelled", split=name)]
    return []


def unsuitable(method: MethodInfo, start: Card) -> str:
    """Why a method cannot train the network of a model; empty where it can."""
    try:
        check_backbone(method.name, str(start.network["kind"]))
    except ValueError as error:
        return line_of(error)
    return ""


def plan_warnings(
    dataset: Dataset,
    body: RunRequest,
    cases: TrainingCases,
    method: MethodInfo,
    start: Card | None,
    known: Sequence[str],
    gpu: bool,
) -> list[str]:
    """What makes the result of a training doubtful, or takes long, in the order of importance.

    `known` are the held-out cases that the start model was trained on.
    """
    return [
        *_about_labels(dataset, cases),
        *(_about_parts(cases) if body.keep_largest else []),
        *_about_regions(dataset, cases),
        *_about_holdout(dataset, known),
        *_about_method(body, cases, method),
        *_about_start(dataset, cases, start),
        *_about_machine(dataset, gpu),
    ]


def _about_labels(dataset: Dataset, cases: TrainingCases) -> list[str]:
    found: list[str] = []
    if 0 < len(cases.labelled) < _FEW_LABELLED:
        found.append(Coded("only one case is labelled: the model will overfit to it; label another", "one-label"))
    if drafts := [case.id for case in cases.labelled if case.is_draft]:
        found.append(about_learned_drafts(drafts))
    if cases.labelled and (absent := _absent_structures(dataset.labels, cases.labelled)):
        names = ", ".join(absent)
        line = f"{names}: drawn in no labelled case, so it cannot be learned; draw it first"
        found.append(Coded(line, "never-drawn", structures=names))
    elif len(dataset.labels) > 1 and len(cases.labelled) <= _MOST_COMPARED:
        found += [
            Coded(
                f"{name} is not drawn in {', '.join(ids)}: the model learns that it is absent there; draw it, too",
                "not-drawn",
                structure=name,
                cases=", ".join(ids),
            )
            for name, ids in _cases_without(dataset.labels, cases.labelled).items()
        ]
    return found


def _about_parts(cases: TrainingCases) -> list[str]:
    """What is lost where each structure is taken to be in one piece."""
    names: dict[str, None] = {}
    for case in cases.labelled[:_MOST_TAKEN_APART]:
        newest = case.revisions()[-1]
        if not newest.partial:
            names |= dict.fromkeys(_in_parts(case.path, newest.number, newest.when, case.labels))
    if not names:
        return []
    line = f"{', '.join(names)}: labelled in several parts, and masks keep only the largest; choose to keep all parts"
    return [Coded(line, "several-parts", structures=", ".join(names))]


@lru_cache(maxsize=100)
def _in_parts(path: Path, revision: int, _when: str, labels: tuple[Label, ...]) -> tuple[str, ...]:
    """The structures of a revision of which more than small parts lie apart from the largest."""
    from mper.measurement.clipping import largest_component  # which loads scipy

    label_map = Case(path, labels).label(revision)
    if label_map is None:
        return ()
    found = []
    for label in labels:
        structure = label_map.array == label.value
        window = bounding_box(structure)
        if window is not None:
            largest, _ = largest_component(structure[window])
            if np.count_nonzero(largest) < (1 - _SMALL_PARTS) * np.count_nonzero(structure[window]):
                found.append(label.name)
    return tuple(found)


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


def _about_regions(dataset: Dataset, cases: TrainingCases) -> list[str]:
    regions = dataset.regions
    inside = [case for case in cases.all if case.id in regions]
    if not inside:
        return []
    names = shorten([case.id for case in inside])
    found: list[str] = [Coded(f"{names}: only the region is used", "regions", cases=names)]
    used = {case.id for case in cases.labelled}
    for case in [case for case in inside if case.id in used][:_MOST_READ]:
        newest = case.revisions()[-1]
        share = _share_outside(case.path, newest.number, newest.when, case.labels, regions[case.id])
        if share:
            found.append(label_outside(case.id, share))
    return found


@lru_cache(maxsize=1000)
def _share_outside(path: Path, revision: int, _when: str, labels: tuple[Label, ...], box: Box) -> float:
    """The share of the structures of a revision that lies outside a region."""
    case = Case(path, labels)
    mask = case.label(revision)
    return 0.0 if mask is None else share_outside(np.asarray(mask.array), region_of_box(case.geometry, box))


def _about_holdout(dataset: Dataset, known: Sequence[str]) -> list[str]:
    if dataset.holdout is None:
        line = "no hold-out is locked, so the quality of the model cannot be measured: lock a few labelled cases"
        return [Coded(line, "no-holdout")]
    held_out = [dataset.case(case_id) for case_id in dataset.held_out]
    found: list[str] = [about_known(known)] if known else []
    if drafts := [case.id for case in held_out if case.is_draft]:
        names = ", ".join(drafts)
        found.append(Coded(f"of the hold-out, {names}: {DRAFTS}", "holdout-drafts", cases=names))
    if parts := [case.id for case in held_out if case.is_drawn and case.is_partial]:
        names = ", ".join(parts)
        found.append(Coded(f"of the hold-out, {names}: {PARTS}", "holdout-parts", cases=names))
    if (count := sum(case.is_drawn for case in held_out)) < _FEW_HELD_OUT:
        cases = f"{count} labelled case{'' if count == 1 else 's'}"
        line = f"the hold-out has {cases}, too few for a reliable measurement: label more of it"
        found.append(Coded(line, "small-holdout", n=count))
    return found


def _about_method(body: RunRequest, cases: TrainingCases, method: MethodInfo) -> list[str]:
    found: list[str] = []
    if method.uses_unlabelled and body.method not in (None, AUTO) and not cases.unlabelled:
        found.append(
            Coded(
                f"method {method.name} also learns from scans without labels, and there are none: choose "
                f"{default_method(unlabelled=False)}",
                "none-unlabelled",
            )
        )
    if not method.uses_unlabelled and (painted := sum(case.is_painted for case in cases.labelled)):
        better = default_method(unlabelled=True)
        found.append(
            Coded(
                f"{painted} of the labelled cases {'is' if painted == 1 else 'are'} labelled by strokes alone, of "
                f"which method {method.name} learns only the painted voxels; in our measurements such cases made a "
                f"model worse: correct whole masks with strokes, or add scans without labels and choose {better}",
                "painted",
                n=painted,
            )
        )
    return found


def _about_start(dataset: Dataset, cases: TrainingCases, start: Card | None) -> list[str]:
    if start is None:
        return []
    from mper.training.start_model import unlike_start  # which loads torch

    found: list[str] = []
    if not same_structures(dataset.labels, start.labels):
        ours, theirs = (", ".join(label.name for label in labels) for labels in (dataset.labels, start.labels))
        found.append(
            Coded(
                f"model {start.name} segments {theirs}, not {ours}: the network starts from it, the structures from "
                "scratch",
                "other-structures",
                model=start.name,
                theirs=theirs,
                ours=ours,
            )
        )
    if unlike := unlike_start(cases.labelled, start):
        found.append(unlike)
    return found


def _about_machine(dataset: Dataset, gpu: bool) -> list[str]:
    found: list[str] = []
    if not gpu:
        found.append(Coded("no graphics card is in use: training on the processor is slow", "no-card"))
    folders = (RunFolder(path.parent) for path in (dataset.path / "runs").glob("*/config.json"))
    if running := next((folder for folder in folders if folder.is_alive()), None):
        line = f"the training {running.title()} is still running: both will be slower"
        found.append(Coded(line, "other-run", run=running.title()))
    if shutil.disk_usage(dataset.path).free < _LEAST_FREE:
        found.append(Coded("less than 1 GB is free on the disk of the dataset: make room first", "no-room"))
    return found
