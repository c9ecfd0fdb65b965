"""``mper train``: learn from a dataset, in a run folder that can be stopped and resumed at any time."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from mper.cli.cluster import MPER, add_cluster, cluster_settings, submit, wait_for
from mper.cli.console import Bar, print_message, print_note, print_result
from mper.cli.options import Commands, add_command
from mper.cli.train_checks import check_places
from mper.cli.train_options import CHOICES, add_choices, chosen_config
from mper.methods.registry import METHODS
from mper.nets.registry import backbone_titles
from mper.progress import Cancelled, Progress, Report, ignore_progress
from mper.utils.errors import OK, ReportedError, UsageError, exit_code, explain
from mper.utils.processes import lower_priority, reserve_one_core
from mper.utils.text import duration

if TYPE_CHECKING:
    from mper.cluster.settings import ClusterSettings
    from mper.training.runs import RunFolder

_TEXT = """\
Train a model on a dataset (see `mper import`). Labels may be few: with --labeled 8 only the first 8 labels of the
training split are used, and the other scans help without theirs (unless the method is supervised).

Everything about a training goes into its run folder: progress, curves, checkpoints and, at the end, model/. It can be
stopped with Ctrl-C, or by switching the machine off, and continued with --resume."""
_EXAMPLES = """\
  mper train dataset --labeled 8 --budget 1h30m --name mine
  mper train dataset --method supervised --from la --budget 20m
  mper train dataset --recipe plus --without cutmix --steps 3000 --seed 1
  mper train --resume dataset/runs/20260131-101500
  torchrun --nproc-per-node 2 -m mper train dataset --labeled 8
  mper train dataset --labeled 8 --cluster slurm --partition gpu --gpus 1 --time 8h
