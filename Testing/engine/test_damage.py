"""What is damaged, foreign or half-made hides nothing else; a full disk is one line, and leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from engines import Served, array_header, served, small_root, until

from mper.datasets.dataset import Dataset, folders_of_work
from mper.utils.cleanup import remove_unfinished
from mper.utils.errors import explain
from mper.utils.files import temporary_sibling, this_host
from mper.volume import Geometry, Volume

DATA = "/datasets/Data~mine"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a dataset that has models, two labelled cases and a run."""
    home = small_root(tmp_path_factory.mktemp("stored") / "Data")
    dataset = Dataset.open(home / "mine")
    for n in range(2):
        case = dataset.add_case(f"case-{n}", small_scan(n), {})
        case.add_label(case.image().with_array(np.ones((4, 6, 8), np.uint8)), author="me", how="hand")
    dataset.add_to_split("train", ["case-0", "case-1"])
    folder = dataset.new_run("run")
    config = {"dataset": str(dataset.path), "name": "small", "device": "cpu"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    status = {"state": "finished", "message": "done", "heartbeat": 0, "step": 9, "method": "mper", "elapsed_s": 9}
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    (folder / "published.json").write_text('{"name": "small", "version": 1}', encoding="utf-8")
    return home


def small_scan(seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).integers(0, 100, (4, 6, 8)).astype(np.int16)
    return Volume(array, Geometry(np.diag([2.0, 1.0, 1.0, 1.0]), (4, 6, 8)))


@pytest.fixture
def home(stored: Path, tmp_path: Path, engine: Served) -> Iterator[Path]:
    """A copy of it as the engine's root."""
    copy = tmp_path / "Data"
    shutil.copytree(stored, copy)
    roots = engine.engine.roots
    before, roots._folders = roots._folders, {"Data": copy.resolve()}
    yield copy
    roots._folders = before


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("spool")) as found:
        yield found


def notes(engine: Served, route: str) -> list[str]:
    answer = engine.get(route)
    assert answer.status == 200, answer.body
    return json.loads(answer.headers.get("mper-notes", "[]"))


# ---------------------------------------------------------------------- foreign and damaged files

NNUNET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "LA": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
OURS = {"format": "mper-dataset", "version": 1, "name": "x", "labels": [], "splits": {}, "holdout": None}
FOREIGN = {
    "nnU-Net's": json.dumps(NNUNET).encode(),
    "empty": b"",
    "truncated": json.dumps(OURS).encode()[:40],
    "no JSON": b"\xff\xfe\x00\x01" * 50,
    "a list": b"[1, 2]",
    "nested too deeply": b"[" * 100_000,
    "of another version": json.dumps(OURS | {"version": 99}).encode(),
    "without a label": json.dumps(OURS).encode(),
    "with strange labels": json.dumps(OURS | {"labels": [3]}).encode(),
    "with strange splits": json.dumps(OURS | {"splits": 3}).encode(),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_or_damaged_dataset_json_hides_nothing_else(engine: Served, home: Path, content: bytes) -> None:
    (home / "a foreign one").mkdir()
    (home / "a foreign one" / "dataset.json").write_bytes(content)
    (home / "dataset.json").write_bytes(content)  # of the root itself, above all others
    assert [entry["id"] for entry in engine.get("/datasets").json()] == ["Data/mine"]
    models = [entry["id"] for entry in engine.get("/models").json() if entry["origin"] != "bundled"]
    assert models == ["Data/mine/flat/1", "Data/mine/small/1", "Data/mine/small/2"]
    for route in ("/datasets", "/models"):
        assert [line.partition(" is skipped: ")[0] for line in notes(engine, route)] == [
            *("the dataset Data", "the dataset Data/a foreign one")
        ]
        assert str(home) not in "".join(notes(engine, route))
        codes = json.loads(engine.get(route).headers["mper-note-codes"])
        assert {codes[line]["code"] for line in notes(engine, route)} == {"skipped"}
    assert notes(engine, DATA) == []
    assert engine.engine.trainings() == []
    answer = engine.get("/datasets/Data~a foreign one".replace(" ", "%20"))
    assert answer.status == 422 and str(home) not in answer.error()
    made = engine.post("/datasets", {"root": "Data", "folder": "new", "labels": ["LA"]})
    assert made.status == (
        409 if b"mper-dataset" in content and content[-1:] == b"}" else 200
    )  # not inside one of ours


def test_a_folder_that_may_not_be_searched_hides_nothing_else(
    engine: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = home / "lost+found"
    closed.mkdir()

    def refuse(call: Callable[..., object]) -> Callable[..., object]:
        def refused(path: object = ".", *more: object, **named: object) -> object:
            if isinstance(path, (str, os.PathLike)):
                inside = closed in Path(path).parents
                if inside or (Path(path) == closed and call in (listdir, scandir)):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *more, **named)

        return refused

    stat, listdir, scandir = os.stat, os.listdir, os.scandir
    for call in (stat, listdir, scandir):
        monkeypatch.setattr(os, call.__name__, refuse(call))
    assert [entry["id"] for entry in engine.get("/datasets").json()] == ["Data/mine"]
    assert len([entry for entry in engine.get("/models").json() if entry["origin"] != "bundled"]) == 3
    assert engine.engine.trainings() == []


def damage(path: Path, how: str) -> None:
    """Spoil a file."""
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "noise": b"\xff\x00{" * 9, "list": b"[]"}[how])


