"""Strokes in the slice views: painting them, the mask that follows, the list, undo, and what goes wrong on the way.

The engine is a stand-in that answers at once and by a rule that can be counted: a stroke turns its own voxels, and
those up to 2 mm further once it is settled.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import qt
import slicer
import vtk
from MPERLib import formatting, mrml, segmentation_node
from MPERLib.callbacks import slot
from vtk.util.numpy_support import vtk_to_numpy

from mper.datasets.scan_record import voxels_sha256
from mper.io import read_labelmap
from mper.strokes import Stroke
from mper.volume import Geometry, Volume

SHAPE = (16, 40, 48)
AFFINE = np.array([[0, 0, 1.0, -20], [0, 1.0, 0, -30], [1.0, 0, 0, 5], [0, 0, 0, 1]])
LABELS = [
    {"value": 1, "name": "LA", "category": None, "type": None, "colour": [203, 108, 81]},
    {"value": 2, "name": "LV", "category": None, "type": None, "colour": [80, 108, 203]},
]
GROWS_MM = 2.0
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
CHECKSUM = voxels_sha256(Volume(VOXELS, Geometry(AFFINE, SHAPE)))


class Asked:
    """A request as the modules hold it."""

    def __init__(self):
        self.over = False
        self.status = None
        self.id = "job"

    def abort(self):
        self.over = True

    cancel = abort


class Engine:
    """Stands in for `MPERLib.engine.Engine`, with one scan in mind."""

    isRemote, mayUpload, url, reason = False, True, "", ""

    def __init__(self, mask):
        self.state = "ready"
        self.info = {"devices": [], "default_device": "", "roots": []}
        self.mask = mask  # what the model finds
        self.predictions = {}
        self.bodies = []
        self.posted = []
        self.arrays = []
        self.slow_ms = 0
        self.region = np.s_[:, :, :]  # in which strokes turn voxels
        self.open = 0  # requests without an answer
        self.segmented = 0
        self.models = []  # that the scan was segmented with, by their ids
        self._listeners = []
        self.begin("p0")

    def begin(self, prediction):
        self.predictions = {prediction: {"strokes": [], "settled": True, "mask": self.mask.copy()}}

    def onState(self, listener):
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def become(self, state):
        self.state = state
        for listener in list(self._listeners):
            listener(self)

    def start(self):
        self.become("ready")

    def stop(self, _wait_s=0):
        pass

    def diagnostics(self):
        return ""

    # ---- requests

    def get(self, path, done, failed=None, left_out=None):
        if path == "/models":
            return self._answer(lambda: [{"id": "la", "name": "la", "title": "LA", "labels": LABELS}], done, failed)
        if "/probe" in path:
            return self._answer(lambda: self._probe(path), done, failed)
        answers = {
            "/datasets": [{"id": "d", "name": "atria", "cases": 0, "labelled": 0}],
            "/datasets/d": {"labels": [{**LABELS[0], "value": 7}, LABELS[1]]},
        }
        if path.endswith("/uncertain_places"):
            return self._answer(lambda: result_of("p0")["uncertain_places"], done, failed)
        return self._answer(lambda: answers.get(path, []), done, failed)

    def post(self, path, body, done, failed=None):
        return self._answer(dict, done, failed)

    def delete(self, path, done=None, failed=None):
        return Asked()

    def put(self, path, body, done, failed=None):
        self.bodies.append(copy.deepcopy(body))
        if path.startswith("/datasets"):
            self.posted.append(path)
            return self._answer(dict, done, failed)
        return self._answer(lambda: self._put(path.split("/")[2], body), done, failed)

    def getArray(self, path, done, failed=None):
        prediction, _sep, query = path.split("/")[2], *path.partition("?")[1:]
        return self._answer(lambda: self._part(prediction, query), lambda both: done(*both), failed)

    def postArray(self, path, array, header, done, failed=None, progress=None):
        self.posted.append(path)
        self.arrays.append(np.array(array))
        return self._answer(lambda: {"scan": "s1", "number": 1}, done, failed)

    def job(self, path, body, done, failed=None, progress=None, cancelled=None):
        if path != "/jobs/segment":
            return Asked()

        def result():
            self.segmented += 1
            self.models.append(body["model"])
            self.begin(f"p{self.segmented}")
            return {**result_of(f"p{self.segmented}"), "roi_mm": body["roi_mm"]}

        return self._answer(result, done, failed)

    def _answer(self, make, done, failed):
        asked = Asked()
        self.open += 1

        def now():
            self.open -= 1
            if asked.over:
                return
            asked.over = True
            if self.state != "ready":
                failed("no answer from the engine")
                return
            try:
                answer = make()
            except Refused as error:
                asked.status = error.status
                failed(str(error))
                return
            done(answer)

        qt.QTimer.singleShot(self.slow_ms, slot(now, "stand-in"))
        return asked

    # ---- strokes

    def _held(self, prediction):
        if prediction not in self.predictions:
            raise Refused(404, f"there is no prediction {prediction!r}")
        return self.predictions[prediction]

    def _put(self, prediction, body):
        held = self._held(prediction)
        drawn = [Stroke(one["value"], tuple(map(tuple, one["points_mm"])), one["radius_mm"]) for one in body["strokes"]]
        if any(not len(stroke.voxels(grid())) for stroke in drawn):
            raise Refused(422, "the stroke lies outside the segmented region")
        mask, told = self.mask.copy(), []
        for number, stroke in enumerate(drawn):
            settled = number + 1 < len(drawn) or body["settle"]
            wide = Stroke(stroke.value, stroke.points_mm, stroke.radius_mm + GROWS_MM * settled)
            at = self._inside(wide)
            told.append(
                {
                    "value": stroke.value,
                    "name": "",
                    "added_ml": {str(stroke.value): (mask[at] != stroke.value).sum() / 1000} if stroke.value else {},
                    "removed_ml": {"1": (mask[at] == 1).sum() / 1000} if not stroke.value else {},
                    "voxels": int((mask[at] != stroke.value).sum()),
                    "notes": ["it contradicts an earlier one"] if number and drawn[0].value != stroke.value else [],
                }
            )
            mask[at] = stroke.value
        for stroke in drawn:
            mask[self._inside(stroke)] = stroke.value
        differ = np.argwhere(mask != held["mask"])
        box = [differ.min(axis=0).tolist(), (differ.max(axis=0) + 1).tolist()] if len(differ) else None
        held.update(mask=mask, strokes=drawn, settled=body["settle"])
        structures = [figures_of(mask, label) for label in LABELS] if body["settle"] else []
        answer = {"strokes": told, "changed": box, "settled": body["settle"], "notes": [], "structures": structures}
        return {**answer, "seconds": 0}

    def _inside(self, stroke):
        known = np.zeros(SHAPE, bool)
        known[self.region] = True
        voxels = stroke.voxels(grid())
        return tuple(voxels[known[tuple(voxels.T)]].T)

    def _part(self, prediction, query):
        mask = self._held(prediction)["mask"]
        if not query:
            return mask, {"start": [0, 0, 0]}
        start, stop = ([int(n) for n in part.split("=")[1].split("%2C")] for part in query.split("&"))
        return mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))], {"start": start}

    def _probe(self, path):
        index = tuple(int(part.split("=")[1]) for part in path.partition("?")[2].split("&"))
        held = next(iter(self.predictions.values()))
        set_by = [n for n, stroke in enumerate(held["strokes"]) if index in map(tuple, stroke.voxels(grid()).tolist())]
        value = int(held["mask"][index])
        answer = {"value": value, "name": "LA" if value else "background", "prototypes": [], "margin": None}
        return {**answer, "probability": 0.9, "stroke": set_by[-1] if set_by else None}


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def grid():
    return Geometry(AFFINE, SHAPE)


def figures_of(mask, label):
    """Figures of a structure by a rule that can be counted: a voxel is a microlitre and has 10 square millimetres."""
    voxels = int((mask == label["value"]).sum())
    figures = {"voxels": voxels, "volume_ml": voxels / 1000, "surface_mm2": 10.0 * voxels, "confidence": 0.5}
    return {**figures, "value": label["value"], "name": label["name"], "components": 2 if mask[8, 20, 42] else 1}


def result_of(prediction):
    return {
        "prediction": prediction,
        "model": "la",
        "model_version": "1.0.0",
        "model_sha256": "d097f80d",
        "scan_sha256": CHECKSUM,
        "title": "Left atrium",
        "device": "CPU",
        "seconds": 2.5,
        "labels": LABELS,
        "roi_mm": [0.0, 9.0, 0.0, 9.0, 0.0, 9.0],
        "structures": [
            {"value": 1, "name": "LA", "volume_ml": 1.0, "surface_mm2": 9.0, "confidence": 0.9, "components": 1}
        ],
        "flags": [],
        "notes": [],
        "prototypes": [],
        "uncertain_places": [
            {"index": [8, 20, 30], "mm": None, "uncertainty": 0.4, "volume_ml": 0.1, "words": "LA or background"}
        ],
    }


@pytest.fixture
def engine(window):
    """The stand-in, with a model that finds a block."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:12, 12:28, 10:26] = 1
    stand_in = Engine(mask)
    slicer.mperEngine = stand_in
    return stand_in


