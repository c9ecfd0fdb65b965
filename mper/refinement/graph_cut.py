"""A surface moved to the image's edges nearby: a minimum cut in a thin band (Boykov and Jolly, ICCV 2001).

What is decided is, for each voxel x of the band, whether it is in the class, so that

    sum_x cost of going against its log-odds + strength * sum_xy like(x, y) [x in, y out],

is least, where like(x, y) = exp(-(difference / usual difference)^2 / 2) / step for neighbours x, y: it costs little to
part two voxels of unlike intensity. The cut is SciPy's; libraries made for such cuts are under the GPL.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from mper.volume import Spacing

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_STRENGTH = 0.15
_UNITS = 100  # of an integer capacity; the cut is exact to that
_SURE = 4.0  # log-odds beyond this count no more


def inside_at_edges(log_odds: Scores, band: Mask, image: Scores, steps: Spacing) -> Mask:
    """Which voxels are inside: outside the band those above 0, in it those that the cheapest surface holds.

    Parameters
    ----------
    log_odds, image : (k, j, i) float32
    band : (k, j, i) bool
    steps : (float, float, float)
        Of the grid, in whatever unit: what counts is their ratio.
    """
    inside = log_odds > 0
    count = int(band.sum())
    if not count:
        return inside
    number = np.full(band.shape, -1)
    number[band] = np.arange(count)
    gain = np.clip(log_odds[band], -_SURE, _SURE).astype(np.float64)
    to_in, to_out = np.maximum(gain, 0), np.maximum(-gain, 0)
    pairs = []
    unlike = _usual_difference(image, band)
    for axis, step in enumerate(np.asarray(steps) / sorted(steps)[1]):
        first, second = (tuple(_cut(axis, part)) for part in (slice(None, -1), slice(1, None)))
        like = _STRENGTH / step * np.exp(-0.5 * ((image[first] - image[second]) / unlike) ** 2)
        a, b = number[first], number[second]
        both = (a >= 0) & (b >= 0)
        pairs.append((a[both], b[both], like[both]))
        for own, other, there in ((a, b, second), (b, a, first)):
            border = (own >= 0) & (other < 0)
            for costs, side in ((to_in, inside[there]), (to_out, ~inside[there])):
                np.add.at(costs, own[border & side], like[border & side])
    out = inside.copy()
    out[band] = _cheapest(to_in, to_out, *(np.concatenate(each) for each in zip(*pairs, strict=True)))
    return out


def _cut(axis: int, part: slice) -> list[slice]:
    return [part if a == axis else slice(None) for a in range(3)]


def _usual_difference(image: Scores, band: Mask) -> float:
    """Between neighbours in the band, along the last two axes; slices may lie far apart."""
    found = [np.diff(image, axis=axis)[band[tuple(_cut(axis, slice(1, None)))]] for axis in (1, 2)]
    both = np.concatenate(found)
    return float(both.std()) + 1e-3 if both.size else 1.0


def _cheapest(
    to_in: npt.NDArray[np.float64],
    to_out: npt.NDArray[np.float64],
    a: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
    like: npt.NDArray[np.float64],
) -> Mask:
    """Which nodes are on the inside of the minimum cut."""
    count = len(to_in)
    every, source, sink = np.arange(count), np.full(count, count), np.full(count, count + 1)
    rows = np.concatenate([a, b, source, every])
    columns = np.concatenate([b, a, every, sink])
    costs = np.rint(_UNITS * np.concatenate([like, like, to_in, to_out])).astype(np.int32)
    graph = coo_array((costs, (rows.astype(np.int32), columns.astype(np.int32))), (count + 2, count + 2)).tocsr()
    left = csr_array(graph - maximum_flow(graph, count, count + 1).flow)
    left.eliminate_zeros()
    inside = np.zeros(count + 2, dtype=bool)
    inside[breadth_first_order(left, count, return_predecessors=False)] = True
    return inside[:count]
