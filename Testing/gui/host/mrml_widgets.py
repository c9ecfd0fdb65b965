"""The qMRML widgets that the modules use: the interface of Libs/MRML/Widgets/*.h, and what tests need behind it."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget

from .properties import stored
from .pythonqt import exposed


class Observers:
    """Observations of VTK objects that end together."""

    def __init__(self) -> None:
        self._all: list[tuple[Any, int]] = []

    def add(self, target: Any, event: Any, function: Any) -> None:
        self._all.append((target, target.AddObserver(event, function)))

    def clear(self) -> None:
        for target, tag in self._all:
            target.RemoveObserver(tag)
        self._all.clear()


class SceneWidget(QWidget):
    """What every widget with a scene has."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self._scene: Any = None
        self._observers = Observers()
        self.destroyed.connect(self._observers.clear)

    @exposed
    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self._observers.clear()
        self._scene = scene
        self._scene_changed()

    def _scene_changed(self) -> None:
        pass


class qMRMLWidget(SceneWidget):
    """qMRMLWidget.h: hands its scene on to the widgets that a .ui file connects to it."""

    mrmlSceneChanged = Signal(object)
    SIGNATURES: ClassVar = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged(PyObject)"}

    @exposed
    def mrmlScene(self) -> Any:
        return self._scene

    def _scene_changed(self) -> None:
        self.mrmlSceneChanged.emit(self._scene)


class qMRMLNodeComboBox(SceneWidget):
    """qMRMLNodeComboBox.h: the nodes of some classes, in the order of the scene.

    As seen in Slicer 5.13: without a "None" the first node that is there when the scene comes is chosen, one that is
    added later is not. When the chosen node goes, its neighbour takes its place.
    """

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    currentNodeRenamed = Signal(str)
    SIGNATURES: ClassVar = {
        f"{name}(vtkMRMLNode*)": f"{name}(PyObject)"
        for name in (
            "currentNodeChanged",
            "nodeActivated",
            "nodeAdded",
            "nodeAddedByUser",
            "nodeAddedByUserAction",
            "nodeAboutToBeRemoved",
            "nodeAboutToBeEdited",
        )
    }

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self._nodes: list[Any] = []
        self._current: Any = None
        self._attributes: list[tuple[str, str, Any]] = []
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QComboBox(self)
        layout.addWidget(self._box)
        self._box.activated.connect(self._on_activated)
        self._fill()

    def _refresh(self) -> None:
        self._fill(take_first=True)

    def _none_changed(self) -> None:
        self._fill(take_first=self._box.currentIndex() == 0)  # "None" was shown, and is gone

    def _none_display_changed(self) -> None:
        """The item "None" is made anew: a combo box that showed it goes to the first node (updateNoneItem)."""
        self._fill()
        if self._scene is not None and self._current is None and self._nodes:
            self._choose(self._nodes[0])

    nodeTypes = stored("QStringList", "nodeTypes", [], _refresh)
    showHidden = stored(bool, "showHidden", False, _refresh)
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, _refresh)
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], _refresh)
    baseName = stored(str, "baseName", "")
    noneEnabled = stored(bool, "noneEnabled", False, _none_changed)
    addEnabled = stored(bool, "addEnabled", True, _refresh)
    removeEnabled = stored(bool, "removeEnabled", True, _refresh)
    editEnabled = stored(bool, "editEnabled", False, _refresh)
    renameEnabled = stored(bool, "renameEnabled", False, _refresh)
    interactionNodeSingletonTag = stored(str, "interactionNodeSingletonTag", "")
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    noneDisplay = stored(str, "noneDisplay", "None", _none_display_changed)
    sizeAdjustPolicy = stored(int, "sizeAdjustPolicy", 1)

    def _get_id(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def _set_id(self, node_id: str) -> None:
        self.setCurrentNodeID(node_id)

    currentNodeID = Property(str, _get_id, _set_id, notify=currentNodeIDChanged)

    @exposed
    def mrmlScene(self) -> Any:
        return self._scene

    @exposed
    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, value))
        self._fill()

    @exposed
    def removeAttribute(self, node_type: str, name: str) -> None:
        self._attributes = [entry for entry in self._attributes if entry[:2] != (node_type, name)]
        self._fill()

    @exposed
    def nodeCount(self) -> int:
        return len(self._nodes)

    @exposed
    def nodeFromIndex(self, index: int) -> Any:
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    @exposed
    def currentNode(self) -> Any:
        return self._current

    @exposed
    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):  # of the two overloads PythonQt takes the one with the node
            raise TypeError("method requires a VTK object")
        self._choose(node if node in self._nodes else None)

    @exposed
    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None)

    @exposed
    def setCurrentNodeIndex(self, index: int) -> None:
        self._choose(self.nodeFromIndex(index))

    @exposed
    def addNode(self, node_type: str = "") -> Any:
        node = self._scene.AddNewNodeByClass(node_type or self.nodeTypes[0], self.baseName)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    @exposed
    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self._current)

    # ---- inside

    def _scene_changed(self) -> None:
        scene = self._scene
        if scene is not None:
            for event in (
                scene.NodeAddedEvent,
                scene.NodeRemovedEvent,
                scene.EndBatchProcessEvent,
                scene.EndCloseEvent,
            ):
                self._observers.add(scene, event, lambda *_: self._fill())
        self._fill(take_first=True)

    def _fits(self, node: Any) -> bool:
        kinds = self.nodeTypes
        if not any(node.IsA(kind) if self.showChildNodeTypes else node.GetClassName() == kind for kind in kinds):
            return False
        if any(node.IsA(kind) for kind in self.hideChildNodeTypes) or (
            node.GetHideFromEditors() and not self.showHidden
        ):
            return False
        return all(
            node.GetAttribute(name) is not None and (value is None or node.GetAttribute(name) == str(value))
            for kind, name, value in self._attributes
            if node.IsA(kind)
        )

    def _fill(self, take_first: bool = False) -> None:
        if self._scene is not None and self._scene.IsClosing():
            self._nodes = []
            self._choose(None)
            return
        row = self._nodes.index(self._current) if self._current in self._nodes else 0
        every = (
            [] if self._scene is None else [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
        )
        self._nodes = [node for node in every if self._fits(node)]
        nothing_shown = self._box.currentIndex() == -1 and not take_first
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        for node in self._nodes:
            self._box.addItem(node.GetName() or "")
        current = self._current if self._current in self._nodes else None
        if self._current is not None and self._current not in every and self._nodes:
            current = self._nodes[min(row, len(self._nodes) - 1)]
        if current is None and take_first and not self.noneEnabled and self._nodes:
            current = self._nodes[0]
        self._choose(current)
        self._show_current()
        if current is None and nothing_shown:
            self._box.setCurrentIndex(-1)

    def _choose(self, node: Any) -> None:
        if node is self._current:
            return
        self._current = node
        self._show_current()
        self.currentNodeChanged[object].emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(self._get_id())

    def _show_current(self) -> None:
        first = int(self.noneEnabled)
        known = self._current in self._nodes
        self._box.setCurrentIndex(first + self._nodes.index(self._current) if known else first - 1)

    def _on_activated(self, index: int) -> None:
        self._choose(self.nodeFromIndex(index - int(self.noneEnabled)))
        self.nodeActivated.emit(self._current)


WIDGETS = {cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox)}
