"""Training: one loop for every method, one folder for every run.

The loop reads from top to bottom: follow commands, prepare, sample, step, update the teacher, report, save. Devices,
precision and processes are Lightning Fabric's; ``torchrun --nproc-per-node N -m mper train ...``
spreads a run over N devices.

Everything that a run reports goes into its folder (`mper.training.runs`), which is also the only way to steer it.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mper.dataloading.case_region import in_region
from mper.datasets.packed import open_dataset
from mper.methods.base import Losses, Method
from mper.methods.co_training import CoTraining
from mper.methods.recipe import PUBLISHED
from mper.methods.registry import find_method, make_method
from mper.models.bundle import ModelBundle
from mper.models.card import LOCALIZATION as LOCALIZATION_FILE
from mper.models.card import read_bundle
from mper.models.localization import Localization
from mper.progress import Cancelled, Notify, Progress, Report, ignore_notice, ignore_progress
from mper.training.checkpoint import has_checkpoint, load_checkpoint, read_description, save_checkpoint
from mper.training.checks import check_training_data, sparsely_labelled
from mper.training.config import TrainConfig
from mper.training.curves import write_curves
from mper.training.data import TrainingData, load_training_data
from mper.training.learner import Learner
from mper.training.localization import (
    LOCALIZATION_RECORD,
    CoarseScan,
    stored_localization,
    train_localization,
)
from mper.training.localization import STEPS as LOCALIZATION_STEPS
from mper.training.planning import Plan
from mper.training.publish import publish_run
from mper.training.reporter import RunReporter
from mper.training.result import expected_ranges, make_bundle, quality_of
from mper.training.run_calibration import FOLDS_ALONE, Folds
from mper.training.run_clock import RunClock
from mper.training.run_evaluation import RunEvaluation
from mper.training.runs import CASES, COMMANDS, RunFolder, RunLog
from mper.training.setup import AVERAGED_DICE, KNOWN_DICE, make_fabric, make_network, start_dice
from mper.training.trained_scans import SCANS, TRAINED_ON, scan_checksum, scans_of_model, scans_of_run
from mper.utils.coded import Coded
from mper.utils.devices import describe_device, pick_device
from mper.utils.errors import raised_by_us
from mper.utils.files import read_json, write_json

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["TrainConfig", "remove_failed", "start_run", "train"]

_CHECKPOINT_S = 60.0
_REPORT_S = 2.0
_PAUSE_POLL_S = 0.2
_FOLD_SHARE = 0.25  # of the run's length, for each of two models
_LOCALIZATION_SHARE, _LOCALIZATION_S = 0.2, 1200.0  # of the budget, and at most
_SHORT = 50  # steps of a run, or of self-training, below which a model learns next to nothing
_LOOK_SHARE, _LOOK_S = 0.05, 20.0  # of the run's time, and at least, to look at unlabelled scans first
_ESTIMATE_AT = 10  # the step from which the length of a run is known, whatever its budget
_DEFAULT_STEPS = {3: 9300, 2: 40_000}  # the published lengths, by dimensions
_DEFAULT_BATCH = {3: 2, 2: 12}  # of recipe plus


def start_run(config: TrainConfig, run: Path) -> RunFolder:
    """Make a run folder ready for `train`.

    Raises
    ------
    FileExistsError
        If a run is there already; one that failed before its first checkpoint makes room.
    """
    run.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(run)
    if (run / "config.json").exists() and (folder.state() != "failed" or has_checkpoint(folder.checkpoint)):
        raise FileExistsError(
            f"{run} holds a run already; continue it with `mper train --resume`, or choose another folder"
        )
    for name in ("status.json", "events.jsonl", LOCALIZATION_FILE, LOCALIZATION_RECORD):
        (run / name).unlink(missing_ok=True)
    write_json(run / "config.json", asdict(config))
    folder.steer("run")
    return folder


def remove_failed(folder: RunFolder, error: ValueError) -> None:
    """Remove the folder of a new run that bad input ended before it had made anything: it cannot be continued."""
    made = (folder.checkpoint, folder.model, folder.path / LOCALIZATION_RECORD)
    begun = any(path.exists() for path in made) or "step" in folder.status()
    if raised_by_us(error) and not begun:
        shutil.rmtree(folder.path, ignore_errors=True)


def train(run: Path, report: Report = ignore_progress, notify: Notify = ignore_notice) -> Path:
    """Work on the run in folder `run` until it is finished; start where its checkpoint stands.

    Parameters
    ----------
    run : Path
        A folder made by `start_run`.
    report : Report
        Called at least every two seconds; the figures are in `values`.
    notify : Notify
        Called with each notice, which is also an event of the run.

    Returns
    -------
    Path
        The finished bundle, ``run/model``.

    Raises
    ------
    Cancelled
        If control.json says so, or the report raises it; the checkpoint stays and can be resumed.
    ValueError
        If the data set, the configuration or the checkpoint does not fit.
    """
    folder = RunFolder(run)
    config = TrainConfig.read(run)
    if (folder.model / "card.json").exists():
        first = os.environ.get("RANK", "0") == "0"  # of several processes, which do not know each other yet
        if first and folder.state() != "finished":  # it was stopped between its last two files
            with RunLog(folder) as log:
                publish_run(run)
                training = read_bundle(folder.model).card.about["training"]
                log.set(
                    state="finished", step=training["steps"], fraction=1.0, elapsed_s=training["seconds"], eta_s=0.0
                )
        return folder.model
    fabric = make_fabric(config)
    if not fabric.is_global_zero:
        return _Training(config, folder, fabric, None, ignore_progress, ignore_notice).run()
    with RunLog(folder) as log:
        return _Training(config, folder, fabric, log, report, notify).run()


class _Training:
    """One process's share of a run. `log` is None on all ranks but the first."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        fabric: Fabric,
        log: RunLog | None,
        report: Report,
        notify: Notify,
    ):
        self.config, self.folder, self.fabric, self.log = config, folder, fabric, log
        self.reporter = RunReporter(folder, log, report, notify, self._save_begun, fabric.world_size)
        self.recipe = config.make_recipe()
        self.clock = RunClock(config.processor_time)
        self.step = 0
        self.elapsed_s = 0.0  # of training, by the clock
        self.finishing = False  # from then on the weights are no longer those that a resumed run goes on from
        self.localization_s = 0.0  # a part of the budget
        self.is_short = False  # too short to learn, or for self-training, and a notice has said so
        self.losses: Losses | None = None  # of the last step
        self.begun: Mapping[str, Any] = {}  # the description of the checkpoint of a run that goes on
        self.scans: set[str] = set()  # that the model knows, and those that its start knew (on the first rank)
        self.start_scans: set[str] = set()
        # Clock and commands go between hosts, so that no process waits for a device to receive them.
        self.host_group = torch.distributed.new_group(backend="gloo") if fabric.world_size > 1 else None

    def run(self) -> Path:
        """Train to the end; gives the folder of the finished bundle."""
        self.reporter.progress("reading the scans", 0.0, {})
        self.begun = read_description(self.folder.checkpoint)
        stored = self.begun.get("plan")  # version 0.1 stored none
        planned = None if stored is None else Plan.from_dict(stored)
        self.data = load_training_data(self.config, self.fabric.device, self._report_loading, self._localize, planned)
        self.evaluation: RunEvaluation | None = None
        if self.log:
            self._remember_scans()
            self.evaluation = RunEvaluation(
                self.config,
                self.data,
                self.log,
                self.reporter,
                self._bundle,
                self.fabric.device,
                self.clock,
                without=self.scans,
                start_scans=self.start_scans,
            )
        self.method = self._make_method()
        self.tuned, self.averaged_with = self._look_at_start()
        self.learner = Learner(
            self.method, self.recipe, self.fabric, (self.config.seed,), self.tuned, self.averaged_with
        )
        if has_checkpoint(self.folder.checkpoint):
            self._restore()
        self.learner.begin(self.config.compile)
        default = _DEFAULT_STEPS[self.data.plan.dimensions]
        self.total = self.config.steps or (None if self.config.budget_s else default)
        if self.log:
            self.log.set(
                state="running",
                device=describe_device(self.fabric.device),
                method=self.config.method,
                recipe=self.config.recipe,
            )
        if self.evaluation and not self.step and self.data.refines:
            self.evaluation.holdout(0, 0.0, self.config.budget_s or math.inf)  # the model that is to be improved
        self._loop()
        return self._finish()

    def _remember_scans(self) -> None:
        """Write down which cases the run learns from, also those that have left its splits since it was begun.

        And their scans, with those that the start model was trained on.
        """
        path, dataset = self.folder.path / CASES, open_dataset(Path(self.config.dataset))
        begun = has_checkpoint(self.folder.checkpoint) and path.exists()
        before = read_json(path)[TRAINED_ON] if begun else []
        now = [case.id for case in (*self.data.sampler.labelled, *self.data.sampler.unlabelled)]
        self.start_scans = scans_of_model(Path(self.config.start_from)) if self.config.start_from else set()
        known = scans_of_run(self.folder.path) if begun else set()
        self.scans = {*known, *self.start_scans, *(scan_checksum(dataset.case(case_id)) for case_id in now)}
        write_json(path, {TRAINED_ON: list(dict.fromkeys([*before, *now])), SCANS: sorted(self.scans)})

    def _localize(self, scans: Sequence[CoarseScan], start: Localization | None) -> Localization:
        """Learn the localisation within its share of the budget, or read what was learned before the run stopped."""
        budget_s = self.config.budget_s or math.inf
        steps = LOCALIZATION_STEPS if start is None else LOCALIZATION_STEPS // 3

        def learn() -> Localization:
            return train_localization(
                scans,
                self.config.seed,
                self._report_loading,
                steps=min(steps, self.config.steps or steps),
                seconds=min(_LOCALIZATION_S, _LOCALIZATION_SHARE * budget_s),
                clock=self.clock,
                device=self.fabric.device,
                start=start,
            )

        if self.log:
            stored_localization(self.folder.path, learn, self.clock)
        self.fabric.barrier()
        found, seconds = stored_localization(self.folder.path, learn, self.clock)
        self.localization_s = min(seconds, _LOCALIZATION_SHARE * budget_s)
        return found

    def _make_method(self) -> Method:
        dimensions = self.data.plan.dimensions
        default = PUBLISHED[dimensions].batch if self.config.recipe == "paper" else _DEFAULT_BATCH[dimensions]
        self.batch = self.config.batch or default
        if "anchored" in self.begun:
            self.recipe = replace(self.recipe, anchored=self.begun["anchored"])
        elif 2 * len(sparsely_labelled(self.data)) > len(self.data.sampler.labelled):
            self.recipe = replace(self.recipe, anchored=False)  # strokes alone are too little for a long first stage
        for line in check_training_data(self.data, find_method(self.config.method), self.batch, self.recipe):
            self.reporter.notify(line)
        if self.fabric.device.type != pick_device(self.config.device).type:
            line = "no Apple GPU can train yet: the run takes the processor, which is slow"
            self.reporter.notify(Coded(line, "no-training-on-mps"))
        if self._folds_ignored:
            self.reporter.notify(FOLDS_ALONE)
        return self._new_method(self.data, self.config.seed)

    def _new_method(self, data: TrainingData, seed: int) -> Method:
        torch.manual_seed(seed)

        def make() -> Method:
            network = make_network(self.config, data)
            method = make_method(self.config.method, network, self.recipe, self.batch, self.config.keep_largest)
            method.fine_tunes = data.refines
            return method

        # Two networks from different random numbers; a model that is fine-tuned gives both the same weights.
        return CoTraining(make(), make()) if self.config.co_train else make()

    def _look_at_start(self) -> tuple[bool, Mapping[str, torch.Tensor] | None]:
        """Whether the start model is good on the labelled scans, and else the weights that the result goes back to.

        A run that goes on keeps to what it began with, whatever has been labelled since.
        """
        start = self.data.start
        if start is None or not self.data.refines:
            return False, None
        if "tuned" in self.begun:
            return self.begun["tuned"], start.state if self.begun["averages"] else None
        network = self.method.student.to(self.fabric.device)
        with self.fabric.autocast():
            sparse = sparsely_labelled(self.data)
            found = start_dice(network, self.data.sampler, start.card.window, self.config.seed, sparse)
        if found >= KNOWN_DICE:
            return True, None
        averages = self.config.recipe == "plus" and found >= AVERAGED_DICE
        if not has_checkpoint(self.folder.checkpoint):
            averaged = ", and the result is averaged with it" if averages else ""
            line = (
                f"{start.card.name} has a Dice of {found:.2f} on the labelled scans, as on another scanner or "
                f"sequence: it is adapted at the full learning rate{averaged}"
            )
            self.reporter.notify(Coded(line, "adapted", model=start.card.name, dice=f"{found:.2f}"))
        return False, start.state if averages else None

    # ------------------------------------------------------------------ the loop

    def _loop(self) -> None:
        saved = reported = time.monotonic()
        started = self.clock() - self.elapsed_s
        while True:
            self.elapsed_s = self.clock() - started
            t, command = self._synchronise(self._progress(), self.folder.command())
            if t >= 1:
                return
            if command != "run":
                self._save()
                self._follow(command)
                continue
            if self.evaluation and self.evaluation.curve and self.evaluation.curve.due(t, self.elapsed_s):
                with self.clock.uncounted():
                    self.evaluation.holdout(self.step, t, self.elapsed_s / t)

            stage = self.method.stage
            self.losses = self.learner.step(self.step, t, self.data.sampler)
            self.step += 1
            if self.evaluation and self.method.stage > stage:
                whole_s = self.config.budget_s or self.elapsed_s / max(t, 0.1)
                with self.clock.uncounted():
                    self.evaluation.look_at_unlabelled(max(_LOOK_S, _LOOK_SHARE * whole_s))

            if self.step == _ESTIMATE_AT:
                steps = self.total or round((self.step - 1) / max(self._progress(), 1e-6))  # the last one is not timed
                self._check_length(steps, f"the run has {'' if self.total else 'time for about '}{steps} steps")
            now = time.monotonic()
            if now - reported >= _REPORT_S or self.step in (1, self.total):
                reported = now
                self._report_step(t, self.learner.rate)
            if now - saved >= _CHECKPOINT_S:
                saved = now
                self._save()

    def _progress(self) -> float:
        """Share of the run that is done."""
        if self.total is not None:
            return self.step / self.total
        assert self.config.budget_s is not None
        return self.elapsed_s / (self.config.budget_s - self.localization_s)

    def _check_length(self, steps: int, has: str) -> None:
        """A notice where the run is too short to learn, or leaves next to no steps for self-training."""
        if self.total is None and steps < _SHORT:
            self.is_short = True
            line = f"{has}: too few for a model to learn; train for longer"
            self.reporter.notify(Coded(line, "too-few-steps", steps=steps))
        elif self.method.two_stages and self.data.sampler.unlabelled and steps <= 10 * _SHORT:
            with_unlabelled = sum(self.method.patch_counts(step / steps)[1] > 0 for step in range(steps))
            if with_unlabelled < _SHORT:
                self.is_short = True
                line = (
                    f"{has}, {with_unlabelled} of them with scans without labels: too few to learn from these; train "
                    "for longer, or choose --method supervised"
                )
                self.reporter.notify(Coded(line, "few-unlabelled-steps", steps=steps, n=with_unlabelled))

    def _synchronise(self, t: float, command: str) -> tuple[float, str]:
        """The clock and the command of the first rank, for all ranks."""
        if self.fabric.world_size == 1:
            return t, command
        message = torch.tensor([t, COMMANDS.index(command)], dtype=torch.float64)
        torch.distributed.broadcast(message, src=0, group=self.host_group)
        t, number = message.tolist()
        return t, COMMANDS[int(number)]

    def _follow(self, command: str) -> None:
        """Wait while paused; leave when cancelled."""
        if self.log and command == "pause":
            self.log.set(state="paused")
        with self.clock.uncounted():
            while command == "pause":
                time.sleep(_PAUSE_POLL_S)
                _, command = self._synchronise(0.0, self.folder.command())
        if command == "cancel":
            if self.log:
                write_curves(self.folder.path)
                self.log.set(state="cancelled")
            raise Cancelled(
                f"training was cancelled at step {self.step}; `mper train --resume {self.folder.path}` continues it"
            )
        if self.log:
            self.log.set(state="running")

    # ------------------------------------------------------------------ reporting

    def _report_step(self, t: float, rate: float) -> None:
        """Report the last step: beside saving, the only place of the loop that waits for the device."""
        assert self.losses is not None
        figures = {"loss": self._checked_loss(), **{name: float(value) for name, value in self.losses.parts.items()}}
        values = {name: round(value, 6) for name, value in figures.items()}
        values |= {"rate": float(f"{rate:.6g}"), "step": self.step}
        if self.log:
            known = t > 0 and not self.config.processor_time  # whose seconds are not those that people wait
            eta = self.elapsed_s * (1 - t) / t if known else None
            self.log.set(
                step=self.step, fraction=round(t, 5), elapsed_s=round(self.elapsed_s, 1), eta_s=eta and round(eta, 1)
            )
            self.log.event("step", fraction=round(t, 5), elapsed_s=round(self.elapsed_s, 1), **values)
            self.reporter.progress("self-training" if self.method.stage else "training", t, values, eta)

    def _checked_loss(self) -> float:
        """The last loss.

        Raises
        ------
        ValueError
            If it is not finite: nothing of what follows is worth saving.
        """
        loss = float(self.losses.total.detach()) if self.losses else 0.0
        if not np.isfinite(loss):
            line = f"training diverged at step {self.step} (the loss is {loss}): look for damaged scans or labels, "
            raise ValueError(Coded(f"{line}or choose another --seed or method", "training-diverged", step=self.step))
        return loss

    def _report_loading(self, progress: Progress) -> None:
        command = self.folder.command()
        if self.fabric.world_size == 1 and command != "run":  # several processes follow it together, later
            self._follow(command)
        self.reporter.progress(progress.message, progress.fraction, {})
        if self.log and progress.fraction is not None:  # that of the run counts its steps
            self.log.note(message=f"{progress.message} ({100 * progress.fraction:.0f} %)")

    # ------------------------------------------------------------------ saving

    def _save_begun(self) -> None:
        if self.step:
            self._save()

    def _save(self) -> None:
        if self.log and not self.finishing:
            self._checked_loss()
            about = {
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "stage": self.method.stage,
                "steps_averaged": self.method.steps_averaged,
                "plan": asdict(self.data.plan),
                "anchored": self.recipe.anchored,
                "tuned": self.tuned,
                "averages": self.averaged_with is not None,
                "precision": self.fabric.strategy.precision.state_dict(),  # the scale of the loss, with float16
            }
            save_checkpoint(self.folder.checkpoint, self.method, self.learner.optimiser, about)

    def _restore(self) -> None:
        about = load_checkpoint(self.folder.checkpoint, self.method, self.learner.optimiser)
        self.step, self.elapsed_s = int(about["step"]), float(about["elapsed_s"])
        self.method.stage, self.method.steps_averaged = int(about["stage"]), int(about["steps_averaged"])
        if precision := about.get("precision"):
            self.fabric.strategy.precision.load_state_dict(precision)

    def _finish(self) -> Path:
        """Make the model of the run, measure and publish it; what stops that is made up for by resuming the run."""
        self.reporter.progress("finishing the model", 1.0, {})
        self._save()
        self.finishing = True
        if self.fabric.world_size > 1:
            for buffer in self.method.buffers():  # batch norm's, which DDP evens out before a step and not after it
                torch.distributed.broadcast(buffer, src=0)
        after = f"the run ended after {self.step} step{'' if self.step == 1 else 's'}"
        if self.step < _ESTIMATE_AT and self.total is None:
            self._check_length(self.step, after)
        if self.method.two_stages and not self.method.stage and not self.is_short:
            line = (
                f"{after}, before self-training began: the model learned from labels alone; train for longer, or "
                "choose --method supervised"
            )
            self.reporter.notify(Coded(line, "no-self-training", steps=self.step))
        self.learner.finish(self.step, self.data.sampler)
        if self.log:
            self._publish(self.log)
            self._synchronise(1.0, "run")
        else:
            self._wait_for_model()
        self.fabric.barrier()  # a process that ends its group while another still uses it may be aborted
        return self.folder.model

    def _publish(self, log: RunLog) -> None:
        """Measure the finished model, and save it."""
        write_curves(self.folder.path, self.reporter.tell)
        evaluation, report = self.evaluation, self._report_finishing
        assert evaluation is not None
        dice = evaluation.holdout(self.step, 1.0, report=report)
        quality = quality_of(dice, evaluation.curve.measured if evaluation.curve else 0, len(evaluation.drafts))
        bundle = self._bundle(**expected_ranges(self.data), quality=quality)
        folds = self._folds() if self.config.calibrate_folds and not self._folds_ignored else None
        calibration, source = evaluation.calibration(
            bundle, folds, folds_ignored=self._folds_ignored, run_s=self.elapsed_s, report=report
        )
        about = {**bundle.card.about, "calibration_from": source}
        replace(bundle, card=replace(bundle.card, about=about), calibration=calibration).save(self.folder.model)
        publish_run(self.folder.path)
        log.set(state="finished", step=self.step, fraction=1.0, elapsed_s=round(self.elapsed_s, 1), eta_s=0.0)

    def _report_finishing(self, progress: Progress) -> None:
        """Report from the measuring of the finished model, and follow commands, as `_wait_for_model` does."""
        self.reporter.progress(progress.message, None, {})
        _, command = self._synchronise(0.0, self.folder.command())
        if command != "run":
            self._follow(command)

    def _wait_for_model(self) -> None:
        """Follow commands until the first process has saved the model."""
        done = 0.0
        while done < 1:
            done, command = self._synchronise(0.0, "run")
            if command != "run":
                self._follow(command)

    @property
    def _folds_ignored(self) -> bool:
        return self.config.calibrate_folds and self.fabric.world_size > 1

    def _folds(self) -> Folds:
        """Two models of half of the labels, in half of the run's time."""
        dataset = open_dataset(Path(self.config.dataset))
        regions = dataset.regions
        labelled = [case.id for case in self.data.sampler.labelled]
        known = {case_id for case_id in labelled if scan_checksum(dataset.case(case_id)) in self.start_scans}

        def bundle_of(data: TrainingData, learner: Learner) -> ModelBundle:
            return self._bundle_of(data, learner.method, expected_ranges(data))

        def learner_of(data: TrainingData, fold: int) -> Learner:
            seed = self.config.seed
            method = self._new_method(data, seed + 1 + fold)
            return Learner(method, self.recipe, self.fabric, (seed, fold), self.tuned, self.averaged_with)

        return Folds(
            lambda case_id: in_region(dataset.case(case_id), regions),  # it may have left its split meanwhile
            learner_of,
            bundle_of,
            steps=None if self.total is None else math.ceil(_FOLD_SHARE * self.total),
            seconds=_FOLD_SHARE * self.elapsed_s,
            known=known,
        )

    def _bundle(self, **about: object) -> ModelBundle:
        """The model as it stands."""
        return self._bundle_of(self.data, self.method, about)

    def _bundle_of(self, data: TrainingData, method: Method, about: Mapping[str, object]) -> ModelBundle:
        return make_bundle(
            self.config,
            data,
            method,
            steps=self.step,
            seconds=self.elapsed_s,
            device=describe_device(self.fabric.device),
            processes=self.fabric.world_size,
            scans=self.scans,
            about=about,
        )
