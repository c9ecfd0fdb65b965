"""Strokes in the panel Correct: the brushes, and the list of strokes of the result that is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
from MPERLib import formatting, mrml, phases, segmentation_node
from MPERLib.callbacks import later, slot
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Cell, Shortcut, Table, chosen, fill_box, reveal, silent
from slicer.i18n import tr as _

from mper.strokes import Stroke
from MPERSegmentLib import result_node, stroke_node
from MPERSegmentLib.brush import Brush, BrushCallbacks
from MPERSegmentLib.brush_view import BrushView
from MPERSegmentLib.crosshair import Crosshair
from MPERSegmentLib.edit_tracker import EditTracker
from MPERSegmentLib.explanation_panel import ExplanationPanel
from MPERSegmentLib.segment_editor_panel import EDITOR_TAG, SegmentEditorPanel
from MPERSegmentLib.stroke_drawing import StrokeHighlight
from MPERSegmentLib.stroke_limits import StrokeLimits
from MPERSegmentLib.stroke_sync import StrokeSync, StrokeSyncCallbacks
from MPERSegmentLib.uploaded_scans import UploadedScans

ADD, REMOVE = "add", "remove"
_MM_PER_TICK = 0.5  # of the slider
_REMOVING = (0.55, 0.75, 1.0)  # no structure is shown in a colour like this
_BACKGROUND = (96, 96, 96)
_KEY_ADD, _KEY_REMOVE, _KEY_NEXT = "Shift+A", "Shift+R", "Shift+N"
_CHOSEN = (1.0, 1.0, 0.2)


class StrokesPanel:
    """The brushes and the strokes of the result that is shown.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    scans : UploadedScans
    editor : SegmentEditorPanel
        Inactive while a brush is on; its undo undoes strokes as well.
    explanation : ExplanationPanel
        Jumps to uncertain locations.
    tracker : EditTracker
    changed : callable
        Takes the segmentation node and whether its voxels have changed, after the engine's answer to strokes.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        scans: UploadedScans,
        editor: SegmentEditorPanel,
        explanation: ExplanationPanel,
        tracker: EditTracker,
        changed: Callable[[Any, bool], None],
    ):
        self._context, self._session, self._scans = context, session, scans
        self._editor, self._explanation, self._changed = editor, explanation, changed
        self._steps = tracker.steps
        self._limits = StrokeLimits(context, EDITOR_TAG)
        self._callbacks = StrokeSyncCallbacks(
            before=editor.saveForUndo,
            noted=self._steps.note,
            undo=lambda node: self._steps.canUndo(node) and self._restored(node, editor.undo),
            redo=lambda node: self._steps.canRedo(node) and self._restored(node, editor.redo),
            canUndo=self._steps.canUndo,
            canRedo=self._steps.canRedo,
            after=self._onChanged,
            message=self._onMessage,
            places=explanation.setPlaces,
            editable=self._limits.editable,
            paused=tracker.paused,
        )
        self._node: Any = None
        self._engine: tuple[Any, bool] = (session.engine, session.ready)
        self._syncs: dict[str, StrokeSync] = {}
        self._messages: dict[str, str] = {}
        self._brush: Brush | None = None
        self._mode = ""
        self._shortcuts: list[Shortcut] = []
        self._crosshair = Crosshair()
        self._highlight = StrokeHighlight()  # the stroke that is chosen in the list
        ui = context.ui
        self._table = Table(
            ui.strokesTable,
            [
                (_("Stroke"), _("In the order of drawing; click a stroke to jump to it")),
                (_("Added"), _("Volume that the stroke has added to structures")),
                (_("Removed"), _("Volume that the stroke has removed from structures")),
            ],
            fitted=True,
        )
        ui.brushAddButton.connect("toggled(bool)", slot(self._onAdd))
        ui.brushRemoveButton.connect("toggled(bool)", slot(self._onRemove))
        ui.structureBox.connect("currentIndexChanged(int)", slot(self._colour))
        ui.radiusSlider.connect("valueChanged(int)", slot(self._onRadius))
        ui.strokesTable.connect("cellClicked(int,int)", slot(self._onRow))
        ui.strokesTable.connect("itemSelectionChanged()", slot(self._onSelection))
        ui.strokeUndoButton.connect("clicked()", slot(self._onUndo))
        ui.strokeRedoButton.connect("clicked()", slot(self._onRedo))
        ui.strokeDeleteButton.connect("clicked()", slot(self._onDelete))
        ui.strokePlaceButton.connect("clicked()", slot(self._onPlace))
        self.show(None)

    # ---- what is shown

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the strokes of another result, or none."""
        node = node if result_node.is_result(node) else None
        mode = ""
        if node is not self._node:
            mode = self._mode if self._isOtherPhase(node) else ""
            self.endBrush()
            self._choose(-1)
            self._node = node
            result = result_node.of(node) or {}
            entries = [(str(label["value"]), label["name"]) for label in result.get("labels", [])]
            fill_box(self._context.ui.structureBox, entries, chosen(self._context.ui.structureBox))
            self._context.ui.structureBox.visible = len(entries) > 1
            self._limits.show(node)
        if node is not None and node.GetID() in self._syncs:
            self._syncs[node.GetID()].update()
        self._fill()
        if mode:
            self._switch(mode)

    def _isOtherPhase(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether a result is of the same time series as the one that is shown: the brush stays on."""
        if node is None or not mrml.alive(self._node) or phases.of(node) is None:
            return False
        return result_node.scan_of(node) is result_node.scan_of(self._node)

    def restore(self) -> None:
        """Show the radius that is stored in the scene."""
        self._context.ui.radiusSlider.value = self._context.parameters.Radius

    def engineChanged(self) -> None:
        """The engine, its state or its models have changed."""
        now = (self._session.engine, self._session.ready)
        if now != self._engine:
            self._engine = now
            for sync in self._syncs.values():
                sync.engineChanged()
        self._fill()

    def enter(self) -> None:
        """The user opens the module: its keys work in the whole window."""
        self.leave()
        for keys, react in ((_KEY_ADD, self._onAddKey), (_KEY_REMOVE, self._onRemoveKey), (_KEY_NEXT, self._onNextKey)):
            self._shortcuts.append(Shortcut(keys, react))

    def leave(self) -> None:
        """The user goes to another module."""
        self.endBrush()
        for shortcut in self._shortcuts:
            shortcut.close()
        self._shortcuts = []

    def startBrush(self) -> None:
        """Switch the brush *Add* on, unless a brush is on."""
        if not self._mode:
            self._switch(ADD)

    def endBrush(self) -> None:
        """Switch all brushes off."""
        self._switch("")
        self._crosshair.hide()
        self._highlight.hide()

    def replaced(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """The mask of a result was replaced: answers about strokes on the one before must not change it."""
        if node.GetID() in self._syncs:
            self._syncs[node.GetID()].update()

    def nodeRemoved(self, nodeId: str) -> None:
        """A node is being removed from the scene."""
        sync = self._syncs.pop(nodeId, None)
        if sync is not None:
            sync.close()
        self._messages.pop(nodeId, None)

    def close(self) -> None:
        """The scene is being closed."""
        self.endBrush()
        for nodeId in list(self._syncs):
            self.nodeRemoved(nodeId)
        self._messages.clear()  # a node of the next scene may get the same id
        self._node = None

    def settled(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether the mask of a result includes all its strokes."""
        sync = self._syncs.get(node.GetID())
        return sync is None or sync.settled

    def strokeText(self, number: int) -> str:
        """A text about the stroke with this number (from 0) of the shown result."""
        drawn = stroke_node.listed(self._node) if self._node is not None else []
        if not 0 <= number < len(drawn):
            return ""
        return _("Stroke {n}: {name}").format(n=number + 1, name=self._nameOf(drawn[number].stroke.value))

    def _fill(self) -> None:
        ui, node = self._context.ui, self._node
        drawn = stroke_node.of(node, self._wanted()) if node is not None else []
        if len(drawn) < ui.strokesTable.rowCount:  # Qt would choose another row, for the next Delete to take
            self._choose(-1)
        self._table.fill([self._row(n, one) for n, one in enumerate(drawn, 1)])
        self._table.widget.visible = bool(drawn)
        ui.strokesBox.enabled = node is not None
        message = self._messages.get(node.GetID(), "") if node is not None else ""
        ui.strokesWords.text = message
        ui.strokesWords.visible = bool(message)
        self._showButtons()

    def _row(self, number: int, one: stroke_node.StoredStroke) -> list[str | Cell]:
        value, answer = one.stroke.value, one.answer
        notes = "\n".join(sentence(note) for note in answer.get("notes") or ())
        name = self._nameOf(value)
        if notes:
            name = f"{name} \N{WARNING SIGN}"
        return [
            Cell(f"{number}  {name}", self._colourOf(value), notes or _("Click to jump to it")),
            _ml(answer.get("added_ml"), self._nameOf),
            _ml(answer.get("removed_ml"), self._nameOf),
        ]

    def _choose(self, row: int) -> None:
        """Choose a row of the list; -1 for none."""
        self._context.ui.strokesTable.setCurrentCell(row, row if row < 0 else 0)

    def _onSelection(self) -> None:
        """Mark the chosen stroke in the slices."""
        self._showButtons()
        row, wanted = self._context.ui.strokesTable.currentRow(), self._wanted()
        scan = result_node.scan_of(self._node) if mrml.alive(self._node) else None
        if scan is None or not 0 <= row < len(wanted):
            self._highlight.hide()
            return
        (one,) = stroke_node.of(self._node, [wanted[row]])
        ras = np.array(mrml.ras_of(one.stroke.points_mm, scan))
        self._highlight.show(ras, one.stroke.radius_mm, _CHOSEN)

    def _showButtons(self) -> None:
        ui, node = self._context.ui, self._node
        sync = self._syncs.get(node.GetID()) if node is not None else None
        ui.strokeUndoButton.enabled = node is not None and (
            bool(self._wanted()) or self._steps.canUndo(node) if sync is None else sync.canUndo
        )
        ui.strokeRedoButton.enabled = node is not None and (self._steps.canRedo(node) if sync is None else sync.canRedo)
        ui.strokeDeleteButton.enabled = 0 <= ui.strokesTable.currentRow() < len(self._wanted())
        ui.strokePlaceButton.enabled = self._node is not None

    def _wanted(self) -> tuple[int, ...]:
        if self._node is None:
            return ()
        sync = self._syncs.get(self._node.GetID())
        return sync.wanted if sync is not None else stroke_node.applied(self._node)

    def _nameOf(self, value: int) -> str:
        labels = (result_node.of(self._node) or {}).get("labels", [])
        return next((label["name"] for label in labels if label["value"] == value), _("Background"))

    def _colourOf(self, value: int) -> tuple[int, ...]:
        """The colour in which the structure is shown, which the user may have changed."""
        segmentation = self._node.GetSegmentation()
        for n in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(n)
            if value and segmentation_node.label_value_of(segment) == value:
                return tuple(round(255 * part) for part in segment.GetColor())
        return _BACKGROUND

    # ---- the brush

    def _onAdd(self, checked: bool) -> None:
        self._switch(ADD if checked else "" if self._mode == ADD else self._mode)

    def _onRemove(self, checked: bool) -> None:
        self._switch(REMOVE if checked else "" if self._mode == REMOVE else self._mode)

    def _onAddKey(self) -> None:
        self._onKey(self._context.ui.brushAddButton)

    def _onRemoveKey(self) -> None:
        self._onKey(self._context.ui.brushRemoveButton)

    def _onNextKey(self) -> None:
        self._onKey(self._context.ui.strokePlaceButton)

    def _onKey(self, button: Any) -> None:
        """Press a button of the panel, which is opened and scrolled to it."""
        if self._node is not None:
            self._context.ui.refineSection.collapsed = False
            button.click()
            later(lambda: reveal(self._context.ui.strokesBox), "brushes into view")

    def _switch(self, mode: str) -> None:
        """Switch a brush on, or all off."""
        if mode and self._node is None:
            mode = ""
        was, self._mode = self._mode, mode
        ui = self._context.ui
        for button, its in ((ui.brushAddButton, ADD), (ui.brushRemoveButton, REMOVE)):
            with silent(button):
                button.checked = its == mode
        if bool(was) != bool(mode):
            if not mode and self._brush is not None:
                self._brush.close()
                self._brush = None
            self._editor.setBrushActive(bool(mode))
            if mode:
                self._limits.show(self._node)  # they may have been changed in the Segment Editor
                callbacks = BrushCallbacks(
                    self._mayDraw, self._onDrawn, self._onScaled, self.endBrush, self._onUndo, self._onRedo
                )
                self._brush = Brush(callbacks, self._radius())
                self._sync().prepare()
                self._prepareChecksum()
        self._colour()

    def _prepareChecksum(self) -> None:
        """Compute the checksum of the scan before the first stroke asks for it."""
        scan = result_node.scan_of(self._node)
        try:
            self._scans.checksums.compute(phases.voxels_of(scan, phases.of(self._node)))
        except (AttributeError, ValueError):  # no scan, or none with voxels: the stroke is refused with the reason
            return

    def _colour(self) -> None:
        if self._brush is None or self._node is None:
            return
        if self._mode == REMOVE:
            self._brush.colour(_REMOVING, _REMOVING)
        else:
            colour = [part / 255 for part in self._colourOf(self._value())]
            self._brush.colour([0.5 + part / 2 for part in colour], colour)

    def _value(self) -> int:
        """The label value that is painted now."""
        return 0 if self._mode == REMOVE else int(chosen(self._context.ui.structureBox) or 0)

    def _radius(self) -> float:
        return _MM_PER_TICK * self._context.ui.radiusSlider.value

    def _onRadius(self, value: int) -> None:
        self._context.ui.radiusValue.text = _("{n} mm").format(n=f"{self._radius():.1f}")
        if self._context.parameters is not None:
            self._context.parameters.Radius = value
        if self._brush is not None:
            self._brush.setRadius(self._radius())

    def _onScaled(self, factor: float) -> None:
        slider = self._context.ui.radiusSlider
        value = round(slider.value * factor)
        slider.value = value if value != slider.value else slider.value + (1 if factor > 1 else -1)

    def _mayDraw(self, view: BrushView) -> bool:
        scan = result_node.scan_of(self._node) if mrml.alive(self._node) else None
        if scan is None:
            self._say(_("The scan of this segmentation is not in the scene. Load it again."))
        elif not view.shows(scan):
            text = _("This view does not show {scan}, the scan of this segmentation.")
            self._say(text.format(scan=scan.GetName()))
        elif other := phases.mismatch(self._node, scan) or result_node.other_image(self._node, self._scans.checksums):
            self._say(other)
        else:
            return True
        return False

    def _onDrawn(self, ras: np.ndarray) -> None:
        node, scan = self._node, result_node.scan_of(self._node)
        points = np.round(mrml.lps_of(ras, scan), 3)
        stroke = Stroke(self._value(), tuple(map(tuple, points.tolist())), self._radius())
        if not len(stroke.voxels(mrml.geometry_of(scan))):
            self._say(_("The stroke is outside the scan. Draw it inside."))
            self._brush.clear()
            return
        self._say("")
        self._choose(-1)
        number = stroke_node.add(node, stroke)
        self._sync().add(number)
        self._fill()

    # ---- the list

    def _sync(self) -> StrokeSync:
        node = self._node
        if node.GetID() not in self._syncs:
            self._syncs[node.GetID()] = StrokeSync(node, self._session, self._scans, self._callbacks)
        return self._syncs[node.GetID()]

    def _onUndo(self) -> None:
        if self._node is not None:
            self._say("")
            self._sync().undo()
            self._fill()

    def _onRedo(self) -> None:
        if self._node is not None:
            self._say("")
            self._sync().redo()
            self._fill()

    def _restored(self, node: Any, restore: Callable[[Any], None]) -> bool:
        """Restore another state of a result; whether the Segment Editor had it."""
        before = self._steps.current(node)
        for _try in range(2):  # a new surface, say, makes Slicer take the state that is shown for the one before
            restore(node)
            if self._steps.current(node) != before:
                return True
        self._steps.forget(node)
        return False

    def _onDelete(self) -> None:
        row, wanted = self._context.ui.strokesTable.currentRow(), self._wanted()
        if 0 <= row < len(wanted):
            self._say("")
            self._sync().remove(wanted[row])
            self._fill()

    def _onRow(self, row: int, _column: int) -> None:
        scan = result_node.scan_of(self._node) if mrml.alive(self._node) else None
        wanted = self._wanted()
        if scan is None or not 0 <= row < len(wanted):
            return
        (one,) = stroke_node.of(self._node, [wanted[row]])
        points = one.stroke.points_mm
        (ras,) = mrml.ras_of([points[len(points) // 2]], scan)
        mrml.look_at(ras, slicer.mrmlScene)
        self._crosshair.show(ras)

    def _onPlace(self) -> None:
        text = self._explanation.nextPlace()
        self._say(text or _("There are no uncertain locations."))
        if text:
            self.startBrush()

    # ---- answers of the engine

    def _onChanged(self, node: Any, different: bool) -> None:
        sync = self._syncs.get(node.GetID())
        if node is self._node:
            if self._brush is not None and sync is not None and not sync.pending:
                self._brush.clear()
            self._fill()
        self._changed(node, different)

    def _onMessage(self, node: Any, message: str) -> None:
        self._messages[node.GetID()] = sentence(message)
        if node is self._node:
            self._fill()

    def _say(self, message: str) -> None:
        self._onMessage(self._node, message)


def _ml(figures: Any, nameOf: Callable[[int], str]) -> str | Cell:
    """The total of volumes by label value, with each in the tooltip; None where the spacing is unknown."""
    if not isinstance(figures, dict):
        return formatting.UNKNOWN
    total = sum(figures.values())
    each = [f"{nameOf(int(value))} {formatting.changed_millilitres(ml)}" for value, ml in figures.items() if ml]
    return Cell(formatting.changed_millilitres(total), tip="\n".join(each))
