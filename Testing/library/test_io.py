"""Files in and out: geometry to the voxel, in every format, against other readers; and what is refused."""

from __future__ import annotations

import bz2
import errno
import gzip
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import h5py
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from small_files import metaimage_text, nrrd_text

from mper import io
from mper.dicom.headers import read_header
from mper.labels import UNLABELLED, Code, Label, Segmentation, make_label
from mper.utils.files import rename_folder, write_atomically
from mper.volume import Geometry, Volume

ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha")
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
# Files are written anew for each example, so a folder that outlives the example does no harm.
PROPERTY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a blank and an umlaut in its name."""
    made = tmp_path / "Herz Vorhöfe"
    made.mkdir()
    return made


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Grids of any orientation and handedness, anywhere in a scanner."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    directions = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    if draw(st.booleans()):
        directions[:, 0] *= -1
    spacing = draw(st.tuples(*[st.floats(0.1, 12)] * 3))
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    return Geometry.from_axes(origin, spacing, directions, shape)


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    geometry = draw(geometries())
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    return Volume(draw(arrays.arrays(dtype, geometry.shape)), geometry)


def ramp(geometry: Geometry, dtype: str = "i2") -> Volume:
    """A volume in which every voxel differs from its neighbours."""
    return Volume(np.arange(np.prod(geometry.shape)).reshape(geometry.shape).astype(dtype), geometry)


def nifti_bytes(folder: Path, geometry: Geometry, **patches: tuple[int, str, Sequence[float]]) -> bytes:
    """A NIfTI file with parts of its header replaced: name=(byte offset, struct format, values)."""
    path = folder / "patched.nii"
    io.write_volume(path, ramp(geometry))
    content = bytearray(path.read_bytes())
    for offset, form, values in patches.values():
        struct.pack_into("<" + form, content, offset, *values)
    return bytes(content)


def one_line(path: Path) -> str:
    """The one line with which reading `path` is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        io.read_volume(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert path.name in message
    return message


# Round trips


@pytest.mark.parametrize("ending", ENDINGS)
@PROPERTY
@given(volume=volumes())
def test_round_trip_keeps_voxels_type_and_place(tmp_path: Path, ending: str, volume: Volume) -> None:
    path = tmp_path / f"volume{ending}"
    io.write_volume(path, volume)
    read = io.read_volume(path)
    assert read.array.dtype == volume.array.dtype
    # ITK takes what is not finite as 0, in NIfTI alone.
    expected = np.nan_to_num(volume.array, nan=0, posinf=0, neginf=0) if "nii" in ending else volume.array
    np.testing.assert_array_equal(read.array, expected)
    # NIfTI keeps 32-bit floats, whose steps at 500 mm are 3e-5 mm; the others keep every bit of a double.
    assert read.geometry.is_close(volume.geometry, 3e-4 if "nii" in ending else 1e-9)


@pytest.mark.parametrize("ending", ENDINGS)
def test_unknown_spacing_stays_unknown(folder: Path, ending: str) -> None:
    volume = ramp(Geometry.unknown((3, 4, 5)))
    io.write_volume(folder / f"volume{ending}", volume)
    read = io.read_volume(folder / f"volume{ending}")
    assert read.geometry.spacing_mm is None
    np.testing.assert_array_equal(read.array, volume.array)
    # Other programs see unit spacing along LPS.
    other = sitk.ReadImage(str(folder / f"volume{ending}"))
    assert other.GetSpacing() == (1, 1, 1)
    assert other.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_itk_agrees_on_every_voxel_and_its_place(
    folder: Path, oblique_geometry: Geometry, ending: str, mirrored: bool
) -> None:
    directions = oblique_geometry.directions * ([-1, 1, 1] if mirrored else [1, 1, 1])
    geometry = Geometry.from_axes(oblique_geometry.origin_mm, oblique_geometry.step_lengths, directions, (4, 5, 6))
    volume = ramp(geometry, "f4")
    path = folder / f"volume{ending}"
    io.write_volume(path, volume)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    for index in [(0, 0, 0), (3, 4, 5), (1, 0, 5)]:
        place = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place, geometry.to_world(index), atol=1e-4)
    for compressed in (False, True):
        sitk.WriteImage(image, str(path), useCompression=compressed)
        read = io.read_volume(path)
        assert read.geometry.is_close(geometry, 1e-4)
        np.testing.assert_array_equal(read.array, volume.array)


