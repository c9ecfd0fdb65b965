"""A report of measurements as HTML, CSV and surfaces: the scene's masks and scan are written, ``mper measure`` runs."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, phases
from MPERLib.callbacks import later
from MPERLib.engine_words import in_words
from MPERLib.python_process import PythonProcess, module
from slicer.i18n import tr as _

from MPERSegmentLib import clip_nodes
from MPERSegmentLib.measure_inputs import ReportInputs

_TURN_S = 0.03
_SLAB_BYTES = 1 << 22
_TYPES = {"float32": "float", "float64": "double"}  # NRRD's names, where they are not numpy's


class ReportJob:
    """Writes a report into a folder. It begins at once.

    Parameters
    ----------
    inputs : ReportInputs
    folder : Path
        Of the report.
    creator : str
        Name of the user, may be empty.
    done : callable
        Takes the written files.
    failed : callable
        Takes one line for the user.
    """

    def __init__(
        self,
        inputs: ReportInputs,
        folder: Path,
        creator: str,
        done: Callable[[list[Path]], None],
        failed: Callable[[str], None],
    ):
        self._done, self._failed = done, failed
        self._process: PythonProcess | None = None
        self._lines: list[str] = []
        self._temporary: Path | None = Path(tempfile.mkdtemp(prefix="mper-report-"))
        words = ["measure", f"--report={folder}", "--json", *inputs.words()]
        if creator:
            words.append(f"--creator={creator}")
        self._steps = self._written(inputs, words)
        later(self._next, "report", self._fail)

    def stop(self) -> None:
        """Cancel it; no callback is called any more."""
        folder, self._temporary = self._temporary, None
        if self._process is not None:
            self._process.stop(lambda: _remove(folder))
        else:
            _remove(folder)

    def _next(self) -> None:
        """Write some of the files in each callback, then start the process."""
        if self._temporary is None:  # stopped
            return
        end = time.monotonic() + _TURN_S
        try:
            for words in self._steps:
                if words is not None:
                    self._process = PythonProcess(module("mper", *words), self._lines.append, self._onEnded)
                    return
                if time.monotonic() > end:
                    break
        except (OSError, ValueError) as error:
            self._fail(str(error))
            return
        later(self._next, "report is prepared", self._fail)

    def _written(self, inputs: ReportInputs, words: list[str]) -> Iterator[list[str] | None]:
        """None after each piece of work, at last the words of the command."""
        folder = self._temporary
        assert folder is not None
        files = []
        for number, node in enumerate(inputs.masks, 1):
            files.append(folder / f"{number}" / f"{_file_name(node.GetName())}.seg.nrrd")
            files[-1].parent.mkdir()
            if not slicer.util.exportNode(node, str(files[-1])):
                raise OSError(_("the mask cannot be written to {file}").format(file=files[-1]))
            yield None
        scan = folder / f"{_file_name(inputs.scan.GetName())}.nrrd"
        yield from write_nrrd(scan, phases.voxels_of(inputs.scan, phases.of(inputs.masks[0])))
        words = [*words, f"--scan={scan}"]
        if inputs.clips:
            clip_nodes.write_file(folder / "clips.json", inputs.clips)
            words.append(f"--clip={folder / 'clips.json'}")
        if len(files) > 1:
            numbers = [phases.of(node) for node in inputs.masks]
            words.append("--phases")
            words += [
                f"--{name}={numbers.index(int(n)) + 1}" for name, n in (("ed", inputs.ed), ("es", inputs.es)) if n
            ]
        yield [*words, *map(str, files)]

    def _onEnded(self, reason: str | None) -> None:
        if reason is not None:
            self._fail(reason.removeprefix("mper: ").removeprefix("error: "))
            return
        try:
            answer = json.loads("\n".join(self._lines[self._lines.index("{") :]), object_hook=in_words)
            files = [Path(file) for file in answer["files"]]
        except (ValueError, KeyError, TypeError):
            self._fail(_("the program that writes reports gave no answer; it may be of another version"))
            return
        self._end()
        self._done(files)

    def _fail(self, message: str) -> None:
        self._end()
        self._failed(message)

    def _end(self) -> None:
        folder, self._temporary = self._temporary, None
        self._process = None
        _remove(folder)


def write_nrrd(path: Path, volumeNode: Any) -> Iterator[None]:
    """Write the voxels of a volume on its own grid, a slab at each step; Slicer's own writer does all at once."""
    geometry, array = mrml.geometry_of(volumeNode), mrml.array_of(volumeNode)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    columns = geometry.affine[:3, :3].T[::-1]  # of i, j, k
    header = [
        "NRRD0004",
        f"type: {_TYPES.get(array.dtype.name, array.dtype.name)}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in geometry.shape[::-1])}",
        f"space directions: {' '.join(_vector(column) for column in columns)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: {_vector(geometry.affine[:3, 3])}",
    ]
    slices = max(1, _SLAB_BYTES // max(1, array[0].nbytes))
    little = array.dtype.newbyteorder("<")
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n\n").encode("ascii"))
        for first in range(0, len(array), slices):
            file.write(np.ascontiguousarray(array[first : first + slices], little).tobytes())
            yield None


def _vector(values: np.ndarray) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _file_name(name: str) -> str:
    allowed = "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in name).strip()
    return allowed or "segmentation"


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
