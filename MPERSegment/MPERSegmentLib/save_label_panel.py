"""Panel Save as label: dataset, case and name of the user, with which the segmentation is saved for training."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, mrml, phases, settings
from MPERLib.callbacks import later, slot
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.questions import agreed, textOf
from MPERLib.widgets import chosen, fill_box, silent
from slicer.i18n import tr as _

from MPERSegmentLib import result_node
from MPERSegmentLib.label_upload import LabelRequest, LabelUpload
from MPERSegmentLib.uploaded_scans import UploadedScans

_FOLDER_KEY = "MPER/LastDatasetFolder"


class SaveLabelPanel:
    """Saves the segmentation that is shown in a dataset of the engine.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    scans : UploadedScans
    settled : callable
        Takes a result: whether its mask includes all its strokes.
    """

    def __init__(
        self, context: PanelContext, session: EngineSession, scans: UploadedScans, settled: Callable[[Any], bool]
    ):
        self._context, self._session, self._scans, self._settled = context, session, scans, settled
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._cases: dict[str, dict[str, Any]] | None = None  # by id; None while they are being read
        self._locked: list[str] = []  # splits of the dataset that are held out
        self._readings = 0  # counts the times that a dataset was read: only the answers of the last one are taken
        self._message = ""
        self._upload: LabelUpload | None = None
        self._calls: list[Any] = []
        ui = context.ui
        ui.authorEdit.text = settings.setting(settings.AUTHOR_KEY)
        ui.datasetBox.connect("currentIndexChanged(int)", slot(self._onDataset))
        ui.openDatasetButton.connect("clicked()", slot(self._onOpen))
        ui.authorEdit.connect("textChanged(QString)", slot(self._onTyped))
        ui.caseBox.connect("editTextChanged(QString)", slot(self._onTyped))
        ui.keepButton.connect("clicked()", slot(self._onSave))
        ui.keepSection.connect("contentsCollapsed(bool)", slot(lambda collapsed: None if collapsed else self.refresh()))
        self._showButton()

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Save another segmentation, or none."""
        self._node = node
        self._message = ""
        self._suggestCase()

    def refresh(self) -> None:
        """Read the datasets from the engine again."""
        if self._session.running:
            self._ask("/datasets", self._takeDatasets)

    def cancel(self) -> None:
        """Cancel what is under way."""
        if self._upload is not None:
            self._upload.stop()
            self._upload = None
        for call in self._calls:
            call.abort()
        self._calls = []

    def _ask(self, path: str, done: Callable[[Any], object]) -> None:
        self._calls = [call for call in self._calls if not call.over] + [self._session.get(path, done, self._fail)]

    # ---- datasets and cases

    def _takeDatasets(self, datasets: list[dict[str, Any]], wanted: str = "") -> None:
        parameters = self._context.parameters
        wanted = wanted or (parameters.Dataset if parameters else "")
        text = _("{name} ({labelled} of {cases} labelled)")
        fill_box(self._context.ui.datasetBox, [(each["id"], text.format(**each)) for each in datasets], wanted)
        self._onDataset()

    def _onDataset(self) -> None:
        dataset = chosen(self._context.ui.datasetBox)
        if self._context.parameters and dataset:
            self._context.parameters.Dataset = dataset
        self._forgetCases()
        if dataset:
            reading = self._readings

            def take(about: dict[str, Any]) -> None:
                if reading == self._readings:
                    self._locked = about.get("locked") or [about.get("holdout") or ""]  # older engines know one
                    self._ask(route("datasets", dataset, "cases"), takeCases)

            def takeCases(cases: list[dict[str, Any]]) -> None:
                if reading == self._readings:
                    self._cases = {case["id"]: case for case in cases}
                    self._suggestCase()

            self._ask(route("datasets", dataset), take)
        self._showButton()

    def _forgetCases(self) -> None:
        """What was read of the dataset, or is on its way, is of another one or out of date."""
        self._cases = None
        self._readings += 1

    def _suggestCase(self) -> None:
        """Suggest the case that the scan is, else a new name without patient data."""
        box = self._context.ui.caseBox
        dataset, case = mrml.case_of(_case_holder(self._node))
        if dataset != chosen(self._context.ui.datasetBox) or not case:
            numbers = [int(match[1]) for match in map(re.compile(r"case-(\d+)").fullmatch, self._cases or []) if match]
            case = f"case-{max(numbers, default=0) + 1:03d}"
        with silent(box):
            box.clear()
            box.addItems(list(self._cases or ()))
            box.setEditText(case)
        self._showButton()

    def _onOpen(self) -> None:
        """Let the user choose a dataset's folder, or an empty one for a new dataset."""
        result = result_node.of(self._node)  # another result may come while the dialog is open
        if self._session.engine.isRemote:
            name = textOf(_("Name of the new dataset on the engine's computer:"), _("New dataset"))
            roots = self._session.engine.info.get("roots", [])
            if name and roots:
                self._create(roots[0], name, result)
            return
        start = settings.lastFolder(_FOLDER_KEY, settings.datasetFolder())
        with callbacks.dialog():
            folder = qt.QFileDialog.getExistingDirectory(
                slicer.util.mainWindow(),
                _("Folder of a dataset, or an empty folder for a new one"),
                str(start),
            )
        if folder:
            settings.setSetting(_FOLDER_KEY, str(Path(str(folder)).parent))
            self.openFolder(Path(str(folder)), result)

    def openFolder(self, folder: Path, result: dict[str, Any] | None) -> None:
        """Open the dataset in a folder of this computer, or create one there with the structures of a result."""

        def opened(answer: dict[str, Any]) -> None:
            settings.addRoot(folder.parent)
            if (folder / "dataset.json").is_file():
                self._choose(f"{answer['root']}/{folder.name}")
            else:
                self._create(answer["root"], folder.name, result)

        self._calls.append(self._session.post("/roots", {"path": str(folder.parent)}, opened, self._fail))

    def _create(self, root: str, name: str, result: dict[str, Any] | None) -> None:
        if result is None:
            self._fail(_("a new dataset takes its structures from a segmentation; segment a scan first"))
            return
        body = {"root": root, "folder": name, "name": name, "labels": result["labels"]}
        self._calls.append(
            self._session.post(
                "/datasets", body, lambda answer: self._choose(answer.get("id") or f"{root}/{name}"), self._fail
            )
        )

    def _choose(self, dataset: str) -> None:
        self._forgetCases()
        self._ask("/datasets", lambda datasets: self._takeDatasets(datasets, dataset))

    # ---- saving

    def _onSave(self) -> None:
        node, case = self._node, self._context.ui.caseBox.currentText.strip()
        scan = result_node.scan_of(node) if mrml.alive(node) else None
        dataset = chosen(self._context.ui.datasetBox)
        if scan is None or not dataset:
            self._onNotSaved(_("the scan of this segmentation is not in the scene; load it again"))
            return
        author = self._context.ui.authorEdit.text.strip()
        if settings.setting(settings.AUTHOR_KEY) != author:
            settings.setSetting(settings.AUTHOR_KEY, author)
        self._say(_("Saving \N{HORIZONTAL ELLIPSIS}"))
        cases = self._cases or {}
        known = cases.get(case)
        request = LabelRequest(node, scan, dataset, case, author, int(known.get("revisions") or 0) if known else None)
        locked = self._locked  # of this dataset, whichever is chosen while it is saved
        if known is not None and not _agreed(known, locked):
            self._say("")
            return
        copies = {each["voxels_sha256"]: each for each in cases.values() if each.get("voxels_sha256")}
        self._upload = LabelUpload(
            self._session,
            self._scans,
            request,
            self._settled,
            self._onSaved,
            self._onNotSaved,
            copies,
            lambda there: _isSameCase(there, locked),
        )
        self._showButton()

    def _onSaved(self, text: str, saved: bool) -> None:
        self._upload = None
        if saved:
            self._forgetCases()
            dataset = chosen(self._context.ui.datasetBox)
            later(lambda: self._choose(dataset), "datasets after saving")
        self._say(text)

    def _onTyped(self, _text: str) -> None:
        self._context.ui.keepWords.styleSheet = ""
        self._message = ""
        self._showButton()

    def _onNotSaved(self, reason: str) -> None:
        self._upload = None
        self._say(_("<b>Not saved.</b> {reason}").format(reason=html.escape(sentence(reason))))
        self._context.ui.keepWords.styleSheet = "color: #c0392b"

    def _fail(self, message: str) -> None:
        self._say(html.escape(sentence(message)))

    def _say(self, message: str) -> None:
        self._context.ui.keepWords.styleSheet = ""
        self._message = message
        self._showButton()

    def _showButton(self) -> None:
        ui = self._context.ui
        dataset, waiting = chosen(ui.datasetBox), ""
        missing = []
        if self._node is None:
            waiting = _("There is no segmentation to save.")
        elif dataset and self._cases is None:
            waiting = _("Reading the dataset \N{HORIZONTAL ELLIPSIS}")
        else:
            if not dataset:
                missing.append(_("a dataset (open or create one with Folder\N{HORIZONTAL ELLIPSIS})"))
            if not ui.caseBox.currentText.strip():
                missing.append(_("a name for the case"))
            if not ui.authorEdit.text.strip():
                missing.append(_("your name"))
            if missing:
                waiting = _("Please enter: {things}.").format(things=", ".join(missing))
        ui.keepButton.enabled = not waiting and self._upload is None
        ui.keepButton.toolTip = waiting or _("Saves the mask as a new revision; earlier revisions stay")
        ui.keepWords.text = self._message or waiting


def _case_holder(node: slicer.vtkMRMLSegmentationNode | None) -> slicer.vtkMRMLNode | None:
    """The node that says which case it is: the scan, and of a time series the mask, as each phase is a case."""
    return node if node is None or phases.of(node) else result_node.scan_of(node)


def _agreed(case: dict[str, Any], locked: Sequence[str]) -> bool:
    """Whether a label may change: one of the splits that are held out, `locked`, only after a question."""
    if case.get("split") not in locked or not case.get("labelled"):
        return True
    question = _(
        "{case} is in the hold-out set. A new label changes the figures of every version: those of before and "
        "after can no longer be compared. Save it?"
    )
    return agreed(question.format(case=case["id"]), _("Change a label of the hold-out set"))


def _isSameCase(case: dict[str, Any], locked: Sequence[str]) -> bool:
    """Whether the mask becomes another label of the case that the scan is already."""
    question = _("This scan is in the dataset already, as {case}. Another label for {case}?")
    return agreed(question.format(case=case["id"]), _("Save as label")) and _agreed(case, locked)
