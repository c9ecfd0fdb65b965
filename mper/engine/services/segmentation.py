"""Segmentation of a scan as a job, and explanations of its prediction."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mper.engine.errors import Conflict
from mper.engine.schemas.common import codes_for
from mper.engine.schemas.info import LoadResult
from mper.engine.schemas.segmentation import (
    Flag,
    NearLabelledVoxel,
    NearPrototype,
    OutsideRegion,
    ProbedVoxel,
    PrototypeRow,
    QualityModel,
    Scatter,
    ScatterPrototype,
    SegmentRequest,
    SegmentResult,
    Structure,
    UncertainRegionModel,
)
from mper.engine.services.corrections import moved
from mper.engine.services.engine import Engine
from mper.engine.services.jobs import Job
from mper.engine.services.models import ModelCatalog, label_answers
from mper.engine.services.predictions import PredictionStore, StoredPrediction, cropped
from mper.engine.services.scans import Scan
from mper.progress import Progress
from mper.utils.coded import Coded
from mper.volume import Index3

if TYPE_CHECKING:
    from mper.inference.prediction import QualityFlag
    from mper.inference.predictor import Predictor
    from mper.inference.uncertainty import UncertainRegion
    from mper.measurement.measures import Measures

_WANTED = ("label_probability", "prototypes", "embeddings")
_PREDICTED = 0.9  # share of the work that is done when the figures begin
_PLACES = 10


def load(models: ModelCatalog, model_id: str, device: str, job: Job) -> LoadResult:
    """Make a model ready ahead of its first use."""
    began = time.perf_counter()
    job(Progress("loading the model"))
    predictor = models.predictor(model_id, device)
    job(Progress("warming up", 0.5))
    predictor.warm_up()
    return LoadResult(model=model_id, device=device, seconds=time.perf_counter() - began)


def start(engine: Engine, client: str, request: SegmentRequest) -> Job:
    """Start the job that segments a scan.

    Raises
    ------
    NotFound, Conflict
        If there is no such model or scan; if the client has too many jobs already.
    """
    engine.models.path(request.model)
    held = contextlib.ExitStack()
    scan = held.enter_context(engine.scans.using(client, request.scan))

    def work(job: Job, device: str) -> SegmentResult:
        return segment(engine.models.predictor(request.model, device), scan, request, engine.predictions, job)

    return engine.jobs.submit(client, "segment", request.device, work, held.close)


def segment(
    predictor: Predictor, upload: Scan, request: SegmentRequest, store: PredictionStore, job: Job
) -> SegmentResult:
    """Segment a scan and keep the prediction in `store`."""
    from mper.inference.explanation import prototype_figures
    from mper.inference.uncertainty import uncertain_regions
    from mper.measurement.measures import measure
    from mper.utils.devices import release_memory

    began = time.perf_counter()
    scan = upload.volume()
    upload.hash_ahead()

    def report(progress: Progress) -> None:
        share = None if progress.fraction is None else _PREDICTED * progress.fraction
        job(replace(progress, fraction=share))

    card, model = predictor.bundle.card, predictor.bundle.sha256
    localization = str((card.localization or {}).get("sha256") or card.about.get("locator") or "")
    whole = predictor.predict(
        scan,
        roi=request.roi_mm,
        at=request.at_mm,
        tta=request.tta,
        want=_WANTED,
        search=store.search(upload.client, upload.id, model, localization),
        report=report,
    )
    release_memory(predictor.device)
    job(Progress("measuring", _PREDICTED))
    prediction, start = cropped(whole)
    stop = tuple(a + n for a, n in zip(start, prediction.segmentation.labelmap.array.shape, strict=True))
    structures = measure(prediction.segmentation, prediction.structure_confidence)
    stored = StoredPrediction(
        upload.client,
        upload.id,
        model,
        localization,
        prediction,
        start,
        scan.geometry.shape,
        upload.sha256(),
        predictor.bundle.state["prototypes.vectors"],
        structures,
        predictor.bundle.references,
    )
    job(Progress("looking at prototypes", 0.95))
    crop = scan.crop(start, stop)
    prototypes = (
        []
        if prediction.prototype_map is None
        else prototype_figures(prediction, crop, predictor.bundle.network.prototypes)
    )
    regions = uncertain_regions(prediction, _PLACES)
    job.check()
    store.add(stored)
    job.on_undo(lambda: store.discard(stored.id))
    flags = [*prediction.flags, *_in_parts(structures)]
    reasons = () if prediction.quality is None else prediction.quality.reasons
    return SegmentResult(
        line_codes=codes_for(prediction.notes, [flag.words for flag in flags], reasons),
        prediction=stored.id,
        model=card.name,
        model_version=card.version,
        model_sha256=model,
        labels=label_answers(card),
        scan_sha256=stored.scan_sha256,
        shape=scan.geometry.shape,
        start=start,
        extent=moved(stored.corrections.model_extent, start),
        confidence=prediction.confidence,
        quality=None if prediction.quality is None else QualityModel.model_validate(prediction.quality),
        notes=list(prediction.notes),
        flags=[Flag(code=flag.code, words=flag.words) for flag in flags],
        roi_mm=None if prediction.roi_mm is None else list(prediction.roi_mm),
        device=prediction.device,
        method=prediction.method,
        seconds=time.perf_counter() - began,
        structures=[Structure.model_validate(each) for each in structures],
        prototypes=[
            PrototypeRow.model_validate({**asdict(row), "typical_index": _moved(row.typical_index, start)})
            for row in prototypes
        ],
        uncertain_places=[_region(region, start) for region in regions],
    )


def probe(stored: StoredPrediction, index: Index3) -> ProbedVoxel | OutsideRegion:
    """Why a voxel of the scan has its label: prototypes, labelled voxels and strokes."""
    from mper.inference import explanation

    k, j, i = (n - a for n, a in zip(index, stored.start, strict=True))
    shape = stored.prediction.segmentation.labelmap.array.shape
    if not all(0 <= n < m for n, m in zip((k, j, i), shape, strict=True)):
        return OutsideRegion()
    current = stored.corrections.current()
    if current.embeddings is None:  # the structure was not located
        return OutsideRegion()
    value = int(current.segmentation.labelmap.array[k, j, i])
    found = explanation.probe(current, stored.vectors, (k, j, i), stored.references)
    explained = found is not None and stored.prediction.prototype_map is not None
    stroke = stored.corrections.stroke_at((k, j, i))
    return ProbedVoxel(
        value=value,
        name=next((label.name for label in current.segmentation.labels if label.value == value), "background"),
        prototypes=[
            NearPrototype(value=v, name=name, similarity=s)
            for v, name, s in (found.prototypes if found and explained else ())
        ],
        labelled=[NearLabelledVoxel.model_validate(voxel) for voxel in (found.labelled if found else ())],
        margin=found.margin if found and explained else None,
        probability=found.probability if found and stroke is None else None,
        stroke=stroke,
    )


def scatter(stored: StoredPrediction, points: int) -> Scatter:
    """Embeddings of some voxels on two axes.

    Raises
    ------
    Conflict
        If the model has no prototypes.
    ValueError
        If nothing was segmented.
    """
    from mper.inference import embedding_scatter

    if stored.prediction.prototype_map is None:
        raise _no_prototypes()
    found = embedding_scatter.scatter(stored.prediction, stored.vectors, points)
    return Scatter(
        x=[round(float(x), 5) for x in found.x],
        y=[round(float(y), 5) for y in found.y],
        value=found.value.tolist(),
        index=found.index.tolist(),
        explained=list(found.explained),
        prototypes=[ScatterPrototype(value=value, x=x, y=y) for value, x, y in found.prototypes],
    )


def prototype_map(stored: StoredPrediction) -> npt.NDArray[np.generic]:
    """The nearest prototype of each voxel, as the model made it; raises `Conflict` if the model has no prototypes."""
    if stored.prediction.prototype_map is None:
        raise _no_prototypes()
    return stored.prediction.prototype_map.array


def similarity_map(stored: StoredPrediction) -> npt.NDArray[np.generic]:
    """Each voxel's cosine to it, as the model made it; raises `Conflict` if the model has no prototypes."""
    if stored.prediction.similarity_map is None:
        raise _no_prototypes()
    return stored.prediction.similarity_map.array


