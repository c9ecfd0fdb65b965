"""Strokes: as requests, as kept with a label, and what they changed in a prediction."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field

from mper.engine.schemas.common import AnswerModel, AnswerWithLines, Box, PointMm, RequestModel
from mper.engine.schemas.segmentation import QuickStructure, Structure
from mper.strokes import Stroke, StrokeList
from mper.utils.coded import Coded, line_of

_Point = Annotated[list[float], Field(min_length=3, max_length=3)]


class StrokeRequest(RequestModel):
    """Balls around points, which are not joined, and the structure that lies there."""

    value: Annotated[int, Field(description="Of a label; 0 for background.")]
    points_mm: Annotated[list[_Point], FailFast(), Field(max_length=100_000, description="[x, y, z] in LPS.")]
    radius_mm: float = 2.0


class StrokesRequest(RequestModel):
    """A whole list of strokes, in the order in which they were drawn."""

    strokes: Annotated[list[StrokeRequest], FailFast(), Field(max_length=100_000)]
    scan_sha256: Annotated[str, Field(max_length=64, description="Of the scan that they were drawn on.")] | None = None
    model: Annotated[str, Field(max_length=400, description="What made the mask that they correct.")] | None = None

    def listed(self) -> StrokeList:
        """The strokes in the library's form.

        Raises
        ------
        ValueError
            If one cannot be, counted from 1.
        """
        strokes = []
        for number, each in enumerate(self.strokes, 1):
            try:
                points = tuple((x, y, z) for x, y, z in each.points_mm)
                strokes.append(Stroke(each.value, points, each.radius_mm))
            except ValueError as error:
                reason = line_of(error)
                line = f"stroke {number}: {reason}"
                raise ValueError(Coded(line, "stroke-note", number=number, note=reason)) from None
        return StrokeList(tuple(strokes), self.scan_sha256, self.model)


class RefineRequest(StrokesRequest):
    """All strokes on a prediction, those of before included."""

    settle: Annotated[bool, Field(description="false: a quick answer, without the clean-up at image edges.")] = True


class StrokeChange(AnswerModel):
    """A stroke, and what it changed; both amounts are null where the spacing is unknown."""

    value: int
    name: str
    added_ml: Annotated[dict[str, float] | None, Field(description="By label value; background has none.")]
    removed_ml: dict[str, float] | None
    voxels: int
    notes: list[str]


class RefineAnswer(AnswerWithLines):
    """The mask after all strokes."""

    strokes: list[StrokeChange]
    changed: Annotated[
        Box | None,
        Field(
            description="Start and stop of a box in the scan outside of which the mask is as it was at the last "
            "answered request; null if nothing changed."
        ),
    ]
    settled: bool
    notes: Annotated[list[str], Field(description="Of the strokes that are new.")]
    structures: list[Structure | QuickStructure]
    seconds: float


class KeptStroke(AnswerModel):
    """A stroke that is kept with a label."""

    value: int
    name: str
    points_mm: list[PointMm]
    radius_mm: float


class KeptStrokes(AnswerModel):
    """The strokes that a label was made with."""

    strokes: list[KeptStroke]
    scan_sha256: str | None
    model: str | None
