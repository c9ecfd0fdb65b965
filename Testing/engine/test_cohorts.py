"""Cohorts over the engine: a run in the background, the review of its masks, and labels made of them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import MODEL, Caller, Served, array_header, until
from small_cohort import small_cohort

from mper.cli import main
from mper.cohort.status import LOCK
from mper.datasets.dataset import Dataset
from mper.engine.services.jobs import Job
from mper.io import read_segmentation
from mper.labels import make_label
from mper.utils.locking import locked
from mper.volume import Volume


def opened(engine: Served, out: Path) -> str:
    return str(engine.post("/cohorts/open", {"path": str(out)}).json()["id"])


def route(cohort: str, *parts: str) -> str:
    return "/".join(["/cohorts", cohort.replace("/", "~"), *parts])


def rows(engine: Caller, cohort: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in engine.get(route(cohort, "rows")).json()["rows"]}


def decide(engine: Caller, cohort: str, mask: str, decision: str) -> dict[str, Any]:
    body = {"mask": mask, "decision": decision, "author": "me"}
    return dict(engine.post(route(cohort, "reviews"), body).json())


@pytest.fixture
def cohort(engine: Served, tmp_path: Path, scan: Volume) -> str:
    return opened(engine, small_cohort(tmp_path / "Köln", scan, "abcx", broken="x"))


@pytest.fixture
def dataset(root: Path, request: pytest.FixtureRequest) -> Dataset:
    """An empty dataset below the root."""
    path = root / f"kept-{abs(hash(request.node.name))}"
    request.addfinalizer(lambda: shutil.rmtree(path, ignore_errors=True))
    return Dataset.create(path, "Kept", [make_label(1, "LA")])


def keep(engine: Served, cohort: str, dataset: Dataset) -> dict[str, Any]:
    body = {"dataset": f"Data/{dataset.path.name}", "author": "me"}
    return engine.result(engine.post(route(cohort, "keep"), body).json())


class InThread:
    """A command of mper in a thread, in place of a process of its own, which would load torch for seconds."""

    def __init__(self, words: list[str], log: Path) -> None:
        assert words[-1] == "--background" and log.parent.is_dir()
        self.returncode: int | None = None
        threading.Thread(target=self._run, args=(words[:-1], log)).start()

    def _run(self, words: list[str], log: Path) -> None:
        with log.open("a", encoding="utf-8") as stream, contextlib.redirect_stderr(stream):
            code = main(words)
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode


def test_a_run_that_was_killed_is_resumed_and_a_broken_scan_stops_no_other(
    engine: Served, tmp_path: Path, scan: Volume, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mper.engine.services.cohort_store.start_detached", InThread)
    out = small_cohort(
        tmp_path, scan, "abcvw", broken="c", waiting="vw", model=root / "mine" / "models" / "small" / "1"
    )
    cohort = opened(engine, out)
    here = route(cohort)
    status = engine.get(here).json()
    assert (status["state"], status["resumable"], status["scans"]) == ("interrupted", True, 5)
    assert (status["segmented"], status["failed"], status["fraction"]) == (2, 1, 0.6)
    listed = rows(engine, cohort)
    assert [row["state"] for row in listed.values()] == ["done", "done", "failed", "waiting", "waiting"]
    assert listed["b.seg.nrrd"]["expected_dice"] == 0.7 and listed["b.seg.nrrd"]["flags"] == ["several parts"]
    assert listed["a.seg.nrrd"]["volumes_ml"]["LA"] > 0 and listed["a.seg.nrrd"]["seconds"] == 1.5
    before = (out / "a.seg.nrrd").stat().st_mtime_ns
    assert engine.post(f"{here}/command", {"command": "resume"}).json()["state"] in ("starting", "running")
    until(lambda: engine.get(here).json()["state"] not in ("starting", "running"), 90)
    ended = engine.get(here).json()
    assert (ended["state"], ended["segmented"], ended["failed"], ended["fraction"]) == ("finished", 4, 1, 1.0)
    listed = rows(engine, cohort)
    assert [row["state"] for row in listed.values()] == ["done", "done", "failed", "done", "done"]
    assert "c.nrrd" in listed["c.seg.nrrd"]["error"] and listed["v.seg.nrrd"]["volumes_ml"]
    assert listed["v.seg.nrrd"]["flags"] and set(listed["v.seg.nrrd"]["flags"]) <= set(
        listed["v.seg.nrrd"]["line_codes"]
    )
    assert (out / "a.seg.nrrd").stat().st_mtime_ns == before and (out / "summary.html").is_file()


@pytest.mark.parametrize("fault", ["no scan", "another model"])
def test_a_run_that_ends_before_its_work_says_why_in_one_line(
    fault: str, engine: Served, tmp_path: Path, scan: Volume, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mper.engine.services.cohort_store.start_detached", InThread)
    if fault == "no scan":
        (tmp_path / "scans").mkdir()
        body = {"folder": str(tmp_path / "scans"), "out": str(tmp_path / "out"), "model": MODEL}
        here, expected = route(engine.post("/cohorts", body).json()["id"]), "holds no scan"
    else:
        out = small_cohort(tmp_path, scan, "aw", waiting="w")  # by a model that the recorded command does not name
        command = {
            "inputs": [str(tmp_path / "scans")],
            "options": [f"--model={root / 'mine' / 'models' / 'flat' / '1'}"],
        }
        (out / ".mper" / "command.json").write_text(json.dumps(command), encoding="utf-8")
        here, expected = route(opened(engine, out)), "holds masks of the model small 1.0.0"
        engine.post(f"{here}/command", {"command": "resume"})
    until(lambda: engine.get(here).json()["state"] not in ("starting", "running"))
    found = engine.get(here).json()
    assert found["state"] == "failed" and expected in found["message"] and "\n" not in found["message"]
    assert expected in engine.get(f"{here}/log").body.decode()


def test_a_run_under_way_is_asked_to_pause_and_no_second_one_starts(
    engine: Served, tmp_path: Path, scan: Volume
) -> None:
    out = small_cohort(tmp_path, scan, "aw", waiting="w")
    here = route(opened(engine, out))
    assert engine.post(f"{here}/command", {"command": "pause"}).status == 409
    with locked(out / LOCK):  # as a process that works on it has it
        assert engine.get(here).json()["state"] == "running"
        assert engine.post(f"{here}/command", {"command": "pause"}).json()["pausing"] is True
        assert "already" in engine.post(f"{here}/command", {"command": "resume"}).error()


def test_scan_and_mask_come_on_one_grid_and_decisions_are_only_added(
    engine: Served, cohort: str, tmp_path: Path, scan: Volume
) -> None:
    image = engine.get(route(cohort, "image?mask=b.seg.nrrd"))
    np.testing.assert_array_equal(image.array(), scan.array + 1)
    part = engine.get(route(cohort, "mask?mask=b.seg.nrrd"))
    whole = np.zeros(scan.array.shape, np.uint8)
    start, shape = part.array_header()["start"], part.array_header()["shape"]
    whole[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = part.array()
    out = tmp_path / "Köln" / "results"
    np.testing.assert_array_equal(whole, read_segmentation(out / "b.seg.nrrd").labelmap.array)
    assert engine.get(route(cohort, "thumbnail?mask=b.seg.nrrd")).body.startswith(b"\x89PNG")
    assert [label["name"] for label in engine.get(route(cohort, "labels?mask=b.seg.nrrd")).json()] == ["LA"]
    version = engine.get(route(cohort)).json()["version"]
    assert decide(engine, cohort, "b.seg.nrrd", "accepted")["decision"] == "accepted"
    assert decide(engine, cohort, "b.seg.nrrd", "rejected")["author"] == "me"
    assert engine.get(route(cohort)).json()["version"] > version
    lines = (out / "review.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["accepted", "rejected"]
    assert rows(engine, cohort)["b.seg.nrrd"]["decision"] == "rejected"
    assert (
        "no mask"
        in engine.post(route(cohort, "reviews"), {"mask": "x.seg.nrrd", "decision": "accepted", "author": "me"}).error()
    )
    # A mask that was made again by another run is undecided.
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    next(case for case in manifest["cases"] if case["key"] == "b.seg.nrrd")["written"]["b.seg.nrrd"] = "00"
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert rows(engine, cohort)["b.seg.nrrd"]["decision"] == "open"


def correct(engine: Served, cohort: str, mask: str, corrected: Volume) -> dict[str, Any]:
    path = route(cohort, f"corrections?mask={mask}&author=me&seconds=12.5")
    headers = {"MPER-Array": array_header(corrected)}
    return dict(engine.call("POST", path, corrected.array.tobytes(), headers).json())


def test_a_correction_is_a_file_of_its_own_and_the_mask_of_the_model_stays(
    engine: Served, cohort: str, tmp_path: Path
) -> None:
    out = tmp_path / "Köln" / "results"
    before = (out / "a.seg.nrrd").read_bytes()
    drawn = read_segmentation(out / "a.seg.nrrd").labelmap
    for n in (1, 2):
        drawn = drawn.with_array(np.roll(drawn.array, 1, axis=0))
        row = correct(engine, cohort, "a.seg.nrrd", drawn)
        assert row["decision"] == "corrected"
        np.testing.assert_array_equal(
            read_segmentation(out / "corrections" / f"a-{n}.seg.nrrd").labelmap.array, drawn.array
        )
    assert (out / "a.seg.nrrd").read_bytes() == before
    assert engine.get(route(cohort, "mask?mask=a.seg.nrrd")).array().sum() == drawn.array.sum()
    odd = drawn.with_array(drawn.array * 7)
    refused = engine.call(
        "POST",
        route(cohort, "corrections?mask=a.seg.nrrd&author=me"),
        odd.array.tobytes(),
        {"MPER-Array": array_header(odd)},
    )
    assert refused.status == 422 and "no label names" in refused.error()
    assert sorted(path.name for path in (out / "corrections").iterdir()) == ["a-1.seg.nrrd", "a-2.seg.nrrd"]


def test_accepted_masks_become_labels_once_and_the_hold_out_stays_apart(
    engine: Served, cohort: str, dataset: Dataset, scan: Volume, tmp_path: Path
) -> None:
    assert (
        "accept" in engine.post(route(cohort, "keep"), {"dataset": f"Data/{dataset.path.name}", "author": "me"}).error()
    )
    for mask in "abc":
        decide(engine, cohort, f"{mask}.seg.nrrd", "accepted")
    dataset.add_case("known", Volume(scan.array, scan.geometry), {})  # the scan of a
    held = dataset.add_case("held", Volume(scan.array + 2, scan.geometry), {})  # that of c
    dataset.lock_holdout([held.id])
    with engine.engine.devices.turn("cpu", Job("other", "segment", tmp_path)):  # the CPU is in use
        found = keep(engine, cohort, dataset)
    assert [(kept["mask"], kept["case"]) for kept in found["kept"]] == [("a.seg.nrrd", "known"), ("b.seg.nrrd", "b")]
    (skipped,) = found["skipped"]
    assert skipped["mask"] == "c.seg.nrrd" and "hold-out" in skipped["reason"]
    assert found["line_codes"][skipped["reason"]] == {"code": "scan-held-out", "values": {"case": "held"}}
    case = dataset.case("b")
    label, revision = case.label(), case.revisions()[-1]
    assert label is not None
    np.testing.assert_array_equal(
        label.array, read_segmentation(tmp_path / "Köln" / "results" / "b.seg.nrrd").labelmap.array
    )
    assert (revision.how, revision.edited, revision.model) == ("model", False, ("small", "1.0.0"))
    assert not dataset.case("held").is_labelled and "b" in Dataset.open(dataset.path).splits["train"]
    assert keep(engine, cohort, dataset)["before"] == 2, "the same mask is kept once"
    # A correction follows the label that it was made of; a label by a person is never covered.
    drawn = read_segmentation(tmp_path / "Köln" / "results" / "b.seg.nrrd").labelmap
    correct(engine, cohort, "b.seg.nrrd", drawn.with_array(np.roll(drawn.array, 1, axis=1)))
    dataset.case("known").add_label(drawn, author="reader", how="hand")
    correct(engine, cohort, "a.seg.nrrd", drawn)
    found = keep(engine, cohort, dataset)
    assert [(kept["mask"], kept["revision"]) for kept in found["kept"]] == [("b.seg.nrrd", 2)]
    assert "reader" in found["skipped"][0]["reason"]
    newest = dataset.case("b").revisions()[-1]
    assert (newest.edited, newest.parent, newest.seconds) == (True, 1, 12.5)
    assert rows(engine, cohort)["b.seg.nrrd"]["kept"] == {"dataset": dataset.path.name, "case": "b", "revision": 2}


def test_a_mask_without_all_structures_of_the_dataset_is_no_label_of_it(
    engine: Served, cohort: str, dataset: Dataset
) -> None:
    from mper.datasets.maintenance import add_structure

    add_structure(dataset, make_label(2, "Scar"), "me")
    decide(engine, cohort, "a.seg.nrrd", "accepted")
    found = keep(engine, cohort, dataset)
    assert found["kept"] == [] and "Scar" in found["skipped"][0]["reason"] and dataset.cases == ()


@pytest.mark.skipif(os.name == "nt", reason="a file that cannot be opened for writing cannot be asked for its lock")
def test_results_that_may_only_be_read_are_opened_and_show_whether_they_are_worked_on(
    engine: Served, tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_cohort(tmp_path, scan, "aw", waiting="w")
    opened_before = os.open

    def refuse(path: object, flags: int, *more: Any, **named: Any) -> int:
        if out in Path(str(path)).parents and flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened_before(path, flags, *more, **named)  # type: ignore[call-overload]

    with locked(out / LOCK):
        monkeypatch.setattr(os, "open", refuse)
        here = route(opened(engine, out))
        assert engine.get(here).json()["state"] == "running"
    assert engine.get(here).json()["state"] == "interrupted"
    assert engine.get(route(opened(engine, out), "mask?mask=a.seg.nrrd")).status == 200


@pytest.mark.parametrize("fault", ["in use", "another model", "foreign", "no folder", "nothing named", "no cohort"])
def test_what_cannot_be_started_is_one_line_and_nothing_is_written(
    fault: str, engine: Served, tmp_path: Path, scan: Volume
) -> None:
    out, folder = tmp_path / "out", tmp_path / "scans"
    folder.mkdir()
    body: dict[str, Any] = {"folder": str(folder), "out": str(out), "model": MODEL}
    if fault == "in use":
        out.mkdir()
        with locked(out / LOCK):
            answer = engine.post("/cohorts", body)
            assert answer.status == 409 and "already" in answer.error()
        return
    if fault == "another model":
        body["out"], expected = str(small_cohort(tmp_path / "other", scan, "a")), "masks of the model small 1.0.0"
    elif fault == "foreign":
        out.mkdir()
        (out / "manifest.json").write_text('{"format": "something else"}', encoding="utf-8")
        expected = "no manifest of a cohort"
    elif fault == "no folder":
        body["folder"], expected = str(tmp_path / "gone"), "does not exist"
    elif fault == "nothing named":
        body, expected = {"model": MODEL}, "name one of them"
    else:
        answer = engine.post("/cohorts/open", {"path": str(folder)})
        assert answer.status == 422 and "no results of a cohort" in answer.error()
        return
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert expected in engine.post("/cohorts", body).error()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_client_that_did_not_start_the_engine_names_no_folders(
    engine: Served, cohort: str, tmp_path: Path, root: Path
) -> None:
    other = engine.as_client("other")
    for path, body in (
        ("/cohorts", {"folder": str(tmp_path), "out": str(tmp_path / "o"), "model": MODEL}),
        ("/cohorts/open", {"path": str(tmp_path / "Köln" / "results")}),
    ):
        assert other.post(path, body).status == 403
    assert other.get(route(cohort, "rows")).status == 404 and other.get("/cohorts").json() == []
    moved = shutil.copytree(
        tmp_path / "Köln" / "results", root / "moved"
    )  # its manifest names scans outside of the root
    assert other.get("/cohorts/Data~moved/mask?mask=a.seg.nrrd").status == 200
    assert other.get("/cohorts/Data~moved/image?mask=a.seg.nrrd").status == 403
    # Nor does it read their names: of scans outside of the roots the file name alone.
    scans = tmp_path / "Köln" / "scans"
    (moved / ".mper").mkdir(exist_ok=True)
    (moved / ".mper" / "log.txt").write_text(f"{scans / 'a.nrrd'} is read\nno scan in {scans}\n", encoding="utf-8")
    command = json.dumps({"inputs": [str(tmp_path / "DOE_JOHN")], "options": []})
    (moved / ".mper" / "command.json").write_text(command, encoding="utf-8")
    status = {"state": "failed", "message": f"{tmp_path / 'DOE_JOHN' / 'd.nrrd'} and {scans / 'x.nrrd'} are no scans"}
    (moved / ".mper" / "status.json").write_text(json.dumps(status), encoding="utf-8")
    row = decide(other, "Data/moved", "a.seg.nrrd", "accepted")
    assert row["scan"] == "a.nrrd"
    broken = rows(other, "Data/moved")["x.seg.nrrd"]
    assert (broken["scan"], broken["error"]) == ("x.nrrd", "x.nrrd: this is no NRRD file")
    assert other.get("/cohorts/Data~moved").json()["message"] == "…/d.nrrd and …/x.nrrd are no scans"
    assert other.get("/cohorts/Data~moved/log").body.decode() == "…/a.nrrd is read\nno scan in …\n"
    assert rows(engine, "Data/moved")["a.seg.nrrd"]["scan"] == str(scans / "a.nrrd")
    assert str(scans / "a.nrrd") in engine.get("/cohorts/Data~moved/log").body.decode()
    shutil.rmtree(moved)
    assert other.get(route("@nowhere")).status == 404 and other.get(route("Data/../etc")).status == 404


def test_the_unlabelled_cases_of_a_dataset_are_a_cohort_in_its_folder(
    engine: Served, dataset: Dataset, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        dataset.add_case(name, scan, {})
    started: list[list[str]] = []
    monkeypatch.setattr("mper.engine.services.cohort_store.Cohort.start", lambda _, words: started.append(words))
    found = engine.as_client("other").post("/cohorts", {"dataset": f"Data/{dataset.path.name}", "model": MODEL}).json()
    out = dataset.path / "cohorts" / found["name"]
    assert found["id"] == f"Data/{dataset.path.name}/cohorts/{out.name}"
    assert started[0][:3] == ["segment", str(dataset.path), str(out)] and "--unlabelled" in started[0]
    assert [one["id"] for one in engine.get(f"/cohorts?dataset=Data~{dataset.path.name}").json()] == [found["id"]]


def test_a_cohort_that_cannot_be_read_hides_no_other_and_is_listed_once_it_can(
    engine: Served, dataset: Dataset, scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small_cohort(tmp_path, scan, "a")
    home = dataset.path / "cohorts"
    for name in ("damaged", "half", "whole"):
        shutil.copytree(whole, home / name)
    manifest = home / "damaged" / "manifest.json"
    manifest.write_text("{", encoding="utf-8")
    (home / "half" / ".mper").mkdir()
    (home / "half" / ".mper" / "run.json").write_text("[]", encoding="utf-8")
    (home / "notes.txt").touch()
    with contextlib.suppress(OSError):  # Windows, where links need a right
        (home / "outside").symlink_to(whole, target_is_directory=True)
    here = f"/cohorts?dataset=Data~{dataset.path.name}"

    def listed(route: str) -> tuple[list[str], list[str]]:
        answer = engine.get(route)
        lines = json.loads(answer.headers.get("mper-notes", "[]"))
        assert str(dataset.path) not in "".join(lines)
        return [one["name"] for one in answer.json()], [line.partition(" is skipped: ")[0] for line in lines]

    skipped = [f"the cohort {path.name}" for path in sorted(home.iterdir()) if path.name not in ("notes.txt", "whole")]
    assert listed(here) == (["whole"], skipped) and len(skipped) >= 2
    shutil.copyfile(whole / "manifest.json", manifest)
    assert listed(here) == (["damaged", "whole"], skipped[1:])
    manifest.write_text("{", encoding="utf-8")  # of one that is known
    names, lines = listed("/cohorts")
    assert "whole" in names and "the cohort damaged" in lines
    # What cannot be opened is not known afterwards.
    opened = os.open

    def refuse(path: object, *more: Any, **named: Any) -> int:
        if Path(str(path)) == whole / LOCK:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *more, **named)  # type: ignore[call-overload]

    with locked(whole / LOCK), monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        if os.name != "nt":
            assert engine.post("/cohorts/open", {"path": str(whole)}).status == 403
            assert str(whole) not in [one["folder"] for one in engine.get("/cohorts").json()]
