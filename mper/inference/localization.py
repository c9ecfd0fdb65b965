"""Locating the structure in a wide field of view.

The scans that a model was trained on are cropped around their structure; a clinical field of view is several times as
wide. A small network processes the whole scan at low resolution; the boxes around what it segments, with a margin, are
the candidates for the region that the model segments. The network comes with the model (`mper.models.localization`).
Older models name a bundle of its own in their card (``about["locator"]``), whose card has the margin
(``about["margin_mm"]``, (k, j, i)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid, normalise
from mper.inference.sliding_window import Runner, pad_edges
from mper.models.bundle import ModelBundle
from mper.models.localization import Localization
from mper.nets.localization_net import DIVISOR
from mper.roi import Region, bounding_box
from mper.volume import Index3, Volume, as_index

DEFAULT_MARGIN_MM = (20.0, 20.0, 20.0)
_CANDIDATES = 3
_LEVELS = (0.5, 0.2)  # of probability; the lower one where nothing reaches the other
_LEAST_ML = 3.0  # of a candidate beside the most likely one


@dataclass(frozen=True, eq=False)
class Search:
    """What the network sees in a whole scan.

    grid : WorkingGrid
        Of the scan at low resolution.
    probability : (k, j, i) float32 array
        On it, of the structure.
    """

    grid: WorkingGrid
    probability: npt.NDArray[np.float32]


ProbabilityOf = Callable[[torch.Tensor], npt.NDArray[np.float32]]


class Localizer:
    """A small network that locates a structure in a wide field of view.

    Parameters
    ----------
    source : Localization or ModelBundle
        The model's own, or the bundle of a 3-D network of which all labels together are the structure.
    device : torch.device
    dtype : torch.dtype
        Of autocast.
    """

    def __init__(self, source: Localization | ModelBundle, device: torch.device, dtype: torch.dtype):
        if isinstance(source, Localization):
            self.preprocessing = Preprocessing(source.spacing_mm)
            self.margin_mm: tuple[float, ...] = source.margin_mm
            self._probability = _of_network(source, device)
        else:
            self.preprocessing = source.preprocessing
            self.margin_mm = tuple(float(m) for m in source.card.about.get("margin_mm", DEFAULT_MARGIN_MM))
            self._probability = _of_bundle(source, device, dtype)

    def locate(self, scan: Volume) -> Region | None:
        """The most likely region of the scan around the structure; None where it was not found.

        Raises
        ------
        ValueError
            If the scan is constant.
        """
        return next(iter(self.candidates(self.search(scan))), None)

    def search(self, scan: Volume) -> Search:
        """Run the network on the whole scan.

        Raises
        ------
        ValueError
            If the scan is constant.
        """
        grid = WorkingGrid.plan(scan.geometry, self.preprocessing, 3)
        return Search(grid, self._probability(normalise(grid.forward(scan.array), self.preprocessing)))

    def candidates(self, search: Search) -> list[Region]:
        """The regions of the scan that the structure may lie in, the most likely first; empty where none was found."""
        grid, probability = search.grid, search.probability
        voxel_ml = float(np.prod(grid.step_lengths)) / 1000
        for level in _LEVELS:
            parts, count = ndimage.label(probability > level, structure=np.ones((3, 3, 3)))
            if not count:
                continue
            sums = ndimage.sum_labels(probability, parts, np.arange(1, count + 1))
            order = np.argsort(-sums, kind="stable")[:_CANDIDATES]
            windows = [bounding_box(parts == n + 1) for n in order if n == order[0] or sums[n] * voxel_ml >= _LEAST_ML]
            return [self._region(grid, window) for window in windows if window is not None]
        return []

    def _region(self, grid: WorkingGrid, window: tuple[slice, ...]) -> Region:
        """A window of the working grid, with the margin, as a region of the scan."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for w, (axis, s) in enumerate(zip(grid.axes, window, strict=True)):
            margin = self.margin_mm[w] / grid.step_lengths[w]
            first, last = _source_range(s.start - margin, s.stop + margin, grid.size[w], grid.source_shape[axis])
            if w in grid.flips:
                first, last = grid.source_shape[axis] - last, grid.source_shape[axis] - first
            start[axis], stop[axis] = first, last
        return Region(as_index(start), as_index(stop))


def _source_range(first: float, last: float, size: int, source: int) -> tuple[int, int]:
    """A range of voxels of a working axis of so many, on the scan's axis of `source` voxels; cut at its ends."""
    low, high = (round(min(max(end, 0.0), size) * source / size, 6) for end in (first, last))  # 58.000000001 is 58
    return math.floor(low), math.ceil(high)


def _of_bundle(bundle: ModelBundle, device: torch.device, dtype: torch.dtype) -> ProbabilityOf:
    run = Runner(bundle.build(), device, dtype)

    def probability(image: torch.Tensor) -> npt.NDArray[np.float32]:
        return np.asarray(1 - run(image).logits.softmax(0)[0].cpu().numpy())

    return probability


def _of_network(localization: Localization, device: torch.device) -> ProbabilityOf:
    network = localization.build().to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @torch.inference_mode()
    def probability(image: torch.Tensor) -> npt.NDArray[np.float32]:
        k, j, i = (-(-n // DIVISOR) * DIVISOR for n in image.shape)
        size: Index3 = (max(k, 2 * DIVISOR), max(j, 2 * DIVISOR), max(i, 2 * DIVISOR))  # instance norm needs voxels
        padded, inside = pad_edges(image.to(device), size)
        batch = padded[None, None].contiguous(memory_format=torch.channels_last_3d)
        return np.asarray(network(batch).float().softmax(1)[0, 1][inside].cpu().numpy())

    return probability
