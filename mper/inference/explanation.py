"""Why a voxel got its class: the prototypes, and the labelled voxels, behind a prediction.

All of it is read from a prediction that was made with ``want=("label_probability",
"prototypes", "embeddings")``; nothing is computed by the network again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mper.inference.prediction import Embeddings, Prediction, required_embeddings
from mper.labels import BACKGROUND, Label, prototype_labels
from mper.models.references import References
from mper.nets.prototypes import Prototypes
from mper.roi import bounding_box
from mper.volume import Index3, Volume

_SHOWN = 3  # prototypes that a probe names


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
    """A labelled voxel of a training case.

    Parameters
    ----------
    value, name : int, str
        Its label.
    case : str
        Id of the training case.
    index : (k, j, i)
        In the scan of that case.
    similarity : float
        Cosine to its embedding.
    """

    value: int
    name: str
    case: str
    index: Index3
    similarity: float


@dataclass(frozen=True)
class Probe:
    """The prototypes nearest to one voxel.

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
        The nearest three labelled voxels of the training cases, nearest first; of models that keep such voxels.
    """

    value: int
    name: str
    prototypes: tuple[tuple[int, str, float], ...]
    margin: float
    probability: float | None
    labelled: tuple[LabelledVoxel, ...] = ()


def prototype_figures(prediction: Prediction, scan: Volume, per_class: int) -> tuple[PrototypeFigures, ...]:
    """The figures of every prototype, those without a voxel included.

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
                scan.geometry.position_mm((k, j, i)),
            )
        )
    return tuple(rows)


def probe(
    prediction: Prediction, vectors: torch.Tensor, index: Index3, references: References | None = None
) -> Probe | None:
    """The prototypes and labelled voxels of the model nearest to the voxel at (k, j, i).

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
        None outside the segmented region. Cosines are interpolated as those of the prototype map are,
        so that both agree (save where the working grid is finer than the scan: the map averages there).

    Raises
    ------
    ValueError
        If the prediction holds no embeddings.
    """
    stored = required_embeddings(prediction)
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
