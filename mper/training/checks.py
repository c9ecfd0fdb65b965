"""What is unusual about the data of a run: one line for each, or a refusal where a method cannot train on them."""

from __future__ import annotations

import math

from mper.dataloading.case_region import label_outside
from mper.datasets.revisions import about_learned_drafts
from mper.labels import UNLABELLED
from mper.methods.recipe import Recipe
from mper.methods.registry import MethodInfo, default_method
from mper.nets.registry import find_backbone
from mper.training.data import TrainingData
from mper.utils.coded import Coded
from mper.utils.text import shorten

_SPARSE = 0.05  # share of a scan's voxels


def check_training_data(data: TrainingData, method: MethodInfo, batch: int, recipe: Recipe) -> list[str]:
    """Notices about the training data.

    Parameters
    ----------
    data : TrainingData
    method : MethodInfo
    batch : int
        Labelled patches per step.
    recipe : Recipe

    Raises
    ------
    ValueError
        If a structure is in no labelled case, and the method needs all of them, or if the patches of a step are too
        small and too few for batch norm.
    """
    _refuse_single_value(data, method, batch, recipe)
    return [
        *_held_out_scans(data),
        *_regions(data),
        *([about_learned_drafts(data.drafts)] if data.drafts else []),
        *_other_structures(data),
        *_few_scans(data, batch),
        *_no_unlabelled(data, method),
        *_absent_structures(data, method),
        *_sparse_labels(data, method),
        *_partial_labels(data, method),
    ]


def _held_out_scans(data: TrainingData) -> list[str]:
    if not data.left_out:
        return []
    verb, whose = ("shows", "a held-out case and is") if len(data.left_out) == 1 else ("show", "held-out cases and are")
    cases = shorten(data.left_out)
    line = f"{cases} {verb} the scan of {whose} left out: trained on, it would make it no test"
    return [Coded(line, "shows-held-out", cases=cases)]


def _regions(data: TrainingData) -> list[str]:
    if not data.regions:
        return []
    cases = shorten(sorted(data.regions))
    found: list[str] = [Coded(f"{cases}: only the region is used", "regions", cases=cases)]
    found += [label_outside(case_id, share) for case_id, share in data.regions.items() if share]
    return found


def _refuse_single_value(data: TrainingData, method: MethodInfo, batch: int, recipe: Recipe) -> None:
    """Batch norm has no variance where the deepest layer of the network has one value per channel."""
    anchored = recipe.anchored and data.plan.dimensions == 3
    batch_teacher = not recipe.clean_teacher and "clean_teacher" not in method.unused_changes
    patches, advice = batch, "choose a larger --patch or --batch"
    if batch_teacher and method.pairs and 0 < data.sampler.partly_labelled < len(data.sampler.labelled):
        patches, advice = 1, "choose a larger --patch"  # the teacher may see one partly labelled patch alone
    elif batch_teacher or (method.pairs and not anchored):  # unlabelled patches, or pairs pasted into each other
        patches = max(1, batch // 2)
    elif method.uses_unlabelled and not method.load().two_stages:
        patches = batch + 1  # unlabelled ones are there from the first step on
    divisor = find_backbone(data.plan.network).divisor
    if patches * math.prod(math.ceil(n / divisor) for n in data.plan.patch) > 1:
        return
    size = ",".join(map(str, data.plan.patch))
    raise ValueError(
        f"patch {size} is a single voxel in the deepest layer of the network, and method {method.name} trains it with "
        f"1 patch at a time here (--batch {batch}); batch norm needs more than one value: {advice}"
    )


def _other_structures(data: TrainingData) -> list[str]:
    if data.start is None or data.refines:
        return []
    card = data.start.card
    ours, theirs = (", ".join(label.name for label in labels) for labels in (data.labels, card.labels))
    line = f"model {card.name} segments {theirs}, not {ours}: the network starts from it, the structures from scratch"
    return [Coded(line, "other-structures", model=card.name, theirs=theirs, ours=ours)]


def _few_scans(data: TrainingData, batch: int) -> list[str]:
    count = len(data.sampler.labelled)
    if batch <= count or data.plan.dimensions == 2:
        return []
    if count == 1:
        line = f"1 labelled scan for {batch} labelled patches per step: all patches of a step come from it"
        return [Coded(f"{line}; more labels would help", "one-label")]
    line = f"{count} labelled scans for {batch} labelled patches per step: some scans provide several"
    return [Coded(f"{line}; more labels would help", "few-labels", n=count)]


def _no_unlabelled(data: TrainingData, method: MethodInfo) -> list[str]:
    if not method.uses_unlabelled or data.sampler.unlabelled:
        return []
    line = (
        f"method {method.name} also learns from scans without labels, and there are none: the labelled ones take their "
        f"place; add scans, or choose --method {default_method(unlabelled=False)}"
    )
    return [Coded(line, "none-unlabelled")]


def _absent_structures(data: TrainingData, method: MethodInfo) -> list[str]:
    """Classes, background included, that no labelled case shows."""
    cases = [case.label for case in data.sampler.labelled if case.label is not None]
    names = ["background", *(label.name for label in data.labels)]
    absent = [name for c, name in enumerate(names) if not any(bool((label == c).any()) for label in cases)]
    if not absent:
        return []
    line = f"{', '.join(absent)}: in none of the {len(cases)} labelled cases, so it cannot be learned"
    if method.needs_every_class:
        words = f"{line}, and method {method.name} needs it; label it, or choose another --method"
        raise ValueError(Coded(words, "never-drawn", structures=", ".join(absent)))
    return [Coded(f"{line}; label it in one of them", "never-drawn", structures=", ".join(absent))]


def _sparse_labels(data: TrainingData, method: MethodInfo) -> list[str]:
    """Cases, labelled by strokes, of which a method that learns from labels only sees next to nothing."""
    sparse = sparsely_labelled(data)
    if method.uses_unlabelled or not sparse:
        return []
    line = (
        f"{', '.join(sparse)}: labelled in less than {_SPARSE:.0%} of the voxels, and method {method.name} learns from "
        "these only, which made models worse in our measurements: label more, or choose another --method"
    )
    return [Coded(line, "sparse-labels", cases=", ".join(sparse))]


def _partial_labels(data: TrainingData, method: MethodInfo) -> list[str]:
    """What becomes of the unlabelled voxels of labelled scans; of those labelled by strokes `_sparse_labels` tells."""
    count = data.sampler.partly_labelled - (0 if method.uses_unlabelled else len(sparsely_labelled(data)))
    if count < 1:
        return []
    rest, code = "ignored", "parts-ignored"
    if method.pairs:
        rest, code = "labelled by the mean teacher in self-training", "parts-self-labelled"
    total = len(data.sampler.labelled)
    line = (
        f"{count} of {total} labelled scans {'is' if count == 1 else 'are'} labelled in part: the rest is {rest}; "
        "complete the labels where you can"
    )
    return [Coded(line, code, n=count, total=total)]


def sparsely_labelled(data: TrainingData) -> list[str]:
    """The labelled cases of which next to nothing is labelled, as by a few strokes."""
    known = {case.id: case.label != UNLABELLED for case in data.sampler.labelled if case.label is not None}
    return [case_id for case_id, where in known.items() if float(where.float().mean()) < _SPARSE]
