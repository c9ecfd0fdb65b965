"""Strokes that are kept beside a label, and labels that are made of strokes alone."""

from __future__ import annotations

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_data import blob_dataset

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.labels import UNLABELLED
from mper.strokes import Stroke, StrokeList
from mper.volume import Volume

HERE = Stroke(1, ((20.0, 20.0, 20.0), (22.0, 20.0, 20.0)), 3.0)
NOT_HERE = Stroke(0, ((4.0, 4.0, 4.0),), 2.0)
DRAWN = StrokeList((HERE, NOT_HERE), model="la/1.0.0")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return blob_dataset(tmp_path / "d", 1, labelled=0).case("case0")


def mask_of(case: Case, value: int = 0) -> Volume:
    return Volume(np.full(case.geometry.shape, value, np.uint8), case.geometry)


def test_strokes_come_back_with_their_revision_alone(case: Case) -> None:
    case.add_label(mask_of(case), author="A", how="hand")
    made = case.add_label(mask_of(case, 1), author="B", how="strokes", strokes=DRAWN)
    assert made.strokes and made == case.revisions()[-1]
    assert [revision.strokes for revision in case.revisions()] == [False, True]
    assert (case.strokes(1), case.strokes(2)) == (None, DRAWN)
    assert case.add_label(mask_of(case), author="C", how="hand").number == 3, "files of strokes are no revisions"
    assert sorted(path.name for path in (case.path / "labels").iterdir()) == [
        *("1.json", "1.nrrd", "2.json", "2.nrrd", "2.strokes.json", "3.json", "3.nrrd")
    ]


def test_strokes_can_follow_their_label_and_never_change(case: Case) -> None:
    case.add_label(mask_of(case), author="A", how="strokes")
    case.keep_strokes(1, DRAWN)
    case.keep_strokes(1, DRAWN)
    with pytest.raises(FileExistsError, match="has other strokes, which never change"):
        case.keep_strokes(1, StrokeList((HERE,)))
    with pytest.raises(ValueError, match="no label revision 2"):
        case.keep_strokes(2, DRAWN)
    assert case.strokes(1) == DRAWN


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_two_programs_that_keep_strokes_at_once_one_succeeds(
    case: Case, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "this file system has no hard links")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    writers = [StrokeList((Stroke(1, HERE.points_mm, 1.0 + n),)) for n in range(6)]
    for number in range(1, 6):
        case.add_label(mask_of(case), author="A", how="strokes")
        barrier = threading.Barrier(len(writers))

        def write(strokes: StrokeList, number: int = number, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                case.keep_strokes(number, strokes)
            except (FileExistsError, ValueError):  # without links the winner's file may be empty for a moment
                return False
            return True

        with ThreadPoolExecutor(len(writers)) as pool:
            kept = list(pool.map(write, writers))
        assert sum(kept) == 1 and case.strokes(number) == writers[kept.index(True)]
    assert not list((case.path / "labels").glob(".*"))


def test_a_label_of_strokes_says_what_was_painted_and_nothing_else(case: Case) -> None:
    made = case.add_painted(DRAWN, author="A", seconds=4.0)
    label = case.label()
    assert label is not None and made.partial and made.how == "strokes" and case.is_partial and case.is_drawn
    wanted = np.full(case.geometry.shape, UNLABELLED, np.uint8)
    for stroke in DRAWN.strokes:
        wanted[tuple(stroke.voxels(case.geometry).T)] = stroke.value
    assert np.array_equal(label.array, wanted) and {0, 1, 255} == set(np.unique(wanted).tolist())


def test_where_strokes_overlap_the_later_one_counts(case: Case) -> None:
    case.add_painted(StrokeList((HERE, Stroke(0, HERE.points_mm, HERE.radius_mm))), author="A")
    label = case.label()
    assert label is not None and set(np.unique(label.array).tolist()) == {0, UNLABELLED}


def test_strokes_that_do_not_belong_here_leave_nothing(case: Case) -> None:
    outside = Stroke(1, ((900.0, 0.0, 0.0),))
    for wrong, words in (
        (StrokeList((HERE,), scan_sha256="0" * 64), "drawn on another scan"),
        (StrokeList((HERE, Stroke(7, HERE.points_mm))), "stroke 2 has the label 7; known are \\[0, 1\\]"),
        (StrokeList((HERE, outside)), "stroke 2 covers no voxel of case case0"),
        (StrokeList(()), "the list has no stroke"),
    ):
        with pytest.raises(ValueError, match=words):
            case.add_painted(wrong, author="A")
    assert not case.is_labelled and not list(case.path.glob("labels/*"))
    own = StrokeList((HERE,), scan_sha256=case.voxels_sha256)
    assert case.add_painted(own, author="A").number == 1


def test_a_case_from_before_checksums_were_noted_refuses_strokes_of_another_scan(case: Case) -> None:
    own = case.voxels_sha256
    assert own is not None
    record = json.loads((case.path / "case.json").read_text(encoding="utf-8"))
    del record["voxels_sha256"]
    (case.path / "case.json").write_text(json.dumps(record), encoding="utf-8")
    old = Dataset.open(case.path.parent.parent).case(case.id)
    assert old.voxels_sha256 is None
    with pytest.raises(ValueError, match="drawn on another scan"):
        old.add_painted(StrokeList((HERE,), scan_sha256="0" * 64), author="A")
    assert old.add_painted(StrokeList((HERE,), scan_sha256=own.upper()), author="A").number == 1


def test_a_dataset_with_strokes_is_read_as_any_other(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "d", 2)
    dataset.case("case0").add_painted(DRAWN, author="A")
    found = Dataset.open(tmp_path / "d").case("case0")
    assert [revision.number for revision in found.revisions()] == [1, 2] and found.is_partial
    assert found.strokes(2) == DRAWN
