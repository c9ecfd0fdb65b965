"""Fitting the calibration of a model: which Dice to expect of which evidence.

Samples are masks of known Dice, of cases that trained nothing, as they are and made worse on purpose
(`mper.dataloading.degraded`), and of scans that do not show the structures at all. The formula stands in
`mper.models.calibration`; its weights minimise the cross entropy between expected and true Dice, with a small square
penalty. Figures about it are cross-validated: the masks of one scan are always judged by a fit without that scan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from mper.dataloading.degraded import Classes, degraded
from mper.dataloading.patch_sampler import TrainingCase
from mper.dataloading.preprocessing import WorkingGrid
from mper.evaluation.evaluate import LabelledScan
from mper.evaluation.metrics import dice
from mper.inference.evidence import shape_of
from mper.inference.prediction import Prediction
from mper.inference.predictor import Predictor
from mper.labels import UNLABELLED, Label
from mper.models.bundle import ModelBundle
from mper.models.calibration import CHECK, GOOD, HIGHEST, LOWEST, WRONG, Calibration, Term, level_of
from mper.progress import Progress, Report, ignore_progress
from mper.training.run_clock import Clock
from mper.volume import Volume

_GOOD_DICE = 0.8  # of samples that say what is usual
_PENALTY = 0.002
_LEAST_DEVIATION = {"size": 0.15, "shape": 0.1, "slices": 0.2}  # of the training labels' numbers
_LEAST_SCALE = 0.02  # of evidence
_LEAST_SAMPLES = 8  # of a level, to take its range from; else that of all
_RANGE = (10, 90)  # percentiles
LEAST_CASES, MOST_CASES, LEAST_MASKS = 3, 6, 10


@dataclass(frozen=True)
class Sample:
    """A mask whose Dice is known.

    Parameters
    ----------
    scan : str
        The scan that it belongs to, in whatever version.
    kind : str
        How the scan was made worse.
    evidence : mapping of str to float
    dice : float
        Mean over the structures.
    """

    scan: str
    kind: str
    evidence: Mapping[str, float]
    dice: float


def usual_shapes(
    labels: Iterable[tuple[WorkingGrid, Classes]], dimensions: int, count: int
) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each number that describes size and shape, over training labels.

    Parameters
    ----------
    labels : iterable of (WorkingGrid, uint8 array)
        Class numbers on the grid's source; labelled throughout.
    dimensions : int
        Of the network.
    count : int
        Number of structures.
    """
    numbers: dict[str, list[float]] = {}
    for grid, classes in labels:
        for name, value in shape_of(classes, grid, dimensions, count).items():
            if not math.isnan(value):
                numbers.setdefault(name, []).append(value)
    return {
        name: (float(np.mean(each)), max(float(np.std(each)), _LEAST_DEVIATION[name.split(".")[0]]))
        for name, each in numbers.items()
    }


def labels_of(cases: Iterable[TrainingCase]) -> Iterator[tuple[WorkingGrid, Classes]]:
    """The labels of training cases that show whole structures, for `usual_shapes`."""
    for case in cases:
        if case.label is not None and case.grid is not None and case.shows_whole_structures:
            size = case.grid.size
            grid = WorkingGrid(size, (0, 1, 2), (), size, case.grid.step_lengths, case.grid.in_mm)
            yield grid, case.label.cpu().numpy()


