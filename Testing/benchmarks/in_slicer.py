"""From the click to the mask and the surface in a real Slicer, from an edit to the new figures and the coloured wall,
and how long our callbacks held its window.

    Slicer --no-splash --additional-module-paths MPERSegment MPERTrainer --python-script Testing/benchmarks/in_slicer.py

The sample scan three times, then a made-up scan of 640 x 640 x 88 (the sample, tiled), then strokes on a mask of the
sample scan; at last 20 results of the sample scan in one scene: memory of Slicer and of the engine before, with them,
and after the scene was closed (Linux), and the slowest callbacks; the slowest callbacks of all that one does with a
result, on two large scans. MPER_PYTHON names the Python that runs the engine; MPER_BENCHMARK=speed, strokes, memory or
large measures one of these alone.
"""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

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


def megabytes(pid: int | str) -> int:
    """The resident memory of a process; 0 where /proc is not there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")), 0)


def engine_pid() -> int:
    """The process of the engine, also behind a launcher."""
    pid = slicer.mperEngine._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    words = children.read_text().split() if children.exists() else []
    return int(words[0]) if words else pid


def memory(panel, results: int = 20) -> None:
    """Memory with many results of one scan in the scene, and after it was closed; how long callbacks took meanwhile."""
    from MPERLib import callbacks, licences

    from mper.resources import sample_scan

    def line(name: str) -> None:
        slicer.app.processEvents()
        print(f"| {name} | {megabytes('self')} MB | {megabytes(engine_pid())} MB |", flush=True)

    for model in panel.session.models:
        licences.acknowledge(model)
    slicer.mrmlScene.Clear(0)
    scan = slicer.util.loadVolume(str(sample_scan()))
    run(panel, scan)  # loads the model
    slicer.mrmlScene.Clear(0)
    wait_s(5)
    print("| | Slicer | engine |\n| --- | --- | --- |", flush=True)
    for round_ in (1, 2):
        line(f"round {round_}: empty scene")
        scan = slicer.util.loadVolume(str(sample_scan()))
        callbacks.clear()
        for n in range(results):
            run(panel, scan)
            wait_s(0.7)
            if n + 1 in (1, results):
                line(f"round {round_}: {n + 1} results")
        print(callbacks.report(), flush=True)
        late = Counter(each.name for each in callbacks.records() if each.seconds > callbacks.TOO_LONG_S)
        print(f"over {1000 * callbacks.TOO_LONG_S:.0f} ms: {dict(late)}", flush=True)
        callbacks.clear()
        slicer.mrmlScene.Clear(0)
        wait_s(5)
        line(f"round {round_}: scene closed")
        print(callbacks.report(), flush=True)


def wait_s(seconds: float) -> None:
    """Let Slicer work for a time."""
    end = time.perf_counter() + seconds
    wait(lambda: time.perf_counter() > end, seconds + 60)


def main() -> None:
    """Measure, and print a table and the trace."""
    slicer.util.selectModule("MPERSegment")
    panel = slicer.modules.MPERSegmentWidget.panel
    wait(lambda: panel.session.ready)
    chosen = os.environ.get("MPER_BENCHMARK")
    for name, measure in (("speed", speed), ("strokes", strokes), ("memory", memory), ("large", large)):
        if chosen in (None, "", name):
            measure(panel)


def tiled(scan, shape: tuple[int, int, int]):
    """A large scan, made of copies of another one."""
    array = slicer.util.arrayFromVolume(scan)
    node = slicer.modules.volumes.logic().CloneVolume(scan, "large")
    copies = [-(-n // m) for n, m in zip(shape, array.shape, strict=True)]
    whole = np.tile(array, copies)[tuple(slice(n) for n in shape)]
    slicer.util.updateVolumeFromArray(node, whole.astype(np.int16))
    return node


def large(panel) -> None:
    """The slowest callbacks while one segments, explains, corrects and measures large scans."""
    from MPERLib import callbacks, licences

    from mper.resources import sample_scan

    for model in panel.session.models:
        licences.acknowledge(model)
    slicer.mrmlScene.Clear(0)
    run(panel, slicer.util.loadVolume(str(sample_scan())))  # loads the model
    ui = panel.ui

    def explain(n: int) -> None:
        ui.whySection.collapsed = n == 0
        ui.overlayBox.currentIndex = n
        wait_s(3)

    def open_editor() -> None:
        ui.refineSection.collapsed = False
        wait_s(3)
        ui.brushAddButton.click()
        wait_s(2)

    def undo_redo() -> None:
        for button in (ui.strokeUndoButton, ui.strokeRedoButton):
            button.click()
            wait_s(2)

    def measure() -> None:
        ui.measureSection.collapsed = False
        wait(lambda: not panel.measurePanel.stale)
        ui.surfaceBox.setCurrentIndex(1)
        wait(lambda: not panel.measurePanel.busy)

    def another() -> None:
        run(panel, scan)
        wait_s(2)
        for n in (0, 1):
            ui.resultSelector.setCurrentNodeIndex(n)
            wait_s(2)

    print("| scan | step | callbacks | over 100 ms | the slowest |\n| --- | --- | --- | --- | --- |", flush=True)
    for shape in ((88, 640, 640), (180, 320, 320)):
        slicer.mrmlScene.Clear(0)
        wait_s(2)
        scan = tiled(slicer.util.loadVolume(str(sample_scan())), shape)
        for name, act in (
            ("segment", lambda: run(panel, scan)),  # noqa: B023
            ("prototypes", lambda: explain(1)),
            ("uncertainty", lambda: explain(2)),
            ("Correct is opened", open_editor),
            ("three strokes", lambda: draw(panel, scan, 3)),  # noqa: B023
            ("undo, redo", undo_redo),
            ("figures, wall", measure),
            ("an edit by hand", lambda: edit(panel, scan, 1)),  # noqa: B023
            ("a second result", another),
        ):
            callbacks.clear()
            act()
            wait_s(3)
            found = callbacks.slowest(1)
            late = sum(each.seconds > callbacks.TOO_LONG_S for each in callbacks.records())
            slowest = ", ".join(f"{1000 * each.seconds:.0f} ms ({each.name})" for each in found)
            print(f"| {shape} | {name} | {len(callbacks.records())} | {late} | {slowest} |", flush=True)
            ui.brushAddButton.checked = ui.brushAddButton.checked and name != "undo, redo"


def draw(panel, scan, count: int) -> None:
    """Paint so many strokes over the border of the mask, and wait until each is fitted to image edges."""
    from MPERLib import mrml
    from MPERSegmentLib import stroke_node

    node = panel.resultPanel.node
    sync, brush = panel.strokesPanel._sync(), panel.strokesPanel._brush
    inside = np.argwhere(
        slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), scan)
    )
    print("| stroke | to the mask | to the fitted mask |\n| --- | --- | --- |", flush=True)
    for number in range(1, count + 1):
        rows = inside[inside[:, 0] == np.percentile(inside[:, 0], 15 * number, method="nearest")]
        end = rows[rows[:, 2].argmax()]  # the mask ends here
        ras = np.array([mrml.world_of(end + np.array([0, 0, 2 + step]), scan) for step in range(3)])
        brush._waiting.append((ras, 3.0))
        began = time.perf_counter()
        brush._callbacks.drawn(ras)  # as at the release of the mouse button
        wait(lambda: not sync.pending and len(stroke_node.applied(node)) == number)  # noqa: B023
        mask = time.perf_counter() - began
        wait(lambda: sync.settled)
        print(f"| {number} | {mask:.2f} s | {time.perf_counter() - began:.2f} s |", flush=True)
        wait_s(1)


def strokes(panel, count: int = 5) -> None:
    """From the end of a stroke to the mask with it, and to the same fitted to image edges."""
    from MPERLib import callbacks, licences

    from mper.resources import sample_scan

    for model in panel.session.models:
        licences.acknowledge(model)
    slicer.mrmlScene.Clear(0)
    scan = slicer.util.loadVolume(str(sample_scan()))
    run(panel, scan)
    ui = panel.ui
    ui.refineSection.collapsed = False
    wait_s(3)
    callbacks.clear()
    ui.brushAddButton.click()
    wait_s(2)
    draw(panel, scan, count)
    print(callbacks.report(), flush=True)


def speed(panel) -> None:
    """From the click to the mask and the surface, and from an edit to the figures and the wall."""
    from MPERLib import callbacks, licences

    from mper.resources import sample_scan

    for model in panel.session.models:
        licences.acknowledge(model)
    scan = slicer.util.loadVolume(str(sample_scan()))
    array = slicer.util.arrayFromVolume(scan)
    large = tiled(scan, (len(array), 640, 640))
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
