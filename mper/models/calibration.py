"""The calibration of a model: from what can be measured of a mask to the Dice to expect of it.

It is fitted on masks of known Dice, of cases that trained nothing (`mper.training.calibration`), and travels in the
model's bundle. What is measured is called evidence (`mper.inference.evidence`); every piece of it is oriented so that
more is better. With x_n the pieces of evidence, the expected Dice is

    E = 1 / (1 + exp(-(b + sum_n w_n z_n))),    z_n = clip((x_n - centre_n) / scale_n, -6, 2),    w_n >= 0,

so that it can only fall when a piece of evidence gets worse. A piece that cannot be measured counts as usual, z = 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mper.provenance import quality_text
from mper.utils.coded import Coded, joined

GOOD, CHECK, WRONG = "good", "check", "likely wrong"
GOOD_FROM, WRONG_BELOW = 0.8, 0.5  # expected Dice
LOWEST, HIGHEST = -6.0, 2.0  # of z
_REASON_BELOW = -1.0  # logits that a piece of evidence takes away, to be named as a reason
_REASONS = 2

REASONS = {
    "confidence": "the model is unsure of the boundary",
    "prototype_agreement": "the two classifiers of the model disagree",
    "similarity": "the tissue in the mask is unlike that of the training scans",
    "background_similarity": "the surroundings are unlike those of the training scans",
    "localization_agreement": "the search at low resolution sees the structure elsewhere",
    "size": "the volume is unlike that of the training labels",
    "shape": "the shape is unlike that of the training labels",
    "slices": "the distance between slices is unlike that of the training scans",
    "slice_overlap": "the mask does not continue from slice to slice",
    "free_border": "the mask is cut at the border of the region",
    "one_piece": "the mask is in several pieces",
    "intensities": "the intensities are distributed unlike those of the training scans",
    "smoothness": "the scan is noisy",
}
"""What a piece of evidence says where it is bad."""


@dataclass(frozen=True)
class Quality:
    """How good a mask is expected to be.

    Parameters
    ----------
    expected_dice : float
        The Dice to expect, mean over the structures, in [0, 1].
    low, high : float
        The range that holds the true Dice of 8 in 10 masks of this level.
    level : {"good", "check", "likely wrong"}
        An expected Dice of at least 0.8, between, below 0.5.
    reasons : tuple of str
        What speaks most against the mask; empty for a good one.
    """

    expected_dice: float
    low: float
    high: float
    level: str
    reasons: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One sentence for people."""
        if not self.reasons or self.level == GOOD:
            return self.short
        reasons = joined(self.reasons, " and ")
        values = {"dice": f"{self.expected_dice:.2f}", "low": f"{self.low:.2f}", "high": f"{self.high:.2f}"}
        code = "quality-check" if self.level == CHECK else "quality-likely-wrong"
        return Coded(f"{self.short}: {reasons}", code, reasons=reasons, **values)

    @property
    def short(self) -> str:
        """The level and the numbers, as they travel with a mask."""
        return quality_text(self.level, self.expected_dice, self.low, self.high)


@dataclass(frozen=True)
class Term:
    """How a piece of evidence counts: see the formula above."""

    centre: float
    scale: float
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and self.scale > 0 and 0 <= self.weight < math.inf):
            raise ValueError(f"a term of the calibration has no meaning: {self}")

    def standardised(self, value: float) -> float:
        """z, in [-6, 2]."""
        return min(HIGHEST, max(LOWEST, (value - self.centre) / self.scale))


@dataclass(frozen=True)
class Calibration:
    """From evidence to the expected Dice.

    Parameters
    ----------
    usual : mapping of str to (mean, standard deviation) each
        Size and shape of the training labels, by name (`mper.inference.evidence.shape_of`).
    terms : mapping of str to Term
        By name of the evidence; empty for one that was not fitted and says nothing.
    bias : float
        b of the formula.
    ranges : mapping of str to (float, float)
        For each level: what to add to the expected Dice for the 10th and the 90th percentile of the true one.
    about : mapping
        For people: the masks that it was fitted on, and what was measured.
    """

    usual: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    terms: Mapping[str, Term] = field(default_factory=dict)
    bias: float = 0.0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise ValueError("its bias is not finite")

    def contributions(self, evidence: Mapping[str, float]) -> dict[str, float]:
        """What each piece of evidence that was measured adds to the log-odds: w z."""
        return {
            name: term.weight * term.standardised(evidence[name])
            for name, term in self.terms.items()
            if name in evidence and math.isfinite(evidence[name])
        }

    def expected_dice(self, evidence: Mapping[str, float]) -> float:
        """The formula; without terms it is the same for every mask."""
        return 1 / (1 + math.exp(-(self.bias + sum(self.contributions(evidence).values()))))

    def quality(self, evidence: Mapping[str, float]) -> Quality | None:
        """What to expect of a mask; None where the calibration was not fitted."""
        if not self.terms:
            return None
        parts = self.contributions(evidence)
        expected = self.expected_dice(evidence)
        level = level_of(expected)
        below, above = self.ranges.get(level, (-0.1, 0.1))
        worst = sorted((part, name) for name, part in parts.items() if part < _REASON_BELOW)[:_REASONS]
        if not worst and parts and level != GOOD:
            worst = [min((part, name) for name, part in parts.items())]
        reasons = tuple(_reason(name) for _, name in worst) if level != GOOD else ()
        return Quality(expected, max(0.0, expected + below), min(1.0, expected + above), level, reasons)

    def to_json(self) -> str:
        """The text of calibration.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """From calibration.json.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        try:
            stored = json.loads(text)
            return cls(
                {str(name): _pair(pair) for name, pair in stored["usual"].items()},
                {str(name): Term(**{k: float(v) for k, v in term.items()}) for name, term in stored["terms"].items()},
                float(stored["bias"]),
                {str(level): _pair(pair) for level, pair in stored["ranges"].items()},
                dict(stored["about"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the calibration of the model is damaged ({error}); get the model again") from error


def _reason(name: str) -> str:
    return Coded(REASONS[name], f"evidence-{name}") if name in REASONS else name


def level_of(expected_dice: float) -> str:
    """The level of an expected Dice."""
    return GOOD if expected_dice >= GOOD_FROM else CHECK if expected_dice >= WRONG_BELOW else WRONG


def _pair(values: Any) -> tuple[float, float]:
    first, second = (float(value) for value in values)
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError("a number is not finite")
    return first, second
