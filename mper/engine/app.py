"""The engine as an ASGI application; `/openapi.json` is the reference of its routes, PROTOCOL.md a guide to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mper import __version__
from mper.engine.access import OPEN, AccessMiddleware
from mper.engine.errors import InvalidRequest, RequestError, code_and_values, status_and_line
from mper.engine.routes import cases, cohorts, datasets, info, jobs, maintenance, measurement, runs, segmentation
from mper.engine.schemas.arrays import ArrayHeader
from mper.engine.schemas.common import ErrorAnswer
from mper.engine.schemas.runs import RunEvent
from mper.engine.services.engine import Engine
from mper.engine.settings import Settings
from mper.utils.coded import line_of

_ROUTERS = (
    info.router,
    segmentation.router,
    maintenance.router,
    measurement.router,
    jobs.router,
    datasets.router,
    cases.router,
    runs.router,
    cohorts.router,
)
_PARSE_FAILED = 400  # the status that FastAPI gives a body that is not JSON
_SHOWN_ERRORS = 3
_ERROR_SCHEMA = {"$ref": "#/components/schemas/ErrorAnswer"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error.", "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
}


def make_app(settings: Settings) -> FastAPI:
    """The application; ``app.state.engine`` holds its parts."""
    app = FastAPI(
        title="MPER engine",
        version=__version__,
        description="The reference of the engine's routes; PROTOCOL.md is a guide to them.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_ERRORS,
    )
    engine = app.state.engine = Engine(settings)
    for router in _ROUTERS:
        app.include_router(router)

    def answer(error: BaseException) -> tuple[int, str]:
        return status_and_line(error, engine.folders())

    app.add_middleware(
        AccessMiddleware, clients=settings.clients, loopback=settings.loopback, limits=settings.limits, answer=answer
    )
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.openapi = partial(_with_own_schemas, app.openapi)  # type: ignore[method-assign]
    return app


def _with_own_schemas(reference: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The reference with what FastAPI does not see: the token, JSON in a header and in streams, and errors."""
    found = reference()
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"token": []}]
    found["paths"][OPEN]["get"]["security"] = []
    for model in (ArrayHeader, ErrorAnswer, RunEvent):
        found["components"]["schemas"].setdefault(model.__name__, model.model_json_schema())
    return found


def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: unknown routes, methods, bodies that are not JSON."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, RequestError):  # raised by the middleware while the body was read
        line = line_of(error.__cause__)
        return _error(error.__cause__.status, line, more=code_and_values(line))
    lines = {
        404: "there is no such route; /openapi.json lists them",
        405: f"this route does not take {request.method}",
        _PARSE_FAILED: "the body cannot be read as JSON in UTF-8",
    }
    status = InvalidRequest.status if error.status_code == _PARSE_FAILED else error.status_code
    return _error(status, lines.get(error.status_code, str(error.detail)), error.headers)


def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    """A body or parameter that does not fit the schema."""
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):  # it was not parsed
        return _error(InvalidRequest.status, "a body is JSON: send the header 'Content-Type: application/json'")
    found = error.errors()
    line = "; ".join(_one_line(entry) for entry in found[:_SHOWN_ERRORS])
    return _error(InvalidRequest.status, line, more=_code_of(found))


def _error(
    status: int, line: str, headers: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None
) -> JSONResponse:
    answer = ErrorAnswer(error=line, **(more or {}))
    return JSONResponse(answer.model_dump(exclude_none=True), status, dict(headers or {}))


def _code_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Code and values where a text of the body is too long or too short, and nothing else is wrong."""
    fields = {str(entry["loc"][1]) for entry in entries if len(entry["loc"]) > 1}
    limits = {"string_too_long": "max_length", "string_too_short": "min_length"}
    entry = next((entry for entry in entries if entry["type"] in limits), None)
    if entry is None or len(fields) != 1:
        return {}
    limit = entry["ctx"][limits[entry["type"]]]
    return {"code": entry["type"].replace("_", "-"), "values": {"field": fields.pop(), "limit": limit}}


def _one_line(entry: Mapping[str, Any]) -> str:
    """``body roi_mm.5: Input should be a valid number``."""
    where, *names = (str(part) for part in entry["loc"])
    message = " ".join(str(entry["msg"]).split())
    return f"{where} {'.'.join(names)}: {message}" if names else f"{where}: {message}"
