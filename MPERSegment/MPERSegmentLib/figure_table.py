"""Figures as rows of a table, and as text for a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from MPERLib import formatting
from MPERLib.widgets import Cell
from slicer.i18n import tr as _

Figure = Mapping[str, Any]  # of the engine: key, name, group, value, unit, method, stages, range
STALE = "#8a8f98"
SCHEMES = ("DECAAF 2014", "Utah 2010")  # that the engine calls stages by
_HEAD = "#4a78b5"


def value_text(figure: Figure) -> str:
    """Value and unit for people, as the report gives them."""
    value, unit = figure["value"], figure["unit"]
    if value is None:
        return formatting.UNKNOWN
    shown = unit.replace("m2", "m\N{SUPERSCRIPT TWO}")
    return f"{_number(value, unit)}{'' if unit == '1' else ' ' + shown}"


def rows(figures: Sequence[Figure], stale: bool) -> list[list[Cell]]:
    """A row a figure (name, value, range, stage by each of `SCHEMES`) below a row for each group.

    The tooltip is the method. An area stands in the row of its extent, in the tooltip where there are ranges.
    """
    ranged = any(figure["range"] for figure in figures)
    areas = {figure["key"].removesuffix("_area"): figure for figure in figures if figure["key"].endswith("_area")}
    extents = {figure["key"].removesuffix("_extent") for figure in figures if figure["key"].endswith("_extent")}
    made = []
    for group in dict.fromkeys(figure["group"] for figure in figures):
        made.append([Cell(group, colour=STALE if stale else _HEAD), *(3 * [Cell("")]), Cell("")])
        for figure in figures:
            if figure["group"] != group or figure["key"].removesuffix("_area") in extents:
                continue
            area = areas.get(figure["key"].removesuffix("_extent"))
            value, tip = value_text(figure), figure["method"]
            if area is not None and area is not figure and ranged:
                tip = f"{value_text(area)}; {tip}"
            elif area is not None and area is not figure:
                value += f" ({value_text(area)})"
            for stage in figure["stages"]:
                tip += "\n" + _("{scheme}: stage {stage}").format(**stage)
            stages = {stage["scheme"]: stage["stage"].partition(" ")[0] for stage in figure["stages"]}
            texts = (
                figure["name"].removesuffix(_(", extent")),
                value,
                _range(figure),
                *(stages.get(scheme, "") for scheme in SCHEMES),
            )
            made.append([Cell(text, tip=tip, colour=STALE if stale else "") for text in texts])
    return made


def clipboard_text(figures: Sequence[Figure], lines: Sequence[str]) -> str:
    """All figures with their methods, separated by tabs, and lines below them."""
    head = (_("Figure"), _("Value"), _("Unit"), _("Lowest"), _("Highest"), _("Stages"), _("Method"))
    table = [head]
    for figure in figures:
        value = "" if figure["value"] is None else f"{figure['value']:.6g}"
        low, high = (f"{end:.6g}" for end in figure["range"]) if figure["range"] else ("", "")
        stages = "; ".join(f"{stage['scheme']}: {stage['stage']}" for stage in figure["stages"])
        table.append((figure["name"], value, figure["unit"], low, high, stages, figure["method"]))
    return "\n".join(["\t".join(row) for row in table] + list(lines)) + "\n"


def _number(value: float, unit: str) -> str:
    digits = 3 if unit == "1" else 0 if abs(value) >= 1000 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}"


def _range(figure: Figure) -> str:
    if not figure["range"]:
        return ""
    low, high = (_number(end, figure["unit"]) for end in figure["range"])
    return _("{low} to {high}").format(low=low, high=high)
