"""MPERTrainer in a window: from scans to a promoted version, and what happens when something goes away meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import qt
import slicer
from MPERLib import mrml, segmentation_node, settings

ENGINE_S = 60
SHAPE = (18, 24, 22)
AFFINE = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -30], [2.0, 0, 0, 5], [0, 0, 0, 1]])
SMALL_PATCH = "16, 32, 32"


def blob(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid in noise, and its mask."""
    rng = np.random.default_rng(seed)
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    centre, radii = np.array(SHAPE) * rng.uniform(0.4, 0.6, 3), np.array(SHAPE) * rng.uniform(0.25, 0.35, 3)
    mask = (((index - centre) / radii) ** 2).sum(-1) < 1
    return (rng.normal(100, 10, SHAPE) + 60 * mask).astype(np.int16), mask.astype(np.uint8)


def volume(seed: int):
    return mrml.show_scan(blob(seed)[0], AFFINE, f"scan {seed}", slicer.mrmlScene)


def dataset_on_disk(folder: Path, labelled: int, unlabelled: int = 0, holdout: int = 0) -> Path:
    """A dataset as `mper import` makes it, its last labelled cases locked as hold-out."""
    from mper.datasets.dataset import Dataset
    from mper.labels import make_label
    from mper.volume import Geometry, Volume

    dataset = Dataset.create(folder / "Atria", "Atria", [make_label(1, "LA")])
    grid = Geometry(AFFINE, SHAPE)
    names = [f"case-{n + 1:03d}" for n in range(labelled + unlabelled)]
    for n, name in enumerate(names):
        image, mask = blob(n)
        case = dataset.add_case(name, Volume(image, grid), {"format": "synthetic"})
        if n < labelled:
            case.add_label(Volume(mask, grid), author="reader", how="hand")
    dataset.add_to_split("train", names)
    if holdout:
        dataset.lock_holdout(names[labelled - holdout : labelled])
    return dataset.path


def opened(window, folder: Path | None = None):
    """The panel with a ready engine, and the dataset of `dataset_on_disk` in a folder."""
    panel = window.open("MPERTrainer")
    window.wait_until(lambda: panel.session.ready, ENGINE_S, "the engine")
    if folder is not None:
        panel.datasetPanel.openFolder(str(folder / "Atria"))
        window.wait_until(lambda: panel.ui.casesTable.rowCount, 20, "the cases")
    panel.ui.revisionsBox.collapsed = False
    return panel


def draw(panel, mask: np.ndarray) -> None:
    """What a person does with the brush: change the segment's voxels, with the editor's event."""
    node = panel.labelPanel.segmentation
    segmentation_node.replace_mask(node, mask, (0, 0, 0), panel.dataset.labels, panel.labelPanel.volume)
    node.GetSegmentation().InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)


def segmentations() -> list[str]:
    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]


def rows(table, column: int) -> list[str]:
    return [table.item(row, column).text() for row in range(table.rowCount)]


def label(window, panel, n: int) -> None:
    """Open the n-th case by a double click, draw it and save it."""
    case = panel.casesPanel.table.keys[n]
    panel.ui.casesTable.cellDoubleClicked(n, 1)
    window.wait_until(
        lambda: panel.labelPanel.case == case and panel.labelPanel.segmentation is not None, 20, "the case"
    )
    draw(panel, blob(n)[1])
    window.click(panel.ui.saveLabelButton)
    window.wait_until(lambda: panel.ui.casesTable.item(n, 2).text() == "1", 20, "the label")


def choose(selector, value: str) -> None:
    index = selector.findData(value)
    assert index >= 0, f"{value} is not to be chosen"
    selector.currentIndex = index


def steps_kept(checkpoint: Path) -> int:
    """The step at which a checkpoint was made; its header is JSON behind eight bytes of length."""
    data = checkpoint.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["about"])["step"]


def train_small(window, panel, steps: int) -> None:
    ui = panel.ui
    window.wait_until(lambda: panel.trainingPanel.plan and ui.startSelector.findData("la") >= 0, 20, "the plan")
    choose(ui.startSelector, "")
    choose(ui.methodSelector, "supervised")
    ui.stepsSpin.value = steps
    ui.patchEdit.text = SMALL_PATCH
    panel.trainingPanel._onChanged("patch")  # textEdited comes from the keyboard alone
    window.wait_until(lambda: panel.trainingPanel.plan.get("steps") == steps, 20, "the plan")
    window.wait_until(lambda: ui.startButton.enabled, 20, "the start button")
    window.click(ui.startButton)
    window.wait_until(lambda: panel.runsPanel.status, 20, "the run")


def test_from_loaded_scans_to_a_promoted_version(window, shared_engine, tmp_path):
    panel = opened(window)
    ui = panel.ui

    # a dataset is made
    window.click(ui.newDatasetButton)
    assert "82471001" in ui.meaningLabel.text
    ui.newNameEdit.text = "Atria"
    ui.folderEdit.text = str(tmp_path / "data sets")
    window.click(ui.createButton)
    window.wait_until(lambda: panel.dataset.about, 20, "the dataset")
    assert json.loads((tmp_path / "data sets" / "Atria" / "dataset.json").read_text())["labels"][0]["name"] == "LA"

    # scans that are loaded become cases
    scans = [volume(n) for n in range(5)]
    panel.casesPanel.caseImport.addVolumes(scans)
    window.wait_until(lambda: ui.previewBox.visible, 20, "the preview")
    window.click(ui.addPreviewButton)
    window.wait_until(lambda: ui.casesTable.rowCount == 5, 20, "the cases")
    assert ui.startButton.enabled is False  # nothing is labelled yet

    # each but the last is labelled
    for n in range(4):
        label(window, panel, n)
        assert panel.labelPanel.volume is scans[n]  # it was in the scene already
    assert panel.dataset.case("scan 0")["how"] == "hand"
    panel.labelPanel.closeCase()
    assert mrml.alive(scans[3])  # the user has loaded it

    # two of them are held out, for good
    panel.casesPanel.table.select("scan 2")
    panel.casesPanel.table._select(3)
    assert panel.casesPanel.table.allSelected() == ["scan 2", "scan 3"]
    window.click(ui.lockButton)
    window.wait_until(lambda: ui.lockButton.text.startswith("Hold out more"), 20, "the hold-out")
    assert panel.dataset.case("scan 3")["split"] == panel.dataset.holdout

    # a small training
    train_small(window, panel, 6)
    window.wait_until(lambda: panel.runsPanel.status.get("state") == "finished", 90, "the training")
    window.wait_until(lambda: panel.dataset.versions(), 20, "the version")
    window.wait_until(
        lambda: panel.runsPanel.lossChart.values() and panel.runsPanel.diceChart.values(), 20, "the curves"
    )
    config = next((tmp_path / "data sets" / "Atria" / "runs").glob("*/cases.json"))
    assert json.loads(config.read_text())["trained_on"] == ["scan 0", "scan 1"]

    # compared with the bundled model on the hold-out set
    window.wait_until(lambda: ui.compareButton.enabled, 20)
    assert ui.oldSelector.itemData(ui.oldSelector.currentIndex) == "la"
    window.click(ui.compareButton)
    window.wait_until(
        lambda: ui.compareTable.rowCount == 2 and not panel.comparisonPanel.job.running, 90, "the comparison"
    )
    assert "2 held-out cases" in ui.compareWords.text
    panel.comparisonPanel.table.select(panel.comparisonPanel.table.keys[0])
    shown = window.wait_until(
        lambda: [n for n in segmentations() if n.endswith("model)") or n.endswith("version)")], 20, "the masks"
    )
    window.wait_until(
        lambda: len([n for n in segmentations() if n.endswith("model)") or n.endswith("version)")]) == 2, 20, shown
    )
    window.screenshot("trainer-compare")

    # promoted, and back
    window.click(ui.useButton)
    own = f"{panel.dataset.id}/la"
    window.wait_until(lambda: qt.QSettings().value("MPER/CurrentModel") == own, 20, "the promotion")
    segment = window.open("MPERSegment")
    window.wait_until(
        lambda: segment.session.ready and segment.ui.modelBox.currentData == f"{own}/1", 30, "it in MPERSegment"
    )
    window.open("MPERTrainer")
    window.wait_until(lambda: ui.backButton.visible, 20)
    window.click(ui.backButton)
    window.wait_until(lambda: qt.QSettings().value("MPER/CurrentModel") == "la", 20, "the way back")

    # what to label next
    ui.nextSection.collapsed = False
    window.events()
    window.click(ui.rankButton)
    window.wait_until(lambda: panel.nextCasePanel.table.keys == ["scan 4"], 60, "the ranking")
    window.click(ui.skipButton)
    assert "skipped" in ui.nextTable.item(0, 1).text()
    window.click(ui.unskipButton)
    assert "skipped" not in ui.nextTable.item(0, 1).text()
    window.click(ui.labelNextButton)
    window.wait_until(lambda: panel.labelPanel.case == "scan 4" and panel.labelPanel.segmentation is not None, 20)


def test_a_run_is_paused_continued_after_a_restart_cancelled_and_resumed(window, tmp_path):
    dataset_on_disk(tmp_path, labelled=2)
    panel = opened(window, tmp_path)
    train_small(window, panel, 100000)
    window.wait_until(lambda: panel.runsPanel.status.get("step"), 60, "the first steps")
    run = panel.runsPanel.status["run"]
    window.click(panel.ui.pauseButton)
    window.wait_until(lambda: panel.runsPanel.status["state"] == "paused", 30, "the pause")
    window.click(panel.ui.resumeButton)
    window.wait_until(lambda: panel.runsPanel.status["state"] == "running", 30, "the training to go on")

    # Slicer is closed: panel and engine end, the run does not
    from MPERLib import engine

    panel = None
    window.shut("MPERTrainer")
    engine.stopShared(wait_s=20)
    panel = opened(window, tmp_path)
    window.wait_until(lambda: panel.runsPanel.status.get("run") == run, 30, "the run to be found again")
    window.wait_until(lambda: panel.runsPanel.active and panel.runsPanel.lossChart.values(), 30, "its curves")
    window.screenshot("trainer-running")
    window.click(panel.ui.logButton)
    window.wait_until(lambda: panel.ui.logText.plainText, 20, "the log")
    window.click(panel.ui.cancelButton)
    window.wait_until(lambda: panel.runsPanel.status["state"] == "cancelled", 30, "the end")
    assert not panel.ui.cancelButton.enabled

    # the checkpoint is saved
    step = panel.runsPanel.status["step"]
    window.click(panel.ui.resumeButton)
    window.wait_until(lambda: panel.runsPanel.status["state"] == "running", 60, "the training to go on")
    window.click(panel.ui.cancelButton)
    window.wait_until(lambda: panel.runsPanel.status["state"] == "cancelled", 30, "the end")
    assert steps_kept(next(tmp_path.glob("Atria/runs/*/checkpoint/*.safetensors"))) >= step


