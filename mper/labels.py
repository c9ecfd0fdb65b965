"""Labels: names, colours and codes of the values of a mask, and a mask with its labels.

In a label array 0 is background and 255 is unlabelled: ignored by every loss and metric, never
background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mper.provenance import Provenance
from mper.utils.coded import Coded
from mper.volume import Volume

BACKGROUND = 0
UNLABELLED = 255


@dataclass(frozen=True)
class Code:
    """A coded concept, as DICOM writes it: coding scheme, value, meaning."""

    scheme: str
    value: str
    meaning: str


ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
TISSUE = Code("SCT", "85756007", "Tissue")


@dataclass(frozen=True)
class Label:
    """One structure of a mask.

    Parameters
    ----------
    value : int
        Its number in the label array, 1 to 254.
    name : str
        Short name that people see, unique within a mask.
    category, type : Code or None
        DICOM segmented property category and type; None where unknown (never guessed).
    colour : (int, int, int)
        RGB, 0 to 255 each.
    modifier, region, region_modifier : Code or None
        Modifier of the type (Right), and the anatomic region with its modifier, where known.
    """

    value: int
    name: str
    category: Code | None = None
    type: Code | None = None
    colour: tuple[int, int, int] = (128, 174, 128)
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None

    def __post_init__(self) -> None:
        if not BACKGROUND < self.value < UNLABELLED:
            raise ValueError(
                f"label value {self.value} of {self.name!r} is outside 1..254 (0 is background, 255 unlabelled)"
            )
        if not self.name or self.name != self.name.strip():
            raise ValueError(f"a label needs a name without surrounding blanks, got {self.name!r}")
        if len(self.colour) != 3 or not all(0 <= c <= 255 for c in self.colour):
            raise ValueError(f"the colour of {self.name!r} must be three numbers in 0..255, got {self.colour}")


def label_from_dict(entry: Mapping[str, Any]) -> Label:
    """The label that `dataclasses.asdict` turned into a dictionary."""
    category, type_, *narrower = (
        Code(**entry[key]) if entry.get(key) else None
        for key in ("category", "type", "modifier", "region", "region_modifier")
    )
    red, green, blue = entry["colour"]
    return Label(entry["value"], entry["name"], category, type_, (red, green, blue), *narrower)


def value_table(
    source: Sequence[Label], target: Sequence[Label], mask: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """A lookup table from the values of `source` to those of `target`, by `matching_labels`, for a mask.

    Returns
    -------
    table : (256,) uint8 array
        ``table[mask]`` is the mask in the values of `target`; 255 stays, what has no match becomes background.
    missing : list of str
        The names of `source` that `target` does not have.

    Raises
    ------
    ValueError
        If two structures in the mask would become one.
    """
    match = matching_labels(source, target)
    held = set(np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256)).tolist())
    if one := set(sharing(match, held)):
        raise ValueError(become_one([label.name for label in source if label.value in one]))
    table = np.zeros(256, np.uint8)
    table[UNLABELLED] = UNLABELLED
    for label in source:
        table[label.value] = match.get(label.value, BACKGROUND)
    return table, [label.name for label in source if label.value not in match]


def matching_labels(source: Sequence[Label], target: Sequence[Label]) -> dict[int, int]:
    """The values of `target` by those of `source` that mean the same structure.

    Matched by name in any case, else by codes, else by what the name says: ``left atrium`` and ``LA (Left atrium)`` are
    the structure LA, ``LA (wall)`` is another one. A label that could be several of `target` has no match.
    """
    match: dict[int, int] = {}
    for label in source:
        for same in (
            [other for other in target if other.name.casefold() == label.name.casefold()],
            [other for other in target if label.type and structure_of(other) == structure_of(label)],
            [other for other in target if _called(other) & _called(label)],
        ):
            if len(same) == 1:
                match[label.value] = same[0].value
            if same:
                break
    return match


def sharing(match: Mapping[int, int], held: Iterable[int]) -> list[int]:
    """Those of the values `held` whose structure in `match` is also that of another of them."""
    found = [(value, match[value]) for value in held if match.get(value, BACKGROUND) != BACKGROUND]
    times = Counter(structure for _, structure in found)
    return [value for value, structure in found if times[structure] > 1]


def become_one(names: Sequence[str]) -> Coded:
    """That structures of a mask, which are several, would become one."""
    listed = ", ".join(names)
    line = f"{listed} of the mask would become one structure of the dataset; rename one of them, or merge them first"
    return Coded(line, "structures-become-one", structures=listed)


def _called(label: Label) -> set[str]:
    """What a structure may be called: its name, the meaning of its code, and both names of ``name (same name)``."""
    before, _, inside = (part.strip() for part in label.name.removesuffix(")").partition("("))
    meant = [_meaning(part) for part in (before, inside)]
    names = [label.name, before, inside] if before and meant[0] == meant[1] else [label.name]
    return {name.casefold() for name in names} | {_meaning(name) for name in names} | {_meaning(label.name, label.type)}


def _meaning(name: str, code: Code | None = None) -> str:
    """The meaning of a code, by default of that of a known structure; else the name itself."""
    known = code or make_label(1, name or "-").type
    return known.meaning.casefold() if known else name.casefold()


MASTER_TERMINOLOGY = "Segmentation category and type - DICOM master list"
_REGION_TERMINOLOGY = "Anatomic codes - DICOM master list"


def terminology_entry(label: Label, context: str = MASTER_TERMINOLOGY) -> str:
    """The codes of a label as one text, as Slicer keeps them with a segment (vtkSlicerTerminologiesModuleLogic).

    `context` names the list in which Slicer looks the codes up.
    """
    codes = (label.category, label.type, label.modifier, label.region, label.region_modifier)
    texts = [f"{code.scheme}^{code.value}^{code.meaning}" if code else "^^" for code in codes]
    return "~".join([context, *texts[:3], _REGION_TERMINOLOGY, *texts[3:]])


def terminology_codes(entry: str) -> list[Code | None]:
    """Category, type, modifier, region and its modifier of a terminology entry, None where it says none."""
    parts = [*entry.split("~"), *[""] * 7]
    triples = [parts[n].split("^") for n in (1, 2, 3, 5, 6)]
    return [Code(*texts) if len(texts) == 3 and all(texts) else None for texts in triples]


def structure_of(label: Label) -> object:
    """The structure of a label, whatever its name and value: its codes, or its name where it has none."""
    if label.type is None:
        return label.name.casefold()
    return label.type, label.modifier, label.region, label.region_modifier


def same_structures(some: Sequence[Label], others: Sequence[Label]) -> bool:
    """Whether two lists of labels mean the same structures in the same order."""
    return [structure_of(label) for label in some] == [structure_of(label) for label in others]


def _anatomy(value: str, meaning: str, colour: tuple[int, int, int]) -> tuple[Code, Code, tuple[int, int, int]]:
    return ANATOMICAL_STRUCTURE, Code("SCT", value, meaning), colour


# SNOMED CT codes as in DICOM PS3.16. Slicer's anatomical table has all chambers in brown; here only the left atrium
# keeps its colour there, so that the others can be distinguished.
_KNOWN = {
    "LA": _anatomy("82471001", "Left atrium", (203, 108, 81)),
    "RA": _anatomy("73829009", "Right atrium", (130, 165, 220)),
    "LV": _anatomy("87878005", "Left ventricle", (190, 40, 48)),
    "RV": _anatomy("53085002", "Right ventricle", (62, 108, 178)),
    "MYO": _anatomy("74281007", "Myocardium", (230, 188, 92)),
    "LAA": _anatomy("33626005", "Left atrial appendage", (221, 140, 110)),
    "PV": _anatomy("122972007", "Pulmonary vein", (186, 77, 64)),
    "Heart": _anatomy("80891009", "Heart", (206, 110, 84)),
    "Scar": (TISSUE, Code("SCT", "12402003", "Scar"), (255, 205, 60)),
}
_PALETTE = (
    (128, 174, 128),
    (241, 214, 145),
    (177, 122, 101),
    (111, 184, 210),
    (216, 101, 79),
    (221, 130, 101),
    (144, 238, 144),
)


def make_label(value: int, name: str) -> Label:
    """A label by name: known structures (LA, RA, LV, RV, MYO, LAA, PV, Heart, Scar) get their codes.

    The short name or the code's meaning is recognised in any case; other names get a colour of a
    small palette and no code.
    """
    for short, (category, type_, colour) in _KNOWN.items():
        if name.casefold() in (short.casefold(), type_.meaning.casefold()):
            return Label(value, name, category, type_, colour)
    return Label(value, name, colour=_PALETTE[(value - 1) % len(_PALETTE)])


_PROTOTYPE_COLOURS = (
    (255, 190, 92),
    (240, 98, 86),
    (190, 96, 214),
    (64, 196, 180),
    (84, 160, 255),
    (126, 110, 235),
    (190, 220, 90),
    (90, 190, 110),
    (232, 140, 190),
)
_BACKGROUND_COLOURS = ((86, 104, 140), (70, 96, 96), (116, 100, 126))


def prototype_labels(labels: Sequence[Label], per_class: int) -> tuple[Label, ...]:
    """Names and colours for a prototype map, in which 1 + class * `per_class` + k is prototype k of a class.

    Class 0 is background and has quiet colours; those of the structures are bright and repeat after nine.
    """
    names = ["background", *(label.name for label in labels)]
    made = []
    for value in range(1, 1 + len(names) * per_class):
        number, k = divmod(value - 1, per_class)
        palette = _PROTOTYPE_COLOURS if number else _BACKGROUND_COLOURS
        colour = palette[(value - 1 - per_class * (number > 0)) % len(palette)]
        made.append(Label(value, f"{names[number]} {k + 1}", colour=colour))
    return tuple(made)


def check_labels(labels: Sequence[Label]) -> tuple[Label, ...]:
    """`labels` sorted by value.

    Raises
    ------
    ValueError
        If there is none, or two share a value or a name.
    """
    if not labels:
        raise ValueError("at least one label is needed")
    for key in ("value", "name"):
        seen = [getattr(label, key) for label in labels]
        twice = sorted({str(v) for v in seen if seen.count(v) > 1})
        if twice:
            raise ValueError(f"two labels share the {key} {', '.join(twice)}; each needs its own")
    return tuple(sorted(labels, key=lambda label: label.value))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A mask with its labels.

    Parameters
    ----------
    labelmap : Volume
        uint8; 0 background, 255 unlabelled, every other value one of `labels`.
    labels : tuple of Label
        Sorted by value; a label may be absent from the labelmap.
    provenance : mapping of int to Provenance
        How each label's voxels were made, by its value; without an entry it is unknown.

    Raises
    ------
    ValueError
        If the array is not uint8 or holds a value that no label names.
    """

    labelmap: Volume
    labels: tuple[Label, ...]
    provenance: Mapping[int, Provenance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))
        array = self.labelmap.array
        if array.dtype != np.uint8:
            raise ValueError(f"a labelmap is uint8, got {array.dtype}")
        known = {BACKGROUND, UNLABELLED} | {label.value for label in self.labels}
        present = np.flatnonzero(np.bincount(array.reshape(-1), minlength=256))
        unknown = sorted(set(present.tolist()) - known)
        if unknown:
            raise ValueError(f"the mask holds values {unknown} that no label names; known are {sorted(known)}")

    def __repr__(self) -> str:
        names = ", ".join(f"{label.value} {label.name}" for label in self.labels)
        return f"Segmentation({names}; {self.labelmap.geometry.describe()})"

    def volumes_ml(self) -> dict[str, float | None]:
        """Size of each structure by its name, None where the spacing is unknown."""
        voxel_ml = self.labelmap.geometry.voxel_ml
        counts = np.bincount(self.labelmap.array.reshape(-1), minlength=256)
        return {label.name: None if voxel_ml is None else int(counts[label.value]) * voxel_ml for label in self.labels}
