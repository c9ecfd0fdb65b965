"""Panel Keep as label: the mask becomes a revision of a case in a dataset, with its strokes beside it.

Nothing in a dataset is ever overwritten.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, mrml, settings
from MPERLib.callbacks import slot
from MPERLib.engine import route
from slicer.i18n import tr as _

from MPERSegmentLib import boxes, result_node, stroke_node
from MPERSegmentLib.engine_session import EngineSession
from MPERSegmentLib.panel_context import PanelContext, sentence
from MPERSegmentLib.turns import later

_AUTHOR_KEY = "MPER/Author"
_CASE = "MPER.Case"  # of a scan in the scene: dataset and case that it is, separated by a line feed
_KEPT = "MPER.Kept"  # of a result: where it was kept last, by whom, and a checksum of its voxels
_WAIT_MS, _WAITS = 100, 100  # for the mask to follow the last stroke


@dataclass(frozen=True)
class _LabelToSave:
    """What the user wants to keep, where, and who vouches for it."""

    node: Any
    scan: Any
    dataset: str
    case: str
    author: str

    @property
    def alive(self) -> bool:
        return mrml.alive(self.node) and mrml.alive(self.scan)


class SaveLabelPanel:
    """Stores the result that is shown in a dataset of the engine.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    settled : callable
        Takes a result: whether its mask has followed all its strokes.
    """

    def __init__(self, context: PanelContext, session: EngineSession, settled: Callable[[Any], bool]):
        self._context, self._session, self._settled = context, session, settled
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._datasets: list[dict[str, Any]] = []
        self._cases: dict[str, int] | None = None  # each with its revisions; None while they are being read
        self._busy = False
        self._said = ""
        self._call: Any = None
        self._listing: Any = None
        ui = context.ui
        ui.authorEdit.text = settings.setting(_AUTHOR_KEY)
        ui.datasetBox.connect("currentIndexChanged(int)", slot(self._onDataset))
        ui.openDatasetButton.connect("clicked()", slot(self._onOpen))
        ui.authorEdit.connect("textChanged(QString)", slot(self._onTyped))
        ui.caseBox.connect("editTextChanged(QString)", slot(self._onTyped))
        ui.keepButton.connect("clicked()", slot(self._onKeep))
        self._showButton()

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Keep another result, or none."""
        self._node = node
        self._said = ""
        self._suggest()

    def refresh(self) -> None:
        """Ask the engine which datasets there are."""
        if self._session.engine.state == "ready":
            self._listing = self._session.engine.get("/datasets", self._take, self._fail)

    def drop(self) -> None:
        """Give up what is under way."""
        for call in (self._call, self._listing):
            if call is not None:
                call.abort()
        self._call = self._listing = None
        self._busy = False

    # ---- datasets and cases

    def _take(self, datasets: list[dict[str, Any]], chosen: str = "") -> None:
        self._datasets = datasets
        parameters = self._context.parameters
        wanted = chosen or (parameters.get("Dataset") if parameters else "")
        entries = [
            (dataset["id"], _("{name} ({labelled} of {cases} labelled)").format(**dataset)) for dataset in datasets
        ]
        boxes.fill(self._context.ui.datasetBox, entries, wanted)
        self._onDataset()

    def _onDataset(self) -> None:
        dataset = boxes.chosen(self._context.ui.datasetBox)
        if self._context.parameters and dataset:
            self._context.parameters.put("Dataset", dataset)
        self._cases = None
        if dataset:
            self._listing = self._session.engine.get(route("datasets", dataset, "cases"), self._takeCases, self._fail)
        self._showButton()

    def _takeCases(self, cases: list[dict[str, Any]]) -> None:
        self._cases = {case["id"]: int(case.get("revisions") or 0) for case in cases}
        self._suggest()

    def _suggest(self) -> None:
        """Offer the case that the scan is, else a new name that says nothing about the patient."""
        box = self._context.ui.caseBox
        scan = result_node.scan_of(self._node) if self._node else None
        dataset, _sep, case = ((scan.GetAttribute(_CASE) if scan else None) or "").partition("\n")
        if dataset != boxes.chosen(self._context.ui.datasetBox) or not case:
            numbers = [int(match[1]) for match in map(re.compile(r"case-(\d+)").fullmatch, self._cases or []) if match]
            case = f"case-{max(numbers, default=0) + 1:03d}"
        blocked = box.blockSignals(True)
        box.clear()
        box.addItems(list(self._cases or ()))
        box.setEditText(case)
        box.blockSignals(blocked)
        self._showButton()

    def _onOpen(self) -> None:
        """Choose a dataset's folder, or an empty one to begin a dataset in."""
        if self._session.engine.isRemote:
            with callbacks.dialog():
                name = qt.QInputDialog.getText(
                    None, _("New dataset"), _("Name of the new dataset on the engine's computer:")
                )
            roots = self._session.engine.info.get("roots", [])
            if name and roots:
                self._make(roots[0], str(name))
            return
        start = settings.datasetFolder()
        with callbacks.dialog():
            folder = qt.QFileDialog.getExistingDirectory(
                slicer.util.mainWindow(),
                _("A dataset's folder, or a new one"),
                str(start if start.is_dir() else start.parent),
            )
        if folder:
            self.openFolder(Path(str(folder)))

    def openFolder(self, folder: Path) -> None:
        """Open the dataset in a folder of this computer, or begin one there."""

        def known(answer: dict[str, Any]) -> None:
            settings.addRoot(folder.parent)
            if (folder / "dataset.json").is_file():
                self._choose(f"{answer['root']}/{folder.name}")
            else:
                self._make(answer["root"], folder.name)

        self._call = self._session.engine.post("/roots", {"path": str(folder.parent)}, known, self._fail)

    def _make(self, root: str, name: str) -> None:
        result = result_node.of(self._node)
        if result is None:
            self._fail(_("A dataset takes its structures from a result; segment a scan first."))
            return
        body = {"root": root, "folder": name, "name": name, "labels": result["labels"]}
        self._call = self._session.engine.post(
            "/datasets", body, lambda answer: self._choose(answer.get("id") or f"{root}/{name}"), self._fail
        )

    def _choose(self, dataset: str) -> None:
        self._cases = None  # what was read before may be out of date
        self._listing = self._session.engine.get(
            "/datasets", lambda datasets: self._take(datasets, dataset), self._fail
        )

    # ---- keeping

    def _onKeep(self) -> None:
        node, case = self._node, self._context.ui.caseBox.currentText.strip()
        scan = result_node.scan_of(node) if mrml.alive(node) else None
        dataset = boxes.chosen(self._context.ui.datasetBox)
        if scan is None or not dataset:
            self._fail(_("The scan of this result is no longer in the scene."))
            return
        author = self._context.ui.authorEdit.text.strip()
        wish = _LabelToSave(node, scan, dataset, case, author)
        if settings.setting(_AUTHOR_KEY) != author:
            settings.setSetting(_AUTHOR_KEY, author)
        self._busy = True
        self._tell(_("Keeping \N{HORIZONTAL ELLIPSIS}"))
        self._call = self._session.engine.get(
            route("datasets", dataset),
            lambda found: later(lambda: self._withLabels(wish, found["labels"], _WAITS), "mask of what is kept"),
            self._fail,
        )

    def _withLabels(self, wish: _LabelToSave, labels: list[dict[str, Any]], waits: int) -> None:
        """Once the mask has followed the last stroke: mask and strokes belong together."""
        if not self._busy or not wish.alive:
            self._fail("")
            return
        if not self._settled(wish.node):
            if not waits:
                self._fail(_("The mask has not followed the last stroke; undo the stroke, or try again when it has."))
                return
            again = slot(lambda: self._withLabels(wish, labels, waits - 1), "keep waits for a stroke")
            qt.QTimer.singleShot(_WAIT_MS, again)
            return
        try:
            part, start = mrml.mask_part(wish.node, wish.scan, labels)
            drawn = _drawn(wish.node, labels)
        except ValueError as error:
            self._fail(str(error))
            return
        now = _kept(wish, part, start)
        before = _kept_before(wish.node)
        number = before.pop("number", None)
        if before == now and (self._cases or {}).get(wish.case) == number:
            self._busy = False
            words = _("Nothing has changed: this is revision {n} of {case} already.")
            self._tell(words.format(n=number, case=wish.case))
            return

        def store(_answer: Any = None) -> None:
            later(lambda: self._store(wish, part, start, drawn), "keep begins")

        if wish.case in (self._cases or {}):
            store()
        else:
            self._withScan(wish.scan, lambda held: self._addCase(wish.dataset, wish.case, held, store))

    def _withScan(self, scan: Any, then: Callable[[str], None]) -> None:
        """The engine's id of a scan that it may have to be sent first."""
        held = self._session.scans.known(scan)
        if held is not None:
            then(held)
            return
        geometry = mrml.geometry_of(scan)
        header = {"affine": geometry.affine.tolist(), "spacing_known": geometry.spacing_known}

        def sent(answer: dict[str, Any]) -> None:
            self._session.scans.remember(scan, answer["scan"])
            then(answer["scan"])

        self._call = self._session.engine.postArray("/scans", mrml.array_of(scan), header, sent, self._fail)

    def _addCase(self, dataset: str, case: str, held: str, then: Callable[[Any], None]) -> None:
        body = {"scan": held, "id": case, "source": {"program": "3D Slicer"}, "split": "train"}
        self._call = self._session.engine.post(route("datasets", dataset, "cases"), body, then, self._fail)

    def _store(self, wish: _LabelToSave, part: Any, start: tuple[int, int, int], drawn: list[dict[str, Any]]) -> None:
        if not wish.alive:
            self._fail(_("The scan of this result is no longer in the scene."))
            return
        node, scan, dataset, case = wish.node, wish.scan, wish.dataset, wish.case
        now = _kept(wish, part, start)
        result = result_node.of(node) or {}
        edited = result_node.is_edited(node)
        path = route(
            "datasets",
            dataset,
            "cases",
            case,
            "labels",
            author=wish.author,
            how="strokes" if drawn else "model",
            edited="true" if edited else "false",
            model=result.get("model"),
            version=result.get("model_version"),
            seconds=round(result_node.edited_seconds(node), 1),
        )

        def kept(answer: dict[str, Any]) -> None:
            if not drawn:
                done(answer)
                return
            body = {"strokes": drawn, "scan_sha256": result.get("scan_sha256"), "model": result.get("model")}
            strokesPath = route("datasets", dataset, "cases", case, "labels", answer["number"], "strokes")

            def failed(message: str) -> None:
                done(answer, _("{message} The mask is kept, its strokes are not.").format(message=sentence(message)))

            self._call = self._session.engine.put(strokesPath, body, lambda _revision: done(answer), failed)

        def done(answer: dict[str, Any], but: str = "") -> None:
            number = answer.get("number", "")
            self._busy, self._cases = False, None  # until the cases are read anew
            words = _("Kept as revision {n} of {case}.")
            if drawn:
                words = _("Kept as revision {n} of {case}, with {strokes} strokes.")
            if len(drawn) == 1:
                words = _("Kept as revision {n} of {case}, with its stroke.")
            self._tell(but or words.format(n=number, case=case, strokes=len(drawn)))
            later(lambda: self._note(node, scan, f"{dataset}\n{case}", {**now, "number": number}), "note what is kept")
            later(lambda: self._choose(dataset), "datasets after keeping")

        stop = [first + n for first, n in zip(start, part.shape, strict=True)]
        grid = mrml.geometry_of(scan).crop(start, stop)  # the engine refuses the grid of another scan
        header = {"start": list(start), "affine": grid.affine.tolist(), "spacing_known": grid.spacing_known}
        self._call = self._session.engine.postArray(path, part, header, kept, self._fail)

    @staticmethod
    def _note(node: Any, scan: Any, case: str, kept: dict[str, Any]) -> None:
        if mrml.alive(scan):
            scan.SetAttribute(_CASE, case)
        if mrml.alive(node):
            node.SetAttribute(_KEPT, json.dumps(kept))

    def _onTyped(self, _text: str) -> None:
        self._said = ""
        self._showButton()

    def _fail(self, message: str) -> None:
        self._busy = False
        self._tell(sentence(message))

    def _tell(self, message: str) -> None:
        self._said = message
        self._showButton()

    def _showButton(self) -> None:
        ui = self._context.ui
        dataset, waiting = boxes.chosen(ui.datasetBox), ""
        missing = []
        if self._node is None:
            waiting = _("There is no result to keep yet.")
        elif dataset and self._cases is None:
            waiting = _("The dataset is being read.")
        else:
            if not dataset:
                missing.append(_("a dataset (Folder\N{HORIZONTAL ELLIPSIS} opens or begins one)"))
            if not ui.caseBox.currentText.strip():
                missing.append(_("a name for the case"))
            if not ui.authorEdit.text.strip():
                missing.append(_("your name"))
            if missing:
                waiting = _("Still needed: {things}.").format(things=", ".join(missing))
        ui.keepButton.enabled = not waiting and not self._busy
        ui.keepButton.toolTip = waiting or _("Stores the mask as a new revision; earlier ones stay")
        ui.keepWords.text = self._said or waiting


