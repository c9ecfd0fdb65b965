"""A prediction as strokes have corrected it.

A client sends its whole list of strokes at every change. What the list has in common with the one before stays, so
that one more stroke, undo, redo and a replay are all the same request. Every other question waits while a list is being
processed; a newer list replaces one that is still being processed, which then ends between two strokes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mper.engine.errors import Conflict
from mper.engine.schemas.segmentation import QuickStructure, Structure
from mper.engine.schemas.strokes import StrokeChange
from mper.labels import BACKGROUND
from mper.progress import Cancelled, Progress
from mper.roi import bounding_box
from mper.utils.coded import Coded
from mper.volume import Index3, Volume

if TYPE_CHECKING:
    from mper.inference.prediction import Prediction
    from mper.inference.uncertainty import UncertainRegion
    from mper.measurement.measures import Measures
    from mper.refinement.refiner import Change, Refiner
    from mper.strokes import Stroke

Extent = tuple[Index3, Index3]
_CHECKED_MM = 10.0  # around a stroke: no longer proposed as an uncertain place
_MOST_PLACES = 60


@dataclass(frozen=True)
class Correction:
    """What a list of strokes changed; `changed` is a box in the prediction's own indices, else as in `RefineAnswer`."""

    strokes: list[StrokeChange]
    changed: Extent | None
    settled: bool
    notes: list[str]
    structures: list[Structure | QuickStructure]


