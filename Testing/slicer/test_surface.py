"""Surfaces in steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import vtk
from MPERLib import mrml, segmentation_node, surface
from scenes import grid
from vtk.util.numpy_support import vtk_to_numpy

from mper.labels import make_label

SHAPE = (24, 40, 60)
LABELS = (make_label(1, "RV"), make_label(2, "LV"), make_label(3, "LA"))


@pytest.fixture
def mask(scene: Any) -> Any:
    """Two balls, and a structure that is not there, in the scene."""
    scan = mrml.show_scan(np.zeros(SHAPE, np.float32), grid(), "scan", scene)
    k, j, i = np.indices((20, 30, 40))
    part = np.zeros(k.shape, np.uint8)
    for value, centre in ((1, (10, 15, 10)), (2, (10, 15, 28))):
        part[
            sum(((axis - c) * s) ** 2 for axis, c, s in zip((k, j, i), centre, (1.25, 0.7, 0.9), strict=True)) < 49
        ] = value
    return segmentation_node.show_mask(part, (2, 3, 4), LABELS, scan, "heart")


def surface_of(node: Any, n: int) -> Any:
    return node.GetSegmentation().GetNthSegment(n).GetRepresentation("Closed surface")


def volume_mm3(mesh: Any) -> float:
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputData(mesh)
    mass = vtk.vtkMassProperties()
    mass.SetInputConnection(triangles.GetOutputPort())
    return float(mass.GetVolume())


def test_surfaces_hold_the_volume_of_their_structures(mask: Any) -> None:
    list(surface.surface_steps(mask))
    for n in (0, 1):
        assert volume_mm3(surface_of(mask, n)) == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.07)
        assert surface_of(mask, n).GetPointData().GetNormals() is not None
    assert surface_of(mask, 2).GetNumberOfPoints() == 0


@pytest.mark.parametrize("left_handed", [False, True], ids=["right-handed", "left-handed"])
def test_all_faces_look_outwards_also_where_voxels_touch_at_an_edge(scene: Any, left_handed: bool) -> None:
    scan = mrml.show_scan(np.zeros(SHAPE, np.float32), grid(left_handed), "scan", scene)
    part = np.zeros((16, 16, 20), np.uint8)
    part[1:8, 1:8], part[8:15, 8:15] = 3, 3
    node = segmentation_node.show_mask(part, (2, 3, 4), LABELS, scan, "heart")
    list(surface.surface_steps(node))
    faces = vtk.vtkTriangleFilter()
    faces.SetInputData(surface_of(node, 2))
    faces.Update()
    points = vtk_to_numpy(faces.GetOutput().GetPoints().GetData()).astype(float)
    a, b, c = points[vtk_to_numpy(faces.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3)].swapaxes(0, 1)
    signed_mm3 = np.einsum("ni,ni->", a - points.mean(0), np.cross(b - points.mean(0), c - points.mean(0))) / 6
    assert signed_mm3 == pytest.approx(np.count_nonzero(part) * np.prod(scan.GetSpacing()), rel=0.15)


def test_surface_lies_where_slicers_own_does(mask: Any) -> None:
    list(surface.surface_steps(mask))
    ours = [surface_of(mask, n).GetBounds() for n in (0, 1)]
    mask.GetSegmentation().RemoveRepresentation("Closed surface")
    assert mask.CreateClosedSurfaceRepresentation()
    for n in (0, 1):
        np.testing.assert_allclose(surface_of(mask, n).GetBounds(), ours[n], atol=0.7)


def test_surface_is_shown_in_3d(mask: Any) -> None:
    list(surface.surface_steps(mask))
    assert mask.GetDisplayNode().GetDisplayRepresentationName3D() == "Closed surface"


def test_deleted_node_ends_the_work(mask: Any) -> None:
    steps = surface.surface_steps(mask)
    next(steps)
    mask.GetScene().RemoveNode(mask)
    assert list(steps) == []


def test_edit_in_between_ends_the_work(mask: Any) -> None:
    steps = surface.surface_steps(mask)
    next(steps)
    mask.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap").Modified()
    assert list(steps) == []
    assert surface_of(mask, 0) is None


def test_steps_are_taken_from_the_event_loop(mask: Any) -> None:
    waiting: list[Any] = []
    ended: list[bool] = []
    surface.make_surface(mask, waiting.append, lambda: ended.append(True))
    turns = 0
    while waiting:
        waiting.pop()()
        turns += 1
    assert turns == 7  # two for each segment, one to show them
    assert ended == [True]
