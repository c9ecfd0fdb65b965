"""The engine as a process: it listens, prints the port in its first line on stdout, and ends with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import uvicorn
from fastapi import FastAPI

from mper import __version__
from mper.engine.access import is_loopback
from mper.engine.app import make_app
from mper.engine.connections import CONNECTION, Acceptor, Connection, Protocol
from mper.engine.routes.info import PROTOCOL
from mper.engine.services.engine import Engine
from mper.engine.services.spool import spool_folder
from mper.engine.settings import Client, Settings
from mper.engine.throttle import LogBudget
from mper.engine.tokens import check_token, read_tokens, readable_by_others
from mper.utils.processes import lower_priority, watch_parent

TOKEN = "MPER_TOKEN"
_IDLE_S = 75  # a connection; a client that takes it up again in the moment it is closed would lose a request
_LAST_S = 3  # for answers that are under way when the engine ends


@dataclass(frozen=True)
class Options:
    """What `mper serve` was asked for.

    host, port : where to listen, port 0 takes a free one; roots : folders of datasets; token_file, tls_cert, tls_key :
    files or None; with_parent : end when standard input closes.
    """

    host: str = "127.0.0.1"
    port: int = 0
    roots: Sequence[Path] = ()
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    with_parent: bool = False

    def warnings(self) -> list[str]:
        """A line for each secret that other users of this computer can read.

        Raises
        ------
        OSError
            If a file is missing.
        """
        files = ((self.token_file, "the token file"), (self.tls_key, "the key"))
        lines = [readable_by_others(path, what) for path, what in files if path is not None]
        return [line for line in lines if line is not None]

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both a certificate and its key: --tls-cert FILE --tls-key FILE")
        if not is_loopback(self.host) and (self.token_file is None or self.tls_cert is None):
            raise ValueError(
                f"{self.host} can be reached from other machines, so it takes --token-file, --tls-cert and --tls-key; "
                "without them listen on 127.0.0.1"
            )


def serve(options: Options, environment: Mapping[str, str] = os.environ) -> None:
    """Serve until Ctrl-C, SIGTERM, or the end of the parent.

    Raises
    ------
    ValueError, OSError
        If tokens or certificate cannot be used, or the port is taken.
    """
    parent_gone = threading.Event()
    if options.with_parent:
        watch_parent(sys.stdin, parent_gone.set)
    clients, made = _clients(options, environment)
    lower_priority()
    _write_log(sys.stderr, quiet=options.with_parent)
    os.environ.pop(TOKEN, None)  # processes that this one starts must not have it
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(spool_folder())
        listener = stack.enter_context(listen(options.host, options.port))
        app = make_app(Settings(clients, spool, tuple(options.roots), is_loopback(options.host)))
        engine: Engine = app.state.engine
        config = configure(app, options.tls_cert, options.tls_key)
        _load(config, options)
        server = EngineServer(config, engine)
        first: dict[str, Any] = {
            "port": listener.getsockname()[1],
            "protocol": PROTOCOL,
            "version": __version__,
            "tls": options.tls_cert is not None,
        }
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM: an order to end
            print(json.dumps(first | made), flush=True)
            engine.start()
            threading.Thread(target=_end_with, args=(parent_gone, server), daemon=True).start()
            server.run(sockets=[listener])
        engine.close()
        engine.jobs.wait(_LAST_S)


def configure(app: FastAPI, tls_cert: Path | None = None, tls_key: Path | None = None) -> uvicorn.Config:
    """How the application is served: without a header on the server, and with its own log."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=Protocol,
        lifespan="off",
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_LAST_S,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )


def _load(config: uvicorn.Config, options: Options) -> None:
    """Read the certificate, so that one that cannot be used is an error before the first line."""
    for path in (options.tls_cert, options.tls_key):
        if path is not None:
            path.open("rb").close()  # an error of its own, which names the file
    try:
        config.load()
    except ssl.SSLError as error:
        raise ValueError(
            f"{options.tls_cert} and {options.tls_key} are not a certificate and its key in PEM "
            f"({error.reason or error}); give the files that belong together"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait in its queue until they are served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there REUSEADDR would let another program take the port over
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}; take another port") from error
    return listener


class EngineServer(uvicorn.Server):
    """A server with bounded connections; streams of events end when it ends."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self._engine = engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on `sockets`, each with its own bounds."""
        asyncio.get_running_loop().set_exception_handler(_Faults())
        await self.lifespan.startup()
        limits = self._engine.settings.limits
        self.servers = [cast(Any, Acceptor(each, self._protocol, self.config.ssl, limits)) for each in sockets or []]
        self.started = True

    def _protocol(self, connection: Connection, ended: Callable[[], object]) -> Protocol:
        return Protocol(
            config=self.config,
            server_state=self.server_state,
            app_state={CONNECTION: connection},
            ended=ended,
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)


class _Faults:
    """Logs what goes wrong with connections, such as a TLS handshake that fails, in few lines without addresses."""

    def __init__(self) -> None:
        self._budget = LogBudget(logging.getLogger("mper.engine"))

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._budget.warning("fault of a connection: %s", type(error).__name__ if error else "unknown")


def _end_with(parent_gone: threading.Event, server: uvicorn.Server) -> None:
    parent_gone.wait()
    server.should_exit = True


def _clients(options: Options, environment: Mapping[str, str]) -> tuple[tuple[Client, ...], dict[str, str]]:
    """Who may talk to the engine, and the token for the first line if it was made here."""
    if options.token_file is not None:
        return read_tokens(options.token_file), {}
    if token := environment.get(TOKEN):
        return (Client("local", check_token(token, f"the environment variable {TOKEN}"), local=True),), {}
    token = secrets.token_urlsafe(32)
    return (Client("local", token, local=True),), {"token": token}


def _write_log(stream: TextIO, quiet: bool) -> None:
    """One line a request: client, method, route without names, status, time. No token, no case, no path."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("mper.engine")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # its messages may hold paths
