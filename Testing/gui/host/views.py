"""Slice views of the host: Slicer's own slice logics compute the picture, segmentations are drawn over it.

The blending of background, foreground and label map is vtkMRMLSliceLogic itself. A segmentation is drawn as
vtkMRMLSegmentationsDisplayableManager2D does by default: each visible segment filled and outlined in its colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from PySide6.QtCore import Property, QObject, QRect, Qt, Signal
from PySide6.QtGui import QColor, QImage, QPainter
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget
from vtk.util.numpy_support import vtk_to_numpy

from .mrml_widgets import Observers
from .pythonqt import exposed

VIEWS = (("Red", "R", "Axial", (0.952, 0.290, 0.200)), ("Yellow", "Y", "Sagittal", (0.929, 0.835, 0.298)))
VIEWS += (("Green", "G", "Coronal", (0.431, 0.690, 0.294)),)


def _matrix(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


class qMRMLSliceWidget(QWidget):
    """qMRMLSliceWidget.h, with its view (qMRMLSliceView.h) in itself."""

    def __init__(self, parent: QWidget, logic: Any, node: Any):
        super().__init__(parent)
        self._logic, self._node = logic, node
        self.setMinimumSize(100, 100)
        self._observers = Observers()
        self.destroyed.connect(self._observers.clear)
        self._observers.add(logic, vtk.vtkCommand.ModifiedEvent, lambda *_: self.update())
        scene = slicer.mrmlScene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self._observers.add(scene, event, lambda *_: self.update())

    @exposed
    def mrmlSliceNode(self) -> Any:
        return self._node

    @exposed
    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    @exposed
    def sliceLogic(self) -> Any:
        return self._logic

    sliceViewName = Property(str, lambda self: self._node.GetLayoutName())
    sliceOrientation = Property(str, lambda self: self._node.GetOrientation())

    @exposed
    def fitSliceToBackground(self) -> None:
        """A slot of qMRMLSliceWidget since the first versions."""
        self._logic.FitSliceToAll()

    def resizeEvent(self, event: Any) -> None:
        old = self._node.GetDimensions()
        self._logic.ResizeSliceNode(max(1, self.width()), max(1, self.height()))
        if old[:2] == (256, 256):
            self._logic.FitSliceToAll()
        super().resizeEvent(event)

    def paintEvent(self, _event: Any) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(0, 0, 0))
        picture = self._picture()
        if picture is not None:
            height, width = picture.shape[:2]
            data = np.ascontiguousarray(picture[::-1])
            painter.drawImage(self.rect(), QImage(data.data, width, height, 3 * width, QImage.Format.Format_RGB888))
        red, green, blue = (round(255 * c) for c in self._node.GetLayoutColor())
        painter.fillRect(QRect(0, 0, self.width(), 3), QColor(red, green, blue))
        painter.setPen(QColor(255, 255, 255))
        painter.drawText(self.rect().adjusted(6, 6, 0, 0), Qt.AlignmentFlag.AlignLeft, self._node.GetName())
        painter.end()

    def _picture(self) -> np.ndarray | None:
        connection = self._logic.GetImageDataConnection()
        width, height = self._node.GetDimensions()[:2]
        picture = np.zeros((height, width, 3), np.uint8)
        if connection is not None:
            producer = connection.GetProducer()
            producer.Update()
            image = producer.GetOutputDataObject(connection.GetIndex())
            if image.GetDimensions()[:2] == (width, height) and image.GetPointData().GetScalars() is not None:
                colours = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
                picture = colours[..., :3].astype(np.uint8)
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            self._draw(node, picture)
        return picture

    def _draw(self, node: Any, picture: np.ndarray) -> None:
        display = node.GetDisplayNode()
        if display is None or not display.GetVisibility() or not display.GetVisibility2D():
            return
        segmentation = node.GetSegmentation()
        to_world = vtk.vtkMatrix4x4()
        if node.GetParentTransformNode():
            node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
        to_ras = _matrix(to_world)
        height, width = picture.shape[:2]
        grid = np.stack(
            [*np.meshgrid(np.arange(width), np.arange(height)), np.zeros((height, width)), np.ones((height, width))]
        )
        world = np.tensordot(_matrix(self._node.GetXYToRAS()), grid, 1)
        for segment_id in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(segment_id)
            labelmap = segment.GetRepresentation("Binary labelmap")
            if labelmap is None or not display.GetSegmentVisibility(segment_id) or labelmap.IsEmpty():
                continue
            image_to_world = vtk.vtkMatrix4x4()
            labelmap.GetImageToWorldMatrix(image_to_world)
            index = np.rint(np.tensordot(np.linalg.inv(to_ras @ _matrix(image_to_world)), world, 1)[:3]).astype(int)
            extent = np.array(labelmap.GetExtent()).reshape(3, 2)
            size = extent[:, 1] - extent[:, 0] + 1
            voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(size[::-1])
            index -= extent[:, 0][:, None, None]
            inside = ((index >= 0) & (index < size[:, None, None])).all(axis=0)
            i, j, k = np.where(inside, index, 0)
            mask = inside & (voxels[k, j, i] == segment.GetLabelValue())
            colour = 255 * np.array(segment.GetColor())
            fill = display.GetOpacity2DFill() * display.GetSegmentOpacity2DFill(segment_id) * display.GetOpacity()
            edge = mask.copy()
            edge[1:-1, 1:-1] &= ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
            picture[mask] = ((1 - fill) * picture[mask] + fill * colour).astype(np.uint8)
            picture[edge] = colour.astype(np.uint8)


class _Placeholder(QLabel):
    """A view that the host cannot draw; it says so in screenshots."""

    def __init__(self, parent: QWidget, text: str):
        super().__init__(text, parent)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setStyleSheet("background: #7f88b8; color: white")


class qMRMLThreeDView(_Placeholder):
    """qMRMLThreeDView.h: resetFocalPoint and resetCamera, without a picture."""

    @exposed
    def resetFocalPoint(self) -> None:
        pass

    @exposed
    def resetCamera(self) -> None:
        pass


class qMRMLThreeDWidget(QWidget):
    """qMRMLThreeDWidget.h: threeDView and its node."""

    def __init__(self, parent: QWidget):
        super().__init__(parent)
        self._view = qMRMLThreeDView(self, "3-D view")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)

    @exposed
    def threeDView(self) -> Any:
        return self._view

    @exposed
    def mrmlViewNode(self) -> Any:
        return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLViewNode")


class qSlicerLayoutManager(QObject):
    """qMRMLLayoutManager.h: slice views by name, one 3-D view, the number of the layout."""

    layoutChanged = Signal(int)

    def __init__(self, viewport: QWidget, slice_logics: Any):
        super().__init__(viewport)
        self._viewport = viewport
        self._widgets: dict[str, qMRMLSliceWidget] = {}
        grid = QGridLayout(viewport)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        for number in range(slice_logics.GetNumberOfItems()):
            logic = slice_logics.GetItemAsObject(number)
            widget = qMRMLSliceWidget(viewport, logic, logic.GetSliceNode())
            self._widgets[logic.GetSliceNode().GetLayoutName()] = widget
        self._three_d = qMRMLThreeDWidget(viewport)
        grid.addWidget(self._widgets["Red"], 0, 0)
        grid.addWidget(self._three_d, 0, 1)
        grid.addWidget(self._widgets["Green"], 1, 0)
        grid.addWidget(self._widgets["Yellow"], 1, 1)

    def _get_layout(self) -> int:
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        return node.GetViewArrangement() if node else 3

    def _set_layout(self, layout: int) -> None:
        self.setLayout(layout)

    layout = Property(int, _get_layout, _set_layout, notify=layoutChanged)
    threeDViewCount = Property(int, lambda self: 1)

    @exposed
    def setLayout(self, layout: int) -> None:
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if node:
            node.SetViewArrangement(layout)
        self.layoutChanged.emit(layout)

    @exposed
    def sliceViewNames(self) -> list[str]:
        return sorted(self._widgets)

    @exposed
    def sliceWidget(self, name: str) -> Any:
        return self._widgets.get(name)

    @exposed
    def threeDWidget(self, _number: int) -> Any:
        return self._three_d

    @exposed
    def viewport(self) -> Any:
        return self._viewport

    @exposed
    def mrmlSliceLogics(self) -> Any:
        return slicer.app.applicationLogic().GetSliceLogics()

    @exposed
    def resetSliceViews(self) -> None:
        for widget in self._widgets.values():
            widget.fitSliceToBackground()

    @exposed
    def resetThreeDViews(self) -> None:
        pass
