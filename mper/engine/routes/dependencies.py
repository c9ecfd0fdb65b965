"""What routes take and answer alike: ``def route(engine: EngineDep, client: ClientDep)``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.responses import StreamingResponse

from mper.engine.schemas.arrays import HEADER, HEADER_SCHEMA
from mper.engine.schemas.common import NDJSON, AnswerModel
from mper.engine.services.engine import Engine
from mper.engine.services.notes import Notes
from mper.engine.settings import Client
from mper.utils.coded import line_codes


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _client(request: Request) -> Client:
    client: Client = request.state.client
    return client


def _client_name(request: Request) -> str:
    return _client(request).name


EngineDep = Annotated[Engine, Depends(_engine)]
WhoDep = Annotated[Client, Depends(_client)]  # with what the client may do
ClientDep = Annotated[str, Depends(_client_name)]  # its name: the owner of jobs, scans and predictions
ArrayHeaderText = Annotated[str | None, Header(alias=HEADER, json_schema_extra=HEADER_SCHEMA)]

NOTES_HEADER, CODES_HEADER = "MPER-Notes", "MPER-Note-Codes"
_LONGEST_HEADER = 6000  # characters; clients take 8192 at most


def add_notes(response: Response, notes: Notes) -> None:
    """Send what an answer leaves out as a header: a list of lines in JSON, in ASCII."""
    if notes.lines:
        response.headers[NOTES_HEADER] = json.dumps(notes.lines)
        codes = json.dumps(line_codes(notes.lines))
        if len(codes) < _LONGEST_HEADER:
            response.headers[CODES_HEADER] = codes


class EventResponse(StreamingResponse):
    """Lines of JSON, sent as they come; empty lines are signs of life."""


def event_response(lines: AsyncIterator[bytes]) -> EventResponse:
    """Lines of JSON as an answer."""
    return EventResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-store"})


def events_of(model: type[AnswerModel]) -> dict[int | str, dict[str, Any]]:
    """How the reference describes an `EventResponse` with lines of a model; `app` adds the model's schema."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {200: {"description": "Lines of JSON.", "content": {NDJSON: {"schema": schema}}}}
