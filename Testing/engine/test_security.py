"""Who may ask what: tokens, hosts, sizes, malformed bodies, other clients, paths, and what the log says."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import logging
import os
import re
import socket
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from engines import MODEL, TOKEN, Caller, Served, array_header, served, until

from mper.datasets.dataset import Dataset
from mper.engine.access import is_loopback
from mper.engine.errors import RequestError
from mper.engine.server import Options, serve
from mper.engine.services.roots import Roots
from mper.engine.settings import Limits
from mper.engine.throttle import FailureThrottle
from mper.engine.tokens import read_tokens
from mper.volume import Volume


def routes(engine: Served) -> list[tuple[str, str]]:
    """Every method and path that the engine knows, names filled in."""
    paths = engine.get("/openapi.json").json()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert len(found) > 15
    return [(method, path.replace("{", "").replace("}", "")) for method, path in found]


@pytest.fixture
def fast_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens are answered soon: for tests that try many."""
    monkeypatch.setattr("mper.engine.throttle._SLOWEST_S", 0.001)


def test_only_health_answers_without_a_token(engine: Served, fast_refusals: None) -> None:
    nobody = Caller(engine.port, token=None)
    assert nobody.get("/health").json() == {"alive": True}
    others = [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/redoc"), ("GET", "/"), ("OPTIONS", "/info")]
    for method, path in [*routes(engine), *others]:
        if path != "/health":
            answer = nobody.call(method, path)
            assert answer.status == 401, (method, path)
            assert "token" in answer.error()


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"],
)
def test_a_wrong_token_is_refused(engine: Served, fast_refusals: None, header: str) -> None:
    nobody = Caller(engine.port, token=None, headers={"Authorization": header})
    assert nobody.get("/info").status == 401
    assert nobody.call("POST", "/scans", b"x" * 8).status == 401


def test_health_tells_nothing_but_that_it_is_alive(engine: Served) -> None:
    answer = Caller(engine.port, token=None).get("/health")
    assert json.loads(answer.body) == {"alive": True}
    assert "server" not in answer.headers


def test_pages_of_documentation_are_off(engine: Served) -> None:
    for path in ("/docs", "/redoc"):
        assert engine.get(path).status == 404


def test_wrong_tokens_of_an_address_are_answered_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def guess() -> None:
        throttle = FailureThrottle()
        for _ in range(8):
            await throttle.wait("10.0.0.1")
        await throttle.wait("10.0.0.2")

    monkeypatch.setattr("mper.engine.throttle.asyncio.sleep", sleep)
    asyncio.run(guess())
    assert waited == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 0.25]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.", ""])
def test_a_name_that_was_rebound_to_this_machine_is_refused(engine: Served, host: str) -> None:
    for path in ("/health", "/info"):
        answer = engine.call("GET", path, headers={"Host": host.format(port=engine.port)})
        assert answer.status in (400, 403)
        assert b"alive" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:{port}", "LOCALHOST", "[::1]:{port}"])
def test_names_of_this_machine_are_let_in(engine: Served, host: str) -> None:
    assert engine.call("GET", "/health", headers={"Host": host.format(port=engine.port)}).status == 200


