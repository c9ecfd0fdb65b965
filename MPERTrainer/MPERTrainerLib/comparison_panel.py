"""Panel Compare: two models on the locked hold-out, and the choice of the one that MPER Segment uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from MPERLib import formatting, mrml, settings
from MPERLib.callbacks import slot
from MPERLib.engine import route
from MPERLib.engine_session import AUTO, EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Cell, Table, chosen, fill_box
from slicer.i18n import tr as _

from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.job_button import JobButton
from MPERTrainerLib.open_dataset import OpenDataset, structureKey

_MASKS = (  # the engine's name of the mask, its colour in the views, its name in the scene
    ("before", (255, 200, 60), _("{case} (other model)")),
    ("after", (80, 220, 120), _("{case} (this version)")),
)
_EXPERT = ((255, 255, 255), _("{case} (label)"))  # the colour and the name of the expert's label
_GROUP = "compare"
_WORSE = "#c0392b"
_BETTER = "#1e8449"
_MISSED = 0.005  # a Dice below is 0.00
_SAME = 0.0005  # a smaller difference is not seen in three decimals
_OF_A_MASK = "located"  # code of a note about the mask of one case, which is no part of the comparison


class ComparisonPanel:
    """Measures two models, shows both masks of a case, and puts a version in use.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    caseNodes : CaseNodes
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: OpenDataset, caseNodes: CaseNodes):
        self._context, self._session, self._dataset, self._caseNodes = context, session, dataset, caseNodes
        self._datasetId: str | None = None
        self._chosen: dict[str, str] = {}  # what the user has chosen in the two boxes
        self._result: dict[str, Any] | None = None
        self._pair: tuple[str, str] | None = None  # the models that the result compares
        self._jobId: str | None = None
        self._wanted: str | None = None  # the case whose masks are to be shown
        ui = context.ui
        self.job = JobButton(context, session, dataset, ui.compareButton, ui.compareProgress)
        self.table = Table(ui.compareTable, stretched=0, shortest=0)
        self._boxes = {"new": ui.newSelector, "old": ui.oldSelector}
        for role, box in self._boxes.items():
            box.connect("currentIndexChanged(int)", slot(lambda _index, role=role: self._onChosen(role)))
        ui.compareButton.connect("clicked()", slot(self.compare))
        ui.compareTable.connect("itemSelectionChanged()", slot(self.showCase))
        ui.useButton.connect("clicked()", slot(self.use))
        ui.backButton.connect("clicked()", slot(self.goBack))
        dataset.onChange(self.update)

    # ---- the two models

    def update(self) -> None:
        """The dataset has changed: fill the boxes."""
        if self._dataset.id != self._datasetId:
            self._datasetId, self._chosen, self._result, self._pair = self._dataset.id, {}, None, None
        self._context.ui.compareSection.enabled = self._dataset.id is not None
        if self._dataset.id:
            self._fillBoxes()
        self._show()

    def propose(self, version: str) -> None:
        """Choose a version that was just trained, by its id."""
        self._chosen["new"] = version
        self.update()

    def _fillBoxes(self) -> None:
        versions = [(v["id"], _("{name}, version {version}").format(**v)) for v in self._dataset.versions()]
        models = self._session.models
        bundled = [(m["id"], m["title"]) for m in models if m["origin"] == "bundled" and self._related(m)]
        inUse = self._dataset.modelInUse()
        others = versions + bundled
        known = self._session.model(inUse)
        listed = inUse in [model for model, _title in others]
        if not listed and (known is None or self._related(known)):  # of another dataset
            others.append((inUse, self._title(inUse)))
        new = self._chosen.get("new") or (versions[0][0] if versions else None)
        old: str | None = self._chosen.get("old") or inUse
        if old == new:
            old = next((model for model, _title in others if model != new), None)
        fill_box(self._boxes["new"], versions, new)
        fill_box(self._boxes["old"], others, old)

    def _related(self, model: dict) -> bool:
        """Whether a model segments one of the dataset's structures."""
        return bool({*map(structureKey, model["labels"])} & {*map(structureKey, self._dataset.labels)})

    def _onChosen(self, role: str) -> None:
        self._chosen[role] = chosen(self._boxes[role])
        self._show()

    def _title(self, model: str) -> str:
        """The name of a model by its id."""
        for version in self._dataset.versions():
            if version["id"] == model:
                return _("{name}, version {version}").format(**version)
        found = self._session.model(model)
        return formatting.model_name(found) if found is not None else model

    def _show(self) -> None:
        ui = self._context.ui
        new, old, inUse = chosen(self._boxes["new"]), chosen(self._boxes["old"]), self._dataset.modelInUse()
        reason = ""
        if not new:
            reason = _("Train a version first.")
        elif not self._dataset.holdout:
            reason = _("Lock a hold-out set first (under Cases); otherwise the comparison is biased.")
        elif new == old:
            reason = _("Choose two different models.")
        result = self._result if self._pair == (new, old) and not reason else None
        ui.compareButton.enabled = self.job.running or not reason
        ui.compareWords.text = reason or (result["words"] if result else "")
        ui.compareWords.visible = bool(ui.compareWords.text)
        ui.compareTable.visible = ui.compareHint.visible = result is not None
        ui.useButton.text = _useText(result)
        ui.useButton.enabled = bool(new) and new != inUse
        ui.useButton.toolTip = _("Use {model} in MPER Segment").format(model=self._title(new)) if new else ""
        back = settings.previousModel(map(structureKey, self._dataset.labels))
        ui.backButton.visible = bool(back) and back != inUse
        ui.backButton.toolTip = _("Use {model} again").format(model=self._title(back))
        structures = ", ".join(label["name"] for label in self._dataset.labels)
        text = _("In use for {structures}: {model}.").format(structures=structures, model=self._title(inUse))
        if ui.backButton.visible:
            text += " " + _("Before: {model}.").format(model=self._title(back))
        ui.currentLabel.text = text

    # ---- comparing

    def compare(self) -> None:
        """Start the comparison, or cancel it."""
        if self.job.running:
            self.job.cancel()
            return
        pair = chosen(self._boxes["new"]), chosen(self._boxes["old"])
        self._chosen = {"new": pair[0], "old": pair[1]}  # stays, whatever is put in use meanwhile

        def done(result: dict, job: str, notices: list[str]) -> None:
            own = [line for line in notices if _codeOfNote(line, self.job.codes) == _OF_A_MASK]
            about = [line for line in notices if line not in own]
            text = "\n".join([*_missed(result["cases"]), result["words"], *about[:3]])
            self._result, self._pair, self._jobId = {**result, "words": text}, pair, job
            self._wanted = None
            self._fillTable(result["cases"], own)
            self._show()

        self.job.start(self._dataset.route("compare"), {"new": pair[0], "old": pair[1], "device": AUTO}, done)

    def _fillTable(self, cases: list[dict], notes: list[str]) -> None:
        """Fill the table; `notes` about masks are tooltips of their cases."""
        rows, tips = [], []
        for case in cases:
            before, after = case["before"], case["after"]
            change = Cell(formatting.UNKNOWN)
            if before is not None and after is not None:
                colour = "" if abs(after - before) < _SAME else _BETTER if after > before else _WORSE
                change = Cell(f"{after - before:+.3f}", colour=colour)
            rows.append([case["id"], formatting.number(before, 3), formatting.number(after, 3), change])
            figures = [
                f"{name}: {formatting.number(dice['before'], 3)} → {formatting.number(dice['after'], 3)}"
                for name, dice in case["labels"].items()
            ]
            own = [formatting.sentence(line) for line in notes if line.startswith(f"{case['id']}: ")]
            tips.append("\n".join([*figures, *own]))
        self.table.fill(rows, [case["id"] for case in cases], tips)

    def showCase(self) -> None:
        """Show scan and both masks of the selected case, in the slice with the largest difference."""
        case = self.table.selected()
        if not case or self._jobId is None or case == self._wanted:
            return
        self._wanted, job = case, self._jobId
        found: dict[str, tuple] = {}

        def current() -> bool:
            return self._wanted == case and shown()

        def masks(volume: Any) -> None:
            for when, _colour, _name in _MASKS:
                path = route("jobs", job, "masks", case, when)
                self._session.getArray(path, lambda part, header, when=when: take(volume, when, part, header))

        def take(volume: Any, when: str, part: np.ndarray, header: dict) -> None:
            found[when] = (part, header.get("start") or (0, 0, 0))
            if not current() or len(found) < len(_MASKS) or not mrml.alive(volume):
                return
            for when, colour, name in _MASKS:
                part, start = found[when]
                self._caseNodes.showMask(part, {"start": start}, volume, name.format(case=case), _GROUP, colour)
            showLabel(volume)
            place = _largestDifference(*found.values())
            if place:
                mrml.jump_to(place, volume)

        def showLabel(volume: Any) -> None:
            """The label of the expert, to which both are compared."""
            colour, name = _EXPERT

            def take(part: np.ndarray, header: dict) -> None:
                if current():
                    self._caseNodes.showMask(part, header, volume, name.format(case=case), _GROUP, colour)

            def latest(revisions: list[dict]) -> None:
                if revisions and current():
                    path = self._dataset.route("cases", case, "labels", revisions[-1]["number"], cropped="true")
                    self._session.getArray(path, take)

            self._session.get(self._dataset.route("cases", case, "labels"), latest)

        self._caseNodes.clearGroup(_GROUP)
        self._caseNodes.hideOthers()
        shown = self._caseNodes.openImage(case, masks)

    def leave(self) -> None:
        """Remove the masks from the views: another scan may be shown there next."""
        self._wanted = None
        self._caseNodes.clearGroup(_GROUP)

    # ---- the model in use

    def use(self) -> None:
        """Make MPER Segment use the chosen version."""
        self._switch(chosen(self._boxes["new"]))

    def goBack(self) -> None:
        """Make MPER Segment use the model again that was in use before."""
        self._switch(settings.previousModel(map(structureKey, self._dataset.labels)) or settings.FIRST_MODEL)

    def _switch(self, model: str) -> None:
        before, title = self._dataset.modelInUse(), self._title(model)
        structures = [*map(structureKey, self._dataset.labels)]  # another dataset may be open when the answer comes
        own = next((v for v in self._dataset.versions() if v["id"] == model), None)

        def switched(_answer: object = None) -> None:
            current = model.rsplit("/", 1)[0] if own else model
            settings.useModel(current, before, structures)
            _chooseInSegment(current)
            self._context.showMessage(_("MPER Segment now uses {model}.").format(model=title))
            self._dataset.refresh()
            self._show()

        if own:
            path = self._dataset.route("models", own["name"], "use")
            self._session.post(path, {"version": own["version"]}, switched)
        else:
            switched()

    def reset(self) -> None:
        """The scene is being closed."""
        self._wanted = None


