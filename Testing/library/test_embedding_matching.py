"""Embedding matching: uncertain labels come from the nearest labelled voxels, and a model can name them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import LPS, blob_cases, blob_dataset
from small_models import random_bundle, train_with_filters

from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.datasets.dataset import Dataset
from mper.evaluation.evaluate import evaluate
from mper.inference.explanation import probe
from mper.inference.predictor import Predictor
from mper.labels import UNLABELLED, make_label
from mper.methods import base, embedding_matching
from mper.methods.embedding_matching import PASSES, EmbeddingMatching
from mper.methods.recipe import Recipe
from mper.methods.registry import make_method
from mper.models.bundle import ModelBundle
from mper.models.references import References
from mper.nets.network import NetConfig, Network
from mper.progress import Cancelled, Progress
from mper.training import curves, trainer
from mper.training.runs import read_events
from mper.training.trainer import TrainConfig, start_run, train
from mper.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("one_thread")

PAPER, PLUS = Recipe.named("paper"), Recipe.named("plus", method="embedding-matching")
KINDS = {3: "vnet", 2: "unet"}
SOLID: dict[str, Any] = {"patch": (16, 16, 16), "batch": 2, "method": "embedding-matching"}


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks and banks, and every step told and saved."""
    monkeypatch.setattr(base, "_PATCHES", {2: 6, 3: 4})
    monkeypatch.setattr(embedding_matching, "_FILLED_FROM", {2: 6, 3: 4})
    monkeypatch.setattr(embedding_matching, "BANK_VOXELS", 64)
    monkeypatch.setattr(embedding_matching, "_RENEWED", 8)
    train_with_filters(monkeypatch, 4)
    monkeypatch.setattr(trainer, "_REPORT_S", 0.0)
    monkeypatch.setattr(trainer, "_CHECKPOINT_S", 0.0)
    monkeypatch.setattr(curves, "_draw", lambda rows, path: None)


def tiny(dimensions: int = 3, recipe: Recipe = PLUS, structures: int = 1, **options: Any) -> EmbeddingMatching:
    torch.manual_seed(0)
    network = Network(NetConfig(KINDS[dimensions], structures + 1, filters=4, smooth=dimensions == 3))
    method = make_method("embedding-matching", network, recipe, 2, **options)
    assert isinstance(method, EmbeddingMatching)
    return method.to(memory_format=network.memory_format())  # type: ignore[call-overload,no-any-return]


def patches(dimensions: int = 3, structures: int = 1, labelled: int = 2) -> PatchSampler:
    shape = (20, 24, 24) if dimensions == 3 else (5, 40, 40)
    cases = blob_cases(labelled, shape, structures=structures)
    return PatchSampler(
        cases,
        blob_cases(2, shape, labelled=False, structures=structures, seed=10),
        (16, 16, 16) if dimensions == 3 else (1, 32, 32),
    )


def filled_shares(method: EmbeddingMatching) -> list[float]:
    """Share of the bank's places that are taken, of each class."""
    return (method.bank.case >= 0).float().mean(1).tolist()


def filled(dimensions: int = 3, recipe: Recipe = PLUS, **options: Any) -> EmbeddingMatching:
    method = tiny(dimensions, recipe, **options)
    method.prepare(0.9, patches(dimensions), np.random.default_rng(0))
    assert method.stage == 1
    return method


# ---------------------------------------------------------------------- schedules


def test_labels_of_fewer_and_fewer_voxels_are_looked_up_and_count_more_and_more() -> None:
    method = tiny()
    assert [method.patch_counts(t) for t in (0.0, 0.299, 0.3)] == [(2, 0), (2, 0), (2, 1)]
    assert [method.uncertain_share(t) for t in (0.3, 0.65, 1.0)] == pytest.approx([0.2, 0.125, 0.05])
    assert method.weight(0.3) == pytest.approx(math.exp(-5))
    assert method.weight(0.3 + 0.25 * 0.7 + 1e-9) == method.weight(0.99) == 1


