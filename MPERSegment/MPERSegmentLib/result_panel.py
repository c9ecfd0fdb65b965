"""Panel Result: which segmentation is shown, its measurements, and warnings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from MPERLib import engine_words, formatting, phases, segmentation_node
from MPERLib.callbacks import slot
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Cell, Table
from slicer.i18n import tr as _

from MPERSegmentLib import found_region, mask_quality, result_node, stroke_node

_UNLIKE_TRAINING = ("volume", "intensities", "noise")  # flags of a scan unlike those the model was trained on


class ResultPanel:
    """The measurements of one segmentation, and the choice among those of the scene.

    Parameters
    ----------
    context : PanelContext
    chosen : callable
        Called with the segmentation node (or None) when the user chooses another one.
    """

    def __init__(self, context: PanelContext, chosen: Callable[[slicer.vtkMRMLSegmentationNode | None], None]):
        self._context = context
        ui = context.ui
        self.node: slicer.vtkMRMLSegmentationNode | None = None
        self._table = Table(
            ui.resultTable,
            [
                (_("Structure"), _("The segmented structure")),
                (_("Volume"), _("Volume of the structure")),
                (_("Surface"), _("Surface area of the structure")),
                (
                    _("Confidence"),
                    _("Agreement of the mask with the model's probabilities; not calibrated"),
                ),
                (_("Parts"), _("Number of connected components")),
            ],
            fitted=True,
        )
        ui.resultSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(chosen))
        self.show(None)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Fill the panel; None empties it."""
        ui = self._context.ui
        self.node = node
        if ui.resultSelector.currentNode() is not node:
            ui.resultSelector.setCurrentNode(node)
        result = engine_words.in_words(result_node.of(node) or {}) or None
        rows, text = _content(node, result)
        self._table.fill(rows)
        self._table.widget.visible = bool(rows)
        self._showQuality(node)
        flags = _flags(node, result)
        if node is not None and (other := phases.mismatch(node, result_node.scan_of(node))):
            flags.insert(0, other)
        ui.flagsLabel.text = "\n".join(sentence(flag) for flag in flags)
        ui.flagsLabel.visible = bool(flags)
        ui.resultWords.text = text

    def _showQuality(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        label = self._context.ui.qualityLabel
        scan = result_node.scan_of(node) if node is not None else None
        label.text = mask_quality.line(node, found_region.of(scan) is not None)
        label.visible = bool(label.text)
        label.styleSheet = mask_quality.style(mask_quality.level_of(node))


def _flags(node: slicer.vtkMRMLSegmentationNode | None, result: dict[str, Any] | None) -> list[str]:
    """The reasons to check the mask, without those that the line about its quality says."""
    flags = (result or {}).get("flags", [])
    if node is not None and mask_quality.line(node, False):
        said = mask_quality.FLAGS if mask_quality.level_of(node) == mask_quality.EMPTY else mask_quality.FLAGS[:1]
        flags = [flag for flag in flags if flag.get("code") not in said]
    return [flag["words"] for flag in flags]


def _content(node: slicer.vtkMRMLSegmentationNode | None, result: dict[str, Any] | None) -> tuple[list[list[Any]], str]:
    """Rows of the table, and the lines below it."""
    if node is None:
        return [], _("No segmentation is shown. Choose a scan and start the segmentation.")
    try:
        now = result_node.volumes_ml(node) if result is None or result_node.is_edited(node) else None
        measured = {} if now is None else result_node.figures(node, stroke_node.applied(node))
    except ValueError as error:
        return [], sentence(str(error))
    if result is None:
        labels = {label.name: label.colour for label in segmentation_node.labels_of(node)}
        rows = [
            [Cell(name, labels[name]), formatting.millilitres(ml), *3 * [formatting.UNKNOWN]]
            for name, ml in now.items()
        ]
        return rows, _("Not segmented with MPER: only volumes are measured.")
    if mask_quality.is_empty(node, result):
        return [], _notes(node, result, bool(measured))
    rows = [_row(measured.get(one["name"], one), result, None if measured else now) for one in result["structures"]]
    if mask_quality.level_of(node) == mask_quality.WRONG:
        rows = [_likelyWrong(cells) for cells in rows]
    return rows, _notes(node, result, bool(measured))


def _row(figures: dict[str, Any], result: dict[str, Any], now: dict[str, float] | None) -> list[Any]:
    """One structure; `now` are the volumes of an edited mask, whose other figures applied to the original one."""
    colour = next((label["colour"] for label in result["labels"] if label["value"] == figures["value"]), None)
    if now is not None:
        volume_ml = now.get(figures["name"]) if figures["volume_ml"] is not None else None
        return [Cell(figures["name"], colour), formatting.millilitres(volume_ml), *3 * [formatting.UNKNOWN]]
    return [
        Cell(figures["name"], colour),
        formatting.millilitres(figures["volume_ml"]),
        formatting.square_centimetres(figures["surface_mm2"]),
        _confidence(figures["confidence"], result),
        str(figures["components"]),
    ]


def _likelyWrong(cells: list[Any]) -> list[Any]:
    """A row whose confidence, which may be high, does not reassure."""
    name, volume, surface, confidence, parts = cells
    share = confidence.text if isinstance(confidence, Cell) else confidence
    tip = _("See the line above the table. The confidence, which is not calibrated, is {share}.").format(share=share)
    wrong = Cell(_("likely wrong"), tip=tip, colour=mask_quality.RED)
    return [name._replace(tip=tip, colour=mask_quality.RED), volume, surface, wrong, parts]


def _confidence(share: float | None, result: dict[str, Any]) -> str | Cell:
    """The model's confidence, with a warning on a scan unlike the training data."""
    warnings = [sentence(flag["words"]) for flag in result.get("flags", []) if flag.get("code") in _UNLIKE_TRAINING]
    if share is None or not warnings:
        return formatting.percent(share)
    tip = _("The scan is unlike the training data: the mask may be wrong although the confidence is high.")
    return Cell(f"\N{WARNING SIGN} {formatting.percent(share)}", tip="\n".join([tip, *warnings]))


def _notes(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any], measured: bool) -> str:
    lines = [
        _("{model} (version {version}); {device}, {seconds}").format(
            model=result.get("title") or result["model"],
            version=result.get("model_version") or "",
            device=engine_words.used_device(result.get("device") or ""),
            seconds=formatting.duration(result.get("seconds") or 0),
        )
    ]
    if phase := _phase_of(node):
        lines.insert(0, phase)
    if measured:
        lines.append(_("Edited with strokes, and measured again."))
    elif result_node.is_edited(node):
        lines.append(_("Edited manually. Surface, confidence and parts applied to the original mask."))
    elif result.get("confidence") is not None and not mask_quality.level_of(node):
        lines.append(_("Confidence is the agreement of mask and probabilities; it is not calibrated."))
    flagged = {flag["words"] for flag in result.get("flags", [])}  # these are shown above already
    notes = [sentence(note) for note in result.get("notes", []) if note not in flagged]
    return "\n".join([*lines, *notes])


def _phase_of(node: slicer.vtkMRMLSegmentationNode) -> str:
    """Which phase of a time series it was made from; empty for other scans."""
    number, scan = phases.of(node), result_node.scan_of(node)
    if number is None:
        return ""
    try:
        text = phases.phase(scan, number).text if scan is not None else _("phase {n}").format(n=number)
    except ValueError:
        text = _("phase {n}").format(n=number)
    return sentence(_("mask of {phase}").format(phase=text))
