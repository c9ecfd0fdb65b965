"""The scans that the arguments of `mper segment` stand for, and the files of their results.

A name that ends as that of a file (``seg.dcm``, ``mask.nii.gz``) is a file and takes one scan; others are folders.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli import outputs
from mper.cli.common import check_single
from mper.cli.outputs import SegmentationTask
from mper.utils.errors import UsageError
from mper.utils.text import shorten

if TYPE_CHECKING:
    from mper.datasets.dataset import Dataset
    from mper.progress import Notify

Extras = tuple[Path | None, Path | None]  # where the prototype map and the probabilities go


def plan(
    inputs: Sequence[Path], output: Path, extras: Extras, series_uid: str | None, notify: Notify
) -> tuple[list[SegmentationTask], bool]:
    """The tasks, and whether they are a cohort, whose output is a folder.

    Parameters
    ----------
    inputs : sequence of Path
        Files, folders and patterns.
    output : Path
    extras : (Path or None, Path or None)
    series_uid : str or None
        The DICOM series that is asked for.
    notify : callable
        Called with what a folder holds besides scans.

    Raises
    ------
    UsageError
        If several scans would go into one file, or a result would replace what is no mask.
    FileNotFoundError
        If an input does not exist or holds no scan.
    """
    from mper.io.scans import expand_inputs, holds_dicom

    matches = expand_inputs(inputs)
    if len(matches) == 1:
        scan = matches[0]
        is_one = scan.is_file() or holds_dicom(scan)
        if series_uid and scan.is_dir():
            return [_single(scan, output, extras, series_uid)], False
        if outputs.names_file(output) or (is_one and scan in inputs):
            return [_single(only_scan(scan, output), output, extras, series_uid)], False
    if series_uid:
        raise UsageError("--series goes with a single DICOM folder; here there are several inputs")
    scans = _cohort(matches, output, notify)
    for name in (output, *extras):
        if name is not None and outputs.names_file(name):
            raise UsageError(
                f"{name} is the name of a file, and there are {len(scans)} scans ({shorten(scans, 5)}); "
                "name a folder for the results, or one of the scans"
            )
    tasks = [replace(task, files=scans[task.scan]) for task in outputs.cohort_tasks(list(scans), output, *extras)]
    homes = {path.resolve() for path in matches if path.is_dir()} | {path.resolve().parent for path in scans}
    for folder in (output, *extras):
        if folder is not None and folder.resolve() in homes:
            raise UsageError(
                f"{folder} is the folder of the scans, where results would be taken for scans and labels later; "
                "name another folder for the results"
            )
    _make_folders(output, extras)
    return tasks, True


def unlabelled_tasks(inputs: Sequence[Path], output: Path, extras: Extras) -> list[SegmentationTask]:
    """The tasks of the cases of a dataset that have no label, are not held out and not excluded, each in its region.

    A case that was labelled since its mask was made stays in the cohort.

    Raises
    ------
    UsageError
        If there is not one dataset, or it has no such case.
    """
    from mper.datasets.dataset import Dataset

    if len(inputs) != 1:
        raise UsageError(f"--unlabelled takes one dataset, here are {len(inputs)} inputs; name the folder of one")
    dataset = Dataset.open(inputs[0])
    left_out, regions = {*dataset.held_out, *dataset.history.excluded}, dataset.regions
    tasks = []
    for case_id in dataset.cases:
        mask = output / f"{case_id}.seg.nrrd"
        if case_id in left_out or (_is_drawn(dataset, case_id) and not mask.exists()):
            continue
        prototypes, probabilities = (folder / f"{case_id}.nrrd" if folder else None for folder in extras)
        scan, region = dataset.case(case_id).image_file, regions.get(case_id)
        tasks.append(SegmentationTask(scan, mask, prototypes, probabilities, region_mm=region))
    if not tasks:
        raise UsageError(f"every case of the dataset {dataset.name} has a label, or is held out; add scans first")
    _make_folders(output, extras)
    return tasks


def _is_drawn(dataset: Dataset, case_id: str) -> bool:
    try:
        return dataset.case(case_id).is_drawn
    except (OSError, ValueError, KeyError, TypeError):  # damaged: what it is is found, and shown, when it is segmented
        return False


def _make_folders(output: Path, extras: Extras) -> None:
    from mper.datasets.index import is_dataset

    for folder in (output, *extras):
        if folder is not None and is_dataset(folder):
            raise UsageError(f"{folder} is a dataset, whose folder holds its cases alone; name another folder")
    for folder in (output, *extras):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            outputs.check_writable(folder)


def _single(scan: Path, output: Path, extras: Extras, series_uid: str | None) -> SegmentationTask:
    task = outputs.single_task(scan, output, *extras)
    check_single(task, series_uid)
    return task


def only_scan(path: Path, output: Path) -> Path:
    """The one scan at `path`: that file, the one file in that folder, or the folder itself where it holds DICOM.

    Raises
    ------
    UsageError
        If there are several.
    FileNotFoundError
        If there is none.
    """
    from mper.io.scans import find_scans, holds_dicom

    found = find_scans([path])
    if path.is_file() or holds_dicom(path):
        return found[0]
    files = [file for file in found if file.is_file() and not (output.exists() and file.samefile(output))]
    scans = [*files, path] if any(one.is_dir() for one in found) else files
    if output.name.lower().endswith(outputs.SEG_ENDING) and path in scans:
        return path
    if len(scans) != 1:
        raise UsageError(
            f"{output} is the name of a file, and {path} holds {len(scans)} scans ({shorten(scans, 5)}); "
            "name one of the scans, or a folder for the results"
        )
    return scans[0]


def _cohort(matches: Sequence[Path], output: Path, notify: Notify) -> dict[Path, tuple[Path, ...]]:
    """The scans of several inputs, and of those that were found as DICOM series below a folder their files."""
    from mper.datasets.pairs import masks_of_scans
    from mper.io.scans import find_scans, holds_dicom

    scans: dict[Path, tuple[Path, ...]] = {}
    for match in matches:
        found = find_scans([match], notify)
        if match.is_file() or holds_dicom(match):
            scans |= dict.fromkeys(found, ())
            continue
        files = [path for path in found if path.is_file()]
        if masks := masks_of_scans(match, files):
            notify(f"left out the masks of other scans: {shorten([path.name for path in masks], 5)}")
        below: dict[Path, tuple[Path, ...]] = {path: () for path in files if path not in masks}
        if len(files) < len(found):
            try:
                below |= _series_below(match, notify)
            except ValueError as error:  # all of its DICOM is damaged
                if not below:
                    raise
                notify(str(error))
        scans |= dict(sorted(below.items()))
    if output.is_dir():  # results of an earlier run, below a folder that is segmented again, are no scans
        others = {path: files for path, files in scans.items() if output.resolve() not in path.resolve().parents}
        return others or scans
    return scans


def _series_below(folder: Path, notify: Notify) -> dict[Path, tuple[Path, ...]]:
    """The files of each scan among the DICOM series below a folder, by a place that names it."""
    from mper.dicom.series import list_series

    series = list_series(folder, notify)
    scans = [one for one in series if not one.no_scan] or series
    if len(scans) < len(series):
        for one in series:
            if one.no_scan:
                notify(f"left out what is no scan: {one.describe()}")
    places = [Path(os.path.commonpath([path.parent for path in one.paths])) for one in scans]
    times = Counter(places)
    return {
        place if times[place] == 1 else place / (one.uid or f"series-{number}"): one.paths
        for number, (place, one) in enumerate(zip(places, scans, strict=True), 1)
    }
