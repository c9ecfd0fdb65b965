"""From a segmentation in Slicer's scene, saved by Slicer, to a DICOM-SEG of the scan's own series."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from MPERLib import mrml, segmentation_node
from small_series import stack, write_classic

from mper.cli import FAILED, OK, main
from mper.dicom.seg_read import read_seg
from mper.dicom.series import DicomSeries, read_series
from mper.labels import make_label
from mper.volume import Geometry, Volume

MODEL = {"model": "la", "model_version": "1.0.0", "model_sha256": "0123456789abcdef" * 4}
LABELS = (make_label(1, "LA"), make_label(2, "LV"), make_label(3, "RA"))


@pytest.fixture(params=[False, True], ids=["as in the series", "from the other end"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path, scene: Any) -> tuple[DicomSeries, Any, Geometry]:
    """A series, and its scan in the scene, perhaps with its slices the other way round."""
    write_classic(tmp_path / "series", stack((8, 9, 10)))
    series = read_series(tmp_path / "series")
    volume = series.volume
    if request.param:
        affine = volume.geometry.affine.copy()
        affine[:3, 3] = volume.geometry.to_world((7, 0, 0))
        affine[:3, 0] *= -1
        volume = Volume(volume.array[::-1], Geometry(affine, volume.array.shape))
    return series, mrml.show_scan(volume.array, volume.geometry.affine, "scan", scene), volume.geometry


@pytest.mark.parametrize("crop", [False, True], ids=["whole", "cropped"])
def test_a_segmentation_that_slicer_saved_becomes_the_same_dicom(
    tmp_path: Path, loaded: tuple[DicomSeries, Any, Geometry], crop: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    series, scan, geometry = loaded
    part = np.zeros((3, 4, 5), np.uint8)
    part[:2, 1:3, 2:], part[2, :, :2] = 1, 2
    node = segmentation_node.show_mask(part, (2, 3, 4), LABELS, scan, "heart", MODEL)
    storage = node.GetScene().AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "mask.seg.nrrd"))
    storage.SetCropToMinimumExtent(crop)
    assert storage.WriteData(node)
    words = [str(tmp_path / "mask.seg.nrrd"), "--source", str(tmp_path / "series"), "--out", str(tmp_path / "seg.dcm")]
    assert main(["export-seg", *words, "--json"]) == OK
    told = capsys.readouterr()
    assert json.loads(told.out)["check"]["passed"]
    assert "left out RA: no voxels" in told.err
    wanted = np.zeros(series.volume.array.shape, np.uint8)
    wanted[2:5, 3:7, 4:9] = part
    turned = not geometry.is_close(series.volume.geometry)
    found = read_seg(tmp_path / "seg.dcm", series)
    np.testing.assert_array_equal(found.labelmap.array, wanted[::-1] if turned else wanted)
    assert [(label.name, label.type, label.category) for label in found.labels] == [
        (label.name, label.type, label.category) for label in LABELS[:2]
    ]
    for segment in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "MPER la 1.0.0 (sha256:01234567)"


def test_a_segment_that_a_person_added_needs_a_word(
    tmp_path: Path, loaded: tuple[DicomSeries, Any, Geometry], capsys: pytest.CaptureFixture[str]
) -> None:
    _, scan, _ = loaded
    node = segmentation_node.show_mask(np.ones((2, 2, 2), np.uint8), (0, 0, 0), LABELS[:1], scan, "heart", MODEL)
    drawn = segmentation_node.show_mask(np.full((1, 2, 2), 2, np.uint8), (4, 0, 0), LABELS[1:2], scan, "drawn")
    segment = drawn.GetSegmentation().GetNthSegment(0)
    for tag in ("DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
        segment.RemoveTag(tag)
    assert node.GetSegmentation().AddSegment(segment)
    storage = node.GetScene().AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "mask.seg.nrrd"))
    assert storage.WriteData(node)
    words = [str(tmp_path / "mask.seg.nrrd"), "--source", str(tmp_path / "series"), "--out", str(tmp_path / "seg.dcm")]
    assert main(["export-seg", *words]) == FAILED
    assert "it is not known how 'LV' was made" in capsys.readouterr().err
    assert main(["export-seg", *words, "--manual"]) == OK
    segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert [one.SegmentAlgorithmType for one in segments] == ["AUTOMATIC", "MANUAL"]
