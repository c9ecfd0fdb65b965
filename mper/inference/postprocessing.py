"""From what a network says on the working grid to the mask and its maps on the source grid.

Probabilities and similarities are interpolated to the source voxels, and decided there: the winning
class is the one of the largest interpolated probability, the nearest prototype the one of the
largest interpolated cosine among those of the voxel's final class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mper.dataloading.preprocessing import WorkingGrid
from mper.inference.confidence import soft_dice
from mper.nets.prototypes import Prototypes
from mper.roi import bounding_box

ROOM = 254  # prototypes that a uint8 map has numbers for; 0 is not computed, 255 unlabelled
_SLAB_VOXELS = 2**20  # of the cosine computation, which needs float32 copies of the embedding


@dataclass(frozen=True, eq=False)
class Decision:
    """The mask of a crop.

    Parameters
    ----------
    classes : (k, j, i) uint8 array
        The network's class of each voxel.
    probability : (k, j, i) float32 array
        Of that class.
    confidence : mapping of int to float
        Of each foreground class that was found, see `mper.inference.confidence`.
    expected : tuple of float
        The sum of each class's probability, background's first.
    dropped : int
        Voxels of small parts that became background.
    """

    classes: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    confidence: Mapping[int, float]
    expected: tuple[float, ...]
    dropped: int = 0


def decide(
    probabilities: torch.Tensor,
    grid: WorkingGrid,
    inside: npt.NDArray[np.bool_] | None = None,
    keep_largest: bool = False,
) -> Decision:
    """The mask on the source grid.

    Parameters
    ----------
    probabilities : (classes, *grid.size) float tensor
    grid : WorkingGrid
    inside : bool array of the source shape or None
        Voxels that may be foreground; the others get class 0 and probability 0.
    keep_largest : bool
        Keep the largest connected part (26 neighbours) of each class only; what is dropped becomes background,
        and its probability that of background.

    Returns
    -------
    Decision
    """
    allowed = None if inside is None else torch.from_numpy(inside).to(probabilities.device)
    expected = []  # sum of each class's probability
    best = background = classes = None
    for c in range(len(probabilities)):  # one class at a time: the source grid may be many times the working grid
        p = grid.back(probabilities[c : c + 1])[0]
        if allowed is not None:
            p = p * allowed
        expected.append(float(p.sum(dtype=torch.float64)))
        if best is None or classes is None:
            best, background, classes = p, p, torch.zeros_like(p, dtype=torch.uint8)
        else:
            classes = torch.where(p > best, torch.tensor(c, dtype=torch.uint8, device=p.device), classes)
            best = torch.maximum(best, p)
    assert best is not None and background is not None and classes is not None
    mask = np.ascontiguousarray(classes.cpu().numpy())
    probability = np.ascontiguousarray(best.cpu().numpy())
    dropped = np.zeros(0, dtype=bool)
    if keep_largest:
        dropped = drop_small_parts(mask, grid, len(probabilities))
        probability[dropped] = background.cpu().numpy()[dropped]
    confidence = {}
    for c in range(1, len(probabilities)):
        own = mask == c
        if count := int(np.count_nonzero(own)):
            confidence[c] = soft_dice(float(probability[own].sum(dtype=np.float64)), expected[c], count)
    return Decision(mask, probability, confidence, tuple(expected), int(np.count_nonzero(dropped)))


def drop_small_parts(mask: npt.NDArray[np.uint8], grid: WorkingGrid, classes: int) -> npt.NDArray[np.bool_]:
    """Set all but the largest connected part of each class to background, in place; returns what was dropped.

    Of equal parts the first along the working grid's axes stays, so that the choice follows the patient and
    not the order in which the array is stored.
    """
    dropped = np.zeros(mask.shape, dtype=bool)
    view, dropped_view = (np.flip(a.transpose(grid.axes), grid.flips) for a in (mask, dropped))
    for c in range(1, classes):
        window = bounding_box(view == c)
        if window is None:
            continue
        parts, count = ndimage.label(view[window] == c, structure=np.ones((3, 3, 3)))
        if count > 1:
            sizes = np.bincount(parts.reshape(-1))[1:]
            dropped_view[window] |= (parts > 0) & (parts != int(sizes.argmax()) + 1)
    mask[dropped] = 0
    return dropped


@torch.inference_mode()
def prototype_cosines(vectors: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Cosine of every working voxel to every prototype.

    `vectors` (classes, per_class, filters), `embedding` (filters, k, j, i) -> (classes, per_class, k, j, i) float16.
    """
    classes, per_class, dim = vectors.shape
    prototypes = Prototypes(classes, per_class, dim).to(embedding.device)
    prototypes.vectors.copy_(vectors)
    out = torch.empty((classes, per_class, *embedding.shape[1:]), dtype=torch.float16, device=embedding.device)
    step = max(1, _SLAB_VOXELS // (embedding.shape[2] * embedding.shape[3]))
    for a in range(0, embedding.shape[1], step):
        out[:, :, a : a + step] = prototypes.similarity(embedding[None, :, a : a + step])[0]
    return out


def check_room(classes: int, per_class: int) -> None:
    """Raise a ValueError if a uint8 map has no room for so many prototypes."""
    if classes * per_class > ROOM:
        raise ValueError(
            f"a prototype map has room for {ROOM} prototypes, this model has {classes} classes of {per_class}; "
            "leave the map out"
        )


def nearest_prototypes(
    cosines: torch.Tensor,
    grid: WorkingGrid,
    classes: npt.NDArray[np.uint8],
    inside: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """The nearest prototype of each voxel's own class, and the cosine to it.

    Parameters
    ----------
    cosines : (classes, per_class, *grid.size) tensor
    grid : WorkingGrid
    classes : uint8 array of the source shape
        The final class of each voxel.
    inside : bool array of the source shape or None
        Elsewhere both maps are 0, not computed.

    Returns
    -------
    map : uint8 array
        1 + class * per_class + k.
    similarity : float16 array
    """
    count, per_class = cosines.shape[:2]
    check_room(count, per_class)
    own = torch.from_numpy(classes).to(cosines.device)
    best = torch.full(own.shape, -2.0, device=cosines.device)
    index = torch.zeros_like(own)
    for c in range(count):
        member = own == c
        for k in range(per_class):
            cosine = grid.back(cosines[c, k][None].float())[0]
            nearer = member & (cosine > best)
            index = torch.where(
                nearer, torch.tensor(1 + c * per_class + k, dtype=torch.uint8, device=own.device), index
            )
            best = torch.where(nearer, cosine, best)
    similarity = best.half().cpu().numpy()
    nearest = index.cpu().numpy()
    if inside is not None:
        nearest[~inside] = 0
        similarity[~inside] = 0
    return np.ascontiguousarray(nearest), np.ascontiguousarray(similarity)
