"""What a prediction costs, which strategies fit the memory, and which devices there are."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from mper.engine.services.devices import _list_devices
from mper.engine.services.diagnostics import _graphics
from mper.inference.memory import (
    CPU_LIMIT,
    TILES,
    WHOLE,
    Strategy,
    Workload,
    affordable_strategies,
    bytes_needed,
    strategies,
    voxels_seen,
)
from mper.nets.network import NetConfig
from mper.utils import devices
from mper.utils.devices import describe_device, free_bytes, is_out_of_memory, pick_device

CPU, GPU = torch.device("cpu"), torch.device("cuda")
JOB = Workload(NetConfig("vnet", 2), working=(55, 90, 122), tile=(64, 80, 112), source_voxels=2_500_000)
WIDE = replace(JOB, working=(55, 400, 400), source_voxels=36_000_000)


def _half(_: torch.device) -> torch.dtype:
    return torch.bfloat16


def test_the_ways_go_from_fast_to_frugal() -> None:
    assert strategies(CPU) == [Strategy(CPU, WHOLE), Strategy(CPU, TILES)]
    assert strategies(GPU) == [Strategy(GPU, WHOLE), Strategy(GPU, TILES), Strategy(CPU, WHOLE), Strategy(CPU, TILES)]


def test_with_memory_nothing_is_left_out() -> None:
    found, notes = affordable_strategies(JOB, strategies(GPU), lambda _: 10**12, _half)
    assert found == strategies(GPU) and notes == []
    assert affordable_strategies(JOB, strategies(GPU), lambda _: None, _half) == (found, [])


def test_a_full_gpu_is_passed_by_and_told() -> None:
    found, notes = affordable_strategies(JOB, strategies(GPU), lambda device: 0 if device == GPU else 10**12, _half)
    assert found == [Strategy(CPU, WHOLE), Strategy(CPU, TILES)]
    assert [note.split(" needs")[0] for note in notes] == [
        "memory is short: the whole volume at once on cuda",
        "memory is short: the volume in tiles on cuda",
    ]


def test_the_most_frugal_way_is_tried_whatever_it_needs() -> None:
    found, notes = affordable_strategies(JOB, strategies(CPU), lambda _: 0, _half)
    assert found == [Strategy(CPU, TILES)] and notes[-1].endswith("trying it anyway")


def test_a_wide_field_in_float32_goes_in_tiles_however_much_memory_is_free() -> None:
    assert bytes_needed(WIDE, Strategy(CPU, WHOLE), torch.float32) > CPU_LIMIT
    found, notes = affordable_strategies(WIDE, strategies(CPU), lambda _: 10**12, lambda _: torch.float32)
    assert found == [Strategy(CPU, TILES)] and len(notes) == 1


def test_costs_grow_with_what_is_asked_for() -> None:
    whole = Strategy(CPU, WHOLE)
    plain = bytes_needed(JOB, whole, torch.bfloat16)
    assert bytes_needed(JOB, whole, torch.float32) > plain
    assert bytes_needed(replace(JOB, embed=True), whole, torch.bfloat16) > plain
    assert bytes_needed(replace(WIDE, maps=9), whole, torch.bfloat16) > bytes_needed(WIDE, whole, torch.bfloat16)
    assert bytes_needed(WIDE, whole, torch.bfloat16) > bytes_needed(WIDE, Strategy(CPU, TILES), torch.bfloat16) > plain


def test_voxels_are_counted_as_the_network_sees_them() -> None:
    assert voxels_seen(JOB, WHOLE) == 64 * 96 * 128
    assert voxels_seen(JOB, TILES) == 2 * 2 * 64 * 80 * 112  # padded to a tile along k
    assert voxels_seen(replace(JOB, mirrored=(1, 2)), WHOLE) == 4 * 64 * 96 * 128


def test_memory_of_this_machine_is_known() -> None:
    free = free_bytes(CPU)
    assert free is not None and 10**7 < free < 10**14


@pytest.mark.parametrize(("limit", "expected"), [("4000000000", 2_500_000_000), ("max", None)])
def test_page_cache_of_a_container_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int | None
) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    machine = free_bytes(CPU)
    for name, text in (
        ("memory.max", limit),
        ("memory.current", "3000000000"),
        ("memory.stat", "anon 1500000000\nfile 1500000000\ninactive_file 1000000000\nactive_file 500000000"),
    ):
        (tmp_path / name).write_text(f"{text}\n", encoding="ascii")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=machine))
    assert machine is not None
    assert free_bytes(CPU) == (machine if expected is None else min(machine, expected))


def test_memory_is_unknown_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert free_bytes(CPU) is None


def test_want_of_memory_is_known_by_its_many_names() -> None:
    cpu = RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
    )
    for error in (MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("MPS backend out of memory (x)"), cpu):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_devices_are_picked_by_name() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    assert describe_device(CPU).startswith("CPU (")
    for name in ("gpu", "", "cpu:1"):
        with pytest.raises(ValueError, match="unknown device"):
            pick_device(name)
    for name in ("cuda:99", "cuda:x"):
        with pytest.raises(ValueError, match="torch finds"):
            pick_device(name)


@pytest.mark.parametrize(
    ("built", "capabilities", "auto"),
    [
        (["sm_75", "sm_80", "sm_90", "compute_120"], [(6, 1)], "cpu"),  # GTX 10xx
        (["sm_75", "sm_80", "sm_90", "compute_120"], [(7, 0)], "cpu"),  # V100
        (["sm_75", "sm_80", "sm_90"], [(6, 0), (8, 9)], "cuda:1"),
        (["sm_75", "sm_86", "sm_90"], [(8, 0)], "cpu"),
        (["sm_50", "sm_60", "sm_70"], [(6, 1)], "cuda:0"),
        (["sm_75", "sm_90a", "compute_90"], [(12, 0)], "cuda:0"),
        (["gfx90a", "gfx942"], [(9, 4)], "cuda:0"),  # ROCm
    ],
)
def test_auto_takes_no_card_that_torch_was_not_built_for(
    built: list[str], capabilities: list[tuple[int, int]], auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(capabilities))
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: built)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda card: capabilities[card.index])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda card: "GTX 1060")
    monkeypatch.setattr("mper.utils.devices.describe_device", str)
    monkeypatch.setattr("mper.utils.processes.reserve_one_core", lambda: None)
    assert str(pick_device()) == auto
    devices, default = _list_devices()
    assert default == auto == devices[0].name
    told = [finding.text for finding in _graphics()]
    if auto != "cuda:0":
        with pytest.raises(ValueError, match="does not support GTX 1060"):
            pick_device("cuda")
        assert "GTX 1060: not used" in told[0]
    assert auto == "cpu" or told[-1].startswith(f"{auto}: used for everything")
