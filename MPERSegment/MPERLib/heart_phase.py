"""End diastole and end systole of a time series: the phases in which the left ventricle is largest and smallest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from slicer.i18n import tr as _

from mper.labels import make_label

ED, ES = "ED", "ES"  # as in ``mper segment --phase``
_VENTRICLE = make_label(1, "LV")
_NAMES = ("lv", "left ventricle")


def ventricle_of(labels: Sequence[Mapping]) -> Mapping | None:
    """The label of the left ventricle, by its code or name; None if there is none."""
    code = _VENTRICLE.type.value if _VENTRICLE.type else ""
    for label in labels:
        if (label.get("type") or {}).get("value") == code or label["name"].casefold() in _NAMES:
            return label
    return None


@dataclass(frozen=True)
class PhaseMask:
    """The mask of one phase: its number, the voxels of its left ventricle, and the engine's answer."""

    number: int
    voxels: int
    mask: np.ndarray
    header: dict
    result: dict

    @classmethod
    def from_answer(cls, number: int, mask: np.ndarray, header: dict, result: dict) -> PhaseMask:
        label = ventricle_of(result["labels"])
        voxels = int(np.count_nonzero(mask == label["value"])) if label else 0
        return cls(number, voxels, mask, header, result)

    def wins(self, choice: str, other: PhaseMask | None) -> bool:
        """Whether it is closer to ED or ES than another phase; one without a left ventricle never is."""
        if not self.voxels or other is None:
            return self.voxels > 0
        return self.voxels > other.voxels if choice == ED else self.voxels < other.voxels


def phase_title(choice: str) -> str:
    """ED or ES for the user."""
    titles = {ED: _("End diastole (ED): largest left ventricle"), ES: _("End systole (ES): smallest left ventricle")}
    return titles[choice]


def refuse_other_model(choice: str, labels: Sequence[Mapping]) -> None:
    """Raise ValueError unless the model segments the left ventricle."""
    if ventricle_of(labels) is None:
        text = _("This model does not segment the left ventricle (LV), by which {phase} is found. Choose a phase.")
        raise ValueError(text.format(phase=choice))
