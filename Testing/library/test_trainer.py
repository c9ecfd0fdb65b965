"""Training runs, from a data set to a bundle: they learn, stop, go on, and repeat themselves bit by bit."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from small_data import LPS, blob_dataset, blobs, labels_on_source
from small_models import random_bundle, train_with_filters

from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.datasets.dataset import Dataset
from mper.datasets.maintenance import exclude_case, set_region
from mper.datasets.packed import open_dataset, pack
from mper.inference.predictor import Predictor
from mper.labels import make_label
from mper.methods import base
from mper.methods.bcp import BCP
from mper.methods.co_training import CoTraining
from mper.methods.registry import find_method, make_method
from mper.methods.supervised import Supervised
from mper.models.bundle import ModelBundle
from mper.models.calibration import Calibration
from mper.nets.network import NetConfig, Network
from mper.progress import Cancelled, Progress, ignore_progress
from mper.training import curves, folds, learner, run_calibration, run_clock, run_evaluation, setup, trainer
from mper.training.calibration import Sample
from mper.training.checks import check_training_data
from mper.training.data import load_training_data
from mper.training.run_calibration import FOLDS_ALONE, calibration_of_run
from mper.training.runs import RunFolder, read_events
from mper.training.setup import make_network, start_dice
from mper.training.trained_scans import scan_checksum, scans_of_model
from mper.training.trainer import TrainConfig, start_run, train
from mper.utils.coded import Coded
from mper.utils.locking import locked
from mper.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("one_thread")

SOLID: dict[str, Any] = {"patch": (16, 16, 16), "batch": 4}
FLAT: dict[str, Any] = {"patch": (1, 32, 32), "batch": 4}
THICK = (8.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four filters instead of sixteen, k-means on a handful of patches, and every step told and saved."""
    train_with_filters(monkeypatch, 4)
    monkeypatch.setattr(base, "_PATCHES", {2: 6, 3: 4})
    monkeypatch.setattr(trainer, "_REPORT_S", 0.0)
    monkeypatch.setattr(trainer, "_CHECKPOINT_S", 0.0)
    monkeypatch.setattr(curves, "_draw", lambda rows, path: None)  # a third of a second each


@pytest.fixture(scope="module")
def solid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of thin slices, two of them labelled."""
    return blob_dataset(tmp_path_factory.mktemp("solid") / "data set", 3, labelled=2).path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of thick slices, two of them labelled."""
    home = tmp_path_factory.mktemp("flat")
    return blob_dataset(home / "data", 3, (5, 40, 40), labelled=2, spacing_mm=THICK, structures=2).path


def begin(data: Path, run: Path, **config: Any) -> Path:
    start_run(TrainConfig(**{"dataset": str(data), "device": "cpu", "steps": 8, **SOLID, **config}), run)
    return run


def weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(ModelBundle.load(model).state)


def differing(one: Path, two: Path) -> list[str]:
    """Names of the weights that differ between two models."""
    others = weights(two)
    return [name for name, value in weights(one).items() if not torch.equal(value, others[name])]


def assert_same(one: Path, two: Path) -> None:
    assert differing(one, two) == []


def told_steps(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == "step"]


def codes(heard: Sequence[str]) -> list[str]:
    """The codes of notices: each has one, so that MPER Trainer says it in words of its own."""
    return [line.code for line in heard if isinstance(line, Coded)]


class Crash(Exception):
    """Stands for whatever ends a process."""


