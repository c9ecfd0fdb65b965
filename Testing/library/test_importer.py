"""Every layout comes in with its masks, labels and splits; an import can be repeated and loses nothing."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from small_series import stack, write_cine, write_classic
from small_sources import GRID, Notices, equal, la_source, lists, load, mask, nnunet_source, scan, write, write_h5

from mper.datasets.dataset import Dataset
from mper.datasets.importer import ImportSummary, import_source
from mper.datasets.layouts import find_source
from mper.datasets.maintenance import exclude_case
from mper.datasets.mask_mapping import mask_values
from mper.io import write_segmentation
from mper.labels import Segmentation, make_label
from mper.progress import Cancelled, Progress
from mper.provenance import Provenance
from mper.volume import Geometry, Volume

# ---- layouts


def test_la_challenge_folders(tmp_path: Path) -> None:
    source = la_source(tmp_path / "söurce dir", "ba")
    (source / "b" / "laendo.nrrd").unlink()
    dataset = load(source, tmp_path / "dataset")
    assert dataset.labels == (make_label(1, "LA"),)
    assert dataset.splits == {"train": ("a", "b")}
    equal(dataset.case("a").image(), scan(ord("a")))
    equal(dataset.case("a").label(), mask(1))
    assert dataset.case("b").label() is None
    assert [(r.author, r.how) for r in dataset.case("a").revisions()] == [("LA challenge", "imported")]
    told = dataset.case("a").source
    assert told.pop("sha256") and told == {"format": "LA challenge", "file": "a/lgemri.nrrd"}


def test_la_masks_hold_two_values(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "a")
    write(source / "a" / "laendo.nrrd", mask(2))
    with pytest.raises(
        ValueError, match=r"none of the 1 cases .* values \[0, 2\]; masks of the LA challenge hold 0 and 255"
    ):
        load(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_uamt_h5_with_axes_x_y_z(tmp_path: Path) -> None:
    xyz = np.random.default_rng(0).normal(size=(9, 8, 6)).astype(np.float32)
    label = (xyz > 1).astype(np.uint8)
    write_h5(tmp_path / "s" / "2018LA_Seg_Training Set" / "A" / "mri_norm2.h5", {"image": xyz, "label": label})
    lists(tmp_path / "s", train="A")
    dataset = load(tmp_path / "s", tmp_path / "d")
    case = dataset.split("train")[0]
    equal(case.image(), Volume(xyz.transpose(2, 1, 0), Geometry.unknown((6, 8, 9))))
    equal(case.label(), Volume(label.transpose(2, 1, 0), Geometry.unknown((6, 8, 9))))
    assert case.image().geometry.spacing_mm is None


@pytest.mark.parametrize("place", ["volumes", "data", "."])
def test_acdc_h5_with_slices_first(tmp_path: Path, place: str) -> None:
    image = np.random.default_rng(0).random((3, 8, 7)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 4, image.shape).astype(np.uint8)
    for frame in ("frame01", "frame02"):
        arrays = {"image": image, "label": label, "scribble": label.astype(np.uint16)}
        write_h5(tmp_path / "s" / place / f"patient002_{frame}.h5", arrays)
    (tmp_path / "s" / "train.list").write_text("patient002_frame02\npatient002_frame01\n", encoding="utf-8")
    dataset = load(tmp_path / "s", tmp_path / "d")
    assert [label.name for label in dataset.labels] == ["RV", "MYO", "LV"]
    assert dataset.splits == {"train": ("patient002_frame02", "patient002_frame01")}
    equal(dataset.split("train")[0].image(), Volume(image, Geometry.unknown(image.shape)))
    equal(dataset.split("train")[0].label(), Volume(label, Geometry.unknown(image.shape)))


def test_scribbles_of_acdc_are_labels_of_a_part(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((3, 8, 7)).astype(np.float32)
    scribble = np.random.default_rng(1).integers(0, 5, image.shape).astype(np.uint16)
    label = np.where(scribble == 4, 2, scribble).astype(np.uint8)
    write_h5(tmp_path / "s" / "patient002_frame01.h5", {"image": image, "label": label, "scribble": scribble})
    import_source(tmp_path / "s", tmp_path / "d", scribbles=True)
    case = Dataset.open(tmp_path / "d").case("patient002_frame01")
    found = case.label()
    assert found is not None and case.is_partial
    assert np.array_equal(found.array, np.where(scribble == 4, 255, scribble)) and 0 in found.array
    import_source(tmp_path / "s", tmp_path / "d")
    assert not case.is_partial and len(case.revisions()) == 2, "the whole masks may follow"


def test_scribbles_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is LA challenge, which has no scribbles; only ACDC h5 has them"):
        import_source(la_source(tmp_path / "la", "a"), tmp_path / "d", scribbles=True)
    image = np.random.default_rng(0).random((3, 8, 7)).astype(np.float32)
    write_h5(tmp_path / "s" / "a.h5", {"image": image, "label": np.ones(image.shape, np.uint8)})
    with pytest.raises(ValueError, match="holds image, label and no dataset 'scribble'"):
        import_source(tmp_path / "s", tmp_path / "d", scribbles=True)


def test_nnunet_raw_with_an_ignore_label(tmp_path: Path) -> None:
    dataset = load(nnunet_source(tmp_path / "s"), tmp_path / "d")
    assert [(label.value, label.name) for label in dataset.labels] == [(1, "liver"), (2, "spleen")]
    assert dataset.splits == {"train": ("x_1", "x_2"), "test": ("x_9",)}
    equal(dataset.case("x_1").image(), scan(1, np.int16))
    equal(dataset.case("x_1").label(), mask(2))
    equal(dataset.case("x_2").label(), mask(255))
    assert dataset.case("x_9").label() is None


def test_nnunet_splits_by_name_and_labels_renamed(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s")
    assert load(source, tmp_path / "d", "test").splits == {"test": ("x_9",)}
    assert load(source, tmp_path / "d", "train").splits["train"] == ("x_1", "x_2")
    assert load(source, tmp_path / "d", "all").splits["all"] == ("x_1", "x_2", "x_9")
    assert [label.name for label in load(source, tmp_path / "e", labels=["Leber", "Milz"]).labels] == ["Leber", "Milz"]


def test_nnunet_of_version_1(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s", labels={"0": "background", "2": "a", "3": "b"}, modality={"0": "MR"})
    dataset = load(source, tmp_path / "d")
    assert [(label.value, label.name) for label in dataset.labels] == [(2, "a"), (3, "b")]
    equal(dataset.case("x_2").label(), mask(3))


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, r"2 channels \(T1, T2\)"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "whole are regions"),
        ({"labels": ["liver"]}, "names no labels"),
        ({"file_ending": ".png"}, r"\.png files; mper reads"),
        ({"file_ending": ".mha"}, "holds no scans"),
        ({"labels": {"background": 0, "liver": 1}}, r"none of the .* holds values \[2\]"),
    ],
)
def test_nnunet_that_does_not_fit_is_refused(tmp_path: Path, told: dict[str, object], match: str) -> None:
    source = nnunet_source(tmp_path / "s", **told)
    shutil.rmtree(source / "imagesTs")
    with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
        load(source, tmp_path / "d")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "d").exists()


def test_nnunet_with_a_second_channel_is_refused(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s")
    write(source / "imagesTr" / "x_1_0001.nii.gz", scan(3))
    with pytest.raises(ValueError, match=r"x_1_0001\.nii\.gz is not the one channel"):
        load(source, tmp_path / "d")


def test_plain_scans_are_unlabelled_cases(tmp_path: Path) -> None:
    write(tmp_path / "s" / "one.two.nii.gz", scan(1))
    write(tmp_path / "s" / "b.mha", scan(2))
    dataset = load(tmp_path / "s", tmp_path / "d", labels=["LA", "RA"])
    assert dataset.splits == {"train": ("b", "one.two")}
    assert [label.name for label in dataset.labels] == ["LA", "RA"]
    equal(dataset.case("one.two").image(), scan(1))
    assert dataset.case("b").revisions() == []
    more = tmp_path / "c.nrrd"
    write(more, scan(3))
    notes: list[str] = []
    import_source(more, tmp_path / "d", "train", notify=notes.append)
    assert Dataset.open(tmp_path / "d").splits == {"train": ("b", "one.two", "c")} and notes == []
    write(tmp_path / "again.nrrd", scan(2))
    import_source(tmp_path / "again.nrrd", tmp_path / "d", "dev", notify=notes.append)
    assert notes == ["1 scans are in the dataset as several cases; keep those of one scan in one split: again = b"]


def write_series(folder: Path, seed: int) -> None:
    """A CT series under the name of a patient."""
    folder.mkdir(parents=True)
    series, frame = generate_uid(), generate_uid()
    for k in range(4):
        slice_ = pydicom.Dataset()
        slice_.PatientName, slice_.PatientID = "Mustermann^Erika", "4711"
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, generate_uid()
        slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID, slice_.Modality = series, frame, "CT"
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 2.0 * k], [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [0.8, 0.8], 2.0
        slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = 6, 5, 1
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 0
        slice_.PhotometricInterpretation = "MONOCHROME2"
        slice_.PixelData = np.random.default_rng(seed + k).integers(0, 99, (6, 5)).astype("<u2").tobytes()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.save_as(folder / f"{9 - k}", enforce_file_format=True)


def test_dicom_series_come_in_without_patient_data(tmp_path: Path) -> None:
    write_series(tmp_path / "s" / "Mustermann^Erika" / "ct", 0)
    write_series(tmp_path / "s" / "Mustermann^Erika" / "ct 2", 50)
    heard = Notices()
    import_source(tmp_path / "s", tmp_path / "d", None, ["LA"], notify=heard)
    dataset = Dataset.open(tmp_path / "d")
    assert len(dataset.splits["train"]) == 2
    for case in dataset.split("train"):
        assert case.image().geometry.spacing_mm == pytest.approx((2, 0.8, 0.8))
        assert set(case.source) == {"format", "sha256"}
        assert any(case.id in notice and "Erika" in notice for notice in heard)  # people are told which is which
    written = "".join(str(p) + p.read_text(encoding="latin-1") for p in (tmp_path / "d").rglob("*") if p.is_file())
    assert "Mustermann" not in written and "4711" not in written
    before = dataset.cases
    assert load(tmp_path / "s", tmp_path / "d").cases == before  # known again by the series


# ---- splits


def test_each_list_becomes_a_split_in_its_order(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "abcd")
    lists(source, val="b", slices="xy")
    (source / "train.list").write_text("\ufeffc,1\r\n a.h5 \r\n\r\na\r\nz\r\ny/mri_norm2.h5", encoding="utf-8")
    heard = Notices()
    import_source(source, tmp_path / "d", notify=heard)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.splits == {"train": ("c", "a"), "val": ("b",)}
    assert dataset.cases == ("a", "b", "c")
    assert any("2 of the 4 cases in train.list are not in" in notice and "z, y" in notice for notice in heard)
    assert any("slices.list names no case" in notice for notice in heard)
    assert any("1 cases" in notice and "in no list" in notice and notice.endswith("d") for notice in heard)


def test_a_named_split_takes_its_list_or_everything(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "abc")
    lists(source, val="cb")
    assert load(source, tmp_path / "d", "val").splits == {"val": ("c", "b")}
    assert load(source, tmp_path / "d", "train").splits == {"val": ("c", "b"), "train": ("a", "b", "c")}


def test_lists_that_name_no_case_are_refused(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "a")
    lists(source, test="xy")
    for split in ("test", None):
        with pytest.raises(ValueError, match=r"test\.list in .* name none of its 1 cases \(a\)"):
            load(source, tmp_path / "d", split)
    with pytest.raises(ValueError, match="a split needs a name"):
        load(source, tmp_path / "d", " ")
    (source / "test.list").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a list of cases"):
        load(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


# ---- time series and image types


def test_phases_of_time_series_become_cases(tmp_path: Path) -> None:
    volume = stack((5, 8, 9))
    phases = [volume.with_array(volume.array + np.int16(100 * n)) for n in range(3)]
    source = tmp_path / "scans"
    write_cine(source / "dicom", phases)
    (source / "dicom" / "Info.cfg").write_text("ED: 1\nES: 3\n", encoding="utf-8")
    (name,) = find_source(source).cases
    for choice, numbers in (("2", [2]), ("all", [1, 2, 3]), ("ES", [3])):
        target = tmp_path / choice
        import_source(source, target, labels=["LV"], phase=choice)
        dataset = Dataset.open(target)
        assert dataset.splits == {"train": tuple(f"{name}-phase-{n}" for n in numbers)}
        for n in numbers:
            case = dataset.case(f"{name}-phase-{n}")
            np.testing.assert_array_equal(case.image().array, phases[n - 1].array)
            assert case.source["phase"] == str(n)
    for choice, told in ((None, "3 phases .*; choose with --phase 1 to 3"), ("4", "no phase 4")):
        with pytest.raises(ValueError, match=told):
            import_source(source, tmp_path / "none", labels=["LV"], phase=choice)
    (source / "dicom" / "Info.cfg").unlink()
    with pytest.raises(ValueError, match=r"does not say which phase is ES: .* --phase 1 to 3, or all"):
        import_source(source, tmp_path / "none", labels=["LV"], phase="ES")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="without masks"):
        import_source(la_source(tmp_path / "la", "a"), tmp_path / "none", phase="ED")


def test_files_of_one_volume_need_no_choice_and_4d_files_are_listed(tmp_path: Path) -> None:
    series = sitk.JoinSeries([sitk.GetImageFromArray(scan(n, np.int16).array) for n in (1, 2)])
    sitk.WriteImage(series, str(tmp_path / "cine.nii.gz"))
    with pytest.raises(ValueError, match=r"2 phases.*; choose with --phase 1 to 2"):
        import_source(tmp_path / "cine.nii.gz", tmp_path / "d", labels=["LV"])
    write(tmp_path / "still.nrrd", scan(3))
    import_source(tmp_path, tmp_path / "d", labels=["LV"], phase="all")
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.cases == ("cine-phase-1", "cine-phase-2", "still")
    np.testing.assert_array_equal(dataset.case("cine-phase-2").image().array, scan(2, np.int16).array)
    assert "phase" not in dataset.case("still").source


def test_one_of_several_image_types_is_imported(tmp_path: Path) -> None:
    series = None
    for n, name in enumerate("MP"):
        volume = stack((5, 8, 9))
        volume = volume.with_array(volume.array + np.int16(100 * n))
        series = write_classic(
            tmp_path / "dicom",
            volume,
            lambda _, i, name=name: setattr(i, "ImageType", ["ORIGINAL", name]),
            series,
            name,
        )
    with pytest.raises(ValueError, match=r"2 image types: M .*choose one with --image-type"):
        import_source(tmp_path / "dicom", tmp_path / "d", labels=["LV"])
    import_source(tmp_path / "dicom", tmp_path / "d", labels=["LV"], image_type="P")
    (case,) = Dataset.open(tmp_path / "d").split("train")
    np.testing.assert_array_equal(case.image().array, stack((5, 8, 9)).array + 100)
    assert case.source["image_type"] == "P"


# ---- again


def test_an_interrupted_import_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "abcd")
    lists(source, train="dbca")

    def cancel(progress: Progress) -> None:
        if "(3 of 4)" in progress.message:
            raise Cancelled

    with pytest.raises(Cancelled):
        import_source(source, tmp_path / "d", report=cancel)
    assert Dataset.open(tmp_path / "d").splits == {}
    summary = import_source(source, tmp_path / "d")
    assert (summary.added, summary.kept, summary.labels_added) == (2, 2, 2)
    whole = load(source, tmp_path / "whole")
    again = Dataset.open(tmp_path / "d")
    assert again.splits == whole.splits == {"train": ("d", "b", "c", "a")}
    for case in again.split("train"):
        equal(case.image(), whole.case(case.id).image())
        equal(case.label(), mask(1))
    assert import_source(source, tmp_path / "d") == ImportSummary("LA challenge", 0, 4, 0, {"train": 4}, {})


def test_what_a_killed_import_left_is_removed_by_the_next(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "a")
    cases = load(source, tmp_path / "d").path / "cases"
    for name, hours in ((".old.part", 2), (".another-program-is-at-it.part", 0)):
        (cases / name).mkdir()
        (cases / name / "image.nrrd").write_bytes(b"half")
        os.utime(cases / name, (time.time() - 3600 * hours,) * 2)
    assert load(source, tmp_path / "d").cases == ("a",)
    assert sorted(path.name for path in cases.iterdir()) == [".another-program-is-at-it.part", "a"]


def test_cases_that_arrive_later_find_their_place(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "ac")
    lists(source, train="cba")
    assert load(source, tmp_path / "d").splits == {"train": ("c", "a")}
    la_source(source, "b")
    assert load(source, tmp_path / "d").splits == {"train": ("c", "b", "a")}


def test_a_different_label_is_a_new_revision_and_an_old_one_never_returns(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "a")
    case = load(source, tmp_path / "d").case("a")
    empty = mask(0)
    write(source / "a" / "laendo.nrrd", empty)
    assert import_source(source, tmp_path / "d").labels_added == 1
    equal(case.label(), empty)
    case.add_label(mask(1), author="me", how="hand", parent=2)
    assert import_source(source, tmp_path / "d").labels_added == 0  # a hand's correction is not taken back
    equal(case.label(), mask(1))


def segmented(source: Path, *ids: str, made: Provenance | None, value: int = 1) -> None:
    """Scans with a ``.seg.nrrd`` each, whose segment was made so."""
    for case_id in ids:
        write(source / f"{case_id}.nrrd", scan(ord(case_id[-1])))
        found = Segmentation(mask(value), (make_label(value, "LA"),), {value: made} if made else {})
        write_segmentation(source / f"{case_id}.seg.nrrd", found)


def test_an_unedited_mask_of_a_model_is_no_label_but_may_be_a_draft(tmp_path: Path) -> None:
    """A mask that a person corrected, or drew, is a label."""
    model, source, target = Provenance.of_model("la", "2.0.1", "8d969eef"), tmp_path / "s", tmp_path / "d"
    segmented(source, "case1", "case2", made=model)
    segmented(source, "case3", made=model.edited())
    segmented(source, "case4", made=None)
    notices = Notices()
    assert import_source(source, target, notify=notices).labels_added == 2
    line = "{0}: {0}.seg.nrrd is an unedited mask of MPER la 2.0.1, no person's label, and is not imported; "
    line += "correct it, or take it with --model-masks"
    assert [notice for notice in notices if "unedited" in notice] == [line.format("case1"), line.format("case2")]
    dataset = Dataset.open(target)
    assert dataset.labelled == ("case3", "case4") and len(dataset.cases) == 4
    (corrected,) = dataset.case("case3").revisions()
    assert (corrected.how, corrected.edited, corrected.model) == ("imported", True, ("la", "2.0.1"))

    dataset.case("case2").add_label(mask(), author="A. Reader", how="hand")
    for added in (1, 0):  # the second time it is there
        notices.clear()
        summary = import_source(source, target, notify=notices, model_masks=True)
        assert (summary.labels_added, summary.drafts_added) == (0, added)
        assert any(notice.endswith("is not imported: the case has a label") for notice in notices)
    (draft,) = dataset.case("case1").revisions()
    assert (draft.how, draft.edited, draft.model) == ("model", False, ("la", "2.0.1")) and dataset.case(
        "case1"
    ).is_draft
    assert [revision.how for revision in dataset.case("case2").revisions()] == ["hand"]


def test_of_two_segmentations_of_a_scan_that_of_a_person_is_the_label(tmp_path: Path) -> None:
    segmented(tmp_path / "s", "a", made=Provenance.of_model("la", "2.0.1", "8d969eef"))
    own = Segmentation(mask(2), (make_label(2, "LA"),))
    write_segmentation(tmp_path / "s" / "a_mine.seg.nrrd", own)
    notices = Notices()
    import_source(tmp_path / "s", tmp_path / "d", notify=notices)
    (label,) = Dataset.open(tmp_path / "d").case("a").revisions()
    assert (label.how, label.model) == ("imported", None)
    assert "a.seg.nrrd left out: a_mine.seg.nrrd holds LA, too, and is taken" in notices


def test_unlabelled_voxels_of_a_segmentation_are_no_structure(tmp_path: Path) -> None:
    source, partly = tmp_path / "s", mask(1).array.copy()
    partly[:2] = 255
    write(source / "a.nrrd", scan(1))
    labelmap = mask(1).with_array(partly.astype(np.uint8))
    write_segmentation(source / "a.seg.nrrd", Segmentation(labelmap, (make_label(1, "LA"),)))
    dataset = load(source, tmp_path / "d")
    assert [label.name for label in dataset.labels] == ["LA"]
    np.testing.assert_array_equal(dataset.case("a").label().array, partly)
    assert dataset.case("a").is_partial


def test_segmentations_of_several_structures_of_a_scan_are_one_label(tmp_path: Path) -> None:
    source, drawn = tmp_path / "s", mask(1).array != 0
    first, second, third = (drawn & (np.indices(drawn.shape)[2] % 3 == n) for n in range(3))
    write(source / "a.nrrd", scan(1))
    for name, voxels in (("LA", first), ("RA", second)):
        labelmap = mask(1).with_array(voxels.astype(np.uint8))
        write_segmentation(source / f"a_{name}.seg.nrrd", Segmentation(labelmap, (make_label(1, name),)))
    dataset = load(source, tmp_path / "d")
    assert [label.name for label in dataset.labels] == ["LA", "RA"]
    np.testing.assert_array_equal(dataset.case("a").label().array, first + 2 * second)

    write(source / "a_LV_mask.nrrd", mask(1).with_array(third.astype(np.uint8)))  # a plain mask among them
    dataset = load(source, tmp_path / "e")
    assert [label.name for label in dataset.labels] == ["LA", "LV", "RA"]
    np.testing.assert_array_equal(dataset.case("a").label().array, first + 2 * third + 3 * second)

    write(source / "a_LV_mask.nrrd", mask(1))
    with pytest.raises(ValueError, match=r"a_\w+\.(seg\.)?nrrd overlaps the other masks of its scan"):
        load(source, tmp_path / "f")


def test_a_different_scan_of_the_same_name_is_refused(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "ab")
    load(source, tmp_path / "d")
    write(source / "a" / "lgemri.nrrd", scan(77))
    heard = Notices()
    summary = import_source(source, tmp_path / "d", notify=heard)
    assert "another scan as case 'a'" in summary.failed["a"]
    assert (summary.kept, summary.added, len(heard)) == (1, 0, 1)
    equal(Dataset.open(tmp_path / "d").case("a").image(), scan(ord("a")))


def test_a_bad_case_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "abcde")
    truncated = source / "a" / "lgemri.nrrd"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    other = Geometry.from_axes((500, -3, 9), (2, 0.7, 0.9), np.eye(3)[:, ::-1], (4, 6, 5))
    write(source / "b" / "laendo.nrrd", mask(255, grid=other))
    write(source / "c" / "lgemri.nrrd", mask(0))
    write(source / "e" / "lgemri.nrrd", Volume(np.full(GRID.shape, np.nan, np.float32), GRID))
    heard = Notices()
    summary = import_source(source, tmp_path / "d", notify=heard)
    assert list(summary.failed) == ["a", "b", "c", "e"]
    for case_id, words in (("a", "truncated"), ("b", "outside of the scan"), ("c", "empty"), ("e", "NaN")):
        assert words in summary.failed[case_id]
        assert any(notice.startswith(f"{case_id} was not imported: ") for notice in heard)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.cases == ("d",)  # no case without its label, either
    assert dataset.splits == {"train": ("d",)}
    assert "4 not imported" in summary.describe()


def test_a_mask_of_another_grid_is_resampled_to_the_scan_and_an_empty_one_is_noted(tmp_path: Path) -> None:
    """Every voxel eightfold, in half the spacing, is the same mask."""
    source = la_source(tmp_path / "s", "ab")
    affine = GRID.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= affine[:3, :3].sum(axis=1) / 2
    fine = mask(255).array.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write(source / "a" / "laendo.nrrd", Volume(fine, Geometry(affine, fine.shape)))
    write(source / "b" / "laendo.nrrd", mask(0))
    heard = Notices()
    summary = import_source(source, tmp_path / "d", notify=heard)
    assert summary.labels_added == 2 and not summary.failed
    dataset = Dataset.open(tmp_path / "d")
    equal(dataset.case("a").label(), mask(1))
    equal(dataset.case("b").label(), mask(0))
    assert any(notice.startswith("a: ") and "resampled" in notice and "100%" in notice for notice in heard)
    assert any(notice.startswith("b: ") and "is empty" in notice for notice in heard)


@pytest.mark.parametrize("name", ["LA", "left atrium", "Left Atrium (LA)"])
def test_masks_take_the_value_that_the_structure_has_in_the_dataset(tmp_path: Path, name: str) -> None:
    heart = Dataset.create(tmp_path / "d", "heart", [make_label(1, "RV"), make_label(3, "LA")])
    case = load(la_source(tmp_path / "s", "a"), heart.path, labels=[name]).case("a")
    equal(case.label(), mask(3))


@pytest.mark.parametrize("name", ["LA (wall)", "LA (1)", "wall (LA)"])
def test_what_is_only_named_after_a_structure_is_another_one(tmp_path: Path, name: str) -> None:
    heart = Dataset.create(tmp_path / "d", "heart", [make_label(1, "RV"), make_label(3, "LA")])
    with pytest.raises(ValueError, match="are not those of the dataset"):
        load(la_source(tmp_path / "s", "a"), heart.path, labels=[name])


def test_two_structures_of_a_mask_that_are_one_of_the_dataset_are_not_merged(tmp_path: Path) -> None:
    """Where only one of them has voxels it is that structure."""
    labels = (make_label(1, "LA"), make_label(2, "Left atrium"))
    both = mask(1).with_array(mask(1).array * (1 + np.indices(GRID.shape)[2] % 2).astype(np.uint8))
    for case_id, found in (("a", both), ("b", mask(2))):
        write(tmp_path / "s" / f"{case_id}.nrrd", scan(ord(case_id)))
        write_segmentation(tmp_path / "s" / f"{case_id}.seg.nrrd", Segmentation(found, labels))
    heart = Dataset.create(tmp_path / "d", "heart", [make_label(1, "RV"), make_label(3, "LA")])
    summary = import_source(tmp_path / "s", heart.path)
    assert "LA, Left atrium of the mask would become one structure of the dataset" in summary.failed["a"]
    equal(Dataset.open(heart.path).case("b").label(), mask(3))
    values = mask_values(both, find_source(tmp_path / "s"), heart.labels)
    assert [value.structure for value in values] == [None, None], "a person says what they are"


def test_the_locked_holdout_is_left_alone(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "abc")
    lists(source, train="abc", val="ac")
    load(source, tmp_path / "d", "train").lock_holdout(["b"])
    heard = Notices()
    import_source(source, tmp_path / "d", "train", notify=heard)
    assert Dataset.open(tmp_path / "d").splits == {"train": ("a", "c"), "holdout": ("b",)}
    assert any("b stay in the locked hold-out" in notice for notice in heard)
    with pytest.raises(ValueError, match="'holdout' is the locked hold-out"):
        load(source, tmp_path / "d", "holdout")


def test_an_import_goes_on_after_a_case_of_the_hold_out_was_excluded_and_a_copy_was_locked_with_it(
    tmp_path: Path,
) -> None:
    source = la_source(tmp_path / "s", "acd")
    shutil.copytree(source / "c", source / "b")
    lists(source, train="ab", test="cd")
    dataset = load(source, tmp_path / "d")
    exclude_case(dataset, "d", "me")
    dataset.lock_holdout("test")
    assert dataset.splits == {"train": ("a",), "test": ("c", "b")}
    la_source(source, "e")
    lists(source, train="abe", test="cd")
    write(source / "c" / "laendo.nrrd", mask(0))
    summary = import_source(source, tmp_path / "d")
    assert (summary.added, summary.labels_added) == (1, 2), "of c, too"
    assert Dataset.open(tmp_path / "d").splits == {"train": ("a", "e"), "test": ("c", "b")}
    lists(source, train="ab", test="ce")
    with pytest.raises(ValueError, match="'test' is the locked hold-out"):
        load(source, tmp_path / "d")


# ---- labels and sources that do not fit


def test_labels_must_fit_the_dataset(tmp_path: Path) -> None:
    source = la_source(tmp_path / "s", "a")
    heart = Dataset.create(tmp_path / "d", "heart", [make_label(1, "RV"), make_label(3, "LA")])
    with pytest.raises(ValueError, match=r"labels \(1 Aorta\) are not those of the dataset \(1 RV, 3 LA\)"):
        load(source, heart.path, labels=["Aorta"])
    assert load(source, heart.path, labels=["rv"]).case("a").is_labelled
    assert load(source, tmp_path / "e", labels=["Vorhof"]).labels[0].name == "Vorhof"


def test_unlabelled_scans_need_the_names_of_structures(tmp_path: Path) -> None:
    write(tmp_path / "s" / "a.nrrd", scan(1))
    with pytest.raises(ValueError, match="--labels LA"):
        load(tmp_path / "s", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no scan", encoding="utf-8")
    dataset = Dataset.create(tmp_path / "d", "d", [make_label(1, "LA")])
    for source, match in (
        ("nowhere", "does not exist"),
        ("empty", "holds no scan"),
        ("d", "is a dataset or part of one"),
        ("notes.txt", r"notes\.txt is neither DICOM nor one of"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=match):
            load(tmp_path / source, dataset.path)
    assert dataset.cases == ()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.nrrd", "a.mha"):
        write(tmp_path / "s" / name, scan(1))
    with pytest.raises(ValueError, match="would both be case 'a'"):
        load(tmp_path / "s", tmp_path / "d", labels=["LA"])


def test_a_scan_whose_name_no_case_can_have_fails_alone_even_as_the_first(tmp_path: Path) -> None:
    for name in ("aux.nrrd", "good.nrrd", f"{'x' * 140}.nrrd"):
        write(tmp_path / "s" / name, scan(1))
    summary = import_source(tmp_path / "s", tmp_path / "d", labels=["LA"])
    assert Dataset.open(tmp_path / "d").cases == ("good",) and set(summary.failed) == {"aux", "x" * 140}
    assert "cannot be the name of a case" in summary.failed["aux"]


def test_a_dataset_that_cannot_be_written_ends_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("disk full")

    source = la_source(tmp_path / "s", "ab")
    load(source, tmp_path / "d")
    la_source(source, "cd")
    monkeypatch.setattr("mper.datasets.dataset.write_json", full_disk)
    with pytest.raises(OSError, match="disk full"):
        load(source, tmp_path / "d")
    assert Dataset.open(tmp_path / "d").cases == ("a", "b")


# ---- real data


def test_real_la_case_in_both_forms(la_data: Path, tmp_path: Path) -> None:
    first = la_data.joinpath("train.list").read_text(encoding="utf-8").split()[0]
    (tmp_path / "s").mkdir()
    shutil.copytree(la_data / first, tmp_path / "s" / first)
    nrrd = load(tmp_path / "s", tmp_path / "nrrd").case(first)
    h5 = load(la_data / "h5", tmp_path / "h5").case(first)
    assert h5.image().geometry.spacing_mm is None
    assert nrrd.image().geometry.spacing_mm == pytest.approx((0.625,) * 3)
    np.testing.assert_array_equal(nrrd.label().array, h5.label().array)  # type: ignore[union-attr]
    x, y = nrrd.image().array.astype(float).ravel(), h5.image().array.astype(float).ravel()
    assert np.corrcoef(x, y)[0, 1] > 0.999999  # one is an affine map of the other


def test_real_la_folder_is_not_imported_twice(la_data: Path) -> None:
    source = find_source(la_data)
    assert source.layout == "LA challenge"
    assert set(la_data.joinpath("train.list").read_text(encoding="utf-8").split()) == set(source.cases)


@pytest.mark.slow
def test_real_acdc_with_the_lists_of_the_literature(acdc_data: Path, tmp_path: Path) -> None:
    heard = Notices()
    summary = import_source(acdc_data, tmp_path / "d", notify=heard)
    assert not summary.failed
    dataset = Dataset.open(tmp_path / "d")
    assert set(dataset.splits) == {"train", "val"}
    listed = acdc_data.joinpath("train.list").read_text(encoding="utf-8").split()
    assert [i for i in listed if i in dataset] == list(dataset.splits["train"])
    assert dataset.case("patient002_frame01").label().array.max() == 3  # type: ignore[union-attr]
    assert any("train_slices.list names no case" in notice for notice in heard)


def test_a_spacing_json_beside_acdc_h5_gives_their_voxel_size(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((3, 8, 7)).astype(np.float32)
    label = np.zeros(image.shape, dtype=np.uint8)
    for patient in ("patient002", "patient003"):
        write_h5(tmp_path / "s" / "volumes" / f"{patient}_frame01.h5", {"image": image, "label": label})
    known = tmp_path / "s" / "spacing.json"
    known.write_text('{"patient002": {"spacing_kji_mm": [10.0, 1.5, 1.25], "ED": 1}}', encoding="utf-8")
    dataset = load(tmp_path / "s", tmp_path / "d")
    case = dataset.case("patient002_frame01")
    assert case.image().geometry.spacing_mm == (10.0, 1.5, 1.25)
    assert case.label().geometry.spacing_mm == (10.0, 1.5, 1.25)  # type: ignore[union-attr]
    assert dataset.case("patient003_frame01").image().geometry.spacing_mm is None


@pytest.mark.parametrize("text", ["[", '{"patient002": 3}', '{"patient002": {"spacing_kji_mm": [10, 0, 1]}}', "[1]"])
def test_a_spacing_json_that_tells_no_voxel_size_is_one_clear_line(tmp_path: Path, text: str) -> None:
    image = np.ones((3, 8, 7), dtype=np.float32)
    write_h5(tmp_path / "patient002_frame01.h5", {"image": image, "label": np.zeros(image.shape, np.uint8)})
    (tmp_path / "spacing.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"spacing.json does not tell voxel sizes as .*; mend it, or move it away"):
        import_source(tmp_path, tmp_path / "d")
