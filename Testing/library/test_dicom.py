"""DICOM series, made here with pydicom: read to the voxel in any order and form, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1, RLELossless
from small_series import Change, item, set_pixels, stack, write_classic, write_enhanced

from mper import io
from mper.dicom import series as dicom
from mper.volume import Geometry, Volume

PUBLIC = Path(pydicom.data.__file__).parent / "test_files"
PROPERTY = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(read: Volume, expected: Volume) -> None:
    assert read.geometry.is_close(expected.geometry, 1e-5)
    np.testing.assert_array_equal(read.array, expected.array)


def refusal(path: Path, series_uid: str | None = None) -> str:
    """The one line with which the series is refused."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        dicom.read_series(path, series_uid)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# What is read


def test_a_classic_series_is_sorted_by_position_and_lies_where_it_was(tmp_path: Path) -> None:
    volume = stack()
    uid = write_classic(tmp_path / "Müller, Änne", volume)
    series = dicom.read_series(tmp_path / "Müller, Änne", uid)
    assert_same(series.volume, volume)
    assert series.volume.array.dtype == np.int16
    assert_same(io.read_volume(tmp_path / "Müller, Änne"), volume)


def test_each_slice_names_its_source_image(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path, volume)
    series = dicom.read_series(tmp_path)
    assert series.frames == tuple((k, 0) for k in range(6))
    for k, (image, path) in enumerate(zip(series.instances, series.paths, strict=True)):
        np.testing.assert_allclose(np.array(image.ImagePositionPatient, float), volume.geometry.to_world((k, 0, 0)))
        assert "PixelData" not in image
        stored = pydicom.dcmread(path)
        assert stored.SOPInstanceUID == image.SOPInstanceUID
        np.testing.assert_array_equal(stored.pixel_array, series.volume.array[k])


def test_a_stack_written_against_its_normal_is_turned_and_keeps_every_voxels_place(tmp_path: Path) -> None:
    volume = stack()
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_world((5, 0, 0))
    affine[:3, 0] *= -1
    write_classic(tmp_path, Volume(volume.array[::-1], Geometry(affine, volume.geometry.shape)))
    assert_same(dicom.read_series(tmp_path).volume, volume)


def test_an_enhanced_file_is_read_like_a_classic_series(tmp_path: Path) -> None:
    volume = stack()
    write_enhanced(tmp_path / "enhanced.dcm", volume)
    expected = volume.with_array(volume.array * 2 - 100)
    for path in (tmp_path, tmp_path / "enhanced.dcm"):
        series = dicom.read_series(path)
        assert_same(series.volume, expected)
        assert series.volume.array.dtype == np.int16
        assert len(series.instances) == 1
        groups = series.instances[0].PerFrameFunctionalGroupsSequence
        numbers = [groups[frame].FrameContentSequence[0].InStackPositionNumber for _, frame in series.frames]
        assert numbers == [1, 2, 3, 4, 5, 6]


@PROPERTY
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), slices=st.integers(2, 5), enhanced=st.booleans())
def test_any_orientation_is_kept(
    tmp_path_factory: pytest.TempPathFactory, angles: Sequence[float], slices: int, enhanced: bool
) -> None:
    folder = tmp_path_factory.mktemp("series")
    volume = stack((slices, 3, 2), angles)
    if enhanced:
        write_enhanced(folder / "a", volume)
        volume = volume.with_array(volume.array * 2 - 100)
    else:
        write_classic(folder, volume)
    assert_same(dicom.read_series(folder).volume, volume)