class Scene:
    """A scan with its result in the panel, and hands that draw."""

    def __init__(self, window, engine):
        from MPERSegmentLib import result_node

        self.window, self.engine = window, engine
        self.scan = mrml.show_scan(VOXELS, AFFINE, "scan", slicer.mrmlScene)
        self.node = segmentation_node.show_mask(engine.mask, (0, 0, 0), LABELS, self.scan, "scan LA", result_of("p0"))
        result_node.record(self.node, result_of("p0"))
        self.panel = window.open("MPERSegment")
        self.ui = self.panel.ui
        window.wait_until(lambda: self.panel.session.ready, 5, "the models")
        self.ui.resultSelector.setCurrentNode(self.node)
        self.ui.runSection.collapsed = True
        self.ui.refineSection.collapsed = False
        window.wait_until(lambda: self.panel.segmentEditorPanel.editor.widget is not None, 10, "the editor")
        window.events()
        self.view = slicer.app.layoutManager().sliceWidget("Red")
        window.wait_until(lambda: self.view.mrmlSliceCompositeNode().GetBackgroundVolumeID() == self.scan.GetID(), 5)
        mrml.jump_to((8, 20, 24), self.scan)
        window.events()

    def mask(self):
        return segmentation_node.mask_of(self.node, self.scan)

    def mouse(self, event, index, **keys):
        interactor = self.view.sliceView().interactor()
        xy_to_ras = slicer.util.arrayFromVTKMatrix(self.view.mrmlSliceNode().GetXYToRAS())
        x, y = (np.linalg.inv(xy_to_ras) @ [*mrml.world_of(index, self.scan), 1])[:2]
        interactor.SetEventInformation(round(x), round(y), keys.get("control", 0), keys.get("shift", 0))
        interactor.InvokeEvent(event)

    def drag(self, *indices):
        """Press, drag, release."""
        self.mouse("MouseMoveEvent", indices[0])
        self.mouse("LeftButtonPressEvent", indices[0])
        for index in indices[1:]:
            self.mouse("MouseMoveEvent", index)
        self.mouse("LeftButtonReleaseEvent", indices[-1])

    def draw(self, *indices):
        """Draw, and wait until the mask has followed and the stroke is settled."""
        self.drag(*indices)
        self.rest()

    def rest(self):
        sync = self.panel.strokesPanel._sync()
        self.window.wait_until(lambda: not sync.pending and sync._held and sync._held.settled and not sync._busy, 60)

    def rows(self):
        table = self.ui.strokesTable
        return [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]


@pytest.fixture
def scene(window, engine):
    made = Scene(window, engine)
    yield made
    window.wait_until(lambda: not engine.open, 10, "answers, which hold the panel")
    vars(made).clear()  # it would keep the panel alive


def by_hand(node, window, value):
    """What an effect of the Segment Editor does to the first segment in a window of the scan's voxels."""
    segmentation = node.GetSegmentation()
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap"))
    whole = np.zeros(SHAPE, bool)
    whole[window] = True
    i, _i, j, _j, k, _k = image.GetExtent()  # the labelmap is a part of the scan's grid
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    voxels[whole[tuple(slice(n, n + size) for n, size in zip((k, j, i), voxels.shape, strict=True))]] = value
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, node, segmentation.GetNthSegmentID(0), logic.MODE_REPLACE)


