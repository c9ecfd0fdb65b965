"""The effect of a stroke on the scores around it.

The input of a small network (`mper.nets.stroke_net`) is a box around the stroke: the scores, the image relative to the
intensity of the stroke, distances to the stroke, to the surface of the mask and to earlier strokes. Its output is the
probability of the stroke's class in each voxel. It is independent of class and model: the input is "the class of the
stroke" against "the rest", with lengths in units of the grid's middle step, so that the spacing may be unknown. Scores
are only raised, and only voxels connected to the stroke are turned. The embeddings of the segmentation network are not
used: they added next to nothing to the scores.

Training data and alternatives that were tried are described in ``Resources/Models/stroke-response/README.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mper.nets.stroke_net import StrokeNet
from mper.refinement.graph_cut import inside_at_edges
from mper.resources import models_dir
from mper.volume import Index3, Spacing

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Sides = Sequence[tuple[bool, bool]]  # of each axis, before and behind

FEATURES = 12
REACH = 16.0  # steps
# Log-odds that the network must be above; more for a stroke deep in what is not its class, where it goes too far
_CAUTION, _DEEP, _CAUTION_DEEP = 0.25, 7.0, 0.35
_BAND = 2  # voxels
_WIDER = 1.5  # times the reach, for a stroke that turns voxels up to the border of its box
_FADES = 4.0  # steps, over which such a stroke fades
_ROUND, _BLENDS = 16.0, 2.0  # steps: radius of its end at the border of the region, and over how many it fades there
_JUST = np.float32(0.1)  # log-odds of what is inside, but only just
_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def reach(steps_mm: Spacing, wide: bool = False) -> Index3:
    """Voxels along (k, j, i) beyond a stroke to which it can reach; `wide` is for one that the usual reach cuts off."""
    k, j, i = (int(np.ceil(REACH * (_WIDER if wide else 1) / step)) for step in _relative(steps_mm))
    return k, j, i


def is_cut_off(before: Scores, after: Scores, open_: Sides) -> bool:
    """Whether a stroke turns voxels near a border of its box beyond which there are more.

    Parameters
    ----------
    before, after : (k, j, i) float32
        The log-odds of its class.
    open_ : sequence of (bool, bool)
        Of each axis, whether there are voxels before and behind the box.
    """
    turned: Mask = (after > 0) & (before <= 0)
    for axis, (low, high) in enumerate(open_):
        along = np.asarray(turned.any(axis=tuple(a for a in range(3) if a != axis)))
        if (low and along[: _BAND + 1].any()) or (high and along[-_BAND - 1 :].any()):
            return True
    return False


def fading(painted: Mask, steps_mm: Spacing, middle_mm: float) -> Scores:
    """The share of the effect of a stroke of wide reach: 1 around it, 0 well before the border of its box.

    So its mask ends round, and not in the flat cut of the box.

    Parameters
    ----------
    painted : (k, j, i) bool
        The stroke.
    steps_mm : (float, float, float)
    middle_mm : float
        The middle step of the grid on which `reach` was taken.
    """
    distance = _distance(~painted, tuple(step / middle_mm for step in steps_mm))
    return np.clip((_WIDER * REACH - _BAND - distance) / _FADES, 0, 1).astype(np.float32)


def blending(painted: Mask, steps_mm: Spacing, middle_mm: float, ends: Sides) -> Scores:
    """The share of the effect of a stroke that turns voxels up to the border of the segmented region.

    Beyond that border only what is painted counts. So the mask ends round (a paraboloid) before the border, where the
    stroke itself does not lie, and not in a flat cut there.

    Parameters
    ----------
    painted, steps_mm, middle_mm
        As for `fading`.
    ends : sequence of (bool, bool)
        Of each axis, whether the region ends before and behind the box, while the scan goes on.
    """
    steps = tuple(step / middle_mm for step in steps_mm)
    border = np.full(painted.shape, np.inf, dtype=np.float32)  # distance to it
    for axis, (step, (low, high)) in enumerate(zip(steps, ends, strict=True)):
        n = painted.shape[axis]
        along = ((np.arange(n) + 0.5) * step).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        for there, distance in ((low, along), (high, np.flip(along, axis))):
            if there:
                border = np.minimum(border, distance)
    return np.clip((border - _distance(~painted, steps) ** 2 / (2 * _ROUND)) / _BLENDS, 0, 1).astype(np.float32)


def respond(
    log_odds: Scores,
    image: Scores,
    painted: Mask,
    hard: npt.NDArray[np.int8],
    steps_mm: Spacing,
) -> Scores:
    """The log-odds of the stroke's class after it.

    Parameters
    ----------
    log_odds : (k, j, i) float32
        Of the stroke's class against the best other, in a box around the stroke.
    image : (k, j, i) float32
        Intensities as the network sees them.
    painted : (k, j, i) bool
        The stroke; not empty.
    hard : (k, j, i) int8
        1 where earlier strokes painted this class, -1 where another.
    steps_mm : (float, float, float)

    Returns
    -------
    (k, j, i) float32
        Nowhere below `log_odds`; above 0 in the stroke; what changes sign is connected to the stroke.
    """
    seen = torch.from_numpy(features(log_odds, image, painted, hard, steps_mm))
    with torch.no_grad():
        likely = shipped_network()(seen[None])[0].numpy()
    return raised(log_odds, likely - caution(log_odds, painted, steps_mm), painted, hard)


def caution(log_odds: Scores, painted: Mask, steps_mm: Spacing) -> np.float32:
    """The margin that is subtracted from the network's log-odds."""
    depth = float(_distance(log_odds <= 0, _relative(steps_mm))[painted].max())
    return np.float32(_CAUTION + _CAUTION_DEEP * max(0.0, min(depth, 20.0) - _DEEP))


