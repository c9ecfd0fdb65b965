"""Train the finder of the left atrium (Resources/Models/la-locator) from the challenge's files, and measure it.

    python Testing/benchmarks/train_locator.py ../shared/data/LA OUT [--steps N] [--seed N]
    python Testing/benchmarks/train_locator.py ../shared/data/LA OUT --measure [--model Resources/Models/la]

Training: cases 1 to 72 of train.list, each put at random places of made-up wide fields (mper.fields). Measuring: cases
73 to 80, in fields of the scan's own resolution around which they were never seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mper import metrics
from mper.augment import intensities
from mper.bundle import ModelBundle
from mper.card import Card
from mper.fields import Crop, place_in_field
from mper.io import read_labelmap, read_volume
from mper.labels import UNLABELLED, make_label
from mper.locate import Finder
from mper.nets import NetConfig, Network
from mper.predictor import Predictor
from mper.preprocess import Preprocessing, WorkingGrid, normalise
from mper.sampling import PatchSampler, TrainingCase
from mper.volume import Volume

SPACING_MM = (4.0, 4.0, 4.0)
PATCH = (32, 96, 96)
MARGIN_MM = (20.0, 15.0, 13.0)  # what the training crops have around the atrium, and half a voxel of the finder's


def read_crop(folder: Path, case: str) -> tuple[Volume, np.ndarray]:
    """A scan and its atrium."""
    return read_volume(folder / case / "lgemri.nrrd"), read_labelmap(folder / case / "laendo.nrrd").array > 0


def coarse(volume: Volume, mask: np.ndarray) -> Crop:
    """A scan on the finder's grid."""
    grid = WorkingGrid.plan(volume.geometry, Preprocessing(SPACING_MM), 3)
    return Crop(grid.forward(volume.array).numpy(), grid.forward_labels(mask.astype(np.uint8), 2).numpy() == 1)