def _kept(wish: _LabelToSave, part: Any, start: tuple[int, int, int]) -> dict[str, Any]:
    """What makes two revisions the same."""
    voxels = hashlib.sha256(repr((tuple(map(int, start)), part.shape)).encode())
    voxels.update(part.tobytes())
    return {
        "dataset": wish.dataset,
        "case": wish.case,
        "author": wish.author,
        "voxels": voxels.hexdigest(),
        "strokes": list(stroke_node.applied(wish.node)),
    }


def _drawn(node: slicer.vtkMRMLSegmentationNode, labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The strokes that made a result, with the values that a dataset gives the structures.

    Raises
    ------
    ValueError
        If one is of a structure that the dataset does not have.
    """
    names = {label["value"]: label["name"] for label in (result_node.of(node) or {}).get("labels", [])}
    values = {label["name"].casefold(): label["value"] for label in labels}
    found = []
    for one in stroke_node.listed(node):
        entry = stroke_node.to_json(one.stroke)
        if entry["value"]:
            name = names.get(entry["value"], "")
            if name.casefold() not in values:
                raise ValueError(_("the dataset has no structure {name}, of which a stroke is").format(name=name))
            entry["value"] = values[name.casefold()]
        found.append(entry)
    return found


def _kept_before(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """Where a result was kept last, and what it was like."""
    try:
        found = json.loads(node.GetAttribute(_KEPT) or "{}")
    except ValueError:  # a scene that somebody changed by hand
        return {}
    return found if isinstance(found, dict) else {}
