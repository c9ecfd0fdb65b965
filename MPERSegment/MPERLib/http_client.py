"""Requests to the engine over Qt's network classes; answers arrive on Slicer's own thread.

Python threads stall while Slicer's window is idle, and a request that waits would block it. So each request is a `Call`
that ends with exactly one of its callbacks, or with none after `abort`. Large arrays never pass as one `bytes`:
PythonQt needs more than a second for 72 MB. They are read in the pieces in which they arrive, and sent from a file
(`MPERLib.http_upload`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import qt
from slicer.i18n import tr as _

from MPERLib import callbacks, engine_words
from MPERLib.engine_words import in_words

ErrorCallback = Callable[[str], None]

SLAB_BYTES = 1 << 20  # a few ms to write, also on a slow disk
# type of an array: type of its voxels in a request
VOXEL_TYPES = {"bool": "uint8", "int64": "int64"} | {
    name: name
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float16", "float32", "float64")
}
_ANSWER_TIMEOUT_MS = 120_000


def route(*parts: object, **query: object) -> str:
    """``/part/part?name=value``; a dataset's id may be given as it is, its ``/`` becomes ``~``."""
    path = "".join("/" + quote(str(part).replace("/", "~"), safe="~") for part in parts)
    asked = {name: value for name, value in query.items() if value is not None}
    return path + ("?" + urlencode(asked) if asked else "")


class Client:
    """Address of the engine and the token for it.

    Parameters
    ----------
    url : str
        ``http://127.0.0.1:PORT`` or ``https://HOST:PORT``, without a path.
    token : str
        Goes with every request.
    ca : Path or None
        Certificates (PEM) that are trusted besides the system's own: that of a server which signed its own.

    Raises
    ------
    ValueError
        If the address is not one, or would send the token in the clear to another machine.
    FileNotFoundError
        If `ca` holds no certificate.
    """

    def __init__(self, url: str, token: str, ca: Path | None = None):
        parsed = qt.QUrl(url)
        host = parsed.host()
        self.local = host in ("127.0.0.1", "::1", "localhost")
        if parsed.scheme() not in ("http", "https") or not host:
            raise ValueError(
                _("{url} is not an address of an engine; enter one like https://host:port").format(url=repr(url))
            )
        if parsed.scheme() == "http" and not self.local:
            raise ValueError(
                _(
                    "{url} is not encrypted; an engine on another computer needs an address that begins with https"
                ).format(url=url)
            )
        self.url = url.rstrip("/")
        self.token = token
        self._manager = qt.QNetworkAccessManager()
        if self.local:  # a hospital's proxy cannot reach 127.0.0.1
            self._manager.setProxy(qt.QNetworkProxy(qt.QNetworkProxy.NoProxy))
        self._tls = None
        if ca is not None:
            self._tls = qt.QSslConfiguration.defaultConfiguration()
            if not self._tls.addCaCertificates(str(ca)):
                raise FileNotFoundError(_("{file} holds no certificate; choose a PEM file").format(file=ca))

    def request(self, path: str, content: str | None = None, timeout_ms: int = _ANSWER_TIMEOUT_MS) -> Any:
        """A QNetworkRequest for `path`."""
        request = qt.QNetworkRequest(qt.QUrl(self.url + path))
        request.setRawHeader(b"Authorization", b"Bearer " + self.token.encode())
        if content:
            request.setRawHeader(b"Content-Type", content.encode())
        # The token must not follow to wherever an answer points.
        request.setAttribute(qt.QNetworkRequest.RedirectPolicyAttribute, qt.QNetworkRequest.ManualRedirectPolicy)
        request.setTransferTimeout(timeout_ms)
        if self._tls is not None:
            request.setSslConfiguration(self._tls)
        return request

    def send(self, method: str, request: Any, body: Any = None) -> Any:
        """The QNetworkReply of a request; `body` is bytes or an open QFile."""
        if method == "GET":
            return self._manager.get(request)
        if method == "DELETE":
            return self._manager.deleteResource(request)
        if method == "PUT":
            return self._manager.put(request, body if body is not None else b"")
        return self._manager.post(request, body if body is not None else b"")


