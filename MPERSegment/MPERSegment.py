"""The module MPERSegment: segment a scan with one click, see why, refine, keep as a label, export."""

from __future__ import annotations

import importlib
import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class MPERSegment(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MPER Segment")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Markups", "Plots", "SubjectHierarchy"]
        parent.contributors = ["The MPER contributors"]
        parent.helpText = _("""
<p>Segments the heart with one click: the left atrium in LGE-MRI, or both ventricles and the myocardium in cine MRI.</p>
<p>Choose a scan and a model, and press the button. <b>Result</b> measures each structure, <b>Why</b> shows by which
learned prototype each voxel was recognised and where the model is unsure, <b>Refine</b> lets you correct the mask with
a few strokes, or by hand, and keep it as a label for training (module MPER Trainer), and <b>Export</b> writes files,
DICOM-SEG included.</p>
<p>The model runs in a process beside Slicer. Nothing leaves this computer unless you choose an engine elsewhere and
agree to it. For research; not a medical device.</p>
""")
        parent.acknowledgementText = _("""
<p>The left-atrium models were trained on scans of the 2018 Atrial Segmentation Challenge (Xiong et al., Medical Image
Analysis 67, 101832, 2021), the ventricle model on ACDC (Bernard et al., IEEE Transactions on Medical Imaging 37(11),
2018). The method is that of MPER, ICASSP 2025.</p>
""")
        slicer.app.connect("startupCompleted()", registerWithSlicer)


def registerWithSlicer():
    """Offer the sample scan and our codes, once all modules of Slicer are there."""
    from MPERLib import startup

    startup.register()


class MPERSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Puts the panels together, and keeps them in step with the scene and with the engine."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameters = None
        self._showing = False

    def setup(self):
        from MPERLib import callbacks
        from MPERSegmentLib.edit_tracker import EditTracker
        from MPERSegmentLib.engine_panel import EnginePanel, chooseLast
        from MPERSegmentLib.engine_session import EngineSession
        from MPERSegmentLib.explanation_panel import ExplanationPanel
        from MPERSegmentLib.export_panel import ExportPanel
        from MPERSegmentLib.install_panel import InstallPanel
        from MPERSegmentLib.panel_context import PanelContext
        from MPERSegmentLib.result_panel import ResultPanel
        from MPERSegmentLib.save_label_panel import SaveLabelPanel
        from MPERSegmentLib.segment_editor_panel import SegmentEditorPanel
        from MPERSegmentLib.segment_panel import SegmentPanel
        from MPERSegmentLib.strokes_panel import StrokesPanel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/MPERSegment.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = MPERSegmentLogic()
        self.context = PanelContext(self.ui, lambda: self._parameters)
        chooseLast()
        self.session = EngineSession(self._onEngineChanged, self._onTrouble)
        self.editTracker = EditTracker(self._onEdited)
        self.segmentPanel = SegmentPanel(self.context, self.session, self._onArrived)
        self.resultPanel = ResultPanel(self.context, self._onChosen)
        self.explanationPanel = ExplanationPanel(self.context, self.session, self._strokeAt, self._onCorrect)
        self.segmentEditorPanel = SegmentEditorPanel(self.context, self._onRefineOpened, self._onRefineRests)
        self.strokesPanel = StrokesPanel(
            self.context,
            self.session,
            self.segmentEditorPanel,
            self.explanationPanel,
            self.editTracker,
            self._onFollowed,
        )
        self.saveLabelPanel = SaveLabelPanel(self.context, self.session, self.strokesPanel.settled)
        self.exportPanel = ExportPanel(self.context)
        self.enginePanel = EnginePanel(self.context, self.session)
        self.installPanel = InstallPanel(self.context, self.session.start)

        scene = slicer.mrmlScene
        withNode = vtk.calldata_type(vtk.VTK_OBJECT)
        for event, method in (
            (scene.StartCloseEvent, callbacks.slot(self._onStartClose)),
            (scene.EndCloseEvent, callbacks.slot(self._onEndClose)),
            (scene.EndImportEvent, callbacks.slot(self._onEndImport)),
            (scene.NodeAddedEvent, withNode(callbacks.slot(self._onNodeComes))),
            (scene.NodeAboutToBeRemovedEvent, withNode(callbacks.slot(self._onNodeLeaves))),
        ):
            self.addObserver(scene, event, method)
        self._recount = qt.QTimer(uiWidget)
        self._recount.setSingleShot(True)
        self._recount.interval = 500
        self._recount.connect("timeout()", callbacks.slot(self._onRested))
        self._bind()
        if self.parent.isEntered:  # reloaded
            self.enter()

    def cleanup(self):
        """The module is being unloaded, or Slicer quits."""
        self._release()
        self.removeObservers()
        self._recount.stop()
        self.segmentEditorPanel.destroy()
        self.enginePanel.drop()
        self.installPanel.drop()
        self.session.close()

    def enter(self):
        """The user opens the module: engine and model get ready before they are asked for."""
        if self._parameters is None:
            self._bind()
        self.session.prepare(self._parameters.get("Model"), self._parameters.get("Device"))
        self.session.start()
        self.explanationPanel.enter()
        self.segmentEditorPanel.enter()

    def exit(self):
        """The user goes to another module; what is computed goes on."""
        self.strokesPanel.rest()
        self.explanationPanel.leave()
        self.segmentEditorPanel.leave()

    def onReload(self):
        """Reload this module with the files that are its own; what both modules share stays loaded."""
        for name in sorted(name for name in sys.modules if name.split(".")[0] == "MPERSegmentLib"):
            del sys.modules[name]
        importlib.invalidate_caches()
        ScriptedLoadableModuleWidget.onReload(self)

    # ---- the scene

    def _bind(self):
        """Take the choices from the scene's parameter node, and show them."""
        from MPERSegmentLib import result_node
        from MPERSegmentLib.parameters import Parameters

        self._parameters = Parameters(self.logic.getParameterNode())
        for node in result_node.all_of(slicer.mrmlScene):
            self.editTracker.watch(node)
        self.segmentPanel.show()
        self.explanationPanel.restore()
        self.strokesPanel.restore()
        self._show(self._parameters.nodeOf("result"))

    def _release(self):
        """Let go of everything in the scene, and of what is under way for it."""
        self.segmentPanel.drop()
        self.saveLabelPanel.drop()
        self.exportPanel.drop()
        self.strokesPanel.close()
        self.explanationPanel.close()
        self.segmentEditorPanel.close()
        self.editTracker.leaveAll()
        self._parameters = None

    def _onStartClose(self, _caller, _event):
        self._release()
        self.session.scans.forgetAll()

    def _onEndClose(self, _caller, _event):
        self._bind()

    def _onEndImport(self, _caller, _event):
        from MPERSegmentLib.turns import later

        if not slicer.mrmlScene.IsClosing():
            self._bind()
            later(
                self.explanationPanel.enter, "overlay of a loaded scene"
            )  # Slicer chooses the layers of the slices after this event

    def _onNodeComes(self, _caller, _event, node):
        from MPERSegmentLib.turns import later

        if node is not None and node.IsA("vtkMRMLScalarVolumeNode"):
            later(self.segmentPanel.suggest, "suggest a scan")

    def _onNodeLeaves(self, _caller, _event, node):
        from MPERSegmentLib import result_node

        if node is None or self._parameters is None:
            return
        self.editTracker.leave(node.GetID())
        self.strokesPanel.leave(node.GetID())
        self.segmentPanel.leave(node)
        self.session.scans.forget(node.GetID())
        if node is self._parameters.nodeOf("result"):
            left = [other for other in result_node.all_of(slicer.mrmlScene) if other is not node]
            near = [other for other in left if result_node.scan_of(other) is result_node.scan_of(node)]
            self._show(next(reversed(near or left), None))

    # ---- what the panels tell

    def _onEngineChanged(self):
        """Engine, models or devices have changed."""
        self.segmentPanel.show()
        self.enginePanel.show()
        self.explanationPanel.show(self._shown())
        self.strokesPanel.engineChanged()
        if not self.ui.refineSection.collapsed:
            self.saveLabelPanel.refresh()

    def _onTrouble(self, reason):
        """The engine has failed: offer what it lacks, else to start it again."""
        self.context.say(reason, _("Start again"), self.session.start)
        if not self.session.engine.isRemote:
            self.installPanel.look()

    def _onArrived(self, request, update, mask, header, result):
        """A mask has come: show it in the slices now, and its surface a little later."""
        from MPERLib import mrml
        from MPERSegmentLib import result_node, stroke_node, views
        from MPERSegmentLib.turns import later

        result = {**result, "title": self.session.nameOf(request.model)}
        node = self._parameters.nodeOf("result") if update else None
        try:
            if result_node.is_result(node) and result_node.scan_of(node) is request.scan:
                self.segmentEditorPanel.saveForUndo(node)
                with self.editTracker.ours():
                    mrml.replace_mask(node, mask, header["start"], result["labels"], request.scan, result)
            else:
                name = " ".join([request.scan.GetName(), *(label["name"] for label in result["labels"])])
                node = mrml.show_mask(mask, header["start"], result["labels"], request.scan, name, result)
        except ValueError as error:
            self.context.say(str(error))
            return
        with self.editTracker.ours():
            result_node.record(node, result)
            stroke_node.forget(node)
        self.editTracker.watch(node)
        self._parameters.put("Target", "new")  # to replace a result is asked for each time
        self._show(node)
        views.bring(request.scan)
        later(lambda: self._makeSurface(node, views.is_alone(node)), "surface begins")

    def _makeSurface(self, node, alone):
        """The surface of a result; the first one of a scan comes into the middle of the 3-D views."""
        from MPERLib import mrml, surface
        from MPERSegmentLib import views
        from MPERSegmentLib.turns import later

        def done():
            if alone and mrml.alive(node):
                views.centre(node)

        if mrml.alive(node):
            surface.make_surface(node, lambda step: later(step, "surface"), done)

    def _onChosen(self, node):
        from MPERSegmentLib import result_node, views

        if self._showing:
            return
        self._show(node)
        scan = result_node.scan_of(node) if node is not None else None
        if scan is not None:
            views.bring(scan)

    def _onEdited(self, node):
        """A result is another than before: its figures are counted again once the hand rests."""
        if node is self._shown():
            self.segmentEditorPanel.tell()
            self.strokesPanel.show(node)
            self._recount.start()

    def _onFollowed(self, node, different):
        """The engine has answered to the strokes on a result; its voxels may be different."""
        from MPERLib import mrml
        from MPERSegmentLib import result_node, stroke_node
        from MPERSegmentLib.turns import later

        with self.editTracker.ours():
            if stroke_node.applied(node) or result_node.is_by_hand(node):
                mrml.mark_edited(node)
            else:
                mrml.unmark_edited(node)
        if different:
            self.editTracker.worked(node)
            later(lambda: self._makeSurface(node, False), "surface follows")
        elif node is self._shown():
            self.segmentEditorPanel.tell()
            self.explanationPanel.show(node)

    def _strokeAt(self, number):
        return self.strokesPanel.at(number)

    def _onCorrect(self):
        """The user wants to correct the uncertain place that the slices show."""
        from MPERLib import scrolling
        from MPERSegmentLib.turns import later

        self.ui.refineSection.collapsed = False
        self.strokesPanel.begin()
        later(lambda: scrolling.reveal(self.ui.strokesBox), "brushes into view")

    def _onRested(self):
        if self._parameters is not None:
            self.resultPanel.show(self._shown())
            self.explanationPanel.show(self._shown())

    def _onRefineOpened(self):
        self.saveLabelPanel.refresh()
        if self._shown() is not None:
            self.editTracker.beginsNow(self._shown())

    def _onRefineRests(self):
        self.strokesPanel.rest()

    def _shown(self):
        return self._parameters.nodeOf("result") if self._parameters else None

    def _show(self, node):
        """Bring a result, or none, into all panels."""
        if self._parameters is None:
            return
        self._showing = True
        try:
            self._parameters.putNode("result", node)
            for panel in (
                self.resultPanel,
                self.explanationPanel,
                self.segmentEditorPanel,
                self.strokesPanel,
                self.saveLabelPanel,
                self.exportPanel,
            ):
                panel.show(node)
            self.segmentPanel.show()
        finally:
            self._showing = False


