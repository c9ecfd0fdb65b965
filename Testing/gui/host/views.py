"""Slice views of the host: Slicer's own slice logics compute the picture, segmentations are drawn over it.

The blending of background, foreground and label map is vtkMRMLSliceLogic itself. A segmentation is drawn as
vtkMRMLSegmentationsDisplayableManager2D does by default: each visible segment filled and outlined in its colour.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import slicer
import vtk
from PySide6.QtCore import Property, QObject, QPointF, QRect, Qt, Signal
from PySide6.QtGui import QColor, QImage, QPainter
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget
from vtk.util.numpy_support import vtk_to_numpy

from .mrml_widgets import Observers, SceneWidget
from .pythonqt import exposed


def _matrix(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


class qMRMLSliceView(QObject):
    """qMRMLSliceView.h and ctkVTKAbstractView.h: interactor and render window, which the host never renders.

    Events that a test invokes on the interactor reach its observers as those of QVTKInteractorAdapter.cxx do.
    """

    def __init__(self, parent: QWidget):
        super().__init__(parent)
        self._window = vtk.vtkRenderWindow()
        self._window.AddRenderer(vtk.vtkRenderer())
        self._interactor = vtk.vtkGenericRenderWindowInteractor()

    @exposed
    def interactor(self) -> Any:
        return self._interactor

    @exposed
    def renderWindow(self) -> Any:
        return self._window

    @exposed
    def scheduleRender(self) -> None:
        self.parent().update()


class qMRMLSliceWidget(QWidget):
    """qMRMLSliceWidget.h; it draws its view's picture itself."""

    def __init__(self, parent: QWidget, logic: Any, node: Any):
        super().__init__(parent)
        self._logic, self._node = logic, node
        self._view = qMRMLSliceView(self)
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

    @exposed
    def sliceView(self) -> Any:
        return self._view

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


class qMRMLPlotView(QObject):
    """qMRMLPlotView.h: the signal that points were selected, by a click say; a test sends it."""

    dataSelected = Signal(object, object)
    SIGNATURES: ClassVar = {"dataSelected(vtkStringArray*,vtkCollection*)": "dataSelected(PyObject,PyObject)"}


