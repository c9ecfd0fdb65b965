"""The Segment Editor in the panel Correct; it is inactive while a brush for strokes is on."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import vtk
from MPERLib import formatting, mrml
from MPERLib.callbacks import later, slot
from MPERLib.panel_context import PanelContext
from MPERLib.segment_editor import SegmentEditor
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, stroke_node

EDITOR_TAG = "MPERSegmentEditor"


class SegmentEditorPanel:
    """Segment Editor on the result that is shown, and the line that says whether the result was edited.

    Parameters
    ----------
    context : PanelContext
    opened : callable
        Called when the panel is opened.
    interrupted : callable
        Called when the panel is closed, or when an effect of the Segment Editor takes the mouse.
    """

    def __init__(self, context: PanelContext, opened: Callable[[], None], interrupted: Callable[[], None]):
        self._context, self._opened, self._interrupted = context, opened, interrupted
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._entered = False
        self._brushActive = False
        self._observed: tuple[slicer.vtkMRMLSegmentEditorNode, int] | None = None
        self.editor = SegmentEditor(context.ui.editorFrame, EDITOR_TAG, segmentsFixed=True)
        context.ui.refineSection.connect("contentsCollapsed(bool)", slot(self._onCollapsed))
        self.show(None)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Edit another result, or none."""
        other, self._node = node is not self._node, node
        self._context.ui.editorFrame.enabled = node is not None
        self.showState()
        if other:
            later(self._activate, "segment editor")  # Slicer reads all of a new scan for it
        else:
            self._activate()

    def showState(self) -> None:
        """Show whether, how and how long the result was edited."""
        node = self._node
        if node is None:
            text = _("There is no segmentation to correct.")
        elif result_node.is_edited(node):
            seconds, strokes = formatting.duration(result_node.edited_seconds(node)), len(stroke_node.applied(node))
            if not strokes:
                text = _("Edited manually ({time}): exported as SEMIAUTOMATIC.")
            elif result_node.is_by_hand(node):
                text = _("Edited manually and with strokes ({n}; {time}): exported as SEMIAUTOMATIC.")
            else:
                text = _("Edited with strokes ({n}; {time}): exported as SEMIAUTOMATIC.")
            text = text.format(n=strokes, time=seconds)
        else:
            text = _("Unedited: exported as AUTOMATIC.")
        self._context.ui.refineWords.text = text

    def saveForUndo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Let the user undo the next change of a result."""
        self.editor.edit(node, result_node.scan_of(node))
        self._observe()
        self.editor.saveForUndo()

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Undo the last step of a result, if the Segment Editor has its state."""
        self.editor.edit(node, result_node.scan_of(node))
        self.editor.make().undo()

    def redo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Redo the step of a result that was undone last."""
        self.editor.edit(node, result_node.scan_of(node))
        self.editor.make().redo()

    def setBrushActive(self, active: bool) -> None:
        """Leave mouse and keyboard to the brush for strokes, or take them back."""
        self._brushActive = active
        if active:
            self.editor.deactivate()
        else:
            self._activate()

    def enter(self) -> None:
        self._entered = True
        self._activate()

    def leave(self) -> None:
        """The user goes to another module: no effect stays active in the views."""
        self._entered = False
        self.editor.deactivate()

    def close(self) -> None:
        """The scene is being closed."""
        self._node = None
        self._stopObserving()
        self.editor.leaveScene()

    def destroy(self) -> None:
        """The module is being closed."""
        self.close()
        self.editor.destroy()

    def _onCollapsed(self, collapsed: bool) -> None:
        if collapsed:
            self._interrupted()
            self.editor.deactivate()
        else:
            self._opened()
            self._activate()

    def sceneLoaded(self) -> None:
        """A scene was loaded: only now do the editor's selectors know its nodes."""
        later(self._activate, "segment editor in a loaded scene")

    def _activate(self) -> None:
        """Edit the result, if the panel is open."""
        if not self._entered or self._context.ui.refineSection.collapsed or not mrml.alive(self._node):
            return
        if self.editor.widget is None:
            self.editor.make()
            later(self._activate, "segment editor")  # making it is enough work for one callback
            return
        self.editor.edit(self._node, result_node.scan_of(self._node))
        self._observe()
        if not self._brushActive:
            self.editor.activate()

    def _observe(self) -> None:
        """Observe which effect of the editor is active."""
        node = self.editor.make().mrmlSegmentEditorNode()
        if self._observed is None or node is not self._observed[0]:
            self._stopObserving()
            react = slot(self._onEditorNode, "segment editor's effect")
            self._observed = (node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, react))

    def _stopObserving(self) -> None:
        if self._observed is not None:
            node, tag = self._observed
            node.RemoveObserver(tag)
            self._observed = None

    def _onEditorNode(self) -> None:
        if self._brushActive and self._observed is not None and self._observed[0].GetActiveEffectName():
            self._interrupted()
