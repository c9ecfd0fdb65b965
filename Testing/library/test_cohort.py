"""Cohorts of `mper segment`: they go on where they stopped, refuse what does not belong together, and leave tables."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small_models import random_bundle

from mper.cli import main, parser
from mper.cli.cohort_options import command_options
from mper.cli.cohort_processes import planned_task
from mper.cohort.files import ScanFiles
from mper.cohort.manifest import CohortFolder, CohortLog, CohortRun, CohortScan
from mper.cohort.review import ReviewLog
from mper.cohort.status import command_of, planned_scans, read_state, request_pause
from mper.cohort.tables import rows_of, summary_page, table_csv
from mper.datasets.dataset import Dataset
from mper.datasets.maintenance import set_region
from mper.inference.predictor import Predictor
from mper.io import read_labelmap, write_volume
from mper.labels import Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.roi import extent_of, region_of_box
from mper.utils.errors import CANCELLED, FAILED, OK, USAGE
from mper.utils.locking import locked
from mper.volume import Volume

Blob = tuple[Volume, Segmentation]
Run = Callable[..., int]
MODEL = {"name": "small", "version": "1.0.0", "sha256": "ab" * 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle().save(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def scans(tmp_path: Path, blob_volume: Blob) -> Path:
    """Three different scans."""
    folder = tmp_path / "Köln scans"
    folder.mkdir()
    for n, name in enumerate("abc"):
        write_volume(folder / f"{name}.nrrd", blob_volume[0].with_array(blob_volume[0].array + np.float32(10 * n)))
    return folder


@pytest.fixture
def segment(model: Path) -> Run:
    def run(*words: str | Path, model: Path = model) -> int:
        return main(["segment", *map(str, words), "--model", str(model), "--device", "cpu"])

    return run


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> list[int]:
    """Ctrl-C when so many scans are begun; the list has an item for each."""
    whole, calls = Predictor.predict, []

    def predict(self: Predictor, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(self, *arguments, **named)

    monkeypatch.setattr(Predictor, "predict", predict)
    return calls


def without_times(value: Any) -> Any:
    """An entry of JSON without what differs from one run to the next."""
    if isinstance(value, dict):
        left_out = ("seconds", "started", "finished", "modified_ns")
        return {name: without_times(each) for name, each in value.items() if name not in left_out}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "cohort.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "manifest.json").read_text(encoding="utf-8")))


def test_a_cohort_that_was_stopped_equals_an_unbroken_one(
    scans: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert segment(scans, "unbroken") == OK
    calls = stop_at(monkeypatch, 2)
    (tmp_path / "unbroken").rename(tmp_path / "kept")  # the manifests then name the same masks
    assert segment(scans, "unbroken") == CANCELLED
    assert manifest(Path("unbroken"))["segmented"] == 1
    assert segment(scans, "unbroken") == OK
    assert len(calls) == 2 + 2, "the first scan must not be segmented again"
    resumed, whole = tmp_path / "unbroken", tmp_path / "kept"
    assert without_times(manifest(resumed)) == without_times(manifest(whole))
    for name in "abc":
        assert (resumed / f"{name}.seg.nrrd").read_bytes() == (whole / f"{name}.seg.nrrd").read_bytes()
    found, expected = ([{**row, "seconds": ""} for row in rows(out)] for out in (resumed, whole))
    assert found == expected and len(found) == 3
    assert not (resumed / ".mper").exists()
    assert segment(scans, "unbroken") == OK and len(calls) == 4


def test_several_processes_give_the_masks_of_one(
    scans: Path, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "bad.nrrd").write_bytes(b"no scan")
    assert segment(scans, tmp_path / "one") == FAILED
    capsys.readouterr()
    assert segment(scans, tmp_path / "two", "--workers", "2", "--json") == FAILED
    answer = json.loads(capsys.readouterr().out)
    assert [Path(case["input"]).name for case in answer["cases"]] == ["a.nrrd", "b.nrrd", "bad.nrrd", "c.nrrd"]
    for name in "abc":
        one, two = (read_labelmap(tmp_path / out / f"{name}.seg.nrrd").array for out in ("one", "two"))
        np.testing.assert_array_equal(one, two)
    failed = [entry for entry in manifest(tmp_path / "two")["cases"] if "error" in entry]
    assert [Path(entry["input"]).name for entry in failed] == ["bad.nrrd"]
    assert "bad.nrrd" in failed[0]["error"], "the reason is that of the scan, not that a process ended"


def test_a_manifest_says_how_each_mask_came_about(scans: Path, tmp_path: Path, segment: Run, model: Path) -> None:
    assert segment(scans, tmp_path / "out", "--tta") == OK
    found = manifest(tmp_path / "out")
    assert found["model"] == {"name": "small", "version": "1.0.0", "sha256": ModelBundle.load(model).sha256}
    assert found["options"]["tta"] is True and found["options"]["roi"] is None
    assert {"mper", "python", "torch", "system"} <= set(found["software"])
    assert (found["scans"], found["segmented"], found["failed"]) == (3, 3, 0)
    entry = found["cases"][1]
    assert entry["input"] == str(scans / "b.nrrd")
    assert entry["scan"]["sha256"] == hashlib.sha256((scans / "b.nrrd").read_bytes()).hexdigest()
    mask = tmp_path / "out" / "b.seg.nrrd"
    assert entry["written"] == {"b.seg.nrrd": hashlib.sha256(mask.read_bytes()).hexdigest()}
    table = rows(tmp_path / "out")[1]
    assert table["scan"] == entry["input"] and table["mask"] == "b.seg.nrrd"
    assert float(table["structure 1 [mL]"]) == pytest.approx(entry["results"][0]["volumes_ml"]["structure 1"], rel=1e-4)
    page = (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    assert 'src="summary_files/b.png"' in page and (tmp_path / "out" / "summary_files" / "b.png").is_file()


@pytest.mark.parametrize("change", ["model", "options", "another cohort", "none of its scans", "damaged", "unknown"])
def test_what_does_not_fit_the_folder_is_one_line_and_changes_nothing(
    change: str,
    scans: Path,
    tmp_path: Path,
    segment: Run,
    model: Path,
    blob_volume: Blob,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run = CohortRun({**MODEL, "sha256": ModelBundle.load(model).sha256}, {})
    other: dict[str, Any] = {}
    words: list[str] = []
    if change == "model":
        run, expected = CohortRun(MODEL, {}), "masks of the model small 1.0.0 (sha256:abababab)"
    elif change == "options":
        words, expected = ["--tta"], "made without --tta, this run is with --tta"
    elif change == "another cohort":
        shutil.copytree(scans, tmp_path / "earlier")
        write_volume(tmp_path / "earlier" / "a.nrrd", blob_volume[0].with_array(blob_volume[0].array + 1))
        other, expected = {"a.seg.nrrd": tmp_path / "earlier" / "a.nrrd"}, "another cohort"
    elif change == "none of its scans":
        other, expected = {"z.seg.nrrd": tmp_path / "z.nrrd"}, f"another cohort (of {tmp_path / 'z.nrrd'})"
        shutil.copy(scans / "a.nrrd", tmp_path / "z.nrrd")
    elif change == "damaged":
        expected = "is damaged"
    else:
        expected = "no manifest of a cohort"
    options = {"tta": False, "roi": None}
    CohortFolder.begin(out, CohortRun(run.model, options), [])
    for key, path in other.items():
        CohortLog(out, run.model["sha256"]).segmented(CohortScan(key, path), [], [])
    state = out / ".mper" / "run.json"
    if change == "damaged":
        state.write_text("{", encoding="utf-8")
    if change == "unknown":
        state.write_text('{"format": "something else"}', encoding="utf-8")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert segment(scans, out, *words) == FAILED
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and expected in said.err, said.err
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".mper.lock"}
    assert after == before


def test_an_option_that_an_older_manifest_does_not_know_is_one_that_is_not_given(tmp_path: Path) -> None:
    CohortFolder.begin(tmp_path, CohortRun(MODEL, {"roi": None}), [])
    CohortFolder.begin(tmp_path, CohortRun(MODEL, {"roi": None, "new": False, "newer": None}), [])
    with pytest.raises(ValueError, match="without --new, this run is with --new;"):
        CohortFolder.begin(tmp_path, CohortRun(MODEL, {"new": True}), [])


def test_overwrite_takes_another_model(scans: Path, tmp_path: Path, segment: Run) -> None:
    other = random_bundle(classes=3).save(tmp_path / "other")
    bundle = ModelBundle.load(other)
    newer = replace(bundle, card=replace(bundle.card, version="2")).save(tmp_path / "newer")  # of the same weights
    assert segment(scans / "a.nrrd", scans / "b.nrrd", tmp_path / "out") == OK
    assert segment(scans / "a.nrrd", scans / "b.nrrd", tmp_path / "out", model=other) == FAILED
    assert segment(scans / "a.nrrd", scans / "b.nrrd", tmp_path / "out", "--overwrite", model=other) == OK
    assert manifest(tmp_path / "out")["model"]["sha256"] == bundle.sha256
    assert segment(scans / "a.nrrd", scans / "b.nrrd", tmp_path / "out", model=newer) == FAILED


def test_an_edited_mask_is_kept_and_a_missing_one_and_a_new_scan_are_segmented(
    scans: Path, tmp_path: Path, segment: Run, blob_volume: Blob, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(scans, out) == OK
    edited = (out / "a.seg.nrrd").read_bytes() + b" "
    (out / "a.seg.nrrd").write_bytes(edited)
    missing = (out / "b.seg.nrrd").read_bytes()
    (out / "b.seg.nrrd").unlink()
    write_volume(scans / "c.nrrd", blob_volume[0])
    write_volume(scans / "d.nrrd", blob_volume[0])
    capsys.readouterr()
    assert segment(scans, out) == OK
    said = capsys.readouterr()
    assert "a.seg.nrrd was edited since and is kept" in said.err and "1 of 4 scans are segmented already" in said.err
    assert (out / "a.seg.nrrd").read_bytes() == edited and (out / "b.seg.nrrd").read_bytes() == missing
    assert [row["edited"] for row in rows(out)] == ["yes", "", "", ""]
    assert rows(out)[2]["structure 1 [mL]"] == rows(out)[3]["structure 1 [mL]"], "c is the scan of d now"


def test_an_edited_mask_is_kept_whatever_else_of_its_scan_has_changed(
    scans: Path, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prototype map is deleted, the scan is changed, or the last attempt at the scan failed."""
    out, maps = tmp_path / "out", tmp_path / "out" / "why"
    words = (scans, out, "--prototypes", maps)
    assert segment(*words) == OK
    whole = (scans / "c.nrrd").read_bytes()
    (scans / "c.nrrd").write_bytes(b"no scan")
    assert segment(*words) == FAILED
    (scans / "c.nrrd").write_bytes(whole)
    (maps / "a.nrrd").unlink()
    (scans / "b.nrrd").write_bytes((scans / "c.nrrd").read_bytes())
    masks = [out / f"{name}.seg.nrrd" for name in "abc"]
    for mask in masks:
        mask.write_bytes(mask.read_bytes() + b" ")
    edited = [mask.read_bytes() for mask in masks]
    capsys.readouterr()
    assert segment(*words) == OK
    said = capsys.readouterr().err
    assert (
        f"{masks[0]} was edited since and is kept, so that why/a.nrrd is not written again; delete or move it" in said
    )
    assert all(f"{mask} was edited since and is kept; delete or move it" in said for mask in masks[1:])
    assert [mask.read_bytes() for mask in masks] == edited
    assert [(row["edited"], row["error"]) for row in rows(out)] == [("yes", "")] * 3


