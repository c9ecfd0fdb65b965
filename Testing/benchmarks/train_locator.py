"""Train the finder of the left atrium (Resources/Models/la-locator) from the challenge's files, and measure it.

    python Testing/benchmarks/train_locator.py ../shared/data/LA OUT [--steps N] [--seed N]
    python Testing/benchmarks/train_locator.py ../shared/data/LA OUT --measure [--model Resources/Models/la]

Training: cases 1 to 72 of train.list, each put at random places of made-up wide fields (_fields). Measuring: cases
73 to 80, in fields of the scan's own resolution around which they were never seen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from mper.dataloading.augmentation import intensities
from mper.dataloading.composed_field import Crop, place_in_field
from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import Preprocessing, WorkingGrid, normalise
from mper.evaluation import metrics
from mper.inference.localization import Localizer
from mper.inference.predictor import Predictor
from mper.io import read_labelmap, read_volume
from mper.labels import UNLABELLED, make_label
from mper.models.bundle import ModelBundle
from mper.models.card import Card
from mper.nets.network import NetConfig, Network
from mper.volume import Geometry, Spacing, Volume

SPACING_MM = (5.0, 5.0, 5.0)
PATCH = (32, 80, 80)
MARGIN_MM = (20.0, 24.0, 30.0)  # of four tried the best for Dice in wide fields: room in the training crops, and error


def read_crop(folder: Path, case: str) -> tuple[Volume, np.ndarray]:
    """A scan and its atrium."""
    return read_volume(folder / case / "lgemri.nrrd"), read_labelmap(folder / case / "laendo.nrrd").array > 0


def resampled(volume: Volume, mask: np.ndarray, spacing_mm: Spacing) -> Crop:
    """A scan on a coarser grid."""
    grid = WorkingGrid.plan(volume.geometry, Preprocessing(spacing_mm), 3)
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
            # Grown by a voxel: thin veins would else be missed, and the region around them cut too tightly.
            near = ndimage.binary_dilation(field.mask).astype(np.uint8)
            case = TrainingCase("field", image, torch.from_numpy(near))
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


def wide_scan(crop: Crop, others: Sequence[Crop], spacing_mm: Spacing, seed: int) -> tuple[Volume, np.ndarray]:
    """A scan in a made-up field, as a scanner would store it."""
    field = place_in_field(crop, others, spacing_mm, np.random.default_rng(seed))
    geometry = Geometry.from_axes((0, 0, 0), spacing_mm, np.eye(3)[:, ::-1], field.image.shape)
    return Volume(np.round(field.image * 10).astype(np.int16), geometry), field.mask


def measure_finding(crops: Sequence[tuple[Volume, np.ndarray]], localizer: ModelBundle, fields: int) -> dict:
    """How much of the atrium the found region holds, in fields of 1.25 mm voxels."""
    spacing = (1.25, 1.25, 1.25)
    coarse = [resampled(*crop, spacing) for crop in crops]
    locate = Localizer(localizer, torch.device("cpu"), torch.float32)
    held, sizes = [], []
    for n, crop in enumerate(coarse):
        for f in range(fields):
            scan, truth = wide_scan(crop, coarse[:n] + coarse[n + 1 :], spacing, seed=1000 * n + f)
            region = locate.locate(scan)
            held.append(0.0 if region is None else float(truth[region.window].sum() / truth.sum()))
            sizes.append((0, 0, 0) if region is None else np.subtract(region.stop, region.start) * 1.25)
            found = (np.argwhere(truth).min(0), np.argwhere(truth).max(0))
            if region is not None:
                print(case_line(n, f, held[-1], found, region.start, region.stop, scan.array.shape), flush=True)
    return {
        "fields": len(held),
        "whole_atrium": sum(h == 1 for h in held),
        "above_99_percent": sum(h > 0.99 for h in held),
        "least_held": min(held),
        "region_mm": np.mean(sizes, axis=0).round(0).tolist(),
    }


def case_line(
    n: int,
    f: int,
    held: float,
    truth: Sequence[np.ndarray],
    start: Sequence[int],
    stop: Sequence[int],
    shape: Sequence[int],
) -> str:
    """What was found, with the room around the atrium in mm (before and after, along k, j, i)."""
    before, after = (truth[0] - start) * 1.25, (np.array(stop) - 1 - truth[1]) * 1.25
    return f"case {73 + n} field {f} of {shape}: {held:.4f} held, room {before} {after}"


def measure_dice(crops: Sequence[tuple[Volume, np.ndarray]], localizer: ModelBundle, model: ModelBundle) -> dict:
    """Dice of a model on the public crops and in one made-up wide field each, at the scans' own resolution."""
    predictor = Predictor(model, "cpu", localizer=localizer)
    pieces = [Crop(v.array.astype(np.float32), m) for v, m in crops]
    rows = []
    for n, (volume, mask) in enumerate(crops):
        spacing = volume.geometry.spacing_mm
        assert spacing is not None
        scan, truth = wide_scan(pieces[n], pieces[:n] + pieces[n + 1 :], spacing, seed=n)
        tight = predictor.predict(volume).segmentation.labelmap.array > 0
        wide = predictor.predict(scan).segmentation.labelmap.array > 0
        rows.append((metrics.dice(tight, mask), metrics.dice(wide, truth)))
        print(
            f"case {73 + n}: Dice {rows[-1][0]:.4f} in the crop, {rows[-1][1]:.4f} in {scan.geometry.describe()}",
            flush=True,
        )
    means, least = np.mean(rows, axis=0), np.min(rows, axis=0)
    return {"dice_crop": means[0], "dice_wide": means[1], "least_dice_crop": least[0], "least_dice_wide": least[1]}