HOW = ("empty", "truncated", "noise", "list")


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_model_card_hides_no_other_version(engine: Served, home: Path, how: str) -> None:
    damage(home / "mine" / "models" / "small" / "1" / "card.json", how)
    listed = [entry["id"] for entry in engine.get("/models").json() if entry["origin"] != "bundled"]
    assert listed == ["Data/mine/flat/1", "Data/mine/small/2"]
    (line,) = notes(engine, "/models")
    assert line.startswith("the model Data/mine/small/1 is skipped: ")
    models = {model["name"]: model for model in engine.get(DATA).json()["models"]}
    assert [version["version"] for version in models["small"]["versions"]] == [2]
    assert notes(engine, DATA)[0].startswith("version 1 of the model small is skipped: ")
    warnings = engine.post(f"{DATA}/plan", {}).json()["warnings"]
    assert any(each.startswith("the model small is skipped: ") for each in warnings)
    for route, body in (("rank", {"model": "Data/mine/small/1"}), ("plan", {"start_from": "Data/mine/small/1"})):
        answer = engine.post(f"{DATA}/{route}", body)
        assert answer.status == 422 and "card.json" in answer.error()


@pytest.mark.parametrize("content", ["", "two", "99", "\x00" * 9, "-1", "1.5"])
def test_a_damaged_choice_of_a_version_hides_no_version_and_is_mended_by_use(
    engine: Served, home: Path, content: str
) -> None:
    current = home / "mine" / "models" / "small" / "current"
    current.write_text(content, encoding="utf-8")
    listed = {e["id"]: e["origin"]["current"] for e in engine.get("/models").json() if e["origin"] != "bundled"}
    assert listed == {"Data/mine/flat/1": True, "Data/mine/small/1": False, "Data/mine/small/2": False}
    model = next(each for each in engine.get(DATA).json()["models"] if each["name"] == "small")
    assert model["current"] == 0 and len(model["versions"]) == 2
    for route in ("/models", DATA):
        assert [line.partition(" is skipped")[0] for line in notes(engine, route)] == [
            "the choice of a version of the model small"
        ]
    answer = engine.post("/models/load", {"model": "Data/mine/small"})
    assert answer.status == 404
    assert engine.post(f"{DATA}/models/small/use", {"version": 2}).json()["current"] == 2
    assert current.read_text(encoding="utf-8") == "2\n" and notes(engine, "/models") == []


@pytest.mark.parametrize("name", ["config.json", "status.json", "published.json"])
@pytest.mark.parametrize("how", HOW)
def test_a_run_with_a_damaged_file_says_so_and_hides_no_other(engine: Served, home: Path, name: str, how: str) -> None:
    shutil.copytree(home / "mine" / "runs" / "run", home / "mine" / "runs" / "whole")
    damage(home / "mine" / "runs" / "run" / name, how)
    whole, run = engine.get(f"{DATA}/runs").json()
    assert (whole["run"], whole["state"], whole["version"]) == ("whole", "finished", 1)
    assert (run["run"], run["state"], run["alive"]) == ("run", "failed", False) and "damaged" in run["message"]
    assert engine.get(f"{DATA}/runs/run").json() == run and str(home) not in run["message"]
    assert [each["run"] for each in engine.get(DATA).json()["runs"]] == ["whole", "run"]
    assert engine.post(f"{DATA}/plan", {"start_from": "la"}).status == 200
    assert engine.post(f"{DATA}/runs/run/command", {"command": "pause"}).status == 409
    assert engine.engine.trainings() == []
    events = list(engine.events(f"{DATA}/runs/run/events"))
    assert events[-1] is not None and (events[-1]["event"], events[-1]["state"]) == ("end", "failed")
    assert engine.get(f"{DATA}/runs/run/log").status == 200


STATUS = [
    '{"state": "running"}',
    '{"heartbeat": 0}',
    '{"state": 3, "heartbeat": 0}',
    '{"state": "running", "heartbeat": "x"}',
]


