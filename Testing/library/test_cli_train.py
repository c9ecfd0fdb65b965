"""``mper train``, ``import`` and ``pack``: what is asked for reaches the library, and every end is told."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_models import random_bundle

from mper.cli import console, main, train_options
from mper.cli import train as command_of_training
from mper.cli.console import Bar
from mper.cli.options import seconds
from mper.datasets.dataset import Dataset
from mper.engine.services import training_plan
from mper.io import write_volume
from mper.labels import UNLABELLED, make_label
from mper.progress import Cancelled, Progress
from mper.training import trainer
from mper.training.choice import choose_method
from mper.training.planning import check_patch
from mper.training.runs import RunFolder, RunLog
from mper.training.trainer import TrainConfig
from mper.utils.errors import CANCELLED, FAILED, OK, USAGE, UsageError
from mper.utils.text import duration_option
from mper.volume import Geometry, Volume


def blob(shape: tuple[int, int, int] = (16, 32, 32), seed: int = 0) -> tuple[Volume, Volume]:
    """A scan of a bright ball in noise, and its mask."""
    geometry = Geometry.from_axes((0, 0, 0), (1.5, 1.5, 1.5), np.eye(3)[:, ::-1], shape)
    index = np.moveaxis(np.indices(shape), 0, -1)
    mask = (((index - np.array(shape) / 2) / (5, 9, 8)) ** 2).sum(axis=-1) < 1
    noise = np.random.default_rng(seed).normal(100, 10, shape)
    return Volume((noise + 150 * mask).astype(np.float32), geometry), Volume(mask.astype(np.uint8), geometry)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    made = Dataset.create(tmp_path / "data set", "synthetic", [make_label(1, "LA")])
    for n in range(3):
        scan, mask = blob(seed=n)
        case = made.add_case(f"case{n}", scan, {"format": "test"})
        if n < 2:
            case.add_label(mask, author="test", how="imported")
    made.add_to_split("train", ["case0", "case1", "case2"])
    made.add_to_split("blank", ["case2"])
    return made.path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Training that only remembers what was asked for, and finishes at once."""
    configs: list[TrainConfig] = []

    def train(run: Path, report: Any, notify: Any) -> Path:
        configs.append(TrainConfig.read(run))
        report(Progress("training", 0.5, 60.0, {"loss": 0.25, "step": 12345.0, "rate": 0.01}))
        return random_bundle(about={"run": run.name}).save(run / "model")  # no run gives the bundle of another

    monkeypatch.setattr(trainer, "train", train)
    return configs


def train(*words: object) -> int:
    return main(["train", *map(str, words)])


def test_what_is_known_of_structure_and_scans_reaches_the_training(dataset: Path, asked: list[TrainConfig]) -> None:
    words = ["--pieces", "many", "--window=-150,350", "--mirror", "ji", "--network", "vnet", "--patch", "16,32,48"]
    words += ["--prototypes", "5", "--co-train"]
    assert train(dataset, *words, "--batch", "4", "--compile") == OK
    assert (asked[0].prototypes, asked[0].co_train) == (5, True)
    assert (asked[0].keep_largest, asked[0].window, asked[0].flip_axes) == (False, (-150.0, 350.0), (1, 2))
    assert (asked[0].network, asked[0].patch, asked[0].batch, asked[0].compile) == ("vnet", (16, 32, 48), 4, True)


