"""All training methods, one entry each, without importing torch.

To add a method, write its module in this package (a subclass of `mper.methods.base.Method`) and add its entry to
`METHODS`: planning, training, benchmarks, the command line, the engine and the Trainer panel find it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

from mper.nets.registry import BACKBONES, DEFAULT_BACKBONES, Backbone
from mper.utils.coded import Coded

if TYPE_CHECKING:
    from mper.methods.base import Method
    from mper.methods.recipe import Recipe
    from mper.nets.network import Network

Use = Literal["semi-supervised", "supervised", "benchmark"]


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without loading it.

    Parameters
    ----------
    name : str
        Its name on the command line, in the engine's requests and in run folders, which never changes.
    title : str
        A few words for forms.
    description : str
        One sentence for help texts.
    implementation : str
        ``module:class``, a subclass of `mper.methods.base.Method`.
    uses_unlabelled : bool
        Whether it learns from scans without labels too.
    default_backbones : mapping of int to str
        The kind of `mper.nets.registry.BACKBONES` that it trains by default, for volumes (3) and for slices (2). A
        method for volumes only has no entry for 2, and the other way round.
    class_queries : bool
        Whether it needs a backbone with class queries; all other methods need one without.
    pairs : bool
        Whether labelled patches are pasted into each other, which needs an even number of them per step.
    needs_every_class : bool
        Whether each structure must be shown by a labelled scan.
    co_training : bool
        Whether two networks can teach each other (`mper.methods.co_training`).
    learns_prototypes : bool
        Whether prototypes take part in its loss; with the others they only explain the result.
    loss_terms : tuple of str
        Terms of its loss that can be left out, for ablations.
    unused_changes : tuple of str
        Changes of `mper.methods.recipe.Recipe` that make no difference to it.
    step_time : float
        Mean time of a step relative to ``mper``, over a run of recipe plus with volumes (from steps on a processor).
    default_for : tuple of {"semi-supervised", "supervised", "benchmark"}
        Where it is taken if the user names no method: trainings with scans without labels, trainings without any,
        benchmarks.
    """

    name: str
    title: str
    description: str
    implementation: str
    uses_unlabelled: bool = True
    default_backbones: Mapping[int, str] = field(default_factory=lambda: DEFAULT_BACKBONES)
    class_queries: bool = False
    pairs: bool = False
    needs_every_class: bool = False
    co_training: bool = False
    learns_prototypes: bool = False
    loss_terms: tuple[str, ...] = ()
    unused_changes: tuple[str, ...] = ()
    step_time: float = 1.0
    default_for: tuple[Use, ...] = ()

    @property
    def dimensions(self) -> tuple[int, ...]:
        """2 for slices, 3 for volumes, of what it can segment."""
        return tuple(sorted(self.default_backbones))

    def takes(self, backbone: Backbone) -> bool:
        """Whether it can train that backbone."""
        return backbone.dimensions in self.dimensions and (backbone.queries > 0) == self.class_queries

    def load(self) -> type[Method]:
        """The class, which loads torch."""
        loaded: type[Method] = resolve_name(self.implementation)
        return loaded


_PROTOTYPE_CHANGES = ("all_prototypes", "early_prototypes", "label_prototypes")
_ENTRIES = (
    MethodInfo(
        "mper",
        "Semi-supervised: prototypes (MPER)",
        "Copy-paste self-training in which several prototypes per class shape the embedding and explain the result.",
        "mper.methods.mper:MPER",
        pairs=True,
        co_training=True,
        learns_prototypes=True,
        loss_terms=("prototype_classifier", "contrast"),
        default_for=("semi-supervised", "benchmark"),
    ),
    MethodInfo(
        "bcp",
        "Semi-supervised: copy-paste (BCP)",
        "Copy-paste self-training: a mean teacher labels unlabelled patches, which are pasted into labelled ones.",
        "mper.methods.bcp:BCP",
        pairs=True,
        co_training=True,
        step_time=0.95,
        unused_changes=_PROTOTYPE_CHANGES,
        default_for=("benchmark",),
    ),
    MethodInfo(
        "supervised",
        "Supervised: labelled scans only",
        "Trains on the labelled scans only.",
        "mper.methods.supervised:Supervised",
        uses_unlabelled=False,
        step_time=0.9,
        unused_changes=("anchored", "cutmix", "clean_teacher", "confident_only", *_PROTOTYPE_CHANGES),
        default_for=("supervised", "benchmark"),
    ),
    MethodInfo(
        "embedding-matching",
        "Semi-supervised: embedding matching",
        "A mean teacher labels unlabelled patches; uncertain voxels get the label of the nearest labelled voxel in the "
        "embedding.",
        "mper.methods.embedding_matching:EmbeddingMatching",
        needs_every_class=True,
        step_time=1.5,
        unused_changes=("anchored", "cutmix", "confident_only", *_PROTOTYPE_CHANGES),
    ),
    MethodInfo(
        "dk-uxnet",
        "Semi-supervised: two networks with class queries (DK-UXNet)",
        "Two networks with class queries teach each other; for volumes only.",
        "mper.methods.dk_uxnet:DKUXNet",
        default_backbones={3: "ux-net-small"},
        class_queries=True,
        learns_prototypes=True,
        step_time=4.0,
        unused_changes=(
            "anchored",
            "strong_augmentation",
            "clean_teacher",
            "clean_embedding",
            "all_prototypes",
            "label_prototypes",
        ),
    ),
)
AUTO = "auto"  # in place of a method: the one that did best where it was measured (`mper.training.choice`)
METHODS = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order in which they are listed to users."""


def find_method(name: str) -> MethodInfo:
    """The entry of a method.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    return METHODS[name]


def default_method(unlabelled: bool) -> str:
    """The method of a training for which the user names none, with scans without labels or without any."""
    use: Use = "semi-supervised" if unlabelled else "supervised"
    return next(entry.name for entry in METHODS.values() if use in entry.default_for)


def benchmark_methods() -> tuple[str, ...]:
    """The methods that a benchmark compares if the user names none."""
    return tuple(entry.name for entry in METHODS.values() if "benchmark" in entry.default_for)


def make_method(name: str, network: Network, recipe: Recipe, batch: int, keep_largest: bool = True) -> Method:
    """A method with the network that it trains.

    Parameters
    ----------
    name : str
    network : Network
    recipe : Recipe
    batch : int
        Labelled patches per step.
    keep_largest : bool
        Whether pseudo-labels keep only the largest component of each structure.

    Raises
    ------
    ValueError
        If there is no such method, or it cannot train that network with that batch.
    """
    return find_method(name).load()(network, recipe, batch, keep_largest)


def check_backbone(method: str, backbone: str) -> None:
    """Raise a ValueError where a method cannot train a backbone, given by its kind or by its name."""
    info = find_method(method)
    meant = [entry for entry in BACKBONES.values() if backbone in (entry.kind, entry.name)]
    if any(info.takes(entry) for entry in meant):
        return
    suitable = ", ".join(dict.fromkeys(entry.name for entry in BACKBONES.values() if info.takes(entry)))
    line = f"method {method} cannot train backbone {backbone}; choose, or start from, one of {suitable}"
    raise ValueError(Coded(line, "unfit-backbone", method=method, backbone=backbone, suitable=suitable))


def check_batch(method: str, batch: int) -> None:
    """Raise a ValueError where a method cannot use so many labelled patches per step."""
    if find_method(method).pairs and batch % 2:
        raise ValueError(f"method {method} pastes labelled patches into each other: an even --batch, got {batch}")