class qMRMLPlotWidget(SceneWidget):
    """qMRMLPlotWidget.h; draws the series of its chart as points or lines."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self._node: Any = None
        self._controller = QWidget()
        self._view = qMRMLPlotView(self)

    @exposed
    def mrmlPlotViewNode(self) -> Any:
        return self._node

    @exposed
    def setMRMLPlotViewNode(self, node: Any) -> None:
        self._node = node

    @exposed
    def plotView(self) -> Any:
        return self._view

    @exposed
    def plotController(self) -> Any:
        return self._controller

    def paintEvent(self, _event: Any) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(255, 255, 255))
        chart = self._node.GetPlotChartNode() if self._node is not None else None
        if chart is None:
            return
        painter.drawText(self.rect().adjusted(0, 6, 0, 0), Qt.AlignmentFlag.AlignHCenter, chart.GetTitle() or "")
        painter.drawText(
            self.rect(), Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignBottom, chart.GetXAxisTitle()
        )
        drawn = [series for n in range(chart.GetNumberOfPlotSeriesNodes()) if (series := chart.GetNthPlotSeriesNode(n))]
        columns = [(series, *_columns(series)) for series in drawn]
        points = [np.stack([x, y], axis=1) for _, x, y in columns if len(x)]
        if not points:
            return
        low, high = np.concatenate(points).min(axis=0), np.concatenate(points).max(axis=0)
        size = np.where(high > low, high - low, 1)
        for series, x, y in columns:
            across = 40 + (x - low[0]) / size[0] * (self.width() - 60)
            down = self.height() - 40 - (y - low[1]) / size[1] * (self.height() - 80)
            places = [QPointF(a, d) for a, d in zip(across, down, strict=True)]
            painter.setPen(QColor.fromRgbF(*series.GetColor()))
            if series.GetLineStyle() != series.LineStyleNone:
                painter.drawPolyline(places)
            if series.GetMarkerStyle() != series.MarkerStyleNone:
                painter.setBrush(QColor.fromRgbF(*series.GetColor()))
                for place in places:
                    painter.drawEllipse(place, series.GetMarkerSize() / 3, series.GetMarkerSize() / 3)


def _columns(series: Any) -> tuple[np.ndarray, np.ndarray]:
    table = series.GetTableNode().GetTable()
    y = vtk_to_numpy(table.GetColumnByName(series.GetYColumnName()))
    name = series.GetXColumnName()
    return vtk_to_numpy(table.GetColumnByName(name)) if name else np.arange(len(y)), y


class qSlicerLayoutManager(QObject):
    """qMRMLLayoutManager.h: slice views by name, one 3-D view, plot views, the number of the layout.

    Slicer's own vtkMRMLLayoutLogic makes the view nodes of a layout. Of the arrangement only this is shown: the three
    slice views, and beside them the 3-D view, or the plot view where the layout has one.
    """

    layoutChanged = Signal(int)

    def __init__(self, viewport: QWidget, application_logic: Any):
        super().__init__(viewport)
        self._viewport = viewport
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slice_logics = vtk.vtkCollection()
        self._slices: dict[str, qMRMLSliceWidget] = {}
        for node in self._views("vtkMRMLSliceNode"):
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(slicer.mrmlScene)
            logic.SetSliceNode(node)
            slice_logics.AddItem(logic)
            self._slices[node.GetLayoutName()] = qMRMLSliceWidget(viewport, logic, node)
        application_logic.SetSliceLogics(slice_logics)
        self._three_d, self._plot = qMRMLThreeDWidget(viewport), qMRMLPlotWidget(viewport)
        grid = QGridLayout(viewport)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        places = {(0, 0): self._slices["Red"], (1, 0): self._slices["Green"], (1, 1): self._slices["Yellow"]}
        for (row, column), widget in {**places, (0, 1): self._three_d}.items():
            grid.addWidget(widget, row, column)
        grid.addWidget(self._plot, 0, 1)
        self._observers = Observers()
        self.destroyed.connect(self._observers.clear)
        self._observers.add(self._logic.GetLayoutNode(), vtk.vtkCommand.ModifiedEvent, lambda *_: self._arrange())
        self._shown = -1
        self._arrange()

    def _views(self, kind: str) -> list[Any]:
        nodes = self._logic.GetViewNodes()
        every = [nodes.GetItemAsObject(number) for number in range(nodes.GetNumberOfItems())]
        return [node for node in every if node.IsA(kind)]

    def _arrange(self) -> None:
        plots = self._views("vtkMRMLPlotViewNode")
        self._plot._node = plots[0] if plots else None
        self._plot.setVisible(bool(plots))
        self._three_d.setVisible(not plots)
        self._plot.update()
        if self._shown != self._get_layout():
            self._shown = self._get_layout()
            self.layoutChanged.emit(self._shown)

    def _get_layout(self) -> int:
        return self._logic.GetLayoutNode().GetViewArrangement()

    def _set_layout(self, layout: int) -> None:
        self.setLayout(layout)

    layout = Property(int, _get_layout, _set_layout, notify=layoutChanged)
    threeDViewCount = Property(int, lambda self: len(self._views("vtkMRMLViewNode")))
    plotViewCount = Property(int, lambda self: len(self._views("vtkMRMLPlotViewNode")))

    @exposed
    def setLayout(self, layout: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(layout)

    @exposed
    def sliceViewNames(self) -> list[str]:
        return list(self._slices)

    @exposed
    def sliceWidget(self, name: str) -> Any:
        return self._slices.get(name)

    @exposed
    def threeDWidget(self, number: int) -> Any:
        return self._three_d if number < self.threeDViewCount else None

    @exposed
    def plotWidget(self, number: int) -> Any:
        return self._plot if number < self.plotViewCount else None

    @exposed
    def viewport(self) -> Any:
        return self._viewport

    @exposed
    def mrmlSliceLogics(self) -> Any:
        return slicer.app.applicationLogic().GetSliceLogics()

    @exposed
    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget.fitSliceToBackground()
