"""The engine as a process: it starts, ends with its parent, survives being killed, and stays out of the way."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from engines import MODEL, TOKEN, Caller, Process, array_header, engine_process, until

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.engine.services.spool import remove_dead_spools, spool_folder
from mper.volume import Geometry, Volume

_POSIX = os.name == "posix"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Process]:
    """An engine that these tests share, those that do not kill it."""
    with engine_process(tmp_path_factory.mktemp("engine"), ["--root", str(root)]) as found:
        yield found


Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The line of a start that fails: ``mper serve WORDS`` in this process, which stays as it is."""
    monkeypatch.setattr("mper.engine.server.lower_priority", lambda: None)
    monkeypatch.setattr("mper.engine.server._write_log", lambda *_, **__: None)

    def start(*words: str) -> str:
        try:
            code = main(["serve", *words])
        except SystemExit as end:  # argparse
            code = end.code
        printed = capsys.readouterr()
        assert code in (1, 2) and printed.out == "" and printed.err.count("\n") == 1
        return printed.err

    return start


def test_the_first_line_tells_how_to_talk_to_it(process: Process) -> None:
    assert process.first == {"port": process.port, "protocol": 1, "version": process.first["version"], "tls": False}
    told = process.get("/info").json()
    assert told["protocol"] == 1 and told["version"] == process.first["version"] and told["roots"] == ["Data"]


def test_a_real_process_segments_and_answers_questions(process: Process, scan: Volume) -> None:
    result = process.segment(process.upload(scan), MODEL)
    assert process.get(f"/predictions/{result['prediction']}/mask").array().any()
    until(lambda: process.get("/info").json()["ready"])
    told = process.get("/info").json()
    assert told["devices"][-1]["name"] == "cpu" and "threads" in told["devices"][-1]["words"]
    assert "fastapi" in told["diagnostics"] and str(Path.home()) not in told["diagnostics"]


def test_a_large_scan_goes_to_disk_as_it_comes(process: Process) -> None:
    shape = (88, 640, 640)
    array = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
    volume = Volume(array, Geometry(np.diag([1.5, 0.6, 0.6, 1.0]), shape))
    before = peak_bytes(process)
    one = process.upload(volume)
    after = peak_bytes(process)
    if before is not None and after is not None:
        assert after - before < 0.5 * array.nbytes
    assert process.delete(f"/scans/{one}").status == 200


def peak_bytes(process: Process) -> int | None:
    """The largest memory that a process has had; None where this system has no such file."""
    with contextlib.suppress(FileNotFoundError):
        lines = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return None


@pytest.mark.skipif(not _POSIX, reason="another call on Windows")
def test_it_runs_below_normal_priority(process: Process) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, process.process.pid) >= max(own, 5)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc tells the environment of a process")
def test_the_token_is_not_on_the_command_line(process: Process) -> None:
    assert TOKEN.encode() not in Path(f"/proc/{process.process.pid}/cmdline").read_bytes()


def test_it_answers_while_it_computes_and_its_events_are_followed_live(process: Process) -> None:
    job = process.post("/jobs/segment", {"scan": process.upload(noise(64, 160, 160)), "model": MODEL}).json()["job"]
    answered: list[int] = []

    def ask() -> None:
        while process.get(f"/jobs/{job}").json()["state"] in ("queued", "running"):
            answered.append(process.get("/health").status)

    asking = threading.Thread(target=ask)
    asking.start()
    seen = [event for event in process.events(f"/jobs/{job}/events") if event]
    asking.join()
    assert set(answered) == {200} and len(answered) > 10
    assert [event["n"] for event in seen] == sorted({event["n"] for event in seen})
    assert [event["state"] for event in seen][-1] == "finished" and len(seen) > 3
    again = [event for event in process.events(f"/jobs/{job}/events?from={seen[-1]['n'] + 1}") if event]
    assert again == seen[-1:]


def noise(*shape: int) -> Volume:
    """A scan that takes a while."""
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(array, Geometry(np.eye(4), array.shape))


def test_two_follow_one_job_and_one_may_leave(process: Process, scan: Volume) -> None:
    one = process.upload(scan)
    job = process.post("/jobs/segment", {"scan": one, "model": MODEL}).json()["job"]
    leaving = process.events(f"/jobs/{job}/events")
    next(leaving)
    leaving.close()
    assert process.ended(job)["state"] == "finished"


