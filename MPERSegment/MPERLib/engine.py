"""The engine, on this computer or on a server: one object with a state and requests.

Requests to a starting engine wait for it; those to a stopped or failed one fail at once, with a message. Every callback
runs on Slicer's own thread, from the event loop, never from within the call that asked.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MPERLib import callbacks, engine_process, http_client, http_upload, settings
from MPERLib.engine_job import Job
from MPERLib.http_client import ErrorCallback, route

__all__ = ["Engine", "Job", "Pending", "route", "share", "shared", "stopShared"]

_CONSENT_KEY = "MPER/Consent/"
_CLOSE_AFTER_MS = 2000  # Qt ends the whole program if a manager goes while its thread takes up an upload


class Pending:
    """A request, perhaps still waiting for its engine."""

    def __init__(self) -> None:
        self.call: http_client.Call | None = None
        self.aborted = False

    @property
    def over(self) -> bool:
        """Whether it has been answered, has failed or was aborted."""
        return self.aborted or (self.call is not None and self.call.over)

    @property
    def status(self) -> int | None:
        """The status of the answer; None before, and where the engine could not be reached."""
        return self.call.status if self.call is not None else None

    def abort(self) -> None:
        """Cancel it: none of its callbacks is called any more."""
        self.aborted = True
        if self.call is not None:
            self.call.abort()


class Engine:
    """An engine; make one with `Engine.local` or `Engine.remote`, then `start` it.

    Attributes
    ----------
    state : str
        "stopped", "starting", "ready" or "failed".
    reason : str
        Why it failed, one line for the user.
    info : dict
        The answer to ``GET /info``, once it is ready.
    """

    def __init__(self) -> None:
        self.state = "stopped"
        self.reason = ""
        self.info: dict = {}
        self.url = ""
        self.isRemote = False
        self.roots: list[str] | None = None
        self._python: Path | None = None
        self._token = ""
        self._ca: Path | None = None
        self._client: http_client.Client | None = None
        self._process: engine_process.EngineProcess | None = None
        self._listeners: list[Callable[[Engine], None]] = []
        self._waiting: list[Callable[[], None]] = []
        self._under_way: list[Pending] = []

    @classmethod
    def local(cls, roots: Sequence[str | Path] | None = None, python: str | Path | None = None) -> Engine:
        """An engine of this computer, with the datasets under `roots`; None takes the user's settings at each start."""
        engine = cls()
        engine.roots = None if roots is None else [str(root) for root in roots]
        engine._python = Path(python) if python else None
        return engine

    @classmethod
    def remote(cls, url: str, token: str, ca: str | Path | None = None) -> Engine:
        """An engine at ``https://host:port``; `ca` is the certificate of a server that signed its own."""
        engine = cls()
        engine.isRemote = True
        engine.url = url.rstrip("/")
        engine._token = token
        engine._ca = Path(ca) if ca else None
        return engine

    # ---- state

    def onState(self, listener: Callable[[Engine], None]) -> Callable[[], None]:
        """Call `listener` with this engine at each change of its state; what is returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def start(self) -> None:
        """Start it, or connect to it; does nothing while it is starting or ready."""
        if self.state in ("starting", "ready"):
            return
        http_upload.removeLeftovers()
        self.reason = ""
        self._become("starting")
        try:
            if self.isRemote:
                self._client = http_client.Client(self.url, self._token, self._ca)
                self._greet()
            else:
                self._launch()
        except (OSError, ValueError) as error:
            self._fail(str(error))

    def stop(self, wait_s: float = 0) -> None:
        """End its process, or disconnect if it is remote; open requests fail.

        The process needs a moment to end; with `wait_s` this blocks until it has.
        """
        self.reason = ""
        if self._process is not None:
            self._process.stop()
        self._end("stopped", _("The engine was stopped. Try again once it is running"))
        if self._process is not None and wait_s:
            self._process.wait(wait_s)

    def _launch(self) -> None:
        python = self._python or settings.enginePython()
        self._token = secrets.token_urlsafe(32)
        words = ["-m", "mper", "serve", "--with-parent"]
        for root in settings.roots() if self.roots is None else self.roots:
            words += ["--root", root]
        self._process = engine_process.EngineProcess(
            python, words, {"MPER_TOKEN": self._token}, settings.engineLog(), self._onPort, self._fail
        )

    def _onPort(self, first: dict) -> None:
        if self.state == "starting":
            self.url = f"http://127.0.0.1:{int(first['port'])}"
            self._client = http_client.Client(self.url, self._token)
            self._greet()

    def _greet(self) -> None:
        def take(info: dict) -> None:
            if self.state == "starting":
                self.info = info
                self._become("ready")
                waiting, self._waiting = self._waiting, []
                for begin in waiting:
                    callbacks.slot(begin, "request")()

        def fail(message: str) -> None:
            if self.state == "starting":
                self._fail(message)

        call = http_client.JsonCall(take, fail, "GET /info")
        call.follow(self._client.send("GET", self._client.request("/info")))

    def _fail(self, reason: str) -> None:
        self.reason = reason
        if self._process is not None:
            self._process.stop()
        self._end("failed", reason)

    def _end(self, state: str, reason: str) -> None:
        """Nothing is answered any more: who waits for an answer hears why."""
        waiting, self._waiting = self._waiting, []
        under_way, self._under_way = self._under_way, []
        self._become(state)
        for pending in under_way:  # with the client go the replies, and their signals would never come
            if pending.call is not None:  # else it has not begun, and fails by itself
                callbacks.slot(pending.call.fail, "request")(reason)
        client, self._client = self._client, None
        callbacks.after(_CLOSE_AFTER_MS, lambda: client, "connection is closed")
        for begin in waiting:
            callbacks.slot(begin, "request")()  # each fails, as there is no engine

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            for listener in list(self._listeners):  # one that fails must not keep the others waiting
                callbacks.slot(listener, "state of the engine")(self)

    # ---- consent to send a scan away

    @property
    def mayUpload(self) -> bool:
        """Whether scans may be sent to it: always on this computer, to a server once the user has agreed."""
        return not self.isRemote or settings.setting(_CONSENT_KEY + self._consentName()) == "yes"

    def agreeToUpload(self) -> None:
        """Store the user's consent that voxels and geometry, but no patient data, are sent to this server."""
        settings.setSetting(_CONSENT_KEY + self._consentName(), "yes")

    def withdrawUpload(self) -> None:
        """Withdraw the user's consent: nothing more is sent to this server until `agreeToUpload`."""
        settings.setSetting(_CONSENT_KEY + self._consentName(), "no")

    def _consentName(self) -> str:
        return self.url.partition("//")[2].replace("/", "_")

    # ---- requests; each returns what can be aborted

    def get(
        self,
        path: str,
        done: Callable[[Any], None],
        failed: ErrorCallback | None = None,
        noted: Callable[[list[str]], None] | None = None,
    ) -> Pending:
        """Ask for JSON; `noted` takes first what a list leaves out and why, one line each."""
        return self._ask("GET", path, None, lambda fail, name: http_client.JsonCall(done, fail, name, noted), failed)

    def post(
        self, path: str, body: object, done: Callable[[Any], None], failed: ErrorCallback | None = None
    ) -> Pending:
        """Send JSON, get JSON."""
        return self._ask("POST", path, body, lambda fail, name: http_client.JsonCall(done, fail, name), failed)

    def put(self, path: str, body: object, done: Callable[[Any], None], failed: ErrorCallback | None = None) -> Pending:
        """Replace something by JSON, get JSON."""
        return self._ask("PUT", path, body, lambda fail, name: http_client.JsonCall(done, fail, name), failed)

    def delete(
        self, path: str, done: Callable[[Any], None] | None = None, failed: ErrorCallback | None = None
    ) -> Pending:
        """Delete something."""
        done = done or (lambda answer: None)
        return self._ask("DELETE", path, None, lambda fail, name: http_client.JsonCall(done, fail, name), failed)

    def getBytes(self, path: str, done: Callable[[bytes], None], failed: ErrorCallback | None = None) -> Pending:
        """Ask for an image file or a text."""
        return self._ask("GET", path, None, lambda fail, name: http_client.BytesCall(done, fail, name), failed)

    def getArray(
        self, path: str, done: Callable[[np.ndarray, dict], None], failed: ErrorCallback | None = None
    ) -> Pending:
        """Ask for an array; `done` takes it with its header (shape, dtype, start, affine)."""
        return self._ask("GET", path, None, lambda fail, name: http_client.ArrayCall(done, fail, name), failed)

    def follow(
        self,
        path: str,
        event: Callable[[dict], None],
        ended: Callable[[dict | None], None],
        failed: ErrorCallback | None = None,
    ) -> Pending:
        """Follow a stream of events; `ended` takes the last one."""
        return self._ask("GET", path, None, lambda fail, name: http_client.StreamCall(event, ended, fail, name), failed)

    def postArray(
        self,
        path: str,
        array: np.ndarray,
        header: Mapping[str, Any],
        done: Callable[[Any], None],
        failed: ErrorCallback | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Pending:
        """Send an array (k, j, i) with a header (affine, start, ...); `progress` takes a share in [0, 1]."""

        def begin(pending: Pending, fail: ErrorCallback) -> None:
            if not self.mayUpload:
                words = _("scans are sent to {url} only with your consent; give it in MPER Segment, under Engine")
                fail(words.format(url=self.url))
                return
            call = http_upload.UploadCall(
                self._client, path, array, header, done, fail, progress, f"POST {_plain(path)}"
            )
            pending.call = call
            call.start()

        return self._begin(begin, failed)

    def job(
        self,
        path: str,
        body: object,
        done: Callable[[dict], None],
        failed: ErrorCallback | None = None,
        progress: Callable[[dict], None] | None = None,
        cancelled: Callable[[], None] | None = None,
    ) -> Job:
        """Start a job and follow it; `done` takes its result, `progress` every event before."""
        return Job(self, path, body, done, failed, progress, cancelled)

    def _ask(
        self,
        method: str,
        path: str,
        body: object,
        make: Callable[[ErrorCallback, str], http_client.Call],
        failed: ErrorCallback | None,
    ) -> Pending:
        def begin(pending: Pending, fail: ErrorCallback) -> None:
            call = pending.call = make(fail, f"{method} {_plain(path)}")
            data = None if body is None else json.dumps(body).encode()
            request = self._client.request(path, "application/json" if data is not None else None)
            call.follow(self._client.send(method, request, data))

        return self._begin(begin, failed)

    def _begin(self, begin: Callable[[Pending, ErrorCallback], None], failed: ErrorCallback | None) -> Pending:
        pending = Pending()
        fail = failed or (lambda message: None)
        self._under_way = [other for other in self._under_way if not other.over] + [pending]

        def now() -> None:
            if pending.aborted:
                return
            if self.state == "ready":
                try:
                    begin(pending, fail)
                except Exception as error:
                    pending.aborted = True
                    callbacks.report_exception("request", error, fail)
            else:
                pending.aborted = True
                fail(self.reason or _("The engine is not running. Start it"))

        if self.state == "starting":
            self._waiting.append(now)
        else:
            callbacks.later(now, "request", fail)
        return pending

    def diagnostics(self) -> str:
        """Versions, state and slow callbacks as text, to find a fault; no patient data."""
        version = getattr(slicer.app, "applicationVersion", "") if hasattr(slicer, "app") else ""
        lines = [
            f"Slicer {version}",
            f"engine {'remote' if self.isRemote else 'local'}, {self.state}"
            + (f": {self.reason}" if self.reason else ""),
            str(self.info.get("diagnostics", "")),
            callbacks.report(),
        ]
        return "\n".join(line for line in lines if line)


def shared() -> Engine:
    """The engine that both modules use; it outlives a reload of their code, and ends with Slicer."""
    engine = getattr(slicer, "mperEngine", None)
    if engine is None:
        engine = slicer.mperEngine = Engine.local()
        if not getattr(slicer, "mperEngineEnds", False):
            slicer.mperEngineEnds = True
            slicer.app.connect("aboutToQuit()", callbacks.slot(lambda: stopShared(), "stopShared"))
    return engine


def share(engine: Engine) -> None:
    """Make both modules use this engine from now on; the one before is stopped."""
    stopShared()
    slicer.mperEngine = engine


def stopShared(wait_s: float = 0) -> None:
    """Stop the engine that the modules share, if there is one; see `Engine.stop`."""
    engine = getattr(slicer, "mperEngine", None)
    slicer.mperEngine = None
    if engine is not None:
        engine.stop(wait_s)


def _plain(path: str) -> str:
    """A route without ids, as a name of its callbacks."""
    parts = [part for part in path.partition("?")[0].split("/") if part]
    return "/" + "/".join(part if part.isalpha() else "*" for part in parts)
