"""What a cluster is asked for: partition, account, time, GPUs, memory; by options or a file in TOML."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mper.utils.files import read_written

SLURM, LOCAL = "slurm", "local"


@dataclass(frozen=True)
class ClusterSettings:
    """What each job gets.

    Parameters
    ----------
    kind : str
        ``slurm``, or ``local``: processes on this computer, by the same code.
    partition, account, qos, constraint : str or None
        Of SLURM.
    time_s : float
        After this time a job saves and is queued again.
    gpus, cpus : int
        Of one node.
    memory_gb : float or None
    jobs : int
        Into how many jobs a cohort is divided, and how many jobs run at a time.
    grace_s : int
        So long before its end a job begins to save.
    setup : tuple of str
        Lines of a shell before the command, such as ``module load cuda``.
    sbatch : mapping of str to str
        More options of ``sbatch``.
    """

    kind: str = SLURM
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time_s: float = 4 * 3600.0
    gpus: int = 0
    cpus: int = 4
    memory_gb: float | None = None
    jobs: int = 8
    grace_s: int = 90
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in (SLURM, LOCAL):
            raise ValueError(f"a cluster is {SLURM} or {LOCAL}, got {self.kind!r}")
        for name, least in (("time_s", 60), ("cpus", 1), ("jobs", 1), ("gpus", 0), ("grace_s", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(
                    f"{name.removesuffix('_s')} of a job must be at least {least}, got {getattr(self, name)}"
                )
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError(f"memory of a job must be above zero, got {self.memory_gb} GB")

    @property
    def notice_s(self) -> int:
        """How long before its end a job is told: the grace, and of a short job a third of its time."""
        return min(self.grace_s, int(self.time_s / 3))

    def parameters(self, title: str) -> dict[str, Any]:
        """The parameters of submitit."""
        minutes = math.ceil(self.time_s / 60)
        common = {"timeout_min": minutes, "gpus_per_node": self.gpus, "signal_delay_s": self.notice_s}
        if self.kind == LOCAL:
            return {**common, **({"setup": list(self.setup)} if self.setup else {})}
        wanted = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "mem_gb": self.memory_gb,
            "slurm_setup": list(self.setup) or None,
            "slurm_additional_parameters": dict(self.sbatch) or None,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        common = {"timeout_min": minutes, "slurm_signal_delay_s": self.notice_s, "cpus_per_task": self.cpus}
        gpus = {"gpus_per_node": self.gpus} if self.gpus else {}
        return {**common, **gpus, **given, "name": title, "slurm_array_parallelism": self.jobs}


def read_settings(kind: str, path: Path | None, options: Mapping[str, Any]) -> ClusterSettings:
    """The settings of a file, over which the options go that are given.

    Raises
    ------
    ValueError
        If the file is no TOML, or one of its values is unknown or of another type.
    FileNotFoundError
        If it does not exist.
    """
    values: dict[str, Any] = {} if path is None else _from_file(path)
    values |= {name: value for name, value in options.items() if value is not None}
    return ClusterSettings(**{**values, "kind": kind})


def _from_file(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --cluster-config takes a file in TOML")
    text = read_written(path)
    try:
        entry = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML ({error}); correct it there") from error
    known = {each.name: each.name for each in fields(ClusterSettings) if each.name != "kind"}
    known |= {"time": "time_s", "memory": "memory_gb", "grace": "grace_s"}
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in known:
            raise ValueError(f"{path} has the setting {name!r}, which is unknown; known are {', '.join(sorted(known))}")
        values[known[name]] = _checked(path, name, value, known[name])
    return values


def _checked(path: Path, name: str, value: Any, wanted: str) -> Any:
    kinds: dict[str, tuple[type, ...]] = {"setup": (list,), "sbatch": (dict,)}
    kinds |= dict.fromkeys(("gpus", "cpus", "jobs", "grace_s"), (int,))
    kinds |= dict.fromkeys(("time_s", "memory_gb"), (int, float, str))
    if not isinstance(value, kinds.get(wanted, (str,))) or isinstance(value, bool):
        raise ValueError(f"{path}: {name} = {value!r} is of a wrong type; see `mper segment --help`")
    try:
        if wanted == "time_s" and isinstance(value, str):
            return seconds(value)
        if wanted == "memory_gb" and isinstance(value, str):
            return gigabytes(value)
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from error
    if isinstance(value, list):
        return tuple(map(str, value))
    return {str(key): str(each) for key, each in value.items()} if isinstance(value, dict) else value


def seconds(text: str) -> float:
    """A span of time: ``20m``, ``1h30m``, or as SLURM writes it, ``1-12:00:00`` or ``04:00:00``."""
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text.strip()):
        days, hours, minutes, rest = (int(each or 0) for each in match.groups())
        return float(86_400 * days + 3600 * hours + 60 * minutes + rest)
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower())
    total = (
        sum(int(n or 0) * unit for n, unit in zip(match.groups(), (86_400, 3600, 60, 1), strict=True)) if match else 0
    )
    if not total:
        raise ValueError(f"{text!r} is no time; write it as 30m, 4h, 1h30m or 1-12:00:00")
    return float(total)


def gigabytes(text: str) -> float:
    """An amount of memory: ``16``, ``16G``, ``500M``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:(m|g|t)b?)?", text.strip().lower())
    if not match or not float(match[1]):
        raise ValueError(f"{text!r} is no amount of memory; write it as 16G or 500M")
    return float(match[1]) * {"m": 1 / 1024, "g": 1.0, "t": 1024.0, None: 1.0}[match[2]]
