"""Strokes that correct a mask, and their entries in JSON.

A stroke marks voxels of a structure, or of background. It is stored in the coordinates of the patient, so that it is
the same on every grid: of the scan, of the network, of Slicer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.volume import Geometry

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Stroke:
    """A stroke of a round brush: balls around points, and the label that they mark.

    Parameters
    ----------
    value : int
        Label value; 0 is background.
    points_mm : ((x, y, z), ...)
        LPS. Points are not joined: a line is a row of points no further apart than the radius.
    radius_mm : float
        Of the ball around every point; the voxel nearest to a point belongs to it even if the radius is 0.

    Raises
    ------
    ValueError
        If there is no point, or a number is not finite or negative where it cannot be.
    """

    value: int
    points_mm: tuple[Point, ...]
    radius_mm: float = 2.0

    def __post_init__(self) -> None:
        try:
            points = np.asarray(self.points_mm, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            points = np.empty(0)
        if points.size == 0 and len(self.points_mm) == 0:
            raise ValueError("a stroke needs at least one point; this one is empty")
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise ValueError("the points of a stroke are rows of three finite numbers, x y z in LPS mm")
        if not 0 <= self.radius_mm <= sys.float_info.max:
            raise ValueError(f"the radius of a stroke is a number of mm from 0 up, got {self.radius_mm!r:.40}")
        if not BACKGROUND <= self.value < 255:
            raise ValueError(f"a stroke's label value is 0 (background) to 254, got {self.value}")
        object.__setattr__(self, "points_mm", tuple((x, y, z) for x, y, z in points.tolist()))
        object.__setattr__(self, "radius_mm", float(self.radius_mm))

    def voxels(self, geometry: Geometry) -> npt.NDArray[np.int64]:
        """(n, 3) indices (k, j, i) of the grid's voxels that it covers, in C order; empty if it misses the grid."""
        steps = np.asarray(geometry.step_lengths)
        points = geometry.to_index(np.asarray(self.points_mm))
        with np.errstate(over="ignore"):  # numbers may be of any size
            reach = np.maximum(self.radius_mm / steps, 0.5)
            points = points[((points + reach >= 0) & (points - reach <= np.asarray(geometry.shape) - 1)).all(axis=1)]
        if not len(points):
            return np.empty((0, 3), dtype=np.int64)
        starts = np.maximum(np.ceil(points - reach), 0).astype(np.int64)
        stops = np.minimum(np.floor(points + reach) + 1, geometry.shape).astype(np.int64)
        low, high = starts.min(axis=0), stops.max(axis=0)
        covered = np.zeros(high - low, dtype=bool)
        for point, start, stop in zip(points, starts, stops, strict=True):  # each ball alone: memory stays the grid's
            k, j, i = (np.arange(a, b) for a, b in zip(start, stop, strict=True))
            gaps = [((n - at) * step) ** 2 for n, at, step in zip((k, j, i), point, steps, strict=True)]
            ball = gaps[0][:, None, None] + gaps[1][:, None] + gaps[2] <= self.radius_mm * self.radius_mm
            covered[tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))] |= ball
        nearest = np.rint(points).astype(np.int64)
        nearest = nearest[((nearest >= low) & (nearest < high)).all(axis=1)]
        covered[tuple((nearest - low).T)] = True
        return np.argwhere(covered) + low


@dataclass(frozen=True)
class StrokeList:
    """Strokes in the order in which they were drawn, and the scan and model that they belong to.

    Parameters
    ----------
    strokes : tuple of Stroke
    scan_sha256 : str or None
        Of the scan's voxels, see `mper.datasets.scan_record.voxels_sha256`.
    model : str or None
        The model whose mask they correct.
    """

    strokes: tuple[Stroke, ...]
    scan_sha256: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.scan_sha256 is not None:  # in capitals it is the same one
            object.__setattr__(self, "scan_sha256", self.scan_sha256.lower())


