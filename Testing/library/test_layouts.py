"""Scans and masks that lie beside each other become cases with labels, and a mask never becomes a scan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_sources import GRID, Notices, equal, load, mask, nnunet_source, scan, write

from mper.datasets.dataset import Dataset
from mper.datasets.importer import import_source
from mper.datasets.layouts import find_source
from mper.io import write_segmentation
from mper.labels import Segmentation, make_label
from mper.volume import Geometry, Volume

LA = ["LA"]


def pair(folder: Path, image: str, label: str, seed: int, value: int = 1) -> None:
    """A scan and its mask under two names."""
    write(folder / image, scan(seed, np.int16))
    write(folder / label, Volume(mask(1).array.astype(np.int32) * value, GRID))


@pytest.mark.parametrize(
    ("image", "label", "case_id"),
    [
        ("case{}.nii.gz", "case{}_seg.nii.gz", "case{}"),
        ("case{}.nii.gz", "case{}-label.nrrd", "case{}"),
        ("case{}_image.mha", "case{}_label.mha", "case{}"),
        ("case{}.nrrd", "case{}Mask.nrrd", "case{}"),
        ("images/case{}.nii.gz", "labels/case{}.nii.gz", "case{}"),
        ("images/seg{}.nii.gz", "masks/seg{}.nii.gz", "seg{}"),
        ("img/img000{}.nii.gz", "label/label000{}.nii.gz", "img000{}"),
        ("Case_P00{}/Images/Case_P00{}.nii.gz", "Case_P00{}/Contours/Case_P00{}.nii.gz", "Case_P00{}"),
        ("p{}/image.nii.gz", "p{}/label.nii.gz", "p{}"),
        ("p{}/lge.nii.gz", "p{}/segmentation.nii.gz", "p{}-lge"),
        ("p{}/lge.nii.gz", "p{}/la.nii.gz", "p{}-lge"),
        ("case{}.nii.gz", "case{}_LA.nii.gz", "case{}"),
        ("case{}.nii.gz", "case{}_left atrium.nii.gz", "case{}"),
        ("volumes/case{}.nii.gz", "annotations/case{}.nii.gz", "case{}"),
        ("p{}/A{}_sa.nii.gz", "p{}/A{}_sa_gt.nii.gz", "A{}_sa"),
        ("sub-0{}/anat/sub-0{}_T1w.nii.gz", "derivatives/manual/sub-0{}/anat/sub-0{}_T1w_dseg.nii.gz", "sub-0{}_T1w"),
        ("sub-0{}/anat/sub-0{}_bold.nii.gz", "derivatives/x/sub-0{}/anat/sub-0{}_desc-man_mask.nii.gz", "sub-0{}_bold"),
    ],
)
def test_a_mask_is_found_beside_its_scan(tmp_path: Path, image: str, label: str, case_id: str) -> None:
    for n in (1, 2):
        pair(tmp_path / "s", image.replace("{}", str(n)), label.replace("{}", str(n)), seed=n)
    dataset = load(tmp_path / "s", tmp_path / "d", labels=LA)
    ids = tuple(case_id.replace("{}", str(n)) for n in (1, 2))
    assert dataset.cases == ids
    equal(dataset.case(ids[0]).image(), scan(1, np.int16))
    equal(dataset.case(ids[0]).label(), mask(1))


def test_scan_without_a_mask_and_mask_without_a_scan_are_noted(tmp_path: Path) -> None:
    pair(tmp_path / "s", "a.nii.gz", "a_seg.nii.gz", 1)
    pair(tmp_path / "s", "b.nii.gz", "c_seg.nii.gz", 2)
    notices = Notices()
    import_source(tmp_path / "s", tmp_path / "d", labels=LA, notify=notices)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.cases == ("a", "b") and dataset.case("b").label() is None
    assert any(n.startswith("c_seg.nii.gz left out: no scan of that name") for n in notices)
    assert "1 of 2 scans have no mask: b" in notices


def test_segments_bring_their_names(tmp_path: Path) -> None:
    for n, names in enumerate((("LV", "RV"), ("RV",)), start=1):
        write(tmp_path / "s" / f"{n}.nrrd", scan(n))
        labels = tuple(make_label(value, name) for value, name in enumerate(names, start=1))
        write_segmentation(tmp_path / "s" / f"{n}.seg.nrrd", Segmentation(mask(len(names)), labels))
    dataset = load(tmp_path / "s", tmp_path / "d")
    assert [label.name for label in dataset.labels] == ["LV", "RV"]
    for case_id in ("1", "2"):
        equal(dataset.case(case_id).label(), mask(2))


def test_a_plain_mask_under_the_ending_of_slicer_is_a_mask(tmp_path: Path) -> None:
    pair(tmp_path / "source", "p1.nii.gz", "plain.nrrd", 1)
    (tmp_path / "source" / "plain.nrrd").rename(tmp_path / "source" / "p1.seg.nrrd")
    equal(load(tmp_path / "source", tmp_path / "data", labels=LA).case("p1").label(), mask(1))


def test_scans_named_by_a_structure_are_no_masks(tmp_path: Path) -> None:
    for name in ("LA.nrrd", "LV.nrrd", "p1_LA.nrrd", "p2_LA.nrrd"):
        write(tmp_path / name, scan(len(name)))
    assert len(find_source(tmp_path).cases) == 4 and not find_source(tmp_path).masks


def test_masks_of_one_structure_each_become_one_label(tmp_path: Path) -> None:
    other = np.zeros(GRID.shape, np.uint8)
    other[0] = 255
    write(tmp_path / "s" / "case1.nii.gz", scan(1))
    write(tmp_path / "s" / "case1_LA_mask.nii.gz", mask(1))
    write(tmp_path / "s" / "case1_RA_mask.nii.gz", Volume(other, GRID))
    dataset = load(tmp_path / "s", tmp_path / "d")
    assert [(label.value, label.name) for label in dataset.labels] == [(1, "LA"), (2, "RA")]
    equal(dataset.case("case1").label(), Volume(np.where(other, 2, mask(1).array).astype(np.uint8), GRID))
    write(tmp_path / "s" / "case1_RA_mask.nii.gz", mask(1))
    with pytest.raises(ValueError, match="overlaps the other masks of its scan in 12 voxels"):
        load(tmp_path / "s", tmp_path / "e")


def test_bids_table_names_the_labels(tmp_path: Path) -> None:
    pair(tmp_path / "s", "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/x/sub-1/anat/sub-1_dseg.nii.gz", 1, 3)
    table = tmp_path / "s" / "derivatives" / "x" / "dseg.tsv"
    table.write_text("index\tname\n0\tbackground\n3\tMyocardium\n", encoding="utf-8")
    dataset = load(tmp_path / "s", tmp_path / "d")
    assert dataset.labels == (make_label(3, "Myocardium"),)
    equal(dataset.case("sub-1_T1w").label(), mask(3))


@pytest.mark.parametrize("labels", [None, LA, ["left ATRIUM"]])
def test_mmwhs_codes_become_labels(tmp_path: Path, labels: list[str] | None) -> None:
    for n in (1001, 1002):
        pair(tmp_path / "s" / "mr_train", f"mr_train_{n}_image.nii.gz", f"mr_train_{n}_label.nii.gz", n, 420)
    write(tmp_path / "s" / "mr_test" / "mr_test_2001_image.nii.gz", scan(9))
    dataset = load(tmp_path / "s", tmp_path / "d", labels=labels)
    assert dataset.splits == {"train": ("mr_train_1001", "mr_train_1002"), "test": ("mr_test_2001",)}
    names = [label.name for label in dataset.labels]
    assert names == (["LV", "RV", "LA", "RA", "MYO", "AO", "PA"] if labels is None else ["LA"])
    equal(dataset.case("mr_train_1001").label(), mask(dataset.labels[names.index("LA")].value))


def test_structures_that_are_not_asked_for_become_background(tmp_path: Path) -> None:
    write(tmp_path / "s" / "ct_train_1_image.nii.gz", scan(1))
    both = mask(1).array.astype(np.uint16) * 500
    both[0] = 205
    write(tmp_path / "s" / "ct_train_1_label.nii.gz", Volume(both, GRID))
    notices = Notices()
    import_source(tmp_path / "s", tmp_path / "d", labels=["LV"], notify=notices)
    equal(Dataset.open(tmp_path / "d").case("ct_train_1").label(), mask(1))
    assert "the masks also hold RV, LA, RA, MYO, AO, PA: background in this dataset" in notices


def test_mmwhs_value_of_no_structure_is_refused(tmp_path: Path) -> None:
    pair(tmp_path / "s", "mr_train_1_image.nii.gz", "mr_train_1_label.nii.gz", 1, 300)
    with pytest.raises(ValueError, match="holds the value 300; known are 0 and 205, 420"):
        load(tmp_path / "s", tmp_path / "d")


def test_acdc_as_published(tmp_path: Path) -> None:
    for n, part in ((1, "training"), (101, "testing")):
        name = f"patient{n:03d}"
        folder = tmp_path / "s" / part / name
        pair(folder, f"{name}_frame01.nii.gz", f"{name}_frame01_gt.nii.gz", n, 3)
        (folder / f"{name}_4d.nii.gz").write_bytes(b"the whole cycle")
        (folder / "Info.cfg").write_text("ED: 1", encoding="utf-8")
    write(tmp_path / "s" / "la_003.nii.gz", scan(3))
    notices = Notices()
    import_source(tmp_path / "s", tmp_path / "d", notify=notices)
    dataset = Dataset.open(tmp_path / "d")
    assert [label.name for label in dataset.labels] == ["RV", "MYO", "LV"]
    assert dataset.splits == {"train": ("patient001_frame01",), "test": ("patient101_frame01",)}
    equal(dataset.case("patient001_frame01").label(), mask(3))
    assert any("patient001_4d.nii.gz" in notice for notice in notices)
    left_out = "la_003.nii.gz left out: not named as the files of ACDC; import them from a folder of their own"
    assert left_out in notices


def test_lascarqs_takes_the_atrium_and_leaves_the_scars_out(tmp_path: Path) -> None:
    folder = tmp_path / "s" / "train_1"
    pair(folder, "enhanced.nii.gz", "atriumSegImgMO.nii.gz", 1)
    write(folder / "scarSegImgM.nii.gz", mask(1))
    notices = Notices()
    import_source(tmp_path / "s", tmp_path / "d", notify=notices)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.cases == ("train_1",) and [label.name for label in dataset.labels] == ["LA"]
    equal(dataset.case("train_1").label(), mask(1))
    assert notices == ["scarSegImgM.nii.gz left out: scars overlap the atrium, and a voxel has one label"]


def test_a_mask_never_becomes_a_scan(tmp_path: Path) -> None:
    write(tmp_path / "s" / "a.nii.gz", scan(1))
    write(tmp_path / "s" / "a_atrium.nii.gz", mask(1))
    notices = Notices()
    summary = import_source(tmp_path / "s", tmp_path / "d", labels=LA, notify=notices)
    assert summary.added == 1 and list(summary.failed) == ["a_atrium"]
    assert "holds only the values 0, 1 and looks like a mask, not a scan" in summary.failed["a_atrium"]


def test_masks_alone_and_masks_without_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "s" / "labels" / "a.nii.gz", mask(1))
    with pytest.raises(ValueError, match=r"holds masks alone \(a\.nii\.gz\)"):
        load(tmp_path / "s", tmp_path / "d", labels=LA)
    pair(tmp_path / "t", "a.nii.gz", "a_seg.nii.gz", 1)
    with pytest.raises(ValueError, match="the masks of this source have no names; name the structures with --labels"):
        load(tmp_path / "t", tmp_path / "d")
    assert not (tmp_path / "d").exists()


# ---- nnU-Net's dataset.json as programs write it


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ({"background": "0", "liver": "1", "spleen": "2", "ignore": "3"}, [1, 2]),
        ({"background": 0.0, "liver": 1.0, "spleen": 2.0, "ignore": 3.0}, [1, 2]),
        ({"Background": 0, "liver": [1], "spleen": 2, "ignore": 3}, [1, 2]),
    ],
)
def test_nnunet_numbers_of_any_type_are_read(tmp_path: Path, labels: dict[str, object], values: list[int]) -> None:
    dataset = load(nnunet_source(tmp_path / "s", labels=labels), tmp_path / "d")
    assert [label.value for label in dataset.labels] == values
    equal(dataset.case("x_2").label(), mask(255))


def test_nnunet_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s")
    path = source / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [label.name for label in load(source, tmp_path / "d").labels] == ["liver", "spleen"]


def test_nnunet_json_may_list_the_files(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for case_id in ("a", "b"):
        write(source / "in any folder" / f"{case_id}.nrrd", scan(ord(case_id)))
        write(source / "m" / f"{case_id}.nrrd", mask(1))
    files = {n: {"images": [f"in any folder/{n}.nrrd"], "label": f"m/{n}.nrrd"} for n in ("b", "a")}
    entry = {"labels": {"background": 0, "LA": 1}, "channel_names": {"0": "MRI"}, "dataset": files}
    (source / "dataset.json").write_text(json.dumps(entry), encoding="utf-8")
    dataset = load(source, tmp_path / "data")
    assert dataset.splits == {"train": ("b", "a")} and dataset.labels == (make_label(1, "LA"),)
    equal(dataset.case("a").image(), scan(ord("a")))
    equal(dataset.case("b").label(), mask(1))
    (source / "m" / "b.nrrd").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.nrrd, which does not exist"):
        find_source(source)
    files["b"]["images"] *= 2
    (source / "dataset.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(ValueError, match=r"'b' of .* has 2 channels"):
        find_source(source)


def test_nnunet_without_json_takes_names_from_the_command(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s")
    (source / "dataset.json").unlink()
    with pytest.raises(ValueError, match="name the structures with --labels"):
        load(source, tmp_path / "d")
    dataset = load(source, tmp_path / "d", labels=["a", "b", "c"])
    equal(dataset.case("x_2").label(), mask(3))


def test_nnunet_labels_with_a_channel_number_are_noted_with_the_cause(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s")
    for name in ("x_1", "x_2"):
        (source / "labelsTr" / f"{name}.nii.gz").rename(source / "labelsTr" / f"{name}_0000.nii.gz")
    notices = Notices()
    assert import_source(source, tmp_path / "d", notify=notices).labels_added == 0
    assert any("Labels are named <case>, without the channel _0000" in notice for notice in notices)


def test_foreign_dataset_json_hides_no_scans(tmp_path: Path) -> None:
    pair(tmp_path / "s", "a.nii.gz", "a_seg.nii.gz", 1)
    (tmp_path / "s" / "dataset.json").write_text(json.dumps({"name": "other"}), encoding="utf-8")
    assert load(tmp_path / "s", tmp_path / "d", labels=LA).cases == ("a",)


def test_nnunet_task_is_found_below_its_collection(tmp_path: Path) -> None:
    nnunet_source(tmp_path / "s" / "Dataset001_X")
    assert load(tmp_path / "s", tmp_path / "d").cases == ("x_1", "x_2", "x_9")
    nnunet_source(tmp_path / "s" / "Dataset002_Y")
    with pytest.raises(ValueError, match="holds Dataset001_X, Dataset002_Y of nnU-Net; import one of them"):
        load(tmp_path / "s", tmp_path / "e")


# ---- values and grids of masks


@pytest.mark.parametrize(("off", "passes"), [(1e-4, True), (4e-4, True), (5e-3, False), (0.5, False)])
def test_values_almost_whole_are_rounded_with_a_note(tmp_path: Path, off: float, passes: bool) -> None:
    write(tmp_path / "s" / "a.nii.gz", scan(1))
    write(tmp_path / "s" / "a_seg.nii.gz", Volume((mask(1).array * (1 - off)).astype(np.float32), GRID))
    notices = Notices()
    if not passes:
        with pytest.raises(ValueError, match="is not a mask: it holds values that are not whole numbers"):
            load(tmp_path / "s", tmp_path / "d", labels=LA)
        return
    import_source(tmp_path / "s", tmp_path / "d", labels=LA, notify=notices)
    equal(Dataset.open(tmp_path / "d").case("a").label(), mask(1))
    assert sum("from a whole number were rounded" in notice for notice in notices) == 1


def test_mask_of_0_and_255_is_the_only_label_and_never_unlabelled(tmp_path: Path) -> None:
    source = nnunet_source(tmp_path / "s", labels={"background": 0, "LA": 1})
    for name in ("x_1", "x_2"):
        write(source / "labelsTr" / f"{name}.nii.gz", mask(255))
    notices = Notices()
    import_source(source, tmp_path / "d", notify=notices)
    equal(Dataset.open(tmp_path / "d").case("x_1").label(), mask(1))
    assert "x_1: the mask holds 0 and 255: 255 is taken as LA, not as unlabelled" in notices
    source = nnunet_source(tmp_path / "t", labels={"background": 0, "LA": 1, "RA": 2})
    write(source / "labelsTr" / "x_1.nii.gz", mask(255))
    write(source / "labelsTr" / "x_2.nii.gz", mask(255))
    failed = import_source(source, tmp_path / "e").failed
    assert set(failed) == {"x_1", "x_2"}
    assert "255 means unlabelled here; write the values of the labels (1 LA, 2 RA)" in failed["x_1"]


@pytest.mark.parametrize(("off_mm", "passes"), [(1e-4, True), (0.01, True), (0.1, False)])
def test_grids_a_hundredth_of_a_voxel_apart_are_one(tmp_path: Path, off_mm: float, passes: bool) -> None:
    x, y, z = GRID.origin_mm
    moved = Geometry.from_axes((x + off_mm, y, z), GRID.step_lengths, GRID.directions, GRID.shape)
    write(tmp_path / "s" / "a.nrrd", scan(1))
    write(tmp_path / "s" / "a_seg.nrrd", Volume(mask(1).array, moved))
    if passes:
        equal(load(tmp_path / "s", tmp_path / "d", labels=LA).case("a").label(), mask(1))
        return
    with pytest.raises(ValueError, match=r"grid differs .*, up to 0\.1 mm apart"):
        load(tmp_path / "s", tmp_path / "d", labels=LA)


def test_a_mask_that_lost_its_header_is_refused_and_one_stored_in_another_order_is_not(tmp_path: Path) -> None:
    write(tmp_path / "s" / "a.nrrd", scan(1))
    for origin, told in ((GRID.origin_mm, "grid differs"), ((0, 0, 0), "lies outside of the scan")):
        lost = Geometry.from_axes(origin, (1, 1, 1), np.eye(3)[:, ::-1], GRID.shape)
        write(tmp_path / "s" / "a_seg.nrrd", Volume(mask(1).array, lost))
        with pytest.raises(ValueError, match=rf"{told}.*up to .* mm apart"):
            load(tmp_path / "s", tmp_path / "d", labels=LA)
    affine, last = GRID.affine.copy(), GRID.to_world((3, 5, 0))
    affine[:3, :2] *= -1
    affine[:3, 3] = last
    flipped = Geometry(affine, GRID.shape)
    write(tmp_path / "s" / "a_seg.nrrd", Volume(mask(1).array[::-1, ::-1], flipped))
    equal(load(tmp_path / "s", tmp_path / "d", labels=LA).case("a").label(), mask(1))
