"""Scans, regions and masks between Slicer's scene and the library."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from MPERLib import mrml, segmentation_node
from scenes import grid

from mper import resources
from mper.labels import Code, Label, make_label

SHAPE = (12, 20, 30)
LABELS = (make_label(1, "RV"), make_label(2, "MYO"), make_label(3, "LV"))
MODEL = {"model": "la", "model_version": "1.2", "model_sha256": "0123456789abcdef"}


@pytest.fixture(params=[False, True], ids=["right-handed", "left-handed"])
def scan(request: pytest.FixtureRequest, scene: Any) -> Any:
    """A small oblique scan in the scene."""
    array = np.random.default_rng(0).integers(-100, 500, SHAPE).astype(np.int16)
    return mrml.show_scan(array, grid(request.param), "scan", scene)


def blobs() -> np.ndarray:
    """Three structures in a part of 5 x 6 x 7 voxels."""
    part = np.zeros((5, 6, 7), np.uint8)
    part[0:2, 1:4, 0:3] = 1
    part[2:5, 2:6, 2:6] = 2
    part[3, 3:5, 3:5] = 3
    return part


def whole(part: np.ndarray, start: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    return mask


def linear(scene: Any, matrix: np.ndarray, parent: Any = None) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def turned() -> np.ndarray:
    angle = np.deg2rad(25)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = [5, -7, 11]
    return matrix


def warp(scene: Any, node: Any) -> None:
    """Put a node under a transform that is not linear."""
    spline = vtk.vtkThinPlateSplineTransform()
    for landmarks, shift in ((spline.SetSourceLandmarks, 0), (spline.SetTargetLandmarks, 3)):
        points = vtk.vtkPoints()
        for n, corner in enumerate(np.ndindex(2, 2, 2)):
            points.InsertNextPoint(*(50.0 * c + shift * (n == 3) for c in corner))
        landmarks(points)
    bend = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bend")
    bend.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(bend.GetID())


# ---- scans


def test_scan_comes_back_as_it_was_shown(scan: Any) -> None:
    geometry = mrml.geometry_of(scan)
    assert geometry.shape == SHAPE
    again = mrml.show_scan(mrml.array_of(scan), geometry.affine, "scan", scan.GetScene())
    np.testing.assert_allclose(mrml.geometry_of(again).affine, geometry.affine, atol=1e-12)
    np.testing.assert_array_equal(mrml.array_of(again), mrml.array_of(scan))
    assert again.GetName() != scan.GetName()


def test_geometry_agrees_with_slicers_own_matrix(scan: Any) -> None:
    matrix = vtk.vtkMatrix4x4()
    scan.GetIJKToRASMatrix(matrix)
    k, j, i = 3, 7, 11
    right, anterior, superior, _one = matrix.MultiplyPoint((i, j, k, 1))
    np.testing.assert_allclose(mrml.geometry_of(scan).to_world((k, j, i)), [-right, -anterior, superior], atol=1e-9)


def test_voxels_are_not_copied(scan: Any) -> None:
    mrml.array_of(scan)[1, 2, 3] = 77
    assert scan.GetImageData().GetScalarComponentAsDouble(3, 2, 1, 0) == 77


def test_every_voxel_type_of_the_library_can_be_shown(scene: Any) -> None:
    for kind in ("uint8", "int16", "uint16", "int32", "float16", "float32", "float64"):
        array = np.arange(24, dtype=kind).reshape(2, 3, 4)
        np.testing.assert_array_equal(mrml.array_of(mrml.show_scan(array, grid(), kind, scene)), array)


def test_index_and_world_are_inverse_under_transforms(scan: Any) -> None:
    outer = linear(scan.GetScene(), turned())
    scan.SetAndObserveTransformNodeID(linear(scan.GetScene(), np.diag([1.0, 1.0, 1.0, 1.0]), outer).GetID())
    for index in ((0, 0, 0), (11, 19, 29), (4, 5, 6)):
        assert mrml.index_at(mrml.world_of(index, scan), scan) == index
    moved = turned() @ [*mrml.geometry_of(scan).to_world((4, 5, 6)) * [-1, -1, 1], 1]
    np.testing.assert_allclose(mrml.world_of((4, 5, 6), scan), moved[:3], atol=1e-9)


def test_place_off_the_scan_has_no_voxel(scan: Any) -> None:
    assert mrml.index_at(mrml.world_of((-1, 0, 0), scan), scan) is None
    assert mrml.index_at(mrml.world_of((0, 0, SHAPE[2]), scan), scan) is None


def test_jump_puts_all_slice_views_there(scan: Any) -> None:
    view = scan.GetScene().AddNewNodeByClass("vtkMRMLSliceNode")
    ras = mrml.jump_to((4, 5, 6), scan)
    matrix = view.GetSliceToRAS()
    normal = np.array([matrix.GetElement(n, 2) for n in range(3)])
    position = np.array([matrix.GetElement(n, 3) for n in range(3)])
    assert abs(normal @ (position - np.array(ras))) < 1e-6


def test_scan_without_voxels_is_refused(scene: Any) -> None:
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(ValueError, match="nothing has no voxels"):
        mrml.geometry_of(empty)


def test_colour_image_is_refused(scene: Any) -> None:
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    with pytest.raises(ValueError, match="photo has 3 values per voxel"):
        mrml.geometry_of(colour)


def test_label_map_and_other_nodes_are_no_scans(scene: Any) -> None:
    for kind in ("vtkMRMLLabelMapVolumeNode", "vtkMRMLModelNode"):
        with pytest.raises(ValueError, match="choose a scalar volume"):
            mrml.geometry_of(scene.AddNewNodeByClass(kind, "other"))


def test_a_warped_scan_is_refused_with_a_message(scan: Any) -> None:
    warp(scan.GetScene(), scan)
    with pytest.raises(ValueError, match="scan is under the non-linear transform bend; harden it"):
        mrml.geometry_of(scan)


# ---- regions


def roi(scene: Any, centre_ras: Any, size: Any) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region")
    node.SetCenter(*centre_ras)
    node.SetSize(*size)
    return node


def test_straight_region_is_its_own_box(scene: Any) -> None:
    assert mrml.roi_mm(roi(scene, (10, 20, 30), (4, 6, 8))) == pytest.approx([-12, -8, -23, -17, 26, 34])


def test_turned_region_is_held_by_its_box(scene: Any) -> None:
    node = roi(scene, (0, 0, 0), (10, 10, 10))
    node.SetAndObserveTransformNodeID(linear(scene, turned()).GetID())
    reach = 5 * (np.cos(np.deg2rad(25)) + np.sin(np.deg2rad(25)))
    expected = [-5 - reach, -5 + reach, 7 - reach, 7 + reach, 11 - 5, 11 + 5]
    assert mrml.roi_mm(node) == pytest.approx(expected)


def test_region_moves_with_its_scan(scan: Any) -> None:
    centre = np.array(mrml.world_of((6, 10, 15), scan))
    node = roi(scan.GetScene(), centre, (3, 4, 5))
    before = mrml.roi_mm(node, scan)
    transform = linear(scan.GetScene(), turned())
    for moved in (scan, node):
        moved.SetAndObserveTransformNodeID(transform.GetID())
    assert mrml.roi_mm(node, scan) == pytest.approx(before)


def test_region_that_is_not_drawn_is_refused(scene: Any) -> None:
    with pytest.raises(ValueError, match="not drawn yet"):
        mrml.roi_mm(scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region"))


def test_region_off_the_scan_is_refused(scan: Any) -> None:
    with pytest.raises(ValueError, match="region lies outside the scan"):
        mrml.roi_mm(roi(scan.GetScene(), (900, 0, 0), (5, 5, 5)), scan)


def test_warped_region_is_refused(scan: Any) -> None:
    node = roi(scan.GetScene(), (0, 0, 0), (5, 5, 5))
    warp(scan.GetScene(), node)
    with pytest.raises(ValueError, match="non-linear transform"):
        mrml.roi_mm(node, scan)


# ---- masks


def test_mask_is_exact_to_the_voxel(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart", MODEL)
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), whole(blobs(), (3, 4, 5)))


def test_of_segments_that_lie_on_the_whole_scan_the_drawn_part_is_read(scan: Any) -> None:
    mask = whole(blobs(), (3, 4, 5))
    node = segmentation_node.show_mask(mask, (0, 0, 0), LABELS, scan, "heart")
    part, start = segmentation_node.mask_part(node, scan)
    assert (part.shape, start) == ((5, 5, 6), (3, 5, 5))  # without its empty first row and last column
    np.testing.assert_array_equal(mask[mrml.window(start, part.shape)], part)
    counts = np.bincount(mask.reshape(-1))[1:].tolist()
    assert segmentation_node.voxel_counts(node, scan) == dict(zip(("RV", "MYO", "LV"), counts, strict=True))


def test_segments_lie_where_slicer_puts_the_scan(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    labelmap = scan.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportVisibleSegmentsToLabelmapNode(node, labelmap, scan)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(labelmap), whole(blobs(), (3, 4, 5)))
    a, b = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    labelmap.GetIJKToRASMatrix(a)
    scan.GetIJKToRASMatrix(b)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(a), slicer.util.arrayFromVTKMatrix(b), atol=1e-9)


def test_only_the_part_is_kept(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    assert image.GetExtent() == (5, 11, 4, 9, 3, 7)
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_segments_are_named_coloured_and_coded_in_order(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart", MODEL)
    assert segmentation_node.labels_of(node) == LABELS
    segment = node.GetSegmentation().GetNthSegment(2)
    assert segment.GetName() == "LV"
    assert segment.GetColor() == pytest.approx([c / 255 for c in LABELS[2].colour])
    assert "~SCT^123037004^Anatomical Structure~SCT^87878005^Left ventricle~" in segment.GetTerminology()


def test_labels_may_come_as_the_engine_writes_them(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), [asdict(label) for label in LABELS], scan, "heart")
    assert segmentation_node.labels_of(node) == LABELS


def test_structure_without_code_gets_none(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs() // 3, (0, 0, 0), [Label(1, "my structure")], scan, "own")
    assert node.GetSegmentation().GetNthSegment(0).GetTerminology() == ""
    assert segmentation_node.labels_of(node)[0].type is None


def test_the_algorithm_is_named_and_a_manual_edit_is_recorded(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart", MODEL)
    tags = [tag(node, n, "DICOM.SegmentAlgorithmType") for n in range(3)]
    assert tags == ["AUTOMATIC"] * 3
    assert tag(node, 0, "DICOM.SegmentAlgorithmName") == "MPER la 1.2 (sha256:01234567)"
    assert not segmentation_node.is_edited(node)
    segmentation_node.mark_edited(node)
    assert segmentation_node.is_edited(node)
    assert [tag(node, n, "DICOM.SegmentAlgorithmType") for n in range(3)] == ["SEMIAUTOMATIC"] * 3


def tag(node: Any, n: int, name: str) -> str:
    value = vtk.reference("")
    node.GetSegmentation().GetNthSegment(n).GetTag(name, value)
    return str(value)


def test_what_a_person_drew_stays_manual(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "drawn")
    segmentation_node.mark_edited(node)
    assert tag(node, 0, "DICOM.SegmentAlgorithmType") == "MANUAL"


def test_modifiers_and_regions_are_kept(scan: Any) -> None:
    right, heart = Code("SCT", "24028007", "Right"), Code("SCT", "80891009", "Heart")
    label = replace(make_label(1, "PV"), modifier=right, region=heart)
    node = segmentation_node.show_mask(np.ones((1, 1, 1), np.uint8), (0, 0, 0), [label], scan, "vein")
    assert segmentation_node.labels_of(node) == (label,)


def test_every_code_stands_in_the_list_that_its_entry_names() -> None:
    terms = json.loads(next(resources.terminology_dir().glob("*.term.json")).read_text(encoding="utf-8"))
    assert (
        terms["SegmentationCategoryTypeContextName"]
        == segmentation_node._terminology(make_label(1, "MYO")).partition("~")[0]
    )
    ours = {(c["CodeValue"], t["CodeValue"]) for c in terms["SegmentationCodes"]["Category"] for t in c["Type"]}
    for name in ("LA", "RA", "LV", "RV", "MYO", "LAA", "PV", "Heart", "Scar"):
        label = make_label(1, name)
        assert (label.category.value, label.type.value) in ours  # type: ignore[union-attr]


def test_empty_mask_has_its_segments_and_no_voxel(scan: Any) -> None:
    for empty in (np.zeros((0, 0, 0), np.uint8), np.zeros((2, 2, 2), np.uint8)):
        node = segmentation_node.show_mask(empty, (0, 0, 0), LABELS, scan, "empty", MODEL)
        assert [label.name for label in segmentation_node.labels_of(node)] == ["RV", "MYO", "LV"]
        assert not segmentation_node.mask_of(node, scan).any()
        assert segmentation_node.mask_part(node, scan)[0].shape == (1, 1, 1)


def test_nothing_is_overwritten(scan: Any) -> None:
    first = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    second = segmentation_node.show_mask(blobs() * 0, (3, 4, 5), LABELS, scan, "heart")
    assert first.GetName() != second.GetName()
    assert segmentation_node.mask_of(first, scan).any()


def test_mask_follows_its_scan_under_a_transform(scan: Any) -> None:
    transform = linear(scan.GetScene(), turned())
    scan.SetAndObserveTransformNodeID(transform.GetID())
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    assert node.GetTransformNodeID() == transform.GetID()
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), whole(blobs(), (3, 4, 5)))
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    middle = np.array(mrml.world_of((5, 6, 8), scan))
    assert (np.array(bounds[::2]) < middle).all() and (middle < np.array(bounds[1::2])).all()


def test_mask_is_resampled_where_it_is_not_on_the_scans_grid(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    half = np.eye(4)
    half[:3, 3] = (mrml._RAS_LPS @ mrml.geometry_of(scan).affine)[:3, :3] @ [
        0,
        0,
        0.4,
    ]  # less than half a voxel along i
    node.SetAndObserveTransformNodeID(linear(scan.GetScene(), half).GetID())
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), whole(blobs(), (3, 4, 5)))
    half[:3, 3] *= 0.6 / 0.4
    node.GetParentTransformNode().SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(half))
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), whole(blobs(), (3, 4, 6)))


def test_mask_off_the_scan_is_refused(scan: Any) -> None:
    with pytest.raises(ValueError, match="does not fit scan"):
        segmentation_node.show_mask(blobs(), (9, 0, 0), LABELS, scan, "heart")


def test_value_without_label_is_refused_and_leaves_no_node(scan: Any) -> None:
    before = scan.GetScene().GetNumberOfNodes()
    with pytest.raises(ValueError, match=r"values without a label: \[3\]"):
        segmentation_node.show_mask(blobs(), (0, 0, 0), LABELS[:2], scan, "heart")
    assert scan.GetScene().GetNumberOfNodes() == before


def test_unlabelled_voxels_travel_as_a_segment(scan: Any) -> None:
    part = blobs()
    part[0, 0, 5:] = 255
    node = segmentation_node.show_mask(part, (3, 4, 5), LABELS, scan, "partial")
    assert node.GetSegmentation().GetNthSegment(3).GetName() == "unlabelled"
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), whole(part, (3, 4, 5)))
    assert segmentation_node.labels_of(node) == LABELS


def test_names_give_the_values(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    others = (make_label(7, "lv"), make_label(9, "RV"), make_label(11, "MYO"))
    expected = np.array([0, 9, 11, 7], np.uint8)[whole(blobs(), (3, 4, 5))]
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan, others), expected)


def test_segment_that_no_label_names_is_refused_unless_empty(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    with pytest.raises(ValueError, match="the segment LV is none of the structures RV, MYO"):
        segmentation_node.mask_of(node, scan, LABELS[:2])
    empty = segmentation_node.show_mask(
        np.where(blobs() == 3, 0, blobs()).astype(np.uint8), (3, 4, 5), LABELS, scan, "heart"
    )
    assert set(np.unique(segmentation_node.mask_of(empty, scan, LABELS[:2]))) == {0, 1, 2}


def test_overlap_is_refused_with_its_size(scan: Any) -> None:
    node = segmentation_node.show_mask(np.ones((2, 2, 2), np.uint8), (0, 0, 0), LABELS[:1], scan, "heart")
    other = segmentation_node.show_mask(np.full((2, 2, 2), 2, np.uint8), (1, 1, 1), LABELS[1:2], scan, "other")
    node.GetSegmentation().CopySegmentFromSegmentation(
        other.GetSegmentation(), other.GetSegmentation().GetNthSegmentID(0)
    )
    with pytest.raises(ValueError, match="RV and MYO overlap in 1 voxels"):
        segmentation_node.mask_of(node, scan)


def test_replacing_changes_the_named_segments_alone_and_can_be_undone(scan: Any) -> None:
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    before = segmentation_node.mask_of(node, scan)
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(node.GetSegmentation())
    history.SaveState()
    segmentation_node.replace_mask(node, np.ones((2, 2, 2), np.uint8), (0, 0, 0), LABELS[:1], scan, MODEL)
    expected = np.where(before == 1, 0, before)
    expected[:2, :2, :2] = 1
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), expected)
    assert [tag(node, n, "DICOM.SegmentAlgorithmType") for n in range(3)] == ["AUTOMATIC", "MANUAL", "MANUAL"]
    history.RestorePreviousState()
    np.testing.assert_array_equal(segmentation_node.mask_of(node, scan), before)


def test_mask_lies_under_the_study_of_its_scan(scan: Any) -> None:
    scene = scan.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    study = hierarchy.CreateStudyItem(patient, "study")
    hierarchy.CreateItem(study, scan)
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_deleted_node_is_seen(scan: Any) -> None:
    assert mrml.alive(scan)
    scan.GetScene().RemoveNode(scan)
    assert not mrml.alive(scan)
    assert not mrml.alive(None)


# ---- the scene on disk


def test_all_of_it_goes_with_the_scene(scan: Any, tmp_path: Any) -> None:
    scene = scan.GetScene()
    transform = linear(scene, turned())
    scan.SetAndObserveTransformNodeID(transform.GetID())
    node = segmentation_node.show_mask(blobs(), (3, 4, 5), LABELS, scan, "heart", MODEL)
    segmentation_node.mark_edited(node)
    for stored, name in ((scan, "scan.nrrd"), (node, "heart.seg.nrrd"), (transform, "moved.h5")):
        stored.AddDefaultStorageNode()
        stored.GetStorageNode().SetFileName(str(tmp_path / name))
        assert stored.GetStorageNode().WriteData(stored)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.SetRootDirectory(str(tmp_path))
    assert scene.Commit()

    other = slicer.vtkMRMLScene()
    slicer.vtkSlicerSegmentationsModuleLogic().SetMRMLScene(other)
    other.SetURL(str(tmp_path / "scene.mrml"))
    assert other.Connect()
    again, source = other.GetFirstNodeByName("heart"), other.GetFirstNodeByName("scan")
    mask, expected = segmentation_node.mask_of(again, source), whole(blobs(), (3, 4, 5))
    assert np.bincount(mask.ravel()).tolist() == np.bincount(expected.ravel()).tolist()
    for index in zip(
        *np.nonzero(expected), strict=True
    ):  # Slicer may turn the axes of a left-handed scan when it reads
        assert mask[mrml.index_at(mrml.world_of(index, scan), source)] == expected[index]
    assert segmentation_node.labels_of(again) == LABELS
    assert tag(again, 0, "DICOM.SegmentAlgorithmName") == "MPER la 1.2 (sha256:01234567)"
    assert segmentation_node.is_edited(again)
    assert tag(again, 1, "DICOM.SegmentAlgorithmType") == "SEMIAUTOMATIC"
    assert again.GetParentTransformNode().GetName() == "moved"
