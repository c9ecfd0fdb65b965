"""The route for strokes on a prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from mper.engine.errors import Refused
from mper.engine.routes.strokes import StrokesBody
from mper.engine.services.corrections import moved
from mper.engine.services.engine import ClientDep, EngineDep
from mper.engine.services.predictions import Stored
from mper.strokes import Stroke

router = APIRouter()

MOST_STROKES = 500
MOST_POINTS = 20_000
LARGEST_RADIUS_MM = 50.0
MOST_LITRES = 200.0  # in all balls, wherever they overlap: seconds of work
_NAMED_DIGITS = 12  # of a checksum


class RefineBody(StrokesBody):
    settle: bool = True


@router.put("/predictions/{prediction}/strokes")
def set_strokes(engine: EngineDep, client: ClientDep, prediction: str, body: RefineBody) -> dict[str, Any]:
    began = time.perf_counter()
    stored = engine.predictions.get(client, prediction)
    _check_scan(stored, body.scan_sha256)
    strokes = body.listed().strokes
    _check_amount(strokes)
    answer = stored.corrections.set_strokes(strokes, body.settle)
    engine.predictions.make_room(stored)
    changed = moved(answer["changed"], stored.start)
    return {**answer, "changed": changed, "seconds": time.perf_counter() - began}


def _check_scan(stored: Stored, sha256: str | None) -> None:
    if sha256 is not None and sha256.lower() != stored.scan_sha256:
        theirs, ours = (text[:_NAMED_DIGITS] for text in (sha256, stored.scan_sha256))
        raise Refused(
            422,
            f"the strokes were drawn on another scan (checksum {theirs}..., this one has {ours}...); "
            "segment the scan that they belong to",
        )


def _check_amount(strokes: Sequence[Stroke]) -> None:
    """Refuse what nobody would wait for."""
    if len(strokes) > MOST_STROKES:
        raise Refused(
            422,
            f"{len(strokes)} strokes came, at most {MOST_STROKES} are taken; correct the rest by hand, "
            "or use `mper refine`, which takes any number",
        )
    points = sum(len(stroke.points_mm) for stroke in strokes)
    if points > MOST_POINTS:
        raise Refused(
            422, f"the strokes have {points} points, at most {MOST_POINTS} are taken; draw with points further apart"
        )
    for number, stroke in enumerate(strokes, 1):
        if stroke.radius_mm > LARGEST_RADIUS_MM:
            raise Refused(
                422,
                f"stroke {number} has a radius of {stroke.radius_mm:g} mm, at most {LARGEST_RADIUS_MM:g} mm are taken; "
                "take a smaller brush",
            )
    litres = sum(len(stroke.points_mm) * 4 / 3 * math.pi * stroke.radius_mm**3 for stroke in strokes) / 1e6
    if litres > MOST_LITRES:
        raise Refused(
            422,
            f"the strokes paint {litres:.0f} litres, counting each ball, at most {MOST_LITRES:g} are taken; "
            "take a smaller brush, or points further apart",
        )
