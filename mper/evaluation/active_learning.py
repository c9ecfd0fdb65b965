"""Active learning: an order in which to label the unlabelled cases.

Three criteria count:

- the confidence of the case (`mper.inference.confidence`): its rank among the candidates, since the scale of confidence
  differs from model to model,
- the share of the structures that lies far from all of their prototypes, beyond the usual 5 %: farther than all but 5 %
  of the structures in the labelled cases,
- the difference from the labelled cases and those ranked before it: half the sum of absolute differences between the
  shares of voxels that each prototype explains.

A rank is a heuristic: where it was measured (Testing/benchmarks/README.md, "What strokes are worth as labels"), the
first cases were of no more use than the last. So each comes with its reason in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mper.labels import BACKGROUND
from mper.progress import Report, ignore_progress
from mper.utils.coded import Coded, joined

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor
    from mper.volume import Volume

# Closer together at the low end, where what is far lies.
LEVELS = (0, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1)
_USUAL_FAR = 0.05
_FIXED_FAR, _FIXED_USUAL = 0.8, 0.02  # where no labelled case says what is usual; measured with the bundled models
_MUCH_FAR, _MUCH_UNLIKE = 0.10, 0.30  # beyond the usual, from which on more says no more
_WEIGHTS = (0.5, 0.3, 0.2)  # unsure, far, unlike
_LOWER = 0.02  # than the median confidence, to be worth a word
_DIVERSE = 1000  # first places, in which each case is to differ from those before it; more than are ever labelled
_MAPPED = ("prototypes",)


@dataclass(frozen=True)
class CaseSummary:
    """The figures of a prediction that ranking needs.

    Parameters
    ----------
    confidence : float
        Of the case, in [0, 1].
    voxels : int
        Of its structures; 0 where nothing was found.
    similarity : tuple of float
        Quantiles at `LEVELS` of the structures' cosine to their nearest prototype; empty where there is none.
    shares : tuple of float
        Of the structures' voxels, by nearest prototype; empty where there is none.
    """

    confidence: float
    voxels: int
    similarity: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.similarity) not in (0, len(LEVELS)):
            raise ValueError(f"a case summary has {len(LEVELS)} quantiles or none, this one has {len(self.similarity)}")

    def farther_than(self, cosine: float) -> float:
        """Share of the structures' voxels whose cosine is below `cosine`."""
        if not self.similarity:
            return 0.0
        return float(np.interp(cosine, self.similarity, LEVELS))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> CaseSummary:
        return cls(entry["confidence"], entry["voxels"], tuple(entry["similarity"]), tuple(entry["shares"]))


@dataclass(frozen=True)
class RankedCase:
    """A ranked case: score in [0, 1], the criteria, and the reason in words."""

    id: str
    score: float
    confidence: float
    far: float
    unlike: float
    words: str


def summarise_case(predictor: Predictor, scan: Volume, report: Report = ignore_progress) -> CaseSummary:
    """Segment a scan and summarise the prediction for ranking."""
    prediction = predictor.predict(scan, want=_MAPPED, report=report)
    inside = prediction.segmentation.labelmap.array != BACKGROUND
    voxels = int(np.count_nonzero(inside))
    if not voxels or prediction.prototype_map is None or prediction.similarity_map is None:
        return CaseSummary(round(prediction.confidence, 4), voxels)
    cosines = prediction.similarity_map.array[inside].astype(np.float32)
    quantiles = np.quantile(cosines, LEVELS)
    config = predictor.bundle.network
    first = 1 + config.prototypes  # those of the background come first
    counts = np.bincount(prediction.prototype_map.array[inside], minlength=1 + config.classes * config.prototypes)
    shares = counts[first:] / max(1, counts[first:].sum())
    return CaseSummary(
        round(prediction.confidence, 4),
        voxels,
        tuple(round(float(q), 4) for q in quantiles),
        tuple(round(float(s), 4) for s in shares),
    )


