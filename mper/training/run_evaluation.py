"""What a run measures of its model between its steps and at its end.

None of it changes the model, and an error becomes a notice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from mper.dataloading.case_region import in_region
from mper.datasets.case import Case
from mper.datasets.packed import PackedCase, open_dataset
from mper.datasets.revisions import about_drafts
from mper.models.bundle import ModelBundle
from mper.models.calibration import Calibration
from mper.progress import Report
from mper.training.calibration import labels_of, usual_shapes
from mper.training.config import TrainConfig
from mper.training.data import TrainingData
from mper.training.reporter import CommandReceived, RunReporter
from mper.training.run_calibration import Folds, calibration_of_run
from mper.training.run_clock import Clock
from mper.training.runs import RunLog, read_events
from mper.training.trained_scans import about_known, scan_checksum
from mper.training.unlike_scans import unlike_scans
from mper.training.validation import HoldoutCurve
from mper.utils.coded import Coded, line_of
from mper.utils.text import first_line, shorten

_LOOKED_AT = 2  # labelled scans, whose masks say whether the model can tell
_NAMED = 5  # scans, of all that a notice is about
_FAULTS = (ValueError, OSError, RuntimeError, MemoryError)


class RunEvaluation:
    """Evaluates the model of a run, in the first of its processes.

    Parameters
    ----------
    config : TrainConfig
    data : TrainingData
    log : RunLog
    reporter : RunReporter
    bundle : callable
        Gives the model as it stands.
    device : torch.device
    clock : Clock
        Measures all times.
    without : collection of str
        The scans that the run's model knows (`mper.training.trained_scans`): a case that was held out since it, or its
        start model, was trained is left out.
    start_scans : collection of str
        Those of them that the start model was trained on.

    Attributes
    ----------
    curve : HoldoutCurve or None
        None where nothing is held out, or it could not be measured.
    drafts : list of str
        Cases that it is measured on whose labels are unedited masks of a model.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        log: RunLog,
        reporter: RunReporter,
        bundle: Callable[[], ModelBundle],
        device: torch.device,
        clock: Clock = time.monotonic,
        without: Collection[str] = (),
        start_scans: Collection[str] = (),
    ):
        self._config, self._data, self._log, self._reporter, self._bundle = config, data, log, reporter, bundle
        self._clock = clock
        self._device = str(device) if device.type == "cuda" else device.type  # as a Predictor takes it
        self.drafts: list[str] = []
        self.curve = self._make_curve(without, start_scans)

    def _make_curve(self, without: Collection[str], start_scans: Collection[str]) -> HoldoutCurve | None:
        """The curve of the hold-out's whole scans, also of those with a region: so a model is used on a new scan."""
        dataset = open_dataset(Path(self._config.dataset))
        if dataset.holdout is None:
            return None
        before = [event["seconds"] for event in read_events(self._log.folder.path) if event["event"] == "holdout"]
        cases = [case for name in dataset.locked_splits for case in dataset.split(name)]
        scans = {case.id: _scan_of(case) for case in cases}
        if known := [name for name, scan in scans.items() if scan in start_scans]:
            self._reporter.notify(about_known(known))
        if seen := [name for name, scan in scans.items() if scan in without and name not in known]:
            names = shorten(seen, _NAMED)
            line = (
                f"{names}: held out after this run began to learn from it, so the hold-out is measured without it; "
                "start a new run for a model that has not seen it"
            )
            self._reporter.notify(Coded(line, "held-out-since", cases=names))
        cases = [case for case in cases if scans[case.id] not in without]
        if not cases:
            return None
        self.drafts = [case.id for case in cases if case.is_draft]
        if self.drafts:
            self._reporter.notify(about_drafts(self.drafts))
        return HoldoutCurve(cases, self._data.labels, self._device, sum(before), self._clock)

    def holdout(
        self, step: int, done: float, whole_s: float = math.inf, report: Report | None = None
    ) -> dict[str, float] | None:
        """A point of the curve: mean Dice of each structure, None where it was not measured.

        Parameters
        ----------
        step : int
        done : float
            The share of the run that is done.
        whole_s : float
            Expected length of the run, which measuring takes a part of at most.
        report : Report or None
            None: measuring ends at a command.
        """
        if self.curve is None:
            return None
        begin = self._clock()
        try:
            dice = self.curve.measure(self._bundle(), report or self._reporter.measuring, whole_s)
        except CommandReceived:
            return None
        except _FAULTS as error:
            self._reporter.notify(_unmeasured("the hold-out could not be measured", "holdout-unmeasured", error))
            self.curve = None
            return None
        if dice:
            seconds = round(self._clock() - begin, 1)
            self._log.event("holdout", step=step, fraction=min(1.0, round(done, 5)), dice=dice, seconds=seconds)
        return dice

    def look_at_unlabelled(self, seconds: float) -> None:
        """A notice of unlabelled scans that seem to show something else."""
        data = self._data
        usual = usual_shapes(labels_of(data.sampler.labelled), data.plan.dimensions, len(data.labels))
        names = [case.id for case in data.sampler.unlabelled]
        if not usual or not names:
            return
        report, device = self._reporter.measuring, self._device
        try:
            dataset = open_dataset(Path(self._config.dataset))
            regions = dataset.regions
            # By their ids: since the run began, a case may have left its split (`mper exclude`).
            labelled = [
                in_region(dataset.case(case.id), regions).image() for case in data.sampler.labelled[:_LOOKED_AT]
            ]
            scans = ((name, in_region(dataset.case(name), regions).image()) for name in names)
            found = unlike_scans(
                self._bundle(),
                usual,
                labelled,
                scans,
                device=device,
                seconds=seconds,
                report=report,
                clock=self._clock,
            )
            looked_at = dict(found)
        except CommandReceived:
            return
        except _FAULTS as error:
            line = "the unlabelled scans could not be looked at"
            self._reporter.notify(_unmeasured(line, "unlabelled-unseen", error))
            return
        if unlike := [name for name, is_unlike in looked_at.items() if is_unlike]:
            of = f"{'the first ' if len(looked_at) < len(names) else ''}{len(looked_at)}"
            cases = shorten(unlike, _NAMED)
            line = (
                f"of {of} scan{'' if len(looked_at) == 1 else 's'} without labels {len(unlike)} "
                f"({cases}) got a mask of another shape than the labels have; look at them, and "
                "exclude those that show something else (`mper exclude`)"
            )
            self._reporter.notify(Coded(line, "unlike-unlabelled", n=len(unlike), total=len(looked_at), cases=cases))

    def calibration(
        self, bundle: ModelBundle, folds: Folds | None, *, folds_ignored: bool, run_s: float, report: Report
    ) -> tuple[Calibration | None, str]:
        """The calibration of the finished model, and what it comes from: see `calibration_of_run`."""
        try:
            found, source = calibration_of_run(
                bundle,
                self._data,
                self.curve.cases if self.curve else (),
                folds,
                folds_ignored=folds_ignored,
                run_s=run_s,
                device=self._device,
                report=report,
                clock=self._clock,
            )
        except _FAULTS as error:
            line = "the quality of masks could not be measured"
            self._reporter.notify(_unmeasured(line, "quality-unmeasured", error))
            return None, f"nothing: {first_line(error)}"
        if found is None and folds is not None:  # which were asked for
            reason = source.removeprefix("nothing: ")
            line = f"masks of this model get no expected Dice: {reason}"
            self._reporter.notify(Coded(line, "no-expected-dice", reason=reason))
        return found, source


def _scan_of(case: Case | PackedCase) -> str | None:
    """What its scan is named by; None for a damaged case, which is reported where it is measured."""
    try:
        return scan_checksum(case)
    except (*_FAULTS, KeyError):
        return None


def _unmeasured(line: str, code: str, error: BaseException) -> Coded:
    """A notice of what failed, with the reason."""
    reason = own if isinstance(own := line_of(error), Coded) else first_line(error)
    return Coded(f"{line}: {reason}", code, reason=reason)
