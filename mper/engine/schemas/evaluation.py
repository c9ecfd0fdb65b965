"""Which case to label next, and a new version of a model compared with the one in use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mper.engine.schemas.common import AnswerModel, AnswerWithLines, Device, RequestModel


class RankRequest(RequestModel):
    """The model whose predictions order the cases."""

    model: str
    device: Device = "auto"


class RankedCase(AnswerModel):
    """A case in its place."""

    id: str
    score: Annotated[float, Field(ge=0, le=1)]
    confidence: float
    far: Annotated[float, Field(description="Share of the structure that matches no prototype well.")]
    unlike: Annotated[float, Field(description="0 to 1: how far its prototypes are used unlike in labelled cases.")]
    words: str


class RankResult(AnswerWithLines):
    """Result of a job that ranks cases: those with the most reasons to label them first."""

    cases: list[RankedCase]
    model: str
    labelled: Annotated[int, Field(description="How many labelled cases showed what is usual.")]


class CompareRequest(RequestModel):
    """Two models to compare on the locked hold-out."""

    new: str
    old: str
    device: Device = "auto"


class DicePair(AnswerModel):
    """Dice of one structure."""

    before: float
    after: float


class ComparedCase(AnswerModel):
    """Mean Dice of one case, and that of each structure by its name."""

    id: str
    before: float
    after: float
    labels: dict[str, DicePair]


class CompareResult(AnswerWithLines):
    """Result of a job that compares two models: the worst case after first."""

    cases: list[ComparedCase]
    mean_before: float
    mean_after: float
    words: Annotated[str, Field(description="What so many cases allow to say.")]
    new: str
    old: str
    split: str


class UseRequest(RequestModel):
    """The version to make the current one."""

    version: int


class UseAnswer(AnswerModel):
    """The version in use, and the one before, to which the same request goes back."""

    name: str
    current: int
    previous: int | None