class Call:
    """A request under way. It ends with `done` or `failed`; after `abort` neither comes.

    Attributes
    ----------
    status : int or None
        Of the answer, once there is one.
    """

    def __init__(self, failed: ErrorCallback | None, name: str):
        self._failed = failed
        self._name = name
        self._reply: Any = None
        self._broken = False
        self.over = False
        self.status: int | None = None

    def abort(self) -> None:
        """Cancel it; does nothing once it is over."""
        if not self.over:
            self.over = True
            self._cleanUp()
            if self._reply is not None:
                self._reply.abort()

    def fail(self, message: str) -> None:
        """End it with one line for the user."""
        if not self.over:
            self.over = True
            self._cleanUp()
            if self._reply is not None:
                self._reply.abort()
            if self._failed:
                self._failed(message)

    def _raised(self, line: str) -> None:
        """A callback of Qt has failed: end the request, or show the line where it has ended already."""
        if self.over:
            callbacks.tell(line)
        else:
            self.fail(line)

    def follow(self, reply: Any) -> None:
        """Take the answer from `reply`."""
        self._reply = reply
        self._connect("readyRead()", self._onRead)
        self._connect("errorOccurred(QNetworkReply::NetworkError)", self._onBroken)
        self._connect("finished()", self._onFinished)

    def _connect(self, signal: str, method: Callable[..., None]) -> None:
        self._reply.connect(signal, callbacks.slot(method, f"{self._name} {signal.partition('(')[0]}", self._raised))

    def _onBroken(self) -> None:
        self._broken = True  # also for an answer 4xx; in Qt 5 `error` is both a signal and a method, so no further word

    def _onRead(self) -> None:
        pass

    def _onFinished(self) -> None:
        reply = self._reply
        reply.deleteLater()
        if self.over:
            return
        status = self.status = self._status()
        if status is None:
            self.fail(_unreachable(reply.errorString()))
        elif status >= 300:
            self.fail(_refusal(status, self._rest()))
        elif self._broken:
            self.fail(_unreachable(reply.errorString()))
        else:
            self._finish()

    def _status(self) -> int | None:
        status = self._reply.attribute(qt.QNetworkRequest.HttpStatusCodeAttribute)
        return None if status is None else int(status)

    def _rest(self) -> bytes:
        return self._reply.readAll().data()

    def _finish(self) -> None:
        raise NotImplementedError

    def _end(self, done: Callable[..., None], *arguments: Any) -> None:
        self.over = True
        self._cleanUp()
        try:
            done(*arguments)
        except Exception as error:  # who waits for the answer must hear of it
            callbacks.report_exception(self._name, error, self._failed)

    def _cleanUp(self) -> None:
        pass


class BytesCall(Call):
    """An answer of bytes that is small: a page of JSON, a picture, a log."""

    def __init__(self, done: Callable[[bytes], None], failed: ErrorCallback | None, name: str):
        super().__init__(failed, name)
        self._done = done

    def _finish(self) -> None:
        self._end(self._done, self._rest())


class JsonCall(BytesCall):
    """An answer in JSON; an empty one is None.

    `noted`, where given, takes first what a list leaves out and why, one line each (header ``MPER-Notes``).
    """

    def __init__(
        self,
        done: Callable[[Any], None],
        failed: ErrorCallback | None,
        name: str,
        noted: Callable[[list[str]], None] | None = None,
    ):
        super().__init__(done, failed, name)
        self._noted = noted

    def _finish(self) -> None:
        text = self._rest()
        if self._noted is not None:
            names = (b"MPER-Notes", b"MPER-Note-Codes")
            self._noted(_notes(*(bytes(self._reply.rawHeader(name).data()) for name in names)))
        try:
            answer = json.loads(text, object_hook=in_words) if text else None
        except ValueError:
            self.fail(_("the engine's answer cannot be read; it may be of another version than this module"))
        else:
            self._end(self._done, answer)