def test_nothing_is_allowed_to_pages_of_other_origins(engine: Served) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = engine.call("OPTIONS", "/jobs/segment", headers=asked)
    assert answer.status == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def declared(engine: Served, path: str, length: int, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The answer to a request that declares a body and sends none of it."""
    connection = engine.connect()
    connection.putrequest("POST", path)
    for name, value in {"Authorization": f"Bearer {TOKEN}", "Content-Length": str(length), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def test_a_body_that_is_too_large_is_refused_before_it_is_read(engine: Served) -> None:
    limit = engine.get("/info").json()["upload_limit_bytes"]
    array = {"MPER-Array": json.dumps({"shape": [2000, 2000, 2000], "dtype": "float64"})}
    for path, length, headers in (
        ("/scans", limit + 1, array),
        ("/scans", 2000**3 * 8, array),
        ("/datasets/Data~mine/cases/c/labels?author=a&how=hand", limit + 1, array),
        ("/jobs/segment", 4 * 2**20 + 1, {"Content-Type": "application/json"}),
        ("/models/load", 2**40, {"Content-Type": "application/json", **array}),
    ):
        answer = declared(engine, path, length, headers)
        assert answer.status == 413, path
        assert "at most" in json.loads(answer.read())["error"]


def test_an_array_that_is_larger_than_allowed_by_its_header_is_refused(engine: Served) -> None:
    array = {"MPER-Array": json.dumps({"shape": [2000, 2000, 2000], "dtype": "float64"})}
    assert declared(engine, "/scans", 8, array).status == 413


@pytest.mark.parametrize("path", ["/scans", "/jobs/segment"])
def test_a_body_without_a_declared_length_is_cut_off_at_the_limit(tmp_path: Path, path: str) -> None:
    limits = Limits(upload_bytes=4 * 2**20, json_bytes=4 * 2**20)
    header = json.dumps({"shape": [4, 1024, 1024], "dtype": "uint8", "spacing_known": False})
    with served(tmp_path, limits=limits) as engine, contextlib.closing(engine.connect()) as connection:
        headers = {"Authorization": f"Bearer {TOKEN}", "MPER-Array": header, "Content-Type": "application/json"}
        sent = 0

        def endless():
            nonlocal sent
            while True:
                sent += 65536
                yield bytes(65536)

        with contextlib.suppress(ConnectionError):  # it is no longer listened to
            connection.request("POST", path, endless(), headers)
        assert sent < 64 * 2**20  # what is on the way
        with contextlib.suppress(ConnectionError):
            assert connection.getresponse().status in (413, 422)
        assert engine.get("/jobs").json() == []
        until(lambda: not list(tmp_path.iterdir()))


def test_an_upload_of_the_wrong_length_is_refused_and_leaves_nothing(tmp_path: Path, scan: Volume) -> None:
    with served(tmp_path) as engine:
        data = scan.array.tobytes()
        for body in (data[:-1], data + b"x", b""):
            answer = engine.call("POST", "/scans", body, {"MPER-Array": array_header(scan)})
            assert answer.status == 422 and "bytes" in answer.error()
        assert list(tmp_path.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path, scan: Volume) -> None:
    with served(tmp_path) as engine:
        connection = engine.connect()
        connection.putrequest("POST", "/scans")
        told = {"Authorization": f"Bearer {TOKEN}", "MPER-Array": array_header(scan)}
        for name, value in {**told, "Content-Length": str(scan.array.nbytes)}.items():
            connection.putheader(name, value)
        connection.endheaders(scan.array.tobytes()[:5000])
        until(lambda: list(tmp_path.glob("upload-*")))
        connection.close()
        until(lambda: not list(tmp_path.iterdir()))
        assert engine.get("/health").status == 200


def test_an_upload_that_stalls_is_ended(tmp_path: Path, scan: Volume) -> None:
    with served(tmp_path, limits=Limits(stall_s=0.2)) as engine:
        answer = declared(engine, "/scans", scan.array.nbytes, {"MPER-Array": array_header(scan)})
        assert answer.status == 408
        assert "send the array again" in json.loads(answer.read())["error"]
        assert list(tmp_path.iterdir()) == []


def test_an_upload_without_a_place_is_no_scan(tmp_path: Path) -> None:
    with served(tmp_path) as engine:
        header = {"MPER-Array": '{"shape": [2, 2, 2], "dtype": "uint8"}'}
        answer = engine.call("POST", "/scans", bytes(8), header)
        assert answer.status == 422 and "affine" in answer.error()
        assert list(tmp_path.iterdir()) == []


ended_by_the_other = functools.partial(contextlib.suppress, ConnectionError)
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"scan": 1, "model": "la"}',
        b'{"scan": "x"}',
        b'{"scan": "x", "model": null}',
        b'{"scan": "x", "model": "la", "more": 1}',
        b'{"scan": "x", "model": "la", "device": "tpu"}',
        b'{"scan": "x", "model": "la", "device": "cuda:0; rm"}',
        b'{"scan": "x", "model": "la", "roi_mm": [1, 2, 3]}',
        b'{"scan": "x", "model": "la", "roi_mm": [1, 2, 3, 4, 5, NaN]}',
        b'{"scan": "x", "model": "la", "roi_mm": [1, 2, 3, 4, 5, 1e999]}',
        b'{"scan": "x", "model": "la", "roi_mm": "1,2,3,4,5,6"}',
        b'{"scan": "x", "model": "la", "tta": "yes"}',
    ],
)
def test_a_malformed_body_is_refused_in_one_line(engine: Served, body: bytes) -> None:
    answer = engine.call("POST", "/jobs/segment", body, JSON)
    assert answer.status == 422
    assert len(answer.error()) < 500


def test_a_body_that_is_not_called_json_is_told_so(engine: Served) -> None:
    answer = engine.call("POST", "/models/load", b'{"model": "la"}', {"Content-Type": "text/plain"})
    assert answer.status == 422
    assert "application/json" in answer.error()


@pytest.mark.parametrize("query", ["k=a&j=1&i=1", "k=1", "k=1.5&j=1&i=1", "k=99999999999999999999999&j=0&i=0"])
def test_malformed_parameters_are_refused_in_one_line(engine: Served, scan: Volume, query: str) -> None:
    prediction = engine.segment(engine.upload(scan), MODEL)["prediction"]
    answer = engine.get(f"/predictions/{prediction}/probe?{query}")
    assert answer.status in (200, 422)
    if answer.status == 200:
        assert answer.json() == {"value": None}
    else:
        assert answer.error()
    for points in ("0", "-5", "x", "1000000000"):
        assert engine.get(f"/predictions/{prediction}/scatter?points={points}").status == 422


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /info HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"POST /scans HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    ],
)
def test_what_is_not_http_ends_the_connection_and_nothing_else(engine: Served, fast_refusals: None, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", engine.port), timeout=10) as connection, ended_by_the_other():
        connection.sendall(raw)
        assert b" 200 " not in connection.recv(65536)
    assert engine.get("/health").status == 200


def test_another_clients_scans_jobs_and_predictions_are_unknown(engine: Served, scan: Volume) -> None:
    other = engine.as_client("other")
    mine = engine.upload(scan)
    job = engine.post("/jobs/segment", {"scan": mine, "model": MODEL}).json()
    prediction = engine.result(job)["prediction"]
    for method, path in (
        ("GET", f"/jobs/{job['job']}"),
        ("GET", f"/jobs/{job['job']}/events"),
        ("DELETE", f"/jobs/{job['job']}"),
        ("DELETE", f"/scans/{mine}"),
        ("DELETE", f"/predictions/{prediction}"),
        *(("GET", f"/predictions/{prediction}/{what}") for what in ("mask", "prototypes", "similarity", "uncertainty")),
        ("GET", f"/predictions/{prediction}/probe?k=1&j=1&i=1"),
        ("GET", f"/predictions/{prediction}/scatter"),
    ):
        of_nobody = path
        for known in (prediction, mine, job["job"]):
            of_nobody = of_nobody.replace(known, "0" * len(known))
        theirs, unknown = other.call(method, path), other.call(method, of_nobody)
        assert theirs.status == unknown.status == 404, path
        assert [re.sub(r"'\w+'", "", answer.error()) for answer in (theirs, unknown)] == 2 * [
            re.sub(r"'\w+'", "", unknown.error())
        ], "the line tells nothing of whether it is there"
    answer = other.post("/jobs/segment", {"scan": mine, "model": MODEL})
    assert answer.status == 404 and "no scan" in answer.error()
    mask = engine.upload(scan.with_array((scan.array > 180).astype(np.uint8)))
    masks = {"masks": [mask], "labels": [{"value": 1, "name": "LA"}]}
    surface = engine.post("/measurements", masks).json()["surface"]
    assert engine.get(f"/surfaces/{surface}").status == 200 and other.get(f"/surfaces/{surface}").status == 404
    own = other.upload(scan.with_array((scan.array > 180).astype(np.uint8)))
    for body in ({"prediction": prediction}, masks, {**masks, "masks": [own], "scan": mine}):
        assert other.post("/measurements", body).status == 404, body
    assert other.get("/jobs").json() == []
    assert engine.get(f"/predictions/{prediction}/mask").status == 200
    assert engine.delete(f"/scans/{mine}").status == 200


def test_many_clients_at_once_each_get_their_own(tmp_path: Path, root: Path, scan: Volume) -> None:
    names = [f"room{n}" for n in range(8)]
    with served(tmp_path, [root], names=names) as engine:
        volumes = {name: Volume(scan.array + n * 100, scan.geometry) for n, name in enumerate(names)}
        means: dict[str, float] = {}

        def work(name: str) -> None:
            caller = engine.as_client(name)
            volume = volumes[name]
            one = caller.call("POST", "/scans", volume.array.tobytes(), {"MPER-Array": array_header(volume)}).json()
            result = caller.segment(one["scan"], MODEL)
            voxels = sum(row["voxels"] for row in result["prototypes"])
            total = sum(row["voxels"] * (row["mean_intensity"] or 0) for row in result["prototypes"])
            means[name] = total / voxels
            assert len(caller.get("/jobs").json()) == 1

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert means == {name: pytest.approx(volumes[name].array.mean()) for name in names}


@pytest.mark.parametrize(
    "path",
    ["../Data", "..", "mine/..", "mine/../../x", "./mine", "C:/x", "mine\\..\\..", "/etc", "mine//cases", ".hidden"],
)
def test_no_path_leads_out_of_a_root(root: Path, path: str) -> None:
    roots = Roots([root])
    with pytest.raises(RequestError) as refused:
        roots.inside("Data", path)
    assert refused.value.status == 403
    with pytest.raises(RequestError) as refused:
        roots.dataset(f"Data/{path}".replace("/", "~"))
    assert refused.value.status == 404


def test_a_link_does_not_lead_out_of_a_root(root: Path, tmp_path: Path) -> None:
    Dataset.create(tmp_path / "outside", "Outside", Dataset.open(root / "mine").labels)
    (tmp_path / "inside").mkdir()
    try:
        (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let us make links")
    roots = Roots([tmp_path / "inside"])
    with pytest.raises(RequestError):
        roots.inside("inside", "link")
    with pytest.raises(RequestError):
        roots.dataset("inside/link")
    assert list(roots.datasets()) == []


def test_roots_of_one_name_are_told_apart_and_a_known_one_keeps_its_name(tmp_path: Path) -> None:
    for home in ("a", "b"):
        (tmp_path / home / "Data").mkdir(parents=True)
    roots = Roots([tmp_path / "a" / "Data", tmp_path / "b" / "Data"])
    assert list(roots.folders) == ["Data", "Data-2"]
    assert roots.add(tmp_path / "b" / ".." / "b" / "Data") == "Data-2"
    with pytest.raises(FileNotFoundError, match="no folder"):
        roots.add(tmp_path / "c")


def test_datasets_are_found_below_a_root_but_not_inside_others(root: Path, tmp_path: Path) -> None:
    labels = Dataset.open(root / "mine").labels
    for place in ("Home/a", "Home/deep/er/b", "Home/.hidden/c", "Home/with~tilde/d"):
        Dataset.create(tmp_path / place, place, labels)
    Dataset.create(tmp_path / "Home/a/cases/inner", "inner", labels)
    found = [dataset_id for dataset_id, _ in Roots([tmp_path / "Home"]).datasets()]
    assert found == ["Home/a", "Home/deep/er/b"]


def test_the_log_tells_routes_and_neither_names_nor_tokens(
    tmp_path: Path, root: Path, scan: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path, [root]) as engine, caplog.at_level(logging.DEBUG):
        one = engine.upload(scan)
        result = engine.segment(one, MODEL)
        engine.get(f"/predictions/{result['prediction']}/mask")
        engine.get("/datasets/Data~Smith%20John/cases/Smith-John-1950")
        engine.post("/jobs/segment", {"scan": "Smith-John-1950", "model": "Smith"})
        engine.get("/Smith-John-1950?name=Smith")
        Caller(engine.port, "wrong-token").get("/Smith")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("mper", "uvicorn"))]
    assert any("local POST /scans 200" in line for line in lines)
    assert any("/predictions/{prediction}/mask 200" in line for line in lines)
    text = "\n".join(lines)
    for secret in ("Smith", "1950", TOKEN, "wrong-token", one, result["prediction"], str(root), str(tmp_path)):
        assert secret not in text


def test_a_fault_of_the_program_is_one_line_and_its_log_holds_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "state"))
    monkeypatch.setattr("mper.utils.errors.log_folder", lambda: tmp_path / "state")
    with served(tmp_path / "spool") as engine:

        def broken(notes: object) -> list:
            raise KeyError("Smith, John")

        engine.engine.models.list = broken
        answer = engine.get("/models")
        assert answer.status == 500
        assert "an internal error" in answer.error()
        assert engine.get("/health").status == 200
    log = (tmp_path / "state" / "mper.log").read_text(encoding="utf-8")
    assert "KeyError" in log and "Smith" not in log


def test_errors_do_not_tell_where_things_lie(tmp_path: Path) -> None:
    home = tmp_path / "Data"
    home.mkdir()
    with served(tmp_path / "spool", [home]) as engine:

        def missing(notes: object) -> list:
            raise FileNotFoundError(2, "No such file or directory", str(home / "mine" / "x"))

        engine.engine.models.list = missing
        answer = engine.get("/models")
        assert answer.status == 404
        assert str(tmp_path) not in answer.error() and "Data" in answer.error()


# ---------------------------------------------------------------------- before it listens


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no token"),
        ("# only a remark\n\n", "holds no token"),
        ("room1\n", "line 1"),
        ("room1 a b\n", "line 1"),
        ("room1 short\n", "at least 16"),
        ("room1 " + "ä" * 20 + "\n", "ASCII"),
        ("a " + "x" * 20 + "\na " + "y" * 20 + "\n", "line 2"),
        ("a " + "x" * 20 + "\nb " + "x" * 20 + "\n", "line 2"),
    ],
)
def test_a_token_file_that_is_not_right_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "tokens").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told) as refused:
        read_tokens(tmp_path / "tokens")
    assert "x" * 20 not in str(refused.value)


def test_clients_of_a_token_file_are_not_local(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"# clients\nroom1 {'x' * 20}\n\n  room2\t{'y' * 20}\n", encoding="utf-8")
    clients = read_tokens(tmp_path / "tokens")
    assert [(c.name, c.token, c.local) for c in clients] == [("room1", "x" * 20, False), ("room2", "y" * 20, False)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_token_file_may_have_been_written_by_windows(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    text = f"{mark}room1 {'x' * 20}\r\nMüller {'y' * 20}\r\n"
    (tmp_path / "tokens").write_bytes(text.encode(encoding))
    clients = read_tokens(tmp_path / "tokens")
    assert [(client.name, client.token) for client in clients] == [("room1", "x" * 20), ("Müller", "y" * 20)]


def test_a_token_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"\x80\x81\x00" * 20)
    with pytest.raises(ValueError, match="not text in UTF-8 or UTF-16"):
        read_tokens(tmp_path / "tokens")


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps access in lists")
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o644, True), (0o640, True)])
def test_secrets_that_others_can_read_are_warned_of(tmp_path: Path, mode: int, warned: bool) -> None:
    files = {name: tmp_path / name for name in ("tokens", "cert.pem", "key.pem")}
    for path in files.values():
        path.touch()
        path.chmod(mode)
    lines = Options(token_file=files["tokens"], tls_cert=files["cert.pem"], tls_key=files["key.pem"]).warnings()
    assert len(lines) == (2 if warned else 0)  # a certificate is no secret
    assert all(line.startswith("other users of this computer can read the ") for line in lines)
    assert all(
        line.endswith(("chmod 600 " + str(files["tokens"]), "chmod 600 " + str(files["key.pem"]))) for line in lines
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org"])
def test_it_does_not_listen_beyond_this_machine_without_tokens_and_tls(tmp_path: Path, host: str) -> None:
    some = tmp_path / "file"
    for more in ({}, {"token_file": some}, {"tls_cert": some, "tls_key": some}):
        with pytest.raises(ValueError, match="reached from other machines"):
            Options(host=host, **more)
    assert Options(host=host, token_file=some, tls_cert=some, tls_key=some).host == host


def test_this_machines_own_addresses_are_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "")))


def test_tls_needs_both_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both"):
        Options(tls_cert=tmp_path)


def test_a_short_token_in_the_environment_is_refused() -> None:
    before = psutil.Process().nice()
    with pytest.raises(ValueError, match="MPER_TOKEN must be at least 16") as refused:
        serve(Options(), {"MPER_TOKEN": "secret"})
    assert "secret" not in str(refused.value).replace("secrets", "")
    assert psutil.Process().nice() == before  # a refusal changes nothing, here or in a program that embeds it
