"""A segmentation as DICOM-SEG: the source's files are gathered, a process writes the file and compares it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer
from MPERLib import phases, segmentation_node
from MPERLib.callbacks import later
from MPERLib.engine_words import in_words
from MPERLib.python_process import PythonProcess, module
from slicer.i18n import tr as _

from MPERSegmentLib import clip_nodes, result_node
from MPERSegmentLib.measure_inputs import ReportInputs

_TURN_S = 0.03
_NAME_LENGTH = 64  # of a part of a DICOM person name


@dataclass(frozen=True)
class Written:
    """A written file, what the comparison with the mask has found (one line each), and its full report.

    Where measurements were asked for, also the file of the structured report; `notes` say what it lacks and why.
    """

    file: Path
    summary: str
    report: str
    report_file: Path | None = None
    notes: tuple[str, ...] = ()


class DicomExport:
    """Writes a segmentation as DICOM-SEG that refers to the scan's own instances. It begins at once.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    files : list of Path
        The scan's DICOM files; see `source_files`.
    path : Path
    creator : str
        Name of the user, may be empty.
    manual : bool
        Structures whose provenance is unknown are marked MANUAL.
    done, failed : callable
        Take a `Written`, or one line for the user.
    measured : ReportInputs or None
        What is measured for a structured report beside the file.
    """

    def __init__(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        files: list[Path],
        path: Path,
        creator: str,
        manual: bool,
        done: Callable[[Written], None],
        failed: Callable[[str], None],
        measured: ReportInputs | None = None,
    ):
        self._done, self._failed = done, failed
        self._measured, self._creator = measured, ""
        self._process: PythonProcess | None = None
        self._lines: list[str] = []
        self._folder: Path | None = Path(tempfile.mkdtemp(prefix="mper-dicom-"))
        mask, source = self._folder / "mask.seg.nrrd", self._folder / "source"
        source.mkdir()
        if not slicer.util.exportNode(node, str(mask)):
            self._end()
            later(lambda: failed(_("the mask cannot be written to {file}").format(file=mask)), "export failed")
            return
        words = ["export-seg", str(mask), "--source", str(source), "--out", str(path), "--json"]
        if manual:
            words.append("--manual")
        if creator and len(creator) <= _NAME_LENGTH and not set(creator) & set("\\=^"):
            self._creator = f"--creator={creator}"
            words.append(self._creator)
        self._gather([(file, source / f"{n:06d}.dcm") for n, file in enumerate(files)], words)

    def stop(self) -> None:
        """Cancel it; no callback is called any more."""
        folder, self._folder = self._folder, None
        if self._process is not None:
            self._process.stop(lambda: _remove(folder))
        else:
            _remove(folder)

    def _gather(self, files: list[tuple[Path, Path]], words: list[str]) -> None:
        """Link the source's files into one folder, some in each callback, then start the process."""
        if self._folder is None:  # stopped
            return
        end = time.monotonic() + _TURN_S
        try:
            while files and time.monotonic() < end:
                _link(*files.pop())
            if files:
                later(lambda: self._gather(files, words), "export gathers files", self._fail)
                return
            self._process = PythonProcess(module("mper", *words), self._lines.append, self._onEnded)
        except OSError as error:
            self._fail(str(error))

    def _onEnded(self, reason: str | None) -> None:
        if reason is not None:
            self._fail(reason.removeprefix("mper: ").removeprefix("error: "))
            return
        try:
            answer = json.loads("\n".join(self._lines[self._lines.index("{") :]), object_hook=in_words)
            report = Path(answer["check_files"][0]).read_text(encoding="utf-8")
            summary = "\n".join([_check_line(answer["check"]), *answer["check"]["notes"]])
            written = Written(Path(answer["seg"]), summary, report)
        except (ValueError, KeyError, IndexError, TypeError, OSError):
            self._fail(_("the program that writes DICOM gave no report; it may be of another version than this module"))
            return
        if self._measured is None:
            self._end()
            self._done(written)
            return
        try:
            self._measure(written, self._measured)
        except OSError as error:
            self._withoutReport(written, str(error))

    def _measure(self, written: Written, measured: ReportInputs) -> None:
        """Write the structured report that refers to the file."""
        assert self._folder is not None
        path = report_path(written.file)
        words = ["measure", str(written.file), f"--scan={self._folder / 'source'}", f"--sr={path}", "--json"]
        words += [*measured.words(), *filter(None, [self._creator])]
        if measured.clips:
            clip_nodes.write_file(self._folder / "clips.json", measured.clips)
            words.append(f"--clip={self._folder / 'clips.json'}")
        self._lines = []

        def ended(reason: str | None) -> None:
            if reason is not None:
                self._withoutReport(written, reason.removeprefix("mper: ").removeprefix("error: "))
                return
            try:
                notes = tuple(
                    json.loads("\n".join(self._lines[self._lines.index("{") :]), object_hook=in_words)["notes"]
                )
            except (ValueError, KeyError, TypeError):
                notes = ()
            self._end()
            self._done(replace(written, report_file=path, notes=notes))

        self._process = PythonProcess(module("mper", *words), self._lines.append, ended)

    def _withoutReport(self, written: Written, reason: str) -> None:
        self._end()
        note = _("the structured report was not written: {reason}").format(reason=reason)
        self._done(replace(written, notes=(note,)))

    def _fail(self, message: str) -> None:
        self._end()
        self._failed(message)

    def _end(self) -> None:
        folder, self._folder = self._folder, None
        self._process = None
        _remove(folder)


