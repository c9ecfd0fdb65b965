"""Strokes on a prediction that is kept: what is accepted, and what is answered."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from mper.engine.errors import InvalidRequest
from mper.engine.schemas.strokes import RefineAnswer, RefineRequest
from mper.engine.services.corrections import moved
from mper.engine.services.predictions import PredictionStore, StoredPrediction
from mper.strokes import Stroke

MOST_STROKES = 500
MOST_POINTS = 20_000
LARGEST_RADIUS_MM = 50.0
MOST_LITRES = 200.0  # in all balls, wherever they overlap: seconds of work
_NAMED_DIGITS = 12  # of a checksum


def refine(store: PredictionStore, stored: StoredPrediction, request: RefineRequest) -> RefineAnswer:
    """Make the strokes of a request those of a prediction.

    Raises
    ------
    InvalidRequest, ValueError
        If they belong to another scan, are too many, or one cannot be taken; nothing has changed then.
    Conflict
        If a newer list came meanwhile, or the prediction cannot be refined.
    """
    began = time.perf_counter()
    _check_scan(stored, request.scan_sha256)
    strokes = request.listed().strokes
    _check_amount(strokes)
    correction = stored.corrections.set_strokes(strokes, request.settle)
    store.make_room(stored)
    return RefineAnswer(
        strokes=correction.strokes,
        changed=moved(correction.changed, stored.start),
        settled=correction.settled,
        notes=correction.notes,
        structures=correction.structures,
        seconds=time.perf_counter() - began,
    )


def _check_scan(stored: StoredPrediction, sha256: str | None) -> None:
    if sha256 is not None and sha256.lower() != stored.scan_sha256:
        theirs, ours = (text[:_NAMED_DIGITS] for text in (sha256, stored.scan_sha256))
        raise InvalidRequest(
            f"the strokes were drawn on another scan (checksum {theirs}..., this one has {ours}...); "
            "segment the scan that they belong to"
        )


def _check_amount(strokes: Sequence[Stroke]) -> None:
    """Refuse what would take minutes."""
    if len(strokes) > MOST_STROKES:
        raise InvalidRequest(
            f"{len(strokes)} strokes came, at most {MOST_STROKES} are taken; correct the rest by hand, "
            "or use `mper refine`, which takes any number"
        )
    points = sum(len(stroke.points_mm) for stroke in strokes)
    if points > MOST_POINTS:
        raise InvalidRequest(
            f"the strokes have {points} points, at most {MOST_POINTS} are taken; draw with points further apart"
        )
    for number, stroke in enumerate(strokes, 1):
        if stroke.radius_mm > LARGEST_RADIUS_MM:
            raise InvalidRequest(
                f"stroke {number} has a radius of {stroke.radius_mm:g} mm, at most {LARGEST_RADIUS_MM:g} mm are taken; "
                "take a smaller brush"
            )
    litres = sum(len(stroke.points_mm) * 4 / 3 * math.pi * stroke.radius_mm**3 for stroke in strokes) / 1e6
    if litres > MOST_LITRES:
        raise InvalidRequest(
            f"the strokes paint {litres:.0f} litres, counting each ball, at most {MOST_LITRES:g} are taken; "
            "take a smaller brush, or points further apart"
        )
