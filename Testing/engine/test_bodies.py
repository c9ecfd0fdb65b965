"""Large bodies, long names and composed accents: bounded work, one line, and one thing under one name."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from engines import Served, array_header, served
from pydantic import TypeAdapter, ValidationError

from mper.datasets.dataset import Dataset
from mper.datasets.index import Index
from mper.engine.schemas.datasets import CaseRequest, DatasetRequest, HoldoutRequest, SplitRequest
from mper.engine.schemas.info import LoadRequest
from mper.engine.schemas.runs import RunRequest
from mper.engine.schemas.segmentation import SegmentRequest
from mper.engine.schemas.strokes import StrokesRequest
from mper.labels import make_label
from mper.utils.files import check_name, existing_name
from mper.volume import Geometry, Volume

NFC = "Müller-é"
NFD = unicodedata.normalize("NFD", NFC)
SCAN = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), Geometry(np.eye(4), (2, 3, 4)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("roots") / "Data"
    home.mkdir()
    with served(home.parent / "spool", [home]) as found:
        yield found


@pytest.fixture
def data(engine: Served) -> str:
    name = f"d{len(engine.get('/datasets').json())}"
    engine.post("/datasets", {"root": "Data", "folder": name, "labels": ["LA"]}).json()
    return f"/datasets/Data~{name}"


MANY = 100_000
MALFORMED: dict[str, tuple[type, dict[str, Any]]] = {
    "empty names": (SplitRequest, {"name": "x", "cases": [""] * 5_000}),
    "numbers for names": (HoldoutRequest, {"cases": [1] * MANY}),
    "too many names": (HoldoutRequest, {"cases": ["a"] * MANY}),
    "unknown names": (LoadRequest, {"model": "la", **{f"k{n}": 1 for n in range(MANY)}}),
    "texts for a box": (SegmentRequest, {"scan": "a", "model": "la", "roi_mm": ["a"] * MANY}),
    "a patch of thousands": (RunRequest, {"patch": [0] * MANY}),
    "labels of thousands": (DatasetRequest, {"root": "a", "labels": [1] * MANY}),
    "malformed labels": (DatasetRequest, {"root": "a", "labels": [{"name": 1}] * 254}),
    "sources of thousands": (CaseRequest, {"scan": "a", "source": {f"k{n}": 1 for n in range(MANY)}}),
    "malformed strokes": (StrokesRequest, {"strokes": [{}] * 90_000}),
    "malformed points": (StrokesRequest, {"strokes": [{"value": 1, "points_mm": [[]] * 90_000}]}),
    "too many points": (StrokesRequest, {"strokes": [{"value": 1, "points_mm": [[1.0, 2.0, 3.0]] * 100_001}]}),
}


@pytest.mark.parametrize(("model", "body"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_list_of_thousands_is_one_or_two_errors(model: type, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(model).validate_python(body)
    assert refused.value.error_count() <= 2  # both names of a stroke are missing


@pytest.mark.parametrize("what", ["empty names", "unknown names", "sources of thousands"])
def test_a_malformed_list_of_thousands_is_refused_in_one_short_line(engine: Served, data: str, what: str) -> None:
    route = {"empty names": f"{data}/splits", "unknown names": "/models/load"}.get(what, f"{data}/cases")
    answer = engine.post(route, MALFORMED[what][1])
    assert answer.status == 422 and len(answer.error()) < 200


class Counted(str):
    """A text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


def test_a_split_of_many_cases_is_changed_without_comparing_each_with_each() -> None:
    ids = [Counted(f"case-{n}") for n in range(2000)]
    index = Index("x", (make_label(1, "LA"),), {"train": tuple(ids)})
    Counted.compared = 0
    moved = index.extended("other", ids).with_holdout(ids[:1000])
    assert Counted.compared < 20 * len(ids)
    assert moved.splits == {"train": tuple(ids[1000:]), "other": tuple(ids[1000:]), "holdout": tuple(ids[:1000])}


# ---------------------------------------------------------------------- names


LONG = "ü" * 128  # 128 letters, 256 bytes


@pytest.mark.parametrize("name", [LONG, "x" * 129, "𝔸" * 64, "a\ud800", ""])
def test_names_that_no_disk_takes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a case"):
        check_name(name, "case")
    assert check_name("ü" * 127, "case") == "ü" * 127


