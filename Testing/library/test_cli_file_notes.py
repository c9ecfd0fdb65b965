"""What a file leaves open reaches the user: notes in text and in JSON, and spacing that cannot be, with a way on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_files import nifti_bytes
from small_models import random_bundle
from small_series import write_classic

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.dicom.seg_read import read_seg
from mper.dicom.series import read_series
from mper.io import read_labelmap, write_volume
from mper.utils.errors import FAILED, OK, USAGE
from mper.volume import Geometry, Volume

RAS = np.array([[-1.5, 0, 0, 40], [0, -1.5, 0, 50], [0, 0, 3, -30], [0, 0, 0, 1]])  # (i, j, k, 1) to RAS
UNIT_STEPS = {"srow": np.diag([-1.0, -1, 1, 1])[:3], "sform_code": 2, "qform_code": 0}  # as ACDC is published
CONTRADICTION = "its sform has steps of 1x1x1 mm, its pixdim says 1.5x1.5x3 mm"
SHAPE = (12, 16, 14)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_bundle().save(tmp_path_factory.mktemp("models") / "small"))


def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.int16)


@pytest.fixture
def contradicting(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti_bytes(voxels(), RAS, **UNIT_STEPS))
    return path


@pytest.fixture
def too_large(tmp_path: Path) -> Path:
    """Micrometres in a header that says mm."""
    path = tmp_path / "large.nii"
    path.write_bytes(nifti_bytes(voxels(), np.diag([1000, 1000, 1000, 1]) @ RAS))
    return path


def test_a_contradiction_is_noted_once_and_the_mask_overlays_the_scan_in_itk(
    contradicting: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(contradicting), str(tmp_path / "mask.nii.gz"), "--model", model]
    assert main(words) == OK
    assert capsys.readouterr().err.count(CONTRADICTION) == 1
    assert main([*words, "--json"]) == OK
    assert sum(CONTRADICTION in note for note in json.loads(capsys.readouterr().out)["notes"]) == 1
    scan, mask = (sitk.ReadImage(str(path)) for path in (contradicting, tmp_path / "mask.nii.gz"))
    for index in [(0, 0, 0), (13, 15, 11)]:
        place = scan.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(mask.TransformIndexToPhysicalPoint(index), place, atol=1e-4)


def test_an_impossible_spacing_is_refused_in_one_line(
    too_large: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(too_large), str(tmp_path / "mask.nrrd"), "--model", model]) == FAILED
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "voxels of 3000x1500x1500 mm" in told and "--spacing" in told
    assert not (tmp_path / "mask.nrrd").exists()


def test_the_right_spacing_may_be_given(
    too_large: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(too_large), str(tmp_path / "mask.nrrd"), "--model", model]
    assert main([*words, "--spacing", "3,1.5,1.5"]) == OK
    assert "the spacing is 3x1.5x1.5 mm (k, j, i) as given, and not 3000x1500x1500 mm" in capsys.readouterr().err
    mask = read_labelmap(tmp_path / "mask.nrrd")
    assert (mask.geometry.shape, mask.geometry.spacing_mm) == (SHAPE, (3, 1.5, 1.5))


def test_a_spacing_that_is_kept_is_refused_only_where_no_memory_holds_it(
    too_large: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(too_large), str(tmp_path / "mask.nrrd"), "--model", model, "--spacing", "keep"]
    assert main(words) == FAILED
    assert "more than any memory holds" in capsys.readouterr().err
    large = tmp_path / "large.nrrd"
    write_volume(large, Volume(voxels(), Geometry.from_axes((0, 0, 0), (60, 2, 2), np.eye(3)[:, ::-1], SHAPE)))
    assert main(["segment", str(large), *words[2:]]) == OK
    assert read_labelmap(tmp_path / "mask.nrrd").geometry.spacing_mm == (60, 2, 2)


@pytest.mark.parametrize("spacing", ["1,2", "0,1,1", "1,1,nan", "1,1,inf", "wide"])
def test_a_spacing_that_is_none_is_a_usage_error(
    spacing: str, too_large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(too_large), str(tmp_path / "mask.nrrd"), "--spacing", spacing]) == USAGE
    assert repr(spacing) in capsys.readouterr().err


def test_a_dicom_segmentation_keeps_the_grid_of_its_series(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classic(
        tmp_path / "series", Volume(voxels(), Geometry.from_axes((0, 0, 0), (3, 1, 1), np.eye(3)[:, ::-1], SHAPE))
    )
    words = ["segment", str(tmp_path / "series"), str(tmp_path / "seg.dcm"), "--model", model, "--spacing", "2,1,1"]
    assert main(words) == USAGE
    assert "a DICOM-SEG has that of its series" in capsys.readouterr().err


def test_import_notes_contradictions_and_takes_a_spacing(
    tmp_path: Path, contradicting: Path, too_large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(contradicting), str(tmp_path / "noted"), "--labels", "LA"]) == OK
    assert CONTRADICTION in capsys.readouterr().err
    assert Dataset.open(tmp_path / "noted").case("scan").image().geometry.spacing_mm == (3, 1.5, 1.5)
    words = ["import", str(too_large), str(tmp_path / "dataset"), "--labels", "LA"]
    assert main(words) == FAILED
    assert "--spacing" in capsys.readouterr().err
    assert main([*words, "--spacing", "3,1.5,1.5"]) == OK
    assert Dataset.open(tmp_path / "dataset").case("large").image().geometry.spacing_mm == (3, 1.5, 1.5)


def test_a_mask_of_0_and_255_is_exported_as_its_only_label_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Geometry.from_axes((0, 0, 0), (3, 1, 1), np.eye(3)[:, ::-1], SHAPE)
    write_classic(tmp_path / "series", Volume(voxels(), grid))
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[3:8, 4:9, 5:9] = 255
    write_volume(tmp_path / "mask.nii.gz", Volume(drawn, grid))
    words = ["export-seg", str(tmp_path / "mask.nii.gz"), "--source", str(tmp_path / "series")]
    assert main([*words, "--out", str(tmp_path / "seg.dcm"), "--labels", "LA", "--manual"]) == OK
    assert "255 is taken as LA" in capsys.readouterr().err
    found = read_seg(tmp_path / "seg.dcm", read_series(tmp_path / "series"))
    np.testing.assert_array_equal(found.labelmap.array == 1, drawn == 255)
