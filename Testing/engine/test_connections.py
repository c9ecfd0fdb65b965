"""Strangers who hold connections or guess tokens do not keep out a client with a token, nor fill the log."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import TOKEN, Caller, Served, served, until

from mper.engine.access import names_this_computer
from mper.engine.connections import address_of
from mper.engine.schemas.info import LoadResult
from mper.engine.services.jobs import Job
from mper.engine.settings import Limits

QUICK = Limits(header_s=0.2)
REQUEST = f"GET /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An engine that waits 0.2 s for a header."""
    with served(tmp_path_factory.mktemp("spool"), limits=QUICK) as found:
        yield found


@contextlib.contextmanager
def connected(engine: Served, count: int = 1) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((engine.host, engine.port), timeout=10)) for _ in range(count)
        ]


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has ended a connection, as far as is known now."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.settimeout(10)


def answer(connection: socket.socket) -> str:
    """The status line of the answer to a request with a token."""
    connection.sendall(REQUEST)
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return f"{response.status} {response.reason}"


@pytest.mark.parametrize("start", [b"", b"GET /jobs HTTP/1.1\r\nHost: local"])
def test_a_connection_without_a_complete_header_is_closed(quick: Served, start: bytes) -> None:
    with connected(quick) as (one,):
        one.sendall(start)
        until(lambda: is_closed(one))


def test_a_header_that_comes_byte_by_byte_is_not_waited_for(quick: Served) -> None:
    with connected(quick) as (one,), contextlib.suppress(ConnectionError):
        for byte in REQUEST[:-1] * 5:
            one.sendall(bytes([byte]))
            time.sleep(0.01)
            if is_closed(one):
                break
        else:
            pytest.fail("the connection stayed open")


def test_a_tls_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="needs trustme, which makes certificates: pip install trustme")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with served(tmp_path / "spool", limits=QUICK, tls=tmp_path) as engine, connected(engine, 2) as (one, other):
        other.sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a hello
        until(lambda: is_closed(one) and is_closed(other))


def test_a_slow_answer_and_a_client_between_two_requests_keep_their_connection(quick: Served) -> None:
    go_on = threading.Event()

    def work(job: Job, device: str) -> LoadResult:
        go_on.wait(10)
        return LoadResult(model="la", device=device, seconds=0)

    job = quick.engine.jobs.submit("local", "load", "cpu", work)
    events = quick.events(f"/jobs/{job.id}/events")
    next(events)
    with connected(quick) as (one,):
        assert answer(one) == "200 OK"
        time.sleep(3 * QUICK.header_s)
        assert answer(one) == "200 OK"
    go_on.set()
    assert [event["state"] for event in events if event][-1] == "finished"


@pytest.mark.parametrize("limits", [Limits(connections_per_address=5), Limits(connections=5)])
def test_silent_connections_make_room_and_the_client_with_a_token_stays(tmp_path: Path, limits: Limits) -> None:
    with served(tmp_path, limits=limits) as engine, connected(engine) as (good,):
        assert answer(good) == "200 OK"
        with connected(engine, 30) as strangers:
            assert engine.get("/jobs").status == 200
            until(lambda: sum(not is_closed(each) for each in strangers) <= 5)
            assert answer(good) == "200 OK"


@pytest.mark.parametrize("limits", [Limits(connections_per_address=3), Limits(connections=3)])
def test_clients_with_a_token_are_bounded_too_and_the_one_that_has_waited_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    with served(tmp_path, limits=limits) as engine, connected(engine, 3) as good:
        assert all(answer(good[n]) == "200 OK" for n in (1, 2, 0))
        monkeypatch.setattr("mper.engine.connections._RECENT_S", 60.0)
        with connected(engine) as (one,):
            until(lambda: is_closed(one))
        monkeypatch.setattr("mper.engine.connections._RECENT_S", 0.0)
        assert engine.get("/jobs").status == 200
        assert [is_closed(each) for each in good] == [False, True, False]
        assert answer(good[0]) == answer(good[2]) == "200 OK"


def test_connections_with_a_request_under_way_are_never_closed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mper.engine.connections._RECENT_S", 0.0)
    go_on = threading.Event()

    def work(job: Job, device: str) -> LoadResult:
        go_on.wait(10)
        return LoadResult(model="la", device=device, seconds=0)

    with served(tmp_path, limits=Limits(connections=3)) as engine:
        job = engine.engine.jobs.submit("local", "keep", None, work)
        followed = [engine.events(f"/jobs/{job.id}/events") for _ in range(3)]
        assert all(next(events) for events in followed)
        with connected(engine) as (one,):
            until(lambda: is_closed(one))
        go_on.set()
        assert [[event["state"] for event in events if event][-1] for events in followed] == ["finished"] * 3


def test_the_right_token_is_never_refused_because_others_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mper.engine.throttle._FIRST_S", 1.0)
    monkeypatch.setattr("mper.engine.throttle._SLOWEST_S", 1.0)
    with served(tmp_path) as engine:
        statuses: list[int] = []
        nobody = Caller(engine.port, "wrong")
        guesses = [threading.Thread(target=lambda: statuses.append(nobody.get("/info").status)) for _ in range(20)]
        for each in guesses:
            each.start()
        until(lambda: statuses.count(429) == 12)  # eight are being answered
        assert [engine.get(path).status for path in ("/jobs", "/jobs", "/health")] == [200] * 3
        for each in guesses:
            each.join()
        assert statuses.count(401) == 8


def test_a_flood_of_refused_requests_writes_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mper.engine.throttle._SLOWEST_S", 0.001)
    monkeypatch.setattr("mper.engine.throttle._LINES", 20)
    with caplog.at_level(logging.DEBUG), served(tmp_path) as engine:  # a line is written after its answer
        for token in ("wrong", None):
            nobody = Caller(engine.port, token)
            for path in ("/info", "/health", "/openapi.json"):
                for _ in range(20):
                    nobody.get(path)
        for _ in range(30):
            engine.get("/jobs")
    lines = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert len([line for line in lines if line.startswith("- ")]) == 20
    assert len([line for line in lines if line.startswith("local GET /jobs 200")]) == 30


def test_addresses_of_one_network_count_as_one() -> None:
    assert address_of("10.0.0.1") == "10.0.0.1" and address_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert address_of("2001:db8::1") == address_of("2001:db8::ffff") != address_of("2001:db8:0:1::1")
    assert address_of("fe80::1%eth0") == address_of("fe80::2") and address_of("") == ""


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        *[("localhost", True), ("127.0.0.1:80", True), ("127.0.0.2:80", True), ("[::1]", True), ("[::1]:80", True)],
        *[("", False), ("::1", False), ("[::1", False), ("0.0.0.0", False), ("127.0.0.1.evil.example", False)],
        *[("evil.example", False), ("127.0.0.1:80:80", False), ("[::1]evil", False), ("127.0.0.1 evil", False)],
    ],
)
def test_names_of_this_computer_are_localhost_and_loopback_addresses(host: str, ours: bool) -> None:
    assert names_this_computer(host) is ours


def listens(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family) as one:
        one.bind((host, 0))
        return True
    return False


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
def test_every_loopback_address_works(tmp_path: Path, host: str) -> None:
    if not listens(host):
        pytest.skip(f"this computer has no address {host}")
    with served(tmp_path, host=host) as engine:
        assert engine.get("/health").json() == {"alive": True}
        assert engine.get("/jobs").status == 200
