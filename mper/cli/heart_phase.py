"""End diastole and end systole where nothing next to the scan says them: by the left ventricle that a model finds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from mper.labels import Label, make_label, structure_of
from mper.phases import ED, Phases
from mper.progress import Notify, Report, part_of

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor
    from mper.io.opened import OpenedScan
    from mper.models.card import StoredBundle

_SHARE = 0.9  # of the work: every phase is segmented to find one


def check_ventricle(stored: StoredBundle, phases: Phases, choice: str) -> None:
    """Raise ValueError unless the model draws the left ventricle, by which ED or ES can be found."""
    if _ventricle(stored.card.labels) is None:
        raise ValueError(
            f"the scan does not say which phase is {choice}, and the model {stored.card.name} has no left ventricle "
            f"(LV) to find it by; choose one of its {phases.describe()} with --phase 1 to {phases.count}"
        )


def find_phase(
    scan: OpenedScan, arguments: argparse.Namespace, predictor: Predictor, report: Report, notify: Notify
) -> int:
    """The phase, counted from 1, in which the left ventricle is largest (ED) or smallest (ES).

    Raises
    ------
    ValueError
        If the model finds no left ventricle in any phase.
    """
    ventricle = _ventricle(predictor.bundle.card.labels)
    assert ventricle is not None
    count = scan.phases.count
    voxels, volumes_ml = {}, {}
    for number in range(1, count + 1):
        beat = part_of(report, _SHARE * (number - 1) / count, _SHARE / count, f"looking for {arguments.phase}")
        found = predictor.predict(
            scan.read(number), roi=arguments.roi, at=arguments.at, tta=arguments.tta, report=beat
        ).segmentation
        voxels[number] = int(np.count_nonzero(found.labelmap.array == ventricle.value))
        volumes_ml[number] = found.volumes_ml()[ventricle.name]
    present = {number: size for number, size in voxels.items() if size}
    if not present:
        raise ValueError(f"the model finds no left ventricle in any of the {count} phases; choose one with --phase")
    chosen = max(present, key=present.__getitem__) if arguments.phase == ED else min(present, key=present.__getitem__)
    size, ml = "largest" if arguments.phase == ED else "smallest", volumes_ml[chosen]
    amount = f"{present[chosen]} voxels" if ml is None else f"{ml:.1f} mL"
    notify(f"{arguments.phase} is phase {chosen} of {count}: there the left ventricle is {size} ({amount})")
    return chosen


def _ventricle(labels: tuple[Label, ...]) -> Label | None:
    wanted = structure_of(make_label(1, "LV"))
    names = ("lv", "left ventricle")
    return next((one for one in labels if structure_of(one) == wanted or one.name.casefold() in names), None)
