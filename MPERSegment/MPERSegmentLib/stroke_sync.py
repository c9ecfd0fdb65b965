"""Keeps the engine's strokes and the mask in the scene in step with the list of strokes that the user has drawn.

The engine has a prediction and a list of strokes on it, and answers with its mask. Three lists are kept apart: the
strokes that are wanted, those that the mask in the scene includes (`stroke_node.applied`), and those that the engine
had when it was last asked. How the scene's mask follows the engine's is in `stroke_writer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
from MPERLib import formatting, mrml, phases
from MPERLib.callbacks import later, slot
from MPERLib.engine import route
from MPERLib.engine_session import AUTO, EngineSession
from MPERLib.rendering import rendered_once
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, stroke_node
from MPERSegmentLib.segmentation_job import SegmentationCallbacks, SegmentationJob, SegmentationRequest
from MPERSegmentLib.stroke_writer import StrokeWriter
from MPERSegmentLib.uploaded_scans import UploadedScans

_REST_MS = 400  # without a new stroke, after which the last one is fitted to image edges
_FINAL = (409, 422)  # statuses of requests that fail again however often they are sent


@dataclass(frozen=True)
class StrokeSyncCallbacks:
    """What is called; each takes the segmentation node first, but `paused`.

    before : the mask is about to follow a changed list.
    noted : the mask has followed it: a step of the history.
    undo, redo : restore the state before, or after, in the history; return whether there was one.
    canUndo, canRedo : whether the history has a state before, or after.
    after : the list, or the engine's answer to it, has changed; takes whether voxels in the scene have.
    message : takes a line for the user.
    places : takes the uncertain locations now, as in the engine's result.
    editable : takes the first voxel of a box, its label values now, and a label value; returns which voxels of the box
        may become that value, None where all may.
    paused : a context in which changes of the mask do not count as manual edits.
    """

    before: Callable[[Any], None]
    noted: Callable[[Any], None]
    undo: Callable[[Any], bool]
    redo: Callable[[Any], bool]
    canUndo: Callable[[Any], bool]
    canRedo: Callable[[Any], bool]
    after: Callable[[Any, bool], None]
    message: Callable[[Any, str], None]
    places: Callable[[Any, list[dict[str, Any]]], None]
    editable: Callable[[Any, Any, np.ndarray, int], np.ndarray | None]
    paused: Callable[[], AbstractContextManager[None]]


@dataclass
class _EngineState:
    """What the engine has: a prediction, the numbers of the strokes on it, and the mask of the scan."""

    prediction: str
    numbers: tuple[int, ...]
    settled: bool
    mask: np.ndarray


class StrokeSync:
    """The strokes of one result.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
        A result.
    session : EngineSession
    scans : UploadedScans
    callbacks : StrokeSyncCallbacks
    """

    def __init__(self, node: Any, session: EngineSession, scans: UploadedScans, callbacks: StrokeSyncCallbacks):
        self._node, self._session, self._scans, self._callbacks = node, session, scans, callbacks
        self._wanted = self._shown = stroke_node.applied(node)
        self._prediction = _prediction_of(node)
        self._held: _EngineState | None = None
        self._call: Any = None
        self._places: Any = None
        self._job: SegmentationJob | None = None
        self._busy = False
        self._over = False
        self._writer = StrokeWriter(node, callbacks.editable, lambda line: callbacks.message(node, line))
        self._past: list[tuple[int, ...]] = []  # lists that the mask has not followed yet, to undo to
        self._undone: list[tuple[int, ...]] = []  # lists to redo that the history does not have
        self._unsaved = False  # the next change of the mask goes back, and is no step of the history
        self._said = False  # a message says why the mask does not follow
        self._rest = qt.QTimer()
        self._rest.setSingleShot(True)
        self._rest.interval = _REST_MS
        self._onRested = slot(self._next, "stroke settles")
        self._rest.connect("timeout()", self._onRested)

    def close(self) -> None:
        """Cancel what is under way; the list in the scene stays that of the mask."""
        self._over = True
        self._rest.stop()
        self._rest.disconnect("timeout()", self._onRested)
        self._stop()

    # ---- the list

    @property
    def wanted(self) -> tuple[int, ...]:
        """The strokes that the mask includes, or will include in a moment."""
        return self._wanted

    @property
    def pending(self) -> bool:
        """Whether the mask does not include the wanted strokes yet."""
        return self._wanted != self._shown

    @property
    def settled(self) -> bool:
        """Whether the mask includes all strokes, and is not about to be fitted to image edges."""
        return not self.pending and (self._held is None or self._held.settled)

    @property
    def canUndo(self) -> bool:
        return bool(self._wanted) or self.pending or self._callbacks.canUndo(self._node)

    @property
    def canRedo(self) -> bool:
        return bool(self._undone) or self._callbacks.canRedo(self._node)

    def prepare(self) -> None:
        """Prepare the engine for the first stroke."""
        self._next()

    def add(self, number: int) -> None:
        """Add a stroke that was drawn."""
        self._step((*self._wanted, number))

    def remove(self, number: int) -> None:
        """Remove a stroke; those after it are applied again without it."""
        self._step(tuple(n for n in self._wanted if n != number))

    def undo(self) -> None:
        """Undo the last step in the order of time: a stroke, its deletion, or an edit in the Segment Editor.

        What the Segment Editor has no state of any more, as in a loaded scene, are strokes: the last one goes.
        """
        if self.pending and self._past:
            self._undone.append(self._wanted)
            self._want(self._past.pop())
        elif not self.pending and self._callbacks.undo(self._node):
            self.update()
        elif self._wanted:
            if result_node.is_by_hand(self._node):
                text = _("The last stroke was undone. Earlier edits by hand stay; they cannot be undone any more.")
                self._callbacks.message(self._node, text)
            self._undone.append(self._wanted)
            self._unsaved = True
            self._want(self._wanted[:-1])

    def redo(self) -> None:
        if self._undone:
            self._past.append(self._wanted)
            self._want(self._undone.pop())
        elif self._callbacks.redo(self._node):
            self.update()
        else:
            self._callbacks.message(self._node, _("This step cannot be redone any more: the mask was changed since."))

    def update(self) -> None:
        """Update the list: the Segment Editor may have undone, or redone, strokes, or the mask was replaced."""
        prediction, found = _prediction_of(self._node), stroke_node.applied(self._node)
        replaced = prediction != self._prediction
        if replaced:  # what is under way is about the prediction before
            self._prediction = prediction
            self._stop()
            self._held = None
            self._writer.settled()
            self._callbacks.message(self._node, "")
        if replaced or found != self._shown:
            self._wanted = self._shown = found
            self._past, self._undone = [], []
            self._next()
        elif self._held is not None and self._held.settled and not self._busy and not stroke_node.is_fitted(self._node):
            self._put(self._shown, settle=False)  # a state of before the last stroke was fitted: it is fitted again

    def engineChanged(self) -> None:
        """Begin again with the engine: it was started or stopped."""
        self._stop()
        self._held = None
        if self.pending:
            self._next()

    def _step(self, numbers: tuple[int, ...]) -> None:
        self._past.append(self._wanted)
        self._undone, self._unsaved = [], False
        self._want(numbers)

    def _want(self, numbers: tuple[int, ...]) -> None:
        self._wanted = numbers
        self._next()

    # ---- to the engine

    def _next(self) -> None:
        """Do what comes next."""
        if self._over or self._busy or not mrml.alive(self._node):
            return
        if not self._session.ready:
            if self.pending:
                self._say(_("The strokes are applied once the engine is running."))
            return
        held = self._held
        if held is None:
            self._begin()
        elif held.numbers != self._shown:  # undone in the Segment Editor: the mask is right already
            self._put(self._shown, settle=True)
        elif self._wanted != self._shown:
            self._rest.stop()
            self._put(self._wanted, settle=False)
        elif not held.settled and not self._rest.isActive():
            self._put(self._shown, settle=True)

    def _begin(self) -> None:
        """Send the engine the strokes that the mask includes, and fetch its mask."""
        result = result_node.of(self._node)
        scan = result_node.scan_of(self._node)
        if result is None or scan is None:
            self._refuse(_("the scan of this segmentation is not in the scene; load it again"))
            return
        prediction, shown = result["prediction"], self._shown
        shape = mrml.geometry_of(scan).shape

        def put(_answer: dict[str, Any]) -> None:
            self._call = self._session.getArray(route("predictions", prediction, "mask"), arrived, self._failed)

        def arrived(part: np.ndarray, header: dict[str, Any]) -> None:
            mask = mrml.on_whole_grid(part, header["start"], shape)
            self._held = _EngineState(prediction, shown, True, mask)
            self._done()

        def failed(message: str) -> None:
            if self._call.status == 404:
                later(self._segmentAgain, "segment again", self._failed)
            elif self._call.status in _FINAL:
                self._refuse(message)
            else:
                self._failed(message)

        self._busy = True
        self._call = self._session.put(*self._request(prediction, shown, True), put, failed)

    def _segmentAgain(self) -> None:
        """Segment the scan again with the same model and region: the engine does not have the prediction any more."""
        result, scan = result_node.of(self._node), result_node.scan_of(self._node)
        if self._over or result is None or not mrml.alive(scan):
            self._busy = False
            return
        model = self._session.modelOf(result)
        if model is None:
            message = _("the engine does not have the model {model} of this segmentation; segment the scan again")
            self._refuse(message.format(model=result["model"]))
            return

        def progress(share: float | None, _message: str) -> None:
            done = "" if share is None else f" ({formatting.percent(share)})"
            self._callbacks.message(self._node, _("The scan is being segmented again for the strokes") + done)

        callbacks = SegmentationCallbacks(
            progress=progress,
            notice=lambda _line: None,
            finished=lambda _mask, _header, new: self._renewed(result, new),
            failed=self._failed,
            cancelled=lambda: self._failed(_("the segmentation was cancelled; draw the stroke again")),
        )
        request = SegmentationRequest(scan, model, AUTO, roi_mm=result.get("roi_mm"), phase=phases.of(self._node))
        try:
            self._job = SegmentationJob(self._session, self._scans, request, callbacks)
        except ValueError as error:
            self._refuse(str(error))

    def _renewed(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._job = None
        self._busy = self._said = False
        if old.get("scan_sha256") not in (None, new.get("scan_sha256")):
            self._refuse(
                _("the voxels of the scan are not those of the image that this mask was made from; segment it again")
            )
            return
        self._prediction = new["prediction"]
        with self._callbacks.paused():
            result_node.renew(self._node, {**new, "title": old.get("title")})
        text = _("The scan was segmented again, as the engine did not have its result any more.")
        if self._shown:
            text = _("{again} The strokes were applied again.").format(again=text)
        if new.get("model_sha256") != old.get("model_sha256"):
            text = _("{again} The model is another version than before; check the mask.").format(again=text)
        self._callbacks.message(self._node, text)
        self._callbacks.after(self._node, False)
        self._next()

    def _put(self, numbers: tuple[int, ...], settle: bool) -> None:
        """Send a list of strokes, and update the mask in the scene."""
        held, shown = self._held, self._shown
        assert held is not None

        def answered(answer: dict[str, Any]) -> None:
            def take(part: np.ndarray | None, header: dict[str, Any]) -> None:
                self._take(shown, numbers, answer, part, header.get("start"))

            if answer["changed"] is None:
                take(None, {})
                return
            start, stop = answer["changed"]
            path = route("predictions", held.prediction, "mask", **{"from": _text(start), "to": _text(stop)})
            self._call = self._session.getArray(path, take, self._failed)

        def failed(message: str) -> None:
            if self._call.status == 404:
                self._held = None
                self._busy = False
                self._next()
            elif self._call.status in _FINAL and numbers != shown:  # an impossible stroke: nothing was changed
                self._busy = False
                self._wanted = self._shown
                self._callbacks.message(self._node, message)
                self._callbacks.after(self._node, False)
                self._next()
            else:
                self._failed(message)

        self._busy = True
        self._call = self._session.put(*self._request(held.prediction, numbers, settle), answered, failed)

    def _request(self, prediction: str, numbers: Sequence[int], settle: bool) -> tuple[str, dict[str, Any]]:
        drawn = stroke_node.of(self._node, numbers)
        scan = (result_node.of(self._node) or {}).get("scan_sha256")
        body = {"strokes": [stroke_node.to_json(one.stroke) for one in drawn], "settle": settle, "scan_sha256": scan}
        return route("predictions", prediction, "strokes"), body

    def _failed(self, message: str) -> None:
        """No stroke is lost: they are sent again once the engine is running, or with the next stroke."""
        self._held = None
        self._job = None
        self._busy = False
        self._say(message)

    def _say(self, message: str) -> None:
        """Show why the mask does not follow, until it does."""
        self._said = True
        self._callbacks.message(self._node, message)

    def _refuse(self, message: str) -> None:
        self._failed(message)
        self._wanted = self._shown
        self._callbacks.after(self._node, False)

    def _stop(self) -> None:
        for call in (self._call, self._places):
            if call is not None:
                call.abort()
        if self._job is not None:
            self._job.abort()
        self._call = self._places = self._job = None
        self._busy = False

    # ---- into the scene

    def _take(
        self,
        shown: tuple[int, ...],
        numbers: tuple[int, ...],
        answer: dict[str, Any],
        part: np.ndarray | None,
        start: Sequence[int] | None,
    ) -> None:
        """The engine's answer to a list, asked for when the scene showed the strokes `shown`."""
        held, node = self._held, self._node
        if self._over or held is None or not mrml.alive(node):
            self._busy = False
            return
        if self._said:
            self._said = False
            self._callbacks.message(node, "")
        changed = None
        if part is not None and start is not None:
            changed = mrml.window(start, part.shape)
        # Strokes undone in the Segment Editor: the mask is right already, and only the engine follows.
        follow = shown == self._shown and (numbers != shown or numbers == held.numbers)
        with rendered_once(), self._callbacks.paused():
            stroke_node.set_answers(node, numbers, answer["strokes"])
            different = follow and self._write(numbers, part, changed)
            if follow:
                stroke_node.set_fitted(node, bool(answer["settled"]))
            if answer["settled"]:
                result_node.note_figures(node, numbers, answer["structures"])
                self._writer.settled()
        if changed is not None:
            held.mask[changed] = part
        held.numbers, held.settled = numbers, bool(answer["settled"])
        self._callbacks.after(node, different)
        self._done()

    def _write(self, numbers: tuple[int, ...], part: np.ndarray | None, changed: mrml.Window | None) -> bool:
        """Update the mask in the scene from the strokes that it includes to `numbers`; whether voxels changed."""
        node = self._node
        assert self._held is not None
        step = numbers != self._shown and not self._unsaved
        if step:
            self._callbacks.before(node)
        self._unsaved = False
        different = False
        try:
            different = self._writer.write(self._held.mask, part, changed, self._shown, numbers)
        except ValueError as error:
            self._callbacks.message(node, str(error))
        self._shown = numbers
        if numbers in self._past:
            self._past = self._past[self._past.index(numbers) :]
        if numbers == self._wanted:
            self._past = []
        stroke_node.set_applied(node, numbers)
        if step:
            self._callbacks.noted(node)
        return different

    def _done(self) -> None:
        self._busy = False
        self._call = None
        if self._held is not None and self._wanted == self._shown == self._held.numbers:
            if self._held.settled:
                self._fetchPlaces()
            else:
                self._rest.start()
        self._next()

    def _fetchPlaces(self) -> None:
        """Fetch the uncertain locations again: voxels of strokes count as certain."""
        assert self._held is not None
        if self._places is not None:
            self._places.abort()
        path = route("predictions", self._held.prediction, "uncertain_places")
        self._places = self._session.get(
            path, lambda found: self._callbacks.places(self._node, found), lambda _message: None
        )


def _prediction_of(node: Any) -> str | None:
    return (result_node.of(node) or {}).get("prediction")


def _text(index: Sequence[int]) -> str:
    return ",".join(str(int(n)) for n in index)
