"""Where a file lies: on the grid that ITK gives it, as 3D Slicer shows it, whatever its header says."""

from __future__ import annotations

import contextlib
import gzip
import sys
import tempfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from small_files import metaimage_text, nifti_bytes, nifti_header, nrrd_text

from mper import io
from mper.labels import Segmentation, make_label
from mper.volume import Geometry, Volume

PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPE = (2, 3, 4)
RAS = np.array([[-1.25, 0, 0, 40], [0, -1.25, 0, 50], [0, 0, 2.5, -30], [0, 0, 0, 1]])  # (i, j, k, 1) to RAS
MOVED = RAS + np.array([[0, 0, 0, 20], [0, 0, 0, 0], [0, 0, 0, -12], [0, 0, 0, 0]])
SHEARED = RAS + np.array([[0, 0.2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
UNIT_STEPS = np.diag([-1.0, -1, 1, 1])


def ramp(dtype: str = "i2") -> np.ndarray:
    return np.arange(24).reshape(SHAPE).astype(dtype)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """(i, j, k, 1) to a world: one of the 48 orientations, turned a little or not, of any voxel size and place."""
    directions = np.eye(3)[list(draw(st.permutations(range(3))))] * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    if draw(st.booleans()):
        tilt = draw(st.tuples(*[st.floats(-40, 40)] * 3))
        directions = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ directions
    affine = np.eye(4)
    affine[:3, :3] = directions * draw(st.tuples(*[st.floats(0.3, 12)] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-400, 400)] * 3))
    return affine


def assert_as_itk(path: Path, tolerance_mm: float = 1e-4) -> None:
    """What is read, or refused, is what SimpleITK reads, or refuses."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        with pytest.raises(ValueError, match="cannot read"):
            io.read_volume(path)
        return
    volume = io.read_volume(path)
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image), rtol=1e-6)
    for index in [(0, 0, 0), (1, 2, 3), (1, 0, 3)]:
        place = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(volume.geometry.to_world(index), place, atol=tolerance_mm)


def notes_of(path: Path) -> list[str]:
    notes: list[str] = []
    io.read_volume(path, notify=notes.append)
    return notes


# NIfTI


@PROPERTY
@given(
    affine=affines(),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    change=st.sampled_from(["none", "moved", "unit steps", "sheared", "zero", "resized"]),
    dtype=st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]),
    order=st.sampled_from("<>"),
    scale=st.sampled_from([(1, 0), (0, 0), (0, 5), (0.5, -20), (-1, 1000), (np.nan, np.nan)]),
    units=st.sampled_from([0, 2, 10]),
    packed=st.booleans(),
)
def test_nifti_of_any_form_type_and_scale_is_read_as_itk_reads_it(
    tmp_path: Path,
    affine: np.ndarray,
    codes: tuple[int, int],
    change: str,
    dtype: str,
    order: str,
    scale: tuple[float, float],
    units: int,
    packed: bool,
) -> None:
    srow = affine[:3].copy()
    if change == "moved":
        srow[:, 3] += (20, 0, -12)
    elif change == "unit steps":
        srow[:, :3] /= np.linalg.norm(srow[:, :3], axis=0)
    elif change == "sheared":
        srow[0] += 0.05 * srow[1] + 0.02
    elif change == "zero":
        srow[:] = 0
    elif change == "resized":
        srow[:, :3] *= 1.5
    fields = {"qform_code": codes[0], "sform_code": codes[1], "srow": srow, "xyzt_units": units}
    content = nifti_bytes(ramp(dtype), affine, order, scl_slope=scale[0], scl_inter=scale[1], **fields)
    # Two names: beside scan.nii, ITK reads the voxels of scan.nii for those of scan.nii.gz.
    path = tmp_path / ("packed.nii.gz" if packed else "plain.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert_as_itk(path)


@settings(PROPERTY, max_examples=15)
@given(affine=affines(), dtype=st.sampled_from(["u1", "i2", "f4", "f8"]))
def test_nifti_2_and_pairs_are_read_as_nifti_1(tmp_path: Path, affine: np.ndarray, dtype: str) -> None:
    array = ramp(dtype)
    nibabel.Nifti1Image(array.T, affine).to_filename(tmp_path / "one.nii")
    nibabel.Nifti2Image(array.T, affine).to_filename(tmp_path / "two.nii.gz")
    nibabel.Nifti1Pair(array.T, affine).to_filename(tmp_path / "pair.img")
    nibabel.Nifti2Pair(array.T, affine).to_filename(tmp_path / "pair2.img")
    expected = io.read_volume(tmp_path / "one.nii")
    for name in ("two.nii.gz", "pair.hdr", "pair.img", "pair2.hdr"):
        volume = io.read_volume(tmp_path / name)
        assert volume.array.dtype == expected.array.dtype
        np.testing.assert_array_equal(volume.array, array)
        assert volume.geometry.is_close(expected.geometry, 1e-4)


def test_analyze_is_read_as_itk_reads_it_with_a_note(tmp_path: Path) -> None:
    nibabel.AnalyzeImage(ramp().T, RAS).to_filename(tmp_path / "scan.img")
    for name in ("scan.hdr", "scan.img"):
        assert_as_itk(tmp_path / name)
        (note,) = notes_of(tmp_path / name)
        assert "no position and no orientation" in note
    (tmp_path / "scan.img").unlink()
    with pytest.raises(FileNotFoundError, match=r"scan\.img does not exist"):
        io.read_volume(tmp_path / "scan.hdr")


CONTRADICTIONS = {
    "sform sheared": ({"srow": SHEARED[:3]}, "sform is empty or not orthogonal", "sform as it stands"),
    "sform empty": ({"srow": 0}, "sform is empty or not orthogonal", "sform as it stands"),
    "sform not a number": ({"srow": np.nan}, "sform is empty or not orthogonal", "sform as it stands"),
    "scanner sform moved": ({"srow": MOVED[:3]}, "23.3 mm apart", "take the qform"),
    "aligned sform moved": ({"srow": MOVED[:3], "sform_code": 2}, "23.3 mm apart", "sform as it stands"),
    "sform of unit steps": (
        {"srow": UNIT_STEPS[:3], "sform_code": 2, "qform_code": 0},
        "steps of 1x1x1 mm, its pixdim says 1.25x1.25x2.5 mm",
        "sform as it stands",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_header_that_contradicts_itself_is_read_as_itk_does_with_one_note(tmp_path: Path, name: str) -> None:
    fields, what, who_differs = CONTRADICTIONS[name]
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti_bytes(ramp(), RAS, **fields))
    if name != "sform not a number":  # of which ITK gives a grid that is none
        assert_as_itk(path)
    (note,) = notes_of(path)
    assert what in note
    assert f"programs that take the {who_differs.removeprefix('take the ')}" in note
    assert io.read_volume(path).geometry.spacing_mm == (2.5, 1.25, 1.25)


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd", ".mha"])
def test_the_mask_of_such_a_scan_overlays_it_in_itk(tmp_path: Path, name: str, ending: str) -> None:
    path, mask = tmp_path / "scan.nii", tmp_path / f"mask{ending}"
    path.write_bytes(nifti_bytes(ramp(), RAS, **CONTRADICTIONS[name][0]))
    scan = io.read_volume(path)
    io.write_volume(tmp_path / "mask.nrrd", scan.with_array(np.ones(SHAPE, np.uint8)))
    labels = io.read_labelmap(tmp_path / "mask.nrrd")
    if ending == ".seg.nrrd":
        io.write_segmentation(mask, Segmentation(labels, (make_label(1, "LA"),)))
    else:
        io.write_volume(mask, labels)
    image = sitk.ReadImage(str(mask))
    for index in [(0, 0, 0), (1, 2, 3)]:
        place = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place, scan.geometry.to_world(index), atol=1e-4)
    if ending == ".nii.gz":
        written = nibabel.load(mask)
        np.testing.assert_allclose(written.get_sform(), written.get_qform(), atol=1e-5)
        assert not notes_of(mask)


def test_the_published_acdc_files_have_the_voxel_size_of_their_pixdim(acdc_data: Path) -> None:
    path = acdc_data / "nifti" / "patient028" / "patient028_frame01.nii.gz"
    if not path.is_file():
        pytest.skip("needs ACDC's patient028 as NIfTI in shared/data/ACDC/nifti")
    assert io.read_volume(path).geometry.spacing_mm == pytest.approx((10, 1.5625, 1.5625))
    (note,) = notes_of(path)
    assert "steps of 1x1x1 mm, its pixdim says 1.56x1.56x10 mm" in note


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"qform_code": 0},
        {"sform_code": 0, "srow": 0},
        {"srow": RAS[:3] + 1e-3},  # a thousandth of a millimetre is how other tools round
    ],
)
def test_forms_that_agree_are_read_without_a_note(tmp_path: Path, fields: dict) -> None:
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(ramp(), RAS, **fields))
    assert not notes_of(tmp_path / "scan.nii")


def test_without_a_form_the_voxel_size_counts_and_a_note_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti_bytes(ramp(), RAS, qform_code=0, sform_code=0))
    assert_as_itk(path)
    (note,) = notes_of(path)
    assert "no position and no orientation" in note and "check left and right" in note


@pytest.mark.parametrize("pixdim", [(1, 0, 0, 0), (1, 1.25, np.nan, 2)])
def test_voxel_sizes_that_are_no_numbers_are_unknown(tmp_path: Path, pixdim: tuple[float, ...]) -> None:
    fields = {"qform_code": 0, "sform_code": 0, "pixdim": [*pixdim, 0, 0, 0, 0]}
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(ramp(), RAS, **fields))
    assert io.read_volume(tmp_path / "scan.nii").geometry.spacing_mm is None


def test_a_sform_that_is_no_grid_is_refused_where_there_is_no_qform(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(ramp(), RAS, srow=SHEARED[:3], qform_code=0))
    with pytest.raises(ValueError, match="not at right angles; resample it"):
        io.read_volume(tmp_path / "scan.nii")


def test_a_nifti_header_in_metres_or_micrometres_is_read_in_millimetres(tmp_path: Path) -> None:
    for units, factor in ((1, 1e-3), (3, 1e3)):
        affine = RAS * np.array([[factor], [factor], [factor], [1]])
        (tmp_path / "scan.nii").write_bytes(nifti_bytes(ramp(), affine, xyzt_units=units))
        assert io.read_volume(tmp_path / "scan.nii").geometry.spacing_mm == pytest.approx((2.5, 1.25, 1.25))
        assert not notes_of(tmp_path / "scan.nii")


def test_a_header_file_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(nifti_header(ramp(), RAS, magic=b"ni1").tobytes())
    with pytest.raises(ValueError, match="header without voxels"):
        io.read_volume(tmp_path / "scan.nii")


# NRRD


SPACES = ("right-anterior-superior", "RAS", "left-anterior-superior", "LAS", "Left-Posterior-Superior", "LPS")


@PROPERTY
@given(affine=affines(), space=st.sampled_from([*SPACES, "scanner-xyz", "3D-right-handed"]), big=st.booleans())
def test_nrrd_of_any_space_and_orientation_is_read_as_itk_reads_it(
    tmp_path: Path, affine: np.ndarray, space: str, big: bool
) -> None:
    vectors = [f"({','.join(repr(float(x)) for x in affine[:3, n])})" for n in (0, 1, 2, 3)]
    lines = [f"space: {space}", f"space directions: {' '.join(vectors[:3])}", f"space origin: {vectors[3]}"]
    lines += ["type: short", f"endian: {'big' if big else 'little'}"]
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text(*lines, data=ramp(">i2" if big else "<i2").tobytes()))
    assert_as_itk(tmp_path / "scan.nrrd", 1e-9)


@pytest.mark.parametrize(
    "lines",
    [
        ["spacings: 1.25 1.25 2.5"],
        ["spacings: 1.25 1.25 2.5", "axis mins: -40 -50 -30"],
        ["spacings: 1.25 1.25 2.5", "axis mins: -40 -50 -30", "centers: node node node"],
        ["spacings: -1.25 1.25 2.5"],
        ["space dimension: 3", "space directions: (0,2,0) (3,0,0) (0,0,4)", "space origin: (1,2,3)"],
        ["space: RAS", 'space units: "mm" "mm" "mm"', "space directions: (2,0,0) (0,3,0) (0,0,4)"],
    ],
)
def test_nrrd_spacings_and_axis_mins_are_read_as_itk_reads_them(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text(*lines, data=ramp("u1").tobytes()))
    assert_as_itk(tmp_path / "scan.nrrd", 1e-9)


@pytest.mark.parametrize("place", [0, 3])
def test_an_axis_of_components_may_come_first_or_last(tmp_path: Path, place: int) -> None:
    sizes, directions = ["4", "3", "2"], ["(2,0,0)", "(0,3,0)", "(0,0,4)"]
    kinds = ["domain"] * 3
    for words, word in ((sizes, "1"), (directions, "none"), (kinds, "list")):
        words.insert(place, word)
    lines = ["dimension: 4", f"sizes: {' '.join(sizes)}", "space: LPS", f"space directions: {' '.join(directions)}"]
    content = nrrd_text(*lines, f"kinds: {' '.join(kinds)}", data=ramp("u1").tobytes())
    (tmp_path / "scan.nrrd").write_bytes(content)
    read = io.read_volume(tmp_path / "scan.nrrd")
    np.testing.assert_array_equal(read.array, ramp("u1"))
    assert read.geometry.spacing_mm == (4, 3, 2)


# MetaImage


@PROPERTY
@given(affine=affines(), packed=st.booleans(), names=st.sampled_from(["usual", "old", "size"]))
def test_metaimage_of_any_orientation_is_read_as_itk_reads_it(
    tmp_path: Path, affine: np.ndarray, packed: bool, names: str
) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    matrix, offset, spacing = {
        "usual": ("TransformMatrix", "Offset", "ElementSpacing"),
        "old": ("Orientation", "Position", "ElementSpacing"),
        "size": ("Rotation", "Origin", "ElementSize"),
    }[names]
    numbers = {matrix: (affine[:3, :3] / sizes).T.ravel(), offset: affine[:3, 3], spacing: sizes}
    lines = [f"{name} = {' '.join(repr(float(x)) for x in values)}" for name, values in numbers.items()]
    data = zlib.compress(ramp().tobytes()) if packed else ramp().tobytes()
    lines += ["ElementType = MET_SHORT"]
    lines += ["CompressedData = True", f"CompressedDataSize = {len(data)}"] if packed else []
    content = metaimage_text(*lines, data=data)
    if names == "size":
        content = content.replace(b"ElementSpacing = 1 1 1\n", b"")
    (tmp_path / "scan.mha").write_bytes(content)
    assert_as_itk(tmp_path / "scan.mha", 1e-9)


@pytest.mark.parametrize("spacing", ["-1.25 -1.25 2.5", "1.25 1.25 -2.5"])
def test_a_negative_metaimage_spacing_mirrors_as_in_itk(tmp_path: Path, spacing: str) -> None:
    lines = [f"ElementSpacing = {spacing}", "Offset = 40 50 -30"]
    (tmp_path / "scan.mha").write_bytes(metaimage_text(*lines, data=ramp("u1").tobytes()))
    assert_as_itk(tmp_path / "scan.mha", 1e-9)


# The machine


def test_without_simpleitk_a_grid_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oblique_geometry: Geometry
) -> None:
    io.write_volume(tmp_path / "a.nrrd", Volume(np.zeros(oblique_geometry.shape, "u1"), oblique_geometry))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ModuleNotFoundError, match="SimpleITK is needed to read"):
        io.read_volume(tmp_path / "a.nrrd")


def test_itk_prints_nothing_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "temporary"  # its own, as other tests may run at the same time
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    for fields in (CONTRADICTIONS["sform of unit steps"][0], {"srow": SHEARED[:3], "qform_code": 0}):
        (tmp_path / "scan.nii").write_bytes(nifti_bytes(ramp(), RAS, **fields))
        with contextlib.suppress(ValueError):
            io.read_volume(tmp_path / "scan.nii")
    assert capfd.readouterr() == ("", "")
    assert not list(own.iterdir())
