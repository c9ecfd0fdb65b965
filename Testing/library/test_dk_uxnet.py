"""DK-UXNet: its network against slow ways, its losses, and two networks that teach each other."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import blob_dataset
from small_models import _card, train_with_filters
from test_methods import NothingWaits

from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.inference.explanation import probe
from mper.inference.predictor import Predictor
from mper.methods.dk_uxnet import DKUXNet, query_loss, symmetric_divergence
from mper.methods.recipe import Recipe
from mper.methods.registry import make_method
from mper.models.bundle import ModelBundle
from mper.nets.dk_ux_net import DKUXNet as PublishedNet
from mper.nets.kmax import _MOMENTUM, assignment, means
from mper.nets.network import NetConfig, Network
from mper.nets.registry import BACKBONES
from mper.nets.ux_net import Depthwise
from mper.progress import Progress
from mper.training import curves, trainer
from mper.training.data import load_training_data
from mper.training.setup import make_network, make_optimiser
from mper.training.trainer import TrainConfig, start_run, train
from mper.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("one_thread")

PAPER, PLUS = (Recipe.named(name, method="dk-uxnet") for name in ("paper", "plus"))


def small(classes: int = 2, per_class: int = 2, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    config = NetConfig("ux-net-small", classes, per_class, filters=8, dropout=(0.0, 0.0))
    return Network(config).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


def lively(classes: int = 2, per_class: int = 2) -> Network:
    """In eval mode, with statistics, blocks and weights that are not those of a beginning."""
    network = small(classes, per_class)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith(("running_mean", "centres")):
            value.data.normal_(0, 0.3)
        elif name.endswith("running_var"):
            value.data.uniform_(0.5, 2)
        elif name.endswith((".scale", "update.1.weight")) and value.dim():
            value.data.normal_(0, 0.3)
    network.eval()
    network.prototypes.vectors.copy_(network.backbone.classifier.kernels())
    return network


# ---------------------------------------------------------------------- the network


def test_published_size_has_about_the_published_parameters() -> None:
    count = {}
    with torch.device("meta"):
        for per_class in (16, 64):
            network = PublishedNet(1, 2, BACKBONES["ux-net"].filters, per_class=per_class)
            count[2 * per_class] = sum(p.numel() for p in network.parameters()) / 1e6
        little = sum(p.numel() for p in BACKBONES["ux-net-small"].build(2, 16, (0.0, 0.0), prototypes=8).parameters())
    assert count[32] == pytest.approx(63.9, rel=0.07) and count[128] == pytest.approx(65.5, rel=0.07)
    assert count[128] - count[32] == pytest.approx(65.5 - 63.9, rel=0.02)
    assert little < 10e6 and BACKBONES["ux-net"].queries == 64


@pytest.mark.parametrize("kernel", [5, 7])
def test_depthwise_gradients_equal_those_of_the_convolution(kernel: int) -> None:
    torch.manual_seed(0)
    ours = Depthwise(3, kernel)
    x = torch.randn(2, 3, 4, 9, 11, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in (ours.weight, ours.bias))  # type: ignore[union-attr]
    y, expected = ours(x), F.conv3d(other, weight, bias, padding=kernel // 2, groups=3)
    torch.testing.assert_close(y, expected)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    expected.backward(gradient)
    for mine, theirs in ((x, other), (ours.weight, weight), (ours.bias, bias)):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected)


def test_voxels_go_to_the_nearest_query_and_centres_are_their_means() -> None:
    torch.manual_seed(0)
    similarity, values = torch.rand(40, 5) * 2 - 1, torch.randn(40, 6)
    similarity[:, 3] = -2  # nobody's nearest
    otherwise = torch.randn(5, 6)
    members = assignment(similarity.requires_grad_())
    found = means(values, members, otherwise)
    for n in range(5):
        mine = [values[i] for i in range(40) if max(range(5), key=lambda q: similarity[i, q].item()) == n]
        expected = torch.stack(mine).mean(0) if mine else otherwise[n]
        torch.testing.assert_close(found[n], expected, rtol=1e-4, atol=1e-5)
    assert len(mine) > 0 and torch.equal(found[3], otherwise[3])
    direction = torch.randn_like(members)
    (gradient,) = torch.autograd.grad((members * direction).sum(), similarity)
    soft = similarity.detach().clone().requires_grad_()
    ((soft / 0.1).softmax(1) * direction).sum().backward()
    torch.testing.assert_close(gradient, soft.grad)


@pytest.mark.parametrize("classes, per_class", [(2, 3), (3, 2)])
def test_segmentation_and_clusters_are_what_the_shares_of_queries_add_up_to(classes: int, per_class: int) -> None:
    network = lively(classes, per_class)
    decoder = network.backbone.classifier
    embedding = torch.randn(2, 8, 3, 4, 5, requires_grad=True)
    slow_embedding = embedding.detach().double().requires_grad_()
    logits, clusters = decoder([], embedding)
    kernels, weights = decoder._kernels_and_weights([])
    (logits.square().sum() + clusters[:, 0].sum()).backward(retain_graph=True)
    trained = [decoder.scale.grad.clone(), decoder.to_kernel[1].weight.grad.clone(), decoder.read[2].bias.grad.clone()]
    decoder.zero_grad()
    unit = slow_embedding / slow_embedding.norm(dim=1, keepdim=True)
    cosine = torch.einsum("bdkji,nd->bnkji", unit, kernels.double())
    shares = (cosine * decoder.scale.exp().double()).softmax(1)
    slow = torch.einsum("bnkji,nc->bckji", shares, weights.double())
    groups = shares.unflatten(1, (classes, per_class)).sum(2)
    torch.testing.assert_close(logits, slow.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clusters, groups.float())
    torch.testing.assert_close(clusters.sum(1), torch.ones(2, 3, 4, 5))
    (slow.square().sum() + groups[:, 0].sum()).backward()
    torch.testing.assert_close(embedding.grad, slow_embedding.grad.float(), rtol=1e-3, atol=1e-4)  # type: ignore
    expected = [decoder.scale.grad, decoder.to_kernel[1].weight.grad, decoder.read[2].bias.grad]
    for mine, theirs in zip(trained, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_every_parameter_learns_and_centres_follow_the_batch() -> None:
    network = small()
    for n in range(2):  # at the first step what is multiplied by zeros gets none
        output = network(torch.randn(2, 1, 16, 16, 16))
        assert output.clusters is not None
        network.zero_grad()
        (output.logits.square().sum() + output.clusters[:, 1].log().sum()).backward()
        if n == 0:
            first = network.backbone.classifier.layers[0].centres.clone()
            for _, value in network.named_parameters():
                value.data.add_(torch.randn_like(value), alpha=0.02 if value.dim() else 0.0)
    idle = [n for n, p in network.named_parameters() if p.grad is None or (not p.grad.any() and p.numel() > 1)]
    assert not [name for name in idle if not name.endswith(("attend.ask.bias", "value.bias", "shortcut.0.weight"))], (
        idle
    )
    moved = network.backbone.classifier.layers[0].centres
    assert first.any() and not torch.equal(first, moved)
    network.eval()
    network(torch.randn(1, 1, 16, 16, 16))
    assert torch.equal(moved, network.backbone.classifier.layers[0].centres)


def test_running_centres_move_by_the_momentum() -> None:
    layer = small().backbone.classifier.layers[0].train()
    layer.centres.normal_()
    before = layer.centres.clone()
    features, queries = torch.randn(2, 64, 2, 2, 2), torch.randn(4, 16)
    found = layer._cluster(queries, features)
    torch.testing.assert_close(layer.centres, before + _MOMENTUM * (found.detach() - before))


def test_a_prediction_depends_on_nothing_far_away_nor_on_what_else_is_in_the_batch() -> None:
    network = lively()
    with torch.inference_mode():
        image = torch.randn(1, 1, 16, 16, 768)
        other = image.clone()
        other[..., 600:] = torch.randn(1, 1, 16, 16, 168) * 5 + 3
        one, two = network(image), network(other)
        assert torch.equal(one.logits[..., :256], two.logits[..., :256])
        assert not torch.equal(one.logits[..., 512:], two.logits[..., 512:])
        tile = network(image[..., :512]).logits[..., :192]  # its end is more than a receptive field away
        torch.testing.assert_close(tile, one.logits[..., :192], rtol=1e-3, atol=1e-3)
        pair = torch.randn(2, 1, 16, 16, 16)
        together = network(pair).logits
        apart = torch.cat([network(x[None]).logits for x in pair])
        torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------- bundles, prediction, explanation


def bundle(classes: int = 2, per_class: int = 2, **card: Any) -> ModelBundle:
    network = lively(classes, per_class)
    return ModelBundle(_card(network.config, **{"window": (16, 32, 32), **card}), network.state_dict())


@pytest.mark.parametrize("storage, error", [("float32", 0.0), ("float16", 2**-10), ("int8", 1 / 250)])
def test_bundle_comes_back_and_loads_strictly(tmp_path: Path, storage: str, error: float) -> None:
    made = bundle()
    back = ModelBundle.load(made.save(tmp_path / "model", storage))
    assert back.network == made.network and back.network.kind == "ux-net-small"
    for name, value in made.state.items():
        assert (back.state[name] - value).abs().max() <= error * max(1.0, value.abs().max()), name
    with pytest.raises(ValueError, match="the weights do not fit"):
        ModelBundle(made.card, {k: v for k, v in made.state.items() if "queries" not in k})


def scan() -> Volume:
    rng = np.random.default_rng(1)
    return Volume(rng.normal(size=(20, 40, 44)).astype(np.float32), Geometry.unknown((20, 40, 44)))


def test_map_of_prototypes_names_the_strongest_query_of_the_class_of_each_voxel() -> None:
    made = bundle(3, 2, preprocessing={"spacing_mm": None}, largest_component=False)
    found = Predictor(made, "cpu", dtype=torch.float32).predict(scan(), want=("prototypes", "embeddings"))
    assert found.prototype_map is not None and found.method == "whole"
    stored = found.embeddings
    assert stored is not None
    network = made.build()
    with torch.inference_mode():
        kernels, _ = network.backbone.classifier._kernels_and_weights([])
        unit = F.normalize(stored.values.float(), dim=0)
        strongest = torch.einsum("dkji,nd->nkji", unit, kernels).unflatten(0, (3, 2))
    mask = np.asarray(found.segmentation.labelmap.array)
    assert len(np.unique(mask)) > 1
    scores = strongest.gather(0, torch.from_numpy(mask.astype(np.int64))[None, None].expand(1, 2, *mask.shape))[0]
    expected = 1 + 2 * mask.astype(int) + scores.argmax(0).numpy()
    clear = ((scores[0] - scores[1]).abs() > 5e-3).numpy()  # embeddings are kept as float16
    assert clear.mean() > 0.8 and (found.prototype_map.array[clear] == expected[clear]).all()
    about = probe(found, network.prototypes.vectors, (10, 20, 22))
    assert about is not None and len(about.prototypes) == 3 and about.value == mask[10, 20, 22]


def test_tiles_answer_as_the_whole_volume_does_in_their_middle() -> None:
    made = bundle(preprocessing={"spacing_mm": None}, largest_component=False, window=(32, 48, 48))
    predictor = Predictor(made, "cpu", dtype=torch.float32)
    whole = predictor.predict(scan(), want=("probabilities",))
    short = Predictor(made, "cpu", dtype=torch.float32, free=lambda device: 1).predict(scan(), want=("probabilities",))
    assert (whole.method, short.method) == ("whole", "tiles")
    assert whole.probabilities is not None and short.probabilities is not None
    np.testing.assert_allclose(whole.probabilities, short.probabilities, atol=0.02)  # one tile, padded differently
    mirrored = Predictor(bundle(preprocessing={"spacing_mm": None}, mirror_axes=(2,)), "cpu").predict(scan(), tta=True)
    assert not [note for note in mirrored.notes if "mirror" in note]


# ---------------------------------------------------------------------- losses and schedule


def test_query_loss_and_divergence_are_as_written() -> None:
    torch.manual_seed(0)
    one, two = (torch.randn(2, 3, 2, 3, 4).softmax(1) for _ in range(2))
    label = torch.randint(0, 3, (2, 2, 3, 4))
    label[0, 0] = 255
    logs = [
        -math.log(one[b, label[b, k, j, i], k, j, i])
        for b in range(2)
        for k in range(2)
        for j in range(3)
        for i in range(4)
        if label[b, k, j, i] != 255
    ]
    assert query_loss(one, label).item() == pytest.approx(np.mean(logs), rel=1e-5)
    assert query_loss(one, torch.full_like(label, 255)).item() == 0
    both = [F.kl_div(a.log(), b, reduction="none").sum(1).mean().item() for a, b in ((one, two), (two, one))]
    assert symmetric_divergence(one, two).item() == pytest.approx(sum(both), rel=1e-5)
    assert symmetric_divergence(one, one).item() == 0


def test_consistency_is_ramped_in_as_written() -> None:
    method, plus = (DKUXNet(small(), recipe, 2) for recipe in (PAPER, PLUS))
    for iteration, weight in (
        (0, math.exp(-5)),
        (149, math.exp(-5)),
        (3000, math.exp(-1.25)),
        (6000, 1.0),
        (9299, 1.0),
    ):
        assert method.weight(iteration / 9300) == pytest.approx(weight)
    assert method.weight(150 / 9300) > math.exp(-5)
    assert plus.weight(0.0) == pytest.approx(math.exp(-5)) and plus.weight(0.4) == 1 == plus.weight(0.9)


# ---------------------------------------------------------------------- the method


@functools.cache
def nested(count: int = 3) -> tuple[TrainingCase, ...]:
    """Balls (1) with a ball inside (2): background, organ and tumour, in noise."""
    cases = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        centre = rng.uniform(7, 9, 3)
        distance = np.sqrt(((np.moveaxis(np.indices((16, 16, 16)), 0, -1) - centre) ** 2).sum(-1))
        mask = (distance < 7).astype(np.uint8) + (distance < 4)
        image = torch.from_numpy(rng.normal(0, 0.3, mask.shape) + mask - 0.5).float()
        cases.append(TrainingCase(f"case{seed}", image, torch.from_numpy(mask)))
    return tuple(cases)


def patches() -> PatchSampler:
    labelled, *others = nested()
    unlabelled = [TrainingCase(case.id, case.image, None) for case in others]
    return PatchSampler([labelled], unlabelled, (16, 16, 16), affine=False)


def steps(method: DKUXNet, count: int, rate: float = 1e-3, first: int = 0) -> list[dict[str, float]]:
    optimiser = make_optimiser(method, method.recipe, torch.device("cpu"))
    optimiser.param_groups[0]["lr"] = rate
    figures = []
    for n in range(first, first + count):
        torch.manual_seed(n)
        rng = np.random.default_rng(n)
        losses = method(patches().batch(*method.patch_counts(n / 60), rng), n / 60)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        method.after_step()
        figures.append({"total": losses.total.item(), **{k: v.item() for k, v in losses.parts.items()}})
    return figures


def test_a_structure_inside_another_is_learnt_and_its_queries_own_it() -> None:
    method = make_method("dk-uxnet", small(3, 3, seed=1), PLUS, 2).train()
    assert isinstance(method, DKUXNet)
    figures = steps(method, 48, 4e-3)
    assert all(math.isfinite(value) for step in figures for value in step.values())
    assert figures[-1]["labelled"] < 0.4 * figures[0]["labelled"]
    method.finish(patches(), np.random.default_rng(0))
    case = nested()[0]
    assert case.label is not None
    for network in (method.student.eval(), method.result.eval()):
        with torch.inference_mode():
            output = network(case.image[None, None])
        assert output.clusters is not None
        # Sums of W are confident: what is said of a voxel is not bounded by the shares that make it up.
        assert (output.logits.softmax(1).amax((0, 2, 3, 4)) > 0.95).all()
        # W alone could have the organ's queries segment the tumour: clusters tell whose they are.
        for found in (output.logits, output.clusters):
            dice = [_dice(found.argmax(1)[0] == c, case.label == c) for c in (1, 2)]
            assert min(dice) > 0.6, dice


def _dice(one: torch.Tensor, two: torch.Tensor) -> float:
    return 2 * (one & two).sum().item() / (one.sum() + two.sum()).item()


def test_the_result_is_the_network_of_the_weak_view() -> None:
    for recipe in (PAPER, PLUS):
        method = DKUXNet(small(3), recipe, 2).train()
        steps(method, 2)
        assert method.result is (method.teacher if recipe is PLUS else method.student)
        assert not torch.equal(
            method.student.backbone.backbone.stem.weight, method.partner.backbone.backbone.stem.weight
        )
        method.finish(patches(), np.random.default_rng(0))
        kernels = method.result.eval().backbone.classifier.kernels()
        torch.testing.assert_close(method.result.prototypes.vectors, kernels)
        torch.testing.assert_close(kernels.norm(dim=-1), torch.ones(3, 2))


def test_a_model_that_is_fine_tuned_is_both_networks_beginning() -> None:
    network = lively()
    network.taken_over = frozenset(network.state_dict())
    method = DKUXNet(network, PLUS, 2)
    for name, value in method.partner.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_the_two_views_differ_in_intensities_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    method = DKUXNet(small(3), PAPER, 2).train()
    for network in (method.student, method.partner):
        network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    monkeypatch.setattr("mper.methods.dk_uxnet.intensities", lambda image, rng, cross_scanner: image + 1)
    batch = patches().batch(2, 2, np.random.default_rng(0))
    method(batch, 0.5)
    assert torch.equal(seen[0], batch.image) and torch.equal(seen[1], batch.image + 1)


def test_mixed_patches_are_compared_with_what_the_weak_view_says_of_their_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = DKUXNet(small(3), PLUS, 2).eval()
    monkeypatch.setattr("mper.methods.dk_uxnet.intensities", lambda image, rng, cross_scanner: image)
    cut = torch.ones(16, 16, 16)
    cut[:, :, :7] = 0
    monkeypatch.setattr("mper.methods.dk_uxnet.cutmix_mask", lambda *_: cut)
    weak = torch.rand(4, 3, 16, 16, 16)
    mixed = torch.where(cut > 0.5, weak[2:], weak[[3, 2]])

    def answer(scores: torch.Tensor) -> Any:
        shares = scores / scores.sum(1, keepdim=True)
        return lambda image: type("Output", (), {"logits": scores, "clusters": shares})

    method.student.forward = answer(weak)  # type: ignore[method-assign]
    method.partner.forward = answer(torch.cat([weak[:2], mixed]))  # type: ignore[method-assign]
    parts = method(patches().batch(2, 2, np.random.default_rng(0)), 0.5).parts
    assert parts["distance"].item() == pytest.approx(0, abs=1e-6) and parts["agreement"] == 1


OF_EVERY_METHOD = {"poly_rate", "adamw", "affine"}  # the trainer's, the optimiser's and the sampler's


@pytest.mark.parametrize("change", [name for name in Recipe.changes("dk-uxnet") if name not in OF_EVERY_METHOD])
def test_each_change_can_be_left_out_and_matters(change: str) -> None:
    whole, without = (_state(Recipe.named("plus", left_out, "dk-uxnet")) for left_out in ((), (change,)))
    assert any(not torch.equal(value, without[name]) for name, value in whole.items())


@functools.cache
def _state(recipe: Recipe) -> dict[str, torch.Tensor]:
    method = DKUXNet(small(3), recipe, 2).train()
    steps(method, 2, first=3)
    return {name: value.clone() for name, value in method.result.state_dict().items()}


def test_no_step_waits_for_the_device() -> None:
    for recipe in (PLUS, PAPER):
        method = DKUXNet(small(3), recipe, 2).train()
        batch = patches().batch(2, 2, np.random.default_rng(1))
        with NothingWaits():
            method(batch, 0.5).total.backward()
            method.after_step()


# ---------------------------------------------------------------------- runs


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    train_with_filters(monkeypatch, 8)
    monkeypatch.setattr(trainer, "_REPORT_S", 0.0)
    monkeypatch.setattr(trainer, "_CHECKPOINT_S", 0.0)
    monkeypatch.setattr(curves, "_draw", lambda rows, path: None)


@pytest.fixture(scope="module")
def solid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blob_dataset(tmp_path_factory.mktemp("solid") / "data", 3, (16, 16, 16), labelled=2).path


def begin(data: Path, run: Path, **config: Any) -> Path:
    fixed = {"method": "dk-uxnet", "device": "cpu", "patch": (16, 16, 16), "batch": 2, "steps": 4}
    start_run(TrainConfig(str(data), **{**fixed, **config}), run)
    return run


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(solid: Path, tmp_path: Path, tiny: None) -> None:
    class Crash(Exception):
        pass

    def crash(progress: Progress) -> None:
        if progress.values.get("step") == 3:
            raise Crash

    unbroken = ModelBundle.load(train(begin(solid, tmp_path / "one")))
    run = begin(solid, tmp_path / "two")
    with pytest.raises(Crash):
        train(run, crash)
    resumed = ModelBundle.load(train(run))
    assert unbroken.network.kind == "ux-net-small" and unbroken.network.prototypes == BACKBONES["ux-net-small"].queries
    assert all(torch.equal(value, resumed.state[name]) for name, value in unbroken.state.items())
    vectors = unbroken.state["prototypes.vectors"]
    assert vectors.shape == (2, 8, 8)
    torch.testing.assert_close(vectors, unbroken.build().backbone.classifier.kernels())


def test_other_structures_get_new_queries_and_keep_the_features(solid: Path, tmp_path: Path, tiny: None) -> None:
    start = train(begin(solid, tmp_path / "first", steps=1))
    more = blob_dataset(tmp_path / "more", 2, (16, 16, 16), structures=2)
    found = ModelBundle.load(train(begin(more.path, tmp_path / "tuned", steps=1, start_from=str(start))))
    assert (found.network.classes, found.network.prototypes) == (3, 8)
    assert found.state["backbone.classifier.queries"].shape[0] == 24

    config = TrainConfig(str(more.path), "dk-uxnet", device="cpu", patch=(16, 16, 16), batch=2, start_from=str(start))
    network = make_network(config, load_training_data(config, torch.device("cpu")))
    partner = DKUXNet(network, Recipe(), 2).partner.state_dict()
    stored = ModelBundle.load(start).state
    new = {name for name, value in network.state_dict().items() if value.shape != stored[name].shape}
    assert new and all(torch.equal(partner[name], stored[name]) for name in network.taken_over)
    queries = "backbone.classifier.queries"
    assert queries in new and not torch.equal(partner[queries], network.state_dict()[queries])


def test_a_class_that_no_label_shows_is_told_and_costs_the_run_nothing(tmp_path: Path, tiny: None) -> None:
    data = blob_dataset(tmp_path / "data", 2, (16, 16, 16), structures=2, edit_label=lambda mask: mask * (mask < 2))
    found = ModelBundle.load(train(begin(data.path, tmp_path / "run", steps=2)))
    assert all(value.isfinite().all() for value in found.state.values())


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            {"network": "unet"},
            "method dk-uxnet cannot train backbone unet; choose, or start from, one of ux-net-small, ux-net",
        ),
        (
            {"method": "mper", "network": "ux-net"},
            "method mper cannot train backbone ux-net; choose, or start from, one of vnet, unet",
        ),
        ({"co_train": True}, "method dk-uxnet has no co-training"),
        ({"without": ("strong_augmentation",)}, "method dk-uxnet has no change 'strong_augmentation'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        TrainConfig("data", **{"method": "dk-uxnet", **wrong})
    assert "\n" not in str(told.value)


def test_thick_slices_and_models_without_queries_are_refused(solid: Path, tmp_path: Path, tiny: None) -> None:
    thick = blob_dataset(tmp_path / "thick", 2, (5, 40, 40), spacing_mm=(8.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="dk-uxnet segments volumes, and these scans are stacks of thick slices"):
        train(begin(thick.path, tmp_path / "run", patch=None))
    other = train(begin(solid, tmp_path / "other", method="supervised", steps=1, batch=2))
    with pytest.raises(ValueError, match="dk-uxnet cannot train backbone vnet"):
        train(begin(solid, tmp_path / "tuned", start_from=str(other)))
    with pytest.raises(ValueError, match="dk-uxnet needs a network with class queries, got a vnet"):
        make_method("dk-uxnet", Network(NetConfig("vnet", 2, filters=4)), PLUS, 2)
    with pytest.raises(ValueError, match="multiple of 8 channels, got 12"):
        Network(NetConfig("ux-net-small", 2, filters=12))
