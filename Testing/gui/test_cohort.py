"""Section Cohort in a window: a run in the background, the review of its masks, and labels made of them."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import slicer
from MPERLib import cohort_tracker, mrml, segmentation_node
from small_cohort import small_cohort

from mper.datasets.dataset import Dataset
from mper.io import read_segmentation, write_volume
from mper.labels import make_label
from mper.volume import Geometry, Volume

ENGINE_S = 60
SHAPE = (10, 16, 14)
AFFINE = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -30], [2.0, 0, 0, 5], [0, 0, 0, 1]])
SCAN, DICE, FLAGS, MARK = 1, 3, 4, 6  # columns


@pytest.fixture(scope="module")
def scan() -> Volume:
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    inside = (((index - np.array(SHAPE) / 2) / (np.array(SHAPE) * 0.3)) ** 2).sum(-1) < 1
    noise = np.random.default_rng(0).normal(100, 10, SHAPE)
    return Volume((noise + 150 * inside).astype(np.int16), Geometry(AFFINE, SHAPE))


def opened(window: Any, name: str = "MPERTrainer") -> Any:
    panel = window.open(name)
    window.wait_until(lambda: panel.session.ready, ENGINE_S, "the engine")
    panel.ui.cohortSection.collapsed = False
    return panel


def reviewed(window: Any, out: Path, name: str = "MPERTrainer") -> Any:
    """The panel with the cohort of a folder."""
    panel = opened(window, name)
    panel.cohortPanel.open(str(out))
    window.wait_until(lambda: panel.ui.cohortTable.rowCount, 20, "the rows")
    return panel


def texts(panel: Any, column: int) -> list[str]:
    table = panel.ui.cohortTable
    return [table.item(row, column).text() for row in range(table.rowCount)]


def show(window: Any, panel: Any, mask: str) -> None:
    panel.cohortPanel.review.table.select(mask)
    views = panel.cohortPanel.review.views
    window.wait_until(lambda: views.row == mask and views.shown, 20, f"{mask} in the views")


def choose(box: Any, value: str) -> None:
    index = box.findData(value)
    assert index >= 0, f"{value} is not to be chosen"
    box.currentIndex = index


def test_twenty_scans_with_a_broken_one_give_nineteen_masks_and_one_line(window, shared_engine, tmp_path, scan):
    pytest.importorskip("torch", reason="a small model is made here; Slicer's own Python has no torch")
    from small_models import random_bundle

    dataset = Dataset.create(tmp_path / "Atria", "Atria", [make_label(1, "LA")])
    dataset.publish_model("small", random_bundle().save(tmp_path / "small"))
    folder = tmp_path / "scans"
    folder.mkdir()
    for n in range(20):
        write_volume(folder / f"{n:02}.nrrd", Volume(scan.array + n, scan.geometry))
    (folder / "07.nrrd").write_bytes(b"no scan")
    panel = opened(window)
    panel.datasetPanel.openFolder(str(tmp_path / "Atria"))
    ui, cohort = panel.ui, panel.cohortPanel
    model = lambda: ui.cohortModelBox.findData(f"{panel.dataset.id}/small/1")  # noqa: E731
    window.wait_until(lambda: panel.dataset.id and model() >= 0, 20, "the model")
    ui.cohortModelBox.currentIndex = model()
    assert not ui.cohortStartButton.enabled and "Choose the folder" in ui.cohortStartButton.toolTip
    ui.cohortFolderEdit.text, ui.cohortOutEdit.text = str(folder), str(tmp_path / "out")
    window.click(ui.cohortStartButton)
    window.wait_until(lambda: cohort.tracker.active, 20, "the run")
    window.wait_until(lambda: cohort.tracker.status["state"] == "finished", 120, "the masks")
    window.wait_until(lambda: texts(panel, SCAN)[:1] == ["07"], 20, "the rows")
    lines = ui.cohortStateLabel.text.split("\n")
    assert lines[0].startswith("19 of 20 scans segmented, 1 failed") and len(lines) == 2
    assert lines[1].startswith("07 failed: 07.nrrd is not") and str(tmp_path) not in lines[1]
    assert ui.cohortTable.rowCount == 20, "a scan that failed comes first"
    assert len(list((tmp_path / "out").glob("*.seg.nrrd"))) == 19
    window.wait_until(lambda: not ui.cohortTable.item(19, 0).icon().isNull(), 20, "a picture")
    assert ui.cohortPauseButton.text == "Try again", "that of the failed scan"
    assert ui.cohortSelector.currentText == f"out ({tmp_path.name})"
    window.screenshot("cohort-trainer")


def test_a_click_shows_scan_and_mask_and_decisions_go_on_to_the_next(window, shared_engine, tmp_path, scan):
    out = small_cohort(tmp_path, scan, "abcx", broken="x")
    panel = reviewed(window, out)
    ui, review = panel.ui, panel.cohortPanel.review
    assert texts(panel, SCAN) == ["x", "c", "b", "a"], "the worst first"
    assert texts(panel, DICE) == ["failed", "0.50", "0.70", "0.90"] and texts(panel, FLAGS) == ["", "1", "1", ""]
    show(window, panel, "c.seg.nrrd")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(review.views.volume), scan.array + 2)
    kept = read_segmentation(out / "c.seg.nrrd").labelmap.array
    np.testing.assert_array_equal(segmentation_node.mask_of(review.views.segmentation, review.views.volume), kept)
    assert "0.50.\nSeveral parts." in ui.cohortDetailLabel.text
    window.click(ui.cohortAcceptButton)
    window.wait_until(lambda: review.views.row == "b.seg.nrrd" and review.views.shown, 20, "the next mask")
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 1, "the one before has left the scene"
    window.click(ui.cohortRejectButton)
    window.wait_until(lambda: review.views.row == "a.seg.nrrd" and review.views.shown, 20, "the last mask")
    assert texts(panel, MARK) == ["", "\N{CHECK MARK}", "\N{BALLOT X}", ""]
    window.click(ui.cohortPreviousButton)
    window.wait_until(lambda: review.views.row == "b.seg.nrrd" and review.views.shown, 20, "the mask above")
    window.click(ui.cohortUndecideButton)
    window.wait_until(lambda: "Rejected" not in ui.cohortDetailLabel.text, 20, "the decision taken back")
    lines = [json.loads(line) for line in (out / "review.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["mask"][0], line["decision"]) for line in lines] == [
        ("c", "accepted"),
        ("b", "rejected"),
        ("b", "open"),
    ]
    choose(ui.cohortFilterBox, "accepted")
    assert texts(panel, SCAN) == ["c"]
    choose(ui.cohortFilterBox, "all")
    ui.cohortSearchEdit.text = "PARTS"
    assert texts(panel, SCAN) == ["c", "b"]
    ui.cohortSearchEdit.text = ""
    ui.cohortTable.horizontalHeader().sectionClicked(SCAN)
    assert texts(panel, SCAN) == ["a", "b", "c", "x"], "in the order of the scans"


def draw(review: Any, mask: np.ndarray) -> None:
    """What a person does with the brush: change the segment's voxels, with the editor's event."""
    node = review.views.segmentation
    labels = segmentation_node.labels_of(node)
    segmentation_node.replace_mask(node, mask, (0, 0, 0), labels, review.views.volume)
    node.GetSegmentation().InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)


def test_a_correction_is_saved_next_to_the_mask_and_accepted_masks_become_labels(window, shared_engine, tmp_path, scan):
    dataset = Dataset.create(tmp_path / "Atria", "Atria", [make_label(1, "LA")])
    out = small_cohort(tmp_path / "cohort", scan, "ab")
    panel = reviewed(window, out)
    panel.datasetPanel.openFolder(str(dataset.path))
    ui, review = panel.ui, panel.cohortPanel.review
    window.wait_until(lambda: panel.dataset.id, 20, "the dataset")
    assert not ui.cohortKeepButton.enabled
    show(window, panel, "b.seg.nrrd")
    ui.cohortCorrectButton.checked = True
    window.events()
    assert review.editor.widget.segmentationNode() is review.views.segmentation and not ui.cohortSaveButton.enabled
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[3:5, 4:9, 4:9] = 1
    draw(review, drawn)
    assert ui.cohortSaveButton.enabled and not ui.cohortAcceptButton.enabled, "a changed mask is saved, or discarded"
    window.click(ui.cohortSaveButton)
    window.wait_until(lambda: "Corrected by" in ui.cohortDetailLabel.text, 20, "the correction")
    np.testing.assert_array_equal(read_segmentation(out / "corrections" / "b-1.seg.nrrd").labelmap.array, drawn)
    show(window, panel, "a.seg.nrrd")
    window.click(ui.cohortAcceptButton)
    window.wait_until(lambda: ui.cohortKeepButton.enabled and "2 accepted" in ui.cohortKeepButton.toolTip, 20, "both")
    window.click(ui.cohortKeepButton)
    window.wait_until(lambda: "2 masks are labels now" in ui.messageLabel.text, 20, "the labels")
    window.wait_until(lambda: panel.casesPanel.table.keys == ["a", "b"], 20, "the cases")
    window.wait_until(lambda: texts(panel, MARK) == ["\N{LOWER RIGHT PENCIL}" * 2, "\N{CHECK MARK}" * 2], 20, "marks")
    label, revision = dataset.case("b").label(), dataset.case("b").revisions()[-1]
    assert label is not None and revision.edited and revision.model == ("small", "1.0.0")
    np.testing.assert_array_equal(label.array, drawn)


def test_a_correction_is_of_the_mask_that_is_shown_and_edits_while_it_is_saved_stay_unsaved(
    window, shared_engine, tmp_path, scan
):
    out = small_cohort(tmp_path, scan, "ab")
    panel = reviewed(window, out)
    ui, review, session, held = panel.ui, panel.cohortPanel.review, panel.session, []
    hold = lambda *request: held.append(request)  # noqa: E731
    show(window, panel, "b.seg.nrrd")
    getArray, session.getArray = session.getArray, hold
    window.click(ui.cohortNextButton)
    window.wait_until(lambda: held, 20, "the request for the next mask")
    assert mrml.alive(review.views.segmentation) and not review.views.shown, "the mask before is still in the scene"
    assert not ui.cohortCorrectButton.enabled
    session.getArray = getArray
    review.engineLost()  # the answer does not come
    ui.cohortTable.cellClicked(1, SCAN)
    window.wait_until(lambda: review.views.shown, 20, "the next mask")
    assert review.views.row == "a.seg.nrrd" and review.views.volume.GetName() == "a"
    window.click(ui.cohortCorrectButton)
    drawn = np.zeros((2, *SHAPE), np.uint8)
    drawn[0, 3:5, 4:9, 4:9] = drawn[1, 3:6, 4:9, 4:9] = 1
    draw(review, drawn[0])
    postArray, session.postArray = session.postArray, hold
    window.click(ui.cohortSaveButton)
    draw(review, drawn[1])
    session.postArray = postArray
    postArray(*held.pop())
    window.wait_until(lambda: "Corrected by" in ui.cohortDetailLabel.text, 20, "the correction")
    assert review.views.edited
    window.click(ui.cohortSaveButton)
    window.wait_until(lambda: not review.views.edited, 20, "the other correction")
    for number, voxels in enumerate(drawn, 1):
        saved = read_segmentation(out / "corrections" / f"a-{number}.seg.nrrd").labelmap.array
        np.testing.assert_array_equal(saved, voxels)
    draw(review, drawn[0])
    window.click(ui.cohortDiscardButton)
    assert not ui.cohortCorrectButton.enabled, "the mask is on its way"
    window.wait_until(lambda: ui.cohortCorrectButton.enabled, 20, "the mask as it was saved")
    shown = segmentation_node.mask_of(review.views.segmentation, review.views.volume)
    np.testing.assert_array_equal(shown, drawn[1])


@pytest.mark.skipif(os.name == "nt", reason="halts the engine with a signal")
def test_a_correction_is_saved_after_the_engine_was_started_again(window, tmp_path, scan):
    dataset = Dataset.create(tmp_path / "Atria", "Atria", [make_label(1, "LA")])
    out = small_cohort(tmp_path / "cohort", scan, "ab")
    panel = reviewed(window, out)
    assert panel.cohortPanel.tracker.id == "@results"
    panel.datasetPanel.openFolder(str(dataset.path))
    ui, review, engine = panel.ui, panel.cohortPanel.review, panel.session.engine
    review.table.select("a.seg.nrrd")
    window.click(ui.cohortAcceptButton)
    show(window, panel, "b.seg.nrrd")  # before the engine's answer, which does not choose another row then
    window.wait_until(lambda: ui.cohortKeepButton.enabled, 20, "the dataset")
    window.click(ui.cohortCorrectButton)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[3:5, 4:9, 4:9] = 1
    draw(review, drawn)
    os.kill(engine._process.pid, signal.SIGSTOP)
    window.click(ui.cohortKeepButton)
    window.click(ui.cohortSaveButton)
    assert ui.cohortKeepButton.text == "Cancel" and not ui.cohortSaveButton.enabled
    engine._process._process._kill()
    window.wait_until(lambda: engine.state == "failed", 20, "the engine's end")
    assert ui.cohortKeepButton.text == "Keep accepted as labels"
    window.click(ui.engineButton)
    window.wait_until(lambda: panel.cohortPanel.tracker.id != "@results", ENGINE_S, "the cohort's id as in the dataset")
    window.click(ui.cohortSaveButton)
    window.wait_until(lambda: "Corrected by" in ui.cohortDetailLabel.text, 20, "the correction")
    np.testing.assert_array_equal(read_segmentation(out / "corrections" / "b-1.seg.nrrd").labelmap.array, drawn)


def test_rows_and_pictures_are_read_again_from_an_engine_that_was_started_again(window, shared_engine, tmp_path, scan):
    panel = opened(window)
    session, table = panel.session, panel.ui.cohortTable
    getBytes, session.getBytes = session.getBytes, lambda *_request: None  # no answer comes
    panel.cohortPanel.open(str(small_cohort(tmp_path, scan, "ab")))
    window.wait_until(lambda: texts(panel, SCAN) == ["b", "a"], 20, "the rows")
    session.getBytes = getBytes
    panel.cohortPanel.review.engineLost()
    decided = [{**row, "decision": "rejected"} for row in panel.cohortPanel.tracker.rows]
    panel.cohortPanel.tracker.rows = decided  # as they were before
    panel.cohortPanel.tracker.engineChanged()
    window.wait_until(lambda: not table.item(0, 0).icon().isNull(), 20, "a picture")
    window.wait_until(lambda: texts(panel, MARK) == ["", ""], 20, "the rows as they are now")


def test_a_run_that_was_killed_is_found_again_and_another_module_shows_it(
    window, shared_engine, tmp_path, scan, monkeypatch
):
    out = small_cohort(tmp_path, scan, "aw", waiting="w")
    panel = reviewed(window, out)
    ui = panel.ui
    assert "stopped unexpectedly: 1 of 2 scans" in ui.cohortStateLabel.text
    assert ui.cohortPauseButton.visible and ui.cohortPauseButton.text == "Resume"
    assert texts(panel, SCAN) == ["a", "w"], "what is not segmented yet comes last"
    assert cohort_tracker.recent() == [str(out)]
    window.shut("MPERTrainer")
    panel = opened(window, "MPERSegment")
    ui = panel.ui
    assert not ui.cohortSourceBox.visible and not ui.cohortKeepButton.visible, "there is no dataset"
    window.wait_until(lambda: ui.cohortTable.rowCount == 2, 20, "the rows of the cohort that was shown last")
    show(window, panel, "a.seg.nrrd")
    slicer.mrmlScene.Clear(0)
    assert panel.cohortPanel.review.views.row is None and ui.cohortTable.rowCount == 2
    panel.cohortPanel.tracker.refresh()
    choose(ui.cohortSelector, "")
    window.events()
    for _ in range(20):  # the answer that was under way
        window.events()
        time.sleep(0.01)
    assert not panel.cohortPanel.tracker.status and ui.cohortNewFrame.visible, "a closed cohort does not come back"
    panel.cohortPanel.open(str(out))
    window.wait_until(lambda: panel.cohortPanel.tracker.status, 20, "the cohort")
    status = {**panel.cohortPanel.tracker.status, "state": "failed", "scans": 0, "message": "there is no scan"}
    panel.cohortPanel.tracker.status = status
    panel.cohortPanel.show()
    assert ui.messageLabel.text == "There is no scan." and ui.cohortNewFrame.visible, "the form can be corrected"
    (out / ".mper" / "run.json").write_text("{", encoding="utf-8")
    choose(ui.cohortSelector, "")
    choose(ui.cohortSelector, f"folder:{out}")
    window.wait_until(lambda: ui.messageFrame.visible, 20, "the message")
    assert "is damaged" in ui.messageLabel.text and ui.cohortSelector.currentIndex == 0


def test_keys_work_while_the_section_is_open(window, shared_engine, tmp_path, scan):
    panel = reviewed(window, small_cohort(tmp_path, scan, "abc"))
    review = panel.cohortPanel.review
    keys = [key for key in slicer.util.mainWindow().findChildren(qt.QShortcut) if key.enabled]
    found = {key.key.toString(): key for key in keys}
    found["Ctrl+Down"].activated()
    window.wait_until(lambda: review.views.row == "c.seg.nrrd" and review.views.shown, 20, "the first mask")
    found["Ctrl+Return"].activated()
    window.wait_until(lambda: review.views.row == "b.seg.nrrd" and review.views.shown, 20, "the next mask")
    panel.ui.cohortSection.collapsed = True
    window.events()
    left = [key.key.toString() for key in slicer.util.mainWindow().findChildren(qt.QShortcut)]
    assert not {"Ctrl+Down", "Ctrl+Return"} & set(left)


@pytest.mark.parametrize("module", ["MPERSegment", "MPERTrainer"])
def test_the_key_tab_goes_through_a_panel_as_it_is_seen_from_top_to_bottom(window, shared_engine, module):
    """Also through the section Cohort, which is made after the others and stands between them."""
    ui = window.open(module).ui
    buttons = ("QPushButton", "QToolButton", "QLineEdit", "QComboBox", "QCheckBox", "QTableWidget", "QPlainTextEdit")
    for widget in vars(ui).values():
        if widget.className() == "ctkCollapsibleButton":
            widget.collapsed = False
    window.events()
    for frame in (ui.cohortNewFrame, ui.cohortRunFrame, ui.cohortReviewFrame, ui.cohortCorrectFrame):
        frame.visible = True
    window.widget.resize(1500, 4000)
    qt.QCoreApplication.sendPostedEvents(None, qt.QEvent.LayoutRequest)
    names = {widget: name for name, widget in vars(ui).items() if widget.className() in buttons}
    chain, widget = [], ui.cohortStartButton
    while widget is not ui.cohortStartButton or not chain:
        if widget in names and widget.visible and widget.focusPolicy & qt.Qt.TabFocus:
            corner = widget.mapToGlobal(qt.QPoint(0, 0))
            chain.append((names[widget], corner.x(), corner.y(), corner.y() + widget.height))
        widget = widget.nextInFocusChain()
    first = min(range(len(chain)), key=lambda n: chain[n][2])
    chain = chain[first:] + chain[:first]
    wrong = [
        (one[0], other[0])
        for one, other in pairwise(chain)
        if other[3] <= one[2] or (other[2] < one[3] and other[1] < one[1])
    ]
    assert not wrong and sum(name.startswith("cohort") for name, *_ in chain) > 15
