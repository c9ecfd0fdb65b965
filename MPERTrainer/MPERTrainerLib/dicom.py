"""Choosing series of Slicer's DICOM database. Names of patients are shown here and go no further."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from MPERLib import trace
from slicer.i18n import tr as _

_IMAGES = ("MR", "CT")


class SeriesDialog:
    """A window with the patients, studies and series of a ctkDICOMDatabase.

    Parameters
    ----------
    database : ctkDICOMDatabase
    chosen : callable
        Takes the chosen series as (folder, SeriesInstanceUID).
    """

    def __init__(self, database, chosen: Callable[[list[tuple[str, str]]], None]):
        self._database, self._chosen = database, chosen
        self.window = qt.QDialog(slicer.util.mainWindow())
        self.window.windowTitle = _("Add DICOM series")
        self.window.resize(620, 460)
        layout = qt.QVBoxLayout(self.window)
        self.tree = qt.QTreeWidget()
        self.tree.setHeaderLabels([_("Patient, study, series"), _("Kind"), _("Images")])
        self.tree.setColumnWidth(0, 400)
        self.tree.selectionMode = qt.QAbstractItemView.ExtendedSelection
        layout.addWidget(self.tree)
        note = qt.QLabel(_("Scans are added without anything about the patient."))
        layout.addWidget(note)
        row = qt.QHBoxLayout()
        self.addButton = qt.QPushButton(_("Add"))
        cancel = qt.QPushButton(_("Cancel"))
        row.addStretch(1)
        row.addWidget(cancel)
        row.addWidget(self.addButton)
        layout.addLayout(row)
        self.addButton.enabled = False
        self.tree.connect("itemSelectionChanged()", trace.slot(self._selected))
        self.addButton.connect("clicked()", trace.slot(self._add))
        cancel.connect("clicked()", trace.slot(self.close))
        self._fill()

    def _fill(self) -> None:
        database = self._database
        for patient in database.patients():
            name = database.nameForPatient(patient) or _("without a name")
            top = qt.QTreeWidgetItem([name.replace("^", " ").strip(), "", ""])
            for study in database.studiesForPatient(patient):
                words = database.descriptionForStudy(study) or _("study")
                middle = qt.QTreeWidgetItem([words, "", ""])
                for series in database.seriesForStudy(study):
                    files = database.filesForSeries(series)
                    modality = str(database.fieldForSeries("Modality", series) or "")
                    if not files or modality not in _IMAGES:
                        continue
                    text = database.descriptionForSeries(series) or _("series")
                    item = qt.QTreeWidgetItem([text, modality, str(len(files))])
                    item.setData(0, qt.Qt.UserRole, series)
                    middle.addChild(item)
                if middle.childCount():
                    top.addChild(middle)
            if top.childCount():
                self.tree.addTopLevelItem(top)
        self.tree.expandAll()

    def series(self) -> list[str]:
        """The SeriesInstanceUIDs of what is selected; a study or a patient stands for all of its series."""
        found: dict[str, None] = {}

        def walk(item) -> None:
            uid = item.data(0, qt.Qt.UserRole)
            if uid:
                found[str(uid)] = None
            for n in range(item.childCount()):
                walk(item.child(n))

        for item in self.tree.selectedItems():
            walk(item)
        return list(found)

    def _selected(self) -> None:
        self.addButton.enabled = bool(self.series())

    def _add(self) -> None:
        sources = [(str(Path(self._database.filesForSeries(uid)[0]).parent), uid) for uid in self.series()]
        self.close()
        self._chosen(sources)

    def show(self) -> None:
        self.window.show()

    def close(self) -> None:
        self.window.close()
