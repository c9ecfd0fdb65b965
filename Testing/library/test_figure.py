"""A figure shows the patient, not the array: upright planes with the letters of their directions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import LPS, stored_otherwise

from mper.labels import Segmentation, make_label
from mper.visualization import figure
from mper.visualization.figure import draw_segmentation, patient_letters
from mper.volume import Geometry, Volume

ORDERS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for n in range(4)
    for flips in itertools.combinations(range(3), n)
]


def scan_and_mask() -> tuple[Volume, Segmentation]:
    rng = np.random.default_rng(0)
    scan = Volume(
        rng.integers(0, 200, (5, 7, 9)).astype(np.int16), Geometry.from_axes((1, 2, 3), (3, 1, 2), LPS, (5, 7, 9))
    )
    array = np.zeros(scan.array.shape, np.uint8)
    array[1:4, 1:4, 2:5] = 1
    return scan, Segmentation(scan.with_array(array), (make_label(1, "LA"),))


@pytest.mark.parametrize(("axes", "flips"), ORDERS)
def test_voxels_along_the_patient_axes_do_not_depend_on_how_they_are_stored(
    axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    scan, _ = scan_and_mask()
    moved = stored_otherwise(scan, axes, flips)
    assert scan.geometry.reordered(axes, flips).is_close(moved.geometry)
    back = moved.along_patient_axes()
    np.testing.assert_array_equal(back.array, scan.array)
    assert back.geometry.is_close(scan.geometry)


@pytest.mark.parametrize(("axes", "flips"), [ORDERS[n] for n in (7, 13, 22, 38, 47)])
def test_the_figure_is_the_same_however_the_scan_is_stored(
    axes: tuple[int, int, int], flips: tuple[int, ...], tmp_path: Path
) -> None:
    scan, mask = scan_and_mask()
    draw_segmentation(tmp_path / "a.png", scan, mask, mask.labelmap, 1, "title", [])
    moved = Segmentation(stored_otherwise(mask.labelmap, axes, flips), mask.labels)
    draw_segmentation(tmp_path / "b.png", stored_otherwise(scan, axes, flips), moved, moved.labelmap, 1, "title", [])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_outline_lies_around_the_structure_where_it_is_in_the_patient(tmp_path: Path) -> None:
    shape, pixels = (30, 40, 36), figure._PIXELS_PER_MM
    grid = Geometry.from_axes((0, 0, 0), (2, 1, 1), LPS, shape)  # k to the head, j to the back, i to the left
    mask = np.zeros(shape, np.uint8)
    mask[5:11, 6:15, 4:16] = 1  # right, anterior, inferior
    drawn = Segmentation(Volume(mask, grid), (make_label(1, "LA"),))
    draw_segmentation(tmp_path / "a.png", Volume(50 + 900 * mask.astype(np.int16), grid), drawn, None, 1, "", [])
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    outline, bright = np.abs(picture - figure._OUTLINE).sum(axis=-1) < 60, picture.min(axis=-1) > 250
    left, height = figure._EDGE, 30 * 2 * pixels
    for across, down, x, y in ((36, 40, 10, 10.5), (36, 60, 10, 60 - 16), (40, 60, 10.5, 60 - 16)):  # mm
        panel = np.zeros_like(bright)
        panel[figure._EDGE + figure._CAPTION :, left : left + round(across * pixels)] = True
        top = figure._EDGE + figure._CAPTION + (height - down * pixels) / 2
        for shown in (outline & panel, bright & panel):
            rows, columns = np.nonzero(shown)
            middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
            assert np.abs(np.subtract(middle, (top + y * pixels, left + x * pixels))).max() < 3
        left += round(across * pixels) + figure._GAP


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ((1, 0, 0), "L"),
        ((-1, 0, 0), "R"),
        ((0, 1, 0), "P"),
        ((0, 0, -1), "I"),
        ((0.1, -0.99, 0.1), "A"),
        ((0.8, 0.6, 0), "LP"),
        ((-0.5, 0, 0.87), "SR"),
    ],
)
def test_letters_name_where_a_direction_points(direction: Sequence[float], letters: str) -> None:
    assert patient_letters(np.array(direction)) == letters


def test_letters_stand_where_a_radiologist_expects_them() -> None:
    scan, _ = scan_and_mask()
    found = [plane.letters(scan.geometry) for plane in figure._PLANES]
    assert found == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    assert figure._PLANES[0].letters(Geometry.unknown((2, 3, 4))) == ("", "", "", "")
