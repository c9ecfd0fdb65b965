"""The localisation of a model: a small network that is trained with it and travels in its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mper.nets.localization_net import LocalizationNet
from mper.volume import Spacing


@dataclass(frozen=True, eq=False)
class Localization:
    """A network that shows, at low resolution, where in a scan the structures of a model lie.

    Parameters
    ----------
    state : mapping of str to tensor
        Of `mper.nets.localization_net.LocalizationNet`.
    spacing_mm : (float, float, float)
        Of the grid that the network works on, along (k, j, i) of the patient's axes.
    margin_mm : (float, float, float)
        Added to what is found on every side, along the same axes.
    filters : int

    Raises
    ------
    ValueError
        If the state is not that of the network, or the sizes mean nothing.
    """

    state: Mapping[str, torch.Tensor]
    spacing_mm: Spacing = (5.0, 5.0, 5.0)
    margin_mm: Spacing = (25.0, 25.0, 25.0)
    filters: int = 12

    def __post_init__(self) -> None:
        sizes = (*self.spacing_mm, *self.margin_mm)
        if len(sizes) != 6 or not all(0 < size < 1000 for size in sizes) or not 1 <= self.filters <= 256:
            raise ValueError("the localisation of the model has no valid spacing, margin or size; the model is damaged")
        with torch.device("meta"):
            expected = LocalizationNet(self.filters).state_dict()
        if {n: v.shape for n, v in expected.items()} != {n: v.shape for n, v in self.state.items()}:
            raise ValueError("the weights of the localisation do not fit its network; the model is damaged")

    def build(self) -> LocalizationNet:
        """The network with its weights, in eval mode, on the CPU."""
        network = LocalizationNet(self.filters)
        network.load_state_dict(dict(self.state))
        return network.eval()

    def described(self) -> dict[str, Any]:
        """What a model's card says of it, and `of` takes back."""
        return {"spacing_mm": list(self.spacing_mm), "margin_mm": list(self.margin_mm), "filters": self.filters}

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], described: Mapping[str, Any]) -> Localization:
        """From stored weights and what the card says of them.

        Raises
        ------
        ValueError
            If they do not fit together.
        """
        try:
            k, j, i = (float(step) for step in described["spacing_mm"])
            above, behind, aside = (float(size) for size in described["margin_mm"])
            return cls(state, (k, j, i), (above, behind, aside), int(described["filters"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the model's card does not describe its localisation ({error!r})") from error
