"""What a training that is asked for would be: what is taken where nothing was said, how long it takes, and warnings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.errors import InvalidRequest
from mper.engine.schemas.runs import MethodOption, Option, PlanAnswer, RunRequest, TrainingOptions
from mper.engine.services.engine import Engine
from mper.engine.services.holdout import DRAFTS, PARTS
from mper.engine.services.notes import Notes
from mper.labels import BACKGROUND, Label, structure_of
from mper.methods.recipe import RECIPES
from mper.methods.registry import METHODS, check_backbone, default_method, find_method
from mper.models.card import Card, read_bundle
from mper.nets.registry import backbone_titles
from mper.resources import bundled_models
from mper.training.runs import RunFolder

if TYPE_CHECKING:
    from mper.training.config import TrainConfig

_MINUTE = 60.0
_BUDGET_S = {  # (fine-tuning, on a graphics card)
    (True, True): 10 * _MINUTE,
    (True, False): 25 * _MINUTE,
    (False, True): 20 * _MINUTE,
    (False, False): 60 * _MINUTE,
}
_FEW = 2  # labelled cases, below which a model learns one case by heart
_FEW_HELD = 3
_LOOKED_AT = 50  # labels that are read at most, to see whether each structure occurs
_PATIENCE_S = 20.0  # for torch to be imported, which knows whether there is a graphics card
_LEAST_FREE = 10**9  # bytes on the dataset's disk


@dataclass(frozen=True)
class RunPlan:
    """A training, with everything chosen.

    labelled, unlabelled, holdout : numbers of cases; partly : how many of the labelled ones are so only in part;
    start_from : model id; start_path : its folder; words : how long it takes; warnings : sentences; ready : whether it
    can be started.
    """

    split: str
    labelled: int
    unlabelled: int
    holdout: int
    partly: int
    method: str
    recipe: str
    start_from: str | None
    start_path: Path | None
    budget_s: float | None
    steps: int | None
    name: str
    device: str
    words: str
    warnings: tuple[str, ...]
    ready: bool

    @property
    def options(self) -> TrainingOptions:
        """What can be asked for instead."""
        return training_options()

    def answer(self) -> PlanAnswer:
        """The plan without the path of this machine."""
        return PlanAnswer.model_validate(self)


def training_options() -> TrainingOptions:
    """What a training can be asked for, with titles and descriptions for a form."""
    return TrainingOptions(
        methods=[MethodOption.model_validate(method) for method in METHODS.values()],
        recipes=[Option(name=name, title=title) for name, title in RECIPES.items()],
        backbones=[Option(name=name, title=title) for name, title in backbone_titles().items()],
    )


def plan_run(engine: Engine, dataset: Dataset, dataset_id: str, body: RunRequest) -> RunPlan:
    """Choose what `body` leaves open.

    Raises
    ------
    InvalidRequest, NotFound
        If the split cannot be trained on; if there is no such model.
    """
    if body.steps is not None and body.budget_s is not None:
        raise InvalidRequest("a training takes a number of steps or a time budget, not both")
    split = body.split or _training_split(dataset)
    if split == dataset.holdout:
        raise InvalidRequest(f"split {split!r} is the locked hold-out and never trained on; choose another")
    cases = dataset.split(split) if split in dataset.splits else ()
    with_label = sum(case.is_drawn for case in cases)
    labelled = with_label if body.labeled is None else min(body.labeled, with_label)
    unlabelled = len(cases) - labelled
    method = find_method(body.method or default_method(unlabelled > 0))
    notes = Notes(engine.explain)
    start_from = (
        body.start_from
        if "start_from" in body.model_fields_set
        else _best_start(dataset, dataset_id, method.name, notes)
    )
    start_path = None if start_from is None else engine.models.path(start_from)
    warnings = _warnings(engine, dataset, body, labelled, with_label, unlabelled if method.uses_unlabelled else 0)
    warnings += notes.lines
    drawn = [case for case in cases if case.is_drawn][: body.labeled]
    if drawn and (absent := _drawn_nowhere(dataset.labels, drawn)):
        warnings.append(
            f"{', '.join(absent)}: drawn in no labelled case, so nothing can be learnt of it; draw it first"
        )
    if not method.uses_unlabelled and (few := sum(case.is_painted for case in drawn)):
        warnings.append(
            f"{few} of the labelled cases {'is' if few == 1 else 'are'} labelled by strokes alone, of which "
            f"{method.name} learns no more than the painted voxels; in our measurements such cases made a model worse: "
            f"correct whole masks with strokes, or add scans without labels and take {default_method(unlabelled=True)}"
        )
    unfit = ""
    if start_path is not None:
        start = read_bundle(start_path).card
        unfit = _unfit(method.name, start)
        warnings += _start_warnings(dataset.labels, start.labels, start_from or "")
        if unfit:
            warnings.append(f"{start_from} cannot be the start: {unfit}")
    gpu = _has_gpu(engine, body.device)
    budget = body.budget_s
    if budget is None and body.steps is None:
        budget = _BUDGET_S[start_path is not None, gpu]
    ready = labelled > 0 and (body.labeled is None or body.labeled <= with_label) and not unfit
    return RunPlan(
        split=split,
        labelled=labelled,
        unlabelled=unlabelled,
        holdout=len(dataset.splits[dataset.holdout]) if dataset.holdout else 0,
        partly=sum(case.is_partial for case in drawn),
        method=method.name,
        recipe=body.recipe,
        start_from=start_from,
        start_path=start_path,
        budget_s=budget,
        steps=body.steps,
        name=body.name or _model_name(dataset),
        device=body.device,
        words=_how_long(dataset, budget, body.steps, method.name, gpu)
        if ready
        else ("choose another start" if unfit else "label a case first"),
        warnings=tuple(warnings),
        ready=ready,
    )


def start_config(dataset: Dataset, body: RunRequest, plan: RunPlan) -> TrainConfig:
    """The config of a plan's run."""
    from mper.training.config import TrainConfig

    return TrainConfig(
        dataset=str(dataset.path.resolve()),
        method=plan.method,
        recipe=plan.recipe,
        split=plan.split,
        labeled=body.labeled,
        start_from=None if plan.start_path is None else str(plan.start_path.resolve()),
        steps=plan.steps,
        budget_s=plan.budget_s,
        device=body.device,
        seed=body.seed,
        name=plan.name,
        batch=body.batch,
        network=body.network,
        co_train=body.co_train,
        patch=None if body.patch is None else (body.patch[0], body.patch[1], body.patch[2]),
        window=None if body.window is None else (body.window[0], body.window[1]),
        keep_largest=body.keep_largest,
    )