def test_of_several_phases_the_edited_one_is_named_and_an_attempt_that_stopped_is_none(tmp_path: Path) -> None:
    scan, masks = CohortScan("a.seg.nrrd", tmp_path / "a.nrrd"), [tmp_path / f"a-phase{n}.seg.nrrd" for n in (1, 2)]
    scan.scan.write_bytes(b"voxels")
    for mask in masks:
        mask.write_bytes(b"mask")
    folder = CohortFolder.begin(tmp_path, CohortRun(MODEL, {}), [scan])
    log = CohortLog(tmp_path, MODEL["sha256"])
    log.segmented(scan, [{"mask": mask.name} for mask in masks], masks)
    masks[0].write_bytes(b"edited")
    masks[1].unlink()
    folder.update()
    assert (folder.state(scan), folder.edited(scan), folder.missing(scan)) == (
        "edited",
        [masks[0].name],
        [masks[1].name],
    )
    folder.keep_edited(scan)
    assert [row["edited"] for row in rows_of([folder.entries[scan.key]])] == [True, False]
    log.failed(scan, "stopped", masks[:1])  # which has written this phase again
    folder.update()
    assert folder.state(scan) == "new"


def test_two_programs_do_not_work_on_one_folder(
    scans: Path, tmp_path: Path, segment: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".mper.lock"):
        assert segment(scans, tmp_path / "out") == USAGE
    assert "another mper is segmenting a cohort" in capsys.readouterr().err