"""
_STORE_KEY = "mper/run"


def add(commands: Commands) -> None:
    methods = _listed("methods", {entry.name: entry.description for entry in METHODS.values()})
    text = "\n\n".join([_TEXT, methods, _listed("backbones", backbone_titles())])
    command = add_command(commands, "train", "train a model", text, _EXAMPLES)
    command.usage = (
        "mper train DATASET [options]\n       mper train --resume RUN [--background] [--events] [--tensorboard]"
    )
    command.add_argument(
        "dataset", nargs="?", type=Path, metavar="DATASET", help="a dataset folder, or a packed one (see `mper pack`)"
    )
    command.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue a run where it stopped; takes no other choices"
    )
    add_choices(command)
    command.add_argument(
        "--background", action="store_true", help="stay behind other programs: lower priority, and a core left to them"
    )
    command.add_argument(
        "--events", action="store_true", help="print one JSON object a line and nothing else on stdout"
    )
    command.add_argument(
        "--tensorboard",
        action="store_true",
        help='also write the curves for TensorBoard, into RUN/tensorboard (pip install "mper[tensorboard]")',
    )
    add_cluster(command)
    command.set_defaults(run=run)


def _listed(heading: str, texts: Mapping[str, str]) -> str:
    """A list for a help text: a heading, and below it each name with its text."""
    width = 2 + max(len(name) for name in texts)
    lines = [
        textwrap.fill(text, 118, initial_indent=f"  {name:<{width}}", subsequent_indent=" " * (width + 2))
        for name, text in texts.items()
    ]
    return "\n".join([f"{heading}:", *lines])


@dataclass(frozen=True)
class _Output:
    """Output of a training: text, or events as JSON for a program; under torchrun only the first process prints."""

    events: TextIO | None
    first: bool

    def event(self, kind: str, **values: Any) -> None:
        if self.events and self.first:
            print(json.dumps({"event": kind, **values}), file=self.events, flush=True)

    def text(self, text: str) -> None:
        if self.first and not self.events:
            print_result(text)

    def progress(self, progress: Progress) -> None:
        self.event(
            "progress",
            message=progress.message,
            fraction=progress.fraction,
            eta_s=progress.eta_s,
            values=dict(progress.values),
        )


def run(arguments: argparse.Namespace) -> int:
    output = _Output(sys.stdout if arguments.events else None, os.environ.get("RANK", "0") == "0")
    if not arguments.events:
        return _train(arguments, output)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return _train(arguments, output)
        except (Cancelled, KeyboardInterrupt) as stop:
            output.event("cancelled", message=str(stop))
            raise
        except Exception as error:
            line = explain(error)
            output.event("failed", message=line)
            raise ReportedError(line, exit_code(error)) from error


def _train(arguments: argparse.Namespace, output: _Output) -> int:
    if arguments.background:
        lower_priority()
        reserve_one_core()
    settings = cluster_settings(arguments)
    if settings is not None and arguments.events:
        raise UsageError("--events belongs to a run on this computer; leave it out, or --cluster")
    folder, made = (_resumed(arguments), False) if arguments.resume else _started(arguments, output)
    if settings is not None:
        return _train_in_job(folder.resolve(), settings, arguments)
    from mper.training.runs import RunFolder

    try:
        return _train_here(folder, arguments, output)
    except (Cancelled, KeyboardInterrupt):
        raise Cancelled(f"the run is kept; continue it with: mper train --resume {_quoted(folder)}") from None
    except ValueError as error:
        if made:
            from mper.training.trainer import remove_failed

            remove_failed(RunFolder(folder), error)
        raise


def _train_here(folder: Path, arguments: argparse.Namespace, output: _Output) -> int:
    """Work on a run in this process until it is finished."""
    import lightning_fabric

    from mper.training.runs import RunFolder
    from mper.training.trainer import TrainConfig, train

    logging.getLogger(lightning_fabric.__name__).setLevel(logging.WARNING)  # it tells of precision and processes
    config = TrainConfig.read(folder)
    finished = (RunFolder(folder).model / "card.json").exists()
    output.event("started", run=str(folder), pid=os.getpid())
    output.text(f"run folder: {folder}")
    begin = time.monotonic()
    with (
        _curves(folder, arguments.tensorboard and output.first) as update_curves,
        _stop_through(RunFolder(folder)) as stop_again,
        Bar(shown=output.first and not arguments.events) as bar,
    ):
        show = (
            (output.progress if arguments.events else _for_screen(bar, config.device))
            if output.first
            else ignore_progress
        )

        def report(progress: Progress) -> None:
            stop_again()
            update_curves()
            show(progress)

        try:
            model = train(folder, report, print_note)
        finally:
            _close_process_group()
    if not output.first:
        return OK
    if finished:
        print_note("this run was finished before; nothing was done")
    from mper.training.publish import publish_run

    published = publish_run(folder, print_note)
    output.event("finished", run=str(folder), model=str(model), published=str(published) if published else None)
    curves = next((path for path in (folder / "curves.png", folder / "curves.csv") if path.exists()), folder)
    output.text(f"{'' if finished else f'trained in {duration(time.monotonic() - begin)}; '}curves: {curves}")
    output.text(f"model: {published or model}")
    output.text(f"use it: mper segment scan.nrrd mask.seg.nrrd --model {_quoted(published or model)}")
    return OK


def _train_in_job(folder: Path, settings: ClusterSettings, arguments: argparse.Namespace) -> int:
    """Submit a run as a job, and wait for it."""
    from mper.training.publish import published_version
    from mper.training.runs import RunFolder

    run = RunFolder(folder)
    config = run.config()
    words = [*MPER, "train", "--resume", str(folder), *(["--tensorboard"] if arguments.tensorboard else [])]
    if settings.gpus > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.gpus), *words]
    print_result(f"run folder: {folder}")
    jobs = submit(folder, settings, [("training", words)])
    if arguments.detach:
        return OK
    with Bar() as bar:

        def update() -> None:
            status = run.status()
            done = status.get("fraction")
            bar(Progress(f"{run.state()}: {status.get('message', '')}", float(done) if done is not None else None))

        wait_for(jobs, update)
    if run.state() != "finished":
        again = f"go on with: mper train --resume {_quoted(folder)} --cluster {settings.kind}"
        raise ValueError(f"the run is {run.state()}: {jobs.reason(0)}; {again}")
    version = published_version(folder)
    model = run.model if version is None else Path(config["dataset"]) / "models" / config["name"] / str(version)
    print_result(f"model: {model}")
    print_result(f"use it: mper segment scan.nrrd mask.seg.nrrd --model {_quoted(model)}")
    return OK


@contextlib.contextmanager
def _curves(run: Path, wanted: bool) -> Iterator[Callable[[], None]]:
    """What writes the newest events of a run for TensorBoard."""
    if not wanted:
        yield lambda: None
        return
    from mper.training.tensorboard import TensorBoardFeed

    with TensorBoardFeed(run) as feed:
        yield feed.update


def _close_process_group() -> None:
    """End the process group: its threads, if left running, may abort a process that is done."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _for_screen(bar: Report, device: str) -> Report:
    """Progress for a person: the loss and the device; the rest is in the curves."""
    from mper.utils.devices import describe_device, pick_training_device

    place = describe_device(pick_training_device(device))

    def report(progress: Progress) -> None:
        short = {name: progress.values[name] for name in ("loss", "step") if name in progress.values}
        bar(replace(progress, message=f"{progress.message} on {place}" if short else progress.message, values=short))

    return report