@PROPERTY
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), slices=st.integers(2, 5))
def test_voxels_and_geometry_are_those_of_highdicom(
    tmp_path_factory: pytest.TempPathFactory, angles: Sequence[float], slices: int
) -> None:
    folder, volume = tmp_path_factory.mktemp("series"), stack((slices, 3, 2), angles)
    write_classic(folder / "classic", volume)
    write_enhanced(folder / "enhanced", volume)
    images = [pydicom.dcmread(path) for path in (folder / "classic").iterdir()]
    for path, other in (
        (folder / "classic", highdicom.get_volume_from_series(images)),
        (folder / "enhanced", highdicom.imread(folder / "enhanced").get_volume()),
    ):
        read, turned = dicom.read_series(path).volume, other.flip_spatial(0)  # it counts slices the other way than ITK
        np.testing.assert_array_equal(read.array, turned.array)
        np.testing.assert_allclose(read.geometry.affine, turned.affine, atol=1e-6)


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_voxels_and_geometry_are_those_of_simpleitk(tmp_path: Path, decimals: int) -> None:
    def rounded(_: int, image: Dataset) -> None:
        image.ImagePositionPatient = [f"{float(value):.{decimals}f}" for value in image.ImagePositionPatient]

    write_classic(tmp_path, stack(), rounded)
    read, other = dicom.read_series(tmp_path).volume, by_simpleitk(tmp_path)
    np.testing.assert_array_equal(read.array, sitk.GetArrayFromImage(other))
    for own, its in zip(read.geometry.itk, (other.GetOrigin(), other.GetSpacing(), other.GetDirection()), strict=True):
        np.testing.assert_allclose(own, its, atol=2e-3 if decimals < 9 else 1e-6)


