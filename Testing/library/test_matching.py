"""The bank of labelled voxels, and the nearest of them: as the slow way finds them, oldest out first, none invented."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mper.labels import UNLABELLED
from mper.methods import matching
from mper.methods.matching import BAND_VOXELS, Bank, best_cosines, close_to_another, nearest_labels
from mper.models.references import References

CORNER = np.array([10.0, 20.0, 30.0])


def coded(shape: tuple[int, ...]) -> torch.Tensor:
    """An embedding (3, *shape) whose direction tells its voxel."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")).float() + 1
    return index if len(shape) == 3 else torch.cat([torch.ones(1, *shape), index])


def halves(shape: tuple[int, ...]) -> torch.Tensor:
    """Class 1 in the second half of the last axis, and 255 in its last column."""
    label = torch.zeros(shape, dtype=torch.int64)
    label[..., shape[-1] // 2 :] = 1
    label[..., -1] = UNLABELLED
    return label


# ---------------------------------------------------------------------- the nearest


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 4), st.integers(1, 9), st.integers(0, 9))
def test_matching_equals_brute_force(seed: int, count: int, classes: int, size: int, empty: int) -> None:
    make = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 5, generator=make) * 3
    bank = F.normalize(torch.randn(classes, size, 5, generator=make), dim=2)
    bank[:, size - min(empty, size) :] = 0
    cosines = [
        [max(0.0, *(float(torch.cosine_similarity(row, v, dim=0)) for v in one)) for one in bank] for row in rows
    ]
    torch.testing.assert_close(best_cosines(rows, bank), torch.tensor(cosines), rtol=0, atol=1e-5)
    for row, label in zip(cosines, nearest_labels(rows, bank, 0.5).tolist(), strict=True):
        if abs(max(row) - 0.5) > 1e-4 and sorted(row)[-1] - sorted(row)[-2] > 1e-4:
            assert label == (row.index(max(row)) if max(row) >= 0.5 else UNLABELLED)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, bank = torch.randn(101, 4), F.normalize(torch.randn(2, 8, 4), dim=2)
    at_once = best_cosines(rows, bank)
    monkeypatch.setitem(matching._TABLE_ENTRIES, "cpu", 7 * 16)
    torch.testing.assert_close(best_cosines(rows, bank), at_once, rtol=0, atol=1e-6)


def test_where_nothing_is_near_nothing_is_said() -> None:
    bank = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    rows = torch.tensor([[2.0, 0.1], [-1.0, -1.0], [0.0, 0.0], [-1.0, 0.8]])
    assert nearest_labels(rows, bank, 0.9).tolist() == [0, UNLABELLED, UNLABELLED, UNLABELLED]
    assert nearest_labels(rows, bank, 0.6).tolist() == [0, UNLABELLED, UNLABELLED, 1]


def test_an_empty_bank_and_an_empty_class_are_never_matched() -> None:
    bank = Bank(2, 4, 3)
    assert (nearest_labels(torch.rand(5, 3), bank.vectors, 0.5) == UNLABELLED).all()
    bank.vectors[0, 1] = torch.tensor([1.0, 0, 0])
    assert set(nearest_labels(torch.rand(50, 3) + 0.1, bank.vectors, 1e-3).tolist()) == {0}


