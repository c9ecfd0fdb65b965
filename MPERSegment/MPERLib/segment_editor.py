"""A Segment Editor inside a panel."""

from __future__ import annotations

from typing import Any

import slicer

from MPERLib import mrml
from MPERLib.callbacks import later

_UNDO_STATES = 10


class SegmentEditor:
    """A Segment Editor widget with a parameter node of its own; made when it is first needed, as it is a heavy widget.

    Parameters
    ----------
    frame : QWidget
        The editor is added to its layout.
    tag : str
        Singleton tag of the parameter node.
    segmentsFixed : bool
        Hide the buttons that add and remove segments.

    Attributes
    ----------
    widget : qMRMLSegmentEditorWidget or None
    """

    def __init__(self, frame: Any, tag: str, segmentsFixed: bool = False):
        self._frame, self._tag, self._segmentsFixed = frame, tag, segmentsFixed
        self.widget: Any = None

    def make(self) -> Any:
        """The widget, with a parameter node in the scene."""
        if self.widget is None:
            widget = self.widget = slicer.qMRMLSegmentEditorWidget()
            widget.setMaximumNumberOfUndoStates(_UNDO_STATES)
            widget.segmentationNodeSelectorVisible = False
            widget.sourceVolumeNodeSelectorVisible = False
            widget.switchToSegmentationsButtonVisible = False
            if self._segmentsFixed:
                widget.addRemoveSegmentButtonsVisible = False
            widget.setMRMLSegmentEditorNode(mrml.editor_settings(self._tag))
            widget.setMRMLScene(slicer.mrmlScene)
            self._frame.layout().addWidget(widget)
        elif self.widget.mrmlSegmentEditorNode() is None:
            self.widget.setMRMLSegmentEditorNode(mrml.editor_settings(self._tag))
        return self.widget

    def edit(self, segmentationNode: Any, volumeNode: Any) -> None:
        """Edit a segmentation on a scan."""
        widget = self.make()
        if widget.segmentationNode() is not segmentationNode:
            if widget.mrmlSegmentEditorNode().GetSegmentationNode() is segmentationNode:  # of a loaded scene
                widget.setSegmentationNode(None)  # or its selector, which shows none, would stay as it is
            widget.setSegmentationNode(segmentationNode)
            widget.setSourceVolumeNode(volumeNode)

    def saveForUndo(self) -> None:
        """Let the user undo the next change."""
        if self.widget is not None:
            self.widget.saveStateForUndo()

    def activate(self) -> None:
        """Let the editor observe the views and the keyboard."""
        widget = self.make()
        widget.setupViewObservations()
        widget.installKeyboardShortcuts()

    def deactivate(self) -> None:
        """Switch effects off and leave views and keyboard to others."""
        if self.widget is not None:
            self.widget.setActiveEffect(None)
            self.widget.uninstallKeyboardShortcuts()
            self.widget.removeViewObservations()

    def release(self) -> None:
        """Edit nothing."""
        if self.widget is not None and self.widget.segmentationNode() is not None:
            self.widget.setSourceVolumeNode(None)
            self.widget.setSegmentationNode(None)

    def leaveScene(self) -> None:
        """The scene is being closed: let go of all its nodes."""
        if self.widget is not None:
            self.deactivate()
            self.release()
            self.widget.setMRMLSegmentEditorNode(None)
            later(self._empty, "segment editor without a scene")

    def _empty(self) -> None:
        """Empty the editor, and end its effect, now that the scene is closed; before, Slicer leaves them."""
        if self.widget is not None and slicer.mrmlScene is not None:
            self.make()  # with a new parameter node, that has neither segmentation nor effect

    def destroy(self) -> None:
        """The module is being closed."""
        self.leaveScene()
        if self.widget is not None:
            self.widget.setMRMLScene(None)
            self.widget = None
