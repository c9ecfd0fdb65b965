"""The calibration of a run's model: from the hold-out, else from models of half of the labels, else there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mper.evaluation.evaluate import LabelledScan
from mper.models.bundle import ModelBundle
from mper.models.calibration import Calibration
from mper.progress import Report
from mper.training.calibration import LEAST_MASKS, calibrate, fit, labels_of, usual_shapes
from mper.training.data import TrainingData
from mper.training.folds import can_fold, fold_samples
from mper.training.learner import Learner
from mper.training.run_clock import Clock

_ON_HOLDOUT = "masks of this model on the locked hold-out, as it is and made worse on purpose"
_ON_FOLDS = (
    "masks of two models that were each trained for a quarter of the time on half of the labels, of the other half's "
    "scans as they are and made worse on purpose"
)
_NOTHING = "nothing: there is no hold-out with three cases that are labelled throughout, or the run was too short"
FOLDS_ALONE = "--calibrate-folds does nothing in a training of several processes (torchrun): lock a hold-out instead"
_SHARE = 0.1  # of the run's time, for measuring on the hold-out


@dataclass(frozen=True)
class Folds:
    """How the models of half of the labels are made: see `mper.training.folds.fold_samples`."""

    case_of: Callable[[str], LabelledScan]
    learner_of: Callable[[TrainingData, int], Learner]
    bundle_of: Callable[[TrainingData, Learner], ModelBundle]
    steps: int | None
    seconds: float
    known: Collection[str] = ()


def calibration_of_run(
    bundle: ModelBundle,
    data: TrainingData,
    holdout: Sequence[LabelledScan],
    folds: Folds | None,
    *,
    folds_ignored: bool = False,
    run_s: float,
    device: str,
    report: Report,
    clock: Clock = time.monotonic,
) -> tuple[Calibration | None, str]:
    """The calibration of a model, if it can have one, and what it comes from.

    Parameters
    ----------
    bundle : ModelBundle
        The model of the run.
    data : TrainingData
    holdout : sequence of LabelledScan
        Empty where nothing is held out.
    folds : Folds or None
        For where the hold-out is too small; None: not wanted, or not possible.
    folds_ignored : bool
        Whether they are wanted, and several processes train.
    run_s : float
        How long the run took, by the clock.
    device : {"auto", "cpu", "cuda", "mps"}
    report : Report
        May raise, which ends it.
    clock : Clock
        Measures all times.
    """
    usual = usual_shapes(labels_of(data.sampler.labelled), data.plan.dimensions, len(data.labels))
    if holdout:
        found = calibrate(bundle, usual, holdout, device, _SHARE * run_s, report, clock)
        if found is not None:
            return found, _ON_HOLDOUT
    if folds is None:
        return None, f"{_NOTHING}; {FOLDS_ALONE if folds_ignored else 'see --calibrate-folds'}"
    if not can_fold(data.sampler, folds.known):
        six = "six that the model which it starts from was not trained on" if folds.known else "six to train on"
        return None, f"{_NOTHING}; nor {six}"
    samples = fold_samples(
        data,
        folds.case_of,
        usual,
        folds.learner_of,
        folds.bundle_of,
        steps=folds.steps,
        seconds=folds.seconds,
        device=device,
        report=report,
        clock=clock,
        known=folds.known,
    )
    if len(samples) < LEAST_MASKS:
        few = f"{len(samples)} mask{'' if len(samples) == 1 else 's'} of two models of half of the labels"
        return None, f"{_NOTHING}; and {few} are too few: train for longer"
    return fit(samples, usual), _ON_FOLDS
