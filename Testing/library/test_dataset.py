"""The dataset folder: what is in it is never lost, changed or half there, whoever writes at the same time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mper.datasets.dataset import Case, Dataset
from mper.labels import Segmentation, make_label
from mper.training.runs import RunFolder
from mper.utils.coded import Coded
from mper.utils.errors import explain
from mper.utils.locking import is_locked, locked
from mper.volume import Geometry, Volume

LABELS = (make_label(1, "RV"), make_label(2, "Gänge"), make_label(7, "LA"))
SOURCE = {"format": "test", "file": "scan.nrrd"}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(tmp_path / "my düta", "my data", LABELS)


@pytest.fixture
def case(dataset: Dataset, blob_volume: tuple[Volume, Segmentation]) -> Case:
    return dataset.add_case("scan-1", blob_volume[0], SOURCE)


def small(value: int = 0) -> Volume:
    return Volume(np.full((2, 3, 4), value, np.uint8), Geometry.from_axes((0, 0, 0), (3, 2, 1), np.eye(3), (2, 3, 4)))


def with_cases(dataset: Dataset, *ids: str) -> Dataset:
    for case_id in ids:
        dataset.add_case(case_id, small(sum(map(ord, case_id)) % 256), SOURCE)
    return dataset


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- the folder and its index


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("Aorta", "aorta"), "the name 'aorta', except for case"),
        (("LA", "Background"), "'background' is no structure"),
        (("unlabelled",), "'unlabelled' is no structure"),
    ],
)
def test_structures_need_names_that_are_told_apart(tmp_path: Path, names: tuple[str, ...], match: str) -> None:
    labels = [make_label(n, name) for n, name in enumerate(names, start=1)]
    with pytest.raises(ValueError, match=match):
        Dataset.create(tmp_path / "data", "Odd", labels)
    assert not (tmp_path / "data" / "dataset.json").exists()


def test_dataset_opens_as_it_was_made(dataset: Dataset) -> None:
    opened = Dataset.open(dataset.path)
    assert opened.name == "my data"
    assert opened.labels == LABELS
    assert (opened.splits, opened.cases, opened.holdout) == ({}, (), None)


def test_labels_are_sorted_by_value(tmp_path: Path) -> None:
    assert Dataset.create(tmp_path / "d", "d", LABELS[::-1]).labels == LABELS


def test_a_folder_that_is_no_dataset_is_refused_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"mper import SOURCE .* makes one") as error:
            Dataset.open(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "mper-dataset", "version": 1}', '{"labels": {"background": 0}}']
)
def test_a_damaged_or_foreign_index_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset\.json (is damaged|does not describe)") as error:
        Dataset.open(tmp_path)
    assert "\n" not in str(error.value)


def test_a_dataset_of_a_newer_version_is_refused(dataset: Dataset) -> None:
    path = dataset.path / "dataset.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"version": 1', '"version": 2'), encoding="utf-8")
    with pytest.raises(ValueError, match="update mper"):
        Dataset.open(dataset.path)


def test_a_dataset_is_not_made_in_a_folder_with_other_files(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(FileExistsError, match="already is a dataset"):
        Dataset.create(dataset.path, "again", LABELS)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds other files"):
        Dataset.create(tmp_path / "taken", "d", LABELS)
    assert list(files(tmp_path / "taken")) == ["notes.txt"]
    with pytest.raises(FileExistsError, match="is a file"):
        Dataset.create(tmp_path / "taken" / "notes.txt", "d", LABELS)


def test_a_dataset_needs_a_label(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one label"):
        Dataset.create(tmp_path / "d", "d", ())
    assert not (tmp_path / "d").exists()


# ---- cases


def test_image_and_grid_come_back_exactly(case: Case, blob_volume: tuple[Volume, Segmentation]) -> None:
    image = blob_volume[0]
    for back in (case.image(), Dataset.open(case.path.parents[1]).case("scan-1").image()):
        assert back.array.dtype == image.array.dtype
        np.testing.assert_array_equal(back.array, image.array)
        np.testing.assert_allclose(back.geometry.affine, image.geometry.affine, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(case.geometry.affine, image.geometry.affine)
    assert case.source == SOURCE


def test_unknown_spacing_stays_unknown(dataset: Dataset) -> None:
    grid = Geometry.unknown((6, 5, 4)).crop((1, 0, 0), (6, 5, 4))
    case = dataset.add_case("a", Volume(np.zeros((5, 5, 4), np.float32), grid), SOURCE)
    case.add_label(Volume(np.ones((5, 5, 4), np.uint8), grid), author="me", how="hand")
    label = case.label()
    assert label is not None
    assert [case.image().geometry.spacing_mm, label.geometry.spacing_mm, case.geometry.spacing_mm] == [None] * 3


def test_a_case_is_never_replaced(case: Case, dataset: Dataset) -> None:
    before = files(dataset.path)
    with pytest.raises(FileExistsError, match="scan-1"):
        dataset.add_case("scan-1", small(), SOURCE)
    assert files(dataset.path) == before


def test_a_case_that_cannot_be_written_leaves_nothing(dataset: Dataset) -> None:
    before = files(dataset.path)
    with pytest.raises(ValueError, match="complex"):
        dataset.add_case("a", small().with_array(np.zeros((2, 3, 4), np.complex64)), SOURCE)
    assert files(dataset.path) == before
    assert list((dataset.path / "cases").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "a\\b", "C:", "con", "nul.x", "end.", " a", "a\n", "x" * 200]
)
def test_a_case_id_that_is_no_folder_name_everywhere_is_refused(dataset: Dataset, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a case"):
        dataset.add_case(name, small(), SOURCE)
    with pytest.raises(ValueError, match="cannot be the name of a case"):
        dataset.case(name)


def test_an_unknown_case_or_split_is_named(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="no case 'x'"):
        dataset.case("x")
    with pytest.raises(ValueError, match="no split 'x'; its splits: none"):
        dataset.split("x")


# ---- revisions


def test_labels_come_back_with_who_when_and_how(case: Case, blob_volume: tuple[Volume, Segmentation]) -> None:
    mask = blob_volume[1].labelmap
    assert (case.label(), case.revisions(), case.is_labelled) == (None, [], False)
    first = case.add_label(mask, author="Zoë", how="model", model=("la", "2"), seconds=12.5)
    second = case.add_label(mask.with_array(mask.array * 7), author="me", how="hand", edited=True, parent=first.number)
    assert case.revisions() == [first, second]
    assert case.is_labelled
    assert (first.number, first.author, first.how, first.model) == (1, "Zoë", "model", ("la", "2"))
    assert (first.edited, first.seconds, first.parent) == (False, 12.5, None)
    assert (second.number, second.edited, second.parent) == (2, True, 1)
    assert abs(time.time() - _utc(second.when)) < 60
    for revision, values in ((None, [0, 7]), (2, [0, 7]), (1, [0, 1])):
        label = case.label(revision)
        assert label is not None and label.array.dtype == np.uint8
        assert np.unique(label.array).tolist() == values
        np.testing.assert_array_equal(label.array > 0, mask.array > 0)
        np.testing.assert_allclose(label.geometry.affine, case.geometry.affine, rtol=0, atol=1e-13)


def _utc(when: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(when).timestamp()


def test_a_label_may_be_of_any_whole_numbers_and_partly_unlabelled(dataset: Dataset) -> None:
    case = dataset.add_case("a", small(), SOURCE)
    array = np.array([0, 1, 2, 7, 255, 0] * 4).reshape(2, 3, 4)
    for dtype in (np.uint8, np.int64, np.uint16):
        case.add_label(small().with_array(array.astype(dtype)), author="me", how="hand")
        label = case.label()
        assert label is not None and label.array.dtype == np.uint8
        np.testing.assert_array_equal(label.array, array)
    case.add_label(small().with_array(array == 1), author="me", how="hand")
    assert case.label().array.sum() == 4  # type: ignore[union-attr]


def test_a_label_on_another_grid_is_refused_with_both_grids_named(case: Case) -> None:
    grid = case.geometry
    with pytest.raises(ValueError, match=r"2x3x4 voxels .* of 3x2x1 mm, image 12x30x26 voxels .* of 2\.5x0\.7x0\.9 mm"):
        case.add_label(small(), author="me", how="hand")
    moved = Geometry.from_axes((-12.5, 40.25, 9.0), grid.step_lengths, grid.directions, grid.shape)
    with pytest.raises(ValueError, match="up to 2 mm apart"):
        case.add_label(Volume(np.zeros(grid.shape, np.uint8), moved), author="me", how="hand")
    assert case.revisions() == []


def test_a_label_with_unknown_values_is_refused(dataset: Dataset) -> None:
    case = dataset.add_case("a", small(), SOURCE)
    for array, match in (
        (np.full((2, 3, 4), 3), r"case a: the mask holds values \[3\].*known are \[0, 1, 2, 7, 255\]"),
        (np.full((2, 3, 4), -1), "-1 to -1"),
        (np.full((2, 3, 4), 257), "257 to 257"),
        (np.zeros((2, 3, 4), np.float32), "whole numbers, this one is float32"),
    ):
        with pytest.raises(ValueError, match=match):
            case.add_label(small().with_array(array), author="me", how="hand")
    assert not (case.path / "labels").exists()


def test_an_unknown_revision_or_parent_is_refused(dataset: Dataset) -> None:
    case = dataset.add_case("a", small(), SOURCE)
    with pytest.raises(ValueError, match="no label revision 1; it has none"):
        case.label(1)
    case.add_label(small(), author="me", how="hand")
    with pytest.raises(ValueError, match="no label revision 5; it has 1"):
        case.label(5)
    with pytest.raises(ValueError, match="no label revision 5"):
        case.add_label(small(), author="me", how="hand", parent=5)


def test_a_label_that_cannot_be_written_leaves_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dataset.add_case("a", small(), SOURCE)

    def full_disk(path: Path, entry: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("mper.datasets.revisions.write_json", full_disk)
        with pytest.raises(OSError, match="disk full"):
            case.add_label(small(1), author="me", how="hand")
    assert list((case.path / "labels").iterdir()) == []
    assert case.add_label(small(1), author="me", how="hand").number == 1


def _killed_between_voxels_and_record(path: Path) -> None:
    import mper.datasets.revisions

    mper.datasets.revisions.write_json = lambda *_: os._exit(9)
    Dataset.open(path).case("a").add_label(small(1), author="killed", how="hand")


def test_a_killed_writer_shows_no_revision_and_blocks_nobody(dataset: Dataset) -> None:
    case = dataset.add_case("a", small(), SOURCE)
    case.add_label(small(2), author="before", how="hand")
    process = multiprocessing.get_context("spawn").Process(
        target=_killed_between_voxels_and_record, args=(dataset.path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(list((case.path / "labels").glob("2.*"))) == 2  # the claim and the voxels are there
    assert [r.author for r in case.revisions()] == ["before"]
    assert case.label().array.max() == 2  # type: ignore[union-attr]
    assert case.add_label(small(7), author="after", how="hand").number == 3
    assert [r.number for r in case.revisions()] == [1, 3]
    assert case.label().array.max() == 7  # type: ignore[union-attr]


COUNT = 40


def _hammer(path: Path, author: str, value: int, go: object) -> None:
    dataset = Dataset.open(path)
    go.wait()  # type: ignore[attr-defined]
    case = dataset.case("a")
    for n in range(COUNT):
        case.add_label(small(value), author=author, how="hand", seconds=n)
        label = case.label()  # every revision that is seen is whole
        assert label is not None and label.array.max() in (1, 2)
        dataset.add_case(f"{author}-{n}", small(value), SOURCE)
        dataset.add_to_split("train", [f"{author}-{n}"])


def test_two_processes_writing_at_once_lose_nothing(dataset: Dataset) -> None:
    with_cases(dataset, "a")
    spawn = multiprocessing.get_context("spawn")
    go = spawn.Barrier(2)  # both begin at once
    processes = [spawn.Process(target=_hammer, args=(dataset.path, f"w{v}", v, go)) for v in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    case = dataset.case("a")
    revisions = case.revisions()
    assert [r.number for r in revisions] == list(range(1, 2 * COUNT + 1))
    for value in (1, 2):
        own = [r for r in revisions if r.author == f"w{value}"]
        assert [r.seconds for r in own] == list(range(COUNT))
        for revision in own:
            label = case.label(revision.number)
            assert label is not None and (label.array == value).all()
    train = Dataset.open(dataset.path).splits["train"]
    assert sorted(train) == sorted(f"w{v}-{n}" for v in (1, 2) for n in range(COUNT))
    assert [i for i in train if i.startswith("w1")] == [f"w1-{n}" for n in range(COUNT)]
    assert not list(dataset.path.rglob("*.part"))


# ---- splits and the hold-out


def test_splits_keep_their_order(dataset: Dataset) -> None:
    with_cases(dataset, "a", "b", "c", "d")
    dataset.add_to_split("train", ["c", "a"])
    dataset.add_to_split("train", ["b"])
    dataset.add_to_split("val", ["d"])
    for seen in (dataset, Dataset.open(dataset.path)):
        assert seen.splits == {"train": ("c", "a", "b"), "val": ("d",)}
        assert [c.id for c in seen.split("train")] == ["c", "a", "b"]
    dataset.add_to_split("train", ["a", "b", "c"])  # named again: they follow the new order
    assert dataset.splits["train"] == ("a", "b", "c")


def test_changes_of_another_program_are_kept(dataset: Dataset) -> None:
    with_cases(dataset, "a", "b")
    other = Dataset.open(dataset.path)
    other.add_to_split("train", ["a"])
    dataset.add_to_split("train", ["b"])
    assert dataset.splits["train"] == ("a", "b")


def test_a_split_takes_only_cases_that_exist_and_each_once(dataset: Dataset) -> None:
    with_cases(dataset, "a")
    with pytest.raises(ValueError, match="no case 'b'"):
        dataset.add_to_split("train", ["a", "b"])
    with pytest.raises(ValueError, match="a would be in split 'train' twice"):
        dataset.add_to_split("train", ["a", "a"])
    with pytest.raises(ValueError, match="needs a name"):
        dataset.add_to_split(" ", ["a"])
    assert dataset.splits == {}


def test_locking_takes_the_cases_out_of_every_other_split(dataset: Dataset) -> None:
    with_cases(dataset, "a", "b", "c")
    dataset.add_to_split("train", ["a", "b", "c"])
    assert dataset.lock_holdout(["c", "a"]) == "holdout"
    opened = Dataset.open(dataset.path)
    assert (opened.splits, opened.holdout) == ({"train": ("b",), "holdout": ("c", "a")}, "holdout")


def test_a_split_can_be_locked_by_name(dataset: Dataset) -> None:
    with_cases(dataset, "a", "b")
    dataset.add_to_split("val", ["a"])
    dataset.add_to_split("train", ["a", "b"])
    assert dataset.lock_holdout("val") == "val"
    assert dataset.splits == {"val": ("a",), "train": ("b",)}


def test_a_locked_holdout_never_changes(dataset: Dataset) -> None:
    with_cases(dataset, "a", "b", "c")
    stale = Dataset.open(dataset.path)  # has not seen the lock
    dataset.lock_holdout(["a"])
    for seen in (dataset, stale, Dataset.open(dataset.path)):
        with pytest.raises(ValueError, match="locked"):
            seen.add_to_split("holdout", ["b"])
        with pytest.raises(ValueError, match="a cannot go into split 'train'"):
            seen.add_to_split("train", ["b", "a"])
        with pytest.raises(ValueError, match="locked"):
            seen.lock_holdout(["a", "b"])
        with pytest.raises(ValueError, match="no split 'train'"):
            seen.split("train")
    dataset.add_to_split("holdout", ["a"])  # says what is so already
    assert dataset.lock_holdout(["a"]) == dataset.lock_holdout("holdout") == "holdout"
    dataset.add_to_split("train", ["b"])
    assert Dataset.open(dataset.path).splits == {"holdout": ("a",), "train": ("b",)}


def test_an_empty_or_unknown_holdout_is_refused(dataset: Dataset) -> None:
    with_cases(dataset, "a")
    for cases, match in (([], "at least one"), (["x"], "no case 'x'"), ("val", "no split 'val'")):
        with pytest.raises(ValueError, match=match):
            dataset.lock_holdout(cases)
    dataset.add_to_split("holdout", ["a"])
    with pytest.raises(ValueError, match="lock it by its name"):
        dataset.lock_holdout(["a"])


# ---- what goes with a case


def test_a_scan_is_known_again_whatever_its_type_and_place(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    scan = small().with_array(rng.integers(0, 100, (2, 3, 4)).astype(np.int16))
    dataset.add_case("a", scan, SOURCE)
    dataset.add_case("b", scan.with_array(scan.array[::-1].copy()), SOURCE)
    elsewhere = Volume(scan.array.astype(np.float64), Geometry.unknown((2, 3, 4)))
    assert dataset.same_scan(elsewhere) == ["a"] and dataset.same_scan(small()) == []
    flat = Volume(scan.array.reshape(4, 3, 2), Geometry.unknown((4, 3, 2)))
    assert dataset.same_scan(flat) == []


def test_what_a_model_last_said_of_a_case_is_kept_beside_it(case: Case) -> None:
    assert case.last_prediction() is None
    for confidence in (0.5, 0.75):
        case.keep_prediction({"confidence": confidence})
        assert case.last_prediction() == {"confidence": confidence}
    (case.path / "prediction.json").write_text("{", encoding="utf-8")
    assert case.last_prediction() is None


def test_a_label_that_is_only_begun_says_nothing(case: Case, blob_volume: tuple[Volume, Segmentation]) -> None:
    whole = blob_volume[1].labelmap
    assert not case.is_drawn
    case.add_label(whole.with_array(np.full_like(whole.array, 255)), author="a", how="hand")
    assert case.is_labelled and not case.is_drawn
    some = np.full_like(whole.array, 255)
    some[0, 0, 0] = 0
    case.add_label(whole.with_array(some), author="a", how="hand")
    assert case.is_drawn


def test_a_label_that_leaves_voxels_unlabelled_is_partial(case: Case, blob_volume: tuple[Volume, Segmentation]) -> None:
    whole = blob_volume[1].labelmap
    partial = whole.array.copy()
    partial[0] = 255
    assert not case.add_label(whole, author="a", how="hand").partial
    assert case.add_label(whole.with_array(partial), author="a", how="hand").partial
    assert [revision.partial for revision in case.revisions()] == [False, True]


# ---- runs and models


def test_every_run_gets_a_folder_of_its_own(dataset: Dataset) -> None:
    paths = [dataset.new_run() for _ in range(3)] + [dataset.new_run("tiny")]
    assert len({p.name for p in paths}) == 4
    assert all(p.is_dir() and p.parent == dataset.path / "runs" for p in paths)
    with pytest.raises(FileExistsError, match="'tiny'"):
        dataset.new_run("tiny")
    with pytest.raises(ValueError, match="name of a run"):
        dataset.new_run("../x")


def bundle(folder: Path, text: str) -> Path:
    (folder / text).mkdir(parents=True)
    (folder / text / "card.json").write_text(json.dumps({"name": "model", "title": text}), encoding="utf-8")
    return folder / text


def card(model: Path) -> dict[str, str]:
    return dict(json.loads((model / "card.json").read_text(encoding="utf-8")))


def test_models_get_versions_and_one_is_current(dataset: Dataset, tmp_path: Path) -> None:
    first = dataset.publish_model("my la", bundle(tmp_path, "one"))
    second = dataset.publish_model("my la", bundle(tmp_path, "two"))
    assert dataset.model_versions("my la") == [1, 2]
    assert dataset.models == ("my la",)
    assert dataset.model("my la") == dataset.model("my la", 1) == first
    assert card(second) == {"name": "my la", "title": "two", "version": "2"}
    dataset.use_model("my la", 2)
    assert dataset.model("my la") == second
    dataset.use_model("my la", 1)
    assert dataset.model("my la") == first
    assert dataset.model("my la") != dataset.publish_model("my la", bundle(tmp_path, "three"))
    assert dataset.publish_model("my la", bundle(tmp_path, "four"), make_current=True) == dataset.model("my la")
    assert card(first) == {"name": "my la", "title": "one", "version": "1"}


def test_the_version_in_use_before_is_remembered(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        dataset.publish_model("la", bundle(tmp_path, name))
    assert dataset.previous_version("la") is None and dataset.previous_version("none") is None
    dataset.use_model("la", 3)
    assert (dataset.current_version("la"), dataset.previous_version("la")) == (3, 1)
    dataset.use_model("la", 3)
    assert dataset.previous_version("la") == 1
    dataset.use_model("la", 1)
    assert (dataset.current_version("la"), dataset.previous_version("la")) == (1, 3)


def test_an_unknown_model_version_or_bundle_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model 'la'; its models: none"):
        dataset.model("la")
    with pytest.raises(FileNotFoundError, match="no model folder"):
        dataset.publish_model("la", tmp_path / "nowhere")
    dataset.publish_model("la", bundle(tmp_path, "one"))
    with pytest.raises(ValueError, match="no version 2; it has 1"):
        dataset.use_model("la", 2)
    (dataset.path / "models" / "la" / "current").write_text("newest", encoding="utf-8")
    with pytest.raises(ValueError, match="number of a version"):
        dataset.model("la")


# ---- the lock


def _hold_and_die(path: Path, held: object) -> None:
    with locked(path):
        held.set()  # type: ignore[attr-defined]
        time.sleep(0.2)
        os._exit(9)


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    process = spawn.Process(target=_hold_and_die, args=(tmp_path / "lock", held))
    process.start()
    held.wait()
    with locked(tmp_path / "lock"):
        process.join()
    assert process.exitcode == 9


def test_a_lock_that_stays_held_is_reported(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(TimeoutError, match="another program"),
        locked(tmp_path / "lock", 0.1),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks bytes instead")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO])
def test_a_disk_without_locks_is_told_and_can_be_read(
    dataset: Dataset, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    with_cases(dataset, "one")
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OSError) as error:
        dataset.add_to_split("train", ["one"])
    if number == errno.EIO:  # a disk that fails is something else
        assert error.value.errno == number
        return
    line = explain(error.value)
    assert line.startswith(f"the disk of {dataset.path} has no file locks") and "option flock" in line
    assert isinstance(line, Coded) and line.code == "no-file-locks"
    assert Dataset.open(dataset.path).splits == dataset.splits and not is_locked(dataset.path / ".dataset.lock")
    run = RunFolder(dataset.new_run())
    run.launch()
    assert run.state() == "launching"


def test_index_is_readable_by_people(dataset: Dataset) -> None:
    text = (dataset.path / "dataset.json").read_text(encoding="utf-8")
    assert "Gänge" in text and len(text.splitlines()) > 10
    assert json.loads(text)["labels"][2]["type"] == {"scheme": "SCT", "value": "82471001", "meaning": "Left atrium"}
