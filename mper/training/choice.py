"""The method of a training for which the user leaves the choice open (`mper train --method auto`), and why.

The choice follows what was measured with recipe plus (Testing/benchmarks/README.md). Volumes, from scratch, with 1, 2,
4 and 8 labels: `bcp` has 4.3, 3.7, 1.2 and 0.3 points of Dice more than `supervised` after five minutes of one core (40
cases, one seed), and 0.4, 1.3, 0.0 and -0.8 after one. Fine-tuned on more scans of the start model's kind: 0.0. From
LGE to bSSFP, 2 labelled and 6 unlabelled scans: -0.3 (five draws, p = 0.5). With slices of 3 labelled patients `mper`
has 8 points more (one seed).
"""

from __future__ import annotations

from collections.abc import Sequence

from mper.datasets.case import Case
from mper.datasets.packed import PackedCase
from mper.labels import Label, same_structures
from mper.models.card import Card
from mper.nets.registry import BACKBONES
from mper.training.planning import scan_dimensions
from mper.utils.coded import Coded

_FEW_SCANS = 4  # labelled ones, up to which unlabelled ones were of use with volumes
_LOOKED_AT = 3  # scans that tell whether slices or volumes are segmented


def choose_method(labelled: int, unlabelled: int, *, slices: bool, fine_tunes: bool) -> tuple[str, str]:
    """The method that did best where it was measured.

    Parameters
    ----------
    labelled, unlabelled : int
        Numbers of scans.
    slices : bool
        Whether slices are segmented, not volumes.
    fine_tunes : bool
        Whether the training starts from a model.

    Returns
    -------
    tuple of (str, str)
        Its name, and the reason as a sentence without a full stop.
    """
    if not unlabelled:
        return "supervised", Coded("there are no scans without labels", "auto-none-unlabelled")
    if fine_tunes:
        line = (
            "scans without labels gained 0.0 points of Dice when a model was fine-tuned on more scans of its kind, and "
            "none (-0.3 with 2 labelled scans, five draws) when it was adapted to another sequence"
        )
        return "supervised", Coded(line, "auto-fine-tuned")
    if slices:
        line = (
            "with slices of 3 labelled patients scans without labels gained 8 points of Dice (one seed; more "
            "labels were not measured)"
        )
        return "mper", Coded(line, "auto-slices")
    if labelled <= _FEW_SCANS:
        line = (
            "scans without labels gained 4 points of Dice with 1 or 2 labelled volumes, and 1 with 4 (in 5 minutes of "
            "one core)"
        )
        return "bcp", Coded(line, "auto-few-labels")
    line = "with 8 labelled volumes scans without labels gained only 0.3 points of Dice (in 5 minutes of one core)"
    return "supervised", Coded(f"{line}; here {labelled} are labelled", "auto-many-labels", n=labelled)


def choose_for(
    splits: Sequence[Sequence[Case | PackedCase]],
    labels: Sequence[Label],
    labeled: int | None,
    start: Card | None,
    backbone: str | None,
) -> tuple[str, str]:
    """`choose_method` for the splits to train on.

    Parameters
    ----------
    splits : sequence of sequences of Case or PackedCase
    labels : sequence of Label
        Structures of the dataset.
    labeled : int or None
        How many labels of each split are used; None for all.
    start : Card or None
        That of the model to start from.
    backbone : str or None
        The name or kind of the backbone, where the user names one.
    """
    cases = [case for split in splits for case in split]
    counts = [sum(case.is_drawn for case in split) for split in splits]
    labelled = sum(count if labeled is None else min(labeled, count) for count in counts)
    kinds = [entry for entry in BACKBONES.values() if backbone in (entry.name, entry.kind)]
    if start is not None:
        kinds = [BACKBONES[str(start.network["kind"])]]
    dimensions = {entry.dimensions for entry in kinds}
    if len(dimensions) != 1:
        dimensions = {scan_dimensions([case.image() for case in cases[:_LOOKED_AT]])}
    fine_tunes = start is not None and same_structures(tuple(labels), start.labels)
    return choose_method(labelled, len(cases) - labelled, slices=dimensions == {2}, fine_tunes=fine_tunes)
