"""Scatter plot of the voxels' embeddings on their two principal axes, in Slicer's plot view."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from MPERLib.callbacks import later
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk


class EmbeddingPlot:
    """A chart with one series for each prototype."""

    def __init__(self) -> None:
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._layout: int | None = None

    def show(self, answer: dict[str, Any], prototypes: list[dict[str, Any]]) -> None:
        """Show points {x, y, value}, coloured by prototype, in a layout with a plot view."""
        self.remove()
        chart = self._add("vtkMRMLPlotChartNode", _("Prototypes"))
        x, y, value = (np.asarray(answer[key]) for key in ("x", "y", "value"))
        for row in prototypes:
            own = value == row["value"]
            if not own.any():
                continue
            table = self._add("vtkMRMLTableNode", row["name"])
            table.SetHideFromEditors(True)
            for name, column in (("x", x[own]), ("y", y[own])):
                array = numpy_to_vtk(np.ascontiguousarray(column, np.float64), deep=True)
                array.SetName(name)
                table.AddColumn(array)
            series = self._add("vtkMRMLPlotSeriesNode", row["name"])
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName("x")
            series.SetYColumnName("y")
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
            series.SetMarkerSize(5)
            series.SetColor(*(part / 255 for part in row["colour"]))
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.SetTitle(_("Embeddings of voxels"))
        chart.SetLegendVisibility(False)  # it would hide points; the table of prototypes shows the colours
        share = answer.get("explained", (0, 0))
        axis = _("Principal axis {n} ({share} of the variance)")
        chart.SetXAxisTitle(axis.format(n=1, share=f"{share[0]:.0%}"))
        chart.SetYAxisTitle(axis.format(n=2, share=f"{share[1]:.0%}"))
        self._layout = slicer.app.layoutManager().layout
        later(lambda: self._lay(chart), "plot view")

    def _lay(self, chart: slicer.vtkMRMLPlotChartNode) -> None:
        if chart.GetScene():
            slicer.modules.plots.logic().ShowChartInLayout(chart)

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

    def _add(self, kind: str, name: str) -> slicer.vtkMRMLNode:
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        self._nodes.append(node)
        return node