def bundle_of(network: Network, steps: int, seed: int, seconds: float) -> ModelBundle:
    """The finder with its card."""
    about = {
        "modality": "MR, late gadolinium enhancement",
        "intended_use": "Finds the region of the left atrium in a wide field of view, for the models that name it.",
        "limits": "No real full-field scan with a reference mask was available: trained and measured on public crops "
        "placed in made-up fields (air, body outline, tissue, organ-like shapes). Check the region that it finds.",
        "margin_mm": MARGIN_MM,
        "licence": "Code Apache-2.0; the training data's terms are in DATA_LICENSES.md: "
        "research, teaching, with citation.",
        "citation": "Xiong et al., Medical Image Analysis 67, 101832, 2021",
        "data": "2018 Atrial Segmentation Challenge, labels of cases 1 to 72 of train.list, in made-up fields",
        "training": {
            "method": "supervised, cross-entropy and Dice, AdamW, averaged weights",
            "steps": steps,
            "batch": 2,
            "seed": seed,
            "minutes": round(seconds / 60, 1),
            "hardware": "1 CPU thread, shared with other work",
            "date": date.today().isoformat(),
            "command": f"python Testing/benchmarks/train_locator.py LA OUT --steps {steps} --seed {seed}",
        },
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
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--fields", type=int, default=3, help="wide fields a case, when measuring")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    cases = (args.folder / "train.list").read_text(encoding="utf-8").split()
    if not args.measure:
        torch.set_num_threads(1)
        crops = [resampled(*read_crop(args.folder, case), SPACING_MM) for case in cases[:72]]
        started = time.perf_counter()
        network = train(crops, args.steps, args.seed, args.filters)
        bundle = bundle_of(network, args.steps, args.seed, time.perf_counter() - started)
        held_back = [read_crop(args.folder, case) for case in cases[72:80]]
        with tempfile.TemporaryDirectory() as folder:  # measured as shipped: after rounding to 8 bits
            stored = ModelBundle.load(bundle.save(Path(folder) / "finder", "int8"))
        quality = {"cases": "73 to 80, three made-up fields each", **measure_finding(held_back, stored, args.fields)}
        card = replace(bundle.card, about={**bundle.card.about, "quality": quality})
        replace(bundle, card=card).save(args.out, "int8")
    else:
        localizer = ModelBundle.load(args.out)
        crops = [read_crop(args.folder, case) for case in cases[72:80]]
        found = measure_dice(crops, localizer, ModelBundle.load(args.model)) if args.model else {}
        print(
            json.dumps({**found, **(measure_finding(crops, localizer, args.fields) if args.fields else {})}, indent=1)
        )


if __name__ == "__main__":
    main()