def test_a_name_of_more_bytes_than_a_disk_takes_is_422(engine: Served, data: str) -> None:
    one = engine.upload(SCAN)
    assert engine.post(f"{data}/cases", {"scan": one, "id": LONG}).status == 422
    assert engine.post("/datasets", {"root": "Data", "folder": LONG, "labels": ["LA"]}).status == 403
    assert engine.post("/datasets", {"root": "Data", "folder": "x" * 300, "labels": ["LA"]}).status == 403
    assert engine.post("/roots", {"path": str(engine.engine.roots.folders["Data"] / LONG)}).status == 422
    for route in (
        f"{data}/cases/{LONG}/image",
        f"{data}/cases/{'x' * 300}/labels",
        f"{data}/runs/{LONG}",
        f"/datasets/{LONG}",
    ):
        answer = engine.get(quote(route, safe="/~"))
        assert answer.status == 404 and answer.error()
    for route in (f"{data}/models/{LONG}/use", f"{data}/splits", f"{data}/holdout"):
        answer = engine.post(
            quote(route, safe="/~"), {"version": 1} if "models" in route else {"name": "x", "cases": [LONG]}
        )
        assert answer.status in (404, 422) and answer.error()
    assert engine.get(f"{data}/cases").json() == []


def test_names_with_composed_and_decomposed_accents_are_the_same(engine: Served, data: str) -> None:
    made = engine.post(f"{data}/cases", {"scan": engine.upload(SCAN), "id": NFD, "split": NFD}).json()
    assert (made["id"], made["split"]) == (NFC, NFC) and engine.get(data).json()["splits"] == {NFC: [NFC]}
    again = engine.post(f"{data}/cases", {"scan": engine.upload(SCAN), "id": NFC})
    assert again.status == 409
    for n, name in enumerate((NFC, NFD)):
        assert len(engine.get(quote(f"{data}/cases/{name}/labels", safe="/~")).json()) == n
        headers = {"MPER-Array": array_header(SCAN.with_array(np.ones((2, 3, 4), np.uint8)))}
        route = quote(f"{data}/cases/{name}/labels", safe="/~") + "?author=me&how=hand"
        assert engine.call("POST", route, bytes(24), headers).status == 200
    twice = engine.post(f"{data}/splits", {"name": "more", "cases": [NFC, NFD]})
    assert twice.status == 422 and "twice" in twice.error()
    assert engine.post(f"{data}/splits", {"name": NFD, "cases": [NFD]}).json() == {NFC: [NFC]}
    assert engine.post(f"{data}/holdout", {"cases": [NFD]}).json()["cases"] == [NFC]
    names = [f"{NFC} 1", f"{NFD} 1"]
    labels = engine.post("/datasets", {"root": "Data", "folder": "labels", "labels": names})
    assert labels.status == 422 and "give each a name of its own" in labels.error()


def test_what_macos_has_named_is_found_by_the_name_that_a_person_types(engine: Served, tmp_path: Path) -> None:
    home = tmp_path / f"root {NFD}"
    dataset = Dataset.create(home / NFD, "x", [make_label(1, "LA")])
    (dataset.path / "cases").mkdir()
    dataset.add_case("plain", SCAN, {}).path.rename(dataset.path / "cases" / NFD)
    if [path.name for path in (dataset.path / "cases").iterdir()] != [NFD]:
        pytest.skip("this disk composes accents by itself")
    assert (
        existing_name(dataset.path / "cases", NFC) == NFD and existing_name(dataset.path / "cases", "other") == "other"
    )
    assert dataset.case(NFC).id == NFD == dataset.case(NFD).id and NFC in dataset
    with pytest.raises(FileExistsError):
        dataset.add_case(NFC, SCAN, {})
    dataset.add_to_split("train", [NFC])
    assert Dataset.open(dataset.path).splits == {"train": (NFD,)}
    engine.post("/roots", {"path": str(home)}).json()
    for root in (f"root {NFC}", f"root {NFD}"):
        for folder in (NFC, NFD):
            answer = engine.get(f"/datasets/{quote(f'{root}~{folder}')}/cases/{quote(NFC)}/image")
            assert answer.status == 200 and np.array_equal(answer.array(), SCAN.array)


def test_errors_of_a_name_show_no_thousands_of_letters(engine: Served, data: str) -> None:
    answer = engine.get(f"{data}/cases/{'x' * 5000}/image")
    assert answer.status == 404 and len(answer.error()) < 400
    assert json.loads(answer.body)
