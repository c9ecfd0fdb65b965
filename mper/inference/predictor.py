"""Prediction: from a scan and a model to a mask, with confidence, prototypes and embeddings.

Decisions that are made automatically (the region, an assumed spacing, tiles where memory is short, another device) are
reported at once, and stand in the notes of the prediction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.dataloading.wide_field import is_wide
from mper.inference import evidence, memory
from mper.inference.confidence import case_confidence
from mper.inference.localization import Search
from mper.inference.memory import WHOLE, Strategy, Workload
from mper.inference.plausibility import (
    QUALITY,
    NoteCollector,
    check_border,
    check_intensities,
    check_volumes,
    neighbour_correlation,
    usual_percentiles,
)
from mper.inference.postprocessing import Decision, check_room, decide, nearest_prototypes, prototype_cosines
from mper.inference.prediction import Embeddings, Prediction, QualityFlag
from mper.inference.regions import RegionFinder
from mper.inference.sliding_window import Runner, Scores, mirrored, tiled
from mper.labels import Segmentation
from mper.models.bundle import ModelBundle
from mper.models.calibration import GOOD, Calibration, Quality
from mper.progress import Progress, Report, ignore_progress
from mper.provenance import Provenance
from mper.roi import Region
from mper.utils.coded import Coded
from mper.utils.devices import (
    autocast_dtype,
    describe_device,
    free_bytes,
    pick_device,
    release_memory,
)
from mper.volume import Index3, Volume

WANTED = ("label_probability", "probabilities", "prototypes", "embeddings")
_CPU = torch.device("cpu")
_ROUNDING = 0.05  # by which the logits of a GPU may differ from the CPU's, as a share of their norm
_SCORED, _DRAWN = 0.1, 0.9  # shares of the work that are done when the network starts and ends


class Predictor:
    """A model that is ready to segment scans, one after the other.

    Parameters
    ----------
    bundle : ModelBundle
    device : {"auto", "cpu", "cuda", "mps"}
    localizer : ModelBundle or None
        Model that locates the structure in fields of view over 180 mm; None takes the model's own localisation, or the
        bundled one that its card names (``about["locator"]``).
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
        localizer: ModelBundle | None = None,
        dtype: torch.dtype | None = None,
        free: memory.FreeBytes = free_bytes,
    ):
        self.bundle = bundle
        self.device = pick_device(device)
        self._config, self._preprocessing = bundle.network, bundle.preprocessing
        self._dtype, self._free = dtype, free
        self._network = bundle.build()
        self._runners: dict[torch.device, Runner] = {}
        self._voxels_per_s: dict[torch.device, float] = {}
        self._block = (32, 64, 64) if self._config.dimensions == 3 else (2, 256, 256)  # on which devices are tried
        self._agrees: bool | None = None  # an Apple GPU with the CPU, once it is known
        self._finder = RegionFinder(bundle, localizer, self.device, self._dtype_on(self.device))

    def predict(
        self,
        scan: Volume,
        *,
        roi: Sequence[float] | None = None,
        at: Sequence[float] | None = None,
        tta: bool = False,
        want: Collection[str] = (),
        search: Search | None = None,
        report: Report = ignore_progress,
    ) -> Prediction:
        """Segment a scan.

        In a wide field of view the localisation proposes regions; where the mask of the most likely one is empty or not
        good, the others are tried, and the mask with the highest expected Dice is taken.

        Parameters
        ----------
        scan : Volume
        roi : six numbers or None
            x0, x1, y0, y1, z0, z1 in LPS mm: only voxels whose centres lie inside are segmented. None: the whole
            scan, or the region that the localizer finds in a wide field of view.
        at : three numbers or None
            Instead of an ROI a point x, y, z in the structure, in LPS mm: a box around it is segmented that is large
            enough for the structures of the training scans.
        tta : bool
            Average over mirrored versions, along the axes in which the model was trained with mirrored scans.
        want : collection of {"label_probability", "probabilities", "prototypes", "embeddings"}
            Results besides the mask.
        search : Search or None
            That of an earlier prediction of this scan by this model: the localisation does not run again.
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
        notes = NoteCollector(report)
        report(Progress("checking the scan", 0.0))
        self._compare_with_cpu()
        if self._agrees is False:
            notes(Coded("the Apple GPU computes this network wrongly; it ran on the CPU instead", "gpu-is-wrong"))
        given = roi is not None or at is not None
        search = search or self._search(scan, given, notes)
        regions = self._finder.propose(scan, roi, at, search, notes)
        best: _Result | None = None
        for region in regions:
            found = self._segment(scan, region, search, tta, want, notes, report)
            if best is None or found.rank > best.rank:
                best = found
            if not found.is_empty and (found.quality is None or found.quality.level == GOOD):
                break
        if best is None:
            prediction = self._nothing(scan, want)
            notes.flag(check_volumes(np.zeros(1, np.uint8), self.bundle.card.labels, scan.geometry, self.bundle.card))
        else:
            if not given and search is not None and is_wide(scan.geometry):
                self._finder.tell(scan, best.region, notes)
            self._flag(scan, best, notes)
            prediction = self._prediction(scan, best, want)
        if "prototypes" in want and prediction.prototype_map is None:
            notes(Coded("the model has no prototypes; there is no prototype map", "no-prototypes"))
        report(Progress("done", 1.0))
        return replace(
            prediction,
            notes=tuple(notes.lines),
            flags=tuple(notes.flags),
            search=search,
            seconds=time.perf_counter() - started,
        )

    def _segment(
        self,
        scan: Volume,
        region: Region,
        search: Search | None,
        tta: bool,
        want: Collection[str],
        notes: NoteCollector,
        report: Report,
    ) -> _Result:
        """Segment one region of a scan, with the first strategy that the machine can afford."""
        crop = scan.crop(region.start, region.stop)
        grid = self._grid(crop, notes)
        image = normalise(grid.forward(crop.array), self._preprocessing)
        workload = self._workload(grid, tta, want)
        if tta and workload.passes == 1:
            notes(
                Coded("the model was trained without mirrored scans; no mirrored copies are averaged", "not-mirrored")
            )
        strategies = self._strategies(workload, notes)
        for strategy, next_strategy in zip(strategies, [*strategies[1:], None], strict=True):
            try:
                found = self._attempt(strategy, workload, image, grid, region, want, report)
                break
            except (RuntimeError, MemoryError) as error:
                if next_strategy is None or not memory.is_worth_another(error):
                    raise
                kind = type(error)
            # Here the error, and with it what the failed attempt held, is gone.
            release_memory(strategy.device)
            failed, instead = (memory.describe_strategy(each) for each in (strategy, next_strategy))
            notes(memory.note_another(strategy.device, kind, failed, instead))
        card = self.bundle.card
        correlation, percentiles = neighbour_correlation(crop.array), usual_percentiles(image, card)
        found.flags = check_intensities(crop, correlation, percentiles, card)
        found.device, found.method = describe_device(strategy.device), strategy.method
        calibration = self.bundle.calibration
        if calibration is None or found.is_empty:
            found.evidence = {}  # of an empty mask nothing can be said
        else:
            found.evidence |= evidence.of_image(percentiles, correlation, card)
            found.evidence |= self._evidence(scan, found, search, calibration)
            found.quality = calibration.quality(found.evidence)
        return found

    def _evidence(
        self, scan: Volume, found: _Result, search: Search | None, calibration: Calibration
    ) -> dict[str, float]:
        """What the mask says of how good it is."""
        classes, count, dimensions = found.decision.classes, len(self.bundle.card.labels), self._config.dimensions
        return {
            **evidence.of_confidence(found.decision.confidence, count),
            **evidence.of_mask(classes, found.grid, dimensions, count, calibration),
            **evidence.of_region(classes, found.region, found.decision.dropped, self._closed_axes(found.grid)),
            **({} if search is None else evidence.of_localization(search, classes, found.region, scan)),
        }

    def _flag(self, scan: Volume, found: _Result, notes: NoteCollector) -> None:
        """Flag what a person should check, the expected quality first."""
        if found.quality is not None and found.quality.level != GOOD:
            notes.flag([QualityFlag(QUALITY, found.quality.words)])
        classes, card = found.decision.classes, self.bundle.card
        notes.flag(found.flags)
        notes.flag(check_border(classes, found.region, scan.geometry, self._closed_axes(found.grid)))
        notes.flag(check_volumes(classes, card.labels, scan.geometry, card))

    def _closed_axes(self, grid: WorkingGrid) -> tuple[int, ...]:
        """Array axes along which a mask should end within its region; a stack of slices may end in the structure."""
        return grid.axes[1:] if self._config.dimensions == 2 else grid.axes

    def _search(self, scan: Volume, given: bool, notes: NoteCollector) -> Search | None:
        """What the localisation sees, where a region is wanted or the mask is compared with it."""
        calibration = self.bundle.calibration
        compared = calibration is not None and (not calibration.terms or "localization_agreement" in calibration.terms)
        return self._finder.search(scan, notes) if compared or (is_wide(scan.geometry) and not given) else None

    def _nothing(self, scan: Volume, want: Collection[str]) -> Prediction:
        """The prediction for a scan in which the localisation found nothing: an empty mask, and nothing computed."""
        labels, shape, made = self.bundle.card.labels, scan.geometry.shape, self._provenance(None)
        mapped = "prototypes" in want and bool(self._network.prototypes.vectors.any())

        def empty(dtype: npt.DTypeLike) -> Volume:
            return scan.with_array(np.zeros(shape, dtype))

        return Prediction(
            Segmentation(empty(np.uint8), labels, {label.value: made for label in labels}),
            confidence=0.0,
            device=describe_device(self.device),
            label_probability=empty(np.float16) if "label_probability" in want else None,
            probabilities=np.zeros((len(labels) + 1, *shape), np.float16) if "probabilities" in want else None,
            prototype_map=empty(np.uint8) if mapped else None,
            similarity_map=empty(np.float16) if mapped else None,
        )

    def _provenance(self, quality: Quality | None) -> Provenance:
        """How a mask of such quality was made."""
        card, short = self.bundle.card, "" if quality is None else quality.short
        return Provenance.of_model(card.name, card.version, self.bundle.sha256, short)

    def warm_up(self) -> None:
        """Prepare for the first scan: move to the device, choose kernels, measure the speed."""
        self._compare_with_cpu()
        try:
            self._measure(self.device)
        except (RuntimeError, MemoryError) as error:  # the first scan takes another way then, and tells
            if not memory.is_worth_another(error):
                raise
        self._finder.warm_up()

    def _compare_with_cpu(self) -> None:
        """Go on with the CPU where an Apple GPU differs from it, as it does in some 3-D convolutions, without an error.

        See https://github.com/pytorch/pytorch/issues/197114. An operation that it lacks is met by `_segment`.
        """
        if self.device.type != "mps" or self._agrees is not None:
            return
        block = torch.randn(self._block, generator=torch.Generator().manual_seed(0))
        try:
            found = self._runner(self.device)(block).logits.cpu()
        except (RuntimeError, MemoryError) as error:
            if not memory.is_worth_another(error):
                raise
            return
        expected = self._runner(_CPU)(block).logits
        self._agrees = bool((found - expected).norm() <= _ROUNDING * expected.norm())  # of NaN: False
        if not self._agrees:
            del self._runners[self.device]
            self.device = _CPU
            self._finder.use_cpu()

    def _check(self, scan: Volume, want: Collection[str]) -> None:
        from mper.io import check_scan  # needs numpy only

        unknown = sorted(set(want) - set(WANTED))
        if unknown:
            raise ValueError(f"unknown results {', '.join(unknown)} wanted; known are {', '.join(WANTED)}")
        if "prototypes" in want:
            check_room(self._config.classes, self._config.prototypes)
        check_scan(scan)

    def _grid(self, crop: Volume, notes: NoteCollector) -> WorkingGrid:
        grid = WorkingGrid.plan(crop.geometry, self._preprocessing, self._config.dimensions)
        assumed = self._preprocessing.assumed_spacing_mm
        if not crop.geometry.spacing_known and assumed is not None:
            spacing = " x ".join(f"{s:g}" for s in assumed)
            notes(
                Coded(
                    "the scan has no voxel spacing; the spacing and orientation of the training scans are assumed: "
                    f"{spacing} mm (k, j, i)",
                    "spacing-assumed",
                    spacing=spacing,
                )
            )
        return grid

    def _workload(self, grid: WorkingGrid, tta: bool, want: Collection[str]) -> Workload:
        config, card = self._config, self.bundle.card
        k, j, i = (memory.round_up(n, config.divisor) for n in card.window)
        return Workload(
            config,
            working=grid.size,
            tile=(k if config.dimensions == 3 else 1, j, i),
            source_voxels=int(np.prod(grid.source_shape)),
            mirrored=card.mirror_axes if tta or card.always_mirrored else (),
            embed=bool({"prototypes", "embeddings"} & set(want)) or self.bundle.calibration is not None,
            maps=("label_probability" in want)
            + config.classes * ("probabilities" in want)
            + 2 * ("prototypes" in want),
        )

    def _strategies(self, workload: Workload, notes: NoteCollector) -> list[Strategy]:
        fitting, lines = memory.affordable_strategies(
            workload, memory.strategies(self.device), self._free, self._dtype_on
        )
        notes.extend(lines)
        return fitting

    def _dtype_on(self, device: torch.device) -> torch.dtype:
        return self._dtype or autocast_dtype(device)

    def _runner(self, device: torch.device) -> Runner:
        if device not in self._runners:
            self._runners[device] = Runner(self._network, device, self._dtype_on(device))
        return self._runners[device]

    def _seconds(self, workload: Workload, strategy: Strategy) -> float:
        """Expected time of the network."""
        return memory.voxels_seen(workload, strategy.method) / self._measure(strategy.device)

    def _measure(self, device: torch.device) -> float:
        """Voxels a second of the network, from a small block, once a device."""
        if device not in self._voxels_per_s:
            block = torch.zeros(self._block)
            run = self._runner(device)
            run(block)
            started = time.perf_counter()
            float(run(block).logits.sum())  # waits for the device
            self._voxels_per_s[device] = block.numel() / (time.perf_counter() - started)
        return self._voxels_per_s[device]

    def _attempt(
        self,
        strategy: Strategy,
        workload: Workload,
        image: torch.Tensor,
        grid: WorkingGrid,
        region: Region,
        want: Collection[str],
        report: Report,
    ) -> _Result:
        """Run the network and make the mask with one strategy: everything that needs much memory."""
        seconds = self._seconds(workload, strategy)
        report(Progress(f"segmenting on {describe_device(strategy.device)}", _SCORED, seconds))
        runner = self._runner(strategy.device)

        steps: Index3 = (1, 1, 1)
        if strategy.method == WHOLE and not {"prototypes", "embeddings"} & set(want):
            steps = evidence.steps_of(image.shape)  # that is all that the embedding is for

        def once(part: torch.Tensor) -> Scores:
            return runner(part, steps if workload.embed else None)

        def between(beat: Progress) -> None:
            done = beat.fraction or 0.0
            report(Progress(beat.message, _SCORED + (_DRAWN - _SCORED) * done, seconds * (1 - done)))

        run = mirrored(once, workload.mirrored)
        scores = (
            run(image)
            if strategy.method == WHOLE
            else tiled(run, image, workload.tile, workload.config.classes, between)
        )
        report(Progress("making the mask", _DRAWN))
        if strategy.device.type == "mps":  # no float64, and no 3-D interpolation before torch 2.8
            scores = Scores(*(None if s is None else s.cpu() for s in scores))  # type: ignore[arg-type]
        probabilities = scores.logits.softmax(0)
        decision = decide(probabilities, grid, region.inside, self.bundle.card.largest_component)
        found = _Result(region, grid, decision)
        if self.bundle.calibration is not None and scores.embedding is not None:
            found.evidence = self._network_evidence(probabilities, scores.embedding)
        if "probabilities" in want:
            there = [grid.back(p[None])[0].half().cpu().numpy() for p in probabilities]
            found.probabilities = np.stack(there) if region.inside is None else np.stack(there) * region.inside
        if scores.embedding is not None:
            if "prototypes" in want and self._network.prototypes.vectors.any():
                cosines = prototype_cosines(self._network.prototypes.vectors, scores.embedding)
                found.nearest, found.similarity = nearest_prototypes(cosines, grid, decision.classes, region.inside)
            if "embeddings" in want:
                found.embedding = scores.embedding.half().cpu()
                found.image, found.logits = image.half().cpu(), scores.logits.half().cpu()
        return found

    def _network_evidence(self, probabilities: torch.Tensor, embedding: torch.Tensor) -> dict[str, float]:
        """What the network's output says of how good the mask is; the embedding may be at those voxels alone."""
        every = (slice(None), *(slice(None, None, step) for step in evidence.steps_of(probabilities.shape[1:])))
        thin = embedding[every] if embedding.shape[1:] == probabilities.shape[1:] else embedding
        vectors = self._network.prototypes.vectors.to(probabilities.device)
        return evidence.of_network(probabilities[every], thin, vectors)

    def _prediction(self, scan: Volume, found: _Result, want: Collection[str]) -> Prediction:
        """Results of a region, put where it lies in the scan."""
        region = found.region

        def whole(crop: npt.NDArray[np.generic] | None) -> Volume | None:
            return None if crop is None else scan.with_array(region.spread(crop, scan.geometry))

        probability = found.decision.probability.astype(np.float16) if "label_probability" in want else None
        labels = self.bundle.card.labels
        values = np.array([0, *(label.value for label in labels)], dtype=np.uint8)
        mask = region.spread(values[found.decision.classes], scan.geometry)
        made = self._provenance(found.quality)
        return Prediction(
            segmentation=Segmentation(scan.with_array(mask), labels, {label.value: made for label in labels}),
            confidence=case_confidence(found.decision.confidence),
            structure_confidence={int(values[c]): each for c, each in found.decision.confidence.items()},
            expected_voxels={int(values[c]): found.decision.expected[c] for c in range(1, len(values))},
            quality=found.quality,
            evidence=found.evidence,
            device=found.device,
            method=found.method,
            roi_mm=None if region.covers(scan.geometry) else region.box_mm(scan.geometry),
            label_probability=whole(probability),
            probabilities=None if found.probabilities is None else region.spread(found.probabilities, scan.geometry),
            prototype_map=whole(found.nearest),
            similarity_map=whole(found.similarity),
            embeddings=None
            if found.embedding is None
            else Embeddings(found.embedding, found.grid, region.start, region.stop, found.image, found.logits),
        )


@dataclass(eq=False)
class _Result:
    """Results on the grid of a region."""

    region: Region
    grid: WorkingGrid
    decision: Decision
    evidence: dict[str, float] = field(default_factory=dict)
    quality: Quality | None = None
    flags: Sequence[QualityFlag] = ()
    device: str = ""
    method: str = ""
    probabilities: npt.NDArray[np.float16] | None = None
    nearest: npt.NDArray[np.uint8] | None = None
    similarity: npt.NDArray[np.float16] | None = None
    embedding: torch.Tensor | None = None
    image: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no structure was found."""
        return not self.decision.classes.any()

    @property
    def rank(self) -> tuple[bool, float]:
        """By which the results of several regions are compared: any mask before none, then the Dice to expect."""
        return not self.is_empty, 0.0 if self.quality is None else self.quality.expected_dice
