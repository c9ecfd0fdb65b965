"""All backbones, one entry each, without importing torch.

To add a backbone, write its module in this package and add its entry to `BACKBONES`: planning, training, model cards,
the command line and the engine find it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Backbone:
    """One backbone for slices or for volumes.

    Parameters
    ----------
    kind : str
        Its name in `mper.nets.network.NetConfig` and in model cards, which never changes.
    title : str
        In words, for help texts and forms.
    dimensions : {2, 3}
        2 for slices, 3 for volumes.
    implementation : str
        ``module:class``. The class is called with input channels, classes, filters and dropout.
    arguments : mapping
        What it is called with besides, by name.
    name : str
        The name that users choose it by; a 2-D and a 3-D backbone may share it. Default: `kind`.
    filters : int
        Channels at full resolution in training.
    queries : int
        Class queries per class in training, for networks that read classes from queries: they are built with
        ``per_class`` and return `Output.clusters`. 0 for all others.
    smooth : bool
        Whether its embedding is smoothed (`NetConfig.smooth`).
    divisor : int
        Every spatial size must be a multiple of it.
    """

    kind: str
    title: str
    dimensions: int
    implementation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    filters: int = 16
    queries: int = 0
    smooth: bool = False
    divisor: int = 16

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    def build(self, classes: int, filters: int, dropout: tuple[float, float], prototypes: int) -> nn.Module:
        """A fresh backbone for images of one channel; `prototypes` are the queries per class, where it has any."""
        queries = {"per_class": prototypes} if self.queries else {}
        module: nn.Module = resolve_name(self.implementation)(1, classes, filters, dropout, **self.arguments, **queries)
        return module


_RESENC = "U-Net with a residual encoder and deep supervision, for volumes or slices; needs MONAI"
_ENTRIES = (
    Backbone("vnet", "V-Net, for volumes", 3, "mper.nets.vnet:VNet", smooth=True),
    Backbone("unet", "U-Net, for slices", 2, "mper.nets.unet:UNet"),
    Backbone("unet3d", "U-Net, for volumes", 3, "mper.nets.unet:UNet", {"dimensions": 3}),
    Backbone(
        "resenc",
        _RESENC,
        3,
        "mper.nets.resenc:ResEnc",
        {"dimensions": 3},
        smooth=True,
    ),
    Backbone(
        "resenc2d",
        _RESENC,
        2,
        "mper.nets.resenc:ResEnc",
        {"dimensions": 2},
        name="resenc",
    ),
    Backbone(
        "ux-net-small",
        "3-D UX-Net with class queries, small, for method dk-uxnet",
        3,
        "mper.nets.dk_ux_net:SmallDKUXNet",
        queries=8,
    ),
    Backbone(
        "ux-net",
        "3-D UX-Net with class queries, as published, for method dk-uxnet",
        3,
        "mper.nets.dk_ux_net:DKUXNet",
        filters=128,
        queries=64,
    ),
)
BACKBONES = {entry.kind: entry for entry in _ENTRIES}
"""By kind, in the order in which they are listed to users."""
DEFAULT_BACKBONES = {3: "vnet", 2: "unet"}
"""Kinds for volumes and for slices."""


def backbone_names() -> tuple[str, ...]:
    """The names that users choose from."""
    return tuple(dict.fromkeys(entry.name for entry in BACKBONES.values()))


def backbone_titles() -> dict[str, str]:
    """Title of each of these names."""
    return {entry.name: entry.title for entry in BACKBONES.values()}


def find_backbone(kind: str) -> Backbone:
    """The backbone of a kind.

    Raises
    ------
    ValueError
        If there is none.
    """
    if kind not in BACKBONES:
        raise ValueError(f"unknown network {kind!r}; known are {', '.join(BACKBONES)}")
    return BACKBONES[kind]


def find_backbones(name: str) -> dict[int, Backbone]:
    """The backbones of that name, by dimensions.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = {entry.dimensions: entry for entry in BACKBONES.values() if entry.name == name}
    if not found:
        raise ValueError(f"unknown backbone {name!r}; known are {', '.join(backbone_names())}")
    return found
