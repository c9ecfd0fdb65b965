"""The panels of the module together, and how they follow the scene and the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer
import vtk
from MPERLib import formatting, memory, mrml, phases, segmentation_node, surface, widgets
from MPERLib.callbacks import later, slot
from MPERLib.cohort_panel import CohortPanel, add_section
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.rendering import rendered_once
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from MPERSegmentLib import found_region, mask_quality, result_node, stroke_node, views
from MPERSegmentLib.edit_tracker import EditTracker
from MPERSegmentLib.engine_panel import EnginePanel, useLastEngine
from MPERSegmentLib.explanation_panel import ExplanationPanel
from MPERSegmentLib.export_panel import ExportPanel
from MPERSegmentLib.install_panel import InstallPanel
from MPERSegmentLib.measure_panel import MeasurePanel
from MPERSegmentLib.parameters import SegmentParameters, parametersOf
from MPERSegmentLib.phase_tracker import PhaseTracker
from MPERSegmentLib.result_panel import ResultPanel
from MPERSegmentLib.save_label_panel import SaveLabelPanel
from MPERSegmentLib.segment_editor_panel import SegmentEditorPanel
from MPERSegmentLib.segment_panel import NEW, SegmentPanel
from MPERSegmentLib.segmentation_job import SegmentationRequest
from MPERSegmentLib.strokes_panel import StrokesPanel
from MPERSegmentLib.uploaded_scans import UploadedScans

_MEASURE_AFTER_MS = 500  # without another edit
_PHASE_AFTER_MS = 200  # without another phase, while a time series is played


class ModulePanel(VTKObservationMixin):
    """Makes the panels, and updates them when scene or engine change.

    Parameters
    ----------
    uiWidget : QWidget
        Made from the .ui file.
    logic : MPERSegmentLogic
        Has the parameter node.
    """

    def __init__(self, uiWidget: Any, logic: Any):
        VTKObservationMixin.__init__(self)
        add_section(uiWidget, before=slicer.util.childWidgetVariables(uiWidget).engineSection)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self._logic = logic
        self._parameters: SegmentParameters | None = None
        self._showing = False
        self._engineState = ""
        useLastEngine()
        context = self.context = PanelContext(self.ui, lambda: self._parameters, self._about)
        session = self.session = EngineSession(context.showMessage)
        scans = self.scans = UploadedScans(session)
        self.editTracker = EditTracker(self._onEdited)
        self.segmentPanel = SegmentPanel(
            context, session, scans, self._onSegmented, lambda: self.strokesPanel.endBrush()
        )
        self.resultPanel = ResultPanel(context, self._onResultChosen)
        self.explanationPanel = ExplanationPanel(
            context, session, lambda number: self.strokesPanel.strokeText(number), self._onCorrect
        )
        self.segmentEditorPanel = SegmentEditorPanel(
            context, self._onCorrectOpened, lambda: self.strokesPanel.endBrush()
        )
        self.strokesPanel = StrokesPanel(
            context,
            session,
            scans,
            self.segmentEditorPanel,
            self.explanationPanel,
            self.editTracker,
            self._onStrokesApplied,
        )
        self.saveLabelPanel = SaveLabelPanel(context, session, scans, self.strokesPanel.settled)
        self.measurePanel = MeasurePanel(context, session, scans, self.strokesPanel.settled)
        self.exportPanel = ExportPanel(context, self.measurePanel.reportInputs, self.strokesPanel.settled)
        self.cohortPanel = CohortPanel(context, session)
        self.enginePanel = EnginePanel(context, session)
        self.installPanel = InstallPanel(context, session.start)
        session.onChange(self._onEngineChanged)
        self._measure = qt.QTimer(uiWidget)
        self._measure.setSingleShot(True)
        self._measure.interval = _MEASURE_AFTER_MS
        self._measure.connect("timeout()", slot(self._onEditsRested))
        self._phaseRest = qt.QTimer(uiWidget)
        self._phaseRest.setSingleShot(True)
        self._phaseRest.interval = _PHASE_AFTER_MS
        self._phaseRest.connect("timeout()", slot(self._onPhaseRested))
        self._phase: tuple[phases.Phase | None, phases.Phase | None] = (None, None)
        self.phaseTracker = PhaseTracker(self._onBrowser)
        self._observeScene()
        self._bind()

    def _about(self) -> tuple[Any, ...]:
        """The scan, the result and the state of the engine that a message may be about."""
        parameters = self._parameters
        nodes = (None, None) if parameters is None else (parameters.scan(), parameters.result())
        return *(node and node.GetID() for node in nodes), self.session.engine.state

    def cleanup(self) -> None:
        """The module is being unloaded, or Slicer quits."""
        self._release()
        self.strokesPanel.leave()
        self.removeObservers()
        self._measure.stop()
        self._phaseRest.stop()
        self.segmentEditorPanel.destroy()
        self.enginePanel.stop()
        self.installPanel.stop()
        self.cohortPanel.close()
        self.scans.forgetAll()
        self.session.close()
        self.context.close()

    def enter(self) -> None:
        """The user opens the module: start the engine, and load the model before it is needed."""
        if self._parameters is None:
            self._bind()
        self.segmentPanel.preload()
        self.session.start()
        self.explanationPanel.enter()
        self.segmentEditorPanel.enter()
        self.cohortPanel.enter()
        self.strokesPanel.enter()

    def exit(self) -> None:
        """The user goes to another module; work that is under way continues."""
        self.strokesPanel.leave()
        self.segmentPanel.region.cancel()
        self.explanationPanel.leave()
        self.segmentEditorPanel.leave()
        self.cohortPanel.leave()

    # ---- the scene

    def _observeScene(self) -> None:
        scene = slicer.mrmlScene
        withNode = vtk.calldata_type(vtk.VTK_OBJECT)
        for event, method in (
            (scene.StartCloseEvent, slot(self._onSceneCloses)),
            (scene.EndCloseEvent, slot(self._onSceneClosed)),
            (scene.StartImportEvent, slot(self._onImportStarts)),
            (scene.EndImportEvent, slot(self._onImportEnds)),
            (scene.NodeAddedEvent, withNode(slot(self._onNodeAdded))),
            (scene.NodeAboutToBeRemovedEvent, withNode(slot(self._onNodeRemoved))),
        ):
            self.addObserver(scene, event, method)

    def _bind(self) -> None:
        """Take the parameters of the scene, and show them."""
        self._parameters = parametersOf(self._logic.getParameterNode())
        for node in result_node.all_of(slicer.mrmlScene):
            self.editTracker.observe(node)
        self.phaseTracker.observe()
        self.segmentPanel.show()
        self.explanationPanel.restore()
        self.strokesPanel.restore()
        self._show(self._parameters.result())
        self._showInViews()

    def _release(self) -> None:
        """Release all nodes of the scene, and cancel what is under way for it."""
        self.segmentPanel.cancel()
        self.saveLabelPanel.cancel()
        self.measurePanel.close()
        self.exportPanel.stop()
        self.strokesPanel.close()
        self.explanationPanel.close()
        self.segmentEditorPanel.close()
        self.editTracker.forgetAll()
        self.phaseTracker.forgetAll()
        self._parameters = None

    def _onSceneCloses(self) -> None:
        for node in result_node.all_of(slicer.mrmlScene):
            self._forgetPredictions(node)
        self._release()
        self.cohortPanel.reset()
        self.scans.forgetAll()

    def _onSceneClosed(self) -> None:
        self._bind()
        later(memory.release, "memory of the closed scene")

    def _forgetPredictions(self, node: slicer.vtkMRMLNode) -> None:
        """Let the engine free what it keeps for the questions and strokes of a result that leaves the scene."""
        if self.session.running:
            for prediction in result_node.predictions_of(node):
                self.session.delete(route("predictions", prediction), failed=lambda _message: None)

    def _onImportStarts(self) -> None:
        """Slicer's wrapper would write its defaults over the parameters of a scene of version 0.1 while that loads."""
        self._parameters = None

    def _onImportEnds(self) -> None:
        if not slicer.mrmlScene.IsClosing():
            self._bind()
            later(
                self.explanationPanel.sceneLoaded, "overlay of a loaded scene"
            )  # Slicer sets the layers after this event
            self.segmentEditorPanel.sceneLoaded()

    def _onNodeAdded(self, _caller: Any, _event: str, node: Any) -> None:
        if node is not None and node.IsA("vtkMRMLScalarVolumeNode"):
            later(self.segmentPanel.suggestScan, "suggest a scan")
        elif node is not None and node.IsA("vtkMRMLSequenceBrowserNode") and self._parameters is not None:
            self.phaseTracker.observe()

    def _onNodeRemoved(self, _caller: Any, _event: str, node: Any) -> None:
        if node is None or self._parameters is None:
            return
        self._forgetPredictions(node)
        self.editTracker.forget(node.GetID())
        self.phaseTracker.forget(node.GetID())
        self.strokesPanel.nodeRemoved(node.GetID())
        self.measurePanel.nodeRemoved(node)
        self.segmentPanel.nodeRemoved(node)
        self.scans.forget(node.GetID())
        if node is self._parameters.Result:
            others = [other for other in result_node.all_of(slicer.mrmlScene) if other is not node]
            same = [other for other in others if result_node.scan_of(other) is result_node.scan_of(node)]
            self._show(next(reversed(same or others), None))
            self._showInViews()

    # ---- the engine

    def _onEngineChanged(self) -> None:
        """The engine, its state or its models have changed."""
        engine = self.session.engine
        self.context.update()
        if engine.state != self._engineState:
            self._engineState = engine.state
            if engine.state == "failed":
                self.context.showMessage(engine.reason, _("Start again"), self.session.start)
                if not engine.isRemote:
                    self.installPanel.check()
        self.segmentPanel.show()
        self.segmentPanel.preload()
        self.enginePanel.show()
        self._explain(self._result())
        self.strokesPanel.engineChanged()
        self.measurePanel.engineChanged()
        if not self.ui.keepSection.collapsed:
            self.saveLabelPanel.refresh()

    # ---- phases of a time series

    def _onBrowser(self) -> None:
        """A sequence browser has changed; while a time series is played, that is many times a second."""
        phase = phases.shown(self.ui.inputSelector.currentNode())
        result = self._result()
        of_result = phases.shown(result_node.scan_of(result)) if result is not None else None
        if (phase, of_result) != self._phase:
            self._phase = (phase, of_result)
            self.segmentPanel.showPhase()
            views.show_results()
            self._phaseRest.start()

    def _onPhaseRested(self) -> None:
        """Show the mask of the phase that is shown; where there is none, say so."""
        node = self._result()
        if node is None:
            return
        scan = result_node.scan_of(node)
        if phases.mismatch(node, scan):
            same = [other for other in result_node.all_of(slicer.mrmlScene) if result_node.scan_of(other) is scan]
            same = [other for other in same if not phases.mismatch(other, scan)]
            node = next(reversed([other for other in same if views.is_visible(other)] or same), node)
        self._show(node)
        self._showSurface(node)

    def _showSurface(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Make the surface of a mask that was not shown when it was made."""
        if not node.GetSegmentation().ContainsRepresentation("Closed surface"):
            later(lambda: self._makeSurface(node, False), "surface of a phase")

    # ---- results

    def _onSegmented(self, request: SegmentationRequest, mask: np.ndarray, header: dict, result: dict) -> None:
        """Show a new mask in the slices now, and its surface a little later."""
        if self._parameters is not None:
            with rendered_once():
                self._addResult(request, mask, header, {**result, "title": formatting.model_name(request.model)})

    def _addResult(self, request: SegmentationRequest, mask: np.ndarray, header: dict, result: dict) -> None:
        node = request.target
        try:
            if (
                mrml.alive(node)
                and result_node.is_result(node)
                and result_node.scan_of(node) is request.scan
                and phases.of(node) == request.phase
            ):
                self.segmentEditorPanel.saveForUndo(node)
                with self.editTracker.paused():
                    segmentation_node.replace_mask(node, mask, header["start"], result["labels"], request.scan, result)
                    self.editTracker.steps.note(node)
            else:
                words = [request.scan.GetName(), *(label["name"] for label in result["labels"])]
                if request.phase is not None:
                    words.append(_("phase {n}").format(n=request.phase))
                name = " ".join(words)
                node = segmentation_node.show_mask(mask, header["start"], result["labels"], request.scan, name, result)
        except ValueError as error:
            self.context.showMessage(str(error))
            return
        with self.editTracker.paused():
            result_node.record(node, result)
            stroke_node.forget(node)
            phases.note(node, request.phase)
        self.strokesPanel.replaced(node)
        mask_quality.show_in_views(node)
        region = self.segmentPanel.region
        if request.roi is None and request.roi_mm is None:
            region.showFound(request.scan, node, result.get("roi_mm"))
        else:
            region.keep(request.roi, node)
        if result.get("scan_sha256"):
            self.scans.checksums.note(phases.voxels_of(request.scan, request.phase), result["scan_sha256"])
        self.editTracker.observe(node)
        self._parameters.Target = NEW  # the user chooses each time to replace a result
        if phases.mismatch(node, request.scan) and self._showsPhaseOf(request.scan):
            views.show_results()  # hides it until its phase is shown
            self._followRegion(self._result())
            self.measurePanel.show(self._result())  # the figures of all phases have one phase more
            return
        alone = views.is_alone(node)
        later(lambda: self._showAdded(node, result, alone), "new result is shown")  # as much work again

    def _showAdded(self, node: slicer.vtkMRMLSegmentationNode, result: dict, alone: bool) -> None:
        """Show a result that was just added, in the panel and in the views."""
        scan = result_node.scan_of(node) if mrml.alive(node) else None
        if self._parameters is None or scan is None:
            return
        with rendered_once():
            self._show(node)
            views.choose(node)
            views.show_scan(scan)
        later(lambda: self._lookAt(node, result), "slices to the mask")
        later(lambda: self._makeSurface(node, alone), "surface begins")

    def _lookAt(self, node: slicer.vtkMRMLSegmentationNode, result: dict) -> None:
        scan = result_node.scan_of(node) if mrml.alive(node) else None
        if scan is not None:
            views.look_at_mask(result.get("extent"), scan)

    def _showsPhaseOf(self, scan: slicer.vtkMRMLScalarVolumeNode) -> bool:
        """Whether the result that is shown is of the phase of this scan that is shown."""
        node = self._result()
        return result_node.is_result(node) and result_node.scan_of(node) is scan and not phases.mismatch(node, scan)

    def _makeSurface(self, node: slicer.vtkMRMLSegmentationNode, centre: bool) -> None:
        def done() -> None:
            if centre and mrml.alive(node):
                views.centre(node)

        def wanted() -> bool:
            """A state that was undone has its surface; a new one would make Slicer forget the states to redo."""
            return mrml.alive(node) and not self.editTracker.steps.canRedo(node)

        if wanted():
            surface.make_surface(node, lambda step: later(step, "surface"), done, wanted)

    def _onResultChosen(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        if self._showing:
            return
        self._show(node)
        scan = result_node.scan_of(node) if node is not None else None
        if scan is not None:
            views.show_scan(scan)
        later(lambda: self._chooseInViews(node, True), "result in view")

    def _showInViews(self) -> None:
        """Show the panel's result in the views, too, unless the user has hidden it there."""
        node = self._result()
        if node is not None:
            later(lambda: self._chooseInViews(node, False), "result in view")

    def _chooseInViews(self, node: slicer.vtkMRMLSegmentationNode | None, reveal: bool) -> None:
        """Show a result in the views, unless the panel shows another one by now."""
        if self._parameters is not None and node is self._result() and slicer.mrmlScene is not None:
            views.choose(node, reveal)

    def _result(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._parameters.result() if self._parameters else None

    def _show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show a result, or none, in all panels."""
        if self._parameters is None:
            return
        self._showing = True
        try:
            self._parameters.Result = node
            for panel in (
                self.resultPanel,
                self.segmentEditorPanel,
                self.strokesPanel,
                self.saveLabelPanel,
                self.measurePanel,
                self.exportPanel,
            ):
                panel.show(node)
            self._explain(node)
            self._followRegion(node)
            self.segmentPanel.show()
        finally:
            self._showing = False
        self.context.update()

    def _followRegion(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the box of the region of this result, and not of another one of its scan."""
        result = result_node.of(node)
        if node is not None and result is not None:
            found_region.follow(result_node.scan_of(node), node, result.get("roi_mm"))

    def _explain(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Explain a result, unless another phase is shown than its own, over which the maps would lie."""
        other = node is not None and phases.mismatch(node, result_node.scan_of(node))
        self.explanationPanel.show(None if other else node)

    # ---- corrections

    def _onEdited(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """A result has changed: it is measured again after the last edit."""
        mask_quality.show_in_views(node)
        if node is self._result():
            self.segmentEditorPanel.showState()
            self.strokesPanel.show(node)
            self.measurePanel.edited(node)
            self._measure.start()

    def _onEditsRested(self) -> None:
        if self._parameters is not None:
            self.resultPanel.show(self._result())
            self._explain(self._result())

    def _onStrokesApplied(self, node: slicer.vtkMRMLSegmentationNode, different: bool) -> None:
        """The engine has answered to strokes on a result; `different` tells whether voxels have changed."""
        with self.editTracker.paused():
            if stroke_node.applied(node) or result_node.is_by_hand(node):
                segmentation_node.mark_edited(node)
            else:
                segmentation_node.unmark_edited(node)
        if different:
            self.editTracker.edited(node)
            steps = self.editTracker.steps
            step = steps.current(node)
            surface_of = lambda: steps.current(node) == step and self._makeSurface(node, False)  # noqa: E731
            later(lambda: mrml.alive(node) and surface_of(), "surface after a stroke")
        elif node is self._result():
            self.segmentEditorPanel.showState()
            self._explain(node)
            self._measure.start()

    def _onCorrect(self) -> None:
        """The user wants to correct the uncertain location that the slices show."""
        self.ui.refineSection.collapsed = False
        self.strokesPanel.startBrush()
        later(lambda: widgets.reveal(self.ui.strokesBox), "brushes into view")

    def _onCorrectOpened(self) -> None:
        if self._result() is not None:
            self.editTracker.resumeTime(self._result())
