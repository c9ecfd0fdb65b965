"""Correcting a mask with strokes, at once and without training.

A stroke raises the scores of its class in a box around it (`mper.refinement.stroke_response`); the mask changes where
that turns a voxel into the class, and nowhere else. Painted voxels stay as painted. The state is the list of strokes:
undone strokes leave no trace, and the same list gives the same mask.

There are two answers: that of `Refiner.add` at once, and that of `Refiner.settle` after a clean-up at image edges,
which replaces it. Before the next stroke is added the last one is settled, so that the mask does not depend on the
speed of drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mper.inference.prediction import Prediction, required_embeddings
from mper.labels import BACKGROUND, Segmentation
from mper.progress import Progress, Report, ignore_progress
from mper.refinement import stroke_response
from mper.refinement.box_response import respond_in_box
from mper.refinement.changes import AppliedStroke, Change, StrokeBox, Window
from mper.strokes import Stroke
from mper.utils.coded import Coded
from mper.volume import Index3

_FREE = 255  # not painted


class Refiner:
    """A prediction that strokes correct.

    Parameters
    ----------
    prediction : Prediction
        Made with ``want=("embeddings", ...)``, which keeps what the network saw and said.
    goes_on : sequence of (bool, bool), or None
        Of each axis (k, j, i), whether the scan goes on before and behind the segmented region; None takes it from the
        prediction, which must then be on the grid of the scan.

    Raises
    ------
    ValueError
        If it was made without.
    """

    def __init__(self, prediction: Prediction, goes_on: stroke_response.Sides | None = None):
        kept = required_embeddings(prediction)
        if kept.logits is None or kept.image is None:
            raise ValueError(
                "this prediction has no network output to refine; predict again with want=('embeddings',), "
                "which keeps the scores of the network"
            )
        self._source = prediction.segmentation
        labels = self._source.labels
        self._values = np.array([0, *(label.value for label in labels)], dtype=np.uint8)
        self._names = {0: "background", **{label.value: label.name for label in labels}}
        self._window = tuple(slice(a, b) for a, b in zip(kept.start, kept.stop, strict=True))
        self._start = kept.start
        volume = self._source.labelmap
        self._geometry = volume.geometry.crop(kept.start, kept.stop)
        self._grid = kept.grid
        self._working = kept.grid.geometry(self._geometry)
        if goes_on is None:
            shape = volume.geometry.shape
            goes_on = [(a > 0, b < n) for a, b, n in zip(kept.start, kept.stop, shape, strict=True)]
        sides = [goes_on[axis] for axis in kept.grid.axes]
        self._goes_on = [side[::-1] if axis in kept.grid.flips else side for axis, side in enumerate(sides)]
        self._mask = np.array(volume.array[self._window])
        self._image = kept.image.float().numpy()
        self._scores = _agreeing(kept.logits.float().numpy(), self._classes())
        self._painted = np.full(self._mask.shape, _FREE, dtype=np.uint8)  # classes on the crop
        self._hard = np.full(self._grid.size, _FREE, dtype=np.uint8)  # classes on the working grid
        self._done: list[AppliedStroke] = []
        self._undone: list[Stroke] = []
        self._at_hand: tuple[Stroke, npt.NDArray[np.int64]] | None = None

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """The strokes that made the mask, in order."""
        return tuple(done.stroke for done in self._done)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What each stroke changed."""
        return tuple(done.change for done in self._done)

    @property
    def settled(self) -> bool:
        """Whether the last stroke has been cleaned up at image edges."""
        return not self._done or self._done[-1].settled

    @property
    def segmentation(self) -> Segmentation:
        """The mask as it stands, on the scan's grid; structures that strokes changed say that a person edited them."""
        mask = np.array(self._source.labelmap.array)
        before = mask[self._window]
        differs = before != self._mask
        changed = {*np.unique(before[differs]).tolist(), *np.unique(self._mask[differs]).tolist()}
        mask[self._window] = self._mask
        made = {n: one.edited() if n in changed else one for n, one in self._source.provenance.items()}
        return replace(self._source, labelmap=self._source.labelmap.with_array(mask), provenance=made)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, in addition to the prediction."""
        arrays = (self._mask, self._image, self._scores, self._painted, self._hard)
        return sum(a.nbytes for a in arrays) + sum(done.nbytes for done in self._done)

    def part(self, start: Index3, stop: Index3) -> npt.NDArray[np.uint8]:
        """The mask ``[start:stop]`` of the scan, without copying all of it."""
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        out = np.array(self._source.labelmap.array[window])
        here = [
            (max(a, s), min(b, s + n)) for a, b, s, n in zip(start, stop, self._start, self._mask.shape, strict=True)
        ]
        if all(a < b for a, b in here):
            inside = tuple(slice(a - c, b - c) for (a, b), c in zip(here, start, strict=True))
            out[inside] = self._mask[tuple(slice(a - s, b - s) for (a, b), s in zip(here, self._start, strict=True))]
        return out

    def check(self, stroke: Stroke, number: int | None = None) -> None:
        """Refuse a stroke that cannot be added.

        Raises
        ------
        ValueError
            If the model has no such structure, or no voxel of the stroke lies in the region that was segmented.
        """
        which = "the stroke" if number is None else f"stroke {number}"
        if stroke.value not in self._names:
            known = ", ".join(f"{value} ({name})" for value, name in self._names.items())
            raise ValueError(f"{which} has the label {stroke.value}, which the model does not have; known are {known}")
        if not len(self._voxels(stroke)):
            x, y, z = stroke.points_mm[0]
            point = f"{x:.6g}, {y:.6g}, {z:.6g}"
            line = f"{which} lies outside the segmented region (its first point is {point} LPS mm); "
            line += "draw inside it, or segment with another ROI"
            raise ValueError(Coded(line, "stroke-outside", point=point))

    def add(self, stroke: Stroke) -> Change:
        """Add a stroke: the quick answer.

        Raises
        ------
        ValueError
            As `check`.
        """
        self.check(stroke)
        self._undone.clear()
        return self._add(stroke)

    def settle(self) -> Change | None:
        """Clean up the last stroke at image edges; None if that is done, or there is no stroke.

        The stroke's entry in `changes` is replaced; what is returned is the difference to the quick answer.
        """
        if self.settled:
            return None
        done = self._done[-1]
        before = done.box_before
        assert before is not None
        self._revert(done)
        quick_mask = np.array(self._mask)
        _write(quick_mask, done.voxels, done.after)
        final = self._respond(done.stroke, done.box, before, done.quick)
        settled = self._apply(done.stroke, done.box, before, final, done.change.notes)
        settled.settled, settled.box_before, settled.quick = True, None, None
        self._done[-1] = settled
        return self._difference(quick_mask)

    def undo(self) -> Change | None:
        """Undo the last stroke; None if there is none."""
        if not self._done:
            return None
        was = np.array(self._mask)
        done = self._done.pop()
        self._revert(done)
        self._undone.append(done.stroke)
        return self._difference(was)

    def redo(self) -> Change | None:
        """Redo the stroke that was undone last, settled; None if there is none, or another has been added since."""
        if not self._undone:
            return None
        was = np.array(self._mask)
        self._add(self._undone.pop())
        self.settle()
        return self._difference(was)

    def set_strokes(self, strokes: Iterable[Stroke], settle: bool = True, report: Report = ignore_progress) -> Change:
        """Make `strokes` the list of strokes: those that differ are undone, missing ones are added.

        Raises
        ------
        ValueError
            As `check`, before anything changes.
        Cancelled
            From the report; the strokes before that one stand.
        """
        wanted = list(strokes)
        common = 0
        for mine, theirs in zip(self.strokes, wanted, strict=False):
            if mine != theirs:
                break
            common += 1
        for number, stroke in enumerate(wanted[common:], common + 1):
            self.check(stroke, number)
        was = np.array(self._mask)
        while len(self._done) > common:
            self.undo()
        for number, stroke in enumerate(wanted[common:]):
            missing = len(wanted) - common
            report(Progress(f"stroke {common + number + 1} of {len(wanted)}", number / missing))
            self.add(stroke)
        if settle:
            self.settle()
        return self._difference(was)

    def explain(self, index: Index3) -> int | None:
        """Number, from 0, of the stroke that last set the scan's voxel `index`; None if the model did."""
        local = tuple(n - s for n, s in zip(index, self._start, strict=True))
        if not all(0 <= n < m for n, m in zip(local, self._mask.shape, strict=True)):
            return None
        flat = int(np.ravel_multi_index(local, self._mask.shape))
        for number in range(len(self._done) - 1, -1, -1):
            if _holds(self._done[number].voxels, flat) or _holds(self._done[number].painted, flat):
                return number
        return None

    def touched(self) -> npt.NDArray[np.bool_]:
        """The voxels of the segmented region that strokes painted or turned."""
        found = self._painted != _FREE
        for done in self._done:
            found.reshape(-1)[done.voxels] = True
        return found

    def _classes(self) -> npt.NDArray[np.uint8]:
        """The mask on the working grid, as class numbers."""
        number = np.zeros(256, dtype=np.uint8)
        number[self._values] = np.arange(len(self._values))
        return self._grid.forward_labels(number[self._mask], len(self._values)).numpy()

    def _class_of(self, stroke: Stroke) -> int:
        return int(np.flatnonzero(self._values == stroke.value)[0])

    def _add(self, stroke: Stroke) -> Change:
        self.settle()
        voxels = stroke.voxels(self._working)
        if not len(voxels):  # a thin stroke at the very border of the region
            voxels = self._nearest_working(stroke)
        box = self._box(voxels, wide=False)
        before = self._log_odds(self._class_of(stroke), box.window)
        agrees = bool((self._mask.reshape(-1)[self._flat(stroke)] == stroke.value).all())
        quick = before if agrees else self._respond(stroke, box, before)
        open_ = [(side.start > 0, side.stop < n) for side, n in zip(box.window, self._grid.size, strict=True)]
        if stroke_response.is_cut_off(before, quick, open_):
            box = self._box(voxels, wide=True)
            before = self._log_odds(self._class_of(stroke), box.window)
            quick = self._respond(stroke, box, before)
        ends = self._ends(box)
        # What is removed may end flat: beyond the region there is nothing, and a rim of it would stay.
        if stroke.value != BACKGROUND and stroke_response.is_cut_off(before, quick, ends):
            box = replace(box, ends=ends)
            quick = self._respond(stroke, box, before)
        done = self._apply(stroke, box, before, quick, self._notes(stroke))
        if agrees:  # nothing changes, and what was painted stays as it is whatever comes
            done.settled = True
        else:
            done.box_before, done.quick = before, quick
        self._done.append(done)
        return done.change

    def _box(self, voxels: npt.NDArray[np.int64], wide: bool) -> StrokeBox:
        """The box on which a stroke of these working voxels acts."""
        margin = np.asarray(stroke_response.reach(self._grid.step_lengths, wide))
        low = np.maximum(voxels.min(axis=0) - margin, 0)
        high = np.minimum(voxels.max(axis=0) + 1 + margin, np.asarray(self._grid.size))
        k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return StrokeBox((k, j, i), voxels - low, wide)

    def _ends(self, box: StrokeBox) -> stroke_response.Sides:
        """The sides of a box at which the segmented region ends, while the scan goes on."""
        sides = zip(box.window, self._grid.size, self._goes_on, strict=True)
        return [(low and window.start == 0, high and window.stop == n) for window, n, (low, high) in sides]

    def _nearest_working(self, stroke: Stroke) -> npt.NDArray[np.int64]:
        index = np.rint(self._working.to_index(np.asarray(stroke.points_mm))).astype(np.int64)
        return np.unique(np.clip(index, 0, np.asarray(self._grid.size) - 1), axis=0)

    def _notes(self, stroke: Stroke) -> tuple[str, ...]:
        notes: list[str] = []
        index = self._geometry.to_index(np.asarray(stroke.points_mm))
        outside = int(((index < -0.5) | (index > np.asarray(self._geometry.shape) - 0.5)).any(axis=1).sum())
        if outside:
            line = f"{outside} of its {len(index)} points lie outside the segmented region"
            notes.append(Coded(line, "points-outside", n=outside, total=len(index)))
        mine = self._flat(stroke)
        held = self._painted.reshape(-1)[mine]
        contradicted = mine[(held != _FREE) & (held != self._class_of(stroke))]
        for number, done in enumerate(self._done if len(contradicted) else (), 1):
            common = int(np.isin(contradicted, done.painted, assume_unique=True).sum())
            if common and done.stroke.value != stroke.value:
                name = self._names[done.stroke.value]
                line = f"it replaces {common} voxels of stroke {number} ({name}): the later stroke counts"
                notes.append(Coded(line, "replaces-stroke", n=common, number=number, name=name))
        return tuple(notes)

    def _flat(self, stroke: Stroke) -> npt.NDArray[np.int64]:
        """The stroke's voxels of the crop as sorted flat indices."""
        return np.ravel_multi_index(tuple(self._voxels(stroke).T), self._mask.shape).astype(np.int64)

    def _voxels(self, stroke: Stroke) -> npt.NDArray[np.int64]:
        """Of the crop; those of the stroke at hand are kept, for they are asked for often."""
        if self._at_hand is None or self._at_hand[0] is not stroke:
            self._at_hand = stroke, stroke.voxels(self._geometry)
        return self._at_hand[1]

    def _log_odds(self, c: int, window: Window) -> stroke_response.Scores:
        """Of class c against the best other."""
        here = self._scores[(slice(None), *window)]
        others = np.delete(here, c, axis=0).max(axis=0)
        return np.ascontiguousarray(here[c] - others)

    def _respond(
        self,
        stroke: Stroke,
        box: StrokeBox,
        before: stroke_response.Scores,
        quick: stroke_response.Scores | None = None,
    ) -> stroke_response.Scores:
        """The response in the box, or with `quick` its clean-up at image edges."""
        c = self._class_of(stroke)
        marked = self._hard[box.window]
        hard = np.where(marked == _FREE, 0, np.where(marked == c, 1, -1)).astype(np.int8)
        return respond_in_box(
            before,
            self._image[box.window],
            box.mask(before.shape),
            hard,
            self._grid.step_lengths,
            quick,
            box.wide,
            box.ends,
        )

    def _apply(
        self,
        stroke: Stroke,
        box: StrokeBox,
        before: stroke_response.Scores,
        final: stroke_response.Scores,
        notes: tuple[str, ...],
    ) -> AppliedStroke:
        """Write an answer into scores and mask."""
        c = self._class_of(stroke)
        own = self._scores[c][box.window]
        raised = np.flatnonzero(final.reshape(-1) > before.reshape(-1))
        at = np.unravel_index(raised, before.shape)
        scores_before = own[at]
        own[at] += final[at] - before[at]
        marks = tuple((box.painted + [s.start for s in box.window]).T)
        hard_before = self._hard[marks]
        self._hard[marks] = c
        window, (old_odds, new_odds) = self._grid.back_part(np.stack([before, final]), box.window)
        turned = (new_odds > 0) & (new_odds > old_odds)
        mask = self._mask[window]
        free = (self._painted[window] == _FREE) | (self._painted[window] == c)
        local = np.argwhere(turned & free & (mask != stroke.value)) + [s.start for s in window]
        flat = np.ravel_multi_index(tuple(local.T), self._mask.shape)
        painted = self._flat(stroke)
        new = painted[self._mask.reshape(-1)[painted] != stroke.value]
        flat = np.union1d(flat, new).astype(np.int64)
        old, painted_before = self._mask.reshape(-1)[flat], self._painted.reshape(-1)[painted]
        _write(self._mask, flat, stroke.value)
        _write(self._painted, painted, c)
        return AppliedStroke(
            stroke,
            self._change(flat, old, np.full_like(old, stroke.value), notes),
            voxels=flat,
            before=old,
            after=np.full_like(old, stroke.value),
            painted=painted,
            painted_before=painted_before,
            box=box,
            raised=raised,
            scores_before=scores_before,
            hard_before=hard_before,
        )

    def _revert(self, done: AppliedStroke) -> None:
        """Put everything back as it was before a stroke, which is the last one."""
        _write(self._mask, done.voxels, done.before)
        _write(self._painted, done.painted, done.painted_before)
        box = done.box
        own = self._scores[self._class_of(done.stroke)][box.window]
        own[np.unravel_index(done.raised, own.shape)] = done.scores_before
        self._hard[tuple((box.painted + [s.start for s in box.window]).T)] = done.hard_before

    def _difference(self, was: npt.NDArray[np.uint8]) -> Change:
        flat = np.flatnonzero(was.reshape(-1) != self._mask.reshape(-1))
        return self._change(flat, was.reshape(-1)[flat], self._mask.reshape(-1)[flat])

    def _change(
        self,
        flat: npt.NDArray[np.int64],
        before: npt.NDArray[np.uint8],
        after: npt.NDArray[np.uint8],
        notes: tuple[str, ...] = (),
    ) -> Change:
        voxel_ml = self._geometry.voxel_ml
        if not len(flat):
            return Change(voxel_ml=voxel_ml, notes=notes)
        index = np.stack(np.unravel_index(flat, self._mask.shape), axis=1) + np.asarray(self._start)
        k, j, i = (int(n) for n in index.min(axis=0))
        stop_k, stop_j, stop_i = (int(n) + 1 for n in index.max(axis=0))
        return Change(
            ((k, j, i), (stop_k, stop_j, stop_i)), len(flat), _counts(after), _counts(before), voxel_ml, notes
        )


def _agreeing(scores: stroke_response.Scores, classes: npt.NDArray[np.uint8]) -> stroke_response.Scores:
    """Scores that say what the mask says, which lacks small parts: its class wins everywhere, if only just."""
    scores = np.array(scores, dtype=np.float32)
    best = scores.max(axis=0)
    own = np.take_along_axis(scores, classes[None].astype(np.int64), axis=0)[0]
    other = scores.argmax(axis=0) != classes
    lifted = np.where(other, best + np.float32(0.1), own)
    np.put_along_axis(scores, classes[None].astype(np.int64), lifted[None], axis=0)
    return scores


def _write(array: npt.NDArray[np.uint8], flat: npt.NDArray[np.int64], values: npt.NDArray[np.uint8] | int) -> None:
    array.reshape(-1)[flat] = values


def _counts(values: npt.NDArray[np.uint8]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}


def _holds(sorted_: npt.NDArray[np.int64], value: int) -> bool:
    at = int(np.searchsorted(sorted_, value))
    return at < len(sorted_) and int(sorted_[at]) == value


__all__ = ["Change", "Refiner"]