def kind(node):
    value = vtk.reference("")
    node.GetSegmentation().GetNthSegment(0).GetTag("DICOM.SegmentAlgorithmType", value)
    return str(value)


def test_a_stroke_is_painted_and_the_mask_follows(scene, window):
    ui = scene.ui
    before = scene.mask()
    window.click(ui.brushAddButton)
    assert ui.structureBox.visible
    ui.radiusSlider.value = 4
    scene.drag((8, 20, 28), (8, 20, 34))
    painting = scene.panel.strokesPanel._brush._views[0]
    assert painting._paint.GetVisibility()  # at once, before the engine has answered
    scene.rest()
    assert not painting._paint.GetVisibility()
    (body,) = [body for body in scene.engine.bodies if body["strokes"] and not body["settle"]]
    (sent,) = body["strokes"]
    assert (sent["value"], sent["radius_mm"]) == (1, 2.0)
    points = np.array(sent["points_mm"])
    assert points[0] == pytest.approx(grid().to_world(np.array([[8, 20, 28]]))[0], abs=0.6)
    assert points[-1] == pytest.approx(grid().to_world(np.array([[8, 20, 34]]))[0], abs=0.6)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= 1.0 + 1e-3
    after = scene.mask()
    assert (after == scene.engine.predictions["p0"]["mask"]).all()
    assert after[8, 20, 28:37].all() and not before[8, 20, 28:37].any()
    assert kind(scene.node) == "SEMIAUTOMATIC"
    assert ui.refineWords.text.startswith("Edited with strokes (1; ")
    ((name, added, removed),) = scene.rows()
    assert name == "1  LA"
    assert added.endswith("mL") and removed == "\N{EN DASH}"
    window.screenshot("strokes")


def test_what_is_painted_outside_the_segmented_region_counts_and_goes_with_its_stroke(scene, window):
    scene.engine.region = np.s_[:, :, :30]
    before = scene.mask()
    window.click(scene.ui.brushAddButton)
    scene.ui.radiusSlider.value = 2
    scene.draw((8, 20, 27), (8, 20, 36))
    assert scene.mask()[8, 20, 26:37].all()  # not only up to the region's edge
    assert scene.mask()[8, 22, 24:38].nonzero()[0].max() + 24 == 29  # beyond, nothing but the stroke itself
    ui = scene.ui
    ui.strokesTable.setCurrentCell(0, 0)
    window.click(ui.strokeDeleteButton)
    scene.rest()
    assert (scene.mask() == before).all()


def test_strokes_keep_to_the_masking_settings_of_the_segment_editor(scene, window):
    ui = scene.ui
    window.click(ui.brushAddButton)
    ui.limitsBox.collapsed = False
    ui.limitCheck.checked = True
    low, high = np.percentile(VOXELS[scene.mask() == 1], (2, 98))
    assert (ui.limitLow.value, ui.limitHigh.value) == (pytest.approx(low, abs=0.1), pytest.approx(high, abs=0.1))
    assert ui.limitsBox.title.endswith("on")
    ui.limitLow.value, ui.limitHigh.value = 0, int(VOXELS[8, 20, 33])
    ui.radiusSlider.value = 2
    scene.draw((8, 20, 28), (8, 20, 38))
    assert scene.mask()[8, 20, 26:40].tolist() == 8 * [1] + 6 * [0]
    assert ui.strokesWords.text.startswith("The limits of strokes kept")
    window.click(ui.strokeUndoButton)
    scene.rest()
    assert scene.mask()[8, 20, 28:40].tolist() == 12 * [0]
    ui.limitCheck.checked = False

    settings = mrml.editor_settings("MPERSegmentEditor")
    ui.keepOthersCheck.checked = True
    assert settings.GetOverwriteMode() == settings.OverwriteNone
    ui.structureBox.currentIndex = 1
    scene.draw((8, 20, 20), (8, 20, 34))
    row = scene.mask()[8, 20]
    assert row[10:26].tolist() == 16 * [1] and row[27:34].tolist() == 7 * [2]  # LA keeps its voxels

    settings.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideAllSegments)
    ui.structureBox.currentIndex = 0
    scene.draw((8, 30, 20), (8, 30, 24))
    assert not scene.mask()[8, 29:].any()


def test_parts_and_surface_are_measured_again_after_a_stroke_and_unknown_after_an_edit_by_hand(scene, window):
    def figures():
        return [scene.ui.resultTable.item(0, column).text() for column in (1, 2, 4)]

    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 42))  # an island
    now = figures_of(scene.mask(), LABELS[0])
    expected = [formatting.millilitres(now["volume_ml"]), formatting.square_centimetres(now["surface_mm2"]), "2"]
    window.wait_until(lambda: figures() == expected, 5, "the figures of both parts")
    assert scene.ui.resultWords.text.endswith("Edited with strokes, and measured again.")
    window.click(scene.ui.strokeUndoButton)
    window.wait_until(lambda: figures()[2] == "1", 5, "the figures of the model's mask")
    by_hand(scene.node, np.s_[4:6, 12:14, 10:26], 0)
    window.wait_until(lambda: figures()[1:] == 2 * [formatting.UNKNOWN], 5, "what is unknown")


def test_remove_takes_away_and_a_structure_can_be_chosen(scene, window):
    ui = scene.ui
    window.click(ui.brushRemoveButton)
    ui.radiusSlider.value = 2
    scene.draw((8, 20, 12))
    assert scene.mask()[8, 20, 12] == 0
    window.click(ui.brushAddButton)
    assert not ui.brushRemoveButton.checked
    ui.structureBox.currentIndex = 1
    scene.draw((8, 24, 20))
    assert scene.mask()[8, 24, 20] == 2
    assert [row[0] for row in scene.rows()] == ["1  Background", "2  LV \N{WARNING SIGN}"]
    assert "contradicts" in ui.strokesTable.item(1, 0).toolTip()
    window.click(ui.brushAddButton)
    assert scene.panel.strokesPanel._brush is None


