"""Cases of the dataset in Slicer's scene: their scans, their labels, and masks to compare."""

from __future__ import annotations

import json
from collections.abc import Callable

import slicer
from MPERLib import mrml
from slicer.i18n import tr as _

from MPERTrainerLib.engine_session import Session

CASE = "MPER.Case"  # of a scan: dataset and case that it is, separated by a line feed; MPERSegment sets it too
_UNSAVED = "MPER.Unsaved"  # of a segmentation: the case whose label it is, with changes that are not saved
_DRAWN_BY = "MPER.DrawnBy"
_GROUP = "MPER.Trainer"  # of a segmentation that this module made to be looked at


class CaseNodes:
    """Brings cases into the views; the engine keeps them.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session):
        self.session = session
        self._wanted = 0  # numbers the requests to show something: only the last one counts

    def scanOf(self, case: str):
        """The volume node of a case, if it is in the scene."""
        mark = self._mark(case)
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if node.GetAttribute(CASE) == mark:
                return node
        return None

    def note(self, volumeNode, case: str) -> None:
        """Remember that a loaded volume is a case of the dataset."""
        volumeNode.SetAttribute(CASE, self._mark(case))

    def openImage(self, case: str, done: Callable, failed: Callable[[str], None] | None = None) -> None:
        """Show a case's scan in the views, fetching it where it is not in the scene yet; then ``done(volumeNode)``."""
        self._wanted += 1
        wanted, dataset = self._wanted, self.session.dataset["id"]
        node = self.scanOf(case)

        def current(volume=None) -> bool:
            """Whether nothing else was asked for meanwhile."""
            here = self.session.dataset is not None and self.session.dataset["id"] == dataset
            return here and wanted == self._wanted and (volume is None or mrml.alive(volume))

        def show(volume) -> None:
            if current(volume):
                self.show(volume)
                self.session.later(lambda: current(volume) and done(volume), "case shown")

        def take(array, header) -> None:
            if current():
                volume = mrml.show_scan(array, header["affine"], case, slicer.mrmlScene)
                self.note(volume, case)
                self.session.later(lambda: show(volume), "show case")

        if node is not None:
            show(node)
            return
        self.session.getArray(self.session.path("cases", case, "image"), take, failed)

    def show(self, volumeNode) -> None:
        """A scan in the background of all slice views, which lie as its own slices do: what is drawn stays in one."""
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            view.RotateToVolumePlane(volumeNode)
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=None, label=None, fit=True)

    def addLabel(self, part, start, volumeNode, name: str):
        """A label, or its part from voxel `start` on, as a segmentation to edit."""
        return mrml.show_mask(part, start, self.session.dataset["labels"], volumeNode, name)

    def showMask(self, part, header: dict, volumeNode, name: str, group: str, colour=None) -> None:
        """A mask to look at, in one colour where one is given; it goes with its group."""
        if not mrml.alive(volumeNode):
            return
        start = header.get("start") or (0, 0, 0)
        node = mrml.show_mask(part, start, self.session.dataset["labels"], volumeNode, name)
        node.SetAttribute(_GROUP, group)
        if colour is not None:
            segmentation = node.GetSegmentation()
            for n in range(segmentation.GetNumberOfSegments()):
                segmentation.GetNthSegment(n).SetColor(*(value / 255 for value in colour))
            node.GetDisplayNode().SetOpacity2DFill(0.12)

    def clearGroup(self, group: str) -> None:
        """Take the masks of a group off the scene, and hide what is being edited."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if node.GetAttribute(_GROUP) == group:
                slicer.mrmlScene.RemoveNode(node)

    def keepUnsaved(self, segmentation, case: str, model: dict | None) -> None:
        """Leave a label with changes in the scene, out of sight, until its case is opened again.

        `model` is the result that drew it, if one did.
        """
        segmentation.SetAttribute(_UNSAVED, self._mark(case))
        drawn = model and {key: model[key] for key in ("model", "model_version")}
        segmentation.SetAttribute(_DRAWN_BY, json.dumps(drawn))
        segmentation.SetName(_("{case} label, not saved").format(case=case))
        if segmentation.GetDisplayNode() is not None:
            segmentation.GetDisplayNode().SetVisibility(False)

    def unsaved(self, case: str) -> tuple | None:
        """The label of a case with changes that were left, and the model that drew it; it is taken up again."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if node.GetAttribute(_UNSAVED) == self._mark(case):
                model = json.loads(node.GetAttribute(_DRAWN_BY))
                node.SetAttribute(_UNSAVED, None)
                node.SetName(_("{case} label").format(case=case))
                return node, model
        return None

    def hideOthers(self, shown=None) -> None:
        """Show one segmentation alone."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            display = node.GetDisplayNode()
            if display is not None:
                display.SetVisibility(node is shown)

    def reset(self) -> None:
        """Nothing that was asked for is shown any more: the scene is new."""
        self._wanted += 1

    def _mark(self, case: str) -> str:
        return f"{self.session.dataset['id']}\n{case}"
