"""Training methods behind one small interface (`mper.methods.base`)."""

from __future__ import annotations

from mper.methods.base import Losses, Method
from mper.methods.bcp import BCP
from mper.methods.embedding_matching import EmbeddingMatching
from mper.methods.mper import MPER
from mper.methods.recipe import Recipe
from mper.methods.supervised import Supervised
from mper.nets import Network

NAMES = ("mper", "bcp", "supervised", "embedding-matching")


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
    raise ValueError(f"unknown method {name!r}; known are {', '.join(NAMES)}")


__all__ = ["BCP", "MPER", "NAMES", "Losses", "Method", "Recipe", "Supervised", "make_method"]