def uncertainty_map(stored: StoredPrediction) -> npt.NDArray[np.uint8]:
    """Percent: 100 x (1 - probability of the voxel's class); 0 where nothing was computed or a stroke has set it."""
    own = stored.corrections.current().label_probability
    assert own is not None
    probability = own.array.astype(np.float32)
    return np.where(probability > 0, np.rint(100 * (1 - probability)), 0).astype(np.uint8)


def uncertain_regions(stored: StoredPrediction) -> list[UncertainRegionModel]:
    """Where a stroke is worth most now."""
    return [_region(region, stored.start) for region in stored.corrections.uncertain_regions(_PLACES)]


def structures(stored: StoredPrediction) -> list[Structure]:
    """Figures of the mask as strokes have left it."""
    return [Structure.model_validate(each) for each in stored.corrections.measures()]


def _region(region: UncertainRegion, start: Index3) -> UncertainRegionModel:
    codes = codes_for(region.words)
    index = _moved(region.index, start)
    return UncertainRegionModel.model_validate({**asdict(region), "index": index, "line_codes": codes})


def _moved(index: Index3 | None, start: Index3) -> list[int] | None:
    return None if index is None else [n + a for n, a in zip(index, start, strict=True)]


def _no_prototypes() -> Conflict:
    line = "the model has no prototypes, so there is no prototype map; take another model"
    return Conflict(line, "no-prototype-map")


def _in_parts(structures: Sequence[Measures]) -> list[QualityFlag]:
    """Flags for structures that are not in one piece."""
    from mper.inference.prediction import QualityFlag

    return [
        QualityFlag(
            "components",
            Coded(f"{each.name} is in {each.components} parts", "in-parts", structure=each.name, n=each.components),
        )
        for each in structures
        if each.components > 1
    ]
