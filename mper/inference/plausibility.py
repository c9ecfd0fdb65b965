"""What a person should know about a prediction beside its mask."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from mper.models.card import Card
from mper.progress import Progress, Report
from mper.roi import Region
from mper.volume import Geometry, Volume

BORDER, INTENSITIES, VOLUME = "border", "intensities", "volume"
_BEGINNINGS = {"the mask touches the border": BORDER, "the intensities": INTENSITIES, "the volume of": VOLUME}
_MANY = 10  # scans, of which the ranges tell something of scans to come
_VOLUME_ROOM = 1.5  # times smaller or larger than any training label


def warning_kind(note: str) -> str | None:
    """What a note of this module is about: a reason to look at the mask with care, or None for any other note."""
    return next((kind for beginning, kind in _BEGINNINGS.items() if note.startswith(beginning)), None)


class NoteCollector:
    """Collects notes, each once, and tells each at once."""

    def __init__(self, report: Report):
        self.lines: list[str] = []
        self._report = report

    def __call__(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)
            self._report(Progress(line))

    def extend(self, lines: Iterable[str]) -> None:
        """Several."""
        for line in lines:
            self(line)


def check_intensities(crop: Volume, normalised: torch.Tensor, card: Card) -> list[str]:
    """Whether a region looks unlike what the model was trained on.

    CT: its intensities against the model's window. Else: percentiles after normalising against those of the training
    scans, where the card has them: ``about["intensity"]``, percent -> lowest and highest.
    """
    lines = []
    window = card.preprocessing.get("window")
    if window is not None:
        low, high = np.percentile(np.asarray(crop.array, dtype=np.float32), (1, 99)).tolist()
        if high <= window[0] or low >= window[1] or high - low < 0.01 * (window[1] - window[0]):
            lines.append(
                f"the intensities ({low:g} to {high:g}) are unlike the model's window of {window[0]:g} to "
                f"{window[1]:g}; is the scan in Hounsfield units?"
            )
    usual = card.about.get("intensity", {})
    found = np.percentile(normalised.cpu().numpy(), [float(percent) for percent in usual])
    for value, (low, high) in zip(found, usual.values(), strict=True):
        room = max(_least_room(card), (high - low) / 2)
        if not low - room <= value <= high + room:
            lines.append("the intensities are spread unlike those of the training scans; look at the mask with care")
            break
    return lines


def _least_room(card: Card) -> float:
    """How far normalised intensities may lie outside of those of the training scans: a sample, or a handful."""
    training = card.about.get("training", {})
    scans = training.get("labelled_cases", _MANY) + training.get("unlabelled_cases", 0)
    return 0.1 if scans >= _MANY else 0.5


def check_border(classes: npt.NDArray[np.uint8], region: Region, geometry: Geometry, dimensions: int) -> list[str]:
    """Whether the mask of a region ends where the region does; along the slices that is usual for 2-D models."""
    lines = []
    for axis in (1, 2) if dimensions == 2 else (0, 1, 2):
        for end, at_scan in ((0, region.start[axis] == 0), (-1, region.stop[axis] == geometry.shape[axis])):
            if classes.take(end, axis).any():
                lines.append(
                    "the mask touches the border of the scan; the structure may reach beyond it"
                    if at_scan
                    else "the mask touches the border of the region; a larger ROI may show more of it"
                )
    return lines


def check_volumes(classes: npt.NDArray[np.uint8], geometry: Geometry, card: Card) -> list[str]:
    """Whether a volume is unlike those of the training labels: ``about["volume_ml"]``, name -> [least, most].

    A wrong kind of scan often looks right to a network, and its mask is the size of something else. What was not found
    is not told here.
    """
    lines: list[str] = []
    usual = card.about.get("volume_ml", {})
    if geometry.spacing_mm is None or not usual:
        return lines
    voxels = np.bincount(classes.reshape(-1), minlength=len(card.labels) + 1)
    for label, count in zip(card.labels, voxels[1:].tolist(), strict=True):
        if not count or label.name not in usual:
            continue
        ml = count * float(np.prod(geometry.spacing_mm)) / 1000
        low, high = usual[label.name]
        if not low / _VOLUME_ROOM <= ml <= high * _VOLUME_ROOM:
            lines.append(
                f"the volume of {label.name} ({ml:.3g} mL) is unlike that of the training labels "
                f"({low:.3g} to {high:.3g} mL); is it the right kind of scan?"
            )
    return lines