@pytest.mark.parametrize("mirrored", [False, True])
def test_nibabel_agrees_on_sform_and_qform(folder: Path, oblique_geometry: Geometry, mirrored: bool) -> None:
    nibabel = pytest.importorskip("nibabel", reason="compares with another reader: pip install nibabel")
    directions = oblique_geometry.directions * ([-1, 1, 1] if mirrored else [1, 1, 1])
    geometry = Geometry.from_axes((10, -20, 30), (2.5, 0.7, 0.9), directions, (4, 5, 6))
    io.write_volume(folder / "volume.nii.gz", ramp(geometry))
    image = nibabel.load(folder / "volume.nii.gz")
    place_ras = geometry.to_world((3, 1, 2)) * (-1, -1, 1)
    for affine in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose((affine @ (2, 1, 3, 1))[:3], place_ras, atol=1e-4)
    assert np.asarray(image.dataobj)[2, 1, 3] == ramp(geometry).array[3, 1, 2]


def test_big_endian_files_are_read(folder: Path, oblique_geometry: Geometry) -> None:
    nibabel = pytest.importorskip("nibabel", reason="writes the big-endian file: pip install nibabel")
    values = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype("i2")
    nibabel.save(nibabel.Nifti1Image(values.T, np.diag([2, 3, 4, 1]), header), folder / "big.nii")
    big = {
        "big.nrrd": nrrd_text("type: short", "endian: big", data=values.tobytes()),
        "big.mha": metaimage_text("ElementType = MET_SHORT", "BinaryDataByteOrderMSB = True", data=values.tobytes()),
    }
    for name, content in big.items():
        (folder / name).write_bytes(content)
    for name in ("big.nii", *big):
        read = io.read_volume(folder / name).array
        np.testing.assert_array_equal(read, values)
        assert read.dtype == np.dtype("i2")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
def test_nrrd_encodings_and_detached_data(folder: Path, encoding: str) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    text = " ".join(str(value) for value in values.ravel()).encode()
    packed = {
        "raw": values.tobytes(),
        "gzip": gzip.compress(values.tobytes()),
        "bzip2": bz2.compress(values.tobytes()),
        "ascii": text,
    }
    data = packed[encoding]
    (folder / "whole.nrrd").write_bytes(nrrd_text(f"encoding: {encoding}", data=data))
    (folder / "head.nhdr").write_bytes(nrrd_text(f"encoding: {encoding}", "data file: voxels.bin", data=b""))
    (folder / "voxels.bin").write_bytes(data)
    np.testing.assert_array_equal(io.read_volume(folder / "whole.nrrd").array, values)
    np.testing.assert_array_equal(io.read_volume(folder / "head.nhdr").array, values)
    (folder / "voxels.bin").unlink()
    assert "voxels.bin" in one_line(folder / "head.nhdr")


def test_a_data_file_elsewhere_is_not_followed(folder: Path) -> None:
    (folder.parent / "voxels.bin").write_bytes(bytes(24))
    for name in ("../voxels.bin", str(folder.parent / "voxels.bin")):
        (folder / "head.nhdr").write_bytes(nrrd_text(f"data file: {name}", data=b""))
        assert "not one file in the header's folder" in one_line(folder / "head.nhdr")


def test_metaimage_with_a_data_file_is_read(folder: Path, oblique_geometry: Geometry) -> None:
    io.write_volume(folder / "a.mha", ramp(oblique_geometry))
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.mha")), str(folder / "b.mhd"), useCompression=True)
    read = io.read_volume(folder / "b.mhd")
    np.testing.assert_array_equal(read.array, ramp(oblique_geometry).array)
    assert read.geometry.is_close(oblique_geometry, 1e-6)


def test_truth_values_and_half_floats_are_widened(folder: Path, oblique_geometry: Geometry) -> None:
    for dtype, expected in (("?", "u1"), ("f2", "f4"), (">i4", "i4")):
        volume = ramp(oblique_geometry, dtype)
        io.write_volume(folder / "a.nrrd", volume)
        read = io.read_volume(folder / "a.nrrd").array
        assert read.dtype == np.dtype(expected)
        np.testing.assert_array_equal(read, volume.array.astype(expected))


def test_the_same_volume_gives_the_same_bytes(folder: Path, oblique_geometry: Geometry) -> None:
    for ending in ENDINGS:
        io.write_volume(folder / f"a{ending}", ramp(oblique_geometry))
        io.write_volume(folder / f"b{ending}", ramp(oblique_geometry))
        assert (folder / f"a{ending}").read_bytes() == (folder / f"b{ending}").read_bytes()


# Masks


