"""Why a voxel got its class: the prototypes behind a prediction, and where it is unsure.

All of it is read from a prediction that was made with ``want=("label_probability",
"prototypes", "embeddings")``; nothing is computed by the network again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mper.inference.prediction import Embeddings, Prediction
from mper.labels import BACKGROUND, Label, prototype_labels
from mper.models.references import References
from mper.nets.prototypes import Prototypes
from mper.roi import bounding_box
from mper.volume import Index3, Volume

_SHOWN = 3  # prototypes that a probe names
_BLUR_MM, _APART_MM, _AROUND_MM = 6.0, 15.0, 6.0
_UNSURE = 0.25  # of the uncertainty, from which on a voxel counts


@dataclass(frozen=True)
class PrototypeFigures:
    """One prototype in one scan.

    Parameters
    ----------
    value, name, colour : int, str, (int, int, int)
        In the prototype map.
    of : int
        Value of its label; 0 for background.
    voxels, volume_ml : int, float or None
        Voxels of its class that are nearest to it.
    mean_similarity, mean_intensity : float or None
        Over those voxels; the intensity as the scan stores it.
    typical_index, typical_mm : (k, j, i) and LPS mm, or None
        The voxel most similar to it, deepest inside where several are.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
    of: int
    voxels: int
    volume_ml: float | None
    mean_similarity: float | None = None
    mean_intensity: float | None = None
    typical_index: Index3 | None = None
    typical_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class LabelledVoxel:
    """A voxel of a training case that a person labelled.

    value, name : its label; case : whose; index : (k, j, i) in that case's scan; similarity : cosine to it.
    """

    value: int
    name: str
    case: str
    index: Index3
    similarity: float


@dataclass(frozen=True)
class Probe:
    """What the prototypes say of one voxel.

    Parameters
    ----------
    value, name : int, str
        Its label in the mask.
    prototypes : tuple of (value in the prototype map, name, cosine)
        The nearest three of all, nearest first.
    margin : float
        Largest cosine to a prototype of its own class minus the largest to one of any other: negative where
        network and prototypes disagree.
    probability : float or None
        Of its class.
    labelled : tuple of LabelledVoxel
        The nearest three voxels that a person labelled, nearest first; of models that keep such voxels.
    """

    value: int
    name: str
    prototypes: tuple[tuple[int, str, float], ...]
    margin: float
    probability: float | None
    labelled: tuple[LabelledVoxel, ...] = ()


