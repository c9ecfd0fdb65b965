"""The quality to expect of a mask in the panel and in the views, and the region that a user corrects by hand."""

from __future__ import annotations

import numpy as np
import pytest
import qt
import slicer
from MPERLib import mrml, segmentation_node
from MPERLib.callbacks import slot
from test_segment import LA, RESULT, alone, cell, draw, small_result  # noqa: F401

SHAPE = (16, 40, 48)
AFFINE = np.array([[0, 0, 1.0, -20], [0, 1.0, 0, -30], [1.0, 0, 0, 5], [0, 0, 0, 1]])
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
BOX = [-15.0, 15.0, -20.0, 0.0, 8.0, 18.0]
GOOD = {"expected_dice": 0.91, "low": 0.85, "high": 0.95, "level": "good", "reasons": []}
CHECK = {
    "expected_dice": 0.7,
    "low": 0.55,
    "high": 0.8,
    "level": "check",
    "reasons": ["the model is unsure of the boundary"],
}
WRONG = {
    "expected_dice": 0.23,
    "low": 0.05,
    "high": 0.45,
    "level": "likely wrong",
    "reasons": ["the tissue in the mask is unlike that of the training scans", "the mask is in several pieces"],
}


def flagged(quality):
    words = f"{quality['level']} (expected Dice {quality['expected_dice']:.2f})"
    flags = [{"code": "quality", "words": words}, {"code": "border", "words": "LA touches the border"}]
    return {**RESULT, "quality": quality, "flags": flags, "notes": [words]}


def shown(window, result):
    """A result in the panel, recorded and displayed as one that has just arrived."""
    from MPERSegmentLib import mask_quality, result_node

    scan, node = small_result()
    result_node.record(node, result)
    mask_quality.show_in_views(node)
    panel = window.open("MPERSegment")
    panel.ui.resultSelector.setCurrentNode(node)
    return panel, scan, node


def drawn(node):
    """How a mask is drawn: the colour in place of its own (None without), fillings of slices and surface."""
    display, segment = node.GetDisplayNode(), node.GetSegmentation().GetNthSegmentID(0)
    colour = display.GetSegmentOverrideColor(segment)
    colour = tuple(colour[n] for n in range(3))
    fills = display.GetSegmentOpacity2DFill(segment), display.GetSegmentOpacity3D(segment)
    return (None if min(colour) < 0 else colour), *fills


# ---- quality


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("quality", "text", "background"),
    [
        (GOOD, "Expected agreement with an expert: 91 % (85 to 95 %).", "70, 160, 90"),
        (
            CHECK,
            "Please check: expected agreement with an expert 70 % (55 to 80 %). The model is unsure of the boundary. "
            "Correct the mask where it is wrong.",
            "226, 156, 48",
        ),
    ],
    ids=["good", "check"],
)
def test_the_expected_agreement_stands_above_the_table_once(window, quality, text, background):
    panel, _scan, node = shown(window, flagged(quality))
    ui = panel.ui
    assert ui.qualityLabel.visible
    assert ui.qualityLabel.text == text
    assert background in ui.qualityLabel.styleSheet
    assert "bold" not in ui.qualityLabel.styleSheet
    assert ui.flagsLabel.text == "LA touches the border."
    assert "Dice" not in ui.resultWords.text
    assert "not calibrated" not in ui.resultWords.text
    assert cell(ui.resultTable, 0, 0) == "LA"
    assert drawn(node) == (None, 1, 1)