def test_the_left_button_is_slicers_without_a_brush_and_other_buttons_always(scene, window):
    heard = []
    interactor = scene.view.sliceView().interactor()
    events = ("LeftButtonPressEvent", "RightButtonPressEvent", "MouseWheelForwardEvent", "MouseMoveEvent")
    tags = [interactor.AddObserver(event, lambda _caller, event: heard.append(event)) for event in events]

    def passed_on():
        heard.clear()
        for event in events:
            scene.mouse(event, (8, 20, 30))
        for button in ("Left", "Right"):
            scene.mouse(f"{button}ButtonReleaseEvent", (8, 20, 30))
        return list(heard)

    def passed_on_with_shift():
        heard.clear()
        scene.mouse("LeftButtonPressEvent", (8, 20, 30), shift=1)
        scene.mouse("LeftButtonReleaseEvent", (8, 20, 30), shift=1)
        return list(heard)

    without, with_shift = passed_on(), passed_on_with_shift()  # in Slicer some of them end in its own observers
    assert "LeftButtonPressEvent" in without
    window.click(scene.ui.brushAddButton)
    assert passed_on() == [event for event in without if event != "LeftButtonPressEvent"]
    value = scene.ui.radiusSlider.value
    heard.clear()
    scene.mouse("MouseWheelForwardEvent", (8, 20, 30), shift=1)
    assert not heard and scene.ui.radiusSlider.value > value
    assert passed_on_with_shift() == with_shift  # Shift and the button are not the brush's
    assert len(scene.rows()) == 1
    scene.panel.exit()
    assert not scene.ui.brushAddButton.checked
    scene.panel.enter()
    assert passed_on() == without
    for tag in tags:
        interactor.RemoveObserver(tag)


def test_keys_take_the_brushes_and_go_to_uncertain_places_while_the_module_is_open(scene, window):
    ui, strokes = scene.ui, scene.panel.strokesPanel

    def press(number):
        strokes._shortcuts[number]._shortcut.activated()  # as Qt does
        window.events()

    ui.refineSection.collapsed = True
    press(0)
    assert ui.brushAddButton.checked and not ui.refineSection.collapsed
    press(1)
    assert ui.brushRemoveButton.checked
    press(1)
    assert not ui.brushRemoveButton.checked
    press(2)
    assert "LA or background" in ui.strokesWords.text
    scene.panel.exit()
    assert not strokes._shortcuts
    scene.panel.enter()
    assert len(strokes._shortcuts) == 3


def test_the_buttons_of_strokes_stay_where_they_are_while_strokes_come_and_go(scene, window):
    ui = scene.ui
    window.click(ui.brushAddButton)
    scene.draw((8, 20, 28))
    buttons = (ui.brushAddButton, ui.strokeUndoButton, ui.strokeDeleteButton, ui.strokePlaceButton)
    before = [button.mapTo(ui.refineSection, button.pos).y() for button in buttons]
    scene.draw((8, 20, 34))
    window.click(ui.strokeUndoButton)
    scene.rest()
    assert [button.mapTo(ui.refineSection, button.pos).y() for button in buttons] == before


def test_the_brush_stays_on_from_phase_to_phase(scene, window):
    from MPERLib import phases
    from MPERSegmentLib import result_node

    others = [
        segmentation_node.show_mask(scene.engine.mask, (0, 0, 0), LABELS, scene.scan, f"phase {n}", result_of("p0"))
        for n in (1, 2)
    ]
    for number, node in enumerate(others, 1):
        result_node.record(node, result_of("p0"))
        phases.note(node, number)
    ui, strokes = scene.ui, scene.panel.strokesPanel
    ui.resultSelector.setCurrentNode(others[0])
    window.click(ui.brushAddButton)
    ui.resultSelector.setCurrentNode(others[1])
    assert ui.brushAddButton.checked and strokes._brush is not None
    assert strokes._sync()._node is others[1]
    ui.resultSelector.setCurrentNode(scene.node)  # of no phase
    assert not ui.brushAddButton.checked and strokes._brush is None


def test_undo_redo_and_a_stroke_out_of_the_middle(scene, window):
    ui, masks = scene.ui, [scene.mask()]
    window.click(ui.brushAddButton)
    ui.radiusSlider.value = 2
    for index in ((8, 20, 28), (8, 20, 34), (8, 20, 40)):
        scene.draw(index)
        masks.append(scene.mask())
    for expected in masks[2::-1]:
        window.click(ui.strokeUndoButton)
        scene.rest()
        assert (scene.mask() == expected).all()
    assert not ui.strokeUndoButton.enabled
    assert scene.rows() == []
    assert kind(scene.node) == "AUTOMATIC"  # all is as the model made it
    assert ui.refineWords.text == "Unedited: exported as AUTOMATIC."
    scene.panel._makeSurface(scene.node, False)  # of before, which comes late
    for _step in range(9):
        window.events()
    scene.node.RemoveClosedSurfaceRepresentation()  # Show 3D, off and on: no step of the history
    scene.node.CreateClosedSurfaceRepresentation()
    assert scene.node.GetSegmentation().ContainsRepresentation("Closed surface")
    for expected in masks[1:]:
        window.click(ui.strokeRedoButton)
        scene.rest()
        assert (scene.mask() == expected).all()
    ui.strokesTable.setCurrentCell(1, 0)
    ui.strokesTable.cellClicked(1, 0)
    red = scene.view.mrmlSliceNode().GetSliceToRAS()
    assert mrml.index_at([red.GetElement(axis, 3) for axis in range(3)], scene.scan) == (8, 20, 34)
    marked = scene.panel.strokesPanel._highlight
    ((points, radius_mm),) = marked._drawings[0]._strokes  # in each slice view
    assert mrml.index_at(points[0], scene.scan) == (8, 20, 34) and radius_mm == 1.0
    assert marked._drawings[0]._paint.GetVisibility()
    window.click(ui.strokeDeleteButton)
    scene.rest()
    assert not marked._drawings
    assert scene.mask()[8, 20, [28, 34, 40]].tolist() == [1, 0, 1]
    assert len(scene.rows()) == 2
    assert not ui.strokeDeleteButton.enabled  # no other stroke is chosen instead
    window.click(ui.strokeUndoButton)
    scene.rest()
    assert (scene.mask() == masks[3]).all()  # the step that is undone is the deletion
    window.click(ui.strokeRedoButton)
    scene.rest()
    assert scene.mask()[8, 20, [28, 34, 40]].tolist() == [1, 0, 1]
    assert not ui.strokeRedoButton.enabled
    for _stroke in range(4):
        window.click(ui.strokeUndoButton)
    scene.rest()
    assert (scene.mask() == masks[0]).all()
    assert not ui.strokeUndoButton.enabled


