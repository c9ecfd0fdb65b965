"""``mper stage``: read local scans for a program that sends them to an engine."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from mper.cli.options import Commands, add_command
from mper.cli.stage_masks import ChosenMask, label_of, preview, read_case
from mper.phases import ED, ES, Phases
from mper.progress import Notify
from mper.utils.coded import Coded, with_codes
from mper.utils.errors import OK, UsageError, explain
from mper.utils.text import shorten

if TYPE_CHECKING:
    from mper.datasets.source import Source, SourceCase
    from mper.io.opened import OpenedScan
    from mper.labels import Label
    from mper.volume import Volume

_TEXT = """\
Read scans (files, folders, DICOM series, and the masks of known layouts) and write each to a folder as a plain array
that any program can send to an engine. The command is driven by a program: the first line on standard input is JSON,

  {"sources": [{"path": FILE or FOLDER, "series": SeriesInstanceUID or null}], "labels": [labels of the dataset],
   "phases": true to choose phases of time series, "types": true to choose image types; else both are refused,
   "preview": true to choose what is staged; else everything is}

and every further line requests the next scan. Answers are one JSON object a line: "found" (the number of scans), "case"
(id, image, mask or null, source, voxels_sha256), "notice" and "failed" (id, message), and "finished". They hold no
patient data. After "phases" (id, phases: a text for each, marked: the numbers of ED and ES where they are known) the
next line is {"phases": [numbers from 1]}; each of these phases is a case. Before that {"look": number} is answered by
"phase" (number, image), which is none. After "types" (id, types: a text for each) the next line is {"types":
[numbers from 1]}; each of these is a case.

