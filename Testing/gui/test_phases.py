"""Time series in MPER Segment: which phase is segmented, which phase a mask is of, and what is shown with it."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from MPERLib import mrml, phases, segmentation_node
from test_segment import LA, MASK_S, RESULT, alone, small_result  # noqa: F401

AFFINE = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -30], [2.0, 0, 0, 5], [0, 0, 0, 1]])


def cine(count=3):
    """The browser and the proxy volume of a time series; all voxels of phase n are n."""
    scene = slicer.mrmlScene
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    sequence.SetIndexName("trigger time")
    sequence.SetIndexUnit("ms")
    volume = slicer.vtkMRMLScalarVolumeNode()
    for n in range(1, count + 1):
        mrml.fill_volume(volume, np.full((12, 14, 16), n, np.int16), AFFINE)
        sequence.SetDataNodeAtValue(volume, str(50 * (n - 1)))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine browser")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return browser, browser.GetProxyNode(sequence)


def show_phase(browser, number):
    browser.SetSelectedItemNumber(number - 1)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


class Engine:
    """In place of an engine: takes scans and answers with a mask of as many voxels as the phase's number."""

    def __init__(self, panel):
        self.sent, self.number, self.labels, session = [], 0, RESULT["labels"], panel.session
        session.postArray, session.job, session.getArray = self.post, self.job, self.mask
        session.delete = lambda *_arguments, **_named: None
        self.later = session.later

    def post(self, _path, array, _header, done, _failed, _progress=None):
        self.sent.append(int(array.max()))
        scan = f"scan{array.max()}"
        self.later(lambda: done({"scan": scan}), "sent")

    def job(self, _path, body, done, *_callbacks):
        self.number += 1
        result = {**RESULT, "labels": self.labels, "prediction": f"p{self.number} {body['scan']}"}
        self.later(lambda: done(result), "job")
        return self

    def mask(self, path, done, _failed=None):
        n = int(path.split("scan")[1].split("/")[0])
        self.later(lambda: done(np.ones((1, 1, n), np.uint8), {"start": [0, 0, 0], "affine": AFFINE}), "mask")
        return self

    def abort(self):
        pass


def started(window):
    """The browser, the proxy volume, and the panel with the second of three phases shown."""
    browser, proxy = cine()
    show_phase(browser, 2)
    panel = window.open("MPERSegment")
    panel.ui.inputSelector.setCurrentNode(proxy)
    window.wait_until(lambda: panel.ui.segmentButton.enabled, 60, "the engine")
    window.events()
    return browser, proxy, panel


def results():
    return {node.GetName(): node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}


def voxels(node, scan):
    return int(segmentation_node.mask_of(node, scan).sum())


def test_the_phase_that_is_shown_is_segmented_and_its_mask_belongs_to_it(window, shared_engine):
    browser, proxy, panel = started(window)
    engine, ui = Engine(panel), panel.ui
    assert ui.phaseBox.visible
    assert [ui.phaseBox.itemText(n) for n in range(ui.phaseBox.count)] == [
        "Shown: phase 2 of 3 (50 ms)",
        "All 3 phases, a mask of each",
        "End diastole (ED): largest left ventricle",
        "End systole (ES): smallest left ventricle",
    ]
    window.click(ui.segmentButton)
    show_phase(browser, 3)  # the user continues while the phase of the click is segmented
    node = window.wait_until(lambda: panel.resultPanel.node, MASK_S, "the mask")
    assert engine.sent == [2]
    assert node.GetName() == "cine LA phase 2"
    assert voxels(node, proxy) == 2
    assert phases.of(node) == 2
    window.wait_until(lambda: "phase 3 is shown" in ui.flagsLabel.text, 5, "the other phase")
    assert ui.flagsLabel.text.startswith("This mask is of phase 2; phase 3 is shown.")
    assert "Mask of phase 2 of 3 (50 ms)." in ui.resultWords.text
    assert not node.GetDisplayNode().GetVisibility()
    show_phase(browser, 2)
    window.wait_until(lambda: "phase 3 is shown" not in ui.flagsLabel.text, 5, "the phase of the mask")
    assert node.GetDisplayNode().GetVisibility()
    window.click(ui.segmentButton)
    window.wait_until(lambda: len(results()) == 2, MASK_S, "another mask")
    assert engine.sent == [2]  # it is known, whichever phases were shown since
    window.screenshot("phase")


