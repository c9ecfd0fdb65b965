"""The run manifest of a cohort: what was segmented, from which files, by which model, with which options.

::

    manifest.json            model, options, software, times, and an entry for each scan; written when a run ends
    cohort.csv, summary.html the tables made of it, see `mper.cohort.tables`
    .mper/run.json           the manifest without entries, written when a run begins
    .mper/<writer>.jsonl     an entry a line, added when a scan is done, by each program that works on the cohort

A run that is killed leaves its logs, and the next one reads them. An entry is written after the files that it names.
Entries of logs name the model by its checksum; those of another model than that of the manifest do not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mper.cohort.files import ScanFiles, file_sha256
from mper.roi import Box
from mper.utils.coded import Coded, with_codes
from mper.utils.files import read_json, this_host, write_json
from mper.utils.text import shorten

MANIFEST, WORK, RUN = "manifest.json", ".mper", "run.json"
_FORMAT, _VERSION = "mper-cohort", 1
_ADVICE = "choose another folder, or segment all of them again with --overwrite"

Entry = dict[str, Any]


@dataclass(frozen=True)
class CohortScan:
    """A scan of a cohort.

    Parameters
    ----------
    key : str
        The name of its mask below the folder of the results, with ``/``.
    scan : Path
    files : tuple of Path
        Of a DICOM series that was found below a folder; empty where the scan is a file or folder of its own.
    region_mm : six numbers or None
        The region of a case of a dataset, as `mper.roi.Box`; it is segmented again when another one is set.
    """

    key: str
    scan: Path
    files: tuple[Path, ...] = ()
    region_mm: Box | None = None

    def on_disk(self) -> ScanFiles:
        """Its files.

        Raises
        ------
        OSError
            If one cannot be looked up.
        """
        return ScanFiles.of(self.scan, self.files)


@dataclass(frozen=True)
class CohortRun:
    """What has to be the same for all masks of a cohort.

    Parameters
    ----------
    model : mapping
        name, version, sha256.
    options : mapping of str to JSON
        Those that change the results.
    """

    model: Mapping[str, str]
    options: Mapping[str, Any]

    def header(self) -> Entry:
        """The manifest without entries."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "model": dict(self.model),
            "options": json.loads(json.dumps(dict(self.options))),
            "software": software(),
            "started": now(),
        }