def collect(
    bundle: ModelBundle,
    usual: Mapping[str, tuple[float, float]],
    cases: Sequence[tuple[str, Volume, Classes | None]],
    *,
    device: str = "auto",
    seed: int = 0,
    seconds: float = math.inf,
    report: Report = ignore_progress,
    clock: Clock = time.monotonic,
) -> list[Sample]:
    """Segment cases, as they are and made worse, and measure evidence and Dice of each mask that is not empty.

    Parameters
    ----------
    bundle : ModelBundle
        Was trained without these cases.
    usual : mapping
        From `usual_shapes`.
    cases : sequence of (str, Volume, uint8 array or None)
        Name, scan and class numbers; None for a scan that does not show the structures, which is taken as it is.
    device : {"auto", "cpu", "cuda", "mps"}
    seed : int
    seconds : float
        When to stop; the cases take turns, so that each has been looked at.
    report : Report
        May raise, which ends it.
    clock : Clock
        Measures the seconds.
    """
    begin = clock()
    predictor = Predictor(replace(bundle, calibration=Calibration(usual)), device)
    queues = [
        (name, _versions(image, truth, np.random.default_rng([seed, n]), bundle.network.dimensions == 3))
        for n, (name, image, truth) in enumerate(cases)
    ]
    found: list[Sample] = []
    while queues:
        for name, versions in list(queues):
            version = next(versions, None)
            if version is None:
                queues.remove((name, versions))
                continue
            kind, image, truth = version
            report(Progress(f"measuring the quality of masks ({name}, {kind})"))
            try:
                prediction = predictor.predict(image)
            except ValueError:  # no image: a part of air
                continue
            if prediction.evidence:
                found.append(Sample(name, kind, dict(prediction.evidence), _mean_dice(prediction, truth)))
            if clock() - begin > seconds:
                return found
    return found


def calibrate(
    bundle: ModelBundle,
    usual: Mapping[str, tuple[float, float]],
    cases: Sequence[LabelledScan],
    device: str,
    seconds: float,
    report: Report,
    clock: Clock = time.monotonic,
) -> Calibration | None:
    """The calibration of a model from cases that did not train it; None where these, or the time, are too few.

    Parameters
    ----------
    bundle : ModelBundle
    usual : mapping
        From `usual_shapes`.
    cases : sequence of LabelledScan
        Those that are labelled throughout are used, at most six.
    device : {"auto", "cpu", "cuda", "mps"}
    seconds : float
        When to stop.
    report : Report
        May raise, which ends it.
    clock : Clock
        Measures the seconds.
    """
    labelled = labelled_throughout(cases, bundle.card.labels)
    if len(labelled) < LEAST_CASES:
        return None
    samples = collect(bundle, usual, labelled, device=device, seconds=seconds, report=report, clock=clock)
    return fit(samples, usual) if len(samples) >= LEAST_MASKS else None


def labelled_throughout(
    cases: Iterable[LabelledScan], labels: Sequence[Label]
) -> list[tuple[str, Volume, Classes | None]]:
    """Name, scan and class numbers of cases without unlabelled voxels, at most six."""
    found: list[tuple[str, Volume, Classes | None]] = []
    for case in cases:
        label = case.label()
        if label is None or (label.array == UNLABELLED).any():
            continue
        classes = np.zeros(label.array.shape, np.uint8)
        for c, structure in enumerate(labels, 1):
            classes[label.array == structure.value] = c
        found.append((case.id, case.image(), classes))
        if len(found) == MOST_CASES:
            break
    return found


def fit(samples: Sequence[Sample], usual: Mapping[str, tuple[float, float]]) -> Calibration:
    """The calibration of a model.

    Parameters
    ----------
    samples : sequence of Sample
    usual : mapping
        From `usual_shapes`.

    Raises
    ------
    ValueError
        If there are fewer than ten samples, or no evidence of theirs rises with the Dice.
    """
    if len(samples) < LEAST_MASKS:
        raise ValueError(f"a calibration needs at least {LEAST_MASKS} masks of known Dice, got {len(samples)}")
    calibration = _fitted(samples, usual)
    if not calibration.terms:
        raise ValueError(f"no quality measure of {len(samples)} masks rises with their Dice; label more cases")
    true = np.array([sample.dice for sample in samples])
    expected = np.array(cross_validate(samples))
    levels = np.array([level_of(dice) for dice in expected])
    ranges = {}
    for level in (GOOD, CHECK, WRONG):
        own = levels == level
        rest = (true - expected)[own if own.sum() >= _LEAST_SAMPLES else slice(None)]
        below, above = np.percentile(rest, _RANGE).tolist()
        ranges[level] = (round(min(0.0, below), 3), round(max(0.0, above), 3))
    about = {"scans": len({sample.scan for sample in samples}), "masks": len(samples), **figures(true, expected)}
    return replace(calibration, ranges=ranges, about=about)