@pytest.mark.parametrize("status", STATUS)
def test_a_state_with_missing_or_strange_keys_is_damaged(engine: Served, home: Path, status: str) -> None:
    (home / "mine" / "runs" / "run" / "status.json").write_text(status, encoding="utf-8")
    run = engine.get(f"{DATA}/runs/run").json()
    assert run["state"] == "failed" and run["message"] == "status.json is damaged; resume the run"


@pytest.mark.parametrize("name", ["case.json", "labels/1.json", "prediction.json"])
@pytest.mark.parametrize("how", HOW)
def test_a_damaged_case_hides_no_other(engine: Served, home: Path, name: str, how: str) -> None:
    (home / "mine" / "cases" / "case-0" / "prediction.json").write_text('{"confidence": 0.5, "model": null}')
    damage(home / "mine" / "cases" / "case-0" / name, how)
    first, second = engine.get(f"{DATA}/cases").json()
    assert (first["id"], second["id"], second["labelled"]) == ("case-0", "case-1", True)
    if name == "prediction.json" or (name == "labels/1.json" and how == "empty"):  # a claim of a killed program
        assert "error" not in first
    else:
        assert "damaged" in first["error"] and str(home) not in first["error"]
    assert engine.get("/datasets").json()[0]["cases"] == 2


# ---------------------------------------------------------------------- half-made things