def _notes(header: bytes, codes: bytes = b"") -> list[str]:
    """The lines of ``MPER-Notes``; a header that cannot be read is no reason to lose the answer."""
    try:
        lines = json.loads(header or b"[]")
        lines = in_words({"lines": lines, "line_codes": json.loads(codes or b"{}")})["lines"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [str(line) for line in lines] if isinstance(lines, list) else []


class ArrayCall(Call):
    """An answer that is an array, put together while it arrives."""

    def __init__(self, done: Callable[[np.ndarray, dict], None], failed: ErrorCallback | None, name: str):
        super().__init__(failed, name)
        self._done = done
        self._buffer: np.ndarray | None = None
        self._header: dict = {}
        self._filled = 0

    def follow(self, reply: Any) -> None:
        reply.setReadBufferSize(SLAB_BYTES)
        super().follow(reply)

    def _onRead(self) -> None:
        status = self._status()
        if self.over or status is None or status >= 300:
            return
        if self._buffer is None:
            try:
                self._header = json.loads(bytes(self._reply.rawHeader(b"MPER-Array").data()))
                self._dtype = np.dtype(VOXEL_TYPES[self._header["dtype"]]).newbyteorder("<")
                self._shape = tuple(int(n) for n in self._header["shape"])
                count = int(np.prod(self._shape, dtype=np.int64)) if min(self._shape, default=1) >= 0 else -1
                self._buffer = np.empty(count * self._dtype.itemsize, np.uint8)
            except (KeyError, TypeError, AttributeError, ValueError, MemoryError):
                self.fail(_("the engine's answer is not an array that this module can read"))
                return
        piece = np.frombuffer(self._rest(), np.uint8)
        end = self._filled + piece.size
        if end > self._buffer.size:
            self.fail(_("the engine sent more data than it announced; try again"))
            return
        self._buffer[self._filled : end] = piece
        self._filled = end

    def _finish(self) -> None:
        self._onRead()  # what came with the end; an empty array sends nothing before it
        if self.over:
            return
        if self._buffer is None or self._filled < self._buffer.size:
            self.fail(_("the connection to the engine ended before all data had arrived; try again"))
            return
        array = self._buffer.view(self._dtype).reshape(self._shape)
        self._buffer = None
        self._end(self._done, array, self._header)


class StreamCall(Call):
    """An answer that is a stream of JSON lines, followed until it ends."""

    def __init__(
        self,
        event: Callable[[dict], None],
        ended: Callable[[dict | None], None],
        failed: ErrorCallback | None,
        name: str,
    ):
        super().__init__(failed, name)
        self._event = event
        self._ended = ended
        self._text = b""
        self._last: dict | None = None
        self.count = 0

    def _onRead(self) -> None:
        status = self._status()
        if self.over or status is None or status >= 300:
            return
        *lines, self._text = (self._text + self._rest()).split(b"\n")
        for line in lines:
            if line.strip() and not self.over:
                try:
                    self._last = json.loads(line, object_hook=in_words)
                except ValueError:
                    self.fail(_("the engine's answer cannot be read; it may be of another version than this module"))
                    return
                self.count += 1
                self._event(self._last)

    def _finish(self) -> None:
        self._onRead()
        if not self.over:
            self._end(self._ended, self._last)


def _unreachable(error: str) -> str:
    if error.lower() in ("operation canceled", "operation timed out"):  # Qt 5's and Qt 6's words for the time limit
        return _("the engine did not answer within {n} s; try again").format(n=_ANSWER_TIMEOUT_MS // 1000)
    line = _("the engine cannot be reached: {error}").format(error=error or _("the connection ended"))
    if "ssl" in error.lower():  # Qt does not say more: unknown, expired or of another name
        line += _("; check the address, and the certificate file where the server signed its own")
    return line


def _refusal(status: int, body: bytes) -> str:
    """The message of an answer 4xx or 5xx."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return engine_words.refusal(json.loads(body))
    return _("the engine refused the request (status {status})").format(status=status)
