"""To an archive and back: a real Orthanc on this machine, and answers that only odd archives give."""

from __future__ import annotations

import json
import os
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
import trustme
from pydicom.uid import generate_uid
from small_models import threshold_bundle
from small_series import (
    STUDY,
    Change,
    bright_ball,
    mark_localiser,
    nothing,
    stack,
    write_classic,
    write_report,
)
from system_tools import tool

from mper.cli import FAILED, OK, USAGE, main
from mper.dicom.dicomweb import Access, Archive
from mper.dicom.seg_read import read_seg
from mper.dicom.seg_write import write_seg
from mper.dicom.series import read_series
from mper.dicom.sr_write import read_sr
from mper.labels import Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.progress import Cancelled, Progress
from mper.provenance import Provenance

LOGIN = ("mper", "sécret:1")
_PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc/plugins", "/usr/local/share/orthanc/plugins")


@pytest.fixture(autouse=True)
def no_login_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MPER_DICOMWEB_LOGIN", "MPER_DICOMWEB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)


class Orthanc:
    """An archive on a free port, which can be killed and started again on what it had stored."""

    def __init__(self, folder: Path):
        program = tool("Orthanc")
        plugin = next(
            (path for place in _PLUGIN_FOLDERS for path in Path(place).glob("*OrthancDicomWeb*") if path.exists()), None
        )
        if plugin is None:
            line = "needs Orthanc's DICOMweb plugin: apt-get install orthanc-dicomweb"
            pytest.fail(line) if os.environ.get("CI") == "true" else pytest.skip(line)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/dicom-web"
        self._log = folder / "orthanc.log"
        config = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": dict([LOGIN]),
            "Plugins": [str(plugin)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
        self._command = [program, str(folder / "orthanc.json")]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        for _ in range(600):
            try:
                self.rest("system")
                return
            except requests.exceptions.ConnectionError:
                time.sleep(0.05)
        self.kill()
        raise TimeoutError(self._log.read_text(encoding="utf-8", errors="replace"))

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def rest(self, path: str) -> Any:
        """What Orthanc itself says, past the code under test."""
        auth = tuple(text.encode() for text in LOGIN)
        return requests.get(f"{self.root}/{path}", auth=auth, timeout=20).json()

    def held(self) -> list[str]:
        """The instances it holds, each as often as it holds it."""
        return sorted(one["MainDicomTags"]["SOPInstanceUID"] for one in self.rest("instances?expand"))

    def archive(self, **options: Any) -> Archive:
        return Archive(Access(self.url, **{"login": LOGIN, "patience_s": 20, **options}))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    started = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield started
    started.kill()


def write_study(
    folder: Path, slices: int = 6, study: str | None = None, accession: str = "A1"
) -> tuple[str, list[str]]:
    """A series of a study of its own; returns the study and the instances."""
    study, uids = study or generate_uid(), []

    def change(_: int, image: pydicom.Dataset) -> None:
        image.StudyInstanceUID, image.AccessionNumber = study, accession
        image.PatientID, image.PatientName, image.SpecificCharacterSet = "P-4711", "Müller^Änne", "ISO_IR 100"
        uids.append(str(image.SOPInstanceUID))

    write_classic(folder, stack((slices, 5, 4)), change)
    return study, sorted(uids)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(pydicom.dcmread(file).SOPInstanceUID): file.read_bytes() for file in folder.rglob("*.dcm")}


# A real archive


def test_what_is_pushed_is_found_and_comes_back_byte_for_byte(tmp_path: Path, orthanc: Orthanc) -> None:
    study, uids = write_study(tmp_path / "series", accession="A-find")
    archive = orthanc.archive()
    assert archive.push([tmp_path / "series"]).sent == 6
    assert archive.find_study("A-find") == study
    (pulled,) = archive.pull(study, tmp_path / "back")
    assert (pulled.modality, pulled.description, pulled.images, pulled.fetched) == ("MR", "LGE 3D", 6, 6)
    sent = {str(pydicom.dcmread(file).SOPInstanceUID): file.read_bytes() for file in (tmp_path / "series").iterdir()}
    assert files_below(pulled.folder) == sent
    np.testing.assert_array_equal(
        read_series(pulled.folder).volume.array, read_series(tmp_path / "series").volume.array
    )
    assert sorted(sent) == uids


