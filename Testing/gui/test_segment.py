"""MPERSegment in a window: from the click to the mask, what the panels then show, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import qt
import slicer
import vtk
from MPERLib import callbacks, install, mrml, overlays, segmentation_node, settings
from vtk.util.numpy_support import vtk_to_numpy

from mper.io import read_labelmap, read_volume
from mper.labels import make_label
from mper.resources import sample_scan

ENGINE_S, MASK_S = 60, 120
LA = (make_label(1, "LA"),)
RESULT = {
    "prediction": "gone",
    "model": "la",
    "model_version": "1.0.0",
    "model_sha256": "d097f80d",
    "title": "Left atrium",
    "device": "CPU",
    "seconds": 2.5,
    "labels": [{"value": 1, "name": "LA", "category": None, "type": None, "colour": [203, 108, 81]}],
    "structures": [
        {
            "value": 1,
            "name": "LA",
            "voxels": 64,
            "volume_ml": 0.512,
            "surface_mm2": 400.0,
            "confidence": 0.9,
            "components": 2,
        }
    ],
    "flags": [{"code": "components", "words": "LA has two parts"}],
    "notes": [],
    "prototypes": [],
    "uncertain_places": [],
}


@pytest.fixture(scope="module")
def atrium():
    """The middle of the sample scan: small, so that the model looks once."""
    volume = read_volume(sample_scan())
    part = (slice(14, 74), slice(20, 120), slice(30, 150))
    start = [side.start for side in part]
    grid = volume.geometry.crop(start, [side.stop for side in part])
    return volume.array[part], grid.affine


def show(atrium, name="LGE-MRI"):
    return mrml.show_scan(*atrium, name, slicer.mrmlScene)


def opened(window):
    """The panel with a ready engine."""
    panel = window.open("MPERSegment")
    window.wait_until(lambda: panel.ui.segmentButton.enabled, ENGINE_S, "the engine")
    return panel


def segmented(window, panel):
    """A click on the button, and the mask."""
    window.click(panel.ui.segmentButton)
    return window.wait_until(lambda: panel.resultPanel.node, MASK_S, "the mask")


def small_result(name="small LA"):
    """A scan with a mask of 4 x 4 x 4 voxels of 2 mm in it, as a result of a model; made without the engine."""
    affine = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -30], [2.0, 0, 0, 5], [0, 0, 0, 1]])
    scan = mrml.show_scan(np.arange(12 * 14 * 16, dtype=np.int16).reshape(12, 14, 16), affine, "scan", slicer.mrmlScene)
    mask = np.ones((4, 4, 4), np.uint8)
    node = segmentation_node.show_mask(mask, (3, 4, 5), LA, scan, name, RESULT)
    from MPERSegmentLib import result_node

    result_node.record(node, RESULT)
    return scan, node


def surface_bounds(path):
    """Lowest and highest x, y and z of an STL file."""
    reader = vtk.vtkSTLReader()
    reader.SetFileName(str(path))
    reader.Update()
    assert reader.GetOutput().GetNumberOfPoints()
    return np.array(reader.GetOutput().GetBounds()).reshape(3, 2)


def draw(node, mask):
    """What an effect of the Segment Editor does: a new labelmap for a segment."""
    segmentation = node.GetSegmentation()
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap"))
    vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask.reshape(-1)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, node, segmentation.GetNthSegmentID(0), logic.MODE_REPLACE)


def tags(node):
    segment = node.GetSegmentation().GetNthSegment(0)
    found = {}
    for name in ("DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
        value = vtk.reference("")
        found[name.rpartition("Algorithm")[2]] = str(value) if segment.GetTag(name, value) else ""
    return found


def pointed(window, series, point, scan):
    """The voxel that the crosshair marks after a click on a point of a plot."""
    ids, all_points, points = vtk.vtkStringArray(), vtk.vtkCollection(), vtk.vtkIdTypeArray()
    ids.InsertNextValue(series.GetID())
    points.InsertNextValue(point)
    all_points.AddItem(points)
    window.events()
    slicer.app.layoutManager().plotWidget(0).plotView().dataSelected(ids, all_points)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    return mrml.index_at(crosshair.GetCrosshairRAS(), scan)


def cell(table, row, column):
    return table.item(row, column).text()


# ---- run


def test_a_panel_that_could_not_be_made_holds_up_no_other_module(window, shared_engine, monkeypatch):
    from MPERSegmentLib import module_panel

    def broken(*_args):
        raise RuntimeError("a file is missing")

    with monkeypatch.context() as patch:
        patch.setattr(module_panel.ModulePanel, "__init__", broken)
        with pytest.raises((RuntimeError, TypeError)):  # Slicer itself prints what a set-up raised
            window.open("MPERSegment")
    window.forgive()
    window.open("MPERTrainer")
    assert window.open("MPERSegment").ui.segmentButton.visible


def test_a_click_makes_a_mask_that_says_what_it_is_and_why(window, shared_engine, atrium):
    scan = show(atrium)
    panel = opened(window)
    ui = panel.ui
    assert ui.segmentButton.text == "Segment LA"
    assert ui.modelWords.text == "Mean Dice 0.92 on 8 validation scans."
    callbacks.clear()
    window.click(ui.segmentButton)
    assert ui.segmentButton.text == "Cancel"
    assert not ui.inputSelector.enabled
    node = window.wait_until(lambda: panel.resultPanel.node, MASK_S, "the mask")
    window.wait_until(lambda: node.GetSegmentation().ContainsRepresentation("Closed surface"), 10, "the surface")
    assert ui.segmentButton.text == "Segment LA"
    assert node.GetNodeReference("referenceImageGeometryRef") is scan
    mask = segmentation_node.mask_of(node, scan)
    volume_ml = mask.sum() * 0.625**3 / 1000
    assert 20 < volume_ml < 60
    assert [cell(ui.resultTable, 0, column) for column in (0, 1, 4)] == ["LA", f"{volume_ml:.1f} mL", "1"]
    assert tags(node)["Type"] == "AUTOMATIC"
    assert tags(node)["Name"].startswith("MPER la 2.0.1 (sha256:")

    ui.runSection.collapsed = True
    ui.whySection.collapsed = False
    ticks = {ui.prototypeTable.item(row, 0).text(): row for row in range(ui.prototypeTable.rowCount)}
    ui.prototypeTable.item(ticks["LA 1"], 0).setCheckState(qt.Qt.Unchecked)
    ui.prototypeTable.cellClicked(ticks["LA 1"], 0)  # which Qt tells after the tick ...
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair  # ... and is no jump
    window.events()
    assert ui.overlayBox.currentData == "prototypes"
    ui.prototypeTable.item(ticks["LA 1"], 0).setCheckState(qt.Qt.Checked)
    window.events()
    overlay = window.wait_until(lambda: panel.explanationPanel._prototypes, 20, "the prototypes")
    assert overlay.hidden() == {1, 2, 3}
    assert overlay.node.GetAttribute("MPER.Prediction") in node.GetAttribute("MPER.Result")
    window.wait_until(lambda: overlay.canThreshold, 20, "the similarities")
    shown = set(np.unique(slicer.util.arrayFromVolume(overlay.node))) - {0}
    rows = {cell(ui.prototypeTable, row, 0): row for row in range(ui.prototypeTable.rowCount)}
    assert len(rows) == 6
    assert overlay.hidden() == {1, 2, 3}  # the background's, which cover all the rest
    assert shown >= {4, 5, 6}
    ui.prototypeTable.item(rows["LA 2"], 0).setCheckState(qt.Qt.Unchecked)
    assert overlay.hidden() == {1, 2, 3, 5}

    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert composite.GetLabelVolumeID() == overlay.node.GetID()
    ui.opacitySlider.value = 30
    assert composite.GetLabelOpacity() == pytest.approx(0.3)
    before = np.count_nonzero(slicer.util.arrayFromVolume(overlay.node))
    ui.thresholdSlider.value = 95
    window.wait_until(lambda: np.count_nonzero(slicer.util.arrayFromVolume(overlay.node)) < before, 5, "the threshold")

    ui.prototypeTable.cellClicked(rows["LA 1"], 0)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    middle = [red.GetSliceToRAS().GetElement(axis, 3) for axis in range(3)]
    k, j, i = mrml.index_at(middle, scan)
    assert slicer.util.arrayFromVolume(overlay.node).max() >= 4
    assert mask[k, j, i] == 1

    assert crosshair.GetCrosshairMode() == crosshair.ShowSmallBasic
    assert mrml.index_at(crosshair.GetCrosshairRAS(), scan) == (k, j, i)
    crosshair.SetCursorPositionRAS(middle)
    window.wait_until(lambda: "Margin" in ui.probeLabel.text, 5, "the probe")
    assert "<b>LA</b>" in ui.probeLabel.text
    assert ui.probeLabel.text.index("LA&nbsp;1") < ui.probeLabel.text.index("LA&nbsp;3")
    window.click(ui.uncertainButton)
    assert ui.uncertainLabel.text.startswith("1 of ")
    window.screenshot("segment")

    ui.overlayBox.currentIndex = ui.overlayBox.findData("uncertainty")
    uncertainty = window.wait_until(composite.GetForegroundVolumeID, 10, "the uncertainty")
    assert ui.thresholdSliderLabel.text == "Minimum uncertainty:"
    assert ui.legendFrame.visible
    assert ui.thresholdValue.text == "15 %"
    assert slicer.mrmlScene.GetNodeByID(uncertainty).GetDisplayNode().GetLowerThreshold() == 15
    assert composite.GetLabelVolumeID() is None
    window.click(ui.scatterButton)
    chart = window.wait_until(lambda: slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode"), 10, "the plot")
    assert chart.GetNumberOfPlotSeriesNodes() >= 4
    assert not chart.GetLegendVisibility()
    inside = chart.GetNthPlotSeriesNode(chart.GetNumberOfPlotSeriesNodes() - 1)  # of a prototype of LA
    k, j, i = pointed(window, inside, 3, scan)
    assert mask[k, j, i] == 1
    window.click(ui.scatterButton)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0

    display = node.GetDisplayNode()
    assert display.GetOpacity2DFill() == 0
    panel.exit()  # to another module, which finds the slices as if this one had never been
    assert display.GetOpacity2DFill() > 0
    assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair
    panel.enter()
    assert display.GetOpacity2DFill() == 0
    assert composite.GetForegroundVolumeID() == uncertainty


def test_cancel_leaves_nothing_and_one_can_go_on(window, shared_engine, atrium):
    show(atrium)
    panel = opened(window)
    window.click(panel.ui.segmentButton)
    window.wait_until(lambda: "egment" in panel.ui.progressLabel.text, MASK_S, "the job")
    window.click(panel.ui.segmentButton)
    assert panel.ui.progressLabel.text == "Cancelled. Nothing was changed."
    assert panel.ui.segmentButton.text == "Segment LA"
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    first = segmented(window, panel)
    panel.ui.targetBox.currentIndex = 0
    window.click(panel.ui.segmentButton)
    second = window.wait_until(
        lambda: panel.resultPanel.node is not first and panel.resultPanel.node, MASK_S, "another mask"
    )
    assert {node.GetName() for node in (first, second)} == {"LGE-MRI LA", "LGE-MRI LA_1"}
    scan = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    assert (segmentation_node.mask_of(first, scan) == segmentation_node.mask_of(second, scan)).all()


@pytest.mark.skipif(os.name == "nt", reason="kills the engine with a signal")
def test_an_engine_that_dies_in_the_middle_is_started_again_and_the_work_goes_on(window, atrium, tmp_path):
    show(atrium)
    panel = opened(window)
    window.click(panel.ui.segmentButton)
    window.wait_until(lambda: "egment" in panel.ui.progressLabel.text, MASK_S, "the job")
    os.kill(int(slicer.mperEngine._process.pid), signal.SIGKILL)
    window.wait_until(lambda: "engine stopped" in panel.ui.messageLabel.text, 20, "the message")
    window.wait_until(lambda: not panel.segmentPanel.running, 20, "the end of the job")
    words = "The engine stopped. Your masks are safe."
    assert panel.ui.messageLabel.text == words
    assert panel.ui.modelWords.text == "The engine has stopped."  # why is said once
    assert not panel.ui.segmentButton.enabled
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    window.click(panel.ui.messageButton)
    window.wait_until(lambda: panel.ui.segmentButton.enabled, ENGINE_S, "the new engine")
    assert not panel.ui.messageFrame.visible
    assert segmentation_node.mask_of(segmented(window, panel), panel.ui.inputSelector.currentNode()).any()

    ui = panel.ui  # and a label that is being saved when the user stops the engine can be saved later
    ui.keepSection.collapsed = ui.engineSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    panel.saveLabelPanel.openFolder(tmp_path / "atria", RESULT)
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    pid = slicer.mperEngine._process.pid
    os.kill(pid, signal.SIGSTOP)
    window.click(ui.keepButton)
    assert ui.keepWords.text.startswith("Saving")
    window.click(ui.engineButton)
    os.kill(pid, signal.SIGCONT)
    assert "Not saved" in ui.keepWords.text and "engine was stopped." in ui.keepWords.text
    window.wait_until(lambda: ui.keepButton.enabled, ENGINE_S, "the new engine")


def test_a_scene_that_closes_in_the_middle_of_a_job_takes_the_job_with_it(window, shared_engine, atrium):
    scan = show(atrium)
    panel = opened(window)
    window.click(panel.ui.segmentButton)
    window.wait_until(lambda: "egment" in panel.ui.progressLabel.text, MASK_S, "the job")
    slicer.mrmlScene.Clear(0)
    window.events()
    assert not panel.segmentPanel.running
    assert not panel.ui.segmentButton.enabled
    assert panel.ui.segmentButton.text == "Segment LA"
    scan = show(atrium, "another")
    window.wait_until(lambda: panel.ui.inputSelector.currentNode() is scan, 5, "the other scan")
    window.click(panel.ui.segmentButton)
    window.wait_until(lambda: "egment" in panel.ui.progressLabel.text, MASK_S, "the job")
    slicer.mrmlScene.RemoveNode(scan)
    assert not panel.segmentPanel.running
    assert panel.ui.progressLabel.text == "Cancelled: another was removed from the scene."
    window.events()
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    show(atrium, "a third")
    window.wait_until(lambda: panel.ui.segmentButton.enabled, 5, "the third scan")
    window.click(panel.ui.segmentButton)
    window.shut("MPERSegment")  # in the middle of a job: the fixture looks for what is left


def test_a_region_outside_the_scan_is_refused_with_a_message(window, shared_engine):
    small_result()
    panel = opened(window)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    roi.SetXYZ(500, 500, 500)
    roi.SetRadiusXYZ(5, 5, 5)
    panel.ui.roiSelector.setCurrentNode(roi)
    window.click(panel.ui.segmentButton)
    assert "lies outside the scan" in panel.ui.messageLabel.text
    assert not panel.segmentPanel.running
    window.click(panel.ui.drawRoiButton)
    assert panel.ui.roiSelector.currentNode() is not roi
    selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    assert selection.GetActivePlaceNodeID() == panel.ui.roiSelector.currentNode().GetID()
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsROINode"  # and no list of points
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place


# ---- result and refinement, which need no engine


@pytest.fixture
def alone(monkeypatch):
    """No engine: what works without one must."""
    monkeypatch.setattr("MPERLib.engine.Engine.start", lambda self: None)


@pytest.mark.usefixtures("alone")
def test_a_changed_result_is_semiautomatic_and_measured_anew(window):
    _scan, node = small_result()
    panel = window.open("MPERSegment")
    ui = panel.ui
    ui.resultSelector.setCurrentNode(node)
    assert [cell(ui.resultTable, 0, column) for column in range(5)] == ["LA", "0.5 mL", "4 cm²", "90 %", "2"]
    assert ui.flagsLabel.text == "LA has two parts."
    assert tags(node)["Type"] == "AUTOMATIC"
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:2] = 1
    ui.refineSection.collapsed = False
    draw(node, mask)
    assert tags(node) == {"Type": "SEMIAUTOMATIC", "Name": "MPER la 1.0.0 (sha256:d097f80d)"}
    assert ui.refineWords.text.startswith("Edited manually (")
    window.wait_until(lambda: cell(ui.resultTable, 0, 1) == "0.3 mL", 5, "the new volume")
    assert cell(ui.resultTable, 0, 3) == "\N{EN DASH}"


@pytest.mark.usefixtures("alone")
def test_a_message_that_goes_moves_no_button_below_it(window):
    _scan, node = small_result()
    panel = window.open("MPERSegment")
    ui = panel.ui
    ui.resultSelector.setCurrentNode(node)
    ui.engineSection.collapsed = False

    def top():
        window.events()
        return ui.engineSection.pos.y()

    empty = top()
    window.click(ui.drawRoiButton)
    panel.context.showMessage("One line.")  # stands below that button
    below = top()
    assert below > empty + 20
    window.click(ui.remoteRadio)
    panel.context.clearMessage()
    assert top() == pytest.approx(below, abs=8)  # less than a line: layouts squeeze their spacing
    window.click(ui.remoteRadio)
    panel.context.showMessage("Another line.")  # below this one
    assert top() == pytest.approx(below, abs=8)
    window.click(ui.drawRoiButton)  # now nothing is under the mouse there
    panel.context.clearMessage()
    assert top() == pytest.approx(empty, abs=8)


@pytest.mark.usefixtures("alone")
def test_a_message_goes_when_the_panel_is_about_another_scan_or_result(window):
    (_first_scan, first), (second_scan, second) = small_result("one"), small_result("two")
    panel = window.open("MPERSegment")
    ui = panel.ui
    ui.resultSelector.setCurrentNode(first)
    for change in (
        lambda: ui.inputSelector.setCurrentNode(second_scan),
        lambda: ui.resultSelector.setCurrentNode(second),
        lambda: slicer.mrmlScene.RemoveNode(second),
    ):
        window.events()
        panel.context.showMessage("Something is wrong with it.")
        panel.context.update()
        window.events()
        assert ui.messageFrame.visible
        change()
        window.events()
        assert not ui.messageFrame.visible


@pytest.mark.usefixtures("alone")
def test_the_panel_is_as_wide_with_all_sections_open_as_with_one(window):
    _scan, node = small_result()
    ui = window.open("MPERSegment").ui
    ui.resultSelector.setCurrentNode(node)
    sections = [getattr(ui, name) for name in vars(ui) if name.endswith("Section")]
    widest = max(section.minimumSizeHint.width() for section in sections)
    for section in sections:
        section.collapsed = False
        window.events()
    assert max(section.minimumSizeHint.width() for section in sections) <= 400 > widest


@pytest.mark.usefixtures("alone")
def test_confidence_in_a_scan_unlike_the_training_does_not_reassure(window):
    from MPERSegmentLib import result_node

    _scan, node = small_result()
    doubt = "the volume of LA (311 mL) is unlike that of the training labels"
    flags = [{"code": "volume", "words": doubt}]
    result_node.record(node, {**RESULT, "flags": flags, "notes": [doubt, "the field of view is wide; give an ROI"]})
    ui = window.open("MPERSegment").ui
    ui.resultSelector.setCurrentNode(node)
    confidence = ui.resultTable.item(0, 3)
    assert confidence.text() == "\N{WARNING SIGN} 90 %"
    assert doubt[1:] in confidence.toolTip()
    assert ui.flagsLabel.text == f"T{doubt[1:]}."
    assert "training labels" not in ui.resultWords.text  # it stands above already
    assert ui.resultWords.text.endswith("The field of view is wide; give an ROI.")


@pytest.mark.usefixtures("alone")
def test_only_results_of_the_scan_in_view_are_seen(window):
    (first_scan, first), (second_scan, second) = small_result("one"), small_result("two")
    ui = window.open("MPERSegment").ui
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")

    def seen():
        return [node for node in (first, second) if node.GetDisplayNode().GetVisibility()]

    ui.inputSelector.setCurrentNode(second_scan)
    window.wait_until(lambda: composite.GetBackgroundVolumeID() == second_scan.GetID(), 5, "the scan in the slices")
    window.events()
    assert seen() == [second]
    camera = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode")
    camera.SetFocalPoint(500, 0, 0)
    direction = camera.GetCamera().GetDirectionOfProjection()
    ui.resultSelector.setCurrentNode(first)
    window.wait_until(lambda: composite.GetBackgroundVolumeID() == first_scan.GetID(), 5, "its scan in the slices")
    window.events()
    assert seen() == [first]
    bounds = [0.0] * 6
    first.GetRASBounds(bounds)
    assert camera.GetFocalPoint() == pytest.approx(
        [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
    )
    assert camera.GetCamera().GetDirectionOfProjection() == pytest.approx(direction)
    first.GetDisplayNode().SetVisibility(False)  # the user's own choice
    ui.resultSelector.setCurrentNode(second)
    window.events()
    assert seen() == [second]
    ui.resultSelector.setCurrentNode(first)  # as is this one
    window.events()
    assert seen() == [first]


@pytest.mark.usefixtures("alone")
def test_of_the_results_of_a_scan_the_chosen_one_is_seen_and_no_result_hides_all(window):
    from MPERSegmentLib import result_node

    scan, first = small_result("one")
    second = segmentation_node.show_mask(np.ones((4, 4, 4), np.uint8), (3, 4, 5), LA, scan, "two", RESULT)
    result_node.record(second, RESULT)
    ui = window.open("MPERSegment").ui

    def seen():
        window.events()
        return [node for node in (first, second) if node.GetDisplayNode().GetVisibility()]

    ui.resultSelector.setCurrentNode(first)
    assert seen() == [first]
    ui.resultSelector.setCurrentNode(second)
    assert seen() == [second]
    ui.resultSelector.setCurrentNode(None)
    assert seen() == []
    ui.resultSelector.setCurrentNode(first)
    assert seen() == [first]
    first.GetDisplayNode().SetVisibility(False)  # in the module Data
    assert seen() == []
    slicer.mrmlScene.RemoveNode(first)
    window.events()
    assert second.GetDisplayNode().GetVisibility()


@pytest.mark.usefixtures("alone")
def test_when_the_shown_result_is_deleted_another_one_is_shown(window):
    (_scan, first), (_other_scan, second) = small_result("one"), small_result("two")
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(first)
    slicer.mrmlScene.RemoveNode(first)
    window.events()
    assert panel.resultPanel.node is second
    assert panel.ui.resultSelector.currentNode() is second
    slicer.mrmlScene.RemoveNode(second)
    window.events()
    assert panel.resultPanel.node is None
    assert panel.ui.resultWords.text.startswith("No segmentation")


@pytest.mark.usefixtures("alone")
def test_the_engine_frees_what_it_keeps_of_results_that_leave_the_scene(window, shared_engine):
    panel = window.open("MPERSegment")
    window.wait_until(lambda: panel.session.running, ENGINE_S, "the engine")
    freed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel.session, "delete", lambda path, **_kwargs: freed.append(path))
        _scan, node = small_result()
        slicer.mrmlScene.RemoveNode(node)
        assert freed == ["/predictions/gone"]
        small_result()
        slicer.mrmlScene.Clear(0)
        assert freed[1:] == ["/predictions/gone"]
    window.events()
    assert getattr(slicer.app, "paused_renders", 0) == 0  # of the host


def test_a_self_test_puts_back_the_settings_and_the_open_sections(window, shared_engine):
    from MPERLib import self_test

    ui = window.open("MPERSegment").ui
    settings.setSetting("MPER/CurrentModel", "MPER/mine")
    settings.setSetting("MPER/Terms/la", "read")
    collapsed = ui.refineSection.collapsed
    with self_test.restored(["MPER/CurrentModel", "MPER/PreviousModel", "MPER/Terms/"], ui):
        assert settings.setting("MPER/Terms/la") == "" and settings.modelInUse() == "la"
        settings.setSetting("MPER/CurrentModel", "la")
        settings.setSetting("MPER/PreviousModel", "MPER/mine")
        settings.setSetting("MPER/Terms/la", "changed")
        settings.setSetting("MPER/Terms/acdc", "new")
        ui.refineSection.collapsed = not collapsed
    assert settings.setting("MPER/CurrentModel") == "MPER/mine"
    assert settings.setting("MPER/Terms/la") == "read"
    assert not {"MPER/PreviousModel", "MPER/Terms/acdc"} & {*qt.QSettings().allKeys()}
    assert ui.refineSection.collapsed == collapsed


def test_a_crosshair_of_the_users_own_stays(window):
    window.open("MPERSegment")
    from MPERSegmentLib.crosshair import Crosshair

    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairMode(crosshair.ShowIntersection)
    crosshair_ = Crosshair()
    crosshair_.show((1, 2, 3))
    assert crosshair.GetCrosshairRAS() == (1, 2, 3)
    crosshair_.hide()
    assert crosshair.GetCrosshairMode() == crosshair.ShowIntersection


@pytest.mark.usefixtures("alone")
def test_a_result_that_the_engine_forgot_gives_a_message_and_keeps_its_figures(window):
    from MPERSegmentLib import result_node

    scan, node = small_result()
    row = {"value": 4, "name": "LA 1", "class": 1, "colour": [9, 9, 9], "voxels": 64, "volume_ml": 0.5}
    row |= {"mean_similarity": 0.9, "mean_intensity": None, "typical_index": [4, 5, 6], "typical_mm": None}
    panel = window.open("MPERSegment")
    ui = panel.ui
    ui.whySection.collapsed = False
    ui.resultSelector.setCurrentNode(node)
    assert not ui.prototypeTable.visible  # a model without prototypes
    assert "no prototypes" in ui.whyWords.text
    result_node.record(node, {**RESULT, "prototypes": [row]})
    panel.explanationPanel.show(None)
    panel.explanationPanel.show(node)
    ui.overlayBox.currentIndex = ui.overlayBox.findData("prototypes")
    window.wait_until(lambda: "Segment the scan again" in ui.whyWords.text, 5, "the message")
    assert [cell(ui.prototypeTable, 0, column) for column in range(5)] == ["LA 1", "64", "0.5", "0.90", "\N{EN DASH}"]
    ui.prototypeTable.cellClicked(0, 0)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    assert mrml.index_at([red.GetSliceToRAS().GetElement(axis, 3) for axis in range(3)], scan) == (4, 5, 6)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("of", ["gone", None], ids=["of this version", "of version 0.1"])
def test_the_prototypes_of_a_saved_scene_are_not_shown_over_a_mask_that_replaces_its_own(window, of):
    from MPERSegmentLib import result_node

    scan, node = small_result()
    row = {"value": 4, "name": "LA 1", "class": 1, "colour": [9, 9, 9], "voxels": 64, "volume_ml": 0.5}
    row |= {"mean_similarity": 0.9, "mean_intensity": None, "typical_index": [4, 5, 6], "typical_mm": None}
    result_node.record(node, {**RESULT, "prototypes": [row]})
    saved = overlays.prototype_overlay(np.full((4, 4, 4), 4, np.uint8), (3, 4, 5), [row], scan, "prototypes").node
    saved.SetAttribute("MPER.Prediction", of)
    node.SetNodeReferenceID("MPER.PrototypeMap", saved.GetID())
    panel = window.open("MPERSegment")
    ui, composite = panel.ui, slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    ui.whySection.collapsed = False
    ui.resultSelector.setCurrentNode(node)
    ui.overlayBox.currentIndex = ui.overlayBox.findData("prototypes")
    assert composite.GetLabelVolumeID() == saved.GetID()
    result_node.record(node, {**RESULT, "prediction": "new", "prototypes": [row]})
    panel.explanationPanel.show(node)
    assert composite.GetLabelVolumeID() is None and saved.GetScene() is None


@pytest.mark.usefixtures("alone")
def test_an_update_that_was_asked_for_can_be_undone(window):
    from MPERSegmentLib.segmentation_job import SegmentationRequest

    scan, node = small_result()
    before = segmentation_node.mask_of(node, scan)
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(node)
    better = {**RESULT, "prediction": "new", "model_version": "2.0.0", "title": "A better one"}
    request = SegmentationRequest(scan, {"id": "la", "title": "A better one"}, "auto", target=node)
    panel.ui.resultSelector.setCurrentNode(None)  # whatever is shown when the answer comes
    panel._onSegmented(request, np.ones((2, 2, 2), np.uint8), {"start": [0, 0, 0]}, better)
    window.wait_until(lambda: "A better one" in panel.ui.resultWords.text, 5, "the new figures")
    assert panel.resultPanel.node is node
    panel.ui.refineSection.collapsed = False

    def shows(voxels, title, version):
        assert segmentation_node.mask_of(node, scan).sum() == voxels
        window.wait_until(lambda: title in panel.ui.resultWords.text, 5, "its figures")
        assert tags(node) == {"Type": "AUTOMATIC", "Name": f"MPER la {version} (sha256:d097f80d)"}

    shows(8, "A better one", "2.0.0")
    window.click(panel.ui.strokeUndoButton)
    assert (segmentation_node.mask_of(node, scan) == before).all()
    shows(64, "Left atrium", "1.0.0")
    window.click(panel.ui.strokeRedoButton)
    shows(8, "A better one", "2.0.0")
    panel.segmentEditorPanel.editor.widget.undo()
    shows(64, "Left atrium", "1.0.0")
    slicer.mrmlScene.RemoveNode(node)
    panel._onSegmented(request, np.ones((2, 2, 2), np.uint8), {"start": [0, 0, 0]}, better)
    new = window.wait_until(lambda: panel.resultPanel.node, 5, "a result of its own")
    assert new is not node and new.GetName() == "scan LA"


@pytest.mark.usefixtures("alone")
def test_choices_and_results_are_in_a_saved_scene(window):
    _scan, node = small_result()
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(node)
    panel.ui.opacitySlider.value = 25
    scene = slicer.mrmlScene
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    scene.Clear(0)
    window.events()
    assert panel.resultPanel.node is None
    assert panel.ui.opacitySlider.value == 60
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(text)
    scene.Import()
    scene.SetLoadFromXMLString(0)
    scene.SetSaveToXMLString(0)
    assert panel.resultPanel.node.GetName() == "small LA"
    assert panel.ui.opacitySlider.value == 25
    assert "Left atrium" in panel.ui.resultWords.text


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.usefixtures("alone")
def test_exported_files_hold_the_mask_on_the_scans_grid(window, tmp_path, registered):
    """Also where a transform shows scan and mask elsewhere."""
    scan, node = small_result()
    if registered:
        moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        cos, sin = np.cos(0.5), np.sin(0.5)
        turned = np.array([[cos, -sin, 0, 40], [sin, cos, 0, 5], [0, 0, 1, -8], [0, 0, 0, 1]])
        slicer.util.updateTransformMatrixFromArray(moved, turned)
        for each in (scan, node):
            each.SetAndObserveTransformNodeID(moved.GetID())
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(node)
    expected, grid = segmentation_node.mask_of(node, scan), mrml.geometry_of(scan)
    for write, name in (
        (panel.exportPanel.toNifti, "möglich.nii.gz"),
        (panel.exportPanel.toSegNrrd, "mask.seg.nrrd"),
    ):
        write(node, tmp_path / name)
        assert "Written" in panel.ui.exportWords.text
        found = read_labelmap(tmp_path / name)
        assert found.geometry.is_close(grid)
        assert (found.array == expected).all()
    panel.exportPanel.toStl(node, tmp_path)
    assert [file.name for file in tmp_path.glob("*.stl")] == ["small LA_LA.stl"]
    low, high = grid.to_world([(3, 4, 5), (6, 7, 8)])  # the middles of the mask's corner voxels, in LPS mm
    bounds = surface_bounds(tmp_path / "small LA_LA.stl")
    assert np.abs(bounds.mean(axis=1) - (low + high) / 2).max() < 0.1
    assert np.abs(np.ptp(bounds, axis=1) - 8).max() < 2.5, "four voxels of 2 mm, smoothed"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0
    window.click(panel.ui.exportSection) if panel.ui.exportSection.collapsed else None
    window.click(panel.ui.exportDicomButton)
    assert "was not loaded from DICOM" in panel.ui.exportWords.text
    assert ".seg.nrrd" in panel.ui.exportWords.text


@pytest.mark.usefixtures("alone")
def test_a_file_is_of_the_result_that_was_shown_when_its_button_was_clicked(window, tmp_path, monkeypatch):
    """Another segmentation ends while a dialog is open: its result is the one that is shown from then on."""
    from MPERSegmentLib import result_node

    scan, first = small_result("first LA")
    second = segmentation_node.show_mask(np.ones((2, 2, 2), np.uint8), (0, 0, 0), LA, scan, "second LA", RESULT)
    labels = [{**RESULT["labels"][0], "name": "atrium"}]
    result_node.record(second, {**RESULT, "prediction": "another", "labels": labels})
    panel = window.open("MPERSegment")
    ui, given, reported, opened, sent = panel.ui, [], [], [], []

    def dialog(*_arguments, **_options):
        ui.resultSelector.setCurrentNode(second)
        window.events()
        return str(given.pop())

    class Dialogs:
        QFileDialog = SimpleNamespace(getSaveFileName=dialog, getOpenFileName=dialog, getExistingDirectory=dialog)

        def __getattr__(self, name):
            return getattr(qt, name)

    for name in ("export", "report", "clip", "save_label"):
        monkeypatch.setattr(f"MPERSegmentLib.{name}_panel.qt", Dialogs())
    job = SimpleNamespace(stop=lambda: None)
    monkeypatch.setattr("MPERSegmentLib.push_panel.textOf", dialog)
    monkeypatch.setattr("MPERSegmentLib.report_panel.ReportJob", lambda inputs, *_a: reported.append(inputs) or job)
    monkeypatch.setattr("MPERSegmentLib.push_panel.PythonProcess", lambda words, *_a, **_k: sent.append(words) or job)
    panel.saveLabelPanel.openFolder = lambda _folder, result: opened.append(result)
    for section in (ui.exportSection, ui.measureSection, ui.keepSection):
        section.collapsed = False

    def click(button, *answers):
        ui.resultSelector.setCurrentNode(first)
        window.events()
        given[:] = answers[::-1]
        window.click(button)
        assert panel.resultPanel.node is second and not given

    for button, name in ((ui.exportSegNrrdButton, "first.seg.nrrd"), (ui.exportNiftiButton, "first.nii.gz")):
        click(button, tmp_path / name)
        assert read_labelmap(tmp_path / name).array.sum() == 64
        assert ui.exportWords.text == f"Written: {tmp_path / name}"
    click(ui.exportStlButton, tmp_path)
    assert [file.name for file in tmp_path.glob("*.stl")] == ["first LA_LA.stl"]
    click(ui.reportButton, tmp_path)
    assert reported[0].masks == [first]
    panel.measurePanel._report.stop()
    click(ui.openDatasetButton, tmp_path / "atria")
    assert opened[0]["labels"][0]["name"] == "LA"
    ui.resultSelector.setCurrentNode(first)
    window.click(ui.addVeinButton)
    click(ui.saveClipsButton, tmp_path / "clips.json")
    assert "vein" in (tmp_path / "clips.json").read_text(encoding="utf-8")
    click(ui.loadClipsButton, tmp_path / "clips.json")
    assert ui.clipsWords.text == "Another result is shown now. Nothing was loaded."
    assert not panel.measurePanel.clips.nodes()
    ui.resultSelector.setCurrentNode(first)
    panel.exportPanel.push.offer([tmp_path / "first.dcm"])
    given[:] = ["", "pacs.example"]
    window.click(ui.exportPushButton)
    assert str(tmp_path / "first.dcm") in sent[0]


@pytest.mark.usefixtures("alone")
def test_a_dicom_segmentation_refers_to_the_instances_that_the_scan_was_loaded_from(window, tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "library"))
    from small_series import stack, write_classic

    from mper.dicom.series import read_series

    source = tmp_path / "Müller"
    write_classic(source, stack((6, 5, 7)))
    series = read_series(source)
    volume = series.volume
    scan = mrml.show_scan(volume.array, volume.geometry.affine, "scan", slicer.mrmlScene)
    files = {str(pydicom.dcmread(file).SOPInstanceUID): str(file) for file in source.iterdir()}
    scan.SetAttribute("DICOM.instanceUIDs", " ".join(files))

    class Database:
        isOpen = True
        slicers = getattr(slicer, "dicomDatabase", None)  # Slicer's own database needs more than the module uses

        def fileForInstance(self, uid):
            return files[uid]

        def instanceValue(self, _uid, _tag):
            return ""

        def __getattr__(self, name):
            return getattr(self.slicers, name)

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    node = segmentation_node.show_mask(np.ones((2, 3, 3), np.uint8), (1, 1, 2), LA, scan, "LA", RESULT)
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(node)
    ui = panel.ui
    ui.exportSection.collapsed = False
    ui.authorEdit.text = "Jörg Müller"
    panel.exportPanel.toDicom(node, tmp_path / "out.dcm")
    window.wait_until(lambda: ui.exportDicomButton.enabled, 60, "the file")
    assert "Written" in ui.exportWords.text, ui.exportWords.text
    assert "Compared with the mask: passed, 6 frames, 0 voxels differ." in ui.exportWords.text
    assert not ui.exportCheckText.visible
    window.click(ui.exportCheckButton)
    assert ui.exportCheckText.plainText == (tmp_path / "out.check.txt").read_text(encoding="utf-8")
    assert ui.exportCheckText.visible
    window.click(ui.exportCopyButton)
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert written.ContentCreatorName == "Jörg Müller"
    assert written.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    referenced = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == set(files)

    asked = []
    drawn = segmentation_node.show_mask(np.ones((1, 2, 2), np.uint8), (4, 1, 1), (make_label(1, "RA"),), scan, "drawn")
    segment = drawn.GetSegmentation().GetNthSegment(0)
    for tag in ("DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
        segment.RemoveTag(tag)
    assert node.GetSegmentation().AddSegment(segment)
    assert ui.exportPushButton.enabled
    for answer in (False, True):

        def confirm(text, answer=answer, **_options):
            asked.append(text)
            ui.resultSelector.setCurrentNode(drawn if answer else node)  # while the question is open
            return answer

        monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", confirm)
        panel.exportPanel.toDicom(node, tmp_path / "both.dcm")
        window.wait_until(lambda: ui.exportWords.text.startswith(("Nothing", "Written:")), 60, "the end")
        assert "RA" in asked.pop()
        assert ui.exportPushButton.enabled != answer  # the files of a result that is not shown are not offered
        assert not ui.exportCheckText.visible  # that of the file before
        assert (tmp_path / "both.dcm").is_file() == answer, ui.exportWords.text
    both = pydicom.dcmread(tmp_path / "both.dcm").SegmentSequence
    assert [one.SegmentAlgorithmType for one in both] == ["AUTOMATIC", "MANUAL"]
    (tmp_path / "Müller" / "extra").mkdir()
    panel.exportPanel.toDicom(node, tmp_path / "both.png")
    window.wait_until(lambda: ui.exportDicomButton.enabled, 60, "the refusal")
    assert "Export .seg.nrrd or NIfTI instead." in ui.exportWords.text


# ---- keep as label


def test_a_result_is_kept_as_revision_after_revision_and_an_empty_one_after_a_question(
    window, shared_engine, tmp_path, monkeypatch
):
    from mper.datasets.dataset import Dataset

    scan, node = small_result()
    panel = opened(window)
    ui = panel.ui
    ui.resultSelector.setCurrentNode(node)
    ui.keepSection.collapsed = False
    assert not ui.keepButton.enabled
    assert ui.keepWords.text.startswith("Please enter: a dataset (open or create one with Folder")
    assert ui.keepWords.text.endswith("your name.")
    ui.authorEdit.text = "A. Reader"
    assert "your name" not in ui.keepWords.text
    panel.saveLabelPanel.openFolder(tmp_path / "my atria", RESULT)
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    window.click(ui.keepButton)
    window.wait_until(lambda: ui.keepWords.text == "Saved as revision 1 of case-001.", 20, "the first revision")
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the list of cases")
    window.click(ui.keepButton)
    window.wait_until(lambda: ui.keepWords.text.startswith("No changes"), 20, "the comparison")
    assert ui.keepWords.text == "No changes since revision 1 of case-001."
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:] = 1
    draw(node, mask)
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the list of cases")
    assert ui.caseBox.currentText == "case-001"
    window.click(ui.keepButton)
    window.wait_until(lambda: ui.keepWords.text.startswith("Saved"), 20, "the second revision")
    assert ui.keepWords.text == "Saved as revision 2 of case-001."
    window.screenshot("segment-refine")

    case = Dataset.open(tmp_path / "my atria").case("case-001")
    first, second = case.revisions()
    assert (first.author, first.how, first.edited, first.model) == ("A. Reader", "model", False, ("la", "1.0.0"))
    assert second.edited
    assert second.seconds is not None
    assert case.geometry.is_close(mrml.geometry_of(scan))
    assert (case.label(2).array == segmentation_node.mask_of(node, scan)).all()
    assert settings.setting("MPER/Author") == "A. Reader"
    asked = []
    monkeypatch.setattr("MPERLib.questions.agreed", lambda text, _title: asked.append(text))
    draw(node, np.zeros((3, 4, 4), np.uint8))
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the list of cases")
    window.click(ui.keepButton)
    window.wait_until(lambda: "Not saved" in ui.keepWords.text, 20, "the refusal")
    assert "The mask is empty." in ui.keepWords.text and "shows none of the structures" in asked[0]
    assert len(case.revisions()) == 2


def test_a_scan_of_the_dataset_gets_another_label_and_one_of_the_hold_out_only_after_a_question(
    window, shared_engine, tmp_path, monkeypatch
):
    from mper.datasets.dataset import Dataset
    from mper.labels import make_label
    from mper.volume import Volume

    scan, node = small_result()
    dataset = Dataset.create(tmp_path / "atria", "atria", [make_label(1, "LA")])
    case = dataset.add_case("pat-7", Volume(mrml.array_of(scan), mrml.geometry_of(scan)), {})
    panel = opened(window)
    ui, questions, answers = panel.ui, [], []
    ask = lambda question, _title: questions.append(question) or answers.pop(0)  # noqa: E731
    monkeypatch.setattr("MPERSegmentLib.save_label_panel.agreed", ask)
    ui.resultSelector.setCurrentNode(node)
    ui.keepSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    panel.saveLabelPanel.openFolder(dataset.path, None)

    def save(*replies, case="case-001"):
        answers[:] = replies
        window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
        ui.caseBox.setEditText(case)
        window.click(ui.keepButton)
        window.wait_until(lambda: ui.keepButton.enabled and not ui.keepWords.text.startswith("Saving"), 20, "the end")

    save(False)
    assert questions == ["This scan is in the dataset already, as pat-7. Another label for pat-7?"]
    assert ui.keepWords.text == "<b>Not saved.</b> The scan is in the dataset already, as pat-7."
    assert not case.is_labelled
    save(True)
    assert len(case.revisions()) == 1 and dataset.cases == ("pat-7",)

    dataset.lock_holdout(["pat-7"])
    panel.saveLabelPanel.refresh()
    window.wait_until(lambda: panel.saveLabelPanel._locked == ["holdout"], 20, "the hold-out")
    draw(node, np.tri(16, 4).reshape(4, 4, 4).astype(np.uint8))
    save(False, case="pat-7")
    assert "pat-7 is in the hold-out set" in questions[-1]
    assert len(case.revisions()) == 1
    save(True, case="pat-7")
    window.wait_until(lambda: ui.keepWords.text == "Saved as revision 2 of pat-7.", 20, "the revision")
    assert len(case.revisions()) == 2

    # answers about a dataset come when another one was chosen; the question is about that of the label
    Dataset.create(tmp_path / "open", "open", [make_label(1, "LA")])
    saving, get, late = panel.saveLabelPanel, panel.session.get, []
    first = ui.datasetBox.currentData
    saving.refresh()
    window.wait_until(lambda: ui.keepButton.enabled and ui.datasetBox.count == 2, 20, "the other dataset")
    panel.session.get = lambda path, done, failed: get(path, lambda answer: late.append((done, answer)), failed)
    ui.datasetBox.currentIndex = 1 - ui.datasetBox.findData(first)
    window.wait_until(lambda: late, 20, "what it is")
    done, answer = late.pop()
    done(answer)
    window.wait_until(lambda: late, 20, "its cases")
    panel.session.get = get
    ui.datasetBox.currentIndex = ui.datasetBox.findData(first)
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    late[0][0]([])
    done(answer)
    assert list(saving._cases) == ["pat-7"] and saving._locked == ["holdout"]
    draw(node, np.eye(4, dtype=np.uint8)[None].repeat(4, 0))

    ui.caseBox.setEditText("case-001")
    answers[:] = [True, False]
    ui.keepButton.click()
    saving._locked = [""]  # as when another dataset is chosen meanwhile
    window.wait_until(lambda: "Not saved" in ui.keepWords.text, 20, "the refusal")
    assert "pat-7 is in the hold-out set" in questions[-1] and len(case.revisions()) == 2


# ---- engine and installation


@pytest.mark.usefixtures("alone")
def test_each_model_stands_once_in_the_list_and_the_one_in_use_says_so(window):
    def own(dataset, version, current):
        origin = {"dataset": dataset, "name": "LA", "version": version, "current": current}
        model = {"id": f"{dataset}/LA/{version}", "title": "LA: trained", "labels": RESULT["labels"]}
        return {**model, "name": "LA", "origin": origin, "card": {"sha256": version * 8}}

    bundled = {"id": "la", "title": "Left atrium", "name": "la", "labels": RESULT["labels"], "origin": "bundled"}
    listed = [bundled, *(own(dataset, v, v == "2") for dataset in ("A/atria", "B/atria") for v in "12")]
    panel = window.open("MPERSegment")
    session, ui = panel.session, panel.ui

    def answer(path, done, failed=None):
        done(listed, [])

    def shown():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "getList", answer)
            session.refreshModels()
        return [ui.modelBox.itemText(n) for n in range(ui.modelBox.count)]

    settings.setSetting(settings.CURRENT_MODEL_KEY, "B/atria/LA")
    names = ["LA, version 1 of atria", "LA, version 2 of atria"]
    assert shown() == ["Left atrium", names[0], names[1] + " (in use)"]
    assert ui.modelBox.currentText == names[1] + " (in use)"
    assert session.model("A/atria/LA/2") is session.model("B/atria/LA")
    settings.setSetting(settings.CURRENT_MODEL_KEY, "la")
    assert shown() == ["Left atrium (in use)", *names]


def test_a_model_of_the_users_own_has_the_name_that_the_user_gave_it() -> None:
    from MPERLib import formatting

    origin = {"dataset": "root/atria", "name": "mper8", "version": "3", "current": True}
    model = {"id": "root/atria/mper8/3", "labels": [{"name": "LA"}, {"name": "RA"}], "origin": origin}
    assert formatting.model_name(model) == "mper8, version 3 (LA/RA, atria)"


def test_a_model_that_was_trained_without_a_hold_out_says_that_it_was_not_measured() -> None:
    from MPERLib import formatting

    model = {"name": "la-a", "version": "1", "card": {"about": {"quality": "not measured", "limits": "none known"}}}
    assert formatting.model_summary(model) == "The quality of this model was not measured."
    assert "Quality" not in formatting.model_card(model)
    assert "none known" in formatting.model_card(model)


def test_a_dialog_is_no_work(monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 8.0])  # the block begins, the dialog opens, it closes, the block ends
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    with callbacks.timed("asks"), callbacks.dialog():
        pass
    assert callbacks.records()[-1].seconds == 3.0


def test_missing_packages_are_offered_with_what_they_are(window, monkeypatch):
    monkeypatch.setenv("MPER_PYTHON", "/nonexistent/python")
    missing = install.MissingPackages(("fastapi>=0.110,<1",), torch=False)
    monkeypatch.setattr(install, "check", lambda done, failed: done(missing))
    panel = window.open("MPERSegment")
    ui = panel.ui
    assert "Python was not found" in ui.engineWords.text
    assert ui.installFrame.visible
    assert "about 150 MB of download" in ui.installLabel.text
    assert not ui.installLog.visible and not ui.installBar.visible
    window.click(ui.installDetailsButton)
    assert ui.installLog.visible
    assert "fastapi" in ui.installLog.plainText
    assert str(settings.packagesFolder()) in ui.installLog.plainText
    begun = []
    monkeypatch.setattr(install, "Installation", lambda *arguments: begun.append(arguments) or begun)
    window.click(ui.installButton)
    (_missing, wheels, log, _done, failed, progress) = begun.pop()
    assert (_missing, wheels) == (missing, None)
    assert ui.installButton.text == "Cancel"
    progress(0.5, "Downloading: 75 of about 150 MB")
    assert (ui.installBar.visible, ui.installBar.value, ui.installBar.maximum) == (True, 500, 1000)
    assert ui.installLabel.text == "Downloading: 75 of about 150 MB"
    log("Collecting fastapi")
    assert "Collecting fastapi" in ui.installLog.plainText
    failed("The installation failed: no connection. Check it.")
    assert "no connection" in ui.installLabel.text
    assert ui.installButton.text == "Install"
    assert not ui.installBar.visible
    del log, failed, progress


@pytest.mark.usefixtures("alone")
def test_a_python_that_the_user_brought_is_left_to_the_user(window, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv("MPER_PYTHON", str(python))
    monkeypatch.delenv("MPER_PACKAGES", raising=False)
    missing = install.MissingPackages(("fastapi>=0.110,<1",), torch=True)
    monkeypatch.setattr(install, "check", lambda done, failed: done(missing))
    panel = window.open("MPERSegment")
    ui = panel.ui
    panel.installPanel.check()
    assert f"uses {python}, which you chose. It lacks fastapi" in ui.installLabel.text
    assert ui.installFrame.visible and not ui.installButton.visible and not ui.installFolderButton.visible


@pytest.mark.usefixtures("alone")
def test_the_engines_packages_are_removed_after_a_question(window, tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    (folder / "torch").mkdir(parents=True)
    monkeypatch.setenv("MPER_PACKAGES", str(folder))
    panel = window.open("MPERSegment")
    panel.ui.engineSection.collapsed = False
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **_kwargs: bool(asked.append(text)))
    window.click(panel.ui.removeButton)
    assert str(folder) in asked[0]
    assert folder.is_dir()
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda _text, **_kwargs: True)
    window.click(panel.ui.removeButton)
    assert not folder.exists()
    assert panel.ui.messageLabel.text == "The engine's packages were removed."
    window.click(panel.ui.removeButton)
    assert "There are no packages of the engine in" in panel.ui.messageLabel.text


@pytest.mark.usefixtures("alone")
def test_an_engine_elsewhere_needs_address_token_and_agreement(window):
    panel = window.open("MPERSegment")
    ui = panel.ui
    ui.engineSection.collapsed = False
    ui.remoteRadio.checked = True
    assert not ui.engineButton.enabled
    ui.urlEdit.text, ui.tokenEdit.text = "https://gpu.example:8443", "secret"
    assert not ui.engineButton.enabled
    ui.consentCheck.checked = True
    window.click(ui.engineButton)
    assert slicer.mperEngine.isRemote
    assert slicer.mperEngine.mayUpload
    ui.consentCheck.checked = False  # taken back: nothing more is sent
    assert not slicer.mperEngine.mayUpload
    assert settings.setting("MPER/RemoteUrl") == "https://gpu.example:8443"
    assert settings.setting("MPER/RemoteToken") == ""  # kept only on request
    ui.localRadio.checked = True
    window.click(ui.engineButton)
    assert not slicer.mperEngine.isRemote


def test_an_engine_elsewhere_is_found_again_when_its_token_was_kept(window, tmp_path, atrium):
    token = "0123456789abcdef0123456789abcdef"
    (tmp_path / "tokens").write_text(f"reader {token}\n", encoding="utf-8")
    (tmp_path / "tokens").chmod(0o600)
    words = [
        str(settings.enginePython()),
        "-m",
        "mper",
        "serve",
        "--token-file",
        str(tmp_path / "tokens"),
        "--with-parent",
    ]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "LD_LIBRARY_PATH")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        url = f"http://127.0.0.1:{json.loads(server.stdout.readline())['port']}"
        for key, value in (("Url", url), ("Token", token)):
            settings.setSetting(f"MPER/Remote{key}", value)
        settings.setSetting("MPER/EngineWhere", "remote")
        show(atrium)
        panel = opened(window)
        assert panel.session.engine.isRemote
        assert panel.ui.remoteRadio.checked
        window.click(panel.ui.segmentButton)
        window.wait_until(lambda: panel.ui.messageFrame.visible, 10, "the refusal")
        assert "only with your consent" in panel.ui.messageLabel.text
        panel.ui.engineSection.collapsed = False
        assert panel.ui.tokenEdit.text == token
        panel.ui.consentCheck.checked = True
        window.click(panel.ui.engineButton)
        window.wait_until(lambda: panel.ui.segmentButton.enabled, ENGINE_S, "the engine")
        assert segmentation_node.mask_of(segmented(window, panel), panel.ui.inputSelector.currentNode()).any()
    finally:
        server.stdin.close()
        server.wait(20)
        server.stdout.close()


def test_the_nearest_labelled_voxels_are_named_with_their_cases() -> None:
    from MPERSegmentLib.probe import _labelled

    rows = [{"value": 1, "name": "LA", "case": "A <b>", "index": [1, 2, 3], "similarity": 0.987}]
    rows.append({"value": 0, "name": "background", "case": "C", "index": [0, 0, 0], "similarity": 0.5})
    assert _labelled(rows) == "Most similar labelled voxels: A &lt;b&gt; (LA, 0.99), C (background, 0.50)"
    assert _labelled([]) == ""


# ---- scans that change, callbacks that fail, names of files


def test_a_scan_that_changes_while_it_is_sent_is_sent_again(window, shared_engine, atrium):
    scan = show(atrium)
    panel = opened(window)
    sent = []
    post = panel.session.postArray
    panel.session.postArray = lambda path, array, header, *rest: (
        sent.append(header["affine"]) or post(path, array, header, *rest)
    )
    window.click(panel.ui.segmentButton)
    scan.SetOrigin(10, 20, 30)  # the upload has begun with the grid of before
    slicer.util.arrayFromVolume(scan)[:] = slicer.util.arrayFromVolume(scan)[::-1].copy()
    slicer.util.arrayFromVolumeModified(scan)
    node = window.wait_until(lambda: panel.resultPanel.node, MASK_S, "the mask")
    assert len(sent) == 2
    assert sent[0] != sent[1] == mrml.geometry_of(scan).affine.tolist()
    array = panel.scans.known(scan)
    assert array is not None
    assert segmentation_node.mask_of(node, scan).any()
    panel.session.postArray = post


def test_a_scan_that_changes_at_each_try_is_given_up_in_one_line(window, shared_engine):
    scan, _node = small_result()
    panel = opened(window)
    done, failed = [], []
    post = panel.session.postArray

    def changing(path, array, header, *rest):
        scan.SetOrigin(*(np.array(scan.GetOrigin()) + 1))
        return post(path, array, {**header, "affine": np.eye(4).tolist()}, *rest)

    panel.session.postArray = changing
    panel.scans.send(scan, done.append, failed.append)
    window.wait_until(lambda: done or failed, 10, "the end")
    assert not done
    assert failed == [
        "the scan keeps changing while it is being segmented; wait until it does not change, then try again"
    ]
    assert panel.scans.known(scan) is None
    panel.session.postArray = post


def test_an_exception_in_a_callback_is_shown_and_the_panel_can_go_on(
    window, shared_engine, atrium, monkeypatch, caplog
):
    show(atrium)
    panel = opened(window)
    from MPERLib import http_upload

    def broken(self):
        raise RuntimeError("the slab is lost\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(http_upload.UploadCall, "_writeSlab", broken)
        window.click(panel.ui.segmentButton)
        end = 200
        while panel.segmentPanel.running and end:
            window.events()
            end -= 1
    assert not panel.segmentPanel.running
    assert "RuntimeError: the slab is lost" in panel.ui.messageLabel.text
    assert "second line" not in panel.ui.messageLabel.text
    assert panel.ui.segmentButton.text == "Segment LA"
    assert panel.ui.segmentButton.enabled
    assert [type(error) for error in window.errors()] == [RuntimeError]
    assert "Traceback" in caplog.text
    window.forgive()
    caplog.clear()  # its tracebacks keep the panel alive


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("typed", ["mask", "mask.nii", "mask.gz", "mask.NII.GZ"])
def test_an_export_writes_one_ending_and_replaces_only_after_a_question(window, tmp_path, monkeypatch, typed):
    _scan, node = small_result()
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(node)
    panel.ui.exportSection.collapsed = False
    filters, questions = [], []

    def dialog(_window, _title, _start, kind):
        filters.append(kind)
        return str(tmp_path / typed)

    class Dialogs:
        QFileDialog = SimpleNamespace(getSaveFileName=dialog)

        def __getattr__(self, name):
            return getattr(qt, name)

    monkeypatch.setattr("MPERSegmentLib.export_panel.qt", Dialogs())
    answer = False
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **_: questions.append(text) or answer)
    target = tmp_path / "mask.nii.gz"
    target.write_bytes(b"another's")
    window.click(panel.ui.exportNiftiButton)
    assert filters == ["NIfTI label map (*.nii.gz)"]
    assert questions == [f"Replace {target}?"]
    assert target.read_bytes() == b"another's"
    answer = True
    window.click(panel.ui.exportNiftiButton)
    assert read_labelmap(target).array.sum() == 64
    assert [file.name for file in tmp_path.glob("mask*")] == ["mask.nii.gz"]
