"""What a mask measures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mper.labels import Segmentation, make_label
from mper.measurement.measures import measure, surface_mm2
from mper.volume import Geometry, Volume


def _ball(radius_mm: float, spacing: tuple[float, float, float]) -> np.ndarray:
    half = [math.ceil(radius_mm / s) + 2 for s in spacing]
    k, j, i = np.ogrid[tuple(slice(-n, n + 1) for n in half)]
    return (k * spacing[0]) ** 2 + (j * spacing[1]) ** 2 + (i * spacing[2]) ** 2 <= radius_mm**2


def _segmentation(array: np.ndarray, spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0)) -> Segmentation:
    shape = array.shape
    geometry = Geometry.unknown(shape) if spacing is None else Geometry(np.diag([*spacing, 1.0]), shape)
    labels = (make_label(1, "LA"), make_label(2, "LV"))
    return Segmentation(Volume(array.astype(np.uint8), geometry), labels)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.25, 0.625, 0.625), (3.0, 1.0, 1.0)], ids=str)
def test_surface_of_a_ball_is_within_three_percent(spacing: tuple[float, float, float]) -> None:
    assert surface_mm2(_ball(25.0, spacing), spacing) == pytest.approx(4 * math.pi * 25**2, rel=0.03)


def test_a_structure_as_thin_as_a_voxel_keeps_its_surface() -> None:
    sheet = np.zeros((5, 30, 30), bool)
    sheet[2] = True
    assert surface_mm2(sheet, (1.0, 1.0, 1.0)) == pytest.approx(2 * 30 * 30, rel=0.1)


def test_volume_parts_and_confidence_of_each_structure() -> None:
    array = np.zeros((10, 12, 14), np.uint8)
    array[1:4, 1:5, 1:6] = 1
    array[7:9, 8:10, 9:11] = 1
    segmentation = _segmentation(array, (2.0, 1.0, 0.5))
    first, absent = measure(segmentation, {1: 0.75})
    assert (first.value, first.name, first.voxels, first.components) == (1, "LA", 68, 2)
    assert first.volume_ml == pytest.approx(0.068)
    assert first.confidence == 0.75
    assert (absent.voxels, absent.volume_ml, absent.components, absent.confidence) == (0, 0.0, 0, None)


def test_parts_that_touch_at_a_corner_are_one() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[:2, :2, :2] = 1
    array[2:, 2:, 2:] = 1
    assert measure(_segmentation(array))[0].components == 1


def test_unknown_spacing_leaves_figures_in_mm_open() -> None:
    figures = measure(_segmentation(_ball(4.0, (1.0, 1.0, 1.0)).astype(np.uint8), None))
    assert all(f.volume_ml is None and f.surface_mm2 is None for f in figures)
    assert figures[0].voxels > 0
