"""A dataset in the layouts of other programs, with ``mper-export.json``, by which `mper import` gets all of it back.

==========  ==================================================  ===========================================
layout      scans                                               labels
==========  ==================================================  ===========================================
``nnunet``  imagesTr/<case>_0000.nii.gz, imagesTs               labelsTr/<case>.nii.gz, labelsTs, values 1 to N
``msd``     imagesTr/<case>.nii.gz, imagesTs                    labelsTr/<case>.nii.gz, labelsTs
``bids``    sub-<case>/anat/sub-<case>_<suffix>.nii.gz          derivatives/mper/sub-<case>/anat/..._dseg.nii.gz
==========  ==================================================  ===========================================

The newest label of each case is written. A program that trains on the folder finds neither the hold-out, and cases that
show a scan of it, nor cases without a label among those to train on: they are in imagesTs, and named in
participants.tsv of BIDS.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.datasets.scan_record import geometry_to_dict, voxels_sha256
from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.progress import Notify, Progress, Report, ignore_notice, ignore_progress
from mper.utils.files import rename_folder, temporary_sibling, write_json, write_text
from mper.utils.text import shorten

RECORD = "mper-export.json"
FORMAT, VERSION = "mper-export", 1
LAYOUTS = {"nnunet": "nnU-Net raw", "bids": "BIDS", "msd": "Medical Segmentation Decathlon"}
_ENDING = ".nii.gz"
_DERIVATIVE = "derivatives/mper"


@dataclass(frozen=True)
class ExportOptions:
    """How a dataset is exported.

    Parameters
    ----------
    layout : str
        Of `LAYOUTS`.
    modality : str
        Named in dataset.json; nnU-Net normalises ``CT`` by a window, all else by mean and deviation.
    suffix : str
        Of the scans' names in BIDS.
    """

    layout: str
    modality: str = "MRI"
    suffix: str = "T1w"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"unknown layout {self.layout!r}; known are {', '.join(LAYOUTS)}")
        if not re.fullmatch(r"[A-Za-z0-9]+", self.suffix):
            raise ValueError(f"the suffix {self.suffix!r} is not letters and digits; write it as T1w")


@dataclass(frozen=True)
class ExportSummary:
    """What was exported: numbers of cases, of those with a label to train on, of the hold-out, without a label."""

    cases: int
    training: int
    held_out: int
    unlabelled: int


@dataclass(frozen=True)
class _Place:
    """A case and the files that it becomes, relative to the folder."""

    case: Case
    image: str
    label: str
    labelled: bool
    held_out: bool

    @property
    def trains(self) -> bool:
        return self.labelled and not self.held_out


def export_dataset(
    dataset: Dataset,
    out: Path,
    options: ExportOptions,
    report: Report = ignore_progress,
    notify: Notify = ignore_notice,
) -> ExportSummary:
    """Write a dataset into a new folder: all of it, or nothing.

    Raises
    ------
    FileExistsError
        If `out` holds anything.
    ValueError
        If the dataset has no case.
    OSError
        If it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty; choose a new or empty folder for the export")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist; create it first")
    places = _places(dataset, options, notify)
    unfinished = temporary_sibling(out)
    unfinished.mkdir()
    try:
        summary = _write(dataset, places, unfinished, options, report)
        if out.exists():
            out.rmdir()
        if not rename_folder(unfinished, out):
            raise FileExistsError(f"{out} has been made by another program meanwhile; choose another folder")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return summary


def _places(dataset: Dataset, options: ExportOptions, notify: Notify) -> list[_Place]:
    excluded = dataset.history.excluded
    ids = [case_id for case_id in dataset.cases if case_id not in excluded]
    if not ids:
        raise ValueError(f"dataset {dataset.name!r} has no case to export; import some first")
    if excluded:
        notify(f"{len(excluded)} excluded cases are left out: {shorten(sorted(excluded))}")
    copies = [case_id for case_id in dataset.held_out_copies() if case_id not in excluded]
    if copies:
        notify(f"{len(copies)} cases show the scan of a held-out one, and are exported as held out: {shorten(copies)}")
    held = {*dataset.held_out, *copies}
    names = _subjects(ids) if options.layout == "bids" else {case_id: case_id for case_id in ids}
    places = []
    for case_id in ids:
        case, name = dataset.case(case_id), names[case_id]
        labelled = case.is_labelled
        if options.layout == "bids":
            image = f"sub-{name}/anat/sub-{name}_{options.suffix}{_ENDING}"
            label = f"{_DERIVATIVE}/sub-{name}/anat/sub-{name}_dseg{_ENDING}"
        else:
            part = "Tr" if labelled and case_id not in held else "Ts"
            channel = "_0000" if options.layout == "nnunet" else ""
            image, label = f"images{part}/{name}{channel}{_ENDING}", f"labels{part}/{name}{_ENDING}"
        places.append(_Place(case, image, label, labelled, case_id in held))
    if drafts := [place.case.id for place in places if place.case.is_draft]:
        notify(f"{len(drafts)} labels are drafts of a model, which other programs take for labels: {shorten(drafts)}")
    return places


