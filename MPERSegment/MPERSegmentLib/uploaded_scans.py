"""Scans of the scene that the engine has already, so that none is sent twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from MPERLib import mrml, phases
from MPERLib.engine import Pending, route
from MPERLib.engine_session import EngineSession
from MPERLib.scan_checksum import ScanChecksums, Stamp
from MPERLib.scan_checksum import stamp as stamp_of
from slicer.i18n import tr as _

UPLOADS = 3  # of one scan that changes meanwhile

_OF = " phase "  # between the node's id and the number of the phase


def changing() -> str:
    """Why a scan that changed at each try was given up."""
    return _("the scan keeps changing while it is being segmented; wait until it does not change, then try again")


class ScanUpload:
    """A scan on its way to the engine, perhaps once more as it has changed."""

    def __init__(self) -> None:
        self.call: Pending | None = None

    def abort(self) -> None:
        """Cancel it; no callback is called any more."""
        if self.call is not None:
            self.call.abort()


class UploadedScans:
    """The scans that were sent to the engine, by node; the engine may have dropped the oldest by now.

    Of a time series each phase is a scan, by its number; see `MPERLib.phases`.

    Parameters
    ----------
    session : EngineSession

    Attributes
    ----------
    checksums : ScanChecksums
    """

    def __init__(self, session: EngineSession):
        self._session = session
        self.checksums = ScanChecksums()
        self._sent: dict[str, tuple[Stamp, str]] = {}  # key: voxels and grid when it was sent, the engine's id
        self._engine: tuple[Any, bool] = (session.engine, session.running)
        session.onChange(self._onEngine)

    def known(self, volumeNode: slicer.vtkMRMLVolumeNode, phase: int | None = None) -> str | None:
        """The engine's id of a scan as it is now; None if it was never sent, or has changed since."""
        stamp, scan = self._sent.get(_key(volumeNode.GetID(), phase), (None, None))
        return scan if stamp == stamp_of(phases.voxels_of(volumeNode, phase)) else None

    def send(
        self,
        volumeNode: slicer.vtkMRMLVolumeNode,
        done: Callable[[str], object],
        failed: Callable[[str], object],
        progress: Callable[[float], None] = lambda _share: None,
        phase: int | None = None,
    ) -> ScanUpload:
        """Send a scan; `done` takes the engine's id. A scan that changes on its way is sent again.

        Raises
        ------
        ValueError
            If it is no scan that can be segmented; see `mrml.geometry_of`.
        """
        upload = ScanUpload()
        self._sendOnce(volumeNode, phase, upload, UPLOADS, done, failed, progress)
        return upload

    def _sendOnce(
        self,
        volumeNode: slicer.vtkMRMLVolumeNode,
        phase: int | None,
        upload: ScanUpload,
        uploads: int,
        done: Callable[[str], object],
        failed: Callable[[str], object],
        progress: Callable[[float], None],
    ) -> None:
        mrml.refuse_nonlinear(volumeNode)
        voxels = phases.voxels_of(volumeNode, phase)
        geometry, stamp, key = mrml.geometry_of(voxels), stamp_of(voxels), _key(volumeNode.GetID(), phase)

        def sent(answer: dict[str, Any]) -> None:
            scan = answer["scan"]
            try:
                same = mrml.alive(volumeNode) and stamp == stamp_of(phases.voxels_of(volumeNode, phase))
                if not same:  # what the engine got is partly of before, partly of after
                    self._drop(scan)
                    if not mrml.alive(volumeNode):
                        failed(_("the scan was removed from the scene while it was being sent"))
                    elif uploads > 1:
                        self._sendOnce(volumeNode, phase, upload, uploads - 1, done, failed, progress)
                    else:
                        failed(changing())
                    return
            except ValueError as error:
                failed(str(error))
                return
            self._forget(key)
            self._sent[key] = (stamp, scan)
            done(scan)

        header = {"affine": geometry.affine.tolist(), "spacing_known": geometry.spacing_known}
        upload.call = self._session.postArray("/scans", mrml.array_of(voxels), header, sent, failed, progress)

    def forget(self, nodeId: str) -> None:
        """Let the engine drop a scan, with all its phases, that has changed or has left the scene."""
        for key in [key for key in self._sent if key.partition(_OF)[0] == nodeId]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        _stamp_then, scan = self._sent.pop(key, (None, None))
        if scan is not None:
            self._drop(scan)

    def _drop(self, scan: str) -> None:
        self._session.delete(route("scans", scan), failed=lambda _message: None)

    def forgetAll(self) -> None:
        for key in list(self._sent):
            self._forget(key)

    def _onEngine(self) -> None:
        """A new process of the engine has none of the scans."""
        engine = (self._session.engine, self._session.running)
        if engine != self._engine:
            self._engine = engine
            self._sent.clear()


def _key(nodeId: str, phase: int | None) -> str:
    return nodeId if phase is None else f"{nodeId}{_OF}{phase}"
