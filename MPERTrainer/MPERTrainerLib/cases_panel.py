"""The table of cases, the revisions of one, and the hold-out."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from MPERLib import callbacks, settings
from slicer.i18n import tr as _

from MPERTrainerLib.case_import import CaseImport
from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.dataset_panel import askFolder
from MPERTrainerLib.dicom_series_panel import DicomSeriesPanel
from MPERTrainerLib.engine_session import AUTHOR, Session
from MPERTrainerLib.formatting import duration, how, moment, percent, split
from MPERTrainerLib.tables import Table

_ICON = 44  # pixels
_FILES = "*.nrrd *.nhdr *.nii *.nii.gz *.mha *.mhd *.h5"


class CasesPanel:
    """What the dataset holds.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    caseNodes : CaseNodes
    openCase : callable
        Opens a case for editing, by its id.
    """

    def __init__(self, ui, session: Session, caseNodes: CaseNodes, openCase: Callable):
        self.ui, self.session, self.caseNodes, self._open = ui, session, caseNodes, openCase
        self._icons: dict[str, object] = {}  # by dataset and case
        self._asked: set[str] = set()
        self._revisionsOf: tuple | None = None  # what the table of revisions shows: dataset, case, how many
        self.caseImport = CaseImport(session, caseNodes, ui.addProgress, self._show)
        self.series = DicomSeriesPanel(ui, self.caseImport.addSources)
        self.table = Table(ui.casesTable, stretched=1)
        self.revisions = Table(ui.revisionsTable, stretched=3)
        for column, tip in (
            (2, _("How many revisions of its label there are")),
            (3, _("Who made the latest one")),
            (4, _("How sure the model that saw the case last was of it")),
        ):
            ui.casesTable.horizontalHeaderItem(column).setToolTip(tip)
        ui.casesTable.iconSize = qt.QSize(_ICON, _ICON)
        ui.casesTable.verticalHeader().defaultSectionSize = _ICON + 4
        ui.casesTable.connect("itemSelectionChanged()", callbacks.slot(self._selected))
        ui.casesTable.connect("cellDoubleClicked(int,int)", callbacks.slot(lambda row, _column: self._openRow(row)))
        ui.openCaseButton.connect("clicked()", callbacks.slot(self._openSelected))
        ui.lockButton.connect("clicked()", callbacks.slot(self.lock))
        ui.revisionsTable.connect("itemSelectionChanged()", callbacks.slot(self._enable))
        ui.revisionsTable.connect("cellDoubleClicked(int,int)", callbacks.slot(lambda _r, _c: self.showRevision()))
        ui.showRevisionButton.connect("clicked()", callbacks.slot(self.showRevision))
        ui.restoreButton.connect("clicked()", callbacks.slot(self.restore))
        self._makeMenu()
        session.onChange(self._show)

    # ---- adding

    def _makeMenu(self) -> None:
        button = self.ui.addButton
        self._menu = qt.QMenu(button)
        self._loaded = qt.QMenu(_("Loaded volumes"), self._menu)
        self._menu.addMenu(self._loaded)
        for text, method in (
            (_("Files..."), self.askFiles),
            (_("Folder of scans..."), self.askFolder),
            (_("DICOM series from Slicer's database..."), self.askSeries),
            (_("Folder of DICOM series..."), self.askFolder),
        ):
            action = self._menu.addAction(text)
            action.connect("triggered()", callbacks.slot(method))
        self._menu.connect("aboutToShow()", callbacks.slot(self._fillLoaded))
        button.connect("clicked()", callbacks.slot(self._onAdd))

    def _onAdd(self) -> None:
        if self.caseImport.busy:
            self.caseImport.cancel()
        else:
            button = self.ui.addButton
            self._menu.popup(button.mapToGlobal(qt.QPoint(0, button.height)))

    def _fillLoaded(self) -> None:
        self._loaded.clear()
        volumes = self.loadedVolumes()
        for node in volumes:
            action = self._loaded.addAction(node.GetName())
            action.connect("triggered()", callbacks.slot(lambda node=node: self.caseImport.addVolumes([node])))
        if len(volumes) > 1:
            self._loaded.addSeparator()
            action = self._loaded.addAction(_("All of them"))
            action.connect("triggered()", callbacks.slot(lambda: self.caseImport.addVolumes(volumes)))
        self._loaded.menuAction().setEnabled(bool(volumes))

    def loadedVolumes(self) -> list:
        """Volumes of the scene that are no case of a dataset yet."""
        from MPERTrainerLib.case_nodes import CASE

        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [n for n in nodes if not n.IsA("vtkMRMLLabelMapVolumeNode") and not n.GetAttribute(CASE)]

    def askFiles(self) -> None:
        """Let the person choose files of scans."""
        kinds = _("Scans ({patterns});;All files (*)").format(patterns=_FILES)
        with callbacks.dialog():
            files = qt.QFileDialog.getOpenFileNames(slicer.util.mainWindow(), _("Add scans"), "", kinds)
        self.caseImport.addSources([(str(file), None) for file in files])

    def askFolder(self) -> None:
        """Let the person choose a folder; its layout is recognised, masks come along as labels."""
        folder = askFolder(_("Add a folder of scans"), "")
        if folder:
            self.caseImport.addSources([(folder, None)])

    def askSeries(self) -> None:
        """Let the person choose series of Slicer's DICOM database."""
        if getattr(slicer, "dicomDatabase", None) is None:
            self.session.tell(_("Slicer's DICOM database is not open; open the module DICOM once."))
            return
        self.series.show()

    # ---- the table

    def _show(self) -> None:
        ui, session = self.ui, self.session
        known = session.dataset is not None
        for widget in (ui.casesTable, ui.addButton, ui.openCaseButton, ui.lockButton):
            widget.enabled = known
        ui.addButton.text = _("Cancel adding") if self.caseImport.busy else _("Add scans...")
        holdout = session.dataset["holdout"] if known else None
        rows = []
        for case in session.cases:
            count = case["revisions"]
            label = str(count) if count else "–"
            if case.get("partial"):
                label = _("{n}, partly").format(n=label)
            cells = [
                "",
                case["id"],
                label,
                case.get("author") or "",
                percent(case.get("confidence")),
                split(case.get("split"), holdout),
            ]
            rows.append((case["id"], cells, {}, _tip(case)))
        self.table.fill(rows)
        self._fillIcons()
        ui.holdoutLabel.text = self._holdoutWords()
        ui.holdoutLabel.visible = known
        self._showRevisions()
        self._enable()

    def _holdoutWords(self) -> str:
        dataset = self.session.dataset
        if dataset is None:
            return ""
        if dataset["holdout"]:
            held = len((dataset.get("splits") or {}).get(dataset["holdout"], []))
            words = _("The hold-out is locked ({n}): its cases measure every version and are never trained on.")
            return words.format(n=held)
        if not any(case["labelled"] for case in self.session.cases):
            return _("Add scans, open one with a double click, draw its label and save it.")
        return _(
            "Before the first training select some labelled cases and lock them as hold-out: "
            "only what was never trained on can tell how good a version is."
        )

    def _fillIcons(self) -> None:
        for row, case in enumerate(self.table.keys):
            key = self._key(case)
            if key in self._icons:
                self._setIcon(row, self._icons[key])
            elif key not in self._asked:
                self._asked.add(key)
                route = self.session.path("cases", case, "thumbnail")
                self.session.getBytes(route, lambda data, key=key: self._takeIcon(key, data), lambda message: None)

    def _takeIcon(self, key: str, data: bytes) -> None:
        picture = qt.QPixmap()
        if not picture.loadFromData(qt.QByteArray(data)):
            return
        picture = picture.scaled(_ICON, _ICON, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation)
        self._icons[key] = qt.QIcon(picture)
        for row, case in enumerate(self.table.keys):
            if self._key(case) == key:
                self._setIcon(row, self._icons[key])

    def _setIcon(self, row: int, icon) -> None:
        item = self.ui.casesTable.item(row, 0)
        if item is not None:
            item.setIcon(icon)

    def _key(self, case: str) -> str:
        return f"{self.session.dataset['id']}\n{case}" if self.session.dataset else ""

    def _selected(self) -> None:
        self.session.remember("Case", self.table.selected() or "")
        self._showRevisions()
        self._enable()

    def _openRow(self, row: int) -> None:
        self._open(self.table.keys[row])

    def _openSelected(self) -> None:
        case = self.table.selected()
        if case:
            self._open(case)

    def _enable(self) -> None:
        ui = self.ui
        chosen = self.table.allSelected()
        ui.openCaseButton.enabled = len(chosen) == 1
        locked = bool((self.session.dataset or {}).get("holdout"))
        ui.lockButton.visible = not locked
        labelled = {case["id"] for case in self.session.cases if case["labelled"]}
        fits = bool(chosen) and set(chosen) <= labelled
        ui.lockButton.enabled = fits
        if not fits:
            ui.lockButton.toolTip = _("Select the labelled cases to keep for measuring; Ctrl adds one to the selection")
        else:
            ui.lockButton.toolTip = _("Keep the selected cases for measuring; they are never trained on, for good")
        revision = self.revisions.selected()
        ui.showRevisionButton.enabled = revision is not None
        latest = self.revisions.keys[0] if self.revisions.keys else None
        ui.restoreButton.enabled = revision is not None and revision != latest

    # ---- revisions

    def _showRevisions(self) -> None:
        ui = self.ui
        case = self.table.selected()
        about = self.session.case(case) if case else None
        count = about["revisions"] if about else 0
        ui.revisionsBox.visible = count > 0
        if not count:
            self._revisionsOf = None
            return
        shown = (self.session.dataset["id"], case, count)
        if shown == self._revisionsOf:
            return
        self._revisionsOf = shown
        ui.revisionsLabel.text = _("Labels of {case}, the latest first:").format(case=case)

        def take(revisions: list) -> None:
            if self._revisionsOf != shown:
                return
            rows = []
            for revision in reversed(revisions):
                seconds = revision.get("seconds")
                cells = [
                    str(revision["number"]),
                    moment(revision.get("when")),
                    revision.get("author") or "",
                    how(revision),
                    duration(seconds) if seconds else "–",
                ]
                parent = revision.get("parent")
                tip = _("made from revision {n}").format(n=parent) if parent else ""
                rows.append((str(revision["number"]), cells, {}, tip))
            self.revisions.fill(rows)
            self._enable()

        self.revisions.fill([])
        self.session.get(self.session.path("cases", case, "labels"), take)

    def showRevision(self) -> None:
        """Show a revision beside what is open, to be looked at."""
        case, number = self.table.selected(), self.revisions.selected()
        if not case or number is None:
            return
        self.caseNodes.clearGroup("revision")

        def withImage(volume) -> None:
            name = _("{case} revision {n}").format(case=case, n=number)

            def take(array, header) -> None:
                self.caseNodes.hideOthers()
                self.caseNodes.showMask(array, header, volume, name, "revision")

            route = self.session.path("cases", case, "labels", number) + "?cropped=true"
            self.session.getArray(route, take)

        self.caseNodes.openImage(case, withImage)

    def restore(self) -> None:
        """Make a revision the latest one; it becomes a new revision, so that nothing is lost."""
        case, number = self.table.selected(), self.revisions.selected()
        if not case or number is None:
            return

        def restored(revision: dict) -> None:
            words = _("Revision {old} of {case} is the latest again, as revision {new}.")
            self.session.tell(words.format(old=number, case=case, new=revision["number"]))
            self.session.refresh()
            self._open(case)

        body = {"number": int(number), "author": self.ui.authorEdit.text.strip() or settings.setting(AUTHOR)}
        self.session.post(self.session.path("cases", case, "restore"), body, restored)

    # ---- the hold-out

    def lock(self) -> None:
        """Lock the selected cases as hold-out, once the person has confirmed it."""
        cases = self.table.allSelected()
        labelled = sum(case["labelled"] for case in self.session.cases)
        text = _(
            "Lock as hold-out: {cases}?\n\nThis is for good: it cannot be undone or changed. These cases will never be "
            "trained on, and measure every version from now on. Labelled cases that remain to learn from: {rest}."
        ).format(cases=", ".join(cases), rest=labelled - len(cases))
        # In testing mode Slicer's own question answers itself with True, which it then takes for "not OK".
        with callbacks.dialog():
            agreed = slicer.app.testingEnabled() or slicer.util.confirmOkCancelDisplay(
                text, windowTitle=_("Lock the hold-out")
            )
        if agreed:
            self.lockCases(cases)

    def lockCases(self, cases: list[str]) -> None:
        """Lock cases as hold-out without asking."""

        def locked(answer: dict) -> None:
            words = [_("Locked as hold-out: {cases}.").format(cases=", ".join(cases)), *answer.get("notices", [])]
            self.session.tell("\n".join(words))
            self.session.refresh()

        self.session.post(self.session.path("holdout"), {"cases": cases}, locked)

    def close(self) -> None:
        self.caseImport.close()
        self._menu.close()


def _tip(case: dict) -> str:
    shape = case.get("shape")
    count = case["revisions"]
    lines = [case["id"], _("revisions of its label: {n}").format(n=count) if count else _("no label yet")]
    if shape:
        lines.append(_("{k} slices of {j} x {i} voxels").format(k=shape[0], j=shape[1], i=shape[2]))
    if case.get("when"):
        lines.append(_("label of {when}, {how}").format(when=moment(case["when"]), how=how(case)))
    if case.get("partial"):
        lines.append(_("only a part of the scan is labelled; training takes nothing of the rest for background"))
    if case.get("strokes"):
        lines.append(_("the strokes that it was made with are kept"))
    return "\n".join(lines)