def by_simpleitk(folder: Path) -> sitk.Image:
    """The series as SimpleITK reads it, which 3D Slicer does too."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def test_compressed_slices_are_read(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path, volume, lambda _, image: image.compress(RLELossless))
    stored = pydicom.dcmread(next(tmp_path.iterdir()))
    assert stored.file_meta.TransferSyntaxUID == RLELossless
    assert_same(dicom.read_series(tmp_path).volume, volume)


def test_slices_in_lossless_jpeg_are_read(tmp_path: Path) -> None:
    import gdcm  # no other package here writes it

    volume = stack()
    write_classic(tmp_path, volume)
    for path in tmp_path.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        assert reader.Read()
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert_same(dicom.read_series(tmp_path).volume, volume)


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "padded"])
def test_public_files_of_other_transfer_syntaxes_hold_the_same_image(name: str) -> None:
    expected = dicom.read_series(PUBLIC / "MR_small.dcm").volume
    read = dicom.read_series(PUBLIC / f"MR_small_{name}.dcm").volume
    np.testing.assert_array_equal(read.array, expected.array)
    with pytest.raises(ValueError, match="single slice"):
        io.check_scan(read)


def test_rescaling_keeps_whole_numbers_whole_and_differs_per_slice(tmp_path: Path) -> None:
    volume = stack()

    def hounsfield(_: int, image: Dataset) -> None:
        image.RescaleSlope, image.RescaleIntercept = 1, -1024

    def philips(k: int, image: Dataset) -> None:
        image.RescaleSlope, image.RescaleIntercept = 0.5 + k, 3

    def steep(_: int, image: Dataset) -> None:
        image.RescaleSlope, image.RescaleIntercept = 1000, 0

    write_classic(tmp_path / "ct", volume, hounsfield)
    write_classic(tmp_path / "mr", volume, philips)
    write_classic(tmp_path / "steep", volume, steep)
    whole, scaled, large = (dicom.read_series(tmp_path / name).volume.array for name in ("ct", "mr", "steep"))
    np.testing.assert_array_equal(whole, volume.array - 1024)
    assert whole.dtype == np.int16
    np.testing.assert_allclose(scaled, volume.array * (0.5 + np.arange(6))[:, None, None] + 3)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(large, volume.array.astype(int) * 1000)
    assert large.dtype == np.int32


def unsigned(_: int, image: Dataset) -> None:
    image.PixelRepresentation = 0


def monochrome1(_: int, image: Dataset) -> None:
    image.PhotometricInterpretation = "MONOCHROME1"


def twelve_bits(k: int, image: Dataset) -> None:
    unsigned(k, image)
    image.BitsStored, image.HighBit = 12, 11


def overlay(k: int, image: Dataset) -> None:  # an old overlay in bit 12
    twelve_bits(k, image)
    image.PixelData = (np.frombuffer(image.PixelData, "<u2") | 0x1000).tobytes()


def signed_twelve_bits(_: int, image: Dataset) -> None:  # stored without sign extension
    image.BitsStored, image.HighBit = 12, 11
    image.PixelData = ((np.frombuffer(image.PixelData, "<i2") - 60) & 0xFFF).astype("<u2").tobytes()


def eight_bits(_: int, image: Dataset) -> None:
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = np.frombuffer(image.PixelData, "<i2").astype("u1").tobytes()


def hounsfield(_: int, image: Dataset) -> None:
    image.RescaleSlope, image.RescaleIntercept = 1, -1024


def without_slope(_: int, image: Dataset) -> None:
    image.RescaleSlope, image.RescaleIntercept = 0, 5


def falling(_: int, image: Dataset) -> None:
    image.RescaleSlope, image.RescaleIntercept = -2, 100


@pytest.mark.parametrize(
    "changes",
    [
        [unsigned],
        [twelve_bits],
        [overlay],
        [signed_twelve_bits],
        [eight_bits],
        [hounsfield],
        [without_slope],
        [falling],
        [monochrome1],
        [monochrome1, unsigned],
        [monochrome1, twelve_bits],
        [monochrome1, twelve_bits, hounsfield],
        [monochrome1, eight_bits],
    ],
    ids=lambda changes: " ".join(change.__name__ for change in changes),
)
def test_stored_values_mean_what_they_mean_in_slicer(tmp_path: Path, changes: Sequence[Change]) -> None:
    def change(k: int, image: Dataset) -> None:
        for one in changes:
            one(k, image)

    notes: list[str] = []
    write_classic(tmp_path, stack(), change)
    read = dicom.read_series(tmp_path, notify=notes.append).volume
    np.testing.assert_array_equal(read.array, sitk.GetArrayFromImage(by_simpleitk(tmp_path)))
    assert any("MONOCHROME1" in note for note in notes) == (monochrome1 in changes)


@pytest.mark.parametrize(("padding", "noted"), [(-2000, True), (0, False)])
def test_padding_far_from_all_signal_is_noted(tmp_path: Path, padding: int, noted: bool) -> None:
    def pad(_: int, image: Dataset) -> None:
        pixels = image.pixel_array + np.int16(1)
        pixels[:, 0] = padding
        set_pixels(image, pixels)
        image.PixelPaddingValue = padding

    notes: list[str] = []
    write_classic(tmp_path, stack(), pad)
    assert dicom.read_series(tmp_path, notify=notes.append).volume.array.min() == padding
    assert [note.split(",")[0] for note in notes] == ["25.0 % of the voxels hold the padding value -2000"] * noted


def test_private_and_missing_optional_attributes_do_no_harm(tmp_path: Path) -> None:
    def strip(_: int, image: Dataset) -> None:
        for name in ("SliceThickness", "InstanceNumber", "SeriesDescription", "SeriesNumber", "ImageType", "Modality"):
            delattr(image, name)
        del image.FrameOfReferenceUID
        image.private_block(0x0051, "VENDOR", create=True).add_new(1, "LO", "secret")
        image.RescaleSlope = image.RescaleIntercept = ""

    volume = stack()
    write_classic(tmp_path, volume, strip)
    assert_same(dicom.read_series(tmp_path).volume, volume)


@pytest.mark.parametrize("missing", ["FrameOfReferenceUID", "SeriesInstanceUID", "SOPClassUID", "StudyInstanceUID"])
def test_a_volume_needs_no_identity(tmp_path: Path, missing: str) -> None:
    write_classic(tmp_path, stack(), lambda _, image: delattr(image, missing))
    assert_same(dicom.read_series(tmp_path).volume, stack())


def test_links_and_names_of_any_script_are_read(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path / "Ünïcode Ordner 左", volume, prefix="Schicht ")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "Ünïcode Ordner 左").iterdir():
        try:
            (tmp_path / "links" / path.name).symlink_to(path)
        except OSError:
            pytest.skip("this system makes no links without a privilege")
    (tmp_path / "links" / "dangling").symlink_to(tmp_path / "nowhere")
    assert_same(dicom.read_series(tmp_path / "links").volume, volume)


def test_other_files_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    volume = stack()
    uid = write_classic(tmp_path, volume)
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "empty").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "SEG.dcm").write_bytes((PUBLIC / "liver_1frame.dcm").read_bytes())
    (tmp_path / "rtstruct.dcm").write_bytes((PUBLIC / "rtstruct.dcm").read_bytes())
    assert_same(dicom.read_series(tmp_path).volume, volume)
    (found,) = dicom.list_series(tmp_path)
    assert (found.uid, found.description, found.modality, found.images) == (uid, "LGE 3D", "MR", 6)
    assert not found.localiser
    assert len(found.paths) == 6


def test_files_below_a_dicomdir_or_a_folder_without_dicom_are_found(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path / "study" / "series", volume)
    assert_same(dicom.read_series(tmp_path).volume, volume)
    for directory in ((PUBLIC / "dicomdirtests" / "DICOMDIR").read_bytes(), bytes(128) + b"DICM"):
        (tmp_path / "DICOMDIR").write_bytes(directory)
        assert_same(dicom.read_series(tmp_path).volume, volume)


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path, volume)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[132:])  # the file meta information comes first
        assert path.read_bytes()[:2] == b"\x02\x00"
    assert_same(dicom.read_series(tmp_path).volume, volume)
    for path in tmp_path.iterdir():
        image = pydicom.dcmread(path, force=True)
        del image.file_meta
        image.preamble = None
        image.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert_same(dicom.read_series(tmp_path).volume, volume)


def test_one_file_of_a_series_is_one_slice_of_unknown_thickness(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path, volume)
    read = dicom.read_series(tmp_path / "IM0000").volume
    assert read.array.shape == (1, 5, 4)
    assert read.geometry.spacing_mm is None


def test_public_ct_series_is_read(tmp_path: Path) -> None:
    read = dicom.read_series(PUBLIC / "dicomdirtests" / "98892001" / "CT5N").volume
    assert read.array.shape == (5, 16, 16)
    np.testing.assert_allclose(read.geometry.step_lengths, (2.5, 0.488281, 0.488281), rtol=1e-4)


# Several series


def early(_: int, image: Dataset) -> None:
    image.SeriesDescription, image.SeriesNumber = "T1 map", 1


def scout(_: int, image: Dataset) -> None:
    image.SeriesDescription, image.SeriesNumber = "Scout", 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def test_several_series_are_listed_and_one_can_be_taken(tmp_path: Path) -> None:
    first, second = stack(), stack((3, 5, 4))
    one = write_classic(tmp_path, first, prefix="A")
    two = write_classic(tmp_path, second, early, prefix="B")
    message = refusal(tmp_path)
    assert "2 series, take one of them with --series UID" in message
    assert f"{two} MR 'T1 map' 3 images; {one} MR 'LGE 3D' 6 images" in message
    assert_same(dicom.read_series(tmp_path, one).volume, first)
    assert "holds no series 1.2.3; it holds" in refusal(tmp_path, "1.2.3")
    assert [found.uid for found in dicom.list_series(tmp_path)] == [two, one]


@pytest.mark.parametrize("below", [True, False], ids=["folders", "one folder"])
def test_what_is_no_scan_does_not_stand_in_the_way_of_the_only_scan(tmp_path: Path, below: bool) -> None:
    def several_planes(k: int, image: Dataset) -> None:
        image.ImageOrientationPatient = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]][k % 2]

    def screen_shot(_: int, image: Dataset) -> None:
        image.PhotometricInterpretation, image.SeriesDescription = "RGB", "shot"

    volume, notes = stack(), []
    folders = {name: tmp_path / name if below else tmp_path for name in "abcdef"}
    uid = write_classic(folders["a"], volume, prefix="a")
    localiser = write_classic(folders["b"], stack((3, 5, 4)), scout, prefix="b")
    write_classic(
        folders["f"], stack(), lambda _, image: setattr(image, "SeriesDescription", "3-plane survey"), prefix="f"
    )
    write_classic(folders["c"], stack((2, 5, 4)), several_planes, prefix="c")
    write_classic(folders["d"], stack((2, 5, 4)), screen_shot, prefix="d")
    write_classic(folders["e"], stack((1, 5, 4)), prefix="e")
    assert_same(dicom.read_series(tmp_path, notify=notes.append).volume, volume)
    assert len(notes) == 1 and notes[0].startswith("left out what is no scan: ")
    for reason in (
        "(images of 2 orientations)",
        "'Scout' 3 images (localiser)",
        "(localiser by its description)",
        "(colour images)",
        "(a single image)",
    ):
        assert reason in notes[0]
    assert [series.uid for series in dicom.list_series(tmp_path) if not series.no_scan] == [uid]
    assert "localisers" in refusal(tmp_path, localiser)


def test_a_study_without_any_scan_lists_what_it_holds(tmp_path: Path) -> None:
    write_classic(tmp_path, stack((3, 5, 4)), scout, prefix="A")
    write_classic(tmp_path, stack((1, 5, 4)), prefix="B")
    assert "holds no scan; it holds" in refusal(tmp_path)


def test_a_series_in_two_folders_is_one_volume(tmp_path: Path) -> None:
    volume = stack()
    uid = write_classic(tmp_path / "a", volume, lambda k, _: "leave out" if k > 2 else None)
    write_classic(tmp_path / "b" / "c", volume, lambda k, _: "leave out" if k < 3 else None, uid)
    assert_same(dicom.read_series(tmp_path).volume, volume)
    assert [found.images for found in dicom.list_series(tmp_path)] == [6]


def truncated(path: Path, tag: int) -> None:
    """Cut a file right before the element of that tag."""
    content, sought = path.read_bytes(), np.array([tag >> 16, tag & 0xFFFF], "<u2").tobytes()
    path.write_bytes(content[: content.index(sought, 132)])


@pytest.mark.parametrize("named", [True, False], ids=["with --series", "without"])
def test_one_broken_file_of_another_series_is_told_and_does_no_harm(tmp_path: Path, named: bool) -> None:
    volume, notes = stack(), []
    uid = write_classic(tmp_path / "cd" / "scan", volume)
    write_classic(tmp_path / "cd" / "other", stack((1, 5, 4)), early)
    truncated(tmp_path / "cd" / "other" / "IM0000", 0x00280010)  # its UID is told, its pixels are not described
    (tmp_path / "cd" / "scan" / "empty").touch()
    (tmp_path / "cd" / "noise").write_bytes(bytes(128) + b"DICM" + bytes(range(200)))
    assert_same(dicom.read_series(tmp_path / "cd", uid if named else None, notes.append).volume, volume)
    assert sorted(note.split(" is truncated")[0].split("/")[-1] for note in notes) == ["IM0000", "noise"]
    assert all(note.startswith("left out a damaged file: ") for note in notes)


def test_a_broken_file_that_may_be_a_slice_of_the_scan_is_not_left_out(tmp_path: Path) -> None:
    volume = stack()
    uid = write_classic(tmp_path, volume)
    last = next(path for path in tmp_path.iterdir() if pydicom.dcmread(path).pixel_array[0, 0] == volume.array[5, 0, 0])
    truncated(last, 0x0020000D)  # before study and series: what is left is like that of every other slice
    for content in (last.read_bytes(), last.read_bytes()[:132]):
        last.write_bytes(content)
        assert re.search(rf"{last.name} is truncated.* with --series {uid}", refusal(tmp_path))
        notes: list[str] = []
        assert dicom.read_series(tmp_path, uid, notes.append).volume.array.shape[0] == 5
        assert len(notes) == 1 and f"left out a damaged file: {last}" in notes[0]


def test_localisers_within_a_series_are_left_out_with_a_notice(tmp_path: Path) -> None:
    volume, heard = stack(), []
    series = write_classic(tmp_path, volume)

    write_classic(tmp_path, stack((2, 5, 4), (90, 0, 0)), scout, series, prefix="scout")
    assert_same(dicom.read_series(tmp_path, notify=heard.append).volume, volume)
    assert heard == ["left out 2 localiser images of the series"]


# What is dropped or refused


def test_identical_duplicates_are_dropped_with_a_notice(tmp_path: Path) -> None:
    volume, heard = stack(), []
    write_classic(tmp_path, volume)
    for name in ("IM0001", "IM0004"):
        (tmp_path / f"copy of {name}").write_bytes((tmp_path / name).read_bytes())
    series = dicom.read_series(tmp_path, notify=heard.append)
    assert_same(series.volume, volume)
    assert len(series.instances) == 6
    assert len(heard) == 1
    assert heard[0].startswith("dropped 2 images that are identical duplicates")


def test_different_images_at_one_position_are_refused_with_what_tells_them_apart(tmp_path: Path) -> None:
    volume = stack()

    def later(_: int, image: Dataset) -> None:
        image.TriggerTime = 400

    series = write_classic(tmp_path, volume)
    write_classic(tmp_path, volume.with_array(volume.array + 1), later, series, prefix="later")
    message = refusal(tmp_path)
    assert "6 of its 12 images share a position" in message
    assert "differ in TriggerTime" in message


def test_frames_of_a_cine_in_one_file_are_refused(tmp_path: Path) -> None:
    def same_place(_: int, frame: Dataset) -> None:
        frame.PlanePositionSequence = item(ImagePositionPatient=["0", "0", "0"])

    write_enhanced(tmp_path / "cine.dcm", stack(), same_place)
    assert "5 of its 6 images share a position" in refusal(tmp_path)


def test_missing_slices_are_refused_with_their_positions(tmp_path: Path) -> None:
    volume = stack((8, 5, 4), (0, 0, 0))  # axial: positions along the normal are z, from 7 mm in steps of 2.5
    write_classic(tmp_path, volume, lambda k, _: "leave out" if k in (2, 5, 6) else None)
    message = refusal(tmp_path)
    assert "slices are missing: the step is 2.50 mm along the normal, but" in message
    assert "from 9.50 to 14.50 mm (5.00 mm), from 17.00 to 24.50 mm (7.50 mm)" in message


def test_unevenly_spaced_slices_are_refused_with_their_positions(tmp_path: Path) -> None:
    def shift(k: int, image: Dataset) -> None:
        if k == 3:
            image.ImagePositionPatient[2] = float(image.ImagePositionPatient[2]) + 0.3

    write_classic(tmp_path, stack((6, 5, 4), (0, 0, 0)), shift)
    message = refusal(tmp_path)
    assert "unevenly spaced" in message
    assert "from 12.00 to 14.80 mm (2.80 mm), from 14.80 to 17.00 mm (2.20 mm)" in message


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -35, 50)], ids=["axial", "oblique"])
@pytest.mark.parametrize(
    ("decimals", "slices", "step"), [(1, 9, 2.5), (1, 60, 1.0), (1, 8, 8.0), (2, 6, 1.0), (1, 40, 0.5)]
)
def test_positions_rounded_by_the_scanner_are_accepted(
    tmp_path: Path, angles: Sequence[float], decimals: int, slices: int, step: float
) -> None:
    def rounded(_: int, image: Dataset) -> None:
        image.ImagePositionPatient = [f"{float(value):.{decimals}f}" for value in image.ImagePositionPatient]

    axes = stack(angles=angles).geometry.directions
    geometry = Geometry.from_axes((-12.53, 40.27, 7.04), (step, 0.7, 0.9), axes, (slices, 5, 4))
    write_classic(tmp_path, Volume(np.zeros(geometry.shape, np.int16), geometry), rounded)
    read = dicom.read_series(tmp_path).volume.geometry
    assert read.is_close(geometry, 2 * 10.0**-decimals)
    np.testing.assert_allclose(read.directions, axes, atol=1e-6)


def test_a_missing_slice_is_never_taken_for_rounding(tmp_path: Path) -> None:
    geometry = Geometry.from_axes((0, 0, 0), (0.2, 1, 1), np.eye(3)[:, ::-1], (9, 5, 4))
    volume = Volume(np.zeros(geometry.shape, np.int16), geometry)
    write_classic(tmp_path, volume, lambda k, _: "leave out" if k == 4 else None)
    assert "slices are missing: the step is 0.20 mm" in refusal(tmp_path)


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    def tilt(k: int, image: Dataset) -> None:
        image.ImagePositionPatient[1] = float(image.ImagePositionPatient[1]) + k * 2.5 * np.tan(np.radians(12))

    write_classic(tmp_path, stack(angles=(0, 0, 0)), tilt)
    assert "gantry tilt of 12.00 degrees" in refusal(tmp_path)


def test_slices_that_jump_sideways_are_refused(tmp_path: Path) -> None:
    def jump(k: int, image: Dataset) -> None:
        if k == 2:
            image.ImagePositionPatient[0] = float(image.ImagePositionPatient[0]) + 4

    write_classic(tmp_path, stack(angles=(0, 0, 0)), jump)
    assert "do not lie on one line (off by up to 4.00 mm)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("FrameOfReferenceUID", "1.2.3", "2 frames of reference"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1], "2 orientations"),
        ("PixelSpacing", [0.8, 0.9], "differ in pixel spacing"),
        ("PhotometricInterpretation", "RGB", "holds colours ('RGB')"),
        ("ImagePositionPatient", None, "has no ImagePositionPatient"),
        ("ImageOrientationPatient", None, "has no ImageOrientationPatient"),
        ("PixelSpacing", None, "has no PixelSpacing"),
        ("NumberOfFrames", 6, "6 frames without positions"),
    ],
)
def test_one_image_that_does_not_fit_is_told(tmp_path: Path, attribute: str, value: object, told: str) -> None:
    def change(k: int, image: Dataset) -> None:
        if k == 3 and value is None:
            delattr(image, attribute)
        elif k == 3:
            setattr(image, attribute, value)

    write_classic(tmp_path, stack(), change)
    assert told in refusal(tmp_path)


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_classic(tmp_path, stack(), lambda k, image: set_pixels(image, np.zeros((3, 4))) if k == 3 else None)
    assert "differ in size (rows, columns): [(3, 4), (5, 4)]" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("PixelSpacing", [0, 0.9], "spacing must be above zero"),
        ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0], "not two unit vectors at right angles"),
        ("ImageOrientationPatient", [1, 0, 0, 0.6, 0.8, 0], "not two unit vectors at right angles"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "not two unit vectors at right angles"),
        ("ImagePositionPatient", [1, 2], "3 numbers were expected"),
    ],
)
def test_a_geometry_that_is_none_is_refused(tmp_path: Path, attribute: str, value: object, told: str) -> None:
    write_classic(tmp_path, stack(angles=(0, 0, 0)), lambda _, image: setattr(image, attribute, value))
    assert told in refusal(tmp_path)


def test_an_enhanced_file_that_lacks_frames_is_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a.dcm", stack())
    image = pydicom.dcmread(tmp_path / "a.dcm")
    del image.PerFrameFunctionalGroupsSequence[-1]
    image.save_as(tmp_path / "a.dcm")
    assert "announces 6 frames and describes 5" in refusal(tmp_path)


def test_a_truncated_file_is_told_by_name(tmp_path: Path) -> None:
    write_classic(tmp_path, stack())
    whole = (tmp_path / "IM0003").read_bytes()
    (tmp_path / "IM0003").write_bytes(whole[:-7])
    assert "IM0003 is truncated or damaged: its pixels cannot be read" in refusal(tmp_path)
    for keep in range(132, len(whole), 23):
        (tmp_path / "IM0003").write_bytes(whole[:keep])
        assert re.search("IM0003 is (truncated|damaged)", refusal(tmp_path))


def test_a_syntax_without_decoder_names_the_cure(tmp_path: Path) -> None:
    write_classic(tmp_path, stack())
    image = pydicom.dcmread(tmp_path / "IM0003")
    image.compress(RLELossless)
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.103"  # MPEG-4, for which no decoder can exist
    image.save_as(tmp_path / "IM0003")
    message = refusal(tmp_path)
    assert "IM0003" in message
    assert "MPEG-4" in message
    assert "decoder" in message


def test_what_is_not_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.dcm").write_text("hello", encoding="utf-8")
    assert "holds no DICOM image" in refusal(tmp_path)
    assert "holds no DICOM image" in refusal(tmp_path / "notes.dcm")
    assert "holds no DICOM image" in refusal(PUBLIC / "liver_1frame.dcm")
    with pytest.raises(ValueError, match="holds no DICOM image"):
        dicom.list_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        dicom.read_series(tmp_path / "missing")


@PROPERTY
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    if not list(tmp_path.iterdir()):
        write_enhanced(tmp_path / "good", stack((3, 2, 2)))
    content = bytearray((tmp_path / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(132, len(content) - 1))
        content[place] = data.draw(st.sampled_from(b"\x00\xff 9-\nA"))
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 5]))]
    (tmp_path / "bad").write_bytes(bytes(content))
    try:
        dicom.read_series(tmp_path / "bad")
    except ValueError as error:
        assert len(str(error).splitlines()) == 1


# As an input of the program


def test_dicom_folders_are_scans_of_a_cohort(tmp_path: Path) -> None:
    write_classic(tmp_path / "one", stack())
    write_enhanced(tmp_path / "two.dcm", stack())
    (tmp_path / "cohort").mkdir()
    (tmp_path / "one").rename(tmp_path / "cohort" / "one")
    assert io.find_scans([tmp_path / "cohort"]) == [tmp_path / "cohort" / "one"]
    assert io.find_scans([tmp_path / "cohort" / "one"]) == [tmp_path / "cohort" / "one"]
    assert io.find_scans([tmp_path / "two.dcm"]) == [tmp_path / "two.dcm"]
    io.check_scan(io.read_volume(tmp_path / "two.dcm"))
