"""The work of a segment job, and what can be asked of its prediction afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mper.engine.services.corrections import moved
from mper.engine.services.jobs import Job
from mper.engine.services.models import Models, label_entry
from mper.engine.services.predictions import PredictionStore, Stored, cropped
from mper.engine.services.scans import Scan
from mper.progress import Progress
from mper.volume import Index3

if TYPE_CHECKING:
    from mper.inference.explanation import UncertainRegion
    from mper.inference.predictor import Predictor
    from mper.measurement.measures import Measures

_WANTED = ("confidence", "prototypes", "embeddings")
_PREDICTED = 0.9  # share of the work that is done when the figures begin
_PLACES = 10


def load(models: Models, model_id: str, device: str, job: Job) -> dict[str, Any]:
    """Make a model ready ahead of its first use."""
    began = time.perf_counter()
    job(Progress("loading the model"))
    predictor = models.predictor(model_id, device)
    job(Progress("warming up", 0.5))
    predictor.warm_up()
    return {"model": model_id, "device": device, "seconds": time.perf_counter() - began}


def segment(
    predictor: Predictor,
    upload: Scan,
    roi_mm: Sequence[float] | None,
    tta: bool,
    store: PredictionStore,
    job: Job,
) -> dict[str, Any]:
    """Segment a scan, keep the prediction in `store`, and tell of it as the protocol has it."""
    from mper.inference.explanation import prototype_figures, uncertain_regions
    from mper.measurement.measures import measure
    from mper.utils.devices import release_memory

    began = time.perf_counter()
    scan = upload.volume()
    upload.hash_ahead()

    def report(beat: Progress) -> None:
        share = None if beat.fraction is None else _PREDICTED * beat.fraction
        job(replace(beat, fraction=share))

    whole = predictor.predict(scan, roi=roi_mm, tta=tta, want=_WANTED, report=report)
    release_memory(predictor.device)
    job(Progress("measuring", _PREDICTED))
    prediction, start = cropped(whole)
    stop = tuple(a + n for a, n in zip(start, prediction.segmentation.labelmap.array.shape, strict=True))
    structures = measure(prediction.segmentation, prediction.confidence_map)
    stored = Stored(
        upload.client,
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
    places = uncertain_regions(prediction, _PLACES)
    job.check()
    store.add(stored)
    job.on_undo(lambda: store.discard(stored.id))
    card = predictor.bundle.card
    return {
        "prediction": stored.id,
        "model": card.name,
        "model_version": card.version,
        "model_sha256": predictor.bundle.sha256,
        "labels": [label_entry(label) for label in card.labels],
        "scan_sha256": stored.scan_sha256,
        "shape": list(scan.geometry.shape),
        "start": list(start),
        "extent": moved(stored.corrections.model_extent, start),
        "confidence": prediction.confidence,
        "notes": list(prediction.notes),
        "flags": _flags(prediction.notes, structures),
        "roi_mm": None if prediction.roi_mm is None else list(prediction.roi_mm),
        "device": prediction.device,
        "method": prediction.method,
        "seconds": time.perf_counter() - began,
        "structures": [asdict(found) for found in structures],
        "prototypes": [
            {
                "value": row.value,
                "name": row.name,
                "class": row.of,
                "colour": list(row.colour),
                "voxels": row.voxels,
                "volume_ml": row.volume_ml,
                "mean_similarity": row.mean_similarity,
                "mean_intensity": row.mean_intensity,
                "typical_index": _moved(row.typical_index, start),
                "typical_mm": row.typical_mm,
            }
            for row in prototypes
        ],
        "uncertain_places": [_place(place, start) for place in places],
    }


def probe(stored: Stored, index: Index3) -> dict[str, Any]:
    """What prototypes and strokes say of one voxel of the scan."""
    from mper.inference import explanation

    k, j, i = (n - a for n, a in zip(index, stored.start, strict=True))
    inside = all(
        0 <= n < m for n, m in zip((k, j, i), stored.prediction.segmentation.labelmap.array.shape, strict=True)
    )
    if not inside:
        return {"value": None}
    current = stored.corrections.current()
    labels = current.segmentation.labels
    value = int(current.segmentation.labelmap.array[k, j, i])
    found = (
        None if current.embeddings is None else explanation.probe(current, stored.vectors, (k, j, i), stored.references)
    )
    explained = found is not None and stored.prediction.prototype_map is not None
    stroke = stored.corrections.stroke_at((k, j, i))
    return {
        "value": value,
        "name": next((label.name for label in labels if label.value == value), "background"),
        "prototypes": [
            {"value": v, "name": name, "similarity": s}
            for v, name, s in (found.prototypes if found and explained else ())
        ],
        "labelled": [asdict(voxel) for voxel in (found.labelled if found else ())],
        "margin": found.margin if found and explained else None,
        "probability": found.probability if found and stroke is None else None,
        "stroke": stroke,
    }


def scatter(stored: Stored, points: int) -> dict[str, Any]:
    """Embeddings of some voxels on two axes."""
    from mper.inference import explanation

    found = explanation.scatter(stored.prediction, stored.vectors, points)
    return {
        "x": [round(float(x), 5) for x in found.x],
        "y": [round(float(y), 5) for y in found.y],
        "value": found.value.tolist(),
        "explained": list(found.explained),
        "prototypes": [{"value": value, "x": x, "y": y} for value, x, y in found.prototypes],
    }


def uncertain_regions(stored: Stored) -> list[dict[str, Any]]:
    """Where a stroke is worth most now."""
    return [_place(place, stored.start) for place in stored.corrections.uncertain_regions(_PLACES)]


def _place(place: UncertainRegion, start: Index3) -> dict[str, Any]:
    return {**asdict(place), "index": _moved(place.index, start)}


def _moved(index: Index3 | None, start: Index3) -> list[int] | None:
    return None if index is None else [n + a for n, a in zip(index, start, strict=True)]


def _flags(notes: Sequence[str], structures: Sequence[Measures]) -> list[dict[str, str]]:
    """Reasons to look at the mask with care."""
    from mper.inference.plausibility import warning_kind

    flags = [{"code": kind, "words": note} for note in notes if (kind := warning_kind(note))]
    for found in structures:
        if not found.voxels:
            flags.append({"code": "empty", "words": f"no {found.name} was found"})
        elif found.components > 1:
            flags.append({"code": "components", "words": f"{found.name} is in {found.components} parts"})
    return flags