def duration_in_words(seconds: float) -> str:
    """``less than a minute``, ``about 25 minutes``, ``about 2 hours``."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        rounded = round(minutes) if minutes < 10 else 5 * round(minutes / 5)
        return f"about {rounded} minute{'' if rounded == 1 else 's'}"
    hours = round(minutes / 30) / 2
    return f"about {hours:g} hours"


def _training_split(dataset: Dataset) -> str:
    others = [name for name in dataset.splits if name != dataset.holdout]
    return others[0] if len(others) == 1 else "train"


def _structures(labels: Sequence[Label]) -> list[object]:
    return [structure_of(label) for label in labels]


def _best_start(dataset: Dataset, dataset_id: str, method: str, notes: Notes) -> str | None:
    """The newest own model of the same structures that is in use, else a bundled one, else none."""
    wanted = _structures(dataset.labels)

    def fits(path: Path) -> bool:
        card = read_bundle(path).card
        return _structures(card.labels) == wanted and not _unfit(method, card)

    for name in dataset.models:
        with notes.skipping(f"the model {name}"):
            if fits(dataset.model(name)):
                return f"{dataset_id.replace('~', '/')}/{name}/{dataset.current_version(name)}"
    for path in bundled_models():
        if "locator" not in path.name and fits(path):
            return path.name
    return None


def _unfit(method: str, start: Card) -> str:
    """Why a method cannot go on with that model's network; empty where it can."""
    try:
        check_backbone(method, str(start.network["kind"]))
    except ValueError as error:
        return str(error)
    return ""


def _model_name(dataset: Dataset) -> str:
    if dataset.models:
        return dataset.models[0]
    words = "-".join(re.sub(r"[^\w]+", "-", label.name).strip("-_") for label in dataset.labels).lower()
    return words[:60].strip("-_") or "model"


