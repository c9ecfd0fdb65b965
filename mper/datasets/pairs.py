"""Scans with masks beside them: which file is a scan, which a mask, and which belong together.

A file is a mask if a word of its name says so (``case1_seg.nii.gz``, ``scan-label.nrrd``, ``scan.seg.nrrd``), or the
name of its folder does (``labels/case1.nii.gz``, ``masks``, ``derivatives/<pipeline>/sub-01/...`` of BIDS). What is
left of folder and name without those words identifies its scan. Several masks of one scan are one
structure each, and are named by the rest of their names (``case1_LA_mask.nii.gz``); a ``.seg.nrrd`` holds those of its
segments. A known structure alone will do where its scan is there (``case1.nii.gz`` and ``case1_LA.nii.gz``).
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mper.datasets.source import Pair, Source, by_id, file_case, read_mask_values, stem
from mper.labels import BACKGROUND, UNLABELLED, Label, make_label, structure_of, terminology_codes, value_table
from mper.progress import Notify
from mper.provenance import AUTOMATIC, Provenance, program_of
from mper.utils.text import shorten
from mper.volume import Volume

Words = tuple[str, ...]

_MASK = re.compile(
    r"(label|lbl|mask|msk|seg|segm|segmentation|annotation|annot|contour|delineation)s?"
    r"|labelmap|segmented|gt|ground|truth|groundtruth|manual|dseg|reference"
)
_SCAN = re.compile(r"(image|img|scan)s?|raw|enhanced")
_SPLIT = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
    **dict.fromkeys(("val", "validation"), "val"),
}
_ENTITY = re.compile(r"_(?P<key>desc|label|space|res|den|method)-(?P<value>[^_]+)")  # of a BIDS name
_DERIVATIVES = "derivatives"
_UNLABELLED_SEGMENT = "unlabelled"  # of a partly labelled mask, see `mper.io.segmentation`
_TISSUE = "85756007"  # Slicer's code for segments that nobody has named


@dataclass(frozen=True)
class _File:
    """A volume file.

    Parameters
    ----------
    path : Path
    place : tuple of tuple of str
        The words of its folders that distinguish scans.
    words, name : tuple of str
        The words of its name, and those that distinguish scans.
    is_mask, derived : bool
        Whether it is a mask, and whether it lies in BIDS derivatives.
    structure : str or None
        Named by its BIDS entity ``label``.
    """

    path: Path
    place: tuple[Words, ...]
    words: Words
    name: Words
    is_mask: bool
    derived: bool
    structure: str | None


def paired_source(source: Path, files: Sequence[Path]) -> Source | None:
    """The scans among `files` with their masks; None where no file is a mask.

    Raises
    ------
    ValueError
        If two scans would be one case, or there are masks alone.
    """
    known = _with_structures([_file(path, source) for path in files])
    masks = [file for file in known if file.is_mask]
    scans = [file for file in known if not file.is_mask and not file.derived]
    if not masks:
        return None
    if not scans:
        raise ValueError(
            f"{source} holds masks alone ({shorten(file.path.name for file in masks)}); import the folder that holds "
            "their scans, too"
        )
    belonging, left = _pairs(scans, masks)
    belonging, versions = _without_versions(belonging)
    derived = [file.path.name for file in known if file.derived and not file.is_mask]
    notices = [
        f"{shorten(names)} left out: {why}"
        for names, why in (
            ([file.path.name for file in left], "no scan of that name; a mask is named <scan>_seg, or as its scan"),
            (derived, "volumes of derivatives that are no masks"),
        )
        if names
    ]
    notices += versions
    labels, several = _structures(belonging, source)
    ids = _ids(scans, source)
    cases = []
    for scan in scans:
        its = belonging.get(scan.path, [])
        case = file_case(ids[scan.path], scan.path, source, partial(_read, scan.path, its, labels, several))
        cases.append(replace(case, mask=its[0].path, made=_made(its)) if its else case)
    without = [ids[scan.path] for scan in scans if scan.path not in belonging]
    if without:
        notices.append(f"{len(without)} of {len(scans)} scans have no mask: {shorten(without)}")
    return Source(
        "scans with masks",
        by_id(cases),
        labels,
        partial=_are_partial([mask for each in belonging.values() for mask in each]),
        splits=_splits(scans, ids, source),
        notices=tuple(notices),
    )


def masks_of_scans(source: Path, files: Sequence[Path]) -> list[Path]:
    """Those of `files` below `source` that are masks of others of them, by their names."""
    known = _with_structures([_file(path, source) for path in files])
    scans = [file for file in known if not file.is_mask]
    belonging, _ = _pairs(scans, [file for file in known if file.is_mask])
    return [mask.path for masks in belonging.values() for mask in masks]


def _file(path: Path, source: Path) -> _File:
    """The role of a file, from its name and those of its folders."""
    place: list[Words] = []
    says_mask = says_scan = False
    folders = path.relative_to(source).parts[:-1]
    derived = _DERIVATIVES in folders
    if derived:
        at = folders.index(_DERIVATIVES)
        folders = (*folders[:at], *folders[at + 2 :])  # the folder below is that of the program
        says_mask = derived and _is_role(_words(path.relative_to(source).parts[at + 1]), _MASK)
    for folder in folders:
        words = _words(folder)
        if _is_role(words, _MASK):
            says_mask, says_scan = True, False
            words = tuple(word for word in words if not _MASK.fullmatch(word))
        elif _is_role(words, _SCAN):
            says_mask, says_scan = False, True
            words = tuple(word for word in words if not _SCAN.fullmatch(word))
        if words:
            place.append(words)
    name = stem(path)
    entities = {match["key"]: match["value"] for match in _ENTITY.finditer(name)} if name.startswith("sub-") else {}
    name = _ENTITY.sub("", name) if entities else name
    words = _words(name)
    named_mask = any(_MASK.fullmatch(word) for word in words) or path.name.lower().endswith(".seg.nrrd")
    is_mask = says_mask or (named_mask and not says_scan)
    role = _MASK if is_mask else _SCAN
    kept = tuple(word for word in words if not role.fullmatch(word))
    return _File(path, tuple(place), words, kept, is_mask, derived, entities.get("label"))


def _with_structures(files: Sequence[_File]) -> list[_File]:
    """Mark as masks those whose name is that of another file of their folder and a known structure."""
    others: dict[Path, list[_File]] = defaultdict(list)
    for file in files:
        if not file.is_mask:
            others[file.path.parent].append(file)

    def is_structure(file: _File) -> bool:
        scans = [other.words for other in others[file.path.parent] if other is not file]
        ends = (count for count in (1, 2) if file.words[:-count] in scans)
        if len(scans) == 1 and len(file.words) == 1 and not _is_known(scans[0]):  # la.nii.gz and lge.nii.gz
            return _is_known(file.words)
        return any(_is_known(file.words[-count:]) for count in ends)

    return [replace(file, is_mask=file.is_mask or (not file.derived and is_structure(file))) for file in files]


def _is_known(words: Words) -> bool:
    return make_label(1, " ".join(words) or "-").type is not None


def _is_role(words: Words, role: re.Pattern[str]) -> bool:
    """Whether a folder's name says nothing but what lies in it: ``labels``, ``train_masks``, ``labelsTr``."""
    others = [word for word in words if not role.fullmatch(word)]
    return len(others) < len(words) and all(word in _SPLIT or word.isdecimal() for word in others)


