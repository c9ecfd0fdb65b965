"""The middleware around all routes: it checks host name, token and size of the body, and answers every error.

A token is compared in constant time with those of all clients, before anything else: the right one is never refused
because others guess. Wrong ones are answered late, and only few of them at a time from one address.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mper.engine.connections import CONNECTION, Connection, address_of
from mper.engine.errors import Forbidden, InvalidRequest, RequestError, TooLarge, Unauthorized, code_and_values
from mper.engine.settings import Client, Limits
from mper.engine.throttle import FailureThrottle, LogBudget

OPEN = "/health"
_UPLOADS = re.compile(r"/scans|/datasets/[^/]+/cases/[^/]+/labels")

log = logging.getLogger("mper.engine")


class AccessMiddleware:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    app : ASGI application
    clients : sequence of Client
    loopback : bool
        Whether requests must name this machine as their host (a web page whose name was rebound to 127.0.0.1 does not).
    limits : Limits
    answer : callable
        Gives the HTTP status and the line of an exception.
    """

    def __init__(
        self,
        app: ASGIApp,
        clients: Sequence[Client],
        loopback: bool,
        limits: Limits,
        answer: Callable[[BaseException], tuple[int, str]],
    ):
        self._app, self._loopback, self._limits, self._answer = app, loopback, limits, answer
        self._clients = [(_digest(client.token), client) for client in clients]
        self._throttle = FailureThrottle()
        self._strangers = LogBudget(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        began = time.perf_counter()
        connection: Connection | None = scope.get("state", {}).get(CONNECTION)
        if connection is not None:
            connection.begin_request()
        body = _Body(scope, receive)
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not body.complete:  # the rest of the body is not read, and may never end
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        client = None
        try:
            client = await self._admit(scope)
            body.allow(self._limit(scope))
            scope.setdefault("state", {})["client"] = client
            if connection is not None and client is not None:
                connection.trusted = True
            await self._app(scope, body.receive, sent)
        except Exception as error:
            if status:  # too late to say it; the connection ends in the middle, which the client notices
                self._answer(error)  # writes the log
                raise _Broken from None
            code, line = self._answer(error)
            content = {"error": line, **code_and_values(line)}
            await _refuse(sent, code, content, error.headers if isinstance(error, RequestError) else {})
        finally:
            if connection is not None:
                connection.end_request()
            seconds = time.perf_counter() - began
            level = logging.WARNING if status >= 500 or status in (0, 401, 403) else logging.INFO
            write = self._strangers.log if client is None else log.log
            name = client.name if client else "-"
            write(level, "%s %s %s %s %.0f ms", name, scope["method"], _route(scope), status, 1000 * seconds)

    async def _admit(self, scope: Scope) -> Client | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._loopback and not names_this_computer(headers.get(b"host", "")):
            raise Forbidden("this engine answers only requests to 127.0.0.1 and localhost; name it so")
        if scope["path"] == OPEN:
            return None
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        found = self._client_of(token.strip()) if kind.lower() == "bearer" else None
        if found is None:
            await self._throttle.wait(address_of((scope.get("client") or ("",))[0]))
            line = "the token is missing or wrong; send the header 'Authorization: Bearer TOKEN'"
            raise Unauthorized(line, "wrong-token")
        return found

    def _client_of(self, token: str) -> Client | None:
        digest, found = _digest(token), None
        for known, client in self._clients:  # all of them: the time must not depend on which one it is
            if hmac.compare_digest(known, digest):
                found = client
        return found

    def _limit(self, scope: Scope) -> int:
        upload = scope["method"] == "POST" and _UPLOADS.fullmatch(scope["path"]) is not None
        return self._limits.upload_bytes if upload else self._limits.json_bytes


class _Body:
    """A request's body: how much of it may come, and whether all of it has."""

    def __init__(self, scope: Scope, receive: Receive):
        headers = dict(scope["headers"])
        self._declared = headers.get(b"content-length", b"0")
        self._receive, self._limit, self._taken = receive, 0, 0
        self.complete = b"transfer-encoding" not in headers and self._declared == b"0"

    def allow(self, limit: int) -> None:
        """Take so many bytes and no more; a declared length beyond that is refused before anything is read."""
        if not self._declared.isdigit():
            raise InvalidRequest("the header Content-Length is not a number")
        if int(self._declared) > limit:
            raise TooLarge(int(self._declared), limit)
        self._limit = limit

    async def receive(self) -> Message:
        """What the application reads."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self._taken > self._limit:
                self.complete = False
                raise TooLarge(self._taken, self._limit)
        return message


class _Broken(Exception):
    """An answer that broke off in its middle; the log has the reason."""


def names_this_computer(host: str) -> bool:
    """Whether a Host header is localhost or a loopback address: those, unlike other names, cannot be rebound."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d+)?", host)
    return match is not None and is_loopback((match[1] or match[2]).lower())


def is_loopback(host: str) -> bool:
    """Whether a host is this computer and reached from it alone; a name other than localhost counts as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8")).digest()  # of one length, whatever was sent


def _route(scope: Scope) -> str:
    """The route without the names in it: the id of a case may be a person's name."""
    route: Any = scope.get("route")
    return getattr(route, "path", "(no route)")


async def _refuse(send: Send, status: int, answer: Mapping[str, object], headers: Mapping[str, str]) -> None:
    body = json.dumps(answer).encode()
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **headers,
    }
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
