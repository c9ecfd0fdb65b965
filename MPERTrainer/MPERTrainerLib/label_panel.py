"""The case that is open: its label in the Segment Editor, and what is drawn stored as a new revision."""

from __future__ import annotations

import time

import numpy as np
import slicer
from MPERLib import callbacks, mrml, scrolling, settings
from MPERLib.engine import route
from slicer.i18n import tr as _

from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.engine_session import AUTHOR, Session
from MPERTrainerLib.formatting import how
from MPERTrainerLib.job_button import JobButton
from MPERTrainerLib.slices import sliceBySlice

_EDITOR_TAG = "MPERTrainer"
_PAUSE_S = 60.0  # who changes nothing for longer is not working on it


class LabelPanel:
    """Opens one case at a time.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    caseNodes : CaseNodes
    """

    def __init__(self, ui, session: Session, caseNodes: CaseNodes):
        self.ui, self.session, self.caseNodes = ui, session, caseNodes
        self.case: str | None = None
        self.segmentation = None
        self.volume = None
        self.editor = None
        self._parent: dict | None = None  # the revision that is open
        self._start: tuple | None = None  # the mask as it was opened: part and where it begins
        self._model: dict | None = None  # the result that drew the draft
        self._watch: tuple | None = None
        self._seconds, self._last = 0.0, 0.0
        self._saving = False
        self._entered = False
        self.job = JobButton(session, ui.draftButton, ui.editProgress)
        ui.authorEdit.text = settings.setting(AUTHOR) or _userName()
        ui.authorEdit.connect("editingFinished()", callbacks.slot(self._keepAuthor))
        ui.saveLabelButton.connect("clicked()", callbacks.slot(self.save))
        ui.draftButton.connect("clicked()", callbacks.slot(self.draft))
        ui.closeCaseButton.connect("clicked()", callbacks.slot(self.closeCase))
        session.onChange(self._show)
        session.onLost(self._lost)
        self._show()

    def _lost(self) -> None:
        """The engine is gone: what is drawn stays, and can be saved when it is back."""
        self._saving = False
        if self.segmentation is None:
            self.case = None
        self._show()

    # ---- opening

    def open(self, case: str) -> None:
        """Show a case with its latest label, or with what was drawn and not saved, ready to be edited."""
        self._leave()
        self.session.tell("")
        self.caseNodes.clearGroup("compare")
        self.caseNodes.clearGroup("revision")
        self.case = case
        self._show()
        self.ui.casesSection.collapsed = False

        def withRevisions(revisions: list) -> None:
            if self.case == case:
                self._parent = revisions[-1] if revisions else None
                self.caseNodes.openImage(case, withImage, failed)

        def withImage(volume) -> None:
            if self.case != case:
                return
            self.volume = volume
            kept = self.caseNodes.unsaved(case)
            if kept is not None:
                self._begin(*kept)
                self.session.tell(_("These are your changes to {case} that were not saved yet.").format(case=case))
            elif self._parent is None:
                self._beginWith(np.zeros((0, 0, 0), np.uint8), {})
            else:
                path = self.session.path("cases", case, "labels", self._parent["number"]) + "?cropped=true"
                self.session.getArray(path, lambda *answer: self.case == case and self._beginWith(*answer), failed)

        def failed(message: str) -> None:
            self.case = None
            self._show()
            self.session.fail(message)

        self.session.get(self.session.path("cases", case, "labels"), withRevisions, failed)

    def _beginWith(self, part: np.ndarray, header: dict) -> None:
        """Edit a label that has come from the engine."""
        if mrml.alive(self.volume):
            name = _("{case} label").format(case=self.case)
            node = self.caseNodes.addLabel(part, header.get("start") or (0, 0, 0), self.volume, name)
            self._begin(node, None, mrml.mask_part(node, self.volume, self.session.dataset["labels"]))

    def _begin(self, segmentation, model: dict | None, start: tuple | None = None) -> None:
        """Edit a segmentation that `model` drew, if one did; `start` is its mask where that is saved."""
        self.segmentation, self._model, self._start = segmentation, model, start
        parent = self._parent or {}
        self.ui.slicesCheckBox.checked = bool(parent.get("partial")) and not parent.get("strokes")
        self.caseNodes.hideOthers(segmentation)
        self._observe()
        self._show()
        self.session.later(self._bringEditor, "label in the editor")

    def closeCase(self) -> None:
        """Take the case off the views; what was drawn and not saved stays in the scene."""
        volume = self.volume
        kept = self._leave()
        if mrml.alive(volume) and not kept:
            slicer.mrmlScene.RemoveNode(volume)
        self._show()

    def _leave(self) -> bool:
        """Stop editing; whether there were changes that stay in the scene until the case is opened again."""
        if self.job.running:
            self.job.cancel()
        self._rest()
        self._unobserve()
        if self.editor is not None:
            self.editor.setSegmentationNode(None)
            self.editor.setSourceVolumeNode(None)
        kept = self._changed()
        if kept:
            self.caseNodes.keepUnsaved(self.segmentation, self.case, self._model)
        elif mrml.alive(self.segmentation):
            slicer.mrmlScene.RemoveNode(self.segmentation)
        self._forget()
        return kept

    def _changed(self) -> bool:
        """Whether what is drawn differs from the revision that was opened."""
        if not mrml.alive(self.segmentation) or not mrml.alive(self.volume):
            return False
        try:
            mask = mrml.mask_part(self.segmentation, self.volume, self.session.dataset["labels"])
        except (TypeError, ValueError):  # such a label cannot be saved as it is, which is no reason to lose it
            return True
        return self._model is not None or not _same(mask, self._start)

    def _forget(self) -> None:
        self.case = self.segmentation = self.volume = self._parent = self._start = self._model = None

    # ---- who works on it, and how long

    def _observe(self) -> None:
        self._unobserve()
        segmentation = self.segmentation.GetSegmentation()
        event = slicer.vtkSegmentation.SourceRepresentationModified
        self._watch = (segmentation, segmentation.AddObserver(event, callbacks.slot(self._onEdited, "label edited")))
        self._seconds, self._last = 0.0, time.monotonic()

    def _unobserve(self) -> None:
        if self._watch is not None:
            segmentation, tag = self._watch
            segmentation.RemoveObserver(tag)
            self._watch = None

    def _onEdited(self) -> None:
        now = time.monotonic()
        self._seconds += min(now - self._last, _PAUSE_S)
        self._last = now
        if mrml.alive(self.segmentation):
            mrml.mark_edited(self.segmentation)

    def _keepAuthor(self) -> None:
        settings.setSetting(AUTHOR, self.ui.authorEdit.text.strip())

    # ---- a draft

    def draft(self) -> None:
        """Let the model in use draw the case; what is drawn already is replaced, and can be had back by Undo."""
        if self.job.running:
            self.job.cancel()
            return
        case, model = self.case, self.session.modelInUse()

        def withScan(answer: dict) -> None:
            scan = answer["scan"]

            def drawn(result: dict, _job: str, _notices: list[str]) -> None:
                self.session.delete(route("scans", scan))
                prediction = route("predictions", result["prediction"])

                def take(array, header) -> None:
                    self.session.delete(prediction)
                    if self.case == case and mrml.alive(self.segmentation):
                        self._replace(array, header, result)

                self.session.getArray(f"{prediction}/mask", take)

            body = {"scan": scan, "model": model, "device": "auto", "roi_mm": None, "tta": False}
            self.job.start("/jobs/segment", body, drawn)

        self.session.tell("")
        self.session.post(self.session.path("cases", case, "scan"), {}, withScan)

    def _replace(self, array: np.ndarray, header: dict, result: dict) -> None:
        own = {_meaning(label): label["value"] for label in self.session.dataset["labels"]}
        table = np.zeros(256, np.uint8)
        for label in result["labels"]:
            table[label["value"]] = own.get(_meaning(label), 0)
        if not table.any():
            self.session.tell(_("The model in use draws other structures than those of this dataset."))
            return
        if self.editor is not None:
            self.editor.saveStateForUndo()
        start = header.get("start") or (0, 0, 0)
        labels = self.session.dataset["labels"]
        self._unobserve()
        mrml.replace_mask(self.segmentation, table[array], start, labels, self.volume, result)
        self._model = result
        self._start = mrml.mask_part(self.segmentation, self.volume, labels)
        self._observe()
        self._show()

    # ---- saving

    def save(self) -> None:
        """Store what is drawn as a new revision."""
        if not mrml.alive(self.segmentation) or not mrml.alive(self.volume):
            self.session.tell(_("The label is no longer in the scene; open the case again."))
            return
        try:
            mask = mrml.mask_part(self.segmentation, self.volume, self.session.dataset["labels"])
        except ValueError as error:
            self.session.fail(str(error))
            return
        changed = not _same(mask, self._start)
        narrowed = self.ui.slicesCheckBox.checked and not (self._parent or {}).get("partial")
        if not changed and self._model is None and not narrowed:
            self.session.tell(_("Nothing was changed since the last revision."))
            return
        self._keepAuthor()
        self._saving = True
        self._show()
        self.session.later(lambda: self._send(mask, changed), "label sent")

    def _send(self, mask: tuple, changed: bool) -> None:
        case, parent, model = self.case, self._parent, self._model
        part, start = mask
        if self.ui.slicesCheckBox.checked:
            shape = mrml.geometry_of(self.volume).shape
            part, start = sliceBySlice(
                mask, self._start if parent else (np.full(shape, 255, np.uint8), (0, 0, 0)), shape
            )
        origin = "model" if model else parent["how"] if parent else "hand"
        inherited = bool(parent and parent.get("edited")) and model is None
        source = {"name": model["model"], "version": model["model_version"]} if model else (parent or {}).get("model")
        about = route(
            author=self.ui.authorEdit.text.strip() or _("unknown"),
            how=origin,
            edited=str((changed and origin != "hand") or inherited).lower(),
            model=(source or {}).get("name"),
            version=(source or {}).get("version"),
            seconds=round(self._seconds, 1),
            parent=parent["number"] if parent else None,
        )

        def saved(revision: dict) -> None:
            self._saving = False
            if self.case == case:
                self._parent, self._start, self._model = revision, mask, None
                self._seconds, self._last = 0.0, time.monotonic()
            self.session.tell(_("Saved as revision {number} of {case}.").format(number=revision["number"], case=case))
            self.session.refresh()
            self._show()

        def failed(message: str) -> None:
            self._saving = False
            self._show()
            self.session.fail(message)

        path = self.session.path("cases", case, "labels") + about
        self.session.postArray(path, part, {"start": [int(n) for n in start]}, saved, failed)

    # ---- the editor widget

    def enter(self) -> None:
        self._entered = True
        self.session.later(self._made, "segment editor made")
        self.session.later(self._bringEditor, "label in the editor")

    def leave(self) -> None:
        """The user goes to another module: no effect of ours stays active in the views."""
        self._entered = False
        self._rest()

    def _bringEditor(self) -> None:
        """Hand the label to the editor, in turns: with a large scan each step takes Slicer a while."""
        node, volume = self.segmentation, self.volume

        def open_() -> bool:
            return self._entered and self.segmentation is node and mrml.alive(node) and mrml.alive(volume)

        def withLabel() -> None:
            if open_() and self._made().segmentationNode() is not node:
                self.editor.setSegmentationNode(node)
            self.session.later(withScan, "scan in the editor")

        def withScan() -> None:
            if open_():
                self.editor.setSourceVolumeNode(volume)
                self.session.later(withViews, "editor in the views")

        def withViews() -> None:
            if open_():
                self.editor.setupViewObservations()
                self.editor.installKeyboardShortcuts()
                scrolling.reveal(self.ui.editorBox)

        if open_():
            withLabel()

    def _rest(self) -> None:
        if self.editor is not None:
            self.editor.setActiveEffect(None)
            self.editor.uninstallKeyboardShortcuts()
            self.editor.removeViewObservations()

    def _made(self):
        """The editor, made when the module is first opened: it is a heavy widget."""
        if self.editor is None:
            self.editor = slicer.qMRMLSegmentEditorWidget()
            self.editor.setMaximumNumberOfUndoStates(10)
            self.editor.segmentationNodeSelectorVisible = False
            self.editor.sourceVolumeNodeSelectorVisible = False
            self.editor.switchToSegmentationsButtonVisible = False
            self.editor.setMRMLSegmentEditorNode(mrml.editor_settings(_EDITOR_TAG))
            self.editor.setMRMLScene(slicer.mrmlScene)
            self.ui.editorPlace.layout().addWidget(self.editor)
        elif self.editor.mrmlSegmentEditorNode() is None:
            self.editor.setMRMLSegmentEditorNode(mrml.editor_settings(_EDITOR_TAG))
        return self.editor

    def reset(self) -> None:
        """The scene is being closed: the case is gone from it."""
        self._rest()
        self._unobserve()
        if self.job.running:
            self.job.cancel()
        if self.editor is not None:
            self.editor.setSegmentationNode(None)
            self.editor.setSourceVolumeNode(None)
            self.editor.setMRMLSegmentEditorNode(None)
        self._forget()
        self._show()

    def close(self) -> None:
        """The module is being closed."""
        self.reset()
        if self.editor is not None:
            self.editor.setMRMLScene(None)
            self.editor = None

    # ---- what is shown

    def _show(self) -> None:
        ui = self.ui
        ui.editorBox.visible = self.case is not None
        if self.case is None:
            return
        if self.segmentation is None:
            ui.editorLabel.text = _("Opening {case} …").format(case=self.case)
        elif self._model is not None:
            words = _("<b>{case}</b>: a draft by {model}. Correct it, then save it as a label.")
            ui.editorLabel.text = words.format(case=self.case, model=self._model["model"])
        elif self._parent is None:
            ui.editorLabel.text = _("<b>{case}</b> has no label yet. Draw it, or let a model draft it.").format(
                case=self.case
            )
        else:
            words = _("<b>{case}</b>, revision {number}: {how}, {author}.")
            parent = self._parent
            text = words.format(case=self.case, number=parent["number"], how=how(parent), author=parent["author"])
            ui.editorLabel.text = text
        ready = self.segmentation is not None and not self._saving
        ui.saveLabelButton.enabled = ready
        ui.draftButton.enabled = ready or self.job.running


def _meaning(label: dict) -> str:
    """What a label stands for, whatever it is called where it has a code."""
    return (label.get("type") or {}).get("value") or label["name"].casefold()


def _same(one: tuple, other: tuple | None) -> bool:
    return other is not None and tuple(one[1]) == tuple(other[1]) and np.array_equal(one[0], other[0])


def _userName() -> str:
    """Who sits here, as the system knows it."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name in the environment, as in some kiosks
        return ""
