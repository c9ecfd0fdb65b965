"""The region of the open case: a box in the views that is stored with the case, and limits drafts and trainings."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer
import vtk
from MPERLib import mrml, roi_box, settings
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.placement import BoxPlacement
from MPERLib.widgets import silent
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset

_IDLE_MS = 700  # after the last change of the box it is stored
_SAME_MM = 0.01


class CaseRegion:
    """The row *Region* of the panel: choose a box, draw one, or use the whole scan.

    A box that is chosen, drawn or dragged is stored with the case at once, *Whole scan* clears it.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: OpenDataset):
        self._context, self._session, self._dataset = context, session, dataset
        self._case: str | None = None
        self._of: str | None = None
        self._volume: Any = None
        self._stored: list[float] | None = None  # as the engine has it
        self._own: list[Any] = []  # boxes that were made here, and go with the case
        self._observed: tuple | None = None
        self._shown: Any = None  # the box before the user chose another
        self._placement: BoxPlacement | None = None
        self._before: Any = None  # the box before another one is drawn
        self._timer: Any = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_IDLE_MS)
        self._timer.connect("timeout()", slot(self._store, "region is stored"))
        context.ui.caseRegionSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onChosen))
        context.ui.drawRegionButton.connect("clicked()", slot(self._onDraw))

    def open(self, case: str, of: str | None, volume: Any) -> None:
        """A case was opened: show its region."""
        self.leave()
        self._case, self._of, self._volume = case, of, volume
        self._stored = (self._dataset.case(case) or {}).get("region_mm")
        self._showStored()

    def _showStored(self) -> None:
        if self._stored is None:
            self._select(None)
            return
        roi = self._newBox(_("Region of {case}").format(case=self._case))
        roi_box.move(roi, self._stored, self._volume)
        self._select(roi)

    def leave(self) -> None:
        """The case is being closed: a change that is not stored yet is, and its box goes."""
        self.cancel()
        if self._timer.isActive():
            self._store()
        self._case = self._of = self._volume = self._stored = None
        self._select(None)
        self._removeOwn(list(self._own))

    def reset(self) -> None:
        """The scene is being closed; it takes the boxes along."""
        self.cancel()
        self._timer.stop()
        self._case = self._of = self._volume = self._stored = None
        self._own = []
        self._observe(None)

    def close(self) -> None:
        """The module is being closed."""
        self._timer = None  # its connection would keep this object alive

    def box(self) -> list[float] | None:
        """The box of the open case in LPS mm of its scan, None for the whole scan.

        Raises
        ------
        ValueError
            As `mrml.roi_mm`.
        """
        roi = self._context.ui.caseRegionSelector.currentNode()
        return None if roi is None else mrml.roi_mm(roi, self._volume)

    def cancel(self) -> None:
        """End drawing; the box before is chosen again if the new one is not complete."""
        placement, self._placement = self._placement, None
        if placement is None:
            return
        placement.close()
        if not placement.placed:
            self._select(self._before if mrml.alive(self._before) else None)
            if mrml.alive(placement.roi):
                slicer.mrmlScene.RemoveNode(placement.roi)
        else:
            self._timer.start()
        self._before = None

    # ---- what the user does

    def _onDraw(self) -> None:
        """Place a new box: the next two clicks in a slice are its corners."""
        self.cancel()
        if self._case is None or not mrml.alive(self._volume):
            return
        self._before = self._context.ui.caseRegionSelector.currentNode()
        roi = self._newBox(slicer.mrmlScene.GenerateUniqueName(_("Region of {case}").format(case=self._case)))
        self._select(roi)
        text = _("Click two opposite corners of the box. Esc cancels.")
        self._placement = BoxPlacement(roi, text, self.cancel)

    def _onChosen(self) -> None:
        """The user has chosen a box, or the whole scan, or the box is being deleted: that shows a moment later."""
        roi = self._context.ui.caseRegionSelector.currentNode()
        if self._case is None or (self._observed is not None and roi is self._observed[0]):
            return
        if self._shown is None and self._observed is not None:
            self._shown = self._observed[0]
        self._observe(roi)
        self._timer.start()

    def _onModified(self) -> None:
        if self._placement is None:
            self._timer.start()

    def _store(self) -> None:
        """Store the box with the case, if it is another one."""
        self._timer.stop()
        case, of = self._case, self._of
        shown, self._shown = self._shown, None
        if case is None or not mrml.alive(self._volume) or self._placement is not None:
            return
        if shown is not None and not mrml.alive(shown):  # deleted in another module, where nobody chose another region
            self._showStored()
            return
        try:
            box = self.box()
        except ValueError as error:
            self._context.showMessage(str(error))
            return
        if _same(box, self._stored):
            return

        def stored(answer: dict) -> None:
            entry = self._dataset.case(case) if self._dataset.id == of else None
            if entry is not None:
                entry["region_mm"] = answer["region_mm"]
                self._dataset.announce()
            text = _("The whole scan of {case} is used again.")
            if box is not None:
                text = _("The region is stored: drafts and trainings use {case} inside the box alone.")
            self._context.showMessage(text.format(case=case))

        def failed(message: str) -> None:
            if self._case == case and self._of == of:
                self._stored = before
            self._context.showMessage(_("The region is not stored: {reason}").format(reason=message))

        before, self._stored = self._stored, box
        chosen = self._context.ui.caseRegionSelector.currentNode()
        self._removeOwn([roi for roi in self._own if roi is not chosen])
        author = str(self._context.ui.authorEdit.text).strip() or settings.setting(settings.AUTHOR_KEY)
        body = {"region_mm": box, "author": author or _("unknown")}
        self._session.put(self._dataset.route("cases", case, "region", of=of), body, stored, failed)

    # ---- the box

    def _newBox(self, name: str) -> Any:
        roi = slicer.mrmlScene.CreateNodeByClass("vtkMRMLMarkupsROINode")
        roi.UnRegister(None)
        roi.SetName(name)
        roi.SetSaveWithScene(False)  # it is stored with the case
        slicer.mrmlScene.AddNode(roi)
        roi_box.style(roi)
        self._own.append(roi)
        return roi

    def _removeOwn(self, boxes: list[Any]) -> None:
        for roi in boxes:
            self._own.remove(roi)
            if mrml.alive(roi):
                slicer.mrmlScene.RemoveNode(roi)

    def _select(self, roi: Any) -> None:
        """Choose a box in the panel without storing it."""
        selector = self._context.ui.caseRegionSelector
        with silent(selector):
            selector.setCurrentNode(roi)
        self._observe(roi)

    def _observe(self, roi: Any) -> None:
        if self._observed is not None:
            node, tag = self._observed
            node.RemoveObserver(tag)
            self._observed = None
        if roi is not None:
            event = vtk.vtkCommand.ModifiedEvent
            self._observed = (roi, roi.AddObserver(event, slot(self._onModified, "region is changed")))


def _same(one: list[float] | None, other: list[float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=0, atol=_SAME_MM))
