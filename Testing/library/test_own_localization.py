"""A model that is trained on wide fields of view learns by itself where its structure lies."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_data import LPS
from small_models import random_bundle, threshold_bundle, threshold_localization, train_with_filters

from mper.dataloading.wide_field import TRAINING_MARGIN_MM, is_wide
from mper.datasets.dataset import Dataset
from mper.datasets.maintenance import set_region
from mper.inference.localization import Localizer
from mper.inference.predictor import Predictor
from mper.labels import make_label
from mper.methods import base
from mper.models.bundle import ModelBundle
from mper.models.card import read_bundle
from mper.models.localization import Localization
from mper.nets.localization_net import LocalizationNet
from mper.progress import Cancelled, Progress, ignore_progress
from mper.training import curves, localization, run_clock, trainer
from mper.training.data import load_training_data
from mper.training.localization import LOCALIZATION_RECORD, CoarseScan, coarse_scan, train_localization
from mper.training.runs import read_events
from mper.training.trainer import TrainConfig, start_run, train
from mper.volume import Geometry, Volume

CPU = torch.device("cpu")
SPACING = (8.0, 4.0, 4.0)
pytestmark = pytest.mark.usefixtures("one_thread")


def wide_scan(seed: int) -> tuple[Volume, np.ndarray]:
    """A bright ball of 48 mm in 200 mm of noise, in which a small bright spot lies, too; and its mask."""
    rng = np.random.default_rng(seed)
    shape = (16, 50, 50)
    centre = np.array(shape) * rng.uniform(0.35, 0.65, 3)
    index = np.moveaxis(np.indices(shape), 0, -1)
    mask = (((index - centre) * SPACING) ** 2).sum(-1) < 24**2
    image = rng.normal(0, 1, shape) + 6 * mask
    image[2:4, 3:6, 3:6] += 6
    return Volume(image.astype(np.float32), Geometry.from_axes((0, 0, 0), SPACING, LPS, shape)), mask.astype(np.uint8)


@pytest.fixture(scope="module")
def learned() -> Localization:
    return threshold_localization()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three wide scans, two of them labelled."""
    made = Dataset.create(tmp_path_factory.mktemp("wide") / "data", "wide", [make_label(1, "LA")])
    for n in range(3):
        image, mask = wide_scan(n)
        case = made.add_case(f"case{n}", image, {"format": "synthetic"})
        if n < 2:
            case.add_label(image.with_array(mask), author="test", how="imported")
    made.add_to_split("train", [f"case{n}" for n in range(3)])
    return made.path


@pytest.fixture
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    train_with_filters(monkeypatch, 4)
    monkeypatch.setattr(base, "_PATCHES", {2: 6, 3: 4})
    monkeypatch.setattr(curves, "_draw", lambda rows, path: None)


def config(dataset: Path, **others: Any) -> TrainConfig:
    return TrainConfig(
        **{"dataset": str(dataset), "method": "supervised", "device": "cpu", "steps": 2, "patch": (16, 16, 16)} | others
    )


def test_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localization, "_REPORT_S", 0.0)
    scans = [
        coarse_scan(image.crop((3, 5, 5), (13, 45, 45)), mask[3:13, 5:45, 5:45], True)
        for image, mask in map(wide_scan, range(3))
    ]
    told: list[Progress] = []
    train_localization([scan for scan in scans if scan is not None], 0, told.append, steps=40, filters=6)
    losses = [progress.values["loss"] for progress in told]
    assert len(losses) == 40 and told[-1].fraction == 1
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


def test_the_region_is_around_the_largest_of_what_is_found(learned: Localization) -> None:
    scan, mask = wide_scan(7)
    localizer = Localizer(learned, CPU, torch.float32)
    first, second = localizer.candidates(localizer.search(scan))
    assert mask[first.window].sum() == mask.sum()
    assert second.start[0] == 0 and second.stop[1] < 20  # the small bright spot
    extent = np.subtract(first.stop, first.start) * SPACING
    assert (extent <= 48 + 2 * 25 + 24).all()
    dark = scan.with_array(np.random.default_rng(0).normal(size=scan.array.shape).astype(np.float32) * 0.01)
    blind = Localizer(threshold_localization(9.0), CPU, torch.float32)
    assert blind.candidates(blind.search(dark)) == []


