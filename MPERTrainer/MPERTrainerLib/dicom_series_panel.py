"""The choice of series from Slicer's DICOM database. Patient names are shown here, and are not passed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from MPERLib.callbacks import slot
from slicer.i18n import tr as _

_IMAGES = ("MR", "CT")


class DicomSeriesPanel:
    """A tree of patients, studies and series in the panel.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    chosen : callable
        Takes the chosen series as (folder, SeriesInstanceUID).
    """

    def __init__(self, ui, chosen: Callable[[list[tuple[str, str]]], None]):
        self.ui, self._chosen = ui, chosen
        ui.seriesTree.connect("itemSelectionChanged()", slot(self._selected))
        ui.addSeriesButton.connect("clicked()", slot(self._add))
        ui.cancelSeriesButton.connect("clicked()", slot(self.hide))
        self.hide()

    def show(self) -> None:
        """Show the tree with the current content of the database."""
        tree = self.ui.seriesTree
        tree.clear()
        database = slicer.dicomDatabase
        for patient in database.patients():
            name = str(database.nameForPatient(patient) or "").replace("^", " ").strip()
            top = qt.QTreeWidgetItem([name or _("No name"), "", ""])
            for study in database.studiesForPatient(patient):
                middle = qt.QTreeWidgetItem([str(database.descriptionForStudy(study) or _("Study")), "", ""])
                for series in database.seriesForStudy(study):
                    files = database.filesForSeries(series)
                    modality = str(database.fieldForSeries("Modality", series) or "")
                    if not files or modality not in _IMAGES:
                        continue
                    text = str(database.descriptionForSeries(series) or _("Series"))
                    item = qt.QTreeWidgetItem([text, modality, str(len(files))])
                    item.setData(0, qt.Qt.UserRole, str(series))
                    middle.addChild(item)
                if middle.childCount():
                    top.addChild(middle)
            if top.childCount():
                tree.addTopLevelItem(top)
        tree.expandAll()
        tree.setColumnWidth(0, 230)
        self.ui.seriesBox.visible = True
        self._selected()

    def hide(self) -> None:
        self.ui.seriesBox.visible = False

    def series(self) -> list[str]:
        """The SeriesInstanceUIDs of the selection; a study or a patient stands for all of its series."""
        found: dict[str, None] = {}

        def walk(item) -> None:
            uid = item.data(0, qt.Qt.UserRole)
            if uid:
                found[str(uid)] = None
            for n in range(item.childCount()):
                walk(item.child(n))

        for item in self.ui.seriesTree.selectedItems():
            walk(item)
        return list(found)

    def _selected(self) -> None:
        self.ui.addSeriesButton.enabled = bool(self.series())

    def _add(self) -> None:
        files = slicer.dicomDatabase.filesForSeries
        sources = [(str(Path(str(files(uid)[0])).parent), uid) for uid in self.series()]
        self.hide()
        self._chosen(sources)