def cross_validate(samples: Sequence[Sample]) -> list[float]:
    """The expected Dice of each sample, by a fit without its scan."""
    expected: dict[int, float] = {}
    scans = sorted({sample.scan for sample in samples})
    folds = [scans[n :: min(10, len(scans))] for n in range(min(10, len(scans)))]
    for fold in folds:
        rest = [sample for sample in samples if sample.scan not in fold] or list(samples)
        calibration = _fitted(rest, {})
        for n, sample in enumerate(samples):
            if sample.scan in fold:
                expected[n] = calibration.expected_dice(sample.evidence)
    return [expected[n] for n in range(len(samples))]


def figures(true: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """How well expected Dice tells the true one: AUROC for Dice below 0.7, error, and what is missed or blamed."""
    bad, levels = true < 0.7, np.array([level_of(value) for value in expected])
    lost, fine = true < 0.3, true >= _GOOD_DICE
    return {
        "auroc_below_0.7": _auroc(-expected, bad),
        "mean_error": round(float(np.abs(true - expected).mean()), 4),
        "bias": round(float((expected - true).mean()), 4),
        "below_0.3_not_flagged": int((lost & (levels == GOOD)).sum()),
        "good_called_likely_wrong": round(float((levels[fine] == WRONG).mean()), 4) if fine.any() else None,
    }


def _fitted(samples: Sequence[Sample], usual: Mapping[str, tuple[float, float]]) -> Calibration:
    names = sorted({name for sample in samples for name in sample.evidence})
    values = np.array([[sample.evidence.get(name, np.nan) for name in names] for sample in samples])
    true = np.clip([sample.dice for sample in samples], 0.0, 1.0)
    good = true >= min(_GOOD_DICE, float(np.median(true)))
    centre = np.nan_to_num(np.nanmedian(values[good], axis=0))
    scale = np.maximum(np.nan_to_num(np.nanstd(values[good], axis=0)), _LEAST_SCALE)
    z = np.nan_to_num(np.clip((values - centre) / scale, LOWEST, HIGHEST))

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        logits = z @ weights + bias
        entropy = np.logaddexp(0, logits) - true * logits
        residual = (1 / (1 + np.exp(-logits)) - true) / len(true)
        gradient = np.append(z.T @ residual + 2 * _PENALTY * weights, residual.sum())
        return float(entropy.mean() + _PENALTY * (weights**2).sum()), gradient

    start = np.append(np.full(len(names), 0.2), 1.0)
    bounds = [(0.0, None)] * len(names) + [(None, None)]
    found = optimize.minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    terms = {
        name: Term(round(float(c), 5), round(float(s), 5), round(float(w), 5))
        for name, c, s, w in zip(names, centre, scale, found[:-1], strict=True)
        if w > 1e-4
    }
    return Calibration(dict(usual), terms, round(float(found[-1]), 5))


def _versions(
    image: Volume, truth: Classes | None, rng: np.random.Generator, directions: bool
) -> Iterator[tuple[str, Volume, Classes]]:
    if truth is None:
        return iter([("no structure", image, np.zeros(image.geometry.shape, np.uint8))])
    return degraded(image, truth, rng, directions)


def _mean_dice(prediction: Prediction, truth: Classes) -> float:
    """Mean over the structures that are in the mask or in the truth."""
    segmentation = prediction.segmentation
    mask = np.asarray(segmentation.labelmap.array)
    each = []
    for c, label in enumerate(segmentation.labels, 1):
        own, reference = mask == label.value, truth == c
        if own.any() or reference.any():
            each.append(dice(own, reference))
    return float(np.mean(each)) if each else 1.0


def _auroc(score: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float | None:
    """The share of pairs of a positive and a negative in which the positive has the higher score."""
    if positive.all() or not positive.any():
        return None
    ranks = stats.rankdata(score)
    n = int(positive.sum())
    return round(float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n))), 4)