def at(step: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    """A report that acts once, when that step is told."""
    done = []

    def report(progress: Progress) -> None:
        if progress.values.get("step") == step and not done:
            done.append(True)
            act()

    return report


def crash() -> None:
    raise Crash


def test_a_fine_tuned_model_keeps_the_ranges_that_its_start_knew(solid: Path, tmp_path: Path) -> None:
    first = ModelBundle.load(train(begin(solid, tmp_path / "first", method="supervised", steps=1)))
    assert first.card.about["volume_ml"] == {}, "two labels do not tell what is usual"
    usual = first.card.about["intensity"]
    about = {
        **first.card.about,
        "intensity": {**usual, "5": [-9.0, usual["5"][1]]},
        "volume_ml": {"LA": [0.001, 0.002]},
        "locator": "la-locator",
    }
    start = ModelBundle(replace(first.card, about=about), first.state).save(tmp_path / "start")
    run = begin(solid, tmp_path / "tuned", method="supervised", start_from=str(start), steps=1)
    tuned = ModelBundle.load(train(run)).card
    assert tuned.about["locator"] == "la-locator"
    assert tuned.about["intensity"] == {**usual, "5": [-9.0, usual["5"][1]]}
    assert tuned.about["volume_ml"] == {"LA": [0.001, 0.002]}


# ---------------------------------------------------------------------- a run from end to end


def test_the_card_tells_which_volumes_the_training_labels_have(tmp_path: Path) -> None:
    data = blob_dataset(tmp_path / "data", 5, (5, 40, 40), spacing_mm=THICK, structures=2)
    set_region(data, "case4", (0, 40, 0, 26, -4, 36), "test")  # which cuts its structures
    last = data.case("case3")
    whole = last.label()
    assert whole is not None
    begun = np.where(np.arange(40) < 20, whole.array, 255).astype(np.uint8)
    last.add_label(whole.with_array(begun), author="test", how="hand")
    volumes: dict[str, list[float]] = {}
    for case in data.split("train")[:3]:  # of the last two only a part is known
        label = case.label()
        assert label is not None and label.geometry.spacing_mm is not None
        for structure in data.labels:
            voxels = int((label.array == structure.value).sum())
            volumes.setdefault(structure.name, []).append(voxels * float(np.prod(label.geometry.spacing_mm)) / 1000)
    run = begin(data.path, tmp_path / "run", method="supervised", patch=None, steps=1)
    card = ModelBundle.load(train(run)).card
    assert set(card.about["volume_ml"]) == set(volumes)
    for name, (least, most) in card.about["volume_ml"].items():
        assert (least, most) == pytest.approx((min(volumes[name]), max(volumes[name])), rel=0.1)  # on the working grid


@pytest.mark.parametrize("method", ["supervised", "bcp", "mper"])
@pytest.mark.parametrize("recipe", ["plus", "paper"])
def test_run_ends_with_a_bundle_and_all_that_was_told(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, recipe: str
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(curves, "_draw", lambda rows, path: drawn.append(path))
    beats: list[Progress] = []
    run = begin(solid, tmp_path / "run", method=method, recipe=recipe, name="mine", seed=3)
    model = train(run, beats.append)
    assert model == run / "model"
    status = RunFolder(run).status()
    assert (status["state"], status["step"], status["fraction"]) == ("finished", 8, 1.0)
    assert {path.name for path in run.iterdir()} >= {"config.json", "status.json", "events.jsonl", "control.json"}
    assert {path.name for path in run.iterdir()} >= {"checkpoint", "model", "curves.csv"}
    assert drawn == [run / "curves.png"]
    steps = told_steps(run)
    assert [event["step"] for event in steps] == list(range(1, 9)) and all(np.isfinite(e["loss"]) for e in steps)
    wanted = {"mper": {"prototype", "contrast", "agreement", "spread"}}.get(method, {"loss"})
    assert wanted <= steps[-1].keys()
    fractions = [beat.fraction for beat in beats if beat.values]
    assert fractions == sorted(fractions) and fractions[0] == 0  # type: ignore[type-var]
    bundle = ModelBundle.load(model)
    assert bundle.card.name == "mine" and [label.name for label in bundle.card.labels] == ["LA"]
    told = bundle.card.about["training"]
    assert (told["method"], told["recipe"], told["seed"], told["steps"]) == (method, recipe, 3, 8)
    assert (told["labelled_cases"], told["unlabelled_cases"]) == (2, 0 if method == "supervised" else 1)
    assert (bundle.state["prototypes.vectors"].norm(dim=-1) > 0).all()
    assert str(solid.parent) not in bundle.card.to_json({})  # no paths of the trainer's machine
    assert bundle.card.mirror_axes == ((1, 2) if recipe == "paper" else ())


def test_slices_train_the_slice_network(flat: Path, tmp_path: Path) -> None:
    run = begin(flat, tmp_path / "run", method="mper", steps=4, **FLAT)
    bundle = ModelBundle.load(train(run))
    assert bundle.network.kind == "unet" and bundle.network.classes == 3
    assert [label.name for label in bundle.card.labels] == ["LA", "RA"]


def test_same_seed_gives_the_same_weights_and_another_gives_others(solid: Path, tmp_path: Path) -> None:
    models = [train(begin(solid, tmp_path / str(n), steps=4, seed=seed)) for n, seed in enumerate((0, 0, 1))]
    assert_same(models[0], models[1])
    assert differing(models[0], models[2])


def test_finished_run_gives_its_model_without_work(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(solid, tmp_path / "run", method="supervised", steps=1)
    model = train(run)
    monkeypatch.setattr(trainer, "make_fabric", crash)
    assert train(run) == model


def test_packed_data_trains_to_the_same_weights(solid: Path, tmp_path: Path) -> None:
    pack(Dataset.open(solid), tmp_path / "packed", 100)
    models = [train(begin(data, tmp_path / f"from {data.name}", steps=3)) for data in (solid, tmp_path / "packed")]
    assert_same(*models)


# ---------------------------------------------------------------------- learning


def dice(model: Path, scan: Volume, mask: np.ndarray, value: int = 1) -> float:
    """Of a bundle's network on a scan whose working grid it can take as it is."""
    bundle = ModelBundle.load(model)
    network = bundle.build()
    dimensions = network.config.dimensions
    grid = WorkingGrid.plan(scan.geometry, bundle.preprocessing, dimensions)
    image = normalise(grid.forward(scan.array), bundle.preprocessing)
    batch = image[:, None] if dimensions == 2 else image[None, None]
    with torch.no_grad():
        labels = network(batch).logits.argmax(1).reshape(grid.size)
    found = labels_on_source(grid, labels) == value
    truth = mask == value
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [3, 2])
@pytest.mark.parametrize("method", ["supervised", "bcp", "mper"])
def test_a_bright_blob_is_learnt(tmp_path: Path, method: str, dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train_with_filters(monkeypatch, 8)
    monkeypatch.setattr(trainer, "_CHECKPOINT_S", 60.0)
    shape, spacing = ((16, 32, 32), (2.0, 2.0, 2.0)) if dimensions == 3 else ((4, 48, 48), THICK)
    data = blob_dataset(tmp_path / "data", 4, shape, labelled=3, spacing_mm=spacing).path
    patch, batch = ((16, 32, 32), 2) if dimensions == 3 else ((1, 48, 48), 6)
    model = train(begin(data, tmp_path / "run", method=method, steps=55, patch=patch, batch=batch))
    image, mask = blobs(shape, seed=100)
    assert dice(model, Volume(image, Geometry.from_axes((0, 0, 0), spacing, LPS, shape)), mask) > 0.8


@pytest.mark.slow
def test_structures_in_ct_train_from_scratch_and_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two organs in HU, air around, labels in some slices only."""
    train_with_filters(monkeypatch, 16)
    monkeypatch.setattr(trainer, "_CHECKPOINT_S", 60.0)
    shape = (16, 48, 48)

    def hounsfield(image: np.ndarray) -> np.ndarray:
        scan = np.round(20 + 25 * image)
        scan[:, :4], scan[:, -4:] = -1000, 1500  # air before, bone behind: worthless for what is sought
        return scan.astype(np.int16)

    def half(mask: np.ndarray) -> np.ndarray:
        mask = mask.copy()
        mask[::2] = 255
        return mask

    data = blob_dataset(
        tmp_path / "data", 4, shape, structures=2, intensity=hounsfield, edit_label=half, names=("Liver", "Spleen")
    ).path
    model = train(begin(data, tmp_path / "run", method="supervised", steps=80, patch=(16, 48, 48), batch=2))
    bundle = ModelBundle.load(model)
    assert bundle.preprocessing.normalisation == "window" and bundle.preprocessing.window is not None
    low, high = bundle.preprocessing.window
    assert -300 < low < 120 and 220 < high < 500
    image, mask = blobs(shape, 100, structures=2)
    scan = Volume(hounsfield(image), Geometry.from_axes((0, 0, 0), (2.0, 2.0, 2.0), LPS, shape))
    found = Predictor(bundle, "cpu").predict(scan).segmentation
    for label in found.labels:
        hit = found.labelmap.array == label.value
        truth = mask == label.value
        assert 2 * (hit & truth).sum() / (hit.sum() + truth.sum()) > 0.75, label.name


def test_patches_of_ct_keep_the_intensity_window_of_the_model_also_across_scanners(tmp_path: Path) -> None:
    """A window in HU does not depend on the field of view: z-scores would show the network what it never sees later."""
    data = blob_dataset(tmp_path / "data", 2, intensity=lambda image: np.round(100 * image - 700).astype(np.int16)).path
    plain, other = (
        load_training_data(TrainConfig(str(data), **SOLID, cross_scanner=across), torch.device("cpu"))
        for across in (False, True)
    )
    assert plain.plan.preprocessing.normalisation == "window" and other.sampler.other_fields
    for seed in range(4):
        a, b = (part.sampler.batch(1, 0, np.random.default_rng(seed)) for part in (plain, other))
        assert a.inside is not None
        assert torch.equal(a.image[:, 0][a.inside], b.image[:, 0][a.inside])
        assert b.image.min() >= -1 and b.image.max() <= 1


# ---------------------------------------------------------------------- stopping and going on


@pytest.fixture(scope="module")
def unbroken(solid: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model of a run of eight steps of `mper` that nothing stopped: self-training begins with the seventh."""

    @functools.cache  # called within tests, as tiny as they are
    def of(recipe: str) -> Path:
        return train(begin(solid, tmp_path_factory.mktemp("unbroken") / recipe, method="mper", recipe=recipe))

    return of


@pytest.mark.parametrize("recipe, step", [("plus", 1), ("plus", 6), ("plus", 7), ("paper", 2), ("paper", 6)])
def test_run_that_broke_ends_with_the_weights_of_an_unbroken_one(
    solid: Path, tmp_path: Path, unbroken: Callable[[str], Path], recipe: str, step: int
) -> None:
    run = begin(solid, tmp_path / "run", method="mper", recipe=recipe)
    with pytest.raises(Crash):
        train(run, at(step, crash))  # the step before was saved, this one was not
    assert RunFolder(run).status()["state"] == "failed"
    assert_same(train(run), unbroken(recipe))
    assert [event["step"] for event in told_steps(run)] == [*range(1, step + 1), *range(max(step, 1), 9)]


def test_run_that_broke_while_finishing_finishes(
    solid: Path, tmp_path: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(solid, tmp_path / "run", method="mper")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(ModelBundle, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        train(run)
    assert not (run / "model").exists()
    assert_same(train(run), unbroken("plus"))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five labelled scans of thin slices, three of them held out."""
    dataset = blob_dataset(tmp_path_factory.mktemp("held") / "data", 5)
    dataset.lock_holdout(["case2", "case3", "case4"])
    return dataset.path


@pytest.fixture(scope="module")
def adapted(held: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Path, Path]]:
    """A start model, and the model of a run that adapts it, is averaged with it and was not stopped."""

    @functools.cache
    def make() -> tuple[Path, Path]:
        home = tmp_path_factory.mktemp("adapted")
        start = start_from(home / "start", "LA")
        return start, train(begin(held, home / "run", method="supervised", start_from=str(start), steps=2))

    return make


@pytest.mark.parametrize(
    ("stop", "work"),
    [
        ("report", "measuring the quality of masks"),
        ("cancel", "measuring on the hold-out"),
        ("pause", "measuring on the hold-out"),
    ],
)
def test_what_stops_a_run_while_its_model_is_measured_changes_neither_the_model_nor_what_is_measured(
    held: Path,
    tmp_path: Path,
    adapted: Callable[[], tuple[Path, Path]],
    stop: str,
    work: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "start_dice", lambda *_: 0.7)
    monkeypatch.setattr(run_calibration, "_SHARE", 0.0)  # a mask, whose quality is not enough to calibrate with
    start, whole = adapted()
    run = begin(held, tmp_path / "run", method="supervised", start_from=str(start), steps=2)
    folder, told = RunFolder(run), []

    def report(progress: Progress) -> None:
        told.append(progress.message)
        if "finishing the model" in told and progress.message.startswith(work):
            if stop == "report":
                raise Cancelled
            folder.steer(stop)

    states: list[str] = []

    def go_on(seconds: float) -> None:
        states.append(folder.status()["state"])
        folder.steer("run")

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=time.monotonic, sleep=go_on))
    if stop == "pause":
        assert train(run, report) == run / "model" and states and set(states) == {"paused"}
    else:
        with pytest.raises(Cancelled):
            train(run, report)
        assert folder.status()["state"] == "cancelled" and not (run / "model").exists()
        train(run)
    assert folder.status()["state"] == "finished"
    assert_same(run / "model", whole)
    one, other = (ModelBundle.load(model).card.about for model in (run / "model", whole))
    assert one["quality"] == other["quality"] != "not measured"
    assert one["calibration_from"] == other["calibration_from"]


@pytest.mark.filterwarnings("ignore:The `srun` command")
def test_the_scale_of_a_loss_in_float16_comes_back(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers: list[torch.amp.GradScaler] = []

    def fabric(config: TrainConfig) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
        scalers.append(scaler)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))

    monkeypatch.setattr(trainer, "make_fabric", fabric)
    monkeypatch.setattr(setup, "autocast_dtype", lambda device: torch.float16)
    run = begin(solid, tmp_path / "run", method="supervised", steps=3, batch=2)
    with pytest.raises(Crash):
        train(run, at(2, crash))  # the first step was saved
    train(run)
    assert [scaler.get_scale() for scaler in scalers] == [4.0 * 2**2, 4.0 * 2**3]


@pytest.mark.parametrize("step", [1, 5])
def test_cancelling_acts_within_a_step_and_can_be_taken_back(
    solid: Path, tmp_path: Path, unbroken: Callable[[str], Path], step: int
) -> None:
    run = begin(solid, tmp_path / "run", method="mper")
    with pytest.raises(Cancelled, match=f"cancelled at step {step}"):
        train(run, at(step, lambda: RunFolder(run).steer("cancel")))
    assert RunFolder(run).status()["state"] == "cancelled" and not (run / "model").exists()
    assert (run / "curves.csv").exists()
    assert_same(train(run), unbroken("plus"))


def test_pause_acts_within_a_step_and_changes_nothing(
    solid: Path, tmp_path: Path, unbroken: Callable[[str], Path]
) -> None:
    run = begin(solid, tmp_path / "run", method="mper")
    folder = RunFolder(run)
    seen: list[tuple[str, int]] = []

    def watch() -> None:
        end = time.monotonic() + 60
        while folder.status().get("state") != "paused" and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
        seen.append((folder.status()["state"], told_steps(run)[-1]["step"]))
        folder.steer("run")

    thread = threading.Thread(target=watch)

    def pause() -> None:
        folder.steer("pause")
        thread.start()

    model = train(run, at(4, pause))
    thread.join()
    assert seen == [("paused", 4)]
    assert_same(model, unbroken("plus"))
    assert [e["state"] for e in read_events(run) if e["event"] == "state"] == [
        "running",
        "paused",
        "running",
        "finished",
    ]


def test_report_that_raises_cancelled_stops_the_run(
    solid: Path, tmp_path: Path, unbroken: Callable[[str], Path]
) -> None:
    def cancel(*_: object) -> None:
        raise Cancelled

    run = begin(solid, tmp_path / "run", method="mper")
    with pytest.raises(Cancelled):
        train(run, cancel)  # while reading
    assert RunFolder(run).status()["state"] == "cancelled" and not (run / "checkpoint").exists()
    with pytest.raises(Cancelled):
        train(run, at(5, cancel))
    assert_same(train(run), unbroken("plus"))


def test_run_that_was_cancelled_before_it_began_does_not_begin(solid: Path, tmp_path: Path) -> None:
    run = begin(solid, tmp_path / "run", method="supervised")
    RunFolder(run).steer("cancel")
    with pytest.raises(Cancelled, match="at step 0"):
        train(run)
    assert not told_steps(run)


def test_run_folder_in_use_is_refused(solid: Path, tmp_path: Path) -> None:
    run = begin(solid, tmp_path / "run", method="supervised", steps=1)
    with locked(run / ".lock"), pytest.raises(ValueError, match="is being worked on by process"):
        train(run)
    train(run)


def test_run_folder_is_never_taken_twice(solid: Path, tmp_path: Path) -> None:
    begin(solid, tmp_path / "run")
    with pytest.raises(FileExistsError, match="holds a run already"):
        begin(solid, tmp_path / "run")


def test_run_that_failed_before_its_first_checkpoint_makes_room(solid: Path, tmp_path: Path) -> None:
    run = begin(solid, tmp_path / "run", method="supervised", patch=(1, 16, 16), steps=1)
    with pytest.raises(ValueError, match="patch"):
        train(run)
    begin(solid, tmp_path / "run", method="supervised", steps=1)
    train(run)
    assert RunFolder(run).state() == "finished"
    with pytest.raises(FileExistsError, match="holds a run already"):
        begin(solid, tmp_path / "run")


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from mper.methods import base
from mper.nets.registry import BACKBONES
from mper.training import curves, trainer
BACKBONES["vnet"] = replace(BACKBONES["vnet"], filters=4)
base._PATCHES = {2: 6, 3: 4}
trainer._REPORT_S = 0.0
trainer._CHECKPOINT_S = 0.0
trainer.train(Path(sys.argv[1]), lambda progress: print(progress.values.get("step", ""), flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 5])
def test_killed_process_leaves_a_run_that_goes_on(
    solid: Path, tmp_path: Path, unbroken: Callable[[str], Path], step: int
) -> None:
    run = begin(solid, tmp_path / "run", method="mper")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here, or sums are rounded otherwise
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() and float(line) >= step:
            time.sleep(np.random.default_rng(step).uniform(0, 0.05))
            process.kill()
            break
    process.wait()
    assert RunFolder(run).status()["state"] == "running" and not (run / "model").exists()
    assert_same(train(run), unbroken("plus"))


@pytest.mark.parametrize(
    ("method", "kind", "co_train", "learning"),
    [("bcp", "vnet", False, 1), ("bcp", "vnet", True, 2), ("dk-uxnet", "ux-net-small", False, 2)],
)
def test_every_network_that_learns_is_compiled(
    method: str, kind: str, co_train: bool, learning: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Network] = []
    monkeypatch.setattr(Network, "compile", lambda network: compiled.append(network))
    recipe = TrainConfig("data", method).make_recipe()
    one, other = (make_method(method, Network(NetConfig(kind, 2, filters=8)), recipe, 2) for _ in range(2))
    fabric: Any = SimpleNamespace(device=torch.device("cpu"), global_rank=0, setup=lambda *parts: parts)
    made = learner.Learner(CoTraining(one, other) if co_train else one, recipe, fabric, (0,), tuned=False)
    made.begin()
    assert compiled == []
    made.begin(compiled=True)
    assert len(compiled) == len(set(map(id, compiled))) == learning
    assert all(parameter.requires_grad for network in compiled for parameter in network.parameters())


# ---------------------------------------------------------------------- budgets


class Clock:
    """Time that passes by being looked at."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 100.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def tell(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """From now on runs have this time."""
        for module in (trainer, run_clock):
            monkeypatch.setattr(module, "time", self)
        monkeypatch.setattr(run_clock, "awake_s", self.monotonic)
        return self


def test_a_budget_is_not_spent_while_a_machine_with_windows_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    awake = iter((10_000_000, 10_000_000 + 35_000_000))  # in 100 ns; its other clocks go on

    def query(reference: Any) -> int:
        reference._obj.value = next(awake)
        return 1

    dlls = {"kernel32": SimpleNamespace(QueryUnbiasedInterruptTime=query)}
    monkeypatch.setattr(ctypes, "WinDLL", dlls.get, raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(run_clock, "time", Clock(8 * 3600.0))
    clock = run_clock.RunClock()
    begin = clock()
    assert clock() - begin == pytest.approx(3.5)


def test_budget_ends_in_time_at_a_rate_of_zero(solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(0.02).tell(monkeypatch)
    run = begin(solid, tmp_path / "run", method="supervised", steps=None, budget_s=3.0, batch=1, patch=(16, 16, 32))
    train(run)
    events = told_steps(run)
    assert len(events) > 50 and 2.8 < events[-1]["elapsed_s"] <= 3.1
    rates = [event["rate"] for event in events]
    assert max(rates) > 5e-4 and rates[-1] < 0.1 * max(rates)
    assert rates[rates.index(max(rates)) :] == sorted(rates[rates.index(max(rates)) :], reverse=True)


def test_a_budget_of_processor_time_is_not_spent_by_other_programs(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(100.0).tell(monkeypatch)  # a busy machine: much time passes, of which the process has little
    clock.process_time = iter(np.arange(0, 9, 0.1)).__next__  # type: ignore[attr-defined]
    choices = {"method": "supervised", "steps": None, "budget_s": 0.45, "batch": 1, "patch": (16, 16, 32)}
    run = begin(solid, tmp_path / "run", **choices, processor_time=True)
    train(run)
    assert [event["elapsed_s"] for event in told_steps(run)] == [0.1, 0.2, 0.3, 0.4]


def test_budget_is_not_spent_by_pausing_nor_given_twice(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(0.05).tell(monkeypatch)
    run = begin(solid, tmp_path / "run", method="supervised", steps=None, budget_s=2.0, batch=1, patch=(16, 16, 32))
    folder = RunFolder(run)
    clock.sleep = lambda seconds: folder.steer("run") or setattr(clock, "now", clock.now + 1000)  # type: ignore
    with pytest.raises(Crash):
        train(run, at(8, crash))
    train(run, at(10, lambda: folder.steer("pause")))
    events = told_steps(run)
    assert 1.8 < events[-1]["elapsed_s"] <= 2.1
    assert events[8]["elapsed_s"] < events[7]["elapsed_s"] + 0.2  # goes on where it was


# ---------------------------------------------------------------------- data


def test_only_so_many_labels_are_used_and_the_rest_helps_without(solid: Path, tmp_path: Path) -> None:
    told = ModelBundle.load(train(begin(solid, tmp_path / "run", labeled=1, steps=4))).card.about["training"]
    assert (told["labelled_cases"], told["unlabelled_cases"], told["labeled"]) == (1, 2, 1)


def test_more_labels_than_there_are_is_told(solid: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 2 labelled cases, 3 were asked for"):
        train(begin(solid, tmp_path / "run", labeled=3))


def test_data_without_labels_is_told(tmp_path: Path) -> None:
    blob_dataset(tmp_path / "data", 2, labelled=0)
    run = begin(tmp_path / "data", tmp_path / "run")
    with pytest.raises(ValueError, match="none of the 2 cases of split 'train' has a label"):
        train(run)
    assert RunFolder(run).status()["state"] == "failed"
    assert "none of the 2 cases" in RunFolder(run).status()["message"]


def test_label_that_says_nothing_yet_is_no_label(tmp_path: Path) -> None:
    blob_dataset(tmp_path / "data", 2, edit_label=lambda mask: np.full_like(mask, 255))
    with pytest.raises(ValueError, match="none of the 2 cases"):
        train(begin(tmp_path / "data", tmp_path / "run"))


@pytest.mark.parametrize("method", ["supervised", "mper"])
def test_label_of_a_few_slices_is_enough_to_train(tmp_path: Path, method: str) -> None:
    def few(mask: np.ndarray) -> np.ndarray:
        mask = mask.copy()
        mask[[n for n in range(len(mask)) if n not in (9, 10)]] = 255
        return mask

    blob_dataset(tmp_path / "data", 2, edit_label=few)
    heard: list[str] = []
    train(begin(tmp_path / "data", tmp_path / "run", method=method, steps=4), notify=heard.append)
    assert all(0 < event["labelled"] < 20 for event in told_steps(tmp_path / "run"))
    rest = "labelled by the mean teacher in self-training" if method == "mper" else "ignored"
    assert f"2 of 2 labelled scans are labelled in part: the rest is {rest}; complete the labels where you can" in heard
    assert ("parts-self-labelled" if method == "mper" else "parts-ignored") in codes(heard)


def test_a_run_too_short_for_self_training_says_so_as_soon_as_its_length_is_known(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_ESTIMATE_AT", 2)
    heard: list[str] = []
    run = begin(solid, tmp_path / "run", method="bcp", steps=4)
    train(run, at(1, lambda: heard.append("step 1")), heard.append)
    assert heard[-2:] == [
        "step 1",
        "the run has 4 steps, 1 of them with scans without labels: too few to learn from these; train "
        "for longer, or choose --method supervised",
    ]


def test_the_steps_that_a_budget_has_time_for_and_the_time_of_all_steps_are_told(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(0.02).tell(monkeypatch)
    heard: list[str] = []
    run = begin(solid, tmp_path / "run", method="supervised", steps=None, budget_s=0.6, batch=1, patch=(16, 16, 32))
    train(run, notify=heard.append)
    status = RunFolder(run).status()
    assert 10 < status["step"] < 50 and 0.6 <= status["elapsed_s"] < 0.7
    assert heard[-1].startswith(f"the run has time for about {status['step'] - 1} steps: too few")


def test_auto_trains_on_the_processor_of_a_mac_and_says_so(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    heard: list[str] = []
    train(begin(solid, tmp_path / "run", method="supervised", steps=1, device="auto"), notify=heard.append)
    assert "no-training-on-mps" in codes(heard)
    assert RunFolder(tmp_path / "run").status()["device"].startswith("CPU")


@pytest.mark.parametrize("method", ["supervised", "embedding-matching"])
def test_a_budget_of_next_to_no_steps_is_told(solid: Path, tmp_path: Path, method: str) -> None:
    heard: list[str] = []
    train(begin(solid, tmp_path / "run", method=method, steps=None, budget_s=0.01), notify=heard.append)
    assert "the run ended after 1 step: too few for a model to learn; train for longer" in heard
    assert "too-few-steps" in codes(heard)


def test_run_that_is_cancelled_while_it_reads_its_scans_obeys(solid: Path, tmp_path: Path) -> None:
    run = begin(solid, tmp_path / "run", method="supervised")

    def report(progress: Progress) -> None:
        if progress.message.startswith("reading case"):
            RunFolder(run).steer("cancel")

    with pytest.raises(Cancelled):
        train(run, report)
    assert RunFolder(run).status()["state"] == "cancelled" and not told_steps(run)
    train(run)
    assert [event["step"] for event in told_steps(run)][-1] == 8


def test_run_tells_what_it_was_trained_on(solid: Path, tmp_path: Path) -> None:
    for method, wanted in (("supervised", ["case0", "case1"]), ("mper", ["case0", "case1", "case2"])):
        run = begin(solid, tmp_path / method, method=method, steps=1)
        train(run)
        record = json.loads((run / "cases.json").read_text(encoding="utf-8"))
        cases = [Dataset.open(solid).case(name) for name in wanted]
        assert record == {"trained_on": wanted, "scans": sorted(scan_checksum(case) for case in cases)}


def test_scans_that_come_while_a_run_is_stopped_change_neither_its_resolution_nor_its_patch(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 1)
    run = begin(dataset.path, tmp_path / "run", method="supervised", steps=2, patch=None, batch=2)
    with pytest.raises(Crash):
        train(run, at(2, crash))
    for n in range(2):
        image, mask = blobs((40, 48, 48), n + 5)
        grid = Geometry.from_axes((0, 0, 0), (1.0, 1.0, 1.0), LPS, image.shape)
        dataset.add_case(f"new{n}", Volume(image, grid), {}).add_label(Volume(mask, grid), author="me", how="hand")
    dataset.add_to_split("train", ["new0", "new1"])
    card = ModelBundle.load(train(run)).card
    assert (card.preprocessing["spacing_mm"], card.window) == ([2.0, 2.0, 2.0], (32, 32, 32))
    assert json.loads((run / "cases.json").read_text(encoding="utf-8"))["trained_on"] == ["case0", "new0", "new1"]


def test_a_case_that_is_held_out_after_a_run_learned_from_it_is_no_test_of_that_run(tmp_path: Path) -> None:
    dataset, heard = blob_dataset(tmp_path / "data", 4), []
    run = begin(dataset.path, tmp_path / "run", method="supervised", steps=3)
    with pytest.raises(Crash):
        train(run, at(2, crash))
    case = dataset.add_case("new", dataset.case("case0").image().with_array(blobs((20, 24, 24), 9)[0]), {})
    case.add_label(Volume(blobs((20, 24, 24), 9)[1], case.image().geometry), author="test", how="imported")
    dataset.lock_holdout(["case3", "new"])
    train(run, notify=heard.append)
    assert json.loads((run / "cases.json").read_text(encoding="utf-8"))["trained_on"] == [f"case{n}" for n in range(4)]
    assert sum(line.startswith("case3: held out after this run began to learn from it") for line in heard) == 1
    assert "held-out-since" in codes(heard)
    quality = ModelBundle.load(run / "model").card.about["quality"]
    assert quality["cases"].startswith("1 case of the locked hold-out")


def test_a_hold_out_that_a_start_model_learned_is_no_test_of_the_models_that_come_from_it(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 4)
    held, scans = ["case1", "case2", "case3"], {scan_checksum(dataset.case(name)) for name in dataset.cases}
    heard: list[str] = []

    def publish(start: Path | None) -> Path:
        choices: dict[str, Any] = {"method": "supervised", "name": "mine", "steps": 1}
        run = begin(dataset.path, dataset.new_run(), **choices, start_from=None if start is None else str(start))
        train(run, notify=heard.append)
        return dataset.model("mine", dataset.model_versions("mine")[-1])

    first = publish(None)
    dataset.lock_holdout(held)
    second = publish(first)  # of case0 alone
    third = publish(second)
    assert codes(heard).count("held-out-known") == 2 and "held-out-since" not in codes(heard)
    for model in (second, third):
        about = ModelBundle.load(model).card.about
        assert set(about["training"]["trained_on"]) == scans_of_model(model) == scans
        assert about["quality"] == "not measured" and about["calibration_from"].startswith("nothing")
    pack(dataset, tmp_path / "packed", 10)
    assert {scan_checksum(case) for case in open_dataset(tmp_path / "packed").split("holdout")} < scans

    def forget(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        entry = json.loads(path.read_text(encoding="utf-8"))
        change(entry)
        path.write_text(json.dumps(entry), encoding="utf-8")

    for card in dataset.path.glob("**/card.json"):  # models and runs of an older version
        forget(card, lambda entry: entry["about"]["training"].pop("trained_on"))
    for record in dataset.path.glob("runs/*/cases.json"):
        forget(record, lambda entry: entry.pop("scans"))
    moved = dataset.path.rename(tmp_path / "moved")
    assert scans_of_model(moved / "models" / "mine" / "3") == scans
    assert scans_of_model(next(path.parent for path in sorted(moved.glob("runs/*/model/card.json")))) == scans
    for run in moved.glob("runs/*"):
        (run / "cases.json").write_text("{", encoding="utf-8")
    assert scans_of_model(moved / "models" / "mine" / "3") == set()


def test_labels_that_are_unedited_masks_of_a_model_are_told_also_in_the_card(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 4)
    for name, edited in (("case0", False), ("case1", True), ("case2", False)):
        mask = dataset.case(name).label()
        assert mask is not None
        dataset.case(name).add_label(mask, author="me", how="model", model=("la", "1"), edited=edited)
    dataset.lock_holdout(["case2", "case3"])
    pack(dataset, tmp_path / "packed", 10)
    for data in (dataset.path, tmp_path / "packed"):
        heard: list[str] = []
        run = begin(data, tmp_path / f"run-{data.name}", method="supervised", steps=1)
        train(run, notify=heard.append)
        (learned,) = [line for line in heard if isinstance(line, Coded) and line.code == "drafts-learned"]
        (held,) = [line for line in heard if isinstance(line, Coded) and line.code == "held-out-drafts"]
        assert learned.startswith("case0: labelled by a model alone") and held.startswith("case2: labelled by a model")
        assert (
            ModelBundle.load(run / "model")
            .card.about["quality"]["cases"]
            .startswith("2 cases of the locked hold-out (1 with the unedited mask of a model as label): not trained on")
        )


def test_named_run_is_published_before_it_is_finished_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = blob_dataset(tmp_path / "data", 2)
    run = begin(dataset.path, tmp_path / "run", method="supervised", name="mine", steps=1)
    train(run)
    assert dataset.model_versions("mine") == [1]
    (run / "status.json").write_text('{"state": "running", "heartbeat": 0}')  # killed before its last word
    (run / "published.json").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        assert train(run) == run / "model" and not (run / "published.json").exists(), "the first process does it"
    assert train(run) == run / "model"
    status = RunFolder(run).status()
    assert (status["state"], status["step"]) == ("finished", 1) and dataset.model_versions("mine") == [1]
    train(run)
    assert dataset.model_versions("mine") == [1]


def test_locked_holdout_is_never_trained_on(tmp_path: Path) -> None:
    blob_dataset(tmp_path / "data", 2).lock_holdout("train")
    with pytest.raises(ValueError, match="locked hold-out"):
        train(begin(tmp_path / "data", tmp_path / "run"))


def test_a_copy_of_a_held_out_scan_is_left_out_and_named_also_of_a_packed_dataset(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 3)
    dataset.lock_holdout(["case0"])
    held = dataset.case("case0")
    copy = dataset.add_case("copy", held.image(), {"format": "synthetic"})
    copy.add_label(Volume(np.asarray(held.label().array), held.image().geometry), author="test", how="imported")
    dataset.add_to_split("train", ["copy"])
    pack(dataset, tmp_path / "packed", 10)
    for path in (dataset.path, tmp_path / "packed"):
        config = TrainConfig(str(path), method="supervised", steps=1, device="cpu", **SOLID)
        found = load_training_data(config, torch.device("cpu"))
        assert [case.id for case in found.sampler.labelled] == ["case1", "case2"]
        assert found.left_out == (("copy",) if path == dataset.path else ())
    notes = check_training_data(replace(found, left_out=("copy",)), find_method("supervised"), 4, config.make_recipe())
    assert notes[0].startswith("copy shows the scan of a held-out case and is left out")


def test_a_copy_of_a_held_out_scan_counts_among_the_first_cases_and_labels_of_its_split(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 5)
    dataset.lock_holdout(["case0"])
    held = dataset.case("case0")
    copy = dataset.add_case("copy", held.image(), {"format": "synthetic"})
    copy.add_label(Volume(np.asarray(held.label().array), held.image().geometry), author="test", how="imported")
    dataset.add_to_split("train", ["case1", "copy", "case2", "case3", "case4"])
    config = TrainConfig(str(dataset.path), method="mper", steps=1, device="cpu", **SOLID)
    for cases, labeled, labelled, unlabelled in (
        (4, None, ["case1", "case2", "case3"], []),
        (4, 2, ["case1"], ["case2", "case3"]),
        (1, None, ["case1"], []),
    ):
        found = load_training_data(replace(config, cases=cases, labeled=labeled), torch.device("cpu"))
        assert [case.id for case in found.sampler.labelled] == labelled
        assert [case.id for case in found.sampler.unlabelled] == unlabelled
        assert found.left_out == (("copy",) if cases > 1 else ())


def test_scan_that_holds_no_image_is_named(tmp_path: Path) -> None:
    blob_dataset(tmp_path / "data", 2, intensity=np.zeros_like)
    with pytest.raises(ValueError, match=r"case case0: .* constant"):
        train(begin(tmp_path / "data", tmp_path / "run"))


def test_diverged_training_stops_and_saves_nothing(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Supervised.forward

    def diverging(self: Supervised, batch: Any, t: float) -> Any:
        losses = forward(self, batch, t)
        return losses._replace(total=losses.total * (float("nan") if t > 0.4 else 1.0))

    monkeypatch.setattr(Supervised, "forward", diverging)
    run = begin(solid, tmp_path / "run", method="supervised")
    for _ in range(2):  # what was saved is from before
        with pytest.raises(ValueError, match="training diverged at step 5 "):
            train(run)
    assert RunFolder(run).status()["state"] == "failed" and not (run / "model").exists()


def test_method_sees_whole_labels_and_its_own_random_numbers(
    solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed precision casts images alone, and leaves the batch a batch."""
    seen = []
    forward = Supervised.forward

    def looking(self: Supervised, batch: Any, t: float) -> Any:
        seen.append(batch)
        return forward(self, batch, t)

    monkeypatch.setattr(Supervised, "forward", looking)
    train(begin(solid, tmp_path / "run", method="supervised", steps=1))
    assert seen[0].label.dtype == torch.int64 and seen[0].labelled == 4
    assert set(seen[0].label.unique().tolist()) <= {0, 1, 255}
    assert isinstance(seen[0].rng, np.random.Generator)


# ---------------------------------------------------------------------- fine-tuning


def start_from(path: Path, *labels: str) -> Path:
    named = tuple(make_label(n, name) for n, name in enumerate(labels, start=1))
    preprocessing = {"spacing_mm": (2.0, 2.0, 2.0), "normalisation": "percentile"}
    bundle = random_bundle("vnet", len(labels) + 1)
    card = replace(bundle.card, labels=named, preprocessing=preprocessing, window=(16, 16, 16))
    return replace(bundle, card=card).save(path, "float32")


def first_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int, int]]:
    """Of each step of `bcp` from now on: whether it is anchored, and how many patches and labelled patches it has."""
    seen: list[tuple[bool, int, int]] = []
    forward = BCP.forward

    def looking(self: BCP, batch: Any, t: float) -> Any:
        seen.append((self.anchored, len(batch.image), batch.labelled))
        return forward(self, batch, t)

    monkeypatch.setattr(BCP, "forward", looking)
    return seen


@pytest.mark.parametrize(
    ("label", "known", "mixed", "rate", "averages"),
    [("LA", 0.85, True, 2e-4, 0), ("LA", 0.84, True, 1e-3, 1), ("LA", 0.4, True, 1e-3, 0), ("RA", 0.9, False, 1e-3, 0)],
)
def test_a_start_model_decides_on_stages_and_rate_and_whether_the_result_is_averaged_with_it(
    solid: Path,
    tmp_path: Path,
    label: str,
    known: float,
    mixed: bool,
    rate: float,
    averages: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "start_dice", lambda *_: known)
    averaged: list[Any] = []
    monkeypatch.setattr(learner, "average_with_start", lambda *models: averaged.append(models))
    model = start_from(tmp_path / "model", label)
    seen = first_steps(monkeypatch)
    heard: list[str] = []
    run = begin(solid, tmp_path / "run", method="bcp", steps=1, batch=4, start_from=str(model))
    train(run, notify=heard.append)
    assert seen == [(True, 4, 2 if mixed else 4)]
    assert told_steps(run)[0]["rate"] == pytest.approx(rate / 30, rel=1e-3), "of the first of 30 steps of warm-up"
    adapted = [line for line in heard if "it is adapted at the full learning rate" in line]
    assert len(adapted) == (mixed and rate == 1e-3) and all(f"a Dice of {known:.2f} on" in line for line in adapted)
    assert codes(adapted) == ["adapted"] * len(adapted)
    assert len(averaged) == averages == sum("the result is averaged with it" in line for line in heard)


@pytest.mark.parametrize(("first", "then", "rate", "averages"), [(0.86, 0.84, 2e-4, 0), (0.84, 0.86, 1e-3, 1)])
def test_a_resumed_fine_tuning_keeps_its_rate_stages_and_averaging_whatever_was_labelled_since(
    solid: Path,
    tmp_path: Path,
    first: float,
    then: float,
    rate: float,
    averages: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    averaged: list[Any] = []
    monkeypatch.setattr(learner, "average_with_start", lambda *models: averaged.append(models))
    monkeypatch.setattr(trainer, "start_dice", lambda *_: first)
    seen = first_steps(monkeypatch)
    start = start_from(tmp_path / "start", "LA")
    run = begin(solid, tmp_path / "run", method="bcp", steps=2, start_from=str(start))
    with pytest.raises(Crash):
        train(run, at(2, crash))  # the first step was saved
    heard: list[str] = []
    monkeypatch.setattr(trainer, "start_dice", lambda *_: then)
    monkeypatch.setattr(trainer, "sparsely_labelled", lambda data: ["case0", "case1"])
    train(run, notify=heard.append)
    assert "adapted" not in codes(heard) and len(averaged) == averages
    assert [anchored for anchored, _, _ in seen] == [True] * 3
    assert told_steps(run)[-1]["rate"] == pytest.approx(0.5**0.9 * rate * 2 / 30, rel=1e-3)


def test_averaging_takes_the_weights_a_third_of_the_way_back_to_the_start() -> None:
    network, start = (Network(NetConfig("vnet", 2, filters=4)) for _ in range(2))
    start.prototypes.vectors.normal_()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learner.average_with_start(network, start.state_dict())
    for name, value in network.state_dict().items():
        moves = value.is_floating_point() and not name.startswith("prototypes.")
        expected = torch.lerp(before[name], start.state_dict()[name], 0.35) if moves else before[name]
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("background", "expected"), [(5.0, 0.0), (-5.0, 0.6)])
def test_a_start_model_is_judged_by_its_dice_on_the_labelled_voxels(background: float, expected: float) -> None:
    label = torch.zeros(16, 16, 16, dtype=torch.uint8)
    label[:3], label[7:] = 1, 255  # if all is structure, 3 of the 7 labelled slices are right
    case = TrainingCase("a", torch.zeros(16, 16, 16), label)
    network = Network(NetConfig("vnet", 2, filters=4))
    with torch.no_grad():
        network.backbone.classifier.weight.zero_()
        network.backbone.classifier.bias.copy_(torch.tensor([background, 0.0]))
    for patch in ((16, 16, 16), (16, 8, 8)):
        sampler = PatchSampler([case], [], patch)
        found = start_dice(network, sampler, (16, 16, 16), 0)
        assert found == pytest.approx(expected) and network.training, "whatever patches it will learn from"
    assert start_dice(network, sampler, (16, 16, 16), 0, without=["a"]) == 1.0, "strokes alone tell nothing"


@pytest.mark.parametrize(("method", "told"), [("supervised", True), ("bcp", False)])
def test_cases_of_which_next_to_nothing_is_labelled_are_told(
    tmp_path: Path, method: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = blob_dataset(tmp_path / "data", 3, labelled=1, edit_label=strokes).path
    heard: list[str] = []
    anchored = first_steps(monkeypatch)
    train(begin(data, tmp_path / "run", method=method, steps=1, batch=4), notify=heard.append)
    assert anchored == ([] if told else [(False, 4, 4)]), "strokes are too little for a long first stage"
    line = "case0: labelled in less than 5% of the voxels, and method supervised learns from these only"
    assert any(each.startswith(line) for each in heard) == ("sparse-labels" in codes(heard)) == told


def test_a_run_with_little_to_learn_from_says_so_in_one_line_each(tmp_path: Path) -> None:
    data = blob_dataset(tmp_path / "data", 1).path
    model = start_from(tmp_path / "model", "RA")
    heard: list[str] = []
    train(begin(data, tmp_path / "run", method="bcp", steps=1, batch=4, start_from=str(model)), notify=heard.append)
    name = ModelBundle.load(model).card.name
    assert heard == [
        f"model {name} segments RA, not LA: the network starts from it, the structures from scratch",
        "1 labelled scan for 4 labelled patches per step: all patches of a step come from it; more labels would help",
        "method bcp also learns from scans without labels, and there are none: the labelled ones take their place; "
        "add scans, or choose --method supervised",
        "the run ended after 1 step, before self-training began: the model learned from labels alone; train for "
        "longer, or choose --method supervised",
    ]
    assert codes(heard) == ["other-structures", "one-label", "none-unlabelled", "no-self-training"]


@pytest.mark.parametrize(
    "labels, same", [(("LA",), True), (("left atrium",), True), (("RA",), False), (("LA", "RA"), False)]
)
def test_fine_tuning_keeps_the_classifier_for_the_same_structures_only(
    solid: Path, tmp_path: Path, labels: tuple[str, ...], same: bool
) -> None:
    model = start_from(tmp_path / "model", *labels)
    config = TrainConfig(str(solid), start_from=str(model), device="cpu", method="supervised")
    data = load_training_data(config, torch.device("cpu"))
    assert data.plan.preprocessing.normalisation == "percentile" and data.plan.patch == (16, 16, 16)
    assert data.refines == same
    network = make_network(config, data)
    assert network.config.classes == 2 and network.config.filters == 4
    for name, value in weights(model).items():
        own = network.state_dict()[name]
        if name.startswith(("backbone.classifier", "prototypes")):
            assert (own.shape == value.shape and torch.equal(own, value)) == same, name
        else:
            assert torch.equal(own, value), name


@pytest.mark.parametrize("labels", [("LA",), ("RA", "Scar")])
def test_fine_tuned_model_works_as_the_one_it_came_from(solid: Path, tmp_path: Path, labels: tuple[str, ...]) -> None:
    model = start_from(tmp_path / "model", *labels)
    tuned = ModelBundle.load(train(begin(solid, tmp_path / "run", start_from=str(model), steps=4, patch=None)))
    assert tuned.preprocessing == ModelBundle.load(model).preprocessing
    assert [label.name for label in tuned.card.labels] == ["LA"]
    assert tuned.card.about["training"]["start_from"] == "model"


# ---------------------------------------------------------------------- what cannot be asked for


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"steps": 3, "budget_s": 3.0}, "not both"),
        ({"steps": 0}, "steps must be above zero"),
        ({"steps": None, "budget_s": -1.0}, "budget_s must be above zero"),
        ({"labeled": 0}, "labeled must be above zero"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"recipe": "magic"}, "unknown recipe 'magic'"),
        ({"without": ("magic",)}, "no change 'magic'"),
        ({"method": "supervised", "without": ("cutmix",)}, "supervised has no change 'cutmix'"),
    ],
)
def test_run_that_cannot_be_is_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrainConfig(**{"dataset": "data", "steps": 3, **wrong})


