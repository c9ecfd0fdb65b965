"""What a mask measures: volume, surface and parts of each structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.labels import Segmentation
from mper.roi import bounding_box
from mper.volume import Spacing

_SMOOTHING_VOXELS = 1.0  # standard deviation; the steps of a voxel mask alone add a tenth to a sphere's surface


@dataclass(frozen=True)
class Measures:
    """Figures of one structure of a mask.

    Parameters
    ----------
    value, name : int, str
        Its label.
    voxels : int
    volume_ml, surface_mm2 : float or None
        None where the spacing is unknown.
    components : int
        Connected parts (26 neighbours).
    confidence : float or None
        In [0, 1], see `mper.inference.confidence`; None where it is unknown.
    """

    value: int
    name: str
    voxels: int
    volume_ml: float | None
    surface_mm2: float | None
    components: int
    confidence: float | None = None


def measure(segmentation: Segmentation, confidence: Mapping[int, float] | None = None) -> tuple[Measures, ...]:
    """Measure every structure of a mask, those without a voxel too.

    Parameters
    ----------
    segmentation : Segmentation
    confidence : mapping of int to float or None
        Of the structures, by label value, where a model segmented them.
    """
    array, spacing = segmentation.labelmap.array, segmentation.labelmap.geometry.spacing_mm
    voxel_ml = segmentation.labelmap.geometry.voxel_ml
    found = []
    for label in segmentation.labels:
        whole = array == label.value
        window = bounding_box(whole)
        if window is None:
            zero = None if spacing is None else 0.0
            found.append(Measures(label.value, label.name, 0, zero, zero, 0))
            continue
        mask = whole[window]
        voxels = int(np.count_nonzero(mask))
        found.append(
            Measures(
                label.value,
                label.name,
                voxels,
                None if voxel_ml is None else voxels * voxel_ml,
                None if spacing is None else surface_mm2(mask, spacing),
                int(ndimage.label(mask, structure=np.ones((3, 3, 3)))[1]),
                (confidence or {}).get(label.value),
            )
        )
    return tuple(found)


def surface_mm2(mask: npt.NDArray[np.bool_], spacing_mm: Spacing) -> float:
    """Area of the surface around a mask: marching cubes on the mask, smoothed over a voxel.

    A mask so thin that smoothing would dissolve a part of it is taken as it is. Source: Lorensen and Cline, 1987,
    in the version of Lewiner et al., 2003 (scikit-image).
    """
    from skimage.measure import marching_cubes, mesh_surface_area

    field = np.pad(mask, 4).astype(np.float32)
    smooth = ndimage.gaussian_filter(field, _SMOOTHING_VOXELS)
    lost = np.count_nonzero((smooth < 0.5) & (field > 0)) / np.count_nonzero(field)
    vertices, faces, _, _ = marching_cubes(smooth if lost < 0.1 else field, 0.5, spacing=spacing_mm)
    return float(mesh_surface_area(vertices, faces))