def _words(name: str) -> Words:
    """``atriumSegImgMO`` -> atrium, seg, img, mo; ``img0001`` -> img, 0001."""
    parted = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", name)
    return tuple(word.casefold() for word in re.findall(r"[^\W\d_]+|\d+", parted))


def _pairs(scans: Sequence[_File], masks: Sequence[_File]) -> tuple[dict[Path, list[_File]], list[_File]]:
    """The masks of each scan, and those without one."""
    by_place: dict[tuple[Words, ...], list[_File]] = defaultdict(list)
    for scan in scans:
        by_place[scan.place].append(scan)
    belonging: dict[Path, list[_File]] = defaultdict(list)
    left = []
    for mask in masks:
        owner = _scan_of(mask, by_place.get(mask.place, [])) or _scan_below(mask, scans)
        if owner is None:
            left.append(mask)
        else:
            belonging[owner.path].append(mask)
    return dict(belonging), left


def _scan_of(mask: _File, scans: Sequence[_File]) -> _File | None:
    """The scan of the same place with the same words, else with most of them, else the only one there."""
    if len(same := [scan for scan in scans if scan.words == mask.words]) == 1:
        return same[0]
    starts = [scan for scan in scans if mask.name[: len(scan.name)] == scan.name]
    if starts:
        longest = max(len(scan.name) for scan in starts)
        nearest = [scan for scan in starts if len(scan.name) == longest]
        if len(nearest) == 1 and (longest or len(scans) == 1):
            return nearest[0]
    longer = [scan for scan in scans if scan.name[: len(mask.name)] == mask.name and mask.name]
    if len(longer) == 1:
        return longer[0]
    return scans[0] if len(scans) == 1 else None


def _scan_below(mask: _File, scans: Sequence[_File]) -> _File | None:
    """The only scan of the same name in a folder at the side of the masks', whatever that is called."""
    same = [scan for scan in scans if scan.place[:-1] == mask.place != scan.place and scan.words == mask.words]
    return same[0] if len(same) == 1 else None