def test_strokes_queue_while_the_engine_is_slow(scene, window):
    window.click(scene.ui.brushAddButton)
    window.wait_until(lambda: scene.panel.strokesPanel._sync()._held, 5, "the engine's mask")
    scene.engine.slow_ms = 150
    for index in ((8, 20, 28), (8, 20, 34), (8, 20, 40)):
        scene.drag(index)
    assert len(scene.rows()) == 3
    assert not scene.mask()[8, 20, 34]
    window.click(scene.ui.strokeUndoButton)  # before the mask has followed
    scene.rest()
    assert scene.mask()[8, 20, [28, 34, 40]].tolist() == [1, 1, 0]


def test_edits_by_hand_survive_strokes_and_their_undoing(scene, window):
    by_hand(scene.node, np.s_[4:6], 0)
    edited = scene.mask()
    assert scene.ui.refineWords.text.startswith("Edited manually (")
    window.click(scene.ui.brushAddButton)
    scene.ui.radiusSlider.value = 4
    scene.draw((8, 20, 28))
    assert scene.mask()[8, 20, 28] == 1
    assert not scene.mask()[4:6, 12:28, 10:26].any()
    assert scene.ui.refineWords.text.startswith("Edited manually and with strokes (1; ")
    mrml.jump_to((5, 20, 18), scene.scan)
    scene.draw((5, 20, 18))  # the model had it: only its own voxels come back
    mask = scene.mask()
    assert mask[5, 20, 18] == 1
    assert not mask[4:6, 12:16].any()
    for _stroke in range(2):
        window.click(scene.ui.strokeUndoButton)
        scene.rest()
    assert (scene.mask() == edited).all()
    assert kind(scene.node) == "SEMIAUTOMATIC"


def test_what_was_erased_by_hand_stays_erased_when_an_early_stroke_is_deleted(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.ui.radiusSlider.value = 6
    scene.draw((8, 20, 28))
    scene.draw((8, 20, 32))
    by_hand(scene.node, np.s_[8:9, 19:22, 30:36], 0)  # in the second stroke, partly in the first one
    erased = scene.mask() == 0
    scene.ui.strokesTable.setCurrentCell(0, 0)
    window.click(scene.ui.strokeDeleteButton)
    scene.rest()
    assert len(scene.rows()) == 1
    assert not scene.mask()[8, 19:22, 30:36].any()
    assert not scene.mask()[erased].any()
    assert scene.mask()[7, 20, 32] == 1  # the second stroke, where nothing was erased


def test_strokes_and_edits_by_hand_are_undone_and_redone_in_the_order_of_time(scene, window):
    ui, editor = scene.ui, scene.panel.segmentEditorPanel.editor

    def erase(window_of_voxels):
        editor.saveForUndo()  # as each effect does before it changes voxels
        by_hand(scene.node, window_of_voxels, 0)

    window.click(ui.brushAddButton)
    masks = [scene.mask()]
    for step in (
        lambda: scene.draw((8, 20, 28)),
        lambda: erase(np.s_[4:6]),
        lambda: scene.draw((8, 20, 34)),
        lambda: erase(np.s_[7:10, 18:22, 26:30]),
    ):
        step()
        window.events()
        masks.append(scene.mask())
    assert len({mask.tobytes() for mask in masks}) == 5
    for undo, expected in zip(
        (lambda: window.click(ui.strokeUndoButton), editor.widget.undo) * 2, masks[3::-1], strict=True
    ):
        undo()  # whichever button is pressed
        scene.rest()
        assert (scene.mask() == expected).all()
    assert not ui.strokeUndoButton.enabled and scene.rows() == []
    for expected in masks[1:]:
        window.click(ui.strokeRedoButton)
        scene.rest()
        assert (scene.mask() == expected).all()
    assert not ui.strokeRedoButton.enabled
    assert len(scene.rows()) == 2
    assert len(scene.engine.predictions["p0"]["strokes"]) == 2


def replace(scene, mask, prediction="p9"):
    """What *Replace* does with the engine's answer."""
    from MPERSegmentLib.segmentation_job import SegmentationRequest

    scene.engine.predictions[prediction] = {"strokes": [], "settled": True, "mask": mask.copy()}
    request = SegmentationRequest(scene.scan, {"id": "la", "title": "LA"}, "auto", target=scene.node)
    scene.panel._onSegmented(request, mask, {"start": [0, 0, 0]}, result_of(prediction))


def test_a_replacement_is_a_step_of_the_history_like_strokes(scene, window):
    ui, other = scene.ui, np.roll(scene.engine.mask, 3, axis=0)
    masks, rows = [scene.mask()], [0]
    window.click(ui.brushAddButton)
    for step in (lambda: scene.draw((8, 20, 34)), lambda: replace(scene, other)):
        step()
        window.events()
        scene.rest()
        masks.append(scene.mask())
        rows.append(len(scene.rows()))
    assert (masks[2] == other).all() and rows == [0, 1, 0]
    for button, order in ((ui.strokeUndoButton, (1, 0)), (ui.strokeRedoButton, (1, 2))):
        for at in order:
            window.click(button)
            scene.rest()
            assert (scene.mask() == masks[at]).all() and len(scene.rows()) == rows[at]
        assert not button.enabled


def test_strokes_on_a_mask_that_is_replaced_meanwhile_do_not_change_the_new_one(scene, window):
    other = np.roll(scene.engine.mask, 3, axis=0)
    scene.engine.predictions = {}  # as in a loaded scene: the scan is segmented again for the stroke
    scene.engine.slow_ms = 100
    window.click(scene.ui.brushAddButton)
    scene.drag((8, 20, 34))
    assert scene.panel.strokesPanel._sync().pending
    window.wait_until(lambda: "segmented again" in scene.ui.strokesWords.text or scene.engine.segmented, 10)
    replace(scene, other)
    scene.engine.slow_ms = 0
    scene.rest()
    window.wait_until(lambda: not scene.engine.open, 10, "all answers")
    assert (scene.mask() == other).all()
    assert scene.rows() == [] and not scene.ui.strokesWords.text


def test_a_persons_own_segment_is_not_painted_over(scene, window):
    segment_id = scene.node.GetSegmentation().AddEmptySegment("mine", "mine")
    own = slicer.vtkOrientedImageData()
    own.DeepCopy(scene.node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap"))
    voxels = vtk_to_numpy(own.GetPointData().GetScalars()).reshape(own.GetDimensions()[::-1])
    voxels[:] = 0
    voxels[4:9, 20, 24] = 1
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(own, scene.node, segment_id, logic.MODE_REPLACE)
    window.click(scene.ui.brushRemoveButton)
    scene.ui.radiusSlider.value = 4
    scene.draw((8, 20, 25))
    segmentation = scene.node.GetSegmentation()
    assert slicer.util.arrayFromSegmentBinaryLabelmap(scene.node, segment_id, scene.scan)[4:9, 20, 24].all()
    assert not slicer.util.arrayFromSegmentBinaryLabelmap(scene.node, segmentation.GetNthSegmentID(0), scene.scan)[
        8, 20, 25
    ]


@pytest.mark.parametrize("button", ["brushRemoveButton", "brushAddButton"])
def test_strokes_beside_a_segment_that_overlaps_the_mask_leave_both_and_the_table(scene, window, button):
    """A person's own segment over the mask (a scar in the atrium): nothing is lost below it, and LA is measured."""
    own = scene.node.GetSegmentation().AddEmptySegment("scar", "scar")
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(scene.node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap"))
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    voxels[:] = 0
    voxels[4:9, 16:26, 12:24] = 1
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, scene.node, own, logic.MODE_REPLACE)

    def array(segment_id):
        return slicer.util.arrayFromSegmentBinaryLabelmap(scene.node, segment_id, scene.scan)

    la = scene.node.GetSegmentation().GetNthSegmentID(0)
    before, mine = array(la), array(own)
    assert before[mine > 0].any()
    window.click(getattr(scene.ui, button))
    scene.ui.radiusSlider.value = 4
    scene.draw((8, 20, 25))
    assert (array(la) != before).any()
    prediction = next(iter(scene.engine.predictions.values()))
    assert (array(la) == (prediction["mask"] == 1)).all()  # below the scar, too
    assert (array(own) == mine).all()
    volume = formatting.millilitres(array(la).sum() / 1000)
    window.wait_until(lambda: scene.ui.resultTable.item(0, 1).text() == volume, 5, "the volume")
    window.click(scene.ui.strokeUndoButton)
    scene.rest()
    assert (array(la) == before).all()
    window.click(scene.ui.strokeRedoButton)
    scene.rest()
    assert (array(la) != before).any()
    scene.panel.strokesPanel.nodeRemoved(scene.node.GetID())  # as in a loaded scene: only the nodes are left
    scene.panel.editTracker.steps.forget(scene.node)
    window.click(scene.ui.strokeUndoButton)
    scene.rest()
    assert (array(la) == before).all()


def test_the_segment_editors_undo_takes_strokes_and_their_list_back(scene, window):
    before = scene.mask()
    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 28))
    window.click(scene.ui.brushAddButton)
    after = scene.mask()
    scene.panel.segmentEditorPanel.editor.widget.undo()
    scene.rest()
    assert (scene.mask() == before).all()
    assert scene.rows() == []
    assert scene.engine.predictions["p0"]["strokes"] == []
    scene.panel.segmentEditorPanel.editor.widget.redo()
    scene.rest()
    assert (scene.mask() == after).all()
    assert len(scene.rows()) == 1
    assert len(scene.engine.predictions["p0"]["strokes"]) == 1


