"""A measured value with its unit, method and parameters, and body surface area, by which values are indexed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mper.utils.coded import Coded

_HEIGHTS_CM, _WEIGHTS_KG = (30.0, 250.0), (1.0, 400.0)


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Parameters
    ----------
    key : str
        Stable name, for CSV and JSON: ``la_volume``.
    name : str
        For people.
    value : float or None
        None where it cannot be given; `method` then says why.
    unit : str
        As UCUM writes it (``mL``, ``mL/m2``, ``mm2``, ``%``, ``1``).
    method : str
        How it was computed, with every parameter.
    group : str
        The structure or topic that it belongs to.
    stages : mapping of str to str
        What classification schemes, by name, call the value.
    range : (float, float) or None
        Lowest and highest value over the masks at other probability thresholds, see `with_ranges`.
    """

    key: str
    name: str
    value: float | None
    unit: str
    method: str
    group: str
    stages: Mapping[str, str] | None = None
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.value is None:
            return
        if not math.isfinite(self.value):
            raise ValueError(f"{self.key} must be finite or None, got {self.value}")
        object.__setattr__(self, "value", float(self.value))  # numpy's numbers are not JSON

    def text(self) -> str:
        """Value and unit for people."""
        if self.value is None:
            return "not available"
        digits = 3 if self.unit == "1" else 0 if abs(self.value) >= 1000 else 2 if abs(self.value) < 10 else 1
        return f"{self.value:.{digits}f}{'' if self.unit == '1' else ' ' + self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "key": self.key,
            "name": self.name,
            "value": None if self.value is None else round(self.value, 4),
            "unit": self.unit,
            "method": self.method,
            "group": self.group,
            "stages": dict(self.stages or {}),
            "range": None if self.range is None else [round(end, 4) for end in self.range],
        }


def with_ranges(figures: Sequence[Figure], others: Iterable[Sequence[Figure]]) -> tuple[Figure, ...]:
    """Figures with the range of their values over other masks of the same structure, the value itself included."""
    found: dict[str, list[float]] = {each.key: [each.value] for each in figures if each.value is not None}
    for other in others:
        for each in other:
            if each.value is not None and each.key in found:
                found[each.key].append(each.value)
    return tuple(
        replace(each, range=(min(found[each.key]), max(found[each.key]))) if len(found.get(each.key, ())) > 1 else each
        for each in figures
    )


def body_surface_m2(height_cm: float, weight_kg: float) -> float:
    """Body surface area: ``sqrt(height_cm * weight_kg / 3600)``.

    Source: Mosteller, New England Journal of Medicine 1987; 317: 1098.

    Raises
    ------
    ValueError
        If no person is of that height or weight.
    """
    for name, number, (low, high), unit in (
        ("height", height_cm, _HEIGHTS_CM, "cm"),
        ("weight", weight_kg, _WEIGHTS_KG, "kg"),
    ):
        if not low <= number <= high:
            raise ValueError(
                Coded(
                    f"a {name} of {number:g} {unit} is not a person's ({low:g} to {high:g} {unit} expected); "
                    f"give the {name} in {unit}",
                    "not-a-height" if name == "height" else "not-a-weight",
                    number=f"{number:g}",
                    unit=unit,
                    low=f"{low:g}",
                    high=f"{high:g}",
                )
            )
    return math.sqrt(height_cm * weight_kg / 3600)


def indexed(figure: Figure, body_m2: float | None) -> Figure | None:
    """A figure divided by body surface area; None where that is unknown, or the figure is."""
    if body_m2 is None or figure.value is None:
        return None
    area, name = f"{body_m2:.2f}", figure.name
    return Figure(
        f"{figure.key}_index",
        Coded(f"{name} index", "figure-index", name=name),
        figure.value / body_m2,
        f"{figure.unit}/m2",
        Coded(f"{name} / body surface area of {area} m2 (Mosteller)", "method-index", name=name, area=area),
        figure.group,
    )
