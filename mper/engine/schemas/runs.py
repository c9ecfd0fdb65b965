"""Training runs: what one would be, how it stands, and its events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from mper.engine.schemas.common import AnswerModel, AnswerWithLines, Coded, Device, JsonObject, RequestModel
from mper.methods.registry import AUTO, METHODS, find_method
from mper.nets.registry import backbone_names, find_backbones

RunState = Literal["starting", "running", "paused", "finished", "cancelled", "failed", "interrupted", "new"]


def _known_method(name: str) -> str:
    return name if name == AUTO else find_method(name).name


def _known_backbone(name: str) -> str:
    find_backbones(name)
    return name


Method = Annotated[str, AfterValidator(_known_method), Field(json_schema_extra={"enum": [*METHODS, AUTO]})]
Backbone = Annotated[str, AfterValidator(_known_backbone), Field(json_schema_extra={"enum": list(backbone_names())})]


class RunRequest(RequestModel):
    """A training run; what is left out is chosen."""

    method: Method | None = None
    recipe: Literal["plus", "paper"] = "plus"
    start_from: Annotated[str | None, Field(description="A model id; null for from scratch.")] = None
    budget_s: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None
    steps: Annotated[int, Field(gt=0, le=10**7)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    split: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    also: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        default_factory=list, max_length=16, description="More splits to learn from, such as scans of another scanner."
    )
    cross_scanner: Annotated[
        bool, Field(description="Also augment what differs between scanners: contrast, slice thickness, field of view.")
    ] = False
    labeled: Annotated[int, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Device = "auto"
    batch: Annotated[int, Field(gt=0, le=1024)] | None = None
    network: Backbone | None = None
    co_train: bool = False
    patch: Annotated[list[Annotated[int, Field(gt=0, le=1024)]], Field(min_length=3, max_length=3)] | None = None
    window: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    keep_largest: bool = True


class Option(AnswerModel):
    """A value that a field of `RunRequest` takes, with words for a form."""

    name: str
    title: str


class MethodOption(Option):
    """A training method."""

    description: Annotated[str, Field(description="One sentence.")]
    uses_unlabelled: Annotated[bool, Field(description="Whether it learns from scans without labels too.")]
    dimensions: Annotated[list[int], Field(description="2 for slices, 3 for volumes, of what it can segment.")]
    co_training: Annotated[bool, Field(description="Whether it takes `co_train`.")]


class TrainingOptions(AnswerModel):
    """What a training can be asked for; the defaults come first."""

    methods: list[MethodOption]
    recipes: list[Option]
    backbones: list[Option]


class PlanAnswer(AnswerWithLines):
    """What a run that is asked for would be."""

    split: str
    labelled: int
    partly: Annotated[int, Field(description="How many of the labelled cases are labelled only in part.")]
    unlabelled: int
    holdout: int
    method: str
    reason: Annotated[
        str | None, Field(description="Why this method, where the request left the choice: one sentence.")
    ]
    also: list[str]
    recipe: str
    start_from: str | None
    budget_s: float | None
    steps: int | None
    name: str
    device: str
    words: Annotated[str, Field(examples=["about 25 minutes on this computer"])]
    ready: Annotated[bool, Field(description="Whether it can be started.")]
    warnings: list[str]
    codes: Annotated[list[Coded], Field(description="What `words`, and then each warning, says; for words of others.")]
    options: TrainingOptions


class Run(AnswerWithLines):
    """A training run, which is a process of its own and outlives the engine."""

    run: str
    state: Annotated[RunState, Field(description="The last five of them are final until the run is resumed.")]
    alive: bool
    message: str
    fraction: float | None
    eta_s: float | None
    step: int | None
    elapsed_s: float | None
    device: str | None
    started: str | None
    config: JsonObject
    name: str | None
    version: Annotated[int | None, Field(description="The version that it was published as.")]
    model: Annotated[str | None, Field(description="The id of that version.")]


class CommandRequest(RequestModel):
    """`run` and `resume` end a pause; `resume` starts a process again where none works on the run."""

    command: Literal["pause", "run", "cancel", "resume"]


class RunEvent(AnswerModel):
    """A line of a run's events; `step` has the parts of the loss by their names too."""

    model_config = ConfigDict(extra="allow")

    n: int
    event: Annotated[str, Field(examples=["state", "step", "holdout", "notice", "end"])]
    time: float | None = None
    step: int | None = None
    fraction: float | None = None
    elapsed_s: float | None = None
    loss: float | None = None
    dice: Annotated[dict[str, float] | None, Field(description="Of `holdout`: mean of each structure.")] = None
    seconds: float | None = None
    state: str | None = None
    message: str | None = None
