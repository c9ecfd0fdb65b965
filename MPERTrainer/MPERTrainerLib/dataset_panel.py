"""Which dataset: the chooser at the top, making a new one, opening a folder."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from MPERLib import callbacks, settings
from slicer.i18n import tr as _

from MPERTrainerLib.engine_session import Session

LAST_DATASET = "MPER/LastDataset"
_TEMPLATES = (("LA",), ("RV", "MYO", "LV"), ())


class DatasetPanel:
    """The datasets that the engine sees, as a list to choose from.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    """

    def __init__(self, ui, session: Session):
        self.ui, self.session = ui, session
        self.datasets: list[dict] = []
        self._filling = False
        ui.datasetSelector.connect("currentIndexChanged(int)", callbacks.slot(self._chosen))
        ui.newDatasetButton.connect("clicked()", callbacks.slot(self.askNew))
        ui.openDatasetButton.connect("clicked()", callbacks.slot(self.askFolder))
        self._makeForm()
        session.onChange(self._show)

    def reload(self, choose: str | None = None) -> None:
        """Ask the engine which datasets there are, and open one: `choose`, else that of the scene, else the last."""

        def take(found: list) -> None:
            self.datasets = found
            known = [entry["id"] for entry in found]
            wanted = choose or self.session.recall("Dataset") or settings.setting(LAST_DATASET)
            if wanted not in known:
                wanted = known[0] if len(known) == 1 else None
            self._fill(wanted)
            self._open(wanted)

        self.session.get("/datasets", take)

    def _fill(self, wanted: str | None) -> None:
        selector = self.ui.datasetSelector
        self._filling = True
        try:
            selector.clear()
            selector.addItem(_("Choose a dataset") if self.datasets else _("Make a dataset, or open a folder"), "")
            for entry in self.datasets:
                words = _("{name}, {labelled} of {cases} labelled")
                selector.addItem(words.format(**entry), entry["id"])
                selector.setItemData(selector.count - 1, entry["id"], qt.Qt.ToolTipRole)
            selector.currentIndex = max(selector.findData(wanted or ""), 0)
        finally:
            self._filling = False

    def _chosen(self, index: int) -> None:
        if not self._filling:
            self.session.tell("")
            self._open(str(self.ui.datasetSelector.itemData(index) or ""))

    def _open(self, dataset: str | None) -> None:
        if dataset:
            settings.setSetting(LAST_DATASET, dataset)
        self.session.choose(dataset or None)

    def _show(self) -> None:
        about = self.session.dataset
        names = []
        for label in about["labels"] if about else []:
            colour = "#{:02x}{:02x}{:02x}".format(*label["colour"])
            name = label["name"]
            meaning = (label.get("type") or {}).get("meaning")
            text = f"{name} ({meaning})" if meaning and meaning != name else name
            names.append(f'<span style="color:{colour}">■</span> {text}')
        self.ui.structuresLabel.text = ", ".join(names) or "–"
        if about:  # counts may have changed
            selector = self.ui.datasetSelector
            labelled = sum(case["labelled"] for case in self.session.cases)
            words = _("{name}, {labelled} of {cases} labelled")
            text = words.format(name=about["name"], labelled=labelled, cases=len(self.session.cases))
            index = selector.findData(about["id"])
            if index >= 0:
                selector.setItemText(index, text)

    # ---- a folder that is there

    def askFolder(self) -> None:
        """Let the person choose a folder that holds a dataset."""
        if self.session.engine.isRemote:
            self.session.tell(_("A remote engine has its own folders; those of this computer cannot be opened there."))
            return
        folder = askFolder(_("Open a dataset folder"), str(settings.datasetFolder().parent))
        if folder:
            self.openFolder(folder)

    def openFolder(self, folder: str) -> None:
        """Open the dataset in a folder, or those below it."""
        root, below = _root(Path(folder).resolve())

        def added(answer: dict) -> None:
            wanted = "/".join((answer["root"], *below))

            def take(found: list) -> None:
                inside = [e["id"] for e in found if e["id"] == wanted or e["id"].startswith(f"{wanted}/")]
                if inside:
                    settings.addRoot(root)
                    self.reload(inside[0])
                else:
                    self.session.tell(_("{folder} holds no dataset; make one with New.").format(folder=folder))

            self.session.get("/datasets", take)

        self.session.tell("")
        self.session.post("/roots", {"path": str(root)}, added)

    # ---- a new one

    def askNew(self) -> None:
        """Unfold the form that makes a dataset."""
        ui, remote = self.ui, self.session.engine.isRemote
        ui.newDatasetBox.visible = True
        for widget in (ui.folderEdit, ui.browseButton):
            widget.visible = not remote
        ui.rootSelector.visible = remote
        ui.rootSelector.clear()
        for root in self.session.info.get("roots", []):
            ui.rootSelector.addItem(root, root)
        ui.newNameEdit.text = ""
        ui.folderEdit.text = ui.folderEdit.text or str(settings.datasetFolder())
        self._takeKind(ui.kindSelector.currentIndex)
        ui.newNameEdit.setFocus()

    def _makeForm(self) -> None:
        ui = self.ui
        for words in (_("Left atrium"), _("Ventricles and myocardium"), _("My own structures")):
            ui.kindSelector.addItem(words)
        ui.kindSelector.connect("currentIndexChanged(int)", callbacks.slot(self._takeKind))
        ui.browseButton.connect("clicked()", callbacks.slot(self._browse))
        for edit in (ui.structuresEdit, ui.newNameEdit):
            edit.connect("textChanged(QString)", callbacks.slot(self._check))
        ui.createButton.connect("clicked()", callbacks.slot(self._create))
        ui.cancelNewButton.connect("clicked()", callbacks.slot(self._hideForm))
        self._hideForm()

    def _hideForm(self) -> None:
        self.ui.newDatasetBox.visible = False

    def _takeKind(self, index: int) -> None:
        edit, template = self.ui.structuresEdit, _TEMPLATES[max(index, 0)]
        edit.readOnly = bool(template)
        edit.text = ", ".join(template)
        if not template:
            edit.setFocus()
        self._check()

    def _browse(self) -> None:
        folder = askFolder(_("Where datasets are kept"), self.ui.folderEdit.text)
        if folder:
            self.ui.folderEdit.text = folder

    def _check(self) -> None:
        labels = _names(self.ui.structuresEdit.text)
        self.ui.meaningLabel.text = "\n".join(_describe(n, name) for n, name in enumerate(labels, start=1))
        self.ui.createButton.enabled = bool(labels) and bool(self.ui.newNameEdit.text.strip())

    def _create(self) -> None:
        ui = self.ui
        root = str(ui.rootSelector.itemData(ui.rootSelector.currentIndex)) if self.session.engine.isRemote else None
        self.make(ui.newNameEdit.text.strip(), _names(ui.structuresEdit.text), ui.folderEdit.text.strip(), root)

    def make(self, name: str, structures: list[str], folder: str, root: str | None = None) -> None:
        """Make a dataset and open it; below a folder of this computer, or in a root of a remote engine."""

        def create(answer: dict) -> None:
            if root is None:
                settings.addRoot(folder)
            inside = "".join("-" if c in '<>:"/\\|?*~' else c for c in name).strip(" .")
            body = {"root": answer["root"], "folder": inside, "name": name, "labels": structures}
            self.session.post("/datasets", body, made)

        def made(dataset: dict) -> None:
            self._hideForm()
            self.reload(dataset["id"])

        self.session.tell("")
        if root is not None:
            create({"root": root})
        else:
            self.session.post("/roots", {"path": folder}, create)


def askFolder(title: str, start: str) -> str:
    """A folder that the person chooses, "" if none."""
    with callbacks.dialog():
        return str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, start) or "")


def _root(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The root through which the engine reaches a folder, and the way from there.

    One that is known already, or a dataset would be listed twice; else the folder that a dataset lies in.
    """
    for root in map(Path, settings.roots()):
        if folder.is_relative_to(root.resolve()):
            return root, folder.relative_to(root.resolve()).parts
    return (folder.parent, (folder.name,)) if (folder / "dataset.json").is_file() else (folder, ())


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.replace(";", ",").split(",") if part.strip()))


def _describe(number: int, name: str) -> str:
    """What a structure will be coded as."""
    from mper.labels import make_label

    type_ = make_label(number, name).type
    if type_ is None:
        return _("{name}: no code known, yours alone").format(name=name)
    return _("{name}: {meaning}, {scheme} {code}").format(
        name=name,
        meaning=type_.meaning,
        scheme="SNOMED CT" if type_.scheme == "SCT" else type_.scheme,
        code=type_.value,
    )
