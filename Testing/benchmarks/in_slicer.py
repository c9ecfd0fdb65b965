"""From the click to the mask and the surface in a real Slicer, from an edit to the new figures and the coloured wall,
and how long our callbacks held its window.

    Slicer --no-splash --additional-module-paths MPERSegment MPERTrainer --python-script Testing/benchmarks/in_slicer.py

The sample scan three times, then a made-up scan of 640 x 640 x 88 (the sample, tiled). MPER_PYTHON names the Python
that runs the engine.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import numpy as np
import qt
import slicer


def wait(condition: Callable[[], bool], seconds: float = 300.0) -> float:
    """Let Slicer work until the condition holds; how long that took."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > seconds:
            raise TimeoutError("this took too long")
        slicer.app.processEvents(qt.QEventLoop.AllEvents, 10)
        time.sleep(0.001)
    return time.perf_counter() - began


def segmentations() -> list:
    return list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


def run(panel, scan) -> tuple[float, float]:
    """Seconds from the click to the mask, and to the surface."""
    panel.ui.inputSelector.setCurrentNode(scan)
    slicer.app.processEvents()
    before = set(segmentations())
    began = time.perf_counter()
    panel.ui.segmentButton.click()
    wait(lambda: set(segmentations()) - before)
    mask = time.perf_counter() - began
    (node,) = set(segmentations()) - before
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    wait(lambda: node.GetSegmentation().ContainsRepresentation(surface))
    return mask, time.perf_counter() - began


def edit(panel, scan, slices: int) -> tuple[float, float]:
    """Seconds from an edit (slices are removed) to the new figures, and to the coloured surface of them."""
    node, measure = panel.resultPanel.node, panel.measurePanel
    segment = node.GetSegmentation().GetNthSegmentID(0)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, scan)
    drawn = np.flatnonzero(array.any(axis=(1, 2)))
    array[drawn[:slices]] = 0
    began = time.perf_counter()
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, scan)
    wait(lambda: measure.stale)
    wait(lambda: not measure.stale)
    figures = time.perf_counter() - began
    wait(lambda: not measure.busy)
    return figures, time.perf_counter() - began


def main() -> None:
    """Measure, and print a table and the trace."""
    slicer.util.selectModule("MPERSegment")
    from MPERLib import callbacks

    from mper.resources import sample_scan

    panel = slicer.modules.MPERSegmentWidget.panel
    wait(lambda: panel.session.ready)
    scan = slicer.util.loadVolume(str(sample_scan()))
    array = slicer.util.arrayFromVolume(scan)
    large = slicer.modules.volumes.logic().CloneVolume(scan, "large")
    times = (1, -(-640 // array.shape[1]), -(-640 // array.shape[2]))
    slicer.util.updateVolumeFromArray(large, np.tile(array, times)[:, :640, :640].astype(np.int16))
    run(panel, scan)  # loads the model
    print("| | to the mask | to the surface |\n| --- | --- | --- |", flush=True)
    for name, volume, repeats in (("sample", scan, 3), ("640 x 640 x 88", large, 1)):
        callbacks.clear()
        for _ in range(repeats):
            mask, surface = run(panel, volume)
            print(f"| {name} | {mask:.2f} s | {surface:.2f} s |", flush=True)
        print(callbacks.report(), flush=True)
        if volume is scan:
            panel.ui.measureSection.collapsed = False
            wait(lambda: not panel.measurePanel.stale)
            panel.ui.surfaceBox.setCurrentIndex(1)
            wait(lambda: not panel.measurePanel.busy)
            callbacks.clear()
            print("| edit | to the figures | to the coloured wall |\n| --- | --- | --- |", flush=True)
            for number in range(1, 6):
                figures, wall = edit(panel, scan, 1)
                print(f"| {number} | {figures:.2f} s | {wall:.2f} s |", flush=True)
            print(callbacks.report(), flush=True)
            panel.ui.measureSection.collapsed = True


try:
    main()
    code = 0
except Exception:
    traceback.print_exc()
    code = 1
slicer.util.exit(code)
