"""The engine from Slicer's side: what travels, what fails in words, and what must never be left behind."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from MPERLib import callbacks, engine, engine_job, engine_process, http_client, http_upload, python_process
from MPERLib.engine import Engine, route
from slicer_window import children


class Handler(http.server.BaseHTTPRequestHandler):
    """An engine that answers what a test needs, also what a sound engine never would."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        name = self.path.strip("/").partition("?")[0].replace("/", "_")
        getattr(self, f"get_{name}", self.unknown)()

    do_DELETE = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        self.server.bodies.append(body)
        if self.path == "/jobs/new":
            self.answer(b'{"job": "7"}')
        elif self.path == "/refuse":
            self.answer(b'{"error": "the scan is too large, send less"}', 413)
        else:
            self.answer(json.dumps({"bytes": len(body)}).encode())

    do_PUT = do_POST

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def unknown(self) -> None:
        self.answer(b'{"error": "no such thing, ask for another"}', 404)

    def get_info(self) -> None:
        self.answer(b'{"version": "0", "diagnostics": "all well"}')

    def get_array(self) -> None:
        array = self.server.array
        header = {"shape": array.shape, "dtype": array.dtype.name, "start": [1, 2, 3]}
        self.answer(array.tobytes(), MPER_Array=json.dumps(header))

    def get_short(self) -> None:
        self.answer(b"\0" * 7, MPER_Array='{"shape": [2, 2, 2], "dtype": "uint8"}')

    def get_long(self) -> None:
        self.answer(b"\0" * 9, MPER_Array='{"shape": [2, 2, 2], "dtype": "uint8"}')

    def get_huge(self) -> None:
        self.answer(b"\0", MPER_Array='{"shape": [9000000, 9000000, 9000], "dtype": "uint8"}')

    def get_object(self) -> None:
        self.answer(b"\0" * 8, MPER_Array='{"shape": [1, 1, 1], "dtype": "object"}')

    def get_plain(self) -> None:
        self.answer(b"<html>")

    def get_crash(self) -> None:
        self.answer(b"<html>", 500)

    def get_away(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/stolen")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def get_silence(self) -> None:
        self.server.released.wait(20)
        self.answer(b"{}")

    def get_events(self) -> None:
        self.stream(
            [b'{"n": 0, "state": "run', b'ning"}\n\n{"n": 1, "state": "running"}\n', b'{"n": 2, "state": "finished"}\n']
        )
        self.wfile.write(b"0\r\n\r\n")

    def get_cut(self) -> None:
        self.stream([b'{"n": 0}\n'])
        self.connection.shutdown(socket.SHUT_RDWR)

    def get_jobs_7_events(self) -> None:
        """Breaks the connection once, after two events; `from` of the next request tells where to continue."""
        events = [b'{"n": %d, "state": "running"}\n' % n for n in range(3)]
        events.append(b'{"n": 3, "state": "finished", "result": {"answer": 42}}\n')
        start = int(self.path.partition("from=")[2])
        if start == 0:
            self.stream(events[:2])
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.stream(events[start:])
            self.wfile.write(b"0\r\n\r\n")

    def stream(self, pieces: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(0.02)


class Server(http.server.ThreadingHTTPServer):
    """Where the handler keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.array = np.zeros((1, 1, 1), np.uint8)
        self.released = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what tests are about."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.released.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def remote(window: Any, server: Server) -> Iterator[Engine]:
    """A connection to the made-up engine, ready."""
    made = Engine.remote(f"http://127.0.0.1:{server.server_port}", "secret")
    made.start()
    window.wait_until(lambda: made.state == "ready", 10)
    server.asked.clear()
    yield made
    made.stop()


class Recorder:
    """The answers of one request."""

    def __init__(self, window: Any):
        self._window = window
        self.done: list[Any] = []
        self.failed: list[str] = []

    def take(self, *answer: Any) -> None:
        self.done.append(answer if len(answer) > 1 else answer[0])

    def fail(self, message: str) -> None:
        self.failed.append(message)

    def wait(self, seconds: float = 10) -> Any:
        self._window.wait_until(lambda: self.done or self.failed, seconds, "an answer")
        assert not self.failed, self.failed
        return self.done[0]

    def wait_for_failure(self) -> str:
        self._window.wait_until(lambda: self.done or self.failed, 10, "an answer")
        assert not self.done, self.done
        return self.failed[0]


@pytest.fixture
def recorder(window: Any) -> Recorder:
    return Recorder(window)


# ---- what travels


def test_route_quotes_its_parts() -> None:
    assert route("datasets", "ROOT/my set", "cases", "ä/b") == "/datasets/ROOT~my%20set/cases/%C3%A4~b"
    assert route("jobs", 7, "events", **{"from": 3, "x": None}) == "/jobs/7/events?from=3"


def test_token_goes_with_every_request_and_stays_here(remote: Engine, server: Server, recorder: Recorder) -> None:
    remote.get("/info", recorder.take, recorder.fail)
    recorder.wait()
    assert server.asked[0][2]["authorization"] == "Bearer secret"
    away = Recorder(recorder._window)
    remote.get("/away", away.take, away.fail)
    assert "302" in away.wait_for_failure()
    assert not [path for _, path, _ in server.asked if path == "/stolen"]


def test_json_is_posted_and_answered(remote: Engine, server: Server, recorder: Recorder) -> None:
    remote.post("/anything", {"name": "Müller"}, recorder.take, recorder.fail)
    assert recorder.wait() == {"bytes": len(server.bodies[0])}
    assert json.loads(server.bodies[0]) == {"name": "Müller"}


def test_json_is_put_and_answered(remote: Engine, server: Server, recorder: Recorder) -> None:
    remote.put("/predictions/7/strokes", {"strokes": [], "name": "Müller"}, recorder.take, recorder.fail)
    assert recorder.wait() == {"bytes": len(server.bodies[0])}
    assert server.asked[0][:2] == ("PUT", "/predictions/7/strokes")
    assert json.loads(server.bodies[0]) == {"strokes": [], "name": "Müller"}
    assert server.asked[0][2]["content-type"] == "application/json"


def test_delete_is_sent(remote: Engine, server: Server, recorder: Recorder) -> None:
    remote.delete("/info", recorder.take, recorder.fail)
    recorder.wait()
    assert server.asked[0][0] == "DELETE"


@pytest.mark.parametrize("kind", ["uint8", "int16", "float16", "float32", "float64"])
def test_array_comes_as_it_was(remote: Engine, server: Server, recorder: Recorder, kind: str) -> None:
    server.array = np.random.default_rng(1).integers(0, 100, (5, 6, 7)).astype(kind)
    remote.getArray("/array", recorder.take, recorder.fail)
    array, header = recorder.wait()
    np.testing.assert_array_equal(array, server.array)
    assert array.dtype == server.array.dtype
    assert header["start"] == [1, 2, 3]


def test_empty_array_comes(remote: Engine, server: Server, recorder: Recorder) -> None:
    server.array = np.zeros((0, 4, 4), np.uint8)
    remote.getArray("/array", recorder.take, recorder.fail)
    assert recorder.wait()[0].shape == (0, 4, 4)


def test_large_array_comes_in_pieces_that_do_not_hold_the_window(
    remote: Engine, server: Server, recorder: Recorder
) -> None:
    """How long each piece takes is measured by Testing/benchmarks/in_slicer.py."""
    server.array = np.random.default_rng(1).integers(0, 999, (44, 320, 640)).astype(np.int16)
    callbacks.clear()
    remote.getArray("/array", recorder.take, recorder.fail)
    np.testing.assert_array_equal(recorder.wait(60)[0], server.array)
    pieces = sum(record.name.endswith("readyRead") for record in callbacks.records())
    assert pieces > 1  # as large as the read buffer each, and larger when the window was busy with something else


@pytest.mark.parametrize("array", [np.arange(24, dtype=">i2").reshape(2, 3, 4), np.ones((2, 3, 4), bool)])
def test_upload_is_little_endian_in_c_order(
    remote: Engine, server: Server, recorder: Recorder, array: np.ndarray
) -> None:
    remote.agreeToUpload()
    remote.postArray("/scans", array.transpose(0, 2, 1), {"affine": np.eye(4).tolist()}, recorder.take, recorder.fail)
    recorder.wait()
    header = json.loads(server.asked[0][2]["mper-array"])
    assert header["shape"] == [2, 4, 3] and header["affine"] == np.eye(4).tolist()
    got = np.frombuffer(server.bodies[0], np.dtype(header["dtype"]).newbyteorder("<")).reshape(header["shape"])
    np.testing.assert_array_equal(got, array.transpose(0, 2, 1))


def test_large_upload_does_not_hold_the_window(window: Any, remote: Engine, server: Server) -> None:
    remote.agreeToUpload()
    array = np.random.default_rng(1).integers(0, 999, (12, 640, 640)).astype(np.int16)
    callbacks.clear()
    recorder, told = Recorder(window), []
    remote.postArray("/scans", array, {}, recorder.take, recorder.fail, told.append)
    assert recorder.wait(60) == {"bytes": array.nbytes}
    assert np.array_equal(np.frombuffer(server.bodies[0], np.int16), array.ravel())
    assert told == sorted(told) and told[-1] == 1
    slabs = sum(record.name.endswith("writeSlab") for record in callbacks.records())
    assert slabs == len(array)  # one slice is nearly a slab


def test_events_come_one_by_one_across_pieces(window: Any, remote: Engine, recorder: Recorder) -> None:
    events: list[dict] = []
    remote.follow("/events", events.append, recorder.take, recorder.fail)
    assert recorder.wait() == {"n": 2, "state": "finished"}
    assert [event["n"] for event in events] == [0, 1, 2]


# ---- what fails, and its message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nothing", "no such thing, ask for another"),
        ("/crash", "the engine refused the request (status 500)"),
        ("/plain", "the engine's answer cannot be read"),
    ],
)
def test_refusals_are_one_line(remote: Engine, recorder: Recorder, path: str, words: str) -> None:
    remote.get(path, recorder.take, recorder.fail)
    assert words in recorder.wait_for_failure()
    assert "\n" not in recorder.failed[0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/short", "ended before all data had arrived"),
        ("/long", "more data than it announced"),
        ("/huge", "is not an array that this module can read"),
        ("/object", "is not an array that this module can read"),
        ("/info", "is not an array that this module can read"),
        ("/nothing", "no such thing"),
    ],
)
def test_unsound_arrays_are_refused(remote: Engine, recorder: Recorder, path: str, words: str) -> None:
    remote.getArray(path, recorder.take, recorder.fail)
    assert words in recorder.wait_for_failure()


def test_a_refused_upload_gives_the_reason_and_leaves_no_file(remote: Engine, recorder: Recorder) -> None:
    remote.agreeToUpload()
    remote.postArray("/refuse", np.zeros((2, 2, 2), np.uint8), {}, recorder.take, recorder.fail)
    assert recorder.wait_for_failure() == "the scan is too large, send less"


def test_stream_that_breaks_is_a_failure(window: Any, remote: Engine, recorder: Recorder) -> None:
    events: list[dict] = []
    remote.follow("/cut", events.append, recorder.take, recorder.fail)
    assert recorder.wait_for_failure().startswith("the engine cannot be reached")
    assert events == [{"n": 0}]


def test_an_engine_that_does_not_answer_gives_one_error(window: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    absent = Engine.remote(f"http://127.0.0.1:{port}", "secret")
    absent.start()
    window.wait_until(lambda: absent.state == "failed")
    assert absent.reason.startswith("the engine cannot be reached: ")


def test_aborted_requests_call_no_callback(window: Any, remote: Engine, server: Server, recorder: Recorder) -> None:
    remote.agreeToUpload()
    array = np.zeros((20, 300, 300), np.int16)
    calls = [
        remote.get("/silence", recorder.take, recorder.fail),
        remote.postArray("/scans", array, {}, recorder.take, recorder.fail),
        remote.get("/info", recorder.take, recorder.fail),
    ]
    calls[2].abort()
    window.wait_until(lambda: server.asked)
    for call in calls:
        call.abort()
    server.released.set()
    after = Recorder(window)
    remote.get("/info", after.take, after.fail)
    after.wait()
    assert not recorder.done and not recorder.failed


def test_a_stopped_engine_gives_a_clear_error_and_starts_again(window: Any, remote: Engine, recorder: Recorder) -> None:
    remote.get("/silence", recorder.take, recorder.fail)
    remote.stop()
    late = Recorder(window)
    remote.get("/info", late.take, late.fail)
    assert late.wait_for_failure() == "The engine is not running. Start it"
    assert not recorder.done and len(recorder.failed) == 1
    remote.start()
    again = Recorder(window)
    remote.get("/info", again.take, again.fail)  # waits until it is ready
    assert again.wait()["version"] == "0"


def test_callbacks_never_come_from_within_the_call(remote: Engine, recorder: Recorder) -> None:
    remote.stop()
    remote.get("/info", recorder.take, recorder.fail)
    assert not recorder.failed
    recorder.wait_for_failure()


# ---- leaving this computer


def test_scans_go_to_a_server_only_after_the_user_agreed(window: Any, remote: Engine, server: Server) -> None:
    before = Recorder(window)
    remote.postArray("/scans", np.zeros((1, 1, 1), np.uint8), {}, before.take, before.fail)
    assert "only with your consent" in before.wait_for_failure()
    assert not server.asked
    remote.agreeToUpload()
    same_server = Engine.remote(remote.url, "secret")
    assert same_server.mayUpload
    assert not Engine.remote("https://elsewhere:1", "secret").mayUpload
    assert Engine.local().mayUpload
    same_server.withdrawUpload()
    assert not remote.mayUpload


@pytest.mark.parametrize("url", ["http://example.org:80", "ftp://127.0.0.1", "example.org", ""])
def test_addresses_that_give_the_token_away_are_refused(window: Any, url: str) -> None:
    wrong = Engine.remote(url, "secret")
    wrong.start()
    assert wrong.state == "failed"
    assert wrong.reason


def test_a_missing_certificate_file_is_reported(window: Any, tmp_path: Path) -> None:
    wrong = Engine.remote("https://127.0.0.1:1", "secret", tmp_path / "ca.pem")
    wrong.start()
    assert "holds no certificate" in wrong.reason


@pytest.mark.skipif(
    shutil.which("openssl") is None and not os.environ.get("CI"), reason="needs openssl to make a certificate"
)
def test_own_certificate_is_trusted_only_when_given(window: Any, server: Server, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    for ca, state in ((None, "failed"), (certificate, "ready")):
        made = Engine.remote(f"https://127.0.0.1:{server.server_port}", "secret", ca)
        made.start()
        window.wait_until(lambda made=made: made.state != "starting")
        assert made.state == state, made.reason
        made.stop()


# ---- the process


@pytest.fixture
def local(window: Any, tmp_path: Path) -> Iterator[Engine]:
    root = tmp_path / "my däta"
    root.mkdir()
    made = Engine.local([root])
    yield made
    made.stop(wait_s=10)


def processes(parent: int) -> dict[int, list[bytes]]:
    """Command lines of a process's children."""
    return {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children()} if parent else {}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_engine_starts_answers_and_leaves_no_process(window: Any, local: Engine, recorder: Recorder) -> None:
    before = children()
    states: list[str] = []
    local.onState(lambda engine: states.append(engine.state))
    local.start()
    local.get("/models", recorder.take, recorder.fail)
    assert "la" in [model["id"] for model in recorder.wait(60)]
    assert states == ["starting", "ready"]
    started = children() - before
    assert len(started) == 1
    line = processes(os.getpid())[started.pop()]
    assert local._token.encode() not in b" ".join(line), "the token can be read in the list of processes"
    assert "Slicer" in local.diagnostics() and "callbacks: " in local.diagnostics()
    local.stop()
    window.wait_until(lambda: children() <= before, 10, "the engine to end")
    assert states[-1] == "stopped"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
def test_a_killed_engine_is_reported_and_can_be_started_again(window: Any, local: Engine) -> None:
    before = children()
    local.start()
    window.wait_until(lambda: local.state == "ready", 60)
    (pid,) = children() - before
    recorder = Recorder(window)
    os.kill(pid, signal.SIGKILL)
    window.wait_until(lambda: local.state == "failed", 10)
    assert local.reason.startswith("The engine stopped")
    local.get("/models", recorder.take, recorder.fail)
    assert recorder.wait_for_failure() == local.reason
    local.start()
    again = Recorder(window)
    local.get("/models", again.take, again.fail)
    assert again.wait(60)


def test_missing_packages_are_named(
    window: Any, local: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')")
    monkeypatch.setenv("MPER_PACKAGES", str(tmp_path))
    local.start()
    window.wait_until(lambda: local.state == "failed", 60)
    assert local.reason == ("The engine needs more software (fastapi is missing). Install it in MPER Segment")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('hello')", "The engine did not start as expected: 'hello'. Start it again"),
        (
            "raise SystemExit(3)",
            "The engine stopped. Your masks are safe.",
        ),
        ("import sys; sys.exit('no more room')", "The engine stopped. Your masks are safe. Details: no more room"),
    ],
)
def test_an_engine_that_does_not_start_gives_the_reason(
    window: Any, local: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    (tmp_path / "home" / "mper").mkdir(parents=True)
    (tmp_path / "home" / "mper" / "__init__.py").write_text("")
    (tmp_path / "home" / "mper" / "__main__.py").write_text(program)
    monkeypatch.setattr(python_process, "libraryHome", lambda: tmp_path / "home")
    local.start()
    window.wait_until(lambda: local.state == "failed", 60)
    assert local.reason == words


def test_a_missing_python_is_reported(window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPER_PYTHON", "/nowhere/python")
    made = Engine.local([])
    made.start()
    assert made.state == "failed"
    assert "Python was not found (/nowhere/python)" in made.reason


def test_the_log_has_a_limit(window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mper").mkdir()
    (tmp_path / "mper" / "__init__.py").write_text("")
    (tmp_path / "mper" / "__main__.py").write_text("import sys; sys.exit('new')")
    log = tmp_path / "logs" / "engine.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (2 << 20))
    ended: list[str] = []
    monkeypatch.setattr(python_process, "libraryHome", lambda: tmp_path)
    engine_process.EngineProcess(Path(sys.executable), ["-m", "mper"], {}, log, print, ended.append)
    window.wait_until(lambda: ended, 30)
    assert log.read_text().strip() == "new"
    assert log.with_suffix(".1.log").stat().st_size == 2 << 20


@pytest.mark.parametrize("name", ["mper-stage-a", "mper-dicom-b"])
def test_folders_of_dead_sessions_are_removed_after_a_day(window: Any, local: Engine, name: str) -> None:
    folder = Path(os.environ["TMPDIR"]) / name
    for age_h in (23, 25):
        folder.mkdir(exist_ok=True)
        (folder / "0.image").write_bytes(b"voxels")
        os.utime(folder, (time.time() - 3600 * age_h,) * 2)
        http_upload.removeLeftovers()
        assert folder.exists() == (age_h == 23)


def test_uploads_of_dead_sessions_are_removed(window: Any, local: Engine, tmp_path: Path) -> None:
    folder = Path(os.environ["TMPDIR"])
    old, new = folder / "mper-upload-1-a.raw", folder / "mper-upload-1-b.raw"
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    http_upload.removeLeftovers()
    assert not old.exists() and new.exists()
    new.unlink()


def test_both_modules_share_one_engine(window: Any) -> None:
    assert engine.shared() is engine.shared()
    other = Engine.local([])
    engine.share(other)
    assert engine.shared() is other


# ---- jobs


def test_job_is_followed_across_a_broken_connection(
    window: Any, remote: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_job, "_TRY_AGAIN_MS", 20)
    told: list[int] = []
    remote.job("/jobs/new", {}, recorder.take, recorder.fail, lambda event: told.append(event["n"]))
    assert recorder.wait() == {"answer": 42}
    assert told == [0, 1, 2]


def test_unanswered_request_ends_with_words(
    window: Any, remote: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_ANSWER_TIMEOUT_MS", 1000)
    asked = http_client.JsonCall(recorder.take, recorder.fail, "silence")
    asked.follow(remote._client.send("GET", remote._client.request("/silence", timeout_ms=100)))
    assert recorder.wait_for_failure() == "the engine did not answer within 1 s; try again"


def test_what_waits_for_an_answer_hears_that_the_engine_was_stopped(
    window: Any, remote: Engine, server: Server, recorder: Recorder
) -> None:
    """Also an upload, and what was asked just before, or is asked while the engine starts."""
    remote.agreeToUpload()
    remote.get("/silence", recorder.take, recorder.fail)
    remote.postArray("/silence", np.zeros((2, 3, 4), np.uint8), {}, recorder.take, recorder.fail)
    window.wait_until(lambda: all(each.call for each in remote._under_way), 10, "the requests")
    remote.get("/silence", recorder.take, recorder.fail)
    remote.stop()
    window.events()
    assert recorder.failed[:2] == ["The engine was stopped. Try again once it is running"] * 2
    assert len(recorder.failed) == 3
    starting = Engine.remote(f"http://127.0.0.1:{server.server_port}", "secret")
    starting.start()
    starting.get("/info", recorder.take, recorder.fail)
    starting.stop()
    window.events()
    assert len(recorder.failed) == 4 and not recorder.done


def test_a_failed_job_gives_the_reason(window: Any, local: Engine) -> None:
    local.start()
    recorder = Recorder(window)
    local.job("/models/load", {"model": "nothing of the kind", "device": "cpu"}, recorder.take, recorder.fail)
    window.wait_until(lambda: recorder.failed, 60)
    assert "nothing of the kind" in recorder.failed[0]


# ---- callbacks that fail


def test_one_listener_that_fails_does_not_keep_the_others_waiting(window: Any, server: Server) -> None:
    made = Engine.remote(f"http://127.0.0.1:{server.server_port}", "secret")
    heard: list[str] = []

    def broken(_engine: Engine) -> None:
        raise RuntimeError("a listener")

    made.onState(broken)
    made.onState(lambda engine: heard.append(engine.state))
    recorder = Recorder(window)
    made.start()
    made.get("/info", recorder.take, recorder.fail)  # waits for the engine
    end = time.monotonic() + 10
    while not recorder.done and time.monotonic() < end:
        window.events()
    assert heard == ["starting", "ready"]
    assert recorder.done == [{"version": "0", "diagnostics": "all well"}]
    assert {type(error) for error in window.errors()} == {RuntimeError}
    made.stop()
    window.forgive()


def test_a_process_whose_lines_cannot_be_taken_ends_with_words(window: Any) -> None:
    ended: list[str | None] = []

    def broken(_line: str) -> None:
        raise KeyError("event")

    python_process.PythonProcess(["-c", "print('a'); input()"], broken, ended.append)
    end = time.monotonic() + 20
    while not ended and time.monotonic() < end:
        window.events()
    assert len(ended) == 1
    assert "KeyError: 'event'" in str(ended[0])
    window.forgive()


def test_a_command_that_fails_says_why_in_words(window: Any, tmp_path: Path) -> None:
    ended: list[str | None] = []
    lines: list[str] = []
    missing = tmp_path / "no scan.nrrd"
    words = [
        "export-seg",
        str(missing),
        "--source",
        str(missing),
        "--out",
        str(tmp_path / "out.dcm"),
        "--manual",
        "--json",
    ]
    python_process.PythonProcess(python_process.module("mper", *words), lines.append, ended.append)
    window.wait_until(lambda: ended, 60, "the end of the command")
    assert ended == [f"{missing} does not exist, or is no file"]
    assert [line for line in lines if line.startswith("mper: error: ")] == [f"mper: error: {missing} does not exist"]


def test_refusals_with_a_code_are_said_in_words_and_others_as_the_engine_wrote_them() -> None:
    from MPERLib import engine_words

    def words(code: str, **values: object) -> str:
        return engine_words.refusal({"error": "as the engine wrote it", "code": code, "values": values})

    gone = "The folder of 'Odd masks' was moved or deleted. Open it where it is now."
    assert words("no-dataset", dataset="MPER~Odd masks") == gone
    assert words("string-too-long", field="name", limit=128) == "The name is too long (128 characters at most)."
    assert words("a code of a later version") == "as the engine wrote it"
    assert words("string-too-long", other=1) == "as the engine wrote it"
    takes = {"code": "takes", "values": {"seconds": 1500.0, "steps": 830}}
    assert engine_words.advice("about 25 minutes", takes) == "About 25 min on this computer, about 830 steps."
    assert engine_words.advice("as the engine wrote it", {"code": "later"}) == "As the engine wrote it."
    assert engine_words.progress("tile 3 of 8") == "Segmenting: part 3 of 8"
    assert engine_words.progress("measuring on the hold-out: tile 3 of 8") == "Measuring on the hold-out set"
    assert engine_words.progress("reading case-003 (40 %)") == "Reading case-003 (40 %)"
    assert engine_words.progress("something new") == "something new"
    assert engine_words.device("cpu", "CPU (2 threads, bfloat16)") == "without graphics card"
    assert engine_words.used_device("NVIDIA A4000 (16 GiB, float16)") == "with graphics card (NVIDIA A4000)"


def test_the_engine_refuses_with_a_code_for_what_the_user_can_mend(window: Any, shared_engine: Engine) -> None:
    recorder = Recorder(window)
    shared_engine.get("/datasets/MPER~Odd masks", recorder.take, recorder.fail)
    shared_engine.post(
        "/datasets/MPER~Odd masks/labels", {"label": "x" * 200, "author": "me"}, recorder.take, recorder.fail
    )
    window.wait_until(lambda: len(recorder.failed) == 2, 20)
    assert sorted(recorder.failed) == [
        "The folder of 'Odd masks' was moved or deleted. Open it where it is now.",
        "The name of the structure is too long (128 characters at most).",
    ]