@pytest.mark.usefixtures("alone")
def test_a_mask_that_is_likely_wrong_is_red_until_a_person_edits_it(window):
    panel, _scan, node = shown(window, flagged(WRONG))
    ui = panel.ui
    text = ui.qualityLabel.text
    assert text.startswith(
        "Likely wrong: expected agreement with an expert only 23 % (5 to 45 %). The tissue in the mask"
    )
    assert text.endswith('Click "It is here" and then its middle in a slice, or draw an ROI.')
    assert "bold" in ui.qualityLabel.styleSheet
    assert [cell(ui.resultTable, 0, column) for column in (0, 1, 3)] == ["LA", "0.5 mL", "likely wrong"]
    assert "is 90 %" in ui.resultTable.item(0, 3).toolTip()
    colour, fill, surface = drawn(node)
    assert colour == pytest.approx((1, 0.1, 0.1))
    assert (fill, surface) == (pytest.approx(0.1), 0.5)
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:2] = 1
    draw(node, mask)
    assert drawn(node) == (None, 1, 1)
    window.wait_until(lambda: cell(ui.resultTable, 0, 1) == "0.3 mL", 5, "the edited mask")
    assert cell(ui.resultTable, 0, 3) == "\N{EN DASH}"
    assert ui.qualityLabel.text.startswith("Edited. Expected agreement of the original mask with an expert: 23 %")


@pytest.mark.usefixtures("alone")
def test_a_result_without_a_quality_is_shown_as_before(window):
    panel, _scan, _node = shown(window, {**RESULT, "confidence": 0.9})
    assert not panel.ui.qualityLabel.visible
    assert "not calibrated" in panel.ui.resultWords.text


@pytest.mark.usefixtures("alone")
def test_a_structure_that_was_not_found_is_said_in_a_sentence_without_a_table(window):
    empty = {**RESULT["structures"][0], "voxels": 0, "volume_ml": 0.0, "components": 0, "confidence": 0.0}
    words = "the mask is empty: LA was not found; check the scan and the model"
    flags = [{"code": "empty", "words": words}]
    panel, _scan, _node = shown(
        window, {**RESULT, "quality": None, "structures": [empty], "flags": flags, "notes": [words]}
    )
    ui = panel.ui
    assert ui.qualityLabel.text.startswith("LA was not found. Check that the scan shows it.")
    assert not ui.resultTable.visible
    assert not ui.flagsLabel.visible
    assert "not found" not in ui.resultWords.text


# ---- region


class Asked:
    """A request as the modules hold it."""

    id, status, over = "job", None, False

    def abort(self):
        self.over = True

    cancel = abort


class Engine:
    """Stands in for `MPERLib.engine.Engine`: each segmentation finds the same mask, and by itself the same region."""

    isRemote, mayUpload, url, reason, state = False, True, "", "", "ready"

    def __init__(self, mask):
        self.info = {"devices": [], "default_device": "", "roots": []}
        self.mask, self.quality = mask, WRONG
        self.asked = []  # region or point of each segmentation
        self.segmented = self.open = 0

    def onState(self, _listener):
        return lambda: None

    def start(self):
        pass

    def stop(self, _wait_s=0):
        pass

    def diagnostics(self):
        return ""

    def get(self, path, done, failed=None, left_out=None):
        models = [{"id": "la", "name": "la", "title": "LA", "labels": RESULT["labels"]}]
        return self._answer(done, models if path == "/models" else [])

    def delete(self, path, done=None, failed=None):
        return Asked()

    def post(self, path, body, done, failed=None):
        return self._answer(failed, "not here")

    put = post

    def postArray(self, path, array, header, done, failed=None, progress=None):
        return self._answer(done, {"scan": "s1"}) if path.startswith("/scans") else self._answer(failed, "not here")

    def getArray(self, path, done, failed=None):
        if not path.endswith("/mask"):
            return self._answer(failed, "not here")
        return self._answer(lambda mask: done(mask, {"start": [0, 0, 0]}), self.mask)

    def job(self, path, body, done, failed=None, progress=None, cancelled=None):
        if path != "/jobs/segment":
            return Asked()
        self.asked.append({key: body[key] for key in ("roi_mm", "at_mm") if body.get(key) is not None})
        self.segmented += 1
        where = self.mask.nonzero()
        extent = [[int(axis.min()) for axis in where], [int(axis.max()) + 1 for axis in where]]
        own = {"prediction": f"p{self.segmented}", "quality": self.quality, "extent": extent, "flags": []}
        return self._answer(done, {**RESULT, **own, "roi_mm": body["roi_mm"] or BOX})

    def _answer(self, done, what):
        asked = Asked()
        self.open += 1

        def now():
            self.open -= 1
            if not asked.over and done is not None:
                asked.over = True
                done(what)

        qt.QTimer.singleShot(0, slot(now, "stand-in"))
        return asked