def test_pull_segment_push_is_one_way_through_the_command_line(
    tmp_path: Path, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, _ = write_study(tmp_path / "series", accession="A-loop")
    access = ["--dicomweb", orthanc.url, "--json"]
    monkeypatch.setenv("MPER_DICOMWEB_LOGIN", ":".join(LOGIN))
    assert main(["push", str(tmp_path / "series"), *access]) == OK
    assert main(["pull", str(tmp_path / "study"), "--accession", "A-loop", *access]) == OK
    series = read_series(tmp_path / "study")
    array = np.zeros(series.volume.array.shape, np.uint8)
    array[2, 1, 1] = 1
    mask = Segmentation(
        series.volume.with_array(array), (make_label(1, "LA"),), {1: Provenance.of_model("la", "1.0.0", "ab" * 32)}
    )
    write_seg(tmp_path / "seg.dcm", mask, series)
    capsys.readouterr()
    for sent, already in ((1, 0), (0, 1)):  # pushed again, it is not sent again
        assert main(["push", str(tmp_path / "seg.dcm"), *access]) == OK
        assert json.loads(capsys.readouterr().out) == {"sent": sent, "already": already, "failed": {}}
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert main(["pull", str(tmp_path / "again"), "--study", study, "--series", seg.SeriesInstanceUID, *access]) == OK
    (file,) = (tmp_path / "again").rglob("*.dcm")
    assert file.read_bytes() == (tmp_path / "seg.dcm").read_bytes()
    np.testing.assert_array_equal(read_seg(file, series).labelmap.array, array)


def test_the_documented_commands_fetch_segment_and_send_back(
    tmp_path: Path, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "dicom.md").read_text(encoding="utf-8")
    commands = [line.split("mper ", 1)[1] for line in text.splitlines() if line.startswith("mper ")]
    first = next(n for n, line in enumerate(commands) if line.startswith("pull study --accession"))
    study, scan = generate_uid(), generate_uid()

    def of_study(change: Change = nothing) -> Change:
        def both(k: int, image: pydicom.Dataset) -> object:
            image.StudyInstanceUID, image.AccessionNumber, image.PatientID = study, "A123", "P-4711"
            return change(k, image)

        return both

    write_classic(tmp_path / "sent" / "scan", bright_ball(), of_study(), scan)
    write_classic(tmp_path / "sent" / "scout", bright_ball(shape=(3, 30, 26)), of_study(mark_localiser))
    write_report(tmp_path / "sent" / "report.dcm", study)
    assert orthanc.archive().push([tmp_path / "sent"]).sent == 16
    bundle = threshold_bundle()
    bundle = replace(bundle, card=replace(bundle.card, labels=(make_label(1, "LA"),)), sha256="ab" * 32)
    monkeypatch.setattr(ModelBundle, "load", staticmethod(lambda _: bundle))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token.txt").write_text(":".join(LOGIN), encoding="utf-8")
    for line in commands[first : first + 3]:
        words = line.replace("https://pacs.example/dicom-web", orthanc.url).replace("--token-file", "--login-file")
        assert main(shlex.split(words)) == OK, line
    assert [line.split()[0] for line in commands[first : first + 3]] == ["pull", "segment", "push"]
    series = read_series(tmp_path / "study", scan)
    mask = read_seg(tmp_path / "seg.dcm", series)
    assert mask.labels[0].name == "LA" and mask.labelmap.array.any()
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID) in orthanc.held()


