"""Train what a stroke means for the voxels around it (Resources/Models/stroke-response), and measure it.

    python Testing/benchmarks/train_response.py OUT --la LA --acdc ACDC [--steps N] [--seed N]
    python Testing/benchmarks/train_response.py OUT --la LA --measure [--cases 53 72]

LA and ACDC are imported data sets (`mper import`). Training sees the labels of LA's first 8 training cases, those of
`la-8`, and of ACDC's split `train`: masks of `la-8` and `acdc`, as they are or with made-up errors, and a simulated
person who paints where they are most wrong, or anywhere where they are clearly wrong. What is to be learnt is the
truth around the stroke. LA's cases 9 to 52 are seen without their labels: `la-8`'s own masks stand for the truth, and
all errors are made up. Rounds of strokes, answered by the network as it is, and of training take turns, so that it
learns to answer strokes in masks that its own answers have changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy import ndimage

from mper.datasets.dataset import Dataset
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.nets.stroke_net import StrokeNet
from mper.refinement import stroke_response
from mper.resources import find_model
from mper.volume import Spacing

PATCH = 32
BATCH = 4
ROUND_STEPS, ROUND_STROKES = 250, 650
RATE = 3e-3

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Answer = Callable[[Scores, Scores, Mask, npt.NDArray[np.int8], Spacing], Scores]


@dataclass(frozen=True, eq=False)
class Predicted:
    """A case on its model's working grid: intensities, classes, logits (classes, k, j, i).

    own : the classes are those of the model, for want of a label.
    """

    image: Scores
    classes: npt.NDArray[np.uint8]
    logits: Scores
    steps: Spacing
    own: bool = False


@dataclass(eq=False)
class Scene:
    """One structure of a case against the rest: scores with errors, and the truth."""

    image: Scores
    truth: Mask
    log_odds: Scores
    steps: Spacing


@dataclass(frozen=True, eq=False)
class Question:
    """What the network is asked after a stroke, in a window around it."""

    features: npt.NDArray[np.float16]
    truth: Mask
    asked: Mask


def predicted(dataset: Dataset, model: str, cases: Sequence[str], own: bool = False) -> list[Predicted]:
    """What a bundled model says of cases, and their labels; with `own` its masks take the place of labels."""
    predictor = Predictor(ModelBundle.load(find_model(model)), "cpu")
    out = []
    for case in (dataset.case(name) for name in cases):
        found = predictor.predict(case.image(), want=("embeddings",))
        label = found.segmentation.labelmap if own else case.label()
        kept = found.embeddings
        assert label is not None and kept is not None and kept.logits is not None and kept.image is not None
        crop = tuple(slice(a, b) for a, b in zip(kept.start, kept.stop, strict=True))
        classes = kept.grid.forward_labels(label.array[crop], len(kept.logits)).numpy()
        image, logits = kept.image.float().numpy(), kept.logits.float().numpy()
        out.append(Predicted(image, classes, logits, kept.grid.step_lengths, own))
        print(f"{model} {case.id} {classes.shape}", flush=True)
    return out


def scene_of(case: Predicted, value: int) -> Scene:
    """A class against the best other, in the part of the grid that holds structures."""
    (found,) = ndimage.find_objects((case.classes > 0).astype(np.uint8))
    window = tuple(slice(max(0, s.start - 20), s.stop + 20) for s in found)
    logits = case.logits[(slice(None), *window)]
    log_odds = logits[value] - np.delete(logits, value, axis=0).max(axis=0)
    return Scene(case.image[window], case.classes[window] == value, log_odds, case.steps)


def random_scene(cases: Sequence[Predicted], rng: np.random.Generator) -> Scene:
    """A structure of some case, mostly with more errors than its model makes, and looking otherwise."""
    case = cases[rng.integers(len(cases))]
    scene = scene_of(case, int(rng.integers(1, len(case.logits))))
    if rng.random() < 0.3 and min(scene.truth.shape) > 40:
        scene = _thick(scene, rng)
    for _ in range(1 + (rng.random() < 0.6) if case.own else int(rng.random() > 0.35)):
        scene.log_odds = _wrong(scene, rng)
    if rng.random() < 0.3:
        scene.image = -scene.image
    if rng.random() < 0.4:
        noise = rng.normal(size=scene.image.shape).astype(np.float32)
        scene.image = scene.image + np.float32(rng.uniform(0, 0.4)) * noise
    return scene


def _thick(scene: Scene, rng: np.random.Generator) -> Scene:
    """Slices far apart, or all voxels twice as large; sometimes nobody knows how far apart."""
    if rng.random() < 0.7:
        factors, steps = (int(rng.integers(2, 7)), 1, 1), scene.steps
    else:
        factors, steps = (2, 2, 2), scene.steps
    shape = [n // f for n, f in zip(scene.truth.shape, factors, strict=True)]

    def blocks(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        cut = array[tuple(slice(0, n * f) for n, f in zip(shape, factors, strict=True))]
        return cut.reshape([n for pair in zip(shape, factors, strict=True) for n in pair])

    if rng.random() < 0.6:
        steps = tuple(s * f for s, f in zip(steps, factors, strict=True))  # type: ignore[assignment]
    image, odds = (blocks(array).mean(axis=(1, 3, 5)) for array in (scene.image, scene.log_odds))  # type: ignore[union-attr]
    truth = blocks(scene.truth).mean(axis=(1, 3, 5)) > 0.5  # type: ignore[union-attr]
    return Scene(image, truth, odds, steps)


def _wrong(scene: Scene, rng: np.random.Generator) -> Scores:
    """Scores of another sharpness and bias, with smooth errors, slices that are off, and lumps added or missing."""
    steps = scene.steps
    odds = np.clip(scene.log_odds, -12, 12) * rng.uniform(0.5, 1.6) + rng.uniform(-0.7, 0.7)
    sigma = rng.uniform(2.5, 8)
    noise = ndimage.gaussian_filter(rng.normal(size=odds.shape), [sigma / step for step in steps])
    odds += rng.uniform(0, 2) * noise / (noise.std() + 1e-6)
    if odds.shape[0] < 24 and rng.random() < 0.5:
        odds += rng.uniform(0, 2.5) * rng.normal(size=(odds.shape[0], 1, 1))
    surface = np.argwhere(np.abs(odds) < 1.5)
    for _ in range(int(rng.integers(0, 5)) if len(surface) else 0):
        centre, radius = surface[rng.integers(len(surface))], rng.uniform(3, 11)
        index = np.ogrid[tuple(slice(0, n) for n in odds.shape)]
        stretch = rng.uniform(0.5, 1.6, 3)
        apart = sum(((a - c) * s * t) ** 2 for a, c, s, t in zip(index, centre, steps, stretch, strict=True))
        lump = (radius - np.sqrt(apart)) * rng.uniform(0.5, 1.5)
        odds = np.maximum(odds, lump) if rng.random() < 0.5 else np.minimum(odds, -lump)
    return odds.astype(np.float32)


def place_of(error: Mask, steps: Spacing, rng: np.random.Generator | None) -> tuple[int, int, int]:
    """The deepest place of an error; with a generator, any that is at least 2 mm deep or nearly the deepest."""
    (window,) = ndimage.find_objects(error.astype(np.uint8))
    depth = ndimage.distance_transform_edt(np.pad(error[window], 1), sampling=steps)[1:-1, 1:-1, 1:-1]
    deep = np.flatnonzero(depth >= (depth.max() if rng is None else min(2.0, 0.7 * depth.max())))
    flat = int(deep[0] if rng is None else rng.choice(deep))
    k, j, i = (int(n) + s.start for n, s in zip(np.unravel_index(flat, depth.shape), window, strict=True))
    return k, j, i


def line_of(error: Mask, place: Sequence[int], steps: Spacing, longest_mm: float) -> npt.NDArray[np.int64]:
    """Voxels of a line through the place along the error's main direction in its slice."""
    parts, _ = ndimage.label(error[place[0]])
    part = parts == parts[tuple(place[1:])]
    points = np.argwhere(part) * steps[1:]
    if len(points) < 3:
        return np.array([place])
    way = np.linalg.eigh(np.cov((points - points.mean(axis=0)).T))[1][:, -1]
    found = []
    for sign in (1, -1):
        for t in np.arange(0, longest_mm / 2, 0.5 * min(steps[1:])):
            at = np.rint(np.array(place[1:]) + sign * t * way / steps[1:]).astype(np.int64)
            if (at < 0).any() or (at >= part.shape).any() or not part[tuple(at)]:
                break
            found.append((place[0], *at))
    return np.unique(np.array(found), axis=0)


