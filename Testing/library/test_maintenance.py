"""Cases that are removed, excluded, renamed or held out later, and added structures: nothing is overwritten."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mper.cli import main
from mper.datasets import maintenance
from mper.datasets.dataset import Dataset
from mper.datasets.events import EVENTS, read_events
from mper.datasets.packed import check_training_split
from mper.labels import make_label
from mper.utils.errors import FAILED, OK, USAGE
from mper.volume import Geometry, Volume

SHAPE = (2, 3, 4)
GRID = Geometry.from_axes((0, 0, 0), (3, 2, 1), np.eye(3), SHAPE)


def scan(value: int) -> Volume:
    return Volume(np.full(SHAPE, value, np.uint8), GRID)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Cases a, b, c and d, all labelled and in the split train."""
    made = Dataset.create(tmp_path / "Däta", "atria", [make_label(1, "LA")])
    for n, case_id in enumerate("abcd"):
        made.add_case(case_id, scan(n), {"format": "test"}).add_label(scan(1), author="reader", how="hand")
    made.add_to_split("train", "abcd")
    return made


def opened(dataset: Dataset) -> Dataset:
    return Dataset.open(dataset.path)


def as_older_programs_read_it(dataset: Dataset) -> dict:
    return json.loads((dataset.path / "dataset.json").read_text(encoding="utf-8"))


def test_a_removed_case_lies_in_the_recycle_folder_and_its_id_is_not_used_again(dataset: Dataset) -> None:
    files = sorted(path.name for path in dataset.case("b").path.rglob("*"))
    there = maintenance.remove_case(dataset, "b", "A. Reader")
    assert there.parent == dataset.path / "recycled" and there.name.startswith("b-")
    assert sorted(path.name for path in there.rglob("*")) == files
    assert opened(dataset).cases == ("a", "c", "d")
    assert [case.id for case in opened(dataset).split("train")] == ["a", "c", "d"]
    with pytest.raises(FileExistsError, match="a case 'b' was removed"):
        opened(dataset).add_case("b", scan(9), {})
    (event,) = read_events(dataset.path)
    assert (event["event"], event["case"], event["by"]) == ("case removed", "b", "A. Reader")


