"""Saves a mask as a new revision of a case in a dataset of the engine, with its strokes. Nothing is overwritten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, phases, questions, segmentation_node
from MPERLib.callbacks import after, later
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from slicer.i18n import tr as _

from MPERSegmentLib import result_node, stroke_node
from MPERSegmentLib.uploaded_scans import UploadedScans

_SAVED = "MPER.Kept"  # attribute of a result: where it was saved last, by whom, and a checksum of its voxels
_WAIT_MS, _WAITS = 100, 100  # for the mask to follow the last stroke


@dataclass(frozen=True)
class LabelRequest:
    """What is saved, where, and by whom; `revision` is the case's latest one, None for a new case."""

    node: slicer.vtkMRMLSegmentationNode
    scan: slicer.vtkMRMLScalarVolumeNode
    dataset: str
    case: str
    author: str
    revision: int | None

    @property
    def alive(self) -> bool:
        return mrml.alive(self.node) and mrml.alive(self.scan)


class LabelUpload:
    """Saves one label. It begins at once.

    Parameters
    ----------
    session : EngineSession
    scans : UploadedScans
    request : LabelRequest
    settled : callable
        Takes a result: whether its mask includes all its strokes.
    done : callable
        Takes a text for the user, and whether something was saved.
    failed : callable
        Takes one line for the user.
    cases : mapping of str to dict
        The cases of the dataset by the checksum of their scan.
    same : callable
        Takes the case that the scan of a new case is already: whether the mask becomes another label of it.
    """

    def __init__(
        self,
        session: EngineSession,
        scans: UploadedScans,
        request: LabelRequest,
        settled: Callable[[Any], bool],
        done: Callable[[str, bool], None],
        failed: Callable[[str], None],
        cases: Mapping[str, dict[str, Any]],
        same: Callable[[dict[str, Any]], bool],
    ):
        self._session, self._scans, self._request = session, scans, request
        self._settled, self._done, self._failed = settled, done, failed
        self._cases, self._same = cases, same
        self._over = False
        self._part = np.zeros((0, 0, 0), np.uint8)
        self._start = (0, 0, 0)
        self._checksum = ""  # of the scan
        self._strokes: list[dict[str, Any]] = []
        self._result: dict[str, Any] = {}  # the engine's answer that the mask was made from
        self._made: dict[str, Any] = {}  # how the mask was made
        self._state: dict[str, Any] = {}
        self._call: Any = session.get(
            route("datasets", request.dataset),
            lambda dataset: self._next(lambda: self._read(dataset["labels"], _WAITS), "mask to save"),
            self._fail,
        )

    def stop(self) -> None:
        """Cancel it; no callback is called any more."""
        self._over = True
        self._call.abort()

    def _next(self, step: Callable[[], None], name: str) -> None:
        later(lambda: None if self._over else step(), name, self._fail)

    def _read(self, labels: list[dict[str, Any]], waits: int) -> None:
        """Read the mask from the scene, once it includes the last stroke."""
        request = self._request
        if not request.alive:
            self._fail(_("the segmentation or its scan is not in the scene any more"))
            return
        if not self._settled(request.node):
            if not waits:
                self._fail(_("the last stroke is still being processed; wait, or undo it"))
                return
            again = lambda: self._over or self._read(labels, waits - 1)  # noqa: E731
            after(_WAIT_MS, again, "save waits for a stroke", self._fail)
            return
        try:
            self._part, self._start = segmentation_node.mask_part(request.node, request.scan, labels)
            self._strokes = _strokes(request.node, labels)
            self._result = result_node.of(request.node) or {}
            self._made = _made(request.node, self._result, self._strokes)
        except ValueError as error:
            self._fail(str(error))
            return
        self._next(self._check, "scan is compared")

    def _check(self) -> None:
        """Save nothing with another image than that which the mask was made from."""
        request, checksums = self._request, self._scans.checksums
        if not request.alive:
            self._fail(_("the segmentation or its scan is not in the scene any more"))
            return
        try:
            image = phases.voxels_of(request.scan, phases.of(request.node))
            if not checksums.known(image):
                checksums.compute(image, lambda: self._next(self._check, "scan is compared"))
                return
            other = result_node.other_image(request.node, checksums)
            self._checksum = checksums.of(image)
        except ValueError as error:
            other = str(error)
        if other:
            self._fail(other)
            return
        there = self._cases.get(self._checksum) if request.revision is None else None
        if there is not None:
            if not self._same(there):
                self._fail(_("the scan is in the dataset already, as {case}").format(case=there["id"]))
                return
            request = self._request = replace(request, case=there["id"], revision=int(there.get("revisions") or 0))
        self._state = _state(request, self._part, self._start)
        before = _saved_state(request.node)
        number = before.pop("number", None)
        if before == self._state and request.revision == number:
            self._over = True
            text = _("No changes since revision {n} of {case}.")
            self._done(text.format(n=number, case=request.case), False)
        elif not self._part.any() and not questions.emptyAgreed():
            self._fail(_("the mask is empty"))
        elif request.revision is not None:
            self._next(self._sendMask, "label is sent")
        else:
            self._sendScan()

    def _sendScan(self) -> None:
        phase = phases.of(self._request.node)
        try:
            held = self._scans.known(self._request.scan, phase)
            if held is not None:
                self._addCase(held)
            else:
                self._call = self._scans.send(self._request.scan, self._addCase, self._fail, phase=phase)
        except ValueError as error:
            self._fail(str(error))

    def _addCase(self, scan: str) -> None:
        if self._over:
            return
        request = self._request
        body = {"scan": scan, "id": request.case, "source": {"program": "3D Slicer"}, "split": "train"}
        path = route("datasets", request.dataset, "cases")
        self._call = self._session.post(
            path, body, lambda _case: self._next(self._sendMask, "label is sent"), self._fail
        )

    def _sendMask(self) -> None:
        request = self._request
        if not request.alive:
            self._fail(_("the segmentation or its scan is not in the scene any more"))
            return
        path = route(
            "datasets",
            request.dataset,
            "cases",
            request.case,
            "labels",
            author=request.author,
            **self._made,
            scan_sha256=self._checksum,
        )
        stop = [first + n for first, n in zip(self._start, self._part.shape, strict=True)]
        grid = mrml.geometry_of(request.scan).crop(self._start, stop)  # the engine refuses the grid of another scan
        header = {"start": list(self._start), "affine": grid.affine.tolist(), "spacing_known": grid.spacing_known}
        saved = self._sendStrokes if self._strokes else self._finish
        self._call = self._session.postArray(path, self._part, header, saved, self._fail)

    def _sendStrokes(self, revision: dict[str, Any]) -> None:
        request, result = self._request, self._result
        body = {"strokes": self._strokes, "scan_sha256": result.get("scan_sha256"), "model": result.get("model")}
        path = route("datasets", request.dataset, "cases", request.case, "labels", revision["number"], "strokes")

        def failed(message: str) -> None:
            text = _("{message} The mask was saved as revision {n}, but not its strokes.")
            self._finish(revision, text.format(message=sentence(message), n=revision["number"]))

        self._call = self._session.put(path, body, lambda _answer: self._finish(revision), failed)

    def _finish(self, revision: dict[str, Any], warning: str = "") -> None:
        request, number = self._request, revision.get("number", "")
        self._over = True
        text = _("Saved as revision {n} of {case}.")
        if self._strokes:
            text = _("Saved as revision {n} of {case}, with its strokes ({strokes}).")
        later(lambda: _note(request, {**self._state, "number": number}), "saved label is noted")
        self._done(warning or text.format(n=number, case=request.case, strokes=len(self._strokes)), True)

    def _fail(self, message: str) -> None:
        if not self._over:
            self._over = True
            self._failed(message)


