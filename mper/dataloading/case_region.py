"""A case of a dataset inside its region, the box in which a person wants it to be used.

A training takes the scan as if it had been acquired in the region: it is cropped to it, without a margin, before the
working grid is planned. Patches cannot leave the region then, the network learns from nothing outside and no intensity
there counts; it sees what it sees when it drafts a mask in an ROI, which the predictor crops in the same way. A margin
would give the patches at the border real voxels instead of repeated ones, and intensities that are normalised over
other tissue than in the prediction. The localisation alone learns from the whole scan, in which it will have to find
the structure. On a scan that is oblique to the patient's axes the region is the smallest part of the voxel array that
contains the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mper.labels import BACKGROUND, UNLABELLED
from mper.roi import Box, Region, region_of_box
from mper.utils.coded import Coded, line_of
from mper.volume import Geometry, Volume


class Scan(Protocol):
    """A case, with or without a label."""

    @property
    def id(self) -> str: ...

    @property
    def geometry(self) -> Geometry: ...

    def image(self) -> Volume: ...

    def label(self) -> Volume | None: ...


class CaseInRegion:
    """A case whose scan and label are read in its region alone.

    Parameters
    ----------
    case : Scan
    region_mm : six numbers
        x0, x1, y0, y1, z0, z1 in LPS mm.

    Attributes
    ----------
    whole : Scan
        The case without its region, from which the localisation learns what a wide field of view looks like.
    """

    def __init__(self, case: Scan, region_mm: Box):
        self.whole, self.region_mm = case, region_mm

    @property
    def id(self) -> str:
        return self.whole.id

    @cached_property
    def region(self) -> Region:
        """Its voxels.

        Raises
        ------
        ValueError
            If it lies outside the scan.
        """
        try:
            return region_of_box(self.whole.geometry, self.region_mm)
        except ValueError as error:
            reason = line_of(error)
            raise ValueError(Coded(f"case {self.id}: {reason}", "case-note", case=self.id, note=reason)) from error

    @property
    def geometry(self) -> Geometry:
        return self.whole.geometry.crop(self.region.start, self.region.stop)

    def image(self) -> Volume:
        image = self.whole.image()
        return image.crop(self.region.start, self.region.stop)

    def label(self) -> Volume | None:
        label = self.whole.label()
        return None if label is None else label.crop(self.region.start, self.region.stop)

    def share_outside(self) -> float:
        """The share of the label's structures outside the region, 0 to 1; 0 without a label."""
        label = self.whole.label()
        return 0.0 if label is None else share_outside(np.asarray(label.array), self.region)


def in_region(case: Scan, regions: Mapping[str, Box]) -> Scan:
    """The case, in its region if it has one."""
    return CaseInRegion(case, regions[case.id]) if case.id in regions else case


def share_outside(mask: npt.NDArray[np.uint8], region: Region) -> float:
    """The share of the structures of a label that lies outside a region, 0 to 1; 0 where there are none."""
    drawn = (mask != BACKGROUND) & (mask != UNLABELLED)
    whole = int(np.count_nonzero(drawn))
    return 1 - int(np.count_nonzero(drawn[region.window])) / whole if whole else 0.0


def label_outside(case_id: str, share: float) -> Coded:
    """A line about a label of which a part lies outside the region of its case."""
    percent = "<1" if share < 0.005 else f"{100 * share:.0f}"
    line = (
        f"{percent.replace('<', 'less than ')} % of the label of {case_id} lies outside its region and is not learned "
        "from; enlarge the region, or clear it"
    )
    return Coded(line, "label-outside-region", case=case_id, percent=percent)