# ---------------------------------------------------------------------- uncertainty


@pytest.mark.parametrize("kind, spatial", [("vnet", (16, 16, 16)), ("unet", (32, 32)), ("unet3d", (16, 16, 16))])
def test_passes_after_one_encoder_equal_passes_through_the_whole_network(kind: str, spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = Network(NetConfig(kind, 2, filters=4))
    image = torch.randn(2, 1, *spatial)
    with torch.no_grad():
        torch.manual_seed(1)
        many = list(network.passes(image, 3))
        torch.manual_seed(1)
        whole = [network(image) for _ in range(3)]
    for one, other in zip(many, whole, strict=True):
        torch.testing.assert_close(one.logits, other.logits)
        torch.testing.assert_close(one.features, other.features)
    assert not torch.allclose(many[0].logits, many[1].logits)


def test_the_encoder_runs_once_and_the_rest_for_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    method, runs = filled(), {"encoder": 0, "classifier": 0}
    backbone = method.teacher.backbone

    def count(name: str) -> Any:
        def counted(*_: Any) -> None:
            runs[name] += 1

        return counted

    backbone.encoder[-1].register_forward_hook(count("encoder"))
    backbone.classifier.register_forward_hook(count("classifier"))
    method.match_labels(torch.randn(1, 1, 16, 16, 16), 0.9)
    assert runs == {"encoder": 1, "classifier": PASSES}


@pytest.mark.parametrize("recipe", [PLUS, PAPER], ids=["plus", "paper"])
def test_teacher_labels_under_dropout_and_its_norms_are_those_of_the_recipe(recipe: Recipe) -> None:
    method = filled(recipe=recipe)
    image = torch.randn(2, 1, 16, 16, 16)
    first, second = method._predict_with_dropout(image)[0], method._predict_with_dropout(image)[0]
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sum(1), torch.ones_like(first[:, 0]))
    norms = [m.training for m in method.teacher.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert set(norms) == {not recipe.clean_teacher}


# ---------------------------------------------------------------------- labels


def answering(method: EmbeddingMatching, probability: torch.Tensor, embedding: torch.Tensor) -> EmbeddingMatching:
    """The method with a teacher of known answers: (B, classes, *S) and (B, filters, *S)."""
    method._predict_with_dropout = lambda image: (probability, embedding)  # type: ignore[method-assign]
    return method


def test_uncertain_voxels_get_the_label_of_the_nearest_and_certain_ones_keep_the_teachers() -> None:
    method = tiny(keep_largest=False)
    method.bank.vectors[0, 0], method.bank.vectors[1, 0] = F.one_hot(torch.arange(2), 4).float()
    probability = torch.tensor([0.95, 0.05]).reshape(1, 2, 1, 1, 1).repeat(1, 1, 10, 10, 10)
    embedding = torch.zeros(1, 4, 10, 10, 10)
    embedding[:, 0] = 1.0  # all like class 0 ...
    unsure = torch.zeros(10, 10, 10, dtype=torch.bool)
    unsure[:2, :5] = True  # 100 of 1000 voxels, which the teacher takes for class 1 by a hair
    probability[0, :, unsure] = torch.tensor([[0.49], [0.51]])
    embedding[0, :, 0, 0] = F.one_hot(torch.tensor(1), 4).float()[:, None]  # ... ten like class 1 ...
    embedding[0, :, 1, 0] = F.one_hot(torch.tensor(3), 4).float()[:, None]  # ... and ten like nothing
    labels, shares = answering(method, probability, embedding).match_labels(torch.zeros(1, 1, 10, 10, 10), 0.3)
    expected = torch.zeros(1, 10, 10, 10, dtype=torch.int64)
    expected[0, 0, 0] = 1
    expected[0, 1, 0] = UNLABELLED
    assert torch.equal(labels, expected)
    # All but the certain ones among the 20 %: entropy below a tenth of the highest; 0.95 is above that.
    assert shares["abstained"].item() == pytest.approx(0.01)
    assert shares["changed"].item() == pytest.approx(0.08)
    assert shares["uncertain"].item() == pytest.approx(0.2)


def test_voxels_of_which_the_teacher_is_sure_are_never_looked_up() -> None:
    method = tiny(keep_largest=False)
    method.bank.vectors[0, 0, 0] = 1.0
    probability = torch.tensor([0.001, 0.999]).reshape(1, 2, 1, 1, 1).repeat(1, 1, 4, 4, 4)
    embedding = torch.zeros(1, 4, 4, 4, 4)
    embedding[:, 0] = 1.0
    labels, shares = answering(method, probability, embedding).match_labels(torch.zeros(1, 1, 4, 4, 4), 0.3)
    assert (labels == 1).all() and shares["uncertain"] == 0


def test_only_the_largest_piece_is_kept_where_structures_come_in_one() -> None:
    probability = torch.tensor([0.999, 0.001]).reshape(1, 2, 1, 1, 1).repeat(1, 1, 16, 16, 16)
    for part in (slice(2, 8), slice(12, 14)):
        probability[:, :, part, part, part] = torch.tensor([0.001, 0.999]).reshape(1, 2, 1, 1, 1)
    image, embedding = torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 4, 16, 16, 16)
    counts = [
        int((answering(tiny(keep_largest=kept), probability, embedding).match_labels(image, 0.9)[0] == 1).sum())
        for kept in (False, True)
    ]
    assert counts == [6**3 + 2**3, 6**3]


