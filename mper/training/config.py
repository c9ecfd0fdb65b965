"""The configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mper.methods.recipe import Recipe
from mper.methods.registry import METHODS, check_backbone, check_batch, default_method, find_method
from mper.nets.registry import find_backbones
from mper.training.planning import check_patch
from mper.training.runs import RunFolder

LOCALIZATION = ("auto", "always", "never")


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a training run; stored as config.json.

    Parameters
    ----------
    dataset : str
        Folder of a data set, or of its packed shards.
    method, recipe, without :
        See `mper.methods.registry` and `mper.methods.recipe.Recipe`.
    split : str
        Its cases are trained on, in their order.
    also : tuple of str
        More splits to learn from, of other scanners or sequences; each split is drawn from in proportion to the square
        root of its number of cases.
    cases : int or None
        Only the first so many cases of each split are used.
    labeled : int or None
        Only the first so many labelled cases of each split keep their labels; the rest counts as unlabelled.
    start_from : str or None
        Path of a bundle to fine-tune.
    steps, budget_s : int or float or None
        Length of the run; with neither, the published number of iterations. A budget is the time of
        training itself, without reading the scans.
    processor_time : bool
        Whether the budget counts processor time of this process, which other programs on the machine do not use up; of
        all threads together.
    device, seed : str, int
        Where to compute, and the seed of all random numbers.
    name : str or None
        Name of the model; published under it in the data set.
    batch : int or None
        Labelled patches a step; default the published number for `paper`, 2 (3-D) or 12 (2-D) for `plus`.
    network, patch, window :
        Override what `mper.training.planning.plan` chooses: the backbone, a name of `mper.nets.registry`;
        the patch in working voxels along (k, j, i).
    prototypes : int or None
        Prototypes a class (K); None: 3, or those of the model to start from.
    co_train : bool
        Whether two networks teach each other (`mper.methods.co_training`).
    flip_axes : tuple of int
        Array axes that `plus` mirrors at random.
    cross_scanner : bool
        Whether `plus` also augments what differs between scanners and sequences, see
        `mper.methods.recipe.Recipe.cross_scanner`.
    localization : {"auto", "always", "never"}
        Whether the model learns to locate its structures in a wide field of view: by itself where a labelled scan has
        one, also from crops that are placed into composed fields, or not at all.
    keep_largest : bool
        Whether each structure is one piece: pseudo-labels and predictions keep the largest component.
    calibrate_folds : bool
        Whether, where there is no hold-out to calibrate the model on, two more models are trained on half of the
        labels each, a quarter of the time each, and measured on the other half.
    compile : bool
        Whether to use torch.compile; on a CPU a step takes a tenth longer with it.
    """

    dataset: str
    method: str = field(default_factory=lambda: default_method(unlabelled=True))
    recipe: str = "plus"
    without: tuple[str, ...] = ()
    split: str = "train"
    also: tuple[str, ...] = ()
    cases: int | None = None
    labeled: int | None = None
    start_from: str | None = None
    steps: int | None = None
    budget_s: float | None = None
    processor_time: bool = False
    device: str = "auto"
    seed: int = 0
    name: str | None = None
    batch: int | None = None
    network: str | None = None
    patch: tuple[int, int, int] | None = None
    window: tuple[float, float] | None = None
    prototypes: int | None = None
    co_train: bool = False
    flip_axes: tuple[int, ...] = ()
    cross_scanner: bool = False
    localization: str = "auto"
    keep_largest: bool = True
    calibrate_folds: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.budget_s is not None:
            raise ValueError("a run takes a number of steps or a time budget, not both")
        for name in ("steps", "budget_s", "labeled", "cases", "prototypes", "batch"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above zero, got {value}")
        method = find_method(self.method)
        if self.network is not None:
            find_backbones(self.network)
            check_backbone(self.method, self.network)
        if self.batch is not None:
            check_batch(self.method, self.batch)
        if self.patch is not None:
            check_patch(self.patch)
        if self.co_train and not method.co_training:
            able = ", ".join(entry.name for entry in METHODS.values() if entry.co_training)
            raise ValueError(f"method {self.method} has no co-training; choose one of {able}, or leave it out")
        if self.cross_scanner and self.recipe != "plus":
            raise ValueError(f"recipe {self.recipe} has no augmentation across scanners; use --recipe plus")
        if self.localization not in LOCALIZATION:
            raise ValueError(f"localization is one of {', '.join(LOCALIZATION)}, got {self.localization!r}")
        if repeated := {name for name in self.splits if self.splits.count(name) > 1}:
            raise ValueError(f"split {sorted(repeated)[0]!r} is named twice; name each once")
        self.make_recipe()

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits that are learned from."""
        return (self.split, *self.also)

    def make_recipe(self) -> Recipe:
        """The recipe with all choices of this run.

        Raises
        ------
        ValueError
            See `mper.methods.recipe.Recipe.named`.
        """
        chosen = Recipe.named(self.recipe, self.without, self.method)
        return replace(chosen, cross_scanner=self.cross_scanner)

    @classmethod
    def read(cls, run: Path) -> TrainConfig:
        """The configuration of a run folder."""
        stored = RunFolder(run).config()
        names = {f.name for f in fields(cls)}
        unknown = sorted(set(stored) - names)
        if unknown:
            raise ValueError(f"{run / 'config.json'} holds {unknown[0]!r}, which this version of mper does not know")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**values)
