"""The data of a training run: the split's scans on the working grid, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.labels import UNLABELLED, Label, same_structures
from mper.methods.recipe import Recipe
from mper.methods.registry import check_backbone, find_method
from mper.models.bundle import ModelBundle
from mper.nets.registry import find_backbone, find_backbones
from mper.progress import Progress, Report, ignore_progress
from mper.training.config import TrainConfig
from mper.training.planning import Plan, check_patch, plan, scan_dimensions
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.datasets.case import Case
    from mper.datasets.dataset import Dataset
    from mper.datasets.packed import PackedCase, PackedDataset


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, ready to train on.

    Parameters
    ----------
    labels : tuple of Label
        Structures of the dataset: class c of the network is ``labels[c - 1]``.
    plan : Plan
        Network, working grid and patch.
    sampler : PatchSampler
        Draws patches from the cases.
    start : ModelBundle or None
        The model to fine-tune; None for training from scratch.
    """

    labels: tuple[Label, ...]
    plan: Plan
    sampler: PatchSampler
    start: ModelBundle | None

    @property
    def refines(self) -> bool:
        """Whether the model to fine-tune segments the same structures in the same order."""
        return self.start is not None and same_structures(self.labels, self.start.card.labels)


def load_training_data(config: TrainConfig, device: torch.device, report: Report = ignore_progress) -> TrainingData:
    """Read the split, plan, and put every case on the device on the working grid.

    Raises
    ------
    ValueError
        If the split is locked as hold-out or has too few labels, a scan cannot be normalised, or the method cannot
        train on such scans.
    """
    from mper.datasets.packed import open_dataset

    dataset = open_dataset(Path(config.dataset))
    if config.split == dataset.holdout:
        raise ValueError(f"split {config.split!r} is the locked hold-out of {dataset.name!r}: it is never trained on")
    start = ModelBundle.load(Path(config.start_from)) if config.start_from else None
    ids, images, masks = _read_cases(config, dataset, report)
    chosen = _choose_plan(config, images, masks, start)
    loaded = []
    for n, (case_id, image, mask) in enumerate(zip(ids, images, masks, strict=True)):
        report(Progress(f"preparing {case_id}", n / len(ids)))
        grid = WorkingGrid.plan(image.geometry, chosen.preprocessing, chosen.dimensions)
        try:
            working = normalise(grid.forward(image.array), chosen.preprocessing)
        except ValueError as error:
            raise ValueError(f"case {case_id}: {error}") from error
        label = None if mask is None else grid.forward_labels(mask, len(dataset.labels) + 1).to(device)
        voxel_ml = float(np.prod(grid.step_lengths)) / 1000 if image.geometry.spacing_known else None
        loaded.append(TrainingCase(case_id, working.to(device), label, voxel_ml, grid))
    labelled = [case for case in loaded if case.label is not None]
    unlabelled = [case for case in loaded if case.label is None]
    affine = Recipe.named(config.recipe, config.without, config.method).affine
    sampler = PatchSampler(labelled, unlabelled, chosen.patch, affine=affine, flip_axes=config.flip_axes)
    return TrainingData(dataset.labels, chosen, sampler, start)


def _read_cases(
    config: TrainConfig, dataset: Dataset | PackedDataset, report: Report
) -> tuple[list[str], list[Volume], list[np.ndarray | None]]:
    """Ids, images and masks of class numbers (None: unlabelled) of the split, in its order."""
    cases: Sequence[Case | PackedCase] = dataset.split(config.split)[: config.cases]
    ids: list[str] = []
    images: list[Volume] = []
    masks: list[np.ndarray | None] = []
    with_label = 0
    uses_unlabelled = find_method(config.method).uses_unlabelled
    for n, case in enumerate(cases):
        report(Progress(f"reading {case.id}", n / len(cases)))
        label = case.label() if config.labeled is None or with_label < config.labeled else None
        if label is not None and (label.array == UNLABELLED).all():  # begun, and nothing said yet
            label = None
        if label is None and not uses_unlabelled:
            continue
        with_label += label is not None
        ids.append(case.id)
        images.append(case.image())
        masks.append(None if label is None else _to_classes(np.asarray(label.array), dataset.labels))
    if not with_label:
        raise ValueError(
            f"none of the {len(cases)} cases of split {config.split!r} has a label; training needs at least one"
        )
    if config.labeled is not None and with_label < config.labeled:
        raise ValueError(
            f"split {config.split!r} has {with_label} labelled cases, {config.labeled} were asked for; "
            "label more, or ask for fewer"
        )
    return ids, images, masks


def _to_classes(mask: np.ndarray, labels: tuple[Label, ...]) -> np.ndarray:
    """Label values -> class numbers 1.. in the order of the labels; 0 and 255 stay."""
    table = np.zeros(256, dtype=np.uint8)
    table[UNLABELLED] = UNLABELLED
    for number, label in enumerate(labels, start=1):
        table[label.value] = number
    return np.asarray(table[mask])


def _choose_plan(
    config: TrainConfig, images: list[Volume], masks: list[np.ndarray | None], start: ModelBundle | None
) -> Plan:
    if start is not None:
        chosen = Plan(start.network.kind, start.preprocessing, start.card.window)
        if config.network not in (None, find_backbone(chosen.network).name):
            raise ValueError(f"the model to start from is a {chosen.network}, a {config.network} was asked for")
        check_backbone(config.method, chosen.network)
    else:
        chosen = plan(images, masks, config.recipe, config.window, _backbones(config, images))
    patch = config.patch or chosen.patch
    check_patch(patch, chosen.dimensions)
    return replace(chosen, patch=patch)


def _backbones(config: TrainConfig, images: list[Volume]) -> Mapping[int, str]:
    """The kinds of backbones that the plan chooses from, by dimensions."""
    method = find_method(config.method)
    if config.network is not None:
        return {n: entry.kind for n, entry in find_backbones(config.network).items() if method.takes(entry)}
    if scan_dimensions(images) not in method.dimensions:
        (only,) = method.dimensions
        segmented, scans = ("volumes", "stacks of thick slices") if only == 3 else ("slices", "volumes")
        backbone = find_backbone(method.default_backbones[only]).name
        raise ValueError(
            f"method {method.name} segments {segmented}, and these scans are {scans}; choose another method, or "
            f"--backbone {backbone} to train on them anyway"
        )
    return method.default_backbones