@dataclass(frozen=True, eq=False)
class Scatter:
    """Embeddings of some voxels on their two principal axes.

    x, y : (points,) float arrays; value : (points,) their prototypes in the prototype map; explained : share of
    the variance along each axis; prototypes : (value, x, y) of the prototypes themselves.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    value: npt.NDArray[np.uint8]
    explained: tuple[float, float]
    prototypes: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class UncertainRegion:
    """A place to look at.

    index, mm : its middle; uncertainty : 1 - probability around it, averaged over 6 mm; volume_ml : unsure voxels
    within 6 mm, None where the spacing is unknown; words : for a person.
    """

    index: Index3
    mm: tuple[float, float, float] | None
    uncertainty: float
    volume_ml: float | None
    words: str


def prototype_figures(prediction: Prediction, scan: Volume, per_class: int) -> tuple[PrototypeFigures, ...]:
    """A row for every prototype, those that no voxel is nearest to included.

    Raises
    ------
    ValueError
        If the prediction holds no prototype map.
    """
    if prediction.prototype_map is None or prediction.similarity_map is None:
        raise ValueError("the prediction holds no prototype map; predict with want=('prototypes',)")
    labels = prediction.segmentation.labels
    geometry = scan.geometry
    voxel_ml = geometry.voxel_ml
    map_ = np.asarray(prediction.prototype_map.array, dtype=np.uint8)
    window = bounding_box(map_ > 0)
    names = prototype_labels(labels, per_class)
    if window is None:
        return tuple(_absent(label, labels, per_class, voxel_ml) for label in names)
    nearest = map_[window]
    similarity = prediction.similarity_map.array[window].astype(np.float32)
    counts = np.bincount(nearest.reshape(-1), minlength=256)
    cosines = np.bincount(nearest.reshape(-1), similarity.reshape(-1), minlength=256)
    intensities = np.bincount(nearest.reshape(-1), scan.array[window].reshape(-1).astype(np.float64), minlength=256)
    start = np.array([s.start for s in window])
    rows = []
    for label in names:
        n = int(counts[label.value])
        if n == 0:
            rows.append(_absent(label, labels, per_class, voxel_ml))
            continue
        k, j, i = (int(v) for v in _typical(nearest == label.value, similarity) + start)
        rows.append(
            PrototypeFigures(
                label.value,
                label.name,
                label.colour,
                _class_value(label.value, labels, per_class),
                n,
                None if voxel_ml is None else n * voxel_ml,
                float(cosines[label.value]) / n,
                float(intensities[label.value]) / n,
                (k, j, i),
                _position(scan, (k, j, i)),
            )
        )
    return tuple(rows)


def probe(
    prediction: Prediction, vectors: torch.Tensor, index: Index3, references: References | None = None
) -> Probe | None:
    """What the prototypes, and the labelled voxels that the model keeps, say of the voxel at (k, j, i).

    Parameters
    ----------
    prediction : Prediction
        With embeddings.
    vectors : (classes, per_class, filters) tensor
        Of the model.
    index : (int, int, int)
    references : References or None
        Of the model.

    Returns
    -------
    Probe or None
        None outside the region that the network saw. Cosines are interpolated as those of the prototype map are,
        so that both agree (save where the working grid is finer than the scan: the map averages there).

    Raises
    ------
    ValueError
        If the prediction holds no embeddings.
    """
    stored = _embeddings(prediction)
    if not all(a <= n < b for a, n, b in zip(stored.start, index, stored.stop, strict=True)):
        return None
    cosines = _cosines_at(stored, vectors, index).flatten(0, 1)
    labels = prediction.segmentation.labels
    per_class = vectors.shape[1]
    names = {label.value: label.name for label in prototype_labels(labels, per_class)}
    value = int(prediction.segmentation.labelmap.array[index])
    own = [0, *(label.value for label in labels)].index(value)
    best = cosines.reshape(vectors.shape[:2]).amax(1)
    others = torch.cat([best[:own], best[own + 1 :]]).max()
    order = cosines.argsort(descending=True, stable=True)[:_SHOWN].tolist()
    probability = prediction.label_probability
    return Probe(
        value,
        next((label.name for label in labels if label.value == value), "background"),
        tuple((n + 1, names[n + 1], float(cosines[n])) for n in order),
        float(best[own] - others),
        None if probability is None else float(probability.array[index]),
        () if references is None else _nearest_labelled(stored, references, index, labels),
    )


def _nearest_labelled(
    stored: Embeddings, references: References, index: Index3, labels: tuple[Label, ...]
) -> tuple[LabelledVoxel, ...]:
    """The nearest of all labelled voxels, nearest first."""
    cosines = _cosines_at(stored, references.vectors[None], index)[0]
    values = [BACKGROUND, *(label.value for label in labels)]
    names = ["background", *(label.name for label in labels)]
    found = []
    for n in cosines.argsort(descending=True, stable=True)[:_SHOWN].tolist():
        c, (k, j, i) = int(references.classes[n]), references.index[n].tolist()
        case = references.cases[int(references.case[n])]
        found.append(LabelledVoxel(values[c], names[c], case, (k, j, i), float(cosines[n])))
    return tuple(found)


def scatter(prediction: Prediction, vectors: torch.Tensor, points: int = 2000, seed: int = 0) -> Scatter:
    """Directions of the embeddings of some voxels, half of them foreground where there is, on two principal axes.

    Parameters
    ----------
    prediction : Prediction
        With embeddings.
    vectors : (classes, per_class, filters) tensor
        Of the model.
    points, seed : int
        How many working voxels at most, and from which random numbers.

    Raises
    ------
    ValueError
        If the prediction holds no embeddings.
    """
    stored = _embeddings(prediction)
    filters = stored.values.shape[0]
    directions = _unit(vectors.detach().float().cpu().reshape(-1, filters))
    voxels = stored.values.reshape(filters, -1)
    crop = tuple(slice(a, b) for a, b in zip(stored.start, stored.stop, strict=True))
    labels = prediction.segmentation.labels
    class_of = np.zeros(256, dtype=np.uint8)
    class_of[[label.value for label in labels]] = range(1, len(labels) + 1)
    classes = stored.grid.forward_labels(class_of[prediction.segmentation.labelmap.array[crop]], len(vectors)).flatten()
    foreground = classes.numpy() > 0
    rng = np.random.default_rng(seed)
    inside, outside = (rng.permutation(np.flatnonzero(part)) for part in (foreground, ~foreground))
    taken = min(len(inside), max(points // 2, points - len(outside)))
    chosen = np.sort(np.concatenate([inside[:taken], outside[: points - taken]]))
    sample = _unit(voxels[:, torch.from_numpy(chosen)].float().T)
    centre = sample.mean(0)
    _, spread, axes = torch.linalg.svd(sample - centre, full_matrices=False)
    share = spread.square() / spread.square().sum().clamp(min=1e-12)
    axes = axes[:2] * torch.sign(axes[:2].sum(1, keepdim=True) + 1e-9)  # the sign of an axis is arbitrary: fix it
    x, y = ((sample - centre) @ axes.T).T.numpy()
    cosine = sample @ directions.T
    of_class = torch.arange(len(directions)) // vectors.shape[1]
    own = classes[torch.from_numpy(chosen)].long()
    nearest = cosine.masked_fill(of_class != own[:, None], -2.0).argmax(1)
    at = (directions - centre) @ axes.T
    return Scatter(
        x,
        y,
        (nearest + 1).numpy().astype(np.uint8),
        (float(share[0]), float(share[1]) if len(share) > 1 else 0.0),
        tuple((n + 1, float(a), float(b)) for n, (a, b) in enumerate(at.tolist())),
    )


def uncertain_regions(prediction: Prediction, count: int = 10) -> tuple[UncertainRegion, ...]:
    """Where a look, or a stroke, is worth most, best first, at least 15 mm apart.

    If probabilities were true, the sum of 1 - p around a place were the volume that is wrong there: what a stroke,
    which reaches about as far as the Gaussian of 6 mm that it is summed under, can put right. (Under 3 mm it finds
    small spots of great doubt; on held-back atria less was wrong around those than around any uncertain voxel.)

    Raises
    ------
    ValueError
        If the prediction holds no label probabilities.
    """
    if prediction.label_probability is None:
        raise ValueError(
            "the prediction holds no probabilities of its labels; predict with want=('label_probability',)"
        )
    geometry = prediction.label_probability.geometry
    certain = np.asarray(prediction.label_probability.array, dtype=np.float16)
    unsure = (certain > 0) & (certain < 1 - _UNSURE)
    window = bounding_box(unsure)
    if window is None:
        return ()
    spacing = np.array(geometry.spacing_mm or (1.0, 1.0, 1.0))
    doubt = np.where(certain[window] > 0, 1 - certain[window].astype(np.float32), 0)
    level = ndimage.gaussian_filter(doubt, _BLUR_MM / spacing, mode="constant")
    unsure = unsure[window]
    start = np.array([s.start for s in window])
    labels = {label.value: label.name for label in prediction.segmentation.labels}
    places: list[UncertainRegion] = []
    free = level * unsure
    while len(places) < count:
        middle = np.array(np.unravel_index(int(free.argmax()), free.shape))
        if free[tuple(middle)] <= 0:
            break
        near = _ball(middle, _AROUND_MM / spacing, free.shape)
        ball = near[1] & unsure[near[0]]
        ml = None if geometry.voxel_ml is None else int(np.count_nonzero(ball)) * geometry.voxel_ml
        k, j, i = (int(v) for v in middle + start)
        around = prediction.segmentation.labelmap.array[window][near[0]][near[1]]
        name = next((labels[v] for v in np.unique(around).tolist() if v in labels), "")
        size = "" if ml is None else f"{ml:.1f} mL "
        where = f"at the edge of {name}" if name else "that no structure took"
        words = f"{size}uncertain {where} (probability {certain[k, j, i]:.0%} here)"
        places.append(
            UncertainRegion(
                (k, j, i), _position(prediction.label_probability, (k, j, i)), float(level[tuple(middle)]), ml, words
            )
        )
        far = _ball(middle, _APART_MM / spacing, free.shape)
        free[far[0]] *= ~far[1]
    return tuple(places)


def _embeddings(prediction: Prediction) -> Embeddings:
    if prediction.embeddings is None:
        raise ValueError("the prediction holds no embeddings; predict with want=('embeddings',)")
    return prediction.embeddings


def _class_value(prototype: int, labels: tuple[Label, ...], per_class: int) -> int:
    number = (prototype - 1) // per_class
    return labels[number - 1].value if number else BACKGROUND


def _absent(label: Label, labels: tuple[Label, ...], per_class: int, voxel_ml: float | None) -> PrototypeFigures:
    zero = None if voxel_ml is None else 0.0
    return PrototypeFigures(
        label.value, label.name, label.colour, _class_value(label.value, labels, per_class), 0, zero
    )


def _typical(own: npt.NDArray[np.bool_], similarity: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The most similar voxel; of equal ones the one with most of its prototype around it."""
    cosine = np.where(own, similarity, -2)
    equal = np.argwhere(cosine >= cosine.max() - 1e-3)
    if len(equal) == 1:
        return np.asarray(equal[0])
    depth = ndimage.uniform_filter(own.astype(np.float32), 5, mode="constant")
    return np.asarray(equal[int(depth[tuple(equal.T)].argmax())])


