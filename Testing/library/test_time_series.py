"""Time series in files: 4-D NIfTI, NRRD (of ITK, and sequences of 3D Slicer) and MetaImage, phase by phase."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from small_models import random_bundle

from mper.cli import main
from mper.io import read_labelmap, read_volume
from mper.io.opened import open_scan
from mper.phases import Phases
from mper.utils import errors
from mper.utils.errors import FAILED, OK
from mper.volume import Geometry

SIZE, COUNT = (4, 5, 6), 3  # (k, j, i), phases


def series(size: Sequence[int] = SIZE) -> tuple[np.ndarray, Geometry, sitk.Image]:
    """Voxels (t, k, j, i), the grid of each volume, and the same as SimpleITK's 4-D image with a step of 40."""
    array = np.random.default_rng(0).integers(0, 1000, (COUNT, *size)).astype(np.int16)
    images = [sitk.GetImageFromArray(volume) for volume in array]
    for image in images:
        image.SetSpacing((1.5, 1.25, 8.0))
        image.SetOrigin((-3.0, 4.0, 5.0))
        image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    geometry = Geometry.from_itk(images[0].GetOrigin(), (1.5, 1.25, 8.0), images[0].GetDirection(), images[0].GetSize())
    return array, geometry, sitk.JoinSeries(images, 0.0, 40.0)


def assert_phases(path: Path, expected: Phases, size: Sequence[int] = SIZE) -> None:
    array, geometry, _ = series(size)
    opened = open_scan(path)
    assert opened.phases == expected
    for number in range(1, COUNT + 1):
        volume = opened.read(number)
        np.testing.assert_array_equal(volume.array, array[number - 1])
        assert volume.geometry.is_close(geometry, 1e-4)


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "hdr", "nrrd", "nhdr", "mha", "mhd"])
def test_each_phase_of_what_itk_writes_lies_where_the_series_lies(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cine 1.{ending}"
    sitk.WriteImage(series()[2], str(path))
    nifti = ending in ("nii", "nii.gz", "hdr")
    assert_phases(path, Phases(COUNT, (0.0, 40_000.0, 80_000.0) if nifti else ()))
    with pytest.raises(ValueError, match="4-D image"):
        read_volume(path)


@pytest.mark.parametrize(
    ("unit", "step", "start", "times"),
    [
        ("sec", 0.04, 0.0, (0.0, 40.0, 80.0)),
        ("msec", 40.0, 12.5, (12.5, 52.5, 92.5)),
        ("usec", 4e4, 0.0, (0.0, 40.0, 80.0)),
        ("unknown", 40.0, 0.0, ()),
        ("sec", 1.0, 0.0, ()),  # what programs write that know no step
        ("sec", 0.0, 0.0, ()),
        ("sec", float("nan"), 0.0, ()),
    ],
)
def test_nifti_states_times_by_its_unit(
    tmp_path: Path, unit: str, step: float, start: float, times: tuple[float, ...]
) -> None:
    array, geometry, _ = series()
    ras = np.diag([-1.0, -1, 1, 1]) @ geometry.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(array.T, ras)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4], image.header["toffset"] = step, start
    image.to_filename(tmp_path / "cine.nii.gz")
    assert_phases(tmp_path / "cine.nii.gz", Phases(COUNT, times))


def write_sequence(path: Path, axis: int, lines: Sequence[str]) -> None:
    """A sequence as 3D Slicer writes it, its items along the first axis (so that each voxel's follow) or the last."""
    array, geometry, _ = series()
    sizes, vectors, kinds = (
        list(SIZE[::-1]),
        [f"({x},{y},{z})" for x, y, z in geometry.affine[:3, 2::-1].T],
        ["domain"] * 3,
    )
    for values, own in ((sizes, COUNT), (vectors, "none"), (kinds, "list")):
        values.insert(axis, own)  # type: ignore[attr-defined]
    origin = "({},{},{})".format(*geometry.origin_mm)
    header = [
        "NRRD0005",
        "type: short",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(vectors)}",
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {origin}",
        *lines,
    ]
    voxels = np.moveaxis(array, 0, -1) if axis == 0 else array
    path.write_bytes("\n".join([*header, "", ""]).encode() + gzip.compress(np.ascontiguousarray(voxels).tobytes()))


@pytest.mark.parametrize("axis", [0, 3])
def test_sequences_of_slicer_are_time_series(tmp_path: Path, axis: int) -> None:
    place = [f"axis {axis} index type:=numeric", f"axis {axis} index values:=0 0.04 0.09"]
    units = ['""'] * 3
    units.insert(axis, '"s"')
    for lines, times in (([f"units: {' '.join(units)}", *place], (0.0, 40.0, 90.0)), (place, ())):
        write_sequence(tmp_path / "cine.seq.nrrd", axis, lines)
        assert_phases(tmp_path / "cine.seq.nrrd", Phases(COUNT, times))


