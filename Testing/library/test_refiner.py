"""A mask corrected by strokes: what must hold whatever the response to a stroke is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.inference.prediction import Embeddings, Prediction
from mper.labels import Segmentation, make_label
from mper.refinement.refiner import Refiner
from mper.strokes import Stroke
from mper.volume import Geometry, Volume

START = (1, 2, 3)  # of the region in the scan


def oblique(spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> Geometry:
    turn = np.radians(20)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    # Array axes run to Posterior, Superior and Right: none is where the working grid has it.
    return Geometry.from_axes(
        (12.0, -40.0, 7.0), spacing_mm, turned @ np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]]), shape
    )


def ball(geometry: Geometry, centre: np.ndarray, radius_mm: float) -> np.ndarray:
    """Signed distance in mm, positive inside."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    return radius_mm - np.linalg.norm(geometry.to_world(index) - centre, axis=-1)


class Scene:
    """A prediction of a ball that misses a bump, with a neighbour of another class where there are two."""

    def __init__(self, classes: int = 2, dimensions: int = 3, known: bool = True):
        if dimensions == 3:
            scan = oblique((1.2, 0.9, 0.9), (40, 52, 50))
            scheme = Preprocessing(spacing_mm=(1.3, 1.3, 1.3), normalisation="percentile")
        else:
            scan = oblique((8.0, 1.1, 1.1), (9, 52, 50))
            scheme = Preprocessing(spacing_mm=(8.0, 1.2, 1.2), normalisation="percentile")
        if not known:
            scan, scheme = Geometry.unknown(scan.shape), Preprocessing(spacing_mm=None, normalisation="percentile")
        stop = tuple(n - 1 for n in scan.shape)
        crop = scan.crop(START, stop)
        grid = WorkingGrid.plan(crop, scheme, dimensions)
        working = grid.geometry(crop)
        self.geometry = scan
        self.centre = crop.to_world((np.array(crop.shape) - 1) / 2)
        self.bump = self.centre + 12 * crop.directions[:, 2]
        self.beside = self.centre - 14 * crop.directions[:, 1]
        inside = ball(working, self.centre, 11.0)
        logits = [torch.from_numpy(-inside / 3), torch.from_numpy(inside / 3)]
        if classes == 3:
            logits.append(torch.from_numpy(ball(working, self.beside, 6.0) / 3 + 0.5))
        scores = torch.stack(logits)
        truth = np.maximum(inside, ball(working, self.bump, 6.0)) > 0
        image = torch.from_numpy(np.where(truth, 1.0, -1.0) + np.random.default_rng(0).normal(0, 0.1, truth.shape))
        there = grid.back(scores.softmax(0).float()).argmax(0).numpy().astype(np.uint8)
        values = np.array([0, 1, 4][:classes], dtype=np.uint8)
        mask = np.zeros(scan.shape, dtype=np.uint8)
        mask[tuple(slice(a, b) for a, b in zip(START, stop, strict=True))] = values[there]
        labels = (make_label(1, "LA"), make_label(4, "LV"))[: classes - 1]
        self.prediction = Prediction(
            Segmentation(Volume(mask, scan), labels),
            0.9,
            embeddings=Embeddings(
                torch.randn(4, *grid.size, generator=torch.Generator().manual_seed(0)).half(),
                grid,
                START,
                stop,
                image.half(),
                scores.half(),
            ),
        )

    def stroke(self, value: int = 1, at: np.ndarray | None = None, radius_mm: float = 2.0) -> Stroke:
        place = self.bump if at is None else at
        return Stroke(value, (tuple(place.tolist()),), radius_mm)

    def random_strokes(self, count: int, seed: int = 0) -> list[Stroke]:
        rng = np.random.default_rng(seed)
        values = [0, *(label.value for label in self.prediction.segmentation.labels)]
        index = rng.uniform(np.array(START), np.array(self.geometry.shape) - 2, (count, 3))
        return [
            Stroke(int(rng.choice(values)), (tuple(self.geometry.to_world(one).tolist()),), float(rng.uniform(0, 4)))
            for one in index
        ]


def array_of(refiner: Refiner) -> np.ndarray:
    return refiner.segmentation.labelmap.array


SCENES = [{}, {"classes": 3}, {"dimensions": 2}, {"dimensions": 2, "classes": 3}, {"known": False}]
scenes = pytest.mark.parametrize("kind", SCENES, ids=lambda kind: "-".join(map(str, kind.values())) or "plain")


@scenes
def test_without_strokes_the_mask_is_the_models(kind: dict) -> None:
    scene = Scene(**kind)
    assert np.array_equal(array_of(Refiner(scene.prediction)), scene.prediction.segmentation.labelmap.array)