def _without_versions(belonging: Mapping[Path, Sequence[_File]]) -> tuple[dict[Path, list[_File]], list[str]]:
    """The masks of each scan that are read, and a notice for each that is not.

    Masks of one scan that hold other structures are read together. A segmentation of a structure that another file
    holds, too, is another version; one that a person made, or edited, is read before unedited ones.
    """
    kept: dict[Path, list[_File]] = {}
    notices = []
    for scan, masks in belonging.items():
        kept[scan] = []
        holders: dict[object, _File] = {}
        for mask in sorted(masks, key=lambda mask: _is_unedited(mask.path)):
            each_named = list(_named(mask, scan).items())
            named = {structure_of(_label(1, *each)): each[0] for each in each_named}
            first = next((holders[structure] for structure in named if structure in holders), None)
            if first is not None and (_has_segments(mask.path) or _has_segments(first.path)):
                both = ", ".join(name for structure, name in named.items() if structure in holders)
                notices.append(f"{mask.path.name} left out: {first.path.name} holds {both}, too, and is taken")
                continue
            kept[scan].append(mask)
            holders = dict.fromkeys(named, mask) | holders
    return kept, notices


def _structures(belonging: Mapping[Path, Sequence[_File]], source: Path) -> tuple[tuple[Label, ...], bool]:
    """The labels named by files, segments or a BIDS table, and whether each plain mask is one structure."""
    named: dict[str, str] = {}
    for scan, each in belonging.items():
        for mask in each:
            for name, entry in _named(mask, scan).items():
                named[name] = named.get(name) or entry
    if all(_has_segments(mask.path) for each in belonging.values() for mask in each):
        return tuple(_label(value, *each) for value, each in enumerate(named.items(), start=1)), False
    several = any(len(each) > 1 for each in belonging.values())
    if several or (named and all(_label(1, *each).type is not None for each in named.items())):
        return tuple(_label(value, *each) for value, each in enumerate(sorted(named.items()), start=1)), True
    return _bids_table(source), False


def _named(mask: _File, scan: Path) -> dict[str, str]:
    """The structures that a mask holds, by the names of its segments, with their terminology entries, or by its own."""
    if _has_segments(mask.path):
        tags = _segments(mask.path)
        return {name: tags[name].get("TerminologyEntry", "") for name in tags if name != _UNLABELLED_SEGMENT}
    return {_structure_name(mask, scan): ""}


def _structure_name(mask: _File, scan: Path) -> str:
    """What the name of a mask adds to that of its scan: ``case1_LA_mask.nii.gz`` -> LA."""
    if mask.structure:
        return mask.structure
    words = re.findall(r"[^\W_]+", stem(mask.path))
    there = Counter(word.casefold() for word in re.findall(r"[^\W_]+", stem(scan)))
    rest = []
    for word in words:
        if there[word.casefold()]:
            there[word.casefold()] -= 1
        elif not _MASK.fullmatch(word.casefold()):
            rest.append(word)
    return " ".join(rest) or "structure"


def _are_partial(masks: Sequence[_File]) -> bool:
    """Whether all masks have segments, and one of them a segment of unlabelled voxels."""
    found = [_segments(mask.path) if _has_segments(mask.path) else {} for mask in masks]
    return all(found) and any(_UNLABELLED_SEGMENT in each for each in found)


def _has_segments(path: Path) -> bool:
    """Whether it is a ``.seg.nrrd`` with named segments; other programs write plain masks under such names."""
    return path.name.lower().endswith(".seg.nrrd") and bool(_segments(path))


def _is_unedited(path: Path) -> bool:
    made = program_of(_provenances(path))
    return made is not None and made.type == AUTOMATIC


def _made(masks: Iterable[_File]) -> Provenance | None:
    """How the label of these masks was made, as far as they say that a program took part; see `program_of`."""
    return program_of(made for mask in masks for made in _provenances(mask.path))


def _provenances(path: Path) -> list[Provenance | None]:
    """How each segment of a mask was made; a plain mask does not say it."""
    if not path.name.lower().endswith(".seg.nrrd"):
        return [None]
    return [Provenance.from_tags(tags) for name, tags in _segments(path).items() if name != _UNLABELLED_SEGMENT]


def _segments(path: Path) -> dict[str, dict[str, str]]:
    """The names of the segments in a ``.seg.nrrd`` with their tags, from its header alone."""
    fields = {}
    with path.open("rb") as stream:
        for line in stream:
            if not line.strip():
                break
            key, _separator, text = line.decode("utf-8", errors="replace").strip().partition(":=")
            fields[key] = text
    numbers = sorted(int(match[1]) for key in fields if (match := re.fullmatch(r"Segment(\d+)_Name", key)))
    found = {}
    for number in numbers:
        tags = dict(tag.split(":", 1) for tag in fields.get(f"Segment{number}_Tags", "").split("|") if ":" in tag)
        found[fields[f"Segment{number}_Name"]] = tags
    return found