def _position(scan: Volume, index: Index3) -> tuple[float, float, float] | None:
    if not scan.geometry.spacing_known:
        return None
    x, y, z = (float(v) for v in (scan.geometry.affine @ [*index, 1.0])[:3])
    return x, y, z


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _cosines_at(stored: Embeddings, vectors: torch.Tensor, index: Index3) -> torch.Tensor:
    """(classes, per_class) cosines at one voxel of the source, interpolated between eight working voxels."""
    grid = stored.grid
    corners, weights = [torch.zeros(1, 0, dtype=torch.long)], [torch.ones(1)]
    for axis, (source_axis, size) in enumerate(zip(grid.axes, grid.size, strict=True)):
        length = grid.source_shape[source_axis]
        at = index[source_axis] - stored.start[source_axis]
        if axis in grid.flips:
            at = length - 1 - at
        position = min(max((at + 0.5) * size / length - 0.5, 0.0), size - 1.0)
        low = int(position)
        share = position - low
        ends = [(low, 1 - share), (min(low + 1, size - 1), share)]
        corners = [torch.cat([c, torch.full((1, 1), n)], 1) for c in corners for n, _ in ends]
        weights = [w * s for w in weights for _, s in ends]
    k, j, i = torch.cat(corners).T
    embedding = stored.values[:, k, j, i].float()  # (filters, 8)
    prototypes = Prototypes(*vectors.shape)
    prototypes.vectors.copy_(vectors.detach().cpu())
    cosines = prototypes.similarity(embedding[None, :, :, None, None])[0, :, :, :, 0, 0]
    return cosines @ torch.cat(weights)


def _ball(
    middle: npt.NDArray[np.int64], radius: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], npt.NDArray[np.bool_]]:
    """A window around a voxel, and which of its voxels lie in the ball."""
    low = np.maximum(np.ceil(middle - radius), 0).astype(int)
    high = np.minimum(np.floor(middle + radius) + 1, shape).astype(int)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    inside = sum(((axis - m) / max(r, 1e-6)) ** 2 for axis, m, r in zip(axes, middle, radius, strict=True)) <= 1
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), np.asarray(inside)