def test_a_segmentation_and_its_report_go_together_and_come_back_with_their_figures(
    tmp_path: Path, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = generate_uid()

    def of_study(_: int, image: pydicom.Dataset) -> None:
        image.StudyInstanceUID, image.PatientID, image.PatientSize, image.PatientWeight = study, "P-1", "1.8", "80"

    write_classic(tmp_path / "scan", bright_ball(), of_study)
    bundle = threshold_bundle()
    bundle = replace(bundle, card=replace(bundle.card, labels=(make_label(1, "LA"),)), sha256="ab" * 32)
    monkeypatch.setattr(ModelBundle, "load", staticmethod(lambda _: bundle))
    seg, report = tmp_path / "seg.dcm", tmp_path / "report.dcm"
    assert main(["segment", str(tmp_path / "scan"), str(seg), "--model", "la", "--sr", str(report), "--json"]) == OK
    figures = {each["name"]: each["value"] for each in json.loads(capsys.readouterr().out)["figures"]}
    monkeypatch.setenv("MPER_DICOMWEB_LOGIN", ":".join(LOGIN))
    assert main(["push", str(seg), str(report), "--dicomweb", orthanc.url]) == OK
    assert main(["pull", str(tmp_path / "back"), "--study", study, "--dicomweb", orthanc.url]) == OK
    back = files_below(tmp_path / "back")
    assert sorted(back.values(), key=len) == sorted((seg.read_bytes(), report.read_bytes()), key=len)
    (path,) = (file for file in (tmp_path / "back").rglob("*.dcm") if pydicom.dcmread(file).Modality == "SR")
    (stored,) = read_sr(path).values()
    assert stored["Volume"] == (pytest.approx(figures["LA volume"], rel=1e-4), "mL")
    assert stored["LA volume index"] == (pytest.approx(figures["LA volume"] / 2, rel=1e-4), "mL/m2")
    referenced = pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    uids = [one.ReferencedSOPInstanceUID for series in referenced for one in series.ReferencedSOPSequence]
    assert str(pydicom.dcmread(seg).SOPInstanceUID) in uids


def test_a_wrong_password_and_a_wrong_address_are_told(
    tmp_path: Path, orthanc: Orthanc, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "series")
    before = orthanc.held()
    (tmp_path / "login").write_text("mper:wrong\n", encoding="utf-16")  # as PowerShell writes it
    (tmp_path / "login").chmod(0o600)
    word = ["push", str(tmp_path / "series"), "--dicomweb", orthanc.url]
    assert main([*word, "--login-file", str(tmp_path / "login")]) == FAILED
    assert "refuses the login (401)" in capsys.readouterr().err
    assert main(word) == FAILED
    assert "refuses requests without login (401)" in capsys.readouterr().err
    (tmp_path / "login").write_text(":".join(LOGIN), encoding="utf-8-sig")  # as Notepad does
    word[-1] = orthanc.root  # Orthanc's own interface, not DICOMweb
    assert main([*word, "--login-file", str(tmp_path / "login")]) == FAILED
    assert "ends in /dicom-web" in capsys.readouterr().err
    assert orthanc.held() == before


def test_what_is_not_there_is_told(tmp_path: Path, orthanc: Orthanc) -> None:
    archive = orthanc.archive()
    with pytest.raises(ValueError, match=r"holds no study 1\.2\.3$"):
        archive.pull("1.2.3", tmp_path)
    with pytest.raises(ValueError, match="has no study of accession number 'none'"):
        archive.find_study("none")
    for _ in range(2):
        write_study(tmp_path / generate_uid(), 2, accession="twice")
    archive.push([tmp_path])
    with pytest.raises(ValueError, match=r"has 2 studies \(.*\); name one with --study"):
        archive.find_study("twice")


@pytest.mark.slow
def test_a_server_that_dies_in_mid_push_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orthanc").mkdir()
    orthanc = Orthanc(tmp_path / "orthanc")
    _, uids = write_study(tmp_path / "series", 200)
    heard: list[str] = []
    archive = Archive(Access(orthanc.url, login=LOGIN, patience_s=60), heard.append)
    store, calls, sent = archive._client.store_instances, [0], []

    def watched(datasets: Sequence[pydicom.Dataset]) -> Any:
        calls[0] += 1
        there = set(orthanc.held())
        again = [uid for one in datasets if (uid := str(one.SOPInstanceUID)) in there]
        assert not again, "sent although it was there"
        sent.append(len(datasets))
        killer: threading.Thread | None = None
        if calls[0] in (2, 4, 7):
            killer = threading.Thread(target=die, args=(0.02 * calls[0],))
            killer.start()
        try:
            return store(datasets)
        finally:
            if killer:
                killer.join()

    def die(after_s: float) -> None:
        time.sleep(after_s)
        orthanc.kill()
        threading.Timer(0.7, orthanc.start).start()

    monkeypatch.setattr(archive._client, "store_instances", watched)
    try:
        done = archive.push([tmp_path / "series"])
        assert (done.sent, done.already, dict(done.failed)) == (200, 0, {})
        assert orthanc.held() == uids
        assert len(sent) >= 8
        assert any("trying again" in line for line in heard)
        assert orthanc.archive().push([tmp_path / "series"]).already == 200
    finally:
        orthanc.kill()


@pytest.mark.slow
def test_a_push_that_was_given_up_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orthanc").mkdir()
    orthanc = Orthanc(tmp_path / "orthanc")
    study, uids = write_study(tmp_path / "series", 60)
    monkeypatch.setenv("MPER_DICOMWEB_LOGIN", ":".join(LOGIN))
    try:

        def stop_server(progress: Progress) -> None:
            if progress.message.startswith("sending") and "(25 of 60)" in progress.message:
                orthanc.kill()

        with pytest.raises(ConnectionError, match="25 of 60 instances are there: run the command again"):
            orthanc.archive(patience_s=1).push([tmp_path / "series"], stop_server)
        orthanc.start()
        assert len(orthanc.held()) == 25
        words = ["push", str(tmp_path / "series"), "--dicomweb", orthanc.url, "--json"]
        assert main(words) == OK
        assert json.loads(capsys.readouterr().out) == {"sent": 35, "already": 25, "failed": {}}
        assert orthanc.held() == uids

        def stop_person(progress: Progress) -> None:
            if "image 10 of" in progress.message:
                raise Cancelled

        with pytest.raises(Cancelled):
            orthanc.archive().pull(study, tmp_path / "back", report=stop_person)
        assert len(files_below(tmp_path / "back")) == 9
        (pulled,) = orthanc.archive().pull(study, tmp_path / "back")
        assert (pulled.images, pulled.fetched) == (60, 51)
        assert sorted(files_below(tmp_path / "back")) == uids
    finally:
        orthanc.kill()


# Odd archives


Answer = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


@contextmanager
def odd_archive(answer: Answer, encryption: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server whose every answer is made here; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer()

        def _answer(self) -> None:
            status, headers, body = answer(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of clients that hang up
    if encryption:
        server.socket = encryption.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http{'s' if encryption else ''}://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()


DICOM_JSON = {"Content-Type": "application/dicom+json"}


def test_a_token_is_sent_as_bearer_and_503_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, uids = write_study(tmp_path / "series", 2)
    seen, stored = [], []

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        seen.append(request.headers["Authorization"])
        if len(seen) < 3:
            return 503, {}, b""
        if request.command == "POST":
            stored.extend(uid for uid in uids if uid.encode() in request.body)  # type: ignore[attr-defined]
            return 200, DICOM_JSON, b"{}"
        found = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in stored]
        return 200, DICOM_JSON, json.dumps(found).encode()

    (tmp_path / "token").write_text("abc.def\n", encoding="utf-8")
    (tmp_path / "token").chmod(0o644)
    with odd_archive(answer) as url:
        words = ["push", str(tmp_path / "series"), "--dicomweb", url]
        assert main([*words, "--token-file", str(tmp_path / "token")]) == OK
        monkeypatch.setenv("MPER_DICOMWEB_TOKEN", "from the environment")
        assert main(words) == OK
    assert sorted(stored) == uids
    assert set(seen) == {"Bearer abc.def", "Bearer from the environment"}
    told = capsys.readouterr()
    assert "2 instances sent" in told.out
    assert "the archive answers 503; trying again" in told.err
    assert "other users of this computer can read" in told.err or os.name != "posix"
    assert "abc.def" not in told.out + told.err


def test_an_encrypted_archive_is_trusted_by_its_certificate_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(encryption)
    write_study(tmp_path / "series", 2)
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        asked.append(request.path)
        return 200, DICOM_JSON, b"[]" if request.command == "GET" else b"{}"

    with odd_archive(answer, encryption) as url:
        words = ["push", str(tmp_path / "series"), "--dicomweb", url]
        assert main(words) == FAILED
        assert "its certificate is not known here" in capsys.readouterr().err
        assert asked == []
        main([*words, "--ca", str(tmp_path / "ca.pem")])
        assert "/dicom-web/studies" in asked


def test_what_an_archive_refuses_is_told_by_instance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, uids = write_study(tmp_path / "series", 2)
    stored: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.command == "POST":
            stored[:] = uids[:1]
            refused = {"00081155": {"vr": "UI", "Value": [uids[1]]}, "00081197": {"vr": "US", "Value": [0xA900]}}
            return status, DICOM_JSON, json.dumps({"00081198": {"vr": "SQ", "Value": [refused]}}).encode()
        found = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in stored]
        return 200, DICOM_JSON, json.dumps(found).encode()

    for status in (202, 409):  # noqa: B007 (the answer reads it)
        stored.clear()
        with odd_archive(answer) as url:
            assert main(["push", str(tmp_path / "series"), "--dicomweb", url, "--json"]) == FAILED
        told = capsys.readouterr()
        assert json.loads(told.out)["failed"] == {uids[1]: "the archive refused it (code A900h)"}
        assert f"{uids[1]}: the archive refused it (code A900h)" in told.err


def test_what_an_archive_took_and_does_not_have_is_told(tmp_path: Path) -> None:
    _, uids = write_study(tmp_path / "series", 2)
    with odd_archive(lambda request: (200, DICOM_JSON, b"[]" if request.command == "GET" else b"{}")) as url:
        done = Archive(Access(url)).push([tmp_path / "series"])
    assert (done.sent, dict(done.failed)) == (
        0,
        dict.fromkeys(uids, "not stored: the archive reported no error and does not list it"),
    )


class OddServer:
    """Answers for the instances of one series as archives do that keep to the standard nearly."""

    def __init__(self, folder: Path, mode: str):
        self.files = {str(pydicom.dcmread(path).SOPInstanceUID): path.read_bytes() for path in folder.iterdir()}
        first = pydicom.dcmread(next(folder.iterdir()))
        self.study, self.series, self.mode = str(first.StudyInstanceUID), str(first.SeriesInstanceUID), mode

    def __call__(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        path, _, _ = request.path.partition("?")
        if request.command == "POST":
            return 200, {}, b""  # and keeps nothing
        uid = path.rsplit("/", 1)[1]
        if uid in self.files:
            return self.file(request.headers["Accept"], self.files[uid])
        items = [{"0020000D": {"vr": "UI", "Value": [self.study]}, "0020000E": {"vr": "UI", "Value": [self.series]}}]
        if path.endswith("/instances"):
            items = [{"00080018": {"vr": "UI", "Value": [one]}} for one in self.files]
        return 200, DICOM_JSON, json.dumps([] if self.mode == "empty" else items).encode()

    def file(self, accept: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        multipart = {"Content-Type": 'multipart/related; type="application/dicom"; boundary="xyz"'}
        whole = b"\r\n--xyz\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--xyz--\r\n"
        loose = b"--xyz\r\ncontent-type: application/dicom\r\ncontent-length: 9\r\n\r\n" + content + b"\r\n--xyz--"
        if self.mode == "syntax" and "transfer-syntax=*" not in accept:
            return 406, {}, b"transfer-syntax=* is wanted"
        if self.mode == "no syntax" and "transfer-syntax" in accept:
            return 406, {}, b""
        if self.mode == "alone only" and "multipart" in accept:
            return 400, {}, b""
        if self.mode == "never":
            return 406, {}, b"image/jpeg is wanted"
        return {
            "single": (200, {"Content-Type": "application/dicom"}, content),
            "alone only": (200, {"Content-Type": "application/dicom; transfer-syntax=1.2"}, content),
            "called multipart": (200, multipart, content),
            "loose": (200, multipart, b"This is a message of parts.\r\n" + loose),
            "line feeds": (200, multipart, b"--xyz\ncontent-type: application/dicom\n\n" + content + b"\n--xyz--\n"),
            "no boundary": (200, {"Content-Type": "Multipart/Related"}, whole),
            "empty part": (200, multipart, b"--xyz\r\n\r\n\r\n--xyz--"),
        }.get(self.mode, (200, multipart, whole))


@pytest.mark.parametrize(
    "mode",
    ["", "single", "syntax", "no syntax", "alone only", "called multipart", "loose", "line feeds", "no boundary"],
)
def test_files_arrive_from_archives_that_keep_to_the_standard_nearly(tmp_path: Path, mode: str) -> None:
    study, _ = write_study(tmp_path / "series", 3)
    answer = OddServer(tmp_path / "series", mode)
    with odd_archive(answer) as url:
        (pulled,) = Archive(Access(url)).pull(study, tmp_path / "back")
    assert pulled.fetched == 3
    assert files_below(tmp_path / "back") == answer.files


@pytest.mark.parametrize(
    ("mode", "told"),
    [("never", "answers 406 Not Acceptable (image/jpeg is wanted)"), ("empty part", "answers otherwise than DICOMweb")],
)
def test_what_an_archive_wants_instead_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, told: str
) -> None:
    study, _ = write_study(tmp_path / "series", 2)
    with odd_archive(OddServer(tmp_path / "series", mode)) as url:
        assert main(["pull", str(tmp_path / "back"), "--study", study, "--dicomweb", url]) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert files_below(tmp_path / "back") == {}


def test_an_archive_that_answers_well_and_keeps_nothing_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, uids = write_study(tmp_path / "series", 2)
    with odd_archive(OddServer(tmp_path / "series", "empty")) as url:
        assert main(["push", str(tmp_path / "series"), "--dicomweb", url]) == FAILED
    said = capsys.readouterr()
    assert all(f"mper: error: {uid}: not stored" in said.err for uid in uids)
    assert "0 instances sent, 2 not stored" in said.out


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (200, {"Content-Type": "text/html"}, b"<html>welcome</html>", "does not speak DICOMweb"),
        (404, {}, b"", "does not speak DICOMweb"),
        (302, {"Location": "http://192.0.2.1/"}, b"", "sends elsewhere"),
        (200, DICOM_JSON, b'["ab", "cd"]', "does not answer as DICOMweb does"),
        (500, {}, b"", "answers 500"),
        (403, {}, b"", "refuses requests without login (403)"),
    ],
)
def test_what_is_no_dicomweb_is_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    headers: dict[str, str],
    body: bytes,
    told: str,
) -> None:
    write_study(tmp_path / "series", 2)
    with odd_archive(lambda _: (status, headers, body)) as url:
        for words in (["push", str(tmp_path / "series")], ["pull", str(tmp_path / "back"), "--study", STUDY]):
            assert main([*words, "--dicomweb", url]) == FAILED
            (line,) = capsys.readouterr().err.splitlines()
            assert told in line