def strokes_to_label(strokes: Sequence[Stroke], geometry: Geometry) -> npt.NDArray[np.uint8]:
    """The voxels of strokes as a label, 255 (unlabelled) elsewhere; where strokes overlap the later one counts."""
    array = np.full(geometry.shape, UNLABELLED, dtype=np.uint8)
    for stroke in strokes:
        array[tuple(stroke.voxels(geometry).T)] = stroke.value
    return array


def check_strokes(strokes: Sequence[Stroke], labels: Sequence[Label]) -> None:
    """Raise a ValueError for a stroke, counted from 1, of a value that is neither background nor a label's."""
    known = {BACKGROUND, *(label.value for label in labels)}
    for number, stroke in enumerate(strokes, 1):
        if stroke.value not in known:
            raise ValueError(f"stroke {number} has the label {stroke.value}; known are {sorted(known)}")


def strokes_to_dict(strokes: StrokeList, labels: Sequence[Label]) -> dict[str, Any]:
    """The entry of strokes in JSON: labels by name, 0 for background."""
    names: dict[int, str | int] = {BACKGROUND: BACKGROUND, **{label.value: label.name for label in labels}}
    entry: dict[str, Any] = {
        "strokes": [
            {
                "label": names.get(stroke.value, stroke.value),
                "points_mm": [list(point) for point in stroke.points_mm],
                "radius_mm": stroke.radius_mm,
            }
            for stroke in strokes.strokes
        ]
    }
    if strokes.scan_sha256 is not None:
        entry["scan_sha256"] = strokes.scan_sha256
    if strokes.model is not None:
        entry["model"] = strokes.model
    return entry


def strokes_from_dict(entry: object, labels: Sequence[Label]) -> StrokeList:
    """The strokes of an entry that `strokes_to_dict` or a person has written.

    Raises
    ------
    ValueError
        If it is not of that form; the line names the stroke, counted from 1.
    """
    listed = entry.get("strokes") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(listed, list):
        raise ValueError(
            'strokes are JSON of the form {"strokes": [{"label": ..., "points_mm": [[x, y, z], ...], ...}]}'
        )
    strokes = []
    for number, one in enumerate(listed, 1):
        try:
            strokes.append(_stroke(one, labels))
        except ValueError as error:
            raise ValueError(f"stroke {number}: {error}") from None
    scan, model = entry.get("scan_sha256"), entry.get("model")
    for name, value in (("scan_sha256", scan), ("model", model)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} of a list of strokes is text, got {value!r}")
    return StrokeList(tuple(strokes), scan, model)


def _stroke(one: object, labels: Sequence[Label]) -> Stroke:
    if not isinstance(one, Mapping):
        raise ValueError(f"expected an object with label, points_mm and radius_mm, got {one!r:.60}")
    missing = [name for name in ("label", "points_mm") if name not in one]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    points, radius = one["points_mm"], one.get("radius_mm", 2.0)
    if not isinstance(points, list):
        raise ValueError("points_mm is a list of [x, y, z]")
    numbers = (n for point in points if isinstance(point, list) for n in point)
    if wrong := [n for n in numbers if isinstance(n, bool) or not isinstance(n, int | float)]:
        raise ValueError(f"points_mm holds {wrong[0]!r:.60}, which is no number")
    if isinstance(radius, bool) or not isinstance(radius, int | float):
        raise ValueError(f"radius_mm is a number, got {radius!r:.60}")
    return Stroke(label_value(one["label"], labels), tuple(points), radius)


def label_value(label: object, labels: Sequence[Label]) -> int:
    """The value of a label given by name (in any case) or value; 0 and "background" are background.

    Raises
    ------
    ValueError
        If no label is called so.
    """
    if not isinstance(label, bool) and isinstance(label, int) and label in {0, *(each.value for each in labels)}:
        return label
    if isinstance(label, str):
        if label.casefold() == "background":
            return BACKGROUND
        for each in labels:
            if label.casefold() in (each.name.casefold(), each.type.meaning.casefold() if each.type else None):
                return each.value
    known = ", ".join(f"{each.name} ({each.value})" for each in labels)
    raise ValueError(f"unknown label {label!r:.60}; known are {known} and background (0)")
