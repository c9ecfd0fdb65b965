"""What the modules rely on in PythonQt, CTK and MRML's widgets: true in the host and, by in_slicer.py, in Slicer."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import ctk
import numpy as np
import pytest
import qt
import slicer
from MPERLib.widgets import HeightRefresher

# ---- PythonQtInstanceWrapper_getattro and _setattro


def test_properties_are_attributes() -> None:
    button = qt.QPushButton("Segment")
    button.enabled = False
    assert (button.text, button.enabled, button.name) == ("Segment", False, "")
    with pytest.raises(TypeError, match="not callable"):
        button.text()


def test_an_object_of_qt_takes_no_new_attribute() -> None:
    with pytest.raises(AttributeError, match="creating new attributes on C\\+\\+ objects is not allowed"):
        qt.QLabel().remark = 1


def test_an_unknown_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError, match="QLabel has no attribute named 'remark'"):
        qt.QLabel().remark  # noqa: B018


def test_a_python_class_of_a_widget_keeps_its_attributes() -> None:
    class Panel(qt.QWidget):
        def __init__(self) -> None:
            qt.QWidget.__init__(self)
            self.remark = 1

    panel = Panel()
    panel.windowTitle = "Panel"
    assert (panel.remark, panel.windowTitle, panel.isVisible()) == (1, "Panel", False)


def test_a_slot_can_not_be_overwritten() -> None:
    with pytest.raises(AttributeError, match="can not be overwritten"):
        qt.QPushButton().click = print


def test_a_read_only_property_says_so() -> None:
    with pytest.raises(AttributeError, match="not writable"):
        qt.QLabel().sizeHint = qt.QSize(1, 1)


def test_children_are_found_by_name() -> None:
    panel = qt.QWidget()
    label = qt.QLabel("a", panel)
    label.objectName = "first"
    assert panel.first.text == "a"
    assert panel.findChild("QLabel", "first").text == "a"
    assert len(panel.findChildren(qt.QLabel)) == 1


def test_a_class_of_qt_is_no_subclass_of_its_base() -> None:
    """PythonQt's wrappers all derive from one class alone; only inherits() checks the bases of C++."""
    label = qt.QLabel()
    assert not isinstance(label, qt.QWidget)
    assert label.inherits("QWidget")
    assert label.className() == "QLabel"


def test_a_deleted_object_is_false_and_unusable() -> None:
    label = qt.QLabel("a")
    label.delete()
    assert not label
    with pytest.raises(ValueError, match="destroyed QLabel"):
        label.text  # noqa: B018
    with pytest.raises(ValueError, match="destroyed QLabel"):
        label.show()


