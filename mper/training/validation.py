"""Dice on the locked hold-out during training: a curve for information, by which nothing is chosen.

Measuring changes neither the method nor the random numbers of the steps, so a run ends with the same weights with and
without it. It takes additional time, at most a tenth of the run's, except for the last point, which is always measured.
A run that fine-tunes a model starts with the Dice of that model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from mper.evaluation.evaluate import LabelledScan
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.labels import UNLABELLED, Label
from mper.models.bundle import ModelBundle
from mper.progress import Progress, Report, part_of
from mper.training.run_clock import Clock

_POINTS = 10
_SHARE = 0.1


class HoldoutCurve:
    """Decides when to measure, and measures.

    Parameters
    ----------
    cases : sequence of LabelledScan
        Of the hold-out; those without a label are left out.
    labels : sequence of Label
        Of the dataset: class c of the network is ``labels[c - 1]``.
    device : {"auto", "cpu", "cuda", "mps"}
    spent_s : float
        Time that this run has spent on measuring before.
    clock : Clock
        Measures all times.

    Attributes
    ----------
    measured : int
        Cases with a label, over which the last point is the mean.
    """

    def __init__(
        self,
        cases: Sequence[LabelledScan],
        labels: Sequence[Label],
        device: str,
        spent_s: float = 0.0,
        clock: Clock = time.monotonic,
    ):
        self.cases, self.labels = cases, tuple(labels)
        self.device = device
        self.spent_s = spent_s
        self.measured = 0
        self._clock = clock
        self._cost_s = 0.0  # of a point, as far as is known
        self._next: float | None = None

    def due(self, t: float, elapsed_s: float) -> bool:
        """Whether to measure now: `t` is the share of the run that is done, after `elapsed_s` of training."""
        if self._next is None:  # the run starts, or is resumed
            self._next = _after(t)
        if t < self._next or t >= 1:
            return False
        self._next = _after(t)
        return self.spent_s + self._cost_s <= _SHARE * elapsed_s

    def measure(self, bundle: ModelBundle, report: Report, whole_s: float = math.inf) -> dict[str, float] | None:
        """Mean Dice of each structure over the cases; None where no case has a label, or it would take too long.

        Parameters
        ----------
        bundle : ModelBundle
        report : Report
            May raise, which ends the measuring.
        whole_s : float
            Expected length of the run: if the first case shows that measuring would take more than its share of it,
            measuring stops, and is tried again later.
        """
        begin, limit_s = self._clock(), _SHARE * whole_s - self.spent_s
        try:
            predictor = Predictor(bundle, self.device)
            scores = []
            for n, case in enumerate(self.cases):
                beat = part_of(report, n / len(self.cases), 1 / len(self.cases), "measuring on the hold-out")
                beat(Progress(f"case {n + 1} of {len(self.cases)}", 0.0))
                one = self._case(predictor, case, beat)
                if one is not None:
                    scores.append(one)
                self._cost_s = (self._clock() - begin) * len(self.cases) / (n + 1)
                if self._cost_s > limit_s:
                    return None
        finally:
            self.spent_s += self._clock() - begin
        self.measured = len(scores)
        if not scores:
            return None
        return {label.name: round(float(np.mean([one[label.name] for one in scores])), 4) for label in self.labels}

    def _case(self, predictor: Predictor, case: LabelledScan, report: Report) -> dict[str, float] | None:
        reference = case.label()
        if reference is None or (reference.array == UNLABELLED).all():
            return None
        mask = predictor.predict(case.image(), report=report).segmentation.labelmap.array
        known = reference.array != UNLABELLED
        return {
            label.name: dice((mask == label.value) & known, reference.array == label.value) for label in self.labels
        }


def _after(t: float) -> float:
    """The next of the points at which a curve is measured."""
    return (math.floor(t * _POINTS + 1e-9) + 1) / _POINTS