@dataclass
class CohortFolder:
    """The folder of the results of a cohort.

    Parameters
    ----------
    path : Path
    header : dict
        The manifest without entries.
    entries : dict of str to dict
        By the key of the scan, the newest of each.
    """

    path: Path
    header: Entry
    entries: dict[str, Entry] = field(default_factory=dict)
    _positions: dict[Path, int] = field(default_factory=dict, repr=False)  # up to which each log is read

    @classmethod
    def read(cls, path: Path) -> CohortFolder | None:
        """The cohort in a folder; None where there is none.

        Raises
        ------
        ValueError
            If its manifest is damaged, or of another version or kind.
        """
        found = [file for file in (path / WORK / RUN, path / MANIFEST) if file.is_file()]
        if not found:
            return None
        stored = {file: _checked(file) for file in found}
        header = {name: value for name, value in stored[found[0]].items() if name != "cases"}
        folder = cls(path, header)
        for file in found:
            folder._add(stored[file].get("cases", ()))
        folder.update()
        return folder

    @classmethod
    def begin(cls, path: Path, run: CohortRun, scans: Sequence[CohortScan], overwrite: bool = False) -> CohortFolder:
        """Begin a cohort, or go on with the one in the folder.

        Parameters
        ----------
        path : Path
            The folder, which exists.
        run : CohortRun
        scans : sequence of CohortScan
        overwrite : bool
            Forget what the folder holds; the masks are replaced one by one.

        Raises
        ------
        ValueError
            If the folder holds the results of another model, of other options or of another cohort, or its manifest
            is damaged.
        """
        before = None if overwrite else cls.read(path)
        header = run.header()
        if before is not None:
            before.check_run(run)
            before._check_scans(scans)
            header["started"] = before.header.get("started", header["started"])
        folder = cls(path, header, before.entries if before else {})
        (path / WORK).mkdir(exist_ok=True)
        if overwrite:
            _remove_logs(path)
            (path / MANIFEST).unlink(missing_ok=True)
        write_json(path / WORK / RUN, header)
        return folder

    @property
    def model_sha256(self) -> str:
        """The checksum of the model of the manifest."""
        return str(self.header["model"]["sha256"])

    def state(self, scan: CohortScan) -> str:
        """``new`` (to be segmented), ``done``, or ``edited``: a result was changed since, by a person perhaps."""
        if self.edited(scan):  # looked at first: whatever else has changed, a person's work is not replaced
            return "edited"
        entry = self.entries.get(scan.key)
        if entry is None or "error" in entry or self.missing(scan) or not scan.on_disk().are(entry["scan"]):
            return "new"
        region = entry.get("region_mm")
        return "done" if (tuple(region) if region else None) == scan.region_mm else "new"

    def edited(self, scan: CohortScan) -> list[str]:
        """The results of a scan, as its entry names them, that were changed since."""
        written = self.entries.get(scan.key, {}).get("written", {})
        there = {name: path for name in written if (path := self.path / name).is_file()}
        return [name for name, path in there.items() if file_sha256(path) != written[name]]

    def missing(self, scan: CohortScan) -> list[str]:
        """The results of a scan, as its entry names them, that are no longer there."""
        written = self.entries.get(scan.key, {}).get("written", {})
        return [name for name in written if not (self.path / name).is_file()]

    def keep_edited(self, scan: CohortScan) -> None:
        """Count a scan with edited results as segmented, also where a later attempt at it failed."""
        entry = self.entries[scan.key] | {"edited": self.edited(scan)}
        if "results" in entry:
            entry.pop("error", None)
        self.entries[scan.key] = entry

    def finish(self, scans: Sequence[CohortScan]) -> list[Entry]:
        """Write the manifest, and remove the logs that it replaces; returns the entries in the order of the scans.

        Scans of an earlier run that are no longer asked for come last.
        """
        keys = [scan.key for scan in scans]
        asked = set(keys)
        entries = [self.entries[key] for key in keys if key in self.entries]
        others = [entry for key, entry in self.entries.items() if key not in asked]
        failed = sum("error" in entry for entry in entries)
        figures = {"scans": len(keys), "segmented": len(entries) - failed, "failed": failed}
        write_json(self.path / MANIFEST, {**self.header, "finished": now(), **figures, "cases": [*entries, *others]})
        _remove_logs(self.path)
        if figures["segmented"] == len(keys):  # what failed may have left a log that tells why
            shutil.rmtree(self.path / WORK, ignore_errors=True)
        return [*entries, *others]

    def update(self) -> list[Entry]:
        """Read what the logs have gained; returns the entries that are new."""
        before, own = dict(self.entries), self.model_sha256
        found = []
        for log in sorted((self.path / WORK).glob("*.jsonl")):
            entries, self._positions[log] = read_entries(log, self._positions.get(log, 0))
            found += [entry for entry in entries if entry.get("model", own) == own]  # older versions name no model
        self._add(sorted(found, key=lambda entry: entry["finished"]))
        return [entry for key, entry in self.entries.items() if before.get(key) is not entry]

    def _add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            older = self.entries.get(entry["key"])
            if older is None or entry["finished"] > older["finished"]:
                self.entries[entry["key"]] = _after(older, entry) if older and "error" in entry else entry

    def check_run(self, run: CohortRun) -> None:
        """Raise ValueError if the masks are of another model, or were made with other options."""
        there, wanted = self.header["model"], run.model
        if (there["sha256"], there.get("version")) != (wanted["sha256"], wanted["version"]):
            theirs, ours = _describe(there), _describe(wanted)
            line = f"{self.path} holds masks of the model {theirs}, this run has {ours}; {_ADVICE}"
            raise ValueError(Coded(line, "cohort-of-another-model", folder=self.path.name, theirs=theirs, ours=ours))
        options = json.loads(json.dumps(dict(run.options)))
        for name in sorted({*options, *self.header["options"]}):
            old, new = self.header["options"].get(name), options.get(name)
            if (None if old is False else old) != (None if new is False else new):  # an older mper had no such option
                option = f"--{name.replace('_', '-')}"
                line = (
                    f"{self.path} holds masks that were made {_with(option, old)}, this run is {_with(option, new)}; "
                )
                line += f"take the same options, or {_ADVICE}"
                raise ValueError(Coded(line, "cohort-of-other-options", folder=self.path.name))

    def _check_scans(self, scans: Sequence[CohortScan]) -> None:
        """Refuse another cohort: other scans under the same names, or none of the same scans."""
        asked = {scan.key: scan for scan in scans}
        common = [key for key in self.entries if key in asked]
        others = [
            key
            for key in common
            if Path(self.entries[key]["input"]).absolute() != asked[key].scan.absolute()
            and not asked[key].on_disk().are(self.entries[key].get("scan", {}))
        ]
        if others or (self.entries and not common):
            named = [self.entries[key]["input"] for key in others or self.entries]
            raise ValueError(
                Coded(
                    f"{self.path} holds the results of another cohort (of {shorten(named, 1)}); choose another folder",
                    "cohort-of-others",
                    folder=self.path.name,
                )
            )


