"""The Segment Editor's widget without its effects, on Slicer's own vtkSlicerSegmentEditorLogic.

Interface from Modules/Loadable/Segmentations/Widgets/qMRMLSegmentEditorWidget.h. Undo and redo are real; painting is
what a test does to the segment's labelmap itself, after ``saveStateForUndo`` as every effect does.
"""

from __future__ import annotations

from typing import Any

import slicer
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QListWidget, QPushButton, QVBoxLayout, QWidget

from .mrml_widgets import qMRMLWidget
from .properties import stored
from .pythonqt import exposed


class qMRMLSegmentEditorWidget(qMRMLWidget):
    sourceVolumeNodeChanged = Signal(object)
    segmentationNodeChanged = Signal(object)
    SIGNATURES = {  # noqa: RUF012
        **qMRMLWidget.SIGNATURES,
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "sourceVolumeNodeChanged(PyObject)",
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "segmentationNodeChanged(PyObject)",
    }

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._views_observed = self._shortcuts = False
        layout = QVBoxLayout(self)
        self._list = QListWidget(self)
        self._list.setMaximumHeight(90)
        self._list.currentRowChanged.connect(self._on_row)
        layout.addWidget(self._list)
        row = QHBoxLayout()
        layout.addLayout(row)
        for text, action in (("Undo", self.undo), ("Redo", self.redo)):
            button = QPushButton(text, self)
            button.clicked.connect(action)
            row.addWidget(button)

    segmentationNodeSelectorVisible = stored(bool, "segmentationNodeSelectorVisible", True)
    sourceVolumeNodeSelectorVisible = stored(bool, "sourceVolumeNodeSelectorVisible", True)
    addRemoveSegmentButtonsVisible = stored(bool, "addRemoveSegmentButtonsVisible", True)
    switchToSegmentationsButtonVisible = stored(bool, "switchToSegmentationsButtonVisible", True)
    maximumNumberOfUndoStates = stored(
        int, "maximumNumberOfUndoStates", 10, lambda self: self._logic.SetMaximumNumberOfUndoStates(self._states())
    )
    readOnly = stored(bool, "readOnly", False)

    def _states(self) -> int:
        return self.__dict__.get("_maximumNumberOfUndoStates", 10)

    def _scene_changed(self) -> None:
        self._logic.SetMRMLScene(self._scene)
        super()._scene_changed()

    def _on_row(self, row: int) -> None:
        node = self._logic.GetSegmentationNode()
        if node is not None and self._logic.GetSegmentEditorNode() is not None and row >= 0:
            self._logic.SetCurrentSegmentID(node.GetSegmentation().GetNthSegmentID(row))

    def _fill(self) -> None:
        self._list.clear()
        node = self._logic.GetSegmentationNode() if self._logic.GetSegmentEditorNode() is not None else None
        if node is not None:
            segmentation = node.GetSegmentation()
            for number in range(segmentation.GetNumberOfSegments()):
                self._list.addItem(segmentation.GetNthSegment(number).GetName())

    # ---- Q_INVOKABLE and public slots

    @exposed
    def mrmlSegmentEditorNode(self) -> Any:
        return self._logic.GetSegmentEditorNode()

    @exposed
    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self._logic.SetSegmentEditorNode(node)
        self._fill()

    @exposed
    def segmentationNode(self) -> Any:
        return self._logic.GetSegmentationNode() if self._logic.GetSegmentEditorNode() is not None else None

    @exposed
    def setSegmentationNode(self, node: Any) -> None:
        if self.segmentationNode() is not node:
            self._logic.SetSegmentationNode(node)
            self._fill()
            self.segmentationNodeChanged.emit(node)

    @exposed
    def sourceVolumeNode(self) -> Any:
        return self._logic.GetSourceVolumeNode() if self._logic.GetSegmentEditorNode() is not None else None

    @exposed
    def setSourceVolumeNode(self, node: Any) -> None:
        self._logic.SetSourceVolumeNode(node)
        self.sourceVolumeNodeChanged.emit(node)

    @exposed
    def activeEffect(self) -> Any:
        return None

    @exposed
    def setActiveEffect(self, effect: Any) -> None:
        if effect is not None:
            raise ValueError("the host has no effects")

    @exposed
    def setActiveEffectByName(self, name: str) -> None:
        pass

    @exposed
    def availableEffectNames(self) -> list[str]:
        return []

    @exposed
    def effectByName(self, name: str) -> Any:
        return None

    @exposed
    def setEffectNameOrder(self, names: list[str]) -> None:
        pass

    @exposed
    def saveStateForUndo(self) -> None:
        self._logic.SaveStateForUndo()

    @exposed
    def undo(self) -> None:
        self._logic.Undo()
        self._fill()

    @exposed
    def redo(self) -> None:
        self._logic.Redo()
        self._fill()

    @exposed
    def setMaximumNumberOfUndoStates(self, number: int) -> None:
        self.maximumNumberOfUndoStates = number

    @exposed
    def setupViewObservations(self) -> None:
        self._views_observed = True

    @exposed
    def removeViewObservations(self) -> None:
        self._views_observed = False

    @exposed
    def installKeyboardShortcuts(self, parent: Any = None) -> None:
        self._shortcuts = True

    @exposed
    def uninstallKeyboardShortcuts(self) -> None:
        self._shortcuts = False

    @exposed
    def updateWidgetFromMRML(self) -> None:
        self._fill()

    @exposed
    def rotateSliceViewsToSegmentation(self) -> None:
        pass
