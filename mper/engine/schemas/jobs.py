"""Jobs: long work of a client."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mper.engine.schemas.cohorts import KeepResult
from mper.engine.schemas.common import AnswerWithLines
from mper.engine.schemas.evaluation import CompareResult, RankResult
from mper.engine.schemas.info import LoadResult
from mper.engine.schemas.segmentation import SegmentResult

JobKind = Literal["load", "segment", "rank", "compare", "keep"]
JobState = Literal["queued", "running", "finished", "failed", "cancelled"]
JobResult = SegmentResult | LoadResult | RankResult | CompareResult | KeepResult


class JobStatus(AnswerWithLines):
    """How a job stands."""

    n: Annotated[int, Field(description="Rises with every change.")]
    job: str
    kind: JobKind
    state: JobState
    message: str
    fraction: Annotated[float | None, Field(ge=0, le=1)]
    eta_s: float | None
    error: Annotated[str | None, Field(description="One line, of a job that failed.")]
    notices: list[str]
    result: Annotated[JobResult | None, Field(description="By `kind`, once it is finished.")]
