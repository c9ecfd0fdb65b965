"""Prototype maps and uncertainty over a scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from MPERLib import mrml, overlays
from scenes import grid

SHAPE = (12, 20, 30)
START = (3, 4, 5)
PROTOTYPES = [
    {"value": 1, "name": "background 1", "colour": [86, 104, 140]},
    {"value": 4, "name": "LA 1", "colour": [255, 190, 92]},
    {"value": 5, "name": "LA 2", "colour": [240, 98, 86]},
]


@pytest.fixture
def scan(scene: Any) -> Any:
    return mrml.show_scan(np.zeros(SHAPE, np.float32), grid(), "scan", scene)


def values() -> np.ndarray:
    part = np.zeros((4, 5, 6), np.uint8)
    part[:, 1:3, :] = 4
    part[2:, 3:, :] = 5
    return part


def similarity() -> np.ndarray:
    return np.linspace(0, 1, 120, dtype=np.float16).reshape(4, 5, 6)


def test_map_lies_on_its_scan(scan: Any) -> None:
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes")
    np.testing.assert_array_equal(mrml.array_of(shown.node), values())
    stop = tuple(a + n for a, n in zip(START, values().shape, strict=True))
    expected = mrml.geometry_of(scan).crop(START, stop).affine
    np.testing.assert_allclose(mrml._affine(mrml.ijk_to_ras(shown.node)), expected, atol=1e-9)


def test_map_follows_the_scans_transform(scan: Any) -> None:
    transform = scan.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode")
    scan.SetAndObserveTransformNodeID(transform.GetID())
    assert (
        overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "p").node.GetTransformNodeID()
        == transform.GetID()
    )


def test_colour_table_names_and_colours_the_prototypes(scan: Any) -> None:
    colours = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes").colours
    colour = [0.0] * 4
    for prototype in PROTOTYPES:
        assert colours.GetColorName(prototype["value"]) == prototype["name"]
        colours.GetColor(prototype["value"], colour)
        assert colour == pytest.approx([*(c / 255 for c in prototype["colour"]), 1])
    colours.GetColor(0, colour)
    assert colour[3] == 0


def test_prototypes_are_switched_one_by_one(scan: Any) -> None:
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes")
    assert shown.hidden() == set()
    shown.setHidden([4])
    assert shown.hidden() == {4}
    shown.setHidden([5])
    assert shown.hidden() == {5}
    assert shown.colours.GetColorName(4) == "LA 1"


def test_threshold_shows_what_is_similar_enough_and_can_be_lowered_again(scan: Any) -> None:
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes", similarity())
    shown.setThreshold(0.5)
    np.testing.assert_array_equal(mrml.array_of(shown.node), np.where(similarity() >= 0.5, values(), 0))
    assert shown.threshold == 0.5
    shown.setThreshold(0)
    np.testing.assert_array_equal(mrml.array_of(shown.node), values())


def test_without_similarities_there_is_no_threshold(scan: Any) -> None:
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes")
    assert not shown.canThreshold
    shown.setThreshold(0.9)
    np.testing.assert_array_equal(mrml.array_of(shown.node), values())


def test_threshold_of_a_deleted_map_does_nothing(scan: Any) -> None:
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes", similarity())
    scan.GetScene().RemoveNode(shown.node)
    shown.setThreshold(0.5)


def test_uncertainty_hides_what_is_certain(scan: Any) -> None:
    node = overlays.uncertainty_overlay(values(), START, scan, "uncertainty")
    display = node.GetDisplayNode()
    assert display.GetApplyThreshold() and display.GetLowerThreshold() == 5
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 100)
    assert display.GetColorNode().GetColorName(50) == "50 % uncertain"
    np.testing.assert_array_equal(mrml.array_of(node), values())


def test_map_off_the_scan_is_refused(scan: Any) -> None:
    with pytest.raises(ValueError, match="does not fit scan"):
        overlays.uncertainty_overlay(values(), (10, 0, 0), scan, "uncertainty")


def test_overlay_takes_its_layer_and_leaves_the_others(scan: Any) -> None:
    scene = scan.GetScene()
    view = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    view.SetBackgroundVolumeID(scan.GetID())
    prototypes = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes").node
    uncertainty = overlays.uncertainty_overlay(values(), START, scan, "uncertainty")
    overlays.show(prototypes, 0.4, scene)
    assert (view.GetLabelVolumeID(), view.GetForegroundVolumeID()) == (prototypes.GetID(), None)
    assert view.GetLabelOpacity() == 0.4
    overlays.show(uncertainty, 0.7, scene)
    assert (view.GetLabelVolumeID(), view.GetForegroundVolumeID()) == (None, uncertainty.GetID())
    assert view.GetForegroundOpacity() == 0.7
    overlays.show(None, 0.7, scene)
    assert (view.GetLabelVolumeID(), view.GetForegroundVolumeID()) == (None, None)
    assert view.GetBackgroundVolumeID() == scan.GetID()


def test_removing_leaves_nothing_behind(scan: Any) -> None:
    scene = scan.GetScene()
    before = nodes(scene)
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes")
    uncertainty = overlays.uncertainty_overlay(values(), START, scan, "uncertainty")
    for node in (shown.node, uncertainty):
        overlays.remove(node)
    assert nodes(scene) == before
    overlays.remove(shown.node)
    overlays.remove(None)


def nodes(scene: Any) -> set[str]:
    return {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}


def test_switches_and_threshold_go_with_the_scene(scan: Any, tmp_path: Any) -> None:
    scene = scan.GetScene()
    shown = overlays.prototype_overlay(values(), START, PROTOTYPES, scan, "prototypes", similarity())
    shown.setHidden([4])
    shown.setThreshold(0.25)
    for node, name in ((shown.node, "prototypes.nrrd"), (shown.colours, "prototypes.ctbl"), (scan, "scan.nrrd")):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / name))
        assert node.GetStorageNode().WriteData(node)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.SetRootDirectory(str(tmp_path))
    assert scene.Commit()
    other = slicer.vtkMRMLScene()
    other.SetURL(str(tmp_path / "scene.mrml"))
    assert other.Connect()
    again = overlays.PrototypeOverlay(other.GetFirstNodeByName("prototypes"))
    assert again.hidden() == {4}
    assert again.threshold == 0.25
    assert again.colours.GetColorName(5) == "LA 2"
