"""The choices of a new training on the command line, and the configuration that they become."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli.cluster import cluster_settings
from mper.cli.console import print_note
from mper.cli.options import add_device, axes, count, number, out_folder, seconds, size, window
from mper.cli.train_checks import of_auto
from mper.methods.recipe import RECIPES
from mper.methods.registry import AUTO, METHODS, default_method, find_method
from mper.nets.registry import backbone_names
from mper.utils.coded import line_of
from mper.utils.errors import UsageError

if TYPE_CHECKING:
    from mper.datasets.dataset import Dataset
    from mper.datasets.packed import PackedDataset
    from mper.models.card import Card
    from mper.training.config import TrainConfig

CHOICES = (  # of a run, which a resumed one has already
    *("method", "recipe", "without", "split", "labeled", "name", "budget", "steps", "device", "seed", "out"),
    *("pieces", "window", "mirror", "backbone", "patch", "batch", "compile", "co_train", "prototypes"),
    *("also", "cross_scanner", "localization", "calibrate_folds"),
)


def add_choices(command: argparse.ArgumentParser) -> None:
    """Add what can be chosen for a new training."""
    what = command.add_argument_group("what to learn")
    what.add_argument(
        "--method",
        choices=(*METHODS, AUTO),
        help=f"one of the methods above (default: {default_method(unlabelled=True)}); auto: what did best where it was "
        "measured, with the reason",
    )
    what.add_argument("--recipe", choices=tuple(RECIPES), help="plus: improved (default); paper: as published")
    what.add_argument(
        "--without",
        action="append",
        metavar="CHANGE",
        help="switch one improvement of the recipe plus off (repeatable); a wrong name lists them all",
    )
    what.add_argument(
        "--co-train", action="store_true", default=None, help="two networks that teach each other; twice the time"
    )
    what.add_argument("--prototypes", type=count, metavar="K", help="prototypes, or queries, a class (default: 3)")
    what.add_argument("--split", metavar="NAME", help="the cases to train on (default: train)")
    what.add_argument(
        "--also",
        action="append",
        metavar="NAME",
        help="learn from this split too (repeatable): another scanner, which may have few cases",
    )
    what.add_argument(
        "--labeled", type=count, metavar="N", help="use the first N labels of the split, the rest counts as unlabelled"
    )
    what.add_argument(
        "--from", dest="start_from", metavar="NAME|PATH", help="start from a model: fine-tune it to your own labels"
    )
    what.add_argument("--name", help="also publish the result as the next version of DATASET/models/NAME")
    scans = command.add_argument_group("about the structure and the scans (the dataset tells most of it)")
    scans.add_argument(
        "--pieces", choices=("one", "many"), help="whether each structure is in one piece (default) or in several"
    )
    scans.add_argument(
        "--window",
        type=window,
        metavar="LOW,HIGH",
        help="CT: intensities in HU (default: around the labelled structures)",
    )
    scans.add_argument(
        "--mirror",
        type=axes,
        metavar="AXES",
        help="also learn from scans mirrored along k (slices), j (rows) or i (columns), as in ji (default: none)",
    )
    scans.add_argument(
        "--cross-scanner",
        action="store_true",
        default=None,
        help="also learn from other contrasts, thick slices and fields of view, for scans of other scanners",
    )
    scans.add_argument(
        "--localization",
        choices=("auto", "always", "never"),
        help="learn to find the structure in a wide field of view: where a labelled scan has one (auto, default), also "
        "from cropped scans (always), or never",
    )
    scans.add_argument(
        "--backbone",
        "--network",
        choices=backbone_names(),
        help="one of the backbones above (default: that of the method, by slice thickness)",
    )
    scans.add_argument(
        "--patch",
        type=size,
        metavar="K,J,I",
        help="size of training patches in voxels of the grid that the network works on (default: by the scans)",
    )
    scans.add_argument(
        "--batch", type=count, metavar="N", help="labelled patches a step (default: 2 for volumes, 12 for slices)"
    )
    how = command.add_argument_group("how long and where")
    length = how.add_mutually_exclusive_group()
    length.add_argument("--budget", type=seconds, metavar="TIME", help="train this long: 90s, 20m, 1h30m")
    length.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="train this many steps (default: as in the papers, 9,300 for volumes and 40,000 for slices, hours to days "
        "without a graphics card)",
    )
    add_device(how, default=None)
    how.add_argument("--seed", type=number, metavar="N", help="the same seed gives the same result (default: 0)")
    how.add_argument(
        "--calibrate-folds",
        action="store_true",
        default=None,
        help="without a hold-out, learn how good the model's masks are from two more models, each trained on half of "
        "the labels (up to three quarters of the time again; not with torchrun)",
    )
    how.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile each network that learns first (torch.compile); on a CPU steps are slower with it",
    )
    how.add_argument("--out", type=out_folder, metavar="RUN", help="the run folder (default: DATASET/runs/<time>)")


def chosen_config(arguments: argparse.Namespace) -> TrainConfig:
    """The configuration that was asked for, checked before anything is written."""
    from mper.datasets.packed import check_label_count, check_training_split, open_dataset
    from mper.models.card import read_bundle
    from mper.resources import find_model
    from mper.training.config import TrainConfig
    from mper.training.start_model import check_start
    from mper.utils.devices import pick_device

    dataset = open_dataset(arguments.dataset)
    split = arguments.split
    if split is None:
        split = "train" if "train" in dataset.splits or len(dataset.splits) != 1 else next(iter(dataset.splits))
    splits = (split, *(arguments.also or ()))
    for name in splits:
        check_training_split(dataset, name)
    try:
        check_label_count(dataset, splits, arguments.labeled)
    except ValueError as error:
        raise UsageError(f"--labeled: {error}") from error
    start_from = None if arguments.start_from is None else str(find_model(arguments.start_from).resolve())
    start = None if start_from is None else read_bundle(Path(start_from)).card
    method = arguments.method or default_method(unlabelled=True)
    if method == AUTO:
        method = _measured_best(arguments, dataset, splits, start)
    device = arguments.device or "auto"
    if arguments.cluster is None:  # that of a job is there
        pick_device(device)
    try:
        config = TrainConfig(
            dataset=str(arguments.dataset.resolve()),
            method=method,
            recipe=arguments.recipe or "plus",
            without=tuple(name.replace("-", "_") for name in arguments.without or ()),
            split=split,
            also=tuple(arguments.also or ()),
            labeled=arguments.labeled,
            start_from=start_from,
            steps=arguments.steps,
            budget_s=arguments.budget,
            device=device,
            seed=arguments.seed or 0,
            name=arguments.name,
            batch=arguments.batch,
            network=arguments.backbone,
            patch=arguments.patch,
            window=arguments.window,
            flip_axes=arguments.mirror or (),
            cross_scanner=bool(arguments.cross_scanner),
            localization=arguments.localization or "auto",
            keep_largest=arguments.pieces != "many",
            calibrate_folds=bool(arguments.calibrate_folds),
            compile=bool(arguments.compile),
            prototypes=arguments.prototypes,
            co_train=bool(arguments.co_train),
        )
        if start is not None:
            check_start(config, start)
    except ValueError as error:
        line = line_of(error)
        raise UsageError(of_auto(method, line) if arguments.method == AUTO else line) from error
    if config.steps is None and config.budget_s is None:
        print_note(
            "neither --budget nor --steps is given: as many steps as in the papers, 9,300 for volumes and 40,000 for "
            "slices, which is hours to days without a graphics card"
        )
    return config


def _measured_best(
    arguments: argparse.Namespace, dataset: Dataset | PackedDataset, splits: Sequence[str], start: Card | None
) -> str:
    """The method of ``--method auto``; tells why."""
    from mper.training.choice import choose_for
    from mper.training.duration import StepTimes

    left_out = set(dataset.held_out_copies())
    scans = [[case for case in dataset.split(name) if case.id not in left_out] for name in splits]
    steps = arguments.steps
    if arguments.budget is not None:
        patch = arguments.patch or (start.window if start else None)
        cases = [case for split in scans for case in split]
        times = StepTimes(arguments.dataset, _has_gpu(arguments), bool(arguments.co_train), cases, patch)
        steps = times.steps_in(arguments.budget, find_method(default_method(unlabelled=True)))
    method, reason = choose_for(scans, dataset.labels, arguments.labeled, start, arguments.backbone, steps)
    print_note(f"method {method}: {reason}")
    return method


def _has_gpu(arguments: argparse.Namespace) -> bool:
    """Whether the training has a graphics card; of a job on a cluster, whether it asks for one."""
    from mper.utils.devices import pick_training_device

    device = arguments.device or "auto"
    if (settings := cluster_settings(arguments)) is not None:
        return device == "cuda" or settings.gpus > 0
    return pick_training_device(device).type != "cpu"
