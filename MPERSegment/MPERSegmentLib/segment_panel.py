"""Panel Segment: scan, model, computer, region, and the button."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import qt
import slicer
from MPERLib import mrml
from MPERLib.callbacks import slot
from slicer.i18n import tr as _

from MPERSegmentLib import boxes, formatting, result_node, views
from MPERSegmentLib.engine_session import EngineSession
from MPERSegmentLib.panel_context import PanelContext
from MPERSegmentLib.segmentation_job import SegmentationCallbacks, SegmentationJob, SegmentationRequest
from MPERSegmentLib.turns import later

NEW, UPDATE = "new", "update"


class SegmentPanel:
    """The button and what it works on.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
        The engine and what it offers.
    arrived : callable
        Takes the request, whether the shown result is to be updated, the mask, its header and the job's result.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        arrived: Callable[[SegmentationRequest, bool, np.ndarray, dict, dict], None],
    ):
        self._context, self._session, self._arrived = context, session, arrived
        self._work: SegmentationJob | None = None
        self._filling = False
        ui = context.ui
        ui.modelMore.visible = False
        ui.progressBar.visible = False
        ui.progressLabel.visible = False
        ui.modelBox.elideMode = qt.Qt.ElideRight  # in the middle it would cut 72 scans to 2
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onScan))
        ui.roiSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onRoi))
        ui.modelBox.connect("currentIndexChanged(int)", slot(self._onModel))
        ui.deviceBox.connect("currentIndexChanged(int)", slot(self._onDevice))
        ui.targetBox.connect("currentIndexChanged(int)", slot(self._onTarget))
        ui.modelMoreButton.connect("toggled(bool)", slot(self._onMore))
        ui.drawRoiButton.connect("clicked()", slot(self._onDrawRoi))
        ui.segmentButton.connect("clicked()", slot(self._onButton))
        self.show()

    # ---- what is shown

    @property
    def running(self) -> bool:
        return self._work is not None

    def show(self) -> None:
        """Fill the panel from the engine's offers and the user's choices."""
        parameters = self._context.parameters
        if parameters is None:
            return
        ui = self._context.ui
        self._filling = True
        ui.inputSelector.setCurrentNode(parameters.nodeOf("scan") or ui.inputSelector.currentNode() or _scanInView())
        parameters.putNode("scan", ui.inputSelector.currentNode())
        ui.roiSelector.setCurrentNode(parameters.nodeOf("roi"))
        boxes.fill(
            ui.modelBox,
            [(model["id"], self._session.titleOf(model)) for model in self._session.models],
            (self._session.model(parameters.get("Model")) or {}).get("id", ""),
        )
        boxes.fill(ui.deviceBox, self._session.devices(), parameters.get("Device"))
        shown = parameters.nodeOf("result")
        targets = [(NEW, _("A new segmentation"))]
        if result_node.is_result(shown):
            targets.append((UPDATE, _("Update {name} (Undo brings it back)").format(name=shown.GetName())))
        boxes.fill(ui.targetBox, targets, parameters.get("Target"))
        self._filling = False
        self._showModel()
        self._showButton()

    def _showModel(self) -> None:
        ui, model = self._context.ui, self._session.model(self._chosenModel())
        ui.modelWords.text = formatting.model_words(model) if model else self._session.stateWords()
        ui.modelBox.toolTip = ui.modelBox.currentText or _("What to look for")  # a narrow box shows a part of it
        ui.modelMoreButton.enabled = model is not None
        ui.modelMore.text = formatting.model_card(model) if model else ""
        ui.modelMore.visible = bool(model) and ui.modelMoreButton.checked

    def _showButton(self) -> None:
        ui, model = self._context.ui, self._session.model(self._chosenModel())
        scan = ui.inputSelector.currentNode()
        ui.segmentButton.text = _("Cancel") if self.running else (model or {}).get("button") or _("Segment")
        ready = self._session.ready and model is not None and scan is not None
        ui.segmentButton.enabled = self.running or ready
        if self.running or ready:
            ui.segmentButton.toolTip = ""
        elif scan is None:
            ui.segmentButton.toolTip = _("Load a scan first; Sample Data has one of the left atrium")
        else:
            ui.segmentButton.toolTip = self._session.stateWords()
        for widget in (ui.inputSelector, ui.modelBox, ui.deviceBox, ui.roiSelector, ui.drawRoiButton, ui.targetBox):
            widget.enabled = not self.running

    def _chosenModel(self) -> str:
        return boxes.chosen(self._context.ui.modelBox)

    def suggest(self) -> None:
        """A node has come: take it for the scan if the user has chosen none."""
        parameters = self._context.parameters
        if parameters is not None and parameters.nodeOf("scan") is None:
            self._context.ui.inputSelector.setCurrentNode(_scanInView())

    # ---- what the user does

    def _onScan(self, node: slicer.vtkMRMLNode | None) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.putNode("scan", node)
            if node is not None:
                later(lambda: self._bring(node), "scan into view")  # a node that has just come has no voxels yet
        self._showButton()

    def _bring(self, scan: slicer.vtkMRMLNode) -> None:
        if mrml.alive(scan) and scan is self._context.ui.inputSelector.currentNode():
            views.bring(scan)

    def _onRoi(self, node: slicer.vtkMRMLNode | None) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.putNode("roi", node)

    def _onModel(self) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.put("Model", self._chosenModel())
            self._session.prepare(self._chosenModel(), self._context.parameters.get("Device"))
            self._showModel()
            self._showButton()

    def _onDevice(self) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.put("Device", boxes.chosen(self._context.ui.deviceBox))
            self._session.prepare(self._chosenModel(), self._context.parameters.get("Device"))

    def _onTarget(self) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.put("Target", boxes.chosen(self._context.ui.targetBox))

    def _onMore(self, checked: bool) -> None:
        self._context.ui.modelMore.visible = checked

    def _onDrawRoi(self) -> None:
        """Place a new box: the next two clicks in a slice are its corners."""
        scene = slicer.mrmlScene
        roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", scene.GenerateUniqueName(_("Region")))
        roi.CreateDefaultDisplayNodes()
        self._context.ui.roiSelector.setCurrentNode(roi)
        slicer.modules.markups.logic().SetActiveList(roi)
        # Not the logic's StartPlaceMode: that one begins a point, whatever list is active.
        slicer.app.applicationLogic().GetInteractionNode().SwitchToSinglePlaceMode()

    def _onButton(self) -> None:
        if self._work is not None:
            self._work.cancel()
        else:
            self._start()

    # ---- the work

    def _start(self) -> None:
        ui, parameters = self._context.ui, self._context.parameters
        model = self._session.model(self._chosenModel())
        scan = ui.inputSelector.currentNode()
        if parameters is None or model is None or scan is None:
            return
        self._context.hush()
        request = SegmentationRequest(scan, model, parameters.get("Device"), ui.roiSelector.currentNode())
        update = boxes.chosen(ui.targetBox) == UPDATE
        callbacks = SegmentationCallbacks(
            self._onProgress,
            self._context.say,
            lambda mask, header, result: self._onFinished(request, update, mask, header, result),
            self._onFailed,
            self._onCancelled,
        )
        try:
            self._work = SegmentationJob(self._session.engine, self._session.scans, request, callbacks)
        except ValueError as error:
            self._rest()
            self._context.say(str(error))
            return
        ui.progressBar.visible = True
        ui.progressLabel.visible = True
        self._showButton()

    def _onProgress(self, share: float | None, message: str) -> None:
        ui = self._context.ui
        ui.progressBar.maximum = 0 if share is None else 1000  # a bar without an end moves by itself
        ui.progressBar.value = 0 if share is None else round(1000 * share)
        ui.progressLabel.text = message

    def _onFinished(
        self, request: SegmentationRequest, update: bool, mask: np.ndarray, header: dict, result: dict
    ) -> None:
        self._rest()
        self._context.hush()  # notices stand among the result's notes now
        self._arrived(request, update, mask, header, result)

    def _onFailed(self, message: str) -> None:
        self._rest()
        if self._session.ready:
            self._context.say(message)
        else:
            self._session.explain()

    def _onCancelled(self) -> None:
        self._rest(_("Cancelled; nothing was changed."))

    def leave(self, node: slicer.vtkMRMLNode) -> None:
        """A node is being removed; without its scan the work has no end."""
        if self._work is not None and node is self._work.scan:
            self._work.drop()
            self._rest(_("{scan} was removed from the scene, so it is not segmented.").format(scan=node.GetName()))

    def drop(self) -> None:
        """Give up what is under way, as the scene or the module is closed."""
        if self._work is not None:
            self._work.drop()
            self._rest()

    def _rest(self, message: str = "") -> None:
        self._work = None
        ui = self._context.ui
        ui.progressBar.visible = False
        ui.progressLabel.text = message
        ui.progressLabel.visible = bool(message)
        self._showButton()


def _scanInView() -> slicer.vtkMRMLScalarVolumeNode | None:
    """What the user most likely means: the scan that the slices show, else the only one there is."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        node = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
        if node is not None:
            return node
    scans = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    scans = [node for node in scans if not node.IsA("vtkMRMLLabelMapVolumeNode")]
    return scans[0] if len(scans) == 1 else None