def test_what_dead_programs_left_half_made_is_removed_and_nothing_else(home: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = home / "mine"
    long_ago = time.time() - 1800
    dead = [
        *(
            place / f".{this_host()}-{ended.pid}-{'0' * 12}.part"
            for place in (mine, mine / "cases", mine / "runs" / "run")
        ),
        mine / "cases" / "case-0" / "labels" / f".{this_host()}-{ended.pid}-{'1' * 12}.part",
        mine / "models" / "small" / f".{this_host()}-{ended.pid}-{'2' * 12}.part",
    ]
    living = [
        mine / "cases" / f".{this_host()}-{os.getpid()}-{'0' * 12}.part",
        mine / "cases" / f".00000000-{ended.pid}-{'0' * 12}.part",  # of another computer
        mine / "models" / "small" / f".{this_host()}-{ended.pid}-{'3' * 12}.part",  # changed a moment ago
        mine / "cases" / ".something-else.part",
        mine / "cases" / "case-0" / "notes.part",
    ]
    for n, path in enumerate([*dead, *living]):
        path.mkdir() if n % 2 else path.write_text("half", encoding="utf-8")
        (path / "image.nrrd").touch() if n % 2 else None
        if path is not living[2]:
            os.utime(path, (long_ago, long_ago) if path is not living[0] else None)
    before = sorted(path for path in home.rglob("*") if not any(d in (path, *path.parents) for d in dead))
    remove_unfinished(folders_of_work(mine))
    assert [path for path in dead if path.exists()] == [] and all(path.exists() for path in living)
    assert sorted(home.rglob("*")) == before


def test_an_engine_that_starts_cleans_up_and_tries_again_after_an_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = home / "mine" / "cases" / f".{this_host()}-{ended.pid}-{'0' * 12}.part"
    left.mkdir()
    os.utime(left, (0, 0))
    errors = [OSError(errno.EIO, os.strerror(errno.EIO)), ValueError("a fault")]

    def remove(folders: Iterable[Path], unowned: bool) -> None:
        if errors:
            raise errors.pop()
        remove_unfinished(folders, unowned)

    monkeypatch.setattr("mper.engine.services.engine.remove_unfinished", remove)
    monkeypatch.setattr("mper.engine.services.engine._MAINTAIN_EVERY_S", 0.01)
    with served(tmp_path / "spool", [home]):
        until(lambda: not left.exists())


def test_names_of_temporary_files_tell_their_process_and_are_never_the_same(tmp_path: Path) -> None:
    names = {temporary_sibling(tmp_path / "x").name for _ in range(100)}
    assert len(names) == 100 and all(f"-{os.getpid()}-" in name and name.startswith(".") for name in names)


# ---------------------------------------------------------------------- full disks


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile(io.BytesIO):
    """A file on a full disk."""

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fills_up(monkeypatch: pytest.MonkeyPatch, matches: Callable[[Path], bool]) -> None:
    """Let writing to some paths fail as on a full disk, after the file was made."""
    opened = Path.open

    def open_path(path: Path, mode: str = "r", *more: object, **named: object) -> object:
        if mode in ("xb", "wb", "ab", "w", "a") and matches(path):
            opened(path, mode).close()
            return FullFile()
        return opened(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", open_path)


@contextlib.contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    """What is in `folders` is the same after the block."""

    def state() -> list[tuple[Path, bytes | None]]:
        paths = [path for folder in folders for path in folder.rglob("*") if path.name != ".dataset.lock"]
        return sorted((path, path.read_bytes() if path.is_file() else None) for path in paths)

    before = state()
    yield
    assert state() == before


def test_a_disk_that_fills_up_during_an_upload_is_one_line_and_leaves_nothing(
    engine: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = small_scan()
    headers = {"MPER-Array": array_header(scan)}
    spool = engine.engine.settings.spool
    with unchanged(spool, home):
        fills_up(monkeypatch, lambda path: path.name.startswith("upload-"))
        for method, route, body in (
            ("POST", "/scans", scan.array.tobytes()),
            ("POST", f"{DATA}/cases/case-0/labels?author=me&how=hand", scan.array.tobytes()),
            ("POST", f"{DATA}/cases/case-0/scan", None),
        ):
            answer = engine.call(method, route, body, headers if body else None)
            assert answer.status == 409 and "the disk is full" in answer.error() and "Errno" not in answer.error()
        monkeypatch.undo()
    assert engine.call("POST", "/scans", scan.array.tobytes(), headers).status == 200


def test_a_disk_that_fills_up_under_a_dataset_is_one_line_and_leaves_nothing(
    engine: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, mask = small_scan(7), small_scan().with_array(np.zeros((4, 6, 8), np.uint8))
    one = engine.upload(scan)
    strokes = {"strokes": [{"value": 1, "points_mm": [[2.0, 2.0, 2.0]], "radius_mm": 1.0}]}
    calls: list[tuple[str, str, object, dict[str, str] | None]] = [
        ("POST", f"{DATA}/cases", {"scan": one, "id": "new"}, None),
        (
            "POST",
            f"{DATA}/cases/case-0/labels?author=me&how=hand",
            mask.array.tobytes(),
            {"MPER-Array": array_header(mask)},
        ),
        ("POST", f"{DATA}/cases/case-0/strokes?author=me", strokes, None),
        ("PUT", f"{DATA}/cases/case-0/labels/1/strokes", strokes, None),
        ("POST", f"{DATA}/cases/case-0/restore", {"number": 1, "author": "me"}, None),
        ("POST", f"{DATA}/splits", {"name": "more", "cases": ["case-0"]}, None),
        ("POST", f"{DATA}/holdout", {"cases": ["case-0"]}, None),
        ("POST", f"{DATA}/models/small/use", {"version": 2}, None),
        ("POST", f"{DATA}/runs", {"steps": 3, "device": "cpu", "start_from": None}, None),
        ("POST", "/datasets", {"root": "Data", "folder": "new", "labels": ["LA"]}, None),
    ]
    with unchanged(home):
        fills_up(monkeypatch, lambda path: path.name.endswith(".part") or path.parent.name.endswith(".part"))
        for method, route, body, headers in calls:
            answer = engine.call(method, route, body, headers)
            assert answer.status == 409 and "the disk is full" in answer.error(), (route, answer.body)
            assert str(home) not in answer.error()
        monkeypatch.undo()
        shutil.rmtree(home / "new")  # an empty folder, in which the next try succeeds


def test_a_disk_that_fills_up_while_a_model_is_published_is_one_line_and_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(home / "mine")
    copy = shutil.copyfile

    def fill(source: Path, target: Path, **more: object) -> object:
        if Path(source).suffix == ".safetensors":
            Path(target).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copy(source, target, **more)

    with unchanged(home):
        monkeypatch.setattr(shutil, "copyfile", fill)
        with pytest.raises(OSError) as error:
            dataset.publish_model("small", home / "mine" / "models" / "small" / "1")
        assert explain(error.value).endswith("the disk is full") and "\n" not in explain(error.value)
        monkeypatch.undo()
    assert dataset.publish_model("small", home / "mine" / "models" / "small" / "1").name == "3"


# ---------------------------------------------------------------------- two writers


def test_revisions_that_are_added_at_once_each_have_their_number_and_voxels(home: Path) -> None:
    case = Dataset.open(home / "mine").case("case-0")
    made: dict[int, int] = {}

    def add(value: int) -> None:
        mask = case.image().with_array(np.full((4, 6, 8), value % 2, np.uint8))
        made[case.add_label(mask, author=str(value), how="hand").number] = value

    threads = [threading.Thread(target=add, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(2, 10))
    for revision in case.revisions()[1:]:
        assert revision.author == str(made[revision.number])
        assert (case.label(revision.number).array == made[revision.number] % 2).all()  # type: ignore[union-attr]
