"""Cohorts: a model run over many scans as a process of its own, and the review of its masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mper.engine.schemas.common import AnswerModel, AnswerWithLines, Name, RequestModel

CohortState = Literal["new", "starting", "running", "paused", "finished", "failed", "interrupted", "submitted"]
RowState = Literal["done", "failed", "waiting"]
Decision = Literal["accepted", "corrected", "rejected", "open"]
Folder = Annotated[str, Field(min_length=1, max_length=4000, description="Absolute path.")]


class CohortRequest(RequestModel):
    """A cohort to segment: the scans below `folder`, or the unlabelled cases of `dataset`."""

    folder: Annotated[Folder | None, Field(description="Only for the client that started the engine.")] = None
    dataset: Annotated[str | None, Field(description="A dataset's id.")] = None
    out: Annotated[Folder | None, Field(description="For the results; default: a folder in the dataset.")] = None
    model: str
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    tta: bool = False


class OpenCohortRequest(RequestModel):
    """The folder of the results of a cohort."""

    path: Folder


class CohortModel(AnswerModel):
    """The model of all masks of a cohort."""

    name: str
    version: str
    sha256: str


class CohortAnswer(AnswerWithLines):
    """How a cohort stands."""

    id: str
    name: str
    folder: Annotated[str, Field(description="With its whole path for the client that started the engine.")]
    state: CohortState
    pausing: Annotated[bool, Field(description="Whether the run was asked to pause, and still works.")]
    message: str
    fraction: Annotated[float | None, Field(ge=0, le=1, description="Share of the scans that are segmented.")]
    eta_s: float | None
    scans: int
    segmented: int
    failed: int
    resumable: Annotated[bool, Field(description="Whether `resume` goes on with it.")]
    model: CohortModel | None
    version: Annotated[int, Field(description="Rises when the rows change.")]


class CohortCommand(RequestModel):
    """`pause` ends the process at its next step; `resume` starts it again, from the scan where it stopped."""

    command: Literal["pause", "resume"]


class KeptAs(AnswerModel):
    """The label that a mask became."""

    dataset: str
    case: str
    revision: int


class CohortRowAnswer(AnswerWithLines):
    """A mask of a cohort, or a scan that has none yet, or failed."""

    id: str
    name: str
    scan: str
    state: RowState
    phase: int | None
    quality: str
    expected_dice: float | None
    confidence: float | None
    flags: list[str]
    volumes_ml: dict[str, float | None]
    seconds: float | None
    error: str | None
    decision: Decision
    author: str
    when: str
    kept: KeptAs | None


class CohortRows(AnswerModel):
    """The rows of a cohort, in the order of its scans."""

    version: int
    rows: list[CohortRowAnswer]


class ReviewRequest(RequestModel):
    """A decision on a mask; `open` takes one back."""

    mask: str
    decision: Literal["accepted", "rejected", "open"]
    author: Name
    seconds: Annotated[float, Field(ge=0)] | None = None


class KeepRequest(RequestModel):
    """Keep the accepted and corrected masks of a cohort as labels of a dataset."""

    dataset: str
    author: Name
    split: Annotated[Name | None, Field(description="Of the cases that are new.")] = "train"


class KeptMask(AnswerModel):
    """A mask that is a label now."""

    mask: str
    case: str
    revision: int


class SkippedMask(AnswerModel):
    """A mask that could not be kept."""

    mask: str
    reason: str


class KeepResult(AnswerWithLines):
    """Result of a job that keeps masks as labels."""

    kept: list[KeptMask]
    skipped: list[SkippedMask]
    before: Annotated[int, Field(description="How many were kept before, and are the same.")]
