"""Tracks manual edits of results: they are SEMIAUTOMATIC from then on, and the time spent on them is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import slicer
import vtk
from MPERLib import mrml, segmentation_node
from MPERLib.callbacks import slot
from MPERLib.edit_timer import EditTimer

from MPERSegmentLib import result_node
from MPERSegmentLib.undo_steps import UndoSteps

_FIRST = 100.0  # priority of an observer that is called before those of Slicer


class EditTracker:
    """Observes the results of the scene for edits, wherever in Slicer they are made.

    Parameters
    ----------
    changed : callable
        Takes the segmentation node whenever its voxels or its segments have changed: by an edit, or an undone edit.
    """

    def __init__(self, changed: Callable[[slicer.vtkMRMLSegmentationNode], None]):
        self._changed = changed
        self._observed: dict[str, tuple[slicer.vtkSegmentation, list[int]]] = {}
        self._timers: dict[str, EditTimer] = {}
        self._states: dict[str, tuple] = {}
        self._surfaces: dict[str, dict[str, tuple | None]] = {}  # by node, by segment
        self._paused = False
        self.steps = UndoSteps()

    def observe(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Observe a result; editing time counts from now."""
        self._unobserve(node.GetID())
        segmentation = node.GetSegmentation()
        tags = [
            segmentation.AddObserver(event, slot(lambda *_arguments, react=react: react(node), "result edited"))
            for event, react in (
                (slicer.vtkSegmentation.SourceRepresentationModified, self._onEdit),
                (slicer.vtkSegmentation.SegmentModified, self._onSegment),
            )
        ]
        surface = vtk.calldata_type(vtk.VTK_STRING)(
            slot(lambda _caller, _event, segmentId: self._onSurface(node, segmentId, tags[-1]), "surface changed")
        )
        tags.append(segmentation.AddObserver(slicer.vtkSegmentation.SegmentModified, surface, _FIRST))
        self._surfaces[node.GetID()] = {id_: _surface(segmentation, id_) for id_ in segmentation.GetSegmentIDs()}
        self._observed[node.GetID()] = (segmentation, tags)
        self._states[node.GetID()] = _state(node)
        self._timers[node.GetID()] = EditTimer()

    def resumeTime(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """The user turns to a result: the time until now was not spent on it."""
        if node.GetID() in self._timers:
            self._timers[node.GetID()].resume()

    def forget(self, nodeId: str) -> None:
        """A node leaves the scene; another one may get its id."""
        self._unobserve(nodeId)
        self.steps.drop(nodeId)

    def _unobserve(self, nodeId: str) -> None:
        segmentation, tags = self._observed.pop(nodeId, (None, []))
        self._states.pop(nodeId, None)
        self._surfaces.pop(nodeId, None)
        for tag in tags:
            segmentation.RemoveObserver(tag)

    def forgetAll(self) -> None:
        for nodeId in list(self._observed):
            self.forget(nodeId)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Changes inside the block are no manual edits."""
        was, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = was

    def edited(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """The user has just changed a result: the time since the last change was spent on it."""
        timer = self._timers.setdefault(node.GetID(), EditTimer())
        result_node.note_editing(node, timer.changed())
        self._states[node.GetID()] = _state(node)
        self._changed(node)

    def _onEdit(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        if self._paused or not mrml.alive(node) or not result_node.is_result(node):
            return
        with self.paused():
            result_node.note_by_hand(node)
            segmentation_node.mark_edited(node)
            self.steps.note(node)
        self.edited(node)

    def _onSurface(self, node: slicer.vtkMRMLSegmentationNode, segmentId: str, tag: int) -> None:
        """Keep the states to redo, which Slicer drops at any change of a segment, where only its surface was made
        or removed: its history, which observes the segmentation, does not get the event; the views observe the node.
        """
        segmentation, known = node.GetSegmentation(), self._surfaces.get(node.GetID(), {})
        surface = _surface(segmentation, segmentId)
        if surface == known.get(segmentId):
            return
        known[segmentId] = surface
        if self.steps.canRedo(node) and _state(node) == self._states.get(node.GetID()):
            segmentation.GetCommand(tag).SetAbortFlag(1)
            node.InvokeEvent(slicer.vtkSegmentation.SegmentModified, segmentId)

    def _onSegment(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Undo restores segments with their tags and sends no other event; a new surface sends this one, too."""
        if self._paused or not mrml.alive(node):
            return
        state = _state(node)
        if state != self._states.get(node.GetID()):
            self._states[node.GetID()] = state
            self._changed(node)


def _surface(segmentation: slicer.vtkSegmentation, segmentId: str) -> tuple | None:
    """Differs whenever the surface of a segment does; None where it has none."""
    segment = segmentation.GetSegment(segmentId)
    surface = segment.GetRepresentation(segmentation_node.CLOSED_SURFACE) if segment is not None else None
    return surface and (surface.GetAddressAsString(""), surface.GetMTime())


def _state(node: slicer.vtkMRMLSegmentationNode) -> tuple:
    """Differs whenever voxels, names or provenance of the segments do."""
    segmentation = node.GetSegmentation()
    found = []
    for n, made in enumerate(segmentation_node.provenances_of(node)):
        image = segmentation.GetNthSegment(n).GetRepresentation(segmentation_node.BINARY_LABELMAP)
        scalars = image.GetPointData().GetScalars() if image is not None else None
        found.append((made, image and image.GetMTime(), scalars and scalars.GetMTime()))
    return tuple(found)
