"""What a requested training would be: the defaults of all that the request leaves out, its duration, and warnings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.errors import InvalidRequest
from mper.engine.schemas.runs import MethodOption, Option, PlanAnswer, RunRequest, TrainingOptions
from mper.engine.services.dataset_models import trained_on
from mper.engine.services.engine import Engine
from mper.engine.services.notes import Notes
from mper.engine.services.training_warnings import TrainingCases, obstacles, plan_warnings, unsuitable
from mper.labels import same_structures
from mper.methods.recipe import RECIPES
from mper.methods.registry import AUTO, METHODS, MethodInfo, default_method, find_method
from mper.models.card import Card, read_bundle
from mper.nets.registry import backbone_titles
from mper.resources import bundled_models
from mper.training.duration import StepTimes
from mper.utils.coded import Coded, codes_of, line_codes
from mper.utils.files import check_name
from mper.volume import Index3

if TYPE_CHECKING:
    from mper.training.config import TrainConfig

_MINUTE = 60.0
_BUDGET_S = {  # (fine-tuning, on a graphics card)
    (True, True): 10 * _MINUTE,
    (True, False): 25 * _MINUTE,
    (False, True): 20 * _MINUTE,
    (False, False): 60 * _MINUTE,
}
_FEW_STEPS = 50  # below which a training changes a model hardly
_GPU_WAIT_S = 20.0  # until torch is imported, which knows whether there is a graphics card


@dataclass(frozen=True)
class RunPlan:
    """A training, with everything chosen.

    labelled, unlabelled, holdout : numbers of cases; partly : how many of the labelled ones are so only in part;
    also : more splits to learn from; reason : why this method, None where it was asked for by name;
    start_from : model id; words : how long it takes; warnings : sentences, the reasons why it cannot be started first;
    ready : whether it can be started; config : of its run, None where the choices do not go together.
    """

    split: str
    labelled: int
    unlabelled: int
    holdout: int
    partly: int
    method: str
    reason: str | None
    also: tuple[str, ...]
    recipe: str
    start_from: str | None
    budget_s: float | None
    steps: int | None
    name: str
    device: str
    words: str
    warnings: tuple[str, ...]
    ready: bool
    config: TrainConfig | None

    @property
    def line_codes(self) -> dict[str, dict[str, Any]]:
        """Code and values of its lines, by the line."""
        return line_codes(self.words, self.warnings, self.reason)

    @property
    def codes(self) -> list[dict[str, object]]:
        """The code and the values of `words`, and of each of the warnings."""
        return codes_of((self.words, *self.warnings))

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
    cases = _training_cases(dataset, body)
    default = find_method(default_method(cases.unlabelled > 0))
    method = default if body.method in (None, AUTO) else find_method(str(body.method))
    notes = Notes(engine.explain)
    asked = "start_from" in body.model_fields_set  # null asks for a training from scratch
    start_from = body.start_from if asked else _best_start(dataset, dataset_id, method, notes)
    start_path = None if start_from is None else engine.models.path(start_from)
    start = None if start_path is None else read_bundle(start_path).card
    gpu = _has_gpu(engine, body.device)
    budget = body.budget_s
    if budget is None and body.steps is None:
        budget = _BUDGET_S[start is not None, gpu]
    patch = _patch(body) or (start.window if start else None)
    times = StepTimes(dataset.path, gpu, body.co_train, cases.all, patch)
    reason = None
    if body.method == AUTO and cases.labelled:
        from mper.training.choice import choose_for  # which loads torch

        steps = body.steps or times.steps_in(float(budget or 0), method)
        name, reason = choose_for(cases.splits, dataset.labels, body.labeled, start, body.network, steps)
        method = find_method(name)
    known = [] if start_path is None else trained_on(dataset, dataset.held_out, notes, start_path)
    name = body.name or _model_name(dataset)
    config: TrainConfig | ValueError
    try:
        config = _config(dataset, body, cases.split, method, start_path, budget, name)
    except ValueError as error:
        config = error
    reasons = obstacles(dataset, body, cases, method, start, config)
    return RunPlan(
        split=cases.split,
        labelled=len(cases.labelled),
        unlabelled=cases.unlabelled,
        holdout=len(dataset.held_out),
        partly=sum(case.is_partial for case in cases.labelled),
        method=method.name,
        reason=reason,
        also=tuple(body.also),
        recipe=body.recipe,
        start_from=start_from,
        budget_s=budget,
        steps=body.steps,
        name=name,
        device=body.device,
        words=_how_long(times, body.steps, budget, method) if not reasons else reasons[0].to_do,
        warnings=(
            *(each.sentence for each in reasons),
            *plan_warnings(dataset, body, cases, method, start, known, gpu),
            *notes.lines,
        ),
        ready=not reasons,
        config=None if isinstance(config, ValueError) else config,
    )


def _config(
    dataset: Dataset,
    body: RunRequest,
    split: str,
    method: MethodInfo,
    start_path: Path | None,
    budget_s: float | None,
    name: str,
) -> TrainConfig:
    """The config of a run.

    Raises
    ------
    ValueError
        If the choices do not go together, or no model can have that name.
    """
    from mper.training.config import TrainConfig  # which loads torch

    check_name(name, "model")
    return TrainConfig(
        dataset=str(dataset.path.resolve()),
        method=method.name,
        recipe=body.recipe,
        split=split,
        also=tuple(body.also),
        cross_scanner=body.cross_scanner,
        labeled=body.labeled,
        start_from=None if start_path is None else str(start_path.resolve()),
        steps=body.steps,
        budget_s=budget_s,
        device=body.device,
        seed=body.seed,
        name=name,
        batch=body.batch,
        network=body.network,
        co_train=body.co_train,
        patch=_patch(body),
        window=None if body.window is None else (body.window[0], body.window[1]),
        keep_largest=body.keep_largest,
    )


def _patch(body: RunRequest) -> Index3 | None:
    return None if body.patch is None else (body.patch[0], body.patch[1], body.patch[2])


# ---------------------------------------------------------------------- defaults


def _training_cases(dataset: Dataset, body: RunRequest) -> TrainingCases:
    """The cases of the split that was asked for, of the only one that can be trained on, or of ``train``.

    And those of the other splits that were asked for; the limit of labelled cases holds for each split, as in a
    training, which leaves out the cases that show the scan of a held-out one.
    """
    copies = set(dataset.held_out_copies())
    others = [name for name in dataset.splits if name not in dataset.locked_splits]
    split = body.split or (others[0] if len(others) == 1 else "train")
    splits: list[tuple[Case, ...]] = []
    labelled: list[tuple[Case, ...]] = []
    available: list[int] = []
    for name in (split, *body.also):
        if name in dataset.locked_splits:
            line = f"split {name!r} is the locked hold-out and never trained on; choose another"
            raise InvalidRequest(line, "split-locked", split=name)
        if name != split and name not in others:
            raise InvalidRequest(f"there is no split {name!r}; choose of {', '.join(others)}")
        cases = dataset.split(name) if name in dataset.splits else ()
        drawn = [case for case in cases if case.is_drawn]
        available.append(len(drawn))
        labelled.append(tuple(case for case in drawn[: body.labeled] if case.id not in copies))
        splits.append(tuple(case for case in cases if case.id not in copies))
    return TrainingCases((split, *body.also), tuple(labelled), tuple(available), tuple(splits))


def _best_start(dataset: Dataset, dataset_id: str, method: MethodInfo, notes: Notes) -> str | None:
    """The newest own model of the same structures that is in use, else a bundled one, else none."""

    def fits(card: Card) -> bool:
        return same_structures(card.labels, dataset.labels) and not unsuitable(method, card)

    for name in dataset.models:
        with notes.skipping(f"the model {name}"):
            if fits(read_bundle(dataset.model(name)).card):
                return f"{dataset_id.replace('~', '/')}/{name}/{dataset.current_version(name)}"
    for path in bundled_models():
        card = read_bundle(path).card
        if not card.localizes and fits(card):
            return path.name
    return None


def _model_name(dataset: Dataset) -> str:
    if dataset.models:
        return dataset.models[0]
    words = "-".join(re.sub(r"[^\w]+", "-", label.name).strip("-_") for label in dataset.labels).lower()
    return words[:60].strip("-_") or "model"


def _has_gpu(engine: Engine, device: str) -> bool:
    if device == "auto":
        engine.devices.wait_until_known(_GPU_WAIT_S)
        device = engine.devices.default
    return device not in ("cpu", "mps")  # see `mper.utils.devices.pick_training_device`


# ---------------------------------------------------------------------- duration


def _rounded(steps: int) -> int:
    """A number of steps, to two digits: it is an estimate."""
    return int(float(f"{steps:.1e}"))


def _how_long(times: StepTimes, wanted: int | None, budget_s: float | None, method: MethodInfo) -> Coded:
    if budget_s is not None:
        steps = times.steps_in(budget_s, method)
        words = f"{duration_in_words(budget_s)} on this computer, about {_rounded(steps)} steps"
        if steps >= _FEW_STEPS:
            return Coded(words, "takes", seconds=budget_s, steps=_rounded(steps))
        words = f"{words}: too short to change the model; allow more time"
        return Coded(words, "takes-too-short", seconds=budget_s, steps=_rounded(steps))
    assert wanted is not None
    measured = times.measured_s(method)
    if measured is not None:
        seconds = wanted * measured
        words = f"{duration_in_words(seconds)} on this computer, measured on the last run"
        return Coded(words, "takes-measured", seconds=seconds)
    seconds = wanted * times.guessed_s(method)
    guess = duration_in_words(seconds).removeprefix("about ")
    words = f"perhaps {guess} on this computer; no run has been measured yet"
    return Coded(words, "takes-perhaps", seconds=seconds)


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
