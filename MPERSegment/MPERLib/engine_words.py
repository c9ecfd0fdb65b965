"""What the engine says, in the user's language: refusals, progress, plans of trainings, devices, methods.

The engine's own lines are English. What has no words here, or in `engine_lines`, is shown as the engine wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from MPERLib import engine_lines
from MPERLib.formatting import duration, sentence


def refusal(answer: Mapping[str, Any]) -> str:
    """The line of an answer that refuses a request.

    Parameters
    ----------
    answer : mapping
        ``error``, the engine's line; ``code`` and ``values`` where it has them.

    Raises
    ------
    KeyError
        If it is no such answer.
    """
    line, values = str(answer["error"]), answer.get("values")
    return said(line, str(answer.get("code") or ""), values if isinstance(values, Mapping) else {})


def reason(error: Exception) -> str:
    """The message of an error that was raised in Slicer itself, by the library perhaps."""
    line = error.args[0] if error.args else ""
    return said(str(line), line.code, line.values) if hasattr(line, "code") else str(error)


def in_words(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose lines with a code are in the user's language; any other dictionary as it is.

    The codes stay, by the new lines: a result that was stored with a scene can be put into other words once more.
    """
    codes = answer.get("line_codes")
    if not isinstance(codes, Mapping) or not codes:
        return answer
    lines: dict[Any, str] = {}
    for line, coded in codes.items():  # a line that is a value of others comes before them
        coded = coded if isinstance(coded, Mapping) else {}
        values = _replaced(coded.get("values") or {}, lines)
        lines[line] = said(line, str(coded.get("code")), values)
    rest = {name: _replaced(value, lines) for name, value in answer.items() if name != "line_codes"}
    return {**rest, "line_codes": {lines[line]: _replaced(coded, lines) for line, coded in codes.items()}}


def said(line: str, code: str, values: Mapping[str, Any], table: Mapping[str, str] | None = None) -> str:
    """The words of a code, by default those of all tables; the line where there are none."""
    known = dict(values)
    try:
        if code == "joined":
            separator = {" and ": _(" and ")}.get(known["separator"], known["separator"])
            return str(separator).join(known[f"part{n}"] for n in range(1, len(known)))
        if "dataset" in known:
            known["dataset"] = str(known["dataset"]).replace("~", "/").rpartition("/")[2]
        if "seconds" in known:
            known["time"] = duration(max(60.0, known["seconds"]))
        if "field" in known:
            known["field"] = _fields().get(str(known["field"]), known["field"])
        return (table or engine_lines.words())[code].format(**known)
    except (KeyError, IndexError, TypeError, ValueError):  # of an engine of another version
        return line


def _replaced(value: Any, lines: Mapping[Any, str]) -> Any:
    """A part of an answer with lines in place of others."""
    if isinstance(value, str):
        return lines.get(value, value)
    if isinstance(value, list):
        return [_replaced(each, lines) for each in value]
    if isinstance(value, dict):
        return {name: _replaced(each, lines) for name, each in value.items()}
    return value


def _fields() -> dict[str, str]:
    """The names of fields that a user fills in."""
    return {
        "name": _("name"),
        "author": _("author's name"),
        "label": _("name of the structure"),
        "id": _("case's name"),
    }


def progress(message: str) -> str:
    """What the engine is doing."""
    if part := re.fullmatch(r"(?P<what>.+) \((?P<percent>\d+) %\)", message):
        return _("{what} ({percent} %)").format(what=progress(part["what"]), percent=part["percent"])
    known = {
        "waiting": _("Waiting"),
        "getting ready (the first start takes longest)": _("Starting; the first time, this may take a minute"),
        "loading the model": _("Loading the model"),
        "waiting for other jobs to end": _("Waiting for the work before this to end"),
        "warming up": _("Loading the model"),
        "checking the scan": _("Checking the scan"),
        "making the mask": _("Making the mask"),
        "measuring": _("Measuring"),
        "looking at prototypes": _("Preparing the explanation"),
        "learning where the structure lies": _("Learning where the structure lies"),
        "reading the scans": _("Reading the scans"),
        "self-training": _("Learning from the unlabelled scans, too"),
        "finishing the model": _("Finishing the model"),
        "done": _("Done"),
        "its process could not be started": _("The training could not be started. See its log."),
        "the training stopped unexpectedly; Resume continues from the last saved state": _(
            "The training stopped unexpectedly. Resume continues from the last saved state"
        ),
    }
    if message in known:
        return known[message]
    for pattern, words in (
        (r"measuring on the hold-out: (?P<what>.+)", _("Measuring on the hold-out set")),
        (r"segmenting on (?P<device>.+)", _("Segmenting")),
        (r"tile (?P<n>\d+) of (?P<total>\d+)", _("Segmenting: part {n} of {total}")),
        (r"case (?P<n>\d+) of (?P<total>\d+)", _("Case {n} of {total}")),
        (r"reading (?P<case>\S+)", _("Reading {case}")),
        (r"preparing (?P<case>\S+)", _("Preparing {case}")),
        (r"stroke (?P<n>\d+) of (?P<total>\d+)", _("Stroke {n} of {total}")),
        (
            r"waiting for the training (?P<run>.+): pause it, or choose the CPU",
            _("Waiting for the training {run}. Pause it, or choose another device under Device."),
        ),
    ):
        found = re.fullmatch(pattern, message)
        if found:
            return words.format(**found.groupdict())
    return message


def advice(line: str, coded: Mapping[str, Any]) -> str:
    """A line about a training that is planned: how long it takes, or what speaks against it.

    Parameters
    ----------
    line : str
        As the engine wrote it.
    coded : mapping
        Its ``code`` and ``values``.
    """
    return sentence(said(line, str(coded.get("code") or ""), coded.get("values") or {}, engine_lines.plans()))


def device(name: str, words: str) -> str:
    """A device to compute on; the engine's words are for a tooltip."""
    if name == "cpu":
        return _("without graphics card")
    return _("with graphics card ({name})").format(name=words.partition(" (")[0])


def used_device(words: str) -> str:
    """The device that a result was computed on, from the engine's words."""
    return device("cpu" if words.startswith("CPU") else "", words)


def method(name: str, title: str) -> str:
    """A method of training."""
    return {
        "auto": _("Chosen for these cases"),
        "mper": _("Labelled and unlabelled scans: prototypes (MPER)"),
        "bcp": _("Labelled and unlabelled scans: copy-paste (BCP)"),
        "supervised": _("Labelled scans only"),
        "embedding-matching": _("Labelled and unlabelled scans: embedding matching"),
        "dk-uxnet": _("Labelled and unlabelled scans: two networks (DK-UXNet)"),
    }.get(name, title)


def tip(name: str, text: str) -> str:
    """What a method or a recipe of training does."""
    return {
        "mper": _(
            "Copy-paste self-training in which several prototypes per class shape the embedding and explain the result."
        ),
        "bcp": _(
            "Copy-paste self-training: a mean teacher labels unlabelled patches, which are pasted into labelled ones."
        ),
        "supervised": _("Trains on the labelled scans only."),
        "embedding-matching": _(
            "A mean teacher labels unlabelled patches; uncertain voxels get the label of the nearest labelled voxel in "
            "the embedding."
        ),
        "dk-uxnet": _("Two networks with class queries teach each other; for volumes only."),
    }.get(name, recipe(name, text))


def recipe(name: str, title: str) -> str:
    """A recipe of training."""
    return {"plus": _("Improved (default)"), "paper": _("As published")}.get(name, title)