def rank(candidates: Mapping[str, CaseSummary], labelled: Sequence[CaseSummary]) -> list[RankedCase]:
    """Rank cases, those with the most reasons to label them first.

    Parameters
    ----------
    candidates : mapping of str to CaseSummary
        The unlabelled cases.
    labelled : sequence of CaseSummary
        Of labelled cases, from the same model: the usual values. May be empty.
    """
    if not candidates:
        return []
    limit, usual = _usual_limit(labelled)
    ids = sorted(candidates)
    each = [candidates[case_id] for case_id in ids]
    far = np.array([one.farther_than(limit) for one in each])
    confidence = np.array([one.confidence for one in each])
    middle = float(np.median(confidence))
    alone = _WEIGHTS[0] * _places(1 - confidence) + _WEIGHTS[1] * np.clip((far - usual) / _MUCH_FAR, 0, 1)
    known = _Known([one.shares for one in each])
    for one in labelled:
        known.add(one.shares)

    def scores() -> npt.NDArray[np.float64]:
        return alone + _WEIGHTS[2] * np.clip(known.distances() / _MUCH_UNLIKE, 0, 1)

    left = np.ones(len(ids), bool)
    order: list[tuple[int, float, float]] = []
    for _ in range(min(len(ids), _DIVERSE)):  # a chosen case counts as labelled: the next one should differ from it
        current = scores()
        best = int(np.where(left, current, -np.inf).argmax())
        left[best] = False
        order.append((best, float(current[best]), float(known.distances()[best])))
        known.add(each[best].shares)
    current = scores()
    rest = sorted(np.flatnonzero(left).tolist(), key=lambda n: -current[n])
    order += [(n, float(current[n]), float(known.distances()[n])) for n in rest]
    return [
        RankedCase(
            ids[n],
            round(score, 3),
            each[n].confidence,
            round(float(far[n]), 4),
            round(unlike, 4),
            _words(each[n], float(far[n]), unlike, middle, usual),
        )
        for n, score, unlike in order
    ]


class _Known:
    """The distance of each candidate to the most similar of the known cases, 0 to 1; 0 where none can be compared."""

    def __init__(self, shares: Sequence[Sequence[float]]) -> None:
        groups: dict[int, list[int]] = {}
        for n, each in enumerate(shares):
            groups.setdefault(len(each), []).append(n)
        self._nearest = np.full(len(shares), np.inf)
        self._groups = {
            length: (np.array(members), np.array([shares[n] for n in members]))
            for length, members in groups.items()
            if length
        }

    def add(self, shares: Sequence[float]) -> None:
        if len(shares) in self._groups:
            members, matrix = self._groups[len(shares)]
            distance = 0.5 * np.abs(matrix - np.asarray(shares)).sum(axis=1)
            self._nearest[members] = np.minimum(self._nearest[members], distance)

    def distances(self) -> npt.NDArray[np.float64]:
        return np.where(np.isinf(self._nearest), 0.0, self._nearest)


def _usual_limit(labelled: Sequence[CaseSummary]) -> tuple[float, float]:
    """A cosine, and the share of the structures of labelled cases that lies below it (each case counts the same)."""
    known = [each for each in labelled if each.similarity]
    if not known:
        return _FIXED_FAR, _FIXED_USUAL
    grid = np.linspace(-1, 1, 2001)
    below = np.mean([np.interp(grid, each.similarity, LEVELS) for each in known], axis=0)
    return float(grid[int(np.searchsorted(below, _USUAL_FAR, side="right")) - 1]), _USUAL_FAR


def _places(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each number's place among all, 0 the lowest and 1 the highest; equal ones share theirs."""
    from scipy.stats import rankdata

    if np.ptp(numbers) == 0:
        return np.full(len(numbers), 0.5)
    return np.asarray((rankdata(numbers) - 1) / (len(numbers) - 1))


def _words(chosen: CaseSummary, far: float, unlike: float, middle: float, usual: float) -> str:
    if not chosen.voxels:
        return Coded("The model segments nothing in this scan.", "segments-nothing")
    reasons: list[str] = []
    if far > 1.5 * usual:
        percent, common = f"{100 * far:.0f}", f"{100 * usual:.0f}"
        line = f"{percent} % of the structure matches no prototype well (usual: {common} %)"
        reasons.append(Coded(line, "far-from-prototypes", percent=percent, usual=common))
    if chosen.confidence < middle - _LOWER:
        low, median = f"{chosen.confidence:.2f}", f"{middle:.2f}"
        line = f"its confidence is low ({low}, median {median})"
        reasons.append(Coded(line, "low-confidence", confidence=low, median=median))
    if unlike > _MUCH_UNLIKE / 2:
        reasons.append(Coded("its prototypes differ from those of the labelled cases", "unlike-prototypes"))
    if not reasons:
        confidence = f"{chosen.confidence:.2f}"
        return Coded(f"Similar to the other cases (confidence {confidence}).", "ordinary", confidence=confidence)
    text = joined(reasons, "; ")
    return Coded(f"{text[0].upper()}{text[1:]}.", text.code, **text.values)