class CohortLog:
    """The log of one program that works on a cohort.

    Parameters
    ----------
    folder : Path
        Of the results.
    model_sha256 : str
        The checksum of the model.
    """

    def __init__(self, folder: Path, model_sha256: str) -> None:
        self.folder, self.model_sha256 = folder, model_sha256
        self.path = folder / WORK / f"{this_host()}-{os.getpid()}-{time.time_ns()}.jsonl"

    def add(self, entry: Entry) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        line = json.dumps(with_codes(entry), ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def segmented(self, scan: CohortScan, results: Sequence[Mapping[str, Any]], files: Iterable[Path]) -> Entry:
        """Add the entry of a scan whose results, with `files`, are written."""
        entry = {
            "key": scan.key,
            "input": str(scan.scan),
            "scan": scan.on_disk().entry(),
            "region_mm": scan.region_mm,
            "results": [dict(result) for result in results],
            "written": self._written(files),
            "model": self.model_sha256,
            "finished": now(),
        }
        self.add(entry)
        return entry

    def failed(self, scan: CohortScan, line: str, files: Iterable[Path] = ()) -> Entry:
        """Add the entry of a scan that could not be segmented; `files` were written before that was known."""
        entry: Entry = {"key": scan.key, "input": str(scan.scan), "error": line}
        if written := self._written(path for path in files if path.is_file()):
            entry["written"] = written
        entry |= {"model": self.model_sha256, "finished": now()}
        self.add(entry)
        return entry

    def _written(self, files: Iterable[Path]) -> dict[str, str]:
        return {_below(self.folder, path): file_sha256(path) for path in files}


def read_entries(log: Path, position: int = 0) -> tuple[list[Entry], int]:
    """The entries of a log from a position on, and the position after them.

    A last line that is not finished, by a killed program perhaps, is left for the next time.
    """
    entries = []
    try:
        with log.open("rb") as stream:
            stream.seek(position)
            text = stream.read()
    except FileNotFoundError:  # a run that ends removes it
        return [], position
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):  # UnicodeDecodeError is one, too
            entry = json.loads(line)
            if _is_entry(entry):
                entries.append(entry)
    return entries, position + len(whole)


def software() -> dict[str, str]:
    """Versions of what computed the masks."""
    from importlib.metadata import PackageNotFoundError, version

    import mper

    found = {"mper": mper.__version__, "python": platform.python_version(), "system": platform.platform()}
    for name in ("torch", "numpy", "SimpleITK"):
        module = sys.modules.get(name)
        with contextlib.suppress(PackageNotFoundError):
            found[name] = str(getattr(module, "__version__", None) or version(name))
    return found


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not isinstance(entry.get("input"), str):
        return False
    whole = {"scan": dict, "results": list, "written": dict}
    needed = {name for name in whole if name in entry} if "error" in entry else whole
    return all(isinstance(entry.get(name), whole[name]) for name in needed) and isinstance(entry.get("finished"), str)


def _after(older: Entry, failed: Entry) -> Entry:
    """The entry of a failed attempt with the results of an earlier one, whose files are still there."""
    if "written" not in older:
        return failed
    entry: Entry = {name: older[name] for name in ("scan", "region_mm", "results") if name in older} | failed
    return entry | {"written": {**older["written"], **failed.get("written", {})}}


def _checked(path: Path) -> Entry:
    entry = read_json(path)
    if entry.get("format") != _FORMAT or entry.get("version") != _VERSION:
        raise ValueError(
            f"{path} is no manifest of a cohort that this mper reads (format {entry.get('format')!r}, version "
            f"{entry.get('version')!r}); choose another folder for the results, or update mper"
        )
    model, cases = entry.get("model"), entry.get("cases", [])
    whole = isinstance(model, dict) and isinstance(model.get("sha256"), str) and isinstance(entry.get("options"), dict)
    if not whole or not isinstance(cases, list) or not all(map(_is_entry, cases)):
        raise ValueError(Coded(f"{path} is damaged; {_ADVICE}", "cohort-damaged", folder=path.parent.name))
    return entry


def _remove_logs(path: Path) -> None:
    for log in (path / WORK).glob("*.jsonl"):
        log.unlink(missing_ok=True)


def _below(folder: Path, path: Path) -> str:
    """The path relative to the folder where it is below it, else as it is."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return str(path.resolve())


def _describe(model: Mapping[str, str]) -> str:
    return f"{model.get('name')} {model.get('version')} (sha256:{str(model.get('sha256'))[:8]})"


def _with(option: str, value: Any) -> str:
    if value in (None, False):
        return f"without {option}"
    text = ",".join(map(str, value)) if isinstance(value, list) else value
    return f"with {option}" if value is True else f"with {option} {text}"


def now() -> str:
    """The time, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