def painted_around(points: npt.NDArray[np.int64], shape: Sequence[int], radius: float, steps: Spacing) -> Mask:
    """Balls around points."""
    apart = np.ones(tuple(shape), dtype=bool)
    apart[tuple(points.T)] = False
    return np.asarray(ndimage.distance_transform_edt(apart, sampling=steps) <= radius)


@dataclass(frozen=True, eq=False)
class Painted:
    """A stroke in the box that it can change: `sign` is 1 where it is of the structure, -1 of the rest."""

    window: tuple[slice, ...]
    mask: Mask
    sign: int
    centre: npt.NDArray[np.int64]


def stroke_in(scene: Scene, line_mm: float, radius: float, rng: np.random.Generator | None) -> Painted | None:
    """What a careful person paints: only what is of the stroke's class; None where nothing is wrong."""
    error = (scene.log_odds > 0) != scene.truth
    if not error.any():
        return None
    place = place_of(error, scene.steps, rng)
    value = bool(scene.truth[place])
    error &= scene.truth == value
    points = line_of(error, place, scene.steps, line_mm) if line_mm else np.array([place])
    low, high, reach = points.min(axis=0), points.max(axis=0) + 1, np.array(stroke_response.reach(scene.steps))
    window = tuple(
        slice(max(0, a - r), min(n, b + r)) for a, b, r, n in zip(low, high, reach, error.shape, strict=True)
    )
    offset = np.array([s.start for s in window])
    mask = painted_around(points - offset, scene.truth[window].shape, radius, scene.steps)
    return Painted(window, mask & (scene.truth[window] == value), 1 if value else -1, (low + high) // 2 - offset)


def correct(scene: Scene, marks: npt.NDArray[np.int8], stroke: Painted, answer: Answer) -> None:
    """Answer a stroke as `mper.refinement.refiner` does: what was painted stays as painted."""
    here, sign = stroke.window, stroke.sign
    before, hard = scene.log_odds[here] * sign, marks[here] * np.int8(sign)
    hard[stroke.mask] = 0
    after = answer(before, scene.image[here], stroke.mask, hard, scene.steps)
    after[hard < 0] = before[hard < 0]
    after[stroke.mask] = np.maximum(after[stroke.mask], 5)
    scene.log_odds[here] = after * sign
    marks[here][stroke.mask] = sign


def question(scene: Scene, marks: npt.NDArray[np.int8], stroke: Painted, rng: np.random.Generator) -> Question:
    """What the network sees of a stroke, cut out around it."""
    here, sign = stroke.window, stroke.sign
    odds, hard = scene.log_odds[here] * sign, marks[here] * np.int8(sign)
    hard[stroke.mask] = 0
    seen = stroke_response.features(odds, scene.image[here], stroke.mask, hard, scene.steps)
    asked = (odds <= 0) & ~stroke.mask & (hard >= 0)
    truth = scene.truth[here] == (sign > 0)
    corner = stroke.centre + rng.integers(-3, 4, 3) - PATCH // 2
    source = tuple(slice(max(0, c), min(n, c + PATCH)) for c, n in zip(corner, odds.shape, strict=True))
    target = tuple(slice(s.start - c, s.stop - c) for s, c in zip(source, corner, strict=True))
    out = Question(
        np.zeros((len(seen), PATCH, PATCH, PATCH), np.float16),
        np.zeros((PATCH,) * 3, bool),
        np.zeros((PATCH,) * 3, bool),
    )
    out.features[(slice(None), *target)] = seen[(slice(None), *source)]
    out.truth[target], out.asked[target] = truth[source], asked[source]
    return out


def questions(cases: Sequence[Sequence[Predicted]], answer: Answer, rng: np.random.Generator) -> Iterator[Question]:
    """Without end: strokes in scene after scene, of each group of cases about as often."""
    while True:
        scene = random_scene(cases[rng.integers(len(cases))], rng)
        marks = np.zeros(scene.truth.shape, np.int8)
        for _ in range(int(rng.integers(3, 12))):
            kind = rng.random()
            line, radius = (0.0, 2.0) if kind < 0.4 else (0.0, rng.uniform(0.6, 4)) if kind < 0.55 else (20.0, 1.0)
            stroke = stroke_in(scene, line * rng.uniform(0.3, 1), radius, rng if rng.random() < 0.5 else None)
            if stroke is None or not stroke.mask.any():
                break
            yield question(scene, marks, stroke, rng)
            correct(scene, marks, stroke, answer)


def batch(kept: Sequence[Question], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Questions as they could also be asked: mirrored, turned in their slices, with the contrast reversed."""
    seen, truths, asked = [], [], []
    for one in (kept[n] for n in rng.integers(0, len(kept), BATCH)):
        axes = tuple(int(a) for a in np.flatnonzero(rng.random(3) < 0.5))
        turn = rng.random() < 0.5
        for array, out in ((one.features.astype(np.float32), seen), (one.truth, truths), (one.asked, asked)):
            array = np.flip(array, [a + array.ndim - 3 for a in axes])
            out.append(np.ascontiguousarray(array.swapaxes(-1, -2) if turn else array))
    x, y, w = (torch.from_numpy(np.stack(each)) for each in (seen, truths, asked))
    return x.contiguous(memory_format=torch.channels_last_3d), y.float(), w.float()


def loss_of(likely: torch.Tensor, truth: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a stroke by the size of the error that it is in: small errors count as well."""
    each = F.binary_cross_entropy_with_logits(likely, truth, reduction="none") * asked
    return (each.sum((1, 2, 3)) / ((truth * asked).sum((1, 2, 3)) + 300)).mean()


def answer_by(network: StrokeNet) -> Answer:
    """How a network answers strokes; as `mper.refinement.stroke_response.respond`."""

    def answer(odds: Scores, image: Scores, painted: Mask, hard: npt.NDArray[np.int8], steps: Spacing) -> Scores:
        seen = torch.from_numpy(stroke_response.features(odds, image, painted, hard, steps))
        with torch.no_grad():
            likely = network(seen[None])[0].numpy()
        return stroke_response.raised(odds, likely - stroke_response.caution(odds, painted, steps), painted, hard)

    return answer


def train(cases: Sequence[Sequence[Predicted]], steps: int, seed: int) -> StrokeNet:
    """The network after so many steps, with averaged weights."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = StrokeNet(stroke_response.FEATURES).to(memory_format=torch.channels_last_3d)
    smooth = torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=smooth)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    source = questions(cases, answer_by(network), rng)
    kept: list[Question] = []
    started = time.perf_counter()
    for step in range(steps):
        if step % ROUND_STEPS == 0:
            kept += [next(source) for _ in range(ROUND_STROKES)]
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, step / 100) * (0.02 + 0.49 * (1 + np.cos(np.pi * step / steps)))
        seen, truth, asked = batch(kept, rng)
        loss = loss_of(network(seen), truth, asked)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step == 300:  # the first weights are far from where it goes
            average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=smooth)
        average.update_parameters(network)
        if step % 50 == 49:
            seconds = time.perf_counter() - started
            print(f"step {step + 1}, {len(kept)} strokes, loss {float(loss.detach()):.3f}, {seconds:.0f} s", flush=True)
    trained = average.module
    assert isinstance(trained, StrokeNet)
    return trained.eval()


def measure(cases: Sequence[Predicted], answer: Answer, line_mm: float, strokes: int = 10) -> tuple[list[float], float]:
    """Mean Dice by number of strokes, and the share of strokes that made a mask worse; on the working grid."""
    rows = []
    for case in cases:
        scene = scene_of(case, 1)
        marks = np.zeros(scene.truth.shape, np.int8)
        rows.append([dice(scene.log_odds > 0, scene.truth)])
        for _ in range(strokes):
            stroke = stroke_in(scene, line_mm, 1.0 if line_mm else 2.0, None)
            if stroke is not None:
                correct(scene, marks, stroke, answer)
            rows[-1].append(dice(scene.log_odds > 0, scene.truth))
    found = np.array(rows)
    return found.mean(axis=0).tolist(), float((np.diff(found) < 0).mean())


def main() -> None:
    """Train, or measure, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of weights.safetensors")
    parser.add_argument("--la", type=Path, required=True, help="imported LA data set")
    parser.add_argument("--acdc", type=Path, help="imported ACDC data set; without it, left atria alone")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--cases", type=int, nargs=2, default=(53, 72), help="of LA's split train, for --measure")
    args = parser.parse_args()
    la = Dataset.open(args.la)
    file = args.out / "weights.safetensors"
    if args.measure:
        from safetensors.torch import load_file

        network = StrokeNet(stroke_response.FEATURES)
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
        first, last = args.cases
        cases = predicted(la, "la-8", la.splits["train"][first - 1 : last])
        for kind, line in (("balls", 0.0), ("lines", 20.0)):
            means, worse = measure(cases, answer_by(network.eval()), line)
            shown = " ".join(f"{n}: {means[n]:.4f}" for n in (0, 1, 2, 3, 5, 10))
            print(f"{kind}: Dice after strokes {shown}; {worse:.1%} made a mask worse")
        return
    ids = la.splits["train"]
    groups = [predicted(la, "la-8", ids[:8]), predicted(la, "la-8", ids[8:52], own=True)]
    if args.acdc:
        acdc = Dataset.open(args.acdc)
        groups.append(predicted(acdc, "acdc", acdc.splits["train"]))
    weights = train(groups, args.steps, args.seed).state_dict()
    args.out.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(".weights.part")
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, temporary)
    temporary.replace(file)


if __name__ == "__main__":
    main()
