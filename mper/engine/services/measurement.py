"""Figures of masks for a client that edits them: each request measures anew, so that nothing is ever stale."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mper.engine.errors import InvalidRequest, NotFound
from mper.engine.schemas.common import codes_for
from mper.engine.schemas.measurement import FigureModel, Measurement, MeasureRequest, Stage, VolumeCurve
from mper.labels import Segmentation, make_label
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.engine.services.engine import Engine
    from mper.engine.services.predictions import StoredPrediction
    from mper.measurement.case import CaseSettings
    from mper.measurement.figures import Figure

_KEPT_SURFACES = 4  # of one client


class SurfaceStore:
    """The newest surfaces of each client, as files."""

    def __init__(self) -> None:
        self._stored: OrderedDict[str, tuple[str, bytes]] = OrderedDict()  # id -> client, file
        self._lock = threading.Lock()

    def add(self, client: str, data: bytes) -> str:
        """Keep a surface; the oldest of the same client makes room."""
        with self._lock:
            own = [key for key, (owner, _) in self._stored.items() if owner == client]
            for key in own[: max(0, len(own) - _KEPT_SURFACES + 1)]:
                del self._stored[key]
            key = secrets.token_hex(8)
            self._stored[key] = (client, data)
            return key

    def get(self, client: str, key: str) -> bytes:
        """A client's surface.

        Raises
        ------
        NotFound
            If it has none of that id.
        """
        with self._lock:
            owner, data = self._stored.get(key, ("", b""))
        if not data or owner != client:
            raise NotFound(f"there is no surface {key!r}; it is unknown, or made room for newer ones: measure again")
        return data


def measure(engine: Engine, client: str, request: MeasureRequest) -> Measurement:
    """Measure the masks of a request.

    Raises
    ------
    InvalidRequest
        If it names no mask, or both a prediction and masks.
    NotFound
        If a scan, mask or prediction is unknown.
    ValueError
        If something cannot be measured as it is asked for.
    """
    with contextlib.ExitStack() as held:  # a scan that another request removes stays until it is measured

        def volume(scan_id: str) -> Volume:
            return held.enter_context(engine.scans.using(client, scan_id)).volume()

        return _measured(engine, client, request, volume)


def _measured(engine: Engine, client: str, request: MeasureRequest, volume: Callable[[str], Volume]) -> Measurement:
    """Measure; a function of its own, so that nothing of it maps a scan when that is let go of."""
    from mper.io.surfaces import encode_surface
    from mper.measurement.case import measure_case

    began = time.perf_counter()
    if (request.prediction is None) == (not request.masks):
        raise InvalidRequest("give either a prediction, or the ids of uploaded masks (POST /scans) with their labels")
    settings = _settings(request)
    probability = None
    scan = None if request.scan is None else volume(request.scan)
    if request.prediction is not None:
        stored = engine.predictions.get(client, request.prediction)
        phases = [_of_prediction(stored, scan)]
        if request.ranges:
            probability = _probability(stored, phases[0])
    else:
        if request.ranges:
            raise InvalidRequest("ranges need the probabilities of a prediction; uploaded masks have none")
        phases = [_uploaded(volume(mask), mask, request, scan) for mask in request.masks]
    found = measure_case(phases, scan, settings, probability)
    surface = None
    if found.atrium is not None and found.atrium.surface is not None:
        surface = engine.surfaces.add(client, encode_surface(".vtp", found.atrium.surface))
    cycle = found.cycle
    return Measurement(
        line_codes=codes_for(found.notes, [(each.name, each.group, each.method) for each in found.figures]),
        figures=[_answer(figure) for figure in found.figures],
        notes=list(found.notes),
        curves=[] if cycle is None else [VolumeCurve(name=name, ml=list(ml)) for name, ml in cycle.curves_ml.items()],
        end_diastole=None if cycle is None else cycle.end_diastole,
        end_systole=None if cycle is None else cycle.end_systole,
        surface=surface,
        seconds=time.perf_counter() - began,
    )


def _settings(request: MeasureRequest) -> CaseSettings:
    from mper.measurement.case import CaseSettings
    from mper.measurement.clipping import clips_from_dicts
    from mper.measurement.figures import body_surface_m2
    from mper.measurement.wall import WallSettings

    body = None
    if request.height_cm is not None and request.weight_kg is not None:
        body = body_surface_m2(request.height_cm, request.weight_kg)
    return CaseSettings(
        clips=clips_from_dicts([clip.model_dump() for clip in request.clips]),
        body_m2=body,
        wall=WallSettings(request.wall_mm, request.pool_mm, request.sampling),
        end_diastole=request.end_diastole,
        end_systole=request.end_systole,
        phase_numbers=tuple(request.phase_numbers),
    )


def _of_prediction(stored: StoredPrediction, scan: Volume | None) -> Segmentation:
    """The mask as it stands, on the grid of its scan: a mask that ends there is cut, one of a region may not be."""
    prediction = stored.prediction.segmentation
    array = stored.part((0, 0, 0), stored.shape)
    if scan is None:
        stop = [n - first for first, n in zip(stored.start, stored.shape, strict=True)]
        grid = prediction.labelmap.geometry.crop([-first for first in stored.start], stop)
        return Segmentation(Volume(array, grid), prediction.labels)
    if scan.geometry.shape != stored.shape:
        line = f"the prediction is of a scan of {stored.shape} voxels, this scan has {scan.array.shape}"
        raise InvalidRequest(line, "scan-of-another-grid")
    return Segmentation(scan.with_array(array), prediction.labels)


def _probability(stored: StoredPrediction, mask: Segmentation) -> Volume:
    """The probability of the only structure, on the grid of `mask`; what strokes have set is certain."""
    current = stored.corrections.current()
    own = current.label_probability
    if own is None or len(mask.labels) != 1:
        raise InvalidRequest("ranges need a prediction of one structure with its probabilities; leave them out")
    values = np.asarray(own.array, np.float32)
    inside = current.segmentation.labelmap.array == mask.labels[0].value
    values = np.where(inside, values, np.where(values > 0, 1 - values, 0))  # 0: outside the computed region
    if mask.labelmap.geometry.shape == own.geometry.shape:
        return mask.labelmap.with_array(values)
    whole = np.zeros(mask.labelmap.geometry.shape, np.float32)
    whole[tuple(slice(a, a + n) for a, n in zip(stored.start, values.shape, strict=True))] = values
    return mask.labelmap.with_array(whole)


def _uploaded(mask: Volume, key: str, request: MeasureRequest, scan: Volume | None) -> Segmentation:
    if not request.labels:
        raise InvalidRequest("uploaded masks need labels: what each of their values is")
    if mask.array.dtype != np.uint8:
        raise InvalidRequest(f"a mask is uint8, {key} is {mask.array.dtype}")
    if scan is not None:
        from mper.dicom.grid_match import onto_grid

        mask = scan.with_array(onto_grid(mask, scan.geometry))
    labels = tuple(make_label(label.value, label.name) for label in request.labels)
    return Segmentation(Volume(np.asarray(mask.array, np.uint8), mask.geometry), labels)


def _answer(figure: Figure) -> FigureModel:
    return FigureModel(
        key=figure.key,
        name=figure.name,
        group=figure.group,
        value=figure.value,
        unit=figure.unit,
        method=figure.method,
        stages=[Stage(scheme=scheme, stage=stage) for scheme, stage in (figure.stages or {}).items()],
        range=None if figure.range is None else list(figure.range),
    )
