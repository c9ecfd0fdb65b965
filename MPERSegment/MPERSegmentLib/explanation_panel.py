"""Panel Explanation: prototypes and uncertainty over the slices, and the result for the voxel under the cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
from MPERLib import formatting, mrml, overlays
from MPERLib.callbacks import later, slot
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.rendering import rendered_once
from MPERLib.widgets import Cell, Table, silent
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, stroke_node
from MPERSegmentLib.crosshair import Crosshair
from MPERSegmentLib.embedding_plot import EmbeddingPlot
from MPERSegmentLib.probe import Probe

NONE, PROTOTYPES, UNCERTAINTY = "none", "prototypes", "uncertainty"
_MAP_ROLE = "MPER.PrototypeMap"  # reference of a result to its map in the scene, so that a saved scene still shows it
_MAP_OF = "MPER.Prediction"  # attribute of a map: the prediction that it is of
_FILL = "MPER.Fill"  # attribute of a mask's display: its opacity before an overlay was shown


class ExplanationPanel:
    """Explains one result, as long as the engine has its prediction.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    strokeAt : callable
        Takes the number of a stroke (from 0) and returns a text about it.
    correct : callable
        Called when the user wants to correct the uncertain location that is shown.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        strokeAt: Callable[[int], str],
        correct: Callable[[], None],
    ):
        self._context, self._session, self._correct = context, session, correct
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._result: dict[str, Any] | None = None
        self._prototypes: overlays.PrototypeOverlay | None = None
        self._uncertainty: slicer.vtkMRMLScalarVolumeNode | None = None
        self._uncertaintyOf: tuple[int, ...] = ()  # the strokes that were drawn when it was computed
        self._fetched: list[slicer.vtkMRMLVolumeNode] = []
        self._calls: dict[str, Any] = {}
        self._places: list[dict[str, Any]] = []
        self._place = -1
        self._entered = False
        self._ticked = False  # the click on the table was one on a tick
        self._probe = Probe(context.ui.probeLabel, session, strokeAt)
        self._crosshair = Crosshair()
        self._plot = EmbeddingPlot(self._jump)
        ui = context.ui
        for text, key in ((_("None"), NONE), (_("Prototypes"), PROTOTYPES), (_("Uncertainty"), UNCERTAINTY)):
            ui.overlayBox.addItem(text, key)
        self._table = Table(
            ui.prototypeTable,
            [
                (_("Prototype"), _("A learned feature vector of a class; tick it to show the voxels nearest to it")),
                (_("Voxels"), _("Number of voxels that are most similar to this prototype")),
                (_("mL"), _("Volume of these voxels")),
                (_("Similarity"), _("Mean cosine similarity of these voxels to the prototype; 1 is equal")),
                (_("Intensity"), _("Mean intensity of these voxels in the scan")),
            ],
            fitted=True,
        )
        ui.prototypeTable.textElideMode = qt.Qt.ElideMiddle  # names differ at their end
        stops = ", ".join(f"stop:{share:g} rgb{colour}" for share, colour in overlays.uncertainty_colours())
        ui.legendBar.styleSheet = f"background: qlineargradient(x1:0, y1:0, x2:1, y2:0, {stops})"
        self._delay = qt.QTimer(ui.whySection)
        self._delay.setSingleShot(True)
        self._delay.interval = 60
        self._delay.connect("timeout()", slot(self._applyThreshold))
        ui.whySection.connect("contentsCollapsed(bool)", slot(lambda _collapsed: self._update()))
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
        """Show the choices that are stored in the scene."""
        parameters, ui = self._context.parameters, self._context.ui
        with silent(ui.opacitySlider):
            ui.opacitySlider.value = parameters.Opacity
        with silent(ui.overlayBox):
            ui.overlayBox.currentIndex = max(0, ui.overlayBox.findData(parameters.Overlay))
        self._showValues()

    def close(self) -> None:
        """Remove everything of this panel from the scene."""
        self._clear()
        self._node = self._result = None
        self._places = []

    def leave(self) -> None:
        """The user goes to another module: hide overlays and crosshair, stop following the cursor."""
        self._entered = False
        self._crosshair.hide()
        self._update()

    def enter(self) -> None:
        self._entered = True
        self._update()

    def sceneLoaded(self) -> None:
        """A scene was loaded, and then its layers were set."""
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
        with silent(ui.prototypeTable):
            for number, row in enumerate(rows):
                state = qt.Qt.Unchecked if row["value"] in hidden else qt.Qt.Checked
                ui.prototypeTable.item(number, 0).setCheckState(state)
        ui.whyContents.visible = self._result is not None
        for widget in (ui.prototypeTable, ui.scatterButton):
            widget.visible = bool(rows)
        if rows:
            text = _("Tick a prototype to show its voxels. Click its name to jump to its most typical voxel.")
        elif self._result:
            text = _("This model has no prototypes. Its uncertainty can be shown.")
        else:
            text = _("There is no segmentation to explain.")
        ui.whyWords.text = text
        self._showPlaces()
        self._showValues()

    def setPlaces(self, node: slicer.vtkMRMLSegmentationNode, places: list[dict[str, Any]]) -> None:
        """Set the uncertain locations of a result, which change with its strokes."""
        if node is self._node:
            self._places, self._place = places, -1
            self._showPlaces()
            self._updateUncertainty()

    def _updateUncertainty(self) -> None:
        """Fetch the uncertainty map again after strokes, whose voxels count as certain."""
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
        ui.uncertainLabel.text = "" if self._places or not self._result else _("There are no uncertain locations.")

    def _showValues(self) -> None:
        ui = self._context.ui
        kind = ui.overlayBox.currentData
        ui.opacityValue.text = f"{ui.opacitySlider.value} %"
        with silent(ui.thresholdSlider):
            ui.thresholdSlider.value = self._threshold(kind)
        if kind == UNCERTAINTY:
            ui.thresholdSliderLabel.text = _("Minimum uncertainty:")
            ui.thresholdSlider.toolTip = _("Voxels with a lower uncertainty are not shown")
            ui.thresholdValue.text = f"{ui.thresholdSlider.value} %"
        else:
            ui.thresholdSliderLabel.text = _("Minimum similarity:")
            ui.thresholdSlider.toolTip = _("Voxels that are less similar to their prototype (cosine) are not shown")
            ui.thresholdValue.text = f"{ui.thresholdSlider.value / 100:.2f}"
        for widget in (ui.opacitySlider, ui.thresholdSlider):
            widget.enabled = kind != NONE
        for widget in (ui.legendLabel, ui.legendFrame):
            widget.visible = kind == UNCERTAINTY

    def _update(self) -> None:
        """Show the chosen overlay in the slices, if module and panel are open."""
        open_ = self._entered and not self._context.ui.whySection.collapsed and self._result is not None
        kind = self._context.ui.overlayBox.currentData if open_ else NONE
        if kind != NONE and self._shown(kind) is None:
            self._fetch(kind)
        self._applyThreshold()
        self._showOverlay(kind)
        if open_:
            self._probe.start(result_node.scan_of(self._node), self._result)
        else:
            self._probe.stop()

    # ---- from the engine

    def _fetch(self, kind: str) -> None:
        prediction, scan = self._result["prediction"], result_node.scan_of(self._node)
        if kind in self._calls or scan is None or (kind == PROTOTYPES and not self._result["prototypes"]):
            return
        saved = self._savedMap() if kind == PROTOTYPES else None
        if saved is not None:
            self._prototypes = overlays.PrototypeOverlay(saved)
            return

        def failed(message: str) -> None:
            self._calls.pop(kind, None)
            text = _("{reason} Segment the scan again to see the explanation.")
            self._context.ui.whyWords.text = text.format(reason=sentence(message))

        def takeUncertainty(percent: np.ndarray, header: dict) -> None:
            self._calls.pop(kind, None)
            if self._shown(kind) is not None:
                with rendered_once():
                    slicer.util.updateVolumeFromArray(self._uncertainty, percent)
            elif mrml.alive(scan):
                name = _("{scan} uncertainty").format(scan=scan.GetName())
                with rendered_once():
                    self._uncertainty = overlays.uncertainty_overlay(percent, header["start"], scan, name)
                self._fetched.append(self._uncertainty)
                self._session.later(self._update, "overlay is shown")

        def takeMap(map_: np.ndarray, header: dict) -> None:
            self._calls.pop(kind, None)
            if not mrml.alive(scan):
                return
            name = _("{scan} prototypes").format(scan=scan.GetName())
            with rendered_once():
                overlay = overlays.prototype_overlay(map_, header["start"], self._result["prototypes"], scan, name)
                overlay.setHidden(self._hidden())
            self._prototypes = overlay
            self._fetched.append(overlay.node)
            overlay.node.SetAttribute(_MAP_OF, prediction)
            self._node.SetNodeReferenceID(_MAP_ROLE, overlay.node.GetID())
            self._calls["similarity"] = self._session.getArray(
                route("predictions", prediction, "similarity"),
                lambda similarity, _header: takeSimilarity(overlay, similarity),
                lambda _message: None,
            )
            self._session.later(self._update, "overlay is shown")

        def takeSimilarity(overlay: overlays.PrototypeOverlay, similarity: np.ndarray) -> None:
            self._calls.pop("similarity", None)
            overlay.setSimilarity(similarity)
            self._applyThreshold()

        if kind == UNCERTAINTY:
            self._uncertaintyOf = stroke_node.applied(self._node)
        self._calls[kind] = self._session.getArray(
            route("predictions", prediction, "prototypes" if kind == PROTOTYPES else "uncertainty"),
            takeMap if kind == PROTOTYPES else takeUncertainty,
            failed,
        )

    def _savedMap(self) -> slicer.vtkMRMLVolumeNode | None:
        """The prototype map of a loaded scene; one of another prediction, whose mask was replaced, is removed."""
        saved = self._node.GetNodeReference(_MAP_ROLE)
        if saved is None:
            return None
        of = saved.GetAttribute(_MAP_OF)  # scenes of version 0.1 do not have it
        if of == self._result["prediction"] or (of is None and len(result_node.predictions_of(self._node)) == 1):
            return saved
        overlays.remove(saved)
        return None

    def _clear(self) -> None:
        for call in self._calls.values():
            call.abort()
        self._calls.clear()
        self._showOverlay(NONE)
        for node in self._fetched:
            overlays.remove(node)
        self._fetched.clear()
        self._prototypes = self._uncertainty = None
        self._probe.stop()
        self._crosshair.hide()
        self._plot.remove()
        self._context.ui.scatterButton.checked = False

    # ---- what the user does

    def _onOverlay(self) -> None:
        if self._context.parameters:
            self._context.parameters.Overlay = self._context.ui.overlayBox.currentData
        self._showValues()
        self._update()

    def _onOpacity(self, value: int) -> None:
        if self._context.parameters:
            self._context.parameters.Opacity = value
        self._showValues()
        self._showOverlay(self._context.ui.overlayBox.currentData)

    def _onThreshold(self, value: int) -> None:
        if self._context.parameters and self._context.ui.overlayBox.currentData == UNCERTAINTY:
            self._context.parameters.Uncertainty = value
        elif self._context.parameters:
            self._context.parameters.Threshold = value
        self._showValues()
        self._delay.start()

    def _applyThreshold(self) -> None:
        similarity = self._threshold(PROTOTYPES) / 100
        if self._prototypes is not None and self._prototypes.canThreshold and self._prototypes.threshold != similarity:
            self._prototypes.setThreshold(similarity)
        if mrml.alive(self._uncertainty):
            self._uncertainty.GetDisplayNode().SetThreshold(max(1, self._threshold(UNCERTAINTY)), 100)

    def _threshold(self, kind: str) -> int:
        """The lower bound of an overlay in hundredths; each has its own."""
        parameters = self._context.parameters
        if parameters is None:
            return 0
        return parameters.Uncertainty if kind == UNCERTAINTY else parameters.Threshold

    def _shown(self, kind: str) -> slicer.vtkMRMLVolumeNode | None:
        """The node of an overlay, None if there is none or the user has deleted it."""
        node = self._prototypes.node if kind == PROTOTYPES and self._prototypes else None
        node = self._uncertainty if kind == UNCERTAINTY else node
        return node if mrml.alive(node) else None

    def _showOverlay(self, kind: str) -> None:
        if slicer.mrmlScene is not None:
            with rendered_once():
                overlays.show(self._shown(kind), self._context.ui.opacitySlider.value / 100, slicer.mrmlScene)
                self._outline(self._shown(kind) is not None)

    def _outline(self, only: bool) -> None:
        """Draw the mask as an outline under an overlay, so that their colours do not mix."""
        display = self._node.GetDisplayNode() if mrml.alive(self._node) else None
        if display is None:
            return
        was = display.GetAttribute(_FILL)
        if only == (was is not None):
            return
        with mrml.modifying(display):
            display.SetAttribute(_FILL, f"{display.GetOpacity2DFill():g}" if only else None)
            display.SetOpacity2DFill(0 if only else float(was))

    def _hidden(self) -> set[int]:
        return self._context.parameters.hiddenPrototypes() if self._context.parameters else set()

    def _hideBackground(self) -> None:
        """Hide the prototypes of the background, which cover the whole rest of the scan."""
        if self._result and self._context.parameters:
            background = [str(row["value"]) for row in self._result["prototypes"] if row["class"] == 0]
            self._context.parameters.Hidden = ",".join(background)

    def _onChecked(self, row: int, column: int) -> None:
        """Show or hide the voxels of a prototype, at once: where no prototypes are shown, they are from now on."""
        if column != 0 or not self._result or not self._context.parameters:
            return
        self._ticked = True  # until Qt has told of the click, after this
        later(self._endTick, "tick")
        value = self._result["prototypes"][row]["value"]
        checked = self._context.ui.prototypeTable.item(row, 0).checkState() == qt.Qt.Checked
        hidden = self._hidden() - {value} if checked else self._hidden() | {value}
        self._context.parameters.Hidden = ",".join(str(value) for value in sorted(hidden))
        if self._shown(PROTOTYPES) is not None:
            self._prototypes.setHidden(hidden)
        box = self._context.ui.overlayBox
        box.currentIndex = box.findData(PROTOTYPES)

    def _endTick(self) -> None:
        self._ticked = False

    def _onRow(self, row: int, _column: int) -> None:
        if self._ticked:
            return
        index = self._result["prototypes"][row]["typical_index"] if self._result else None
        if index is not None:
            self._jump(index)

    def nextPlace(self) -> str:
        """Jump to the next uncertain location; returns a text about it, empty if there is none."""
        if not self._places:
            return ""
        self._place = (self._place + 1) % len(self._places)
        place = self._places[self._place]
        self._jump(place["index"])
        text = _("{n} of {count}: {description}").format(
            n=self._place + 1, count=len(self._places), description=sentence(place["words"])
        )
        self._context.ui.uncertainLabel.text = text
        return text

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
            self._plot.hide()
            return
        if self._result is None:
            return
        rows = self._result["prototypes"]

        def failed(message: str) -> None:
            self._context.ui.scatterButton.checked = False
            self._context.showMessage(message)

        self._calls["scatter"] = self._session.get(
            route("predictions", self._result["prediction"], "scatter", points=2000),
            lambda answer: self._plot.show(answer, rows),
            failed,
        )