def test_all_phases_get_a_mask_each_that_is_seen_with_its_phase(window, shared_engine):
    browser, proxy, panel = started(window)
    engine, ui = Engine(panel), panel.ui
    ui.phaseBox.currentIndex = 1
    window.click(ui.segmentButton)
    window.wait_until(lambda: not panel.segmentPanel.running, MASK_S, "all phases")
    assert engine.sent == [1, 2, 3]
    found = results()
    assert list(found) == [f"cine LA phase {n}" for n in (1, 2, 3)]
    assert [voxels(node, proxy) for node in found.values()] == [1, 2, 3]
    for number in (2, 3, 1):
        show_phase(browser, number)
        shown = found[f"cine LA phase {number}"]
        window.wait_until(lambda: panel.resultPanel.node is shown, 5, "the mask of the phase")  # noqa: B023
        seen = [node.GetName() for node in found.values() if node.GetDisplayNode().GetVisibility()]
        assert seen == [shown.GetName()]
        assert "is shown" not in ui.flagsLabel.text


def test_cancelling_all_phases_keeps_those_that_are_done(window, shared_engine):
    _browser, _proxy, panel = started(window)
    Engine(panel)
    panel.ui.phaseBox.currentIndex = 1
    window.click(panel.ui.segmentButton)
    window.wait_until(lambda: len(results()) == 1, MASK_S, "the first mask")
    panel.ui.segmentButton.click()
    window.events()
    assert not panel.segmentPanel.running
    assert panel.ui.progressLabel.text == f"Cancelled. The masks of {len(results())} phases stay."


@pytest.mark.parametrize(("choice", "number"), [(2, 3), (3, 1)])
def test_end_diastole_and_end_systole_are_found_by_the_left_ventricle(window, shared_engine, choice, number):
    _browser, _proxy, panel = started(window)
    engine, ui = Engine(panel), panel.ui
    ui.phaseBox.currentIndex = choice
    model = panel.session.model("la")
    name = ("ED", "ES")[choice - 2]
    window.click(ui.segmentButton)  # of the left atrium
    assert ui.messageLabel.text.startswith("This model does not segment the left ventricle (LV)")
    assert engine.sent == []
    labels = [{**RESULT["labels"][0], "name": "LV", "type": None}]
    model["labels"] = labels
    engine.labels = labels
    window.click(ui.segmentButton)
    window.wait_until(lambda: not panel.segmentPanel.running, MASK_S, "all phases")
    assert engine.sent == [1, 2, 3]
    assert list(results()) == [f"cine LV phase {number}"]
    assert ui.progressLabel.text == f"{name} is phase {number} of 3. Show it to see its mask."


def test_the_dicom_export_of_a_phase_refers_to_the_instances_of_that_phase(window, monkeypatch, tmp_path):
    from MPERSegmentLib.dicom_export import source_files

    browser, proxy = cine()
    sequence = browser.GetSequenceNode(proxy)
    for n in (1, 2, 3):
        sequence.GetNthDataNode(n - 1).SetAttribute("DICOM.instanceUIDs", f"1.{n}.1 1.{n}.2")
        for k in (1, 2):
            (tmp_path / f"1.{n}.{k}").write_bytes(b"")

    class Database:
        isOpen = True

        def fileForInstance(self, uid):
            return str(tmp_path / uid)

        def instanceValue(self, _uid, _tag):
            return ""

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    show_phase(browser, 1)
    for n in (2, 3, 1):
        assert [file.name for file in source_files(proxy, n)] == [f"1.{n}.1", f"1.{n}.2"]


def test_no_stroke_is_drawn_on_a_mask_of_another_phase(window, shared_engine):
    browser, proxy, panel = started(window)
    from MPERSegmentLib import result_node

    node = segmentation_node.show_mask(np.ones((4, 4, 4), np.uint8), (3, 4, 5), LA, proxy, "mask", RESULT)
    result_node.record(node, RESULT)
    phases.note(node, 2)
    panel.ui.resultSelector.setCurrentNode(node)

    class View:
        def shows(self, scan):
            return scan is proxy

    assert panel.strokesPanel._mayDraw(View())
    show_phase(browser, 1)
    assert not panel.strokesPanel._mayDraw(View())
    assert panel.ui.strokesWords.text.startswith("This mask is of phase 2; phase 1 is shown.")


@pytest.mark.usefixtures("alone")
def test_a_scan_without_other_phases_has_no_choice_of_them(window):
    scan, node = small_result()
    panel = window.open("MPERSegment")
    panel.ui.inputSelector.setCurrentNode(scan)
    assert not panel.ui.phaseBox.visible
    assert phases.shown(scan) is None
    assert phases.mismatch(node, scan) == ""
    cine(count=1)
    assert all(phases.shown(volume) is None for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
