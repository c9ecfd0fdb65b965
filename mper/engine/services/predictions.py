"""Predictions that are kept for questions and strokes: cropped to the region that was computed, bounded in bytes.

Where room is short, the least recently used one of the client that holds most is removed: no client can crowd out
others.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mper.engine.errors import InvalidRequest, NotFound
from mper.engine.services.corrections import Corrections
from mper.engine.settings import Limits
from mper.roi import bounding_box
from mper.volume import Index3, Volume

if TYPE_CHECKING:
    import torch

    from mper.inference.localization import Search
    from mper.inference.prediction import Prediction
    from mper.labels import Segmentation
    from mper.measurement.measures import Measures
    from mper.models.references import References


@dataclass(eq=False)
class StoredPrediction:
    """A prediction, cropped.

    client : its owner; scan : its scan's id; model : its model's checksum; localization : what its model localises
    with, the checksum of its own localisation or the name of another model; prediction : as the model made it, on the
    crop's grid, with confidence, prototypes and embeddings; start, shape : index of the crop's first voxel in the scan,
    and the scan's shape; scan_sha256 : of the scan's voxels; vectors, references : the model's prototypes, and the
    labelled voxels that it keeps; structures : figures of the model's mask; corrections : what strokes make of it.
    """

    client: str
    scan: str
    model: str
    localization: str
    prediction: Prediction
    start: Index3
    shape: Index3
    scan_sha256: str
    vectors: torch.Tensor
    structures: Sequence[Measures]
    references: References | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    used: float = field(default_factory=time.monotonic)
    corrections: Corrections = field(init=False)

    def __post_init__(self) -> None:
        size = self.prediction.segmentation.labelmap.array.shape
        sides = [(a > 0, a + n < end) for a, n, end in zip(self.start, size, self.shape, strict=True)]
        self.corrections = Corrections(self.prediction, self.structures, sides)

    @property
    def bytes(self) -> int:
        found, embeddings = self.prediction, self.prediction.embeddings
        volumes = (found.segmentation.labelmap, found.label_probability, found.prototype_map, found.similarity_map)
        kept = sum(volume.array.nbytes for volume in volumes if volume is not None) + self.corrections.nbytes
        if embeddings is not None:
            tensors = (embeddings.values, embeddings.image, embeddings.logits)
            kept += sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
        return kept

    def mask(self) -> tuple[npt.NDArray[np.uint8], Index3]:
        """The non-zero part of the mask as it stands, one voxel where it is empty; and its first index in the scan."""
        found = self.corrections.mask()
        if found is None:  # an array has at least one voxel
            return np.zeros((1, 1, 1), np.uint8), self.start
        part, (k, j, i) = found
        dk, dj, di = self.start
        return part, (k + dk, j + dj, i + di)

    def part(self, start: Index3, stop: Index3) -> npt.NDArray[np.uint8]:
        """The mask ``[start:stop]`` of the scan as it stands, 0 where nothing was computed.

        Raises
        ------
        InvalidRequest
            If the scan has no such part.
        """
        if not all(0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise InvalidRequest(
                f"the scan has {self.shape} voxels (k, j, i), so it has no part from {start} to {stop}; ask for less",
            )
        out = np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.uint8)
        size = self.prediction.segmentation.labelmap.array.shape
        low = [max(a, s) for a, s in zip(start, self.start, strict=True)]
        high = [min(b, s + n) for b, s, n in zip(stop, self.start, size, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            (k, j, i), (to_k, to_j, to_i) = (
                [n - s for n, s in zip(end, self.start, strict=True)] for end in (low, high)
            )
            here = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            out[here] = self.corrections.part((k, j, i), (to_k, to_j, to_i))
        return out


class PredictionStore:
    """All predictions of all clients."""

    def __init__(self, limits: Limits):
        self._limit, self._keep_s = limits.predictions_bytes, limits.keep_s
        self._stored: dict[str, StoredPrediction] = {}
        self._lock = threading.Lock()

    def add(self, stored: StoredPrediction) -> None:
        """Keep a prediction, for which others make room; it stays even if it is larger than all of the room."""
        with self._lock:
            self._stored[stored.id] = stored
        self.make_room(stored)

    def make_room(self, stored: StoredPrediction) -> None:
        """Remove others, where `stored` has become too large for all to stay."""
        with self._lock:
            while sum(s.bytes for s in self._stored.values()) > self._limit and len(self._stored) > 1:
                held: Counter[str] = Counter()
                for each in self._stored.values():
                    held[each.client] += each.bytes
                most = held.most_common(1)[0][0]
                own = [s for s in self._stored.values() if s.client == most and s is not stored]
                oldest = min(own or [s for s in self._stored.values() if s is not stored], key=lambda s: s.used)
                del self._stored[oldest.id]

    def get(self, client: str, prediction_id: str) -> StoredPrediction:
        """A client's prediction.

        Raises
        ------
        NotFound
            If it has none of that id.
        """
        stored = self._stored.get(prediction_id)
        if stored is None or stored.client != client:
            raise NotFound(
                f"there is no prediction {prediction_id!r}; it is unknown, or made room for others: segment again, "
                "and send the whole list of strokes where there are strokes",
                "no-prediction",
            )
        stored.used = time.monotonic()
        return stored

    def search(self, client: str, scan: str, model: str, localization: str) -> Search | None:
        """What the localisation of a model saw in a client's scan, where a prediction of these is kept."""
        key = client, scan, model, localization
        with self._lock:
            same = [s for s in self._stored.values() if (s.client, s.scan, s.model, s.localization) == key]
        return next((s.prediction.search for s in same if s.prediction.search is not None), None)

    def expire(self) -> None:
        """Remove predictions that have not been used for long."""
        with self._lock:
            for stored in list(self._stored.values()):
                if time.monotonic() - stored.used > self._keep_s:
                    del self._stored[stored.id]

    def discard(self, prediction_id: str) -> None:
        """Remove a prediction, if it is still there."""
        with self._lock:
            self._stored.pop(prediction_id, None)


def cropped(prediction: Prediction) -> tuple[Prediction, Index3]:
    """A prediction on the grid of the region that was computed, and where that begins in the scan."""
    embeddings = prediction.embeddings
    start, stop = _computed(prediction) if embeddings is None else (embeddings.start, embeddings.stop)

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
            label_probability=part(prediction.label_probability),
            prototype_map=part(prediction.prototype_map),
            similarity_map=part(prediction.similarity_map),
            embeddings=None if embeddings is None else replace(embeddings, start=(0, 0, 0), stop=(k, j, i)),
        ),
        start,
    )


def _computed(prediction: Prediction) -> tuple[Index3, Index3]:
    """The box in which there is a probability."""
    assert prediction.label_probability is not None
    array = prediction.label_probability.array
    window = bounding_box(array != 0)
    if window is None:
        k, j, i = array.shape
        return (0, 0, 0), (k, j, i)
    k, j, i = window
    return (k.start, j.start, i.start), (k.stop, j.stop, i.stop)
