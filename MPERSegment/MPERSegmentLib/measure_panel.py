"""Panel Measure: figures of the segmentation that is shown, by all methods, as it is now.

Whenever the mask, a clip or a value of the user changes, the figures turn grey, and the engine measures again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from MPERLib import mrml, phases, segmentation_node
from MPERLib.callbacks import later, slot
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Table, chosen, fill_box, silent
from slicer.i18n import tr as _

from MPERSegmentLib import figure_table, mask_quality, measure_inputs, result_node
from MPERSegmentLib.clip_panel import ClipPanel
from MPERSegmentLib.measure_inputs import MeasureInputs
from MPERSegmentLib.measurement_job import MeasurementJob, MeasurementRequest, UploadedMasks, masks_of
from MPERSegmentLib.report_panel import ReportPanel
from MPERSegmentLib.uploaded_scans import UploadedScans
from MPERSegmentLib.volume_plot import VolumePlot
from MPERSegmentLib.wall_panel import WallPanel

_REST_MS = 120  # without another change, after which the engine measures
_TABLE_PX = 560
_SCHEMES = figure_table.SCHEMES
_EVENTS = ("SourceRepresentationModified", "SegmentModified", "SegmentAdded", "SegmentRemoved")
_WARNING = "QLabel { background-color: rgba(226, 156, 48, 70); border-radius: 4px; padding: 4px; }"


class MeasurePanel:
    """Measures one segmentation; of a time series with the masks of its other phases.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    scans : UploadedScans
    settled : callable
        Takes a result: whether its mask includes all its strokes.
    """

    def __init__(
        self, context: PanelContext, session: EngineSession, scans: UploadedScans, settled: Callable[[Any], bool]
    ):
        self._context, self._session, self._scans, self._settled = context, session, scans, settled
        self._masks = UploadedMasks(session)
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._measured: list[Any] = []  # the masks of the figures
        self._answer: dict[str, Any] | None = None
        self._stale = False
        self._observed: dict[str, tuple[Any, list[int]]] = {}
        self._job: MeasurementJob | None = None
        self._plot = VolumePlot()
        ui = context.ui
        self._timer = qt.QTimer(ui.measureSection)
        self._timer.setSingleShot(True)
        self._timer.interval = _REST_MS
        self._timer.connect("timeout()", slot(self._measure, "measure"))
        self._table = Table(
            ui.figuresTable,
            [
                (_("Figure"), _("Hold the mouse over a figure to see its method and parameters")),
                (_("Value"), _("Of an extent also its area")),
                (_("Range"), _("Over the mask and the masks at probability 0.3 and 0.7")),
                *(
                    (scheme.split()[0], _("Stage, from 1 to 4, by {scheme}").format(scheme=scheme))
                    for scheme in _SCHEMES
                ),
            ],
            fitted=True,
            tallest=_TABLE_PX,
        )
        self.clips = ClipPanel(context, self._onChanged)
        self._wall = WallPanel(context, session, self._fail)
        self._report = ReportPanel(context, self.reportInputs, settled)
        for widget in (ui.heightBox, ui.weightBox, ui.wallBox):
            widget.connect("valueChanged(double)", slot(self._onInput))
        for widget in (ui.enhancementBox, ui.rangesBox):
            widget.connect("toggled(bool)", slot(self._onInput))
        for widget in (ui.edBox, ui.esBox):
            widget.connect("currentIndexChanged(int)", slot(self._onChanged))
        ui.copyFiguresButton.connect("clicked()", slot(self._onCopy))
        ui.curveButton.connect("toggled(bool)", slot(self._onCurve))
        ui.measureSection.connect("contentsCollapsed(bool)", slot(self._onCollapsed))
        self.show(None)

    # ---- what is shown

    @property
    def stale(self) -> bool:
        """Whether the figures are not those of the scene."""
        return self._stale or self._answer is None

    @property
    def busy(self) -> bool:
        """Whether figures or their surface are on their way."""
        return self._job is not None or self._wall.busy or bool(self._timer.isActive())

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Measure another segmentation, or none; what is measured already stays as it is unless it has changed."""
        phase = len(self._measured) > 1 and node in self._measured  # another phase, whose mask is measured, too
        if (node is self._node or phase) and mrml.alive(node):
            self._node = node
            self._observe()
            self.clips.show(node)
            if masks_of(node) != self._measured or any(self._masks.known(mask) is None for mask in self._measured):
                self._onChanged()
            return
        self._stop()
        self._node, self._answer, self._measured = node, None, []
        self._observe()
        self._say("")
        self.clips.show(node)
        self._wall.show(node)
        self._showInputs()
        self._showFigures()
        self._onChanged()

    def edited(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """The mask of a segmentation was edited."""
        if node is self._node and self._context.ui.measureSection.collapsed:
            self._wall.removeOld()

    def engineChanged(self) -> None:
        """The engine was started or stopped, or its models have changed."""
        if self._session.running and self.stale:
            self._showInputs()
            self._onChanged()

    def nodeRemoved(self, node: Any) -> None:
        """A node is being removed from the scene; clips and surface go with their segmentation."""
        self._masks.forget(node.GetID())
        if node.GetID() in self._observed:
            self._forget([node.GetID()])
            if node is not self._node:  # of another phase
                self._onChanged()
        if node is self._node:
            self._stop()
            own = [*self.clips.nodes(), *self._wall.nodes()]
            later(lambda: _remove(own), "clips of a removed segmentation")
        self.clips.nodeRemoved(node)

    def close(self) -> None:
        """Release all nodes of the scene, and cancel what is under way."""
        self._stop()
        self._forget(list(self._observed))
        self._report.stop()
        self.clips.close()
        self._wall.close()
        self._plot.remove()
        self._node, self._answer, self._measured = None, None, []

    def _observe(self) -> None:
        """Observe the masks that are measured: whoever edits one, the figures are out of date."""
        wanted = {mask.GetID(): mask for mask in (masks_of(self._node) if mrml.alive(self._node) else ())}
        self._forget([key for key in self._observed if key not in wanted])
        for key, mask in wanted.items():
            if key not in self._observed:
                segmentation = mask.GetSegmentation()
                react = slot(lambda *_arguments, mask=mask: self._onMask(mask), "measured mask changed")
                tags = [segmentation.AddObserver(getattr(segmentation, event), react) for event in _EVENTS]
                self._observed[key] = (segmentation, tags)

    def _forget(self, keys: list[str]) -> None:
        for key in keys:
            segmentation, tags = self._observed.pop(key)
            for tag in tags:
                segmentation.RemoveObserver(tag)

    def _onMask(self, mask: Any) -> None:
        """A surface that was made sends these events, too."""
        if mrml.alive(mask) and self._masks.known(mask) is None:
            self._onChanged()

    def _stop(self) -> None:
        self._timer.stop()
        if self._job is not None:
            self._job.stop()
            self._job = None
        self._wall.stop()

    # ---- inputs

    def _showInputs(self) -> None:
        """Show what is known of the patient, and the inputs that this segmentation has."""
        ui, node = self._context.ui, self._node
        inputs = measure_inputs.load(node, self._session)
        for widget, value in (
            (ui.heightBox, inputs.height_cm),
            (ui.weightBox, inputs.weight_kg),
            (ui.wallBox, inputs.wall_mm),
        ):
            with silent(widget):
                widget.value = value
        with silent(ui.enhancementBox):
            ui.enhancementBox.checked = inputs.enhancement
        atrium = node is not None and measure_inputs.has_atrium(node)
        for widget in (
            *(ui.wallBoxLabel, ui.wallFrame, ui.surfaceBoxLabel, ui.surfaceBox),
            *(ui.clipsBox, ui.rangesBox),
        ):
            widget.visible = atrium
        ui.wallBox.enabled = ui.enhancementBox.checked
        self._showPhases()

    def _showPhases(self) -> None:
        """Show the choice of ED and ES where there are masks of several phases."""
        ui = self._context.ui
        numbers = [phases.of(mask) for mask in masks_of(self._node)] if mrml.alive(self._node) else []
        for widget in (ui.phasesFrameLabel, ui.phasesFrame, ui.curveButton):
            widget.visible = len(numbers) > 1
        if len(numbers) > 1:
            entries = [("", _("automatic")), *((str(n), _("phase {n}").format(n=n)) for n in numbers)]
            for box in (ui.edBox, ui.esBox):
                fill_box(box, entries, chosen(box))

    def _inputs(self) -> MeasureInputs:
        ui = self._context.ui
        return MeasureInputs(ui.heightBox.value, ui.weightBox.value, ui.wallBox.value, bool(ui.enhancementBox.checked))

    def _onInput(self) -> None:
        ui = self._context.ui
        ui.wallBox.enabled = ui.enhancementBox.checked
        if self._node is not None:
            measure_inputs.store(self._node, self._inputs())
        self._onChanged()

    def reportInputs(self) -> measure_inputs.ReportInputs | None:
        """What is measured and how, for a report; None where nothing can be measured."""
        node = self._node
        if not mrml.alive(node) or result_node.scan_of(node) is None:
            return None
        ui = self._context.ui
        ed, es = (chosen(box) for box in (ui.edBox, ui.esBox))
        atrium = measure_inputs.has_atrium(node)
        return measure_inputs.ReportInputs(
            masks_of(node), result_node.scan_of(node), self._inputs(), self.clips.clips() if atrium else [], ed, es
        )

    # ---- measuring

    def _onCollapsed(self, collapsed: bool) -> None:
        if not collapsed and self.stale:
            self._onChanged()

    def _onChanged(self) -> None:
        """The figures are out of date: grey until they are measured again."""
        if self._job is not None:
            self._job.stop()
            self._job = None
        self._wall.stop()
        if not self._stale:
            self._stale = True
            self._showFigures()
        if not self._context.ui.measureSection.collapsed:
            self._timer.start()

    def _measure(self) -> None:
        node = self._node
        if not mrml.alive(node):
            self._say("" if node is None else _("The segmentation is not in the scene any more."))
            return
        if self._context.ui.measureSection.collapsed:
            return
        scan = result_node.scan_of(node)
        if scan is None:
            self._fail(_("the scan of this segmentation is not in the scene, so nothing can be measured; load it"))
            return
        if not self._session.running:
            self._fail(self._session.stateText())
            return
        self._showPhases()
        try:
            request = self._request(node, scan)
        except ValueError as error:
            self._fail(str(error))
            return
        measured = list(request.masks)
        self._observe()
        self._job = MeasurementJob(
            self._session,
            self._scans,
            self._masks,
            request,
            lambda answer: self._take(measured, answer),
            self._fail,
        )

    def _request(self, node: Any, scan: Any) -> MeasurementRequest:
        ui, inputs = self._context.ui, self._inputs()
        atrium = measure_inputs.has_atrium(node)
        masks = masks_of(node)
        body: dict[str, Any] = {}
        if inputs.height_cm and inputs.weight_kg:
            body |= {"height_cm": inputs.height_cm, "weight_kg": inputs.weight_kg}
        if atrium:
            body |= {"clips": self.clips.clips(), "wall_mm": inputs.wall_mm}
            if ui.rangesBox.checked:
                body |= self._ranges(node)
        if len(masks) > 1:
            body["phase_numbers"] = [phases.of(mask) for mask in masks]
            for key, box in (("end_diastole", ui.edBox), ("end_systole", ui.esBox)):
                if chosen(box):
                    body[key] = int(chosen(box))
        return MeasurementRequest(masks, scan, inputs.enhancement and atrium, body)

    def _ranges(self, node: Any) -> dict[str, Any]:
        """Ask for ranges; the engine has the probabilities of a prediction, and its strokes, but no other edits."""
        result = result_node.of(node)
        if result is None or result_node.is_by_hand(node):
            raise ValueError(_("the range needs the model's probabilities; a mask edited manually has none: untick it"))
        if not self._settled(node):
            raise ValueError(_("the last stroke is still being processed; wait, or undo it"))
        return {"prediction": result["prediction"], "ranges": True}

    def _take(self, measured: list[Any], answer: dict[str, Any]) -> None:
        self._job = None
        self._measured, self._answer, self._stale = measured, answer, False
        doubts = mask_quality.doubts(measured)
        self._say("\n".join([*doubts, *map(sentence, answer["notes"])]), bad=bool(doubts))
        self._showFigures()
        if self._plot.visible:
            self._showCurve()
        self._wall.update(answer["surface"])

    def _fail(self, message: str) -> None:
        self._job = None
        self._say(sentence(message), bad=True)

    def _showFigures(self) -> None:
        ui, figures = self._context.ui, (self._answer or {}).get("figures", [])
        self._table.fill(figure_table.rows(figures, self._stale))
        self._table.widget.visible = bool(figures)
        ranged, staged = (any(figure[key] for figure in figures) for key in ("range", "stages"))
        self._table.widget.setColumnHidden(2, not ranged)
        for column in range(3, 3 + len(_SCHEMES)):
            self._table.widget.setColumnHidden(column, ranged or not staged)  # names need the width; tooltips have them
        ui.copyFiguresButton.enabled = bool(figures) and not self._stale
        self._report.show(self._node is not None)

    def _say(self, message: str, bad: bool = False) -> None:
        ui = self._context.ui
        ui.measureWords.text = message
        ui.measureWords.visible = bool(message)
        ui.measureWords.styleSheet = _WARNING if bad and message else ""

    # ---- copy, curve

    def _onCopy(self) -> None:
        if self._answer is not None:
            lines = [*mask_quality.doubts(self._measured), *map(sentence, self._answer["notes"])]
            slicer.app.clipboard().setText(figure_table.clipboard_text(self._answer["figures"], lines))

    def _onCurve(self, shown: bool) -> None:
        if shown and self._answer is not None and not self._stale:
            self._showCurve()
        elif not shown:
            self._plot.hide()

    def _showCurve(self) -> None:
        curves = self._answer["curves"] if self._answer else []
        if not curves or len(self._measured) < 2:
            self._plot.hide()
            return
        colours = {label.name.casefold(): label.colour for label in segmentation_node.labels_of(self._measured[0])}
        self._plot.show(curves, [phases.of(mask) for mask in self._measured], colours)


def _remove(nodes: list[Any]) -> None:
    for node in nodes:
        if mrml.alive(node):
            node.GetScene().RemoveNode(node)