class Scene:
    """A scan, a click on the button, and the region that the model finds."""

    def __init__(self, window):
        mask = np.zeros(SHAPE, np.uint8)
        mask[10:15, 12:28, 10:26] = 1
        self.window, self.engine = window, Engine(mask)
        slicer.mperEngine = self.engine
        self.scan = mrml.show_scan(VOXELS, AFFINE, "scan", slicer.mrmlScene)
        self.panel = window.open("MPERSegment")
        self.ui = self.panel.ui
        window.wait_until(lambda: self.ui.segmentButton.enabled, 5, "the models")
        self.view = slicer.app.layoutManager().sliceWidget("Red")
        self.segment(self.ui.segmentButton)

    def segment(self, button):
        before = self.engine.segmented
        self.window.click(button)
        self.finished(before)

    def finished(self, before):
        busy = self.panel.segmentPanel
        self.window.wait_until(lambda: self.engine.segmented > before and not busy.running, 10, "the mask")
        self.window.events()

    @property
    def node(self):
        return self.panel.resultPanel.node

    @property
    def box(self):
        from MPERSegmentLib import found_region

        return found_region.of(self.scan)

    def boxes(self):
        return slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")

    def click(self, index):
        interactor = self.view.sliceView().interactor()
        xy_to_ras = slicer.util.arrayFromVTKMatrix(self.view.mrmlSliceNode().GetXYToRAS())
        x, y = (np.linalg.inv(xy_to_ras) @ [*mrml.world_of(index, self.scan), 1])[:2]
        interactor.SetEventInformation(round(x), round(y), 0, 0)
        interactor.InvokeEvent("LeftButtonPressEvent")
        interactor.InvokeEvent("LeftButtonReleaseEvent")

    def escape(self):
        """Press Esc: the shortcut that is enabled now."""
        found = [key for key in slicer.util.mainWindow().findChildren(qt.QShortcut) if key.enabled]
        (shortcut,) = [key for key in found if key.key.toString() == "Esc"]
        shortcut.activated()
        self.window.events()


@pytest.fixture
def scene(window):
    made = Scene(window)
    yield made
    window.wait_until(lambda: not made.engine.open, 10, "answers, which hold the panel")
    vars(made).clear()


def test_the_region_that_was_found_is_a_box_and_not_the_region_of_the_next_segmentation(scene):
    box, ui = scene.box, scene.ui
    assert box.GetName() == "Region of scan"
    assert mrml.roi_mm(box, scene.scan) == pytest.approx(BOX)
    display = box.GetDisplayNode()
    assert (display.GetFillVisibility(), display.GetOutlineVisibility(), display.GetVisibility()) == (False, True, 1)
    assert ui.roiSelector.currentNode() is None
    assert ui.roiSelector.noneDisplay == "Found automatically"
    assert ui.regionWords.text == "Drag the box if the region is wrong."
    assert "Drag the region's box" in ui.qualityLabel.text
    first = scene.node
    scene.engine.quality = CHECK
    scene.segment(ui.segmentButton)
    assert "Correct the mask where it is wrong. Drag the region's box" in ui.qualityLabel.text
    assert scene.engine.asked == [{}, {}]
    assert scene.boxes() == [box]
    slicer.mrmlScene.RemoveNode(first)  # the box is that of the newer result
    scene.window.events()
    assert scene.boxes() == [box]
    slicer.mrmlScene.RemoveNode(scene.node)
    scene.window.events()
    assert scene.boxes() == []
    assert ui.roiSelector.noneDisplay == "Whole scan"
    assert not ui.segmentAgainButton.enabled