@pytest.mark.parametrize(
    ("words", "method", "reason"),
    [
        ([], "bcp", "with 1, 2 and 4 labelled volumes"),
        (["--labeled", "1"], "bcp", "with 1, 2 and 4 labelled volumes"),
        (["--backbone", "unet"], "mper", "with slices"),
        (["--backbone", "resenc"], "bcp", "with 1, 2 and 4 labelled volumes"),
        (["--from", "LA"], "mper", "fine-tuned on 1, 2 and 4 labelled volumes of the kind"),
        (["--from", "LA", "--steps", "499"], "supervised", "adapted to another sequence in 300 steps"),
        (["--from", "LA", "--labeled", "1", "--steps", "2000"], "mper", "of the kind that it knew"),
        (["--from", "RA"], "bcp", "with 1, 2 and 4 labelled volumes"),
        (["--split", "labelled"], "supervised", "there are no scans without labels"),
        (["--steps", "50"], "supervised", "about 50 steps, too few"),
        (["--budget", "1s"], "supervised", "steps, too few"),
        (["--budget", "60s"], "bcp", "with 1, 2 and 4 labelled volumes"),
    ],
)
def test_auto_takes_the_method_that_did_best_and_says_why(
    dataset: Path,
    asked: list[TrainConfig],
    tmp_path: Path,
    words: list[str],
    method: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Dataset.open(dataset).add_to_split("labelled", ["case0", "case1"])
    if words[:1] == ["--from"]:
        bundle, label = random_bundle("vnet", 2), make_label(1, words[1])
        words = ["--from", str(tmp_path / "start"), *words[2:]]
        replace(bundle, card=replace(bundle.card, labels=(label,))).save(tmp_path / "start")
    split = [] if "--split" in words else ["--split", "train"]
    assert train(dataset, "--method", "auto", *split, *words) == OK
    assert asked[0].method == method
    (line,) = [line for line in capsys.readouterr().err.splitlines() if f"method {method}: " in line]
    assert reason in line


def test_a_training_without_a_length_says_how_long_it_is(
    dataset: Path, asked: list[TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (([], True), (["--steps", "3"], False), (["--budget", "9s"], False)):
        assert train(dataset, "--split", "train", *words) == OK
        assert ("as many steps as in the papers, 9,300 for volumes" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("labelled", "strokes", "steps", "method", "why"),
    [
        (4, 0, 300, "bcp", "with 1, 2 and 4 labelled volumes"),
        (4, 0, 199, "supervised", "about 200 steps, too few"),
        (5, 0, 1000, "supervised", "here 5 are labelled"),
        (8, 0, 6000, "bcp", "here 8 are labelled"),
        (8, 0, None, "bcp", "here 8 are labelled"),
        (9, 0, None, "supervised", "here 9 are labelled"),
        (8, 5, 100, "bcp", "most labels are strokes alone"),
        (8, 4, 100, "supervised", "about 100 steps, too few"),
    ],
)
def test_auto_looks_at_labels_their_kind_and_the_length(
    labelled: int, strokes: int, steps: int | None, method: str, why: str
) -> None:
    chosen, reason = choose_method(labelled, 60, slices=False, fine_tunes=False, strokes=strokes, steps=steps)
    assert chosen == method
    assert why in reason


@pytest.mark.parametrize(
    ("labelled", "steps", "method", "code"),
    [
        (1, 749, "supervised", "auto-tuned-short"),
        (1, 750, "mper", "auto-tuned-few"),
        (4, None, "mper", "auto-tuned-few"),
        (5, 750, "bcp", "auto-tuned-more"),
        (8, 4000, "bcp", "auto-tuned-more"),
        (9, 4000, "supervised", "auto-tuned-many"),
    ],
)
def test_auto_looks_at_labels_and_length_where_a_model_is_fine_tuned(
    labelled: int, steps: int | None, method: str, code: str
) -> None:
    chosen, reason = choose_method(labelled, 6, slices=False, fine_tunes=True, steps=steps)
    assert (chosen, getattr(reason, "code", "")) == (method, code)
    assert choose_method(labelled, 0, slices=False, fine_tunes=True, steps=steps)[0] == "supervised"
    chosen, reason = choose_method(labelled, 6, slices=True, fine_tunes=True, steps=steps)
    assert (chosen, getattr(reason, "code", "")) == ("supervised", "auto-tuned-slices")


def test_auto_counts_the_labels_that_the_training_uses(
    dataset: Path, asked: list[TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """So many of each split, and none that has no labelled voxel."""
    made = Dataset.open(dataset)
    for n in range(3, 7):
        scan, mask = blob(seed=n)
        begun = n == 6
        label = mask.with_array(np.full_like(mask.array, UNLABELLED)) if begun else mask
        made.add_case(f"case{n}", scan, {"format": "test"}).add_label(label, author="test", how="imported")
    made.add_to_split("more", ["case3", "case4", "case5", "case6"])
    for words, count, method in (([], 5, "supervised"), (["--labeled", "2"], 4, "bcp"), (["--labeled", "1"], 2, "bcp")):
        assert train(dataset, "--method", "auto", "--steps", "999", "--split", "train", "--also", "more", *words) == OK
        assert asked[-1].method == method, count
    assert "here 5 are labelled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "card"),
    [
        (["--device", "cpu"], False),
        (["--cluster", "slurm"], False),
        (["--cluster", "slurm", "--gpus", "1"], True),
        (["--cluster", "slurm", "--device", "cuda"], True),
        (["--cluster", "slurm", "--cluster-config", "cluster.toml"], True),
    ],
)
def test_auto_knows_whether_the_training_has_a_graphics_card_of_a_job_by_its_settings(
    words: list[str], card: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.toml").write_text("gpus = 1\n", encoding="utf-8")
    commands = argparse.ArgumentParser().add_subparsers()
    command_of_training.add(commands)
    assert train_options._has_gpu(commands.choices["train"].parse_args(["data", *words])) == card


def test_an_apple_gpu_counts_as_none_for_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    commands = argparse.ArgumentParser().add_subparsers()
    command_of_training.add(commands)
    engine: Any = SimpleNamespace(devices=SimpleNamespace(default="mps", wait_until_known=lambda timeout_s: True))
    for name in ("auto", "mps"):
        assert not train_options._has_gpu(commands.choices["train"].parse_args(["data", "--device", name]))
        assert not training_plan._has_gpu(engine, name)


def test_the_time_that_is_left_is_told_from_where_the_work_was_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.time, "monotonic", lambda: 0.0)
    bar = Bar()
    for now, fraction in ((0.0, 0.0), (10.0, 0.9), (20.0, 0.6), (60.0, 0.7)):  # reading, then a training at 60 %
        monkeypatch.setattr(console.time, "monotonic", lambda now=now: now)
        bar(Progress("working", fraction))
    assert "70% (2 min 00 s left)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--window=5,5"], ["--window=a"], ["--mirror", "x"], ["--mirror", "jj"], ["--patch", "16,16"]]
)
def test_a_size_a_window_or_axes_that_make_no_sense_are_refused(
    dataset: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(dataset, *words) == USAGE
    assert words[0].split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("0.5h", 1800), (" 1H 30M".replace(" ", ""), 5400)],
)
def test_a_budget_is_read_as_people_write_it(text: str, expected: float) -> None:
    assert seconds(text) == seconds(duration_option(expected)) == expected


