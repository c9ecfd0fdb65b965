"""Training methods behind one small interface (`mper.methods.base`).

One file a method; all share the interface in `base`.
Imports: the root, `utils`, `dataloading`, `nets`, the voxel references of `models`, torch.
"""

from __future__ import annotations

from mper.methods.base import Losses, Method
from mper.methods.bcp import BCP
from mper.methods.dk_uxnet import DKUXNet
from mper.methods.embedding_matching import EmbeddingMatching
from mper.methods.mper import MPER
from mper.methods.recipe import Recipe
from mper.methods.supervised import Supervised
from mper.nets.network import Network

NAMES = ("mper", "bcp", "supervised", "embedding-matching", "dk-uxnet")
QUERY_BACKBONES = ("ux-net-small", "ux-net")
"""Backbones with queries, of which dk-uxnet takes the first one by itself; they serve no other method."""


def make_method(name: str, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True) -> Method:
    """The method of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name == "supervised":
        return Supervised(network, recipe, batch)
    if name == "bcp":
        return BCP(network, recipe, batch, keep_largest)
    if name == "mper":
        return MPER(network, recipe, batch, keep_largest)
    if name == "embedding-matching":
        return EmbeddingMatching(network, recipe, batch, keep_largest)
    if name == "dk-uxnet":
        return DKUXNet(network, recipe, batch)
    raise ValueError(f"unknown method {name!r}; known are {', '.join(NAMES)}")


def check_backbone(method: str, backbone: str) -> None:
    """Raise a ValueError where a backbone cannot serve a method."""
    queries = backbone in QUERY_BACKBONES
    if method == "dk-uxnet" and not queries:
        raise ValueError(
            f"method dk-uxnet segments volumes by queries, which {backbone} has not; "
            f"leave the backbone out, or take, or start from, one of {', '.join(QUERY_BACKBONES)}"
        )
    if method != "dk-uxnet" and queries:
        raise ValueError(
            f"backbone {backbone} is made for method dk-uxnet; {method} takes, or starts from, another one"
        )


def check_batch(method: str, batch: int) -> None:
    """Raise a ValueError where a method cannot share out so many labelled patches a step."""
    if method in ("mper", "bcp") and batch % 2:
        raise ValueError(f"method {method} pastes labelled patches into each other: an even --batch, got {batch}")


__all__ = [
    "BCP",
    "MPER",
    "NAMES",
    "QUERY_BACKBONES",
    "DKUXNet",
    "EmbeddingMatching",
    "Losses",
    "Method",
    "Recipe",
    "Supervised",
    "check_backbone",
    "check_batch",
    "make_method",
]
