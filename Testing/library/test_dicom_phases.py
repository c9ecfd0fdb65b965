"""Cines and series of several image types: listed, and read one phase at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from small_series import Change, item, stack, write_classic, write_enhanced

from mper.dicom.seg_read import read_seg
from mper.dicom.seg_write import write_seg
from mper.dicom.series import open_series, read_series
from mper.io.opened import open_scan
from mper.labels import Segmentation, make_label
from mper.phases import Phases, parse_choice
from mper.provenance import Provenance
from mper.volume import Volume

SLICES, COUNT = 3, 4


def phase(number: int) -> Volume:
    """The volume of a phase, counted from 1; each voxel of each phase is another."""
    volume = stack((SLICES, 5, 4))
    return volume.with_array(volume.array + np.int16(100 * number))


Mark = Callable[[int, int, Dataset], Any]  # of phase and slice, each from 0, and the image


def write_cine(folder: Path, mark: Mark, series: str | None = None) -> str:
    """Each phase as a classic stack of one series, one image a file."""
    for n in range(COUNT):

        def change(k: int, image: Dataset, n: int = n) -> object:
            return mark(n, k, image)

        series = write_classic(folder, phase(n + 1), change, series, prefix=f"p{n}-")
    assert series is not None
    return series


def triggered(n: int, k: int, image: Dataset) -> None:
    image.TriggerTime = 90 * n + k  # each slice has a breath hold, and a heart rate, of its own


def assert_phases(path: Path) -> Phases:
    """Each phase is the one that was written; returns what is told of them."""
    opened = open_series(path)
    assert opened.phases.count == COUNT
    for number in range(1, COUNT + 1):
        volume = opened.read(number).volume
        np.testing.assert_array_equal(volume.array, phase(number).array)
        assert volume.geometry.is_close(phase(number).geometry, 1e-5)
    return opened.phases


def test_the_phases_of_a_cine_are_listed_with_their_trigger_times(tmp_path: Path) -> None:
    write_cine(tmp_path, triggered)
    assert assert_phases(tmp_path) == Phases(COUNT, (1.0, 91.0, 181.0, 271.0), order="TriggerTime")
    with pytest.raises(
        ValueError, match=r"time series of 4 phases \(trigger times 1, 91, 181, 271 ms\); choose with --phase 1 to 4"
    ):
        read_series(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path, phase=3).volume.array, phase(3).array)


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("TemporalPositionIdentifier", [2, 9, 10, 11]),
        ("AcquisitionTime", ["095959", "100000", "100000.5", "100001"]),
        ("AcquisitionDateTime", [f"2020010112000{n}" for n in range(COUNT)]),
        ("InstanceNumber", [1, 2, 3, 10]),
    ],
)
def test_phases_without_trigger_time_are_told_apart_by_what_there_is(
    tmp_path: Path, attribute: str, values: list[object]
) -> None:
    def mark(n: int, k: int, image: Dataset) -> None:
        setattr(image, attribute, values[n] if attribute != "InstanceNumber" else 100 * k + int(str(values[n])))

    def without_number(n: int, k: int, image: Dataset) -> None:
        del image.InstanceNumber
        mark(n, k, image)

    write_cine(tmp_path, without_number)
    assert assert_phases(tmp_path).describe() == f"4 phases (in the order of {attribute})"


def write_enhanced_cine(path: Path, change: Callable[[int, int, Dataset], object]) -> None:
    """All phases in one file, in random order."""
    frames = Volume(np.concatenate([phase(n + 1).array for n in range(COUNT)]), stack((SLICES * COUNT, 5, 4)).geometry)
    places = stack((SLICES, 5, 4)).geometry

    def mark(number: int, frame: Dataset) -> None:
        n, k = divmod(number, SLICES)
        position = [f"{x:.9f}"[:16] for x in places.to_world((k, 0, 0))]
        frame.PlanePositionSequence = item(ImagePositionPatient=position)
        frame.PixelValueTransformationSequence = item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
        change(n, k, frame)

    write_enhanced(path, frames, mark)


def synchronised(n: int, k: int, frame: Dataset) -> None:
    where = {0: "END_DIASTOLE", 2: "END_SYSTOLE"}.get(n, "UNDETERMINED")
    frame.CardiacSynchronizationSequence = item(NominalCardiacTriggerDelayTime=40.0 * n + k, CardiacCyclePosition=where)


def test_an_enhanced_cine_tells_trigger_times_and_which_phases_are_ed_and_es(tmp_path: Path) -> None:
    write_enhanced_cine(tmp_path / "cine.dcm", synchronised)
    told = assert_phases(tmp_path / "cine.dcm")
    assert told.describe() == "4 phases (trigger times 1, 41, 81, 121 ms; ED is phase 1; ES is phase 3)"
    assert [told.chosen(choice) for choice in ("ED", "ES", "2", "all")] == [(1,), (3,), (2,), (1, 2, 3, 4)]


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_mask_of_one_phase_becomes_a_segmentation_of_its_images(tmp_path: Path, enhanced: bool) -> None:
    scan = tmp_path / "scan"
    scan.mkdir()
    if enhanced:
        write_enhanced_cine(scan / "cine.dcm", synchronised)
    else:
        write_cine(scan, triggered)
    series = open_series(scan).read(2)
    array = np.zeros((SLICES, 5, 4), np.uint8)
    array[1, 2, 3] = array[2, 0, 0] = 1
    mask = Segmentation(
        series.volume.with_array(array), (make_label(1, "LV"),), {1: Provenance.of_model("acdc", "1.0.0", "ab" * 32)}
    )
    report = write_seg(tmp_path / "seg.dcm", mask, series)
    assert report.passed
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", series).labelmap.array, array)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    (listed,) = written.ReferencedSeriesSequence
    named = {str(one.ReferencedSOPInstanceUID) for one in listed.ReferencedInstanceSequence}
    assert named == {str(image.SOPInstanceUID) for image in series.instances}
    assert len(named) == (1 if enhanced else SLICES)
    for group in written.PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        k = int(np.linalg.norm(series.positions_mm - place, axis=1).argmin())
        number, frame = series.frames[k]
        assert source.ReferencedSOPInstanceUID == series.instances[number].SOPInstanceUID
        if enhanced:
            assert source.ReferencedFrameNumber == frame + 1
            own = series.instances[0].PerFrameFunctionalGroupsSequence[frame].CardiacSynchronizationSequence[0]
            assert own.NominalCardiacTriggerDelayTime == 40 + k


# Slices in series of their own


def write_slices(folder: Path, count: int, mark: Mark = triggered, phases: int = COUNT) -> list[str]:
    """Each position of a cine as a series; returns their UIDs in the order of the slices."""
    uids = []
    for k in range(count):
        uid = None
        for n in range(phases):
            volume = stack((count, 5, 4))

            def change(number: int, image: Dataset, n: int = n, k: int = k) -> object:
                image.SeriesDescription = "cine sax"
                return mark(n, k, image) if number == k else "leave out"

            uid = write_classic(
                folder, volume.with_array(volume.array + np.int16(100 * n)), change, uid, prefix=f"s{k}p{n}-"
            )
        uids.append(str(uid))
    return uids


@pytest.mark.parametrize("phases", [COUNT, 1])
def test_slices_that_are_series_of_their_own_are_one_stack(tmp_path: Path, phases: int) -> None:
    uids, notes = write_slices(tmp_path / "scan", 5, phases=phases), []
    write_classic(
        tmp_path / "scan", stack((3, 5, 4), (90, 0, 0)), lambda k, _: "leave out" if k else None, prefix="4ch"
    )
    series = open_series(tmp_path / "scan", notify=notes.append)
    assert series.phases.count == phases and notes[0] == "took 5 series of one slice each as one stack"
    read, expected = series.read(phases), stack((5, 5, 4))
    np.testing.assert_array_equal(read.volume.array, expected.array + 100 * (phases - 1))
    assert read.volume.geometry.is_close(expected.geometry, 1e-5)
    assert open_series(tmp_path / "scan", uids[3]).phases.count == phases
    array = np.zeros((5, 5, 4), np.uint8)
    array[1, 2, 3] = 1
    made = {1: Provenance.of_model("acdc", "1.0.0", "ab" * 32)}
    assert write_seg(
        tmp_path / "seg.dcm", Segmentation(read.volume.with_array(array), (make_label(1, "LV"),), made), read
    ).passed
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", read).labelmap.array, array)
    named = {str(one.SeriesInstanceUID) for one in pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence}
    assert named == set(uids)


def test_series_of_one_slice_that_are_no_stack_stay_series(tmp_path: Path) -> None:
    def uneven(n: int, k: int, image: Dataset) -> object:
        triggered(n, k, image)
        return "leave out" if k == 2 else None

    write_slices(tmp_path / "gap", 5, uneven)
    with pytest.raises(ValueError, match=r"holds 4 series, take one of them"):
        open_series(tmp_path / "gap")
    write_slices(tmp_path / "twice", 4)
    write_slices(tmp_path / "twice" / "again", 4)
    for path in (tmp_path / "twice" / "again").iterdir():
        path.rename(tmp_path / "twice" / f"b{path.name}")
    with pytest.raises(ValueError, match=r"holds 8 series, take one of them"):
        open_series(tmp_path / "twice")


# Image types


def of_type(*words: str, echo: float | None = None) -> Change:
    def change(_: int, image: Dataset) -> None:
        image.ImageType = ["ORIGINAL", "PRIMARY", *words]
        if echo:
            image.EchoTime = echo

    return change


def write_types(folder: Path, changes: dict[str, Change]) -> None:
    series = None
    for number, (name, change) in enumerate(changes.items(), 1):
        series = write_classic(folder, phase(number), change, series, prefix=name)


def array_of(folder: Path, name: str | None) -> np.ndarray:
    return np.asarray(open_series(folder, image_type=name).read().volume.array)


def test_image_types_of_one_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    write_types(tmp_path, {"m": of_type("M", "ND"), "p": of_type("P", "ND")})
    with pytest.raises(
        ValueError, match=r"it holds 2 image types: M \(3 images\), P \(3 images\); choose one with --image-type"
    ):
        open_series(tmp_path)
    for name in ("P", "p", "ORIGINAL\\PRIMARY\\P\\ND", "nd/p"):
        np.testing.assert_array_equal(array_of(tmp_path, name), phase(2).array)
    for name, told in (("WATER", "'WATER' is no image type of the series"), ("ND", "'ND' is several image types")):
        with pytest.raises(ValueError, match=told):
            open_series(tmp_path, image_type=name)


def test_a_type_whose_words_another_has_too_is_named_in_full(tmp_path: Path) -> None:
    write_types(tmp_path, {"a": of_type("M"), "b": of_type("M", "NORM")})
    np.testing.assert_array_equal(array_of(tmp_path, "NORM"), phase(2).array)
    np.testing.assert_array_equal(array_of(tmp_path, "ORIGINAL\\PRIMARY\\M"), phase(1).array)


def test_echoes_are_types_too(tmp_path: Path) -> None:
    write_types(tmp_path, {"a": of_type("M", echo=2.3), "b": of_type("M", echo=4.6)})
    with pytest.raises(ValueError, match=r"TE=2.3 \(3 images\), TE=4.6 \(3 images\)"):
        open_series(tmp_path)
    np.testing.assert_array_equal(array_of(tmp_path, "te=4.6"), phase(2).array)


def test_types_and_phases_are_chosen_together(tmp_path: Path) -> None:
    def mark(n: int, k: int, image: Dataset) -> None:
        image.ImageType = ["ORIGINAL", "PRIMARY", "MP"[n % 2]]
        image.TriggerTime = 50 * (n // 2)

    write_cine(tmp_path, mark)
    opened = open_series(tmp_path, image_type="P")
    assert opened.phases.times_ms == (0.0, 50.0)
    np.testing.assert_array_equal(opened.read(2).volume.array, phase(4).array)


def test_types_that_never_share_a_position_are_one_stack(tmp_path: Path) -> None:
    write_classic(tmp_path, phase(1), lambda k, image: of_type("M", *["NORM"] * (k > 0))(k, image))
    np.testing.assert_array_equal(array_of(tmp_path, None), phase(1).array)
    np.testing.assert_array_equal(array_of(tmp_path, "M"), phase(1).array)
    with pytest.raises(ValueError, match="holds no images of the type 'P'"):
        open_series(tmp_path, image_type="P")


# What is refused


def test_a_cine_that_lacks_an_image_is_refused(tmp_path: Path) -> None:
    def mark(n: int, k: int, image: Dataset) -> object:
        triggered(n, k, image)
        return "leave out" if (n, k) == (2, 1) else None

    write_cine(tmp_path, mark)
    with pytest.raises(ValueError, match="its 3 positions hold 3 to 4 images each: is one missing"):
        open_series(tmp_path)


def test_duplicates_within_a_cine_are_dropped_and_different_images_refused(tmp_path: Path) -> None:
    write_cine(tmp_path, triggered)
    one = next(tmp_path.glob("p2-*"))
    (tmp_path / "copy").write_bytes(one.read_bytes())
    assert_phases(tmp_path)
    image = pydicom.dcmread(one)
    image.PixelData = bytes(len(image.PixelData))
    image.save_as(tmp_path / "copy")
    with pytest.raises(ValueError, match="share a position with another that has different pixels"):
        open_series(tmp_path)


def test_every_phase_has_to_be_a_regular_stack(tmp_path: Path) -> None:
    def mark(n: int, k: int, image: Dataset) -> object:
        triggered(n, k, image)
        return "leave out" if k == 2 else None

    places = stack((SLICES + 1, 5, 4))
    series = None
    for n in range(COUNT):
        series = write_classic(tmp_path, places, lambda k, image, n=n: mark(n, k, image), series, prefix=f"p{n}-")
    with pytest.raises(ValueError, match="slices are missing"):
        open_series(tmp_path)


# Choices


def test_a_choice_stands_for_phases_that_are_there() -> None:
    series, volume = Phases(12, end_systole=5), Phases()
    assert [parse_choice(text) for text in ("3", " 07", "ed", "Es", "ALL")] == ["3", "7", "ED", "ES", "all"]
    assert series.chosen("12") == (12,) and series.chosen("ES") == (5,) and series.chosen("ED") == ()
    assert volume.chosen(None) == volume.chosen("1") == volume.chosen("all") == (1,)
    for phases, choice, told in (
        (series, None, "12 phases .ES is phase 5.; choose with --phase 1 to 12, ED, ES or all"),
        (series, "13", "no phase 13; it is 12 phases"),
        (volume, "2", "no phase 2; it is one volume"),
        (volume, "ED", "one volume, it has no end diastole; leave --phase ED out"),
    ):
        with pytest.raises(ValueError, match=told):
            phases.chosen(choice)
    for text in ("0", "-1", "1.5", "", "systole"):
        with pytest.raises(ValueError, match="is no phase"):
            parse_choice(text)
    with pytest.raises(ValueError, match="cannot be phase 13"):
        Phases(12, end_diastole=13)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scan/Info.cfg", "ED: 1\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 4\n"),
        ("scan.json", '{"es": 3, "ED": "1", "site": [1]}'),
    ],
)
def test_a_file_next_to_the_scan_says_which_phases_are_ed_and_es(
    tmp_path: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cine(tmp_path / "scan", triggered)
    (tmp_path / name).write_text(text, encoding="utf-8")
    phases = open_scan(tmp_path / "scan").phases
    assert (phases.end_diastole, phases.end_systole) == (1, 3)
    monkeypatch.chdir(tmp_path / "scan")  # which has no name
    assert open_scan(Path()).phases.end_systole == (3 if name.startswith("scan/") else None)
    (tmp_path / name).write_text(text.replace("3", "9"), encoding="utf-8")
    notes: list[str] = []
    assert open_scan(tmp_path / "scan", notify=notes.append).phases.end_systole is None
    assert len(notes) == 1 and "not used" in notes[0]
    for other in ("no numbers", '{"ED": ', "[1]", ""):
        (tmp_path / name).write_text(other, encoding="utf-8")
        assert open_scan(tmp_path / "scan").phases.end_diastole is None


def test_info_cfg_is_not_used_where_its_folder_holds_two_cines(tmp_path: Path) -> None:
    uid = write_cine(tmp_path, triggered)
    (tmp_path / "Info.cfg").write_text("ED: 1\nES: 3\n", encoding="utf-8")
    notes: list[str] = []
    assert open_scan(tmp_path, uid, notes.append).phases.end_systole == 3
    assert notes == ["ED and ES are those of Info.cfg: ED 1, ES 3"]
    write_cine(tmp_path / "second", triggered)
    for file in list((tmp_path / "second").iterdir()):
        file.rename(tmp_path / f"second-{file.name}")
    notes.clear()
    assert open_scan(tmp_path, uid, notes.append).phases.end_systole is None
    assert notes[0].startswith("Info.cfg is not used: its folder holds another time series, ")