def test_the_box_that_was_dragged_is_segmented_in_place_of_the_mask(scene):
    box, node, ui = scene.box, scene.node, scene.ui
    assert drawn(node)[0] is not None
    (_name, made), *_others = segmentation_node.provenances_of(node)
    assert made.quality == "likely wrong (expected Dice 0.23, 0.05 to 0.45)"  # which exports state
    box.SetCenter(3, 9, 12)
    scene.engine.quality = GOOD
    scene.segment(ui.segmentAgainButton)
    assert scene.engine.asked[1]["roi_mm"] == pytest.approx([-18, 12, -19, 1, 7, 17])
    assert scene.node is node
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    assert ui.qualityLabel.text.startswith("Expected agreement")
    assert drawn(node) == (None, 1, 1)
    assert segmentation_node.provenances_of(node)[0][1].quality == "good (expected Dice 0.91, 0.85 to 0.95)"
    assert list(box.GetCenter()) == [3, 9, 12]
    scene.panel.segmentEditorPanel.editor.widget.undo()
    assert drawn(node)[0] is not None  # the mask before is back, and still likely wrong
    scene.segment(ui.segmentButton)  # localises again: the dragged box is not its region
    assert scene.engine.asked[2] == {}
    assert mrml.roi_mm(box, scene.scan) == pytest.approx(BOX)


def test_replaced_is_the_result_that_was_shown_at_the_click(scene):
    ui, first, before = scene.ui, scene.node, scene.engine.mask
    scene.segment(ui.segmentButton)
    second = scene.node
    scene.engine.mask = np.roll(before, 3, axis=2)
    ui.resultSelector.setCurrentNode(first)
    ui.targetBox.currentIndex = ui.targetBox.findData("update")
    ui.segmentButton.click()
    ui.resultSelector.setCurrentNode(second)  # while the engine computes
    scene.finished(2)
    assert (segmentation_node.mask_of(first, scene.scan) == scene.engine.mask).all()
    assert (segmentation_node.mask_of(second, scene.scan) == before).all()
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 2


def test_a_click_on_the_structure_segments_around_it_at_once(scene):
    ui, node = scene.ui, scene.node
    mrml.jump_to((9, 20, 24), scene.scan)
    scene.window.click(ui.hereButton)
    assert ui.hereButton.checked
    assert ui.regionWords.text == "Click its middle in a slice. Esc cancels."
    scene.escape()
    assert not ui.hereButton.checked
    scene.click((9, 18, 20))
    scene.window.events()
    assert len(scene.engine.asked) == 1
    scene.window.click(ui.hereButton)
    scene.click((9, 18, 500))  # beside the scan
    assert ui.hereButton.checked
    scene.click((9, 18, 20))
    scene.finished(1)
    expected = (np.array(AFFINE) @ [9, 18, 20, 1])[:3]
    assert scene.engine.asked[1]["at_mm"] == pytest.approx(expected, abs=0.6)
    assert not ui.hereButton.checked
    assert scene.node is node
    assert len(scene.boxes()) == 1


def test_a_box_that_is_drawn_takes_the_place_of_the_found_one_and_esc_brings_that_back(scene):
    ui, found = scene.ui, scene.box
    scene.window.click(ui.drawRoiButton)
    drawing = ui.roiSelector.currentNode()
    assert drawing is not found
    assert not drawing.GetDisplayNode().GetFillVisibility()
    assert "Esc cancels" in ui.regionWords.text
    assert not found.GetDisplayNode().GetVisibility()
    scene.escape()
    assert ui.roiSelector.currentNode() is None
    assert scene.boxes() == [found]
    assert found.GetDisplayNode().GetVisibility()
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform
    scene.window.click(ui.drawRoiButton)
    drawing = ui.roiSelector.currentNode()
    drawing.SetCenter(0, 10, 12)
    drawing.SetSize(20, 10, 8)
    interaction.SwitchToViewTransformMode()  # as Slicer does after the second click
    assert ui.roiSelector.currentNode() is drawing
    assert ui.regionWords.text == "Only the inside of this box is segmented."
    scene.segment(ui.segmentAgainButton)
    assert scene.engine.asked[1]["roi_mm"] == pytest.approx([-10, 10, -15, -5, 8, 16])