@pytest.mark.parametrize("kind", SCENES[:4], ids=["plain", "3", "2", "2-3"])
def test_a_stroke_fills_the_bump_that_was_missed(kind: dict) -> None:
    scene = Scene(**kind)
    refiner = Refiner(scene.prediction)
    before = array_of(refiner)
    change = refiner.add(scene.stroke(radius_mm=3.0))
    after = array_of(refiner)
    assert change.voxels == np.count_nonzero(before != after) > 0
    assert set(np.unique(after[before != after])) == {1}
    painted = tuple(refiner.strokes[0].voxels(scene.geometry).T)
    assert (after[painted] == 1).all()
    assert change.voxels > np.count_nonzero(before[painted] != 1)  # more than the brush alone


@scenes
def test_hard_constraints_hold_and_the_later_one_wins(kind: dict) -> None:
    scene = Scene(**kind)
    refiner = Refiner(scene.prediction)
    strokes = scene.random_strokes(12)
    refiner.set_strokes(strokes)
    found = array_of(refiner)
    wanted = np.full(found.shape, 255, dtype=np.uint8)
    for stroke in strokes:
        voxels = stroke.voxels(scene.geometry)
        inside = ((voxels >= START) & (voxels < np.array(found.shape) - 1)).all(axis=1)
        wanted[tuple(voxels[inside].T)] = stroke.value
    assert np.array_equal(found[wanted < 255], wanted[wanted < 255])


@scenes
def test_a_stroke_turns_voxels_into_its_label_and_no_other(kind: dict) -> None:
    scene = Scene(**kind)
    refiner = Refiner(scene.prediction)
    for stroke in scene.random_strokes(6, seed=1):
        before = array_of(refiner)
        refiner.settle()
        refiner.add(stroke)
        refiner.settle()
        after = array_of(refiner)
        assert (after[before != after] == stroke.value).all()


@scenes
def test_a_stroke_that_agrees_changes_nothing(kind: dict) -> None:
    scene = Scene(**kind)
    refiner = Refiner(scene.prediction)
    before = array_of(refiner)
    centre = scene.stroke(1, at=scene.centre, radius_mm=2.0)
    change = refiner.add(centre)
    refiner.settle()
    assert np.array_equal(array_of(refiner), before)
    assert (change.box, change.voxels) == (None, 0)


@scenes
def test_undo_returns_exactly_and_redo_again(kind: dict) -> None:
    scene = Scene(**kind)
    refiner = Refiner(scene.prediction)
    scores = refiner._scores.copy()
    states = [array_of(refiner)]
    for stroke in scene.random_strokes(5, seed=2):
        refiner.add(stroke)
        refiner.settle()
        states.append(array_of(refiner))
    for state in states[-2::-1]:
        refiner.undo()
        assert np.array_equal(array_of(refiner), state)
    assert refiner.undo() is None
    assert np.array_equal(refiner._scores, scores)
    assert (refiner._hard == 255).all()
    assert (refiner._painted == 255).all()
    for state in states[1:]:
        refiner.redo()
        assert np.array_equal(array_of(refiner), state)
    assert refiner.redo() is None


@scenes
def test_a_quick_answer_is_undone_exactly_too(kind: dict) -> None:
    scene = Scene(**kind)
    refiner = Refiner(scene.prediction)
    before, scores = array_of(refiner), refiner._scores.copy()
    refiner.add(scene.random_strokes(1, seed=3)[0])
    assert not refiner.settled
    refiner.undo()
    assert refiner.settled
    assert np.array_equal(array_of(refiner), before)
    assert np.array_equal(refiner._scores, scores)


@scenes
def test_the_list_of_strokes_replays_exactly(kind: dict) -> None:
    scene = Scene(**kind)
    strokes = scene.random_strokes(6, seed=4)
    drawn = Refiner(scene.prediction)
    for stroke in strokes:  # nobody waits for the clean-up
        drawn.add(stroke)
    drawn.settle()
    replayed = Refiner(scene.prediction)
    replayed.set_strokes(drawn.strokes)
    assert np.array_equal(array_of(drawn), array_of(replayed))
    assert [c.voxels for c in drawn.changes] == [c.voxels for c in replayed.changes]
    replayed.set_strokes(strokes[:2])
    replayed.set_strokes([*strokes[:2], *strokes[3:]])
    fresh = Refiner(scene.prediction)
    fresh.set_strokes([*strokes[:2], *strokes[3:]])
    assert np.array_equal(array_of(replayed), array_of(fresh))