def test_a_folder_is_opened_once_however_it_is_named(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window)
    ui = panel.ui
    (tmp_path / "empty").mkdir()
    panel.datasetPanel.openFolder(str(tmp_path / "empty"))
    window.wait_until(lambda: "There is no dataset in" in ui.messageLabel.text, 20, "a word about it")
    for folder in (tmp_path / "Atria", tmp_path):
        panel.dataset.open(None)
        panel.datasetPanel.openFolder(str(folder))
        window.wait_until(lambda: panel.dataset.about, 20, "the dataset")
        assert [entry["name"] for entry in panel.datasetPanel.datasets] == ["Atria"]
    assert settings.roots()[-1] == str(tmp_path)


def test_a_skipped_folder_is_named_with_the_reason_where_datasets_and_models_are_chosen(
    window, shared_engine, tmp_path
):
    home = tmp_path / "data"
    dataset_on_disk(home, labelled=1)
    nnunet = home / "nnU-Net" / "dataset.json"
    nnunet.parent.mkdir()
    nnunet.write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": {"background": 0}}), encoding="utf-8")
    damaged = next(home.rglob("cases")).with_name("cohorts") / "damaged" / "manifest.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{", encoding="utf-8")
    panel = opened(window)
    assert not panel.ui.datasetNotes.visible and not panel.ui.cohortNotes.visible
    panel.datasetPanel.openFolder(str(home))
    window.wait_until(lambda: panel.dataset.about, 20, "the dataset")
    text = panel.ui.datasetNotes.text
    assert text.startswith("The dataset data/nnU-Net is skipped: ")
    assert panel.ui.datasetNotes.visible
    window.wait_until(lambda: panel.session.modelNotes, 20, "the models")
    panel.ui.cohortSection.collapsed = False
    window.wait_until(lambda: panel.ui.cohortNotes.visible, 20, "the note")
    assert panel.ui.cohortNotes.text.startswith("The cohort damaged is skipped: ")
    window.screenshot("skipped")
    segment = window.open("MPERSegment")
    window.wait_until(lambda: segment.ui.modelNotes.visible, ENGINE_S, "the note")
    assert segment.ui.modelNotes.text == text
    nnunet.unlink()
    panel.datasetPanel.reload()
    window.wait_until(lambda: not panel.ui.datasetNotes.visible, 20, "the note to go")


def test_every_revision_can_be_seen_and_restored(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui = panel.ui
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    window.click(ui.saveLabelButton)
    assert "There are no changes" in ui.messageLabel.text
    draw(panel, np.zeros(SHAPE, np.uint8))
    ui.authorEdit.text = "Dr. B"
    window.click(ui.saveLabelButton)
    window.wait_until(lambda: panel.dataset.cases[0]["revisions"] == 2, 20, "the second revision")
    assert panel.dataset.cases[0]["author"] == "Dr. B"

    panel.casesPanel.table.select("case-001")
    window.wait_until(lambda: panel.casesPanel.revisions.keys == ["2", "1"], 20, "the revisions")
    assert not ui.restoreButton.enabled  # nothing is chosen
    panel.casesPanel.revisions.select("1")
    window.click(ui.showRevisionButton)
    window.wait_until(lambda: "case-001 revision 1" in segmentations(), 20, "the first revision")
    window.click(ui.restoreButton)
    window.wait_until(lambda: panel.dataset.cases[0]["revisions"] == 3, 20, "the restored one")
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    part, start = segmentation_node.mask_part(
        panel.labelPanel.segmentation, panel.labelPanel.volume, panel.dataset.labels
    )
    whole = np.zeros(SHAPE, np.uint8)
    whole[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    np.testing.assert_array_equal(whole, blob(0)[1])
    assert len(list((tmp_path / "Atria" / "cases" / "case-001" / "labels").glob("*.nrrd"))) == 3


def test_what_is_not_saved_is_there_when_the_case_is_opened_again(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=2)
    panel = opened(window, tmp_path)
    ui = panel.ui
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    mine = blob(5)[1]
    draw(panel, mine)
    drawn = panel.labelPanel.segmentation
    slicer.mrmlScene.RemoveNode(panel.labelPanel.volume)  # in another module
    for button in (ui.draftButton, ui.saveLabelButton):
        ui.messageLabel.text = ""
        window.click(button)
        assert ui.messageLabel.text.startswith("The scan of case-001 is not in the scene any more. Open the case again")
    panel.labelPanel._compare()  # as a moment after each edit
    assert ui.casesTable.item(0, 2).text() == "1, not saved"
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is drawn, 20, "what was drawn, on the scan as fetched")
    assert np.array_equal(segmentation_node.mask_of(drawn, panel.labelPanel.volume, panel.dataset.labels), mine)
    ui.casesTable.cellDoubleClicked(1, 1)
    window.wait_until(
        lambda: panel.labelPanel.case == "case-002" and panel.labelPanel.segmentation, 20, "the other case"
    )
    assert mrml.alive(drawn) and not drawn.GetDisplayNode().GetVisibility()
    window.click(ui.closeCaseButton)
    assert len(segmentations()) == 1  # nothing was changed there
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is drawn, 20, "what was drawn")
    window.click(ui.saveLabelButton)
    window.wait_until(lambda: panel.dataset.case("case-001")["revisions"] == 2, 20, "the revision")
    window.wait_until(lambda: "Saved" in ui.messageLabel.text, 20)
    window.click(ui.closeCaseButton)
    assert segmentations() == []
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # they came from the dataset


def test_answers_about_a_case_that_was_left_change_nothing_of_the_one_that_is_open(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=2)
    panel = opened(window, tmp_path)
    ui, labels, real, held = panel.ui, panel.labelPanel, panel.session.getArray, []

    def hold(path, done, failed=None):
        return real(path, lambda *answer: held.append((lambda: done(*answer), failed)))

    def openHeld(n: int) -> None:
        count = len(held)
        ui.casesTable.cellDoubleClicked(n, 1)
        window.wait_until(lambda: len(held) > count, 20, "the answer that is on its way")

    def drawnIn(n: int):
        ui.casesTable.cellDoubleClicked(n, 1)
        window.wait_until(lambda: labels.segmentation is not None, 20, "the case")
        draw(panel, blob(5)[1])
        return labels.segmentation

    panel.session.getArray = hold
    openHeld(0)
    panel.session.getArray = real
    drawn = drawnIn(1)
    _done, failed = held.pop()
    failed("the scan of case-001 is damaged")
    assert labels.case == "case-002" and ui.editorBox.visible and ui.saveLabelButton.enabled
    ui.casesTable.cellDoubleClicked(1, 1)
    window.wait_until(lambda: labels.segmentation is drawn, 20, "what was drawn")
    labels.openSaved("case-002")
    window.wait_until(lambda: labels.segmentation is not None, 20, "the label")

    panel.session.getArray = hold
    openHeld(1)
    panel.session.getArray = real
    drawn = drawnIn(1)
    held.pop()[0]()  # the label of the case as it was opened before
    window.events()
    assert labels.segmentation is drawn and len(segmentations()) == 1

    panel.casesPanel.table.select("case-002")
    window.wait_until(lambda: panel.casesPanel.revisions.keys, 20, "the revisions")
    panel.casesPanel.revisions.select("1")
    comparison = panel.comparisonPanel
    for show in (panel.casesPanel.showRevision, comparison.showCase):
        labels.open("case-002")
        window.wait_until(lambda: labels.segmentation is not None, 20, "the case")
        comparison.table.selected, comparison._jobId = (lambda: "case-002"), "j1"
        panel.session.getArray = lambda _path, done, *_: held.append(done)  # the scan is in the scene
        show()
        window.wait_until(lambda: held, 20, "the masks that are on their way")
        panel.session.getArray = real
        labels.open("case-001")
        window.wait_until(lambda: labels.segmentation is not None, 20, "the other case")
        while held:
            held.pop()(blob(1)[1], {})
        assert labels.segmentation.GetDisplayNode().GetVisibility()
        assert not any("revision" in name or "model" in name for name in segmentations())
    labels.open("case-002")
    window.wait_until(lambda: labels.segmentation is not None, 20, "the case")

    drawn, asked, post = labels.segmentation, [], panel.session.post
    panel.session.post = lambda _path, _body, done, *_: held.append(done)
    panel.session.job = panel.session.delete = lambda path, *_: asked.append(path)
    window.click(ui.draftButton)
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: labels.segmentation not in (None, drawn), 20, "the other case")
    panel.session.post = post
    held.pop()({"scan": "s1"})
    assert asked == ["/scans/s1"] and not labels._drafts.running  # no draft of the case before is made
    labels._drafts.start = lambda *arguments: held.append(arguments[-1])
    window.click(ui.draftButton)
    draw(panel, blob(5)[1])
    labels.openSaved("case-001")
    window.wait_until(lambda: labels.segmentation is not None, 20, "the case once more")
    result = {"model": "la", "model_version": "1", "labels": panel.dataset.labels}
    held.pop()(blob(7)[1], {}, result)
    assert labels._draft is None and not labels._changed()


def test_a_case_is_saved_in_its_own_dataset_alone_whichever_is_open(window, shared_engine, tmp_path):
    """Two datasets have a case of the same id; the label of one is changed, and then the other dataset is opened."""
    one, other = dataset_on_disk(tmp_path / "one", labelled=1), dataset_on_disk(tmp_path / "other", labelled=1)
    panel = opened(window, tmp_path / "one")
    ui, first = panel.ui, panel.dataset.id
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    assert ui.casesTable.item(0, 2).text() == "1"
    draw(panel, blob(5)[1])
    drawn = panel.labelPanel.segmentation
    assert ui.casesTable.item(0, 2).text() == "1, not saved"
    assert "not saved" in ui.editorLabel.text
    panel.datasetPanel.openFolder(str(tmp_path / "other" / "Atria"))
    window.wait_until(lambda: panel.dataset.id not in (None, first), 20, "the other dataset")
    window.wait_until(lambda: panel.labelPanel.case is None, 20, "the case to be closed")
    assert not ui.editorBox.visible
    assert "unsaved changes stay" in ui.messageLabel.text
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert views and not any(view.GetBackgroundVolumeID() for view in views)  # not the scan of the other dataset
    assert ui.casesTable.item(0, 2).text() == "1"
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case of the other dataset")
    assert panel.labelPanel.segmentation is not drawn
    choose(ui.datasetSelector, first)
    window.wait_until(lambda: panel.dataset.id == first, 20, "the first dataset")
    window.wait_until(lambda: ui.casesTable.item(0, 2).text() == "1, not saved", 20, "the mark")
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is drawn, 20, "what was drawn")
    window.click(ui.saveLabelButton)
    window.wait_until(lambda: ui.casesTable.item(0, 2).text() == "2", 20, "the revision")
    assert ui.discardButton.visible and not ui.discardButton.enabled
    assert [len(list((each / "cases/case-001/labels").glob("*.nrrd"))) for each in (one, other)] == [2, 1]


