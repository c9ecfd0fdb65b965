"""The method of a training for which the user leaves the choice open (`mper train --method auto`), and why.

The choice follows what was measured with recipe plus (Testing/benchmarks/README.md). Points of Dice of `bcp` over
`supervised` at equal processor time, 40 atria at 2 mm, from scratch, three seeds where it says so:

======== =============== =========================== =================
labels   1 min, 300      5 min, 1650, three seeds    20 min, 6600, two
======== =============== =========================== =================
1        +0.4            +4.3                        +6.5
2        +1.3            +2.3                        +2.4
4        0.0             +1.0                        +1.4
8        -0.8            +0.3                        +0.8
======== =============== =========================== =================

From LGE to bSSFP, 2 labelled and 6 unlabelled scans, five draws: `mper` -0.9 after 300 steps, +0.8 after 3600 (p =
0.05, 9 of 10 scans better); `bcp` -0.3 after 300 (p = 0.5), +0.9 and +0.1 after 3600 (two draws, `mper` +2.1 and
+0.4). With one label `mper` -0.9 and +0.7, with four 0.0 (3600 steps). Fine-tuned on scans of the start model's kind
with 1, 2, 4 and 8 labels for five minutes, two seeds: `mper` (750 to 1100 steps) +2.5, +1.6, +1.4, -0.1, `bcp` +1.2,
+1.7, +1.2, +0.6; for twenty, two seeds, `mper` +4.9, +2.8, +2.2, +0.5, `bcp` +3.5, +2.6, +1.8, +1.1. With slices of 3
labelled patients `mper` has 8 and 12 points more (450 and 3165 steps), `bcp` 0 and 14 (1200 and 3200, 3 mm). The voxels
of strokes alone: `supervised` -6.5 and -5.4 (two seeds); strokes and what they changed in four masks, with `bcp`, whose
teacher labels the rest: +0.6 over no such scan (three seeds).
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

_FEW_SCANS = 4  # labelled volumes, up to which unlabelled ones were of use after five minutes
_MORE_SCANS = 8  # labelled volumes, up to which unlabelled ones were of use after longer
_LONG_STEPS = 3000  # of a training, from which they were
_FINE_TUNED_STEPS = 750  # of one that fine-tunes a model: those of `mper` in five minutes
_SHORT_STEPS = 200  # of a training, below which self-training is next to nothing
_LOOKED_AT = 3  # scans that tell whether slices or volumes are segmented


def choose_method(
    labelled: int, unlabelled: int, *, slices: bool, fine_tunes: bool, strokes: int = 0, steps: int | None = None
) -> tuple[str, str]:
    """The method that did best where it was measured.

    Parameters
    ----------
    labelled, unlabelled : int
        Numbers of scans.
    slices : bool
        Whether slices are segmented, not volumes.
    fine_tunes : bool
        Whether the training starts from a model of the same structures.
    strokes : int
        How many of the labelled scans are labelled by strokes alone.
    steps : int or None
        Of the training, about; None for a long one.

    Returns
    -------
    tuple of (str, str)
        Its name, and the reason as a sentence without a full stop.
    """
    if 2 * strokes > labelled:
        line = (
            "most labels are strokes alone: where these were all that was learned, models lost 5 to 7 points of Dice; "
            "where the model labelled the rest of corrected scans itself, they gained 0.6"
        )
        return "bcp", Coded(line, "auto-strokes")
    if not unlabelled:
        return "supervised", Coded("there are no scans without labels", "auto-none-unlabelled")
    if fine_tunes:
        return _choose_to_fine_tune(labelled, slices, steps)
    if steps is not None and steps < _SHORT_STEPS:
        steps = int(float(f"{steps:.1e}"))  # two digits: it is an estimate
        line = (
            f"a training that uses scans without labels would have about {steps} steps, too few to learn from these; "
            "train for longer to use them"
        )
        return "supervised", Coded(line, "auto-short", steps=steps)
    if slices:
        line = (
            "with slices of 3 labelled patients scans without labels gained 8 and 12 points of Dice in 450 and 3,200 "
            "steps (one seed each; bcp gained nothing in 1,200 and 14 in 3,200; more labels were not measured)"
        )
        return "mper", Coded(line, "auto-slices")
    if labelled <= _FEW_SCANS:
        line = (
            "36 to 39 scans without labels gained 4.3, 2.3 and 1.0 points of Dice with 1, 2 and 4 labelled volumes in "
            "1,650 steps (three seeds), and 6.5, 2.4 and 1.4 in 6,600 (two seeds)"
        )
        return "bcp", Coded(line, "auto-few-labels")
    if labelled <= _MORE_SCANS and (steps is None or steps >= _LONG_STEPS):
        line = (
            "32 scans without labels gained 0.8 points of Dice with 8 labelled volumes (6,600 steps, two seeds); here "
            f"{labelled} are labelled"
        )
        return "bcp", Coded(line, "auto-long", n=labelled)
    line = "with 8 labelled volumes scans without labels gained only 0.3 points of Dice in 1,650 steps and 0.8 in 6,600"
    return "supervised", Coded(f"{line}; here {labelled} are labelled", "auto-many-labels", n=labelled)


def _choose_to_fine_tune(labelled: int, slices: bool, steps: int | None) -> tuple[str, str]:
    """The method with which a model is fine-tuned."""
    if slices:
        line = "scans without labels were not measured where a model of slices is fine-tuned"
        return "supervised", Coded(line, "auto-tuned-slices")
    if labelled > _MORE_SCANS:
        line = (
            "where a model was fine-tuned on 8 labelled volumes of the kind that it knew, scans without labels gained "
            f"only 0.6 points of Dice in 1,100 steps and 1.1 in 4,000; here {labelled} are labelled"
        )
        return "supervised", Coded(line, "auto-tuned-many", n=labelled)
    if steps is not None and steps < _FINE_TUNED_STEPS:
        line = (
            "scans without labels gained no Dice where a model was adapted to another sequence in 300 steps (-0.3 "
            "points; volumes, 2 labelled scans, five draws); train for longer to use them"
        )
        return "supervised", Coded(line, "auto-tuned-short")
    if labelled > _FEW_SCANS:
        line = (
            "scans without labels gained 0.6 points of Dice where a model was fine-tuned on 8 labelled volumes of the "
            f"kind that it knew, in 1,100 steps, and 1.1 in 4,000 (two seeds each); here {labelled} are labelled"
        )
        return "bcp", Coded(line, "auto-tuned-more", n=labelled)
    line = (
        "scans without labels gained 2.5, 1.6 and 1.4 points of Dice where a model was fine-tuned on 1, 2 and 4 "
        "labelled volumes of the kind that it knew, in 750 to 1,100 steps, 4.9, 2.8 and 2.2 in 2,600 to 3,300 "
        "(two seeds each), and 0.8 with 2 of another sequence in 3,600 (five draws)"
    )
    return "mper", Coded(line, "auto-tuned-few")


def choose_for(
    splits: Sequence[Sequence[Case | PackedCase]],
    labels: Sequence[Label],
    labeled: int | None,
    start: Card | None,
    backbone: str | None,
    steps: int | None,
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
    steps : int or None
        As for `choose_method`.
    """
    cases = [case for split in splits for case in split]
    used = [case for split in splits for case in [case for case in split if case.is_drawn][:labeled]]
    labelled, strokes = len(used), sum(case.is_painted for case in used)
    kinds = [entry for entry in BACKBONES.values() if backbone in (entry.name, entry.kind)]
    if start is not None and (known := BACKBONES.get(str(start.network["kind"]))):  # else it is refused when loaded
        kinds = [known]
    dimensions = {entry.dimensions for entry in kinds}
    if len(dimensions) != 1:
        dimensions = {scan_dimensions(cases[:_LOOKED_AT])}
    fine_tunes = start is not None and same_structures(tuple(labels), start.labels)
    slices, unlabelled = dimensions == {2}, len(cases) - labelled
    return choose_method(labelled, unlabelled, slices=slices, fine_tunes=fine_tunes, strokes=strokes, steps=steps)
