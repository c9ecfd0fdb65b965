"""Prediction of left atria: the published procedure against `mper.inference.predictor`, with the same weights on the
same grid.

The published procedure (VNet/UA-MT style testing, as BCP and MPER use it) goes over the scan at its own 0.625 mm with
windows of 112 x 112 x 80 voxels (x, y, z), stride 18, 18, 4, one window at a time in float32; softmax is averaged over
the windows that see a voxel, the mask is where it is above 0.5, and its largest component stays. A scan smaller than
the window is padded with zeros on both sides. The published arrays are (x, y, z); ours are (k, j, i), so the same
window is (80, 112, 112). The published scans are normalised beforehand: here too the clock of that procedure starts
with the normalised scan on the grid, while the Predictor's runs from the scan as read to the mask on the scan's grid.

Weights: those of a bundle, by default the shipped `la`, made at 1 mm. None for 0.625 mm exist, so speed
and agreement are measured at 0.625 mm with weights that are not at home there, and Dice also at their own spacing.

    python Testing/benchmarks/predict.py                  one case
    python Testing/benchmarks/predict.py --cases 8        all held-back cases
    python Testing/benchmarks/predict.py --max-windows 6  the published procedure is timed on 6 windows and extrapolated
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from _data import Scan, made_scan, scans
from _timing import add_options, add_repeats, duration, keep, show, take_turns
from skimage.measure import label as connected_parts

from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.nets.network import Network
from mper.resources import find_model

WINDOW = (80, 112, 112)  # (k, j, i)
STRIDE = (4, 18, 18)

Mask = npt.NDArray[np.bool_]


class Published(NamedTuple):
    """What the published procedure gave; where windows were left out there is no mask and `seconds` is extrapolated."""

    mask: Mask | None
    seconds: float
    windows: int


def starts(length: int, window: int, stride: int) -> list[int]:
    """First voxels of the windows along one axis; the last window ends with the scan."""
    count = math.ceil((length - window) / stride) + 1
    return [min(n * stride, length - window) for n in range(count)]


@torch.no_grad()
def published(network: Network, image: torch.Tensor, device: torch.device, max_windows: int | None = None) -> Published:
    """The published procedure on a normalised scan (k, j, i)."""
    scan = image.numpy()
    started = time.perf_counter()
    missing = [max(0, w - n) for n, w in zip(scan.shape, WINDOW, strict=True)]
    padded = np.pad(scan, [(m // 2, m - m // 2) for m in missing])
    corners = list(itertools.product(*(starts(n, *ws) for n, *ws in zip(padded.shape, WINDOW, STRIDE, strict=True))))
    chosen = corners if max_windows is None else corners[:: max(1, math.ceil(len(corners) / max_windows))]
    total = np.zeros(padded.shape, dtype=np.float32)
    seen = np.zeros(padded.shape, dtype=np.float32)
    prepared = time.perf_counter() - started
    for corner in chosen:
        place = tuple(slice(a, a + w) for a, w in zip(corner, WINDOW, strict=True))
        window = torch.from_numpy(padded[place].copy())[None, None].to(device)
        total[place] += network(window).logits.softmax(1).cpu().numpy()[0, 1]
        seen[place] += 1
    looked = time.perf_counter() - started - prepared
    mask = total / np.maximum(seen, 1) > 0.5
    parts = connected_parts(mask)
    if parts.max() > 0:
        mask = parts == np.bincount(parts.flat)[1:].argmax() + 1
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, scan.shape, strict=True))
    finished = time.perf_counter() - started - prepared - looked
    seconds = prepared + looked * len(corners) / len(chosen) + finished
    return Published(mask[inside] if len(chosen) == len(corners) else None, seconds, len(corners))


def at_spacing(bundle: ModelBundle, spacing_mm: float) -> ModelBundle:
    """The same weights on another working grid."""
    preprocessing = {**bundle.card.preprocessing, "spacing_mm": (spacing_mm,) * 3}
    return replace(bundle, card=replace(bundle.card, preprocessing=preprocessing))


def normalised(scan: Scan, bundle: ModelBundle) -> tuple[torch.Tensor, WorkingGrid]:
    """What the network sees, and the grid of it."""
    grid = WorkingGrid.plan(scan.image.geometry, bundle.preprocessing, 3)
    return normalise(grid.forward(scan.image.array), bundle.preprocessing), grid


@dataclass(frozen=True)
class Case:
    """The figures of one scan; "own" is the model at the spacing it was made for. None where windows were left out."""

    id: str
    size: str
    windows: float
    published_s: float
    mper_s: float
    own_s: float
    dice_published: float | None
    dice_mper: float
    dice_own: float
    agreement: float | None

    @property
    def ratio(self) -> float:
        """How many times faster the Predictor is on the same grid."""
        return self.published_s / self.mper_s

    @classmethod
    def mean(cls, cases: Sequence[Case]) -> Case:
        """Means over cases; the ratio is that of the mean times."""

        def over(name: str) -> float:
            return float(np.mean([getattr(case, name) for case in cases]))

        whole = all(case.agreement is not None for case in cases)
        return cls(
            "mean",
            "",
            over("windows"),
            over("published_s"),
            over("mper_s"),
            over("own_s"),
            over("dice_published") if whole else None,
            over("dice_mper"),
            over("dice_own"),
            over("agreement") if whole else None,
        )

    def row(self) -> list[str]:
        dices = (self.dice_published, self.dice_mper, self.agreement)
        return [
            self.id,
            self.size,
            f"{self.windows:.0f}",
            duration(self.published_s),
            duration(self.mper_s),
            f"{self.ratio:.0f}",
            *("-" if value is None else f"{value:.4f}" for value in dices),
            duration(self.own_s),
            f"{self.dice_own:.4f}",
        ]


HEAD = ("case", "x y z", "windows", "published", "mper", "ratio", "Dice published", "Dice mper", "agreement")


def measure(
    scan: Scan, fine: ModelBundle, ours: Predictor, own: Predictor, repeats: int, max_windows: int | None
) -> Case:
    """Both procedures on one scan."""
    image, grid = normalised(scan, fine)
    slow = published(fine.build().to(ours.device), image, ours.device, max_windows)
    masks: dict[str, Mask] = {}

    def predict(name: str, predictor: Predictor) -> None:
        masks[name] = np.asarray(predictor.predict(scan.image).segmentation.labelmap.array, np.uint8) > 0

    times = take_turns({"fine": lambda: predict("fine", ours), "own": lambda: predict("own", own)}, repeats)
    dice_published = agreement = None
    if slow.mask is not None:
        mask = (grid.back(torch.from_numpy(slow.mask).float()[None])[0] > 0.5).numpy()
        dice_published, agreement = dice(mask, scan.atrium), dice(mask, masks["fine"])
    return Case(
        scan.id,
        "x".join(str(n) for n in image.shape[::-1]),
        slow.windows,
        slow.seconds,
        times["fine"].median,
        times["own"].median,
        dice_published,
        dice(masks["fine"], scan.atrium),
        dice(masks["own"], scan.atrium),
        agreement,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="la", metavar="NAME|PATH", help="whose weights (default: la)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument(
        "--spacing", type=float, default=0.625, metavar="MM", help="of the common grid (default: 0.625)"
    )
    parser.add_argument("--cases", type=int, default=1, metavar="N", help="how many scans (default: 1)")
    parser.add_argument(
        "--max-windows", type=int, metavar="M", help="extrapolate the published time from about M windows"
    )
    add_repeats(parser)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    shipped = ModelBundle.load(find_model(arguments.model))
    fine = at_spacing(shipped, arguments.spacing)
    ours, own = Predictor(fine, arguments.device), Predictor(shipped, arguments.device)
    cases = []
    for scan in [made_scan(shape=(80, 112, 120))] if arguments.quick else scans(arguments.cases):
        cases.append(measure(scan, fine, ours, own, arguments.repeats, arguments.max_windows))
        print(f"{scan.id}: {cases[-1].ratio:.0f} times faster", flush=True)
    spacing = shipped.preprocessing.spacing_mm
    made_for = "no spacing" if spacing is None else f"{spacing[0]:g} mm"
    print(f"\nweights: {shipped.card.name} {shipped.card.version}, made for {made_for}")
    if arguments.max_windows is not None:
        print(f"published seconds are extrapolated from about {arguments.max_windows} windows a case")
    told = [*cases, Case.mean(cases)] if len(cases) > 1 else cases
    show((*HEAD, f"at {made_for}", "Dice"), [case.row() for case in told])
    keep(arguments.json, {"cases": [{**asdict(case), "ratio": case.ratio} for case in told]})


if __name__ == "__main__":
    main()
