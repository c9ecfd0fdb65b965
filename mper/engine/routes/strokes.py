"""Strokes in bodies, and those that are kept with a label of a dataset."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from mper.datasets.case import Case
from mper.engine.errors import Refused
from mper.engine.routes.datasets import revision_entry
from mper.engine.schemas import Body
from mper.engine.services.engine import EngineDep
from mper.engine.services.lookup import open_case
from mper.strokes import Stroke, StrokeList

router = APIRouter()

Point = Annotated[list[float], Field(min_length=3, max_length=3)]


class StrokeBody(Body):
    """value : of a label, 0 for background; points_mm : LPS, not joined."""

    value: int
    points_mm: list[Point]
    radius_mm: float = 2.0


class StrokesBody(Body):
    strokes: Annotated[list[StrokeBody], Field(max_length=100_000)]
    scan_sha256: Annotated[str, Field(max_length=64)] | None = None
    model: Annotated[str, Field(max_length=400)] | None = None

    def listed(self) -> StrokeList:
        """The strokes in the library's form.

        Raises
        ------
        ValueError
            If one cannot be, counted from 1.
        """
        strokes = []
        for number, body in enumerate(self.strokes, 1):
            try:
                points = tuple((x, y, z) for x, y, z in body.points_mm)
                strokes.append(Stroke(body.value, points, body.radius_mm))
            except ValueError as error:
                raise ValueError(f"stroke {number}: {error}") from None
        return StrokeList(tuple(strokes), self.scan_sha256, self.model)


@router.put("/datasets/{d}/cases/{c}/labels/{n}/strokes")
def keep_strokes(engine: EngineDep, d: str, c: str, n: int, body: StrokesBody) -> dict[str, Any]:
    case = open_case(engine, d, c)
    _check_revision(case, n)
    case.keep_strokes(n, body.listed())
    return next(revision_entry(revision) for revision in case.revisions() if revision.number == n)


@router.get("/datasets/{d}/cases/{c}/labels/{n}/strokes")
def kept_strokes(engine: EngineDep, d: str, c: str, n: int) -> dict[str, Any]:
    case = open_case(engine, d, c)
    _check_revision(case, n)
    kept = case.strokes(n)
    if kept is None:
        raise Refused(404, f"label revision {n} of case {c} has no strokes beside it")
    names = {0: "background", **{label.value: label.name for label in case.labels}}
    told = [
        {
            "value": stroke.value,
            "name": names.get(stroke.value, str(stroke.value)),
            "points_mm": [list(point) for point in stroke.points_mm],
            "radius_mm": stroke.radius_mm,
        }
        for stroke in kept.strokes
    ]
    return {"strokes": told, "scan_sha256": kept.scan_sha256, "model": kept.model}


@router.post("/datasets/{d}/cases/{c}/strokes")
def label_by_strokes(
    engine: EngineDep,
    d: str,
    c: str,
    body: StrokesBody,
    author: Annotated[str, Query(min_length=1, max_length=200)],
    seconds: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    parent: int | None = None,
) -> dict[str, Any]:
    case = open_case(engine, d, c)
    return revision_entry(case.add_painted(body.listed(), author=author, seconds=seconds, parent=parent))


def _check_revision(case: Case, number: int) -> None:
    if number not in [revision.number for revision in case.revisions()]:
        raise Refused(404, f"case {case.id} has no label revision {number}")
