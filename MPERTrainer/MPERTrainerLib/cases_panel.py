"""Panel Cases: the table of cases, adding scans, the revisions of a case, and the hold-out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, formatting, mrml, settings
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.questions import agreed
from MPERLib.widgets import Table, silent
from slicer.i18n import tr as _

from MPERTrainerLib.case_import import CaseImport
from MPERTrainerLib.case_menu import CaseMenu
from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.dataset_panel import askFolder
from MPERTrainerLib.dicom_series_panel import DicomSeriesPanel
from MPERTrainerLib.label_panel import LabelPanel, heldOutAgreed
from MPERTrainerLib.open_dataset import OpenDataset
from MPERTrainerLib.phases_panel import PhasesPanel

_SCANS_KEY = "MPER/LastScanFolder"
_ICON = 44  # pixels
_CONFIDENCE = 4  # column of the table
_SHORTEST, _TALLEST = 120, 300  # pixels
_AHEAD = 10  # rows beyond those in view that are made ready
_SEARCHED = 30  # cases, beyond which they can be searched
_REST_MS = 300  # after the last key the search begins
_FILES = "*.nrrd *.nhdr *.nii *.nii.gz *.mha *.mhd *.h5"


class CasesPanel:
    """The cases of the dataset.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    caseNodes : CaseNodes
    labelPanel : LabelPanel
        Opens cases for editing.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        dataset: OpenDataset,
        caseNodes: CaseNodes,
        labelPanel: LabelPanel,
    ):
        self._context, self._session, self._dataset = context, session, dataset
        self._caseNodes, self._labelPanel = caseNodes, labelPanel
        self._icons: dict[str, Any] = {}  # by dataset and case
        self._searchedIn: str | None = None  # the dataset that the text of the search is about
        self._requested: set[str] = set()
        self._revisionsOf: tuple | None = None  # what the table of revisions shows: dataset, case, number of revisions
        ui = context.ui
        self.caseImport = CaseImport(context, session, dataset, PhasesPanel(ui), ui.addProgress, self._show)
        self._series = DicomSeriesPanel(ui, self.caseImport.addSources)
        self.table = Table(ui.casesTable, stretched=1, shortest=_SHORTEST, tallest=_TALLEST)
        self.revisions = Table(ui.revisionsTable, stretched=3, shortest=0, tallest=_TALLEST)
        for column, tip in (
            (2, _("Number of revisions of the label")),
            (3, _("Author of the latest revision")),
            (4, _("Confidence of the last model run on this case")),
            (5, _("Data set split")),
        ):
            ui.casesTable.horizontalHeaderItem(column).setToolTip(tip)
        ui.casesTable.iconSize = qt.QSize(_ICON, _ICON)
        ui.casesTable.verticalHeader().defaultSectionSize = _ICON + 4
        ui.casesTable.connect("itemSelectionChanged()", slot(self._onSelected))
        ui.casesTable.connect("cellDoubleClicked(int,int)", slot(self._openRow))
        ui.openCaseButton.connect("clicked()", slot(self._openSelected))
        ui.lockButton.connect("clicked()", slot(self.lock))
        ui.revisionsTable.connect("itemSelectionChanged()", slot(self._enable))
        ui.revisionsTable.connect("cellDoubleClicked(int,int)", slot(lambda _row, _column: self.showRevision()))
        ui.showRevisionButton.connect("clicked()", slot(self.showRevision))
        ui.restoreButton.connect("clicked()", slot(self.restore))
        self._makeMenu()
        self.caseMenu = CaseMenu(context, session, dataset, self.table.allSelected, labelPanel.forgetCase)
        dataset.onChange(self._show)
        dataset.onPage(self._showPage)
        ui.casesTable.verticalScrollBar().connect("valueChanged(int)", slot(self._onScrolled))
        ui.caseSearchEdit.connect("textChanged(QString)", slot(self._onSearch))
        labelPanel.onUnsaved(self._show)
        labelPanel.onOpened(self._selectOpened)

    # ---- adding

    def _makeMenu(self) -> None:
        button = self._context.ui.addButton
        self._menu = qt.QMenu(button)
        self._loaded = qt.QMenu(_("Loaded volumes"), self._menu)
        self._menu.addMenu(self._loaded)
        for text, method in (
            (_("Files\N{HORIZONTAL ELLIPSIS}"), self.askFiles),
            (_("Folder of scans or DICOM series\N{HORIZONTAL ELLIPSIS}"), self.askFolder),
            (_("DICOM series in Slicer's database\N{HORIZONTAL ELLIPSIS}"), self.askSeries),
        ):
            action = self._menu.addAction(text)
            action.connect("triggered()", slot(method))
        self._menu.connect("aboutToShow()", slot(self._fillLoaded))
        button.connect("clicked()", slot(self._onAdd))

    def _onAdd(self) -> None:
        if self.caseImport.busy:
            self.caseImport.cancel()
        else:
            button = self._context.ui.addButton
            self._menu.popup(button.mapToGlobal(qt.QPoint(0, button.height)))

    def _fillLoaded(self) -> None:
        self._loaded.clear()
        volumes = self.loadedVolumes()
        for node in volumes:
            action = self._loaded.addAction(node.GetName())
            action.connect("triggered()", slot(lambda node=node: self.caseImport.addVolumes([node])))
        if len(volumes) > 1:
            self._loaded.addSeparator()
            action = self._loaded.addAction(_("All loaded volumes"))
            action.connect("triggered()", slot(lambda: self.caseImport.addVolumes(volumes)))
        self._loaded.menuAction().setEnabled(bool(volumes))

    def loadedVolumes(self) -> list:
        """Volumes of the scene that are no case of a dataset yet."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [n for n in nodes if not n.IsA("vtkMRMLLabelMapVolumeNode") and not mrml.case_of(n)[1]]

    def askFiles(self) -> None:
        """Let the user choose files of scans."""
        kinds = _("Scans ({patterns});;All files (*)").format(patterns=_FILES)
        start = str(settings.lastFolder(_SCANS_KEY, settings.datasetFolder()))
        with callbacks.dialog():
            files = qt.QFileDialog.getOpenFileNames(slicer.util.mainWindow(), _("Add scans"), start, kinds)
        if files:
            settings.setSetting(_SCANS_KEY, str(Path(str(files[0])).parent))
        self.caseImport.addSources([(str(file), None) for file in files])

    def askFolder(self) -> None:
        """Let the user choose a folder; its layout is recognised, and masks become labels."""
        folder = askFolder(_("Add a folder of scans"), str(settings.lastFolder(_SCANS_KEY, settings.datasetFolder())))
        if folder:
            settings.setSetting(_SCANS_KEY, folder)
            self.caseImport.addSources([(folder, None)])

    def askSeries(self) -> None:
        """Let the user choose series of Slicer's DICOM database."""
        if getattr(slicer, "dicomDatabase", None) is None:
            self._context.showMessage(_("Slicer's DICOM database is not open. Open the module DICOM."))
            return
        self._series.show()

    # ---- the table

    def _show(self) -> None:
        ui, dataset = self._context.ui, self._dataset
        known = dataset.id is not None
        for widget in (ui.casesTable, ui.addButton, ui.openCaseButton, ui.lockButton):
            widget.enabled = known
        ui.addButton.text = _("Cancel") if self.caseImport.busy else _("Add scans\N{HORIZONTAL ELLIPSIS}")
        self.table.fill(
            self._rows(dataset.cases), [case["id"] for case in dataset.cases], [_tip(case) for case in dataset.cases]
        )
        self._showConfidence()
        self._fillIcons()
        self._showCount()
        ui.holdoutLabel.text = self._holdoutText()
        ui.holdoutLabel.visible = known
        self._showRevisions()
        self._enable()

    def _rows(self, cases: list[dict]) -> list[list[str]]:
        dataset, rows, unsaved = self._dataset, [], self._labelPanel.unsavedCases()
        for case in cases:
            revisions = str(case["revisions"] or formatting.UNKNOWN)
            if case.get("partial"):
                revisions = _("{n}, partial").format(n=revisions)
            if case["id"] in unsaved:
                revisions = _("{n}, not saved").format(n=revisions)
            rows.append(
                [
                    "",
                    dataset.nameOf(case["id"]),
                    revisions,
                    case.get("author") or "",
                    formatting.percent(case.get("confidence")),
                    _("excluded")
                    if case.get("excluded")
                    else formatting.split_name(case.get("split"), dataset.holdout),
                ]
            )
        return rows

    def _showPage(self, cases: list[dict]) -> None:
        """Another page was read: add its rows."""
        self.table.append(self._rows(cases), [case["id"] for case in cases], [_tip(case) for case in cases])
        self._showConfidence()
        self._fillIcons()
        self._showCount()

    def _showConfidence(self) -> None:
        ranked = any(case.get("confidence") is not None for case in self._dataset.cases)
        self._context.ui.casesTable.setColumnHidden(_CONFIDENCE, not ranked)  # the names of the cases need the room

    def _showCount(self) -> None:
        """The search is there for datasets of many cases; a line says that the list goes on."""
        ui, dataset = self._context.ui, self._dataset
        ui.caseSearchEdit.visible = bool(dataset.filter) or dataset.count > _SEARCHED
        if self._searchedIn != dataset.id:  # while one is searched, the user may be typing
            self._searchedIn = dataset.id
            with silent(ui.caseSearchEdit):
                ui.caseSearchEdit.text = ""
        text = _("{n} of {total} cases are listed. Scroll down for more.")
        ui.casesShownLabel.text = text.format(n=len(dataset.cases), total=dataset.count)
        ui.casesShownLabel.visible = not dataset.complete

    def _onScrolled(self) -> None:
        bar = self._context.ui.casesTable.verticalScrollBar()
        if bar.value >= bar.maximum - _AHEAD:
            self._dataset.more()
        self._fillIcons()

    def _onSearch(self) -> None:
        text = self._context.ui.caseSearchEdit.text.strip()

        def search() -> None:
            if self._context.ui.caseSearchEdit.text.strip() == text:  # nothing was typed meanwhile
                self._context.ui.casesTable.scrollToTop()
                self._dataset.search(text)

        callbacks.after(_REST_MS, self._session.guard(search), "cases are searched")

    def _holdoutText(self) -> str:
        about = self._dataset.about
        if about is None:
            return ""
        if about["holdout"]:
            splits = about.get("splits") or {}
            held = sum(len(splits.get(name, [])) for name in self._dataset.lockedSplits)
            text = _("Hold-out set locked ({n} cases): they evaluate every version and are never used for training.")
            return text.format(n=held)
        if not self._dataset.labelled:
            return _("Add scans, open one with a double click, draw its label and save it.")
        return _(
            "Before the first training, select some labelled cases and lock them as the hold-out set: only cases "
            "that are never used for training can evaluate a version."
        )

    def _fillIcons(self) -> None:
        """Pictures of the rows that are in view, and some more."""
        table = self._context.ui.casesTable
        first = max(0, table.verticalScrollBar().value - _AHEAD)
        last = first + table.height // max(1, table.verticalHeader().defaultSectionSize) + 2 * _AHEAD
        for row, case in list(enumerate(self.table.keys))[first : last + 1]:
            key = self._key(case)
            if key in self._icons:
                self._setIcon(row, self._icons[key])
            elif key not in self._requested:
                self._requested.add(key)
                path = self._dataset.route("cases", case, "thumbnail")
                self._session.getBytes(path, lambda data, key=key: self._takeIcon(key, data), lambda _message: None)

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
        item = self._context.ui.casesTable.item(row, 0)
        if item is not None:
            item.setIcon(icon)

    def _key(self, case: str) -> str:
        return f"{self._dataset.id}\n{case}"

    def _onSelected(self) -> None:
        if self._context.parameters is not None:
            self._context.parameters.Case = self.table.selected() or ""
        self._showRevisions()
        self._enable()

    def _selectOpened(self, case: str) -> None:
        """Select the case that is being opened: revisions and the menu are then of the one in the views."""
        if case in self.table.keys and case not in self.table.allSelected():
            self.table.select(case)
            self._context.ui.casesTable.scrollToItem(self._context.ui.casesTable.item(self.table.keys.index(case), 1))

    def _openRow(self, row: int, _column: int) -> None:
        self._labelPanel.open(self.table.keys[row])

    def _openSelected(self) -> None:
        case = self.table.selected()
        if case:
            self._labelPanel.open(case)

    def _enable(self) -> None:
        ui = self._context.ui
        chosen = self.table.allSelected()
        ui.openCaseButton.enabled = len(chosen) == 1
        second = bool(self._dataset.holdout)
        ui.lockButton.text = _("Hold out more…") if second else _("Lock hold-out…")
        entries = [self._dataset.case(case) or {} for case in chosen]
        fits = bool(chosen) and all(
            each.get("labelled") and not each.get("excluded") and not self._dataset.isHeldOut(each["id"])
            for each in entries
        )
        ui.lockButton.enabled = fits
        if not fits:
            ui.lockButton.toolTip = _("Select labelled cases for the hold-out set (Ctrl adds a case to the selection)")
        elif second:
            ui.lockButton.toolTip = _(
                "Add the selected cases to a second hold-out set: they are never used for training. This cannot be "
                "undone."
            )
        else:
            ui.lockButton.toolTip = _(
                "Lock the selected cases as hold-out set: they are never used for training. This cannot be undone."
            )
        revision = self.revisions.selected()
        ui.showRevisionButton.enabled = revision is not None
        latest = self.revisions.keys[0] if self.revisions.keys else None
        ui.restoreButton.enabled = revision is not None and revision != latest
        self.caseMenu.show()

    # ---- revisions

    def _showRevisions(self) -> None:
        ui = self._context.ui
        case = self.table.selected()
        about = self._dataset.case(case) if case else None
        count = about["revisions"] if about else 0
        ui.revisionsBox.visible = count > 0
        if not count:
            self._revisionsOf = None
            return
        shown = (self._dataset.id, case, count)
        if shown == self._revisionsOf:
            return
        self._revisionsOf = shown
        ui.revisionsLabel.text = _("Revisions of the label of {case}, the latest first:").format(case=case)

        def take(revisions: list) -> None:
            if self._revisionsOf != shown:
                return
            revisions = revisions[::-1]
            rows, tips = [], []
            for revision in revisions:
                seconds, parent = revision.get("seconds"), revision.get("parent")
                rows.append(
                    [
                        str(revision["number"]),
                        formatting.date_time(revision.get("when")),
                        revision.get("author") or "",
                        formatting.label_origin(revision),
                        formatting.duration(seconds) if seconds else formatting.UNKNOWN,
                    ]
                )
                tips.append(_("Based on revision {n}").format(n=parent) if parent else "")
            self.revisions.fill(rows, [str(revision["number"]) for revision in revisions], tips)
            self._enable()

        self.revisions.fill([])
        self._session.get(self._dataset.route("cases", case, "labels"), take)

    def showRevision(self) -> None:
        """Show a revision in the views, without editing it."""
        case, number = self.table.selected(), self.revisions.selected()
        if not case or number is None:
            return
        self._caseNodes.clearGroup("revision")

        def withImage(volume) -> None:
            name = _("{case} revision {n}").format(case=case, n=number)

            def take(array, header) -> None:
                if current():
                    self._caseNodes.hideOthers()
                    self._caseNodes.showMask(array, header, volume, name, "revision")

            self._session.getArray(self._dataset.route("cases", case, "labels", number, cropped="true"), take)

        current = self._caseNodes.openImage(case, withImage)

    def restore(self) -> None:
        """Copy a revision to a new one, which is then the latest."""
        case, number = self.table.selected(), self.revisions.selected()
        if not case or number is None:
            return
        of = self._dataset.id

        def restored(revision: dict) -> None:
            if self._dataset.id != of:  # a case of another dataset may have the same id, and unsaved changes
                return
            text = _("Revision {old} of {case} was restored as revision {new}.")
            self._context.showMessage(text.format(old=number, case=case, new=revision["number"]))
            self._dataset.refresh()
            self._labelPanel.openSaved(case)

        if case in self._labelPanel.unsavedCases():
            question = _("{case} has changes that are not saved. Discard them, and restore revision {n}?")
            if not agreed(question.format(case=case, n=number), _("Restore a revision")):
                return
        if self._dataset.isHeldOut(case) and not heldOutAgreed(case):
            return
        body = {
            "number": int(number),
            "author": self._context.ui.authorEdit.text.strip() or settings.setting(settings.AUTHOR_KEY),
        }
        self._session.post(self._dataset.route("cases", case, "restore"), body, restored)

    # ---- the hold-out

    def lock(self) -> None:
        """Lock the selected cases as hold-out set, once the user has confirmed it."""
        cases = self.table.allSelected()
        self._dataset.withAll(lambda entries: self._lockOf(cases, entries))

    def _lockOf(self, cases: list[str], entries: list[dict]) -> None:
        """Ask about cases, of all of the dataset."""
        copies = _copiesOf(cases, entries)
        labelled = self._dataset.trainable - sum(
            each["labelled"] and not each.get("excluded") for each in entries if each["id"] in copies
        )
        text = _(
            "Lock as hold-out set: {cases}?\n\nThis cannot be undone or changed. These cases are never used for "
            "training, and evaluate every version from now on. Labelled cases that remain for training: {rest}."
        ).format(cases=", ".join(cases), rest=labelled - len(cases))
        if copies:
            text += "\n\n" + _("The same scans, so locked with them: {copies}.").format(copies=", ".join(copies))
        if agreed(text, _("Lock the hold-out set")):
            self.lockCases(cases)

    def lockCases(self, cases: list[str]) -> None:
        """Lock cases as hold-out set without confirmation."""

        def locked(answer: dict) -> None:
            lines = [
                _("Hold-out set locked: {cases}.").format(cases=", ".join(answer["cases"])),
                *answer.get("notices", []),
            ]
            self._context.showMessage("\n".join(lines))
            self._dataset.refresh()

        body: dict[str, Any] = {"cases": cases}
        if self._dataset.holdout:
            body |= {"second": True, "author": settings.setting(settings.AUTHOR_KEY) or _("unknown")}
        self._session.post(self._dataset.route("holdout"), body, locked)

    def close(self) -> None:
        self.caseImport.close()
        self._menu.close()
        self.caseMenu.close()