def test_a_label_is_not_saved_when_the_scan_in_the_scene_is_another_image_now(window, shared_engine, tmp_path):
    path = dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    panel.ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    mrml.fill_volume(panel.labelPanel.volume, blob(5)[0], AFFINE)
    draw(panel, blob(5)[1])
    window.click(panel.ui.saveLabelButton)
    window.wait_until(lambda: "Not saved" in panel.ui.messageLabel.text, 20, "the refusal")
    assert "drawn on another image than the scan of case-001" in panel.ui.messageLabel.text
    assert len(list((path / "cases/case-001/labels").glob("*.nrrd"))) == 1
    mrml.fill_volume(panel.labelPanel.volume, blob(0)[0], AFFINE)  # nothing that was drawn is lost
    window.click(panel.ui.saveLabelButton)
    window.wait_until(lambda: panel.ui.casesTable.item(0, 2).text() == "2", 20, "the revision")


def test_unsaved_changes_are_discarded_by_a_button_and_by_restoring_a_revision(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui, labels = panel.ui, panel.labelPanel

    def shown() -> np.ndarray:
        return segmentation_node.mask_of(labels.segmentation, labels.volume, panel.dataset.labels)

    saved, damage = blob(0)[1], np.zeros(SHAPE, np.uint8)
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: labels.segmentation is not None, 20, "the case")
    assert ui.discardButton.visible and not ui.discardButton.enabled
    draw(panel, damage)
    assert ui.casesTable.item(0, 2).text() == "1, not saved"
    segmentation_node.replace_mask(labels.segmentation, saved, (0, 0, 0), panel.dataset.labels, labels.volume)
    modified = slicer.vtkSegmentation.SegmentModified  # all that Slicer sends when a change is undone
    labels.segmentation.GetSegmentation().InvokeEvent(modified, "1")
    window.wait_until(lambda: ui.casesTable.item(0, 2).text() == "1", 10, "the mark to go")
    assert not ui.discardButton.enabled and "not saved" not in ui.editorLabel.text
    draw(panel, damage)
    window.click(ui.closeCaseButton)
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: labels.segmentation is not None and labels._opened, 20, "the changes, and what was saved")
    draw(panel, saved)
    window.wait_until(lambda: ui.casesTable.item(0, 2).text() == "1", 10, "the mark to go of a case that was closed")
    draw(panel, damage)
    damaged = labels.segmentation
    window.click(ui.discardButton)
    window.wait_until(lambda: labels.segmentation is not None and labels.segmentation is not damaged, 20, "the label")
    assert (shown() == saved).all()
    assert ui.casesTable.item(0, 2).text() == "1"

    draw(panel, damage)
    window.click(ui.saveLabelButton)
    window.wait_until(lambda: ui.casesTable.item(0, 2).text() == "2", 20, "the revision")
    draw(panel, blob(5)[1])
    panel.casesPanel.table.select("case-001")
    window.wait_until(lambda: ui.revisionsTable.rowCount == 2, 20, "the revisions")
    panel.casesPanel.revisions.select("1")
    window.click(ui.restoreButton)
    window.wait_until(lambda: "revision 3" in ui.editorLabel.text and labels.segmentation is not None, 20, "revision 3")
    assert (shown() == saved).all()  # what the heading names is what the views show
    assert "not saved" not in ui.editorLabel.text
    assert len(segmentations()) == 1


