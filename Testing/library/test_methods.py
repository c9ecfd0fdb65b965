"""The methods: schedules as published, losses as written, and no switch that switches nothing."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_data import blob_cases
from torch.utils._python_dispatch import TorchDispatchMode

from mper.dataloading.patch_sampler import PatchSampler
from mper.methods import base
from mper.methods.base import Method
from mper.methods.bcp import BCP
from mper.methods.losses import prototype_contrast, region_loss
from mper.methods.mper import MPER
from mper.methods.recipe import PUBLISHED, Recipe
from mper.methods.registry import METHODS, make_method
from mper.nets.network import NetConfig, Network
from mper.nets.prototypes import Prototypes
from mper.training.setup import make_optimiser

pytestmark = pytest.mark.usefixtures("one_thread")

PAPER, PLUS = Recipe.named("paper"), Recipe.named("plus")
PATCH = {3: (16, 16, 16), 2: (1, 32, 32)}
BATCH = {3: 4, 2: 2}
ANYWHERE = [name for name in METHODS if name != "dk-uxnet"]  # which has tests of its own, for its network
CHANGES = [
    (name, change, dimensions)
    for name in ANYWHERE
    for change in Recipe.changes(name)
    for dimensions in (2, 3)
    if (change, dimensions) != ("anchored", 2)  # volumes only
]


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-means on a handful of patches."""
    monkeypatch.setattr(base, "_PATCHES", {2: 6, 3: 4})


def tiny(name: str, recipe: Recipe, dimensions: int = 3, structures: int = 1) -> Method:
    torch.manual_seed(0)
    kind = "vnet" if dimensions == 3 else "unet"
    dropout = (0.5, 0.0 if recipe.clean_embedding else 0.5)
    smooth = recipe.clean_embedding and dimensions == 3
    network = Network(NetConfig(kind, structures + 1, filters=4, dropout=dropout, smooth=smooth))
    method = make_method(name, network, recipe, BATCH[dimensions])
    return method.to(memory_format=network.memory_format())  # type: ignore[call-overload,no-any-return]


@functools.cache
def sampler(dimensions: int, affine: bool = True, structures: int = 1) -> PatchSampler:
    shape = (20, 24, 24) if dimensions == 3 else (5, 40, 40)
    labelled, unlabelled = (
        blob_cases(4, shape, structures=structures),
        blob_cases(4, shape, labelled=False, structures=structures, seed=10),
    )
    return PatchSampler(labelled, unlabelled, PATCH[dimensions], affine=affine)


# ---------------------------------------------------------------------- schedules


def paper_time(iteration: float, dimensions: int = 3) -> float:
    """`t` of an iteration of the published self-training, in a run of the published length."""
    p = PUBLISHED[dimensions]
    return (p.pretrain + iteration) / (p.pretrain + p.selftrain)


@pytest.mark.parametrize(
    "iteration, weight", [(0, 0.0067), (2000, 0.1025), (2499, 0.1653), (4000, 0.5420), (6000, 1.0), (7999, 1.0)]
)
def test_paper_ramps_prototypes_in_as_published_for_the_left_atrium(iteration: int, weight: float) -> None:
    method = tiny("mper", PAPER)
    assert isinstance(method, MPER)
    assert method.prototype_weight(paper_time(iteration)) == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize("iteration, weight", [(5000, 0.0153), (10_000, 0.0530), (15_000, 0.1433), (30_000, 0.5)])
def test_paper_ramps_prototypes_in_as_published_for_acdc(iteration: int, weight: float) -> None:
    method = tiny("mper", PAPER, dimensions=2)
    assert isinstance(method, MPER)
    assert method.prototype_weight(paper_time(iteration, 2)) == pytest.approx(weight, abs=1e-4)