def test_singleShot_is_no_property_of_a_timer() -> None:
    """PythonQt's lookForPropertyAndCache leaves it out, because QTimer.singleShot is a function."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    assert timer.isSingleShot()
    assert callable(timer.singleShot)


# ---- PythonQtSlotFunction_CallImpl and PythonQtConversion.cpp


def test_keywords_are_refused() -> None:
    with pytest.raises(ValueError, match="does not support kwargs"):
        qt.QLabel(text="a")
    with pytest.raises(ValueError, match="does not support kwargs"):
        qt.QVBoxLayout().addWidget(qt.QLabel(), stretch=1)


def test_wrong_arguments_are_a_ValueError() -> None:
    with pytest.raises(ValueError, match="wrong"):
        qt.QLabel().setText("a", "b")


def test_numpy_numbers_are_numbers() -> None:
    box = qt.QSpinBox()
    box.setValue(np.int64(3))
    assert box.value == 3
    box.value = np.int16(4)
    assert box.value == 4


def test_a_function_of_a_class_that_is_a_method_too_wants_an_instance() -> None:
    """PythonQt finds the method first: qt.QFile.exists("a") fails, qt.QFile("a").exists() works."""
    with pytest.raises(ValueError, match="requires QFile instance as first argument"):
        qt.QFile.exists("/nothing")
    assert not qt.QFile("/nothing").exists()


def test_an_empty_byte_array_is_false() -> None:
    assert not qt.QByteArray()
    assert qt.QByteArray(b"a") == b"a"
    assert (qt.QByteArray(b"a") + b"b").data() == b"ab"


def test_an_int_does_for_an_enum() -> None:
    label = qt.QLabel()
    label.setAlignment(2)
    assert label.alignment == qt.Qt.AlignRight
    label.alignment = qt.Qt.AlignRight | qt.Qt.AlignVCenter
    assert label.alignment == 0x82
    assert isinstance(qt.Qt.AlignRight, int)


def test_lists_come_back_as_tuples() -> None:
    model = qt.QStringListModel(["a", "b"])
    assert model.stringList() == ("a", "b")


def test_bytes_hide_behind_data() -> None:
    array = qt.QByteArray(b"\x00\xffab")
    assert array.data() == b"\x00\xffab"
    assert str(array) == repr(b"\x00\xffab")
    assert array.size() == 4


def test_a_text_does_for_a_byte_array() -> None:
    request = qt.QNetworkRequest(qt.QUrl("http://127.0.0.1"))
    request.setRawHeader("Accept", b"text/plain")
    assert request.rawHeader(b"Accept").data() == b"text/plain"


# ---- PythonQtSignalReceiver.cpp


def test_a_callback_takes_as_many_arguments_as_it_declares() -> None:
    heard: list[tuple] = []
    button = qt.QPushButton()
    button.checkable = True
    assert button.connect("toggled(bool)", lambda: heard.append(()))
    assert button.connect("toggled(bool)", lambda checked: heard.append((checked,)))
    assert button.connect("toggled(bool)", lambda *given: heard.append(given))
    button.click()
    assert heard == [(), (True,), (True,)]


def test_signals_can_be_attributes() -> None:
    heard: list[int] = []
    box = qt.QSpinBox()
    box.valueChanged.connect(heard.append)
    box.value = 3
    assert heard == [3]
    assert box.valueChanged.disconnect(heard.append)
    box.value = 4
    assert heard == [3]


def test_a_method_can_be_disconnected() -> None:
    class Counter:
        count = 0

        def more(self) -> None:
            self.count += 1

    counter, button = Counter(), qt.QPushButton()
    button.connect("clicked()", counter.more)
    button.click()
    assert button.disconnect("clicked()", counter.more)
    assert not button.disconnect("clicked()", counter.more)
    button.click()
    assert counter.count == 1


def test_a_connection_keeps_its_object_alive_as_long_as_the_sender() -> None:
    class Listener:
        def hear(self) -> None:
            pass

    listener, button = Listener(), qt.QPushButton()
    button.connect("clicked()", listener.hear)
    watched = weakref.ref(listener)
    del listener
    gc.collect()
    assert watched() is not None
    button.delete()
    gc.collect()
    assert watched() is None


def test_an_event_filter_in_python_is_asked(window) -> None:
    class Filter(qt.QObject):
        def __init__(self) -> None:
            qt.QObject.__init__(self)
            self.types: list[int] = []

        def eventFilter(self, target: object, event: object) -> bool:
            self.types.append(event.type())
            return False

    watcher, label = Filter(), qt.QLabel()
    label.installEventFilter(watcher)
    label.show()
    window.events()
    assert qt.QEvent.Show in watcher.types


def test_a_process_speaks_bytes(window) -> None:
    process = qt.QProcess()
    process.start(sys.executable, ["-c", "print('ready', flush=True); input()"])
    window.wait_until(lambda: process.bytesAvailable() or process.canReadLine(), 10)
    assert process.readAllStandardOutput().data().strip() == b"ready"
    process.closeWriteChannel()
    window.wait_until(lambda: process.state() == qt.QProcess.NotRunning, 10)


# ---- CTK and MRML widgets


def test_a_collapsed_button_hides_its_contents_and_minds_who_hid_what(window) -> None:
    """ctkCollapsibleButton.cpp: children shown while it is closed wait until it opens, hidden ones stay hidden."""
    button = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(button)
    first, second = qt.QLabel("a"), qt.QLabel("b")
    layout.addWidget(first)
    layout.addWidget(second)
    button.show()
    second.hide()
    button.collapsed = True
    assert not first.visible
    first.show()
    assert not first.visible
    button.collapsed = False
    assert first.visible
    assert not second.visible


def _volume(name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    return node


def _box(none: bool):
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.noneEnabled = none
    box.setMRMLScene(slicer.mrmlScene)
    return box


def test_a_node_box_takes_the_first_node_that_is_there_but_none_that_comes(window) -> None:
    """Seen in Slicer 5.13, as what the next tests say."""
    early, with_none = _box(none=False), _box(none=True)
    node = _volume("scan")
    late = _box(none=False)
    assert (early.currentNode(), with_none.currentNode(), late.currentNode()) == (None, None, node)
    for box, taken in ((early, None), (_box(none=True), node)):  # "None" was shown, or nothing at all
        box.noneEnabled = True
        assert box.currentNode() is None
        box.noneEnabled = False
        assert box.currentNode() is taken


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize(("removed", "left"), [(0, 1), (1, 2), (2, 1)])
def test_the_neighbour_of_a_removed_node_is_chosen(window, none: bool, removed: int, left: int) -> None:
    nodes = [_volume(name) for name in "abc"]
    box = _box(none)
    box.setCurrentNode(nodes[removed])
    heard: list = []
    box.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    slicer.mrmlScene.RemoveNode(nodes[removed])
    assert box.currentNode() is nodes[left]
    assert heard == [nodes[left]]


def test_a_node_box_is_empty_after_the_scene_was_closed(window) -> None:
    _volume("a")
    box = _box(none=False)
    slicer.mrmlScene.Clear(0)
    assert (box.currentNode(), box.nodeCount(), box.currentNodeID) == (None, 0, "")


def test_a_node_box_adds_nodes_with_slicers_names_and_chooses_them(window) -> None:
    box = _box(none=False)
    node = box.addNode()
    assert (node.GetName(), box.currentNode()) == ("Volume", node)
    with pytest.raises(TypeError, match="VTK object"):
        box.setCurrentNode(node.GetID())
    with pytest.raises(AttributeError):
        box.setNodeTypes(["vtkMRMLNode"])


def test_a_collapsible_button_takes_no_text_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="matching overload"):
        ctk.ctkCollapsibleButton("Segment")


def test_the_scene_begins_as_slicers_does(window) -> None:
    nodes = [slicer.mrmlScene.GetNthNodeByClass(n, "vtkMRMLSliceNode") for n in range(3)]
    assert [node.GetID().removeprefix("vtkMRMLSliceNode") for node in nodes] == ["Red", "Green", "Yellow"]
    assert [node.GetOrientation() for node in nodes] == ["Axial", "Coronal", "Sagittal"]
    assert slicer.mrmlScene.GetNodeByID("vtkMRMLCrosshairNodedefault") is not None
    assert slicer.mrmlScene.GetNodeByID("vtkMRMLLayoutNodevtkMRMLLayoutNode") is not None


def test_a_ui_file_hands_the_scene_on(window, tmp_path: Path) -> None:
    path = tmp_path / "panel.ui"
    path.write_text(
        """<ui version="4.0"><class>Panel</class><widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout">
        <item><widget class="qMRMLNodeComboBox" name="selector"><property name="nodeTypes"><stringlist>
        <string>vtkMRMLScalarVolumeNode</string></stringlist></property></widget></item>
        <item><widget class="QPushButton" name="runButton"><property name="text"><string>Run</string></property>
        </widget></item></layout></widget>
        <connections><connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
        <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>""",
        encoding="utf-8",
    )
    node = _volume("scan")
    panel = slicer.util.loadUI(str(path))
    ui = slicer.util.childWidgetVariables(panel)
    panel.setMRMLScene(slicer.mrmlScene)
    assert ui.selector.currentNode() is node
    assert ui.runButton.text == "Run"
    with pytest.raises(AttributeError):
        ui.stopButton  # noqa: B018


def test_a_panel_that_was_taken_out_and_put_back_is_as_high_as_its_contents(window) -> None:
    holder, panel, label = qt.QWidget(), qt.QWidget(), qt.QLabel("one line")
    label.wordWrap = True
    qt.QVBoxLayout(panel).addWidget(label)
    heights = HeightRefresher(panel)
    layout = qt.QVBoxLayout(holder)
    layout.addWidget(panel)
    holder.resize(200, 400)
    holder.show()
    window.events()
    item = layout.takeAt(0)  # kept, as Slicer never deletes it
    panel.setParent(None)
    layout.addWidget(panel)
    panel.show()
    window.events()
    width = panel.width
    assert layout.itemAt(0).heightForWidth(width) == panel.heightForWidth(width)
    label.text = "many more lines " * 20
    window.events()
    assert panel.heightForWidth(width) > 80
    assert layout.itemAt(0).heightForWidth(width) == panel.heightForWidth(width)
    heights.close()
    holder.close()
    del item