def test_a_prediction_that_the_engine_forgot_is_made_again_and_the_strokes_replayed(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 28))
    by_hand(scene.node, np.s_[4:6], 0)
    before = scene.mask()
    own = {"id": "Data/atria/la/1", "name": "la", "version": "1.0.0", "title": "Mine", "labels": LABELS}
    others = [{**own, "id": f"Data/atria/la/{n}", "version": str(n), "card": {"sha256": "d097f80d"}} for n in (2, 3)]
    made_by = {**own, "card": {"sha256": "d097f80d"}}
    scene.panel.session.models = [*scene.panel.session.models, others[0], made_by, others[1]]
    scene.engine.predictions = {}
    scene.draw((8, 20, 38))
    assert scene.engine.segmented == 1 and scene.engine.models == ["Data/atria/la/1"], "not the bundled one of its name"
    assert "segmented again" in scene.ui.strokesWords.text
    assert len(scene.engine.predictions["p1"]["strokes"]) == 2
    after = scene.mask()
    assert after[8, 20, 38] == 1
    after[:, :, 33:] = before[:, :, 33:]
    assert (after == before).all()


def test_an_engine_that_dies_loses_no_stroke(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 28))
    scene.engine.reason = "It stopped."
    scene.engine.become("failed")
    assert scene.ui.messageLabel.text == "It stopped." and scene.ui.messageFrame.visible
    scene.engine.predictions = {}
    scene.drag((8, 20, 38))
    window.events()
    assert scene.ui.strokesWords.text == "The strokes are applied once the engine is running."
    assert scene.mask()[8, 20, [28, 38]].tolist() == [1, 0]
    scene.engine.become("ready")
    scene.rest()
    assert scene.mask()[8, 20, [28, 38]].tolist() == [1, 1]
    assert len(scene.rows()) == 2
    assert not scene.ui.messageFrame.visible  # old messages go when their cause goes
    assert "once the engine is running" not in scene.ui.strokesWords.text


