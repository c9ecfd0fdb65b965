"""The preview of an import: which scans and masks were found, what the masks show, and what of it is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from MPERLib.callbacks import slot
from MPERLib.formatting import first_lines, sentence
from MPERLib.widgets import chosen, fill_box
from slicer.i18n import tr as _

_CHOOSE, _LEAVE_OUT = "?", "0"
_VOXELS, _NOTE = 1, 3  # columns


class ImportPreview:
    """A list of scans in the panel, and of the structures that their masks hold.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    """

    def __init__(self, ui: Any):
        self.ui = ui
        self._rows: list[dict] = []
        self._boxes: dict[str, Any] = {}  # combo boxes by what a mask holds
        self._widgets: list[Any] = []
        self._add: Callable[[list[dict]], None] = lambda _scans: None
        self._cancel: Callable[[], None] = lambda: None
        ui.previewTree.header().moveSection(_VOXELS, _NOTE)  # what has to be decided stands in view
        ui.previewTree.connect("itemChanged(QTreeWidgetItem*,int)", slot(self._check))
        ui.addPreviewButton.connect("clicked()", slot(self._onAdd))
        ui.cancelPreviewButton.connect("clicked()", slot(self._onCancel))
        self.hide()

    def show(
        self,
        rows: Sequence[dict],
        labels: Sequence[Mapping[str, Any]],
        known: Mapping[str, str],
        left_out: Sequence[str],
        add: Callable[[list[dict]], None],
        cancel: Callable[[], None],
    ) -> None:
        """Ask what is added.

        Parameters
        ----------
        rows : sequence of dict
            The answers "preview" of ``mper stage``; ``ticked`` is false of a row that is not added unless it is chosen.
        labels : sequence of dict
            The structures of the dataset.
        known : mapping of str to str
            The cases of the dataset, by the checksum of their scan.
        left_out : sequence of str
            What is not among the rows, and why: a line each.
        add, cancel : callable
            `add` takes what ``mper stage`` takes as "add".
        """
        self._rows, self._add, self._cancel = list(rows), add, cancel
        ui, tree = self.ui, self.ui.previewTree
        tree.blockSignals(True)
        tree.clear()
        for row in rows:
            case = known.get(row.get("voxels_sha256") or "")
            item = qt.QTreeWidgetItem([row["id"], _size(row), _mask(row), _note(row, case)])
            item.setToolTip(3, "\n".join(sentence(text) for text in row["notices"]))
            item.setCheckState(0, qt.Qt.Checked if not case and row.get("ticked", True) else qt.Qt.Unchecked)
            tree.addTopLevelItem(item)
        tree.blockSignals(False)
        for column in range(tree.columnCount):
            tree.resizeColumnToContents(column)
        self._makeBoxes(labels)
        ui.emptyMasksCheckBox.visible = any((row["mask"] or {}).get("empty") for row in rows)
        ui.emptyMasksCheckBox.checked = False
        text = _("{scans} scans, {masks} with a mask. Choose what is added.")
        counts = text.format(scans=len(rows), masks=sum(row["mask"] is not None for row in rows))
        ui.previewLabel.text = "\n".join([counts, *map(sentence, first_lines(left_out))])
        ui.previewBox.visible = True
        self._check()

    def hide(self) -> None:
        self.ui.previewBox.visible = False
        self._add, self._cancel, self._rows = (lambda _scans: None), (lambda: None), []

    def _makeBoxes(self, labels: Sequence[Mapping[str, Any]]) -> None:
        """A combo box for each thing that the masks hold, with the structure that it seems to be."""
        for widget in self._widgets:
            widget.setParent(None)
            widget.deleteLater()
        self._widgets, self._boxes = [], {}
        held: dict[str, list[dict]] = {}
        for row in self._rows:
            for value in (row["mask"] or {}).get("values", ()):
                held.setdefault(_key(value), []).append(value)
        layout = self.ui.mappingBox.layout()
        layout.setColumnStretch(0, 1)
        structures = [(str(label["value"]), label["name"]) for label in labels]
        for n, (key, values) in enumerate(held.items()):
            text = _("{thing} ({voxels} voxels, masks: {masks}):")
            label = qt.QLabel(text.format(thing=key, voxels=sum(v["voxels"] for v in values), masks=len(values)))
            label.wordWrap = True
            label.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)  # the panel is no wider for it
            box = qt.QComboBox()
            seems = values[0]["structure"]
            entries = [*structures, (_LEAVE_OUT, _("Leave out"))]
            if seems is None:
                entries = [(_CHOOSE, _("Choose a structure")), *entries]
            fill_box(box, entries, _CHOOSE if seems is None else str(seems))
            box.connect("currentIndexChanged(int)", slot(self._check))
            layout.addWidget(label, n, 0)
            layout.addWidget(box, n, 1)
            self._widgets += [label, box]
            self._boxes[key] = box
        self.ui.mappingBox.visible = bool(held)

    def _chosenRows(self) -> list[dict]:
        tree = self.ui.previewTree
        return [row for n, row in enumerate(self._rows) if tree.topLevelItem(n).checkState(0) == qt.Qt.Checked]

    def _check(self) -> None:
        """Enable *Add* once every structure is chosen."""
        rows = self._chosenRows()
        needed = {_key(value) for row in rows for value in (row["mask"] or {}).get("values", ())}
        open_ = [key for key in needed if chosen(self._boxes[key]) == _CHOOSE]
        self.ui.addPreviewButton.enabled = bool(rows) and not open_
        self.ui.addPreviewButton.toolTip = (
            _("Say first which structure this is: {things}.").format(things=", ".join(open_))
            if open_
            else _("Add the ticked scans to the dataset")
        )

    def _onAdd(self) -> None:
        scans = []
        for row in self._chosenRows():
            scan = {"number": row["number"]}
            mask = row["mask"]
            if mask is not None:
                structures = {str(value["value"]): int(chosen(self._boxes[_key(value)])) for value in mask["values"]}
                says = self.ui.emptyMasksCheckBox.checked if mask["empty"] else any(structures.values())
                scan["mask"], scan["structures"] = mask["usable"] and says, structures
            scans.append(scan)
        add = self._add
        self.hide()
        add(scans)

    def _onCancel(self) -> None:
        cancel = self._cancel
        self.hide()
        cancel()


def needed(rows: Sequence[dict], known: Mapping[str, str]) -> bool:
    """Whether there is something to decide: a mask, several scans, or one that is a case already."""
    return len(rows) > 1 or any(row["mask"] is not None or row.get("voxels_sha256") in known for row in rows)


def _key(value: Mapping[str, Any]) -> str:
    """What a mask holds, for people: the name that the source gives it, or its value."""
    if value["name"]:
        meaning = value["meaning"]
        return f"{value['name']} ({meaning})" if meaning and meaning != value["name"] else value["name"]
    return _("Value {n}").format(n=value["value"])


def _size(row: Mapping[str, Any]) -> str:
    if row.get("series"):
        return _("time series")
    shape = " x ".join(map(str, row["shape"]))
    spacing = row["spacing_mm"]
    return shape if spacing is None else f"{shape}, {' x '.join(f'{mm:.3g}' for mm in spacing)} mm"


def _mask(row: Mapping[str, Any]) -> str:
    mask = row["mask"]
    if mask is None:
        return _("none")
    if mask["empty"]:
        return _("empty")
    if mask.get("unedited"):
        return _("of a model, unedited")
    if not mask["usable"]:
        return _("not in the scan")
    return ", ".join(_key(value) for value in mask["values"])


def _note(row: Mapping[str, Any], case: str | None) -> str:
    if case:
        return _("is {case} already").format(case=case)
    return sentence(row["notices"][-1]) if row["notices"] else ""
