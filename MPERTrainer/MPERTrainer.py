"""The Slicer module MPER Trainer: cases and labels, training in the background, comparing, and what to label next."""

from __future__ import annotations

import importlib
import sys
import tempfile
import time

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class MPERTrainer(ScriptedLoadableModule):
    """What Slicer knows of the module before it is opened."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("MPER Trainer")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Active Learning")]
        parent.dependencies = ["MPERSegment", "Segmentations"]
        parent.contributors = ["The MPER contributors"]
        parent.helpText = _(
            "<p>Teach a segmentation model your own cases. Gather scans in a dataset, correct or draw their labels, "
            "retrain in the background from two labelled cases on, compare the new version with the one in use on "
            "cases that were never trained on, and promote it to the module MPER Segment.</p>"
            "<ol><li><b>Cases</b>: make a dataset, add scans, double-click one to label it; lock a hold-out.</li>"
            "<li><b>Train</b>: start; Slicer can be closed meanwhile.</li>"
            "<li><b>Compare and promote</b>: look at the worst case first, then use the version, or go back.</li>"
            "<li><b>Next case</b>: label what teaches most.</li></ol>"
            "<p>Labels and versions are never overwritten. Scans stay on this computer unless you choose a remote "
            "engine. For research; no medical device.</p>"
        )
        parent.acknowledgementText = _(
            "Training combines multi-prototype embedding refinement (MPER, ICASSP 2025) with bidirectional copy-paste "
            "(BCP, CVPR 2023). The bundled models were trained on the public data of the 2018 Atrial Segmentation "
            "Challenge and of ACDC; see DATA_LICENSES.md."
        )


class MPERTrainerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it only holds the sections and ties them to engine, scene and parameter node."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.session = None
        self._forget = None
        self._entered = False

    def setup(self):
        """Make the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        from MPERLib import callbacks

        panel = slicer.util.loadUI(self.resourcePath("UI/MPERTrainer.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = MPERTrainerLogic()
        self.ui.engineButton.connect("clicked()", callbacks.slot(self.startEngine))
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndClose)
        self._build()

    def _build(self):
        """The sections."""
        from MPERLib import engine
        from MPERTrainerLib.case_nodes import CaseNodes
        from MPERTrainerLib.cases_panel import CasesPanel
        from MPERTrainerLib.comparison_panel import ComparisonPanel
        from MPERTrainerLib.dataset_panel import DatasetPanel
        from MPERTrainerLib.engine_session import Session
        from MPERTrainerLib.label_panel import LabelPanel
        from MPERTrainerLib.next_case_panel import NextCasePanel
        from MPERTrainerLib.runs_panel import RunsPanel
        from MPERTrainerLib.training_panel import TrainingPanel

        ui = self.ui
        session = self.session = Session(engine.shared(), self.logic.recall, self.logic.remember, self.tell)
        caseNodes = self.caseNodes = CaseNodes(session)
        self.datasetPanel = DatasetPanel(ui, session)
        self.labelPanel = LabelPanel(ui, session, caseNodes)
        self.casesPanel = CasesPanel(ui, session, caseNodes, self.labelPanel.open)
        self.runsPanel = RunsPanel(ui, session, self.onRunFinished)
        self.trainingPanel = TrainingPanel(ui, session, self.runsPanel.watch)
        self.comparisonPanel = ComparisonPanel(ui, session, caseNodes)
        self.nextCasePanel = NextCasePanel(ui, session, self.labelPanel.open)
        session.announce()
        self._listen()

    # ---- coming and going

    def enter(self):
        """The person opens the module."""
        from MPERLib import engine

        if self.session.engine is not engine.shared():  # another one was chosen in MPERSegment
            self.session.use(engine.shared())
            self._listen()
        self._entered = True
        self.labelPanel.enter()
        if self.session.engine.state == "stopped":
            self.startEngine()
        elif self.session.ready:
            self.datasetPanel.reload()

    def exit(self):
        """The person goes to another module."""
        self._entered = False
        self.labelPanel.leave()
        self.comparisonPanel.leave()

    def cleanup(self):
        """The module is closed or reloaded; runs go on, the engine serves the other module."""
        self.removeObservers()
        if self.session is not None:
            self._close()

    def _listen(self):
        """Hear how the engine stands."""
        from MPERLib import callbacks

        if self._forget is not None:
            self._forget()
        self._forget = self.session.engine.onState(callbacks.slot(self.onEngineState, "engine state"))
        self.onEngineState()

    def _close(self):
        self._forget()
        for part in (self.labelPanel, self.casesPanel, self.runsPanel, self.trainingPanel):
            part.close()
        self.session.close()

    def onReload(self):
        """Reload this module with its parts, which Slicer's own Reload leaves as they were."""
        for name in [name for name in sys.modules if name.split(".")[0] == "MPERTrainerLib"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        ScriptedLoadableModuleWidget.onReload(self)

    # ---- the scene

    def onSceneStartClose(self, caller=None, event=None):
        """What was shown goes; the dataset stays open."""
        self.caseNodes.reset()
        self.comparisonPanel.reset()
        self.labelPanel.reset()

    def onSceneEndClose(self, caller=None, event=None):
        """A scene was closed or loaded: open the dataset that it names, or keep the one that is open."""
        wanted = self.logic.recall("Dataset")
        known = self.session.dataset["id"] if self.session.dataset else ""
        if not wanted and known:
            self.logic.remember("Dataset", known)
        elif wanted != known and self.session.ready:
            self.datasetPanel.reload(wanted)

    # ---- the engine

    def startEngine(self):
        """Start the engine; its state tells how that goes."""
        self.tell("")
        self.session.engine.start()

    def onEngineState(self):
        """Show how the engine stands; once it is ready, ask it for everything."""
        engine, ui = self.session.engine, self.ui
        ui.engineButton.visible = engine.state in ("stopped", "failed")
        if engine.state == "ready":
            self.session.info = engine.info
            where = engine.url if engine.isRemote else _("on this computer")
            devices = {device["name"]: device["words"] for device in engine.info.get("devices", [])}
            best = devices.get(engine.info.get("default_device"), "")
            ui.engineLabel.text = _("The engine runs {where}: {device}.").format(where=where, device=best)
            self.datasetPanel.reload()
            return
        self.session.lose()
        if engine.state == "starting":
            ui.engineLabel.text = _("The engine starts; the first time this may take a minute.")
        elif engine.state == "failed":
            ui.engineLabel.text = engine.reason[:1].upper() + engine.reason[1:] + "."
        else:
            ui.engineLabel.text = _("The engine is not running.")

    def onRunFinished(self, status):
        """A run has published a version: propose it for comparing."""
        if status.get("model"):
            words = _("{name}, version {version} is ready: compare it before you use it.")
            self.tell(words.format(**status))
            self.comparisonPanel.propose(status["model"])
            self.ui.compareSection.collapsed = False

    def tell(self, message):
        """Show a line above the sections; "" takes it away."""
        self.ui.messageLabel.text = message
        self.ui.messageLabel.visible = bool(message)


class MPERTrainerLogic(ScriptedLoadableModuleLogic):
    """What the module keeps with the scene."""

    def recall(self, key):
        """What was remembered under `key`, "" where nothing was."""
        return self.getParameterNode().GetParameter(key) or ""

    def remember(self, key, value):
        """Keep a text with the scene."""
        node = self.getParameterNode()
        if node.GetParameter(key) != value:
            node.SetParameter(key, value)


class MPERTrainerTest(ScriptedLoadableModuleTest):
    """The way from three scans to a promoted version, inside Slicer; in a folder and with settings of its own."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_two_cases_to_a_promoted_version()

    def test_two_cases_to_a_promoted_version(self):
        keys = ("MPER/CurrentModel", "MPER/PreviousModel", "MPER/LastDataset", "MPER/Roots")
        settings = qt.QSettings()
        before = {key: settings.value(key) for key in keys}
        try:
            with tempfile.TemporaryDirectory(prefix="mper-test-", ignore_cleanup_errors=True) as folder:
                self._train_and_promote(folder)
        finally:
            for key, value in before.items():
                settings.remove(key) if value is None else settings.setValue(key, value)

    def _train_and_promote(self, folder):
        from MPERLib import mrml

        from mper.resources import sample_scan

        slicer.util.selectModule("MPERTrainer")
        widget = slicer.modules.MPERTrainerWidget
        ui = widget.ui
        self._wait(lambda: widget.session.ready, 120, "the engine")
        widget.datasetPanel.make("Test", ["LA"], folder)
        self._wait(lambda: widget.session.dataset and widget.session.dataset["name"] == "Test", 30, "the dataset")

        scan = slicer.util.loadVolume(str(sample_scan()))
        scan.SetName("case 0")
        reference = slicer.util.loadLabelVolume(str(sample_scan().with_name("la-reference.nrrd")))
        mask = (slicer.util.arrayFromVolume(reference) > 0).astype("uint8")
        slicer.mrmlScene.RemoveNode(reference)
        array, affine = mrml.array_of(scan), mrml.geometry_of(scan).affine
        others = [mrml.show_scan(array + n, affine, f"case {n}", slicer.mrmlScene) for n in (1, 2)]
        widget.casesPanel.caseImport.addVolumes([scan, *others])
        self._wait(lambda: ui.casesTable.rowCount == 3, 60, "the cases")
        for n in range(3):
            widget.labelPanel.open(f"case {n}")
            self._wait(lambda: widget.labelPanel.segmentation is not None, 60, "the case")
            segmentation, labels = widget.labelPanel.segmentation, widget.session.dataset["labels"]
            mrml.replace_mask(segmentation, mask, (0, 0, 0), labels, widget.labelPanel.volume)
            ui.saveLabelButton.click()
            self._wait(lambda n=n: widget.session.case(f"case {n}")["labelled"], 60, "the label")
        self.delayDisplay("Labelled")
        widget.casesPanel.lockCases(["case 2"])
        self._wait(lambda: widget.session.dataset["holdout"], 30, "the hold-out")

        self._wait(lambda: widget.trainingPanel.plan, 60, "the plan")
        ui.stepsSpin.value = 4
        self._wait(
            lambda: widget.trainingPanel.plan.get("steps") == 4 and ui.startButton.enabled, 30, "the plan of four steps"
        )
        ui.startButton.click()
        self._wait(lambda: widget.runsPanel.status.get("state") == "finished", 600, "the training")
        self.delayDisplay("Trained")
        self._wait(lambda: ui.compareButton.enabled, 30, "the version")
        ui.compareButton.click()
        self._wait(lambda: ui.compareTable.rowCount == 1, 300, "the comparison")
        ui.useButton.click()
        self._wait(lambda: "Test" in str(qt.QSettings().value("MPER/CurrentModel")), 30, "the promotion")
        self._wait(lambda: ui.backButton.visible, 30, "the way back")
        ui.backButton.click()
        self._wait(lambda: "Test" not in str(qt.QSettings().value("MPER/CurrentModel")), 30, "the way back")
        self.delayDisplay("Test passed")

    def _wait(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while not condition():
            slicer.app.processEvents()
            self.assertLess(time.monotonic(), end, f"waited {seconds} s in vain for {what}")
            time.sleep(0.01)
