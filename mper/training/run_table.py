"""Runs side by side: what each was trained on, how, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mper.training.publish import published_version
from mper.training.runs import RunFolder, read_events
from mper.utils.files import read_json


@dataclass(frozen=True)
class RunSummary:
    """A run in a table.

    Parameters
    ----------
    run : str
        Name of its folder.
    state : str
        As in `RunFolder.state`; ``damaged`` where a file of it is.
    dataset, split : str
    labelled : int or None
        Of the cases it is trained on, so many keep their labels; None: all.
    method : str
        With recipe and switched-off changes: ``mper plus no-cutmix``.
    seed : int
    steps, seconds : int or float or None
        How far it is, and how long it was trained.
    dice : float or None
        Mean on the cases of `measured_on`; None where it was not measured.
    measured_on : str or None
        ``hold-out`` (its curve's last point), or ``benchmark`` (the evaluated cases of one).
    model : str or None
        ``name/version`` where it was published.
    started : str or None
        UTC, ISO 8601.
    """

    run: str
    state: str
    dataset: str = ""
    split: str = ""
    labelled: int | None = None
    method: str = ""
    seed: int = 0
    steps: int | None = None
    seconds: float | None = None
    dice: float | None = None
    measured_on: str | None = None
    model: str | None = None
    started: str | None = None


def find_runs(path: Path) -> list[Path]:
    """The run folders at `path`: itself, or those of a dataset or benchmark, oldest first.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if (path / "config.json").is_file():
        return [path]
    folders = sorted(config.parent for config in (path / "runs").glob("*/config.json"))
    found = [folder for folder in folders if not folder.name.startswith(".")]
    if not found:
        what = "is a file" if path.is_file() else "holds no training run" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; give a dataset, the folder of a benchmark, or a run")
    return found


def summarise(run: Path) -> RunSummary:
    """One run; a damaged one says so."""
    folder = RunFolder(run)
    try:
        config, status = folder.config(), folder.status()
        version = published_version(run)
        dice, measured_on = _dice(run)
        elapsed = status.get("elapsed_s")
        return RunSummary(
            run=run.name,
            state=folder.state(),
            dataset=Path(config["dataset"]).name,
            split="+".join((config["split"], *config.get("also", ()))),
            labelled=config["labeled"],
            method=_method(config),
            seed=config["seed"],
            steps=status.get("step"),
            seconds=None if elapsed is None else float(elapsed),
            dice=dice,
            measured_on=measured_on,
            model=None if version is None else f"{config['name']}/{version}",
            started=status.get("started"),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return RunSummary(run.name, "damaged")


def _method(config: Mapping[str, Any]) -> str:
    words = [config["method"], config["recipe"], *(f"no-{name.replace('_', '-')}" for name in config["without"])]
    if config.get("prototypes"):
        words.append(f"k={config['prototypes']}")
    words += [
        word for word, on in (("co-train", config.get("co_train")), ("fine-tuned", config.get("start_from"))) if on
    ]
    return " ".join(map(str, words))


def _dice(run: Path) -> tuple[float | None, str | None]:
    if (run / "result.json").is_file():
        return float(read_json(run / "result.json")["mean"]["dice"]), "benchmark"
    points = [event["dice"] for event in read_events(run) if event["event"] == "holdout"]
    return (sum(points[-1].values()) / len(points[-1]), "hold-out") if points else (None, None)
