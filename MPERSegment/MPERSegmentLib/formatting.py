"""Figures as a person reads them."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

UNKNOWN = "\N{EN DASH}"


def millilitres(volume_ml: float | None) -> str:
    if volume_ml is None:
        return UNKNOWN
    return _("{n} mL").format(n=f"{volume_ml:.1f}" if volume_ml < 100 else f"{volume_ml:.0f}")


def millilitres_of_change(volume_ml: float) -> str:
    """What a stroke changed, which may be a few voxels."""
    if not volume_ml:
        return UNKNOWN
    return _("{n} mL").format(n=f"{volume_ml:.2f}" if volume_ml < 10 else f"{volume_ml:.1f}")


def square_centimetres(surface_mm2: float | None) -> str:
    return UNKNOWN if surface_mm2 is None else _("{n} cm\N{SUPERSCRIPT TWO}").format(n=f"{surface_mm2 / 100:.0f}")


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}".replace("%", " %")


def number(value: float | None, digits: int = 2) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def intensities(values: Sequence[float | None]) -> list[str]:
    """A column with as many decimals in each line; scans come in units of thousands and in z-scores."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return [number(value, 0 if largest >= 100 else 1 if largest >= 10 else 2) for value in values]


def count(n: int) -> str:
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """A length of time, as exact as it is useful."""
    if seconds < 10:
        return _("{n} s").format(n=f"{seconds:.1f}")
    if seconds < 90:
        return _("{n} s").format(n=f"{seconds:.0f}")
    return _("{n} min").format(n=f"{seconds / 60:.0f}")


def left(eta_s: float | None) -> str:
    """What is still to come of a piece of work; empty where nobody knows."""
    if eta_s is None:
        return ""
    if eta_s < 2:
        return _("almost done")
    if eta_s < 60:
        return _("about {n} s left").format(n=f"{5 * -(-eta_s // 5):.0f}" if eta_s > 10 else f"{eta_s:.0f}")
    return _("about {n} min left").format(n=f"{eta_s / 60:.0f}")


def progress(message: str, eta_s: float | None) -> str:
    rest = left(eta_s)
    message = message[:1].upper() + message[1:]
    return f"{message} \N{MIDDLE DOT} {rest}" if rest else message


def about(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a model's card that people read."""
    card = model.get("card") or {}
    found = card.get("about", card)
    return found if isinstance(found, Mapping) else {}


def model_words(model: Mapping[str, Any]) -> str:
    """A model's card in two lines: what it looks at, and how well it did; the rest is in `model_card`."""
    card = about(model)
    quality = card.get("quality") or {}
    dice = (quality.get("mean") or {}).get("dice")
    lines = [str(card["modality"])] if card.get("modality") else []
    if dice is not None:
        counted = re.match(r"(\d+) case", str(quality.get("cases")))  # "3 cases of the locked hold-out: ..."
        cases = len(quality.get("per_case") or ()) or int(counted[1] if counted else 0)
        measured = _("Dice {dice} on {n} cases it was not trained on") if cases else _("Dice {dice}")
        lines.append(measured.format(dice=f"{dice:.2f}", n=cases))
    return "\n".join(lines) or _("This model says nothing of its quality.")


def model_card(model: Mapping[str, Any]) -> str:
    """A model's card as rich text: what for, how good, where its limits lie."""
    card = about(model)
    quality = card.get("quality") or {}
    by_label = ", ".join(
        f"{name} {figures['dice']:.2f}"
        for name, figures in (quality.get("labels") or {}).items()
        if figures.get("dice") is not None
    )
    parts = [
        (_("What for"), card.get("intended_use")),
        (_("Quality"), by_label and _("Dice {figures}; {cases}").format(figures=by_label, cases=quality.get("cases"))),
        (_("Limits"), card.get("limits")),
        (_("Trained on"), card.get("data")),
        (_("Terms"), card.get("licence")),
        (_("Cite"), card.get("citation")),
        (_("Version"), f"{model.get('name', '')} {model.get('version', '')}".strip()),
    ]
    return "".join(
        f"<p style='margin:2px 0'><b>{html.escape(head)}:</b> {html.escape(str(text))}</p>"
        for head, text in parts
        if text
    )
