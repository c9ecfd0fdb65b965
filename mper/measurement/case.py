"""All figures of one case: which structures its masks have decides what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mper.labels import Label, Segmentation
from mper.measurement.atrium import Atrium, measure_atrium, touched_ends
from mper.measurement.clipping import Clip
from mper.measurement.figures import Figure, with_ranges
from mper.measurement.measures import measure
from mper.measurement.surface import METHOD, is_stack
from mper.measurement.ventricles import Cycle, find_label, measure_cycle
from mper.measurement.wall import WallSettings
from mper.utils.coded import Coded, line_of
from mper.volume import Volume

RANGE_LEVELS = (0.3, 0.7)


@dataclass(frozen=True)
class CaseSettings:
    """What is known of the patient and asked for besides the masks.

    Parameters
    ----------
    clips : tuple of Clip
    body_m2 : float or None
        Body surface area.
    wall : WallSettings
    end_diastole, end_systole : int or None
        Phases by their numbers.
    phase_numbers : tuple of int
        What each phase is called; empty counts them from 1.
    """

    clips: tuple[Clip, ...] = ()
    body_m2: float | None = None
    wall: WallSettings = field(default_factory=WallSettings)
    end_diastole: int | None = None
    end_systole: int | None = None
    phase_numbers: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class MeasuredCase:
    """The figures of a case.

    Parameters
    ----------
    figures : tuple of Figure
    notes : tuple of str
    atrium : Atrium or None
        Where the mask of one phase has a left atrium.
    cycle : Cycle or None
        Where the masks have ventricles.
    """

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    atrium: Atrium | None = None
    cycle: Cycle | None = None


def measure_case(
    phases: Sequence[Segmentation],
    scan: Volume | None = None,
    settings: CaseSettings | None = None,
    probability: Volume | None = None,
) -> MeasuredCase:
    """Measure the masks of one case.

    Parameters
    ----------
    phases : sequence of Segmentation
        One mask, or one for each phase in the order of time.
    scan : Volume or None
        The LGE-MRI of a left atrium, on the grid of the mask.
    settings : CaseSettings or None
    probability : Volume or None
        Of the left atrium, 0 to 1, on the grid of the mask: figures then have a range over the masks at 0.3 and 0.7.

    Raises
    ------
    ValueError
        If something cannot be measured as it is asked for, see `measure_atrium` and `measure_cycle`.
    """
    settings = settings or CaseSettings()
    first = phases[0]
    unlabelled = sum(int(np.count_nonzero(phase.labelmap.array == 255)) for phase in phases)
    line = f"{unlabelled} unlabelled voxels (255) count as background"
    notes: list[str] = [Coded(line, "unlabelled-as-background", n=unlabelled)] if unlabelled else []
    notes += _doubts(phases, settings.phase_numbers)
    names = {name: find_label(first.labels, name) for name in ("LA", "LV", "RV", "MYO")}
    atrium = None
    cycle = None
    figures: list[Figure] = []
    if names["LA"] is not None and len(phases) == 1:
        atrium = _atrium(first, names["LA"], scan, settings, probability, notes)
        figures += atrium.figures
    elif settings.clips or probability is not None:
        raise ValueError(
            Coded(
                "clips and probabilities are those of one mask of a left atrium (LA); this case has "
                f"{', '.join(label.name for label in first.labels)} in {len(phases)} phases: leave them out",
                "clips-need-one-atrium",
            )
        )
    if names["LV"] is not None or names["RV"] is not None:
        cycle = measure_cycle(
            phases, settings.end_diastole, settings.end_systole, settings.body_m2, settings.phase_numbers
        )
        figures += [each for each in cycle.figures if atrium is None or each.key != "la_volume"]
        notes += cycle.notes
    elif len(phases) > 1:
        measure_cycle(phases)  # says what is missing
    known = {each.value for name, each in names.items() if each is not None and (cycle is not None or name == "LA")}
    others = [label for label in first.labels if label.value not in known]
    if others and len(phases) == 1:
        figures += _others(first, others, {figure.key for figure in figures})
    if not figures:
        raise ValueError(
            Coded(
                "the mask has no structure that can be measured alone; name its values with --labels",
                "nothing-to-measure",
            )
        )
    return MeasuredCase(tuple(figures), tuple(dict.fromkeys(notes)), atrium, cycle)


def _doubts(phases: Sequence[Segmentation], numbers: Sequence[int]) -> list[str]:
    """Notes on masks that say themselves that they may be wrong."""
    notes = []
    for number, phase in zip(numbers or range(1, len(phases) + 1), phases, strict=True):
        which = "the mask" if len(phases) == 1 else f"the mask of phase {number}"
        for quality in dict.fromkeys(made.quality for made in phase.provenance.values() if made.is_doubtful):
            notes.append(f"expected quality of {which}: {quality}; look at it before you use its figures")
    return notes


def _atrium(
    mask: Segmentation,
    label: Label,
    scan: Volume | None,
    settings: CaseSettings,
    probability: Volume | None,
    notes: list[str],
) -> Atrium:
    geometry = mask.labelmap.geometry
    # Slicer crops what it saves to what is drawn; such a grid says nothing of where the scan ends.
    whole_scan = scan is not None or not touched_ends(np.asarray(mask.labelmap.array != 0)).all()

    def measured(array: npt.NDArray[np.bool_]) -> Atrium:
        return measure_atrium(array, geometry, scan, settings.clips, settings.body_m2, settings.wall, whole_scan)

    found = measured(np.asarray(mask.labelmap.array == label.value))
    notes += found.notes
    if probability is None:
        return found
    if not probability.geometry.is_close(geometry, 0.01):
        raise ValueError(
            Coded(
                f"probability and mask lie on different grids: {probability.geometry.describe()} and "
                f"{geometry.describe()}; give the probability that was written with the mask",
                "probability-of-another-grid",
            )
        )
    kind, values = probability.array.dtype.kind, probability.array.astype(np.float32, copy=False)
    if kind != "f" or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            "the probability is no map of fractions from 0 to 1; write it with mper segment --probabilities"
        )
    others = []
    for level in RANGE_LEVELS:
        try:
            others.append(measured(np.asarray(values >= level)).figures)
        except ValueError as error:
            at, reason = f"{level:g}", line_of(error)
            line = f"the mask at probability {at} has no figures: {reason}"
            notes.append(Coded(line, "no-range", level=at, reason=reason))
    return replace(found, figures=with_ranges(found.figures, others))


def _others(mask: Segmentation, labels: Sequence[Label], taken: set[str]) -> list[Figure]:
    """Volume and surface of structures that have no figures of their own; no key is one of `taken`."""
    if mask.labelmap.geometry.voxel_ml is None:
        raise ValueError(
            Coded(
                "the spacing of the mask is unknown, so no figure in mL or mm can be given; give the spacing",
                "mask-without-spacing",
            )
        )
    stack = is_stack(mask.labelmap.geometry)
    figures = []
    for found in measure(Segmentation(mask.labelmap, mask.labels)):
        if found.value not in {label.value for label in labels}:
            continue
        word = key = "".join(c if c.isalnum() else "_" for c in found.name.lower())
        number = 1
        while taken & {f"{key}_volume", f"{key}_area"}:
            number += 1
            key = f"{word}_{number}"
        taken |= {f"{key}_volume", f"{key}_area"}
        name = Coded(f"{found.name} volume", "figure-volume", structure=found.name)
        how = Coded("voxels x voxel size", "method-voxels")
        figures.append(Figure(f"{key}_volume", name, found.volume_ml, "mL", how, found.name))
        if not stack:
            name = Coded(f"{found.name} surface", "figure-surface", structure=found.name)
            how = Coded(METHOD.split(", ")[0], "method-surface-alone", **METHOD.values)
            figures.append(Figure(f"{key}_area", name, found.surface_mm2, "mm2", how, found.name))
    return figures
