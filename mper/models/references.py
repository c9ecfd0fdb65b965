"""Labelled voxels that explain a model: which voxel of which labelled case is nearest to one in a new scan.

They travel in the model's bundle (`mper.models.bundle`): their embeddings beside the weights, the names of their cases
in the card. Only methods that compare with labelled voxels leave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

_NAMES = ("vectors", "classes", "case", "index")


@dataclass(frozen=True, eq=False)
class References:
    """Voxels that people have labelled.

    Parameters
    ----------
    vectors : (n, filters) float tensor
        Embeddings of length 1.
    classes : (n,) integer tensor
        Class of the network; 0 is background.
    case : (n,) integer tensor
        Into `cases`.
    index : (n, 3) integer tensor
        The voxel (k, j, i) in that case's scan.
    cases : tuple of str
        Names of the labelled cases.

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """

    vectors: torch.Tensor
    classes: torch.Tensor
    case: torch.Tensor
    index: torch.Tensor
    cases: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.vectors)
        shapes = (self.vectors.dim(), self.classes.shape, self.case.shape, self.index.shape)
        if shapes != (2, (n,), (n,), (n, 3)):
            raise ValueError(f"the {n} labelled voxels of a model do not fit together; the model is damaged")
        if n and not 0 <= int(self.case.min()) <= int(self.case.max()) < len(self.cases):
            raise ValueError(f"labelled voxels name a case beyond the {len(self.cases)} known; the model is damaged")

    def __len__(self) -> int:
        return len(self.vectors)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `of` takes back, as it is stored."""
        return {
            "vectors": self.vectors.float().cpu(),
            "classes": self.classes.to(torch.uint8).cpu(),
            "case": self.case.to(torch.int32).cpu(),
            "index": self.index.to(torch.int32).cpu(),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], cases: Sequence[str]) -> References:
        """From stored tensors.

        Raises
        ------
        ValueError
            If one is missing or unknown, or they do not fit together.
        """
        if set(tensors) != set(_NAMES):
            raise ValueError(f"a model's labelled voxels have {', '.join(_NAMES)}, got {', '.join(sorted(tensors))}")
        found = {name: value if value.is_floating_point() else value.long() for name, value in tensors.items()}
        return cls(**found, cases=tuple(str(name) for name in cases))