def loss_of(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice of the structure; voxels outside the field are ignored."""
    known = label != UNLABELLED
    p = logits.softmax(1)[:, 1][known]
    y = (label == 1)[known].float()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return F.cross_entropy(logits, label, ignore_index=UNLABELLED) + dice


def train(crops: Sequence[Crop], steps: int, seed: int, filters: int) -> Network:
    """The finder's network after so many steps of one field each, with averaged weights."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    preprocessing = Preprocessing(SPACING_MM)
    network = Network(NetConfig("vnet", 2, prototypes=1, filters=filters, dropout=(0.1, 0.0)))
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    network = network.to(memory_format=torch.channels_last_3d).train()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    started = time.perf_counter()
    for step in range(steps):
        patches = []
        for _ in range(2):
            field = place_in_field(crops[int(rng.integers(len(crops)))], crops, SPACING_MM, rng, rng.uniform(300, 420))
            image = normalise(torch.from_numpy(field.image), preprocessing)
            case = TrainingCase("field", image, torch.from_numpy(field.mask.astype(np.uint8)))
            patches.append(PatchSampler([case], [], PATCH).batch(1, 0, rng))
        image = intensities(torch.cat([p.image for p in patches]), rng).contiguous(memory_format=torch.channels_last_3d)
        label = torch.cat([p.label for p in patches])
        # float32: oneDNN's bfloat16 weight gradients are garbage where a 3x3x3 kernel sees a depth of 2 (torch 2.13).
        loss = loss_of(network(image).logits, label)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        if step % 50 == 49:
            print(
                f"step {step + 1}/{steps} loss {float(loss.detach()):.3f} {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return average.module.to(memory_format=torch.contiguous_format).eval()


def wide_scan(volume: Volume, mask: np.ndarray, others: Sequence[Crop], seed: int) -> tuple[Volume, np.ndarray]:
    """A scan in a made-up field of its own resolution, where its voxels keep their places in the patient."""
    spacing = volume.geometry.spacing_mm
    assert spacing is not None
    field = place_in_field(Crop(volume.array.astype(np.float32), mask), others, spacing, np.random.default_rng(seed))
    start = -np.array(field.start)
    geometry = volume.geometry.crop(start, start + field.image.shape)
    return Volume(np.round(field.image * 10).astype(np.int16), geometry), field.mask


def measure(folder: Path, cases: Sequence[str], finder: ModelBundle, model: ModelBundle | None, fields: int) -> dict:
    """How often the found region holds the whole atrium, and Dice with and without the wide field."""
    crops = [read_crop(folder, case) for case in cases]
    pieces = [Crop(v.array.astype(np.float32), m) for v, m in crops]
    find = Finder(finder, torch.device("cpu"), torch.float32)
    predictor = Predictor(model, "cpu", finder=finder) if model else None
    rows = []
    for n, (case, (volume, mask)) in enumerate(zip(cases, crops, strict=True)):
        tight = predictor.predict(volume).segmentation.labelmap.array if predictor else None
        for f in range(fields):
            scan, truth = wide_scan(volume, mask, pieces[:n] + pieces[n + 1 :], seed=1000 * n + f)
            region = find.find(scan)
            held = 0.0 if region is None else float(truth[region.window].sum() / truth.sum())
            row = {"case": case, "field": f, "held": held, "shape": scan.array.shape}
            if region is not None:
                row["crop"] = tuple(b - a for a, b in zip(region.start, region.stop, strict=True))
            if predictor and tight is not None:
                row["dice_tight"] = metrics.dice(tight > 0, mask)
                row["dice_wide"] = metrics.dice(predictor.predict(scan).segmentation.labelmap.array > 0, truth)
            print(row, flush=True)
            rows.append(row)
    whole = sum(row["held"] == 1 for row in rows)
    summary = {"fields": len(rows), "whole_atrium": whole, "least_held": min(row["held"] for row in rows)}
    for name in ("dice_tight", "dice_wide"):
        if predictor:
            summary[name] = float(np.mean([row[name] for row in rows]))
            summary[f"{name}_least"] = float(np.min([row[name] for row in rows]))
    return summary


def bundle_of(network: Network, steps: int, seed: int, seconds: float, quality: dict) -> ModelBundle:
    """The finder with its card."""
    about = {
        "modality": "MR, late gadolinium enhancement",
        "intended_use": "Finds the region of the left atrium in a wide field of view, for the models that name it.",
        "limits": "No real full-field scan with a reference mask was available: trained and measured on public crops "
        "placed in made-up fields (air, body outline, tissue, organ-like shapes). Check the region that it finds.",
        "margin_mm": MARGIN_MM,
        "data": "2018 Atrial Segmentation Challenge, cases 1 to 72 of train.list, in made-up fields",
        "training": {
            "method": "supervised, cross-entropy and Dice, AdamW, averaged weights",
            "steps": steps,
            "batch": 2,
            "seed": seed,
            "minutes": round(seconds / 60, 1),
            "hardware": "1 CPU thread",
            "date": date.today().isoformat(),
            "command": f"python Testing/benchmarks/train_locator.py LA OUT --steps {steps} --seed {seed}",
        },
        "quality": quality,
    }
    preprocessing = {k: v for k, v in asdict(Preprocessing(SPACING_MM)).items() if v is not None}
    return ModelBundle(
        Card(
            "la-locator",
            "1.0.0",
            "Left atrium in a wide field (finder)",
            (make_label(1, "LA"),),
            asdict(network.config),
            preprocessing,
            PATCH,
            about=about,
        ),
        network.state_dict(),
    )


def main() -> None:
    """Train, or measure, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the challenge's folder: train.list, <case>/lgemri.nrrd, laendo.nrrd")
    parser.add_argument("out", type=Path, help="where the bundle goes, or is")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--fields", type=int, default=3, help="wide fields a case, when measuring")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    cases = (args.folder / "train.list").read_text(encoding="utf-8").split()
    if not args.measure:
        torch.set_num_threads(1)
        crops = [coarse(*read_crop(args.folder, case)) for case in cases[:72]]
        started = time.perf_counter()
        network = train(crops, args.steps, args.seed, args.filters)
        bundle_of(network, args.steps, args.seed, time.perf_counter() - started, {}).save(args.out, "int8")
    else:
        model = ModelBundle.load(args.model) if args.model else None
        print(json.dumps(measure(args.folder, cases[72:80], ModelBundle.load(args.out), model, args.fields), indent=1))


if __name__ == "__main__":
    main()
