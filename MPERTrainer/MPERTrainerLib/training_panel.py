"""Panel Train: what a training uses, how long it takes, and the button that starts it."""

from __future__ import annotations

from collections.abc import Callable

import qt
from MPERLib import engine_words
from MPERLib.callbacks import slot
from MPERLib.engine_session import AUTO, EngineSession
from MPERLib.formatting import sentence, split_name
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import chosen, fill_box
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset

_SCRATCH = ""  # start from no model
_AUTO_METHOD = "auto"
_NO_SPLIT = ""  # learn from no other split
_REST_MS = 400  # after the last change, before the engine is asked for a new plan


class TrainingPanel:
    """The settings of a training. What the user does not choose is the engine's default.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    started : callable
        Called with the id of a training run that was started.
    """

    def __init__(
        self, context: PanelContext, session: EngineSession, dataset: OpenDataset, started: Callable[[str], None]
    ):
        self._context, self._session, self._dataset, self._started = context, session, dataset, started
        self._filling = False
        self._changed: set[str] = set()  # settings that the user has chosen; all others follow the engine's defaults
        self.plan: dict = {}
        self._starting = False
        self._requests = 0
        self._planned: str | None = None  # the dataset that the settings are for
        ui = context.ui
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.interval = _REST_MS
        self._timer.connect("timeout()", slot(self._requestPlan))
        for name, widget, signal in self._inputs():
            widget.connect(signal, slot(lambda *_value, name=name: self._onChanged(name), f"changed {name}"))
        ui.startButton.connect("clicked()", slot(self.start))
        dataset.onChange(self.update)
        dataset.onLost(self._onLost)

    def _onLost(self) -> None:
        self._starting = False
        self._show()

    def _inputs(self) -> list[tuple]:
        ui = self._context.ui
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
            ("also", ui.alsoSelector, "currentIndexChanged(int)"),
            ("cross_scanner", ui.crossScannerCheckBox, "toggled(bool)"),
            ("keep_largest", ui.severalPartsCheckBox, "toggled(bool)"),
        ]

    def update(self) -> None:
        """The dataset has changed: fill the lists, and ask for a plan."""
        if self._dataset.id != self._planned:
            self._planned, self._changed, self.plan = self._dataset.id, set(), {}
            self._requests += 1  # plans on their way are of the dataset before
            self._reset()
        self._context.ui.trainSection.enabled = self._dataset.id is not None
        self._show()
        if self._dataset.id:
            ui = self._context.ui
            device = chosen(ui.deviceSelector) if "device" in self._changed else AUTO
            fill_box(ui.deviceSelector, self._session.devices(training=True), device)
            self._fillStarts()
            self._fillSplits()
            self._requestPlan()

    def _reset(self) -> None:
        """Show the defaults of the settings that no plan and no list shows: those of another dataset are not sent."""
        ui = self._context.ui
        self._filling = True
        try:
            ui.stepsSpin.value = ui.labeledSpin.value = ui.seedSpin.value = 0
            ui.patchEdit.text = ""
            ui.crossScannerCheckBox.checked = ui.severalPartsCheckBox.checked = False
        finally:
            self._filling = False

    def _fillStarts(self) -> None:
        """Models to start from: the bundled ones, the dataset's own versions, or none."""
        entries = [(m["id"], m["title"]) for m in self._session.models if m["origin"] == "bundled"]
        for version in self._dataset.versions():
            text = _("{name}, version {version}").format(**version)
            entries.append((version["id"], text))
        entries.append((_SCRATCH, _("No model (train from scratch)")))
        box = self._context.ui.startSelector
        fill_box(box, entries, chosen(box) if "start_from" in self._changed else self.plan.get("start_from"))

    def _fillSplits(self) -> None:
        """The other splits that may be learned from: none of the hold-outs."""
        ui, locked = self._context.ui, self._dataset.lockedSplits
        splits = (self._dataset.about or {}).get("splits") or {}
        others = [name for name in splits if name not in locked and name != self.plan.get("split", "train")]
        entries = [(_NO_SPLIT, _("no other split")), *((name, split_name(name, None)) for name in others)]
        fill_box(ui.alsoSelector, entries, chosen(ui.alsoSelector) if "also" in self._changed else _NO_SPLIT)
        ui.alsoLabel.visible = ui.alsoSelector.visible = bool(others)

    # ---- the plan

    def _onChanged(self, name: str) -> None:
        if self._filling or self._timer is None:
            return
        self._changed.add(name)
        self._timer.start()

    def request(self) -> dict:
        """The settings that the user has chosen, as the engine takes them.

        Raises
        ------
        ValueError
            If the patch size is not three numbers.
        """
        ui = self._context.ui
        values = {
            "start_from": chosen(ui.startSelector) or None,
            "method": chosen(ui.methodSelector),
            "recipe": chosen(ui.recipeSelector),
            "budget_s": 60 * ui.budgetSpin.value,
            "name": ui.nameEdit.text.strip(),
            "device": chosen(ui.deviceSelector),
            "seed": ui.seedSpin.value,
            "labeled": ui.labeledSpin.value or None,
            "steps": ui.stepsSpin.value or None,
            "patch": _patch(ui.patchEdit.text),
            "also": [name for name in [chosen(ui.alsoSelector)] if name] or None,
            "cross_scanner": ui.crossScannerCheckBox.checked or None,
            "keep_largest": False if ui.severalPartsCheckBox.checked else None,
        }
        body = {name: values[name] for name in self._changed if values[name] not in (None, "")}
        body.setdefault("method", _AUTO_METHOD)
        if "start_from" in self._changed:
            body["start_from"] = values["start_from"]  # None trains from scratch
        if "steps" in body:
            body.pop("budget_s", None)
        return body

    def _requestPlan(self) -> None:
        if not self._dataset.id:
            return
        self._requests += 1
        request = self._requests
        try:
            body = self.request()
        except ValueError as error:
            self._context.ui.estimateLabel.text = str(error)
            return

        def take(plan: dict) -> None:
            if request == self._requests:  # answers may overtake each other
                self.plan = plan
                self._showDefaults()
                self._show()

        def failed(message: str) -> None:
            if request == self._requests:
                self.plan = {}
                self._show()
                self._context.ui.estimateLabel.text = sentence(message)

        self._session.post(self._dataset.route("plan"), body, take, failed)

    def _showDefaults(self) -> None:
        """Show the engine's choice of settings that the user has not chosen."""
        ui, plan = self._context.ui, self.plan
        self._filling = True
        try:
            auto = {
                "name": _AUTO_METHOD,
                "title": "",
                "description": _("What did best where it was measured, for such cases"),
            }
            for name, box, title, first in (
                ("method", ui.methodSelector, engine_words.method, [auto]),
                ("recipe", ui.recipeSelector, engine_words.recipe, []),
            ):
                options = [*first, *plan["options"][f"{name}s"]]
                wanted = chosen(box) if name in self._changed else {**plan, "method": _AUTO_METHOD}.get(name)
                fill_box(box, [(option["name"], title(option["name"], option["title"])) for option in options], wanted)
                for row, option in enumerate(options):
                    tip = engine_words.tip(option["name"], option.get("description") or option["title"])
                    box.setItemData(row, tip, qt.Qt.ToolTipRole)
            if "start_from" not in self._changed:
                index = ui.startSelector.findData(plan.get("start_from") or _SCRATCH)
                ui.startSelector.currentIndex = max(index, 0)
            if "budget_s" not in self._changed and plan.get("budget_s"):
                ui.budgetSpin.value = max(1, round(plan["budget_s"] / 60))
            if "name" not in self._changed and plan.get("name"):
                ui.nameEdit.text = plan["name"]
        finally:
            self._filling = False

    def _show(self) -> None:
        ui, plan = self._context.ui, self.plan
        known = "labelled" in plan
        ui.countsLabel.visible = known
        if known:
            text = _("Training data: {labelled} labelled and {unlabelled} unlabelled cases. Hold-out: {holdout}.")
            if plan.get("partly"):
                text = _(
                    "Training data: {labelled} labelled ({partly} of them partially) and {unlabelled} unlabelled "
                    "cases. Hold-out: {holdout}."
                )
            ui.countsLabel.text = text.format(**plan)
        ui.budgetSpin.enabled = not ui.stepsSpin.value
        why = []
        if plan.get("reason") and plan["ready"]:  # else what stands against it comes first
            method = engine_words.method(plan["method"], plan["method"])
            why.append(_("Method: {method}; {reason}.").format(method=method, reason=plan["reason"]))
        said = [plan.get("words", ""), *plan.get("warnings", [])]
        codes = plan.get("codes") or [{}] * len(said)  # an engine of an older version has none
        first, *warnings = [engine_words.advice(line, code) for line, code in zip(said, codes, strict=True)]
        lines = [first, *why, *(f"• {line}" for line in warnings)]
        ui.estimateLabel.text = "\n".join(line for line in lines if line)
        ui.estimateLabel.visible = True
        ui.startButton.enabled = bool(plan.get("ready")) and not self._starting

    # ---- starting

    def start(self) -> None:
        """Start a training with these settings."""
        try:
            body = self.request()
        except ValueError as error:
            self._context.showMessage(str(error))
            return
        body.setdefault("name", self._context.ui.nameEdit.text.strip() or "model")
        self._starting, of = True, self._dataset.id
        self._show()
        self._context.clearMessage()

        def started(answer: dict) -> None:
            self._starting = False
            self._show()
            if self._dataset.id == of:  # else another one was opened meanwhile; the run is listed with its own
                self._started(answer["run"])
                self._dataset.refresh()

        def failed(message: str) -> None:
            self._starting = False
            self._show()
            self._context.showMessage(message)

        self._session.post(self._dataset.route("runs"), body, started, failed)

    def close(self) -> None:
        self._timer = None  # its connection would keep this object alive


def _patch(text: str) -> list[int] | None:
    if not text.strip():
        return None
    try:
        size = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        size = []
    if len(size) != 3:
        raise ValueError(_("The patch size is three numbers: slices, rows and columns, for example 48, 96, 128."))
    return size
