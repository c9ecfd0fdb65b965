"""The middleware around all routes: it checks host name, token and size of the body, and answers every error.

Tokens are compared in constant time with those of all clients. Wrong ones are answered late, and only few of them at a
time from one address, so that trying many takes for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mper.engine.errors import Forbidden, InvalidRequest, RequestError, TooLarge, TooManyFailures, Unauthorized
from mper.engine.settings import Client, Limits

OPEN = "/health"
_LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
_UPLOADS = re.compile(r"/scans|/datasets/[^/]+/cases/[^/]+/labels")
_FIRST_S, _SLOWEST_S = 0.25, 8.0  # until a wrong token is answered
_FORGIVEN_S = 600.0
_PENDING = 8  # wrong tokens of one address that are being answered at a time

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
        self._failures = _Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        began = time.perf_counter()
        body = _Body(scope, receive)
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not body.complete:  # what else comes in is not wanted, and may never end
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        client = None
        try:
            client = await self._admit(scope)
            body.allow(self._limit(scope))
            scope.setdefault("state", {})["client"] = client
            await self._app(scope, body.receive, sent)
        except Exception as error:
            if status:  # too late to say it; the connection ends in the middle, which the client notices
                self._answer(error)  # writes the log
                raise _Broken from None
            code, line = self._answer(error)
            await _refuse(sent, code, line, error.headers if isinstance(error, RequestError) else {})
        finally:
            seconds = time.perf_counter() - began
            who = client.name if client else "-"
            level = logging.WARNING if status >= 500 or status in (0, 401, 403) else logging.INFO
            log.log(level, "%s %s %s %s %.0f ms", who, scope["method"], _route(scope), status, 1000 * seconds)

    async def _admit(self, scope: Scope) -> Client | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._loopback:
            host = headers.get(b"host", "")
            if re.sub(r":\d+$", "", host).lower() not in _LOCAL_NAMES:
                raise Forbidden("this engine answers only requests to 127.0.0.1 and localhost; name it so")
        if scope["path"] == OPEN:
            return None
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        address = (scope.get("client") or ("",))[0]
        self._failures.check(address)
        found = self._client_of(token.strip()) if kind.lower() == "bearer" else None
        if found is None:
            await self._failures.wait(address)
            raise Unauthorized("the token is missing or wrong; send the header 'Authorization: Bearer TOKEN'")
        return found

    def _client_of(self, token: str) -> Client | None:
        digest, found = _digest(token), None
        for known, client in self._clients:  # all of them, so that time tells nothing
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
        """Take so many bytes and no more; what says that it is longer is refused without a look."""
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


class _Failures:
    """Wrong tokens by address."""

    def __init__(self) -> None:
        self._count: dict[str, tuple[int, float]] = {}
        self._pending: dict[str, int] = {}

    def check(self, address: str) -> None:
        if self._pending.get(address, 0) >= _PENDING:
            raise TooManyFailures("too many wrong tokens from this address; wait a little")

    async def wait(self, address: str) -> None:
        """Answer late, after each wrong token twice as late as after the one before."""
        now = time.monotonic()
        self._count = {a: (n, t) for a, (n, t) in self._count.items() if now - t < _FORGIVEN_S}
        count = self._count.get(address, (0, now))[0] + 1
        self._count[address] = (count, now)
        self._pending[address] = self._pending.get(address, 0) + 1
        try:
            await asyncio.sleep(min(_SLOWEST_S, _FIRST_S * 2 ** min(count - 1, 10)))
        finally:
            self._pending[address] -= 1
            if not self._pending[address]:
                del self._pending[address]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8")).digest()  # of one length, whatever was sent


def _route(scope: Scope) -> str:
    """The route without what stands for its names: a case's id may be somebody's name."""
    route: Any = scope.get("route")
    return getattr(route, "path", "(no route)")


async def _refuse(send: Send, status: int, line: str, headers: Mapping[str, str]) -> None:
    body = json.dumps({"error": line}).encode()
    told = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **headers,
    }
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