def test_a_change_says_where_and_how_much() -> None:
    scene = Scene(classes=3)
    refiner = Refiner(scene.prediction)
    refiner.set_strokes([scene.stroke(radius_mm=3.0)])
    change = refiner.set_strokes([scene.stroke(radius_mm=3.0), scene.stroke(0, at=scene.beside)])
    middle = Refiner(scene.prediction)
    middle.set_strokes([scene.stroke(radius_mm=3.0)])
    differs = np.argwhere(array_of(middle) != array_of(refiner))
    assert change.box == (tuple(differs.min(0)), tuple(differs.max(0) + 1))
    assert change.voxels == len(differs)
    assert change.removed_ml is not None
    ml = float(np.prod(scene.geometry.spacing_mm or ())) / 1000
    assert sum(change.removed_ml.values()) == pytest.approx(len(differs) * ml)
    assert change.removed_ml[4] > 0
    assert change.added_ml == {}
    start, stop = change.box
    whole = array_of(refiner)
    assert np.array_equal(
        refiner.part(start, stop), whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    )
    assert np.array_equal(refiner.part((0, 0, 0), scene.geometry.shape), whole)


def test_what_settling_changes_is_told() -> None:
    scene = Scene()
    refiner = Refiner(scene.prediction)
    refiner.add(scene.stroke(radius_mm=3.0))
    quick = array_of(refiner)
    change = refiner.settle()
    assert change is not None
    assert change.voxels == np.count_nonzero(quick != array_of(refiner))
    assert refiner.settle() is None


def test_millilitres_of_an_unknown_spacing_are_unknown() -> None:
    scene = Scene(known=False)
    refiner = Refiner(scene.prediction)
    change = refiner.add(scene.stroke(0, at=scene.centre, radius_mm=2.0))
    assert change.voxels > 0
    assert change.removed_ml is None


def test_a_voxel_is_explained_by_its_stroke() -> None:
    scene = Scene()
    refiner = Refiner(scene.prediction)
    refiner.set_strokes(
        [scene.stroke(radius_mm=3.0), scene.stroke(0, at=scene.centre - 9 * scene.geometry.directions[:, 2])]
    )
    places = [
        np.rint(scene.geometry.to_index(p)).astype(int) for p in (stroke.points_mm[0] for stroke in refiner.strokes)
    ]
    assert [refiner.explain(tuple(map(int, p))) for p in places] == [0, 1]
    assert refiner.explain(tuple(int(n) for n in np.rint(scene.geometry.to_index(scene.centre)))) is None
    assert refiner.explain((0, 0, 0)) is None


def test_a_contradiction_is_told_and_the_later_stroke_counts() -> None:
    scene = Scene()
    refiner = Refiner(scene.prediction)
    refiner.add(scene.stroke(1))
    change = refiner.add(scene.stroke(0))
    count = len(scene.stroke(0).voxels(scene.geometry))
    assert change.notes == (f"it replaces {count} voxels of stroke 1 (LA): the later stroke counts",)


def test_a_stroke_half_outside_is_clipped_and_told() -> None:
    scene = Scene()
    refiner = Refiner(scene.prediction)
    outside = scene.geometry.to_world((-30, 20, 20))
    change = refiner.add(Stroke(1, (tuple(scene.bump.tolist()), tuple(outside.tolist())), 2.0))
    assert change.notes == ("1 of its 2 points lie outside the segmented region",)
    assert change.voxels > 0


def test_a_stroke_outside_is_refused_and_nothing_changes() -> None:
    scene = Scene()
    refiner = Refiner(scene.prediction)
    refiner.set_strokes([scene.stroke()])
    before = array_of(refiner)
    away = scene.stroke(1, at=scene.centre + 500)
    with pytest.raises(ValueError, match="stroke 2 lies outside the segmented region"):
        refiner.set_strokes([scene.stroke(), away, scene.stroke(0)])
    assert np.array_equal(array_of(refiner), before)
    assert refiner.strokes == (scene.stroke(),)


def test_an_unknown_label_is_refused_with_the_known_ones() -> None:
    scene = Scene()
    with pytest.raises(
        ValueError, match=r"label 4, which the model does not have; known are 0 \(background\), 1 \(LA\)"
    ):
        Refiner(scene.prediction).add(scene.stroke(4))


@pytest.mark.parametrize("lost", ["embeddings", "logits", "image"])
def test_a_prediction_without_what_is_needed_is_refused(lost: str) -> None:
    prediction = Scene().prediction
    kept = None if lost == "embeddings" else replace(prediction.embeddings, **{lost: None})
    with pytest.raises(ValueError, match=r"predict again with want=\('embeddings',\)"):
        Refiner(replace(prediction, embeddings=kept, method="whole"))