def test_an_archive_cannot_choose_where_files_go(tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        tag = "00080018" if "instances" in request.path else "0020000E"
        return 200, DICOM_JSON, json.dumps([{tag: {"vr": "UI", "Value": ["../../evil"]}}]).encode()

    with odd_archive(answer) as url, pytest.raises(ValueError, match=r"'\.\./\.\./evil' is no UID"):
        Archive(Access(url)).pull(STUDY, tmp_path / "back")
    assert list(tmp_path.rglob("*.dcm")) == []


def test_addresses_that_would_expose_patients_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url, told in (
        ("http://pacs.hospital.org/dicom-web", "is not encrypted"),
        ("https://user:secret@pacs.hospital.org/dicom-web", "holds a user or password"),
        ("pacs.hospital.org", "is no address"),
        ("ftp://pacs.hospital.org", "is no address"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            Access(url)
        assert "secret" not in str(caught.value)
    assert Access("http://pacs.hospital.org/dicom-web", plain_http=True).is_local is False
    assert Access("http://[::1]:8042/dicom-web").is_local
    assert "secret" not in repr(Access("https://a.org", login=("user", "secret"), token="secret"))
    (tmp_path / "empty").touch()
    words = ["pull", str(tmp_path), "--study", "1.2", "--dicomweb", "https://a.org"]
    for options, told in (
        (["--login-file", str(tmp_path / "empty")], "is empty"),
        (["--login-file", str(tmp_path / "empty"), "--token-file", "x"], "not allowed with"),
        (["--patience", "soon"], "is no time"),
        (["--dicomweb", "a.org"], "is no address"),
    ):
        assert main([*words, *options]) == USAGE
        assert told in capsys.readouterr().err


def test_what_cannot_be_pushed_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    write_study(tmp_path / "series", 2)
    archive = Archive(Access("http://127.0.0.1:9/dicom-web", patience_s=0.1))
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("hello", encoding="utf-8")
    first = sorted((tmp_path / "series").iterdir())[0]
    copy = tmp_path / "series" / "copy"
    for prepare, path, told in (
        (None, tmp_path / "notes.txt", "is not a DICOM instance; nothing was sent"),
        (None, tmp_path / "folder", "holds no DICOM file"),
        (lambda: copy.write_bytes(first.read_bytes()[:300]), copy, "nothing was sent"),
        (lambda: copy.write_bytes(first.read_bytes() + b"\0\0"), tmp_path / "series", "claim to be the same instance"),
    ):
        if prepare:
            prepare()
        with pytest.raises(ValueError, match=told):
            archive.push([path])
    copy.unlink()
    with pytest.raises(FileNotFoundError):
        archive.push([tmp_path / "missing"])
    with pytest.raises(ConnectionError, match=r"does not answer \(.*\), tried for 0 s"):
        archive.push([tmp_path / "series"])
