"""The region in panel Segment: drawn by the user, found by a model, or around a point that the user clicks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, roi_box
from MPERLib.callbacks import later, slot
from MPERLib.panel_context import PanelContext
from MPERLib.placement import BoxPlacement, Placement
from MPERLib.widgets import silent
from slicer.i18n import tr as _

from MPERSegmentLib import found_region
from MPERSegmentLib.placement import PointPlacement


class RegionPanel:
    """Choice of a region, the box that was found, and the two buttons that segment again.

    Parameters
    ----------
    context : PanelContext
    segmentIn : callable
        Takes a box (vtkMRMLMarkupsROINode) or None, and a point (x, y, z in LPS, in the scan's own frame) or None;
        segments at once, in place of the result that is shown.
    begins : callable
        Called before clicks are taken from the views: other tools for them end.
    """

    def __init__(
        self,
        context: PanelContext,
        segmentIn: Callable[[Any | None, list[float] | None], None],
        begins: Callable[[], None],
    ):
        self._context, self._segmentIn, self._begins = context, segmentIn, begins
        self._placement: Placement | None = None
        self._before: Any = None  # the user's region before a box is drawn
        self._ready = self._running = False
        ui = context.ui
        ui.roiSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onChosen))
        ui.drawRoiButton.connect("clicked()", slot(self._onDraw))
        ui.segmentAgainButton.connect("clicked()", slot(self._onAgain))
        ui.hereButton.connect("toggled(bool)", slot(self._onHere))
        for button in (ui.brushAddButton, ui.brushRemoveButton):
            button.connect("toggled(bool)", slot(lambda on: self.cancel() if on else None, "brush"))

    # ---- what is shown

    @property
    def box(self) -> Any | None:
        """The box of the next *Segment again*: the one that the user chose, else the one that was found."""
        drawn = self._context.ui.roiSelector.currentNode()
        return drawn if drawn is not None else found_region.of(self._scan())

    def show(self, ready: bool, running: bool) -> None:
        """Show whether something can be segmented now, and which region is meant."""
        self._ready, self._running = ready, running
        if running:
            self.cancel()
        ui = self._context.ui
        found = found_region.of(self._scan())
        self._showNone(_("Whole scan") if found is None else _("Found automatically"))
        free = ready and not running
        ui.segmentAgainButton.enabled = free and self.box is not None and not isinstance(self._placement, BoxPlacement)
        ui.hereButton.enabled = free
        ui.roiSelector.enabled = ui.drawRoiButton.enabled = not running
        ui.regionWords.text = ui.regionWords.toolTip = self._words(found)  # in one line, so that nothing moves

    def _showNone(self, text: str) -> None:
        """What the choice of no box is called."""
        selector = self._context.ui.roiSelector
        if selector.noneDisplay != text:
            chosen = selector.currentNode()
            with silent(selector):  # which goes to its first node with another text
                selector.noneDisplay = text
                selector.setCurrentNode(chosen)

    def showFound(self, scan: Any, result: Any, box_mm: list[float] | None) -> None:
        """Show the region that a model has found in a scan; None removes that of the scan's result before."""
        if box_mm is None:
            found_region.remove(found_region.of(scan))
        else:
            found_region.show(scan, result, box_mm)
        self._refresh()

    def keep(self, roi: Any, result: Any) -> None:
        """A box was segmented again: it is now that of this result."""
        if mrml.alive(roi) and found_region.is_found(roi):
            found_region.belongs_to(roi, result)

    def nodeRemoved(self, node: Any) -> None:
        """A node is being removed from the scene: the box of a scan and of a result go with it."""
        boxes = found_region.without(node)
        if boxes:
            later(lambda: _remove(boxes), "box of a removed node")
        if boxes or node.IsA("vtkMRMLMarkupsROINode"):
            later(self._refresh, "region removed")

    def cancel(self) -> None:
        """End a placement that is under way; nothing is changed."""
        placement = self._end()
        if isinstance(placement, BoxPlacement) and not placement.placed:
            self._context.ui.roiSelector.setCurrentNode(self._before if mrml.alive(self._before) else None)
            found_region.remove(placement.roi)
        self._before = None

    def _refresh(self) -> None:
        if self._context.parameters is None:
            return
        drawn, found = self._context.ui.roiSelector.currentNode(), found_region.of(self._scan())
        if found is not None:
            found_region.set_aside(found, drawn is not None and drawn is not found)
        self.show(self._ready, self._running)

    def _words(self, found: Any | None) -> str:
        if self._placement is not None:
            return self._instruction()
        drawn = self._context.ui.roiSelector.currentNode()
        if drawn is not None:
            return _("Only the inside of this box is segmented.")
        if found is not None:
            return _("Drag the box if the region is wrong.")
        return _("In a wide scan the model finds the region.")

    def _instruction(self) -> str:
        if isinstance(self._placement, BoxPlacement):
            return _("Click two opposite corners. Esc cancels.")
        return _("Click its middle in a slice. Esc cancels.")

    def _scan(self) -> Any | None:
        return self._context.ui.inputSelector.currentNode()

    # ---- what the user does

    def _onChosen(self) -> None:
        self._refresh()

    def _onAgain(self) -> None:
        self.cancel()
        if self.box is not None:
            self._segmentIn(self.box, None)

    def _onDraw(self) -> None:
        """Place a new box: the next two clicks in a slice are its corners."""
        self.cancel()
        self._begins()
        ui, scene = self._context.ui, slicer.mrmlScene
        self._before = ui.roiSelector.currentNode()
        roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", scene.GenerateUniqueName(_("Region")))
        roi_box.style(roi)
        ui.roiSelector.setCurrentNode(roi)
        text = _("Click two opposite corners of the box. Esc cancels.")
        self._placement = BoxPlacement(roi, text, self.cancel)
        self._refresh()

    def _onHere(self, on: bool) -> None:
        """The next click in a slice is a point in the structure."""
        self.cancel()
        if not on:
            return
        self._begins()
        scan = self._scan()
        text = _("Click the middle of the structure. Esc cancels.")
        self._placement = PointPlacement(scan, text, lambda ras: self._onPoint(scan, ras), self.cancel)
        self._press(True)
        self._refresh()

    def _onPoint(self, scan: Any, ras: np.ndarray) -> None:
        if not isinstance(self._placement, PointPlacement):  # cancelled meanwhile
            return
        self._end()
        if mrml.alive(scan) and scan is self._scan():
            x, y, z = mrml.lps_of([ras], scan)[0]
            self._segmentIn(None, [float(x), float(y), float(z)])

    def _end(self) -> Placement | None:
        placement, self._placement = self._placement, None
        if placement is not None:
            placement.close()
        self._press(False)
        if placement is not None:
            self._refresh()
        return placement

    def _press(self, on: bool) -> None:
        with silent(self._context.ui.hereButton):
            self._context.ui.hereButton.checked = on


def _remove(boxes: list[Any]) -> None:
    for box in boxes:
        found_region.remove(box)