def settle(
    before: Scores,
    quick: Scores,
    image: Scores,
    painted: Mask,
    hard: npt.NDArray[np.int8],
    steps_mm: Spacing,
) -> Scores:
    """The log-odds after the clean-up at image edges; takes and gives what `respond` does, `quick` being its answer.

    Only the surface of what the stroke turned moves, by at most `_BAND` voxels, to edges of the image nearby.
    """
    turned = (quick > 0) & (before <= 0)
    band = ndimage.binary_dilation(turned, _TOUCHING, iterations=_BAND) & (before <= 0) & ~painted & (hard >= 0)
    inside = inside_at_edges(np.where(painted, np.float32(1), quick), band, image, steps_mm)
    decided = np.where(inside, np.maximum(quick, _JUST), np.minimum(quick, -_JUST))
    return raised(before, np.where(band, decided, quick).astype(np.float32), painted, hard)


def features(
    log_odds: Scores, image: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps_mm: Spacing
) -> npt.NDArray[np.float32]:
    """The input of the network for a box, (FEATURES, k, j, i), each about between -1.5 and 1.5."""
    steps = _relative(steps_mm)
    inside = log_odds > 0
    surface = np.clip(_distance(inside, steps) - _distance(~inside, steps), -20, 20)  # > 0 in the class
    depth = max(1.0, -float(surface[painted].min()))  # of the stroke in what is not yet its class
    distance = _distance(~painted, steps)
    lacked = float(np.quantile(log_odds[painted], 0.25))
    spread = float(image[distance < REACH].std()) + 1e-3
    near = distance < 10
    own, other = (_mean(image[near & side], image[painted]) for side in (inside, ~inside))
    like_own = ((image - other) ** 2 - (image - own) ** 2) / (2 * spread**2)
    whole = np.ones(log_odds.shape, dtype=np.float32)
    return np.stack(
        [
            np.tanh(log_odds / 3),
            np.clip((log_odds - lacked) / 4, -1.5, 1.5),
            np.clip(surface / 8, -1.5, 1.5),
            np.clip(surface / depth, -2, 2) / 2,
            np.exp(-(distance**2) / 32),
            np.minimum(distance / REACH, 1.5),
            np.clip((image - image[painted].mean()) / spread, -3, 3) / 2,
            np.clip(like_own, -3, 3) / 2,
            _nearness(hard < 0, steps),
            _nearness(hard > 0, steps),
            whole * (_unlike_slices(log_odds) / 2),
            whole * (np.log(depth) / 2),
        ]
    ).astype(np.float32)


def raised(log_odds: Scores, likely: Scores, painted: Mask, hard: npt.NDArray[np.int8]) -> Scores:
    """Scores raised to `likely`, where that turns voxels connected to the stroke, and next to these.

    Their neighbours are raised too, though not above 0, so that the new surface lies between voxels where the network
    puts it, and not half a step from the last one turned.
    """
    higher = np.maximum(log_odds, likely)
    higher[painted] = np.maximum(higher[painted], 1)
    higher[hard < 0] = log_odds[hard < 0]
    turned = (higher > 0) & (log_odds <= 0)
    parts, _ = ndimage.label(turned | painted, structure=_TOUCHING)
    connected = np.isin(parts, np.unique(parts[painted])) & (parts > 0)
    return np.where(ndimage.binary_dilation(connected, _TOUCHING), higher, log_odds).astype(np.float32)


def warm_up() -> None:
    """Load the network and run it once, so that the first stroke is answered as fast as others."""
    with torch.no_grad():
        shipped_network()(torch.zeros(1, FEATURES, 8, 8, 8))


@lru_cache(maxsize=1)
def shipped_network() -> StrokeNet:
    """The network with the weights that come with the program."""
    from safetensors.torch import load_file

    network = StrokeNet(FEATURES)
    weights = load_file(models_dir() / "stroke-response" / "weights.safetensors")
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network.eval()


def _relative(steps_mm: Spacing) -> tuple[float, ...]:
    """Steps in units of the middle one."""
    middle = sorted(steps_mm)[1]
    return tuple(step / middle for step in steps_mm)


def _distance(mask: Mask, steps: tuple[float, ...]) -> Scores:
    """From each voxel of the mask to the nearest outside it; large where there is none."""
    if mask.all():
        return np.full(mask.shape, 100, dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=steps), dtype=np.float32)


def _nearness(mask: Mask, steps: tuple[float, ...]) -> Scores:
    return np.exp(-_distance(~mask, steps) / 4)


def _mean(values: Scores, otherwise: Scores) -> np.float32:
    return np.float32(values.mean() if values.size else otherwise.mean())


def _unlike_slices(log_odds: Scores) -> float:
    """How much more scores differ from slice to slice than within a slice."""
    along = [
        float(np.abs(np.diff(log_odds, axis=axis)).mean()) if n > 1 else 1.0 for axis, n in enumerate(log_odds.shape)
    ]
    return float(np.clip(np.log(2 * along[0] / (along[1] + along[2] + 1e-3) + 0.1), -1, 3))
