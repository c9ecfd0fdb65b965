"""Where the host is stricter than Slicer, which would go on in silence, and what only a host has."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import qt
import shiboken6
import slicer
from host import pythonqt
from PySide6 import QtWidgets


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_property_takes_only_its_type(value: object) -> None:
    with pytest.raises(AttributeError, match="Property 'text' of type 'QString' does not accept"):
        qt.QLabel().text = value


def test_a_float_is_no_int() -> None:
    with pytest.raises(AttributeError, match="Property 'value' of type 'int'"):
        qt.QSpinBox().value = 2.5


def test_a_function_is_no_argument() -> None:
    with pytest.raises(ValueError, match="callable"):
        qt.QMenu().addAction("a", print)


def test_none_and_numbers_are_no_texts() -> None:
    """PythonQt writes "None" and "3"; here that is an error."""
    for value in (None, 3, b"a"):
        with pytest.raises(ValueError, match="wrong arguments"):
            qt.QLabel().setText(value)


@pytest.mark.parametrize(
    "call", [lambda: qt.QNetworkRequest("http://a"), lambda: qt.QIcon(qt.QPixmap()).swap(qt.QPixmap())]
)
def test_nothing_is_converted_without_a_word(call) -> None:
    with pytest.raises(ValueError, match="wrong arguments"):
        call()


def test_what_only_one_version_of_qt_has_is_missing() -> None:
    with pytest.raises(AttributeError):
        qt.QVBoxLayout().contentsMargins.left()
    with pytest.raises(AttributeError):
        qt.QProcess().startCommand  # noqa: B018


def test_dialogs_return_the_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = staticmethod(lambda *_: ("a.nrrd", "All files (*)"))
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", chosen)
    assert qt.QFileDialog.getOpenFileName(None, "Open") == "a.nrrd"


@pytest.mark.parametrize("name", ["Signal", "Slot", "Property", "QNothing"])
def test_what_pythonqt_lacks_is_missing(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(qt, name)


def test_an_unknown_signal_is_refused() -> None:
    """Slicer prints a line and returns False; here that is an error."""
    with pytest.raises(ValueError, match="does not exist on QPushButton"):
        qt.QPushButton().connect("pushed()", print)


def test_an_exception_in_a_callback_is_kept_for_the_test(window, capsys: pytest.CaptureFixture) -> None:
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert [type(error) for error in window.errors()] == [ZeroDivisionError]
    assert "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="left a callback"):
        window.wait_until(lambda: False, 5)
    window.forgive()


def test_a_chart_brings_its_layout_and_its_view(window) -> None:
    """The layout logic is Slicer's own: vtkMRMLLayoutLogic and vtkSlicerPlotsLogic."""
    manager = slicer.app.layoutManager()
    assert (manager.layout, manager.plotViewCount, manager.plotWidget(0)) == (3, 0, None)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    assert (manager.layout, manager.plotViewCount) == (37, 1)
    assert manager.plotWidget(0).mrmlPlotViewNode().GetPlotChartNode() is chart
    manager.setLayout(3)
    assert manager.plotViewCount == 0


def test_a_ui_file_with_an_unknown_widget_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "panel.ui"
    path.write_text('<ui version="4.0"><widget class="ctkNothing" name="a"/></ui>', encoding="utf-8")
    with pytest.raises(ValueError, match="ctkNothing"):
        slicer.util.loadUI(str(path))


def test_slices_show_the_scan_and_its_segmentation(window) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    scan = np.zeros((10, 20, 30), np.float32)
    scan[2:8, 5:15, 5:25] = 100
    slicer.util.updateVolumeFromArray(node, scan)
    node.CreateDefaultDisplayNodes()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mask")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(node)
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    labels.CopyOrientation(node)
    slicer.util.updateVolumeFromArray(labels, (scan > 50).astype(np.uint8))
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    slicer.mrmlScene.RemoveNode(labels)
    segmentation.GetSegmentation().GetNthSegment(0).SetColor(1, 0, 0)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    window.screenshot("host")
    picture = window._host.application._layout_manager._slices["Red"]._picture()
    reddish = picture[..., 0].astype(int) - picture[..., 2] > 40
    assert 0.2 < reddish.mean() < 0.6


def test_leaks_of_a_module_are_found(window, tmp_path: Path) -> None:
    source = tmp_path / "Leaky.py"
    source.write_text(
        """
import slicer, vtk
from slicer.ScriptedLoadableModule import *
class Leaky(ScriptedLoadableModule):
    pass
class LeakyWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, self.onNode)
    def onNode(self, caller, event):
        pass
""",
        encoding="utf-8",
    )
    window._host.load(source)
    window._opened["Leaky"] = weakref.ref(window._host.show("Leaky"))
    window.shut("Leaky")
    assert window.survivors() == ["the panel of Leaky, held by an observer, or another reference in Python"]
    slicer.mrmlScene.RemoveObservers(slicer.mrmlScene.NodeAddedEvent)
    del sys.modules["Leaky"]


def test_a_connection_that_holds_an_object_is_named() -> None:
    class Listener:
        def hear(self) -> None:
            pass

    listener, button = Listener(), qt.QPushButton()
    button.name = "runButton"
    button.connect("clicked()", lambda: listener.hear())
    assert pythonqt.connections_to(listener) == ["QPushButton 'runButton' clicked()"]


def test_settings_are_a_test_users_own(window) -> None:
    qt.QSettings().setValue("MPER/Test", "1")
    assert slicer.app.userSettings().value("MPER/Test") == "1"
    assert Path(qt.QSettings().fileName()).is_relative_to(window._host.application._home)
    assert os.environ["MPER_PYTHON"] == sys.executable


def test_an_item_of_a_layout_is_forgotten_with_its_last_reference() -> None:
    """Else it would answer for a widget that is made where the item was."""
    panel, button = qt.QWidget(), qt.QPushButton()
    layout = qt.QVBoxLayout(panel)
    layout.addWidget(button)
    item = layout.itemAt(0)
    raw = item._host_raw
    assert layout.itemAt(0) is item and item.widget() is button
    del item
    assert not shiboken6.isValid(raw)
    assert layout.itemAt(0).widget() is button
