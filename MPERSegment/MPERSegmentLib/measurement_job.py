"""Figures of masks from the engine: what has changed is sent, and the engine measures. Nothing here blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, phases, segmentation_node
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from slicer.i18n import tr as _

from MPERSegmentLib import result_node
from MPERSegmentLib.measure_inputs import structures
from MPERSegmentLib.uploaded_scans import UploadedScans

_GONE = 404  # the engine has dropped a scan or a mask


@dataclass(frozen=True)
class MeasurementRequest:
    """What is measured.

    masks : results of one scan: one, or one for each phase in the order of time.
    scan : the scan in whose frame they lie.
    enhancement : whether the scan is an LGE-MRI, of which the wall of a left atrium is measured.
    body : further fields of ``POST /measurements``.
    """

    masks: Sequence[slicer.vtkMRMLSegmentationNode]
    scan: slicer.vtkMRMLScalarVolumeNode
    enhancement: bool
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return mrml.alive(self.scan) and all(mrml.alive(mask) for mask in self.masks)


class UploadedMasks:
    """The masks that the engine has, by node: one that has not changed is not sent again."""

    def __init__(self, session: EngineSession):
        self._session = session
        self._sent: dict[str, tuple[Any, str]] = {}
        self._engine: Any = None
        session.onChange(self._onEngine)

    def known(self, node: Any) -> str | None:
        """The engine's id of a mask as it is now."""
        stamp, key = self._sent.get(node.GetID(), (None, None))
        return key if stamp == _stamp(node) else None

    def note(self, node: Any, stamp: Any, key: str) -> None:
        """Note what was sent; what the engine has of the same node before is dropped."""
        self.forget(node.GetID())
        self._sent[node.GetID()] = (stamp, key)

    def forget(self, nodeId: str) -> None:
        _stamp_then, key = self._sent.pop(nodeId, (None, None))
        if key is not None and self._session.running:
            self._session.delete(route("scans", key), failed=lambda _message: None)

    def forgetAll(self) -> None:
        for nodeId in list(self._sent):
            self.forget(nodeId)

    def _onEngine(self) -> None:
        """A new process of the engine has none of the masks."""
        engine = (self._session.engine, self._session.running)
        if engine != self._engine:
            self._engine = engine
            self._sent.clear()


class MeasurementJob:
    """One measurement. It begins at once.

    Parameters
    ----------
    session : EngineSession
    scans : UploadedScans
    masks : UploadedMasks
    request : MeasurementRequest
    done : callable
        Takes the engine's answer.
    failed : callable
        Takes one line for the user.
    """

    def __init__(
        self,
        session: EngineSession,
        scans: UploadedScans,
        masks: UploadedMasks,
        request: MeasurementRequest,
        done: Callable[[dict[str, Any]], None],
        failed: Callable[[str], None],
    ):
        self._session, self._scans, self._masks, self._request = session, scans, masks, request
        self._done, self._failed = done, failed
        self._over = self._again = False
        self._call: Any = None
        self._next()

    def stop(self) -> None:
        """Cancel it; no callback is called any more."""
        self._over = True
        if self._call is not None:
            self._call.abort()

    def _next(self) -> None:
        """Send what the engine lacks, then ask."""
        if self._over:
            return
        request = self._request
        if not request.alive:
            self._fail(_("the segmentation or its scan is not in the scene any more"))
            return
        try:
            phase = phases.of(request.masks[0])
            scan = self._scans.known(request.scan, phase) if request.enhancement else None
            if request.enhancement and scan is None:
                send = self._scans.send
                self._call = send(request.scan, lambda _scan: self._next(), self._fail, phase=phase)
                return
            unknown = next((node for node in request.masks if self._masks.known(node) is None), None)
            if unknown is not None:
                self._send(unknown)
            else:
                self._ask(scan)
        except ValueError as error:
            self._fail(str(error))

    def _send(self, node: Any) -> None:
        stamp, scan = _stamp(node), self._request.scan
        part, start = segmentation_node.mask_part(node, scan)
        grid = mrml.geometry_of(scan)
        stop = [first + n for first, n in zip(start, part.shape, strict=True)]
        if phases.of(node) is not None:  # the masks of phases are compared on one grid
            part, start, stop = mrml.on_whole_grid(part, start, grid.shape), (0, 0, 0), grid.shape
        else:  # a mask that ends where its grid does would be cut by the scan's border: one voxel more where it is not
            room = [(min(1, a), min(1, n - b)) for a, b, n in zip(start, stop, grid.shape, strict=True)]
            part = np.pad(part, room)
            start = [a - low for a, (low, _high) in zip(start, room, strict=True)]
            stop = [b + high for b, (_low, high) in zip(stop, room, strict=True)]
        grid = grid.crop(start, stop)
        header = {"affine": grid.affine.tolist(), "spacing_known": grid.spacing_known}

        def sent(answer: dict[str, Any]) -> None:
            self._masks.note(node, stamp, answer["scan"])
            if not self._over:
                self._session.later(self._next, "mask was sent")

        self._call = self._session.postArray("/scans", part, header, sent, self._fail)

    def _ask(self, scan: str | None) -> None:
        request = self._request
        names = structures(request.masks[0])
        body = {
            "masks": [self._masks.known(node) for node in request.masks],
            "labels": [{"value": value, "name": name} for value, name in names.items()],
            "scan": scan,
            **request.body,
        }
        if "prediction" in body:  # the engine has the mask, and its probabilities
            del body["masks"], body["labels"]
        call = self._call = self._session.post("/measurements", body, self._finish, lambda line: self._lost(call, line))

    def _lost(self, call: Any, message: str) -> None:
        """The engine has dropped what was sent before: send it once more."""
        if call.status == _GONE and not self._again and not self._over:
            self._again = True
            self._masks.forgetAll()
            if self._request.enhancement:
                self._scans.forget(self._request.scan.GetID())
            self._next()
        elif call.status == _GONE and "prediction" in self._request.body:
            self._fail(
                _("the engine has no probabilities of this mask any more; segment the scan again, or untick the range")
            )
        else:
            self._fail(message)

    def _finish(self, answer: dict[str, Any]) -> None:
        if not self._over:
            self._over = True
            self._done(answer)

    def _fail(self, message: str) -> None:
        if not self._over:
            self._over = True
            self._failed(message)


def masks_of(node: slicer.vtkMRMLSegmentationNode) -> list[slicer.vtkMRMLSegmentationNode]:
    """The masks that are measured with a result: of ventricles the newest of each phase, else this one alone."""
    scan, number = result_node.scan_of(node), phases.of(node)
    names = set(structures(node).values())
    if number is None or not names & {"LV", "RV"}:
        return [node]
    found = {}
    for other in result_node.all_of(node.GetScene()):
        if (
            result_node.scan_of(other) is scan
            and phases.of(other) is not None
            and set(structures(other).values()) == names
        ):
            found[phases.of(other)] = other
    found[number] = node
    return [found[n] for n in sorted(found)]


def _stamp(node: Any) -> tuple[Any, ...]:
    """Differs whenever the mask, its names or its place do."""
    parent = node.GetParentTransformNode()
    found: list[Any] = [parent and (parent.GetID(), parent.GetTransformToWorldMTime())]
    for image, segments in segmentation_node.layers_of(node):
        scalars = image.GetPointData().GetScalars()
        found.append((image.GetMTime(), scalars.GetMTime()))
        found += [(segment.GetName(), segment.GetLabelValue()) for segment in segments]
    return tuple(found)
