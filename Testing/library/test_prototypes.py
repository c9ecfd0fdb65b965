"""The prototype classifier against plain loops over voxels, classes and prototypes."""

from __future__ import annotations

import math

import pytest
import torch

from mper.labels import UNLABELLED
from mper.nets.prototypes import TEMPERATURE, Prototypes

CLASSES, PER_CLASS, DIM = 3, 2, 5
SPATIAL = [(4, 3), (3, 2, 4)]
BOTH = pytest.mark.parametrize("spatial", SPATIAL, ids=["2-D", "3-D"])


def made(seed: int = 0) -> Prototypes:
    torch.manual_seed(seed)
    prototypes = Prototypes(CLASSES, PER_CLASS, DIM)
    prototypes.vectors.normal_()
    return prototypes


def voxels(embedding: torch.Tensor) -> list[list[float]]:
    """Embeddings one by one, in the order of `tensor.flatten()` of a label of the same batch."""
    return embedding.movedim(1, -1).reshape(-1, embedding.shape[1]).tolist()


def cosine(a: list[float], b: list[float]) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms


@BOTH
def test_similarity_is_the_cosine_to_every_prototype(spatial: tuple[int, ...]) -> None:
    prototypes = made()
    embedding = torch.randn(2, DIM, *spatial)
    similarity = prototypes.similarity(embedding)
    assert similarity.shape == (2, CLASSES, PER_CLASS, *spatial)
    found = similarity.movedim((1, 2), (-2, -1)).reshape(-1, CLASSES, PER_CLASS)
    for n, voxel in enumerate(voxels(embedding)):
        for c in range(CLASSES):
            for k in range(PER_CLASS):
                assert found[n, c, k].item() == pytest.approx(
                    cosine(voxel, prototypes.vectors[c, k].tolist()), abs=1e-5
                )


@BOTH
def test_class_score_is_that_of_the_nearest_prototype(spatial: tuple[int, ...]) -> None:
    prototypes = made()
    similarity = prototypes.similarity(torch.randn(2, DIM, *spatial))
    scores = prototypes.logits(similarity)
    assert scores.shape == (2, CLASSES, *spatial)
    for k in range(PER_CLASS):
        assert (scores >= similarity[:, :, k] / TEMPERATURE - 1e-5).all()
    torch.testing.assert_close(scores, torch.maximum(similarity[:, :, 0], similarity[:, :, 1]) / 0.1)


def updated_by_a_loop(
    before: list[list[list[float]]], embedding: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, momentum: float
) -> list[list[list[float]]]:
    after = [[list(vector) for vector in one_class] for one_class in before]
    members: dict[tuple[int, int], list[list[float]]] = {}
    for voxel, label, allowed in zip(
        voxels(embedding), target.flatten().tolist(), mask.flatten().tolist(), strict=True
    ):
        if not allowed or label >= CLASSES:
            continue
        near = [[cosine(voxel, vector) for vector in one_class] for one_class in before]
        scores = [max(row) for row in near]
        if scores.index(max(scores)) != label:
            continue
        members.setdefault((label, near[label].index(max(near[label]))), []).append(voxel)
    for (c, k), own in members.items():
        for d in range(DIM):
            mean = sum(voxel[d] for voxel in own) / len(own)
            after[c][k][d] = momentum * before[c][k][d] + (1 - momentum) * mean
    return after


@BOTH
@pytest.mark.parametrize("channels_last", [False, True])
def test_update_equals_a_loop_over_voxels(spatial: tuple[int, ...], channels_last: bool) -> None:
    prototypes = made(1)
    before = prototypes.vectors.tolist()
    embedding = torch.randn(2, DIM, *spatial)
    if channels_last:
        layout = torch.channels_last_3d if len(spatial) == 3 else torch.channels_last
        embedding = embedding.contiguous(memory_format=layout)
    target = torch.randint(0, CLASSES, (2, *spatial))
    target[0, 0] = UNLABELLED
    mask = torch.rand(2, *spatial) < 0.8
    prototypes.update(embedding, prototypes.similarity(embedding), target, mask, momentum=0.7)
    expected = updated_by_a_loop(before, embedding, target, mask, 0.7)
    torch.testing.assert_close(prototypes.vectors, torch.tensor(expected))
    assert prototypes.vectors.tolist() != before


def test_prototype_that_no_voxel_chose_stays() -> None:
    prototypes = Prototypes(2, 2, 2)
    prototypes.vectors.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]]))
    before = prototypes.vectors.clone()
    embedding = torch.tensor([3.0, 0.1]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)  # all near to prototype 0 of class 0
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    prototypes.update(embedding, prototypes.similarity(embedding), target, target == 0, momentum=0.9)
    torch.testing.assert_close(prototypes.vectors[0, 0], 0.9 * before[0, 0] + 0.1 * torch.tensor([3.0, 0.1]))
    assert torch.equal(prototypes.vectors[0, 1], before[0, 1])
    assert torch.equal(prototypes.vectors[1], before[1])


