"""Embeddings of a scan on two axes, for a scatter plot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mper.inference.prediction import Prediction, required_embeddings


@dataclass(frozen=True, eq=False)
class EmbeddingScatter:
    """Embeddings of some voxels on their two principal axes.

    Parameters
    ----------
    x, y : (points,) float arrays
    value : (points,) uint8 array
        The prototype of each voxel, as in the prototype map.
    index : (points, 3) int array
        The voxel (k, j, i) of the scan that is nearest to each.
    explained : (float, float)
        Share of the variance along each axis.
    prototypes : tuple of (int, float, float)
        Value, x and y of the prototypes themselves.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    value: npt.NDArray[np.uint8]
    index: npt.NDArray[np.int64]
    explained: tuple[float, float]
    prototypes: tuple[tuple[int, float, float], ...]


def scatter(prediction: Prediction, vectors: torch.Tensor, points: int = 2000, seed: int = 0) -> EmbeddingScatter:
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
    stored = required_embeddings(prediction)
    filters = stored.values.shape[0]
    directions = _normalised(vectors.detach().float().cpu().reshape(-1, filters))
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
    sample = _normalised(voxels[:, torch.from_numpy(chosen)].float().T)
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
    geometry = prediction.segmentation.labelmap.geometry
    working = stored.grid.geometry(geometry.crop(stored.start, stored.stop))
    places = np.stack(np.unravel_index(chosen, stored.grid.size), axis=1)
    index = np.rint(geometry.to_index(working.to_world(places))).astype(np.int64)
    return EmbeddingScatter(
        x,
        y,
        (nearest + 1).numpy().astype(np.uint8),
        np.clip(index, 0, np.asarray(geometry.shape) - 1),
        (float(share[0]), float(share[1]) if len(share) > 1 else 0.0),
        tuple((n + 1, float(a), float(b)) for n, (a, b) in enumerate(at.tolist())),
    )


def _normalised(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)