def test_a_region_painted_at_once_is_answered_on_a_coarser_grid() -> None:
    scene = Scene()
    rng = np.random.default_rng(5)
    points = scene.geometry.to_world(rng.uniform((3, 4, 5), np.array(scene.geometry.shape) - 4, (300, 3)))
    stroke = Stroke(0, tuple(map(tuple, points.tolist())), 3.0)
    refiner = Refiner(scene.prediction)
    refiner.set_strokes([stroke, scene.stroke(1, at=scene.centre, radius_mm=1.0)])
    found = array_of(refiner)
    painted = stroke.voxels(scene.geometry)
    centre = {tuple(v) for v in scene.stroke(1, at=scene.centre, radius_mm=1.0).voxels(scene.geometry).tolist()}
    assert all(found[tuple(v)] == (1 if tuple(v) in centre else 0) for v in painted.tolist())
    assert refiner.nbytes > 0


def turned_everywhere(
    monkeypatch: pytest.MonkeyPatch, stop: tuple[int, int, int], at: tuple[int, int, int], value: int = 1
) -> np.ndarray:
    """What a stroke turns in a scan of 60 voxels a side, segmented up to `stop`, where the response has no end."""
    geometry = Geometry.from_axes((0, 0, 0), (1.0, 1.0, 1.0), np.eye(3), (60, 60, 60))
    scheme = Preprocessing(spacing_mm=(1.0, 1.0, 1.0), normalisation="percentile")
    grid = WorkingGrid.plan(geometry.crop((0, 0, 0), stop), scheme, 3)
    scores = torch.stack([torch.full(grid.size, value - 0.5), torch.full(grid.size, 0.5 - value)])
    array = np.zeros(geometry.shape, np.uint8)
    array[tuple(map(slice, stop))] = 1 - value
    mask = Segmentation(Volume(array, geometry), (make_label(1, "LA"),))
    kept = Embeddings(torch.zeros(2, *grid.size), grid, (0, 0, 0), stop, torch.zeros(grid.size), scores)
    refiner = Refiner(Prediction(mask, 0.9, embeddings=kept))
    everywhere = lambda seen: torch.full((1, *seen.shape[2:]), 9.0)  # noqa: E731
    monkeypatch.setattr("mper.refinement.stroke_response.shipped_network", lambda: everywhere)
    refiner.add(Stroke(value, (tuple(geometry.to_world(at).tolist()),), 2.0))
    refiner.settle()
    return np.asarray(refiner.segmentation.labelmap.array != array)


def test_a_stroke_that_turns_all_around_it_ends_round_and_not_at_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = turned_everywhere(monkeypatch, (60, 60, 60), (30, 30, 30))
    away = np.linalg.norm(np.argwhere(turned) - 30, axis=1)
    assert 18 < away.max() < 26
    assert turned.sum() == pytest.approx(4 / 3 * np.pi * away.max() ** 3, rel=0.15)  # a ball, and not a box


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stroke_is_blended_to_the_border_of_the_region_where_the_scan_goes_on(
    monkeypatch: pytest.MonkeyPatch, axis: int
) -> None:
    stop = tuple(38 if a == axis else 60 for a in range(3))
    whole, part = (turned_everywhere(monkeypatch, end, (30, 30, 30)) for end in ((60, 60, 60), stop))
    whole, part = np.moveaxis(whole, axis, 0), np.moveaxis(part, axis, 0)
    areas = part.sum(axis=(1, 2))
    assert (np.diff(areas[30:38]) < 0).all() and areas[37] < 0.1 * whole.sum(axis=(1, 2))[37]  # not a flat end
    assert not (part & ~whole).any()
    away = np.linalg.norm(np.indices(part.shape) - 30, axis=0)
    border = np.abs(np.arange(60) - 37.5)[:, None, None]
    free = (border > (away - 1) ** 2 / 32 + 2.5) & (np.arange(60) < 38)[:, None, None]
    assert np.array_equal(part[free], whole[free])  # as with a larger region


@pytest.mark.parametrize(
    ("stop", "value"), [((60, 60, 60), 1), ((54, 60, 60), 0)], ids=["border of the scan", "what is removed"]
)
def test_where_nothing_is_beyond_the_border_a_stroke_is_not_blended(
    monkeypatch: pytest.MonkeyPatch, stop: tuple[int, int, int], value: int
) -> None:
    turned = turned_everywhere(monkeypatch, stop, (stop[0] - 7, 30, 30), value)
    areas = turned.sum(axis=(1, 2))
    assert areas[stop[0] - 1] > 0.8 * areas[stop[0] - 7]
