"""Several images at each position of a series: image types (magnitude, phase, echoes) and phases of a time series.

Images at one position belong to different types where their ImageType (FrameType), echo time or b-value differs.
Within a type they are phases where one attribute tells them apart at every position, equally often: the n-th by that
attribute at each position makes phase n. Slices are scanned in breath holds of their own, so that the trigger times of
one phase differ a little from slice to slice; the time of a phase is their median.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mper.dicom.frames import Frame
from mper.dicom.stack import at_one_position, without_duplicates
from mper.phases import Phases
from mper.progress import Notify
from mper.utils.coded import Coded

_IN_MS = ("TriggerTime", "NominalCardiacTriggerDelayTime")  # after the R wave
# What tells phases apart, the most telling first.
_ORDER = (
    *_IN_MS,
    *("TemporalPositionTimeOffset", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    *("NominalPercentageOfCardiacPhase", "FrameReferenceDateTime", "FrameAcquisitionDateTime"),
    *("AcquisitionDateTime", "AcquisitionTime", "ContentTime", "AcquisitionNumber", "InstanceNumber"),
)
_END_DIASTOLE, _END_SYSTOLE = "END_DIASTOLE", "END_SYSTOLE"


@dataclass(frozen=True, eq=False)
class ImageType:
    """The images of one type.

    Parameters
    ----------
    words : tuple of str
        All that the type consists of.
    name : str
        What tells it apart from the other types of the series.
    frames : tuple of Frame
    """

    words: tuple[str, ...]
    name: str
    frames: tuple[Frame, ...]


def select_type(frames: Sequence[Frame], normal: npt.NDArray[np.float64], wanted: str | None) -> list[Frame]:
    """The images of the type that is asked for, or of the only one.

    Parameters
    ----------
    frames : sequence of Frame
        Sorted along the normal.
    normal : (3,) floats
    wanted : str or None
        Words of a type, in any case, with backslashes, slashes or commas between them.

    Raises
    ------
    ValueError
        If there are several types and none is named, or the name stands for none or several of them.
    """
    types = types_of(frames, normal)
    if wanted is None:
        if len(types) > 1:
            raise ValueError(
                Coded(
                    f"it holds {_listed(types)}; choose one with --image-type NAME, as in {_example(types)}",
                    "several-types",
                    types=_listed(types),
                )
            )
        return list(frames)
    if len(types) == 1:
        if not set(_words(wanted)) <= {word for frame in frames for word in _words("\\".join(frame.image_type))}:
            raise ValueError(f"it holds no images of the type {wanted!r}, only {_whole(types[0].words)}")
        return list(frames)
    exact = [one for one in types if _words(wanted) in (_words(one.name), _words(_whole(one.words)))]
    matching = exact or [one for one in types if set(_words(wanted)) <= set(_words(_whole(one.words)))]
    if len(matching) != 1:
        count = "several image types" if matching else "no image type"
        raise ValueError(f"{wanted!r} is {count} of the series: it holds {_listed(types)}")
    return list(matching[0].frames)


def split_phases(
    frames: Sequence[Frame], normal: npt.NDArray[np.float64], notify: Notify
) -> tuple[Phases, list[list[Frame]]]:
    """The images of each phase, sorted along the normal and each position once.

    Raises
    ------
    ValueError
        If several different images at one position are no phases.
    """
    groups = at_one_position(frames, normal)
    attribute = next((name for name in _ORDER if _tells_apart(name, groups)), None)
    if attribute is None:
        return Phases(), [without_duplicates(frames, normal, notify)]
    ordered = [sorted(set(values), key=_sortable(values)) for values in ([f.get(attribute) for f in g] for g in groups)]
    phases = []
    for number in range(len(ordered[0])):
        stack = [
            frame
            for group, values in zip(groups, ordered, strict=True)
            for frame in group
            if frame.get(attribute) == values[number]
        ]
        phases.append(without_duplicates(stack, normal, notify))
    times: tuple[float, ...] = ()
    if attribute in _IN_MS:
        times = tuple(float(np.median([float(str(values[n])) for values in ordered])) for n in range(len(phases)))
    return Phases(len(phases), times, _marked(phases, _END_DIASTOLE), _marked(phases, _END_SYSTOLE), attribute), phases


def types_of(frames: Sequence[Frame], normal: npt.NDArray[np.float64]) -> list[ImageType]:
    """The types of which there are several at one position; all images as one type where that is nowhere so."""
    groups = at_one_position(frames, normal)
    several = [group for group in groups if len(group) > 1]
    if all(len({frame.image_type for frame in group}) == 1 for group in several):
        return [ImageType(frames[0].image_type, "", tuple(frames))]
    words = {frame: frame.image_type for frame in frames}
    by_words: dict[tuple[str, ...], list[Frame]] = {}
    for frame in frames:
        by_words.setdefault(words[frame], []).append(frame)
    shared = set.intersection(*(set(one) for one in by_words))
    return [
        ImageType(one, "\\".join(word for word in one if word not in shared) or _whole(one), tuple(those))
        for one, those in by_words.items()
    ]


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\\/,\s]+", text.upper()) if word]


def _whole(words: Sequence[str]) -> str:
    return "\\".join(words) or "(none)"


def _listed(types: Sequence[ImageType]) -> str:
    return f"{len(types)} image types: " + ", ".join(f"{one.name} ({len(one.frames)} images)" for one in types)


def _example(types: Sequence[ImageType]) -> str:
    return f"--image-type {types[0].name}"


def _tells_apart(attribute: str, groups: Sequence[Sequence[Frame]]) -> bool:
    """Whether each position holds as many values of the attribute as every other, and more than one."""
    counts = set()
    for group in groups:
        values = [frame.get(attribute) for frame in group]
        if len(values) < 2 or any(value is None for value in values):
            return False
        counts.add(len(set(values)))
    return len(counts) == 1 and counts != {1}


def _sortable(values: Sequence[object]):  # type: ignore[no-untyped-def]
    """A key that sorts numbers (times of day are) as numbers, and all else as text."""
    try:
        [float(str(value)) for value in values]
    except ValueError:
        return str
    return lambda value: float(str(value))


def _marked(phases: Sequence[Sequence[Frame]], position: str) -> int | None:
    """The phase whose images say that they are at that position of the cardiac cycle, if it is one."""
    marked = [
        number
        for number, frames in enumerate(phases, 1)
        if any(str(frame.get("CardiacCyclePosition")) == position for frame in frames)
    ]
    return marked[0] if len(marked) == 1 else None
