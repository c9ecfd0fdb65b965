"""Runs side by side, and their events for TensorBoard: live, afterwards, and of runs that were resumed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.training.config import TrainConfig
from mper.training.run_table import find_runs, summarise
from mper.training.tensorboard import TensorBoardFeed, export_run
from mper.utils.errors import FAILED, OK, USAGE
from mper.utils.files import write_json

STEPS = [
    {"event": "step", "step": n, "fraction": n / 40, "loss": 4.0 / n, "dice_loss": 2.0 / n, "rate": 0.01}
    for n in (10, 20, 30, 40)
]
HOLDOUT = {"event": "holdout", "step": 40, "dice": {"LA": 0.75, "RA": 0.25}}


def add_events(run: Path, events: Sequence[dict[str, Any]], time: float = 1000.0) -> None:
    with (run / "events.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"time": time + n, **event}) + "\n" for n, event in enumerate(events))


def make_run(path: Path, **config: Any) -> Path:
    path.mkdir(parents=True)
    write_json(path / "config.json", asdict(TrainConfig(dataset="/data/atria", **config)))
    status = {"state": "finished", "heartbeat": 1.0, "step": 40, "elapsed_s": 90.0, "started": "2026-01-02T03:04:05"}
    write_json(path / "status.json", status)
    return path


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_events_that_come_one_by_one_are_the_curves_of_an_export(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with TensorBoardFeed(run) as feed:
        for event in (*STEPS, {"event": "notice", "message": "few scans"}, HOLDOUT):
            add_events(run, [event])
            feed.update()
    live = scalars(run / "tensorboard")
    assert live["loss/total"] == [(step["step"], pytest.approx(step["loss"])) for step in STEPS]
    assert set(live) == {"loss/total", "loss/dice_loss", "rate", "dice/LA", "dice/RA", "dice/mean"}
    assert live["dice/mean"] == [(40, 0.5)]
    assert scalars(export_run(run, tmp_path / "out")) == live
    export_run(run)
    assert scalars(run / "tensorboard") == live, "what was written before is replaced"


def test_steps_after_the_last_checkpoint_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_events(run, STEPS[:3])
    again = [{**step, "loss": 1.0} for step in STEPS[1:]]
    with (run / "events.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"event": "step", "st\n')
    add_events(run, again, time=2000.0)
    found = scalars(export_run(run))["loss/total"]
    assert found == [(10, pytest.approx(0.4)), (20, 1.0), (30, 1.0), (40, 1.0)]


def test_a_line_that_is_half_written_waits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    line = json.dumps({"time": 1.0, **STEPS[0]}) + "\n"
    (run / "events.jsonl").write_text(line[:20], encoding="utf-8")
    with TensorBoardFeed(run) as feed:
        (run / "events.jsonl").write_text(line, encoding="utf-8")
    assert scalars(feed.folder)["loss/total"] == [(10, pytest.approx(0.4))]


def test_an_export_does_not_replace_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "data" / "runs" / "one")
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "thesis.txt").write_text("mine", encoding="utf-8")
    assert main(["runs", "export", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == FAILED
    assert "thesis.txt" in capsys.readouterr().err and run.is_dir()
    assert (tmp_path / "out" / "one" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_one_table_says_which_run_is_best_and_what_it_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    first = make_run(data / "runs" / "a", method="supervised", labeled=8, seed=3)
    best = make_run(data / "runs" / "b", method="mper", without=("cutmix",), name="mine")
    measured = make_run(tmp_path / "bench" / "runs" / "c", method="bcp", recipe="paper")
    add_events(first, [*STEPS, {**HOLDOUT, "dice": {"LA": 0.2, "RA": 0.2}}])
    add_events(best, [*STEPS, HOLDOUT])
    write_json(best / "published.json", {"name": "mine", "version": 2})
    write_json(measured / "result.json", {"mean": {"dice": 0.625}})
    (data / "runs" / "d").mkdir()
    (data / "runs" / "d" / "config.json").write_text("{", encoding="utf-8")
    assert main(["runs", str(data), str(tmp_path / "bench"), "--json"]) == OK
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert (rows["a"]["labelled"], rows["a"]["dice"], rows["a"]["seed"]) == (8, pytest.approx(0.2), 3)
    assert (rows["b"]["method"], rows["b"]["model"]) == ("mper plus no-cutmix", "mine/2")
    assert (rows["c"]["dice"], rows["c"]["measured_on"]) == (0.625, "benchmark")
    assert rows["d"]["state"] == "damaged"
    assert main(["runs", str(data)]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "d", "b", "a"]
    assert "0.5000" in lines[2] and "1 min 30 s" in lines[2] and "atria train" in lines[2]
    assert summarise(best).steps == 40


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["nowhere"], FAILED, "nowhere does not exist; give a dataset"),
        (["export"], USAGE, "no run to export"),
        ([".", "--out", "x"], USAGE, "goes with the export"),
    ],
)
def test_a_wrong_request_is_one_line(
    words: list[str], code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *words]) == code
    assert expected in capsys.readouterr().err


def test_without_tensorboard_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    assert main(["runs", "export", str(run)]) == FAILED
    assert 'pip install "mper[tensorboard]"' in capsys.readouterr().err


def test_a_file_in_place_of_a_folder_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD")
    for opened in (find_runs, Dataset.open):
        with pytest.raises(FileNotFoundError, match=r"scan\.nrrd is a file; give"):
            opened(tmp_path / "scan.nrrd")
