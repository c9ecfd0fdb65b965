"""Numbers, times, sentences, models and labels as text for the user."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from slicer.i18n import tr as _

UNKNOWN = "\N{EN DASH}"


# ---- numbers


def millilitres(volume_ml: float | None) -> str:
    """``8.3 mL``, ``112 mL``."""
    if volume_ml is None:
        return UNKNOWN
    return _("{n} mL").format(n=f"{volume_ml:.1f}" if volume_ml < 100 else f"{volume_ml:.0f}")


def changed_millilitres(volume_ml: float) -> str:
    """A change of volume, which may be a few voxels: ``0.03 mL``; a dash for none."""
    if not volume_ml:
        return UNKNOWN
    return _("{n} mL").format(n=f"{volume_ml:.2f}" if volume_ml < 10 else f"{volume_ml:.1f}")


def square_centimetres(surface_mm2: float | None) -> str:
    return UNKNOWN if surface_mm2 is None else _("{n} cm\N{SUPERSCRIPT TWO}").format(n=f"{surface_mm2 / 100:.0f}")


def percent(share: float | None) -> str:
    """``93 %``."""
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def number(value: float | None, digits: int = 2) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def intensities(values: Sequence[float | None]) -> list[str]:
    """A column with the same number of decimals; scans come in units of thousands and in z-scores."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return [number(value, 0 if largest >= 100 else 1 if largest >= 10 else 2) for value in values]


def count(n: int) -> str:
    """``12 345`` with narrow blanks."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


# ---- times


def duration(seconds: float) -> str:
    """``2.5 s``, ``45 s``, ``5 min``, ``1 h 20 min``."""
    if seconds < 10:
        return _("{n} s").format(n=f"{seconds:.1f}")
    if seconds < 90:
        return _("{n} s").format(n=f"{seconds:.0f}")
    minutes = round(seconds / 60)
    if minutes < 60:
        return _("{n} min").format(n=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def remaining(eta_s: float | None) -> str:
    """``about 25 s left``; empty where the time is unknown."""
    if eta_s is None:
        return ""
    if eta_s < 2:
        return _("almost done")
    rounded = 5 * -(-eta_s // 5) if 10 < eta_s < 90 else eta_s if eta_s >= 90 else round(eta_s)
    return _("about {time} left").format(time=duration(rounded) if eta_s > 10 else _("{n} s").format(n=rounded))


def progress(message: str, eta_s: float | None) -> str:
    """``Segmenting · about 25 s left``."""
    rest = remaining(eta_s)
    message = message[:1].upper() + message[1:]
    return f"{message} \N{MIDDLE DOT} {rest}" if rest else message


def date_time(text: str | None) -> str:
    """A UTC time in ISO 8601 as local time, to the minute."""
    if not text:
        return ""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text


# ---- sentences


def sentence(message: str) -> str:
    """A message of the engine, which has no capital and no full stop, as a sentence.

    A path, a file's name or the id of a case at the beginning keeps its case.
    """
    message = message.strip()
    named = re.search(r"[/\\_\d]|\.\w", message.partition(" ")[0])
    return (
        (message[:1] if named else message[:1].upper())
        + message[1:]
        + ("" if message[-1:] in ("", *".!?\N{HORIZONTAL ELLIPSIS}") else ".")
    )


def first_lines(lines: Sequence[str], most: int = 3) -> list[str]:
    """The first of many lines, and one that says how many more there are."""
    more = [_("and {n} more").format(n=len(lines) - most)] if len(lines) > most else []
    return [*lines[:most], *more]


# ---- models


def model_name(model: Mapping[str, Any]) -> str:
    """The title of a model; of one that the user trained its name and version, with structures and dataset."""
    origin = model.get("origin")
    if not isinstance(origin, Mapping):
        return str(model.get("title") or model.get("name") or model["id"])
    structures = "/".join(label["name"] for label in model.get("labels") or ()) or model.get("name") or model["id"]
    name = str(origin.get("name") or structures)
    text = _("{name}, version {version} of {dataset}")
    if name.casefold() != structures.casefold():
        text = _("{name}, version {version} ({structures}, {dataset})")
    dataset = str(origin.get("dataset")).rpartition("/")[2]
    return text.format(name=name, version=origin.get("version"), structures=structures, dataset=dataset)


def model_summary(model: Mapping[str, Any]) -> str:
    """How good a model was on scans that did not train it, in one line; the rest is in `model_card`."""
    quality = _quality(_about(model))
    dice = (quality.get("mean") or {}).get("dice")
    if dice is None:
        return _("The quality of this model was not measured.")
    which = str(quality.get("cases"))  # "3 cases of the locked hold-out: ..."
    counted = re.match(r"(\d+) case", which)
    cases = len(quality.get("per_case") or ()) or int(counted[1] if counted else 0)
    line = _("Mean Dice {dice} on {n} held-out scans.") if cases else _("Dice {dice}")
    if "used for choices" in which:
        line = _("Mean Dice {dice} on {n} validation scans.")
    return line.format(dice=number(dice), n=cases)


def model_card(model: Mapping[str, Any]) -> str:
    """A model's card as rich text: intended use, quality, limits, terms."""
    card = _about(model)
    quality = _quality(card)
    by_label = ", ".join(
        f"{name} {figures['dice']:.2f}"
        for name, figures in (quality.get("labels") or {}).items()
        if figures.get("dice") is not None
    )
    parts = [
        (_("Scans"), card.get("modality")),
        (_("Intended use"), card.get("intended_use")),
        (_("Quality"), by_label and _("Dice {figures}; {cases}").format(figures=by_label, cases=quality.get("cases"))),
        (_("Limits"), card.get("limits")),
        (_("Training data"), card.get("data")),
        (_("Licence"), card.get("licence")),
        (_("Please cite"), card.get("citation")),
        (_("Version"), f"{model.get('name', '')} {model.get('version', '')}".strip()),
    ]
    return "".join(
        f"<p style='margin:2px 0'><b>{html.escape(head)}:</b> {html.escape(str(text))}</p>"
        for head, text in parts
        if text
    )


