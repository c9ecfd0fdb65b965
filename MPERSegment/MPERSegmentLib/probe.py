"""The line that tells what the model sees in the voxel under the cursor."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import qt
import slicer
from MPERLib import mrml
from MPERLib.callbacks import slot
from MPERLib.engine import route
from slicer.i18n import tr as _

from MPERSegmentLib import formatting
from MPERSegmentLib.engine_session import EngineSession
from MPERSegmentLib.panel_context import sentence

_REST_MS = 40  # the engine is asked when the cursor rests, and never twice at once


class Probe:
    """StrokeSyncCallbacks the cursor and writes into a label.

    Parameters
    ----------
    label : QLabel
    session : EngineSession
    strokeAt : callable
        Tells, in words, of the stroke with a number (from 0); empty where there is none.
    """

    def __init__(self, label: Any, session: EngineSession, strokeAt: Callable[[int], str]):
        self._label, self._session, self._strokeAt = label, session, strokeAt
        self._scan: slicer.vtkMRMLScalarVolumeNode | None = None
        self._result: dict[str, Any] = {}
        self._crosshair: tuple[slicer.vtkMRMLCrosshairNode, int] | None = None
        self._index: tuple[int, int, int] | None = None
        self._call: Any = None
        self._timer = qt.QTimer(label)
        self._timer.setSingleShot(True)
        self._timer.interval = _REST_MS
        self._timer.connect("timeout()", slot(self._ask))

    def follow(self, scan: slicer.vtkMRMLScalarVolumeNode | None, result: dict[str, Any]) -> None:
        """Tell of this result, in the scan that it was made from."""
        self._scan, self._result = scan, result
        if self._crosshair is None and scan is not None:
            node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
            if node is not None:
                event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
                self._crosshair = (node, node.AddObserver(event, slot(self._onCursor, "cursor")))
        self._label.text = _("Move the cursor over a slice to see what the model sees in a voxel.")

    def stop(self) -> None:
        """Follow the cursor no longer."""
        if self._crosshair is not None:
            node, tag = self._crosshair
            node.RemoveObserver(tag)
            self._crosshair = None
        self._timer.stop()
        if self._call is not None:
            self._call.abort()
            self._call = None
        self._scan = None

    def _onCursor(self, crosshair: slicer.vtkMRMLCrosshairNode, _event: str) -> None:
        ras = [0.0, 0.0, 0.0]
        inside = crosshair.GetCursorPositionRAS(ras) and self._scan is not None
        index = mrml.index_at(ras, self._scan) if inside else None
        if index != self._index:
            self._index = index
            if index is not None:
                self._timer.start()

    def _ask(self) -> None:
        if self._index is None or self._scan is None:
            return
        if self._call is not None:  # its answer asks again
            return
        asked = self._index
        k, j, i = asked

        def done(answer: dict | None) -> None:
            self._call = None
            self._label.text = self._words(answer or {})
            if self._index != asked:
                self._timer.start()

        def failed(message: str) -> None:
            self._call = None
            self._label.text = html.escape(sentence(message))

        self._call = self._session.engine.get(
            route("predictions", self._result["prediction"], "probe", k=k, j=j, i=i), done, failed
        )

    def _words(self, answer: dict[str, Any]) -> str:
        if answer.get("value") is None:
            return _("The model did not look here.")
        colours = {row["value"]: row["colour"] for row in self._result["prototypes"]}
        near = "&nbsp;&nbsp; ".join(
            "<span style='color:rgb({rgb})'>\N{BLACK SQUARE}</span>&nbsp;{name}&nbsp;{similarity:.2f}".format(
                rgb=",".join(str(part) for part in colours.get(row["value"], (128, 128, 128))),
                name=html.escape(row["name"]).replace(" ", "&nbsp;"),
                similarity=row["similarity"],
            )
            for row in answer["prototypes"]
        )
        if near:
            near = _("Similarity to {prototypes}").format(prototypes=near)
        first = "<b>{name}</b>".format(name=html.escape(answer["name"]))
        if answer.get("probability") is not None:
            first += ", " + _("probability {share}").format(share=formatting.percent(answer["probability"]))
        stroke = self._strokeAt(answer["stroke"]) if answer.get("stroke") is not None else ""
        lines = [html.escape(stroke), first, near, _labelled(answer.get("labelled", [])), _margin(answer["margin"])]
        return "<br/>".join(line for line in lines if line)


def _labelled(voxels: list[dict[str, Any]]) -> str:
    """The nearest voxels that a person labelled, of models that keep such voxels."""
    near = ", ".join(
        _("{case} ({name}, {similarity})").format(
            case=html.escape(voxel["case"]), name=html.escape(voxel["name"]), similarity=f"{voxel['similarity']:.2f}"
        )
        for voxel in voxels
    )
    return _("Nearest labelled voxels: {voxels}").format(voxels=near) if near else ""


def _margin(margin: float | None) -> str:
    if margin is None:  # a model without prototypes
        return ""
    told = _("Margin to the next class {margin}").format(margin=f"{margin:+.2f}")
    if margin < 0:
        told += " \N{EN DASH} " + _("its prototypes speak for another class")
    return told