def report_path(file: Path) -> Path:
    """The name of the structured report of a DICOM segmentation: ``seg.dcm`` has ``seg-report.dcm``."""
    return file.with_name(f"{file.stem}-report.dcm")


def source_files(scan: slicer.vtkMRMLVolumeNode | None, phase: int | None = None) -> list[Path]:
    """The DICOM files that a scan, or one phase of a time series, was loaded from.

    Slicer's DICOM module stores the instances in the volume node, and its database knows their files. Each phase has
    its own; the volume node that shows them has those of the phase that is shown.

    Raises
    ------
    ValueError
        If there are none; says why.
    """
    nodes = [] if scan is None else [phases.voxels_of(scan, phase), scan]
    uids = next((found for node in nodes if (found := (node.GetAttribute("DICOM.instanceUIDs") or "").split())), [])
    if not uids:
        raise ValueError(_("the scan was not loaded from DICOM, so there is no series to refer to"))
    database = getattr(slicer, "dicomDatabase", None)
    if database is None or not database.isOpen:
        raise ValueError(_("Slicer's DICOM database is not open; open the module DICOM"))
    files = [str(database.fileForInstance(uid) or "") for uid in uids]
    missing = sum(not file or not Path(file).is_file() for file in files)
    if missing:
        message = _("{n} of the scan's {all} DICOM files are missing; import the series again")
        raise ValueError(message.format(n=missing, all=len(files)))
    return [Path(file) for file in dict.fromkeys(files)]


def without_provenance(node: slicer.vtkMRMLSegmentationNode) -> list[str]:
    """Names of the segments, other than empty ones, whose provenance is unknown."""
    names = [name for name, made in segmentation_node.provenances_of(node) if made is None]
    try:
        volumes = result_node.volumes_ml(node) if names else {}
    except ValueError:  # overlapping segments, which the export refuses
        volumes = {}
    return [name for name in names if volumes.get(name, 1)]


def _check_line(check: dict[str, Any]) -> str:
    """The comparison of the written file with the mask, in a line."""
    found = {entry["what"].partition(" (")[0]: entry["found"] for entry in check["checks"]}
    if not check["passed"]:
        return _("The file differs from the mask. Do not use it; see the report.")
    differing = found["voxels"].rpartition(", ")[2].partition(" ")[0]
    return _("Compared with the mask: passed, {frames} frames, {voxels} voxels differ.").format(
        frames=found["frames"], voxels=differing
    )


def _link(file: Path, target: Path) -> None:
    """The file under another name, without copying it where the disk allows that."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
