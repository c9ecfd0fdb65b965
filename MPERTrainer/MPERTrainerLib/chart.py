"""A line chart over training steps, in a plot view of Slicer inside the panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import qt
import slicer
from MPERLib import mrml
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17a2b8")
_HEIGHT_PX = 150
_MAX_POINTS = 400  # of a line: more than the chart has pixels are only slow
_FEW = 30
_STEP, _VALUE = "step", "value"

Line = Sequence[tuple[float, float]]


class Chart:
    """Lines (step, value) by name, in `widget`. The plot view is made when there are lines to show.

    Parameters
    ----------
    title : str
    tag : str
        Of the view in the scene; one for each chart.
    limits : (float, float) or None
        Range of the values where it is fixed (0 and 1 for Dice).
    """

    def __init__(self, title: str, tag: str, limits: tuple[float, float] | None = None):
        self._title, self._tag, self._limits = title, tag, limits
        self._drawn: tuple | None = None
        self._plot: Any = None
        self._chart: Any = None
        self._series: dict[str, Any] = {}
        self.widget = qt.QWidget()
        self._legend = qt.QLabel()
        self._legend.wordWrap = True
        self._legend.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)  # many lines widen no panel
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._legend)
        self.widget.visible = False

    def show(self, lines: Mapping[str, Line]) -> None:
        """Show these lines; does nothing where nothing has changed."""
        lines = {name: line for name, line in lines.items() if line}
        self.widget.visible = bool(lines)
        drawn = tuple((name, len(line), line[-1]) for name, line in lines.items())
        if not lines or (drawn == self._drawn and mrml.alive(self._chart)):
            return
        self._drawn = drawn
        if not mrml.alive(self._chart):  # made never, or the scene was closed
            self._makeNodes()
        for name in [name for name in self._series if name not in lines]:
            self._remove(self._series.pop(name))
        for name, line in lines.items():
            if name not in self._series:
                self._addSeries(name)
            series = self._series[name]
            few = len(line) < _FEW  # the hold-out set is evaluated a few times only: show each
            series.SetMarkerStyle(series.MarkerStyleCircle if few else series.MarkerStyleNone)
            _fill(series.GetTableNode(), _thin(line))
        entries = [
            f'<span style="color:{_COLOURS[n % len(_COLOURS)]}">■</span>&nbsp;{name}'
            for n, name in enumerate(self._series)
        ]
        self._legend.text = _("{title}: {lines}").format(title=self._title, lines="&nbsp; ".join(entries))
        self._fitAxes([point for line in lines.values() for point in line])

    def values(self) -> dict[str, list[tuple[float, float]]]:
        """The points that are shown, by line."""
        return {name: _read(series.GetTableNode()) for name, series in self._series.items() if mrml.alive(series)}

    def close(self) -> None:
        """Remove the nodes from the scene."""
        for series in self._series.values():
            self._remove(series)
        self._series = {}
        view = self._plot.mrmlPlotViewNode() if self._plot is not None else None
        for node in (self._chart, view):
            if mrml.alive(node):
                slicer.mrmlScene.RemoveNode(node)

    # ---- nodes

    def _makeNodes(self) -> None:
        self._series = {}
        chart = self._chart = self._add("vtkMRMLPlotChartNode", self._title)
        chart.SetLegendVisibility(False)  # it would hide the end of the lines; the label above shows the colours
        chart.SetAxisLabelFontSize(9)
        chart.SetXAxisRangeAuto(False)
        chart.SetYAxisRangeAuto(False)
        view = slicer.mrmlScene.GetSingletonNode(self._tag, "vtkMRMLPlotViewNode")
        if view is None:
            view = slicer.mrmlScene.CreateNodeByClass("vtkMRMLPlotViewNode")
            view.UnRegister(None)
            view.SetSingletonTag(self._tag)
            view.SetLayoutName(self._tag)
            view.SetSaveWithScene(False)
            view = slicer.mrmlScene.AddNode(view)
        view.SetDoPropagatePlotChartSelection(False)  # charts that other modules show do not replace this one
        view.SetPlotChartNodeID(chart.GetID())
        if self._plot is None:
            plot = self._plot = slicer.qMRMLPlotWidget()
            plot.setMRMLScene(slicer.mrmlScene)
            plot.plotController().setVisible(False)
            plot.setFixedHeight(_HEIGHT_PX)
            # So the wheel scrolls the panel and does not zoom the chart; a disabled plot would stay black.
            plot.setAttribute(qt.Qt.WA_TransparentForMouseEvents, True)
            self.widget.layout().addWidget(plot)
        self._plot.setMRMLPlotViewNode(view)

    def _fitAxes(self, points: Line) -> None:
        low, high = self._limits or (min(0.0, *(y for _x, y in points)), max(y for _x, y in points))
        with mrml.modifying(self._chart):
            self._chart.SetXAxisRange(0, max(x for x, _y in points) or 1)
            self._chart.SetYAxisRange(low, high if high > low else low + 1)

    def _addSeries(self, name: str) -> None:
        table = self._add("vtkMRMLTableNode", name)
        _fill(table, [(0, 0)])
        series = self._series[name] = self._add("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(_STEP)
        series.SetYColumnName(_VALUE)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetLineWidth(1.5)
        series.SetMarkerSize(4)
        colour = qt.QColor(_COLOURS[(len(self._series) - 1) % len(_COLOURS)])
        series.SetColor(colour.redF(), colour.greenF(), colour.blueF())
        self._chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def _add(self, kind: str, name: str) -> Any:
        """A node that the user does not see in lists, and that is not saved."""
        node = slicer.mrmlScene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        return slicer.mrmlScene.AddNode(node)

    def _remove(self, series: Any) -> None:
        if mrml.alive(series):
            table = series.GetTableNode()
            slicer.mrmlScene.RemoveNode(series)
            slicer.mrmlScene.RemoveNode(table)


def _fill(tableNode: Any, line: Line) -> None:
    """Replace the columns of a table by the points of a line."""
    if len(line) == 1:  # VTK writes a warning each time that it draws a line of one point
        line = [*line, *line]
    with mrml.modifying(tableNode):
        for name in (_STEP, _VALUE):  # both first: a column that is added beside a longer one gets its length
            tableNode.GetTable().RemoveColumnByName(name)
        for column, name in enumerate((_STEP, _VALUE)):
            array = numpy_to_vtk(np.array([point[column] for point in line], np.float64), deep=True)
            array.SetName(name)
            tableNode.AddColumn(array)


def _read(tableNode: Any) -> list[tuple[float, float]]:
    steps, values = (vtk_to_numpy(tableNode.GetTable().GetColumnByName(name)) for name in (_STEP, _VALUE))
    return list(dict.fromkeys(zip(steps.tolist(), values.tolist(), strict=True)))


def _thin(line: Line) -> Line:
    """At most `_MAX_POINTS` points, the last among them."""
    stride = -(-len(line) // _MAX_POINTS)
    return line if stride < 2 else [*line[:-1:stride], line[-1]]
