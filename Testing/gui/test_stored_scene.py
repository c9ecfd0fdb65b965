"""A scene that version 0.1 saved, before the parameters were wrapped, opens with its choices in both modules."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import slicer

STORED = Path(__file__).parent / "stored" / "scene-0.1.zip"


@pytest.fixture
def stored_scene(tmp_path, monkeypatch):
    """Loads the scene: a scan, another one, a region, a result of the left-atrium model, both parameter nodes."""
    monkeypatch.setattr("MPERLib.engine.Engine.start", lambda self: None)  # no engine is needed
    with zipfile.ZipFile(STORED) as archive:
        archive.extractall(tmp_path)

    def load():
        slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
        assert slicer.mrmlScene.Import()

    return load


def names(parameters):
    nodes = (parameters.scan(), parameters.region(), parameters.result())
    return [node.GetName() if node is not None else None for node in nodes]


@pytest.mark.parametrize("opened_first", [True, False], ids=["into an open module", "before the module is opened"])
def test_a_scene_of_version_0_1_opens_with_its_choices(window, stored_scene, opened_first):
    if not opened_first:
        stored_scene()
    panel = window.open("MPERSegment")
    if opened_first:
        stored_scene()
    window.events()
    parameters, ui = panel.context.parameters, panel.ui
    assert names(parameters) == ["scan", "Region of old", "small LA"]
    assert [ui.inputSelector.currentNode().GetName(), ui.roiSelector.currentNode().GetName()] == names(parameters)[:2]
    assert panel.resultPanel.node.GetName() == "small LA"
    assert (parameters.Model, parameters.Device, parameters.Target) == ("ventricles", "cpu", "update")
    assert (parameters.Overlay, parameters.Opacity, parameters.Uncertainty) == ("uncertainty", 25, 40)
    assert (ui.overlayBox.currentData, ui.opacitySlider.value, ui.thresholdSlider.value) == ("uncertainty", 25, 40)
    assert (parameters.Radius, ui.radiusSlider.value) == (11, 11)
    assert parameters.Threshold == 0  # it was not stored: the default
    assert parameters.Dataset == "root/atria"
    assert parameters.hiddenPrototypes() == set()  # the result in view has none

    trainer = window.open("MPERTrainer").context.parameters
    assert (trainer.Dataset, trainer.Case, trainer.Run) == ("root/atria", "case-002", "run-7")
    assert trainer.Skipped == '{"root/atria": ["case-003"]}'


def test_numbers_that_somebody_changed_by_hand_are_the_defaults(window, stored_scene, tmp_path):
    file = tmp_path / "scene.mrml"
    file.write_text(file.read_text(encoding="utf-8").replace("Opacity 25", "Opacity much"), encoding="utf-8")
    panel = window.open("MPERSegment")
    stored_scene()
    parameters = panel.context.parameters
    assert (parameters.Opacity, parameters.Uncertainty) == (60, 40)
