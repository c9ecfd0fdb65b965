"""Train: what would be learned from, how long it takes, and starting it."""

from __future__ import annotations

import qt
from MPERLib import callbacks
from slicer.i18n import tr as _

from MPERTrainerLib.engine_session import Session
from MPERTrainerLib.formatting import methodWords, recipeWords, sentence

_METHODS = ("mper", "bcp", "supervised", "embedding-matching", "dk-uxnet")
_RECIPES = ("plus", "paper")
_SCRATCH = ""  # start from nothing
_PATIENCE_MS = 400  # after the last change, before the engine is asked for a new estimate


class TrainingPanel:
    """The choices of a training. What the person leaves alone is the engine's default.

    Parameters
    ----------
    ui : widgets of MPERTrainer.ui
    session : Session
    started : callable
        Called with the id of a run that was started.
    """

    def __init__(self, ui, session: Session, started):
        self.ui, self.session, self._started = ui, session, started
        self._filling = False
        self._touched: set[str] = set()  # what the person chose; the rest follows the engine's defaults
        self.plan: dict = {}
        self._models: list[dict] = []
        self._starting = False
        self._asked = 0
        self._dataset: str | None = None
        for method in _METHODS:
            ui.methodSelector.addItem(methodWords(method), method)
        for recipe in _RECIPES:
            ui.recipeSelector.addItem(recipeWords(recipe), recipe)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.interval = _PATIENCE_MS
        self._timer.connect("timeout()", callbacks.slot(self._ask))
        for name, widget, signal in self._inputs():
            widget.connect(signal, callbacks.slot(lambda *_value, name=name: self._touch(name), f"chosen {name}"))
        ui.startButton.connect("clicked()", callbacks.slot(self.start))
        session.onChange(self.update)
        session.onLost(self._lost)

    def _lost(self) -> None:
        self._starting = False
        self._show()

    def _inputs(self) -> list[tuple]:
        ui = self.ui
        return [
            ("start_from", ui.startSelector, "currentIndexChanged(int)"),
            ("method", ui.methodSelector, "currentIndexChanged(int)"),
            ("budget_s", ui.budgetSpin, "valueChanged(int)"),
            ("name", ui.nameEdit, "textEdited(QString)"),
            ("recipe", ui.recipeSelector, "currentIndexChanged(int)"),
            ("steps", ui.stepsSpin, "valueChanged(int)"),
            ("patch", ui.patchEdit, "textEdited(QString)"),
            ("labeled", ui.labeledSpin, "valueChanged(int)"),
            ("device", ui.deviceSelector, "currentIndexChanged(int)"),
            ("seed", ui.seedSpin, "valueChanged(int)"),
        ]

    # ---- what there is

    def update(self) -> None:
        """Take over what the session knows, and ask for the plan."""
        dataset = self.session.dataset["id"] if self.session.dataset else None
        if dataset != self._dataset:
            self._dataset, self._touched, self.plan = dataset, set(), {}
        self.ui.trainSection.enabled = dataset is not None
        self._show()
        if dataset:
            self._fillDevices()
            self.session.get("/models", self._fillStarts)
            self._ask()

    def _fillDevices(self) -> None:
        selector = self.ui.deviceSelector
        devices = [("auto", _("the best there is"))]
        devices += [(d["name"], d["words"]) for d in self.session.info.get("devices", [])]
        if selector.count != len(devices):
            self._fill(selector, devices, _value(selector) or "auto")

    def _fillStarts(self, models: list) -> None:
        """Models to start from: the bundled ones, the dataset's own versions, or none."""
        self._models = models
        entries = [(m["id"], m["title"]) for m in models if m["origin"] == "bundled"]
        for version in self.session.versions():
            words = _("{name}, version {version}").format(**version)
            entries.append((version["id"], words))
        entries.append((_SCRATCH, _("Nothing: learn from scratch")))
        chosen = _value(self.ui.startSelector) if "start_from" in self._touched else self.plan.get("start_from")
        self._fill(self.ui.startSelector, entries, chosen or _SCRATCH)

    def _fill(self, selector, entries: list[tuple[str, str]], chosen: str) -> None:
        self._filling = True
        try:
            selector.clear()
            for value, words in entries:
                selector.addItem(words, value)
            selector.currentIndex = max(selector.findData(chosen), 0)
        finally:
            self._filling = False

    # ---- the plan

    def _touch(self, name: str) -> None:
        if self._filling or self._timer is None:
            return
        self._touched.add(name)
        self._timer.start()

    def request(self) -> dict:
        """What the person asks for, as the engine takes it.

        Raises
        ------
        ValueError
            If the patch is not three numbers.
        """
        ui = self.ui
        values = {
            "start_from": _value(ui.startSelector) or None,
            "method": _value(ui.methodSelector),
            "recipe": _value(ui.recipeSelector),
            "budget_s": 60 * ui.budgetSpin.value,
            "name": ui.nameEdit.text.strip(),
            "device": _value(ui.deviceSelector),
            "seed": ui.seedSpin.value,
            "labeled": ui.labeledSpin.value or None,
            "steps": ui.stepsSpin.value or None,
            "patch": _patch(ui.patchEdit.text),
        }
        body = {name: values[name] for name in self._touched if name in values and values[name] not in (None, "")}
        if "start_from" in self._touched:
            body["start_from"] = values["start_from"]  # None says: from scratch
        if "steps" in body:
            body.pop("budget_s", None)
        return body

    def _ask(self) -> None:
        if not self.session.dataset:
            return
        try:
            body = self.request()
        except ValueError as error:
            self.ui.estimateLabel.text = str(error)
            return
        self._asked += 1
        asked = self._asked

        def take(plan: dict) -> None:
            if asked == self._asked:  # answers may overtake each other
                self.plan = plan
                self._follow()
                self._show()

        self.session.post(self.session.path("plan"), body, take, self._noPlan)

    def _noPlan(self, message: str) -> None:
        self.plan = {}
        self._show()
        self.ui.estimateLabel.text = message

    def _follow(self) -> None:
        """Show the engine's defaults where the person has chosen nothing."""
        ui, plan = self.ui, self.plan
        self._filling = True
        try:
            for name, selector in (("method", ui.methodSelector), ("recipe", ui.recipeSelector)):
                if name not in self._touched and name in plan:
                    selector.currentIndex = max(selector.findData(plan[name]), 0)
            if "start_from" not in self._touched:
                found = ui.startSelector.findData(plan.get("start_from") or _SCRATCH)
                ui.startSelector.currentIndex = max(found, 0)
            if "budget_s" not in self._touched and plan.get("budget_s"):
                ui.budgetSpin.value = max(1, round(plan["budget_s"] / 60))
            if "name" not in self._touched and plan.get("name"):
                ui.nameEdit.text = plan["name"]
        finally:
            self._filling = False

    def _show(self) -> None:
        ui, plan = self.ui, self.plan
        known = "labelled" in plan
        ui.countsLabel.visible = known
        if known:
            words = _("To learn from: {labelled} labelled and {unlabelled} unlabelled. Held out: {holdout}.")
            if plan.get("partly"):
                words = _(
                    "To learn from: {labelled} labelled ({partly} of them only in part) and {unlabelled} unlabelled. "
                    "Held out: {holdout}."
                )
            ui.countsLabel.text = words.format(**plan)
        ui.budgetSpin.enabled = not ui.stepsSpin.value
        lines = [sentence(plan.get("words", "")), *(f"• {sentence(words)}" for words in plan.get("warnings", []))]
        ui.estimateLabel.text = "\n".join(line for line in lines if line)
        ui.estimateLabel.visible = True
        ui.startButton.enabled = bool(plan.get("ready")) and not self._starting

    # ---- starting

    def start(self) -> None:
        """Start a training with what is chosen."""
        try:
            body = self.request()
        except ValueError as error:
            self.session.tell(str(error))
            return
        body.setdefault("name", self.ui.nameEdit.text.strip() or "model")
        self._starting = True
        self._show()
        self.session.tell("")

        def started(answer: dict) -> None:
            self._starting = False
            self._show()
            self._started(answer["run"])
            self.session.refresh()

        def failed(message: str) -> None:
            self._starting = False
            self._show()
            self.session.fail(message)

        self.session.post(self.session.path("runs"), body, started, failed)

    def close(self) -> None:
        self._timer = None  # its connection would keep this object alive


def _value(selector) -> str:
    value = selector.itemData(selector.currentIndex)
    return "" if value is None else str(value)


def _patch(text: str) -> list[int] | None:
    if not text.strip():
        return None
    try:
        size = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        size = []
    if len(size) != 3:
        raise ValueError(_("The patch is three numbers, slices, rows and columns, as in 48, 96, 128."))
    return size