def test_the_region_lies_at_the_same_place_in_all_axis_orders(learned: Localization) -> None:
    scan, _ = wide_scan(7)
    localizer = Localizer(learned, CPU, torch.float32)
    expected = localizer.candidates(localizer.search(scan))[0].box_mm(scan.geometry)
    for axes, flips in (((2, 0, 1), ()), ((1, 2, 0), (0, 2)), ((0, 2, 1), (1,))):
        array = np.flip(scan.array.transpose(axes), flips)
        other = Volume(np.ascontiguousarray(array), scan.geometry.reordered(axes, flips))
        found = localizer.candidates(localizer.search(other))[0].box_mm(other.geometry)
        np.testing.assert_allclose(found, expected, atol=8.0)  # a voxel


def test_the_same_seed_learns_the_same(learned: Localization) -> None:
    scans = [CoarseScan(np.random.default_rng(0).random((16, 40, 40), np.float32), np.ones((16, 40, 40), bool), True)]
    one, two, other = (train_localization(scans, seed, ignore_progress, steps=2, filters=4).state for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_crops_alone_teach_it_in_composed_fields() -> None:
    image, mask = wide_scan(0)
    crop = coarse_scan(image.crop((2, 10, 10), (14, 40, 40)), mask[2:14, 10:40, 10:40], False)
    assert crop is not None
    found = train_localization([crop], 0, ignore_progress, steps=1, filters=4)
    assert all(value.isfinite().all() for value in found.state.values())


def test_scans_that_say_nothing_of_the_whole_field_are_left_out() -> None:
    image, mask = wide_scan(0)
    assert coarse_scan(image, np.where(mask == 1, 1, 255).astype(np.uint8), True) is None
    assert coarse_scan(image, np.zeros_like(mask), True) is None
    assert coarse_scan(Volume(image.array, Geometry.unknown(image.array.shape)), mask, True) is None
    with pytest.raises(ValueError, match="the localisation cannot be learned"):
        train_localization([], 0, ignore_progress)


def test_a_bundle_keeps_its_localisation_and_becomes_format_2(tmp_path: Path, learned: Localization) -> None:
    plain = random_bundle().save(tmp_path / "plain")
    own = replace(random_bundle(), localization=learned).save(tmp_path / "own")
    assert [json.loads((path / "card.json").read_text())["format"] for path in (plain, own)] == [1, 2]
    assert ModelBundle.load(plain).localization is None
    loaded = ModelBundle.load(own)
    assert loaded.localization is not None
    for name, value in learned.state.items():
        torch.testing.assert_close(loaded.localization.state[name], value, rtol=1e-3, atol=1e-4)  # stored as float16
    again = loaded.save(tmp_path / "again")
    assert read_bundle(again).card.localization == read_bundle(own).card.localization
    assert replace(loaded, localization=None).save(tmp_path / "without") and not list(
        (tmp_path / "without").glob("localization*")
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "localization.safetensors").unlink(), "missing or unreadable"),
        (lambda folder: (folder / "localization.safetensors").write_bytes(b"x"), "is not the file that the model's"),
        (lambda folder: _change_card(folder, filters=5), "do not fit its network"),
        (lambda folder: _change_card(folder, spacing_mm=[0, 5, 5]), "no valid spacing"),
        (lambda folder: _change_card(folder, margin_mm=None), "does not describe its localisation"),
        (lambda folder: _change_card(folder, file="../x"), "names of its files"),
    ],
)
def test_a_damaged_localisation_is_one_clear_line(
    tmp_path: Path, learned: Localization, damage: Any, words: str
) -> None:
    path = replace(random_bundle(), localization=learned).save(tmp_path / "model")
    damage(path)
    with pytest.raises(ValueError, match=words):
        ModelBundle.load(path)


