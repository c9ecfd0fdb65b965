"""The ventricles over a cardiac cycle: EDV, ESV, SV, EF and mass, from masks of the short axis.

Volumes are sums over slices (voxels times voxel size, Simpson's method), which is right for stacks of thick slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mper.labels import Label, Segmentation, make_label, structure_of
from mper.measurement.figures import Figure, indexed
from mper.utils.coded import Coded

MYOCARDIUM_G_PER_ML = 1.05
_NAMES = {
    "LV": Coded("Left ventricle", "left-ventricle"),
    "RV": Coded("Right ventricle", "right-ventricle"),
    "LA": Coded("Left atrium", "left-atrium"),
}
_TISSUE = "MYO"


_ONE_PHASE = Coded("one phase is given: EF needs a mask of ED and one of ES", "one-phase")


@dataclass(frozen=True, eq=False)
class Cycle:
    """Measured phases.

    Parameters
    ----------
    figures : tuple of Figure
    curves_ml : mapping of str to tuple of float
        Volume of each structure in each phase, by its name (LV, RV, MYO, LA).
    end_diastole, end_systole : int or None
        Phases counted from 1; None where there is one phase, or no ventricle.
    notes : tuple of str
    """

    figures: tuple[Figure, ...]
    curves_ml: Mapping[str, tuple[float, ...]]
    end_diastole: int | None
    end_systole: int | None
    notes: tuple[str, ...]


def find_label(labels: Sequence[Label], name: str) -> Label | None:
    """The label of a structure (LA, LV, RV, MYO), by its code or name."""
    known = make_label(1, name)
    assert known.type is not None
    names = (name.casefold(), known.type.meaning.casefold())
    return next((e for e in labels if structure_of(e) == structure_of(known) or e.name.casefold() in names), None)


def measure_cycle(
    phases: Sequence[Segmentation],
    end_diastole: int | None = None,
    end_systole: int | None = None,
    body_m2: float | None = None,
    numbers: Sequence[int] = (),
) -> Cycle:
    """Measure the ventricles over phases.

    Parameters
    ----------
    phases : sequence of Segmentation
        In the order of time, on one grid; one phase gives volumes alone.
    end_diastole, end_systole : int or None
        Phases by their numbers; None: where the left ventricle (else the right) is largest and smallest.
    body_m2 : float or None
        Body surface area.
    numbers : sequence of int
        What each phase is called, where only some phases of a series are given; empty counts them from 1.

    Raises
    ------
    ValueError
        If the spacing is unknown, phases lie on different grids or have different structures, there is no ventricle,
        or the phase given as ED is smaller than that given as ES.
    """
    numbers = tuple(numbers) or tuple(range(1, len(phases) + 1))
    if len(numbers) != len(phases) or len(set(numbers)) != len(numbers):
        raise ValueError(f"{len(phases)} phases are given with the numbers {numbers}; give each phase its own number")
    curves = _curves(phases, numbers)
    reference = next((name for name in ("LV", "RV") if name in curves), None)
    if reference is None:
        raise ValueError(
            Coded(
                f"the masks have no ventricle (LV, RV) but {_named(phases[0])}; name the values with --labels",
                "no-ventricle",
            )
        )
    volumes = curves[reference]
    if not any(volumes):
        raise ValueError(
            Coded(
                f"the masks are empty: no voxel is {reference}; there is nothing to measure",
                "empty-masks",
                structure=reference,
            )
        )
    if len(phases) == 1:
        if end_diastole or end_systole:
            raise ValueError(
                Coded("there is one phase, and ED and ES are two; give the masks of both", "one-phase-alone")
            )
        figures = [_one_phase(name, values[0]) for name, values in curves.items()]
        return Cycle(tuple(figures), curves, None, None, (_ONE_PHASE,))
    notes: list[str] = []
    by_number = {name: dict(zip(numbers, values, strict=True)) for name, values in curves.items()}
    ed, es = _phases(by_number[reference], end_diastole, end_systole, reference, notes)
    figures = []
    for name in (name for name in ("LV", "RV") if name in curves):
        figures += _function(name, by_number[name], ed, es, body_m2, notes)
    if _TISSUE in curves:
        figures += _mass(by_number[_TISSUE][ed], ed, body_m2, notes)
    if "LA" in curves:
        figures.append(_emptying(by_number["LA"], notes))
    return Cycle(tuple(figures), curves, ed, es, tuple(notes))


def _curves(phases: Sequence[Segmentation], numbers: Sequence[int]) -> dict[str, tuple[float, ...]]:
    if not phases:
        raise ValueError("no mask is given")
    first = phases[0].labelmap.geometry
    curves: dict[str, list[float]] = {}
    for number, phase in zip(numbers, phases, strict=True):
        geometry = phase.labelmap.geometry
        voxel_ml = geometry.voxel_ml
        if voxel_ml is None:
            raise ValueError(
                Coded(
                    f"the spacing of the mask of phase {number} is unknown, so no figure in mL can be given; "
                    "give the spacing",
                    "mask-without-spacing",
                )
            )
        if not geometry.is_close(first, 0.01):
            raise ValueError(
                Coded(
                    f"the masks of phases {numbers[0]} and {number} lie on different grids: {first.describe()} and "
                    f"{geometry.describe()}; give masks of one time series",
                    "phases-of-other-grids",
                    first=numbers[0],
                    second=number,
                )
            )
        counts = np.bincount(phase.labelmap.array.reshape(-1), minlength=256)
        for name in ("LV", "RV", _TISSUE, "LA"):
            label = find_label(phase.labels, name)
            if label is not None:
                curves.setdefault(name, []).append(int(counts[label.value]) * voxel_ml)
    for name, values in curves.items():
        if len(values) < len(phases):
            raise ValueError(
                Coded(
                    f"{len(values)} of {len(phases)} masks have the structure {name}; "
                    "give masks of one model or one list of labels",
                    "structure-missing-in-phases",
                    n=len(values),
                    total=len(phases),
                    structure=name,
                )
            )
    return {name: tuple(values) for name, values in curves.items()}


def _phases(
    volumes: Mapping[int, float], end_diastole: int | None, end_systole: int | None, name: str, notes: list[str]
) -> tuple[int, int]:
    count = len(volumes)
    for what, number in (("ED", end_diastole), ("ES", end_systole)):
        if number is not None and number not in volumes:
            from_one = tuple(volumes) == tuple(range(1, count + 1))
            given = "counted from 1" if from_one else f"numbers {', '.join(map(str, volumes))}"
            raise ValueError(
                Coded(
                    f"there is no phase {number} to be {what}; {count} phases are given, {given}",
                    "no-such-phase",
                    n=number,
                    what=what,
                    count=count,
                )
            )
    present = {number: ml for number, ml in volumes.items() if ml > 0}
    ed = end_diastole or max(present, key=present.__getitem__)
    es = end_systole or min(present, key=present.__getitem__)
    missing = ", ".join(str(number) for number in volumes if number not in (*present, ed, es))
    if missing:
        notes.append(
            Coded(
                f"no voxel is {name} in phase {missing}, which is taken neither as ED nor as ES; check the mask",
                "empty-phases",
                structure=name,
                phases=missing,
            )
        )
    if ed == es:
        raise ValueError(
            Coded(
                f"phase {ed} is both ED and ES; give masks of two phases in which the {name} differs in size",
                "same-phase",
                phase=ed,
                structure=name,
            )
        )
    if 0 < volumes[ed] < volumes[es]:
        raise ValueError(
            Coded(
                f"phase {ed}, taken as ED, has a smaller {name} ({volumes[ed]:.1f} mL) than phase {es}, taken as ES "
                f"({volumes[es]:.1f} mL); swap them",
                "ed-smaller",
                ed=ed,
                es=es,
                structure=name,
                ed_ml=f"{volumes[ed]:.1f}",
                es_ml=f"{volumes[es]:.1f}",
            )
        )
    if end_diastole is None or end_systole is None:
        notes.append(
            Coded(
                f"ED is phase {ed} and ES is phase {es}: there the {name} is largest and smallest",
                "phases-chosen",
                ed=ed,
                es=es,
                structure=name,
            )
        )
    return ed, es


def _function(
    name: str, volumes: Mapping[int, float], ed: int, es: int, body_m2: float | None, notes: list[str]
) -> list[Figure]:
    group, key = _NAMES[name], name.lower()
    edv, esv = volumes[ed], volumes[es]
    empty = [(what, phase) for what, phase in (("ED", ed), ("ES", es)) if volumes[phase] == 0]
    notes += [_empty_note(name, what, phase) for what, phase in empty]

    def figure(what: str, value: float, unit: str, how: str, *needed: str) -> Figure:
        lacking = ", ".join(each for each, _ in empty if each in needed)
        if lacking:
            return Figure(f"{key}_{what.lower()}", f"{name} {what}", None, unit, _empty(name, lacking), group)
        return Figure(f"{key}_{what.lower()}", f"{name} {what}", value, unit, how, group)

    def how(phase: str) -> str:
        return Coded(f"voxels x voxel size over all slices, phase {phase}", "method-phase", phase=phase)

    figures = [
        figure("EDV", edv, "mL", how(f"{ed} (ED)"), "ED"),
        figure("ESV", esv, "mL", how(f"{es} (ES)"), "ES"),
        figure("SV", edv - esv, "mL", "EDV - ESV", "ED", "ES"),
    ]
    figures += [each for each in (indexed(each, body_m2) for each in list(figures)) if each is not None]
    figures.append(figure("EF", 100 * (edv - esv) / (edv or 1), "%", "SV / EDV", "ED", "ES"))
    if not empty and edv < esv:
        notes.append(
            Coded(
                f"the {name} is smaller in phase {ed} (ED) than in phase {es} (ES); check its masks",
                "smaller-in-ed",
                ed=ed,
                es=es,
                structure=name,
            )
        )
    return figures


def _mass(ml: float, ed: int, body_m2: float | None, notes: list[str]) -> list[Figure]:
    line = f"volume of the myocardium at phase {ed} (ED) x {MYOCARDIUM_G_PER_ML} g/mL"
    how, grams = Coded(line, "method-mass", phase=ed, density=MYOCARDIUM_G_PER_ML), ml * MYOCARDIUM_G_PER_ML
    if ml == 0:
        notes.append(_empty_note(_TISSUE, "ED", ed))
        how = _empty(_TISSUE, "ED")
    mass = Figure("lv_mass", Coded("LV mass", "lv-mass"), grams or None, "g", how, _NAMES["LV"])
    return [each for each in (mass, indexed(mass, body_m2)) if each is not None]


def _emptying(volumes: Mapping[int, float], notes: list[str]) -> Figure:
    """Of the phases that show the atrium."""
    present = [ml for ml in volumes.values() if ml > 0]
    missing = ", ".join(str(number) for number, ml in volumes.items() if ml == 0)
    if missing:
        line = f"no voxel is LA in phase {missing}, which the emptying fraction leaves out; check the mask"
        notes.append(Coded(line, "empty-atrium-phases", phases=missing))
    title, group = Coded("LA total emptying fraction", "la-emptying"), _NAMES["LA"]
    if len(present) < 2:
        how = Coded("fewer than two phases have a voxel of the LA", "method-no-emptying")
        return Figure("la_emptying", title, None, "%", how, group)
    how = Coded(f"(max - min) / max over {len(present)} phases", "method-emptying", n=len(present))
    return Figure("la_emptying", title, 100 * (max(present) - min(present)) / max(present), "%", how, group)


def _empty(name: str, what: str) -> Coded:
    return Coded(f"no voxel is {name} at {what}", "method-none-at", structure=name, phase=what)


def _empty_note(name: str, what: str, phase: int) -> Coded:
    line = f"no voxel is {name} at {what} (phase {phase}), so figures that need it are not given; check the mask"
    return Coded(line, "empty-at", structure=name, what=what, phase=phase)


def _one_phase(name: str, ml: float) -> Figure:
    group = Coded("Myocardium", "myocardium") if name == _TISSUE else _NAMES.get(name, name)
    how = Coded("voxels x voxel size over all slices, one phase", "method-one-phase")
    title = Coded(f"{name} volume", "figure-volume", structure=name)
    if ml == 0:
        how = Coded(f"no voxel is {name}", "method-none", structure=name)
    return Figure(f"{name.lower()}_volume", title, ml or None, "mL", how, group)


def _named(phase: Segmentation) -> str:
    return ", ".join(label.name for label in phase.labels)