class MPERSegmentLogic(ScriptedLoadableModuleLogic):
    """Only the parameter node lives here; what the module does is in MPERLib and MPERSegmentLib."""


class MPERSegmentTest(ScriptedLoadableModuleTest):
    """The way from the sample scan to a refined result, inside Slicer."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_sample_scan()

    def test_sample_scan(self):
        from MPERLib import callbacks, mrml
        from MPERSegmentLib import result_node

        from mper.resources import sample_scan

        scan = slicer.util.loadVolume(str(sample_scan()))
        slicer.util.selectModule("MPERSegment")
        widget = slicer.modules.MPERSegmentWidget
        self._wait(lambda: widget.session.ready, 120, "the engine")
        widget.ui.inputSelector.setCurrentNode(scan)
        callbacks.clear()
        self.assertTrue(widget.ui.segmentButton.enabled)
        widget.ui.segmentButton.click()
        self.delayDisplay("Segmenting")
        node = self._wait(lambda: widget.resultPanel.node, 300, "the mask")
        structures = result_node.of(node)["structures"]
        self.assertEqual([figures["name"] for figures in structures], ["LA"])
        self.assertGreater(structures[0]["volume_ml"], 20)
        self._wait(lambda: node.GetSegmentation().ContainsRepresentation("Closed surface"), 20, "the surface")

        widget.ui.whySection.collapsed = False
        widget.ui.overlayBox.setCurrentIndex(1)
        self._wait(lambda: slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode"), 60, "the prototypes")
        self.delayDisplay("Prototypes")

        widget.ui.refineSection.collapsed = False
        segment = node.GetSegmentation().GetNthSegmentID(0)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, scan)
        array[:, :, : array.shape[2] // 2] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, scan)
        self.assertTrue(mrml.is_edited(node))
        self.delayDisplay("Test passed")

    def _wait(self, condition, seconds, what):
        import time

        end = time.monotonic() + seconds
        while not condition():
            slicer.app.processEvents()
            self.assertLess(time.monotonic(), end, f"waited {seconds} s in vain for {what}")
            time.sleep(0.01)
        return condition()
