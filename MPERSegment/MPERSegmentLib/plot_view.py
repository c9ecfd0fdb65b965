"""A chart in Slicer's plot view: its nodes, and the layout that is restored when it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from MPERLib.callbacks import later, slot
from vtk.util.numpy_support import numpy_to_vtk

_SELECTED = "dataSelected(vtkStringArray*, vtkCollection*)"


class PlotView:
    """One chart at a time.

    Parameters
    ----------
    clicked : callable or None
        Takes the id of a series and the number of its point that the user has clicked.
    """

    def __init__(self, clicked: Callable[[str, int], None] | None = None):
        self._clicked = clicked
        self._onSelected = slot(self._selected, "point of a plot")
        self._observed: list[Any] = []
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._layout: int | None = None

    @property
    def visible(self) -> bool:
        return bool(self._nodes)

    def begin(self, title: str) -> slicer.vtkMRMLPlotChartNode:
        """An empty chart in place of the one before."""
        self.remove()
        return self._add("vtkMRMLPlotChartNode", title)

    def addSeries(
        self,
        chart: slicer.vtkMRMLPlotChartNode,
        name: str,
        columns: Mapping[str, np.ndarray],
        colour: Sequence[int],
    ) -> slicer.vtkMRMLPlotSeriesNode:
        """Add points to a chart; the first column is x, the second y; the colour is (red, green, blue) up to 255."""
        table = self._add("vtkMRMLTableNode", name)
        table.SetHideFromEditors(True)
        for key, column in columns.items():
            array = numpy_to_vtk(np.ascontiguousarray(column, np.float64), deep=True)
            array.SetName(key)
            table.AddColumn(array)
        x, y = columns
        series = self._add("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(x)
        series.SetYColumnName(y)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetColor(*(part / 255 for part in colour))
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
        return series

    def show(self, chart: slicer.vtkMRMLPlotChartNode) -> None:
        """Show a chart in a layout with a plot view."""
        if self._layout is None:
            self._layout = slicer.app.layoutManager().layout
        later(lambda: self._lay(chart), "plot view")

    def hide(self) -> None:
        """Remove the chart and restore the layout."""
        if self._layout is not None:
            slicer.app.layoutManager().setLayout(self._layout)
            self._layout = None
        later(self.remove, "plot removal")

    def remove(self) -> None:
        """Remove the chart; the layout stays."""
        for view in self._observed:
            view.disconnect(_SELECTED, self._onSelected)
        self._observed.clear()
        for node in self._nodes:
            if node.GetScene():
                slicer.mrmlScene.RemoveNode(node)
        self._nodes.clear()

    def _lay(self, chart: slicer.vtkMRMLPlotChartNode) -> None:
        if chart.GetScene():
            slicer.modules.plots.logic().ShowChartInLayout(chart)
            if self._clicked is not None:
                later(self._observe, "clicks in the plot")

    def _observe(self) -> None:
        """Observe clicks on points in the view that shows the chart."""
        manager = slicer.app.layoutManager()
        for number in range(manager.plotViewCount if self._nodes and not self._observed else 0):
            view = manager.plotWidget(number).plotView()
            view.connect(_SELECTED, self._onSelected)
            self._observed.append(view)

    def _selected(self, series: Any, points: Any) -> None:
        """Points were selected: the ids of their series, and for each the numbers of its points."""
        if self._clicked is not None and series.GetNumberOfValues() and points.GetNumberOfItems():
            self._clicked(series.GetValue(0), int(points.GetItemAsObject(0).GetValue(0)))

    def _add(self, kind: str, name: str) -> slicer.vtkMRMLNode:
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        self._nodes.append(node)
        return node
