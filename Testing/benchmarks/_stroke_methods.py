"""Methods that turn strokes into a mask: ours, and simpler ones to compare it with.

Every simpler method begins with the same mask and scores, works on the same grid, and keeps the same rules: a stroke
only turns voxels into its class, one that agrees with the mask changes nothing, and what was painted stays as painted.
They differ in how far a stroke reaches:

brush      the painted voxels, nothing else
near       the scores around a stroke rise by what the stroke itself lacked, less with distance (no image, no embedding)
geodesic   the same with the distance along the image, in which a change of intensity is a way to go:
           `skimage.graph.MCP_Geometric`
cut        graph cut on intensity and strokes: `scipy.sparse.csgraph.maximum_flow`
global     the same rise wherever the embedding is like the stroke's, however far away

The graph cut is SciPy's and not PyMaxflow's, which is under the GPL; both find the same cut. A random walker would need
marks of all classes, and a stroke is of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from mper.inference.prediction import Prediction
from mper.refinement.refiner import Refiner
from mper.strokes import Stroke
from mper.volume import Spacing

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]
Respond = Callable[[Scores, Scores, Scores, Mask, npt.NDArray[np.int8], Spacing], Scores]

# Chosen on cases 65 to 67 of train.list with `la-8`.
_MARGIN, _MOST = 0.5, 6.0
_REACH_MM = 16.0
_NEAR_MM = 4.0
_GEODESIC_MM, _MM_PER_STEP = 8.0, 3.0
_SHARPNESS, _EDGES, _WIDTH = 0.25, 4.0, 0.25
_LIKE = 0.01
_FREE = 255


class StrokeMethod(Protocol):
    """A mask that strokes correct."""

    @property
    def mask(self) -> Labels:
        """On the scan's grid."""
        ...

    def add(self, stroke: Stroke) -> None:
        """Answer at once."""

    def settle(self) -> None:
        """Answer as well as it can."""


class Ours:
    """`mper.refinement.refiner`."""

    def __init__(self, prediction: Prediction):
        self._refiner = Refiner(prediction)

    @property
    def mask(self) -> Labels:
        return np.asarray(self._refiner.segmentation.labelmap.array, np.uint8)

    def add(self, stroke: Stroke) -> None:
        self._refiner.add(stroke)

    def settle(self) -> None:
        self._refiner.settle()


class Brush:
    """The painted voxels, nothing else."""

    def __init__(self, prediction: Prediction):
        volume = prediction.segmentation.labelmap
        self._geometry = volume.geometry
        self.mask: Labels = np.array(volume.array, np.uint8)

    def add(self, stroke: Stroke) -> None:
        self.mask[tuple(stroke.voxels(self._geometry).T)] = stroke.value

    def settle(self) -> None:
        pass


class Simple:
    """A way of one rule, which is asked in a box around the stroke, or in the whole region (`everywhere`)."""

    def __init__(self, prediction: Prediction, respond: Respond, everywhere: bool = False):
        kept, volume = prediction.embeddings, prediction.segmentation.labelmap
        assert kept is not None and kept.logits is not None and kept.image is not None
        self._respond, self._everywhere, self._grid = respond, everywhere, kept.grid
        self._crop = tuple(slice(a, b) for a, b in zip(kept.start, kept.stop, strict=True))
        self._values = np.array([0, *(label.value for label in prediction.segmentation.labels)], np.uint8)
        self._geometry = volume.geometry.crop(kept.start, kept.stop)
        self._working = kept.grid.geometry(self._geometry)
        self.mask: Labels = np.array(volume.array, np.uint8)
        self._image, self._embedding = kept.image.float().numpy(), kept.values
        number = np.zeros(256, np.uint8)
        number[self._values] = np.arange(len(self._values))
        classes = kept.grid.forward_labels(number[self.mask[self._crop]], len(self._values)).numpy()
        self._scores = kept.logits.float().numpy()
        own = np.arange(len(self._values))[:, None, None, None] == classes
        others = np.where(own, -np.inf, self._scores).max(axis=0)
        self._scores = np.where(own, np.maximum(self._scores, others + 0.1), self._scores).astype(np.float32)
        self._hard = np.full(kept.grid.size, _FREE, np.uint8)
        self._painted = np.full(self._geometry.shape, _FREE, np.uint8)

    def add(self, stroke: Stroke) -> None:
        c = int(np.flatnonzero(self._values == stroke.value)[0])
        voxels, fine = stroke.voxels(self._working), tuple(stroke.voxels(self._geometry).T)
        mask = self.mask[self._crop]
        if (mask[fine] == stroke.value).all():
            self._hard[tuple(voxels.T)] = self._painted[fine] = c
            return
        window = self._window(voxels)
        painted = np.zeros([w.stop - w.start for w in window], bool)
        painted[tuple((voxels - [w.start for w in window]).T)] = True
        marked = self._hard[window]
        hard = np.where(marked == _FREE, 0, np.where(marked == c, 1, -1)).astype(np.int8)
        hard[painted] = 0
        scores = self._scores[(slice(None), *window)]
        before = scores[c] - np.delete(scores, c, axis=0).max(axis=0)
        embedding = self._embedding[(slice(None), *window)].float().numpy()
        after = self._respond(before, self._image[window], embedding, painted, hard, self._grid.step_lengths)
        after = np.where(hard < 0, before, np.maximum(after, before)).astype(np.float32)
        after[painted] = np.maximum(after[painted], 5)
        scores[c] += after - before
        self._hard[tuple(voxels.T)] = c
        self._painted[fine] = c
        there, (old, new) = self._grid.back_part(np.stack([before, after]), window)
        free = (self._painted[there] == _FREE) | (self._painted[there] == c)
        mask[there][(new > 0) & (new > old) & free] = stroke.value
        mask[fine] = stroke.value

    def settle(self) -> None:
        pass

    def _window(self, voxels: npt.NDArray[np.int64]) -> tuple[slice, slice, slice]:
        size = np.asarray(self._grid.size)
        margin = size if self._everywhere else np.ceil(_REACH_MM / np.asarray(self._grid.step_lengths)).astype(int)
        low, high = np.maximum(voxels.min(axis=0) - margin, 0), np.minimum(voxels.max(axis=0) + 1 + margin, size)
        k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return k, j, i