def test_paper_follows_the_published_schedule_at_every_single_iteration() -> None:
    method = tiny("mper", PAPER)
    assert isinstance(method, MPER)
    for iteration in range(8000):
        t = paper_time(iteration)
        assert method.patch_counts(t) == (4, 4)
        assert method.rate_factor(t) == pytest.approx(0.1 ** (iteration // 2500))
        ramp = min(iteration // 150, 40) / 40
        assert method.prototype_weight(t) == pytest.approx(math.exp(-5 * (1 - ramp) ** 2))


def test_paper_pretrains_for_the_published_iterations_at_the_first_rate() -> None:
    method = tiny("bcp", PAPER)
    assert [method.patch_counts(step / 9300) for step in (0, 1299, 1300)] == [(4, 0), (4, 0), (4, 4)]
    assert all(method.rate_factor(step / 9300) == 1 for step in range(1300))


def test_paper_keeps_the_rate_for_slices() -> None:
    method = tiny("mper", PAPER, dimensions=2)
    assert {method.rate_factor(step / 40_000) for step in range(0, 40_000, 100)} == {1.0}


def test_plus_lets_the_rate_fall_to_zero_and_prototypes_in_early() -> None:
    method = tiny("mper", PLUS)
    assert isinstance(method, MPER)
    assert (
        method.rate_factor(0) == 1 and method.rate_factor(0.5) == pytest.approx(0.5**0.9) and method.rate_factor(1) == 0
    )
    assert [method.patch_counts(t) for t in (0.0, 0.699, 0.7)] == [(4, 0), (4, 0), (2, 2)]
    start, full = 0.7, 0.7 + 0.15 * 0.3
    assert method.prototype_weight(start) == pytest.approx(math.exp(-5))
    assert method.prototype_weight(full + 1e-9) == pytest.approx(1) == method.prototype_weight(0.99)


@pytest.mark.parametrize("dimensions, without", [(3, ("anchored",)), (2, ())])
def test_slices_and_plus_without_anchored_mix_all_patches_after_a_third(
    dimensions: int, without: tuple[str, ...]
) -> None:
    method = tiny("bcp", Recipe.named("plus", without), dimensions)
    batch = BATCH[dimensions]
    assert [method.patch_counts(t) for t in (0.0, 0.299, 0.3)] == [(batch, 0), (batch, 0), (batch, batch)]
    images = seen_by_the_student(method, 0.0)
    assert len(images) == batch // 2  # pasted into each other


def test_fine_tuning_begins_with_self_training() -> None:
    method = tiny("mper", PLUS)
    method.fine_tunes = True
    assert method.patch_counts(0.0) == (2, 2)
    steps(method, (0.0,), 3)
    assert method.stage == 1 and (method.student.prototypes.vectors.norm(dim=-1) > 0).all()


def test_published_constants_are_those_of_the_papers() -> None:
    assert PUBLISHED[3].batch == 4 and PUBLISHED[3].patch == (80, 112, 112) and PUBLISHED[3].contrast_weight == 0.02
    assert PUBLISHED[2].batch == 12 and PUBLISHED[2].patch == (1, 256, 256) and PUBLISHED[2].contrast_weight == 0.001


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("dimensions", [2, 3])
def test_paper_loss_is_the_published_sum_over_both_mixtures(dimensions: int) -> None:
    method = tiny("mper", PAPER, dimensions, structures=2)
    assert isinstance(method, MPER)
    method.student.prototypes.vectors.normal_()
    spatial = PATCH[dimensions][3 - dimensions :]
    image, target = torch.randn(4, 1, *spatial), torch.randint(0, 3, (4, *spatial))
    annotated, certain = (torch.rand(4, *spatial) < 0.7).float(), torch.rand(4, *spatial)
    output = method.student(image)
    before = Prototypes(3, 3, 4)
    before.vectors.copy_(method.student.prototypes.vectors)
    total = method._losses(output, target, annotated, certain, paper_time(3000, dimensions)).total

    similarity = before.similarity(output.dropped)
    expected = torch.zeros(())
    weight = method.prototype_weight(paper_time(3000, dimensions))
    for half in (slice(0, 2), slice(2, 4)):
        y, people = target[half], annotated[half]
        for scores, share in ((output.logits[half], 1.0), (before.logits(similarity)[half], weight)):
            labelled = region_loss(scores, y, people, masked=False)
            pseudo = region_loss(scores, y, 1 - people, masked=False)
            expected = expected + share * (labelled + 0.5 * pseudo) / 2
        contrast = prototype_contrast(similarity[half], y, 0.1, by_label=False)
        expected = expected + weight * PUBLISHED[dimensions].contrast_weight * contrast
    torch.testing.assert_close(total, expected)

    for half in (slice(0, 2), slice(2, 4)):  # unlabelled region first, then the labelled one; never the background
        for region in ((annotated == 0) & (certain > 0.9), annotated == 1):
            mask = region[half] & (target[half] > 0)
            before.update(output.dropped[half], similarity[half], target[half], mask, 0.99)
    torch.testing.assert_close(method.student.prototypes.vectors, before.vectors)


def test_plus_leaves_unsure_pseudo_labels_and_unlabelled_voxels_out() -> None:
    method = tiny("bcp", PLUS)
    assert isinstance(method, BCP)
    logits = torch.randn(4, 2, 8, 8, 8, requires_grad=True)
    target = torch.randint(0, 2, (4, 8, 8, 8))
    target[:, :2] = 255
    annotated = torch.zeros(4, 8, 8, 8)
    annotated[..., :4] = 1
    certain = torch.where(torch.rand(4, 8, 8, 8) < 0.5, 0.79, 0.81)
    sum(method.mixed(logits, target, annotated, certain, 0.8)).backward()  # type: ignore[union-attr]
    learns = (logits.grad != 0).any(1)  # type: ignore[union-attr]
    assert torch.equal(learns, (target != 255) & ((annotated == 1) | (certain > 0.8)))


def test_whole_patches_have_full_weight_and_mixtures_come_in_over_a_fifth_of_the_stage() -> None:
    method = tiny("bcp", PLUS)
    assert isinstance(method, BCP)
    logits, target = torch.randn(4, 2, 8, 8, 8), torch.randint(0, 2, (4, 8, 8, 8))
    annotated = torch.ones(4, 8, 8, 8)
    whole, mixture = (region_loss(logits[part], target[part], annotated[part]) / 2 for part in (slice(2), slice(2, 4)))
    for t, weight in ((0.7, math.exp(-5)), (0.73, math.exp(-1.25)), (0.76, 1.0), (0.99, 1.0)):
        labelled, mixed = method.mixed(logits, target, annotated, annotated, t)
        torch.testing.assert_close(labelled, whole)
        torch.testing.assert_close(mixed, weight * mixture)


def seen_by_the_student(method: Method, t: float) -> torch.Tensor:
    """The images (B, 1, *S) of the step at `t`, before their intensities are augmented."""
    seen: list[torch.Tensor] = []
    augment = method.augment

    def look(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        seen.append(image)
        return augment(image, rng)

    method.augment = look  # type: ignore[method-assign]
    rng = np.random.default_rng(0)
    method.prepare(t, sampler(method.config.dimensions), rng)
    method(sampler(method.config.dimensions).batch(*method.patch_counts(t), np.random.default_rng(1)), t)
    return seen[0]


@pytest.mark.parametrize("name", ["bcp", "mper"])
def test_whole_labelled_patches_are_in_every_batch(name: str) -> None:
    for t in (0.0, 0.69, 0.7, 0.99):
        method = tiny(name, PLUS)
        images = seen_by_the_student(method, t)
        given = sampler(3).batch(*method.patch_counts(t), np.random.default_rng(1))
        assert torch.equal(images[: given.labelled], given.image[: given.labelled]) and len(images) == 4
        for mixture, labelled, unlabelled in zip(
            images[given.labelled :], given.image[:2], given.image[2:], strict=False
        ):
            assert ((mixture == labelled) | (mixture == unlabelled)).all()
            share = (mixture == labelled).float().mean().item()
            assert 0.2 < share < 0.35 or 0.65 < share < 0.8  # a box of two thirds, or what is around it


@pytest.mark.parametrize("name", ["bcp", "mper"])
def test_pseudo_labels_beyond_the_scan_and_of_dropped_parts_do_not_count(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny(name, PLUS)
    assert isinstance(method, BCP)
    scores = torch.zeros(2, 2, *PATCH[3])
    scores[:, 0] = 5
    scores[:, 1, 4:12, 4:12, 4:12] = scores[:, 1, 14:, 14:, 14:] = 10  # the second is dropped
    inside = torch.ones(4, *PATCH[3], dtype=torch.bool)
    inside[:, :2] = False
    method.stage = 1  # prototypes need not fit
    method.student.prototypes.vectors.normal_()
    method.teacher.forward = lambda image: type("Output", (), {"logits": scores})  # type: ignore
    batch = sampler(3).batch(2, 2, np.random.default_rng(0))._replace(inside=inside)
    targets = []
    losses = method._losses
    monkeypatch.setattr(method, "_losses", lambda *maps: targets.append(maps[1]) or losses(*maps))
    monkeypatch.setattr(
        "mper.methods.bcp.box_mask", lambda shape, *_: torch.zeros(shape)
    )  # all of one, or of the other
    for seed in range(4):
        method(batch._replace(rng=np.random.default_rng(seed)), 0.9)
    expected = torch.zeros(PATCH[3], dtype=torch.int64)
    expected[4:12, 4:12, 4:12] = 1
    expected[14:, 14:, 14:] = expected[:2] = 255
    unlabelled = [target[2] for target in targets if not torch.equal(target[2], batch.label[0])]
    assert unlabelled and all(torch.equal(target, expected) for target in unlabelled)
    assert all(torch.equal(target[:2], batch.label[:2]) for target in targets)


@pytest.mark.parametrize("recipe, expected", [(PLUS, 255), (PAPER, 0)])
def test_pseudo_labels_of_slices_end_where_the_scan_ends(recipe: Recipe, expected: int) -> None:
    method = tiny("bcp", recipe, 2)
    assert isinstance(method, BCP)
    batch = sampler(2).batch(2, 2, np.random.default_rng(0))
    inside = torch.ones(batch.label.shape, dtype=torch.bool)
    inside[:, :3] = False
    method.teacher.forward = lambda image: type("Output", (), {"logits": image.new_zeros(2, 3, *PATCH[2][1:])})  # type: ignore
    labels, _ = method._pseudo_labels(batch._replace(inside=inside), [2, 3])
    assert set(labels[:, :3].unique().tolist()) == {expected} and not labels[:, 3:].any()


def test_teacher_labels_with_its_largest_component_only() -> None:
    for keep in (True, False):
        torch.manual_seed(0)
        method = BCP(Network(NetConfig("unet", 2, filters=4)), PLUS, 2, keep_largest=keep)
        labels, certain = method.pseudo_labels(torch.randn(2, 1, 32, 32))
        raw = method.teacher(torch.randn(2, 1, 32, 32)).logits
        assert labels.shape == certain.shape == raw.shape[:1] + raw.shape[2:]
        logits = torch.full((1, 2, 32, 32), 0.0)
        logits[:, 1, 2:10, 2:10] = logits[:, 1, 20:23, 20:23] = 5
        logits[:, 0] = 1
        method.teacher.forward = lambda image, logits=logits: type("Output", (), {"logits": logits})  # type: ignore
        labels, certain = method.pseudo_labels(torch.zeros(1, 1, 32, 32))
        assert labels.sum() == (64 if keep else 73)
        assert certain[0, 5, 5].item() == pytest.approx(1 / (1 + math.exp(-4)))


# ---------------------------------------------------------------------- steps


def steps(method: Method, times: tuple[float, ...], dimensions: int, structures: int = 1) -> list[dict[str, Any]]:
    """A few steps as the trainer takes them; the figures of each."""
    optimiser = make_optimiser(method, method.recipe, torch.device("cpu"))
    first = optimiser.param_groups[0]["lr"]
    patches = sampler(dimensions, method.recipe.affine, structures)
    figures = []
    for n, t in enumerate(times):
        rng = np.random.default_rng(n)
        torch.manual_seed(n)
        method.prepare(t, patches, rng)
        batch = patches.batch(*method.patch_counts(t), rng)
        optimiser.param_groups[0]["lr"] = first * method.rate_factor(t)
        losses = method(batch, t)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        method.after_step()
        figures.append({"total": losses.total.item(), **{k: v.item() for k, v in losses.parts.items()}})
    return figures


@functools.cache
def outcome(name: str, without: tuple[str, ...], dimensions: int) -> dict[str, torch.Tensor]:
    """The state of the result of a tiny run of `plus`."""
    recipe = Recipe.named("plus", without, name)
    method = tiny(name, recipe, dimensions)
    figures = steps(method, (0.0, 0.72, 0.8), dimensions)
    assert all(math.isfinite(value) for step in figures for value in step.values())
    method.finish(sampler(dimensions, recipe.affine), np.random.default_rng(9))
    return {key: value.clone() for key, value in method.result.state_dict().items()}


@pytest.mark.parametrize("name, change, dimensions", CHANGES)
def test_each_change_can_be_left_out_and_matters(name: str, change: str, dimensions: int) -> None:
    common = ("anchored",) if (change, dimensions) == ("cutmix", 3) and name in ("mper", "bcp") else ()
    whole, without = outcome(name, common, dimensions), outcome(name, (*common, change), dimensions)
    assert whole.keys() == without.keys()
    assert any(not torch.equal(whole[key], without[key]) for key in whole)


def test_same_steps_give_the_same_result() -> None:
    again = outcome.__wrapped__("mper", (), 3)
    assert all(torch.equal(value, again[key]) for key, value in outcome("mper", (), 3).items())


@pytest.mark.parametrize("name, change", [("supervised", "cutmix"), ("bcp", "label_prototypes"), ("mper", "magic")])
def test_change_that_a_method_does_not_have_is_refused(name: str, change: str) -> None:
    with pytest.raises(ValueError, match=f"method {name} has no change '{change}'.*poly_rate"):
        Recipe.named("plus", (change,), name)


def test_paper_has_no_changes_to_leave_out() -> None:
    assert not any(getattr(PAPER, change) for change in Recipe.changes("mper"))
    with pytest.raises(ValueError, match="paper has no changes"):
        Recipe.named("paper", ("affine",))
    with pytest.raises(ValueError, match="unknown recipe 'papers'; known are plus and paper"):
        Recipe.named("papers")


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", ANYWHERE)
def test_paper_recipe_steps_through_both_stages(name: str, dimensions: int) -> None:
    method = tiny(name, PAPER, dimensions, structures=2)
    figures = steps(method, (0.0, 0.5, 0.9), dimensions, structures=2)
    assert all(math.isfinite(value) for step in figures for value in step.values())
    assert method.stage == (0 if name == "supervised" else 1)
    if name == "mper":
        assert {"prototype", "contrast", "agreement", "spread"} <= figures[-1].keys()
        assert 0 <= figures[-1]["agreement"] <= 1 and figures[-1]["spread"] > 0


def test_spread_is_the_mean_distance_between_prototypes_of_a_class_also_under_autocast() -> None:
    method = tiny("mper", PLUS)
    assert isinstance(method, MPER)
    method.student.prototypes.vectors.normal_()
    vectors = method.student.prototypes.vectors
    expected = [
        1 - torch.cosine_similarity(vectors[c, a], vectors[c, b], dim=0).item()
        for c in range(2)
        for a in range(3)
        for b in range(3)
        if a != b
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method._spread().item() == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("recipe", [PLUS, PAPER], ids=["plus", "paper"])
def test_teacher_gets_no_gradient(recipe: Recipe) -> None:
    method = tiny("mper", recipe)
    (figures,) = steps(method, (0.8,), 3)
    assert "pseudo" in figures, "the teacher has labelled something"
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters())


def test_teacher_follows_by_a_hundredth() -> None:
    method = tiny("bcp", PAPER)
    before = {key: value.clone() for key, value in method.teacher.state_dict().items()}
    for value in (*method.student.parameters(), *method.student.buffers()):
        if value.is_floating_point():
            value.data.add_(1.0)
    method.after_step()
    for key, value in method.teacher.state_dict().items():
        if key == "prototypes.vectors":
            assert torch.equal(value, method.student.prototypes.vectors)
        elif value.is_floating_point():
            torch.testing.assert_close(value, before[key] + 0.01)


def test_averaged_result_forgets_its_random_start() -> None:
    method = tiny("supervised", PLUS)
    for value in method.student.parameters():
        value.data.fill_(1.0)
    for _ in range(60):
        method.after_step()
    assert all((value - 1).abs().max() < 1e-3 for value in method.teacher.parameters())
    published = tiny("supervised", PAPER)
    assert method.result is method.teacher and published.result is published.student


def test_selftraining_starts_from_the_student_in_paper_and_from_the_average_in_plus() -> None:
    for recipe in (PAPER, PLUS):
        method = tiny("mper", recipe)
        steps(method, (0.0, 0.05), 3)
        average = method.teacher.backbone.classifier.weight.clone()
        method.prepare(0.7, sampler(3, recipe.affine), np.random.default_rng(0))
        student = method.student.backbone.classifier.weight
        assert torch.equal(method.teacher.backbone.classifier.weight, average if recipe is PLUS else student)
        assert (method.student.prototypes.vectors.norm(dim=-1) > 0).all()
        assert torch.equal(method.student.prototypes.vectors, method.teacher.prototypes.vectors)


def test_clean_teacher_predicts_in_eval_mode_and_the_published_one_does_not() -> None:
    for recipe in (PLUS, PAPER):
        method = tiny("bcp", recipe)
        image = torch.randn(2, 1, 16, 16, 16)
        assert isinstance(method, BCP)
        one, two = method.pseudo_labels(image)[1], method.pseudo_labels(image)[1]
        assert torch.equal(one, two) == recipe.clean_teacher
        assert method.teacher.training != recipe.clean_teacher


@pytest.mark.parametrize("name", ANYWHERE)
def test_result_has_prototypes_that_explain_it(name: str) -> None:
    vectors = outcome(name, (), 3)["prototypes.vectors"]
    assert (vectors.norm(dim=-1) > 0).all() and vectors.isfinite().all()


def test_mper_keeps_the_prototypes_that_it_learnt() -> None:
    method = tiny("mper", PLUS)
    steps(method, (0.7, 0.8), 3)
    learnt = method.student.prototypes.vectors.clone()
    method.finish(sampler(3), np.random.default_rng(0))
    assert torch.equal(method.result.prototypes.vectors, learnt)


def test_copy_paste_needs_pairs_and_methods_have_names() -> None:
    network = Network(NetConfig("unet", 2, filters=4))
    with pytest.raises(ValueError, match="even number of labelled patches a step, got 3"):
        make_method("bcp", network, PLUS, 3)
    with pytest.raises(ValueError, match="unknown method 'magic'; known are mper, bcp, supervised"):
        make_method("magic", network, PLUS, 2)


class NothingWaits(TorchDispatchMode):
    """Fails where the host would have to wait for the device: a number is read, or a size depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"), name
        if name in ("index", "index_put_", "index_put"):
            assert not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("recipe", [PLUS, PAPER], ids=["plus", "paper"])
@pytest.mark.parametrize("name", ANYWHERE)
def test_no_step_waits_for_the_device(name: str, recipe: Recipe, dimensions: int) -> None:
    method = tiny(name, recipe, dimensions, structures=2)
    patches = sampler(dimensions, recipe.affine, 2)
    method.prepare(0.8, patches, np.random.default_rng(0))
    for t in (0.0, 0.8):
        with NothingWaits():
            losses = method(patches.batch(*method.patch_counts(t), np.random.default_rng(1)), t)
            losses.total.backward()
            method.after_step()


def test_what_watches_for_waiting_sees_it() -> None:
    for wait in (lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: bool(x.any())):
        with pytest.raises(AssertionError), NothingWaits():
            wait(torch.randn(4))
