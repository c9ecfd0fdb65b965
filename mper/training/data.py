"""The data of a training run: the split's scans on the working grid, on the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mper.dataloading.case_region import CaseInRegion, Scan, in_region
from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.dataloading.wide_field import is_wide, region_around
from mper.inference.localization import Localizer
from mper.labels import BACKGROUND, UNLABELLED, Label, same_structures
from mper.methods.registry import MethodInfo, check_backbone, find_method
from mper.models.bundle import ModelBundle
from mper.models.localization import Localization
from mper.nets.registry import find_backbone, find_backbones
from mper.progress import Progress, Report, ignore_progress
from mper.training.config import TrainConfig
from mper.training.localization import CoarseScan, coarse_scan
from mper.training.planning import OnGrid, Plan, check_patch, plan, scan_dimensions
from mper.utils.coded import Coded, line_of
from mper.volume import Index3, Volume, as_index

if TYPE_CHECKING:
    from mper.datasets.dataset import Dataset
    from mper.datasets.packed import PackedDataset


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
    localization : Localization or None
        How the model will locate its structures in a wide field of view.
    left_out : tuple of str
        Cases of the splits that show the scan of a held-out case.
    regions : mapping of str to float
        The cases that are used in their region alone, with the share of their label's structures outside it.
    drafts : tuple of str
        Cases whose labels are unedited masks of a model.
    """

    labels: tuple[Label, ...]
    plan: Plan
    sampler: PatchSampler
    start: ModelBundle | None
    localization: Localization | None = None
    left_out: tuple[str, ...] = ()
    regions: Mapping[str, float] = field(default_factory=dict)
    drafts: tuple[str, ...] = ()

    @property
    def refines(self) -> bool:
        """Whether the model to fine-tune segments the same structures in the same order."""
        return self.start is not None and same_structures(self.labels, self.start.card.labels)


Localize = Callable[[Sequence[CoarseScan], Localization | None], Localization]
"""Learns a localisation from scans, starting from another one where there is one."""


