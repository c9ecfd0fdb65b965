"""Strokes kept with the labels of a dataset, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from engines import Answer, Served, array_header, served

from mper.volume import Geometry, Volume

SHAPE = (6, 8, 10)
STROKES: list[dict[str, Any]] = [
    {"value": 1, "points_mm": [[4.0, 4.0, 4.0], [5.0, 4.0, 4.0]], "radius_mm": 2.0},
    {"value": 0, "points_mm": [[16.0, 12.0, 8.0]], "radius_mm": 1.0},
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("roots") / "Räume"
    home.mkdir()
    with served(home.parent / "spool", [home]) as found:
        yield found


@pytest.fixture
def case(engine: Served) -> str:
    """The route of a case with one label."""
    name = f"data {len(engine.get('/datasets').json())}"
    made = engine.post("/datasets", {"root": "Räume", "folder": name, "labels": ["LA"]}).json()
    data = "/datasets/" + quote(made["id"].replace("/", "~"))
    scan = Volume(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), grid())
    engine.post(f"{data}/cases", {"scan": engine.upload(scan), "id": "one"})
    mask = scan.with_array(np.ones(SHAPE, np.uint8))
    header = {"MPER-Array": array_header(mask)}
    engine.call("POST", f"{data}/cases/one/labels?author=me&how=strokes", mask.array.tobytes(), header)
    return f"{data}/cases/one"


def grid() -> Geometry:
    return Geometry.from_axes((0, 0, 0), (2.0, 2.0, 2.0), np.eye(3)[:, ::-1], SHAPE)


def put(engine: Served, route: str, body: Any) -> Answer:
    return engine.call("PUT", route, body)


def test_strokes_follow_their_label_and_come_back(engine: Served, case: str) -> None:
    assert engine.get(f"{case}/labels").json()[0]["strokes"] is False
    assert engine.get(f"{case}/labels/1/strokes").status == 404
    kept = put(engine, f"{case}/labels/1/strokes", {"strokes": STROKES, "model": "la/1.0.0"})
    assert kept.status == 200 and kept.json()["strokes"] is True and kept.json()["number"] == 1
    found = engine.get(f"{case}/labels/1/strokes").json()
    assert [{k: s[k] for k in ("value", "points_mm", "radius_mm")} for s in found["strokes"]] == STROKES
    assert [s["name"] for s in found["strokes"]] == ["LA", "background"] and found["model"] == "la/1.0.0"
    assert put(engine, f"{case}/labels/1/strokes", {"strokes": STROKES, "model": "la/1.0.0"}).status == 200
    assert put(engine, f"{case}/labels/1/strokes", {"strokes": STROKES[:1]}).status == 409


def test_an_old_label_comes_back_with_its_strokes(engine: Served, case: str) -> None:
    put(engine, f"{case}/labels/1/strokes", {"strokes": STROKES})
    engine.post(f"{case}/strokes?author=me", {"strokes": STROKES[:1]})
    restored = engine.post(f"{case}/restore", {"number": 1, "author": "me"}).json()
    assert restored["strokes"] is True and restored["partial"] is False
    assert len(engine.get(f"{case}/labels/3/strokes").json()["strokes"]) == 2


def test_strokes_alone_are_a_label_of_a_part(engine: Served, case: str) -> None:
    made = engine.post(f"{case}/strokes?author=me&seconds=3.5&parent=1", {"strokes": STROKES}).json()
    told = (made["how"], made["partial"], made["strokes"], made["seconds"], made["parent"])
    assert told == ("strokes", True, True, 3.5, 1)
    array = engine.get(f"{case}/labels/2").array()
    assert set(np.unique(array).tolist()) == {0, 1, 255} and array[2, 2, 2] == 1 and array[4, 6, 8] == 0
    assert int((array != 255).sum()) < 40


@pytest.mark.parametrize(
    "body",
    [
        {"strokes": [{"value": 7, "points_mm": [[4.0, 4.0, 4.0]]}]},
        {"strokes": [{"value": 1, "points_mm": []}]},
        {"strokes": [{"value": 1, "points_mm": [[1.0, 2.0]]}]},
        {"strokes": [{"value": 1, "points_mm": [[900.0, 0.0, 0.0]]}]},
        {"strokes": STROKES, "scan_sha256": "0" * 64},
        {"strokes": []},
        {},
    ],
)
def test_what_is_no_list_of_strokes_of_this_scan_is_refused(engine: Served, case: str, body: Any) -> None:
    answer = engine.post(f"{case}/strokes?author=me", body)
    assert answer.status == 422 and answer.error() and "\n" not in answer.error()
    assert len(engine.get(f"{case}/labels").json()) == 1


def test_no_strokes_for_a_label_that_is_not_there(engine: Served, case: str) -> None:
    assert put(engine, f"{case}/labels/9/strokes", {"strokes": STROKES}).status == 404
    assert engine.get(f"{case}/labels/9/strokes").status == 404
