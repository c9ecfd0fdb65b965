"""The parts of a training run: network, optimiser, devices."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mper.dataloading.patch_sampler import PatchSampler
from mper.inference.postprocessing import ROOM
from mper.labels import UNLABELLED
from mper.methods.base import Method
from mper.methods.recipe import Recipe
from mper.nets.network import NetConfig, Network
from mper.nets.registry import find_backbone
from mper.training.config import TrainConfig
from mper.training.data import TrainingData
from mper.utils.devices import autocast_dtype, keep_freed_memory, pick_training_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric

KNOWN_DICE = 0.85  # of the start model on the labelled scans, from which these are like those that it has learned
AVERAGED_DICE = 0.5  # below which the start model is of no use in the result
_FULL_RATE = 1e-3
_TUNING_RATE = 2e-4  # la-8, 8 more labels, 200 steps: Dice 0.901 -> 0.908, with 1e-3 0.905 (8 cases, one seed)


_LOOKED_AT = 4  # patches of the labelled scans, at least


def make_network(config: TrainConfig, data: TrainingData) -> Network:
    """A fresh network, or the one to fine-tune; other structures get a new classifier and new prototypes.

    Raises
    ------
    ValueError
        If another number of prototypes is asked for than the model to start from has.
    """
    start, classes = data.start, len(data.labels) + 1
    clean = config.make_recipe().clean_embedding
    dropout = (0.5, 0.0 if clean else 0.5)
    prototypes = config.prototypes
    if start is None:
        kind = find_backbone(data.plan.network)
        own = min(kind.queries, max(1, ROOM // classes)) if kind.queries else 3
        smooth = clean and kind.smooth
        return Network(
            NetConfig(kind.kind, classes, prototypes or own, filters=kind.filters, dropout=dropout, smooth=smooth)
        )
    if prototypes not in (None, start.network.prototypes):
        raise ValueError(
            f"the model to start from has {start.network.prototypes} prototypes a class, {prototypes} were asked for"
        )
    network = Network(replace(start.network, classes=classes, dropout=dropout))
    heads = ("backbone.classifier.", "backbone.deep_classifiers.", "prototypes.")
    new = () if data.refines else heads
    taken = {name: value for name, value in start.state.items() if not name.startswith(new)}
    network.load_state_dict({**network.state_dict(), **taken})
    network.taken_over = frozenset(taken)
    return network


@torch.no_grad()
def start_dice(
    network: Network, sampler: PatchSampler, window: Sequence[int], seed: int, without: Collection[str] = ()
) -> float:
    """Dice of a start model on patches of the labelled scans, over all of them, mean over the structures.

    The patches are as large as the windows that it predicts with: in smaller ones it knows less than it does.

    Neither the distance of the scans' embeddings from the model's prototypes nor that of their statistics from those of
    its batch norms told bSSFP scans from the LGE scans that a model had learned; labels do, and some are always there.
    Scans labelled by strokes alone tell nothing, as these lie where a model is wrong: leave them out by `without`. If
    there are no others the Dice is 1.
    """
    cases = [case for case in sampler.labelled if case.id not in without]
    if not cases:
        return 1.0
    sampler = sampler.with_patch(window)
    rng = np.random.default_rng(seed)
    training = network.training
    network.eval()
    common, both = torch.zeros(2, network.config.classes, device=sampler.labelled[0].image.device)
    for n in range(max(_LOOKED_AT, min(len(cases), 2 * _LOOKED_AT))):
        patch = sampler.labelled_patch(cases[n % len(cases)], rng)
        predicted = network(patch.image.contiguous(memory_format=network.memory_format())).logits.max(1).indices
        known = patch.label != UNLABELLED
        for c in range(network.config.classes):
            one, other = (predicted == c) & known, patch.label == c
            common[c] += (one & other).sum()
            both[c] += one.sum() + other.sum()
    network.train(training)
    shown = both[1:] > 0
    return float((2 * common[1:] / both[1:])[shown].mean()) if shown.any() else 0.0


def make_optimiser(method: Method, recipe: Recipe, device: torch.device, tuned: bool = False) -> torch.optim.Optimizer:
    """The recipe's optimiser; `tuned` where a network learns more of what it is good at already, at a lower rate."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    # A fused step would undo float16's loss scaling by itself, which does not go with clipping.
    fused = device.type in ("cuda", "cpu") and autocast_dtype(device) != torch.float16
    if recipe.adamw:
        rate = _TUNING_RATE if tuned else _FULL_RATE
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2, fused=fused)
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=fused)


def make_fabric(config: TrainConfig) -> Fabric:
    """Device, number format and processes of a run, launched."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets everyone with the number format
    warnings.filterwarnings("ignore", "The `srun` command is available")  # a run is a job of SLURM by --cluster
    device = pick_training_device(config.device)
    formats: dict[torch.dtype, Literal["bf16-mixed", "16-mixed"]] = {
        torch.bfloat16: "bf16-mixed",
        torch.float16: "16-mixed",
    }
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    fabric = Fabric(
        accelerator=device.type,
        devices=processes if many else [device.index or 0] if device.type == "cuda" else 1,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")) if many else 1,
        strategy="ddp" if many else "auto",
        precision=formats.get(autocast_dtype(device), "32-true"),
    )
    fabric.launch()
    if device.type == "cpu":
        keep_freed_memory()
    return fabric
