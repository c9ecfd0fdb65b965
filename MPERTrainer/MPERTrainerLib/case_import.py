"""Bringing scans into the dataset: loaded volumes, files, folders, DICOM series."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import qt
from MPERLib import callbacks, libraryHome, mrml, settings
from MPERLib.engine_process import environment
from slicer.i18n import tr as _

from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.engine_session import Session

SPLIT = "train"
_KILL_AFTER_MS = 5000


class CaseImport:
    """Adds scans one after the other, and tells how it goes.

    What lies in files is read by a process of its own on this computer (``mper stage``), also where the engine is a
    remote one, and sent to the engine as voxels and geometry.

    Parameters
    ----------
    session : Session
    caseNodes : CaseNodes
    bar : QProgressBar
        Shown while scans are being added.
    changed : callable
        Called when adding begins and when it ends.
    """

    def __init__(self, session: Session, caseNodes: CaseNodes, bar, changed: Callable[[], None]):
        self.session, self.caseNodes, self.bar, self._changed = session, caseNodes, bar, changed
        self._volumes: deque = deque()
        self._process = None
        self._slots: dict[str, Callable] = {}
        self._folder: Path | None = None
        self._output = b""
        self._total = self._done = self._asked = 0
        self._all = self._sending = False
        self._problems: list[str] = []
        self._added: list[str] = []
        self._dataset: str | None = None
        bar.visible = False
        session.onLost(lambda: self.busy and self._clear())

    @property
    def busy(self) -> bool:
        return self._total > 0

    # ---- volumes of the scene

    def addVolumes(self, nodes: Sequence) -> None:
        """Add volumes that are loaded."""
        if not self._begin(len(nodes)):
            return
        self._volumes = deque(nodes)
        self._nextVolume()

    def _nextVolume(self) -> None:
        if not self._volumes:
            self._finish()
            return
        node = self._volumes.popleft()
        if not mrml.alive(node):
            self._step()
            self._nextVolume()
            return
        try:
            geometry = mrml.geometry_of(node)
        except ValueError as error:
            self._problems.append(str(error))
            self._step()
            self._nextVolume()
            return
        header = {"affine": geometry.affine.tolist(), "spacing_known": geometry.spacing_known}

        def added(case: str | None) -> None:
            if case and mrml.alive(node):
                self.caseNodes.note(node, case)
            self._step()
            self._nextVolume()

        name = None if self.session.engine.isRemote else node.GetName()
        self._send(mrml.array_of(node), header, name, {"format": "volume loaded in Slicer"}, None, added)

    # ---- files, folders, series

    def addSources(self, sources: Sequence[tuple[str, str | None]]) -> None:
        """Add files or folders, each with the SeriesInstanceUID that is wanted of it, or None."""
        if not sources or not self._begin(len(sources)):
            return
        try:
            python = settings.enginePython()
            self._folder = Path(tempfile.mkdtemp(prefix="mper-stage-"))
        except OSError as error:
            self._abandon(str(error))
            return
        request = {
            "sources": [{"path": path, "series": series} for path, series in sources],
            "labels": self.session.dataset["labels"],
        }
        process = self._process = qt.QProcess()
        process.setProcessEnvironment(environment(python, libraryHome(), settings.packagesFolder(), {}))
        self._slots = {
            "readyReadStandardOutput()": callbacks.slot(self._onOutput, "staged scan"),
            "finished(int,QProcess::ExitStatus)": callbacks.slot(self._onEnded, "staging ended"),
            "errorOccurred(QProcess::ProcessError)": callbacks.slot(self._onBroken, "staging broke"),
        }
        for signal, slot in self._slots.items():
            process.connect(signal, slot)
        self._output = b""
        process.start(str(python), ["-m", "mper", "stage", str(self._folder)])
        process.write(json.dumps(request).encode() + b"\n")

    def _onOutput(self) -> None:
        self._output += self._process.readAllStandardOutput().data()
        *lines, self._output = self._output.split(b"\n")
        for line in lines:
            try:
                answer = json.loads(line)
            except ValueError:  # something that a library prints
                continue
            self._onAnswer(answer)

    def _onAnswer(self, answer: dict) -> None:
        event = answer["event"]
        if event == "found":
            self._total = max(answer["cases"], 1)
            self._show()
            self._askNext()
        elif event == "notice":
            self._problems.append(answer["message"])
        elif event == "failed":
            self._problems.append(f"{answer['id']}: {answer['message']}")
            if self._total and self._asked > self._done:
                self._step()
                self._askNext()
        elif event == "case":
            self._problems += [f"{answer['id']}: {text}" for text in answer["notices"]]
            self._sendStaged(answer)
        elif event == "finished":  # the last scan may still be on its way to the engine
            self._all = True
            if not self._sending:
                self._finish()

    def _askNext(self) -> None:
        self._asked = self._done + 1
        if self._all:
            self._finish()
        elif self._process is not None:
            self._process.write(b"next\n")

    def _sendStaged(self, answer: dict) -> None:
        image, mask = answer["image"], answer["mask"]
        header = {"affine": image["affine"], "spacing_known": image["spacing_known"]}
        # Names of DICOM files and of what is on its way to another computer may tell who the patient is.
        name = None if self.session.engine.isRemote or "file" not in answer["source"] else answer["id"]

        def added(_case: str | None) -> None:
            self._sending = False
            for entry in (image, mask):
                if entry:
                    with contextlib.suppress(OSError):  # Windows keeps it while it is mapped; it goes with the folder
                        Path(entry["file"]).unlink()
            self._step()
            self._askNext()

        self._sending = True
        self._send(_mapped(image), header, name, answer["source"], _mapped(mask) if mask else None, added)

    def _onBroken(self) -> None:
        if self._process is not None and self._process.state() == qt.QProcess.NotRunning:
            self._abandon(_("The scans could not be read: {error}").format(error=self._process.errorString()))

    def _onEnded(self) -> None:
        if self._process is None:
            return
        self._onOutput()
        if self._process is not None and not self._all:  # it ended before it had told everything
            text = self._process.readAllStandardError().data().decode("utf-8", errors="replace").strip()
            self._abandon(text.splitlines()[-1] if text else _("The program that reads scans ended without a word."))

    # ---- one scan

    def _send(
        self,
        array: np.ndarray,
        header: dict,
        name: str | None,
        source: dict,
        mask: np.ndarray | None,
        added: Callable[[str | None], None],
    ) -> None:
        """Send a scan, make it a case, and give it its mask; ``added(case id or None)``.

        Without a name the engine numbers the case.
        """
        session = self.session
        body = {"source": source, "split": SPLIT} | ({"id": self._freeName(name)} if name else {})

        def failed(message: str) -> None:
            self._problems.append(f"{name}: {message}" if name else message)
            added(None)

        def withScan(answer: dict) -> None:
            scan = answer["scan"]

            def withCase(case: dict) -> None:
                session.delete(f"/scans/{scan}")
                self._added.append(case["id"])
                self._problems += [f"{case['id']}: {text}" for text in case.get("notices", [])]
                if mask is None:
                    added(case["id"])
                    return
                route = (
                    session.path("cases", case["id"], "labels", dataset=self._dataset) + "?author=import&how=imported"
                )
                session.postArray(route, mask, {"start": [0, 0, 0]}, lambda _answer: added(case["id"]), failed)

            session.post(session.path("cases", dataset=self._dataset), {**body, "scan": scan}, withCase, failed)

        session.postArray("/scans", array, header, withScan, failed, self._show)

    def _freeName(self, wanted: str) -> str:
        """An id that no case has yet, and that can be the name of a folder."""
        taken = {case["id"].casefold() for case in self.session.cases} | {case.casefold() for case in self._added}
        base = re.sub(r'[<>:"/\\|?*~\x00-\x1f]+', "-", wanted).strip(" .-")[:100] or "scan"
        name, number = base, 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        return name

    # ---- how it goes

    def _begin(self, count: int) -> bool:
        if self.busy:
            self.session.tell(_("Scans are being added; wait for them, or cancel."))
            return False
        if not self.session.dataset:
            return False
        if not self.session.engine.mayUpload:
            self.session.tell(_("Agree in MPER Segment, under Engine, to sending scans to the remote engine first."))
            return False
        self.session.tell("")
        self._dataset = self.session.dataset["id"]
        self._total, self._done, self._asked, self._problems, self._added = max(count, 1), 0, 0, [], []
        self._all = self._sending = False
        self._show()
        self._changed()
        return True

    def _step(self) -> None:
        self._done += 1
        self._show()

    def _show(self, share: float = 0.0) -> None:
        self.bar.visible = self.busy
        if self.busy:
            self.bar.maximum = 1000
            self.bar.value = round(1000 * min(1.0, (self._done + 0.9 * share) / self._total))
            self.bar.format = _("Adding scan {n} of {total}").format(
                n=min(self._done + 1, self._total), total=self._total
            )

    def _finish(self) -> None:
        count, problems = len(self._added), self._problems
        words = _("Added: {cases}.").format(cases=", ".join(self._added[:5]) + (" …" if count > 5 else ""))
        words = words if count else _("Nothing was added.")
        if problems:
            more = "" if len(problems) < 4 else "\n" + _("and {n} more").format(n=len(problems) - 3)
            words += "\n" + "\n".join(problems[:3]) + more
        self._clear()
        self.session.tell(words)
        self.session.refresh()

    def _abandon(self, message: str) -> None:
        added = bool(self._added)
        self._clear()
        self.session.fail(message)
        if added:
            self.session.refresh()

    def cancel(self) -> None:
        """Stop; what was added stays."""
        if self.busy:
            self._clear()
            self.session.refresh()

    def _clear(self) -> None:
        self._total = 0
        self._volumes.clear()
        process, self._process = self._process, None
        if process is not None:
            for signal, slot in self._slots.items():
                process.disconnect(signal, slot)
            self._slots = {}
            process.closeWriteChannel()  # it ends when its standard input does
            _retire(process, self._folder)
        elif self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        self._show()
        self._changed()

    def close(self) -> None:
        self._changed = lambda: None
        self._clear()


_retired: list = []  # processes that are about to end; a QProcess that is deleted kills its child


def _retire(process, folder: Path | None) -> None:
    def gone() -> None:
        if process in _retired:
            _retired.remove(process)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    if process.state() == qt.QProcess.NotRunning:
        gone()
        return
    _retired.append(process)
    process.connect("finished(int,QProcess::ExitStatus)", callbacks.slot(gone, "staging retired"))
    qt.QTimer.singleShot(
        _KILL_AFTER_MS, callbacks.slot(lambda: process in _retired and process.kill(), "staging killed")
    )


def _mapped(entry: dict) -> np.ndarray:
    """The array of a file, read from the disk only while it is sent."""
    return np.memmap(entry["file"], np.dtype(entry["dtype"]).newbyteorder("<"), "r", shape=tuple(entry["shape"]))
