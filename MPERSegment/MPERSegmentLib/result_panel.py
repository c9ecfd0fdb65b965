"""Panel Result: which result is shown, what was measured, and what to mind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from MPERLib import mrml
from MPERLib.callbacks import slot
from MPERLib.tables import Cell, Table
from slicer.i18n import tr as _

from MPERSegmentLib import formatting, result_node
from MPERSegmentLib.panel_context import PanelContext, sentence

_UNLIKE = ("volume", "intensities", "noise")  # flags of a scan that is unlike those the model was trained on


class ResultPanel:
    """Shows the measurements of one result, and lets the user choose among the results of the scene.

    Parameters
    ----------
    context : PanelContext
    chosen : callable
        Called with the segmentation node (or None) when another result is to be shown.
    """

    def __init__(self, context: PanelContext, chosen: Callable[[slicer.vtkMRMLSegmentationNode | None], None]):
        self._context = context
        self._chosen = chosen
        ui = context.ui
        self.node: slicer.vtkMRMLSegmentationNode | None = None
        self._table = Table(
            ui.resultTable,
            [
                (_("Structure"), _("What was segmented")),
                (_("Volume"), _("Of all voxels of the structure")),
                (_("Surface"), _("Area of the structure's surface")),
                (_("Confidence"), _("Mean probability that the model gives its own mask; not calibrated")),
                (_("Parts"), _("Pieces that do not touch each other")),
            ],
        )
        ui.resultSelector.connect("currentNodeChanged(vtkMRMLNode*)", slot(self._onChosen))
        self.show(None)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Fill the panel; None empties it."""
        ui = self._context.ui
        self.node = node
        if ui.resultSelector.currentNode() is not node:
            ui.resultSelector.setCurrentNode(node)
        result = result_node.of(node)
        rows, told = _content(node, result)
        self._table.fill(rows)
        self._table.widget.visible = bool(rows)
        flags = [flag["words"] for flag in result.get("flags", [])] if result else []
        ui.flagsLabel.text = "\n".join(sentence(flag) for flag in flags)
        ui.flagsLabel.visible = bool(flags)
        ui.resultWords.text = told

    def _onChosen(self, node: slicer.vtkMRMLNode | None) -> None:
        self._chosen(node)


def _content(node: slicer.vtkMRMLSegmentationNode | None, result: dict[str, Any] | None) -> tuple[list[list[Any]], str]:
    """Rows of the table, and the lines below it."""
    if node is None:
        return [], _("No result is shown: choose a scan and press the button.")
    try:
        now = result_node.volumes_ml(node) if result is None or result_node.is_edited(node) else None
    except ValueError as error:
        return [], str(error)
    if result is None:
        labels = {label.name: label.colour for label in mrml.labels_of(node)}
        rows = [
            [Cell(name, labels[name]), formatting.millilitres(ml), *3 * [formatting.UNKNOWN]]
            for name, ml in now.items()
        ]
        return rows, _("Not made here: volumes only.")
    return [_row(figures, result, now) for figures in result["structures"]], _told(node, result)


def _row(figures: dict[str, Any], result: dict[str, Any], now: dict[str, float] | None) -> list[Any]:
    """One structure; `now` are the volumes of an edited mask, of which what only the model knew is left out."""
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


def _confidence(share: float | None, result: dict[str, Any]) -> str | Cell:
    """The model's confidence, which says nothing of a scan unlike those it was trained on."""
    doubts = [sentence(flag["words"]) for flag in result.get("flags", []) if flag.get("code") in _UNLIKE]
    if share is None or not doubts:
        return formatting.percent(share)
    tip = _("A model can be sure of itself and wrong: do not rely on this figure here.")
    return Cell(f"\N{WARNING SIGN} {formatting.percent(share)}", tip="\n".join([tip, *doubts]))


def _told(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any]) -> str:
    lines = [
        _("{model} (version {version}); {device}, {seconds}").format(
            model=result.get("title") or result["model"],
            version=result.get("model_version") or "",
            device=result.get("device") or "",
            seconds=formatting.duration(result.get("seconds") or 0),
        )
    ]
    if result_node.is_edited(node):
        lines.append(_("Changed by a person since; figures without a value were the model's."))
    elif result.get("confidence") is not None:
        lines.append(_("Confidence is the model's mean probability; it was not calibrated."))
    flagged = {flag["words"] for flag in result.get("flags", [])}  # these stand above the table's words already
    notes = [sentence(note) for note in result.get("notes", []) if note not in flagged]
    return "\n".join([*lines, *notes])
