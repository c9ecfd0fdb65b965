"""The Slicer module MPER Trainer: cases and labels, training in the background, comparison, and what to label next."""

from __future__ import annotations

import tempfile
import time

import qt
import slicer
from MPERLib.module_widget import ModuleWidget
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)


class MPERTrainer(ScriptedLoadableModule):
    """Name, category and help of the module."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("MPER Trainer")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Active Learning")]
        parent.dependencies = ["MPERSegment", "Segmentations"]
        parent.contributors = ["The MPER contributors"]
        parent.helpText = _(
            "<p>Train a segmentation model on your own cases. Collect scans in a dataset, correct or draw their "
            "labels, train in the background (from two labelled cases on), compare the new version with the one in "
            "use on cases that were never used for training, and use it in the module MPER Segment.</p>"
            "<ol><li><b>Cases</b>: create a dataset, add scans, double-click one to label it, lock a hold-out set."
            "</li><li><b>Train</b>: start a training; Slicer can be closed meanwhile.</li>"
            "<li><b>Compare</b>: look at the worst case first, then use the version, or go back.</li>"
            "<li><b>Next case</b>: find the cases that the model is least sure of, and label them.</li></ol>"
            "<p>Labels and versions are never overwritten. Scans stay on this computer unless you choose a remote "
            "engine. For research; not a medical device.</p>"
        )
        parent.acknowledgementText = _(
            "Training combines multi-prototype embedding refinement (MPER, ICASSP 2025) with bidirectional copy-paste "
            "(BCP, CVPR 2023). The bundled models were trained on the public data of the 2018 Atrial Segmentation "
            "Challenge, of the Medical Segmentation Decathlon and of ACDC; see DATA_LICENSES.md."
        )


class MPERTrainerWidget(ModuleWidget):
    """The panel of the module; see `MPERTrainerLib.module_panel`."""

    package = "MPERTrainerLib"

    def makeLogic(self):
        return MPERTrainerLogic()


class MPERTrainerLogic(ScriptedLoadableModuleLogic):
    """Has the parameter node; what the module does is in MPERLib and MPERTrainerLib."""


class MPERTrainerTest(ScriptedLoadableModuleTest):
    """From three scans to a new version in use, inside Slicer; in a folder and with settings of its own."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_two_cases_to_a_version_in_use()

    def test_two_cases_to_a_version_in_use(self):
        slicer.util.selectModule("MPERTrainer")
        from MPERLib import self_test, settings  # see ModuleWidget.setup
        from MPERTrainerLib.dataset_panel import LAST_DATASET

        panel = slicer.modules.MPERTrainerWidget.panel
        keys = [*settings.MODEL_KEYS, LAST_DATASET, settings.ROOTS_KEY, settings.AUTHOR_KEY]
        opened = panel.dataset.id
        with self_test.restored(keys, panel.ui):
            try:
                with tempfile.TemporaryDirectory(prefix="mper-test-", ignore_cleanup_errors=True) as folder:
                    self._train_and_use(panel, folder)
            finally:
                slicer.mrmlScene.Clear(0)
                panel.dataset.open(opened)
        panel.datasetPanel.reload(opened)
        self.delayDisplay("Test passed")

    def _train_and_use(self, panel, folder):
        from MPERLib import mrml, segmentation_node

        from mper.resources import sample_scan

        ui = panel.ui
        self._wait(lambda: panel.session.ready, 120, "the engine")
        panel.datasetPanel.create("Test", ["LA"], folder)
        self._wait(lambda: panel.dataset.about and panel.dataset.about["name"] == "Test", 30, "the dataset")

        scan = slicer.util.loadVolume(str(sample_scan()))
        scan.SetName("case 0")
        reference = slicer.util.loadLabelVolume(str(sample_scan().with_name("la-reference.nrrd")))
        mask = (slicer.util.arrayFromVolume(reference) > 0).astype("uint8")
        slicer.mrmlScene.RemoveNode(reference)
        array, affine = mrml.array_of(scan), mrml.geometry_of(scan).affine
        others = [mrml.show_scan(array + n, affine, f"case {n}", slicer.mrmlScene) for n in (1, 2)]
        panel.casesPanel.caseImport.addVolumes([scan, *others])
        self._wait(lambda: ui.previewBox.visible, 60, "the preview")
        ui.addPreviewButton.click()
        self._wait(lambda: ui.casesTable.rowCount == 3, 60, "the cases")
        for n in range(3):
            panel.labelPanel.open(f"case {n}")
            self._wait(lambda: panel.labelPanel.segmentation is not None, 60, "the case")
            segmentation, labels = panel.labelPanel.segmentation, panel.dataset.labels
            segmentation_node.replace_mask(segmentation, mask, (0, 0, 0), labels, panel.labelPanel.volume)
            ui.saveLabelButton.click()
            self._wait(lambda n=n: panel.dataset.case(f"case {n}")["labelled"], 60, "the label")
        self.delayDisplay("Labelled")
        panel.casesPanel.lockCases(["case 2"])
        self._wait(lambda: panel.dataset.holdout, 30, "the hold-out")

        training = panel.trainingPanel
        self._wait(lambda: training.plan, 60, "the plan")
        ui.stepsSpin.value = 4
        self._wait(lambda: training.plan.get("steps") == 4 and ui.startButton.enabled, 30, "the plan of four steps")
        ui.startButton.click()
        self._wait(lambda: panel.runsPanel.status.get("state") == "finished", 600, "the training")
        self.delayDisplay("Trained")
        self._wait(lambda: ui.compareButton.enabled, 30, "the version")
        ui.compareButton.click()
        self._wait(lambda: ui.compareTable.rowCount == 1, 300, "the comparison")
        ui.useButton.click()
        self._wait(lambda: "Test" in str(qt.QSettings().value("MPER/CurrentModel")), 30, "the version in use")
        self._wait(lambda: ui.backButton.visible, 30, "the button to go back")
        ui.backButton.click()
        self._wait(lambda: "Test" not in str(qt.QSettings().value("MPER/CurrentModel")), 30, "the model before")

    def _wait(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while not condition():
            slicer.app.processEvents()
            self.assertLess(time.monotonic(), end, f"{what} did not come within {seconds} s")
            time.sleep(0.01)
