"""Scans that are labelled in part: 255 is background to nobody, and what was drawn is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_data import blobs

from mper.dataloading.patch_sampler import Batch, PatchSampler, TrainingCase
from mper.labels import UNLABELLED
from mper.methods import base
from mper.methods.base import Method
from mper.methods.bcp import BCP
from mper.methods.recipe import Recipe
from mper.methods.registry import METHODS, make_method
from mper.nets.network import NetConfig, Network
from mper.training.setup import make_optimiser

pytestmark = pytest.mark.usefixtures("one_thread")

BEGIN_WITH_LABELS = [name for name in METHODS if name != "dk-uxnet"]  # which has unlabelled scans in every step
PATCH = {3: (16, 16, 16), 2: (1, 32, 32)}
SHAPE = {3: (20, 24, 24), 2: (6, 40, 40)}


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-means on a handful of patches."""
    monkeypatch.setattr(base, "_PATCHES", {2: 8, 3: 4})


def tiny(name: str, dimensions: int, recipe: str = "plus") -> Method:
    torch.manual_seed(0)
    kind = "vnet" if dimensions == 3 else "unet"
    network = Network(NetConfig(kind, 2, filters=4, dropout=(0.0, 0.0), smooth=dimensions == 3))
    method = make_method(name, network, Recipe.named(recipe, (), name), 4)
    return method.to(memory_format=network.memory_format())  # type: ignore[call-overload,no-any-return]


def case(seed: int, dimensions: int, label: np.ndarray | None = None) -> TrainingCase:
    image, _ = blobs(SHAPE[dimensions], seed)
    return TrainingCase(str(seed), torch.from_numpy(image), None if label is None else torch.from_numpy(label))