def _resumed(arguments: argparse.Namespace) -> Path:
    others = {"a dataset": arguments.dataset, "--from": arguments.start_from}
    others |= {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in CHOICES}
    if given := [name for name, value in others.items() if value is not None]:
        raise UsageError(
            f"--resume continues a run with its own options and does not take {given[0]}; use: mper train --resume RUN"
        )
    return Path(arguments.resume)


def _started(arguments: argparse.Namespace, output: _Output) -> tuple[Path, bool]:
    """The run folder of a new run, prepared by the first process, and whether this process has made it."""
    if arguments.dataset is None:
        raise UsageError("no dataset was given; give its folder (mper train DATASET), or continue a run (--resume RUN)")
    store = _store()
    if not output.first:
        if store is None:
            raise UsageError("several processes need torchrun: torchrun --nproc-per-node 2 -m mper train ...")
        return Path(store.get(_STORE_KEY).decode("utf-8")), False
    check_places(arguments)
    config = chosen_config(arguments)
    if arguments.tensorboard:
        from mper.training.tensorboard import check_installed

        check_installed()
    from mper.datasets.dataset import new_run_folder
    from mper.training.trainer import start_run

    made = arguments.out is None or not arguments.out.exists()
    folder = Path(arguments.out or new_run_folder(arguments.dataset))
    try:
        start_run(config, folder)
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if store is not None:
        store.set(_STORE_KEY, str(folder))
    return folder, made


def _store() -> Any:
    """The key-value store that the processes of one torchrun share; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


@contextlib.contextmanager
def _stop_through(folder: RunFolder) -> Iterator[Callable[[], None]]:
    """Within this context Ctrl-C makes the run save and stop, which it does within a step; a second one ends it.

    Gives what repeats that command, if there was one: a run that is resumed ignores commands from before its start.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        for name in before:
            signal.signal(name, before[name])
        if os.environ.get("RANK", "0") == "0":
            print_message("mper: stopping after this step ...")
            asked.append(number)
            stop_again()

    def stop_again() -> None:
        if asked:
            folder.steer("cancel")

    try:
        before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the run is steered through its folder
        yield stop_again
        return
    try:
        yield stop_again
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _quoted(path: Path) -> str:
    """A path for a command line."""
    text = str(path)
    return f'"{text}"' if " " in text else text
