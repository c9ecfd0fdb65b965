"""The terms of use of models that are not free for every purpose: shown, and acknowledged once for each model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from MPERLib import settings
from MPERLib.formatting import model_name, model_terms
from MPERLib.questions import agreed

KEY = "MPER/Terms/"  # and the model's name; holds the terms that were acknowledged
_LIMITED = re.compile(r"\bresearch\b|\bteaching\b|non-?commercial|\bNC\b|\bSA\b|share", re.IGNORECASE)


def limiting_terms(model: Mapping[str, Any]) -> str:
    """The terms of a model as its card states them, if they limit what it may be used for; else ""."""
    terms = model_terms(model)
    return terms if _LIMITED.search(terms) else ""


def acknowledged(model: Mapping[str, Any]) -> bool:
    """Whether the user has acknowledged the terms of a model; asks once, and again only when they have changed."""
    terms = limiting_terms(model)
    if not terms or settings.setting(_key(model)) == terms:
        return True
    question = _(
        "Terms of use of the model '{model}':\n\n{terms}\n\nThey hold for the model and for what you make with it. "
        "OK means that you have read them; you are asked once."
    )
    if not agreed(question.format(model=model_name(model), terms=terms), _("Terms of use")):
        return False
    acknowledge(model)
    return True


def acknowledge(model: Mapping[str, Any]) -> None:
    """Note that the user has acknowledged the terms of a model, for programs that click."""
    settings.setSetting(_key(model), limiting_terms(model))


def _key(model: Mapping[str, Any]) -> str:
    return KEY + str(model.get("name") or model["id"]).replace("/", "_")
