"""One history of a result in the order of time: strokes, and edits in the Segment Editor.

The states themselves are in the undo history of the Segment Editor. A tag of the segments names the step that they
show; when the Segment Editor restores a state, it restores the tag, so that the position in the history is always
known, whoever undoes.
"""

from __future__ import annotations

import uuid

import slicer
from MPERLib import segmentation_node

_TAG = "MPER.Step"


class UndoSteps:
    """The steps of the results in the scene, in the order of time."""

    def __init__(self) -> None:
        self._steps: dict[str, list[str]] = {}  # by node

    def note(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """A result was changed, after its state had been saved: what was undone cannot be redone any more."""
        steps, at = self._known(node)
        step = uuid.uuid4().hex[:12]
        self._steps[node.GetID()] = [*steps[: at + 1], step]
        segmentation = node.GetSegmentation()
        for n in range(segmentation.GetNumberOfSegments()):
            segmentation.GetNthSegment(n).SetTag(_TAG, step)

    def canUndo(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        return self._known(node)[1] > 0

    def canRedo(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        steps, at = self._known(node)
        return at < len(steps) - 1

    def current(self, node: slicer.vtkMRMLSegmentationNode) -> str:
        """The step that a result shows."""
        segmentation = node.GetSegmentation()
        for n in range(segmentation.GetNumberOfSegments()):
            if tag := segmentation_node.tag_of(segmentation.GetNthSegment(n), _TAG):
                return tag
        return ""

    def forget(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """The Segment Editor has no states of a result any more."""
        self._steps[node.GetID()] = [self.current(node)]

    def drop(self, nodeId: str) -> None:
        """A result leaves the scene."""
        self._steps.pop(nodeId, None)

    def _known(self, node: slicer.vtkMRMLSegmentationNode) -> tuple[list[str], int]:
        """The steps of a result, and which of them it shows."""
        current = self.current(node)
        steps = self._steps.get(node.GetID(), [])
        if current not in steps:  # of a loaded scene
            steps = self._steps[node.GetID()] = [current]
        return steps, steps.index(current)
