"""A scan in, a mask with its reasons out.

What is decided for the user (the region, an assumed spacing, tiles for want of memory, another
device) is done and told: in the prediction's notes and, at once, to the report.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mper import effort
from mper.bundle import ModelBundle
from mper.devices import autocast_dtype, describe_device, free_bytes, is_out_of_memory, pick_device, release_memory
from mper.effort import WHOLE, Estimate, Job, Way
from mper.inference import Runner, Scores, mirrored, tiled
from mper.labels import Segmentation
from mper.locate import FIELD_LIMIT_MM, Finder, field_of_view_mm
from mper.masks import Decision, check_room, decide, nearest_prototypes, prototype_cosines
from mper.preprocess import WorkingGrid, normalise
from mper.progress import Progress, Report, silent
from mper.roi import Box, Region, extent_of, region_of_box
from mper.volume import Index3, Volume

WANTED = ("confidence", "probabilities", "prototypes", "embeddings")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Voxel embeddings on the working grid of a crop.

    Parameters
    ----------
    values : (filters, *grid.size) float16 tensor on the CPU
        As the network gives them, not normalised.
    grid : WorkingGrid
        Of the crop: `grid.back` leads to its voxels.
    start, stop : (int, int, int)
        The crop ``array[start:stop]`` of the source.
    """

    values: torch.Tensor
    grid: WorkingGrid
    start: Index3
    stop: Index3


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a scan; every array lies on the scan's own grid.

    Parameters
    ----------
    segmentation : Segmentation
        uint8; background outside the region.
    confidence : float
        Of the case, in [0, 1]: soft Dice between probabilities and mask, see `mper.masks.decide`. Not calibrated:
        it ranks cases and is no percentage.
    notes : tuple of str
        Everything that was decided for the user, a sentence each.
    roi_mm : six numbers or None
        x0, x1, y0, y1, z0, z1 in LPS mm that the region reaches over; None for the whole scan.
    device, method, seconds : str, str, float
        Where it ran, "whole" or "tiles", and how long it took.
    confidence_map : Volume or None
        float16 probability of each voxel's own class, 0 outside the region. This and what follows only where asked for.
    probabilities : (classes, k, j, i) float16 array or None
        As the network gave them, before small parts were dropped; all 0 outside the region.
    prototype_map : Volume or None
        uint8: 1 + class * K + k for the nearest prototype k of the voxel's own class; 0 = not computed.
    similarity_map : Volume or None
        float16: the cosine to it.
    embeddings : Embeddings or None
    """

    segmentation: Segmentation
    confidence: float
    notes: tuple[str, ...]
    roi_mm: Box | None
    device: str
    method: str
    seconds: float
    confidence_map: Volume | None = None
    probabilities: npt.NDArray[np.float16] | None = None
    prototype_map: Volume | None = None
    similarity_map: Volume | None = None
    embeddings: Embeddings | None = None


class Predictor:
    """A model made ready to segment scans, one after the other.

    Parameters
    ----------
    bundle : ModelBundle
    device : {"auto", "cpu", "cuda", "mps"}
    finder : ModelBundle or None
        Finds the structure in fields of view over 180 mm; None takes the bundled one that the card names
        (``about["locator"]``), if it does.
    dtype : torch.dtype or None
        Number format of the network's convolutions; None takes the fastest of the device.
    free : callable
        Free bytes of a device; handed in so that a test can be short of memory.

    Raises
    ------
    ValueError
        If this machine has no such device.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        device: str = "auto",
        *,
        finder: ModelBundle | None = None,
        dtype: torch.dtype | None = None,
        free: effort.FreeBytes = free_bytes,
    ):
        self.bundle = bundle
        self.device = pick_device(device)
        self._dtype, self._free = dtype, free
        self._network = bundle.build()
        self._runners: dict[torch.device, Runner] = {}
        self._voxels_per_s: dict[torch.device, float] = {}
        self._finder_bundle, self._finder_missing = _find_finder(bundle) if finder is None else (finder, None)
        self._finder: Finder | None = None

    def estimate(
        self, scan: Volume, *, roi: Sequence[float] | None = None, tta: bool = False, want: Collection[str] = ()
    ) -> Estimate:
        """What `predict` with the same arguments is expected to cost, without running it."""
        telling = _Notes(silent)
        region = self._region(scan, roi, telling)
        grid = self._grid(scan.crop(region.start, region.stop), telling)
        job = self._job(grid, tta, want)
        fitting, notes = effort.affordable(job, effort.ways(self.device), self._free, self._dtype_on)
        way = fitting[0]
        seconds = effort.voxels_seen(job, way.method) / self._speed(way.device)
        needed = effort.bytes_needed(job, way, self._dtype_on(way.device))
        return Estimate(seconds, needed, way.method, describe_device(way.device), (*telling.notes, *notes))

    def predict(
        self,
        scan: Volume,
        *,
        roi: Sequence[float] | None = None,
        tta: bool = False,
        want: Collection[str] = (),
        report: Report = silent,
    ) -> Prediction:
        """Segment a scan.

        Parameters
        ----------
        scan : Volume
        roi : six numbers or None
            x0, x1, y0, y1, z0, z1 in LPS mm: only voxels whose centres lie inside are segmented. None: the whole
            scan, or what the finder finds in a wide field of view.
        tta : bool
            Average over mirrored versions, along the axes in which the model was trained with mirrored scans.
        want : collection of {"confidence", "probabilities", "prototypes", "embeddings"}
            Results beside the mask.
        report : Report

        Raises
        ------
        ValueError
            If the scan holds no image or voxels that are no numbers, the ROI holds no voxel of it, its spacing is
            unknown and the model cannot do without, or `want` names something unknown.
        Cancelled
            From the report.
        """
        started = time.perf_counter()
        self._check(scan, want)
        telling = _Notes(report)
        report(Progress("looking at the scan", 0.0))
        region = self._region(scan, roi, telling)
        crop = scan.crop(region.start, region.stop)
        grid = self._grid(crop, telling)
        image = normalise(grid.forward(crop.array), self.bundle.preprocessing)
        self._look_at_intensities(crop, image, telling)
        axes = self._mirror_axes(telling) if tta else ()
        fitting, notes = effort.affordable(
            self._job(grid, tta, want), effort.ways(self.device), self._free, self._dtype_on
        )
        for note in notes:
            telling(note)
        for n, way in enumerate(fitting):
            try:
                found = self._attempt(way, image, grid, region, axes, want, report)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or n == len(fitting) - 1:
                    raise
            release_memory(way.device)
            telling(
                f"memory ran out with {effort.describe_way(way)}; went on with {effort.describe_way(fitting[n + 1])}"
            )
        self._look_at_border(found.decision, region, scan, telling)
        report(Progress("done", 1.0))
        return self._prediction(scan, region, grid, found, want, telling.notes, way, time.perf_counter() - started)

    def _check(self, scan: Volume, want: Collection[str]) -> None:
        unknown = sorted(set(want) - set(WANTED))
        if unknown:
            raise ValueError(f"unknown results {', '.join(unknown)} wanted; known are {', '.join(WANTED)}")
        config = self.bundle.network
        if "prototypes" in want:
            check_room(config.classes, config.prototypes)
        from mper.io import check_scan  # needs numpy only

        check_scan(scan)

    def _region(self, scan: Volume, roi: Sequence[float] | None, telling: _Notes) -> Region:
        if roi is not None:
            region = region_of_box(scan.geometry, roi)
            for note in region.notes:
                telling(note)
            return region
        field = field_of_view_mm(scan.geometry)
        if field is None or field <= FIELD_LIMIT_MM or self.bundle.network.dimensions == 2:
            return Region.whole(scan.geometry)
        wide = f"the field of view is {field:.0f} mm wide"
        if self._finder_bundle is None:
            why = self._finder_missing or "this model has no finder"
            telling(f"{wide} and {why}, so the whole field was segmented; an ROI may do better")
            return Region.whole(scan.geometry)
        if self._finder is None:
            self._finder = Finder(self._finder_bundle, self.device, self._dtype_on(self.device))
        found = self._finder.find(scan)
        if found is None:
            telling(f"{wide} and the structure was not found in it, so the whole field was segmented; give an ROI")
            return Region.whole(scan.geometry)
        box = ",".join(f"{v:.0f}" for v in _extent(scan, found))
        telling(f"{wide}: the region was found automatically (LPS mm {box}); check it, or give an ROI")
        return found

    def _grid(self, crop: Volume, telling: _Notes) -> WorkingGrid:
        preprocessing = self.bundle.preprocessing
        grid = WorkingGrid.plan(crop.geometry, preprocessing, self.bundle.network.dimensions)
        if not crop.geometry.spacing_known and preprocessing.assumed_spacing_mm is not None:
            k, j, i = preprocessing.assumed_spacing_mm
            telling(
                f"the scan does not tell its voxel spacing; it was taken to be {k:g} x {j:g} x {i:g} mm (k, j, i) "
                "in the orientation of the training scans"
            )
        return grid

    def _look_at_intensities(self, crop: Volume, image: torch.Tensor, telling: _Notes) -> None:
        window = self.bundle.preprocessing.window
        if window is not None:
            low, high = np.percentile(np.asarray(crop.array, dtype=np.float32), (1, 99)).tolist()
            if high <= window[0] or low >= window[1] or high - low < 0.01 * (window[1] - window[0]):
                telling(
                    f"the intensities ({low:g} to {high:g}) are unlike the model's window of {window[0]:g} to "
                    f"{window[1]:g}; is the scan in Hounsfield units?"
                )
        usual = self.bundle.card.about.get("median_range")  # of the normalised training scans
        median = float(image.median())
        if usual is not None and not usual[0] <= median <= usual[1]:
            telling(
                f"the intensities are spread unlike those of the training scans (median {median:.2f} after normalising, "
                f"there {usual[0]:.2f} to {usual[1]:.2f}); look at the mask with care"
            )

    def _mirror_axes(self, telling: _Notes) -> tuple[int, ...]:
        axes = self.bundle.card.mirror_axes
        if not axes:
            telling("the model was trained without mirrored scans, so nothing was mirrored")
        return axes

    def _job(self, grid: WorkingGrid, tta: bool, want: Collection[str]) -> Job:
        config = self.bundle.network
        maps = ("confidence" in want) + config.classes * ("probabilities" in want) + 2 * ("prototypes" in want)
        passes = 2 ** len(self.bundle.card.mirror_axes) if tta else 1
        embed = bool({"prototypes", "embeddings"} & set(want))
        return Job(config, grid.size, self._tile, int(np.prod(grid.source_shape)), passes, embed, maps)

    @property
    def _tile(self) -> Index3:
        divisor = self.bundle.network.divisor
        k, j, i = (effort.round_up(n, divisor) for n in self.bundle.card.window)
        return (k if self.bundle.network.dimensions == 3 else 1), j, i

    def _dtype_on(self, device: torch.device) -> torch.dtype:
        return self._dtype or autocast_dtype(device)

    def _runner(self, device: torch.device) -> Runner:
        if device not in self._runners:
            self._runners[device] = Runner(self._network, device, self._dtype_on(device))
        return self._runners[device]

    def _speed(self, device: torch.device) -> float:
        """Voxels a second of the network, measured on a small block the first time."""
        if device not in self._voxels_per_s:
            block = torch.zeros((64, 64, 64) if self.bundle.network.dimensions == 3 else (4, 256, 256))
            run = self._runner(device)
            run(block)
            started = time.perf_counter()
            float(run(block).logits.sum())
            self._voxels_per_s[device] = block.numel() / (time.perf_counter() - started)
        return self._voxels_per_s[device]

    def _attempt(
        self,
        way: Way,
        image: torch.Tensor,
        grid: WorkingGrid,
        region: Region,
        axes: Sequence[int],
        want: Collection[str],
        report: Report,
    ) -> _Found:
        embed = bool({"prototypes", "embeddings"} & set(want))
        runner = self._runner(way.device)

        def once(tile: torch.Tensor) -> Scores:
            return runner(tile, embed)

        run = mirrored(once, axes) if axes else once
        report(Progress(f"segmenting on {describe_device(way.device)}", 0.1))
        if way.method == WHOLE:
            scores = run(image)
        else:
            scores = tiled(run, image, self._tile, self.bundle.network.classes, report)
        report(Progress("drawing the mask", 0.9))
        probabilities = scores.logits.softmax(0)
        decision = decide(probabilities, grid, region.inside, self.bundle.card.largest_component)
        found = _Found(decision)
        if "probabilities" in want:
            found.probabilities = np.stack([grid.back(p[None])[0].half().cpu().numpy() for p in probabilities])
            if region.inside is not None:
                found.probabilities *= region.inside
        if "prototypes" in want and self._network.prototypes.vectors.any():
            assert scores.embedding is not None
            cosines = prototype_cosines(self._network.prototypes.to(scores.embedding.device), scores.embedding)
            found.prototypes = nearest_prototypes(cosines, grid, decision.classes, region.inside)
        if "embeddings" in want:
            assert scores.embedding is not None
            found.embedding = scores.embedding.half().cpu()
        return found

    def _look_at_border(self, decision: Decision, region: Region, scan: Volume, telling: _Notes) -> None:
        axes = (1, 2) if self.bundle.network.dimensions == 2 else (0, 1, 2)
        for axis in axes:
            for end in (0, -1):
                if decision.classes.take(end, axis).any():
                    at_scan = region.start[axis] == 0 if end == 0 else region.stop[axis] == scan.array.shape[axis]
                    telling(
                        "the mask touches the border of the scan; the structure may reach beyond it"
                        if at_scan
                        else "the mask touches the border of the region; a larger ROI may show more of it"
                    )

    def _prediction(
        self,
        scan: Volume,
        region: Region,
        grid: WorkingGrid,
        found: _Found,
        want: Collection[str],
        notes: Sequence[str],
        way: Way,
        seconds: float,
    ) -> Prediction:
        def whole(crop: npt.NDArray[np.generic]) -> Volume:
            array = np.zeros(scan.array.shape, dtype=crop.dtype)
            array[region.window] = crop
            return scan.with_array(array)

        labels = self.bundle.card.labels
        values = np.array([0, *(label.value for label in labels)], dtype=np.uint8)
        probabilities = None
        if found.probabilities is not None:
            probabilities = np.zeros((len(values), *scan.array.shape), dtype=np.float16)
            probabilities[(slice(None), *region.window)] = found.probabilities
        return Prediction(
            segmentation=Segmentation(whole(values[found.decision.classes]), labels),
            confidence=found.decision.confidence,
            notes=tuple(notes),
            roi_mm=None if region.covers(scan.geometry) or not scan.geometry.spacing_known else _extent(scan, region),
            device=describe_device(way.device),
            method=way.method,
            seconds=seconds,
            confidence_map=whole(found.decision.probability.astype(np.float16)) if "confidence" in want else None,
            probabilities=probabilities,
            prototype_map=None if found.prototypes is None else whole(found.prototypes[0]),
            similarity_map=None if found.prototypes is None else whole(found.prototypes[1]),
            embeddings=None
            if found.embedding is None
            else Embeddings(found.embedding, grid, region.start, region.stop),
        )


@dataclass(eq=False)
class _Found:
    """Results on the grid of the crop."""

    decision: Decision
    probabilities: npt.NDArray[np.float16] | None = None
    prototypes: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]] | None = None
    embedding: torch.Tensor | None = None


class _Notes:
    """Collects each note once, and tells it at once."""

    def __init__(self, report: Report):
        self.notes: list[str] = []
        self._report = report

    def __call__(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self._report(Progress(note))


def _find_finder(bundle: ModelBundle) -> tuple[ModelBundle | None, str | None]:
    """The bundled finder that a card names, or why there is none."""
    name = bundle.card.about.get("locator")
    if not name:
        return None, None
    from mper.resources import models_dir

    try:
        return ModelBundle.load(models_dir() / str(name)), None
    except FileNotFoundError:
        return None, f"its finder {name!r} is not installed"


def _extent(scan: Volume, region: Region) -> Box:
    low, high = extent_of(scan.geometry.crop(region.start, region.stop))
    x0, y0, z0 = low.tolist()
    x1, y1, z1 = high.tolist()
    return x0, x1, y0, y1, z0, z1