def test_values_of_one_voxel_are_no_phases(tmp_path: Path) -> None:
    write_sequence(tmp_path / "vectors.nrrd", 0, [])
    with pytest.raises(ValueError, match=r"3 values \(list\) in each of"):
        open_scan(tmp_path / "vectors.nrrd").read(1)


def test_a_truncated_series_is_refused(tmp_path: Path) -> None:
    for ending in ("nii", "nrrd", "mha"):
        path = tmp_path / f"cine.{ending}"
        sitk.WriteImage(series()[2], str(path))
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match="truncated"):
            open_scan(path).read(1)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "nii"])
def test_info_cfg_of_acdc_says_which_phases_are_ed_and_es(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    monkeypatch.setattr(errors, "log_folder", lambda: tmp_path / "logs")
    folder = tmp_path / "patient101"
    folder.mkdir()
    scan = folder / f"patient101_4d.{ending}"
    size = (8, 20, 18)
    sitk.WriteImage(series(size)[2], str(scan))
    (folder / "Info.cfg").write_text("ED: 1\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 3\n", encoding="utf-8")
    model = ["--model", str(random_bundle().save(tmp_path / "model")), "--device", "cpu"]  # it has no left ventricle
    masks = [tmp_path / f"{name}.nrrd" for name in ("ED", "ES", "1", "3")]
    for mask in masks:
        assert main(["segment", str(scan), str(mask), "--phase", mask.stem, *model]) == OK
    assert "left ventricle" not in capsys.readouterr().err
    ed, es, first, third = (read_labelmap(mask).array for mask in masks)
    np.testing.assert_array_equal(ed, first)
    np.testing.assert_array_equal(es, third)
    assert (ed != es).any()


def test_a_file_of_the_scans_name_says_which_phases_are_ed_and_es(tmp_path: Path) -> None:
    sitk.WriteImage(series()[2], str(tmp_path / "cine.nii.gz"))
    (tmp_path / "cine.json").write_text('{"ED": 1, "ES": 2}', encoding="utf-8")
    phases = open_scan(tmp_path / "cine.nii.gz").phases
    assert (phases.end_diastole, phases.end_systole) == (1, 2)


def test_info_cfg_is_not_used_where_its_folder_holds_several_time_series(tmp_path: Path) -> None:
    for patient in ("patient001_4d", "patient002_4d"):
        sitk.WriteImage(series()[2], str(tmp_path / f"{patient}.nii.gz"))
    (tmp_path / "Info.cfg").write_text("ED: 1\nES: 3\n", encoding="utf-8")
    (tmp_path / "patient002_4d.json").write_text('{"ED": 2, "ES": 3}', encoding="utf-8")
    notes: list[str] = []
    first, second = (open_scan(tmp_path / f"patient00{n}_4d.nii.gz", notify=notes.append).phases for n in (1, 2))
    assert (first.end_diastole, first.end_systole) == (None, None)
    assert (second.end_diastole, second.end_systole) == (2, 3)
    assert notes[0].startswith("Info.cfg is not used: its folder holds another time series, patient002_4d.nii.gz")
    assert notes[1:] == ["ED and ES are those of patient002_4d.json: ED 2, ES 3"]


def test_the_command_line_segments_one_phase_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "log_folder", lambda: tmp_path / "logs")
    model = random_bundle().save(tmp_path / "model")
    size = (8, 20, 18)
    array, geometry, image = series(size)
    sitk.WriteImage(image, str(tmp_path / "cine.nii.gz"))
    sitk.WriteImage(image[:, :, :, 1], str(tmp_path / "second.nii.gz"))

    def run(*words: str) -> int:
        return main(["segment", *words, "--model", str(model), "--device", "cpu"])

    scan, mask = str(tmp_path / "cine.nii.gz"), tmp_path / "mask.nrrd"
    assert run(scan, str(mask)) == FAILED
    assert "time series of 3 phases" in capsys.readouterr().err and not mask.exists()
    assert run(scan, str(mask), "--phase", "2") == OK
    assert run(str(tmp_path / "second.nii.gz"), str(tmp_path / "other.nrrd")) == OK
    assert read_labelmap(mask).array.any() and read_labelmap(mask).geometry.is_close(geometry, 1e-4)
    np.testing.assert_array_equal(read_labelmap(mask).array, read_labelmap(tmp_path / "other.nrrd").array)
    assert run(scan, "--phase", "all", str(tmp_path / "all.mha")) == OK
    masks = [read_labelmap(tmp_path / f"all-phase{n}.mha").array for n in (1, 2, 3)]
    np.testing.assert_array_equal(masks[1], read_labelmap(mask).array)
    assert len(array) == len({one.tobytes() for one in masks})
