"""Who changed a result, and for how long: what a person edits is no longer the work of the model alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import slicer
from MPERLib import mrml
from MPERLib.callbacks import slot

from MPERSegmentLib import result_node

_PAUSE_S = 60.0  # who does nothing for longer is not working on it


class EditTracker:
    """Watches the results of the scene for a person's changes, wherever in Slicer they are made.

    Parameters
    ----------
    changed : callable
        Takes the segmentation node whenever its voxels or its segments are others: edited, or an edit undone.
    """

    def __init__(self, changed: Callable[[slicer.vtkMRMLSegmentationNode], None]):
        self._changed = changed
        self._watched: dict[str, tuple[slicer.vtkSegmentation, list[int]]] = {}
        self._last: dict[str, float] = {}
        self._looks: dict[str, tuple] = {}
        self._ours = False

    def watch(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Begin to watch a result; time counts from now."""
        self.leave(node.GetID())
        segmentation = node.GetSegmentation()
        tags = [
            segmentation.AddObserver(event, slot(lambda *_arguments, react=react: react(node), "result edited"))
            for event, react in (
                (slicer.vtkSegmentation.SourceRepresentationModified, self._onEdit),
                (slicer.vtkSegmentation.SegmentModified, self._onSegment),
            )
        ]
        self._watched[node.GetID()] = (segmentation, tags)
        self._looks[node.GetID()] = _look(node)
        self.beginsNow(node)

    def beginsNow(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """A person turns to a result: what passed until now was no work on it."""
        self._last[node.GetID()] = time.monotonic()

    def leave(self, nodeId: str) -> None:
        """Watch a node no longer."""
        segmentation, tags = self._watched.pop(nodeId, (None, []))
        self._looks.pop(nodeId, None)
        for tag in tags:
            segmentation.RemoveObserver(tag)

    def leaveAll(self) -> None:
        for nodeId in list(self._watched):
            self.leave(nodeId)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """What happens in the block is not a person's doing."""
        was, self._ours = self._ours, True
        try:
            yield
        finally:
            self._ours = was

    def _onEdit(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        if self._ours or not mrml.alive(node) or not result_node.is_result(node):
            return
        result_node.note_by_hand(node)
        mrml.mark_edited(node)
        self.worked(node)

    def worked(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """A person has just changed a result: the time since the last change was work on it."""
        now = time.monotonic()
        result_node.note_editing(node, min(now - self._last.get(node.GetID(), now), _PAUSE_S))
        self._last[node.GetID()] = now
        self._looks[node.GetID()] = _look(node)
        self._changed(node)

    def _onSegment(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Undo brings back segments as they were, with their tags, and tells nothing else; a new surface tells too."""
        if self._ours or not mrml.alive(node):
            return
        look = _look(node)
        if look != self._looks.get(node.GetID()):
            self._looks[node.GetID()] = look
            self._changed(node)


def _look(node: slicer.vtkMRMLSegmentationNode) -> tuple:
    """Differs whenever voxels, names or makers of the segments do."""
    segmentation = node.GetSegmentation()
    found = []
    for n, made in enumerate(mrml.provenances_of(node)):
        image = segmentation.GetNthSegment(n).GetRepresentation("Binary labelmap")
        scalars = image.GetPointData().GetScalars() if image is not None else None
        found.append((made, image and image.GetMTime(), scalars and scalars.GetMTime()))
    return tuple(found)
