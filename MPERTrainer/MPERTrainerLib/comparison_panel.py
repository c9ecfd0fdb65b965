"""Compare and promote: two versions side by side on the locked hold-out, and which one MPERSegment uses."""

from __future__ import annotations

import numpy as np
import slicer
from MPERLib import callbacks, mrml, settings
from MPERLib.engine import route
from slicer.i18n import tr as _

from MPERTrainerLib.engine_session import FIRST_MODEL, PREVIOUS_MODEL, Session
from MPERTrainerLib.formatting import dice
from MPERTrainerLib.job_button import JobButton
from MPERTrainerLib.tables import Table

_MASKS = (
    ("before", (255, 200, 60), _("{case} before")),
    ("after", (80, 220, 120), _("{case} after")),
)
_WORSE = "#c0392b"
_BETTER = "#1e8449"
_SAME = 0.0005  # less than what three decimals show


class ComparisonPanel:
    """Measures versions, shows both masks of a case, and promotes.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    caseNodes : MPERTrainerLib.case_nodes.CaseNodes
        Shows cases and masks in the views.
    """

    def __init__(self, ui, session: Session, caseNodes):
        self.ui, self.session, self.caseNodes = ui, session, caseNodes
        self._models: list[dict] = []
        self._filling = False
        self._dataset: str | None = None
        self._chosen: dict[str, str] = {}  # what the person chose in the two selectors
        self._result: dict | None = None
        self._pair: tuple[str, str] | None = None  # the models that the result compares
        self._job_id: str | None = None
        self._wanted: str | None = None  # the case whose masks are to be shown
        self.job = JobButton(session, ui.compareButton, ui.compareProgress)
        self.table = Table(ui.compareTable, stretched=0)
        for role, selector in (("new", ui.newSelector), ("old", ui.oldSelector)):
            selector.connect("currentIndexChanged(int)", callbacks.slot(lambda _index, role=role: self._choose(role)))
        ui.compareButton.connect("clicked()", callbacks.slot(self.compare))
        ui.compareTable.connect("itemSelectionChanged()", callbacks.slot(self.showCase))
        ui.useButton.connect("clicked()", callbacks.slot(self.use))
        ui.backButton.connect("clicked()", callbacks.slot(self.goBack))
        session.onChange(self.update)

    # ---- what there is

    def update(self) -> None:
        """Take over what the session knows."""
        dataset = self.session.dataset["id"] if self.session.dataset else None
        if dataset != self._dataset:
            self._dataset, self._chosen, self._result, self._pair = dataset, {}, None, None
        self.ui.compareSection.enabled = dataset is not None
        if dataset:
            self.session.get("/models", self._fillSelectors)
        self._show()

    def propose(self, version: str) -> None:
        """Choose a version that has just been made, by its id."""
        self._chosen["new"] = version
        self.update()

    def _fillSelectors(self, models: list) -> None:
        self._models = models
        versions = [(v["id"], _("{name}, version {version}").format(**v)) for v in self.session.versions()]
        bundled = [(m["id"], m["title"]) for m in models if m["origin"] == "bundled" and self._related(m)]
        inUse = self.session.modelInUse()
        others = versions + bundled
        if inUse not in [model for model, _title in others]:  # of another dataset
            others.append((inUse, self._words(inUse)))
        new = self._chosen.get("new") or (versions[0][0] if versions else None)
        old = self._chosen.get("old") or inUse
        if old == new:
            old = next((model for model, _title in others if model != new), None)
        self._fill(self.ui.newSelector, versions, new)
        self._fill(self.ui.oldSelector, others, old)
        self._show()

    def _related(self, model: dict) -> bool:
        """Whether it draws one of the dataset's structures at least."""

        def meanings(labels: list) -> set:
            return {(label.get("type") or {}).get("value") or label["name"].casefold() for label in labels}

        return bool(meanings(model["labels"]) & meanings(self.session.dataset["labels"]))

    def _fill(self, selector, entries: list[tuple[str, str]], chosen: str | None) -> None:
        self._filling = True
        try:
            selector.clear()
            for value, words in entries:
                selector.addItem(words, value)
            selector.currentIndex = max(selector.findData(chosen), 0) if entries else -1
        finally:
            self._filling = False

    def _choose(self, role: str) -> None:
        if not self._filling:
            self._chosen[role] = self._value(role)
            self._show()

    def _value(self, role: str) -> str:
        selector = self.ui.newSelector if role == "new" else self.ui.oldSelector
        value = selector.itemData(selector.currentIndex)
        return "" if value is None else str(value)

    def _words(self, model: str) -> str:
        """A model's id as people read it."""
        for version in self.session.versions():
            if version["id"] == model:
                return _("{name}, version {version}").format(**version)
        for entry in self._models:
            origin = entry["origin"]
            if entry["id"] == model and origin == "bundled":
                return entry["title"]
            if origin != "bundled" and model in (entry["id"], f"{origin['dataset']}/{origin['name']}"):
                return _("{name} of {dataset}").format(**origin)
        return model

    def _show(self) -> None:
        ui, session = self.ui, self.session
        new, old, inUse = self._value("new"), self._value("old"), session.modelInUse()
        locked = bool((session.dataset or {}).get("holdout"))
        reason = ""
        if not new:
            reason = _("Train a version first.")
        elif not locked:
            reason = _("Lock a hold-out first (under Cases): without one nothing honest can be said.")
        elif new == old:
            reason = _("Choose two different models.")
        current = self._pair == (new, old) and self._result is not None
        ui.compareButton.enabled = self.job.running or not reason
        ui.compareWords.text = reason or (self._result["words"] if current else "")
        ui.compareWords.visible = bool(ui.compareWords.text)
        ui.compareTable.visible = ui.compareHint.visible = current and not reason
        worse = current and not reason and self._result["mean_after"] < self._result["mean_before"]
        ui.useButton.text = _("Use it although it is worse") if worse else _("Use this version")
        ui.useButton.enabled = bool(new) and new != inUse
        ui.useButton.toolTip = _("Segment with {model} in MPER Segment").format(model=self._words(new)) if new else ""
        back = settings.setting(PREVIOUS_MODEL)
        ui.backButton.visible = bool(back) and back != inUse
        ui.backButton.toolTip = _("Use {model} again").format(model=self._words(back))
        words = _("In use in MPER Segment: {model}.").format(model=self._words(inUse))
        if ui.backButton.visible:
            words += " " + _("Before that: {model}.").format(model=self._words(back))
        ui.currentLabel.text = words

    # ---- comparing

    def compare(self) -> None:
        """Start the comparison, or cancel it."""
        if self.job.running:
            self.job.cancel()
            return
        pair = self._value("new"), self._value("old")
        self._chosen = {"new": pair[0], "old": pair[1]}  # stays so, whatever is put in use meanwhile

        def done(result: dict, job: str, notices: list[str]) -> None:
            words = "\n".join([result["words"], *notices[:3]])
            self._result, self._pair, self._job_id = {**result, "words": words}, pair, job
            self._wanted = None
            self._fillTable()
            self._show()

        self.job.start(self.session.path("compare"), {"new": pair[0], "old": pair[1], "device": "auto"}, done)

    def _fillTable(self) -> None:
        rows = []
        for case in self._result["cases"]:
            before, after = case["before"], case["after"]
            change, colour = "–", None
            if before is not None and after is not None:
                change = f"{after - before:+.3f}"
                colour = None if abs(after - before) < _SAME else _BETTER if after > before else _WORSE
            tip = "\n".join(f"{n}: {dice(d['before'])} → {dice(d['after'])}" for n, d in case["labels"].items())
            rows.append((case["id"], [case["id"], dice(before), dice(after), change], {3: colour}, tip))
        self.table.fill(rows)

    def showCase(self) -> None:
        """Show scan and both masks of the selected case, where they differ most."""
        case = self.table.selected()
        if not case or self._job_id is None or case == self._wanted:
            return
        self._wanted, job = case, self._job_id
        found: dict[str, tuple] = {}

        def masks(volume) -> None:
            for when, _colour, _words in _MASKS:
                path = route("jobs", job, "masks", case, when)
                self.session.getArray(path, lambda part, header, when=when: take(volume, when, part, header))

        def take(volume, when: str, part, header: dict) -> None:
            found[when] = (part, header)
            if self._wanted != case or len(found) < len(_MASKS) or not mrml.alive(volume):
                return
            for when, colour, words in _MASKS:
                part, header = found[when]
                self.caseNodes.showMask(part, header, volume, words.format(case=case), "compare", colour)
            place = _differs(*found.values())
            if place:
                mrml.jump_to(place, volume)

        self.caseNodes.clearGroup("compare")
        self.caseNodes.hideOthers()
        self.caseNodes.openImage(case, masks)

    def leave(self) -> None:
        """Take the masks off the views: another scan may be shown there next."""
        self._wanted = None
        self.caseNodes.clearGroup("compare")

    # ---- promoting

    def use(self) -> None:
        """Make the chosen version that of MPERSegment."""
        self._switch(self._value("new"))

    def goBack(self) -> None:
        """Use again what was in use before."""
        self._switch(settings.setting(PREVIOUS_MODEL) or FIRST_MODEL)

    def _switch(self, model: str) -> None:
        before = self.session.modelInUse()
        own = next((v for v in self.session.versions() if v["id"] == model), None)

        def switched(_answer: object = None) -> None:
            chosen = model.rsplit("/", 1)[0] if own else model
            settings.setSetting(settings.CURRENT_MODEL_KEY, chosen)
            settings.setSetting(PREVIOUS_MODEL, before)
            self._tellSegment(chosen)
            self.session.tell(_("{model} is now in use in MPER Segment.").format(model=self._words(model)))
            self.session.refresh()
            self._show()

        if own:
            route = self.session.path("models", own["name"], "use")
            self.session.post(route, {"version": own["version"]}, switched)
        else:
            switched()

    @staticmethod
    def _tellSegment(model: str) -> None:
        """MPERSegment keeps its choice with the scene: there too the new one counts."""
        node = slicer.mrmlScene.GetSingletonNode("MPERSegment", "vtkMRMLScriptedModuleNode")
        if node is not None:
            node.SetParameter("Model", model)

    def reset(self) -> None:
        """Forget what was shown: the scene is new."""
        self._wanted = None


def _differs(before: tuple, after: tuple) -> list[int] | None:
    """The middle of the slice in which two masks differ most, None where they are the same.

    Each is the part of a mask with its header, which tells where in the scan it begins.
    """
    starts = [np.array(header.get("start") or (0, 0, 0)) for _part, header in (before, after)]
    low = np.minimum(*starts)
    high = np.maximum(*(start + part.shape for start, (part, _header) in zip(starts, (before, after), strict=True)))
    whole = np.zeros((2, *(high - low)), np.uint8)
    for mask, start, (part, _header) in zip(whole, starts, (before, after), strict=True):
        mask[tuple(slice(a, a + n) for a, n in zip(start - low, part.shape, strict=True))] = part
    other = whole[0] != whole[1]
    counts = other.sum(axis=(1, 2))
    if not counts.any():
        return None
    k = int(counts.argmax())
    j, i = np.median(np.argwhere(other[k]), axis=0)
    return [k + int(low[0]), int(j) + int(low[1]), int(i) + int(low[2])]