# ---------------------------------------------------------------------- the bank of a run


@pytest.mark.parametrize("dimensions", [2, 3])
def test_bank_is_full_when_selftraining_starts_and_is_renewed_now_and_then(dimensions: int) -> None:
    method, sampler = tiny(dimensions), patches(dimensions)
    method.prepare(0.1, sampler, np.random.default_rng(0))
    assert filled_shares(method) == [0, 0]
    method.prepare(0.5, sampler, np.random.default_rng(0))
    assert filled_shares(method) == [1, 1]
    before, renewed = method.bank.written.clone(), 0
    for seed in range(20):
        method.prepare(0.6, sampler, np.random.default_rng(seed))
        renewed += int((method.bank.written != before).any())
        before = method.bank.written.clone()
    assert 1 <= renewed <= 12


def test_bank_of_a_finished_run_is_the_results_own_and_says_where_its_voxels_lie() -> None:
    method, sampler = filled(), patches()
    method.finish(sampler, np.random.default_rng(3))
    kept = method.references
    assert kept is not None and kept.cases == ("labelled0", "labelled1") and set(kept.classes.tolist()) == {0, 1}
    for n in range(len(kept)):
        label = sampler.labelled[int(kept.case[n])].label
        assert label is not None and label[tuple(kept.index[n])] == kept.classes[n]
    torch.testing.assert_close(kept.vectors.norm(dim=1), torch.ones(len(kept)))


def test_voxels_are_told_in_the_scans_own_grid() -> None:
    """A working grid that is turned, flipped and twice as fine."""
    geometry = Geometry.from_axes((0, 0, 0), (2.0, 2.0, 4.0), LPS[:, [1, 0, 2]] * (1, -1, 1), (10, 12, 14))
    grid = WorkingGrid.plan(geometry, Preprocessing((2.0, 2.0, 2.0)), 3)
    assert grid.size == (12, 10, 28) and grid.flips
    numbered = np.arange(10 * 12 * 14, dtype=np.float32).reshape(10, 12, 14)
    there = np.argwhere(np.ones(grid.size))
    source = grid.to_source(there.astype(float))
    nearest = numbered[tuple(source.T)].reshape(grid.size)
    coarse = grid.forward(numbered).numpy()
    assert np.abs(nearest - coarse).max() <= 0.26  # half a voxel of the axis that got finer