def test_a_queued_job_is_cancelled_while_another_runs(process: Process, scan: Volume) -> None:
    first = process.post("/jobs/segment", {"scan": process.upload(noise(96, 192, 192)), "model": MODEL}).json()["job"]
    second = process.post("/jobs/segment", {"scan": process.upload(scan), "model": MODEL}).json()["job"]
    process.delete(f"/jobs/{second}")
    assert process.ended(second)["state"] == "cancelled"
    process.delete(f"/jobs/{first}")
    last = process.ended(first)
    assert last["state"] == "cancelled" and last["result"] is None


def test_without_a_token_it_makes_one_and_it_ends_when_its_parent_closes_the_line(tmp_path: Path) -> None:
    with engine_process(tmp_path, environment={"MPER_TOKEN": ""}) as process:
        assert len(process.first["token"]) >= 32
        assert process.get("/jobs").json() == []
        assert Caller(process.port, TOKEN).get("/jobs").status == 401
        assert process.first["token"] not in (tmp_path / "stderr.txt").read_text(encoding="utf-8")
        assert process.end() == 0
        assert not list(tmp_path.glob("mper-engine-*"))
        with pytest.raises(OSError):
            process.get("/health")


def test_it_ends_in_the_middle_of_work_and_leaves_nothing(tmp_path: Path, root: Path) -> None:
    with engine_process(tmp_path, ["--root", str(root)]) as process:
        job = process.post("/jobs/segment", {"scan": process.upload(noise(96, 256, 256)), "model": MODEL}).json()["job"]
        until(lambda: process.get(f"/jobs/{job}").json()["state"] == "running", 40)
        events = process.events(f"/jobs/{job}/events")
        next(events)
        assert process.end() == 0
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            list(events)  # the stream ends too
        assert not list(tmp_path.glob("mper-engine-*"))


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'mper', 'serve', '--with-parent'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline(), flush=True)\n"
        "time.sleep(60)\n"
    )
    own = {**os.environ, "MPER_TOKEN": TOKEN, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=own)
    try:
        caller = Caller(json.loads(parent.stdout.readline())["port"])
        assert caller.get("/health").status == 200
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    until(lambda: not answers(caller.port), 20)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def test_killed_it_loses_nothing_that_it_said_was_done_and_the_next_one_cleans_up(
    tmp_path: Path, root: Path, scan: Volume
) -> None:
    home, temp = tmp_path / "Data 2", tmp_path / "engine"
    home.mkdir()
    words = ["--root", str(root), "--root", str(home)]
    masks = [Volume(np.full(scan.array.shape, n % 2, np.uint8), scan.geometry) for n in range(2)]
    labels = "/datasets/Data%202~d/cases/c/labels"
    answered: list[int] = []

    def label(process: Process, mask: Volume) -> int:
        headers = {"MPER-Array": array_header(mask)}
        return process.call("POST", f"{labels}?author=a&how=hand", mask.array.tobytes(), headers).json()["number"]

    with engine_process(temp, words) as process:
        process.post("/datasets", {"root": "Data 2", "folder": "d", "name": "D", "labels": ["LA"]}).json()
        process.post("/datasets/Data%202~d/cases", {"scan": process.upload(scan), "id": "c"}).json()

        def label_on() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                for n in range(10_000):
                    answered.append(label(process, masks[n % 2]))

        thread = threading.Thread(target=label_on)
        thread.start()
        until(lambda: len(answered) >= 5)
        job = process.post("/jobs/segment", {"scan": process.upload(scan), "model": MODEL}).json()["job"]
        events = process.events(f"/jobs/{job}/events")
        next(events)
        process.process.kill()
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            list(events)  # its death is seen at once
        process.process.wait()
        thread.join(10)
        left = list(temp.glob("mper-engine-*"))
        assert len(left) == 1 and list(left[0].glob("upload-*"))
    case = Dataset.open(home / "d").case("c")
    kept = [revision.number for revision in case.revisions()]
    assert len(answered) >= 5 and set(answered) <= set(kept) and len(kept) <= len(answered) + 1
    for place, number in enumerate(answered):
        assert np.array_equal(case.label(number).array, masks[place % 2].array)
    with engine_process(temp, words) as process:
        assert not left[0].exists()
        assert process.segment(process.upload(scan), MODEL)["prediction"]
        assert process.get(f"/jobs/{job}").status == 404
        assert [entry["number"] for entry in process.get(labels).json()] == kept
        assert label(process, masks[0]) > max(kept)


