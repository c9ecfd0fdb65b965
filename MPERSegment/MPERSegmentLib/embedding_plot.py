"""Scatter plot of the voxels' embeddings on their two principal axes, in Slicer's plot view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MPERSegmentLib.plot_view import PlotView


class EmbeddingPlot:
    """A chart with one series for each prototype.

    Parameters
    ----------
    clicked : callable
        Takes the voxel (k, j, i) of the point that the user has clicked.
    """

    def __init__(self, clicked: Callable[[Sequence[int]], None]):
        self._clicked = clicked
        self._voxels: dict[str, list[list[int]]] = {}  # of the points of each series
        self._view = PlotView(self._onPoint)

    def show(self, answer: dict[str, Any], prototypes: list[dict[str, Any]]) -> None:
        """Show points {x, y, value, index}, coloured by prototype, in a layout with a plot view."""
        chart = self._view.begin(_("Prototypes"))
        x, y, value = (np.asarray(answer[key]) for key in ("x", "y", "value"))
        index = np.asarray(answer.get("index") or np.zeros((0, 3)), int)  # an older engine does not name the voxels
        self._voxels = {}
        for row in prototypes:
            own = value == row["value"]
            if own.any():
                series = self._view.addSeries(chart, row["name"], {"x": x[own], "y": y[own]}, row["colour"])
                series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
                series.SetMarkerSize(5)
                if len(index):
                    self._voxels[series.GetID()] = index[own].tolist()
        chart.SetTitle(_("Embeddings: click a point"))
        chart.SetLegendVisibility(False)  # it would hide points; the table of prototypes shows the colours
        share = answer.get("explained", (0, 0))
        axis = _("Principal axis {n} ({share} of the variance)")
        chart.SetXAxisTitle(axis.format(n=1, share=f"{share[0]:.0%}"))
        chart.SetYAxisTitle(axis.format(n=2, share=f"{share[1]:.0%}"))
        self._view.show(chart)

    def _onPoint(self, series: str, row: int) -> None:
        voxels = self._voxels.get(series, [])
        if row < len(voxels):
            self._clicked(voxels[row])

    def hide(self) -> None:
        """Remove the plot and restore the layout."""
        self._view.hide()

    def remove(self) -> None:
        """Remove the plot; the layout stays."""
        self._view.remove()