def model_terms(model: Mapping[str, Any]) -> str:
    """The terms of use of a model, as its card states them; "" where it states none."""
    return str(_about(model).get("licence") or "")


def _about(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a model's card that is shown to the user."""
    card = model.get("card") or {}
    found = card.get("about", card)
    return found if isinstance(found, Mapping) else {}


def _quality(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured of a model; empty for one that was trained without a hold-out, whose card has a text there."""
    found = card.get("quality")
    return found if isinstance(found, Mapping) else {}


# ---- cases, labels, training runs


def split_name(name: str | None, holdout: str | None) -> str:
    """The data set split of a case: training, hold-out, ..."""
    if name and name == holdout:
        return _("hold-out")
    return {None: UNKNOWN, "train": _("training"), "holdout-2": _("second hold-out")}.get(name, name)


def label_origin(revision: Mapping[str, Any]) -> str:
    """How a label was made: drawn manually, by a model and corrected, ..."""
    origins = {
        "hand": _("manual"),
        "strokes": _("strokes"),
        "imported": _("imported"),
        "model": _("model"),
        "restored": _("restored"),
    }
    text = origins.get(revision.get("how"), revision.get("how") or "")
    model = revision.get("model")
    if model:
        text = _("{how} ({name}, version {version})").format(how=text, **model)
    return _("{how}, corrected").format(how=text) if revision.get("edited") else text


def run_state(status: Mapping[str, Any]) -> str:
    """The state of a training run."""
    state = status.get("state") or "starting"
    if state in ("starting", "running", "paused") and status.get("alive") is False:
        return _("stopped unexpectedly")
    return {
        "starting": _("starting"),
        "running": _("running"),
        "paused": _("paused"),
        "finished": _("finished"),
        "cancelled": _("cancelled"),
        "failed": _("failed"),
        "interrupted": _("interrupted"),
    }.get(state, state)
