"""Strokes on predictions, over HTTP: the same masks as without an engine, and nothing lost by what is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import MODEL, Answer, Caller, Served, served
from scipy.ndimage import distance_transform_edt

from mper.datasets.scan_record import voxels_sha256
from mper.engine.settings import Limits
from mper.inference.predictor import Predictor
from mper.measurement.measures import measure
from mper.models.bundle import ModelBundle
from mper.refinement import refiner as refiner_module
from mper.refinement.refiner import Refiner
from mper.strokes import Stroke
from mper.volume import Geometry, Index3, Volume

WANTED = ("label_probability", "prototypes", "embeddings")


@pytest.fixture(scope="module")
def predictor(root: Path) -> Predictor:
    return Predictor(ModelBundle.load(root / "mine" / "models" / "small" / "1"), "cpu")


@pytest.fixture(scope="module")
def uploaded(engine: Served, scan: Volume) -> str:
    return engine.upload(scan)


@pytest.fixture
def result(engine: Served, uploaded: str) -> dict[str, Any]:
    """A prediction without strokes."""
    return engine.segment(uploaded, MODEL)


@pytest.fixture
def refiner(predictor: Predictor, scan: Volume) -> Refiner:
    """The same, without an engine."""
    return Refiner(predictor.predict(scan, want=WANTED))


@pytest.fixture(scope="module")
def places(predictor: Predictor, scan: Volume) -> tuple[Index3, Index3]:
    """The voxels deepest in the background and in the structure."""
    mask = predictor.predict(scan).segmentation.labelmap.array
    deepest = [distance_transform_edt(np.pad(mask == value, 1))[1:-1, 1:-1, 1:-1].argmax() for value in (0, 1)]
    outside, inside = (tuple(int(n) for n in np.unravel_index(at, mask.shape)) for at in deepest)
    return outside, inside  # type: ignore[return-value]


@pytest.fixture(scope="module")
def strokes(scan: Volume, places: tuple[Index3, Index3]) -> list[Stroke]:
    """The structure where none was found, background where it was, and background on a part of the first."""
    (k, j, i), inside = places

    def at(*index: Index3) -> tuple[Any, ...]:
        return tuple(tuple(point) for point in scan.geometry.to_world(index).tolist())

    return [
        Stroke(1, at((k, j, i), (k, j + 1, i)), 2.5),
        Stroke(0, at(inside), 2.0),
        Stroke(0, at((k, j + 2, i)), 1.0),
    ]


def body(strokes: list[Stroke], **more: Any) -> dict[str, Any]:
    listed = [
        {"value": s.value, "points_mm": [list(p) for p in s.points_mm], "radius_mm": s.radius_mm} for s in strokes
    ]
    return {"strokes": listed, **more}


def put(engine: Caller, result: dict[str, Any], strokes: list[Stroke], **more: Any) -> Answer:
    return engine.call("PUT", f"/predictions/{result['prediction']}/strokes", body(strokes, **more))


def mask_of(engine: Caller, result: dict[str, Any]) -> np.ndarray:
    """The mask on the whole scan's grid."""
    answer = engine.get(f"/predictions/{result['prediction']}/mask")
    part, start = answer.array(), answer.array_header()["start"]
    whole = np.zeros(result["shape"], np.uint8)
    whole[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    return whole


def array_of(refiner: Refiner) -> np.ndarray:
    return np.array(refiner.segmentation.labelmap.array)


def test_the_mask_after_strokes_is_the_refiners_own(
    engine: Served, result: dict, refiner: Refiner, strokes: list[Stroke]
) -> None:
    before = array_of(refiner)
    for n in range(1, len(strokes) + 1):
        quick = put(engine, result, strokes[:n], settle=False).json()
        refiner.set_strokes(strokes[:n], settle=False)
        assert quick["settled"] == refiner.settled
        (told,), (expected,) = quick["structures"], measure(refiner.segmentation)
        assert told["voxels"] == expected.voxels and told["volume_ml"] == pytest.approx(expected.volume_ml)
        assert told["surface_mm2"] is told["components"] is told["confidence"] is None
        assert np.array_equal(mask_of(engine, result), array_of(refiner))
        settled = put(engine, result, strokes[:n]).json()
        refiner.settle()
        assert settled["settled"]
        assert np.array_equal(mask_of(engine, result), array_of(refiner))
    assert not np.array_equal(mask_of(engine, result), before)


def test_the_answer_tells_what_each_stroke_changed(
    engine: Served, result: dict, refiner: Refiner, strokes: list[Stroke]
) -> None:
    answer = put(engine, result, strokes).json()
    refiner.set_strokes(strokes)
    assert [(row["value"], row["name"]) for row in answer["strokes"]] == [
        (1, "structure 1"),
        (0, "background"),
        (0, "background"),
    ]
    for row, change in zip(answer["strokes"], refiner.changes, strict=True):
        assert row["voxels"] == change.voxels and row["notes"] == list(change.notes)
        assert row["added_ml"] == pytest.approx({str(v): ml for v, ml in change.added_ml.items()})
        assert row["removed_ml"] == pytest.approx({str(v): ml for v, ml in change.removed_ml.items()})
    assert answer["strokes"][0]["added_ml"]["1"] > 0
    assert any("replaces" in note and note.startswith("stroke 3: ") for note in answer["notes"])
    assert {coded["code"] for coded in answer["line_codes"].values()} == {"stroke-note", "replaces-stroke"}
    (told,) = answer["structures"]
    (expected,) = measure(refiner.segmentation)
    assert told["voxels"] == expected.voxels and told["components"] == expected.components
    assert told["surface_mm2"] == pytest.approx(expected.surface_mm2)
    assert 0 < told["confidence"] <= 1 and answer["seconds"] > 0
    assert engine.get(f"/predictions/{result['prediction']}/structures").json() == answer["structures"]


def test_outside_of_what_changed_the_mask_is_as_it_was(engine: Served, result: dict, strokes: list[Stroke]) -> None:
    before = mask_of(engine, result)
    for wanted in (strokes[:1], strokes, strokes[1:], []):
        changed = put(engine, result, wanted).json()["changed"]
        start, stop = changed
        after = mask_of(engine, result)
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        part = engine.get(f"/predictions/{result['prediction']}/mask?from={_text(start)}&to={_text(stop)}")
        assert np.array_equal(part.array(), after[window]) and part.array_header()["start"] == start
        before[window] = part.array()
        assert np.array_equal(before, after)
    assert put(engine, result, []).json()["changed"] is None


def test_undo_is_a_shorter_list_and_replay_the_whole_one(
    engine: Served, result: dict, uploaded: str, strokes: list[Stroke]
) -> None:
    before = mask_of(engine, result)
    masks = []
    for n in range(len(strokes) + 1):
        put(engine, result, strokes[:n], settle=n % 2 == 0)
        put(engine, result, strokes[:n])
        masks.append(mask_of(engine, result))
    for n in reversed(range(len(strokes) + 1)):  # undo
        assert len(put(engine, result, strokes[:n]).json()["strokes"]) == n
        assert np.array_equal(mask_of(engine, result), masks[n])
    assert np.array_equal(masks[0], before)
    put(engine, result, strokes)  # redo
    assert np.array_equal(mask_of(engine, result), masks[-1])
    engine.delete(f"/predictions/{result['prediction']}")
    gone = put(engine, result, strokes)
    assert gone.status == 404
    assert "segment again" in gone.error() and "the whole list of strokes" in gone.error()
    again = engine.segment(uploaded, MODEL)
    put(engine, again, strokes)  # replay
    assert np.array_equal(mask_of(engine, again), masks[-1])


def test_a_corrected_voxel_is_explained_by_its_stroke(
    engine: Served, result: dict, strokes: list[Stroke], places: tuple[Index3, Index3]
) -> None:
    home = f"/predictions/{result['prediction']}"
    k, j, i = places[0]
    assert engine.get(f"{home}/probe?k={k}&j={j}&i={i}").json()["stroke"] is None
    put(engine, result, strokes)
    first = engine.get(f"{home}/probe?k={k}&j={j}&i={i}").json()
    assert (first["value"], first["name"], first["stroke"], first["probability"]) == (1, "structure 1", 0, None)
    assert len(first["prototypes"]) == 3
    last = engine.get(f"{home}/probe?k={k}&j={j + 2}&i={i}").json()
    assert (last["value"], last["name"], last["stroke"]) == (0, "background", 2)
    percent = engine.get(f"{home}/uncertainty").array()
    assert percent[k, j, i] == percent[k, j + 2, i] == 0


def test_nobody_is_led_to_where_a_stroke_is_already(engine: Served, result: dict) -> None:
    home = f"/predictions/{result['prediction']}"
    places = engine.get(f"{home}/uncertain_places").json()
    assert places == result["uncertain_places"] and len(places) > 1
    stroke = Stroke(1, (tuple(places[0]["mm"]),), 2.0)
    put(engine, result, [stroke])
    left = engine.get(f"{home}/uncertain_places").json()
    assert left
    assert all(np.linalg.norm(np.subtract(place["mm"], places[0]["mm"])) >= 12 for place in left)


def test_a_stroke_lies_where_it_should_in_a_region(
    engine: Served, uploaded: str, scan: Volume, predictor: Predictor
) -> None:
    corners = scan.geometry.to_world([[3, 8, 6], [11, 33, 30]])
    low, high = corners.min(0), corners.max(0)
    roi = [float(v) for pair in zip(low, high, strict=True) for v in pair]
    result = engine.segment(uploaded, MODEL, roi_mm=roi)
    assert result["start"] != [0, 0, 0]
    stroke = Stroke(1, (tuple(scan.geometry.to_world((6, 20, 15)).tolist()),), 3.0)
    alone = Refiner(predictor.predict(scan, roi=roi, want=WANTED))
    alone.set_strokes([stroke])
    answer = put(engine, result, [stroke]).json()
    assert np.array_equal(mask_of(engine, result), array_of(alone))
    assert alone.changes[0].box is not None
    assert answer["changed"] == [list(end) for end in alone.changes[0].box]
    whole = engine.get(f"/predictions/{result['prediction']}/mask?from=0,0,0&to={_text(result['shape'])}").array()
    assert np.array_equal(whole, array_of(alone))
    assert engine.get(f"/predictions/{result['prediction']}/probe?k=6&j=20&i=15").json()["stroke"] == 0


def test_amounts_are_null_where_the_spacing_is_unknown(engine: Served, scan: Volume) -> None:
    unknown = Volume(scan.array, Geometry.unknown(scan.array.shape))
    result = engine.segment(engine.upload(unknown), "Data/mine/flat")
    (row,) = put(engine, result, [Stroke(1, ((10.0, 10.0, 4.0),), 2.0)]).json()["strokes"]
    assert row["added_ml"] is None and row["removed_ml"] is None
    assert engine.get(f"/predictions/{result['prediction']}/probe?k=4&j=10&i=10").json()["stroke"] == 0
    assert engine.get(f"/predictions/{result['prediction']}/uncertain_places").status == 200


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"value": 7},
            "stroke 2 has the label 7, which the model does not have; known are 0 (background), 1 (structure 1)",
        ),
        ({"value": 255}, "stroke 2: a stroke's label value is 0 (background) to 254, got 255"),
        ({"value": -1}, "stroke 2: a stroke's label value is"),
        ({"value": True}, "strokes.1.value"),
        ({"points_mm": []}, "stroke 2: a stroke needs at least one point; this one is empty"),
        ({"points_mm": [[1.0, 2.0]]}, "strokes.1.points_mm.0"),
        ({"points_mm": [[1e6, 0.0, 0.0]]}, "stroke 2 lies outside the segmented region"),
        ({"points_mm": [[1e300, 0.0, 0.0]]}, "stroke 2 lies outside the segmented region"),
        ({"radius_mm": -1.0}, "stroke 2: the radius of a stroke"),
        ({"radius_mm": 1e9}, "stroke 2 has a radius of 1e+09 mm, at most 50 mm are taken"),
        ({"colour": "red"}, "strokes.1.colour"),
    ],
)
def test_a_wrong_stroke_is_one_line_and_loses_nothing(
    engine: Served, result: dict, strokes: list[Stroke], wrong: dict[str, Any], words: str
) -> None:
    put(engine, result, strokes[:1])
    before = mask_of(engine, result)
    sent = body(strokes[:2])
    sent["strokes"][1] |= wrong
    answer = engine.call("PUT", f"/predictions/{result['prediction']}/strokes", sent)
    assert answer.status == 422 and words in answer.error()
    assert np.array_equal(mask_of(engine, result), before)
    assert len(put(engine, result, strokes[:1]).json()["strokes"]) == 1


