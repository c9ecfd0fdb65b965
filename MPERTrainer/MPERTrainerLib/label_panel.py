"""Panel Label: the open case with its label in the Segment Editor, drafts by a model, and saving as a new revision."""

from __future__ import annotations

import getpass
import html
from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
from MPERLib import formatting, mrml, segmentation_node, settings, widgets
from MPERLib.callbacks import slot
from MPERLib.edit_timer import EditTimer
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.questions import agreed, emptyAgreed
from MPERLib.scan_checksum import ScanChecksums
from MPERLib.segment_editor import SegmentEditor
from slicer.i18n import tr as _

from mper.labels import UNLABELLED
from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.case_region import CaseRegion
from MPERTrainerLib.label_draft import LabelDraft
from MPERTrainerLib.label_parts import Part, equal, labelledSlices, values_of
from MPERTrainerLib.open_dataset import OpenDataset

_EDITOR_TAG = "MPERTrainer"
_IDLE_MS = 800  # after the last edit the label is compared with the saved one: an edit may have been undone


class LabelPanel:
    """Edits the label of one case at a time.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    caseNodes : CaseNodes
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: OpenDataset, caseNodes: CaseNodes):
        self._context, self._session, self._dataset, self._caseNodes = context, session, dataset, caseNodes
        self.case: str | None = None
        self._openings = 0  # counts the cases that were opened and left: only answers about the last one are taken
        self._of: str | None = None  # the dataset of the case; another one may be open by now
        self._labels: list[dict] = []  # its structures
        self._unsaved = False  # as the table of cases shows it
        self._listeners: list[Callable[[], None]] = []
        self._navigate: Callable[[], None] = lambda: None
        self._opening: Callable[[str], None] = lambda _case: None
        self.segmentation: Any = None
        self.volume: Any = None
        self._parent: dict | None = None  # the revision that was opened
        self._opened: Part | None = None  # the mask as it was opened, None for one that is not saved
        self._draft: dict | None = None  # the result of the model that drafted the label
        self._observed: tuple | None = None
        self._checksums = ScanChecksums()
        self._timer = EditTimer()
        self._idle: Any = qt.QTimer()
        self._idle.setSingleShot(True)
        self._idle.setInterval(_IDLE_MS)
        self._idle.connect("timeout()", slot(self._compare, "label is compared"))
        self._saving = False
        self._entered = False
        ui = context.ui
        self.editor = SegmentEditor(ui.editorPlace, _EDITOR_TAG)
        self.region = CaseRegion(context, session, dataset)
        self._drafts = LabelDraft(context, session, dataset)
        ui.authorEdit.text = settings.setting(settings.AUTHOR_KEY) or _userName()
        ui.authorEdit.connect("editingFinished()", slot(self._storeAuthor))
        ui.saveLabelButton.connect("clicked()", slot(self.save))
        ui.draftButton.connect("clicked()", slot(self.draft))
        ui.discardButton.connect("clicked()", slot(self.askDiscard))
        ui.closeCaseButton.connect("clicked()", slot(self.closeCase))
        dataset.onChange(self._onDataset)
        dataset.onLost(self._onLost)
        self._show()

    def _onLost(self) -> None:
        """The engine has stopped: the label stays, and can be saved when it runs again."""
        self._saving = False
        if self.segmentation is None:
            self.case = None
        self._show()

    def _onDataset(self) -> None:
        """Close the case when another dataset is open: a label is saved in the dataset of its case alone."""
        case = self.case
        if case is None or self._of == self._dataset.id:
            self._show()
            return
        if self.closeCase():
            text = _("{case} of the other dataset is closed. Its unsaved changes stay: open the case there again.")
            self._context.showMessage(text.format(case=case))

    # ---- unsaved changes

    def onUnsaved(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a case gets, or loses, unsaved changes."""
        self._listeners.append(listener)

    def onOpened(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with each case that is being opened."""
        self._opening = listener

    def onShown(self, listener: Callable[[], None]) -> None:
        """Call `listener` when another case is open, or can be saved."""
        self._navigate = listener
        self._show()

    def unsavedCases(self) -> set[str]:
        """The cases of the open dataset with changes that are not saved."""
        cases = self._caseNodes.unsavedCases()
        if self._unsaved and self.case is not None and self._of == self._dataset.id:
            cases.add(self.case)
        return cases

    def _setUnsaved(self, unsaved: bool) -> None:
        changed, self._unsaved = unsaved != self._unsaved, unsaved
        if changed:
            self._show()
            self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def askDiscard(self) -> None:
        """Show the latest revision instead of unsaved changes, once the user has confirmed it."""
        case = self.case
        if case is None:
            return
        question = _("Discard your unsaved changes of {case}? They cannot be brought back.").format(case=case)
        if agreed(question, _("Discard my changes")):
            self.openSaved(case)

    def openSaved(self, case: str) -> None:
        """Discard unsaved changes of a case, and open its latest revision."""
        if self.case == case and self._of == self._dataset.id:
            self._leave(keep=False)
        self._caseNodes.discardUnsaved(case)
        self.open(case)

    # ---- opening

    def open(self, case: str) -> None:
        """Open a case with its unsaved changes, else with its latest label."""
        self._leave()
        self._context.clearMessage()
        self._caseNodes.clearGroup("compare")
        self._caseNodes.clearGroup("revision")
        self.case = case
        of = self._of = self._dataset.id
        self._labels = list(self._dataset.labels)
        self._show()
        self._opening(case)
        self._context.ui.editSection.collapsed = False
        known: list[dict] = []
        opening = self._openings

        def current() -> bool:
            return self._openings == opening and self.case == case and of == self._dataset.id

        def withEntry() -> None:
            if current():
                self._session.get(self._dataset.route("cases", case, "labels"), withRevisions, failed)

        def withRevisions(revisions: list) -> None:
            if current():
                known.extend(revisions)
                self._parent = revisions[-1] if revisions else None
                self._caseNodes.openImage(case, withImage, failed)

        def withImage(volume: Any) -> None:
            if not current():
                return
            self.volume = volume
            unsaved = self._caseNodes.unsaved(case)
            if unsaved is not None:
                segmentation, draft, parent = unsaved
                self._parent = next((each for each in known if each["number"] == parent), None)
                self._begin(segmentation, draft)
                self._setUnsaved(True)
                if self._parent is not None:  # what it was changed from, to see when that is undone
                    path = self._dataset.route("cases", case, "labels", self._parent["number"], cropped="true")
                    self._session.getArray(path, lambda *answer: current() and self._takeSaved(*answer))
                self._context.showMessage(_("Your unsaved changes of {case} are shown.").format(case=case))
            elif self._parent is None:
                self._beginWith(np.zeros((0, 0, 0), np.uint8), {})
            else:
                path = self._dataset.route("cases", case, "labels", self._parent["number"], cropped="true")
                self._session.getArray(path, lambda *answer: current() and self._beginWith(*answer), failed)

        def failed(message: str) -> None:
            if current():
                self.case = None
                self._show()
                self._context.showMessage(message)

        self._dataset.withCase(case, withEntry)

    def _beginWith(self, part: np.ndarray, header: dict) -> None:
        """Edit a label of the engine."""
        if mrml.alive(self.volume):
            name = _("{case} label").format(case=self.case)
            node = self._caseNodes.addLabel(part, header.get("start") or (0, 0, 0), self.volume, name)
            self._begin(node, None, segmentation_node.mask_part(node, self.volume, self._labels))

    def _takeSaved(self, part: np.ndarray, header: dict) -> None:
        """The label that unsaved changes began with has arrived."""
        if self._opened is None:
            k, j, i = header.get("start") or (0, 0, 0)
            self._opened = (part, (k, j, i))

    def _begin(self, segmentation: Any, draft: dict | None, opened: Part | None = None) -> None:
        """Edit a segmentation that a model has drafted, or none; `opened` is its mask if that is saved."""
        self.segmentation, self._draft, self._opened = segmentation, draft, opened
        parent = self._parent or {}
        self._context.ui.slicesCheckBox.checked = bool(parent.get("partial")) and not parent.get("strokes")
        self._caseNodes.hideOthers(segmentation)
        self.region.open(self.case or "", self._of, self.volume)
        self._checksums.compute(self.volume)
        self._observe()
        self._show()
        self._session.later(self._activateEditor, "label in the editor")

    def forgetCase(self, case: str) -> None:
        """A case is being removed from the dataset: close it, and discard its unsaved changes."""
        if self.case == case and self._of == self._dataset.id:
            volume = self.volume
            self._leave(keep=False)
            if mrml.alive(volume):
                mrml.mark_case(volume, "", "")
                self._caseNodes.removeScan(volume)
            self._show()
        self._caseNodes.discardUnsaved(case)

    def closeCase(self) -> bool:
        """Remove the case from the views; whether unsaved changes stay in the scene."""
        volume = self.volume
        kept = self._leave()
        if mrml.alive(volume):
            if kept:
                self._caseNodes.takeOutOfViews(volume)
            else:
                self._caseNodes.removeScan(volume)
        self._show()
        return kept

    def _leave(self, keep: bool = True) -> bool:
        """Stop editing; whether unsaved changes stay in the scene until the case is opened again.

        Without `keep` they are discarded.
        """
        self._drafts.cancel()
        self.region.leave()
        self.editor.deactivate()
        self._stopObserving()
        self.editor.release()
        kept = keep and self._changed()
        if kept:
            parent = self._parent["number"] if self._parent else None
            self._caseNodes.keepUnsaved(self.segmentation, self._of or "", self.case or "", self._draft, parent)
        elif mrml.alive(self.segmentation):
            slicer.mrmlScene.RemoveNode(self.segmentation)
        self._forget()
        self._notify()
        return kept

    def _changed(self) -> bool:
        """Whether the label differs from the revision that was opened."""
        if not mrml.alive(self.segmentation):
            return False
        if not mrml.alive(self.volume):  # there is no grid to compare on, but nothing that was drawn may be lost
            return self._unsaved
        try:
            mask = self._mask()
        except (TypeError, ValueError):  # it cannot be saved as it is, but must not be lost
            return True
        return self._draft is not None or not equal(mask, self._opened)

    def _missing(self) -> str:
        """What of the open case has left the scene, and what to do; empty where all of it is there."""
        if not mrml.alive(self.segmentation):
            return _("The label is not in the scene any more. Open the case again.")
        text = _("The scan of {case} is not in the scene any more. Open the case again: your changes stay.")
        return "" if mrml.alive(self.volume) else text.format(case=self.case)

    def _mask(self) -> Part:
        return segmentation_node.mask_part(self.segmentation, self.volume, self._labels)

    def _forget(self) -> None:
        self.case = self.segmentation = self.volume = self._parent = self._opened = self._draft = None
        self._of, self._labels, self._unsaved = None, [], False
        self._openings += 1

    # ---- author and editing time

    def _observe(self) -> None:
        self._stopObserving()
        segmentation = self.segmentation.GetSegmentation()
        events = slicer.vtkSegmentation
        tags = [
            segmentation.AddObserver(events.SourceRepresentationModified, slot(self._onEdited, "label edited")),
            segmentation.AddObserver(events.SegmentModified, slot(self._onSegment, "segment modified")),
        ]
        self._observed = (segmentation, tags)
        self._timer.restart()

    def _stopObserving(self) -> None:
        if self._idle is not None:
            self._idle.stop()
        if self._observed is not None:
            segmentation, tags = self._observed
            for tag in tags:
                segmentation.RemoveObserver(tag)
            self._observed = None

    def _onEdited(self) -> None:
        self._timer.changed()
        if mrml.alive(self.segmentation):
            segmentation_node.mark_edited(self.segmentation)
            self._setUnsaved(True)
            self._idle.start()

    def _onSegment(self) -> None:
        """Something about a segment has changed: undo and redo of the Segment Editor say no more."""
        self._idle.start()

    def _compare(self) -> None:
        """Mark the label "not saved" if it differs from the saved one, and only then."""
        if not self._saving and self.segmentation is not None:
            self._setUnsaved(self._changed())

    def _storeAuthor(self) -> None:
        settings.setSetting(settings.AUTHOR_KEY, self._context.ui.authorEdit.text.strip())

    # ---- a draft

    def draft(self) -> None:
        """Let the model in use segment the case; this replaces the label and can be undone."""
        if self._drafts.running:
            self._drafts.cancel()
        elif self.case is not None:
            if missing := self._missing():
                self._context.showMessage(missing)
                return
            try:
                box = self.region.box()
            except ValueError as error:
                self._context.showMessage(str(error))
                return
            opening = self._openings

            def drafted(array: np.ndarray, header: dict, result: dict) -> None:
                if self._openings == opening and mrml.alive(self.segmentation) and mrml.alive(self.volume):
                    self._replace(array, header, result)

            self._drafts.start(self.case, self._of, box, self._labels, drafted)

    def _replace(self, array: np.ndarray, header: dict, result: dict) -> None:
        labels = self._labels
        table = values_of(result, labels)
        if table is None:
            self._context.showMessage(
                _("The model in use segments none of this dataset's structures. Choose another one under Compare.")
            )
            return
        self.editor.saveForUndo()
        start = header.get("start") or (0, 0, 0)
        self._stopObserving()
        segmentation_node.replace_mask(self.segmentation, table[array], start, labels, self.volume, result)
        self._draft = result
        self._opened = self._mask()
        self._observe()
        self._setUnsaved(True)
        self._show()

    # ---- saving

    def save(self, then: Callable[[], object] | None = None) -> None:
        """Save the label as a new revision; after that, or if nothing was changed, call `then`."""
        if self._saving:  # by a key, which no greyed button stops
            return
        if missing := self._missing():
            self._context.showMessage(missing)
            return
        if self._of != self._dataset.id:  # whether the case is held out is known of the open dataset alone
            text = _("The dataset of {case} is not open any more. Open it again, then save.")
            self._context.showMessage(text.format(case=self.case))
            return
        try:
            mask = self._mask()
        except ValueError as error:
            self._context.showMessage(str(error))
            return
        changed = not equal(mask, self._opened)
        narrowed = self._context.ui.slicesCheckBox.checked and not (self._parent or {}).get("partial")
        if not changed and self._draft is None and not narrowed:
            if then is not None:
                then()
            else:
                self._context.showMessage(_("There are no changes since the last revision."))
            return
        some = self._context.ui.slicesCheckBox.checked
        if not self._heldOutAgreed() or (not some and not mask[0].any() and not emptyAgreed()):
            return
        self._storeAuthor()
        self._saving = True
        self._show()
        volume = self.volume

        def send() -> None:
            if self.volume is volume and mrml.alive(volume):
                self._send(mask, changed, then)
            else:
                self._saving = False
                self._show()

        self._checksums.compute(volume, lambda: self._session.later(send, "label is sent"))

    def _heldOutAgreed(self) -> bool:
        """Whether the case is none of the hold-out set, or the user agrees to change the label of one that is."""
        entry = self._dataset.case(self.case or "") or {}
        return not self._dataset.isHeldOut(self.case or "") or not entry.get("labelled") or heldOutAgreed(entry["id"])

    def _send(self, mask: Part, changed: bool, then: Callable[[], object] | None) -> None:
        case, of, parent, draft = self.case, self._of, self._parent, self._draft
        node, volume, labels = self.segmentation, self.volume, self._labels
        part, start = mask
        if self._context.ui.slicesCheckBox.checked:
            grid = mrml.geometry_of(self.volume)
            nothing: Part = (np.full(grid.shape, UNLABELLED, np.uint8), (0, 0, 0))
            part, start = labelledSlices(mask, self._opened if parent else nothing, grid.shape, grid.slice_axis)
        origin = "model" if draft else parent["how"] if parent else "hand"
        inherited = bool(parent and parent.get("edited")) and draft is None
        model = {"name": draft["model"], "version": draft["model_version"]} if draft else (parent or {}).get("model")
        path = self._dataset.route(
            "cases",
            case,
            "labels",
            of=of,
            author=self._context.ui.authorEdit.text.strip() or _("unknown"),
            how=origin,
            edited=str((changed and origin != "hand") or inherited).lower(),
            model=(model or {}).get("name"),
            version=(model or {}).get("version"),
            seconds=round(self._timer.seconds, 1),
            parent=parent["number"] if parent else None,
            scan_sha256=self._checksums.of(self.volume),  # the engine refuses a label that was drawn on another image
        )

        def saved(revision: dict) -> None:
            self._saving = False
            here = self.case == case and self._of == of
            if here:
                self._parent, self._opened, self._draft = revision, mask, None
                self._timer.restart()
                self._setUnsaved(self._changed())
            elif _shows(node, volume, labels, mask):
                slicer.mrmlScene.RemoveNode(node)  # it was kept as not saved when the case was left
                self._notify()
            text = _("Saved as revision {number} of {case}.")
            self._context.showMessage(text.format(number=revision["number"], case=case))
            self._dataset.refresh()
            self._show()
            if then is not None and here:
                then()
                self._context.showMessage(text.format(number=revision["number"], case=case))

        def failed(message: str) -> None:
            self._saving = False
            self._show()
            text = _("<b style='color:#c0392b'>Not saved.</b> {reason}")
            self._context.showMessage(text.format(reason=html.escape(formatting.sentence(message))))

        self._session.postArray(path, part, {"start": [int(n) for n in start]}, saved, failed)

    # ---- the Segment Editor

    def enter(self) -> None:
        self._entered = True
        self._session.later(self.editor.make, "segment editor is made")
        self._session.later(self._activateEditor, "label in the editor")

    def leave(self) -> None:
        """The user goes to another module: no effect stays active in the views."""
        self._entered = False
        self.region.cancel()
        self.editor.deactivate()

    def _activateEditor(self) -> None:
        """Edit the label, in several callbacks: each step takes Slicer a while with a large scan."""
        node, volume = self.segmentation, self.volume

        def current() -> bool:
            return self._entered and self.segmentation is node and mrml.alive(node) and mrml.alive(volume)

        def withScan() -> None:
            if current():
                self.editor.make().setSourceVolumeNode(volume)
                self._session.later(withViews, "editor in the views")

        def withViews() -> None:
            if current():
                self.editor.activate()
                widgets.reveal(self._context.ui.editorBox)

        if current():
            if self.editor.make().segmentationNode() is not node:
                self.editor.widget.setSegmentationNode(node)
            self._session.later(withScan, "scan in the editor")

    def reset(self) -> None:
        """The scene is being closed."""
        self._stopObserving()
        self.region.reset()
        self._drafts.cancel()
        self.editor.leaveScene()
        self._forget()
        self._show()

    def close(self) -> None:
        """The module is being closed."""
        self._navigate = lambda: None
        self._opening = lambda _case: None
        self.reset()
        self.region.close()
        self._idle = None  # its connection would keep this object alive
        self.editor.destroy()

    # ---- what is shown

    def _show(self) -> None:
        ui = self._context.ui
        ui.editorBox.visible = self.case is not None
        if self.case is None:
            ui.editorLabel.text = _("No case is open. Double-click one in the table above.")
            ui.saveLabelButton.enabled = False
            self._navigate()
            return
        if self.segmentation is None:
            ui.editorLabel.text = _("Opening {case} …").format(case=self.case)
        elif self._draft is not None:
            text = _("<b>{case}</b>: draft of {model}. Correct it, then save it as a label.")
            ui.editorLabel.text = text.format(case=self.case, model=self._draft["model"])
        elif self._parent is None:
            text = _("<b>{case}</b> has no label. Draw it, or let a model draft it.")
            ui.editorLabel.text = text.format(case=self.case)
        else:
            text = _("<b>{case}</b>, revision {number}: {how}, {author}.")
            parent, how = self._parent, formatting.label_origin(self._parent)
            ui.editorLabel.text = text.format(case=self.case, number=parent["number"], how=how, author=parent["author"])
        if self._unsaved:
            ui.editorLabel.text += " " + _("Your changes are <b>not saved</b>.")
        ready = self.segmentation is not None and not self._saving
        ui.discardButton.enabled = ready and self._unsaved
        ui.saveLabelButton.enabled = ready
        ui.draftButton.enabled = ready or self._drafts.running
        ui.caseRegionSelector.enabled = ui.drawRegionButton.enabled = self.segmentation is not None
        self._navigate()


def heldOutAgreed(case: str) -> bool:
    """Whether the user agrees to change the label of a case of the hold-out."""
    question = _(
        "{case} is in the hold-out set. A new label changes the figures of every version: those of before and "
        "after can no longer be compared. Save it?"
    )
    return agreed(question.format(case=case), _("Change a label of the hold-out set"))


def _shows(segmentation: Any, volume: Any, labels: list[dict], mask: Part) -> bool:
    """Whether a label in the scene is a mask still."""
    if not mrml.alive(segmentation) or not mrml.alive(volume):
        return False
    try:
        return equal(segmentation_node.mask_part(segmentation, volume, labels), mask)
    except (TypeError, ValueError):  # it was changed since
        return False


def _userName() -> str:
    """The name of the user's account."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name in the environment, as in some kiosks
        return ""
