"""Locating the structure in a wide field of view.

The public left-atrium files, and so the training scans of a model, are cropped around the atrium; a clinical field of
view is several times as wide. A small network processes the whole scan at low resolution; the box around what it
segments, with the margin of the training scans, is the region that the model segments. The localizer of a model is
named in its card (``about["locator"]``), the margin in the card of the localizer (``about["margin_mm"]``, (k, j, i)).
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
    """Extent of the scan along the patient's x or y, the larger of both; None where the spacing is unknown."""
    if not geometry.spacing_known:
        return None
    extent = np.abs(geometry.directions * np.asarray(geometry.extent_mm))  # [patient axis, array axis]
    return float(extent.max(axis=1)[:2].max())


class Localizer:
    """A small network that locates a structure in a wide field of view.

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
        """The region of the scan around the structure; None where it was not found.

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
        """A window of the working grid, with the margin, as a region of the scan."""
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
