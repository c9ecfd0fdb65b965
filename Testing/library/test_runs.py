"""A run's folder: what it tells, how it is steered, and curves from what it told."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mper.methods.registry import find_method
from mper.progress import Cancelled
from mper.training import runs
from mper.training.curves import write_curves
from mper.training.duration import StepTimes
from mper.training.runs import RunFolder, RunLog, read_events
from mper.utils.coded import Coded
from mper.volume import Geometry


def test_status_tells_state_process_and_heartbeat(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.status() == {} and not folder.is_alive()
    with RunLog(folder) as log:
        assert folder.status()["state"] == "starting" and folder.status()["pid"] == os.getpid()
        log.set(state="running", step=3)
        status = folder.status()
        assert (status["state"], status["step"]) == ("running", 3)
        assert abs(time.time() - status["heartbeat"]) < 60 and "started" in status
        assert folder.is_alive()
        log.set(state="finished")
    assert not folder.is_alive() and folder.status()["state"] == "finished"


def test_heart_beats_while_the_run_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_S", 0.02)
    folder = RunFolder(tmp_path)
    with RunLog(folder):
        first = folder.status()["heartbeat"]
        end = time.monotonic() + 20
        while folder.status()["heartbeat"] == first:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_run_whose_heart_stopped_is_not_alive(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "heartbeat": time.time() - 60}))
    assert not RunFolder(tmp_path).is_alive()


def test_lock_tells_at_once_that_a_process_is_gone(tmp_path: Path) -> None:
    """A fresh heartbeat outlives its process by seconds; the lock does not."""
    folder = RunFolder(tmp_path)
    with RunLog(folder) as log:
        log.set(state="running")
        assert folder.is_alive() and folder.state() == "running"
        status = folder.status()
    (tmp_path / "status.json").write_text(json.dumps({**status, "heartbeat": time.time()}))
    assert not folder.is_alive() and folder.state() == "interrupted"
    (tmp_path / "status.json").write_text(json.dumps({**status, "host": "another", "heartbeat": time.time()}))
    assert folder.is_alive() and folder.state() == "running"  # its lock is not seen from here, its heartbeat is
    (tmp_path / "status.json").write_text(json.dumps({**status, "state": "finished"}))
    assert folder.state() == "finished" and RunFolder(tmp_path / "none").state() == "new"


def test_what_a_run_failed_of_is_stored_with_its_code(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="the loss"), RunLog(folder):
        raise ValueError(Coded("the loss is nan\nat step 3", "training-diverged", step=3))
    codes = {"the loss is nan": {"code": "training-diverged", "values": {"step": 3}}}
    assert (folder.status()["message"], folder.status()["line_codes"]) == ("the loss is nan", codes)
    assert read_events(tmp_path)[-1]["line_codes"] == codes


def test_only_one_process_works_on_a_run(tmp_path: Path) -> None:
    told = f"is being worked on by process {os.getpid()}"
    with RunLog(RunFolder(tmp_path)), pytest.raises(ValueError, match=told):
        RunLog(RunFolder(tmp_path)).__enter__()
    with RunLog(RunFolder(tmp_path)):
        pass


def test_what_stopped_a_run_before_does_not_stop_it_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.steer("pause")
    with RunLog(folder) as log:
        assert folder.command() == "pause"  # told before the run began
        folder.steer("cancel")
        log.set(state="cancelled")
    with RunLog(folder):
        assert folder.command() == "run"


def test_command_for_a_run_that_was_launched_reaches_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.steer("cancel")
    folder.launch()
    assert folder.command() == "run" and folder.state() == "launching"
    folder.steer("pause")
    with RunLog(folder):
        assert folder.command() == "pause"


def test_note_is_told_with_the_next_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with RunLog(folder) as log:
        log.note(message="reading")
        assert folder.status()["message"] == "starting"
        log.set(step=1)
        assert folder.status()["message"] == "reading"


@pytest.mark.parametrize(
    "error, state", [(ValueError("no label\nmore"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_run_that_ends_by_an_error_says_so_in_one_line(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), RunLog(RunFolder(tmp_path)):
        raise error
    status = RunFolder(tmp_path).status()
    assert status["state"] == state and "\n" not in status["message"] and not RunFolder(tmp_path).is_alive()
    assert read_events(tmp_path)[-1]["state"] == state


def test_state_that_was_set_before_the_error_stays(tmp_path: Path) -> None:
    with pytest.raises(Cancelled), RunLog(RunFolder(tmp_path)) as log:
        log.set(state="cancelled")
        raise Cancelled
    assert RunFolder(tmp_path).status()["state"] == "cancelled"


def test_events_are_states_and_figures_in_their_order(tmp_path: Path) -> None:
    with RunLog(RunFolder(tmp_path)) as log:
        log.set(state="running")
        log.event("step", step=1, loss=0.5)
        log.set(step=1)  # no change of state, no event
        log.set(state="finished")
    events = read_events(tmp_path)
    assert [(e["event"], e.get("state")) for e in events] == [
        ("state", "running"),
        ("step", None),
        ("state", "finished"),
    ]
    assert events[1]["loss"] == 0.5 and all(e["time"] > 1e9 for e in events)


def test_line_in_whose_middle_a_process_was_killed_costs_that_line_alone(tmp_path: Path) -> None:
    for step in (1, 2):
        with RunLog(RunFolder(tmp_path)) as log:
            log.event("step", step=step)
        with (tmp_path / "events.jsonl").open("a") as stream:
            stream.write('{"time": 1, "event": "st')
    assert [event["step"] for event in read_events(tmp_path)] == [1, 2]
    assert read_events(tmp_path / "nowhere") == []


def test_run_is_steered_by_words_and_goes_on_without(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.command() == "run"
    for word in ("pause", "cancel", "run"):
        folder.steer(word)
        assert folder.command() == word
    for text in ("", '{"command": ', '{"command": "explode"}', "[]"):
        (tmp_path / "control.json").write_text(text)
        assert folder.command() == "run"
    with pytest.raises(ValueError, match="unknown command 'stop'; a run takes run, pause, cancel"):
        folder.steer("stop")


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a training run"):
        RunFolder(tmp_path).config()


def test_curves_show_each_step_once_though_a_killed_run_had_been_further(tmp_path: Path) -> None:
    with RunLog(RunFolder(tmp_path)) as log:
        for step, loss in ((1, 0.9), (10, 0.8), (20, 0.7), (12, 0.75), (30, 0.4)):
            log.event("step", step=step, loss=loss, rate=0.01, agreement=0.5, spread=0.1)
    write_curves(tmp_path)
    with (tmp_path / "curves.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(int(row["step"]), float(row["loss"])) for row in rows] == [(1, 0.9), (10, 0.8), (12, 0.75), (30, 0.4)]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[1] == 4 * 260  # losses, agreement, spread, rate
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert (31, 119, 180) in colours
    assert not list(tmp_path.glob(".curves*"))


def test_dice_on_the_hold_out_goes_into_the_curves(tmp_path: Path) -> None:
    with RunLog(RunFolder(tmp_path)) as log:
        log.event("holdout", step=0, dice={"LA": 0.5, "RA": 0.7})
        for step in (10, 20):
            log.event("step", step=step, loss=1 / step)
        log.event("holdout", step=20, dice={"LA": 0.9, "RA": 0.7})
        log.event("holdout", step=25, dice={"LA": 1.0, "RA": 0.8})
    write_curves(tmp_path)
    with (tmp_path / "curves.csv").open(newline="") as stream:
        rows = [(int(row["step"]), row["loss"], row["dice"]) for row in csv.DictReader(stream)]
    assert rows == [(0, "", "0.6"), (10, "0.1", ""), (20, "0.05", "0.8"), (25, "", "0.9")]


def test_curves_without_matplotlib_are_a_table_and_one_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with RunLog(RunFolder(tmp_path)) as log:
        log.event("step", step=1, loss=0.5)
    heard: list[str] = []
    write_curves(tmp_path, heard.append)
    assert (tmp_path / "curves.csv").exists() and not (tmp_path / "curves.png").exists()
    assert heard == [
        'curves are in curves.csv only: figures need matplotlib, which is not installed: pip install "mper[plots]"'
    ]


def test_curves_that_cannot_be_written_are_a_notice(tmp_path: Path) -> None:
    with RunLog(RunFolder(tmp_path)) as log:
        log.event("step", step=1, loss=0.5)
    (tmp_path / "curves.csv").mkdir()  # stands for a table that is open in another program
    heard: list[str] = []
    write_curves(tmp_path, heard.append)
    assert len(heard) == 1 and heard[0].startswith("the curves cannot be written (") and "mper runs export" in heard[0]


def test_run_without_figures_has_no_curves(tmp_path: Path) -> None:
    write_curves(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_a_step_is_that_of_the_newest_run_on_such_a_device_with_as_many_networks(tmp_path: Path) -> None:
    cpu, card = "CPU (2 threads, float32)", "NVIDIA H200 (140 GiB, bfloat16)"
    for name, method, device, co_train, step, seconds in (
        ("1", "bcp", cpu, False, 100, 200.0),
        ("2", "bcp", cpu, False, 100, 300.0),
        ("3", "bcp", card, False, 100, 5.0),
        ("4", "bcp", cpu, True, 100, 700.0),
        ("5", "mper", cpu, False, 100, 600.0),
        ("6", "bcp", cpu, False, 4, 400.0),
    ):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        status = {"state": "finished", "heartbeat": 0.0, "method": method, "device": device}
        (run / "status.json").write_text(json.dumps({**status, "step": step, "elapsed_s": seconds}), encoding="utf-8")
        (run / "config.json").write_text(json.dumps({"co_train": co_train}), encoding="utf-8")
    bcp, other = find_method("bcp"), find_method("dk-uxnet")
    times = {(gpu, two): StepTimes(tmp_path, gpu, two, ()) for gpu in (False, True) for two in (False, True)}
    assert [each.measured_s(bcp) for each in times.values()] == [3.0, 7.0, 0.05, None]
    assert times[False, False].measured_s(other) == 6.0 * other.step_time, "by the newest run, of whatever method"
    assert times[True, False].steps_in(60.0, bcp) == 1200 and times[True, True].steps_in(0.01, bcp) == 1


def test_without_a_measured_run_a_step_is_expected_to_take_as_long_as_its_patch_is_large(tmp_path: Path) -> None:
    def scan(spacing: float, *shape: int) -> SimpleNamespace:
        return SimpleNamespace(geometry=Geometry.from_axes((0, 0, 0), (spacing,) * 3, np.eye(3)[:, ::-1], shape))

    method = find_method("mper")
    for scans, patch, voxels in (
        ([scan(2.0, 30, 48, 40)] * 3, None, 32 * 48 * 48),
        ([scan(2.0, 30, 48, 40)] * 3, (16, 32, 32), 16 * 32 * 32),
        ([scan(0.5, 60, 96, 80)] * 3, None, 32 * 48 * 48),
    ):
        times = StepTimes(tmp_path, False, False, scans, patch)
        assert times.guessed_s(method) == pytest.approx(3.0 * voxels / 600_000)
    assert StepTimes(tmp_path, True, True, scans).guessed_s(method) == 0.2