def test_a_label_of_the_hold_out_is_changed_and_an_empty_one_saved_only_after_a_question(
    window, shared_engine, tmp_path, monkeypatch
):
    path = dataset_on_disk(tmp_path, labelled=2, holdout=1)
    panel = opened(window, tmp_path)
    questions = []
    answers = iter([False, True, True, False])
    ask = lambda question, _title: questions.append(question) or next(answers)  # noqa: E731
    for module in ("MPERTrainerLib.label_panel", "MPERLib.questions"):
        monkeypatch.setattr(f"{module}.agreed", ask)
    panel.ui.casesTable.cellDoubleClicked(1, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    draw(panel, blob(5)[1])
    about, panel.dataset.about = panel.dataset.about, None  # as while another dataset is being opened
    window.click(panel.ui.saveLabelButton)
    assert panel.ui.messageLabel.text.startswith("The dataset of case-002 is not open any more.") and not questions
    panel.dataset.about = about
    window.click(panel.ui.saveLabelButton)
    assert "case-002 is in the hold-out set" in questions[0]
    assert panel.ui.saveLabelButton.enabled
    assert len(list((path / "cases/case-002/labels").glob("*.nrrd"))) == 1
    window.click(panel.ui.saveLabelButton)
    window.wait_until(lambda: panel.ui.casesTable.item(1, 2).text() == "2", 20, "the revision")
    assert len(questions) == 2
    draw(panel, np.zeros_like(blob(5)[1]))
    window.click(panel.ui.saveLabelButton)
    assert "The mask is empty" in questions[3] and panel.ui.saveLabelButton.enabled
    assert len(list((path / "cases/case-002/labels").glob("*.nrrd"))) == 2


def test_a_label_of_the_hold_out_is_restored_only_after_a_question(window, shared_engine, tmp_path, monkeypatch):
    path = dataset_on_disk(tmp_path, labelled=2, holdout=1)
    from mper.datasets.dataset import Dataset

    held = Dataset.open(path).case("case-002")
    held.add_label(held.label(1), author="reader", how="hand")
    panel = opened(window, tmp_path)
    questions, answers = [], iter([False, True])
    ask = lambda question, _title: questions.append(question) or next(answers)  # noqa: E731
    monkeypatch.setattr("MPERTrainerLib.label_panel.agreed", ask)
    panel.casesPanel.table.select("case-002")
    window.wait_until(lambda: panel.ui.revisionsTable.rowCount == 2, 20, "the revisions")
    panel.casesPanel.revisions.select("1")
    window.click(panel.ui.restoreButton)
    assert "case-002 is in the hold-out set" in questions[0]
    window.click(panel.ui.restoreButton)
    window.wait_until(lambda: panel.ui.casesTable.item(1, 2).text() == "3", 20, "the revision")
    assert len(questions) == 2 and len(held.revisions()) == 3


def test_a_second_hold_out_takes_cases_and_their_copies_after_a_question(window, shared_engine, tmp_path, monkeypatch):
    path = dataset_on_disk(tmp_path, labelled=4, holdout=1)
    from mper.datasets.dataset import Dataset

    dataset = Dataset.open(path)
    dataset.add_case("copy", dataset.case("case-001").image(), {})
    panel = opened(window, tmp_path)
    ui, questions = panel.ui, []
    monkeypatch.setattr("MPERTrainerLib.cases_panel.agreed", lambda text, _title: questions.append(text) or True)
    assert ui.lockButton.text.startswith("Hold out more")
    assert ui.casesTable.isColumnHidden(4)  # no case has been ranked: its confidence is not known
    panel.casesPanel.table.select("case-004")  # is held out already
    assert not ui.lockButton.enabled
    panel.casesPanel.table.select("case-001")
    window.click(ui.lockButton)
    window.wait_until(lambda: "second hold-out" in rows(ui.casesTable, 5), 20, "the lock")
    assert "The same scans, so locked with them: copy." in questions[0]
    assert "remain for training: 2." in questions[0]
    assert rows(ui.casesTable, 5) == ["second hold-out", "training", "training", "hold-out", "second hold-out"]
    assert "(3 cases)" in ui.holdoutLabel.text
    assert Dataset.open(path).splits["holdout-2"] == ("case-001", "copy")


def test_a_case_is_renamed_excluded_included_and_removed_from_the_menu(window, shared_engine, tmp_path):
    path = dataset_on_disk(tmp_path, labelled=3, holdout=1)
    panel = opened(window, tmp_path)
    ui, menu, table = panel.ui, panel.casesPanel.caseMenu, panel.casesPanel.table
    assert not ui.caseMenuButton.enabled
    table.select("case-003")
    assert [menu.actions[name].enabled for name in ("rename", "exclude", "include", "remove")] == [True, *[False] * 3]
    table.select("case-001")
    asked = window.answer("Mrs Grün", None)
    menu.actions["rename"].trigger()
    window.wait_until(lambda: rows(ui.casesTable, 1)[0] == "Mrs Grün", 20, "the name")
    menu.actions["rename"].trigger()
    assert len(asked) == 2 and asked[0].startswith("Name of case-001."), "and the second one is cancelled"
    assert table.keys[0] == "case-001"
    menu.actions["exclude"].trigger()
    window.wait_until(lambda: rows(ui.casesTable, 5)[0] == "excluded", 20, "the exclusion")
    assert not menu.actions["exclude"].enabled
    menu.actions["include"].trigger()
    window.wait_until(lambda: rows(ui.casesTable, 5)[0] == "training", 20, "the case in training")
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    draw(panel, blob(5)[1])
    menu.actions["remove"].trigger()  # it is open, with unsaved changes
    window.wait_until(lambda: table.keys == ["case-002", "case-003"], 20, "the removal")
    assert panel.labelPanel.case is None and not segmentations()
    assert [entry.name[:9] for entry in (path / "recycled").iterdir()] == ["case-001-"]


def test_answers_about_a_dataset_are_not_applied_to_the_one_that_is_opened_meanwhile(window, shared_engine, tmp_path):
    """Both have cases of the same ids; requests are made for one, and their answers come when the other is open."""
    from mper.datasets.dataset import Dataset
    from mper.labels import make_label
    from mper.volume import Geometry, Volume

    dataset_on_disk(tmp_path, labelled=1, unlabelled=1)
    ventricles = Dataset.create(tmp_path / "other" / "RV", "RV", [make_label(1, "RV")])
    for n in range(2):
        ventricles.add_case(f"case-00{n + 1}", Volume(blob(n)[0], Geometry(AFFINE, SHAPE)), {})
    panel = opened(window, tmp_path)
    table, session, first, sent, shown = panel.casesPanel.table, panel.session, panel.dataset.id, [], []
    table.select("case-001")
    window.wait_until(lambda: panel.casesPanel.revisions.keys, 20, "the revisions")
    panel.casesPanel.revisions.select("1")

    def hold(path, _body, done, *_more):
        sent.append((path.removeprefix(panel.dataset.route(of=first)), done))
        return SimpleNamespace(codes={}, notices=[], id="j1")

    real = {name: getattr(session, name) for name in ("post", "put", "job")}
    session.post = session.put = session.job = hold
    version = {"id": f"{first}/la/1", "name": "la", "version": 1, "current": False}
    panel.dataset.versions = lambda: [version]
    panel.casesPanel.restore()
    table._select(1)
    panel.casesPanel.caseMenu.exclude(True)
    panel.comparisonPanel._switch(version["id"])
    panel.trainingPanel.start()
    panel.nextCasePanel.rank()
    paths = ["/cases/case-001/restore", "/cases/case-001/excluded", "/models/la/use", "/runs", "/rank"]
    assert [path for path, _done in sent] == paths
    del panel.dataset.versions
    getList, cohorts, cohortPanel = session.getList, [], panel.cohortPanel
    session.getList = lambda _path, done, *_: cohorts.append(done)
    cohortPanel._readDataset()
    session.getList = getList
    for name, function in real.items():
        setattr(session, name, function)
    panel.datasetPanel.openFolder(str(tmp_path / "other" / "RV"))
    window.wait_until(lambda: panel.ui.structuresLabel.text.count("RV"), 20, "the other dataset")

    session.put, panel.trainingPanel._started = hold, shown.append
    restored, excluded, used, started, ranked = (done for _path, done in sent)
    cohortPanel._readDataset()  # as when its section is open
    cohorts.pop()([{"id": "c1", "folder": "of the first"}], [])
    assert cohortPanel._of == []
    restored({"number": 2})
    excluded(None)
    used(None)
    started({"run": "r1"})
    ranked({"cases": [{"id": "case-001", "words": "unlike all others"}]})
    assert panel.labelPanel.case is None
    assert sent[-1][0] == "/cases/case-002/excluded"  # of the dataset whose cases were selected
    left_atrium, right_ventricle = (settings.setting(f"MPER/ModelOf/{code}") for code in ("82471001", "53085002"))
    assert left_atrium == f"{first}/la" and not right_ventricle
    assert not shown and not panel.nextCasePanel.table.keys
    session.put = real["put"]


def test_a_structure_is_added_to_a_dataset(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    window.answer("RA")
    window.click(panel.ui.addStructureButton)
    window.wait_until(lambda: "RA (Right atrium)" in panel.ui.structuresLabel.text, 20, "the structure")
    panel.ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    segmentation = panel.labelPanel.segmentation.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["LA", "RA"]


def test_a_scan_that_is_a_case_already_gets_another_label_after_a_question(
    window, shared_engine, tmp_path, monkeypatch
):
    from mper.io import write_volume
    from mper.volume import Geometry, Volume

    path = dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui, adding, grid = panel.ui, panel.casesPanel.caseImport, Geometry(AFFINE, SHAPE)
    adding.addVolumes([volume(0)])  # under another name
    window.wait_until(lambda: ui.previewBox.visible, 20, "the preview")
    ui.previewTree.topLevelItem(0).setCheckState(0, qt.Qt.Checked)
    window.click(ui.addPreviewButton)
    window.wait_until(lambda: not adding.busy, 60, "the scan")
    assert "in the dataset already, as case-001" in ui.messageLabel.text
    assert ui.casesTable.rowCount == 1

    (tmp_path / "new").mkdir()
    write_volume(tmp_path / "new" / "pat.nrrd", Volume(blob(0)[0], grid))
    write_volume(tmp_path / "new" / "pat_mask.nrrd", Volume(blob(5)[1], grid))
    questions, answers = [], iter([False, True])
    ask = lambda question, _title: questions.append(question) or next(answers)  # noqa: E731
    monkeypatch.setattr("MPERTrainerLib.case_upload.agreed", ask)
    for revisions in ("1", "2"):
        adding.addSources([(str(tmp_path / "new"), None)])
        window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
        assert ui.previewTree.topLevelItem(0).text(3) == "is case-001 already"
        assert not ui.addPreviewButton.enabled  # it is not ticked
        ui.previewTree.topLevelItem(0).setCheckState(0, qt.Qt.Checked)
        window.click(ui.addPreviewButton)
        window.wait_until(lambda: not adding.busy, 60, "the scan")
        window.wait_until(lambda n=revisions: ui.casesTable.item(0, 2).text() == n, 20, "the label")
    assert questions == 2 * ["pat is the same scan as case-001. Another label for case-001?"]
    assert ui.casesTable.rowCount == 1
    assert [folder.name for folder in (path / "cases").iterdir()] == ["case-001"]


def test_scans_go_into_the_dataset_that_was_open_when_they_were_added(window, shared_engine, tmp_path, monkeypatch):
    from mper.datasets.dataset import Dataset
    from mper.labels import make_label

    atria = Dataset.open(dataset_on_disk(tmp_path, labelled=1, holdout=1))
    other = Dataset.create(tmp_path / "other" / "Ventricles", "Ventricles", [make_label(1, "RV"), make_label(2, "LV")])
    panel = opened(window, tmp_path)
    ui, session, adding, held, questions = panel.ui, panel.session, panel.casesPanel.caseImport, [], []
    monkeypatch.setattr("MPERTrainerLib.case_upload.agreed", lambda text, _title: questions.append(text))
    first, get, send = panel.dataset.id, session.get, session.postArray
    scans = [volume(n) for n in (10, 0)]
    for n, scan in zip((10, 0), scans, strict=True):
        segmentation_node.show_mask(blob(n)[1], (0, 0, 0), panel.dataset.labels, scan, f"mask {n}")

    session.get = lambda path, done, failed: get(path, lambda cases: held.append(lambda: done(cases)), failed)
    adding.addVolumes(scans)
    session.get = get
    panel.datasetPanel.openFolder(str(other.path))
    window.wait_until(lambda: ui.structuresLabel.text.count("RV") and held, 20, "the other dataset")
    held.pop()()
    window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
    (box,) = adding._preview._boxes.values()
    assert [box.itemText(n) for n in range(box.count)] == ["LA", "Leave out"]
    ui.previewTree.topLevelItem(1).setCheckState(0, qt.Qt.Checked)
    window.click(ui.addPreviewButton)
    window.wait_until(lambda: not adding.busy, 60, "the scans")
    assert "scan 0 is the same scan as case-001" in questions[0] and "in the hold-out set" in questions[0]
    assert np.array_equal(atria.case("scan 10").label().array, blob(10)[1]) and other.cases == ()
    assert mrml.case_of(scans[0]) == (first, "scan 10")

    # a scan that is on its way at Cancel does not go into the dataset of the next import, nor end that
    session.postArray = lambda path, array, header, done, *more: send(
        path, array, header, lambda answer: held.append(lambda: done(answer)), *more
    )
    scans = [volume(11), volume(12)]
    second = panel.dataset.id
    adding.addVolumes(scans[:1])
    window.wait_until(lambda: held, 60, "the scan on its way")
    late, models, read = [], [], session.refreshModels
    session.get = lambda _path, done: late.append(done)
    adding.cancel()
    session.get, session.refreshModels = get, models.append
    choose(ui.datasetSelector, first)
    window.wait_until(lambda: models, 20, "the first dataset, but for the models")
    late.pop()({})  # the description of the one that was open at Cancel
    models.pop()()
    session.refreshModels = read
    assert panel.dataset.id == first
    adding.addVolumes(scans[1:])
    window.wait_until(lambda: len(held) == 2, 60, "the other scan on its way")
    held.pop(0)()
    window.wait_until(lambda: mrml.case_of(scans[0]) == (second, "scan 11"), 20, "the case of the first import")
    assert Dataset.open(other.path).cases == ("scan 11",) and adding.busy
    held.pop()()
    window.wait_until(lambda: not adding.busy, 60, "the second import")
    assert mrml.case_of(scans[1]) == (first, "scan 12") and "Added: scan 12." in ui.messageLabel.text


def test_loaded_volumes_have_the_same_preview_with_the_segmentations_and_label_maps_of_the_scene(
    window, shared_engine, tmp_path
):
    """Segments are matched by name: "left atrium" is LA of the dataset; the result of a model is no label."""
    path = dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui, scans = panel.ui, [volume(n) for n in (10, 11, 12, 0)]
    named = [{**panel.dataset.labels[0], "value": 1, "name": "left atrium"}]
    model = {"model": "la", "model_version": "2.0.1", "model_sha256": "8d969eef" * 8}
    segmentation_node.show_mask(blob(10)[1], (0, 0, 0), named, scans[0], "pat segmentation", model)
    result = segmentation_node.show_mask(blob(11)[1], (0, 0, 0), named, scans[1], "result")
    result.SetAttribute("MPER.Result", "{}")
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "scan 12_seg")
    mrml.fill_volume(drawn, 4 * blob(12)[1].astype(np.int16), AFFINE)
    far = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "another patient")
    away = AFFINE.copy()
    away[0, 3] += 500
    mrml.fill_volume(far, blob(12)[1], away)

    adding, tree = panel.casesPanel.caseImport, ui.previewTree
    adding.addVolumes(scans)
    window.wait_until(lambda: adding._previews, 20, "the first row")
    adding.cancel()  # while the second is looked at
    adding.addVolumes(scans)
    window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
    entries = [tree.topLevelItem(n) for n in range(tree.topLevelItemCount)]
    unedited = "Segments of MPER la 2.0.1 (sha256:8d969eef), marked as unedited: no person's label"
    assert [(item.text(0), item.text(2), item.text(3), bool(item.checkState(0))) for item in entries] == [
        ("scan 10", "left atrium (Left atrium)", f"{unedited}.", True),
        ("scan 10", "Value 4", "Label map scan 12_seg.", False),  # of the same box, as all scans here
        ("scan 11", "none", "", True),
        ("scan 11", "Value 4", "Label map scan 12_seg.", False),
        ("scan 12", "Value 4", "Label map scan 12_seg.", True),
        ("scan 0", "none", "is case-001 already", False),
        ("scan 0", "Value 4", "is case-001 already", False),
    ]
    assert entries[0].text(1) == "18 x 24 x 22, 2 x 2 x 2 mm"
    assert not ui.addPreviewButton.enabled and "Value 4" in ui.addPreviewButton.toolTip
    entries[2].setCheckState(0, qt.Qt.Unchecked)
    choose(adding._preview._boxes["Value 4"], "1")
    window.click(ui.addPreviewButton)
    window.wait_until(lambda: not adding.busy, 60, "the scans")
    window.wait_until(lambda: len(panel.dataset.cases) == 3, 20, "the cases")
    from mper.datasets.dataset import Dataset

    dataset = Dataset.open(path)
    assert (dataset.case("scan 10").label().array == blob(10)[1]).all()
    assert (dataset.case("scan 12").label().array == blob(12)[1]).all()

    drawn.SetName("scan 11_seg")
    adding.addVolumes([scans[1]])
    window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
    choose(adding._preview._boxes["Value 4"], "0")  # no structure of the dataset: no label, not an empty one
    window.click(ui.addPreviewButton)
    window.wait_until(lambda: not adding.busy, 60, "the scan")
    assert not dataset.case("scan 11").is_labelled

    slicer.mrmlScene.RemoveNode(drawn)
    away[0, 3] -= 490  # it overlaps the scan, and lies on a grid of its own
    mrml.fill_volume(far, blob(12)[1], away)
    adding.addVolumes([volume(13)])
    window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
    entries = [tree.topLevelItem(n) for n in range(tree.topLevelItemCount)]
    assert [(item.text(2), bool(item.checkState(0))) for item in entries] == [("none", True), ("Value 1", False)]
    window.click(ui.cancelPreviewButton)


