"""Import, pack, publish and checkpoint on a disk that fills up, and in a program that is killed, at any step.

After each fault there is what was there before or all that is new, never a half; a full disk is one line in words and
leaves nothing half-written; the same command again ends as one that was never interrupted, and removes what the killed
one left.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disk_faults import Killed, faults, half_written, make_dead
from small_data import blob_dataset
from small_models import random_bundle
from small_sources import la_source
from torch import nn

from mper.datasets.dataset import Dataset
from mper.datasets.importer import import_source
from mper.datasets.packed import PackedDataset, pack
from mper.models.bundle import ModelBundle
from mper.training.checkpoint import load_checkpoint, save_checkpoint
from mper.training.publish import publish_run, published_version
from mper.utils.errors import explain

Action = Callable[[Path], object]
State = Callable[[Path], dict[object, object]]  # what others see of the result, each whole thing with its content


def prepare(folder: Path) -> None:
    """All that the actions need: a source, a dataset, a finished run, and a first checkpoint."""
    la_source(folder / "source", "a")
    dataset = blob_dataset(folder / "data", 2, shape=(4, 6, 8))
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(json.dumps({"dataset": str(dataset.path), "name": "mine"}))
    random_bundle().save(folder / "run" / "model")
    save_checkpoint(folder / "checkpoint", *small_module(), {"step": 1})


def small_module() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Linear(2, 2)
    return module, torch.optim.SGD(module.parameters(), lr=0.1)


def imported(folder: Path) -> dict[object, object]:
    if not (folder / "imported" / "dataset.json").exists():
        return {}
    dataset = Dataset.open(folder / "imported")
    cases = [dataset.case(case_id) for case_id in dataset.cases]
    labels = {("label", case.id): label.array.tobytes() for case in cases if (label := case.label()) is not None}
    return {**{case.id: case.image().array.tobytes() for case in cases}, **labels, **dataset.splits}


def packed(folder: Path) -> dict[object, object]:
    if not (folder / "packed").exists():
        return {}
    dataset = PackedDataset.open(folder / "packed")
    return {case_id: dataset.case(case_id).image().array.tobytes() for case_id in dataset.cases}


def published(folder: Path) -> dict[object, object]:
    dataset = Dataset.open(folder / "data")
    versions = dataset.model_versions("mine") if "mine" in dataset.models else []
    cards = {version: ModelBundle.load(dataset.model("mine", version)).card.version for version in versions}
    noted = published_version(folder / "run")
    return {**cards, **({} if noted is None else {"noted": noted})}


def checkpoint(folder: Path) -> dict[object, object]:
    return dict(load_checkpoint(folder / "checkpoint", *small_module()))


ACTIONS: dict[str, tuple[Action, State]] = {
    "import": (lambda folder: import_source(folder / "source", folder / "imported"), imported),
    "pack": (lambda folder: pack(Dataset.open(folder / "data"), folder / "packed", 1), packed),
    "publish": (lambda folder: publish_run(folder / "run"), published),
    "checkpoint": (lambda folder: save_checkpoint(folder / "checkpoint", *small_module(), {"step": 2}), checkpoint),
}


@pytest.mark.parametrize("kill", [False, True], ids=["full disk", "kill -9"])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_fault_at_any_step_leaves_nothing_half_made(tmp_path: Path, name: str, kill: bool) -> None:
    action, state = ACTIONS[name]
    fresh, whole = tmp_path / "fresh", tmp_path / "whole"
    prepare(fresh)
    before = state(fresh)
    copy_of(fresh, whole)
    with faults(kill=kill) as counted:
        action(whole)
    after = state(whole)
    assert after != before and not half_written(whole)
    for at in range(counted.steps):
        folder = tmp_path / str(at)
        copy_of(fresh, folder)
        with faults(at, kill), pytest.raises(Killed if kill else OSError) as caught:
            action(folder)
        if not kill:
            line = explain(caught.value)
            assert "the disk is full" in line and "\n" not in line and "internal error" not in line
            assert not half_written(folder)
        now = state(folder)
        assert now.items() <= {*before.items(), *after.items()}
        make_dead(folder)
        action(folder)
        assert state(folder) == after
        assert not half_written(folder)


def copy_of(source: Path, target: Path) -> None:
    """The prepared folder once more; the run refers to the dataset by its path."""
    shutil.copytree(source, target)
    config = target / "run" / "config.json"
    config.write_text(json.dumps({"dataset": str(target / "data"), "name": "mine"}))
