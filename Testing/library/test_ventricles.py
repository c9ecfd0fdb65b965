"""Volumes, ejection fraction and mass of beating ellipsoids, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from phantoms import TURN, grid, positions

from mper.labels import Segmentation, make_label
from mper.measurement.ventricles import Cycle, measure_cycle
from mper.volume import Geometry, Volume

LABELS = tuple(make_label(value, name) for value, name in enumerate(("RV", "MYO", "LV"), 1))
WALL_ML = 90.0
ED, ES = 30.0, 24.0  # short half axes in mm; the long one is twice that
GRID = grid(78, (10.0, 1.4, 1.4), TURN)


def ml(short: float) -> float:
    return 4 / 3 * math.pi * short * short * 2 * short / 1000


def heart(short: float, geometry: Geometry = GRID) -> Segmentation:
    """A left ventricle as a long ellipsoid in a wall of constant volume, and a right one of half its volume."""
    along = positions(geometry) @ geometry.directions
    outer = (short**3 + WALL_ML * 1000 / (8 / 3 * math.pi)) ** (1 / 3)
    squared = (along / np.array([2.0, 1.0, 1.0])) ** 2
    inside, wall = (squared.sum(-1) <= size**2 for size in (short, outer))
    beside = (along - np.array([0.0, 0.0, 55.0])) / np.array([2.0, 1.0, 0.5])  # it may be cut by the wall
    right = ((beside**2).sum(-1) <= short**2) & ~wall
    array = np.where(inside, 3, np.where(wall, 2, np.where(right, 1, 0)))
    return Segmentation(Volume(array.astype(np.uint8), geometry), LABELS)


def value(found: Cycle, key: str) -> float:
    number = next(figure.value for figure in found.figures if figure.key == key)
    assert number is not None
    return number


@pytest.fixture(scope="module")
def beat() -> list[Segmentation]:
    return [heart(short) for short in (28.0, ED, 27.0, ES, 26.0)]


def test_a_beating_ellipsoid_has_its_volumes_and_fraction(beat: Sequence[Segmentation]) -> None:
    found = measure_cycle(beat, body_m2=2.0)
    assert (found.end_diastole, found.end_systole) == (2, 4)
    assert value(found, "lv_edv") == pytest.approx(ml(ED), rel=0.01)
    assert value(found, "lv_esv") == pytest.approx(ml(ES), rel=0.01)
    assert value(found, "lv_ef") == pytest.approx(100 * (1 - (ES / ED) ** 3), abs=0.5)
    assert value(found, "lv_mass") == pytest.approx(1.05 * WALL_ML, rel=0.02)
    assert value(found, "lv_sv") == value(found, "lv_edv") - value(found, "lv_esv")
    assert value(found, "lv_edv_index") == value(found, "lv_edv") / 2
    assert found.curves_ml["LV"][1] == value(found, "lv_edv")
    assert found.notes == ("ED is phase 2 and ES is phase 4: there the LV is largest and smallest",)


def test_the_right_ventricle_is_measured_at_the_phases_of_the_left(beat: Sequence[Segmentation]) -> None:
    found = measure_cycle(beat)
    volumes = [np.count_nonzero(mask.labelmap.array == 1) * 10 * 1.4 * 1.4 / 1000 for mask in beat]
    assert value(found, "rv_edv") == pytest.approx(volumes[1])
    assert value(found, "rv_ef") == pytest.approx(100 * (volumes[1] - volumes[3]) / volumes[1])


def test_phases_that_are_given_are_taken_and_a_wrong_order_is_said(beat: Sequence[Segmentation]) -> None:
    assert value(measure_cycle(beat, 1, 5), "lv_edv") == measure_cycle(beat).curves_ml["LV"][0]
    with pytest.raises(ValueError, match=r"phase 4, taken as ED, has a smaller LV .* than phase 2, taken as ES"):
        measure_cycle(beat, 4, 2)
    with pytest.raises(ValueError, match="there is no phase 6 to be ES"):
        measure_cycle(beat, 1, 6)


def test_figures_do_not_depend_on_the_axes_of_the_grid(beat: Sequence[Segmentation]) -> None:
    turned = [
        Segmentation(
            Volume(np.flip(m.labelmap.array.transpose(2, 0, 1), 0), m.labelmap.geometry.reordered((2, 0, 1), (0,))),
            LABELS,
        )
        for m in beat
    ]
    one, other = measure_cycle(beat), measure_cycle(turned)
    assert [figure.value for figure in other.figures] == pytest.approx([figure.value for figure in one.figures])


def test_some_phases_of_a_series_keep_their_numbers(beat: Sequence[Segmentation]) -> None:
    found = measure_cycle([beat[3], beat[1]], numbers=(17, 3))
    assert (found.end_diastole, found.end_systole) == (3, 17)
    assert value(found, "lv_ef") == value(measure_cycle(beat), "lv_ef")
    assert value(measure_cycle(beat[:2], 8, 5, numbers=(5, 8)), "lv_edv") == found.curves_ml["LV"][1]
    with pytest.raises(ValueError, match="no phase 1 to be ED; 2 phases are given, numbers 5, 8"):
        measure_cycle(beat[:2], 1, 8, numbers=(5, 8))
    with pytest.raises(ValueError, match="give each phase its own number"):
        measure_cycle(beat[:2], numbers=(5, 5))


def test_one_phase_has_volumes_and_no_fraction() -> None:
    found = measure_cycle([heart(ED)])
    assert [figure.key for figure in found.figures] == ["lv_volume", "rv_volume", "myo_volume"]
    assert found.notes == ("one phase is given: EF needs a mask of ED and one of ES",)


def test_a_phase_without_a_ventricle_is_not_end_systole(beat: Sequence[Segmentation]) -> None:
    empty = Segmentation(Volume(np.zeros(GRID.shape, np.uint8), GRID), LABELS)
    found = measure_cycle([*beat, empty])
    assert found.end_systole == 4
    assert found.notes[0].startswith("no voxel is LV in phase 6")


def counted(**phases: Sequence[int]) -> list[Segmentation]:
    """Masks of so many voxels of each structure in each phase; a voxel has 8 mm3."""
    names = ("RV", "MYO", "LV", "LA")
    masks = []
    for counts in zip(*phases.values(), strict=True):
        array = np.zeros((4, 10, 10), np.uint8)
        for name, count in zip(phases, counts, strict=True):
            array[names.index(name)].reshape(-1)[:count] = names.index(name) + 1
        labels = tuple(make_label(names.index(name) + 1, name) for name in phases)
        masks.append(Segmentation(Volume(array, Geometry(np.diag([8.0, 1, 1, 1]), array.shape)), labels))
    return masks


def figure(found: Cycle, key: str) -> tuple[float | None, str]:
    return next((each.value, str(each.method)) for each in found.figures if each.key == key)


def test_atrial_emptying_is_that_of_its_largest_and_smallest_volume() -> None:
    found = measure_cycle(counted(LA=(100, 60, 80), LV=(100, 60, 80)))
    assert value(found, "la_emptying") == pytest.approx(40)


def test_an_empty_ventricle_has_no_ejection_fraction_and_says_why() -> None:
    found = measure_cycle(counted(RV=(100, 0), LV=(100, 50)), body_m2=2.0)
    assert value(found, "lv_ef") == pytest.approx(50)
    assert value(found, "rv_edv") == pytest.approx(0.8)
    for key in ("rv_esv", "rv_sv", "rv_ef"):
        assert figure(found, key) == (None, "no voxel is RV at ES")
    assert {"rv_edv_index"} == {each.key for each in found.figures if each.key in ("rv_edv_index", "rv_esv_index")}
    line = "no voxel is RV at ES (phase 2), so figures that need it are not given; check the mask"
    assert line in found.notes
    found = measure_cycle(counted(RV=(0, 0), LV=(100, 50)))
    assert figure(found, "rv_ef") == (None, "no voxel is RV at ED, ES")
    assert [figure(found, f"rv_{key}")[0] for key in ("edv", "esv", "sv")] == [None] * 3


@pytest.mark.parametrize(("ed", "es", "empty"), [(1, 2, "ES"), (2, 1, "ED")])
def test_a_phase_that_is_given_and_empty_has_no_figures_and_no_false_note(ed: int, es: int, empty: str) -> None:
    found = measure_cycle(counted(LV=(100, 0, 60)), ed, es)
    assert figure(found, "lv_ef") == figure(found, "lv_sv") == (None, f"no voxel is LV at {empty}")
    assert found.notes == (
        f"no voxel is LV at {empty} (phase 2), so figures that need it are not given; check the mask",
    )


def test_phases_without_an_atrium_are_left_out_of_its_emptying() -> None:
    found = measure_cycle(counted(LA=(100, 90, 0), LV=(100, 60, 80)))
    assert figure(found, "la_emptying") == (pytest.approx(10), "(max - min) / max over 2 phases")
    assert "no voxel is LA in phase 3, which the emptying fraction leaves out; check the mask" in found.notes
    found = measure_cycle(counted(LA=(0, 90, 0), LV=(100, 60, 80)))
    assert figure(found, "la_emptying") == (None, "fewer than two phases have a voxel of the LA")


def test_no_myocardium_has_no_mass_and_no_volume() -> None:
    found = measure_cycle(counted(MYO=(0, 50), LV=(100, 60)))
    assert figure(found, "lv_mass") == (None, "no voxel is MYO at ED")
    assert found.notes[-1].startswith("no voxel is MYO at ED (phase 1)")
    assert figure(measure_cycle(counted(MYO=(0,), LV=(100,))), "myo_volume") == (None, "no voxel is MYO")


def test_phases_of_other_grids_of_unknown_spacing_or_without_ventricles_are_refused() -> None:
    one = heart(ED)
    moved = Geometry(GRID.affine + np.array([[0, 0, 0, 5.0], *[[0.0] * 4] * 3]), GRID.shape)
    with pytest.raises(ValueError, match="the masks of phases 1 and 2 lie on different grids"):
        measure_cycle([one, Segmentation(Volume(one.labelmap.array, moved), LABELS)])
    with pytest.raises(ValueError, match="the spacing of the mask of phase 1 is unknown"):
        measure_cycle([Segmentation(Volume(one.labelmap.array, Geometry.unknown(GRID.shape)), LABELS)])
    other = tuple(make_label(value, name) for value, name in enumerate(("LA", "RA", "Scar"), 1))
    with pytest.raises(ValueError, match="the masks have no ventricle"):
        measure_cycle([Segmentation(one.labelmap, other)])
    with pytest.raises(ValueError, match="the masks are empty"):
        measure_cycle([Segmentation(Volume(np.zeros(GRID.shape, np.uint8), GRID), LABELS)])
