"""The options of a cohort: those that its manifest records, and the command that goes on with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NOT_OPTIONS = (  # arguments that change no mask, or are recorded in another place
    *("paths", "run", "json", "device", "model", "overwrite", "workers", "plan", "share", "unlabelled", "background"),
    "with_parent",
    *("cluster", "cluster_config", "partition", "account", "time", "gpus", "memory", "cpus", "jobs", "detach"),
)


def recorded_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that change a mask or what is written with it, for JSON."""
    found = {name: value for name, value in vars(arguments).items() if name not in _NOT_OPTIONS}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in found.items()}


def command_options(arguments: argparse.Namespace, model: Path) -> list[str]:
    """The options of the command that goes on with a cohort, from any folder and on this computer.

    Parameters
    ----------
    arguments : Namespace
        Of ``mper segment``.
    model : Path
        The folder of the model.
    """
    words = [f"--model={model.resolve()}", f"--device={arguments.device}"]
    options = {
        **recorded_options(arguments),
        "workers": arguments.workers,
        "unlabelled": arguments.unlabelled,
    }
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value not in (None, False):
            text = ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
            words.append(f"{flag}={text}")
    return words