@pytest.mark.parametrize("patch", [(16, 16, 20), (16, 16, 0), (1, 16, 16), (8, 16, 16)])
def test_patch_that_the_network_cannot_take_is_refused(
    solid: Path, tmp_path: Path, patch: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match=r"a patch .* has multiples of 16"):
        train(begin(solid, tmp_path / "run", patch=patch))


@pytest.mark.parametrize("network", ["vnet", "unet3d"])
@pytest.mark.parametrize(
    ("method", "batch", "choices"),
    [
        ("supervised", 1, {}),
        ("mper", 2, {"without": ("anchored",)}),
        ("bcp", 2, {"recipe": "paper"}),
        ("embedding-matching", 2, {"recipe": "paper"}),
    ],
)
def test_a_patch_of_one_value_per_channel_is_refused_before_the_first_step(
    solid: Path, tmp_path: Path, method: str, network: str, batch: int, choices: dict[str, Any]
) -> None:
    choices = {"method": method, "network": network, "steps": 1, **choices}
    with pytest.raises(ValueError, match=r"patch 16,16,16 is a single voxel .* choose a larger --patch or --batch"):
        train(begin(solid, tmp_path / "run", batch=batch, **choices))
    if network == "unet3d" and method == "supervised":  # the advice helps
        assert (train(begin(solid, tmp_path / "two", batch=2 * batch, **choices)) / "card.json").is_file()


