"""Strokes on their way to the engine and back: the mask in the scene follows the list of strokes.

The engine holds a prediction and a list of strokes on it, and answers with its mask. Three things are kept apart: the
strokes that are wanted, those that the mask in the scene shows (`strokes.applied`), and what the engine's mask was when
it was last asked. Only the difference between two masks of the engine goes into the scene, and of that only voxels in
which the scene agreed with the engine before: what a person drew by hand is never undone by a stroke elsewhere. Voxels
that a stroke itself covers are what it says, whatever was there; if it is taken back, what was there comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import qt
from MPERLib import labelmap_box, mrml
from MPERLib.callbacks import slot
from MPERLib.engine import route
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, stroke_node
from MPERSegmentLib.engine_session import AUTO, EngineSession
from MPERSegmentLib.segmentation_job import SegmentationCallbacks, SegmentationJob, SegmentationRequest
from MPERSegmentLib.turns import later

_REST_MS = 400  # of the hand, after which the last stroke is cleaned up at image edges
_NEVER = (409, 422)  # statuses of what the engine will not do however often it is asked


@dataclass(frozen=True)
class StrokeSyncCallbacks:
    """Where a refinement tells how it goes; each takes the segmentation node first.

    before : the mask is about to follow a changed list.
    after : the list or what the engine says of it is another; takes whether voxels in the scene are.
    says : a line for the user.
    places : where the model is unsure now, as in the engine's result.
    ours : takes nothing; within the block that it guards, changes of the mask are no work by hand.
    """

    before: Callable[[Any], None]
    after: Callable[[Any, bool], None]
    says: Callable[[Any, str], None]
    places: Callable[[Any, list[dict[str, Any]]], None]
    ours: Callable[[], AbstractContextManager[None]]


@dataclass
class _EngineState:
    """What the engine is known to hold: a prediction, the numbers of the strokes on it, and the mask of the scan."""

    prediction: str
    numbers: tuple[int, ...]
    settled: bool
    mask: np.ndarray


@dataclass
class _Overwritten:
    """What a stroke painted over although the engine saw no change there: a person's work by hand."""

    index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # flat, in the scan
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


