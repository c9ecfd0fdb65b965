"""Adds scans to the dataset: loaded volumes, files, folders, DICOM series."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from MPERLib import mrml, phases, settings
from MPERLib.engine_session import EngineSession
from MPERLib.engine_words import in_words
from MPERLib.formatting import first_lines
from MPERLib.heart_phase_search import HeartPhaseSearch, Take, ventricle_model
from MPERLib.panel_context import PanelContext
from MPERLib.python_process import PythonProcess
from MPERLib.scan_checksum import ScanChecksums
from slicer.i18n import tr as _

from MPERTrainerLib import loaded_masks
from MPERTrainerLib.case_upload import CaseUpload, OfferedScan
from MPERTrainerLib.import_preview import ImportPreview, needed
from MPERTrainerLib.open_dataset import OpenDataset
from MPERTrainerLib.phases_panel import PhasesPanel


@dataclass(frozen=True)
class _Loaded:
    """A volume of the scene: a phase of it, or its mask with the structures that the values of the mask mean."""

    node: Any
    phase: int | None = None
    mask: Any = None
    structures: Mapping[int, int] = field(default_factory=dict)


class CaseImport:
    """Adds scans one after the other, and shows the progress.

    Files are read by a process on this computer (``mper stage``), also if the engine is a remote one, and sent to the
    engine as voxels and geometry.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    phasesPanel : PhasesPanel
        Asks which phases of a time series are added.
    bar : QProgressBar
        Shown while scans are being added.
    changed : callable
        Called when adding begins and when it ends.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        dataset: OpenDataset,
        phasesPanel: PhasesPanel,
        bar: Any,
        changed: Callable[[], None],
    ):
        self._context, self._session, self._dataset = context, session, dataset
        self._phasesPanel, self._bar, self._changed = phasesPanel, bar, changed
        self._volumes: deque[_Loaded] = deque()  # what is to be added
        self._loaded: list[_Loaded] = []  # what the preview shows
        self._looking: list | None = None  # volumes that are looked at before; another list after *Cancel*
        self._process: PythonProcess | None = None
        self._folder: Path | None = None
        self._total = self._done = self._requested = 0
        self._allRead = self._sending = self._previewing = False
        self._previews: list[dict] = []
        self._preview = ImportPreview(context.ui)
        self._upload = CaseUpload(session, dataset, self._show)  # another one for each import
        self._checksums = ScanChecksums()
        self._search: HeartPhaseSearch | None = None
        self._look: Take | None = None  # takes the phase that the process was asked for
        bar.visible = False
        dataset.onLost(lambda: self.busy and self._clear())

    @property
    def busy(self) -> bool:
        return self._total > 0

    # ---- volumes of the scene

    def addVolumes(self, nodes: Sequence) -> None:
        """Add loaded volumes; of one that a sequence browser shows, the phases that the user chooses."""
        if self._begin(len(nodes)):
            self._previewing, self._previews, self._loaded = True, [], []
            volumes = self._looking = list(nodes)
            self._withCases(lambda: self._lookAt(volumes))

    def _lookAt(self, nodes: list) -> None:
        """Look at one loaded volume after the other, then ask what is added."""
        if self._looking is not nodes:
            return
        if not nodes:
            self._onPreviewed()
            return
        node = nodes.pop(0)

        def looked() -> None:
            if self._looking is nodes:
                self._describe(node)
                self._step()
                self._session.later(lambda: self._lookAt(nodes), "loaded volume is looked at")

        try:
            series = phases.shown(node) is not None
            mrml.geometry_of(node)
        except ValueError as error:
            self._upload.problems.append(str(error))
            self._step()
            self._lookAt(nodes)
            return
        if series:
            looked()
        else:
            self._checksums.compute(node, looked)

    def _describe(self, node: Any) -> None:
        """Rows of the preview for a loaded volume: one for each of its masks, or without one; the first is ticked."""
        if not mrml.alive(node):
            return
        row: dict[str, Any] = {"id": node.GetName(), "mask": None, "notices": []}
        if phases.shown(node) is not None:
            self._addRow(_Loaded(node), {**row, "series": True})
            return
        geometry = mrml.geometry_of(node)
        row |= {"shape": list(geometry.shape), "spacing_mm": list(geometry.spacing_mm or ()) or None}
        row["voxels_sha256"] = self._checksums.of(node)
        masks, near = loaded_masks.masks_of(node)
        if not masks:
            self._addRow(_Loaded(node), row)
        for mask in (*masks, *near):
            about, lines = loaded_masks.described(mask, node, self._upload.labels)
            self._addRow(
                _Loaded(node, mask=mask), {**row, "mask": about, "notices": lines, "ticked": mask in masks[:1]}
            )

    def _addRow(self, loaded: _Loaded, row: dict) -> None:
        self._previews.append({**row, "number": len(self._loaded)})
        self._loaded.append(loaded)

    def _addLoaded(self, scans: list[dict]) -> None:
        """Add what was chosen in the preview of loaded volumes."""
        self._total, self._done = max(len(scans), 1), 0
        self._volumes = deque()
        for scan in scans:
            loaded = self._loaded[scan["number"]]
            structures = {int(value): to for value, to in scan.get("structures", {}).items()}
            self._volumes.append(replace(loaded, mask=loaded.mask if scan.get("mask") else None, structures=structures))
        self._show()
        self._nextVolume()

    def _nextVolume(self) -> None:
        if not self._volumes:
            self._finish()
            return
        loaded = self._volumes.popleft()
        node, number = loaded.node, loaded.phase
        if not mrml.alive(node):
            self._step()
            self._nextVolume()
            return
        now = phases.shown(node)
        if number is None and now is not None:
            texts = [phases.phase(node, n + 1).text for n in range(now.count)]
            find = self._finder(now.count, lambda n, take: _hand(node, n, take))
            chosen = lambda numbers: self._onVolumePhases(node, numbers)  # noqa: E731
            self._phasesPanel.show(node.GetName(), texts, chosen, find=find)
            return
        try:
            mrml.refuse_nonlinear(node)
            voxels = phases.voxels_of(node, number)
            header = _header(mrml.geometry_of(voxels))
        except ValueError as error:
            self._upload.problems.append(str(error))
            self._step()
            self._nextVolume()
            return

        upload = self._upload

        def added(case: str | None) -> None:
            if case and mrml.alive(node) and number is None:  # a node that shows many phases is none of the cases
                mrml.mark_case(node, upload.into or "", case)
            if self._goesOn(upload):
                self._step()
                self._nextVolume()
            else:
                self._dataset.refresh()

        source = {"format": "volume loaded in Slicer"}
        name = node.GetName()
        if number is not None:
            source["phase"] = str(number)
            name = f"{name}-phase-{number}"
        array, shown = mrml.array_of(voxels), None if self._session.engine.isRemote else name

        def send() -> None:
            if not self._goesOn(upload):
                return
            if not mrml.alive(node):
                added(None)
                return
            mask = None
            if loaded.mask is not None and not mrml.alive(loaded.mask):
                text = _("{scan}: its mask is not in the scene any more; added without a label")
                upload.problems.append(text.format(scan=name))
            elif loaded.mask is not None:
                try:
                    mask = loaded_masks.label_array(loaded.mask, node, loaded.structures)
                except ValueError as error:
                    upload.problems.append(f"{name}: {error}")
            upload.offer(OfferedScan(self._checksums.of(voxels), array, header, shown, source, mask), added)

        self._checksums.compute(voxels, send)

    def _onVolumePhases(self, node: Any, numbers: list[int]) -> None:
        self._endSearch()
        self._volumes.extendleft(_Loaded(node, number) for number in reversed(numbers))
        if numbers:
            self._total += len(numbers) - 1
        else:
            self._upload.problems.append(_("{scan}: no phase was chosen").format(scan=node.GetName()))
            self._step()
        self._nextVolume()

    # ---- files, folders, series

    def addSources(self, sources: Sequence[tuple[str, str | None]]) -> None:
        """Add files or folders, each with a SeriesInstanceUID to choose, or None."""
        if not sources or not self._begin(len(sources)):
            return
        request = {
            "sources": [{"path": path, "series": series} for path, series in sources],
            "labels": self._upload.labels,
            "phases": True,
            "types": True,
            "preview": True,
        }
        self._withCases(lambda: self._stage(request))

    def _stage(self, request: dict) -> None:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="mper-stage-"))
            self._process = PythonProcess(["-m", "mper", "stage", str(self._folder)], self._onLine, self._onEnded)
        except OSError as error:
            self._abandon(str(error))
            return
        self._process.write(json.dumps(request) + "\n")

    def _onLine(self, line: str) -> None:
        try:
            answer = json.loads(line, object_hook=in_words)
        except ValueError:  # printed by a library
            return
        if isinstance(answer, dict) and "event" in answer:
            self._onAnswer(answer)

    def _onAnswer(self, answer: dict) -> None:
        event = answer["event"]
        if event == "found":
            self._total = max(answer["cases"], 1)
            self._previewing, self._previews = True, []
            self._show()
            if answer["cases"]:
                self._requestNext()
        elif event == "preview":
            self._previews.append(answer)
            self._step()
            self._requestNext()
        elif event == "previewed":
            self._onPreviewed()
        elif event == "notice":
            self._upload.problems.append(answer["message"])
        elif event == "failed":
            self._endSearch()
            self._phasesPanel.hide()
            self._upload.problems.append(f"{answer['id']}: {answer['message']}")
            if self._total and self._requested > self._done:
                self._step()
                self._requestNext()
        elif event == "phases":
            find = self._finder(len(answer["phases"]), self._askLook)
            self._phasesPanel.show(answer["id"], answer["phases"], self._onPhases, answer["marked"], find)
        elif event == "phase" and self._look is not None:
            image, take = answer["image"], self._look
            take(_mapped(image), {"affine": image["affine"], "spacing_known": image["spacing_known"]})
        elif event == "types":
            self._phasesPanel.showTypes(answer["id"], answer["types"], self._onTypes)
        elif event == "case":
            self._upload.problems += [f"{answer['id']}: {text}" for text in answer["notices"]]
            self._sendStaged(answer)
        elif event == "finished":  # the last scan may still be on its way to the engine
            self._allRead = True
            if not self._sending:
                self._finish()

    def _onPreviewed(self) -> None:
        """All scans were looked at: ask what is added, if there is something to decide."""
        rows, known = self._previews, self._upload.scans
        self._previewing = False
        if needed(rows, known):
            self._bar.visible = False
            add = self._addLoaded if self._loaded else self._addChosen
            self._preview.show(rows, self._upload.labels, known, self._upload.problems, add, self.cancel)
        elif self._process is not None:
            self._addChosen([{"number": row["number"]} for row in rows])
        else:
            self._addLoaded([{"number": row["number"]} for row in rows])

    def _addChosen(self, scans: list[dict]) -> None:
        if self._process is None:
            return
        self._total, self._done, self._requested = max(len(scans), 1), 0, 0
        self._show()
        self._process.write(json.dumps({"add": scans}) + "\n")
        if scans:
            self._requestNext()

    def _onPhases(self, numbers: list[int]) -> None:
        self._endSearch()
        self._answer("phases", numbers)

    def _onTypes(self, numbers: list[int]) -> None:
        self._answer("types", numbers)

    def _answer(self, what: str, numbers: list[int]) -> None:
        if self._process is not None:
            self._total += max(len(numbers) - 1, 0)
            self._process.write(json.dumps({what: numbers}) + "\n")

    # ---- the search for ED and ES among the phases of a scan

    def _finder(self, count: int, voxels: Callable[[int, Take], None]) -> Callable[[], None] | None:
        """What starts the search; None where no model segments the left ventricle."""
        session, panel = self._session, self._phasesPanel
        model = ventricle_model(session.models, session.model(settings.modelInUse()))
        if model is None:
            return None

        def done(ed: int, es: int) -> None:
            text = _("ED is phase {ed} and ES is phase {es} of {count}, by the left ventricle that {model} finds.")
            panel.select((ed, es), text.format(ed=ed, es=es, count=count, model=session.modelTitle(model)))

        def find() -> None:
            self._search = HeartPhaseSearch(session, model, count, voxels, panel.searching, done, panel.fail)

        return find

    def _askLook(self, number: int, take: Take) -> None:
        """Ask the process for the voxels of a phase."""
        self._look = take
        if self._process is not None:
            self._process.write(json.dumps({"look": number}) + "\n")

    def _endSearch(self) -> None:
        search, self._search, self._look = self._search, None, None
        if search is not None:
            search.cancel()

    def _requestNext(self) -> None:
        if self._previewing and self._done >= self._total:
            return
        self._requested = self._done + 1
        if self._allRead:
            self._finish()
        elif self._process is not None:
            self._process.write("next\n")

    def _sendStaged(self, answer: dict) -> None:
        image, mask = answer["image"], answer["mask"]
        header = {"affine": image["affine"], "spacing_known": image["spacing_known"]}
        # Names of DICOM files, and of files that go to another computer, may identify the patient.
        name = None if self._session.engine.isRemote or "file" not in answer["source"] else answer["id"]

        upload = self._upload

        def added(_case: str | None) -> None:
            for entry in (image, mask):
                if entry:
                    with contextlib.suppress(OSError):  # Windows keeps it while it is mapped; it goes with the folder
                        Path(entry["file"]).unlink()
            if self._goesOn(upload):
                self._sending = False
                self._step()
                self._requestNext()
            else:
                self._dataset.refresh()

        self._sending = True
        mapped = _mapped(mask) if mask else None
        offered = OfferedScan(answer["voxels_sha256"], _mapped(image), header, name, answer["source"], mapped)
        upload.offer(offered, added)

    def _onEnded(self, reason: str | None) -> None:
        if self._process is not None and not self._allRead:  # it ended before all was read
            self._process = None
            self._abandon(_("The scans cannot be read: {reason}").format(reason=reason or _("the program has stopped")))

    # ---- progress

    def _begin(self, count: int) -> bool:
        if self.busy:
            self._context.showMessage(_("Scans are already being added. Wait, or cancel."))
            return False
        if not self._dataset.id:
            return False
        if not self._session.engine.mayUpload:
            self._context.showMessage(
                _("Scans are sent to the remote engine only with your consent. Give it in MPER Segment, under Engine.")
            )
            return False
        self._context.clearMessage()
        upload = self._upload = CaseUpload(
            self._session, self._dataset, lambda share: self._show(share) if self._goesOn(upload) else None
        )
        self._total, self._done, self._requested = max(count, 1), 0, 0
        self._allRead = self._sending = False
        self._show()
        self._changed()
        return True

    def _goesOn(self, upload: CaseUpload) -> bool:
        """Whether an import was not cancelled; its last scan may arrive while the next import has begun."""
        return self.busy and upload is self._upload

    def _withCases(self, begin: Callable[[], None]) -> None:
        """Read which scans the dataset has, also those that were added just before *Cancel*, then begin."""
        upload = self._upload

        def take(cases: list[dict]) -> None:
            if self._goesOn(upload):
                upload.taken = [case["id"] for case in cases]
                upload.scans = {case["voxels_sha256"]: case["id"] for case in cases if case.get("voxels_sha256")}
                begin()

        def failed(message: str) -> None:
            if self._goesOn(upload):
                self._abandon(message)

        self._session.get(self._dataset.route("cases", of=upload.into), take, failed)

    def _step(self) -> None:
        self._done += 1
        self._show()

    def _show(self, share: float = 0.0) -> None:
        self._bar.visible = self.busy
        if self.busy:
            self._bar.maximum = 1000
            self._bar.value = round(1000 * min(1.0, (self._done + 0.9 * share) / self._total))
            text = _("Reading scan {n} of {total}") if self._previewing else _("Adding scan {n} of {total}")
            self._bar.format = text.format(n=min(self._done + 1, self._total), total=self._total)

    def _finish(self) -> None:
        count, problems = len(self._upload.added), self._upload.problems
        cases = ", ".join(self._upload.added[:5])
        cases = cases if count <= 5 else _("{cases} and {n} more").format(cases=cases, n=count - 5)
        text = _("Added: {cases}.").format(cases=cases)
        text = text if count else _("No scan was added.")
        text = "\n".join([text, *first_lines(problems)])
        self._clear()
        self._context.showMessage(text)
        self._dataset.refresh()

    def _abandon(self, message: str) -> None:
        added = bool(self._upload.added)
        self._clear()
        self._context.showMessage(message)
        if added:
            self._dataset.refresh()

    def cancel(self) -> None:
        """Cancel it; scans that were added stay."""
        if self.busy:
            self._clear()
            self._dataset.refresh()

    def _clear(self) -> None:
        self._preview.hide()
        self._previewing = False
        self._endSearch()
        self._phasesPanel.hide()
        self._total = 0
        self._volumes.clear()
        self._loaded, self._looking = [], None
        process, self._process = self._process, None
        folder, self._folder = self._folder, None

        def remove() -> None:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

        if process is not None:
            process.stop(remove)
        else:
            remove()
        self._show()
        self._changed()

    def close(self) -> None:
        self._changed = lambda: None
        self._clear()


def _header(geometry: Any) -> dict[str, Any]:
    """What goes with voxels to the engine."""
    return {"affine": geometry.affine.tolist(), "spacing_known": geometry.spacing_known}


def _hand(node: Any, number: int, take: Take) -> None:
    """Give the voxels of a phase of a loaded volume; ValueError if there are none."""
    voxels = phases.voxels_of(node, number)
    take(mrml.array_of(voxels), _header(mrml.geometry_of(voxels)))


def _mapped(entry: dict) -> np.ndarray:
    """The array of a file, read from the disk only while it is sent."""
    return np.memmap(entry["file"], np.dtype(entry["dtype"]).newbyteorder("<"), "r", shape=tuple(entry["shape"]))
