"""Checksums of scans in the scene, which tell whether a scan is still the image that a mask was made from.

They are those of `mper.datasets.scan_record`, computed in many short callbacks: a large scan takes a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from mper.volume import checksum_steps
from MPERLib import mrml
from MPERLib.callbacks import later

Stamp = tuple[Any, ...]

_KEPT = 100  # checksums; of time series each phase has one
_STEP_S = 0.03  # of a callback


def stamp(volumeNode: Any) -> Stamp:
    """Differs whenever voxels or grid of a scan do."""
    geometry = mrml.geometry_of(volumeNode)  # raises where there are no voxels
    return *_voxels(volumeNode), geometry.shape, geometry.affine.tobytes()


def _voxels(volumeNode: Any) -> Stamp:
    image = volumeNode.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise ValueError(_("{name} has no voxels; load it again").format(name=volumeNode.GetName()))
    return image.GetMTime(), image.GetPointData().GetScalars().GetMTime()


class ScanChecksums:
    """The checksums that are known; of a scan that has changed another one is computed."""

    def __init__(self) -> None:
        self._known: dict[Stamp, str] = {}

    def note(self, volumeNode: Any, checksum: str) -> None:
        """The engine has computed the checksum of a scan as it is now."""
        self._known[_voxels(volumeNode)] = checksum
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]

    def known(self, volumeNode: Any) -> bool:
        """Whether `of` answers at once."""
        return _voxels(volumeNode) in self._known

    def of(self, volumeNode: Any) -> str:
        """The checksum of a scan as it is now."""
        checksum = self._known.get(_voxels(volumeNode))
        if checksum is None:
            checksum = _advance(checksum_steps(mrml.array_of(volumeNode)), None)
            assert checksum is not None
            self.note(volumeNode, checksum)
        return checksum

    def compute(self, volumeNode: Any, done: Callable[[], object] = lambda: None) -> None:
        """Compute the checksum of a scan in short callbacks, then call `done`: `of` answers at once from then on.

        `done` is also called when the scan changes meanwhile, or leaves the scene.
        """
        if self.known(volumeNode):
            done()
            return
        voxels, array = _voxels(volumeNode), np.asarray(mrml.array_of(volumeNode))
        steps = checksum_steps(array)

        def step() -> None:
            if volumeNode.GetImageData() is None or _voxels(volumeNode) != voxels:  # it has left, or changed
                done()
                return
            checksum = _advance(steps, _STEP_S)
            if checksum is None:
                later(step, "checksum of a scan")
                return
            self.note(volumeNode, checksum)
            done()

        later(step, "checksum of a scan")


def _advance(steps: Generator[None, None, str], seconds: float | None) -> str | None:
    """Go on for some seconds, or to the end; returns the checksum at the end."""
    start = time.monotonic()
    while seconds is None or time.monotonic() < start + seconds:
        try:
            next(steps)
        except StopIteration as end:
            return str(end.value)
    return None
