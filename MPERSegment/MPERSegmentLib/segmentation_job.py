"""One segmentation from the click to the mask: the scan goes to the engine, a job computes, the mask comes back.

Nothing here blocks, and nothing here touches a widget. It ends with one of `finished`, `failed` and `cancelled`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from MPERLib import engine_words, formatting, mrml, phases
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from slicer.i18n import tr as _

from MPERSegmentLib.uploaded_scans import UPLOADS, UploadedScans, changing

_SENDING, _FETCHING = 0.15, 0.05  # shares of the progress bar


@dataclass(frozen=True)
class SegmentationRequest:
    """What is segmented, with what.

    scan, phase : a volume, and which phase of it where it is a time series.
    model : an entry of ``GET /models``.
    roi, roi_mm : the region, as a node or as a box in the scan's own frame.
    at_mm : instead of a region, a point in the structure (x, y, z in LPS, in the scan's own frame).
    target : the result that is replaced, None for a new one.
    """

    scan: slicer.vtkMRMLScalarVolumeNode
    model: dict[str, Any]
    device: str
    roi: slicer.vtkMRMLMarkupsROINode | None = None
    roi_mm: list[float] | None = None
    phase: int | None = None
    at_mm: list[float] | None = None
    target: slicer.vtkMRMLSegmentationNode | None = None


@dataclass(frozen=True)
class SegmentationCallbacks:
    """What is called during a segmentation.

    progress : takes a share in [0, 1], or None where it is unknown, and a text.
    notice : takes a line that the user should read although the work goes on.
    finished : takes the mask (k, j, i), its header (start, affine), and the job's result.
    failed : takes one line for the user.
    cancelled : takes nothing.
    """

    progress: Callable[[float | None, str], object]
    notice: Callable[[str], object]
    finished: Callable[[np.ndarray, dict, dict], object]
    failed: Callable[[str], object]
    cancelled: Callable[[], object]


class SegmentationJob:
    """A segmentation that begins at once.

    Parameters
    ----------
    session : EngineSession
    scans : UploadedScans
    request : SegmentationRequest
    callbacks : SegmentationCallbacks

    Raises
    ------
    ValueError
        If the scan cannot be segmented as it is in the scene (no voxels, a non-linear transform, ...).
    """

    def __init__(
        self,
        session: EngineSession,
        scans: UploadedScans,
        request: SegmentationRequest,
        callbacks: SegmentationCallbacks,
    ):
        self._session, self._scans, self._request, self._callbacks = session, scans, request, callbacks
        self._roi = mrml.roi_mm(request.roi, request.scan) if request.roi else request.roi_mm
        self._over = False
        self._call: Any = None
        self._notices = 0
        self._tries = UPLOADS
        self._scan = ""  # the engine's id
        if request.phase is not None:
            _refuse_other_grid(request.scan, request.phase)
        scan = scans.known(request.scan, request.phase)
        if scan is None:
            self._send()
        else:
            self._compute(scan, known=True)

    @property
    def scan(self) -> slicer.vtkMRMLScalarVolumeNode:
        return self._request.scan

    def cancel(self) -> None:
        """Cancel it at once; the engine ends its job in the background."""
        self.abort()
        self._callbacks.cancelled()

    def abort(self) -> None:
        """Cancel it without a callback: scan, scene or module are being closed."""
        if not self._over:
            self._over = True
            self._call.abort()

    def _send(self) -> None:
        size_mb = self.scan.GetImageData().GetActualMemorySize() / 1024
        message = _("Sending the scan ({mb} MB)").format(mb=f"{size_mb:.0f}")
        self._callbacks.progress(0.0, message)
        self._call = self._scans.send(
            self.scan,
            lambda scan: None if self._over else self._compute(scan, known=False),
            self._fail,
            lambda share: self._callbacks.progress(_SENDING * share, message),
            self._request.phase,
        )

    def _compute(self, scan: str, known: bool) -> None:
        self._scan = scan
        body = {
            "scan": scan,
            "model": self._request.model["id"],
            "device": self._request.device,
            "roi_mm": self._roi,
        }
        if self._request.at_mm is not None:  # an engine of an older version knows no point
            body["at_mm"] = self._request.at_mm

        def failed(message: str) -> None:
            if known and self._call.id is None and not self._over:  # the engine keeps a bounded number of scans
                self._scans.forget(self.scan.GetID())
                self._sendAgain()
            else:
                self._fail(message)

        self._callbacks.progress(_SENDING, _("Waiting"))
        self._call = self._session.job("/jobs/segment", body, self._fetch, failed, self._onEvent, self._onCancelled)

    def _sendAgain(self) -> None:
        try:
            self._send()
        except ValueError as error:
            self._fail(str(error))

    def _onEvent(self, event: dict) -> None:
        for notice in event.get("notices", [])[self._notices :]:
            self._notices += 1
            self._callbacks.notice(notice)
        share = event.get("fraction")
        done = None if share is None else _SENDING + (1 - _SENDING - _FETCHING) * share
        self._callbacks.progress(
            done, formatting.progress(engine_words.progress(event.get("message") or ""), event.get("eta_s"))
        )

    def _fetch(self, result: dict) -> None:
        if self._over:
            return
        self._callbacks.progress(1 - _FETCHING, _("Loading the mask"))

        def arrived(mask: np.ndarray, header: dict) -> None:
            if self._over:
                return
            if self._isAsSent():
                self._over = True
                self._callbacks.finished(mask, header, result)
            elif self._tries > 1:
                self._tries -= 1
                self._sendAgain()
            else:
                self._fail(changing())

        self._call = self._session.getArray(route("predictions", result["prediction"], "mask"), arrived, self._fail)

    def _isAsSent(self) -> bool:
        """Whether the scan still has the voxels and the grid that were segmented."""
        try:
            return self._scans.known(self.scan, self._request.phase) == self._scan
        except ValueError:
            return False  # sending it again says why

    def _fail(self, message: str) -> None:
        if not self._over:
            self._over = True
            self._callbacks.failed(message)

    def _onCancelled(self) -> None:
        if not self._over:
            self._over = True
            self._callbacks.cancelled()


def _refuse_other_grid(scan: slicer.vtkMRMLScalarVolumeNode, phase: int) -> None:
    """The mask is put on the grid of the phase that is shown."""
    if not mrml.geometry_of(phases.voxels_of(scan, phase)).is_close(mrml.geometry_of(scan)):
        raise ValueError(
            _(
                "phase {n} of {scan} has another grid than the phase that is shown; show phase {n}, and segment it"
            ).format(n=phase, scan=scan.GetName())
        )
