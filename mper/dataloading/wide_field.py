"""Wide fields of view: which scans have one, and the region around the structures in it.

The models of a structure see its region, not a whole clinical scan: in training the region around the labels, in
prediction the one that their localisation finds, or that a person gives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mper.roi import Region, bounding_box
from mper.volume import Geometry, as_index

FIELD_LIMIT_MM = 180.0  # in the axial plane; the public crops are up to 155 mm wide
TRAINING_MARGIN_MM = 30.0


def field_of_view_mm(geometry: Geometry) -> float | None:
    """Extent of the scan along the patient's x or y, the larger of both; None where the spacing is unknown."""
    if not geometry.spacing_known:
        return None
    extent = np.abs(geometry.directions * np.asarray(geometry.extent_mm))  # [patient axis, array axis]
    return float(extent.max(axis=1)[:2].max())


def is_wide(geometry: Geometry) -> bool:
    """Whether the structure has to be located in the scan first."""
    field = field_of_view_mm(geometry)
    return field is not None and field > FIELD_LIMIT_MM


def region_around(
    mask: npt.NDArray[np.bool_], geometry: Geometry, margin_mm: float = TRAINING_MARGIN_MM
) -> Region | None:
    """The region of a scan around a mask on its grid, with a margin on all sides; None if the mask is empty."""
    window = bounding_box(mask)
    if window is None:
        return None
    margins = [int(np.ceil(margin_mm / step)) for step in geometry.step_lengths]
    start = [max(0, part.start - margin) for part, margin in zip(window, margins, strict=True)]
    stop = [min(n, part.stop + margin) for part, margin, n in zip(window, margins, geometry.shape, strict=True)]
    return Region(as_index(start), as_index(stop))