class StrokeSync:
    """The refinement of one result.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
        A result.
    session : EngineSession
    callbacks : StrokeSyncCallbacks
    """

    def __init__(self, node: Any, session: EngineSession, callbacks: StrokeSyncCallbacks):
        self._node, self._session, self._callbacks = node, session, callbacks
        self._wanted = self._shown = stroke_node.applied(node)
        self._held: _EngineState | None = None
        self._call: Any = None
        self._places: Any = None
        self._work: SegmentationJob | None = None
        self._busy = False
        self._over = False
        self._replaced: dict[int, _Overwritten] = {}
        self._past: list[tuple[int, ...]] = []  # lists to go back to: a step is a stroke, or the deletion of one
        self._undone: list[tuple[int, ...]] = []  # lists to go forward to again
        self._rest = qt.QTimer()
        self._rest.setSingleShot(True)
        self._rest.interval = _REST_MS
        self._onRested = slot(self._go, "stroke settles")
        self._rest.connect("timeout()", self._onRested)

    def close(self) -> None:
        """Give up what is under way; the list in the scene stays as the mask is."""
        self._over = True
        self._rest.stop()
        self._rest.disconnect("timeout()", self._onRested)
        self._stop()

    # ---- the list

    @property
    def wanted(self) -> tuple[int, ...]:
        """The strokes that the mask shows, or will show in a moment."""
        return self._wanted

    @property
    def following(self) -> bool:
        """Whether the mask is still to follow."""
        return self._wanted != self._shown

    @property
    def settled(self) -> bool:
        """Whether the mask has followed, and is not about to be cleaned up."""
        return not self.following and (self._held is None or self._held.settled)

    @property
    def canUndo(self) -> bool:
        return bool(self._wanted) or any(numbers != self._wanted for numbers in self._past)

    @property
    def canRedo(self) -> bool:
        return bool(self._undone)

    def prepare(self) -> None:
        """Let the engine get ready for the first stroke."""
        self._go()

    def add(self, number: int) -> None:
        """A stroke has been drawn."""
        self._step((*self._wanted, number))

    def remove(self, number: int) -> None:
        """Take a stroke out of the list; those after it are drawn again without it."""
        self._step(tuple(n for n in self._wanted if n != number))

    def undo(self) -> None:
        """Take the last step back; of a scene that was loaded only the strokes are known, not the deletions."""
        while self._past and self._past[-1] == self._wanted:  # a step that the engine refused
            self._past.pop()
        if self._past or self._wanted:
            self._undone.append(self._wanted)
            self._want(self._past.pop() if self._past else self._wanted[:-1])

    def redo(self) -> None:
        if self._undone:
            self._past.append(self._wanted)
            self._want(self._undone.pop())

    def look(self) -> None:
        """The result has been changed from elsewhere: the Segment Editor may have undone, or redone, strokes."""
        result = result_node.of(self._node)
        if self._held is not None and (result is None or result["prediction"] != self._held.prediction):
            self._stop()
            self._held = None
        found = stroke_node.applied(self._node)
        if found != self._shown:
            self._wanted = self._shown = found
            self._past, self._undone = [], []
            self._go()

    def retry(self) -> None:
        """The engine has come, or gone: what was under way is void."""
        self._stop()
        self._held = None
        if self.following:
            self._go()

    def _step(self, numbers: tuple[int, ...]) -> None:
        self._past.append(self._wanted)
        self._undone = []
        self._want(numbers)

    def _want(self, numbers: tuple[int, ...]) -> None:
        self._wanted = numbers
        self._go()

    # ---- towards the engine

    def _go(self) -> None:
        """Do what comes next."""
        if self._over or self._busy or not mrml.alive(self._node):
            return
        if not self._session.ready:
            if self.following:
                self._callbacks.says(self._node, _("The strokes wait for the engine."))
            return
        held = self._held
        if held is None:
            self._begin()
        elif held.numbers != self._shown:  # undone in the Segment Editor: the mask is as it should be already
            self._put(self._shown, settle=True)
        elif self._wanted != self._shown:
            self._rest.stop()
            self._put(self._wanted, settle=False)
        elif not held.settled and not self._rest.isActive():
            self._put(self._shown, settle=True)

    def _begin(self) -> None:
        """Bring the engine to where the scene is: the strokes that the mask shows, on its prediction."""
        result = result_node.of(self._node)
        scan = result_node.scan_of(self._node)
        if result is None or scan is None:
            self._refuse(_("the scan of this result is no longer in the scene"))
            return
        prediction, shown = result["prediction"], self._shown
        shape = mrml.geometry_of(scan).shape

        def put(_answer: dict[str, Any]) -> None:
            self._call = self._session.engine.getArray(route("predictions", prediction, "mask"), arrived, self._failed)

        def arrived(part: np.ndarray, header: dict[str, Any]) -> None:
            mask = np.zeros(shape, np.uint8)
            mask[tuple(slice(a, a + n) for a, n in zip(header["start"], part.shape, strict=True))] = part
            self._held = _EngineState(prediction, shown, True, mask)
            self._done()

        def failed(message: str) -> None:
            if self._call.status == 404:
                later(self._again, "segment again")
            elif self._call.status in _NEVER:
                self._refuse(message)
            else:
                self._failed(message)

        self._busy = True
        self._call = self._session.engine.put(*self._request(prediction, shown, True), put, failed)

    def _again(self) -> None:
        """The engine knows the prediction no more, or never did: segment the scan once more, as it was."""
        result, scan = result_node.of(self._node), result_node.scan_of(self._node)
        if self._over or result is None or not mrml.alive(scan):
            self._busy = False
            return
        model = self._session.model(result["model"])
        if model is None:
            self._refuse(_("the engine has no model {model}, which made this result").format(model=result["model"]))
            return

        def progress(share: float | None, _message: str) -> None:
            done = "" if share is None else f" ({share:.0%})".replace("%", " %")
            self._callbacks.says(
                self._node, _("The engine no longer has this prediction: the scan is segmented again") + done
            )

        callbacks = SegmentationCallbacks(
            progress=progress,
            notice=lambda _line: None,
            finished=lambda _mask, _header, new: self._renewed(result, new),
            failed=self._failed,
            cancelled=lambda: None,
        )
        request = SegmentationRequest(scan, model, AUTO, roi_mm=result.get("roi_mm"))
        try:
            self._work = SegmentationJob(self._session.engine, self._session.scans, request, callbacks)
        except ValueError as error:
            self._refuse(str(error))

    def _renewed(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._work = None
        self._busy = False
        with self._callbacks.ours():
            result_node.renew(self._node, {**new, "title": old.get("title")})
        words = _("The engine no longer had this prediction: the scan was segmented again.")
        if self._shown:
            words = _("{again} The strokes were drawn again on it.").format(again=words)
        if new.get("model_sha256") != old.get("model_sha256"):
            words = _("{again} The model is another version than the one that made this result.").format(again=words)
        self._callbacks.says(self._node, words)
        self._callbacks.after(self._node, False)
        self._go()

    def _put(self, numbers: tuple[int, ...], settle: bool) -> None:
        """Ask for the mask of a list, and let the scene follow."""
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
            self._call = self._session.engine.getArray(path, take, self._failed)

        def failed(message: str) -> None:
            if self._call.status == 404:
                self._held = None
                self._busy = False
                self._go()
            elif self._call.status in _NEVER and numbers != shown:  # a stroke that cannot be: nothing was changed
                self._busy = False
                self._wanted = self._shown
                self._callbacks.says(self._node, message)
                self._callbacks.after(self._node, False)
                self._go()
            else:
                self._failed(message)

        self._busy = True
        self._call = self._session.engine.put(*self._request(held.prediction, numbers, settle), answered, failed)

    def _request(self, prediction: str, numbers: Sequence[int], settle: bool) -> tuple[str, dict[str, Any]]:
        drawn = stroke_node.of(self._node, numbers)
        scan = (result_node.of(self._node) or {}).get("scan_sha256")
        body = {"strokes": [stroke_node.to_json(one.stroke) for one in drawn], "settle": settle, "scan_sha256": scan}
        return route("predictions", prediction, "strokes"), body

    def _failed(self, message: str) -> None:
        """Nothing is lost: the strokes are kept, and tried again once the engine is there, or at the next stroke."""
        self._held = None
        self._work = None
        self._busy = False
        self._callbacks.says(self._node, message)

    def _refuse(self, message: str) -> None:
        self._failed(message)
        self._wanted = self._shown
        self._callbacks.after(self._node, False)

    def _stop(self) -> None:
        for call in (self._call, self._places):
            if call is not None:
                call.abort()
        if self._work is not None:
            self._work.drop()
        self._call = self._places = self._work = None
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
        changed = None
        if part is not None and start is not None:
            changed = tuple(slice(int(a), int(a) + n) for a, n in zip(start, part.shape, strict=True))
        # Strokes undone in the Segment Editor: the mask is as it should be already, and only the engine follows.
        follow = shown == self._shown and (numbers != shown or numbers == held.numbers)
        with self._callbacks.ours():
            stroke_node.tell(node, numbers, answer["strokes"])
            different = follow and self._write(numbers, part, changed)
        if changed is not None:
            held.mask[changed] = part
        held.numbers, held.settled = numbers, bool(answer["settled"])
        self._callbacks.after(node, different)
        self._done()

    def _write(self, numbers: tuple[int, ...], part: np.ndarray | None, changed: tuple[slice, ...] | None) -> bool:
        """Let the mask in the scene follow from the strokes that it shows to `numbers`; whether voxels changed."""
        node = self._node
        scan = result_node.scan_of(node)
        if numbers != self._shown:
            self._callbacks.before(node)
        common = _common(self._shown, numbers)
        gone = [self._replaced.pop(number) for number in self._shown[common:] if number in self._replaced]
        added = numbers[common:]
        different = False
        try:
            different = self._follow(scan, part, changed, added, gone)
        except ValueError as error:
            self._callbacks.says(node, str(error))
        self._shown = numbers
        stroke_node.set_applied(node, numbers)
        return different

    def _follow(
        self,
        scan: Any,
        part: np.ndarray | None,
        changed: tuple[slice, ...] | None,
        added: Sequence[int],
        gone: Sequence[_Overwritten],
    ) -> bool:
        """Write what differs; whether anything did."""
        held, node = self._held, self._node
        assert held is not None
        geometry = mrml.geometry_of(scan)
        drawn = stroke_node.of(node, added)
        painted = [one.stroke.voxels(geometry) for one in drawn]
        boxes = [np.array([[s.start for s in changed], [s.stop for s in changed]])] if changed is not None else []
        boxes += [np.array([voxels.min(axis=0), voxels.max(axis=0) + 1]) for voxels in painted if len(voxels)]
        for one in gone:
            if len(one.index):
                at = np.stack(np.unravel_index(one.index, geometry.shape), axis=1)
                boxes.append(np.array([at.min(axis=0), at.max(axis=0) + 1]))
        if not boxes:
            return False
        low = np.min([box[0] for box in boxes], axis=0)
        high = np.max([box[1] for box in boxes], axis=0)
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        scene = labelmap_box.read_box(node, scan, (tuple(low.tolist()), tuple(high.tolist())))
        was = held.mask[window]
        now = np.array(was)
        if changed is not None:
            now[tuple(slice(s.start - a, s.stop - a) for s, a in zip(changed, low.tolist(), strict=True))] = part
        new = np.where((now != was) & (scene == was), now, scene)
        for one in reversed(gone):
            at = np.stack(np.unravel_index(one.index, geometry.shape)) - low[:, None]
            new[tuple(at)] = one.values
        for stroke, voxels in zip(drawn, painted, strict=True):
            at = tuple((voxels - low).T)
            over = (
                (now[at] == stroke.stroke.value) & (new[at] != stroke.stroke.value) & (new[at] != labelmap_box.FOREIGN)
            )
            if over.any():
                there = tuple(axis[over] for axis in at)
                flat = np.ravel_multi_index(tuple(voxels[over].T), geometry.shape)
                self._replaced[stroke.number] = _Overwritten(flat, new[there])
                new[there] = stroke.stroke.value
        if (new == scene).all():
            return False
        labelmap_box.write_box(node, scan, low.tolist(), new)
        return True

    def _done(self) -> None:
        self._busy = False
        self._call = None
        if self._held is not None and self._wanted == self._shown == self._held.numbers:
            if self._held.settled:
                self._askPlaces()
            else:
                self._rest.start()
        self._go()

    def _askPlaces(self) -> None:
        """Where a stroke was drawn the model need not be asked again: other places are the next ones."""
        assert self._held is not None
        if self._places is not None:
            self._places.abort()
        path = route("predictions", self._held.prediction, "uncertain_places")
        self._places = self._session.engine.get(path, lambda found: self._callbacks.places(self._node, found))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many strokes two lists begin with alike."""
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n


def _text(index: Sequence[int]) -> str:
    return ",".join(str(int(n)) for n in index)
