"""Scatter plot of the voxels' embeddings on their two principal axes, in Slicer's plot view."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MPERSegmentLib.plot_view import PlotView


class EmbeddingPlot:
    """A chart with one series for each prototype."""

    def __init__(self) -> None:
        self._view = PlotView()

    def show(self, answer: dict[str, Any], prototypes: list[dict[str, Any]]) -> None:
        """Show points {x, y, value}, coloured by prototype, in a layout with a plot view."""
        chart = self._view.begin(_("Prototypes"))
        x, y, value = (np.asarray(answer[key]) for key in ("x", "y", "value"))
        for row in prototypes:
            own = value == row["value"]
            if own.any():
                series = self._view.addSeries(chart, row["name"], {"x": x[own], "y": y[own]}, row["colour"])
                series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
                series.SetMarkerSize(5)
        chart.SetTitle(_("Embeddings of voxels"))
        chart.SetLegendVisibility(False)  # it would hide points; the table of prototypes shows the colours
        share = answer.get("explained", (0, 0))
        axis = _("Principal axis {n} ({share} of the variance)")
        chart.SetXAxisTitle(axis.format(n=1, share=f"{share[0]:.0%}"))
        chart.SetYAxisTitle(axis.format(n=2, share=f"{share[1]:.0%}"))
        self._view.show(chart)

    def hide(self) -> None:
        """Remove the plot and restore the layout."""
        self._view.hide()

    def remove(self) -> None:
        """Remove the plot; the layout stays."""
        self._view.remove()
