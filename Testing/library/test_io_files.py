"""Files as they are found: odd compression, skipped and surplus bytes, pairs, strays, bombs; read right or refused."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from small_files import metaimage_text, nifti_bytes, nrrd_text, segments

from mper import io
from mper.labels import UNLABELLED, make_label
from mper.volume import Geometry, Volume

RAS = np.array([[-1.25, 0, 0, 40], [0, -1.25, 0, 50], [0, 0, 2.5, -30], [0, 0, 0, 1]])  # (i, j, k, 1) to RAS
VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
BYTES = VALUES.astype(np.uint8)
LPS = ["space: LPS", "space directions: (1.25,0,0) (0,1.25,0) (0,0,2.5)", "space origin: (-40,-50,-30)"]


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    """The voxels and the notes."""
    notes: list[str] = []
    return io.read_volume(path, notify=notes.append).array, notes


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        io.read_volume(path)
    assert len(str(caught.value).splitlines()) == 1
    assert path.name in str(caught.value)
    return str(caught.value)


# gzip


NIFTI = nifti_bytes(VALUES, RAS)


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("notgz.nii.gz", NIFTI, ""),
        ("isgz.nii", gzip.compress(NIFTI), ""),
        ("members.nii.gz", gzip.compress(NIFTI[:360]) + gzip.compress(NIFTI[360:]), ""),
        ("padded.nii.gz", gzip.compress(NIFTI) + bytes(512), ""),
        ("UPPER.NII.GZ", gzip.compress(NIFTI), ""),
        ("garbage.nii.gz", gzip.compress(NIFTI) + b"tail of a broken copy", "21 bytes after the voxels"),
        ("longer.nii", NIFTI + b"more", "4 bytes after the voxels"),
        ("longer.nii.gz", gzip.compress(NIFTI + b"more"), "4 bytes after the voxels"),
    ],
)
def test_odd_compression_is_read_and_what_is_left_over_is_noted(
    tmp_path: Path, name: str, content: bytes, note: str
) -> None:
    (tmp_path / name).write_bytes(content)
    array, notes = read(tmp_path / name)
    np.testing.assert_array_equal(array, VALUES)
    assert [line[: len(note)] for line in notes] == ([note] if note else [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(gzip.compress(NIFTI)), "compressed twice"),
        (gzip.compress(NIFTI)[:-9], "truncated or damaged"),
        (gzip.compress(NIFTI)[:-9] + bytes(9), "truncated or damaged"),
        (gzip.compress(NIFTI[:-1]), "truncated"),
        (NIFTI[:-1], "truncated"),
        (b"", "holds 0 bytes"),
    ],
)
def test_damaged_compression_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(content)
    assert reason in refusal(tmp_path / "scan.nii.gz")


def test_extensions_before_the_voxels_are_skipped(tmp_path: Path) -> None:
    extended = NIFTI[:352] + bytes(32) + NIFTI[352:]
    (tmp_path / "scan.nii").write_bytes(extended)
    array, notes = read(tmp_path / "scan.nii")
    assert notes == ["32 bytes after the voxels of scan.nii were ignored"]  # the header does not mention them
    stated = nifti_bytes(VALUES, RAS, vox_offset=384)
    (tmp_path / "scan.nii").write_bytes(stated[:352] + bytes(32) + stated[352:])
    array, notes = read(tmp_path / "scan.nii")
    np.testing.assert_array_equal(array, VALUES)
    assert not notes


@pytest.mark.parametrize("size", [(3, 4, 2, 0, 0, 0, 0), (3, 4, 2, 1, 1, 1, 1)])
def test_trailing_dimensions_of_none_or_one_are_no_dimensions(tmp_path: Path, size: tuple[int, ...]) -> None:
    values = VALUES.reshape(2, 4, 3)
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(values, RAS, dim=[4, *size]))
    np.testing.assert_array_equal(read(tmp_path / "scan.nii")[0], values)


def test_an_offset_without_a_scale_is_added_as_in_itk_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(VALUES, RAS, scl_slope=0, scl_inter=5))
    array, notes = read(tmp_path / "scan.nii")
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scan.nii"))))
    np.testing.assert_array_equal(array, VALUES + 5)
    assert len(notes) == 1 and "offset 5" in notes[0]


# Skipped and surplus bytes, detached voxels


@pytest.mark.parametrize(("encoding", "pack"), [("raw", bytes), ("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_skipped_bytes_are_counted_after_unpacking(tmp_path: Path, encoding: str, pack: object) -> None:
    assert callable(pack)
    (tmp_path / "voxels.bin").write_bytes(pack(b"h" * 99 + VALUES.tobytes()))
    for skip in (99, -1):
        lines = [*LPS, "type: short", "endian: little", f"encoding: {encoding}", f"byte skip: {skip}"]
        (tmp_path / "scan.nhdr").write_bytes(nrrd_text(*lines, "data file: voxels.bin", data=b""))
        array, notes = read(tmp_path / "scan.nhdr")
        np.testing.assert_array_equal(array, VALUES)
        assert not notes


def test_a_header_may_borrow_the_voxels_of_a_nifti_file(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(NIFTI))
    lines = [*LPS, "type: short", "endian: little", "encoding: gzip", "byte skip: -1", "data file: scan.nii.gz"]
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text(*lines, data=b""))
    np.testing.assert_array_equal(read(tmp_path / "scan.nhdr")[0], VALUES)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scan.nhdr"))).tolist() == VALUES.tolist()


def test_lines_before_the_voxels_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "voxels.bin").write_bytes(b"made by a scanner\nin a hospital\n" + BYTES.tobytes())
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text("line skip: 2", "data file: voxels.bin", data=b""))
    np.testing.assert_array_equal(read(tmp_path / "scan.nhdr")[0], BYTES)
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text("lineskip: 99", "datafile: voxels.bin", data=b""))
    with pytest.raises(ValueError, match="fewer than the 99 lines"):
        io.read_volume(tmp_path / "scan.nhdr")


def test_surplus_bytes_that_may_be_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "surplus.nrrd").write_bytes(
        nrrd_text("encoding: gzip", data=gzip.compress(bytes(352) + BYTES.tobytes()))
    )
    assert "352 bytes more than its voxels" in refusal(tmp_path / "surplus.nrrd")
    (tmp_path / "voxels.raw").write_bytes(bytes(5) + BYTES.tobytes())
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text("data file: voxels.raw", data=b""))
    assert "5 bytes more than its voxels" in refusal(tmp_path / "scan.nhdr")
    (tmp_path / "scan.mhd").write_bytes(metaimage_text("ElementDataFile = voxels.raw", data=b""))
    assert "5 bytes more than its voxels" in refusal(tmp_path / "scan.mhd")


def test_surplus_bytes_after_attached_voxels_are_ignored_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text(data=BYTES.tobytes() + b"\n"))
    (tmp_path / "scan.mha").write_bytes(metaimage_text(data=BYTES.tobytes() + b"\n"))
    for name in ("scan.nrrd", "scan.mha"):
        array, notes = read(tmp_path / name)
        np.testing.assert_array_equal(array, BYTES)
        assert notes == [f"1 bytes after the voxels of {name} were ignored"]


@pytest.mark.parametrize("size", [99, -1])
def test_the_header_size_of_a_metaimage_is_skipped(tmp_path: Path, size: int) -> None:
    (tmp_path / "voxels.raw").write_bytes(b"h" * 99 + BYTES.tobytes())
    (tmp_path / "scan.mhd").write_bytes(
        metaimage_text(f"HeaderSize = {size}", "ElementDataFile = voxels.raw", data=b"")
    )
    np.testing.assert_array_equal(read(tmp_path / "scan.mhd")[0], BYTES)


def test_the_header_size_of_a_metaimage_with_its_voxels_counts_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    header = metaimage_text("HeaderSize = 000", data=b"")
    for size, before in ((len(header), b""), (len(header) + 7, b"comment")):
        content = header.replace(b"000", b"%03d" % size) + before + BYTES.tobytes()
        (tmp_path / "scan.mha").write_bytes(content)
        np.testing.assert_array_equal(read(tmp_path / "scan.mha")[0], BYTES)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scan.mha"))), BYTES)
    (tmp_path / "scan.mha").write_bytes(header.replace(b"000", b"010") + BYTES.tobytes())
    assert "its HeaderSize is 10, but its header has" in refusal(tmp_path / "scan.mha")


@pytest.mark.parametrize("values", [VALUES.astype(np.float32), VALUES.astype(np.float64)])
def test_nan_and_infinity_in_nifti_are_0_as_in_itk_with_a_note(tmp_path: Path, values: np.ndarray) -> None:
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(values, RAS, scl_slope=2, scl_inter=5))
    array, notes = read(tmp_path / "scan.nii")
    np.testing.assert_allclose(array, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scan.nii"))), rtol=1e-6)
    assert array[0, 0, :3].tolist() == [5, 5, 5]
    assert notes == [f"3 of {values.size} voxels are NaN or infinite; they are taken as 0, as ITK and 3D Slicer do"]


def test_voxels_whose_byte_order_is_not_stated_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text("type: short", data=bytes(48)))
    assert "does not state the byte order of voxels of 2 bytes" in refusal(tmp_path / "scan.nrrd")


def test_a_data_file_may_be_named_with_the_whole_path_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(BYTES.tobytes())
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text(f"data file: {tmp_path / 'x.raw'}", data=b""))
    (tmp_path / "scan.mhd").write_bytes(metaimage_text(f"ElementDataFile = {tmp_path / 'x.raw'}", data=b""))
    for name in ("scan.nhdr", "scan.mhd"):
        np.testing.assert_array_equal(read(tmp_path / name)[0], BYTES)


def test_voxels_may_lie_below_the_header_or_be_links(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.raw").write_bytes(BYTES.tobytes())
    (tmp_path / "scan.mhd").write_bytes(metaimage_text("ElementDataFile = sub/x.raw", data=b""))
    np.testing.assert_array_equal(read(tmp_path / "scan.mhd")[0], BYTES)
    store, shown = tmp_path / "store", tmp_path / "shown"  # as DataLad keeps files: both are links into a store
    store.mkdir()
    shown.mkdir()
    (store / "1").write_bytes(nrrd_text("data file: scan.raw", data=b""))
    (store / "2").write_bytes(BYTES.tobytes())
    try:
        (shown / "scan.nhdr").symlink_to(store / "1")
        (shown / "scan.raw").symlink_to(store / "2")
    except OSError:
        pytest.skip("this system does not let this user make links")
    np.testing.assert_array_equal(read(shown / "scan.nhdr")[0], BYTES)


@pytest.mark.parametrize("name", ["../x.raw", "/etc/hostname", "..\\x.raw", "C:\\x.raw", "sub/../../x.raw", ""])
def test_a_header_does_not_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "scan"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "x.raw").write_bytes(BYTES.tobytes())
    (folder / "scan.nhdr").write_bytes(nrrd_text(f"data file: {name}", data=b""))
    assert "not one file in the header's folder" in refusal(folder / "scan.nhdr")


@pytest.mark.parametrize("files", ["LIST", "slice%02d.raw 0 19 1"])
def test_voxels_in_several_files_are_refused_with_what_to_do(tmp_path: Path, files: str) -> None:
    (tmp_path / "scan.mhd").write_bytes(metaimage_text(f"ElementDataFile = {files}", data=b""))
    listed = b"slice1.raw\nslice2.raw\n" if files == "LIST" else b""
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text(f"data file: {files}", data=b"").rstrip(b"\n") + b"\n" + listed)
    for name in ("scan.mhd", "scan.nhdr"):
        assert "in several files" in refusal(tmp_path / name)


def test_a_field_that_is_stated_twice_is_refused(tmp_path: Path) -> None:
    content = nrrd_text(data=BYTES.tobytes()).replace(b"sizes: 4 3 2\n", b"sizes: 4 3 2\nsizes: 2 3 4\n")
    (tmp_path / "scan.nrrd").write_bytes(content)
    assert "states 'sizes' twice" in refusal(tmp_path / "scan.nrrd")


def test_a_matrix_of_zeros_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.mha").write_bytes(metaimage_text("TransformMatrix = 0 0 0 0 0 0 0 0 0"))
    assert "above zero" in refusal(tmp_path / "scan.mha")


@pytest.mark.parametrize("field", ["units", "space units"])
def test_units_that_itk_does_not_look_at_are_noted(tmp_path: Path, field: str) -> None:
    grid = ["spacings: 1 1 2"] if field == "units" else [LPS[0], 'space units: "cm" "cm" "cm"', *LPS[1:]]
    lines = [*grid, *(['units: "cm" "cm" "cm"'] if field == "units" else [])]
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text(*lines, data=BYTES.tobytes()))
    _, notes = read(tmp_path / "scan.nrrd")
    assert notes == ["the header gives lengths in cm; they are taken for mm, as ITK and 3D Slicer do"]


@pytest.mark.parametrize("lines", [[], ["spacings: nan 1 2"]])
def test_a_colour_image_is_no_volume(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text("sizes: 3 4 2", "kinds: RGB-color domain domain", *lines))
    assert "2-D image of 3 values a pixel (rgb-color)" in refusal(tmp_path / "scan.nrrd")


def test_a_pair_is_one_scan_among_others(tmp_path: Path) -> None:
    for name in ("pair.hdr", "pair.img", "alone.hdr", "alone2.img", "scan.nrrd", "mask.seg.nrrd"):
        (tmp_path / name).write_bytes(b"")
    assert io.find_scans([tmp_path]) == [tmp_path / "pair.hdr", tmp_path / "scan.nrrd"]
    assert io.find_scans([tmp_path / "pair.img"]) == [tmp_path / "pair.hdr"]


# Sizes


HUGE = 10**30


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", nrrd_text(f"sizes: {HUGE} 3 2")),
        ("a.nrrd", nrrd_text("sizes: 4294967296 4294967296 4294967296")),
        ("a.nrrd", nrrd_text("sizes: 9000000 9000000 9000000", *LPS)),
        ("a.mha", metaimage_text(f"DimSize = {HUGE} 3 2")),
        ("a.mha", metaimage_text("DimSize = 9000000 9000000 9000000")),
        ("a.nii", nifti_bytes(VALUES, RAS, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "more than fits in memory" in refusal(tmp_path / name)


@pytest.mark.parametrize("sizes", ["-4 3 2", "0 3 2"])
def test_sizes_below_one_are_refused(tmp_path: Path, sizes: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd_text(f"sizes: {sizes}"))
    (tmp_path / "a.mha").write_bytes(metaimage_text(f"DimSize = {sizes}"))
    numbers = [int(n) for n in sizes.split()]
    (tmp_path / "a.nii").write_bytes(nifti_bytes(VALUES, RAS, dim=[3, *numbers, 1, 1, 1, 1]))
    for name in ("a.nrrd", "a.mha", "a.nii"):
        refusal(tmp_path / name)


def bomb(size: int) -> bytes:
    """A few kilobytes of gzip that unpack to `size` zeros."""
    return gzip.compress(bytes(size), 9)


def test_a_file_too_short_for_its_size_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpacked(*_: object) -> None:
        raise AssertionError("nothing may be unpacked or allocated")

    header = nifti_bytes(VALUES, RAS, dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    (tmp_path / "a.nrrd").write_bytes(nrrd_text("sizes: 1000 1000 1000", "encoding: gzip", data=bomb(10**6)))
    (tmp_path / "b.nrrd").write_bytes(nrrd_text("sizes: 1000 1000 1000", data=BYTES.tobytes()))
    (tmp_path / "a.mha").write_bytes(
        metaimage_text("DimSize = 1000 1000 1000", "CompressedData = True", data=zlib.compress(bytes(10**6)))
    )
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header))
    monkeypatch.setattr("mper.io.voxels.np.empty", unpacked)
    for name in ("a.nrrd", "b.nrrd", "a.mha", "a.nii.gz"):
        assert "the file is too short" in refusal(tmp_path / name)


def test_a_bomb_behind_the_voxels_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    content = gzip.compress(BYTES.tobytes() + bytes(1 << 25), 9)
    (tmp_path / "a.nrrd").write_bytes(nrrd_text("encoding: gzip", data=content))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(NIFTI + bytes(1 << 25), 9))
    (tmp_path / "a.mha").write_bytes(
        metaimage_text("CompressedData = True", data=zlib.compress(BYTES.tobytes() + bytes(1 << 25)))
    )
    for name in ("a.nrrd", "a.nii.gz", "a.mha"):
        assert "beyond the voxels" in refusal(tmp_path / name)


@pytest.mark.parametrize("offset", [1e9, np.inf, np.nan, -1, 10])
def test_voxels_that_begin_nowhere_are_refused(tmp_path: Path, offset: float) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_bytes(VALUES, RAS, vox_offset=offset)))
    assert "cannot begin at byte" in refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("number", ["1e300", "inf", "nan"])
def test_extents_that_are_no_numbers_are_refused(tmp_path: Path, number: str) -> None:
    lines = [f"space directions: ({number},0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)"]
    (tmp_path / "a.nrrd").write_bytes(nrrd_text("space: LPS", *lines))
    (tmp_path / "a.mha").write_bytes(metaimage_text(f"ElementSpacing = {number} 1 1"))
    for name in ("a.nrrd", "a.mha"):
        refusal(tmp_path / name)


# Impossible extents


def scan(*spacing: float, shape: tuple[int, int, int] = (20, 64, 56)) -> Volume:
    geometry = Geometry.from_axes((1, 2, 3), spacing, np.eye(3)[:, ::-1], shape)
    return Volume(np.zeros(shape, np.uint8), geometry)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((25, 12.5, 12.5), (56, 110, 90)),  # cm and mm mixed up: 1.1 x 1.4 x 1.4 m
        ((2500, 1250, 1250), (20, 64, 56)),  # micrometres
        ((60, 1, 1), (20, 64, 56)),
        ((5, 1, 1), (600, 64, 56)),  # 3 m long
    ],
)
def test_a_scan_that_no_patient_fits_is_refused_with_its_size(
    spacing: tuple[float, ...], shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match=r"no patient is.*--spacing K,J,I \(--spacing keep"):
        io.check_extent(scan(*spacing, shape=shape).geometry)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((10, 1.25, 1.25), (9, 96, 96)), ((0.8, 0.7, 0.7), (500, 512, 512)), ((3, 1, 1), (600, 9, 9))],
)
def test_a_patient_s_scan_passes(spacing: tuple[float, ...], shape: tuple[int, int, int]) -> None:
    io.check_extent(scan(*spacing, shape=shape).geometry)
    io.check_extent(Geometry.unknown((2000, 2000, 2000)))


def test_a_given_spacing_replaces_that_of_the_file_with_a_note() -> None:
    notes: list[str] = []
    wrong = scan(2500, 1250, 1250)
    right = io.with_spacing(wrong, (2.5, 1.25, 1.25), notes.append)
    assert right.geometry.spacing_mm == (2.5, 1.25, 1.25)
    assert right.geometry.origin_mm == wrong.geometry.origin_mm
    np.testing.assert_array_equal(right.geometry.directions, wrong.geometry.directions)
    assert len(notes) == 1 and "2.5x1.25x1.25 mm (k, j, i) as given, and not 2500x1250x1250 mm" in notes[0]
    assert io.with_spacing(wrong, "keep") is wrong
    with pytest.raises(ValueError, match="no patient is"):
        io.with_spacing(wrong, None)
    with pytest.raises(ValueError, match="no patient is"):
        io.with_spacing(right, (2500, 1250, 1250))


def test_a_given_spacing_makes_an_unknown_one_known() -> None:
    notes: list[str] = []
    known = io.with_spacing(Volume(BYTES, Geometry.unknown(BYTES.shape)), (4, 3, 2), notes.append)
    assert known.geometry.spacing_mm == (4, 3, 2)
    assert not notes


# Masks


def seg(path: Path, array: np.ndarray, *lines: str) -> Path:
    sizes = " ".join(str(n) for n in array.shape[::-1])
    path.write_bytes(nrrd_text(*LPS, f"sizes: {sizes}", *lines, data=array.astype(np.uint8).tobytes()))
    return path


def test_voxels_that_no_segment_names_become_background_with_a_note(tmp_path: Path) -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    array[0], array[1, 0, :2] = 1, 9
    path = seg(tmp_path / "stray.seg.nrrd", array, *segments("LA", values=[1], layers=[0]))
    for reader in (io.read_segmentation, io.read_labelmap):
        notes: list[str] = []
        reader(path, notes.append)
        assert notes == ["2 voxels of stray.seg.nrrd (value 9) belong to no segment and became background"]
    np.testing.assert_array_equal(io.read_labelmap(path).array, array == 1)


def test_empty_segments_are_read_with_a_note(tmp_path: Path) -> None:
    path = seg(tmp_path / "empty.seg.nrrd", np.zeros((2, 3, 4)), *segments("LA", values=[1], layers=[0]))
    notes: list[str] = []
    assert not io.read_segmentation(path, notes.append).labelmap.array.any()
    assert notes == ["the segments of empty.seg.nrrd are empty"]


def test_a_mask_of_0_and_255_is_one_of_its_only_label() -> None:
    from mper.io.labelmap import binary_as_label

    mask = Volume(np.where(BYTES > 12, UNLABELLED, 0).astype(np.uint8), Geometry.unknown(BYTES.shape))
    notes: list[str] = []
    read = binary_as_label(mask, (make_label(1, "LA"),), "mask.nii", notes.append)
    np.testing.assert_array_equal(read.array, BYTES > 12)
    assert len(notes) == 1 and "255 is taken as LA" in notes[0]
    with pytest.raises(ValueError, match=r"only 0 and 255.*1 RV, 2 LV"):
        binary_as_label(mask, (make_label(1, "RV"), make_label(2, "LV")), "mask.nii")


# h5


def test_h5_types_become_those_that_all_else_knows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for stored, expected in ((">i4", "i4"), ("?", "u1"), ("f2", "f4"), (">f8", "f8")):
        with h5py.File(path, "w") as file:
            file["image"] = (VALUES % 2).astype(stored)
            file["text"], file["complex"], file["empty"] = "words", np.zeros(VALUES.shape, "c8"), h5py.Empty("f4")
            file["long"] = VALUES.astype(np.longdouble)
        read = io.read_h5(path)
        assert read["image"].array.dtype == np.dtype(expected)
        np.testing.assert_array_equal(np.sort(read["image"].array, axis=None), np.sort(VALUES % 2, axis=None))


def test_h5_does_not_lead_to_other_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = VALUES
    (tmp_path / "raw.bin").write_bytes(VALUES.tobytes())
    layout = h5py.VirtualLayout(VALUES.shape, "i2")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", VALUES.shape)
    made = {
        "external link": lambda file: file.__setitem__("image", h5py.ExternalLink("other.h5", "image")),
        "external storage": lambda file: file.create_dataset(
            "image", VALUES.shape, "i2", external=[(str(tmp_path / "raw.bin"), 0, 48)]
        ),
        "virtual": lambda file: file.create_virtual_dataset("image", layout),
        "dangling": lambda file: file.__setitem__("image", h5py.SoftLink("/nowhere")),
    }
    for name, make in made.items():
        with h5py.File(tmp_path / "a.h5", "w") as file:
            make(file)
        assert "no dataset of numbers" in refusal(tmp_path / "a.h5"), name


def test_h5_that_announces_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for edge, reason in ((1 << 20, "more than fits in memory"), (1000, "truncated or damaged")):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("image", (edge, edge, edge), "u1", chunks=(1, 100, 100))
        assert reason in refusal(tmp_path / "a.h5")
