"""The bundled sample scan and its reference."""

from __future__ import annotations

from mper.labels import Segmentation

REFERENCE = "la-reference.nrrd"


def sample_dice(mask: Segmentation) -> float | None:
    """Dice of a mask of the sample scan with its reference; None for a mask of anything but the left atrium alone."""
    from mper.evaluation.metrics import dice
    from mper.io import read_labelmap
    from mper.resources import sample_scan

    reference = sample_scan().with_name(REFERENCE)
    if [label.name for label in mask.labels] != ["LA"] or not reference.is_file():
        return None
    return float(dice(mask.labelmap.array == mask.labels[0].value, read_labelmap(reference).array == 1))
