"""Augmentation on the device: geometry when a patch is cut, intensities for the student.

Parameters are drawn on the host from a numpy generator, so that the host never waits for the device; fields
of noise come from torch's generator, which the trainer seeds at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

_ROTATION_DEGREES = (20.0, 10.0, 10.0)  # largest, about the axes k, j, i
_SCALE = 1.25  # largest, in either direction
_STRETCH = 0.06  # standard deviation of the logarithm of each axis's own scale
_KNOTS = 7  # of a random contrast curve


def random_affine(rng: np.random.Generator, dimensions: int) -> np.ndarray:
    """A random rotation times a random scale: (3, 3) on (k, j, i); 2-D leaves k alone."""
    angles = np.radians([rng.uniform(-a, a) for a in _ROTATION_DEGREES])
    if dimensions == 2:
        angles = np.array([rng.uniform(-np.pi / 6, np.pi / 6), 0.0, 0.0])
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        rotation = rotation @ _turn_about(axis, angle)
    scales = _SCALE ** rng.uniform(-1, 1) * np.exp(rng.normal(0, _STRETCH, 3))
    if dimensions == 2:
        scales[0] = 1.0
    return np.asarray(rotation * scales)


def published_turn(rng: np.random.Generator, dimensions: int) -> np.ndarray:
    """The published augmentation: (3, 3) on (k, j, i).

    In 3-D a quarter turn in the plane and a flip of one of its axes, always; in 2-D that for half of the
    slices, a rotation by up to 20 degrees for a quarter, nothing for the rest.
    """
    if dimensions == 3 or rng.random() < 0.5:
        return _quarter_turn_and_flip(rng)
    return _turn_about(0, np.radians(rng.uniform(-20, 20)) if rng.random() < 0.5 else 0.0)


def _quarter_turn_and_flip(rng: np.random.Generator) -> np.ndarray:
    turns = int(rng.integers(4))
    matrix = np.eye(3)
    for _ in range(turns):
        matrix = matrix @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    flip = np.eye(3)
    axis = int(rng.integers(1, 3))
    flip[axis, axis] = -1
    return matrix @ flip


def _turn_about(axis: int, angle: float) -> np.ndarray:
    a, b = [n for n in range(3) if n != axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn


def random_flip(rng: np.random.Generator, axes: Sequence[int]) -> np.ndarray:
    """Each of the named array axes flipped with probability one half: (3, 3)."""
    return np.diag([-1.0 if axis in axes and rng.random() < 0.5 else 1.0 for axis in range(3)])


def intensities(image: torch.Tensor, rng: np.random.Generator, cross_scanner: bool = False) -> torch.Tensor:
    """Strong intensity augmentation of normalised images (B, 1, *S), each sample on its own.

    Smooth bias field, tone curve, contrast, brightness, blur, lower resolution and noise, each with its
    own probability: what differs between scanners, coils, contrast timing and protocols. With `cross_scanner` also
    other contrasts between tissues, and a lower resolution along one axis only: what differs between sequences.
    """
    return torch.stack([_augment_one(sample, rng, cross_scanner) for sample in image])


def _augment_one(image: torch.Tensor, rng: np.random.Generator, cross_scanner: bool) -> torch.Tensor:
    """(1, *S) -> (1, *S)."""
    spatial = image.shape[1:]
    low, high = image.amin(), image.amax()
    x = (image - low) / (high - low).clamp(min=1e-6)  # 0..1
    if rng.random() < 0.3:
        x = x * torch.exp(_smooth_field(spatial, x.device) * rng.uniform(0.1, 0.4))
    if rng.random() < 0.6:
        x = _tone_curve(x.clamp(1e-4, 1 - 1e-4), rng)
    if cross_scanner and rng.random() < 0.25:
        x = _other_contrast(x.clamp(0, 1), rng)
    x = x * (high - low) + low
    if rng.random() < 0.8:
        mean = x.mean()
        x = (x - mean) * rng.uniform(0.65, 1.5) + mean + rng.uniform(-0.4, 0.4)
    if rng.random() < 0.2:
        x = _blur(x, rng.uniform(0.4, 1.2))
    if rng.random() < 0.15:
        factor = rng.uniform(1.2, 2.2)
        coarse = F.interpolate(x[None], size=[max(1, round(n / factor)) for n in spatial], mode=_linear(spatial))
        x = F.interpolate(coarse, size=list(spatial), mode=_linear(spatial))[0]
    if cross_scanner and rng.random() < 0.25:
        x = _thick_slices(x, rng)
    if rng.random() < 0.5:
        x = x + _grain(spatial, x.device, rng) * float(np.exp(rng.uniform(np.log(0.03), np.log(0.8))))
    return x


def _grain(spatial: Sequence[int], device: torch.device, rng: np.random.Generator) -> torch.Tensor:
    """Noise of unit variance, (1, *S), with a grain of 1 to 2.5 voxels, as reconstruction and resampling leave it.

    A network that saw white noise only loses the atrium in a noisy scan.
    """
    size = [max(2, round(n / rng.uniform(1.0, 2.5))) for n in spatial]
    noise = F.interpolate(torch.randn((1, 1, *size), device=device), size=list(spatial), mode=_linear(spatial))[0]
    return noise / noise.std().clamp(min=1e-6)


def _tone_curve(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random rising curve on 0..1 that stretches the dark end, the bright end, or both.

    Blood, muscle and scar change places in brightness less than they change distance.
    """
    dark, bright = np.exp(rng.uniform(-0.8, 0.8, 2)).tolist()
    share = float(rng.random())
    return share * x**dark + (1 - share) * (1 - (1 - x) ** bright)


def _other_contrast(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Grey levels 0..1 mapped by a random curve that need not rise, so that tissues change their order."""
    knots = torch.as_tensor(rng.random(_KNOTS), dtype=x.dtype, device=x.device)
    if rng.random() < 0.5:
        knots = knots.sort().values
    at = x * (_KNOTS - 1)
    below = at.floor().clamp(0, _KNOTS - 2)
    first = below.long()
    return knots[first] + (at - below) * (knots[first + 1] - knots[first])


def _thick_slices(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A lower resolution along one axis of (1, *S)."""
    spatial = list(x.shape[1:])
    axis = int(rng.integers(len(spatial)))
    coarse = list(spatial)
    coarse[axis] = max(2, round(spatial[axis] / rng.uniform(1.5, 5)))
    return F.interpolate(
        F.interpolate(x[None], size=coarse, mode=_linear(spatial)), size=spatial, mode=_linear(spatial)
    )[0]


def _smooth_field(spatial: Sequence[int], device: torch.device) -> torch.Tensor:
    coarse = torch.randn((1, 1, *[4] * len(spatial)), device=device)
    return F.interpolate(coarse, size=list(spatial), mode=_linear(spatial), align_corners=True)[0]


def _linear(spatial: Sequence[int]) -> str:
    return "trilinear" if len(spatial) == 3 else "bilinear"


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (1, *S), one axis after the other."""
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma) ** 2).to(image.dtype)
    weights = weights / weights.sum()
    dimensions = image.dim() - 1
    convolve = F.conv3d if dimensions == 3 else F.conv2d
    x = image[None]
    for axis in range(dimensions):
        shape, padding = [1] * dimensions, [0] * dimensions
        shape[axis], padding[axis] = 2 * reach + 1, reach
        edges = [n for a in reversed(range(dimensions)) for n in ([reach, reach] if a == axis else [0, 0])]
        x = convolve(F.pad(x, edges, mode="replicate"), weights.reshape(1, 1, *shape))
    return x[0]