@pytest.mark.parametrize(("method", "batch", "steps"), [("bcp", 2, 4), ("dk-uxnet", 1, 1)])
def test_a_patch_of_one_value_per_channel_trains_where_the_network_never_sees_it_alone(
    solid: Path, tmp_path: Path, method: str, batch: int, steps: int
) -> None:
    run = begin(solid, tmp_path / "run", method=method, batch=batch, steps=steps)
    assert (train(run) / "card.json").is_file()


def strokes(mask: np.ndarray) -> np.ndarray:
    """A label of two strokes: one in the structure, one in the background."""
    drawn = np.full_like(mask, 255)
    drawn[10, 12, 10:14], drawn[1, 1, 1:4] = 1, 0
    return drawn


def test_strokes_alone_turn_anchored_off_before_a_patch_of_one_value_per_channel_is_refused(tmp_path: Path) -> None:
    data = blob_dataset(tmp_path / "data", 2, edit_label=strokes).path
    with pytest.raises(ValueError, match="patch 16,16,16 is a single voxel"):
        train(begin(data, tmp_path / "run", method="bcp", batch=2))


def test_configuration_comes_back_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    config = TrainConfig("data", without=("affine", "cutmix"), patch=(16, 32, 32), window=(-5.0, 7.5), flip_axes=(2,))
    start_run(config, tmp_path)
    assert TrainConfig.read(tmp_path) == config
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text.replace('"seed"', '"sead"'), encoding="utf-8")
    with pytest.raises(ValueError, match="holds 'sead', which this version of mper does not know"):
        TrainConfig.read(tmp_path)


