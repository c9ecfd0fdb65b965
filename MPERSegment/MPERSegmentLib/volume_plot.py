"""The volumes of the ventricles over the phases of a time series, in Slicer's plot view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from MPERLib.callbacks import later
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk


class VolumePlot:
    """A chart with one line for each structure."""

    def __init__(self) -> None:
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._layout: int | None = None

    def show(
        self, curves: Sequence[Mapping[str, Any]], numbers: Sequence[int], colours: Mapping[str, Sequence[int]]
    ) -> None:
        """Show volumes {name, ml} at phase numbers; a structure has the colour of its segment."""
        if self._layout is None:
            self._layout = slicer.app.layoutManager().layout
        self.remove()
        chart = self._add("vtkMRMLPlotChartNode", _("Volumes"))
        for curve in curves:
            table = self._add("vtkMRMLTableNode", curve["name"])
            table.SetHideFromEditors(True)
            for name, column in (("phase", numbers), ("mL", curve["ml"])):
                array = numpy_to_vtk(np.ascontiguousarray(column, np.float64), deep=True)
                array.SetName(name)
                table.AddColumn(array)
            series = self._add("vtkMRMLPlotSeriesNode", curve["name"])
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName("phase")
            series.SetYColumnName("mL")
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
            series.SetMarkerSize(7)
            series.SetColor(*(part / 255 for part in colours.get(curve["name"].casefold(), (90, 120, 160))))
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.SetTitle(_("Volumes over the phases"))
        chart.SetXAxisTitle(_("Phase"))
        chart.SetYAxisTitle(_("Volume (mL)"))
        later(lambda: self._lay(chart), "plot view")

    @property
    def visible(self) -> bool:
        return bool(self._nodes)

    def hide(self) -> None:
        """Remove the plot and restore the layout."""
        if self._layout is not None:
            slicer.app.layoutManager().setLayout(self._layout)
            self._layout = None
        later(self.remove, "plot removal")

    def remove(self) -> None:
        for node in self._nodes:
            if node.GetScene():
                slicer.mrmlScene.RemoveNode(node)
        self._nodes.clear()

    def _lay(self, chart: slicer.vtkMRMLPlotChartNode) -> None:
        if chart.GetScene():
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    def _add(self, kind: str, name: str) -> slicer.vtkMRMLNode:
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        self._nodes.append(node)
        return node