def test_a_log_of_a_killed_program_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    scan = CohortScan("a.seg.nrrd", tmp_path / "a.nrrd")
    scan.scan.write_bytes(b"voxels")
    (tmp_path / "a.seg.nrrd").write_bytes(b"mask")
    folder = CohortFolder.begin(tmp_path, CohortRun(MODEL, {}), [scan])
    log = CohortLog(tmp_path, MODEL["sha256"])
    log.segmented(scan, [{"mask": "a.seg.nrrd", "notes": []}], [tmp_path / "a.seg.nrrd"])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-10])
    assert folder.update() == [] and folder.state(scan) == "new"
    log.path.write_bytes(whole)
    assert [entry["key"] for entry in folder.update()] == ["a.seg.nrrd"] and folder.state(scan) == "done"
    assert folder.update() == [], "an entry is new once"


def test_what_a_left_over_worker_logs_of_another_model_does_not_count(tmp_path: Path) -> None:
    scan, mask = CohortScan("a.seg.nrrd", tmp_path / "a.nrrd"), tmp_path / "a.seg.nrrd"
    scan.scan.write_bytes(b"voxels")
    mask.write_bytes(b"mask")
    folder = CohortFolder.begin(tmp_path, CohortRun(MODEL, {}), [scan])
    CohortLog(tmp_path, "cd" * 32).segmented(scan, [{"mask": "a.seg.nrrd"}], [mask])
    assert folder.update() == [] and folder.state(scan) == "new"
    log = CohortLog(tmp_path, MODEL["sha256"])
    entry = log.segmented(scan, [{"mask": "a.seg.nrrd"}], [mask])
    assert folder.update() == [entry] and folder.state(scan) == "done"
    of_older_version = {name: value for name, value in log.failed(scan, "too small").items() if name != "model"}
    log.path.write_text(json.dumps(of_older_version) + "\n", encoding="utf-8")
    read = CohortFolder.read(tmp_path)
    assert read is not None and read.entries == {scan.key: of_older_version}