def test_a_case_that_cannot_be_moved_stays_where_it_was(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mper.datasets.maintenance.rename_folder", lambda _source, _target: False)
    with pytest.raises(FileExistsError):
        maintenance.remove_case(dataset, "b", "me")
    assert opened(dataset).splits == {"train": ("a", "b", "c", "d")}
    assert not read_events(dataset.path)


def test_an_excluded_case_is_in_no_split_until_it_is_included_again(dataset: Dataset) -> None:
    maintenance.exclude_case(dataset, "b", "me")
    maintenance.exclude_case(dataset, "b", "me")  # it is already
    assert opened(dataset).splits == {"train": ("a", "c", "d")}
    assert as_older_programs_read_it(dataset)["splits"] == {"train": ["a", "c", "d"]}
    assert opened(dataset).history.excluded == {"b": "train"}
    assert "b" in opened(dataset)
    maintenance.include_case(opened(dataset), "b", "me")
    assert opened(dataset).splits == {"train": ("a", "c", "d", "b")}
    assert not opened(dataset).history.excluded
    assert len(read_events(dataset.path)) == 2


def test_a_case_of_several_splits_goes_back_to_all_of_them(dataset: Dataset) -> None:
    dataset.add_to_split("few", ["a", "b"])
    maintenance.exclude_case(dataset, "a", "me")
    assert opened(dataset).splits == {"train": ("b", "c", "d"), "few": ("b",)}
    assert opened(dataset).history.excluded == {"a": "train"}
    maintenance.include_case(opened(dataset), "a", "me")
    assert opened(dataset).splits == {"train": ("b", "c", "d", "a"), "few": ("b", "a")}
    with (dataset.path / EVENTS).open("a", encoding="utf-8") as file:  # of a version that kept one split
        file.write('{"event": "case excluded", "case": "c", "split": "few", "by": "me"}\n')
    assert opened(dataset).history.excluded_from == {"c": ("few",)}
    maintenance.remove_case(opened(dataset), "c", "me")
    assert not opened(dataset).history.excluded and not opened(dataset).history.excluded_from


def test_the_command_excludes_cases_says_which_are_and_changes_nothing_where_one_cannot_be(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    def exclude(*words: str) -> int:
        return main(["exclude", str(dataset.path), *words])

    dataset.lock_holdout(["a"])
    for words, code, told in (
        (["b", "x", "y"], FAILED, "has no case 'x', 'y'; nothing was changed"),
        (["b", "a"], FAILED, "a: of the locked hold-out, which never changes; nothing was changed"),
        (["--undo"], USAGE, "--undo needs a CASE"),
        (["b", "--author", " "], USAGE, "--author is empty"),
    ):
        assert exclude(*words) == code
        said = capsys.readouterr()
        assert told in said.err and said.err.count("\n") == 1 and not said.out
    assert not opened(dataset).history.excluded
    assert exclude() == OK and capsys.readouterr().out.endswith("no case is excluded\n")
    assert exclude("b", "c", "b", "--author", "A. Reader") == OK
    assert capsys.readouterr().out == "b: excluded, was in split 'train'\nc: excluded, was in split 'train'\n"
    assert opened(dataset).splits == {"train": ("d",), "holdout": ("a",)}
    assert exclude("c", "--undo", "--json") == OK
    assert json.loads(capsys.readouterr().out) == {"excluded": {"b": "train"}}
    assert opened(dataset).splits["train"] == ("d", "c")
    assert [(event["event"], event["case"], event["by"]) for event in read_events(dataset.path)[-3:]] == [
        ("case excluded", "b", "A. Reader"),
        ("case excluded", "c", "A. Reader"),
        ("case included", "c", "unknown"),
    ]


def test_the_command_locks_a_hold_out_for_good_and_says_what_is_doubtful_there(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    def holdout(*words: str) -> int:
        return main(["holdout", str(dataset.path), *words])

    assert holdout() == OK and capsys.readouterr().out.endswith("no case is held out\n")
    for words, code, told in (
        (["b", "x"], FAILED, "has no case 'x'; nothing was changed"),
        (["b", "--author", " "], USAGE, "--author is empty"),
    ):
        assert holdout(*words) == code
        said = capsys.readouterr()
        assert told in said.err and said.err.count("\n") == 1 and not said.out
    maintenance.exclude_case(dataset, "d", "me")
    assert holdout("d") == FAILED and "d is excluded; put it back first" in capsys.readouterr().err
    assert not opened(dataset).held_out
    draft = dataset.case("a").image()
    draft = draft.with_array(np.zeros(draft.array.shape, np.uint8))
    dataset.case("a").add_label(draft, author="me", how="model", model=("la", "1"))
    assert holdout("a") == OK
    said = capsys.readouterr()
    assert said.out == "a: locked, in split 'holdout'\n" and "a: labelled by a model alone" in said.err
    assert holdout("a") == FAILED and "not held out yet" in capsys.readouterr().err
    assert holdout("b", "--author", "A. Reader", "--json") == OK
    told = json.loads(capsys.readouterr().out)
    assert told["holdout"] == {"holdout": ["a"], "holdout-2": ["b"]} and opened(dataset).held_out == ("a", "b")
    assert read_events(dataset.path)[-1]["by"] == "A. Reader"


def test_the_command_puts_no_case_back_where_the_split_of_one_is_the_locked_hold_out(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.add_to_split("dev", ["d", "c"])
    words = ["exclude", str(dataset.path), "a", "d"]
    assert main(words) == OK
    assert capsys.readouterr().out == "a: excluded, was in split 'train'\nd: excluded, was in splits 'train', 'dev'\n"
    opened(dataset).lock_holdout("dev")
    assert main([*words, "--undo"]) == FAILED
    assert "d: of the locked hold-out, which never changes; nothing was changed" in capsys.readouterr().err
    assert opened(dataset).splits == {"train": ("b",), "dev": ("c",)}


def test_a_display_name_changes_no_file_and_is_no_others(dataset: Dataset) -> None:
    before = sorted(path.name for path in dataset.path.rglob("*"))
    maintenance.rename_case(dataset, "a", "  Müller's  first ", "me")
    assert opened(dataset).history.names == {"a": "Müller's first"}
    assert sorted(path.name for path in dataset.path.rglob("*")) == sorted([*before, EVENTS])
    for taken in ("müller's first", "C"):
        with pytest.raises(ValueError, match="has the name"):
            maintenance.rename_case(dataset, "b", taken, "me")
    with pytest.raises(ValueError, match="too long"):
        maintenance.rename_case(dataset, "b", "x" * 129, "me")
    maintenance.rename_case(dataset, "a", "", "me")
    assert opened(dataset).history.names == {}


def test_a_structure_is_added_with_a_value_and_a_name_of_its_own(dataset: Dataset) -> None:
    maintenance.add_structure(dataset, make_label(2, "RA"), "me")
    assert [(label.value, label.name) for label in opened(dataset).labels] == [(1, "LA"), (2, "RA")]
    for label in (make_label(2, "LV"), make_label(3, "la")):
        with pytest.raises(ValueError, match=r"twice|name|value"):
            maintenance.add_structure(dataset, label, "me")
    both = Volume(np.array([1, 2] * 12, np.uint8).reshape(SHAPE), GRID)
    assert opened(dataset).case("a").add_label(both, author="me", how="hand").number == 2


def test_the_second_hold_out_grows_and_never_shrinks(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="lock the first one"):
        maintenance.hold_out_more(dataset, ["b"], "me")
    dataset.lock_holdout(["a"])
    assert maintenance.hold_out_more(dataset, ["b"], "me") == ["b"]
    assert maintenance.hold_out_more(opened(dataset), ["b", "c"], "me") == ["c"]
    again = opened(dataset)
    assert again.splits == {"train": ("d",), "holdout": ("a",), "holdout-2": ("b", "c")}
    assert (again.holdout, again.locked_splits, again.held_out) == (
        "holdout",
        ("holdout", "holdout-2"),
        ("a", "b", "c"),
    )
    with pytest.raises(ValueError, match="locked"):
        again.add_to_split("train", ["b"])
    with pytest.raises(ValueError, match="locked"):
        again.add_to_split("holdout-2", ["d"])
    with pytest.raises(ValueError, match="never trained on"):
        check_training_split(again, "holdout-2")
    for change in (maintenance.remove_case, maintenance.exclude_case):
        for held in "ab":
            with pytest.raises(ValueError, match=f"{held} belongs to the locked hold-out"):
                change(again, held, "me")
    with pytest.raises(ValueError, match="not held out yet"):
        maintenance.hold_out_more(again, ["a", "b"], "me")


def test_a_case_that_an_older_program_took_out_of_the_second_hold_out_is_held_out_all_the_same(
    dataset: Dataset,
) -> None:
    dataset.lock_holdout(["a"])
    maintenance.hold_out_more(dataset, ["b"], "me")
    entry = as_older_programs_read_it(dataset)
    assert entry["splits"] == {"train": ["c", "d"], "holdout": ["a"], "holdout-2": ["b"]}
    entry["splits"] = {"train": ["c", "d", "b"], "holdout": ["a"]}
    (dataset.path / "dataset.json").write_text(json.dumps(entry), encoding="utf-8")
    assert opened(dataset).splits == {"train": ("c", "d"), "holdout": ("a",), "holdout-2": ("b",)}


def test_copies_are_locked_with_the_scan_whichever_way_it_is_held_out(dataset: Dataset) -> None:
    for original in "abc":
        dataset.add_case(f"{original}-copy", dataset.case(original).image(), {})
        dataset.add_to_split("train", [f"{original}-copy"])
    assert dataset.lock_holdout(["a"]) == dataset.lock_holdout(["a"]) == "holdout"
    assert dataset.splits["holdout"] == ("a", "a-copy")
    assert maintenance.hold_out_more(dataset, ["b-copy"], "me") == ["b-copy", "b"]
    assert opened(dataset).splits["train"] == ("c", "d", "c-copy")


def test_copies_are_locked_with_a_split(dataset: Dataset) -> None:
    dataset.add_case("a-copy", dataset.case("a").image(), {})
    dataset.add_to_split("val", ["a"])
    assert dataset.lock_holdout("val") == "val"
    assert opened(dataset).splits["val"] == ("a", "a-copy")


@pytest.mark.parametrize("second", [False, True])
def test_an_excluded_case_is_not_locked_and_its_copy_of_a_held_out_scan_is_never_trained_on(
    dataset: Dataset, second: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if second:
        dataset.lock_holdout(["d"])
    dataset.add_case("a-copy", dataset.case("a").image(), {})
    dataset.add_to_split("train", ["a-copy"])
    maintenance.exclude_case(dataset, "a-copy", "me")
    lock = partial(maintenance.hold_out_more, dataset, by="me") if second else dataset.lock_holdout
    with pytest.raises(ValueError, match="a-copy is excluded; include it first"):
        lock(["b", "a-copy"])
    lock(["a"])
    assert opened(dataset).held_out == (("d", "a") if second else ("a",))
    assert main(["exclude", str(dataset.path), "a-copy", "--undo"]) == OK
    assert "1 cases show the scan of a held-out one, and are not trained on: a-copy" in capsys.readouterr().err
    assert opened(dataset).splits["train"][-1] == "a-copy" and opened(dataset).held_out_copies() == ["a-copy"]


def test_a_torn_event_hides_no_other(dataset: Dataset) -> None:
    maintenance.rename_case(dataset, "a", "first", "me")
    with (dataset.path / EVENTS).open("ab") as file:
        file.write(b'{"event": "case ren')
    maintenance.rename_case(dataset, "b", "second", "me")
    assert opened(dataset).history.names == {"a": "first", "b": "second"}
