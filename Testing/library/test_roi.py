"""Regions of interest in LPS mm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mper.roi import Region, bounding_box, extent_of, region_of_box
from mper.volume import Geometry


def _centres_inside(geometry: Geometry, box: tuple[float, ...]) -> np.ndarray:
    """The plain way: every voxel's centre, compared with the box."""
    world = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    low, high = np.array(box[::2]), np.array(box[1::2])
    return ((world >= low - 1e-4) & (world <= high + 1e-4)).all(axis=-1)


def _as_mask(region: Region, geometry: Geometry) -> np.ndarray:
    mask = np.zeros(geometry.shape, dtype=bool)
    mask[region.window] = True if region.inside is None else region.inside
    return mask


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-40, 60), min_size=6, max_size=6), st.booleans())
def test_a_region_holds_the_voxels_whose_centres_lie_in_the_box(ends: list[float], oblique: bool) -> None:
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0] if oblique else np.eye(3)[:, ::-1]
    geometry = Geometry.from_axes((-10, 12, 3), (2.5, 0.7, 0.9), turned, (7, 20, 16))
    box = tuple(v for a, b in zip(ends[::2], ends[1::2], strict=True) for v in (min(a, b), max(a, b) + 5))
    expected = _centres_inside(geometry, box)
    if not expected.any():
        with pytest.raises(ValueError, match="contains no voxel of the scan"):
            region_of_box(geometry, box)
        return
    region = region_of_box(geometry, box)
    np.testing.assert_array_equal(_as_mask(region, geometry), expected)
    assert region.window == bounding_box(expected)


def test_the_extent_of_a_scan_as_its_roi_is_the_whole_scan(oblique_geometry: Geometry) -> None:
    low, high = extent_of(oblique_geometry)
    region = region_of_box(oblique_geometry, np.stack([low, high], axis=1).reshape(-1))
    assert region.covers(oblique_geometry) and region.notes == ()


def test_an_roi_partly_outside_is_cut_with_a_note() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (10, 10, 10))
    region = region_of_box(geometry, (-50, 4, 2, 6, 3, 8))
    assert (region.start, region.stop) == ((3, 2, 0), (9, 7, 5))
    assert region.notes[0].startswith("the ROI extends beyond the scan, whose extent is x -0.5 to 9.5")


def test_an_roi_outside_names_both_extents() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (10, 10, 10))
    message = r"ROI x 100\.0 to 120\.0, .* contains no voxel of the scan, whose extent is x -0\.5 to 9\.5, "
    with pytest.raises(ValueError, match=message):
        region_of_box(geometry, (100, 120, 2, 6, 3, 8))


def test_an_roi_between_two_voxels_holds_none() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (10, 10, 10))
    with pytest.raises(ValueError, match="contains no voxel"):
        region_of_box(geometry, (2.2, 2.8, 0, 9, 0, 9))


@pytest.mark.parametrize(
    "box", [(1, 2, 3, 4, 5), (2, 1, 0, 9, 0, 9), (0, float("nan"), 0, 9, 0, 9), (1, 1, 0, 9, 0, 9)]
)
def test_a_malformed_roi_is_refused(oblique_geometry: Geometry, box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="an ROI is x0,x1,y0,y1,z0,z1 in LPS mm"):
        region_of_box(oblique_geometry, box)


def test_an_roi_needs_a_scan_that_says_where_it_lies() -> None:
    with pytest.raises(ValueError, match="a scan of known spacing"):
        region_of_box(Geometry.unknown((10, 10, 10)), (0, 5, 0, 5, 0, 5))
