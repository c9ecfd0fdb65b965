"""``mper label``: a revision from a mask, from strokes, from both; whole or of a part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_data import blob_dataset

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.io import write_segmentation, write_volume
from mper.labels import Segmentation, make_label
from mper.provenance import Provenance
from mper.utils.errors import FAILED, OK, USAGE
from mper.volume import Volume

STROKES = {"strokes": [{"label": "LA", "points_mm": [[20.0, 20.0, 20.0]], "radius_mm": 3.0}]}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return blob_dataset(tmp_path / "data set", 1, labelled=0)


@pytest.fixture
def strokes(tmp_path: Path) -> Path:
    path = tmp_path / "strokes.json"
    path.write_text(json.dumps(STROKES), encoding="utf-8")
    return path


def label(dataset: Dataset, *words: Any) -> int:
    return main(["label", str(dataset.path), "case0", *map(str, words), "--author", "A. Reader"])


def mask_of(dataset: Dataset) -> Volume:
    """A mask of which slices 8 to 11 show something."""
    grid = dataset.case("case0").geometry
    array = np.zeros(grid.shape, np.uint8)
    array[8:12, 5:15, 5:15] = 1
    return Volume(array, grid)


def test_a_mask_becomes_a_revision(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "m.nrrd", mask_of(dataset))
    assert label(dataset, tmp_path / "m.nrrd") == OK
    case = dataset.case("case0")
    (made,) = case.revisions()
    assert (made.author, made.how, made.partial, made.strokes) == ("A. Reader", "hand", False, False)
    assert np.array_equal(case.label().array, mask_of(dataset).array)  # type: ignore[union-attr]
    assert capsys.readouterr().out.endswith("case case0 has label revision 1\n")


def test_structures_of_a_segmentation_are_known_by_their_names(dataset: Dataset, tmp_path: Path) -> None:
    other = mask_of(dataset).with_array(mask_of(dataset).array * np.uint8(3))
    write_segmentation(tmp_path / "m.seg.nrrd", Segmentation(other, (make_label(3, "la"),)))
    assert label(dataset, tmp_path / "m.seg.nrrd") == OK
    assert np.array_equal(dataset.case("case0").label().array, mask_of(dataset).array)  # type: ignore[union-attr]


@pytest.mark.parametrize(("edited", "how"), [(False, "a draft"), (True, "a label")])
def test_an_unedited_mask_of_a_model_is_a_draft(
    edited: bool, how: str, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Provenance.of_model("la", "2.0.1", "8d969eef")
    mask = Segmentation(mask_of(dataset), (make_label(1, "LA"),), {1: made.edited() if edited else made})
    write_segmentation(tmp_path / "m.seg.nrrd", mask)
    assert label(dataset, tmp_path / "m.seg.nrrd") == OK
    case = dataset.case("case0")
    (revision,) = case.revisions()
    assert (revision.how, revision.edited, revision.model) == ("model", edited, ("la", "2.0.1"))
    assert (
        case.is_draft == ("is an unedited mask of la 2.0.1: a draft" in capsys.readouterr().err) == (how == "a draft")
    )
    assert label(dataset, tmp_path / "m.seg.nrrd") == OK, "a draft may take the place of a draft, not of a label"
    case.add_label(mask_of(dataset), author="B. Reader", how="hand")
    capsys.readouterr()
    assert label(dataset, tmp_path / "m.seg.nrrd") == (OK if edited else FAILED)
    error = capsys.readouterr().err
    assert ("is an unedited mask of la 2.0.1, and case case0 has a person's label" in error) == (not edited)
    assert error.count("\n") == (not edited) and len(case.revisions()) == (4 if edited else 3) and not case.is_draft


def test_slices_in_which_nothing_is_drawn_can_be_left_open(dataset: Dataset, tmp_path: Path) -> None:
    write_volume(tmp_path / "m.nrrd", mask_of(dataset))
    assert label(dataset, tmp_path / "m.nrrd", "--drawn-slices") == OK
    found = dataset.case("case0").label()
    assert found is not None and dataset.case("case0").is_partial
    assert np.array_equal(found.array[8:12], mask_of(dataset).array[8:12])
    assert (found.array[:8] == 255).all() and (found.array[12:] == 255).all()


@pytest.mark.parametrize("across", [1, 2])
def test_drawn_slices_are_those_of_the_scan_however_it_is_stored(tmp_path: Path, across: int) -> None:
    shape, spacing = [20, 24, 24], [1.0, 1.0, 1.0]
    spacing[across] = 8.0
    dataset = blob_dataset(tmp_path / "data set", 1, shape, labelled=0, spacing_mm=spacing)
    array = np.zeros(shape, np.uint8)
    slices = array.swapaxes(0, across)
    slices[8:12, 5:15, 5:15] = 1
    write_volume(tmp_path / "m.nrrd", Volume(array, dataset.case("case0").geometry))
    assert label(dataset, tmp_path / "m.nrrd", "--drawn-slices") == OK
    found = dataset.case("case0").label()
    assert found is not None
    labelled = (found.array.swapaxes(0, across) != 255).all(axis=(1, 2))
    assert np.flatnonzero(labelled).tolist() == [8, 9, 10, 11] and (found.array == 1).sum() == (array == 1).sum()


def test_strokes_alone_label_a_part(dataset: Dataset, strokes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(dataset, "--strokes", strokes) == OK
    case = dataset.case("case0")
    assert set(np.unique(case.label().array).tolist()) == {1, 255}  # type: ignore[union-attr]
    assert case.revisions()[0].how == "strokes" and case.strokes(1) is not None
    assert capsys.readouterr().out.endswith("revision 1, partly labelled\n")


def test_strokes_are_kept_beside_their_mask(dataset: Dataset, strokes: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "m.nrrd", mask_of(dataset))
    assert label(dataset, tmp_path / "m.nrrd", "--strokes", strokes) == OK
    case = dataset.case("case0")
    assert np.array_equal(case.label().array, mask_of(dataset).array)  # type: ignore[union-attr]
    assert case.strokes(1).strokes[0].radius_mm == 3.0  # type: ignore[union-attr]


def test_a_mask_may_stand_behind_options(dataset: Dataset, strokes: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "m.nrrd", mask_of(dataset))
    who, where, mask = ["--author", "A. Reader"], [str(dataset.path), "case0"], str(tmp_path / "m.nrrd")
    for words in ([*where, *who, mask], [*who, *where, mask], [*where, "--strokes", str(strokes), *who, mask]):
        assert main(["label", *words]) == OK
    assert [made.how for made in dataset.case("case0").revisions()] == ["hand", "hand", "strokes"]
    for words in ([*where, mask, *who, mask], [*where, *who, mask, mask], [*where, *who, "--new"]):
        assert main(["label", *words]) == USAGE


def test_what_does_not_fit_is_told_in_one_line(
    dataset: Dataset, tmp_path: Path, strokes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = mask_of(dataset)
    write_volume(tmp_path / "m.nrrd", mask)
    write_volume(tmp_path / "255.nrrd", mask.with_array(mask.array * np.uint8(255)))
    write_volume(tmp_path / "open.nrrd", mask.with_array(np.full_like(mask.array, 255)))
    write_volume(tmp_path / "empty.nrrd", mask.with_array(np.zeros_like(mask.array)))
    far = {"strokes": [{"label": 1, "points_mm": [[5000, 0, 0]]}]}
    (tmp_path / "far.json").write_text(json.dumps(far), encoding="utf-8")
    wrong = Segmentation(mask_of(dataset), (make_label(1, "Liver"),))
    write_segmentation(tmp_path / "m.seg.nrrd", wrong)
    halves = mask.array * (1 + np.indices(mask.array.shape)[2] % 2).astype(np.uint8)
    two = Segmentation(mask.with_array(halves), (make_label(1, "LA"), make_label(2, "left atrium")))
    write_segmentation(tmp_path / "two.seg.nrrd", two)
    (tmp_path / "s.json").write_text(json.dumps({"strokes": []}), encoding="utf-8")
    for words, code, told in (
        ([], USAGE, "give a MASK, --strokes STROKES, or both"),
        (["--strokes", strokes, "--drawn-slices"], USAGE, "--drawn-slices needs a MASK"),
        ([tmp_path / "m.seg.nrrd"], FAILED, "holds 'Liver', which the dataset does not have (it has LA)"),
        ([tmp_path / "two.seg.nrrd"], FAILED, "LA, left atrium of the mask would become one structure"),
        (["--strokes", tmp_path / "s.json"], FAILED, "the list has no stroke"),
        ([tmp_path / "m.nrrd", "--strokes", tmp_path / "s.json"], FAILED, "s.json holds no stroke"),
        ([tmp_path / "m.nrrd", "--strokes", tmp_path / "far.json"], FAILED, "stroke 1 covers no voxel of case case0"),
        ([tmp_path / "255.nrrd"], FAILED, "255.nrrd holds only 0 and 255, and 255 means unlabelled"),
        ([tmp_path / "255.nrrd", "--drawn-slices"], FAILED, "holds only 0 and 255"),
        ([tmp_path / "open.nrrd"], FAILED, "open.nrrd is 255 throughout, which means unlabelled"),
        ([tmp_path / "open.nrrd", "--strokes", strokes], FAILED, "write 0 for background and 1 for LA"),
        ([tmp_path / "empty.nrrd", "--drawn-slices"], FAILED, "shows no structure in any slice"),
    ):
        assert label(dataset, *words) == code
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert main(["label", str(dataset.path), "case0", "--strokes", str(strokes), "--author", " "]) == USAGE
    assert "--author is empty" in capsys.readouterr().err
    assert not dataset.case("case0").is_labelled
