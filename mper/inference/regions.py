"""Where in a scan a model looks: in the region that it is given, or in those that its localisation proposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from mper.dataloading.wide_field import field_of_view_mm, is_wide
from mper.inference.localization import Localizer, Search
from mper.inference.memory import is_worth_another, note_another
from mper.inference.plausibility import NoteCollector
from mper.models.bundle import ModelBundle
from mper.models.localization import Localization
from mper.roi import Box, Region, extent_of, region_of_box
from mper.utils.coded import Coded
from mper.utils.devices import autocast_dtype, release_memory
from mper.volume import Volume

_HALF_WIDTH_MM = 75.0  # of the box around a point, for a model that does not know the size of its structures
_DEVIATIONS = 3.0  # of a structure's voxels from its middle: veins reach so far
_ROOM_MM = 20.0
_CPU = torch.device("cpu")


class RegionFinder:
    """Proposes the regions of a scan that a model segments.

    Parameters
    ----------
    bundle : ModelBundle
    source : ModelBundle or None
        Localises instead of the model's own localisation, or of the bundled model that its card names.
    device : torch.device
    dtype : torch.dtype
        Of autocast.
    """

    def __init__(self, bundle: ModelBundle, source: ModelBundle | None, device: torch.device, dtype: torch.dtype):
        self._bundle, self._device, self._dtype = bundle, device, dtype
        self._source, self._missing = _localizer_of(bundle) if source is None else (source, "")
        self._localizer: Localizer | None = None

    def warm_up(self) -> None:
        """Build the network that localises."""
        if self._source is not None and self._localizer is None:
            self._localizer = Localizer(self._source, self._device, self._dtype)

    def use_cpu(self) -> None:
        """Localise on the CPU from now on."""
        self._device, self._dtype, self._localizer = _CPU, autocast_dtype(_CPU), None

    def search(self, scan: Volume, notes: NoteCollector) -> Search | None:
        """What the localisation sees in a scan; None where the model has none, or the scan does not tell its size."""
        if self._source is None or self._bundle.network.dimensions == 2 or not scan.geometry.spacing_known:
            return None
        device = self._device
        try:
            self.warm_up()
            assert self._localizer is not None
            return self._localizer.search(scan)
        except (RuntimeError, MemoryError) as error:
            if device.type == "cpu" or not is_worth_another(error):
                raise
            kind = type(error)
        self.use_cpu()
        release_memory(device)
        failed, instead = (
            Coded(f"the localisation on {each.type}", "localisation-on", device=each.type) for each in (device, _CPU)
        )
        notes(note_another(device, kind, failed, instead))
        return self.search(scan, notes)

    def propose(
        self,
        scan: Volume,
        roi: Sequence[float] | None,
        at: Sequence[float] | None,
        search: Search | None,
        notes: NoteCollector,
    ) -> list[Region]:
        """The regions to try, the most likely first; none where the structure was not found in a wide field of view.

        Parameters
        ----------
        scan : Volume
        roi : six numbers or None
            The region in LPS mm, given by a person.
        at : three numbers or None
            A point in the structure in LPS mm, given by a person.
        search : Search or None
        notes : NoteCollector

        Raises
        ------
        ValueError
            If the ROI or the box around the point holds no voxel of the scan, or both are given.
        """
        if roi is not None and at is not None:
            raise ValueError("an ROI and a point in the structure were given; give one of them")
        if at is not None:
            return [replace(region_of_box(scan.geometry, self.box_around(at, scan)), notes=())]
        if roi is not None:
            region = region_of_box(scan.geometry, roi)
            notes.extend(region.notes)
            return [region]
        if self._bundle.network.dimensions == 2 or not is_wide(scan.geometry):
            return [Region.whole(scan.geometry)]
        mm = f"{field_of_view_mm(scan.geometry):.0f}"
        wide = f"the field of view is {mm} mm wide"
        if search is None or self._source is None:
            line = f"{wide} and {self._missing}; the whole scan is segmented. Set an ROI for a better mask"
            notes(Coded(line, "wide-unlocated", mm=mm, reason=self._missing))
            return [Region.whole(scan.geometry)]
        self.warm_up()  # the search may be of another predictor of this model
        assert self._localizer is not None
        found = [region for region in self._localizer.candidates(search) if not _is_constant(scan, region)]
        if not found:
            line = f"{wide} and nothing in it looks like the structure; set an ROI if the scan does show it"
            notes(Coded(line, "nothing-located", mm=mm))
        return found

    def tell(self, scan: Volume, region: Region, notes: NoteCollector) -> None:
        """Note which of the proposed regions was taken."""
        box = ",".join(str(round(v)) for v in region.box_mm(scan.geometry))
        mm = f"{field_of_view_mm(scan.geometry):.0f}"
        line = f"the field of view is {mm} mm wide: the region {box} (LPS mm) was located automatically; check it, "
        notes(Coded(f"{line}or set an ROI", "located", mm=mm, box=box))

    def box_around(self, point: Sequence[float], scan: Volume) -> Box:
        """A box in LPS mm around a point in the structure that holds all of it.

        Raises
        ------
        ValueError
            If the point is not three finite numbers, or lies outside the scan.
        """
        words = ",".join(f"{value:g}" for value in point)
        if len(point) != 3 or not all(math.isfinite(value) for value in point):
            raise ValueError(f"a point is x,y,z in LPS mm, got {words}")
        low, high = extent_of(scan.geometry)
        if scan.geometry.spacing_known and not all(a <= v <= b for a, v, b in zip(low, point, high, strict=True)):
            extent = ", ".join(f"{name} {a:.0f} to {b:.0f}" for name, a, b in zip("xyz", low, high, strict=True))
            line = f"the point {words} lies outside the scan, whose extent is {extent} (LPS mm); choose one inside it"
            raise ValueError(Coded(line, "point-outside", point=words, extent=extent))
        x, y, z = point
        dx, dy, dz = (self._half_width(axis) for axis in "ijk")
        return x - dx, x + dx, y - dy, y + dy, z - dz, z + dz

    def _half_width(self, axis: str) -> float:
        """In mm, from the spread of the training labels along an axis of the patient."""
        calibration = self._bundle.calibration
        usual = {} if calibration is None else calibration.usual
        spread = [
            math.exp(mean + deviation)
            for name, (mean, deviation) in usual.items()
            if name.endswith(f".deviation_{axis}")
        ]
        return _DEVIATIONS * max(spread) + _ROOM_MM if spread else _HALF_WIDTH_MM


def _is_constant(scan: Volume, region: Region) -> bool:
    part = scan.array[region.window]
    return bool(part.min() == part.max())


def _localizer_of(bundle: ModelBundle) -> tuple[Localization | ModelBundle | None, str]:
    """The localisation of a model, or the bundled one that its card names, or why there is none."""
    if bundle.localization is not None:
        return bundle.localization, ""
    name = bundle.card.about.get("locator")
    if not name:
        return None, Coded("this model has no localizer", "no-localizer")
    from mper.resources import models_dir

    try:
        return ModelBundle.load(models_dir() / str(name)), ""
    except FileNotFoundError:
        return None, Coded(f"its localizer {name!r} is not installed", "localizer-missing", name=str(name))
