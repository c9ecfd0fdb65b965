"""Checkpoints: everything comes back, bit by bit, and lies in memory as it did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mper.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint

OPTIMISERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
}
ALL = pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)


def network(seed: int) -> nn.Module:
    """Kernels in channels-last order, batch norm, a buffer."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    made.register_buffer("prototypes", torch.randn(2, 3))
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def step(module: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    loss = module(torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@ALL
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    one = network(0)
    optimiser = make(one.parameters())
    for seed in range(3):
        step(one, optimiser, seed)
    save_checkpoint(tmp_path, one, optimiser, {"step": 3, "stage": 1})
    assert has_checkpoint(tmp_path)
    other = network(1)
    fresh = make(other.parameters())
    assert load_checkpoint(tmp_path, other, fresh) == {"step": 3, "stage": 1}
    for seed in range(3, 6):
        step(one, optimiser, seed)
        step(other, fresh, seed)
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@ALL
def test_optimisers_memory_lies_as_the_parameters_do(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    module = network(0)
    optimiser = make(module.parameters())
    step(module, optimiser, 0)
    save_checkpoint(tmp_path, module, optimiser, {})
    fresh = make(module.parameters())
    load_checkpoint(tmp_path, module, fresh)
    for parameter in module.parameters():
        for value in fresh.state[parameter].values():
            assert value.shape == () or value.stride() == parameter.stride()


@ALL
def test_nothing_that_was_read_keeps_the_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make) -> None:  # type: ignore[no-untyped-def]
    """What safetensors gives maps the file, and Windows lets nobody replace a file that is mapped."""
    module, read = network(0), []

    class Remembering:
        def __init__(self, *words: object, **options: object):
            self.stored = safe_open(*words, **options)

        def __enter__(self) -> Remembering:
            self.stored.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.stored.__exit__(*error)

        def __getattr__(self, name: str) -> object:
            return getattr(self.stored, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(self.stored.get_tensor(name))
            return read[-1]

    optimiser = make(module.parameters())
    step(module, optimiser, 0)
    save_checkpoint(tmp_path, module, optimiser, {})
    monkeypatch.setattr("safetensors.safe_open", Remembering)
    load_checkpoint(tmp_path, module, optimiser)
    kept = [*module.state_dict().values(), *(value for state in optimiser.state.values() for value in state.values())]
    assert len(read) == len(kept)
    assert {t.untyped_storage().data_ptr() for t in kept}.isdisjoint(t.untyped_storage().data_ptr() for t in read)


def test_what_breaks_while_writing_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(0)
    optimiser = OPTIMISERS["sgd"](module.parameters())
    save_checkpoint(tmp_path, module, optimiser, {"step": 1})

    def full(_: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, "fsync", full)
        save_checkpoint(tmp_path, module, optimiser, {"step": 2})
    assert load_checkpoint(tmp_path, module, optimiser) == {"step": 1}
    save_checkpoint(tmp_path, module, optimiser, {"step": 3})
    assert load_checkpoint(tmp_path, module, optimiser) == {"step": 3}
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    module = network(0)
    optimiser = OPTIMISERS["adamw"](module.parameters())
    save_checkpoint(tmp_path, module, optimiser, {})
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot be read .*; start the run again") as caught:
        load_checkpoint(tmp_path, module, optimiser)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_seen_and_a_checkpoint_of_version_0_1_has_no_checksum(tmp_path: Path) -> None:
    module = network(0)
    optimiser = OPTIMISERS["adamw"](module.parameters())
    step(module, optimiser, 0)
    save_checkpoint(tmp_path, module, optimiser, {"step": 1})
    file = tmp_path / "state.safetensors"
    whole = file.read_bytes()
    for at in (-1, -len(whole) // 3):
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"is damaged \(its checksum differs\); start the run again"):
            load_checkpoint(tmp_path, module, optimiser)
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    save_file(tensors, file, metadata={"about": '{"step": 1}'})
    assert load_checkpoint(tmp_path, module, optimiser) == {"step": 1}


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = network(0)
    optimiser = OPTIMISERS["sgd"](module.parameters())
    save_checkpoint(tmp_path, module, optimiser, {"step": 1})

    def full(_: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*: the disk is full; make room .*, then resume"):
        save_checkpoint(tmp_path, module, optimiser, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    assert load_checkpoint(tmp_path, module, optimiser) == {"step": 1}


def test_checkpoint_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    module = network(0)
    save_checkpoint(tmp_path, module, OPTIMISERS["sgd"](module.parameters()), {})
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="belongs to another network") as caught:
        load_checkpoint(tmp_path, other, OPTIMISERS["sgd"](other.parameters()))
    assert "\n" not in str(caught.value)


def test_folder_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path / "checkpoint")
