"""``mper benchmark``: runs that add up, can be stopped, are not mixed up, and are told as they are."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import train_with_filters

from mper.benchmark import run
from mper.benchmark.figures import pick_cases, plot_results
from mper.benchmark.plan import Benchmark, Cohort, Run, Variant, ablation, select_cases, that_fine_tune, train_config
from mper.benchmark.surfaces import render_surfaces
from mper.benchmark.synthetic import make_data
from mper.benchmark.tables import ALL, format_spread, markdown, rows
from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.datasets.maintenance import exclude_case, include_case
from mper.datasets.packed import pack
from mper.labels import make_label
from mper.methods import base
from mper.methods.registry import METHODS
from mper.models.bundle import ModelBundle
from mper.models.card import read_bundle
from mper.progress import Cancelled, Progress
from mper.resources import find_model
from mper.training import curves
from mper.training.trained_scans import scan_checksum
from mper.utils.errors import CANCELLED, FAILED, OK, USAGE
from mper.utils.files import read_json, write_json
from mper.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {"steps": 3, "batch": 2}


@pytest.fixture(autouse=True)
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PATCHES", {2: 4, 3: 3})
    monkeypatch.setattr(curves, "_draw", lambda rows, path: None)
    train_with_filters(monkeypatch, 4)


@pytest.fixture(scope="module")
def left_atria(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data("la", tmp_path_factory.mktemp("la") / "data")


def started(benchmark: Benchmark, data: Path, home: Path) -> Cohort:
    chosen = select_cases(benchmark, data)
    benchmark.prepare_folder(home, chosen)
    return chosen


def bench(*words: object) -> int:
    return main(["benchmark", *map(str, words)])


@pytest.mark.parametrize(("task", "values"), [("la", [0, 1]), ("acdc", [0, 1, 2, 3])])
def test_every_made_up_scan_shows_every_structure(tmp_path: Path, task: str, values: list[int]) -> None:
    dataset = Dataset.open(make_data(task, tmp_path / task))
    for case_id in (name for ids in dataset.splits.values() for name in ids):
        label = dataset.case(case_id).label()
        assert label is not None and np.unique(label.array).tolist() == values


# ---------------------------------------------------------------------- from end to end


def test_a_smoke_run_of_every_method_ends_with_tables_and_pictures_and_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out put"
    assert bench("la", "--smoke", "--seeds", 1, "--out", out) == OK
    said = capsys.readouterr().out
    table = (out / "results.md").read_text(encoding="utf-8")
    assert table in said and "synthetic" in table
    assert all(f"| 2 | {name} | 1 |" in table for name in METHODS)
    with (out / "results.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert {line["variant"] for line in lines} == set(METHODS) and len(lines) == 2 * len(METHODS)
    for line in lines:
        assert 0 <= float(line["dice"]) <= 1 and line["steps"] == "3" and line["hardware"] and line["code"]
    for picture in ("results.png", "cases-2.png", "surfaces-2.png"):
        with Image.open(out / picture) as image:
            assert image.width > 300
    assert not list(out.glob("runs/*/checkpoint"))
    monkeypatch.setattr(run, "train", None)  # a call would fail
    assert bench("la", "--smoke", "--seeds", 1, "--out", out) == OK
    assert (out / "results.md").read_text(encoding="utf-8") == table


def test_slices_are_compared_structure_by_structure_with_labels_counted_by_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert bench("acdc", "--smoke", "--methods", "supervised", "--seeds", 1, "--out", out) == OK
    table = capsys.readouterr().out
    assert "backbone: unet" in table and "| labelled patients | method |" in table
    assert all(f"| 2 | supervised | {name} | 1 |" in table for name in ("RV", "MYO", "LV"))
    run = json.loads((out / "runs" / "2-supervised-seed0" / "config.json").read_text(encoding="utf-8"))
    assert run["labeled"] == 4  # two patients, two stacks each


def test_two_residual_encoders_that_teach_each_other_end_as_one_model(tmp_path: Path) -> None:
    words = ["acdc", "--smoke", "--methods", "bcp", "--backbone", "resenc", "--co-train", "--seeds", 1]
    assert bench(*words, "--out", tmp_path) == OK
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "backbone: resenc2d" in table and "two networks that teach each other" in table
    bundle = ModelBundle.load(tmp_path / "runs" / "2-bcp-seed0" / "model")
    assert bundle.network.kind == "resenc2d" and bundle.card.about["training"]["co_train"]


def test_fewer_labelled_scans_than_patches_a_step_are_told(left_atria: Path, tmp_path: Path) -> None:
    benchmark = Benchmark("la", (2,), ("supervised",), 1, steps=1, batch=4)
    heard: list[str] = []
    run.run_benchmark(benchmark, started(benchmark, left_atria, tmp_path), tmp_path, "cpu", notify=heard.append)
    assert heard[0] == (
        "supervised, 2 labelled, seed 0: 2 labelled scans for 4 labelled patches per step: some scans provide several; "
        "more labels would help"
    )
    assert any(line.startswith("supervised, 2 labelled, seed 0: scan6: ") for line in heard)  # of evaluating


def test_a_benchmark_that_was_stopped_ends_as_one_that_was_not(left_atria: Path, tmp_path: Path) -> None:
    benchmark = Benchmark("la", (2,), ("supervised",), 2, **TINY)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    chosen = started(benchmark, left_atria, whole)
    assert run.run_benchmark(benchmark, chosen, whole, "cpu") == []
    started(benchmark, left_atria, pieces)
    with pytest.raises(run.TimeLimitReached, match="0 of 2 runs are done"):
        run.run_benchmark(benchmark, chosen, pieces, "cpu", seconds=-1)

    def stop(progress: Progress) -> None:
        if "seed 1" in progress.message and progress.values.get("step") == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run.run_benchmark(benchmark, chosen, pieces, "cpu", report=stop)
    assert [run.is_done(each, pieces) for each in benchmark.runs()] == [True, False]
    assert run.run_benchmark(benchmark, chosen, pieces, "cpu") == []
    found = [run.read_results(benchmark, home) for home in (whole, pieces)]
    assert [f["mean"] for f in found[0].values()] == [f["mean"] for f in found[1].values()]
    one, other = found[0].values()
    assert one["mean"] != other["mean"]  # the seeds differ


def test_a_benchmark_goes_on_where_its_data_were_moved_and_packed(left_atria: Path, tmp_path: Path) -> None:
    benchmark = Benchmark("la", (2,), ("supervised",), 1, **TINY)
    home = tmp_path / "home"
    chosen = started(benchmark, left_atria, home)

    def stop(progress: Progress) -> None:
        if progress.values.get("step") == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run.run_benchmark(benchmark, chosen, home, "cpu", report=stop)
    pack(Dataset.open(left_atria), tmp_path / "packed", 100)
    chosen = started(benchmark, tmp_path / "packed", home)
    assert run.run_benchmark(benchmark, chosen, home, "cpu") == []
    (found,) = run.read_results(benchmark, home).values()
    assert found["trained"]["steps"] == 3
    assert set(run.read_masks(benchmark.runs()[0], home)) == set(chosen.evaluated)


def test_methods_are_compared_from_a_model_wherever_it_is_stored(
    left_atria: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["la", "--data", left_atria, "--labeled", 2, "--methods", "supervised", "--seeds", 1, "--steps", 3]
    assert bench(*words, "--out", tmp_path / "first") == OK
    model, out = tmp_path / "first" / "runs" / "2-supervised-seed0" / "model", tmp_path / "second"
    assert bench(*words, "--from", model, "--out", out) == OK
    digest = ModelBundle.load(model).sha256[:8]
    assert re.search(rf"^- fine-tuned from: \S+ \S+ \(sha256:{digest}\)$", capsys.readouterr().out, re.MULTILINE)
    tuned = ModelBundle.load(out / "runs" / "2-supervised-seed0" / "model")
    assert tuned.card.about["training"]["start_from"] == "model"
    shutil.copytree(model, tmp_path / "moved")
    monkeypatch.setattr(run, "train", None)  # a call would fail
    assert bench(*words, "--from", tmp_path / "moved", "--out", out) == OK
    for other in (["--from", out / "runs" / "2-supervised-seed0" / "model"], []):
        capsys.readouterr()
        assert bench(*words, *other, "--out", out) == USAGE
        said = capsys.readouterr().err
        assert f"(sha256:{digest}), and one with" in said and said.count("\n") == 1
    card = read_json(tmp_path / "moved" / "card.json")
    seen = select_cases(Benchmark("la", (2,), ("supervised",), 1), left_atria).evaluated[0]
    card["about"]["training"]["trained_on"].append(scan_checksum(Dataset.open(left_atria).case(seen)))
    write_json(tmp_path / "moved" / "card.json", card)
    assert bench(*words, "--from", tmp_path / "moved", "--out", tmp_path / "third") == USAGE
    assert f"was trained on {seen}, of the" in capsys.readouterr().err and not (tmp_path / "third").exists()


@pytest.mark.parametrize("kind", [ValueError, torch.OutOfMemoryError])
def test_a_run_that_fails_is_told_and_the_others_are_done(
    left_atria: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    benchmark = Benchmark("la", (2,), ("mper", "supervised"), 1, **TINY)
    chosen = started(benchmark, left_atria, tmp_path)
    real = run.train

    def train(run: Path, *others: Any) -> Path:
        if "mper" in run.name:
            raise kind("training diverged\nand more")
        return real(run, *others)

    monkeypatch.setattr(run, "train", train)
    heard: list[str] = []
    assert run.run_benchmark(benchmark, chosen, tmp_path, "cpu", notify=heard.append) == [
        "mper, 2 labelled, seed 0: training diverged"
    ]
    assert "mper, 2 labelled, seed 0: training diverged" in heard
    assert [each.variant.word for each in run.read_results(benchmark, tmp_path)] == ["supervised"]


# ---------------------------------------------------------------------- what a benchmark is


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 4}, "with --steps 3, and one with --steps 4"),
        ({"recipe": "paper"}, "with --recipe plus, and one with --recipe paper"),
        ({"backbone": "unet3d"}, "without --backbone, and one with --backbone unet3d"),
        ({"co_train": True}, "without --co-train, and one with --co-train was asked for;"),
        ({"steps": None, "budget_s": 60.0}, "with --steps 3, and one without --steps"),
        ({"processor_time": True}, "without --processor-time, and one with --processor-time was asked for;"),
        ({"labeled": (1,)}, "with --labeled 2, and one with --labeled 1"),
        ({"variants": ("bcp",)}, "with --methods mper, and one with --methods bcp"),
        ({"seeds": 1}, "with --seeds 2, and one with --seeds 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_with_another_benchmark_is_refused_in_one_line(
    left_atria: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    benchmark = Benchmark("la", (2,), ("mper",), 2, **TINY)
    started(benchmark, left_atria, tmp_path)
    with pytest.raises(ValueError, match=words) as refused:
        started(replace(benchmark, **change), left_atria, tmp_path)
    assert "\n" not in str(refused.value)


def test_a_damaged_folder_is_told_in_one_line(left_atria: Path, tmp_path: Path) -> None:
    benchmark = Benchmark("la", (2,), ("mper",), 2, **TINY)
    started(benchmark, left_atria, tmp_path)
    for text in ('{"task": ', "[]"):
        (tmp_path / "benchmark.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"benchmark\.json is damaged"):
            started(benchmark, left_atria, tmp_path)


def test_other_cases_are_another_benchmark(left_atria: Path, tmp_path: Path) -> None:
    benchmark = Benchmark("la", (2,), ("mper",), 2, **TINY)
    started(benchmark, left_atria, tmp_path / "home")
    other = _dataset(tmp_path / "other", [f"case{n:02d}" for n in range(20)])
    with pytest.raises(
        ValueError, match=r"holds a benchmark with --data made-up la \(6 and 2 cases.* and one with --data tiny"
    ):
        started(benchmark, other.path, tmp_path / "home")


def test_more_labels_methods_and_seeds_may_be_asked_for_later(left_atria: Path, tmp_path: Path) -> None:
    benchmark = Benchmark("la", (2,), ("mper",), 2, **TINY)
    started(benchmark, left_atria, tmp_path)
    kept = read_json(tmp_path / "benchmark.json")
    del kept["processor_time"]  # a folder of a version without that option
    write_json(tmp_path / "benchmark.json", kept)
    more = replace(benchmark, labeled=(4, 2), variants=("bcp", "mper"), seeds=3)
    started(more, left_atria, tmp_path)
    assert set(benchmark.runs()) < set(more.runs()) and len(more.runs()) == 12
    assert [run.seed for run in more.runs()] == [0] * 4 + [1] * 4 + [2] * 4  # of everything the first seed first


def test_the_left_atrium_is_evaluated_on_the_last_eight_cases_where_no_split_says_else(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", [f"case{n:02d}" for n in range(20)])
    chosen = select_cases(Benchmark("la", (8,), ("mper",), 1), dataset.path)
    assert chosen.cases == 12 and chosen.evaluated == tuple(f"case{n:02d}" for n in range(12, 20))
    config = train_config(Benchmark("la", (8,), ("mper",), 1), chosen, Run(8, Variant.parse("mper"), 5), "cpu")
    assert (config.cases, config.labeled, config.split, config.seed) == (12, 8, "train", 5)
    dataset.add_to_split("dev", ["case19"])
    with pytest.raises(ValueError, match="case19 would be trained on and evaluated on: split 'dev' overlaps"):
        select_cases(Benchmark("la", (8,), ("mper",), 1), dataset.path)


def test_a_scan_is_not_trained_on_and_evaluated_on_under_two_names(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", [f"case{n:02d}" for n in range(11)], ["seen"])
    case = dataset.add_case("case02-again", dataset.case("case02").image(), {})
    case.add_label(case.image().with_array(np.ones((1, 1, 1), np.uint8)), author="test", how="imported")
    dataset.add_to_split("dev", ["seen", "case02-again"])
    benchmark = Benchmark("la", (8,), ("mper",), 1)
    pack(dataset, tmp_path / "packed", 10)
    for path in (dataset.path, tmp_path / "packed"):
        with pytest.raises(
            ValueError, match="case02 of split 'train' would be trained on, and shows the scan of a case"
        ):
            select_cases(benchmark, path)
    exclude_case(dataset, "case02", "test")
    assert select_cases(benchmark, dataset.path).evaluated == ("seen", "case02-again")
    include_case(dataset, "case02", "test")
    dataset.lock_holdout("dev")  # a training leaves its copies out
    assert select_cases(benchmark, dataset.path).evaluated[:2] == ("seen", "case02-again")


@pytest.mark.parametrize(
    ("labeled", "words"),
    [
        (13, "13 labelled scans were asked for, split 'train' has 12; ask for fewer with --labeled"),
        (9, "9 labelled scans were asked for, and .* has 8 labels among the first 9 cases"),
    ],
)
def test_more_labels_than_there_are_is_refused(tmp_path: Path, labeled: int, words: str) -> None:
    dataset = _dataset(tmp_path / "data", [f"case{n:02d}" for n in range(20)], labelled=8)
    with pytest.raises(ValueError, match=words):
        select_cases(Benchmark("la", (labeled,), ("mper",), 1), dataset.path)


def test_cases_to_evaluate_on_have_labels(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", [f"case{n:02d}" for n in range(20)], others=["dev0", "dev1"], labelled=21)
    dataset.add_to_split("dev", ["dev0", "dev1"])
    with pytest.raises(ValueError, match=r"1 of the 2 cases to evaluate on have no label \(dev1 is the first\)"):
        select_cases(Benchmark("la", (8,), ("mper",), 1), dataset.path)


def test_too_few_cases_to_hold_some_back_are_told(tmp_path: Path) -> None:
    few = _dataset(tmp_path / "few", [f"case{n}" for n in range(8)])
    with pytest.raises(ValueError, match="no split 'dev', and 8 cases in split 'train', of which the last 8 are"):
        select_cases(Benchmark("la", (8,), ("mper",), 1), few.path)


def test_a_dataset_of_other_structures_is_refused(tmp_path: Path, left_atria: Path) -> None:
    hearts = make_data("acdc", tmp_path / "hearts")
    with pytest.raises(ValueError, match=r"la is about the left atrium .*, 1 structure; .*hearts has RV, MYO, LV: "):
        select_cases(Benchmark("la", (2,), ("mper",), 1), hearts)
    with pytest.raises(ValueError, match=r"acdc is about the heart .*, 3 structures; .* has LA: choose another task"):
        select_cases(Benchmark("acdc", (2,), ("mper",), 1), left_atria)


def test_labels_are_counted_by_patients_whose_stacks_stand_together(tmp_path: Path) -> None:
    ids = ["patient09_frame01", "patient09_frame02", "patient03_frame01", "patient05_frame01", "patient05_frame02"]
    benchmark = Benchmark("acdc", (1, 2, 3), ("mper",), 1)
    together = _dataset(tmp_path / "together", [*ids, "patient77_frame01"], names=("RV", "MYO", "LV"))
    together.add_to_split("val", ["patient77_frame01"])
    with pytest.raises(ValueError, match="patient77_frame01 would be trained on"):
        select_cases(benchmark, together.path)
    together = _dataset(tmp_path / "apart", ids, others=["patient77_frame01"], names=("RV", "MYO", "LV"))
    together.add_to_split("val", ["patient77_frame01"])
    assert select_cases(benchmark, together.path).labeled == {1: 2, 2: 3, 3: 5}
    shuffled = [ids[0], *ids[2:], ids[1]]
    mixed = _dataset(tmp_path / "mixed", shuffled, others=["patient77_frame01"], names=("RV", "MYO", "LV"))
    mixed.add_to_split("val", ["patient77_frame01"])
    with pytest.raises(ValueError, match="the cases of one patient do not stand together"):
        select_cases(benchmark, mixed.path)


def _dataset(
    home: Path,
    ids: list[str],
    others: list[str] | None = None,
    labelled: int | None = None,
    names: tuple[str, ...] = ("LA",),
) -> Dataset:
    """Scans of one voxel, for what depends on names and splits alone."""
    dataset = Dataset.create(home, "tiny", [make_label(n, name) for n, name in enumerate(names, start=1)])
    for n, case_id in enumerate([*ids, *(others or [])]):
        voxel = Volume(np.full((1, 1, 1), n, np.float32), Geometry.unknown((1, 1, 1)))
        case = dataset.add_case(case_id, voxel, {"format": "synthetic"})
        if labelled is None or n < labelled:
            case.add_label(voxel.with_array(np.ones((1, 1, 1), np.uint8)), author="test", how="imported")
    dataset.add_to_split("train", ids)
    return dataset


def test_words_of_variants_say_how_to_train() -> None:
    assert Variant.parse("mper") == Variant("mper", "mper")
    assert Variant.parse("mper:no-clean-teacher:k=5") == Variant(
        "mper:no-clean-teacher:k=5", "mper", ("clean_teacher",), 5
    )
    assert Variant.parse("mper:k=5").folder == "mper-k5"
    same = Variant.parse("mper:no-cutmix:no-affine:k=5")
    assert same == Variant.parse("mper:k=5:no-affine:no-cutmix") == Variant.parse("mper:no-affine:k=5:no-cutmix")
    assert same.word == "mper:no-affine:no-cutmix:k=5"
    assert Variant.parse("mper:no-early_prototypes").word == "mper:no-early-prototypes"
    for word in ("mper:k=0", "mper:k=x", "mper:fast", "mper:k=1:k=5", "mper:k=05", "mper:k=\u0663", "supervised:k=5"):
        with pytest.raises(ValueError, match=f"unknown variant '{word}'"):
            Variant.parse(word)
    with pytest.raises(ValueError, match="unknown method 'magic'; known are mper"):
        Variant.parse("magic:k=1")


def test_what_cannot_start_from_a_model_is_no_default_of_a_comparison_from_it() -> None:
    card = read_bundle(find_model("la-8")).card
    assert that_fine_tune(["mper", "mper:k=1", "mper:k=3", "bcp:no-cutmix", "dk-uxnet"], card) == (
        *("mper", "mper:k=3", "bcp:no-cutmix"),
    )


def test_an_ablation_has_both_classifiers_prototypes_and_every_change(left_atria: Path) -> None:
    words = ablation("plus")
    assert len(set(words)) == len(words) == 21
    assert {"mper", "bcp", "mper:no-contrast", "mper:no-prototype-classifier", "mper:k=1", "mper:k=10"} <= set(words)
    assert {"mper:no-masked-dice", "mper:no-clean-embedding", "mper:no-anchored", "mper:no-adamw"} <= set(words)
    assert set(words) - set(ablation("plus", slices=True)) == {"mper:no-anchored", "mper:no-anchored:no-cutmix"}
    assert set(ablation("plus", slices=True)) - set(words) == {"mper:no-cutmix"}
    for recipe in ("plus", "paper"):
        benchmark = Benchmark("la", (2,), ablation(recipe), 1, recipe)
        chosen = select_cases(benchmark, left_atria)
        configs = [train_config(benchmark, chosen, run, "cpu") for run in benchmark.runs()]
        assert len({json.dumps(vars(config)) for config in configs}) == len(configs)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["la"], USAGE, "--out"),
        (["la", "--out", "x"], USAGE, "--data"),
        (["la", "--smoke", "--out", __file__], USAGE, "is a file; give a folder"),
        (["la", "--smoke", "--out", "x", "--ablation", "--methods", "mper"], USAGE, "give it, or --methods"),
        (["la", "--smoke", "--out", "x", "--methods", "magic"], USAGE, "unknown method 'magic'"),
        (["la", "--smoke", "--out", "x", "--methods", "mper,auto"], USAGE, "auto is for `mper train`, which chooses"),
        (["la", "--smoke", "--out", "x", "--labeled", "0"], USAGE, "--labeled"),
        (["la", "--smoke", "--out", "x", "--methods", "mper:no-magic"], USAGE, "no change 'magic'"),
        (["la", "--smoke", "--out", "x", "--methods", "mper", "--labeled", "7"], USAGE, "7 labelled scans"),
        (["la", "--smoke", "--out", "x", "--methods", "supervised", "--co-train"], USAGE, "has no co-training"),
        (
            ["la", "--smoke", "--out", "x", "--methods", "dk-uxnet", "--backbone", "vnet"],
            USAGE,
            "cannot train backbone vnet",
        ),
        (["acdc", "--smoke", "--out", "x", "--methods", "dk-uxnet"], USAGE, "does not segment the scans of acdc"),
        (["la", "--smoke", "--out", "x", "--methods", "mper,bcp", "--batch", "3"], USAGE, "an even --batch, got 3"),
        (["la", "--smoke", "--out", "x", "--processor-time", "--device", "cpu"], USAGE, "give --budget"),
        (["la", "--smoke", "--out", "x", "--patch", "15,32,32"], USAGE, "multiples of 16"),
        (["la", "--smoke", "--out", "x", "--from", "nowhere"], FAILED, "no model 'nowhere'; known are acdc"),
        (["la", "--smoke", "--out", "x", "--from", "la-8", "--backbone", "unet3d"], USAGE, "does not fit --from"),
        (["la", "--smoke", "--out", "x", "--from", "la-8", "--methods", "mper:k=1"], USAGE, "mper:k=1: --prototypes 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line_before_anything_is_trained(
    words: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*words) == code
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and not list(tmp_path.rglob("benchmark.json"))
    assert not (tmp_path / "x" / "runs").exists()


# ---------------------------------------------------------------------- tables and pictures


def figures(dice: float, hd95: float | None = 2.0) -> dict[str, Any]:
    return {
        "dice": dice,
        "jaccard": dice / (2 - dice),
        "hd95_voxel": hd95,
        "asd_voxel": hd95,
        "hd95_mm": None,
        "asd_mm": None,
        "without_distance": int(hd95 is None),
    }


def result(word: str, seed: int, *dice: float, hd95: float | None = 2.0) -> tuple[Run, Mapping[str, Any]]:
    cases = [{"id": f"case{n}", **figures(d, hd95), "labels": {"LA": figures(d, hd95)}} for n, d in enumerate(dice)]
    mean = figures(float(np.mean(dice)), hd95)
    trained = {"steps": 3, "seconds": 1.0, "network": "vnet"}
    found = {"mean": mean, "labels": {"LA": mean}, "cases": cases, "trained": trained, "hardware": "CPU", "code": "1"}
    return Run(8, Variant.parse(word), seed), found


def test_a_table_has_mean_and_deviation_over_seeds_and_the_worst_case_of_all() -> None:
    results = dict([result("mper", 0, 0.8, 0.9), result("mper", 1, 0.9, 0.96), result("bcp", 0, 0.5, 0.7, hd95=None)])
    first, second = rows(results)
    assert (first.labeled, first.variant, first.structure, len(first.figures)) == (8, "mper", ALL, 2)
    assert first.spread("dice") == pytest.approx((0.89, np.std([0.85, 0.93], ddof=1)))
    assert second.spread("hd95_voxel") is None and first.spread("hd95_mm") is None
    benchmark = Benchmark("la", (8,), ("mper", "bcp"), 2, steps=3)
    chosen = Cohort(Path("data"), None, ("case0", "case1"), {8: 8}, "2 cases", "key")
    table = markdown(benchmark, chosen, results)
    assert "| 8 | mper | 2 | 89.00 ± 5.66 |" in table and "| 80.00 |  | 0 |" in table
    assert "| 8 | bcp | 1 | 60.00 |" in table and "| - | - | 50.00 | -29.00 | 1 |" in table
    assert "mm" not in table.split("| ---")[0].split("|", 1)[1]  # no columns that nobody can fill
    assert "3 of 4 runs" in table and "Structure by structure" not in table


def test_a_spread_of_one_seed_is_not_told() -> None:
    assert format_spread((0.9, float("nan")), 100) == "90.00"
    assert format_spread((0.9, 0.01), 100) == "90.00 ± 1.00"
    assert format_spread(None) == "-"


def test_the_worst_the_median_and_the_best_case_are_those_of_all_methods() -> None:
    runs = [result("mper", 0, 0.9, 0.7, 0.8, 0.95, 0.6), result("bcp", 0, 0.9, 0.2, 0.8, 0.5, 0.6)]
    found = {run.variant: f for run, f in runs}
    assert pick_cases(found) == {"worst": "case1", "median": "case3", "best": "case0"}
    two, one = ({run.variant: f} for run, f in (result("mper", 0, 0.9, 0.7), result("mper", 0, 0.9)))
    assert pick_cases(two) == {"worst": "case1", "best": "case0"}
    assert pick_cases(one) == {"worst": "case0"}


def test_a_plot_shows_every_method() -> None:
    runs = [result("mper", 0, 0.9), result("mper", 1, 0.8), result("bcp", 0, 0.5, hd95=None)]
    dice, distance = plot_results(rows(dict(runs))).axes
    shown = {bars.get_label(): bars.lines[0].get_xydata() for bars in dice.containers}
    assert shown["mper"][:, 1] == pytest.approx([85]) and shown["bcp"][:, 1] == pytest.approx([50])
    assert shown["mper"][0, 0] < shown["bcp"][0, 0]
    assert [tick.get_text() for tick in dice.get_xticklabels()] == ["8 labelled"]
    assert [bars.get_label() for bars in distance.containers] == ["mper"]  # the other one has none


def test_many_methods_stand_below_each_other_with_their_names() -> None:
    words = ablation("plus")
    dice, _ = plot_results(rows(dict([result(word, 0, 0.8 + n / 200) for n, word in enumerate(words)]))).axes
    points = dice.containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([(80 + n / 2, n) for n in range(len(words))]))
    assert [tick.get_text() for tick in dice.get_yticklabels()] == [f"{word}, 8 labelled" for word in words]


def test_surfaces_show_the_patients_left_on_the_right_the_head_above_and_what_is_nearer() -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    space = np.zeros((40, 40, 40), bool)
    low, high = space.copy(), space.copy()
    low[16:24, 16:24, 4:12], high[16:24, 16:24, 28:36] = True, True

    def middle(picture: np.ndarray, channel: int) -> np.ndarray:
        other = 2 - channel
        return np.argwhere(picture[..., channel] > picture[..., other].astype(int) + 60).mean(0)

    across = render_surfaces([low, high], (1, 1, 1), [red, blue], 120)
    assert middle(across, 0)[1] < middle(across, 2)[1]  # i runs to the left, which is on the right
    along = render_surfaces(
        [low.transpose(2, 1, 0), high.transpose(2, 1, 0)], (1, 1, 1), [red, blue], 120, (20, 20, 20)
    )
    assert middle(along, 0)[0] > middle(along, 2)[0]  # k runs to the head
    inner, shell = space.copy(), space.copy()
    inner[18:22, 18:22, 18:22], shell[10:30, 10:30, 10:30] = True, True
    hidden = render_surfaces([inner, shell & ~inner], (1, 1, 1), [red, blue], 120)
    assert not (hidden[..., 0] > hidden[..., 2].astype(int) + 60).any()


def test_a_benchmark_without_matplotlib_ends_with_tables_and_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert bench("la", "--smoke", "--methods", "supervised", "--seeds", 1, "--out", tmp_path / "out") == OK
    said = capsys.readouterr()
    assert said.err.count("figures need matplotlib") == 1 and "mper[plots]" in said.err
    assert said.out.endswith("results.md, results.csv, cases.csv\n") and not list((tmp_path / "out").glob("*.png"))


def test_exit_code_tells_of_runs_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Path:
        raise ValueError("training diverged at step 2")

    monkeypatch.setattr(run, "train", fail)
    assert bench("la", "--smoke", "--methods", "mper", "--seeds", 1, "--out", tmp_path / "out") == FAILED
    said = capsys.readouterr()
    line = "mper, 2 labelled, seed 0: training diverged at step 2"
    assert f"mper: note: {line}" in said.err
    assert said.err.endswith(f"mper: error: none of 1 runs could be done; the first: {line}\n")
    assert "written to" not in said.out and not (tmp_path / "out" / "results.md").exists()


def test_ctrl_c_ends_a_command_with_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", stop)
    assert bench("la", "--smoke", "--methods", "mper", "--seeds", 1, "--out", tmp_path / "out") == CANCELLED
    assert capsys.readouterr().err.endswith("mper: cancelled: 0 of 1 runs are done; the same command goes on\n")


def test_a_piece_of_time_ends_a_command_well_and_the_next_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["la", "--smoke", "--methods", "supervised", "--seeds", 1, "--out", tmp_path / "out"]
    assert bench(*words, "--for", "0.000001s") == OK
    assert "0 of 1 runs are done; the same command goes on" in capsys.readouterr().out
    assert bench(*words) == OK
    assert "left atrium in LGE-MRI: 1 of 1 runs" in capsys.readouterr().out