def test_numbers_that_are_none_are_refused(engine: Served, result: dict) -> None:
    text = b'{"strokes": [{"value": 1, "points_mm": [[NaN, 0, 0]]}]}'
    answer = engine.call(
        "PUT", f"/predictions/{result['prediction']}/strokes", text, {"Content-Type": "application/json"}
    )
    assert answer.status == 422 and answer.error()


def test_strokes_of_another_scan_are_refused(engine: Served, result: dict, scan: Volume, strokes: list[Stroke]) -> None:
    assert result["scan_sha256"] == voxels_sha256(scan)
    answer = put(engine, result, strokes, scan_sha256="ab" * 32)
    assert answer.status == 422
    assert answer.error().startswith("the strokes were drawn on another scan (checksum abababababab..., this one has")
    assert put(engine, result, strokes, scan_sha256=result["scan_sha256"]).status == 200


@pytest.mark.parametrize(
    ("many", "points", "radius", "words"),
    [
        (3000, 1, 1.0, "3000 strokes came, at most 500"),
        (300, 100, 1.0, "30000 points, at most 20000"),
        (10, 200, 50.0, "the strokes paint 1047 litres, counting each ball, at most 200 are taken"),
    ],
)
def test_thousands_of_strokes_are_refused_at_once(
    engine: Served, result: dict, many: int, points: int, radius: float, words: str
) -> None:
    stroke = Stroke(1, ((0.0, 0.0, 0.0),) * points, radius)
    answer = put(engine, result, [stroke] * many)
    assert answer.status == 422 and words in answer.error()


