"""``mper stage``: read local scans for a program that sends them to an engine."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from mper.cli.options import Commands, add_command
from mper.phases import ED, ES, Phases
from mper.progress import Notify, ignore_notice
from mper.utils.errors import OK, UsageError, explain

if TYPE_CHECKING:
    from mper.datasets.source import Source, SourceCase
    from mper.io.opened import OpenedScan
    from mper.labels import Label
    from mper.volume import Volume

_TEXT = """\
Read scans (files, folders, DICOM series, and the masks of known layouts) and write each to a folder as a plain array
that any program can send to an engine. The command is driven by a program: the first line on standard input is JSON,

  {"sources": [{"path": FILE or FOLDER, "series": SeriesInstanceUID or null}], "labels": [labels of the dataset],
   "phases": true to choose phases of time series; else they are refused}

and every further line requests the next scan. Answers are one JSON object a line: "found" (the number of scans), "case"
(id, image, mask or null, source), "notice" and "failed" (id, message), and "finished". They hold no patient data. After
"phases" (id, phases: a text for each) the next line is {"phases": [numbers from 1]}; each of these phases is a case.
The command ends when its standard input is closed; if that is before the last scan, it removes the folder.
"""
_EXAMPLES = """\
  mper stage FOLDER < requests
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "stage", "read scans for a program that sends them on", _TEXT, _EXAMPLES)
    command.add_argument("out", type=Path, metavar="FOLDER", help="an empty folder for the arrays")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return stage(sys.stdin, sys.stdout, arguments.out)