class Corrections:
    """A prediction and the strokes on it; all indices are those of the prediction's grid.

    Parameters
    ----------
    prediction : Prediction
        As the model made it.
    structures : sequence of Measures
        Figures of the model's own mask.
    goes_on : sequence of (bool, bool)
        Of each axis (k, j, i), whether the scan goes on before and behind the prediction's grid.

    Attributes
    ----------
    model_extent : ((k, j, i), (k, j, i)) or None
        Start and stop of the non-zero part of the model's own mask; None where it is empty.
    """

    def __init__(self, prediction: Prediction, structures: Sequence[Measures], goes_on: Sequence[tuple[bool, bool]]):
        self._prediction, self._goes_on = prediction, goes_on
        self._structures = tuple(structures)
        self._measured: tuple[Measures, ...] | None = self._structures  # of the mask as it stands, once asked for
        self._current: Prediction | None = prediction  # made when it is asked for
        self.model_extent = _extent(prediction.segmentation.labelmap.array, (0, 0, 0))
        self._refiner: Refiner | None = None
        self._lock = threading.RLock()
        self._request = 0  # number of the newest list
        self._numbering = threading.Lock()  # another one, since `_lock` is held as long as a list is processed
        self._reported: tuple[Change, ...] = ()  # by the last answer

    @property
    def nbytes(self) -> int:
        """Memory held in addition to the prediction."""
        refiner, current = self._refiner, self._current
        kept = 0 if refiner is None else refiner.nbytes
        if current is not None and current is not self._prediction:
            volumes = (current.segmentation.labelmap, current.label_probability)
            kept += sum(volume.array.nbytes for volume in volumes if volume is not None)
        return kept

    def set_strokes(self, strokes: Sequence[Stroke], settle: bool) -> Correction:
        """Make `strokes` the list.

        Raises
        ------
        ValueError
            If a stroke cannot be taken, or nothing was segmented; nothing has changed then.
        Conflict
            If a newer list came meanwhile.
        """
        with self._numbering:
            self._request += 1
            number = self._request

        def check(_: Progress | None = None) -> None:
            if number != self._request:
                raise Cancelled

        try:
            with self._lock:
                check()
                refiner = self._ready()
                try:
                    refiner.set_strokes(strokes, settle, check)
                except (Cancelled, ValueError):
                    raise
                except BaseException:  # out of memory in the middle of a stroke: the next list begins anew
                    self._refiner = None
                    raise
                finally:
                    changed = self._refiner is not None and self._refiner.strokes
                    self._current = None if changed else self._prediction
                    self._measured = None if changed else self._structures
                return self._correction(refiner, whole=settle)
        except Cancelled:
            raise Conflict("a newer list of strokes came before this one was done; its answer counts") from None

    def part(self, start: Index3, stop: Index3) -> npt.NDArray[np.uint8]:
        """The mask ``[start:stop]`` as it stands, a copy."""
        with self._lock:
            return self._part(start, stop)

    def mask(self) -> tuple[npt.NDArray[np.uint8], Index3] | None:
        """The non-zero part of the mask as it stands, and where it begins; None where it is empty."""
        with self._lock:
            reach = self._reach()
            if reach is None:
                return None
            part = self._part(*reach)
        found = _extent(part, reach[0])
        if found is None:
            return None
        window = tuple(slice(a - s, b - s) for a, b, s in zip(*found, reach[0], strict=True))
        return part[window], found[0]

    def current(self) -> Prediction:
        """The prediction with the mask as it stands; what strokes have set counts as certain."""
        with self._lock:
            if self._current is None:
                assert self._refiner is not None
                self._current = replace(
                    self._prediction, segmentation=self._refiner.segmentation, label_probability=self._probability()
                )
            return self._current

    def measures(self) -> tuple[Measures, ...]:
        """Figures of the structures as they stand."""
        with self._lock:
            if self._measured is None:
                self._measured = self._measure()
            return self._measured

    def _probability(self) -> Volume | None:
        """The probability of each voxel's label; what strokes have set is certain."""
        assert self._refiner is not None
        probability = self._prediction.label_probability
        if probability is None:
            return None
        array = np.array(probability.array)
        array[self._refiner.touched()] = 1
        return probability.with_array(array)

    def _measure(self) -> tuple[Measures, ...]:
        from mper.inference.confidence import corrected_expectation, structure_confidence
        from mper.measurement.measures import measure

        assert self._refiner is not None
        start, stop = self._reach() or ((0, 0, 0), (1, 1, 1))
        mask = replace(
            self._prediction.segmentation,
            labelmap=self._prediction.segmentation.labelmap.crop(start, stop).with_array(self._part(start, stop)),
        )
        before, probability = self._prediction.label_probability, self._probability()
        if before is None or probability is None:
            return measure(mask)
        expected = corrected_expectation(
            self._prediction.expected_voxels,
            np.asarray(self._prediction.segmentation.labelmap.array, np.uint8),
            self._part((0, 0, 0), before.geometry.shape),
            np.asarray(before.array, np.float32),
            self._refiner.touched(),
        )
        inside = np.asarray(probability.crop(start, stop).array, np.float32)
        return measure(mask, structure_confidence(mask, inside, expected))

    def _counted(self, changes: Sequence[Change]) -> list[Measures]:
        """Voxels and volumes alone, from what the strokes changed."""
        counted = []
        for model in self._structures:
            gained = sum(change.gained.get(model.value, 0) - change.lost.get(model.value, 0) for change in changes)
            voxels = model.voxels + gained
            voxel_ml = self._prediction.segmentation.labelmap.geometry.voxel_ml
            ml = None if voxel_ml is None else voxels * voxel_ml
            counted.append(replace(model, voxels=voxels, volume_ml=ml))
        return counted

    def stroke_at(self, index: Index3) -> int | None:
        """Which stroke, from 0, has set a voxel; None if none has."""
        with self._lock:
            return None if self._refiner is None else self._refiner.explain(index)

    def uncertain_regions(self, count: int) -> list[UncertainRegion]:
        """Where a stroke is worth most, but for where there is one already."""
        from mper.inference.uncertainty import uncertain_regions

        with self._lock:
            strokes = () if self._refiner is None else self._refiner.strokes
            current = self.current()
        found = uncertain_regions(current, min(count + 3 * len(strokes), _MOST_PLACES))
        geometry = current.segmentation.labelmap.geometry
        near = [(np.asarray(stroke.points_mm), stroke.radius_mm + _CHECKED_MM) for stroke in strokes]
        return [
            place
            for place in found
            if not any(
                (np.linalg.norm(points - geometry.to_world(place.index), axis=1) < far).any() for points, far in near
            )
        ][:count]

    def _ready(self) -> Refiner:
        if self._refiner is None:
            from mper.refinement.refiner import Refiner
            from mper.refinement.stroke_response import warm_up

            self._refiner = Refiner(self._prediction, self._goes_on)
            warm_up()
        return self._refiner

    def _part(self, start: Index3, stop: Index3) -> npt.NDArray[np.uint8]:
        if self._refiner is not None:
            return self._refiner.part(start, stop)
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return np.array(self._prediction.segmentation.labelmap.array[window])

    def _reach(self) -> Extent | None:
        """A box outside of which the mask is empty."""
        changes = () if self._refiner is None else self._refiner.changes
        return hull([self.model_extent, *(change.box for change in changes)])

    def _correction(self, refiner: Refiner, whole: bool) -> Correction:
        before, self._reported = {id(change): change for change in self._reported}, refiner.changes
        now = {id(change): change for change in self._reported}
        names = {BACKGROUND: "background", **{each.value: each.name for each in self._prediction.segmentation.labels}}
        structures: list[Structure | QuickStructure]
        if whole:
            structures = [Structure.model_validate(each) for each in self.measures()]
        else:
            structures = [
                QuickStructure(value=each.value, name=each.name, voxels=each.voxels, volume_ml=each.volume_ml)
                for each in self._counted(self._reported)
            ]
        return Correction(
            strokes=[
                StrokeChange(
                    value=stroke.value,
                    name=names[stroke.value],
                    added_ml=_by_value(change.added_ml),
                    removed_ml=_by_value(change.removed_ml),
                    voxels=change.voxels,
                    notes=list(change.notes),
                )
                for stroke, change in zip(refiner.strokes, self._reported, strict=True)
            ],
            changed=hull([change.box for key, change in (before | now).items() if not (key in before and key in now)]),
            settled=refiner.settled,
            notes=[
                Coded(f"stroke {number}: {note}", "stroke-note", number=number, note=note)
                for number, change in enumerate(self._reported, 1)
                if id(change) not in before
                for note in change.notes
            ],
            structures=structures,
        )


def hull(boxes: Iterable[Extent | None]) -> Extent | None:
    """The smallest box around all of them."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    (k, j, i), (stop_k, stop_j, stop_i) = (
        [function(end) for end in zip(*ends, strict=True)]
        for function, ends in ((min, [box[0] for box in found]), (max, [box[1] for box in found]))
    )
    return (k, j, i), (stop_k, stop_j, stop_i)


def moved(box: Extent | None, by: Index3) -> Extent | None:
    """A box in the indices of a grid in which this one's first voxel has index `by`."""
    if box is None:
        return None
    (k, j, i), (stop_k, stop_j, stop_i) = ([n + d for n, d in zip(end, by, strict=True)] for end in box)
    return (k, j, i), (stop_k, stop_j, stop_i)


def _extent(mask: npt.NDArray[Any], start: Index3) -> Extent | None:
    window = bounding_box(mask != BACKGROUND)
    if window is None:
        return None
    k, j, i = window
    return moved(((k.start, j.start, i.start), (k.stop, j.stop, i.stop)), start)


def _by_value(ml: dict[int, float] | None) -> dict[str, float] | None:
    return None if ml is None else {str(value): round(amount, 6) for value, amount in ml.items()}