def test_a_class_without_a_voxel_is_told_in_one_line() -> None:
    cases = [TrainingCase("a", torch.randn(16, 16, 16), torch.zeros(16, 16, 16, dtype=torch.uint8))]
    with pytest.raises(ValueError, match="none of the 1 labelled scans has one of class 1; label some, or choose"):
        tiny().prepare(0.5, PatchSampler(cases, [], (16, 16, 16)), np.random.default_rng(0))


def test_a_rare_class_of_one_scan_is_found() -> None:
    cases = [
        TrainingCase(str(n), torch.randn(48, 48, 48), torch.zeros(48, 48, 48, dtype=torch.uint8)) for n in range(6)
    ]
    assert cases[4].label is not None
    cases[4].label[40, 3, 44] = 1
    method = tiny()
    method.prepare(0.5, PatchSampler(cases, [], (16, 16, 16)), np.random.default_rng(0))
    taken = method.bank.case[1] >= 0
    assert taken.any() and (method.bank.case[1][taken] == 4).all()
    assert (method.bank.position[1][taken].round() == torch.tensor([40.0, 3, 44])).all()


def test_a_network_without_passes_is_refused_in_one_line() -> None:
    network = Network(NetConfig("vnet", 2, filters=4))
    network.backbone = torch.nn.Identity()
    with pytest.raises(ValueError, match="under dropout, which backbone vnet does not support; choose another one"):
        make_method("embedding-matching", network, PLUS, 2)


# ---------------------------------------------------------------------- steps and runs


@pytest.mark.parametrize("dimensions", [2, 3])
def test_state_round_trip_gives_the_same_next_loss(dimensions: int) -> None:
    def next_loss(method: EmbeddingMatching) -> torch.Tensor:
        torch.manual_seed(5)
        rng = np.random.default_rng(5)
        method.prepare(0.6, patches(dimensions), rng)
        return method(patches(dimensions).batch(*method.patch_counts(0.6), rng), 0.6).total

    one, two = filled(dimensions), tiny(dimensions)
    two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    two.stage = one.stage
    first, second = next_loss(one), next_loss(two)
    assert first.isfinite() and torch.equal(first, second)


def begin(data: Path, run: Path, **config: Any) -> Path:
    start_run(TrainConfig(**{"dataset": str(data), "device": "cpu", "steps": 8, **SOLID, **config}), run)
    return run


def test_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    data = blob_dataset(tmp_path / "data", 3, labelled=2).path
    whole = ModelBundle.load(train(begin(data, tmp_path / "whole")))
    broken = begin(data, tmp_path / "broken")

    def stop(progress: Progress) -> None:
        if progress.values.get("step") == 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train(broken, stop)
    resumed = ModelBundle.load(train(broken))
    assert all(torch.equal(value, resumed.state[name]) for name, value in whole.state.items())
    assert whole.references is not None and resumed.references is not None
    assert torch.equal(whole.references.vectors, resumed.references.vectors)
    told = [event for event in read_events(broken) if event["event"] == "step"]
    assert {"labelled", "pseudo", "entropy", "uncertain", "abstained", "changed"} <= told[-1].keys()
    assert all(math.isfinite(event["loss"]) for event in told)


def test_a_structure_that_nobody_drew_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    data = blob_dataset(tmp_path / "data", 2, structures=2, edit_label=lambda mask: np.where(mask == 2, 0, mask)).path
    with pytest.raises(ValueError, match=r"^RA: in none of the 2 labelled cases.* needs it; label it, or choose"):
        train(begin(data, tmp_path / "run"))
    train(begin(data, tmp_path / "other", method="supervised", steps=1))  # others tell, and go on
    notices = [event["message"] for event in read_events(tmp_path / "other") if event["event"] == "notice"]
    assert any(line.startswith("RA: in none of the 2 labelled cases") for line in notices)


# ---------------------------------------------------------------------- bone in CT