def _label(value: int, name: str, entry: str) -> Label:
    """The label of a segment; one whose name says nothing has the codes of its terminology entry."""
    label = make_label(value, name)
    category, type_, *_others = terminology_codes(entry)
    if label.type is not None or category is None or type_ is None or type_.value == _TISSUE:
        return label
    return replace(label, category=category, type=type_)


def _bids_table(source: Path) -> tuple[Label, ...]:
    """The labels of a BIDS table (``*dseg.tsv``: index, name), where there is one."""
    for path in sorted(source.rglob("*dseg.tsv")):
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        try:
            named = {int(row["index"]): row["name"].strip() for row in rows}
            return tuple(make_label(value, name) for value, name in named.items() if value != BACKGROUND)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no table of labels with the columns index and name ({error})") from error
    return ()


def _ids(scans: Sequence[_File], source: Path) -> dict[Path, str]:
    """A case id for each scan: its name without words such as ``image``, with its folder where that is needed."""
    pattern = re.compile(rf"(?:^|[\W_]+)(?:{_SCAN.pattern})(?=$|[\W_])", re.IGNORECASE)
    short = {}
    for scan in scans:
        folders = [name for name in scan.path.relative_to(source).parts[:-1] if not _is_role(_words(name), _SCAN)]
        name = pattern.sub("", stem(scan.path)).strip(" _-.")
        short[scan.path] = (name or (folders[-1] if folders else stem(scan.path)), folders)
    counts = Counter(name.casefold() for name, _ in short.values())
    return {
        path: "-".join([*folders[-1:], name]) if counts[name.casefold()] > 1 else name
        for path, (name, folders) in short.items()
    }


def _splits(scans: Sequence[_File], ids: Mapping[Path, str], source: Path) -> dict[str, tuple[str, ...]]:
    """Splits by folders such as ``train`` and ``test``, where every scan lies in one of them."""
    splits: dict[str, list[str]] = defaultdict(list)
    for scan in scans:
        words = [word for folder in scan.path.relative_to(source).parts[:-1] for word in _words(folder)]
        split = next((_SPLIT[word] for word in words if word in _SPLIT), None)
        if split is None:
            return {}
        splits[split].append(ids[scan.path])
    return {name: tuple(cases) for name, cases in splits.items()} if len(splits) > 1 else {}


def _read(image: Path, masks: Iterable[_File], labels: tuple[Label, ...], several: bool, notify: Notify) -> Pair:
    """Image and mask, in the values of `labels`; each plain mask is one structure where there are `several`."""
    from mper.io import read_volume

    volume = read_volume(image, notify=notify)
    merged = None
    for mask in masks:
        label = _read_mask(mask, image, labels, several, notify)
        merged = label if merged is None else _merged(merged, label, mask.path)
    return volume, merged


def _read_mask(mask: _File, image: Path, labels: tuple[Label, ...], several: bool, notify: Notify) -> Volume:
    from mper.io import read_segmentation

    if _has_segments(mask.path):
        segmentation = read_segmentation(mask.path, notify)
        table, missing = value_table(segmentation.labels, labels, segmentation.labelmap.array)
        if missing:
            raise ValueError(f"{mask.path} holds {', '.join(missing)}, which other masks do not have")
        return segmentation.labelmap.with_array(table[segmentation.labelmap.array])
    label = read_mask_values(mask.path, notify)
    if not several:
        return label
    name = _structure_name(mask, image)
    inside = label.array != BACKGROUND
    values = np.unique(label.array[inside]).tolist()
    if len(values) > 1:
        raise ValueError(f"{mask.path} holds the values {values}, but a mask of {name!r} alone holds one")
    number = {label.name: label.value for label in labels}[name]
    return label.with_array(np.where(inside, number, BACKGROUND).astype(np.uint8))


def _merged(merged: Volume, label: Volume, path: Path) -> Volume:
    """Both masks as one; what one of them has as a structure is that, whatever the other says."""
    if not label.geometry.is_close(merged.geometry):
        raise ValueError(f"{path} lies on another grid than the other masks of its scan")
    drawn, before = (~np.isin(each.array, (BACKGROUND, UNLABELLED)) for each in (label, merged))
    if common := int(np.count_nonzero(drawn & before)):
        raise ValueError(
            f"{path} overlaps the other masks of its scan in {common} voxels, but a voxel has one label; "
            "keep one mask for each scan"
        )
    return merged.with_array(np.where(drawn | (merged.array == BACKGROUND), label.array, merged.array))


__all__ = ["masks_of_scans", "paired_source"]
