"""The engine as an ASGI application; PROTOCOL.md says what each route does."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mper import __version__
from mper.engine.auth import Door
from mper.engine.errors import Refused, status_and_line
from mper.engine.routes import datasets, evaluation, info, refinement, runs, segmentation, strokes
from mper.engine.services.engine import Engine
from mper.engine.settings import Settings

_ROUTERS = (
    *(info.router, segmentation.router, refinement.router),
    *(datasets.router, strokes.router, runs.router, evaluation.router),
)
_PARSE_FAILED = 400  # how FastAPI calls a body that is no JSON


def make_app(settings: Settings) -> FastAPI:
    """The application; ``app.state.engine`` holds its parts."""
    app = FastAPI(title="MPER engine", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    engine = app.state.engine = Engine(settings)
    for router in _ROUTERS:
        app.include_router(router)

    def answer(error: BaseException) -> tuple[int, str]:
        return status_and_line(error, engine.folders())

    app.add_middleware(
        Door, clients=settings.clients, loopback=settings.loopback, limits=settings.limits, answer=answer
    )
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_malformed)
    return app


def _on_http(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: unknown routes, methods, bodies that are no JSON."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Refused):  # our own word, said while the body was read
        return JSONResponse({"error": str(error.__cause__)}, error.__cause__.status)
    lines = {
        404: "there is no such route; PROTOCOL.md lists them",
        405: f"this route does not take {request.method}",
        _PARSE_FAILED: "the body cannot be read as JSON in UTF-8",
    }
    status = 422 if error.status_code == _PARSE_FAILED else error.status_code
    return JSONResponse({"error": lines.get(error.status_code, str(error.detail))}, status, dict(error.headers or {}))


def _on_malformed(_: Request, error: Exception) -> JSONResponse:
    """A body or parameter that is not as the protocol has it."""
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):  # it was not even tried
        return JSONResponse({"error": "a body is JSON: send the header 'Content-Type: application/json'"}, 422)
    return JSONResponse({"error": "; ".join(_words(entry) for entry in error.errors()[:3])}, 422)


def _words(entry: dict[str, Any]) -> str:
    where, *names = (str(part) for part in entry["loc"])
    message = " ".join(str(entry["msg"]).split())
    return f"{where} {'.'.join(names)}: {message}" if names else f"{where}: {message}"
