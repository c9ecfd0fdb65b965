"""One segmentation from the click to the mask: the scan goes to the engine, a job computes, the mask comes back.

Nothing here waits, and nothing here touches a widget. It ends with exactly one of `finished`, `failed` and `cancelled`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml
from MPERLib.engine import Engine, route
from slicer.i18n import tr as _

from MPERSegmentLib import formatting
from MPERSegmentLib.uploaded_scans import UploadedScans

_SENDING, _FETCHING = 0.15, 0.05  # shares of the progress bar


@dataclass(frozen=True)
class SegmentationRequest:
    """What is to be done: `model` is an entry of ``GET /models``; the region a node, or `roi_mm` in its frame."""

    scan: slicer.vtkMRMLScalarVolumeNode
    model: dict[str, Any]
    device: str
    roi: slicer.vtkMRMLMarkupsROINode | None = None
    roi_mm: list[float] | None = None


@dataclass(frozen=True)
class SegmentationCallbacks:
    """Where a segmentation tells how it goes.

    progress : takes a share in [0, 1], or None where it cannot be told, and words.
    notice : takes a line that the user should read although the work goes on.
    finished : takes the mask (k, j, i), the header that says where it lies, and the job's result.
    failed : takes one line for a person.
    cancelled : the user no longer wanted it.
    """

    progress: Callable[[float | None, str], None]
    notice: Callable[[str], None]
    finished: Callable[[np.ndarray, dict, dict], None]
    failed: Callable[[str], None]
    cancelled: Callable[[], None]


class SegmentationJob:
    """One segmentation under way. It begins at once.

    Parameters
    ----------
    engine : Engine
    scans : UploadedScans
        Of that engine.
    request : SegmentationRequest
    callbacks : SegmentationCallbacks

    Raises
    ------
    ValueError
        If the scan cannot be segmented as it stands in the scene (no voxels, a non-linear transform, ...).
    """

    def __init__(
        self, engine: Engine, scans: UploadedScans, request: SegmentationRequest, callbacks: SegmentationCallbacks
    ):
        self._engine, self._scans, self._request, self._callbacks = engine, scans, request, callbacks
        self._geometry = mrml.geometry_of(request.scan)
        self._roi = mrml.roi_mm(request.roi, request.scan) if request.roi else request.roi_mm
        self._over = False
        self._call: Any = None
        self._notices = 0
        scan = scans.known(request.scan)
        if scan is None:
            self._send()
        else:
            self._compute(scan, known=True)

    @property
    def scan(self) -> slicer.vtkMRMLScalarVolumeNode:
        return self._request.scan

    def cancel(self) -> None:
        """Stop; whatever the engine still does about it ends unseen."""
        self.drop()
        self._callbacks.cancelled()

    def drop(self) -> None:
        """Stop without a word: scan, scene or module are going."""
        if not self._over:
            self._over = True
            self._call.abort()

    def _send(self) -> None:
        scan = self._request.scan
        header = {"affine": self._geometry.affine.tolist(), "spacing_known": self._geometry.spacing_known}
        size_mb = scan.GetImageData().GetActualMemorySize() / 1024
        where = _("Sending the scan ({mb} MB)") if self._engine.isRemote else _("Handing over the scan ({mb} MB)")
        message = where.format(mb=f"{size_mb:.0f}")
        self._callbacks.progress(0.0, message)

        def sent(answer: dict) -> None:
            if not self._over:
                self._scans.remember(scan, answer["scan"])
                self._compute(answer["scan"], known=False)

        self._call = self._engine.postArray(
            "/scans",
            slicer.util.arrayFromVolume(scan),
            header,
            sent,
            self._fail,
            lambda share: self._callbacks.progress(_SENDING * share, message),
        )

    def _compute(self, scan: str, known: bool) -> None:
        body = {
            "scan": scan,
            "model": self._request.model["id"],
            "device": self._request.device,
            "roi_mm": self._roi,
        }

        def failed(message: str) -> None:
            if known and self._call.id is None and not self._over:  # the engine keeps a bounded number of scans
                self._scans.forget(self._request.scan.GetID())
                self._send()
            else:
                self._fail(message)

        self._callbacks.progress(_SENDING, _("Waiting for the engine"))
        self._call = self._engine.job("/jobs/segment", body, self._fetch, failed, self._onEvent, self._onCancelled)

    def _onEvent(self, event: dict) -> None:
        for notice in event.get("notices", [])[self._notices :]:
            self._notices += 1
            self._callbacks.notice(notice)
        share = event.get("fraction")
        done = None if share is None else _SENDING + (1 - _SENDING - _FETCHING) * share
        self._callbacks.progress(done, formatting.progress(event.get("message") or "", event.get("eta_s")))

    def _fetch(self, result: dict) -> None:
        if self._over:
            return
        self._callbacks.progress(1 - _FETCHING, _("Bringing the mask"))

        def arrived(mask: np.ndarray, header: dict) -> None:
            if not self._over:
                self._over = True
                self._callbacks.finished(mask, header, result)

        self._call = self._engine.getArray(route("predictions", result["prediction"], "mask"), arrived, self._fail)

    def _fail(self, message: str) -> None:
        if not self._over:
            self._over = True
            self._callbacks.failed(message)

    def _onCancelled(self) -> None:
        if not self._over:
            self._over = True
            self._callbacks.cancelled()