def _chooseInSegment(model: str) -> None:
    """MPER Segment stores its model with the scene: choose the new one there, too."""
    node = slicer.mrmlScene.GetSingletonNode("MPERSegment", "vtkMRMLScriptedModuleNode")
    if node is not None:
        node.SetParameter("Model", model)


def _codeOfNote(line: str, codes: dict[str, dict]) -> str:
    """What a notice says of one case; empty where it has no code, or is about something else."""
    note = codes.get(line, {}).get("values", {}).get("note", "")
    return str(codes.get(note, {}).get("code", ""))


def _missed(cases: list[dict]) -> list[str]:
    """A line on the structures that neither model finds: no difference between them is no success."""
    figures: dict[str, list[float]] = {}
    for case in cases:
        for name, dice in case["labels"].items():
            figures.setdefault(name, []).extend(value for value in (dice["before"], dice["after"]) if value is not None)
    names = [name for name, values in figures.items() if values and max(values) < _MISSED]
    return [_("Both models miss {structures}: nothing of it is found.").format(structures=", ".join(names))] * bool(
        names
    )


def _useText(result: dict[str, Any] | None) -> str:
    """The text of the button that puts a version in use, with what the comparison has shown."""
    if result is None:
        return _("Use this version")
    difference = result["mean_after"] - result["mean_before"]
    if abs(difference) < _SAME:
        return _("Use this version (no measurable difference)")
    return _("Use this version (worse on the hold-out)") if difference < 0 else _("Use this version")


def _largestDifference(before: tuple, after: tuple) -> list[int] | None:
    """The centre (k, j, i) of the slice in which two masks differ most, None if they are equal.

    Each is a part of a mask, and the voxel of the scan at which it begins.
    """
    starts = [np.array(start) for _part, start in (before, after)]
    low = np.minimum(*starts)
    high = np.maximum(*(start + part.shape for start, (part, _start) in zip(starts, (before, after), strict=True)))
    one, other = (
        mrml.on_whole_grid(part, start - low, high - low)
        for start, (part, _start) in zip(starts, (before, after), strict=True)
    )
    different = one != other
    counts = different.sum(axis=(1, 2))
    if not counts.any():
        return None
    k = int(counts.argmax())
    j, i = np.median(np.argwhere(different[k]), axis=0)
    return [k + int(low[0]), int(j) + int(low[1]), int(i) + int(low[2])]
