"""A memory bank of labelled voxels in the embedding, and the nearest of them for a voxel.

Everything is on the device without a host synchronisation: the bank has a fixed size, an empty place in it is a vector
of zeros, whose cosine to everything is 0, and only the best cosines are kept, not the whole table.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mper.labels import UNLABELLED
from mper.methods.mixing import spread
from mper.utils.devices import full_precision

BAND_VOXELS = 3  # half of the bank's voxels lie so close to a voxel of another class
_TABLE_ENTRIES = {"cpu": 2**19}  # cosines that are worked on at once: what fits into a CPU's cache ...
_LARGE_TABLE = 2**28  # ... and, elsewhere, a gigabyte


class Bank(nn.Module):
    """The newest labelled voxels of each class.

    Parameters
    ----------
    classes, size, dim : int
        Classes (background included), voxels of each, and channels.

    Attributes
    ----------
    vectors : (classes, size, dim) float32, of length 1; 0 where the place is empty
    case : (classes, size) int32, number of the labelled case that a voxel is from; -1 where the place is empty
    position : (classes, size, 3) float32, its (k, j, i) on that case's working grid
    written : (classes,) int64, voxels that have been put in since the start; the oldest go first
    """

    vectors: torch.Tensor
    case: torch.Tensor
    position: torch.Tensor
    written: torch.Tensor

    def __init__(self, classes: int, size: int, dim: int):
        super().__init__()
        if min(classes, size, dim) < 1:
            raise ValueError(f"a bank needs classes, places and channels, got {classes}, {size} and {dim}")
        self.register_buffer("vectors", torch.zeros(classes, size, dim))
        self.register_buffer("case", torch.full((classes, size), -1, dtype=torch.int32))
        self.register_buffer("position", torch.zeros(classes, size, 3))
        self.register_buffer("written", torch.zeros(classes, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Places a class."""
        return self.vectors.shape[1]

    def clear(self) -> None:
        """Empty all places."""
        self.vectors.zero_()
        self.case.fill_(-1)
        self.position.zero_()
        self.written.zero_()

    @torch.no_grad()
    def add(
        self,
        embedding: torch.Tensor,
        label: torch.Tensor,
        case: int,
        corner: np.ndarray,
        count: int,
        rng: np.random.Generator,
    ) -> None:
        """Add voxels of one labelled patch, up to `count` of each class, half of them close to another class.

        Parameters
        ----------
        embedding : (dim, *S) tensor
        label : (*S) int64 tensor
            255 is left out.
        case : int
        corner : (3,) array
            Where the patch's first voxel lies on the case's working grid.
        count : int
            At most `size`.
        rng : numpy Generator
            Chooses them.
        """
        if not 0 < count <= self.size:
            raise ValueError(f"between 1 and {self.size} voxels of each class can be added at once, got {count}")
        classes = self.vectors.shape[0]
        near = close_to_another(label, classes).flatten()
        # Random numbers of the host: the same voxels are chosen on a CPU and on a GPU.
        chance = torch.from_numpy(rng.random(label.numel(), dtype=np.float32)).to(label.device, non_blocking=True)
        rows = embedding.movedim(0, -1).flatten(0, -2)  # (N, dim)
        flat = label.flatten()
        for c in range(classes):
            members = flat == c
            quotas = ((members & near, count // 2), (members & ~near, count - count // 2))
            best = [
                torch.where(member, chance, -1.0).topk(min(quota, len(flat)), sorted=False) for member, quota in quotas
            ]
            drawn = torch.cat([f.indices for f in best])
            self._put(
                c,
                torch.cat([f.values for f in best]) >= 0,
                F.normalize(rows[drawn].float(), dim=1),
                case,
                _positions(drawn, label.shape, corner),
            )

    def _put(self, c: int, valid: torch.Tensor, vectors: torch.Tensor, case: int, position: torch.Tensor) -> None:
        """Replace the oldest by the valid ones; the others go to a place beyond the end that is cut off."""
        place = torch.where(valid, (self.written[c] + valid.cumsum(0) - 1) % self.size, self.size)
        cases = torch.full_like(place, case, dtype=torch.int32)
        for buffer, new in ((self.vectors, vectors), (self.case, cases), (self.position, position)):
            longer = torch.cat([buffer[c], torch.zeros_like(buffer[c, :1])])
            buffer[c] = longer.index_copy(0, place, new)[: self.size]
        self.written[c] += valid.sum()


def close_to_another(label: torch.Tensor, classes: int) -> torch.Tensor:
    """Voxels at most `BAND_VOXELS` away from a labelled voxel of another class: (*S) int64 -> bool."""
    known = label != UNLABELLED
    ends = torch.stack([torch.where(known, label, -1), torch.where(known, -label, -classes)])  # highest, -lowest near
    found = ends[None].float()
    for _ in range(BAND_VOXELS):
        found = spread(found)
    return known & (found[0, 0] != -found[0, 1])


@torch.no_grad()
def best_cosines(rows: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """The cosine of each voxel to the nearest voxel of each class in the bank.

    Parameters
    ----------
    rows : (N, dim) tensor
        Embeddings, of any length.
    bank : (classes, size, dim) tensor
        Of length 1, or 0 where there is none.

    Returns
    -------
    (N, classes) float32 tensor
        0 or more; the largest one tells the class of the nearest of all and how near it is.
    """
    classes, size, _ = bank.shape
    best = torch.empty(classes, len(rows), device=rows.device)
    with full_precision(rows.device):
        vectors = bank.float().flatten(0, 1)  # (classes * size, dim)
        step = max(1, _TABLE_ENTRIES.get(rows.device.type, _LARGE_TABLE) // (classes * size))
        for start in range(0, len(rows), step):
            some = F.normalize(rows[start : start + step].float(), dim=1)
            # Voxels along the last axis: the maximum over the bank is then taken of whole rows, the fastest way.
            table = (vectors @ some.T).unflatten(0, (classes, size))
            torch.amax(table, 1, out=best[:, start : start + step])
    return best.clamp_(min=0).T


@torch.no_grad()
def nearest_labels(rows: torch.Tensor, bank: torch.Tensor, least: float) -> torch.Tensor:
    """The class of the nearest voxel in the bank, 255 where none has a cosine of `least`: (N, dim) -> (N,) int64."""
    cosine, label = best_cosines(rows, bank).max(1)
    return torch.where(cosine >= least, label, UNLABELLED)


def _positions(index: torch.Tensor, shape: torch.Size, corner: np.ndarray) -> torch.Tensor:
    """Flat voxels of a patch (of a slice, too) -> their (k, j, i) on the working grid, (N, 3) float32."""
    found = torch.stack(torch.unravel_index(index, shape), dim=1).float()
    if len(shape) == 2:
        found = F.pad(found, (1, 0))
    return found + torch.as_tensor(corner, dtype=torch.float32).to(found.device, non_blocking=True)
