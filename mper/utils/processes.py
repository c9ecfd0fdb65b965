"""Work that stays behind what a person does at the same computer, and outlives whoever started it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mper

_NICE = 10
_BELOW_NORMAL = 0x4000  # BELOW_NORMAL_PRIORITY_CLASS of the Windows API


def lower_priority() -> None:
    """Let this process run below normal priority."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.SetPriorityClass(ctypes.c_void_p(kernel.GetCurrentProcess()), _BELOW_NORMAL)
    else:
        with contextlib.suppress(OSError):
            os.nice(max(0, _NICE - os.nice(0)))


def reserve_one_core() -> None:
    """Let torch use all cores but one, where there are more than two."""
    import torch

    if torch.get_num_threads() > 2:
        torch.set_num_threads(torch.get_num_threads() - 1)


def start_detached(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``mper WORDS`` with this interpreter as a process of its own.

    It belongs to no terminal, window or job of this process and stays when this one ends. What it prints is appended
    to `log`.
    """
    home = Path(mper.__file__).resolve().parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "MPER_TOKEN"}
    paths = [str(home), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "mper", *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=home,  # whatever folder this process stands in must not be held by that one
            env=environment,
            creationflags=flags,
            start_new_session=True,  # does nothing on Windows
        )
