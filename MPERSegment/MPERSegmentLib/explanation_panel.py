"""Panel Why: prototypes and uncertainty over the slices, and what they say of the voxel under the cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
from MPERLib import mrml, overlays
from MPERLib.callbacks import slot
from MPERLib.engine import route
from MPERLib.tables import Cell, Table
from slicer.i18n import tr as _

from MPERSegmentLib import formatting, result_node, stroke_node
from MPERSegmentLib.crosshair import Crosshair
from MPERSegmentLib.embedding_plot import EmbeddingPlot
from MPERSegmentLib.engine_session import EngineSession
from MPERSegmentLib.panel_context import PanelContext, sentence
from MPERSegmentLib.probe import Probe

NONE, PROTOTYPES, UNCERTAINTY = "none", "prototypes", "uncertainty"
_MAP_ROLE = "MPER.PrototypeMap"  # of a result: its map in the scene, so that a saved scene still shows it
_FILL = "MPER.Fill"  # of a mask's display: how it was filled before an overlay was laid over it


class ExplanationPanel:
    """Explains one result, for as long as the engine remembers it.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    strokeAt : callable
        Tells, in words, of the stroke with a number (from 0).
    correct : callable
        The user wants to correct the uncertain place that is shown.
    """

    def __init__(
        self, context: PanelContext, session: EngineSession, strokeAt: Callable[[int], str], correct: Callable[[], None]
    ):
        self._context, self._session, self._correct = context, session, correct
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._result: dict[str, Any] | None = None
        self._prototypes: overlays.PrototypeOverlay | None = None
        self._uncertainty: slicer.vtkMRMLScalarVolumeNode | None = None
        self._uncertaintyOf: tuple[int, ...] = ()  # the strokes that were drawn when it was asked for
        self._fetched: list[slicer.vtkMRMLVolumeNode] = []
        self._calls: dict[str, Any] = {}
        self._places: list[dict[str, Any]] = []
        self._place = -1
        self._probe = Probe(context.ui.probeLabel, session, strokeAt)
        self._crosshair = Crosshair()
        self._scatter = EmbeddingPlot()
        ui = context.ui
        for text, key in ((_("Nothing"), NONE), (_("Prototypes"), PROTOTYPES), (_("Uncertainty"), UNCERTAINTY)):
            ui.overlayBox.addItem(text, key)
        self._table = Table(
            ui.prototypeTable,
            [
                (_("Prototype"), _("What the model compares voxels with; a tick shows where it was the nearest")),
                (_("Voxels"), _("How many were most like this prototype")),
                (_("mL"), _("Volume of these voxels")),
                (_("Similarity"), _("Mean cosine between these voxels and the prototype; 1 is alike")),
                (_("Intensity"), _("Mean grey value of these voxels in the scan")),
            ],
        )
        self._delay = qt.QTimer(ui.whySection)
        self._delay.setSingleShot(True)
        self._delay.interval = 60
        self._delay.connect("timeout()", slot(self._applyThreshold))
        ui.whySection.connect("contentsCollapsed(bool)", slot(self._onCollapsed))
        ui.overlayBox.connect("currentIndexChanged(int)", slot(self._onOverlay))
        ui.opacitySlider.connect("valueChanged(int)", slot(self._onOpacity))
        ui.thresholdSlider.connect("valueChanged(int)", slot(self._onThreshold))
        ui.prototypeTable.connect("cellClicked(int,int)", slot(self._onRow))
        ui.prototypeTable.connect("cellChanged(int,int)", slot(self._onChecked))
        ui.uncertainButton.connect("clicked()", slot(self.nextPlace))
        ui.correctButton.connect("clicked()", slot(self._onCorrect))
        ui.scatterButton.connect("toggled(bool)", slot(self._onScatter))
        self.show(None)

    # ---- what is shown

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Explain another result, or none."""
        result = result_node.of(node)
        if node is not self._node or (result or {}).get("prediction") != (self._result or {}).get("prediction"):
            self._clear()
            self._node, self._result = node, result
            self._places, self._place = (result or {}).get("uncertain_places", []), -1
            self._hideBackground()
        self._fill()
        self._update()

    def restore(self) -> None:
        """Take the user's choices from the scene."""
        parameters, ui = self._context.parameters, self._context.ui
        if parameters is None:
            return
        blocked = ui.opacitySlider.blockSignals(True)
        ui.opacitySlider.value = parameters.number("Opacity")
        ui.opacitySlider.blockSignals(blocked)
        blocked = ui.overlayBox.blockSignals(True)
        ui.overlayBox.currentIndex = max(0, ui.overlayBox.findData(parameters.get("Overlay")))
        ui.overlayBox.blockSignals(blocked)
        self._showValues()

    def close(self) -> None:
        """Take everything of this panel out of the scene and stop listening to the cursor."""
        self._clear()
        self._node = self._result = None
        self._places = []

    def leave(self) -> None:
        """The user goes to another module: the cursor is no longer followed, and the slices are as without us."""
        self._probe.stop()
        self._crosshair.hide()
        self._lay(NONE)

    def enter(self) -> None:
        self._update()

    def _fill(self) -> None:
        ui, rows = self._context.ui, (self._result or {}).get("prototypes", [])
        self._table.fill(
            [
                (
                    Cell(row["name"], row["colour"]),
                    formatting.count(row["voxels"]),
                    formatting.number(row["volume_ml"], 1),
                    formatting.number(row["mean_similarity"]),
                    intensity,
                )
                for row, intensity in zip(
                    rows, formatting.intensities([row["mean_intensity"] for row in rows]), strict=True
                )
            ]
        )
        hidden = self._hidden()
        blocked = ui.prototypeTable.blockSignals(True)
        for number, row in enumerate(rows):
            ui.prototypeTable.item(number, 0).setCheckState(
                qt.Qt.Unchecked if row["value"] in hidden else qt.Qt.Checked
            )
        ui.prototypeTable.blockSignals(blocked)
        ui.whyContents.visible = self._result is not None
        for widget in (ui.prototypeTable, ui.scatterButton):
            widget.visible = bool(rows)
        if rows:
            told = _("Tick prototypes to see where the model found them; click one to go where it is most typical.")
        elif self._result:
            told = _("This model has no prototypes; where it is unsure can be shown.")
        else:
            told = _("No result to explain yet.")
        ui.whyWords.text = told
        self._showPlaces()
        self._showValues()

    def setPlaces(self, node: slicer.vtkMRMLSegmentationNode, places: list[dict[str, Any]]) -> None:
        """Where the model is unsure once strokes have been drawn; the next one is the first of them."""
        if node is self._node:
            self._places, self._place = places, -1
            self._showPlaces()
            self._followStrokes()

    def _followStrokes(self) -> None:
        """What strokes have set counts as certain: the uncertainty in the slices is that of the mask as it is now."""
        if self._uncertaintyOf == stroke_node.applied(self._node):
            return
        call = self._calls.pop(UNCERTAINTY, None)
        if call is not None:
            call.abort()
        elif self._shown(UNCERTAINTY) is None:
            return
        self._fetch(UNCERTAINTY)

    def _showPlaces(self) -> None:
        ui = self._context.ui
        for button in (ui.uncertainButton, ui.correctButton):
            button.enabled = bool(self._places)
        ui.uncertainLabel.text = "" if self._places or not self._result else _("No place stands out as uncertain.")

    def _showValues(self) -> None:
        ui = self._context.ui
        kind = ui.overlayBox.currentData
        ui.opacityValue.text = f"{ui.opacitySlider.value} %"
        blocked = ui.thresholdSlider.blockSignals(True)
        ui.thresholdSlider.value = self._threshold(kind)
        ui.thresholdSlider.blockSignals(blocked)
        if kind == UNCERTAINTY:
            ui.thresholdSliderLabel.text = _("Uncertainty at least:")
            ui.thresholdSlider.toolTip = _("Voxels of which the model is surer than this are left out")
            ui.thresholdValue.text = f"{ui.thresholdSlider.value} %"
        else:
            ui.thresholdSliderLabel.text = _("Similarity at least:")
            ui.thresholdSlider.toolTip = _("Voxels less similar to their prototype than this are left out (cosine)")
            ui.thresholdValue.text = f"{ui.thresholdSlider.value / 100:.2f}"
        for widget in (ui.opacitySlider, ui.thresholdSlider):
            widget.enabled = kind != NONE

    def _update(self) -> None:
        """Bring what is shown in the slices in line with what was chosen."""
        open_ = not self._context.ui.whySection.collapsed and self._result is not None
        kind = self._context.ui.overlayBox.currentData if open_ else NONE
        if kind != NONE and self._shown(kind) is None:
            self._fetch(kind)
        self._applyThreshold()
        self._lay(kind)
        if open_:
            self._probe.follow(result_node.scan_of(self._node), self._result)
        else:
            self._probe.stop()

    # ---- from the engine

    def _fetch(self, kind: str) -> None:
        prediction, scan = self._result["prediction"], result_node.scan_of(self._node)
        if kind in self._calls or scan is None or (kind == PROTOTYPES and not self._result["prototypes"]):
            return
        saved = self._node.GetNodeReference(_MAP_ROLE) if kind == PROTOTYPES else None
        if saved is not None:  # of a scene that was saved
            self._prototypes = overlays.PrototypeOverlay(saved)
            return

        def failed(message: str) -> None:
            self._calls.pop(kind, None)
            self._context.ui.whyWords.text = _("{reason}. Segment again to see why; the figures stay.").format(
                reason=sentence(message).rstrip(".")
            )

        def takeUncertainty(percent: np.ndarray, header: dict) -> None:
            self._calls.pop(kind, None)
            if self._shown(kind) is not None:
                slicer.util.updateVolumeFromArray(self._uncertainty, percent)
            elif mrml.alive(scan):
                name = _("{scan} uncertainty").format(scan=scan.GetName())
                self._uncertainty = overlays.uncertainty_overlay(percent, header["start"], scan, name)
                self._fetched.append(self._uncertainty)
                self._update()

        def takeMap(map_: np.ndarray, header: dict) -> None:
            self._calls[kind] = self._session.engine.getArray(
                route("predictions", prediction, "similarity"),
                lambda similarity, _header: takeBoth(map_, similarity, header["start"]),
                failed,
            )

        def takeBoth(map_: np.ndarray, similarity: np.ndarray, start: list[int]) -> None:
            self._calls.pop(kind, None)
            if mrml.alive(scan):
                name = _("{scan} prototypes").format(scan=scan.GetName())
                rows = self._result["prototypes"]
                self._prototypes = overlays.prototype_overlay(map_, start, rows, scan, name, similarity)
                self._prototypes.setHidden(self._hidden())
                self._fetched.append(self._prototypes.node)
                self._node.SetNodeReferenceID(_MAP_ROLE, self._prototypes.node.GetID())
                self._update()

        if kind == UNCERTAINTY:
            self._uncertaintyOf = stroke_node.applied(self._node)
        self._calls[kind] = self._session.engine.getArray(
            route("predictions", prediction, "prototypes" if kind == PROTOTYPES else "uncertainty"),
            takeMap if kind == PROTOTYPES else takeUncertainty,
            failed,
        )

    def _clear(self) -> None:
        for call in self._calls.values():
            call.abort()
        self._calls.clear()
        self._lay(NONE)
        for node in self._fetched:
            overlays.remove(node)
        self._fetched.clear()
        self._prototypes = self._uncertainty = None
        self._probe.stop()
        self._crosshair.hide()
        self._scatter.remove()
        self._context.ui.scatterButton.checked = False

    # ---- what the user does

    def _onCollapsed(self, _collapsed: bool) -> None:
        self._update()

    def _onOverlay(self) -> None:
        if self._context.parameters:
            self._context.parameters.put("Overlay", self._context.ui.overlayBox.currentData)
        self._showValues()
        self._update()

    def _onOpacity(self, value: int) -> None:
        if self._context.parameters:
            self._context.parameters.put("Opacity", value)
        self._showValues()
        self._lay(self._context.ui.overlayBox.currentData)

    def _onThreshold(self, value: int) -> None:
        if self._context.parameters:
            self._context.parameters.put(_threshold_of(self._context.ui.overlayBox.currentData), value)
        self._showValues()
        self._delay.start()

    def _applyThreshold(self) -> None:
        similarity = self._threshold(PROTOTYPES) / 100
        if self._prototypes is not None and self._prototypes.canThreshold and self._prototypes.threshold != similarity:
            self._prototypes.setThreshold(similarity)
        if mrml.alive(self._uncertainty):
            self._uncertainty.GetDisplayNode().SetThreshold(max(1, self._threshold(UNCERTAINTY)), 100)

    def _threshold(self, kind: str) -> int:
        """Below how many hundredths nothing is shown: each overlay has a bound of its own."""
        return self._context.parameters.number(_threshold_of(kind)) if self._context.parameters else 0

    def _shown(self, kind: str) -> slicer.vtkMRMLVolumeNode | None:
        """The overlay of a kind, while the user has not deleted it."""
        node = self._prototypes.node if kind == PROTOTYPES and self._prototypes else None
        node = self._uncertainty if kind == UNCERTAINTY else node
        return node if mrml.alive(node) else None

    def _lay(self, kind: str) -> None:
        if slicer.mrmlScene is not None:
            overlays.show(self._shown(kind), self._context.ui.opacitySlider.value / 100, slicer.mrmlScene)
            self._outline(self._shown(kind) is not None)

    def _outline(self, only: bool) -> None:
        """Under an overlay the mask is drawn as an outline, so that its colour does not mix with the others."""
        display = self._node.GetDisplayNode() if mrml.alive(self._node) else None
        if display is None:
            return
        was = display.GetAttribute(_FILL)
        if only and was is None:
            display.SetAttribute(_FILL, f"{display.GetOpacity2DFill():g}")
            display.SetOpacity2DFill(0)
        elif not only and was is not None:
            display.SetAttribute(_FILL, None)
            display.SetOpacity2DFill(float(was))

    def _hidden(self) -> set[int]:
        parameters = self._context.parameters
        text = parameters.get("Hidden") if parameters else ""
        return {int(value) for value in text.split(",") if value.isdigit()}

    def _hideBackground(self) -> None:
        """Prototypes of the background cover all that is not heart: they are shown on request."""
        if self._result and self._context.parameters:
            background = [str(row["value"]) for row in self._result["prototypes"] if row["class"] == 0]
            self._context.parameters.put("Hidden", ",".join(background))

    def _onChecked(self, row: int, column: int) -> None:
        if column != 0 or not self._result or not self._context.parameters:
            return
        value = self._result["prototypes"][row]["value"]
        checked = self._context.ui.prototypeTable.item(row, 0).checkState() == qt.Qt.Checked
        hidden = self._hidden() - {value} if checked else self._hidden() | {value}
        self._context.parameters.put("Hidden", ",".join(str(value) for value in sorted(hidden)))
        if self._shown(PROTOTYPES) is not None:
            self._prototypes.setHidden(hidden)

    def _onRow(self, row: int, _column: int) -> None:
        index = self._result["prototypes"][row]["typical_index"] if self._result else None
        if index is not None:
            self._jump(index)

    def nextPlace(self) -> str:
        """Go to the next place of which the model is unsure; what it is, in words."""
        if not self._places:
            return ""
        self._place = (self._place + 1) % len(self._places)
        place = self._places[self._place]
        self._jump(place["index"])
        told = _("{n} of {count}: {words}").format(
            n=self._place + 1, count=len(self._places), words=sentence(place["words"])
        )
        self._context.ui.uncertainLabel.text = told
        return told

    def _onCorrect(self) -> None:
        if self._place < 0:
            self.nextPlace()
        self._correct()

    def _jump(self, index: list[int]) -> None:
        scan = result_node.scan_of(self._node) if self._node else None
        if scan is not None:
            self._crosshair.show(mrml.jump_to(index, scan))

    def _onScatter(self, checked: bool) -> None:
        if not checked:
            self._scatter.hide()
            return
        if self._result is None:
            return
        rows = self._result["prototypes"]

        def failed(message: str) -> None:
            self._context.ui.scatterButton.checked = False
            self._context.say(message)

        self._calls["scatter"] = self._session.engine.get(
            route("predictions", self._result["prediction"], "scatter", points=2000),
            lambda answer: self._scatter.show(answer, rows),
            failed,
        )


def _threshold_of(kind: str) -> str:
    """The parameter that holds the lower bound of an overlay."""
    return "Uncertainty" if kind == UNCERTAINTY else "Threshold"
