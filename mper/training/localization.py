"""Training the localisation of a model, from the labels that the model is trained on.

At 5 mm, on whole fields of view: those of the scans that have a wide one, and scans that were cropped around their
structure, placed into the wide ones or into made-up fields (`mper.dataloading.composed_field`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load, save

from mper.dataloading.augmentation import intensities, random_affine
from mper.dataloading.composed_field import Crop, Field, place_in_field, place_in_scan
from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.labels import BACKGROUND, UNLABELLED
from mper.models.card import LOCALIZATION
from mper.models.localization import Localization
from mper.nets.localization_net import DIVISOR, LocalizationNet
from mper.progress import Progress, Report
from mper.training.run_clock import Clock
from mper.utils.files import read_json, write_atomically, write_json
from mper.volume import Volume

LOCALIZATION_RECORD = "localization.json"  # beside the weights, in the folder of a run
STEPS = 1200
SPACING_MM = 5.0
_STORED_MM = 4.0  # scans are kept at this resolution, and sampled at the other
_FIELDS = 2  # a step
_RATE, _WARM = 3e-3, 0.1
_DECAY = 0.99  # of the averaged weights
_LEAST, _MOST = np.array([16, 32, 32]), np.array([48, 80, 80])  # voxels of a field
_SHARE = 0.15  # of a coarse voxel that belongs to the structure: thin parts count
_IN_VIEW = 0.9  # of the fields show the middle of the structure
_CROP_MM = (60.0, 110.0, 110.0), (220.0, 450.0, 450.0)  # of a field of view that is cut from a larger one
_REPORT_S = 2.0


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """A labelled scan at low resolution, along the patient's axes.

    image : (k, j, i) float32; mask : bool, all structures; wide : whether its field of view is a clinical one.
    """

    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    wide: bool


def coarse_scan(image: Volume, mask: npt.NDArray[np.uint8], wide: bool) -> CoarseScan | None:
    """A labelled scan as the localisation learns from it; None where it is not labelled throughout, or shows nothing.

    Parameters
    ----------
    image : Volume
        Of known spacing.
    mask : (k, j, i) uint8 array
        Class numbers; 255 where unlabelled.
    wide : bool
    """
    if not image.geometry.spacing_known or (mask == UNLABELLED).any():
        return None
    grid = WorkingGrid.plan(image.geometry, Preprocessing((_STORED_MM,) * 3), 3)
    share = grid.forward((mask != BACKGROUND).astype(np.float32)).numpy()
    if not (share > _SHARE).any():
        return None
    return CoarseScan(grid.forward(image.array).numpy(), share > _SHARE, wide)


def train_localization(
    scans: Sequence[CoarseScan],
    seed: int,
    report: Report,
    *,
    steps: int = STEPS,
    seconds: float = math.inf,
    clock: Clock = time.monotonic,
    device: torch.device | str = "cpu",
    start: Localization | None = None,
    filters: int = 12,
) -> Localization:
    """Learn where the structures lie in a field of view.

    Parameters
    ----------
    scans : sequence of CoarseScan
    seed : int
    report : Report
        Called every two seconds; may raise, which ends the training.
    steps, seconds : int, float
        The longest that it takes: whichever ends first.
    clock : Clock
        Measures the seconds.
    device : torch.device or str
    start : Localization or None
        To go on from; None: from random weights.
    filters : int
        Of the network, where it starts from random weights.

    Raises
    ------
    ValueError
        If there is no scan.
    """
    if not scans:
        raise ValueError("no scan that is labelled throughout shows a structure; the localisation cannot be learned")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    fields = _Fields(scans)
    network = (LocalizationNet(filters) if start is None else start.build()).to(device)
    network = network.to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-4)
    average: Mapping[str, torch.Tensor] = {n: v.detach().clone() for n, v in network.state_dict().items()}
    reported, spent_s = time.monotonic(), 0.0
    step, t = 0, 0.0
    while t < 1:
        begin = clock()
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min(t / _WARM + 0.04, 0.5 * (1 + math.cos(math.pi * t)))
        optimiser.zero_grad()
        for _ in range(_FIELDS):
            image, label = fields.draw(rng)
            # float32: oneDNN's bfloat16 weight gradients are wrong where a 3x3x3 kernel sees a depth of 2 (torch 2.13)
            shown = image.to(device).contiguous(memory_format=torch.channels_last_3d)
            loss = _loss(network(shown), label.to(device)) / _FIELDS
            loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(_DECAY, 1 - 1 / (1 + step / 5))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        spent_s += clock() - begin
        t = max(step / steps, spent_s / seconds)
        now = time.monotonic()
        if now - reported >= _REPORT_S:
            reported = now
            values = {"loss": round(float(loss.detach()) * _FIELDS, 4)}
            report(Progress("learning where the structure lies", t, values=values))
    state = {n: v.cpu().contiguous() for n, v in average.items()}
    return Localization(state, (SPACING_MM,) * 3, filters=filters if start is None else start.filters)


def stored_localization(
    folder: Path, learn: Callable[[], Localization], clock: Clock = time.monotonic
) -> tuple[Localization, float]:
    """The localisation that a run has learned before, else what `learn` gives, which is stored.

    Parameters
    ----------
    folder : Path
        Of the run.
    learn : callable
    clock : Clock
        Measures how long it takes.

    Returns
    -------
    localization : Localization
    seconds : float
        How long it took to learn.
    """
    weights, about = folder / LOCALIZATION, folder / LOCALIZATION_RECORD
    if not about.exists():
        begin = clock()
        found = learn()
        write_atomically(weights, [save({name: value.contiguous() for name, value in found.state.items()})])
        write_json(about, {**found.described(), "seconds": round(clock() - begin, 1)})
    described = read_json(about)
    return Localization.of(load(weights.read_bytes()), described), float(described["seconds"])


def _loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross entropy plus soft Dice; voxels outside the field are ignored."""
    known = label != UNLABELLED
    p = logits.softmax(1)[:, 1][known]
    y = (label == 1)[known].float()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return F.cross_entropy(logits, label, ignore_index=UNLABELLED) + dice


