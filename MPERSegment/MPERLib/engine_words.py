"""What the engine says, in the user's language: refusals by their codes, progress, devices, methods of training.

The engine's own lines are English. What has no words here is shown as the engine wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

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
    line = str(answer["error"])
    values = answer.get("values")
    words = _refusals().get(str(answer.get("code") or ""))
    if words is None:
        return line
    known = {**values} if isinstance(values, Mapping) else {}
    if "dataset" in known:
        known["dataset"] = str(known["dataset"]).replace("~", "/").rpartition("/")[2]
    if "field" in known:
        known["field"] = _fields().get(str(known["field"]), known["field"])
    try:
        return words.format(**known)
    except (KeyError, IndexError, ValueError):  # an engine of another version sends other values
        return line


def _refusals() -> dict[str, str]:
    return {
        "no-dataset": _("The folder of '{dataset}' was moved or deleted. Use Open to find it."),
        "no-model": _("The model {model} was moved or deleted. Choose another model."),
        "no-prediction": _("The model's result is not in memory any more. Segment the scan again."),
        "no-scan": _("The scan is not in memory any more. Try again: it is sent once more."),
        "no-room": _("There is no room for another scan. Wait until the work that is under way has ended."),
        "no-holdout": _("Lock a hold-out set first (under Cases); otherwise the comparison is biased."),
        "disk-full": _("The disk is nearly full. Make room on it, then try again."),
        "busy": _("{n} tasks are under way already. Wait for one to end, or cancel one."),
        "ending": _("MPER's program is ending. Start it again."),
        "wrong-token": _("The access token is missing or wrong. Enter it again, under Engine."),
        "too-large": _("This is too large to be sent: {megabytes} MB at most. Choose a smaller region."),
        "string-too-long": _("The {field} is too long ({limit} characters at most)."),
        "string-too-short": _("The {field} is too short ({limit} characters at least)."),
        "run-works": _("The training {run} is at work. Pause or cancel it first."),
        "run-finished": _("The training {run} is finished. Start a new one from its model."),
        "run-over": _("The training {run} has ended already."),
        "scan-held-out": _("This scan is {case} of the hold-out set already. It is never used for training."),
        "other-image": _(
            "This mask was drawn on another image than the scan of {case}. Save it as a case of its own, under another "
            "name."
        ),
        "cohort-works": _("The cohort {folder} is being segmented already. Pause it first, or choose another folder."),
        "no-results": _("The folder {folder} holds no results of a cohort. Choose one that was segmented into."),
        "no-folder": _("The folder {folder} was moved or deleted. Choose another."),
        "inside-dataset": _("The folder '{folder}' lies inside a dataset. Choose a folder next to it."),
    }


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
        "done": _("Done"),
        "its process could not be started": _("The training could not be started. See its log."),
        "the training stopped unexpectedly; Resume continues from the last saved state": _(
            "The training stopped unexpectedly. Resume continues from the last saved state"
        ),
    }
    if message in known:
        return known[message]
    for pattern, words in (
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
    words = _advice().get(str(coded.get("code") or ""))
    values = dict(coded.get("values") or {})
    if "seconds" in values:
        values["time"] = duration(max(60.0, values["seconds"]))
    try:
        return sentence(line) if words is None else words.format(**values)
    except (KeyError, IndexError, ValueError):
        return sentence(line)


def _advice() -> dict[str, str]:
    return {
        "takes": _("About {time} on this computer, about {steps} steps."),
        "takes-too-short": _(
            "About {time} on this computer, about {steps} steps: too short to change the model. Allow more time."
        ),
        "takes-measured": _("About {time} on this computer, measured on the last training."),
        "takes-perhaps": _("Perhaps {time} on this computer; no training was measured yet."),
        "label-first": _("Label a case first."),
        "choose-start": _("Choose another start."),
        "too-few-labels": _("There are {there} labelled cases, fewer than {asked}. Label more, or use fewer."),
        "no-label": _("No case has a label. Label at least one, better two."),
        "unfit-start": _("{model} cannot be the start: {reason}."),
        "one-label": _("Only one case is labelled: the model will overfit to it. Label another."),
        "never-drawn": _("{structures}: drawn in no labelled case, so it cannot be learned. Draw it first."),
        "not-drawn": _("{structure} is not drawn in {cases}: the model learns that it is absent there. Draw it, too."),
        "regions": _("Only the region is used of {cases}."),
        "label-outside-region": _(
            "{percent} % of the label of {case} lie outside its region and are not learned from. Enlarge the region, "
            "or clear it."
        ),
        "no-holdout": _("No hold-out set is locked, so the quality cannot be measured. Lock a few labelled cases."),
        "holdout-drafts": _("Hold-out set: the labels of {cases} are unedited drafts of a model. Correct them."),
        "holdout-parts": _("Hold-out set: {cases} are labelled only in part. Label the rest."),
        "small-holdout": _("The hold-out set has {n} labelled cases, too few for a reliable measurement. Label more."),
        "none-unlabelled": _("The method also uses scans without labels, and there are none. Choose another method."),
        "painted": _(
            "{n} cases are labelled by strokes alone; such cases made models worse. Correct whole masks with strokes, "
            "or add scans without labels and choose a method that uses them."
        ),
        "other-structures": _("{model} segments {theirs}, not {ours}: these structures are learned from scratch."),
        "other-slices": _("The scans are stacks of slices; {model} was trained on volumes. Choose another start."),
        "other-volumes": _("The scans are volumes; {model} was trained on thick slices. Choose another start."),
        "unlike-start": _(
            "{cases} look unlike the scans that {model} was trained on. Check the result on the hold-out set, and "
            "compare with a training without a start model."
        ),
        "no-card": _("No graphics card is in use: training on the processor is slow."),
        "other-run": _("The training {run} is still running: both will be slower."),
        "no-room": _("Less than 1 GB is free on the disk of the dataset. Make room first."),
    }


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
        "mper": _("Labelled and unlabelled scans (recommended)"),
        "bcp": _("Labelled and unlabelled scans: copy-paste (BCP)"),
        "supervised": _("Labelled scans only"),
        "embedding-matching": _("Labelled and unlabelled scans: embedding matching"),
        "dk-uxnet": _("Labelled and unlabelled scans: two networks (DK-UXNet)"),
    }.get(name, title)


def recipe(name: str, title: str) -> str:
    """A recipe of training."""
    return {"plus": _("Improved (default)"), "paper": _("As published")}.get(name, title)