def drawn(seed: int, dimensions: int, what: str) -> np.ndarray:
    """Part of a blob's label: 'slices', 'strokes' (some of the inside, some of the outside), 'inside' or 'nothing'."""
    shape = SHAPE[dimensions]
    _, mask = blobs(shape, seed)
    known = np.zeros(shape, bool)
    if what == "slices":
        known[shape[0] // 2] = known[shape[0] // 2 - 2] = True
    if what in ("strokes", "inside"):
        rng = np.random.default_rng(seed)
        for value in (0, 1) if what == "strokes" else (1,):
            voxels = np.argwhere(mask == value)
            known[tuple(voxels[rng.choice(len(voxels), len(voxels) // 20, replace=False)].T)] = True
    return np.where(known, mask, UNLABELLED).astype(np.uint8)


def sampler(dimensions: int, what: str, labelled: int = 4) -> PatchSampler:
    known = [case(n, dimensions, drawn(n, dimensions, what)) for n in range(labelled)]
    return PatchSampler(known, [case(n, dimensions) for n in range(10, 13)], PATCH[dimensions])


def gradient(method: Method, batch: Batch, t: float) -> float:
    """The size of the step that a batch asks for."""
    method.zero_grad()
    losses = method(batch, t)
    losses.total.backward()
    return max(float(p.grad.abs().max()) for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("recipe", ["plus", "paper"])
@pytest.mark.parametrize("name", BEGIN_WITH_LABELS)
def test_patches_of_which_nothing_is_known_teach_nothing(name: str, recipe: str, dimensions: int) -> None:
    method = tiny(name, dimensions, recipe)
    rng = np.random.default_rng(0)
    batch = sampler(dimensions, "slices").batch(*method.patch_counts(0.0), rng)
    assert gradient(method, batch._replace(rng=np.random.default_rng(1)), 0.0) > 1e-3
    nothing = batch._replace(label=torch.full_like(batch.label, UNLABELLED), rng=np.random.default_rng(1))
    assert gradient(method, nothing, 0.0) < 1e-6


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_teacher_says_what_people_left_open_and_never_what_they_said(dimensions: int) -> None:
    method = tiny("bcp", dimensions)
    assert isinstance(method, BCP)
    patches = sampler(dimensions, "strokes")
    whole = np.random.default_rng(0).integers(0, 2, SHAPE[dimensions]).astype(np.uint8)
    mixed = PatchSampler([*patches.labelled, case(7, dimensions, whole)], patches.unlabelled, PATCH[dimensions])
    for seed in range(4):
        batch = mixed.batch(4, 4, np.random.default_rng(seed))
        label, annotated, certain = method._labels(batch)
        people = batch.label[:4] != UNLABELLED
        assert torch.equal(label[people], batch.label[:4][people])
        for n in range(4):
            if n not in batch.partial:
                assert torch.equal(label[n], batch.label[n]) and annotated[n].all()
                continue
            assert not people[n].all() and torch.equal(annotated[n] == 1, people[n])
            pseudo, sure = method.pseudo_labels(batch.image[n : n + 1])
            assert batch.inside is not None  # a label beyond the scan would be one of its repeated border
            pseudo[0][~batch.inside[n]] = UNLABELLED
            assert torch.equal(label[n][~people[n]], pseudo[0][~people[n]])
            torch.testing.assert_close(certain[n][~people[n]], sure[0][~people[n]])
        assert torch.equal(batch.label[:4] != UNLABELLED, people), "the batch itself stays as it is"


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", ["bcp", "mper"])
def test_no_background_is_learnt_where_nobody_and_nothing_said_so(
    name: str, dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny(name, dimensions)
    assert isinstance(method, BCP)
    inside = sampler(dimensions, "inside")
    method.prepare(0.8, inside, np.random.default_rng(0))
    everywhere = torch.ones(4, *PATCH[dimensions][3 - dimensions :])
    monkeypatch.setattr(
        method, "pseudo_labels", lambda image: (everywhere[: len(image)].long(), everywhere[: len(image)])
    )
    seen: list[torch.Tensor] = []
    mixing = method._losses

    def watched(output: object, target: torch.Tensor, *more: object) -> object:
        seen.append(target)
        return mixing(output, target, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(method, "_losses", watched)
    losses = method(inside.batch(*method.patch_counts(0.8), np.random.default_rng(0)), 0.8)
    assert set(seen[0].unique().tolist()) - {UNLABELLED} == {1} and torch.isfinite(losses.total)


def test_batches_tell_which_patches_come_from_scans_labelled_in_part() -> None:
    whole = np.ones(SHAPE[2], np.uint8)
    cases = [case(0, 2, drawn(0, 2, "slices")), case(1, 2, whole)]
    for seed in range(6):
        batch = PatchSampler(cases, [], PATCH[2]).batch(2, 1, np.random.default_rng(seed))
        ones = [n for n in range(2) if (batch.label[n] != UNLABELLED).any() and (batch.label[n] == 0).any()]
        assert len(batch.partial) == 1 and set(ones) <= set(batch.partial)
    assert PatchSampler(cases[1:], [], PATCH[2]).batch(2, 1, np.random.default_rng(0)).partial == ()


def learnt(name: str, dimensions: int, what: str, false_background: bool = False) -> float:
    """Dice on scans that were not seen, after a short training on labels of a part."""
    method = tiny(name, dimensions)
    patches = sampler(dimensions, what)
    if false_background:
        for each in patches.labelled:
            each.label[each.label == UNLABELLED] = 0  # type: ignore[index]
        patches = PatchSampler(patches.labelled, patches.unlabelled, patches.patch)
    optimiser = make_optimiser(method, method.recipe, torch.device("cpu"))
    optimiser.param_groups[0]["lr"] = 1e-2
    count = 100
    for step in range(count):
        rng = np.random.default_rng(step)
        torch.manual_seed(step)
        t = step / count
        method.prepare(t, patches, rng)
        losses = method(patches.batch(*method.patch_counts(t), rng), t)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        method.after_step()
    overlap = total = 0.0
    network = method.teacher.eval()  # the average: the student of one moment may be far off
    for seed in (20, 21):
        image, mask = blobs(SHAPE[dimensions], seed)
        window = tuple(slice(0, n // 16 * 16 or n) for n in image.shape)
        given = torch.from_numpy(image[window])
        given = given[:, None] if dimensions == 2 else given[None, None]
        with torch.inference_mode():
            found = network(given.contiguous(memory_format=network.memory_format())).logits.argmax(1).squeeze().numpy()
        overlap += 2 * float((found * mask[window]).sum())
        total += float(found.sum() + mask[window].sum())
    return overlap / total


@pytest.mark.parametrize(
    "dimensions, name, what",
    [(2, "supervised", "strokes"), (2, "mper", "slices"), (3, "supervised", "slices"), (3, "bcp", "strokes")],
)
def test_a_part_of_the_label_is_enough_to_learn_from(dimensions: int, name: str, what: str) -> None:
    assert learnt(name, dimensions, what) > 0.6


def test_the_same_with_background_for_unlabelled_would_be_seen() -> None:
    assert learnt("supervised", 3, "strokes", false_background=True) < 0.5
