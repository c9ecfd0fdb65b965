"""Datasets for other programs, and back: nothing is lost, and no hold-out is among the cases to train on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sources import la_source, load

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.datasets.importer import import_source
from mper.datasets.maintenance import exclude_case, hold_out_more
from mper.datasets.nnunet import nnunet_source
from mper.io import read_labelmap, read_volume, write_volume
from mper.labels import Code, Label, make_label
from mper.progress import Cancelled, Progress
from mper.utils.errors import FAILED, OK
from mper.volume import Geometry, Volume

LAYOUTS = ("nnunet", "bids", "msd")
TURNED = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
MADE: tuple[dict[str, Any], ...] = (
    {"how": "hand"},
    {"how": "imported", "edited": True, "model": ("la", "2.0.1")},
    {"how": "model", "model": ("la", "2.0.1")},
)
ODD = Label(7, "Narbe", Code("SCT", "49755003", "Morphologically abnormal structure"), None, (1, 2, 3))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Values with a gap, several types and grids, a label of a part, cases without a label and split, two hold-outs."""
    made = Dataset.create(tmp_path / "Köln", "Vorhöfe", [make_label(2, "LA"), ODD])
    rng = np.random.default_rng(0)
    types = (np.int16, np.float32, np.uint8, np.int32, np.float64, np.uint16, np.int16, np.int16)
    for n, kind in enumerate(types):
        shape = (4, 5 + n, 6)
        known = Geometry.from_axes((1 / 3, -70.1, 12 + n), (2.5 + n / 7, 0.7, 0.9), TURNED, shape)
        grid = Geometry.unknown(shape) if n == 2 else known
        values = rng.normal(100, 40, shape)
        case = made.add_case(f"case {n}.a-b", Volume(values.clip(0, 250).astype(kind), grid), {"format": "test"})
        mask = rng.choice(np.array([0, 2, 7], np.uint8), shape)
        if n == 1:
            mask[:2] = 255
        if n != 3:
            case.add_label(Volume(np.zeros(shape, np.uint8), grid), author="A", how="hand")
            case.add_label(Volume(mask, grid), author="B", seconds=90.0, **MADE[n % len(MADE)])
    ids = made.cases
    made.add_to_split("train", [ids[1], ids[0], ids[2]])
    made.add_to_split("val", [ids[4]])
    made.add_to_split("test", [ids[5]])
    made.lock_holdout("test")
    hold_out_more(made, [ids[6]], "B")
    exclude_case(made, ids[7], "B")
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_comes_back_whole(
    layout: str, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert main(["export-dataset", str(dataset.path), str(out), "--layout", layout]) == OK
    assert main(["import", str(out), str(back)]) == OK
    assert "the hold-out of the source, split 'test', is locked here too" in capsys.readouterr().err
    found = Dataset.open(back)
    assert found.labels == dataset.labels
    assert found.splits == dataset.splits and list(found.splits["train"]) == list(dataset.splits["train"])
    assert found.holdout == "test" and found.locked_splits == dataset.locked_splits
    assert found.cases == dataset.cases[:-1], "all but the excluded one, those of no split too"
    for case_id in found.cases:
        case, before = found.case(case_id), dataset.case(case_id)
        image, label, expected, mask = case.image(), case.label(), before.image(), before.label()
        assert image.array.dtype == expected.array.dtype
        np.testing.assert_array_equal(image.array, expected.array)
        assert case.voxels_sha256 == before.voxels_sha256
        assert image.geometry.spacing_known == expected.geometry.spacing_known
        np.testing.assert_allclose(image.geometry.affine, expected.geometry.affine, rtol=0, atol=1e-12)
        assert (label is None) == (mask is None)
        if label is not None and mask is not None:
            np.testing.assert_array_equal(label.array, mask.array)
        made, expected_record = (one.revisions()[-1:] for one in (case, before))
        for one, other in zip(made, expected_record, strict=True):
            assert replace(one, number=2, when="") == replace(other, number=2, when="")
    assert main(["import", str(out), str(back)]) == OK, "an import can be repeated"
    assert [len(found.case(case_id).revisions()) for case_id in found.cases] == [1, 1, 1, 0, 1, 1, 1]


def test_an_interrupted_import_of_an_export_locks_both_hold_outs_when_it_goes_on(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert main(["export-dataset", str(dataset.path), str(out), "--layout", "msd"]) == OK

    def cancel(progress: Progress) -> None:
        if "(4 of 7)" in progress.message:
            raise Cancelled

    with pytest.raises(Cancelled):
        import_source(out, back, report=cancel)
    assert Dataset.open(back).splits == {}
    with monkeypatch.context() as killed, pytest.raises(Cancelled):  # before it locks the second one

        def hold_out_more(*_: object) -> None:
            raise Cancelled

        killed.setattr("mper.datasets.importer.hold_out_more", hold_out_more)
        import_source(out, back)
    assert main(["import", str(out), str(back)]) == OK
    assert Dataset.open(back).splits == dataset.splits and Dataset.open(back).held_out == dataset.held_out

    other = Dataset.create(tmp_path / "other", "other", dataset.labels)
    other.add_case("own", dataset.case(dataset.cases[0]).image(), {})
    capsys.readouterr()
    names = f"{dataset.cases[5]}, {dataset.cases[6]}"
    for target, words in ((other.path, []), (tmp_path / "pooled", ["--split", "all"])):
        assert main(["import", str(out), str(target), *words]) == OK
        assert f"{names} belong to the hold-out of the source, and are not locked here" in capsys.readouterr().err
        assert Dataset.open(target).holdout is None


def test_nnunet_trains_on_labelled_cases_alone_with_the_values_that_it_wants(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Atrium"
    words = ["export-dataset", str(dataset.path), str(out), "--layout", "nnunet", "--modality", "CT"]
    assert main(words) == OK
    entry = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert entry["labels"] == {"background": 0, "LA": 1, "Narbe": 2, "ignore": 3}
    assert entry["channel_names"] == {"0": "CT"} and entry["file_ending"] == ".nii.gz"
    trained = {path.name.removesuffix("_0000.nii.gz") for path in (out / "imagesTr").iterdir()}
    assert trained == {path.name.removesuffix(".nii.gz") for path in (out / "labelsTr").iterdir()}
    assert trained == {dataset.cases[n] for n in (0, 1, 2, 4)} and entry["numTraining"] == 4
    label, ours = read_labelmap(out / "labelsTr" / f"{dataset.cases[1]}.nii.gz").array, dataset.case(dataset.cases[1])
    expected = ours.label()
    assert expected is not None
    table = {0: 0, 2: 1, 7: 2, 255: 3}
    np.testing.assert_array_equal(label, np.vectorize(table.get)(expected.array))
    source = nnunet_source(out)  # as a program reads it that knows nothing of ours
    image, mask = source.cases[dataset.cases[1]].read(lambda _: None)
    np.testing.assert_array_equal(image.array, ours.image().array)
    assert mask is not None and (mask.array == 255).sum() == (expected.array == 255).sum()


def test_the_decathlon_lists_what_it_trains_on(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "Task01"
    assert main(["export-dataset", str(dataset.path), str(out), "--layout", "msd"]) == OK
    entry = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert entry["labels"] == {"0": "background", "2": "LA", "7": "Narbe", "255": "ignore"}
    assert len(entry["training"]) == entry["numTraining"] == 4 and len(entry["test"]) == entry["numTest"] == 3
    for pair in entry["training"]:
        assert (out / pair["image"]).is_file() and (out / pair["label"]).is_file()
    held = (*dataset.splits["test"], *dataset.splits["holdout-2"])
    assert not {f"./imagesTr/{case_id}.nii.gz" for case_id in held} & {pair["image"] for pair in entry["training"]}
    assert all(f"./imagesTs/{case_id}.nii.gz" in entry["test"] for case_id in held)


def test_bids_names_subjects_by_letters_and_digits_and_the_hold_out(tmp_path: Path) -> None:
    made = Dataset.create(tmp_path / "data", "two", [make_label(1, "LA")])
    grid = Geometry.from_axes((0, 0, 0), (2, 1, 1), np.eye(3)[:, ::-1], (4, 5, 6))
    for n, name in enumerate(("p-1", "p1")):
        image = Volume(np.arange(120, dtype=np.int16).reshape(4, 5, 6) + n, grid)
        made.add_case(name, image, {}).add_label(
            Volume((image.array > 60).astype(np.uint8), grid), author="A", how="hand"
        )
    made.lock_holdout(["p1"])
    out = tmp_path / "bids"
    assert main(["export-dataset", str(made.path), str(out), "--layout", "bids"]) == OK
    table = (out / "participants.tsv").read_text(encoding="utf-8").splitlines()
    assert table[1:] == ["sub-p1\tp-1\tn/a\tno", "sub-p1x2\tp1\tholdout\tyes"]
    (out / "mper-export.json").unlink()  # what is left is BIDS
    assert main(["import", str(out), str(tmp_path / "back"), "--split", "all"]) == OK
    back = Dataset.open(tmp_path / "back")
    assert [label.name for label in back.labels] == ["LA"] and len(back.cases) == 2
    for case_id in back.cases:
        case = back.case(case_id)
        label = case.label()
        assert label is not None and np.array_equal(label.array, case.image().array > 60)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_case_that_shows_the_scan_of_a_held_out_one_is_exported_as_held_out(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it comes into a dataset later: whether that is an import, which notes it, or an older version."""
    source = la_source(tmp_path / "scans", "abc")
    load(source, tmp_path / "data", "train").lock_holdout(["a"])
    shutil.copytree(source / "a", source / "a-again")
    assert main(["import", str(source), str(tmp_path / "data"), "--split", "train"]) == OK
    assert "1 cases show the scan of a held-out one, and are not trained on: a-again" in capsys.readouterr().err

    out = tmp_path / "out"
    assert main(["export-dataset", str(tmp_path / "data"), str(out), "--layout", layout]) == OK
    said = capsys.readouterr()
    assert "1 cases show the scan of a held-out one, and are exported as held out: a-again" in said.err
    assert "4 cases, 2 to train on, 2 held out" in said.out
    if layout == "bids":
        table = (out / "participants.tsv").read_text(encoding="utf-8").splitlines()
        assert [row.split("\t")[1] for row in table if row.endswith("\tyes")] == ["a", "a-again"]
    else:
        assert not [path for path in (out / "imagesTr").iterdir() if path.name.startswith("a")]
        assert len(list((out / "imagesTs").glob("a*"))) == 2


def test_a_label_that_another_program_changed_becomes_a_revision(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export-dataset", str(dataset.path), str(out), "--layout", "nnunet"]) == OK
    unlabelled = dataset.cases[3]
    image = read_volume(out / "imagesTs" / f"{unlabelled}_0000.nii.gz")
    write_volume(out / "labelsTs" / f"{unlabelled}.nii.gz", image.with_array((image.array > 90).astype(np.uint8)))
    first = out / "labelsTr" / f"{dataset.cases[0]}.nii.gz"
    write_volume(first, read_labelmap(first).with_array(np.full((*image.array.shape[:1], 5, 6), 2, np.uint8)))
    assert main(["import", str(out), str(dataset.path)]) == OK
    new, changed = (Dataset.open(dataset.path).case(dataset.cases[n]) for n in (3, 0))
    label, mask = new.label(), changed.label()
    assert label is not None and np.array_equal(label.array, 2 * (image.array > 90).astype(np.uint8))
    assert mask is not None and (mask.array == 7).all() and len(changed.revisions()) == 3


def test_an_older_export_does_not_take_the_place_of_a_newer_label_and_a_changed_draft_is_a_label(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export-dataset", str(dataset.path), str(out), "--layout", "nnunet"]) == OK
    drawn, draft = (dataset.case(dataset.cases[n]) for n in (0, 2))
    assert draft.is_draft and not drawn.is_draft
    assert (
        f"2 labels are drafts of a model, which other programs take for labels: {draft.id}" in capsys.readouterr().err
    )
    for case in (drawn, draft):
        newer = Volume(np.full(case.geometry.shape, 2, np.uint8), case.geometry)
        case.add_label(newer, author="C", how="hand")
    assert main(["import", str(out), str(dataset.path)]) == OK
    assert f"{draft.id}: the mask is a draft of a model, and is not imported: the case has a label" in (
        capsys.readouterr().err
    )
    assert [case.revisions()[-1].author for case in (drawn, draft)] == ["C", "C"]

    mask = out / "labelsTr" / f"{draft.id}.nii.gz"
    write_volume(mask, read_labelmap(mask).with_array(np.full(draft.geometry.shape, 1, np.uint8)))
    assert main(["import", str(out), str(tmp_path / "new")]) == OK
    (found,) = Dataset.open(tmp_path / "new").case(draft.id).revisions()
    assert (found.how, found.model, found.author) == ("imported", None, "nnU-Net raw")


@pytest.mark.parametrize("words", [["--labels", "LA"], []], ids=["of which some are kept", "that are others here"])
def test_who_made_a_label_is_known_where_its_values_are_mapped(
    words: list[str], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, target = tmp_path / "out", tmp_path / "target"
    assert main(["export-dataset", str(dataset.path), str(out), "--layout", "nnunet"]) == OK
    if not words:
        Dataset.create(target, "other values", [make_label(1, "LA"), replace(ODD, value=9)])
    assert main(["import", str(out), str(target), *words]) == OK
    table = {0: 0, 255: 255, 2: 2, 7: 0} if words else {0: 0, 255: 255, 2: 1, 7: 9}
    found = [Dataset.open(target).case(dataset.cases[n]) for n in (0, 1, 2)]
    for case in found:
        before = dataset.case(case.id)
        label, expected, (made,) = case.label(), before.label(), case.revisions()
        assert replace(made, number=2, when="") == replace(before.revisions()[-1], when="")
        assert label is not None and expected is not None
        np.testing.assert_array_equal(label.array, np.vectorize(table.get)(expected.array))
    assert [case.is_draft for case in found] == [False, False, True]
    for case in found:
        case.add_label(Volume(np.zeros(case.geometry.shape, np.uint8), case.geometry), author="C", how="hand")
    assert main(["import", str(out), str(target), *words]) == OK
    assert "the mask is a draft of a model, and is not imported: the case has a label" in capsys.readouterr().err
    assert [case.revisions()[-1].author for case in found] == ["C"] * 3


def test_what_cannot_be_exported_or_imported_is_one_line(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    for words, expected in (
        ([str(dataset.path), str(tmp_path / "full")], "is not empty"),
        ([str(dataset.path), str(tmp_path / "no" / "where")], "does not exist"),
        ([str(tmp_path / "full"), str(tmp_path / "out")], "is not a dataset"),
        ([str(dataset.path), str(tmp_path / "out"), "--suffix", "a b"], "letters and digits"),
    ):
        assert main(["export-dataset", *words, "--layout", "bids"]) == FAILED
        error = capsys.readouterr().err
        assert expected in error and error.count("mper: error") == 1
    assert main(["export-dataset", str(dataset.path), str(tmp_path / "out"), "--layout", "msd"]) == OK
    record = tmp_path / "out" / "mper-export.json"
    entry = json.loads(record.read_text(encoding="utf-8"))
    capsys.readouterr()
    for spoilt, expected in (
        ({**entry, "version": 99}, "is of version 99"),
        ({**entry, "labels": 5}, "is damaged"),
        ({**entry, "cases": [{**entry["cases"][0], "image": "../../etc/x.nii.gz"}]}, "outside of the folder"),
    ):
        record.write_text(json.dumps(spoilt), encoding="utf-8")
        assert main(["import", str(tmp_path / "out"), str(tmp_path / "new")]) == FAILED
        assert expected in capsys.readouterr().err and not (tmp_path / "new").exists()