def _change_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["localization"] |= changes
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def test_a_model_uses_its_own_localisation(learned: Localization) -> None:
    scan, mask = wide_scan(7)
    bundle = replace(threshold_bundle(2.5), localization=learned)
    prediction = Predictor(bundle, "cpu").predict(scan)
    region = Localizer(learned, CPU, torch.float32).locate(scan)
    assert region is not None and prediction.roi_mm == region.box_mm(scan.geometry)
    assert any("located automatically" in note for note in prediction.notes)
    assert mask[region.window].sum() == mask.sum()


@pytest.mark.usefixtures("tiny_networks")
def test_a_run_on_wide_scans_learns_it_within_its_budget_and_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    start_run(config(dataset, steps=3), run)
    monkeypatch.setattr(trainer, "_REPORT_S", 0.0)
    monkeypatch.setattr(trainer, "train_localization", partial(train_localization, filters=4))

    def stop(progress: Progress) -> None:
        if progress.values.get("step") == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train(run, stop)
    kept = (run / "localization.safetensors").read_bytes()
    model = ModelBundle.load(train(run))
    assert (run / "localization.safetensors").read_bytes() == kept  # a resumed run does not learn it again
    assert model.localization is not None and "locator" not in model.card.about
    expected = Localization.of(
        trainer.stored_localization(run, lambda: pytest.fail("it is stored"))[0].state, model.localization.described()
    )
    for name, value in expected.state.items():
        torch.testing.assert_close(model.localization.state[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("tiny_networks")
def test_its_share_of_a_budget_is_measured_by_the_clock_of_the_run_and_pauses_do_not_count(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    folder, states = start_run(config(dataset, steps=None, budget_s=10.0, processor_time=True), run), []

    def wait(seconds: float) -> None:
        states.append(folder.status()["state"])
        [processor() for _ in range(50)]  # what a pause takes of it
        folder.steer("run")

    wall, processor = (count(0, step).__next__ for step in (1000.0, 1.0))
    time = SimpleNamespace(monotonic=wall, process_time=processor, sleep=wait)
    for module in (trainer, run_clock):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(localization, "_REPORT_S", 0.0)
    monkeypatch.setattr(trainer, "train_localization", partial(train_localization, filters=4))
    steps: list[str] = []

    def report(progress: Progress) -> None:
        if progress.message == "learning where the structure lies":
            steps.append(progress.message)
            if len(steps) == 1:
                folder.steer("pause")

    train(run, report)
    assert len(steps) == 2, "a fifth of the budget, with a second a step"
    assert states == ["paused"]
    seconds = json.loads((run / LOCALIZATION_RECORD).read_text(encoding="utf-8"))["seconds"]
    assert 2 < seconds < 10
    elapsed = [event["elapsed_s"] for event in read_events(run) if event["event"] == "step"]
    assert elapsed[-1] == 10 - 2 - 1


@pytest.mark.parametrize(("choice", "narrow", "learns"), [("auto", False, 1), ("auto", True, 0), ("always", True, 1)])
def test_it_is_learned_where_a_labelled_scan_is_wide_or_on_request(
    dataset: Path, choice: str, narrow: bool, learns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if narrow:
        monkeypatch.setattr("mper.training.data.is_wide", lambda geometry: False)
    asked: list[int] = []

    def localize(scans: Any, start: Localization | None) -> Localization:
        asked.append(len(scans))
        return Localization(LocalizationNet().state_dict())

    data = load_training_data(config(dataset, localization=choice), CPU, localize=localize)
    assert asked == [2] * learns
    assert (data.localization is not None) == bool(learns)
    assert load_training_data(config(dataset, localization="never"), CPU, localize=localize).localization is None


def test_it_learns_from_the_whole_scan_of_a_case_with_a_region(dataset: Path, tmp_path: Path) -> None:
    made = Dataset.open(shutil.copytree(dataset, tmp_path / "data"))
    fields: list[list[CoarseScan]] = []

    def localize(scans: Any, start: Localization | None) -> Localization:
        fields.append(list(scans))
        return Localization(LocalizationNet().state_dict())

    load_training_data(config(made.path), CPU, localize=localize)
    for n in range(2):
        _image, mask = wide_scan(n)
        low, high = (np.argwhere(mask).min(0) - 3) * SPACING, (np.argwhere(mask).max(0) + 3) * SPACING
        set_region(made, f"case{n}", [end for axis in (2, 1, 0) for end in (low[axis], high[axis])], "me")
    data = load_training_data(config(made.path), CPU, localize=localize)
    assert data.localization is not None and set(data.regions) == {"case0", "case1"}
    for before, after in zip(*fields, strict=True):
        assert after.wide and np.array_equal(before.mask, after.mask) and np.array_equal(before.image, after.image)


def test_of_a_wide_scan_the_region_around_its_label_is_trained_on(dataset: Path) -> None:
    data = load_training_data(config(dataset, method="mper"), CPU)
    for case in data.sampler.labelled:
        image, mask = wide_scan(int(case.id[-1]))
        assert case.label is not None and case.grid is not None
        occupied = np.argwhere(mask)
        low, high = occupied.min(0) - case.start, np.array(case.start) + case.grid.source_shape - 1 - occupied.max(0)
        at_edge = (np.array(case.start) == 0) | (occupied.min(0) * SPACING <= TRAINING_MARGIN_MM)
        assert ((low * SPACING >= TRAINING_MARGIN_MM) | at_edge).all() and (low >= 0).all() and (high >= 0).all()
        voxels = float((case.label == 1).sum()) * float(np.prod(case.grid.step_lengths))
        assert math.isclose(voxels, mask.sum() * np.prod(SPACING), rel_tol=0.1)
        assert is_wide(image.geometry) and case.grid.source_shape != image.array.shape


def test_a_wide_region_of_a_small_structure_is_large_enough_to_train_on(dataset: Path, tmp_path: Path) -> None:
    made = Dataset.open(shutil.copytree(dataset, tmp_path / "data"))
    set_region(made, "case0", (0, 190, 0, 190, 0, 120), "me")
    case = load_training_data(config(made.path, method="mper", patch=(16, 64, 64)), CPU).sampler.labelled[0]
    assert case.id == "case0" and case.grid is not None and max(case.grid.size) < 32  # half a patch


def test_unlabelled_wide_scans_are_cropped_to_what_is_located(dataset: Path, learned: Localization) -> None:
    data = load_training_data(config(dataset, method="mper"), CPU, localize=lambda scans, start: learned)
    (unlabelled,) = data.sampler.unlabelled
    region = Localizer(learned, CPU, torch.float32).locate(wide_scan(2)[0])
    assert region is not None and unlabelled.grid is not None
    assert unlabelled.start == region.start
    assert unlabelled.grid.source_shape == tuple(np.subtract(region.stop, region.start))


def test_fine_tuning_goes_on_from_the_localisation_of_the_model(
    dataset: Path, tmp_path: Path, learned: Localization
) -> None:
    bundle = random_bundle()
    card = replace(bundle.card, labels=(make_label(1, "LA"),))
    path = replace(bundle, card=card, localization=learned).save(tmp_path / "model")
    starts: list[Localization | None] = []

    def localize(scans: Any, start: Localization | None) -> Localization:
        starts.append(start)
        return learned

    load_training_data(config(dataset, start_from=str(path)), CPU, localize=localize)
    assert starts[0] is not None and set(starts[0].state) == set(learned.state)
    kept = load_training_data(config(dataset, start_from=str(path), localization="never"), CPU, localize=localize)
    assert len(starts) == 1 and kept.localization is not None
