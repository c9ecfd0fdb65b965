"""Predictions that are kept for questions: cropped to the region that was computed, bounded in bytes.

Where room is short the least recently used one goes, of the client that holds most: nobody can crowd out the others.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mper.engine.errors import Refused
from mper.engine.settings import Limits
from mper.volume import Index3, Volume

if TYPE_CHECKING:
    import torch

    from mper.labels import Segmentation
    from mper.prediction import Prediction


@dataclass(eq=False)
class Stored:
    """A prediction, cropped.

    client : whose it is; prediction : on the crop's grid, with confidence, prototypes and embeddings; start : index of
    the crop's first voxel in the scan; extent : start and stop of the mask's non-zero part in the scan, None where it
    is empty; vectors : the model's prototypes.
    """

    client: str
    prediction: Prediction
    start: Index3
    extent: tuple[Index3, Index3] | None
    vectors: torch.Tensor
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    used: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        found = self.prediction
        volumes = (found.segmentation.labelmap, found.confidence_map, found.prototype_map, found.similarity_map)
        kept = sum(volume.array.nbytes for volume in volumes if volume is not None)
        if found.embeddings is not None:
            kept += found.embeddings.values.numel() * found.embeddings.values.element_size()
        return kept


class PredictionStore:
    """All predictions of all clients."""

    def __init__(self, limits: Limits):
        self._limit, self._keep_s = limits.predictions_bytes, limits.keep_s
        self._stored: dict[str, Stored] = {}
        self._lock = threading.Lock()

    def add(self, stored: Stored) -> None:
        """Keep a prediction; others make room, and it stays even if it alone is too large."""
        with self._lock:
            self._stored[stored.id] = stored
            while sum(s.bytes for s in self._stored.values()) > self._limit and len(self._stored) > 1:
                held: Counter[str] = Counter()
                for each in self._stored.values():
                    held[each.client] += each.bytes
                most = held.most_common(1)[0][0]
                own = [s for s in self._stored.values() if s.client == most and s is not stored]
                oldest = min(own or [s for s in self._stored.values() if s is not stored], key=lambda s: s.used)
                del self._stored[oldest.id]

    def get(self, client: str, prediction_id: str) -> Stored:
        """A client's prediction.

        Raises
        ------
        Refused
            404 if it has none of that id.
        """
        stored = self._stored.get(prediction_id)
        if stored is None or stored.client != client:
            raise Refused(
                404,
                f"there is no prediction {prediction_id!r}; it was never here, or made room for others: segment again",
            )
        stored.used = time.monotonic()
        return stored

    def expire(self) -> None:
        """Forget what nobody has used for long."""
        with self._lock:
            for stored in list(self._stored.values()):
                if time.monotonic() - stored.used > self._keep_s:
                    del self._stored[stored.id]

    def discard(self, prediction_id: str) -> None:
        """Forget a prediction, if it is still there."""
        with self._lock:
            self._stored.pop(prediction_id, None)


def cropped(prediction: Prediction) -> tuple[Prediction, Index3]:
    """A prediction on the grid of the region that was computed, and where that begins in the scan."""
    embeddings = prediction.embeddings
    assert embeddings is not None
    start, stop = embeddings.start, embeddings.stop

    def part(volume: Volume | None) -> Volume | None:
        if volume is None:
            return None
        found = volume.crop(start, stop)
        return found.with_array(np.ascontiguousarray(found.array))  # a view would keep the whole scan's array

    mask = part(prediction.segmentation.labelmap)
    assert mask is not None
    segmentation: Segmentation = replace(prediction.segmentation, labelmap=mask)
    k, j, i = (b - a for a, b in zip(start, stop, strict=True))
    return (
        replace(
            prediction,
            segmentation=segmentation,
            confidence_map=part(prediction.confidence_map),
            prototype_map=part(prediction.prototype_map),
            similarity_map=part(prediction.similarity_map),
            embeddings=replace(embeddings, start=(0, 0, 0), stop=(k, j, i)),
        ),
        start,
    )


def uncertainty(probability: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Percent: 100 x (1 - probability of the voxel's class); 0 where nothing was computed."""
    doubt = np.rint(100 * (1 - probability.astype(np.float32)))
    return np.where(probability > 0, doubt, 0).astype(np.uint8)