def _subjects(ids: Sequence[str]) -> dict[str, str]:
    """A BIDS label, of letters and digits alone, for each case."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case_id in ids:
        base = re.sub(r"[^A-Za-z0-9]", "", case_id) or "case"
        name, number = base, 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}x{number}"
        taken.add(name.casefold())
        names[case_id] = name
    return names


def _write(
    dataset: Dataset, places: Sequence[_Place], folder: Path, options: ExportOptions, report: Report
) -> ExportSummary:
    values = _values(dataset.labels, options.layout)
    table = np.zeros(256, np.uint8)
    for ours, theirs in values.items():
        table[ours] = theirs
    partial = False
    entries = []
    for n, place in enumerate(places):
        report(Progress(f"{place.case.id} ({n + 1} of {len(places)})", n / len(places)))
        entry, is_partial = _write_case(place, folder, table)
        partial |= is_partial
        entries.append(entry)
    regions = dataset.regions
    for entry in entries:
        entry["region_mm"] = regions.get(entry["id"])
    index = dataset.index
    write_json(
        folder / RECORD,
        {
            "format": FORMAT,
            "version": VERSION,
            "layout": options.layout,
            "name": dataset.name,
            "labels": [asdict(label) for label in dataset.labels],
            "values": {str(ours): theirs for ours, theirs in values.items()},
            "splits": {name: list(ids) for name, ids in index.splits.items()},
            "holdout": index.holdout,
            "second_holdout": list(index.second),
            "cases": entries,
        },
    )
    describe: Callable[[_Described, Path], None] = {"nnunet": _nnunet, "msd": _msd, "bids": _bids}[options.layout]
    describe(_Described(dataset, places, options, values, partial), folder)
    report(Progress(f"{len(places)} cases", 1.0))
    return ExportSummary(
        len(places),
        sum(place.trains for place in places),
        sum(place.held_out for place in places),
        sum(not place.labelled for place in places),
    )


def _values(labels: Sequence[Label], layout: str) -> dict[int, int]:
    """The value in the written masks of each of ours; nnU-Net's are consecutive, and what it ignores is the last."""
    if layout != "nnunet":
        return {**{label.value: label.value for label in labels}, UNLABELLED: UNLABELLED}
    numbers = {label.value: n for n, label in enumerate(labels, start=1)}
    return {**numbers, UNLABELLED: len(labels) + 1}


def _write_case(place: _Place, folder: Path, table: np.ndarray) -> tuple[dict[str, Any], bool]:
    from mper.io import write_volume

    case = place.case
    image = case.image()
    (folder / place.image).parent.mkdir(parents=True, exist_ok=True)
    write_volume(folder / place.image, image)
    revisions = case.revisions()
    partial, sha256 = False, None
    if revisions:
        label = case.label(revisions[-1].number)
        assert label is not None
        partial, sha256 = revisions[-1].partial, voxels_sha256(label)
        (folder / place.label).parent.mkdir(parents=True, exist_ok=True)
        write_volume(folder / place.label, label.with_array(table[label.array]))
    entry = {
        "id": case.id,
        "image": place.image,
        "label": place.label,
        "geometry": geometry_to_dict(image.geometry),
        "source": case.source,
        "revision": asdict(revisions[-1]) if revisions else None,
        "label_sha256": sha256,
    }
    return entry, partial


@dataclass(frozen=True)
class _Described:
    """What the files that describe a layout are made of."""

    dataset: Dataset
    places: Sequence[_Place]
    options: ExportOptions
    values: Mapping[int, int]
    partial: bool

    def labels(self) -> dict[str, int]:
        """Name to value; those that a program must ignore are named so where there are any."""
        named = {label.name: self.values[label.value] for label in self.dataset.labels}
        return {"background": BACKGROUND, **named, **({"ignore": self.values[UNLABELLED]} if self.partial else {})}


def _nnunet(what: _Described, folder: Path) -> None:
    entry = {
        "name": what.dataset.name,
        "channel_names": {"0": what.options.modality},
        "labels": what.labels(),
        "numTraining": sum(place.trains for place in what.places),
        "file_ending": _ENDING,
    }
    write_json(folder / "dataset.json", entry)


def _msd(what: _Described, folder: Path) -> None:
    training = [place for place in what.places if place.trains]
    tests = [place for place in what.places if not place.trains]
    entry = {
        "name": what.dataset.name,
        "description": f"{what.dataset.name}, exported by MPER",
        "tensorImageSize": "3D",
        "modality": {"0": what.options.modality},
        "labels": {str(value): name for name, value in what.labels().items()},
        "numTraining": len(training),
        "numTest": len(tests),
        "training": [{"image": f"./{place.image}", "label": f"./{place.label}"} for place in training],
        "test": [f"./{place.image}" for place in tests],
    }
    write_json(folder / "dataset.json", entry)


def _bids(what: _Described, folder: Path) -> None:
    about = {"Name": what.dataset.name, "BIDSVersion": "1.9.0"}
    write_json(folder / "dataset_description.json", {**about, "DatasetType": "raw"})
    derived = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "MPER"}]}
    (folder / _DERIVATIVE).mkdir(parents=True, exist_ok=True)
    write_json(folder / _DERIVATIVE / "dataset_description.json", {**about, **derived})
    rows = [[str(value), name] for name, value in what.labels().items()]
    write_text(folder / _DERIVATIVE / "dseg.tsv", _tsv(["index", "name"], rows))
    split_of = {case_id: name for name, ids in what.dataset.splits.items() for case_id in ids}
    people = [
        [
            place.image.partition("/")[0],
            place.case.id,
            split_of.get(place.case.id, "n/a"),
            "yes" if place.held_out else "no",
        ]
        for place in what.places
    ]
    write_text(folder / "participants.tsv", _tsv(["participant_id", "case", "split", "held_out"], people))
    columns = {
        "case": {"Description": "Id of the case in the dataset of MPER"},
        "split": {"Description": "Split of the case"},
        "held_out": {
            "Description": "Whether the case, or its scan, belongs to the hold-out, which is never trained on"
        },
    }
    write_text(folder / "participants.json", json.dumps(columns, indent=1) + "\n")
    write_text(folder / "README", f"{what.dataset.name}, exported by MPER. Labels are in {_DERIVATIVE}.\n")
    write_text(folder / ".bidsignore", f"{RECORD}\n")


def _tsv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows([head, *rows])
    return stream.getvalue()