def _copiesOf(cases: list[str], entries: list[dict]) -> list[str]:
    """The other cases of a dataset with the same scan as one of `cases`."""
    scans = {each.get("voxels_sha256") for each in entries if each["id"] in cases} - {None}
    return [each["id"] for each in entries if each["id"] not in cases and each.get("voxels_sha256") in scans]


def _tip(case: dict) -> str:
    shape, count = case.get("shape"), case["revisions"]
    lines = [case["id"], _("Revisions of the label: {n}").format(n=count) if count else _("No label")]
    if shape:
        lines.append(_("{k} slices of {j} x {i} voxels").format(k=shape[0], j=shape[1], i=shape[2]))
    if case.get("when"):
        when, how = formatting.date_time(case["when"]), formatting.label_origin(case)
        lines.append(_("Label of {when}, {how}").format(when=when, how=how))
    if case.get("partial"):
        lines.append(_("Only a part of the scan is labelled. The rest is ignored in training."))
    if case.get("excluded"):
        lines.append(_("Excluded: not used for training, and nothing is measured on it."))
    if case.get("region_mm"):
        lines.append(_("Drafts and trainings use the inside of its region alone."))
    if case.get("strokes"):
        lines.append(_("The strokes of the label are saved with it."))
    return "\n".join(lines)