def test_strokes_are_in_a_saved_scene_and_go_on_in_another_session(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 28))
    rows, attribute = scene.rows(), scene.node.GetAttribute("MPER.Strokes")
    # what a file of the scene holds: attributes of the node, and tags of the segments in the .seg.nrrd
    tag = vtk.reference("")
    scene.node.GetSegmentation().GetNthSegment(0).GetTag("MPER.Strokes", tag)
    assert str(tag) == "1"
    mask = scene.mask()
    slicer.mrmlScene.Clear(0)
    window.events()
    assert scene.rows() == []
    scene.engine.predictions = {}
    again = Scene(window, scene.engine)
    by_hand(again.node, np.s_[:], 0)
    with again.panel.editTracker.paused():
        from MPERLib import labelmap_box

        labelmap_box.write_box(again.node, again.scan, (0, 0, 0), mask)
    again.node.SetAttribute("MPER.Strokes", attribute)
    again.node.GetSegmentation().GetNthSegment(0).SetTag("MPER.Strokes", str(tag))
    again.panel.strokesPanel.show(again.node)
    assert again.rows() == rows
    window.click(again.ui.brushAddButton)
    again.rest()
    assert (again.mask() == mask).all()
    again.draw((8, 20, 38))
    assert again.mask()[8, 20, [28, 38]].tolist() == [1, 1]
    for _stroke in range(2):
        window.click(again.ui.strokeUndoButton)
    again.rest()
    assert (again.mask() == again.engine.mask).all()


def test_bad_strokes_are_refused_in_one_line(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 28))
    before = scene.mask()
    scene.drag((8, 20, 400))
    assert scene.ui.strokesWords.text == "The stroke is outside the scan. Draw it inside."
    scene.engine._put, put = (
        lambda _prediction, _body: (_ for _ in ()).throw(Refused(422, "too far away")),
        (scene.engine._put),
    )
    scene.drag((8, 20, 38))
    window.wait_until(lambda: scene.ui.strokesWords.text == "Too far away.", 5, "the refusal")
    assert len(scene.rows()) == 1
    assert (scene.mask() == before).all()
    scene.engine._put = put
    scene.draw((8, 20, 30))
    assert len(scene.rows()) == 2
    other = mrml.show_scan(np.zeros((3, 4, 5), np.int16), AFFINE, "other", slicer.mrmlScene)
    slicer.util.setSliceViewerLayers(background=other)
    scene.drag((8, 20, 28))
    assert "does not show scan" in scene.ui.strokesWords.text
    assert len(scene.rows()) == 2
    window.click(scene.ui.strokeUndoButton)
    scene.rest()
    assert len(scene.rows()) == 1 and not scene.ui.strokesWords.text


def test_the_probe_names_the_stroke_and_an_uncertain_place_offers_the_brush(scene, window):
    ui = scene.ui
    window.click(ui.strokePlaceButton)
    assert "1 of 1: LA or background." in ui.strokesWords.text
    assert ui.brushAddButton.checked
    red = scene.view.mrmlSliceNode().GetSliceToRAS()
    assert mrml.index_at([red.GetElement(axis, 3) for axis in range(3)], scene.scan) == (8, 20, 30)
    scene.draw((8, 20, 30))
    ui.whySection.collapsed = False
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCursorPositionRAS(mrml.world_of((8, 20, 30), scene.scan))
    window.wait_until(lambda: "Stroke 1: LA" in ui.probeLabel.text, 5, "the probe")
    window.click(ui.brushAddButton)
    window.click(ui.correctButton)
    assert ui.brushAddButton.checked


def test_the_uncertainty_in_the_slices_follows_the_strokes(scene, window):
    ui, why = scene.ui, scene.panel.explanationPanel
    ui.whySection.collapsed = False
    ui.overlayBox.currentIndex = ui.overlayBox.findData("uncertainty")
    node = window.wait_until(lambda: why._uncertainty, 5, "the uncertainty")
    before = slicer.util.arrayFromVolume(node).sum()  # here the engine answers with the mask
    window.click(ui.brushAddButton)
    for wanted in (1, 0):
        if wanted:
            scene.draw((8, 20, 28))
        else:
            window.click(ui.strokeUndoButton)
            scene.rest()
        window.wait_until(lambda: (slicer.util.arrayFromVolume(node).sum() != before) == wanted, 5, "the new one")  # noqa: B023
    assert why._uncertainty is node

    display, composite = scene.node.GetDisplayNode(), scene.view.mrmlSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == node.GetID() and display.GetOpacity2DFill() == 0
    scene.panel.exit()  # to the module Segment Editor, say
    by_hand(scene.node, np.s_[4:6], 0)
    assert scene.panel._measure.isActive()
    window.wait_until(lambda: not scene.panel._measure.isActive(), 5, "the edit to be measured")
    window.events()
    assert composite.GetForegroundVolumeID() is None and display.GetOpacity2DFill() > 0
    scene.panel.enter()
    assert composite.GetForegroundVolumeID() == node.GetID() and display.GetOpacity2DFill() == 0


def test_strokes_are_saved_with_the_label(scene, window):
    ui = scene.ui
    window.click(ui.brushAddButton)
    scene.draw((8, 20, 28))
    ui.keepSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    window.click(ui.keepButton)
    window.wait_until(lambda: ui.keepWords.text.startswith("Saved"), 20, "the revision")
    assert ui.keepWords.text == "Saved as revision 1 of case-001, with its strokes (1)."
    label, beside = scene.engine.posted[-2:]
    assert "how=strokes" in label and "edited=true" in label
    assert beside == "/datasets/d/cases/case-001/labels/1/strokes"
    (kept,) = scene.engine.bodies[-1]["strokes"]
    assert kept["value"] == 7  # the dataset's value of LA
    assert scene.engine.bodies[-1]["scan_sha256"] == CHECKSUM
    assert all(body["scan_sha256"] == CHECKSUM for body in scene.engine.bodies)


def test_saving_waits_until_the_mask_includes_the_last_stroke(scene, window):
    ui = scene.ui
    window.click(ui.brushAddButton)
    ui.keepSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    window.wait_until(lambda: ui.keepButton.enabled and scene.panel.strokesPanel._sync()._held, 20, "the dataset")
    scene.engine.slow_ms = 150
    scene.drag((8, 20, 28))
    window.click(ui.keepButton)
    window.wait_until(lambda: ui.keepWords.text.startswith("Saved"), 20, "the revision")
    assert ui.keepWords.text == "Saved as revision 1 of case-001, with its strokes (1)."
    held = scene.engine.predictions["p0"]
    assert held["settled"] and np.array_equal(scene.mask(), held["mask"])
    assert (scene.engine.arrays[-1] == 7).sum() == (held["mask"] == 1).sum()  # as cleaned up, in the dataset's values