class _Fields:
    """Fields of view to learn from, drawn at random."""

    def __init__(self, scans: Sequence[CoarseScan]):
        self.wide = [Field(scan.image, scan.mask, (0, 0, 0)) for scan in scans if scan.wide]
        self.crops = [Crop(scan.image, scan.mask) for scan in scans if not scan.wide]

    def draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A normalised image (1, 1, k, j, i) and its label (1, k, j, i): 1 structure, 255 outside the scan."""
        field = self._field(rng)
        image, label = _view(field.image, field.mask, rng)
        return intensities(image[None, None], rng, cross_scanner=True), label[None]

    def _field(self, rng: np.random.Generator) -> Field:
        share = rng.random()
        if self.wide and (share < 0.5 or not self.crops):
            return self.wide[int(rng.integers(len(self.wide)))]
        crop = self.crops[int(rng.integers(len(self.crops)))]
        step = (_STORED_MM,) * 3
        if self.wide and share < 0.75:
            return place_in_scan(crop, self.wide[int(rng.integers(len(self.wide)))], step, rng)
        return place_in_field(crop, self.crops, step, rng, rng.uniform(200, 450))


def _view(
    image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A turned and scaled part of a field at the working resolution, normalised, and its label."""
    matrix = random_affine(rng, 3)  # from working voxels to those of the field, but for their sizes
    scale = float(np.cbrt(np.linalg.det(matrix)))
    shape = np.array(image.shape)
    extent = shape * _STORED_MM / scale
    wanted = extent
    if rng.random() < 0.6:
        wanted = np.minimum(extent, rng.uniform(*_CROP_MM))
    size = np.clip(np.round(wanted / SPACING_MM / DIVISOR).astype(int) * DIVISOR, _LEAST, _MOST)
    ratio = scale * SPACING_MM / _STORED_MM
    slack = np.maximum(extent - size * SPACING_MM, 0) * scale / _STORED_MM
    centre = (shape - 1) / 2 + rng.uniform(-0.5, 0.5, 3) * slack
    if rng.random() < _IN_VIEW:
        middle = np.argwhere(mask).mean(axis=0)
        reach = np.maximum(size / 2 - 5, 0) * ratio
        centre = np.clip(centre, middle - reach, middle + reach)
    steps = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij"), axis=-1)
    position = steps @ (matrix * SPACING_MM / _STORED_MM).T + centre
    normalised = torch.from_numpy((position / np.maximum(shape - 1, 1) * 2 - 1)[..., ::-1].astype(np.float32))[None]

    def sample(array: npt.NDArray[np.float32], padding: str) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))[None, None]
        return F.grid_sample(tensor, normalised, align_corners=True, padding_mode=padding)[0, 0]

    inside = (normalised.abs() <= 1.02).all(dim=-1)[0]
    x = sample(image, "border")
    low, high = np.percentile(x[inside].numpy(), (0.5, 99.5)).tolist() if inside.any() else (0.0, 0.0)
    x = x.clamp(low, high)
    x = (x - x[inside].mean()) / (x[inside].std() + 1e-6)
    x = torch.where(inside, x, x[inside].amin() if rng.random() < 0.5 else torch.zeros(()))
    label = torch.where(sample(mask.astype(np.float32), "zeros") > 0.3, 1, 0)
    return x, torch.where(inside, label, UNLABELLED)
