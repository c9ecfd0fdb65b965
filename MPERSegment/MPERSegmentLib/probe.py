"""What the model computed for the voxel under the cursor, in one label of the panel."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import qt
import slicer
from MPERLib import formatting, mrml
from MPERLib.callbacks import slot
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from slicer.i18n import tr as _

_REST_MS = 40  # the engine is asked when the cursor rests, and never twice at once


class Probe:
    """Follows the cursor and shows class, probability and prototypes of its voxel.

    Parameters
    ----------
    label : QLabel
    session : EngineSession
    strokeAt : callable
        Takes the number of a stroke (from 0) and returns a text about it; empty where there is none.
    """

    def __init__(self, label: Any, session: EngineSession, strokeAt: Callable[[int], str]):
        self._label, self._session, self._strokeAt = label, session, strokeAt
        self._scan: slicer.vtkMRMLScalarVolumeNode | None = None
        self._result: dict[str, Any] = {}
        self._observed: tuple[slicer.vtkMRMLCrosshairNode, int] | None = None
        self._index: tuple[int, int, int] | None = None
        self._call: Any = None
        self._timer = qt.QTimer(label)
        self._timer.setSingleShot(True)
        self._timer.interval = _REST_MS
        self._timer.connect("timeout()", slot(self._ask))

    def start(self, scan: slicer.vtkMRMLScalarVolumeNode | None, result: dict[str, Any]) -> None:
        """Follow the cursor over a scan, and show voxels of this result."""
        self._scan, self._result = scan, result
        if self._observed is None and scan is not None:
            node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
            if node is not None:
                event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
                self._observed = (node, node.AddObserver(event, slot(self._onCursor, "cursor")))
        self._label.text = _("Move the cursor over a slice to see the model's result for a voxel.")

    def stop(self) -> None:
        """Do not follow the cursor any more."""
        if self._observed is not None:
            node, tag = self._observed
            node.RemoveObserver(tag)
            self._observed = None
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
            self._label.text = self._text(answer or {})
            if self._index != asked:
                self._timer.start()

        def failed(message: str) -> None:
            self._call = None
            self._label.text = html.escape(sentence(message))

        path = route("predictions", self._result["prediction"], "probe", k=k, j=j, i=i)
        self._call = self._session.get(path, done, failed)

    def _text(self, answer: dict[str, Any]) -> str:
        if answer.get("value") is None:
            return _("This voxel is outside the segmented region.")
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
    """The most similar labelled voxels of the training data, for models that store them."""
    near = ", ".join(
        _("{case} ({name}, {similarity})").format(
            case=html.escape(voxel["case"]), name=html.escape(voxel["name"]), similarity=f"{voxel['similarity']:.2f}"
        )
        for voxel in voxels
    )
    return _("Most similar labelled voxels: {voxels}").format(voxels=near) if near else ""


def _margin(margin: float | None) -> str:
    if margin is None:  # a model without prototypes
        return ""
    text = _("Margin to the next class: {margin}").format(margin=f"{margin:+.2f}")
    if margin < 0:
        text += " \N{EN DASH} " + _("the nearest prototype belongs to another class")
    return text
