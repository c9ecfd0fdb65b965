"""The section Measure in MPER Segment: figures that follow mask, clips and inputs; surface, curve, report, SR."""

from __future__ import annotations

import csv
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import slicer
from MPERLib import formatting, mrml, phases, segmentation_node
from test_segment import ENGINE_S, RESULT, draw

from mper.labels import Segmentation, make_label
from mper.measurement.case import CaseSettings, measure_case
from mper.measurement.clipping import read_clips
from mper.volume import Geometry, Volume

STEP, SIZE, RADIUS = 2.0, 36, 20.0
CENTRE = np.array([12.0, -30.0, 55.0])
FIGURES_S = 20


def atrium(name="LA"):
    """A ball of blood in a wall that is bright on one side, as a scan with a result of a model."""
    affine = np.array([[0, 0, STEP, 0], [0, STEP, 0, 0], [STEP, 0, 0, 0], [0, 0, 0, 1.0]])
    affine[:3, 3] = CENTRE - STEP * (SIZE - 1) / 2
    geometry = Geometry(affine, (SIZE, SIZE, SIZE))
    places = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1)) - CENTRE
    far = np.linalg.norm(places, axis=-1)
    mask = (far <= RADIUS).astype(np.uint8)
    voxels = np.where(mask, 100, np.where(places[..., 2] > 0.6 * far, 170, 60)).astype(np.int16)
    scan = mrml.show_scan(voxels, affine, "LGE", slicer.mrmlScene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    item = hierarchy.GetItemByDataNode(scan)
    hierarchy.SetItemParent(item, study) if item else hierarchy.CreateItem(study, scan)
    node = segmentation_node.show_mask(mask, (0, 0, 0), (make_label(1, "LA"),), scan, name, RESULT)
    from MPERSegmentLib import result_node

    result_node.record(node, RESULT)
    return scan, node, Segmentation(Volume(mask, geometry), (make_label(1, "LA"),)), Volume(voxels, geometry)


def opened(window, node, clear=True):
    """The panel with the section Measure open on a result, and its figures."""
    panel = window.open("MPERSegment")
    window.wait_until(lambda: panel.session.ready, ENGINE_S, "the engine")
    for section in (panel.ui.runSection, panel.ui.resultSection):
        section.collapsed = True
    panel.ui.resultSelector.setCurrentNode(node)
    panel.ui.measureSection.collapsed = False
    measured(window, panel)
    return panel


def measured(window, panel):
    """Wait until the figures are those of the scene."""
    window.wait_until(lambda: not panel.measurePanel.busy, FIGURES_S, "the figures")


def rested(window, panel):
    """Wait until what was dragged is a step to undo, and the figures are those of it."""
    measure = panel.measurePanel
    window.wait_until(
        lambda: measure.clips._now == measure.clips.clips() and not measure.busy and not measure.stale, FIGURES_S
    )


def shown(panel):
    """Values by figure, as the table shows them."""
    table = panel.ui.figuresTable
    return {table.item(row, 0).text(): table.item(row, 1).text() for row in range(table.rowCount)}


def grey(panel):
    return panel.ui.figuresTable.item(1, 0).foreground().color().name() == "#8a8f98"


def values(panel):
    answer = panel.measurePanel._answer
    assert answer is not None, panel.ui.measureWords.text
    return {figure["key"]: figure["value"] for figure in answer["figures"]}


def library(mask, scan, **settings):
    pytest.importorskip("skimage")  # in a real Slicer only the engine's Python has it
    return {figure.key: figure.value for figure in measure_case([mask], scan, CaseSettings(**settings)).figures}


def test_figures_are_those_of_the_library_by_all_methods_and_can_be_copied(window, shared_engine):
    _scan, node, mask, volume = atrium()
    panel = opened(window, node)
    ui = panel.ui
    assert values(panel) == pytest.approx(library(mask, volume))
    table = shown(panel)
    for name in ("IIR > 0.97", "IIR > 1.20", "> mean + 3.3 SD", "Otsu"):
        assert "%" in table[name] and "mm\N{SUPERSCRIPT TWO}" in table[name]
    assert "Gaussian" in ui.figuresTable.item(2, 0).toolTip()
    assert ui.figuresTable.isColumnHidden(2)  # no ranges
    ui.heightBox.value, ui.weightBox.value = 180, 80
    measured(window, panel)
    assert values(panel)["la_volume_index"] == pytest.approx(values(panel)["la_volume"] / 2)
    window.click(ui.copyFiguresButton)
    lines = slicer.app.clipboard().text().splitlines()
    row = next(line.split("\t") for line in lines if line.startswith("LA volume index"))
    assert float(row[1]) == pytest.approx(values(panel)["la_volume_index"], rel=1e-4)
    assert (row[2], row[6]) == ("mL/m2", "LA volume / body surface area of 2.00 m2 (Mosteller)")
    window.screenshot("measure")


def test_ranges_are_asked_of_the_prediction_and_have_a_column(window, shared_engine):
    _scan, node, _mask, _volume = atrium()
    panel = opened(window, node)
    answer, asked = panel.measurePanel._answer, []
    ranged = [{**each, "range": [0.5 * each["value"], 2 * each["value"]]} for each in answer["figures"]]

    def post(path, body, done, failed):
        asked.append((path, body))
        panel.session.later(lambda: done({**answer, "figures": ranged}), "answer")

    panel.session.post = post
    window.click(panel.ui.rangesBox)
    measured(window, panel)
    ((path, body),) = asked
    assert (path, body["prediction"], body["ranges"]) == ("/measurements", RESULT["prediction"], True)
    assert "masks" not in body
    table = panel.ui.figuresTable
    assert [table.isColumnHidden(column) for column in range(5)] == [False, False, False, True, True]
    row = next(row for row in range(table.rowCount) if table.item(row, 0).text() == "IIR > 1.20")
    share = values(panel)["la_iir_1_20_extent"]
    assert table.item(row, 2).text() == f"{share / 2:.1f} to {2 * share:.1f}"
    assert "mm\N{SUPERSCRIPT TWO}; threshold" in table.item(row, 1).toolTip()
    assert "DECAAF 2014: stage" in table.item(row, 1).toolTip()


def test_after_an_edit_figures_are_grey_until_they_are_those_of_the_edited_mask(window, shared_engine):
    _scan, node, mask, volume = atrium()
    panel = opened(window, node)
    sent = []
    post = panel.session.postArray
    panel.session.postArray = lambda path, array, *more: sent.append(array.shape) or post(path, array, *more)
    edited = mask.labelmap.array.copy()
    edited[:, :, : SIZE // 2] = 0
    draw(node, edited)
    window.events()
    assert grey(panel)
    assert not panel.ui.copyFiguresButton.enabled
    measured(window, panel)
    assert not grey(panel)
    cut = Segmentation(mask.labelmap.with_array(edited), mask.labels)
    assert values(panel) == pytest.approx(library(cut, volume))
    assert sent == [(22, 22, 12)]  # the mask's own box with a voxel around it, and not the scan again


def test_a_segmentation_that_is_no_result_is_measured_and_followed_too(window, shared_engine):
    scan, _node, mask, _volume = atrium()
    drawn = segmentation_node.show_mask(mask.labelmap.array, (0, 0, 0), (make_label(1, "LA"),), scan, "drawn")
    panel = opened(window, drawn)
    half = mask.labelmap.array.copy()
    half[: SIZE // 2] = 0
    draw(drawn, half)
    assert grey(panel)
    measured(window, panel)
    assert values(panel)["la_volume"] == pytest.approx(np.count_nonzero(half) * STEP**3 / 1000)
    segment = drawn.GetSegmentation().GetNthSegment(0)
    segment.SetName("Vorhof")  # its code says what it is
    measured(window, panel)
    assert values(panel)["la_volume"] > 0
    segment.SetTerminology("")
    segment.SetName("aorta")
    measured(window, panel)
    assert values(panel)["aorta_volume"] > 0
    panel.ui.rangesBox.checked = True  # of an atrium alone
    measured(window, panel)
    assert not grey(panel)


def test_clips_are_moved_by_hand_undone_and_are_the_files_of_the_command_line(window, shared_engine, tmp_path):
    scan, node, mask, volume = atrium()
    panel = opened(window, node)
    ui, whole = panel.ui, values(panel)["la_volume"]
    window.click(ui.addValveButton)
    measured(window, panel)
    (plane,) = slicer.util.getNodesByClass("vtkMRMLMarkupsPlaneNode")
    assert values(panel)["la_volume"] < 0.8 * whole
    assert shown_parent(plane) == shown_parent(scan)
    window.click(ui.flipClipButton)
    plane.SetOriginWorld(mrml.ras_of([CENTRE - [0, 0, 12.0]], scan)[0])
    plane.SetNormalWorld((0, 0, -1))
    rested(window, panel)
    by_hand = values(panel)["la_volume"]
    window.click(ui.addSphereButton)
    ui.clipRadius.value = 9
    (point,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    point.SetNthControlPointPositionWorld(0, *mrml.ras_of([CENTRE + np.array([RADIUS, 0, 0])], scan)[0])
    rested(window, panel)
    both = values(panel)["la_volume"]
    assert both < by_hand < whole
    window.screenshot("measure-clips")

    path = tmp_path / "clips of Müller.json"
    panel.measurePanel.clips.save(panel.measurePanel.clips.clips(), path)
    clips = read_clips(path)
    assert [clip.name for clip in clips] == ["mitral valve", "sphere"]
    assert clips[0].point_mm == pytest.approx(tuple(CENTRE - [0, 0, 12.0]), abs=1e-3)
    assert clips[1].radius_mm == 9
    assert values(panel) == pytest.approx(library(mask, volume, clips=clips))

    for _step in range(2):  # the sphere's movement, and the sphere
        window.click(ui.undoClipButton)
    window.wait_until(lambda: not point.GetScene(), 5, "the sphere to go")
    measured(window, panel)
    assert values(panel)["la_volume"] == pytest.approx(by_hand)
    while ui.redoClipButton.enabled:
        window.click(ui.redoClipButton)
    measured(window, panel)
    assert values(panel)["la_volume"] == pytest.approx(both)
    ui.clipsTable.selectRow(0)
    window.click(ui.removeClipButton)
    panel.measurePanel.clips.load(path)
    measured(window, panel)
    assert values(panel)["la_volume"] == pytest.approx(both)


def shown_parent(node):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    return hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))


def test_clips_and_inputs_are_in_a_saved_scene_and_under_the_transform_of_the_scan(window, shared_engine, tmp_path):
    scan, node, _mask, _volume = atrium()
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = slicer.util.arrayFromTransformMatrix(moved)
    matrix[:3, 3] = (40, 5, -8)
    slicer.util.updateTransformMatrixFromArray(moved, matrix)
    for each in (scan, node):
        each.SetAndObserveTransformNodeID(moved.GetID())
    panel = opened(window, node)
    panel.ui.heightBox.value = 171
    window.click(panel.ui.addVeinButton)
    measured(window, panel)
    before, clips = values(panel), panel.measurePanel.clips.clips()
    assert clips[0]["radius_mm"] == 12
    assert np.linalg.norm(np.array(clips[0]["point_mm"]) - CENTRE) < 25  # in the scan's own frame
    file = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(file))
    slicer.mrmlScene.Clear(0)
    window.events()
    with zipfile.ZipFile(file) as bundle:
        bundle.extractall(tmp_path)
    slicer.mrmlScene.SetURL(str(next(tmp_path.rglob("*.mrml"))))
    slicer.mrmlScene.Import()
    measured(window, panel)
    assert panel.measurePanel.clips.clips() == clips
    assert panel.ui.heightBox.value == 171
    assert values(panel) == pytest.approx(before, rel=1e-4)


def test_bad_input_is_one_line_beside_the_figures_that_stay_grey(window, shared_engine, tmp_path):
    scan, node, _mask, _volume = atrium()
    panel = opened(window, node)
    ui = panel.ui
    ui.heightBox.value, ui.weightBox.value = 12, 80
    measured(window, panel)
    assert ui.measureWords.text.startswith("A height of 12 cm is not a person's")
    assert grey(panel)
    ui.heightBox.value = 0
    measured(window, panel)
    assert not grey(panel)
    window.click(ui.addSphereButton)
    (point,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    point.SetNthControlPointPositionWorld(0, 500, 500, 500)
    window.wait_until(lambda: "removes no voxel" in ui.measureWords.text, FIGURES_S, "the line")
    assert "'sphere'" in ui.measureWords.text
    slicer.mrmlScene.RemoveNode(point)
    window.wait_until(lambda: not panel.measurePanel.stale, FIGURES_S, "figures without the clip")
    assert not grey(panel)
    for text, line in (
        ("{", "expected"),
        ('{"clips": [{"kind": "cube"}]}', "clip 1 is neither a plane nor a sphere"),
        ('{"clips": [{"kind": "sphere", "name": "s", "center_mm": [0, 0, 0]}]}', "no radius above zero"),
        ('{"clips": [{"kind": "plane", "point_mm": [0, 0, 0], "normal": [0, 0, 0]}]}', "a normal of length zero"),
    ):
        (tmp_path / "c.json").write_text(text, encoding="utf-8")
        panel.measurePanel.clips.load(tmp_path / "c.json")
        assert ui.clipsWords.text.startswith("c.json is no file of clips") and line in ui.clipsWords.text
    ui.rangesBox.checked = True
    measured(window, panel)
    assert "segment the scan again" in ui.measureWords.text, (
        ui.measureWords.text
    )  # the engine never had this prediction
    draw(node, np.zeros((SIZE, SIZE, SIZE), np.uint8))
    window.wait_until(lambda: "untick it" in ui.measureWords.text, FIGURES_S, "the line")
    ui.rangesBox.checked = False
    window.wait_until(lambda: "the mask is empty" in ui.measureWords.text.lower(), FIGURES_S, "the line")
    slicer.mrmlScene.RemoveNode(scan)
    panel.measurePanel.show(None)
    panel.measurePanel.show(node)
    window.wait_until(lambda: "is not in the scene" in ui.measureWords.text, FIGURES_S, "the line")


def test_the_wall_is_a_model_coloured_by_a_scalar_with_a_bar_and_open_where_it_was_clipped(window, shared_engine):
    scan, node, _mask, _volume = atrium()
    panel = opened(window, node)
    ui = panel.ui
    ui.surfaceBox.currentIndex = ui.surfaceBox.findData("iir")
    find = lambda: slicer.mrmlScene.GetFirstNodeByName("LA wall")  # noqa: E731
    model = window.wait_until(find, FIGURES_S, "the surface")
    display = model.GetDisplayNode()
    assert (display.GetActiveScalarName(), display.GetScalarRange()) == ("iir", (0.5, 1.8))
    points = slicer.util.arrayFromModelPoints(model)
    assert np.linalg.norm(points - CENTRE * [-1, -1, 1], axis=1) == pytest.approx(RADIUS, abs=1.5)
    ratios = slicer.util.arrayFromModelPointData(model, "iir")
    up = points[:, 2] > CENTRE[2] + 15
    assert ratios[up].min() > 1.4 and ratios[~up].min() < 1.0
    assert shown_parent(model) == shown_parent(scan)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(model)
    assert legend.GetTitleText() == "IIR"
    assert not node.GetDisplayNode().GetVisibility3D()
    triangles = model.GetPolyData().GetNumberOfPolys()
    window.click(ui.addValveButton)
    measured(window, panel)
    assert model.GetPolyData().GetNumberOfPolys() < 0.8 * triangles
    ui.surfaceBox.currentIndex = ui.surfaceBox.findData("distance")
    assert legend.GetTitleText() == "Distance (mm)"
    assert display.GetActiveScalarName() == "distance"
    ui.measureSection.collapsed = True
    panel._onEdited(node)  # nothing is measured now: the surface would be that of the mask before
    window.events()
    assert find() is None
    assert node.GetDisplayNode().GetVisibility3D()
    assert ui.surfaceBox.currentData == "distance"


def cine(counts):
    """A time series with a mask of a left ventricle in each phase, of so many voxels."""
    from MPERSegmentLib import result_node
    from test_phases import cine as series

    _browser, scan = series(len(counts))
    labels = [{"value": 3, "name": "LV", "category": None, "type": None, "colour": [200, 60, 60]}]
    made = []
    for number, count in enumerate(counts, 1):
        mask = np.zeros((12, 14, 16), np.uint8)
        mask.reshape(-1)[:count] = 3
        node = segmentation_node.show_mask(mask, (0, 0, 0), labels, scan, f"LV {number}", RESULT)
        result_node.record(node, {**RESULT, "labels": labels})
        phases.note(node, number)
        made.append(node)
    return scan, made


def test_phases_have_a_fraction_a_curve_and_a_choice_of_ed_and_es(window, shared_engine):
    _scan, masks = cine((400, 700, 250))
    panel = opened(window, masks[0])
    ui = panel.ui
    assert not ui.clipsBox.visible
    found = values(panel)
    assert found["lv_edv"] == pytest.approx(700 * 0.008)
    assert found["lv_ef"] == pytest.approx(100 * 450 / 700)
    assert "ED is phase 2 and ES is phase 3" in ui.measureWords.text
    assert "phase 2 (ED)" in ui.figuresTable.item(1, 0).toolTip()
    window.click(ui.curveButton)
    chart = window.wait_until(lambda: slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode"), 5, "the curve")
    table = chart.GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    assert [table.GetValue(row, 1).ToDouble() for row in range(3)] == pytest.approx([3.2, 5.6, 2.0])
    window.screenshot("measure-phases")
    window.click(ui.curveButton)
    ui.esBox.currentIndex = ui.esBox.findData("1")
    measured(window, panel)
    assert values(panel)["lv_ef"] == pytest.approx(100 * 300 / 700)
    ui.edBox.currentIndex = ui.edBox.findData("3")
    measured(window, panel)
    assert "Phase 3, taken as ED, has a smaller LV" in ui.measureWords.text and "Swap them" in ui.measureWords.text
    ui.edBox.currentIndex = ui.esBox.currentIndex = 0
    ui.heightBox.value, ui.weightBox.value = 180, 80
    measured(window, panel)
    before = values(panel)
    panel.ui.resultSelector.setCurrentNode(masks[2])
    assert not grey(panel) and values(panel) == before  # of the same phases
    assert before["lv_edv_index"] == pytest.approx(before["lv_edv"] / 2)
    slicer.mrmlScene.RemoveNode(masks[2])
    measured(window, panel)
    assert values(panel)["lv_ef"] == pytest.approx(100 * 300 / 700)  # of the phases that are left
    assert ui.heightBox.value == 180


def test_a_mask_that_ends_where_the_scan_does_is_a_lower_bound_with_and_without_its_wall(window, shared_engine):
    _scan, node, mask, _volume = atrium()
    panel = opened(window, node)
    assert "lower bound" not in panel.ui.measureWords.text
    cut = np.roll(np.asarray(mask.labelmap.array), -SIZE // 2, 0)
    cut[SIZE // 2 :] = 0
    draw(node, cut)
    window.wait_until(lambda: "lower bound" in panel.ui.measureWords.text, FIGURES_S, "the note")
    assert values(panel)["la_sphericity"] is None
    panel.ui.enhancementBox.checked = False
    measured(window, panel)
    assert "la_pool_mean" not in values(panel)
    assert "lower bound" in panel.ui.measureWords.text, "also where only the part that is drawn is sent"


def test_figures_of_masks_that_may_be_wrong_say_so(window, shared_engine):
    from MPERSegmentLib import result_node

    bad = {"expected_dice": 0.2, "low": 0.0, "high": 0.4, "level": "likely wrong", "reasons": []}
    _scan, masks = cine((400, 700, 250))
    for mask, level in ((masks[0], "check"), (masks[1], "likely wrong"), (masks[2], "likely wrong")):
        result_node.record(mask, {**result_node.of(mask), "quality": {**bad, "level": level}})
    panel = opened(window, masks[0])
    lines = panel.ui.measureWords.text.splitlines()
    assert lines[0].startswith("The masks of these phases are likely wrong: 2, 3.")
    assert lines[1].startswith("Please check the masks of these phases") and lines[1].endswith(": 1.")
    window.click(panel.ui.copyFiguresButton)
    assert lines[0] in slicer.app.clipboard().text()
    segmentation_node.mark_edited(masks[1])
    slicer.mrmlScene.RemoveNode(masks[2])
    measured(window, panel)
    assert "likely wrong" not in panel.ui.measureWords.text  # that of phase 2 was corrected


def test_phases_without_a_ventricle_have_no_fraction_and_the_table_says_why(window, shared_engine):
    _scan, masks = cine((400, 700, 0))
    panel = opened(window, masks[0])
    ui = panel.ui
    assert values(panel)["lv_ef"] == pytest.approx(100 * 300 / 700)
    assert "No voxel is LV in phase 3, which is taken neither" in ui.measureWords.text
    ui.esBox.currentIndex = ui.esBox.findData("3")
    measured(window, panel)
    assert values(panel)["lv_ef"] is None
    assert "No voxel is LV at ES (phase 3)" in ui.measureWords.text
    names = [ui.figuresTable.item(row, 0).text() for row in range(ui.figuresTable.rowCount)]
    item = ui.figuresTable.item(names.index("LV EF"), 1)
    assert (item.text(), item.toolTip()) == (formatting.UNKNOWN, "no voxel is LV at ES")


def test_a_report_is_written_by_the_command_line_with_the_figures_of_the_panel(window, shared_engine, tmp_path):
    _scan, node, _mask, _volume = atrium("LA of case 1")
    panel = opened(window, node)
    ui = panel.ui
    window.click(ui.addVeinButton)
    measured(window, panel)
    folder = tmp_path / "Bericht für 1"
    panel.measurePanel._report.write(panel.measurePanel.reportInputs(), folder)
    window.wait_until(lambda: ui.openReportButton.visible, 60, "the report")
    with (folder / "figures.csv").open(encoding="utf-8", newline="") as file:
        found = {row["key"]: float(row["value"]) for row in csv.DictReader(file)}
    assert found == pytest.approx(values(panel), rel=1e-4)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "LA of case 1" in page and "clipped at vein" in page
    assert "report.html" in ui.reportWords.text
    (tmp_path / "file").write_text("", encoding="utf-8")
    panel.measurePanel._report.write(panel.measurePanel.reportInputs(), tmp_path / "file")
    window.wait_until(lambda: "No report was written" in ui.reportWords.text, 60, "the refusal")
    assert not ui.openReportButton.visible


def test_the_engine_that_lost_a_mask_gets_it_again(window, shared_engine):
    _scan, node, mask, volume = atrium()
    panel = opened(window, node)
    ids = [key for _stamp, key in panel.measurePanel._masks._sent.values()]
    for key in ids:
        panel.session.delete(f"/scans/{key}")
    panel.ui.wallBox.value = 2.5
    measured(window, panel)
    from mper.measurement.wall import WallSettings

    assert values(panel) == pytest.approx(library(mask, volume, wall=WallSettings(2.5)))


def test_segmentation_and_report_are_written_together_for_the_pacs(window, shared_engine, tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "library"))
    from small_series import stack, write_classic

    from mper.dicom.series import read_series
    from mper.dicom.sr_write import read_sr

    source = tmp_path / "Müller"

    def body(_number, image):
        image.PatientSize, image.PatientWeight = "1.8", "80"

    write_classic(source, stack((6, 8, 9)), body)
    volume = read_series(source).volume
    scan = mrml.show_scan(volume.array, volume.geometry.affine, "scan", slicer.mrmlScene)
    files = {str(pydicom.dcmread(file).SOPInstanceUID): str(file) for file in source.iterdir()}
    scan.SetAttribute("DICOM.instanceUIDs", " ".join(files))

    class Database:
        isOpen = True
        slicers = getattr(slicer, "dicomDatabase", None)  # Slicer's own database needs more than the module uses

        def fileForInstance(self, uid):
            return files[uid]

        def instanceValue(self, uid, tag):
            found = pydicom.dcmread(files[uid]).get(int(tag.replace(",", ""), 16))
            return "" if found is None else str(found.value)

        def __getattr__(self, name):
            return getattr(self.slicers, name)

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    node = segmentation_node.show_mask(
        np.ones((3, 4, 4), np.uint8), (1, 2, 2), (make_label(1, "LA"),), scan, "LA", RESULT
    )
    panel = opened(window, node)
    ui = panel.ui
    assert (ui.heightBox.value, ui.weightBox.value) == (180, 80)  # of the header
    found = values(panel)
    ui.exportSection.collapsed = False
    assert not ui.exportPushButton.enabled
    panel.exportPanel.toDicom(node, tmp_path / "seg.dcm", panel.measurePanel.reportInputs())
    window.wait_until(lambda: ui.exportReportButton.enabled, 60, "the files")
    assert f"Written: {tmp_path / 'seg-report.dcm'}" in ui.exportWords.text, ui.exportWords.text
    (stored,) = read_sr(tmp_path / "seg-report.dcm").values()
    assert stored["Volume"] == (pytest.approx(found["la_volume"]), "mL")
    assert stored["LA volume index"] == (pytest.approx(found["la_volume_index"]), "mL/m2")
    report, segmentation = (pydicom.dcmread(tmp_path / name) for name in ("seg-report.dcm", "seg.dcm"))
    assert segmentation.SOPInstanceUID in str(report)
    assert report.StudyInstanceUID == segmentation.StudyInstanceUID
    assert ui.exportPushButton.enabled
    words = ui.exportWords.text
    asked = window.answer("pacs.example", None, "pacs.example", "")
    window.click(ui.exportPushButton)
    assert len(asked) == 2 and ui.exportWords.text == words, "nothing is sent: the user cancelled the login"
    window.click(ui.exportPushButton)
    assert len(asked) == 4
    window.wait_until(lambda: "Not sent to pacs.example: " in ui.exportWords.text, 60, "the refusal")
    with socket.create_server(("127.0.0.1", 0)) as archive:
        url = f"http://127.0.0.1:{archive.getsockname()[1]}"
        panel.exportPanel.push.push([tmp_path / "seg.dcm"], url)
        archive.settimeout(60)
        connection, _address = archive.accept()  # and does not answer
        panel.exportPanel.toDicom(node, tmp_path / "again.dcm")
        window.wait_until(lambda: ui.exportDicomButton.enabled, 60, "another file meanwhile")
        assert f"Written: {tmp_path / 'again.dcm'}" in ui.exportWords.text
        assert not ui.exportPushButton.enabled, "the files are still being sent"
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        connection.close()
    window.wait_until(lambda: f"Not sent to {url}: " in ui.exportWords.text, 60, "the archive's answer")
    assert ui.exportPushButton.enabled