def test_every_option_reaches_the_run(dataset: Path, asked: list[TrainConfig], tmp_path: Path) -> None:
    model = random_bundle().save(tmp_path / "start")
    words = [
        "--method",
        "bcp",
        "--recipe",
        "plus",
        "--without",
        "cutmix",
        "--without",
        "ema-result",
        "--split",
        "train",
    ]
    words += [
        "--labeled",
        "1",
        "--from",
        str(model),
        "--budget",
        "1h30m",
        "--device",
        "cpu",
        "--seed",
        "7",
        "--name",
        "mine",
    ]
    assert train(dataset, *words, "--out", tmp_path / "run") == OK
    assert asked == [
        TrainConfig(
            dataset=str(dataset.resolve()),
            method="bcp",
            recipe="plus",
            without=("cutmix", "ema_result"),
            split="train",
            labeled=1,
            start_from=str(model.resolve()),
            budget_s=5400.0,
            device="cpu",
            seed=7,
            name="mine",
        )
    ]


def test_the_defaults_are_mper_plus_in_a_run_folder_of_the_dataset(
    dataset: Path, asked: list[TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(dataset) == OK
    assert asked == [TrainConfig(dataset=str(dataset.resolve()))]
    (run,) = (dataset / "runs").iterdir()
    said = capsys.readouterr().out
    assert f"run folder: {run}" in said and str(run / "model") in said and "mper segment" in said


def test_a_name_publishes_the_next_version_once(dataset: Path, asked: list[TrainConfig], tmp_path: Path) -> None:
    for n in (1, 2):
        assert train(dataset, "--name", "mine", "--out", tmp_path / f"run{n}") == OK
        assert Dataset.open(dataset).model_versions("mine") == list(range(1, n + 1))
    assert main(["models"]) == OK


def test_events_are_one_object_a_line_and_nothing_else(
    dataset: Path, asked: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(dataset, "--events", "--out", tmp_path / "run", "--name", "mine") == OK
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["started", "progress", "finished"]
    assert events[0]["run"] == str(tmp_path / "run") and events[0]["pid"] == os.getpid()
    assert events[1] == {
        "event": "progress",
        "message": "training",
        "fraction": 0.5,
        "eta_s": 60.0,
        "values": {"loss": 0.25, "step": 12345.0, "rate": 0.01},
    }
    assert events[2]["published"] == str(dataset / "models" / "mine" / "1")


@pytest.mark.parametrize(
    ("error", "code", "event"),
    [
        (Cancelled("enough"), CANCELLED, "cancelled"),
        (KeyboardInterrupt(), CANCELLED, "cancelled"),
        (ValueError("bad"), FAILED, "failed"),
    ],
    ids=["cancelled", "Ctrl-C", "failed"],
)
def test_every_end_is_an_event_and_an_exit_code(
    error: BaseException,
    code: int,
    event: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(run: Path, report: Any, notify: Any) -> Path:
        raise error

    monkeypatch.setattr(trainer, "train", stop)
    assert train(dataset, "--events", "--steps", "3", "--out", tmp_path / "run") == code
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["event"] == event
    assert said.err.count("\n") == 1
    if code == CANCELLED:
        assert f"mper train --resume {tmp_path / 'run'}" in said.err


def test_resuming_refuses_every_choice_of_what_to_learn_and_how() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    command_of_training.add(commands)
    parser = commands.choices["train"]
    groups = {group.title: group._group_actions for group in parser._action_groups}
    titles = ("what to learn", "about the structure and the scans (the dataset tells most of it)")
    choices = [action for title in (*titles, "how long and where") for action in groups[title]]
    assert len(choices) > 20
    unset = parser.parse_args(["--resume", "run"])
    assert command_of_training._resumed(unset) == Path("run")
    for action in choices:
        name = "--from" if action.dest == "start_from" else f"--{action.dest.replace('_', '-')}"
        with pytest.raises(UsageError, match=f"does not take {name};"):
            command_of_training._resumed(argparse.Namespace(**{**vars(unset), action.dest: "given"}))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nowhere"], FAILED, "nowhere does not exist"),
        ([], USAGE, "no dataset was given"),
        (["DATA", "--split", ""], FAILED, "no split ''; its splits: train, blank"),
        (["DATA", "--from", ""], FAILED, "is not a model"),
        (["DATA", "--split", "test"], FAILED, "no split 'test'; its splits: train, blank"),
        (["DATA", "--split", "blank"], FAILED, "has a label"),
        (["DATA", "--from", "nothing"], FAILED, "no model 'nothing'"),
        (["DATA", "--without", "magic"], USAGE, "cutmix"),
        (["DATA", "--name", "../evil"], USAGE, "--name '../evil' cannot be the name of a model"),
        (["DATA", "--labeled", "3"], USAGE, "--labeled: 3 labelled cases were asked for, and split 'train' has 2"),
        (["DATA", "--also", "blank", "--labeled", "1"], FAILED, "split 'blank' has a label"),
        (["DATA", "--out", "DATA"], USAGE, "is a dataset; give a folder for the run"),
        (["DATA", "--out", "start/card.json/run"], USAGE, "card.json is a file; give a folder"),
        (["DATA", "--split", "train", "--from", "start", "--backbone", "unet3d"], USAGE, "has the backbone vnet"),
        (["DATA", "--split", "train", "--from", "start", "--prototypes", "5"], USAGE, "--prototypes 5 does not fit"),
        (["DATA", "--from", "start", "--method", "dk-uxnet"], USAGE, "cannot train backbone vnet"),
        (["DATA", "--from", "start", "--patch", "1,32,32"], USAGE, "for a network of volumes"),
        (["DATA", "--only", "3", "--x"], USAGE, "unrecognized arguments: --only 3 --x (see `mper train --help`)"),
        (["DATA", "--resume", "run"], USAGE, "does not take a dataset"),
        (["--resume", "run", "--seed", "3"], USAGE, "does not take --seed"),
        (["--resume", "run"], FAILED, "run is not a training run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_trained_is_one_line_and_makes_no_run(
    words: list[str],
    code: int,
    told: str,
    dataset: Path,
    asked: list[TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    random_bundle("vnet", 2).save(tmp_path / "start")
    assert train(*[str(dataset) if word == "DATA" else word for word in words]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("mper: error: ") and said.err.count("\n") == 1 and told in said.err
    assert not (dataset / "runs").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--from", "start", "--steps", "499", "--co-train"],
            "--method auto chose supervised, which has no co-training; choose one of",
        ),
        (
            ["--from", "start", "--steps", "499", "--without", "cutmix"],
            "--method auto chose supervised, which has no change 'cutmix'",
        ),
        (["--backbone", "ux-net-small"], "--method auto chose bcp, which cannot train backbone ux-net-small"),
        (["--batch", "3"], "--method auto chose bcp, which pastes labelled patches into each other: an even --batch"),
        (["--recipe", "paper", "--cross-scanner"], "mper: error: recipe paper has no augmentation across scanners"),
    ],
    ids=" ".join,
)
def test_an_option_that_the_method_of_auto_does_not_take_is_told_with_what_to_do(
    words: list[str],
    told: str,
    dataset: Path,
    asked: list[TrainConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = random_bundle("vnet", 2)
    replace(bundle, card=replace(bundle.card, labels=(make_label(1, "LA"),))).save(tmp_path / "start")
    words = [str(tmp_path / word) if word == "start" else word for word in words]
    assert train(dataset, "--split", "train", "--method", "auto", *words) == USAGE
    line = capsys.readouterr().err.splitlines()[-1]
    assert told in line and line.endswith("(or name a method in place of auto, or leave that option out)") == (
        "auto chose" in told
    )


@pytest.mark.parametrize(
    "made", ["by the command", "before", "with a checkpoint", "with a step", "with a localization"]
)
def test_a_new_run_that_bad_input_ends_leaves_no_folder(
    made: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    if made == "before":
        run.mkdir()

    def stop(run: Path, report: Any, notify: Any) -> Path:
        with RunLog(RunFolder(run)) as log:
            if made == "with a checkpoint":
                (run / "checkpoint").mkdir()
            if made == "with a localization":
                (run / "localization.json").touch()
            if made == "with a step":
                log.set(step=1)
            check_patch((1, 2, 3))
        raise AssertionError

    monkeypatch.setattr(trainer, "train", stop)
    assert train(dataset, "--steps", "3", "--out", run) == FAILED
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "multiples of 16" in said.err
    assert run.exists() == (made != "by the command")
    if made == "before":
        assert train("--resume", run) == FAILED and RunFolder(run).state() == "failed"


def test_ctrl_c_right_after_the_start_says_how_to_continue(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(run: Path) -> TrainConfig:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainConfig, "read", stop)
    assert train(dataset, "--out", tmp_path / "run") == CANCELLED
    assert f"mper train --resume {tmp_path / 'run'}" in capsys.readouterr().err


def test_ctrl_c_while_a_resumed_run_starts_is_not_forgotten(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trainer.start_run(TrainConfig(str(dataset)), tmp_path / "run")
    with RunLog(folder) as log:
        log.set(state="cancelled")

    def work(run: Path, report: Any, notify: Any) -> Path:
        signal.raise_signal(signal.SIGINT)
        with RunLog(folder):
            assert folder.command() == "run"
            report(Progress("reading the scans", 0.0))
            if folder.command() == "cancel":
                raise Cancelled
        raise AssertionError("the run goes on")

    monkeypatch.setattr(trainer, "train", work)
    assert train("--resume", folder.path) == CANCELLED
    assert "stopping after this step" in capsys.readouterr().err


def test_a_run_whose_name_no_model_can_have_keeps_its_model(
    dataset: Path, asked: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an older version has begun it."""
    trainer.start_run(TrainConfig(str(dataset), name="../evil"), tmp_path / "run")
    assert train("--resume", tmp_path / "run") == OK
    said = capsys.readouterr()
    assert "'../evil' cannot be the name of a model" in said.err
    assert f"model: {tmp_path / 'run' / 'model'}" in said.out and not (dataset / "models").exists()


def test_the_locked_holdout_is_never_trained_on(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Dataset.open(dataset).lock_holdout("train")
    assert train(dataset, "--split", "train") == FAILED
    assert "locked hold-out" in capsys.readouterr().err


def test_a_run_folder_is_never_taken_twice(dataset: Path, asked: list[TrainConfig], tmp_path: Path) -> None:
    assert train(dataset, "--out", tmp_path / "run") == OK
    assert train(dataset, "--out", tmp_path / "run", "--seed", "5") == FAILED
    assert TrainConfig.read(tmp_path / "run").seed == 0


@pytest.mark.slow
def test_ctrl_c_keeps_the_run_and_resume_finishes_it(dataset: Path, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Ctrl-C cannot be sent to one process alone on Windows")
    import signal

    run = tmp_path / "run"
    words = [sys.executable, "-m", "mper", "train"]
    new = [*words, str(dataset), "--method", "supervised", "--steps", "12", "--out", str(run), "--events"]
    with subprocess.Popen(new, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if json.loads(line).get("values", {}).get("step"):
                process.send_signal(signal.SIGINT)
                break
        rest, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == CANCELLED, errors
    assert json.loads(rest.splitlines()[-1])["event"] == "cancelled" and "--resume" in errors
    assert RunFolder(run).status()["state"] == "cancelled" and not (run / "model").exists()

    done = subprocess.run([*words, "--resume", str(run)], capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert done.returncode == OK, done.stderr
    assert (run / "model" / "card.json").is_file() and RunFolder(run).status()["step"] == 12


@pytest.mark.slow
def test_torchrun_needs_no_more_words_and_only_the_first_process_speaks(dataset: Path) -> None:
    words = [
        "train",
        str(dataset),
        "--method",
        "supervised",
        "--steps",
        "3",
        "--name",
        "two",
        "--device",
        "cpu",
        "--events",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mper"]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert done.returncode == OK, done.stderr
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events.count("started") == 1 and events.count("finished") == 1
    assert len(list((dataset / "runs").iterdir())) == 1
    assert Dataset.open(dataset).model_versions("two") == [1]


# ---- import and pack


def test_scans_are_imported_and_what_fails_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
        scan, mask = blob()
        write_volume(source / name / "lgemri.nrrd", scan)
        write_volume(source / name / "laendo.nrrd", mask)
    words = ["import", str(source), str(tmp_path / "data"), "--split", "val"]
    assert main(words) == OK
    assert Dataset.open(tmp_path / "data").splits == {"val": ("a", "b")}
    assert "2 cases added" in capsys.readouterr().out

    broken = source / "b" / "lgemri.nrrd"
    broken.write_bytes(broken.read_bytes()[:-100])
    assert main([*words[:2], str(tmp_path / "other"), "--labels", "Atrium"]) == FAILED
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "mper: error: 1 cases were not imported: b" and "Traceback" not in said.err
    assert [label.name for label in Dataset.open(tmp_path / "other").labels] == ["Atrium"]


def test_an_import_of_nothing_makes_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["import", str(tmp_path / "empty"), str(tmp_path / "data")]) == FAILED
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "data").exists()


def test_a_packed_dataset_trains_and_keeps_no_models(
    dataset: Path, asked: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(dataset), str(tmp_path / "packed"), "--split", "train"]) == OK
    assert "1 shards" in capsys.readouterr().out
    assert train(tmp_path / "packed", "--out", tmp_path / "run", "--name", "mine") == OK
    assert asked[0].dataset == str((tmp_path / "packed").resolve())
    assert "keeps no models" in capsys.readouterr().err
    assert main(["pack", str(dataset), str(tmp_path / "packed")]) == FAILED


def test_tensorboard_gets_the_events_of_a_run_while_it_is_trained(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    seen: list[list[float]] = []

    def train(run: Path, report: Any, notify: Any) -> Path:
        for step in (1, 2):
            with (run / "events.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"time": 1.0, "event": "step", "step": step, "loss": 0.5 * step}) + "\n")
            report(Progress("training", 0.5))
            found = accumulator.EventAccumulator(str(run / "tensorboard"))
            found.Reload()
            seen.append([each.value for each in found.Scalars("loss/total")])
        return random_bundle().save(run / "model")

    monkeypatch.setattr(trainer, "train", train)
    assert main(["train", str(dataset), "--steps", "2", "--tensorboard", "--out", str(tmp_path / "run")]) == OK
    assert seen == [[0.5], [0.5, 1.0]]