def _has_gpu(engine: Engine, device: str) -> bool:
    if device == "auto":
        engine.devices.wait_until_known(_PATIENCE_S)
    return (engine.devices.default if device == "auto" else device) != "cpu"


def _how_long(dataset: Dataset, budget_s: float | None, steps: int | None, method: str, gpu: bool) -> str:
    if budget_s is not None:
        return f"{duration_in_words(budget_s)} on this computer"
    assert steps is not None
    pace = _pace(dataset, method)
    if pace is not None:
        return f"{duration_in_words(steps * pace)} on this computer, as fast as the run before"
    guess = duration_in_words(steps * (0.1 if gpu else 3.0)).removeprefix("about ")
    return f"perhaps {guess} on this computer; no run before tells how fast it is"


def _pace(dataset: Dataset, method: str) -> float | None:
    """Seconds a step of the newest run with that method."""
    for folder in sorted((dataset.path / "runs").glob("*/config.json"), reverse=True):
        run = RunFolder(folder.parent)
        status = run.status()
        if status.get("method") == method and status.get("step", 0) >= 5 and status.get("elapsed_s"):
            return float(status["elapsed_s"]) / int(status["step"])
    return None


def _warnings(
    engine: Engine, dataset: Dataset, body: RunRequest, labelled: int, with_label: int, helpers: int
) -> list[str]:
    found = []
    if body.labeled is not None and body.labeled > with_label:
        found.append(
            f"{body.labeled} labelled cases were asked for, there are {with_label}: label more, or ask for fewer"
        )
    elif labelled == 0:
        found.append("no case has a label: label at least one, better two")
    elif labelled < _FEW:
        found.append("one labelled case is little: the model will know that one by heart; label another")
    if dataset.holdout is None:
        found.append(
            "no hold-out is locked: nobody will be able to tell how good the model is; lock a few labelled cases"
        )
    else:
        held = dataset.split(dataset.holdout)
        measured = sum(case.is_drawn for case in held)
        if drafts := [case.id for case in held if case.is_draft]:
            found.append(f"of the hold-out, {', '.join(drafts)}: {DRAFTS}")
        if parts := [case.id for case in held if case.is_drawn and case.is_partial]:
            found.append(f"of the hold-out, {', '.join(parts)}: {PARTS}")
        if measured < _FEW_HELD:
            found.append(
                f"the hold-out has {measured} labelled {'case' if measured == 1 else 'cases'}: too few to trust"
            )
    if helpers == 0 and body.method is not None and find_method(body.method).uses_unlabelled:
        found.append(
            f"the method {body.method} learns from scans without labels too, and there is none: take "
            f"{default_method(unlabelled=False)}"
        )
    if not _has_gpu(engine, body.device):
        found.append("there is no graphics card in use: training on the processor takes its time")
    if running := [run.parent.name for run in (dataset.path / "runs").glob("*/config.json") if _alive(run.parent)]:
        found.append(f"the training {running[0]} runs already: both will be slower")
    if shutil.disk_usage(dataset.path).free < _LEAST_FREE:
        found.append("less than 1 GB is free on the disk of the dataset: make room first")
    return found


def _drawn_nowhere(labels: Sequence[Label], cases: Sequence[Case]) -> list[str]:
    """Structures, and background, that none of the labelled cases shows; reading ends as soon as each was seen."""
    missing = {BACKGROUND: "background", **{label.value: label.name for label in labels}}
    for case in cases[:_LOOKED_AT]:
        mask = case.label()
        for value in [] if mask is None else np.unique(mask.array).tolist():
            missing.pop(value, None)
        if not missing:
            break
    return list(missing.values()) if len(cases) <= _LOOKED_AT else []


def _alive(run: Path) -> bool:
    return RunFolder(run).is_alive()


def _start_warnings(wanted: Sequence[Label], known: Sequence[Label], model: str) -> list[str]:
    if _structures(wanted) == _structures(known):
        return []
    ours, theirs = (", ".join(label.name for label in labels) for labels in (wanted, known))
    return [f"{model} segments {theirs}, not {ours}: what it knows of scans is taken over, its structures begin anew"]
