"""The networks of the paper: sizes, outputs, and the layout they train in."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mper.nets.network import NetConfig, Network, _Smooth, _smoothed


def parameters(config: NetConfig) -> int:
    return sum(p.numel() for p in Network(config).parameters())


def test_vnet_has_the_parameters_of_the_paper() -> None:
    assert parameters(NetConfig("vnet", classes=2)) == 9_448_866


def test_unet_has_the_parameters_of_the_paper() -> None:
    assert parameters(NetConfig("unet", classes=4)) == 1_813_764


def test_prototypes_belong_to_the_state_and_are_not_trained() -> None:
    network = Network(NetConfig("unet", classes=3, prototypes=5, filters=4))
    assert network.state_dict()["prototypes.vectors"].shape == (3, 5, 4)
    assert "prototypes.vectors" not in dict(network.named_parameters())


@pytest.mark.parametrize(
    "kind, spatial",
    [
        ("vnet", (16, 48, 32)),
        ("vnet", (32, 16, 16)),
        ("unet", (48, 16)),
        ("unet3d", (16, 48, 32)),
        ("resenc", (16, 48, 32)),
        ("resenc2d", (48, 16)),
    ],
)
def test_sizes_that_are_multiples_of_sixteen_come_back_with_sixteen_channels(
    kind: str, spatial: tuple[int, ...]
) -> None:
    network = Network(NetConfig(kind, classes=3)).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 1, *spatial))
    assert output.logits.shape == (2, 3, *spatial)
    assert output.embedding.shape == output.dropped.shape == (2, 16, *spatial)


@pytest.mark.parametrize("kind", ["vnet", "unet3d", "resenc"])
def test_embedding_is_what_the_classifier_sees(kind: str) -> None:
    network = Network(NetConfig(kind, classes=2, filters=4)).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 1, 16, 16, 16))
        torch.testing.assert_close(network.backbone.classifier(output.dropped), output.logits)
    assert torch.equal(output.embedding, output.dropped)


def test_embedding_is_taken_before_the_last_dropout_which_drops_whole_channels() -> None:
    torch.manual_seed(0)
    network = Network(NetConfig("vnet", classes=2)).train()
    output = network(torch.randn(2, 1, 16, 16, 16))
    dead = (output.dropped == 0).flatten(2).all(2)
    assert 0 < dead.sum() < dead.numel()
    alive = ~dead[:, :, None, None, None].expand_as(output.dropped)
    torch.testing.assert_close(output.dropped[alive], 2 * output.embedding[alive])


def test_dropout_rates_are_those_of_the_paper() -> None:
    vnet = Network(NetConfig("vnet", classes=2))
    assert [m.p for m in vnet.modules() if isinstance(m, nn.Dropout3d)] == [0.5, 0.5]
    unet = Network(NetConfig("unet", classes=4))
    assert [m.p for m in unet.modules() if isinstance(m, nn.Dropout)] == [0.05, 0.1, 0.2, 0.3, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize("kind, spatial", [("resenc", (16, 48, 32)), ("resenc2d", (48, 16))])
def test_a_residual_encoder_is_supervised_at_four_resolutions_while_it_trains(
    kind: str, spatial: tuple[int, ...]
) -> None:
    network = Network(NetConfig(kind, classes=3, filters=2))
    image = torch.randn(2, 1, *spatial)
    shapes = [deep.shape for deep in network.train()(image).deep]
    assert shapes == [(2, 3, *(n // 2**level for n in spatial)) for level in (1, 2, 3)]
    assert network.eval()(image).deep == ()


def test_a_backbone_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets.segresnet_ds", None)
    with pytest.raises(ValueError, match=r"MONAI, which is not installed; pip install monai"):
        Network(NetConfig("resenc", classes=2))


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "resnet"}, {"classes": 1}, {"prototypes": 0}, {"filters": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_networks_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="network"):
        NetConfig(**{"kind": "vnet", "classes": 2, **wrong})  # type: ignore[arg-type]


def gradients(network: Network, image: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Of the parameters, computed among memory that is full of NaN."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        logits = network(image).logits
    garbage = [torch.full((size,), float("nan")) for size in (64, 1024, 16_384, 262_144) for _ in range(6)]
    del garbage
    network.zero_grad()
    logits.float().square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("kind, depth", [("vnet", 16), ("vnet", 32), ("vnet", 48), ("unet3d", 16), ("resenc", 16)])
def test_gradients_in_half_precision_are_those_in_full_for_every_depth(
    kind: str, depth: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    network = Network(NetConfig(kind, classes=2, filters=8, dropout=(0.0, 0.0))).eval()  # batch norm would amplify
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    image = torch.randn(2, 1, depth, 16, 32).contiguous(memory_format=layout)
    half, full = (gradients(network, image, dtype) for dtype in (torch.bfloat16, torch.float32))
    for name, gradient in full.items():
        assert half[name].isfinite().all(), name
        assert (half[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize(("kind", "spatial"), [("vnet", (6, 8, 10)), ("unet", (8, 10))])
def test_smoothing_removes_a_pattern_of_period_two_and_nothing_flat(kind: str, spatial: tuple[int, ...]) -> None:
    flat = torch.full((1, 3, *spatial), 2.0)
    assert torch.equal(_smoothed(flat), flat)
    signs = torch.stack(torch.meshgrid(*[torch.arange(n) % 2 for n in spatial], indexing="ij"))
    inside = (..., *[slice(1, -1)] * len(spatial))
    for axis_sign in signs:
        pattern = (1.0 - 2.0 * axis_sign).expand(1, 3, *spatial)
        assert _smoothed(pattern)[inside].abs().max() < 1e-6


def test_a_smooth_network_classifies_as_before_and_describes_voxels_with_their_neighbours() -> None:
    torch.manual_seed(0)
    plain = Network(NetConfig("vnet", 2, filters=2)).eval()
    smooth = Network(NetConfig("vnet", 2, filters=2, smooth=True)).eval()
    smooth.load_state_dict(plain.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        before, after = plain(image), smooth(image)
    assert torch.equal(before.logits, after.logits)
    padded = F.pad(before.embedding, (1, 1, 1, 1, 1, 1))
    weights = torch.tensor([0.25, 0.5, 0.25])
    kernel = weights[:, None, None] * weights[:, None] * weights
    slow = F.conv3d(padded.transpose(0, 1), kernel[None, None]).transpose(0, 1)
    inside = (..., *[slice(1, -1)] * 3)
    torch.testing.assert_close(after.embedding[inside], slow[inside])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 2, 4)])
def test_gradient_of_smoothing_is_right(shape: tuple[int, ...]) -> None:
    torch.autograd.gradcheck(_Smooth.apply, torch.randn(shape, dtype=torch.float64, requires_grad=True))
    x = torch.randn(shape)
    pool = F.avg_pool3d if len(shape) == 5 else F.avg_pool2d
    by_pooling = pool(pool(x, 2, stride=1, padding=1, count_include_pad=False), 2, stride=1)
    torch.testing.assert_close(_smoothed(x), by_pooling)