@pytest.fixture
def segmentation(oblique_geometry: Geometry) -> Segmentation:
    """Three labels, one of them without voxels and code, and unlabelled voxels."""
    array = np.zeros(oblique_geometry.shape, np.uint8)
    array[1:5, 4:9, 3:8] = 1
    array[4:8, 10:12, 1:3] = 7
    array[-1] = UNLABELLED
    labels = (make_label(1, "LA"), Label(3, "größer = ü|x", colour=(1, 2, 255)), make_label(7, "Scar"))
    return Segmentation(Volume(array, oblique_geometry), labels)


def test_seg_nrrd_keeps_voxels_names_colours_and_codes(folder: Path, segmentation: Segmentation) -> None:
    path = folder / "mask.seg.nrrd"
    io.write_segmentation(path, segmentation)
    read = io.read_segmentation(path)
    np.testing.assert_array_equal(read.labelmap.array, segmentation.labelmap.array)
    assert read.labels == segmentation.labels
    assert read.labelmap.geometry.is_close(segmentation.labelmap.geometry, 1e-9)
    np.testing.assert_array_equal(io.read_labelmap(path).array, segmentation.labelmap.array)
    # Any other reader sees a plain label image.
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), segmentation.labelmap.array)


@PROPERTY
@given(array=arrays.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 254, 255])))
def test_every_mask_survives_seg_nrrd(tmp_path: Path, array: np.ndarray) -> None:
    labels = (Label(1, "one"), Label(2, "two"), Label(254, "last"))
    path = tmp_path / "mask.seg.nrrd"
    io.write_segmentation(path, Segmentation(Volume(array, Geometry.unknown(array.shape)), labels))
    read = io.read_segmentation(path)
    np.testing.assert_array_equal(read.labelmap.array, array)
    assert read.labels == labels
    assert not read.labelmap.geometry.spacing_known


def test_slicer_reads_and_rewrites_the_same_segmentation(folder: Path, segmentation: Segmentation) -> None:
    slicer = pytest.importorskip("slicer", reason="needs 3D Slicer's own code: pip install slicer-core")
    path = folder / "mask.seg.nrrd"
    io.write_segmentation(path, segmentation)
    scene, node = slicer.vtkMRMLScene(), slicer.vtkMRMLSegmentationNode()
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    names = [node.GetSegmentation().GetNthSegment(n).GetName() for n in range(4)]
    assert names == ["LA", "größer = ü|x", "Scar", "unlabelled"]
    storage.SetFileName(str(folder / "slicer.seg.nrrd"))
    assert storage.WriteData(node)
    read = io.read_segmentation(folder / "slicer.seg.nrrd")
    assert read.labels == segmentation.labels
    assert read.labelmap.geometry.is_close(segmentation.labelmap.geometry, 1e-6)
    np.testing.assert_array_equal(read.labelmap.array, segmentation.labelmap.array)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_mask_in_a_plain_format_is_its_numbers(folder: Path, segmentation: Segmentation, ending: str) -> None:
    io.write_segmentation(folder / f"mask{ending}", segmentation)
    read = io.read_labelmap(folder / f"mask{ending}")
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, segmentation.labelmap.array)
    if ending == ".nrrd":
        with pytest.raises(ValueError, match="plain mask without names"):
            io.read_segmentation(folder / "mask.nrrd")


def layered(*layers: np.ndarray, keys: Sequence[str]) -> bytes:
    """A .seg.nrrd of several layers, as Slicer writes it: the list axis is the fastest."""
    stack = np.stack(layers, axis=-1).astype(np.uint8)
    sizes = " ".join(str(n) for n in stack.shape[::-1])
    fields = ["dimension: 4", f"sizes: {sizes}", "space: left-posterior-superior", "kinds: list domain domain domain"]
    directions = "space directions: none (1,0,0) (0,1,0) (0,0,1)"
    return nrrd_text(*fields, directions, *keys, data=stack.tobytes())


def test_layers_that_do_not_overlap_become_one_mask(folder: Path) -> None:
    first, second = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    first[0], second[1] = 1, 1
    keys = ["Segment0_ID:=a", "Segment0_Name:=A", "Segment0_LabelValue:=1", "Segment0_Layer:=0"]
    keys += ["Segment1_ID:=b", "Segment1_Name:=A", "Segment1_LabelValue:=1", "Segment1_Layer:=1"]
    (folder / "two.seg.nrrd").write_bytes(layered(first, second, keys=keys))
    read = io.read_segmentation(folder / "two.seg.nrrd")
    assert [(label.value, label.name) for label in read.labels] == [(1, "A"), (2, "A (1)")]
    np.testing.assert_array_equal(read.labelmap.array, first + 2 * second)


