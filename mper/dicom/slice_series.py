"""Slices that were scanned as series of their own, one breath hold each, put together as one stack.

Short-axis cines and 2-D late enhancement often come so: ten series of one position. A series alone is a single slice,
so they are taken as one scan where they have everything in common but their place, and lie evenly along one line.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from mper.dicom.frames import Frame, frames_of
from mper.dicom.headers import Header
from mper.dicom.stack import at_one_position, stack_geometry

_SAME_POSITION_MM = 1e-2
_FEWEST = 3  # series; two slices may be anything


def slice_stacks(series: Sequence[Sequence[Header]]) -> list[list[int]]:
    """Which of the series, by index, are the slices of one stack; each stack in the order of its slices."""
    groups: dict[Hashable, dict[int, Frame]] = {}
    for index, headers in enumerate(series):
        frame = _slice_of(headers)
        if frame is not None:
            groups.setdefault(_key(frame, len(headers)), {})[index] = frame
    return [order for frames in groups.values() if len(order := _in_order(frames)) >= _FEWEST]


def _slice_of(headers: Sequence[Header]) -> Frame | None:
    """An image of a series whose images are all in one place; None for other series."""
    if any(header.damage or header.dataset.get("PerFrameFunctionalGroupsSequence") for header in headers):
        return None
    try:
        first, *others = (frame for header in headers for frame in frames_of(header))
    except ValueError:  # reported when the series is read
        return None
    apart = (
        np.abs(frame.position - first.position).max() > _SAME_POSITION_MM
        or np.abs(frame.orientation - first.orientation).max() > 1e-3
        for frame in others
    )
    return None if first.localiser or any(apart) else first


def _key(frame: Frame, images: int) -> Hashable:
    """What the slices of one stack have in common."""
    dataset = frame.header.dataset
    return (
        images,
        *(
            str(dataset.get(name))
            for name in ("StudyInstanceUID", "FrameOfReferenceUID", "Modality", "Rows", "Columns")
        ),
        *np.round(frame.spacing, 4).tolist(),
        *np.round(frame.orientation, 3).reshape(-1).tolist(),
    )


def _in_order(frames: dict[int, Frame]) -> list[int]:
    """The indices sorted along the normal; empty unless the frames are evenly spaced."""
    first = next(iter(frames.values()))
    if not str(first.header.dataset.get("FrameOfReferenceUID") or "").strip() or len(frames) < _FEWEST:
        return []
    normal = np.cross(*first.orientation)
    order = sorted(frames, key=lambda index: float(frames[index].position @ normal))
    stack = [frames[index] for index in order]
    try:
        stack_geometry(stack, normal)
    except ValueError:
        return []
    return order if len(at_one_position(stack, normal)) == len(stack) else []
