"""Figures as people say them."""

from __future__ import annotations

from datetime import datetime

from slicer.i18n import tr as _


def duration(seconds: float) -> str:
    """``less than a minute``, ``5 min``, ``1 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return _("less than a minute")
    if minutes < 60:
        return _("{minutes} min").format(minutes=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def percent(share: float | None) -> str:
    """``93 %``, or a dash where nobody knows."""
    return "–" if share is None else f"{100 * share:.0f} %"


def dice(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def moment(text: str | None) -> str:
    """A UTC time of ISO 8601 as the clock on the wall showed it, to the minute."""
    if not text:
        return ""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text


def sentence(text: str) -> str:
    """What the engine says in passing, as a sentence of its own."""
    text = text.strip()
    return text and text[:1].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def split(name: str | None, holdout: str | None) -> str:
    """What a split is called in the table."""
    if name and name == holdout:
        return _("held out")
    return {None: "–", "train": _("training")}.get(name, name)


def how(revision: dict) -> str:
    """Where a label came from: drawn by hand, from a model and corrected."""
    origins = {
        "hand": _("by hand"),
        "strokes": _("by strokes"),
        "imported": _("imported"),
        "model": _("by a model"),
        "restored": _("restored"),
    }
    text = origins.get(revision.get("how"), revision.get("how") or "")
    model = revision.get("model")
    if model:
        text = _("{how} ({name}, version {version})").format(how=text, **model)
    return _("{how}, corrected").format(how=text) if revision.get("edited") else text


def methodWords(method: str) -> str:
    """What a training method learns from."""
    return {
        "mper": _("All scans, few labels: with prototypes (MPER)"),
        "bcp": _("All scans, few labels: without prototypes (BCP)"),
        "supervised": _("Labelled scans alone"),
        "embedding-matching": _("All scans, few labels: uncertain voxels as the nearest labelled ones"),
        "dk-uxnet": _("All scans, few labels: two networks with queries (DK-UXNet), volumes only"),
    }.get(method, method)


def recipeWords(recipe: str) -> str:
    """What a recipe is."""
    return {"plus": _("Improved (default)"), "paper": _("As published")}.get(recipe, recipe)


def stateWords(status: dict) -> str:
    """Where a training run stands."""
    state = status.get("state") or "starting"
    if state in ("starting", "running", "paused") and status.get("alive") is False:
        return _("stopped without finishing")
    return {
        "starting": _("starting"),
        "running": _("running"),
        "paused": _("paused"),
        "finished": _("finished"),
        "cancelled": _("cancelled"),
        "failed": _("failed"),
        "interrupted": _("interrupted"),
    }.get(state, state)
