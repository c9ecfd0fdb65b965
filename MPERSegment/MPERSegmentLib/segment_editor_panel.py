"""Panel Refine: the Segment Editor on the result, which rests while a brush of the strokes is on."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import vtk
from MPERLib import mrml
from MPERLib.callbacks import slot
from slicer.i18n import tr as _

from MPERSegmentLib import formatting, result_node, stroke_node
from MPERSegmentLib.panel_context import PanelContext
from MPERSegmentLib.turns import later

_EDITOR_TAG = "MPERSegmentEditor"


class SegmentEditorPanel:
    """Hosts a Segment Editor, made when the panel is first opened: it is a heavy widget.

    Parameters
    ----------
    context : PanelContext
    opened : callable
        Called when a person turns to the result that is shown.
    rests : callable
        Called when the panel is closed, or an effect of the Segment Editor takes the mouse.
    """

    def __init__(self, context: PanelContext, opened: Callable[[], None], rests: Callable[[], None]):
        self._context, self._opened, self._rests = context, opened, rests
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._entered = False
        self._yields = False
        self._settings: tuple[slicer.vtkMRMLSegmentEditorNode, int] | None = None
        self.editor: slicer.qMRMLSegmentEditorWidget | None = None
        context.ui.refineSection.connect("contentsCollapsed(bool)", slot(self._onCollapsed))
        self.show(None)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Refine another result, or none."""
        self._node = node
        self._context.ui.editorFrame.enabled = node is not None
        self.tell()
        self._bring()

    def tell(self) -> None:
        """Say how the result stands."""
        node = self._node
        if node is None:
            text = _("No result to refine yet.")
        elif result_node.is_edited(node):
            spent, drawn = formatting.duration(result_node.edited_seconds(node)), len(stroke_node.applied(node))
            if not drawn:
                text = _("Changed by a person ({time}): it now counts as semi-automatic.")
            elif result_node.is_by_hand(node):
                text = _("Corrected by {n} strokes and by hand ({time}): it now counts as semi-automatic.")
            elif drawn == 1:
                text = _("Corrected by a stroke ({time}): it now counts as semi-automatic.")
            else:
                text = _("Corrected by {n} strokes ({time}): it now counts as semi-automatic.")
            text = text.format(n=drawn, time=spent)
        else:
            text = _("Untouched: it counts as the model's own work until you change it.")
        self._context.ui.refineWords.text = text

    def saveForUndo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Let the user undo what is done to a result next."""
        editor = self._made()
        if editor.segmentationNode() is not node:
            editor.setSegmentationNode(node)
            editor.setSourceVolumeNode(result_node.scan_of(node))
        editor.saveStateForUndo()

    def yieldTo(self, brush: bool) -> None:
        """A brush is on, or off again: meanwhile the mouse and the keys are not the editor's."""
        self._yields = brush
        if brush:
            self._rest()
        else:
            self._bring()

    def enter(self) -> None:
        self._entered = True
        self._bring()

    def leave(self) -> None:
        """The user goes to another module: no effect of ours stays active in the views."""
        self._entered = False
        self._rest()

    def close(self) -> None:
        """The scene is being closed."""
        self._node = None
        if self.editor is not None:
            self._rest()
            self._watch(None)
            self.editor.setSegmentationNode(None)
            self.editor.setSourceVolumeNode(None)
            self.editor.setMRMLSegmentEditorNode(None)

    def destroy(self) -> None:
        """The module is being closed."""
        self.close()
        if self.editor is not None:
            self.editor.setMRMLScene(None)
            self.editor = None

    def _onCollapsed(self, collapsed: bool) -> None:
        if collapsed:
            self._rests()
            self._rest()
        else:
            self._opened()
            self._bring()

    def _bring(self) -> None:
        """Put the result into the editor, if the panel is open."""
        if not self._entered or self._context.ui.refineSection.collapsed or not mrml.alive(self._node):
            return
        if self.editor is None:
            self._made()
            later(self._bring, "segment editor")  # to make it is work enough for one turn
            return
        editor = self._made()
        if editor.segmentationNode() is not self._node:
            editor.setSegmentationNode(self._node)
            editor.setSourceVolumeNode(result_node.scan_of(self._node))
        if not self._yields:
            editor.setupViewObservations()
            editor.installKeyboardShortcuts()

    def _rest(self) -> None:
        if self.editor is not None:
            self.editor.setActiveEffect(None)
            self.editor.uninstallKeyboardShortcuts()
            self.editor.removeViewObservations()

    def _made(self) -> slicer.qMRMLSegmentEditorWidget:
        if self.editor is None:
            self.editor = slicer.qMRMLSegmentEditorWidget()
            self.editor.setMaximumNumberOfUndoStates(10)
            self.editor.segmentationNodeSelectorVisible = False
            self.editor.sourceVolumeNodeSelectorVisible = False
            self.editor.switchToSegmentationsButtonVisible = False
            self.editor.addRemoveSegmentButtonsVisible = False  # two more buttons named Add and Remove
            self.editor.setMRMLSegmentEditorNode(mrml.editor_settings(_EDITOR_TAG))
            self.editor.setMRMLScene(slicer.mrmlScene)
            self._context.ui.editorFrame.layout().addWidget(self.editor)
        elif self.editor.mrmlSegmentEditorNode() is None:
            self.editor.setMRMLSegmentEditorNode(mrml.editor_settings(_EDITOR_TAG))
        self._watch(self.editor.mrmlSegmentEditorNode())
        return self.editor

    def _watch(self, settings: slicer.vtkMRMLSegmentEditorNode | None) -> None:
        """See when the user takes an effect of the editor."""
        was, tag = self._settings or (None, 0)
        if settings is was:
            return
        if was is not None:
            was.RemoveObserver(tag)
        self._settings = None
        if settings is not None:
            react = slot(self._onSettings, "segment editor's effect")
            self._settings = (settings, settings.AddObserver(vtk.vtkCommand.ModifiedEvent, react))

    def _onSettings(self) -> None:
        if self._yields and self._settings is not None and self._settings[0].GetActiveEffectName():
            self._rests()