def _note(request: LabelRequest, state: dict[str, Any]) -> None:
    if mrml.alive(request.scan):
        mrml.mark_case(request.node if phases.of(request.node) else request.scan, request.dataset, request.case)
    if mrml.alive(request.node):
        request.node.SetAttribute(_SAVED, json.dumps(state))


def _state(request: LabelRequest, part: np.ndarray, start: tuple[int, int, int]) -> dict[str, Any]:
    """What is equal if two revisions would be the same."""
    voxels = hashlib.sha256(repr((tuple(map(int, start)), part.shape)).encode())
    voxels.update(part.tobytes())
    return {
        "dataset": request.dataset,
        "case": request.case,
        "author": request.author,
        "voxels": voxels.hexdigest(),
        "strokes": list(stroke_node.applied(request.node)),
    }


def _made(
    node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any], strokes: list[dict[str, Any]]
) -> dict[str, Any]:
    """How a mask was made, as the engine notes it with a revision."""
    return {
        "how": "strokes" if strokes else "model",
        "edited": "true" if result_node.is_edited(node) else "false",
        "model": result.get("model"),
        "version": result.get("model_version"),
        "seconds": round(result_node.edited_seconds(node), 1),
    }


def _saved_state(node: slicer.vtkMRMLSegmentationNode) -> dict[str, Any]:
    """The state in which a result was saved last, with its revision number."""
    return mrml.json_attribute(node, _SAVED)


def _strokes(node: slicer.vtkMRMLSegmentationNode, labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The strokes that the mask includes, with the label values of the dataset.

    Raises
    ------
    ValueError
        If one is of a structure that the dataset does not have.
    """
    names = {label["value"]: label["name"] for label in (result_node.of(node) or {}).get("labels", [])}
    values = {label["name"].casefold(): label["value"] for label in labels}
    found = []
    for one in stroke_node.listed(node):
        entry = stroke_node.to_json(one.stroke)
        if entry["value"]:
            name = names.get(entry["value"], "")
            if name.casefold() not in values:
                message = _("a stroke is of {name}, which is no structure of the dataset; choose another dataset")
                raise ValueError(message.format(name=name))
            entry["value"] = values[name.casefold()]
        found.append(entry)
    return found
