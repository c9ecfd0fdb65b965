"""Every route: it is called, it answers as /openapi.json says, and as the first engine of protocol 1 did."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from all_routes import Calls, call_all
from engines import Answer, Served, served, small_root
from jsonschema import Draft202012Validator

import mper.engine
from mper.engine.arrays import HEADER
from mper.volume import Volume

ADDED = {
    "options",
    "locked",
    "display_name",
    "excluded",
    "voxels_sha256",
    "region_mm",
    "line_codes",
}  # names that answers have gained since
RECORDED = Path(__file__).with_name("protocol_1.json")  # the forms of all answers of version 0.1


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = small_root(tmp_path_factory.mktemp("roots") / "Data")
    with served(home.parent / "spool", [home]) as found:
        yield found


@pytest.fixture(scope="module")
def calls(engine: Served, scan: Volume) -> Calls:
    return call_all(engine, engine.engine.roots.folders["Data"], scan)


@pytest.fixture(scope="module")
def reference(engine: Served) -> dict[str, Any]:
    return engine.get("/openapi.json").json()


def operations(reference: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method.upper(), path): one for path, item in reference["paths"].items() for method, one in item.items()}


def check(value: Any, schema: dict[str, Any], reference: dict[str, Any], where: str) -> None:
    """Compare a value with a schema of the reference."""
    validator = Draft202012Validator({**schema, "components": reference["components"]})
    errors = [f"{error.json_path}: {error.message}"[:300] for error in validator.iter_errors(value)]
    assert not errors, (where, errors[:3])


def bodies(answer: Answer) -> list[Any]:
    """The JSON of an answer: of a stream that of each line."""
    if answer.headers["content-type"] == "application/json":
        return [answer.json()]
    if answer.headers["content-type"] == "application/x-ndjson":
        return [json.loads(line) for line in answer.body.splitlines() if line.strip()]
    return []


def test_every_route_is_called(calls: Calls, reference: dict[str, Any]) -> None:
    assert {(method, route) for method, route, _, _ in calls.answers} == set(operations(reference))


def test_every_answer_is_as_the_reference_says(calls: Calls, reference: dict[str, Any]) -> None:
    known = operations(reference)
    for method, route, _, answer in calls.answers:
        content = known[method, route]["responses"]["200"]["content"]
        kind = answer.headers["content-type"].split(";")[0]
        assert set(content) == {kind}, (method, route)
        for body in bodies(answer):
            check(body, content[kind]["schema"], reference, f"{method} {route}")
        if HEADER.lower() in answer.headers:
            check(answer.array_header(), reference["components"]["schemas"]["ArrayHeader"], reference, route)


def test_every_body_that_is_sent_is_as_the_reference_says(calls: Calls, reference: dict[str, Any]) -> None:
    known = operations(reference)
    for method, route, body, _ in calls.answers:
        if "requestBody" in known[method, route] and body is not None:
            schema = known[method, route]["requestBody"]["content"]["application/json"]["schema"]
            check(body, schema, reference, f"{method} {route}")


def test_every_json_answer_has_a_closed_schema(reference: dict[str, Any]) -> None:
    for (method, route), operation in operations(reference).items():
        for kind, content in operation["responses"]["200"]["content"].items():
            if kind == "application/json":
                assert "additionalProperties" in json.dumps(content) or "$ref" in json.dumps(content), (method, route)
    schemas = reference["components"]["schemas"]
    open_ones = {name for name, schema in schemas.items() if schema.get("additionalProperties") is not False}
    assert open_ones == {"ArrayHeader", "RunEvent", "JsonValue"}  # a step has the parts of its loss, a card its notes


def test_every_route_documents_its_errors_and_its_token(engine: Served, reference: dict[str, Any]) -> None:
    for (method, route), operation in operations(reference).items():
        errors = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert errors == {"$ref": "#/components/schemas/ErrorAnswer"}, (method, route)
        assert operation.get("security", reference["security"]) == ([] if route == "/health" else [{"token": []}])
        assert operation["description"], (method, route)
    answer = engine.get("/datasets/nowhere")
    check(json.loads(answer.body), errors, reference, "an error")


def test_the_guide_names_routes_that_are_there(reference: dict[str, Any]) -> None:
    text = (Path(mper.engine.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^`]+)`", text)) - {("GET", "/openapi.json")}
    assert len(named) > 12 and named <= set(operations(reference))


def form(value: Any) -> Any:
    """What a JSON value looks like: its names, and the types of what they hold."""
    if isinstance(value, dict):
        return {name: form(each) for name, each in value.items() if name not in ADDED}
    if isinstance(value, list):
        forms = [form(each) for each in value]
        return [each for n, each in enumerate(forms) if each not in forms[:n]]
    return {bool: "true or false", int: "number", float: "number", str: "text", type(None): None}[type(value)]


def settled(body: Any, method: str) -> Any:
    """An answer without what is chance: how far a job has come when it is asked for."""
    if method == "POST" and isinstance(body, dict) and "job" in body:
        return {**body, "fraction": None, "eta_s": None, "notices": [], "result": None}
    return body


def forms(calls: Calls) -> dict[str, list[Any]]:
    """The forms of all answers by method and route."""
    found: dict[str, list[Any]] = {}
    for method, route, _, answer in calls.answers:
        kind = answer.headers["content-type"]
        told = [answer.array_header()] if HEADER.lower() in answer.headers else bodies(answer)
        if route == "/jobs/{job}/events":
            told = told[-1:]
        here = found.setdefault(f"{method} {route}", [])
        every = [{"type": kind, "body": settled(body, method)} for body in told or [None]]
        here += [each for each in form(every) if each not in here]
    return {name: sorted(each, key=json.dumps) for name, each in sorted(found.items())}


def test_answers_have_the_names_and_types_that_protocol_1_gave_them(calls: Calls) -> None:
    assert forms(calls) == json.loads(RECORDED.read_text(encoding="utf-8"))