def test_files_of_older_slicers_have_one_layer_a_segment(folder: Path) -> None:
    first, second = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    first[0], second[1] = 1, 1
    content = layered(first, second, keys=["Segment0_ID:=a", "Segment1_ID:=b", "Segment1_Color:=1 0 0.5"])
    (folder / "old.seg.nrrd").write_bytes(content)
    read = io.read_segmentation(folder / "old.seg.nrrd")
    assert [label.name for label in read.labels] == ["a", "b"]
    assert read.labels[1].colour == (255, 0, 128)
    np.testing.assert_array_equal(read.labelmap.array, first + 2 * second)


def test_overlapping_segments_are_refused_by_name(folder: Path) -> None:
    first, second = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    first[0], second[0, 0] = 1, 1
    content = layered(first, second, keys=["Segment0_ID:=left", "Segment1_ID:=right"])
    (folder / "two.seg.nrrd").write_bytes(content)
    with pytest.raises(ValueError, match="'left' and 'right' overlap in 4 voxels"):
        io.read_labelmap(folder / "two.seg.nrrd")


def test_a_layer_that_the_file_lacks_and_a_file_without_segments_are_refused(folder: Path) -> None:
    path = folder / "bad.seg.nrrd"
    path.write_bytes(nrrd_text("Segment0_ID:=a", "Segment0_Layer:=3"))
    with pytest.raises(ValueError, match="Layer is 3, the file has 1"):
        io.read_segmentation(path)
    path.write_bytes(nrrd_text("Segment0_ID:=a", "Segment0_Color:=red"))
    with pytest.raises(ValueError, match="not a number"):
        io.read_segmentation(path)
    path.write_bytes(nrrd_text("Segmentation_MasterRepresentation:=Binary labelmap"))
    with pytest.raises(ValueError, match="no segments"):
        io.read_segmentation(path)


def test_names_and_codes_that_the_file_cannot_hold_are_refused(folder: Path, oblique_geometry: Geometry) -> None:
    empty = Volume(np.zeros(oblique_geometry.shape, np.uint8), oblique_geometry)
    label = Label(1, "a", Code("SCT", "1", "one"), Code("SCT", "2", "two^three"))
    with pytest.raises(ValueError, match="separate codes"):
        io.write_segmentation(folder / "a.seg.nrrd", Segmentation(empty, (label,)))
    with pytest.raises(ValueError, match="stands for the value 255"):
        io.write_segmentation(folder / "a.seg.nrrd", Segmentation(empty, (Label(1, "Unlabelled"),)))
    assert not list(folder.iterdir())


@pytest.mark.parametrize("value", [256, -1, 0.5, np.nan])
def test_values_that_no_mask_has_are_refused(folder: Path, oblique_geometry: Geometry, value: float) -> None:
    array = np.zeros(oblique_geometry.shape)
    array[0, 0, 0] = value
    io.write_volume(folder / "a.nrrd", Volume(array, oblique_geometry))
    with pytest.raises(ValueError, match="is not a mask"):
        io.read_labelmap(folder / "a.nrrd")


def test_whole_numbers_of_any_type_are_a_mask(folder: Path, oblique_geometry: Geometry) -> None:
    for dtype in DTYPES:
        array = np.zeros(oblique_geometry.shape, dtype)
        array[1, 2, 3] = 3
        io.write_volume(folder / "a.nrrd", Volume(array, oblique_geometry))
        read = io.read_labelmap(folder / "a.nrrd").array
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, array)


# The h5 files of the literature


