"""The Slicer module MPER Segment: segment a scan, explain, correct, save as label, export."""

from __future__ import annotations

import time

import slicer
from MPERLib import startup
from MPERLib.module_widget import ModuleWidget
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)


class MPERSegment(ScriptedLoadableModule):
    """Name, category and help of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MPER Segment")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Markups", "Plots", "SubjectHierarchy"]
        parent.contributors = ["The MPER contributors"]
        parent.helpText = _("""
<p>Segments the heart in one click: the left atrium in LGE-MRI, or both ventricles and the myocardium in cine MRI.</p>
<p>Choose a scan and a model, and press the button. <b>Check</b> shows the measurements and what speaks against the
mask, <b>Explanation</b> the prototypes (learned examples) and the uncertainty of each voxel. In <b>Correct</b> you
correct the mask with a few strokes or in the Segment Editor. <b>Measure</b> gives volumes, enhancement of the wall and
ejection fraction by all common methods, and a report. <b>Save as label</b> keeps the mask for training in the module
MPER Trainer. <b>Export</b> writes files, DICOM-SEG and structured report included.</p>
<p>The model runs in a separate program, the engine. Scans stay on this computer unless you choose a remote engine and
give your consent. For research; not a medical device.</p>
""")
        parent.acknowledgementText = _("""
<p>The left-atrium models were trained on scans of the 2018 Atrial Segmentation Challenge (Xiong et al., Medical Image
Analysis 67, 101832, 2021) and, <i>la</i> also, on the heart scans of the Medical Segmentation Decathlon (Antonelli et
al., Nature Communications 13, 4128, 2022; CC BY-SA 4.0), the ventricle model on ACDC (Bernard et al., IEEE Transactions
on Medical Imaging 37(11), 2018). The method is that of MPER, ICASSP 2025.</p>
""")
        slicer.app.connect("startupCompleted()", startup.register)


class MPERSegmentWidget(ModuleWidget):
    """The panel of the module; see `MPERSegmentLib.module_panel`."""

    package = "MPERSegmentLib"

    def makeLogic(self):
        return MPERSegmentLogic()


class MPERSegmentLogic(ScriptedLoadableModuleLogic):
    """Has the parameter node; what the module does is in MPERLib and MPERSegmentLib."""


class MPERSegmentTest(ScriptedLoadableModuleTest):
    """From the sample scan to an edited segmentation, inside Slicer, by the bundled model whatever is in use.

    The scene is empty afterwards; settings and open sections are as before.
    """

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_sample_scan()

    def test_sample_scan(self):
        slicer.util.selectModule("MPERSegment")
        from MPERLib import licences, self_test, settings  # see ModuleWidget.setup

        panel = slicer.modules.MPERSegmentWidget.panel
        with self_test.restored([*settings.MODEL_KEYS, licences.KEY], panel.ui):
            try:
                self._segment_and_edit(panel)
            finally:
                slicer.mrmlScene.Clear(0)
        self.delayDisplay("Test passed")

    def _segment_and_edit(self, panel):
        from MPERLib import callbacks, licences, segmentation_node, settings
        from MPERSegmentLib import result_node

        from mper.resources import sample_scan

        scan = slicer.util.loadVolume(str(sample_scan()))
        ui = panel.ui
        self._wait(lambda: panel.session.ready, 120, "the engine")
        model = panel.session.model(settings.FIRST_MODEL)
        licences.acknowledge(model)
        ui.modelBox.setCurrentIndex(ui.modelBox.findData(model["id"]))
        ui.inputSelector.setCurrentNode(scan)
        callbacks.clear()
        self.assertTrue(ui.segmentButton.enabled)
        ui.segmentButton.click()
        self.delayDisplay("Segmenting")
        node = self._wait(lambda: panel.resultPanel.node, 300, "the mask")
        structures = result_node.of(node)["structures"]
        self.assertEqual([figures["name"] for figures in structures], ["LA"])
        self.assertGreater(structures[0]["volume_ml"], 20)
        surface = segmentation_node.CLOSED_SURFACE
        self._wait(lambda: node.GetSegmentation().ContainsRepresentation(surface), 20, "the surface")

        ui.whySection.collapsed = False
        ui.overlayBox.setCurrentIndex(1)
        self._wait(lambda: slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode"), 60, "the prototypes")
        self.delayDisplay("Prototypes")

        ui.refineSection.collapsed = False
        segment = node.GetSegmentation().GetNthSegmentID(0)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, scan)
        array[:, :, : array.shape[2] // 2] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, scan)
        self.assertTrue(segmentation_node.is_edited(node))

    def _wait(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while not condition():
            slicer.app.processEvents()
            self.assertLess(time.monotonic(), end, f"{what} did not come within {seconds} s")
            time.sleep(0.01)
        return condition()
