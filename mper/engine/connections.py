"""Connections: accepted one by one, bounded in number, and closed where no request comes.

Whoever can reach the port can open connections and send nothing. Each takes a file descriptor, of which a process has
few. So a connection without a complete request (TLS handshake and header) is closed after some seconds, the number of
connections is bounded for one address and for all, and beyond that the oldest without a valid token makes room for a
new one; where all have shown one, that which has waited longest for its next request. A client with a token is
therefore always let in, unless all connections are at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from mper.engine.settings import Limits
from mper.engine.throttle import LogBudget

CONNECTION = "connection"  # its name in a request's state
_SWEEP_EVERY_S = 1.0
_IDLE_S = 75.0  # of a client with a token between two requests; uvicorn closes such a connection then
_RECENT_S = 3.0  # a client with a token that was answered so lately is likely to ask again
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL_PAUSE_S = 0.2

log = logging.getLogger("mper.engine")

MakeProtocol = Callable[["Connection", Callable[[], object]], asyncio.Protocol]


@dataclass(eq=False)
class Connection:
    """One connection.

    address : of the other end, see `address_of`; waiting_since : when it was accepted, or its last request was
    answered, None while a request is processed; trusted : whether it has shown a valid token.
    """

    address: str
    waiting_since: float | None = field(default_factory=time.monotonic)
    trusted: bool = False
    task: asyncio.Task[None] | None = None
    transport: asyncio.BaseTransport | None = None

    def begin_request(self) -> None:
        """A complete header has come."""
        self.waiting_since = None

    def end_request(self) -> None:
        """The request was answered."""
        self.waiting_since = time.monotonic()

    def close(self) -> None:
        """End it at once."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()


class Protocol(H11Protocol):
    """HTTP on a connection that says when it has ended."""

    def __init__(self, *arguments: Any, ended: Callable[[], object], **named: Any):
        super().__init__(*arguments, **named)
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._ended()


class Acceptor:
    """Accepts connections on a socket that listens, in the manner of an `asyncio.Server`.

    Parameters
    ----------
    listener : socket
    make_protocol : callable
        Takes a `Connection` and what to call when it has ended, gives its protocol.
    tls : SSLContext or None
    limits : Limits
    """

    def __init__(
        self, listener: socket.socket, make_protocol: MakeProtocol, tls: ssl.SSLContext | None, limits: Limits
    ):
        self._listener, self._make_protocol, self._tls, self._limits = listener, make_protocol, tls, limits
        self._most = min(limits.connections, open_files() // 2)  # the other half is for uploads, models, datasets
        self._connections: dict[Connection, None] = {}  # oldest first
        self._budget = LogBudget(log)
        listener.setblocking(False)
        self._tasks = [asyncio.ensure_future(work()) for work in (self._accept, self._sweep)]

    def close(self) -> None:
        """Accept no more; connections that have not come to a request end."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self._connections):
            if connection.transport is None:
                connection.close()

    async def wait_closed(self) -> None:
        """Wait until nothing is accepted any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.pop(connection, None)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _FULL:
                    self._budget.warning("no connection can be accepted: %s", error.strerror)
                    self._make_room(lambda connection: True)
                    await asyncio.sleep(_FULL_PAUSE_S)
                elif self._listener.fileno() < 0:
                    return
                continue  # else the other end gave up before it was accepted
            connection = Connection(address_of(str(peer[0])))
            if self._has_room(connection.address):
                self._connections[connection] = None
                connection.task = asyncio.ensure_future(self._serve(accepted, connection))
            else:
                accepted.close()
            await asyncio.sleep(0)  # what came in on other connections is read before the next one is accepted

    def _has_room(self, address: str) -> bool:
        """Whether another connection may be held; where there are too many, one goes."""
        here = sum(each.address == address for each in self._connections)
        if here >= self._limits.connections_per_address:
            return self._make_room(lambda connection: connection.address == address)
        return len(self._connections) < self._most or self._make_room(lambda connection: True)

    def _make_room(self, concerns: Callable[[Connection], bool]) -> bool:
        """Close the oldest connection without a token, else the one with a token that has waited longest."""
        strangers = [each for each in self._connections if not each.trusted and concerns(each)]
        silent = [each for each in strangers if each.waiting_since is not None]
        for connection in (silent or strangers or self._idle(concerns))[:1]:
            self._forget(connection)
            connection.close()
            return True
        return False

    def _idle(self, concerns: Callable[[Connection], bool]) -> list[Connection]:
        """Connections without a request for some time, the longest first."""
        now = time.monotonic()
        waited = [(now - each.waiting_since, each) for each in self._connections if each.waiting_since is not None]
        waited.sort(key=lambda entry: -entry[0])
        return [each for waited_s, each in waited if waited_s > _RECENT_S and concerns(each)]

    async def _serve(self, accepted: socket.socket, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = None if self._tls is None else self._limits.header_s
        try:
            connection.transport, _ = await loop.connect_accepted_socket(
                lambda: self._make_protocol(connection, partial(self._forget, connection)),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=timeout_s,
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError):  # no TLS came, or another connection needed the room
            pass
        finally:
            if connection.transport is None:
                self._forget(connection)
                accepted.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_EVERY_S, self._limits.header_s / 2))
            now = time.monotonic()
            for connection in list(self._connections):
                allowed_s = self._limits.header_s + (_IDLE_S if connection.trusted else 0)
                if connection.waiting_since is not None and now - connection.waiting_since > allowed_s:
                    connection.close()


def open_files() -> int:
    """How many files this process may hold open; a large number where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows, where a process may have thousands
        return 8192
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def address_of(text: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, which is one subscriber's."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text.partition("%")[0])
        if address.version == 6:
            mapped = address.ipv4_mapped
            return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return text