def test_la_h5_lies_like_the_challenge_file_voxel_by_voxel(la_data: Path) -> None:
    path = next((la_data / "h5").glob("*/mri_norm2.h5"))
    original = io.read_volume(la_data / path.parent.name / "lgemri.nrrd")
    volume = io.read_volume(path)
    assert volume.geometry.shape == original.geometry.shape
    assert volume.geometry.spacing_mm is None
    assert volume.array.dtype == np.float32
    # z-scored before publication: an affine map of the original's integers, voxel for voxel.
    slope, offset = np.polyfit(original.array.ravel(), volume.array.ravel().astype(np.float64), 1)
    np.testing.assert_allclose(original.array * slope + offset, volume.array, atol=1e-5)
    mask = io.read_labelmap(la_data / path.parent.name / "laendo.nrrd")
    np.testing.assert_array_equal(io.read_labelmap(path).array, mask.array // 255)


def test_acdc_h5_is_read_slice_by_slice(acdc_data: Path) -> None:
    path = sorted((acdc_data / "volumes").glob("*.h5"))[0]
    read = io.read_h5(path)
    with h5py.File(path) as file:
        for name in ("image", "label", "scribble"):
            np.testing.assert_array_equal(read[name].array, file[name][()])
    assert read["image"].geometry.spacing_mm is None


@pytest.mark.parametrize(
    ("shape", "names", "slices_first"),
    [
        ((9, 8, 5), ("image", "label"), False),
        ((5, 8, 9), ("image", "label"), True),
        ((9, 8, 5), ("image", "label", "scribble"), True),
        ((8, 8, 8), ("image", "label"), False),
    ],
)
def test_h5_layouts_are_told_apart(
    folder: Path, shape: tuple[int, ...], names: Sequence[str], slices_first: bool
) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    with h5py.File(folder / "a.h5", "w") as file:
        for name in names:
            file[name] = values
    read = io.read_h5(folder / "a.h5")
    assert set(read) == set(names)
    np.testing.assert_array_equal(read["image"].array, values if slices_first else values.T)
    assert read["image"].geometry.shape == read["image"].array.shape


def test_h5_without_volume_or_label_is_refused_with_what_it_holds(folder: Path) -> None:
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        file["slice"] = np.zeros((3, 4))
    assert "slice (3, 4)" in one_line(path)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = np.zeros((3, 4, 5)), np.zeros((3, 4, 6))
    assert "different shapes" in one_line(path)
    with h5py.File(path, "w") as file:
        file["label"] = np.zeros((3, 4, 5))
    assert "no dataset 'image'" in one_line(path)
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((3, 4, 5))
    with pytest.raises(ValueError, match="no dataset 'label'"):
        io.read_labelmap(path)


# What is refused


def contents(folder: Path) -> dict[str, bytes]:
    """A good file of every format."""
    geometry = Geometry.from_axes((1, 2, 3), (2, 0.5, 0.7), np.eye(3)[:, ::-1], (4, 5, 6))
    volume = ramp(geometry)
    for ending in ENDINGS:
        io.write_volume(folder / f"good{ending}", volume)
    mask = volume.with_array((volume.array > 50).astype("u1"))
    io.write_segmentation(folder / "good.seg.nrrd", Segmentation(mask, (make_label(1, "LA"),)))
    sitk.WriteImage(sitk.GetImageFromArray(volume.array), str(folder / "raw.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(volume.array), str(folder / "raw.mha"))
    with h5py.File(folder / "good.h5", "w") as file:
        file["image"] = volume.array.astype("f4")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(tmp_path_factory.mktemp("good"))


NAMES = ("good.nrrd", "good.seg.nrrd", "raw.nrrd", "good.nii", "good.nii.gz", "good.mha", "raw.mha", "good.h5")


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(data=st.data())
def test_a_truncated_file_is_refused_in_one_line(
    tmp_path: Path, good: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    path = tmp_path / name
    path.write_bytes(good[name])
    whole = io.read_volume(path)
    keep = data.draw(st.integers(0, len(good[name]) - 1))
    path.write_bytes(good[name][:keep])
    try:
        read = io.read_volume(path)
    except (ValueError, FileNotFoundError) as error:  # the name of a data file may be what was cut
        assert len(str(error).splitlines()) == 1
        assert name in str(error)
    else:  # what is missing was no voxel
        np.testing.assert_array_equal(read.array, whole.array)
        assert read.geometry.is_close(whole.geometry)


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    tmp_path: Path, good: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    content = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.sampled_from(b"\x00\xff 9-\n("))
    path = tmp_path / name
    path.write_bytes(bytes(content))
    for read in (io.read_volume, io.read_labelmap):
        try:
            read(path)
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error).splitlines()) == 1


def test_every_truncation_in_the_voxels_is_noticed(tmp_path: Path, good: dict[str, bytes]) -> None:
    for name in ("good.nrrd", "raw.nrrd", "good.nii", "good.nii.gz", "good.mha", "raw.mha"):
        path = tmp_path / name
        for missing in (10, 50, 100):
            path.write_bytes(good[name][:-missing])
            assert "truncated" in one_line(path)


@pytest.mark.parametrize("name", ["good.nrrd", "good.nii.gz", "good.mha"])
def test_a_changed_byte_in_compressed_voxels_is_noticed(tmp_path: Path, good: dict[str, bytes], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(good[name])
    whole = io.read_volume(path).array
    start = {"good.nrrd": good[name].find(b"\n\n") + 2, "good.nii.gz": 0, "good.mha": good[name].find(b"LOCAL\n") + 6}
    for place in range(start[name], len(good[name])):
        content = bytearray(good[name])
        content[place] ^= 0x55
        path.write_bytes(bytes(content))
        try:
            read = io.read_volume(path).array
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
        else:  # a time stamp and such: no voxel may change
            np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize("ending", [*ENDINGS, ".h5", ".nhdr", ".mhd", ".txt", ""])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 1000, "Grüße\n".encode() * 100])