def bone_in_ct(path: Path) -> Dataset:
    """A ring of bone (700 HU) with marrow in tissue (40 HU) in air (-1000 HU), one scan labelled of two, and metal."""
    dataset = Dataset.create(path, "bones", [make_label(1, "Femur")])
    for n in range(2):
        rng = np.random.default_rng(n)
        _, j, i = np.indices((16, 32, 32))
        away = np.hypot(j - 15 - n, i - 16)
        bone = (away > 4) & (away < 8)
        image = np.where(away < 14, 40.0, -1000.0) + 660.0 * bone + rng.normal(0, 40, bone.shape)
        image[8, 15 + n, 16] = 3000.0
        grid = Geometry.from_axes((0, 0, 0), (1.0, 1.0, 1.0), LPS, bone.shape)
        case = dataset.add_case(f"hip{n}", Volume(image.astype(np.int16), grid), {"format": "synthetic"})
        if n == 0:
            case.add_label(Volume(bone.astype(np.uint8), grid), author="test", how="imported")
    dataset.add_to_split("train", ["hip0", "hip1"])
    return dataset


def test_bone_in_ct_is_learnt_through_a_window_and_a_voxel_names_its_nearest_labelled_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_with_filters(monkeypatch, 8)
    dataset = bone_in_ct(tmp_path / "bones")
    run = begin(dataset.path, tmp_path / "run", steps=70, window=(-200, 1000), patch=(16, 32, 32))
    bundle = ModelBundle.load(train(run))
    assert bundle.preprocessing.window == (-200, 1000)
    predictor = Predictor(bundle, "cpu")

    found = evaluate(predictor, dataset.split("train"), dataset.labels)["mean"]
    assert found["jaccard"] > 0.6 and found["hd95_mm"] is not None and found["hd95_mm"] < 3

    scan = dataset.case("hip1").image()
    prediction = predictor.predict(scan, want=("label_probability", "prototypes", "embeddings"))
    vectors = bundle.state["prototypes.vectors"]
    bone = probe(prediction, vectors, (8, 16, 22), bundle.references)
    tissue = probe(prediction, vectors, (8, 16, 16 + 11), bundle.references)
    assert bone is not None and tissue is not None
    label = dataset.case("hip0").label()
    assert label is not None
    for told, name in ((bone, "Femur"), (tissue, "background")):
        assert told.name == name and len(told.labelled) == 3
        nearest = told.labelled[0]
        assert nearest.case == "hip0" and nearest.similarity > 0.9
        assert label.array[nearest.index] == nearest.value
        assert [v.similarity for v in told.labelled] == sorted((v.similarity for v in told.labelled), reverse=True)
    assert bone.labelled[0].name == "Femur"
    assert probe(prediction, vectors, (8, 16, 22)).labelled == ()  # type: ignore[union-attr]


# ---------------------------------------------------------------------- bundles


def with_references(filters: int = 4) -> ModelBundle:
    bundle = random_bundle(about={"references": {"cases": ["a", "b"]}})
    vectors = F.normalize(torch.randn(5, filters), dim=1)
    number = torch.tensor([0, 1, 0, 1, 1])
    kept = References(vectors, number, number, torch.arange(15).reshape(5, 3), ("a", "b"))
    return ModelBundle(bundle.card, bundle.state, references=kept)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_labelled_voxels_travel_with_the_bundle(storage: str, tmp_path: Path) -> None:
    bundle = with_references()
    again = ModelBundle.load(bundle.save(tmp_path / "model", storage)).references
    assert again is not None and bundle.references is not None and again.cases == ("a", "b")
    for name, value in bundle.references.tensors().items():
        assert torch.equal(again.tensors()[name], value)


def test_a_bundle_without_labelled_voxels_stays_without() -> None:
    assert random_bundle().references is None


def test_labelled_voxels_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="labelled voxels of model 'small' have 7 channels, its network 4"):
        with_references(7)


def test_names_of_cases_that_are_missing_from_the_card_are_told(tmp_path: Path) -> None:
    bundle = with_references()
    lost = ModelBundle(random_bundle().card, bundle.state, references=bundle.references)
    with pytest.raises(ValueError, match="the model cannot be read"):
        ModelBundle.load(lost.save(tmp_path / "model"))
