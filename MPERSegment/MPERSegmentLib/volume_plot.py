"""The volumes of the ventricles over the phases of a time series, in Slicer's plot view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from MPERSegmentLib.plot_view import PlotView

_OTHER = (90, 120, 160)


class VolumePlot:
    """A chart with one line for each structure."""

    def __init__(self) -> None:
        self._view = PlotView()

    @property
    def visible(self) -> bool:
        return self._view.visible

    def show(
        self, curves: Sequence[Mapping[str, Any]], numbers: Sequence[int], colours: Mapping[str, Sequence[int]]
    ) -> None:
        """Show volumes {name, ml} at phase numbers; a structure has the colour of its segment."""
        chart = self._view.begin(_("Volumes"))
        for curve in curves:
            columns = {"phase": numbers, "mL": curve["ml"]}
            colour = colours.get(curve["name"].casefold(), _OTHER)
            series = self._view.addSeries(chart, curve["name"], columns, colour)
            series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
            series.SetMarkerSize(7)
        chart.SetTitle(_("Volumes over the phases"))
        chart.SetXAxisTitle(_("Phase"))
        chart.SetYAxisTitle(_("Volume (mL)"))
        self._view.show(chart)

    def hide(self) -> None:
        """Remove the plot and restore the layout."""
        self._view.hide()

    def remove(self) -> None:
        """Remove the plot; the layout stays."""
        self._view.remove()
