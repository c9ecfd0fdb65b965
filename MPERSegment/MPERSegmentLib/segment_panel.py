"""Panel Segment: scan, model, device, region, and the button that starts the segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import qt
import slicer
from MPERLib import formatting, licences, mrml, phases
from MPERLib.callbacks import later, slot
from MPERLib.engine_session import EngineSession
from MPERLib.heart_phase import ED, ES, PhaseMask, phase_title, refuse_other_model
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import chosen, fill_box, show_notes
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, views
from MPERSegmentLib.model_preloader import ModelPreloader
from MPERSegmentLib.region_panel import RegionPanel
from MPERSegmentLib.segmentation_job import SegmentationCallbacks, SegmentationJob, SegmentationRequest
from MPERSegmentLib.uploaded_scans import UploadedScans

NEW, UPDATE = "new", "update"
SHOWN, ALL = "shown", "all"  # phases of a time series


class SegmentPanel:
    """The inputs of a segmentation, the button, and its progress.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    scans : UploadedScans
    finished : callable
        Takes the request, the mask, its header and the job's result.
    placing : callable
        Called before a box or a point is placed by clicks in the views.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        scans: UploadedScans,
        finished: Callable[[SegmentationRequest, np.ndarray, dict, dict], None],
        placing: Callable[[], None],
    ):
        self._context, self._session, self._scans, self._finished = context, session, scans, finished
        self._preloader = ModelPreloader(session)
        self._job: SegmentationJob | None = None
        self._phases: list[int] = []  # of a time series, that are still to be segmented; the first is under way
        self._phasesAsked = 0
        self._heartPhase = ""  # ED or ES, while it is looked for among all phases
        self._bestPhase: PhaseMask | None = None
        self._filling = False
        ui = context.ui
        ui.modelMore.visible = ui.modelNotes.visible = False
        ui.progressBar.visible = False
        ui.progressLabel.visible = False
        ui.modelBox.elideMode = qt.Qt.ElideRight  # in the middle it would make 72 scans of 2
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onScan))
        ui.roiSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onRoi))
        ui.modelBox.connect("currentIndexChanged(int)", slot(self._onModel))
        ui.deviceBox.connect("currentIndexChanged(int)", slot(self._onDevice))
        ui.targetBox.connect("currentIndexChanged(int)", slot(self._onTarget))
        ui.modelMoreButton.connect("toggled(bool)", slot(self._onMore))
        ui.segmentButton.connect("clicked()", slot(self._onButton))
        self.region = RegionPanel(context, self._segmentIn, placing)
        self.show()

    # ---- what is shown

    @property
    def running(self) -> bool:
        return self._job is not None

    def show(self) -> None:
        """Fill the panel from the engine's models and devices, and the user's choices."""
        parameters = self._context.parameters
        if parameters is None:
            return
        ui = self._context.ui
        self._filling = True
        ui.inputSelector.setCurrentNode(parameters.scan() or ui.inputSelector.currentNode() or _scanInView())
        parameters.InputVolume = ui.inputSelector.currentNode()
        ui.roiSelector.setCurrentNode(parameters.region())
        model = self._session.model(parameters.modelId()) or {}
        models = [(model["id"], self._session.modelTitle(model)) for model in self._session.models]
        fill_box(ui.modelBox, models, model.get("id"))
        fill_box(ui.deviceBox, self._session.devices(), parameters.Device)
        shown = parameters.result()
        targets = [(NEW, _("New segmentation"))]
        if result_node.is_result(shown):
            targets.append((UPDATE, _("Replace {name} (can be undone)").format(name=shown.GetName())))
        fill_box(ui.targetBox, targets, parameters.Target)
        self._filling = False
        self.showPhase()
        self._showModel()
        self._showButton()

    def showPhase(self) -> None:
        """Show which phase of a time series will be segmented, and the choice of all phases."""
        ui = self._context.ui
        phase = phases.shown(ui.inputSelector.currentNode())
        ui.phaseBoxLabel.visible = ui.phaseBox.visible = phase is not None
        if phase is not None:
            one = _("Shown: {phase}").format(phase=phase.text)
            entries = [(SHOWN, one), (ALL, _("All {n} phases, a mask of each").format(n=phase.count))]
            entries += [(name, phase_title(name)) for name in (ED, ES)]
            fill_box(ui.phaseBox, entries, chosen(ui.phaseBox) or SHOWN)
            ui.phaseBox.toolTip = one

    def preload(self) -> None:
        """Load the chosen model in the engine before it is needed."""
        parameters = self._context.parameters
        if parameters is not None:
            self._preloader.load(chosen(self._context.ui.modelBox) or parameters.modelId(), parameters.Device)

    def suggestScan(self) -> None:
        """Choose the scan in view if the user has chosen none."""
        parameters = self._context.parameters
        if parameters is not None and parameters.scan() is None:
            self._context.ui.inputSelector.setCurrentNode(_scanInView())

    def _showModel(self) -> None:
        ui, model = self._context.ui, self._model()
        ui.modelWords.text = formatting.model_summary(model) if model else self._session.stateText()
        ui.modelWords.toolTip = formatting.model_card(model) if model else ""
        ui.modelBox.toolTip = ui.modelBox.currentText or _("The model, and with it the structures to segment")
        show_notes(ui.modelNotes, self._session.modelNotes)
        ui.modelMoreButton.enabled = model is not None
        ui.modelMore.text = formatting.model_card(model) if model else ""
        ui.modelMore.visible = bool(model) and ui.modelMoreButton.checked

    def _showButton(self) -> None:
        ui, model = self._context.ui, self._model()
        scan = ui.inputSelector.currentNode()
        ui.segmentButton.text = _("Cancel") if self.running else (model or {}).get("button") or _("Segment")
        ready = self._session.ready and model is not None and scan is not None
        ui.segmentButton.enabled = self.running or ready
        if self.running or ready:
            ui.segmentButton.toolTip = ""
        elif scan is None:
            ui.segmentButton.toolTip = _("Load a scan first. The module Sample Data has one of the left atrium.")
        else:
            ui.segmentButton.toolTip = self._session.stateText()
        for widget in (
            ui.inputSelector,
            ui.modelBox,
            ui.deviceBox,
            ui.targetBox,
            ui.phaseBox,
        ):
            widget.enabled = not self.running
        self.region.show(ready, self.running)

    def _model(self) -> dict | None:
        return self._session.model(chosen(self._context.ui.modelBox))

    # ---- what the user does

    def _onScan(self, node: slicer.vtkMRMLNode | None) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.InputVolume = node
            if node is not None:
                later(lambda: self._showScan(node), "scan into view")  # a node that was just added has no voxels yet
            if not self.running:
                self._context.ui.progressLabel.visible = False  # it says how the last segmentation has ended
            self._context.update()
        self.showPhase()
        self._showButton()

    def _showScan(self, scan: slicer.vtkMRMLNode) -> None:
        if mrml.alive(scan) and scan is self._context.ui.inputSelector.currentNode():
            views.show_scan(scan)

    def _onRoi(self, node: slicer.vtkMRMLNode | None) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.Region = node

    def _onModel(self) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.Model = chosen(self._context.ui.modelBox)
            self.preload()
            self._showModel()
            self._showButton()

    def _onDevice(self) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.Device = chosen(self._context.ui.deviceBox)
            self.preload()

    def _onTarget(self) -> None:
        if not self._filling and self._context.parameters:
            self._context.parameters.Target = chosen(self._context.ui.targetBox)

    def _onMore(self, checked: bool) -> None:
        self._context.ui.modelMore.visible = checked

    def _onButton(self) -> None:
        if self._job is not None:
            self._job.cancel()
        else:
            self._start()

    # ---- the segmentation

    def _start(self) -> None:
        """Segment in the region that the user has chosen; the model finds one where there is none."""
        ui, parameters = self._context.ui, self._context.parameters
        replaced = parameters.result() if parameters is not None and chosen(ui.targetBox) == UPDATE else None
        self._startIn(chosen(ui.phaseBox), replaced, ui.roiSelector.currentNode(), None)

    def _segmentIn(self, roi: slicer.vtkMRMLMarkupsROINode | None, at_mm: list[float] | None) -> None:
        """Segment in a box or around a point, in place of the shown result if that has the same structures."""
        model, parameters = self._model(), self._context.parameters
        if self._job is None and model is not None and parameters is not None:
            shown = parameters.result()
            same = _names(model) == _names(result_node.of(shown) or {})
            self._startIn(SHOWN, shown if same else None, roi, at_mm)

    def _startIn(
        self,
        choice: str,
        target: slicer.vtkMRMLSegmentationNode | None,
        roi: slicer.vtkMRMLMarkupsROINode | None,
        at_mm: list[float] | None,
    ) -> None:
        ui, parameters, model = self._context.ui, self._context.parameters, self._model()
        scan = ui.inputSelector.currentNode()
        if parameters is None or model is None or scan is None:
            return
        self._context.clearMessage()
        if not licences.acknowledged(model):
            self._context.showMessage(_("Nothing was segmented: the terms of use of the model are not acknowledged."))
            return
        phase = phases.shown(scan)
        self._phases, self._heartPhase = [], ""
        if phase is not None:
            if choice in (ED, ES):
                try:
                    refuse_other_model(choice, model.get("labels") or ())
                except ValueError as error:
                    self._context.showMessage(str(error))
                    return
                self._heartPhase, self._bestPhase = choice, None
            self._phases = [phase.number] if choice == SHOWN else list(range(1, phase.count + 1))
        self._phasesAsked = len(self._phases)
        number = self._phases[0] if self._phases else None
        target = target if self._phasesAsked < 2 or self._heartPhase else None
        self._begin(SegmentationRequest(scan, model, parameters.Device, roi, phase=number, at_mm=at_mm, target=target))

    def _begin(self, request: SegmentationRequest) -> None:
        ui = self._context.ui
        callbacks = SegmentationCallbacks(
            self._onProgress,
            self._context.showMessage,
            lambda mask, header, result: self._onFinished(request, mask, header, result),
            self._onFailed,
            lambda: self._end(self._cancelledText()),
        )
        try:
            self._job = SegmentationJob(self._session, self._scans, request, callbacks)
        except ValueError as error:
            text = self._ofPhase(str(error))
            self._end()
            self._context.showMessage(text)
            return
        ui.progressBar.visible = True
        ui.progressLabel.visible = True
        self._showButton()

    def _onProgress(self, share: float | None, message: str) -> None:
        ui = self._context.ui
        ui.progressBar.maximum = 0 if share is None else 1000  # without a maximum the bar moves by itself
        if share is not None and self._phasesAsked > 1:
            share = (self._phasesAsked - len(self._phases) + share) / self._phasesAsked
        ui.progressBar.value = 0 if share is None else round(1000 * share)
        ui.progressLabel.text = self._ofPhase(message)

    def _ofPhase(self, message: str) -> str:
        """A message with the phase that it is about, while all phases are segmented."""
        if self._phasesAsked < 2 or not self._phases:
            return message
        text = _("Phase {n} of {count}: {message}")
        return text.format(n=self._phases[0], count=self._phasesAsked, message=message)

    def _cancelledText(self) -> str:
        done = self._phasesAsked - len(self._phases)
        if not done or self._heartPhase:
            return _("Cancelled. Nothing was changed.")
        return _("Cancelled. The masks of {n} phases stay.").format(n=done)

    def _onFinished(self, request: SegmentationRequest, mask: np.ndarray, header: dict, result: dict) -> None:
        self._phases = self._phases[1:]
        more, heartPhase, count = bool(self._phases), self._heartPhase, self._phasesAsked
        if heartPhase and request.phase is not None:
            found = PhaseMask.from_answer(request.phase, mask, header, result)
            self._bestPhase = found if found.wins(heartPhase, self._bestPhase) else self._bestPhase
        best = self._bestPhase
        if not more:
            self._end()
        self._context.clearMessage()  # notices are among the result's notes now
        if not heartPhase:
            self._finished(request, mask, header, result)
        elif not more:
            self._finishHeartPhase(request, heartPhase, best, count)
        if more and self._job is not None:  # else the scene was closed meanwhile
            later(lambda: self._next(request), "next phase", self._onFailed)

    def _finishHeartPhase(self, request: SegmentationRequest, choice: str, best: PhaseMask | None, count: int) -> None:
        """Show the mask of ED or ES alone, and say which phase it is."""
        if best is None:
            text = _("The model finds no left ventricle in any of the {n} phases. Choose a phase.")
            self._context.showMessage(text.format(n=count))
            return
        self._finished(replace(request, phase=best.number), best.mask, best.header, best.result)
        ui = self._context.ui
        ui.progressLabel.text = _("{phase} is phase {n} of {count}. Show it to see its mask.").format(
            phase=choice, n=best.number, count=count
        )
        ui.progressLabel.visible = True

    def _next(self, request: SegmentationRequest) -> None:
        """Segment the next phase, unless it was cancelled."""
        if self._phases and self._job is not None:
            self._begin(replace(request, phase=self._phases[0]))

    def _onFailed(self, message: str) -> None:
        message = self._ofPhase(message)
        self._end()
        if self._session.running:  # else the message about the engine is shown, with its button
            self._context.showMessage(message)

    def nodeRemoved(self, node: slicer.vtkMRMLNode) -> None:
        """Cancel the segmentation of a scan that is being removed from the scene."""
        self.region.nodeRemoved(node)
        if self._job is not None and node is self._job.scan:
            self._job.abort()
            self._end(_("Cancelled: {scan} was removed from the scene.").format(scan=node.GetName()))

    def cancel(self) -> None:
        """Cancel the segmentation, as the scene or the module is being closed."""
        self.region.cancel()
        if self._job is not None:
            self._job.abort()
            self._end()

    def _end(self, message: str = "") -> None:
        self._job = self._bestPhase = None
        self._phases, self._phasesAsked, self._heartPhase = [], 0, ""
        ui = self._context.ui
        ui.progressBar.visible = False
        ui.progressLabel.text = message
        ui.progressLabel.visible = bool(message)
        self._showButton()


def _names(labelled: Mapping[str, Any]) -> set[str]:
    """The structures of a model or of a result."""
    return {str(label["name"]).casefold() for label in labelled.get("labels") or ()}


def _scanInView() -> slicer.vtkMRMLScalarVolumeNode | None:
    """The scan that the slices show, else the only one in the scene."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        node = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
        if node is not None:
            return node
    scans = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    scans = [node for node in scans if not node.IsA("vtkMRMLLabelMapVolumeNode")]
    return scans[0] if len(scans) == 1 else None
