"""A mask of a cohort with its scan in Slicer's views, and the edits that a user makes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MPERLib import mrml, segmentation_node
from MPERLib.callbacks import later, slot
from MPERLib.cohort_tracker import CohortTracker
from MPERLib.edit_timer import EditTimer
from MPERLib.engine_session import EngineSession
from MPERLib.rendering import rendered_once
from MPERLib.surface import make_surface

_MARK = "MPER.Cohort"  # attribute of nodes that a cohort has put into the scene


class CohortViews:
    """Shows one mask at a time; the nodes of the one before leave the scene.

    Parameters
    ----------
    session : EngineSession
    tracker : CohortTracker
    changed : callable
        Called when a mask is shown, was edited or is gone.
    failed : callable
        Takes one line for the user.

    Attributes
    ----------
    row : str or None
        The id of the row that is shown, or on its way.
    volume, segmentation : MRML node or None
    edited : bool
        Whether the user has changed the mask since it was saved.
    """

    def __init__(
        self,
        session: EngineSession,
        tracker: CohortTracker,
        changed: Callable[[], None],
        failed: Callable[[str], None],
    ):
        self._session, self._tracker, self._changed, self._failed = session, tracker, changed, failed
        self.row: str | None = None
        self.volume: Any = None
        self.segmentation: Any = None
        self.edited = False
        self._edits = 0
        self._arrived = False  # whether the nodes are those of `row`, not of the row before
        self._labels: list[dict] = []
        self._observed: tuple | None = None
        self._timer = EditTimer()
        self._wanted = 0  # counts the requests to show a mask: only the last one is shown

    @property
    def shown(self) -> bool:
        """Whether scan and mask of the row are in the scene."""
        return self._arrived and mrml.alive(self.volume) and mrml.alive(self.segmentation)

    def show(self, row: dict[str, Any]) -> None:
        """Show a mask on its scan; edits of the mask before are discarded."""
        self._wanted += 1
        self._leaveRow()
        wanted, mask = self._wanted, row["id"]
        found: dict[str, Any] = {}
        self.row = mask

        def current(step: Callable[..., None]) -> Callable[..., None]:
            return lambda *answer: step(*answer) if wanted == self._wanted else None

        def fail(message: str) -> None:
            self.row = None
            self._failed(message)
            self._changed()

        def withLabels(labels: list[dict]) -> None:
            found["labels"] = labels
            self._session.getArray(self._tracker.route("mask", mask=mask), current(withMask), current(fail))

        def withMask(part: np.ndarray, header: dict) -> None:
            found["part"], found["start"] = part, header.get("start") or (0, 0, 0)
            self._session.getArray(self._tracker.route("image", mask=mask), current(withImage), current(fail))

        def withImage(array: np.ndarray, header: dict) -> None:
            with rendered_once():
                self._remove()
                self.volume = mrml.show_scan(array, header["affine"], row["name"], slicer.mrmlScene)
                self.volume.SetAttribute(_MARK, "yes")
            self._session.later(current(inViews), "scan of a cohort shown")

        def inViews() -> None:
            if mrml.alive(self.volume):
                with rendered_once():
                    _in_views(self.volume, found["part"], found["start"])
                self._session.later(current(withMasks), "mask of a cohort shown")

        def withMasks() -> None:
            if not mrml.alive(self.volume):
                return
            model = self._tracker.status.get("model") or {}
            made = {
                "model": model.get("name"),
                "model_version": model.get("version"),
                "model_sha256": model.get("sha256"),
            }
            name = _("{name} mask").format(name=row["name"])
            with rendered_once():
                node = segmentation_node.show_mask(
                    found["part"], found["start"], found["labels"], self.volume, name, made if model else None
                )
                node.SetAttribute(_MARK, "yes")
            self.segmentation, self._labels, self._arrived = node, found["labels"], True
            self._observe()
            make_surface(node, lambda step: later(step, "surface of a cohort's mask"), _centre_3d)
            self._changed()

        self._session.get(self._tracker.route("labels", mask=mask), current(withLabels), current(fail))

    def _observe(self) -> None:
        segmentation = self.segmentation.GetSegmentation()
        event = slicer.vtkSegmentation.SourceRepresentationModified
        self._observed = (segmentation, segmentation.AddObserver(event, slot(self._onEdited, "cohort mask edited")))
        self._timer.restart()

    def _onEdited(self) -> None:
        self._timer.changed()
        self._edits += 1
        if mrml.alive(self.segmentation):
            segmentation_node.mark_edited(self.segmentation)
            if not self.edited:
                self.edited = True
                self._changed()

    @property
    def seconds(self) -> float:
        """Time that the user has spent on the mask that is shown."""
        return round(self._timer.seconds, 1)

    def save(self, author: str, done: Callable[[dict], None], failed: Callable[[str], None]) -> None:
        """Save the edited mask as a correction; `done` takes its row. What is edited meanwhile stays unsaved."""
        try:
            part, start = segmentation_node.mask_part(self.segmentation, self.volume, self._labels)
        except ValueError as error:
            failed(str(error))
            return
        stop = [first + n for first, n in zip(start, part.shape, strict=True)]
        grid = mrml.geometry_of(self.volume).crop(start, stop)
        header = {"start": list(start), "affine": grid.affine.tolist(), "spacing_known": grid.spacing_known}
        saves = (self._wanted, self._edits)

        def saved(row: dict) -> None:
            if saves == (self._wanted, self._edits):
                self.edited = False
            done(row)

        path = self._tracker.route("corrections", mask=self.row, author=author, seconds=self.seconds)
        self._session.postArray(path, part, header, saved, failed)

    def forget(self) -> None:
        """Show none: what a cohort has put into the scene leaves it."""
        self._wanted += 1
        self.row = None
        self._remove()

    def engineLost(self) -> None:
        """The engine has stopped: a mask that is on its way does not arrive."""
        if not self.shown:
            self._wanted += 1
            self.row = None

    def leaveScene(self) -> None:
        """The scene was closed."""
        self._wanted += 1
        self._leaveRow()
        self.row = self.volume = self.segmentation = None

    def _remove(self) -> None:
        self._leaveRow()
        for node in (self.segmentation, self.volume):
            if mrml.alive(node):
                slicer.mrmlScene.RemoveNode(node)
        self.volume = self.segmentation = None

    def _leaveRow(self) -> None:
        """The nodes, if they stay for a moment, are not those of the row any more."""
        self._stopObserving()
        self._arrived = self.edited = False

    def _stopObserving(self) -> None:
        if self._observed is not None:
            segmentation, tag = self._observed
            segmentation.RemoveObserver(tag)
            self._observed = None


def _in_views(volume: Any, part: np.ndarray, start: tuple) -> None:
    """Show a scan in the slice views, rotated to its own slices, with the middle of the mask in them."""
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        view.RotateToVolumePlane(volume)
    slicer.util.setSliceViewerLayers(background=volume, foreground=None, label=None, fit=True)
    if part.any():
        filled = np.argwhere(part)
        mrml.jump_to((filled.mean(axis=0) + np.asarray(start)).tolist(), volume)


def _centre_3d() -> None:
    manager = slicer.app.layoutManager()
    for number in range(manager.threeDViewCount):
        manager.threeDWidget(number).threeDView().resetFocalPoint()
