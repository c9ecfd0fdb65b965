"""How long a step of a training takes on this computer, and how many steps a budget has time for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mper.methods.registry import METHODS, MethodInfo
from mper.training.runs import RunFolder
from mper.volume import Index3

if TYPE_CHECKING:
    from mper.training.planning import OnGrid

_STEP_S = {True: 0.1, False: 3.0}  # of method mper with the largest patch, on a graphics card or not
_MEASURED = 5  # steps of a run from which its time a step is known
_LOOKED_AT = 10  # scans that tell how large a patch is


@dataclass(frozen=True)
class StepTimes:
    """Times of the steps of trainings of a dataset.

    Parameters
    ----------
    dataset : Path
    gpu : bool
        Whether a graphics card is used.
    co_train : bool
        Whether two networks learn.
    scans : sequence of cases
        Those to train on.
    patch : (int, int, int) or None
        That of a training; None: by its scans.
    """

    dataset: Path
    gpu: bool
    co_train: bool
    scans: Sequence[OnGrid]
    patch: Index3 | None = None

    def measured_s(self, method: MethodInfo) -> float | None:
        """Seconds a step of the newest run with that method, else with any, on such a device; None if there is none."""
        of_others: list[float] = []
        for config in sorted((self.dataset / "runs").glob("*/config.json"), reverse=True):
            folder = RunFolder(config.parent)
            status = folder.status()
            known = METHODS.get(str(status.get("method")))
            if known is None or str(status.get("device", "")).startswith("CPU") == self.gpu:
                continue
            if status.get("step", 0) < _MEASURED or not status.get("elapsed_s") or _co_trains(folder) != self.co_train:
                continue
            step_s = float(status["elapsed_s"]) / int(status["step"])
            if known.name == method.name:
                return step_s
            of_others.append(step_s * method.step_time / known.step_time)
        return of_others[0] if of_others else None

    def guessed_s(self, method: MethodInfo) -> float:
        """Seconds a step where no run was measured; small patches are faster, but for a graphics card."""
        ratio = 1.0 if self.gpu else self._patch_ratio()
        return _STEP_S[self.gpu] * ratio * method.step_time * (2 if self.co_train else 1)

    def steps_in(self, seconds: float, method: MethodInfo) -> int:
        """How many steps a budget has time for, one at least."""
        return max(1, round(seconds / (self.measured_s(method) or self.guessed_s(method))))

    def _patch_ratio(self) -> float:
        from mper.training.planning import patch_ratio  # which loads torch

        try:
            return patch_ratio(self.scans[:_LOOKED_AT], self.patch)
        except (OSError, ValueError):  # a damaged case, which is reported where it is read
            return 1.0


def _co_trains(folder: RunFolder) -> bool:
    try:
        return bool(folder.config().get("co_train"))
    except ValueError:  # damaged
        return False
