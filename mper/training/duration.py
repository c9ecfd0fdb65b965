"""How long a step of a training takes on this computer, and how many steps a budget has time for."""

from __future__ import annotations

from pathlib import Path

from mper.methods.registry import MethodInfo
from mper.training.runs import RunFolder

_STEP_S = {True: 0.1, False: 3.0}  # of method mper at 1 mm, on a graphics card or not
_MEASURED = 5  # steps of a run from which its time a step is known


def measured_step_s(dataset: Path, method: str, *, gpu: bool, co_train: bool = False) -> float | None:
    """Seconds a step of the newest run of a dataset with that method, on such a device; None if there is none."""
    for config in sorted((dataset / "runs").glob("*/config.json"), reverse=True):
        folder = RunFolder(config.parent)
        status = folder.status()
        if status.get("method") != method or str(status.get("device", "")).startswith("CPU") == gpu:
            continue
        if status.get("step", 0) >= _MEASURED and status.get("elapsed_s") and _co_trains(folder) == co_train:
            return float(status["elapsed_s"]) / int(status["step"])
    return None


def _co_trains(folder: RunFolder) -> bool:
    try:
        return bool(folder.config().get("co_train"))
    except ValueError:  # damaged
        return False


def guessed_step_s(method: MethodInfo, *, gpu: bool, co_train: bool = False) -> float:
    """Seconds a step where no run was measured."""
    return _STEP_S[gpu] * method.step_time * (2 if co_train else 1)


def expected_steps(dataset: Path, method: MethodInfo, seconds: float, *, gpu: bool, co_train: bool = False) -> int:
    """How many steps a budget of seconds has time for, one at least."""
    step_s = measured_step_s(dataset, method.name, gpu=gpu, co_train=co_train) or guessed_step_s(
        method, gpu=gpu, co_train=co_train
    )
    return max(1, round(seconds / step_s))