# ---------------------------------------------------------------------- several processes


WORKER = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch
from mper.dataloading.patch_sampler import PatchSampler
from mper.methods import base
from mper.nets.registry import BACKBONES
from mper.progress import Cancelled
from mper.training import curves, trainer

BACKBONES["vnet"] = replace(BACKBONES["vnet"], filters=4)
base._PATCHES = {2: 6, 3: 4}
trainer._REPORT_S = trainer._CHECKPOINT_S = 0.0
curves._draw = lambda rows, path: None
methods, sums = [], []
finish, batch = trainer._Training._finish, PatchSampler.batch

def remember_method(self):
    path = finish(self)
    methods.append(self.method)
    return path

def remember_batch(self, *arguments):
    made = batch(self, *arguments)
    sums.append(made.image.double().sum())
    return made

trainer._Training._finish, PatchSampler.batch = remember_method, remember_batch

def say(word):
    print(f"{word} {os.environ['RANK']}\\n", end="", flush=True)  # in one piece: two processes write

def train(run):
    model = trainer.train(Path(run))
    assert (model / "card.json").exists(), "a process returned before there was a model"
    for name, value in methods[-1].state_dict().items():
        mine = value.double().contiguous()
        everyones = [torch.empty_like(mine) for _ in range(2)]
        torch.distributed.all_gather(everyones, mine)
        assert torch.equal(*everyones), name
    say("equal")

