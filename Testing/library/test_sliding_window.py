"""Running networks over volumes: folding, padding, tiles, slices, mirrors."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from mper.inference.sliding_window import (
    Runner,
    Scores,
    fold_batch_norms,
    gaussian_weight,
    mirrored,
    pad_edges,
    tile_starts,
    tiled,
)
from mper.nets.network import NetConfig, Network
from mper.progress import Cancelled, Progress

CPU = torch.device("cpu")


def _network(kind: str = "vnet") -> Network:
    torch.manual_seed(1)
    network = Network(NetConfig(kind, 3, filters=2, dropout=(0.0, 0.0))).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("kind", ["vnet", "unet"])
def test_folding_batch_norms_keeps_the_function(kind: str) -> None:
    network = _network(kind)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in folded.modules())
    image = torch.randn(1, 1, *[32] * network.config.dimensions)
    with torch.inference_mode():
        for expected, found in zip(network(image), folded(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_runner_leaves_the_network_alone() -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Runner(network, CPU, torch.bfloat16)(torch.randn(16, 16, 16))
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_volume_of_the_right_size_gives_what_the_network_gives() -> None:
    network = _network()
    image = torch.randn(16, 32, 48)
    scores = Runner(network, CPU, torch.float32)(image, embed=(1, 1, 1))
    with torch.inference_mode():
        expected = network(image[None, None])
    torch.testing.assert_close(scores.logits, expected.logits[0], rtol=1e-4, atol=1e-5)
    assert scores.embedding is not None
    torch.testing.assert_close(scores.embedding, expected.embedding[0], rtol=1e-4, atol=1e-5)


def test_slices_in_batches_equal_slices_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mper.inference.sliding_window.SLICE_BATCH_VOXELS", 2 * 32 * 48)
    runner = Runner(_network("unet"), CPU, torch.float32)
    image = torch.randn(5, 30, 41)
    together = runner(image, embed=(1, 1, 1))
    assert together.logits.shape == (3, 5, 30, 41)
    for k in range(5):
        alone = runner(image[k : k + 1], embed=(1, 1, 1))
        torch.testing.assert_close(together.logits[:, k], alone.logits[:, 0], rtol=1e-4, atol=1e-5)
        assert together.embedding is not None and alone.embedding is not None
        torch.testing.assert_close(together.embedding[:, k], alone.embedding[:, 0], rtol=1e-4, atol=1e-5)


def test_padding_repeats_the_edge_on_both_sides() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 2)))
    padded, inside = pad_edges(image, (6, 5, 4))
    assert torch.equal(padded[inside], image)
    np.testing.assert_array_equal(padded.numpy(), np.pad(image.numpy(), ((1, 2), (0, 0), (1, 1)), mode="edge"))


@pytest.mark.parametrize(("kind", "smooth"), [("vnet", True), ("vnet", False), ("unet", False)])
def test_the_embedding_of_some_voxels_is_that_of_all_at_these(kind: str, smooth: bool) -> None:
    network = Network(NetConfig(kind, classes=2, filters=8, smooth=smooth)).eval()
    runner, image = Runner(network, CPU, torch.float32), torch.randn(19, 35, 41)
    whole, thin = runner(image, (1, 1, 1)).embedding, runner(image, (3, 2, 2)).embedding
    assert whole is not None and thin is not None and whole.shape[1:] == image.shape
    torch.testing.assert_close(thin, whole[:, ::3, ::2, ::2])


def test_embeddings_are_left_out_unless_wanted() -> None:
    assert Runner(_network(), CPU, torch.float32)(torch.randn(16, 16, 16)).embedding is None


@pytest.mark.parametrize("shape", [(20, 50, 37), (16, 32, 32), (7, 40, 9)])
def test_tiles_of_a_constant_network_come_back_constant(shape: tuple[int, int, int]) -> None:
    def constant(tile: torch.Tensor) -> Scores:
        value = torch.tensor([2.0, -3.0])[:, None, None, None]
        return Scores(value.expand(2, *tile.shape), value.expand(2, *tile.shape) / 7)

    scores = tiled(constant, torch.zeros(shape), (16, 32, 32), 2)
    assert scores.embedding is not None
    for found, values in ((scores.logits, (2.0, -3.0)), (scores.embedding, (2 / 7, -3 / 7))):
        assert found.shape == (2, *shape)
        for channel, value in zip(found, values, strict=True):
            torch.testing.assert_close(channel, torch.full(shape, value), rtol=1e-5, atol=0)


def test_tiles_of_a_network_that_sees_single_voxels_equal_the_whole() -> None:
    def local(tile: torch.Tensor) -> Scores:
        return Scores(torch.stack([tile, tile**2]), None)

    image = torch.randn(19, 45, 70)
    scores = tiled(local, image, (16, 16, 32), 2)
    assert scores.embedding is None
    torch.testing.assert_close(scores.logits, local(image).logits, rtol=1e-4, atol=1e-5)


def test_tiles_cover_every_voxel_and_overlap_by_half() -> None:
    for length in range(1, 100):
        for tile in (16, 32):
            starts = tile_starts(length, tile)
            assert starts[0] == 0 and max(starts) == max(0, length - tile)
            assert all(b - a <= tile // 2 for a, b in itertools.pairwise(starts))


def test_weights_are_largest_in_the_middle_and_never_vanish() -> None:
    weight = gaussian_weight((16, 32, 48))
    assert weight.max() == 1 and weight.min() > 0
    assert torch.equal(weight, weight.flip(0, 1, 2))
    assert weight[8, 16, 24] == 1


def test_cancelling_between_tiles_stops_the_work() -> None:
    seen: list[torch.Tensor] = []

    def local(tile: torch.Tensor) -> Scores:
        seen.append(tile)
        return Scores(tile[None], None)

    def cancel(progress: Progress) -> None:
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        tiled(local, torch.zeros(64, 64, 64), (16, 16, 16), 1, cancel)
    assert len(seen) == 2


def test_mirroring_averages_all_combinations() -> None:
    runner = Runner(_network(), CPU, torch.float32)
    image = torch.randn(16, 16, 32)
    found = mirrored(runner, (1, 2))(image).logits
    versions = [(), (1,), (2,), (1, 2)]
    expected = torch.stack([runner(image.flip(v)).logits.flip([a + 1 for a in v]) for v in versions]).mean(0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mirrored(runner, (1, 2))(image.flip(1)).logits.flip(2), found)  # it has become symmetric


def test_bfloat16_is_close_to_float32() -> None:
    network, image = _network(), torch.randn(32, 32, 32)
    exact, fast = (Runner(network, CPU, dtype)(image).logits for dtype in (torch.float32, torch.bfloat16))
    assert 0 < (exact - fast).abs().max() < 0.05 * exact.abs().max()