def test_half_precision_outside_does_not_reach_the_cosines() -> None:
    rows, bank = torch.randn(20, 16), F.normalize(torch.randn(2, 8, 16), dim=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = best_cosines(rows, bank)
    torch.testing.assert_close(found, best_cosines(rows, bank), rtol=0, atol=0)


# ---------------------------------------------------------------------- the bank


@pytest.mark.parametrize("shape", [(6, 8, 12), (8, 12)])
def test_bank_holds_labelled_voxels_with_their_class_case_and_place(shape: tuple[int, ...]) -> None:
    label, embedding = halves(shape), coded(shape)
    bank = Bank(2, 40, 3)
    bank.add(embedding, label, 7, CORNER, 16, np.random.default_rng(0))
    assert bank.written.tolist() == [16, 16] and (bank.case >= 0).float().mean(1).tolist() == pytest.approx([0.4, 0.4])
    for c in range(2):
        taken = bank.case[c] >= 0
        assert taken.sum() == 16 and (bank.case[c][taken] == 7).all() and (bank.vectors[c][~taken] == 0).all()
        inside = (bank.position[c][taken] - torch.from_numpy(CORNER)).long()
        assert len({tuple(row) for row in inside.tolist()}) == 16  # no voxel twice
        at = tuple(inside.T[3 - len(shape) :])
        assert (label[at] == c).all()
        torch.testing.assert_close(bank.vectors[c][taken], F.normalize(embedding[(slice(None), *at)].T, dim=1))


def test_the_oldest_go_first_and_the_size_stays() -> None:
    label, bank = halves((4, 8, 12)), Bank(2, 10, 3)
    for case in range(4):
        bank.add(coded((4, 8, 12)), label, case, CORNER, 4, np.random.default_rng(case))
        assert bank.vectors.shape == (2, 10, 3)
    # Of 16 voxels in ten places the last ten are left: two of case 1, and all of cases 2 and 3.
    assert bank.written.tolist() == [16, 16]
    assert [bank.case[c].bincount(minlength=4).tolist() for c in range(2)] == [[0, 2, 4, 4]] * 2
    lengths = bank.vectors.norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_a_class_that_a_patch_does_not_show_keeps_its_voxels() -> None:
    bank = Bank(3, 8, 3)
    bank.add(coded((4, 8, 12)), halves((4, 8, 12)), 0, CORNER, 8, np.random.default_rng(0))
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    bank.add(coded((4, 8, 12)), torch.ones(4, 8, 12, dtype=torch.int64), 1, CORNER, 8, np.random.default_rng(1))
    for name in ("vectors", "case", "position"):
        assert torch.equal(getattr(bank, name)[0], before[name][0])
        assert not torch.equal(getattr(bank, name)[1], before[name][1])
    assert bank.written.tolist() == [8, 16 - 4, 0] and (bank.case[2] == -1).all()


def test_a_class_of_few_voxels_gives_those() -> None:
    label = torch.zeros(4, 8, 12, dtype=torch.int64)
    label[1, 2, 3] = 1
    bank = Bank(2, 8, 3)
    bank.add(coded((4, 8, 12)), label, 0, np.zeros(3), 8, np.random.default_rng(0))
    assert bank.written[1] == 1 and bank.position[1, 0].tolist() == [1, 2, 3]


def test_half_of_the_voxels_lie_close_to_another_class() -> None:
    label = torch.zeros(8, 16, 40, dtype=torch.int64)
    label[..., 30:] = 1
    bank = Bank(2, 64, 3)
    bank.add(coded((8, 16, 40)), label, 0, np.zeros(3), 64, np.random.default_rng(0))
    for c in range(2):
        assert ((bank.position[c, :, 2] - 29.5).abs() <= BAND_VOXELS).sum() == 32


def test_band_is_three_voxels_wide_and_what_is_unlabelled_bounds_nothing() -> None:
    label = torch.zeros(9, 9, 20, dtype=torch.int64)
    label[..., 10:] = 2
    label[..., 16:] = UNLABELLED
    near = close_to_another(label, 3)
    assert near[4, 4].nonzero()[:, 0].tolist() == [7, 8, 9, 10, 11, 12]
    assert not close_to_another(torch.full((4, 4, 4), 1), 3).any()


@pytest.mark.parametrize("count", [0, 9])
def test_no_more_voxels_than_places_can_be_added(count: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 8 voxels of each class can be added at once, got {count}"):
        Bank(2, 8, 3).add(coded((4, 4, 4)), torch.zeros(4, 4, 4).long(), 0, CORNER, count, np.random.default_rng(0))


def test_a_bank_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="a bank needs classes, places and channels, got 2, 0 and 3"):
        Bank(2, 0, 3)


# ---------------------------------------------------------------------- what travels with a model


def references(count: int = 3, cases: tuple[str, ...] = ("a", "b")) -> References:
    vectors = F.normalize(torch.randn(count, 4), dim=1)
    number = torch.arange(count)
    return References(vectors, number % 2, number % 2, torch.stack([number] * 3, dim=1), cases)


def test_stored_references_come_back() -> None:
    kept = references()
    again = References.of(kept.tensors(), kept.cases)
    assert len(again) == 3 and again.cases == ("a", "b")
    assert all(torch.equal(getattr(again, name), getattr(kept, name)) for name in kept.tensors())


def test_references_that_do_not_fit_together_are_refused() -> None:
    kept = references()
    with pytest.raises(ValueError, match="name a case beyond the 1 known; the model is damaged"):
        references(cases=("a",))
    with pytest.raises(ValueError, match="do not fit together"):
        References(kept.vectors, kept.classes[:2], kept.case, kept.index, kept.cases)
    with pytest.raises(ValueError, match="have vectors, classes, case, index, got index"):
        References.of({"index": kept.index}, kept.cases)