def test_a_label_says_how_its_mask_was_made_whatever_becomes_of_the_result_meanwhile(scene, window):
    ui, mask = scene.ui, scene.mask()
    ui.keepSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    scene.engine.slow_ms = 100
    window.click(ui.keepButton)
    window.wait_until(lambda: scene.engine.arrays, 20, "the scan, which is sent first")
    with scene.panel.editTracker.paused():
        from MPERSegmentLib import result_node

        result_node.record(scene.node, {**result_of("p9"), "model": "another"})
    by_hand(scene.node, np.s_[4:6], 0)
    window.wait_until(lambda: ui.keepWords.text.startswith("Saved"), 20, "the revision")
    (label,) = [path for path in scene.engine.posted if "/labels" in path]
    assert "model=la" in label and "edited=false" in label
    assert (scene.engine.arrays[-1] == 7).sum() == (mask == 1).sum()


def test_keeping_does_not_wait_for_ever(scene, window, monkeypatch):
    monkeypatch.setattr("MPERSegmentLib.label_upload._WAITS", 2)
    scene.panel.saveLabelPanel._settled = lambda _node: False
    ui = scene.ui
    ui.keepSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    window.click(ui.keepButton)
    window.wait_until(
        lambda: "<b>Not saved.</b> The last stroke is still being processed" in ui.keepWords.text, 20, "the words"
    )
    assert ui.keepButton.enabled and not scene.engine.arrays


def test_nothing_is_exported_or_reported_without_the_last_stroke(scene, window, monkeypatch, tmp_path):
    ui, path, jobs = scene.ui, tmp_path / "mask.nii.gz", []

    class Dialogs:
        QFileDialog = SimpleNamespace(
            getSaveFileName=lambda *_arguments: str(path), getExistingDirectory=lambda *_arguments: str(tmp_path)
        )

        def __getattr__(self, name):
            return getattr(qt, name)

    for name in ("export", "report"):
        monkeypatch.setattr(f"MPERSegmentLib.{name}_panel.qt", Dialogs())
    job = SimpleNamespace(stop=lambda: None)
    monkeypatch.setattr("MPERSegmentLib.report_panel.ReportJob", lambda inputs, *_a: jobs.append(inputs) or job)
    buttons = (ui.exportNiftiButton, ui.exportStlButton, ui.reportButton)
    window.click(ui.brushAddButton)
    scene.engine.predictions = {}  # as in a loaded scene: the scan is segmented again for the stroke
    scene.engine.slow_ms = 300
    scene.drag((8, 20, 34))
    why = "The last stroke is still being processed; wait, or undo it."
    for button in buttons:
        button.click()
    assert not scene.panel.strokesPanel._sync().settled
    assert ui.exportWords.text == f"Nothing was written. {why}"
    assert ui.reportWords.text == f"No report was written: {why}"
    assert not [*tmp_path.glob("*.nii.gz"), *tmp_path.glob("*.stl"), *jobs]
    scene.engine.slow_ms = 0
    scene.rest()
    for button in buttons:
        button.click()
    assert (read_labelmap(path).array == scene.mask()).all() and scene.mask()[8, 20, 34]
    assert len(jobs) == 1 and [*tmp_path.glob("*.stl")]
    scene.panel.measurePanel._report.stop()


def test_a_mask_takes_no_stroke_and_is_not_saved_with_another_image_than_its_own(scene, window):
    """The node keeps its name and its grid; only its voxels are those of another image, as after a filter."""
    ui = scene.ui
    ui.keepSection.collapsed = False
    ui.authorEdit.text = "A. Reader"
    window.wait_until(lambda: ui.keepButton.enabled, 20, "the dataset")
    window.click(ui.brushAddButton)
    scene.draw((8, 20, 28))  # its own image
    assert len(scene.rows()) == 1
    mrml.fill_volume(scene.scan, VOXELS[:, :, ::-1], AFFINE)
    why = "The voxels of scan are not those of the image that this mask was made from; segment it again."
    scene.drag((8, 20, 5), (8, 20, 8))
    assert ui.strokesWords.text == why
    assert len(scene.rows()) == 1 and not scene.panel.strokesPanel._sync().pending
    window.click(ui.keepButton)
    window.wait_until(lambda: "Not saved" in ui.keepWords.text, 20, "the refusal")
    assert ui.keepWords.text == f"<b>Not saved.</b> {why}" and "#c0392b" in ui.keepWords.styleSheet
    assert not scene.engine.arrays and not scene.engine.posted

    mrml.fill_volume(scene.scan, VOXELS, AFFINE)  # the image again
    scene.draw((8, 20, 5), (8, 20, 8))
    assert len(scene.rows()) == 2 and not ui.strokesWords.text
    window.click(ui.keepButton)
    window.wait_until(lambda: ui.keepWords.text.startswith("Saved"), 20, "the revision")
    assert not ui.keepWords.styleSheet
    assert f"scan_sha256={CHECKSUM}" in next(path for path in scene.engine.posted if "labels" in path)


def test_the_scene_closes_in_the_middle_of_a_stroke(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.engine.slow_ms = 50
    scene.mouse("LeftButtonPressEvent", (8, 20, 30))
    slicer.mrmlScene.Clear(0)
    window.events()
    assert not scene.ui.brushAddButton.checked
    assert not scene.ui.strokesBox.enabled


def test_a_result_in_a_new_scene_knows_no_steps_of_the_one_before(scene, window):
    window.click(scene.ui.brushAddButton)
    scene.draw((8, 20, 34))
    window.click(scene.ui.strokeUndoButton)
    scene.rest()
    steps, before = scene.panel.editTracker.steps, scene.node.GetID()
    assert steps.canRedo(scene.node)
    slicer.mrmlScene.Clear(0)
    window.events()
    scene.__init__(window, scene.engine)
    assert scene.node.GetID() == before
    assert not steps.canRedo(scene.node) and not scene.ui.strokeRedoButton.enabled