def test_the_slices_go_to_a_mask_that_they_do_not_cut(scene):
    red = scene.view.mrmlSliceNode()
    offset = red.GetSliceOffset()
    assert 15 <= offset <= 19  # the mask's slices; the scan's middle is slice 8
    red.SetSliceOffset(16.0)
    scene.segment(scene.ui.segmentButton)
    assert red.GetSliceOffset() == 16.0  # it cuts the mask
    red.SetSliceOffset(6.0)
    scene.segment(scene.ui.segmentButton)
    assert red.GetSliceOffset() == pytest.approx(offset)


@pytest.mark.usefixtures("alone")
def test_the_box_is_that_of_the_result_that_is_shown(window):
    from MPERSegmentLib import found_region, result_node

    scan, first = small_result()
    second = segmentation_node.show_mask(np.ones((2, 2, 2), np.uint8), (0, 0, 0), LA, scan, "another")
    moved = [low + 3 for low in BOX]
    for node, box in ((first, BOX), (second, moved)):
        result_node.record(node, {**RESULT, "prediction": node.GetName(), "roi_mm": box})
        roi = found_region.show(scan, node, box)
    ui = window.open("MPERSegment").ui
    for node, box in ((second, moved), (first, BOX), (second, moved)):
        ui.resultSelector.setCurrentNode(node)
        window.events()
        assert mrml.roi_mm(roi) == pytest.approx(box)


def test_the_box_is_hidden_with_its_scan_and_removed_with_it(scene):
    box = scene.box
    other = mrml.show_scan(VOXELS, AFFINE, "another", slicer.mrmlScene)
    scene.ui.inputSelector.setCurrentNode(other)
    scene.window.wait_until(lambda: not box.GetDisplayNode().GetVisibility(), 5, "the other scan")
    assert not scene.ui.segmentAgainButton.enabled
    scene.ui.inputSelector.setCurrentNode(scene.scan)
    scene.window.wait_until(box.GetDisplayNode().GetVisibility, 5, "its scan")
    slicer.mrmlScene.RemoveNode(scene.scan)
    scene.window.events()
    assert scene.boxes() == []


def test_a_click_is_taken_by_one_tool_at_a_time_and_by_none_once_the_module_is_left(scene):
    ui = scene.ui
    ui.refineSection.collapsed = False
    scene.window.events()
    scene.window.click(ui.brushAddButton)
    scene.window.click(ui.hereButton)
    assert (ui.brushAddButton.checked, ui.hereButton.checked) == (False, True)
    scene.window.click(ui.brushAddButton)
    assert (ui.brushAddButton.checked, ui.hereButton.checked) == (True, False)
    scene.window.click(ui.hereButton)
    scene.panel.exit()
    assert not ui.hereButton.checked
    scene.click((9, 18, 20))
    scene.window.events()
    assert len(scene.engine.asked) == 1
    scene.panel.enter()
    scene.window.click(ui.hereButton)
    slicer.mrmlScene.Clear(0)
    assert not ui.hereButton.checked
    scene.window.click(ui.drawRoiButton)
    scene.window.shut("MPERSegment")  # in the middle of it: the fixture looks for what is left


def test_the_box_is_in_a_saved_scene(scene):
    everything = slicer.mrmlScene
    everything.SetSaveToXMLString(1)
    everything.Commit()
    text = everything.GetSceneXMLString()
    everything.Clear(0)
    scene.window.events()
    assert scene.ui.roiSelector.noneDisplay == "Whole scan"
    everything.SetLoadFromXMLString(1)
    everything.SetSceneXMLString(text)
    everything.Import()
    everything.SetLoadFromXMLString(0)
    everything.SetSaveToXMLString(0)
    scene.window.events()
    (box,) = scene.boxes()
    assert box.GetNodeReference("MPER.RegionOf").GetName() == "scan"
    assert scene.ui.roiSelector.currentNode() is None
    assert scene.ui.roiSelector.noneDisplay == "Found automatically"
    assert scene.ui.qualityLabel.text.startswith("Likely wrong")
