"""Cases of the dataset in Slicer's scene: their scans, their labels, and masks to compare."""

from __future__ import annotations

import json
from collections.abc import Callable

import slicer
from MPERLib import mrml, segmentation_node
from MPERLib.engine_session import EngineSession
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset

_UNSAVED = "MPER.Unsaved"  # attribute of a segmentation: the case whose label it is, with unsaved changes
_DRAWN_BY = "MPER.DrawnBy"
_BASED_ON = "MPER.BasedOn"  # attribute of such a label: the revision that was changed
_FETCHED = "MPER.Fetched"  # attribute of a scan that came from the dataset, and not from the user
_GROUP = "MPER.Trainer"  # attribute of a segmentation that is shown for comparison: its group


class CaseNodes:
    """Shows cases in the views; the engine stores them.

    Parameters
    ----------
    session : EngineSession
    dataset : OpenDataset
    """

    def __init__(self, session: EngineSession, dataset: OpenDataset):
        self._session, self._dataset = session, dataset
        self._wanted = 0  # counts the requests to show a case: only the last one is shown

    def scanOf(self, case: str):
        """The volume node of a case, None if it is not in the scene."""
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if mrml.case_of(node) == (self._dataset.id, case):
                return node
        return None

    def openImage(self, case: str, done: Callable, failed: Callable[[str], None] | None = None) -> Callable[[], bool]:
        """Show the scan of a case in the views, fetched if it is not in the scene; then call ``done(volumeNode)``.

        Returns
        -------
        callable
            Tells whether no other case, and no other dataset, was opened since.
        """
        self._wanted += 1
        wanted, dataset = self._wanted, self._dataset.id
        node = self.scanOf(case)

        def current() -> bool:
            return self._dataset.id == dataset and wanted == self._wanted

        def show(volume) -> None:
            if current() and mrml.alive(volume):
                self.show(volume)
                self._session.later(lambda: current() and mrml.alive(volume) and done(volume), "case shown")

        def take(array, header) -> None:
            if current():
                volume = mrml.show_scan(array, header["affine"], case, slicer.mrmlScene)
                volume.SetAttribute(_FETCHED, "yes")
                mrml.mark_case(volume, dataset or "", case)
                self._session.later(lambda: show(volume), "show case")

        if node is not None:
            show(node)
        else:
            self._session.getArray(self._dataset.route("cases", case, "image"), take, failed)
        return current

    def show(self, volumeNode) -> None:
        """Show a scan in all slice views, rotated to its own slices, so that a drawing stays in one of them."""
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            view.RotateToVolumePlane(volumeNode)
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=None, label=None, fit=True)

    def takeOutOfViews(self, volumeNode) -> None:
        """Show a scan in no slice view any more."""
        for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if view.GetBackgroundVolumeID() == volumeNode.GetID():
                view.SetBackgroundVolumeID(None)

    def removeScan(self, volumeNode) -> None:
        """Take a scan out of the views; one that came from the dataset also out of the scene, if no mask lies on it."""
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        masks = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if not volumeNode.GetAttribute(_FETCHED) or any(node.GetNodeReference(role) is volumeNode for node in masks):
            self.takeOutOfViews(volumeNode)
        else:
            slicer.mrmlScene.RemoveNode(volumeNode)

    def addLabel(self, part, start, volumeNode, name: str):
        """Add a label, or its part that begins at voxel `start`, as a segmentation to edit."""
        return segmentation_node.show_mask(part, start, self._dataset.labels, volumeNode, name)

    def showMask(self, part, header: dict, volumeNode, name: str, group: str, colour=None) -> None:
        """Add a mask for comparison, in one colour if given; see `clearGroup`."""
        if not mrml.alive(volumeNode):
            return
        start = header.get("start") or (0, 0, 0)
        node = segmentation_node.show_mask(part, start, self._dataset.labels, volumeNode, name)
        node.SetAttribute(_GROUP, group)
        if colour is not None:
            segmentation = node.GetSegmentation()
            for n in range(segmentation.GetNumberOfSegments()):
                segmentation.GetNthSegment(n).SetColor(*(value / 255 for value in colour))
            node.GetDisplayNode().SetOpacity2DFill(0.12)

    def clearGroup(self, group: str) -> None:
        """Remove the masks of a group from the scene."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if node.GetAttribute(_GROUP) == group:
                slicer.mrmlScene.RemoveNode(node)

    def keepUnsaved(self, segmentation, dataset: str, case: str, model: dict | None, parent: int | None) -> None:
        """Keep a label with unsaved changes hidden in the scene until its case is opened again.

        `model` is the result of the model that drafted it, `parent` the revision that was changed; None without one.
        """
        segmentation.SetAttribute(_UNSAVED, _mark(dataset, case))
        segmentation.SetAttribute(_BASED_ON, None if parent is None else str(parent))
        drawn = model and {key: model[key] for key in ("model", "model_version")}
        segmentation.SetAttribute(_DRAWN_BY, json.dumps(drawn))
        segmentation.SetName(_("{case} label (not saved)").format(case=case))
        if segmentation.GetDisplayNode() is not None:
            segmentation.GetDisplayNode().SetVisibility(False)

    def unsaved(self, case: str) -> tuple | None:
        """The label of a case with unsaved changes, the model that drafted it, and the number of the changed revision.

        None if there are no unsaved changes.
        """
        for node in self._unsavedNodes(case):
            model, parent = json.loads(node.GetAttribute(_DRAWN_BY)), node.GetAttribute(_BASED_ON)
            node.SetAttribute(_UNSAVED, None)
            node.SetName(_("{case} label").format(case=case))
            return node, model, None if parent is None else int(parent)
        return None

    def unsavedCases(self) -> set[str]:
        """The cases of the open dataset that are closed, with unsaved changes in the scene."""
        marks = [node.GetAttribute(_UNSAVED) for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
        pairs = [mark.partition("\n") for mark in marks if mark]
        return {case for dataset, _newline, case in pairs if dataset == self._dataset.id}

    def discardUnsaved(self, case: str) -> None:
        """Remove what `keepUnsaved` has kept of a case."""
        for node in self._unsavedNodes(case):
            slicer.mrmlScene.RemoveNode(node)

    def _unsavedNodes(self, case: str) -> list:
        mark = _mark(self._dataset.id or "", case)
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        return [node for node in nodes if node.GetAttribute(_UNSAVED) == mark]

    def hideOthers(self, shown=None) -> None:
        """Hide all segmentations but one."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            display = node.GetDisplayNode()
            if display is not None:
                display.SetVisibility(node is shown)

    def reset(self) -> None:
        """The scene was closed: do not show cases that were requested before."""
        self._wanted += 1


def _mark(dataset: str, case: str) -> str:
    return f"{dataset}\n{case}"