def load_training_data(
    config: TrainConfig,
    device: torch.device,
    report: Report = ignore_progress,
    localize: Localize | None = None,
    planned: Plan | None = None,
) -> TrainingData:
    """Read the splits, plan, and put every case on the device on the working grid.

    Cases that show the scan of a held-out case are left out: a hold-out that an older version locked may have such.
    They count among the first cases, and the first labels, of their split.
    A case with a region of its own is cropped to it (`mper.dataloading.case_region`). Of a scan with a wide field of
    view only the region around its structures is taken: that of its labels, or the one that the localisation finds.

    Parameters
    ----------
    config : TrainConfig
    device : torch.device
    report : Report
    localize : callable or None
        None: no localisation is learned.
    planned : Plan or None
        That of a run which goes on, whatever scans and labels the splits have got since; None: made from the scans.

    Raises
    ------
    ValueError
        If the split is locked as hold-out or has too few labels, a scan cannot be normalised, the method cannot train
        on such scans, or the region of a case contains nothing of its label or is too small for a patch.
    """
    from mper.datasets.packed import open_dataset

    dataset = open_dataset(Path(config.dataset))
    for name in config.splits:
        if name in dataset.locked_splits:
            line = f"split {name!r} is the locked hold-out of {dataset.name!r}: it is never trained on"
            raise ValueError(Coded(line, "split-locked", split=name))
    start = ModelBundle.load(Path(config.start_from)) if config.start_from else None
    copies = set(dataset.held_out_copies())
    left_out = tuple(
        case_id
        for name in config.splits
        for case_id in dataset.splits.get(name, ())[: config.cases]
        if case_id in copies
    )
    scans = [
        scan
        for group, name in enumerate(config.splits)
        for scan in _read_split(config, dataset, name, group, copies, report)
    ]
    regions = {scan.id: scan.outside for scan in scans if scan.outside is not None}
    chosen = planned or _choose_plan(config, [scan.image for scan in scans], [scan.mask for scan in scans], start)
    for scan in scans:
        _check_region(scan, chosen)
    localization = None
    if chosen.dimensions == 3:
        localization = _localization(config, scans, dataset.labels, start, localize)
        scans = [_around_structures(scan, localization) for scan in scans]
    loaded = []
    for n, scan in enumerate(scans):
        report(Progress(f"preparing {scan.id}", n / len(scans)))
        grid = WorkingGrid.plan(scan.image.geometry, chosen.preprocessing, chosen.dimensions)
        try:
            working = normalise(grid.forward(scan.image.array), chosen.preprocessing)
        except ValueError as error:
            reason = line_of(error)
            raise ValueError(Coded(f"case {scan.id}: {reason}", "case-note", case=scan.id, note=reason)) from error
        label = None if scan.mask is None else grid.forward_labels(scan.mask, len(dataset.labels) + 1).to(device)
        voxel_ml = float(np.prod(grid.step_lengths)) / 1000 if scan.image.geometry.spacing_known else None
        place = (grid, scan.start, scan.group, bool(scan.outside))
        loaded.append(TrainingCase(scan.id, working.to(device), label, voxel_ml, *place))
    labelled = [case for case in loaded if case.label is not None]
    unlabelled = [case for case in loaded if case.label is None]
    sampler = PatchSampler(
        labelled,
        unlabelled,
        chosen.patch,
        affine=config.make_recipe().affine,
        flip_axes=config.flip_axes,
        other_fields=config.cross_scanner,
        zscored=chosen.preprocessing.normalisation == "zscore",
    )
    drafts = tuple(case.id for case in labelled if dataset.case(case.id).is_draft)
    return TrainingData(dataset.labels, chosen, sampler, start, localization, left_out, regions, drafts)


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan to train on: its mask holds class numbers (None: unlabelled), `start` is its first voxel in the case.

    outside : share of its structures outside the region of its case, None where that has none; whole : the case
    without its region.
    """

    id: str
    image: Volume
    mask: np.ndarray | None
    group: int
    start: Index3 = (0, 0, 0)
    outside: float | None = None
    whole: Scan | None = None


def _read_split(
    config: TrainConfig,
    dataset: Dataset | PackedDataset,
    split: str,
    group: int,
    without: Collection[str],
    report: Report,
) -> list[_Scan]:
    """The scans of a split, in its order; those `without` are left out, but count among its first cases and labels."""
    regions = dataset.regions
    cases = [in_region(case, regions) for case in dataset.split(split)[: config.cases]]
    scans: list[_Scan] = []
    with_label = used = 0
    uses_unlabelled = find_method(config.method).uses_unlabelled
    for n, case in enumerate(cases):
        report(Progress(f"reading {case.id}", n / len(cases)))
        label = case.label() if config.labeled is None or with_label < config.labeled else None
        outside = case.share_outside() if isinstance(case, CaseInRegion) and label is not None else 0.0
        if outside == 1 and case.id not in without:
            line = f"the whole label of {case.id} lies outside its region; draw the region around it, or clear it"
            raise ValueError(Coded(line, "label-all-outside", case=case.id))
        if label is not None and (label.array == UNLABELLED).all():  # begun, and nothing said yet
            label = None
        with_label += label is not None
        if case.id in without or (label is None and not uses_unlabelled):
            continue
        used += label is not None
        mask = None if label is None else _to_classes(np.asarray(label.array), dataset.labels)
        scan = _Scan(case.id, case.image(), mask, group)
        if isinstance(case, CaseInRegion):
            scan = replace(scan, start=case.region.start, outside=outside, whole=case.whole)
        scans.append(scan)
    if not used:
        line = f"none of the {len(cases)} cases of split {split!r} has a label; training needs at least one"
        raise ValueError(Coded(line, "none-labelled", n=len(cases)))
    if config.labeled is not None and with_label < config.labeled:
        line = f"split {split!r} has {with_label} labelled cases, {config.labeled} were asked for; "
        line += "label more, or ask for fewer"
        raise ValueError(Coded(line, "too-few-labels", there=with_label, asked=config.labeled))
    return scans


def _localization(
    config: TrainConfig,
    scans: Sequence[_Scan],
    labels: tuple[Label, ...],
    start: ModelBundle | None,
    localize: Localize | None,
) -> Localization | None:
    """The localisation that is learned from the labelled scans, in their whole fields of view.

    That of the model to start from where they teach nothing.
    """
    known = start.localization if start is not None and same_structures(labels, start.card.labels) else None
    labelled = [scan for scan in scans if scan.mask is not None]
    wide = any(is_wide((scan.whole or scan.image).geometry) for scan in labelled)
    if localize is None or config.localization == "never" or not (wide or config.localization == "always"):
        return known
    fields = (_whole_field(scan, labels) for scan in labelled)
    coarse = (coarse_scan(image, mask, is_wide(image.geometry)) for image, mask in fields)
    found = [scan for scan in coarse if scan is not None]
    return localize(found, known) if found else known


def _whole_field(scan: _Scan, labels: tuple[Label, ...]) -> tuple[Volume, np.ndarray]:
    """A labelled scan and its class numbers, also outside the region of its case."""
    label = None if scan.whole is None else scan.whole.label()
    if scan.whole is None or label is None:
        assert scan.mask is not None
        return scan.image, scan.mask
    return scan.whole.image(), _to_classes(np.asarray(label.array), labels)


def _around_structures(scan: _Scan, localization: Localization | None) -> _Scan:
    """A scan of a wide field of view, cropped around its structures: what the model will see of it."""
    if not is_wide(scan.image.geometry):
        return scan
    region = None
    if scan.mask is not None:
        region = region_around((scan.mask != BACKGROUND) & (scan.mask != UNLABELLED), scan.image.geometry)
    elif localization is not None:
        region = Localizer(localization, torch.device("cpu"), torch.float32).locate(scan.image)
    if region is None:
        return scan
    mask = None if scan.mask is None else scan.mask[region.window]
    start = as_index(a + b for a, b in zip(scan.start, region.start, strict=True))
    return replace(scan, image=scan.image.crop(region.start, region.stop), mask=mask, start=start)


def _check_region(scan: _Scan, plan: Plan) -> None:
    """Refuse a region of which most of a patch would be repeated borders, unless the whole scan is as small."""
    if scan.whole is None:
        return
    grids = (scan.image.geometry, scan.whole.geometry)
    part, whole = (WorkingGrid.plan(each, plan.preprocessing, plan.dimensions).size for each in grids)
    if any(n < min(most, wanted / 2) for n, most, wanted in zip(part, whole, plan.patch, strict=True)):
        size, patch = ("x".join(map(str, each)) for each in (part, plan.patch))
        line = f"the region of {scan.id} is too small for a patch: it has {size} voxels of the network's grid, "
        line += f"a patch has {patch}; draw a larger region, or clear it"
        raise ValueError(Coded(line, "region-below-patch", case=scan.id, size=size, patch=patch))


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
    check_dimensions(method, images)
    return method.default_backbones


def check_dimensions(method: MethodInfo, images: Sequence[OnGrid]) -> None:
    """Refuse a method that segments slices, or volumes, where the scans are the other.

    Raises
    ------
    ValueError
        If its default backbones cannot be trained on such scans.
    """
    if scan_dimensions(images) not in method.dimensions:
        (only,) = method.dimensions
        segmented, scans = ("volumes", "stacks of thick slices") if only == 3 else ("slices", "volumes")
        backbone = find_backbone(method.default_backbones[only]).name
        line = f"method {method.name} segments {segmented}, and these scans are {scans}; choose another method, or "
        line += f"--backbone {backbone} to train on them anyway"
        code = "method-of-slices" if segmented == "slices" else "method-of-volumes"
        raise ValueError(Coded(line, code, method=method.name))
