"""Which dataset: the chooser at the top, making a new one, opening a folder."""

from __future__ import annotations

import qt
import slicer
from MPERLib import places, trace
from slicer.i18n import tr as _

from MPERTrainerLib.session import Session

LAST_DATASET = "MPER/LastDataset"
_TEMPLATES = (("LA",), ("RV", "MYO", "LV"), ())


class DatasetChooser:
    """The datasets that the engine sees, as a list to choose from.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    loadUI : callable
        Loads a .ui file of this module by its name.
    """

    def __init__(self, ui, session: Session, loadUI):
        self.ui, self.session, self._loadUI = ui, session, loadUI
        self.datasets: list[dict] = []
        self.dialog = None
        self._filling = False
        ui.datasetSelector.connect("currentIndexChanged(int)", trace.slot(self._chosen))
        ui.newDatasetButton.connect("clicked()", trace.slot(self.askNew))
        ui.openDatasetButton.connect("clicked()", trace.slot(self.askFolder))
        session.onChange(self._show)

    def reload(self, choose: str | None = None) -> None:
        """Ask the engine which datasets there are, and open one: `choose`, else that of the scene, else the last."""

        def take(found: list) -> None:
            self.datasets = found
            known = [entry["id"] for entry in found]
            wanted = choose or self.session.recall("Dataset") or places.setting(LAST_DATASET)
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
                words = _("{name} ({labelled} of {cases} labelled)")
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
            places.setSetting(LAST_DATASET, dataset)
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
            words = _("{name} ({labelled} of {cases} labelled)")
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
        folder = qt.QFileDialog.getExistingDirectory(
            None, _("Open a dataset folder"), str(places.datasetFolder().parent)
        )
        if folder:
            self.openFolder(str(folder))

    def openFolder(self, folder: str) -> None:
        """Open the dataset in a folder, or those below it."""

        def added(answer: dict) -> None:
            root = answer["root"]

            def take(found: list) -> None:
                inside = [e["id"] for e in found if e["id"] == root or e["id"].startswith(f"{root}/")]
                if inside:
                    places.addRoot(folder)
                    self.reload(inside[0] if len(inside) == 1 else None)
                else:
                    self.session.tell(_("{folder} holds no dataset; make one with New.").format(folder=folder))

            self.session.get("/datasets", take)

        self.session.post("/roots", {"path": folder}, added)

    # ---- a new one

    def askNew(self) -> None:
        """Show the window that makes a dataset."""
        dialog = self._loadUI("NewDataset")
        ui = slicer.util.childWidgetVariables(dialog)
        remote = self.session.engine.isRemote
        ui.folderEdit.text = str(places.datasetFolder())
        ui.folderRow.visible = not remote
        ui.rootSelector.visible = remote
        for root in self.session.info.get("roots", []):
            ui.rootSelector.addItem(root, root)
        for words in (_("Left atrium"), _("Ventricles and myocardium"), _("My own structures")):
            ui.kindSelector.addItem(words)

        def kind(index: int) -> None:
            own = not _TEMPLATES[index]
            ui.structuresEdit.readOnly = not own
            ui.structuresEdit.text = ", ".join(_TEMPLATES[index])
            if own:
                ui.structuresEdit.setFocus()

        def browse() -> None:
            folder = qt.QFileDialog.getExistingDirectory(dialog, _("Where datasets are kept"), ui.folderEdit.text)
            if folder:
                ui.folderEdit.text = str(folder)

        def check() -> None:
            labels = _names(ui.structuresEdit.text)
            ui.meaningLabel.text = "; ".join(_describe(n, name) for n, name in enumerate(labels, start=1))
            ui.createButton.enabled = bool(labels) and bool(ui.nameEdit.text.strip())

        def create() -> None:
            root = str(ui.rootSelector.itemData(ui.rootSelector.currentIndex)) if remote else None
            names = _names(ui.structuresEdit.text)
            self.make(ui.nameEdit.text.strip(), names, folder=ui.folderEdit.text.strip(), root=root)
            dialog.close()

        ui.kindSelector.connect("currentIndexChanged(int)", trace.slot(kind))
        ui.browseButton.connect("clicked()", trace.slot(browse))
        for edit in (ui.structuresEdit, ui.nameEdit):
            edit.connect("textChanged(QString)", trace.slot(lambda _text: check()))
        ui.createButton.connect("clicked()", trace.slot(create))
        ui.cancelButton.connect("clicked()", trace.slot(lambda: dialog.close()))
        kind(0)
        check()
        self.dialog = dialog
        dialog.show()
        ui.nameEdit.setFocus()

    def make(self, name: str, structures: list[str], folder: str = "", root: str | None = None) -> None:
        """Make a dataset and open it; in a folder of this computer, or in a root of a remote engine."""

        def create(answer: dict) -> None:
            if folder and root is None:
                places.addRoot(folder)
            inside = "".join("-" if c in '<>:"/\\|?*~' else c for c in name).strip(" .")
            body = {"root": answer["root"], "folder": inside, "name": name, "labels": structures}
            self.session.post("/datasets", body, lambda made: self.reload(made["id"]))

        self.session.tell("")
        if root is not None:
            create({"root": root})
        else:
            self.session.post("/roots", {"path": folder}, create)

    def close(self) -> None:
        if self.dialog is not None:
            self.dialog.close()
            self.dialog = None


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