@pytest.mark.skipif(not _POSIX, reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_in_order(tmp_path: Path, name: str) -> None:
    with engine_process(tmp_path) as process:
        process.process.send_signal(getattr(signal, name))
        assert process.process.wait(20) == 0
        assert not list(tmp_path.glob("mper-engine-*"))


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "mper", "serve", "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("mper: error: cannot listen on 127.0.0.1") and done.stderr.count("\n") == 1


def test_a_certificate_that_is_none_is_one_line(tmp_path: Path, refused: Refused) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not a certificate", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    line = refused("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    assert "a certificate and its key in PEM" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tls-cert", "missing.pem", "--tls-key", "missing.pem"], "missing.pem: no such file"),
        (["--host", "0.0.0.0"], "takes --token-file"),
        (["--port", "70000"], "is not a port"),
        (["--tls-cert", "x.pem"], "both"),
        (["--root", "/does/not/exist"], "is no folder"),
        (["--token-file", "/does/not/exist"], "no such file"),
    ],
)
def test_a_wrong_start_is_one_line_and_no_engine(refused: Refused, words: list[str], told: str) -> None:
    assert told in refused(*words)


def test_a_start_loads_no_torch_before_it_listens() -> None:
    code = "import sys, mper.engine.server; sys.exit(bool({'torch', 'SimpleITK', 'highdicom'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_it_is_reached_from_elsewhere_with_tls_and_a_token_of_its_file(tmp_path: Path, scan: Volume) -> None:
    trustme = pytest.importorskip("trustme", reason="needs trustme, which makes certificates: pip install trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    token = "the-token-of-the-first-room"
    (tmp_path / "tokens").write_text(f"room1 {token}\nroom2 {token[::-1]}\n", encoding="utf-8")
    files = {"--token-file": "tokens", "--tls-cert": "cert.pem", "--tls-key": "key.pem"}
    words = ["--host", "0.0.0.0", *(word for name, file in files.items() for word in (name, str(tmp_path / file)))]
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    with engine_process(tmp_path, words) as process:
        assert process.first["tls"] is True and "token" not in process.first
        room = Caller(process.port, token, tls=trusted)
        other = Caller(process.port, token[::-1], tls=trusted)
        one = room.upload(scan)
        assert other.delete(f"/scans/{one}").status == 404
        assert room.delete(f"/scans/{one}").status == 200
        assert Caller(process.port, TOKEN, tls=trusted).get("/jobs").status == 401  # MPER_TOKEN counts no longer
        assert Caller(process.port, None, tls=trusted).get("/health").status == 200
        with pytest.raises(ssl.SSLError):
            Caller(process.port, token, tls=ssl.create_default_context()).get("/health")
        with pytest.raises((OSError, http.client.HTTPException)):
            Caller(process.port, token).get("/health")  # in the clear


# ---------------------------------------------------------------------- temporary files


def test_a_living_engines_spool_is_left_alone(tmp_path: Path) -> None:
    with spool_folder(tmp_path) as one:
        (one / "upload-1").write_bytes(b"x")
        with spool_folder(tmp_path) as two:
            assert one != two and (one / "upload-1").exists()
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_dead_spools_are_removed(tmp_path: Path) -> None:
    dead, young, other = (tmp_path / name for name in ("mper-engine-dead", "mper-engine-young", "something-else"))
    for folder in (dead, young, other):
        folder.mkdir()
        (folder / "upload-1").write_bytes(b"x")
    (dead / ".lock").touch()
    remove_dead_spools(tmp_path)
    assert not dead.exists()
    assert (young / "upload-1").exists()  # made a moment ago, its lock is on the way
    assert (other / "upload-1").exists()


@pytest.mark.skipif(not _POSIX, reason="Windows keeps a user's temporary files apart")
def test_nobody_else_can_look_into_the_spool(tmp_path: Path) -> None:
    with spool_folder(tmp_path) as path:
        assert path.stat().st_mode & 0o077 == 0