def test_a_file_of_something_else_is_refused_in_one_line(folder: Path, ending: str, content: bytes) -> None:
    path = folder / f"notes{ending}"
    path.write_bytes(content)
    one_line(path)


def test_a_missing_file_is_told(folder: Path) -> None:
    for name in ("no.nrrd", "no.nii.gz", "no.mha", "no.h5", "no.dcm", "no"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            io.read_volume(folder / name)


def test_grids_that_are_no_volume_are_refused(folder: Path, oblique_geometry: Geometry) -> None:
    lps = "space: left-posterior-superior"
    turned = "space directions: (1,0,0) (0.5,1,0) (0,0,1)"
    flat = nifti_bytes(folder, oblique_geometry, dim=(40, "8h", [2, 26, 30, 1, 1, 1, 1, 1]))
    movie = nifti_bytes(folder, oblique_geometry, dim=(40, "8h", [4, 26, 30, 6, 2, 1, 1, 1]))
    cases = {
        "2-D": {
            "a.nrrd": nrrd_text("dimension: 2", "sizes: 6 4"),
            "a.nii": flat,
            "a.mha": metaimage_text("NDims = 2", "DimSize = 6 4", "ElementSpacing = 1 1"),
        },
        "4-D": {
            "a.nrrd": nrrd_text("dimension: 4", "sizes: 2 3 2 2"),
            "a.nii": movie,
            "a.mha": metaimage_text("NDims = 4", "DimSize = 2 3 2 2", "ElementSpacing = 1 1 1 1"),
        },
        "spacing must be above zero": {
            "a.nrrd": nrrd_text(lps, "space directions: (0,0,0) (0,1,0) (0,0,1)"),
            "a.mha": metaimage_text("ElementSpacing = 0 1 1"),
        },
        "not at right angles": {
            "a.nrrd": nrrd_text(lps, turned),
            "a.mha": metaimage_text("TransformMatrix = 1 0 0 0.5 1 0 0 0 1"),
        },
        "leave out an axis": {"a.nrrd": nrrd_text(lps, "space directions: (nan,0,0) (0,1,0) (0,0,1)")},
        "finite": {
            "a.mha": metaimage_text("ElementSpacing = nan 1 1"),
        },
    }
    for expected, files in cases.items():
        for name, content in files.items():
            (folder / name).write_bytes(content)
            assert expected in one_line(folder / name)


def test_four_dimensions_of_which_one_is_one_are_a_volume(folder: Path, oblique_geometry: Geometry) -> None:
    (folder / "a.nrrd").write_bytes(nrrd_text("dimension: 4", "sizes: 4 3 2 1"))
    (folder / "a.mha").write_bytes(metaimage_text("NDims = 4", "DimSize = 4 3 2 1", "ElementSpacing = 1 1 1 1"))
    content = nifti_bytes(folder, oblique_geometry, dim=(40, "8h", [4, 26, 30, 12, 1, 1, 1, 1]))
    (folder / "a.nii").write_bytes(content)
    assert io.read_volume(folder / "a.nrrd").array.shape == (2, 3, 4)
    assert io.read_volume(folder / "a.mha").array.shape == (2, 3, 4)
    np.testing.assert_array_equal(io.read_volume(folder / "a.nii").array, ramp(oblique_geometry).array)


def test_voxels_that_are_not_real_numbers_are_refused(folder: Path, oblique_geometry: Geometry) -> None:
    directions = "space directions: none (1,0,0) (0,1,0) (0,0,1)"
    lines = ["dimension: 4", "sizes: 3 2 2 2", "space: RAS", directions, "kinds: RGB-color domain domain domain"]
    (folder / "rgb.nrrd").write_bytes(nrrd_text(*lines))
    assert "3 values (rgb-color)" in one_line(folder / "rgb.nrrd")
    (folder / "block.nrrd").write_bytes(nrrd_text("type: block"))
    assert "'block'" in one_line(folder / "block.nrrd")
    for name, number in (("colours", 128), ("complex", 32), ("type 9999", 9999)):
        (folder / "a.nii").write_bytes(nifti_bytes(folder, oblique_geometry, datatype=(70, "h", [number])))
        assert name in one_line(folder / "a.nii")
    (folder / "rgb.mha").write_bytes(metaimage_text("ElementNumberOfChannels = 3", "DimSize = 2 2 2"))
    assert "colours" in one_line(folder / "rgb.mha")


def test_absurd_sizes_are_refused_before_memory_is_filled(folder: Path) -> None:
    (folder / "a.nrrd").write_bytes(nrrd_text("sizes: 9000000 9000000 9000000"))
    (folder / "a.mha").write_bytes(metaimage_text("DimSize = 9000000 9000000 9000000"))
    for name in ("a.nrrd", "a.mha"):
        assert "more than fits in memory" in one_line(folder / name)


# Writing


def test_a_failed_write_leaves_what_was_there(
    folder: Path, oblique_geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for ending in ENDINGS:
        path = folder / f"a{ending}"
        path.write_bytes(b"before")
        with monkeypatch.context() as patch:
            patch.setattr("mper.utils.files.os.fsync", full)
            with pytest.raises(OSError, match=r"cannot write .*No space left") as caught:
                io.write_volume(path, ramp(oblique_geometry))
        assert caught.value.errno == errno.ENOSPC
        assert len(str(caught.value).splitlines()) == 1
        assert path.read_bytes() == b"before"
    assert len(list(folder.iterdir())) == len(ENDINGS)


@pytest.mark.parametrize("refusals", [2, 3])
def test_a_file_that_somebody_reads_is_replaced_when_they_have_read_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """Windows refuses to rename onto an open file; in three attempts here."""
    path, replace, left = folder / "checkpoint", Path.replace, [PermissionError(13, "in use")] * refusals

    def renamed(source: Path, target: Path) -> Path:
        if left:
            raise left.pop()
        return replace(source, target)

    path.write_bytes(b"before")
    monkeypatch.setattr("mper.utils.files._ATTEMPTS", 3)
    monkeypatch.setattr(Path, "replace", renamed)
    if refusals < 3:
        write_atomically(path, [b"after"])
    else:
        with pytest.raises(PermissionError, match="in use"):
            write_atomically(path, [b"after"])
    assert path.read_bytes() == (b"after" if refusals < 3 else b"before")
    assert [entry.name for entry in folder.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("case", ["read for a moment", "read on", "taken meanwhile"])
def test_a_folder_in_which_a_scanner_reads_is_renamed_when_it_has_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Windows refuses to rename a folder with an open file: a virus scanner reads each new one."""
    unfinished, target, rename, refused = folder / "unfinished", folder / "1", Path.rename, []

    def renamed(source: Path, name: Path) -> Path:
        if len(refused) < 2 or case != "read for a moment":
            refused.append(name)
            if len(refused) == 2 and case == "taken meanwhile":
                name.mkdir()
            raise PermissionError(13, "in use")
        return rename(source, name)

    unfinished.mkdir()
    monkeypatch.setattr("mper.utils.files._FOLDER_S", 0.2 if case == "read on" else 60.0)
    monkeypatch.setattr(Path, "rename", renamed)
    if case == "read on":
        with pytest.raises(PermissionError, match="in use"):
            rename_folder(unfinished, target)
        assert len(refused) > 1
    else:
        assert rename_folder(unfinished, target) == (case == "read for a moment")
        assert len(refused) == 2
    assert unfinished.exists() == (case != "read for a moment")


def test_a_place_that_cannot_be_written_is_told_in_one_line(folder: Path, oblique_geometry: Geometry) -> None:
    volume = ramp(oblique_geometry)
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        io.write_volume(folder / "missing" / "a.nrrd", volume)
    (folder / "a.nrrd").mkdir()
    with pytest.raises(IsADirectoryError, match="in the way"):
        io.write_volume(folder / "a.nrrd", volume)
    for name in ("a.xyz", "a", "a.nhdr", "a.h5"):
        with pytest.raises(ValueError, match=r"must end in \.nrrd"):
            io.write_volume(folder / name, volume)
    with pytest.raises(ValueError, match="which has names"):
        io.write_volume(folder / "a.seg.nrrd", volume)
    with pytest.raises(ValueError, match="complex64"):
        io.write_volume(folder / "b.nrrd", volume.with_array(volume.array.astype("c8")))
    with pytest.raises(ValueError, match="at most 32767"):
        io.write_volume(folder / "b.nii", ramp(Geometry.unknown((1, 1, 40000))))
    assert [path.name for path in folder.iterdir()] == ["a.nrrd"]


def test_a_folder_without_permission_is_told(folder: Path, oblique_geometry: Geometry) -> None:
    folder.chmod(0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        with pytest.raises(PermissionError, match="cannot write"):
            io.write_volume(folder / "a.nrrd", ramp(oblique_geometry))
    else:
        pytest.skip("this user may write everywhere")
    finally:
        folder.chmod(0o700)


# Scans


def test_a_scan_that_can_be_segmented_passes(oblique_geometry: Geometry) -> None:
    io.check_scan(ramp(oblique_geometry))
    io.check_scan(ramp(Geometry.unknown((2, 3, 4)), "f4"))


def test_scans_that_cannot_be_segmented_are_refused_with_the_reason(oblique_geometry: Geometry) -> None:
    bad = ramp(oblique_geometry, "f4")
    bad.array[0, 0, :3] = [np.nan, np.inf, -np.inf]
    with pytest.raises(ValueError, match="3 of 9360 voxels that are NaN or infinite"):
        io.check_scan(bad)
    beyond = ramp(oblique_geometry, "f8")
    beyond.array[0, 0, :2] = [1e300, -1e300]  # such as numbers of the other byte order
    with pytest.raises(ValueError, match="2 of 9360 voxels that are NaN or infinite"):
        io.check_scan(beyond)
    with pytest.raises(ValueError, match="every voxel is 5"):
        io.check_scan(Volume(np.full((3, 4, 5), 5), Geometry.unknown((3, 4, 5))))
    with pytest.raises(ValueError, match="single slice"):
        io.check_scan(ramp(Geometry.unknown((1, 4, 5))))
    with pytest.raises(ValueError, match="3000 voxels along axis k"):
        io.check_scan(ramp(Geometry.unknown((3000, 2, 2))))


def test_what_cannot_be_read_below_a_folder_is_left_out_and_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lost+found", "series", "theirs", ".Trashes"):
        (folder / name).mkdir()
        (folder / name / "IM1").write_bytes(bytes(128) + b"DICM")
    iterdir, opened = Path.iterdir, Path.open

    def refuse(path: Path) -> None:
        if "lost+found" in path.parts or path.parent.name == "theirs":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", lambda path: (refuse(path), iterdir(path))[1])
    monkeypatch.setattr(Path, "open", lambda path, *how, **more: (refuse(path), opened(path, *how, **more))[1])
    told: list[str] = []
    assert io.find_scans([folder], told.append) == [folder / "series"]
    assert told == [f"left out {folder / 'lost+found'}: permission denied"]
    with pytest.raises(PermissionError):
        io.find_scans([folder / "lost+found"])
    assert "permission denied" in read_header(folder / "theirs" / "IM1").damage  # type: ignore[union-attr,operator]


def test_find_scans_expands_globs_and_folders_once(folder: Path, oblique_geometry: Geometry) -> None:
    for name in ("b.nrrd", "a.nii.gz", "c.mha", "a.seg.nrrd"):
        (folder / name).write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    (folder / "series" / "deep").mkdir(parents=True)
    (folder / "series" / "deep" / "IM1").write_bytes(bytes(128) + b"DICM")
    (folder / "empty").mkdir()
    expected = [folder / "a.nii.gz", folder / "b.nrrd", folder / "c.mha", folder / "series" / "deep"]
    assert io.find_scans([folder]) == expected
    assert io.find_scans([folder / "*.nrrd"]) == [folder / "a.seg.nrrd", folder / "b.nrrd"]
    assert io.find_scans([folder / "c.mha", folder]) == [folder / "c.mha", *expected[:2], expected[3]]
    assert io.find_scans([folder / "series" / "deep"]) == [folder / "series" / "deep"]
    assert io.find_scans([folder / "**" / "IM*"]) == [folder / "series" / "deep" / "IM1"]
    for missing, told in ((folder / "no.nrrd", "does not exist"), (folder / "*.nii", "nothing matches")):
        with pytest.raises(FileNotFoundError, match=told):
            io.find_scans([missing])
    with pytest.raises(FileNotFoundError, match="holds no scan"):
        io.find_scans([folder / "empty"])


def test_a_file_whose_name_looks_like_a_glob_is_itself(folder: Path) -> None:
    (folder / "scan [1].nrrd").write_bytes(b"")
    assert io.find_scans([folder / "scan [1].nrrd"]) == [folder / "scan [1].nrrd"]