def test_workers_end_with_a_parent_that_is_killed(scans: Path, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    words = ["segment", str(scans), str(out), "--model", str(model), "--device", "cpu", "--workers", "2"]
    parent = subprocess.Popen([sys.executable, "-m", "mper", *words], stdout=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        end = time.monotonic() + 60
        while len(workers) < 2 and time.monotonic() < end:
            workers = psutil.Process(parent.pid).children()
            time.sleep(0.02)
        parent.kill()  # the workers load torch, for seconds
        parent.wait()
        assert len(workers) == 2
        while any(map(_lives, workers)) and time.monotonic() < end:
            time.sleep(0.02)
        assert not any(map(_lives, workers)) and read_state(out).state == "interrupted"
        assert not list(out.glob("*.seg.nrrd")), "they must not go on beside those of the next run"
    finally:
        for process in filter(_lives, workers):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_scan_is_known_by_all_of_its_files(tmp_path: Path) -> None:
    for name in ("a.mhd", "a.raw", "b.raw"):
        (tmp_path / name).write_bytes(name.encode())
    before = ScanFiles.of(tmp_path / "a.mhd")
    assert [path.name for path in before.paths] == ["a.mhd", "a.raw"]
    entry = before.entry()
    (tmp_path / "a.raw").write_bytes(b"other")
    assert not ScanFiles.of(tmp_path / "a.mhd").are(entry)
    (tmp_path / "a.raw").write_bytes(b"a.raw")
    assert ScanFiles.of(tmp_path / "a.mhd").are(entry), "written again, and the same"


def test_the_page_shows_the_doubtful_masks_first_and_no_markup_of_a_name() -> None:
    def entry(name: str, **result: Any) -> dict[str, Any]:
        values = {"mask": name, "volumes_ml": {"LA": 50.0}, "confidence": 0.9, "flags": [], "seconds": 1.0, **result}
        return {"key": name, "input": name, "results": [values]}

    flag = {"code": "border", "words": "touches the border"}
    entries = [
        entry("fine.seg.nrrd", quality={"level": "good", "expected_dice": 0.93, "reasons": ["a reason"]}),
        entry("flagged.seg.nrrd", flags=[flag]),
        entry("wrong.seg.nrrd", quality={"level": "likely wrong", "expected_dice": 0.4, "reasons": ["two parts"]}),
        {"key": "x.seg.nrrd", "input": "=<b>x</b>", "error": "truncated"},
    ]
    header = {"model": MODEL, "options": {"tta": True}, "software": {"mper": "1"}, "started": "2026-01-01T00:00:00"}
    found = rows_of(entries)
    assert [row["quality"] for row in found] == ["good", "check", "likely wrong", "failed"]
    assert [row["expected_dice"] for row in found] == [0.93, None, 0.4, None]
    assert [row["flags"] for row in found] == [[], ["touches the border"], ["two parts"], []]
    page = summary_page(header, found, {})
    shown = [page.index(name) for name in ("=&lt;b&gt;x", "wrong.seg", "flagged.seg", "fine.seg")]
    assert shown == sorted(shown) and "<b>x" not in page and "3 masks, 2 to check, 1 scans failed" in page
    assert list(csv.DictReader(table_csv(found).splitlines()))[3]["scan"] == "'=<b>x</b>", "no formula in a spreadsheet"


def test_a_run_pauses_when_another_program_asks_and_says_how_it_stands(
    scans: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    out, states = tmp_path / "out", []
    whole = Predictor.predict

    def predict(self: Predictor, *arguments: Any, **named: Any) -> Any:
        if len(states) == 1:
            assert request_pause(out), "a run under way can be asked to pause"
        states.append(read_state(out))
        return whole(self, *arguments, **named)

    monkeypatch.setattr(Predictor, "predict", predict)
    monkeypatch.setattr("mper.cohort.status._LOOK_EVERY_S", 0.0)
    assert read_state(out).state == "new" and not request_pause(tmp_path)
    assert segment(scans, out) == CANCELLED
    assert [(state.state, state.pausing) for state in states] == [("running", False), ("running", True)]
    assert read_state(out).state == "paused" and manifest(out)["segmented"] == 1
    assert [key for key, _ in planned_scans(out)] == ["a.seg.nrrd", "b.seg.nrrd", "c.seg.nrrd"]
    words = command_of(out)
    assert words == ["segment", str(scans), str(out), f"--model={model}", "--device=cpu"]
    assert main(words) == OK, "the recorded command goes on, and an old request does not pause it"
    assert read_state(out).state == "finished" and manifest(out)["segmented"] == 3
    assert len(states) == 4, "the scan at which it paused was begun twice, the first one once"


def test_the_recorded_command_has_the_options_of_the_run(tmp_path: Path) -> None:
    words = ["segment", str(tmp_path), str(tmp_path / "out"), "--model=la", "--device=cpu", "--roi=-4,6,-3,7,-2,5"]
    words += ["--tta", "--spacing=2.5,1,1", "--phase=ED", f"--probabilities={tmp_path / 'p'}", "--workers=2"]
    arguments = parser().parse_args(words)
    again = parser().parse_args([*words[:3], *command_options(arguments, tmp_path / "model")])
    assert vars(again) == {**vars(arguments), "model": str(tmp_path / "model")}


def test_a_command_that_was_changed_by_hand_is_not_run(tmp_path: Path) -> None:
    (tmp_path / ".mper").mkdir()
    for entry in ({"inputs": ["--x"], "options": []}, {"inputs": ["a"], "options": ["serve"]}, {"inputs": []}):
        (tmp_path / ".mper" / "command.json").write_text(json.dumps(entry), encoding="utf-8")
        assert command_of(tmp_path) is None


def test_a_full_disk_ends_the_run_and_the_rest_goes_on_later(
    scans: Path, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mper.cli.segment.write_mask", full)
        assert segment(scans, tmp_path / "out") == FAILED
    said = capsys.readouterr().err
    assert said.count("the disk is full") == 1 and read_state(tmp_path / "out").state == "failed"
    assert segment(scans, tmp_path / "out") == OK and manifest(tmp_path / "out")["segmented"] == 3


def test_the_cases_of_a_dataset_without_a_label_are_a_cohort(
    tmp_path: Path, segment: Run, blob_volume: Blob, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.create(tmp_path / "data", "Data", [make_label(1, "LA")])
    for n, name in enumerate(("drawn", "held", "one", "two")):
        dataset.add_case(name, blob_volume[0].with_array(blob_volume[0].array + np.float32(n)), {})
    dataset.case("drawn").add_label(blob_volume[1].labelmap, author="me", how="hand")
    dataset.lock_holdout(["held"])
    low, high = extent_of(blob_volume[0].geometry)
    box = [float(v) for a, b, part in zip(low, high, (0.5, 0.5, 1), strict=True) for v in (a, a + part * (b - a))]
    set_region(dataset, "two", box, "me")
    out = tmp_path / "out"
    assert segment(dataset.path, out, "--unlabelled") == OK
    assert [case["key"] for case in manifest(out)["cases"]] == ["one.seg.nrrd", "two.seg.nrrd"]
    for name, outside in (("one", True), ("two", False)):
        mask = read_labelmap(out / f"{name}.seg.nrrd").array.copy()
        mask[region_of_box(blob_volume[0].geometry, box).window] = 0
        assert mask.any() == outside, "a case with a region is segmented in it alone"
    entry = {"scan": "s", "mask": "m", "prototypes": None, "probabilities": None, "files": []}  # for other processes
    for given, wanted in (({"region_mm": json.loads(json.dumps(box))}, tuple(box)), ({}, None)):
        assert planned_task(entry | given).region_mm == wanted
    dataset.case("one").add_label(blob_volume[1].labelmap, author="me", how="hand")
    assert segment(dataset.path, out, "--unlabelled") == OK, "a case that was labelled since stays in the cohort"
    finished = {case["key"]: case["finished"] for case in manifest(out)["cases"]}
    set_region(dataset, "two", None, "me")
    assert segment(dataset.path, out, "--unlabelled") == OK
    again = [case["key"] for case in manifest(out)["cases"] if case["finished"] != finished[case["key"]]]
    assert again == ["two.seg.nrrd"], "another region, another mask"
    assert segment(dataset.path, dataset.path, tmp_path / "other", "--unlabelled") == USAGE
    assert "--unlabelled takes one dataset" in capsys.readouterr().err


def test_a_decision_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    log = ReviewLog(tmp_path)
    log.decide("a.seg.nrrd", "01", "accepted", "me")
    with (tmp_path / "review.jsonl").open("ab") as stream:
        stream.write(b'{"mask": "a.seg')  # by a program that was killed
    log.decide("a.seg.nrrd", "01", "rejected", "you")
    assert log.refresh() and log.of("a.seg.nrrd", "01").decision == "rejected"
    assert log.of("a.seg.nrrd", "02").decision == "open", "a decision is on one mask"
    assert not log.refresh()
