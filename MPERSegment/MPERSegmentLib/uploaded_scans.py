"""Which scans of the scene the engine holds already, so that none is sent twice."""

from __future__ import annotations

from typing import Any

import slicer
from MPERLib import mrml
from MPERLib.engine import Engine, route


class UploadedScans:
    """The scans that were sent to one engine; the engine may have dropped the oldest by now."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._sent: dict[str, tuple[Any, str]] = {}  # node id -> what it was like when it was sent, the engine's id

    def known(self, volumeNode: slicer.vtkMRMLVolumeNode) -> str | None:
        """The engine's id of a scan as it is now; None if it was never sent, or has changed since."""
        stamp, scan = self._sent.get(volumeNode.GetID(), (None, None))
        return scan if stamp == _stamp(volumeNode) else None

    def remember(self, volumeNode: slicer.vtkMRMLVolumeNode, scan: str) -> None:
        self.forget(volumeNode.GetID())
        self._sent[volumeNode.GetID()] = (_stamp(volumeNode), scan)

    def forget(self, nodeId: str) -> None:
        """Let the engine drop a scan: it has changed, or left the scene."""
        _was, scan = self._sent.pop(nodeId, (None, None))
        if scan is not None:
            self._engine.delete(route("scans", scan))

    def forgetAll(self) -> None:
        for nodeId in list(self._sent):
            self.forget(nodeId)


def _stamp(volumeNode: slicer.vtkMRMLVolumeNode) -> Any:
    """Differs whenever voxels or grid do."""
    image = volumeNode.GetImageData()
    scalars = image.GetPointData().GetScalars()
    geometry = mrml.geometry_of(volumeNode)
    return image.GetMTime(), scalars.GetMTime(), geometry.shape, geometry.affine.tobytes()