With a preview each requested scan is first described: "preview" (number, id, shape, spacing_mm, voxels_sha256, mask or
null, notices), with the values of the mask. After "previewed" the next line is {"add": [{"number": N, "mask": true or
false, "structures": {mask value: label value}}]}; then each further line requests one of these scans.

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
        asked = json.loads(requests.readline() or "{}")
        paths = [(Path(each["path"]), each.get("series")) for each in asked["sources"]]
        labels = [label_from_dict(label) for label in asked.get("labels", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the first line of standard input is no request ({error}); see `mper stage --help`"
        ) from error

    def answer(event: str, **values: Any) -> None:
        print(json.dumps(with_codes({"event": event, **values})), file=answers, flush=True)

    cases = []
    for source in _sources(paths, answer):
        for notice in source.notices:
            answer("notice", message=notice)
        cases += [(case, source) for case in source.cases.values()]
    answer("found", cases=len(cases))
    stager = _Stager(requests, answer, labels, bool(asked.get("phases")), bool(asked.get("types")))
    chosen: dict[int, ChosenMask] | None = {number: ChosenMask() for number in range(len(cases))}
    if asked.get("preview"):
        chosen = stager.preview(cases)
    for number, choice in (chosen or {}).items():
        if not requests.readline():
            return _given_up(out)
        case, source = cases[number]
        if not stager.stage(case, source, out / str(number), choice):
            return _given_up(out)
    if chosen is None:
        return _given_up(out)
    answer("finished")
    return OK


def _given_up(out: Path) -> int:
    """Nobody requests the rest, perhaps as the program that asked was killed: no array stays."""
    shutil.rmtree(out, ignore_errors=True)
    return OK


@dataclass(frozen=True)
class _Stager:
    """Stages cases; asks which image types and phases are wanted where there are several, as far as that is wanted."""

    requests: TextIO
    answer: Callable[..., None]
    labels: Sequence[Label]
    choose_phases: bool
    choose_types: bool

    def preview(self, cases: Sequence[tuple[SourceCase, Source]]) -> dict[int, ChosenMask] | None:
        """Describe cases, and return those that a person chose, by number; None if nobody wants the rest."""
        for number, (case, source) in enumerate(cases):
            if not self.requests.readline():
                return None
            try:
                self.answer("preview", number=number, **preview(case, source, self.labels))
            except (OSError, ValueError) as error:
                if self._has_parts(case, source):
                    self.answer("preview", number=number, id=case.id, series=True, mask=None, notices=[])
                else:
                    self.answer("failed", id=case.id, message=explain(error))
        self.answer("previewed")
        line = self.requests.readline()
        return {entry["number"]: ChosenMask.from_json(entry) for entry in json.loads(line)["add"]} if line else None

    def _has_parts(self, case: SourceCase, source: Source) -> bool:
        """Whether a person will be asked which image types or phases of a case are wanted."""
        if self.choose_types and _image_types(case, source):
            return True
        return self.choose_phases and _time_series(case, source) is not None

    def stage(
        self, case: SourceCase, source: Source, stem: Path, choice: ChosenMask, image_type: str | None = None
    ) -> bool:
        """Stage a case, of the only image type or of that one; False if nobody wants the rest."""
        try:
            staged = _staged(case, source, self.labels, stem, choice)
            if image_type is not None:
                staged["source"]["image_type"] = image_type
            self.answer("case", **staged)
            return True
        except (OSError, ValueError) as error:
            message = explain(error)
        types = _image_types(case, source) if self.choose_types and image_type is None else {}
        if types:
            return self._stage_types(types, case, source, stem)
        series = _time_series(case, source, image_type) if self.choose_phases else None
        if series is not None:
            return self._stage_phases(series, case, source, stem, image_type)
        self.answer("failed", id=case.id, message=message)
        return True

    def _stage_types(self, types: Mapping[str, int], case: SourceCase, source: Source, stem: Path) -> bool:
        self.answer("types", id=case.id, types=[f"{name} ({count} images)" for name, count in types.items()])
        wanted = self._chosen("types", case.id, len(types), lambda _request: None)
        if wanted is None:
            return False
        for place, number in enumerate(wanted):
            if place and not self.requests.readline():
                return False
            name = list(types)[number - 1]
            one = replace(case, id=f"{case.id}-{_in_file_name(name)}", read=partial(_read_type, case.files, name))
            if not self.stage(one, source, stem.with_name(f"{stem.name}-type-{number}"), ChosenMask(), name):
                return False
        return True

    def _stage_phases(
        self, series: OpenedScan, case: SourceCase, source: Source, stem: Path, image_type: str | None
    ) -> bool:
        count = series.phases.count
        marked = [number for name in (ED, ES) if (number := series.phases.marked(name)) is not None]
        texts = [_phase_text(series.phases, n + 1) for n in range(count)]
        self.answer("phases", id=case.id, phases=texts, marked=marked)

        def look(request: Mapping[str, Any]) -> None:
            number = int(request["look"])
            series.phases.chosen(str(number))
            image = _write(stem.with_name(f"{stem.name}-look-{number}.image"), series.read(number), again=True)
            self.answer("phase", number=number, image=image)

        wanted = self._chosen("phases", case.id, count, look)
        if wanted is None:
            return False
        for place, number in enumerate(wanted):
            if place and not self.requests.readline():
                return False
            name = f"{case.id}-phase-{number:0{len(str(count))}d}"
            phase = replace(case, id=name, read=partial(_read_phase, series, number))
            try:
                staged = _staged(phase, source, (), stem.with_name(f"{stem.name}-{number}"), ChosenMask())
            except (OSError, ValueError) as error:
                self.answer("failed", id=name, message=explain(error))
            else:
                staged["source"] |= {"phase": str(number)} | ({"image_type": image_type} if image_type else {})
                self.answer("case", **staged)
        return True

    def _chosen(
        self, what: str, case_id: str, count: int, look: Callable[[Mapping[str, Any]], None]
    ) -> list[int] | None:
        """The numbers that are wanted, none after a wrong answer; None if nobody wants the rest."""
        one = what.removesuffix("s").replace("type", "image type")
        while line := self.requests.readline():
            try:
                request = json.loads(line)
                if "look" in request:
                    look(request)
                    continue
                wanted = [int(number) for number in request[what]]
                if missing := [number for number in wanted if not 1 <= number <= count]:
                    raise ValueError(f"there is no {one} {missing[0]}: there are {count}, counted from 1")
            except (KeyError, TypeError, ValueError, OSError) as error:
                known = isinstance(error, ValueError | OSError) and not isinstance(error, json.JSONDecodeError)
                self.answer("failed", id=case_id, message=explain(error) if known else _none_chosen(one))
                return []
            if not wanted:
                self.answer("failed", id=case_id, message=_none_chosen(one))
            return wanted
        return None


def _none_chosen(what: str) -> str:
    return Coded(f"no {what} was chosen; nothing was added", "no-phase-chosen" if what == "phase" else "no-type-chosen")


def _image_types(case: SourceCase, source: Source) -> dict[str, int]:
    """The image types of a case, if it is a DICOM series of several."""
    from mper.io import opened

    if source.masks or opened.is_volume_file(case.files[0]):
        return {}
    from mper.dicom.series import image_types

    try:
        return image_types(case.files)
    except (OSError, ValueError):
        return {}  # why it cannot be read has been found already


def _read_type(files: Sequence[Path], name: str, notify: Notify) -> tuple[Volume, None]:
    from mper.dicom.series import open_files

    series = open_files(files, notify, name)
    (phase,) = series.phases.chosen(None)
    return series.read(phase).volume, None


def _in_file_name(name: str) -> str:
    return re.sub(r"[^\w.=]+", "-", name).strip("-.") or "type"


def _time_series(case: SourceCase, source: Source, image_type: str | None = None) -> OpenedScan | None:
    """The scan of a case without a mask, if it is a time series."""
    from mper.datasets.time_series import open_case

    if source.masks:
        return None
    try:
        scan = open_case(case, image_type=image_type)
    except (OSError, ValueError):
        return None  # why it cannot be read has been found already
    return scan if scan.phases.count > 1 else None


def _read_phase(series: OpenedScan, number: int, _notify: Notify) -> tuple[Volume, None]:
    return series.read(number), None


def _phase_text(phases: Phases, number: int) -> str:
    time = f" ({phases.times_ms[number - 1]:g} ms)" if phases.times_ms else ""
    marks = [name for name in (ED, ES) if phases.marked(name) == number]
    return f"Phase {number}{time}{''.join(', ' + mark for mark in marks)}"


def _sources(paths: Sequence[tuple[Path, str | None]], answer: Callable[..., None]) -> list[Source]:
    """What the paths hold; files of one folder are looked at together, as a mask may lie next to its scan."""
    found = []
    together: dict[Path, list[Path]] = {}
    for path, series in paths:
        if series is None and path.is_file():
            together.setdefault(path.parent, []).append(path)
    for path, series in paths:
        try:
            if series is None and path.is_file():
                files = together.pop(path.parent, None)
                found += [] if files is None else _files(path.parent, files)
            else:
                found.append(_source(path, series))
        except (OSError, ValueError) as error:
            answer("failed", id=path.name, message=explain(error))
    return found


def _files(folder: Path, files: Sequence[Path]) -> list[Source]:
    """The scans among files of a folder, with the masks that lie next to them.

    Raises
    ------
    ValueError
        If a file is a mask whose scan is not among them.
    """
    from mper.datasets.layouts import find_source
    from mper.datasets.pairs import paired_source
    from mper.datasets.source import by_id, volume_files

    paired = paired_source(folder, list(dict.fromkeys([*files, *volume_files(folder)])))
    if paired is None:
        return [find_source(file) for file in files]
    chosen = {file.resolve() for file in files}
    scans = [case for case in paired.cases.values() if case.files[0].resolve() in chosen]
    others = chosen - {case.files[0].resolve() for case in paired.cases.values()}
    dicom = [file for file in files if file.resolve() in others and file not in volume_files(folder)]
    if not scans and not dicom:
        raise ValueError(
            Coded(
                f"{shorten(file.name for file in files)} is a mask; choose the scan that it belongs to",
                "mask-without-scan",
                files=shorten(file.name for file in files),
            )
        )
    alone = [find_source(file) for file in dicom]
    return [*([replace(paired, cases=by_id(scans), splits={}, notices=())] if scans else []), *alone]


def _source(path: Path, series: str | None) -> Source:
    """What a path holds; of a folder of DICOM one series, where it is named."""
    from mper.datasets.layouts import dicom_cases, find_source
    from mper.datasets.source import Source

    if series is None:
        return find_source(path)
    found = {case.id: case for case in dicom_cases(path, series)}
    if not found:
        raise ValueError(
            Coded("the folder does not hold the series that was asked for; was it moved or deleted?", "series-gone")
        )
    return Source("scans", found, masks=False)


def _staged(
    case: SourceCase, source: Source, labels: Sequence[Label], stem: Path, choice: ChosenMask
) -> dict[str, Any]:
    """Write a case's arrays, and describe them."""
    from mper.datasets.scan_record import voxels_sha256

    notices: list[str] = []
    image, mask = read_case(case, notices)
    label = None
    if mask is not None and choice.mask:
        if (why := case.unedited_or_draft(image, mask)) and choice.structures is None:
            notices.append(Coded(f"{why}; added without a label", "added-without-label", reason=why))
        else:
            label = label_of(mask, image, source, labels, choice, notices)
    written = [_write(stem.with_suffix(".image"), image), label and _write(stem.with_suffix(".mask"), label)]
    origin = {"format": source.layout, "sha256": case.sha256()} | ({"file": case.named} if case.named else {})
    return {
        "id": case.id,
        "image": written[0],
        "mask": written[1],
        "source": origin,
        "notices": notices,
        "voxels_sha256": voxels_sha256(image),
    }


def _write(path: Path, volume: Volume, again: bool = False) -> dict[str, Any]:
    """Write voxels as an engine takes them, once or `again`; returns the header of the array."""
    array = volume.array
    little = array.dtype.newbyteorder("<")
    with path.open("wb" if again else "xb") as file:
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
