"""Masks of known Dice where nothing is held out: two models, each of half of the labels, segment the other half.

Their training is shorter than that of the model that is calibrated with them, and they know half of its labels, so
their masks, and with them the Dice that is expected of the model, are rather worse than its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from mper.dataloading.patch_sampler import PatchSampler
from mper.evaluation.evaluate import LabelledScan
from mper.labels import UNLABELLED
from mper.models.bundle import ModelBundle
from mper.progress import Progress, Report
from mper.training.calibration import LEAST_CASES, MOST_CASES, Sample, collect, labelled_throughout
from mper.training.data import TrainingData
from mper.training.learner import Learner
from mper.training.run_clock import Clock

FOLDS = 2
_REPORT_S = 2.0


def can_fold(sampler: PatchSampler, known: Collection[str] = ()) -> bool:
    """Whether there are enough cases that are labelled throughout, without those `known` to the start model."""
    return len(_whole(sampler, known)) >= FOLDS * LEAST_CASES


def fold_samples(
    data: TrainingData,
    case_of: Callable[[str], LabelledScan],
    usual: Mapping[str, tuple[float, float]],
    learner_of: Callable[[TrainingData, int], Learner],
    bundle_of: Callable[[TrainingData, Learner], ModelBundle],
    *,
    steps: int | None,
    seconds: float,
    device: str,
    report: Report,
    clock: Clock = time.monotonic,
    known: Collection[str] = (),
) -> list[Sample]:
    """Train a model on each half of the labelled cases, and measure its masks of the other half.

    Parameters
    ----------
    data : TrainingData
        Of the run.
    case_of : callable
        From the id of one of its cases to its scan and label as they were read.
    usual : mapping
        From `mper.training.calibration.usual_shapes`.
    learner_of : callable
        From the data and the number of a fold to what learns from it.
    bundle_of : callable
        From the data and a learner that has finished to the model.
    steps : int or None
        Of each training; None for as many as fit into its time.
    seconds : float
        Time of each training without `steps`, and half of that for measuring its masks.
    device : {"auto", "cpu", "cuda", "mps"}
    report : Report
        May raise, which ends it.
    clock : Clock
        Measures the seconds.
    known : collection of str
        The cases that the start model was trained on: both models learn from them, and neither is measured there.
    """
    whole = _whole(data.sampler, known)
    found: list[Sample] = []
    for fold in range(FOLDS):
        judged = whole[fold::FOLDS]
        part = replace(data, sampler=data.sampler.without(judged))
        learner = learner_of(part, fold)
        what = f"model {fold + 1} of {FOLDS} on half of the labels"
        _learn(learner, part.sampler, steps, seconds, report, clock, what)
        labelled = labelled_throughout([case_of(name) for name in judged[:MOST_CASES]], data.labels)
        found += collect(
            bundle_of(part, learner),
            usual,
            labelled,
            device=device,
            seed=fold,
            seconds=seconds / 2,
            report=report,
            clock=clock,
        )
    return found


def _learn(
    learner: Learner,
    sampler: PatchSampler,
    steps: int | None,
    seconds: float,
    report: Report,
    clock: Clock,
    what: str,
) -> None:
    begin, number, reported = clock(), 0, -math.inf
    learner.begin()
    while True:
        t = (clock() - begin) / seconds if steps is None else number / steps
        if t >= 1 and number:
            break
        now = time.monotonic()
        if now - reported >= _REPORT_S:
            reported = now
            report(Progress(f"training {what} to measure the quality of masks", min(t, 1.0)))
        learner.step(number, min(t, 0.999), sampler)
        number += 1
    learner.finish(number, sampler)


def _whole(sampler: PatchSampler, known: Collection[str]) -> list[str]:
    """The cases that are labelled throughout, without those `known`."""
    return [
        case.id
        for case in sampler.labelled
        if case.id not in known and case.label is not None and not (case.label == UNLABELLED).any()
    ]
