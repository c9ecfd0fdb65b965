"""Panel Dataset: which dataset is open, a new one, or one in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, settings
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import chosen, fill_box, show_notes
from slicer.i18n import tr as _

from mper.labels import make_label
from MPERTrainerLib.open_dataset import OpenDataset

LAST_DATASET = "MPER/LastDataset"
_FOLDER_KEY = "MPER/LastDatasetFolder"
_TEMPLATES = (("LA",), ("RV", "MYO", "LV"), ())


class DatasetPanel:
    """The datasets of the engine, as a list to choose from.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: OpenDataset):
        self._context, self._session, self._dataset = context, session, dataset
        self.datasets: list[dict] = []
        ui = context.ui
        ui.datasetNotes.visible = False
        ui.datasetSelector.connect("currentIndexChanged(int)", slot(self._onChosen))
        ui.newDatasetButton.connect("clicked()", slot(self.askNew))
        ui.openDatasetButton.connect("clicked()", slot(self.askFolder))
        self._makeForm()
        dataset.onChange(self._show)

    def reload(self, choose: str | None = None) -> None:
        """Read the datasets from the engine, and open one: `choose`, else that of the scene, else the last one."""

        def take(found: list, notes: list[str]) -> None:
            self.datasets = found
            show_notes(self._context.ui.datasetNotes, notes)
            known = [entry["id"] for entry in found]
            wanted: str | None = choose or self._dataset.storedId() or settings.setting(LAST_DATASET)
            if wanted not in known:
                wanted = known[0] if len(known) == 1 else None
            first = _("Choose a dataset") if found else _("Create a dataset, or open a folder")
            entries = [("", first), *((entry["id"], _datasetText(**entry)) for entry in found)]
            fill_box(self._context.ui.datasetSelector, entries, wanted)
            self._open(wanted)

        self._session.getList("/datasets", take, self._context.showMessage)

    def _onChosen(self) -> None:
        self._context.clearMessage()
        self._open(chosen(self._context.ui.datasetSelector))

    def _open(self, dataset: str | None) -> None:
        if dataset:
            settings.setSetting(LAST_DATASET, dataset)
        self._dataset.open(dataset or None)

    def _show(self) -> None:
        about = self._dataset.about
        names = []
        for label in self._dataset.labels:
            colour = "#{:02x}{:02x}{:02x}".format(*label["colour"])
            name = label["name"]
            meaning = (label.get("type") or {}).get("meaning")
            text = f"{name} ({meaning})" if meaning and meaning != name else name
            names.append(f'<span style="color:{colour}">■</span> {text}')
        self._context.ui.structuresLabel.text = ", ".join(names) or "–"
        if about:  # counts may have changed
            selector = self._context.ui.datasetSelector
            index = selector.findData(about["id"])
            if index >= 0:
                selector.setItemText(index, _datasetText(about["name"], self._dataset.labelled, self._dataset.count))

    # ---- an existing folder

    def askFolder(self) -> None:
        """Let the user choose the folder of a dataset."""
        if self._session.engine.isRemote:
            self._context.showMessage(
                _("A remote engine cannot open folders of this computer. Choose one of its datasets, or create one.")
            )
            return
        start = settings.lastFolder(_FOLDER_KEY, settings.datasetFolder())
        folder = askFolder(_("Open the folder of a dataset"), str(start))
        if folder:
            settings.setSetting(_FOLDER_KEY, str(Path(folder).parent))
            self.openFolder(folder)

    def openFolder(self, folder: str) -> None:
        """Open the dataset in a folder, or the first one below it."""
        root, below = _root(Path(folder).resolve())

        def added(answer: dict) -> None:
            wanted = "/".join((answer["root"], *below))

            def take(found: list) -> None:
                inside = [e["id"] for e in found if e["id"] == wanted or e["id"].startswith(f"{wanted}/")]
                if inside:
                    settings.addRoot(root)
                    self.reload(inside[0])
                else:
                    message = _("There is no dataset in {folder}. Create one with New.")
                    self._context.showMessage(message.format(folder=folder))

            self._session.get("/datasets", take)

        self._context.clearMessage()
        self._session.post("/roots", {"path": str(root)}, added)

    # ---- a new dataset

    def askNew(self) -> None:
        """Show the form for a new dataset."""
        ui, remote = self._context.ui, self._session.engine.isRemote
        ui.newDatasetBox.visible = True
        for widget in (ui.folderEdit, ui.browseButton):
            widget.visible = not remote
        ui.rootSelector.visible = remote
        fill_box(ui.rootSelector, [(root, root) for root in self._session.engine.info.get("roots", [])], None)
        ui.newNameEdit.text = ""
        ui.folderEdit.text = ui.folderEdit.text or str(settings.datasetFolder())
        self._takeKind(ui.kindSelector.currentIndex)
        ui.newNameEdit.setFocus()

    def _makeForm(self) -> None:
        ui = self._context.ui
        for text in (_("Left atrium"), _("Ventricles and myocardium"), _("Other structures")):
            ui.kindSelector.addItem(text)
        ui.kindSelector.connect("currentIndexChanged(int)", slot(self._takeKind))
        ui.browseButton.connect("clicked()", slot(self._browse))
        for edit in (ui.structuresEdit, ui.newNameEdit):
            edit.connect("textChanged(QString)", slot(self._check))
        ui.createButton.connect("clicked()", slot(self._create))
        ui.cancelNewButton.connect("clicked()", slot(self._hideForm))
        self._hideForm()

    def _hideForm(self) -> None:
        self._context.ui.newDatasetBox.visible = False

    def _takeKind(self, index: int) -> None:
        edit, template = self._context.ui.structuresEdit, _TEMPLATES[max(index, 0)]
        edit.readOnly = bool(template)
        edit.text = ", ".join(template)
        if not template:
            edit.setFocus()
        self._check()

    def _browse(self) -> None:
        folder = askFolder(_("Folder for datasets"), self._context.ui.folderEdit.text)
        if folder:
            self._context.ui.folderEdit.text = folder

    def _check(self) -> None:
        ui = self._context.ui
        names = _names(ui.structuresEdit.text)
        ui.meaningLabel.text = "\n".join(_codeText(n, name) for n, name in enumerate(names, start=1))
        ui.createButton.enabled = bool(names) and bool(ui.newNameEdit.text.strip())

    def _create(self) -> None:
        ui = self._context.ui
        root = chosen(ui.rootSelector) if self._session.engine.isRemote else None
        self.create(ui.newNameEdit.text.strip(), _names(ui.structuresEdit.text), ui.folderEdit.text.strip(), root)

    def create(self, name: str, structures: list[str], folder: str, root: str | None = None) -> None:
        """Create a dataset and open it, in a folder of this computer or in a root of a remote engine."""

        def create(answer: dict) -> None:
            if root is None:
                settings.addRoot(folder)
            inside = "".join("-" if c in '<>:"/\\|?*~' else c for c in name).strip(" .")
            body = {"root": answer["root"], "folder": inside, "name": name, "labels": structures}
            self._session.post("/datasets", body, created)

        def created(dataset: dict) -> None:
            self._hideForm()
            self.reload(dataset["id"])

        self._context.clearMessage()
        if root is not None:
            create({"root": root})
        else:
            self._session.post("/roots", {"path": folder}, create)


def askFolder(title: str, start: str) -> str:
    """The folder that the user chooses, "" if none."""
    with callbacks.dialog():
        return str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, start) or "")


def _datasetText(name: str, labelled: int, cases: int, **_more: Any) -> str:
    return _("{name}, {labelled} of {cases} labelled").format(name=name, labelled=labelled, cases=cases)


def _root(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The root through which the engine reaches a folder, and the path from there.

    A root that is known already, or a dataset would be listed twice; else the folder that contains the dataset.
    """
    for root in map(Path, settings.roots()):
        if folder.is_relative_to(root.resolve()):
            return root, folder.relative_to(root.resolve()).parts
    return (folder.parent, (folder.name,)) if (folder / "dataset.json").is_file() else (folder, ())


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.replace(";", ",").split(",") if part.strip()))


def _codeText(number: int, name: str) -> str:
    """The code that a structure gets."""
    code = make_label(number, name).type
    if code is None:
        return _("{name}: without a code").format(name=name)
    return _("{name}: {meaning}, {scheme} {code}").format(
        name=name,
        meaning=code.meaning,
        scheme="SNOMED CT" if code.scheme == "SCT" else code.scheme,
        code=code.value,
    )
