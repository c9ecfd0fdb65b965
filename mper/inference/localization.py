"""Finding the structure in a scan that was not cropped around it.

The public left-atrium files are cut out around the atrium, and so are a model's training scans. A
clinical field of view is several times as wide. A small network looks at the whole of it at low
resolution; the box around what it finds, with the margin that the training scans have, is what
the real model is given. Which finder goes with which model says ``about["locator"]`` in the
model's card; the margin stands in the finder's own card, ``about["margin_mm"]`` along (k, j, i).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.inference.sliding_window import Runner
from mper.models.bundle import ModelBundle
from mper.roi import Region, bounding_box
from mper.volume import Geometry, Volume, as_index

FIELD_LIMIT_MM = 180.0  # in the axial plane; the public crops are up to 155 mm wide
DEFAULT_MARGIN_MM = (20.0, 20.0, 20.0)


def field_of_view_mm(geometry: Geometry) -> float | None:
    """How far the scan reaches along the patient's x or y, whichever is more; None where the spacing is unknown."""
    if not geometry.spacing_known:
        return None
    extent = np.abs(geometry.directions * np.asarray(geometry.extent_mm))  # [patient axis, array axis]
    return float(extent.max(axis=1)[:2].max())


class Localizer:
    """A small network that finds a structure in a wide field of view.

    Parameters
    ----------
    bundle : ModelBundle
        Of a 3-D network; all its labels together are the structure.
    device : torch.device
    dtype : torch.dtype
        Of autocast.
    """

    def __init__(self, bundle: ModelBundle, device: torch.device, dtype: torch.dtype):
        self.preprocessing = bundle.preprocessing
        self.margin_mm = tuple(float(m) for m in bundle.card.about.get("margin_mm", DEFAULT_MARGIN_MM))
        self.run = Runner(bundle.build(), device, dtype)

    def locate(self, scan: Volume) -> Region | None:
        """The part of the scan around the structure; None where nothing was found.

        Raises
        ------
        ValueError
            If the scan is constant.
        """
        grid = WorkingGrid.plan(scan.geometry, self.preprocessing, 3)
        image = normalise(grid.forward(scan.array), self.preprocessing)
        probability = 1 - self.run(image).logits.softmax(0)[0].cpu().numpy()
        parts, count = ndimage.label(probability > 0.5, structure=np.ones((3, 3, 3)))
        if not count:
            return None
        likely = int(ndimage.sum_labels(probability, parts, np.arange(1, count + 1)).argmax()) + 1
        window = bounding_box(parts == likely)
        assert window is not None
        return self._region(grid, window)

    def _region(self, grid: WorkingGrid, window: tuple[slice, ...]) -> Region:
        """A window of the working grid, with the margin, as a crop of the source."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for w, (axis, s) in enumerate(zip(grid.axes, window, strict=True)):
            margin = self.margin_mm[w] / grid.step_lengths[w]
            scale = grid.source_shape[axis] / grid.size[w]
            first = int(np.floor(max(0.0, s.start - margin) * scale))
            last = int(np.ceil(min(float(grid.size[w]), s.stop + margin) * scale))
            if w in grid.flips:
                first, last = grid.source_shape[axis] - last, grid.source_shape[axis] - first
            start[axis], stop[axis] = first, last
        return Region(as_index(start), as_index(stop))