def stage(requests: TextIO, answers: TextIO, out: Path) -> int:
    """Answer `requests`, see the command's help."""
    from mper.labels import label_from_dict

    try:
        asked = json.loads(requests.readline() or "null")
        paths = [(Path(each["path"]), each.get("series")) for each in asked["sources"]]
        labels = [label_from_dict(label) for label in asked.get("labels", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the first line of standard input is no request ({error}); see `mper stage --help`"
        ) from error

    def answer(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=answers, flush=True)

    cases = []
    for path, series in paths:
        try:
            source = _source(path, series)
        except (OSError, ValueError) as error:
            answer("failed", id=path.name, message=explain(error))
            continue
        for notice in source.notices:
            answer("notice", message=notice)
        cases += [(case, source) for case in source.cases.values()]
    answer("found", cases=len(cases))
    for number, (case, source) in enumerate(cases):
        if not requests.readline():
            return _given_up(out)
        try:
            answer("case", **_staged(case, source, labels, out / str(number)))
        except (OSError, ValueError) as error:
            series = _time_series(case, source) if asked.get("phases") else None
            if series is None:
                answer("failed", id=case.id, message=explain(error))
            elif not _stage_phases(series, case, source, out / str(number), requests, answer):
                return _given_up(out)
    answer("finished")
    return OK


def _given_up(out: Path) -> int:
    """Nobody requests the rest, perhaps as the program that asked was killed: no array stays."""
    shutil.rmtree(out, ignore_errors=True)
    return OK


def _time_series(case: SourceCase, source: Source) -> OpenedScan | None:
    """The scan of a case without a mask, if it is a time series."""
    from mper.io import opened

    if source.masks:
        return None
    path = case.files[0]
    try:
        if opened.is_volume_file(path):
            scan = opened.open_scan(path)
        else:
            from mper.dicom.series import open_files

            scan = opened.of_series(open_files(case.files, ignore_notice), path, ignore_notice)
    except (OSError, ValueError):
        return None  # why it cannot be read has been found already
    return scan if scan.phases.count > 1 else None


def _stage_phases(
    series: OpenedScan, case: SourceCase, source: Source, stem: Path, requests: TextIO, answer: Callable[..., None]
) -> bool:
    """Ask which phases are wanted, and stage these; False if nobody wants the rest."""
    answer("phases", id=case.id, phases=[_phase_text(series.phases, n + 1) for n in range(series.phases.count)])
    line = requests.readline()
    if not line:
        return False
    try:
        wanted = [int(number) for number in json.loads(line)["phases"]]
        for number in wanted:
            series.phases.chosen(str(number))
    except (KeyError, TypeError, ValueError) as error:
        answer("failed", id=case.id, message=explain(error) if isinstance(error, ValueError) else "no phase was chosen")
        return True
    if not wanted:
        answer("failed", id=case.id, message="no phase of this time series was chosen; nothing was added")
    for place, number in enumerate(wanted):
        if place and not requests.readline():
            return False
        name = f"{case.id}-phase-{number:0{len(str(series.phases.count))}d}"
        phase = replace(case, id=name, read=partial(_read_phase, series, number))
        try:
            staged = _staged(phase, source, (), stem.with_name(f"{stem.name}-{number}"))
        except (OSError, ValueError) as error:
            answer("failed", id=name, message=explain(error))
        else:
            staged["source"]["phase"] = str(number)
            answer("case", **staged)
    return True


def _read_phase(series: OpenedScan, number: int, _notify: Notify) -> tuple[Volume, None]:
    return series.read(number), None


def _phase_text(phases: Phases, number: int) -> str:
    time = f" ({phases.times_ms[number - 1]:g} ms)" if phases.times_ms else ""
    marks = [name for name in (ED, ES) if phases.marked(name) == number]
    return f"Phase {number}{time}{''.join(', ' + mark for mark in marks)}"


def _source(path: Path, series: str | None) -> Source:
    """What a path holds; of a folder of DICOM one series, where it is named."""
    from mper.datasets.layouts import dicom_cases, find_source
    from mper.datasets.source import Source

    if series is None:
        return find_source(path)
    found = {case.id: case for case in dicom_cases(path, series)}
    if not found:
        raise ValueError("the folder does not hold the series that was asked for; was it moved or deleted?")
    return Source("scans", found, masks=False)


def _staged(case: SourceCase, source: Source, labels: Sequence[Label], stem: Path) -> dict[str, Any]:
    """Write a case's arrays, and describe them."""
    from mper.datasets.scan_record import voxels_sha256
    from mper.io import check_extent, check_scan

    notices: list[str] = []
    image, mask = case.read(notices.append)
    check_scan(image)
    check_extent(image.geometry)
    if mask is not None:
        mask, more = _in_values_of(mask, source, labels)
        notices += more
    if mask is not None:
        mask = _on_grid_of(image, mask, source, notices)
    written = [_write(stem.with_suffix(".image"), image), mask and _write(stem.with_suffix(".mask"), mask)]
    origin = {"format": source.layout, "sha256": case.sha256()} | ({"file": case.named} if case.named else {})
    return {
        "id": case.id,
        "image": written[0],
        "mask": written[1],
        "source": origin,
        "notices": notices,
        "voxels_sha256": voxels_sha256(image),
    }


def _on_grid_of(image: Volume, mask: Volume, source: Source, notices: list[str]) -> Volume | None:
    """The mask on the grid of its scan; None where it lies elsewhere, or shows nothing, with a notice."""
    from mper.datasets.masks import on_grid
    from mper.labels import BACKGROUND, UNLABELLED

    if not np.isin(mask.array, (BACKGROUND, UNLABELLED), invert=True).any():
        notices.append("its mask is empty; added without a label. Open the case to draw the label")
        return None
    try:
        return on_grid(mask, image.geometry, "its mask", notices.append, UNLABELLED if source.partial else BACKGROUND)
    except ValueError as error:
        notices.append(f"{error}; added without a label")
        return None


def _in_values_of(mask: Volume, source: Source, wanted: Sequence[Label]) -> tuple[Volume | None, list[str]]:
    """The mask with the dataset's values, by the structures' names; None where none of them is the dataset's."""
    from mper.io.labelmap import binary_as_label
    from mper.labels import BACKGROUND, UNLABELLED, value_table

    found = source.labels or wanted
    notices: list[str] = []
    if not source.partial:
        try:
            mask = binary_as_label(mask, found, "its mask", notices.append)
        except ValueError as error:
            return None, [f"{error}; added without a label"]
    known = {BACKGROUND, UNLABELLED, *(label.value for label in found)}
    if unknown := sorted(set(np.unique(mask.array).tolist()) - known):
        return None, [f"its mask holds the values {unknown}, which no label names; added without a label"]
    table, missing = value_table(found, wanted)
    if len(missing) == len(found):
        return None, [f"its mask shows {', '.join(missing)}, which the dataset does not have; added without a label"]
    if missing:
        notices.append(f"{', '.join(missing)} of its mask is no structure of the dataset: background here")
    return mask.with_array(table[mask.array]), notices


def _write(path: Path, volume: Volume) -> dict[str, Any]:
    """Write voxels as an engine takes them; returns the header of the array."""
    array = volume.array
    little = array.dtype.newbyteorder("<")
    with path.open("xb") as file:
        for slab in _slabs(array):
            file.write(np.ascontiguousarray(slab, dtype=little).data)
    return {
        "file": str(path),
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "affine": volume.geometry.affine.tolist(),
        "spacing_known": volume.geometry.spacing_known,
    }


def _slabs(array: np.ndarray) -> Iterator[np.ndarray]:
    for k in range(0, array.shape[0], 16):
        yield array[k : k + 16]
