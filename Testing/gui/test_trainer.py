"""MPERTrainer in a window: from scans to a promoted version, and what happens when something goes away meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
from MPERLib import mrml, places, trace

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
    from mper.dataset import Dataset
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


def opened(desk, folder: Path | None = None):
    """The panel with a ready engine, and the datasets of a folder."""
    if folder is not None:
        places.addRoot(folder)
    widget = desk.open("MPERTrainer")
    desk.wait_until(lambda: widget.session.ready, ENGINE_S, "the engine")
    if folder is not None:
        desk.wait_until(lambda: widget.session.cases, 20, "the cases")
    return widget


def draw(widget, mask: np.ndarray) -> None:
    """What a person does with the brush: change the segment's voxels."""
    node = widget.editing.segmentation
    mrml.replace_mask(node, mask, (0, 0, 0), widget.session.dataset["labels"], widget.editing.volume)


def choose(selector, value: str) -> None:
    index = selector.findData(value)
    assert index >= 0, f"{value} is not to be chosen"
    selector.currentIndex = index


def train_small(desk, widget, steps: int) -> None:
    ui = widget.ui
    choose(ui.startSelector, "")
    choose(ui.methodSelector, "supervised")
    ui.stepsSpin.value = steps
    ui.patchEdit.text = SMALL_PATCH
    widget.train._touch("patch")  # textEdited comes from the keyboard alone
    desk.wait_until(lambda: "steps" in widget.train._plan and widget.train._plan["steps"] == steps, 20, "the plan")
    desk.wait_until(lambda: ui.startButton.enabled, 20, "the start button")
    desk.click(ui.startButton)
    desk.wait_until(lambda: widget.runs.status, 20, "the run")


def test_from_loaded_scans_to_a_promoted_version(desk, tmp_path):
    widget = opened(desk)
    ui = widget.ui

    # a dataset is made
    desk.click(ui.newDatasetButton)
    dialog = slicer.util.childWidgetVariables(widget.datasets.dialog)
    assert "82471001" in dialog.meaningLabel.text
    dialog.nameEdit.text = "Atria"
    dialog.folderEdit.text = str(tmp_path / "data sets")
    desk.click(dialog.createButton)
    desk.wait_until(lambda: widget.session.dataset, 20, "the dataset")
    assert json.loads((tmp_path / "data sets" / "Atria" / "dataset.json").read_text())["labels"][0]["name"] == "LA"

    # scans that are loaded become cases
    scans = [volume(n) for n in range(5)]
    widget.cases.adder.addVolumes(scans)
    desk.wait_until(lambda: len(widget.session.cases) == 5, 20, "the cases")
    assert ui.casesTable.rowCount == 5
    assert ui.startButton.enabled is False  # nothing is labelled yet

    # each but the last is labelled
    for n in range(4):
        ui.casesTable.cellDoubleClicked(n, 1)
        desk.wait_until(lambda: widget.editing.segmentation is not None and widget.editing.case == f"scan {n}", 20)
        assert widget.editing.volume is scans[n]  # it was in the scene already
        draw(widget, blob(n)[1])
        desk.click(ui.saveLabelButton)
        desk.wait_until(lambda: widget.session.case(f"scan {n}")["labelled"], 20, "the label")
    assert widget.session.case("scan 0")["how"] == "hand"

    # two of them are held out, for good
    widget.cases.table.select("scan 2")
    widget.cases.table._select(3)
    assert widget.cases.table.allSelected() == ["scan 2", "scan 3"]
    desk.click(ui.lockButton)
    desk.wait_until(lambda: widget.session.dataset["holdout"], 20, "the hold-out")
    assert not ui.lockButton.visible
    assert widget.session.case("scan 3")["split"] == widget.session.dataset["holdout"]

    # a small training
    train_small(desk, widget, 6)
    desk.wait_until(lambda: widget.runs.status.get("state") == "finished", 90, "the training")
    desk.wait_until(lambda: widget.session.versions(), 20, "the version")
    desk.wait_until(lambda: widget.runs.lossChart.values() and widget.runs.diceChart.values(), 20, "the curves")
    config = next((tmp_path / "data sets" / "Atria" / "runs").glob("*/cases.json"))
    assert json.loads(config.read_text())["trained_on"] == ["scan 0", "scan 1"]

    # beside the bundled model on the hold-out
    desk.wait_until(lambda: ui.compareButton.enabled, 20)
    assert ui.oldSelector.itemData(ui.oldSelector.currentIndex) == "la"
    desk.click(ui.compareButton)
    desk.wait_until(lambda: ui.compareTable.rowCount == 2 and not widget.compare.job.running, 90, "the comparison")
    assert "2 held-out cases" in ui.compareWords.text
    widget.compare.table.select(widget.compare.table.keys[0])
    shown = desk.wait_until(lambda: [n for n in segmentations() if "before" in n or "after" in n], 20, "the masks")
    desk.wait_until(lambda: len([n for n in segmentations() if "before" in n or "after" in n]) == 2, 20, shown)
    desk.screenshot("trainer-compare")

    # promoted, and back
    desk.click(ui.useButton)
    own = f"{widget.session.dataset['id']}/la"
    desk.wait_until(lambda: qt.QSettings().value("MPER/CurrentModel") == own, 20, "the promotion")
    desk.wait_until(lambda: ui.backButton.visible, 20)
    desk.click(ui.backButton)
    desk.wait_until(lambda: qt.QSettings().value("MPER/CurrentModel") == "la", 20, "the way back")

    # what to label next
    ui.nextSection.collapsed = False
    desk.events()
    desk.click(ui.rankButton)
    desk.wait_until(lambda: widget.nextCase.table.keys == ["scan 4"], 60, "the ranking")
    desk.click(ui.skipButton)
    assert "skipped" in ui.nextTable.item(0, 1).text()
    desk.click(ui.unskipButton)
    assert "skipped" not in ui.nextTable.item(0, 1).text()
    desk.click(ui.labelNextButton)
    desk.wait_until(lambda: widget.editing.case == "scan 4" and widget.editing.segmentation is not None, 20)
    late = [record for record in trace.records() if record.seconds > trace.TOO_LONG_S]
    print(trace.report())
    assert not late, late


def segmentations() -> list[str]:
    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
