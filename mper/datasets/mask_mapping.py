"""Which structures of a dataset the values of a mask mean: suggested by code and name, or chosen by a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mper.datasets.source import Source
from mper.labels import BACKGROUND, UNLABELLED, Label, matching_labels, sharing
from mper.volume import Volume


@dataclass(frozen=True)
class MaskValue:
    """A value that a mask holds.

    value, voxels : the value and how many voxels have it; name, meaning : as the source says, may be empty; structure :
    the value of the dataset's structure that it seems to mean, 0 for none of them, None where a person must say.
    """

    value: int
    voxels: int
    name: str
    meaning: str
    structure: int | None


def mask_values(mask: Volume, source: Source, wanted: Sequence[Label]) -> list[MaskValue]:
    """The values of a mask of `source`, without background and unlabelled voxels, and the structures they seem to mean.

    Values with names are matched with the structures `wanted` by `matching_labels`; a person must say what those are of
    which several seem to mean one structure. Values without names are taken as they are if all of them are values of
    the structures. A mask of 0 and 255 is one of 0 and 1.
    """
    values, counts = np.unique(mask.array, return_counts=True)
    held = dict(zip(values.tolist(), counts.tolist(), strict=True))
    held.pop(BACKGROUND, None)
    if source.partial or set(held) != {UNLABELLED}:
        held.pop(UNLABELLED, None)
    named = {label.value: label for label in source.labels}
    match = matching_labels(source.labels, wanted)
    known = {label.value for label in wanted}
    one = sharing(match, held)
    if set(held) == {UNLABELLED}:
        only = source.labels if source.labels else wanted
        if len(only) == 1:
            named = {UNLABELLED: only[0]}
            match = {UNLABELLED: matching_labels(only, wanted).get(only[0].value, BACKGROUND)}
    found = []
    for value, count in held.items():
        label = named.get(value)
        if label is not None:
            structure: int | None = None if value in one else match.get(value, BACKGROUND)
        elif source.labels:
            structure = None
        else:
            structure = value if set(held) <= known else None
        meaning = label.type.meaning if label is not None and label.type is not None else ""
        found.append(MaskValue(value, count, label.name if label is not None else "", meaning, structure))
    return found


def with_structures(mask: Volume, structures: Mapping[int, int]) -> Volume:
    """The mask with the values of the dataset's structures; a value that is not in `structures` becomes background.

    Unlabelled voxels stay, unless `structures` says what 255 means.
    """
    table = np.zeros(256, np.uint8)
    table[UNLABELLED] = UNLABELLED
    for value, structure in structures.items():
        table[value] = structure
    return Volume(table[mask.array.astype(np.uint8)], mask.geometry)
