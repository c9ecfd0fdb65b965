"""A run's state as one safetensors file: written under another name and renamed, so that it is always whole.

The file carries a checksum of its tensors, so that a run does not go on from a checkpoint that was damaged on the disk.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mper.utils.coded import Coded
from mper.utils.errors import is_disk_full
from mper.utils.files import replace_file
from mper.utils.text import first_line

_FILE = "state.safetensors"
_MODULE, _OPTIMISER = "module.", "optimiser."


def save_checkpoint(
    folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, about: Mapping[str, Any]
) -> None:
    """Write weights, buffers, the optimiser's tensors and a JSON description.

    Raises
    ------
    OSError
        If it cannot be written, such as on a full disk; the checkpoint before it stays, and nothing else is left.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {_MODULE + name: value for name, value in module.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{_OPTIMISER}{index}.{key}"] = value
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_FILE}.part"  # always the same name: what a killed process left is overwritten
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(tensors, temporary, metadata={"about": json.dumps(dict(about)), "checksum": _checksum(tensors)})
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())  # else a power failure could leave the name without the content
        replace_file(temporary, folder / _FILE)
    except SafetensorError as error:
        why = "the disk is full" if is_disk_full(error) else first_line(error)
        line = f"cannot write the checkpoint {folder / _FILE}: {why}; make room on the disk, then resume the run"
        raise OSError(Coded(line, "checkpoint-not-written", reason=str(why))) from error
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """CRC-32 of the bytes of all tensors in the order of their names, which are part of it."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"crc32:{crc:08x}"


def has_checkpoint(folder: Path) -> bool:
    return (folder / _FILE).exists()


def read_description(folder: Path) -> dict[str, Any]:
    """The description of a saved state; empty where there is none or it is damaged, which `load_checkpoint` reports."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _FILE, framework="pt") as stored:
            return dict(json.loads(stored.metadata()["about"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}


def load_checkpoint(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a saved state back, strictly, and give its description.

    Raises
    ------
    ValueError
        If the checkpoint is damaged or belongs to another network.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / _FILE
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            about = dict(json.loads(metadata["about"]))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        line = f"the checkpoint {path} cannot be read ({error}); start the run again"
        raise ValueError(Coded(line, "checkpoint-damaged", path=str(path))) from error
    if metadata.get("checksum", checksum := _checksum(tensors)) != checksum:  # version 0.1 wrote none
        line = f"the checkpoint {path} is damaged (its checksum differs); start the run again"
        raise ValueError(Coded(line, "checkpoint-damaged", path=str(path)))
    try:
        module.load_state_dict({n[len(_MODULE) :]: v for n, v in tensors.items() if n.startswith(_MODULE)})
    except RuntimeError as error:
        line = (
            f"the checkpoint {path} belongs to another network ({first_line(error).rstrip(':')}), as where structures "
        )
        raise ValueError(f"{line}were added to the dataset since; start a new run") from error
    state = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMISER):
            index, key = name[len(_OPTIMISER) :].split(".", 1)
            like = parameters[int(index)]
            # Copied: what was read maps the file, which Windows then does not let the next checkpoint replace.
            if value.shape == like.shape:  # fused optimisers need the memory layout of the parameter
                value = torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
            else:
                value = value.clone()
            entries.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
    return about
