"""Strokes on a prediction that is kept: what is accepted, and what is answered."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from mper.engine.errors import InvalidRequest
from mper.engine.schemas.common import codes_for
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
        If they belong to another scan, are too many, one cannot be taken, or nothing was segmented; nothing has changed
        then.
    Conflict
        If a newer list came meanwhile.
    """
    began = time.perf_counter()
    _check_scan(stored, request.scan_sha256)
    strokes = request.listed().strokes
    _check_amount(strokes)
    correction = stored.corrections.set_strokes(strokes, request.settle)
    store.make_room(stored)
    return RefineAnswer(
        line_codes=codes_for(correction.notes),
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
        line = f"the strokes were drawn on another scan (checksum {theirs}..., this one has {ours}...); "
        raise InvalidRequest(f"{line}segment the scan that they belong to", "strokes-of-another-scan")


def _check_amount(strokes: Sequence[Stroke]) -> None:
    """Refuse what would take minutes."""
    if len(strokes) > MOST_STROKES:
        line = f"{len(strokes)} strokes came, at most {MOST_STROKES} are taken; correct the rest by hand, "
        line += "or use `mper refine`, which takes any number"
        raise InvalidRequest(line, "too-many-strokes", n=len(strokes), most=MOST_STROKES)
    points = sum(len(stroke.points_mm) for stroke in strokes)
    if points > MOST_POINTS:
        line = f"the strokes have {points} points, at most {MOST_POINTS} are taken; draw with points further apart"
        raise InvalidRequest(line, "too-many-points", n=points, most=MOST_POINTS)
    for number, stroke in enumerate(strokes, 1):
        if stroke.radius_mm > LARGEST_RADIUS_MM:
            radius = f"{stroke.radius_mm:g}"
            line = f"stroke {number} has a radius of {radius} mm, at most {LARGEST_RADIUS_MM:g} mm are taken; "
            line += "take a smaller brush"
            raise InvalidRequest(line, "radius-too-large", n=number, radius=radius, most=f"{LARGEST_RADIUS_MM:g}")
    litres = sum(len(stroke.points_mm) * 4 / 3 * math.pi * stroke.radius_mm**3 for stroke in strokes) / 1e6
    if litres > MOST_LITRES:
        line = f"the strokes paint {litres:.0f} litres, counting each ball, at most {MOST_LITRES:g} are taken; "
        line += "take a smaller brush, or points further apart"
        raise InvalidRequest(line, "strokes-too-large", litres=f"{litres:.0f}", most=f"{MOST_LITRES:g}")
