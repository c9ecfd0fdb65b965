"""Which case to label next: order, what it rests on, and the reason in words."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import random_bundle, threshold_bundle

from mper.evaluation.active_learning import LEVELS, CaseSummary, rank, summarise_case
from mper.inference.predictor import Predictor
from mper.volume import Geometry, Volume


def seen(confidence: float = 0.9, lowest: float = 0.9, shares: tuple[float, ...] = (0.5, 0.3, 0.2)) -> CaseSummary:
    """A case whose cosines are spread evenly from `lowest` to 1."""
    return CaseSummary(confidence, 1000, tuple(lowest + (1 - lowest) * level for level in LEVELS), shares)


def test_share_of_far_voxels_is_that_of_the_cosines_themselves() -> None:
    cosines = np.random.default_rng(0).beta(8, 2, 20_000)
    one = CaseSummary(0.9, cosines.size, tuple(np.quantile(cosines, LEVELS)))
    for limit in (0.5, 0.7, 0.9):
        assert one.farther_than(limit) == pytest.approx((cosines < limit).mean(), abs=0.01)
    assert one.farther_than(-1) == 0 and one.farther_than(1) == 1
    assert CaseSummary(0.9, 5).farther_than(0.9) == 0


def test_least_sure_case_comes_first_where_all_else_is_equal() -> None:
    candidates = {f"case{n}": seen(confidence=c) for n, c in enumerate((0.9, 0.6, 0.8, 0.85))}
    ranked = rank(candidates, [seen()])
    assert [each.id for each in ranked] == ["case1", "case2", "case3", "case0"]
    assert "Its confidence is low (0.60, median 0.82)" in ranked[0].words
    assert "Similar to" in ranked[-1].words


def test_case_far_from_every_prototype_comes_first_and_says_so() -> None:
    candidates = {"near": seen(), "far": seen(lowest=0.4), "middle": seen(lowest=0.8)}
    ranked = rank(candidates, [seen(), seen()])
    assert [each.id for each in ranked] == ["far", "middle", "near"]
    assert ranked[0].far == pytest.approx((0.905 - 0.4) / 0.6, abs=0.01)  # 5 % of the labelled ones are below 0.905
    assert ranked[0].words == "84 % of the structure matches no prototype well (usual: 5 %)."
    assert ranked[2].far == pytest.approx(0.05, abs=0.01)


def test_second_case_teaches_something_other_than_the_first() -> None:
    odd, odder = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
    candidates = {"a": seen(shares=odd), "twin of a": seen(shares=odd), "b": seen(shares=odder), "usual": seen()}
    ranked = [each.id for each in rank(candidates, [seen()])]
    assert {ranked[0], ranked[1]} in ({"a", "b"}, {"twin of a", "b"})
    assert rank(candidates, [seen()])[0].words == "Its prototypes differ from those of the labelled cases."


def test_scan_without_a_find_is_named_and_unsure_of_all() -> None:
    ranked = rank({"nothing": CaseSummary(0.0, 0), "some": seen()}, [])
    assert ranked[0].id == "nothing" and ranked[0].words == "The model segments nothing in this scan."


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 0.99)), min_size=1, max_size=6), st.integers(0, 3))
def test_every_case_is_ranked_once_with_a_score_from_0_to_1_whatever_the_order(
    figures: list[tuple[float, float]], labelled: int
) -> None:
    candidates = {f"c{n}": seen(confidence, lowest) for n, (confidence, lowest) in enumerate(figures)}
    known = [seen()] * labelled
    ranked = rank(candidates, known)
    assert sorted(each.id for each in ranked) == sorted(candidates)
    assert all(0 <= each.score <= 1 and 0 <= each.far <= 1 and each.words for each in ranked)
    for order in itertools.islice(itertools.permutations(candidates), 4):
        assert rank({name: candidates[name] for name in order}, known) == ranked


def test_nothing_to_rank_is_no_error() -> None:
    assert rank({}, [seen()]) == []


def test_look_tells_what_the_prediction_says() -> None:
    predictor = Predictor(random_bundle("vnet"), "cpu")
    array = np.random.default_rng(1).normal(size=(16, 32, 32)).astype(np.float32)
    scan = Volume(array, Geometry.from_axes((0, 0, 0), (1.5, 1, 1), np.eye(3)[:, ::-1], array.shape))
    found = summarise_case(predictor, scan)
    prediction = predictor.predict(scan, want=("prototypes",))
    inside = prediction.segmentation.labelmap.array > 0
    assert found.voxels == inside.sum() > 0 and found.confidence == pytest.approx(prediction.confidence, abs=1e-4)
    cosines = prediction.similarity_map.array[inside].astype(float)  # type: ignore[union-attr]
    assert found.similarity[LEVELS.index(0.5)] == pytest.approx(np.median(cosines), abs=2e-3)
    values = prediction.prototype_map.array[inside]  # type: ignore[union-attr]
    assert found.shares == pytest.approx([(values == v).mean() for v in (4, 5, 6)], abs=1e-4)
    assert CaseSummary.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_look_at_a_scan_without_a_find_has_no_cosines() -> None:
    predictor = Predictor(threshold_bundle(level=100.0), "cpu")
    array = np.random.default_rng(1).normal(size=(16, 32, 32)).astype(np.float32)
    found = summarise_case(predictor, Volume(array, Geometry.from_axes((0, 0, 0), (1.5, 1, 1), np.eye(3), array.shape)))
    assert (found.voxels, found.similarity, found.shares) == (0, (), ())


def test_each_place_goes_to_the_case_that_scores_most_beside_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against distances computed one by one; behind the first places no choice changes the order of the others."""
    rng = np.random.default_rng(3)

    def some(n: int) -> CaseSummary:
        shares = tuple(rng.dirichlet([0.6] * 3).tolist()) if n % 5 else ()
        return seen(float(rng.uniform(0.5, 1)), float(rng.uniform(0.6, 0.95)), shares)

    candidates = {f"case{n:02}": some(n) for n in range(30)}
    labelled = [some(1), some(2)]
    found = rank(candidates, labelled)
    known = [each.shares for each in labelled]
    scores = {each.id: each.score for each in found}
    for place, each in enumerate(found):
        mine = candidates[each.id].shares
        distances = [0.5 * float(np.abs(np.subtract(mine, other)).sum()) for other in known if other and mine]
        assert each.unlike == pytest.approx(min(distances) if mine else 0.0, abs=1e-4), place
        known.append(mine)
    assert found[0].score == max(scores.values())
    monkeypatch.setattr("mper.evaluation.active_learning._DIVERSE", 4)
    few = rank(candidates, labelled)
    assert [each.id for each in few[:4]] == [each.id for each in found[:4]]
    rest = [each.score for each in few[4:]]
    assert rest == sorted(rest, reverse=True) and {each.id for each in few} == set(candidates)