def test_voxels_outside_the_mask_or_of_another_class_move_nothing() -> None:
    prototypes = made()
    before = prototypes.vectors.clone()
    embedding = torch.randn(1, DIM, 4, 4)
    similarity = prototypes.similarity(embedding)
    right = prototypes.logits(similarity).argmax(1)
    nowhere, everywhere = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    prototypes.update(embedding, similarity, right, nowhere, momentum=0.5)
    prototypes.update(embedding, similarity, (right + 1) % CLASSES, everywhere, momentum=0.5)
    prototypes.update(embedding, similarity, torch.full_like(right, UNLABELLED), everywhere, momentum=0.5)
    assert torch.equal(prototypes.vectors, before)


def test_gradient_goes_through_the_embedding_and_is_finite_where_it_is_zero() -> None:
    prototypes = made()
    embedding = torch.randn(1, DIM, 2, 2)
    embedding[..., 0, 0] = 0
    embedding.requires_grad_()
    prototypes.logits(prototypes.similarity(embedding)).sum().backward()
    assert embedding.grad is not None and embedding.grad.isfinite().all()
    assert (embedding.grad[..., 1, 1] != 0).any()
    assert not prototypes.vectors.requires_grad


@pytest.mark.parametrize("spatial", [(150, 150), (9, 40, 60)], ids=["2d", "3d"])  # more than one slab of voxels
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradient_of_similarity_is_that_of_the_plain_formula(spatial: tuple[int, ...], channels_last: bool) -> None:
    prototypes = made()
    embedding = torch.randn(2, DIM, *spatial)
    if channels_last:
        embedding = embedding.to(
            memory_format=torch.channels_last if len(spatial) == 2 else torch.channels_last_3d  # type: ignore[call-overload]
        )
    ours, plain = (embedding.clone().requires_grad_() for _ in range(2))
    unit = torch.nn.functional.normalize(prototypes.vectors, dim=-1)
    slow = torch.einsum("ckd,bd...->bck...", unit, plain / plain.norm(dim=1, keepdim=True))
    given = torch.randn_like(slow)
    similarity = prototypes.similarity(ours)
    torch.testing.assert_close(similarity, slow, atol=1e-6, rtol=1e-5)
    similarity.backward(given)
    slow.backward(given)
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-5, rtol=1e-4)


def test_autocast_changes_neither_similarity_nor_update() -> None:
    embedding, target = torch.randn(1, DIM, 8, 8), torch.randint(0, CLASSES, (1, 8, 8))
    plain, cast = made(), made()
    similarity = plain.similarity(embedding)
    plain.update(embedding, similarity, target, target >= 0, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cast.similarity(embedding), similarity)
        cast.update(embedding, similarity, target, target >= 0, 0.5)
    assert torch.equal(cast.vectors, plain.vectors)


def planted(centres: torch.Tensor, count: int = 200) -> torch.Tensor:
    return (centres[:, None] + 0.01 * torch.randn(len(centres), count, centres.shape[1])).flatten(0, 1)


def test_start_finds_planted_clusters_of_each_class() -> None:
    torch.manual_seed(0)
    centres = 3 * torch.randn(2, 3, 4)
    embedding = torch.cat([planted(centres[0]), planted(centres[1]), torch.randn(50, 4)])
    target = torch.cat([torch.zeros(600), torch.ones(600), torch.full((50,), UNLABELLED)]).long()
    shuffled = torch.randperm(len(target))
    prototypes = Prototypes(2, 3, 4)
    prototypes.fit(embedding[shuffled], target[shuffled], seed=0)
    for c in range(2):
        distance = torch.cdist(centres[c], prototypes.vectors[c])
        assert distance.min(1).values.max() < 0.05
        assert sorted(distance.argmin(1).tolist()) == [0, 1, 2]


def test_same_seed_starts_at_the_same_prototypes() -> None:
    torch.manual_seed(0)
    embedding, target = torch.randn(500, DIM), torch.randint(0, CLASSES, (500,))
    one, two, other = made(), made(), made()
    one.fit(embedding, target, seed=1)
    two.fit(embedding, target, seed=1)
    other.fit(embedding, target, seed=2)
    assert torch.equal(one.vectors, two.vectors)
    assert not torch.equal(one.vectors, other.vectors)


def test_class_with_too_few_different_voxels_repeats_their_mean_and_an_absent_one_keeps_what_it_had() -> None:
    prototypes = Prototypes(3, 3, 2)
    prototypes.vectors.fill_(7)
    embedding = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    target = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    prototypes.fit(embedding, target, seed=0)
    torch.testing.assert_close(prototypes.vectors[0], torch.tensor([[1.5, 2.5]] * 3))
    assert sorted(prototypes.vectors[1, :, 1].tolist()) == [1, 2, 3]
    assert (prototypes.vectors[2] == 7).all()
