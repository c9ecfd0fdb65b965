"""Whether a prediction is plausible: notes on what was decided, and flags for masks that a person should check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from mper.inference.prediction import QualityFlag
from mper.labels import Label
from mper.models.card import Card
from mper.progress import Progress, Report
from mper.roi import Region
from mper.utils.coded import Coded
from mper.volume import Geometry, Volume

QUALITY, BORDER, INTENSITIES = "quality", "border", "intensities"
VOLUME, EMPTY, NOISE = "volume", "empty", "noise"
_MANY = 10  # scans, of which the ranges tell something of scans to come
_VOLUME_ROOM = 1.5  # times smaller or larger than any training label
_NOISE = 0.3  # correlation of neighbouring voxels; 0.92 or more in cardiac MR, 0 in noise
_NOISE_VOXELS = 2**19  # that are looked at
_THINNED_VOXELS = 2**18


class NoteCollector:
    """Collects notes and flags, each once, and reports each at once."""

    def __init__(self, report: Report):
        self.lines: list[str] = []
        self.flags: list[QualityFlag] = []
        self._report = report

    def __call__(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)
            self._report(Progress(line))

    def extend(self, lines: Iterable[str]) -> None:
        """Add several notes."""
        for line in lines:
            self(line)

    def flag(self, flags: Iterable[QualityFlag]) -> None:
        """Add flags; each is a note, too."""
        for flag in flags:
            if flag not in self.flags:
                self.flags.append(flag)
                self(flag.words)


def usual_percentiles(normalised: torch.Tensor, card: Card) -> npt.NDArray[np.floating]:
    """The percentiles of a normalised image of which the card has the range, from every second voxel."""
    thin = normalised[:, ::2, ::2] if normalised.numel() > _THINNED_VOXELS else normalised
    return np.percentile(thin.cpu().numpy(), [float(percent) for percent in card.about.get("intensity", {})])


def check_intensities(
    crop: Volume, correlation: float, percentiles: npt.NDArray[np.floating], card: Card
) -> list[QualityFlag]:
    """Flags for a region that looks unlike what the model was trained on, or like no image at all.

    CT: its intensities against the model's window. Else: percentiles after normalising against those of the training
    scans, where the card has them: ``about["intensity"]``, percent -> lowest and highest.

    Parameters
    ----------
    crop : Volume
    correlation : float
        Of neighbouring voxels (`neighbour_correlation`).
    percentiles : float array
        Of the normalised image (`usual_percentiles`).
    card : Card
    """
    if correlation < _NOISE:
        line = "the scan looks like noise: neighbouring voxels are unrelated; the mask means nothing"
        return [QualityFlag(NOISE, Coded(line, "noise"))]
    flags = []
    window = card.preprocessing.get("window")
    if window is not None:
        low, high = np.percentile(np.asarray(crop.array, dtype=np.float32), (1, 99)).tolist()
        if high <= window[0] or low >= window[1] or high - low < 0.01 * (window[1] - window[0]):
            words = Coded(
                f"the intensities ({low:g} to {high:g}) lie outside the model's window of {window[0]:g} to "
                f"{window[1]:g}; check that the scan is in Hounsfield units",
                "outside-window",
                low=f"{low:g}",
                high=f"{high:g}",
                window_low=f"{window[0]:g}",
                window_high=f"{window[1]:g}",
            )
            flags.append(QualityFlag(INTENSITIES, words))
    if has_unusual_percentiles(percentiles, card):
        line = "the intensities are distributed unlike those of the training scans; check the mask"
        words = Coded(line, "unlike-intensities")
        flags.append(QualityFlag(INTENSITIES, words))
    return flags


def has_unusual_percentiles(percentiles: Sequence[float] | npt.NDArray[np.floating], card: Card) -> bool:
    """Whether percentiles of a normalised image lie outside of those of the training scans, where the card has them."""
    for value, (low, high) in zip(percentiles, card.about.get("intensity", {}).values(), strict=True):
        room = max(_least_room(card), (high - low) / 2)
        if not low - room <= value <= high + room:
            return True
    return False


def neighbour_correlation(array: npt.NDArray[np.generic]) -> float:
    """Correlation of neighbouring voxels along the axis where it is highest; about 0 in noise.

    Large scans are judged by their middle slices.
    """
    count = max(2, min(len(array), _NOISE_VOXELS // array[0].size))
    first = (len(array) - count) // 2
    part = np.asarray(array[first : first + count], dtype=np.float64)
    part = part - part.mean()
    highest = -1.0
    for axis, length in enumerate(part.shape):
        if length > 1:
            one, next_ = (part.take(range(start, length - 1 + start), axis) for start in (0, 1))
            norm = float(np.sqrt((one**2).sum() * (next_**2).sum()))
            highest = max(highest, float((one * next_).sum()) / norm if norm else 1.0)
    return highest


def _least_room(card: Card) -> float:
    """How far normalised intensities may lie outside of those of the training scans: a sample, or a handful."""
    training = card.about.get("training", {})
    scans = training.get("labelled_cases", _MANY) + training.get("unlabelled_cases", 0)
    return 0.1 if scans >= _MANY else 0.5


def check_border(
    classes: npt.NDArray[np.uint8], region: Region, geometry: Geometry, axes: Iterable[int]
) -> list[QualityFlag]:
    """Flags for a mask that ends where its region does along one of `axes`."""
    mask = classes > 0
    at_scan, at_region = False, False
    for axis in axes:
        first, last, between = region.cut(mask, axis)
        begins, ends = region.start[axis] == 0, region.stop[axis] == geometry.shape[axis]
        at_scan |= (begins and first > 0) or (ends and last > 0)
        at_region |= between > 0 or (not begins and first > 0) or (not ends and last > 0)
    flags = []
    if at_scan:
        line = "the mask touches the border of the scan; the structure may reach beyond it"
        flags.append(QualityFlag(BORDER, Coded(line, "at-scan-border")))
    if at_region:
        line = "the mask touches the border of the region; a larger ROI may show more of it"
        flags.append(QualityFlag(BORDER, Coded(line, "at-region-border")))
    return flags


def check_volumes(
    classes: npt.NDArray[np.uint8], labels: tuple[Label, ...], geometry: Geometry, card: Card
) -> list[QualityFlag]:
    """Flags for structures that were not found, or whose volume is unlike those of the training labels.

    A wrong kind of scan often looks right to a network, and its mask is the size of something else. The usual volumes
    are in the card, ``about["volume_ml"]``: name -> [least, most].
    """
    voxels = np.bincount(classes.reshape(-1), minlength=len(labels) + 1)[1:].tolist()
    if not any(voxels):
        names = ", ".join(label.name for label in labels)
        were = "was" if len(labels) == 1 else "were"
        line = f"the mask is empty: {names} {were} not found; check the scan and the model"
        return [QualityFlag(EMPTY, Coded(line, "empty-mask", structures=names))]
    usual = card.about.get("volume_ml", {})
    flags = []
    for label, count in zip(labels, voxels, strict=True):
        if not count:
            flags.append(QualityFlag(EMPTY, Coded(f"{label.name} was not found", "not-found", structure=label.name)))
        elif geometry.voxel_ml is not None and label.name in usual:
            ml = count * geometry.voxel_ml
            low, high = usual[label.name]
            if not low / _VOLUME_ROOM <= ml <= high * _VOLUME_ROOM:
                words = Coded(
                    f"the volume of {label.name} ({ml:.3g} mL) is unlike that of the training labels "
                    f"({low:.3g} to {high:.3g} mL); check that it is the right kind of scan",
                    "unlike-volume",
                    structure=label.name,
                    ml=f"{ml:.3g}",
                    low=f"{low:.3g}",
                    high=f"{high:.3g}",
                )
                flags.append(QualityFlag(VOLUME, words))
    return flags