def test_a_body_that_is_too_large_is_refused(tmp_path: Path, root: Path, scan: Volume, strokes: list[Stroke]) -> None:
    with served(tmp_path, [root], Limits(json_bytes=2000)) as engine:
        result = engine.segment(engine.upload(scan), MODEL)
        answer = put(engine, result, strokes * 20)
        assert answer.status == 413 and "at most 2000" in answer.error()
        assert put(engine, result, strokes[:1]).status == 200


@pytest.mark.parametrize(
    "query",
    [
        "from=0,0,0",
        "to=1,1,1",
        "from=0,0&to=1,1,1",
        "from=a,b,c&to=1,1,1",
        "from=0,0,0&to=0,1,1",
        "from=0,0,0&to=99,1,1",
    ],
)
def test_a_part_that_the_scan_lacks_is_refused(engine: Served, result: dict, query: str) -> None:
    answer = engine.get(f"/predictions/{result['prediction']}/mask?{query}")
    assert answer.status == 422 and answer.error()


def test_another_client_knows_nothing_of_it(engine: Served, result: dict, strokes: list[Stroke]) -> None:
    other = engine.as_client("other")
    assert put(other, result, strokes).status == 404
    assert put(replace_token(engine), result, strokes).status == 401


def replace_token(engine: Served) -> Caller:
    return Caller(engine.port, "not-the-right-token-at-all")