def test_a_message_stands_below_the_button_that_was_pressed(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui = panel.ui
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    window.click(ui.saveLabelButton)  # nothing has changed

    def top(widget) -> int:
        return widget.mapToGlobal(qt.QPoint(0, 0)).y()

    window.events()
    assert ui.messageLabel.text == "There are no changes since the last revision."
    assert ui.messageFrame.visible and ui.messageFrame.parent() is ui.editSection
    assert top(ui.saveLabelButton) < top(ui.messageFrame) < top(ui.trainSection)
    panel.context._pressed = None
    ui.editSection.collapsed = True  # which does not hide a message that stands elsewhere now
    panel.context.showMessage("the engine has stopped")
    window.events()
    assert ui.messageFrame.visible and top(ui.messageFrame) < top(ui.casesSection)
    ui.editSection.collapsed = False
    panel.labelPanel.closeCase()
    assert not ui.messageFrame.visible  # it was about the case


def test_a_command_shows_at_once_and_a_training_that_ends_is_told_wherever_one_is(
    window, shared_engine, tmp_path, monkeypatch
):
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    runs, ui, told = panel.runsPanel, panel.ui, []
    window.wait_until(lambda: ui.trainSection.enabled, 20, "the dataset")
    monkeypatch.setattr(slicer.util, "showStatusMessage", lambda text, *_duration: told.append(text))
    panel.session.post = panel.session.get = lambda *_arguments: None  # the run has not followed yet
    running = {"run": "r1", "name": "mine", "state": "running", "alive": True, "step": 3}
    ui.runBox.visible = True
    runs._run = "r1"
    runs._take({**running, "step": None, "state": "starting", "message": "learning where the structure lies (22 %)"})
    assert ui.runLabel.text == "Learning where the structure lies (22 %)"
    runs._take({**running, "message": "running"})
    assert ui.runLabel.text == "Running, step 3"
    runs._take({**running, "message": "measuring on the hold-out: tile 3 of 8"})
    assert ui.runLabel.text == "Measuring on the hold-out set, step 3"
    window.click(ui.pauseButton)
    assert ui.runLabel.text.startswith("Pausing after this step")
    assert not ui.pauseButton.enabled
    window.click(ui.cancelButton)
    assert ui.runLabel.text.startswith("Cancelling after this step")
    logs, runs._asked, ui.logButton.checked = [], "cancel", True
    panel.session.getText = lambda _path, show: logs.append(show)
    runs.showLog()
    runs._run = "r0"  # another one is chosen
    logs.pop()("the log of mine")
    assert not ui.logText.plainText
    runs._run = "r1"
    runs._askedAt -= 11  # seconds, for which it has not followed
    runs._take({**running, "message": "reading case-003"})
    assert ui.runLabel.text.startswith("Reading case-003; cancelling once this is done")
    runs._take({**running, "state": "cancelled", "alive": False})
    assert ui.runLabel.text.startswith("Cancelled")
    assert told == ["The training mine is now: cancelled."] and ui.messageLabel.text == told[0]
    runs._states = {"r2": "running"}  # one that is not shown
    runs._takeOther({"run": "r2", "name": "other", "state": "failed", "alive": False})
    assert told[1:] == ["The training other is now: failed."] and ui.messageLabel.text == told[1]


def test_a_draft_is_made_by_a_model_of_the_structures_of_the_dataset_and_no_other_is_compared(
    window, shared_engine, tmp_path
):
    from mper.datasets.dataset import Dataset
    from mper.labels import make_label
    from mper.volume import Geometry, Volume

    dataset = Dataset.create(tmp_path / "Atria", "Atria", [make_label(1, "RV")])
    dataset.add_case("case-001", Volume(blob(0)[0], Geometry(AFFINE, SHAPE)), {})
    settings.setSetting(settings.CURRENT_MODEL_KEY, "la")  # segments LA alone
    panel = opened(window, tmp_path)
    panel.ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    assert panel.labelPanel._drafts.model(panel.dataset.labels) == "acdc"
    box = panel.ui.oldSelector
    assert [box.itemData(n) for n in range(box.count)] == ["acdc"]
    settings.useModel("acdc", "la", ["53085002"])  # for the right ventricle; the left atrium keeps its own
    settings.useModel("la", "la", ["82471001"])
    assert panel.dataset.modelInUse() == "acdc"
    assert settings.modelInUse(["82471001"]) == "la"


def test_cases_are_gone_through_by_buttons_and_saved_on_the_way(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=1, unlabelled=2)
    panel = opened(window, tmp_path)
    ui = panel.ui

    def shown(case):
        return lambda: panel.labelPanel.case == case and panel.labelPanel.segmentation is not None

    assert not ui.previousCaseButton.enabled and not ui.editorBox.visible
    assert ui.editorLabel.text == "No case is open. Double-click one in the table above."
    window.click(ui.nextCaseButton)
    window.wait_until(shown("case-001"), 20, "the first case")
    assert not ui.previousCaseButton.enabled and ui.nextCaseButton.enabled
    window.click(ui.saveNextButton)  # nothing was changed
    window.wait_until(shown("case-002"), 20, "the second case")
    draw(panel, blob(1)[1])
    send, sent = panel.session.postArray, []
    panel.session.postArray = lambda path, *rest: sent.append(path) or send(path, *rest)
    for _twice in range(2):
        panel.navigation.saveAndNext()  # by its key, which is not greyed while the label is sent
    window.wait_until(shown("case-003"), 20, "the third case")
    assert len(sent) == 1
    window.wait_until(lambda: panel.dataset.case("case-002")["revisions"] == 1, 20, "the label")
    assert "Saved as revision 1 of case-002" in ui.messageLabel.text
    assert not ui.nextCaseButton.enabled
    draw(panel, blob(2)[1])
    ui.saveLabelButton.click()
    window.wait_until(lambda: len(sent) == 2, 20, "the label that is on its way")
    ui.previousCaseButton.click()
    window.wait_until(shown("case-002"), 20, "the second case again")
    window.wait_until(lambda: "Saved as revision 1 of case-003" in ui.messageLabel.text, 20, "the label of the third")
    window.wait_until(lambda: rows(ui.casesTable, 2) == ["1", "1", "1"], 20, "no mark that it is not saved")
    assert len(segmentations()) == 1  # of the case that is open
    assert panel.casesPanel.table.selected() == "case-002"
    height = ui.casesTable.height
    assert height < 300 and ui.casesTable.verticalScrollBar().maximum == 0  # as high as its three rows


def test_a_training_is_asked_for_by_what_the_command_line_offers(window, shared_engine, tmp_path):
    from mper.datasets.dataset import Dataset

    path = dataset_on_disk(tmp_path, labelled=2)
    dataset = Dataset.open(path)
    dataset.add_to_split("other scanner", ["case-002"])
    panel = opened(window, tmp_path)
    ui, training = panel.ui, panel.trainingPanel
    window.wait_until(lambda: ui.methodSelector.findData("auto") >= 0, 20, "the plan")
    assert ui.methodSelector.currentText == "Chosen for these cases"
    choose(ui.alsoSelector, "other scanner")
    ui.crossScannerCheckBox.checked = ui.severalPartsCheckBox.checked = True
    window.wait_until(lambda: training.plan.get("reason"), 20, "the reason")
    asked = {"method": "auto", "also": ["other scanner"], "cross_scanner": True, "keep_largest": False}
    assert training.request() == asked
    assert "Method: Labelled scans only; there are no scans without labels." in ui.estimateLabel.text
    window.wait_until(lambda: training.plan.get("also") == ["other scanner"], 20, "the second split")

    ui.labeledSpin.value = 99
    window.wait_until(lambda: training.plan.get("ready") is False, 20, "what stands against it")
    first, second = ui.estimateLabel.text.splitlines()[:2]
    assert first == "Label a case first." and second.startswith("\N{BULLET} ") and "99" in second
    assert not ui.startButton.enabled

    # another dataset begins with the defaults, as they are sent, whatever was chosen for the one before
    ui.stepsSpin.value, ui.labeledSpin.value, ui.seedSpin.value, ui.patchEdit.text = 3000, 1, 7, SMALL_PATCH
    choose(ui.deviceSelector, "cpu")
    training._onChanged("patch")  # textEdited comes from the keyboard alone
    window.wait_until(lambda: training.plan.get("steps") == 3000 and not ui.budgetSpin.enabled, 20, "the plan")
    late, post = [], panel.session.post
    panel.session.post = lambda path, body, done, failed: late.append((done, failed))
    training._requestPlan()
    training._requestPlan()
    panel.session.post = post
    late[0][1]("the first of two plans has failed")
    assert training.plan and "failed" not in ui.estimateLabel.text  # the second is on its way
    dataset_on_disk(tmp_path / "second", labelled=1)
    panel.datasetPanel.openFolder(str(tmp_path / "second" / "Atria"))
    window.wait_until(lambda: training.plan.get("labelled") == 1, 20, "the plan of the other dataset")
    plan = training.plan
    late[1][0]({"steps": 3000})  # of the dataset before
    assert training.plan is plan and training.request() == {"method": "auto"}
    spins = (ui.stepsSpin, ui.labeledSpin, ui.seedSpin)
    assert [spin.value for spin in spins] == [0, 0, 0] and ui.patchEdit.text == ""
    assert not ui.crossScannerCheckBox.checked and not ui.severalPartsCheckBox.checked
    assert ui.deviceSelector.currentData == "auto"
    mac = [{"name": "mps", "words": "Apple GPU (float32)"}, {"name": "cpu", "words": "CPU (8 threads, float32)"}]
    panel.session.engine.info = {**panel.session.engine.info, "devices": mac, "default_device": "mps"}
    training.update()
    shown = [ui.deviceSelector.itemText(n) for n in range(ui.deviceSelector.count)]
    assert shown == ["Automatic: without graphics card", "without graphics card"]
    assert panel.session.devices()[0] == ("auto", "Automatic: with graphics card (Apple GPU)")
    assert ui.budgetSpin.enabled


def run_on_disk(dataset: Path, run: str, name: str, losses: list[float], dice: float) -> None:
    """A finished training run."""
    folder = dataset / "runs" / run
    folder.mkdir(parents=True)
    config = {"dataset": str(dataset), "name": name, "method": "mper", "start_from": None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    started = f"2026-01-0{run[-1]}T10:15:00+00:00"
    status = {"state": "finished", "message": "finished", "heartbeat": 1.0, "started": started, "step": len(losses)}
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    events = [{"event": "step", "step": n, "loss": loss} for n, loss in enumerate(losses, start=1)]
    events.append({"event": "holdout", "step": len(losses), "fraction": 1.0, "dice": {"LA": dice}, "seconds": 1.0})
    events += 2 * [{"event": "notice", "message": f"the model is not published, as the disk is full; {name} stays"}]
    lines = [json.dumps({"time": 1.0, **event}) for event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_two_runs_are_laid_over_each_other_in_the_charts(window, shared_engine, tmp_path):
    data = dataset_on_disk(tmp_path, labelled=2)
    run_on_disk(data, "r1", "first", [4.0, 3.0], 0.5)
    run_on_disk(data, "r2", "second", [4.0, 2.0, 1.0], 0.75)
    panel = opened(window, tmp_path)
    runs = panel.runsPanel
    window.wait_until(lambda: runs.diceChart.values(), 20, "the curves of the newest run")
    assert runs.lossChart.values() == {"total": [(1, 4.0), (2, 2.0), (3, 1.0)]}
    wanted = "\N{BULLET} The model is not published, as the disk is full; second stays."
    window.wait_until(lambda: panel.ui.runNotices.text == wanted and panel.ui.runNotices.visible, 20, "the notice")
    assert [runs.overlay.selector.itemData(n) for n in range(runs.overlay.selector.count)] == ["", "r1"]
    choose(runs.overlay.selector, "r1")
    window.wait_until(lambda: len(runs.diceChart.values()) == 2, 20, "the curves of the other run")
    (name,) = set(runs.lossChart.values()) - {"total"}
    assert name.startswith("total of first, ") and "finished" not in name
    assert runs.lossChart._legend.minimumSizeHint.width() < 250  # a long legend widens no panel
    assert runs.lossChart.values()[name] == [(1, 4.0), (2, 3.0)]
    assert sorted(line[0][1] for line in runs.diceChart.values().values()) == [0.5, 0.75]
    choose(panel.ui.runSelector, "r1")  # the run that is laid over the other is shown itself: nothing lies over it
    window.wait_until(lambda: runs.lossChart.values() == {"total": [(1, 4.0), (2, 3.0)]}, 20, "the curves of it alone")
    assert runs.overlay.selector.currentData == "" and runs.overlay.losses() == {}
    choose(panel.ui.runSelector, "r2")
    choose(runs.overlay.selector, "r1")
    copy = shutil.copytree(data, tmp_path / "copy" / "Atria")  # as a backup: its runs have the same ids
    shutil.rmtree(copy / "runs")
    run_on_disk(copy, "r1", "first", [9.0], 0.5)
    run_on_disk(copy, "r2", "second", [8.0, 7.0], 0.5)
    panel.datasetPanel.openFolder(str(copy))
    window.wait_until(lambda: runs.lossChart.values() == {"total": [(1, 8.0), (2, 7.0)]}, 20, "the curves of the copy")
    case = {"id": "case-001", "before": 0.5, "after": 0.75, "labels": {"LA": {"before": 0.5, "after": 0.75}}}
    panel.comparisonPanel._fillTable([case], ["case-001: the region 1,2 was located automatically; check it"])
    line, note = "case-001: Hier", "Hier"  # in another language
    codes = {note: {"code": "located", "values": {}}, line: {"code": "case-note", "values": {"note": note}}}
    from MPERTrainerLib.comparison_panel import _codeOfNote

    assert [_codeOfNote(each, codes) for each in (line, note, "plain")] == ["located", "", ""]
    tip = panel.ui.compareTable.item(0, 0).toolTip()  # such a note hides no figure
    assert tip.splitlines()[0] == "LA: 0.500 → 0.750" and "located automatically" in tip.splitlines()[1]


def test_two_models_that_both_find_nothing_of_a_structure_are_not_called_equal():
    from MPERTrainerLib.comparison_panel import _missed

    def case(la: float, ra: float) -> dict:
        return {"labels": {"LA": {"before": la, "after": la}, "RA": {"before": ra, "after": 0.0}}}

    assert _missed([case(0.9, 0.0), case(0.8, 0.001)]) == ["Both models miss RA: nothing of it is found."]
    assert _missed([case(0.9, 0.0), case(0.8, 0.4)]) == []


class Database:
    """As much of a ctkDICOMDatabase as is asked."""

    def __init__(self, files: list[Path]):
        self.files = [str(file) for file in files]

    def patients(self):
        return ["1"]

    def nameForPatient(self, patient):
        return "DOE^JANE"

    def studiesForPatient(self, patient):
        return ["2"]

    def descriptionForStudy(self, study):
        return "Heart"

    def seriesForStudy(self, study):
        import pydicom

        return [str(pydicom.dcmread(self.files[0]).SeriesInstanceUID)]

    def descriptionForSeries(self, series):
        return "CT"

    def fieldForSeries(self, field, series):
        return "CT"

    def filesForSeries(self, series):
        return self.files

    slicers = getattr(slicer, "dicomDatabase", None)  # Slicer's own database needs more than the module uses

    def __getattr__(self, name):
        return getattr(self.slicers, name)


def test_a_dicom_series_comes_in_without_a_word_about_the_patient(window, shared_engine, tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    folder = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "98892001" / "CT5N"
    monkeypatch.setattr(slicer, "dicomDatabase", Database(sorted(folder.iterdir())), raising=False)
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui = panel.ui
    panel.casesPanel.askSeries()
    assert ui.seriesTree.topLevelItem(0).text(0) == "DOE JANE"
    assert not ui.addSeriesButton.enabled
    ui.seriesTree.topLevelItem(0).setSelected(True)  # the patient stands for all series
    window.click(ui.addSeriesButton)
    window.wait_until(lambda: len(panel.dataset.cases) == 2, 60, "the case")
    assert panel.dataset.case("case-002")["shape"] == [5, 16, 16]
    written = (tmp_path / "Atria" / "cases" / "case-002" / "case.json").read_text()
    assert "DOE" not in written.upper() and "98892001" not in written


def test_files_are_imported_with_their_masks_and_failures_are_reported(window, shared_engine, tmp_path):
    from mper.io import write_volume
    from mper.volume import Geometry, Volume

    dataset_on_disk(tmp_path / "root", labelled=1)
    case = tmp_path / "challenge" / "CASE1"
    case.mkdir(parents=True)
    image, mask = blob(7)
    grid = Geometry(AFFINE, SHAPE)
    write_volume(case / "lgemri.nrrd", Volume(image, grid))
    write_volume(case / "laendo.nrrd", Volume(255 * mask, grid))
    (tmp_path / "bad.nrrd").write_bytes(b"no scan")
    panel = opened(window, tmp_path / "root")
    panel.casesPanel.caseImport.addSources([(str(tmp_path / "bad.nrrd"), None), (str(tmp_path / "challenge"), None)])
    window.wait_until(lambda: panel.ui.previewBox.visible, 60, "the preview")
    window.click(panel.ui.addPreviewButton)
    window.wait_until(lambda: not panel.casesPanel.caseImport.busy, 60, "the scans")
    window.wait_until(lambda: len(panel.dataset.cases) == 2, 20, "the case")
    added = panel.dataset.case("CASE1")
    assert (added["labelled"], added["how"]) == (True, "imported")
    assert "bad" in panel.ui.messageLabel.text


def test_a_preview_shows_scans_and_masks_and_asks_what_their_values_mean(window, shared_engine, tmp_path):
    """A mask of 0 and 7, an empty one, one that lies elsewhere, and a scan that is not wanted."""
    from mper.io import write_volume
    from mper.volume import Geometry, Volume

    path = dataset_on_disk(tmp_path, labelled=1)
    grid = Geometry(AFFINE, SHAPE)
    elsewhere = AFFINE.copy()
    elsewhere[0, 3] += 500
    (tmp_path / "new").mkdir()
    for n, (name, mask, where) in enumerate(
        (("a", 7 * blob(10)[1], AFFINE), ("b", 0 * blob(11)[1], AFFINE), ("c", 7 * blob(12)[1], elsewhere)), start=10
    ):
        write_volume(tmp_path / "new" / f"{name}.nrrd", Volume(blob(n)[0], grid))
        write_volume(tmp_path / "new" / f"{name}_seg.nrrd", Volume(mask.astype(np.uint8), Geometry(where, SHAPE)))
    write_volume(tmp_path / "new" / "d.nrrd", Volume(blob(13)[0], grid))
    panel = opened(window, tmp_path)
    ui, adding = panel.ui, panel.casesPanel.caseImport
    adding.addSources([(str(tmp_path / "new"), None)])
    window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
    items = [ui.previewTree.topLevelItem(n) for n in range(4)]
    assert [item.text(0) for item in items] == ["a", "b", "c", "d"]
    assert [item.text(2) for item in items] == ["Value 7", "empty", "not in the scan", "none"]
    assert items[0].text(1) == "18 x 24 x 22, 2 x 2 x 2 mm"
    assert "outside of the scan" in items[2].text(3)
    counts, left_out = ui.previewLabel.text.split("\n")
    assert counts == "4 scans, 3 with a mask. Choose what is added."
    assert left_out == "1 of 4 scans have no mask: d."
    assert ui.mappingBox.sizeHint.width() < 300  # no label of a structure widens the panel
    (box,) = adding._preview._boxes.values()
    assert box.currentText == "Choose a structure" and not ui.addPreviewButton.enabled
    window.screenshot("trainer-import")
    choose(box, "1")
    items[3].setCheckState(0, qt.Qt.Unchecked)
    window.click(ui.addPreviewButton)
    window.wait_until(lambda: not adding.busy, 60, "the scans")
    window.wait_until(lambda: len(panel.dataset.cases) == 4, 20, "the cases")
    labelled = {case["id"]: case["labelled"] for case in panel.dataset.cases}
    assert labelled == {"a": True, "b": False, "c": False, "case-001": True}
    from mper.datasets.dataset import Dataset

    assert (Dataset.open(path).case("a").label().array == blob(10)[1]).all()
    assert not ui.previewBox.visible
    adding.addSources([(str(tmp_path / "new"), None)])
    window.wait_until(lambda: ui.previewBox.visible, 60, "the preview")
    window.click(ui.cancelPreviewButton)
    assert not adding.busy and len(panel.dataset.cases) == 4


def test_chosen_phases_of_a_time_series_become_cases(window, shared_engine, tmp_path):
    import SimpleITK as sitk

    dataset_on_disk(tmp_path / "root", labelled=1)
    frames = [n + np.arange(12 * 14 * 16, dtype=np.int16).reshape(12, 14, 16) for n in (100, 200, 300)]
    cine = sitk.JoinSeries([sitk.GetImageFromArray(frame) for frame in frames])
    sitk.WriteImage(cine, str(tmp_path / "cine.nii.gz"))
    panel = opened(window, tmp_path / "root")
    ui = panel.ui
    assert not ui.phasesBox.visible
    panel.casesPanel.caseImport.addSources([(str(tmp_path / "cine.nii.gz"), None)])
    window.wait_until(lambda: ui.phasesBox.visible, 60, "the phases")
    assert ui.phasesLabel.text.startswith("cine is a time series of 3 phases.")
    assert not ui.addPhasesButton.enabled
    for number in (0, 2):
        ui.phasesTree.topLevelItem(number).setSelected(True)
    window.click(ui.addPhasesButton)
    window.wait_until(lambda: not panel.casesPanel.caseImport.busy, 60, "the scans")
    window.wait_until(lambda: len(panel.dataset.cases) == 3, 20, "the cases")
    assert {case["id"] for case in panel.dataset.cases} >= {"cine-phase-1", "cine-phase-3"}
    assert not ui.phasesBox.visible


@pytest.mark.parametrize("loaded", [False, True], ids=["file", "loaded volume"])
def test_ed_and_es_of_a_time_series_are_found_by_the_left_ventricle(window, shared_engine, tmp_path, loaded):
    import SimpleITK as sitk
    from test_phases import Engine, cine

    dataset_on_disk(tmp_path / "root", labelled=1)
    panel = opened(window, tmp_path / "root")
    ui, session = panel.ui, panel.session
    adding = panel.casesPanel.caseImport
    session.models[0]["labels"] = [{**session.models[0]["labels"][0], "name": "LV", "type": None}]
    real = {name: getattr(session, name) for name in ("postArray", "job", "getArray", "delete")}
    engine = Engine(panel)
    engine.labels = session.models[0]["labels"]
    if loaded:
        order = [1, 2, 3]  # voxels of the left ventricle, by phase
        browser, proxy = cine()
        browser.SetSelectedItemNumber(0)
        adding.addVolumes([proxy])
    else:
        order = [2, 3, 1]
        frames = [np.arange(n - 2687, n + 1, dtype=np.int16).reshape(12, 14, 16) for n in order]
        sitk.WriteImage(sitk.JoinSeries(list(map(sitk.GetImageFromArray, frames))), str(tmp_path / "cine.nii.gz"))
        adding.addSources([(str(tmp_path / "cine.nii.gz"), None)])
    window.wait_until(lambda: ui.phasesBox.visible, 60, "the phases")
    window.click(ui.findPhasesButton)
    window.wait_until(lambda: "ED is phase" in ui.phasesLabel.text, 60, "ED and ES")
    ed, es = order.index(3) + 1, order.index(1) + 1
    assert ui.phasesLabel.text.startswith(f"ED is phase {ed} and ES is phase {es} of 3, by the left ventricle")
    assert engine.sent == order
    assert [ui.phasesTree.topLevelItem(n).isSelected() for n in range(3)] == [n in (1, 3) for n in order]
    for name, function in real.items():
        setattr(session, name, function)
    window.click(ui.addPhasesButton)
    window.wait_until(lambda: len(panel.dataset.cases) == 3, 60, "the cases")
    assert {case["id"] for case in panel.dataset.cases} >= {f"cine-phase-{ed}", f"cine-phase-{es}"}


def test_image_types_of_a_series_are_listed_and_the_chosen_ones_become_cases(window, shared_engine, tmp_path):
    from small_series import stack, write_classic

    dataset_on_disk(tmp_path / "root", labelled=1)
    panel = opened(window, tmp_path / "root")
    ui, volume, series = panel.ui, stack((5, 16, 16)), None
    for n, name in enumerate(("M", "P", "R")):

        def of_type(_k, image, name=name):
            image.ImageType = ["ORIGINAL", "PRIMARY", name]

        voxels = volume.with_array(volume.array + np.int16(n))  # else they would be one scan
        series = write_classic(tmp_path / "dicom", voxels, of_type, series, prefix=name)
    panel.casesPanel.caseImport.addSources([(str(tmp_path / "dicom"), series)])
    window.wait_until(lambda: ui.phasesBox.visible, 60, "the image types")
    assert "holds images of 3 types" in ui.phasesLabel.text
    assert not ui.findPhasesButton.visible
    texts = [ui.phasesTree.topLevelItem(n).text(0) for n in range(3)]
    assert sorted(texts) == ["M (5 images)", "P (5 images)", "R (5 images)"]
    for name in "MR":
        ui.phasesTree.topLevelItem(texts.index(f"{name} (5 images)")).setSelected(True)
    window.screenshot("image types")
    window.click(ui.addPhasesButton)
    window.wait_until(lambda: len(panel.dataset.cases) == 3, 60, "the cases")
    assert not ui.phasesBox.visible
    types = {case["source"].get("image_type") for case in panel.dataset.cases}
    assert types >= {"M", "R"} and "P" not in types


def test_chosen_phases_of_a_loaded_time_series_become_cases(window, shared_engine, tmp_path):
    from test_phases import cine

    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui = panel.ui
    browser, proxy = cine()
    browser.SetSelectedItemNumber(0)
    sent = []
    post = panel.session.postArray
    panel.session.postArray = lambda path, array, *rest: sent.append(int(array.max())) or post(path, array, *rest)
    panel.casesPanel.caseImport.addVolumes([proxy])
    window.wait_until(lambda: ui.phasesBox.visible, 5, "the phases")
    assert ui.phasesTree.topLevelItem(1).text(0) == "phase 2 of 3 (50 ms)"
    for number in (1, 2):
        ui.phasesTree.topLevelItem(number).setSelected(True)
    window.click(ui.addPhasesButton)
    window.wait_until(lambda: not panel.casesPanel.caseImport.busy, 60, "the scans")
    assert sent == [2, 3]
    window.wait_until(lambda: len(panel.dataset.cases) == 3, 20, "the cases")
    assert {case["id"] for case in panel.dataset.cases} >= {"cine-phase-2", "cine-phase-3"}
    assert mrml.case_of(proxy) == ("", "")  # it shows other phases too, which can be added


def test_closing_the_scene_or_the_engine_in_mid_job_does_no_harm(window, tmp_path):
    dataset_on_disk(tmp_path, labelled=2, unlabelled=2, holdout=1)
    panel = opened(window, tmp_path)
    ui = panel.ui
    ui.casesTable.cellDoubleClicked(0, 1)
    slicer.mrmlScene.Clear(0)  # while the case is on its way
    window.events()
    assert panel.labelPanel.case is None
    window.wait_until(lambda: ui.casesTable.rowCount, 20, "the cases")
    ui.casesTable.cellDoubleClicked(0, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    slicer.mrmlScene.RemoveNode(panel.labelPanel.segmentation)
    window.click(ui.saveLabelButton)
    assert "not in the scene any more" in ui.messageLabel.text
    slicer.mrmlScene.Clear(0)
    assert not ui.editorBox.visible
    assert panel.context.parameters.Dataset == panel.dataset.id  # the dataset stays open

    ui.nextSection.collapsed = False
    window.events()
    window.click(ui.rankButton)
    window.wait_until(lambda: panel.nextCasePanel._job._job and panel.nextCasePanel._job._job.id, 20, "the job")
    panel.session.engine._process._process._kill()
    window.wait_until(lambda: panel.session.engine.state == "failed", 20, "the engine's end")
    assert not panel.nextCasePanel._job.running
    window.click(ui.engineButton)
    window.wait_until(lambda: panel.session.ready, ENGINE_S, "the engine")
    window.click(ui.rankButton)
    window.wait_until(lambda: panel.nextCasePanel.table.keys, 60, "the ranking")


def test_a_hold_out_is_locked_of_labelled_cases_alone(window, shared_engine, tmp_path):
    dataset_on_disk(tmp_path, labelled=2, unlabelled=1)
    panel = opened(window, tmp_path)
    panel.casesPanel.table.select("case-003")
    window.events()
    assert not panel.ui.lockButton.enabled
    panel.casesPanel.table.select("case-002")
    window.events()
    window.click(panel.ui.lockButton)
    window.wait_until(lambda: "locked" in panel.ui.holdoutLabel.text, 20, "the hold-out")
    window.wait_until(lambda: "1 labelled and 1 unlabelled cases" in panel.ui.countsLabel.text, 20, "the new counts")


def test_the_views_lie_as_the_slices_of_an_oblique_scan(window):
    from MPERTrainerLib.case_nodes import CaseNodes

    cos, sin = np.cos(0.4), np.sin(0.4)
    turned = np.array([[cos, 0, sin, 0], [0, 1, 0, 0], [-sin, 0, cos, 0], [0, 0, 0, 1]]) @ AFFINE
    CaseNodes(None, None).show(mrml.show_scan(blob(1)[0], turned, "oblique", slicer.mrmlScene))
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    normal = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())[:3, 2]
    along_k = turned[:3, 0] / np.linalg.norm(turned[:3, 0]) * (-1, -1, 1)
    assert abs(normal @ along_k) > 0.999


def test_a_partial_label_is_saved_described_and_trained_on(window, shared_engine, tmp_path):
    from mper.datasets.dataset import Dataset
    from mper.strokes import Stroke, StrokeList

    path = dataset_on_disk(tmp_path, labelled=1, unlabelled=3)
    dataset = Dataset.open(path)
    stroke = Stroke(1, (tuple(dataset.case("case-003").geometry.to_world(np.array([[9, 12, 11]]))[0]),), 4.0)
    away = Stroke(0, (tuple(dataset.case("case-003").geometry.to_world(np.array([[1, 1, 1]]))[0]),), 4.0)
    dataset.case("case-003").add_painted(StrokeList((stroke, away)), author="reader")
    panel = opened(window, tmp_path)
    ui = panel.ui

    # some slices are drawn
    ui.casesTable.cellDoubleClicked(1, 1)
    window.wait_until(
        lambda: panel.labelPanel.case == "case-002" and panel.labelPanel.segmentation is not None, 20, "case 2"
    )
    assert not ui.slicesCheckBox.checked
    mask = blob(1)[1]
    some = np.zeros_like(mask)
    some[[8, 11]] = mask[[8, 11]]
    draw(panel, some)
    window.click(ui.slicesCheckBox)
    window.click(ui.saveLabelButton)
    window.wait_until(lambda: ui.casesTable.item(1, 2).text() == "1, partial", 20, "the first label")
    wanted = np.full(SHAPE, 255, np.uint8)
    wanted[[8, 11]] = mask[[8, 11]]
    assert np.array_equal(dataset.case("case-002").label().array, wanted)

    # one more, in a label of slices that is opened again
    window.click(ui.closeCaseButton)
    ui.casesTable.cellDoubleClicked(1, 1)
    window.wait_until(
        lambda: panel.labelPanel.case == "case-002" and panel.labelPanel.segmentation is not None, 20, "again"
    )
    window.wait_until(lambda: ui.slicesCheckBox.checked, 20, "what it is")
    again = wanted.copy()
    again[9][mask[9] == 1] = 1
    draw(panel, again)
    window.click(ui.saveLabelButton)
    window.wait_until(lambda: ui.casesTable.item(1, 2).text() == "2, partial", 20, "the label")
    wanted[9] = mask[9]
    assert np.array_equal(dataset.case("case-002").label().array, wanted)

    # strokes do not count as slices, and are mentioned
    assert ui.casesTable.item(2, 2).text() == "1, partial"
    assert "The strokes of the label are saved with it." in ui.casesTable.item(2, 1).toolTip()
    ui.casesTable.cellDoubleClicked(2, 1)
    window.wait_until(
        lambda: panel.labelPanel.case == "case-003" and panel.labelPanel.segmentation is not None, 20, "case 3"
    )
    assert not ui.slicesCheckBox.checked
    window.click(ui.closeCaseButton)

    # and all of it is learnt from
    train_small(window, panel, 3)
    assert "3 labelled (2 of them partially) and 1 unlabelled cases" in ui.countsLabel.text
    window.screenshot("trainer-partly")
    window.wait_until(lambda: panel.runsPanel.status.get("state") == "finished", 3 * ENGINE_S, "the training")
    (model,) = (path / "models").iterdir()
    card = json.loads((model / "1" / "card.json").read_text())
    assert (card["about"]["training"]["labelled_cases"], card["about"]["training"]["partly_labelled_cases"]) == (3, 2)


def test_a_chart_follows_its_lines_and_survives_a_closed_scene(window):
    from MPERTrainerLib.chart import Chart

    chart = Chart("Loss", "MPERTestChart")
    chart.show({})
    assert not chart.widget.visible
    chart.show({"total": [(0, 1.5)], "labels": []})
    assert chart.values() == {"total": [(0, 1.5)]}
    (table,) = [series.GetTableNode() for series in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")]
    assert table.GetTable().GetNumberOfRows() == 2  # VTK warns of a line of one point
    lines = {"total": [(0, 1.5), (5, 1.0)], "labels": [(0, 0.5), (5, 0.25)]}
    chart.show(lines)
    assert chart.values() == lines
    long = {"labels": [(n, 1 / (n + 1)) for n in range(10_001)]}
    chart.show(long)
    points = chart.values()["labels"]
    assert list(chart.values()) == ["labels"] and len(points) <= 401
    assert points[0] == long["labels"][0] and points[-1] == long["labels"][-1]
    slicer.mrmlScene.Clear(0)
    assert chart.values() == {}
    chart.show(lines)
    assert chart.values() == lines
    chart.close()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 0
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0


def test_a_region_is_stored_with_its_case_shown_again_and_used_by_drafts(window, shared_engine, tmp_path):
    dataset = dataset_on_disk(tmp_path, 1, 1)
    panel = opened(window, tmp_path)
    ui = panel.ui

    def openCase(n: int) -> None:
        ui.casesTable.cellDoubleClicked(n, 1)
        case = panel.casesPanel.table.keys[n]
        window.wait_until(lambda: panel.labelPanel.case == case and panel.labelPanel.segmentation, 20, "the case")

    def stored() -> dict:
        from mper.datasets.dataset import Dataset

        return dict(Dataset.open(dataset).regions)

    def boxes() -> list[str]:
        return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")]

    openCase(0)
    assert ui.caseRegionSelector.currentNode() is None and not boxes()
    window.click(ui.drawRegionButton)
    roi = ui.caseRegionSelector.currentNode()
    roi.SetCenter(0, 2, 20)  # RAS
    roi.SetSize(30, 36, 24)
    slicer.app.applicationLogic().GetInteractionNode().SwitchToViewTransformMode()  # as after the second click
    window.wait_until(lambda: "region is stored" in ui.messageLabel.text, 10, "the region")
    assert stored() == {"case-001": (-15, 15, -20, 16, 8, 32)}
    openCase(1)
    assert ui.caseRegionSelector.currentNode() is None and not boxes()  # each case has its own
    openCase(0)
    roi = ui.caseRegionSelector.currentNode()
    assert mrml.roi_mm(roi, panel.labelPanel.volume) == pytest.approx([-15, 15, -20, 16, 8, 32])
    asked = []
    panel.labelPanel._drafts.start = lambda *arguments: asked.append(arguments)
    window.click(ui.draftButton)
    assert asked[0][2] == pytest.approx([-15, 15, -20, 16, 8, 32])

    roi.SetSize(30, 36, 20)  # dragged; stored though the user goes on at once
    openCase(1)
    window.wait_until(lambda: stored()["case-001"] == (-15, 15, -20, 16, 10, 30), 10, "the dragged region")
    openCase(0)
    slicer.mrmlScene.RemoveNode(ui.caseRegionSelector.currentNode())  # in another module: it is no choice
    window.wait_until(boxes, 10, "the box again")
    ui.caseRegionSelector.currentNode().SetCenter(500, 2, 20)
    window.wait_until(lambda: "lies outside the scan" in ui.messageLabel.text, 10, "the refusal")
    assert stored()["case-001"] == (-15, 15, -20, 16, 10, 30)
    ui.caseRegionSelector.currentNode().SetSize(4, 36, 20)
    ui.caseRegionSelector.currentNode().SetCenter(0, 2, 20)
    window.wait_until(lambda: "The region is not stored: " in ui.messageLabel.text, 10, "the engine's refusal")
    ui.caseRegionSelector.setCurrentNode(None)
    window.wait_until(lambda: "whole scan of case-001 is used again" in ui.messageLabel.text, 10, "the whole scan")
    assert not stored() and not boxes()


def test_a_dataset_of_many_cases_is_read_page_by_page_as_it_is_scrolled_searched_and_gone_through(
    window, shared_engine, tmp_path, monkeypatch
):
    """The engine's answers are made up: 10,000 cases, of which the first has the files of a small dataset."""
    dataset_on_disk(tmp_path, labelled=1)
    panel = opened(window, tmp_path)
    ui, dataset, real = panel.ui, panel.dataset, panel.dataset.case("case-001")
    many = [{**real, "id": f"case-{n:05d}", "labelled": n % 2 == 0} for n in range(10_000)]
    asked, pictures = [], []

    def get(path, done, failed=None):
        route, _mark, query = path.partition("?")
        asked.append(path)
        if route == dataset.route(of=dataset.id):
            answer = {**about, "cases": len(many), "labelled": 5000, "trainable": 5000}
        elif route.endswith("/cases"):
            entry = dict(pair.split("=") for pair in query.split("&")) if query else {}
            found = [case for case in many if entry.get("contains", "") in case["id"]]
            first, count = int(entry.get("first", 0)), int(entry.get("count", len(many)))
            answer = found[first : first + count]
        elif route.endswith("/labels"):
            answer = []
        else:
            answer = many[int(route.rpartition("-")[2])]
        panel.session.later(lambda: done(answer), "answer")

    about = dataset.about
    panel.session.get = get  # monkeypatch would keep the panel alive
    panel.session.getBytes = lambda path, *_: pictures.append(path)
    panel.session.refreshModels = lambda done: done()
    panel.labelPanel.open = lambda case: setattr(panel.labelPanel, "case", case)
    dataset.refresh()
    window.wait_until(lambda: ui.casesTable.rowCount == 100, 20, "the first page")
    assert [path.partition("?")[2] for path in asked if "/cases?" in path] == ["first=0&count=100"]
    assert len(pictures) < 50  # of the rows in view
    assert "100 of 10000 cases are listed" in ui.casesShownLabel.text
    assert "5000 of 10000 labelled" in ui.datasetSelector.currentText
    panel.casesPanel.table.select("case-00003")

    bar = ui.casesTable.verticalScrollBar()
    bar.setValue(bar.maximum)
    window.wait_until(lambda: ui.casesTable.rowCount == 200, 20, "the second page")
    assert panel.casesPanel.table.selected() == "case-00003"
    panel.labelPanel.case = "case-00199"
    panel.navigation.show()
    assert ui.nextCaseButton.enabled
    window.click(ui.nextCaseButton)
    window.wait_until(lambda: panel.labelPanel.case == "case-00200", 20, "the first case of the next page")
    dataset.refresh()  # as after saving: the pages that are there, and no more
    window.wait_until(lambda: asked[-1].endswith("first=0&count=300"), 20, "the pages again")
    window.wait_until(lambda: ui.casesTable.rowCount == 300, 20, "the rows")
    assert panel.casesPanel.table.selected() == "case-00003"

    ui.caseSearchEdit.text = "case-0999"
    window.wait_until(lambda: ui.casesTable.rowCount == 10, 20, "the cases that are searched for")
    assert rows(ui.casesTable, 1)[-1] == "case-09999" and not ui.casesShownLabel.visible
    panel.labelPanel.case = "case-09999"
    panel.navigation.show()
    assert not ui.nextCaseButton.enabled and ui.previousCaseButton.enabled
    ui.caseSearchEdit.text = ""
    window.wait_until(lambda: ui.casesTable.rowCount == 100, 20, "all cases again")
    took = []
    dataset.withCase("case-07000", lambda: took.append(dataset.case("case-07000")["id"]))
    window.wait_until(lambda: took == ["case-07000"], 20, "a case of no page that was read")
    dataset.refresh()
    dataset.more(lambda: took.append(len(dataset.cases)))  # as Save and next at the end of a page
    window.wait_until(lambda: took[1:] == [200], 20, "the next page, though all were read again meanwhile")
    questions = []
    monkeypatch.setattr("MPERTrainerLib.cases_panel.agreed", lambda text, _title: questions.append(text))
    panel.casesPanel.table.select("case-00002")
    window.click(ui.lockButton)
    window.wait_until(lambda: questions, 20, "the question")
    assert "The same scans, so locked with them: case-00000, case-00001" in questions[0]  # all of them are one scan
    dataset.more()
    dataset.withCase("case-08000", lambda: took.append("late"))
    dataset.open(None)
    window.wait_until(lambda: took[-1] == "late", 20, "answers about a dataset that was closed meanwhile")
    assert dataset.cases == [] and dataset.case("case-08000") is None and ui.casesTable.rowCount == 0