def needed(log_odds: Scores, painted: Mask) -> np.float32:
    """What most of the stroke lacks to be of its class, and a little more."""
    return np.float32(min(_MOST, _MARGIN + max(0.0, -float(np.quantile(log_odds[painted], 0.1)))))


def connected(log_odds: Scores, raised: Scores, painted: Mask) -> Scores:
    """`raised`, but for what it turns apart from the stroke."""
    turned = (raised > 0) & (log_odds <= 0)
    parts, _ = ndimage.label(turned | painted, structure=np.ones((3, 3, 3)))
    apart = turned & ~np.isin(parts, np.unique(parts[painted]))
    return np.where(apart, log_odds, raised).astype(np.float32)


def near(
    log_odds: Scores, image: Scores, embedding: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps: Spacing
) -> Scores:
    distance = ndimage.distance_transform_edt(~painted, sampling=steps)
    raised = log_odds + needed(log_odds, painted) * np.exp(-0.5 * (distance / _NEAR_MM) ** 2)
    return connected(log_odds, raised, painted)


def geodesic(
    log_odds: Scores, image: Scores, embedding: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps: Spacing
) -> Scores:
    from skimage.graph import MCP_Geometric

    slopes = [np.gradient(image, step, axis=a) for a, step in enumerate(steps) if image.shape[a] > 1]
    cost = 1 + _MM_PER_STEP * np.sqrt(sum(slope**2 for slope in slopes))
    distance, _ = MCP_Geometric(cost, sampling=steps).find_costs(np.argwhere(painted))
    raised = log_odds + needed(log_odds, painted) * np.exp(-0.5 * (distance / _GEODESIC_MM) ** 2)
    return connected(log_odds, raised, painted)


def everywhere(
    log_odds: Scores, image: Scores, embedding: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps: Spacing
) -> Scores:
    lengths = np.maximum(np.sqrt((embedding**2).sum(axis=0)), 1e-6)
    unit = embedding / lengths
    prototype = unit[:, painted].mean(axis=1)
    cosine = np.tensordot(prototype / max(float(np.linalg.norm(prototype)), 1e-6), unit, axes=1)
    return log_odds + needed(log_odds, painted) * np.exp((cosine - 1) / np.float32(_LIKE))


def cut(
    log_odds: Scores, image: Scores, embedding: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps: Spacing
) -> Scores:
    """Intensities: a Gaussian of what was painted, another of the rest; the box's border belongs to the rest."""
    mine, others = painted | (hard > 0), (log_odds <= 0) & ~painted & (hard <= 0)
    centre = float(image[mine].mean())
    rest = image[others] if others.any() else image
    away, spread = float(rest.mean()), max(float(rest.std()), 0.2)
    like = 0.5 * ((image - away) / spread) ** 2 + np.log(spread)
    like = _SHARPNESS * (like - 0.5 * ((image - centre) / _WIDTH) ** 2 - np.log(_WIDTH))
    border = np.ones(image.shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in image.shape)] = False
    like[border | (hard < 0)] = -1000
    like[mine] = 1000
    source = _source_side(like, image, steps)
    return connected(log_odds, np.where(source, np.maximum(log_odds, 1), log_odds), painted)


def _source_side(like: Scores, image: Scores, steps: Spacing) -> Mask:
    """The cheapest cut: `like` is what a voxel gains on the source's side; edges are cheap to cut where image steps."""
    index = np.arange(like.size).reshape(like.shape)
    flat = image.reshape(-1)
    rows, columns, costs = [], [], []
    for axis, step in enumerate(steps):
        n = like.shape[axis]
        if n > 1:
            p, q = (np.take(index, r, axis=axis).reshape(-1) for r in (range(n - 1), range(1, n)))
            cost = _EDGES * min(steps) / step * np.exp(-0.5 * ((flat[p] - flat[q]) / _WIDTH) ** 2)
            rows += [p, q]
            columns += [q, p]
            costs += [cost, cost]
    gains = like.reshape(-1)
    source, sink = like.size, like.size + 1
    good, bad = np.flatnonzero(gains > 0), np.flatnonzero(gains <= 0)
    rows += [np.full(len(good), source), bad]
    columns += [good, np.full(len(bad), sink)]
    costs += [gains[good], -gains[bad]]
    capacities = np.rint(100 * np.concatenate(costs)).astype(np.int32)
    shape = (like.size + 2, like.size + 2)
    graph = coo_array((capacities, (np.concatenate(rows), np.concatenate(columns))), shape).tocsr()
    left = graph - maximum_flow(graph, source, sink).flow
    left.eliminate_zeros()
    side = np.zeros(like.size + 2, bool)
    side[breadth_first_order(left, source, return_predecessors=False)] = True
    return side[:-2].reshape(like.shape)


METHODS: dict[str, Callable[[Prediction], StrokeMethod]] = {
    "ours": Ours,
    "cut": lambda prediction: Simple(prediction, cut),
    "geodesic": lambda prediction: Simple(prediction, geodesic),
    "near": lambda prediction: Simple(prediction, near),
    "global": lambda prediction: Simple(prediction, everywhere, everywhere=True),
    "brush": Brush,
}