def test_strokes_count_in_what_a_prediction_holds(engine: Served, result: dict, strokes: list[Stroke]) -> None:
    stored = engine.engine.predictions.get("local", result["prediction"])
    before = stored.bytes
    embeddings = stored.prediction.embeddings
    assert embeddings is not None and embeddings.image is not None and embeddings.logits is not None
    assert before > 2 * (embeddings.values.numel() + embeddings.image.numel() + embeddings.logits.numel())
    put(engine, result, strokes)
    assert stored.bytes > before + 4 * embeddings.logits.numel()


def test_a_prediction_that_grows_makes_others_go(
    tmp_path: Path, root: Path, scan: Volume, strokes: list[Stroke]
) -> None:
    with served(tmp_path, [root]) as engine:
        one = engine.upload(scan)
        first, second = engine.segment(one, MODEL), engine.segment(one, MODEL)
        store = engine.engine.predictions
        store._limit = sum(stored.bytes for stored in store._stored.values())
        assert put(engine, second, strokes).status == 200
        assert put(engine, first, strokes).status == 404
        assert put(engine, second, strokes).status == 200


def test_a_newer_list_takes_the_place_of_one_that_is_worked_on(
    engine: Served, result: dict, strokes: list[Stroke], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    add = Refiner.add

    def slow(self: Refiner, stroke: Stroke) -> refiner_module.Change:
        begun.set()
        assert go_on.wait(20)
        return add(self, stroke)

    put(engine, result, [])
    monkeypatch.setattr(Refiner, "add", slow)
    answers: dict[str, Answer] = {}

    def ask(name: str, wanted: list[Stroke]) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: put(engine, result, wanted)}))
        thread.start()
        return thread

    first = ask("old", strokes)
    assert begun.wait(20)
    stored = engine.engine.predictions.get("local", result["prediction"])
    asked = stored.corrections._request
    second = ask("new", strokes[:1])
    while stored.corrections._request == asked:
        time.sleep(0.01)
    assert engine.get("/health").status == 200  # the engine answers others meanwhile
    go_on.set()
    first.join()
    second.join()
    assert answers["old"].status == 409 and "a newer list" in answers["old"].error()
    told = answers["new"].json()
    assert len(told["strokes"]) == 1 and told["changed"] is not None
    monkeypatch.undo()
    after = mask_of(engine, result)
    put(engine, result, [])
    put(engine, result, strokes[:1])
    assert np.array_equal(mask_of(engine, result), after)


def test_a_stroke_that_fails_in_its_middle_costs_no_other(
    engine: Served, result: dict, strokes: list[Stroke], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(engine, result, strokes)
    expected = mask_of(engine, result)
    put(engine, result, strokes[:1])
    shown = mask_of(engine, result)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Refiner, "_apply", full)
    answer = put(engine, result, strokes)
    assert answer.status == 500 and "not enough memory" in answer.error()
    monkeypatch.undo()
    start, stop = put(engine, result, strokes).json()["changed"]
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    shown[window] = expected[window]
    assert np.array_equal(mask_of(engine, result), expected) and np.array_equal(shown, expected)


def test_lists_at_once_leave_the_mask_of_one_of_them(engine: Served, result: dict, strokes: list[Stroke]) -> None:
    masks = []
    for n in range(1, 4):
        put(engine, result, strokes[:n])
        masks.append(mask_of(engine, result))
    found: list[Answer] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(put(engine, result, strokes[: 1 + n % 3]))) for n in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in found} <= {200, 409} and any(answer.status == 200 for answer in found)
    assert any(np.array_equal(mask_of(engine, result), mask) for mask in masks)


def _text(index: list[int]) -> str:
    return ",".join(str(n) for n in index)
