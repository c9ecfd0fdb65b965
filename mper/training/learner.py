"""A method that learns: its steps, with the optimiser, on the devices of a run.

Every random choice of step i comes from (seed, rank, i), so that a resumed run repeats an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mper.dataloading.patch_sampler import PatchSampler
from mper.methods.base import Losses, Method
from mper.methods.recipe import Recipe
from mper.nets.network import Network
from mper.training.setup import make_optimiser

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_WARM_UP_STEPS = 30
_MAX_NORM = 12.0  # of the gradient
_CASE_STREAM, _FIT_STREAM = 0, 1  # random streams of a step


START_SHARE = 0.35
"""Of the start model in the result of an adaptation, chosen on 2 labelled bSSFP scans and a start from LGE."""


@torch.no_grad()
def average_with_start(network: Network, start: Mapping[str, torch.Tensor]) -> None:
    """Take the weights a part of the way back to those that an adaptation began with.

    With a few labels of another sequence a network forgets shapes that none of these has; between the two weights it
    knows both (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

    Parameters
    ----------
    network : Network
        Its prototypes stay as they are.
    start : mapping of str to tensor
        The state of the same network before.
    """
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not name.startswith("prototypes."):
            value.lerp_(start[name].to(value), START_SHARE)


class Learner:
    """A method with its optimiser.

    Parameters
    ----------
    method : Method
    recipe : Recipe
    fabric : Fabric
    seed : sequence of int
        Of all random numbers.
    tuned : bool
        Whether what the network knows already is improved, not learned anew.
    start : mapping of str to tensor, or None
        Weights of a model that is adapted, with which the result is averaged.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        fabric: Fabric,
        seed: Sequence[int],
        tuned: bool,
        start: Mapping[str, torch.Tensor] | None = None,
    ):
        self.method, self.recipe, self.fabric, self._start = method, recipe, fabric, start
        self._seed = (*seed, fabric.global_rank)
        method.to(fabric.device).to(memory_format=method.student.memory_format())  # type: ignore[call-overload]
        self.optimiser = make_optimiser(method, recipe, fabric.device, tuned)
        self._first_rate = self.optimiser.param_groups[0]["lr"]
        self._wrapped: Callable[..., Any] | None = None
        self._stepper: Any = self.optimiser

    def begin(self, compiled: bool = False) -> None:
        """Put method and optimiser, as restored from a checkpoint, on the devices."""
        if compiled:
            for network in self.method.modules():
                if isinstance(network, Network) and any(p.requires_grad for p in network.parameters()):
                    network.compile()
        self._wrapped, self._stepper = self.fabric.setup(self.method, self.optimiser)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def step(self, number: int, t: float, sampler: PatchSampler) -> Losses:
        """Learn from one batch.

        Parameters
        ----------
        number : int
            Of the step, from 0.
        t : float
            Share of the run that is done, in [0, 1).
        sampler : PatchSampler
        """
        assert self._wrapped is not None, "begin() comes first"
        rng = self._random(number, _CASE_STREAM)
        with self.fabric.autocast():
            self.method.prepare(t, sampler, rng)
        batch = sampler.batch(*self.method.patch_counts(t), rng)
        warm = min(1.0, (number + 1) / _WARM_UP_STEPS) if self.recipe.poly_rate else 1.0
        for group in self._stepper.param_groups:
            group["lr"] = self._first_rate * self.method.rate_factor(t) * warm
        losses: Losses = self._wrapped(batch, t)
        self._stepper.zero_grad()
        self.fabric.backward(losses.total)
        if self.recipe.adamw:
            self.fabric.clip_gradients(self.method, self._stepper, max_norm=_MAX_NORM, error_if_nonfinite=False)
        self._stepper.step()
        self.method.after_step()
        return losses

    def finish(self, number: int, sampler: PatchSampler) -> None:
        """Make the method's result, after so many steps."""
        rng = self._random(number, _FIT_STREAM)
        if self._start is not None:
            average_with_start(self.method.result, self._start)
        with self.fabric.autocast():
            self.method.finish(sampler, rng)
            if self._start is not None and self.method.stage:  # the learned prototypes are of other embeddings
                self.method.fit_prototypes(self.method.result, sampler, rng)

    def _random(self, number: int, stream: int) -> np.random.Generator:
        """The random numbers of a step: numpy's are returned, torch's are seeded."""
        seeds = np.random.SeedSequence([*self._seed, number, stream])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        return np.random.default_rng(seeds)