def cancel(progress):
    if progress.values.get("step") == 5:
        raise Cancelled

word, path = sys.argv[1:3]
train(path)
if word == "go":
    own = torch.stack(sums)
    everyones = [torch.empty_like(own) for _ in range(2)]
    torch.distributed.all_gather(everyones, own)
    assert (everyones[0] != everyones[1]).all(), "both processes saw the same patches"
    broken = Path(sys.argv[3])
    try:
        trainer.train(broken, cancel)
    except Cancelled:
        say("cancelled")
    torch.distributed.barrier()
    assert not (broken / "model").exists()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads may abort an interpreter that shuts down at leisure
"""


def two_processes(script: Path, *words: str | Path) -> list[str]:
    """Run the script in two fresh processes; what both said, which has to be the same."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, *words],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    first, second = (
        [line.split()[0] for line in done.stdout.splitlines() if line.endswith(f" {rank}")] for rank in "01"
    )
    assert first == second
    return first


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous needs libuv, which torch for Windows lacks")
def test_two_processes_end_with_equal_weights_and_prototypes_also_after_a_cancel(solid: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    both = {"method": "mper", "calibrate_folds": True}
    whole, broken = (begin(solid, tmp_path / name, **both) for name in ("whole", "broken"))
    assert two_processes(script, "go", whole, broken) == ["equal", "cancelled"]
    assert two_processes(script, "resume", broken) == ["equal"]
    states = [event["state"] for event in read_events(broken) if event["event"] == "state"]
    assert states == ["running", "cancelled", "running", "finished"]
    assert_same(whole / "model", broken / "model")
    about = ModelBundle.load(whole / "model").card.about
    assert about["training"]["processes"] == 2 and about["calibration_from"].endswith(FOLDS_ALONE)
    assert FOLDS_ALONE in [event["message"] for event in read_events(whole) if event["event"] == "notice"]
    alone = train(begin(solid, tmp_path / "alone", method="mper"))
    assert differing(alone, whole / "model")


def _judged(bundle: ModelBundle, usual: object, cases: Any, **_: object) -> list[Sample]:
    """Four masks of each case."""
    return [Sample(name, "as it is", {"confidence": n / 4}, n / 4) for name, _, _ in cases for n in range(4)]


def test_without_a_hold_out_a_model_is_calibrated_on_two_models_of_half_of_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = blob_dataset(tmp_path / "data", 6)
    data = dataset.path
    monkeypatch.setattr(folds, "collect", _judged)
    trained_on: list[list[str]] = []
    new_method = trainer._Training._new_method

    def remember(self: Any, data: Any, seed: int) -> Any:
        trained_on.append([case.id for case in data.sampler.labelled])
        return new_method(self, data, seed)

    monkeypatch.setattr(trainer._Training, "_new_method", remember)
    config = TrainConfig(str(data), method="supervised", steps=1, device="cpu", **SOLID)
    meanwhile = at(1, lambda: exclude_case(dataset, "case5", "me"))  # which changes no training that has begun
    plain, folded = (
        ModelBundle.load(train(start_run(replace(config, calibrate_folds=wanted), tmp_path / name).path, report))
        for name, wanted, report in (("plain", False, ignore_progress), ("folds", True, meanwhile))
    )
    _, whole, first, second = trained_on
    assert not set(first) & set(second) and sorted([*first, *second]) == sorted(whole)
    assert folded.calibration is not None and folded.calibration.about["scans"] == 6
    assert folded.card.about["calibration_from"].startswith("masks of two models")
    assert plain.calibration is None and "--calibrate-folds" in plain.card.about["calibration_from"]
    assert all(torch.equal(value, plain.state[name]) for name, value in folded.state.items())


@pytest.mark.parametrize("known", [["case0"], ["case0", "case6"]])
def test_the_models_of_half_of_the_labels_are_not_measured_on_cases_that_their_start_knows(
    tmp_path: Path, known: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = blob_dataset(tmp_path / "data", 7)
    judged: list[str] = []
    monkeypatch.setattr(folds, "collect", lambda *given, **_: judged.extend(name for name, *_ in given[2]) or [])
    start = start_from(tmp_path / "start", "LA")
    card = json.loads((start / "card.json").read_text(encoding="utf-8"))
    card["about"]["training"] = {"trained_on": [scan_checksum(dataset.case(name)) for name in known]}
    (start / "card.json").write_text(json.dumps(card), encoding="utf-8")
    choices: dict[str, Any] = {"method": "supervised", "steps": 1, "calibrate_folds": True}
    heard: list[str] = []
    train(begin(dataset.path, tmp_path / "run", **choices, start_from=str(start)), notify=heard.append)
    (line,) = [line for line in heard if line.startswith("masks of this model get no expected Dice")]
    assert "no-expected-dice" in codes(heard)
    if len(known) == 1:
        assert sorted(judged) == [f"case{n}" for n in range(1, 7)] and "0 masks of two models" in line
    else:
        assert not judged and line.endswith("nor six that the model which it starts from was not trained on")


def test_too_few_masks_of_the_folds_are_told_apart_from_too_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_calibration, "can_fold", lambda sampler, known: sampler.enough)
    monkeypatch.setattr(run_calibration, "fold_samples", lambda *_, **__: [Sample("a", "as it is", {}, 1.0)] * 9)
    for enough, words in (
        (True, "9 masks of two models of half of the labels are too few"),
        (False, "nor six to train"),
    ):
        data: Any = SimpleNamespace(sampler=SimpleNamespace(labelled=[], enough=enough), labels=())
        data.plan = SimpleNamespace(dimensions=3)
        made = run_calibration.Folds((), *[crash] * 2, steps=1, seconds=1.0)  # type: ignore[arg-type]
        found, source = calibration_of_run(None, data, (), made, run_s=1.0, device="cpu", report=ignore_progress)  # type: ignore[arg-type]
        assert found is None and words in source


@pytest.mark.parametrize(("wanted", "found"), [(True, False), (False, False), (True, True)])
def test_folds_that_were_asked_for_in_vain_are_a_notice(
    solid: Path, wanted: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (Calibration(), "masks") if found else (None, "nothing: there are few labels; nor six to train on")
    monkeypatch.setattr(run_evaluation, "calibration_of_run", lambda *_, **__: made)
    heard: list[str] = []
    config, reporter = SimpleNamespace(dataset=str(solid)), SimpleNamespace(notify=heard.append)
    run: Any = (config, None, None, reporter, None, torch.device("cpu"))
    parts: Any = (None, run_calibration.Folds(*[crash] * 3, steps=1, seconds=1.0) if wanted else None)  # type: ignore[arg-type]
    evaluation = run_evaluation.RunEvaluation(*run)
    assert evaluation.calibration(*parts, folds_ignored=False, run_s=1.0, report=ignore_progress) == made
    told = ["masks of this model get no expected Dice: there are few labels; nor six to train on"]
    assert heard == (told if wanted and not found else [])


def test_the_models_of_half_of_the_labels_have_their_time_by_the_clock_of_the_run() -> None:
    steps: list[float] = []
    stub: Any = SimpleNamespace(begin=int, step=lambda n, t, sampler: steps.append(t), finish=lambda n, sampler: None)
    folds._learn(stub, None, None, 3.5, ignore_progress, iter(range(99)).__next__, "one")  # type: ignore[arg-type]
    assert len(steps) == 3, "the clock is looked at before each step"
