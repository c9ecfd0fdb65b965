"""Engines for tests: as a process, as in life, or served by a thread of the test, where parts can be replaced."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from small_models import random_bundle

from mper.datasets.dataset import Dataset
from mper.engine.app import make_app
from mper.engine.server import EngineServer, configure, listen
from mper.engine.services.engine import Engine
from mper.engine.settings import Client, Limits, Settings
from mper.labels import make_label
from mper.volume import Geometry, Volume

TOKEN = "a-token-that-is-long-enough"
MODEL = "Data/mine/small/1"  # of `small_root`


def small_root(home: Path) -> Path:
    """A root with a dataset `mine`, which has a model `small` of two versions and one for slices, `flat`."""
    dataset = Dataset.create(home / "mine", "Mine", [make_label(1, "LA")])
    pixels = {"preprocessing": {"in_plane_pixels": 32}}
    for name, kind, more in (("small", "vnet", {}), ("flat", "unet", pixels)):
        path = random_bundle(kind, **more).save(home.parent / kind)
        dataset.publish_model(name, path)
    dataset.publish_model("small", home.parent / "vnet")
    return home


@dataclass(frozen=True)
class Answer:
    """A status, headers and a body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, self.body[:500]
        return json.loads(self.body)

    def error(self) -> str:
        """The line of a refusal, which is one line and the whole answer."""
        assert self.status >= 400, self.body[:500]
        entry = json.loads(self.body)
        assert list(entry) in (["error"], ["error", "code", "values"])
        assert entry["error"].strip() and "\n" not in entry["error"]
        return entry["error"]

    def array(self) -> np.ndarray:
        assert self.status == 200, self.body[:500]
        header = self.array_header()
        return np.frombuffer(self.body, header["dtype"]).reshape(header["shape"])

    def array_header(self) -> dict[str, Any]:
        return json.loads(self.headers["mper-array"])


@dataclass
class Caller:
    """Someone who talks to an engine."""

    port: int
    token: str | None = TOKEN
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    timeout_s: float = 60.0
    headers: dict[str, str] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("localhost", self.port, timeout=self.timeout_s, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """A request; `body` is bytes, or anything that becomes JSON."""
        told = dict(self.headers)
        if self.token is not None:
            told["Authorization"] = f"Bearer {self.token}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            told["Content-Type"] = "application/json"
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, {**told, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.call("POST", path, {} if body is None else body)

    def delete(self, path: str) -> Answer:
        return self.call("DELETE", path)

    def upload(self, volume: Volume) -> str:
        """A scan's id."""
        headers = {"MPER-Array": array_header(volume)}
        return self.call("POST", "/scans", np.ascontiguousarray(volume.array).tobytes(), headers).json()["scan"]

    def events(self, path: str) -> Iterator[dict[str, Any] | None]:
        """Objects of a stream as they come; None for a sign of life."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.headers["Content-Type"] == "application/x-ndjson"
            while line := answer.readline():
                yield json.loads(line) if line.strip() else None

    def ended(self, job: str) -> dict[str, Any]:
        """A job's last state."""
        last = [event for event in self.events(f"/jobs/{job}/events") if event][-1]
        assert last["state"] in ("finished", "failed", "cancelled")
        return last

    def result(self, job: dict[str, Any]) -> dict[str, Any]:
        """What a job gave that is to succeed."""
        last = self.ended(job["job"])
        assert last["state"] == "finished", last
        return last["result"]

    def segment(self, scan: str, model: str, **more: Any) -> dict[str, Any]:
        """The result of a segment job."""
        return self.result(self.post("/jobs/segment", {"scan": scan, "model": model, **more}).json())


def array_header(volume: Volume, **more: Any) -> str:
    """The header of an upload."""
    geometry: Geometry = volume.geometry
    entry = {"shape": list(volume.array.shape), "dtype": volume.array.dtype.name, "affine": geometry.affine.tolist()}
    return json.dumps({**entry, "spacing_known": geometry.spacing_known, **more})


@dataclass
class Process(Caller):
    """An engine as a process."""

    process: Any = None
    first: dict[str, Any] = field(default_factory=dict)

    def end(self) -> int:
        """Close its standard input, and wait."""
        self.process.stdin.close()
        return self.process.wait(30)


@contextlib.contextmanager
def engine_process(
    temp: Path, words: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """``mper serve --with-parent WORDS``, its temporary files in `temp`."""
    temp.mkdir(parents=True, exist_ok=True)
    own = {**os.environ, "MPER_TOKEN": TOKEN, "TMPDIR": str(temp), "TEMP": str(temp), "TMP": str(temp)}
    own |= {"XDG_STATE_HOME": str(temp), "LOCALAPPDATA": str(temp), "OMP_NUM_THREADS": "1", **(environment or {})}
    with (temp / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mper", "serve", "--with-parent", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={name: value for name, value in own.items() if value},
        )
    try:
        line = process.stdout.readline()
        assert line, (temp / "stderr.txt").read_text(encoding="utf-8")
        first = json.loads(line)
        yield Process(first["port"], first.get("token", TOKEN), process=process, first=first)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()


@dataclass
class Served(Caller):
    """An engine that a thread of this process serves, with its parts."""

    engine: Engine = None  # type: ignore[assignment]

    def as_client(self, name: str) -> Caller:
        token = next(client.token for client in self.engine.settings.clients if client.name == name)
        return Caller(self.port, token, self.host)


@contextlib.contextmanager
def served(
    spool: Path,
    roots: Sequence[Path] = (),
    limits: Limits | None = None,
    names: Sequence[str] = ("local",),
    host: str = "127.0.0.1",
    tls: Path | None = None,
) -> Iterator[Served]:
    """An engine in this process; the first client's token is TOKEN, and it is the local one.

    `tls` is a folder with cert.pem and key.pem.
    """
    spool.mkdir(parents=True, exist_ok=True)
    clients = [Client(name, secrets.token_urlsafe() if n else TOKEN, local=not n) for n, name in enumerate(names)]
    app = make_app(Settings(tuple(clients), spool, tuple(roots), limits=limits or Limits()))
    engine: Engine = app.state.engine
    engine.start()
    with listen(host, 0) as listener:
        server = EngineServer(configure(app, tls and tls / "cert.pem", tls and tls / "key.pem"), engine)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Served(listener.getsockname()[1], host=host, engine=engine)
        finally:
            engine.close()
            engine.jobs.wait(10)
            server.should_exit = True
            thread.join(10)


def until(condition: Any, timeout_s: float = 20.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
